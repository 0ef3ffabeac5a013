// SPDX-License-Identifier: Apache-2.0
//! The grammar of `cvmm uki`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(super) enum UkiCommand {
    /// Build a unified kernel image that starts its kernel unpacked
    ///
    /// The kernel in the image is unpacked already, so the guest saves that work at each boot. A small EFI
    /// program in front of it places it at a random address and enters it. Same inputs, same image.
    Build(UkiBuildArgs),
}

#[derive(Args, Debug)]
pub(super) struct UkiBuildArgs {
    /// The kernel: a bzImage (for Debian: /boot/vmlinuz-*) or an ELF vmlinux
    #[arg(long, value_name = "FILE")]
    pub(super) kernel: PathBuf,
    /// The initrd
    #[arg(long, value_name = "FILE")]
    pub(super) initrd: Option<PathBuf>,
    /// The kernel's command line, or @FILE to read it from a file
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(super) cmdline: String,
    /// The distribution's os-release file; systemd-boot shows an image only with one
    #[arg(long, value_name = "FILE")]
    pub(super) os_release: Option<PathBuf>,
    /// The kernel's release (uname -r), by default that of the bzImage
    #[arg(long, value_name = "RELEASE")]
    pub(super) uname: Option<String>,
    /// How the kernel is stored
    #[arg(long, value_enum, default_value = "lz4")]
    pub(super) compression: KernelCompression,
    /// The image
    #[arg(long, short, value_name = "FILE")]
    pub(super) output: PathBuf,
    /// Overwrite an existing file that this command did not write
    #[arg(long)]
    pub(super) force: bool,
}

/// How the kernel in an image is stored.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum KernelCompression {
    /// With LZ4, which unpacks fast
    Lz4,
    /// As it is in memory
    None,
}
