// SPDX-License-Identifier: Apache-2.0
//! Key release policies of Azure Key Vault, version 1.0.0.
//!
//! ```json
//! {"version": "1.0.0", "anyOf": [{"authority": "https://…", "allOf": [{"claim": "x-ms-…", "equals": "…"}]}]}
//! ```
//! A policy here is a list of clauses that all have to hold, some of which name several values. So one
//! authority is taken, and within it alternatives (`anyOf`) only between values of one claim that a policy
//! here lists. Claims: as Microsoft Azure Attestation names them for SEV-SNP VMs, with or without
//! `x-ms-isolation-tee.` in front.

use cvmm_snp::digest::Digest;
use cvmm_snp::tcb::TcbParts;
use serde_json::{Map, Value};

use super::{Draft, ImportError, Imported, Options};
use crate::guest::GuestBit;

/// Conditions of one policy, at most.
const MAX_CONDITIONS: usize = 256;
const TEE: &str = "x-ms-isolation-tee.";

/// What the claims said.
#[derive(Default)]
struct ClaimValues {
    measurements: Vec<Digest>,
    host_data: Vec<[u8; 32]>,
    id_keys: Vec<Digest>,
    author_keys: Vec<Digest>,
    family_id: Option<[u8; 16]>,
    image_id: Option<[u8; 16]>,
    svn: u32,
    max_vmpl: Option<u8>,
    smt: Option<bool>,
    bootloader: Option<u8>,
    tee: Option<u8>,
    snp: Option<u8>,
    microcode: Option<u8>,
}

/// The claim a condition is about, once it is found and read.
struct Condition<'a> {
    claim: &'a str,
    equals: &'a Value,
}

pub(super) fn import(text: &str, options: &Options) -> Result<Imported, ImportError> {
    let file = |problem: &str| ImportError::one("file", problem);
    // Depth is limited by the parser.
    let root: Value = serde_json::from_str(text).map_err(|error| file(&error.to_string()))?;
    let root = root.as_object().ok_or_else(|| file("is not an object"))?;
    let mut draft = Draft::new(options);
    only(&mut draft, "", root, &["version", "anyOf"]);
    if root.get("version").and_then(Value::as_str) != Some("1.0.0") {
        draft.refuse("version", "is not \"1.0.0\"");
    }
    let authority = match root.get("anyOf").and_then(Value::as_array).map(Vec::as_slice) {
        Some([authority]) => authority.as_object(),
        Some([_, _, ..]) => {
            return Err(ImportError::one("anyOf", "has several authorities; make a policy of each"));
        }
        _ => None,
    };
    let authority = authority.ok_or_else(|| ImportError::one("anyOf", "is not a list with an authority"))?;
    only(&mut draft, "anyOf[0].", authority, &["authority", "allOf"]);
    match authority.get("authority").and_then(Value::as_str) {
        Some(url) => {
            draft.note(format!("authority {url}: here the gate itself verifies reports, by AMD's roots"))
        }
        None => draft.refuse("anyOf[0].authority", "is missing"),
    }
    let Some(conditions) = authority.get("allOf").and_then(Value::as_array) else {
        return Err(ImportError::one("anyOf[0].allOf", "is missing: it lists what has to hold"));
    };
    if conditions.len() > MAX_CONDITIONS {
        return Err(ImportError::one("anyOf[0].allOf", format!("has more than {MAX_CONDITIONS} conditions")));
    }
    let mut found = ClaimValues::default();
    let mut seen = Vec::new();
    for (index, value) in conditions.iter().enumerate() {
        let place = format!("anyOf[0].allOf[{index}]");
        let Some(group) = alternatives(&mut draft, &place, value) else { continue };
        let Some(first) = group.first() else { continue };
        let claim = first.claim.strip_prefix(TEE).unwrap_or(first.claim);
        if draft.left_out(claim) || draft.left_out(first.claim) {
            continue;
        }
        if group.iter().any(|other| other.claim != first.claim) {
            draft.refuse(
                place,
                "has alternatives between different claims, which a policy here cannot express",
            );
        } else if seen.contains(&claim) {
            draft.refuse(claim, "appears twice");
        } else if group.len() > 1 && !is_listed(claim) {
            draft
                .refuse(claim, "has alternatives; a policy here lists measurements, HOST_DATA and keys only");
        } else {
            seen.push(claim);
            for condition in &group {
                if let Err(problem) = take(&mut draft, &mut found, claim, condition.equals) {
                    draft.refuse(claim, problem);
                }
            }
        }
    }
    finish(draft, found)
}

/// The conditions of which one has to hold: one alone, or those of an `anyOf`.
fn alternatives<'a>(draft: &mut Draft<'_>, place: &str, value: &'a Value) -> Option<Vec<Condition<'a>>> {
    let Some(object) = value.as_object() else {
        draft.refuse(place, "is not a condition");
        return None;
    };
    let Some(any) = object.get("anyOf") else { return condition(draft, place, object).map(|one| vec![one]) };
    only(draft, &format!("{place}."), object, &["anyOf"]);
    let Some(any) = any.as_array().filter(|any| (1..=MAX_CONDITIONS).contains(&any.len())) else {
        draft.refuse(format!("{place}.anyOf"), format!("is not a list of 1 to {MAX_CONDITIONS} conditions"));
        return None;
    };
    let inner = any.iter().enumerate().map(|(index, value)| {
        let place = format!("{place}.anyOf[{index}]");
        let Some(object) = value.as_object() else {
            draft.refuse(place, "is not a condition");
            return None;
        };
        condition(draft, &place, object)
    });
    // All of them, so that each is reported.
    inner.collect::<Vec<_>>().into_iter().collect()
}

fn condition<'a>(
    draft: &mut Draft<'_>,
    place: &str,
    object: &'a Map<String, Value>,
) -> Option<Condition<'a>> {
    only(draft, &format!("{place}."), object, &["claim", "equals"]);
    match (object.get("claim").and_then(Value::as_str), object.get("equals")) {
        (Some(claim), Some(equals)) => Some(Condition { claim, equals }),
        _ => {
            draft.refuse(place, "is not {\"claim\": NAME, \"equals\": VALUE}");
            None
        }
    }
}

fn only(draft: &mut Draft<'_>, place: &str, object: &Map<String, Value>, known: &[&str]) {
    for key in object.keys().filter(|key| !known.contains(&key.as_str())) {
        draft.refuse(format!("{place}{key}"), "is unknown");
    }
}

/// Claims for which a policy here has a list.
fn is_listed(claim: &str) -> bool {
    matches!(
        claim,
        "x-ms-sevsnpvm-launchmeasurement"
            | "x-ms-sevsnpvm-hostdata"
            | "x-ms-sevsnpvm-idkeydigest"
            | "x-ms-sevsnpvm-authorkeydigest"
    )
}

fn take(draft: &mut Draft<'_>, found: &mut ClaimValues, claim: &str, value: &Value) -> Result<(), String> {
    let Some(short) = claim.strip_prefix("x-ms-sevsnpvm-") else {
        if claim == "x-ms-attestation-type" {
            let snp = value.as_str() == Some("sevsnpvm");
            return if snp { Ok(()) } else { Err("is not \"sevsnpvm\"".to_owned()) };
        }
        draft.cannot(claim, "is Azure's own claim, which no report has");
        return Ok(());
    };
    match short {
        "launchmeasurement" => found.measurements.push(Digest(hex(value)?)),
        "hostdata" => found.host_data.push(hex(value)?),
        "idkeydigest" => found.id_keys.push(Digest(hex(value)?)),
        "authorkeydigest" => found.author_keys.push(Digest(hex(value)?)),
        "familyId" => found.family_id = Some(hex(value)?),
        "imageId" => found.image_id = Some(hex(value)?),
        "is-debuggable" | "migration-allowed" => {
            if flag(value)? {
                return Err(
                    "has to be false: a policy here can allow this (unsafe_ keys), but not require it"
                        .to_owned(),
                );
            }
        }
        "smt-allowed" => found.smt = Some(flag(value)?),
        "vmpl" => match number(value)? {
            0 => found.max_vmpl = Some(0),
            vmpl @ 1..=3 => {
                if draft.limit(claim, &format!("at most {vmpl}")) {
                    found.max_vmpl = Some(vmpl as u8);
                }
            }
            _ => return Err("is not 0 to 3".to_owned()),
        },
        "guestsvn" => {
            let svn = number(value)?;
            if draft.limit(claim, &format!("at least {svn}")) {
                found.svn = svn;
            }
        }
        "bootloader-svn" | "tee-svn" | "snpfw-svn" | "microcode-svn" => {
            let svn = u8::try_from(number(value)?).map_err(|_| "is more than 255".to_owned())?;
            if draft.limit(claim, &format!("at least {svn}")) {
                let part = match short {
                    "bootloader-svn" => &mut found.bootloader,
                    "tee-svn" => &mut found.tee,
                    "snpfw-svn" => &mut found.snp,
                    _ => &mut found.microcode,
                };
                *part = Some(svn);
            }
        }
        "reportdata" | "reportid" => {
            draft.cannot(
                claim,
                "changes with every report or run; the gate compares REPORT_DATA with its own challenge",
            );
        }
        _ => draft.cannot(claim, "is unknown"),
    }
    Ok(())
}

fn finish(mut draft: Draft<'_>, found: ClaimValues) -> Result<Imported, ImportError> {
    let named = [found.bootloader, found.tee, found.snp, found.microcode];
    let tcb = if named.iter().all(Option::is_none) {
        None
    } else {
        // What the claims do not name is taken from the command line, or may be anything.
        let base = draft.options.tcb.unwrap_or(TcbParts {
            fmc: (draft.options.product == Some(cvmm_attest::claims::Product::Turin)).then_some(0),
            bootloader: 0,
            tee: 0,
            snp: 0,
            microcode: 0,
        });
        // The stricter of both.
        let part = |named: Option<u8>, base: u8| named.map_or(base, |named| named.max(base));
        Some(TcbParts {
            fmc: base.fmc,
            bootloader: part(found.bootloader, base.bootloader),
            tee: part(found.tee, base.tee),
            snp: part(found.snp, base.snp),
            microcode: part(found.microcode, base.microcode),
        })
    };
    draft.note(
        "signing_keys, provisional firmware: left to Azure in the original; see platform.allow_provisional",
    );
    let product = draft.options.product;
    draft.finish(product, tcb, |out| {
        let guest = &mut out.guest;
        guest.measurements = found.measurements;
        guest.host_data = found.host_data;
        guest.id_keys = found.id_keys;
        guest.author_keys = found.author_keys;
        guest.family_id = found.family_id;
        guest.image_id = found.image_id;
        guest.min_svn = found.svn;
        guest.max_vmpl = found.max_vmpl.unwrap_or(3);
        guest.profiles = ["uki", "hashes", "disk"].map(str::to_owned).to_vec();
        match found.smt {
            Some(true) => guest.require.push(GuestBit::Smt),
            Some(false) => guest.forbid.push(GuestBit::Smt),
            None => {}
        }
    })
}

/// Such values are booleans, or words in strings.
fn flag(value: &Value) -> Result<bool, String> {
    match (value, value.as_str()) {
        (Value::Bool(flag), _) => Ok(*flag),
        (_, Some("true")) => Ok(true),
        (_, Some("false")) => Ok(false),
        _ => Err("is neither true nor false".to_owned()),
    }
}

fn number(value: &Value) -> Result<u32, String> {
    let number = match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64().and_then(|number| u32::try_from(number).ok()),
    };
    number.ok_or_else(|| "is not a number".to_owned())
}

fn hex<const N: usize>(value: &Value) -> Result<[u8; N], String> {
    let wrong = || format!("is not {} hexadecimal digits", 2 * N);
    let text = value.as_str().ok_or_else(wrong)?;
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| wrong())?;
    Ok(bytes)
}
