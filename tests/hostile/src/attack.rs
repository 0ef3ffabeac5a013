// SPDX-License-Identifier: Apache-2.0
//! What a hostile host can do, and its names.

use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;

/// The environment variable with the attack: `NAME=VALUE`.
pub const VARIABLE: &str = "CVMM_HOSTILE";

/// An attack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attack {
    /// `serve-kernel=PATH`: fw_cfg serves this file instead of the measured kernel.
    Kernel(PathBuf),
    /// `serve-initrd=PATH`: fw_cfg serves this file instead of the measured initrd.
    Initrd(PathBuf),
    /// `serve-cmdline=TEXT`: fw_cfg serves this text instead of the measured command line.
    Cmdline(String),
    /// `serve-shim=PATH`: fw_cfg serves this EFI program as `etc/boot/shim`, which nothing measures.
    Shim(PathBuf),
    /// `inject-variables=PATH`: the shared view of the firmware image begins with the bytes of this file. The
    /// guest sees them when it makes these pages shared, which the stock firmware does with its variable
    /// store.
    Variables(PathBuf),
    /// `first-stage=NAME`: what the host does to the first stage.
    Stage(StageAttack),
}

/// What a hostile host does to a first stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StageAttack {
    /// Resumes the guest without an answer.
    Silent,
    /// Answers a different question.
    WrongAnswer,
    /// Claims that an answer is longer than the inbox.
    LongAnswer,
    /// Changes the gate's challenge.
    OtherChallenge,
    /// Gives an empty ticket.
    NoTicket,
    /// Cuts the ticket.
    CutTicket,
    /// Changes a bit of the ticket.
    FlipTicket,
    /// Gives the ticket of the previous start.
    OldTicket,
    /// Changes a byte of the unified kernel image.
    ChangeUki,
    /// Keeps writing into the chunk of the image while the stage copies it.
    SwapUki,
    /// Keeps writing into an answer while the stage reads it.
    RaceAnswer,
    /// Takes the secrets page away and puts another in its place.
    TakeSecrets,
    /// Takes the CPUID page away and puts another in its place.
    TakeCpuid,
}

impl FromStr for Attack {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("not of the form NAME=VALUE")?;
        Ok(match name {
            "serve-kernel" => Self::Kernel(value.into()),
            "serve-initrd" => Self::Initrd(value.into()),
            "serve-cmdline" => Self::Cmdline(value.to_owned()),
            "serve-shim" => Self::Shim(value.into()),
            "inject-variables" => Self::Variables(value.into()),
            "first-stage" => Self::Stage(StageAttack::from_str(value, false)?),
            _ => return Err(format!("unknown attack {name:?}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attacks_have_names() {
        let parse = |text: &str| text.parse::<Attack>();
        assert_eq!(parse("serve-cmdline=a=b"), Ok(Attack::Cmdline("a=b".to_owned())));
        assert_eq!(parse("serve-shim=/x"), Ok(Attack::Shim("/x".into())));
        assert_eq!(parse("first-stage=race-answer"), Ok(Attack::Stage(StageAttack::RaceAnswer)));
        for bad in ["", "silent", "first-stage=kind", "serve-nothing=x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
