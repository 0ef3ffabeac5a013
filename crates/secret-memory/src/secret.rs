// SPDX-License-Identifier: Apache-2.0
//! Secrets of fixed and of variable length.

use std::fmt;
use std::io::{self, Read};
use std::ops::{Deref, DerefMut};

use crate::pages::Room;

/// Bytes that are locked in memory, zeroized when dropped and redacted in `Debug` output.
pub struct SecretBytes(Room);

impl SecretBytes {
    /// `len` zeros, to be filled in place.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        Self(Room::new(len))
    }

    /// Reads up to `max` bytes from `reader`, directly into locked memory.
    ///
    /// # Errors
    /// Errors of the reader.
    pub fn read(mut reader: impl Read, max: usize) -> io::Result<Self> {
        let mut secret = Self::zeroed(max);
        let mut len = 0;
        while let Some(rest) = secret.get_mut(len..).filter(|rest| !rest.is_empty()) {
            match reader.read(rest) {
                Ok(0) => break,
                Ok(count) => len += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        secret.truncate(len);
        Ok(secret)
    }

    /// Shortens it to `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }
}

impl From<&[u8]> for SecretBytes {
    /// Copies the bytes; the caller's copy is not wiped.
    fn from(bytes: &[u8]) -> Self {
        let mut secret = Self::zeroed(bytes.len());
        secret.copy_from_slice(bytes);
        secret
    }
}

impl Deref for SecretBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl DerefMut for SecretBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }
}

impl Clone for SecretBytes {
    fn clone(&self) -> Self {
        Self::from(&**self)
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(..)")
    }
}

/// A secret of `N` bytes; see [`SecretBytes`].
#[derive(Clone)]
pub struct Secret<const N: usize>(SecretBytes);

impl<const N: usize> Secret<N> {
    /// Zeros, to be filled in place.
    #[must_use]
    pub fn zeroed() -> Self {
        Self(SecretBytes::zeroed(N))
    }

    /// The secret with these bytes, if there are `N`; the caller's copy is not wiped.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == N).then(|| Self(SecretBytes::from(bytes)))
    }
}

impl<const N: usize> From<&[u8; N]> for Secret<N> {
    fn from(bytes: &[u8; N]) -> Self {
        Self(SecretBytes::from(bytes.as_slice()))
    }
}

impl<const N: usize> Deref for Secret<N> {
    type Target = [u8; N];

    fn deref(&self) -> &[u8; N] {
        const { assert!(N > 0) };
        match self.0.first_chunk() {
            Some(bytes) => bytes,
            None => unreachable!("made with N bytes, and never shortened"),
        }
    }
}

impl<const N: usize> DerefMut for Secret<N> {
    fn deref_mut(&mut self) -> &mut [u8; N] {
        match self.0.first_chunk_mut() {
            Some(bytes) => bytes,
            None => unreachable!("made with N bytes, and never shortened"),
        }
    }
}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret<{N}>(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::SLOT;

    /// The flags and the locked kilobytes of the mapping that has this address.
    fn mapping(address: usize) -> (String, u64) {
        let text = fs::read_to_string("/proc/self/smaps").unwrap();
        let (mut inside, mut locked) = (false, 0);
        for line in text.lines() {
            let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
            let range = range.and_then(|(start, end)| {
                Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
            });
            if let Some((start, end)) = range {
                inside = (start..end).contains(&address);
            }
            match line.split_once(':') {
                Some(("Locked", kib)) if inside => {
                    locked = kib.trim().trim_end_matches(" kB").parse().unwrap();
                }
                Some(("VmFlags", flags)) if inside => return (flags.to_owned(), locked),
                _ => {}
            }
        }
        panic!("no mapping at {address:#x}");
    }

    #[test]
    fn secrets_are_locked_and_left_out_of_dumps() {
        crate::check_lock().expect("a page can be locked: RLIMIT_MEMLOCK is not 0 on any common system");
        for len in [1, 32, SLOT, SLOT + 1, 5000, 20_000] {
            let secret = SecretBytes::from(vec![0xa5; len].as_slice());
            let (flags, locked) = mapping(secret.as_ptr() as usize);
            let has = |flag: &str| flags.split_whitespace().any(|found| found == flag);
            assert!(has("dd") && has("lo"), "{len}: {flags}");
            assert!(locked > 0, "{len}");
        }
    }

    #[test]
    fn slots_are_used_again_and_hold_nothing_old() {
        let mut secrets: Vec<_> = (0..200u8).map(|byte| Secret::from(&[byte; 32])).collect();
        for (byte, secret) in (0..).zip(&secrets) {
            assert_eq!(**secret, [byte; 32]);
        }
        let addresses: std::collections::BTreeSet<_> =
            secrets.iter().map(|secret| secret.as_ptr() as usize).collect();
        assert_eq!(addresses.len(), 200);
        secrets.truncate(100);
        let again: Vec<_> = (0..100).map(|_| Secret::<32>::zeroed()).collect();
        assert!(again.iter().all(|secret| **secret == [0; 32]), "a slot is wiped when it is given back");
        assert!(secrets.iter().zip(0..).all(|(secret, byte)| **secret == [byte; 32]));
    }

    #[test]
    fn shortened_and_copied_secrets_keep_to_themselves() {
        let mut secret = SecretBytes::from(b"abcdef".as_slice());
        let copy = secret.clone();
        secret.truncate(3);
        secret.truncate(10);
        secret[0] = b'x';
        assert_eq!((&*secret, &*copy), (b"xbc".as_slice(), b"abcdef".as_slice()));
        assert!(Secret::<4>::from_slice(b"abc").is_none());
        assert_eq!(format!("{secret:?} {:?}", Secret::from(b"abcd")), "SecretBytes(..) Secret<4>(..)");
        assert!(SecretBytes::zeroed(0).is_empty());
        assert_eq!(&*SecretBytes::read(b"abcdef".as_slice(), 4).unwrap(), b"abcd");
        assert_eq!(&*SecretBytes::read(b"abc".as_slice(), 4096).unwrap(), b"abc");
    }
}
