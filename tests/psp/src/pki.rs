// SPDX-License-Identifier: Apache-2.0
//! The test PKI: a keys folder that stands for AMD's signing authorities, the chip and the key distribution
//! service.
//!
//! The folder keeps what is secret in `keys/` (authorities' RSA keys, made once because that takes seconds;
//! the chip's secret; the cloud provider's VLEK seed) and publishes certificates the way verifiers look for
//! them:
//!
//! | path | content |
//! |---|---|
//! | `vcek/v1/<Line>/cert_chain`, `vlek/v1/<Line>/cert_chain` | PEM, ASK or ASVK, then ARK, as the service answers |
//! | `vcek/v1/<Line>/crl`, `vlek/v1/<Line>/crl` | revocation list, DER |
//! | `vcek/<hwid>/bl04_tee00_snp22_ucode213_vcek.der` | a VCEK by chip and TCB (layout of offline stores) |
//! | `vlek/<Line>/bl04_tee00_snp22_ucode213_vlek.der` | a VLEK by TCB |
//! | `certs/{ark,ask,vcek}.{pem,der}`, `certs-vlek/{ark,asvk,vlek}.{pem,der}` | the present chain, for `snpguest verify` |
//! | `certs/crl.der`, `certs-vlek/crl.der` | the revocation list beside them |
//! | `vlek-hashstick.bin` | the VLEK wrapped for this chip, for SNP_VLEK_LOAD |
//!
//! All of it is for tests. Nothing that verifies production reports may trust these roots.

mod cert;
mod der;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use zeroize::Zeroizing;

pub use self::cert::Authority;
use self::cert::Bound;
use crate::chip::{Chip, vlek_key};
use crate::config::{hex, unhex};
use crate::crypto::{CryptoError, Rng, Secret, first};
use crate::product::{Product, Tcb};

/// Why the keys folder is unusable.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("keys folder: {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A key file holds something else.
    #[error("keys folder: {0} is not the key it should be; remove it to have a new one made")]
    BadKey(PathBuf),
    /// A key cannot be made or used.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// An opened keys folder.
#[derive(Debug)]
pub struct Pki {
    root: PathBuf,
    ark: KeyPair,
    ask: KeyPair,
    asvk: KeyPair,
    vlek_seed: Secret<48>,
}

impl Pki {
    /// Open a keys folder and make what it lacks.
    ///
    /// # Errors
    /// A file cannot be read, written or understood.
    pub fn open(root: &Path) -> Result<Self, PkiError> {
        let keys = root.join("keys");
        let io_error = |source| PkiError::Io { path: keys.clone(), source };
        fs::create_dir_all(root).map_err(io_error)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&keys).map_err(io_error)?;
        Ok(Self {
            ark: rsa_key(&keys.join("ark.pk8"))?,
            ask: rsa_key(&keys.join("ask.pk8"))?,
            asvk: rsa_key(&keys.join("asvk.pk8"))?,
            vlek_seed: Secret(seed(&keys.join("vlek.hex"))?),
            root: root.to_owned(),
        })
    }

    /// The secret of the chip this folder belongs to.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn chip_secret(&self) -> Result<[u8; 48], PkiError> {
        seed(&self.root.join("keys/chip.hex"))
    }

    /// The chip of this folder as a given product.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn chip(&self, product: Product) -> Result<Chip, PkiError> {
        Ok(Chip::new(product, self.chip_secret()?, None))
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Certificate of an authority in DER, made at the first call and kept.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn authority(&self, who: Authority, product: Product) -> Result<Vec<u8>, PkiError> {
        let (key, file) = match who {
            Authority::Ark => (&self.ark, "ark.der"),
            Authority::Ask => (&self.ask, "ask.der"),
            Authority::Asvk => (&self.asvk, "asvk.der"),
        };
        self.kept(&Path::new("authorities").join(product.line()).join(file), || {
            cert::authority(who, product, key, &self.ark, now())
        })
    }

    /// Certificate of a chip's VCEK in DER, made at the first call and kept.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn vcek(&self, chip: &Chip, tcb: Tcb) -> Result<Vec<u8>, PkiError> {
        let product = chip.product();
        let file = format!("{}_vcek.der", tcb_name(product, tcb));
        self.kept(&Path::new("vcek").join(hex(chip.hwid())).join(file), || {
            let key = chip.vcek(tcb)?;
            cert::vek(product, tcb, Bound::Chip(chip.hwid()), key.public(), &self.ask, now())
        })
    }

    /// Certificate of the VLEK in DER, made at the first call and kept.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn vlek(&self, product: Product, tcb: Tcb, csp_id: &str) -> Result<Vec<u8>, PkiError> {
        let file = format!("{}_vlek.der", tcb_name(product, tcb));
        self.kept(&Path::new("vlek").join(product.line()).join(file), || {
            let key = vlek_key(&self.vlek_seed, product, tcb)?;
            cert::vek(product, tcb, Bound::Provider(csp_id), key.public(), &self.asvk, now())
        })
    }

    /// A revocation list in DER that names the given authorities; not kept.
    ///
    /// # Errors
    /// The signature cannot be made.
    pub fn crl(&self, product: Product, revoked: &[Authority]) -> Result<Vec<u8>, PkiError> {
        let serials: Vec<u64> = revoked.iter().map(|who| who.serial(product)).collect();
        Ok(cert::crl(product, &self.ark, &serials, now())?)
    }

    /// The VLEK hashstick for a chip, as SNP_VLEK_LOAD takes it.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn hashstick(&self, chip: &Chip, tcb: Tcb) -> Result<Vec<u8>, PkiError> {
        Ok(chip.wrap_vlek(&self.vlek_seed, tcb, Rng::System.bytes()?)?.to_vec())
    }

    /// Publish everything a verifier of this chip's reports at this TCB needs.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn export(&self, chip: &Chip, tcb: Tcb, csp_id: &str) -> Result<(), PkiError> {
        let product = chip.product();
        let line = product.line();
        let ark = self.authority(Authority::Ark, product)?;
        let crl = self.kept(&Path::new("vcek/v1").join(line).join("crl"), || {
            cert::crl(product, &self.ark, &[], now())
        })?;
        self.put(&Path::new("vlek/v1").join(line).join("crl"), &crl)?;
        let vcek = (Authority::Ask, "ask", "vcek", "certs", self.vcek(chip, tcb)?);
        let vlek = (Authority::Asvk, "asvk", "vlek", "certs-vlek", self.vlek(product, tcb, csp_id)?);
        for (authority, authority_name, vek_name, folder, vek) in [vcek, vlek] {
            let issuer = self.authority(authority, product)?;
            let chain = Path::new(vek_name).join("v1").join(line).join("cert_chain");
            self.put(&chain, format!("{}{}", certificate_pem(&issuer), certificate_pem(&ark)).as_bytes())?;
            let folder = Path::new(folder);
            for (name, der) in [("ark", &ark), (authority_name, &issuer), (vek_name, &vek)] {
                self.put(&folder.join(format!("{name}.pem")), certificate_pem(der).as_bytes())?;
                self.put(&folder.join(format!("{name}.der")), der)?;
            }
            self.put(&folder.join("crl.der"), &crl)?;
        }
        self.put(Path::new("vlek-hashstick.bin"), &self.hashstick(chip, tcb)?)
    }

    /// The file's content, or what `make` makes, which the file then has.
    fn kept(
        &self,
        path: &Path,
        make: impl FnOnce() -> Result<Vec<u8>, CryptoError>,
    ) -> Result<Vec<u8>, PkiError> {
        match fs::read(self.root.join(path)) {
            Ok(bytes) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let bytes = make()?;
                self.put(path, &bytes)?;
                Ok(bytes)
            }
            Err(source) => Err(PkiError::Io { path: self.root.join(path), source }),
        }
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), PkiError> {
        let path = self.root.join(path);
        replace(&path, bytes, 0o644).map_err(|source| PkiError::Io { path, source })
    }
}

/// Certificate in PEM.
fn certificate_pem(der: &[u8]) -> String {
    der::pem("CERTIFICATE", der)
}

/// File name of a TCB as offline stores have it.
fn tcb_name(product: Product, tcb: Tcb) -> String {
    let Tcb { fmc, bootloader, tee, snp, microcode } = tcb;
    let fmc = if product == Product::Turin { format!("_fmc{fmc:02}") } else { String::new() };
    format!("bl{bootloader:02}_tee{tee:02}_snp{snp:02}_ucode{microcode:02}{fmc}")
}

/// Seconds since 1970, an hour ago: verifiers whose clock is a little behind accept what was just made.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()).saturating_sub(3600)
}

/// Write a file so that a reader sees all of it or the old one.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = write_beside(path, bytes, mode)?;
    fs::rename(&temporary, path).inspect_err(|_| {
        // Best effort: the error that matters is the one returned.
        let _ = fs::remove_file(&temporary);
    })
}

fn write_beside(path: &Path, bytes: &[u8], mode: u32) -> io::Result<PathBuf> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let unique: [u8; 8] = Rng::System.bytes().map_err(io::Error::other)?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", hex(&unique)));
    let temporary = PathBuf::from(name);
    fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?.write_all(bytes)?;
    Ok(temporary)
}

/// A secret file's content; when two processes make it at once, the first one wins and both use its content.
fn secret_file(
    path: &Path,
    make: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, CryptoError>,
) -> Result<Zeroizing<Vec<u8>>, PkiError> {
    let io_error = |source| PkiError::Io { path: path.to_owned(), source };
    match fs::read(path) {
        Ok(bytes) => return Ok(Zeroizing::new(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error(error)),
    }
    let bytes = make()?;
    let temporary = write_beside(path, &bytes, 0o600).map_err(io_error)?;
    let linked = fs::hard_link(&temporary, path);
    // Best effort: a left-over temporary file does no harm.
    let _ = fs::remove_file(&temporary);
    match linked {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::read(path).map(Zeroizing::new).map_err(io_error)
        }
        Err(error) => Err(io_error(error)),
    }
}

fn rsa_key(path: &Path) -> Result<KeyPair, PkiError> {
    let bytes = secret_file(path, || {
        let pair = KeyPair::generate(KeySize::Rsa4096).map_err(|_| CryptoError("RSA key generation"))?;
        let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| CryptoError("RSA key encoding"))?;
        Ok(Zeroizing::new(der.as_ref().to_vec()))
    })?;
    let pair = KeyPair::from_pkcs8(&bytes).map_err(|_| PkiError::BadKey(path.to_owned()))?;
    if pair.public_modulus_len() == 512 { Ok(pair) } else { Err(PkiError::BadKey(path.to_owned())) }
}

fn seed(path: &Path) -> Result<[u8; 48], PkiError> {
    let bytes = secret_file(path, || {
        let seed = Zeroizing::new(Rng::System.bytes::<48>()?);
        Ok(Zeroizing::new(format!("{}\n", hex(&*seed)).into_bytes()))
    })?;
    let seed = std::str::from_utf8(&bytes).ok().and_then(|text| unhex(text.trim()));
    match seed.map(Zeroizing::new) {
        Some(seed) if seed.len() == 48 => Ok(first(&seed)),
        _ => Err(PkiError::BadKey(path.to_owned())),
    }
}
