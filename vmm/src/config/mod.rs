// SPDX-License-Identifier: Apache-2.0
//! `vm.toml`: what a virtual machine consists of, read from one TOML file.
//!
//! Each table has a file of its own (`boot`, `disk`, `gate`, …; `vm` is the whole file with its top-level
//! keys). It holds the table as it is parsed (`Raw…`: every key optional, numbers wide, doc comments that
//! become the JSON Schema), the public type with its rules, the way back for `config check --json`, the
//! checks of its paths, and its section of `config example`.
//!
//! Reading goes through these steps, and every step adds to one list of [`Problem`]s instead of stopping at
//! the first, so that a file has to be corrected once:
//!
//! 1. `source` parses the text as TOML and remembers where each key stands (syntax errors);
//! 2. `decode` turns the tree into the tables as parsed (unknown keys, wrong types, unknown words);
//! 3. each table's `check` applies ranges and the rules between keys (`rules`), and builds the public
//!    [`Config`];
//! 4. each table's `check_files` (`paths`) and `host` look at the machine: paths that are missing or
//!    unusable, more memory than there is.
//!
//! Steps 1–3 are pure: `cvmm config check --offline` runs only them. Every problem has a stable reason code
//! (`config.vcpus.range`), the key, line, column and what would be allowed. [`Config`] itself carries no
//! trace of TOML; the machine code sees validated values and absolute paths (relative ones start at the
//! file's folder).
//!
//! How to add a table: docs/internals/adding-a-device.md.

mod boot;
mod console;
mod debug;
mod decode;
mod disk;
mod document;
mod example;
mod firmware;
mod gate;
mod host;
mod isolation;
mod load;
mod low_memory;
mod paths;
mod problem;
mod profile;
mod rules;
mod schema;
mod secure_boot;
mod size;
mod snp;
mod source;
mod table;
#[cfg(test)]
mod tests;
mod vm;
mod vtpm;

pub use boot::{Boot, MAX_CMDLINE};
pub use console::{
    Console, ConsoleDevice, ConsoleMode, DEFAULT_CONSOLE_SIZE, MAX_CONSOLE_SIZE, MIN_CONSOLE_SIZE,
};
pub use debug::Debug;
pub use disk::{CacheMode, Disk, DiskFormat, MAX_DISK_QUEUES, MAX_DISKS, MAX_SERIAL};
pub use example::example;
pub use firmware::FirmwareSource;
pub use gate::{Gate, GateEndpoint};
pub use isolation::Isolation;
pub use load::Checks;
pub use low_memory::{MAX_LOW_MEMORY, default_low_memory};
pub use problem::{ConfigError, Location, Problem};
pub use profile::Profile;
pub use schema::schema;
pub use secure_boot::{KeySource, SecureBoot};
pub use snp::{CpuidTolerance, IdentityFiles, Snp};
pub use source::Text;
pub use vm::{Config, MAX_MEMORY, MAX_VCPUS, MIN_MEMORY};
pub use vtpm::{PcrBank, Sandbox, Vtpm};
