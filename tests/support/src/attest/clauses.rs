// SPDX-License-Identifier: Apache-2.0
//! The clauses of the `pol-*` vectors, as policies.

use cvmm_policy::Policy;

const PRODUCTS: &str = r#"
products = ["milan", "genoa", "turin"]
crl = "if-present"
allow_provisional = true
"#;
const ANY_TCB: &str = r#"
[platform.min_tcb.milan]
bootloader = 0
tee = 0
snp = 0
microcode = 0
[platform.min_tcb.genoa]
bootloader = 0
tee = 0
snp = 0
microcode = 0
[platform.min_tcb.turin]
fmc = 0
bootloader = 0
tee = 0
snp = 0
microcode = 0
"#;

/// A policy with more lines at the top, in `[guest]` and in `[platform]`; `tables` has the minimum TCBs.
pub fn policy(top: &str, guest: &str, platform: &str, tables: &str) -> Policy {
    let text = format!(
        "id = \"p\"\nversion = 1\n{top}\n[guest]\nmax_vmpl = 3\nprofiles = [\"uki\"]\n{guest}\n[platform]\n{PRODUCTS}{platform}\n{tables}"
    );
    Policy::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The clause of a vector as a policy. `measurement` is what the clause `measurement` allows.
pub fn strict(clause: &str, measurement: &str) -> Policy {
    const ANY: &str = "unsafe_any_measurement = true";
    let tcb = |name: &str, product: &str, parts: &str| {
        let keep = ANY_TCB.replace(&format!("min_tcb.{product}]"), &format!("min_tcb.{product}_]"));
        let (before, after) = keep.split_once(&format!("[platform.min_tcb.{product}_]\n")).unwrap();
        let rest = after.split_once('[').map_or(String::new(), |(_, rest)| format!("[{rest}"));
        if name == "min_tcb" {
            format!("{before}[platform.min_tcb.{product}]\n{parts}\n{rest}")
        } else {
            format!("{ANY_TCB}\n[platform.{name}.{product}]\n{parts}\n")
        }
    };
    let milan = "bootloader = 4\ntee = 0\nsnp = 24\nmicrocode = 219";
    match clause {
        "debug=false" | "migrate_ma=false" | "report_data" => policy(ANY, "", "", ANY_TCB),
        "smt=false" => policy(ANY, "forbid = [\"smt\"]", "", ANY_TCB),
        "single_socket=true" => policy(ANY, "require = [\"single-socket\"]", "", ANY_TCB),
        "platform.ciphertext_hiding=true" => policy(ANY, "", "require = [\"ciphertext-hiding\"]", ANY_TCB),
        "platform.alias_check=true" => policy(ANY, "", "require = [\"alias-check-complete\"]", ANY_TCB),
        "vmpl=0" => {
            let text = format!("id = \"p\"\nversion = 1\n{ANY}\n[platform]\n{PRODUCTS}{ANY_TCB}");
            Policy::parse(&text).unwrap()
        }
        "min_guest_svn=2" => policy(ANY, "min_svn = 2", "", ANY_TCB),
        "measurement" => policy("", &format!("measurements = [\"{measurement}\"]"), "", ANY_TCB),
        "min_tcb bl4 tee0 snp24 ucode219" => policy(ANY, "", "", &tcb("min_tcb", "milan", milan)),
        "min_tcb fmc1 bl1 tee1 snp4 ucode81" => policy(
            ANY,
            "",
            "",
            &tcb("min_tcb", "turin", "fmc = 1\nbootloader = 1\ntee = 1\nsnp = 4\nmicrocode = 81"),
        ),
        "min_launch_tcb" => policy(ANY, "", "", &tcb("min_launch_tcb", "milan", milan)),
        "provisional=false" => {
            let text = format!("id = \"p\"\nversion = 1\n{ANY}\n[platform]\n{PRODUCTS}{ANY_TCB}");
            Policy::parse(&text.replace("allow_provisional = true\n", "")).unwrap()
        }
        "launch_mit_vector mask 3" | "mit_vector mask 3" => policy(ANY, "", "mit_vector = 3", ANY_TCB),
        other => panic!("unknown clause: {other}"),
    }
}

/// A policy that accepts every verified report.
pub fn lenient() -> Policy {
    policy(
        "unsafe_any_measurement = true\nunsafe_allow_debug = true\nunsafe_allow_migration_agent = true",
        "",
        "",
        ANY_TCB,
    )
}
