// SPDX-License-Identifier: Apache-2.0
//! Command identifiers of the mailbox (CMDRESP bits 26:16), from the kernel's `psp-sev.h` and, for `0x096`,
//! the "HV_REPORT_REQ" patch series on the KVM list.

macro_rules! commands {
    ($($name:ident = $id:literal),* $(,)?) => {
        $(#[allow(missing_docs)] pub const $name: u32 = $id;)*

        /// Name of a command, `UNKNOWN` for an identifier without one.
        #[must_use]
        pub fn name(id: u32) -> &'static str {
            match id {
                $($id => stringify!($name),)*
                _ => "UNKNOWN",
            }
        }
    };
}

commands! {
    INIT = 0x001,
    SHUTDOWN = 0x002,
    FACTORY_RESET = 0x003,
    PLATFORM_STATUS = 0x004,
    PEK_GEN = 0x005,
    PEK_CSR = 0x006,
    PEK_CERT_IMPORT = 0x007,
    PDH_CERT_EXPORT = 0x008,
    PDH_GEN = 0x009,
    DF_FLUSH = 0x00A,
    DOWNLOAD_FIRMWARE = 0x00B,
    GET_ID = 0x00C,
    INIT_EX = 0x00D,
    SNP_INIT = 0x081,
    SNP_SHUTDOWN = 0x082,
    SNP_PLATFORM_STATUS = 0x083,
    SNP_DF_FLUSH = 0x084,
    SNP_INIT_EX = 0x085,
    SNP_SHUTDOWN_EX = 0x086,
    SNP_DECOMMISSION = 0x090,
    SNP_ACTIVATE = 0x091,
    SNP_GUEST_STATUS = 0x092,
    SNP_GCTX_CREATE = 0x093,
    SNP_GUEST_REQUEST = 0x094,
    SNP_ACTIVATE_EX = 0x095,
    SNP_HV_REPORT_REQ = 0x096,
    SNP_LAUNCH_START = 0x0A0,
    SNP_LAUNCH_UPDATE = 0x0A1,
    SNP_LAUNCH_FINISH = 0x0A2,
    SNP_DBG_DECRYPT = 0x0B0,
    SNP_DBG_ENCRYPT = 0x0B1,
    SNP_PAGE_SWAP_OUT = 0x0C0,
    SNP_PAGE_SWAP_IN = 0x0C1,
    SNP_PAGE_MOVE = 0x0C2,
    SNP_PAGE_MD_INIT = 0x0C3,
    SNP_PAGE_SET_STATE = 0x0C6,
    SNP_PAGE_RECLAIM = 0x0C7,
    SNP_PAGE_UNSMASH = 0x0C8,
    SNP_CONFIG = 0x0C9,
    SNP_DOWNLOAD_FIRMWARE_EX = 0x0CA,
    SNP_COMMIT = 0x0CB,
    SNP_VLEK_LOAD = 0x0CD,
    SNP_FEATURE_INFO = 0x0CE,
}
