// SPDX-License-Identifier: Apache-2.0
//! Policies and what they are made from: a policy is explained and written, and what was written is the same
//! policy; policies of other programs are imported; Rego code is looked through.
//!
//! The first byte says which; the rest is the file.
#![no_main]

use cvmm_policy::import::{Format, Options, import, product};
use cvmm_policy::Policy;
use cvmm_policy::rego::Rego;
use cvmm_policy::rego::input::{Facts, Stage, document};
use cvmm_snp::tcb::TcbParts;
use libfuzzer_sys::fuzz_target;

fn policy(text: &str) {
    let Ok(policy) = Policy::parse(text) else { return };
    assert!(policy.explain().len() > 5);
    let _ = (policy.warnings(), policy.unresolved(), policy.appraise_time(0));
    let Ok(written) = policy.to_toml() else { return };
    let again = Policy::parse(&written).unwrap_or_else(|error| panic!("{error}\n{written}"));
    assert_eq!(again, policy);
}

fn imported(format: Format, flags: u8, text: &str) {
    let name = ["milan", "genoa", "turin"].get(usize::from(flags & 3));
    let options = Options {
        id: "p".to_owned(),
        product: name.and_then(|name| product(name)),
        tcb: (flags & 4 != 0).then_some(TcbParts {
            fmc: (flags & 3 == 2).then_some(1),
            bootloader: 4,
            tee: 0,
            snp: 22,
            microcode: 213,
        }),
        equal_as_limit: flags & 8 != 0,
        any_measurement: flags & 16 != 0,
        leave_out: Vec::new(),
    };
    let Ok(imported) = import(format, text, &options) else { return };
    let written = imported.to_toml().expect("an imported policy is written");
    assert_eq!(Policy::parse(&written).unwrap_or_else(|error| panic!("{error}\n{written}")), imported.policy);
    // Nothing lowers the floor but what the command line says.
    assert!(imported.policy.warnings().len() <= usize::from(options.any_measurement));
}

fn rego(text: &str) {
    let Ok(rego) = Rego::load("x.rego", text) else { return };
    let known =
        Facts { stage: Stage::Launch, now: 0, policy: ("p", 1), launch: None, platform: None, report: None };
    let _ = rego.ask(&document(&known));
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    match kind & 3 {
        0 => policy(text),
        1 => imported(Format::GoSevGuest, kind >> 3, text),
        2 => imported(Format::AzureSkr, kind >> 3, text),
        _ => rego(text),
    }
});
