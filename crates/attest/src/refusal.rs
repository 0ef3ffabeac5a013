// SPDX-License-Identifier: Apache-2.0
//! Why evidence was refused.

use cvmm_snp::tcb::TcbParts;
use thiserror::Error;

use crate::claims::{Product, SigningKey};
use cvmm_reason::Reason;
use cvmm_reason::duration::Span;

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident $({ $($field:ident: $type:ty),* })? = $code:literal, $text:literal;)*) => {
        /// Why evidence was refused. Each has a code of its own. A refusal says nothing about the checks that
        /// come after it.
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
    /// Not the length of a report.
    Length { len: usize } = "report.length", "the report has {len} bytes, not 1184";
    /// An unknown version.
    Version { version: u32 } = "report.version", "the report has version {version}; 2 to 5 are known";
    /// A byte that this version reserves is set.
    Reserved { offset: usize } = "report.reserved", "byte {offset:#x} of the report is reserved and not zero";
    /// An unknown signature algorithm.
    Algorithm { algorithm: u32 } = "report.algorithm",
        "the report's SIGNATURE_ALGO is {algorithm}; only 1 (ECDSA P-384 with SHA-384) is known";
    /// Nothing signed it.
    Unsigned = "report.unsigned",
        "the report is not signed: MASK_CHIP_KEY is set, or SIGNING_KEY says none; the host has to unmask the chip's key (SNP_SET_CONFIG)";
    /// KEY_INFO is malformed.
    KeyInfo { value: u32 } = "report.key-info", "the report's key information {value:#x} has reserved bits or an unknown key";
    /// A guest policy that no firmware accepts.
    GuestPolicy { policy: u64 } = "report.policy", "the report's guest policy {policy:#x} is malformed: bit 17 is one, bits from 26 on are zero";
    /// Neither a VMPL nor the host's value.
    Vmpl { vmpl: u32 } = "report.vmpl", "the report's VMPL is {vmpl:#x}; it is 0 to 3, or ffffffff if the host requested the report";
    /// The flag and the digest of the author key disagree.
    AuthorKey = "report.author-key", "AUTHOR_KEY_EN and AUTHOR_KEY_DIGEST of the report disagree";
    /// An unknown processor.
    Processor { family: u8, model: u8 } = "report.processor",
        "the report names processor family {family:#x} model {model:#x}, for which no roots are known";
    /// No certificate.
    NoVek = "vek.missing", "there is no certificate for the key that signed the report";
    /// Not a certificate that AMD issues for such a key.
    Vek { what: &'static str } = "vek.malformed", "the signing key's certificate is malformed: {what}";
    /// The certificate belongs to a different kind of key.
    Kind { report: SigningKey, vek: SigningKey } = "vek.kind", "signing key mismatch: the report is signed with a {report:?}, the certificate belongs to a {vek:?}";
    /// The certificate belongs to a different product.
    Generation { report: Product, vek: Product } = "vek.product", "product mismatch: the report names {report:?}, the certificate {vek:?}";
    /// Its issuer is not trusted.
    Issuer = "chain.issuer", "the issuer of the signing key's certificate is not trusted for its product and key type";
    /// The intermediate certificate in the evidence is not the pinned one.
    Intermediate = "chain.intermediate", "the intermediate certificate is not the pinned one";
    /// Not PSS with SHA-384.
    SignatureKind = "chain.algorithm", "the signing key's certificate is not signed by RSASSA-PSS with SHA-384 and 48 bytes of salt";
    /// The issuer did not sign it.
    ChainSignature = "chain.signature", "the signing key's certificate is not signed by its issuer";
    /// Not valid yet.
    NotYetValid { what: &'static str, seconds: Span } = "chain.not-yet-valid", "the certificate of the {what} becomes valid in {seconds}; check the clock";
    /// Expired.
    Expired { what: &'static str, seconds: Span } = "chain.expired", "the certificate of the {what} expired {seconds} ago; fetch a newer one";
    /// No list, and one is required.
    NoCrl = "crl.missing", "there is no revocation list, and one is required";
    /// Not a list.
    Crl = "crl.malformed", "the revocation list is malformed";
    /// Its issuer is not the root of the chain.
    CrlIssuer = "crl.issuer", "issuer mismatch: the revocation list was not issued by the chain's root";
    /// The root did not sign it.
    CrlSignature = "crl.signature", "the revocation list is not signed by the chain's root";
    /// It is dated in the future.
    CrlFuture { seconds: Span } = "crl.future", "the revocation list is dated {seconds} in the future; check the clock";
    /// It has no end.
    CrlUndated = "crl.undated", "the revocation list has no nextUpdate, so whether it is current is unknown";
    /// It is overdue.
    CrlStale { seconds: Span } = "crl.stale", "the revocation list should have been replaced {seconds} ago; fetch a newer one";
    /// A certificate of the chain is in it.
    Revoked { what: &'static str } = "crl.revoked", "the certificate of the {what} is revoked";
    /// Bytes around R and S are set.
    SignatureFormat = "report.signature-format", "the report's signature has nonzero bytes outside of R and S";
    /// The key did not sign it.
    Signature = "report.signature", "the report is not signed by the key of the certificate";
    /// A TCB with bytes that its product reserves.
    Tcb { field: &'static str } = "report.tcb", "{field} of the report has reserved bytes that are not zero";
    /// The certificate belongs to a different TCB.
    ReportedTcb { report: TcbParts, vek: TcbParts } = "vek.tcb",
        "TCB mismatch: REPORTED_TCB is {report}, the certificate is for {vek}; fetch the certificate for the reported TCB";
    /// The certificate belongs to a different chip.
    Chip = "vek.chip", "chip mismatch: CHIP_ID differs from the certificate's";
    /// The chip hides its identifier.
    Masked = "report.chip-masked", "CHIP_ID is masked in a report signed with a VCEK; the host has to unmask it (SNP_SET_CONFIG)";
}

impl Refusal {
    /// As a reason of a denial.
    #[must_use]
    pub fn reason(&self) -> Reason {
        Reason::new(self.code(), self.to_string())
    }
}
