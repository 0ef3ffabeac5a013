// SPDX-License-Identifier: Apache-2.0
//! Changing the launch digests of a policy that exists, and nothing else of it.
//!
//! Comments, the order of keys and everything else stay: only `version` and `guest.measurements` are written.
//! A new digest beside the old one is a rolling update: both guests are admitted until the old one is taken
//! out.

use cvmm_snp::digest::Digest;
use serde::Serialize;
use thiserror::Error;
use toml_edit::{Array, DocumentMut, Item, Value};

use crate::error::PolicyError;
use crate::policy::Policy;

/// What to do with the digests that the policy has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// Keep them beside the new one.
    Add,
    /// Take them out.
    Replace,
}

/// What was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// The policy's name.
    pub policy: String,
    /// Whether anything was.
    pub changed: bool,
    /// The version before.
    pub old_version: u64,
    /// The version now; the same if nothing was changed.
    pub version: u64,
    /// Digests that were added.
    pub added: Vec<String>,
    /// Digests that were taken out.
    pub removed: Vec<String>,
    /// All digests that are admitted now.
    pub measurements: Vec<String>,
}

/// Why a policy cannot be updated.
#[derive(Debug, Error)]
pub enum UpdateError {
    /// It is not a policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// It has configurations instead of digests.
    #[error("it names vm.toml files (guest.config), not digests: cvmm policy resolve measures them")]
    Config,
    /// It does not admit guests with this boot profile.
    #[error(
        "the guest has boot profile \"{0}\", which is not in guest.profiles: edit the policy first if this is intended"
    )]
    Profile(&'static str),
    /// The version cannot grow.
    #[error("version {0} cannot be increased")]
    Version(u64),
    /// The text has a form that is not understood.
    #[error("the policy cannot be rewritten; add the digest to guest.measurements by hand: {0}")]
    Form(Digest),
}

/// The text of the policy with `digest` admitted, and what was changed.
///
/// # Errors
/// The text is not a policy, or not one that lists digests of this kind of guest.
pub fn update(
    text: &str,
    digest: Digest,
    profile: &'static str,
    how: Update,
) -> Result<(String, Changes), UpdateError> {
    let policy = Policy::parse(text)?;
    if !policy.guest.config.is_empty() {
        return Err(UpdateError::Config);
    }
    if !policy.guest.profiles.iter().any(|known| known == profile) {
        return Err(UpdateError::Profile(profile));
    }
    let old_version = policy.version;
    let added = !policy.guest.measurements.contains(&digest);
    let removed: Vec<_> = match how {
        Update::Add => Vec::new(),
        Update::Replace => policy.guest.measurements.iter().filter(|known| **known != digest).collect(),
    };
    let mut changes = Changes {
        policy: policy.id.clone(),
        changed: added || !removed.is_empty(),
        old_version,
        version: old_version,
        added: added.then(|| digest.to_string()).into_iter().collect(),
        removed: removed.iter().map(ToString::to_string).collect(),
        measurements: policy.guest.measurements.iter().map(ToString::to_string).collect(),
    };
    if !changes.changed {
        return Ok((text.to_owned(), changes));
    }
    let version = policy.version.checked_add(1).ok_or(UpdateError::Version(old_version))?;
    // TOML's numbers are signed.
    let number = i64::try_from(version).map_err(|_| UpdateError::Version(old_version))?;
    changes.version = version;
    let form = || UpdateError::Form(digest);
    let mut document: DocumentMut = text.parse().map_err(|_| form())?;
    let at = document.get_mut("version").and_then(Item::as_value_mut).ok_or_else(form)?;
    let decor = at.decor().clone();
    *at = Value::from(number);
    *at.decor_mut() = decor;
    let list = document
        .get_mut("guest")
        .and_then(|guest| guest.get_mut("measurements"))
        .and_then(Item::as_array_mut)
        .ok_or_else(form)?;
    if how == Update::Replace {
        let known =
            |value: &Value| value.as_str().is_some_and(|text| text.eq_ignore_ascii_case(&digest.to_string()));
        // The first place is kept, so that the new digest stands where an old one did.
        let style = list.get(0).map(|value| value.decor().clone());
        list.retain(known);
        if list.is_empty() {
            let mut value = Value::from(digest.to_string());
            if let Some(style) = style {
                *value.decor_mut() = style;
            }
            list.push_formatted(value);
        }
    } else if added {
        append(list, digest);
    }
    let text = document.to_string();
    let written = Policy::parse(&text)?;
    changes.measurements = written.guest.measurements.iter().map(ToString::to_string).collect();
    // What was read is what was meant.
    let expected = written.version == version
        && written.guest.measurements.contains(&digest)
        && removed.iter().all(|digest| !written.guest.measurements.contains(digest))
        && (how == Update::Replace
            || policy.guest.measurements.iter().all(|old| written.guest.measurements.contains(old)));
    if expected { Ok((text, changes)) } else { Err(form()) }
}

/// Adds a digest in the style of the one before it: on a line of its own, if that has one.
fn append(list: &mut Array, digest: Digest) {
    let last = list.len().checked_sub(1).and_then(|last| list.get(last));
    let prefix = last.and_then(|value| value.decor().prefix()).and_then(|prefix| prefix.as_str());
    let lines = prefix.and_then(|prefix| prefix.rsplit_once('\n')).map(|(_, indent)| format!("\n{indent}"));
    match lines {
        Some(prefix) => {
            let mut value = Value::from(digest.to_string());
            value.decor_mut().set_prefix(prefix);
            list.push_formatted(value);
        }
        None => list.push(digest.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = r#"# Our policy.
id = "web"       # the shop
version = 7      # bump me

[guest]
profiles = ["uki"]
# release 41
measurements = ["111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111"]
forbid = []

[platform]
products = ["milan"]
crl = "require"  # AMD's

[platform.min_tcb.milan]
bootloader = 3
tee = 0
snp = 8
microcode = 115
"#;

    fn digest(byte: u8) -> Digest {
        Digest([byte; 48])
    }

    /// The lines of `new` that are not in `old`.
    fn fresh<'new>(old: &str, new: &'new str) -> Vec<&'new str> {
        new.lines().filter(|line| !old.lines().any(|known| known == *line)).collect()
    }

    #[test]
    fn a_digest_is_added_beside_the_old_one_and_nothing_else_is_touched() {
        let (text, changes) = update(OLD, digest(0x22), "uki", Update::Add).unwrap();
        let list = format!("measurements = [\"{}\", \"{}\"]", digest(0x11), digest(0x22));
        assert_eq!(fresh(OLD, &text), ["version = 8      # bump me", &list]);
        assert_eq!(text.lines().count(), OLD.lines().count());
        let Changes { policy, changed, old_version, version, added, removed, measurements } = changes;
        assert_eq!((policy.as_str(), changed, old_version, version), ("web", true, 7, 8));
        assert_eq!((added, removed.len()), (vec![digest(0x22).to_string()], 0));
        assert_eq!(measurements.len(), 2);
        // A second time there is nothing to do.
        let (again, changes) = update(&text, digest(0x22), "uki", Update::Add).unwrap();
        assert_eq!((again, changes.changed, changes.version), (text, false, 8));
    }

    #[test]
    fn the_old_digests_are_taken_out_when_the_update_is_over() {
        let (both, _) = update(OLD, digest(0x22), "uki", Update::Add).unwrap();
        for old in [OLD, &both] {
            let (text, changes) = update(old, digest(0x22), "uki", Update::Replace).unwrap();
            let policy = Policy::parse(&text).unwrap();
            assert_eq!(policy.guest.measurements, [digest(0x22)]);
            assert_eq!(policy.version, changes.old_version + 1);
            assert_eq!(changes.removed, [digest(0x11).to_string()]);
            assert!(text.contains("# release 41") && text.contains("# AMD's"), "{text}");
        }
        let (only, changes) = update(&both, digest(0x11), "uki", Update::Replace).unwrap();
        assert_eq!(
            (Policy::parse(&only).unwrap().guest.measurements, changes.added.len()),
            (vec![digest(0x11)], 0)
        );
    }

    #[test]
    fn a_list_with_a_digest_on_each_line_keeps_its_form() {
        let lines =
            format!("[\n  \"{}\", # old\n  # the one before\n  \"{}\",\n]", digest(0x11), digest(0x33));
        let old = OLD.replace(&format!("[\"{}\"]", digest(0x11)), &lines);
        let (text, _) = update(&old, digest(0x22), "uki", Update::Add).unwrap();
        assert!(
            text.contains("# old\n  # the one before\n")
                && text.contains(&format!("\n  \"{}\"", digest(0x22))),
            "{text}"
        );
        assert_eq!(Policy::parse(&text).unwrap().guest.measurements.len(), 3);
    }

    #[test]
    fn what_cannot_be_updated_is_refused() {
        let refused = |text: &str, profile| update(text, digest(0x22), profile, Update::Add).unwrap_err();
        assert!(matches!(refused(OLD, "hashes"), UpdateError::Profile("hashes")));
        assert!(matches!(refused("id = 1", "uki"), UpdateError::Policy(_)));
        let config = OLD.replace(
            &format!("measurements = [\"{}\"]", digest(0x11)),
            "config = \"vm.toml\"\nvcpu_types = [\"EPYC-Milan\"]",
        );
        assert!(matches!(refused(&config, "uki"), UpdateError::Config));
    }
}
