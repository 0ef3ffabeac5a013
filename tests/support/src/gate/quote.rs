// SPDX-License-Identifier: Apache-2.0
//! Quotes: by libtpms, and forged by a key that signs any content.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use cvmm_gate_protocol::messages::Quote;
use cvmm_tpm::attest::{Attest, Attested, ClockInfo};
use cvmm_tpm::constants::{GENERATED, cc, rh, su};
use cvmm_tpm::pcr::{PcrValues, Selection, Selections, read_values};
use cvmm_tpm::public::Key;
use cvmm_tpm::wire::Reader;
use cvmm_tpm::{Command, HashAlg, Public, Signature, command, template};
use cvmm_vtpm::store::MemoryStore;
use cvmm_vtpm::{LibraryEngine, TpmEngine as _};

/// The PCR banks that a quote covers.
pub const BANKS: [HashAlg; 2] = [HashAlg::Sha256, HashAlg::Sha384];

/// The parts of a quote, which a test may change before they are sent.
#[derive(Clone)]
pub struct QuoteParts {
    /// TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// The PCR values behind its digest.
    pub pcrs: PcrValues,
    /// The firmware's event log.
    pub log: Option<Vec<u8>>,
}

impl QuoteParts {
    /// As the guest sends it to the gate.
    pub fn message(&self) -> Quote {
        Quote::new(&self.attest, &self.signature, &self.pcrs, self.log.as_deref())
    }
}

/// A firmware's event log in both banks.
#[derive(Clone)]
pub struct EventLog(pub Vec<u8>);

impl EventLog {
    /// A log with its header only.
    #[allow(clippy::new_without_default, reason = "a fixture")]
    pub fn new() -> Self {
        let mut spec = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02\x02\0\0\0".to_vec();
        spec.extend([0xb, 0, 32, 0, 0xc, 0, 48, 0, 0]);
        let len = (spec.len() as u32).to_le_bytes();
        Self([&[0, 0, 0, 0, 3, 0, 0, 0][..], &[0; 20], &len, &spec].concat())
    }

    /// Adds an event; its digests.
    pub fn add(&mut self, pcr: u8, data: &[u8]) -> Vec<(HashAlg, Vec<u8>)> {
        let digests: Vec<_> = BANKS.into_iter().map(|bank| (bank, bank.digest(&[data]))).collect();
        self.0.extend([u32::from(pcr), 5, 2].map(u32::to_le_bytes).concat());
        for (bank, digest) in &digests {
            self.0.extend(bank.id().to_le_bytes());
            self.0.extend(digest);
        }
        self.0.extend((data.len() as u32).to_le_bytes());
        self.0.extend(data);
        digests
    }
}

/// All PCRs of both banks.
pub fn selections() -> Selections {
    BANKS.into_iter().map(|hash| Selection { hash, bits: 0xffff }).collect()
}

/// libtpms, with an attestation key and a firmware that has measured something into each of its PCRs.
pub struct Tpm {
    engine: LibraryEngine,
    ak: u32,
    /// Its attestation key.
    pub public: Public,
    log: EventLog,
}

impl Tpm {
    /// A new one.
    #[allow(clippy::new_without_default, reason = "a fixture")]
    pub fn new() -> Self {
        let mut engine = LibraryEngine::new(Box::new(MemoryStore::new())).unwrap();
        engine.power_on().unwrap();
        let run = |engine: &mut LibraryEngine, command: Command| {
            let answer = engine.execute(0, &command.build().unwrap()).unwrap();
            assert_eq!(answer.code(), 0);
            answer.to_vec()
        };
        run(&mut engine, Command::new(cc::STARTUP).u16(su::CLEAR));
        let answer = run(&mut engine, command::create_primary(rh::PLATFORM, &template::ak()));
        let response = cvmm_tpm::Response::parse(&answer, 1).unwrap();
        let public = Public::read_sized(&mut response.reader()).unwrap();
        let mut tpm = Self { engine, ak: response.handles[0], public, log: EventLog::new() };
        for pcr in 0..8 {
            tpm.measure(pcr, format!("part {pcr}").as_bytes());
        }
        tpm
    }

    /// Runs a command that returns no handle; the parameters of the response.
    pub fn run(&mut self, command: Command) -> Vec<u8> {
        let answer = self.engine.execute(0, &command.build().unwrap()).unwrap();
        cvmm_tpm::Response::parse(&answer, 0).unwrap().parameters.to_vec()
    }

    /// Extends a PCR.
    pub fn extend(&mut self, pcr: u8, digests: &[(HashAlg, Vec<u8>)]) {
        let mut command =
            Command::new(cc::PCR_EXTEND).handle(pcr.into()).password(&[]).u32(digests.len() as u32);
        for (bank, digest) in digests {
            command = command.u16(bank.id()).raw(digest);
        }
        self.run(command);
    }

    /// Extends a PCR as firmware does, with an event in the log.
    pub fn measure(&mut self, pcr: u8, data: &[u8]) {
        let digests = self.log.add(pcr, data);
        self.extend(pcr, &digests);
    }

    /// A quote of all PCRs.
    pub fn quote(&mut self, qualifying_data: &[u8]) -> QuoteParts {
        let mut pcrs = PcrValues::default();
        for bank in BANKS {
            for half in [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15]] {
                let answer = self.run(Command::new(cc::PCR_READ).pcrs(&vec![Selection::of(bank, &half)]));
                read_values(&mut Reader::new(&answer), &mut pcrs).unwrap();
            }
        }
        let answer = self.run(command::quote(self.ak, qualifying_data, &selections()));
        let mut reader = Reader::new(&answer);
        let attest = reader.sized("quoted", 1024).unwrap().to_vec();
        let signature = reader.rest().to_vec();
        QuoteParts { attest, signature, pcrs, log: Some(self.log.0.clone()) }
    }
}

/// A key that signs any TPMS_ATTEST.
pub struct ForgingKey {
    pair: EcdsaKeyPair,
    /// As an attestation key's public area.
    pub public: Public,
}

impl ForgingKey {
    /// A new key.
    #[allow(clippy::new_without_default, reason = "a fixture")]
    pub fn new() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let mut public = template::ak();
        if let Key::Ecc { x, y, .. } = &mut public.key {
            let point = pair.public_key().as_ref();
            *x = point[1..49].to_vec();
            *y = point[49..].to_vec();
        }
        Self { pair, public }
    }

    /// A quote of PCRs that are all zero, changed before it is signed.
    pub fn quote(&self, qualifying_data: &[u8], change: impl FnOnce(&mut Attest)) -> QuoteParts {
        let mut pcrs = PcrValues::default();
        for bank in BANKS {
            pcrs.0.extend((0..16).map(|pcr| ((bank, pcr), vec![0; bank.digest_len()])));
        }
        let digest = pcrs.digest(HashAlg::Sha384, &selections()).unwrap();
        let mut attest = Attest {
            magic: GENERATED,
            qualified_signer: vec![],
            extra_data: qualifying_data.to_vec(),
            clock: ClockInfo::default(),
            firmware_version: 0,
            attested: Attested::Quote { selections: selections(), digest },
        };
        change(&mut attest);
        let attest = attest.to_bytes();
        let signature = self.pair.sign(&SystemRandom::new(), &attest).unwrap();
        let (r, s) = signature.as_ref().split_at(48);
        let signature = Signature::Ecdsa { hash: HashAlg::Sha384, r: r.to_vec(), s: s.to_vec() }.to_bytes();
        QuoteParts { attest, signature, pcrs, log: None }
    }
}
