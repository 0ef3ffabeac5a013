// SPDX-License-Identifier: Apache-2.0
//! A host for the software security processor, launch commands, and the guest's side of the message protocol.

mod guest;
mod host;
mod keys;
mod message;
mod rig;

pub use guest::{CPUID, Guest, Kind, NORMAL, POLICY, SECRETS, UNMEASURED, VMSA, ZERO};
pub use host::{MEMORY, Machine, pre_guest};
pub use keys::folder as keys_folder;
pub use message::Message;
pub use rig::{BUFFER, Buffer, Rig};
