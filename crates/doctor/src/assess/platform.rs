// SPDX-License-Identifier: Apache-2.0
//! The security processor.

use cvmm_snp::tcb::{TcbLayout, TcbVersion};

use super::{not_ok, ok, unknown};
use crate::facts::{CCP_DEVICES, Facts, LOG};
use crate::platform::Platform;
use crate::reading::Why;
use crate::{Item, Status};

/// Lowest firmware API version that Linux supports.
const MIN_API: (u8, u8) = (1, 51);

pub fn device(facts: &Facts) -> Item {
    const ID: &str = "sev.device";
    match &facts.sev_device {
        Ok(()) => ok(ID, "/dev/sev opens for reading"),
        Err(unread) => {
            let fix = match unread.why {
                Why::Denied => "give a group read access to /dev/sev by a udev rule, and add this user to it",
                Why::Absent => {
                    "load ccp; if it is loaded, the security processor or SEV is off in the firmware setup, or the \
                     kernel lacks CONFIG_CRYPTO_DEV_SP_PSP"
                }
                _ => "replace this file by the device node",
            };
            not_ok(ID, Status::Fatal, unread.to_string(), fix)
        }
    }
}

fn assessed(facts: &Facts, id: &'static str, assess: impl FnOnce(&Platform) -> Item) -> Item {
    match &facts.platform {
        Ok(platform) => assess(platform),
        Err(unread) => not_ok(id, Status::Unknown, unread.to_string(), "see sev.device and sev.platform"),
    }
}

pub fn initialized(facts: &Facts) -> Item {
    const ID: &str = "sev.platform";
    const FIX: &str =
        "fix msr.rmp, iommu.groups, sev.api and kernel.log, then reload ccp and kvm_amd, or reboot";
    match &facts.platform {
        Ok(platform) if platform.initialized && platform.rmp_initialized => {
            ok(ID, format!("SNP and RMP are initialised; {} guests (SNP_PLATFORM_STATUS)", platform.guests))
        }
        Ok(platform) => {
            let what = if platform.initialized { "the RMP is" } else { "SNP is" };
            not_ok(ID, Status::Fatal, format!("{what} not initialised (SNP_PLATFORM_STATUS)"), FIX)
        }
        Err(unread) => match &unread.why {
            // The driver did not try to initialise SNP (EINVAL), failed to (ENODEV), or considers the
            // firmware too old and so has no RMP by which to give the firmware a page for its answer (EFAULT;
            // our buffer is valid).
            Why::Failed { errno: libc::ENODEV | libc::EINVAL | libc::EFAULT, .. } => {
                not_ok(ID, Status::Fatal, format!("{unread}: SNP is not initialised"), FIX)
            }
            Why::Absent | Why::Denied => not_ok(ID, Status::Unknown, unread.to_string(), "see sev.device"),
            _ => unknown(ID, unread, "see the messages of ccp in the kernel log"),
        },
    }
}

pub fn api(facts: &Facts) -> Item {
    const ID: &str = "sev.api";
    let (major, minor, evidence) = match &facts.platform {
        Ok(Platform { api_major, api_minor, build, .. }) => {
            (*api_major, *api_minor, format!("{api_major}.{api_minor} build {build} (SNP_PLATFORM_STATUS)"))
        }
        // The kernel does not initialise SNP on older firmware, so there is no status; but ccp logs the
        // version.
        Err(unread) => match logged_api(facts) {
            Some((line, (major, minor))) if (major, minor) < MIN_API => {
                (major, minor, format!("\"{line}\" ({LOG})"))
            }
            _ => return not_ok(ID, Status::Unknown, unread.to_string(), "see sev.device and sev.platform"),
        },
    };
    if (major, minor) >= MIN_API {
        return ok(ID, evidence);
    }
    let (major, minor) = MIN_API;
    not_ok(
        ID,
        Status::Fatal,
        format!("{evidence}, below {major}.{minor}"),
        "update the SEV firmware (linux-firmware's amd folder, or the machine's firmware)",
    )
}

/// The last message of ccp with the firmware version (`SEV API:1.55 build:21`), and the version.
fn logged_api(facts: &Facts) -> Option<(&str, (u8, u8))> {
    facts.log.as_ref().ok()?.iter().rev().find_map(|line| {
        let (_, version) = line.split_once("API:").filter(|_| line.starts_with("ccp "))?;
        let (major, minor) = version.split_whitespace().next()?.split_once('.')?;
        Some((line.as_str(), (major.parse().ok()?, minor.parse().ok()?)))
    })
}

fn describe(facts: &Facts, tcb: TcbVersion) -> String {
    let family = u8::try_from(facts.cpuid.signature.family()).unwrap_or(0);
    match TcbLayout::for_family(family).and_then(|layout| tcb.parts(layout)) {
        Some(parts) => parts.to_string(),
        None => format!("{:#018x}", u64::from_le_bytes(tcb.0)),
    }
}

pub fn tcb(facts: &Facts) -> Item {
    const ID: &str = "sev.tcb";
    assessed(facts, ID, |platform| {
        let (current, reported) = (platform.current_tcb, platform.reported_tcb);
        let evidence = format!("{} (SNP_PLATFORM_STATUS)", describe(facts, current));
        if current == reported {
            return ok(ID, evidence);
        }
        not_ok(
            ID,
            Status::Policy,
            format!("the firmware runs with {evidence}, but reports name {}", describe(facts, reported)),
            "commit the firmware or set the reported TCB (SNP_SET_CONFIG), and provide certificates for it",
        )
    })
}

pub fn masking(facts: &Facts) -> Item {
    const ID: &str = "sev.masking";
    assessed(facts, ID, |platform| match (platform.chip_id_masked, platform.chip_key_masked) {
        (false, false) => ok(ID, "reports name the chip and are signed (SNP_PLATFORM_STATUS)"),
        (_, true) => not_ok(
            ID,
            Status::Policy,
            "mask_chip_key is set: reports are not signed (SNP_PLATFORM_STATUS)",
            "clear mask_chip_key (SNP_SET_CONFIG): verifiers reject unsigned reports",
        ),
        (true, false) => not_ok(
            ID,
            Status::Policy,
            "mask_chip_id is set: reports do not name the chip (SNP_PLATFORM_STATUS)",
            "clear mask_chip_id (SNP_SET_CONFIG) if verifiers look certificates up by chip",
        ),
    })
}

pub fn rapl(facts: &Facts) -> Item {
    const ID: &str = "sev.rapl";
    assessed(facts, ID, |platform| {
        if platform.rapl_disabled {
            return ok(ID, "power measurement (RAPL) is disabled (SNP_PLATFORM_STATUS)");
        }
        not_ok(
            ID,
            Status::Policy,
            "power measurement (RAPL), a side channel, is enabled (SNP_PLATFORM_STATUS)",
            "disable RAPL in the firmware setup if guest policies require it",
        )
    })
}

pub fn ciphertext_hiding(facts: &Facts) -> Item {
    const ID: &str = "sev.ciphertext_hiding";
    assessed(facts, ID, |platform| {
        if platform.ciphertext_hiding {
            return ok(ID, "enabled (SNP_PLATFORM_STATUS)");
        }
        let (evidence, fix) = if platform.ciphertext_hiding_capable {
            ("disabled, but supported (SNP_PLATFORM_STATUS)", "load kvm_amd with ciphertext_hiding_asids=N")
        } else {
            (
                "not supported by the processor or its firmware (SNP_PLATFORM_STATUS)",
                "use another host for guests whose policy requires it",
            )
        };
        not_ok(ID, Status::Policy, evidence, fix)
    })
}

pub fn tsme(facts: &Facts) -> Item {
    const ID: &str = "memory.tsme";
    let devices = match &facts.ccp {
        Ok(devices) => devices,
        Err(unread) => return unknown(ID, unread, "load ccp"),
    };
    let read = devices.iter().find_map(|device| Some((device, device.tsme.as_ref().ok()?)));
    match read {
        Some((device, value)) if value == "1" => ok(
            ID,
            format!("transparent memory encryption is on ({CCP_DEVICES}/{}/tsme_status)", device.address),
        ),
        Some((device, value)) => not_ok(
            ID,
            Status::Policy,
            format!(
                "{CCP_DEVICES}/{}/tsme_status is {value}: the host's own memory is not encrypted",
                device.address
            ),
            "enable TSME in the firmware setup to encrypt the host's memory as well",
        ),
        None => not_ok(
            ID,
            Status::Unknown,
            format!("no device in {CCP_DEVICES} has a tsme_status"),
            "check the firmware setup: this security processor does not report TSME",
        ),
    }
}
