// SPDX-License-Identifier: Apache-2.0
//! Launch digests, which the gate computes from its own files.
//!
//! The VMM names the files that it launches by their hashes. The gate has the same files in a folder, named
//! by their hashes, and accepts only digests that it has computed. A file is hashed whole before any of it is
//! used, and never held in memory whole: what is measured afterwards is compared, chunk by chunk, with what
//! was hashed ([`Blob::open_verified`]), since files can change while they are read.
//!
//! Results are cached, since the same guest is launched often. Concurrent requests for one launch share a
//! computation; a few are computed at a time, and the number of requests that wait is limited.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA384};
use cvmm_first_stage::params::POINT;
use cvmm_gate_protocol::manifest::{Boot, FileDigest, Launch};
use cvmm_gate_protocol::ticket::VerdictKey;
use cvmm_launch::blob::{Blob, CHUNK_SIZE, VerifyError};
use cvmm_launch::digest::measure;
use cvmm_launch::firmware::Firmware;
use cvmm_launch::first_stage::{FirstStage, program_digest};
use cvmm_launch::hashes::KernelHashes;
use cvmm_launch::kernel::Kernel;
use cvmm_launch::measured::Measured;
use cvmm_launch::memory::MemoryLayout;
use cvmm_launch::plan::{LaunchPlan, Profile};
use cvmm_launch::vmsa::VcpuModel;
use cvmm_reason::Reason;
use cvmm_secure_boot::{Keys, MAGIC, MAX_FILE};
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::digest::Digest;
use cvmm_snp::features::SevFeatures;
use thiserror::Error;

use crate::files::{self, FileError};
use crate::reasons::Code;
use cvmm_gate_protocol::binding::sha384;

/// The largest file that is launched.
const MAX_ARTIFACT: u64 = 1 << 30;
/// Results kept. The oldest makes way for a new one.
const MAX_RESULTS: usize = 1024;
/// Computations at a time: each has a few threads for the hashing, and reads from the disk.
const MAX_COMPUTATIONS: usize = 2;
/// Requests that wait for a computation. Each holds one of the 64 threads that answer.
const MAX_WAITING: usize = 32;
/// Of these, requests of one client.
const MAX_WAITING_OF_ONE: usize = 24;
/// How long a request waits.
const WAIT: Duration = Duration::from_secs(60);
/// vCPUs of one guest: cvmm's limit.
const MAX_VCPUS: u32 = 64;

/// The files in a folder, and launch digests of them.
#[derive(Debug)]
pub struct Artifacts {
    folder: PathBuf,
    verdict_key: [u8; POINT],
    state: Mutex<State>,
    /// Notified at the end of a computation.
    done: Condvar,
}

/// Identifies a launch by what its digest depends on: SHA-384 of the manifest's part without the guest
/// policy.
type Key = Digest;

/// The result of a computation, for the requests that wait for it.
type PendingResult = Arc<Mutex<Option<Result<Digest, Reason>>>>;

#[derive(Debug, Default)]
struct State {
    known: HashMap<Key, Digest>,
    /// Its keys, the oldest first.
    order: VecDeque<Key>,
    /// Computations that run or wait for their turn.
    pending: HashMap<Key, PendingResult>,
    computing: usize,
    waiting: usize,
    /// Of these, how many of each client; none with zero.
    waiting_of: HashMap<String, usize>,
}

impl State {
    fn remember(&mut self, key: Key, digest: Digest) {
        if self.known.len() >= MAX_RESULTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        if self.known.insert(key, digest).is_none() {
            self.order.push_back(key);
        }
    }
}

impl Artifacts {
    /// The files in `folder`, each named by its SHA-384. First stages accept tickets signed with
    /// `verdict_key`.
    #[must_use]
    pub fn new(folder: &Path, verdict_key: &VerdictKey) -> Self {
        Self {
            folder: folder.to_owned(),
            verdict_key: *verdict_key.point(),
            state: Mutex::default(),
            done: Condvar::new(),
        }
    }

    /// The launch digest of `launch`, for `client`.
    pub fn digest(&self, client: &str, launch: &Launch) -> Result<Digest, Reason> {
        self.once(client, key(launch), || self.compute(launch))
    }

    /// The result of `compute` for the launch `key`, computed once for all concurrent callers.
    fn once(
        &self,
        client: &str,
        key: Key,
        compute: impl FnOnce() -> Result<Digest, Reason>,
    ) -> Result<Digest, Reason> {
        let end = Instant::now() + WAIT;
        let mut state = self.state();
        if let Some(digest) = state.known.get(&key) {
            return Ok(*digest);
        }
        if let Some(result) = state.pending.get(&key).cloned() {
            let done = || result.lock().unwrap_or_else(PoisonError::into_inner).clone();
            drop(self.wait(client, state, end, |_| done().is_some())?);
            // It is set: the wait ended for that.
            return done().unwrap_or_else(|| Err(busy()));
        }
        let slot = PendingResult::default();
        state.pending.insert(key, Arc::clone(&slot));
        let result = match self.wait(client, state, end, |state| state.computing < MAX_COMPUTATIONS) {
            Ok(mut state) => {
                state.computing += 1;
                drop(state);
                // After a panic, requests would wait in vain, and `computing` would stay too high.
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(compute));
                self.state().computing -= 1;
                result.unwrap_or_else(|_| {
                    Err(Code::GateArtifact.reason("the launch digest cannot be computed"))
                })
            }
            Err(reason) => Err(reason),
        };
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(result.clone());
        let mut state = self.state();
        state.pending.remove(&key);
        if let Ok(digest) = &result {
            state.remember(key, *digest);
        }
        drop(state);
        self.done.notify_all();
        result
    }

    /// Waits until `condition` holds. Refused if too many requests wait, or this one has waited too long.
    fn wait<'a>(
        &'a self,
        client: &str,
        mut state: MutexGuard<'a, State>,
        end: Instant,
        condition: impl Fn(&State) -> bool,
    ) -> Result<MutexGuard<'a, State>, Reason> {
        if condition(&state) {
            return Ok(state);
        }
        let of_one = state.waiting_of.get(client).copied().unwrap_or(0);
        if state.waiting >= MAX_WAITING || of_one >= MAX_WAITING_OF_ONE {
            return Err(busy());
        }
        state.waiting += 1;
        state.waiting_of.insert(client.to_owned(), of_one + 1);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            state = self.done.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            let holds = condition(&state);
            if holds || left.is_zero() {
                state.waiting -= 1;
                let of_one = state.waiting_of.remove(client).unwrap_or(0);
                if of_one > 1 {
                    state.waiting_of.insert(client.to_owned(), of_one - 1);
                }
                return if holds { Ok(state) } else { Err(busy()) };
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn compute(&self, launch: &Launch) -> Result<Digest, Reason> {
        let Launch {
            firmware,
            boot,
            vcpus,
            memory,
            low_memory,
            cpu_signature,
            sev_features,
            policy: _,
            first_stage,
            secure_boot,
            loader,
        } = launch;
        let wrong = |error: &dyn std::fmt::Display| {
            Code::ManifestLaunch.reason(format!("this guest cannot be launched: {error}"))
        };
        if *vcpus > MAX_VCPUS {
            return Err(wrong(&format!("{vcpus} virtual CPUs")));
        }
        let high = memory.checked_sub(*low_memory).ok_or_else(|| wrong(&"low_memory is more than memory"))?;
        let firmware = Firmware::parse(self.file("firmware", firmware)?).map_err(|error| wrong(&error))?;
        let profile = match boot {
            Boot::Disk => Profile::Disk,
            Boot::Uki { image, gpa } => {
                let image = Kernel::recognise(self.file("uki", image)?).map_err(|error| wrong(&error))?;
                Profile::Uki { image, gpa: *gpa }
            }
            Boot::Hashes { kernel, initrd, cmdline } => {
                let digest =
                    |text: &str| hash(text).ok_or_else(|| wrong(&"a hash has to be 64 hexadecimal digits"));
                let with_nul = [cmdline.as_bytes(), &[0]].concat();
                Profile::HashesOnly(KernelHashes {
                    cmdline: sha256(&with_nul),
                    initrd: digest(initrd)?,
                    kernel: digest(kernel)?,
                })
            }
        };
        let layout = MemoryLayout { low: *low_memory, high };
        let stage = match first_stage {
            Some(stage) if stage.program != program_digest().to_string() => {
                return Err(wrong(&format!(
                    "first stage mismatch: the VMM has {}, this gate has {}: use cvmm and cvmm-gate of the same version",
                    stage.program,
                    program_digest()
                )));
            }
            Some(_) => Some(FirstStage { verdict_key: Some(self.verdict_key) }),
            None => None,
        };
        let keys = match secure_boot {
            Some(wanted) => {
                Some(keys(&self.file("secure boot keys", wanted)?).map_err(|error| wrong(&error))?)
            }
            None => None,
        };
        let measured = Measured { keys, loader: loader.clone() };
        let plan = LaunchPlan::build_all(&firmware, &profile, &layout, *vcpus, stage.as_ref(), &measured)
            .map_err(|error| wrong(&error))?;
        let model =
            VcpuModel { signature: CpuSignature(*cpu_signature), features: SevFeatures(*sev_features) };
        measure(&plan, model, None, &mut ()).map_err(|error| wrong(&error))
    }

    fn file(&self, what: &'static str, wanted: &FileDigest) -> Result<Blob, Reason> {
        let missing = |why: String| {
            Code::GateArtifact.reason(format!(
                "the gate does not have {what} {}: {why}; add it with cvmm-gate artifact import",
                wanted.sha384
            ))
        };
        // From the VMM: only a digest gets into a path.
        let digest: Digest = wanted
            .sha384
            .parse()
            .map_err(|_| Code::ManifestLaunch.reason(format!("the {what}'s hash is not a SHA-384 value")))?;
        if wanted.len > MAX_ARTIFACT {
            return Err(missing("it is too large".to_owned()));
        }
        let path = self.folder.join(digest.to_string());
        Blob::open_verified(&path, wanted.len, &digest).map_err(|error| match error {
            VerifyError::Length { .. } | VerifyError::Hash { .. } => {
                missing(format!("{} has different content: {error}", path.display()))
            }
            VerifyError::Open(error) => missing(format!("{}: {error}", path.display())),
            VerifyError::Read(error) => missing(error.to_string()),
        })
    }
}

fn busy() -> Reason {
    Code::GateBusy.reason("too many launch digests are being computed; try again")
}

fn key(launch: &Launch) -> Key {
    // The digest does not include the guest policy.
    let text = serde_json::to_vec(&Launch { policy: 0, ..launch.clone() });
    // A struct of strings and numbers is always JSON.
    sha384(&text.unwrap_or_default())
}

/// Why a file is not imported.
#[derive(Debug, Error)]
pub enum ArtifactError {
    /// It cannot be read, or the copy cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Guests are not launched from such a file.
    #[error("artifact.kind: {path} {found}; {WANTED}")]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: String,
    },
}

const WANTED: &str = "the gate computes launch digests from firmware images with SEV metadata, unified kernel images (ukify) and key files \
                      (cvmm measure --write-keys); of kernels and initrds of the \"hashes\" profile it needs the hashes only";

/// Refuses a file that is neither a firmware image nor a UKI that a launch digest can be computed from, and
/// says what it is.
fn recognise(path: &Path, blob: Blob) -> Result<(), ArtifactError> {
    let wrong = |found: String| Err(ArtifactError::Kind { path: path.to_owned(), found });
    // Errors name the copy that is read.
    let copy = blob.to_string();
    let described = |error: &dyn std::fmt::Display| error.to_string().replace(&copy, "it");
    let starts_with = |magic: &[u8]| {
        let mut start = vec![0; magic.len()];
        blob.len() >= magic.len() as u64 && blob.read(&mut start, 0).is_ok() && start == magic
    };
    // Our own firmware images begin with a region for keys, and are larger.
    if starts_with(&MAGIC) && blob.len() <= MAX_FILE as u64 {
        return match keys(&blob) {
            Ok(_) => Ok(()),
            Err(error) => {
                wrong(format!("cannot be used as a file of Secure Boot keys: {}", described(&*error)))
            }
        };
    }
    let program = starts_with(b"MZ");
    // A program starts with "MZ", and no firmware image does.
    if program {
        return match Kernel::recognise(blob).and_then(|kernel| kernel.require_uki()) {
            Ok(()) => Ok(()),
            Err(error) => wrong(format!("cannot be used as a unified kernel image: {}", described(&error))),
        };
    }
    match Firmware::parse(blob) {
        Ok(firmware) if firmware.sections().is_some() => Ok(()),
        Ok(_) => wrong(
            "is a firmware image without SEV metadata: SNP guests cannot be launched with it".to_owned(),
        ),
        Err(error) => {
            wrong(format!("is neither a firmware image nor a unified kernel image: {}", described(&error)))
        }
    }
}

/// Reads a file of Secure Boot keys.
fn keys(blob: &Blob) -> Result<Keys, Box<dyn std::error::Error>> {
    // A longer file is refused by its length.
    let len = usize::try_from(blob.len()).unwrap_or(usize::MAX).min(MAX_FILE + 1);
    let mut bytes = vec![0; len];
    blob.read(&mut bytes, 0)?;
    Ok(Keys::parse(&bytes)?)
}

/// Copies a file into the folder under its hash if the gate can use it.
pub fn import(folder: &Path, file: &Path) -> Result<Digest, ArtifactError> {
    let failed = |what, path: &Path, source| FileError { what, path: path.to_owned(), source };
    files::remove_leftovers(folder);
    let (output, new) = files::create_beside(&folder.join("import"), 0o644)?;
    let copied = copy(file, output, &new).map_err(ArtifactError::from).and_then(|digest| {
        // Inspect the copy: it no longer changes.
        recognise(file, Blob::open(&new).map_err(|source| failed("read", &new, source))?)?;
        let path = folder.join(digest.to_string());
        fs::rename(&new, &path).map_err(|source| failed("write", &path, source))?;
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|source| failed("write", folder, source))?;
        Ok(digest)
    });
    copied.inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}

/// Copies `from` into `output`, a new file at `to`, durably, and gives its hash.
fn copy(from: &Path, mut output: File, to: &Path) -> Result<Digest, FileError> {
    let reading = |source| FileError { what: "read", path: from.to_owned(), source };
    let writing = |source| FileError { what: "write", path: to.to_owned(), source };
    let mut input = File::open(from).map_err(reading)?.take(MAX_ARTIFACT + 1);
    let (mut hash, mut chunk, mut len) = (Context::new(&SHA384), vec![0; CHUNK_SIZE], 0);
    loop {
        let count = match input.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(reading(error)),
        };
        len += count as u64;
        let bytes = chunk.get(..count).unwrap_or_default();
        hash.update(bytes);
        output.write_all(bytes).map_err(writing)?;
    }
    if len > MAX_ARTIFACT {
        return Err(reading(io::Error::other(format!("it has more than {MAX_ARTIFACT} bytes"))));
    }
    output.sync_all().map_err(writing)?;
    let mut digest = Digest::ZERO;
    // SHA-384 has as many bytes as Digest.
    digest.0.copy_from_slice(hash.finish().as_ref());
    Ok(digest)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    out
}

fn hash(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    hex::decode_to_slice(text, &mut out).ok().map(|()| out)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    fn artifacts() -> Artifacts {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        crate::keys::generate(&path).unwrap();
        Artifacts::new(folder.path(), &crate::keys::Signer::load(&path).unwrap().public().unwrap())
    }

    fn until(condition: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < end);
            thread::yield_now();
        }
    }

    #[test]
    fn a_launch_is_computed_once_and_few_at_a_time() {
        let artifacts = artifacts();
        let (now, most, all, go) =
            (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(()));
        let held = go.lock().unwrap();
        let ask = |launch: u8| {
            artifacts.once("a", Digest([launch; 48]), || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                drop(go.lock());
                all.fetch_add(1, Ordering::SeqCst);
                now.fetch_sub(1, Ordering::SeqCst);
                if launch == 0 {
                    Err(Reason::new("gate.artifact", "x"))
                } else {
                    Ok(Digest([launch + 1; 48]))
                }
            })
        };
        thread::scope(|scope| {
            let threads: Vec<_> =
                (0..24).map(|number| scope.spawn(move || (number % 4, ask(number % 4)))).collect();
            // Two are computed, and all others wait.
            until(|| now.load(Ordering::SeqCst) == 2 && artifacts.state().waiting == 22);
            drop(held);
            for thread in threads {
                let (launch, result) = thread.join().unwrap();
                match launch {
                    0 => assert_eq!(result.unwrap_err().code, "gate.artifact"),
                    _ => assert_eq!(result.unwrap(), Digest([launch + 1; 48])),
                }
            }
        });
        assert_eq!((most.into_inner(), all.load(Ordering::SeqCst)), (2, 4));
        // Only successful results are cached.
        assert!(artifacts.once("a", Digest([0; 48]), || Ok(Digest::ZERO)).is_ok());
        assert_eq!(
            artifacts.once("a", Digest([1; 48]), || panic!("computed again")).unwrap(),
            Digest([2; 48])
        );
        let state = artifacts.state();
        assert_eq!((state.pending.len(), state.computing, state.waiting), (0, 0, 0));
    }

    #[test]
    fn requests_beyond_the_limit_are_refused_and_a_failed_computation_blocks_none() {
        let artifacts = artifacts();
        let go = Mutex::new(());
        let held = go.lock().unwrap();
        let ask = |client: &str| {
            artifacts.once(client, Digest([1; 48]), || {
                drop(go.lock());
                panic!("a defect")
            })
        };
        thread::scope(|scope| {
            let mut threads: Vec<_> =
                (0..=MAX_WAITING_OF_ONE).map(|_| scope.spawn(move || ask("a"))).collect();
            until(|| artifacts.state().waiting == MAX_WAITING_OF_ONE);
            assert_eq!(ask("a").unwrap_err().code, "gate.busy");
            // Another client gets the rest.
            threads.extend((MAX_WAITING_OF_ONE..MAX_WAITING).map(|_| scope.spawn(move || ask("b"))));
            until(|| artifacts.state().waiting == MAX_WAITING);
            assert_eq!(ask("c").unwrap_err().code, "gate.busy");
            drop(held);
            for thread in threads {
                assert_eq!(thread.join().unwrap().unwrap_err().code, "gate.artifact");
            }
        });
        assert!(artifacts.once("a", Digest([1; 48]), || Ok(Digest::ZERO)).is_ok());
        let state = artifacts.state();
        assert_eq!((state.pending.len(), state.computing, state.waiting), (0, 0, 0));
        assert!(state.waiting_of.is_empty());
    }

    #[test]
    fn when_results_are_many_only_the_oldest_goes() {
        let artifacts = artifacts();
        let key = |number: usize| sha384(&number.to_le_bytes());
        for number in 0..MAX_RESULTS + 10 {
            artifacts.once("a", key(number), || Ok(key(number))).unwrap();
        }
        let kept = |number| artifacts.once("b", key(number), || Err(busy())).is_ok();
        assert!((0..10).all(|number| !kept(number)));
        assert!((10..MAX_RESULTS + 10).all(kept));
        let state = artifacts.state();
        assert_eq!((state.known.len(), state.order.len()), (MAX_RESULTS, MAX_RESULTS));
    }

    #[test]
    fn the_guest_policy_does_not_change_the_key() {
        let launch = |policy, cmdline: &str| Launch {
            firmware: FileDigest { sha384: String::new(), len: 0 },
            boot: Boot::Hashes { kernel: String::new(), initrd: String::new(), cmdline: cmdline.to_owned() },
            vcpus: 1,
            memory: 0,
            low_memory: 0,
            cpu_signature: 0,
            sev_features: 0,
            policy,
            first_stage: None,
            secure_boot: None,
            loader: None,
        };
        assert_eq!(key(&launch(1, "a")), key(&launch(2, "a")));
        assert_ne!(key(&launch(1, "a")), key(&launch(1, "b")));
    }
}
