// SPDX-License-Identifier: Apache-2.0
//! Writing policies: a first one for a guest ([`draft()`]), launch digests in the place of the `vm.toml` that
//! a policy names ([`resolve()`]), and the next guest in a policy that exists ([`update()`]). All take and
//! give text.

mod draft;
mod resolve;
mod update;

pub use draft::{DraftError, GuestDescription, Platform, Signers, draft};
pub use resolve::resolve;
pub use update::{Changes, Update, UpdateError, update};
