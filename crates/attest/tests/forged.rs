// SPDX-License-Identifier: Apache-2.0
//! Evidence that no vendor issues, correctly signed: encodings that a lenient reader takes, certificates that
//! contradict themselves, revocation lists that do not say what they seem to. What is wrong is refused, by
//! the code that is its own.

#![allow(clippy::unwrap_used)] // Tests.

use cvmm_attest::claims::Revocation;
use cvmm_attest::refusal::Refusal;
use cvmm_attest::verify::{CrlUse, Evidence, Options, verify};
use cvmm_test_support::attest::NOW;
use cvmm_test_support::attest::forged::{CertificateParts, CrlParts, ForgedChain, Signer, amd, entry, pss};
use cvmm_test_support::der::{GENERAL, IA5, OCTETS, SEQUENCE, critical, extension, name, seq, tlv, utc};

/// P-384's order, big-endian.
const ORDER: [u8; 48] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc7, 0x63, 0x4d, 0x81, 0xf4, 0x37, 0x2d, 0xdf, 0x58, 0x1a,
    0x0d, 0xb2, 0x48, 0xb0, 0xa7, 0x7a, 0xec, 0xec, 0x19, 0x6a, 0xcc, 0xc5, 0x29, 0x73,
];
const R: usize = 0x2a0;
const S: usize = 0x2e8;

/// A scalar of a report as its order minus it.
fn negate(scalar: &mut [u8]) {
    let mut borrow = 0;
    for (byte, order) in scalar.iter_mut().zip(ORDER.iter().rev()) {
        let difference = i16::from(*order) - i16::from(*byte) - borrow;
        borrow = i16::from(difference < 0);
        *byte = difference.rem_euclid(256) as u8;
    }
}

fn put(report: &mut [u8], at: usize, bytes: &[u8]) {
    report[at..at + bytes.len()].copy_from_slice(bytes);
}

/// The elements' length in a form that only BER has: one octet more than needed.
fn long_form(der: &[u8]) -> Vec<u8> {
    // A certificate here always has two octets of length.
    assert_eq!(der[1], 0x82);
    [&[der[0], 0x83, 0], &der[2..]].concat()
}

#[test]
fn the_right_evidence_is_believed() {
    let chain = ForgedChain::new();
    let (report, vek) = (chain.report(|_| {}), chain.vek(|_| {}));
    let crl = chain.crl(Signer::Root, |_| {});
    let claims = chain.verify(&report, &vek, Some(&crl), CrlUse::Require).unwrap();
    assert_eq!(claims.reported_tcb.microcode, 213);
    let Revocation::List { this_update, next_update } = claims.revocation else { unreachable!("no list") };
    assert!(this_update < NOW && next_update.unwrap() > NOW);

    // What may differ: the trailer field written out, an identifier in an octet string, a date after 2049, an
    // empty list.
    let trailer = {
        let plain = pss(48);
        let mut parameters = plain[13 + 2..].to_vec();
        parameters.extend([0xa3, 3, 2, 1, 1]);
        seq(&[&plain[2..13], &tlv(SEQUENCE, &parameters)])
    };
    for vek in [
        chain.vek(|parts| (parts.inner, parts.outer) = (trailer.clone(), trailer.clone())),
        chain.vek(|parts| parts.set(&[4], &tlv(OCTETS, &[7; 64]))),
        chain.vek(|parts| {
            parts.validity = seq(&[&utc("260101000000Z"), &tlv(GENERAL, b"20500101000000Z")]);
        }),
        chain.vek(|parts| parts.extensions.push(extension(&[0x55, 0x1d, 0x0e], &[4, 1, 0]))),
    ] {
        chain.verify(&report, &vek, None, CrlUse::IfPresent).unwrap();
    }
    let empty = chain.crl(Signer::Root, |list| list.revoked.clear());
    chain.verify(&report, &vek, Some(&empty), CrlUse::Require).unwrap();
    // Without an end, and overdue: good enough only for who does not insist.
    for change in [(|list: &mut CrlParts| list.next_update.clear()) as fn(&mut CrlParts), |list| {
        list.next_update = utc("261102000000Z")
    }] {
        let crl = chain.crl(Signer::Root, change);
        chain.verify(&report, &vek, Some(&crl), CrlUse::IfPresent).unwrap();
        chain.verify(&report, &vek, Some(&crl), CrlUse::Require).unwrap_err();
    }
    // The authority came along.
    let mut evidence =
        Evidence { report: &report, vek: Some(&vek), intermediate: Some(&chain.intermediate), crl: None };
    let options = Options { now: NOW, crl: CrlUse::IfPresent, masked_chip: false };
    verify(&evidence, &chain.trust, &options).unwrap();
    let other = chain.sign(&chain.vek_parts(), Signer::Root);
    evidence.intermediate = Some(&other);
    assert_eq!(verify(&evidence, &chain.trust, &options), Err(Refusal::Intermediate));
    evidence.vek = None;
    assert_eq!(verify(&evidence, &chain.trust, &options), Err(Refusal::NoVek));
}

/// ECDSA has two signatures of everything: both are AMD's word, and nothing may take reports for different
/// because of it.
#[test]
fn the_other_signature_says_the_same() {
    let chain = ForgedChain::new();
    let (report, vek) = (chain.report(|_| {}), chain.vek(|_| {}));
    let mut other = report.clone();
    negate(&mut other[S..S + 48]);
    assert_ne!(report, other);
    let claims = |report: &[u8]| chain.verify(report, &vek, None, CrlUse::IfPresent).unwrap();
    assert_eq!(claims(&report), claims(&other));
}

#[test]
fn every_wrong_report_has_its_code() {
    let chain = ForgedChain::new();
    let vek = chain.vek(|_| {});
    let zeros = [0; 48];
    let order: Vec<u8> = ORDER.iter().rev().copied().collect();
    let code = |report: &[u8]| match chain.verify(report, &vek, None, CrlUse::IfPresent) {
        Ok(_) => "believed",
        Err(refusal) => refusal.code(),
    };
    // Changed before it was signed.
    for (at, bytes, expected) in [
        (0x00, &[1_u8][..], "report.version"),
        (0x00, &[6], "report.version"),
        (0x03, &[1], "report.version"),
        (0x4c, &[1], "report.reserved"),
        (0x18b, &[1], "report.reserved"),
        (0x19f, &[1], "report.reserved"),
        (0x1eb, &[1], "report.reserved"),
        (0x1ef, &[1], "report.reserved"),
        // Mitigation vectors are of version 5.
        (0x1f8, &[1], "report.reserved"),
        (0x29f, &[1], "report.reserved"),
        (0x34, &[0], "report.algorithm"),
        (0x34, &[2], "report.algorithm"),
        (0x48, &[2], "report.unsigned"),
        (0x48, &[0x1c], "report.unsigned"),
        (0x48, &[8], "report.key-info"),
        (0x48, &[0x20], "report.key-info"),
        (0x4b, &[0x80], "report.key-info"),
        (0x0a, &[1], "report.policy"),
        (0x0b, &[4], "report.policy"),
        (0x0f, &[0x80], "report.policy"),
        (0x30, &[4], "report.vmpl"),
        (0x33, &[0xff], "report.vmpl"),
        (0x48, &[1], "report.author-key"),
        (0x110, &[1], "report.author-key"),
        // Rome, Venice, and models that do not exist.
        (0x188, &[0x17], "report.processor"),
        (0x188, &[0x1a, 0x50], "report.processor"),
        (0x188, &[0x19, 0x20], "report.processor"),
        (0x188, &[0], "report.processor"),
        (0x188, &[0x19, 0x11], "vek.product"),
        (0x48, &[4], "vek.kind"),
        (0x180, &[4, 0, 0, 0, 0, 0, 22, 212], "vek.tcb"),
        (0x180, &[4, 0, 0, 0, 0, 0, 23, 213], "vek.tcb"),
        (0x182, &[1], "report.tcb"),
        (0x3b, &[1], "report.tcb"),
        (0x1e4, &[1], "report.tcb"),
        (0x1f5, &[1], "report.tcb"),
        (0x1a0, &[8], "vek.chip"),
        (0x1df, &[8], "vek.chip"),
        (0x1a0, &[0; 64], "report.chip-masked"),
    ] {
        assert_eq!(code(&chain.report(|report| put(report, at, bytes))), expected, "{at:#x} {bytes:x?}");
    }
    // And after it.
    let report = chain.report(|_| {});
    for (at, bytes, expected) in [
        (0x90, &[1_u8][..], "report.signature"),
        (R, &zeros, "report.signature"),
        (S, &zeros, "report.signature"),
        (R, &order, "report.signature"),
        (S, &order, "report.signature"),
        (S, &[0xff; 48], "report.signature"),
        (R + 48, &[1], "report.signature-format"),
        (S + 71, &[1], "report.signature-format"),
        (0x330, &[1], "report.signature-format"),
        (0x49f, &[1], "report.signature-format"),
    ] {
        let mut report = report.clone();
        put(&mut report, at, bytes);
        assert_eq!(code(&report), expected, "{at:#x}");
    }
    let mut swapped = report.clone();
    swapped.copy_within(S..S + 48, R);
    put(&mut swapped, S, &report[R..R + 48]);
    assert_eq!(code(&swapped), "report.signature");
    for len in [0, 1, 1183] {
        assert_eq!(code(&report[..len]), "report.length");
    }
    assert_eq!(code(&[&report[..], &[0]].concat()), "report.length");
    assert_eq!(code(&[&report[..], &[0; 1 << 20]].concat()), "report.length");
    // Versions 4 and 5 of the same.
    for version in [4, 5] {
        assert_eq!(code(&chain.report(|report| report[0] = version)), "believed");
    }
    let vector = |version: u8| {
        chain.report(|report| {
            put(report, 0, &[version]);
            put(report, 0x1f8, &[3]);
        })
    };
    assert_eq!((code(&vector(4)), code(&vector(5))), ("report.reserved", "believed"));
}

#[test]
fn every_wrong_certificate_is_refused() {
    let chain = ForgedChain::new();
    let report = chain.report(|_| {});
    let code = |vek: &[u8]| match chain.verify(&report, vek, None, CrlUse::IfPresent) {
        Ok(_) => "believed",
        Err(refusal) => refusal.code(),
    };
    type Change = fn(&mut CertificateParts);
    let changes: [(&str, Change, &str); 49] = [
        ("negative serial", |p| p.serial = vec![2, 1, 0x85], "vek.malformed"),
        ("serial with a zero too many", |p| p.serial = vec![2, 2, 0, 5], "vek.malformed"),
        ("serial of no bytes", |p| p.serial = vec![2, 0], "vek.malformed"),
        ("version 1", |p| p.version.clear(), "vek.malformed"),
        ("version 2", |p| p.version = vec![0xa0, 3, 2, 1, 1], "vek.malformed"),
        ("version 4", |p| p.version = vec![0xa0, 3, 2, 1, 3], "vek.malformed"),
        ("no extensions", |p| p.extensions.clear(), "vek.malformed"),
        ("inner algorithm is another", |p| p.inner = pss(32), "vek.malformed"),
        ("a salt of another length", |p| (p.inner, p.outer) = (pss(32), pss(32)), "chain.algorithm"),
        (
            "PKCS#1 v1.5",
            |p| {
                let pkcs1 = seq(&[&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12], &[5, 0]]);
                (p.inner, p.outer) = (pkcs1.clone(), pkcs1);
            },
            "chain.algorithm",
        ),
        ("issuer by another name", |p| p.issuer = name("SEV-Genoa"), "chain.issuer"),
        ("issued by the root", |p| p.issuer = name("ARK-Milan"), "chain.issuer"),
        ("its own issuer", |p| p.issuer = name("SEV-VCEK"), "chain.issuer"),
        ("subject of an authority", |p| p.subject = name("SEV-Milan"), "vek.malformed"),
        ("subject without a name", |p| p.subject = seq(&[]), "vek.malformed"),
        (
            "subject of two names",
            |p| p.subject = seq(&[&name("SEV-VCEK")[2..], &name("SEV-VCEK")[2..]]),
            "vek.malformed",
        ),
        ("subject with more behind it", |p| p.subject = name("SEV-VCEK\0"), "vek.malformed"),
        ("subject of a VLEK", |p| p.subject = name("SEV-VLEK"), "vek.malformed"),
        (
            "not yet valid",
            |p| p.validity = seq(&[&utc("261201000000Z"), &utc("330101000000Z")]),
            "chain.not-yet-valid",
        ),
        (
            "over a second ago",
            |p| p.validity = seq(&[&utc("260101000000Z"), &utc("261123115959Z")]),
            "chain.expired",
        ),
        (
            "ends before it begins",
            |p| p.validity = seq(&[&utc("270101000000Z"), &utc("260101000000Z")]),
            "chain.not-yet-valid",
        ),
        (
            "GeneralizedTime where UTCTime can say it",
            |p| p.validity = seq(&[&tlv(GENERAL, b"20260101000000Z"), &utc("330101000000Z")]),
            "vek.malformed",
        ),
        (
            "GeneralizedTime with fractions",
            |p| p.validity = seq(&[&utc("260101000000Z"), &tlv(GENERAL, b"20500101000000.5Z")]),
            "vek.malformed",
        ),
        (
            "a time zone",
            |p| p.validity = seq(&[&utc("260101000000+0100"), &utc("330101000000Z")]),
            "vek.malformed",
        ),
        (
            "a time without seconds",
            |p| p.validity = seq(&[&utc("2601010000Z"), &utc("330101000000Z")]),
            "vek.malformed",
        ),
        (
            "30 February",
            |p| p.validity = seq(&[&utc("260230000000Z"), &utc("330101000000Z")]),
            "vek.malformed",
        ),
        (
            "three times",
            |p| {
                p.validity = seq(&[&utc("260101000000Z"), &utc("330101000000Z"), &utc("330101000000Z")]);
            },
            "vek.malformed",
        ),
        ("a key on P-521", |p| p.key[19] = 0x23, "vek.malformed"),
        ("the same extension twice", |p| p.extensions.push(p.extensions[9].clone()), "vek.malformed"),
        (
            "an extension twice, with another value",
            |p| p.extensions.push(extension(&amd(&[3, 8]), &[2, 1, 1])),
            "vek.malformed",
        ),
        ("an extension of AMD's that is not known", |p| p.set(&[6], &[5, 0]), "vek.malformed"),
        ("an SPL that is not known", |p| p.set(&[3, 10], &[2, 1, 0]), "vek.malformed"),
        (
            "a critical extension that is not known",
            |p| p.extensions.push(critical(&[0x55, 0x1d, 0x13], &[0x30, 0])),
            "vek.malformed",
        ),
        (
            "critical, written as false",
            |p| p.extensions.push(seq(&[&[6, 3, 0x55, 0x1d, 0x0e], &[1, 1, 0], &[4, 1, 0]])),
            "vek.malformed",
        ),
        (
            "critical, written as 1",
            |p| p.extensions.push(seq(&[&[6, 3, 0x55, 0x1d, 0x0e], &[1, 1, 1], &[4, 1, 0]])),
            "vek.malformed",
        ),
        (
            "hundreds of extensions",
            |p| (0..200).for_each(|n| p.extensions.push(extension(&[0x55, 0x1d, n], &[]))),
            "vek.malformed",
        ),
        ("SPL 256", |p| p.set(&[3, 8], &[2, 2, 1, 0]), "vek.malformed"),
        ("SPL -43", |p| p.set(&[3, 8], &[2, 1, 213]), "vek.malformed"),
        ("SPL with more behind it", |p| p.set(&[3, 3], &[2, 1, 22, 0]), "vek.malformed"),
        ("SPL of another type", |p| p.set(&[3, 3], &[4, 1, 22]), "vek.malformed"),
        ("no SPL", |p| p.remove(&[3, 2]), "vek.malformed"),
        ("a reserved SPL", |p| p.set(&[3, 5], &[2, 1, 1]), "vek.malformed"),
        ("an FMC on Milan", |p| p.set(&[3, 9], &[2, 1, 0]), "vek.malformed"),
        ("structVersion 1 on Milan", |p| p.set(&[1], &[2, 1, 1]), "vek.malformed"),
        ("a product that is not known", |p| p.set(&[2], &tlv(IA5, b"Venice")), "vek.malformed"),
        ("an identifier of 63 bytes", |p| p.set(&[4], &[7; 63]), "vek.malformed"),
        ("an identifier of 8 bytes", |p| p.set(&[4], &[7; 8]), "vek.malformed"),
        ("no identifier", |p| p.remove(&[4]), "vek.malformed"),
        ("a cloud too", |p| p.set(&[5], &tlv(IA5, b"CN=cloud")), "vek.malformed"),
    ];
    for (what, change, expected) in changes {
        assert_eq!(code(&chain.vek(change)), expected, "{what}");
    }
    assert_eq!(code(&chain.sign(&chain.vek_parts(), Signer::Root)), "chain.signature");

    // What only a BER reader takes for the same certificate. The signature does not cover the outermost
    // length.
    let good = chain.vek(|_| {});
    assert_eq!(code(&good), "believed");
    assert_eq!(code(&long_form(&good)), "vek.malformed");
    let indefinite = [&[0x30, 0x80], &good[4..], &[0, 0]].concat();
    assert_eq!(code(&indefinite), "vek.malformed");
    for tail in [&[0_u8][..], &[0, 0], &good] {
        assert_eq!(code(&[&good, tail].concat()), "vek.malformed");
    }
    // Lengths that are not there.
    for len in [
        &[0x84_u8, 0xff, 0xff, 0xff, 0xff][..],
        &[0x84, 0x7f, 0xff, 0xff, 0xff],
        &[0x88, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x88, 0, 0, 0, 0, 0, 0, 0, 4],
        &[0xff],
        &[0x82, 0xff, 0xff],
        &[0x80],
    ] {
        assert_eq!(code(&[&[0x30], len, &good[4..]].concat()), "vek.malformed", "{len:x?}");
    }
    // Rightly signed, and longer than any certificate.
    let long = chain.vek(|parts| parts.set(&[2], &tlv(IA5, &[b'M'; 17 << 10])));
    assert_eq!(code(&long), "vek.malformed");
    assert_eq!(code(&[]), "vek.malformed");
}

#[test]
fn every_wrong_list_is_refused() {
    let chain = ForgedChain::new();
    let (report, vek) = (chain.report(|_| {}), chain.vek(|parts| parts.serial = vec![2, 2, 0x12, 0x34]));
    let code = |crl: &[u8]| {
        let judge = |use_of| match chain.verify(&report, &vek, Some(crl), use_of) {
            Ok(_) => "believed",
            Err(refusal) => refusal.code(),
        };
        (judge(CrlUse::IfPresent), judge(CrlUse::Require))
    };
    let malformed = ("crl.malformed", "crl.malformed");
    let revoked = ("crl.revoked", "crl.revoked");
    type Change = fn(&mut CrlParts);
    let changes: [(&str, Change, (&str, &str)); 24] = [
        ("right", |_| {}, ("believed", "believed")),
        ("the signing key", |l| l.revoked.push(entry(&[0x12, 0x34], &[])), revoked),
        ("the authority", |l| l.revoked.push(entry(&[5], &[])), revoked),
        (
            "revoked long ago, in a list that is overdue",
            |l| {
                l.next_update = utc("261102000000Z");
                l.revoked.push(entry(&[5], &[]));
            },
            revoked,
        ),
        (
            "a reason code",
            |l| l.revoked.push(entry(&[9], &[extension(&[0x55, 0x1d, 0x15], &[10, 1, 1])])),
            ("believed", "believed"),
        ),
        ("overdue", |l| l.next_update = utc("261123115959Z"), ("believed", "crl.stale")),
        ("without an end", |l| l.next_update.clear(), ("believed", "crl.undated")),
        ("of tomorrow", |l| l.this_update = utc("261124120000Z"), ("crl.future", "crl.future")),
        ("of another line's root", |l| l.issuer = name("ARK-Genoa"), ("crl.issuer", "crl.issuer")),
        ("of the authority", |l| l.issuer = name("SEV-Milan"), ("crl.issuer", "crl.issuer")),
        ("with another salt", |l| l.inner = pss(32), ("crl.signature", "crl.signature")),
        ("version 1 with extensions", |l| l.version.clear(), malformed),
        ("version 3", |l| l.version = vec![2, 1, 2], malformed),
        ("a critical extension", |l| l.extensions.push(critical(&[0x55, 0x1d, 0x23], &[4, 1, 0])), malformed),
        ("a delta", |l| l.extensions.push(critical(&[0x55, 0x1d, 0x1b], &[2, 1, 1])), malformed),
        (
            "a delta that forgot to say it is critical",
            |l| l.extensions.push(extension(&[0x55, 0x1d, 0x1b], &[2, 1, 1])),
            malformed,
        ),
        ("a part of the list", |l| l.extensions.push(extension(&[0x55, 0x1d, 0x1c], &[0x30, 0])), malformed),
        (
            "certificates of another chip",
            |l| l.revoked.push(entry(&[9], &[extension(&[0x55, 0x1d, 0x1d], &[0x30, 0])])),
            malformed,
        ),
        (
            "a critical entry",
            |l| l.revoked.push(entry(&[9], &[critical(&[0x55, 0x1d, 0x63], &[0x30, 0])])),
            malformed,
        ),
        ("the same extension twice", |l| l.extensions.push(l.extensions[0].clone()), malformed),
        // Numbers that could be compared as different though they are the same.
        ("a serial with a zero too many", |l| l.revoked.push(entry(&[0, 5], &[])), malformed),
        ("a negative serial", |l| l.revoked.push(entry(&[0x85], &[])), malformed),
        ("a serial of no bytes", |l| l.revoked.push(entry(&[], &[])), malformed),
        ("one time only, which is the end", |l| l.this_update.clear(), ("crl.future", "crl.future")),
    ];
    for (what, change, expected) in changes {
        assert_eq!(code(&chain.crl(Signer::Root, change)), expected, "{what}");
    }
    let both = |code| (code, code);
    assert_eq!(code(&chain.crl(Signer::Authority, |_| {})), both("crl.signature"));
    let good = chain.crl(Signer::Root, |_| {});
    assert_eq!(code(&[&good[..], &[0]].concat()), malformed);
    assert_eq!(code(&good[..good.len() - 1]), malformed);
    assert_eq!(code(&long_form(&good)), malformed);
    assert_eq!(code(&[]), malformed);
    // Many entries are read; more than a mebibyte is not.
    let many = |count: u32| {
        chain.crl(Signer::Root, |list| {
            list.revoked = (0..count).map(|n| entry(&[&[1], &n.to_be_bytes()[..]].concat(), &[])).collect();
        })
    };
    assert_eq!(code(&many(20_000)), both("believed"));
    assert_eq!(code(&many(60_000)), malformed);
    assert_eq!(
        chain.verify(&report, &vek, None, CrlUse::Require).unwrap_err().code(),
        "crl.missing",
        "a list that is required and not there"
    );
}
