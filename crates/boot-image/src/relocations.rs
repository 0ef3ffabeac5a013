// SPDX-License-Identifier: Apache-2.0
//! The relocations behind the vmlinux in a bzImage's payload.
//!
//! The kernel's build appends a zero, addresses of 64-bit fields, a zero, addresses of 32-bit fields to
//! subtract from (until Linux 6.14), a zero, and addresses of 32-bit fields. Each is the lower half of a
//! virtual address. Source: Linux arch/x86/boot/compressed/misc.c, `handle_relocations`.

use crate::error::KernelError;

/// Virtual address at which the kernel maps physical address 0 (Linux `__START_KERNEL_map`).
pub(crate) const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;

/// Offsets into the load image of 64-bit fields, of 32-bit fields to subtract from, and of 32-bit fields.
pub(crate) type Relocations = [Vec<u32>; 3];

/// Reads `bytes` for a load image of `len` bytes that is linked for physical address `base`.
pub(crate) fn read(bytes: &[u8], base: u64, len: usize) -> Result<Relocations, KernelError> {
    if bytes.is_empty() {
        return Ok(Relocations::default());
    }
    let wrong = |text: String| KernelError::Relocations(text);
    if !bytes.len().is_multiple_of(4) {
        return Err(wrong(format!(
            "{} bytes follow the vmlinux, and that is not a multiple of 4",
            bytes.len()
        )));
    }
    let words = bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    let mut lists: Vec<Vec<u32>> = Vec::new();
    for word in words {
        if word == 0 {
            lists.push(Vec::new());
            if lists.len() > 3 {
                break;
            }
            continue;
        }
        let field = if lists.len() == 1 { 8 } else { 4 };
        let Some(list) = lists.last_mut() else {
            return Err(wrong("the first list does not begin with a zero".to_owned()));
        };
        // Sign-extended, as the kernel does it.
        let address = i64::from(word as i32) as u64;
        let offset = address.wrapping_sub(KERNEL_MAP).wrapping_sub(base);
        // An offset below `len` has 32 bits: a load image has at most 512 MiB.
        if offset.checked_add(field).is_none_or(|end| end > len as u64) {
            return Err(wrong(format!("the field at {address:#x} is not in the kernel")));
        }
        list.push(offset as u32);
    }
    let count = lists.len();
    let mut lists = lists.into_iter();
    match (count, lists.next(), lists.next(), lists.next()) {
        (3, Some(long), Some(inverse), Some(short)) => Ok([long, inverse, short]),
        (2, Some(long), Some(short), None) => Ok([long, Vec::new(), short]),
        _ => Err(wrong(format!("there are {count} lists (counted up to 4), and it should be two or three"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn three_lists_and_two() {
        let three = bytes(&[0, 0x8100_0010, 0x8100_0020, 0, 0x8100_0030, 0, 0x8100_0040]);
        let read_three = read(&three, 16 << 20, 0x44).unwrap();
        assert_eq!(read_three, [vec![0x10, 0x20], vec![0x30], vec![0x40]]);
        let two = bytes(&[0, 0x8100_0010, 0, 0x8100_0040]);
        assert_eq!(read(&two, 16 << 20, 0x44).unwrap(), [vec![0x10], vec![], vec![0x40]]);
        assert_eq!(read(&bytes(&[0, 0, 0]), 16 << 20, 0x44).unwrap(), Relocations::default());
        assert_eq!(read(&[], 16 << 20, 0x44).unwrap(), Relocations::default());
    }

    #[test]
    fn what_is_not_in_the_kernel_is_refused() {
        let cases = [
            vec![0x8100_0010, 0],
            vec![0, 0x8100_003d, 0, 0],
            vec![0, 0, 0, 0x8100_0041],
            vec![0, 0x80ff_fff0, 0],
            vec![0, 0x0100_0000, 0],
            vec![0],
            vec![0, 0, 0, 0],
        ];
        for words in cases {
            assert!(read(&bytes(&words), 16 << 20, 0x44).is_err(), "{words:x?}");
        }
        assert!(read(&[0; 5], 16 << 20, 0x44).is_err());
    }
}
