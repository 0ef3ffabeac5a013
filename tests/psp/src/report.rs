// SPDX-License-Identifier: Apache-2.0
//! Attestation reports: 1184 bytes, the first 0x2A0 of them signed.
//!
//! Versions differ by what they added: 3 the processor's family, model and stepping and the alias-check bit,
//! 5 the mitigation vectors. Version 4 has no field of its own in any published decoder and is written like
//! 3. Offsets are those of the `sev` crate, and were compared with reports of real chips.

use crate::crypto::SigningKey;
use crate::guest::Guest;
use crate::psp::Psp;
use crate::status::{Outcome, Status};

/// Size of a report, bytes.
pub const REPORT_LEN: usize = 1184;
/// The signature and what it covers.
const SIGNATURE: usize = 0x2A0;
/// VMPL of a report the host asked for.
pub(crate) const HOST_VMPL: u32 = u32::MAX;

/// Selection of the signing key in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyChoice {
    Vcek,
    Vlek,
}

/// SIGNING_KEY of a report that is not signed.
const NO_KEY: u32 = 7;

impl Psp {
    /// Resolve KEY_SEL: 0 is the VLEK when one is loaded, else the VCEK.
    pub(crate) fn choose_key(&self, guest: &Guest, key_sel: u32) -> Outcome<KeyChoice> {
        let vlek = self.platform.vlek.is_some();
        let choice = match key_sel {
            0 if vlek => KeyChoice::Vlek,
            0 | 1 => KeyChoice::Vcek,
            2 => KeyChoice::Vlek,
            _ => return Err(Status::INVALID_PARAM),
        };
        match choice {
            KeyChoice::Vcek if guest.vcek_disabled => Err(Status::INVALID_KEY),
            KeyChoice::Vlek if !vlek => Err(Status::INVALID_KEY),
            choice => Ok(choice),
        }
    }

    fn signing_key(&self, choice: KeyChoice) -> Outcome<SigningKey> {
        let tcb = self.platform.reported_tcb;
        Ok(match (choice, &self.platform.vlek) {
            (KeyChoice::Vlek, Some(vlek)) => vlek.key(self.config.product, tcb)?,
            (KeyChoice::Vlek, None) => return Err(Status::INVALID_KEY),
            (KeyChoice::Vcek, _) => self.chip.vcek(tcb)?,
        })
    }

    /// PLATFORM_INFO.
    fn platform_info(&self) -> u64 {
        let alias_check = self.config.alias_check && self.config.report_version >= 3;
        [
            self.config.smt,
            self.config.tsme,
            self.config.ecc,
            self.platform.rapl_disabled,
            self.platform.ciphertext_hiding,
            alias_check,
        ]
        .iter()
        .enumerate()
        .fold(0, |all, (at, &bit)| all | u64::from(bit) << at)
    }

    /// Write and sign a report.
    pub(crate) fn report(
        &self,
        guest: &Guest,
        data: &[u8; 64],
        vmpl: u32,
        choice: KeyChoice,
    ) -> Outcome<[u8; REPORT_LEN]> {
        let config = &self.config;
        let version = config.report_version;
        let identity = &guest.identity;
        let masked_key = self.platform.mask_chip_key;
        let key_code = match choice {
            _ if masked_key => NO_KEY,
            KeyChoice::Vcek => 0,
            KeyChoice::Vlek => 1,
        };
        let key_info = u32::from(identity.author_key_en) | u32::from(masked_key) << 1 | key_code << 2;
        let current = config.tcb.to_bytes(config.product);
        let build = [config.build, config.api.1, config.api.0, 0];

        let mut out = [0; REPORT_LEN];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x000, &version.to_le_bytes());
        put(0x004, &identity.guest_svn.to_le_bytes());
        put(0x008, &guest.policy.0.to_le_bytes());
        put(0x010, &identity.family_id);
        put(0x020, &identity.image_id);
        put(0x030, &vmpl.to_le_bytes());
        put(0x034, &1_u32.to_le_bytes());
        put(0x038, &current);
        put(0x040, &self.platform_info().to_le_bytes());
        put(0x048, &key_info.to_le_bytes());
        put(0x050, data);
        put(0x090, &guest.digest.0);
        put(0x0C0, &guest.host_data);
        put(0x0E0, &identity.id_key_digest);
        put(0x110, &identity.author_key_digest);
        put(0x140, &guest.report_id);
        put(0x160, &guest.report_id_ma);
        put(0x180, &self.platform.reported_tcb.to_bytes(config.product));
        if version >= 3 {
            put(0x188, &config.product.family_model_stepping());
        }
        if !self.platform.mask_chip_id {
            put(0x1A0, self.chip.id());
        }
        put(0x1E0, &self.committed_tcb.to_bytes(config.product));
        put(0x1E8, &build);
        put(0x1EC, &build);
        put(0x1F0, &guest.launch_tcb.to_bytes(config.product));
        if version >= 5 {
            put(0x1F8, &guest.launch_mitigations.to_le_bytes());
            put(0x200, &config.mitigations.to_le_bytes());
        }
        if !masked_key {
            let signature = self.signing_key(choice)?.sign(&out[..SIGNATURE])?;
            out[SIGNATURE..SIGNATURE + signature.len()].copy_from_slice(&signature);
        }
        Ok(out)
    }
}
