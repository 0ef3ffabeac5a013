// SPDX-License-Identifier: Apache-2.0
//! The codes of the gate's own reasons. Others come from the policy and the verifier (`cvmm_attest`), from Rego code
//! ([`crate::rego`]) and from the client.

/// Every code. Never reused for something else.
pub const CODES: &[&str] = &[
    // What was asked.
    "gate.protocol",
    "gate.message",
    "gate.order",
    "gate.late",
    "gate.policy",
    "gate.vm",
    // Who asked, and when.
    "gate.peer",
    "gate.busy",
    "gate.client",
    "gate.role",
    "gate.channel",
    "gate.rate",
    "gate.quota",
    // What the gate lacks.
    "gate.artifact",
    "gate.certificate",
    "gate.clock",
    "gate.key",
    "gate.secret",
    "gate.state",
    "gate.audit",
    // Keys of VMs' state.
    "key.none",
    "key.vm",
    "key.in-use",
    "key.policy",
    "key.superseded",
    "key.order",
    "key.proof",
    "key.record",
    // What is to be launched.
    "manifest.format",
    "manifest.vm-id",
    "manifest.launch",
    "manifest.digest",
    "manifest.vtpm",
    // The TPM of a VM with kept state.
    "tpm.public",
    "tpm.identity",
    "tpm.activation",
    // What was launched.
    "evidence.format",
    "evidence.other",
    "evidence.platform",
    // Of a running guest's TPM.
    "quote.tpm",
    // In RCAR.
    "rcar.busy",
    "rcar.devices",
    "rcar.format",
    "rcar.hash",
    "rcar.init-data",
    "rcar.key",
    "rcar.nonce",
    "rcar.policy",
    "rcar.release",
    "rcar.resource",
    "rcar.session",
    "rcar.tee",
    "rcar.too-long",
    "rcar.unreadable",
    "rcar.version",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::CODES;

    /// The codes that the program's text has, tests left out.
    fn written(folder: &Path, codes: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                written(&path, codes);
            } else if !path.ends_with("tests.rs") && !path.ends_with("reasons.rs") {
                let text = fs::read_to_string(&path).unwrap();
                let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
                for call in ["Reason::new(", "one(", "reason(", "turn_away(&stream, "] {
                    let after = text.split(call).skip(1);
                    let code =
                        after.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
                    codes.extend(code.map(str::to_owned));
                }
            }
        }
    }

    #[test]
    fn every_code_is_listed_once() {
        let mut codes = BTreeSet::new();
        written(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut codes);
        // Said of a report, as the policy does.
        assert!(codes.remove("policy.evidence"));
        let own = [CODES, crate::rego::CODES].concat();
        let listed: BTreeSet<_> = own.iter().map(|code| (*code).to_owned()).collect();
        assert_eq!(codes, listed);
        let others = [
            cvmm_attest::policy::CODES,
            cvmm_attest::refusal::Refusal::CODES,
            cvmm_gate_protocol::bundle::CODES,
            cvmm_gate_client::client::CODES,
            cvmm_gate_client::frame::CODES,
            cvmm_gate_protocol::ticket::CODES,
            cvmm_launch::reasons::CODES,
            cvmm_tpm::quote::CODES,
        ];
        let all: Vec<_> = others.concat().into_iter().chain(own).collect();
        let distinct: BTreeSet<_> = all.iter().copied().collect();
        assert_eq!(distinct.len(), all.len(), "a code has two meanings");
        // Each of them, and nothing else, has a row in the docs.
        let rows: Vec<_> = include_str!("../../../docs/reference/reasons.md")
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
            .collect();
        assert!(
            rows.iter().all(|(_, rest)| rest.split('|').filter(|cell| !cell.trim().is_empty()).count() == 2)
        );
        let documented: BTreeSet<_> = rows.iter().map(|(code, _)| *code).collect();
        let missing: Vec<_> = distinct.difference(&documented).collect();
        let unknown: Vec<_> = documented.difference(&distinct).collect();
        assert!(missing.is_empty(), "docs/reference/reasons.md lacks {missing:?}");
        assert!(unknown.is_empty(), "docs/reference/reasons.md has {unknown:?}, which nobody gives");
        assert_eq!(documented.len(), rows.len(), "docs/reference/reasons.md has a code twice");
    }
}
