// SPDX-License-Identifier: Apache-2.0
//! Which devices the machine has and where they answer.

use std::sync::{Arc, Mutex};

use cvmm_acpi::AcpiConfig;
use cvmm_devices::bus::{Bus, BusDevice, BusError};
use cvmm_devices::chipset::console_out::ConsoleOut;
use cvmm_devices::chipset::{
    KeyboardReset, PmTimer, ResetControl, Rtc, Serial, SerialError, SleepControl, SleepStatus,
};
use cvmm_devices::fw_cfg::FwCfgError;
use cvmm_devices::host::PowerSink;
use cvmm_devices::memory::DeviceMemory;
use cvmm_devices::pci::{
    ConfigPorts, Ecam, EcamWindow, HostBridge, LpcBridge, PciError, PciRoot, Visibility, Window,
};
use cvmm_devices::tpm::crb;
use cvmm_devices::virtio::VirtioDevice;
use cvmm_devices::virtio::block::{self, Block, BlockConfig, BlockError};
use cvmm_devices::virtio::console::Console;
use cvmm_devices::virtio::pci::{TransportError, VirtioPci};
use cvmm_devices::virtio::rng::Rng;
use cvmm_kvm::irq::{IrqRoutes, KvmDoorbells, KvmMsi};
use kvm_ioctls::VmFd;
use thiserror::Error;

use super::console::ConsolePort;
use super::console_sink::ConsoleSink;
use super::dispatch::Dispatch;
use super::fw_cfg;
use super::layout;
use super::tpm::GuestTpm;
use crate::config::{Boot, Config, ConsoleDevice, Disk, MAX_DISK_QUEUES, MAX_SERIAL};
use crate::control::Control;
use crate::inputs::Inputs;
use crate::pipe::input_pipe;
use crate::progress::Milestones;

/// Device number of the host bridge, and of the LPC bridge where Q35 has it.
const SLOT_HOST_BRIDGE: u8 = 0;
const SLOT_LPC: u8 = 0x1f;
/// First device number for virtio.
const SLOT_FIRST_VIRTIO: u8 = 1;
// Whatever vm.toml accepts, the block device takes.
const _: () = assert!(MAX_DISK_QUEUES <= block::MAX_QUEUES && MAX_SERIAL <= block::SERIAL_LEN);

/// Why a device could not be built.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// Two devices at one address.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The PCI bus is full.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// fw_cfg.
    #[error(transparent)]
    FwCfg(#[from] FwCfgError),
    /// The serial port.
    #[error(transparent)]
    Serial(#[from] SerialError),
    /// A disk.
    #[error("disk {serial:?}: {source}")]
    Disk {
        /// Its serial.
        serial: String,
        /// What is wrong.
        #[source]
        source: BlockError,
    },
    /// A virtio function.
    #[error("virtio device {name}: {source}")]
    Virtio {
        /// Which.
        name: String,
        /// What is wrong.
        #[source]
        source: TransportError,
    },
    /// A descriptor or thread.
    #[error("cannot create {what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The host's answer.
        #[source]
        source: std::io::Error,
    },
    /// The guest's address space is too small.
    #[error(
        "the 64-bit pci window does not fit: the guest has {bits} physical address bits and memory = {high:#x} \
         bytes above 4 GiB; lower memory"
    )]
    NoPciWindow {
        /// Width of guest physical addresses.
        bits: u8,
        /// RAM above 4 GiB.
        high: u64,
    },
    /// No randomness for the VM generation id.
    #[error("cannot read random bytes for the vm generation id: {0}")]
    Random(#[source] std::io::Error),
}

/// What devices are built from.
pub struct Parts<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// Checked files.
    pub inputs: &'a Inputs,
    /// The memory devices may see.
    pub memory: DeviceMemory,
    /// For interrupts and doorbells.
    pub vm: &'a Arc<VmFd>,
    /// For interrupts.
    pub routes: &'a Arc<IrqRoutes>,
    /// For power events.
    pub control: &'a Arc<Control>,
    /// The host's end of the console.
    pub console: &'a ConsoleSink,
    /// Width of guest physical addresses.
    pub physical_bits: u8,
    /// For the timeline.
    pub milestones: &'a Arc<Milestones>,
    /// The TPM, if there is one.
    pub tpm: Option<&'a GuestTpm>,
    /// Virtio devices from outside, with their names.
    pub virtio: Vec<(String, Box<dyn VirtioDevice>)>,
}

/// The devices, ready to answer.
pub struct Devices {
    /// Where accesses go.
    pub dispatch: Arc<Dispatch>,
    /// Where console input goes.
    pub console: ConsolePort,
}

fn shared<T: BusDevice + 'static>(device: T) -> Arc<Mutex<dyn BusDevice>> {
    Arc::new(Mutex::new(device))
}

/// Builds all devices.
pub fn build(parts: Parts<'_>) -> Result<Devices, DeviceError> {
    let Parts {
        config,
        inputs,
        memory,
        vm,
        routes,
        control,
        console,
        physical_bits,
        milestones,
        tpm,
        virtio,
    } = parts;
    let host = |what| move |source| DeviceError::Host { what, source };
    // What an IGVM file boots from is not known: its firmware sees everything.
    let boots_from_disk = matches!(config.boot, Boot::Disk { .. } | Boot::Igvm { .. });
    let power: Arc<dyn PowerSink> = Arc::clone(control) as _;

    // A stock OVMF places the window itself (`fw_cfg::build`).
    let mem64 = if boots_from_disk { layout::pci_mem64_free } else { layout::pci_mem64 };
    let mem64 = mem64(&inputs.memory, physical_bits)
        .ok_or(DeviceError::NoPciWindow { bits: physical_bits, high: inputs.memory.high })?;
    let mem32 = layout::PCI_MEM32;
    let window = |range: &std::ops::Range<u64>| Window { base: range.start, len: range.end - range.start };
    let mut pci = PciRoot::new(&[window(&mem32), window(&mem64)]);
    let ecam = EcamWindow::new(layout::ECAM.start, layout::ECAM_FREE);
    let bridge = Arc::new(Mutex::new(HostBridge::new(Arc::clone(&ecam))));
    pci.add(SLOT_HOST_BRIDGE, "host bridge", Visibility::Everywhere, bridge)?;
    // Visible only when firmware should find its console behind it (and a disk to boot from shows on it).
    let lpc = LpcBridge::new(config.debug.firmware_console || boots_from_disk);
    pci.add(SLOT_LPC, "lpc bridge", Visibility::Everywhere, Arc::new(Mutex::new(lpc)))?;

    let mut ports = Bus::new();
    ports.add(0x64, 1, "keyboard reset", shared(KeyboardReset::new(Arc::clone(&power))))?;
    ports.add(0x70, 2, "rtc", shared(Rtc::new()))?;
    ports.add(0x601, 1, "sleep status", shared(SleepStatus::default()))?;
    ports.add(0x604, 2, "sleep control", shared(SleepControl::new(Arc::clone(&power))))?;
    ports.add(0x608, 4, "pm timer", shared(PmTimer::new()))?;

    let mut functions: Vec<(String, Box<dyn VirtioDevice>)> = Vec::new();
    let console_port = match config.console.device {
        ConsoleDevice::Serial => {
            let interrupt =
                routes.connect_pin(cvmm_acpi::SERIAL_GSI).map_err(host("the serial interrupt"))?;
            let serial = Serial::new(interrupt, None, Box::new(console.clone()))?;
            let output = serial.output_control();
            let serial = Arc::new(Mutex::new(serial));
            ports.add(0x3f8, 8, "serial", Arc::clone(&serial) as _)?;
            ConsolePort::Serial(serial, output)
        }
        ConsoleDevice::Virtio => {
            let (reader, writer) = input_pipe().map_err(host("the console pipe"))?;
            let output =
                ConsoleOut::new("hvc0-out", Box::new(console.clone())).map_err(host("the console thread"))?;
            functions.push(("console".to_owned(), Box::new(Console::new(Box::new(output), Some(reader)))));
            ConsolePort::Virtio(writer)
        }
    };
    for disk in &config.disks {
        let block = open_disk(disk, config.vcpus)
            .map_err(|source| DeviceError::Disk { serial: disk.serial.clone(), source })?;
        functions.push((format!("disk {}", disk.serial), Box::new(block)));
    }
    if config.rng {
        functions.push(("rng".to_owned(), Box::new(Rng::new())));
    }
    functions.extend(virtio);

    // A device that firmware has no use for costs it nothing when its enumeration does not see it.
    let visibility = if boots_from_disk { Visibility::Everywhere } else { Visibility::Cf8Only };
    let msi = KvmMsi(Arc::clone(routes));
    let doorbells = Arc::new(KvmDoorbells::new(Arc::clone(vm), [mem32.clone(), mem64.clone()]));
    for (slot, (name, device)) in (SLOT_FIRST_VIRTIO..).zip(functions) {
        let function = VirtioPci::new(device, memory.clone(), &msi, Arc::clone(&doorbells) as _)
            .map_err(|source| DeviceError::Virtio { name: name.clone(), source })?;
        pci.add(slot, name, visibility, Arc::new(Mutex::new(function)))?;
    }

    let acpi = cvmm_acpi::build(&AcpiConfig {
        vcpus: config.vcpus,
        mem32: low_window(&mem32),
        mem64: mem64.clone(),
        com1: config.console.device == ConsoleDevice::Serial,
        tpm: tpm.map(GuestTpm::region),
        vm_generation_id: generation_id()?,
    });
    // Configuration limits vcpus to 64.
    let vcpus = u16::try_from(config.vcpus).unwrap_or(u16::MAX);
    let fw_cfg = fw_cfg::build(inputs, vcpus, (!boots_from_disk).then_some(&mem64), acpi, memory)?;
    ports.add(0x510, 12, "fw_cfg", shared(fw_cfg))?;

    let pci = Arc::new(pci);
    let reset = Box::new(ResetControl::new(power));
    ports.add(
        ConfigPorts::BASE,
        ConfigPorts::LEN,
        "pci ports",
        shared(ConfigPorts::new(Arc::clone(&pci), reset)),
    )?;
    let mut mmio = Bus::new();
    if let Some(tpm) = tpm {
        mmio.add(crb::BASE, crb::LEN, "tpm", tpm.device())?;
    }

    let ecam = Ecam::new(Arc::clone(&pci), ecam);
    let first_stage = inputs.plan.has_first_stage().then(Arc::default);
    let dispatch = Dispatch { ports, mmio, ecam, pci, first_stage, milestones: Arc::clone(milestones) };
    Ok(Devices { dispatch: Arc::new(dispatch), console: console_port })
}

/// The window lies below 4 GiB by its definition.
fn low_window(range: &std::ops::Range<u64>) -> std::ops::Range<u32> {
    range.start as u32..range.end as u32
}

fn open_disk(disk: &Disk, vcpus: u32) -> Result<Block, BlockError> {
    Block::open(BlockConfig {
        path: disk.path.clone(),
        read_only: disk.read_only,
        serial: disk.serial.clone(),
        cache: disk.cache.into(),
        format: disk.format.into(),
        // One queue per vCPU: no vCPU waits for another one's lock.
        queues: disk
            .queues
            .unwrap_or(u16::try_from(vcpus).map_or(MAX_DISK_QUEUES, |vcpus| vcpus.min(MAX_DISK_QUEUES))),
    })
}

/// Fresh for every machine, so that a guest notices that it was reset or copied.
fn generation_id() -> Result<[u8; 16], DeviceError> {
    let mut id = [0; 16];
    let file = std::fs::File::open("/dev/urandom").map_err(DeviceError::Random)?;
    std::io::Read::read_exact(&mut &file, &mut id).map_err(DeviceError::Random)?;
    Ok(id)
}
