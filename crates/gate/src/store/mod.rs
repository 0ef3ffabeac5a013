// SPDX-License-Identifier: Apache-2.0
//! Files that the gate decides by: what operators put there, and what it remembers itself.
//!
//! | module | folder | written by |
//! |---|---|---|
//! | [`admissions`] | `state/vms` | the gate |
//! | [`vm_keys`], [`tpms`] | `state/vm-keys`, `state/tpms` | the gate |
//! | `quota` | `state/*.clients` | the gate |
//! | [`artifacts`] | `artifacts` | operators (`cvmm-gate artifact import`) |
//! | [`certificates`] | `certificates` | operators (`cvmm-gate certs import`) |
//! | [`secrets`] | `secrets` | operators |

pub mod admissions;
pub mod artifacts;
pub mod certificates;
pub(crate) mod locks;
pub(crate) mod quota;
pub mod secrets;
pub mod tpms;
pub mod vm_keys;

use cvmm_policy::is_name;
use cvmm_reason::Reason;

use crate::reasons::Code;

/// Refuses a VM's name that would not be safe in a path.
pub(crate) fn check_vm_name(vm_id: &str) -> Result<(), Reason> {
    if is_name(vm_id) {
        return Ok(());
    }
    Err(Code::ManifestVmId.reason("the VM's name has to be 1 to 64 characters of A-Z a-z 0-9 . _ -"))
}
