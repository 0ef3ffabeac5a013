// SPDX-License-Identifier: Apache-2.0
//! Keys in a PKCS#11 token: the gate has them sign, and never sees them.
//!
//! A session of PKCS#11 does one thing at a time, and a call of a module may take as long as it likes. So a few threads have a session
//! each and sign what they are given, and whoever wants a signature waits for it no longer than `timeout_s`. A session that fails is
//! opened anew, once for each signature, so that a token that the module finds again signs again. A PIN that the token refused is never shown to it a
//! second time, since a few more would lock it.

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
use serde::Deserialize;
use thiserror::Error;

use crate::files::read_private;
use crate::keys::KeysError;

/// Threads that sign, and so sessions with the token.
const SESSIONS: usize = 4;
/// CKA_EC_PARAMS of P-384: the object identifier secp384r1 (RFC 5480), in DER.
const P384: [u8; 7] = [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
/// An uncompressed point of P-384.
const POINT: usize = 97;
/// How CKA_EC_POINT has one: an OCTET STRING of it, in DER. Some modules leave that out.
const POINT_PREFIX: [u8; 2] = [0x04, POINT as u8];

/// `[pkcs11]` of gate.toml.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The vendor's library.
    pub module: PathBuf,
    /// The token's label.
    pub token: Option<String>,
    /// The token's slot, instead of its label.
    pub slot: Option<u64>,
    /// File with the user's PIN, for the gate's user only.
    pub pin_file: PathBuf,
    /// Label of the key that signs tickets and the audit log.
    pub verdict: String,
    /// Label of the key that signs ID blocks.
    pub id: String,
    /// Label of the key that vouches for it.
    pub author: Option<String>,
    /// Files and folders that the module reads while the gate serves, for the sandbox.
    #[serde(default)]
    pub read: Vec<PathBuf>,
    /// Those that it writes.
    #[serde(default)]
    pub write: Vec<PathBuf>,
    /// Whether it connects to a daemon's Unix socket.
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
#[derive(Clone, Debug, Error)]
pub enum TokenError {
    /// The settings.
    #[error("[pkcs11] of gate.toml: {0}")]
    Settings(&'static str),
    /// The module.
    #[error("cannot load the PKCS#11 module {path}: {problem}")]
    Module {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// No token, or more than one.
    #[error(
        "{found} tokens are {wanted}; is it plugged in, and does the module's own configuration name it?"
    )]
    Tokens {
        /// What was looked for.
        wanted: String,
        /// How many there are.
        found: usize,
    },
    /// The PIN.
    #[error("the token refuses the PIN: {0}; it is not shown the same PIN again until the gate is restarted")]
    Pin(String),
    /// No key, or more than one.
    #[error(
        "the token has {found} {kind} keys labelled {label:?}, and one is needed (cvmm-gate keys generate)"
    )]
    Keys {
        /// The label.
        label: String,
        /// Private or public.
        kind: &'static str,
        /// How many there are.
        found: usize,
    },
    /// Another curve or algorithm.
    #[error("the {kind} key labelled {label:?} is not of the curve P-384")]
    Curve {
        /// The label.
        label: String,
        /// Private or public.
        kind: &'static str,
    },
    /// A call.
    #[error("the token failed to {doing}: {problem}")]
    Failed {
        /// What it was to do.
        doing: &'static str,
        /// What it said.
        problem: String,
    },
    /// Bytes that are no signature, or not of this key.
    #[error("the token's signature is not of the public key labelled {0:?}")]
    Signature(String),
    /// No answer.
    #[error("the token gave no signature within {0} s")]
    Silent(u64),
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

    /// The labels of the keys: tickets, ID blocks, and perhaps the author's.
    fn labels(&self) -> Vec<String> {
        [&self.verdict, &self.id].into_iter().chain(&self.author).cloned().collect()
    }
}

/// A key of a token. Clones share its sessions.
#[derive(Clone, Debug)]
pub struct TokenKey {
    threads: Arc<Threads>,
    number: usize,
    label: String,
    /// The public half as an uncompressed point.
    point: [u8; POINT],
}

/// Those who sign.
struct Threads {
    /// Of the threads, once they are there.
    jobs: OnceLock<Sender<Job>>,
    /// The token with the first session, until then: threads are started inside the sandbox.
    first: Mutex<Option<(Arc<Token>, Open)>>,
    timeout: u64,
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").finish_non_exhaustive()
    }
}

/// What is to be signed.
struct Job {
    key: usize,
    digest: [u8; 48],
    /// Nobody waits after it.
    until: Instant,
    answer: Sender<Result<Vec<u8>, TokenError>>,
}

/// The token, as it can be opened.
struct Token {
    module: Pkcs11,
    settings: Settings,
    pin: SecretBytes,
    pin_refused: AtomicBool,
}

/// An open session, and the private keys by their number.
struct Open {
    session: Session,
    keys: Vec<ObjectHandle>,
}

/// Opens the token and finds its keys: for tickets, for ID blocks, the author's.
pub fn open(settings: &Settings) -> Result<Vec<TokenKey>, KeysError> {
    if !(1..=60).contains(&settings.timeout_s) {
        return Err(TokenError::Settings("timeout_s is 1 to 60").into());
    }
    let token = Token::new(settings)?;
    let labels = settings.labels();
    let open = token.open()?;
    let points: Vec<_> = labels.iter().map(|label| point(&open.session, label)).collect::<Result<_, _>>()?;
    for (label, key) in labels.iter().zip(&open.keys) {
        if takes_leave(&open.session, *key) {
            tracing::warn!(label, "the token lets this private key be taken out of it (CKA_EXTRACTABLE)");
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
    /// The public half as an uncompressed point: 4, X, Y.
    pub(crate) fn point(&self) -> &[u8; POINT] {
        &self.point
    }

    /// Starts the threads that sign from here on, each with a session of its own.
    pub(crate) fn start(&self) -> Result<(), TokenError> {
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
                .map_err(|error| TokenError::Failed { doing: "have a thread", problem: error.to_string() })?;
        }
        let _ = self.threads.jobs.set(sender); // nobody else does, under this lock
        Ok(())
    }

    /// R and S over SHA-384 of `message`, 48 bytes each. The caller verifies them with [`Self::point`].
    pub(crate) fn sign(&self, message: &[u8]) -> Result<[u8; 96], TokenError> {
        let Threads { jobs, first, timeout } = &*self.threads;
        let silent = |_| TokenError::Silent(*timeout);
        let mut hash = [0; 48];
        hash.copy_from_slice(digest(&SHA384, message).as_ref()); // as many bytes as SHA-384 has
        let Some(jobs) = jobs.get() else {
            let first = first.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, open)) = &*first {
                return open.sign(self.number, &hash)?.try_into().map_err(|_| self.not_ours());
            }
            drop(first);
            // They were started this moment.
            return if jobs.get().is_some() { self.sign(message) } else { Err(TokenError::Silent(*timeout)) };
        };
        let (answer, answered) = mpsc::channel();
        let wait = Duration::from_secs(*timeout);
        let job = Job { key: self.number, digest: hash, until: Instant::now() + wait, answer };
        jobs.send(job).map_err(|_| TokenError::Silent(*timeout))?;
        let signature = answered.recv_timeout(wait).map_err(silent)??;
        signature.try_into().map_err(|_| self.not_ours())
    }

    pub(crate) fn not_ours(&self) -> TokenError {
        TokenError::Signature(self.label.clone())
    }
}

/// Signs until nobody is left who could ask.
fn serve(token: &Token, jobs: &Mutex<Receiver<Job>>, mut open: Option<Open>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { key, digest, until, answer }) = job else { return };
        if Instant::now() > until {
            continue;
        }
        let mut signature = open.as_ref().map(|open| open.sign(key, &digest));
        if !matches!(signature, Some(Ok(_))) {
            // The old session goes first: the last one to go logs out.
            drop(open.take());
            signature = Some(token.open().and_then(|new| open.insert(new).sign(key, &digest)));
        }
        if let Some(signature) = signature {
            if signature.is_err() {
                open = None;
            }
            let _ = answer.send(signature); // whoever asked may have given up
        }
    }
}

impl Token {
    fn new(settings: &Settings) -> Result<Self, KeysError> {
        if settings.token.is_some() == settings.slot.is_some() {
            return Err(TokenError::Settings("it has either token or slot").into());
        }
        let pin = read_private(&settings.pin_file)?;
        let pin = pin.strip_suffix(b"\n").unwrap_or(&pin);
        let pin = pin.strip_suffix(b"\r").unwrap_or(pin);
        if pin.is_empty() {
            return Err(TokenError::Settings("pin_file is empty").into());
        }
        Ok(Self {
            module: load(&settings.module)?,
            settings: settings.clone(),
            pin: SecretBytes::from(pin),
            pin_refused: AtomicBool::new(false),
        })
    }

    fn slot(&self) -> Result<Slot, TokenError> {
        // Another token that has a problem is no problem of ours.
        let slots = self.module.get_slots_with_token().map_err(failed("say which tokens there are"))?;
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
            return Err(TokenError::Pin("it did before".to_owned()));
        }
        // The library takes a copy of its own, which it overwrites.
        match session.login_with_raw(UserType::User, &RawAuthPin::new(Box::new(self.pin.to_vec()))) {
            // It is the process that is logged in, not the session.
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

    fn open(&self) -> Result<Open, TokenError> {
        let session = self.module.open_ro_session(self.slot()?).map_err(failed("open a session"))?;
        self.log_in(&session)?;
        let labels = self.settings.labels();
        let keys = labels.iter().map(|label| find(&session, label, ObjectClass::PRIVATE_KEY));
        let keys = keys.collect::<Result<_, _>>()?;
        Ok(Open { session, keys })
    }
}

impl Open {
    fn sign(&self, key: usize, digest: &[u8]) -> Result<Vec<u8>, TokenError> {
        let absent = || TokenError::Settings("it names no such key");
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

/// The one P-384 key of `class` with `label`.
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
    let attributes = session.get_attributes(key, &types).map_err(failed("say what a key is"))?;
    if !attributes.iter().any(|attribute| matches!(attribute, Attribute::KeyType(KeyType::EC))) {
        return Err(curve());
    }
    let attributes = session
        .get_attributes(key, &[AttributeType::EcParams])
        .map_err(failed("say which curve a key has"))?;
    if !attributes.iter().any(|attribute| matches!(attribute, Attribute::EcParams(oid) if *oid == P384)) {
        return Err(curve());
    }
    Ok(key)
}

fn objects(session: &Session, label: &str, class: ObjectClass) -> Result<Vec<ObjectHandle>, TokenError> {
    let wanted = [Attribute::Class(class), Attribute::Label(label.as_bytes().to_vec())];
    session.find_objects(&wanted).map_err(failed("look for a key"))
}

/// The public key with `label`.
fn point(session: &Session, label: &str) -> Result<[u8; POINT], TokenError> {
    let key = find(session, label, ObjectClass::PUBLIC_KEY)?;
    let attributes =
        session.get_attributes(key, &[AttributeType::EcPoint]).map_err(failed("show a public key"))?;
    let point = attributes.iter().find_map(|attribute| match attribute {
        Attribute::EcPoint(bytes) if bytes.len() == POINT => bytes.as_slice().try_into().ok(),
        Attribute::EcPoint(bytes) => bytes.strip_prefix(&POINT_PREFIX)?.try_into().ok(),
        _ => None,
    });
    point.ok_or_else(|| TokenError::Curve { label: label.to_owned(), kind: "public" })
}

/// Whether a private key may leave the token.
fn takes_leave(session: &Session, key: ObjectHandle) -> bool {
    let attributes = session.get_attributes(key, &[AttributeType::Extractable]).unwrap_or_default();
    attributes.iter().any(|attribute| matches!(attribute, Attribute::Extractable(true)))
}

/// Makes the keys that the token does not have; returns their labels.
pub fn generate(settings: &Settings) -> Result<Vec<String>, KeysError> {
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
        let public = [Attribute::Private(false), Attribute::Verify(true), Attribute::EcParams(P384.to_vec())];
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
            .map_err(failed("make a key"))?;
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
        (TokenKey { threads, number: 1, label: "x".to_owned(), point: [4; POINT] }, receiver)
    }

    #[test]
    fn a_token_that_hangs_is_not_waited_for() {
        let (key, jobs) = key(1);
        let began = Instant::now();
        assert!(matches!(key.sign(b"m"), Err(TokenError::Silent(1))));
        assert!((900..3000).contains(&began.elapsed().as_millis()));
        // What nobody waits for any more is not signed: its time is over.
        let job = jobs.recv().unwrap();
        assert!(Instant::now() >= job.until && job.key == 1);
        drop(jobs);
        assert!(matches!(key.sign(b"m"), Err(TokenError::Silent(1))));
    }

    #[test]
    fn bytes_that_are_no_signature_are_none() {
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
