// SPDX-License-Identifier: Apache-2.0
//! From evidence to claims.
//!
//! [`claims::Claims`] are what a report says once its signature and the certificates behind it have been
//! verified. Policies (`cvmm-policy`) appraise claims, never raw bytes. Everything here is pure: no socket,
//! no file, no clock. The time, the trust anchors, the certificates and the revocation lists are arguments,
//! so a verdict can be repeated later from what was logged.
//!
//! Anything that is not understood is refused. Each refusal has a [`cvmm_reason::Reason`]: a stable code and
//! what to do about it.

#![forbid(unsafe_code)]

pub mod claims;
mod der;
pub mod document;
pub mod encoding;
pub mod inspect;
pub mod kds;
pub mod refusal;
pub mod roots;
pub mod table;
pub mod utc;
mod vek;
pub mod verify;
mod x509;
