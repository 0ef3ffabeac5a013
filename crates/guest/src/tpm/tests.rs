// SPDX-License-Identifier: Apache-2.0
//! Tests with libtpms in place of the kernel's device.

use cvmm_tpm::constants::{alg, nv, rh, su};
use cvmm_tpm::quote::{Evidence, verify};
use cvmm_tpm::template;
use cvmm_vtpm::store::MemoryStore;
use cvmm_vtpm::{LibraryEngine, TpmEngine as _};

use super::*;

/// libtpms that extends a PCR just before a quote, `restless` times.
struct Library {
    engine: LibraryEngine,
    restless: usize,
}

impl Library {
    fn new() -> Self {
        let mut engine = LibraryEngine::new(Box::new(MemoryStore::new())).unwrap();
        engine.power_on().unwrap();
        let mut library = Self { engine, restless: 0 };
        library.done(Command::new(cc::STARTUP).u16(su::CLEAR), 0);
        library
    }

    fn done(&mut self, command: Command, handles: usize) -> Vec<u32> {
        let answer = self.engine.execute(0, &command.build().unwrap()).unwrap();
        Response::parse(&answer, handles).unwrap().handles
    }

    /// Creates the attestation key and a certificate as cvmm does.
    fn provision(&mut self, certificate: &[u8]) {
        let key = self.done(command::create_primary(rh::PLATFORM, &template::ak()), 1)[0];
        let evict =
            Command::new(cc::EVICT_CONTROL).handle(rh::PLATFORM).handle(key).password(&[]).u32(place::AK);
        self.done(evict, 0);
        let attributes =
            nv::PPWRITE | nv::PPREAD | nv::OWNERREAD | nv::AUTHREAD | nv::NO_DA | nv::PLATFORMCREATE;
        let define = Command::new(cc::NV_DEFINE_SPACE).handle(rh::PLATFORM).password(&[]).sized(&[]).nested(
            |public| {
                public.u32(place::AK_CERTIFICATE).u16(alg::SHA256).u32(attributes).sized(&[]);
                public.u16(certificate.len() as u16);
            },
        );
        self.done(define, 0);
        for (at, part) in certificate.chunks(256).enumerate() {
            let write = Command::new(cc::NV_WRITE)
                .handle(rh::PLATFORM)
                .handle(place::AK_CERTIFICATE)
                .password(&[])
                .sized(part)
                .u16(256 * at as u16);
            self.done(write, 0);
        }
    }
}

impl Transport for Library {
    fn execute(&mut self, command: &[u8]) -> Result<Vec<u8>> {
        if command[6..10] == cc::QUOTE.to_be_bytes() && self.restless > 0 {
            self.restless -= 1;
            let ima =
                Command::new(cc::PCR_EXTEND).handle(10).password(&[]).u32(1).u16(alg::SHA256).raw(&[7; 32]);
            self.done(ima, 0);
        }
        Ok(self.engine.execute(0, command)?.to_vec())
    }
}

/// One test, since a process has one libtpms.
#[test]
fn a_quote_can_be_verified() {
    let library = Library::new();
    assert!(Tpm::new(library).unwrap().is_none(), "it has no attestation key");
    let mut library = Library::new();
    let certificate: Vec<u8> = (0..1300_u32).map(|at| at as u8).collect();
    library.provision(&certificate);
    let mut tpm = Tpm::new(library).unwrap().unwrap();
    assert!(tpm.ak.is_of(&template::ak()));
    for restless in [0, 3] {
        tpm.transport.restless = restless;
        let quoted = tpm.quote(b"a question").unwrap();
        let evidence = Evidence {
            ak: &tpm.ak,
            attest: &quoted.attest,
            signature: &quoted.signature,
            qualifying_data: b"a question",
            pcrs: &quoted.pcrs,
            event_log: None,
        };
        let claims = verify(&evidence).unwrap();
        assert_eq!(claims.pcrs.0.len() % 16, 0);
        assert!(!claims.pcrs.0.is_empty());
    }
    tpm.transport.restless = MAX_ATTEMPTS;
    assert!(tpm.quote(b"a question").unwrap_err().to_string().contains("PCRs changed"));
    assert_eq!(tpm.nv(place::AK_CERTIFICATE).unwrap().as_deref(), Some(certificate.as_slice()));
    assert_eq!(tpm.nv(place::EK_RSA_CERTIFICATE).unwrap(), None);
}

/// Returns the same response to every command.
#[derive(Debug)]
struct Broken(Vec<u8>);

impl Transport for Broken {
    fn execute(&mut self, _: &[u8]) -> Result<Vec<u8>> {
        Ok(self.0.clone())
    }
}

#[test]
fn invalid_responses_are_errors() {
    for answer in [vec![], vec![0; 9], vec![0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0], vec![0xff; 4096]] {
        Tpm::new(Broken(answer)).unwrap_err();
    }
    let busy = [&[0x80, 1, 0, 0, 0, 10][..], &rc::RETRY.to_be_bytes()].concat();
    assert_eq!(Tpm::new(Broken(busy)).unwrap_err().to_string(), "the TPM is busy");
}

#[test]
fn a_log_is_read_up_to_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    assert_eq!(read_log(&path).unwrap(), None);
    std::fs::write(&path, vec![7; MAX_LOG]).unwrap();
    assert_eq!(read_log(&path).unwrap().map(|log| log.len()), Some(MAX_LOG));
    std::fs::write(&path, vec![7; MAX_LOG + 1]).unwrap();
    read_log(&path).unwrap_err();
}
