// SPDX-License-Identifier: Apache-2.0
//! A guest on a rig: launch commands, and the guest's side of the message protocol.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use cvmm_psp::{HEADER_LEN, Host as _, PAGE, Status, command};

use super::{Buffer, Rig};

pub const POLICY: u64 = 0x3_0000;

#[derive(Clone, Copy, Debug)]
pub struct Guest {
    pub gctx: u64,
    pub asid: u32,
}

/// Arguments of LAUNCH_UPDATE beyond context and address.
#[derive(Clone, Copy)]
pub struct Kind {
    pub bits: u32,
    pub perms: [u8; 3],
}

pub const NORMAL: Kind = Kind { bits: 1 << 1, perms: [0; 3] };
pub const VMSA: Kind = Kind { bits: 2 << 1, perms: [0; 3] };
pub const ZERO: Kind = Kind { bits: 3 << 1, perms: [0; 3] };
pub const UNMEASURED: Kind = Kind { bits: 4 << 1, perms: [0; 3] };
pub const SECRETS: Kind = Kind { bits: 5 << 1, perms: [0; 3] };
pub const CPUID: Kind = Kind { bits: 6 << 1, perms: [0; 3] };

impl Rig {
    pub fn gctx(&mut self) -> u64 {
        let gctx = self.machine.firmware_page();
        assert_eq!(self.run_address(command::SNP_GCTX_CREATE, gctx), Status::SUCCESS);
        gctx
    }

    pub fn start(&mut self, gctx: u64, policy: u64) -> Status {
        let buffer = Buffer::default().u64(gctx).u64(policy).u64(0).u32(0).u32(0).bytes(&[0x60; 16]);
        self.run(command::SNP_LAUNCH_START, &buffer.0)
    }

    pub fn activate(&mut self, gctx: u64, asid: u32) -> Status {
        self.run(command::SNP_ACTIVATE, &Buffer::default().u64(gctx).u32(asid).0)
    }

    /// A guest ready for LAUNCH_UPDATE.
    pub fn launching(&mut self, asid: u32, policy: u64) -> Guest {
        let gctx = self.gctx();
        assert_eq!(self.start(gctx, policy), Status::SUCCESS);
        assert_eq!(self.activate(gctx, asid), Status::SUCCESS);
        Guest { gctx, asid }
    }

    pub fn update(&mut self, guest: Guest, spa: u64, kind: Kind) -> Status {
        let [vmpl1, vmpl2, vmpl3] = kind.perms;
        let buffer = Buffer::default()
            .u64(guest.gctx)
            .u32(kind.bits)
            .u32(0)
            .u64(spa)
            .bytes(&[0, vmpl1, vmpl2, vmpl3])
            .u64(0);
        self.run(command::SNP_LAUNCH_UPDATE, &buffer.0)
    }

    /// Launch one page; returns where it lies.
    pub fn launch_page(&mut self, guest: Guest, gpa: u64, content: &[u8], kind: Kind) -> u64 {
        let spa = self.machine.pre_guest(guest.asid, gpa, content);
        assert_eq!(self.update(guest, spa, kind), Status::SUCCESS, "{}", self.psp.trace());
        spa
    }

    pub fn finish(
        &mut self,
        guest: Guest,
        id: Option<(&[u8], &[u8])>,
        flags: u64,
        host_data: [u8; 32],
    ) -> Status {
        let (mut block_at, mut auth_at) = (0, 0);
        if let Some((block, auth)) = id {
            (block_at, auth_at) = (0x3000, 0x4000);
            self.machine.write(block_at, block).unwrap();
            self.machine.write(auth_at, auth).unwrap();
        }
        let buffer =
            Buffer::default().u64(guest.gctx).u64(block_at).u64(auth_at).u64(flags).bytes(&host_data);
        self.run(command::SNP_LAUNCH_FINISH, &buffer.0)
    }

    /// A running guest with a secrets page, and its VMPCKs.
    pub fn running(&mut self, asid: u32, policy: u64) -> (Guest, [[u8; 32]; 4]) {
        let guest = self.launching(asid, policy);
        let vmpck = self.launch_secrets(guest);
        assert_eq!(self.finish(guest, None, 0, [0xD0; 32]), Status::SUCCESS);
        (guest, vmpck)
    }

    pub fn launch_secrets(&mut self, guest: Guest) -> [[u8; 32]; 4] {
        let spa = self.launch_page(guest, 0x80_D000, &[], SECRETS);
        [0x20, 0x40, 0x60, 0x80].map(|at| self.machine.bytes(spa + at))
    }

    pub fn digest(&mut self) -> String {
        self.psp.trace().split("digest ").nth(1).map_or("", |rest| &rest[..96]).to_owned()
    }
}

/// A guest message, in the clear.
#[derive(Clone, Debug)]
pub struct Message {
    pub sequence: u64,
    pub kind: u8,
    pub version: u8,
    pub vmpck: u8,
    pub payload: Vec<u8>,
}

impl Message {
    pub fn report(sequence: u64, data: [u8; 64], vmpl: u32, key_sel: u32) -> Self {
        let payload = Buffer::default().bytes(&data).u32(vmpl).u32(key_sel).bytes(&[0; 24]).0;
        Self { sequence, kind: 5, version: 1, vmpck: 0, payload }
    }

    pub fn seal(&self, key: &[u8; 32]) -> [u8; PAGE as usize] {
        let mut page = [0; PAGE as usize];
        page[0x20..0x28].copy_from_slice(&self.sequence.to_le_bytes());
        page[0x30..0x34].copy_from_slice(&[1, 1, 0x60, 0]);
        page[0x34] = self.kind;
        page[0x35] = self.version;
        page[0x36..0x38].copy_from_slice(&(self.payload.len() as u16).to_le_bytes());
        page[0x3C] = self.vmpck;
        let mut body = self.payload.clone();
        let aad = Aad::from(page[0x30..0x60].to_vec());
        let tag = cipher(key).seal_in_place_separate_tag(nonce(self.sequence), aad, &mut body).unwrap();
        page[..16].copy_from_slice(tag.as_ref());
        page[HEADER_LEN..HEADER_LEN + body.len()].copy_from_slice(&body);
        page
    }

    pub fn open(key: &[u8; 32], page: &[u8; PAGE as usize]) -> Option<Self> {
        let sequence = u64::from_le_bytes(page[0x20..0x28].try_into().unwrap());
        let len = usize::from(u16::from_le_bytes([page[0x36], page[0x37]]));
        let mut body = page[HEADER_LEN..HEADER_LEN + len].to_vec();
        body.extend(&page[..16]);
        let aad = Aad::from(page[0x30..0x60].to_vec());
        let payload = cipher(key).open_in_place(nonce(sequence), aad, &mut body).ok()?.to_vec();
        Some(Self { sequence, kind: page[0x34], version: page[0x35], vmpck: page[0x3C], payload })
    }
}

fn cipher(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap())
}

fn nonce(sequence: u64) -> Nonce {
    let mut iv = [0; 12];
    iv[..8].copy_from_slice(&sequence.to_le_bytes());
    Nonce::assume_unique_for_key(iv)
}

impl Rig {
    /// Send a sealed page; on success the response page.
    pub fn send(&mut self, guest: Guest, page: &[u8; PAGE as usize]) -> Result<[u8; PAGE as usize], Status> {
        let request = self.machine.alloc();
        self.machine.write(request, page).unwrap();
        let response = self.machine.firmware_page();
        let buffer = Buffer::default().u64(guest.gctx).u64(request).u64(response);
        match self.run(command::SNP_GUEST_REQUEST, &buffer.0) {
            Status::SUCCESS => Ok(self.machine.bytes(response)),
            status => Err(status),
        }
    }

    /// Seal, send, open.
    pub fn ask(&mut self, guest: Guest, key: &[u8; 32], message: &Message) -> Result<Message, Status> {
        let page = self.send(guest, &message.seal(key))?;
        Ok(Message::open(key, &page).expect("the response is authentic"))
    }
}
