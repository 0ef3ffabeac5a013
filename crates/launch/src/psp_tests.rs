// SPDX-License-Identifier: Apache-2.0
//! Plans launched page by page through the software PSP: it has to come to the predicted digest, accept our
//! ID blocks and refuse what they are not for, and show in its report what was predicted of it.

use cvmm_psp::{Config, Host, HostFault, PAGE, Psp, RmpEntry, Status, command};
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::digest::Digest;
use cvmm_snp::features::SevFeatures;
use cvmm_snp::id::IdBlock;
use cvmm_snp::page_info::{PageType, VMSA_GPA};
use cvmm_snp::policy::GuestPolicy;
use cvmm_snp::report::{Report, VMPL_HOST};
use cvmm_snp::status::SevError;
use zerocopy::{FromBytes, IntoBytes};

use crate::digest::measure;
use crate::firmware::Firmware;
use crate::id_block::{Identity, SigningKey};
use crate::kernel::Kernel;
use crate::memory::MemoryLayout;
use crate::plan::{LaunchPlan, PageSink, Profile, place};
use crate::samples::uki_of;
use crate::testing::Image;
use crate::vmsa::{self, VcpuModel};
use crate::{blob::Blob, uki as uki_rules};

/// Memory of the host, bytes.
const MEMORY: usize = 2 << 20;
const BUFFER: u64 = 0x1000;
const MODEL: VcpuModel = VcpuModel { signature: CpuSignature(0xa0_0f11), features: SevFeatures(1) };

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

impl Machine {
    fn page(&mut self, entry: RmpEntry) -> u64 {
        let page = self.next;
        self.next += PAGE;
        self.rmp[(page / PAGE) as usize] = entry;
        page
    }
}

/// A guest in the middle of its launch.
struct Launch {
    psp: Psp,
    machine: Machine,
    gctx: u64,
}

impl Launch {
    fn run(&mut self, id: u32, parts: &[&[u8]]) -> Option<SevError> {
        self.machine.write(BUFFER, &parts.concat()).unwrap();
        let status: Status = self.psp.execute(&mut self.machine, id, BUFFER);
        SevError::from_code(status.0)
    }

    fn start(policy: GuestPolicy) -> Self {
        let machine = Machine {
            memory: vec![0; MEMORY],
            rmp: vec![RmpEntry::default(); MEMORY / PAGE as usize],
            next: 0x1_0000,
        };
        let psp = Psp::new(Config::from_toml("").unwrap()).unwrap();
        let mut launch = Self { psp, machine, gctx: 0 };
        let mut init = [0; 64];
        init[0] = 1;
        assert_eq!(launch.run(command::SNP_INIT_EX, &[&init]), None);
        launch.gctx = launch.machine.page(RmpEntry::firmware());
        let gctx = launch.gctx.to_le_bytes();
        assert_eq!(launch.run(command::SNP_GCTX_CREATE, &[&gctx]), None);
        let parts: [&[u8]; 3] = [&gctx, &policy.0.to_le_bytes(), &[0; 32]];
        assert_eq!(launch.run(command::SNP_LAUNCH_START, &parts), None);
        assert_eq!(launch.run(command::SNP_ACTIVATE, &[&gctx, &1_u32.to_le_bytes()]), None);
        launch
    }

    fn update(&mut self, kind: PageType, gpa: u64, content: &[u8]) {
        let entry = RmpEntry { asid: 1, gpa, assigned: true, immutable: true, ..RmpEntry::default() };
        let page = self.machine.page(entry);
        self.machine.write(page, content).unwrap();
        let (gctx, bits) = (self.gctx.to_le_bytes(), (kind as u32) << 1);
        let parts: [&[u8]; 5] = [&gctx, &bits.to_le_bytes(), &[0; 4], &page.to_le_bytes(), &[0; 12]];
        assert_eq!(self.run(command::SNP_LAUNCH_UPDATE, &parts), None, "{kind} at {gpa:#x}");
    }

    /// Launches the plan from where [`place`] puts it.
    fn plan(&mut self, plan: &LaunchPlan) {
        let mut placed = Placed(Vec::new());
        place(plan, &mut placed).unwrap();
        for import in plan.imports() {
            for gpa in (import.gpa..import.gpa + import.len).step_by(PAGE as usize) {
                self.update(import.kind.into(), gpa, &placed.page(gpa));
            }
        }
        for start in plan.vcpus() {
            self.update(PageType::Vmsa, VMSA_GPA, vmsa::initial(*start, MODEL).as_bytes());
        }
    }

    fn finish(&mut self, identity: Option<&Identity>) -> Option<SevError> {
        let (mut flags, mut places) = (0_u64, [0_u64; 2]);
        if let Some(identity) = identity {
            places = [0x3000, 0x4000];
            self.machine.write(places[0], identity.block().as_bytes()).unwrap();
            self.machine.write(places[1], identity.auth().as_bytes()).unwrap();
            flags = 1 | u64::from(identity.auth().has_author_key()) << 1;
        }
        let gctx = self.gctx.to_le_bytes();
        let host_data = [0xd0; 32];
        let [block, auth] = places.map(u64::to_le_bytes);
        self.run(command::SNP_LAUNCH_FINISH, &[&gctx, &block, &auth, &flags.to_le_bytes(), &host_data])
    }

    /// The report the host may ask for.
    fn report(&mut self) -> Report {
        let page = self.machine.page(RmpEntry::firmware());
        let (gctx, at) = (self.gctx.to_le_bytes(), page.to_le_bytes());
        assert_eq!(self.run(command::SNP_HV_REPORT_REQ, &[&24_u64.to_le_bytes(), &gctx, &at]), None);
        let mut answer = [0; 32 + 1184];
        self.machine.read(page, &mut answer).unwrap();
        Report::read_from_bytes(&answer[32..]).unwrap()
    }
}

/// What [`place`] has written, in order.
struct Placed(Vec<(u64, Vec<u8>)>);

impl PageSink for Placed {
    fn write(&mut self, gpa: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.0.push((gpa, bytes.to_vec()));
        Ok(())
    }
}

impl Placed {
    fn page(&self, gpa: u64) -> Vec<u8> {
        let mut page = vec![0; PAGE as usize];
        for (at, bytes) in &self.0 {
            for (address, byte) in (*at..).zip(bytes) {
                if (gpa..gpa + PAGE).contains(&address) {
                    page[(address - gpa) as usize] = *byte;
                }
            }
        }
        page
    }
}

fn plan(uki: Vec<u8>, vcpus: u32) -> LaunchPlan {
    let firmware = Firmware::parse(Image::amdsev().blob()).unwrap();
    let image = Kernel::recognise(Blob::from_bytes("uki", uki)).unwrap();
    let memory = MemoryLayout { low: 256 << 20, high: 0 };
    LaunchPlan::build(&firmware, &Profile::Uki { image, gpa: uki_rules::DEFAULT_GPA }, &memory, vcpus)
        .unwrap()
}

fn digest(plan: &LaunchPlan) -> Digest {
    measure(plan, MODEL, None, &mut ()).unwrap()
}

#[test]
fn a_launch_has_the_predicted_digest_and_identity_in_its_report() {
    let key = |file: &[u8]| SigningKey::parse(file).unwrap();
    let id = key(include_bytes!("id_block/golden/test-id-key.pem"));
    let author = key(include_bytes!("id_block/golden/test-author-key.pem"));
    let (plan, policy) = (plan(uki_of(9000), 3), GuestPolicy::default());
    let mut block = IdBlock::new(digest(&plan), policy);
    (block.family_id, block.image_id, block.guest_svn) = ([1; 16], [2; 16], 3.into());
    for identity in [
        None,
        Some(Identity::keyless(block).unwrap()),
        Some(Identity::signed(block, &id, None).unwrap()),
        Some(Identity::signed(block, &id, Some(&author)).unwrap()),
    ] {
        let mut launch = Launch::start(policy);
        launch.plan(&plan);
        assert_eq!(launch.finish(identity.as_ref()), None);
        let report = launch.report();
        assert_eq!((report.measurement, report.policy.get()), (digest(&plan), policy.0));
        assert_eq!((report.host_data, report.vmpl.get()), ([0xd0; 32], VMPL_HOST));
        let key = identity.as_ref().map_or(Digest::ZERO, Identity::id_key_digest);
        let author = identity.as_ref().and_then(Identity::author_key_digest);
        assert_eq!((report.id_key_digest, report.author_key_digest), (key, author.unwrap_or(Digest::ZERO)));
        let has_author = identity.as_ref().is_some_and(|identity| identity.auth().has_author_key());
        assert_eq!(report.key_info.get() & 1 != 0, has_author);
        if identity.is_some() {
            assert_eq!((report.family_id, report.image_id, report.guest_svn.get()), ([1; 16], [2; 16], 3));
        }
    }
}

#[test]
fn the_psp_refuses_what_the_id_block_is_not_for() {
    let good = plan(uki_of(9000), 1);
    let mut bytes = uki_of(9000);
    bytes[8999] ^= 1;
    let policy = GuestPolicy::default();
    let identity = Identity::keyless(IdBlock::new(digest(&good), policy)).unwrap();
    let refused = |plan: &LaunchPlan, policy| {
        let mut launch = Launch::start(policy);
        launch.plan(plan);
        launch.finish(Some(&identity))
    };
    assert_eq!(refused(&good, policy), None);
    assert_eq!(refused(&plan(bytes, 1), policy), Some(SevError::BadMeasurement));
    assert_eq!(refused(&plan(uki_of(9000), 2), policy), Some(SevError::BadMeasurement));
    assert_eq!(refused(&good, GuestPolicy(policy.0 | 1)), Some(SevError::PolicyFailure));
}
