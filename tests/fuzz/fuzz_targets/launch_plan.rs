// SPDX-License-Identifier: Apache-2.0
//! Plans saved by `cvmm measure --json`, from anywhere: two of them can be compared and shown, a plan never
//! differs from itself, and the answer stays short whatever numbers the files claim.
#![no_main]

use cvmm_measure::{Listing, compare, explain};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // Two plans with a NUL, which JSON has none of, between them; or one.
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let mut plan = || Listing::from_json(parts.next()?).ok();
    let Some(a) = plan() else { return };
    assert_eq!(compare(&a, &a), Vec::<String>::new());
    assert!(!explain(&a).to_string().is_empty());
    let text = serde_json::to_vec(&a).expect("it was JSON");
    assert_eq!(Listing::from_json(&text).expect("our own JSON"), a);
    let Some(b) = plan() else { return };
    let differences = compare(&a, &b);
    assert_eq!(differences.len(), compare(&b, &a).len());
    assert!(differences.iter().map(String::len).sum::<usize>() <= 100 * data.len() + 4096);
});
