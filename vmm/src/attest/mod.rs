// SPDX-License-Identifier: Apache-2.0
//! `cvmm attest`: evidence verified without a gate: a report by itself, or all that a guest shows, in one file.
//!
//! The same verifier and the same policy engine as the gate's. What is not given is not judged: without a policy the answer is only
//! whether the report is believed, and a nonce is compared only if one is given.

mod bundle;
mod identity;
mod offline;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use cvmm_attest::claims::{Claims, Product, Requester, Revocation};
use cvmm_attest::encoding::{self, EncodingError};
use cvmm_attest::kds::{self, Download, Subject};
use cvmm_attest::policy::{CrlRule, Expected, Policy};
use cvmm_attest::refusal::Refusal;
use cvmm_attest::roots::Trust;
use cvmm_attest::table;
use cvmm_attest::verify::{CrlUse, Evidence, Options, Unverified, hint, product_of, read_unverified, verify};
use cvmm_reason::Reason;
use serde::Serialize;

pub use bundle::{LaunchParts, Parts, TpmParts, bundle};
pub use identity::Voucher;
pub use offline::{BundleDemands, BundleVerdict, TpmVerdict, judge_bundle};

use crate::exit_code::ExitStatus;
use crate::policy::{PolicyFileError, read, undecided};

const MAX_REPORT: u64 = 4096;
pub(crate) const MAX_CERTIFICATE: u64 = 64 << 10;
pub(crate) const MAX_CRL: u64 = 1 << 20;
/// Offset of the report in a message of the security processor (MSG_REPORT_RSP), which some tools save as it is.
const HEADER: usize = 0x20;
const REPORT: usize = 1184;

/// Files of evidence.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// The report.
    pub report: PathBuf,
    /// The signing key's certificate, DER or PEM.
    pub vek: Option<PathBuf>,
    /// The certificate table that came with the report.
    pub table: Option<PathBuf>,
    /// The revocation list, DER or PEM.
    pub crl: Option<PathBuf>,
}

/// What to decide by.
#[derive(Debug)]
pub struct Demands<'a> {
    /// Whose signatures count.
    pub trust: &'a Trust,
    /// In seconds of Unix time.
    pub now: i64,
    /// Whether there has to be a fresh revocation list. A policy can only demand more.
    pub require_crl: bool,
    /// Whether the chip may hide its identifier, unless a policy decides that.
    pub masked_chip: bool,
    /// What has to be in the report besides its signature.
    pub policy: Option<&'a Policy>,
    /// What REPORT_DATA has to be.
    pub report_data: Option<[u8; 64]>,
}

/// What a report says that nothing was there to verify by, and what to fetch for it.
#[derive(Clone, Debug, Serialize)]
pub struct UnverifiedReport {
    /// The products that it can be of; from version 3 there is one.
    pub products: Vec<Product>,
    /// What the report says, which anyone can have written. Read as the first product's.
    pub claims: Unverified,
    /// The certificate to fetch from AMD's key server, and the revocation list: of each product.
    pub downloads: Vec<Download>,
    /// Why there is no address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Whether the report is signed by a key that AMD certified for it.
    pub believed: bool,
    /// Whether it is believed and there is nothing against it.
    pub accepted: bool,
    /// Why not.
    pub reasons: Vec<Reason>,
    /// What a report that is believed says.
    pub claims: Option<Claims>,
    /// Instead of a verdict, where there was no certificate: neither believed nor refused.
    pub unverified: Option<UnverifiedReport>,
}

/// Judges a report.
pub fn judge(files: &Files, demands: &Demands<'_>) -> Result<Verdict, PolicyFileError> {
    let report = report_of(&files.report)?;
    let vek = match (&files.vek, &files.table) {
        (Some(path), _) => Some(vek_of(path, &report)?),
        (None, Some(path)) => from_table(path, &report)?,
        (None, None) => None,
    };
    let crl = files.crl.as_deref().map(list).transpose()?;
    let claims = match believe(&report, vek.as_deref(), crl.as_deref(), demands) {
        Ok(claims) => claims,
        Err(reason) => return Ok(Verdict::without(reason, &report)),
    };
    let Demands { now, policy, report_data, .. } = *demands;
    let mut reasons = Vec::new();
    let expected =
        Expected { report_data: report_data.as_ref(), host_data: None, measurement: None, id_key: None };
    if let Some(policy) = policy {
        reasons = policy.judge_time(now);
        reasons.extend(policy.judge_claims(&claims, &expected, now));
        reasons.extend(undecided(policy));
    } else {
        reasons.extend(compare_report_data(&claims, report_data.as_ref()));
    }
    Ok(Verdict::of(claims, reasons))
}

/// What a report says, if it is AMD's word.
fn believe(
    report: &[u8],
    vek: Option<&[u8]>,
    crl: Option<&[u8]>,
    demands: &Demands<'_>,
) -> Result<Claims, Reason> {
    let Demands { trust, now, require_crl, masked_chip, policy, .. } = *demands;
    let demanded = require_crl || policy.is_some_and(|policy| policy.crl == CrlRule::Require);
    let options = Options {
        now,
        crl: if demanded { CrlUse::Require } else { CrlUse::IfPresent },
        masked_chip: policy.map_or(masked_chip, |policy| policy.allow_masked_chip_id),
    };
    let evidence = Evidence { report, vek, intermediate: None, crl };
    verify(&evidence, trust, &options).map_err(|refusal| refusal.reason())
}

/// What is against REPORT_DATA where there is no policy to say so.
fn compare_report_data(claims: &Claims, wanted: Option<&[u8; 64]>) -> Option<Reason> {
    let same = wanted.is_none_or(|wanted| *wanted == claims.report_data);
    (!same).then(|| {
        Reason::new(
            "policy.report-data",
            "REPORT_DATA is not the given one: the report answers another question",
        )
    })
}

/// The report in a file, or in a whole message of the security processor.
fn report_of(path: &Path) -> Result<Vec<u8>, PolicyFileError> {
    let mut report = read(path, MAX_REPORT)?;
    if report.len() == HEADER + REPORT {
        report.drain(..HEADER);
    }
    if report.len() != REPORT {
        let len = report.len();
        let what =
            format!("it has {len} bytes, and a report has {REPORT}: is it text (base64, hexadecimal, JSON)?");
        return Err(unreadable(path, what));
    }
    Ok(report)
}

/// A file that cannot be read as what it is meant to be: no verdict follows from it.
fn unreadable(path: &Path, problem: impl std::fmt::Display) -> PolicyFileError {
    PolicyFileError::Other(format!("{}: {problem}", path.display()))
}

/// The certificates in a file, DER or PEM, of which one can be a signing key's.
pub(crate) fn vek_chain(path: &Path) -> Result<Vec<Vec<u8>>, PolicyFileError> {
    let bytes = read(path, MAX_CERTIFICATE)?;
    let all = encoding::certificates(&bytes).map_err(|problem| unreadable(path, problem))?;
    for der in &all {
        encoding::check_certificate(der).map_err(|problem| unreadable(path, problem))?;
    }
    if all.len() > 1 && !all.iter().any(|der| product_of(der).is_some()) {
        return Err(unreadable(path, EncodingError::NoKey(all.len())));
    }
    Ok(all.into_iter().map(Cow::into_owned).collect())
}

/// The certificate in a file that is the one of the key that signed `report`.
pub(crate) fn vek_of(path: &Path, report: &[u8]) -> Result<Vec<u8>, PolicyFileError> {
    let mut all = vek_chain(path)?;
    match hint(report) {
        Ok(hint) => encoding::pick(all, &hint).map_err(|problem| unreadable(path, problem)),
        // The report is refused before any certificate is looked at.
        Err(_) => Ok(all.swap_remove(0)),
    }
}

/// The only certificate in a file, DER or PEM.
pub(crate) fn certificate(path: &Path) -> Result<Vec<u8>, PolicyFileError> {
    let bytes = read(path, MAX_CERTIFICATE)?;
    let mut all = encoding::certificates(&bytes).map_err(|problem| unreadable(path, problem))?;
    match (all.pop(), all.len()) {
        (Some(der), 0) => Ok(der.into_owned()),
        (_, more) => Err(unreadable(path, format!("it has {} certificates, and one is needed", more + 1))),
    }
}

/// The revocation list in a file, DER or PEM.
pub(crate) fn list(path: &Path) -> Result<Vec<u8>, PolicyFileError> {
    let bytes = read(path, MAX_CRL)?;
    let list = encoding::revocation_list(&bytes).map_err(|problem| unreadable(path, problem))?;
    encoding::check_list(&list).map_err(|problem| unreadable(path, problem))?;
    Ok(list.into_owned())
}

/// The certificate in a table that the report's own kind of key wants; a report that cannot be read wants none.
pub(crate) fn from_table(path: &Path, report: &[u8]) -> Result<Option<Vec<u8>>, PolicyFileError> {
    let bytes = read(path, table::MAX_TABLE as u64)?;
    let Ok(hint) = hint(report) else { return Ok(None) };
    let vek = table::vek(&bytes, &hint).map_err(|error| unreadable(path, error))?;
    if let Some(der) = &vek {
        encoding::check_certificate(der).map_err(|problem| unreadable(path, problem))?;
    }
    Ok(vek.map(Cow::into_owned))
}

impl UnverifiedReport {
    /// What `report` says; a report without any product that it can be of says nothing.
    fn read(report: &[u8]) -> Option<Self> {
        let subjects = Subject::of(&hint(report).ok()?);
        let products: Vec<_> = subjects.iter().map(|subject| subject.product).collect();
        let claims = read_unverified(report, *products.first()?).ok()?;
        let (mut fetched, mut problem) = (Vec::new(), None);
        for subject in &subjects {
            match kds::downloads(subject) {
                // The authorities are built in.
                Ok(list) => fetched.extend(list.into_iter().filter(|download| download.what != "chain")),
                Err(error) => problem = Some(error.to_string()),
            }
        }
        Some(Self { products, claims, downloads: fetched, problem })
    }

    fn lines(&self) -> Vec<String> {
        let products: Vec<_> = self.products.iter().map(ToString::to_string).collect();
        let mut lines = vec!["what the report says of itself, which anyone can have written:".to_owned()];
        let mut claims = claim_lines(self.claims.display());
        // Which of two products it is, only the certificate tells.
        if let Some(row) = claims.iter_mut().find(|row| row.starts_with("signed by")) {
            *row = row.replacen(&products.first().cloned().unwrap_or_default(), &products.join(" or "), 1);
        }
        lines.extend(claims);
        lines.push("to verify it, fetch its certificate and the revocation list, and pass them with --vek and --crl:".to_owned());
        for Download { url, file, note, .. } in &self.downloads {
            lines.extend(note.map(|note| format!("  # {note}")));
            lines.push(format!("  curl --fail --output {file} '{url}'"));
        }
        lines.extend(self.problem.as_ref().map(|problem| format!("  {problem}")));
        lines
    }
}

impl Verdict {
    fn of(claims: Claims, reasons: Vec<Reason>) -> Self {
        Self { believed: true, accepted: reasons.is_empty(), reasons, claims: Some(claims), unverified: None }
    }

    /// Of a report that is not believed for this reason: because it is refused, or because nothing was there to verify it by.
    fn without(reason: Reason, report: &[u8]) -> Self {
        let unverified =
            if reason.code == Refusal::NoVek.code() { UnverifiedReport::read(report) } else { None };
        Self { believed: false, accepted: false, reasons: vec![reason], claims: None, unverified }
    }

    /// What a program ends with that gives this answer.
    #[must_use]
    pub fn exit_status(&self) -> ExitStatus {
        match self {
            Self { unverified: Some(_), .. } => ExitStatus::Unverified,
            Self { accepted: true, .. } => ExitStatus::Success,
            _ => ExitStatus::NotMet,
        }
    }
}

impl Verdict {
    /// For people.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = self.head();
        lines.extend(self.claims.as_ref().map(claim_lines).unwrap_or_default());
        lines.extend(self.unverified.as_ref().map(UnverifiedReport::lines).unwrap_or_default());
        lines
    }

    /// Verdict and reasons.
    fn head(&self) -> Vec<String> {
        let mut lines = vec![match (self.believed, self.accepted) {
            _ if self.unverified.is_some() => {
                "not verified: there is no certificate to verify it by".to_owned()
            }
            (false, _) => "not believed".to_owned(),
            (true, true) => "believed".to_owned(),
            (true, false) => "believed, and not accepted".to_owned(),
        }];
        lines.extend(self.reasons.iter().map(|reason| format!("  {reason}")));
        lines
    }
}

/// What a report says, for people.
fn claim_lines(claims: &Claims) -> Vec<String> {
    let mut lines = Vec::new();
    let optional = |bytes: Option<&[u8]>| bytes.map_or_else(|| "-".to_owned(), hex::encode);
    let mut row = |name: &str, value: String| lines.push(format!("{name:<19}{value}"));
    row("version", claims.report_version.to_string());
    let cloud = claims.csp_id.as_ref().map(|csp| format!(", of {csp}")).unwrap_or_default();
    row("signed by", format!("{} {:?}{cloud}", claims.product, claims.signing_key).to_lowercase());
    row(
        "asked for by",
        match claims.requester {
            Requester::Guest(vmpl) => format!("the guest, VMPL {vmpl}"),
            Requester::Host => "the host: it proves nothing to those who do not trust the host".to_owned(),
        },
    );
    row("guest policy", format!("{:#x}", claims.policy.0));
    row("guest SVN", claims.guest_svn.to_string());
    row("measurement", claims.measurement.to_string());
    row("report data", hex::encode(claims.report_data));
    row("host data", hex::encode(claims.host_data));
    row("ID key digest", claims.id_key_digest.to_string());
    row("author key digest", optional(claims.author_key_digest.as_ref().map(|digest| &digest.0[..])));
    row("family, image id", format!("{}, {}", hex::encode(claims.family_id), hex::encode(claims.image_id)));
    row("report id", hex::encode(claims.report_id));
    row("chip id", optional(claims.chip_id.as_ref().map(|chip| &chip[..])));
    row("platform info", format!("{:#x}", claims.platform_info));
    for (name, tcb) in [
        ("reported TCB", claims.reported_tcb),
        ("current TCB", claims.current_tcb),
        ("committed TCB", claims.committed_tcb),
        ("launch TCB", claims.launch_tcb),
    ] {
        row(name, tcb.to_string());
    }
    let firmware = claims.current_firmware;
    row("firmware", format!("{}.{}.{}", firmware.major, firmware.minor, firmware.build));
    for (name, vector) in
        [("launch mitigations", claims.launch_mit_vector), ("mitigations", claims.current_mit_vector)]
    {
        row(name, vector.map_or_else(|| "-".to_owned(), |vector| format!("{vector:#x}")));
    }
    row(
        "revocation list",
        match claims.revocation {
            Revocation::NoList => "none was given".to_owned(),
            Revocation::List { .. } => "nothing of the chain is in it".to_owned(),
        },
    );
    lines
}

#[cfg(test)]
mod tests;
