// SPDX-License-Identifier: Apache-2.0
//! What a person and a machine read: one line per case, the tails of a failed case's logs, the final count,
//! JSON.
#![expect(clippy::print_stdout, reason = "the report is this program's output")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cases::Case;
use crate::harness::{BootRecord, rounded};

/// How a case ended.
#[derive(Debug)]
pub enum Verdict {
    /// All its checks held.
    Passed,
    /// One did not; the chain of reasons.
    Failed(String),
    /// It could not be tried here.
    Skipped(String),
}

/// A finished case.
#[derive(Debug)]
pub struct Finished {
    /// Its name.
    pub name: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// How long it took.
    pub spent: Duration,
    /// The cvmm processes it started.
    pub boots: Vec<BootRecord>,
}

/// Lines of each log that a failed case shows.
const TAIL: usize = 25;

/// The names of the cases.
pub fn list(cases: &[Case]) {
    for case in cases {
        println!("{:<28} {}", case.name, case.about);
    }
}

/// Something went wrong outside of a case.
pub fn trouble(error: &anyhow::Error) {
    println!("error: {error:#}");
}

/// The line of a case; for a failed one also the tails of the logs in `dir`.
pub fn case(finished: &Finished, dir: &Path) {
    let seconds = finished.spent.as_secs_f64();
    match &finished.verdict {
        Verdict::Passed => println!("ok    {:<28} {seconds:6.1} s", finished.name),
        Verdict::Skipped(why) => println!("skip  {:<28} {seconds:6.1} s  {why}", finished.name),
        Verdict::Failed(why) => {
            println!("FAIL  {:<28} {seconds:6.1} s  {why}", finished.name);
            tails(dir);
        }
    }
}

fn tails(dir: &Path) {
    let mut logs: Vec<_> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    logs.sort();
    for log in logs {
        let text = fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).replace('\r', "");
        let lines: Vec<_> = text.lines().filter(|line| !is_count(line)).collect();
        let name = log.file_name().unwrap_or_default().to_string_lossy();
        println!("      --- {name}: last of {} lines", lines.len());
        for line in &lines[lines.len().saturating_sub(TAIL)..] {
            // A guest may print anything: keep it from moving the cursor.
            let clean: String =
                line.chars().map(|c| if c.is_control() { '.' } else { c }).take(400).collect();
            println!("      | {clean}");
        }
    }
}

/// A line of `--exit-stats`: a hundred of them would hide the rest.
fn is_count(line: &str) -> bool {
    let mut words = line.split_whitespace();
    line.starts_with(' ')
        && words.next().is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
        && words.count() == 1
}

/// The last line.
pub fn total(finished: &[Finished]) {
    let (passed, failed, skipped) = count(finished);
    let skipped = if skipped == 0 { String::new() } else { format!(", {skipped} skipped") };
    println!("{passed} passed, {failed} failed{skipped}");
}

/// Passed, failed and skipped cases.
pub fn count(finished: &[Finished]) -> (usize, usize, usize) {
    finished.iter().fold((0, 0, 0), |(passed, failed, skipped), case| match case.verdict {
        Verdict::Passed => (passed + 1, failed, skipped),
        Verdict::Failed(_) => (passed, failed + 1, skipped),
        Verdict::Skipped(_) => (passed, failed, skipped + 1),
    })
}

/// All of it for machines.
pub fn json(finished: &[Finished], spent: Duration) -> Value {
    let (passed, failed, skipped) = count(finished);
    let cases: Vec<_> = finished
        .iter()
        .map(|case| {
            let (result, reason) = match &case.verdict {
                Verdict::Passed => ("passed", None),
                Verdict::Failed(why) => ("failed", Some(why)),
                Verdict::Skipped(why) => ("skipped", Some(why)),
            };
            json!({
                "name": case.name,
                "result": result,
                "reason": reason,
                "seconds": rounded(case.spent),
                "boots": case.boots.iter().map(BootRecord::json).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({ "passed": passed, "failed": failed, "skipped": skipped, "seconds": rounded(spent), "cases": cases })
}
