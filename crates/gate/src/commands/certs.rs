// SPDX-License-Identifier: Apache-2.0
//! `cvmm-gate certs`: what to download, importing it into the store, and listing the store.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use cvmm_attest::claims::{Product, SigningKey};
use cvmm_attest::kds::{self, Subject};
use cvmm_attest::roots::Trust;
use cvmm_attest::verify::hint;
use cvmm_gate::clock::unix_time;
use cvmm_gate::config::Config;
use cvmm_gate::engine::trust;
use cvmm_gate::files;
use cvmm_gate::store::certificates::import;
use cvmm_gate::store::certificates::list::{self, StoreEntry, Tcb};
use cvmm_sev_host::{SevDevice, cpu_signature};
use cvmm_snp::tcb::TcbParts;

use super::{ExitStatus, owner, print, print_json};

#[derive(Debug, Subcommand)]
pub enum CertsCommand {
    /// List the certificate store with chips, TCBs, expiry dates and problems; exit code 0 or 3
    List(List),
    /// Verify certificates and revocation lists and add them to the store; exit code 0 or 3
    ///
    /// Files are DER or PEM and are identified by their content. Each is verified with the built-in roots.
    Import(Import),
    /// Print what to download from AMD's key service for a chip
    ///
    /// Without --report or --chip: for this host, as its security processor reports through /dev/sev.
    Urls(Urls),
}

#[derive(Args, Debug)]
pub struct List {
    /// Configuration file
    #[arg(long, short, value_name = "GATE.TOML")]
    config: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub struct Import {
    /// Configuration file
    #[arg(long, short, value_name = "GATE.TOML")]
    config: PathBuf,
    /// Kind of keys that revocation lists are for; without it, their names have to contain "vcek" or "vlek"
    #[arg(long, value_name = "KIND")]
    crl_for: Option<Kind>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Certificates and revocation lists
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Urls {
    /// Report of the chip, 1184 bytes
    #[arg(long, value_name = "FILE", conflicts_with_all = ["chip", "tcb"])]
    report: Option<PathBuf>,
    /// Product; needed with --chip and for reports of version 2
    #[arg(long)]
    product: Option<Line>,
    /// Chip identifier, hexadecimal
    #[arg(long, value_name = "HEX", requires = "tcb", requires = "product", value_parser = hex)]
    chip: Option<Chip>,
    /// Reported TCB: bootloader=4,tee=0,snp=22,microcode=213, on Turin also fmc=1
    #[arg(long, value_name = "LIST", value_parser = tcb)]
    tcb: Option<TcbParts>,
    /// Key that signs its reports
    #[arg(long, value_name = "KIND")]
    key: Option<Kind>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Vcek,
    Vlek,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Line {
    Milan,
    Genoa,
    Turin,
}

/// A chip identifier. (The parser takes a `Vec` as a list of arguments.)
#[derive(Clone, Debug)]
struct Chip(Vec<u8>);

impl From<Kind> for SigningKey {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Vcek => Self::Vcek,
            Kind::Vlek => Self::Vlek,
        }
    }
}

impl From<Line> for Product {
    fn from(line: Line) -> Self {
        match line {
            Line::Milan => Self::Milan,
            Line::Genoa => Self::Genoa,
            Line::Turin => Self::Turin,
        }
    }
}

fn hex(text: &str) -> Result<Chip, String> {
    let byte = |at| text.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    let whole = text.len().is_multiple_of(2) && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(byte).collect();
    bytes.filter(|_| whole).map(Chip).ok_or_else(|| "not hexadecimal".to_owned())
}

fn tcb(text: &str) -> Result<TcbParts, String> {
    let [mut fmc, mut bootloader, mut tee, mut snp, mut microcode] = [None; 5];
    for part in text.split(',') {
        let (name, value) = part.split_once('=').ok_or("each part has to be NAME=NUMBER")?;
        let value: u8 = value.parse().map_err(|_| format!("{name} has to be 0 to 255"))?;
        let field = match name.trim() {
            "fmc" => &mut fmc,
            "bootloader" => &mut bootloader,
            "tee" => &mut tee,
            "snp" => &mut snp,
            "microcode" => &mut microcode,
            other => return Err(format!("{other} is not a part of a TCB")),
        };
        if field.replace(value).is_some() {
            return Err(format!("{name} is given twice"));
        }
    }
    match (bootloader, tee, snp, microcode) {
        (Some(bootloader), Some(tee), Some(snp), Some(microcode)) => {
            Ok(TcbParts { fmc, bootloader, tee, snp, microcode })
        }
        _ => Err("bootloader, tee, snp and microcode are required".to_owned()),
    }
}

pub fn run(command: CertsCommand) -> Result<ExitStatus> {
    match command {
        CertsCommand::List(List { config, json }) => list(&Config::load(&config)?, json),
        CertsCommand::Import(arguments) => import(&arguments),
        CertsCommand::Urls(arguments) => urls(arguments),
    }
}

fn roots(config: &Config) -> Result<Trust> {
    trust(config.unsafe_test_roots.as_deref()).context("the roots cannot be used")
}

fn import(Import { config, crl_for, json, files }: &Import) -> Result<ExitStatus> {
    let config = Config::load(config)?;
    owner::check([&*config.certificates])?;
    let trust = roots(&config)?;
    let import = |file: &PathBuf| {
        import::import(&config.certificates, file, crl_for.map(SigningKey::from), &trust, unix_time())
    };
    let imported: Vec<_> = files.iter().flat_map(import).collect();
    if *json {
        print_json(&imported)?;
    } else {
        for entry in &imported {
            let file = entry.file.display();
            let place = entry.stored.as_ref().map(|stored| stored.display().to_string()).unwrap_or_default();
            let line = match (&entry.refused, &entry.note) {
                (Some(reason), _) => format!("{file}: refused: {reason}\n"),
                (None, None) => format!("{file}: {place}\n"),
                (None, Some(note)) if place.is_empty() => format!("{file}: {note}\n"),
                (None, Some(note)) => format!("{file}: {place} ({note})\n"),
            };
            print(&line)?;
        }
    }
    let refused = imported.iter().any(|entry| entry.refused.is_some());
    Ok(if refused { ExitStatus::NotGood } else { ExitStatus::Done })
}

fn list(config: &Config, json: bool) -> Result<ExitStatus> {
    let stored = list::list(&config.certificates, &roots(config)?, unix_time())?;
    if json {
        print_json(&stored)?;
    } else {
        print(&table(&stored))?;
    }
    let good = stored.iter().all(|entry| entry.state == "good");
    Ok(if good { ExitStatus::Done } else { ExitStatus::NotGood })
}

/// A day of Unix time (the inverse is Howard Hinnant's well-known `days_from_civil`).
fn day(seconds: i64) -> String {
    let days = seconds.div_euclid(86_400) + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{day:02}", year + era * 400 + carry)
}

fn table(stored: &[StoreEntry]) -> String {
    let head =
        ["STATE", "WHAT", "PRODUCT", "CHIP OR CLOUD", "TCB", "FROM", "UNTIL", "FILE"].map(str::to_owned);
    let mut rows = vec![head];
    for entry in stored {
        let dash = || "-".to_owned();
        let tcb = entry.tcb.map_or_else(dash, |tcb| {
            let Tcb { fmc, bootloader, tee, snp, microcode } = tcb;
            let fmc = fmc.map_or(String::new(), |fmc| format!("{fmc}:"));
            format!("{fmc}{bootloader}.{tee}.{snp}.{microcode}")
        });
        // The file name has all of it.
        let chip = entry.chip.as_ref().map(|chip| chip.chars().take(16).collect());
        let revoked = entry.revoked.map(|count| format!("{count} revoked"));
        rows.push([
            entry.state.to_owned(),
            entry.what.unwrap_or("-").to_owned(),
            entry.product.map_or_else(dash, |product| product.to_string()),
            chip.or_else(|| entry.csp_id.clone()).or(revoked).unwrap_or_else(dash),
            tcb,
            entry.from.map_or_else(dash, day),
            entry.until.map_or_else(dash, day),
            printable(&entry.file),
        ]);
    }
    let mut text = String::new();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<_> = (0..7).map(width).collect();
    for (number, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(&row[7]);
        text.push('\n');
        let problem = number.checked_sub(1).and_then(|number| stored.get(number)?.problem.as_ref());
        if let Some(problem) = problem {
            text.push_str(&format!("    {problem}\n"));
        }
    }
    text
}

/// A file name without control characters.
fn printable(path: &Path) -> String {
    cvmm_reason::printable::line(&path.display().to_string()).into_owned()
}

fn urls(arguments: Urls) -> Result<ExitStatus> {
    let json = arguments.json;
    let downloads = kds::downloads(&subject(arguments)?)?;
    if json {
        print_json(&downloads)?;
        return Ok(ExitStatus::Done);
    }
    for download in downloads {
        let note = download.note.map_or(String::new(), |note| format!("# {note}\n"));
        print(&format!("{note}curl --fail --output {} '{}'\n", download.file, download.url))?;
    }
    Ok(ExitStatus::Done)
}

fn subject(arguments: Urls) -> Result<Subject> {
    let Urls { report, product, chip, tcb, key, json: _ } = arguments;
    let product = product.map(Product::from);
    if let Some(file) = report {
        let report = files::read(&file, 1 << 16)?;
        let hint = hint(&report).with_context(|| format!("{} is not a report", file.display()))?;
        let mut subjects = Subject::of(&hint);
        if subjects.is_empty() {
            bail!("REPORTED_TCB has reserved bytes that are not zero")
        }
        subjects.retain(|subject| product.is_none_or(|product| product == subject.product));
        let subject = match subjects.len() {
            0 => bail!("the report is of a different product than --product"),
            1 => subjects.pop(),
            _ => None,
        };
        let Some(mut subject) = subject else {
            bail!("a report of version 2 does not name its product: give --product milan or genoa")
        };
        subject.kind = key.map_or(subject.kind, SigningKey::from);
        return Ok(subject);
    }
    let kind = key.map_or(SigningKey::Vcek, SigningKey::from);
    if let (Some(product), Some(tcb)) = (product, tcb) {
        let chip = match (chip, kind) {
            (Some(Chip(chip)), _) => chip,
            (None, SigningKey::Vlek) => Vec::new(),
            (None, SigningKey::Vcek) => bail!("--chip is required for a VCEK"),
        };
        return Ok(Subject { product, kind, chip, tcb });
    }
    if tcb.is_some() {
        bail!("--product is required with --tcb")
    }
    let (status, chip) = SevDevice::open()
        .and_then(|device| Ok((device.platform_status()?, device.chip_id()?)))
        .context("cannot read TCB and chip identifier from /dev/sev; pass --report, or --product, --chip and --tcb")?;
    let product = product.or_else(|| cpu_signature().and_then(Product::from_signature));
    let product = product.context("unknown processor; pass --product")?;
    let tcb = status.reported_tcb.parts(product.layout());
    let tcb = tcb.context("the platform's REPORTED_TCB has reserved bytes that are not zero")?;
    Ok(Subject { product, kind, chip: chip.to_vec(), tcb })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01"),
            (86_399, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_795_435_200, "2026-11-23"),
            (4_102_444_800, "2100-01-01"),
            (-1, "1969-12-31"),
        ] {
            assert_eq!(day(seconds), expected);
        }
    }

    #[test]
    fn arguments_are_what_they_say() {
        let parts = tcb("snp=22,bootloader=4,tee=0,microcode=213").unwrap();
        assert_eq!((parts.fmc, parts.bootloader, parts.snp, parts.microcode), (None, 4, 22, 213));
        assert_eq!(tcb("fmc=1,bootloader=4,tee=0,snp=22,microcode=213").unwrap().fmc, Some(1));
        for text in ["", "snp=22", "bootloader=4,tee=0,snp=22,microcode=256", "snp=1,snp=1", "spl=1", "snp"] {
            assert!(tcb(text).is_err(), "{text}");
        }
        assert_eq!(hex("00ff").unwrap().0, [0, 255]);
        assert!(hex("0").is_err() && hex("0g").is_err() && hex("éé").is_err());
    }
}
