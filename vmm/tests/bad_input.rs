// SPDX-License-Identifier: Apache-2.0
//! What a person gets wrong: each case gives one error that says what, where, what is allowed or what to do,
//! and an exit code. Most need no KVM, because they are found before it is opened.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Ended, Lab, Vm};
use cvmm_test_support::suite;
use cvmm_test_support::suite::Missing;
use cvmm_test_support::{artefacts, needs, program};

/// Footer of an OVMF GUID table without entries: length 18, GUID 96b582de-1fb2-45f7-baea-a366c55a082d.
const TABLE: [u8; 18] =
    [18, 0, 0xde, 0x82, 0xb5, 0x96, 0xb2, 0x1f, 0xf7, 0x45, 0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d];

/// A firmware that names nothing and, when run, halts.
fn firmware() -> Vec<u8> {
    let mut image = vec![0_u8; 8192];
    let end = image.len();
    image[end - 50..end - 32].copy_from_slice(&TABLE);
    // cli; hlt; jump to the hlt
    image[end - 16..end - 12].copy_from_slice(&[0xfa, 0xf4, 0xeb, 0xfd]);
    image
}

/// A file with PE headers at `at` and the sections `names`, as far as cvmm looks.
fn pe(mut file: Vec<u8>, at: usize, names: &[&[u8; 8]]) -> Vec<u8> {
    let len = file.len() as u32;
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &(at as u32).to_le_bytes());
    put(at, b"PE\0\0\x64\x86");
    put(at + 6, &(names.len() as u16).to_le_bytes());
    put(at + 20, &0x70_u16.to_le_bytes());
    put(at + 24, &0x20b_u16.to_le_bytes());
    put(at + 24 + 68, &10_u16.to_le_bytes());
    for (index, name) in names.iter().enumerate() {
        let header = at + 24 + 0x70 + 40 * index;
        put(header, *name);
        put(header + 16, &(len / 2).to_le_bytes());
        put(header + 20, &(len / 2).to_le_bytes());
    }
    file
}

fn uki() -> Vec<u8> {
    cvmm_launch::samples::uki_of(8192)
}

/// A bzImage of boot protocol 2.15.
fn kernel() -> Vec<u8> {
    let mut file = pe(vec![0; 8192], 0x280, &[b".text\0\0\0"]);
    file[0x1f1] = 1;
    file[0x1fe..0x208].copy_from_slice(b"\x55\xaa\xeb\x6aHdrS\x0f\x02");
    file[0x236] = 1;
    file[0x238..0x23c].copy_from_slice(&2047_u32.to_le_bytes());
    file
}

fn lab() -> Lab {
    Lab::new(&firmware())
}

fn boot(tables: &str) -> Lab {
    let mut lab = lab();
    lab.tables = format!("[boot]\n{tables}\n");
    lab.memory = "256MiB";
    fs::write(lab.path("guest.efi"), uki()).unwrap();
    fs::write(lab.path("vmlinuz"), kernel()).unwrap();
    lab
}

/// Runs `lab` and checks that it ends with `code` and one error that has all of `parts`.
#[track_caller]
fn refused(name: &str, lab: Lab, code: i32, parts: &[&str]) {
    check(name, &lab.start().finish(), code, parts);
}

#[track_caller]
fn check(name: &str, ended: &Ended, code: i32, parts: &[&str]) {
    let text = &ended.stderr;
    assert_eq!(ended.code, Some(code), "{name}: {text}");
    let errors = text.lines().filter(|line| line.starts_with("error") || line.contains(" ERROR ")).count();
    assert_eq!(errors, 1, "{name}: one error, not more: {text}");
    for part in parts {
        assert!(text.contains(part), "{name}: {part:?} is not in: {text}");
    }
    assert!(!text.contains("RUST_BACKTRACE"), "{name}: {text}");
    assert!(ended.took < Duration::from_secs(10), "{name}: took {:?}", ended.took);
    assert_eq!(ended.stdout, "", "{name}");
}

/// `vm.toml` is: 1 name, 2 vcpus, 3 memory, 4 isolation, 5 firmware, 6 more, 7 [boot], 8 profile, 9 [[disk]],
/// 10 path.
fn numbers_out_of_range() {
    for (vcpus, shown) in [(0, "vcpus is 0"), (10_000, "vcpus is 10000"), (65, "vcpus is 65")] {
        let parts = ["error[config.vcpus.range]", shown, "vm.toml:2:", "allowed: 1 to 64"];
        refused(shown, lab().vcpus(vcpus), 2, &parts);
    }
    for (memory, parts) in [
        ("0MiB", &["error[config.memory.range]", "64 MiB to 1 TiB"][..]),
        ("63MiB", &["error[config.memory.range]", "63 MiB", "64 MiB to 1 TiB"]),
        ("64MiB", &["error[config.memory.profile]", "profile disk", "at least 96 MiB"]),
        ("2TiB", &["error[config.memory.range]", "2 TiB", "64 MiB to 1 TiB"]),
        ("many", &["error[config.memory.format]", "allowed:"]),
        ("-1", &["error[config.memory", "allowed:"]),
        ("99999999999999999999GiB", &["error[config.memory", "allowed:"]),
    ] {
        let mut lab = lab();
        lab.memory = memory;
        refused(memory, lab, 2, &[parts, &["vm.toml:3:10"]].concat());
    }
    // More than this host has, whatever it has.
    if total_memory() < 1 << 40 {
        let mut lab = lab();
        lab.memory = "1TiB";
        refused(
            "1TiB",
            lab,
            2,
            &["error[config.memory.host]", "1 TiB", "allowed: at most", "of this host", "vm.toml:3:"],
        );
    }
}

fn keys_and_words() {
    let top = |text: &str| {
        let mut lab = lab();
        lab.top = text.to_owned();
        lab
    };
    refused(
        "an unknown key",
        top("memmory = 1"),
        2,
        &["error[config.unknown_key]", "`memmory`", "allowed: name, vcpus, memory", "vm.toml:6:1", "memory"],
    );
    refused("a key given twice", top("vcpus = 2"), 2, &["syntax", "duplicate", "vm.toml:6:1"]);
    refused("no toml", top("vcpus 2"), 2, &["syntax", "vm.toml:6:"]);
    refused("a wrong type", top("rng = \"yes\""), 2, &["config.rng", "vm.toml:6:7"]);
    refused("an unknown table", lab().table("[network]\nkind = \"tap\"\n"), 2, &["network", "vm.toml:11:"]);
    refused(
        "an unknown profile",
        boot("profile = \"grub\""),
        2,
        &["config.boot.profile", "\"grub\"", "uki", "vm.toml:8:11"],
    );
    refused(
        "a profile's key missing",
        boot("profile = \"uki\""),
        2,
        &["config.boot.uki.missing", "allowed:", "vm.toml:7:"],
    );
    let serials = "serial = \"a\"\n[[disk]]\npath = \"other.img\"\nserial = \"a\"\n";
    let lab = lab().table(serials);
    fs::write(lab.path("other.img"), [0; 512]).unwrap();
    refused(
        "one serial twice",
        lab,
        2,
        &["config.disk.serial.duplicate", "\"a\"", "disk[0]", "vm.toml:14:", "help:"],
    );
}

fn all_problems_of_a_file_are_told_at_once() {
    let mut lab = lab().vcpus(0);
    lab.memory = "1MiB";
    lab.top = "nonsense = 1".to_owned();
    let ended = lab.start().finish();
    assert_eq!(ended.code, Some(2));
    for line in ["vm.toml:2:", "vm.toml:3:", "vm.toml:6:"] {
        assert!(ended.stderr.contains(line), "{}", ended.stderr);
    }
}

fn the_configuration_file_itself() {
    let folder = tempfile::tempdir().unwrap();
    let garbage = folder.path().join("garbage.toml");
    fs::write(&garbage, [0xff, 0x00, 0x80, b'\n'].repeat(1000)).unwrap();
    for (path, part) in [
        (folder.path().join("none.toml"), "No such file"),
        (folder.path().to_path_buf(), "directory"),
        (garbage, "UTF-8"),
        // Endless.
        (PathBuf::from("/dev/zero"), "/dev/zero"),
    ] {
        let name = path.display().to_string();
        let mut command = common::run(&path, &[]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        check(&name, &Vm::spawn(command, lab()).finish(), 2, &[part, &name]);
    }
}

fn nesting_without_end() {
    let mut lab = lab();
    lab.top = format!("a = {}", "[".repeat(100_000));
    let ended = lab.start().finish();
    assert_eq!(ended.code, Some(2));
    assert!(
        ended.stderr.contains("recursion depth") && ended.stderr.contains("vm.toml:6:"),
        "{}",
        ended.stderr
    );
    assert_eq!(ended.stderr.matches("unclosed array").count(), 1, "each finding once: {}", ended.stderr);
    assert!(ended.stderr.len() < 4096, "lines are cut: {}", ended.stderr);
}

fn firmware_that_is_none() {
    let with = |bytes: &[u8]| Lab::new(bytes);
    let place = "vm.toml:5:12";
    let missing = lab();
    fs::remove_file(missing.path("fw.fd")).unwrap();
    refused("missing", missing, 2, &["error[config.firmware.unreadable]", "fw.fd", "No such file", place]);
    refused("empty", with(&[]), 2, &["error[config.firmware.empty]", "fw.fd", "is empty", place]);
    let folder = lab();
    fs::remove_file(folder.path("fw.fd")).unwrap();
    fs::create_dir(folder.path("fw.fd")).unwrap();
    refused("a folder", folder, 2, &["error[config.firmware.kind]", "a directory", "a regular file", place]);

    refused("odd", with(&firmware()[..8000]), 4, &["fw.fd", "8000 bytes", "multiple of 4 KiB", "truncated"]);
    refused("half", with(&firmware()[..4096]), 4, &["fw.fd", "no OVMF GUID table", "0xfd0", "truncated"]);
    refused("huge", with(&vec![0; 17 << 20]), 4, &["fw.fd", "at most 16 MiB"]);
    // Every damage to the table is one error or none, never anything else.
    for at in 1..=2 {
        let mut image = firmware();
        let place = image.len() - 50 + at - 1;
        image[place] = 0xff;
        refused("a damaged table", with(&image), 4, &["fw.fd", "GUID table"]);
    }
}

fn firmware_that_does_not_fit_the_profile() {
    let uki = boot("profile = \"uki\"\nuki = \"guest.efi\"");
    let hashes = boot("profile = \"hashes\"\nkernel = \"vmlinuz\"");
    for (name, lab) in [("uki", uki), ("hashes", hashes)] {
        let profile = format!("boot profile \"{name}\"");
        refused(name, lab, 4, &["fw.fd", &profile, "GUID", "use OVMF.amdsev.fd"]);
    }
}

fn kernels_that_are_none() {
    for (name, bytes, part) in [
        ("text", b"not a kernel\n".repeat(1000), "of unknown format; expected a Linux bzImage"),
        ("short", b"MZ".to_vec(), "2 bytes long"),
        ("elf", [b"\x7fELF".to_vec(), vec![0; 5000]].concat(), "an ELF file"),
        ("initrd", [b"\x1f\x8b".to_vec(), vec![0; 5000]].concat(), "a compressed file"),
        ("truncated", [b"MZ".to_vec(), vec![0xff; 5000]].concat(), ""),
    ] {
        for tables in ["profile = \"uki\"\nuki = \"image\"", "profile = \"hashes\"\nkernel = \"image\""] {
            let lab = boot(tables);
            fs::write(lab.path("image"), &bytes).unwrap();
            refused(name, lab, 4, &["image", part]);
        }
    }
    let lab = boot("profile = \"uki\"\nuki = \"nowhere\"");
    refused(
        "missing",
        lab,
        2,
        &["error[config.boot.uki.unreadable]", "nowhere", "No such file", "vm.toml:9:7"],
    );
}

fn disks_that_are_none() {
    let with = |bytes: &[u8]| {
        let lab = lab();
        fs::write(lab.path("disk.img"), bytes).unwrap();
        lab
    };
    let place = "vm.toml:10:8";
    refused("empty", with(&[]), 2, &["error[config.disk.path.empty]", "disk.img is empty", place]);
    let parts =
        ["error[config.disk.path.alignment]", "1000 bytes", "multiple of 512", "truncate -s 1024", place];
    refused("unaligned", with(&[0; 1000]), 2, &parts);
    let gone = lab();
    fs::remove_file(gone.path("disk.img")).unwrap();
    refused("missing", gone, 2, &["error[config.disk.path.unreadable]", "disk.img", "No such file", place]);
    let folder = lab();
    fs::remove_file(folder.path("disk.img")).unwrap();
    fs::create_dir(folder.path("disk.img")).unwrap();
    refused(
        "a folder",
        folder,
        2,
        &["error[config.disk.path.kind]", "a directory", "a raw image file or a block device", place],
    );
    let twice = lab().table("[[disk]]\npath = \"./disk.img\"\n");
    refused("one disk twice", twice, 2, &["error[config.disk.path.duplicate]", "disk[0]", "vm.toml:12:8"]);
    let device = lab().table("[[disk]]\npath = \"/dev/zero\"\n");
    refused(
        "a character device",
        device,
        2,
        &["error[config.disk.path.kind]", "a character device", "vm.toml:12:8"],
    );
}

fn a_disk_serves_one_vm() -> suite::Result {
    needs::kvm()?;
    let first = lab();
    let disk = first.path("disk.img");
    let mut first = first.argument("--grace=0").start();
    let second = || {
        let mut lab = lab();
        lab.tables = lab.tables.replace("disk.img", &disk.display().to_string());
        lab
    };
    // The disk is taken before there are processors.
    first.wait_for("a processor", |vm| vm.has_thread("vcpu0"));
    let disk_name = disk.display().to_string();
    refused("a disk in use", second(), 5, &["disk0", &disk_name, "in use by another VM", "read-only"]);
    first.signal(libc::SIGTERM);
    assert_eq!(first.finish().code, Some(12));
    Ok(())
}

fn a_console_file_that_cannot_be() {
    let lab = || lab().table("[console]\nmode = \"file\"\n");
    refused("no path", lab(), 2, &["error[config.console.path.missing]", "vm.toml:11:"]);
    let nowhere = lab().table("path = \"nowhere/log\"\n");
    refused(
        "no folder",
        nowhere,
        2,
        &["error[config.console.path.unwritable]", "nowhere/log", "vm.toml:13:"],
    );
}

fn total_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find(|line| line.starts_with("MemTotal:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// `lab` in a process that may have 2 GiB of addresses, far less than its guest's memory.
fn limited(lab: Lab) -> Ended {
    let inner = lab.command();
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg("ulimit -v 2097152; exec \"$0\" \"$@\"")
        .arg(inner.get_program())
        .args(inner.get_args());
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped());
    Vm::spawn(command, lab).finish()
}

fn much_memory(mut lab: Lab) -> Lab {
    let gib = total_memory() >> 30;
    lab.memory = match gib {
        32.. => "24GiB",
        16.. => "12GiB",
        _ => "3GiB",
    };
    lab
}

fn half_of_a_real_firmware_is_refused() -> suite::Result {
    let image = fs::read(artefacts::amdsev_firmware()?).unwrap();
    refused("half of a real one", Lab::new(&image[..image.len() / 2]), 4, &["no OVMF GUID table"]);
    Ok(())
}

fn wrong_files_are_found_before_memory_is_taken() -> suite::Result {
    needs::require(total_memory() >= 4 << 30, "needs 4 GiB of memory")?;
    let lab = boot("profile = \"uki\"\nuki = \"image\"");
    fs::write(lab.path("image"), b"no kernel".repeat(1000)).unwrap();
    check("a wrong kernel", &limited(much_memory(lab)), 4, &["of unknown format"]);
    check("a wrong firmware", &limited(much_memory(Lab::new(&[0; 4096]))), 4, &["no OVMF GUID table"]);
    Ok(())
}

/// The limit works: with nothing wrong but the memory, the error is about memory.
fn too_little_memory_is_reported() -> suite::Result {
    needs::kvm()?;
    check("no memory", &limited(much_memory(lab())), 3, &["cannot reserve", "lower memory"]);
    Ok(())
}

/// As a user without rights; only root can become one.
fn no_permission_for_kvm() -> suite::Result {
    let private =
        |path: &str| fs::metadata(path).is_ok_and(|data| data.permissions().mode() & 0o006 != 0o006);
    needs::kvm()?;
    needs::require(private("/dev/kvm"), "needs a /dev/kvm that is not open to all users")?;
    let lab = lab();
    let copy = lab.path("cvmm");
    program::copy(env!("CARGO_BIN_EXE_cvmm"), &copy);
    for name in ["fw.fd", "disk.img"] {
        fs::set_permissions(lab.path(name), fs::Permissions::from_mode(0o666)).unwrap();
    }
    fs::set_permissions(lab.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let inner = lab.command();
    let mut command = Command::new(copy);
    command.args(inner.get_args()).uid(65534).gid(65534).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A first try, because only root may change the user, and a temporary folder may forbid to run programs.
    match command.status() {
        Ok(_) => {
            let parts = ["no permission to open /dev/kvm", "add this user to the group"];
            check("as an unprivileged user", &Vm::spawn(command, lab).finish(), 3, &parts);
        }
        Err(error) => return Err(Missing::new(format_args!("needs to run as another user: {error}"))),
    }
    Ok(())
}

fn programs_get_the_same_as_fields() {
    let ended = lab().vcpus(10_000).argument("--log-format=json").start().finish();
    assert_eq!(ended.code, Some(2));
    let lines: Vec<&str> = ended.stderr.lines().collect();
    let [line] = lines[..] else { panic!("one line: {}", ended.stderr) };
    let event: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(event["code"], "config.vcpus.range");
    assert_eq!((&event["key"], &event["line"]), (&"vcpus".into(), &2.into()));
    assert_eq!(event["allowed"], "1 to 64");
}

suite!(
    numbers_out_of_range,
    keys_and_words,
    all_problems_of_a_file_are_told_at_once,
    the_configuration_file_itself,
    nesting_without_end,
    firmware_that_is_none,
    firmware_that_does_not_fit_the_profile,
    kernels_that_are_none,
    disks_that_are_none,
    a_disk_serves_one_vm,
    a_console_file_that_cannot_be,
    half_of_a_real_firmware_is_refused,
    wrong_files_are_found_before_memory_is_taken,
    too_little_memory_is_reported,
    no_permission_for_kvm,
    programs_get_the_same_as_fields,
);
