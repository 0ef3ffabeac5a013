// SPDX-License-Identifier: Apache-2.0
//! Parsers of the kernel's text files. Callers prefix errors with the name of the file.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

/// Highest valid processor number; Linux supports 8192 processors.
const MAX_CPU: u32 = 8191;

/// A list of processors: `0-3,8`. Source: Linux Documentation/admin-guide/cputopology.rst.
pub fn cpu_list(text: &str) -> Result<BTreeSet<u32>, String> {
    let mut cpus = BTreeSet::new();
    for range in text.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        match (first.parse::<u32>(), last.parse::<u32>()) {
            (Ok(first), Ok(last)) if first <= last && last <= MAX_CPU => cpus.extend(first..=last),
            _ => return Err(format!("\"{}\" is not a range of processors", shown(range))),
        }
    }
    if cpus.is_empty() { Err("no processor in the list".to_owned()) } else { Ok(cpus) }
}

/// A single number.
pub fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.trim().parse().map_err(|_| format!("\"{}\" is not a number", shown(text)))
}

/// A line `KEY VALUE` of a misc cgroup file; `max` means unlimited. Source:
/// Documentation/admin-guide/cgroup-v2.rst, "Misc".
pub fn misc_value(text: &str, key: &str) -> Result<u64, String> {
    let value = text.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [name, value] if name == key => Some(value),
        _ => None,
    });
    match value {
        Some("max") => Ok(u64::MAX),
        Some(value) => number(value),
        None => Err(format!("no {key} in it")),
    }
}

/// The path of this process's cgroup in the unified hierarchy; empty for the root.
pub fn cgroup(text: &str) -> Result<Vec<String>, String> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).ok_or("no unified hierarchy")?;
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    if parts.iter().any(|part| part == "..") {
        return Err("the cgroup is outside this cgroup namespace".to_owned());
    }
    Ok(parts)
}

/// A limit in bytes or `max`.
pub fn limit(text: &str) -> Result<Option<u64>, String> {
    if text.trim() == "max" { Ok(None) } else { number(text).map(Some) }
}

/// The numbers of /proc/meminfo by name; kB are converted to bytes.
pub fn meminfo(text: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let mut words = rest.split_whitespace();
        let value: u64 = words.next()?.parse().ok()?;
        let unit = if words.next() == Some("kB") { 1024 } else { 1 };
        Some((name.trim().to_owned(), value.checked_mul(unit)?))
    };
    text.lines().filter_map(line).collect()
}

/// Major and minor number of a kernel release: `6.12.95+deb12-amd64`.
pub fn release(text: &str) -> Result<(u32, u32), String> {
    let digits = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default().parse();
    let (major, rest) = text.split_once('.').unwrap_or((text, ""));
    match (major.parse(), digits(rest)) {
        (Ok(major), Ok(minor)) => Ok((major, minor)),
        _ => Err(format!("\"{}\" is not a kernel release", shown(text))),
    }
}

/// Options that are `y` or `m` in a kernel configuration, without `CONFIG_`.
pub fn kernel_config(text: &str) -> Result<BTreeSet<String>, String> {
    let options: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("CONFIG_")?.split_once('='))
        .filter(|(_, value)| matches!(*value, "y" | "m"))
        .map(|(name, _)| name.to_owned())
        .collect();
    // A truncated or unrelated file would look like a kernel without any option.
    if options.contains("X86_64") {
        Ok(options)
    } else {
        Err("not the configuration of an x86-64 kernel".to_owned())
    }
}

/// The kernel's own messages in /dev/kmsg, `PRIORITY,SEQUENCE,TIME,FLAGS;TEXT` each. Messages that programs
/// wrote into it have a facility other than 0 and are skipped, so that they cannot forge a diagnosis. Source:
/// Documentation/ABI/testing/dev-kmsg.
pub fn kernel_messages(log: &str) -> Vec<&str> {
    let message = |line| {
        let (head, text) = str::split_once(line, ';')?;
        let priority: u32 = head.split(',').next()?.parse().ok()?;
        (priority >> 3 == 0).then_some(text)
    };
    // A line that begins with a space continues the record before it and names its device.
    log.lines().filter(|line| !line.starts_with(' ')).filter_map(message).collect()
}

/// The settings of a kernel command line that SNP depends on. Later words win, as in the kernel. Source:
/// Documentation/admin-guide/kernel-parameters.txt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// The word that switches the IOMMU off.
    pub iommu_off: Option<String>,
    /// The word that disables translation of device accesses.
    pub passthrough: Option<String>,
    /// The word that selects version 2 page tables.
    pub v2_tables: Option<String>,
    /// The word that encrypts the host's own memory.
    pub host_encryption: Option<String>,
}

pub fn command_line(text: &str) -> CommandLine {
    let mut found = CommandLine::default();
    for word in text.split_whitespace() {
        // The rest is for init.
        if word == "--" {
            break;
        }
        let Some((name, values)) = word.split_once('=') else { continue };
        for value in values.split(',') {
            let this = || Some(word.to_owned());
            match (name, value) {
                ("iommu", "off") | ("amd_iommu", "off") => found.iommu_off = this(),
                ("iommu", "pt") | ("iommu.passthrough", "1" | "y" | "Y" | "on") => found.passthrough = this(),
                ("iommu", "nopt") | ("iommu.passthrough", "0" | "n" | "N" | "off") => {
                    found.passthrough = None
                }
                ("amd_iommu", "pgtbl_v2") => found.v2_tables = this(),
                ("amd_iommu", "pgtbl_v1") => found.v2_tables = None,
                ("mem_encrypt", "on") => found.host_encryption = this(),
                ("mem_encrypt", "off") => found.host_encryption = None,
                _ => {}
            }
        }
    }
    found
}

/// Shortens foreign text for a message.
fn shown(text: &str) -> String {
    text.trim().chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_kernels_files_are_understood() {
        assert_eq!(cpu_list("0-2,5\n").unwrap(), BTreeSet::from([0, 1, 2, 5]));
        for bad in ["", "\n", "1-", "3-1", "0-4294967295", "0,9000", "a", "-1"] {
            assert!(cpu_list(bad).is_err(), "{bad:?}");
        }
        assert_eq!(misc_value("sev 410\nsev_es 99\n", "sev_es"), Ok(99));
        assert_eq!(misc_value("sev max\nsev_es max\n", "sev_es"), Ok(u64::MAX));
        assert_eq!(misc_value("sev 410\n", "sev_es").unwrap_err(), "no sev_es in it");
        assert!(misc_value("sev_es x", "sev_es").is_err());
        assert_eq!(cgroup("1:cpu:/x\n0::/a/b\n").unwrap(), ["a", "b"]);
        assert_eq!(cgroup("0::/\n").unwrap(), [""; 0]);
        assert!(cgroup("0::/../x\n").is_err() && cgroup("4:misc:/\n").is_err());
        assert_eq!((limit("max\n"), limit("5")), (Ok(None), Ok(Some(5))));
        assert_eq!(release("6.12.95+deb12-amd64"), Ok((6, 12)));
        assert_eq!(release("7.2-rc1"), Ok((7, 2)));
        assert!(release("six").is_err() && release("6").is_err());
        let memory =
            meminfo("MemTotal:  10 kB\nHugePages_Total:       3\nodd\nMax: 18446744073709551615 kB\n");
        assert_eq!(memory, BTreeMap::from([("MemTotal".into(), 10_240), ("HugePages_Total".into(), 3)]));
        let config =
            kernel_config("CONFIG_X86_64=y\n# CONFIG_KVM_AMD is not set\nCONFIG_KVM=m\nCONFIG_HZ=250\n")
                .unwrap();
        assert_eq!(config, BTreeSet::from(["X86_64".to_owned(), "KVM".to_owned()]));
        assert!(kernel_config("CONFIG_KVM=y\n").is_err());
    }

    #[test]
    fn only_the_kernels_own_messages_count() {
        let log =
            "6,1,0,-;SEV-SNP: a;b\n SUBSYSTEM=pci\n14,2,5,-;SEV-SNP: forged\nnonsense\n3,3,9,c;bad\n;x\n";
        assert_eq!(kernel_messages(log), ["SEV-SNP: a;b", "bad"]);
    }

    #[test]
    fn later_words_of_the_command_line_win() {
        let line = command_line("quiet iommu=off amd_iommu=fullflush,pgtbl_v2 iommu=pt,force mem_encrypt=on");
        assert_eq!(line.iommu_off.as_deref(), Some("iommu=off"));
        assert_eq!(line.passthrough.as_deref(), Some("iommu=pt,force"));
        assert_eq!(line.v2_tables.as_deref(), Some("amd_iommu=fullflush,pgtbl_v2"));
        assert_eq!(line.host_encryption.as_deref(), Some("mem_encrypt=on"));
        let fixed = "iommu.passthrough=1 iommu=nopt amd_iommu=pgtbl_v2 amd_iommu=pgtbl_v1 -- iommu=off";
        assert_eq!(command_line(fixed), CommandLine::default());
    }

    proptest! {
        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = (number::<u64>(&text), limit(&text), cgroup(&text), command_line(&text));
            let _ = (misc_value(&text, "sev_es"), meminfo(&text), kernel_config(&text));
            for message in kernel_messages(&text) {
                prop_assert!(text.contains(message));
            }
        }

        #[test]
        fn nothing_panics_on_what_is_nearly_right(text in "[0-9a-z:;,.= /kB\n-]{0,80}") {
            let _ = (release(&text), limit(&text), cgroup(&text), command_line(&text), meminfo(&text));
            let _ = (misc_value(&text, "sev"), kernel_messages(&text));
            if let Ok(cpus) = cpu_list(&text) {
                prop_assert!(!cpus.is_empty() && cpus.iter().all(|cpu| *cpu <= MAX_CPU));
            }
        }
    }
}
