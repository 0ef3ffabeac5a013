// SPDX-License-Identifier: Apache-2.0
//! Finds libtpms and OpenSSL's libcrypto and links them.
//!
//! Statically by default: a VMM is copied into places that have no libtpms (the emulated host, a minimal
//! image), and then runs with the libraries it was tested with. A distribution that wants to update them on
//! their own builds with `CVMM_TPM_LINK=dynamic`.

use std::path::Path;
use std::process::exit;

fn fail(text: &str) -> ! {
    println!("cargo::error={text}");
    exit(1);
}

fn find(name: &str, package: &str, least: &str) -> pkg_config::Library {
    pkg_config::Config::new()
        .atleast_version(least)
        .cargo_metadata(false)
        .env_metadata(true)
        .probe(name)
        .unwrap_or_else(|error| {
            fail(&format!(
                "crates/vtpm needs {name} >= {least} and pkg-config (Debian: {package}, pkgconf): {error}"
            ))
        })
}

fn main() {
    println!("cargo:rerun-if-env-changed=CVMM_TPM_LINK");
    let dynamic = match std::env::var("CVMM_TPM_LINK").as_deref() {
        Ok("dynamic") => true,
        Ok("static" | "") | Err(_) => false,
        Ok(other) => fail(&format!("CVMM_TPM_LINK is 'static' or 'dynamic', not '{other}'")),
    };
    // 0.9.2 is what Debian 12 and 13 have. The functions used are the same in 0.10.
    let libraries = [
        ("tpms", find("libtpms", "libtpms-dev", "0.9.2")),
        ("crypto", find("libcrypto", "libssl-dev", "3.0")),
    ];
    for (name, library) in &libraries {
        let folder = pkg_config::get_variable(&format!("lib{name}"), "libdir").unwrap_or_default();
        if !folder.is_empty() {
            println!("cargo:rustc-link-search=native={folder}");
        }
        let archive = Path::new(&folder).join(format!("lib{name}.a"));
        if !dynamic && !archive.exists() {
            fail(&format!("there is no {}; install it or set CVMM_TPM_LINK=dynamic", archive.display()));
        }
        println!("cargo:rustc-link-lib={}={name}", if dynamic { "dylib" } else { "static:-bundle" });
        println!("cargo:rerun-if-changed={}", archive.display());
        if *name == "tpms" {
            println!("cargo:rustc-env=CVMM_LIBTPMS_VERSION={}", library.version);
        }
    }
}
