// SPDX-License-Identifier: Apache-2.0
//! The host of a security processor: memory, an RMP with the rules of RMPUPDATE, a CPUID table.

use std::collections::BTreeMap;
use std::ops::Range;

use cvmm_psp::{Host, HostFault, LARGE_PAGE, PAGE, PageState, RmpEntry};

/// Memory of the host in bytes.
pub const MEMORY: u64 = 32 << 20;

/// Sparse memory and everything else that a security processor asks its host for.
pub struct Machine {
    pages: BTreeMap<u64, Box<[u8; PAGE as usize]>>,
    rmp: Vec<RmpEntry>,
    /// Whether SEV-SNP is enabled in the SYSCFG MSR.
    pub snp: bool,
    /// CPUID leaves by EAX and ECX.
    pub cpuid: BTreeMap<(u32, u32), [u32; 4]>,
    /// Memory keys of guests by ASID.
    pub keys: BTreeMap<u32, [u8; 32]>,
    /// Pages written to, and the state each was in.
    pub written: Vec<(u64, PageState)>,
    next: u64,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            pages: BTreeMap::new(),
            rmp: vec![RmpEntry::default(); (MEMORY / PAGE) as usize],
            snp: true,
            cpuid: BTreeMap::new(),
            keys: BTreeMap::new(),
            written: Vec::new(),
            next: LARGE_PAGE,
        }
    }
}

/// A range of memory page by page: the page's number, the range within it, the range within the whole.
fn parts(spa: u64, len: usize) -> Result<impl Iterator<Item = (u64, Range<usize>, Range<usize>)>, HostFault> {
    let end = spa.checked_add(len as u64).filter(|&end| end <= MEMORY).ok_or(HostFault)?;
    Ok((spa / PAGE..end.div_ceil(PAGE)).map(move |page| {
        let (from, to) = (spa.max(page * PAGE), end.min((page + 1) * PAGE));
        let within = (from - page * PAGE) as usize..(to - page * PAGE) as usize;
        (page, within, (from - spa) as usize..(to - spa) as usize)
    }))
}

impl Host for Machine {
    fn read(&mut self, spa: u64, into: &mut [u8]) -> Result<(), HostFault> {
        for (page, within, part) in parts(spa, into.len())? {
            match self.pages.get(&page) {
                Some(page) => into[part].copy_from_slice(&page[within]),
                None => into[part].fill(0),
            }
        }
        Ok(())
    }

    fn write(&mut self, spa: u64, from: &[u8]) -> Result<(), HostFault> {
        for (page, within, part) in parts(spa, from.len())? {
            self.written.push((page * PAGE, self.rmp[page as usize].state()));
            let page = self.pages.entry(page).or_insert_with(|| Box::new([0; PAGE as usize]));
            page[within].copy_from_slice(&from[part]);
        }
        Ok(())
    }

    fn rmp_read(&mut self, spa: u64) -> Result<Option<RmpEntry>, HostFault> {
        Ok(self.rmp.get((spa / PAGE) as usize).copied())
    }

    fn rmp_write(&mut self, spa: u64, entry: &RmpEntry) -> Result<(), HostFault> {
        let pages = if entry.large { LARGE_PAGE / PAGE } else { 1 };
        if !spa.is_multiple_of(pages * PAGE) || spa + pages * PAGE > MEMORY {
            return Err(HostFault);
        }
        for page in 0..pages {
            let gpa = if entry.asid == 0 { entry.gpa } else { entry.gpa + page * PAGE };
            self.rmp[(spa / PAGE + page) as usize] = RmpEntry { gpa, ..*entry };
        }
        Ok(())
    }

    fn snp_enabled(&mut self) -> bool {
        self.snp
    }

    fn cpuid(&mut self, eax: u32, ecx: u32) -> [u32; 4] {
        self.cpuid.get(&(eax, ecx)).copied().unwrap_or_default()
    }

    fn guest_key(&mut self, asid: u32, key: &[u8; 32]) {
        if key == &[0; 32] {
            self.keys.remove(&asid);
        } else {
            self.keys.insert(asid, *key);
        }
    }
}

impl Machine {
    /// RMPUPDATE as a kernel would use it: refused on immutable pages.
    pub fn rmpupdate(&mut self, spa: u64, entry: RmpEntry) -> bool {
        let pages = if entry.large { LARGE_PAGE / PAGE } else { 1 };
        let range = (spa / PAGE) as usize..(spa / PAGE + pages) as usize;
        if self.rmp[range].iter().any(|old| old.immutable) {
            return false;
        }
        let entry = RmpEntry { vmsa: false, validated: false, perms: [0xF, 0, 0, 0], ..entry };
        self.rmp_write(spa, &entry).is_ok()
    }

    /// The state of a page.
    pub fn state(&self, spa: u64) -> PageState {
        self.rmp[(spa / PAGE) as usize].state()
    }

    /// The RMP.
    pub fn table(&self) -> &[RmpEntry] {
        &self.rmp
    }

    /// The RMP entry of a page.
    pub fn entry(&self, spa: u64) -> RmpEntry {
        self.rmp[(spa / PAGE) as usize]
    }

    /// Bytes of memory.
    pub fn bytes<const N: usize>(&mut self, spa: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.read(spa, &mut bytes).unwrap();
        bytes
    }

    /// An unused page.
    pub fn alloc(&mut self) -> u64 {
        let page = self.next;
        self.next += PAGE;
        assert!(self.next <= MEMORY, "the test machine is out of memory");
        page
    }

    /// A firmware page.
    pub fn firmware_page(&mut self) -> u64 {
        let page = self.alloc();
        assert!(self.rmpupdate(page, RmpEntry::firmware()));
        page
    }

    /// A page given to the firmware for a guest, with content.
    pub fn pre_guest(&mut self, asid: u32, gpa: u64, content: &[u8]) -> u64 {
        let page = self.alloc();
        self.write(page, content).unwrap();
        assert!(self.rmpupdate(page, pre_guest(asid, gpa)));
        page
    }
}

/// The entry of a page in the state Pre-Guest.
pub fn pre_guest(asid: u32, gpa: u64) -> RmpEntry {
    RmpEntry { asid, gpa, assigned: true, immutable: true, ..RmpEntry::default() }
}
