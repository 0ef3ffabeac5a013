// SPDX-License-Identifier: Apache-2.0
//! The vectors that a policy has to refuse: believed by the verifier, refused by the clause they are about, and admitted by the same
//! policy without it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // Tests.

#[path = "common/clauses.rs"]
mod clauses;
mod common;

use clauses::strict;
use common::{THEN, check, folder, trust, vectors};
use cvmm_attest::policy::Expected;

#[test]
fn every_clause_refuses_its_vector() {
    let Some(folder) = folder() else { return };
    let made = trust(&folder, true);
    let all = vectors(&folder);
    let good = all.iter().find(|vector| vector.id == "synth/ok-milan-v3").unwrap();
    let good = check(good, &made, THEN).unwrap();
    let data =
        Expected { report_data: Some(&good.report_data), host_data: None, measurement: None, id_key: None };
    let nothing = Expected { report_data: None, ..data };
    let lenient = clauses::lenient();
    let mut judged = 0;
    for vector in all.iter().filter(|vector| vector.id.contains("/pol-") && !vector.id.contains("authorkey"))
    {
        let claims = check(vector, &made, THEN).unwrap();
        let clause = vector.policy.as_str().unwrap();
        let expected = if clause == "report_data" { data } else { nothing };
        let reasons = strict(clause, &good.measurement.to_string()).judge_claims(&claims, &expected, THEN);
        assert!(!reasons.is_empty(), "{} is admitted with {clause}", vector.id);
        assert_eq!(lenient.judge_claims(&claims, &nothing, THEN), [], "{}", vector.id);
        judged += 1;
    }
    assert!(judged >= 16, "only {judged} vectors");
    println!("{judged} vectors refused by their clause");
}
