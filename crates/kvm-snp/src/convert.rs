// SPDX-License-Identifier: Apache-2.0
//! Requests of a guest to change its pages, checked before they are carried out.
//!
//! A guest changes the state of pages by KVM_HC_MAP_GPA_RANGE (KVM's form of its page state changes), or by
//! touching a page in the other state (KVM_EXIT_MEMORY_FAULT). Everything here comes from the guest and may
//! be nonsense.

use thiserror::Error;

/// Page size of all requests.
pub(crate) const PAGE: u64 = cvmm_snp::PAGE_SIZE as u64;
/// End of the physical address space of any x86-64 processor.
const ADDRESS_END: u64 = 1 << 52;
/// KVM_MAP_GPA_RANGE_ENCRYPTED.
const FLAG_ENCRYPTED: u64 = 1 << 4;
/// KVM_MAP_GPA_RANGE_PAGE_SZ_2M and _1G: hints that change nothing.
const FLAG_SIZES: u64 = 0xf;

/// State of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageState {
    /// Encrypted: the host cannot read it.
    Private,
    /// Ordinary memory, seen by guest and devices.
    Shared,
}

impl PageState {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Shared => "shared",
        }
    }
}

/// A range of pages and the state they are to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// First guest physical address, page aligned.
    pub gpa: u64,
    /// Bytes, a multiple of the page size, not zero; the range ends below 2^52.
    pub len: u64,
    /// Wanted.
    pub to: PageState,
}

/// Why a request is nonsense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// Not aligned.
    #[error("guest address {0:#x} is not page aligned")]
    Unaligned(u64),
    /// Nothing to do.
    #[error("a range of no pages at {0:#x}")]
    Empty(u64),
    /// Beyond the address space.
    #[error("{pages:#x} pages from {gpa:#x} reach beyond the address space")]
    TooLong {
        /// Start.
        gpa: u64,
        /// Asked for.
        pages: u64,
    },
    /// Undefined bits.
    #[error("undefined flags {0:#x}")]
    Flags(u64),
}

impl Request {
    /// From the arguments of KVM_HC_MAP_GPA_RANGE: address, number of 4 KiB pages, flags.
    pub fn from_hypercall(args: &[u64; 6]) -> Result<Self, RequestError> {
        let [gpa, pages, flags, ..] = *args;
        if flags & !(FLAG_ENCRYPTED | FLAG_SIZES) != 0 {
            return Err(RequestError::Flags(flags));
        }
        let to = if flags & FLAG_ENCRYPTED != 0 { PageState::Private } else { PageState::Shared };
        let too_long = RequestError::TooLong { gpa, pages };
        Self::new(gpa, pages.checked_mul(PAGE).ok_or(too_long)?, to)
    }

    /// From KVM_EXIT_MEMORY_FAULT: the access was `private` or not, so that is what the guest takes the page
    /// for.
    pub fn from_fault(gpa: u64, size: u64, private: bool) -> Result<Self, RequestError> {
        let to = if private { PageState::Private } else { PageState::Shared };
        Self::new(gpa, size, to)
    }

    fn new(gpa: u64, len: u64, to: PageState) -> Result<Self, RequestError> {
        if !gpa.is_multiple_of(PAGE) || !len.is_multiple_of(PAGE) {
            return Err(RequestError::Unaligned(if gpa.is_multiple_of(PAGE) { len } else { gpa }));
        }
        if len == 0 {
            return Err(RequestError::Empty(gpa));
        }
        match gpa.checked_add(len) {
            Some(end) if end <= ADDRESS_END => Ok(Self { gpa, len, to }),
            _ => Err(RequestError::TooLong { gpa, pages: len / PAGE }),
        }
    }

    /// One past the last byte.
    pub fn end(&self) -> u64 {
        // Checked when the request was made.
        self.gpa + self.len
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hypercall(gpa: u64, pages: u64, flags: u64) -> Result<Request, RequestError> {
        Request::from_hypercall(&[gpa, pages, flags, 0, 0, 0])
    }

    #[test]
    fn flags_name_the_state() {
        let private = hypercall(0x1000, 2, FLAG_ENCRYPTED).unwrap();
        assert_eq!(private, Request { gpa: 0x1000, len: 0x2000, to: PageState::Private });
        // Bit 0 is a page size: alone it must not mean private.
        assert_eq!(hypercall(0, 512, 1).unwrap().to, PageState::Shared);
        assert_eq!(hypercall(0, 1, 0).unwrap().to, PageState::Shared);
        assert_eq!(hypercall(0, 1, 1 << 5), Err(RequestError::Flags(1 << 5)));
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(hypercall(0x1001, 1, 0), Err(RequestError::Unaligned(0x1001)));
        assert_eq!(hypercall(0x1000, 0, 0), Err(RequestError::Empty(0x1000)));
        for (gpa, pages) in [
            (0, 1 << 52),
            (0, u64::MAX),
            (!0xfff, 1),
            (ADDRESS_END, 1),
            (ADDRESS_END - PAGE, 2),
            (0, 1 << 41),
        ] {
            assert_eq!(hypercall(gpa, pages, 0), Err(RequestError::TooLong { gpa, pages }));
        }
        assert!(hypercall(ADDRESS_END - PAGE, 1, 0).is_ok());
        assert_eq!(Request::from_fault(0x1000, 0x10, true), Err(RequestError::Unaligned(0x10)));
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_sane(args: [u64; 6], small in 0_u64..0x10_0000, pages in 0_u64..0x1_0000) {
            for args in [args, [small << 12, pages, args[2] & 0x1f, 0, 0, 0]] {
                if let Ok(request) = Request::from_hypercall(&args) {
                    prop_assert!(request.len > 0 && request.end() <= ADDRESS_END && request.end() > request.gpa);
                    prop_assert!(request.gpa.is_multiple_of(PAGE) && request.len.is_multiple_of(PAGE));
                }
            }
        }
    }
}
