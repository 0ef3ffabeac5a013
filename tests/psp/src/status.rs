// SPDX-License-Identifier: Apache-2.0
//! Status codes of the firmware, as the mailbox returns them.
//!
//! Numbers and names are those of the kernel's `psp-sev.h` (`SEV_RET_*`). A newtype and not an enum: a fault
//! may be configured to return any number, also one that no firmware has.

use std::fmt;

/// What a command answered: 0 is success.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(pub u32);

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $value:literal),* $(,)?) => {
        impl Status {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            /// Name of the code, `UNKNOWN` for a number without one.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self.0 {
                    $($value => stringify!($name),)*
                    _ => "UNKNOWN",
                }
            }
        }
    };
}

statuses! {
    /// Done.
    SUCCESS = 0x00,
    /// The platform is not initialised, or is already.
    INVALID_PLATFORM_STATE = 0x01,
    /// The guest is not in the state the command needs.
    INVALID_GUEST_STATE = 0x02,
    /// The platform is not configured for the command (SNP not enabled on all CPUs).
    INVALID_CONFIG = 0x03,
    /// A length field is wrong.
    INVALID_LEN = 0x04,
    /// The platform has an owner already.
    ALREADY_OWNED = 0x05,
    /// A certificate is malformed.
    INVALID_CERTIFICATE = 0x06,
    /// The guest's policy does not allow it.
    POLICY_FAILURE = 0x07,
    /// The guest has no ASID.
    INACTIVE = 0x08,
    /// An address is not memory or not aligned.
    INVALID_ADDRESS = 0x09,
    /// A signature does not verify.
    BAD_SIGNATURE = 0x0A,
    /// A measurement or an authentication tag does not match.
    BAD_MEASUREMENT = 0x0B,
    /// The ASID belongs to another guest.
    ASID_OWNED = 0x0C,
    /// The ASID is out of range.
    INVALID_ASID = 0x0D,
    /// WBINVD has to be executed first.
    WBINVD_REQUIRED = 0x0E,
    /// DF_FLUSH has to be executed first.
    DFFLUSH_REQUIRED = 0x0F,
    /// There is no such guest.
    INVALID_GUEST = 0x10,
    /// There is no such command.
    INVALID_COMMAND = 0x11,
    /// The guest is active.
    ACTIVE = 0x12,
    /// The security processor failed; the platform may be used.
    HWERROR_PLATFORM = 0x13,
    /// The security processor failed; the platform must not be used.
    HWERROR_UNSAFE = 0x14,
    /// The command exists, but not in this firmware.
    UNSUPPORTED = 0x15,
    /// A parameter is wrong.
    INVALID_PARAM = 0x16,
    /// No room for one more.
    RESOURCE_LIMIT = 0x17,
    /// Data that the firmware protects was changed.
    SECURE_DATA_INVALID = 0x18,
    /// The page size does not match the RMP entry.
    INVALID_PAGE_SIZE = 0x19,
    /// The page is in the wrong state.
    INVALID_PAGE_STATE = 0x1A,
    /// A metadata entry is wrong.
    INVALID_MDATA_ENTRY = 0x1B,
    /// The page belongs to another guest.
    INVALID_PAGE_OWNER = 0x1C,
    /// A sequence number is exhausted, replayed or out of order.
    AEAD_OFLOW = 0x1D,
    /// The ring buffer mode was left.
    EXIT_RING_BUFFER = 0x1F,
    /// The RMP must be initialised first.
    RMP_INIT_REQUIRED = 0x20,
    /// The security version is too low.
    BAD_SVN = 0x21,
    /// The version is too low.
    BAD_VERSION = 0x22,
    /// The platform must be shut down first.
    SHUTDOWN_REQUIRED = 0x23,
    /// A firmware update failed.
    UPDATE_FAILED = 0x24,
    /// The committed firmware must be restored.
    RESTORE_REQUIRED = 0x25,
    /// The RMP could not be initialised.
    RMP_INITIALIZATION_FAILED = 0x26,
    /// The selected key is absent or forbidden.
    INVALID_KEY = 0x27,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:x})", self.name(), self.0)
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Result of a step of a command: an error is the status that ends the command.
pub type Outcome<T> = Result<T, Status>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_kernels_numbers() {
        assert_eq!(Status::INVALID_PARAM.0, 22);
        assert_eq!(Status::AEAD_OFLOW.0, 29);
        assert_eq!(Status::INVALID_KEY.0, 39);
        assert_eq!(Status(0x1A).to_string(), "INVALID_PAGE_STATE (0x1a)");
        assert_eq!(Status(0x7777).name(), "UNKNOWN");
    }
}
