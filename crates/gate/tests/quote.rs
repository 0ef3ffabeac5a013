// SPDX-License-Identifier: Apache-2.0
//! Quotes before the engine: by libtpms, and by keys that sign any content.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_gate_protocol::binding::{self, Purpose, QuoteBinding};
use cvmm_gate_protocol::messages::{GuestEvidence, Quote, Request, Response};
use cvmm_test_support::gate::quote::{EventLog, ForgingKey, QuoteParts, Tpm};
use cvmm_test_support::gate::session::{bytes, claims, code};
use cvmm_test_support::gate::{Guest, World};
use cvmm_tpm::attest::{Attest, Attested};
use cvmm_tpm::{HashAlg, Public};

/// Writes the TPM into the record of the VM's admission.
fn record(world: &World, ak: &Public) {
    let path = world.gate.path("state/vms/vm@p.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record["tpm"] = serde_json::json!({
        "ak_name": ak.name().to_string(),
        "ak_public": STANDARD.encode(ak.to_bytes()),
        "ek_rsa_name": "",
        "ek_ecc_name": "",
    });
    fs::write(path, record.to_string()).unwrap();
}

/// The gate's answer to a guest that shows what `show` makes of the qualifyingData, in a report that is bound
/// to a quote by the key of name `ak_name`.
fn ask(world: &World, guest: &mut Guest, ak: &Public, show: impl FnOnce(&[u8]) -> QuoteParts) -> Response {
    let (mut session, challenge) = world.challenge("vm");
    let nonce = bytes(&challenge.nonce).try_into().unwrap();
    let shown = show(&binding::quote_data(&nonce, &[]));
    let name = ak.name();
    let quoted =
        QuoteBinding { ak_name: name.as_bytes(), attest: &shown.attest, signature: &shown.signature };
    let report = guest.report(&binding::quoted_report_data(&nonce, "vm", &[], &quoted));
    send(world, &mut session, challenge.session, &report, Some(shown.message()))
}

fn send(
    world: &World,
    session: &mut cvmm_gate::engine::Session,
    id: String,
    report: &[u8],
    quote: Option<Quote>,
) -> Response {
    let report = STANDARD.encode(report);
    let evidence = GuestEvidence { session: id, report, certificates: None, key: None, quote };
    world.send(session, &Request::GuestEvidence(evidence))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_real_tpms_quote_is_judged_with_the_guests_report() {
    let world = World::new();
    let mut guest = world.admitted("vm");
    let mut tpm = Tpm::new();
    let ak = tpm.public.clone();
    // A VM that was admitted without a TPM has none to show.
    assert_eq!(code(&ask(&world, &mut guest, &ak, |data| tpm.quote(data))), "quote.tpm");
    record(&world, &ak);
    let verdict = claims(&ask(&world, &mut guest, &ak, |data| tpm.quote(data)));
    assert_eq!(verdict["cvmm_ticket"]["purpose"], "attest");
    // Without the log, and without the quote: this policy asks for neither.
    let short = |data: &[u8], tpm: &mut Tpm| QuoteParts { log: None, ..tpm.quote(data) };
    claims(&ask(&world, &mut guest, &ak, |data| short(data, &mut tpm)));
    claims(&world.attest("vm", |data| guest.report(data)));

    // The operating system goes on measuring; that is not in the firmware's log.
    tpm.extend(10, &[(HashAlg::Sha256, vec![1; 32]), (HashAlg::Sha384, vec![1; 48])]);
    tpm.extend(11, &[(HashAlg::Sha256, vec![2; 32]), (HashAlg::Sha384, vec![2; 48])]);
    let shown = tpm.quote(b"");
    let eleven = hex(shown.pcrs.get(HashAlg::Sha384, 11).unwrap());
    let require = format!(
        "[vtpm]\nquote = \"require\"\nevent_log = \"require\"\n[vtpm.pcr.sha384]\n11 = [\"{eleven}\"]"
    );
    world.gate.policy_with(2, &world.gate.digest.to_string(), &require);
    world.engine.reload().unwrap();
    claims(&ask(&world, &mut guest, &ak, |data| tpm.quote(data)));
    assert_eq!(code(&world.attest("vm", |data| guest.report(data))), "policy.quote");
    assert_eq!(code(&ask(&world, &mut guest, &ak, |data| short(data, &mut tpm))), "policy.event-log");

    // An earlier answer of the same TPM; values of another time; a value of no TPM.
    let earlier = tpm.quote(&[7; 32]);
    assert_eq!(code(&ask(&world, &mut guest, &ak, |_| earlier.clone())), "quote.nonce");
    tpm.extend(11, &[(HashAlg::Sha256, vec![3; 32]), (HashAlg::Sha384, vec![3; 48])]);
    assert_eq!(code(&ask(&world, &mut guest, &ak, |data| tpm.quote(data))), "policy.pcr");
    let mix = |data: &[u8], tpm: &mut Tpm| QuoteParts { pcrs: earlier.pcrs.clone(), ..tpm.quote(data) };
    assert_eq!(code(&ask(&world, &mut guest, &ak, |data| mix(data, &mut tpm))), "quote.pcrs");

    // Something was measured that the log does not tell of, and the log of another boot.
    tpm.extend(4, &[(HashAlg::Sha256, vec![1; 32]), (HashAlg::Sha384, vec![1; 48])]);
    let answer = ask(&world, &mut guest, &ak, |data| tpm.quote(data));
    assert_eq!(code(&answer), "eventlog.replay");
    let Response::Denial(denied) = answer else { panic!() };
    assert!(denied.reasons[0].message.contains("PCR 4 of bank sha256"), "{denied:?}");
    let cut = |data: &[u8], tpm: &mut Tpm| {
        let mut shown = tpm.quote(data);
        shown.log.as_mut().unwrap().pop();
        shown
    };
    assert_eq!(code(&ask(&world, &mut guest, &ak, |data| cut(data, &mut tpm))), "eventlog.format");
}

#[test]
fn a_quote_and_a_report_are_of_one_guest() {
    let world = World::new();
    let mut guest = world.admitted("vm");
    let forger = ForgingKey::new();
    record(&world, &forger.public);
    claims(&ask(&world, &mut guest, &forger.public, |data| forger.quote(data, |_| {})));
    // The report is of a quote by another key, of another quote, or of none.
    let other = ForgingKey::new().public;
    let answer = ask(&world, &mut guest, &other, |data| forger.quote(data, |_| {}));
    assert_eq!(code(&answer), "policy.report-data");
    for quoted in [true, false] {
        let (mut session, challenge) = world.challenge("vm");
        let nonce = bytes(&challenge.nonce).try_into().unwrap();
        let data = binding::quote_data(&nonce, &[]);
        let (first, second) = (forger.quote(&data, |_| {}), forger.quote(&data, |_| {}));
        let name = forger.public.name();
        let report_data = if quoted {
            let quoted =
                QuoteBinding { ak_name: name.as_bytes(), attest: &first.attest, signature: &first.signature };
            binding::quoted_report_data(&nonce, "vm", &[], &quoted)
        } else {
            binding::report_data(Purpose::Attest, &nonce, "vm", &[])
        };
        let report = guest.report(&report_data);
        let answer = send(&world, &mut session, challenge.session.clone(), &report, Some(second.message()));
        assert_eq!(code(&answer), "policy.report-data", "{quoted}");
    }
    // And a report that is of a quote is nothing without it.
    let (mut session, challenge) = world.challenge("vm");
    let nonce = bytes(&challenge.nonce).try_into().unwrap();
    let shown = forger.quote(&binding::quote_data(&nonce, &[]), |_| {});
    let name = forger.public.name();
    let quoted =
        QuoteBinding { ak_name: name.as_bytes(), attest: &shown.attest, signature: &shown.signature };
    let report = guest.report(&binding::quoted_report_data(&nonce, "vm", &[], &quoted));
    let answer = send(&world, &mut session, challenge.session, &report, None);
    assert_eq!(code(&answer), "policy.report-data");
}

#[test]
fn what_is_wrong_with_a_quote_is_told() {
    let world = World::new();
    let mut guest = world.admitted("vm");
    let forger = ForgingKey::new();
    let ak = &forger.public;
    record(&world, ak);
    let mut of = |change: &dyn Fn(&mut Attest)| {
        code(&ask(&world, &mut guest, ak, |data| forger.quote(data, |attest| change(attest))))
    };
    assert_eq!(of(&|attest| attest.magic = 0), "quote.magic");
    assert_eq!(
        of(&|attest| attest.attested = Attested::Other { kind: 0x8017, bytes: vec![0; 4] }),
        "quote.type"
    );
    assert_eq!(of(&|attest| attest.extra_data = vec![0; 32]), "quote.nonce");
    let mut shown = |change: &dyn Fn(&mut QuoteParts)| {
        code(&ask(&world, &mut guest, ak, |data| {
            let mut shown = forger.quote(data, |_| {});
            change(&mut shown);
            shown
        }))
    };
    assert_eq!(shown(&|shown| shown.signature[20] ^= 1), "quote.signature");
    assert_eq!(shown(&|shown| shown.signature.clear()), "quote.format");
    assert_eq!(shown(&|shown| shown.attest.clear()), "quote.signature");
    assert_eq!(shown(&|shown| drop(shown.pcrs.0.remove(&(HashAlg::Sha384, 3)))), "quote.pcrs");
    assert_eq!(shown(&|shown| shown.log = Some(vec![])), "eventlog.format");
    let mut log = EventLog::new();
    log.add(4, b"measured");
    assert_eq!(shown(&|shown| shown.log = Some(log.0.clone())), "eventlog.replay");
}

#[test]
fn a_quote_that_is_malformed_or_of_a_damaged_record_is_refused() {
    let world = World::new();
    let mut guest = world.admitted("vm");
    let forger = ForgingKey::new();
    record(&world, &forger.public);
    let mut with = |change: &dyn Fn(&mut Quote)| {
        let (mut session, challenge) = world.challenge("vm");
        let nonce = bytes(&challenge.nonce).try_into().unwrap();
        let mut quote = forger.quote(&binding::quote_data(&nonce, &[]), |_| {}).message();
        change(&mut quote);
        let report = guest.report(&[0; 64]);
        code(&send(&world, &mut session, challenge.session, &report, Some(quote)))
    };
    assert_eq!(with(&|quote| quote.attest = "?".into()), "evidence.format");
    assert_eq!(with(&|quote| quote.signature = "?".into()), "evidence.format");
    assert_eq!(with(&|quote| quote.event_log = Some("?".into())), "evidence.format");
    assert_eq!(with(&|quote| quote.pcrs[0].bank = "sha3".into()), "evidence.format");
    assert_eq!(with(&|quote| quote.pcrs[0].value = "0g".into()), "evidence.format");
    assert_eq!(with(&|quote| quote.pcrs[0].value = "00".repeat(65)), "evidence.format");
    assert_eq!(with(&|quote| quote.pcrs.push(quote.pcrs[0].clone())), "evidence.format");
    let path = world.gate.path("state/vms/vm@p.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"ak_name\":\"000c", "\"ak_name\":\"000b")).unwrap();
    assert_eq!(with(&|_| {}), "gate.state");
}
