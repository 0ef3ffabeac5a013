// SPDX-License-Identifier: Apache-2.0

use cvmm_attest::claims::FirmwareVersion;
use cvmm_snp::digest::Digest;

use super::*;
use crate::guest::GuestBit;
use crate::platform::PlatformBit;

fn options() -> Options {
    Options { id: "p".to_owned(), ..Options::default() }
}

fn import_ok(format: Format, text: &str, options: &Options) -> Imported {
    let imported = import(format, text, options).unwrap_or_else(|error| panic!("{error}\n{text}"));
    // What is written is the policy.
    assert_eq!(Policy::parse(&imported.to_toml().unwrap()).as_ref(), Ok(&imported.policy));
    imported
}

/// The names of what is refused.
fn refused(format: Format, text: &str, options: &Options) -> Vec<String> {
    let error = import(format, text, options).err().unwrap_or_else(|| panic!("imported: {text}"));
    error.0.into_iter().map(|refused| refused.name).collect()
}

/// `\xaa…`, `count` times.
fn escaped(byte: u8, count: usize) -> String {
    format!("\\x{byte:02x}").repeat(count)
}

fn gsg() -> String {
    format!(
        "# proto-message: check.Policy\nminimum_guest_svn: 2 policy: 0x130000\nmeasurement: \"{}\"\n\
         minimum_tcb: 0xd516000000000004\nproduct {{ name: SEV_PRODUCT_MILAN }}\nvmpl {{ value: 0 }}\n",
        escaped(0xaa, 48)
    )
}

#[test]
fn a_policy_of_go_sev_guest_is_taken_over() {
    let policy = import_ok(Format::GoSevGuest, &gsg(), &options()).policy;
    assert_eq!(
        (policy.guest.min_svn, policy.guest.max_vmpl, policy.platform.allow_provisional),
        (2, 0, false)
    );
    assert_eq!(policy.guest.measurements, [Digest([0xaa; 48])]);
    assert_eq!(policy.platform.products, [Product::Milan]);
    assert_eq!(
        policy.platform.min_tcb[&Product::Milan].to_string(),
        "bootloader 4, tee 0, snp 22, microcode 213"
    );
    assert_eq!(policy.platform.min_launch_tcb[&Product::Milan].microcode, 0);
    assert_eq!(policy.guest.forbid, [GuestBit::CxlAllowed]);
    assert_eq!(policy.guest.require, [GuestBit::SingleSocket]);
    // All the others.
    let more = format!(
        "{}family_id: '{}' image_id: \"{}\" host_data: \"{}\" chip_id: \"{}\";\nminimum_launch_tcb: 0xd516000000000004,\n\
         platform_info: < value: 1 >\nrequire_id_block: true\ntrusted_id_key_hashes: [\"{}\", \"{}\"]\n\
         minimum_version: \"1.55\" permit_provisional_firmware: true report_data: \"\"\n",
        gsg(),
        escaped(1, 16),
        escaped(2, 16),
        escaped(3, 32),
        escaped(4, 8),
        escaped(5, 48),
        escaped(6, 48),
    );
    let imported = import_ok(Format::GoSevGuest, &more, &options());
    let policy = &imported.policy;
    assert_eq!((policy.guest.family_id, policy.guest.image_id), (Some([1; 16]), Some([2; 16])));
    assert_eq!(policy.guest.host_data, [[3; 32]]);
    assert_eq!(
        (policy.platform.chip_ids[0][..9].to_vec(), policy.platform.chip_ids.len()),
        ([[4; 8].as_slice(), &[0]].concat(), 1)
    );
    assert_eq!(policy.platform.min_launch_tcb[&Product::Milan].microcode, 213);
    assert_eq!(policy.guest.id_keys, [Digest([5; 48]), Digest([6; 48])]);
    assert_eq!(policy.platform.min_firmware, Some(FirmwareVersion { major: 1, minor: 55, build: 0 }));
    assert!(policy.platform.allow_provisional);
    // SMT may be on, TSME and unknown bits may not.
    assert_eq!(policy.platform.forbid, [PlatformBit::Tsme]);
    assert!(policy.platform.refuse_unknown_bits);
    assert!(imported.notes.iter().any(|note| note.starts_with("host_data")));
    // Turin has fields of its own.
    let turin = gsg()
        .replace("MILAN", "TURIN")
        .replace("minimum_tcb:", "minimum_tcb_turin:")
        .replace("0xd516000000000004", "0x5500000004030201");
    let policy = import_ok(Format::GoSevGuest, &turin, &options()).policy;
    assert_eq!(
        policy.platform.min_tcb[&Product::Turin].to_string(),
        "fmc 1, bootloader 2, tee 3, snp 4, microcode 85"
    );
}

#[test]
fn what_no_policy_here_says_is_refused_by_its_name() {
    for (line, name) in [
        ("minimum_build: 21", "minimum_build"),
        ("report_id: \"x\"", "report_id"),
        ("report_data: \"x\"", "report_data"),
        ("trusted_id_keys: \"x\"", "trusted_id_keys"),
        ("minimum_tcb_turin: 1", "minimum_tcb_turin"),
        ("platform_info { value: 4 }", "platform_info"),
        ("surprise: 1", "surprise"),
    ] {
        let text = format!("{}{line}\n", gsg());
        assert_eq!(refused(Format::GoSevGuest, &text, &options()), [name], "{line}");
        // Only what is named is left out, and that is said.
        let leave = Options { leave_out: vec![name.to_owned()], ..options() };
        let imported = import_ok(Format::GoSevGuest, &text, &leave);
        assert!(imported.to_toml().unwrap().contains(&format!("# LEFT OUT by --leave-out: {name}\n")));
    }
    for (line, name) in [
        ("require_author_key: true", "require_author_key"),
        ("require_id_block: true", "require_id_block"),
        ("minimum_guest_svn: 3", "minimum_guest_svn"),
        ("family_id: \"short\"", "family_id"),
        ("host_data: 5", "host_data"),
        ("minimum_version: \"1\"", "minimum_version"),
        ("permit_provisional_firmware: 1", "permit_provisional_firmware"),
        ("minimum_build: -1", "file"),
    ] {
        assert_eq!(refused(Format::GoSevGuest, &format!("{}{line}\n", gsg()), &options()), [name], "{line}");
    }
    let both = format!(
        "{}require_id_block: true trusted_id_key_hashes: \"{x}\" trusted_author_key_hashes: \"{x}\"",
        gsg(),
        x = escaped(7, 48)
    );
    assert_eq!(refused(Format::GoSevGuest, &both, &options()), ["trusted_author_key_hashes"]);
    let change = |from: &str, to: &str| gsg().replace(from, to);
    assert_eq!(refused(Format::GoSevGuest, &change("0x130000", "0x100000"), &options()), ["policy"]);
    assert_eq!(refused(Format::GoSevGuest, &change("0x130000", "0x130137"), &options()), ["policy.abi"]);
    assert_eq!(
        refused(Format::GoSevGuest, &change("0x130000", "0x8000000000130000"), &options()),
        ["policy"]
    );
    assert_eq!(
        refused(Format::GoSevGuest, &change("0xd516", "0xd51600ff"), &options()).first().unwrap(),
        "file"
    );
    assert_eq!(refused(Format::GoSevGuest, &change("value: 0", "value: 2"), &options()), ["vmpl"]);
    assert_eq!(refused(Format::GoSevGuest, &change("MILAN", "ROME"), &options()), ["product", "product"]);
    let limit = Options { equal_as_limit: true, ..options() };
    assert_eq!(
        import_ok(Format::GoSevGuest, &change("value: 0", "value: 2"), &limit).policy.guest.max_vmpl,
        2
    );
    // What the command line says for what is not there; and never against what is.
    let genoa = Options { product: Some(Product::Genoa), ..options() };
    assert_eq!(refused(Format::GoSevGuest, &gsg(), &genoa), ["product"]);
    assert_eq!(
        import_ok(Format::GoSevGuest, &change("product { name: SEV_PRODUCT_MILAN }", ""), &genoa)
            .policy
            .platform
            .products,
        [Product::Genoa]
    );
    let lines: Vec<_> =
        gsg().lines().filter(|line| !line.starts_with("measurement")).map(str::to_owned).collect();
    assert_eq!(refused(Format::GoSevGuest, &lines.join("\n"), &options()), ["measurement"]);
    let any = Options { any_measurement: true, ..options() };
    assert!(import_ok(Format::GoSevGuest, &lines.join("\n"), &any).policy.unsafe_any_measurement);
    // Nothing to leave out.
    let leave = Options { leave_out: vec!["minimum_build".to_owned()], ..options() };
    assert_eq!(refused(Format::GoSevGuest, &gsg(), &leave), ["minimum_build"]);
    // DEBUG was allowed; the floor stays.
    let imported = import_ok(Format::GoSevGuest, &change("0x130000", "0x1b0000"), &options());
    assert!(!imported.policy.unsafe_allow_debug && imported.notes.iter().any(|note| note.contains("DEBUG")));
}

#[test]
fn the_text_form_is_read_with_its_escapes_and_within_bounds() {
    use textproto::{Value, parse};
    let value = |text: &str| parse(text).unwrap().into_iter().next().unwrap().value;
    assert_eq!(value(r#"a: "\n\x41\101\\" '\'' "b""#), Value::Bytes(b"\nAA\\'b".to_vec()));
    assert_eq!(value("a: 0777"), Value::Number(511));
    assert_eq!(value("a: 18446744073709551615"), Value::Number(u64::MAX));
    assert_eq!(parse("a: [1, 2] # x\n b { c: true; }").unwrap().len(), 3);
    for text in [
        "a",
        "a:",
        "a: \"x",
        "a: \"\\q\"",
        "a: \"\\x\"",
        "a: \"\\777\"",
        "a: -1",
        "a: 1.5",
        "a: 18446744073709551616",
        "a {",
        "a { b: 1 >",
        "a [1]",
        "a: [1 2]",
        "}",
        ": 1",
        "1: 1",
        "a: 0x+1",
        "a: 08",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
    assert!(parse(&"a{".repeat(100_000)).unwrap_err().contains("too many messages"));
    assert!(parse(&"a:1 ".repeat(2000)).unwrap_err().contains("too many fields"));
    assert!(import(Format::GoSevGuest, &" ".repeat(MAX_FILE + 1), &options()).is_err());
}

fn skr(conditions: &str) -> String {
    format!(
        "{{\"version\": \"1.0.0\", \"anyOf\": [{{\"authority\": \"https://a.example\", \"allOf\": [{conditions}]}}]}}"
    )
}

fn equals(claim: &str, value: &str) -> String {
    format!("{{\"claim\": \"{claim}\", \"equals\": {value}}}")
}

fn milan() -> Options {
    let tcb = TcbParts { fmc: None, bootloader: 4, tee: 0, snp: 22, microcode: 213 };
    Options { product: Some(Product::Milan), tcb: Some(tcb), ..options() }
}

fn measured() -> String {
    equals("x-ms-sevsnpvm-launchmeasurement", &format!("\"{}\"", "ab".repeat(48)))
}

#[test]
fn a_key_release_policy_is_taken_over() {
    let hex = |byte: &str, count: usize| format!("\"{}\"", byte.repeat(count));
    let either = format!(
        "{{\"anyOf\": [{}, {}]}}",
        equals("x-ms-isolation-tee.x-ms-sevsnpvm-hostdata", &hex("01", 32)),
        equals("x-ms-isolation-tee.x-ms-sevsnpvm-hostdata", &hex("02", 32))
    );
    let conditions = [
        measured(),
        either,
        equals("x-ms-attestation-type", "\"sevsnpvm\""),
        equals("x-ms-sevsnpvm-is-debuggable", "\"false\""),
        equals("x-ms-sevsnpvm-migration-allowed", "false"),
        equals("x-ms-sevsnpvm-smt-allowed", "true"),
        equals("x-ms-sevsnpvm-vmpl", "0"),
        equals("x-ms-sevsnpvm-idkeydigest", &hex("03", 48)),
        equals("x-ms-sevsnpvm-authorkeydigest", &hex("04", 48)),
        equals("x-ms-sevsnpvm-familyId", &hex("05", 16)),
        equals("x-ms-sevsnpvm-imageId", &hex("06", 16)),
    ];
    let policy = import_ok(Format::AzureSkr, &skr(&conditions.join(",")), &milan()).policy;
    assert_eq!(policy.guest.measurements, [Digest([0xab; 48])]);
    assert_eq!(policy.guest.host_data, [[1; 32], [2; 32]]);
    assert_eq!(
        (policy.guest.id_keys.as_slice(), policy.guest.author_keys.as_slice()),
        (&[Digest([3; 48])][..], &[Digest([4; 48])][..])
    );
    assert_eq!(
        (policy.guest.family_id, policy.guest.image_id, policy.guest.max_vmpl),
        (Some([5; 16]), Some([6; 16]), 0)
    );
    assert_eq!(policy.guest.require, [GuestBit::Smt]);
    assert_eq!(policy.platform.min_tcb[&Product::Milan].microcode, 213);
    // Numbers are limits only when that is said, and never below the command line's.
    let svns = [("guestsvn", "7"), ("bootloader-svn", "3"), ("microcode-svn", "\"220\"")]
        .map(|(claim, value)| equals(&format!("x-ms-sevsnpvm-{claim}"), value))
        .join(",");
    let text = skr(&format!("{},{svns}", measured()));
    assert_eq!(refused(Format::AzureSkr, &text, &milan()).len(), 3);
    let policy = import_ok(Format::AzureSkr, &text, &Options { equal_as_limit: true, ..milan() }).policy;
    assert_eq!(policy.guest.min_svn, 7);
    assert_eq!(
        policy.platform.min_tcb[&Product::Milan].to_string(),
        "bootloader 4, tee 0, snp 22, microcode 220"
    );
}

#[test]
fn a_key_release_policy_that_says_more_is_refused() {
    let compliance = "x-ms-compliance-status";
    for (condition, name) in [
        (equals(&format!("x-ms-isolation-tee.{compliance}"), "\"azure-compliant-cvm\""), compliance),
        (equals("x-ms-sevsnpvm-reportdata", "\"00\""), "x-ms-sevsnpvm-reportdata"),
        (equals("x-ms-sevsnpvm-new", "1"), "x-ms-sevsnpvm-new"),
    ] {
        let text = skr(&format!("{},{condition}", measured()));
        assert_eq!(refused(Format::AzureSkr, &text, &milan()), [name]);
        let leave = Options { leave_out: vec![name.to_owned()], ..milan() };
        assert!(import_ok(Format::AzureSkr, &text, &leave).to_toml().unwrap().contains(name));
    }
    let other = equals("x-ms-sevsnpvm-hostdata", &format!("\"{}\"", "00".repeat(32)));
    for (condition, name) in [
        (equals("x-ms-sevsnpvm-is-debuggable", "true"), "x-ms-sevsnpvm-is-debuggable"),
        (equals("x-ms-sevsnpvm-vmpl", "4"), "x-ms-sevsnpvm-vmpl"),
        (equals("x-ms-sevsnpvm-hostdata", "\"0\""), "x-ms-sevsnpvm-hostdata"),
        (equals("x-ms-attestation-type", "\"sgx\""), "x-ms-attestation-type"),
        (measured(), "x-ms-sevsnpvm-launchmeasurement"),
        (format!("{{\"anyOf\": [{}, {other}]}}", measured()), "anyOf[0].allOf[1]"),
        ("{\"anyOf\": []}".to_owned(), "anyOf[0].allOf[1].anyOf"),
        ("{\"allOf\": []}".to_owned(), "anyOf[0].allOf[1].allOf"),
        ("{\"claim\": \"x\", \"exists\": true}".to_owned(), "anyOf[0].allOf[1].exists"),
        ("5".to_owned(), "anyOf[0].allOf[1]"),
    ] {
        let names = refused(Format::AzureSkr, &skr(&format!("{},{condition}", measured())), &milan());
        assert_eq!(names.first().map(String::as_str), Some(name), "{condition}");
    }
    for (text, name) in [
        ("", "file"),
        ("[]", "file"),
        ("{}", "anyOf"),
        (&*skr(&measured()).replace("1.0.0", "0.2"), "version"),
        (&*skr(&measured()).replace("authority", "who"), "anyOf[0].who"),
        (&*skr(&measured()).replace("]}]", "]}, {}]"), "anyOf"),
        (&*"[".repeat(10_000), "file"),
    ] {
        assert_eq!(
            refused(Format::AzureSkr, text, &milan()).first().map(String::as_str),
            Some(name),
            "{text}"
        );
    }
    assert_eq!(refused(Format::AzureSkr, &skr(&measured()), &options()), ["product"]);
    let no_tcb = Options { tcb: None, ..milan() };
    assert_eq!(refused(Format::AzureSkr, &skr(&measured()), &no_tcb), ["tcb"]);
}
