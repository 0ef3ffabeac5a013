// SPDX-License-Identifier: Apache-2.0
//! The verifier's side: chains as the `sev` crate reads them, certificates and revocation lists as
//! `x509-cert` does, and the signature of a report over its raw bytes.

use std::path::Path;

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, RSA_PSS_2048_8192_SHA384, UnparsedPublicKey};
use cvmm_psp::Status;
use cvmm_test_support::psp::{Guest, Message, POLICY, Rig, keys_folder};
use sev::certs::snp::Chain;
use x509_cert::Certificate;
use x509_cert::crl::CertificateList;
use x509_cert::der::{Decode as _, Encode as _};

/// A running guest on a chip with certificates.
pub struct World {
    pub folder: tempfile::TempDir,
    pub rig: Rig,
    pub guest: Guest,
    pub vmpck: [[u8; 32]; 4],
    sequence: u64,
}

impl World {
    pub fn new(toml: &str) -> Self {
        Self::launched(toml, 0)
    }

    /// With flags of LAUNCH_FINISH.
    pub fn launched(toml: &str, flags: u64) -> Self {
        let folder = keys_folder();
        let mut rig = Rig::initialised(&format!("keys_dir = '{}'\n{toml}", folder.path().display()));
        let guest = rig.launching(1, POLICY);
        let vmpck = rig.launch_secrets(guest);
        assert_eq!(rig.finish(guest, None, flags, [0xD0; 32]), Status::SUCCESS);
        Self { folder, rig, guest, vmpck, sequence: 1 }
    }

    /// A report of VMPL0, or the status in the answer.
    pub fn report(&mut self, data: [u8; 64], key_sel: u32) -> Result<Vec<u8>, Status> {
        let message = Message::report(self.sequence, data, 0, key_sel);
        let answer = self.rig.ask(self.guest, &self.vmpck[0], &message).unwrap().payload;
        self.sequence += 2;
        match Status(u32::from_le_bytes(answer[..4].try_into().unwrap())) {
            Status::SUCCESS => Ok(answer[32..].to_vec()),
            status => Err(status),
        }
    }

    /// Load the VLEK that the folder has for this chip.
    pub fn load_vlek(&mut self) -> Status {
        let stick = std::fs::read(self.folder.path().join("vlek-hashstick.bin")).unwrap();
        self.rig.load_vlek(&stick)
    }

    /// The published chain.
    pub fn chain(&self, kind: Kind) -> Chain {
        chain(self.folder.path(), kind)
    }
}

/// Which endorsement key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Vcek,
    Vlek,
}

impl Kind {
    /// Folder, issuer, key: as files are called.
    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Vcek => ("certs", "ask", "vcek"),
            Self::Vlek => ("certs-vlek", "asvk", "vlek"),
        }
    }

    pub fn key_sel(self) -> u32 {
        if self == Self::Vcek { 1 } else { 2 }
    }
}

pub fn chain(root: &Path, kind: Kind) -> Chain {
    let (folder, issuer, key) = kind.names();
    let read = |name: &str| std::fs::read(root.join(folder).join(format!("{name}.pem"))).unwrap();
    Chain::from_pem(&read("ark"), &read(issuer), &read(key)).unwrap()
}

pub fn der(certificate: &sev::certs::snp::Certificate) -> Certificate {
    Certificate::from_der(&certificate.to_der().unwrap()).unwrap()
}

/// Value of an extension below AMD's 1.3.6.1.4.1.3704.1.
pub fn amd_extension(certificate: &Certificate, suffix: &str) -> Option<Vec<u8>> {
    let wanted = format!("1.3.6.1.4.1.3704.1.{suffix}");
    let extensions = certificate.tbs_certificate.extensions.as_ref()?;
    let mut found = extensions.iter().filter(|extension| extension.extn_id.to_string() == wanted);
    let value = found.next()?.extn_value.as_bytes().to_vec();
    assert!(found.next().is_none(), "{suffix} once only");
    Some(value)
}

/// An INTEGER of one byte, as the security versions are.
pub fn small_integer(value: &[u8]) -> Option<u8> {
    match value {
        &[2, 1, low @ 0..=0x7F] | &[2, 2, 0, low @ 0x80..=0xFF] => Some(low),
        _ => None,
    }
}

/// The signature of a report over its raw bytes.
pub fn signed_by(report: &[u8], key: &Certificate) -> bool {
    let number = |at: usize| -> Vec<u8> { report[at..at + 48].iter().rev().copied().collect() };
    let signature = [number(0x2A0), number(0x2E8)].concat();
    let point = key.tbs_certificate.subject_public_key_info.subject_public_key.raw_bytes();
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).verify(&report[..0x2A0], &signature).is_ok()
}

/// Whether a list that the root signed names the certificate; `Err` when the root did not sign it.
pub fn revoked(crl: &[u8], ark: &Certificate, certificate: &Certificate) -> Result<bool, String> {
    let list = CertificateList::from_der(crl).map_err(|error| error.to_string())?;
    let key = ark.tbs_certificate.subject_public_key_info.subject_public_key.raw_bytes();
    let signed = list.tbs_cert_list.to_der().unwrap();
    UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA384, key)
        .verify(&signed, list.signature.raw_bytes())
        .map_err(|_| "not signed by this root".to_owned())?;
    assert_eq!(list.tbs_cert_list.issuer, ark.tbs_certificate.subject);
    let serial = &certificate.tbs_certificate.serial_number;
    let entries = list.tbs_cert_list.revoked_certificates.unwrap_or_default();
    Ok(entries.iter().any(|entry| entry.serial_number == *serial))
}
