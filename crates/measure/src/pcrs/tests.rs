// SPDX-License-Identifier: Apache-2.0
use cvmm_launch::blob::Blob;
use cvmm_launch::samples::firmware::{Image, pair};
use cvmm_launch::samples::{uki, uki_of};

use super::*;

const MAGIC: &[u8] = b"#### LoaderInfo: systemd-stub 252.39-1~deb12u1 ####\0";

fn firmware(ours: bool) -> Firmware {
    let mut image = Image { size: 0x14_0000, ..Image::amdsev() };
    if ours {
        image.entries.push((STAGE_PLACE_GUID, pair(0xffed_0000, 0x5_0000)));
    }
    Firmware::parse(image.blob()).unwrap()
}

fn program(bytes: Vec<u8>) -> Program {
    Program::open(Blob::from_bytes("guest.efi", bytes)).unwrap()
}

fn predicted(bytes: Vec<u8>, ours: bool) -> Prediction {
    let firmware = firmware(ours);
    let chain = BootChain {
        firmware: &firmware,
        secure_boot: Some(SecureBoot::default()),
        loader: program(bytes),
        from_disk: false,
    };
    predict(&chain).unwrap()
}

fn reason(prediction: &Prediction, pcr: u8) -> &str {
    let found: Vec<_> = prediction.unpredicted.iter().filter(|left| left.pcrs.contains(&pcr)).collect();
    assert_eq!(found.len(), 1, "{pcr}");
    &found[0].reason
}

/// The sections that systemd-measure got.
fn sections() -> Vec<(&'static str, &'static [u8])> {
    vec![
        (".sdmagic", MAGIC),
        (".osrel", b"ID=debian\n"),
        (".splash", b"a splash"),
        (".dtb", b"dtb"),
        (".uname", b"6.12\0"),
        (".sbat", b"sbat,1\n"),
        (".pcrpkey", b"a key"),
        (".cmdline", b"console=ttyS0 quiet"),
        (".initrd", b"an initrd"),
        (".linux", b"a kernel"),
    ]
}

/// PCR 11 by `systemd-measure calculate --bank=sha256 --linux=... --osrel=... --cmdline=... --initrd=...
/// --splash=... --dtb=... --pcrpkey=...` with these `--phase=`s, the first of which is `:`. That is version
/// 252.39-1~deb12u2, which knows neither `.uname` nor `.sbat`, as its stub.
#[test]
fn pcr_11_is_that_of_systemd_measure() {
    let loader = program(uki(&sections()));
    let stub = Stub::of(&loader).unwrap();
    assert_eq!(stub, Stub::Systemd { version: 252 });
    let states = stub::phases(&stub.image(&loader).unwrap().unwrap());
    let found: Vec<_> =
        states.iter().map(|state| (state.phase.as_deref().unwrap(), state.value.as_str())).collect();
    let expected = [
        "cf6cae82da996f8ced6c0196c2feaa90e9f78fc6e857c67a79d45795dcb12cbb",
        "1d5c64076eb4c5c800f7ca63063420be0f18f08236deba891b2db0c6b504d51f",
        "a330fb107437f35d157912dab2f966a6e3f7126e7ebda74bd8b2d883c7fbfbe6",
        "836efaae424a74345adbbdae7395cbdea1727b98343818a12c744c88fedc7d7f",
        "c40b3dfd9f9f6c59c0188d45a69dccd508eb2d727e9b906c5d9b31bc2dff6073",
    ];
    assert_eq!(found, PHASES.into_iter().zip(expected).collect::<Vec<_>>());
    assert!(states.iter().all(|state| state.pcr == 11));
}

#[test]
fn later_stubs_measure_more_sections() {
    let count = |version: &str| {
        let magic = format!("#### LoaderInfo: systemd-stub {version} ####");
        let mut sections = sections();
        sections[0].1 = magic.as_bytes();
        let loader = program(uki(&sections));
        Stub::of(&loader).unwrap().image(&loader).unwrap().map(|register| register.events.len())
    };
    let counts = ["252", "253.5-1", "254~rc1", "257.13-1~deb13u1"].map(|version| count(version).unwrap());
    assert_eq!(counts, [14, 16, 18, 18]);
    assert!(count("251").unwrap_err().contains("since version 252"));
    assert!(count("none").unwrap_err().contains("does not name"));
}

/// The constants are from the event log that OVMF.cvmm.fd made in QEMU, with a TPM and without keys; the
/// guest read these values of PCRs 2, 3, 6 and 7.
#[test]
fn what_the_firmware_measures_is_in_its_event_log() {
    let kernel = uki_of(20_000);
    let mut sections = sections();
    sections.last_mut().unwrap().1 = &kernel;
    let prediction = predicted(uki(&sections), true);
    let digests = |pcr: u8| -> Vec<&str> {
        let state = prediction.pcrs.iter().find(|state| state.pcr == pcr).unwrap();
        state.events.iter().map(|event| &event.digest[..16]).collect()
    };
    let separator = "df3f619804a92fdb";
    for pcr in [2, 3, 6] {
        assert_eq!(digests(pcr), [separator]);
        let value = "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969";
        assert_eq!(prediction.value(pcr), Some(value));
    }
    let variables =
        ["115aa827dbccfb44", "dea7b80ab53a3daa", "e670e121fcebd473", "baf89a3ccace5275", "9f75b6823bff6af1"];
    assert_eq!(digests(7), [&variables[..], &[separator]].concat());
    let value = "65caf8dd1e0ea7a6347b635d2b379c93b9a1351edc2afc3ecda700e534eb3068";
    assert_eq!(prediction.value(7), Some(value));
    let [action, between, image, inner] = digests(4)[..] else { panic!("{prediction:?}") };
    assert_eq!([action, between], ["3d6772b4f84ed475", separator]);
    let loader = program(uki(&sections));
    assert_eq!(image, &hex::encode(loader.authenticode().unwrap())[..16]);
    assert_eq!(inner, &hex::encode(program(kernel.clone()).authenticode().unwrap())[..16]);
    // Each PCR is either predicted or has a reason.
    for pcr in 0..16 {
        let known = prediction.value(pcr).is_some();
        assert_ne!(known, prediction.unpredicted.iter().any(|left| left.pcrs.contains(&pcr)), "{pcr}");
    }
}

/// An EFI_SIGNATURE_LIST with `count` entries of `len` bytes.
fn list(count: usize, len: usize) -> Vec<u8> {
    let sizes = [28 + count * len, 0, len].map(|size| u32::to_le_bytes(size as u32));
    [[7; 16].as_slice(), sizes.as_flattened(), &vec![9; count * len]].concat()
}

#[test]
fn keys_of_secure_boot_are_in_pcr_7() {
    let mut keys = SecureBoot { pk: list(1, 60), kek: list(1, 60), db: list(1, 60), ..SecureBoot::default() };
    let one = firmware::secure_boot(&keys).unwrap();
    assert_eq!(one.events.len(), 7);
    keys.dbx = list(3, 48);
    assert_ne!(firmware::secure_boot(&keys).unwrap().value, one.value);
    for db in [list(2, 60), [list(1, 60), list(1, 48)].concat(), list(1, 60)[..40].to_vec(), Vec::new()] {
        let keys = SecureBoot { db, ..keys.clone() };
        assert!(firmware::secure_boot(&keys).unwrap_err().contains("db has several entries"));
        let keys = SecureBoot { authority: Some(vec![9; 60]), ..keys };
        firmware::secure_boot(&keys).unwrap();
    }
}

/// As the event log shows: the stub's kernel is in PCR 4 only without Secure Boot.
#[test]
fn secure_boot_covers_the_kernel_by_the_image() {
    let kernel = uki_of(20_000);
    let mut sections = sections();
    sections.last_mut().unwrap().1 = &kernel;
    let loader = program(uki(&sections));
    let stub = Stub::of(&loader).unwrap();
    let events = |on| firmware::boot_programs(&loader, &stub, on).unwrap().unwrap().events;
    assert_eq!(events(true), events(false)[..3]);
    assert_eq!(events(false).len(), 4);
}

#[test]
fn keys_come_from_the_key_region() {
    let entry = |kind: u32, data: &[u8]| {
        let mut bytes = [kind.to_le_bytes(), (data.len() as u32).to_le_bytes()].concat();
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    };
    let region = |entries: &[u8], version: u32| {
        let header = [(entries.len() as u32).to_le_bytes(), version.to_le_bytes()].concat();
        let mut bytes = [b"CVMMKEYS".as_slice(), &header, entries].concat();
        bytes.resize(0x1000, 0xff);
        bytes
    };
    assert_eq!(SecureBoot::from_region(&[0xff; 0x1000]), Some(SecureBoot::default()));
    assert_eq!(SecureBoot::from_region(&region(&[], 1)), Some(SecureBoot::default()));
    let two = [entry(0x100, b"owner"), entry(0x102, b"a db")].concat();
    let keys = SecureBoot::from_region(&region(&two, 0)).unwrap();
    assert_eq!((keys.pk.as_slice(), keys.db.as_slice()), (&b"owner"[..], &b"a db"[..]));
    assert!(keys.kek.is_empty() && keys.dbx.is_empty() && keys.is_on());
    for bad in [entry(0x104, b"x"), entry(0xff, b"x"), [two.clone(), entry(0x100, b"x")].concat()] {
        assert_eq!(SecureBoot::from_region(&region(&bad, 1)), None);
    }
    for len in [12, 17, 20, 24] {
        assert_eq!(SecureBoot::from_region(&region(&two, 1)[..len]), None, "{len}");
    }
    let mut long = region(&two, 1);
    long[20] = 0xff;
    assert_eq!(SecureBoot::from_region(&long), None);
}

#[test]
fn what_is_not_known_has_its_reason() {
    let stock = predicted(uki(&sections()[..9]), false);
    assert!(reason(&stock, 7).contains("not OVMF.cvmm.fd"));
    let loader = predicted(uki(&[(".other", b"x")]), true);
    assert!(reason(&loader, 4).contains("before that, PCR 4 is "));
    assert!(reason(&loader, 11).contains("not a unified kernel image"));
    let kernel = uki_of(20_000);
    let bare = predicted(uki(&[(".linux", &kernel)]), true);
    assert!(reason(&bare, 11).contains("no section .sdmagic"));
    for more in [".profile", ".dtbauto", ".osrel"] {
        let mut sections = vec![(".linux", kernel.as_slice()), (more, b"x".as_slice())];
        sections.extend_from_slice(&[(".osrel", b"y"), (".sdmagic", MAGIC)]);
        let prediction = predicted(uki(&sections), true);
        assert!(prediction.value(4).is_some() && reason(&prediction, 11).contains(more));
    }
    let text = show(&bare).to_string();
    assert!(text.contains("bank sha256\n  2  3d458cfe") && text.contains("\nnot predicted\n  0  "), "{text}");
}

/// The stub of `cvmm uki build` measures as systemd's does, and starts its kernel without the firmware.
#[test]
fn our_own_stub_starts_the_kernel_itself() {
    let prediction =
        predicted(uki(&[(".osrel", b"ID=debian\n"), (".linux", b"CVMMLNX\0 and the rest")]), true);
    let events = |pcr: u8| prediction.pcrs.iter().find(|state| state.pcr == pcr).unwrap().events.len();
    assert_eq!((events(4), events(11)), (3, 4));
}

#[test]
fn a_kernel_that_is_not_a_program_is_refused() {
    let firmware = firmware(true);
    let chain = BootChain {
        firmware: &firmware,
        secure_boot: Some(SecureBoot::default()),
        loader: program(uki(&sections())),
        from_disk: true,
    };
    let error = predict(&chain).unwrap_err();
    assert!(error.to_string().contains("in section .linux of guest.efi"), "{error}");
}

#[test]
fn signed_policies_are_shown_with_their_phase() {
    let kernel = uki_of(20_000);
    let mut sections = sections();
    sections.last_mut().unwrap().1 = &kernel;
    let plain = predicted(uki(&sections), true);
    let ready = plain.pcrs.iter().rfind(|state| state.pcr == 11).unwrap();
    // TPM2_PolicyPCR over SHA-256, PCR 11: computed here a second time, from the specification's bytes.
    let selection = [0, 0, 0, 1, 0, 0xb, 3, 0, 8, 0];
    let values = sha256(&[&hex::decode(&ready.value).unwrap()]);
    let policy = hex::encode(sha256(&[&[0; 32], &[0, 0, 1, 0x7f], &selection, &values]));
    let good = format!(r#"{{"pcrs":[11],"pkfp":"ab12","pol":"{policy}","sig":"AA=="}}"#);
    let odd = r#"{"pcrs":[11],"pkfp":"\u001b","pol":"00"}"#;
    let json = format!(r#"{{"sha256":[{good},{odd}]}}"#);
    let mut signed = sections.clone();
    signed.push((".pcrsig", json.as_bytes()));
    let prediction = predicted(uki(&signed), true);
    // The section is not measured.
    assert_eq!(prediction.pcrs.last(), plain.pcrs.last());
    let [good, odd] = &prediction.signatures[..] else { panic!("{prediction:?}") };
    assert_eq!((good.key.as_str(), good.phase.as_deref()), ("ab12", Some(PHASES[4])));
    assert_eq!((odd.key.as_str(), odd.phase.as_deref()), ("", None));
    let broken: &[u8] = b"{\"sha256\":7}";
    *signed.last_mut().unwrap() = (".pcrsig", broken);
    assert!(predicted(uki(&signed), true).signatures.is_empty());
}
