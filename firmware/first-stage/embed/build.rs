// SPDX-License-Identifier: Apache-2.0
//! Builds the first stage and takes its segments out of the executable.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target of the ordinary toolchain: nothing has to be installed for it.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Addresses of the two segments (../src/layout.rs).
const PROGRAM: u64 = 0xffd4_4000;
const EXIT: u64 = 0xffff_8000;

fn main() -> Result<(), Box<dyn Error>> {
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    let stage = here.parent().ok_or("no parent folder")?;
    let image = stage.join("image");
    for path in ["src", "image/src", "image/link.ld", "image/Cargo.toml", "image/Cargo.lock", "Cargo.toml"] {
        directive(&format!("rerun-if-changed={}", stage.join(path).display()));
    }
    directive("rerun-if-changed=build.rs");

    // Keep paths of the build machine out of the bytes.
    let home = env::var_os("CARGO_HOME").map_or_else(default_home, PathBuf::from);
    let flags = [
        "-Crelocation-model=pic".to_owned(),
        "-Cpanic=abort".to_owned(),
        "-Ctarget-cpu=x86-64".to_owned(),
        format!("--remap-path-prefix={}=cargo", home.display()),
        format!("--remap-path-prefix={}=stage", stage.display()),
    ];
    let target = out.join("build");
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .args(["rustc", "--locked", "--release", "--quiet", "--target", TARGET, "--manifest-path"])
        .arg(image.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .arg("--")
        .args(["-Cdefault-linker-libraries=no"])
        .args(
            ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,--gc-sections"]
                .map(|argument| format!("-Clink-arg={argument}")),
        )
        .arg(format!("-Clink-arg=-Wl,-T,{}", image.join("link.ld").display()));
    // Do not inherit settings of the outer build: flags, profiles, wrappers such as clippy's.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let ours = text.starts_with("CARGO") || text.starts_with("RUSTC") || text.starts_with("RUSTFLAGS");
        if ours && text != "CARGO_HOME" && text != "RUSTC_WRAPPER" && !text.starts_with("CARGO_NET") {
            cargo.env_remove(&name);
        }
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    let result = cargo.output()?;
    if !result.status.success() {
        return Err(
            format!("cannot build the first stage:\n{}", String::from_utf8_lossy(&result.stderr)).into()
        );
    }
    let elf = fs::read(target.join(TARGET).join("release/first-stage"))?;
    fs::write(out.join("program.bin"), segment(&elf, PROGRAM)?)?;
    fs::write(out.join("exit.bin"), segment(&elf, EXIT)?)?;
    Ok(())
}

fn directive(text: &str) {
    println!("cargo::{text}");
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("cargo sets no {name}"))
}

fn default_home() -> PathBuf {
    Path::new(&env::var_os("HOME").unwrap_or_default()).join(".cargo")
}

/// The content of the loadable segment at `address` of a 64-bit little-endian executable.
fn segment(elf: &[u8], address: u64) -> Result<&[u8], Box<dyn Error>> {
    let number = |at: usize, len: usize| -> Result<usize, Box<dyn Error>> {
        let bytes = elf.get(at..at + len).ok_or("the executable is cut")?;
        let mut word = [0; 8];
        word[..len].copy_from_slice(bytes);
        Ok(usize::try_from(u64::from_le_bytes(word))?)
    };
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..count {
        let header = table + index * size;
        // PT_LOAD
        if number(header, 4)? == 1 && number(header + 16, 8)? as u64 == address {
            let (offset, len) = (number(header + 8, 8)?, number(header + 32, 8)?);
            return elf.get(offset..offset + len).ok_or_else(|| "the executable is cut".into());
        }
    }
    Err(format!("no segment at {address:#x}").into())
}
