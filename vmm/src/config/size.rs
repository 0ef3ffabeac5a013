// SPDX-License-Identifier: Apache-2.0
//! Sizes in `vm.toml`: `"512MiB"`, `"4GiB"` or a whole number of bytes.
//!
//! Only binary units are known. "MB" and "M" mean different things to different tools, so they are refused
//! with the unit that was probably meant. The value stays raw here; ranges are checked where the key is
//! known.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];

/// A size as written.
#[derive(Clone, Debug)]
pub(super) enum RawSize {
    Bytes(i64),
    Text(String),
}

/// Why a size is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SizeError {
    #[error("is negative")]
    Negative,
    #[error("is not a number followed by a unit")]
    Format,
    #[error("is larger than any memory (2^64 bytes)")]
    Overflow,
}

/// What every size may look like.
pub(super) const SIZE_FORMAT: &str =
    "a whole number with KiB, MiB, GiB or TiB such as \"512MiB\", or bytes as an integer";

impl RawSize {
    pub(super) fn bytes(&self) -> Result<u64, SizeError> {
        match self {
            Self::Bytes(bytes) => u64::try_from(*bytes).map_err(|_| SizeError::Negative),
            Self::Text(text) => parse(text),
        }
    }
}

impl From<u64> for RawSize {
    fn from(bytes: u64) -> Self {
        // Sizes are checked against limits far below.
        Self::Bytes(i64::try_from(bytes).unwrap_or(i64::MAX))
    }
}

fn parse(text: &str) -> Result<u64, SizeError> {
    let (number, shift) = UNITS
        .iter()
        .find_map(|(unit, shift)| text.strip_suffix(unit).map(|number| (number, *shift)))
        .ok_or(SizeError::Format)?;
    let number = number.trim_end();
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(if number.starts_with('-') { SizeError::Negative } else { SizeError::Format });
    }
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)).ok_or(SizeError::Overflow)
}

/// `bytes` in the largest unit that divides it.
pub(super) fn show(bytes: u64) -> String {
    for (unit, shift) in UNITS.iter().rev() {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

impl<'de> Deserialize<'de> for RawSize {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct SizeVisitor;
        impl Visitor<'_> for SizeVisitor {
            type Value = RawSize;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(SIZE_FORMAT)
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<RawSize, E> {
                Ok(RawSize::Bytes(bytes))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<RawSize, E> {
                Ok(RawSize::Text(text.to_owned()))
            }
        }
        from.deserialize_any(SizeVisitor)
    }
}

impl Serialize for RawSize {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bytes(bytes) => to.serialize_i64(*bytes),
            Self::Text(text) => to.serialize_str(text),
        }
    }
}

impl JsonSchema for RawSize {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A size: \"512MiB\", \"4GiB\" or bytes.",
            "anyOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": "^[0-9]+ *(KiB|MiB|GiB|TiB)$" }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units_only() {
        assert_eq!(parse("512MiB"), Ok(512 << 20));
        assert_eq!(parse("4 GiB"), Ok(4 << 30));
        assert_eq!(parse("0KiB"), Ok(0));
        for bad in ["", "MiB", "512", "512MB", "512M", "1.5GiB", "+1MiB", " 1MiB", "1mib", "１MiB", "0x10MiB"]
        {
            assert_eq!(parse(bad), Err(SizeError::Format), "{bad:?}");
        }
        assert_eq!(parse("-1MiB"), Err(SizeError::Negative));
        assert_eq!(parse("16777216TiB"), Err(SizeError::Overflow));
        assert_eq!(parse("99999999999999999999999999KiB"), Err(SizeError::Overflow));
        assert_eq!(RawSize::Bytes(-1).bytes(), Err(SizeError::Negative));
    }

    #[test]
    fn sizes_are_shown_in_the_largest_whole_unit() {
        assert_eq!(show(1 << 40), "1 TiB");
        assert_eq!(show(1536 << 20), "1536 MiB");
        assert_eq!(show(0), "0 bytes");
        assert_eq!(show(1025), "1025 bytes");
    }
}
