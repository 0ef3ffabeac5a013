// SPDX-License-Identifier: Apache-2.0
//! Trustee's protocol (RCAR: request, challenge, attestation, response), for guests whose software does not
//! speak the gate's own.
//!
//! ```text
//!  guest                                          gate
//!   │ POST /kbs/v0/auth {version, tee}              │
//!   ├──────────────────────────────────────────────▶│
//!   │ {nonce}, cookie kbs-session-id                │  a session, pending
//!   │◀──────────────────────────────────────────────┤
//!   │ POST /kbs/v0/attest {runtime-data, evidence}  │
//!   ├──────────────────────────────────────────────▶│  the challenge is used up by any answer
//!   │ {token}                                       │  EAR, ES256; the session is attested
//!   │◀──────────────────────────────────────────────┤
//!   │ GET /kbs/v0/resource/REPO/TYPE/TAG            │
//!   ├──────────────────────────────────────────────▶│  appraised again, by the policies as they are now
//!   │ JWE, to the key that the report is bound to   │
//!   │◀──────────────────────────────────────────────┤
//! ```
//! The report is bound to the nonce and to the guest's key by its REPORT_DATA ([`wire::RuntimeData`]).
//! Evidence that comes as a parsed structure is first encoded again into the bytes that were signed
//! ([`evidence`]): whatever was lost or changed on the way makes the signature invalid.
//!
//! This module has the protocol's formats and its sessions. The engine decides ([`crate::engine::Engine`]),
//! the server does the HTTP.

pub mod config;
pub mod evidence;
pub(crate) mod jwe;
pub(crate) mod resource;
pub(crate) mod service;
pub(crate) mod sessions;
pub mod token;
pub mod wire;
