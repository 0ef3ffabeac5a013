// SPDX-License-Identifier: Apache-2.0
//! Hosts that cannot run a VM.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Case, alone};
use crate::harness::vm::refuse;
use crate::harness::{Ctx, Spec, contract};

pub const CASES: &[Case] = &[alone("host-kvm", 30, kvm, "no /dev/kvm, and no permission to open it")];

const KVM: &str = "/dev/kvm";
const AWAY: &str = "/dev/kvm.away";
/// The user without rights.
const NOBODY: u32 = 65534;

/// Undoes what was done to /dev/kvm, whatever happens.
struct Restore(Permissions);

impl Drop for Restore {
    fn drop(&mut self) {
        if Path::new(AWAY).exists() {
            let _ = fs::rename(AWAY, KVM);
        }
        let _ = fs::set_permissions(KVM, self.0.clone());
    }
}

fn kvm(ctx: &Ctx) -> Result<()> {
    let spec = Spec::uki(ctx, ctx.guest.join("guest.efi"));
    let _restore = Restore(fs::metadata(KVM).context("no /dev/kvm")?.permissions());
    let text = spec.toml(&ctx.path("console.log"));

    fs::rename(KVM, AWAY)?;
    let message = refuse(ctx, &text, contract::HOST, None)?;
    fs::rename(AWAY, KVM)?;
    ensure!(message.contains("/dev/kvm does not exist"), "without /dev/kvm cvmm says: {message}");

    fs::set_permissions(KVM, Permissions::from_mode(0o600))?;
    // Another user has to reach the case's folder.
    for dir in ctx.dir.ancestors().take(2) {
        fs::set_permissions(dir, Permissions::from_mode(0o777))?;
    }
    let message = refuse(ctx, &text, contract::HOST, Some(NOBODY))?;
    ensure!(
        message.contains("no permission to open /dev/kvm") && message.contains("group"),
        "without permission cvmm says: {message}"
    );
    Ok(())
}
