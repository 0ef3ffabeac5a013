// SPDX-License-Identifier: Apache-2.0
//! Secure Boot keys: the owner's files in any format, the key file that a gate reads, and the pages and
//! HOBs of a launch plan, which are read back as the firmware does.
#![no_main]

use std::collections::BTreeMap;
use std::io;

use cvmm_fuzz::Input;
use cvmm_launch::firmware::Firmware;
use cvmm_launch::measured::{Measured, is_loader_path};
use cvmm_launch::memory::MemoryLayout;
use cvmm_launch::plan::{LaunchPlan, PAGE_SIZE, PageSink, Profile, place};
use cvmm_launch::samples::firmware::Image;
use cvmm_secure_boot::{Keys, MAX_TOTAL, Variable, list, source};
use libfuzzer_sys::fuzz_target;

/// The pages of a launch.
#[derive(Default)]
struct Memory(BTreeMap<u64, Vec<u8>>);

impl PageSink for Memory {
    fn write(&mut self, gpa: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.insert(gpa, bytes.to_vec());
        Ok(())
    }
}

impl Memory {
    fn read(&self, gpa: u64, len: usize) -> Vec<u8> {
        let (start, mut bytes) =
            self.0.range(..=gpa).next_back().map(|(gpa, bytes)| (*gpa, bytes.clone())).expect("a page");
        for (_, more) in self.0.range(gpa + 1..gpa + len as u64) {
            bytes.extend(more);
        }
        bytes[(gpa - start) as usize..][..len].to_vec()
    }
}

/// What the firmware finds: type and content of each data HOB.
fn hobs(memory: &Memory) -> Vec<(u32, Vec<u8>)> {
    let page = memory.read(0x81_3000, 56);
    let mut found = Vec::new();
    let mut before = 0;
    for at in (0..PAGE_SIZE as usize).step_by(48) {
        let hob = memory.read(0x81_3000, at + 48).split_off(at);
        if hob[..2] != [4, 0] {
            assert_eq!(hob[..4], [0xff, 0xff, 8, 0]);
            break;
        }
        assert_eq!(hob[8..24], page[8..24]);
        let word = |at: usize| u64::from_le_bytes(hob[at..at + 8].try_into().expect("eight bytes"));
        let (gpa, len) = (word(24), word(32));
        assert!(gpa >= before && gpa % PAGE_SIZE == 0 && len != 0);
        before = gpa + len;
        found.push((word(40) as u32, memory.read(gpa, len as usize)));
    }
    found
}

fn check(keys: Keys, loader: Option<String>) {
    let file = keys.to_bytes();
    assert_eq!(Keys::parse(&file).as_ref(), Ok(&keys));
    let mut expected: Vec<(u32, Vec<u8>)> = Variable::ALL
        .into_iter()
        .map(|variable| (variable as u32, keys.list(variable).to_vec()))
        .filter(|(_, list)| !list.is_empty())
        .collect();
    assert!(expected.iter().map(|(_, list)| list.len()).sum::<usize>() <= MAX_TOTAL);
    assert!(expected.first().is_some_and(|(kind, _)| *kind == 0x100));
    expected.extend(loader.iter().map(|loader| (0x202, loader.clone().into_bytes())));
    let firmware = Firmware::parse(Image::own().blob()).expect("a sample");
    let memory = MemoryLayout { low: 64 << 20, high: 0 };
    let valid = loader.as_deref().is_none_or(is_loader_path);
    let measured = Measured { keys: Some(keys), loader };
    let plan = LaunchPlan::build_all(&firmware, &Profile::Disk, &memory, 1, None, &measured);
    let Ok(plan) = plan else {
        assert!(!valid);
        return;
    };
    let mut memory = Memory::default();
    place(&plan, &mut memory).expect("memory is never full");
    assert_eq!(hobs(&memory), expected);
}

fuzz_target!(|data: &[u8]| {
    if let Ok(keys) = Keys::parse(data) {
        check(keys, None);
    }
    if let Ok(lists) = source::lists(data) {
        assert!(!list::entries(&lists).expect("they were checked").is_empty());
    }
    // Lists of the input beside a certificate, which mutations hardly ever make.
    let own = source::lists(cvmm_secure_boot::samples::RSA.as_bytes()).expect("a sample");
    let mut input = Input::new(data);
    let mut lists: [Vec<u8>; 4] = [own.clone(), Vec::new(), own, Vec::new()];
    for _ in 0..input.u8() % 8 {
        let len = usize::from(input.u16());
        let bytes = input.bytes(len).to_vec();
        let kinds = [list::SHA256, list::SHA384, list::X509_SHA256, list::X509];
        let list = match input.u8() % 6 {
            kind @ 0..4 => list::single(&kinds[usize::from(kind)], &bytes),
            _ => bytes,
        };
        lists[usize::from(input.u8() % 4)].extend(list);
    }
    let loader = match input.u8() {
        0 => None,
        len => Some(String::from_utf8_lossy(input.bytes(usize::from(len))).into_owned()),
    };
    if let Ok(keys) = Keys::new(lists) {
        check(keys, loader);
    }
});
