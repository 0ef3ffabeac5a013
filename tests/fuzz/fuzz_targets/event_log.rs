// SPDX-License-Identifier: Apache-2.0
//! Event logs, as a guest sends them. What is read leads to one value for each PCR, whatever is in it; a part
//! of a log up to any event is a log; and a refusal says where.
#![no_main]

use cvmm_tpm::HashAlg;
use cvmm_tpm::eventlog::{EventLog, LogError, NO_ACTION, describe};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let log = match EventLog::parse(data) {
        Ok(log) => log,
        Err(LogError::Short { offset, .. } | LogError::Header(offset) | LogError::TooMany(offset)) => {
            return assert!(offset <= data.len());
        }
        Err(LogError::Algorithms { offset, .. } | LogError::Event { offset, .. }) => {
            return assert!(offset <= data.len());
        }
        Err(other) => panic!("{other} of {} bytes", data.len()),
    };
    let mut end = 0;
    for (number, event) in log.events.iter().enumerate() {
        assert!(event.offset > end && event.offset < data.len());
        assert!(event.kind == NO_ACTION || event.pcr < 24);
        let line = describe(event);
        assert!(line.is_ascii() && !line.contains('\n') && line.len() < 512, "{line:?}");
        end = event.offset;
        if number < 4 {
            let front = EventLog::parse(&data[..event.offset]).expect("the front of a log is one");
            assert_eq!(front.events, log.events[..number]);
        }
    }
    for bank in HashAlg::ALL {
        match log.replay(bank) {
            Ok(pcrs) => {
                assert!(log.has(bank) && pcrs.len() == 24);
                for (pcr, value) in (0..24).zip(&pcrs) {
                    assert_eq!(value.len(), bank.digest_len());
                    // No input has a digest of zeros.
                    assert!(!log.touches(pcr) || value.iter().any(|byte| *byte != 0));
                }
            }
            Err(error) => assert_eq!(error, LogError::Bank(bank)),
        }
    }
});
