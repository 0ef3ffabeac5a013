// SPDX-License-Identifier: Apache-2.0
//! Status codes of the SEV firmware.
//!
//! KVM hands the code out beside its own errno, which alone says little. Each code has a sentence that says
//! what to look at. Source: Linux include/uapi/linux/psp-sev.h, `sev_ret_code`; firmware ABI, "Status Codes".

use std::fmt;

/// Defines the enum, its conversions and its messages in one table.
macro_rules! codes {
    ($($name:ident = $code:literal, $symbol:literal, $sentence:literal;)*) => {
        /// A status other than success.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
        #[non_exhaustive]
        pub enum SevError {
            $(
                #[doc = $sentence]
                #[error("{} ({:#x}): {}", $symbol, $code, $sentence)]
                $name,
            )*
            /// The driver made no firmware call.
            #[error("the driver made no firmware call")]
            NoCall,
            /// A code that is not in this table.
            #[error("unknown firmware status {0:#x}")]
            Unknown(u32),
        }

        impl SevError {
            /// All codes with a name.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Converts from the number; `None` is success. The driver's "no firmware call" is -1.
            pub fn from_code(code: u32) -> Option<Self> {
                match code {
                    0 => None,
                    u32::MAX => Some(Self::NoCall),
                    $($code => Some(Self::$name),)*
                    other => Some(Self::Unknown(other)),
                }
            }

            /// The number.
            pub fn code(self) -> u32 {
                match self {
                    $(Self::$name => $code,)*
                    Self::NoCall => u32::MAX,
                    Self::Unknown(code) => code,
                }
            }

            /// The name in the kernel's header without its prefix, if it has one.
            pub fn symbol(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some($symbol),)*
                    Self::NoCall | Self::Unknown(_) => None,
                }
            }
        }
    };
}

codes! {
    InvalidPlatformState = 0x01, "INVALID_PLATFORM_STATE", "the platform is not initialised for SNP";
    InvalidGuestState = 0x02, "INVALID_GUEST_STATE", "the guest is not in the state this command needs";
    InvalidConfig = 0x03, "INVALID_CONFIG", "the platform's configuration does not allow this";
    InvalidLength = 0x04, "INVALID_LENGTH", "a buffer has the wrong length";
    AlreadyOwned = 0x05, "ALREADY_OWNED", "the platform already has an owner";
    InvalidCertificate = 0x06, "INVALID_CERTIFICATE", "a certificate is invalid";
    PolicyFailure = 0x07, "POLICY_FAILURE", "the platform does not satisfy the guest policy, or differs from the one in the ID block";
    Inactive = 0x08, "INACTIVE", "the guest is not bound to an ASID";
    InvalidAddress = 0x09, "INVALID_ADDRESS", "an address is invalid or not aligned";
    BadSignature = 0x0a, "BAD_SIGNATURE", "the signature of the ID block or the ID key is wrong";
    BadMeasurement = 0x0b, "BAD_MEASUREMENT", "the launch digest differs from the one in the ID block: something else was launched";
    AsidOwned = 0x0c, "ASID_OWNED", "the ASID belongs to another guest";
    InvalidAsid = 0x0d, "INVALID_ASID", "the ASID is out of range";
    WbinvdRequired = 0x0e, "WBINVD_REQUIRED", "caches must be written back first";
    DfFlushRequired = 0x0f, "DFFLUSH_REQUIRED", "the data fabric must be flushed before an ASID is used again";
    InvalidGuest = 0x10, "INVALID_GUEST", "there is no such guest context";
    InvalidCommand = 0x11, "INVALID_COMMAND", "the firmware does not know this command";
    Active = 0x12, "ACTIVE", "the guest is still active";
    HardwarePlatform = 0x13, "HWERROR_PLATFORM", "hardware failure; the platform is still usable";
    HardwareUnsafe = 0x14, "HWERROR_UNSAFE", "hardware failure; the platform is no longer safe to use";
    Unsupported = 0x15, "UNSUPPORTED", "the platform does not support this";
    InvalidParam = 0x16, "INVALID_PARAM", "a parameter is invalid; for a CPUID page: it has values this processor does not allow";
    ResourceLimit = 0x17, "RESOURCE_LIMIT", "the firmware is out of a resource";
    SecureDataInvalid = 0x18, "SECURE_DATA_INVALID", "the integrity check of firmware data failed";
    InvalidPageSize = 0x19, "INVALID_PAGE_SIZE", "the page has a different size in the RMP";
    InvalidPageState = 0x1a, "INVALID_PAGE_STATE", "the page is not in the RMP state this command needs";
    InvalidMetadataEntry = 0x1b, "INVALID_MDATA_ENTRY", "a metadata entry is invalid";
    InvalidPageOwner = 0x1c, "INVALID_PAGE_OWNER", "the page belongs to another guest";
    AeadOverflow = 0x1d, "AEAD_OFLOW", "the message counter is exhausted";
    ExitRingBuffer = 0x1f, "EXIT_RING_BUFFER", "the ring buffer mode was left";
    RmpInitRequired = 0x20, "RMP_INIT_REQUIRED", "the RMP is not initialised";
    BadSvn = 0x21, "BAD_SVN", "the security version is lower than the committed one";
    BadVersion = 0x22, "BAD_VERSION", "the firmware version is lower than the committed one";
    ShutdownRequired = 0x23, "SHUTDOWN_REQUIRED", "the platform must be shut down first";
    UpdateFailed = 0x24, "UPDATE_FAILED", "the firmware update failed";
    RestoreRequired = 0x25, "RESTORE_REQUIRED", "the firmware must be restored first";
    RmpInitFailed = 0x26, "RMP_INITIALIZATION_FAILED", "the RMP could not be initialised";
    InvalidKey = 0x27, "INVALID_KEY", "the key that was asked for does not exist";
    ShutdownIncomplete = 0x28, "SHUTDOWN_INCOMPLETE", "the shutdown is not complete";
    IncorrectBufferLength = 0x30, "INCORRECT_BUFFER_LENGTH", "a buffer has the wrong length";
    ExpandBufferLength = 0x31, "EXPAND_BUFFER_LENGTH", "a buffer is too small";
    SpdmRequest = 0x32, "SPDM_REQUEST", "the firmware wants an SPDM message sent";
    SpdmError = 0x33, "SPDM_ERROR", "the SPDM exchange failed";
}

/// A code for a log: its name, or the number.
impl fmt::LowerHex for SevError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.code(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_agree_both_ways() {
        for error in SevError::ALL {
            assert_eq!(SevError::from_code(error.code()), Some(*error));
            let text = error.to_string();
            assert!(text.starts_with(error.symbol().unwrap()), "{text}");
            assert!(text.contains(&format!("{:#x}", error.code())), "{text}");
        }
        assert_eq!(SevError::ALL.len(), 43);
        assert_eq!(SevError::from_code(0), None);
        assert_eq!(SevError::from_code(0x0b), Some(SevError::BadMeasurement));
        assert_eq!(SevError::from_code(0xffff_ffff), Some(SevError::NoCall));
        assert_eq!(SevError::from_code(0x1e), Some(SevError::Unknown(0x1e)));
        assert_eq!(format!("{:#x}", SevError::Unknown(0x99)), "0x99");
    }
}
