// SPDX-License-Identifier: Apache-2.0
//! Trustee's protocol (RCAR: request, challenge, attestation, response), for guests whose software speaks that and not the gate's own.
//!
//! ```text
//!  guest                                          gate
//!   │ POST /kbs/v0/auth {version, tee}              │
//!   ├──────────────────────────────────────────────▶│
//!   │ {nonce}, cookie kbs-session-id                │  a session, pending
//!   │◀──────────────────────────────────────────────┤
//!   │ POST /kbs/v0/attest {runtime-data, evidence}  │
//!   ├──────────────────────────────────────────────▶│  the session is used up, whatever the answer
//!   │ {token}                                       │  EAR, ES256; the session is attested
//!   │◀──────────────────────────────────────────────┤
//!   │ GET /kbs/v0/resource/REPO/TYPE/TAG            │
//!   ├──────────────────────────────────────────────▶│  judged again, by the policies of now
//!   │ JWE, to the key that the report is bound to   │
//!   │◀──────────────────────────────────────────────┤
//! ```
//! The report is bound to the nonce and to the guest's key by its REPORT_DATA ([`wire::RuntimeData`]). It is verified as the bytes
//! that were signed: evidence that comes as a parsed structure is put together again first ([`evidence`]), so that whatever was lost
//! or changed on the way is a wrong signature.
//!
//! What is here is form: the engine decides ([`crate::engine::Engine`]), the server does the HTTP.

pub mod config;
pub mod evidence;
pub mod jwe;
pub mod resource;
pub mod sessions;
pub mod token;
pub mod wire;
