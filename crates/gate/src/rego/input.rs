// SPDX-License-Identifier: Apache-2.0
//! The document that Rego code judges, and its shape.
//!
//! Every key of [`DOCUMENT`] is there at every stage; what is not known at a stage is `null`.

use cvmm_attest::claims::{Claims, Requester, Revocation};
use cvmm_attest::policy::PlatformFacts;
use cvmm_gate_protocol::manifest::{Boot, Manifest};
use cvmm_snp::policy::GuestPolicy;
use cvmm_snp::tcb::TcbParts;
use serde_json::{Map, Value, json};

/// What stands at a place of the document.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// A string or `null`.
    Text,
    /// A number or `null`.
    Number,
    /// A boolean or `null`.
    Flag,
    /// A list of strings, or `null`.
    Texts,
    /// An object with these keys, all of them.
    Table(&'static [(&'static str, Shape)]),
}

use Shape::{Flag, Number, Table, Text, Texts};

const TCB: Shape = Table(&[
    ("fmc", Number),
    ("bootloader", Number),
    ("tee", Number),
    ("snp", Number),
    ("microcode", Number),
]);
const FIRMWARE: Shape = Table(&[("major", Number), ("minor", Number), ("build", Number)]);

/// The document.
pub const DOCUMENT: Shape = Table(&[
    ("stage", Text),
    ("now", Number),
    ("policy", Table(&[("id", Text), ("version", Number)])),
    (
        "launch",
        Table(&[
            ("vm_id", Text),
            ("isolation", Text),
            ("profile", Text),
            ("digest", Text),
            ("policy", Number),
            ("vcpus", Number),
            ("memory", Number),
            ("cpu_signature", Number),
            ("sev_features", Number),
            ("first_stage", Text),
            ("vmm", Text),
            ("disks", Texts),
            ("writable_disks", Texts),
            ("console", Text),
            ("rng", Flag),
            ("vlek_only", Flag),
            ("cpuid_corrections", Flag),
            ("debug", Texts),
        ]),
    ),
    (
        "platform",
        Table(&[("evidence", Text), ("product", Text), ("firmware", FIRMWARE), ("reported_tcb", TCB)]),
    ),
    (
        "report",
        Table(&[
            ("version", Number),
            ("product", Text),
            ("family", Number),
            ("model", Number),
            ("stepping", Number),
            ("signing_key", Text),
            ("requester", Text),
            ("vmpl", Number),
            ("policy", Number),
            ("debug", Flag),
            ("migration_agent", Flag),
            ("smt", Flag),
            ("single_socket", Flag),
            ("guest_svn", Number),
            ("family_id", Text),
            ("image_id", Text),
            ("measurement", Text),
            ("host_data", Text),
            ("report_data", Text),
            ("report_id", Text),
            ("id_key_digest", Text),
            ("author_key_digest", Text),
            ("platform_info", Number),
            ("chip_id", Text),
            ("csp_id", Text),
            ("reported_tcb", TCB),
            ("current_tcb", TCB),
            ("committed_tcb", TCB),
            ("launch_tcb", TCB),
            ("current_firmware", FIRMWARE),
            ("committed_firmware", FIRMWARE),
            ("launch_mit_vector", Number),
            ("current_mit_vector", Number),
            ("crl_this_update", Number),
            ("crl_next_update", Number),
        ]),
    ),
]);

/// Paths whose value is known at every stage.
pub const ALWAYS: [&str; 4] = ["stage", "now", "policy.id", "policy.version"];

/// When the code is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before a launch.
    Launch,
    /// After it, before the first instruction.
    Evidence,
    /// The running guest shows a report.
    Guest,
}

/// What is known, of which each may be missing.
#[derive(Debug)]
pub struct Known<'a> {
    /// When.
    pub stage: Stage,
    /// The time, in seconds of Unix time.
    pub now: i64,
    /// The policy's name and version.
    pub policy: (&'a str, u64),
    /// What is launched, with its digest.
    pub launch: Option<(&'a Manifest, String)>,
    /// The platform, as the host describes it.
    pub platform: Option<&'a PlatformFacts>,
    /// A verified report.
    pub report: Option<&'a Claims>,
}

/// The document for what is known.
#[must_use]
pub fn document(known: &Known<'_>) -> Value {
    let mut document = blank(&DOCUMENT);
    let stage = match known.stage {
        Stage::Launch => "launch",
        Stage::Evidence => "evidence",
        Stage::Guest => "guest",
    };
    let (id, version) = known.policy;
    let top = json!({ "stage": stage, "now": known.now, "policy": { "id": id, "version": version } });
    fill(&mut document, top);
    if let Some((manifest, digest)) = &known.launch {
        fill(&mut document, json!({ "launch": launch(manifest, digest) }));
    }
    if let Some(facts) = known.platform {
        let firmware = facts.firmware;
        let platform = json!({
            "evidence": facts.class.name(),
            "product": facts.product.map(|product| product.to_string()),
            "firmware": { "major": firmware.major, "minor": firmware.minor, "build": firmware.build },
            "reported_tcb": tcb(facts.reported_tcb.as_ref()),
        });
        fill(&mut document, json!({ "platform": platform }));
    }
    if let Some(claims) = known.report {
        fill(&mut document, json!({ "report": report(claims) }));
    }
    document
}

/// A value of this shape of which nothing is known.
fn blank(shape: &Shape) -> Value {
    match shape {
        Text | Number | Flag | Texts => Value::Null,
        Table(keys) => {
            Value::Object(keys.iter().map(|(key, shape)| ((*key).to_owned(), blank(shape))).collect())
        }
    }
}

/// Puts what is known into a blank. Tables are filled key by key, so that none of the blank's is lost.
fn fill(blank: &mut Value, known: Value) {
    match (blank, known) {
        (Value::Object(blank), Value::Object(known)) => {
            for (key, value) in known {
                fill(blank.entry(key).or_insert(Value::Null), value);
            }
        }
        // A table of which nothing is known stays what it is.
        (Value::Object(_), Value::Null) => {}
        (place, value) => *place = value,
    }
}

fn launch(manifest: &Manifest, digest: &str) -> Value {
    let Manifest { format: _, vm_id, isolation, launch, machine } = manifest;
    let disks = |all: bool| -> Vec<&str> {
        let wanted = machine.disks.iter().filter(|disk| all || !disk.read_only);
        wanted.map(|disk| disk.serial.as_str()).collect()
    };
    json!({
        "vm_id": vm_id,
        "isolation": isolation,
        "profile": match launch.boot {
            Boot::Uki { .. } => "uki",
            Boot::Hashes { .. } => "hashes",
            Boot::Disk => "disk",
        },
        "digest": digest,
        "policy": launch.policy,
        "vcpus": launch.vcpus,
        "memory": launch.memory,
        "cpu_signature": launch.cpu_signature,
        "sev_features": launch.sev_features,
        "first_stage": launch.first_stage.as_ref().map(|stage| &stage.program),
        "vmm": machine.vmm,
        "disks": disks(true),
        "writable_disks": disks(false),
        "console": machine.console,
        "rng": machine.rng,
        "vlek_only": machine.vlek_only,
        "cpuid_corrections": machine.cpuid_corrections,
        "debug": machine.debug,
    })
}

fn tcb(parts: Option<&TcbParts>) -> Value {
    parts.map_or(Value::Null, |parts| {
        let TcbParts { fmc, bootloader, tee, snp, microcode } = parts;
        json!({ "fmc": fmc, "bootloader": bootloader, "tee": tee, "snp": snp, "microcode": microcode })
    })
}

fn report(claims: &Claims) -> Value {
    // A new claim does not compile until it is shown, too.
    let Claims {
        report_version,
        product,
        cpuid,
        signing_key,
        requester,
        policy,
        guest_svn,
        family_id,
        image_id,
        measurement,
        host_data,
        report_data,
        id_key_digest,
        author_key_digest,
        report_id,
        platform_info,
        chip_id,
        csp_id,
        reported_tcb,
        current_tcb,
        committed_tcb,
        launch_tcb,
        current_firmware,
        committed_firmware,
        launch_mit_vector,
        current_mit_vector,
        revocation,
    } = claims;
    let firmware = |version: &cvmm_attest::claims::FirmwareVersion| json!({ "major": version.major, "minor": version.minor, "build": version.build });
    let (requester, vmpl) = match requester {
        Requester::Guest(vmpl) => ("guest", Some(vmpl)),
        Requester::Host => ("host", None),
    };
    let (this_update, next_update) = match revocation {
        Revocation::NoList => (None, None),
        Revocation::List { this_update, next_update } => (Some(this_update), next_update.as_ref()),
    };
    let pairs = [
        ("version", json!(report_version)),
        ("product", json!(product.to_string())),
        ("family", json!(cpuid.map(|(family, _, _)| family))),
        ("model", json!(cpuid.map(|(_, model, _)| model))),
        ("stepping", json!(cpuid.map(|(_, _, stepping)| stepping))),
        ("signing_key", json!(signing_key)),
        ("requester", json!(requester)),
        ("vmpl", json!(vmpl)),
        ("policy", json!(policy.0)),
        ("debug", json!(policy.has(GuestPolicy::DEBUG))),
        ("migration_agent", json!(policy.has(GuestPolicy::MIGRATE_MA))),
        ("smt", json!(policy.has(GuestPolicy::SMT))),
        ("single_socket", json!(policy.has(GuestPolicy::SINGLE_SOCKET))),
        ("guest_svn", json!(guest_svn)),
        ("family_id", json!(hex::encode(family_id))),
        ("image_id", json!(hex::encode(image_id))),
        ("measurement", json!(measurement.to_string())),
        ("host_data", json!(hex::encode(host_data))),
        ("report_data", json!(hex::encode(report_data))),
        ("report_id", json!(hex::encode(report_id))),
        ("id_key_digest", json!(id_key_digest.to_string())),
        ("author_key_digest", json!(author_key_digest.map(|digest| digest.to_string()))),
        ("platform_info", json!(platform_info)),
        ("chip_id", json!(chip_id.map(hex::encode))),
        ("csp_id", json!(csp_id)),
        ("reported_tcb", tcb(Some(reported_tcb))),
        ("current_tcb", tcb(Some(current_tcb))),
        ("committed_tcb", tcb(Some(committed_tcb))),
        ("launch_tcb", tcb(Some(launch_tcb))),
        ("current_firmware", firmware(current_firmware)),
        ("committed_firmware", firmware(committed_firmware)),
        ("launch_mit_vector", json!(launch_mit_vector)),
        ("current_mit_vector", json!(current_mit_vector)),
        ("crl_this_update", json!(this_update)),
        ("crl_next_update", json!(next_update)),
    ];
    Value::Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>())
}

/// Whether `document` has every key of the shape, none more, and each with a value of its type or `null`.
#[must_use]
pub fn fits(document: &Value, shape: &Shape) -> bool {
    match (shape, document) {
        (Table(keys), Value::Object(found)) => {
            let there =
                |(key, shape): &(&str, Shape)| found.get(*key).is_some_and(|value| fits(value, shape));
            found.len() == keys.len() && keys.iter().all(there)
        }
        (Texts, Value::Array(items)) => items.iter().all(Value::is_string),
        (Text, Value::String(_)) | (Number, Value::Number(_)) | (Flag, Value::Bool(_)) => true,
        (Text | Number | Flag | Texts, Value::Null) => true,
        _ => false,
    }
}
