// SPDX-License-Identifier: Apache-2.0
//! What the host must have for the VM: today its memory.
//!
//! `MemTotal` and not the free memory: how much is free changes from one second to the next, while a guest
//! larger than the machine is a mistake in the file. Running out later is the kernel's to handle.

use super::problem::Problem;
use super::size::show;
use super::vm::Config;

/// `MemTotal` of `/proc/meminfo` in bytes; `None` where it cannot be read, and then nothing is refused.
pub(super) fn total_memory() -> Option<u64> {
    parse_total(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_total(meminfo: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

pub(super) fn check(config: &Config, total: Option<u64>) -> Vec<Problem> {
    let Some(total) = total else { return Vec::new() };
    if config.memory <= total {
        return Vec::new();
    }
    // Rounded down to MiB: a byte count is hard to type back.
    let allowed = format!("at most {} MiB, the memory of this host", total >> 20);
    let message = format!("memory is {}, more than this host has", show(config.memory));
    vec![Problem::at("memory", "host", message).allowed(allowed)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_in_kib() {
        assert_eq!(
            parse_total("MemFree: 1 kB\nMemTotal:       24576000 kB\nX: 0\n"),
            Some(24_576_000 * 1024)
        );
        assert_eq!(parse_total("MemTotal: many kB\n"), None);
        assert_eq!(parse_total("MemTotal: 5\n"), None);
        assert_eq!(parse_total(""), None);
    }
}
