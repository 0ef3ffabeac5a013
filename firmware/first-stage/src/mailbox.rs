// SPDX-License-Identifier: Apache-2.0
//! Messages between the stage and the VMM, in shared memory.
//!
//! The stage writes a message into the outbox and then to the doorbell; the VMM answers in the inbox before
//! it resumes the guest. Each side copies once and parses its copy. The VMM does not interpret what the stage
//! and the gate exchange.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::layout::{INBOX_LEN, OUTBOX_LEN};

/// "CVMB"
pub const MAGIC: u32 = u32::from_le_bytes(*b"CVMB");
/// Bytes of a header.
pub const HEADER: usize = size_of::<Header>();
/// Longest message to the VMM, in bytes.
pub const MAX_OUT: usize = OUTBOX_LEN as usize - HEADER;
/// Longest message to the stage, in bytes.
pub const MAX_IN: usize = INBOX_LEN as usize - HEADER;
/// Longest name of a VM, in bytes.
pub const MAX_VM_ID: usize = 64;
/// Bytes of a report.
pub const REPORT: usize = 1184;

/// Header of each message, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: U32,
    /// Number of the stage's message, from 1; a response has the number of its request.
    pub sequence: U32,
    /// [`Kind`].
    pub kind: U32,
    /// Bytes that follow.
    pub len: U32,
}

/// Type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// To the VMM: request for a challenge. Empty.
    Hello = 1,
    /// Response to `Hello`: [`Challenge`].
    Challenge = 2,
    /// To the VMM: [`Evidence`].
    Evidence = 3,
    /// Response to `Evidence`: a ticket.
    Ticket = 4,
    /// To the VMM: put a chunk of the UKI into the window. [`Fill`].
    Fill = 5,
    /// Response to `Fill`: the same [`Fill`].
    Filled = 6,
    /// To the VMM: the stage is done.
    Done = 7,
    /// Response to `Done`. Empty.
    Goodbye = 8,
}

impl Kind {
    /// Converts from the number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        use Kind::{Challenge, Done, Evidence, Fill, Filled, Goodbye, Hello, Ticket};
        [Hello, Challenge, Evidence, Ticket, Fill, Filled, Done, Goodbye]
            .into_iter()
            .find(|kind| *kind as u32 == number)
    }

    /// The type of the response, if this is a request.
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

/// The values that the report must cover.
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

/// The evidence for the gate.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Evidence {
    /// The report that the security processor signed.
    pub report: [u8; REPORT],
    /// The stage's X25519 key.
    pub key: [u8; 32],
}

/// A chunk of the UKI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Fill {
    /// Offset of the first byte.
    pub offset: U64,
    /// Length in bytes.
    pub len: U64,
}

const _: () = assert!(HEADER == 16 && size_of::<Challenge>() == 148 && size_of::<Evidence>() == 1216);

/// Checks the header of a response; returns the length of its body.
#[must_use]
pub fn answer(header: &Header, sequence: u32, kind: Kind) -> Option<usize> {
    let len = usize::try_from(header.len.get()).ok()?;
    let good = header.magic.get() == MAGIC
        && header.sequence.get() == sequence
        && header.kind.get() == kind as u32
        && len <= MAX_IN;
    good.then_some(len)
}
