// SPDX-License-Identifier: Apache-2.0
//! What an unmodified kernel says of the host, and /dev/sev, with the `sev` crate as the client.

use std::fs;

use anyhow::{Context, Result, anyhow, ensure};
use sev::firmware::host::{Config, Firmware, MaskId, SnpPlatformStatus, WrappedVlekHashstick};
use sev::parser::ByteParser;
use sev::{Generation, firmware::host::TcbVersion};

use super::Case;
use crate::sys;

pub const BOOT: &[Case] = &[
    Case { name: "dmesg", about: "the kernel took RMP, security processor and SNP into use", run: dmesg },
    Case { name: "platform-status", about: "/dev/sev: SNP_PLATFORM_STATUS", run: platform_status },
];

/// These change the host's configuration: last.
pub const DEVICE: &[Case] = &[
    Case {
        name: "set-config",
        about: "/dev/sev: SNP_SET_CONFIG of an older reported TCB, and of a newer one",
        run: set_config,
    },
    Case { name: "vlek-load", about: "/dev/sev: SNP_VLEK_LOAD, of an altered hashstick too", run: vlek_load },
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

fn vlek_load(options: &crate::Options) -> Result<String> {
    let path = options.keys.join("vlek-hashstick.bin");
    let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let load = |bytes: &[u8]| -> Result<()> {
        let stick = WrappedVlekHashstick::from_bytes_with(bytes, Generation::identify_host_generation()?)
            .map_err(|error| anyhow!("parse the hashstick: {error}"))?;
        firmware()?.snp_vlek_load(stick).map_err(|error| anyhow!("SNP_VLEK_LOAD: {error}"))
    };
    if let Err(error) = load(&bytes) {
        // Kernels before the fix (and Debian's 6.12.95) do not know this command's length: they warn and do not ask
        // the firmware.
        let kernel = sys::dmesg()?.contains("__sev_do_cmd_locked");
        ensure!(kernel && error.to_string().contains("os error 22"), "{error}");
        return Ok(format!("refused by the kernel, which warns about itself: {error}"));
    }
    let mut altered = bytes;
    altered[0x20] ^= 1;
    let error = load(&altered).err().context("an altered hashstick was taken")?;
    Ok(format!("taken; altered: {error}"))
}

/// The reported TCB follows the firmware's again.
fn commit(_: &crate::Options) -> Result<String> {
    firmware()?.snp_commit().map_err(|error| anyhow!("SNP_COMMIT: {error}"))?;
    let status = status()?;
    let (current, reported) = (parts(status.platform_tcb_version), parts(status.reported_tcb_version));
    ensure!(current == reported, "reported TCB {reported:?}, current {current:?}");
    Ok(format!("reported TCB {reported:?}"))
}
