// SPDX-License-Identifier: Apache-2.0
//! What a `vm.toml` may say and what each mistake answers.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;

const GOOD: &str = r#"name = "web-1"
vcpus = 4
memory = "1GiB"
isolation = "none"
firmware = "OVMF.fd"
[boot]
profile = "hashes"
kernel = "vmlinuz"
cmdline = "quiet"
[[disk]]
path = "a.img"
[[disk]]
path = "/abs/b.img"
serial = "b"
read_only = true
cache = "direct"
queues = 4
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse("vm.toml", text, Path::new("/base"), Checks::OFFLINE)
}

/// `GOOD` with one piece of text replaced, and what it answers: (code, line, column).
fn broken(from: &str, to: &str) -> Vec<(String, usize, usize)> {
    assert_eq!(GOOD.matches(from).count(), 1, "{from}");
    places(&parse(&GOOD.replace(from, to)).unwrap_err())
}

fn places(error: &ConfigError) -> Vec<(String, usize, usize)> {
    let place = |problem: &Problem| {
        let location = problem.location.as_ref().unwrap();
        (problem.code.clone(), location.line, location.column)
    };
    error.problems().iter().map(place).collect()
}

fn one(code: &str, line: usize, column: usize) -> Vec<(String, usize, usize)> {
    vec![(code.to_owned(), line, column)]
}

#[test]
fn a_good_file_becomes_a_config() {
    let config = parse(GOOD).unwrap();
    assert_eq!((config.name.as_str(), config.vcpus, config.memory), ("web-1", 4, 1 << 30));
    assert_eq!((config.low_memory, config.high_memory()), (320 << 20, 704 << 20));
    assert_eq!(config.firmware, FirmwareSource::File("/base/OVMF.fd".into()));
    let boot = Boot::Hashes { kernel: "/base/vmlinuz".into(), initrd: None, cmdline: "quiet".to_owned() };
    assert_eq!(config.boot, boot);
    let first = Disk {
        path: "/base/a.img".into(),
        read_only: false,
        serial: "disk0".to_owned(),
        format: DiskFormat::Probe,
        cache: CacheMode::Writeback,
        queues: None,
    };
    let second = Disk {
        path: "/abs/b.img".into(),
        read_only: true,
        serial: "b".to_owned(),
        format: DiskFormat::Probe,
        cache: CacheMode::Direct,
        queues: Some(4),
    };
    assert_eq!(config.disks, [first, second]);
    assert_eq!(
        config.console,
        Console { device: ConsoleDevice::Serial, mode: ConsoleMode::Stdio, path: None, max_size: None }
    );
    assert!(config.rng && config.debug.mtrr && !config.debug.firmware_console);
    let json = config.to_json();
    assert_eq!(json["boot"]["profile"], "hashes");
    assert_eq!(json["disk"][1]["cache"], "direct");
}

#[test]
fn numbers_out_of_range_name_their_place() {
    for bad in ["0", "65", "10000", "-1", "9223372036854775807"] {
        assert_eq!(broken("vcpus = 4", &format!("vcpus = {bad}")), one("config.vcpus.range", 2, 9), "{bad}");
    }
    assert_eq!(broken("vcpus = 4", "vcpus = 99999999999999999999"), one("config.vcpus.type", 2, 9));
    assert_eq!(broken("queues = 4", "queues = 0"), one("config.disk.queues.range", 17, 10));
    assert_eq!(broken("queues = 4", "queues = 65536"), one("config.disk.queues.range", 17, 10));
}

#[test]
fn memory_is_checked_against_every_rule() {
    for (bad, reason) in [
        ("0", "range"),
        ("\"0MiB\"", "range"),
        ("\"63MiB\"", "range"),
        ("512", "range"),
        ("\"1025GiB\"", "range"),
        ("-5", "format"),
        ("\"512MB\"", "format"),
        ("\"lots\"", "format"),
        ("\"99999999999TiB\"", "format"),
        ("536870913", "alignment"),
        ("\"524289KiB\"", "alignment"),
        ("\"95MiB\"", "profile"),
        ("1.5", "type"),
        ("true", "type"),
    ] {
        let code = format!("config.memory.{reason}");
        assert_eq!(broken("memory = \"1GiB\"", &format!("memory = {bad}")), one(&code, 3, 10), "{bad}");
    }
    let low =
        |low: &str| GOOD.replace("memory = \"1GiB\"", &format!("memory = \"1GiB\"\nlow_memory = \"{low}\""));
    for (bad, reason) in [("63MiB", "range"), ("1025MiB", "range"), ("3GiB", "range"), ("64MiB", "profile")] {
        let code = format!("config.low_memory.{reason}");
        assert_eq!(places(&parse(&low(bad)).unwrap_err()), one(&code, 4, 14), "{bad}");
    }
    assert_eq!(parse(&low("96MiB")).unwrap().low_memory, 96 << 20);
    assert_eq!(parse(&low("1GiB")).unwrap().high_memory(), 0);
    let tera = parse(&GOOD.replace("1GiB", "1TiB")).unwrap();
    assert_eq!(tera.memory, 1 << 40);
    let uki = "profile = \"uki\"\nuki = \"u.efi\"";
    let text = GOOD.replace("profile = \"hashes\"\nkernel = \"vmlinuz\"\ncmdline = \"quiet\"", uki);
    assert!(parse(&text.replace("1GiB", "128MiB")).is_ok());
    assert_eq!(
        places(&parse(&text.replace("1GiB", "127MiB")).unwrap_err()),
        one("config.memory.profile", 3, 10)
    );
}

#[test]
fn unknown_keys_and_words_say_what_is_known() {
    let error = parse(&GOOD.replace("vcpus", "vcpu")).unwrap_err();
    assert_eq!(places(&error), one("config.unknown_key", 2, 1));
    assert_eq!(error.problems()[0].key, "vcpu");
    assert!(error.problems()[0].allowed.as_deref().unwrap().contains("vcpus"));
    let error = parse(&GOOD.replace("\"none\"", "\"sev\"")).unwrap_err();
    assert_eq!(places(&error), one("config.isolation.value", 4, 13));
    assert_eq!(error.problems()[0].allowed.as_deref(), Some("none or snp"));
    assert_eq!(broken("cache = \"direct\"", "cache = \"none\""), one("config.disk.cache.value", 16, 9));
    assert_eq!(broken("read_only = true", "readonly = true"), one("config.disk.unknown_key", 15, 1));
    // A key that old files have.
    assert_eq!(
        broken("[boot]", "[debug]\npm_timer_scale = 1\n[boot]"),
        one("config.debug.unknown_key", 7, 1)
    );
    assert_eq!(broken("[boot]", "[boot]\nshim = \"x\""), one("config.boot.unknown_key", 7, 1));
    assert_eq!(broken("name = \"web-1\"", "name = 1"), one("config.name.type", 1, 8));
    assert_eq!(broken("[boot]", "[console]\ncolour = 1\n[boot]"), one("config.console.unknown_key", 7, 1));
}

#[test]
fn all_problems_come_together_in_file_order() {
    let text = "\
name = \"no spaces\"
vcpus = 0
memroy = \"1GiB\"
isolation = \"sgx\"
rng = \"yes\"
[boot]
profile = \"uki\"
kernel = \"k\"
[[disk]]
serial = \"ein-viel-zu-langer-Name\"
size = 4
[[disk]]
path = \"\"
serial = \"disk2\"
cache = 1
[[disk]]
path = \"c\"
queues = 100
";
    let error = parse(text).unwrap_err();
    let codes: Vec<_> =
        error.problems().iter().map(|problem| (problem.code.as_str(), problem.key.as_str())).collect();
    let expected = [
        ("config.memory.missing", "memory"),
        ("config.name.format", "name"),
        ("config.vcpus.range", "vcpus"),
        ("config.unknown_key", "memroy"),
        ("config.isolation.value", "isolation"),
        ("config.rng.type", "rng"),
        ("config.boot.uki.missing", "boot.uki"),
        ("config.boot.kernel.profile", "boot.kernel"),
        ("config.disk.path.missing", "disk[0].path"),
        ("config.disk.serial.length", "disk[0].serial"),
        ("config.disk.unknown_key", "size"),
        ("config.disk.path.path", "disk[1].path"),
        ("config.disk.cache.type", "disk[1].cache"),
        ("config.disk.serial.duplicate", "disk[2].serial"),
        ("config.disk.queues.range", "disk[2].queues"),
    ];
    assert_eq!(codes, expected, "{error}");
}

#[test]
fn a_problem_reads_like_a_compilers() {
    let error = parse(&GOOD.replace("vcpus = 4", "vcpus = 10000 # many")).unwrap_err();
    let expected = "\
error[config.vcpus.range]: vcpus is 10000, out of range
 --> vm.toml:2:9
  |
2 | vcpus = 10000 # many
  |         ^^^^^
  = allowed: 1 to 64";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_hostile_file_cannot_drive_the_terminal() {
    let error =
        parse("name = \"\\u001b[2J\"\n\"\\u001b]0;x\" = 1\n\u{202e}x = 3\n\ta = \u{7}\n").unwrap_err();
    assert!(!error.to_string().chars().any(|c| c.is_control() && c != '\n'), "{error}");
    let long = format!("{}vcpus = 0", "# x\n".repeat(200)) + &" ".repeat(5000) + "# end";
    assert!(parse(&long).unwrap_err().to_string().len() < 4000);
    let deep = format!("{} = 1", vec!["a"; 50_000].join("."));
    assert_eq!(parse(&deep).unwrap_err().problems()[0].code, "config.syntax");
}

#[test]
fn syntax_errors_are_all_placed() {
    let error = parse("name = \nvcpus = 2\nvcpus = 3\nmemory = tru\n").unwrap_err();
    assert_eq!(
        places(&error),
        [("config.syntax".into(), 1, 8), ("config.syntax".into(), 3, 1), ("config.syntax".into(), 4, 10)]
    );
}

#[test]
fn an_igvm_file_excludes_what_it_has_itself() {
    let text = |keys: &str, tables: &str| {
        format!(
            "name = \"x\"\nmemory = \"64MiB\"\nisolation = \"snp\"\n{keys}[boot]\nprofile = \"igvm\"\n\
             igvm = \"g.igvm\"\n{tables}"
        )
    };
    let config = parse(&text("", "cmdline = \"a b\"\n")).unwrap();
    let igvm = Path::new("/base/g.igvm").to_owned();
    assert_eq!(config.boot, Boot::Igvm { igvm, cmdline: "a b".to_owned() });
    assert!(!config.first_stage && config.firmware == FirmwareSource::Builtin);
    let gate = "[gate]\nsocket = \"s\"\nverdict_key = \"k\"\npolicy = \"p\"\n";
    for (text, code) in [
        (text("firmware = \"f\"\n", ""), "config.firmware.profile"),
        (text("", "first_stage = true\n"), "config.boot.first_stage.isolation"),
        (text("", "kernel = \"k\"\n"), "config.boot.kernel.profile"),
        (text("", "uki = \"k\"\n"), "config.boot.uki.profile"),
        (text("", gate), "config.boot.profile.gate"),
        (text("", "").replace("\"snp\"", "\"none\""), "config.boot.profile.isolation"),
        (text("", "").replace("igvm = \"g.igvm\"\n", ""), "config.boot.igvm.missing"),
        (text("", "").replace("64MiB", "63MiB"), "config.memory.range"),
    ] {
        let error = parse(&text).unwrap_err();
        let codes: Vec<_> = error.problems().iter().map(|problem| problem.code.clone()).collect();
        assert_eq!(codes, [code], "{error}");
    }
}

#[test]
fn keys_of_other_profiles_and_modes_are_refused() {
    assert_eq!(broken("profile = \"hashes\"", "profile = \"disk\"").len(), 2);
    assert_eq!(broken("kernel = \"vmlinuz\"\n", ""), one("config.boot.kernel.missing", 6, 1));
    assert_eq!(
        broken("cmdline = \"quiet\"", "cmdline = \"a\\nb\""),
        one("config.boot.cmdline.format", 9, 11)
    );
    let long = format!("cmdline = \"{}\"", "x".repeat(2048));
    assert_eq!(broken("cmdline = \"quiet\"", &long), one("config.boot.cmdline.length", 9, 11));
    assert_eq!(
        broken("[boot]", "[console]\nmode = \"file\"\n[boot]"),
        one("config.console.path.missing", 6, 1)
    );
    assert_eq!(broken("[boot]", "[console]\npath = \"x\"\n[boot]"), one("config.console.path.mode", 7, 8));
    let no_disk = &GOOD[..GOOD.find("[[disk]]").unwrap()];
    let no_disk = no_disk
        .replace("profile = \"hashes\"\nkernel = \"vmlinuz\"\ncmdline = \"quiet\"", "profile = \"disk\"");
    assert_eq!(places(&parse(&no_disk).unwrap_err()), one("config.boot.profile.disk", 7, 11));
    for serial in ["", "x y", "ä", "a\\tb"] {
        let found = broken("serial = \"b\"", &format!("serial = \"{serial}\""));
        assert!(found[0].0.starts_with("config.disk.serial."), "{found:?}");
    }
    assert_eq!(broken("serial = \"b\"", "serial = \"disk0\""), one("config.disk.serial.duplicate", 14, 10));
    let many = format!("{GOOD}{}", "[[disk]]\npath = \"x\"\n".repeat(23));
    assert_eq!(parse(&many).unwrap_err().problems()[0].code, "config.disk.count");
}

#[test]
fn an_snp_guest_has_a_policy() {
    let snp = GOOD.replace("\"none\"", "\"snp\"");
    let config = parse(&snp).unwrap();
    assert_eq!(config.isolation, Isolation::Snp);
    assert_eq!((config.snp.policy, config.snp.host_data, config.snp.vlek_only), (0x3_0000, [0; 32], false));
    let with = |line: &str| parse(&format!("{snp}[snp]\n{line}\n"));
    let data = "0123456789abcdefABCDEF0123456789abcdef0123456789abcdef0123456789";
    let config = with(&format!("policy = 0x130000\nhost_data = \"{data}\"\nvlek_only = true")).unwrap();
    assert_eq!((config.snp.policy, config.snp.vlek_only), (0x13_0000, true));
    assert_eq!(config.snp.host_data[..4], [0x01, 0x23, 0x45, 0x67]);
    for (line, code) in [
        ("policy = 0x10000", "config.snp.policy.value"),
        ("policy = 0x4020000", "config.snp.policy.value"),
        ("policy = -1", "config.snp.policy.range"),
        ("host_data = \"00\"", "config.snp.host_data.format"),
        (&format!("host_data = \"+1{}\"", &data[2..]), "config.snp.host_data.format"),
        ("id_block = \"x\"", "config.snp.id_block.missing"),
        ("id_auth = \"x\"", "config.snp.id_auth.missing"),
        ("cpuid_corrections = \"all\"", "config.snp.cpuid_corrections.value"),
    ] {
        let error = with(line).unwrap_err();
        assert_eq!(error.problems()[0].code, code, "{line}");
    }
    // What an snp guest demands says nothing about another one.
    let error = parse(&format!("{GOOD}[snp]\n")).unwrap_err();
    assert_eq!(error.problems()[0].code, "config.snp.isolation");
}

#[test]
fn a_gate_is_for_snp_guests_and_makes_their_terms() {
    const GATE: &str = "[gate]\nsocket = \"s\"\nverdict_key = \"k.pem\"\npolicy = \"p\"\n";
    let snp = GOOD.replace("\"none\"", "\"snp\"");
    let gate = parse(&format!("{snp}{GATE}")).unwrap().gate.unwrap();
    assert_eq!((gate.vm_id.as_str(), gate.timeout), ("web-1", 5));
    assert!(matches!(gate.endpoint, GateEndpoint::Unix { socket } if socket.is_absolute()));
    let data = "0".repeat(64);
    for (text, code) in [
        (format!("{GOOD}{GATE}"), "config.gate.isolation"),
        (format!("{snp}[gate]\nverdict_key = \"k\"\npolicy = \"p\"\n"), "config.gate.socket.missing"),
        (format!("{snp}[gate]\nsocket = \"s\"\npolicy = \"p\"\n"), "config.gate.verdict_key.missing"),
        (format!("{snp}[gate]\nsocket = \"s\"\nverdict_key = \"k\"\n"), "config.gate.policy.missing"),
        (format!("{snp}{}", GATE.replace("\"p\"", "\"../p\"")), "config.gate.policy.format"),
        (format!("{snp}{GATE}vm_id = \"\"\n"), "config.gate.vm_id.format"),
        (format!("{snp}{GATE}timeout = 0\n"), "config.gate.timeout.range"),
        (format!("{snp}{GATE}[snp]\nhost_data = \"{data}\"\n"), "config.snp.host_data.gate"),
        (format!("{snp}{GATE}[snp]\nid_block = \"b\"\nid_auth = \"a\"\n"), "config.snp.id_block.gate"),
    ] {
        let error = parse(&text).unwrap_err();
        assert_eq!(error.problems()[0].code, code, "{text}");
    }
}

#[test]
fn a_gate_is_at_a_socket_or_at_a_url() {
    const TLS: &str = "ca = \"ca\"\nclient_certificate = \"c\"\nclient_key = \"k\"\n";
    let snp = GOOD.replace("\"none\"", "\"snp\"");
    let gate = |keys: &str| parse(&format!("{snp}[gate]\nverdict_key = \"v\"\npolicy = \"p\"\n{keys}"));
    for (url, host, port) in [
        ("tls://gate.example:9443", "gate.example", 9443),
        ("tls://localhost:1", "localhost", 1),
        ("tls://10.0.0.1:65535", "10.0.0.1", 65535),
        ("tls://[::1]:9443", "::1", 9443),
    ] {
        let config = gate(&format!("url = \"{url}\"\n{TLS}")).unwrap();
        let GateEndpoint::Tls { host: found, port: at, ca, client_certificate, client_key } =
            config.gate.unwrap().endpoint
        else {
            panic!("{url} is a socket");
        };
        assert_eq!((found.as_str(), at), (host, port));
        assert!([ca, client_certificate, client_key].iter().all(|path| path.is_absolute()));
    }
    let long = "a".repeat(64);
    for url in [
        "",
        "tls://",
        "tls://gate",
        "tls://gate:",
        "tls://:9443",
        "tls://gate:0",
        "tls://gate:65536",
        "tls://gate:+1",
        "tls://gate:9443/",
        "https://gate:9443",
        "gate:9443",
        "tls://::1:9443",
        "tls://[gate]:9443",
        "tls://[::1:9443",
        "tls://user@gate:9443",
        "tls://10.0.0:9443",
        "tls://gate..example:9443",
        "tls://ga te:9443",
        &format!("tls://{long}:9443"),
    ] {
        let error = gate(&format!("url = \"{url}\"\n{TLS}")).unwrap_err();
        assert_eq!(error.problems()[0].code, "config.gate.url.format", "{url}");
    }
    let url = "url = \"tls://gate:9443\"\n";
    for (keys, code) in [
        (String::new(), "config.gate.socket.missing"),
        (format!("socket = \"s\"\n{url}{TLS}"), "config.gate.url.socket"),
        (format!("socket = \"s\"\n{TLS}"), "config.gate.ca.url"),
        ("socket = \"s\"\nclient_key = \"k\"\n".to_owned(), "config.gate.client_key.url"),
        (url.to_owned(), "config.gate.ca.missing"),
        (format!("{url}ca = \"ca\"\nclient_certificate = \"c\"\n"), "config.gate.client_key.missing"),
        (format!("{url}ca = \"ca\"\nclient_key = \"k\"\n"), "config.gate.client_certificate.missing"),
    ] {
        assert_eq!(gate(&keys).unwrap_err().problems()[0].code, code, "{keys}");
    }
}

/// A guest that boots from a disk by the built-in firmware, with more text.
fn disk_guest(boot: &str, more: &str) -> Result<Config, ConfigError> {
    parse(&format!(
        "name = \"d\"\nmemory = \"1GiB\"\nisolation = \"none\"\n[boot]\nprofile = \"disk\"\n{boot}\n[[disk]]\npath = \"d\"\n{more}"
    ))
}

#[test]
fn the_firmware_is_built_in_unless_a_file_is_named() {
    assert_eq!(disk_guest("", "").unwrap().firmware, FirmwareSource::Builtin);
    let named = |name: &str| parse(&GOOD.replace("\"OVMF.fd\"", name));
    assert_eq!(named("\"./builtin\"").unwrap().firmware, FirmwareSource::File("/base/./builtin".into()));
    // It starts no kernel by its hashes.
    assert_eq!(places(&named("\"builtin\"").unwrap_err()), one("config.firmware.profile", 5, 12));
    assert_eq!(
        broken("firmware = \"OVMF.fd\"", "").first().map(|place| place.0.as_str()),
        Some("config.firmware.profile")
    );
    assert_eq!(places(&named("\"\"").unwrap_err()), one("config.firmware.path", 5, 12));
}

#[test]
fn secure_boot_names_files_and_presets() {
    let table = |text: &str| disk_guest("", &format!("[secure_boot]\n{text}"));
    let keys = table("pk = \"o.crt\"\ndb = [\"microsoft\", \"o.crt\"]").unwrap().secure_boot.unwrap();
    assert_eq!(keys.pk, Path::new("/base/o.crt"));
    assert_eq!(keys.db, [KeySource::Microsoft, KeySource::File("/base/o.crt".into())]);
    assert!(keys.kek.is_empty() && keys.dbx.is_empty());
    let code = |text: &str| {
        let error = table(text).unwrap_err();
        error.problems().iter().map(|problem| problem.code.clone()).collect::<Vec<_>>()
    };
    assert_eq!(code(""), ["config.secure_boot.db.missing", "config.secure_boot.pk.missing"]);
    assert_eq!(code("pk = \"o\"\ndb = []"), ["config.secure_boot.db.value"]);
    assert_eq!(code("pk = \"microsoft\"\ndb = [\"o\"]"), ["config.secure_boot.pk.value"]);
    assert_eq!(code("pk = \"o\"\ndb = [\"o\"]\ndbx = [\"microsoft\"]"), ["config.secure_boot.dbx.value"]);
    assert_eq!(code("pk = \"o\"\ndb = [\"\"]"), ["config.secure_boot.db.path"]);
    let many = format!("pk = \"o\"\ndb = [\"o\"]\nkek = [{}]", "\"o\", ".repeat(65));
    assert_eq!(code(&many), ["config.secure_boot.kek.length"]);
    let hashes = format!("{GOOD}[secure_boot]\npk = \"o\"\ndb = [\"o\"]\n");
    assert_eq!(parse(&hashes).unwrap_err().problems()[0].code, "config.secure_boot.profile");
}

#[test]
fn a_loader_is_a_path_on_fat() {
    let Boot::Disk { loader } = disk_guest("loader = '\\EFI\\debian\\grubx64.efi'", "").unwrap().boot else {
        panic!()
    };
    assert_eq!(loader.as_deref(), Some("\\EFI\\debian\\grubx64.efi"));
    for wrong in ["", "/EFI/a.efi", "\\", "\\EFI\\é.efi"] {
        let error = disk_guest(&format!("loader = '{wrong}'"), "").unwrap_err();
        assert_eq!(error.problems()[0].code, "config.boot.loader.format", "{wrong}");
    }
    assert_eq!(broken("cmdline = \"quiet\"", "loader = '\\a'"), one("config.boot.loader.profile", 9, 10));
}

#[test]
fn paths_are_checked_where_they_stand() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("vm.toml"), GOOD.replace("/abs/", "")).unwrap();
    let codes = || match Config::load(&at("vm.toml")) {
        Ok(_) => Vec::new(),
        Err(error) => error
            .problems()
            .iter()
            .map(|problem| format!("{} {}", problem.code, problem.key))
            .collect::<Vec<_>>(),
    };
    assert_eq!(
        codes(),
        [
            "config.firmware.unreadable firmware",
            "config.boot.kernel.unreadable boot.kernel",
            "config.disk.path.unreadable disk[0].path",
            "config.disk.path.unreadable disk[1].path"
        ]
    );
    fs::write(at("OVMF.fd"), "").unwrap();
    fs::create_dir(at("vmlinuz")).unwrap();
    fs::write(at("a.img"), [0; 511]).unwrap();
    fs::write(at("b.img"), "").unwrap();
    assert_eq!(
        codes(),
        [
            "config.firmware.empty firmware",
            "config.boot.kernel.kind boot.kernel",
            "config.disk.path.alignment disk[0].path",
            "config.disk.path.empty disk[1].path"
        ]
    );
    fs::write(at("OVMF.fd"), "x").unwrap();
    fs::remove_dir(at("vmlinuz")).unwrap();
    fs::write(at("vmlinuz"), "x").unwrap();
    fs::write(at("a.img"), [0; 512]).unwrap();
    fs::remove_file(at("b.img")).unwrap();
    fs::hard_link(at("a.img"), at("b.img")).unwrap();
    assert_eq!(codes(), ["config.disk.path.duplicate disk[1].path"]);
    fs::remove_file(at("b.img")).unwrap();
    fs::write(at("b.img"), [0; 1024]).unwrap();
    assert_eq!(codes(), [""; 0]);
    // A sparse kernel larger than the guest.
    fs::File::options().write(true).open(at("vmlinuz")).unwrap().set_len(2 << 30).unwrap();
    assert_eq!(codes(), ["config.boot.kernel.memory boot.kernel"]);
    // A UKI has to fit below 4 GiB, which is not what `memory` says.
    let uki = "profile = \"uki\"\nuki = \"vmlinuz\"";
    let text = GOOD.replace("profile = \"hashes\"\nkernel = \"vmlinuz\"\ncmdline = \"quiet\"", uki);
    fs::write(at("vm.toml"), text.replace("/abs/", "")).unwrap();
    let error = Config::load(&at("vm.toml")).unwrap_err();
    assert_eq!(error.problems()[0].code, "config.boot.uki.memory");
    assert!(error.problems()[0].help.as_deref().unwrap().contains("low_memory = \"2080MiB\""), "{error}");
    fs::write(at("vm.toml"), GOOD.replace("/abs/", "")).unwrap();
    // Opening a pipe would block: it must be refused unopened.
    fs::remove_file(at("vmlinuz")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(at("vmlinuz")).status().unwrap();
    assert!(made.success());
    assert_eq!(codes(), ["config.boot.kernel.kind boot.kernel"]);
}

#[test]
fn the_file_itself_must_be_usable() {
    let folder = tempfile::tempdir().unwrap();
    let code = |path: &Path| Config::load(path).unwrap_err().problems()[0].code.clone();
    assert_eq!(code(&folder.path().join("absent")), "config.file");
    assert_eq!(code(folder.path()), "config.file");
    let path = folder.path().join("vm.toml");
    fs::write(&path, [b'#', 0xff]).unwrap();
    assert_eq!(code(&path), "config.encoding");
    fs::write(&path, vec![b'#'; (256 << 10) + 1]).unwrap();
    assert_eq!(code(&path), "config.size");
    fs::write(&path, "").unwrap();
    let error = Config::load(&path).unwrap_err();
    assert_eq!(error.problems().len(), 4, "{error}");
}

#[test]
fn more_memory_than_the_host_has_is_refused() {
    let config = parse(GOOD).unwrap();
    assert!(host::check(&config, Some(1 << 30)).is_empty());
    let problems = host::check(&config, Some((1 << 30) - 1));
    assert_eq!(problems[0].code, "config.memory.host");
    assert_eq!(problems[0].allowed.as_deref(), Some("at most 1023 MiB, the memory of this host"));
}

#[test]
fn a_tpm_is_asked_for_and_by_mode() {
    let vtpm = |keys: &str| parse(&format!("{GOOD}[vtpm]\n{keys}")).map(|config| config.vtpm);
    assert_eq!(parse(GOOD).unwrap().vtpm, None);
    assert_eq!(vtpm("mode = \"none\"\n").unwrap(), None);
    let default = vtpm("mode = \"in-process\"\n").unwrap().unwrap();
    assert_eq!(default.sandbox, Sandbox::Thread);
    assert_eq!(default.pcr_banks, [PcrBank::Sha256, PcrBank::Sha384]);
    assert!(default.coalesced_mmio && default.shared_buffer);
    let all = "mode = \"in-process\"\nsandbox = \"process\"\npcr_banks = [\"sha512\", \"sha1\"]\n\
               coalesced_mmio = false\nshared_buffer = false\n";
    let all = vtpm(all).unwrap().unwrap();
    assert_eq!((all.sandbox, all.coalesced_mmio, all.shared_buffer), (Sandbox::Process, false, false));
    assert_eq!(all.pcr_banks, [PcrBank::Sha1, PcrBank::Sha512]);

    let code = |keys: &str| {
        let error = vtpm(keys).unwrap_err();
        error.problems().iter().map(|problem| problem.code.clone()).collect::<Vec<_>>()
    };
    for (keys, expected) in [
        ("", "config.vtpm.mode.missing"),
        ("mode = \"svsm\"\n", "config.vtpm.mode.value"),
        ("mode = \"in-process\"\nstate = \"a.vmgs\"\n", "config.vtpm.state.gate"),
        ("mode = \"in-process\"\npcr_banks = []\n", "config.vtpm.pcr_banks.value"),
        ("mode = \"in-process\"\npcr_banks = [\"sha1\", \"sha1\"]\n", "config.vtpm.pcr_banks.value"),
        ("mode = \"in-process\"\npcr_banks = [\"md5\"]\n", "config.vtpm.pcr_banks.value"),
        ("mode = \"in-process\"\nsandbox = \"jail\"\n", "config.vtpm.sandbox.value"),
        ("mode = \"none\"\nsandbox = \"thread\"\n", "config.vtpm.sandbox.mode"),
        ("mode = \"none\"\npcr_banks = [\"sha1\"]\n", "config.vtpm.pcr_banks.mode"),
        ("mode = \"none\"\nstate = \"x\"\n", "config.vtpm.state.mode"),
        ("mode = \"none\"\nshared_buffer = true\n", "config.vtpm.shared_buffer.mode"),
        ("mode = \"none\"\ncoalesced_mmio = true\n", "config.vtpm.coalesced_mmio.mode"),
    ] {
        assert_eq!(code(keys), [expected], "{keys}");
    }
}

#[test]
fn the_committed_schema_is_up_to_date() {
    let committed = include_str!("../../../docs/reference/vm.schema.json");
    // By meaning: which order keys have depends on what else is built with the program.
    let [committed, now]: [serde_json::Value; 2] =
        [committed, &schema()].map(|text| serde_json::from_str(text).unwrap());
    assert_eq!(committed, now, "run: cargo run -p cvmm -- config schema > docs/reference/vm.schema.json");
}

#[test]
fn the_schema_names_exactly_the_keys_of_the_parser() {
    let schema: serde_json::Value = serde_json::from_str(&schema()).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    let required: Vec<_> =
        schema["required"].as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
    let error = parse("").unwrap_err();
    // With an IGVM file it is not.
    let always = |key: &&str| *key != "firmware";
    let keys = error.problems().iter().map(|problem| problem.key.as_str());
    let missing: Vec<_> = keys.filter(always).collect();
    for key in &missing {
        assert!(required.contains(key), "{key} is required but the schema does not say so");
    }
    assert_eq!(required.len(), missing.len());
    let error = parse("nonsense = 1").unwrap_err();
    let unknown = error.problems().iter().find(|problem| problem.code == "config.unknown_key").unwrap();
    let mut known: Vec<_> = unknown.allowed.as_deref().unwrap().split(", ").collect();
    let mut listed: Vec<_> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
    known.sort_unstable();
    listed.sort_unstable();
    assert_eq!(known, listed);
}

#[test]
fn the_manual_has_every_key_in_its_table() {
    let manual = include_str!("../../../docs/reference/config.md");
    let keys = manual.split("## Keys").nth(1).unwrap().split("## Reason codes").next().unwrap();
    let section = |table: &str| {
        keys.split("\n### ").find(|section| match table {
            "" => section.starts_with('\n'),
            "disk" => section.starts_with("`[[disk]]`"),
            _ => section.starts_with(&format!("`[{table}]`")),
        })
    };
    for key in schema_keys() {
        let (table, name) = key.rsplit_once('.').unwrap_or(("", &key));
        let section = section(table).unwrap_or_else(|| panic!("no section for [{table}]"));
        let row = |line: &str| {
            line.starts_with('|')
                && line.split('|').nth(1).is_some_and(|cell| cell.contains(&format!("`{name}`")))
        };
        assert!(section.lines().any(row), "docs/reference/config.md lacks {key}");
    }
}

/// Every key of the schema, with dots (`disk.path`); tables themselves are left out.
pub(super) fn schema_keys() -> Vec<String> {
    fn walk(schema: &serde_json::Value, of: &serde_json::Value, prefix: &str, keys: &mut Vec<String>) {
        for (name, property) in of["properties"].as_object().unwrap() {
            let target =
                |value: &serde_json::Value| Some(value["$ref"].as_str()?.rsplit('/').next()?.to_owned());
            let target = target(property).or_else(|| target(&property["items"]));
            let target = target.map_or(property, |name| &schema["$defs"][name]);
            let path = format!("{prefix}{name}");
            match target.get("properties") {
                Some(_) => walk(schema, target, &format!("{path}."), keys),
                None => keys.push(path),
            }
        }
    }
    let schema: serde_json::Value = serde_json::from_str(&schema()).unwrap();
    let mut keys = Vec::new();
    walk(&schema, &schema, "", &mut keys);
    assert!(keys.len() > 40 && keys.iter().any(|key| key == "disk.serial"), "{keys:?}");
    keys
}

#[test]
fn a_table_that_is_written_wrong_says_how_to_write_it() {
    let help = |text: &str| {
        let error = parse(text).unwrap_err();
        let problem = error.problems().iter().find(|problem| problem.help.is_some()).cloned();
        let problem = problem.unwrap_or_else(|| panic!("{error}"));
        (problem.code, problem.help.unwrap())
    };
    let one_disk = GOOD.replacen("[[disk]]", "[disk]", 1);
    let one_disk = &one_disk[..one_disk.find("[[disk]]").unwrap()];
    let (code, text) = help(one_disk);
    assert_eq!(code, "config.disk.type");
    assert!(text.contains("[[disk]]"), "{text}");
    let (code, text) = help(&GOOD.replace("[boot]", "[[boot]]"));
    assert_eq!(code, "config.boot.type");
    assert!(text.contains("write [boot]"), "{text}");
    for net in ["[net]\nmode = \"tap\"\n", "[[net]]\n", "[network]\n"] {
        let (code, text) = help(&format!("{GOOD}{net}"));
        assert_eq!(code, "config.unknown_key");
        assert!(text.contains("no network device"), "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        if let Err(error) = parse(&text) {
            prop_assert!(!error.problems().is_empty());
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn no_mutation_of_a_good_file_panics(at in 0..GOOD.len(), with in "[\\[\\]={}\".,a-z0-9\\n-]{0,6}", cut in 0_usize..8) {
        // GOOD is ASCII: every index is a boundary.
        let end = (at + cut).min(GOOD.len());
        let text = format!("{}{with}{}", &GOOD[..at], &GOOD[end..]);
        if let Err(error) = parse(&text) {
            for problem in error.problems() {
                let location = problem.location.as_ref().unwrap();
                prop_assert!(location.line <= text.lines().count().max(1) + 1);
            }
        }
    }
}
