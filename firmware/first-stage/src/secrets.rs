// SPDX-License-Identifier: Apache-2.0
//! The table of secrets, in a ticket and in the firmware's launch-secret area.
//!
//! Both are the table of EFI secrets (Linux, Documentation/security/secrets/coco.rst): a GUID and a length
//! (its own 20 bytes included) before each secret, and the same before all of them. OVMF passes the area to
//! the kernel, which exposes each secret as a file `coco/GUID` in securityfs. GUIDs are in the byte order of
//! EFI.

/// 1e74f542-71dd-4d66-963e-ef4287ff173b: the table itself.
pub const TABLE: [u8; 16] =
    [0x42, 0xf5, 0x74, 0x1e, 0xdd, 0x71, 0x66, 0x4d, 0x96, 0x3e, 0xef, 0x42, 0x87, 0xff, 0x17, 0x3b];
/// Bytes before a secret.
pub const HEADER: usize = 20;

/// Not a table of secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Checks a table: consistent lengths, no GUID of zeros or of the table itself, no duplicates. Returns the
/// number of secrets.
pub fn check(table: &[u8]) -> Result<usize, Malformed> {
    let (guid, mut rest) = entry(table)?;
    if guid != TABLE || rest.len() + HEADER != table.len() {
        return Err(Malformed);
    }
    let all = rest;
    let mut count = 0;
    while !rest.is_empty() {
        let (guid, secret) = entry(rest)?;
        let before = &all[..all.len() - rest.len()];
        if guid == [0; 16] || guid == TABLE || has(before, &guid) {
            return Err(Malformed);
        }
        rest = &rest[HEADER + secret.len()..];
        count += 1;
    }
    Ok(count)
}

/// The GUID and the content of the entry that `bytes` begins with.
fn entry(bytes: &[u8]) -> Result<([u8; 16], &[u8]), Malformed> {
    let guid = *bytes.first_chunk::<16>().ok_or(Malformed)?;
    let len = bytes[16..].first_chunk::<4>().ok_or(Malformed)?;
    let len = usize::try_from(u32::from_le_bytes(*len)).map_err(|_| Malformed)?;
    let content = bytes.get(HEADER..len).ok_or(Malformed)?;
    Ok((guid, content))
}

/// Whether the valid entries of `bytes` include `wanted`.
fn has(mut bytes: &[u8], wanted: &[u8; 16]) -> bool {
    while let Ok((guid, content)) = entry(bytes) {
        if guid == *wanted {
            return true;
        }
        bytes = &bytes[HEADER + content.len()..];
    }
    false
}

/// Writes a table of `secrets` to `out`; returns its length, or `None` if `out` is too short.
pub fn write(secrets: &[([u8; 16], &[u8])], out: &mut [u8]) -> Option<usize> {
    let total = secrets
        .iter()
        .try_fold(HEADER, |sum, (_, secret)| sum.checked_add(HEADER)?.checked_add(secret.len()))?;
    let room = out.get_mut(..total)?;
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        room[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&TABLE);
    put(&u32::try_from(total).ok()?.to_le_bytes());
    for (guid, secret) in secrets {
        put(guid);
        put(&u32::try_from(HEADER + secret.len()).ok()?.to_le_bytes());
        put(secret);
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn table(secrets: &[([u8; 16], &[u8])]) -> Vec<u8> {
        let mut out = vec![0; 4096];
        let len = write(secrets, &mut out).unwrap();
        out.truncate(len);
        out
    }

    #[test]
    fn what_is_written_is_good() {
        assert_eq!(check(&table(&[])), Ok(0));
        assert_eq!(check(&table(&[([1; 16], b"disk key"), ([2; 16], b"")])), Ok(2));
        assert_eq!(write(&[([1; 16], &[0; 100])], &mut [0; 100]), None);
    }

    #[test]
    fn what_is_not_a_table_is_refused() {
        assert!(check(&table(&[([1; 16], b"a"), ([1; 16], b"b")])).is_err());
        assert!(check(&table(&[([0; 16], b"a")])).is_err());
        let good = table(&[([1; 16], b"abc")]);
        for len in 0..good.len() {
            assert!(check(&good[..len]).is_err(), "{len}");
        }
        let mut longer = good.clone();
        longer.push(0);
        assert!(check(&longer).is_err());
        let mut short = good;
        short[36] = 19;
        assert!(check(&short).is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), real: bool) {
            if real && bytes.len() > 20 {
                bytes[..16].copy_from_slice(&TABLE);
                let len = bytes.len() as u32;
                bytes[16..20].copy_from_slice(&len.to_le_bytes());
            }
            let _ = check(&bytes);
        }
    }
}
