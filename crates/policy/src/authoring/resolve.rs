// SPDX-License-Identifier: Apache-2.0
//! `guest.config`: a policy that names a `vm.toml` instead of its launch digests.
//!
//! A gate has neither the file nor what it names, and the signature has to cover which guests are admitted.
//! So the digests are measured where the guest is built, and replace the names before the policy is signed.

use cvmm_snp::digest::Digest;
use toml_edit::{DocumentMut, Item, Value};

use crate::error::PolicyError;
use crate::policy::Policy;

/// The text with digests instead of the configurations it names; unchanged if it names none. `measure` gives
/// the digests of the guest of one of them, each with the name of the processor that it is for.
///
/// # Errors
/// The text is not a policy or cannot be rewritten, or `measure` fails.
pub fn resolve<E: From<PolicyError>>(
    text: &str,
    mut measure: impl FnMut(&Policy, &str) -> Result<Vec<(String, Digest)>, E>,
) -> Result<String, E> {
    let policy = Policy::parse(text)?;
    if policy.guest.config.is_empty() {
        return Ok(text.to_owned());
    }
    let syntax = |problem: String| E::from(PolicyError::Syntax(problem));
    let mut document: DocumentMut =
        text.parse().map_err(|error: toml_edit::TomlError| syntax(error.to_string()))?;
    let guest = document
        .get_mut("guest")
        .and_then(Item::as_table_like_mut)
        .ok_or_else(|| syntax("guest is not a table".to_owned()))?;
    let mut known = policy.guest.measurements.clone();
    let mut measured = Vec::new();
    for name in &policy.guest.config {
        for (vcpu, digest) in measure(&policy, name)? {
            if !known.contains(&digest) {
                known.push(digest);
                measured.push((format!("{name} on {vcpu}"), digest));
            }
        }
    }
    guest.remove("config");
    guest.remove("vcpu_types");
    let digests =
        guest.entry("measurements").or_insert_with(|| Item::Value(Value::Array(Default::default())));
    let digests =
        digests.as_array_mut().ok_or_else(|| syntax("guest.measurements is not an array".to_owned()))?;
    for (what, digest) in measured {
        let comment = cvmm_reason::printable::line(&what);
        digests.push_formatted(
            Value::from(digest.to_string()).decorated(format!("\n    # {comment}\n    "), ""),
        );
    }
    digests.set_trailing("\n");
    digests.set_trailing_comma(true);
    let text = document.to_string();
    // Parse what was written, to be sure.
    let resolved = Policy::parse(&text)?;
    if resolved.unresolved().is_some() || resolved.guest.measurements != known {
        return Err(syntax("the policy could not be rewritten; write guest.measurements by hand".to_owned()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMED: &str = r#"id = "web"
version = 1
[guest]
profiles = ["uki"]
config = "vm.toml"            # the shop
vcpu_types = ["EPYC-Milan"]
[platform]
products = ["milan"]
crl = "require"
[platform.min_tcb.milan]
bootloader = 3
tee = 0
snp = 8
microcode = 115
"#;

    #[test]
    fn a_name_is_replaced_by_its_digests() {
        let measured = |policy: &Policy, name: &str| {
            assert_eq!(
                (name, policy.guest.vcpu_types.as_slice()),
                ("vm.toml", &["EPYC-Milan".to_owned()][..])
            );
            Ok::<_, PolicyError>(vec![("EPYC-Milan".to_owned(), Digest([7; 48]))])
        };
        let text = resolve(NAMED, measured).unwrap();
        let policy = Policy::parse(&text).unwrap();
        assert_eq!((policy.guest.measurements, policy.guest.config.len()), (vec![Digest([7; 48])], 0));
        assert!(text.contains("# vm.toml on EPYC-Milan"), "{text}");
        // Nothing is left to measure.
        let again = resolve(&text, |_, _| Err::<Vec<_>, _>(PolicyError::Syntax("measured again".into())));
        assert_eq!(again.unwrap(), text);
    }

    #[test]
    fn a_guest_that_cannot_be_measured_gives_no_policy() {
        let failed = resolve(NAMED, |_, _| Err::<Vec<_>, _>(PolicyError::Syntax("no such file".into())));
        assert!(failed.unwrap_err().to_string().contains("no such file"));
    }
}
