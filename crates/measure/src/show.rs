// SPDX-License-Identifier: Apache-2.0
//! A listing as text.

use std::fmt::{self, Display};

use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::features::SevFeatures;

use crate::listing::{FirmwareFacts, Import, Listing, VmsaRun};

/// Every page range in launch order with the digest after it, then the VMSAs field by field.
pub fn explain(listing: &Listing) -> impl Display + '_ {
    Explanation(listing)
}

struct Explanation<'a>(&'a Listing);

impl Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(listing) = self;
        let signature = u32::try_from(listing.vcpu_signature).unwrap_or(u32::MAX);
        writeln!(f, "launch digest   {}", listing.launch_digest)?;
        writeln!(f, "boot profile    {}", listing.profile)?;
        writeln!(f, "vcpus           {} of {}", listing.vcpus, CpuSignature(signature))?;
        writeln!(f, "guest features  {}", SevFeatures(listing.guest_features))?;
        if let Some(facts) = &listing.firmware {
            // The image is the first that is launched, or its beginning.
            let image = listing.imports.first().and_then(|import| import.source.as_ref());
            firmware(f, image.map(|source| source.name.as_str()), facts)?;
        }
        for (entry, hash) in &listing.kernel_hashes {
            writeln!(f, "{:<15} sha256 {hash}", format!("{entry} hash"))?;
        }
        writeln!(
            f,
            "\n{:<14} {:>6}  {:<10} {:<18} digest after it, and content",
            "gpa", "pages", "kind", "what"
        )?;
        listing.imports.iter().try_for_each(|import| row(f, import))?;
        for run in &listing.vmsas {
            let what = match run.count {
                1 => format!("vcpu {}", run.first),
                count => {
                    format!("vcpus {} to {}", run.first, run.first.saturating_add(count).saturating_sub(1))
                }
            };
            let gpa = cvmm_snp::page_info::VMSA_GPA;
            writeln!(f, "{gpa:#014x} {:>6}  {:<10} {what:<18} {}", run.count, "vmsa", run.running_digest)?;
        }
        let mut before: Option<&VmsaRun> = None;
        for run in &listing.vmsas {
            match before {
                None => writeln!(f, "\nvmsa of vcpu {}, fields that are not zero:", run.first)?,
                Some(_) => {
                    writeln!(f, "\nvmsa of vcpu {}, fields that differ from the one above:", run.first)?
                }
            }
            let mut fields: Vec<_> = run
                .fields
                .iter()
                .filter(|(name, value)| before.is_none_or(|before| before.fields.get(*name) != Some(value)))
                .collect();
            fields.sort_by_key(|(name, _)| run.offsets.get(*name));
            for (name, value) in fields {
                let offset = run.offsets.get(name).copied().unwrap_or_default();
                writeln!(f, "  {offset:#05x}  {name:<14} {value}")?;
            }
            before = Some(run);
        }
        Ok(())
    }
}

fn firmware(f: &mut fmt::Formatter<'_>, image: Option<&str>, facts: &FirmwareFacts) -> fmt::Result {
    match (image, &facts.sha256) {
        (Some(name), Some(sha256)) => {
            writeln!(f, "firmware        {name}, sha256 {sha256}")?;
            write!(f, "                starts at {:#x}", facts.reset_vector)?;
        }
        _ => write!(f, "firmware        starts at {:#x}", facts.reset_vector)?,
    }
    for (what, place) in [
        ("application processors at", &facts.ap_start),
        ("kernel-hash table at", &facts.kernel_hashes),
        ("igvm parameters at", &facts.igvm_parameters),
        ("igvm hobs at", &facts.igvm_hobs),
    ] {
        if let Some(place) = place {
            write!(f, ", {what} {place}")?;
        }
    }
    writeln!(f)
}

fn row(f: &mut fmt::Formatter<'_>, import: &Import) -> fmt::Result {
    let Import { gpa, pages, kind, tag, source, running_digest, .. } = import;
    write!(f, "{gpa:#014x} {pages:>6}  {kind:<10} {tag:<18} {running_digest}")?;
    match source {
        None => writeln!(f),
        Some(origin) => writeln!(f, "  {} bytes of {} from {:#x}", origin.len, origin.name, origin.offset),
    }
}
