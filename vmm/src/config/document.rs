// SPDX-License-Identifier: Apache-2.0
//! From a [`Config`] back to a `vm.toml` with every default written out.
//!
//! The result has the names and the structure of the file, so that what `cvmm config check --json` prints can
//! be edited, converted to TOML and checked again: it is the same VM. Paths are absolute. What the file may
//! not say is left out: keys of other profiles and modes, and what `[gate]` makes.

use serde_json::Value;

use super::vm::{Config, RawVm};

impl Config {
    /// The configuration as JSON, with the names and the structure of `vm.toml`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        // Strings, numbers and structs of them are always JSON.
        let mut document = serde_json::to_value(RawVm::from(self)).unwrap_or_default();
        remove_nulls(&mut document);
        document
    }
}

/// TOML has no null: a key without a value is absent.
fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(table) => {
            table.retain(|_, value| !value.is_null());
            table.values_mut().for_each(remove_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::super::tests::schema_keys;
    use super::super::{Checks, Profile, example};
    use super::*;

    /// Configurations that together have every key, none of them with its default.
    const CASES: [&str; 6] = [
        r#"
name = "a"
vcpus = 3
memory = "2GiB"
low_memory = "512MiB"
isolation = "none"
firmware = "fw \" \u0001"
rng = false
[boot]
profile = "hashes"
kernel = "k"
initrd = "i"
cmdline = "a=\"b c\" # no comment"
[[disk]]
path = "d0"
[[disk]]
path = "d1"
read_only = true
serial = "s\"1"
format = "raw"
cache = "direct"
queues = 3
[console]
device = "virtio"
mode = "file"
path = "c"
max_size = "1MiB"
[vtpm]
mode = "in-process"
sandbox = "process"
pcr_banks = ["sha512", "sha1"]
coalesced_mmio = false
shared_buffer = false
[debug]
firmware_console = true
mtrr = true
user_space_marker = "up"
"#,
        r#"
name = "b"
memory = 268435456
isolation = "snp"
firmware = "f"
[boot]
profile = "uki"
uki = "u"
first_stage = false
[snp]
policy = 0x130000
certificates = "certs"
vlek_only = true
cpuid_corrections = "caches"
[gate]
url = "tls://[::1]:9443"
ca = "ca"
client_certificate = "cc"
client_key = "ck"
verdict_key = "v"
policy = "p"
vm_id = "other"
timeout = 60
channel = true
[vtpm]
mode = "in-process"
state = "st"
"#,
        r#"
name = "c"
memory = "1TiB"
isolation = "snp"
firmware = "f"
[boot]
profile = "uki"
uki = "u"
first_stage = true
[snp]
id_block = "b"
id_auth = "a"
host_data = "00000000000000000000000000000000000000000000000000000000000000ff"
"#,
        r#"
name = "d"
memory = "96MiB"
isolation = "none"
boot = { profile = "disk", loader = '\EFI\d\g.efi' }
secure_boot = { pk = "pk", kek = ["microsoft"], db = ["microsoft", "b"], dbx = ["x"] }
disk = [{ path = "/d", cache = "unsafe" }]
console = { mode = "pty" }
vtpm = { mode = "none" }
"#,
        r#"
name = "e"
memory = "1GiB"
isolation = "snp"
firmware = "f"
boot = { profile = "disk" }
disk = [{ path = "d" }]
console = { mode = "none" }
gate = { socket = "s", verdict_key = "v", policy = "p" }
"#,
        r#"
name = "f"
memory = "1GiB"
isolation = "snp"
firmware = "f"
boot = { profile = "uki", uki = "u" }
gate = { url = "tls://gate.example:1", ca = "a", client_certificate = "b", client_key = "c", verdict_key = "v", policy = "p" }
"#,
    ];

    fn parse(text: &str, base: &str) -> Config {
        Config::parse("vm.toml", text, Path::new(base), Checks::OFFLINE)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// The dotted keys of a document.
    fn keys(value: &Value, prefix: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(table) => {
                for (name, value) in table {
                    let inner = |item: &Value| item.is_object();
                    if value.is_object() || value.as_array().is_some_and(|items| items.iter().any(inner)) {
                        keys(value, &format!("{prefix}{name}."), found);
                    } else {
                        found.insert(format!("{prefix}{name}"));
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| keys(item, prefix, found)),
            _ => {}
        }
    }

    #[test]
    fn what_is_printed_can_be_fed_back() {
        let mut found = BTreeSet::new();
        let examples = [Profile::Uki, Profile::Hashes, Profile::Disk, Profile::Igvm].map(example);
        for text in CASES.into_iter().chain(examples.iter().map(String::as_str)) {
            let config = parse(text, "/base");
            let json = config.to_json();
            let toml = toml::to_string(&json).unwrap();
            // Paths are absolute: where the copy lies does not matter.
            assert_eq!(parse(&toml, "/elsewhere"), config, "{toml}");
            keys(&json, "", &mut found);
        }
        for key in schema_keys() {
            assert!(found.contains(&key), "{key} is never printed");
        }
        assert_eq!(found.len(), schema_keys().len(), "{found:?}");
    }

    #[test]
    fn names_and_values_are_those_of_the_file() {
        for text in CASES {
            let written: toml::Table = toml::from_str(text).unwrap();
            let json = parse(text, "/base").to_json();
            let printed: toml::Table = toml::from_str(&toml::to_string(&json).unwrap()).unwrap();
            same(&toml::Value::Table(written), &toml::Value::Table(printed), "");
        }
    }

    /// Everything in `written` is in `printed` under the same name.
    fn same(written: &toml::Value, printed: &toml::Value, at: &str) {
        match (written, printed) {
            (toml::Value::Table(written), toml::Value::Table(printed)) => {
                for (key, value) in written {
                    let at = format!("{at}.{key}");
                    same(value, printed.get(key).unwrap_or_else(|| panic!("{at} is not printed")), &at);
                }
            }
            // The order of banks means nothing.
            _ if at.ends_with(".pcr_banks") => {}
            (toml::Value::Array(written), toml::Value::Array(printed)) => {
                assert_eq!(written.len(), printed.len(), "{at}");
                written.iter().zip(printed).for_each(|(written, printed)| same(written, printed, at));
            }
            // Sizes are printed in bytes, paths from the root.
            (toml::Value::String(_), toml::Value::Integer(bytes)) => assert!(*bytes > 0, "{at}"),
            (toml::Value::String(written), toml::Value::String(printed)) => {
                assert!(printed == written || *printed == format!("/base/{written}"), "{at}: {printed}");
            }
            _ => assert_eq!(written, printed, "{at}"),
        }
    }
}
