// SPDX-License-Identifier: Apache-2.0
//! Builds the first stage and takes its segments and relocations out of the executable.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target of the ordinary toolchain: nothing has to be installed for it.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Addresses of the segments (../image/link.ld).
const PROGRAM: u64 = 0xffd4_4000;
const EXIT: u64 = 0xffff_8000;
const RELOCATIONS: u64 = 0xffff_a000;
/// End of the stage's region (../src/layout.rs): an address in the program is below it.
const STAGE_END: u64 = 0xffd9_0000;

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
            [
                "-nostartfiles",
                "-nostdlib",
                "-static-pie",
                "-Wl,-z,norelro",
                "-Wl,--build-id=none",
                "-Wl,--gc-sections",
            ]
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
    let mut program = segment(&elf, PROGRAM)?.ok_or("no program")?.to_vec();
    let places = relocate(&mut program, segment(&elf, RELOCATIONS)?.unwrap_or_default())?;
    let places: Vec<String> = places.iter().map(|place| format!("{place:#x}")).collect();
    fs::write(out.join("program.bin"), program)?;
    fs::write(out.join("exit.bin"), segment(&elf, EXIT)?.ok_or("no exit page")?)?;
    fs::write(out.join("relocations.rs"), format!("&[{}]", places.join(", ")))?;
    Ok(())
}

/// Writes the addresses of `table` (Elf64_Rela) to the program as linked; returns the offsets in the program
/// where they are, ascending.
fn relocate(program: &mut [u8], table: &[u8]) -> Result<Vec<usize>, Box<dyn Error>> {
    const ENTRY: usize = 24;
    const RELATIVE: u64 = 8; // R_X86_64_RELATIVE
    if !table.len().is_multiple_of(ENTRY) {
        return Err("the relocations are cut".into());
    }
    let mut places = Vec::new();
    for entry in table.chunks_exact(ENTRY) {
        let [at, kind, address] = [0, 8, 16]
            .map(|field| entry[field..].first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes)));
        // The exit page and the window do not move with the program: their addresses are constants.
        if kind != RELATIVE || !(PROGRAM..STAGE_END).contains(&address) {
            return Err(format!("relocation of type {kind} at {at:#x} to {address:#x}").into());
        }
        let offset = usize::try_from(at.checked_sub(PROGRAM).ok_or("relocation outside the program")?)?;
        let slot = program.get_mut(offset..offset + 8).ok_or("relocation outside the program")?;
        slot.copy_from_slice(&address.to_le_bytes());
        places.push(offset);
    }
    places.sort_unstable();
    if places.windows(2).any(|pair| pair[1] - pair[0] < 8) {
        return Err("overlapping relocations".into());
    }
    Ok(places)
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
fn segment(elf: &[u8], address: u64) -> Result<Option<&[u8]>, Box<dyn Error>> {
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
            return Ok(Some(elf.get(offset..offset + len).ok_or("the executable is cut")?));
        }
    }
    Ok(None)
}
