// SPDX-License-Identifier: Apache-2.0
//! A guest that the software security processor launches from a gate's approval, and that asks it for
//! reports.

use cvmm_gate_protocol::manifest;
use cvmm_launch::blob::Blob;
use cvmm_launch::firmware::Firmware;
use cvmm_launch::first_stage::FirstStage;
use cvmm_launch::memory::MemoryLayout;
use cvmm_launch::plan::{LaunchPlan, Profile};
use cvmm_launch::vmsa::VcpuModel;
use cvmm_psp::Status;
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::features::SevFeatures;

use super::folder::{SECRETS, firmware, padded_firmware};
use crate::psp::{self, Message, Rig};

/// The running guest, its host and its security processor.
pub struct Guest {
    rig: Rig,
    guest: psp::Guest,
    vmpck0: [u8; 32],
    sequence: u64,
}

impl Guest {
    /// Launches what the manifest says, with this identity (ID block and authentication) and HOST_DATA. `psp`
    /// is the security processor's configuration, `verdict_key` the key that a first stage gets.
    pub fn launch(
        psp: &str,
        launch: &manifest::Launch,
        identity: Option<(&[u8], &[u8])>,
        host_data: [u8; 32],
        verdict_key: Option<[u8; 97]>,
    ) -> Self {
        let mut rig = Rig::initialised(psp);
        let guest = rig.launching(1, launch.policy);
        let plan = plan(launch, verdict_key);
        let model = VcpuModel {
            signature: CpuSignature(launch.cpu_signature),
            features: SevFeatures(launch.sev_features),
        };
        let pages = rig.launch_plan(guest, &plan, model);
        let vmpck0 = rig.machine.bytes(pages[&u64::from(SECRETS)] + 0x20);
        let finished = rig.finish(guest, identity, u64::from(identity.is_some()), host_data);
        assert_eq!(finished, Status::SUCCESS, "{}", rig.psp.trace());
        Self { rig, guest, vmpck0, sequence: 1 }
    }

    /// A report that the host asks for.
    pub fn host_report(&mut self) -> Vec<u8> {
        self.rig.host_report(self.guest)
    }

    /// A report that the guest asks for, at VMPL0 and signed by the VCEK.
    pub fn report(&mut self, report_data: &[u8; 64]) -> Vec<u8> {
        let request = Message::report(self.sequence, *report_data, 0, 1);
        let answer = self.rig.ask(self.guest, &self.vmpck0, &request).unwrap().payload;
        self.sequence += 2;
        assert_eq!(answer[..4], [0; 4], "the security processor did not return a report");
        answer[32..].to_vec()
    }
}

fn plan(launch: &manifest::Launch, verdict_key: Option<[u8; 97]>) -> LaunchPlan {
    let staged = launch.first_stage.is_some();
    let image = if staged { padded_firmware() } else { firmware() };
    let firmware = Firmware::parse(Blob::from_bytes("firmware", image)).unwrap();
    let layout = MemoryLayout { low: launch.low_memory, high: launch.memory - launch.low_memory };
    let stage = staged.then_some(FirstStage { verdict_key });
    LaunchPlan::build_with(&firmware, &Profile::Disk, &layout, launch.vcpus, stage.as_ref()).unwrap()
}
