// SPDX-License-Identifier: Apache-2.0
//! The facts, as they were read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::cpuid::Cpuid;
use super::kvm::{self, KvmFacts};
use super::parse;
use super::platform::{self, Platform};
use super::reading::{Host, Reading, Unread, Why};

/// Parameters of kvm_amd that are read, all under [`PARAMETERS`].
pub const KVM_PARAMETERS: [&str; 5] = ["sev", "sev_es", "sev_snp", "npt", "ciphertext_hiding_asids"];
pub const PARAMETERS: &str = "/sys/module/kvm_amd/parameters";
pub const CPUS: &str = "/sys/devices/system/cpu";
pub const DMI: &str = "/sys/class/dmi/id";
pub const IOMMU_GROUPS: &str = "/sys/kernel/iommu_groups";
pub const CGROUPS: &str = "/sys/fs/cgroup";
pub const CCP_DEVICES: &str = "/sys/bus/pci/drivers/ccp";
pub const LOG: &str = "/dev/kmsg";
pub const KVM: &str = "/dev/kvm";

/// Numbers of model-specific registers. Source: AMD document 24593 (APM volume 2), appendix A.
mod msr {
    pub const SYSCFG: u64 = 0xc001_0010;
    pub const HWCR: u64 = 0xc001_0015;
    pub const RMP_BASE: u64 = 0xc001_0132;
    pub const RMP_END: u64 = 0xc001_0133;
    pub const RMP_CFG: u64 = 0xc001_0136;
}

/// Registers that place the RMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rmp {
    /// RMP_BASE.
    pub base: u64,
    /// RMP_END, not used by a segmented RMP.
    pub end: u64,
    /// RMP_CFG bit 0.
    pub segmented: bool,
}

/// A PCI device of the ccp driver: the security processor is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CcpDevice {
    /// Its address.
    pub address: String,
    /// The vendor of the board, or of the emulator.
    pub subsystem_vendor: Reading<String>,
    /// Whether transparent SME is on, if this is a security processor that reports it.
    pub tsme: Reading<String>,
}

/// ASID usage and limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asids {
    /// Number of ASIDs for SEV-ES and SNP guests.
    pub capacity: Reading<u64>,
    /// Those in use.
    pub used: Reading<u64>,
    /// The lowest limit of this process's cgroups, with its file; `None` if there is no limit.
    pub limit: Reading<Option<(String, u64)>>,
}

/// What was read from the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The processor's identification.
    pub cpuid: Cpuid,
    /// Vendors of machine and firmware, by DMI file.
    pub dmi: Vec<(&'static str, Reading<String>)>,
    /// Devices of the ccp driver.
    pub ccp: Reading<Vec<CcpDevice>>,
    /// Processors that are present.
    pub present: Reading<BTreeSet<u32>>,
    /// Processors that are online.
    pub online: Reading<BTreeSet<u32>>,
    /// Whether two threads share a core.
    pub smt: Reading<String>,
    /// SYSCFG by processor.
    pub syscfg: Reading<BTreeMap<u32, u64>>,
    /// HWCR by processor.
    pub hwcr: Reading<BTreeMap<u32, u64>>,
    /// The registers of the RMP.
    pub rmp: Reading<Rmp>,
    /// The lockdown modes.
    pub lockdown: Reading<String>,
    /// Kernel release.
    pub release: Reading<String>,
    /// The file with the kernel configuration, and the options set in it.
    pub config: Reading<(String, BTreeSet<String>)>,
    /// Kernel command line.
    pub cmdline: Reading<String>,
    /// The kernel's messages about SNP.
    pub log: Reading<Vec<String>>,
    /// Domain types by IOMMU group.
    pub iommu_groups: Reading<BTreeMap<String, Reading<String>>>,
    /// Module parameters by name.
    pub parameters: BTreeMap<&'static str, Reading<String>>,
    /// KVM's answers.
    pub kvm: Reading<KvmFacts>,
    /// Whether a launch could open the security processor.
    pub sev_device: Reading<()>,
    /// The platform status.
    pub platform: Reading<Platform>,
    /// ASIDs.
    pub asids: Asids,
    /// Memory by /proc/meminfo.
    pub memory: Reading<BTreeMap<String, u64>>,
    /// The lowest memory limit of this process's cgroups, in bytes, with its file.
    pub memory_limit: Reading<Option<(String, u64)>>,
    /// Open files: soft and hard limit.
    pub open_files: Reading<(u64, u64)>,
}

impl Facts {
    /// Reads everything below `root`.
    #[must_use]
    pub fn gather(root: &Path) -> Self {
        let host = Host(root);
        let online = host.parsed(&format!("{CPUS}/online"), parse::cpu_list);
        let (sev_device, platform) = platform::read(host, cvmm_sev_host::PATH);
        let release = host.line("/proc/sys/kernel/osrelease");
        let cgroup = host.parsed("/proc/self/cgroup", parse::cgroup);
        let limit = |file: &str, parse: &dyn Fn(&str) -> Result<Option<u64>, String>| {
            lowest_limit(host, cgroup.clone()?, file, parse)
        };
        Self {
            cpuid: Cpuid::read(),
            dmi: ["sys_vendor", "product_name", "bios_vendor"]
                .map(|file| (file, host.line(&format!("{DMI}/{file}"))))
                .into(),
            ccp: ccp_devices(host),
            present: host.parsed(&format!("{CPUS}/present"), parse::cpu_list),
            smt: host.line(&format!("{CPUS}/smt/active")),
            syscfg: per_cpu(host, &online, msr::SYSCFG),
            hwcr: per_cpu(host, &online, msr::HWCR),
            rmp: rmp(host, &online),
            online,
            lockdown: host.line("/sys/kernel/security/lockdown"),
            config: release.clone().and_then(|release| kernel_config(host, &release)),
            release,
            cmdline: host.line("/proc/cmdline"),
            log: host.kernel_log(LOG).map(|log| {
                parse::kernel_messages(&log)
                    .into_iter()
                    .filter(|line| is_relevant(line))
                    .map(str::to_owned)
                    .collect()
            }),
            iommu_groups: host.names(IOMMU_GROUPS).map(|names| {
                let domain = |name: &String| host.line(&format!("{IOMMU_GROUPS}/{name}/type"));
                names.into_iter().map(|name| (name.clone(), domain(&name))).collect()
            }),
            parameters: KVM_PARAMETERS.map(|name| (name, host.line(&format!("{PARAMETERS}/{name}")))).into(),
            kvm: kvm::read(host, KVM),
            sev_device,
            platform,
            asids: Asids {
                capacity: misc(host, "misc.capacity"),
                used: misc(host, "misc.current"),
                limit: limit("misc.max", &|text| {
                    parse::misc_value(text, "sev_es").map(|max| (max != u64::MAX).then_some(max))
                }),
            },
            memory: host.text("/proc/meminfo").map(|text| parse::meminfo(&text)),
            memory_limit: limit("memory.max", &parse::limit),
            open_files: open_files(),
        }
    }
}

/// Whether a kernel message concerns SNP.
fn is_relevant(line: &str) -> bool {
    ["SEV", "SNP", "AMD-Vi", "kvm_amd", "ccp "].iter().any(|word| line.contains(word))
}

fn misc(host: Host<'_>, file: &str) -> Reading<u64> {
    host.parsed(&format!("{CGROUPS}/{file}"), |text| parse::misc_value(text, "sev_es"))
}

/// The lowest limit of a cgroup and its ancestors. The root has none.
fn lowest_limit(
    host: Host<'_>,
    mut cgroup: Vec<String>,
    file: &str,
    parse: &dyn Fn(&str) -> Result<Option<u64>, String>,
) -> Reading<Option<(String, u64)>> {
    // This file of the root exists if the hierarchy is mounted.
    host.text(&format!("{CGROUPS}/cgroup.procs"))?;
    let mut lowest: Option<(String, u64)> = None;
    while !cgroup.is_empty() {
        let path = format!("{CGROUPS}/{}/{file}", cgroup.join("/"));
        match host.parsed(&path, parse) {
            Ok(Some(limit)) if lowest.as_ref().is_none_or(|(_, other)| limit < *other) => {
                lowest = Some((path, limit));
            }
            Ok(_) => {}
            // The controller is not enabled for this cgroup.
            Err(Unread { why: Why::Absent, .. }) => {}
            Err(unread) => return Err(unread),
        }
        cgroup.pop();
    }
    Ok(lowest)
}

fn per_cpu(host: Host<'_>, online: &Reading<BTreeSet<u32>>, msr: u64) -> Reading<BTreeMap<u32, u64>> {
    let online = online.as_ref().map_err(Clone::clone)?;
    online.iter().map(|cpu| Ok((*cpu, host.word_at(&format!("/dev/cpu/{cpu}/msr"), msr)?))).collect()
}

fn rmp(host: Host<'_>, online: &Reading<BTreeSet<u32>>) -> Reading<Rmp> {
    let online = online.as_ref().map_err(Clone::clone)?;
    let path = format!("/dev/cpu/{}/msr", online.first().copied().unwrap_or(0));
    let base = host.word_at(&path, msr::RMP_BASE)?;
    let end = host.word_at(&path, msr::RMP_END)?;
    // Processors without segmented RMPs do not have the register.
    let segmented = host.word_at(&path, msr::RMP_CFG).is_ok_and(|value| value & 1 == 1);
    Ok(Rmp { base, end, segmented })
}

fn ccp_devices(host: Host<'_>) -> Reading<Vec<CcpDevice>> {
    let names = host.names(CCP_DEVICES)?;
    // PCI addresses among the driver's own files.
    let addresses = names.into_iter().filter(|name| name.matches(':').count() == 2);
    Ok(addresses
        .map(|address| CcpDevice {
            subsystem_vendor: host.line(&format!("{CCP_DEVICES}/{address}/subsystem_vendor")),
            tsme: host.line(&format!("{CCP_DEVICES}/{address}/tsme_status")),
            address,
        })
        .collect())
}

fn kernel_config(host: Host<'_>, release: &str) -> Reading<(String, BTreeSet<String>)> {
    // First the running kernel itself, if it was built with that; then the files that came with it.
    let compressed = "/proc/config.gz";
    match host.gunzipped(compressed) {
        Err(Unread { why: Why::Absent, .. }) => {}
        read => {
            let options =
                parse::kernel_config(&read?).map_err(|reason| Unread::malformed(compressed, reason));
            return options.map(|options| (compressed.to_owned(), options));
        }
    }
    let places = [
        format!("/boot/config-{release}"),
        format!("/lib/modules/{release}/config"),
        format!("/usr/lib/kernel/config-{release}"),
    ];
    for path in &places {
        match host.parsed(path, parse::kernel_config) {
            Err(Unread { why: Why::Absent, .. }) => {}
            read => return read.map(|options| (path.clone(), options)),
        }
    }
    Err(Unread::absent(format!("{compressed} or {}", places.join(" or "))))
}

fn open_files() -> Reading<(u64, u64)> {
    let limit = getrlimit(Resource::Nofile);
    Ok((limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;

    use super::*;

    /// A folder with the files given, by their names on the host.
    fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let place = Host(folder.path()).locate(path);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(place, text).unwrap();
        }
        folder
    }

    #[test]
    fn an_empty_tree_gives_reasons_only() {
        let folder = tempfile::tempdir().unwrap();
        let facts = Facts::gather(folder.path());
        let absent = |why: &Unread| why.why == Why::Absent;
        assert!(absent(&facts.online.unwrap_err()) && absent(&facts.syscfg.unwrap_err()));
        assert!(absent(&facts.rmp.unwrap_err()) && absent(&facts.log.unwrap_err()));
        assert!(absent(&facts.kvm.unwrap_err()) && absent(&facts.platform.unwrap_err()));
        assert!(absent(&facts.asids.limit.unwrap_err()) && absent(&facts.config.unwrap_err()));
        assert!(facts.parameters.values().all(|value| absent(value.as_ref().unwrap_err())));
    }

    #[test]
    fn a_tree_is_read() {
        let folder = host(&[
            ("/sys/devices/system/cpu/online", "0-1\n"),
            ("/proc/sys/kernel/osrelease", "6.12.95+deb12-amd64\n"),
            ("/lib/modules/6.12.95+deb12-amd64/config", "CONFIG_X86_64=y\nCONFIG_KVM_AMD_SEV=y\n"),
            ("/sys/kernel/iommu_groups/0/type", "DMA\n"),
            ("/sys/module/kvm_amd/parameters/sev_snp", "Y\n"),
            ("/dev/kmsg", "6,1,0,-;usb\n6,2,0,-;SEV-SNP: RMP\n30,3,0,-;SEV-SNP: forged\n"),
            ("/proc/self/cgroup", "0::/vms/one\n"),
            ("/sys/fs/cgroup/cgroup.procs", ""),
            ("/sys/fs/cgroup/misc.capacity", "sev 410\nsev_es 99\n"),
            ("/sys/fs/cgroup/misc.current", "sev 0\nsev_es 2\n"),
            ("/sys/fs/cgroup/vms/misc.max", "sev max\nsev_es 5\n"),
            ("/sys/fs/cgroup/vms/one/misc.max", "sev max\nsev_es max\n"),
            ("/sys/fs/cgroup/vms/one/memory.max", "1073741824\n"),
            ("/sys/bus/pci/drivers/ccp/0000:00:05.0/subsystem_vendor", "0x1af4\n"),
            ("/sys/bus/pci/drivers/ccp/bind", ""),
        ]);
        // Registers of both processors. The msr driver has eight bytes at each number; in a file they
        // overlap.
        for cpu in ["0", "1"] {
            let path = folder.path().join("dev/cpu").join(cpu);
            fs::create_dir_all(&path).unwrap();
            let file = fs::File::create(path.join("msr")).unwrap();
            file.write_all_at(&(3_u64 << 23).to_le_bytes(), msr::SYSCFG).unwrap();
            file.write_all_at(&[0, 0x20, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], msr::RMP_BASE).unwrap();
        }
        let facts = Facts::gather(folder.path());
        assert_eq!(facts.syscfg.unwrap(), BTreeMap::from([(0, 3 << 23), (1, 3 << 23)]));
        assert_eq!(facts.rmp.unwrap(), Rmp { base: 0x1_0000_2000, end: 0x100_0020, segmented: true });
        assert!(facts.config.unwrap().1.contains("KVM_AMD_SEV"));
        assert_eq!(facts.iommu_groups.unwrap()["0"].as_deref(), Ok("DMA"));
        assert_eq!(facts.parameters["sev_snp"].as_deref(), Ok("Y"));
        assert_eq!(facts.log.unwrap(), ["SEV-SNP: RMP"]);
        assert_eq!((facts.asids.capacity, facts.asids.used), (Ok(99), Ok(2)));
        let limit = facts.asids.limit.unwrap().unwrap();
        assert_eq!(limit, ("/sys/fs/cgroup/vms/misc.max".to_owned(), 5));
        assert_eq!(facts.memory_limit.unwrap().unwrap().1, 1 << 30);
        let ccp = facts.ccp.unwrap();
        assert_eq!(ccp.len(), 1);
        assert_eq!(ccp[0].subsystem_vendor.as_deref(), Ok("0x1af4"));
    }

    #[test]
    fn the_running_kernel_s_own_configuration_is_read() {
        let folder =
            host(&[("/proc/sys/kernel/osrelease", "6.12\n"), ("/boot/config-6.12", "CONFIG_X86_64=y\n")]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut gzip, b"CONFIG_X86_64=y\nCONFIG_KVM_AMD_SEV=y\n").unwrap();
        fs::write(folder.path().join("proc/config.gz"), gzip.finish().unwrap()).unwrap();
        let (file, options) = Facts::gather(folder.path()).config.unwrap();
        assert_eq!((file.as_str(), options.contains("KVM_AMD_SEV")), ("/proc/config.gz", true));
        // A decompression bomb is cut, and is not a configuration.
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut gzip, &vec![0; 64 << 20]).unwrap();
        fs::write(folder.path().join("proc/config.gz"), gzip.finish().unwrap()).unwrap();
        let unread = Facts::gather(folder.path()).config.unwrap_err();
        assert!(matches!(unread.why, Why::Malformed(_)), "{unread}");
    }

    #[test]
    fn a_damaged_or_foreign_configuration_is_not_a_configuration() {
        let release = ("/proc/sys/kernel/osrelease", "6.12\n");
        let folder = host(&[release, ("/proc/config.gz", "\x1f")]);
        let unread = Facts::gather(folder.path()).config.unwrap_err();
        assert!(unread.to_string().contains("decompressed"), "{unread}");
        let folder = host(&[release, ("/boot/config-6.12", "nothing")]);
        let unread = Facts::gather(folder.path()).config.unwrap_err();
        assert!(matches!(unread.why, Why::Malformed(_)), "{unread}");
    }
}
