// SPDX-License-Identifier: Apache-2.0
//! What CPUID tells the guest.
//!
//! The base is what KVM can virtualise on this host (KVM_GET_SUPPORTED_CPUID, which includes KVM's own
//! leaves). On top of it each vCPU gets its APIC id and the topology: one socket, one core per vCPU, one
//! thread per core. For an SNP guest the table is narrowed to what the security processor lets into its CPUID
//! page, and says where the C bit is. Leaf numbers and fields are those of AMD's APM volume 3, appendix E,
//! and Intel's SDM volume 2A, CPUID.

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2 as Entry,
};
use kvm_ioctls::{Cap, Kvm};
use thiserror::Error;

/// Why CPUID could not be prepared.
#[derive(Debug, Error)]
pub enum CpuidError {
    /// KVM did not answer.
    #[error("kvm does not report its supported cpuid: {0}")]
    Supported(#[source] kvm_ioctls::Error),
    /// KVM's answer lacks a leaf.
    #[error("kvm's supported cpuid has no leaf {0:#x}")]
    MissingLeaf(u32),
    /// The table grew past what KVM accepts.
    #[error("cpuid table has {0} entries, kvm accepts {KVM_MAX_CPUID_ENTRIES}")]
    TooManyEntries(usize),
}

/// What may differ from VM to VM.
#[derive(Clone, Copy, Debug)]
pub struct CpuidOptions {
    /// Number of vCPUs, 1 to 64.
    pub vcpus: u32,
    /// Whether the guest sees memory type range registers. They have no effect on its memory, but Linux
    /// before 6.3 has no PAT without them. KVM keeps them: an access is an exit to the kernel and not to
    /// cvmm.
    pub mtrr: bool,
    /// Whether the guest is an SNP guest.
    pub snp: bool,
}

/// The table all vCPUs share, before [`CpuidBase::for_vcpu`] adds what is theirs.
#[derive(Clone, Debug)]
pub struct CpuidBase {
    entries: Vec<Entry>,
    options: CpuidOptions,
    signature: u32,
    physical_bits: u8,
}

mod leaf1_ecx {
    pub const X2APIC: u32 = 1 << 21;
    pub const TSC_DEADLINE: u32 = 1 << 24;
    pub const HYPERVISOR: u32 = 1 << 31;
}
/// 7.0 EBX and EDX: what KVM emulates without the processor, or what makes no sense to a guest whose MSRs are
/// sealed. QEMU hides the same (target/i386/sev.c, 10.0).
mod leaf7 {
    pub const EBX_TSC_ADJUST: u32 = 1 << 1;
    /// SPEC_CTRL, STIBP, FLUSH_L1D, ARCH_CAPABILITIES, CORE_CAPABILITIES, SSBD.
    pub const EDX_SPECULATION: u32 = 0x3f << 26;
}
/// 0x80000008 EBX.
const VIRT_SSBD: u32 = 1 << 25;
/// 0x8000001f EAX: SEV, SEV-ES, SEV-SNP.
const SEV_FEATURES: u32 = 1 << 1 | 1 << 3 | 1 << 4;
mod leaf1_edx {
    pub const MTRR: u32 = 1 << 12;
    pub const HTT: u32 = 1 << 28;
}
/// 0x80000001 ECX.
mod amd_ecx {
    pub const CMP_LEGACY: u32 = 1 << 1;
    pub const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
    /// PerfCtrExtCore, PerfCtrExtNB, PerfTsc, PerfCtrExtLLC.
    pub const PERFORMANCE_COUNTERS: u32 = 1 << 23 | 1 << 24 | 1 << 27 | 1 << 28;
}

impl CpuidBase {
    /// Reads what `kvm` supports and narrows it to what cvmm offers.
    pub fn new(kvm: &Kvm, options: CpuidOptions) -> Result<Self, CpuidError> {
        let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(CpuidError::Supported)?;
        let deadline = kvm.check_extension(Cap::TscDeadlineTimer);
        Self::from_supported(supported.as_slice(), options, deadline)
    }

    fn from_supported(
        supported: &[Entry],
        options: CpuidOptions,
        tsc_deadline: bool,
    ) -> Result<Self, CpuidError> {
        let mut entries: Vec<Entry> = supported
            .iter()
            // Topology leaves are written below; performance monitoring is not offered, and neither is
            // memory encryption (0x8000001f): a guest without SNP must not look for it.
            .filter(|entry| {
                !matches!(entry.function, 0xb | 0x1f | 0x8000_001e | 0x8000_001f | 0x8000_0022 | 0x8000_0026)
            })
            .copied()
            .collect();
        let bits = apic_id_bits(options.vcpus);
        let cores = options.vcpus;
        let mut signature = None;
        let mut physical_bits = 36;
        for entry in &mut entries {
            match entry.function {
                1 => {
                    entry.ecx |= leaf1_ecx::HYPERVISOR | leaf1_ecx::X2APIC;
                    set_bit(&mut entry.ecx, leaf1_ecx::TSC_DEADLINE, tsc_deadline && !options.snp);
                    set_bit(&mut entry.edx, leaf1_edx::HTT, cores > 1);
                    set_bit(&mut entry.edx, leaf1_edx::MTRR, options.mtrr);
                    signature = Some(entry.eax);
                }
                // Deterministic cache parameters: private caches, the last level shared by all cores.
                4 | 0x8000_001d if entry.eax & 0x1f != 0 => {
                    let level = entry.eax >> 5 & 7;
                    let sharing = if level >= 3 { cores } else { 1 };
                    entry.eax = entry.eax & 0x3fff | (sharing - 1) << 14;
                    if entry.function == 4 {
                        entry.eax |= (cores.min(64) - 1) << 26;
                    }
                }
                7 if options.snp && entry.index == 0 => {
                    entry.ebx &= !leaf7::EBX_TSC_ADJUST;
                    entry.edx &= !leaf7::EDX_SPECULATION;
                }
                0xa => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
                0x8000_0001 => {
                    entry.ecx &= !amd_ecx::PERFORMANCE_COUNTERS;
                    let amd = entry.ecx & amd_ecx::TOPOLOGY_EXTENSIONS != 0;
                    set_bit(&mut entry.ecx, amd_ecx::CMP_LEGACY, amd && cores > 1);
                }
                0x8000_0008 => {
                    physical_bits = entry.eax as u8;
                    entry.ecx = bits << 12 | (cores - 1);
                    if options.snp {
                        entry.ebx &= !VIRT_SSBD;
                    }
                }
                _ => {}
            }
        }
        if options.snp {
            entries.push(memory_encryption(supported)?);
            // A table for the security processor has 64 entries; empty ones say nothing that their absence
            // does not.
            entries.retain(|entry| {
                entry.function <= 1 || [entry.eax, entry.ebx, entry.ecx, entry.edx] != [0; 4]
            });
        }
        let signature = signature.ok_or(CpuidError::MissingLeaf(1))?;
        Ok(Self { entries, options, signature, physical_bits })
    }

    /// CPUID.1:EAX: family, model and stepping. RDX holds it at reset.
    pub fn signature(&self) -> u32 {
        self.signature
    }

    /// Width of guest physical addresses in bits.
    pub fn physical_bits(&self) -> u8 {
        self.physical_bits
    }

    /// The table of the vCPU with APIC id `id`.
    pub fn for_vcpu(&self, id: u32) -> Result<CpuId, CpuidError> {
        let mut entries = self.entries.clone();
        let cores = self.options.vcpus;
        let mut topology_extensions = false;
        for entry in &mut entries {
            match entry.function {
                1 => entry.ebx = entry.ebx & 0xffff | cores.min(255) << 16 | (id & 0xff) << 24,
                0x8000_0001 => topology_extensions = entry.ecx & amd_ecx::TOPOLOGY_EXTENSIONS != 0,
                _ => {}
            }
        }
        entries.extend(extended_topology(id, cores));
        if topology_extensions {
            entries.push(Entry { function: 0x8000_001e, eax: id, ebx: id & 0xff, ..Default::default() });
        }
        entries.sort_by_key(|entry| (entry.function, entry.index));
        CpuId::from_entries(&entries).map_err(|_| CpuidError::TooManyEntries(entries.len()))
    }
}

/// Leaf 0x8000001f: an SNP guest, the C bit where the processor has it, one physical address bit less for it.
fn memory_encryption(supported: &[Entry]) -> Result<Entry, CpuidError> {
    const LEAF: u32 = 0x8000_001f;
    let host = supported.iter().find(|entry| entry.function == LEAF).ok_or(CpuidError::MissingLeaf(LEAF))?;
    Ok(Entry { function: LEAF, eax: SEV_FEATURES, ebx: host.ebx & 0x3f | 1 << 6, ..Default::default() })
}

/// Leaf 0xb: a thread level with one thread, a core level with all of them, and the terminator.
fn extended_topology(id: u32, cores: u32) -> [Entry; 3] {
    const THREAD: u32 = 1;
    const CORE: u32 = 2;
    let level = |index: u32, kind: u32, shift: u32, count: u32| Entry {
        function: 0xb,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: kind << 8 | index,
        edx: id,
        ..Default::default()
    };
    [level(0, THREAD, 0, 1), level(1, CORE, apic_id_bits(cores), cores), level(2, 0, 0, 0)]
}

/// Number of bits that hold the ids 0 to `vcpus` - 1.
fn apic_id_bits(vcpus: u32) -> u32 {
    vcpus.next_power_of_two().trailing_zeros()
}

fn set_bit(register: &mut u32, bit: u32, on: bool) {
    if on { *register |= bit } else { *register &= !bit }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32, eax: u32, ebx: u32, ecx: u32, edx: u32) -> Entry {
        Entry { function, index, eax, ebx, ecx, edx, ..Default::default() }
    }

    fn base(vcpus: u32, mtrr: bool) -> CpuidBase {
        let supported = [
            leaf(0, 0, 0x10, 0, 0, 0),
            leaf(1, 0, 0xa0_0f11, 0xffff_0800, 0, leaf1_edx::MTRR),
            leaf(0xb, 0, 7, 7, 7, 7),
            leaf(0x4000_0000, 0, 0x4000_0001, 0, 0, 0),
            leaf(0x8000_0001, 0, 0, 0, amd_ecx::TOPOLOGY_EXTENSIONS | amd_ecx::PERFORMANCE_COUNTERS, 0),
            leaf(0x8000_0008, 0, 0x3028, 0, 0, 0),
            leaf(0x8000_001d, 0, 0x121, 0, 0, 0),
            leaf(0x8000_001d, 3, 0x163, 0, 0, 0),
            leaf(0x8000_001f, 0, 0x1a, 51, 0, 0),
        ];
        CpuidBase::from_supported(&supported, CpuidOptions { vcpus, mtrr, snp: false }, true).unwrap()
    }

    fn find(cpuid: &CpuId, function: u32, index: u32) -> Option<Entry> {
        cpuid.as_slice().iter().find(|e| e.function == function && e.index == index).copied()
    }

    #[test]
    fn each_vcpu_finds_its_id_in_every_leaf() {
        let base = base(4, false);
        for id in 0..4 {
            let cpuid = base.for_vcpu(id).unwrap();
            let one = find(&cpuid, 1, 0).unwrap();
            assert_eq!(one.ebx, id << 24 | 4 << 16 | 0x0800);
            assert_ne!(one.ecx & leaf1_ecx::HYPERVISOR, 0);
            assert_ne!(one.ecx & leaf1_ecx::TSC_DEADLINE, 0);
            assert_ne!(one.edx & leaf1_edx::HTT, 0);
            assert_eq!(one.edx & leaf1_edx::MTRR, 0);
            let core = find(&cpuid, 0xb, 1).unwrap();
            assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (2, 4, 0x201, id));
            assert_eq!(find(&cpuid, 0x8000_001e, 0).map(|e| (e.eax, e.ebx)), Some((id, id)));
        }
    }

    #[test]
    fn an_snp_guest_is_told_the_c_bit_and_nothing_kvm_makes_up() {
        let supported = [
            leaf(1, 0, 0xa0_0f11, 0, leaf1_ecx::TSC_DEADLINE, 0),
            leaf(7, 0, 0, u32::MAX, 0, u32::MAX),
            leaf(0x12, 0, 0, 0, 0, 0),
            leaf(0x8000_0008, 0, 0x3028, u32::MAX, 0, 0),
            leaf(0x8000_001f, 0, 0x43a, 0x4033, 99, 100),
        ];
        let options = CpuidOptions { vcpus: 2, mtrr: false, snp: true };
        let base = CpuidBase::from_supported(&supported, options, true).unwrap();
        let cpuid = base.for_vcpu(1).unwrap();
        assert_eq!(find(&cpuid, 1, 0).unwrap().ecx & leaf1_ecx::TSC_DEADLINE, 0);
        let seven = find(&cpuid, 7, 0).unwrap();
        assert_eq!((seven.ebx, seven.edx), (!2, u32::MAX >> 6));
        assert!(find(&cpuid, 0x12, 0).is_none(), "an empty leaf");
        assert_eq!(find(&cpuid, 0x8000_0008, 0).unwrap().ebx, !VIRT_SSBD);
        let encryption = find(&cpuid, 0x8000_001f, 0).unwrap();
        assert_eq!((encryption.eax, encryption.ebx, encryption.ecx, encryption.edx), (0x1a, 0x73, 0, 0));
        let without = &supported[..4];
        assert!(matches!(
            CpuidBase::from_supported(without, options, true),
            Err(CpuidError::MissingLeaf(0x8000_001f))
        ));
    }

    #[test]
    fn one_vcpu_has_no_siblings() {
        let cpuid = base(1, true).for_vcpu(0).unwrap();
        let one = find(&cpuid, 1, 0).unwrap();
        assert_eq!(one.edx & leaf1_edx::HTT, 0);
        assert_ne!(one.edx & leaf1_edx::MTRR, 0);
        let core = find(&cpuid, 0xb, 1).unwrap();
        assert_eq!((core.eax, core.ebx), (0, 1));
        assert_eq!(find(&cpuid, 0x8000_0008, 0).map(|e| e.ecx), Some(0));
    }

    #[test]
    fn hides_what_is_not_offered() {
        let base = base(6, false);
        let cpuid = base.for_vcpu(5).unwrap();
        assert!(find(&cpuid, 0x8000_001f, 0).is_none());
        let features = find(&cpuid, 0x8000_0001, 0).unwrap();
        assert_eq!(features.ecx & amd_ecx::PERFORMANCE_COUNTERS, 0);
        assert_ne!(features.ecx & amd_ecx::CMP_LEGACY, 0);
        // First level is private, third level shared by all six.
        assert_eq!(find(&cpuid, 0x8000_001d, 0).map(|e| e.eax >> 14), Some(0));
        assert_eq!(find(&cpuid, 0x8000_001d, 3).map(|e| e.eax >> 14), Some(5));
        assert_eq!(find(&cpuid, 0x8000_0008, 0).map(|e| e.ecx), Some(3 << 12 | 5));
        assert_eq!((base.signature(), base.physical_bits()), (0xa0_0f11, 0x28));
    }
}
