// SPDX-License-Identifier: Apache-2.0
//! `cvmm-psp-pki`: make a keys folder, or add the certificates of another TCB to one. What a verifier is to
//! trust can so be made before an emulated host starts with the same folder, or without one.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use cvmm_psp::{Authority, Pki, Product, Tcb};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Line {
    Milan,
    Genoa,
    Turin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Revocable {
    Ask,
    Asvk,
}

const HELP: &str = "\
The folder then has:
  certs/{ark,ask,vcek}.{pem,der}        the VCEK's chain: snpguest verify certs OUT/certs
  certs-vlek/{ark,asvk,vlek}.{pem,der}  the VLEK's chain
  certs/crl.der, certs-vlek/crl.der     the revocation list
  {vcek,vlek}/v1/LINE/{cert_chain,crl}  the same as the key distribution service answers it
  vcek/HWID/blNN_..._vcek.der           VCEKs by chip and TCB, vlek/LINE/blNN_..._vlek.der VLEKs
  vlek-hashstick.bin                    the VLEK wrapped for this chip, for SNP_VLEK_LOAD
  keys/                                 secret: RSA keys, the chip's secret, the VLEK's seed (files of mode 0600)

The folder is a new or an empty one, or one that was made so before; with other files it is refused.
What exists is kept: the same folder gives the same keys and certificates. It is the keys_dir of the software
security processor. The chip's identifier (HWID) is printed.

Example: cvmm-psp-pki --product genoa --out /tmp/pki --tcb 9,0,21,72

Nothing that decides about production guests may trust these roots.";

/// Make the test PKI of the software security processor: ARK, ASK, ASVK, VCEK, VLEK, CRL and VLEK hashstick.
#[derive(Debug, Parser)]
#[command(version, after_help = HELP)]
struct Args {
    /// Processor generation
    #[arg(long, default_value = "milan")]
    product: Line,
    /// Keys folder; made when absent, which takes seconds
    #[arg(long)]
    out: PathBuf,
    /// Security versions: bootloader,tee,snp,microcode; for turin fmc first. Default: a plausible current
    /// firmware
    #[arg(long, value_delimiter = ',')]
    tcb: Vec<u8>,
    /// Cloud provider named in the VLEK certificate
    #[arg(long, default_value = "CN=cvmm-test")]
    csp_id: String,
    /// Also write crl-revoked.der, a revocation list with these authorities
    #[arg(long, value_delimiter = ',')]
    revoke: Vec<Revocable>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(hwid) => {
            #[expect(clippy::print_stdout, reason = "the answer of a command line tool")]
            {
                println!("{hwid}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the complaint of a command line tool")]
            {
                eprintln!("cvmm-psp-pki: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Whether keys and certificates may be put into `folder`: it is new or empty, or a keys folder already.
/// Certificates have fixed names there, and would replace files of others.
fn usable(folder: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        entries => entries?,
    };
    if folder.join("keys/ark.pk8").is_file() {
        return Ok(true);
    }
    // What is left of a start that was killed: keys that are not complete.
    for entry in entries {
        let entry = entry?;
        if entry.file_name() != "keys" || !unfinished(&entry.path())? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn unfinished(keys: &Path) -> io::Result<bool> {
    if !keys.is_dir() {
        return Ok(false);
    }
    for entry in fs::read_dir(keys)? {
        let name = entry?.file_name();
        if !name.as_encoded_bytes().starts_with(b"ark.pk8.") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns the chip's identifier.
fn run(args: &Args) -> Result<String, Box<dyn std::error::Error>> {
    let product = match args.product {
        Line::Milan => Product::Milan,
        Line::Genoa => Product::Genoa,
        Line::Turin => Product::Turin,
    };
    let tcb = match (product, args.tcb.as_slice()) {
        (_, []) => product.default_tcb(),
        (Product::Turin, &[fmc, bootloader, tee, snp, microcode]) => {
            Tcb { fmc, bootloader, tee, snp, microcode }
        }
        (Product::Milan | Product::Genoa, &[bootloader, tee, snp, microcode]) => {
            Tcb { fmc: 0, bootloader, tee, snp, microcode }
        }
        (_, given) => {
            return Err(format!("--tcb has {} numbers; milan and genoa need 4, turin 5", given.len()).into());
        }
    };
    let out = args.out.display();
    if !usable(&args.out).map_err(|error| format!("cannot use {out}: {error}"))? {
        return Err(format!(
            "{out} holds other files and no keys of an emulated processor: name a new or an empty folder (--out)"
        )
        .into());
    }
    let pki = Pki::open(&args.out)?;
    let chip = pki.chip(product)?;
    pki.export(&chip, tcb, &args.csp_id)?;
    if !args.revoke.is_empty() {
        let revoked: Vec<Authority> = args
            .revoke
            .iter()
            .map(|who| if *who == Revocable::Ask { Authority::Ask } else { Authority::Asvk })
            .collect();
        fs::write(args.out.join("crl-revoked.der"), pki.crl(product, &revoked)?)?;
    }
    Ok(chip.hwid().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_start_leaves_is_taken_up_again() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("new");
        assert!(usable(&out).unwrap(), "a new folder");
        fs::create_dir_all(out.join("keys")).unwrap();
        fs::write(out.join("keys/ark.pk8.0011223344556677.new"), "half a key").unwrap();
        assert!(usable(&out).unwrap(), "no key is complete");
        fs::write(out.join("keys/ask.pk8"), "another's").unwrap();
        assert!(!usable(&out).unwrap());
        fs::write(out.join("keys/ark.pk8"), "a key").unwrap();
        assert!(usable(&out).unwrap(), "a keys folder");
    }
}
