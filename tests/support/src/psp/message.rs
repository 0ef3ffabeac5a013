// SPDX-License-Identifier: Apache-2.0
//! The guest's side of the message protocol (SEV-SNP firmware ABI, guest messages).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use cvmm_psp::{HEADER_LEN, Host as _, PAGE, Status, command};

use super::{Buffer, Guest, Rig};

/// A guest message, in the clear.
#[derive(Clone, Debug)]
pub struct Message {
    /// Sequence number of the VMPCK.
    pub sequence: u64,
    /// Message type.
    pub kind: u8,
    /// Message version.
    pub version: u8,
    /// Number of the VMPCK that seals it.
    pub vmpck: u8,
    /// What it says.
    pub payload: Vec<u8>,
}

impl Message {
    /// A MSG_REPORT_REQ.
    pub fn report(sequence: u64, data: [u8; 64], vmpl: u32, key_sel: u32) -> Self {
        let payload = Buffer::default().bytes(&data).u32(vmpl).u32(key_sel).bytes(&[0; 24]).0;
        Self { sequence, kind: 5, version: 1, vmpck: 0, payload }
    }

    /// A page with the sealed message.
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

    /// Opens a response. `None` if it was not sealed with this key.
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
    /// Sends a sealed page; on success the response page.
    ///
    /// # Errors
    ///
    /// The status of SNP_GUEST_REQUEST.
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

    /// Seals, sends, and opens the response.
    ///
    /// # Errors
    ///
    /// The status of SNP_GUEST_REQUEST.
    pub fn ask(&mut self, guest: Guest, key: &[u8; 32], message: &Message) -> Result<Message, Status> {
        let page = self.send(guest, &message.seal(key))?;
        Ok(Message::open(key, &page).expect("the response is authentic"))
    }
}
