// SPDX-License-Identifier: Apache-2.0
//! The size of a page, in the type of guest physical addresses.

/// Size of a guest page in bytes: the granularity of a launch.
pub const PAGE_SIZE: u64 = cvmm_snp::PAGE_SIZE as u64;
