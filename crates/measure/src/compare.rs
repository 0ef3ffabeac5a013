// SPDX-License-Identifier: Apache-2.0
//! What differs between two measured plans, in sentences.
//!
//! Causes come before effects: what a person changed (vCPUs, processor, memory, files of the hash table),
//! then the page ranges and pages that are different because of it, then the VMSA fields. Ranges are matched
//! by address. Names of files do not count as a difference; their content does.

use cvmm_reason::printable;

use crate::listing::{Contents, Import, Listing, VmsaRun};

/// Pages named one by one; more are counted.
const SHOWN: usize = 8;

/// The differences of `b` from `a`; empty if both give the same guest.
pub fn compare(a: &Listing, b: &Listing) -> Vec<String> {
    let mut out = Vec::new();
    let mut differ = |what: &str, a: String, b: String| {
        if a != b {
            out.push(format!("{what}: {a} in A, {b} in B"));
        }
    };
    differ("boot profile", a.profile.clone(), b.profile.clone());
    differ("number of vcpus", a.vcpus.to_string(), b.vcpus.to_string());
    let number = |value: u64| format!("{value:#x}");
    differ("processor signature", number(a.vcpu_signature), number(b.vcpu_signature));
    differ("guest features", number(a.guest_features), number(b.guest_features));
    if [&a.profile, &b.profile].iter().any(|profile| *profile == "uki") {
        // Only this profile has a measured memory map.
        for (what, index) in [("low memory", 0), ("high memory", 1)] {
            let mib = |listing: &Listing| format!("{} MiB", listing.memory.get(index).unwrap_or(&0) >> 20);
            differ(what, mib(a), mib(b));
        }
    }
    for (name, file) in [("kernel", "kernel"), ("initrd", "initrd"), ("cmdline", "command line")] {
        if let (Some(a), Some(b)) = (a.kernel_hashes.get(name), b.kernel_hashes.get(name)) {
            differ(&format!("{file} (entry of the kernel-hash table, sha256)"), a.clone(), b.clone());
        }
    }
    ranges(a, b, &mut out);
    vmsas(&a.vmsas, &b.vmsas, &mut out);
    if a.launch_digest != b.launch_digest {
        out.push(format!("launch digest: {} in A, {} in B", a.launch_digest, b.launch_digest));
    }
    // Most of this is strings out of saved plans: each difference is one line, whatever is in them.
    out.iter().map(|line| printable::line(line).into_owned()).collect()
}

fn ranges(a: &Listing, b: &Listing, out: &mut Vec<String>) {
    let find = |listing: &Listing, gpa| listing.imports.iter().position(|import| import.gpa == gpa);
    let mut pairs = Vec::new();
    for (at, import) in a.imports.iter().enumerate() {
        match find(b, import.gpa).and_then(|other| Some((other, b.imports.get(other)?))) {
            None => out.push(format!("{}: only in A", name(import))),
            Some((other, theirs)) => {
                pairs.push((other, name(theirs)));
                range(import, theirs, at == 0 && other == 0, out);
            }
        }
    }
    for import in b.imports.iter().filter(|import| find(a, import.gpa).is_none()) {
        out.push(format!("{}: only in B", name(import)));
    }
    let mut next = pairs.iter().zip(pairs.iter().skip(1));
    if let Some((_, (_, late))) = next.find(|((one, _), (next, _))| next < one) {
        out.push(format!("order: {late} comes later in A than in B"));
    }
}

/// Compares two ranges at the same address.
fn range(a: &Import, b: &Import, first: bool, out: &mut Vec<String>) {
    let place = name(a);
    if a.tag != b.tag {
        out.push(format!("{place}: {} in B", b.tag));
    }
    if a.pages != b.pages {
        out.push(format!("{place}: {} pages in A, {} in B", a.pages, b.pages));
    }
    if a.kind != b.kind {
        out.push(format!("{place}: kind {} in A, {} in B", a.kind, b.kind));
    }
    // Firmware that was not read has no digest of its own, but nothing comes before it.
    let same = match (&a.contents_digest, &b.contents_digest) {
        (None, None) if !first => true,
        (Some(a), Some(b)) => a == b,
        _ => a.running_digest == b.running_digest && a.pages == b.pages,
    };
    if same || a.kind != b.kind {
        return;
    }
    if a.contents.is_empty() || b.contents.is_empty() {
        out.push(format!("{place}: content differs (save both plans with --pages to see which pages)"));
        return;
    }
    let (count, first) = pages(&a.contents, &b.contents);
    let offset = a.source.as_ref().map_or(0, |origin| origin.offset);
    let mut list: Vec<String> = first
        .iter()
        .map(|page| {
            let at = page.saturating_mul(4096);
            let (gpa, offset) = (a.gpa.saturating_add(at), offset.saturating_add(at));
            format!("{gpa:#x} (offset {offset:#x})")
        })
        .collect();
    match count.saturating_sub(SHOWN as u64) {
        // A shorter range with the same beginning: the number of pages has been named.
        _ if count == 0 => return,
        0 => {}
        more => list.push(format!("and {more} more")),
    }
    out.push(format!("{place}: {count} of {} pages have other content: {}", a.pages, list.join(", ")));
}

/// How many pages that both have differ, and the numbers of the first of them.
fn pages(a: &[Contents], b: &[Contents]) -> (u64, Vec<u64>) {
    let (mut count, mut first) = (0_u64, Vec::new());
    let (mut a, mut b) = (a.iter().cloned(), b.iter().cloned());
    let (mut left, mut right) = (a.next(), b.next());
    let mut at = 0_u64;
    while let (Some(one), Some(other)) = (&mut left, &mut right) {
        // Runs may be cut differently on both sides: walk by the shorter one.
        let run = one.pages.min(other.pages);
        if one.sha384 != other.sha384 {
            count = count.saturating_add(run);
            first.extend((at..at.saturating_add(run)).take(SHOWN.saturating_sub(first.len())));
        }
        at = at.saturating_add(run);
        one.pages -= run;
        other.pages -= run;
        if one.pages == 0 {
            left = a.next();
        }
        if other.pages == 0 {
            right = b.next();
        }
    }
    (count, first)
}

/// The bootstrap processor with the other's, and the first application processor.
fn vmsas(a: &[VmsaRun], b: &[VmsaRun], out: &mut Vec<String>) {
    let of = |runs: &'_ [VmsaRun], vcpu: usize| {
        runs.iter().position(|run| run.first <= vcpu && vcpu - run.first < run.count)
    };
    for vcpu in [0, 1] {
        let (Some(a), Some(b)) = (of(a, vcpu).and_then(|at| a.get(at)), of(b, vcpu).and_then(|at| b.get(at)))
        else {
            continue;
        };
        let names: std::collections::BTreeSet<_> = a.fields.keys().chain(b.fields.keys()).collect();
        for name in names {
            let value = |run: &VmsaRun| run.fields.get(name).cloned().unwrap_or_else(|| "0x0".to_owned());
            if value(a) != value(b) {
                let who = if vcpu == 0 { "vmsa of vcpu 0" } else { "vmsa of vcpu 1 and up" };
                out.push(format!("{who}: field {name} is {} in A, {} in B", value(a), value(b)));
            }
        }
    }
}

fn name(import: &Import) -> String {
    format!("{} at {:#x}", import.tag, import.gpa)
}
