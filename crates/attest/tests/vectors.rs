// SPDX-License-Identifier: Apache-2.0
//! Reports of real chips and made ones: what is to be believed is, and nothing else.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // Tests.

mod common;

use std::collections::BTreeMap;

use common::{THEN, check, folder, trust, vectors};
use cvmm_attest::refusal::Refusal;
use cvmm_attest::verify::REPORT_LEN;

/// What a policy has to refuse is believed: that it is true is not in doubt. But for one whose flag and digest contradict each other.
fn is_policys(id: &str) -> bool {
    id.contains("/pol-") && !id.contains("authorkey")
}

#[test]
fn every_verdict_is_the_expected_one() {
    let Some(folder) = folder() else { return };
    let (amd, made) = (trust(&folder, false), trust(&folder, true));
    let mut wrong = Vec::new();
    let mut codes: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut believed, mut refused) = (0, 0);
    for vector in vectors(&folder) {
        let expected =
            vector.expected.starts_with("valid") || vector.expected == "allow" || is_policys(&vector.id);
        let trust = if vector.made { &made } else { &amd };
        let mut result = check(&vector, trust, THEN);
        if vector.expected.contains("expired at") {
            // Valid in its time, and refused for nothing but the time now.
            assert!(matches!(result, Err(Refusal::Expired { .. })), "{}: {result:?}", vector.id);
            result = (1..12)
                .map(|quarter| check(&vector, trust, THEN - quarter * 90 * 86_400))
                .find(Result::is_ok)
                .unwrap_or(result);
        }
        match &result {
            Ok(_) => believed += 1,
            Err(refusal) => {
                refused += 1;
                *codes.entry(refusal.code()).or_default() += 1;
            }
        }
        if result.is_ok() != expected {
            wrong.push(format!("{} ({}; {}): {:?}", vector.id, vector.expected, vector.why, result.err()));
        }
    }
    println!("{believed} believed, {refused} refused: {codes:?}");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn no_byte_of_a_report_can_be_changed() {
    let Some(folder) = folder() else { return };
    let amd = trust(&folder, false);
    let all = vectors(&folder);
    for id in ["gsg-milan-v2", "tav-milan", "tav-genoa", "oak-turin-oc"] {
        let vector = all.iter().find(|vector| vector.id == id).unwrap();
        check(vector, &amd, THEN).unwrap();
        let mut changed = common::Vector {
            id: id.to_owned(),
            expected: String::new(),
            why: String::new(),
            policy: serde_json::Value::Null,
            report: vector.report.clone(),
            vek: vector.vek.clone(),
            crl: None,
            made: false,
        };
        for at in 0..REPORT_LEN {
            for mask in [0x01, 0x80] {
                changed.report[at] ^= mask;
                assert!(check(&changed, &amd, THEN).is_err(), "{id}: byte {at:#x} with {mask:#x}");
                changed.report[at] ^= mask;
            }
        }
    }
}

#[test]
fn no_byte_of_a_certificate_can_be_changed() {
    let Some(folder) = folder() else { return };
    let amd = trust(&folder, false);
    let mut vector = vectors(&folder).into_iter().find(|vector| vector.id == "tav-milan").unwrap();
    let len = vector.vek.as_ref().unwrap().len();
    for at in 0..len {
        for mask in [0x01, 0x80] {
            vector.vek.as_mut().unwrap()[at] ^= mask;
            assert!(check(&vector, &amd, THEN).is_err(), "byte {at:#x} with {mask:#x}");
            vector.vek.as_mut().unwrap()[at] ^= mask;
        }
        let mut short = vector.vek.clone().unwrap();
        short.truncate(at);
        std::mem::swap(vector.vek.as_mut().unwrap(), &mut short);
        assert!(check(&vector, &amd, THEN).is_err(), "cut at {at:#x}");
        std::mem::swap(vector.vek.as_mut().unwrap(), &mut short);
    }
    check(&vector, &amd, THEN).unwrap();
}

#[test]
fn a_made_chain_is_not_amds() {
    let Some(folder) = folder() else { return };
    let amd = trust(&folder, false);
    for vector in vectors(&folder).iter().filter(|vector| vector.made) {
        assert!(check(vector, &amd, THEN).is_err(), "{}", vector.id);
    }
}
