// SPDX-License-Identifier: Apache-2.0
//! Imports policies of other programs.
//!
//! An imported policy has all requirements of the original, or the import is refused with the names of those
//! that cannot be expressed. Nothing is left out unless the command line names it, and then the result says
//! so. Where the gate is stricter by itself, a note says so.

mod azure;
mod go_sev_guest;
#[cfg(test)]
mod tests;
mod textproto;

use std::fmt::Write;

use cvmm_attest::claims::Product;
use cvmm_snp::tcb::TcbParts;
use thiserror::Error;

use crate::error::MAX_FILE;
use crate::guest::is_name;
use crate::policy::Policy;

/// The format of the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// check.Policy of go-sev-guest, as text.
    GoSevGuest,
    /// Key release policy of Azure Key Vault, version 1.0.0, JSON.
    AzureSkr,
}

/// What the original does not say, and what may be left out of it.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The policy's name.
    pub id: String,
    /// The processor, if the original does not name it.
    pub product: Option<Product>,
    /// The minimum TCB, if the original has none.
    pub tcb: Option<TcbParts>,
    /// Whether equality with a number becomes a limit.
    pub equal_as_limit: bool,
    /// Whether every guest is admitted if the original has no measurement.
    pub any_measurement: bool,
    /// Names of what is left out.
    pub leave_out: Vec<String>,
}

/// Something that is not imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The field or claim, by its name in the original.
    pub name: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Why a policy is not imported: everything that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", list(.0))]
pub struct ImportError(pub Vec<Refused>);

fn list(refused: &[Refused]) -> String {
    let line = |refused: &Refused| format!("{}: {}", refused.name, refused.problem);
    refused.iter().map(line).collect::<Vec<_>>().join("\n       ")
}

impl ImportError {
    fn one(name: impl Into<String>, problem: impl Into<String>) -> Self {
        Self(vec![Refused { name: name.into(), problem: problem.into() }])
    }
}

/// A policy that was imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The policy.
    pub policy: Policy,
    /// What its users should know.
    pub notes: Vec<String>,
}

impl Imported {
    /// As a file, the notes in front.
    pub fn to_toml(&self) -> Result<String, ImportError> {
        let mut text = String::from("# Imported by cvmm policy import. All keys: docs/guide/policy.md.\n");
        for note in &self.notes {
            // Writing to a String does not fail.
            let _ = writeln!(text, "# {}", cvmm_reason::printable::line(note));
        }
        let body = self.policy.to_toml().map_err(|error| ImportError::one("policy", error.to_string()))?;
        Ok(text + &body)
    }
}

/// Imports `text`.
pub fn import(format: Format, text: &str, options: &Options) -> Result<Imported, ImportError> {
    if text.len() > MAX_FILE {
        return Err(ImportError::one(
            "file",
            format!("has {} bytes, at most {MAX_FILE} are read", text.len()),
        ));
    }
    if !is_name(&options.id) {
        return Err(ImportError::one("--id", "is not 1 to 64 of A-Z a-z 0-9 . _ -"));
    }
    match format {
        Format::GoSevGuest => go_sev_guest::import(text, options),
        Format::AzureSkr => azure::import(text, options),
    }
}

/// An import in progress.
struct Draft<'a> {
    options: &'a Options,
    used: Vec<&'a str>,
    notes: Vec<String>,
    refused: Vec<Refused>,
}

impl<'a> Draft<'a> {
    fn new(options: &'a Options) -> Self {
        Self { options, used: Vec::new(), notes: Vec::new(), refused: Vec::new() }
    }

    fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    fn refuse(&mut self, name: impl Into<String>, problem: impl Into<String>) {
        self.refused.push(Refused { name: name.into(), problem: problem.into() });
    }

    /// Whether `name` is to be left out; then that is noted.
    fn left_out(&mut self, name: &str) -> bool {
        let Some(found) = self.options.leave_out.iter().find(|left| left.as_str() == name) else {
            return false;
        };
        if !self.used.contains(&found.as_str()) {
            self.used.push(found);
            self.note(format!("LEFT OUT by --leave-out: {name}"));
        }
        true
    }

    /// Something that a policy here cannot express.
    fn cannot(&mut self, name: &str, problem: &str) {
        if !self.left_out(name) {
            self.refuse(name, format!("{problem} (to leave it out: --leave-out {name})"));
        }
    }

    /// Equality with a number, where a policy here has a limit.
    fn limit(&mut self, name: &str, limit: &str) -> bool {
        if self.options.equal_as_limit {
            self.note(format!("{name}: equality became \"{limit}\" (--equal-as-limit)"));
            return true;
        }
        self.cannot(
            name,
            &format!("policies here have limits instead of equality; --equal-as-limit makes it \"{limit}\""),
        );
        false
    }

    /// A policy for these platforms that says nothing else, for `fill` to complete.
    fn finish(
        mut self,
        product: Option<Product>,
        tcb: Option<TcbParts>,
        fill: impl FnOnce(&mut Policy),
    ) -> Result<Imported, ImportError> {
        let Some(product) = product else {
            self.refuse("product", "is not named; add --product");
            return Err(ImportError(self.refused));
        };
        let Some(tcb) = tcb.or(self.options.tcb) else {
            self.refuse("tcb", "there is no minimum TCB; add --tcb");
            return Err(ImportError(self.refused));
        };
        if tcb.fmc.is_some() != (product == Product::Turin) {
            self.refuse("tcb", format!("does not fit a {product}"));
            return Err(ImportError(self.refused));
        }
        let fmc = tcb.fmc.map_or(String::new(), |fmc| format!("fmc = {fmc}\n"));
        let text = format!(
            "id = \"{}\"\nversion = 1\nunsafe_any_measurement = true\n[platform]\nproducts = [\"{product}\"]\n\
             [platform.min_tcb.{product}]\n{fmc}bootloader = {}\ntee = {}\nsnp = {}\nmicrocode = {}\n",
            self.options.id, tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode
        );
        let mut policy = match Policy::parse(&text) {
            Ok(policy) => policy,
            Err(error) => return Err(ImportError::one("policy", error.to_string())),
        };
        policy.unsafe_any_measurement = false;
        fill(&mut policy);
        if policy.guest.measurements.is_empty() {
            if self.options.any_measurement {
                policy.unsafe_any_measurement = true;
                self.note("unsafe_any_measurement: no measurement was given, so every guest is admitted");
            } else {
                self.refuse(
                    "measurement",
                    "is missing, so every guest would be admitted; add it, or --unsafe-any-measurement",
                );
            }
        }
        if !policy.guest.host_data.is_empty() {
            self.note("host_data: a gate gives each launch a HOST_DATA of its own; this policy is for guests launched without one");
        }
        self.note("crl: a fresh revocation list is required, as always unless crl = \"if-present\"");
        for left in &self.options.leave_out {
            if !self.used.contains(&left.as_str()) {
                let problem = "does not exist, or can be imported".to_owned();
                self.refused.push(Refused { name: left.clone(), problem });
            }
        }
        if self.refused.is_empty() {
            Ok(Imported { policy, notes: self.notes })
        } else {
            Err(ImportError(self.refused))
        }
    }
}

/// Bytes of exactly this length.
fn exact<const N: usize>(bytes: &[u8]) -> Result<[u8; N], String> {
    bytes.try_into().map_err(|_| format!("has {} bytes, not {N}", bytes.len()))
}

/// A product by its name.
#[must_use]
pub fn product(name: &str) -> Option<Product> {
    [Product::Milan, Product::Genoa, Product::Turin]
        .into_iter()
        .find(|product| product.to_string().eq_ignore_ascii_case(name))
}
