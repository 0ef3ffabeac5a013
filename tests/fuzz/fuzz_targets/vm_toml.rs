// SPDX-License-Identifier: Apache-2.0
//! `vm.toml`: what is accepted keeps the documented limits, and what is printed of it as JSON is the same VM
//! again; what is refused is explained with a place in the text.
#![no_main]

use std::collections::BTreeSet;
use std::path::Path;

use cvmm::config::{
    Checks, Config, FirmwareSource, MAX_CMDLINE, MAX_CONSOLE_SIZE, MAX_DISKS, MAX_LOW_MEMORY, MAX_MEMORY,
    MAX_SERIAL, MAX_VCPUS, MIN_CONSOLE_SIZE, MIN_MEMORY,
};
use libfuzzer_sys::fuzz_target;

const MIB: u64 = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::parse("vm.toml", text, Path::new("/base"), Checks::OFFLINE) {
        Ok(config) => accepted(&config),
        Err(error) => {
            assert!(!error.problems().is_empty(), "refused without a reason");
            let lines = text.split('\n').count();
            for problem in error.problems() {
                assert!(!problem.message.is_empty() && problem.code.starts_with("config."), "{problem:?}");
                assert!(
                    problem
                        .code
                        .bytes()
                        .all(|b| b == b'.' || b == b'_' || b.is_ascii_lowercase() || b.is_ascii_digit()),
                    "{problem:?}"
                );
                if let Some(at) = &problem.location {
                    assert!((1..=lines).contains(&at.line) && at.column >= 1, "{problem:?}");
                }
            }
            assert!(!error.to_string().is_empty());
        }
    }
});

fn accepted(config: &Config) {
    assert!((1..=MAX_VCPUS).contains(&config.vcpus));
    assert!((MIN_MEMORY..=MAX_MEMORY).contains(&config.memory) && config.memory % MIB == 0);
    assert!(config.low_memory <= config.memory.min(MAX_LOW_MEMORY) && config.low_memory % MIB == 0);
    assert!(config.low_memory > 0);
    if let FirmwareSource::File(path) = &config.firmware {
        assert!(path.is_absolute());
    }
    assert!(config.disks.len() <= MAX_DISKS);
    let mut serials = BTreeSet::new();
    for disk in &config.disks {
        assert!(disk.path.is_absolute());
        assert!(disk.serial.len() <= MAX_SERIAL);
        assert!(serials.insert(&disk.serial), "serial {:?} twice", disk.serial);
        assert!(disk.queues != Some(0));
    }
    if let cvmm::config::Boot::Hashes { cmdline, .. } = &config.boot {
        assert!(cmdline.len() <= MAX_CMDLINE && !cmdline.contains('\0'));
    }
    assert_eq!(config.console.path.is_some(), config.console.max_size.is_some());
    assert!(config.console.max_size.is_none_or(|size| (MIN_CONSOLE_SIZE..=MAX_CONSOLE_SIZE).contains(&size)));
    // JSON to TOML, elsewhere: paths are absolute.
    let json = config.to_json();
    let toml = toml::to_string(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
    match Config::parse("again.toml", &toml, Path::new("/elsewhere"), Checks::OFFLINE) {
        Ok(again) => assert_eq!(again, *config, "{toml}"),
        Err(error) => panic!("{error}\n{toml}"),
    }
}
