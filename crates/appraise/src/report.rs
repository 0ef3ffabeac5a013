// SPDX-License-Identifier: Apache-2.0
//! Appraises a report.

use std::path::PathBuf;

use cvmm_attest::claims::{Claims, Product, Requester, Revocation};
use cvmm_attest::kds::{self, Download, Subject};
use cvmm_attest::refusal::Refusal;
use cvmm_attest::roots::Trust;
use cvmm_attest::verify::{CrlUse, Evidence, Options, Unverified, hint, read_unverified, verify};
use cvmm_policy::{CrlRule, Expected, Policy};
use cvmm_reason::Reason;
use serde::Serialize;

use crate::evidence::{from_table, report_of, revocation_list, vek_of};
use crate::file::FileError;
use crate::rego::undecided;

/// Files of evidence.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// The report.
    pub report: PathBuf,
    /// The signing key's certificate, DER or PEM.
    pub vek: Option<PathBuf>,
    /// The certificate table that came with the report.
    pub table: Option<PathBuf>,
    /// The revocation list, DER or PEM.
    pub crl: Option<PathBuf>,
}

/// What evidence is appraised against.
#[derive(Debug)]
pub struct Requirements<'a> {
    /// The trusted roots.
    pub trust: &'a Trust,
    /// The time of the appraisal, in seconds of Unix time.
    pub now: i64,
    /// Whether a current revocation list is required. A policy may require it as well.
    pub require_crl: bool,
    /// Whether the chip identifier may be masked, if there is no policy.
    pub masked_chip: bool,
    /// The policy that the report must satisfy.
    pub policy: Option<&'a Policy>,
    /// The expected REPORT_DATA.
    pub report_data: Option<[u8; 64]>,
}

/// The content of a report that could not be verified for lack of a certificate, and what to download for it.
#[derive(Clone, Debug, Serialize)]
pub struct UnverifiedReport {
    /// The products that it may come from; one from report version 3.
    pub products: Vec<Product>,
    /// The unverified claims, read as those of the first product.
    pub claims: Unverified,
    /// Certificate and revocation list to download from AMD's key server, for each product.
    pub downloads: Vec<Download>,
    /// Why there is no download address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The result of an appraisal.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Whether the report is verified: its signature and its certificate chain are valid.
    pub believed: bool,
    /// Whether it is verified and meets all requirements.
    pub accepted: bool,
    /// The reasons if not.
    pub reasons: Vec<Reason>,
    /// The claims of a verified report.
    pub claims: Option<Claims>,
    /// Set if there was no certificate, and so no verdict.
    pub unverified: Option<UnverifiedReport>,
}

/// Appraises a report.
///
/// # Errors
/// A file cannot be read, or is not what it is given as. A report that is not verified is a verdict.
pub fn appraise(files: &Files, requirements: &Requirements<'_>) -> Result<Verdict, FileError> {
    let report = report_of(&files.report)?;
    let vek = match (&files.vek, &files.table) {
        (Some(path), _) => Some(vek_of(path, &report)?),
        (None, Some(path)) => from_table(path, &report)?,
        (None, None) => None,
    };
    let crl = files.crl.as_deref().map(revocation_list).transpose()?;
    let claims = match verify_report(&report, vek.as_deref(), crl.as_deref(), requirements) {
        Ok(claims) => claims,
        Err(reason) => return Ok(Verdict::without(reason, &report)),
    };
    let Requirements { now, policy, report_data, .. } = *requirements;
    let mut reasons = Vec::new();
    let expected =
        Expected { report_data: report_data.as_ref(), host_data: None, measurement: None, id_key: None };
    if let Some(policy) = policy {
        reasons = policy.appraise_time(now);
        reasons.extend(policy.appraise_claims(&claims, &expected, now));
        reasons.extend(undecided(policy));
    } else {
        reasons.extend(compare_report_data(&claims, report_data.as_ref()));
    }
    Ok(Verdict::of(claims, reasons))
}

/// The claims of a report, if it is verified.
pub(crate) fn verify_report(
    report: &[u8],
    vek: Option<&[u8]>,
    crl: Option<&[u8]>,
    requirements: &Requirements<'_>,
) -> Result<Claims, Reason> {
    let Requirements { trust, now, require_crl, masked_chip, policy, .. } = *requirements;
    let required = require_crl || policy.is_some_and(|policy| policy.platform.crl == CrlRule::Require);
    let options = Options {
        now,
        crl: if required { CrlUse::Require } else { CrlUse::IfPresent },
        masked_chip: policy.map_or(masked_chip, |policy| policy.platform.allow_masked_chip_id),
    };
    let evidence = Evidence { report, vek, intermediate: None, crl };
    verify(&evidence, trust, &options).map_err(|refusal| refusal.reason())
}

/// Compares REPORT_DATA if there is no policy.
pub(crate) fn compare_report_data(claims: &Claims, expected: Option<&[u8; 64]>) -> Option<Reason> {
    let same = expected.is_none_or(|expected| *expected == claims.report_data);
    (!same).then(|| {
        Reason::new("policy.report-data", "REPORT_DATA mismatch: the report answers a different challenge")
    })
}

impl UnverifiedReport {
    /// Reads `report`; `None` if it does not match any product.
    fn read(report: &[u8]) -> Option<Self> {
        let subjects = Subject::of(&hint(report).ok()?);
        let products: Vec<_> = subjects.iter().map(|subject| subject.product).collect();
        let claims = read_unverified(report, *products.first()?).ok()?;
        let (mut fetched, mut problem) = (Vec::new(), None);
        for subject in &subjects {
            match kds::downloads(subject) {
                // The chain is built in.
                Ok(list) => fetched.extend(list.into_iter().filter(|download| download.what != "chain")),
                Err(error) => problem = Some(error.to_string()),
            }
        }
        Some(Self { products, claims, downloads: fetched, problem })
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let products: Vec<_> = self.products.iter().map(ToString::to_string).collect();
        let mut lines = vec!["unverified content of the report:".to_owned()];
        let mut claims = claim_lines(self.claims.display());
        // Only the certificate shows which of two products it is.
        if let Some(row) = claims.iter_mut().find(|row| row.starts_with("signed by")) {
            *row = row.replacen(&products.first().cloned().unwrap_or_default(), &products.join(" or "), 1);
        }
        lines.extend(claims);
        lines.push(
            "to verify it, download its certificate and the revocation list, and pass them with --vek \
            and --crl:"
                .to_owned(),
        );
        for Download { url, file, note, .. } in &self.downloads {
            lines.extend(note.map(|note| format!("  # {note}")));
            lines.push(format!("  curl --fail --output {file} '{url}'"));
        }
        lines.extend(self.problem.as_ref().map(|problem| format!("  {problem}")));
        lines
    }
}

impl Verdict {
    pub(crate) fn of(claims: Claims, reasons: Vec<Reason>) -> Self {
        Self { believed: true, accepted: reasons.is_empty(), reasons, claims: Some(claims), unverified: None }
    }

    /// The verdict on a report that is not verified, because it was refused or because there is no
    /// certificate.
    pub(crate) fn without(reason: Reason, report: &[u8]) -> Self {
        let unverified =
            if reason.code == Refusal::NoVek.code() { UnverifiedReport::read(report) } else { None };
        Self { believed: false, accepted: false, reasons: vec![reason], claims: None, unverified }
    }
}

impl Verdict {
    /// The verdict as text.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = self.head();
        lines.extend(self.claims.as_ref().map(claim_lines).unwrap_or_default());
        lines.extend(self.unverified.as_ref().map(UnverifiedReport::lines).unwrap_or_default());
        lines
    }

    /// Verdict and reasons.
    pub(crate) fn head(&self) -> Vec<String> {
        let mut lines = vec![match (self.believed, self.accepted) {
            _ if self.unverified.is_some() => {
                "no verdict: there is no certificate to verify the report with".to_owned()
            }
            (false, _) => "not verified".to_owned(),
            (true, true) => "verified".to_owned(),
            (true, false) => "verified, but not accepted".to_owned(),
        }];
        lines.extend(self.reasons.iter().map(|reason| format!("  {reason}")));
        lines
    }
}

/// The claims as text.
pub(crate) fn claim_lines(claims: &Claims) -> Vec<String> {
    let mut lines = Vec::new();
    let optional = |bytes: Option<&[u8]>| bytes.map_or_else(|| "-".to_owned(), hex::encode);
    let mut row = |name: &str, value: String| lines.push(format!("{name:<19}{value}"));
    row("version", claims.report_version.to_string());
    let cloud = claims.csp_id.as_ref().map(|csp| format!(", for {csp}")).unwrap_or_default();
    row("signed by", format!("{} {:?}{cloud}", claims.product, claims.signing_key).to_lowercase());
    row(
        "requested by",
        match claims.requester {
            Requester::Guest(vmpl) => format!("the guest, VMPL {vmpl}"),
            Requester::Host => "the host: proves nothing unless the host is trusted".to_owned(),
        },
    );
    row("guest policy", format!("{:#x}", claims.policy.0));
    row("guest SVN", claims.guest_svn.to_string());
    row("measurement", claims.measurement.to_string());
    row("report data", hex::encode(claims.report_data));
    row("host data", hex::encode(claims.host_data));
    row("ID key digest", claims.id_key_digest.to_string());
    row("author key digest", optional(claims.author_key_digest.as_ref().map(|digest| &digest.0[..])));
    row("family, image id", format!("{}, {}", hex::encode(claims.family_id), hex::encode(claims.image_id)));
    row("report id", hex::encode(claims.report_id));
    row("chip id", optional(claims.chip_id.as_ref().map(|chip| &chip[..])));
    row("platform info", format!("{:#x}", claims.platform_info));
    for (name, tcb) in [
        ("reported TCB", claims.reported_tcb),
        ("current TCB", claims.current_tcb),
        ("committed TCB", claims.committed_tcb),
        ("launch TCB", claims.launch_tcb),
    ] {
        row(name, tcb.to_string());
    }
    let firmware = claims.current_firmware;
    row("firmware", format!("{}.{}.{}", firmware.major, firmware.minor, firmware.build));
    for (name, vector) in
        [("launch mitigations", claims.launch_mit_vector), ("mitigations", claims.current_mit_vector)]
    {
        row(name, vector.map_or_else(|| "-".to_owned(), |vector| format!("{vector:#x}")));
    }
    row(
        "revocation list",
        match claims.revocation {
            Revocation::NoList => "none given".to_owned(),
            Revocation::List { .. } => "no certificate of the chain is revoked".to_owned(),
        },
    );
    lines
}
