// SPDX-License-Identifier: Apache-2.0
//! Why a first stage ends its guest: the code of its GHCB termination request (GHCB specification, 2.3.1, "termination request").

/// The reason set of the first stage. 0 is the specification's, 1 is Linux's.
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
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The one with this number.
            #[must_use]
            pub fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }

            /// A stable code for programs.
            #[must_use]
            pub fn slug(self) -> &'static str {
                match self { $(Self::$name => $slug,)* }
            }

            /// What happened, for people.
            #[must_use]
            pub fn words(self) -> &'static str {
                match self { $(Self::$name => $words,)* }
            }
        }
    };
}

stops! {
    Params = 0x01, "stage.params", "its measured parameters are malformed";
    PageState = 0x02, "stage.page-state", "the host did not change the state of a page";
    Ghcb = 0x03, "stage.ghcb", "the host did not take the GHCB's address";
    Validate = 0x04, "stage.validate", "a page of the guest's could not be validated: the host has placed another or tampered with it";
    Secrets = 0x05, "stage.secrets-page", "the secrets page is not one of the security processor's";
    Cpuid = 0x06, "stage.cpuid-page", "the CPUID page lacks a leaf or is malformed";
    Random = 0x07, "stage.random", "the processor has no random numbers";
    Request = 0x10, "stage.request", "the host did not carry a request to the security processor, or that refused it";
    Response = 0x11, "stage.response", "the security processor's response is not authentic";
    Report = 0x12, "stage.report", "the report is not the one that was asked for";
    Silence = 0x20, "stage.silence", "the VMM gave no answer";
    Mailbox = 0x21, "stage.mailbox", "the VMM's answer is malformed or answers another question";
    Challenge = 0x22, "stage.challenge", "the gate's challenge is malformed";
    TicketForm = 0x30, "stage.ticket-form", "the ticket is malformed: cut, too long, or of another version";
    TicketSignature = 0x31, "stage.ticket-signature", "the ticket is not signed by the gate whose key is in the measured page";
    TicketNonce = 0x32, "stage.ticket-nonce", "the ticket answers another challenge";
    TicketKey = 0x33, "stage.ticket-key", "the ticket is for another guest's key";
    TicketReport = 0x34, "stage.ticket-report", "the ticket is for another report";
    TicketVm = 0x35, "stage.ticket-vm", "the ticket is for another VM";
    TicketLate = 0x36, "stage.ticket-late", "the ticket came after its lifetime";
    SecretsOpen = 0x37, "stage.secrets-open", "the ticket's secrets are not sealed to this guest";
    SecretsForm = 0x38, "stage.secrets-form", "the ticket's secrets are malformed or do not fit the firmware's secret area";
    UkiHash = 0x40, "stage.uki-hash", "the unified kernel image is not the measured one";
    Exception = 0x50, "stage.exception", "an exception that nothing here causes";
    Intercept = 0x51, "stage.intercept", "the host intercepts an instruction that nothing here handles";
    Page = 0x53, "stage.page", "the host took a page of the guest's away, or put another in its place";
    Panic = 0x52, "stage.panic", "a fault in the first stage itself";
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
