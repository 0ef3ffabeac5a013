// SPDX-License-Identifier: Apache-2.0
//! Evidence as it comes: a report with a certificate, a revocation list, or neither. This program cannot
//! sign, so a report that verifies says what its own bytes say, and was signed by a real chip: with any other
//! byte in the signed part it does not verify any more.
#![no_main]

use std::sync::LazyLock;

use cvmm_attest::claims::Claims;
use cvmm_attest::refusal::Refusal;
use cvmm_attest::roots::Trust;
use cvmm_attest::verify::{CrlUse, Evidence, Options, hint, verify};
use cvmm_fuzz::Input;
use libfuzzer_sys::fuzz_target;

static AMD: LazyLock<Trust> = LazyLock::new(|| Trust::amd().expect("they are built in"));
/// Bytes that are signed.
const SIGNED: usize = 0x2a0;

fn judge(report: &[u8], vek: &[u8], crl: &[u8], now: i64, flags: u8) -> Result<Claims, Refusal> {
    let some = |bytes| Some(bytes).filter(|bytes: &&[u8]| !bytes.is_empty());
    let evidence = Evidence { report, vek: some(vek), intermediate: None, crl: some(crl) };
    let crl = if flags & 1 != 0 { CrlUse::Require } else { CrlUse::IfPresent };
    verify(&evidence, &AMD, &Options { now, crl, masked_chip: flags & 2 != 0 })
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let flags = input.u8();
    // Around the time of the seeds, or any.
    let now = if flags & 4 != 0 { input.u64() as i64 } else { 1_700_000_000 + i64::from(input.u32() >> 4) };
    let len = usize::from(input.u16());
    let vek = input.bytes(len);
    let len = usize::from(input.u16());
    let crl = input.bytes(len);
    let report = input.rest();
    let found = hint(report);
    match judge(report, vek, crl, now, flags) {
        Ok(claims) => {
            assert_eq!(report.len(), 1184);
            assert_eq!(claims.measurement.0[..], report[0x90..0xc0]);
            assert_eq!(claims.report_data[..], report[0x50..0x90]);
            assert_eq!(claims.host_data[..], report[0xc0..0xe0]);
            assert_eq!(claims.policy.0.to_le_bytes(), report[8..16]);
            let hint = found.expect("what verifies can be read");
            assert_eq!(hint.signing_key, claims.signing_key);
            assert!(
                hint.subjects().contains(&(claims.product, claims.reported_tcb)),
                "its certificate is not looked for"
            );
            serde_json::to_string(&claims).expect("claims are JSON");
            let mut forged = report.to_vec();
            forged[(now as usize) % SIGNED] ^= 1 << (flags >> 5);
            judge(&forged, vek, crl, now, flags).expect_err("a forged report verifies");
        }
        Err(refusal) => {
            assert!(Refusal::CODES.contains(&refusal.code()));
            assert!(!refusal.reason().message.is_empty());
        }
    }
});
