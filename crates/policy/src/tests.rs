// SPDX-License-Identifier: Apache-2.0

use cvmm_attest::claims::{Claims, FirmwareVersion, Product, Requester, Revocation, SigningKey};
use cvmm_attest::document::{CLAIMS, Shape};
use cvmm_reason::Reason;
use cvmm_snp::digest::Digest;
use cvmm_snp::policy::GuestPolicy;
use cvmm_snp::tcb::TcbParts;

use super::*;

const NOW: i64 = 1_795_435_200;

fn base() -> String {
    format!(
        "id = \"p\"\nversion = 1\n[guest]\nmeasurements = [\"{}\"]\n[platform]\nproducts = [\"milan\"]\ncrl = \"if-present\"\n\
         [platform.min_tcb.milan]\nbootloader = 4\ntee = 0\nsnp = 22\nmicrocode = 213\n",
        "aa".repeat(48)
    )
}

/// The base with a line more in a table; "" is the top.
fn with(table: &str, line: &str) -> Policy {
    Policy::parse(&text(table, line)).unwrap()
}

fn text(table: &str, line: &str) -> String {
    let base = base();
    match table {
        "" => format!("{line}\n{base}"),
        "guest" => base.replace("[guest]\n", &format!("[guest]\n{line}\n")),
        "platform" => base.replace("[platform]\n", &format!("[platform]\n{line}\n")),
        _ => format!("{base}[{table}]\n{line}\n"),
    }
}

fn tcb() -> TcbParts {
    TcbParts { fmc: None, bootloader: 4, tee: 0, snp: 22, microcode: 213 }
}

pub(crate) fn claims() -> Claims {
    let firmware = FirmwareVersion { major: 1, minor: 55, build: 21 };
    Claims {
        report_version: 5,
        product: Product::Milan,
        cpuid: Some((0x19, 1, 1)),
        signing_key: SigningKey::Vcek,
        requester: Requester::Guest(0),
        policy: GuestPolicy(0x3_0000),
        guest_svn: 2,
        family_id: [1; 16],
        image_id: [2; 16],
        measurement: Digest([0xaa; 48]),
        host_data: [3; 32],
        report_data: [4; 64],
        id_key_digest: Digest([5; 48]),
        author_key_digest: None,
        report_id: [6; 32],
        platform_info: 0x25,
        chip_id: Some([7; 64]),
        csp_id: None,
        reported_tcb: tcb(),
        current_tcb: tcb(),
        committed_tcb: tcb(),
        launch_tcb: tcb(),
        current_firmware: firmware,
        committed_firmware: firmware,
        launch_mit_vector: Some(3),
        current_mit_vector: Some(3),
        revocation: Revocation::NoList,
    }
}

const NOTHING: Expected<'_> =
    Expected { report_data: None, host_data: None, measurement: None, id_key: None };

fn codes(reasons: &[Reason]) -> Vec<&str> {
    reasons.iter().map(|reason| &*reason.code).collect()
}

#[test]
fn the_base_admits_its_guest() {
    let policy = with("", "");
    assert_eq!(policy.appraise_claims(&claims(), &NOTHING, NOW), []);
    assert_eq!(policy.appraise_launch(&launch()), []);
    assert_eq!(policy.appraise_time(NOW), []);
    assert_eq!(policy.evidence, EvidenceClass::IdBlock);
    assert!(policy.warnings().is_empty());
}

/// Each clause: a policy that admits the claims, and a change of them that it does not.
#[test]
fn every_clause_of_a_report_counts() {
    type Change = fn(&mut Claims);
    let with_chip = format!("chip_ids = [\"{}\"]", "07".repeat(64));
    let without_chip = format!("refused_chip_ids = [\"{}\"]", "08".repeat(64));
    let key = format!("id_keys = [\"{}\"]", "05".repeat(48));
    let author = format!("author_keys = [\"{}\"]", "09".repeat(48));
    let family = format!("family_id = \"{}\"", "01".repeat(16));
    let image = format!("image_id = \"{}\"", "02".repeat(16));
    let data = format!("host_data = [\"{}\", \"{}\"]", "ff".repeat(32), "03".repeat(32));
    let cases: Vec<(&str, &str, &str, Change)> = vec![
        ("", "", "policy.measurement", |c| c.measurement.0[0] ^= 1),
        ("", "", "policy.debug", |c| c.policy.0 |= GuestPolicy::DEBUG),
        ("", "", "policy.migration-agent", |c| c.policy.0 |= GuestPolicy::MIGRATE_MA),
        ("", "", "policy.vmpl", |c| c.requester = Requester::Guest(1)),
        ("", "", "policy.product", |c| c.product = Product::Genoa),
        ("", "", "policy.provisional", |c| c.current_tcb.microcode = 214),
        ("", "", "policy.provisional", |c| c.committed_firmware.build = 20),
        ("", "", "policy.min-tcb", |c| c.reported_tcb.bootloader = 3),
        ("", "", "policy.min-launch-tcb", |c| c.launch_tcb.snp = 21),
        ("", "evidence = \"guest-report\"", "policy.evidence", |c| c.requester = Requester::Host),
        ("guest", "forbid = [\"cxl-allowed\"]", "policy.guest-policy", |c| {
            c.policy.0 |= GuestPolicy::CXL_ALLOWED
        }),
        ("guest", "require = [\"smt\"]", "policy.guest-policy", |c| c.policy.0 &= !GuestPolicy::SMT),
        ("guest", "min_svn = 2", "policy.svn", |c| c.guest_svn = 1),
        ("guest", "max_vmpl = 2", "policy.vmpl", |c| c.requester = Requester::Guest(3)),
        ("guest", &family, "policy.family-id", |c| c.family_id[15] = 0),
        ("guest", &image, "policy.image-id", |c| c.image_id[15] = 0),
        ("guest", &data, "policy.host-data", |c| c.host_data[31] = 0),
        ("guest", &key, "policy.id-key", |c| c.id_key_digest = Digest::ZERO),
        ("platform", "require = [\"alias-check-complete\"]", "policy.platform-info", |c| c.platform_info = 5),
        ("platform", "forbid = [\"tsme\"]", "policy.platform-info", |c| c.platform_info |= 2),
        ("platform", "refuse_unknown_bits = true", "policy.platform-info", |c| c.platform_info |= 0x40),
        ("platform", "signing_keys = [\"vcek\"]", "policy.signing-key", |c| c.signing_key = SigningKey::Vlek),
        ("platform", "min_firmware = \"1.55.21\"", "policy.firmware", |c| {
            c.current_firmware.build = 20;
            c.committed_firmware.build = 20;
        }),
        ("platform", "mit_vector = 3", "policy.mitigations", |c| c.launch_mit_vector = Some(8)),
        ("platform", "mit_vector = 1", "policy.mitigations", |c| c.current_mit_vector = None),
        ("platform", "mit_vector = { milan = 1 }", "policy.mitigations", |c| c.current_mit_vector = Some(2)),
        ("platform", &with_chip, "policy.chip-id", |c| c.chip_id = Some([8; 64])),
        ("platform", &with_chip, "policy.chip-id", |c| c.chip_id = None),
        ("platform", &without_chip, "policy.chip-id", |c| c.chip_id = Some([8; 64])),
        ("platform", &without_chip, "policy.chip-id", |c| c.chip_id = None),
    ];
    for (table, line, code, change) in cases {
        let policy = with(table, line);
        let mut claims = claims();
        assert_eq!(policy.appraise_claims(&claims, &NOTHING, NOW), [], "{line}");
        change(&mut claims);
        let reasons = policy.appraise_claims(&claims, &NOTHING, NOW);
        assert!(codes(&reasons).contains(&code), "{line}: {reasons:?}");
    }
    // Clauses that the base's claims do not satisfy.
    for (table, line, code) in
        [("guest", author.as_str(), "policy.author-key"), ("platform", "csp_ids = [\"x\"]", "policy.csp-id")]
    {
        assert_eq!(codes(&with(table, line).appraise_claims(&claims(), &NOTHING, NOW)), [code]);
    }
    let mut authored = claims();
    authored.author_key_digest = Some(Digest([9; 48]));
    authored.csp_id = Some("x".to_owned());
    assert_eq!(with("guest", &author).appraise_claims(&authored, &NOTHING, NOW), []);
    assert_eq!(with("platform", "csp_ids = [\"x\"]").appraise_claims(&authored, &NOTHING, NOW), []);
}

#[test]
fn a_report_answers_one_question() {
    let policy = with("", "");
    let other = Expected {
        report_data: Some(&[0; 64]),
        host_data: Some(&[0; 32]),
        measurement: Some(Digest::ZERO),
        id_key: Some(Digest::ZERO),
    };
    assert_eq!(
        codes(&policy.appraise_claims(&claims(), &other, NOW)),
        ["policy.measurement", "policy.host-data", "policy.report-data", "policy.id-key"]
    );
    let right = Expected {
        report_data: Some(&[4; 64]),
        host_data: Some(&[3; 32]),
        measurement: Some(Digest([0xaa; 48])),
        id_key: Some(Digest([5; 48])),
    };
    assert_eq!(policy.appraise_claims(&claims(), &right, NOW), []);
}

#[test]
fn revocation_lists_are_required_by_default() {
    let strict = Policy::parse(&base().replace("crl = \"if-present\"\n", "max_crl_age_days = 30\n")).unwrap();
    let appraise = |policy: &Policy, revocation| {
        policy.appraise_claims(&Claims { revocation, ..claims() }, &NOTHING, NOW).len()
    };
    let list =
        |made: i64, next: i64| Revocation::List { this_update: NOW + made, next_update: Some(NOW + next) };
    const DAY: i64 = 86_400;
    assert_eq!(appraise(&strict, list(-DAY, DAY)), 0);
    assert_eq!(appraise(&strict, Revocation::NoList), 1);
    assert_eq!(appraise(&strict, list(-2 * DAY, -DAY)), 1);
    assert_eq!(appraise(&strict, list(-31 * DAY, DAY)), 1);
    assert_eq!(appraise(&strict, Revocation::List { this_update: NOW, next_update: None }), 1);
    assert_eq!(appraise(&with("", ""), list(-2 * DAY, -DAY)), 0);
}

fn launch() -> LaunchFacts<'static> {
    LaunchFacts {
        snp: true,
        profile: "uki",
        digest: Digest([0xaa; 48]),
        policy: GuestPolicy(0x3_0000),
        vcpus: 4,
        memory: 1 << 30,
        debug: &[],
        vlek_only: false,
        cpuid_corrections: false,
    }
}

#[test]
fn every_clause_of_a_launch_counts() {
    let knobs = ["mtrr_hidden".to_owned()];
    let policy = with("guest", "max_vcpus = 4\nmax_memory_mib = 1024");
    let appraise = |facts: LaunchFacts<'_>| {
        policy.appraise_launch(&facts).into_iter().map(|reason| reason.code.into_owned()).collect::<Vec<_>>()
    };
    assert!(appraise(launch()).is_empty());
    assert_eq!(appraise(LaunchFacts { snp: false, ..launch() }), ["policy.isolation"]);
    assert_eq!(appraise(LaunchFacts { profile: "hashes", ..launch() }), ["policy.profile"]);
    assert_eq!(appraise(LaunchFacts { digest: Digest::ZERO, ..launch() }), ["policy.measurement"]);
    assert_eq!(appraise(LaunchFacts { policy: GuestPolicy(0xb_0000), ..launch() }), ["policy.debug"]);
    assert_eq!(appraise(LaunchFacts { vcpus: 5, ..launch() }), ["policy.vcpus"]);
    assert_eq!(appraise(LaunchFacts { memory: (1 << 30) + 1, ..launch() }), ["policy.memory"]);
    assert_eq!(appraise(LaunchFacts { debug: &knobs, ..launch() }), ["policy.debug-knob"]);
    assert_eq!(appraise(LaunchFacts { cpuid_corrections: true, ..launch() }), ["policy.cpuid-corrections"]);
    assert_eq!(codes(&with("guest", "vlek_only = true").appraise_launch(&launch())), ["policy.vlek-only"]);
    // All reasons at once.
    assert_eq!(appraise(LaunchFacts { snp: false, digest: Digest::ZERO, vcpus: 9, ..launch() }).len(), 3);
}

#[test]
fn the_platform_is_appraised_by_what_the_host_says() {
    let policy = with("platform", "min_firmware = \"1.55.0\"");
    let facts = PlatformFacts {
        class: EvidenceClass::IdBlock,
        product: Some(Product::Milan),
        firmware: FirmwareVersion { major: 1, minor: 55, build: 21 },
        reported_tcb: Some(tcb()),
    };
    assert_eq!(policy.appraise_platform(&facts), []);
    let code = |facts: PlatformFacts| {
        policy.appraise_platform(&facts).into_iter().map(|r| r.code.into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(code(PlatformFacts { class: EvidenceClass::HostAsserted, ..facts }), ["policy.evidence"]);
    assert_eq!(code(PlatformFacts { product: None, ..facts }), ["policy.product"]);
    assert_eq!(code(PlatformFacts { product: Some(Product::Turin), ..facts }), ["policy.product"]);
    assert_eq!(code(PlatformFacts { reported_tcb: None, ..facts }), ["policy.min-tcb"]);
    let old = TcbParts { microcode: 0, bootloader: 9, ..tcb() };
    assert_eq!(code(PlatformFacts { reported_tcb: Some(old), ..facts }), ["policy.min-tcb"]);
    let firmware = FirmwareVersion { major: 1, minor: 54, build: 99 };
    assert_eq!(code(PlatformFacts { firmware, ..facts }), ["policy.firmware"]);
}

#[test]
fn the_floor_is_lowered_by_name_only() {
    let debug = GuestPolicy(0xf_0000);
    let policy = with("", "unsafe_allow_debug = true\nunsafe_allow_migration_agent = true");
    assert_eq!(policy.warnings().len(), 2);
    assert_eq!(policy.appraise_launch(&LaunchFacts { policy: debug, ..launch() }), []);
    let reasons = with("", "").appraise_launch(&LaunchFacts { policy: debug, ..launch() });
    assert_eq!(codes(&reasons), ["policy.debug", "policy.migration-agent"]);
    let any = with("", "unsafe_any_measurement = true");
    assert_eq!(any.appraise_launch(&LaunchFacts { digest: Digest::ZERO, ..launch() }), []);
    assert!(Policy::parse(&text("guest", "require = [\"debug\"]")).is_err());
    assert!(Policy::parse(&text("guest", "max_vmpl = 4")).is_err());
}

#[test]
fn a_policy_tells_what_it_wants() {
    let text =
        with("platform", "forbid = [\"tsme\"]\nrequire = [\"alias-check-complete\"]").explain().join("\n");
    for words in [
        "policy p, version 1",
        "debugging by the host: never",
        "bootloader 4, tee 0, snp 22, microcode 213",
        "platform, tsme: forbidden",
        "platform, alias-check-complete: required",
        "at least id-block",
    ] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    assert!(with("", "unsafe_allow_debug = true").explain().join("\n").contains("allowed (unsafe)"));
}

#[test]
fn times_have_to_be_utc() {
    let policy = with("", "not_before = 2026-01-01T00:00:00Z\nnot_after = 2026-12-31T23:59:59Z");
    assert_eq!(policy.appraise_time(NOW), []);
    assert_eq!(codes(&policy.appraise_time(NOW - 365 * 86_400)), ["policy.not-yet"]);
    assert_eq!(codes(&policy.appraise_time(NOW + 365 * 86_400)), ["policy.over"]);
    for time in ["2026-01-01", "2026-01-01T00:00:00", "2026-01-01T00:00:00+01:00"] {
        assert!(Policy::parse(&text("", &format!("not_before = {time}"))).is_err(), "{time}");
    }
}

#[test]
fn what_is_not_understood_is_refused() {
    for (table, line) in [
        ("", "surprise = 1"),
        ("guest", "mesurements = []"),
        ("guest", "require = [\"smt\"]\nforbid = [\"smt\"]"),
        ("guest", "profiles = [\"usb\"]"),
        ("guest", "id_keys = [\"00\"]"),
        ("platform", "products = []"),
        ("platform", "min_firmware = \"1.55\""),
        ("platform", "chip_ids = [\"xx\"]"),
        ("platform", "crl = \"ignore\""),
        ("platform", "mit_vector = { genoa = 1 }"),
        ("platform", "mit_vector = \"1\""),
        ("guest", "host_data = [\"00\"]"),
        ("guest", "config = \"vm.toml\""),
        ("guest", "vcpu_types = [\"EPYC-Milan\"]"),
        ("guest", "config = \"\"\nvcpu_types = [\"EPYC-Milan\"]"),
        ("guest", "config = 5\nvcpu_types = [\"EPYC-Milan\"]"),
        ("guest", "config = \"vm.toml\"\nvcpu_types = [\"Xeon\"]"),
        ("guest", "config = \"vm.toml\"\nvcpu_types = [\"0x+1\"]"),
        ("", "min_gate_version = \"1\""),
        ("", "min_gate_version = \"1.2.+3\""),
        ("rego", "file = \"x.rego\""),
        ("rego", "file = \"../x.rego\"\nsha384 = \"0\""),
        ("ticket", "lifetime_s = 301"),
        ("ticket", "lifetime_s = 0"),
        ("platform.min_tcb.turin", "bootloader = 1\ntee = 1\nsnp = 1\nmicrocode = 1"),
        ("platform.min_tcb.genoa", "fmc = 1\nbootloader = 1\ntee = 1\nsnp = 1\nmicrocode = 1"),
        ("platform.min_tcb.rome", "bootloader = 1\ntee = 1\nsnp = 1\nmicrocode = 1"),
    ] {
        assert!(Policy::parse(&text(table, line)).is_err(), "{line}");
    }
    assert!(Policy::parse(&base().replace("\"p\"", "\"../p\"")).is_err());
    assert!(Policy::parse(&base().replace("\"milan\"]", "\"milan\", \"turin\"]")).is_err());
    let none = base().replace(&format!("\"{}\"", "aa".repeat(48)), "");
    assert!(Policy::parse(&none).is_err());
    assert_eq!(Policy::parse(&"#".repeat(MAX_FILE + 1)), Err(PolicyError::TooLong(MAX_FILE + 1)));
}

/// A clause of one product says nothing about another.
#[test]
fn mitigations_are_each_products_own() {
    let text = base().replace("\"milan\"]", "\"milan\", \"genoa\"]")
        + "[platform.min_tcb.genoa]\nbootloader = 0\ntee = 0\nsnp = 0\nmicrocode = 0\n[platform.mit_vector]\nmilan = 3\n";
    let policy = Policy::parse(&text).unwrap();
    let mut claims = claims();
    claims.current_mit_vector = Some(0);
    assert_eq!(codes(&policy.appraise_claims(&claims, &NOTHING, NOW)), ["policy.mitigations"]);
    claims.product = Product::Genoa;
    assert_eq!(policy.appraise_claims(&claims, &NOTHING, NOW), []);
}

#[test]
fn a_policy_that_is_not_measured_yet_admits_no_guest() {
    let line = "config = [\"a.toml\", \"b.toml\"]\nvcpu_types = [\"EPYC-Milan\", \"0xa00f11\"]";
    let policy = with("guest", line);
    assert!(policy.unresolved().unwrap().contains("cvmm policy resolve"));
    assert_eq!(codes(&policy.appraise_launch(&launch())), ["policy.unresolved"]);
    assert_eq!(codes(&policy.appraise_claims(&claims(), &NOTHING, NOW)), ["policy.unresolved"]);
    assert!(
        policy.explain().join("\n").contains("that of b.toml on EPYC-Milan, 0xa00f11 (not measured yet)")
    );
    assert_eq!(with("", "").unresolved(), None);
    // Instead of digests.
    let none = text("guest", line).replace(&format!("measurements = [\"{}\"]\n", "aa".repeat(48)), "");
    assert!(Policy::parse(&none).unwrap().guest.measurements.is_empty());
    let many = (0..33).map(|n| format!("\"{n}.toml\"")).collect::<Vec<_>>().join(",");
    let line = format!("config = [{many}]\nvcpu_types = [\"EPYC-Milan\", \"0xa00f11\"]");
    assert!(Policy::parse(&text("guest", &line)).is_err());
}

#[test]
fn host_data_is_for_guests_launched_without_a_gate() {
    let policy = with("guest", &format!("host_data = [\"{}\"]", "03".repeat(32)));
    assert_eq!(codes(&policy.appraise_launch(&launch())), ["policy.host-data"]);
}

/// A policy with every key.
fn everything() -> String {
    format!(
        "not_before = 2000-02-29T23:59:59Z\nnot_after = 2100-03-01T00:00:00Z\nmin_gate_version = \"1.20.300\"\nevidence = \"guest-report\"\n\
         unsafe_allow_debug = true\nunsafe_allow_migration_agent = true\nunsafe_any_measurement = true\nunsafe_isolation_none = true\n\
         id = \"p\"\nversion = 9\n[guest]\nmeasurements = [\"{d}\"]\nconfig = \"a \\\"b\\\".toml\"\nvcpu_types = [\"EPYC-Milan\"]\n\
         host_data = [\"{h}\"]\nprofiles = [\"disk\", \"hashes\"]\nrequire = [\"smt\", \"aes-256-xts\"]\nforbid = [\"page-swap-disabled\"]\n\
         min_svn = 4\nfamily_id = \"{i}\"\nimage_id = \"{i}\"\nid_keys = [\"{d}\"]\nauthor_keys = [\"{d}\"]\nmax_vmpl = 3\nmax_vcpus = 2\n\
         max_memory_mib = 5\ndebug_knobs = [\"mtrr\"]\ncpuid_corrections = true\nvlek_only = true\n\
         [platform]\nproducts = [\"turin\", \"milan\"]\nsigning_keys = [\"vlek\"]\nrequire = [\"ecc\"]\nforbid = [\"tio\"]\nrefuse_unknown_bits = true\n\
         min_firmware = \"1.2.3\"\nallow_provisional = true\nmit_vector = {{ milan = 11, turin = 63 }}\nchip_ids = [\"{c}\"]\nrefused_chip_ids = [\"0011223344556677\"]\n\
         csp_ids = [\"CN=x\"]\nallow_masked_chip_id = true\ncrl = \"if-present\"\nmax_crl_age_days = 3\n\
         [platform.min_tcb.milan]\nbootloader = 1\ntee = 2\nsnp = 3\nmicrocode = 4\n[platform.min_tcb.turin]\nfmc = 9\nbootloader = 1\ntee = 2\nsnp = 3\nmicrocode = 4\n\
         [platform.min_launch_tcb.milan]\nbootloader = 1\ntee = 2\nsnp = 3\nmicrocode = 5\n\
         [vtpm]\nquote = \"require\"\nevent_log = \"require\"\n[vtpm.pcr.sha384]\n4 = [\"{d}\", \"{d}\"]\n11 = [\"{d}\"]\n[vtpm.pcr.sha256]\n4 = [\"{h}\"]\n\
         [release]\nsecrets = [\"736869E5-84f0-4973-92ec-06879ce3da0b\"]\nresources = [\"db\"]\nhand_over = [\"q\"]\n\
         [ticket]\nlifetime_s = 3\nlaunch_s = 4\n[rego]\nfile = \"x.rego\"\nsha384 = \"{d}\"\n",
        d = "ab".repeat(48),
        h = "cd".repeat(32),
        i = "ef".repeat(16),
        c = "12".repeat(64),
    )
}

#[test]
fn what_is_written_is_read_as_the_same_policy() {
    let everything = everything();
    for text in [everything.as_str(), &base()] {
        let policy = Policy::parse(text).unwrap_or_else(|error| panic!("{error}"));
        let written = policy.to_toml().unwrap();
        assert_eq!(Policy::parse(&written).as_ref(), Ok(&policy), "{written}");
    }
    // Every clause is said.
    let said = Policy::parse(&everything).unwrap().explain().join("\n");
    for words in [
        "1.20.300",
        "HOST_DATA",
        "x.rego",
        "family id",
        "0x3f",
        "vlek",
        "bits that are not known",
        "VLEK",
        "allowed (unsafe)",
        "quote: required",
        "event log: required",
        "PCR 11 of sha384: one of abab",
        "PCR 4 of sha256: one of cdcd",
        "gives secrets: 736869e5-84f0-4973-92ec-06879ce3da0b",
        "gives resources of repositories: db",
        "hands its VMs with persistent state over to: q",
    ] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
}

fn quote(pcrs: &[(u8, u8)], log: bool) -> cvmm_tpm::quote::QuoteClaims {
    use cvmm_tpm::eventlog::EventLog;
    use cvmm_tpm::pcr::PcrValues;
    use cvmm_tpm::quote::{LogClaims, QuoteClaims};
    use cvmm_tpm::{HashAlg, template};
    let log = log.then(|| LogClaims {
        log: EventLog { algorithms: vec![], events: vec![], startup_locality: 0 },
        explained: vec![],
    });
    let value = |(pcr, fill): &(u8, u8)| ((HashAlg::Sha256, *pcr), vec![*fill; 32]);
    QuoteClaims {
        ak_name: template::ak().name(),
        pcrs: PcrValues(pcrs.iter().map(value).collect()),
        clock: cvmm_tpm::attest::ClockInfo::default(),
        firmware_version: 0,
        log,
    }
}

#[test]
fn a_quote_is_appraised_by_what_it_shows() {
    let codes = |policy: &Policy, quote: Option<&cvmm_tpm::quote::QuoteClaims>| {
        policy.appraise_quote(quote).into_iter().map(|reason| reason.code).collect::<Vec<_>>()
    };
    // By default a guest may have no TPM, and what it shows has to be right, which the verifier has seen to.
    let default = with("guest", "");
    assert!(codes(&default, None).is_empty() && codes(&default, Some(&quote(&[], false))).is_empty());
    let (zeros, ones) = ("00".repeat(32), "01".repeat(32));
    let strict = format!(
        "quote = \"require\"\nevent_log = \"require\"\n[vtpm.pcr.sha256]\n4 = [\"{zeros}\", \"{ones}\"]\n7 = [\"{zeros}\"]"
    );
    let strict = with("vtpm", &strict);
    assert_eq!(codes(&strict, None), ["policy.quote"]);
    for good in [[(4, 0), (7, 0)], [(4, 1), (7, 0)]] {
        assert!(codes(&strict, Some(&quote(&good, true))).is_empty());
    }
    assert_eq!(
        codes(&strict, Some(&quote(&[(4, 2), (7, 1)], false))),
        ["policy.event-log", "policy.pcr", "policy.pcr"]
    );
    assert_eq!(codes(&strict, Some(&quote(&[(4, 0)], true))), ["policy.pcr"], "PCR 7 is not quoted");
    assert!(strict.appraise_quote(Some(&quote(&[(4, 0)], true)))[0].message.contains("not quoted"));
}

#[test]
fn pcrs_that_make_no_sense_are_refused() {
    for (lines, key) in [
        ("event_log = \"require\"", "vtpm.quote"),
        (format!("[vtpm.pcr.sha256]\n4 = [\"{}\"]", "00".repeat(32)).as_str(), "vtpm.quote"),
        ("quote = \"require\"\n[vtpm.pcr.sha256]\n4 = [\"00\"]", "vtpm.pcr.sha256.4"),
        ("quote = \"require\"\n[vtpm.pcr.sha256]\n4 = []", "vtpm.pcr.sha256.4"),
        ("quote = \"require\"\n[vtpm.pcr.sha256]\n24 = []", "vtpm.pcr.sha256.24"),
        ("quote = \"require\"\n[vtpm.pcr.sha256]\n04 = []", "vtpm.pcr.sha256.04"),
        ("quote = \"require\"\n[vtpm.pcr.sha1]\n4 = []", "vtpm.pcr.sha1"),
    ] {
        let error = Policy::parse(&text("vtpm", lines)).unwrap_err();
        assert!(error.to_string().contains(&format!("{key}: ")), "{lines}: {error}");
    }
}

/// Every path of a table's keys.
fn paths(table: &toml::Table, prefix: &str, out: &mut Vec<String>) {
    for (key, value) in table {
        let path = format!("{prefix}{key}");
        out.push(path.clone());
        if let toml::Value::Table(inner) = value {
            paths(inner, &format!("{path}."), out);
        }
    }
}

/// Every key that a policy can have.
fn keys() -> Vec<String> {
    let table = toml::from_str(&Policy::parse(&everything()).unwrap().to_toml().unwrap()).unwrap();
    let mut keys = Vec::new();
    paths(&table, "", &mut keys);
    keys
}

/// The manual has every key and every code.
#[test]
fn all_of_it_is_in_the_manual() {
    let manual = include_str!("../../../docs/guide/policy.md");
    for code in CODES {
        assert!(manual.contains(&format!("`{code}`")), "docs/guide/policy.md lacks {code}");
    }
    let keys = keys();
    for path in &keys {
        let key = path.rsplit('.').next().unwrap();
        let written = [
            format!("`{key}`"),
            format!("`[{key}]`"),
            format!("`{key}."),
            format!(".{key}`"),
            format!("{key} = "),
        ];
        // A bank, a PCR, a product.
        let value = path.starts_with("vtpm.pcr.") || ["milan", "turin"].contains(&key);
        assert!(
            value || written.iter().any(|form| manual.contains(form)),
            "docs/guide/policy.md lacks the key {path}"
        );
    }
    assert!(keys.len() > 60, "only {} keys", keys.len());
}

/// Which claim each key appraises, by its path in the document of claims. The bits are in the order of `ALL`.
const APPRAISED: [(&str, &str); 38] = [
    ("unsafe_allow_debug", "policy.debug"),
    ("unsafe_allow_migration_agent", "policy.migrate_ma"),
    ("evidence", "requested_by"),
    ("guest.measurements", "measurement"),
    ("guest.host_data", "host_data"),
    ("guest.require", "policy.smt"),
    ("guest.require", "policy.single_socket"),
    ("guest.require", "policy.cxl_allow"),
    ("guest.require", "policy.mem_aes_256_xts"),
    ("guest.require", "policy.rapl_dis"),
    ("guest.require", "policy.ciphertext_hiding"),
    ("guest.require", "policy.page_swap_disable"),
    ("guest.min_svn", "guest_svn"),
    ("guest.family_id", "family_id"),
    ("guest.image_id", "image_id"),
    ("guest.id_keys", "id_key_digest"),
    ("guest.author_keys", "author_key_digest"),
    ("guest.max_vmpl", "vmpl"),
    ("platform.products", "product"),
    ("platform.signing_keys", "signing_key"),
    ("platform.require", "platform_info.smt"),
    ("platform.require", "platform_info.tsme"),
    ("platform.require", "platform_info.ecc"),
    ("platform.require", "platform_info.rapl_dis"),
    ("platform.require", "platform_info.ciphertext_hiding_dram"),
    ("platform.require", "platform_info.alias_check_complete"),
    ("platform.require", "platform_info.tio"),
    ("platform.min_tcb", "reported_tcb"),
    ("platform.min_tcb", "current_tcb"),
    ("platform.min_launch_tcb", "launch_tcb"),
    ("platform.min_firmware", "current_firmware"),
    ("platform.min_firmware", "committed_firmware"),
    ("platform.allow_provisional", "committed_tcb"),
    ("platform.mit_vector", "launch_mit_vector"),
    ("platform.mit_vector", "current_mit_vector"),
    ("platform.chip_ids", "chip_id"),
    ("platform.csp_ids", "csp_id"),
    ("platform.crl", "crl"),
];

/// Claims that no key is about: they identify, or other claims depend on them. REPORT_DATA answers a
/// challenge.
const NOT_APPRAISED: [&str; 4] = ["report_version", "cpuid", "report_id", "report_data"];

/// The words of a policy, of the document of claims and of the manual are about the same things.
#[test]
fn every_claim_has_its_key_and_every_bit_its_claim() {
    let Shape::Table(claims_shape) = CLAIMS else { panic!("claims are a table") };
    for (claim, _) in claims_shape {
        let is_of = |path: &str| path.split('.').next() == Some(*claim);
        let appraised = APPRAISED.iter().any(|(_, path)| is_of(path));
        assert!(appraised != NOT_APPRAISED.contains(claim), "{claim}");
    }
    let keys = keys();
    let document = serde_json::to_value(claims()).unwrap();
    let manual = include_str!("../../../docs/reference/attestation.md");
    let (_, manual) = manual.split_once("\n## Claims\n").unwrap();
    for (key, claim) in APPRAISED {
        assert!(keys.iter().any(|known| known == key), "{key}");
        let pointer = format!("/{}", claim.replace('.', "/"));
        assert!(document.pointer(&pointer).is_some(), "there is no claim {claim}");
        let (table, inner) = claim.split_once('.').unwrap_or((claim, ""));
        let row = manual.lines().find(|line| line.starts_with('|') && line.contains(&format!("`{table}")));
        let row = row.unwrap_or_else(|| panic!("docs/reference/attestation.md lacks {claim}"));
        assert!(row.contains(inner) && row.contains(&format!("`{key}`")), "no {key} beside {claim}: {row}");
    }
    // A bit that a policy names is the one that the document shows under its name.
    let of = |table: &str| -> Vec<&str> {
        let inner = APPRAISED.iter().filter_map(|(key, path)| {
            let (found, inner) = path.split_once('.')?;
            (found == table && key.ends_with(".require")).then_some(inner)
        });
        inner.collect()
    };
    let set = |claims: Claims, table: &str| -> Vec<String> {
        let document = serde_json::to_value(claims).unwrap();
        let flags = document[table].as_object().unwrap().iter();
        flags.filter(|(_, value)| *value == true).map(|(key, _)| key.clone()).collect()
    };
    for (bit, name) in GuestBit::ALL.into_iter().zip(of("policy")) {
        assert_eq!(set(Claims { policy: GuestPolicy(bit.mask()), ..claims() }, "policy"), [name]);
    }
    for (bit, name) in PlatformBit::ALL.into_iter().zip(of("platform_info")) {
        assert_eq!(set(Claims { platform_info: bit.mask(), ..claims() }, "platform_info"), [name]);
    }
    assert_eq!((of("policy").len(), of("platform_info").len()), (7, 7));
}
#[test]
fn codes_are_unique() {
    let mut all: Vec<_> = CODES.iter().chain(cvmm_attest::refusal::Refusal::CODES).collect();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn a_policy_gives_what_it_lists() {
    const GUID: &str = "736869e5-84f0-4973-92ec-06879ce3da0b";
    let release = |lines: &str| Policy::parse(&format!("{}[release]\n{lines}\n", base()));
    let given = release(&format!("secrets = [\"{GUID}\"]\nresources = [\"db\"]\nhand_over = [\"q\"]"))
        .unwrap()
        .release;
    assert!(given.gives_secret(GUID) && given.gives_secret(&GUID.to_uppercase()));
    assert!(!given.gives_secret("736869e5-84f0-4973-92ec-06879ce3da0c"));
    assert!(given.gives_resources("db") && !given.gives_resources("d"));
    assert!(given.hands_over("q") && !given.hands_over("p"));
    let nothing = Policy::parse(&base()).unwrap().release;
    assert!(!nothing.gives_secret(GUID) && !nothing.gives_resources("db") && !nothing.hands_over("q"));
    for bad in [
        "secrets = [\"*\"]",
        "secrets = [\"736869e5-84f0-4973-92ec-06879ce3da0\"]",
        "secrets = [\"736869e5-84f0-4973-92ec-06879ce3da+b\"]",
        "resources = [\"..\"]",
        "hand_over = [\"\"]",
        "hand_over = [\"p\"]",
        "other = []",
    ] {
        assert!(release(bad).is_err(), "{bad}");
    }
    let many = (0..65).map(|n| format!("\"q{n}\"")).collect::<Vec<_>>().join(",");
    assert!(release(&format!("hand_over = [{many}]")).is_err());
}
