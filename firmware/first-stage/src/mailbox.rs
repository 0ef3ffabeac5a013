// SPDX-License-Identifier: Apache-2.0
//! Messages between stage and VMM, in shared memory.
//!
//! The stage writes one into the outbox and then to the doorbell; the VMM answers in the inbox before it lets the guest go on. Either
//! side copies once and parses its copy. The VMM does not look into what stage and gate say to each other.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::layout::{INBOX_LEN, OUTBOX_LEN};

/// "CVMB"
pub const MAGIC: u32 = u32::from_le_bytes(*b"CVMB");
/// Bytes of a header.
pub const HEADER: usize = size_of::<Header>();
/// The longest message to the VMM.
pub const MAX_OUT: usize = OUTBOX_LEN as usize - HEADER;
/// The longest message to the stage.
pub const MAX_IN: usize = INBOX_LEN as usize - HEADER;
/// Bytes of a VM's name, at most.
pub const MAX_VM_ID: usize = 64;
/// Bytes of a report.
pub const REPORT: usize = 1184;

/// Before each message, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: U32,
    /// Counts the stage's messages from 1; an answer has its question's.
    pub sequence: U32,
    /// [`Kind`].
    pub kind: U32,
    /// Bytes that follow.
    pub len: U32,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// To the VMM: what shall I answer? Empty.
    Hello = 1,
    /// The answer: [`Challenge`].
    Challenge = 2,
    /// To the VMM: [`Evidence`].
    Evidence = 3,
    /// The answer: a ticket.
    Ticket = 4,
    /// To the VMM: put a piece of the UKI into the window. [`Fill`].
    Fill = 5,
    /// The answer: it is there. [`Fill`], the same.
    Filled = 6,
    /// To the VMM: the stage is done.
    Done = 7,
    /// The answer to it, empty.
    Goodbye = 8,
}

impl Kind {
    /// The one with this number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        use Kind::{Challenge, Done, Evidence, Fill, Filled, Goodbye, Hello, Ticket};
        [Hello, Challenge, Evidence, Ticket, Fill, Filled, Done, Goodbye]
            .into_iter()
            .find(|kind| *kind as u32 == number)
    }

    /// What answers it.
    #[must_use]
    pub fn answer(self) -> Option<Self> {
        match self {
            Self::Hello => Some(Self::Challenge),
            Self::Evidence => Some(Self::Ticket),
            Self::Fill => Some(Self::Filled),
            Self::Done => Some(Self::Goodbye),
            Self::Challenge | Self::Ticket | Self::Filled | Self::Goodbye => None,
        }
    }
}

/// What the report has to be about.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Challenge {
    /// The gate's nonce.
    pub nonce: [u8; 32],
    /// SHA-384 of the manifest.
    pub manifest: [u8; 48],
    /// Bytes of the VM's name.
    pub vm_id_len: U32,
    /// The VM's name at the gate; zeros after it.
    pub vm_id: [u8; MAX_VM_ID],
}

impl Challenge {
    /// The name, if the lengths are right.
    #[must_use]
    pub fn vm_id(&self) -> Option<&[u8]> {
        let len = usize::try_from(self.vm_id_len.get()).ok()?;
        let (name, rest) = self.vm_id.split_at_checked(len)?;
        (!name.is_empty() && rest.iter().all(|byte| *byte == 0)).then_some(name)
    }
}

/// What the gate gets.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Evidence {
    /// As the security processor signed it.
    pub report: [u8; REPORT],
    /// The stage's X25519 key.
    pub key: [u8; 32],
}

/// A piece of the UKI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Fill {
    /// First byte.
    pub offset: U64,
    /// Bytes.
    pub len: U64,
}

const _: () = assert!(HEADER == 16 && size_of::<Challenge>() == 148 && size_of::<Evidence>() == 1216);

/// Checks the header of an answer; the number of bytes that follow.
#[must_use]
pub fn answer(header: &Header, sequence: u32, kind: Kind) -> Option<usize> {
    let len = usize::try_from(header.len.get()).ok()?;
    let good = header.magic.get() == MAGIC
        && header.sequence.get() == sequence
        && header.kind.get() == kind as u32
        && len <= MAX_IN;
    good.then_some(len)
}
