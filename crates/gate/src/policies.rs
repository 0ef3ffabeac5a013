// SPDX-License-Identifier: Apache-2.0
//! The policies: files `ID.toml`, each with a detached signature `ID.toml.jws` by one of the keys in
//! `policy_keys`.
//!
//! The signature is a JWS with its payload detached and unencoded (RFC 7797), ES384. The highest version of
//! each policy that was ever in force, with its hash, is kept in the state folder: an older version, or
//! another file with the same number, is refused. To go back, the old content gets a higher number.
//!
//! A policy that names Rego code has the SHA-384 of that file in it, so that the signature covers both.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cvmm_gate_protocol::binding::sha384;
use cvmm_gate_protocol::messages::PolicyId;
use cvmm_gate_protocol::ticket::VerdictKey;
use cvmm_policy::rego::input::{Facts, document};
use cvmm_policy::rego::{self, Rego};
use cvmm_policy::{GateVersion, MAX_FILE, Policy, PolicyError};
use cvmm_reason::Reason;
use cvmm_snp::digest::Digest;
use thiserror::Error;

use crate::files::{self, FileError};
use crate::keys::{KeysError, Signer};

const HEADER: &str = r#"{"alg":"ES384","b64":false,"crit":["b64"]}"#;
/// The most policies of one gate.
const MAX_POLICIES: usize = 1024;

/// Why the policies cannot be used.
#[derive(Debug, Error)]
pub enum PoliciesError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not a valid policy.
    #[error("{path}: {problem}")]
    Policy {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: PolicyError,
    },
    /// Something about a file.
    #[error("{path}: {problem}")]
    Unfit {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// A policy in force.
#[derive(Debug)]
pub struct ActivePolicy {
    /// The policy.
    pub policy: Policy,
    /// Its name, version and digest in tickets.
    pub id: PolicyId,
    /// SHA-384 of its file.
    pub digest: Digest,
    /// Its Rego code.
    pub rego: Option<Rego>,
}

impl ActivePolicy {
    /// What the policy's Rego code has against these facts. Empty if the policy names none.
    #[must_use]
    pub fn ask(&self, facts: &Facts<'_>) -> Vec<Reason> {
        self.rego.as_ref().map_or_else(Vec::new, |rego| rego.ask(&document(facts)))
    }
}

/// All policies, by name.
pub type Policies = BTreeMap<String, Arc<ActivePolicy>>;

/// Reads the policies in `folder`, signed by one of `signers` and not older than what is in `versions`. All
/// or none; nothing is written.
pub fn load(folder: &Path, signers: &[VerdictKey], versions: &Path) -> Result<Policies, PoliciesError> {
    let failed = |source| FileError { what: "read", path: folder.to_owned(), source };
    let mut found = Policies::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let unfit = |problem: String| PoliciesError::Unfit { path: path.clone(), problem };
        if found.len() >= MAX_POLICIES {
            return Err(unfit(format!("more than {MAX_POLICIES} policies")));
        }
        let bytes = files::read(&path, MAX_FILE as u64)?;
        let jws = files::read(&signature_path(&path), 1024)?;
        if !signers.iter().any(|signer| is_signed(&bytes, &jws, signer)) {
            return Err(unfit("its signature (.jws) was made by none of policy_keys".to_owned()));
        }
        let text = String::from_utf8(bytes).map_err(|_| unfit("it is not UTF-8".to_owned()))?;
        let policy =
            Policy::parse(&text).map_err(|problem| PoliciesError::Policy { path: path.clone(), problem })?;
        if path.file_stem().and_then(|stem| stem.to_str()) != Some(&policy.id) {
            return Err(unfit(format!("its id is {}: the file must have the same name", policy.id)));
        }
        if let Some(least) = policy.min_gate_version.filter(|least| *least > own_version()) {
            return Err(unfit(format!(
                "it needs a gate of version {least} or newer, this one is {}",
                own_version()
            )));
        }
        let rego = complete(&path, &policy)?;
        let digest = sha384(text.as_bytes());
        not_older(&policy, digest, versions).map_err(unfit)?;
        let id = PolicyId { id: policy.id.clone(), version: policy.version, sha384: digest.to_string() };
        found.insert(policy.id.clone(), Arc::new(ActivePolicy { policy, id, digest, rego }));
    }
    Ok(found)
}

/// Records that `policies` are in force: older versions are refused from now on.
pub fn remember(policies: &Policies, versions: &Path) -> Result<(), FileError> {
    for ActivePolicy { id, .. } in policies.values().map(AsRef::as_ref) {
        let path = versions.join(&id.id);
        let text = format!("{} {}\n", id.version, id.sha384);
        // An unchanged record is not written, and synced, again with each reload.
        if files::read_if_there(&path, 256)?.as_deref() != Some(text.as_bytes()) {
            files::replace(&path, text.as_bytes(), 0o600)?;
        }
    }
    Ok(())
}

/// SHA-384 over the list of policies, `ID VERSION SHA384` with a line feed each, in the order of their names:
/// what the audit log says is in force.
#[must_use]
pub fn list_digest(policies: &Policies) -> Digest {
    let line = |policy: &Arc<ActivePolicy>| {
        let PolicyId { id, version, sha384 } = &policy.id;
        format!("{id} {version} {sha384}\n")
    };
    sha384(policies.values().map(line).collect::<String>().as_bytes())
}

/// The version of this gate.
fn own_version() -> GateVersion {
    let part = |text: &str| text.parse().unwrap_or(0);
    GateVersion([
        part(env!("CARGO_PKG_VERSION_MAJOR")),
        part(env!("CARGO_PKG_VERSION_MINOR")),
        part(env!("CARGO_PKG_VERSION_PATCH")),
    ])
}

/// Whether the policy in `path` has everything a gate needs of it; its Rego code, if it names any.
fn complete(path: &Path, policy: &Policy) -> Result<Option<Rego>, PoliciesError> {
    let unfit = |problem: String| PoliciesError::Unfit { path: path.to_owned(), problem };
    if let Some(problem) = policy.unresolved() {
        return Err(unfit(problem));
    }
    let Some(named) = &policy.rego else { return Ok(None) };
    // The policy's parser accepts only a name without a folder.
    let bytes = files::read(&path.with_file_name(&named.file), rego::MAX_FILE as u64)?;
    let found = sha384(&bytes);
    if found != named.sha384 {
        return Err(unfit(format!(
            "{} has SHA-384 {found}, which differs from rego.sha384: it was changed since the policy was signed",
            named.file
        )));
    }
    let text = String::from_utf8(bytes).map_err(|_| unfit(format!("{} is not UTF-8", named.file)))?;
    Rego::load(&named.file, &text).map(Some).map_err(unfit)
}

fn not_older(policy: &Policy, digest: Digest, versions: &Path) -> Result<(), String> {
    let path = versions.join(&policy.id);
    let Some(bytes) = files::read_if_there(&path, 256).map_err(|error| error.to_string())? else {
        return Ok(());
    };
    let text = String::from_utf8_lossy(&bytes);
    let parsed = text
        .trim()
        .split_once(' ')
        .and_then(|(version, digest)| Some((version.parse::<u64>().ok()?, digest.parse::<Digest>().ok()?)));
    match parsed {
        None => Err(format!("{} is damaged", path.display())),
        Some((highest, _)) if policy.version < highest => Err(format!(
            "version {} is older than {highest}, which was in force (policy.rollback); give the old content a higher version",
            policy.version
        )),
        Some((highest, known)) if policy.version == highest && known != digest => {
            Err(format!("version {highest} was a different file; give each change a higher version"))
        }
        Some(_) => Ok(()),
    }
}

/// Where the signature of a policy is.
#[must_use]
pub fn signature_path(policy: &Path) -> PathBuf {
    let mut name = policy.as_os_str().to_owned();
    name.push(".jws");
    PathBuf::from(name)
}

fn signing_input(content: &[u8]) -> (String, Vec<u8>) {
    let header = URL_SAFE_NO_PAD.encode(HEADER);
    let input = [header.as_bytes(), b".", content].concat();
    (header, input)
}

/// Checks that a gate could use the policy at `path`, and logs what is unsafe about it.
pub fn check(path: &Path) -> Result<Policy, PoliciesError> {
    parsed(path, &files::read(path, MAX_FILE as u64)?)
}

fn parsed(path: &Path, content: &[u8]) -> Result<Policy, PoliciesError> {
    let unfit = |problem: &str| PoliciesError::Unfit { path: path.to_owned(), problem: problem.to_owned() };
    let text = std::str::from_utf8(content).map_err(|_| unfit("it is not UTF-8"))?;
    let policy =
        Policy::parse(text).map_err(|problem| PoliciesError::Policy { path: path.to_owned(), problem })?;
    complete(path, &policy)?;
    for warning in policy.warnings() {
        tracing::warn!(policy = policy.id, "{warning}");
    }
    Ok(policy)
}

/// Signs the policy at `path`.
pub fn sign(path: &Path, signer: &Signer) -> Result<(), PoliciesError> {
    let unfit = |problem: String| PoliciesError::Unfit { path: path.to_owned(), problem };
    let content = files::read(path, MAX_FILE as u64)?;
    parsed(path, &content)?;
    let written = signature_path(path);
    // Replaces an older signature, but not a different file with that name.
    if written.symlink_metadata().is_ok() && !files::read(&written, 1024).is_ok_and(|old| is_detached(&old)) {
        return Err(PoliciesError::Unfit {
            path: written,
            problem: "the file exists and is not a policy's signature; move it away".to_owned(),
        });
    }
    let (header, input) = signing_input(&content);
    let signature = signer.sign(&input).map_err(|error: KeysError| unfit(error.to_string()))?;
    let jws = format!("{header}..{}\n", URL_SAFE_NO_PAD.encode(signature));
    Ok(files::replace(&written, jws.as_bytes(), 0o644)?)
}

/// Whether this has the form of a detached JWS: header, nothing, signature.
fn is_detached(jws: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(jws) else { return false };
    let parts: Vec<_> = text.trim_end().split('.').map(|part| URL_SAFE_NO_PAD.decode(part)).collect();
    matches!(&parts[..], [Ok(header), Ok(payload), Ok(signature)]
        if header.starts_with(b"{") && payload.is_empty() && !signature.is_empty())
}

fn is_signed(content: &[u8], jws: &[u8], signer: &VerdictKey) -> bool {
    let (header, input) = signing_input(content);
    let Ok(text) = std::str::from_utf8(jws) else { return false };
    let Some(signature) = text.trim_end().strip_prefix(&header).and_then(|rest| rest.strip_prefix(".."))
    else {
        return false;
    };
    URL_SAFE_NO_PAD.decode(signature).is_ok_and(|signature| signer.verifies(&input, &signature))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::generate;

    fn policy(version: u64, svn: u32) -> String {
        format!(
            "id = \"p\"\nversion = {version}\n[guest]\nmeasurements = [\"{}\"]\nmin_svn = {svn}\n[platform]\nproducts = [\"milan\"]\n\
             [platform.min_tcb.milan]\nbootloader = 0\ntee = 0\nsnp = 0\nmicrocode = 0\n",
            "aa".repeat(48)
        )
    }

    #[test]
    fn only_signed_and_never_older() {
        let folder = tempfile::tempdir().unwrap();
        let key = |name: &str| {
            let path = folder.path().join(name);
            generate(&path).unwrap();
            Signer::load(&path).unwrap()
        };
        let (signer, stranger) = (key("a.pem"), key("b.pem"));
        let (policies, versions) = (folder.path().join("policies"), folder.path().join("versions"));
        fs::create_dir(&policies).unwrap();
        fs::create_dir(&versions).unwrap();
        let path = policies.join("p.toml");
        let keys = [signer.public().unwrap()];
        let put = |text: &str, by: &Signer| {
            fs::write(&path, text).unwrap();
            sign(&path, by).unwrap();
            let loaded = load(&policies, &keys, &versions)?;
            remember(&loaded, &versions)?;
            Ok::<_, PoliciesError>(loaded)
        };
        assert_eq!(put(&policy(3, 0), &signer).unwrap()["p"].id.version, 3);
        assert!(put(&policy(4, 0), &stranger).unwrap_err().to_string().contains("policy_keys"));
        assert!(put(&policy(2, 0), &signer).unwrap_err().to_string().contains("policy.rollback"));
        assert!(put(&policy(3, 1), &signer).unwrap_err().to_string().contains("a different file"));
        assert!(put(&policy(3, 0), &signer).is_ok());
        assert!(put(&policy(4, 1), &signer).is_ok());
        assert!(put(&policy(3, 0), &signer).is_err());
        // A file of that name that is not a signature is kept.
        fs::write(signature_path(&path), "a.b.c of the user").unwrap();
        let refused = sign(&path, &signer).unwrap_err().to_string();
        assert!(refused.contains("p.toml.jws") && refused.contains("not a policy's signature"), "{refused}");
        assert_eq!(fs::read_to_string(signature_path(&path)).unwrap(), "a.b.c of the user");
        fs::remove_file(signature_path(&path)).unwrap();
        // A signature is over all of it.
        put(&policy(5, 1), &signer).unwrap();
        fs::write(&path, policy(5, 2)).unwrap();
        assert!(load(&policies, &keys, &versions).is_err());
        fs::write(&path, policy(6, 2)).unwrap();
        assert!(load(&policies, &keys, &versions).is_err());
        fs::remove_file(signature_path(&path)).unwrap();
        assert!(load(&policies, &keys, &versions).is_err());
        // A name is the file's.
        put(&policy(6, 2), &signer).unwrap();
        fs::rename(&path, policies.join("q.toml")).unwrap();
        fs::rename(signature_path(&path), policies.join("q.toml.jws")).unwrap();
        assert!(
            load(&policies, &keys, &versions).unwrap_err().to_string().contains("must have the same name")
        );
    }

    /// A folder with keys; and what a policy with these lines in its top and at its end is loaded as.
    struct Lab(tempfile::TempDir);

    impl Lab {
        fn new() -> Self {
            let lab = Self(tempfile::tempdir().unwrap());
            generate(&lab.0.path().join("a.pem")).unwrap();
            for name in ["policies", "versions"] {
                fs::create_dir(lab.0.path().join(name)).unwrap();
            }
            lab
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join("policies").join(name)
        }

        fn load(&self, text: &str) -> Result<Policies, String> {
            fs::write(self.path("p.toml"), text).unwrap();
            let signer = Signer::load(&self.0.path().join("a.pem")).unwrap();
            sign(&self.path("p.toml"), &signer).map_err(|error| format!("sign: {error}"))?;
            self.reload()
        }

        fn reload(&self) -> Result<Policies, String> {
            let signer = Signer::load(&self.0.path().join("a.pem")).unwrap();
            let keys = [signer.public().unwrap()];
            load(&self.path(""), &keys, &self.0.path().join("versions")).map_err(|error| error.to_string())
        }
    }

    #[test]
    fn what_is_not_measured_yet_is_not_signed_and_not_used() {
        let lab = Lab::new();
        let text = policy(1, 0);
        let named = text.replace(
            &format!("measurements = [\"{}\"]", "aa".repeat(48)),
            "config = \"vm.toml\"\nvcpu_types = [\"EPYC-Milan\"]",
        );
        let error = lab.load(&named).unwrap_err();
        assert!(error.contains("sign:") && error.contains("cvmm policy resolve"), "{error}");
        // Signed by another program, it is refused too.
        lab.load(&text).unwrap();
        fs::write(lab.path("p.toml"), &named).unwrap();
        let signer = Signer::load(&lab.0.path().join("a.pem")).unwrap();
        let (header, input) = signing_input(named.as_bytes());
        let jws = format!("{header}..{}", URL_SAFE_NO_PAD.encode(signer.sign(&input).unwrap()));
        fs::write(lab.path("p.toml.jws"), jws).unwrap();
        let error = lab.reload().unwrap_err();
        assert!(error.contains("policy.unresolved") && error.contains("cvmm policy resolve"), "{error}");
    }

    #[test]
    fn a_policy_may_need_a_newer_gate() {
        let lab = Lab::new();
        let with = |version: &str| format!("min_gate_version = \"{version}\"\n{}", policy(1, 0));
        assert!(lab.load(&with(env!("CARGO_PKG_VERSION"))).is_ok());
        let error = lab.load(&with("999.0.0")).unwrap_err();
        assert!(error.contains("needs a gate of version 999.0.0"), "{error}");
    }

    #[test]
    fn rego_code_is_what_was_signed() {
        let lab = Lab::new();
        let code = "package cvmm\nverdict := {\"allow\": true, \"reasons\": []}\n";
        let with = |code: &str, file: &str| {
            format!("{}[rego]\nfile = \"{file}\"\nsha384 = \"{}\"\n", policy(1, 0), sha384(code.as_bytes()))
        };
        assert!(lab.load(&with(code, "p.rego")).unwrap_err().contains("p.rego"), "the file is missing");
        fs::write(lab.path("p.rego"), code).unwrap();
        let loaded = lab.load(&with(code, "p.rego"));
        if cfg!(feature = "rego") {
            assert!(loaded.unwrap()["p"].rego.is_some());
        } else {
            assert!(loaded.unwrap_err().contains("built without Rego"));
            return;
        }
        fs::write(lab.path("p.rego"), format!("{code}#")).unwrap();
        assert!(lab.reload().unwrap_err().contains("changed since the policy was signed"));
        let other = "package cvmm\nverdict := input.lauch\n";
        fs::write(lab.path("p.rego"), other).unwrap();
        let error = lab.load(&with(other, "p.rego")).unwrap_err();
        assert!(
            error.contains("p.rego: line 2, column ") && error.contains("input has no \"lauch\""),
            "{error}"
        );
        assert!(lab.load(&with(code, "../p.rego")).unwrap_err().contains("rego.file"));
    }
}
