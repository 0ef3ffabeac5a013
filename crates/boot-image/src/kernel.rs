// SPDX-License-Identifier: Apache-2.0
//! A kernel as its own decompressor would leave it in memory.

use cvmm_kernel_stub::payload::{
    ACCEPTS_MEMORY, Compression, HEADER_LEN, Header, MAGIC, MEMORY_MAX, MIN_ALIGNMENT, RELOCATIONS_MAX,
    SETUP_MAX, VERSION,
};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use crate::error::KernelError;
use crate::relocations::Relocations;
use crate::setup::Setup;
use crate::{compressed, elf, relocations, setup};

/// Linux' GUID of its table of unaccepted memory, d5d1de3c-105c-44f9-9ea9-bcef98120031: a kernel that accepts
/// memory itself looks for the table and so contains it.
const UNACCEPTED_TABLE: [u8; 16] =
    [0x3c, 0xde, 0xd1, 0xd5, 0x5c, 0x10, 0xf9, 0x44, 0x9e, 0xa9, 0xbc, 0xef, 0x98, 0x12, 0x00, 0x31];

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub struct UnpackedKernel {
    setup: Setup,
    image: elf::LoadImage,
    relocations: Relocations,
    accepts_memory: bool,
}

/// Figures of an unpacked kernel, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// Bytes of the load image.
    pub image: u64,
    /// Bytes of memory that it needs to start.
    pub memory: u64,
    /// Whether the kernel can run at a random virtual address.
    pub relocatable: bool,
    /// Whether it accepts private memory itself, when it needs it.
    pub accepts_memory: bool,
    /// Longest command line in bytes.
    pub cmdline_max: u32,
}

impl UnpackedKernel {
    /// Unpacks the bzImage or vmlinux `file`.
    pub fn read(file: &[u8]) -> Result<Self, KernelError> {
        if setup::is_bzimage(file) {
            let (setup, payload) = setup::read(file)?;
            let unpacked = compressed::unpack(payload)?;
            Self::from_vmlinux(setup, &unpacked, true)
        } else if elf::is_elf(file) {
            Self::from_vmlinux(setup::for_vmlinux(), file, false)
        } else {
            Err(KernelError::Format)
        }
    }

    fn from_vmlinux(setup: Setup, file: &[u8], with_relocations: bool) -> Result<Self, KernelError> {
        let mut image = elf::load(file)?;
        // Zeros at the end, which the kernel's build writes out, are cleared by the stub.
        let used = image.bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
        let entry = image.entry - image.base;
        let relocations = if with_relocations {
            let rest = file.get(image.file_len..).unwrap_or_default();
            relocations::read(rest, image.base, image.bytes.len())?
        } else {
            Relocations::default()
        };
        let fields = relocations.iter().flatten().map(|at| *at as usize + 8).max().unwrap_or_default();
        let len = used.max(fields).max(entry as usize + 1).min(image.bytes.len());
        image.bytes.truncate(len);
        let kernel = Self {
            accepts_memory: image.bytes.windows(UNACCEPTED_TABLE.len()).any(|guid| guid == UNACCEPTED_TABLE),
            setup,
            image,
            relocations,
        };
        kernel.check()?;
        Ok(kernel)
    }

    /// Limits of a payload, in the words of the kernel's files.
    fn check(&self) -> Result<(), KernelError> {
        if self.relocations.iter().any(|list| list.len() as u64 > u64::from(RELOCATIONS_MAX)) {
            return Err(KernelError::Relocations("there are more than 4 Mi of one kind".to_owned()));
        }
        if self.memory() > MEMORY_MAX {
            let rule = "a kernel needs at most 512 MiB";
            return Err(KernelError::Field { field: "init_size", offset: 0x260, value: self.memory(), rule });
        }
        // What is left is about the two files together.
        let header = self.header(Compression::None, 0);
        match header.check() {
            Err(defect) if defect.field != "stored" => {
                let value = match defect.field {
                    "base" => header.base.get(),
                    "alignment" => header.alignment.get(),
                    _ => header.memory.get(),
                };
                let (field, rule) = (defect.field, defect.rule);
                Err(KernelError::Field { field, offset: defect.offset as u64, value, rule })
            }
            _ => Ok(()),
        }
    }

    fn memory(&self) -> u64 {
        self.image.memory.max(self.setup.init_size)
    }

    fn header(&self, compression: Compression, stored: u64) -> Header {
        let counts = self.relocations.each_ref().map(|list| U32::new(list.len() as u32));
        Header {
            magic: MAGIC,
            version: U32::new(VERSION),
            compression: U32::new(match compression {
                Compression::None => 0,
                Compression::Lz4 => 1,
            }),
            flags: U32::new(if self.accepts_memory { ACCEPTS_MEMORY } else { 0 }),
            setup_len: U32::new(self.setup.len),
            stored: U64::new(stored),
            image: U64::new(self.image.bytes.len() as u64),
            memory: U64::new(self.memory()),
            base: U64::new(self.image.base),
            alignment: U64::new(self.setup.alignment.max(MIN_ALIGNMENT)),
            entry: U64::new(self.image.entry - self.image.base),
            relocations: counts,
            setup: self.setup.header,
            reserved: [0; HEADER_LEN - 84 - SETUP_MAX],
        }
    }

    /// The content of `.linux`.
    #[must_use]
    pub fn payload(&self, compression: Compression) -> Vec<u8> {
        let mut content = self.image.bytes.clone();
        for at in self.relocations.iter().flatten() {
            content.extend(at.to_le_bytes());
        }
        let stored = match compression {
            Compression::None => content,
            Compression::Lz4 => lz4_flex::block::compress(&content),
        };
        [self.header(compression, stored.len() as u64).as_bytes(), &stored].concat()
    }

    /// Its figures.
    #[must_use]
    pub fn description(&self) -> Description {
        let header = self.header(Compression::None, 0);
        Description {
            image: header.image.get(),
            memory: header.memory.get(),
            relocatable: header.is_relocatable(),
            accepts_memory: self.accepts_memory,
            cmdline_max: header.cmdline_max(),
        }
    }

    /// The release of the kernel (`uname -r`), from the text that a bzImage has for boot loaders.
    #[must_use]
    pub fn release(file: &[u8]) -> Option<String> {
        // kernel_version, from the second sector on.
        let at = usize::from(u16::from_le_bytes(file.get(0x20e..0x210)?.try_into().ok()?));
        if !setup::is_bzimage(file) || at == 0 {
            return None;
        }
        let text = file.get(at + 0x200..)?.split(|byte| *byte == 0).next()?;
        let release = std::str::from_utf8(text).ok()?.split(' ').next()?;
        let printable = release.len() <= 64 && release.bytes().all(|byte| byte.is_ascii_graphic());
        (printable && !release.is_empty()).then(|| release.to_owned())
    }
}

#[cfg(test)]
mod tests;
