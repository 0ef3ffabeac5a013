// SPDX-License-Identifier: Apache-2.0
//! The vectors that a policy has to refuse: they verify, the clause they are made for refuses them, and the
//! same policy without that clause admits them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use cvmm_policy::Expected;
use cvmm_test_support::attest::NOW;
use cvmm_test_support::attest::clauses::{self, strict};
use cvmm_test_support::attest::vectors::{check, trust, vectors};
use cvmm_test_support::{artefacts, suite};

fn every_clause_refuses_its_vector() -> suite::Result {
    let folder = artefacts::vectors()?;
    let made = trust(&folder, true);
    let all = vectors(&folder);
    let good = all.iter().find(|vector| vector.id == "synth/ok-milan-v3").unwrap();
    let good = check(good, &made, NOW).unwrap();
    let data =
        Expected { report_data: Some(&good.report_data), host_data: None, measurement: None, id_key: None };
    let nothing = Expected { report_data: None, ..data };
    let lenient = clauses::lenient();
    let mut judged = 0;
    for vector in all.iter().filter(|vector| vector.id.contains("/pol-") && !vector.id.contains("authorkey"))
    {
        let claims = check(vector, &made, NOW).unwrap();
        let clause = vector.policy.as_str().unwrap();
        let expected = if clause == "report_data" { data } else { nothing };
        let reasons = strict(clause, &good.measurement.to_string()).appraise_claims(&claims, &expected, NOW);
        assert!(!reasons.is_empty(), "{} is admitted with {clause}", vector.id);
        assert_eq!(lenient.appraise_claims(&claims, &nothing, NOW), [], "{}", vector.id);
        judged += 1;
    }
    assert!(judged >= 16, "only {judged} vectors");
    println!("{judged} vectors refused by their clause");
    Ok(())
}

suite!(every_clause_refuses_its_vector);
