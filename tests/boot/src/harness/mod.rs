// SPDX-License-Identifier: Apache-2.0
//! What the cases share: [`Ctx`] knows the artefacts and the case's folder and deadline, [`Spec`] is a
//! `vm.toml`, [`Vm`] a running cvmm.

pub mod acpi;
pub mod contract;
pub mod doctor;
pub mod dump;
pub mod eventlog;
pub mod gate;
pub mod images;
pub mod leftovers;
pub mod payload;
pub mod quote;
pub mod report;
pub mod smaps;
pub mod spec;
pub mod stats;
pub mod sys;
pub mod timeline;
pub mod vm;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub use spec::{Boot, Disk, Spec};
pub use vm::Vm;

use crate::Options;

/// A case that cannot be tried here, as an error.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "skipped: {}", self.0)
    }
}

impl std::error::Error for Skip {}

/// One cvmm process, for the summary.
#[derive(Debug)]
pub struct BootRecord {
    /// Number within the case.
    pub number: u32,
    /// Exit status; none if it had to be killed.
    pub code: Option<i32>,
    /// From start to exit.
    pub spent: Duration,
    /// The timeline as cvmm wrote it.
    pub timeline: Value,
}

impl BootRecord {
    /// For the summary.
    pub fn json(&self) -> Value {
        json!({ "number": self.number, "exit_code": self.code, "seconds": rounded(self.spent), "timeline": self.timeline })
    }
}

/// A case's surroundings.
#[derive(Debug)]
pub struct Ctx {
    /// The program under test.
    pub cvmm: PathBuf,
    /// The same with a hostile host.
    pub hostile: PathBuf,
    /// What `tests/guest/build` made.
    pub guest: PathBuf,
    /// A UKI whose kernel shows the guest its secrets.
    pub secrets_guest: PathBuf,
    /// UKIs of the guest with other kernels: `guest-VERSION.efi`.
    pub kernels: PathBuf,
    /// Stock QEMU.
    pub qemu: PathBuf,
    /// OVMF.amdsev.fd.
    pub firmware: PathBuf,
    /// OVMF.cvmm.fd.
    pub own_firmware: PathBuf,
    /// Disks and keys for Secure Boot, as `tests/boot/run` makes them.
    pub secure_boot: PathBuf,
    /// OVMF.fd.
    pub stock_firmware: PathBuf,
    /// OVMF.fd of edk2 2022.11.
    pub old_stock_firmware: PathBuf,
    /// Keys and certificates of the host's security processor.
    pub keys: PathBuf,
    /// The case's folder.
    pub dir: PathBuf,
    /// When the case is given up.
    pub deadline: Instant,
    started: Cell<u32>,
    made: RefCell<Vec<PathBuf>>,
    records: RefCell<Vec<BootRecord>>,
}

impl Ctx {
    /// For a case that may take `limit`.
    pub fn new(options: &Options, dir: &Path, limit: Duration) -> Self {
        Self {
            cvmm: options.cvmm.clone(),
            hostile: options.hostile.clone(),
            guest: options.guest.clone(),
            secrets_guest: options.secrets_guest.clone(),
            kernels: options.kernels.clone(),
            qemu: options.qemu.clone(),
            firmware: options.firmware.clone(),
            own_firmware: options.own_firmware.clone(),
            secure_boot: options.secure_boot.clone(),
            stock_firmware: options.stock_firmware.clone(),
            old_stock_firmware: options.old_stock_firmware.clone(),
            keys: options.keys.clone(),
            dir: dir.to_path_buf(),
            deadline: Instant::now() + limit,
            started: Cell::new(0),
            made: RefCell::default(),
            records: RefCell::default(),
        }
    }

    /// A path in the case's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The number of the next cvmm of this case, from 1.
    pub fn next_number(&self) -> u32 {
        self.started.set(self.started.get() + 1);
        self.started.get()
    }

    /// Files that the harness itself made or ordered.
    pub fn made(&self) -> Vec<PathBuf> {
        self.made.borrow().clone()
    }

    /// `KIND-NUMBER.END` in the case's folder, which is thereby not a leftover.
    pub fn own_file(&self, kind: &str, number: u32, end: &str) -> PathBuf {
        let path = self.path(&format!("{kind}-{number}.{end}"));
        self.made.borrow_mut().push(path.clone());
        path
    }

    /// `NAME` in the case's folder, which is thereby not a leftover.
    pub fn own_path(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        self.made.borrow_mut().push(path.clone());
        path
    }

    /// Remembers a process that ended.
    pub fn record(&self, record: BootRecord) {
        self.records.borrow_mut().push(record);
    }

    /// What ended, in order.
    pub fn into_records(self) -> Vec<BootRecord> {
        self.records.into_inner()
    }
}

/// Seconds to the millisecond.
pub fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}
