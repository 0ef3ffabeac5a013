// SPDX-License-Identifier: Apache-2.0
//! Reasons for which the first stage ends its guest: codes of the GHCB termination request (GHCB
//! specification, 2.3.1).

/// The reason set of the first stage. 0 belongs to the specification, 1 to Linux.
pub const REASON_SET: u8 = 0xc;

macro_rules! stops {
    ($($name:ident = $code:literal, $slug:literal, $words:literal;)*) => {
        /// A reason.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Stop {
            $(#[doc = $words] $name = $code,)*
        }

        impl Stop {
        /// All reasons.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Converts from the number.
            #[must_use]
            pub fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }

            /// A stable code for programs.
            #[must_use]
            pub fn slug(self) -> &'static str {
                match self { $(Self::$name => $slug,)* }
            }

            /// A sentence that describes the reason.
            #[must_use]
            pub fn description(self) -> &'static str {
                match self { $(Self::$name => $words,)* }
            }
        }
    };
}

stops! {
    Params = 0x01, "stage.params", "its measured parameters are malformed";
    PageState = 0x02, "stage.page-state", "the host did not change the state of a page";
    Ghcb = 0x03, "stage.ghcb", "the host did not take the GHCB's address";
    Validate = 0x04, "stage.validate", "a guest page could not be validated: the host replaced it or tampered with it";
    Secrets = 0x05, "stage.secrets-page", "the secrets page was not written by the security processor";
    Cpuid = 0x06, "stage.cpuid-page", "the CPUID page lacks a leaf or is malformed";
    Random = 0x07, "stage.random", "the processor's random number generator failed";
    Request = 0x10, "stage.request", "the host did not forward a request to the security processor, or it was refused";
    Response = 0x11, "stage.response", "the security processor's response is not authentic";
    Report = 0x12, "stage.report", "the report does not match the request";
    Silence = 0x20, "stage.silence", "the VMM did not respond";
    Mailbox = 0x21, "stage.mailbox", "the VMM's response is malformed or does not match the request";
    Challenge = 0x22, "stage.challenge", "the gate's challenge is malformed";
    TicketForm = 0x30, "stage.ticket-form", "the ticket is malformed: truncated, too long, or of an unknown version";
    TicketSignature = 0x31, "stage.ticket-signature", "the ticket is not signed by the gate whose key is in the measured page";
    TicketNonce = 0x32, "stage.ticket-nonce", "challenge mismatch: the ticket was issued for a different one";
    TicketKey = 0x33, "stage.ticket-key", "key mismatch: the ticket was issued for a different guest";
    TicketReport = 0x34, "stage.ticket-report", "report mismatch: the ticket was issued for a different one";
    TicketVm = 0x35, "stage.ticket-vm", "VM mismatch: the ticket was issued for a different one";
    TicketLate = 0x36, "stage.ticket-late", "the ticket arrived after its lifetime";
    SecretsOpen = 0x37, "stage.secrets-open", "the ticket's secrets are not sealed to this guest";
    SecretsForm = 0x38, "stage.secrets-form", "the ticket's secrets are malformed or do not fit the firmware's secret area";
    UkiHash = 0x40, "stage.uki-hash", "the unified kernel image is not the measured one";
    Exception = 0x50, "stage.exception", "an unexpected exception";
    Intercept = 0x51, "stage.intercept", "the host intercepts an instruction that the stage does not handle";
    Page = 0x53, "stage.page", "the host removed or replaced a guest page";
    Panic = 0x52, "stage.panic", "the first stage itself failed";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn numbers_and_codes_are_unique() {
        let slugs: BTreeSet<_> = Stop::ALL.iter().map(|stop| stop.slug()).collect();
        assert_eq!(slugs.len(), Stop::ALL.len());
        for stop in Stop::ALL {
            assert_eq!(Stop::from_code(*stop as u8), Some(*stop));
        }
        assert_eq!(Stop::from_code(0), None);
    }
}
