// SPDX-License-Identifier: Apache-2.0
//! Quotes: of a TPM that is libtpms, and of keys that sign whatever one likes.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

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

pub const BANKS: [HashAlg; 2] = [HashAlg::Sha256, HashAlg::Sha384];

/// What a test may change before it is sent.
#[derive(Clone)]
pub struct Shown {
    pub attest: Vec<u8>,
    pub signature: Vec<u8>,
    pub pcrs: PcrValues,
    pub log: Option<Vec<u8>>,
}

impl Shown {
    pub fn quote(&self) -> Quote {
        Quote::new(&self.attest, &self.signature, &self.pcrs, self.log.as_deref())
    }
}

/// A firmware's log in both banks.
#[derive(Clone)]
pub struct Log(pub Vec<u8>);

impl Log {
    pub fn new() -> Self {
        let mut spec = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02\x02\0\0\0".to_vec();
        spec.extend([0xb, 0, 32, 0, 0xc, 0, 48, 0, 0]);
        let len = (spec.len() as u32).to_le_bytes();
        Self([&[0, 0, 0, 0, 3, 0, 0, 0][..], &[0; 20], &len, &spec].concat())
    }

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

pub fn selections() -> Selections {
    BANKS.into_iter().map(|hash| Selection { hash, bits: 0xffff }).collect()
}

/// libtpms, with an attestation key and a firmware that has measured something into each of its PCRs.
pub struct Tpm {
    engine: LibraryEngine,
    ak: u32,
    pub public: Public,
    log: Log,
}

impl Tpm {
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
        let mut tpm = Self { engine, ak: response.handles[0], public, log: Log::new() };
        for pcr in 0..8 {
            tpm.measure(pcr, format!("part {pcr}").as_bytes());
        }
        tpm
    }

    pub fn run(&mut self, command: Command) -> Vec<u8> {
        let answer = self.engine.execute(0, &command.build().unwrap()).unwrap();
        cvmm_tpm::Response::parse(&answer, 0).unwrap().parameters.to_vec()
    }

    pub fn extend(&mut self, pcr: u8, digests: &[(HashAlg, Vec<u8>)]) {
        let mut command =
            Command::new(cc::PCR_EXTEND).handle(pcr.into()).password(&[]).u32(digests.len() as u32);
        for (bank, digest) in digests {
            command = command.u16(bank.id()).raw(digest);
        }
        self.run(command);
    }

    /// As firmware does it, with a line in the log.
    pub fn measure(&mut self, pcr: u8, data: &[u8]) {
        let digests = self.log.add(pcr, data);
        self.extend(pcr, &digests);
    }

    pub fn show(&mut self, qualifying_data: &[u8]) -> Shown {
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
        Shown { attest, signature, pcrs, log: Some(self.log.0.clone()) }
    }
}

/// A key that signs anything.
pub struct Forger {
    pair: EcdsaKeyPair,
    pub public: Public,
}

impl Forger {
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

    /// A quote of empty PCRs, changed before it is signed.
    pub fn show(&self, qualifying_data: &[u8], change: impl FnOnce(&mut Attest)) -> Shown {
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
        Shown { attest, signature, pcrs, log: None }
    }
}
