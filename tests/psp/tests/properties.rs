// SPDX-License-Identifier: Apache-2.0
//! Random commands with random buffers, between random RMPUPDATEs: nothing panics, a refused command changes
//! nothing, a page changes its state in the ways the ABI knows, the firmware writes to no page of a running
//! guest or of the hypervisor, and the digest is that of the launched pages alone.
#![allow(clippy::unwrap_used)] // Helpers of tests.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA384, digest};
use cvmm_psp::{Host as _, LARGE_PAGE, PAGE, PageState, RmpEntry, Status, command};
use cvmm_test_support::psp::{BUFFER, Buffer, CPUID, Guest, MEMORY, Message, POLICY, Rig, pre_guest};
use proptest::prelude::*;

/// Page 0 to 11 are small, 12 and 13 large.
const SMALL: u8 = 12;
const PAGES: u8 = 14;

fn address(page: u8) -> u64 {
    if page < SMALL {
        LARGE_PAGE + u64::from(page) * PAGE
    } else {
        (u64::from(page - SMALL) + 2) * LARGE_PAGE
    }
}

/// A word of a buffer that replaces the sensible one.
#[derive(Clone, Debug)]
enum Word {
    Page(u8),
    Small(u64),
    Any(u64),
}

impl Word {
    fn value(&self) -> u64 {
        match *self {
            Self::Page(page) => address(page),
            Self::Small(value) | Self::Any(value) => value,
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// RMPUPDATE to: hypervisor, firmware, pre-guest, guest-invalid, reclaim.
    Rmp { page: u8, kind: u8, asid: u32, gpa: u8 },
    /// A page filled, given to a guest and launched.
    Launch { gctx: u8, page: u8, gpa: u8, kind: u32, fill: u8 },
    /// A command with its usual buffer, of which words may be replaced.
    Command { id: u32, gctx: u8, page: u8, other: u8, number: u32, odd: Option<(usize, Word)> },
    /// Any number with any buffer.
    Noise { id: u32, words: Vec<Word> },
}

const IDS: [u32; 22] = [
    command::SNP_GCTX_CREATE,
    command::SNP_LAUNCH_START,
    command::SNP_ACTIVATE,
    command::SNP_LAUNCH_UPDATE,
    command::SNP_LAUNCH_FINISH,
    command::SNP_GUEST_STATUS,
    command::SNP_GUEST_REQUEST,
    command::SNP_HV_REPORT_REQ,
    command::SNP_DECOMMISSION,
    command::SNP_PAGE_RECLAIM,
    command::SNP_PAGE_UNSMASH,
    command::SNP_DBG_DECRYPT,
    command::SNP_DBG_ENCRYPT,
    command::SNP_DF_FLUSH,
    command::SNP_PLATFORM_STATUS,
    command::SNP_CONFIG,
    command::SNP_COMMIT,
    command::SNP_VLEK_LOAD,
    command::SNP_FEATURE_INFO,
    command::SNP_INIT_EX,
    command::SNP_SHUTDOWN_EX,
    command::GET_ID,
];

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![
        (0..PAGES).prop_map(Word::Page),
        (0..0x20_u64).prop_map(Word::Small),
        any::<u64>().prop_map(Word::Any),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    // A context page is drawn from few: sequences then speak of the same guests.
    let command = (
        prop::sample::select(&IDS[..]),
        0..2_u8,
        0..PAGES,
        0..PAGES,
        0..8_u32,
        prop::option::weighted(0.15, (0..8_usize, word())),
    );
    prop_oneof![
        4 => (0..PAGES, 0..5_u8, 1..3_u32, 0..4_u8)
            .prop_map(|(page, kind, asid, gpa)| Step::Rmp { page, kind, asid, gpa }),
        6 => (0..2_u8, 2..PAGES, 0..4_u8, 0..8_u32, any::<u8>())
            .prop_map(|(gctx, page, gpa, kind, fill)| Step::Launch { gctx, page, gpa, kind, fill }),
        9 => command.prop_map(|(id, gctx, page, other, number, odd)| {
            Step::Command { id, gctx, page, other, number, odd }
        }),
        1 => (prop_oneof![0..0x100_u32, any::<u32>()], prop::collection::vec(word(), 0..9))
            .prop_map(|(id, words)| Step::Noise { id, words }),
    ]
}

/// The usual buffer of a command, in 64-bit words.
fn usual(id: u32, gctx: u8, page: u8, other: u8, number: u32) -> Vec<u64> {
    let (gctx, spa, to, number) = (address(gctx), address(page), address(other), u64::from(number));
    let large = u64::from(page >= SMALL);
    let debug = POLICY | (number & 1) << 19;
    match id {
        command::SNP_GCTX_CREATE | command::SNP_DECOMMISSION => vec![gctx],
        command::SNP_LAUNCH_START => vec![gctx, debug, 0, 0, 0, 0],
        command::SNP_ACTIVATE => vec![gctx, number % 4],
        command::SNP_LAUNCH_UPDATE => vec![gctx, number << 1 | large, spa, 0, 0],
        command::SNP_LAUNCH_FINISH => vec![gctx, spa, to, number % 2 * 4, 1, 2, 3, 4],
        command::SNP_GUEST_STATUS => vec![gctx, spa],
        command::SNP_GUEST_REQUEST => vec![gctx, spa, to],
        command::SNP_HV_REPORT_REQ => vec![24 | (number % 4) << 32, gctx, spa],
        command::SNP_PAGE_RECLAIM | command::SNP_PAGE_UNSMASH => vec![spa | large],
        command::SNP_DBG_DECRYPT | command::SNP_DBG_ENCRYPT => vec![gctx, spa, to],
        command::SNP_PLATFORM_STATUS => vec![spa],
        command::SNP_COMMIT => vec![4],
        command::SNP_VLEK_LOAD => vec![16, spa],
        command::SNP_FEATURE_INFO => vec![16, spa],
        command::SNP_INIT_EX => vec![1],
        command::SNP_SHUTDOWN_EX => vec![8],
        command::GET_ID => vec![spa, 64],
        _ => Vec::new(),
    }
}

/// What the test knows of a guest: the digest so far.
#[derive(Clone, Default)]
struct Model {
    guests: BTreeMap<u64, [u8; 48]>,
    debuggable: BTreeMap<u64, bool>,
    shut_down: bool,
}

fn sha384(bytes: &[u8]) -> [u8; 48] {
    digest(&SHA384, bytes).as_ref().try_into().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// PAGE_INFO of each 4 KiB page of an update, from its description.
fn extend(mut now: [u8; 48], buffer: &[u8], entry: &RmpEntry, content: &[u8]) -> [u8; 48] {
    let kind = buffer[8] >> 1 & 7;
    for (index, page) in content.chunks(PAGE as usize).enumerate() {
        let contents = if kind <= 2 { sha384(page) } else { [0; 48] };
        let perms = [buffer[27], buffer[26], buffer[25]];
        let info = [
            &now[..],
            &contents,
            &[0x70, 0, kind, buffer[8] >> 4 & 1],
            &perms,
            &[0],
            &(entry.gpa + index as u64 * PAGE).to_le_bytes(),
        ];
        now = sha384(&info.concat());
    }
    now
}

fn le64(buffer: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(buffer[at..at + 8].try_into().unwrap())
}

impl Model {
    fn execute(&mut self, rig: &mut Rig, id: u32, words: &[u64]) {
        let mut buffer: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        buffer.resize(64, 0);
        rig.machine.write(BUFFER, &buffer).unwrap();
        rig.machine.written.clear();
        let before = rig.machine.table().to_vec();
        let keys = rig.machine.keys.clone();
        // Content of the page, should this be an update.
        let update = (le64(&buffer, 16) & !0xFFF).min(MEMORY - LARGE_PAGE);
        let len = if buffer[8] & 1 != 0 { LARGE_PAGE } else { PAGE };
        let mut content = vec![0; len as usize];
        if id == command::SNP_LAUNCH_UPDATE {
            rig.machine.read(update, &mut content).unwrap();
        }

        let status = rig.psp.execute(&mut rig.machine, id, BUFFER);
        let trace = rig.psp.trace().to_owned();

        let cpuid_page = id == command::SNP_LAUNCH_UPDATE && buffer[8] >> 1 & 7 == 6;
        if status != Status::SUCCESS {
            assert_eq!(rig.machine.table(), before, "{trace}");
            // A CPUID page is handed back corrected; GET_ID tells the length that would do.
            let allowed = cpuid_page || id == command::GET_ID;
            assert!(allowed || rig.machine.written.is_empty(), "{trace} wrote {:x?}", rig.machine.written);
            assert_eq!(rig.machine.keys, keys, "{trace}");
        }
        self.check_writes(rig, id, &buffer, &trace);
        for (at, (old, new)) in before.iter().zip(rig.machine.table()).enumerate() {
            if old != new {
                check_transition(id, old, new, &trace);
                // Pages of other owners are not touched.
                let spa = at as u64 * PAGE;
                let named = [0, 16].map(|field| le64(&buffer, field) & !1);
                let near = |from: u64| (from..from.saturating_add(LARGE_PAGE)).contains(&spa);
                assert!(id == command::SNP_INIT_EX || named.into_iter().any(near), "{trace}: {spa:#x}");
            }
        }
        if status == Status::SUCCESS {
            self.follow(rig, id, &buffer, &before, &content, &keys, &trace);
        }
        let contexts = rig.machine.table().iter().filter(|entry| entry.state() == PageState::Context).count();
        assert_eq!(contexts, self.guests.len(), "{trace}");
        assert!(rig.psp.trace().len() < 1000 && !rig.psp.trace().contains('\n'));
    }

    fn check_writes(&self, rig: &Rig, id: u32, buffer: &[u8], trace: &str) {
        for (page, state) in &rig.machine.written {
            let allowed = match state {
                PageState::Firmware | PageState::Default => true,
                PageState::PreGuest => {
                    id == command::SNP_LAUNCH_UPDATE
                        || (id == command::SNP_DBG_ENCRYPT && self.is_debuggable(buffer))
                }
                PageState::GuestValid | PageState::GuestInvalid | PageState::PreSwap => {
                    id == command::SNP_DBG_ENCRYPT && self.is_debuggable(buffer)
                }
                _ => false,
            };
            // Without SNP there are no page states; the commands that exist then answer into any memory.
            let allowed = allowed || (self.shut_down && !is_guest_command(id));
            assert!(allowed, "{trace} wrote to {page:#x}, which was {state:?}");
        }
    }

    fn is_debuggable(&self, buffer: &[u8]) -> bool {
        self.debuggable.get(&le64(buffer, 0)).copied().unwrap_or(false)
    }

    #[allow(clippy::too_many_arguments)] // All that was before the command.
    fn follow(
        &mut self,
        rig: &mut Rig,
        id: u32,
        buffer: &[u8],
        before: &[RmpEntry],
        content: &[u8],
        keys: &BTreeMap<u32, [u8; 32]>,
        trace: &str,
    ) {
        let gctx = le64(buffer, 0);
        match id {
            command::SNP_GCTX_CREATE => assert!(self.guests.insert(gctx, [0; 48]).is_none(), "{trace}"),
            command::SNP_LAUNCH_START => {
                self.debuggable.insert(gctx, buffer[8 + 2] >> 3 & 1 == 1);
            }
            command::SNP_ACTIVATE => {
                let asid = u32::from_le_bytes(buffer[8..12].try_into().unwrap());
                assert!(!keys.contains_key(&asid) && rig.machine.keys.contains_key(&asid), "{trace}");
            }
            command::SNP_LAUNCH_UPDATE => {
                let entry = &before[(le64(buffer, 16) / PAGE) as usize];
                let now = self.guests.get_mut(&gctx).unwrap();
                *now = extend(*now, buffer, entry, content);
            }
            command::SNP_LAUNCH_FINISH => assert_eq!(rig.digest(), hex(&self.guests[&gctx])),
            command::SNP_DECOMMISSION => {
                assert!(self.guests.remove(&gctx).is_some(), "{trace}");
                self.debuggable.remove(&gctx);
            }
            command::SNP_INIT | command::SNP_INIT_EX => {
                assert!(self.shut_down, "{trace}");
                self.shut_down = false;
            }
            command::SNP_SHUTDOWN | command::SNP_SHUTDOWN_EX => {
                assert!(!self.shut_down && self.guests.is_empty(), "{trace}");
                self.shut_down = true;
            }
            _ => {}
        }
    }
}

fn is_guest_command(id: u32) -> bool {
    (0x090..=0x0B1).contains(&id)
}

fn check_transition(id: u32, old: &RmpEntry, new: &RmpEntry, trace: &str) {
    use PageState::{
        Context, Firmware, GuestInvalid, GuestValid, HvFixed, Hypervisor, Metadata, PreGuest, PreSwap,
        Reclaim,
    };
    let known = match id {
        command::SNP_GCTX_CREATE => matches!((old.state(), new.state()), (Firmware, Context)),
        command::SNP_DECOMMISSION => matches!((old.state(), new.state()), (Context, Firmware)),
        command::SNP_LAUNCH_UPDATE => {
            let same_owner = (old.asid, old.gpa, old.large) == (new.asid, new.gpa, new.large);
            matches!((old.state(), new.state()), (PreGuest, GuestValid)) && same_owner
        }
        command::SNP_PAGE_RECLAIM => {
            matches!((old.state(), new.state()), (Firmware | Metadata | PreGuest | PreSwap, Reclaim))
        }
        command::SNP_PAGE_UNSMASH => RmpEntry { large: true, ..*old } == *new,
        command::SNP_INIT_EX => matches!((old.state(), new.state()), (Hypervisor, HvFixed)),
        _ => false,
    };
    assert!(known, "{trace}: {old:?} became {new:?}");
    // A page in use by a guest that runs leaves its hands by none of these.
    let kept = !matches!(old.state(), GuestValid | GuestInvalid) || old.asid == new.asid;
    assert!(kept, "{trace}");
}

fn rmp(rig: &mut Rig, page: u8, kind: u8, asid: u32, gpa: u8) {
    let large = page >= SMALL;
    let size = if large { LARGE_PAGE } else { PAGE };
    let guest = RmpEntry { large, ..pre_guest(asid, u64::from(gpa) * size) };
    let entry = match kind {
        0 => RmpEntry::default(),
        1 => RmpEntry { large, ..RmpEntry::firmware() },
        2 => guest,
        3 => RmpEntry { immutable: false, ..guest },
        _ => RmpEntry { large, assigned: true, ..RmpEntry::default() },
    };
    // Refused on pages the firmware holds, as the processor would.
    rig.machine.rmpupdate(address(page), entry);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn commands_keep_the_rules(steps in prop::collection::vec(step(), 1..120)) {
        let mut rig = Rig::initialised("seed = 'properties'\nsnp_asids = 3");
        let mut model = Model::default();
        // Two guests in launch, so that not every sequence has to find that first.
        for gctx in [0, 1] {
            rmp(&mut rig, gctx, 1, 0, 0);
            model.execute(&mut rig, command::SNP_GCTX_CREATE, &[address(gctx)]);
            let start = usual(command::SNP_LAUNCH_START, gctx, 0, 0, u32::from(gctx));
            model.execute(&mut rig, command::SNP_LAUNCH_START, &start);
            model.execute(&mut rig, command::SNP_ACTIVATE, &[address(gctx), u64::from(gctx) + 1]);
        }
        prop_assert_eq!(model.guests.len(), 2);
        for step in &steps {
            match step {
                Step::Rmp { page, kind, asid, gpa } => rmp(&mut rig, *page, *kind, *asid, *gpa),
                Step::Launch { gctx, page, gpa, kind, fill } => {
                    let fill = [*fill; 64];
                    rig.machine.write(address(*page) + u64::from(*gpa) * 64, &fill).unwrap();
                    rmp(&mut rig, *page, 2, u32::from(*gctx) + 1, *gpa);
                    let update = usual(command::SNP_LAUNCH_UPDATE, *gctx, *page, 0, *kind);
                    model.execute(&mut rig, command::SNP_LAUNCH_UPDATE, &update);
                }
                Step::Command { id, gctx, page, other, number, odd } => {
                    let mut words = usual(*id, *gctx, *page, *other, *number);
                    if let Some((at, word)) = odd {
                        words.resize(words.len().max(at + 1), 0);
                        words[*at] = word.value();
                    }
                    model.execute(&mut rig, *id, &words);
                }
                Step::Noise { id, words } => {
                    let words: Vec<u64> = words.iter().map(Word::value).take(8).collect();
                    model.execute(&mut rig, *id, &words);
                }
            }
        }
        // What is still in launch finishes with the digest of what was launched.
        for gctx in model.guests.clone().into_keys() {
            model.execute(&mut rig, command::SNP_LAUNCH_FINISH, &[gctx]);
        }
    }

    #[test]
    fn buffers_anywhere_do_not_panic(id in 0..0x100_u32, buffer in any::<u64>(), near in 0..0x1000_u64) {
        let mut rig = Rig::new("");
        for at in [buffer, MEMORY - near, u64::MAX - near, buffer % MEMORY] {
            rig.psp.execute(&mut rig.machine, id, at);
        }
    }

    #[test]
    fn sequence_numbers_only_rise(
        messages in prop::collection::vec((0..4_u8, -3..4_i64, 0..8_u8, 0..0x70_usize), 1..40)
    ) {
        let mut rig = Rig::initialised("");
        let (guest, keys) = rig.running(1, POLICY);
        let mut last = [0_u64; 4];
        for (vmpck, step, damage, at) in messages {
            let key = usize::from(vmpck);
            let sequence = last[key].wrapping_add_signed(step);
            let message = Message { vmpck, ..Message::report(sequence, [7; 64], 3, 0) };
            let mut page = message.seal(&keys[key]);
            // One in eight is damaged.
            if damage == 0 {
                page[at] ^= 0x80;
            }
            let answer = rig.send(guest, &page);
            prop_assert_eq!(answer.is_ok(), step == 1 && damage != 0, "{}", rig.psp.trace());
            if let Ok(page) = answer {
                let answer = Message::open(&keys[key], &page).unwrap();
                prop_assert_eq!((answer.sequence, answer.vmpck, answer.kind), (sequence + 1, vmpck, 6));
                prop_assert!(answer.sequence > last[key]);
                last[key] = answer.sequence;
            }
        }
    }

    #[test]
    fn payloads_of_any_content_are_answered_or_refused(
        kind in 0..20_u8, version in 0..4_u8, payload in prop::collection::vec(any::<u8>(), 0..200)
    ) {
        let mut rig = Rig::initialised("");
        let (guest, keys): (Guest, _) = rig.running(1, POLICY);
        let message = Message { sequence: 1, kind, version, vmpck: 0, payload };
        match rig.ask(guest, &keys[0], &message) {
            Ok(answer) => prop_assert_eq!((answer.kind, answer.sequence), (kind + 1, 2)),
            Err(status) => prop_assert_eq!(status, Status::INVALID_PARAM),
        }
    }

    #[test]
    fn cpuid_pages_of_any_content_are_accepted_or_corrected_once(
        count in prop_oneof![0..70_u32, any::<u32>()],
        leaves in prop::collection::vec(
            (prop::sample::select(&[1_u32, 7, 0xD, 0x8000_0001, 0x8000_0008, 0x8000_001F, 2][..]), 0..4_u32,
             any::<[u32; 4]>(), any::<u64>()), 0..64)
    ) {
        let mut rig = Rig::initialised("");
        for (leaf, outputs) in [(1, [1, 2, 3, 4]), (7, [0, 0xFF, 0xFF, 0]), (0xD, [7, 0x340, 0x340, 0])] {
            rig.machine.cpuid.insert((leaf, 0), outputs);
        }
        let guest = rig.launching(1, POLICY);
        let mut table = Buffer::default().u32(count).u32(0).u64(0);
        for (leaf, subleaf, outputs, xcr0) in leaves {
            table = table.u32(leaf).u32(subleaf).u64(xcr0).u64(0);
            table = outputs.iter().fold(table, |table, value| table.u32(*value)).u64(0);
        }
        let mut page = table.0;
        page.resize(PAGE as usize, 0);
        let spa = rig.machine.pre_guest(guest.asid, 0x1000, &page);
        match rig.update(guest, spa, CPUID) {
            Status::SUCCESS => prop_assert!(count <= 64),
            status => {
                prop_assert_eq!(status, Status::INVALID_PARAM);
                let expected = if count > 64 { Status::INVALID_PARAM } else { Status::SUCCESS };
                prop_assert_eq!(rig.update(guest, spa, CPUID), expected);
            }
        }
    }
}
