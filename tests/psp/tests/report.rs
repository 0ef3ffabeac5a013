// SPDX-License-Identifier: Apache-2.0
//! Reports and their certificates before a verifier that others wrote: the `sev` crate reads every version of
//! every product and finds it signed, under the chain the keys folder publishes; and it finds what was
//! tampered with.
#![allow(clippy::unwrap_used)] // Helpers of tests.

mod common;

use common::identity::{amd_key, id_auth, id_block, pair};
use common::verify::{Kind, World, amd_extension, der, revoked, signed_by, small_integer};
use cvmm_psp::{Authority, Config, Pki, Product, Status, Tcb, command};
use cvmm_test_support::psp::{Buffer, Message, NORMAL, POLICY, Rig, keys_folder};
use sev::certs::snp::Verifiable as _;
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser as _;

const PRODUCTS: [(&str, Product); 3] =
    [("milan", Product::Milan), ("genoa", Product::Genoa), ("turin", Product::Turin)];

fn parse(report: &[u8]) -> AttestationReport {
    AttestationReport::from_bytes(report).unwrap()
}

/// Security versions of a TCB as the `sev` crate names them.
fn components(tcb: sev::firmware::host::TcbVersion) -> Tcb {
    let sev::firmware::host::TcbVersion { fmc, bootloader, tee, snp, microcode } = tcb;
    Tcb { fmc: fmc.unwrap_or(0), bootloader, tee, snp, microcode }
}

#[test]
fn every_version_of_every_product_verifies() {
    let mut seen = 0;
    for (name, product) in PRODUCTS {
        for version in 2..=5 {
            let toml = format!("product = '{name}'\nreport_version = {version}\nmitigations = 11");
            if product == Product::Turin && version == 2 {
                // There are no such reports: version 3 is older than the product.
                assert!(Config::from_toml(&toml).is_err());
                continue;
            }
            let mut world = World::new(&toml);
            assert_eq!(world.load_vlek(), Status::SUCCESS);
            for kind in [Kind::Vcek, Kind::Vlek] {
                let raw = world.report([0xA5; 64], kind.key_sel()).unwrap();
                let report = parse(&raw);
                let chain = world.chain(kind);
                (&chain, &report).verify().unwrap();
                assert!(signed_by(&raw, &der(&chain.vek)));
                check_content(&world, &report, version, kind);
                check_certificate(&world, &report, kind);
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 22);
}

fn check_content(world: &World, report: &AttestationReport, version: u32, kind: Kind) {
    let config = world.rig.psp.config();
    assert_eq!((report.version, report.vmpl, report.sig_algo), (version, 0, 1));
    assert_eq!((report.report_data, report.host_data), ([0xA5; 64], [0xD0; 32]));
    assert_eq!(report.chip_id, *world.rig.psp.chip().id());
    assert_eq!((report.key_info.signing_key(), report.key_info.mask_chip_key()), (kind.key_sel() - 1, false));
    for tcb in [report.current_tcb, report.committed_tcb, report.launch_tcb, report.reported_tcb] {
        assert_eq!(components(tcb), config.tcb);
    }
    assert_eq!((report.current.major, report.current.minor), config.api);
    let [family, model, stepping] = config.product.family_model_stepping();
    let processor = (report.cpuid_fam_id, report.cpuid_mod_id, report.cpuid_step);
    let expected = (Some(family), Some(model), Some(stepping));
    assert_eq!(processor, if version == 2 { (None, None, None) } else { expected });
    assert_eq!(report.plat_info.alias_check_complete(), version >= 3);
    let vectors = if version == 5 { Some(11) } else { None };
    assert_eq!((report.launch_mit_vector, report.current_mit_vector), (vectors, vectors));
}

/// The certificate is of this report's TCB and chip, in the form AMD's have.
fn check_certificate(world: &World, report: &AttestationReport, kind: Kind) {
    let product = world.rig.psp.config().product;
    let turin = product == Product::Turin;
    let vek = der(&world.chain(kind).vek);
    let number = |suffix: &str| amd_extension(&vek, suffix).map(|value| small_integer(&value).unwrap());
    let tcb = components(report.reported_tcb);
    assert_eq!(number("1"), Some(u8::from(turin)));
    for (suffix, value) in
        [("3.1", tcb.bootloader), ("3.2", tcb.tee), ("3.3", tcb.snp), ("3.8", tcb.microcode)]
    {
        assert_eq!(number(suffix), Some(value), "{suffix}");
    }
    assert_eq!(number("3.9"), turin.then_some(tcb.fmc));
    assert_eq!(number("3.4"), (!turin).then_some(0));
    let text = |value: &str| [&[0x16, value.len() as u8], value.as_bytes()].concat();
    let hwid = &report.chip_id[..product.chip_id_len()];
    match kind {
        Kind::Vcek => {
            assert_eq!(amd_extension(&vek, "2"), Some(text(product.vcek_product_name())));
            assert_eq!(amd_extension(&vek, "4").unwrap(), hwid);
            assert_eq!(amd_extension(&vek, "5"), None);
        }
        Kind::Vlek => {
            assert_eq!(amd_extension(&vek, "2"), Some(text(product.line())));
            assert_eq!(amd_extension(&vek, "4"), None);
            assert_eq!(amd_extension(&vek, "5"), Some(text("CN=cvmm-test")));
        }
    }
}

#[test]
fn a_flipped_byte_is_found() {
    let mut world = World::new("");
    let raw = world.report([1; 64], 0).unwrap();
    let chain = world.chain(Kind::Vcek);
    let key = der(&chain.vek);
    // R and S are 72 bytes each of which the low 48 count.
    for at in (0..0x2A0).chain(0x2A0..0x2D0).chain(0x2E8..0x318) {
        let mut bad = raw.clone();
        bad[at] ^= 0x10;
        assert!(!signed_by(&bad, &key), "byte {at:#x}");
    }
    // The same by the `sev` crate, in fields that it does not re-create: SVN, policy, data, measurement,
    // chip.
    for at in [0x04, 0x08, 0x50, 0x90, 0xC0, 0x140, 0x186, 0x1A0, 0x2A0, 0x2E8] {
        let mut bad = raw.clone();
        bad[at] ^= 0x10;
        let accepted = AttestationReport::from_bytes(&bad).and_then(|report| (&chain, &report).verify());
        assert!(accepted.is_err(), "byte {at:#x}");
    }
    assert!(raw[0x330..].iter().all(|&byte| byte == 0));
}

#[test]
fn another_tcb_is_another_key() {
    let mut world = World::new("");
    let old_chain = world.chain(Kind::Vcek);
    let old = world.report([1; 64], 1).unwrap();
    let lower = Tcb { snp: 20, ..world.rig.psp.config().tcb };
    assert_eq!(world.rig.set_config(lower.to_bytes(Product::Milan), 0), Status::SUCCESS);
    let raw = world.report([1; 64], 1).unwrap();
    let report = parse(&raw);
    assert_eq!((components(report.reported_tcb), components(report.current_tcb).snp), (lower, 22));
    assert!((&old_chain, &report).verify().is_err(), "the VCEK of a different TCB");
    let chain = world.chain(Kind::Vcek);
    (&chain, &report).verify().unwrap();
    check_certificate(&world, &report, Kind::Vcek);
    assert!((&chain, &parse(&old)).verify().is_err());
    // The other way to the same certificate: by chip and TCB.
    let hwid: String = world.rig.psp.chip().hwid().iter().map(|byte| format!("{byte:02x}")).collect();
    let stored = world.folder.path().join("vcek").join(hwid).join("bl04_tee00_snp20_ucode213_vcek.der");
    assert_eq!(std::fs::read(stored).unwrap(), chain.vek.to_der().unwrap());
}

#[test]
fn another_chip_or_root_does_not_verify() {
    let mut world = World::new("");
    let report = parse(&world.report([1; 64], 1).unwrap());
    let other_chip = World::new("seed = 'another chip'");
    assert!((&other_chip.chain(Kind::Vcek), &report).verify().is_err());
    // A chain whose root is another one: VLEK's issuer does not sign a VCEK.
    let (vcek, vlek) = (world.chain(Kind::Vcek), world.chain(Kind::Vlek));
    assert!((&vlek.ca.ask, &vcek.vek).verify().is_err());
    assert!((&vcek.ca.ask, &vlek.vek).verify().is_err());
    (&vlek.ca.ask, &vlek.vek).verify().unwrap();
    (&vcek.ca.ark, &vlek.ca.ask).verify().unwrap();
}

#[test]
fn a_revoked_authority_is_on_the_list() {
    for (name, product) in PRODUCTS {
        let world = World::new(&format!("product = '{name}'"));
        let pki = Pki::open(world.folder.path()).unwrap();
        let (vcek, vlek) = (world.chain(Kind::Vcek), world.chain(Kind::Vlek));
        let [ark, ask, asvk] = [&vcek.ca.ark, &vcek.ca.ask, &vlek.ca.ask].map(der);
        let line = product.line();
        for service in ["vcek", "vlek"] {
            let published =
                std::fs::read(world.folder.path().join(format!("{service}/v1/{line}/crl"))).unwrap();
            assert_eq!(revoked(&published, &ark, &ask), Ok(false));
            assert_eq!(revoked(&published, &ark, &asvk), Ok(false));
            assert!(revoked(&published, &ask, &ask).is_err(), "only the root signs lists");
        }
        let list = pki.crl(product, &[Authority::Ask]).unwrap();
        assert_eq!((revoked(&list, &ark, &ask), revoked(&list, &ark, &asvk)), (Ok(true), Ok(false)));
        let both = pki.crl(product, &[Authority::Ask, Authority::Asvk]).unwrap();
        assert_eq!((revoked(&both, &ark, &ask), revoked(&both, &ark, &asvk)), (Ok(true), Ok(true)));
        let mut bad = list.clone();
        let last = bad.len() - 1;
        bad[last] ^= 1;
        assert!(revoked(&bad, &ark, &ask).is_err());
    }
}

#[test]
fn the_hosts_report_verifies_and_says_so() {
    let mut world = World::new("");
    for (kind, key_sel) in [(Kind::Vcek, 0), (Kind::Vcek, 1), (Kind::Vlek, 0), (Kind::Vlek, 2)] {
        if kind == Kind::Vlek {
            assert_eq!(world.load_vlek(), Status::SUCCESS);
        }
        let page = world.rig.machine.firmware_page();
        let buffer = Buffer::default().u32(24).u32(key_sel).u64(world.guest.gctx).u64(page);
        assert_eq!(world.rig.run(command::SNP_HV_REPORT_REQ, &buffer.0), Status::SUCCESS);
        let raw: [u8; 1184] = world.rig.machine.bytes(page + 32);
        let report = parse(&raw);
        (&world.chain(kind), &report).verify().unwrap();
        assert_eq!((report.vmpl, report.report_data), (u32::MAX, [0; 64]));
        // It is of the same guest.
        let own = parse(&world.report([0; 64], 0).unwrap());
        assert_eq!((report.report_id, report.measurement), (own.report_id, own.measurement));
    }
}

#[test]
fn keys_that_are_not_there_are_not_used() {
    let mut world = World::launched("", 4);
    assert_eq!(world.report([0; 64], 0), Err(Status::INVALID_KEY));
    assert_eq!(world.report([0; 64], 1), Err(Status::INVALID_KEY));
    assert_eq!(world.report([0; 64], 2), Err(Status::INVALID_KEY));
    assert_eq!(world.load_vlek(), Status::SUCCESS);
    assert_eq!(world.report([0; 64], 1), Err(Status::INVALID_KEY));
    for key_sel in [0, 2] {
        let report = parse(&world.report([0; 64], key_sel).unwrap());
        (&world.chain(Kind::Vlek), &report).verify().unwrap();
    }
    // Without a keys folder there are reports, signed by a key that nothing endorses.
    let mut rig = Rig::initialised("");
    let (guest, keys) = rig.running(1, POLICY);
    let message = Message::report(1, [0; 64], 0, 1);
    let raw = rig.ask(guest, &keys[0], &message).unwrap().payload[32..].to_vec();
    assert!(!signed_by(&raw, &der(&world.chain(Kind::Vcek).vek)));
}

#[test]
fn the_report_names_the_keys_of_the_id_block() {
    let folder = keys_folder();
    let mut rig = Rig::initialised(&format!("keys_dir = '{}'", folder.path().display()));
    let (id, author) = (pair(), pair());
    let sha384 = |bytes: &[u8]| -> [u8; 48] {
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA384, bytes).as_ref().try_into().unwrap()
    };
    let mut measured = String::new();
    for (asid, flags) in [(1, 0), (2, 1), (3, 3)] {
        let guest = rig.launching(asid, POLICY);
        let keys = rig.launch_secrets(guest);
        rig.launch_page(guest, 0x1000, &[1; 4096], NORMAL);
        let block = id_block(&measured, POLICY);
        let auth = id_auth(&block, &id, &author);
        let identity = (flags != 0).then_some((&block[..], &auth[..]));
        assert_eq!(rig.finish(guest, identity, flags, [0; 32]), Status::SUCCESS, "{}", rig.psp.trace());
        measured = rig.digest();
        let message = Message::report(1, [0; 64], 0, 1);
        let report = parse(&rig.ask(guest, &keys[0], &message).unwrap().payload[32..]);
        (&common::verify::chain(folder.path(), Kind::Vcek), &report).verify().unwrap();
        let named = flags & 1 == 1;
        let digest = |named: bool, key: &_| if named { sha384(&amd_key(key)) } else { [0; 48] };
        assert_eq!(report.id_key_digest, digest(named, &id));
        assert_eq!(report.author_key_digest, digest(flags & 2 != 0, &author));
        assert_eq!(report.key_info.author_key_en(), flags & 2 != 0);
        let ids = (report.family_id, report.image_id, report.guest_svn);
        assert_eq!(ids, if named { ([0xFA; 16], [0x1A; 16], 7) } else { ([0; 16], [0; 16], 0) });
        let measurement: String = report.measurement.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(measurement, measured);
    }
}
