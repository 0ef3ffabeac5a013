// SPDX-License-Identifier: Apache-2.0
//! Evidence: forged by keys of our own, or published, with the policies that the published vectors name.

pub mod clauses;
pub mod forged;
pub mod vectors;

/// 2026-11-23 12:00 UTC: the time for which verdicts of the vectors are known.
pub const NOW: i64 = 1_795_435_200;
