// SPDX-License-Identifier: Apache-2.0
//! SNP_GUEST_REQUEST and the messages behind it, and the report that the host asks for.
//!
//! What is wrong with the envelope ends the command; what is wrong with the content of an authentic request
//! is answered to the guest, in the status field of the response. Only an answered request moves the sequence
//! number. AMD's document was not at hand for the code of a wrong sequence number: AEAD_OFLOW, as the
//! kernel's maintainers describe it.

use zeroize::Zeroizing;

use crate::crypto::{derive, first};
use crate::guest::{Guest, GuestState};
use crate::host::{self, Host, PAGE, le32, le64};
use crate::launch::tsc_scale;
use crate::message::{self, Header};
use crate::product::Tcb;
use crate::psp::Psp;
use crate::report::{HOST_VMPL, REPORT_LEN};
use crate::status::{Outcome, Status};

const KEY_REQ: u8 = 3;
const REPORT_REQ: u8 = 5;
const TSC_INFO_REQ: u8 = 17;

/// Status, size and reserved bytes in front of a report.
const REPORT_HEADER: usize = 32;
/// MSG_KEY_REQ with the mitigation vector, that is message version 2; version 1 is 8 bytes shorter.
const KEY_REQ_LEN: usize = 0x28;
const KEY_RSP_LEN: usize = 64;
const TSC_LEN: usize = 128;

impl Psp {
    /// SNP_GUEST_REQUEST: context, request page, response page.
    pub(crate) fn guest_request(&mut self, host: &mut dyn Host, buffer: u64) -> Outcome<()> {
        let bytes: [u8; 24] = host::read(host, buffer)?;
        let (gctx, request, response) = (le64(&bytes, 0), le64(&bytes, 8), le64(&bytes, 16));
        self.detail = format!(" gctx {gctx:#x}");
        if self.guest(host, gctx)?.state != GuestState::Running {
            return Err(Status::INVALID_GUEST_STATE);
        }
        host::aligned(response)?;
        self.may_answer(host, response, PAGE as usize)?;
        let page = host::read_page(host, request)?;
        let header = Header::parse(&page)?;
        self.detail
            .push_str(&format!(" message {} vmpck {} seq {}", header.kind, header.vmpck, header.sequence));
        // Shared from here on: answers are made of the guest and of the platform together.
        let guest = self.platform.guests.get(&gctx).ok_or(Status::INVALID_GUEST)?;
        let key =
            guest.keys.as_ref().map(|keys| &keys.vmpck[header.vmpck]).ok_or(Status::INVALID_GUEST_STATE)?;
        // The response takes the next number; a counter that would wrap is worn out.
        let answered = header.sequence.checked_add(1).ok_or(Status::AEAD_OFLOW)?;
        if guest.sequence[header.vmpck].checked_add(1) != Some(header.sequence) {
            return Err(Status::AEAD_OFLOW);
        }
        let payload = Zeroizing::new(message::open(key, &page, header)?);
        let answer = match header.kind {
            REPORT_REQ if header.version == 1 => self.report_request(guest, &header, &payload)?,
            KEY_REQ if header.version == 1 || header.version == 2 => {
                self.key_request(guest, &header, &payload)?
            }
            TSC_INFO_REQ if header.version == 1 => self.tsc_request(guest, &payload)?,
            _ => return Err(Status::INVALID_PARAM),
        };
        let reply = Header { sequence: answered, kind: header.kind + 1, ..header };
        let sealed = message::seal(key, reply, &answer)?;
        host::write(host, response, &sealed)?;
        if let Some(guest) = self.platform.guests.get_mut(&gctx) {
            guest.sequence[header.vmpck] = answered;
        }
        Ok(())
    }

    /// MSG_REPORT_REQ: 64 bytes of data, VMPL, key selection.
    fn report_request(&self, guest: &Guest, header: &Header, payload: &[u8]) -> Outcome<Zeroizing<Vec<u8>>> {
        let made = <&[u8; 96]>::try_from(payload).map_err(|_| Status::INVALID_PARAM).and_then(|request| {
            let (vmpl, key_sel) = (le32(request, 0x40), le32(request, 0x44));
            check_vmpl(vmpl, header)?;
            if key_sel > 2 || request[0x48..].iter().any(|&byte| byte != 0) {
                return Err(Status::INVALID_PARAM);
            }
            let choice = self.choose_key(guest, key_sel)?;
            self.report(guest, &first(request), vmpl, choice)
        });
        Ok(Zeroizing::new(report_response(answerable(made)?)))
    }

    /// MSG_KEY_REQ: a key that follows from what the guest selects, and from nothing the host can choose.
    fn key_request(&self, guest: &Guest, header: &Header, payload: &[u8]) -> Outcome<Zeroizing<Vec<u8>>> {
        let mut answer = Zeroizing::new(vec![0; KEY_RSP_LEN]);
        match answerable(self.derived_key(guest, header, payload))? {
            Ok(key) => answer[32..].copy_from_slice(&key[..32]),
            Err(status) => answer[..4].copy_from_slice(&status.0.to_le_bytes()),
        }
        Ok(answer)
    }

    /// Fields of the request: root key and VEK selection, field selection, VMPL, guest SVN, TCB, mitigation
    /// vector.
    fn derived_key(&self, guest: &Guest, header: &Header, payload: &[u8]) -> Outcome<Zeroizing<[u8; 48]>> {
        let expected = if header.version == 1 { KEY_REQ_LEN - 8 } else { KEY_REQ_LEN };
        if payload.len() != expected {
            return Err(Status::INVALID_PARAM);
        }
        let (selection, fields) = (le32(payload, 0), le64(payload, 8));
        let (vmpl, svn) = (le32(payload, 0x10), le32(payload, 0x14));
        let mitigations = if header.version == 2 { le64(payload, 0x20) } else { 0 };
        let known_fields = if header.version == 2 { 0x7F } else { 0x3F };
        if selection & !7 != 0 || le32(payload, 4) != 0 || fields & !known_fields != 0 {
            return Err(Status::INVALID_PARAM);
        }
        check_vmpl(vmpl, header)?;
        let tcb =
            Tcb::from_bytes(first(&payload[0x18..]), self.config.product).ok_or(Status::INVALID_PARAM)?;
        if svn > guest.identity.guest_svn
            || !tcb.within(self.committed_tcb)
            || mitigations & !guest.launch_mitigations != 0
        {
            return Err(Status::INVALID_PARAM);
        }
        let root = if selection & 1 != 0 {
            let keys = guest.keys.as_ref().ok_or(Status::INVALID_PARAM)?;
            derive(&keys.vmrk.0, "vmrk", &[])
        } else {
            match self.choose_key(guest, selection >> 1)? {
                crate::report::KeyChoice::Vcek => self.chip.derivation_root(),
                // One key for all chips with this VLEK, which is what providers use it for.
                crate::report::KeyChoice::Vlek => match &self.platform.vlek {
                    Some(vlek) => vlek.derivation_root(),
                    None => return Err(Status::INVALID_KEY),
                },
            }
        };
        let pick = |bit: u32, bytes: &[u8]| if fields >> bit & 1 != 0 { bytes.to_vec() } else { Vec::new() };
        let inputs = [
            fields.to_le_bytes().to_vec(),
            vmpl.to_le_bytes().to_vec(),
            pick(0, &guest.policy.0.to_le_bytes()),
            pick(1, &guest.identity.image_id),
            pick(2, &guest.identity.family_id),
            pick(3, &guest.digest.0),
            pick(4, &svn.to_le_bytes()),
            pick(5, &tcb.to_bytes(self.config.product)),
            pick(6, &mitigations.to_le_bytes()),
        ];
        let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        Ok(derive(root.as_slice(), "guest key", &inputs))
    }

    /// MSG_TSC_INFO_REQ: 128 reserved bytes. Only guests with the secure TSC feature get an answer.
    fn tsc_request(&self, guest: &Guest, payload: &[u8]) -> Outcome<Zeroizing<Vec<u8>>> {
        let mut answer = Zeroizing::new(vec![0; TSC_LEN]);
        if payload.len() != TSC_LEN || payload.iter().any(|&byte| byte != 0) || !guest.secure_tsc {
            answer[..4].copy_from_slice(&Status::INVALID_PARAM.0.to_le_bytes());
        } else {
            let scale = tsc_scale(guest.tsc_khz, self.config.tsc_khz);
            answer[8..16].copy_from_slice(&scale.to_le_bytes());
        }
        Ok(answer)
    }

    /// SNP_HV_REPORT_REQ: length 24, key selection, context, address of the answer. REPORT_DATA is zero and
    /// VMPL is 0xFFFFFFFF, so that no verifier takes it for a report of the guest. Guests that still launch
    /// have no final digest and get none (the state hardware demands is not known to us).
    pub(crate) fn hv_report(&mut self, host: &mut dyn Host, buffer: u64) -> Outcome<()> {
        let bytes: [u8; 24] = host::read(host, buffer)?;
        let (gctx, answer_at) = (le64(&bytes, 8), le64(&bytes, 16));
        self.detail = format!(" gctx {gctx:#x}");
        if le32(&bytes, 0) != 24 {
            return Err(Status::INVALID_LEN);
        }
        let key_sel = le32(&bytes, 4);
        if key_sel > 2 {
            return Err(Status::INVALID_PARAM);
        }
        if self.guest(host, gctx)?.state != GuestState::Running {
            return Err(Status::INVALID_GUEST_STATE);
        }
        self.may_answer(host, answer_at, REPORT_HEADER + REPORT_LEN)?;
        let guest = self.platform.guests.get(&gctx).ok_or(Status::INVALID_GUEST)?;
        let choice = self.choose_key(guest, key_sel)?;
        let report = self.report(guest, &[0; 64], HOST_VMPL, choice)?;
        host::write(host, answer_at, &report_response(Ok(report)))
    }
}

/// A request may speak for the VMPL of its key or for a less privileged one.
fn check_vmpl(vmpl: u32, header: &Header) -> Outcome<()> {
    if (header.vmpck as u32..4).contains(&vmpl) { Ok(()) } else { Err(Status::INVALID_PARAM) }
}

/// A refusal is an answer to the guest; a failure of the processor ends the command.
fn answerable<T>(made: Outcome<T>) -> Outcome<Result<T, Status>> {
    match made {
        Err(Status::HWERROR_PLATFORM) => Err(Status::HWERROR_PLATFORM),
        made => Ok(made),
    }
}

fn report_response(made: Result<[u8; REPORT_LEN], Status>) -> Vec<u8> {
    let mut answer = vec![0; REPORT_HEADER + REPORT_LEN];
    match made {
        Ok(report) => {
            answer[4..8].copy_from_slice(&(REPORT_LEN as u32).to_le_bytes());
            answer[REPORT_HEADER..].copy_from_slice(&report);
        }
        Err(status) => answer[..4].copy_from_slice(&status.0.to_le_bytes()),
    }
    answer
}

const _: () = assert!(REPORT_HEADER + REPORT_LEN <= PAGE as usize - message::HEADER_LEN);
