// SPDX-License-Identifier: Apache-2.0
//! `cvmm measure` as a person or a script uses it: the program's output, files and exit codes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cvmm_igvm::Machine;
use cvmm_launch::blob::Blob;
use cvmm_launch::digest::measure;
use cvmm_launch::id_block::{IdError, Identity};
use cvmm_launch::memory::MemoryLayout;
use cvmm_launch::samples;
use cvmm_launch::vmsa::VcpuModel;
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::features::SevFeatures;
use cvmm_snp::policy::GuestPolicy;
use cvmm_test_support::{artefacts, suite};
use serde_json::Value;
use tempfile::TempDir;

const MILAN: [&str; 2] = ["--vcpu-type", "EPYC-Milan"];
/// `sev-snp-measure --mode snp --ovmf fw.fd --vcpus 1 --vcpu-type EPYC-Milan --kernel bzimage`, version
/// 0.0.13.
const KERNEL_DIGEST: &str =
    "f7d78d662c1519fcadc059867a4f62193df236012ea563959e9aa3f3220eb24765caaf291cb40016d61c523893b42286";
/// The same with `--vcpus 3 --initrd initrd --append "quiet splash"`.
const INITRD_DIGEST: &str =
    "0a239526f9393649faa963805208308eb0e71021cd84e5826dd2bbe64b6d768dde0dc01feace38f626835130924adcce";

/// GUIDs as they stand in memory.
const SEV: [u8; 16] =
    [0x66, 0x65, 0x88, 0xdc, 0x4a, 0x98, 0x98, 0x47, 0xa7, 0x5e, 0x55, 0x85, 0xa7, 0xbf, 0x67, 0xcc];
const IGVM: [u8; 16] =
    [0x0e, 0xa7, 0x4f, 0x78, 0x76, 0x31, 0x77, 0x46, 0x8a, 0x20, 0x04, 0xb6, 0x86, 0x99, 0xe3, 0x74];
const HASHES: [u8; 16] =
    [0x1f, 0x37, 0x55, 0x72, 0x3b, 0x3a, 0x04, 0x4b, 0x92, 0x7b, 0x1d, 0xa6, 0xef, 0xa8, 0xd4, 0x54];
const SECRET: [u8; 16] =
    [0x61, 0xb3, 0x2e, 0x4c, 0x9b, 0x7d, 0xc3, 0x4c, 0x80, 0x81, 0x12, 0x7c, 0x90, 0xd3, 0xd2, 0x94];
const RESET: [u8; 16] =
    [0xde, 0x71, 0xf7, 0x00, 0x7e, 0x1a, 0xcb, 0x4f, 0x89, 0x0e, 0x68, 0xc7, 0x7e, 0x2f, 0xb4, 0x4e];
const FOOTER: [u8; 16] =
    [0xde, 0x82, 0xb5, 0x96, 0xb2, 0x1f, 0xf7, 0x45, 0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d];

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// An image with the metadata of the AmdSev build, in 8 KiB.
fn firmware() -> Vec<u8> {
    let sev = [
        words(&[u32::from_le_bytes(*b"ASEV"), 16 + 12 * 7, 1, 7]),
        words(&[0x80_0000, 0x9000, 1, 0x80_a000, 0x3000, 1, 0x80_d000, 0x1000, 2, 0x80_e000, 0x1000, 3]),
        words(&[0x80_f000, 0x1000, 4, 0x81_1000, 0x1_f000, 1, 0x81_0000, 0x1000, 0x10]),
    ]
    .concat();
    let igvm = [
        words(&[u32::from_le_bytes(*b"IGVM"), 16 + 12 * 4, 1, 4]),
        words(&[0x81_2000, 0x1000, 0x100, 0, 0xc0, 0x101, 0xc0, 0x10, 0x102, 0x81_3000, 0x1000, 0x200]),
    ]
    .concat();
    let entries = [
        (HASHES, words(&[0x81_0c00, 0x400])),
        (SECRET, words(&[0x81_0000, 0xc00])),
        (RESET, words(&[0x80_b004])),
        (SEV, words(&[8192 - 256])),
        (IGVM, words(&[8192 - 256 - sev.len() as u32])),
    ];
    let mut table = Vec::new();
    for (guid, data) in entries {
        table.extend(&data);
        table.extend((data.len() as u16 + 18).to_le_bytes());
        table.extend(guid);
    }
    table.extend((table.len() as u16 + 18).to_le_bytes());
    table.extend(FOOTER);
    let mut image = vec![0xff; 8192];
    image[256..256 + sev.len()].copy_from_slice(&sev);
    image[256 + sev.len()..256 + sev.len() + igvm.len()].copy_from_slice(&igvm);
    image[8192 - 32 - table.len()..8192 - 32].copy_from_slice(&table);
    image
}

fn uki() -> Vec<u8> {
    samples::uki_of(50_000)
}

/// A folder with files of a guest.
struct Lab(TempDir);

impl Lab {
    fn new() -> Self {
        let lab = Self(TempDir::new().unwrap());
        lab.write("fw.fd", &firmware());
        lab.write("bzimage", &samples::bzimage(8192));
        lab.write("guest.efi", &uki());
        lab.write("initrd", b"initrd");
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// A `vm.toml` of profile `uki`.
    fn toml(&self, name: &str, vcpus: u32, memory: &str, uki: &str) {
        let text = format!(
            "name = \"x\"\nvcpus = {vcpus}\nmemory = \"{memory}\"\nisolation = \"snp\"\nfirmware = \"fw.fd\"\n\
             [boot]\nprofile = \"uki\"\nuki = \"{uki}\"\n"
        );
        self.write(name, text.as_bytes());
    }

    fn measure(&self, words: &[&str]) -> Ended {
        self.run(&[&["measure"], words].concat())
    }

    fn run(&self, words: &[&str]) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cvmm"));
        command.env_remove("CVMM_LOG").current_dir(self.0.path()).args(words);
        Ended(command.output().unwrap(), words.join(" "))
    }

    /// Options of the small guest, `more`, and a Milan.
    fn guest(&self, more: &[&str]) -> Ended {
        self.measure(&[&["--ovmf", "fw.fd"], &MILAN[..], more].concat())
    }
}

struct Ended(Output, String);

impl Ended {
    /// Standard output of a success.
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.0.status.code(), Some(0), "{}: {}", self.1, String::from_utf8_lossy(&self.0.stderr));
        String::from_utf8(self.0.stdout).unwrap()
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// Both outputs of an end with `code`.
    #[track_caller]
    fn code(self, code: i32) -> String {
        let text = [self.0.stdout, self.0.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(self.0.status.code(), Some(code), "{}: {text}", self.1);
        text
    }
}

fn digests_are_those_of_the_tool_whose_options_it_takes() {
    let lab = Lab::new();
    let line = |digest: &str| format!("{digest}\n");
    assert_eq!(lab.guest(&["--vcpus", "1", "--kernel", "bzimage"]).ok(), line(KERNEL_DIGEST));
    let more = ["--vcpus", "3", "--kernel", "bzimage", "--initrd", "initrd", "--append", "quiet splash"];
    assert_eq!(lab.guest(&more).ok(), line(INITRD_DIGEST));
    // The processor in each of its forms; mode and VMM type as that tool is usually called.
    for cpu in [
        &["--vcpu-sig", "0xa00f11"][..],
        &["--vcpu-sig", "10489617"],
        &["--vcpu-family", "25", "--vcpu-model", "1", "--vcpu-stepping", "1"],
        &["--vcpu-type", "EPYC-Milan-v2", "--mode", "snp", "--vmm-type", "QEMU", "--guest-features", "0x1"],
    ] {
        let words = [&["--ovmf", "fw.fd", "--vcpus", "1", "--kernel", "bzimage"], cpu].concat();
        assert_eq!(lab.measure(&words).ok(), line(KERNEL_DIGEST));
    }
    // The digest after the firmware replaces the image's content: another image with the same tables gives
    // the same.
    let hash = lab.measure(&["--mode", "snp:ovmf-hash", "--ovmf", "fw.fd"]).ok();
    let mut other = firmware();
    other[0] = 0;
    lab.write("fw.fd", &other);
    let words = ["--vcpus", "1", "--kernel", "bzimage", "--snp-ovmf-hash", hash.trim()];
    assert_eq!(lab.guest(&words).ok(), line(KERNEL_DIGEST));
    assert_ne!(lab.guest(&words[..4]).ok(), line(KERNEL_DIGEST));
    // printf f7d7… | xxd -r -p | base64 -w0
    let base64 = "99eNZiwVGfytwFmGek9iGT3yNgEupWOVnpqj8yIOskdlyq8pHLQAFtYcUjiTtCKG\n";
    let words = [&words[..], &["--output-format", "base64"]].concat();
    assert_eq!(lab.guest(&words).ok(), base64);
}

fn the_real_firmware_gives_the_published_digest() -> suite::Result {
    let path = artefacts::amdsev_firmware()?;
    let lab = Lab::new();
    let words = ["--ovmf", path.to_str().unwrap(), "--vcpus", "4", "--vcpu-type", "EPYC-Milan"];
    assert_eq!(
        lab.measure(&words).ok().trim(),
        "c995d6122aacbc0434128f0c63783f03b7caec3f8f4292948522a00c0395ff126f1633d8346a20aa85f8dd3bd8739a38"
    );
    Ok(())
}

fn explain_shows_every_range_and_every_field() {
    let lab = Lab::new();
    lab.toml("vm.toml", 2, "256MiB", "guest.efi");
    let words = ["--config", "vm.toml", "--vcpu-type", "EPYC-Genoa"];
    let digest = lab.measure(&words).ok();
    let text = lab.measure(&[&words[..], &["--explain"]].concat()).ok();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], format!("launch digest   {}", digest.trim()));
    let row = |start: &str| {
        let found: Vec<_> = lines.iter().filter(|line| line.starts_with(start)).collect();
        assert_eq!(found.len(), 1, "{start}: {text}");
        found[0].split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(row("0x0000ffffe000").contains(" 2 normal firmware "));
    assert!(row("0x0000ffffe000").ends_with("fw.fd from 0x0"));
    assert!(row("0x00000080d000").contains(" 1 secrets secrets "));
    assert!(row("0x000000812000").contains(" 1 normal igvm parameters "));
    assert!(row("0x000002000000").contains(" 13 normal uki "));
    assert!(row("  0x310").ends_with("rdx 0xa10f10"));
    assert!(text.contains("  0x178  rip            0xb004"), "{text}");
    // The last vCPU's running digest is the launch digest.
    let vmsas: Vec<_> = lines.iter().filter(|line| line.contains(" vmsa ")).collect();
    assert!(vmsas.len() == 2 && vmsas[1].ends_with(digest.trim()), "{text}");
}

fn json_has_the_plan_and_can_be_checked_by_others() {
    let lab = Lab::new();
    lab.toml("vm.toml", 5, "256MiB", "guest.efi");
    let plan = lab.measure(&["--config", "vm.toml", "--vcpu-sig", "0xa00f11", "--json", "--pages"]).json();
    assert_eq!(plan["format"], "cvmm-launch-plan-1");
    let imports = plan["imports"].as_array().unwrap();
    let uki = imports.last().unwrap();
    let pages = |import: &Value| -> u64 {
        import["contents"].as_array().unwrap().iter().map(|run| run["pages"].as_u64().unwrap()).sum()
    };
    assert_eq!((&uki["tag"], &uki["pages"], pages(uki)), (&"uki".into(), &13.into(), 13));
    assert_eq!(uki["source"]["len"], 50_000);
    let vmsas = plan["vmsas"].as_array().unwrap();
    assert_eq!((vmsas.len(), &vmsas[1]["first"], &vmsas[1]["count"]), (2, &1.into(), &4.into()));
    assert_eq!(vmsas[1]["running_digest"], plan["launch_digest"]);
    assert_eq!(vmsas[1]["fields"]["cs.base"], "0x800000");
    let short = lab.measure(&["--config", "vm.toml", "--vcpu-sig", "0xa00f11", "--json"]).json();
    assert_eq!(short["launch_digest"], plan["launch_digest"]);
    assert_eq!(short["imports"][0].get("contents"), None);
}

fn a_difference_is_said_in_words() {
    let lab = Lab::new();
    lab.toml("a.toml", 2, "256MiB", "guest.efi");
    let mut other = uki();
    other[5 * 4096 + 17] ^= 1;
    lab.write("other.efi", &other);
    let diff = |a: &str, b: &str| lab.measure(&["--diff", a, b, "--vcpu-type", "EPYC-Milan"]);
    assert!(diff("a.toml", "a.toml").ok().starts_with("no difference: both have the launch digest "));

    lab.toml("b.toml", 2, "256MiB", "other.efi");
    let text = diff("a.toml", "b.toml").code(6);
    let expected = "uki at 0x2000000: 1 of 13 pages have other content: 0x2005000 (offset 0x5000)";
    assert_eq!(text.lines().next(), Some(expected), "{text}");
    assert_eq!(text.lines().count(), 2, "{text}");

    lab.toml("b.toml", 3, "512MiB", "guest.efi");
    let text = diff("a.toml", "b.toml").code(6);
    for line in [
        "number of vcpus: 2 in A, 3 in B",
        "low memory: 256 MiB in A, 320 MiB in B",
        "high memory: 0 MiB in A, 192 MiB in B",
        "igvm parameters at 0x812000: 1 of 1 pages have other content: 0x812000 (offset 0x0)",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }

    // Saved plans carry everything; other processors show in the VMSA.
    for (name, cpu, pages) in
        [("a.json", "EPYC-Milan", true), ("b.json", "EPYC-Genoa", true), ("c.json", "EPYC-Milan", false)]
    {
        let toml = if name == "c.json" { "b.toml" } else { "a.toml" };
        let mut words = vec!["--config", toml, "--vcpu-type", cpu, "--json"];
        if pages {
            words.push("--pages");
        }
        lab.write(name, lab.measure(&words).ok().as_bytes());
    }
    let text = lab.measure(&["--diff", "a.json", "b.json"]).code(6);
    for line in [
        "processor signature: 0xa00f11 in A, 0xa10f10 in B",
        "vmsa of vcpu 0: field rdx is 0xa00f11 in A, 0xa10f10 in B",
        "vmsa of vcpu 1 and up: field rdx is 0xa00f11 in A, 0xa10f10 in B",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    let text = lab.measure(&["--diff", "a.json", "c.json"]).code(6);
    assert!(
        text.contains("igvm parameters at 0x812000: content differs (save both plans with --pages"),
        "{text}"
    );
    let report: Value =
        serde_json::from_str(&lab.measure(&["--diff", "a.json", "b.json", "--json"]).code(6)).unwrap();
    assert_eq!((&report["equal"], report["differences"].as_array().map(Vec::len)), (&false.into(), Some(4)));
}

fn hash_profiles_differ_by_the_file_and_by_sections() {
    let lab = Lab::new();
    let save = |name: &str, words: &[&str]| {
        let plan = lab.guest(&[words, &["--vcpus", "1", "--json"]].concat()).ok();
        lab.write(name, plan.as_bytes());
    };
    save("a.json", &["--kernel", "bzimage", "--append", "quiet"]);
    save("b.json", &["--kernel", "bzimage", "--append", "quiet init=/bin/sh"]);
    save("c.json", &[]);
    let text = lab.measure(&["--diff", "a.json", "b.json"]).code(6);
    assert!(text.starts_with("command line (entry of the kernel-hash table, sha256): "), "{text}");
    assert!(!text.contains("initrd (entry"), "{text}");
    let text = lab.measure(&["--diff", "a.json", "c.json"]).code(6);
    assert!(text.contains("kernel hashes at 0x810000: kind normal in A, zero in B"), "{text}");
    let mut other = firmware();
    // The first section gets shorter by a page.
    other[256 + 16 + 5] = 0x80;
    lab.write("fw.fd", &other);
    save("d.json", &["--kernel", "bzimage", "--append", "quiet"]);
    let text = lab.measure(&["--diff", "a.json", "d.json"]).code(6);
    assert!(text.contains("firmware at 0xffffe000: content differs"), "{text}");
    assert!(text.contains("sec memory at 0x800000: 9 pages in A, 8 in B"), "{text}");
}

fn ranges_that_move_or_are_missing_are_named() {
    let lab = Lab::new();
    let plan = lab.guest(&["--vcpus", "1", "--json"]).json();
    let save = |name: &str, change: &dyn Fn(&mut Vec<Value>)| {
        let mut plan = plan.clone();
        change(plan["imports"].as_array_mut().unwrap());
        lab.write(name, plan.to_string().as_bytes());
    };
    save("a.json", &|_| {});
    save("swapped.json", &|imports| imports.swap(3, 4));
    save("short.json", &|imports| drop(imports.remove(3)));
    save("twice.json", &|imports| imports[3] = imports[4].clone());
    let diff = |b: &str| lab.measure(&["--diff", "a.json", b]);
    assert!(diff("swapped.json").code(6).contains("order: cpuid at 0x80e000 comes later in A than in B"));
    assert!(diff("short.json").code(6).contains("secrets at 0x80d000: only in A"));
    assert!(diff("twice.json").code(5).contains("two page ranges start at 0x80e000"));
}

fn the_manual_and_the_completions_know_the_command() {
    let cvmm = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_cvmm")).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(cvmm(&["man"]).contains("cvmm\\-measure"));
    let manual = cvmm(&["man", "measure"]);
    assert!(manual.contains(".TH cvmm-measure") && manual.contains("snp\\-ovmf\\-hash"), "{manual}");
    assert!(cvmm(&["completions", "zsh"]).contains("--snp-ovmf-hash"));
    assert!(cvmm(&["measure", "--help"]).contains("measure --diff"));
}

fn identity(lab: &Lab) -> Result<Identity, IdError> {
    Identity::from_bytes(&fs::read(lab.path("block")).unwrap(), &fs::read(lab.path("auth")).unwrap())
}

fn id_blocks_are_for_this_launch_with_or_without_a_key() {
    let lab = Lab::new();
    let key = |name: &str| {
        let golden =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/launch/src/id_block/golden").join(name);
        golden.to_str().unwrap().to_owned()
    };
    let (id_key, author_key) = (key("test-id-key.pem"), key("test-author-key.pem"));
    let sign = |more: &[&str]| {
        let base = ["--vcpus", "1", "--kernel", "bzimage", "--id-block", "block", "--id-auth", "auth"];
        lab.guest(&[&base[..], more].concat())
    };
    let text = sign(&[]).ok();
    let keyless = identity(&lab).unwrap();
    assert_eq!(text, format!("{KERNEL_DIGEST}\nid key digest      {}\n", keyless.id_key_digest()));
    assert_eq!(keyless.check_launch(KERNEL_DIGEST.parse().unwrap(), GuestPolicy(0x3_0000)), Ok(()));
    sign(&[]).ok();
    assert_eq!(identity(&lab).unwrap(), keyless, "not the same twice");

    let more = ["--id-key", &id_key, "--author-key", &author_key, "--policy", "0x30133"];
    let ids = ["--guest-svn", "7", "--family-id", "000102030405060708090a0b0c0d0e0f", "--json"];
    // Another block, in the place of the first: only if the user says so.
    let first = fs::read(lab.path("block")).unwrap();
    let text = sign(&[&more[..], &ids].concat()).code(5);
    assert!(
        text.contains("block exists and was not written by this command") && text.contains("--force"),
        "{text}"
    );
    assert_eq!(fs::read(lab.path("block")).unwrap(), first);
    let plan = sign(&[&more[..], &ids, &["--force"]].concat()).json();
    let signed = identity(&lab).unwrap();
    assert_eq!(signed.block().guest_svn.get(), 7);
    assert_eq!(signed.block().family_id, std::array::from_fn(|at| at as u8));
    assert_eq!(signed.block().policy.get(), 0x3_0133);
    assert_eq!(plan["id"]["policy"], "0x30133");
    // The digests snp-create-id-block prints for these keys.
    assert_eq!(
        plan["id"]["id_key_digest"],
        "7243d3fc6111e8d6e865a52d4ca602c736a9b23cdb59b926c7eadef50e7744c54f60b7a4b7000ae290afcfc4665ef805"
    );
    assert_eq!(
        plan["id"]["author_key_digest"],
        "443fef029a7b6a9f4ff370369db473c58df85ed0b321074cea4310b6b018ca41ba5671df4639169758d8f9bf4b10c5b7"
    );

    lab.toml("vm.toml", 1, "256MiB", "guest.efi");
    lab.write("firmware.bin", b"a file of the user");
    let words = ["--config", "vm.toml", "--write-firmware", "firmware.bin"];
    assert!(lab.measure(&[&words[..], &MILAN[..2]].concat()).code(5).contains("firmware.bin exists"));
    assert_eq!(fs::read(lab.path("firmware.bin")).unwrap(), b"a file of the user");

    fs::remove_file(lab.path("block")).unwrap();
    let text = sign(&["--id-key", &key("test-p256-key.pem")]).code(5);
    assert!(text.contains("test-p256-key.pem is not a private key on the curve P-384"), "{text}");
    assert!(!lab.path("block").exists(), "written in spite of the error");
    let text = sign(&["--id-key", "initrd"]).code(5);
    assert!(text.contains("initrd is not a private key"), "{text}");
    assert!(sign(&["--id-key", "absent.pem"]).code(5).contains("cannot read absent.pem"));
    assert!(
        lab.guest(&["--vcpus", "1", "--id-block", "/", "--id-auth", "auth"])
            .code(5)
            .contains("cannot write /")
    );
}

fn a_guest_is_written_as_an_igvm_file() {
    let lab = Lab::new();
    lab.toml("vm.toml", 2, "256MiB", "guest.efi");
    let write = |more: &[&str], name: &str| {
        lab.measure(&[&["--config", "vm.toml", "--write-igvm", name], &MILAN[..], more].concat())
    };
    let digest = write(&[], "one.igvm").ok();
    assert_eq!(digest, lab.measure(&[&["--config", "vm.toml"], &MILAN[..]].concat()).ok());
    assert_eq!(write(&[], "two.igvm").ok(), digest);
    let file = fs::read(lab.path("one.igvm")).unwrap();
    assert!(file == fs::read(lab.path("two.igvm")).unwrap());
    // What is launched from it is the same guest.
    let memory = MemoryLayout { low: 256 << 20, high: 0 };
    let features = SevFeatures::SNP_ACTIVE;
    let policy = GuestPolicy(0x3_0000);
    let machine = Machine { memory: &memory, vcpus: 2, policy, features, cmdline: "", madt: None };
    let load = |name: &str| cvmm_igvm::load(&Blob::open(&lab.path(name)).unwrap(), &machine).unwrap();
    let model = VcpuModel { signature: CpuSignature(0xa0_0f11), features };
    let guest = load("one.igvm");
    assert_eq!(format!("{}\n", measure(&guest.plan, model, None, &mut ()).unwrap()), digest);
    assert!(guest.identity.is_none());

    // With an ID block, and with the one that the vm.toml names.
    let block = ["--id-block", "block", "--id-auth", "auth"];
    write(&block, "signed.igvm").ok();
    let identity = load("signed.igvm").identity.unwrap();
    assert_eq!(format!("{}\n", identity.block().launch_digest), digest);
    let text = fs::read_to_string(lab.path("vm.toml")).unwrap();
    let owned = format!("{text}[snp]\nid_block = \"block\"\nid_auth = \"auth\"\n");
    lab.write("vm.toml", owned.as_bytes());
    write(&[], "owned.igvm").ok();
    assert_eq!(load("owned.igvm").identity, Some(identity));
    lab.toml("other.toml", 1, "256MiB", "guest.efi");
    let text = fs::read_to_string(lab.path("other.toml")).unwrap();
    let owned = format!("{text}[snp]\nid_block = \"block\"\nid_auth = \"auth\"\n");
    lab.write("other.toml", owned.as_bytes());
    let words = ["--config", "other.toml", "--write-igvm", "other.igvm"];
    assert!(lab.measure(&[&words[..], &MILAN[..]].concat()).code(4).contains("snp.id_block"));
    assert!(!lab.path("other.igvm").exists());
    let policy = ["--id-block", "b", "--id-auth", "a", "--policy", "0xb0000"];
    assert!(write(&policy, "policy.igvm").code(2).contains("the ID block has policy 0xb0000"));
    assert_eq!(fs::metadata(lab.path("policy.igvm")).unwrap().len(), 0);

    // The file as a vm.toml: the same digest; and what it refuses.
    let toml = |more: &str| {
        let text =
            "name = \"x\"\nvcpus = 2\nmemory = \"256MiB\"\nisolation = \"snp\"\n[boot]\nprofile = \"igvm\"\n";
        lab.write("igvm.toml", format!("{text}{more}").as_bytes());
        lab.measure(&[&["--config", "igvm.toml"], &MILAN[..]].concat())
    };
    assert_eq!(toml("igvm = \"one.igvm\"\n").ok(), digest);
    assert_eq!(toml("igvm = \"signed.igvm\"\n").ok(), digest);
    let text = lab.measure(&[&["--config", "igvm.toml", "--explain"], &MILAN[..]].concat()).ok();
    assert!(text.contains("boot profile    igvm") && !text.contains("firmware  "), "{text}");
    assert!(
        lab.measure(&["--config", "igvm.toml", "--json", "--vcpu-type", "EPYC-Milan"]).json()["firmware"]
            .is_null()
    );
    let pair = "[snp]\nid_block = \"block\"\nid_auth = \"auth\"\n";
    let text = toml(&format!("igvm = \"signed.igvm\"\n{pair}")).code(4);
    assert!(text.contains("signed.igvm has an ID block of its own"), "{text}");
    assert!(toml("igvm = \"one.igvm\"\ncmdline = \"quiet\"\n").code(4).contains("takes no command line"));
    assert!(toml("igvm = \"bzimage\"\n").code(4).contains("not an IGVM file"));
    let text = toml("igvm = \"one.igvm\"\n[snp]\npolicy = 0xb0000\n").code(4);
    assert!(
        text.contains("igvm.policy") && text.contains("header 1 (guest policy) at offset 0x30"),
        "{text}"
    );
    lab.write("fw.fd", &[vec![0xff; (4 << 20) - 8192], firmware()].concat());
    let text = fs::read_to_string(lab.path("vm.toml"))
        .unwrap()
        .replace("[snp]\nid_block = \"block\"\nid_auth = \"auth\"\n", "");
    lab.write("vm.toml", format!("{text}first_stage = true\n").as_bytes());
    write(&[], "staged.igvm").ok();
    assert!(toml("igvm = \"staged.igvm\"\n").code(4).contains("starts in a first stage"));

    // Files of the user are left as they are.
    lab.write("mine", b"a file of the user");
    assert!(write(&[], "mine").code(5).contains("mine exists"));
    assert_eq!(fs::read(lab.path("mine")).unwrap(), b"a file of the user");
    assert!(write(&["--force"], "mine").0.status.success());
    assert_eq!(fs::read(lab.path("mine")).unwrap()[..4], *b"IGVM");
}

fn what_a_person_gets_wrong_is_named() {
    let lab = Lab::new();
    lab.toml("vm.toml", 1, "256MiB", "guest.efi");
    let base = ["--ovmf", "fw.fd", "--vcpus", "1"];
    for (words, part) in [
        (&["--config", "vm.toml"][..], "depends on the processor"),
        (&base, "depends on the processor"),
        (&["--vcpu-type", "EPYC-Milan"], "--config"),
        (&["--ovmf", "fw.fd", "--vcpu-type", "EPYC-Milan"], "--ovmf needs --vcpus"),
        (&["--ovmf", "fw.fd", "--vcpus", "0", "--vcpu-type", "EPYC-Milan"], "0 is not in 1..=65535"),
        (&["--ovmf", "fw.fd", "--vcpus", "1", "--vcpu-type", "EPYC-Venice"], "EPYC-Turin"),
        (&["--ovmf", "fw.fd", "--vcpus", "1", "--vcpu-family", "25"], "--vcpu-model"),
        (&["--ovmf", "fw.fd", "--vcpus", "1", "--vcpu-sig", "milan"], "must be a number"),
        (&["--config", "vm.toml", "--vcpus", "1"], "cannot be used with"),
        (&["--ovmf", "fw.fd", "--mode", "seves"], "possible values: snp, snp:ovmf-hash"),
        (&["--config", "vm.toml", "--mode", "snp:ovmf-hash"], "needs --ovmf"),
        (&["--ovmf", "fw.fd", "--guest-features", "0x20"], "bit 0"),
        (&["--ovmf", "fw.fd", "--initrd", "initrd"], "--kernel"),
        (&["--ovmf", "fw.fd", "--policy", "0x10000"], "bit 17"),
        (&["--ovmf", "fw.fd", "--snp-ovmf-hash", "1234"], "96 hexadecimal digits"),
        (&["--ovmf", "fw.fd", "--id-block", "x"], "--id-auth"),
        (&["--ovmf", "fw.fd", "--json", "--explain"], "cannot be used with"),
        (&["--diff", "vm.toml"], "2 values required"),
        (&["--diff", "vm.toml", "vm.toml"], "depends on the processor"),
        (&["--config", "absent.toml", "--vcpu-sig", "1"], "absent.toml"),
    ] {
        let text = lab.measure(words).code(2);
        assert!(text.contains(part), "{words:?}: {text}");
    }
    for (words, part) in [
        (["--kernel", "initrd"], "kernel initrd: is 6 bytes long"),
        (["--kernel", "absent"], "cannot open kernel absent: No such file"),
        (["--ovmf", "initrd"], "firmware initrd: is 6 bytes long"),
    ] {
        let base = if words[0] == "--ovmf" { &["--vcpus", "1"][..] } else { &base };
        let text = lab.measure(&[base, &MILAN[..], &words].concat()).code(4);
        assert!(text.contains(part), "{words:?}: {text}");
    }
    lab.write("bad.json", b"{\"format\": \"cvmm-launch-plan-2\"}");
    let text = lab.measure(&["--diff", "bad.json", "bad.json"]).code(5);
    assert!(
        text.contains("bad.json is not a plan saved by `cvmm measure --json`") && text.contains("line 1"),
        "{text}"
    );
}

fn one_bit_of_the_files_changes_the_digest() {
    let lab = Lab::new();
    lab.toml("vm.toml", 1, "256MiB", "guest.efi");
    let measure = || lab.measure(&["--config", "vm.toml", "--vcpu-type", "EPYC-Milan"]).ok();
    let mut seen = std::collections::BTreeSet::from([measure()]);
    let (image, guest) = (firmware(), uki());
    for (file, bytes, at) in [("fw.fd", &image, 100), ("fw.fd", &image, 8191), ("guest.efi", &guest, 49_999)]
    {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        lab.write(file, &changed);
        assert!(seen.insert(measure()), "{file} {at}");
        lab.write(file, bytes);
    }
    lab.toml("vm.toml", 2, "256MiB", "guest.efi");
    assert!(seen.insert(measure()), "vcpus");
    lab.toml("vm.toml", 1, "256MiB", "guest.efi");
    assert!(!seen.insert(measure()), "not the same again");
}

/// docs/guide/upgrade.md, "What changes a digest".
fn what_changes_a_digest_is_what_the_page_on_upgrades_says() {
    let lab = Lab::new();
    lab.write("other.fd", &{
        let mut image = firmware();
        image[0] ^= 1;
        image
    });
    lab.write("disk.img", &[0; 512]);
    let uki = "[boot]\nprofile = \"uki\"\nuki = \"guest.efi\"\nfirst_stage = false\n";
    let hashes = "[boot]\nprofile = \"hashes\"\nkernel = \"bzimage\"\ninitrd = \"initrd\"\ncmdline = \"ro\"\nfirst_stage = false\n";
    let digest = |boot: &str, from: &str, to: &str, more: &str, cpu: &str| {
        let top = "name = \"x\"\nvcpus = 2\nmemory = \"768MiB\"\nlow_memory = \"256MiB\"\nisolation = \"snp\"\nfirmware = \"fw.fd\"\n";
        let text = format!("{top}{boot}");
        assert!(text.contains(from), "{from}");
        lab.write("vm.toml", format!("{}{more}", text.replace(from, to)).as_bytes());
        lab.measure(&["--config", "vm.toml", "--vcpu-type", cpu]).ok()
    };
    let (milan, genoa) = ("EPYC-Milan", "EPYC-Genoa");
    for (boot, memory_counts) in [(uki, true), (hashes, false)] {
        let base = digest(boot, "", "", "", milan);
        for (what, changes, other) in [
            ("firmware", true, digest(boot, "fw.fd", "other.fd", "", milan)),
            ("vcpus", true, digest(boot, "vcpus = 2", "vcpus = 3", "", milan)),
            ("cpu type", true, digest(boot, "", "", "", genoa)),
            ("memory", memory_counts, digest(boot, "768MiB", "1GiB", "", milan)),
            ("low_memory", memory_counts, digest(boot, "256MiB", "512MiB", "", milan)),
            ("name", false, digest(boot, "\"x\"", "\"y\"", "", milan)),
            ("disks", false, digest(boot, "", "", "[[disk]]\npath = \"disk.img\"\n", milan)),
            ("vtpm", false, digest(boot, "", "", "[vtpm]\nmode = \"in-process\"\n", milan)),
            ("guest policy", false, digest(boot, "", "", "[snp]\npolicy = 0xb0000\n", milan)),
        ] {
            assert_eq!(other != base, changes, "{what} with {boot}");
        }
    }
    let base = digest(hashes, "", "", "", milan);
    assert_ne!(digest(hashes, "\"ro\"", "\"rw\"", "", milan), base, "command line");
    lab.write("initrd", b"another initrd");
    assert_ne!(digest(hashes, "", "", "", milan), base, "initrd");
    let base = digest(uki, "", "", "", milan);
    let mut image = crate::uki();
    let last = image.len() - 1;
    image[last] ^= 1;
    lab.write("guest.efi", &image);
    assert_ne!(digest(uki, "", "", "", milan), base, "UKI");
}

/// What no loader starts is refused by the code, the section and its offset, whichever command reads it.
fn images_that_no_loader_starts_are_refused() {
    let lab = Lab::new();
    let kernel = samples::bzimage(8192);
    let good = samples::uki(&[
        (".osrel", b"ID=x"),
        (".cmdline", b"quiet"),
        (".initrd", &[7; 5000]),
        (".linux", &kernel),
    ]);
    let at = |section: &str, field: usize| samples::header(&good, section, 0).unwrap() + field;
    let linux = u32::from_le_bytes(good[at(".linux", 12)..][..4].try_into().unwrap());
    let patched = |section: &str, field: usize, value: u32| {
        let mut bytes = good.clone();
        bytes[at(section, field)..][..4].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    let mut two = good.clone();
    two[at(".osrel", 0)..][..8].copy_from_slice(b".linux\0\0");
    let nul = samples::uki(&[(".cmdline", b"quiet\0init=/bin/sh"), (".linux", &kernel)]);
    for (name, bytes, code, section) in [
        ("overlap.efi", patched(".osrel", 12, linux + 0x1000), "uki.overlap", ".osrel"),
        ("high.efi", patched(".osrel", 12, 0xffff_f000), "uki.placement", ".osrel"),
        ("empty.efi", patched(".linux", 8, 0), "uki.no-memory", ".linux"),
        ("two.efi", two, "uki.kernel", ".linux"),
        ("nul.efi", nul, "uki.cmdline", ".cmdline"),
    ] {
        lab.write(name, &bytes);
        lab.toml("vm.toml", 1, "256MiB", name);
        let measured = lab.measure(&["--config", "vm.toml", "--vcpu-type", "EPYC-Milan"]).code(4);
        // What the gate and QEMU's form of the command line are given is recognised by the same code.
        let fed = lab.guest(&["--kernel", name, "--vcpus", "1"]).code(4);
        for text in [measured, fed] {
            assert!(text.starts_with(&format!("error[{code}]: kernel ")) && text.contains(name), "{text}");
            assert!(text.contains(&format!("section {section} (header at file offset 0x")), "{text}");
        }
    }
    lab.write("good.efi", &good);
    lab.toml("vm.toml", 1, "256MiB", "good.efi");
    lab.measure(&["--config", "vm.toml", "--vcpu-type", "EPYC-Milan"]).ok();
}

/// An image of an ordinary build: a table without entries.
fn plain_firmware() -> Vec<u8> {
    let mut image = vec![0xff; 8192];
    let footer = [&18_u16.to_le_bytes()[..], &FOOTER].concat();
    image[8192 - 32 - footer.len()..8192 - 32].copy_from_slice(&footer);
    image
}

fn firmware_that_cannot_start_an_snp_guest_has_no_digest() {
    let lab = Lab::new();
    lab.write("plain.fd", &plain_firmware());
    for words in [
        &["--ovmf", "plain.fd", "--vcpus", "1", "--vcpu-type", "EPYC-Milan"][..],
        &["--ovmf", "plain.fd", "--vcpus", "1", "--vcpu-type", "EPYC-Milan", "--json"],
        &["--ovmf", "plain.fd", "--mode", "snp:ovmf-hash"],
    ] {
        let text = lab.measure(words).code(4);
        assert!(
            text.starts_with("error[firmware.sev-metadata]: firmware plain.fd cannot start an SNP guest"),
            "{text}"
        );
        assert!(text.contains("dc886566-") && text.contains("ovmf-amdsev"), "{text}");
    }
    // Metadata with one section of another kind: what is missing is named.
    let good = firmware();
    let records = 256 + 16;
    for (index, missing) in [(2, "secrets"), (3, "cpuid")] {
        let mut image = good.clone();
        // Its kind is the record's third number: memory of the firmware.
        image[records + 12 * index + 8..][..4].copy_from_slice(&1_u32.to_le_bytes());
        lab.write("less.fd", &image);
        let text = lab.measure(&["--ovmf", "less.fd", "--vcpus", "1", "--vcpu-type", "EPYC-Milan"]).code(4);
        assert!(text.starts_with("error[firmware.sev-section]: ") && text.contains(missing), "{text}");
    }
    // Started, not only measured: before anything of the machine exists.
    let toml = "name = \"x\"\nvcpus = 1\nmemory = \"256MiB\"\nisolation = \"snp\"\nfirmware = \"plain.fd\"\n[boot]\nprofile = \"disk\"\n[[disk]]\npath = \"disk.img\"\n";
    lab.write("disk.img", &[0; 1 << 20]);
    lab.write("snp.toml", toml.as_bytes());
    let text = lab.run(&["run", "--config", "snp.toml", "--without-gate"]).code(4);
    assert!(text.contains("error[firmware.sev-metadata]"), "{text}");
}

/// Strings of a saved plan do not steer the terminal, and a difference stays one line.
fn a_plan_of_unknown_origin_prints_no_escapes() {
    let lab = Lab::new();
    lab.toml("a.toml", 1, "256MiB", "guest.efi");
    let plan = lab.measure(&["--config", "a.toml", "--vcpu-type", "EPYC-Milan", "--json"]).ok();
    lab.write("a.json", plan.as_bytes());
    let mut hostile: Value = serde_json::from_str(&plan).unwrap();
    hostile["profile"] = "\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}31m\nno difference".into();
    hostile["imports"][0]["tag"] = "\u{1b}[31mfirmware\r\u{202e}".into();
    lab.write("b.json", hostile.to_string().as_bytes());
    for words in [&["--diff", "a.json", "b.json"][..], &["--diff", "a.json", "b.json", "--json"]] {
        let text = lab.measure(words).code(6);
        assert!(!text.chars().any(|c| c.is_control() && c != '\n' || c == '\u{202e}'), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("no difference")), "{text}");
    }
    let text = lab.measure(&["--diff", "a.json", "b.json"]).code(6);
    assert!(text.contains("\\u001b[2J") && text.contains("\\u009b31m\\u000ano difference"), "{text}");
    // Names in errors too.
    let text = lab.measure(&["--diff", "a.json", "\u{1b}[31mx"]).code(5);
    assert!(text.contains("\\u001b[31mx") && !text.contains('\u{1b}'), "{text}");
}

suite!(
    digests_are_those_of_the_tool_whose_options_it_takes,
    the_real_firmware_gives_the_published_digest,
    explain_shows_every_range_and_every_field,
    json_has_the_plan_and_can_be_checked_by_others,
    a_difference_is_said_in_words,
    hash_profiles_differ_by_the_file_and_by_sections,
    ranges_that_move_or_are_missing_are_named,
    the_manual_and_the_completions_know_the_command,
    id_blocks_are_for_this_launch_with_or_without_a_key,
    a_guest_is_written_as_an_igvm_file,
    what_a_person_gets_wrong_is_named,
    one_bit_of_the_files_changes_the_digest,
    what_changes_a_digest_is_what_the_page_on_upgrades_says,
    images_that_no_loader_starts_are_refused,
    firmware_that_cannot_start_an_snp_guest_has_no_digest,
    a_plan_of_unknown_origin_prints_no_escapes,
);
