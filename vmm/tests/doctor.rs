// SPDX-License-Identifier: Apache-2.0
//! `cvmm doctor` as a host agent calls it, on whatever machine the test runs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::process::{Command, Output};

use cvmm_test_support::{needs, suite};
use serde_json::Value;

fn doctor(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cvmm")).arg("doctor").args(words).output().unwrap()
}

fn exit_code_json_and_table_agree() {
    let output = doctor(&["--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let items = report["items"].as_array().unwrap();
    let fatal: Vec<_> = items.iter().filter(|item| item["status"] == "fatal").collect();
    assert_eq!(report["schema"], 1);
    assert_eq!(report["fatal"], fatal.len());
    assert_eq!(output.status.code(), Some(if fatal.is_empty() { 0 } else { 3 }), "{fatal:?}");
    for item in items {
        assert!(!item["evidence"].as_str().unwrap().is_empty(), "{item}");
        assert_eq!(item["fix"].is_null(), item["status"] == "ok", "{item}");
    }

    let table = doctor(&[]);
    assert_eq!(table.status.code(), output.status.code());
    let table = String::from_utf8(table.stdout).unwrap();
    for item in items {
        let (status, id) = (item["status"].as_str().unwrap(), item["id"].as_str().unwrap());
        let line = table.lines().find(|line| line.split_whitespace().nth(1) == Some(id)).unwrap();
        assert!(line.to_lowercase().starts_with(status), "{line}");
    }
}

fn a_machine_without_snp_says_so() -> suite::Result {
    // With SNP, the boot tests of the emulated host check more.
    needs::require(!std::path::Path::new("/dev/sev").exists(), "needs a host without /dev/sev")?;
    let output = doctor(&["--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(report["platform"], Value::Null);
    let item = report["items"].as_array().unwrap().iter().find(|item| item["id"] == "sev.device").unwrap();
    assert_eq!(item["status"], "fatal");
    assert_eq!(item["evidence"], "/dev/sev does not exist");
    Ok(())
}

suite!(exit_code_json_and_table_agree, a_machine_without_snp_says_so);
