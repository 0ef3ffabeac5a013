// SPDX-License-Identifier: Apache-2.0
//! Reports verified by the `sev` crate, as its documentation does it, in as little program as it takes.
//!
//! `sev-verify verdicts` reads lines of four files (report, VEK, root, intermediate; certificates in DER) and
//! answers each with a line: `ok`, `refused: WHY` or `panicked`. `sev-verify time REPORT VEK ROOT
//! INTERMEDIATE ROUNDS` prints the nanoseconds of each round, twice: with everything, and with root and
//! intermediate parsed and verified beforehand, which is the work that cvmm does for a report.

use std::error::Error;
use std::fs;
use std::io::{self, BufRead};
use std::panic;
use std::time::Instant;

use sev::certs::snp::{Certificate, Chain, Verifiable, ca};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn all(report: &[u8], vek: &[u8], ark: &[u8], ask: &[u8]) -> Outcome<()> {
    let chain = Chain::from_der(ark, ask, vek)?;
    let report = AttestationReport::from_bytes(report)?;
    (&chain, &report).verify()?;
    Ok(())
}

fn prepared(report: &[u8], vek: &[u8], ask: &Certificate) -> Outcome<()> {
    let vek = Certificate::from_der(vek)?;
    (ask, &vek).verify()?;
    let report = AttestationReport::from_bytes(report)?;
    (&vek, &report).verify()?;
    Ok(())
}

fn verdict(line: &str) -> Outcome<()> {
    let [report, vek, ark, ask] = line.split_whitespace().collect::<Vec<_>>()[..] else {
        return Err("not four files".into());
    };
    all(&fs::read(report)?, &fs::read(vek)?, &fs::read(ark)?, &fs::read(ask)?)
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["verdicts"] => {
            for line in io::stdin().lock().lines() {
                let line = line?;
                match panic::catch_unwind(|| verdict(&line)) {
                    Ok(Ok(())) => println!("ok"),
                    Ok(Err(error)) => println!("refused: {}", error.to_string().replace('\n', " ")),
                    Err(_) => println!("panicked"),
                }
            }
        }
        ["time", report, vek, ark, ask, rounds] => {
            let [report, vek, ark, ask] = [report, vek, ark, ask].map(fs::read);
            let (report, vek, ark, ask) = (report?, vek?, ark?, ask?);
            let authorities = ca::Chain::from_der(&ark, &ask)?;
            authorities.verify()?;
            for _ in 0..rounds.parse::<u32>()? {
                let began = Instant::now();
                all(&report, &vek, &ark, &ask)?;
                let everything = began.elapsed().as_nanos();
                let began = Instant::now();
                prepared(&report, &vek, &authorities.ask)?;
                println!("{everything} {}", began.elapsed().as_nanos());
            }
        }
        _ => return Err("usage: sev-verify verdicts | time REPORT VEK ROOT INTERMEDIATE ROUNDS".into()),
    }
    Ok(())
}
