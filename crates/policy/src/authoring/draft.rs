// SPDX-License-Identifier: Apache-2.0
//! A policy that admits one guest on platforms like a given one.

use cvmm_attest::claims::Product;
use cvmm_snp::digest::Digest;
use cvmm_snp::policy::GuestPolicy;
use cvmm_snp::tcb::TcbParts;
use thiserror::Error;

use crate::guest::{GuestBit, unproven};

/// A platform that guests are to run on.
#[derive(Clone, Copy, Debug)]
pub struct Platform {
    /// The product.
    pub product: Product,
    /// The minimum TCB.
    pub tcb: TcbParts,
}

/// The guest that a policy is written for.
#[derive(Clone, Debug)]
pub struct GuestDescription<'a> {
    /// Its name, for a comment.
    pub name: &'a str,
    /// How many vCPUs it has, for a comment.
    pub vcpus: u32,
    /// Whether it is an SNP guest.
    pub snp: bool,
    /// The guest policy that it is launched with.
    pub policy: GuestPolicy,
    /// The boot profile.
    pub profile: &'static str,
    /// The debug knobs that are not at their default.
    pub debug_knobs: Vec<String>,
    /// Whether its reports are signed with a VLEK only.
    pub vlek_only: bool,
    /// Whether the security processor may correct its CPUID values.
    pub cpuid_corrections: bool,
    /// Whose programs its firmware starts; `None` if it starts any.
    pub secure_boot: Option<Signers>,
}

/// Who may sign what a guest boots: its db.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signers {
    /// Holders of keys that the owner has chosen one by one.
    Own,
    /// Microsoft for others' programs, and so every distribution.
    Microsoft,
}

/// A guest that no policy admits without an `unsafe_` key, which only people write.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DraftError {
    /// Not an SNP guest.
    #[error(
        "isolation = \"none\": the host can read this guest, and a gate refuses it (a policy could say unsafe_isolation_none)"
    )]
    Isolation,
    /// Debugging.
    #[error(
        "snp.policy has bit 19 (DEBUG): the host can read this guest, and a gate refuses it (a policy could say unsafe_allow_debug)"
    )]
    Debug,
    /// A migration agent.
    #[error(
        "snp.policy has bit 18 (MIGRATE_MA), and a gate refuses it (a policy could say unsafe_allow_migration_agent)"
    )]
    MigrationAgent,
}

impl Signers {
    /// What a digest with such a db in it says of a guest that boots from a disk.
    fn meaning(self) -> &'static str {
        match self {
            Self::Own => {
                "# Proven by the digest: Secure Boot with the keys of vm.toml. Whatever is signed by a key in db boots, old versions\n\
                 # included, from a disk that the host chooses: sign only images that check their own file systems, and put what is\n\
                 # outdated into dbx (docs/guide/secure-boot.md).\n"
            }
            Self::Microsoft => {
                "# Proven by the digest: Secure Boot with the keys of vm.toml, among them Microsoft's for others' programs. So every\n\
                 # distribution that has a signed shim boots, with any configuration, from a disk that the host chooses. It keeps out\n\
                 # unsigned kernels, and proves nothing about the system that runs. The strong setting is a db with a key of your own\n\
                 # and a signed unified kernel image (docs/guide/secure-boot.md).\n"
            }
        }
    }
}

impl GuestDescription<'_> {
    /// Refuses a guest that no policy admits without an `unsafe_` key.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), DraftError> {
        if !self.snp {
            return Err(DraftError::Isolation);
        }
        if self.policy.has(GuestPolicy::DEBUG) {
            return Err(DraftError::Debug);
        }
        if self.policy.has(GuestPolicy::MIGRATE_MA) {
            return Err(DraftError::MigrationAgent);
        }
        Ok(())
    }
}

/// The text of the policy `id` for a guest with this launch digest. It admits that guest and no other.
///
/// # Errors
/// As [`GuestDescription::check`].
pub fn draft(
    id: &str,
    guest: &GuestDescription<'_>,
    digest: Digest,
    platform: &Platform,
) -> Result<String, DraftError> {
    guest.check()?;
    let GuestDescription {
        name,
        vcpus,
        snp: _,
        policy: guest_policy,
        profile,
        debug_knobs,
        vlek_only,
        cpuid_corrections,
        secure_boot,
    } = guest;
    let Platform { product, tcb } = platform;
    let TcbParts { fmc, bootloader, tee, snp, microcode } = tcb;
    let warning = match (*profile, secure_boot) {
        ("disk", Some(signers)) => signers.meaning().to_owned(),
        _ => unproven(profile).map_or(String::new(), |warning| {
            format!("# Not proven, {warning} (docs/internals/threat-model.md).\n")
        }),
    };
    // What the guest does not use is forbidden, what protects it is required.
    let names = |bits: &[(GuestBit, &'static str)], set: bool| {
        let found = bits.iter().filter(|(bit, _)| guest_policy.has(bit.mask()) == set);
        found.map(|(_, name)| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
    };
    let forbid = names(&[(GuestBit::Smt, "smt"), (GuestBit::CxlAllowed, "cxl-allowed")], false);
    let require = names(
        &[
            (GuestBit::SingleSocket, "single-socket"),
            (GuestBit::Aes256Xts, "aes-256-xts"),
            (GuestBit::RaplDisabled, "rapl-disabled"),
            (GuestBit::CiphertextHiding, "ciphertext-hiding"),
            (GuestBit::PageSwapDisabled, "page-swap-disabled"),
        ],
        true,
    );
    let mut lines = format!("forbid = [{forbid}]\n");
    if !require.is_empty() {
        lines += &format!("require = [{require}]\n");
    }
    let knobs: Vec<String> = debug_knobs.iter().map(|knob| format!("\"{knob}\"")).collect();
    if !knobs.is_empty() {
        lines += &format!(
            "# For development: this guest is not what runs elsewhere.\ndebug_knobs = [{}]\n",
            knobs.join(", ")
        );
    }
    if *vlek_only {
        lines += "vlek_only = true\n";
    }
    if *cpuid_corrections {
        lines += "cpuid_corrections = true\n";
    }
    let fmc = fmc.map_or(String::new(), |fmc| format!("fmc = {fmc}\n"));
    Ok(format!(
        "# Admits one guest. All keys: docs/guide/policy.md. Give each change a higher version, and sign it: cvmm-gate policy sign\n\
         id = \"{id}\"\n\
         version = 1\n\
         \n\
         [guest]\n\
         {warning}profiles = [\"{profile}\"]\n\
         # vm.toml: {name}, {vcpus} vCPUs\n\
         measurements = [\"{digest}\"]\n\
         {lines}\
         \n\
         [platform]\n\
         products = [\"{product}\"]\n\
         # \"require\" needs AMD's revocation list in the gate's certificate store as soon as there are reports.\n\
         crl = \"require\"\n\
         \n\
         [platform.min_tcb.{product}]\n\
         {fmc}bootloader = {bootloader}\n\
         tee = {tee}\n\
         snp = {snp}\n\
         microcode = {microcode}\n",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    const PLATFORM: Platform = Platform {
        product: Product::Milan,
        tcb: TcbParts { fmc: None, bootloader: 4, tee: 0, snp: 22, microcode: 213 },
    };

    fn guest() -> GuestDescription<'static> {
        GuestDescription {
            name: "web",
            vcpus: 2,
            snp: true,
            policy: GuestPolicy(0x3_0000),
            profile: "uki",
            debug_knobs: Vec::new(),
            vlek_only: false,
            cpuid_corrections: false,
            secure_boot: None,
        }
    }

    #[test]
    fn a_draft_says_what_a_db_means() {
        let text = |profile, secure_boot| {
            let guest = GuestDescription { profile, secure_boot, ..guest() };
            let text = draft("p", &guest, Digest([7; 48]), &PLATFORM).unwrap();
            Policy::parse(&text).unwrap();
            text
        };
        assert!(
            text("disk", Some(Signers::Microsoft))
                .contains("every\n# distribution that has a signed shim boots")
        );
        assert!(text("disk", Some(Signers::Own)).contains("signed by a key in db boots"));
        // The digest has the image itself.
        assert!(!text("uki", Some(Signers::Own)).contains("Secure Boot"));
        assert!(!text("disk", None).contains("Secure Boot"));
    }

    #[test]
    fn a_draft_is_a_policy_without_warnings_for_one_guest() {
        let digest = Digest([7; 48]);
        let text = draft("p", &guest(), digest, &PLATFORM).unwrap();
        let policy = Policy::parse(&text).unwrap();
        assert_eq!((policy.id.as_str(), policy.version), ("p", 1));
        assert_eq!((policy.guest.measurements.clone(), policy.warnings()), (vec![digest], vec![]));
        assert_eq!(policy.guest.profiles, ["uki"]);
    }

    #[test]
    fn a_guest_that_the_host_can_read_gets_no_policy() {
        let refused =
            |guest: GuestDescription<'_>| draft("p", &guest, Digest([7; 48]), &PLATFORM).unwrap_err();
        assert_eq!(refused(GuestDescription { snp: false, ..guest() }), DraftError::Isolation);
        let with = |bit: u64| GuestDescription { policy: GuestPolicy(0x3_0000 | bit), ..guest() };
        assert_eq!(refused(with(GuestPolicy::DEBUG)), DraftError::Debug);
        assert_eq!(refused(with(GuestPolicy::MIGRATE_MA)), DraftError::MigrationAgent);
    }
}
