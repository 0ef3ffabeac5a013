// SPDX-License-Identifier: Apache-2.0
//! Commented example files, one per boot profile: what `cvmm config example` prints.
//!
//! Put together from the tables' own sections, so that the profiles differ only where they must; a test
//! parses each of them.

use super::profile::Profile;
use super::vm::{self, TABLES};

/// An example `vm.toml` for the profile, with every key, the optional ones as comments: an SNP guest that a
/// gate admits.
#[must_use]
pub fn example(profile: Profile) -> String {
    let tables = TABLES.iter().map(|table| (table.example)(profile));
    let sections = std::iter::once(vm::example(profile)).chain(tables);
    sections.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::tests::schema_keys;
    use super::super::{Checks, Config, ConfigError, Isolation};
    use super::*;

    const PROFILES: [Profile; 3] = [Profile::Uki, Profile::Hashes, Profile::Disk];

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse("vm.toml", text, Path::new("/base"), Checks::OFFLINE)
    }

    /// The key of a line, and whether it is a comment.
    fn key(line: &str) -> Option<(&str, bool)> {
        let (text, commented) = line.strip_prefix("# ").map_or((line, false), |text| (text, true));
        let (key, _) = text.split_once(" = ")?;
        let word = key.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase());
        word.then_some((key, commented))
    }

    /// The table that a line begins.
    fn table(line: &str) -> Option<&str> {
        let text = line.strip_prefix("# ").unwrap_or(line);
        let name = text.trim_start_matches('[').trim_end_matches(']');
        (text.starts_with('[') && text.ends_with(']') && !name.contains(' ')).then_some(name)
    }

    /// The keys of an example with dots, and whether each is a comment.
    fn keys(text: &str) -> Vec<(String, bool)> {
        let mut prefix = String::new();
        let mut keys = Vec::new();
        for line in text.lines() {
            if let Some(name) = table(line) {
                prefix = format!("{name}.");
            } else if let Some((name, commented)) = key(line) {
                keys.push((format!("{prefix}{name}"), commented));
            }
        }
        keys
    }

    /// The example with the comment signs before the keys of `tables` removed, but for those in `without`.
    fn switched_on(text: &str, without: &[&str]) -> String {
        let mut prefix = String::new();
        let mut lines = Vec::new();
        for line in text.lines() {
            if let Some(name) = table(line) {
                prefix = format!("{name}.");
                lines.push(line.trim_start_matches("# "));
            } else if let Some((name, _)) = key(line) {
                let left_out = without.contains(&format!("{prefix}{name}").as_str());
                lines.push(if left_out { "" } else { line.trim_start_matches("# ") });
            } else {
                lines.push(line);
            }
        }
        lines.join("\n")
    }

    #[test]
    fn an_igvm_file_needs_neither_firmware_nor_gate() {
        let config = parse(&example(Profile::Igvm)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((config.isolation, config.first_stage, config.gate), (Isolation::Snp, false, None));
        let crate::config::Boot::Igvm { igvm, cmdline } = config.boot else { panic!("{:?}", config.boot) };
        assert_eq!((igvm.as_path(), cmdline.as_str()), (Path::new("/base/guest.igvm"), ""));
    }

    #[test]
    fn every_key_of_the_schema_is_in_the_example() {
        for profile in PROFILES {
            let text = example(profile);
            let found = keys(&text);
            for wanted in schema_keys() {
                let other = match profile {
                    Profile::Uki => {
                        ["boot.kernel", "boot.initrd", "boot.igvm", "boot.cmdline", "boot.loader"].as_slice()
                    }
                    Profile::Hashes => &[
                        "boot.uki",
                        "boot.igvm",
                        "boot.loader",
                        "secure_boot.pk",
                        "secure_boot.kek",
                        "secure_boot.db",
                        "secure_boot.dbx",
                    ],
                    Profile::Disk => &["boot.uki", "boot.kernel", "boot.initrd", "boot.igvm", "boot.cmdline"],
                    Profile::Igvm => &[
                        "boot.uki",
                        "boot.kernel",
                        "boot.initrd",
                        "boot.igvm",
                        "boot.cmdline",
                        "boot.loader",
                        "boot.first_stage",
                        "secure_boot.pk",
                        "secure_boot.kek",
                        "secure_boot.db",
                        "secure_boot.dbx",
                    ],
                };
                let times = found.iter().filter(|(key, _)| *key == wanted).count();
                assert_eq!(times, usize::from(!other.contains(&wanted.as_str())), "{profile}: {wanted}");
            }
            let all = schema_keys();
            assert!(found.iter().all(|(key, _)| all.contains(key)), "{profile}: {found:?}");
        }
    }

    #[test]
    fn an_example_is_an_snp_guest_with_a_gate() {
        for profile in PROFILES {
            let config = parse(&example(profile)).unwrap_or_else(|error| panic!("{profile}: {error}"));
            assert_eq!((config.isolation, config.memory), (Isolation::Snp, 1 << 30));
            assert!(config.first_stage);
            assert!(config.gate.is_some_and(|gate| gate.vm_id == "example" && gate.timeout == 5));
        }
    }

    #[test]
    fn commented_keys_can_be_switched_on_and_show_the_defaults() {
        let tls = ["gate.url", "gate.ca", "gate.client_certificate", "gate.client_key"];
        let identity = ["snp.id_block", "snp.id_auth", "snp.host_data"];
        let file = ["console.path", "console.max_size"];
        for profile in PROFILES {
            let text = example(profile);
            let given = parse(&text).unwrap();
            let on = |without: &[&[&str]]| {
                let text = switched_on(&text, &without.concat());
                parse(&text).unwrap_or_else(|error| panic!("{profile}: {error}"))
            };
            let mut full = on(&[&tls, &identity, &file]);
            assert_eq!(on(&[&["gate.socket"], &identity, &file]).gate.unwrap().vm_id, "example");
            let no_gate = switched_on(&text, &[&tls[..], &file, &["vtpm.state"]].concat());
            let (before, rest) = no_gate.split_once("\n[gate]\n").unwrap();
            let rest = rest.split_once("\n[[disk]]\n").unwrap().1;
            let ungated = parse(&format!("{before}\n[[disk]]\n{rest}"))
                .unwrap_or_else(|error| panic!("{profile}: {error}"));
            assert!(ungated.snp.identity.is_some() && ungated.gate.is_none());
            let filed = switched_on(&text, &[&tls[..], &identity].concat()).replace("\"stdio\"", "\"file\"");
            assert_eq!(parse(&filed).unwrap().console.max_size, Some(super::super::DEFAULT_CONSOLE_SIZE));
            // What has no default.
            assert_eq!(full.secure_boot.take().is_some(), profile != Profile::Hashes);
            if let super::super::Boot::Disk { loader } = &mut full.boot {
                assert!(loader.take().is_some());
            }
            assert!(full.snp.certificates.take().is_some());
            assert_eq!(full.disks.len(), 1);
            full.disks.clone_from(&given.disks);
            let vtpm = full.vtpm.take().unwrap();
            let default = parse(&text.replace("# [vtpm]\n# mode", "[vtpm]\nmode")).unwrap().vtpm.unwrap();
            assert_eq!(super::super::Vtpm { state: None, ..vtpm }, default);
            let debug = super::super::Debug { user_space_marker: None, ..full.debug.clone() };
            full.debug = debug;
            assert_eq!(full, given, "{profile}");
        }
    }
}
