// SPDX-License-Identifier: Apache-2.0
//! Collects the items of a machine.

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;

use super::content::Content;
use super::device::FwCfg;
use super::key;
use crate::memory::DeviceMemory;

/// A directory entry's name field, with the NUL at its end.
const NAME_FIELD: usize = 56;
/// ID bit 0: selector and data register. Bit 1: DMA.
const ID: u32 = 0b11;

/// Why the items cannot be served.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FwCfgError {
    /// The name does not fit the directory or guests could not compare it.
    #[error("fw_cfg file name {0:?} must have 1 to 55 printable ascii characters")]
    Name(String),
    /// Two files of one name.
    #[error("fw_cfg file {0:?} is given twice")]
    Duplicate(String),
    /// Sizes are 32-bit numbers.
    #[error("fw_cfg item {name} has {len} bytes; it can have at most {max}", max = u32::MAX)]
    TooLarge {
        /// The file's name or what the item is.
        name: String,
        /// Its length.
        len: u64,
    },
    /// Keys ran out.
    #[error("{0} fw_cfg files are more than there are keys for")]
    TooManyFiles(usize),
    /// The guest would see a shorter command line than was hashed.
    #[error("the kernel command line contains a nul at byte {0}; remove it")]
    NulInCmdline(usize),
}

/// Items of a machine; start with [`FwCfg::builder`].
#[derive(Default)]
pub struct FwCfgBuilder {
    vcpus: u16,
    setup: Option<Arc<dyn Content>>,
    kernel: Option<Arc<dyn Content>>,
    initrd: Option<Arc<dyn Content>>,
    cmdline: Option<String>,
    files: Vec<(String, Arc<dyn Content>)>,
}

impl FwCfg {
    /// Starts collecting items.
    pub fn builder() -> FwCfgBuilder {
        FwCfgBuilder::default()
    }
}

impl std::fmt::Debug for FwCfgBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let files: Vec<_> = self.files.iter().map(|(name, content)| (name, content.len())).collect();
        f.debug_struct("FwCfgBuilder")
            .field("vcpus", &self.vcpus)
            .field("files", &files)
            .finish_non_exhaustive()
    }
}

impl FwCfgBuilder {
    /// Number of vCPUs that firmware waits for.
    #[must_use]
    pub fn vcpus(mut self, count: u16) -> Self {
        self.vcpus = count;
        self
    }

    /// A bzImage in its two parts: the boot sector with `setup_sects` more sectors, and the rest. An image
    /// that is not split goes into the file `etc/boot/kernel` instead.
    #[must_use]
    pub fn kernel(mut self, setup: impl Content + 'static, kernel: impl Content + 'static) -> Self {
        self.setup = Some(Arc::new(setup));
        self.kernel = Some(Arc::new(kernel));
        self
    }

    /// The initial RAM disk.
    #[must_use]
    pub fn initrd(mut self, initrd: impl Content + 'static) -> Self {
        self.initrd = Some(Arc::new(initrd));
        self
    }

    /// The kernel command line, without the NUL that guests get behind it.
    #[must_use]
    pub fn cmdline(mut self, cmdline: impl Into<String>) -> Self {
        self.cmdline = Some(cmdline.into());
        self
    }

    /// A named file. Order does not matter: the directory is sorted by name.
    #[must_use]
    pub fn file(mut self, name: impl Into<String>, content: impl Content + 'static) -> Self {
        self.files.push((name.into(), Arc::new(content)));
        self
    }

    /// The device. DMA reaches `memory` only.
    pub fn build(mut self, memory: DeviceMemory) -> Result<FwCfg, FwCfgError> {
        let mut items: BTreeMap<u16, Arc<dyn Content>> = BTreeMap::new();
        let mut bytes = |key: u16, value: Vec<u8>| {
            items.insert(key, Arc::new(value));
        };
        bytes(key::SIGNATURE, b"QEMU".to_vec());
        bytes(key::ID, ID.to_le_bytes().to_vec());
        bytes(key::CPU_COUNT, self.vcpus.to_le_bytes().to_vec());
        bytes(key::BOOT_MENU, 0_u16.to_le_bytes().to_vec());

        let cmdline = match self.cmdline.take().map(String::into_bytes) {
            Some(line) => match line.iter().position(|byte| *byte == 0) {
                Some(at) => return Err(FwCfgError::NulInCmdline(at)),
                None => Some(Arc::new([line, vec![0]].concat()) as Arc<dyn Content>),
            },
            None => None,
        };
        // The sizes answer in any case: firmware takes a zero for "no kernel".
        for (name, size_key, data_key, content) in [
            ("kernel set-up", key::SETUP_SIZE, key::SETUP_DATA, self.setup.take()),
            ("kernel", key::KERNEL_SIZE, key::KERNEL_DATA, self.kernel.take()),
            ("initrd", key::INITRD_SIZE, key::INITRD_DATA, self.initrd.take()),
            ("command line", key::CMDLINE_SIZE, key::CMDLINE_DATA, cmdline),
        ] {
            let size = content.as_ref().map_or(Ok(0), |content| size(name, &**content))?;
            items.insert(size_key, Arc::new(size.to_le_bytes().to_vec()));
            if let Some(content) = content {
                items.insert(data_key, content);
            }
        }

        let mut files = self.files;
        files.sort_by(|(a, _), (b, _)| a.cmp(b));
        if let Some(pair) = files.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(FwCfgError::Duplicate(pair[0].0.clone()));
        }
        let total = files.len();
        let count = u32::try_from(total).map_err(|_| FwCfgError::TooManyFiles(total))?;
        let mut directory = count.to_be_bytes().to_vec();
        let mut keys = key::FIRST_FILE..=key::LAST;
        for (name, content) in files {
            let key = keys.next().ok_or(FwCfgError::TooManyFiles(total))?;
            let size = size(&name, &*content)?;
            directory.extend(entry(&name, size, key)?);
            items.insert(key, content);
        }
        items.insert(key::DIRECTORY, Arc::new(directory));
        Ok(FwCfg::new(items, memory))
    }
}

fn size(name: &str, content: &dyn Content) -> Result<u32, FwCfgError> {
    let len = content.len();
    u32::try_from(len).map_err(|_| FwCfgError::TooLarge { name: name.to_owned(), len })
}

/// `{u32 size, u16 key, u16 0, char[56]}`, big-endian.
fn entry(name: &str, size: u32, key: u16) -> Result<Vec<u8>, FwCfgError> {
    let printable = name.bytes().all(|byte| byte.is_ascii_graphic());
    if !printable || name.is_empty() || name.len() >= NAME_FIELD {
        return Err(FwCfgError::Name(name.to_owned()));
    }
    let mut entry = Vec::with_capacity(8 + NAME_FIELD);
    entry.extend(size.to_be_bytes());
    entry.extend(key.to_be_bytes());
    entry.extend([0; 2]);
    entry.extend(name.bytes().chain(std::iter::repeat(0)).take(NAME_FIELD));
    Ok(entry)
}
