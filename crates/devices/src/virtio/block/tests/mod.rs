// SPDX-License-Identifier: Apache-2.0
//! One suite for both engines, on real files.

mod hostile;
mod opening;
mod queues;
mod requests;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cvmm_disk_image::{Disk, SECTOR};
use cvmm_metrics::{Value, View};
use proptest::prelude::*;
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};

use super::request::{STATUS_IOERR, STATUS_OK, STATUS_UNSUPPORTED};
use super::spec::*;
use super::*;
use crate::virtio::VirtioDevice;
use crate::virtio::testing::{BUFFERS, RAM_LEN, Ring, Signals, activate, memory, wait_for};

const SECTORS: u64 = 2048;
const ENGINES: [EngineKind; 2] = [EngineKind::Uring, EngineKind::Threads];
const HEADER: u64 = BUFFERS;
const STATUS: u64 = BUFFERS + 0x100;
const DATA: u64 = BUFFERS + 0x1000;
const ALL: u64 = F_FLUSH | F_DISCARD | F_WRITE_ZEROES | F_MQ;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

fn config(path: &Path) -> BlockConfig {
    BlockConfig {
        path: path.to_path_buf(),
        read_only: false,
        serial: "serial-1".into(),
        cache: CacheMode::Writeback,
        queues: 1,
        format: ImageFormat::Probe,
    }
}

/// A directory with a disk image whose every sector starts with its number.
fn image() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.img");
    let mut bytes = vec![0xa5; (SECTORS * SECTOR) as usize];
    for (number, sector) in (0_u64..).zip(bytes.chunks_mut(SECTOR as usize)) {
        sector[..8].copy_from_slice(&number.to_le_bytes());
    }
    fs::write(&path, bytes).unwrap();
    (dir, path)
}

struct Machine {
    device: Block,
    rings: Vec<Ring>,
    signals: Arc<Signals>,
}

impl Machine {
    fn new(config: BlockConfig, kind: EngineKind, features: u64) -> Self {
        let mut device = Block::open_with(config, kind).unwrap();
        let memory = memory();
        let rings: Vec<_> =
            (0..device.queue_sizes().len()).map(|number| Ring::new(&memory, number as u64, 64)).collect();
        let signals = activate(&mut device, &rings.iter().collect::<Vec<_>>(), features);
        Self { device, rings, signals }
    }

    fn header(&self, at: u64, kind: u32, sector: u64) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.rings[0].memory.write_slice(&header, GuestAddress(at)).unwrap();
    }

    /// One request on queue 0 with `buffers` between header and status; returns status and used length.
    fn request(&mut self, kind: u32, sector: u64, buffers: &[(u64, u32, bool)]) -> (u8, u32) {
        self.header(HEADER, kind, sector);
        let ring = &mut self.rings[0];
        ring.memory.write_obj(0xee_u8, GuestAddress(STATUS)).unwrap();
        let mut chain = vec![(HEADER, 16, false)];
        chain.extend_from_slice(buffers);
        chain.push((STATUS, 1, true));
        let head = ring.add(&chain);
        ring.kick();
        let (id, used) = ring.wait();
        assert_eq!(id, u32::from(head));
        (ring.memory.read_obj(GuestAddress(STATUS)).unwrap(), used)
    }

    fn range(&mut self, kind: u32, sector: u64, count: u32, flags: u32) -> u8 {
        let mut range = sector.to_le_bytes().to_vec();
        range.extend_from_slice(&count.to_le_bytes());
        range.extend_from_slice(&flags.to_le_bytes());
        self.rings[0].memory.write_slice(&range, GuestAddress(DATA)).unwrap();
        self.request(kind, 0, &[(DATA, 16, false)]).0
    }

    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.rings[0].memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }
}
