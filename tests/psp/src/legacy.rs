// SPDX-License-Identifier: Apache-2.0
//! The commands of the older SEV ABI that the kernel's driver uses on an SNP host: INIT, SHUTDOWN,
//! PLATFORM_STATUS, GET_ID. SEV and SEV-ES guests do not exist here; their commands answer UNSUPPORTED.

use crate::host::{self, Host, PageState, le32, le64};
use crate::psp::{Legacy, Psp};
use crate::status::{Outcome, Status};

/// Least size of the trusted memory region that SEV-ES needs, bytes, which is also its alignment.
const TMR_LEN: u32 = 0x10_0000;

impl Psp {
    /// INIT: flags, reserved, TMR address, TMR length.
    pub(crate) fn legacy_init(&mut self, host: &mut dyn Host, buffer: u64) -> Outcome<()> {
        let bytes: [u8; 20] = host::read(host, buffer)?;
        self.start_legacy(host, le32(&bytes, 0), le64(&bytes, 8), le32(&bytes, 16))
    }

    /// INIT_EX: length 36, flags, TMR address, TMR length, reserved, NV address, NV length. The NV storage is
    /// accepted and left untouched: nothing that it would hold is modelled.
    pub(crate) fn legacy_init_ex(&mut self, host: &mut dyn Host, buffer: u64) -> Outcome<()> {
        let bytes: [u8; 36] = host::read(host, buffer)?;
        if le32(&bytes, 0) != 36 {
            return Err(Status::INVALID_LEN);
        }
        self.start_legacy(host, le32(&bytes, 4), le64(&bytes, 8), le32(&bytes, 16))
    }

    fn start_legacy(&mut self, host: &mut dyn Host, flags: u32, tmr: u64, tmr_len: u32) -> Outcome<()> {
        if self.platform.legacy.init {
            return Err(Status::INVALID_PLATFORM_STATE);
        }
        if flags & !1 != 0 {
            return Err(Status::INVALID_PARAM);
        }
        let es = flags & 1 != 0;
        // The kernel passes no region when it could not allocate one and then has no SEV-ES guests.
        if es && tmr != 0 {
            if tmr_len < TMR_LEN {
                return Err(Status::INVALID_LEN);
            }
            if !tmr.is_multiple_of(u64::from(TMR_LEN)) {
                return Err(Status::INVALID_ADDRESS);
            }
            let end = tmr.checked_add(u64::from(tmr_len)).ok_or(Status::INVALID_ADDRESS)?;
            if self.platform.snp {
                for spa in (tmr..end).step_by(host::PAGE as usize) {
                    match host::page(host, spa)?.1 {
                        PageState::Firmware | PageState::Default => {}
                        _ => return Err(Status::INVALID_PAGE_STATE),
                    }
                }
            }
        }
        self.platform.legacy = Legacy { init: true, es };
        Ok(())
    }

    /// SHUTDOWN has no parameters and is allowed in every state.
    pub(crate) fn legacy_shutdown(&mut self) -> Outcome<()> {
        self.platform.legacy = Legacy::default();
        Ok(())
    }

    /// PLATFORM_STATUS: 12 bytes, written into the command buffer itself.
    pub(crate) fn legacy_status(&mut self, host: &mut dyn Host, buffer: u64) -> Outcome<()> {
        let mut out = [0; 12];
        (out[0], out[1]) = self.config.api;
        out[2] = u8::from(self.platform.legacy.init);
        // Flags at 3: bit 0 externally owned (never), bit 8 SEV-ES initialised.
        out[4] = u8::from(self.platform.legacy.es);
        out[7] = self.config.build;
        self.answer(host, buffer, &out)
    }

    /// GET_ID: address and length, the length updated. Too short a buffer is told the length it needs.
    pub(crate) fn get_id(&mut self, host: &mut dyn Host, buffer: u64) -> Outcome<()> {
        let bytes: [u8; 12] = host::read(host, buffer)?;
        let id = *self.chip.id();
        let len_at = buffer.checked_add(8).ok_or(Status::INVALID_ADDRESS)?;
        self.answer(host, len_at, &(id.len() as u32).to_le_bytes())?;
        if (le32(&bytes, 8) as usize) < id.len() {
            return Err(Status::INVALID_LEN);
        }
        self.answer(host, le64(&bytes, 0), &id)
    }
}
