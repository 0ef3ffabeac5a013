// SPDX-License-Identifier: Apache-2.0
//! Contents in memory: what is kept, what is refused, and crashes at every write of a disk that loses and
//! tears them.

use std::io;

use proptest::prelude::*;

use super::*;
use crate::format::SECTOR;

const SMALL: usize = MIN_CAPACITY as usize + FOOTER;

fn key(byte: u8) -> StateKey {
    StateKey::from_bytes(&[byte; KEY_LEN])
}

fn vm(name: &str) -> VmId {
    VmId::new(name).unwrap()
}

fn expected(epochs: RangeInclusive<u64>, least_counter: u64) -> Expected {
    Expected { vm_id: vm("web"), epochs, least_counter }
}

/// A file with everything in it.
fn sample() -> Vec<u8> {
    let mut container = Container::format(vec![0; SMALL], &key(1), &vm("web"), 4).unwrap();
    container.store(Kind::TpmPermanent, 0x0902, &[0xaa; 5000]).unwrap();
    container.store(Kind::TpmDevice, 1, b"certificates").unwrap();
    container.begin(5).unwrap();
    container.store(Kind::TpmPermanent, 0x0902, &[0xbb; 3900]).unwrap();
    container.into_medium()
}

fn code<T: fmt::Debug>(result: Result<T, StateError>) -> &'static str {
    result.unwrap_err().code()
}

fn open(bytes: &[u8]) -> Result<Container<Vec<u8>>, StateError> {
    Container::open(bytes.to_vec(), &[key(1)], true)
}

fn content(container: &Container<impl Medium>, kind: Kind) -> Option<Vec<u8>> {
    container.load(kind).unwrap().map(|blob| blob.content.to_vec())
}

#[test]
fn what_is_stored_is_there() {
    let mut container = open(&sample()).unwrap();
    assert_eq!((container.vm_id(), container.epoch(), container.counter()), (&vm("web"), 5, 5));
    assert_eq!(content(&container, Kind::TpmPermanent).unwrap(), [0xbb; 3900]);
    assert_eq!(content(&container, Kind::TpmDevice).unwrap(), b"certificates");
    assert_eq!(content(&container, Kind::TpmVolatile), None);
    assert_eq!(container.stored()[&Kind::TpmDevice], Stored { engine: 1, epoch: 4, counter: 3, len: 12 });
    assert!(container.damaged().is_empty());
    container.store_all(&[(Kind::TpmVolatile, 2, b"v"), (Kind::TpmPermanent, 2, b"p")]).unwrap();
    assert_eq!(container.counter(), 6);
    container.remove(Kind::TpmVolatile).unwrap();
    container.remove(Kind::TpmVolatile).unwrap();
    container.remove(Kind::Meta).unwrap();
    let container = open(&container.into_medium()).unwrap();
    assert_eq!((container.counter(), container.stored().len()), (7, 3));
    assert_eq!(content(&container, Kind::TpmPermanent).unwrap(), b"p");
    assert!(!format!("{container:?}{:?}", container.load(Kind::TpmDevice)).contains("certificates"));
}

#[test]
fn what_the_gate_does_not_expect_is_refused() {
    let container = open(&sample()).unwrap();
    assert!(container.check(&expected(4..=5, 5)).is_ok());
    assert_eq!(code(container.check(&expected(6..=7, 0))), "state.rollback");
    assert_eq!(code(container.check(&expected(5..=5, 6))), "state.rollback");
    assert_eq!(code(container.check(&expected(3..=4, 0))), "state.ahead");
    assert_eq!(code(container.check(&Expected { vm_id: vm("db"), ..expected(5..=5, 0) })), "state.vm");
    let mut container = container;
    assert_eq!(code(container.begin(5)), "state.rollback");
    container.begin(9).unwrap();
    assert_eq!(open(&container.into_medium()).unwrap().epoch(), 9);
}

#[test]
fn files_that_are_not_ours_are_refused() {
    let whole = sample();
    assert_eq!(code(open(&[])), "state.size");
    assert_eq!(code(open(&vec![0; SMALL])), "state.footer");
    assert_eq!(code(open(&vec![0; 300 << 20])), "state.size");
    for len in [1, 511, 512, 4096, SMALL - 4096, SMALL - 512, SMALL - 1] {
        let refused = code(open(&whole[..len]));
        assert!(["state.size", "state.footer"].contains(&refused), "{len} {refused}");
    }
    // Cut at a block, with a footer that fits.
    let mut short = whole[..SMALL - FOOTER].to_vec();
    short.extend_from_slice(&[0; FOOTER]);
    assert_eq!(code(open(&short)), "state.footer");
    let mut zeroed = whole.clone();
    zeroed[..SMALL - FOOTER].fill(0);
    assert_eq!(code(open(&zeroed)), "state.header");
    assert_eq!(code(Container::open(whole.clone(), &[key(2)], true)), "state.key");
    assert_eq!(code(Container::open(whole.clone(), &[], true)), "state.key");
    // Another VM's, under the same key.
    let other = Container::format(vec![0; SMALL], &key(1), &vm("db"), 5).unwrap();
    assert_eq!(code(other.check(&expected(5..=5, 0))), "state.vm");
    // A block from a different file: each file has its own keys.
    let other = other.into_medium();
    for block in 2..16 {
        let mut mixed = whole.clone();
        mixed[block * BLOCK..][..BLOCK].copy_from_slice(&other[block * BLOCK..][..BLOCK]);
        match open(&mixed) {
            Err(error) => assert!(["state.damaged", "state.table", "state.plain"].contains(&error.code())),
            Ok(container) => assert_eq!(content(&container, Kind::TpmPermanent).unwrap(), [0xbb; 3900]),
        }
    }
    let mut read_only = Container::open(whole, &[key(1)], false).unwrap();
    assert_eq!(code(read_only.store(Kind::TpmPermanent, 0, b"")), "state.read-only");
}

/// Puts `header` in force.
fn with_header(bytes: &mut [u8], header: Header) {
    let header = header.with_sequence(header.sequence.get());
    let (slot, _) = active(&Headers::parse(&bytes[..2 * BLOCK])).unwrap();
    for at in COPIES[slot] {
        bytes[at as usize..][..size_of::<Header>()].copy_from_slice(header.as_bytes());
    }
}

#[test]
fn a_file_that_says_it_is_not_encrypted_is_refused() {
    let whole = sample();
    let container = open(&whole).unwrap();
    let (header, files) = (container.header.clone(), container.files.clone());
    let table = header.file_table.get() as usize * BLOCK;
    // The whole of it, as a writer of plain files would have made it: contents in the clear, and nothing to
    // authenticate.
    let mut plain = whole.clone();
    let mut entries = files.clone();
    entries[EXTENDED_TABLE] = FileEntry::new_zeroed();
    for kind in container.stored().keys() {
        let entry = &mut entries[kind.id()];
        entry.attributes = U32::ZERO;
        (entry.nonce, entry.tag) = ([0; 12], [0; 16]);
        let body = container.body(*kind).unwrap();
        plain[entry.block.get() as usize * BLOCK..][..body.len()].copy_from_slice(&body);
    }
    plain[table..][..BLOCK].copy_from_slice(entries.as_bytes());
    let mut downgraded = header.clone();
    downgraded.keys = [KeySlot::new_zeroed(), KeySlot::new_zeroed()];
    let with_algorithm = |mut header: Header, algorithm| {
        header.algorithm = algorithm;
        header.checksum = U32::ZERO;
        header.checksum = U32::new(header.crc());
        header
    };
    for algorithm in [0, 1] {
        let mut bytes = plain.clone();
        let header = with_algorithm(downgraded.clone(), zerocopy::little_endian::U16::new(algorithm));
        let (slot, _) = active(&Headers::parse(&bytes[..2 * BLOCK])).unwrap();
        for at in COPIES[slot] {
            bytes[at as usize..][..168].copy_from_slice(header.as_bytes());
        }
        assert_eq!(code(open(&bytes)), "state.plain", "{algorithm}");
    }
    // Only one file of it.
    let mut bytes = whole.clone();
    let mut entries = files.clone();
    entries[Kind::TpmPermanent.id()].attributes = U32::ZERO;
    bytes[table..][..BLOCK].copy_from_slice(entries.as_bytes());
    assert_eq!(code(open(&bytes)), "state.plain");
    // A file taken out, so that a new TPM would be made: its key is still there.
    let mut bytes = whole.clone();
    let mut entries = files;
    entries[Kind::TpmPermanent.id()] = FileEntry::new_zeroed();
    bytes[table..][..BLOCK].copy_from_slice(entries.as_bytes());
    assert_eq!(code(open(&bytes)), "state.table");
    // The header of an earlier change with a later number: its blocks are gone, or it is older.
    let mut bytes = whole;
    let (slot, _) = active(&Headers::parse(&bytes[..2 * BLOCK])).unwrap();
    let before = Headers::parse(&bytes[..2 * BLOCK]).slot(1 - slot).unwrap().clone();
    with_header(&mut bytes, before.with_sequence(before.sequence.get() + 1));
    let old = open(&bytes).unwrap();
    assert_eq!(code(old.check(&expected(5..=5, 5))), "state.rollback", "the gate has seen 5 changes");
}

#[test]
fn every_byte_is_authentic_or_belongs_to_nothing() {
    let whole = sample();
    let container = open(&whole).unwrap();
    let mut used = vec![false; whole.len()];
    for entry in container.files.iter().filter(|entry| !entry.is_empty()) {
        used[entry.block.get() as usize * BLOCK..][..entry.blocks.get() as usize * BLOCK].fill(true);
    }
    used[..2 * BLOCK].fill(true);
    used[SMALL - FOOTER..].fill(true);
    let long = std::env::var_os("CVMM_TEST_LONG").is_some();
    let masks: Vec<u8> = if long { (0..8).map(|bit| 1 << bit).chain([0xff]).collect() } else { vec![0x40] };
    // Free blocks are not even read: a few bytes of them will do.
    let tried = |at: &usize| long || used[*at] || at.is_multiple_of(97);
    let in_header = |at: usize| {
        COPIES.as_flattened().iter().any(|copy| (*copy as usize..*copy as usize + 168).contains(&at))
    };
    let (mut refused, mut free, mut copies) = (0, 0, 0);
    for mask in &masks {
        let mut bytes = whole.clone();
        for at in (0..whole.len()).filter(tried) {
            bytes[at] ^= mask;
            match Container::open(std::mem::take(&mut bytes), &[key(1)], true) {
                Ok(container) => {
                    // One of the two copies of a header, or a free block; the content is the right one.
                    let expected = if in_header(at) { 1 } else { 0 };
                    assert_eq!(container.damaged().len(), expected, "byte {at}");
                    assert!(
                        in_header(at) || !used[at],
                        "byte {at} is in use, and changing it is not noticed"
                    );
                    assert_eq!((container.epoch(), container.counter(), container.sequence()), (5, 5, 6));
                    assert_eq!(content(&container, Kind::TpmPermanent).unwrap(), [0xbb; 3900]);
                    if in_header(at) {
                        copies += 1
                    } else {
                        free += 1
                    }
                    bytes = container.into_medium();
                }
                Err(error) => {
                    assert!(used[at] && !in_header(at), "byte {at}: {error}");
                    assert!(CODES_OF_CHANGES.contains(&error.code()), "byte {at}: {error}");
                    refused += 1;
                    bytes.clone_from(&whole);
                    bytes[at] ^= mask;
                }
            }
            bytes[at] ^= mask;
        }
    }
    assert_eq!(copies, 4 * 168 * masks.len());
    assert_eq!(free + refused + copies, (0..whole.len()).filter(tried).count() * masks.len());
    println!("{refused} changes refused, {copies} in one of two copies of a header, {free} in free blocks");
}

const CODES_OF_CHANGES: &[&str] =
    &["state.footer", "state.slack", "state.table", "state.plain", "state.damaged"];

#[test]
fn a_change_that_does_not_fit_changes_nothing() {
    let mut container = open(&sample()).unwrap();
    assert_eq!(code(container.store(Kind::TpmPermanent, 0, &vec![0; MAX_CONTENT + 1])), "state.large");
    assert_eq!(code(container.store(Kind::TpmPermanent, 0, &[0; 11 * BLOCK])), "state.full");
    assert_eq!(container.counter(), 5);
    for round in 0..100_u8 {
        container.store(Kind::TpmPermanent, 1, &[round; 9000]).unwrap();
    }
    let container = open(&container.into_medium()).unwrap();
    assert_eq!(content(&container, Kind::TpmPermanent).unwrap(), [99; 9000]);
}

#[test]
fn a_new_key_takes_the_place_of_the_old_one() {
    let mut container = open(&sample()).unwrap();
    container.rekey(&key(2)).unwrap();
    container.rekey(&key(2)).unwrap();
    assert_eq!((container.key_slots(), container.counter()), (1, 5));
    let bytes = container.into_medium();
    assert_eq!(code(open(&bytes)), "state.key");
    let container = Container::open(bytes.clone(), &[key(1), key(2)], true).unwrap();
    assert_eq!(content(&container, Kind::TpmPermanent).unwrap(), [0xbb; 3900]);
    // Nor does the header before it.
    let mut older = bytes;
    for at in COPIES[container.slot] {
        older[at as usize] = 0;
    }
    assert_eq!(code(open(&older)), "state.key");
    assert!(Container::open(older, &[key(2)], true).is_ok());
    // Cut short, both open it; and going on with both keys finishes it.
    let mut container = open(&sample()).unwrap();
    let keys = [Some(key(1)), Some(key(2))];
    container.commit(&[], keys, 5).unwrap();
    let bytes = container.into_medium();
    for keys in [vec![key(1)], vec![key(2)], vec![key(2), key(1)]] {
        let mut container = Container::open(bytes.clone(), &keys, true).unwrap();
        assert_eq!(container.key_slots(), 2);
        container.store(Kind::TpmDevice, 1, b"").unwrap();
        assert_eq!(container.key_slots(), keys.len());
        container.rekey(&key(2)).unwrap();
        assert_eq!(code(open(&container.into_medium())), "state.key");
    }
}

/// A disk with a cache. What is written is read back at once, and survives a power cut only after a sync;
/// before one, any sector may have been written, not have been written, or end in the middle.
#[derive(Clone)]
struct Disk {
    cache: Vec<u8>,
    durable: Vec<u8>,
    dirty: Vec<usize>,
    /// Operations so far.
    done: u32,
    /// The one that fails, once.
    fails: u32,
    /// The one from which on all fail: the power is gone.
    dead: u32,
    seed: u64,
}

impl Disk {
    fn new(bytes: Vec<u8>, fails: u32, dead: u32, seed: u64) -> Self {
        Self { durable: bytes.clone(), cache: bytes, dirty: Vec::new(), done: 0, fails, dead, seed }
    }

    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.seed >> 33
    }

    /// Writes some of what was not synced; the rest will never be.
    fn lose(&mut self) {
        for sector in std::mem::take(&mut self.dirty) {
            let range = sector * SECTOR..(sector + 1) * SECTOR;
            let len = match self.random() % 3 {
                0 => 0,
                1 => SECTOR,
                _ => self.random() as usize % SECTOR,
            };
            let part = range.start..range.start + len;
            self.durable[part.clone()].copy_from_slice(&self.cache[part]);
        }
    }

    /// What is there after a power cut.
    fn cut(mut self) -> Vec<u8> {
        self.lose();
        self.durable
    }

    fn step(&mut self) -> io::Result<()> {
        let number = self.done;
        self.done += 1;
        if number == self.fails || number >= self.dead {
            return Err(io::Error::from_raw_os_error(5));
        }
        Ok(())
    }
}

impl Medium for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.cache.len() as u64)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.cache.read_at(into, offset)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let result = self.step();
        // A write that fails has written some of it.
        let len = if result.is_ok() { bytes.len() } else { self.random() as usize % (bytes.len() + 1) };
        self.cache.write_at(&bytes[..len], offset)?;
        for sector in offset as usize / SECTOR..(offset as usize + len).div_ceil(SECTOR) {
            if !self.dirty.contains(&sector) {
                self.dirty.push(sector);
            }
        }
        result
    }

    fn sync(&mut self) -> io::Result<()> {
        let result = self.step();
        if result.is_ok() {
            self.dirty.clear();
            self.durable.clone_from(&self.cache);
        } else {
            // As on Linux: what could not be written is forgotten, and the next sync says nothing of it.
            self.lose();
        }
        result
    }
}

#[derive(Clone, Debug)]
enum Step {
    Store(Kind, usize),
    Remove(Kind),
    Begin,
    Rekey,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop_oneof![Just(Kind::TpmPermanent), Just(Kind::TpmVolatile)];
    let step = prop_oneof![
        8 => (kind.clone(), 0_usize..7000).prop_map(|(kind, len)| Step::Store(kind, len)),
        1 => kind.prop_map(Step::Remove),
        1 => Just(Step::Begin),
        1 => Just(Step::Rekey),
    ];
    proptest::collection::vec(step, 1..8)
}

/// What there is: epoch and both files.
type Seen = (u64, [Option<Vec<u8>>; 2]);

fn seen(container: &Container<impl Medium>) -> Seen {
    (container.epoch(), [Kind::TpmPermanent, Kind::TpmVolatile].map(|kind| content(container, kind)))
}

fn apply(container: &mut Container<Disk>, step: &Step, number: u8) -> Result<(), StateError> {
    match step {
        Step::Store(kind, len) => container.store(*kind, 1, &vec![number; *len]),
        Step::Remove(kind) => container.remove(*kind),
        Step::Begin => container.begin(container.epoch() + 1),
        Step::Rekey => container.rekey(&key(100 + number)),
    }
}

/// What a step should lead to.
fn after((epoch, files): &Seen, step: &Step, number: u8) -> Seen {
    let (mut epoch, mut files) = (*epoch, files.clone());
    let file = |kind: &Kind| usize::from(*kind == Kind::TpmVolatile);
    match step {
        Step::Store(kind, len) => files[file(kind)] = Some(vec![number; *len]),
        Step::Remove(kind) => files[file(kind)] = None,
        Step::Begin => epoch += 1,
        Step::Rekey => {}
    }
    (epoch, files)
}

fn cases() -> u32 {
    if std::env::var_os("CVMM_TEST_LONG").is_some() { 50_000 } else { 250 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    /// One operation fails, and later the power is cut, before, in or after the writes that follow. What was
    /// acknowledged last is there, or one of the changes that were begun since.
    #[test]
    fn nothing_acknowledged_is_lost(steps in steps(), fails in 0_u32..30, dead in 0_u32..60, seed in any::<u64>()) {
        let mut container = Container::open(Disk::new(sample(), fails, dead, seed), &[key(1)], true).unwrap();
        let mut now = seen(&container);
        let mut possible = vec![now.clone()];
        let mut keys = vec![key(1)];
        for (number, step) in (0..).zip(&steps) {
            let next = after(&now, step, number);
            if matches!(step, Step::Rekey) {
                keys.push(key(100 + number));
            }
            if apply(&mut container, step, number).is_ok() {
                now = next;
                possible = vec![now.clone()];
                if matches!(step, Step::Rekey) {
                    keys = vec![key(100 + number)];
                }
            } else {
                possible.push(next);
            }
            prop_assert_eq!(&seen(&container), &now);
        }
        let found = Container::open(container.into_medium().cut(), &keys, true).map(|container| seen(&container));
        prop_assert!(found.as_ref().is_ok_and(|found| possible.contains(found)), "{found:?}");
    }
}
