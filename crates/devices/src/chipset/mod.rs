// SPDX-License-Identifier: Apache-2.0
//! The few PC devices at fixed ports that firmware and Linux cannot do without.
//!
//! | ports | device | who uses it |
//! |---|---|---|
//! | 0x64 | [`KeyboardReset`] | reset of last resort |
//! | 0x70-0x71 | [`Rtc`] | time of day for firmware and Linux |
//! | 0x3f8-0x3ff | [`Serial`] | console |
//! | 0x601 | [`SleepStatus`] | ACPI, hardware-reduced |
//! | 0x604-0x605 | [`SleepControl`] | soft off by firmware (16 bits) and ACPI (8 bits) |
//! | 0x608-0x60b | [`PmTimer`] | firmware's only delay clock |
//! | 0xcf9 | [`ResetControl`] | firmware and ACPI reset; sits inside [`crate::pci::ConfigPorts`] |
//!
//! The power button has no register: the machine pulses the interrupt of the generic event device.

pub mod console_out;
mod metrics;
mod pm_timer;
mod power;
mod rtc;
mod serial;

pub use metrics::ConsoleOutMetrics;
pub use pm_timer::PmTimer;
pub use power::{KeyboardReset, ResetControl, SleepControl, SleepStatus};
pub use rtc::Rtc;
pub use serial::{Serial, SerialError};
