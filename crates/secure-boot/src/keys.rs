// SPDX-License-Identifier: Apache-2.0
//! The four variables together.

use std::fmt;

use thiserror::Error;

use crate::certificate::{Certificate, CertificateError};
use crate::list::{Kind, ListError, entries};

/// First bytes of a key file, and of the key region of a firmware image that takes keys.
pub const MAGIC: [u8; 8] = *b"CVMMKEYS";
/// The version of the format.
pub const VERSION: u32 = 1;
/// Magic, u32 length of what follows, u32 version.
pub const HEADER_LEN: usize = 16;
/// Bytes of one variable. A dbx has some 20 KiB today.
pub const MAX_VARIABLE: usize = 64 << 10;
/// Bytes of all variables: half of the firmware's store is 128 KiB, and each has a header there.
pub const MAX_TOTAL: usize = 120 << 10;
/// Bytes of a key file.
pub const MAX_FILE: usize = MAX_TOTAL + HEADER_LEN + 4 * (ENTRY + PAD);

/// u32 type, u32 length.
const ENTRY: usize = 8;
/// Entries are padded to it.
const PAD: usize = 8;

/// A Secure Boot variable. The number is the type of its data HOB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Variable {
    /// The platform key: turns Secure Boot on, and signs changes of KEK.
    Pk = 0x100,
    /// Key exchange keys: sign changes of db and dbx.
    Kek = 0x101,
    /// Who may sign programs.
    Db = 0x102,
    /// What may not run, although it is signed.
    Dbx = 0x103,
}

impl Variable {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Pk, Self::Kek, Self::Db, Self::Dbx];

    /// The key of `[secure_boot]`.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Pk => "pk",
            Self::Kek => "kek",
            Self::Db => "db",
            Self::Dbx => "dbx",
        }
    }

    fn index(self) -> usize {
        // From 0x100 on.
        (self as usize) & 3
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pk => "PK",
            Self::Kek => "KEK",
            Self::Db => "db",
            Self::Dbx => "dbx",
        })
    }
}

/// Why keys cannot be used together.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeysError {
    /// Without a platform key Secure Boot is off.
    #[error("{0} is empty: {1}")]
    Empty(Variable, &'static str),
    /// UEFI allows one platform key.
    #[error("PK has {0} entries; it must be one certificate")]
    PkCount(usize),
    /// Something else than certificates in PK or KEK, or digests of certificates in db.
    #[error("entry {number} of {variable} is not a certificate")]
    Kind {
        /// Which variable.
        variable: Variable,
        /// Which entry, from 1.
        number: usize,
    },
    /// A certificate that is of no use.
    #[error("entry {number} of {variable} {error}")]
    Certificate {
        /// Which variable.
        variable: Variable,
        /// Which entry, from 1.
        number: usize,
        /// Why.
        #[source]
        error: CertificateError,
    },
    /// The lists of a variable.
    #[error("{variable}: {error}")]
    List {
        /// Which variable.
        variable: Variable,
        /// Why.
        #[source]
        error: ListError,
    },
    /// Too long.
    #[error("{0} has {1} bytes, and {MAX_VARIABLE} are the most that a variable may have")]
    Length(Variable, usize),
    /// Too long together.
    #[error("PK, KEK, db and dbx have {0} bytes together, and the firmware takes {MAX_TOTAL}")]
    Total(usize),
    /// A key file with another form.
    #[error("the key file is malformed at offset {0:#x}")]
    File(usize),
}

/// The four variables, checked: PK has one certificate, KEK only certificates, db at least one entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Keys {
    lists: [Vec<u8>; 4],
}

impl Keys {
    /// Checks signature lists of the four variables, in the order of [`Variable::ALL`].
    ///
    /// # Errors
    /// What the firmware would refuse, ignore or not start with.
    pub fn new(lists: [Vec<u8>; 4]) -> Result<Self, KeysError> {
        let keys = Self { lists };
        let mut total = 0;
        for variable in Variable::ALL {
            let bytes = keys.list(variable);
            if bytes.len() > MAX_VARIABLE {
                return Err(KeysError::Length(variable, bytes.len()));
            }
            total += bytes.len();
            keys.check(variable)?;
        }
        if total > MAX_TOTAL {
            return Err(KeysError::Total(total));
        }
        Ok(keys)
    }

    fn check(&self, variable: Variable) -> Result<(), KeysError> {
        let entries = entries(self.list(variable)).map_err(|error| KeysError::List { variable, error })?;
        match (variable, entries.len()) {
            (Variable::Pk, 0) => {
                return Err(KeysError::Empty(variable, "without a platform key Secure Boot is off"));
            }
            (Variable::Pk, count) if count > 1 => return Err(KeysError::PkCount(count)),
            (Variable::Db, 0) => return Err(KeysError::Empty(variable, "nothing could boot")),
            _ => {}
        }
        for (index, entry) in entries.iter().enumerate() {
            let number = index + 1;
            let allowed = match variable {
                Variable::Pk | Variable::Kek => entry.kind == Kind::Certificate,
                Variable::Db => entry.kind != Kind::CertificateDigest,
                Variable::Dbx => true,
            };
            if !allowed {
                return Err(KeysError::Kind { variable, number });
            }
            if entry.kind == Kind::Certificate {
                Certificate::parse(entry.data).map_err(|error| KeysError::Certificate {
                    variable,
                    number,
                    error,
                })?;
            }
        }
        Ok(())
    }

    /// The signature lists of a variable; empty if there are none.
    #[must_use]
    pub fn list(&self, variable: Variable) -> &[u8] {
        &self.lists[variable.index()]
    }

    /// The certificates of a variable.
    pub fn certificates(&self, variable: Variable) -> impl Iterator<Item = Certificate> {
        // They were read when the keys were checked.
        let entries = entries(self.list(variable)).unwrap_or_default().into_iter();
        entries
            .filter(|entry| entry.kind == Kind::Certificate)
            .filter_map(|entry| Certificate::parse(entry.data).ok())
    }

    /// The key file: [`MAGIC`], u32 length, u32 [`VERSION`], then for each variable that is not empty u32
    /// type, u32 length and its lists, padded to 8 bytes with zeros. Numbers are little-endian. The same
    /// keys give the same bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for variable in Variable::ALL {
            let list = self.list(variable);
            if list.is_empty() {
                continue;
            }
            // At most MAX_VARIABLE.
            body.extend_from_slice(&(variable as u32).to_le_bytes());
            body.extend_from_slice(&(list.len() as u32).to_le_bytes());
            body.extend_from_slice(list);
            body.resize(body.len().next_multiple_of(PAD), 0);
        }
        let mut file = MAGIC.to_vec();
        file.extend_from_slice(&(body.len() as u32).to_le_bytes());
        file.extend_from_slice(&VERSION.to_le_bytes());
        file.extend(body);
        file
    }

    /// Reads a key file. Only the bytes that [`Keys::to_bytes`] gives are accepted, so a file has one digest.
    ///
    /// # Errors
    /// The form, or as [`Keys::new`].
    pub fn parse(file: &[u8]) -> Result<Self, KeysError> {
        let word = |at: usize| {
            let field = file.get(at..at + 4).and_then(|field| field.try_into().ok());
            field.map(u32::from_le_bytes).ok_or(KeysError::File(at))
        };
        if file.len() > MAX_FILE || file.get(..8) != Some(&MAGIC) || word(12)? != VERSION {
            return Err(KeysError::File(0));
        }
        if u64::from(word(8)?) != (file.len() - HEADER_LEN) as u64 {
            return Err(KeysError::File(8));
        }
        let mut lists: [Vec<u8>; 4] = Default::default();
        let mut at = HEADER_LEN;
        while at < file.len() {
            let wrong = || KeysError::File(at);
            let (kind, len) = (word(at)?, word(at + 4)?);
            let variable =
                Variable::ALL.into_iter().find(|variable| *variable as u32 == kind).ok_or_else(wrong)?;
            let start = at + ENTRY;
            let end = usize::try_from(len).ok().and_then(|len| start.checked_add(len)).ok_or_else(wrong)?;
            let list = file.get(start..end).ok_or_else(wrong)?;
            lists[variable.index()] = list.to_vec();
            at = end.next_multiple_of(PAD);
        }
        let keys = Self::new(lists)?;
        // Order, padding and repetitions.
        if keys.to_bytes() != file {
            return Err(KeysError::File(HEADER_LEN));
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests;
