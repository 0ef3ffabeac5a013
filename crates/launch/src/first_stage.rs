// SPDX-License-Identifier: Apache-2.0
//! A first stage in a launch plan: measured pages that replace padding of the firmware image.
//!
//! No page is added: the stage is placed where the image has only FFh bytes, which is checked, and those
//! pages are measured anyway. The place is the one that the image names ([`Firmware::stage_place`]). The
//! initial state of the bootstrap processor changes too. With the `uki` profile the unified kernel image is
//! not launched: its hash is in the stage's parameters, and the stage fetches and verifies it. What the stage
//! does: [`cvmm_first_stage`].

use aws_lc_rs::digest::{Context, SHA384};
use cvmm_first_stage::layout::{
    EXIT, PAGE, PARAMS, PROGRAM, STAGE_LEN, TABLES, WINDOW, WINDOW_LEN, page_tables,
};
use cvmm_first_stage::params::{ADMIT, POINT, Params, UKI};
use cvmm_first_stage_embed as embed;
use cvmm_snp::digest::Digest;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use crate::blob::Blob;
use crate::firmware::{Firmware, Section, SectionKind};
use crate::hash::sha384_value;
use crate::memory::MemoryLayout;
use crate::plan::{PageImport, PageKind, PlanError, Profile, Source};

/// Options of the first stage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirstStage {
    /// Verdict key of the gate whose ticket the stage requires: a P-384 point, uncompressed. Without a key
    /// the stage only loads a UKI.
    pub verdict_key: Option<[u8; POINT]>,
}

/// SHA-384 of the stage's program and of its exit page: identifies a build.
#[must_use]
pub fn program_digest() -> Digest {
    let mut hash = Context::new(&SHA384);
    hash.update(embed::PROGRAM);
    hash.update(embed::EXIT);
    sha384_value(hash.finish())
}

/// Bytes of the stage's program.
#[must_use]
pub fn program_len() -> usize {
    embed::PROGRAM.len() + embed::EXIT.len()
}

impl FirstStage {
    /// The firmware's pages with the stage among them, in ascending order.
    pub(crate) fn imports(
        &self,
        firmware: &Firmware,
        profile: &Profile,
        memory: &MemoryLayout,
    ) -> Result<Vec<PageImport>, PlanError> {
        let image = firmware.image();
        if !memory.contains(WINDOW, WINDOW_LEN) {
            return Err(PlanError::StageMemory { needed: WINDOW + WINDOW_LEN, low: memory.low });
        }
        let lacks = |what| PlanError::StageFirmware { firmware: image.to_string(), what };
        let place = u64::from(firmware.stage_place());
        for (gpa, len) in [(place, STAGE_LEN), (EXIT, PAGE)] {
            let offset = gpa.checked_sub(firmware.gpa()).ok_or_else(|| lacks("room for it"))?;
            check_padding(image, offset, len)?
                .then_some(())
                .ok_or_else(|| lacks("room for it (padding of FFh bytes)"))?;
        }
        let params = self.params(firmware, profile)?;
        let mut stage = vec![0; STAGE_LEN as usize];
        let mut put = |offset: u64, bytes: &[u8]| {
            // Offsets and lengths are constants that `layout` asserts, and `embed` its program's length.
            let at = offset as usize;
            if let Some(room) = stage.get_mut(at..at + bytes.len()) {
                room.copy_from_slice(bytes);
            }
        };
        put(TABLES, &page_tables(place));
        put(PARAMS, params.as_bytes());
        put(PROGRAM, &embed::program_at(place));
        let mut exit = embed::EXIT.to_vec();
        exit.resize(PAGE as usize, 0xff);
        let part = |from: u64, to: u64| PageImport {
            gpa: from,
            len: to - from,
            kind: PageKind::Normal,
            source: Source::Blob { blob: image.clone(), offset: from - firmware.gpa(), len: to - from },
            tag: "firmware",
        };
        let ours = |tag: &'static str, gpa, bytes: Vec<u8>| {
            let len = bytes.len() as u64;
            let source = Source::Blob { blob: Blob::from_bytes(tag, bytes), offset: 0, len };
            PageImport { gpa, len, kind: PageKind::Normal, source, tag }
        };
        let end = firmware.gpa() + firmware.size();
        let parts = [
            part(firmware.gpa(), place),
            ours("first stage", place, stage),
            part(place + STAGE_LEN, EXIT),
            ours("first stage exit", EXIT, exit),
            part(EXIT + PAGE, end),
        ];
        // A place may begin where the image does, or end where the exit page begins.
        Ok(parts.into_iter().filter(|part| part.len != 0).collect())
    }

    fn params(&self, firmware: &Firmware, profile: &Profile) -> Result<Params, PlanError> {
        let lacks = |what| PlanError::StageFirmware { firmware: firmware.image().to_string(), what };
        let section = |kind, what| {
            let found = firmware.sections().unwrap_or_default().iter().find(|s| s.kind == kind && s.len != 0);
            found.map(|section| U64::new(section.gpa)).ok_or_else(|| lacks(what))
        };
        let mut params = Params::new();
        params.secrets = section(SectionKind::Secrets, "a secrets page")?;
        params.cpuid = section(SectionKind::Cpuid, "a CPUID page")?;
        let mut flags = 0;
        if let Some(key) = self.verdict_key {
            params.verdict_key = key;
            flags |= ADMIT;
        }
        // Secrets go where a launch secret would go, provided that the launch creates that memory.
        if let Some(area) = firmware.secret_area().filter(|area| {
            let covers = |s: &Section| {
                s.gpa <= area.gpa && area.gpa + area.len <= s.gpa + s.len && s.kind != SectionKind::Secrets
            };
            firmware.sections().unwrap_or_default().iter().any(covers)
        }) {
            params.secret_area = U64::new(area.gpa);
            params.secret_area_len = U64::new(area.len);
        }
        if let Profile::Uki { image, gpa } = profile {
            flags |= UKI;
            params.uki = U64::new(*gpa);
            params.uki_len = U64::new(image.blob().len());
            params.uki_sha256 = image.blob().sha256().map_err(PlanError::StageUki)?;
        }
        params.flags = U32::new(flags);
        // A plan never contains parameters that the stage would refuse.
        params.check().map_err(|_| lacks("pages where the first stage can use them"))?;
        Ok(params)
    }
}

/// Whether `len` bytes of the image are all FFh.
fn check_padding(image: &Blob, offset: u64, len: u64) -> Result<bool, PlanError> {
    let mut chunks = image.chunks(offset, len);
    while let Some(chunk) = chunks.next_chunk().map_err(PlanError::StageUki)? {
        if chunk.iter().any(|byte| *byte != 0xff) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
