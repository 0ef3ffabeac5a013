// SPDX-License-Identifier: Apache-2.0
//! What an admission and a machine agree on. Neither knows the other: an admission gives the terms of a
//! launch and answers for a first stage, a machine launches by those terms and lets its first stage ask;
//! [`crate::run`] brings them together.

use std::time::Duration;

use cvmm_first_stage::mailbox::{Challenge, Evidence};
use cvmm_launch::id_block::Identity;
use cvmm_snp::digest::Digest;

/// What an SNP guest is launched with, beside its pages.
#[derive(Clone, Debug)]
pub struct LaunchTerms {
    /// The ID block to finish the launch with; without one, a block with a key that does not exist is made.
    pub identity: Option<Identity>,
    /// In every report of the guest.
    pub host_data: [u8; 32],
    /// The launch digest, if it has been computed already.
    pub expected_digest: Option<Digest>,
}

/// Answers a first stage's questions about its admission.
pub trait StageAuthority: Send {
    /// Why a first stage's guest was not admitted.
    type Refusal: std::error::Error + Send + 'static;

    /// What the stage's report has to be about.
    fn challenge(&self) -> Challenge;

    /// Presents the stage's evidence. Returns the ticket for the stage, which verifies it by itself.
    ///
    /// # Errors
    /// The guest is not admitted; its VM has to end.
    fn evidence(&mut self, evidence: &Evidence) -> Result<Vec<u8>, Self::Refusal>;

    /// How long [`StageAuthority::evidence`] may take.
    fn timeout(&self) -> Duration;
}
