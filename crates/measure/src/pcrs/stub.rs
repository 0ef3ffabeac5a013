// SPDX-License-Identifier: Apache-2.0
//! What the stub of a unified kernel image measures: PCR 11.
//!
//! For each section in a fixed order: the section's name with a NUL, then its content. Which sections count
//! depends on the stub's version. Later the system extends a word for each phase of its boot. Source: the
//! UAPI group's specification of unified kernel images, and systemd's `src/fundamental/uki.h`.

use cvmm_launch::kernel::{Program, ProgramSection};

use super::{PcrError, PcrState, Register};

/// Sections in the order in which they are measured, with the first version of systemd's stub that does so.
const SECTIONS: [(&[u8], u32); 10] = [
    (b".linux", 252),
    (b".osrel", 252),
    (b".cmdline", 252),
    (b".initrd", 252),
    (b".ucode", 256),
    (b".splash", 252),
    (b".dtb", 252),
    (b".uname", 253),
    (b".sbat", 254),
    (b".pcrpkey", 252),
];
/// Sections of which the stub selects some, by what it finds when it runs.
const SELECTED: [&[u8]; 5] = [b".profile", b".dtbauto", b".hwids", b".efifw", b".fwauto"];
/// How the section .linux begins in an image of `cvmm uki build`: its content is not a program.
const CVMM_PAYLOAD: &[u8; 8] = b"CVMMLNX\0";
/// The section with the stub's name and version, and its most bytes.
const MAGIC: &[u8] = b".sdmagic";
const MAX_MAGIC: u64 = 1024;
/// The first version that measures.
const FIRST: u32 = 252;

/// Boot phases, in the form that `systemd-measure` takes.
pub const PHASES: [&str; 5] = [
    "",
    "enter-initrd",
    "enter-initrd:leave-initrd",
    "enter-initrd:leave-initrd:sysinit",
    "enter-initrd:leave-initrd:sysinit:ready",
];

/// The stub of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stub {
    /// systemd's, of this major version.
    Systemd {
        /// The version.
        version: u32,
    },
    /// That of `cvmm uki build`.
    Cvmm,
    /// The program is not a unified kernel image.
    None,
    /// What it measures is not known, for this reason.
    Unknown(String),
}

impl Stub {
    /// The stub of `program`.
    pub(super) fn of(program: &Program) -> Result<Self, PcrError> {
        let find = |name: &[u8]| program.sections().iter().find(|section| section.name == name);
        let Some(linux) = find(b".linux") else { return Ok(Self::None) };
        let mut start = [0; CVMM_PAYLOAD.len()];
        if linux.len >= start.len() as u64 {
            program.blob().read(&mut start, linux.offset)?;
        }
        if start == *CVMM_PAYLOAD {
            return Ok(Self::Cvmm);
        }
        let unknown = |why: &str| Ok(Self::Unknown(format!("the image's stub is not known: {why}")));
        let Some(magic) = find(MAGIC) else { return unknown("it has no section .sdmagic") };
        let Some(text) = program.section_bytes(magic, MAX_MAGIC)? else {
            return unknown("its section .sdmagic is too long");
        };
        let text = String::from_utf8_lossy(&text);
        let mut words = text.split_once("LoaderInfo: ").map_or("", |(_, rest)| rest).split_ascii_whitespace();
        match (words.next(), words.next().and_then(major)) {
            (Some("systemd-stub"), Some(version)) if version >= FIRST => Ok(Self::Systemd { version }),
            (Some("systemd-stub"), Some(_)) => unknown("systemd's stub measures since version 252"),
            _ => unknown("its section .sdmagic does not name systemd-stub"),
        }
    }

    /// PCR 11 when the kernel starts. The inner result is why it is not known.
    pub(super) fn image(&self, program: &Program) -> Result<Result<Register, String>, PcrError> {
        let version = match self {
            Self::Systemd { version } => *version,
            Self::Cvmm => u32::MAX,
            Self::None => return Ok(Err("the loader is not a unified kernel image".to_owned())),
            Self::Unknown(reason) => return Ok(Err(reason.clone())),
        };
        for name in SELECTED {
            if program.sections().iter().any(|section| section.name == name) {
                let reason = format!(
                    "the image has a section {}, of which the stub makes a choice",
                    name.escape_ascii()
                );
                return Ok(Err(reason));
            }
        }
        let mut register = Register::new();
        for (name, since) in SECTIONS {
            let found: Vec<&ProgramSection> = program
                .sections()
                .iter()
                .filter(|section| section.name == name && section.memory != 0)
                .collect();
            let name_text = name.escape_ascii();
            let section = match found.as_slice() {
                [] => continue,
                [section] => section,
                _ => return Ok(Err(format!("the image has several sections {name_text}"))),
            };
            if version < since {
                continue;
            }
            let Some(digest) = program.section_hash(section)? else {
                return Ok(Err(format!("the section {name_text} is mostly empty")));
            };
            register.measure(format!("name {name_text}"), &[name, &[0]]);
            register.extend(format!("section {name_text}"), digest);
        }
        Ok(Ok(register))
    }
}

/// The major version in `257.13-1~deb13u1`.
fn major(text: &str) -> Option<u32> {
    text.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

/// PCR 11 after the stub, and after each phase of systemd's boot.
pub(super) fn phases(image: &Register) -> Vec<PcrState> {
    let state = |phase: &&str| {
        let mut register = image.clone();
        for word in phase.split(':').filter(|word| !word.is_empty()) {
            register.measure(format!("phase {word}"), &[word.as_bytes()]);
        }
        register.state(11, Some((*phase).to_owned()))
    };
    PHASES.iter().map(state).collect()
}
