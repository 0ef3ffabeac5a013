// SPDX-License-Identifier: Apache-2.0
//! `[debug]`: options for development.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::boot::check_cmdline;
use super::paths::text;
use super::problem::Problem;
use super::profile::Profile;
use super::rules::Rules;
use super::table::Table;

const MAX_PM_TIMER_SCALE: u32 = 1000;
const MAX_MARKER: usize = 256;

pub(super) const TABLE: Table = Table { name: "debug", repeated: false, example };

/// Knobs for development.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Debug")]
pub(super) struct RawDebug {
    /// How many times faster than real time the ACPI PM timer runs. Default 1.
    #[schemars(range(min = 1, max = MAX_PM_TIMER_SCALE))]
    pub(super) pm_timer_scale: Option<i64>,
    /// Show the LPC bridge, so that the firmware uses the serial port. Default false.
    pub(super) firmware_console: Option<bool>,
    /// Show MTRRs to the guest. Default true: Linux before 6.3 does not start as an SNP guest without them.
    pub(super) mtrr: Option<bool>,
    /// Console text that means that user space is up, for the timeline.
    #[schemars(length(min = 1, max = MAX_MARKER))]
    pub(super) user_space_marker: Option<String>,
    /// Profile hashes: served instead of boot.kernel, whose hash stays in the page, as a hostile host would.
    pub(super) serve_kernel: Option<String>,
    /// Profile hashes: served instead of boot.initrd.
    pub(super) serve_initrd: Option<String>,
    /// Profile hashes: served instead of boot.cmdline.
    #[schemars(length(max = super::boot::MAX_CMDLINE))]
    pub(super) serve_cmdline: Option<String>,
    /// An EFI program served as etc/boot/shim, which nothing measures, as a hostile host would.
    #[schemars(length(min = 1))]
    pub(super) serve_shim: Option<String>,
    /// Only with `isolation = "snp"`: what the guest finds where it expects the firmware file's variable store, as a hostile
    /// host would.
    #[schemars(length(min = 1))]
    pub(super) inject_variables: Option<String>,
    /// What a hostile host does to the first stage. Only with `boot.first_stage`.
    pub(super) first_stage: Option<StageTamper>,
}

/// Knobs for development.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debug {
    /// How many times faster than real time the ACPI PM timer runs, 1 to 1000. Shortens the firmware's waits.
    pub pm_timer_scale: u32,
    /// Whether the LPC bridge is visible, so that the firmware finds the serial port.
    pub firmware_console: bool,
    /// Whether the guest sees MTRRs, as it does by default: Linux before 6.3 has no PAT without them, and such a kernel does not
    /// start as an SNP guest. Hiding them saves the firmware of a guest without isolation some 6,000 exits, which KVM answers.
    pub mtrr: bool,
    /// Console text that means that user space is up, for the timeline.
    pub user_space_marker: Option<String>,
    /// What fw_cfg serves instead of the kernel that was hashed: the firmware has to notice. Like the two below it
    /// stands for a hostile host in tests.
    pub serve_kernel: Option<PathBuf>,
    /// What fw_cfg serves instead of the initrd that was hashed.
    pub serve_initrd: Option<PathBuf>,
    /// What fw_cfg serves instead of the command line that was hashed.
    pub serve_cmdline: Option<String>,
    /// What fw_cfg serves as `etc/boot/shim`, an EFI program that the firmware runs unmeasured in the `hashes` profile.
    /// Like the next one it stands for a hostile host in tests; both succeed with the stock firmware.
    pub serve_shim: Option<PathBuf>,
    /// SNP guests only: the shared view of the firmware image, from its first byte. The firmware image's first part is
    /// its variable store, which the guest itself makes shared.
    pub inject_variables: Option<PathBuf>,
    /// What a hostile host does to the first stage.
    pub first_stage: Option<StageTamper>,
}

/// What a hostile host does to a first stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StageTamper {
    /// Resumes the guest without an answer.
    Silent,
    /// Answers another question than was asked.
    WrongAnswer,
    /// Answers with a message that is longer than there is room for.
    LongAnswer,
    /// Gives the stage another challenge than the gate's.
    OtherChallenge,
    /// Gives no ticket, an empty one.
    NoTicket,
    /// Cuts the ticket.
    CutTicket,
    /// Changes a bit of the ticket.
    FlipTicket,
    /// Gives the ticket of the start before.
    OldTicket,
    /// Changes a byte of the unified kernel image.
    ChangeUki,
    /// Goes on writing into the piece of the image while the stage copies it.
    SwapUki,
    /// Goes on writing into an answer while the stage reads it.
    RaceAnswer,
    /// Takes the secrets page away and puts another in its place.
    TakeSecrets,
    /// Takes the CPUID page away and puts another in its place.
    TakeCpuid,
}

impl RawDebug {
    pub(super) fn check(self, rules: &mut Rules<'_>) -> Debug {
        let Self {
            pm_timer_scale,
            firmware_console,
            mtrr,
            user_space_marker,
            serve_kernel,
            serve_initrd,
            serve_cmdline,
            serve_shim,
            inject_variables,
            first_stage,
        } = self;
        let unusable = |marker: &&String| {
            marker.is_empty() || marker.len() > MAX_MARKER || marker.chars().any(char::is_control)
        };
        if user_space_marker.as_ref().filter(unusable).is_some() {
            let message = "user_space_marker is empty, too long or has control characters";
            let allowed = format!("1 to {MAX_MARKER} bytes of one line");
            rules.add(Problem::at("debug.user_space_marker", "format", message).allowed(allowed));
        }
        if inject_variables.is_some() && rules.not_snp() {
            let message = "inject_variables fills an snp guest's shared memory, and isolation is not \"snp\"";
            let problem = Problem::at("debug.inject_variables", "isolation", message);
            rules.add(problem.allowed("isolation = \"snp\""));
        }
        Debug {
            pm_timer_scale: rules
                .integer("debug.pm_timer_scale", pm_timer_scale, 1..=MAX_PM_TIMER_SCALE)
                .unwrap_or(1),
            firmware_console: firmware_console.unwrap_or(false),
            mtrr: mtrr.unwrap_or(true),
            user_space_marker,
            serve_kernel: serve_kernel.map(|path| rules.path("debug.serve_kernel", &path)),
            serve_initrd: serve_initrd.map(|path| rules.path("debug.serve_initrd", &path)),
            serve_cmdline: serve_cmdline.map(|text| check_cmdline("debug.serve_cmdline", text, rules)),
            serve_shim: serve_shim.map(|path| rules.path("debug.serve_shim", &path)),
            inject_variables: inject_variables.map(|path| rules.path("debug.inject_variables", &path)),
            first_stage,
        }
    }
}

impl From<&Debug> for RawDebug {
    fn from(debug: &Debug) -> Self {
        let Debug {
            pm_timer_scale,
            firmware_console,
            mtrr,
            user_space_marker,
            serve_kernel,
            serve_initrd,
            serve_cmdline,
            serve_shim,
            inject_variables,
            first_stage,
        } = debug;
        Self {
            pm_timer_scale: Some((*pm_timer_scale).into()),
            firmware_console: Some(*firmware_console),
            mtrr: Some(*mtrr),
            user_space_marker: user_space_marker.clone(),
            serve_kernel: serve_kernel.as_deref().map(text),
            serve_initrd: serve_initrd.as_deref().map(text),
            serve_cmdline: serve_cmdline.clone(),
            serve_shim: serve_shim.as_deref().map(text),
            inject_variables: inject_variables.as_deref().map(text),
            first_stage: *first_stage,
        }
    }
}

fn example(_: Profile) -> String {
    EXAMPLE.to_owned()
}

const EXAMPLE: &str = r#"# Development options; leave out in production.
# [debug]
# pm_timer_scale = 1             # how much faster the ACPI PM timer runs, 1 to 1000
# firmware_console = false       # let the firmware use the serial port
# mtrr = true                    # show MTRRs to the guest: Linux before 6.3 needs them
# user_space_marker = "login:"   # console text that means that user space is up
# What a hostile host would do, for tests. The firmware refuses to boot what does not match its hashes
# (profile hashes), but does not notice the shim and the variables: docs/internals/threat-model.md.
# serve_kernel = "other-vmlinuz"
# serve_initrd = "other-initrd.img"
# serve_cmdline = "init=/bin/sh"
# serve_shim = "shim.efi"
# inject_variables = "variables.fd"
# first_stage = "silent"         # what the host does to the first stage
"#;
