// SPDX-License-Identifier: Apache-2.0
//! A strict reader for the DER of X.509: definite lengths in their shortest form, tags of one byte, nothing
//! behind the end.
//!
//! X.509 libraries read AMD's certificates too, but accept more than one encoding of the same value. This
//! reader accepts exactly one, and copies nothing: every slice is the original's, so what is hashed is what
//! was parsed. It takes what AMD's certificates have: a serial number of zero, an extension that is not DER
//! (the chip's identifier), PSS parameters with a default value written out.

use thiserror::Error;

use crate::utc::Utc;

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const PRINTABLE_STRING: u8 = 0x13;
pub(crate) const IA5_STRING: u8 = 0x16;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// Not what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("malformed DER")]
pub struct DerError;

/// What is left to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next element's tag.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next element: tag, content, and all of it.
    pub(crate) fn any(&mut self) -> Result<(u8, &'a [u8], &'a [u8]), DerError> {
        let (tag, first) = match self.0 {
            [tag, first, ..] if tag & 0x1f != 0x1f => (*tag, *first),
            _ => return Err(DerError),
        };
        let (header, len) = if first < 0x80 {
            (2, usize::from(first))
        } else {
            let octets = usize::from(first & 0x7f);
            // Four octets say more than any file here is long.
            let bytes = self.0.get(2..2 + octets).filter(|_| (1..=4).contains(&octets)).ok_or(DerError)?;
            let len = bytes.iter().fold(0_usize, |len, byte| len << 8 | usize::from(*byte));
            if len < 0x80 || bytes.first() == Some(&0) {
                return Err(DerError);
            }
            (2 + octets, len)
        };
        let end = header.checked_add(len).ok_or(DerError)?;
        let whole = self.0.get(..end).ok_or(DerError)?;
        self.0 = self.0.get(end..).ok_or(DerError)?;
        Ok((tag, whole.get(header..).ok_or(DerError)?, whole))
    }

    /// The content of the next element, which has this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Result<&'a [u8], DerError> {
        let (found, content, _) = self.any()?;
        if found == tag { Ok(content) } else { Err(DerError) }
    }

    /// All of the next element, which has this tag.
    pub(crate) fn whole(&mut self, tag: u8) -> Result<&'a [u8], DerError> {
        let (found, _, whole) = self.any()?;
        if found == tag { Ok(whole) } else { Err(DerError) }
    }

    /// The next element, which has this tag and elements in it.
    pub(crate) fn enter(&mut self, tag: u8) -> Result<Self, DerError> {
        self.expect(tag).map(Self)
    }

    /// Nothing may be left.
    pub(crate) fn end(self) -> Result<(), DerError> {
        if self.0.is_empty() { Ok(()) } else { Err(DerError) }
    }

    /// A non-negative integer's bytes, without leading zeros; zero is one zero byte.
    pub(crate) fn unsigned(&mut self) -> Result<&'a [u8], DerError> {
        match self.expect(INTEGER)? {
            [0] => Ok(&[0]),
            [0, rest @ ..] if rest.first().is_some_and(|byte| byte & 0x80 != 0) => Ok(rest),
            [first, ..] if *first == 0 || first & 0x80 != 0 => Err(DerError),
            [] => Err(DerError),
            bytes => Ok(bytes),
        }
    }

    /// An integer of 0 to 255.
    pub(crate) fn byte(&mut self) -> Result<u8, DerError> {
        match self.unsigned()? {
            [byte] => Ok(*byte),
            _ => Err(DerError),
        }
    }

    /// A bit string without unused bits.
    pub(crate) fn bits(&mut self) -> Result<&'a [u8], DerError> {
        self.expect(BIT_STRING)?.strip_prefix(&[0]).ok_or(DerError)
    }

    /// A time of RFC 5280 (UTC, with seconds), in seconds of Unix time.
    pub(crate) fn time(&mut self) -> Result<i64, DerError> {
        let (tag, text, _) = self.any()?;
        let digits = text.strip_suffix(b"Z").ok_or(DerError)?;
        let (year, rest) = match (tag, digits.len()) {
            (UTC_TIME, 12) => {
                let year = i64::from(pair(digits, 0)?);
                (if year < 50 { 2000 + year } else { 1900 + year }, digits.get(2..))
            }
            // What UTCTime can say has to be said with it.
            (GENERALIZED_TIME, 14) => {
                let year = i64::from(pair(digits, 0)?) * 100 + i64::from(pair(digits, 2)?);
                (year, digits.get(4..).filter(|_| !(1950..2050).contains(&year)))
            }
            _ => return Err(DerError),
        };
        let rest = rest.ok_or(DerError)?;
        let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(|at| pair(rest, at));
        let time = Utc { year, month: month?, day: day?, hour: hour?, minute: minute?, second: second? };
        time.seconds().ok_or(DerError)
    }
}

fn pair(digits: &[u8], at: usize) -> Result<u8, DerError> {
    match digits.get(at..at + 2) {
        Some([high @ b'0'..=b'9', low @ b'0'..=b'9']) => Ok((high - b'0') * 10 + (low - b'0')),
        _ => Err(DerError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_shortest_form_is_read() {
        let read = |bytes: &[u8]| Reader::new(bytes).any().map(|(tag, content, _)| (tag, content.len()));
        assert_eq!(read(&[0x30, 0]), Ok((0x30, 0)));
        assert_eq!(read(&[[0x30, 0x81, 0x80].as_slice(), &[0; 128]].concat()), Ok((0x30, 128)));
        for bytes in [
            &[0x30_u8][..],
            &[0x30, 1],
            &[0x30, 0x80],
            &[0x30, 0x81, 0x7f],
            &[0x30, 0x82, 0, 0x80],
            &[0x30, 0x85, 0, 0, 0, 0, 1],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x1f, 1, 0],
            &[],
        ] {
            assert_eq!(read(bytes), Err(DerError), "{bytes:x?}");
        }
    }

    #[test]
    fn integers_have_one_form() {
        let read = |bytes: &[u8]| {
            let content = [&[2, bytes.len() as u8], bytes].concat();
            Reader::new(&content).unsigned().map(<[u8]>::to_vec)
        };
        assert_eq!(read(&[0]), Ok(vec![0]));
        assert_eq!(read(&[0, 0x80]), Ok(vec![0x80]));
        assert_eq!(read(&[1, 0]), Ok(vec![1, 0]));
        for bytes in [&[][..], &[0x80], &[0, 1], &[0, 0, 0x80]] {
            assert_eq!(read(bytes), Err(DerError), "{bytes:x?}");
        }
        assert_eq!(Reader::new(&[2, 2, 1, 0]).byte(), Err(DerError));
        assert_eq!(Reader::new(&[2, 2, 0, 0xdb]).byte(), Ok(0xdb));
    }

    #[test]
    fn times_are_unix_times() {
        let utc = |text: &str| Reader::new(&[&[UTC_TIME, text.len() as u8], text.as_bytes()].concat()).time();
        let general = |text: &str| {
            Reader::new(&[&[GENERALIZED_TIME, text.len() as u8], text.as_bytes()].concat()).time()
        };
        assert_eq!(utc("700101000000Z"), Ok(0));
        assert_eq!(utc("201022182420Z"), Ok(1_603_391_060));
        assert_eq!(utc("240229235959Z"), Ok(1_709_251_199));
        assert_eq!(general("20500101000000Z"), Ok(2_524_608_000));
        for text in [
            "",
            "201022182420",
            "2010221824Z",
            "201322182420Z",
            "230229000000Z",
            "201022182460Z",
            "20102218242 Z",
        ] {
            assert_eq!(utc(text), Err(DerError), "{text}");
        }
        assert_eq!(general("20201022182420Z"), Err(DerError));
    }
}
