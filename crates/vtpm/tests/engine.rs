// SPDX-License-Identifier: Apache-2.0
//! Both engines with a real libtpms: what a guest would do, and what may go wrong.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::*;
use cvmm_vtpm::command::{CRB_BUFFER, cc, rc};
use cvmm_vtpm::engine::HashStep;
use cvmm_vtpm::store::MemoryStore;
use cvmm_vtpm::{
    EngineError, LibraryEngine, ProcessEngine, StateKind, StateStore, StoreError, Tpm, TpmEngine,
};
use zeroize::Zeroizing;

/// Runs a test with each engine.
fn both(test: impl Fn(&dyn Fn(Box<dyn StateStore>) -> Box<dyn TpmEngine>)) {
    let _alone = alone();
    test(&|store| in_process(store));
    test(&|store| in_child(store));
}

#[test]
fn a_guests_work_is_done_and_remembered() {
    both(|make| {
        let store = MemoryStore::new();
        let mut tpm = make(Box::new(store.clone()));
        assert!(matches!(tpm.execute(0, &startup(0)), Err(EngineError::Off)));
        let size = tpm.buffer_size(Some(CRB_BUFFER)).unwrap();
        assert_eq!(size.size, CRB_BUFFER);
        tpm.power_on().unwrap();
        assert!(matches!(tpm.power_on(), Err(EngineError::On { .. })));
        assert_eq!(tpm.execute(0, &get_random(8)).unwrap().code(), rc::INITIALIZE);
        ok(&mut *tpm, &startup(0));
        // TPM2_PT_MAX_COMMAND_SIZE, property 0x11e of capability 6.
        let maximum = ok(&mut *tpm, &get_capability(6, 0x11e, 1));
        assert_eq!(maximum[maximum.len() - 4..], CRB_BUFFER.to_be_bytes());

        let zero = ok(&mut *tpm, &pcr_read(16));
        assert_eq!(pcr_of(&zero), [0; 32]);
        ok(&mut *tpm, &pcr_extend(16, &[7; 32]));
        let extended = ok(&mut *tpm, &pcr_read(16));
        // SHA-256 of 32 zero bytes and 32 sevens; computed by another program.
        assert_eq!(
            hex(pcr_of(&extended)),
            "daf6d3e6ad66990aba2fae6e6c61f18b2d48f0ca6c29d2cfa19ab41f5a865231"
        );

        let key = handle_of(&ok(&mut *tpm, &create_signing_key(false)));
        let quoted = ok(&mut *tpm, &quote(key, b"a nonce", &[16]));
        let attest = first_2b(&quoted);
        assert_eq!(attest[..6], [0xff, b'T', b'C', b'G', 0x80, 0x18]);
        assert!(attest.windows(7).any(|window| window == b"a nonce"));
        ok(&mut *tpm, &flush(key));

        ok(&mut *tpm, &nv_define(0x0150_0001, 16, 0));
        ok(&mut *tpm, &nv_write(0x0150_0001, b"sixteen bytes ok"));
        assert!(tpm.statistics().stores >= 3, "{:?}", tpm.statistics());
        assert_eq!(tpm.statistics().resubmitted, u64::from(LibraryEngine::version() < (0, 10, 1)));

        // Power off without TPM2_Shutdown: what was acknowledged is there.
        tpm.power_cycle().unwrap();
        ok(&mut *tpm, &startup(0));
        assert_eq!(first_2b(&ok(&mut *tpm, &nv_read(0x0150_0001, 16))), b"sixteen bytes ok");
        assert_eq!(pcr_of(&ok(&mut *tpm, &pcr_read(16))), [0; 32]);
        // And in another engine.
        drop(tpm);
        let mut tpm = make(Box::new(store));
        tpm.power_on().unwrap();
        ok(&mut *tpm, &startup(0));
        assert_eq!(first_2b(&ok(&mut *tpm, &nv_read(0x0150_0001, 16))), b"sixteen bytes ok");
    });
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn suspend_keeps_pcrs_and_keys_and_is_resumed_from_once() {
    both(|make| {
        let mut store = MemoryStore::new();
        let mut tpm = make(Box::new(store.clone()));
        tpm.power_on().unwrap();
        ok(&mut *tpm, &startup(0));
        ok(&mut *tpm, &pcr_extend(16, &[7; 32]));
        let key = handle_of(&ok(&mut *tpm, &create_signing_key(false)));
        assert!(!tpm.state(StateKind::Volatile).unwrap().is_empty());
        tpm.suspend().unwrap();
        let volatile = store.load(StateKind::Volatile).unwrap().unwrap();
        tpm.power_cycle().unwrap();
        assert_ne!(pcr_of(&ok(&mut *tpm, &pcr_read(16))), [0; 32]);
        ok(&mut *tpm, &quote(key, b"again", &[16]));
        assert!(store.load(StateKind::Volatile).unwrap().is_none(), "it could be resumed from twice");
        tpm.power_cycle().unwrap();
        assert_eq!(tpm.execute(0, &pcr_read(16)).unwrap().code(), rc::INITIALIZE);
        // Migration: given from elsewhere. Damaged: refused or not started, never resumed.
        tpm.power_off();
        tpm.set_state(StateKind::Volatile, &volatile).unwrap();
        tpm.power_on().unwrap();
        assert_ne!(pcr_of(&ok(&mut *tpm, &pcr_read(16))), [0; 32]);
        tpm.power_off();
        let mut damaged = volatile.clone();
        damaged[volatile.len() / 2] ^= 1;
        tpm.set_state(StateKind::Volatile, &damaged).unwrap();
        match tpm.power_on() {
            Ok(()) => assert_ne!(tpm.execute(0, &pcr_read(16)).unwrap().code(), 0),
            Err(error) => assert!(error.to_string().starts_with("engine-library: "), "{error}"),
        }
        tpm.power_off();
        assert!(tpm.set_state(StateKind::Permanent, &vec![0; (1 << 20) + 1]).is_err());
    });
}

#[test]
fn commands_that_make_no_sense_get_a_code() {
    both(|make| {
        let mut tpm = make(Box::new(MemoryStore::new()));
        tpm.power_on().unwrap();
        ok(&mut *tpm, &startup(0));
        for bytes in [&[][..], &[0x80], &[0; 9], &vec![0x80; 5000], &vec![0; 100_000]] {
            assert_eq!(tpm.execute(0, bytes).unwrap().code(), rc::COMMAND_SIZE);
        }
        // Every prefix of good commands, with the size as it was and with the true one.
        for good in [create_signing_key(false), nv_define(0x0150_0002, 8, 0), pcr_extend(3, &[1; 32])] {
            for length in 10..good.len() {
                let mut cut = good[..length].to_vec();
                assert_ne!(tpm.execute(0, &cut).unwrap().code(), 0);
                cut[2..6].copy_from_slice(&(length as u32).to_be_bytes());
                assert_ne!(tpm.execute(0, &cut).unwrap().code(), 0);
            }
        }
        ok(&mut *tpm, &get_random(16));
    });
}

#[test]
fn localities_reach_the_tpm_and_a_drtm_sets_established() {
    both(|make| {
        let mut tpm = make(Box::new(MemoryStore::new()));
        tpm.power_on().unwrap();
        ok(&mut *tpm, &startup(0));
        assert!(!tpm.established().unwrap());
        // PCR 20 is extended at locality 1 to 3 only: TPM_RC_LOCALITY at 0.
        assert_eq!(tpm.execute(0, &pcr_extend(20, &[1; 32])).unwrap().code(), 0x907);
        assert_eq!(tpm.execute(2, &pcr_extend(20, &[1; 32])).unwrap().code(), 0);
        tpm.hash(HashStep::Start).unwrap();
        tpm.hash(HashStep::Data(b"measured launch")).unwrap();
        tpm.hash(HashStep::End).unwrap();
        assert!(tpm.established().unwrap());
        assert_ne!(tpm.reset_established(0).unwrap(), 0);
        assert!(tpm.established().unwrap());
        assert_eq!(tpm.reset_established(3).unwrap(), 0);
        assert!(!tpm.established().unwrap());
        let pcr17 = ok(&mut *tpm, &pcr_read(17));
        assert!(pcr_of(&pcr17) != [0; 32] && pcr_of(&pcr17) != [0xff; 32]);
    });
}

/// Fails as it is told.
#[derive(Clone)]
struct Faulty {
    inner: MemoryStore,
    fail_writes: Arc<AtomicU32>,
    fail_reads: Arc<AtomicBool>,
}

impl StateStore for Faulty {
    fn load(&mut self, kind: StateKind) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        if self.fail_reads.load(Ordering::SeqCst) {
            return Err(StoreError::Refused("an older state than the gate has seen".to_owned()));
        }
        self.inner.load(kind)
    }
    fn store(&mut self, kind: StateKind, bytes: &[u8]) -> Result<(), StoreError> {
        let left = self.fail_writes.load(Ordering::SeqCst);
        if left > 0 {
            self.fail_writes.store(left - 1, Ordering::SeqCst);
            let source = std::io::Error::from_raw_os_error(libc::ENOSPC);
            return Err(StoreError::Io { what: "write the state".to_owned(), source });
        }
        self.inner.store(kind, bytes)
    }
    fn remove(&mut self, kind: StateKind) -> Result<(), StoreError> {
        self.inner.remove(kind)
    }
}

#[test]
fn a_disk_that_fails_ends_the_tpm_until_a_reset_and_nothing_acknowledged_is_lost() {
    both(|make| {
        let store =
            Faulty { inner: MemoryStore::new(), fail_writes: Arc::default(), fail_reads: Arc::default() };
        let tpm = Tpm::new(make(Box::new(store.clone()))).unwrap();
        tpm.power_cycle().unwrap();
        let run = |command: &[u8]| tpm.execute(0, command).unwrap();
        assert_eq!(run(&startup(0)).code(), 0);
        assert_eq!(run(&nv_define(0x0150_0001, 4, 0)).code(), 0);
        assert_eq!(run(&nv_write(0x0150_0001, b"good")).code(), 0);
        // A transient error is not a failure.
        store.fail_writes.store(2, Ordering::SeqCst);
        assert_eq!(run(&nv_write(0x0150_0001, b"goo2")).code(), 0);
        assert_eq!((tpm.failure(), tpm.statistics().store_errors), (None, 2));
        // A full disk is.
        store.fail_writes.store(u32::MAX, Ordering::SeqCst);
        assert_eq!(run(&nv_write(0x0150_0001, b"evil")).code(), rc::FAILURE);
        let failure = tpm.failure().unwrap();
        assert!(failure.starts_with("state-io: cannot write the state"), "{failure}");
        store.fail_writes.store(0, Ordering::SeqCst);
        assert_eq!(run(&nv_read(0x0150_0001, 4)).code(), rc::FAILURE, "it went on with what is not on disk");
        tpm.power_cycle().unwrap();
        assert_eq!(run(&startup(0)).code(), 0);
        assert_eq!(first_2b(&run(&nv_read(0x0150_0001, 4))), b"goo2");
        // A state that is refused is not replaced by a new TPM.
        assert!(tpm.shut_down(Duration::from_secs(60)));
        let before = store.inner.clone().load(StateKind::Permanent).unwrap();
        store.fail_reads.store(true, Ordering::SeqCst);
        let error = tpm.power_cycle().unwrap_err().to_string();
        assert!(error.starts_with("state-refused: an older state"), "{error}");
        assert_eq!(run(&startup(0)).code(), rc::FAILURE);
        assert_eq!(store.inner.clone().load(StateKind::Permanent).unwrap(), before);
        store.fail_reads.store(false, Ordering::SeqCst);
        tpm.power_cycle().unwrap();
        assert_eq!(run(&startup(0)).code(), 0);
        assert_eq!(first_2b(&run(&nv_read(0x0150_0001, 4))), b"goo2");
    });
}

#[test]
fn a_state_cut_short_is_refused_and_left_alone() {
    both(|make| {
        let mut store = MemoryStore::new();
        make(Box::new(store.clone())).power_on().unwrap();
        let whole = store.load(StateKind::Permanent).unwrap().unwrap();
        for length in [0, 1, whole.len() / 2, whole.len() - 1] {
            store.store(StateKind::Permanent, &whole[..length]).unwrap();
            let error = make(Box::new(store.clone())).power_on().unwrap_err().to_string();
            assert!(
                error.starts_with("engine-library: libtpms' TPMLIB_MainInit failed"),
                "{length}: {error}"
            );
            assert_eq!(store.load(StateKind::Permanent).unwrap().unwrap().as_slice(), &whole[..length]);
        }
    });
}

#[test]
fn the_library_is_the_one_that_was_asked_for() {
    let (major, minor, micro) = LibraryEngine::version();
    println!("libtpms {major}.{minor}.{micro}");
    assert!((major, minor, micro) >= (0, 9, 2));
    if let Ok(wanted) = std::env::var("CVMM_TEST_LIBTPMS") {
        assert_eq!(format!("{major}.{minor}"), wanted);
    }
}

#[test]
fn a_process_has_one_library() {
    let _alone = alone();
    let first = LibraryEngine::new(Box::new(MemoryStore::new())).unwrap();
    assert!(matches!(LibraryEngine::new(Box::new(MemoryStore::new())), Err(EngineError::InUse)));
    drop(first);
    drop(LibraryEngine::new(Box::new(MemoryStore::new())).unwrap());
    // Processes, as many as there are.
    let mut many: Vec<_> = (0..3).map(|_| in_child(MemoryStore::new())).collect();
    let randoms: Vec<_> = many
        .iter_mut()
        .map(|tpm| {
            tpm.power_on().unwrap();
            ok(&mut **tpm, &startup(0));
            ok(&mut **tpm, &get_random(32)).to_vec()
        })
        .collect();
    assert!(randoms[0] != randoms[1] && randoms[1] != randoms[2]);
}

#[test]
fn an_rsa_key_does_not_block_who_submits_it() {
    both(|make| {
        let tpm = Tpm::new(make(Box::new(MemoryStore::new()))).unwrap();
        tpm.power_cycle().unwrap();
        assert_eq!(tpm.execute(0, &startup(0)).unwrap().code(), 0);
        let mut slowest = Duration::ZERO;
        let mut waited = 0;
        for _ in 0..3 {
            let began = Instant::now();
            let mut pending = tpm.submit(0, &create_signing_key(true), None).unwrap();
            slowest = slowest.max(began.elapsed());
            if pending.wait(Duration::from_millis(1)).is_none() {
                waited += 1;
                let response = pending.wait_forever();
                assert_eq!(response.code(), 0);
                assert_eq!(tpm.execute(0, &flush(handle_of(&response))).unwrap().code(), 0);
            }
        }
        // It takes tens of milliseconds to make one; to submit it, the time to copy it.
        assert!(waited > 0, "RSA keys within a millisecond?");
        assert!(slowest < Duration::from_millis(500), "submit took {slowest:?}");
    });
}

#[test]
fn a_child_that_aborts_or_is_killed_is_a_failed_tpm_until_a_reset() {
    let store = MemoryStore::new();
    let mut options = options();
    options.abort_on = Some(cc::HASH);
    let mut engine = ProcessEngine::new(options, Box::new(store.clone())).unwrap();
    let first = engine.pid().unwrap();
    assert_eq!(engine.version(), LibraryEngine::version());
    engine.power_on().unwrap();
    ok(&mut engine, &startup(0));
    ok(&mut engine, &nv_define(0x0150_0001, 4, 0));
    ok(&mut engine, &nv_write(0x0150_0001, b"kept"));
    let error = engine.execute(0, &command(cc::HASH).done()).unwrap_err().to_string();
    assert_eq!(error, "engine-died: the TPM's process aborted");
    assert!(matches!(engine.execute(0, &get_random(4)), Err(EngineError::Died(_))));
    assert_eq!(engine.pid(), None);
    let statistics = engine.statistics();
    assert!(statistics.commands >= 3 && statistics.stores >= 2, "{statistics:?}");

    engine.power_cycle().unwrap();
    let second = engine.pid().unwrap();
    assert_ne!(first, second);
    ok(&mut engine, &startup(0));
    assert_eq!(first_2b(&ok(&mut engine, &nv_read(0x0150_0001, 4))), b"kept");
    assert!(engine.statistics().commands > statistics.commands);

    let tpm = Tpm::new(Box::new(engine)).unwrap();
    let status = std::process::Command::new("kill").args(["-KILL", &second.to_string()]).status().unwrap();
    assert!(status.success());
    assert_eq!(tpm.execute(0, &get_random(4)).unwrap().code(), rc::FAILURE);
    assert_eq!(tpm.failure().unwrap(), "engine-died: the TPM's process was killed by signal 9");
    assert_eq!(tpm.execute(0, &get_random(4)).unwrap().code(), rc::FAILURE);
    tpm.power_cycle().unwrap();
    assert_eq!(tpm.execute(0, &startup(0)).unwrap().code(), 0);
    assert_eq!(tpm.failure(), None);
}

#[test]
fn a_child_that_does_not_answer_is_killed_in_time_and_a_wrong_program_is_refused() {
    let mut stopped = options();
    stopped.timeout = Duration::from_millis(500);
    let mut engine = ProcessEngine::new(stopped, Box::new(MemoryStore::new())).unwrap();
    engine.power_on().unwrap();
    let pid = engine.pid().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
    let began = Instant::now();
    let error = engine.execute(0, &startup(0)).unwrap_err().to_string();
    assert!(error.contains("did not answer within"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5));

    for (program, reason) in
        [("/bin/false", "ended with code 1"), ("/nonexistent", "cannot start the TPM's process")]
    {
        let mut wrong = options();
        wrong.program = program.into();
        let error = ProcessEngine::new(wrong, Box::new(MemoryStore::new())).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn the_childs_jail_is_shut() {
    let engine = ProcessEngine::new(options(), Box::new(MemoryStore::new())).unwrap();
    let pid = engine.pid().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!((field("NoNewPrivs:").as_str(), field("Seccomp:").as_str()), ("1", "2"));
    assert_eq!(field("Threads:"), "1");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    assert!(
        limits.lines().any(|line| line.starts_with("Max open files") && line.contains(" 0 ")),
        "{limits}"
    );
}

#[test]
fn what_goes_on_elsewhere_is_not_shut_down() {
    let _one = alone();
    let mut store = MemoryStore::new();
    let tpm = Tpm::new(in_process(store.clone())).unwrap();
    let run = |command: &[u8]| assert_eq!(tpm.execute(0, command).unwrap().code(), 0);
    let patience = Duration::from_secs(5);
    let mut permanent = || store.load(StateKind::Permanent).unwrap().unwrap();
    tpm.power_cycle().unwrap();
    run(&startup(0));
    run(&nv_define(0x0150_0001, 4, 0));
    run(&nv_write(0x0150_0001, b"1234"));
    // Each of these ends is to leave the permanent state as it was.
    tpm.suspend().unwrap();
    let before = permanent();
    assert!(tpm.shut_down(patience));
    assert_eq!(permanent(), before, "suspended");
    tpm.power_cycle().unwrap(); // resumed: there was no TPM2_Startup
    run(&nv_read(0x0150_0001, 4));
    tpm.state(StateKind::Volatile).unwrap();
    let before = permanent();
    assert!(tpm.shut_down(patience));
    assert_eq!(permanent(), before, "its state was taken");
    tpm.power_cycle().unwrap();
    run(&startup(0));
    run(&shutdown(0));
    let before = permanent();
    assert!(tpm.shut_down(patience));
    assert_eq!(permanent(), before, "the guest has said so");
    // And this one is not.
    tpm.power_cycle().unwrap();
    run(&startup(0));
    run(&nv_read(0x0150_0001, 4));
    let before = permanent();
    assert!(tpm.shut_down(patience));
    assert_ne!(permanent(), before);
    drop(tpm);
    let mut engine = in_process(store.clone());
    engine.power_on().unwrap();
    engine.shut_down(); // never started: nothing to end
    assert!(!engine.is_on());
    engine.power_on().unwrap();
    ok(&mut *engine, &startup(0));
}
