// SPDX-License-Identifier: Apache-2.0
//! Why evidence was not believed.

use cvmm_snp::tcb::TcbParts;
use thiserror::Error;

use crate::claims::{Product, SigningKey};
use cvmm_reason::Reason;
use cvmm_reason::duration::Span;

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident $({ $($field:ident: $type:ty),* })? = $code:literal, $text:literal;)*) => {
        /// Why evidence was not believed. Each has a code of its own; a refusal says nothing about what comes after it in the
        /// order of the checks.
        #[derive(Clone, Debug, PartialEq, Eq, Error)]
        #[expect(missing_docs, reason = "the fields are explained by the messages they are in")]
        pub enum Refusal {
            $($(#[$doc])* #[error($text)] $name $({ $($field: $type),* })?,)*
        }

        impl Refusal {
            /// Every code, in the order of the checks.
            pub const CODES: &[&str] = &[$($code),*];

            /// The stable code.
            #[must_use]
            pub fn code(&self) -> &'static str {
                match self { $(Self::$name $({ $($field: _),* })? => $code,)* }
            }
        }
    };
}

refusals! {
    /// Another length than a report has.
    Length { len: usize } = "report.length", "the report has {len} bytes, not 1184";
    /// A version whose meaning is not known here.
    Version { version: u32 } = "report.version", "the report has version {version}; 2 to 5 are known";
    /// A byte that this version reserves.
    Reserved { offset: usize } = "report.reserved", "byte {offset:#x} of the report is reserved and not zero";
    /// Another signature algorithm.
    Algorithm { algorithm: u32 } = "report.algorithm",
        "the report's SIGNATURE_ALGO is {algorithm}; only 1 (ECDSA P-384 with SHA-384) is known";
    /// Nothing signed it.
    Unsigned = "report.unsigned",
        "the report is not signed: MASK_CHIP_KEY is set, or SIGNING_KEY says none; the host has to unmask the chip's key (SNP_SET_CONFIG)";
    /// KEY_INFO is none.
    KeyInfo { value: u32 } = "report.key-info", "the report's key information {value:#x} has reserved bits or an unknown key";
    /// A guest policy that no firmware accepts.
    GuestPolicy { policy: u64 } = "report.policy", "the report's guest policy {policy:#x} is malformed: bit 17 is one, bits from 26 on are zero";
    /// Neither a guest's nor the host's.
    Vmpl { vmpl: u32 } = "report.vmpl", "the report's VMPL is {vmpl:#x}; it is 0 to 3, or ffffffff if the host asked";
    /// The flag and the digest of the author key disagree.
    AuthorKey = "report.author-key", "AUTHOR_KEY_EN and AUTHOR_KEY_DIGEST of the report disagree";
    /// A processor nobody here knows.
    Processor { family: u8, model: u8 } = "report.processor",
        "the report is of processor family {family:#x} model {model:#x}, of which no roots are known";
    /// No certificate.
    NoVek = "vek.missing", "there is no certificate for the key that signed the report";
    /// Not a certificate that AMD issues for such a key.
    Vek { what: &'static str } = "vek.malformed", "the signing key's certificate is malformed: {what}";
    /// It is of another kind of key.
    Kind { report: SigningKey, vek: SigningKey } = "vek.kind", "the report is signed with a {report:?}, the certificate is of a {vek:?}";
    /// It is of another product.
    Generation { report: Product, vek: Product } = "vek.product", "the report is of {report:?}, the certificate of {vek:?}";
    /// It is issued by nobody known.
    Issuer = "chain.issuer", "the signing key's certificate is issued by nobody that is trusted for its product and kind";
    /// The intermediate certificate that came along is another.
    Intermediate = "chain.intermediate", "the intermediate certificate is not the pinned one";
    /// Not PSS with SHA-384.
    SignatureKind = "chain.algorithm", "the signing key's certificate is not signed by RSASSA-PSS with SHA-384 and 48 bytes of salt";
    /// The issuer did not sign it.
    ChainSignature = "chain.signature", "the signing key's certificate is not signed by its issuer";
    /// Before its time.
    NotYetValid { what: &'static str, seconds: Span } = "chain.not-yet-valid", "the certificate of the {what} is valid only in {seconds}; is the clock right?";
    /// After its time.
    Expired { what: &'static str, seconds: Span } = "chain.expired", "the certificate of the {what} expired {seconds} ago; fetch a newer one";
    /// No list, and one is demanded.
    NoCrl = "crl.missing", "there is no revocation list, and one is required";
    /// Not a list.
    Crl = "crl.malformed", "the revocation list is malformed";
    /// It is of somebody else.
    CrlIssuer = "crl.issuer", "the revocation list is of another issuer than the chain's root";
    /// The root did not sign it.
    CrlSignature = "crl.signature", "the revocation list is not signed by the chain's root";
    /// It is from the future.
    CrlFuture { seconds: Span } = "crl.future", "the revocation list is made only in {seconds}; is the clock right?";
    /// It does not say until when it is good.
    CrlUndated = "crl.undated", "the revocation list does not say when the next one comes (nextUpdate), so nobody knows whether it is fresh";
    /// It is old.
    CrlStale { seconds: Span } = "crl.stale", "the revocation list should have been replaced {seconds} ago; fetch a newer one";
    /// A certificate of the chain is in it.
    Revoked { what: &'static str } = "crl.revoked", "the certificate of the {what} is revoked";
    /// Bytes around the two numbers.
    SignatureFormat = "report.signature-format", "the report's signature has bytes outside of R and S that are not zero";
    /// The key did not sign it.
    Signature = "report.signature", "the report is not signed by the key of the certificate";
    /// A TCB with bytes that its product does not have.
    Tcb { field: &'static str } = "report.tcb", "{field} of the report has reserved bytes that are not zero";
    /// The certificate is for another TCB.
    ReportedTcb { report: TcbParts, vek: TcbParts } = "vek.tcb",
        "the report's REPORTED_TCB is {report}, the certificate is for {vek}; fetch the one for the reported TCB";
    /// The certificate is of another chip.
    Chip = "vek.chip", "the report's CHIP_ID is not the one that the certificate is for";
    /// The chip does not tell its identifier.
    Masked = "report.chip-masked", "the report's CHIP_ID is masked, and a chip's own key signed it; the host has to unmask it (SNP_SET_CONFIG)";
}

impl Refusal {
    /// As a reason of a denial.
    #[must_use]
    pub fn reason(&self) -> Reason {
        Reason::new(self.code(), self.to_string())
    }
}
