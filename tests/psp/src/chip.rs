// SPDX-License-Identifier: Apache-2.0
//! The identity of the chip: its secret, its identifier and the endorsement keys that follow from them.
//!
//! As on hardware, the VCEK is a function of the chip's secret and the reported TCB: another TCB is another
//! key and needs another certificate. The VLEK comes from the cloud provider's seed, wrapped for one chip in
//! a "hashstick".

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::crypto::{CryptoError, Secret, SigningKey, derive, first};
use crate::product::{Product, Tcb};

/// Size of the wrapped VLEK hashstick, bytes.
pub const HASHSTICK_LEN: usize = 432;
// Layout: IV 12, reserved 4, wrapped hashstick 384, TCB 8, reserved 8, tag 16 (as the `sev` crate has it).
const WRAPPED: usize = 0x10;
const WRAPPED_END: usize = 0x190;
const TCB: usize = 0x190;
const TAG: usize = 0x1A0;

/// Secret and identifier of a chip.
#[derive(Debug)]
pub struct Chip {
    product: Product,
    secret: Secret<48>,
    id: [u8; 64],
}

impl Chip {
    /// The chip that belongs to a secret. Without an identifier it gets one derived from the secret.
    pub(crate) fn new(product: Product, secret: [u8; 48], id: Option<[u8; 64]>) -> Self {
        let id = id.unwrap_or_else(|| {
            let mut id = [0; 64];
            let len = product.chip_id_len();
            let low = derive(&secret, "chip id, low", &[]);
            let high = derive(&secret, "chip id, high", &[]);
            for (to, from) in id.iter_mut().take(len).zip(low.iter().chain(high.iter())) {
                *to = *from;
            }
            id
        });
        Self { product, secret: Secret(secret), id }
    }

    /// The 64 bytes of CHIP_ID.
    #[must_use]
    pub fn id(&self) -> &[u8; 64] {
        &self.id
    }

    /// The bytes of the identifier that are in use: HWID of the certificate.
    #[must_use]
    pub fn hwid(&self) -> &[u8] {
        &self.id[..self.product.chip_id_len()]
    }

    pub(crate) fn product(&self) -> Product {
        self.product
    }

    /// The VCEK at a reported TCB.
    pub(crate) fn vcek(&self, tcb: Tcb) -> Result<SigningKey, CryptoError> {
        SigningKey::derived(&self.secret.0, "vcek", &[&tcb.to_bytes(self.product)])
    }

    /// Root of keys derived from the VCEK.
    pub(crate) fn derivation_root(&self) -> Zeroizing<[u8; 48]> {
        derive(&self.secret.0, "guest key derivation", &[])
    }

    fn wrapping_key(&self) -> Result<LessSafeKey, CryptoError> {
        let key = derive(&self.secret.0, "vlek wrapping", &[]);
        let key = UnboundKey::new(&AES_256_GCM, &key[..32]).map_err(|_| CryptoError("VLEK wrapping key"))?;
        Ok(LessSafeKey::new(key))
    }

    /// Wrap a VLEK seed for this chip, as the key distribution service does.
    pub(crate) fn wrap_vlek(
        &self,
        seed: &Secret<48>,
        tcb: Tcb,
        iv: [u8; 12],
    ) -> Result<[u8; HASHSTICK_LEN], CryptoError> {
        let mut out = [0; HASHSTICK_LEN];
        out[..12].copy_from_slice(&iv);
        out[WRAPPED..WRAPPED + 48].copy_from_slice(&seed.0);
        out[TCB..TCB + 8].copy_from_slice(&tcb.to_bytes(self.product));
        let aad = Aad::from(tcb.to_bytes(self.product));
        let tag = self
            .wrapping_key()?
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(iv), aad, &mut out[WRAPPED..WRAPPED_END])
            .map_err(|_| CryptoError("VLEK wrapping"))?;
        out[TAG..].copy_from_slice(tag.as_ref());
        Ok(out)
    }

    /// Unwrap; `None` when it was made for another chip or altered.
    pub(crate) fn unwrap_vlek(&self, wrapped: &[u8; HASHSTICK_LEN]) -> Option<Vlek> {
        let tcb = Tcb::from_bytes(first(&wrapped[TCB..]), self.product)?;
        if wrapped[12..16].iter().chain(&wrapped[TCB + 8..TAG]).any(|&byte| byte != 0) {
            return None;
        }
        let mut sealed = Zeroizing::new(wrapped[WRAPPED..WRAPPED_END].to_vec());
        sealed.extend_from_slice(&wrapped[TAG..]);
        let nonce = Nonce::assume_unique_for_key(first(wrapped));
        let aad = Aad::from(tcb.to_bytes(self.product));
        let plain = self.wrapping_key().ok()?.open_in_place(nonce, aad, sealed.as_mut_slice()).ok()?;
        Some(Vlek { seed: Secret(first(plain)), tcb })
    }
}

/// A loaded VLEK hashstick.
#[derive(Debug)]
pub(crate) struct Vlek {
    seed: Secret<48>,
    pub(crate) tcb: Tcb,
}

impl Vlek {
    /// Root of keys derived from the VLEK: the same on all chips that load it.
    pub(crate) fn derivation_root(&self) -> Zeroizing<[u8; 48]> {
        derive(&self.seed.0, "guest key derivation", &[])
    }

    pub(crate) fn key(&self, product: Product, tcb: Tcb) -> Result<SigningKey, CryptoError> {
        vlek_key(&self.seed, product, tcb)
    }
}

/// The VLEK of a provider's seed at a reported TCB.
pub(crate) fn vlek_key(seed: &Secret<48>, product: Product, tcb: Tcb) -> Result<SigningKey, CryptoError> {
    SigningKey::derived(&seed.0, "vlek", &[product.line().as_bytes(), &tcb.to_bytes(product)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hashstick_opens_on_its_chip_only() {
        let chip = Chip::new(Product::Milan, [1; 48], None);
        let other = Chip::new(Product::Milan, [2; 48], None);
        assert_ne!(chip.id(), other.id());
        let seed = Secret([7; 48]);
        let tcb = Product::Milan.default_tcb();
        let wrapped = chip.wrap_vlek(&seed, tcb, [3; 12]).unwrap();
        let vlek = chip.unwrap_vlek(&wrapped).unwrap();
        assert_eq!((&vlek.seed, vlek.tcb), (&seed, tcb));
        assert!(other.unwrap_vlek(&wrapped).is_none());
        for at in [0, 13, 0x20, 0x18F, 0x190, 0x199, 0x1AF] {
            let mut altered = wrapped;
            altered[at] ^= 1;
            assert!(chip.unwrap_vlek(&altered).is_none(), "byte {at:#x}");
        }
    }

    #[test]
    fn turin_uses_eight_bytes_of_the_identifier() {
        let chip = Chip::new(Product::Turin, [1; 48], None);
        assert_eq!(chip.hwid().len(), 8);
        assert!(chip.id()[8..].iter().all(|&byte| byte == 0));
    }
}
