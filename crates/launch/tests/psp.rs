// SPDX-License-Identifier: Apache-2.0
//! Plans launched page by page through the software PSP: it has to compute the predicted digest, accept our
//! ID blocks only for the guests they describe, and report what was predicted.
#![allow(clippy::unwrap_used, reason = "tests")]

use cvmm_launch::blob::Blob;
use cvmm_launch::digest::measure;
use cvmm_launch::firmware::Firmware;
use cvmm_launch::id_block::{Identity, SigningKey};
use cvmm_launch::kernel::Kernel;
use cvmm_launch::memory::MemoryLayout;
use cvmm_launch::plan::{LaunchPlan, Profile};
use cvmm_launch::samples::firmware::Image;
use cvmm_launch::samples::uki_of;
use cvmm_launch::uki as uki_rules;
use cvmm_launch::vmsa::VcpuModel;
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::digest::Digest;
use cvmm_snp::features::SevFeatures;
use cvmm_snp::id::IdBlock;
use cvmm_snp::policy::GuestPolicy;
use cvmm_snp::report::{Report, VMPL_HOST};
use cvmm_snp::status::SevError;
use cvmm_test_support::psp::{Guest, Rig};
use zerocopy::{FromBytes, IntoBytes};

const MODEL: VcpuModel = VcpuModel { signature: CpuSignature(0xa0_0f11), features: SevFeatures(1) };

/// A guest in the middle of its launch.
struct Launch {
    rig: Rig,
    guest: Guest,
}

impl Launch {
    fn start(policy: GuestPolicy) -> Self {
        let mut rig = Rig::initialised("");
        let guest = rig.launching(1, policy.0);
        Self { rig, guest }
    }

    fn plan(&mut self, plan: &LaunchPlan) {
        self.rig.launch_plan(self.guest, plan, MODEL);
    }

    fn finish(&mut self, identity: Option<&Identity>) -> Option<SevError> {
        let parts = identity.map(|identity| (identity.block().as_bytes(), identity.auth().as_bytes()));
        let flags = identity.map_or(0, |identity| 1 | u64::from(identity.auth().has_author_key()) << 1);
        SevError::from_code(self.rig.finish(self.guest, parts, flags, [0xd0; 32]).0)
    }

    /// The report that the host may ask for.
    fn report(&mut self) -> Report {
        Report::read_from_bytes(&self.rig.host_report(self.guest)).unwrap()
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
    let id = key(include_bytes!("../src/id_block/golden/test-id-key.pem"));
    let author = key(include_bytes!("../src/id_block/golden/test-author-key.pem"));
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
