// SPDX-License-Identifier: Apache-2.0
//! What the fuzz targets share.
//!
//! A target reads its input as a little program: one byte says what to do, the following bytes with what
//! ([`Input`]). That keeps inputs small and mutations meaningful, and `seeds.py` can write them. Where the
//! input ends everything reads as zero and [`Input::more`] is false. In addition to "no panic, no hang, no
//! sanitizer report" each target asserts what must hold whatever the guest does.

pub mod images;
pub mod input;
pub mod machine;
pub mod ring;

pub use input::Input;
