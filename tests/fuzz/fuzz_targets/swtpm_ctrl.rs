// SPDX-License-Identifier: Apache-2.0
//! swtpm's control protocol, without its sockets: requests as they arrive, in pieces and padded, commands
//! between them, before a TPM that fails when the input says.
#![no_main]

use std::sync::{Arc, Mutex};

use cvmm_fuzz::Input;
use cvmm_fuzz::machine::lock;
use cvmm_vtpm::command::{HEADER, Header, rc};
use cvmm_vtpm::engine::{BufferSize, HashStep};
use cvmm_vtpm::store::MAX_STATE;
use cvmm_vtpm::{EngineError, Response, StateKind, Statistics, Tpm, TpmEngine};
use cvmm_vtpm_server::swtpm::{Control, MAX_REQUEST, Parsed, Rules, Service, Startup, Then, command_length};
use libfuzzer_sys::fuzz_target;
use zeroize::Zeroizing;

const STEPS: usize = 64;
const BUFFER: BufferSize = BufferSize { size: 4096, min: 2808, max: 4096 };

#[derive(Default)]
struct State {
    on: bool,
    established: bool,
    /// The next call fails.
    fails: bool,
    blobs: [Vec<u8>; 3],
    size: u32,
    executed: u64,
}

/// A TPM whose caller has to keep the rules.
struct Fake(Arc<Mutex<State>>);

impl Fake {
    fn with<R>(&self, work: impl FnOnce(&mut State) -> Result<R, EngineError>) -> Result<R, EngineError> {
        let mut state = lock(&self.0);
        if std::mem::take(&mut state.fails) {
            return Err(EngineError::Died("was told to".to_owned()));
        }
        work(&mut state)
    }

    fn powered<R>(&self, work: impl FnOnce(&mut State) -> R) -> Result<R, EngineError> {
        self.with(|state| if state.on { Ok(work(state)) } else { Err(EngineError::Off) })
    }
}

impl TpmEngine for Fake {
    fn power_on(&mut self) -> Result<(), EngineError> {
        self.with(|state| {
            assert!(!state.on, "powered on twice");
            state.on = true;
            Ok(())
        })
    }
    fn power_off(&mut self) {
        lock(&self.0).on = false;
    }
    fn is_on(&self) -> bool {
        lock(&self.0).on
    }
    fn execute(&mut self, locality: u8, command: &[u8]) -> Result<Response, EngineError> {
        assert!(locality <= 4, "locality {locality}");
        self.powered(|state| {
            state.executed += 1;
            let code = Header::parse(command).map_or(rc::COMMAND_SIZE, |header| header.code & 0xfff);
            Response::code_only(if code == 0x144 { rc::SUCCESS } else { code })
        })
    }
    fn established(&mut self) -> Result<bool, EngineError> {
        self.powered(|state| state.established)
    }
    fn reset_established(&mut self, locality: u8) -> Result<u32, EngineError> {
        assert!(locality <= 4);
        self.powered(|state| {
            let allowed = locality >= 3;
            state.established &= !allowed;
            if allowed { 0 } else { 61 }
        })
    }
    fn hash(&mut self, step: HashStep<'_>) -> Result<(), EngineError> {
        self.powered(|state| match step {
            HashStep::Start => state.established = true,
            HashStep::Data(data) => assert!(data.len() <= 4096),
            HashStep::End => {}
        })
    }
    fn state(&mut self, kind: StateKind) -> Result<Zeroizing<Vec<u8>>, EngineError> {
        self.with(|state| Ok(Zeroizing::new(state.blobs[kind as usize].clone())))
    }
    fn set_state(&mut self, kind: StateKind, blob: &[u8]) -> Result<(), EngineError> {
        assert!(blob.len() <= MAX_STATE);
        self.with(|state| {
            if state.on {
                return Err(EngineError::On { what: "set_state" });
            }
            state.blobs[kind as usize] = blob.to_vec();
            Ok(())
        })
    }
    fn suspend(&mut self) -> Result<(), EngineError> {
        self.powered(|state| state.blobs[StateKind::Volatile as usize] = vec![7; 20])
    }
    fn buffer_size(&mut self, wanted: Option<u32>) -> Result<BufferSize, EngineError> {
        self.with(|state| {
            if state.on && wanted.is_some() {
                return Err(EngineError::On { what: "setting the buffer size" });
            }
            state.size = wanted.unwrap_or(state.size).clamp(BUFFER.min, BUFFER.max);
            Ok(BufferSize { size: state.size, ..BUFFER })
        })
    }
    fn info(&mut self, flags: u32) -> Result<String, EngineError> {
        assert!(flags <= 7);
        self.with(|_| Ok("{\"TPMSpecification\":{}}".to_owned()))
    }
    fn statistics(&self) -> Statistics {
        Statistics::default()
    }
}

fn word(bytes: &[u8], index: usize) -> usize {
    let bytes = bytes.get(index * 4..index * 4 + 4).expect("the answer has that word");
    u32::from_be_bytes(bytes.try_into().expect("four bytes")) as usize
}

/// The answer's form, which a client counts on.
fn check(control: &Control<'_>, answer: &[u8]) {
    let result = word(answer, 0);
    // A head, and in it the length of what follows.
    let piece = |words: usize| assert_eq!(answer.len(), words * 4 + word(answer, words - 1), "{control:?}");
    let fixed = |words: usize| assert_eq!(answer.len(), words * 4, "{control:?}");
    match control {
        Control::GetState { kind: Some(_), .. } => piece(4),
        Control::GetInfo { .. } => piece(3),
        Control::SetBufferSize(_) => fixed(4),
        Control::GetCapability | Control::GetEstablished | Control::GetConfig => fixed(2),
        _ => fixed(1),
    }
    match control {
        Control::Unknown(_) => assert_eq!(result, 10),
        Control::Invalid => assert_eq!(result, 3),
        Control::GetCapability | Control::Shutdown | Control::Stop => assert_eq!(result, 0),
        _ => {}
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let state = Arc::new(Mutex::new(State { size: BUFFER.max, ..State::default() }));
    let tpm = Tpm::new(Box::new(Fake(Arc::clone(&state)))).expect("a thread");
    let flags = input.u8();
    let startup = [Startup::None, Startup::Clear, Startup::State][usize::from(flags & 3) % 3];
    let rules = Rules {
        reject_locality_4: flags & 4 != 0,
        set_locality_command: flags & 8 != 0,
        disable_auto_shutdown: flags & 16 != 0,
    };
    let service = Service::new(tpm, startup, rules);
    let mut request = Vec::new();
    for _ in 0..STEPS {
        if !input.more() {
            break;
        }
        let op = input.u8();
        match op {
            // A piece of a request.
            0..=0xbf => {
                let before = request.len();
                request.extend_from_slice(input.bytes(usize::from(op & 0x3f) + 1));
                // Whatever the pieces are, a request begins to make sense at one place.
                let mut needs = 0;
                for len in before..request.len() {
                    match Control::parse(&request[..len]) {
                        Parsed::Needs(more) => {
                            assert!(more > len && more <= MAX_REQUEST, "{more} of {len}");
                            assert!(more >= needs);
                            needs = more;
                        }
                        Parsed::Whole(_) => break,
                    }
                }
            }
            // The TPM will fail.
            0xc0..=0xcf => lock(&state).fails = true,
            // Whatever was there is another connection's.
            0xd0..=0xdf => request.clear(),
            // A command over the other connection.
            _ => {
                let bytes = input.bytes(usize::from(op & 0x1f));
                match command_length(bytes) {
                    None => assert!(bytes.len() < HEADER),
                    Some(Err(size)) => assert!(!(HEADER..=Response::MAX).contains(&(size as usize))),
                    Some(Ok(length)) => {
                        assert!((HEADER..=Response::MAX).contains(&length));
                        let mut command = bytes.to_vec();
                        command.resize(length, 0);
                        let response = service.execute(&command);
                        let header = Header::parse(&response).expect("a response has a header");
                        assert_eq!(header.size as usize, response.len());
                    }
                }
            }
        }
        if let Parsed::Whole(control) = Control::parse(&request) {
            let executed = lock(&state).executed;
            let (answer, then) = service.control(control);
            check(&control, &answer);
            let state = lock(&state);
            let stopped = matches!(control, Control::Stop | Control::Shutdown);
            assert!(!stopped || !state.on, "there is still power");
            assert!(
                matches!(control, Control::Init { .. }) || state.executed == executed,
                "{control:?} executes a command"
            );
            drop(state);
            assert_eq!(then == Then::Exit, control == Control::Shutdown);
            assert_eq!(then == Then::Close, control == Control::Invalid);
            request.clear();
            if then == Then::Exit {
                break;
            }
        }
    }
});
