// SPDX-License-Identifier: Apache-2.0
//! Every item, on a good host with one change.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use cvmm_kvm_snp::probe::Support;
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::platform::PlatformStatus;

use super::cpuid::{Cpuid, SevLeaf};
use super::facts::{Asids, CcpDevice, Rmp};
use super::kvm::KvmFacts;
use super::reading::{Reading, Unread, Why};
use super::*;

/// A host on which every item is ok.
fn good() -> Facts {
    let mut status = [0; 32];
    status[..5].copy_from_slice(&[1, 55, 1, 1, 21]);
    // RAPL off, ciphertext hiding possible and on.
    status[8] = 0b111 << 4;
    Facts {
        cpuid: Cpuid {
            vendor: "AuthenticAMD".to_owned(),
            signature: CpuSignature::from_parts(0x19, 1, 1).unwrap(),
            hypervisor: None,
            sev: Some(SevLeaf { features: 0x1f, sizes: 51, asids: 509, min_sev_asid: 100 }),
        },
        dmi: vec![("sys_vendor", Ok("Supermicro".to_owned())), ("product_name", Ok("H12".to_owned()))],
        ccp: Ok(vec![CcpDevice {
            address: "0000:22:00.1".to_owned(),
            subsystem_vendor: Ok("0x15d9".to_owned()),
            tsme: Ok("1".to_owned()),
        }]),
        present: Ok(BTreeSet::from([0, 1])),
        online: Ok(BTreeSet::from([0, 1])),
        smt: Ok("0".to_owned()),
        syscfg: Ok(BTreeMap::from([(0, 3 << 23), (1, 3 << 23)])),
        hwcr: Ok(BTreeMap::from([(0, 1), (1, 1)])),
        rmp: Ok(Rmp { base: 0x2000, end: 0x3fff, segmented: false }),
        lockdown: Ok("[none] integrity confidentiality".to_owned()),
        release: Ok("6.12.95+deb12-amd64".to_owned()),
        config: Ok((
            "/boot/config".to_owned(),
            [
                "KVM_AMD_SEV",
                "CRYPTO_DEV_SP_PSP",
                "AMD_IOMMU",
                "KVM_PRIVATE_MEM",
                "KVM_GENERIC_MEMORY_ATTRIBUTES",
            ]
            .map(str::to_owned)
            .into(),
        )),
        cmdline: Ok("quiet".to_owned()),
        log: Ok(vec!["kvm_amd: SEV-SNP enabled (ASIDs 1 - 99)".to_owned()]),
        iommu_groups: Ok(BTreeMap::from([("0".to_owned(), Ok("DMA-FQ".to_owned()))])),
        parameters: BTreeMap::from(
            ["npt", "sev", "sev_es", "sev_snp"].map(|name| (name, Ok("Y".to_owned()))),
        ),
        kvm: Ok(KvmFacts {
            support: Support {
                vm_types: 0x1d,
                exit_hypercall: 1 << 12,
                user_memory2: true,
                memory_fault_info: true,
                memory_attributes: 1 << 3,
                guest_memfd: true,
                vmsa_features: Some(0x220),
                policy_bits: Some(0x3fb_ffff),
                certificates: Some(1),
            },
            create: Ok(()),
        }),
        sev_device: Ok(()),
        platform: Ok(PlatformStatus::from(status).into()),
        asids: Asids { capacity: Ok(99), used: Ok(3), limit: Ok(None) },
        memory: Ok(BTreeMap::from([("MemAvailable".to_owned(), 8 << 30), ("HugePages_Total".to_owned(), 0)])),
        memory_limit: Ok(None),
        open_files: Ok((1024, 4096)),
    }
}

/// Status and evidence of an item on the good host with a change.
fn changed(id: &str, change: impl FnOnce(&mut Facts)) -> (Status, String) {
    let mut facts = good();
    change(&mut facts);
    let report = Report::of(&facts);
    let item = report.item(id).unwrap();
    assert_eq!(item.fix.is_none(), item.status == Status::Ok, "{item:?}");
    (item.status, item.evidence.clone())
}

fn status(id: &str, change: impl FnOnce(&mut Facts)) -> Status {
    changed(id, change).0
}

fn denied<T>() -> Reading<T> {
    Err(Unread::new("/x", &io::Error::from_raw_os_error(libc::EACCES)))
}

fn absent<T>() -> Reading<T> {
    Err(Unread::absent("/x"))
}

#[test]
fn a_good_host_has_nothing_but_ok() {
    let report = Report::of(&good());
    let others: Vec<_> = report.items.iter().filter(|item| item.status != Status::Ok).collect();
    assert!(others.is_empty() && report.fatal == 0 && !report.emulated, "{others:?}");
    assert_eq!(report.asids, Some(AsidUse { capacity: 99, used: 3, free: 96 }));
    assert!(
        report
            .table()
            .ends_with("\nthis host can launch SNP guests (warnings: 0, subject to policy: 0, unknown: 0)\n")
    );
}

#[test]
fn ids_are_distinct_and_in_the_manual() {
    let report = Report::of(&good());
    let ids: BTreeSet<_> = report.items.iter().map(|item| item.id).collect();
    assert_eq!(ids.len(), report.items.len());
    let manual = include_str!("../../../docs/guide/doctor.md");
    for id in ids {
        assert!(manual.contains(&format!("| `{id}` |")), "docs/guide/doctor.md lacks {id}");
    }
}

#[test]
fn the_json_has_its_form() {
    let report = Report::of(&good());
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((&json["schema"], &json["fatal"], &json["emulated"]), (&1.into(), &0.into(), &false.into()));
    assert_eq!(json["items"][1]["id"], "cpu.vendor");
    assert_eq!(
        (&json["items"][1]["status"], &json["items"][1]["fix"]),
        (&"ok".into(), &serde_json::Value::Null)
    );
    assert_eq!((&json["asids"]["free"], &json["platform"]["api_minor"]), (&96.into(), &55.into()));
    assert_eq!(json["platform"]["current_tcb"], "0x0000000000000000");
}

#[test]
fn what_cannot_be_read_is_never_ok() {
    fn all<T>(reading: &mut Reading<T>, why: &Why) {
        *reading = Err(Unread { what: "/x".to_owned(), why: why.clone() });
    }
    for why in
        [Why::Denied, Why::Malformed("?".to_owned()), Why::Failed { errno: 5, text: "I/O error".to_owned() }]
    {
        let mut facts = good();
        facts.dmi.iter_mut().for_each(|(_, value)| all(value, &why));
        facts.parameters.values_mut().for_each(|value| all(value, &why));
        all(&mut facts.ccp, &why);
        all(&mut facts.present, &why);
        all(&mut facts.online, &why);
        all(&mut facts.smt, &why);
        all(&mut facts.syscfg, &why);
        all(&mut facts.hwcr, &why);
        all(&mut facts.rmp, &why);
        all(&mut facts.release, &why);
        all(&mut facts.config, &why);
        all(&mut facts.cmdline, &why);
        all(&mut facts.log, &why);
        all(&mut facts.iommu_groups, &why);
        all(&mut facts.kvm, &why);
        all(&mut facts.sev_device, &why);
        all(&mut facts.platform, &why);
        all(&mut facts.asids.capacity, &why);
        all(&mut facts.asids.used, &why);
        all(&mut facts.asids.limit, &why);
        all(&mut facts.memory, &why);
        all(&mut facts.memory_limit, &why);
        all(&mut facts.open_files, &why);
        let report = Report::of(&facts);
        for item in &report.items {
            // CPUID always works; a launch cannot open a device that this process cannot open.
            let expected = match item.id {
                "cpu.vendor" | "cpu.hypervisor" | "cpu.model" | "cpu.sev" | "cpu.asids" => Status::Ok,
                "kvm.device" | "sev.device" => Status::Fatal,
                _ => Status::Unknown,
            };
            assert_eq!(item.status, expected, "{item:?}");
            assert!(expected == Status::Ok || item.evidence.contains("/x"), "{item:?}");
        }
        assert_eq!((report.asids, report.platform), (None, None));
    }
}

#[test]
fn the_processor_is_assessed() {
    use Status::{Fatal, Policy, Unknown, Warning};
    assert_eq!(status("cpu.vendor", |f| f.cpuid.vendor = "GenuineIntel".to_owned()), Fatal);
    assert_eq!(status("cpu.hypervisor", |f| f.cpuid.hypervisor = Some("KVMKVMKVM".to_owned())), Fatal);
    let family =
        |family| move |f: &mut Facts| f.cpuid.signature = CpuSignature::from_parts(family, 1, 1).unwrap();
    assert_eq!(status("cpu.model", family(0x17)), Fatal);
    assert_eq!(status("cpu.model", family(0x1a)), Warning);
    assert_eq!(status("cpu.model", family(0x1b)), Warning);
    let turin = |f: &mut Facts| {
        family(0x1a)(f);
        f.cpuid.sev.as_mut().unwrap().features |= SevLeaf::RMPREAD;
    };
    assert_eq!(status("cpu.model", turin), Status::Ok);
    assert_eq!(status("cpu.sev", |f| f.cpuid.sev = None), Fatal);
    assert_eq!(status("cpu.asids", |f| f.cpuid.sev = None), Fatal);
    let (assessed, evidence) = changed("cpu.sev", |f| f.cpuid.sev.as_mut().unwrap().features = 0xb);
    assert!(assessed == Fatal && evidence.ends_with("without SNP"), "{evidence}");
    assert_eq!(status("cpu.asids", |f| f.cpuid.sev.as_mut().unwrap().min_sev_asid = 1), Fatal);
    assert_eq!(status("cpu.asids", |f| f.cpuid.sev.as_mut().unwrap().min_sev_asid = 0), Fatal);
    let hiding = |f: &mut Facts| {
        f.parameters.insert("ciphertext_hiding_asids", Ok("20".to_owned()));
    };
    assert!(changed("cpu.asids", hiding).1.starts_with("20 for SNP guests"));
    let (assessed, evidence) = changed("cpu.online", |f| f.online = Ok(BTreeSet::from([0])));
    assert!(assessed == Warning && evidence.contains("1 of 2 are offline: 1"), "{evidence}");
    assert_eq!(status("cpu.smt", |f| f.smt = Ok("1".to_owned())), Policy);
    assert_eq!(status("cpu.smt", |f| f.smt = Ok("perhaps".to_owned())), Unknown);
}

#[test]
fn a_machine_without_epyc_is_reported_first() {
    let first = |facts: &Facts| Report::of(facts).table().lines().next().unwrap().to_owned();
    let wrong =
        "SNP guests need an AMD EPYC processor of the third generation or later; this machine has none";
    let mut intel = good();
    intel.cpuid.vendor = "GenuineIntel".to_owned();
    intel.cpuid.signature = CpuSignature::from_parts(6, 0x6a, 6).unwrap();
    intel.cpuid.sev = None;
    assert_eq!(first(&intel), format!("{wrong}: GenuineIntel (CPUID 0)."));
    // The second generation, which has SEV-ES only.
    let mut rome = good();
    rome.cpuid.signature = CpuSignature::from_parts(0x17, 0x31, 0).unwrap();
    let said = first(&rome);
    assert!(said.starts_with(wrong) && said.contains("family 0x17, model 0x31"), "{said}");
    // A hypervisor's name cannot forge a line of the table.
    intel.cpuid.vendor = "x\u{1b}[2J\ny".to_owned();
    assert!(first(&intel).ends_with("(CPUID 0).") && !first(&intel).contains('\u{1b}'));
    // Other defects do not produce the line.
    let mut off = good();
    off.cpuid.sev = None;
    for facts in [good(), off] {
        assert!(!Report::of(&facts).table().contains(wrong));
    }
}

#[test]
fn one_wrong_processor_is_enough() {
    let (assessed, evidence) = changed("msr.syscfg", |f| {
        f.syscfg.as_mut().unwrap().insert(1, 1 << 23);
    });
    assert_eq!(
        (assessed, evidence.as_str()),
        (Status::Fatal, "SYSCFG of processor 1 is 0x800000, without 0x1000000")
    );
    // The fix depends on which bit is missing.
    let mut facts = good();
    facts.syscfg = Ok(BTreeMap::from([(0, 1 << 23)]));
    let fix = |facts: &Facts| Report::of(facts).item("msr.syscfg").unwrap().fix.clone().unwrap();
    assert!(fix(&facts).starts_with("the kernel has not enabled SNP"));
    facts.syscfg = Ok(BTreeMap::from([(0, 1 << 24)]));
    assert!(fix(&facts).contains("SMEE"));
    let unlocked = |f: &mut Facts| {
        f.hwcr.as_mut().unwrap().insert(1, 0x10);
    };
    assert_eq!(status("msr.smm_lock", unlocked), Status::Warning);
    for rmp in [
        Rmp { base: 0, end: 0, segmented: false },
        Rmp { base: 0, end: 0, segmented: true },
        Rmp { base: 0x2000, end: 0, segmented: false },
    ] {
        assert_eq!(status("msr.rmp", |f| f.rmp = Ok(rmp)), Status::Fatal);
    }
    assert_eq!(status("msr.rmp", |f| f.rmp = Ok(Rmp { base: 1, end: 0, segmented: true })), Status::Ok);
    // Without the driver there is a fix, under lockdown there is none.
    facts.syscfg = denied();
    assert!(fix(&facts).contains("modprobe msr"));
    facts.lockdown = Ok("none [integrity] confidentiality".to_owned());
    assert!(fix(&facts).contains("lockdown"));
}

#[test]
fn the_kernel_is_assessed_by_its_capabilities() {
    use Status::{Fatal, Unknown, Warning};
    let old = |f: &mut Facts| f.release = Ok("6.1.0-40-amd64".to_owned());
    let without_snp = |f: &mut Facts| f.kvm.as_mut().unwrap().support.vm_types = 1;
    assert_eq!(status("kernel.release", old), Warning);
    assert_eq!(status("kernel.release", |f| (old(f), without_snp(f)).0), Fatal);
    assert_eq!(status("kernel.release", |f| (old(f), f.kvm = denied()).0), Fatal);
    assert_eq!(status("kernel.release", without_snp), Status::Ok);
    let cloud = |f: &mut Facts| f.release = Ok("6.12.95-cloud-amd64".to_owned());
    assert_eq!(status("kernel.release", cloud), Status::Ok);
    assert_eq!(status("kernel.release", |f| (cloud(f), without_snp(f)).0), Fatal);
    assert_eq!(status("kernel.release", |f| f.release = Ok("next".to_owned())), Unknown);

    let less = |f: &mut Facts| {
        f.config.as_mut().unwrap().1.remove("KVM_PRIVATE_MEM");
    };
    let (assessed, evidence) = changed("kernel.config", less);
    assert!(assessed == Fatal && evidence.ends_with("lacks KVM_GUEST_MEMFD"), "{evidence}");
    let renamed = |f: &mut Facts| {
        less(f);
        f.config.as_mut().unwrap().1.insert("KVM_GUEST_MEMFD".to_owned());
    };
    assert_eq!(status("kernel.config", renamed), Status::Ok);

    let line = |line: &str| status("kernel.cmdline", |f| f.cmdline = Ok(line.to_owned()));
    assert_eq!(
        ["iommu=pt", "amd_iommu=off", "amd_iommu=pgtbl_v2", "mem_encrypt=on", "iommu=force"].map(line),
        [Fatal, Fatal, Fatal, Warning, Status::Ok]
    );
}

#[test]
fn the_log_is_quoted_where_it_is_bad() {
    let log = |lines: &[&str]| {
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        changed("kernel.log", |f| f.log = Ok(lines))
    };
    assert_eq!(log(&[]).0, Status::Unknown);
    let (assessed, evidence) = log(&[
        "SEV-SNP: Memory for the RMP table has not been reserved by BIOS",
        "kvm_amd: SEV-SNP enabled (ASIDs 1 - 99)",
    ]);
    assert!(assessed == Status::Warning && evidence.contains("not been reserved by BIOS"), "{evidence}");
    assert_eq!(log(&["kvm_amd: SEV-SNP unusable (ASIDs 1 - 0)"]).0, Status::Warning);
    assert_eq!(log(&["ccp 0000:00:05.0: sev enabled"]).0, Status::Unknown);
}

#[test]
fn the_iommu_must_translate() {
    let groups = |types: &[&str]| {
        let groups =
            types.iter().enumerate().map(|(number, kind)| (number.to_string(), Ok((*kind).to_owned())));
        let groups = Ok(groups.collect());
        status("iommu.groups", |f| f.iommu_groups = groups)
    };
    assert_eq!(groups(&[]), Status::Fatal);
    assert_eq!(groups(&["identity", "identity"]), Status::Fatal);
    assert_eq!(groups(&["identity", "DMA"]), Status::Warning);
    assert_eq!(status("iommu.groups", |f| f.iommu_groups = absent()), Status::Fatal);
}

#[test]
fn kvm_is_assessed() {
    use Status::{Fatal, Policy, Unknown};
    let parameter = |name: &'static str, value: Reading<String>| {
        status("kvm.parameters", |f| drop(f.parameters.insert(name, value)))
    };
    assert_eq!(parameter("sev_snp", Ok("N".to_owned())), Fatal);
    assert_eq!(parameter("npt", Ok("0".to_owned())), Fatal);
    assert_eq!(parameter("npt", Ok("1".to_owned())), Status::Ok);
    assert_eq!(parameter("sev_snp", absent()), Fatal);
    let both_off = |f: &mut Facts| {
        f.parameters.extend(["sev_es", "sev_snp"].map(|name| (name, Ok("N".to_owned()))));
    };
    assert!(changed("kvm.parameters", both_off).1.starts_with("sev_es=N sev_snp=N ("));
    assert_eq!(status("kvm.device", |f| f.kvm = absent()), Fatal);
    assert_eq!(status("kvm.vm_types", |f| f.kvm = absent()), Unknown);
    let support =
        |change: fn(&mut Support)| move |f: &mut Facts| change(&mut f.kvm.as_mut().unwrap().support);
    assert_eq!(status("kvm.vm_types", support(|s| s.vm_types = 0xf)), Fatal);
    for (lack, name) in [
        (support(|s| s.exit_hypercall = 1 << 11), "EXIT_HYPERCALL"),
        (support(|s| s.user_memory2 = false), "USER_MEMORY2"),
        (support(|s| s.memory_fault_info = false), "MEMORY_FAULT_INFO"),
        (support(|s| s.memory_attributes = 1), "MEMORY_ATTRIBUTES"),
        (support(|s| s.guest_memfd = false), "GUEST_MEMFD"),
    ] {
        let (assessed, evidence) = changed("kvm.capabilities", lack);
        assert!(
            assessed == Fatal && evidence.starts_with(&format!("KVM lacks KVM_CAP_{name}")),
            "{evidence}"
        );
        assert!(!evidence.contains(", "), "{evidence}");
    }
    let refused = |f: &mut Facts| f.kvm.as_mut().unwrap().create = Err("Invalid argument".to_owned());
    assert_eq!(status("kvm.create_vm", refused), Fatal);
    assert_eq!(status("kvm.vmsa_features", support(|s| s.vmsa_features = None)), Policy);
    assert_eq!(status("kvm.vmsa_features", support(|s| s.vmsa_features = Some(0))), Status::Ok);
    assert_eq!(status("kvm.policy_bits", support(|s| s.policy_bits = None)), Policy);
    assert_eq!(status("kvm.certificates", support(|s| s.certificates = Some(0))), Policy);
    assert_eq!(status("kvm.certificates", support(|s| s.certificates = None)), Policy);
}

#[test]
fn the_security_processor_is_assessed() {
    use Status::{Fatal, Policy, Unknown};
    for unread in [absent(), denied()] {
        assert_eq!(status("sev.device", |f| f.sev_device = unread), Fatal);
    }
    let failed = |errno| {
        let unread = Unread::new("SNP_PLATFORM_STATUS", &io::Error::from_raw_os_error(errno));
        status("sev.platform", |f| f.platform = Err(unread))
    };
    assert_eq!([libc::ENODEV, libc::EINVAL, libc::EFAULT].map(failed), [Fatal; 3]);
    assert_eq!((failed(libc::EIO), failed(libc::ENOTTY)), (Unknown, Unknown));
    assert_eq!(status("sev.platform", |f| f.platform = absent()), Unknown);
    let platform = |change: fn(&mut Platform)| move |f: &mut Facts| change(f.platform.as_mut().unwrap());
    assert_eq!(status("sev.platform", platform(|p| p.initialized = false)), Fatal);
    assert_eq!(status("sev.platform", platform(|p| p.rmp_initialized = false)), Fatal);
    assert_eq!(status("sev.api", platform(|p| p.api_minor = 50)), Fatal);
    assert_eq!(status("sev.api", platform(|p| (p.api_major, p.api_minor) = (2, 0))), Status::Ok);
    // Without a status the log can only show that the version is too low; otherwise the reason is a different
    // one.
    let logged = |line: &str| {
        let lines = vec!["ccp 0000:22:00.1: SEV API:1.60 build:3".to_owned(), line.to_owned()];
        status("sev.api", |f| (f.platform, f.log) = (absent(), Ok(lines)))
    };
    assert_eq!(logged("ccp 0000:22:00.1: SEV API:1.50 build:21"), Fatal);
    assert_eq!(logged("ccp 0000:22:00.1: SEV API:x"), Unknown);
    assert_eq!(logged("usb 1-1: Product: API:1.2"), Unknown);
    let (assessed, evidence) = changed("sev.tcb", platform(|p| p.current_tcb.0[7] = 219));
    assert!(
        assessed == Policy && evidence.contains("microcode 219") && evidence.contains("microcode 0"),
        "{evidence}"
    );
    assert_eq!(status("sev.masking", platform(|p| p.chip_id_masked = true)), Policy);
    assert_eq!(status("sev.masking", platform(|p| p.chip_key_masked = true)), Policy);
    assert_eq!(status("sev.rapl", platform(|p| p.rapl_disabled = false)), Policy);
    assert_eq!(status("sev.ciphertext_hiding", platform(|p| p.ciphertext_hiding = false)), Policy);
    let tsme = |value| status("memory.tsme", |f: &mut Facts| f.ccp.as_mut().unwrap()[0].tsme = value);
    assert_eq!((tsme(Ok("0".to_owned())), tsme(absent())), (Policy, Unknown));
}

#[test]
fn an_exhausted_resource_is_a_warning() {
    use Status::{Unknown, Warning};
    let (assessed, evidence) = changed("asids.free", |f| f.asids.used = Ok(99));
    assert!(assessed == Warning && evidence.starts_with("0 of 99 free"), "{evidence}");
    // More used than available is odd, but must not wrap.
    assert_eq!(status("asids.free", |f| f.asids.used = Ok(u64::MAX)), Warning);
    let (assessed, evidence) = changed("asids.free", |f| f.asids.used = absent());
    assert!(
        assessed == Unknown && evidence.ends_with("the security processor manages 0 SNP guests"),
        "{evidence}"
    );
    assert_eq!(status("asids.limit", |f| f.asids.limit = Ok(Some(("/m".to_owned(), 1)))), Warning);
    let memory = |name: &str, value| {
        let memory = Ok(BTreeMap::from([(name.to_owned(), value)]));
        move |f: &mut Facts| f.memory = memory
    };
    assert_eq!(status("memory.available", memory("MemAvailable", 1)), Warning);
    assert_eq!(status("memory.available", memory("Other", 1)), Unknown);
    assert_eq!(status("memory.hugepages", memory("HugePages_Total", 1)), Warning);
    assert_eq!(status("memory.cgroup", |f| f.memory_limit = Ok(Some(("/m".to_owned(), 1)))), Warning);
    assert_eq!(status("limits.files", |f| f.open_files = Ok((256, 4096))), Warning);
}

#[test]
fn each_sign_of_emulation_is_recognised() {
    let signs: [fn(&mut Facts); 3] = [
        |f| f.dmi[0].1 = Ok("QEMU".to_owned()),
        |f| f.ccp.as_mut().unwrap()[0].subsystem_vendor = Ok("0x1af4".to_owned()),
        |f| f.cpuid.hypervisor = Some("Microsoft Hv".to_owned()),
    ];
    for sign in signs {
        let mut facts = good();
        sign(&mut facts);
        let report = Report::of(&facts);
        let item = report.item("emulation").unwrap();
        assert!(report.emulated && item.status == Status::Warning, "{item:?}");
        assert!(item.evidence.contains("SNP protects nothing here"), "{item:?}");
        assert!(report.table().ends_with("EMULATED: SNP protects nothing\n"));
    }
}
