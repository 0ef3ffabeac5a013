// SPDX-License-Identifier: Apache-2.0
//! Writes unified kernel images.

use cvmm_kernel_stub::payload::Compression;
use cvmm_kernel_stub::program::{MARK, MARK_AT, Program};

use crate::error::ImageError;
use crate::kernel::UnpackedKernel;
use crate::pe::{self, Section};

/// What an image is made of.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// The kernel.
    pub kernel: &'a UnpackedKernel,
    /// How it is stored.
    pub compression: Compression,
    /// The initrd.
    pub initrd: Option<&'a [u8]>,
    /// The command line.
    pub cmdline: &'a str,
    /// The content of an os-release file.
    pub os_release: Option<&'a [u8]>,
    /// The kernel's release.
    pub uname: Option<&'a str>,
}

/// The image of `contents` with the stub `program`. The same contents give the same bytes.
pub fn write(program: &Program, contents: &Contents<'_>) -> Result<Vec<u8>, ImageError> {
    let cmdline = contents.cmdline.trim_ascii();
    if let Some(at) = cmdline.bytes().position(|byte| byte == 0) {
        return Err(ImageError::CmdlineNul(at));
    }
    let max = contents.kernel.description().cmdline_max;
    if cmdline.len() > max as usize {
        return Err(ImageError::CmdlineLength { len: cmdline.len(), max });
    }
    if contents.initrd.is_some_and(<[u8]>::is_empty) {
        return Err(ImageError::EmptyInitrd);
    }
    let linux = contents.kernel.payload(contents.compression);
    // The small ones first: tools that show an image read only its beginning.
    let sections = [
        (b".osrel\0\0", contents.os_release),
        (b".uname\0\0", contents.uname.map(str::as_bytes)),
        (b".cmdline", Some(cmdline.as_bytes())),
        (b".initrd\0", contents.initrd),
        (b".linux\0\0", Some(linux.as_slice())),
    ];
    let sections: Vec<_> = sections
        .into_iter()
        .filter_map(|(name, content)| Some(Section { name, content: content? }))
        .collect();
    pe::write(program, &sections)
}

/// Whether a file that begins with `head` was written by [`write()`]; 128 bytes are enough.
#[must_use]
pub fn is_own(head: &[u8]) -> bool {
    head.starts_with(b"MZ") && head.get(MARK_AT..).is_some_and(|mark| mark.starts_with(MARK))
}

#[cfg(test)]
mod tests;
