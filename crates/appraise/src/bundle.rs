// SPDX-License-Identifier: Apache-2.0
//! Appraises a bundle of evidence.

use std::borrow::Cow;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_attest::claims::{Claims, Requester};
use cvmm_attest::encoding;
use cvmm_attest::table;
use cvmm_attest::verify::hint;
use cvmm_gate_protocol::binding::{self, Purpose, QuoteBinding, quote_data};
use cvmm_gate_protocol::bundle::{Bundle, Launch, MAX_BUNDLE, TpmEvidence};
use cvmm_gate_protocol::manifest::Manifest;
use cvmm_gate_protocol::messages::NONCE_LEN;
use cvmm_gate_protocol::messages::quote::{from_values, to_values};
use cvmm_policy::{Expected, Policy};
use cvmm_reason::Reason;
use cvmm_snp::digest::Digest;
use cvmm_tpm::eventlog::{Event, about, describe, kind_name};
use cvmm_tpm::pcr::PcrValues;
use cvmm_tpm::quote::{Evidence, QuoteClaims, verify};
use cvmm_tpm::{Name, Public};
use serde::Serialize;
use serde_json::{Value, json};

use crate::file::{FileError, read};
use crate::identity::{IdentityContext, Voucher, vouchers};
use crate::rego::undecided;
use crate::report::{
    Requirements, UnverifiedReport, Verdict, claim_lines, compare_report_data, verify_report,
};

/// Bytes of a digest in the table.
const DIGEST_PREFIX: usize = 8;
/// Maximum width of the description of an event in the table.
const MAX_ABOUT: usize = 56;

/// A row for each event: PCR, type, start of the strongest digest, and description.
fn event_table(events: &[Event]) -> Vec<String> {
    let row = |pcr: &str, kind: &str, digest: &str, about: &str| {
        format!("  {pcr:>3}  {kind:<34}  {digest:<17}  {about}").trim_end().to_owned()
    };
    let mut rows = vec![row("PCR", "event", "digest", "description (unverified)")];
    for event in events {
        let kind = kind_name(event.kind).map_or_else(|| format!("type {:#x}", event.kind), str::to_owned);
        let digest = event.digests.last_key_value().map_or_else(String::new, |(_, digest)| {
            format!("{}\u{2026}", hex::encode(digest.get(..DIGEST_PREFIX).unwrap_or(digest)))
        });
        let mut about = about(event);
        if about.len() > MAX_ABOUT {
            // Printable ASCII only.
            about.truncate(MAX_ABOUT - 1);
            about.push('\u{2026}');
        }
        rows.push(row(&event.pcr.to_string(), &kind, &digest, &about));
    }
    rows
}

/// What a bundle is appraised against.
#[derive(Debug)]
pub struct BundleRequirements<'a> {
    /// The requirements for the report. REPORT_DATA is derived from the nonce.
    pub report: Requirements<'a>,
    /// The nonce of the challenge.
    pub nonce: [u8; NONCE_LEN],
    /// Certificates, one of them for the signing key, instead of those in the bundle; not empty.
    pub vek: Option<Vec<Vec<u8>>>,
    /// The revocation list.
    pub crl: Option<Vec<u8>>,
    /// The certificate of the gate's TPM authority, in DER.
    pub tpm_ca: Option<Vec<u8>>,
    /// The expected name of the attestation key.
    pub ak_name: Option<Name>,
}

/// The result of appraising a bundle.
#[derive(Clone, Debug, Serialize)]
pub struct BundleVerdict {
    /// The verdict on the report, with all reasons.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The VM's name in the bundle. REPORT_DATA binds it if the report is accepted.
    pub vm_id: Option<String>,
    /// The TPM's claims, if its quote is verified.
    pub tpm: Option<TpmVerdict>,
}

/// A verified quote.
#[derive(Clone, Debug)]
pub struct TpmVerdict {
    /// Its claims.
    pub claims: QuoteClaims,
    /// What vouches for the key.
    pub vouched_by: Vec<Voucher>,
}

/// A bundle with its parts decoded.
struct DecodedBundle {
    bundle: Bundle,
    report: Vec<u8>,
    certificates: Option<Vec<u8>>,
    vek: Option<Vec<u8>>,
    key: Vec<u8>,
    tpm: Option<DecodedTpm>,
    launch: Option<DecodedLaunch>,
}

struct DecodedTpm {
    ak: Public,
    ak_certificate: Option<Vec<u8>>,
    attest: Vec<u8>,
    signature: Vec<u8>,
    pcrs: PcrValues,
    event_log: Option<Vec<u8>>,
}

struct DecodedLaunch {
    manifest: Manifest,
    host_data: [u8; 32],
}

fn decode_bundle(bytes: &[u8]) -> Result<DecodedBundle, String> {
    let bundle = Bundle::parse(bytes).map_err(|error| error.to_string())?;
    let maybe = |what, text: Option<&String>| text.map(|text| decode(what, text)).transpose();
    Ok(DecodedBundle {
        report: decode("report", &bundle.report)?,
        certificates: maybe("certificates", bundle.certificates.as_ref())?,
        vek: maybe("vek", bundle.vek.as_ref())?,
        key: maybe("key", bundle.key.as_ref())?.unwrap_or_default(),
        tpm: bundle.tpm.as_ref().map(decode_tpm).transpose()?,
        launch: bundle.launch.as_ref().map(decode_launch).transpose()?,
        bundle,
    })
}

fn decode(what: &str, text: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(text).map_err(|_| format!("{what} is not base64"))
}

fn decode_tpm(tpm: &TpmEvidence) -> Result<DecodedTpm, String> {
    let certificate = tpm.ak_certificate.as_deref();
    Ok(DecodedTpm {
        ak: Public::parse(&decode("tpm.ak", &tpm.ak)?).map_err(|error| format!("tpm.ak: {error}"))?,
        ak_certificate: certificate.map(|text| decode("tpm.ak_certificate", text)).transpose()?,
        attest: decode("tpm.quote.attest", &tpm.quote.attest)?,
        signature: decode("tpm.quote.signature", &tpm.quote.signature)?,
        pcrs: to_values(&tpm.quote.pcrs).ok_or("tpm.quote.pcrs: a PCR is malformed or given twice")?,
        event_log: tpm
            .quote
            .event_log
            .as_deref()
            .map(|log| decode("tpm.quote.event_log", log))
            .transpose()?,
    })
}

fn decode_launch(launch: &Launch) -> Result<DecodedLaunch, String> {
    let nonce = decode("launch.nonce", &launch.nonce)?;
    let nonce: [u8; NONCE_LEN] = nonce.try_into().map_err(|_| "launch.nonce has the wrong length")?;
    let policy: Digest =
        launch.policy_sha384.parse().map_err(|_| "launch.policy_sha384 is not a SHA-384 in hexadecimal")?;
    let manifest =
        serde_json::from_str(&launch.manifest).map_err(|error| format!("launch.manifest: {error}"))?;
    let host_data = binding::host_data(launch.manifest.as_bytes(), &nonce, &policy);
    Ok(DecodedLaunch { manifest, host_data })
}

/// Appraises the bundle in `path`.
///
/// # Errors
/// The file cannot be read. A malformed bundle is a verdict.
pub fn appraise_bundle(
    path: &Path,
    requirements: &BundleRequirements<'_>,
) -> Result<BundleVerdict, FileError> {
    let bytes = read(path, MAX_BUNDLE as u64)?;
    Ok(appraise_bytes(&bytes, requirements))
}

fn refused(reason: Reason, vm_id: Option<String>) -> BundleVerdict {
    let verdict =
        Verdict { believed: false, accepted: false, reasons: vec![reason], claims: None, unverified: None };
    BundleVerdict { verdict, vm_id, tpm: None }
}

fn appraise_bytes(bytes: &[u8], requirements: &BundleRequirements<'_>) -> BundleVerdict {
    let decoded = match decode_bundle(bytes) {
        Ok(decoded) => decoded,
        Err(problem) => {
            return refused(Reason::new("bundle.format", format!("malformed bundle: {problem}")), None);
        }
    };
    let vm_id = decoded.bundle.vm_id.clone();
    let vek = match (&requirements.vek, &decoded.vek, &decoded.certificates) {
        (Some(all), _, _) => match hint(&decoded.report) {
            Ok(hint) => encoding::pick(all.clone(), &hint).ok(),
            // Verification fails before any certificate is used.
            Err(_) => None,
        },
        (None, Some(vek), _) => Some(vek.clone()),
        (None, None, Some(table)) => match from_table(table, &decoded.report) {
            Ok(vek) => vek,
            Err(problem) => {
                return refused(
                    Reason::new("bundle.format", format!("certificates: {problem}")),
                    Some(vm_id),
                );
            }
        },
        (None, None, None) => None,
    };
    let claims = match verify_report(
        &decoded.report,
        vek.as_deref(),
        requirements.crl.as_deref(),
        &requirements.report,
    ) {
        Ok(claims) => claims,
        Err(reason) => {
            let verdict = Verdict::without(reason, &decoded.report);
            return BundleVerdict { verdict, vm_id: Some(vm_id), tpm: None };
        }
    };
    let mut reasons = about_report(&decoded, &claims, requirements);
    let manifest = about_launch(&decoded, &claims, &mut reasons);
    let quote = match &decoded.tpm {
        None => None,
        Some(tpm) => match quoted(tpm, &decoded, manifest, requirements) {
            Ok(tpm) => Some(tpm),
            Err(reason) => {
                reasons.push(reason);
                None
            }
        },
    };
    if let Some(policy) = requirements.report.policy {
        // A quote that is not verified already has its reason.
        if quote.is_some() || decoded.tpm.is_none() {
            reasons.extend(policy.appraise_quote(quote.as_ref().map(|quote| &quote.claims)));
        }
    }
    let verdict = Verdict::of(claims, reasons);
    BundleVerdict { verdict, vm_id: Some(vm_id), tpm: quote }
}

fn from_table(bytes: &[u8], report: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let Ok(hint) = hint(report) else { return Ok(None) };
    let vek = table::vek(bytes, &hint).map_err(|error| error.to_string())?;
    Ok(vek.map(Cow::into_owned))
}

/// Checks that the report answers the challenge and satisfies the policy.
fn about_report(
    decoded: &DecodedBundle,
    claims: &Claims,
    requirements: &BundleRequirements<'_>,
) -> Vec<Reason> {
    let (nonce, vm_id) = (&requirements.nonce, &decoded.bundle.vm_id);
    let report_data = match &decoded.tpm {
        Some(DecodedTpm { ak, attest, signature, .. }) => {
            let name = ak.name();
            let quoted = QuoteBinding { ak_name: name.as_bytes(), attest, signature };
            binding::quoted_report_data(nonce, vm_id, &decoded.key, &quoted)
        }
        None => binding::report_data(Purpose::Attest, nonce, vm_id, &decoded.key),
    };
    let now = requirements.report.now;
    let mut reasons = Vec::new();
    match requirements.report.policy {
        Some(policy) => {
            let expected = Expected {
                report_data: Some(&report_data),
                host_data: None,
                measurement: None,
                id_key: None,
            };
            reasons.extend(policy.appraise_time(now));
            reasons.extend(policy.appraise_claims(claims, &expected, now));
            reasons.extend(undecided(policy));
        }
        None => reasons.extend(compare_report_data(claims, Some(&report_data))),
    }
    // Independent of the policy: a bundle comes from a guest.
    let by_host = claims.requester == Requester::Host;
    if by_host && !reasons.iter().any(|reason| reason.code == "policy.evidence") {
        reasons.push(Reason::new("policy.evidence", "the host requested this report, not the guest"));
    }
    reasons
}

/// The manifest, if HOST_DATA binds it and it belongs to this VM.
fn about_launch<'a>(
    decoded: &'a DecodedBundle,
    claims: &Claims,
    reasons: &mut Vec<Reason>,
) -> Option<&'a Manifest> {
    let DecodedLaunch { manifest, host_data } = decoded.launch.as_ref()?;
    if *host_data != claims.host_data {
        reasons.push(Reason::new(
            "bundle.launch",
            "HOST_DATA mismatch: the manifest, nonce and policy in the bundle belong to a different launch",
        ));
        return None;
    }
    if manifest.vm_id != decoded.bundle.vm_id {
        reasons.push(Reason::new(
            "bundle.launch",
            format!(
                "VM mismatch: the manifest belongs to {:?}, the bundle to {:?}",
                manifest.vm_id, decoded.bundle.vm_id
            ),
        ));
        return None;
    }
    Some(manifest)
}

fn quoted(
    tpm: &DecodedTpm,
    decoded: &DecodedBundle,
    manifest: Option<&Manifest>,
    requirements: &BundleRequirements<'_>,
) -> Result<TpmVerdict, Reason> {
    let evidence = Evidence {
        ak: &tpm.ak,
        attest: &tpm.attest,
        signature: &tpm.signature,
        qualifying_data: &quote_data(&requirements.nonce, &decoded.key),
        pcrs: &tpm.pcrs,
        event_log: tpm.event_log.as_deref(),
    };
    let claims = verify(&evidence).map_err(|error| Reason::new(error.code(), error.to_string()))?;
    let context = IdentityContext {
        vm_id: &decoded.bundle.vm_id,
        now: requirements.report.now,
        name: requirements.ak_name.as_ref(),
        manifest,
        certificates: requirements.tpm_ca.as_deref().zip(tpm.ak_certificate.as_deref()),
    };
    let vouched_by = vouchers(&tpm.ak, &context).map_err(|what| Reason::new("bundle.identity", what))?;
    Ok(TpmVerdict { claims, vouched_by })
}

impl TpmVerdict {
    fn document(&self) -> Value {
        let QuoteClaims { ak_name, pcrs, clock, firmware_version, log } = &self.claims;
        let log = log.as_ref().map(|found| {
            let event = |event: &Event| {
                let digests: serde_json::Map<_, _> = event
                    .digests
                    .iter()
                    .map(|(bank, digest)| (bank.name().to_owned(), hex::encode(digest).into()))
                    .collect();
                json!({
                    "offset": event.offset,
                    "pcr": event.pcr,
                    "type": event.kind,
                    "name": kind_name(event.kind),
                    "says": describe(event),
                    "digests": digests,
                })
            };
            let explained: Vec<_> = found
                .explained
                .iter()
                .map(|(bank, pcr)| json!({ "bank": bank.name(), "index": pcr }))
                .collect();
            let events: Vec<_> = found.log.events.iter().map(event).collect();
            json!({
                "startup_locality": found.log.startup_locality,
                "explained": explained,
                "events": events,
            })
        });
        json!({
            "ak_name": ak_name.to_string(),
            "vouched_by": self.vouched_by,
            "clock": {
                "clock_ms": clock.clock,
                "reset_count": clock.reset_count,
                "restart_count": clock.restart_count,
                "safe": clock.safe,
            },
            "firmware_version": format!("{firmware_version:#018x}"),
            "pcrs": from_values(pcrs),
            "event_log": log,
        })
    }
}

impl Serialize for TpmVerdict {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.document().serialize(serializer)
    }
}

impl BundleVerdict {
    /// The verdict as text, with the events of the log if `events`.
    #[must_use]
    pub fn lines(&self, policy: Option<&Policy>, events: bool) -> Vec<String> {
        let mut lines = self.verdict.head();
        let mut row = |name: &str, value: String| lines.push(format!("{name:<19}{value}"));
        if let Some(vm_id) = &self.vm_id {
            row("VM", vm_id.escape_default().to_string());
        }
        if let Some(policy) = policy {
            row("policy", format!("{}, version {}", policy.id, policy.version));
        }
        if let Some(claims) = &self.verdict.claims {
            lines.extend(claim_lines(claims));
        }
        lines.extend(self.verdict.unverified.as_ref().map(UnverifiedReport::lines).unwrap_or_default());
        let Some(tpm) = &self.tpm else {
            if self.verdict.believed {
                lines.push(format!("{:<19}none verified", "TPM quote"));
            }
            return lines;
        };
        let QuoteClaims { ak_name, pcrs, clock, log, .. } = &tpm.claims;
        let mut row = |name: &str, value: String| lines.push(format!("{name:<19}{value}"));
        row("attestation key", ak_name.to_string());
        let who: Vec<_> = tpm.vouched_by.iter().map(|voucher| voucher.name()).collect();
        row("vouched for by", who.join(", "));
        let safe = if clock.safe { "" } else { ", may have been set back" };
        row(
            "TPM clock",
            format!("{} ms, reset {}, restart {}{safe}", clock.clock, clock.reset_count, clock.restart_count),
        );
        for ((bank, pcr), value) in &pcrs.0 {
            let explained = log.as_ref().is_some_and(|log| log.explained.contains(&(*bank, *pcr)));
            let mark = if explained { ", matches the event log" } else { "" };
            row(&format!("PCR {pcr:>2} {}", bank.name()), format!("{}{mark}", hex::encode(value)));
        }
        match log {
            None => row("event log", "none".to_owned()),
            Some(log) => {
                row("event log", format!("{} events", log.log.events.len()));
                if events {
                    lines.extend(event_table(&log.log.events));
                }
            }
        }
        lines
    }
}
