// SPDX-License-Identifier: Apache-2.0
//! A gate in a temporary folder, served by this process or its own, and what it admits.

mod folder;
mod guest;
pub mod large;
mod program;
pub mod quote;
mod server;
pub mod session;
mod world;

pub use folder::{DISK, RELEASE, SECRETS, TestGate, firmware, launched, padded_firmware, platform_status};
pub use guest::Guest;
pub use program::{Program, serve_command};
pub use server::Server;
pub use world::World;
