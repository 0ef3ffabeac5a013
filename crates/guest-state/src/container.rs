// SPDX-License-Identifier: Apache-2.0
//! The content of a state file: read as a whole, changed atomically.
//!
//! A change never writes a block that is in use. It writes the new files and both tables into free blocks,
//! syncs, writes the header into the inactive slot with the next sequence number, and syncs again: until the
//! header is written the old content is active, from then on the new one. Only then does the call return.
//!
//! The header is written twice, in different sectors. A reader needs one of the two copies, so a single
//! damaged header is not mistaken for one that was never finished, which would roll back to the content
//! before it.
//!
//! When the write or sync of the header fails, it is unknown which header the disk has. The old content stays
//! active here, and the next change first overwrites the doubtful header with that of the old content.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use cvmm_secret_memory::{Secret, SecretBytes};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};
use zeroize::Zeroizing;

use crate::crypto::{self, Seal};
use crate::error::StateError;
use crate::format::{
    AES_256_GCM, BLOCK, BadHeader, BodyHeader, COPIES, EXTENDED_TABLE, FILE_TABLE, FILES, FOOTER, FileEntry,
    Header, Headers, KEY_LEN, KeyEntry, KeySlot, MAX_CAPACITY, MAX_CONTENT, MIN_CAPACITY, NoHeader,
    RESERVED_BLOCKS, SEALED, VhdFooter, slack,
};
use crate::key::StateKey;
use crate::kind::{Kind, VmId};
use crate::medium::Medium;

/// Content of a file.
#[derive(Clone, PartialEq, Eq)]
pub struct Blob {
    /// Version of the component that wrote it.
    pub engine: u32,
    /// The content.
    pub content: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob")
            .field("engine", &self.engine)
            .field("len", &self.content.len())
            .finish_non_exhaustive()
    }
}

/// Metadata of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Version of the component that wrote it.
    pub engine: u32,
    /// The epoch it was written in.
    pub epoch: u64,
    /// Number of the change that wrote it.
    pub counter: u64,
    /// Bytes of content.
    pub len: usize,
}

/// What the gate expects of a state file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The VM that it must belong to.
    pub vm_id: VmId,
    /// Accepted epochs.
    pub epochs: RangeInclusive<u64>,
    /// Minimum number of changes that it has seen.
    pub least_counter: u64,
}

/// A change of one file.
struct Update<'a> {
    kind: Kind,
    /// `None` removes it.
    body: Option<(u32, &'a [u8])>,
}

/// The opened content of a state file.
#[derive(Debug)]
pub struct Container<M> {
    medium: M,
    writable: bool,
    blocks: u32,
    slot: usize,
    header: Header,
    /// Whether the content of the inactive header slot is unknown.
    doubt: bool,
    /// The state key of each key slot.
    keys: [Option<StateKey>; 2],
    files: [FileEntry; FILES],
    /// The extended file table.
    extended: KeyTable,
    stored: BTreeMap<Kind, Stored>,
    vm_id: VmId,
    epoch: u64,
    counter: u64,
    damaged: Vec<u64>,
}

/// A table that contains keys.
struct KeyTable(SecretBytes);

impl fmt::Debug for KeyTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyTable(..)")
    }
}

impl KeyTable {
    fn new() -> Self {
        Self(SecretBytes::zeroed(BLOCK))
    }

    fn entry(&self, id: usize) -> Option<&KeyEntry> {
        <[KeyEntry; FILES]>::ref_from_bytes(&self.0).ok()?.get(id)
    }

    fn set(&mut self, id: usize, key: Option<&[u8; KEY_LEN]>) {
        let entry =
            <[KeyEntry; FILES]>::mut_from_bytes(&mut self.0).ok().and_then(|entries| entries.get_mut(id));
        if let Some(entry) = entry {
            entry.attributes = U32::new(if key.is_some() { SEALED } else { 0 });
            entry.key = *key.unwrap_or(&[0; KEY_LEN]);
        }
    }
}

/// The blocks in use.
struct Map(Vec<bool>);

impl Map {
    fn new(blocks: u32) -> Self {
        Self((0..blocks).map(|block| block < RESERVED_BLOCKS).collect())
    }

    /// Marks blocks as used; an error if they are out of range or used already.
    fn take(&mut self, first: u32, count: u32) -> Result<(), &'static str> {
        if count == 0 || first < RESERVED_BLOCKS {
            return Err("place");
        }
        let end = first.checked_add(count).ok_or("place")?;
        let run = self.0.get_mut(first as usize..end as usize).ok_or("place")?;
        if run.contains(&true) {
            return Err("place: another has it");
        }
        run.fill(true);
        Ok(())
    }

    /// Allocates the first free run.
    fn find(&mut self, count: u32) -> Option<u32> {
        let first = self.0.windows(count as usize).position(|run| !run.contains(&true))?;
        let first = u32::try_from(first).ok()?;
        self.take(first, count).ok()?;
        Some(first)
    }
}

/// Number of blocks of a medium whose length and footer are valid.
pub(crate) fn capacity(medium: &impl Medium) -> Result<u32, StateError> {
    let len = medium.len().map_err(StateError::io("inspect"))?;
    let size = len
        .checked_sub(FOOTER as u64)
        .filter(|size| (MIN_CAPACITY..=MAX_CAPACITY).contains(size) && size % BLOCK as u64 == 0);
    let size = size.ok_or(StateError::Size(len))?;
    let mut footer = [0; FOOTER];
    medium.read_at(&mut footer, size).map_err(StateError::io("read"))?;
    VhdFooter::parse(&footer, size).map_err(StateError::Footer)?;
    u32::try_from(size / BLOCK as u64).map_err(|_| StateError::Size(len))
}

pub(crate) fn offset(block: u32) -> u64 {
    u64::from(block) * BLOCK as u64
}

/// Reads the reserved blocks.
pub(crate) fn headers(medium: &impl Medium) -> Result<(Headers, Option<u64>), StateError> {
    let mut blocks = vec![0; RESERVED_BLOCKS as usize * BLOCK];
    medium.read_at(&mut blocks, 0).map_err(StateError::io("read"))?;
    Ok((Headers::parse(&blocks), slack(&blocks)))
}

/// The active header.
pub(crate) fn active(headers: &Headers) -> Result<(usize, Header), StateError> {
    match headers.active() {
        Ok((slot, header)) => Ok((slot, header.clone())),
        Err(NoHeader::Bad(BadHeader::Version(version))) => Err(StateError::Version(version)),
        Err(NoHeader::Bad(problem)) => Err(StateError::Header(problem)),
        Err(NoHeader::Apart(one, two)) => Err(StateError::Sequence(one, two)),
    }
}

/// Reads the file table that a header names.
pub(crate) fn file_table(
    medium: &impl Medium,
    header: &Header,
    blocks: u32,
) -> Result<[FileEntry; FILES], StateError> {
    let block = header.file_table.get();
    if block >= blocks {
        return Err(StateError::Header(BadHeader::Field("file table block")));
    }
    let mut bytes = vec![0; BLOCK];
    medium.read_at(&mut bytes, offset(block)).map_err(StateError::io("read"))?;
    <[FileEntry; FILES]>::read_from_bytes(&bytes)
        .map_err(|_| StateError::Damaged { what: "the file table", block })
}

impl<M: Medium> Container<M> {
    /// Formats a medium whose bytes are all zero, with no files but [`Kind::Meta`]. Durable when it returns.
    pub fn format(mut medium: M, key: &StateKey, vm_id: &VmId, epoch: u64) -> Result<Self, StateError> {
        let len = medium.len().map_err(StateError::io("inspect"))?;
        let size = len.saturating_sub(FOOTER as u64);
        let mut id = [0; 16];
        crypto::random(&mut id)?;
        medium.write_at(VhdFooter::new(size, id).as_bytes(), size).map_err(StateError::io("write"))?;
        let blocks = capacity(&medium)?;
        let mut container = Self {
            medium,
            writable: true,
            blocks,
            slot: 0,
            header: Header::new(0, RESERVED_BLOCKS, [KeySlot::new_zeroed(), KeySlot::new_zeroed()]),
            doubt: false,
            keys: [Some(key.clone()), None],
            files: std::array::from_fn(|_| FileEntry::new_zeroed()),
            extended: KeyTable::new(),
            stored: BTreeMap::new(),
            vm_id: vm_id.clone(),
            epoch,
            counter: 0,
            damaged: Vec::new(),
        };
        let keys = container.keys.clone();
        container.commit(&[Update { kind: Kind::Meta, body: Some((0, &[])) }], keys, epoch)?;
        // Now both slots have a header, as after any other change.
        container.doubt = true;
        container.settle()?;
        Ok(container)
    }

    /// Opens and verifies all of it. `keys` are tried in turn; two are needed only while the state key
    /// changes.
    pub fn open(medium: M, keys: &[StateKey], writable: bool) -> Result<Self, StateError> {
        let blocks = capacity(&medium)?;
        let (headers, slack) = headers(&medium)?;
        let (slot, header) = active(&headers)?;
        if header.algorithm.get() != AES_256_GCM {
            return Err(StateError::Plain("the file"));
        }
        if let Some(at) = slack {
            return Err(StateError::Slack(at));
        }
        let damaged = headers.damaged().into_iter().map(|(at, _)| at).collect();
        let files = file_table(&medium, &header, blocks)?;
        let table = header.file_table.get();
        let wrong = |entry: usize, problem| StateError::Table {
            entry,
            offset: offset(table) + (entry * size_of::<FileEntry>()) as u64,
            problem,
        };
        if files.get(FILE_TABLE) != Some(&FileEntry::of_table(table)) {
            return Err(wrong(FILE_TABLE, "content"));
        }
        let mut map = Map::new(blocks);
        for (id, entry) in files.iter().enumerate().filter(|(_, entry)| !entry.is_empty()) {
            let known = id == FILE_TABLE || id == EXTENDED_TABLE || Kind::from_id(id).is_some();
            if !known {
                return Err(wrong(id, "id: this program knows no such file"));
            }
            if id != FILE_TABLE && entry.attributes.get() != SEALED {
                return Err(StateError::Plain("a file in it"));
            }
            let (count, valid) = (entry.blocks.get(), entry.valid.get());
            if valid == 0 || valid != offset(count) || (id == EXTENDED_TABLE && count != 1) {
                return Err(wrong(id, "length"));
            }
            if entry.reserved != [0; 16] {
                return Err(wrong(id, "reserved field"));
            }
            map.take(entry.block.get(), count).map_err(|problem| wrong(id, problem))?;
        }
        let Some(extended) = files.get(EXTENDED_TABLE).filter(|entry| !entry.is_empty()) else {
            return Err(wrong(EXTENDED_TABLE, "absence"));
        };
        let (metadata_key, keys) = unwrap(&header, keys)?;
        let extended = KeyTable(read(&medium, extended, &metadata_key, "the extended file table")?);
        let mut container = Self {
            medium,
            writable,
            blocks,
            slot,
            header,
            doubt: false,
            keys,
            files,
            extended,
            stored: BTreeMap::new(),
            // Unknown until a file has been read.
            vm_id: VmId::UNKNOWN,
            epoch: 0,
            counter: 0,
            damaged,
        };
        container.verify(&wrong)?;
        Ok(container)
    }

    /// Reads every file once.
    fn verify(&mut self, wrong: &dyn Fn(usize, &'static str) -> StateError) -> Result<(), StateError> {
        for id in 0..FILES {
            let file = self.files.get(id).is_some_and(|entry| !entry.is_empty());
            let key = self.extended.entry(id).ok_or_else(|| wrong(id, "key"))?;
            let has_key = !key.is_empty();
            let good = key.attributes.get() == SEALED && key.reserved == [0; 28];
            let Some(kind) = Kind::from_id(id) else {
                if has_key {
                    return Err(wrong(id, "key"));
                }
                continue;
            };
            // A file that was removed from the plain table only still has a key in the extended table.
            if file != has_key {
                return Err(wrong(
                    id,
                    if file { "presence: it was put in" } else { "absence: it was taken out" },
                ));
            }
            if !file {
                continue;
            }
            if !good {
                return Err(wrong(id, "key"));
            }
            let body = self.body(kind)?;
            let (header, content) =
                BodyHeader::parse(&body).map_err(|problem| StateError::Body { kind, problem })?;
            let bad = |problem| StateError::Body { kind, problem };
            if header.kind.get() as usize != id {
                return Err(bad("id"));
            }
            let vm_id = VmId::from_padded(&header.vm_id).ok_or_else(|| bad("VM name"))?;
            if !self.stored.is_empty() && self.vm_id != vm_id {
                return Err(StateError::Vm { found: vm_id, expected: self.vm_id.clone() });
            }
            let stored = Stored {
                engine: header.engine.get(),
                epoch: header.epoch.get(),
                counter: header.counter.get(),
                len: content.len(),
            };
            self.vm_id = vm_id;
            self.epoch = self.epoch.max(stored.epoch);
            self.counter = self.counter.max(stored.counter);
            self.stored.insert(kind, stored);
        }
        match self.stored.get(&Kind::Meta) {
            Some(meta) if meta.epoch == self.epoch => Ok(()),
            Some(_) => Err(StateError::Body { kind: Kind::Meta, problem: "epoch" }),
            None => Err(wrong(Kind::Meta.id(), "absence")),
        }
    }

    fn body(&self, kind: Kind) -> Result<SecretBytes, StateError> {
        let gone = StateError::Table { entry: kind.id(), offset: 0, problem: "absence" };
        let (Some(file), Some(key)) = (self.files.get(kind.id()), self.extended.entry(kind.id())) else {
            return Err(gone);
        };
        read(&self.medium, file, &key.key, kind.name())
    }

    /// The VM that the state belongs to.
    pub fn vm_id(&self) -> &VmId {
        &self.vm_id
    }

    /// The current epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Number of changes since it was created.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// The header's sequence number.
    pub fn sequence(&self) -> u32 {
        self.header.sequence.get()
    }

    /// The files.
    pub fn stored(&self) -> &BTreeMap<Kind, Stored> {
        &self.stored
    }

    /// Byte offsets of header copies that were damaged when it was opened. The next changes rewrite them.
    pub fn damaged(&self) -> &[u64] {
        &self.damaged
    }

    /// Number of state keys that open it: 1, or 2 during a change of keys.
    pub fn key_slots(&self) -> usize {
        self.header.keys.iter().filter(|slot| !slot.is_empty()).count()
    }

    /// Number of blocks in use, and of all blocks.
    pub fn usage(&self) -> (u32, u32) {
        let used = self.files.iter().map(|entry| entry.blocks.get()).sum::<u32>();
        (used + RESERVED_BLOCKS, self.blocks)
    }

    /// An error unless VM, epoch and counter are what the gate expects.
    pub fn check(&self, expected: &Expected) -> Result<(), StateError> {
        let Expected { vm_id, epochs, least_counter } = expected;
        if self.vm_id != *vm_id {
            return Err(StateError::Vm { found: self.vm_id.clone(), expected: vm_id.clone() });
        }
        if self.epoch < *epochs.start() {
            return Err(StateError::Rollback { what: "epoch", found: self.epoch, min: *epochs.start() });
        }
        if self.epoch > *epochs.end() {
            return Err(StateError::Ahead { found: self.epoch, max: *epochs.end() });
        }
        if self.counter < *least_counter {
            return Err(StateError::Rollback { what: "change", found: self.counter, min: *least_counter });
        }
        Ok(())
    }

    /// Advances to a later epoch, which the gate has issued for this run.
    pub fn begin(&mut self, epoch: u64) -> Result<(), StateError> {
        if epoch <= self.epoch {
            let min = self.epoch.saturating_add(1);
            return Err(StateError::Rollback { what: "new epoch", found: epoch, min });
        }
        self.commit(&[Update { kind: Kind::Meta, body: Some((0, &[])) }], self.keys.clone(), epoch)
    }

    /// Reads and verifies a file.
    pub fn load(&self, kind: Kind) -> Result<Option<Blob>, StateError> {
        let Some(stored) = self.stored.get(&kind) else { return Ok(None) };
        let body = self.body(kind)?;
        let content = body.get(size_of::<BodyHeader>()..).and_then(|rest| rest.get(..stored.len));
        let content = content.ok_or(StateError::Body { kind, problem: "content length" })?;
        Ok(Some(Blob { engine: stored.engine, content: Zeroizing::new(content.to_vec()) }))
    }

    /// Replaces a file durably: when this returns the new content is on the disk; if it fails, the old
    /// content stays active.
    pub fn store(&mut self, kind: Kind, engine: u32, content: &[u8]) -> Result<(), StateError> {
        self.commit(&[Update { kind, body: Some((engine, content)) }], self.keys.clone(), self.epoch)
    }

    /// Replaces several files at once: all of them or none.
    pub fn store_all(&mut self, files: &[(Kind, u32, &[u8])]) -> Result<(), StateError> {
        let updates: Vec<_> = files
            .iter()
            .map(|(kind, engine, content)| Update { kind: *kind, body: Some((*engine, content)) })
            .collect();
        self.commit(&updates, self.keys.clone(), self.epoch)
    }

    /// Removes a file, durably. [`Kind::Meta`] stays.
    pub fn remove(&mut self, kind: Kind) -> Result<(), StateError> {
        if kind == Kind::Meta || !self.stored.contains_key(&kind) {
            // A failed change may still have written it to the disk.
            return self.settle();
        }
        // It carries the counter.
        let updates = [Update { kind, body: None }, Update { kind: Kind::Meta, body: Some((0, &[])) }];
        self.commit(&updates, self.keys.clone(), self.epoch)
    }

    /// Changes the state key. After a crash in between both keys open the file; when this returns only the
    /// new one does, also through the inactive header.
    pub fn rekey(&mut self, new: &StateKey) -> Result<(), StateError> {
        // The slot of the new key, and whether the other slot has a key.
        let has = |key: &Option<StateKey>| {
            key.as_ref().is_some_and(|key| {
                aws_lc_rs::constant_time::verify_slices_are_equal(key.expose(), new.expose()).is_ok()
            })
        };
        let to = match self.keys.iter().position(has) {
            Some(slot) => slot,
            None => self.keys.iter().position(Option::is_none).unwrap_or(1),
        };
        let with = |other: Option<StateKey>| {
            if to == 0 { [Some(new.clone()), other] } else { [other, Some(new.clone())] }
        };
        let other = self.keys.get(1 - to).cloned().flatten();
        let epoch = self.epoch;
        self.commit(&[], with(other), epoch)?;
        self.commit(&[], with(None), epoch)?;
        self.commit(&[], with(None), epoch)
    }

    /// The underlying medium.
    pub fn into_medium(self) -> M {
        self.medium
    }

    /// Restores the inactive header slot to a known content.
    fn settle(&mut self) -> Result<(), StateError> {
        if self.doubt {
            let header = self.header.with_sequence(self.header.sequence.get().wrapping_add(1));
            self.flip(header)?;
        }
        Ok(())
    }

    /// Writes a header into the inactive slot, which becomes the active one.
    fn flip(&mut self, header: Header) -> Result<(), StateError> {
        let slot = 1 - self.slot;
        self.doubt = true;
        for at in COPIES.get(slot).into_iter().flatten() {
            self.medium.write_at(header.as_bytes(), *at).map_err(StateError::io("write"))?;
        }
        self.medium.sync().map_err(StateError::io("sync"))?;
        self.doubt = false;
        self.slot = slot;
        self.header = header;
        Ok(())
    }

    fn commit(
        &mut self,
        updates: &[Update<'_>],
        keys: [Option<StateKey>; 2],
        epoch: u64,
    ) -> Result<(), StateError> {
        if !self.writable {
            return Err(StateError::ReadOnly);
        }
        if let Some(len) = updates
            .iter()
            .filter_map(|update| update.body)
            .map(|(_, content)| content.len())
            .find(|len| *len > MAX_CONTENT)
        {
            return Err(StateError::Large { len });
        }
        self.settle()?;

        let mut map = Map::new(self.blocks);
        for entry in self.files.iter().filter(|entry| !entry.is_empty()) {
            // The entries were checked when the file was opened, or written by this value.
            let _ = map.take(entry.block.get(), entry.blocks.get());
        }
        let sizes = updates
            .iter()
            .map(|update| update.body.map_or(0, |(_, content)| BodyHeader::blocks(content.len())));
        let sizes: Vec<u32> = sizes.chain([1, 1]).collect();
        let mut places = place(&mut map, &sizes)?.into_iter();
        let mut next = || places.next().ok_or(StateError::Full(1));

        let counter = self.counter.saturating_add(1);
        let mut files = self.files.clone();
        let mut extended = KeyTable(self.extended.0.clone());
        let mut stored = self.stored.clone();
        let mut writes = Vec::new();
        for Update { kind, body } in updates {
            let block = next()?;
            let entry = files.get_mut(kind.id()).ok_or(StateError::Full(1))?;
            let Some((engine, content)) = body else {
                *entry = FileEntry::new_zeroed();
                extended.set(kind.id(), None);
                stored.remove(kind);
                continue;
            };
            let mut bytes = Zeroizing::new(vec![0; BodyHeader::blocks(content.len()) as usize * BLOCK]);
            let header = BodyHeader::new(
                kind.id() as u32,
                self.vm_id.padded(),
                epoch,
                counter,
                *engine,
                u32::try_from(content.len()).map_err(|_| StateError::Large { len: content.len() })?,
            );
            let parts = header.as_bytes().iter().chain(*content);
            for (to, from) in bytes.iter_mut().zip(parts) {
                *to = *from;
            }
            let key = crypto::new_key()?;
            let seal = crypto::seal(&key, &mut bytes)?;
            *entry = sealed(block, bytes.len(), seal);
            extended.set(kind.id(), Some(&key));
            stored.insert(*kind, Stored { engine: *engine, epoch, counter, len: content.len() });
            writes.push((block, bytes));
        }

        let metadata_key = crypto::new_key()?;
        let block = next()?;
        let mut bytes = extended.0.clone();
        let seal = crypto::seal(&metadata_key, &mut bytes)?;
        if let Some(entry) = files.get_mut(EXTENDED_TABLE) {
            *entry = sealed(block, BLOCK, seal);
        }
        // The content is encrypted here.
        writes.push((block, Zeroizing::new(bytes.to_vec())));
        let table = next()?;
        if let Some(entry) = files.get_mut(FILE_TABLE) {
            *entry = FileEntry::of_table(table);
        }
        writes.push((table, Zeroizing::new(files.as_bytes().to_vec())));

        for (block, bytes) in merged(writes) {
            self.medium.write_at(&bytes, offset(block)).map_err(StateError::io("write"))?;
        }
        self.medium.sync().map_err(StateError::io("sync"))?;
        let mut slots = [KeySlot::new_zeroed(), KeySlot::new_zeroed()];
        for (slot, key) in slots.iter_mut().zip(&keys) {
            if let Some(key) = key {
                *slot = wrap(key, &metadata_key)?;
            }
        }
        self.flip(Header::new(self.header.sequence.get().wrapping_add(1), table, slots))?;
        (self.files, self.extended, self.stored) = (files, extended, stored);
        (self.keys, self.epoch) = (keys, epoch);
        // A change of keys alone does not change a file.
        if !updates.is_empty() {
            self.counter = counter;
        }
        Ok(())
    }
}

/// One run of blocks for all of them if there is one, so that a single write suffices.
fn place(map: &mut Map, sizes: &[u32]) -> Result<Vec<u32>, StateError> {
    let all = sizes.iter().sum::<u32>();
    if let Some(mut first) = map.find(all) {
        let mut places = Vec::with_capacity(sizes.len());
        for size in sizes {
            places.push(first);
            first = first.saturating_add(*size);
        }
        return Ok(places);
    }
    let one = |size: &u32| if *size == 0 { Ok(0) } else { map.find(*size).ok_or(StateError::Full(*size)) };
    sizes.iter().map(one).collect()
}

/// Merges adjacent writes.
fn merged(writes: Vec<(u32, Zeroizing<Vec<u8>>)>) -> Vec<(u32, Vec<u8>)> {
    let mut merged: Vec<(u32, Vec<u8>)> = Vec::new();
    for (block, bytes) in writes {
        match merged.last_mut() {
            Some((first, before)) if offset(*first) + before.len() as u64 == offset(block) => {
                before.extend_from_slice(&bytes)
            }
            _ => merged.push((block, bytes.to_vec())),
        }
    }
    merged
}

fn sealed(block: u32, len: usize, (nonce, tag): Seal) -> FileEntry {
    FileEntry {
        block: U32::new(block),
        blocks: U32::new((len / BLOCK) as u32),
        valid: U64::new(len as u64),
        nonce,
        tag,
        attributes: U32::new(SEALED),
        reserved: [0; 16],
    }
}

fn wrap(key: &StateKey, metadata_key: &[u8; KEY_LEN]) -> Result<KeySlot, StateError> {
    let mut wrapped = *metadata_key;
    let (nonce, tag) = crypto::seal(key.expose(), &mut wrapped)?;
    Ok(KeySlot { nonce, reserved: U32::ZERO, tag, key: wrapped })
}

type Unwrapped = (Secret<KEY_LEN>, [Option<StateKey>; 2]);

/// The metadata key, and the state key of each slot.
fn unwrap(header: &Header, keys: &[StateKey]) -> Result<Unwrapped, StateError> {
    let mut found: Option<Secret<KEY_LEN>> = None;
    let mut owners = [None, None];
    for (slot, owner) in header.keys.iter().zip(&mut owners).filter(|(slot, _)| !slot.is_empty()) {
        for key in keys {
            let mut plain = Secret::zeroed();
            if crypto::open(key.expose(), &(slot.nonce, slot.tag), &slot.key, plain.as_mut_slice())? {
                *owner = Some(key.clone());
                found.get_or_insert(plain);
                break;
            }
        }
    }
    found.map(|key| (key, owners)).ok_or(StateError::Key)
}

/// Reads and decrypts blocks.
fn read(
    medium: &impl Medium,
    entry: &FileEntry,
    key: &[u8; KEY_LEN],
    what: &'static str,
) -> Result<SecretBytes, StateError> {
    let block = entry.block.get();
    // Not more than the medium has: the entries were checked against its size.
    let len = entry.blocks.get() as usize * BLOCK;
    let mut bytes = vec![0; len];
    medium.read_at(&mut bytes, offset(block)).map_err(StateError::io("read"))?;
    let mut plain = SecretBytes::zeroed(len);
    if crypto::open(key, &(entry.nonce, entry.tag), &bytes, &mut plain)? {
        Ok(plain)
    } else {
        Err(StateError::Damaged { what, block })
    }
}

#[cfg(test)]
mod tests;
