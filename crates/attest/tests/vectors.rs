// SPDX-License-Identifier: Apache-2.0
//! Reports of real chips and synthetic ones: verification gives the expected result for each.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::collections::BTreeMap;

use cvmm_attest::refusal::Refusal;
use cvmm_attest::verify::REPORT_LEN;
use cvmm_test_support::attest::NOW;
use cvmm_test_support::attest::vectors::{Vector, check, trust, vectors};
use cvmm_test_support::{artefacts, suite};

/// What a policy has to refuse is believed: that it is true is not in doubt. But for one whose flag and
/// digest contradict each other.
fn is_policys(id: &str) -> bool {
    id.contains("/pol-") && !id.contains("authorkey")
}

fn every_verdict_is_the_expected_one() -> suite::Result {
    let folder = artefacts::vectors()?;
    let (amd, made) = (trust(&folder, false), trust(&folder, true));
    let mut wrong = Vec::new();
    let mut codes: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut believed, mut refused) = (0, 0);
    for vector in vectors(&folder) {
        let expected =
            vector.expected.starts_with("valid") || vector.expected == "allow" || is_policys(&vector.id);
        let trust = if vector.synthetic { &made } else { &amd };
        let mut result = check(&vector, trust, NOW);
        if vector.expected.contains("expired at") {
            // Valid in its time, and refused for nothing but the time now.
            assert!(matches!(result, Err(Refusal::Expired { .. })), "{}: {result:?}", vector.id);
            result = (1..12)
                .map(|quarter| check(&vector, trust, NOW - quarter * 90 * 86_400))
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
    Ok(())
}

fn a_report_with_any_byte_changed_is_refused() -> suite::Result {
    let folder = artefacts::vectors()?;
    let amd = trust(&folder, false);
    let all = vectors(&folder);
    for id in ["gsg-milan-v2", "tav-milan", "tav-genoa", "oak-turin-oc"] {
        let vector = all.iter().find(|vector| vector.id == id).unwrap();
        check(vector, &amd, NOW).unwrap();
        let mut changed = Vector {
            id: id.to_owned(),
            expected: String::new(),
            why: String::new(),
            policy: serde_json::Value::Null,
            report: vector.report.clone(),
            vek: vector.vek.clone(),
            crl: None,
            synthetic: false,
        };
        for at in 0..REPORT_LEN {
            for mask in [0x01, 0x80] {
                changed.report[at] ^= mask;
                assert!(check(&changed, &amd, NOW).is_err(), "{id}: byte {at:#x} with {mask:#x}");
                changed.report[at] ^= mask;
            }
        }
    }
    Ok(())
}

fn a_certificate_with_any_byte_changed_is_refused() -> suite::Result {
    let folder = artefacts::vectors()?;
    let amd = trust(&folder, false);
    let mut vector = vectors(&folder).into_iter().find(|vector| vector.id == "tav-milan").unwrap();
    let len = vector.vek.as_ref().unwrap().len();
    for at in 0..len {
        for mask in [0x01, 0x80] {
            vector.vek.as_mut().unwrap()[at] ^= mask;
            assert!(check(&vector, &amd, NOW).is_err(), "byte {at:#x} with {mask:#x}");
            vector.vek.as_mut().unwrap()[at] ^= mask;
        }
        let mut short = vector.vek.clone().unwrap();
        short.truncate(at);
        std::mem::swap(vector.vek.as_mut().unwrap(), &mut short);
        assert!(check(&vector, &amd, NOW).is_err(), "cut at {at:#x}");
        std::mem::swap(vector.vek.as_mut().unwrap(), &mut short);
    }
    check(&vector, &amd, NOW).unwrap();
    Ok(())
}

fn a_made_chain_is_not_amds() -> suite::Result {
    let folder = artefacts::vectors()?;
    let amd = trust(&folder, false);
    for vector in vectors(&folder).iter().filter(|vector| vector.synthetic) {
        assert!(check(vector, &amd, NOW).is_err(), "{}", vector.id);
    }
    Ok(())
}

suite!(
    every_verdict_is_the_expected_one,
    a_report_with_any_byte_changed_is_refused,
    a_certificate_with_any_byte_changed_is_refused,
    a_made_chain_is_not_amds
);
