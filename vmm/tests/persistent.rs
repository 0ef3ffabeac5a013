// SPDX-License-Identifier: Apache-2.0
//! A TPM with persistent state, with a real gate beside it: the file, the identity, the lease.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cvmm::admission::lease::{CurrentMachine, LeaseKeeper, ResumeToken};
use cvmm::config::{PcrBank, Sandbox, Vtpm as Settings};
use cvmm::control::{Control, Ending};
use cvmm::exit_code::ExitStatus;
use cvmm::run::RunError;
use cvmm::vtpm::VtpmError;
use cvmm::vtpm::persistent::{self, PersistentVtpm};
use cvmm_devices::tpm::{Progress, TpmExecutor};
use cvmm_gate::engine::Engine;
use cvmm_gate::store::vm_keys::{RecordSummary, StoreKey, VmKeys};
use cvmm_gate_client::client::{self, ClientError, Proposal};
use cvmm_gate_protocol::manifest::{Manifest, TpmIdentity, Vtpm};
use cvmm_test_support::gate::{Server, TestGate, launched};
use cvmm_tpm::command::Command;
use cvmm_tpm::constants::{cc, place, su};

fn serve(gate: &TestGate) -> Server {
    let engine = Arc::new(Engine::open(gate.config()).unwrap());
    Server::unix(engine, gate)
}

struct World {
    gate: TestGate,
    serving: Option<Server>,
    /// A process has one TPM.
    _one: MutexGuard<'static, ()>,
}

static ONE: Mutex<()> = Mutex::new(());

impl World {
    fn new() -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = TestGate::new("");
        let serving = Some(serve(&gate));
        Self { gate, serving, _one: one }
    }

    fn client(&self) -> client::Gate {
        self.gate.client()
    }

    fn proposal(&self, vm_id: &str, identity: Option<&TpmIdentity>) -> Proposal {
        let mut manifest = Manifest { vm_id: vm_id.into(), ..self.gate.manifest.clone() };
        manifest.machine.vtpm = Some(Vtpm {
            mode: "in-process".into(),
            pcr_banks: vec!["sha256".into(), "sha384".into()],
            state: true,
            identity: identity.cloned(),
        });
        let manifest = serde_json::to_string(&manifest).unwrap();
        Proposal { policy: "p".into(), vm_id: vm_id.into(), manifest, digest: self.gate.digest }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.gate.path(name)
    }

    /// As `cvmm run` does, up to the launch.
    fn start(&self, vm_id: &str, file: &str) -> Result<PersistentVtpm, VtpmError> {
        let settings = Settings {
            sandbox: Sandbox::Thread,
            state: Some(self.file(file)),
            pcr_banks: vec![PcrBank::Sha256, PcrBank::Sha384],
            coalesced_mmio: true,
            shared_buffer: true,
        };
        let prepared = self.client().prepare(&self.proposal(vm_id, None));
        let prepared = prepared?;
        persistent::start(&settings, &self.file(file), vm_id, prepared)
    }

    /// The same, once the gate has noticed that the run before is gone.
    fn start_again(&self, vm_id: &str, file: &str) -> Result<PersistentVtpm, VtpmError> {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            match self.start(vm_id, file) {
                Err(error) if error.to_string().contains("key.in-use") && Instant::now() < end => {
                    thread::sleep(Duration::from_millis(20));
                }
                other => return other,
            }
        }
    }

    fn admit(&self, vm_id: &str, identity: Option<&TpmIdentity>) -> Result<(), ClientError> {
        self.client().admit(self.proposal(vm_id, identity))?.evidence(launched()).map(|_| ())
    }

    fn summary(&self, vm_id: &str) -> RecordSummary {
        let key = StoreKey::load(&self.gate.path("keys/store.key")).unwrap();
        VmKeys::open(&self.gate.path("state/vm-keys"), key).unwrap().summary(vm_id).unwrap()
    }

    fn token(&self, vm_id: &str, kept: &PersistentVtpm) -> ResumeToken {
        ResumeToken { gate: self.client(), vm_id: vm_id.to_owned(), key: kept.key.clone() }
    }
}

fn code(result: Result<PersistentVtpm, VtpmError>) -> (String, ExitStatus) {
    let error = result.map(|_| ()).unwrap_err();
    let code = match &error {
        VtpmError::State { source, .. } => source.code().to_owned(),
        VtpmError::Gate { source } => source.code().to_owned(),
        other => panic!("{other}"),
    };
    (code, ExitStatus::from(&RunError::from(error)))
}

fn denied(result: Result<(), ClientError>) -> String {
    result.unwrap_err().code().to_owned()
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn ask(tpm: &mut Box<dyn TpmExecutor>, command: Command) -> Vec<u8> {
    tpm.submit(&command.build().unwrap()).unwrap();
    loop {
        if let Progress::Done(response) = tpm.wait(Duration::from_secs(20)).unwrap() {
            return response.to_vec();
        }
    }
}

/// Defines an NV index with the owner's authorisation: something that the guest keeps.
fn define(tpm: &mut Box<dyn TpmExecutor>, index: u32) -> Vec<u8> {
    define_as(tpm, index, cvmm_tpm::constants::nv::NO_DA)
}

fn define_as(tpm: &mut Box<dyn TpmExecutor>, index: u32, more: u32) -> Vec<u8> {
    use cvmm_tpm::constants::{alg, nv, rh};
    let attributes = nv::OWNERWRITE | nv::OWNERREAD | nv::AUTHREAD | more;
    let public = |writer: &mut cvmm_tpm::wire::Writer| {
        writer.u32(index);
        writer.u16(alg::SHA256);
        writer.u32(attributes);
        writer.sized(&[]);
        writer.u16(8);
    };
    ask(tpm, Command::new(cc::NV_DEFINE_SPACE).handle(rh::OWNER).password(b"").sized(&[]).nested(public))
}

fn started(kept: &PersistentVtpm) -> Box<dyn TpmExecutor> {
    let mut tpm = kept.vtpm.power_cycle();
    let response = ask(&mut tpm, Command::new(cc::STARTUP).u16(su::CLEAR));
    assert_eq!(&response[6..10], [0; 4], "TPM2_Startup");
    tpm
}

#[test]
fn a_tpm_is_the_same_from_start_to_start() {
    let world = World::new();
    let first = world.start("vm", "vm.vmgs").unwrap();
    assert_eq!(first.identity.epoch, 1);
    // What the guest finds: its keys, the gate's certificates, and room of its own.
    let mut tpm = started(&first);
    for handle in [place::EK_RSA, place::EK_ECC, place::AK] {
        let response = ask(&mut tpm, Command::new(cc::READ_PUBLIC).handle(handle));
        assert_eq!(&response[6..10], [0; 4], "no key at {handle:#x}");
    }
    let before = first.changes.count();
    assert_eq!(&define(&mut tpm, 0x0150_0001)[6..10], [0; 4]);
    assert!(first.changes.count() > before, "what the TPM answered is in the file");

    // The launch names the TPM, and no other.
    world.admit("vm", Some(&first.identity)).unwrap();
    let admitted = fs::read_to_string(world.file("state/vms/vm@p.json")).unwrap();
    assert!(admitted.contains(&first.identity.ak), "{admitted}");
    assert_eq!(denied(world.admit("vm", None)), "manifest.vtpm");
    let other = TpmIdentity { ak: first.identity.ek_ecc.clone(), ..first.identity.clone() };
    assert_eq!(denied(world.admit("vm", Some(&other))), "tpm.identity");
    let other = TpmIdentity { epoch: 2, ..first.identity.clone() };
    assert_eq!(denied(world.admit("vm", Some(&other))), "key.order");
    // One lease at a time, and no second user of the file either.
    assert_eq!(code(world.start("vm", "vm.vmgs")), ("key.in-use".to_owned(), ExitStatus::GateDenied));

    let changes = first.changes.clone();
    let PersistentVtpm { vtpm, lease, .. } = first;
    drop((tpm, vtpm));
    lease.end(changes.count()).unwrap();
    assert_eq!(world.summary("vm").counter, changes.count());

    // The next start has the same TPM, which the gate knows, with what the guest left in it.
    let second = world.start("vm", "vm.vmgs").unwrap();
    let mut tpm = started(&second);
    assert_eq!(second.identity.epoch, 2);
    let mut tpm_names = second.identity.clone();
    tpm_names.epoch = 1;
    let again = define(&mut tpm, 0x0150_0001);
    assert_eq!(&again[6..10], [0, 0, 1, 0x4c], "TPM_RC_NV_DEFINED");
    world.admit("vm", Some(&second.identity)).unwrap();
    // The manifest of the first lease is not admitted any more.
    assert_eq!(denied(world.admit("vm", Some(&tpm_names))), "key.order");
}

/// Writes with the owner's authorisation, and reads with the index's own, which a TPM counts if it is wrong.
fn write_and_read(tpm: &mut Box<dyn TpmExecutor>, index: u32) {
    use cvmm_tpm::constants::rh;
    let write = Command::new(cc::NV_WRITE).handle(rh::OWNER).handle(index).password(b"");
    assert_eq!(&ask(tpm, write.sized(b"12345678").u16(0))[6..10], [0; 4]);
    let read = Command::new(cc::NV_READ).handle(index).handle(index).password(b"");
    assert_eq!(&ask(tpm, read.u16(8).u16(0))[6..10], [0; 4], "0x921 is TPM_RC_LOCKOUT");
}

/// TPM_PT_LOCKOUT_COUNTER.
fn failures(tpm: &mut Box<dyn TpmExecutor>) -> u8 {
    let answer = ask(tpm, Command::new(cc::GET_CAPABILITY).u32(6).u32(0x20e).u32(1));
    answer.last().copied().unwrap()
}

#[test]
fn starts_resets_and_ends_of_a_vm_do_not_count_as_attacks() {
    let world = World::new();
    let index = 0x0150_0007;
    for start in 0..5 {
        let kept = world.start_again("vm", "vm.vmgs").unwrap();
        // The guest never sends TPM2_Shutdown. A reset, and then the end that any stop of cvmm's is.
        for machine in 0..3 {
            let mut tpm = started(&kept);
            if (start, machine) == (0, 0) {
                assert_eq!(&define_as(&mut tpm, index, 0)[6..10], [0; 4]);
            }
            assert_eq!(failures(&mut tpm), 0, "start {start}, machine {machine}");
            write_and_read(&mut tpm, index);
        }
        let changes = kept.changes.clone();
        let before = changes.count();
        drop(kept.vtpm);
        assert!(changes.count() > before, "TPM2_Shutdown is in the file before the gate hears of the end");
        kept.lease.end(changes.count()).unwrap();
    }
}

#[test]
fn older_copies_and_other_files_are_refused() {
    let world = World::new();
    let end = |kept: PersistentVtpm| {
        let changes = kept.changes.count();
        drop(kept.vtpm);
        kept.lease.end(changes).unwrap();
    };
    end(world.start_again("vm", "vm.vmgs").unwrap());
    fs::copy(world.file("vm.vmgs"), world.file("old.vmgs")).unwrap();
    end(world.start_again("vm", "vm.vmgs").unwrap());
    assert_eq!(code(world.start_again("vm", "old.vmgs")), ("state.rollback".to_owned(), ExitStatus::State));
    assert_eq!(code(world.start_again("vm", "none.vmgs")), ("state.missing".to_owned(), ExitStatus::State));
    end(world.start_again("other", "other.vmgs").unwrap());
    // Another VM's file: another key.
    assert_eq!(code(world.start_again("vm", "other.vmgs")), ("state.key".to_owned(), ExitStatus::State));
    // None of these kept the right file from being used.
    end(world.start_again("vm", "vm.vmgs").unwrap());
}

#[test]
fn a_run_survives_its_gate_and_not_its_successor() {
    let mut world = World::new();
    let kept = world.start("vm", "vm.vmgs").unwrap();
    let mut tpm = started(&kept);
    let (current, control) = (CurrentMachine::default(), Control::new().unwrap());
    current.set(&control);
    let (token, changes, stolen) = (world.token("vm", &kept), kept.changes.clone(), world.token("vm", &kept));
    let epoch = kept.lease.epoch();
    let PersistentVtpm { vtpm, lease, .. } = kept;
    let lease = LeaseKeeper::start(lease, token, changes.clone(), current.clone()).unwrap();
    define(&mut tpm, 0x0150_0001);
    until("the gate is told of the change", || world.summary("vm").counter == changes.count());

    // The gate goes away and comes back: the guest does not notice, and the lease is resumed.
    world.serving = None;
    define(&mut tpm, 0x0150_0002);
    thread::sleep(Duration::from_secs(3));
    world.serving = Some(serve(&world.gate));
    until("the gate is told of what happened in between", || world.summary("vm").counter == changes.count());
    assert_eq!(code(world.start("vm", "vm.vmgs")).0, "key.in-use");
    // Who has another key does not get it.
    let wrong = client::lease::Key::from(&[7; 32]);
    assert_eq!(stolen.gate.resume("vm", epoch, &wrong).unwrap_err().code(), "key.proof");
    assert_eq!(stolen.gate.resume("vm", epoch, &stolen.key).unwrap_err().code(), "key.in-use");
    assert_eq!(control.ending(), None);

    // It goes away again, and another cvmm is given the keys for a copy of the file before the first one is
    // back.
    world.serving = None;
    thread::sleep(Duration::from_secs(3));
    world.serving = Some(serve(&world.gate));
    let successor = (0..50).find_map(|_| match world.client().prepare(&world.proposal("vm", None)) {
        Ok(prepared) => Some(prepared),
        Err(_) => {
            // The first run was faster: the gate goes once more.
            world.serving = None;
            thread::sleep(Duration::from_millis(10));
            world.serving = Some(serve(&world.gate));
            None
        }
    });
    let successor = successor.unwrap();
    drop(successor);
    until("the first run is ended", || control.ending().is_some());
    let Some(Ending::Revoked { reason }) = control.ending() else { panic!("{:?}", control.ending()) };
    assert!(reason.contains("key.superseded"), "{reason}");
    // A machine that is made after that does not run either.
    let next = Control::new().unwrap();
    current.set(&next);
    assert!(matches!(next.ending(), Some(Ending::Revoked { .. })));
    drop((lease, tpm, vtpm));
}
