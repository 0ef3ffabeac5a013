// SPDX-License-Identifier: Apache-2.0
//! Keys on P-384, as DER and points have them.
//!
//! Sources: RFC 5480 (SubjectPublicKeyInfo), SEC 1, 2.3.3 (points).

/// Bytes of an uncompressed point: 4, X, Y.
pub const POINT_LEN: usize = 97;
/// Object identifier secp384r1, in DER.
pub const CURVE: [u8; 7] = [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
/// AlgorithmIdentifier of a key: id-ecPublicKey with secp384r1.
pub const ALGORITHM: [u8; 18] = [
    0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00,
    0x22,
];
/// SubjectPublicKeyInfo up to the uncompressed point.
pub const SPKI_PREFIX: [u8; 23] = [
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81,
    0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_part_of_the_next() {
        assert!(ALGORITHM.ends_with(&CURVE));
        assert_eq!(SPKI_PREFIX[2..20], ALGORITHM);
        // Lengths of what is inside: both headers count the bit string with its byte of unused bits.
        assert_eq!(usize::from(SPKI_PREFIX[1]), SPKI_PREFIX.len() - 2 + POINT_LEN);
        assert_eq!(usize::from(SPKI_PREFIX[21]), 1 + POINT_LEN);
    }
}
