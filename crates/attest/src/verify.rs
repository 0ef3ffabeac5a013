// SPDX-License-Identifier: Apache-2.0
//! From bytes to claims.
//!
//! In this order. Each step uses only what the earlier ones have verified, except to find the right
//! certificate:
//!
//! 1. the report's form: length, version, the bytes that the version reserves, algorithm, key, policy, VMPL,
//!    processor;
//! 2. the signing key's certificate: form, kind, product; its issuer, which is one that is built in;
//!    algorithm, signature, dates;
//! 3. the revocation list of the root;
//! 4. the report's signature, over the bytes as received;
//! 5. what ties the two together: TCB and chip.
//!
//! Guest policy, versions, measurements and so on are for a policy to appraise, from the claims.

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use cvmm_snp::digest::Digest;
use cvmm_snp::policy::GuestPolicy;
use cvmm_snp::report::{ALGORITHM_P384, Report, SIGNED_LEN, VMPL_HOST};
use cvmm_snp::tcb::{TcbParts, TcbVersion};
use zerocopy::FromBytes;

use crate::claims::{Claims, FirmwareVersion, Product, Requester, Revocation, SigningKey};
use crate::refusal::Refusal;
use crate::roots::{Authority, Trust};
use crate::vek::Vek;
use crate::x509::RevocationList;
use cvmm_reason::duration::Span;

/// Bytes of a report.
pub const REPORT_LEN: usize = size_of::<Report>();
/// Bytes of R and of S in a report; P-384 uses the lower 48.
const COMPONENT: usize = 72;
const SCALAR: usize = 48;

/// What is to be verified.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence<'a> {
    /// The report.
    pub report: &'a [u8],
    /// Certificate of the key that signed it, DER.
    pub vek: Option<&'a [u8]>,
    /// The intermediate certificate from the evidence, DER. Not needed; if present, it must be the pinned
    /// one.
    pub intermediate: Option<&'a [u8]>,
    /// The root's revocation list, DER.
    pub crl: Option<&'a [u8]>,
}

/// Whether there has to be a revocation list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CrlUse {
    /// There must be one, and it must not be overdue.
    Require,
    /// A missing or overdue one is a claim ([`Claims::revocation`]); a wrong one is refused.
    #[default]
    IfPresent,
}

/// Options of the verifier.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The time, in seconds of Unix time.
    pub now: i64,
    /// Revocation lists.
    pub crl: CrlUse,
    /// Whether a report signed with the chip's key may hide the chip's identifier.
    pub masked_chip: bool,
}

/// What a report says about where to find its certificate. Nothing of it is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// What signed it.
    pub signing_key: SigningKey,
    /// From version 3.
    pub product: Option<Product>,
    /// CHIP_ID.
    pub chip_id: [u8; 64],
    /// REPORTED_TCB, as it is in the report: what its bytes mean depends on the product.
    pub tcb: TcbVersion,
}

impl Hint {
    /// The products that the report can belong to, each with its REPORTED_TCB, the likeliest first. From
    /// version 3 there is at most one.
    ///
    /// A report of version 2 does not name its processor. Turin has chip identifiers of 8 bytes and another
    /// order of TCB bytes with other reserved ones; Milan and Genoa do not differ here; only the certificate
    /// says which of them it is.
    #[must_use]
    pub fn subjects(&self) -> Vec<(Product, TcbParts)> {
        let (short, rest) = self.chip_id.split_at(Product::Turin.chip_id_len());
        let (short, long) = (short.iter().any(|byte| *byte != 0), rest.iter().any(|byte| *byte != 0));
        let possible = |product: &Product| match self.product {
            Some(named) => named == *product,
            // Masked identifiers, and those of reports signed with a VLEK, say nothing.
            None => !short || (*product == Product::Turin) != long,
        };
        let products = Product::ALL.into_iter().filter(possible);
        products.filter_map(|product| Some((product, self.tcb.parts(product.layout())?))).collect()
    }
}

/// Reads from a report what helps to find its certificate.
pub fn hint(report: &[u8]) -> Result<Hint, Refusal> {
    let raw: &[u8; REPORT_LEN] = report.try_into().map_err(|_| Refusal::Length { len: report.len() })?;
    let report = Report::ref_from_bytes(raw).map_err(|_| Refusal::Length { len: raw.len() })?;
    let form = Form::check(report, raw)?;
    Ok(Hint {
        signing_key: form.signing_key,
        product: form.product,
        chip_id: report.chip_id,
        tcb: report.reported_tcb,
    })
}

/// The product that a signing key's certificate is of, if it is one. Nothing is verified.
#[must_use]
pub fn product_of(vek: &[u8]) -> Option<Product> {
    Vek::parse(vek).ok().map(|vek| vek.product)
}

/// What a report says of itself, with no certificate to verify it by: anyone can have written it. For people
/// who look for the certificate; no policy is asked about it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Unverified(Claims);

impl Unverified {
    /// What the report says, for display.
    #[must_use]
    pub fn display(&self) -> &Claims {
        &self.0
    }
}

/// Reads a report of `product` without verifying it. Only its form is checked.
pub fn read_unverified(report: &[u8], product: Product) -> Result<Unverified, Refusal> {
    let raw: &[u8; REPORT_LEN] = report.try_into().map_err(|_| Refusal::Length { len: report.len() })?;
    let report = Report::ref_from_bytes(raw).map_err(|_| Refusal::Length { len: raw.len() })?;
    let form = Form::check(report, raw)?;
    let chip_id = (report.chip_id != [0; 64]).then_some(report.chip_id);
    let signer = Signer { product, kind: form.signing_key, csp_id: None };
    claims(report, &form, signer, chip_id, Revocation::NoList).map(Unverified)
}

/// Verifies `evidence`.
pub fn verify(evidence: &Evidence<'_>, trust: &Trust, options: &Options) -> Result<Claims, Refusal> {
    let raw: &[u8; REPORT_LEN] =
        evidence.report.try_into().map_err(|_| Refusal::Length { len: evidence.report.len() })?;
    let report = Report::ref_from_bytes(raw).map_err(|_| Refusal::Length { len: raw.len() })?;
    let form = Form::check(report, raw)?;
    let vek = Vek::parse(evidence.vek.ok_or(Refusal::NoVek)?)?;
    if vek.kind != form.signing_key {
        return Err(Refusal::Kind { report: form.signing_key, vek: vek.kind });
    }
    if let Some(report) = form.product.filter(|product| *product != vek.product) {
        return Err(Refusal::Generation { report, vek: vek.product });
    }
    let authority = chain(&vek, evidence.intermediate, trust, options.now)?;
    let revocation = revocation(&vek, evidence.crl, authority, options)?;
    signature(raw, vek.key)?;
    let layout = vek.product.layout();
    let reported_tcb = report.reported_tcb.parts(layout).ok_or(Refusal::Tcb { field: "REPORTED_TCB" })?;
    if reported_tcb != vek.tcb {
        return Err(Refusal::ReportedTcb { report: reported_tcb, vek: vek.tcb });
    }
    let chip_id = chip(report, &vek, options)?;
    let signer = Signer { product: vek.product, kind: vek.kind, csp_id: vek.csp_id };
    claims(report, &form, signer, chip_id, revocation)
}

/// Who signed a report.
struct Signer<'a> {
    product: Product,
    kind: SigningKey,
    csp_id: Option<&'a str>,
}

fn claims(
    report: &Report,
    form: &Form,
    signer: Signer<'_>,
    chip_id: Option<[u8; 64]>,
    revocation: Revocation,
) -> Result<Claims, Refusal> {
    let layout = signer.product.layout();
    let tcb = |version: TcbVersion, field| version.parts(layout).ok_or(Refusal::Tcb { field });
    let firmware = |[build, minor, major]: [u8; 3]| FirmwareVersion { major, minor, build };
    let five = |vector: zerocopy::little_endian::U64| (report.version.get() >= 5).then_some(vector.get());
    Ok(Claims {
        report_version: report.version.get(),
        product: signer.product,
        cpuid: form.cpuid,
        signing_key: signer.kind,
        requester: form.requester,
        policy: GuestPolicy(report.policy.get()),
        guest_svn: report.guest_svn.get(),
        family_id: report.family_id,
        image_id: report.image_id,
        measurement: report.measurement,
        host_data: report.host_data,
        report_data: report.report_data,
        id_key_digest: report.id_key_digest,
        author_key_digest: form.author_key.then_some(report.author_key_digest),
        report_id: report.report_id,
        platform_info: report.platform_info.get(),
        chip_id,
        csp_id: signer.csp_id.map(str::to_owned),
        reported_tcb: tcb(report.reported_tcb, "REPORTED_TCB")?,
        current_tcb: tcb(report.current_tcb, "CURRENT_TCB")?,
        committed_tcb: tcb(report.committed_tcb, "COMMITTED_TCB")?,
        launch_tcb: tcb(report.launch_tcb, "LAUNCH_TCB")?,
        current_firmware: firmware(report.current_version),
        committed_firmware: firmware(report.committed_version),
        launch_mit_vector: five(report.launch_mit_vector),
        current_mit_vector: five(report.current_mit_vector),
        revocation,
    })
}

/// What the report's form says.
struct Form {
    signing_key: SigningKey,
    requester: Requester,
    /// From version 3.
    product: Option<Product>,
    cpuid: Option<(u8, u8, u8)>,
    author_key: bool,
}

impl Form {
    fn check(report: &Report, raw: &[u8; REPORT_LEN]) -> Result<Self, Refusal> {
        let version = report.version.get();
        // Of version 4 only the number is known: it is held to what 3 allows.
        let reserved: &[(usize, usize)] = match version {
            2 => &[(0x4c, 0x50), (0x188, 0x1a0), (0x1eb, 0x1ec), (0x1ef, 0x1f0), (0x1f8, 0x2a0)],
            3 | 4 => &[(0x4c, 0x50), (0x18b, 0x1a0), (0x1eb, 0x1ec), (0x1ef, 0x1f0), (0x1f8, 0x2a0)],
            5 => &[(0x4c, 0x50), (0x18b, 0x1a0), (0x1eb, 0x1ec), (0x1ef, 0x1f0), (0x208, 0x2a0)],
            _ => return Err(Refusal::Version { version }),
        };
        for (start, end) in reserved {
            zero(raw, *start, *end).map_err(|offset| Refusal::Reserved { offset })?;
        }
        let algorithm = report.signature_algo.get();
        if algorithm != ALGORITHM_P384 {
            return Err(Refusal::Algorithm { algorithm });
        }
        let key_info = report.key_info.get();
        let signing_key = match (key_info >> 5, key_info & 2, key_info >> 2 & 7) {
            (0, 0, 0) => SigningKey::Vcek,
            (0, 0, 1) => SigningKey::Vlek,
            (0, 2, _) | (0, _, 7) => return Err(Refusal::Unsigned),
            _ => return Err(Refusal::KeyInfo { value: key_info }),
        };
        let policy = report.policy.get();
        if policy >> 17 & 1 != 1 || policy >> 26 != 0 {
            return Err(Refusal::GuestPolicy { policy });
        }
        let requester = match report.vmpl.get() {
            vmpl @ 0..=3 => Requester::Guest(vmpl as u8),
            VMPL_HOST => Requester::Host,
            vmpl => return Err(Refusal::Vmpl { vmpl }),
        };
        let author_key = key_info & 1 == 1;
        if author_key == (report.author_key_digest == Digest::ZERO) {
            return Err(Refusal::AuthorKey);
        }
        let (family, model) = (report.cpuid_family, report.cpuid_model);
        let cpuid = (version >= 3).then_some((family, model, report.cpuid_stepping));
        let product = match cpuid {
            Some(_) => {
                Some(Product::from_processor(family, model).ok_or(Refusal::Processor { family, model })?)
            }
            None => None,
        };
        Ok(Self { signing_key, requester, product, cpuid, author_key })
    }
}

/// The first byte from `start` to `end` that is not zero is an error.
fn zero(raw: &[u8; REPORT_LEN], start: usize, end: usize) -> Result<(), usize> {
    match raw.get(start..end).and_then(|bytes| bytes.iter().position(|byte| *byte != 0)) {
        Some(at) => Err(start + at),
        None => Ok(()),
    }
}

/// The authority that issued the certificate.
pub(crate) fn issuer<'t>(
    vek: &Vek<'_>,
    intermediate: Option<&[u8]>,
    trust: &'t Trust,
) -> Result<&'t Authority, Refusal> {
    let certificate = &vek.certificate;
    let fits = |authority: &&Authority| {
        authority.product == vek.product
            && authority.certifies == vek.kind
            && authority.name == certificate.issuer
    };
    // A test PKI's authorities have the names of AMD's: the one whose signature it is counts.
    let candidates: Vec<_> = trust.authorities.iter().filter(fits).collect();
    if candidates.is_empty() {
        return Err(Refusal::Issuer);
    }
    if !certificate.signed.pss {
        return Err(Refusal::SignatureKind);
    }
    if intermediate.is_some_and(|der| candidates.iter().all(|authority| authority.der != der)) {
        return Err(Refusal::Intermediate);
    }
    let signer = candidates.into_iter().find(|authority| certificate.signed.is_by(&authority.key));
    let authority = signer.ok_or(Refusal::ChainSignature)?;
    if intermediate.is_some_and(|der| authority.der != der) {
        return Err(Refusal::Intermediate);
    }
    Ok(authority)
}

/// The authority that issued the certificate, which is valid at `now`, as is the whole chain.
fn chain<'t>(
    vek: &Vek<'_>,
    intermediate: Option<&[u8]>,
    trust: &'t Trust,
    now: i64,
) -> Result<&'t Authority, Refusal> {
    let certificate = &vek.certificate;
    let authority = issuer(vek, intermediate, trust)?;
    for (what, (not_before, not_after)) in [
        ("signing key", (certificate.not_before, certificate.not_after)),
        ("intermediate authority", authority.validity),
        ("root", authority.root_validity),
    ] {
        if now < not_before {
            return Err(Refusal::NotYetValid { what, seconds: Span(not_before.saturating_sub(now)) });
        }
        if now > not_after {
            return Err(Refusal::Expired { what, seconds: Span(now.saturating_sub(not_after)) });
        }
    }
    Ok(authority)
}

fn revocation(
    vek: &Vek<'_>,
    crl: Option<&[u8]>,
    authority: &Authority,
    options: &Options,
) -> Result<Revocation, Refusal> {
    let Some(crl) = crl else {
        return match options.crl {
            CrlUse::Require => Err(Refusal::NoCrl),
            CrlUse::IfPresent => Ok(Revocation::NoList),
        };
    };
    let list = RevocationList::parse(crl).map_err(|_| Refusal::Crl)?;
    if list.issuer != authority.root_name {
        return Err(Refusal::CrlIssuer);
    }
    if !list.signed.is_by(&authority.root_key) {
        return Err(Refusal::CrlSignature);
    }
    let RevocationList { this_update, next_update, revoked, .. } = list;
    if options.now < this_update {
        return Err(Refusal::CrlFuture { seconds: Span(this_update.saturating_sub(options.now)) });
    }
    // Also when it is overdue: what was revoked stays so.
    for (what, serial) in
        [("intermediate authority", authority.serial.as_slice()), ("signing key", vek.certificate.serial)]
    {
        if revoked.contains(&serial) {
            return Err(Refusal::Revoked { what });
        }
    }
    if options.crl == CrlUse::Require {
        let overdue = options.now.saturating_sub(next_update.ok_or(Refusal::CrlUndated)?);
        if overdue > 0 {
            return Err(Refusal::CrlStale { seconds: Span(overdue) });
        }
    }
    Ok(Revocation::List { this_update, next_update })
}

/// ECDSA P-384 over the signed part as it came. R and S are little-endian in a report and big-endian
/// everywhere else.
fn signature(raw: &[u8; REPORT_LEN], key: &[u8]) -> Result<(), Refusal> {
    let (signed, rest) = raw.split_at(SIGNED_LEN);
    let mut fixed = [0; 2 * SCALAR];
    for (component, out) in rest.chunks(COMPONENT).zip(fixed.chunks_exact_mut(SCALAR)) {
        let (low, high) = component.split_at_checked(SCALAR).ok_or(Refusal::SignatureFormat)?;
        if high.iter().any(|byte| *byte != 0) {
            return Err(Refusal::SignatureFormat);
        }
        for (to, from) in out.iter_mut().zip(low.iter().rev()) {
            *to = *from;
        }
    }
    if zero(raw, SIGNED_LEN + 2 * COMPONENT, REPORT_LEN).is_err() {
        return Err(Refusal::SignatureFormat);
    }
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key)
        .verify(signed, &fixed)
        .map_err(|_| Refusal::Signature)
}

/// The chip's identifier, if the report tells it.
fn chip(report: &Report, vek: &Vek<'_>, options: &Options) -> Result<Option<[u8; 64]>, Refusal> {
    if report.chip_id == [0; 64] {
        return match vek.kind {
            SigningKey::Vcek if !options.masked_chip => Err(Refusal::Masked),
            _ => Ok(None),
        };
    }
    if let Some(hwid) = vek.hwid {
        let (id, rest) = report.chip_id.split_at_checked(hwid.len()).ok_or(Refusal::Chip)?;
        if id != hwid || rest.iter().any(|byte| *byte != 0) {
            return Err(Refusal::Chip);
        }
    }
    Ok(Some(report.chip_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report of version 2 does not name its processor: chip identifier and TCB bytes tell a Turin from the
    /// others.
    #[test]
    fn products_of_old_reports_follow_from_chip_and_tcb() {
        let (turin, milan) = ([1, 2, 0, 4, 0, 0, 0, 71], [4, 0, 0, 0, 0, 0, 22, 213]);
        let short: [u8; 64] = std::array::from_fn(|at| if at < 8 { 0x3b } else { 0 });
        let subjects = |product, chip_id, tcb| {
            let hint = Hint { signing_key: SigningKey::Vcek, product, chip_id, tcb: TcbVersion(tcb) };
            hint.subjects().into_iter().map(|(product, tcb)| (product, tcb.fmc)).collect::<Vec<_>>()
        };
        assert_eq!(subjects(None, short, turin), [(Product::Turin, Some(1))]);
        let older = [(Product::Milan, None), (Product::Genoa, None)];
        assert_eq!(subjects(None, [7; 64], milan), older);
        // A masked chip, or a VLEK's report: the reserved bytes of the TCB tell.
        assert_eq!(subjects(None, [0; 64], turin), [(Product::Turin, Some(1))]);
        assert_eq!(subjects(None, [0; 64], milan), older);
        assert_eq!(subjects(Some(Product::Genoa), [7; 64], milan), [(Product::Genoa, None)]);
        // Bytes that no product has.
        assert_eq!(subjects(None, [7; 64], [1; 8]), []);
        assert_eq!(subjects(Some(Product::Turin), short, milan), []);
    }
}
