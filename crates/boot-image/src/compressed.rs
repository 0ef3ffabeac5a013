// SPDX-License-Identifier: Apache-2.0
//! The payload of a bzImage, unpacked.
//!
//! Its last four bytes are the unpacked length: gzip has them itself, for the others the kernel's build adds
//! them. That length bounds what is unpacked.

use std::io::{Cursor, Read};
use std::num::NonZeroUsize;

use cvmm_kernel_stub::payload::MEMORY_MAX;
use xz4rust::{XzDecoder, XzReader};

use crate::error::KernelError;

/// Longest unpacked payload in bytes: kernel, relocations and the headers of the ELF file.
const UNPACKED_MAX: u64 = MEMORY_MAX;
/// Largest block of the old LZ4 format.
const LZ4_BLOCK: usize = 8 << 20;
/// Largest dictionary of an xz stream: what the kernel's build asks for.
const XZ_DICTIONARY_MAX: usize = 128 << 20;
/// Unpacked bytes of a payload that one compressed byte can stand for: more is not a kernel.
const MAX_RATIO: u64 = 1 << 12;

/// Unpacks `payload`.
pub(crate) fn unpack(payload: &[u8]) -> Result<Vec<u8>, KernelError> {
    let Some((compressed, trailer)) = payload.split_last_chunk::<4>() else {
        return Err(KernelError::Truncated { what: "payload", end: 4, len: payload.len() as u64 });
    };
    let len = u64::from(u32::from_le_bytes(*trailer));
    if len > UNPACKED_MAX || len / MAX_RATIO > compressed.len() as u64 {
        let (offset, rule) =
            (compressed.len() as u64, "kernels unpack to at most 512 MiB, 4096 times the payload");
        return Err(KernelError::Field { field: "unpacked length of the payload", offset, value: len, rule });
    }
    let expected = len as usize;
    let (format, unpacked) = match compressed {
        [0x1f, 0x8b, ..] => ("gzip", read(flate2::read::GzDecoder::new(payload), expected)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ("zstd", zstd(compressed, expected)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => ("xz", xz(compressed, expected)),
        [0x02, 0x21, 0x4c, 0x18, blocks @ ..] => ("lz4", lz4(blocks, expected)),
        other => {
            let mut first = [0; 4];
            for (to, from) in first.iter_mut().zip(other) {
                *to = *from;
            }
            return Err(KernelError::Compression(first));
        }
    };
    match unpacked {
        Ok(unpacked) if unpacked.len() == expected => Ok(unpacked),
        Ok(unpacked) => {
            let problem = format!("it unpacks to {} bytes and should to {expected}", unpacked.len());
            Err(KernelError::Payload { format, problem })
        }
        Err(problem) => Err(KernelError::Payload { format, problem }),
    }
}

/// Up to one byte more than `expected`.
fn read(reader: impl Read, expected: usize) -> Result<Vec<u8>, String> {
    let mut unpacked = Vec::with_capacity(expected);
    reader.take(expected as u64 + 1).read_to_end(&mut unpacked).map_err(|error| error.to_string())?;
    Ok(unpacked)
}

/// An xz stream.
fn xz(stream: &[u8], expected: usize) -> Result<Vec<u8>, String> {
    let decoder = XzDecoder::in_heap_with_alloc_dict_size(0, XZ_DICTIONARY_MAX);
    let buffer = NonZeroUsize::MIN.saturating_add(0xffff);
    let stream = Cursor::new(stream.to_vec());
    read(XzReader::new_with_buffer_size_and_decoder(stream, buffer, decoder), expected)
}

/// A zstd frame. Kernels are compressed with a window of 128 MiB, because the compressor does not know their
/// length; the decoder accepts 100 MiB. A window of the length is as good: nothing refers to more than that.
fn zstd(frame: &[u8], expected: usize) -> Result<Vec<u8>, String> {
    let mut frame = frame.to_vec();
    // Frame header: after the magic number the descriptor, in which bit 5 means that there is no window size.
    if let [_, _, _, _, descriptor, window, ..] = frame.as_mut_slice()
        && *descriptor & 1 << 5 == 0
    {
        *window = (*window).min(window_descriptor(expected as u64));
    }
    let mut unpacked = vec![0; expected];
    let len = ruzstd::decoding::FrameDecoder::new().decode_all(&frame, &mut unpacked);
    unpacked.truncate(len.map_err(|error| error.to_string())?);
    Ok(unpacked)
}

/// The descriptor of the smallest window of at least `len` bytes: exponent in the upper five bits, eighths in
/// the lower three.
fn window_descriptor(len: u64) -> u8 {
    let size = |descriptor: u8| {
        let base = 1_u64 << (10 + (descriptor >> 3));
        base + base / 8 * u64::from(descriptor & 7)
    };
    (0..=u8::MAX).find(|descriptor| size(*descriptor) >= len).unwrap_or(u8::MAX)
}

/// The old format of LZ4: blocks with their compressed length, of 8 MiB each but the last.
fn lz4(mut blocks: &[u8], expected: usize) -> Result<Vec<u8>, String> {
    let mut unpacked = vec![0; expected];
    let mut done = 0;
    while let Some((len, rest)) = blocks.split_first_chunk::<4>() {
        let len = u32::from_le_bytes(*len) as usize;
        let (block, rest) = rest.split_at_checked(len).ok_or("a block is cut")?;
        let end = expected.min(done + LZ4_BLOCK);
        let target = unpacked.get_mut(done..end).unwrap_or_default();
        done += lz4_flex::block::decompress_into(block, target).map_err(|error| error.to_string())?;
        blocks = rest;
    }
    unpacked.truncate(done);
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A payload as the kernel's build makes it.
    fn with_trailer(frame: &[u8], len: u32) -> Vec<u8> {
        [frame, &len.to_le_bytes()].concat()
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_has_its_length_itself() {
        assert_eq!(unpack(&gzip(b"kernel\n")).unwrap(), b"kernel\n");
    }

    /// `printf 'kernel\\n' | xz --check=crc32 --x86 --lzma2=dict=1MiB`, the filters of x86 kernels.
    #[test]
    fn xz_with_the_filter_for_x86() {
        let stream = [
            0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x01, 0x69, 0x22, 0xde, 0x36, 0x02, 0x01, 0x04, 0x00,
            0x21, 0x01, 0x10, 0x00, 0x8b, 0x21, 0x6f, 0x49, 0x01, 0x00, 0x06, 0x6b, 0x65, 0x72, 0x6e, 0x65,
            0x6c, 0x0a, 0x00, 0x00, 0x69, 0xae, 0x8e, 0x73, 0x00, 0x01, 0x1b, 0x07, 0x12, 0xeb, 0xd4, 0x17,
            0x90, 0x42, 0x99, 0x0d, 0x01, 0x00, 0x00, 0x00, 0x00, 0x01, 0x59, 0x5a,
        ];
        assert_eq!(unpack(&with_trailer(&stream, 7)).unwrap(), b"kernel\n");
        let cut = with_trailer(&stream[..stream.len() - 40], 7);
        assert!(matches!(unpack(&cut), Err(KernelError::Payload { format: "xz", .. })));
    }

    #[test]
    fn zstd_with_a_window_larger_than_the_decoder_takes() {
        // One raw block in a frame with a window of 128 MiB.
        let frame =
            [[0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3].as_slice(), &[7 << 3 | 1, 0, 0], b"kernel\n"].concat();
        assert_eq!(unpack(&with_trailer(&frame, 7)).unwrap(), b"kernel\n");
    }

    #[test]
    fn lz4_is_a_row_of_blocks() {
        let content = vec![7; LZ4_BLOCK + 5];
        let mut frame = vec![0x02, 0x21, 0x4c, 0x18];
        for block in content.chunks(LZ4_BLOCK) {
            let block = lz4_flex::block::compress(block);
            frame.extend((block.len() as u32).to_le_bytes());
            frame.extend(block);
        }
        assert_eq!(unpack(&with_trailer(&frame, content.len() as u32)).unwrap(), content);
        let cut = with_trailer(&frame[..frame.len() - 1], content.len() as u32);
        assert!(matches!(unpack(&cut), Err(KernelError::Payload { format: "lz4", .. })));
    }

    #[test]
    fn the_window_covers_the_length() {
        assert_eq!(window_descriptor(57_573_156), 15 << 3 | 6, "56 MiB");
        assert_eq!((window_descriptor(0), window_descriptor(1025)), (0, 1));
    }

    #[test]
    fn a_length_that_does_not_fit_is_refused() {
        let mut payload = gzip(b"kernel\n");
        let at = payload.len() - 4;
        payload[at] = 6;
        assert!(matches!(unpack(&payload), Err(KernelError::Payload { format: "gzip", .. })));
        payload[at..].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(unpack(&payload), Err(KernelError::Field { .. })));
    }

    #[test]
    fn other_payloads_are_refused() {
        assert_eq!(unpack(b"BZh9\x08\0\0\0").unwrap_err(), KernelError::Compression(*b"BZh9"));
        assert!(matches!(unpack(b"abc"), Err(KernelError::Truncated { .. })));
        assert_eq!(unpack(b"ab\0\0\0\0").unwrap_err(), KernelError::Compression([b'a', b'b', 0, 0]));
    }
}
