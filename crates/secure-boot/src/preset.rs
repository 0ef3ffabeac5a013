// SPDX-License-Identifier: Apache-2.0
//! Certificates of others that a name stands for. They are not in cvmm: their files are found on the host
//! and taken by their SHA-256 only.

use aws_lc_rs::digest;

use crate::Variable;

/// The name of Microsoft's certificates for programs of others than Microsoft.
pub const MICROSOFT: &str = "microsoft";

/// A certificate of a preset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PresetFile {
    /// File name, as in Debian's python3-virt-firmware.
    pub name: &'static str,
    /// SHA-256 of the certificate in DER.
    pub sha256: [u8; 32],
}

/// With this key Microsoft signs updates of db and dbx.
const KEK: [PresetFile; 2] = [
    PresetFile {
        name: "MicrosoftCorporationKEKCA2011.pem",
        sha256: hex(b"a1117f516a32cefcba3f2d1ace10a87972fd6bbe8fe0d0b996e09e65d802a503"),
    },
    PresetFile {
        name: "MicrosoftCorporationKEK2KCA2023.pem",
        sha256: hex(b"3cd3f0309edae228767a976dd40d9f4affc4fbd5218f2e8cc3c9dd97e8ac6f9d"),
    },
];

/// These sign the shims of distributions, and other programs that are not Microsoft's.
const DB: [PresetFile; 2] = [
    PresetFile {
        name: "MicrosoftCorporationUEFICA2011.pem",
        sha256: hex(b"48e99b991f57fc52f76149599bff0a58c47154229b9f8d603ac40d3500248507"),
    },
    PresetFile {
        name: "MicrosoftUEFICA2023.pem",
        sha256: hex(b"f6124e34125bee3fe6d79a574eaa7b91c0e7bd9d929c1a321178efd611dad901"),
    },
];

/// The files of the preset [`MICROSOFT`] for a variable; none for PK, which is the owner's, and dbx, which
/// is dated.
#[must_use]
pub fn microsoft(variable: Variable) -> &'static [PresetFile] {
    match variable {
        Variable::Kek => &KEK,
        Variable::Db => &DB,
        Variable::Pk | Variable::Dbx => &[],
    }
}

impl PresetFile {
    /// Whether `der` is that certificate.
    #[must_use]
    pub fn is(&self, der: &[u8]) -> bool {
        digest::digest(&digest::SHA256, der).as_ref() == self.sha256
    }
}

const fn digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        _ => byte - b'a' + 10,
    }
}

const fn hex(text: &[u8; 64]) -> [u8; 32] {
    let mut bytes = [0; 32];
    let mut at = 0;
    while at < 32 {
        bytes[at] = digit(text[2 * at]) << 4 | digit(text[2 * at + 1]);
        at += 1;
    }
    bytes
}
