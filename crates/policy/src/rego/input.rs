// SPDX-License-Identifier: Apache-2.0
//! The document that Rego code reads as `input`, and its shape.
//!
//! Every key of [`DOCUMENT`] is there at every stage; what is not known at a stage is `null`. `input.report`
//! is the document of claims that `cvmm attest --json` prints ([`cvmm_attest::document`]), except that a
//! table of which nothing is known is a table of `null`.

use cvmm_attest::claims::Claims;
use cvmm_attest::document::{Firmware, Shape, Shaped, Tcb};
use cvmm_attest::shaped_table;
use cvmm_gate_protocol::manifest::{Boot, Launch as LaunchManifest, Machine, Manifest};
use serde_json::Value;

use crate::appraise::PlatformFacts;

/// The document.
pub const DOCUMENT: Shape = Document::SHAPE;

/// Paths whose value is known at every stage.
pub const ALWAYS: [&str; 4] = ["stage", "now", "policy.id", "policy.version"];

/// Paths of earlier versions, with what replaces them: the lint names it.
pub const RENAMED: [(&str, &str); 13] = [
    ("report.version", "report.report_version"),
    ("report.family", "report.cpuid.family"),
    ("report.model", "report.cpuid.model"),
    ("report.stepping", "report.cpuid.stepping"),
    ("report.requester", "report.requested_by"),
    ("report.policy", "report.policy.value"),
    ("report.debug", "report.policy.debug"),
    ("report.migration_agent", "report.policy.migrate_ma"),
    ("report.smt", "report.policy.smt"),
    ("report.single_socket", "report.policy.single_socket"),
    ("report.platform_info", "report.platform_info.value"),
    ("report.crl_this_update", "report.crl.this_update"),
    ("report.crl_next_update", "report.crl.next_update"),
];

/// When the code is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before a launch.
    Launch,
    /// After it, before the first instruction.
    Evidence,
    /// When a running guest presents a report.
    Guest,
}

/// The facts that the document is made of. What is not known at a stage is `None`.
#[derive(Debug)]
pub struct Facts<'a> {
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

shaped_table! {
    struct Document<'a> {
        stage: &'static str,
        now: i64,
        policy: PolicyName<'a>,
        launch: Option<Launch<'a>>,
        platform: Option<Platform>,
        report: Option<&'a Claims>,
    }
}

shaped_table! {
    struct PolicyName<'a> {
        id: &'a str,
        version: u64,
    }
}

shaped_table! {
    struct Launch<'a> {
        vm_id: &'a str,
        isolation: &'a str,
        profile: &'static str,
        digest: &'a str,
        policy: u64,
        vcpus: u32,
        memory: u64,
        cpu_signature: u32,
        sev_features: u64,
        first_stage: Option<&'a str>,
        vmm: &'a str,
        disks: Vec<&'a str>,
        writable_disks: Vec<&'a str>,
        console: &'a str,
        rng: bool,
        vlek_only: bool,
        cpuid_corrections: bool,
        debug: &'a [String],
    }
}

shaped_table! {
    struct Platform {
        evidence: &'static str,
        product: Option<cvmm_attest::claims::Product>,
        firmware: Firmware,
        reported_tcb: Option<Tcb>,
    }
}

/// The document of these facts.
#[must_use]
pub fn document(facts: &Facts<'_>) -> Value {
    let Facts { stage, now, policy: (id, version), launch, platform, report } = facts;
    let document = Document {
        stage: match stage {
            Stage::Launch => "launch",
            Stage::Evidence => "evidence",
            Stage::Guest => "guest",
        },
        now: *now,
        policy: PolicyName { id, version: *version },
        launch: launch.as_ref().map(|(manifest, digest)| Launch::new(manifest, digest)),
        platform: platform.map(Platform::new),
        report: *report,
    };
    // Strings, numbers and structs of them are always JSON. `null` would not fit the shape.
    let mut document = serde_json::to_value(document).unwrap_or_default();
    complete(&mut document, &DOCUMENT);
    document
}

impl<'a> Launch<'a> {
    fn new(manifest: &'a Manifest, digest: &'a str) -> Self {
        // A new field of the manifest does not compile until it is in the document or named here.
        let Manifest { format: _, vm_id, isolation, launch, machine } = manifest;
        let LaunchManifest {
            firmware: _,
            boot,
            vcpus,
            memory,
            low_memory: _,
            cpu_signature,
            sev_features,
            policy,
            first_stage,
            // In the digest.
            secure_boot: _,
            loader: _,
        } = launch;
        let Machine { vmm, disks, console, rng, vlek_only, cpuid_corrections, vtpm: _, debug } = machine;
        Self {
            vm_id,
            isolation,
            profile: match boot {
                Boot::Uki { .. } => "uki",
                Boot::Hashes { .. } => "hashes",
                Boot::Disk => "disk",
            },
            digest,
            policy: *policy,
            vcpus: *vcpus,
            memory: *memory,
            cpu_signature: *cpu_signature,
            sev_features: *sev_features,
            first_stage: first_stage.as_ref().map(|stage| stage.program.as_str()),
            vmm,
            disks: disks.iter().map(|disk| disk.serial.as_str()).collect(),
            writable_disks: disks
                .iter()
                .filter(|disk| !disk.read_only)
                .map(|disk| disk.serial.as_str())
                .collect(),
            console,
            rng: *rng,
            vlek_only: *vlek_only,
            cpuid_corrections: *cpuid_corrections,
            debug,
        }
    }
}

impl Platform {
    fn new(facts: &PlatformFacts) -> Self {
        let PlatformFacts { class, product, firmware, reported_tcb } = *facts;
        Self {
            evidence: class.name(),
            product,
            firmware: firmware.into(),
            reported_tcb: reported_tcb.map(Into::into),
        }
    }
}

/// Replaces each `null` at a table's place by the table, with `null` for every key.
fn complete(value: &mut Value, shape: &Shape) {
    let Shape::Table(keys) = shape else { return };
    if value.is_null() {
        *value = Value::Object(keys.iter().map(|(key, _)| ((*key).to_owned(), Value::Null)).collect());
    }
    if let Value::Object(found) = value {
        for (key, shape) in *keys {
            if let Some(value) = found.get_mut(*key) {
                complete(value, shape);
            }
        }
    }
}

/// Whether `document` has every key of the shape, no others, and each with a value of its type or `null`.
#[must_use]
pub fn fits(document: &Value, shape: &Shape) -> bool {
    match (shape, document) {
        (Shape::Table(keys), Value::Object(found)) => {
            let there =
                |(key, shape): &(&str, Shape)| found.get(*key).is_some_and(|value| fits(value, shape));
            found.len() == keys.len() && keys.iter().all(there)
        }
        (Shape::Texts, Value::Array(items)) => items.iter().all(Value::is_string),
        (Shape::Text, Value::String(_))
        | (Shape::Number, Value::Number(_))
        | (Shape::Flag, Value::Bool(_)) => true,
        (Shape::Text | Shape::Number | Shape::Flag | Shape::Texts, Value::Null) => true,
        _ => false,
    }
}
