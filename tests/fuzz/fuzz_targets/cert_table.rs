// SPDX-License-Identifier: Apache-2.0
//! The certificate table of a guest's host: what is found lies in the table, behind its head, and is where an
//! entry says.
#![no_main]

use cvmm_attest::claims::SigningKey;
use cvmm_attest::table::{MAX_TABLE, entry, vek};
use cvmm_attest::verify::Hint;
use cvmm_snp::tcb::TcbVersion;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for kind in [SigningKey::Vcek, SigningKey::Vlek] {
        let hint = Hint { signing_key: kind, product: None, chip_id: [7; 64], tcb: TcbVersion([0; 8]) };
        let certificate = vek(data, &hint);
        let Ok(Some(found)) = entry(data, kind) else {
            assert!(!matches!(certificate, Ok(Some(_))), "a certificate without an entry");
            continue;
        };
        assert!(data.len() <= MAX_TABLE && !found.is_empty());
        let offset = found.as_ptr() as usize - data.as_ptr() as usize;
        let said = data.chunks_exact(24).position(|entry| {
            entry[16..20] == (offset as u32).to_le_bytes()
                && entry[20..24] == (found.len() as u32).to_le_bytes()
        });
        let end = data.chunks_exact(24).position(|entry| entry[..16] == [0; 16]).expect("a table has an end");
        assert!(said.expect("an entry says so") < end && offset >= (end + 1) * 24);
        // Both kinds are the same question.
        if let Ok(other) = entry(&data[..offset + found.len()], kind) {
            assert_eq!(other, Some(found));
        }
    }
});
