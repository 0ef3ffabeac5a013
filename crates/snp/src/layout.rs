// SPDX-License-Identifier: Apache-2.0
//! Compile-time proof that a type lies in memory as its document says.

/// Asserts the size of a type and the offsets of its fields.
macro_rules! layout {
    ($type:ty, $size:expr, { $($field:ident: $offset:expr),* $(,)? }) => {
        const _: () = {
            assert!(size_of::<$type>() == $size);
            assert!(align_of::<$type>() == 1);
            $(assert!(core::mem::offset_of!($type, $field) == $offset);)*
        };
    };
}

pub(crate) use layout;
