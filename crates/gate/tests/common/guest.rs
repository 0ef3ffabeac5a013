// SPDX-License-Identifier: Apache-2.0
//! A guest that is launched by the software security processor from a gate's approval, and shows reports.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeMap;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use cvmm_gate_protocol::manifest;
use cvmm_launch::blob::Blob;
use cvmm_launch::firmware::Firmware;
use cvmm_launch::first_stage::FirstStage;
use cvmm_launch::memory::MemoryLayout;
use cvmm_launch::plan::{LaunchPlan, PageSink, Profile, place};
use cvmm_launch::vmsa::{self, VcpuModel};
use cvmm_psp::{Config, HEADER_LEN, Host, HostFault, PAGE, Psp, RmpEntry, Status, command};
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::features::SevFeatures;
use cvmm_snp::page_info::{PageType, VMSA_GPA};
use zerocopy::IntoBytes;

use super::common::{SECRETS, firmware, padded_firmware};

/// Memory of the host in bytes.
const MEMORY: usize = 8 << 20;
const BUFFER: u64 = 0x1000;
const ID_BLOCK: u64 = 0x3000;
const ID_AUTH: u64 = 0x4000;
const REPORT: usize = 1184;

/// A host that obeys the RMP's rules by not breaking them.
struct Machine {
    memory: Vec<u8>,
    rmp: Vec<RmpEntry>,
    next: u64,
}

impl Host for Machine {
    fn read(&mut self, spa: u64, into: &mut [u8]) -> Result<(), HostFault> {
        let at = spa as usize;
        into.copy_from_slice(self.memory.get(at..at + into.len()).ok_or(HostFault)?);
        Ok(())
    }

    fn write(&mut self, spa: u64, from: &[u8]) -> Result<(), HostFault> {
        let at = spa as usize;
        self.memory.get_mut(at..at + from.len()).ok_or(HostFault)?.copy_from_slice(from);
        Ok(())
    }

    fn rmp_read(&mut self, spa: u64) -> Result<Option<RmpEntry>, HostFault> {
        Ok(self.rmp.get((spa / PAGE) as usize).copied())
    }

    fn rmp_write(&mut self, spa: u64, entry: &RmpEntry) -> Result<(), HostFault> {
        *self.rmp.get_mut((spa / PAGE) as usize).ok_or(HostFault)? = *entry;
        Ok(())
    }

    fn snp_enabled(&mut self) -> bool {
        true
    }

    fn cpuid(&mut self, _: u32, _: u32) -> [u32; 4] {
        [0; 4]
    }

    fn guest_key(&mut self, _: u32, _: &[u8; 32]) {}
}

/// The running guest, its host and its security processor.
pub struct Guest {
    psp: Psp,
    machine: Machine,
    gctx: u64,
    vmpck0: [u8; 32],
    sequence: u64,
    verdict_key: Option<[u8; 97]>,
}

impl Guest {
    /// Launches what the manifest says, with this identity (ID block and authentication) and HOST_DATA. `psp` is the security
    /// processor's configuration, `verdict_key` what a first stage is told.
    pub fn launch(
        psp: &str,
        launch: &manifest::Launch,
        identity: Option<(&[u8], &[u8])>,
        host_data: [u8; 32],
        verdict_key: Option<[u8; 97]>,
    ) -> Self {
        let machine = Machine {
            memory: vec![0; MEMORY],
            rmp: vec![RmpEntry::default(); MEMORY / PAGE as usize],
            next: 0x1_0000,
        };
        let psp = Psp::new(Config::from_toml(psp).unwrap()).unwrap();
        let mut guest = Self { psp, machine, gctx: 0, vmpck0: [0; 32], sequence: 1, verdict_key };
        let mut init = [0; 64];
        init[0] = 1;
        guest.run(command::SNP_INIT_EX, &[&init]);
        guest.gctx = guest.page(RmpEntry::firmware());
        let gctx = guest.gctx.to_le_bytes();
        guest.run(command::SNP_GCTX_CREATE, &[&gctx]);
        guest.run(command::SNP_LAUNCH_START, &[&gctx, &launch.policy.to_le_bytes(), &[0; 32]]);
        guest.run(command::SNP_ACTIVATE, &[&gctx, &1_u32.to_le_bytes()]);
        guest.pages(launch);
        let [mut block_at, mut auth_at] = [0_u64; 2];
        if let Some((block, auth)) = identity {
            [block_at, auth_at] = [ID_BLOCK, ID_AUTH];
            guest.machine.write(block_at, block).unwrap();
            guest.machine.write(auth_at, auth).unwrap();
        }
        let flags = u64::from(identity.is_some());
        let parts = [block_at, auth_at, flags].map(u64::to_le_bytes);
        guest.run(command::SNP_LAUNCH_FINISH, &[&gctx, &parts.concat(), &host_data]);
        guest
    }

    fn run(&mut self, id: u32, parts: &[&[u8]]) {
        self.machine.write(BUFFER, &parts.concat()).unwrap();
        let status = self.psp.execute(&mut self.machine, id, BUFFER);
        assert_eq!(status, Status::SUCCESS, "{id:#x}: {}", self.psp.trace());
    }

    fn page(&mut self, entry: RmpEntry) -> u64 {
        let page = self.machine.next;
        self.machine.next += PAGE;
        self.machine.rmp[(page / PAGE) as usize] = entry;
        page
    }

    fn pages(&mut self, launch: &manifest::Launch) {
        let staged = launch.first_stage.is_some();
        let image = if staged { padded_firmware() } else { firmware() };
        let firmware = Firmware::parse(Blob::from_bytes("firmware", image)).unwrap();
        let layout = MemoryLayout { low: launch.low_memory, high: launch.memory - launch.low_memory };
        let stage = staged.then_some(FirstStage { verdict_key: self.verdict_key });
        let plan =
            LaunchPlan::build_with(&firmware, &Profile::Disk, &layout, launch.vcpus, stage.as_ref()).unwrap();
        let mut placed = Placed::default();
        place(&plan, &mut placed).unwrap();
        for import in plan.imports() {
            for gpa in (import.gpa..import.gpa + import.len).step_by(PAGE as usize) {
                let spa = self.update(import.kind.into(), gpa, &placed.page(gpa));
                if gpa == u64::from(SECRETS) {
                    self.machine.read(spa + 0x20, &mut self.vmpck0).unwrap();
                }
            }
        }
        let model = VcpuModel {
            signature: CpuSignature(launch.cpu_signature),
            features: SevFeatures(launch.sev_features),
        };
        for start in plan.vcpus() {
            self.update(PageType::Vmsa, VMSA_GPA, vmsa::initial(*start, model).as_bytes());
        }
    }

    fn update(&mut self, kind: PageType, gpa: u64, content: &[u8]) -> u64 {
        let entry = RmpEntry { asid: 1, gpa, assigned: true, immutable: true, ..RmpEntry::default() };
        let page = self.page(entry);
        self.machine.write(page, content).unwrap();
        let (gctx, bits) = (self.gctx.to_le_bytes(), (kind as u32) << 1);
        self.run(
            command::SNP_LAUNCH_UPDATE,
            &[&gctx, &bits.to_le_bytes(), &[0; 4], &page.to_le_bytes(), &[0; 12]],
        );
        page
    }

    /// A report that the host asks for.
    pub fn host_report(&mut self) -> Vec<u8> {
        let page = self.page(RmpEntry::firmware());
        let (gctx, at) = (self.gctx.to_le_bytes(), page.to_le_bytes());
        self.run(command::SNP_HV_REPORT_REQ, &[&24_u64.to_le_bytes(), &gctx, &at]);
        let mut report = vec![0; REPORT];
        self.machine.read(page + 32, &mut report).unwrap();
        report
    }

    /// A report that the guest asks for, at VMPL0.
    pub fn report(&mut self, report_data: &[u8; 64]) -> Vec<u8> {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &self.vmpck0).unwrap());
        let nonce = |sequence: u64| {
            let mut nonce = [0; 12];
            nonce[..8].copy_from_slice(&sequence.to_le_bytes());
            Nonce::assume_unique_for_key(nonce)
        };
        // MSG_REPORT_REQ: REPORT_DATA, VMPL 0, the VCEK's signature.
        let mut body = [&report_data[..], &0_u32.to_le_bytes(), &1_u32.to_le_bytes(), &[0; 24]].concat();
        let mut message = [0; PAGE as usize];
        message[0x20..0x28].copy_from_slice(&self.sequence.to_le_bytes());
        message[0x30..0x36].copy_from_slice(&[1, 1, 0x60, 0, 5, 1]);
        message[0x36..0x38].copy_from_slice(&(body.len() as u16).to_le_bytes());
        let aad = Aad::from(message[0x30..0x60].to_vec());
        let tag = key.seal_in_place_separate_tag(nonce(self.sequence), aad, &mut body).unwrap();
        message[..16].copy_from_slice(tag.as_ref());
        message[HEADER_LEN..HEADER_LEN + body.len()].copy_from_slice(&body);

        let request = self.page(RmpEntry::default());
        self.machine.write(request, &message).unwrap();
        let response = self.page(RmpEntry::firmware());
        let places = [self.gctx, request, response].map(u64::to_le_bytes);
        self.run(command::SNP_GUEST_REQUEST, &[&places.concat()]);
        self.machine.read(response, &mut message).unwrap();
        let len = usize::from(u16::from_le_bytes([message[0x36], message[0x37]]));
        let aad = Aad::from(message[0x30..0x60].to_vec());
        let mut body = [&message[HEADER_LEN..HEADER_LEN + len], &message[..16]].concat();
        let answer = key.open_in_place(nonce(self.sequence + 1), aad, &mut body).unwrap();
        self.sequence += 2;
        assert_eq!(answer[..4], [0; 4], "the security processor gives no report");
        answer[32..32 + REPORT].to_vec()
    }
}

/// What [`place`] has written, by page.
#[derive(Default)]
struct Placed(BTreeMap<u64, Vec<u8>>);

impl PageSink for Placed {
    fn write(&mut self, gpa: u64, bytes: &[u8]) -> std::io::Result<()> {
        let mut at = 0;
        while at < bytes.len() {
            let address = gpa + at as u64;
            let start = (address % PAGE) as usize;
            let len = (PAGE as usize - start).min(bytes.len() - at);
            let page = self.0.entry(address - start as u64).or_insert_with(|| vec![0; PAGE as usize]);
            page[start..start + len].copy_from_slice(&bytes[at..at + len]);
            at += len;
        }
        Ok(())
    }
}

impl Placed {
    fn page(&self, gpa: u64) -> Vec<u8> {
        self.0.get(&gpa).cloned().unwrap_or_else(|| vec![0; PAGE as usize])
    }
}
