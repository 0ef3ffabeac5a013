// SPDX-License-Identifier: Apache-2.0
//! `cvmm uki`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use cvmm_boot_image::kernel::UnpackedKernel;
use cvmm_boot_image::uki::{self, Contents};
use cvmm_boot_image::{ImageError, KernelError};
use cvmm_kernel_stub::payload::Compression;
use cvmm_kernel_stub_embed::PROGRAM;
use cvmm_output::{Existing, OutputError};
use thiserror::Error;

use super::session::Session;
use super::uki_args::{KernelCompression, UkiBuildArgs, UkiCommand};
use crate::exit_code::{ExitReport, ExitStatus};

/// Largest kernel file, in bytes.
const MAX_KERNEL: u64 = 1 << 30;
/// Largest initrd, in bytes: an image is at most as long.
const MAX_INITRD: u64 = 2 << 30;
/// Largest file with a command line or an os-release, in bytes.
const MAX_TEXT: u64 = 64 << 10;

/// Why an image was not built.
#[derive(Debug, Error)]
enum Failure {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} has {len} bytes; at most {max} are read")]
    Long { path: PathBuf, len: u64, max: u64 },
    #[error("{0} is not text in UTF-8")]
    Text(PathBuf),
    #[error("kernel {path} {source}")]
    Kernel { path: PathBuf, source: KernelError },
    #[error("no image: {0}")]
    Image(#[from] ImageError),
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl ExitReport for Failure {
    fn exit_status(&self) -> ExitStatus {
        match self {
            Self::Read { .. } | Self::Long { .. } | Self::Text(_) | Self::Output(_) => ExitStatus::File,
            Self::Kernel { .. } | Self::Image(_) => ExitStatus::LaunchRefused,
        }
    }

    fn reason_code(&self) -> Option<&'static str> {
        match self {
            Self::Kernel { source, .. } => Some(source.code()),
            Self::Image(error) => Some(error.code()),
            _ => None,
        }
    }
}

impl Session<'_> {
    pub(super) fn uki(&mut self, command: &UkiCommand) -> ExitStatus {
        let UkiCommand::Build(args) = command;
        match build(args) {
            Ok(text) => self.print(text.as_bytes()),
            Err(Failure::Output(error)) => self.not_written(&error),
            Err(error) => self.failed(&error),
        }
    }
}

/// Builds and writes the image; the result is what is said about it.
fn build(args: &UkiBuildArgs) -> Result<String, Failure> {
    let existing = Existing::ReplaceOwnHead(&uki::is_own).or_forced(args.force);
    let file = read(&args.kernel, MAX_KERNEL)?;
    let failed = |source| Failure::Kernel { path: args.kernel.clone(), source };
    let kernel = UnpackedKernel::read(&file).map_err(failed)?;
    let cmdline = match args.cmdline.strip_prefix('@') {
        Some(path) => read_text(Path::new(path))?,
        None => args.cmdline.clone(),
    };
    let initrd = args.initrd.as_deref().map(|path| read(path, MAX_INITRD)).transpose()?;
    let os_release = args.os_release.as_deref().map(read_text).transpose()?;
    let uname = args.uname.clone().or_else(|| UnpackedKernel::release(&file));
    let image = uki::write(
        &PROGRAM,
        &Contents {
            kernel: &kernel,
            compression: match args.compression {
                KernelCompression::Lz4 => Compression::Lz4,
                KernelCompression::None => Compression::None,
            },
            initrd: initrd.as_deref(),
            cmdline: &cmdline,
            os_release: os_release.as_deref().map(str::as_bytes),
            uname: uname.as_deref(),
        },
    )?;
    cvmm_output::write(&args.output, &image, 0o644, existing)?;
    let about = kernel.description();
    let random = match about.relocatable {
        true => "physical and virtual address",
        false => "physical address only: there are no relocations in a vmlinux",
    };
    let accepts =
        if about.accepts_memory { "when the kernel needs it" } else { "all of it, by the firmware" };
    Ok(format!(
        "{}: {} bytes\nkernel: {}, {} bytes unpacked, {} bytes of memory\nrandom at each boot: {random}\n\
         memory of an SNP guest is accepted: {accepts}\n",
        args.output.display(),
        image.len(),
        uname.as_deref().unwrap_or("of unknown release"),
        about.image,
        about.memory,
    ))
}

fn read(path: &Path, max: u64) -> Result<Vec<u8>, Failure> {
    let failed = |source| Failure::Read { path: path.to_owned(), source };
    let about = fs::metadata(path).map_err(failed)?;
    if about.len() > max {
        return Err(Failure::Long { path: path.to_owned(), len: about.len(), max });
    }
    let mut content = Vec::with_capacity(about.len() as usize);
    File::open(path).map_err(failed)?.take(max).read_to_end(&mut content).map_err(failed)?;
    Ok(content)
}

fn read_text(path: &Path) -> Result<String, Failure> {
    String::from_utf8(read(path, MAX_TEXT)?).map_err(|_| Failure::Text(path.to_owned()))
}
