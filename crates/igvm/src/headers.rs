// SPDX-License-Identifier: Apache-2.0
//! The fixed header and the list of variable headers.

use cvmm_launch::blob::Blob;
use igvm_defs::{IGVM_FIXED_HEADER, IGVM_FORMAT_VERSION_1, IGVM_MAGIC_VALUE, IGVM_VHS_VARIABLE_HEADER};
use zerocopy::{FromBytes, IntoBytes};

use crate::error::{IgvmProblem, Place};

/// The most bytes of headers in a file: those of 2 GiB of pages.
pub const MAX_HEADERS: u32 = 16 << 20;

pub(crate) const FIXED_LEN: u64 = size_of::<IGVM_FIXED_HEADER>() as u64;
pub(crate) const PREFIX_LEN: usize = size_of::<IGVM_VHS_VARIABLE_HEADER>();

/// The variable headers of a file, with the fixed header checked.
pub(crate) struct Headers {
    bytes: Vec<u8>,
    /// Where `bytes` are in the file.
    start: u64,
}

/// A variable header.
pub(crate) struct Header<'a> {
    pub(crate) place: Place,
    pub(crate) body: &'a [u8],
}

impl Headers {
    pub(crate) fn read(file: &Blob) -> Result<Self, IgvmProblem> {
        let format = |text: String| Err(IgvmProblem::Format(text));
        let mut fixed = [0; FIXED_LEN as usize];
        if file.len() < FIXED_LEN {
            return format(format!("it has {} bytes, fewer than a header", file.len()));
        }
        file.read(&mut fixed, 0)?;
        // The array has the size of the structure.
        let Ok(mut header) = IGVM_FIXED_HEADER::read_from_bytes(&fixed) else {
            return format("its header cannot be read".to_owned());
        };
        let IGVM_FIXED_HEADER {
            magic,
            format_version,
            variable_header_offset: offset,
            variable_header_size: len,
            total_file_size,
            checksum,
        } = header;
        if magic != IGVM_MAGIC_VALUE {
            return format("it does not start with \"IGVM\": it is not an IGVM file".to_owned());
        }
        if format_version != IGVM_FORMAT_VERSION_1 {
            return format(format!("its format version is {format_version}; only version 1 is implemented"));
        }
        if u64::from(total_file_size) != file.len() {
            let have = file.len();
            return format(format!(
                "its header says {total_file_size} bytes, but it has {have}: is it truncated?"
            ));
        }
        let end = u64::from(offset) + u64::from(len);
        if u64::from(offset) < FIXED_LEN || offset % 8 != 0 || end > file.len() || len > MAX_HEADERS {
            let limit = MAX_HEADERS >> 20;
            return format(format!(
                "its variable headers are said to be {len:#x} bytes at offset {offset:#x}: they must be \
                 inside the file, aligned to 8 bytes, and have at most {limit} MiB"
            ));
        }
        // Not more than the file has, and than the limit.
        let mut bytes = vec![0; len as usize];
        file.read(&mut bytes, offset.into())?;
        header.checksum = 0;
        let mut crc = crc32fast::Hasher::new();
        crc.update(header.as_bytes());
        crc.update(&bytes);
        let found = crc.finalize();
        if found != checksum {
            return Err(IgvmProblem::Checksum { found, expected: checksum });
        }
        Ok(Self { bytes, start: offset.into() })
    }

    /// Where file data may start.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// The headers in their order; the first that is malformed ends the list.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<Header<'_>, (Place, IgvmProblem)>> {
        let (mut rest, mut index) = (self.bytes.as_slice(), 0);
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let offset = self.end() - rest.len() as u64;
            let place = |kind| Place { index, offset, kind };
            let fail = |kind, text: &str| Some(Err((place(kind), IgvmProblem::Format(text.to_owned()))));
            let Ok((prefix, body)) = IGVM_VHS_VARIABLE_HEADER::read_from_prefix(rest) else {
                rest = &[];
                return fail(0, "it is cut off by the end of the headers");
            };
            let (kind, len) = (prefix.typ.0, prefix.length as usize);
            let padded = len.checked_next_multiple_of(8).unwrap_or(usize::MAX);
            let Some((content, after)) = body.split_at_checked(padded) else {
                rest = &[];
                return fail(kind, "it is longer than the headers");
            };
            // Not more than `padded`.
            let (body, padding) = content.split_at(len);
            if padding.iter().any(|byte| *byte != 0) {
                rest = &[];
                return fail(kind, "the padding after it is not zero");
            }
            rest = after;
            index += 1;
            Some(Ok(Header { place: Place { index: index - 1, offset, kind }, body }))
        })
    }
}
