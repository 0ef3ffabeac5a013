// SPDX-License-Identifier: Apache-2.0
//! A gate in a temporary folder: a firmware image of a page, a guest that is launched from it, and a policy
//! that admits it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use cvmm_gate::config::Config;
use cvmm_gate::keys::Signer;
use cvmm_gate::store::admissions::Admission;
use cvmm_gate::store::artifacts::{self, Artifacts};
use cvmm_gate::{policies, setup};
use cvmm_gate_client::client::{self, HostEvidence, Proposal};
use cvmm_gate_protocol::manifest::{Boot, FORMAT, FileDigest, FirstStage, Launch, Machine, Manifest};
use cvmm_gate_protocol::messages::{GuestChannel, PROTOCOL, Request};
use cvmm_gate_protocol::ticket::VerdictKey;
use cvmm_launch::first_stage::program_digest;
use cvmm_launch::samples::firmware::Image;
use cvmm_snp::digest::Digest;
use tempfile::TempDir;

/// The folder, and the guest that its policy admits.
pub struct TestGate {
    /// Configuration, keys, policies, state.
    pub folder: TempDir,
    /// The guest's manifest, for a VM named `vm`.
    pub manifest: Manifest,
    /// Its launch digest.
    pub digest: Digest,
}

/// The GUID under which Linux looks for the passphrase of a disk.
pub const DISK: &str = "736869e5-84f0-4973-92ec-06879ce3da0b";
/// The `[release]` of [`TestGate::policy`].
pub const RELEASE: &str = "secrets = [\"736869e5-84f0-4973-92ec-06879ce3da0b\"]\nresources = [\"default\"]";

/// Where the secrets page of [`firmware`] lies.
pub const SECRETS: u32 = 0x80_d000;

/// A page with the tables of a build for SNP guests.
pub fn firmware() -> Vec<u8> {
    Image { size: 0x1000, ..Image::amdsev() }.bytes()
}

/// The same behind padding, where a first stage can lie.
pub fn padded_firmware() -> Vec<u8> {
    let mut image = vec![0xff; (4 << 20) - 0x1000];
    image.extend(firmware());
    image
}

/// SNP_PLATFORM_STATUS of firmware 1.55.21 at the TCB that [`TestGate::policy`] asks for.
pub fn platform_status() -> Vec<u8> {
    let mut status = vec![0; 32];
    for (at, byte) in [(0, 1), (1, 55), (2, 1), (4, 21), (24, 4), (30, 22), (31, 213)] {
        status[at] = byte;
    }
    status
}

/// The VMM's evidence of a launch on such a platform.
pub fn launched() -> HostEvidence {
    HostEvidence { platform_status: platform_status(), ..HostEvidence::default() }
}

impl TestGate {
    /// With these limits (`[limits]` of gate.toml) and policy 1 signed.
    pub fn new(limits: &str) -> Self {
        Self::with("", limits)
    }

    /// The same, with `more` at the top of gate.toml.
    pub fn with(more: &str, limits: &str) -> Self {
        Self::make(more, limits, false)
    }

    /// With `more` at the top of gate.toml, and a guest that has a first stage.
    pub fn staged(more: &str) -> Self {
        Self::make(more, "", true)
    }

    fn make(more: &str, limits: &str, staged: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        setup::init(folder.path()).unwrap();
        let path = folder.path().join("gate.toml");
        let text = fs::read_to_string(&path).unwrap();
        // Tests may run as root.
        fs::write(&path, format!("unsafe_run_as_root = true\n{more}\n{text}\n[limits]\n{limits}\n")).unwrap();
        let config = Config::load(&path).unwrap();
        let image = folder.path().join("firmware");
        let content = if staged { padded_firmware() } else { firmware() };
        let len = content.len() as u64;
        fs::write(&image, content).unwrap();
        let sha384 = artifacts::import(&config.artifacts, &image).unwrap().to_string();
        let manifest = Manifest {
            format: FORMAT,
            vm_id: "vm".into(),
            isolation: "snp".into(),
            launch: Launch {
                firmware: FileDigest { sha384, len },
                boot: Boot::Disk,
                vcpus: 2,
                memory: 512 << 20,
                low_memory: 256 << 20,
                cpu_signature: 0xa0_0f11,
                sev_features: 1,
                policy: 0x3_0000,
                first_stage: staged.then(|| FirstStage { program: program_digest().to_string() }),
                secure_boot: None,
                loader: None,
            },
            machine: Machine {
                vmm: "0".into(),
                disks: vec![],
                console: "serial".into(),
                rng: true,
                vlek_only: false,
                cpuid_corrections: false,
                vtpm: None,
                debug: vec![],
            },
        };
        let key = Signer::load(&config.keys.join("verdict.pem")).unwrap().public().unwrap();
        let digest = Artifacts::new(&config.artifacts, &key).digest("own", &manifest.launch).unwrap();
        let gate = Self { folder, manifest, digest };
        gate.policy(1, &digest.to_string());
        gate
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// gate.toml, parsed.
    pub fn config(&self) -> Config {
        Config::load(&self.path("gate.toml")).unwrap()
    }

    /// A client of the gate's Unix socket.
    pub fn client(&self) -> client::Gate {
        let key = fs::read_to_string(self.path("keys/verdict.pem.pub")).unwrap();
        let key = VerdictKey::from_pem(&key).unwrap();
        client::Gate { endpoint: self.path("gate.sock").into(), key, timeout: Duration::from_secs(20) }
    }

    /// Signs a policy that admits `digest`.
    pub fn policy(&self, version: u64, digest: &str) {
        self.policy_with(version, digest, "");
    }

    /// The same, with `more` at its top.
    pub fn policy_with(&self, version: u64, digest: &str, more: &str) {
        self.sign_policy("p", version, digest, more, RELEASE);
    }

    /// Signs policy `id`, with `more` at its top and `release` in its `[release]`.
    pub fn sign_policy(&self, id: &str, version: u64, digest: &str, more: &str, release: &str) {
        let path = self.path(&format!("policies/{id}.toml"));
        let text = format!(
            "id = \"{id}\"\nversion = {version}\n{more}\n[guest]\nmeasurements = [\"{digest}\"]\nprofiles = [\"disk\"]\nmax_vcpus = 4\n\
             [platform]\nproducts = [\"milan\"]\ncrl = \"if-present\"\n\
             [platform.min_tcb.milan]\nbootloader = 4\ntee = 0\nsnp = 22\nmicrocode = 213\n[release]\n{release}\n"
        );
        fs::write(&path, text).unwrap();
        policies::sign(&path, &Signer::load(&self.path("keys/policy.pem")).unwrap()).unwrap();
    }

    /// Stores a secret for guests of this policy and name; the path of its file.
    pub fn secret(&self, policy: &str, vm_id: &str, content: &str) -> PathBuf {
        let folder = self.path(&format!("secrets/{policy}/{vm_id}"));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(DISK);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// The request that opens a channel for the guest of the VM's latest admission under policy p.
    pub fn channel(&self, vm_id: &str) -> Request {
        let record = fs::read(self.path(&format!("state/vms/{vm_id}@p.json"))).unwrap();
        let record: Admission = serde_json::from_slice(&record).unwrap();
        let (policy, vm_id) = ("p".into(), vm_id.into());
        Request::GuestChannel(GuestChannel { protocol: PROTOCOL, policy, vm_id, launch: record.session })
    }

    /// A launch of the guest under this name, by policy p.
    pub fn proposal(&self, vm_id: &str) -> Proposal {
        let manifest = Manifest { vm_id: vm_id.into(), ..self.manifest.clone() };
        Proposal {
            policy: "p".into(),
            vm_id: vm_id.into(),
            manifest: serde_json::to_string(&manifest).unwrap(),
            digest: self.digest,
        }
    }
}
