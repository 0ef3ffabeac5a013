// SPDX-License-Identifier: Apache-2.0
//! The security processor.

use cvmm_snp::tcb::{TcbLayout, TcbVersion};

use super::{not_ok, ok, unknown};
use crate::facts::{CCP_DEVICES, Facts, LOG};
use crate::platform::Platform;
use crate::reading::Why;
use crate::{Item, Status};

/// Least version of the firmware's interface that Linux launches with.
const LEAST_API: (u8, u8) = (1, 51);

pub fn device(facts: &Facts) -> Item {
    const ID: &str = "sev.device";
    match &facts.sev_device {
        Ok(()) => ok(ID, "/dev/sev opens for reading"),
        Err(unread) => {
            let fix = match unread.why {
                Why::Denied => {
                    "let a group read /dev/sev by a udev rule and add this user to it (reading is enough)"
                }
                Why::Absent => {
                    "load ccp; if it is loaded, the security processor or SEV is off in the firmware setup, or the \
                     kernel lacks CONFIG_CRYPTO_DEV_SP_PSP"
                }
                _ => "find out what the file is",
            };
            not_ok(ID, Status::Fatal, unread.to_string(), fix)
        }
    }
}

fn judged(facts: &Facts, id: &'static str, judge: impl FnOnce(&Platform) -> Item) -> Item {
    match &facts.platform {
        Ok(platform) => judge(platform),
        Err(unread) => not_ok(id, Status::Unknown, unread.to_string(), "see sev.device and sev.platform"),
    }
}

pub fn initialized(facts: &Facts) -> Item {
    const ID: &str = "sev.platform";
    const FIX: &str =
        "see msr.rmp, iommu.groups, sev.api and kernel.log; then reload ccp and kvm_amd, or reboot";
    match &facts.platform {
        Ok(platform) if platform.initialized && platform.rmp_initialized => {
            ok(ID, format!("SNP and RMP are initialised, {} guests (SNP_PLATFORM_STATUS)", platform.guests))
        }
        Ok(platform) => {
            let what = if platform.initialized { "the RMP is" } else { "SNP is" };
            not_ok(ID, Status::Fatal, format!("{what} not initialised (SNP_PLATFORM_STATUS)"), FIX)
        }
        Err(unread) => match &unread.why {
            // The driver has not tried (EINVAL), has tried in vain (ENODEV), or, with firmware it finds too old, has no RMP
            // to hand the firmware a page for its answer (EFAULT; the place for it here is a good one).
            Why::Failed { errno: libc::ENODEV | libc::EINVAL | libc::EFAULT, .. } => {
                not_ok(ID, Status::Fatal, format!("{unread}: SNP is not initialised"), FIX)
            }
            Why::Absent | Why::Denied => not_ok(ID, Status::Unknown, unread.to_string(), "see sev.device"),
            _ => unknown(ID, unread, "see kernel.log for what ccp says"),
        },
    }
}

pub fn api(facts: &Facts) -> Item {
    const ID: &str = "sev.api";
    let (major, minor, evidence) = match &facts.platform {
        Ok(Platform { api_major, api_minor, build, .. }) => {
            (*api_major, *api_minor, format!("{api_major}.{api_minor} build {build} (SNP_PLATFORM_STATUS)"))
        }
        // The kernel does not initialise SNP on older firmware, and then there is no status; but ccp has logged the version.
        Err(unread) => match logged_api(facts) {
            Some((line, (major, minor))) if (major, minor) < LEAST_API => {
                (major, minor, format!("\"{line}\" ({LOG})"))
            }
            _ => return not_ok(ID, Status::Unknown, unread.to_string(), "see sev.device and sev.platform"),
        },
    };
    if (major, minor) >= LEAST_API {
        return ok(ID, evidence);
    }
    let (major, minor) = LEAST_API;
    not_ok(
        ID,
        Status::Fatal,
        format!("{evidence}, below {major}.{minor}"),
        "update the SEV firmware (linux-firmware's amd folder, or the machine's firmware)",
    )
}

/// The last line of ccp with the firmware's version, `SEV API:1.55 build:21`, and the version.
fn logged_api(facts: &Facts) -> Option<(&str, (u8, u8))> {
    facts.log.as_ref().ok()?.iter().rev().find_map(|line| {
        let (_, version) = line.split_once("API:").filter(|_| line.starts_with("ccp "))?;
        let (major, minor) = version.split_whitespace().next()?.split_once('.')?;
        Some((line.as_str(), (major.parse().ok()?, minor.parse().ok()?)))
    })
}

fn shown(facts: &Facts, tcb: TcbVersion) -> String {
    let family = u8::try_from(facts.cpuid.signature.family()).unwrap_or(0);
    match TcbLayout::for_family(family).and_then(|layout| tcb.parts(layout)) {
        Some(parts) => parts.to_string(),
        None => format!("{:#018x}", u64::from_le_bytes(tcb.0)),
    }
}

pub fn tcb(facts: &Facts) -> Item {
    const ID: &str = "sev.tcb";
    judged(facts, ID, |platform| {
        let (current, reported) = (platform.current_tcb, platform.reported_tcb);
        let evidence = format!("{} (SNP_PLATFORM_STATUS)", shown(facts, current));
        if current == reported {
            return ok(ID, evidence);
        }
        not_ok(
            ID,
            Status::Policy,
            format!("running {evidence}, but reports name {}", shown(facts, reported)),
            "commit the firmware or set the reported TCB (SNP_SET_CONFIG), with certificates for it in the store",
        )
    })
}

pub fn masking(facts: &Facts) -> Item {
    const ID: &str = "sev.masking";
    judged(facts, ID, |platform| match (platform.chip_id_masked, platform.chip_key_masked) {
        (false, false) => ok(ID, "reports name the chip and are signed (SNP_PLATFORM_STATUS)"),
        (_, true) => not_ok(
            ID,
            Status::Policy,
            "mask_chip_key is set: reports are not signed (SNP_PLATFORM_STATUS)",
            "clear mask_chip_key (SNP_SET_CONFIG): no verifier can accept an unsigned report",
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
    judged(facts, ID, |platform| {
        if platform.rapl_disabled {
            return ok(ID, "power measurement is off (SNP_PLATFORM_STATUS)");
        }
        not_ok(
            ID,
            Status::Policy,
            "power measurement (RAPL) is on, a side channel (SNP_PLATFORM_STATUS)",
            "disable RAPL in the firmware setup if guests' policies demand it",
        )
    })
}

pub fn ciphertext_hiding(facts: &Facts) -> Item {
    const ID: &str = "sev.ciphertext_hiding";
    judged(facts, ID, |platform| {
        if platform.ciphertext_hiding {
            return ok(ID, "on (SNP_PLATFORM_STATUS)");
        }
        let (evidence, fix) = if platform.ciphertext_hiding_capable {
            (
                "off, although the processor can (SNP_PLATFORM_STATUS)",
                "load kvm_amd with ciphertext_hiding_asids=N",
            )
        } else {
            (
                "the processor or its firmware cannot (SNP_PLATFORM_STATUS)",
                "use a host that can for guests whose policy demands it",
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
                "{CCP_DEVICES}/{}/tsme_status is {value}: the host's own memory is plain",
                device.address
            ),
            "enable TSME in the firmware setup if the host's memory shall be encrypted, too",
        ),
        None => not_ok(
            ID,
            Status::Unknown,
            format!("no device in {CCP_DEVICES} has a tsme_status"),
            "look into the firmware setup: this security processor does not tell",
        ),
    }
}
