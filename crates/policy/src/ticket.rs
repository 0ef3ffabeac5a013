// SPDX-License-Identifier: Apache-2.0
//! `[ticket]`: how long tickets and launches may take.

use serde::{Deserialize, Serialize};

use crate::error::PolicyError;

/// The longest lifetime of a ticket in seconds.
const MAX_LIFETIME: u32 = 300;
/// The longest launch in seconds.
const MAX_LAUNCH: u32 = 3600;

/// `[ticket]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TicketRules {
    /// Seconds that a ticket is valid.
    pub lifetime_s: u32,
    /// Seconds from an approval to the end of the launch.
    pub launch_s: u32,
}

impl Default for TicketRules {
    fn default() -> Self {
        Self { lifetime_s: 60, launch_s: 120 }
    }
}

impl TicketRules {
    pub(crate) fn check(&self) -> Result<(), PolicyError> {
        let Self { lifetime_s, launch_s } = *self;
        for (key, seconds, max) in
            [("ticket.lifetime_s", lifetime_s, MAX_LIFETIME), ("ticket.launch_s", launch_s, MAX_LAUNCH)]
        {
            if !(1..=max).contains(&seconds) {
                return Err(PolicyError::value(key, format!("is {seconds}, not 1 to {max}")));
            }
        }
        Ok(())
    }

    pub(crate) fn explain(&self, say: &mut impl FnMut(String)) {
        let Self { lifetime_s, launch_s } = self;
        say(format!("tickets: valid for {lifetime_s} s; a launch may take {launch_s} s"));
    }
}
