// SPDX-License-Identifier: Apache-2.0
//! From a state file to a verdict: the TPM that cvmm provisions and the gate certifies, the launch that names
//! it, and the guest whose report and quote are one piece of evidence. The security processor is software,
//! the TPM libtpms, the gate the real one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm::config::{PcrBank, Sandbox, Vtpm as Settings};
use cvmm::vtpm::persistent;
use cvmm_devices::tpm::{Progress, TpmExecutor};
use cvmm_gate_client::client::Proposal;
use cvmm_gate_client::frame;
use cvmm_gate_protocol::binding::{self, QuoteBinding};
use cvmm_gate_protocol::manifest::{TpmIdentity, Vtpm};
use cvmm_gate_protocol::messages::{Attest, GuestChannel, GuestEvidence, PROTOCOL, Quote, Request, Response};
use cvmm_test_support::gate::{Guest, Server, World, launched};
use cvmm_tpm::constants::{alg, cc, place, su};
use cvmm_tpm::pcr::{PcrValues, Selection, read_values};
use cvmm_tpm::{Command, HashAlg, Public, command};

const BANKS: [HashAlg; 2] = [HashAlg::Sha256, HashAlg::Sha384];

/// The parameters of the TPM's answer.
fn ask(tpm: &mut Box<dyn TpmExecutor>, command: Command) -> Vec<u8> {
    tpm.submit(&command.build().unwrap()).unwrap();
    let answer = match tpm.wait(Duration::from_secs(20)).unwrap() {
        Progress::Done(answer) => answer.to_vec(),
        other => panic!("the TPM does not answer: {other:?}"),
    };
    cvmm_tpm::Response::parse(&answer, 0).unwrap().parameters.to_vec()
}

/// What a guest's agent gets of the TPM at its well-known handle.
fn quote(tpm: &mut Box<dyn TpmExecutor>, data: &[u8]) -> (Vec<u8>, Vec<u8>, PcrValues) {
    let mut pcrs = PcrValues::default();
    for bank in BANKS {
        for half in [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15]] {
            let answer = ask(tpm, Command::new(cc::PCR_READ).pcrs(&vec![Selection::of(bank, &half)]));
            read_values(&mut cvmm_tpm::wire::Reader::new(&answer), &mut pcrs).unwrap();
        }
    }
    let selections = BANKS.into_iter().map(|hash| Selection { hash, bits: 0xffff }).collect();
    let answer = ask(tpm, command::quote(place::AK, data, &selections));
    let mut reader = cvmm_tpm::wire::Reader::new(&answer);
    let attest = reader.sized("quoted", 1024).unwrap().to_vec();
    (attest, reader.rest().to_vec(), pcrs)
}

#[test]
fn a_persistent_tpm_quotes_for_the_guest_it_was_launched_with() {
    let World { gate, engine, keys } = World::new();
    gate.policy_with(2, &gate.digest.to_string(), "[vtpm]\nquote = \"require\"");
    engine.reload().unwrap();
    let server = Server::unix(engine, &gate);
    let client = gate.client();
    let proposal = |identity: Option<TpmIdentity>| {
        let mut manifest = gate.manifest.clone();
        manifest.machine.vtpm = Some(Vtpm {
            mode: "in-process".into(),
            pcr_banks: BANKS.map(|bank| bank.name().to_owned()).to_vec(),
            state: true,
            identity,
        });
        let manifest = serde_json::to_string(&manifest).unwrap();
        Proposal { policy: "p".into(), vm_id: "vm".into(), manifest, digest: gate.digest }
    };

    // As `cvmm run` does it: the file and the TPM's identity, then the launch that names it.
    let file = gate.path("vm.vmgs");
    let settings = Settings {
        sandbox: Sandbox::Thread,
        state: Some(file.clone()),
        pcr_banks: vec![PcrBank::Sha256, PcrBank::Sha384],
        coalesced_mmio: true,
        shared_buffer: true,
    };
    let prepared = client.prepare(&proposal(None)).unwrap();
    let kept = persistent::start(&settings, &file, "vm", prepared).unwrap();
    let approved = client.admit(proposal(Some(kept.identity.clone()))).unwrap();
    let psp = format!("keys_dir = '{}'", keys.path().display());
    let identity = (approved.id_block().to_vec(), approved.id_auth().to_vec());
    let mut guest = Guest::launch(
        &psp,
        &gate.manifest.launch,
        Some((&identity.0, &identity.1)),
        *approved.host_data(),
        None,
    );
    let launch = approved.session().to_owned();
    approved.evidence(launched()).unwrap();

    // The guest runs: its firmware measures, its agent asks.
    let mut tpm = kept.vtpm.power_cycle();
    ask(&mut tpm, Command::new(cc::STARTUP).u16(su::CLEAR));
    let measure = Command::new(cc::PCR_EXTEND).handle(4).password(&[]).u32(1);
    ask(&mut tpm, measure.u16(alg::SHA384).raw(&[7; 48]));
    let answer = ask(&mut tpm, Command::new(cc::READ_PUBLIC).handle(place::AK));
    let ak = Public::read_sized(&mut cvmm_tpm::wire::Reader::new(&answer)).unwrap();
    assert_eq!(ak.name().to_string(), kept.identity.ak);
    let mut verdict = |with_quote: bool, change: fn(&mut Vec<u8>)| {
        let mut stream = std::os::unix::net::UnixStream::connect(gate.path("gate.sock")).unwrap();
        let mut ask = |request: &Request| {
            let end = Instant::now() + Duration::from_secs(20);
            frame::write(&mut stream, &serde_json::to_vec(request).unwrap(), end).unwrap();
            serde_json::from_slice::<Response>(&frame::read(&mut stream, end).unwrap()).unwrap()
        };
        let (policy, vm_id) = ("p".to_owned(), "vm".to_owned());
        let open = GuestChannel { protocol: PROTOCOL, policy, vm_id, launch: launch.clone() };
        assert!(matches!(ask(&Request::GuestChannel(open)), Response::ChannelConfirmation(_)));
        let attest = Request::Attest(Attest { protocol: PROTOCOL, vm_id: "vm".into() });
        let Response::Challenge(challenge) = ask(&attest) else { panic!("no challenge") };
        let nonce: [u8; 32] = STANDARD.decode(&challenge.nonce).unwrap().try_into().unwrap();
        let (mut attest, signature, pcrs) = quote(&mut tpm, &binding::quote_data(&nonce, &[]));
        change(&mut attest);
        let name = ak.name();
        let quoted = QuoteBinding { ak_name: name.as_bytes(), attest: &attest, signature: &signature };
        let data = match with_quote {
            true => binding::quoted_report_data(&nonce, "vm", &[], &quoted),
            false => binding::report_data(binding::Purpose::Attest, &nonce, "vm", &[]),
        };
        let evidence = GuestEvidence {
            session: challenge.session,
            report: STANDARD.encode(guest.report(&data)),
            certificates: None,
            key: None,
            quote: with_quote.then(|| Quote::new(&attest, &signature, &pcrs, None)),
        };
        match ask(&Request::GuestEvidence(evidence)) {
            Response::Ticket(_) => "ticket".to_owned(),
            Response::Denial(denied) => denied.reasons[0].code.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(verdict(true, |_| {}), "ticket");
    assert_eq!(verdict(false, |_| {}), "policy.quote");
    // Control of the guest without its TPM is not enough.
    assert_eq!(verdict(true, |attest| *attest.last_mut().unwrap() ^= 1), "quote.signature");

    drop((tpm, kept));
    drop(server);
}
