// SPDX-License-Identifier: Apache-2.0
//! What the firmware refuses, each with its own code (Linux, include/uapi/linux/psp-sev.h).

use anyhow::{Context, Result, ensure};

use super::guests::terminated;
use super::{Case, refused};
use crate::code::{TERMINATE, reset_page};
use crate::identity::{Digest, id_block};
use crate::vm::{CPUID, DATA, NORMAL, PAGE, POLICY, Refused, SnpVm, TOP};

const POLICY_FAILURE: u32 = 0x7;
const BAD_SIGNATURE: u32 = 0xa;
const BAD_MEASUREMENT: u32 = 0xb;
const INVALID_PARAM: u32 = 0x16;

pub const CASES: &[Case] = &[
    Case { name: "update-twice", about: "a second LAUNCH_UPDATE of a page", run: update_twice },
    Case { name: "policy-api", about: "a policy that wants newer firmware", run: policy_api },
    Case { name: "id-block", about: "a right ID block", run: id_block_right },
    Case { name: "id-block-digest", about: "an ID block for another launch digest", run: id_block_digest },
    Case {
        name: "id-block-signature",
        about: "an ID block whose signature is not over it",
        run: id_block_signature,
    },
    Case { name: "id-block-policy", about: "an ID block for another policy", run: id_block_policy },
    Case { name: "cpuid-page", about: "a CPUID page with a feature too many", run: cpuid_page },
];

/// The kernel's own check: the page is private by now.
fn update_twice(_: &crate::Options) -> Result<String> {
    let mut vm = SnpVm::started()?;
    vm.code(&TERMINATE)?;
    let again = vm.update(TOP, &mut reset_page(&TERMINATE), NORMAL);
    let error = again.err().context("the page was taken a second time")?;
    ensure!(error == Refused { errno: libc::EIO, firmware: 0 }, "{error}");
    Ok(error.to_string())
}

/// The only part of a policy that KVM does not refuse by itself on this host.
fn policy_api(_: &crate::Options) -> Result<String> {
    refused("SNP_LAUNCH_START", SnpVm::new()?.start(POLICY | 0x1ff), POLICY_FAILURE)
}

fn with_id_block(change: impl Fn(&mut [u8; 96], &mut [u8; PAGE])) -> Result<(SnpVm, Result<(), Refused>)> {
    let mut vm = SnpVm::started()?;
    vm.code(&TERMINATE)?;
    let digest = Digest::new().page(NORMAL, TOP, &reset_page(&TERMINATE)).vcpu();
    let (mut block, mut auth) = id_block(digest, POLICY)?;
    change(&mut block, &mut auth);
    let result = vm.finish_with(&block, &auth);
    Ok((vm, result))
}

fn id_block_right(_: &crate::Options) -> Result<String> {
    let (mut vm, result) = with_id_block(|_, _| ())?;
    result.context("the ID block over the digest as computed here")?;
    terminated(&mut vm)?;
    Ok("launch digest as computed here; the guest runs".to_owned())
}

fn id_block_digest(_: &crate::Options) -> Result<String> {
    let mut vm = SnpVm::started()?;
    vm.code(&TERMINATE)?;
    // The same pages without the vCPU.
    let (block, auth) = id_block(Digest::new().page(NORMAL, TOP, &reset_page(&TERMINATE)), POLICY)?;
    refused("SNP_LAUNCH_FINISH", vm.finish_with(&block, &auth), BAD_MEASUREMENT)
}

fn id_block_signature(_: &crate::Options) -> Result<String> {
    // Another SVN than was signed.
    let (_, result) = with_id_block(|block, _| block[84] ^= 1)?;
    refused("SNP_LAUNCH_FINISH", result, BAD_SIGNATURE)
}

fn id_block_policy(_: &crate::Options) -> Result<String> {
    let mut vm = SnpVm::started()?;
    vm.code(&TERMINATE)?;
    let digest = Digest::new().page(NORMAL, TOP, &reset_page(&TERMINATE)).vcpu();
    let (block, auth) = id_block(digest, POLICY | 1 << 19)?;
    refused("SNP_LAUNCH_FINISH", vm.finish_with(&block, &auth), POLICY_FAILURE)
}

/// SME (8000001Fh EAX bit 0) in the table: this processor does not have it. The firmware hands the page back
/// with the bit cleared, and takes that one.
fn cpuid_page(_: &crate::Options) -> Result<String> {
    const LEAF: u32 = 0x8000_001f;
    const EAX: usize = 16 + 24;
    let real = std::arch::x86_64::__cpuid(LEAF);
    ensure!(real.eax & 1 == 0, "this processor has SME: {:#x}", real.eax);
    let mut page = [0; PAGE];
    page[..4].copy_from_slice(&1u32.to_le_bytes());
    page[16..20].copy_from_slice(&LEAF.to_le_bytes());
    let answer = [real.eax | 1, real.ebx, real.ecx, real.edx];
    for (at, value) in [EAX, EAX + 4, EAX + 8, EAX + 12].into_iter().zip(answer) {
        page[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    let proposed = page;
    let mut vm = SnpVm::started()?;
    vm.code(&TERMINATE)?;
    let text = refused("SNP_LAUNCH_UPDATE", vm.update(DATA, &mut page, CPUID), INVALID_PARAM)?;
    ensure!(page != proposed, "the page came back as it was");
    ensure!(page[EAX] == proposed[EAX] & !1, "EAX came back as {:#x}, not without its bit 0", page[EAX]);
    vm.update(DATA, &mut page, CPUID).context("the firmware's own page")?;
    vm.finish()?;
    terminated(&mut vm)?;
    Ok(format!("{text}; the corrected page is taken"))
}
