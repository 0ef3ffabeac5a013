// SPDX-License-Identifier: Apache-2.0
//! What an SNP guest's memory looks like from outside: AES under a key of the guest and the address.
//!
//! Each 16-byte block is encrypted as XEX does, with a tweak that is its own system physical address
//! encrypted under a second key. So equal content at two addresses differs, the same content at one address
//! repeats, and a page that is moved or given to another guest decrypts to noise: the properties that AMD
//! describes for SNP memory (white paper "AMD SEV-SNP: strengthening VM isolation", 2020). Nothing protects
//! integrity, as there.
//!
//! The emulator keeps guest memory in the clear and calls this where the host looks at it, or where a page
//! changes hands.

use aes::cipher::{BlockDecrypt, BlockEncrypt, KeyInit};
use aes::{Aes128, Block};

/// Bytes of a block.
pub const BLOCK: usize = 16;

/// From what the guest sees to what lies in memory, or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To ciphertext.
    Encrypt,
    /// To what the guest reads.
    Decrypt,
}

/// Transform whole blocks in place. `spa` is the system physical address of the first and a multiple of 16;
/// bytes behind the last whole block stay as they are.
pub fn transform(key: &[u8; 32], spa: u64, data: &mut [u8], direction: Direction) {
    let half = |from: usize| -> [u8; 16] { std::array::from_fn(|n| key[from + n]) };
    let cipher = Aes128::new(&half(0).into());
    let tweaker = Aes128::new(&half(16).into());
    // A page at a time: the cipher works on many blocks at once, on a stack array.
    for (page, chunk) in data.chunks_mut(256 * BLOCK).enumerate() {
        let base = spa.wrapping_add((page * 256 * BLOCK) as u64);
        let mut tweaks = [Block::default(); 256];
        let mut blocks = [Block::default(); 256];
        let count = chunk.len() / BLOCK;
        for (index, tweak) in tweaks[..count].iter_mut().enumerate() {
            tweak[..8].copy_from_slice(&base.wrapping_add((index * BLOCK) as u64).to_le_bytes());
        }
        tweaker.encrypt_blocks(&mut tweaks[..count]);
        for ((block, tweak), bytes) in blocks.iter_mut().zip(&tweaks).zip(chunk.chunks_exact(BLOCK)) {
            mask(block, bytes, tweak);
        }
        match direction {
            Direction::Encrypt => cipher.encrypt_blocks(&mut blocks[..count]),
            Direction::Decrypt => cipher.decrypt_blocks(&mut blocks[..count]),
        }
        for ((block, tweak), bytes) in blocks.iter().zip(&tweaks).zip(chunk.chunks_exact_mut(BLOCK)) {
            mask(bytes, block, tweak);
        }
    }
}

fn mask(out: &mut [u8], one: &[u8], other: &[u8]) {
    for ((out, one), other) in out.iter_mut().zip(one).zip(other) {
        *out = one ^ other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = *b"0123456789abcdefFEDCBA9876543210";

    #[test]
    fn there_and_back_in_any_pieces() {
        let plain: Vec<u8> = (0..8192_u32).map(|n| (n * 7 % 251) as u8).collect();
        let mut whole = plain.clone();
        transform(&KEY, 0x1000, &mut whole, Direction::Encrypt);
        assert!(whole.chunks(BLOCK).zip(plain.chunks(BLOCK)).all(|(a, b)| a != b));
        let mut pieces = plain.clone();
        for (index, piece) in pieces.chunks_mut(BLOCK).enumerate() {
            transform(&KEY, 0x1000 + (index * BLOCK) as u64, piece, Direction::Encrypt);
        }
        assert_eq!(pieces, whole);
        transform(&KEY, 0x1000, &mut whole, Direction::Decrypt);
        assert_eq!(whole, plain);
    }

    #[test]
    fn the_address_and_the_key_count() {
        let at = |key: &[u8; 32], spa| {
            let mut block = *b"sixteen bytes ok";
            transform(key, spa, &mut block, Direction::Encrypt);
            block
        };
        let mut other = KEY;
        other[31] ^= 1;
        assert_eq!(at(&KEY, 0x1000), at(&KEY, 0x1000));
        assert_ne!(at(&KEY, 0x1000), at(&KEY, 0x1010));
        assert_ne!(at(&KEY, 0x1000), at(&other, 0x1000));
        other = KEY;
        other[0] ^= 1;
        assert_ne!(at(&KEY, 0x1000), at(&other, 0x1000));
    }

    /// Against two calls of AES-128 by another implementation.
    #[test]
    fn it_is_aes_with_an_address_tweak() {
        use aws_lc_rs::cipher::{AES_128, EncryptingKey, UnboundCipherKey};
        let aes = |key: &[u8], block: [u8; BLOCK]| {
            let key = UnboundCipherKey::new(&AES_128, key).unwrap();
            let mut out = block;
            EncryptingKey::ecb(key).unwrap().encrypt(&mut out).unwrap();
            out
        };
        let spa = 0x1_2345_6780_u64;
        let mut tweak = [0; BLOCK];
        tweak[..8].copy_from_slice(&spa.to_le_bytes());
        let tweak = aes(&KEY[16..], tweak);
        let plain = *b"a block of text.";
        let inner = aes(&KEY[..16], std::array::from_fn(|n| plain[n] ^ tweak[n]));
        let mut ours = plain;
        transform(&KEY, spa, &mut ours, Direction::Encrypt);
        assert_eq!(ours, std::array::from_fn(|n| inner[n] ^ tweak[n]));
    }
}
