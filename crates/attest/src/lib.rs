// SPDX-License-Identifier: Apache-2.0
//! Evidence, claims, verdict.
//!
//! [`claims::Claims`] are what a report says once its signature and the certificates behind it have been verified; a policy
//! judges claims, never raw bytes. Everything here is pure: no socket, no file, no clock. The time, the trust anchors, the
//! certificates and the revocation lists are arguments, so that a verdict can be repeated later from what was logged.
//!
//! Whatever is not understood is refused, and each refusal has a [`cvmm_reason::Reason`]: a stable code, and what to do about it.

#![forbid(unsafe_code)]

pub mod claims;
mod der;
pub mod encoding;
pub mod inspect;
pub mod kds;
mod plain;
pub mod policy;
pub mod refusal;
pub mod roots;
pub mod table;
mod vek;
pub mod verify;
mod x509;
