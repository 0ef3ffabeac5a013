// SPDX-License-Identifier: Apache-2.0
//! What an unmodified kernel says of the host, and /dev/sev, with the `sev` crate as the client.

use std::fs;

use anyhow::{Context, Result, anyhow, ensure};
use cvmm_sev_host::SevDevice;
use sev::firmware::host::{Config, Firmware, MaskId, SnpPlatformStatus, WrappedVlekHashstick};
use sev::parser::ByteParser;
use sev::{Generation, firmware::host::TcbVersion};

use super::Case;
use crate::mailbox::{Mailbox, frame_behind};
use crate::sys::{self, Mapping};
use crate::vm::PAGE;

const BAD_MEASUREMENT: u32 = 0xb;

pub const BOOT: &[Case] = &[
    Case { name: "dmesg", about: "the kernel took RMP, security processor and SNP into use", run: dmesg },
    Case { name: "platform-status", about: "/dev/sev: SNP_PLATFORM_STATUS", run: platform_status },
    Case { name: "sev-host", about: "cvmm's client of /dev/sev agrees with the `sev` crate", run: sev_host },
];

/// These change the host's configuration: last.
pub const DEVICE: &[Case] = &[
    Case {
        name: "set-config",
        about: "/dev/sev: SNP_SET_CONFIG of an older reported TCB, and of a newer one",
        run: set_config,
    },
    Case { name: "vlek-load", about: "SNP_VLEK_LOAD, of an altered hashstick too", run: vlek_load },
    Case { name: "commit", about: "/dev/sev: SNP_COMMIT", run: commit },
];

fn dmesg(_: &crate::Options) -> Result<String> {
    let log = sys::dmesg()?;
    for wanted in [
        "SEV-SNP: RMP table physical range",
        "SEV-SNP API:",
        "kvm_amd: SEV-SNP enabled",
        "AMD-Vi: IOMMU SNP support enabled",
    ] {
        ensure!(log.contains(wanted), "the kernel's log has no '{wanted}'");
    }
    let api = log.split_once("SEV-SNP API:").map_or("", |(_, rest)| rest.lines().next().unwrap_or(""));
    Ok(format!("SEV-SNP API:{api}"))
}

fn firmware() -> Result<Firmware> {
    Firmware::open().context("/dev/sev")
}

pub fn status() -> Result<SnpPlatformStatus> {
    firmware()?.snp_platform_status().map_err(|error| anyhow!("SNP_PLATFORM_STATUS: {error}"))
}

/// Its four parts.
pub fn parts(tcb: TcbVersion) -> [u8; 4] {
    [tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode]
}

fn platform_status(_: &crate::Options) -> Result<String> {
    let status = status()?;
    ensure!(status.version >= (1, 51), "firmware version {:?}", status.version);
    ensure!(status.state == 1, "platform state {}, not initialised", status.state);
    ensure!(status.is_rmp_init.is_rmp_init(), "the firmware knows no RMP");
    ensure!(status.guest_count == 0, "{} guests before the first", status.guest_count);
    let (current, reported) = (parts(status.platform_tcb_version), parts(status.reported_tcb_version));
    ensure!(current == reported, "reported TCB {reported:?}, current {current:?}");
    Ok(format!("version {:?}, TCB {current:?}", status.version))
}

fn sev_host(_: &crate::Options) -> Result<String> {
    let device = SevDevice::open()?;
    let (ours, theirs) = (device.platform_status()?, status()?);
    ensure!((ours.api_major, ours.api_minor) == theirs.version, "API version: {ours:?}, {theirs:?}");
    ensure!(ours.state == theirs.state, "state: {ours:?}, {theirs:?}");
    ensure!(ours.is_rmp_initialized() == theirs.is_rmp_init.is_rmp_init(), "RMP: {ours:?}, {theirs:?}");
    ensure!(ours.build.get() == theirs.build_id, "build: {ours:?}, {theirs:?}");
    ensure!(ours.guests.get() == theirs.guest_count, "guests: {ours:?}, {theirs:?}");
    let generation = Generation::identify_host_generation()?;
    for (ours, theirs) in
        [(ours.current_tcb, theirs.platform_tcb_version), (ours.reported_tcb, theirs.reported_tcb_version)]
    {
        ensure!(TcbVersion::from_bytes_with(&ours.0, generation)? == theirs, "TCB: {ours:?}, {theirs:?}");
    }
    let (chip, identifier) = (device.chip_id()?, firmware()?.get_identifier());
    let identifier = identifier.map_err(|error| anyhow!("GET_ID2: {error}"))?.0;
    ensure!(chip[..] == identifier[..], "chip identifier: {chip:02x?}, {identifier:02x?}");
    Ok(format!("build {}, {} guests", ours.build.get(), ours.guests.get()))
}

fn configure(tcb: TcbVersion) -> Result<(), sev::error::UserApiError> {
    Firmware::open()?.snp_set_config(Config::new(tcb, MaskId::default()))
}

fn set_config(_: &crate::Options) -> Result<String> {
    let current = status()?.platform_tcb_version;
    let (mut older, mut newer) = (current, current);
    older.microcode -= 1;
    newer.microcode += 1;
    configure(older).map_err(|error| anyhow!("an older reported TCB: {error}"))?;
    let reported = parts(status()?.reported_tcb_version);
    ensure!(reported == parts(older), "reported TCB {reported:?}, set {:?}", parts(older));
    let error = configure(newer).err().context("a newer TCB than the firmware's was taken")?;
    Ok(format!("reported TCB {reported:?}; a newer one: {error}"))
}

/// By the ioctl, and if the kernel does not pass it on, by the security processor's registers.
fn vlek_load(options: &crate::Options) -> Result<String> {
    let path = options.keys.join("vlek-hashstick.bin");
    let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let mut altered = bytes.clone();
    altered[0x20] ^= 1;
    let text = match by_ioctl(&bytes) {
        Ok(()) => {
            let error = by_ioctl(&altered).err().context("an altered hashstick was taken")?;
            format!("by ioctl; altered: {error}")
        }
        Err(error) => {
            // Kernels before the fix (and Debian's 6.12.95) do not know this command's length: they warn and
            // do not ask the firmware.
            let kernel = sys::dmesg()?.contains("__sev_do_cmd_locked");
            ensure!(kernel && error.to_string().contains("os error 22"), "{error}");
            let status = by_mailbox(&bytes)?;
            ensure!(status == 0, "the firmware's status {status:#x}");
            let status = by_mailbox(&altered)?;
            ensure!(status == BAD_MEASUREMENT, "an altered hashstick: the firmware's status {status:#x}");
            format!(
                "by registers; altered: status {status:#x} (the kernel's bug in the ioctl: it warns and says EINVAL)"
            )
        }
    };
    ensure!(status()?.platform_policy.vlek_en(), "the platform's status does not know of a VLEK");
    Ok(text)
}

fn by_ioctl(bytes: &[u8]) -> Result<()> {
    let stick = WrappedVlekHashstick::from_bytes_with(bytes, Generation::identify_host_generation()?)
        .map_err(|error| anyhow!("parse the hashstick: {error}"))?;
    firmware()?.snp_vlek_load(stick).map_err(|error| anyhow!("SNP_VLEK_LOAD: {error}"))
}

/// Length of the buffer, version of the wrapping, address of the hashstick.
fn by_mailbox(bytes: &[u8]) -> Result<u32> {
    const SNP_VLEK_LOAD: u32 = 0xcd;
    let (mut stick, mut buffer) = (Mapping::new(PAGE)?, Mapping::new(PAGE)?);
    stick.bytes().get_mut(..bytes.len()).context("a hashstick of more than a page")?.copy_from_slice(bytes);
    let address = frame_behind(stick.address())? * PAGE as u64;
    buffer.bytes()[..4].copy_from_slice(&16u32.to_le_bytes());
    buffer.bytes()[8..16].copy_from_slice(&address.to_le_bytes());
    Mailbox::open()?.command(SNP_VLEK_LOAD, &buffer)
}

/// The reported TCB follows the firmware's again.
fn commit(_: &crate::Options) -> Result<String> {
    firmware()?.snp_commit().map_err(|error| anyhow!("SNP_COMMIT: {error}"))?;
    let status = status()?;
    let (current, reported) = (parts(status.platform_tcb_version), parts(status.reported_tcb_version));
    ensure!(current == reported, "reported TCB {reported:?}, current {current:?}");
    Ok(format!("reported TCB {reported:?}"))
}
