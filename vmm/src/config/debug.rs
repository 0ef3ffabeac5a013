// SPDX-License-Identifier: Apache-2.0
//! `[debug]`: options for development.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::profile::Profile;
use super::rules::Rules;
use super::table::Table;

const MAX_MARKER: usize = 256;

pub(super) const TABLE: Table = Table { name: "debug", repeated: false, example };

/// Development options.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Debug")]
pub(super) struct RawDebug {
    /// Show the LPC bridge, so that the firmware uses the serial port. Default false.
    pub(super) firmware_console: Option<bool>,
    /// Show MTRRs to the guest. Default true: Linux before 6.3 does not start as an SNP guest without them.
    pub(super) mtrr: Option<bool>,
    /// Console text that means that user space is up, for the timeline.
    #[schemars(length(min = 1, max = MAX_MARKER))]
    pub(super) user_space_marker: Option<String>,
}

/// Development options. Never enable these in production.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debug {
    /// Whether the LPC bridge is visible, so that the firmware finds the serial port.
    pub firmware_console: bool,
    /// Whether the guest sees MTRRs, as it does by default: Linux before 6.3 has no PAT without them, and
    /// such a kernel does not start as an SNP guest. Hiding them saves the firmware of a guest without
    /// isolation some 6,000 exits, which KVM answers.
    pub mtrr: bool,
    /// Console text that means that user space is up, for the timeline.
    pub user_space_marker: Option<String>,
}

impl RawDebug {
    pub(super) fn check(self, rules: &mut Rules<'_>) -> Debug {
        let Self { firmware_console, mtrr, user_space_marker } = self;
        let unusable = |marker: &&String| {
            marker.is_empty() || marker.len() > MAX_MARKER || marker.chars().any(char::is_control)
        };
        if user_space_marker.as_ref().filter(unusable).is_some() {
            let message = "user_space_marker is empty, too long or has control characters";
            let allowed = format!("1 to {MAX_MARKER} bytes of one line");
            rules.add(Problem::at("debug.user_space_marker", "format", message).allowed(allowed));
        }
        Debug {
            firmware_console: firmware_console.unwrap_or(false),
            mtrr: mtrr.unwrap_or(true),
            user_space_marker,
        }
    }
}

impl From<&Debug> for RawDebug {
    fn from(debug: &Debug) -> Self {
        let Debug { firmware_console, mtrr, user_space_marker } = debug;
        Self {
            firmware_console: Some(*firmware_console),
            mtrr: Some(*mtrr),
            user_space_marker: user_space_marker.clone(),
        }
    }
}

fn example(_: Profile) -> String {
    EXAMPLE.to_owned()
}

const EXAMPLE: &str = r#"# Development options; leave out in production.
# [debug]
# firmware_console = false       # let the firmware use the serial port
# mtrr = true                    # show MTRRs to the guest: Linux before 6.3 needs them
# user_space_marker = "login:"   # console text that means that user space is up
"#;
