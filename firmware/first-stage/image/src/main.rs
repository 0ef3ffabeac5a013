// SPDX-License-Identifier: Apache-2.0
//! The first program of an SNP guest. The library `cvmm_first_stage` describes its protocol, and `layout`
//! there its place in memory. It runs alone, on the bootstrap processor, with interrupts off, and ends with a
//! jump to the firmware's reset vector or by ending the guest.

#![no_std]
#![no_main]

mod cpu;
mod exception;
mod ghcb;
mod mem;
mod memory;
mod talk;

use core::arch::{asm, global_asm};

use cvmm_first_stage::layout::{
    EXIT, PAGE, PARAMS, PIECE, PIECE_LEN, PROGRAM, REQUEST, RESPONSE, STAGE_LEN, WINDOW, WINDOW_LEN,
};
use cvmm_first_stage::mailbox::{Evidence, Fill, Kind};
use cvmm_first_stage::params::{ADMIT, Params, UKI};
use cvmm_first_stage::stop::Stop;
use cvmm_first_stage::ticket::{self, Expected, MAX_TICKET, PrivateKey};
use cvmm_first_stage::{psp, report_data, secrets};
use sha2::{Digest, Sha256, Sha384};
use talk::Mailbox;
use zerocopy::{FromBytes, IntoBytes};
use zeroize::{Zeroize, Zeroizing};

use crate::cpu::State;

global_asm!(include_str!("entry.s"), options(att_syntax));

/// Offsets in the secrets page (firmware ABI, "Secrets Page Format"; Linux `snp_secrets_page`).
const VMPCK0: usize = 0x20;
const MESSAGES_0: usize = 0xa0;

unsafe extern "C" {
    /// The first instruction (entry.s).
    static stage_entry: u8;
}

/// Where the stage is.
fn place() -> u64 {
    &raw const stage_entry as u64 - PROGRAM
}

/// Called by `stage_entry`.
#[unsafe(no_mangle)]
extern "C" fn stage_main() -> ! {
    match run() {
        Ok(signature) => leave(signature),
        Err(stop) => cpu::terminate(stop),
    }
}

fn run() -> Result<u32, Stop> {
    // SAFETY: a measured page that is never written.
    let params = unsafe { memory::private(place() + PARAMS, PAGE as usize) };
    let params = Params::ref_from_bytes(params).map_err(|_| Stop::Params)?;
    params.check().map_err(|_| Stop::Params)?;
    exception::install(params.cpuid.get());
    // The reset value of EDX.
    let signature = core::arch::x86_64::__cpuid(1).eax;
    for page in (WINDOW..WINDOW + WINDOW_LEN).step_by(PAGE as usize) {
        cpu::page_state(page, State::Shared)?;
    }
    cpu::register_ghcb(WINDOW)?;
    let mut mailbox = Mailbox::new();
    if params.has(ADMIT) {
        admit(params, &mut mailbox)?;
    }
    if params.has(UKI) {
        load(params, &mut mailbox)?;
    }
    mailbox.ask(Kind::Done, &[], &mut [])?;
    memory::clear(WINDOW, WINDOW_LEN as usize);
    for page in (WINDOW..WINDOW + WINDOW_LEN).step_by(PAGE as usize) {
        // Not validated: the firmware expects its memory in this state.
        cpu::page_state(page, State::Private)?;
    }
    Ok(signature)
}

/// Sends a report to the gate and waits for its ticket; puts the secrets of the ticket where the firmware
/// looks for them.
#[inline(never)]
fn admit(params: &Params, mailbox: &mut Mailbox) -> Result<(), Stop> {
    let challenge = mailbox.challenge()?;
    let vm_id = challenge.vm_id().ok_or(Stop::Challenge)?;
    // SAFETY: the security processor's page, which nothing else uses before the firmware runs.
    let secrets_page = unsafe { memory::private(params.secrets.get(), PAGE as usize) };
    let (private, public) = key(secrets_page)?;
    let data = report_data::admit(&challenge.nonce, vm_id, &public, &challenge.manifest);
    let began = cpu::ticks();
    let report = report(secrets_page, &data)?;
    let evidence = Evidence { report, key: public };
    let mut bytes = [0; MAX_TICKET];
    let len = mailbox.ask(Kind::Evidence, evidence.as_bytes(), &mut bytes)?;
    let bytes = bytes.get_mut(..len).ok_or(Stop::TicketForm)?;
    let expected = Expected {
        nonce: &challenge.nonce,
        key: &public,
        report: &evidence.report,
        vm_id,
        ticks: cpu::ticks().wrapping_sub(began),
    };
    let table = ticket::open(bytes, &params.verdict_key, &expected)?.secrets(&private)?;
    let done = if table.is_empty() { Ok(()) } else { put(params, table) };
    table.zeroize();
    done
}

/// Generates a fresh key from the processor's random numbers and from a secret that the security processor
/// has for this guest, so that a host that controlled one of them would still lack the other.
fn key(secrets_page: &[u8]) -> Result<(PrivateKey, [u8; 32]), Stop> {
    let mut random = Zeroizing::new([0; 64]);
    cpu::random(&mut *random)?;
    let mut hash = Sha384::new();
    hash.update(b"cvmm first-stage key v1");
    hash.update(&*random);
    // All four message keys, version and guest-visible workarounds.
    hash.update(&secrets_page[..MESSAGES_0]);
    hash.update(cpu::ticks().to_le_bytes());
    let mut seed = Zeroizing::new([0; 32]);
    let mut all = hash.finalize();
    seed.copy_from_slice(&all[..32]);
    all.as_mut_slice().zeroize();
    Ok(PrivateKey::derive(&seed))
}

/// Requests a report over `data`. The two messages are counted in the secrets page for later users of the
/// message key.
#[inline(never)]
fn report(secrets_page: &mut [u8], data: &[u8; 64]) -> Result<[u8; 1184], Stop> {
    let key = Zeroizing::new(*secrets_page[VMPCK0..].first_chunk::<32>().ok_or(Stop::Secrets)?);
    let count = secrets_page[MESSAGES_0..].first_chunk::<4>().ok_or(Stop::Secrets)?;
    // A key is never all zeros, and no message was sent before.
    if key.iter().all(|byte| *byte == 0) || *count != [0; 4] {
        return Err(Stop::Secrets);
    }
    let request = psp::request(&key, 1, data).ok_or(Stop::Request)?;
    memory::write(REQUEST, &request);
    memory::clear(RESPONSE, PAGE as usize);
    ghcb::guest_request()?;
    let mut response = [0; psp::PAGE];
    memory::read(RESPONSE, &mut response);
    let report = psp::response(&key, 2, &mut response).map_err(|_| Stop::Response)?;
    secrets_page[MESSAGES_0..MESSAGES_0 + 4].copy_from_slice(&2_u32.to_le_bytes());
    if psp::report_data(&report) != data || psp::vmpl(&report) != 0 {
        return Err(Stop::Report);
    }
    Ok(report)
}

/// Puts the table of secrets into the firmware's area.
fn put(params: &Params, table: &[u8]) -> Result<(), Stop> {
    secrets::check(table).map_err(|_| Stop::SecretsForm)?;
    // `Params::check` keeps it within a page.
    let len = params.secret_area_len.get() as usize;
    if table.len() > len {
        return Err(Stop::SecretsForm);
    }
    // SAFETY: an area that was launched for this purpose, and is not read before the firmware runs.
    let area = unsafe { memory::private(params.secret_area.get(), len) };
    area.fill(0);
    area[..table.len()].copy_from_slice(table);
    Ok(())
}

/// Copies the unified kernel image to its place and hashes the copy.
#[inline(never)]
fn load(params: &Params, mailbox: &mut Mailbox) -> Result<(), Stop> {
    let (start, len) = (params.uki.get(), params.uki_len.get());
    let mut hash = Sha256::new();
    let mut at = 0;
    while at < len {
        let piece = (len - at).min(PIECE_LEN);
        mailbox.fill(Fill { offset: at.into(), len: piece.into() })?;
        let room = piece.next_multiple_of(PAGE);
        for page in (start + at..start + at + room).step_by(PAGE as usize) {
            cpu::validate(page)?;
        }
        // SAFETY: just validated; nothing else is there, and it does not overlap the window.
        let copy = unsafe { memory::private(start + at, room as usize) };
        let (content, rest) = copy.split_at_mut(piece as usize);
        memory::read(PIECE, content);
        rest.fill(0);
        hash.update(content);
        at += piece;
    }
    let hash: [u8; 32] = hash.finalize().into();
    // Not a secret: no constant time.
    if hash == params.uki_sha256 { Ok(()) } else { Err(Stop::UkiHash) }
}

/// Wipes everything and jumps to the firmware. `signature` is what EDX has after a reset.
fn leave(signature: u32) -> ! {
    // SAFETY: `stage_exit` is at this address (link.ld). It wipes the stage and never comes back.
    unsafe {
        asm!("jmp {exit}", exit = in(reg) EXIT, in("edi") place() as u32, in("ecx") STAGE_LEN as u32, in("edx") signature,
            options(noreturn));
    }
}

/// This program does not allocate, but a library links the crate `alloc`, which requires an allocator.
struct NoMemory;

// SAFETY: null is the result of a failed allocation, and there are no allocations to free.
unsafe impl core::alloc::GlobalAlloc for NoMemory {
    unsafe fn alloc(&self, _: core::alloc::Layout) -> *mut u8 {
        core::ptr::null_mut()
    }

    unsafe fn dealloc(&self, _: *mut u8, _: core::alloc::Layout) {}
}

#[global_allocator]
static NO_MEMORY: NoMemory = NoMemory;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    cpu::terminate(Stop::Panic)
}
