// SPDX-License-Identifier: Apache-2.0
//! Certificates: of signing keys, under AMD's authorities, beside a report that is in order; and as
//! authorities of a test PKI. Only what AMD signed passes, whatever is around it.
#![no_main]

use std::sync::LazyLock;

use cvmm_attest::refusal::Refusal;
use cvmm_attest::roots::Trust;
use cvmm_attest::verify::{CrlUse, Evidence, Options, verify};
use cvmm_fuzz::Input;
use libfuzzer_sys::fuzz_target;

static AMD: LazyLock<Trust> = LazyLock::new(|| Trust::amd().expect("they are built in"));

/// A well-formed report without a valid signature.
fn report(flags: u8) -> Vec<u8> {
    let mut report = vec![0; 1184];
    report[0] = 3;
    report[0xa] = 3;
    report[0x34] = 1;
    report[0x48] = (flags & 1) << 2;
    let (family, model) = [(0x19, 1), (0x19, 0x11), (0x1a, 2), (0x19, 0xa0)][usize::from(flags >> 1 & 3)];
    report[0x188..0x18a].copy_from_slice(&[family, model]);
    report
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let flags = input.u8();
    let now = 1_700_000_000 + i64::from(input.u32() >> 4);
    if flags & 8 != 0 {
        let len = usize::from(input.u16());
        let (ark, authority) = (input.bytes(len), input.rest());
        let mut trust = Trust::none();
        let added = trust.unsafe_add_test(ark, authority);
        assert_eq!(trust.has_test(), added.is_ok());
        return;
    }
    let vek = input.rest();
    let report = report(flags);
    let evidence = Evidence { report: &report, vek: Some(vek), intermediate: None, crl: None };
    let options = Options { now, crl: CrlUse::IfPresent, masked_chip: true };
    let refusal = verify(&evidence, &AMD, &options).expect_err("the report is not signed");
    // What is judged after the certificate is reached only with one that is AMD's.
    assert!(!matches!(
        refusal,
        Refusal::Tcb { .. } | Refusal::ReportedTcb { .. } | Refusal::Chip | Refusal::Masked
    ));
});
