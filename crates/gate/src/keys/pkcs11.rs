// SPDX-License-Identifier: Apache-2.0
//! Keys in a PKCS#11 token: they sign for the gate, which never sees them.
//!
//! A PKCS#11 session runs one call at a time, and a module may block for any time. So a few threads with a
//! session each sign, and a caller waits for its signature no longer than `timeout_s`. A session that failed
//! is opened again once per signature, so that a token that the module finds again signs again. A PIN that
//! the token has refused is never presented again, since a few more attempts would lock it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA384, digest};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::RawAuthPin;
use cvmm_secret_memory::SecretBytes;
use cvmm_secret_memory::private_file::PrivateFileError;
use cvmm_snp::p384::{self, POINT_LEN};
use serde::Deserialize;
use thiserror::Error;

use crate::files::read_private;

/// Threads that sign, and so sessions with the token.
const SESSIONS: usize = 4;
/// What precedes it in CKA_EC_POINT: the DER header of an OCTET STRING. Some modules omit it.
const POINT_PREFIX: [u8; 2] = [0x04, POINT_LEN as u8];

/// `[pkcs11]` of gate.toml.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The module: the vendor's library.
    pub module: PathBuf,
    /// The token's label.
    pub token: Option<String>,
    /// The token's slot, instead of its label.
    pub slot: Option<u64>,
    /// File with the user's PIN, readable by the gate's user only.
    pub pin_file: PathBuf,
    /// Label of the key that signs tickets and the audit log.
    pub verdict: String,
    /// Label of the key that signs ID blocks.
    pub id: String,
    /// Label of the key that signs the ID key.
    pub author: Option<String>,
    /// Files and folders that the module reads while the gate serves, for the sandbox.
    #[serde(default)]
    pub read: Vec<PathBuf>,
    /// Files and folders that it writes.
    #[serde(default)]
    pub write: Vec<PathBuf>,
    /// Whether the module connects to a daemon's Unix socket.
    #[serde(default)]
    pub unix_sockets: bool,
    /// Seconds to wait for a signature.
    #[serde(default = "default_timeout")]
    pub timeout_s: u64,
}

fn default_timeout() -> u64 {
    3
}

/// Why a token does not sign.
#[derive(Debug, Error)]
pub enum TokenError {
    /// The PIN file.
    #[error(transparent)]
    PinFile(#[from] PrivateFileError),
    /// The settings.
    #[error("[pkcs11] of gate.toml: {0}")]
    Settings(&'static str),
    /// The module.
    #[error("cannot load the PKCS#11 module {path}: {problem}")]
    Module {
        /// The module.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// No token, or more than one.
    #[error(
        "expected one token {wanted}, found {found}: check that it is plugged in and that the module's own configuration names it"
    )]
    Tokens {
        /// By what it is selected.
        wanted: String,
        /// How many there are.
        found: usize,
    },
    /// The PIN.
    #[error("the token refused the PIN: {0}; the gate does not present it again until it is restarted")]
    Pin(String),
    /// No key, or more than one.
    #[error(
        "expected one {kind} key labelled {label:?} in the token, found {found}: cvmm-gate keys generate makes missing keys"
    )]
    Keys {
        /// The label.
        label: String,
        /// Private or public.
        kind: &'static str,
        /// How many there are.
        found: usize,
    },
    /// A key of another algorithm or curve.
    #[error("the {kind} key labelled {label:?} is not a P-384 key")]
    Curve {
        /// The label.
        label: String,
        /// Private or public.
        kind: &'static str,
    },
    /// A call failed.
    #[error("the token failed to {doing}: {problem}")]
    Failed {
        /// The operation.
        doing: &'static str,
        /// The module's error.
        problem: String,
    },
    /// Not a signature of this key.
    #[error("the token's signature does not verify with the public key labelled {0:?}")]
    Signature(String),
    /// No answer in time.
    #[error("the token gave no signature within {0} s")]
    Timeout(u64),
}

fn failed(doing: &'static str) -> impl Fn(Error) -> TokenError {
    move |error| TokenError::Failed { doing, problem: error.to_string() }
}

impl Settings {
    /// Every path in it.
    pub fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let Self {
            module,
            token: _,
            slot: _,
            pin_file,
            verdict: _,
            id: _,
            author: _,
            read,
            write,
            unix_sockets: _,
            timeout_s: _,
        } = self;
        [module, pin_file].into_iter().chain(read).chain(write)
    }

    /// The labels of the verdict, ID and author keys; the last one is optional.
    fn labels(&self) -> Vec<String> {
        [&self.verdict, &self.id].into_iter().chain(&self.author).cloned().collect()
    }
}

/// A key in a token. Clones share its sessions.
#[derive(Clone, Debug)]
pub(super) struct TokenKey {
    threads: Arc<Threads>,
    number: usize,
    label: String,
    /// The public key as an uncompressed point.
    point: [u8; POINT_LEN],
}

/// The threads that sign.
struct Threads {
    /// Set when the threads are started.
    jobs: OnceLock<Sender<Job>>,
    /// The token with its first session, which signs until then: threads are started inside the sandbox.
    first: Mutex<Option<(Arc<Token>, TokenSession)>>,
    timeout: u64,
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").finish_non_exhaustive()
    }
}

/// A signature to be made.
struct Job {
    key: usize,
    digest: [u8; 48],
    /// The caller gives up then.
    until: Instant,
    answer: Sender<Result<Vec<u8>, TokenError>>,
}

/// A token that sessions can be opened with.
struct Token {
    module: Pkcs11,
    settings: Settings,
    pin: SecretBytes,
    pin_refused: AtomicBool,
}

/// An open session with the private keys, by number.
struct TokenSession {
    session: Session,
    keys: Vec<ObjectHandle>,
}

/// Opens the token and finds its verdict, ID and author keys.
pub(super) fn open(settings: &Settings) -> Result<Vec<TokenKey>, TokenError> {
    if !(1..=60).contains(&settings.timeout_s) {
        return Err(TokenError::Settings("timeout_s has to be 1 to 60"));
    }
    let token = Token::new(settings)?;
    let labels = settings.labels();
    let open = token.open()?;
    let points: Vec<_> = labels.iter().map(|label| point(&open.session, label)).collect::<Result<_, _>>()?;
    for (label, key) in labels.iter().zip(&open.keys) {
        if is_extractable(&open.session, *key) {
            tracing::warn!(label, "this private key can be extracted from the token (CKA_EXTRACTABLE)");
        }
    }
    let threads = Arc::new(Threads {
        jobs: OnceLock::new(),
        first: Mutex::new(Some((Arc::new(token), open))),
        timeout: settings.timeout_s,
    });
    let keys = labels.into_iter().zip(points).enumerate();
    Ok(keys
        .map(|(number, (label, point))| TokenKey { threads: Arc::clone(&threads), number, label, point })
        .collect())
}

impl TokenKey {
    /// The public key as an uncompressed point: 4, X, Y.
    pub(super) fn point(&self) -> &[u8; POINT_LEN] {
        &self.point
    }

    /// Starts the threads that sign from now on, with a session each.
    pub(super) fn start(&self) -> Result<(), TokenError> {
        let mut first = self.threads.first.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((token, open)) = first.take() else { return Ok(()) };
        let (sender, receiver) = mpsc::channel();
        let receiver = Arc::new(Mutex::new(receiver));
        let mut open = Some(open);
        for _ in 0..SESSIONS {
            let (token, receiver, open) = (Arc::clone(&token), Arc::clone(&receiver), open.take());
            thread::Builder::new()
                .name("pkcs11".to_owned())
                .spawn(move || serve(&token, &receiver, open))
                .map_err(|error| TokenError::Failed {
                    doing: "start a thread",
                    problem: error.to_string(),
                })?;
        }
        let _ = self.threads.jobs.set(sender); // unset so far: this lock is held
        Ok(())
    }

    /// Signs SHA-384 of `message`; returns R and S, 48 bytes each. The caller verifies them with
    /// [`Self::point`].
    pub(super) fn sign(&self, message: &[u8]) -> Result<[u8; 96], TokenError> {
        let Threads { jobs, first, timeout } = &*self.threads;
        let late = |_| TokenError::Timeout(*timeout);
        let mut hash = [0; 48];
        hash.copy_from_slice(digest(&SHA384, message).as_ref()); // as many bytes as SHA-384 has
        let Some(jobs) = jobs.get() else {
            let first = first.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, open)) = &*first {
                return open.sign(self.number, &hash)?.try_into().map_err(|_| self.wrong_signature());
            }
            drop(first);
            // They were started just now.
            return if jobs.get().is_some() {
                self.sign(message)
            } else {
                Err(TokenError::Timeout(*timeout))
            };
        };
        let (answer, answered) = mpsc::channel();
        let wait = Duration::from_secs(*timeout);
        let job = Job { key: self.number, digest: hash, until: Instant::now() + wait, answer };
        jobs.send(job).map_err(|_| TokenError::Timeout(*timeout))?;
        let signature = answered.recv_timeout(wait).map_err(late)??;
        signature.try_into().map_err(|_| self.wrong_signature())
    }

    pub(super) fn wrong_signature(&self) -> TokenError {
        TokenError::Signature(self.label.clone())
    }
}

/// Signs until all callers are gone.
fn serve(token: &Token, jobs: &Mutex<Receiver<Job>>, mut open: Option<TokenSession>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { key, digest, until, answer }) = job else { return };
        if Instant::now() > until {
            continue;
        }
        let mut signature = open.as_ref().map(|open| open.sign(key, &digest));
        if !matches!(signature, Some(Ok(_))) {
            // The old session is closed first: closing the last one logs out.
            drop(open.take());
            signature = Some(token.open().and_then(|new| open.insert(new).sign(key, &digest)));
        }
        if let Some(signature) = signature {
            if signature.is_err() {
                open = None;
            }
            let _ = answer.send(signature); // the caller may have given up
        }
    }
}

impl Token {
    fn new(settings: &Settings) -> Result<Self, TokenError> {
        if settings.token.is_some() == settings.slot.is_some() {
            return Err(TokenError::Settings("either token or slot has to be given"));
        }
        let pin = read_private(&settings.pin_file)?;
        let pin = pin.strip_suffix(b"\n").unwrap_or(&pin);
        let pin = pin.strip_suffix(b"\r").unwrap_or(pin);
        if pin.is_empty() {
            return Err(TokenError::Settings("pin_file is empty"));
        }
        Ok(Self {
            module: load(&settings.module)?,
            settings: settings.clone(),
            pin: SecretBytes::from(pin),
            pin_refused: AtomicBool::new(false),
        })
    }

    fn slot(&self) -> Result<Slot, TokenError> {
        // Problems of other tokens do not matter here.
        let slots = self.module.get_slots_with_token().map_err(failed("list tokens"))?;
        let Settings { token, slot: number, .. } = &self.settings;
        let mut found: Vec<_> = slots
            .into_iter()
            .filter(|slot| match (token, number) {
                (Some(label), _) => self
                    .module
                    .get_token_info(*slot)
                    .is_ok_and(|info| info.token_initialized() && info.label().trim_end() == label),
                (None, number) => Some(slot.id()) == *number,
            })
            .collect();
        match (found.pop(), found.is_empty()) {
            (Some(slot), true) => Ok(slot),
            (last, _) => Err(TokenError::Tokens {
                wanted: match (token, number) {
                    (Some(label), _) => format!("labelled {label:?}"),
                    (None, number) => format!("in slot {}", number.unwrap_or_default()),
                },
                found: found.len() + usize::from(last.is_some()),
            }),
        }
    }

    fn log_in(&self, session: &Session) -> Result<(), TokenError> {
        if self.pin_refused.load(Ordering::Acquire) {
            return Err(TokenError::Pin("it was refused before".to_owned()));
        }
        // The library takes its own copy, which it overwrites.
        match session.login_with_raw(UserType::User, &RawAuthPin::new(Box::new(self.pin.to_vec()))) {
            // The process is logged in, not the session.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
            Err(Error::Pkcs11(
                error @ (RvError::PinIncorrect
                | RvError::PinInvalid
                | RvError::PinLenRange
                | RvError::PinExpired
                | RvError::PinLocked
                | RvError::UserPinNotInitialized),
                _,
            )) => {
                self.pin_refused.store(true, Ordering::Release);
                Err(TokenError::Pin(format!("{error:?}")))
            }
            Err(error) => Err(failed("log in")(error)),
        }
    }

    fn open(&self) -> Result<TokenSession, TokenError> {
        let session = self.module.open_ro_session(self.slot()?).map_err(failed("open a session"))?;
        self.log_in(&session)?;
        let labels = self.settings.labels();
        let keys = labels.iter().map(|label| find(&session, label, ObjectClass::PRIVATE_KEY));
        let keys = keys.collect::<Result<_, _>>()?;
        Ok(TokenSession { session, keys })
    }
}

impl TokenSession {
    fn sign(&self, key: usize, digest: &[u8]) -> Result<Vec<u8>, TokenError> {
        let absent = || TokenError::Settings("it does not name such a key");
        let key = self.keys.get(key).ok_or_else(absent)?;
        self.session.sign(&Mechanism::Ecdsa, *key, digest).map_err(failed("sign"))
    }
}

fn load(path: &Path) -> Result<Pkcs11, TokenError> {
    let problem = |error: Error| TokenError::Module { path: path.to_owned(), problem: error.to_string() };
    let module = Pkcs11::new(path).map_err(problem)?;
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(module),
        Err(error) => Err(problem(error)),
    }
}

/// Finds the P-384 key of `class` with `label`.
fn find(session: &Session, label: &str, class: ObjectClass) -> Result<ObjectHandle, TokenError> {
    let kind = if class == ObjectClass::PRIVATE_KEY { "private" } else { "public" };
    let mut found = objects(session, label, class)?;
    let key = match (found.pop(), found.is_empty()) {
        (Some(key), true) => key,
        (last, _) => {
            let found = found.len() + usize::from(last.is_some());
            return Err(TokenError::Keys { label: label.to_owned(), kind, found });
        }
    };
    let curve = || TokenError::Curve { label: label.to_owned(), kind };
    let types = [AttributeType::KeyType];
    let attributes = session.get_attributes(key, &types).map_err(failed("read the type of a key"))?;
    if !attributes.iter().any(|attribute| matches!(attribute, Attribute::KeyType(KeyType::EC))) {
        return Err(curve());
    }
    let attributes =
        session.get_attributes(key, &[AttributeType::EcParams]).map_err(failed("read the curve of a key"))?;
    if !attributes
        .iter()
        .any(|attribute| matches!(attribute, Attribute::EcParams(oid) if *oid == p384::CURVE))
    {
        return Err(curve());
    }
    Ok(key)
}

fn objects(session: &Session, label: &str, class: ObjectClass) -> Result<Vec<ObjectHandle>, TokenError> {
    let wanted = [Attribute::Class(class), Attribute::Label(label.as_bytes().to_vec())];
    session.find_objects(&wanted).map_err(failed("find a key"))
}

/// Reads the public key with `label`.
fn point(session: &Session, label: &str) -> Result<[u8; POINT_LEN], TokenError> {
    let key = find(session, label, ObjectClass::PUBLIC_KEY)?;
    let attributes =
        session.get_attributes(key, &[AttributeType::EcPoint]).map_err(failed("read a public key"))?;
    let point = attributes.iter().find_map(|attribute| match attribute {
        Attribute::EcPoint(bytes) if bytes.len() == POINT_LEN => bytes.as_slice().try_into().ok(),
        Attribute::EcPoint(bytes) => bytes.strip_prefix(&POINT_PREFIX)?.try_into().ok(),
        _ => None,
    });
    point.ok_or_else(|| TokenError::Curve { label: label.to_owned(), kind: "public" })
}

/// Whether a private key can be extracted from the token.
fn is_extractable(session: &Session, key: ObjectHandle) -> bool {
    let attributes = session.get_attributes(key, &[AttributeType::Extractable]).unwrap_or_default();
    attributes.iter().any(|attribute| matches!(attribute, Attribute::Extractable(true)))
}

/// Generates the keys that the token does not have; returns their labels.
pub fn generate(settings: &Settings) -> Result<Vec<String>, TokenError> {
    let token = Token::new(settings)?;
    let session = token.module.open_rw_session(token.slot()?).map_err(failed("open a session"))?;
    token.log_in(&session)?;
    let mut made = Vec::new();
    for label in settings.labels() {
        if !objects(&session, &label, ObjectClass::PRIVATE_KEY)?.is_empty() {
            continue;
        }
        let name = label.as_bytes().to_vec();
        let both = [Attribute::Token(true), Attribute::Label(name.clone()), Attribute::Id(name)];
        let public =
            [Attribute::Private(false), Attribute::Verify(true), Attribute::EcParams(p384::CURVE.to_vec())];
        let private = [
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
        ];
        session
            .generate_key_pair(
                &Mechanism::EccKeyPairGen,
                &[&both[..], &public].concat(),
                &[&both[..], &private].concat(),
            )
            .map_err(failed("generate a key"))?;
        made.push(label);
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(timeout: u64) -> (TokenKey, Receiver<Job>) {
        let (jobs, receiver) = mpsc::channel();
        let threads = Arc::new(Threads { jobs: jobs.into(), first: Mutex::new(None), timeout });
        (TokenKey { threads, number: 1, label: "x".to_owned(), point: [4; POINT_LEN] }, receiver)
    }

    #[test]
    fn a_token_that_hangs_times_out() {
        let (key, jobs) = key(1);
        let began = Instant::now();
        assert!(matches!(key.sign(b"m"), Err(TokenError::Timeout(1))));
        assert!((900..3000).contains(&began.elapsed().as_millis()));
        // The caller has given up: this is not signed.
        let job = jobs.recv().unwrap();
        assert!(Instant::now() >= job.until && job.key == 1);
        drop(jobs);
        assert!(matches!(key.sign(b"m"), Err(TokenError::Timeout(1))));
    }

    #[test]
    fn a_signature_of_the_wrong_length_is_an_error() {
        let (key, jobs) = key(5);
        let token = thread::spawn(move || {
            for len in [0, 95, 97, 104] {
                let Job { digest: hash, answer, .. } = jobs.recv().unwrap();
                assert_eq!(hash, digest(&SHA384, b"m").as_ref());
                answer.send(Ok(vec![1; len])).unwrap();
            }
        });
        for _ in 0..4 {
            assert!(matches!(key.sign(b"m"), Err(TokenError::Signature(label)) if label == "x"));
        }
        token.join().unwrap();
    }
}
