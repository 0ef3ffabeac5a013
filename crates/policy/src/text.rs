// SPDX-License-Identifier: Apache-2.0
//! Values that a policy has as text: adapters for serde, which refuse every text that is not a value, with
//! its place in the file.

use cvmm_attest::claims::FirmwareVersion;
use cvmm_snp::digest::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::version::{GateVersion, numbers};

/// A value with one text form.
pub(crate) trait Text: Sized {
    /// The value; an error says what is wrong.
    fn parse(text: &str) -> Result<Self, String>;
    /// The text that is parsed as this value.
    fn text(&self) -> String;
}

impl Text for Digest {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error| format!("{error}"))
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// Bytes of a fixed number.
fn bytes<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes)
        .map_err(|_| format!("{text:?} is not {} hexadecimal digits", 2 * N))?;
    Ok(bytes)
}

impl Text for [u8; 16] {
    fn parse(text: &str) -> Result<Self, String> {
        bytes(text)
    }

    fn text(&self) -> String {
        hex::encode(self)
    }
}

impl Text for [u8; 32] {
    fn parse(text: &str) -> Result<Self, String> {
        bytes(text)
    }

    fn text(&self) -> String {
        hex::encode(self)
    }
}

/// A CHIP_ID: 64 bytes, or the 8 that Turin uses.
impl Text for [u8; 64] {
    fn parse(text: &str) -> Result<Self, String> {
        if text.len() != 16 {
            return bytes(text);
        }
        let mut id = [0; 64];
        id[..8].copy_from_slice(&bytes::<8>(text)?);
        Ok(id)
    }

    fn text(&self) -> String {
        hex::encode(self)
    }
}

impl Text for FirmwareVersion {
    fn parse(text: &str) -> Result<Self, String> {
        let [major, minor, build] =
            numbers(text).ok_or_else(|| format!("{text:?} is not a version such as \"1.55.21\""))?;
        Ok(Self { major, minor, build })
    }

    fn text(&self) -> String {
        let Self { major, minor, build } = self;
        format!("{major}.{minor}.{build}")
    }
}

impl Text for GateVersion {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|()| format!("{text:?} is not a version such as \"0.1.0\""))
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// Each one by itself, so that an error has its own place and not its list's.
struct Parsed<T>(T);

impl<'de, T: Text> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        T::parse(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// `#[serde(with = "text::value")]`.
pub(crate) mod value {
    use super::{Deserialize, Deserializer, Parsed, Serializer, Text};

    pub(crate) fn serialize<T: Text, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&value.text())
    }

    pub(crate) fn deserialize<'de, T: Text, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        Parsed::deserialize(deserializer).map(|Parsed(value)| value)
    }
}

/// `#[serde(with = "text::option")]`, for an [`Option`].
pub(crate) mod option {
    use super::{Deserialize, Deserializer, Parsed, Serialize, Serializer, Text};

    pub(crate) fn serialize<T: Text, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().map(Text::text).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, T: Text, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        Ok(Option::deserialize(deserializer)?.map(|Parsed(value)| value))
    }
}

/// `#[serde(with = "text::list")]`, for a [`Vec`].
pub(crate) mod list {
    use super::{Deserialize, Deserializer, Parsed, Serializer, Text};

    pub(crate) fn serialize<T: Text, S: Serializer>(values: &[T], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(Text::text))
    }

    pub(crate) fn deserialize<'de, T: Text, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<T>, D::Error> {
        let values: Vec<Parsed<T>> = Vec::deserialize(deserializer)?;
        Ok(values.into_iter().map(|Parsed(value)| value).collect())
    }
}

/// `#[serde(with = "text::utc")]`, for an [`Option`] of seconds of Unix time, which TOML has as a time in
/// UTC.
pub(crate) mod utc {
    use cvmm_attest::utc::Utc;
    use serde::de::Error as _;
    use toml::value::{Date, Datetime, Offset, Time};

    use super::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(seconds: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
        seconds.map(datetime).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
        let time: Option<Datetime> = Option::deserialize(deserializer)?;
        let wrong = || D::Error::custom("not a time in UTC such as 2027-01-01T00:00:00Z");
        time.map(|time| seconds(&time).ok_or_else(wrong)).transpose()
    }

    fn seconds(time: &Datetime) -> Option<i64> {
        let Datetime { date: Some(date), time: Some(time), offset: Some(Offset::Z) } = time else {
            return None;
        };
        let utc = Utc {
            year: date.year.into(),
            month: date.month,
            day: date.day,
            hour: time.hour,
            minute: time.minute,
            second: time.second.unwrap_or(0),
        };
        utc.seconds()
    }

    fn datetime(seconds: i64) -> Datetime {
        let Utc { year, month, day, hour, minute, second } = Utc::from_seconds(seconds);
        // What was read has four digits for the year.
        let date = Date { year: u16::try_from(year).unwrap_or_default(), month, day };
        let time = Time { hour, minute, second: Some(second), nanosecond: None };
        Datetime { date: Some(date), time: Some(time), offset: Some(Offset::Z) }
    }
}

/// `#[serde(skip_serializing_if = "text::is_default")]`.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
