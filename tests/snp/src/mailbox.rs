// SPDX-License-Identifier: Apache-2.0
//! The security processor's registers, past the kernel's driver: for a command that the driver does not pass
//! on.
//!
//! Linux, drivers/crypto/ccp/sp-pci.c (`sevv2`): command 10980h, address of the buffer 109E0h and 109E4h. The
//! host is started with `iomem=relaxed`, without which the kernel denies access to registers that a driver
//! has.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::sys::Mapping;
use crate::vm::PAGE;

const ID: &str = "0x1022:0x14ca";
const COMMAND: usize = 0x10980;
const BUFFER_LOW: usize = 0x109e0;
const BUFFER_HIGH: usize = 0x109e4;
const DONE: u32 = 1 << 31;

/// The registers of the security processor.
#[derive(Debug)]
pub struct Mailbox(Mapping);

impl Mailbox {
    /// Find the device and map its registers.
    pub fn open() -> Result<Self> {
        let resource = device()?.join("resource2");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&resource)
            .with_context(|| format!("open {}", resource.display()))?;
        Mapping::of(&file, 0, 0x11000).map(Self).context("the registers")
    }

    /// Give a command with that buffer; the firmware's status.
    pub fn command(&self, id: u32, buffer: &Mapping) -> Result<u32> {
        let address = frame_behind(buffer.address())? * PAGE as u64;
        self.0.set_half(BUFFER_LOW / 4, address as u32);
        self.0.set_half(BUFFER_HIGH / 4, (address >> 32) as u32);
        self.0.set_half(COMMAND / 4, id << 16);
        let began = Instant::now();
        loop {
            let answer = self.0.half(COMMAND / 4);
            if answer & DONE != 0 {
                return Ok(answer & 0xffff);
            }
            if began.elapsed() > Duration::from_secs(10) {
                bail!("no answer to command {id:#x}");
            }
        }
    }
}

fn device() -> Result<PathBuf> {
    for entry in fs::read_dir("/sys/bus/pci/devices").context("/sys/bus/pci/devices")? {
        let path = entry.context("/sys/bus/pci/devices")?.path();
        let read = |name| fs::read_to_string(path.join(name)).unwrap_or_default().trim().to_owned();
        if format!("{}:{}", read("vendor"), read("device")) == ID {
            return Ok(path);
        }
    }
    bail!("no PCI device {ID}")
}

/// The page frame of one of our pages, which must have been written to.
pub fn frame_behind(address: u64) -> Result<u64> {
    let mut entry = [0; 8];
    File::open("/proc/self/pagemap")
        .and_then(|map| map.read_exact_at(&mut entry, address / PAGE as u64 * 8))
        .context("/proc/self/pagemap")?;
    let entry = u64::from_le_bytes(entry);
    if entry >> 63 == 0 {
        bail!("no page behind {address:#x}");
    }
    Ok(entry & ((1 << 55) - 1))
}
