// SPDX-License-Identifier: Apache-2.0
//! Builds the stub of unified kernel images and takes its segments and relocations out of the executable.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target of the ordinary toolchain: nothing has to be installed for it.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Address of the code (../src/program.rs).
const CODE: usize = 0x1000;
const PT_LOAD: usize = 1;
const SHT_RELA: usize = 4;
/// R_X86_64_RELATIVE: the field gets the image's address and the addend.
const RELATIVE: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    let stub = here.parent().ok_or("no parent folder")?;
    let image = stub.join("image");
    for path in ["src", "image/src", "image/link.ld", "image/Cargo.toml", "image/Cargo.lock", "Cargo.toml"] {
        directive(&format!("rerun-if-changed={}", stub.join(path).display()));
    }
    directive("rerun-if-changed=build.rs");

    // Keep paths of the build machine out of the bytes.
    let home = env::var_os("CARGO_HOME").map_or_else(default_home, PathBuf::from);
    let flags = [
        "-Crelocation-model=pic".to_owned(),
        "-Cpanic=abort".to_owned(),
        "-Ctarget-cpu=x86-64".to_owned(),
        // A firmware's interrupt handlers write below the stack pointer.
        "-Cno-redzone=yes".to_owned(),
        format!("--remap-path-prefix={}=cargo", home.display()),
        format!("--remap-path-prefix={}=stub", stub.display()),
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
                "-Wl,--no-dynamic-linker",
                "-Wl,--build-id=none",
                "-Wl,--gc-sections",
            ]
            .map(|argument| format!("-Clink-arg={argument}")),
        )
        .args(
            ["-Wl,-z,norelro", "-Wl,-z,nopack-relative-relocs"]
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
        let errors = String::from_utf8_lossy(&result.stderr);
        return Err(format!("cannot build the stub of unified kernel images:\n{errors}").into());
    }
    let elf = Elf(fs::read(target.join(TARGET).join("release/kernel-stub"))?);
    write_program(&elf, &out)
}

/// Writes code, data and a description of both.
fn write_program(elf: &Elf, out: &Path) -> Result<(), Box<dyn Error>> {
    let segments = elf.segments()?;
    let [code, data, ..] = segments.as_slice() else { return Err("fewer than two segments".into()) };
    if code.address != CODE || !data.address.is_multiple_of(4096) {
        return Err(format!("segments at {:#x} and {:#x}", code.address, data.address).into());
    }
    let mut bytes = elf.bytes(data.offset, data.len)?.to_vec();
    bytes.resize(data.memory, 0);
    let mut fields = String::new();
    for (field, addend) in elf.relocations()? {
        let at = field.checked_sub(data.address).filter(|at| at + 8 <= bytes.len());
        let at = at.ok_or_else(|| format!("a relocation at {field:#x}, which is not in the data"))?;
        bytes[at..at + 8].copy_from_slice(&addend.to_le_bytes());
        write!(fields, "{field:#x}, ")?;
    }
    fs::write(out.join("code.bin"), elf.bytes(code.offset, code.len)?)?;
    fs::write(out.join("data.bin"), bytes)?;
    let program = format!(
        "Program {{ code: include_bytes!(\"code.bin\"), data_address: {:#x}, \
         data: include_bytes!(\"data.bin\"), entry: {:#x}, \
         relocations: &[{fields}] }}",
        data.address,
        elf.number(24, 8)?,
    );
    fs::write(out.join("program.rs"), program)?;
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

/// A loadable segment.
struct Segment {
    address: usize,
    offset: usize,
    len: usize,
    memory: usize,
}

/// A 64-bit little-endian executable.
struct Elf(Vec<u8>);

impl Elf {
    fn bytes(&self, at: usize, len: usize) -> Result<&[u8], Box<dyn Error>> {
        self.0.get(at..at + len).ok_or_else(|| "the executable is cut".into())
    }

    fn number(&self, at: usize, len: usize) -> Result<usize, Box<dyn Error>> {
        let mut word = [0; 8];
        word[..len].copy_from_slice(self.bytes(at, len)?);
        Ok(usize::try_from(u64::from_le_bytes(word))?)
    }

    fn segments(&self) -> Result<Vec<Segment>, Box<dyn Error>> {
        let (table, size, count) = (self.number(32, 8)?, self.number(54, 2)?, self.number(56, 2)?);
        let mut segments = Vec::new();
        for header in (0..count).map(|index| table + index * size) {
            if self.number(header, 4)? == PT_LOAD {
                let [offset, address, len, memory] =
                    [8, 16, 32, 40].map(|field| self.number(header + field, 8));
                let (offset, address, len, memory) = (offset?, address?, len?, memory?);
                segments.push(Segment { address, offset, len, memory });
            }
        }
        Ok(segments)
    }

    /// Addresses of fields and the addends that they get.
    fn relocations(&self) -> Result<Vec<(usize, usize)>, Box<dyn Error>> {
        let (table, size, count) = (self.number(40, 8)?, self.number(58, 2)?, self.number(60, 2)?);
        let mut relocations = Vec::new();
        for header in (0..count).map(|index| table + index * size) {
            if self.number(header + 4, 4)? != SHT_RELA {
                continue;
            }
            let (offset, len) = (self.number(header + 24, 8)?, self.number(header + 32, 8)?);
            for entry in (offset..offset + len).step_by(24) {
                if self.number(entry + 8, 8)? != RELATIVE {
                    return Err(format!("a relocation of type {:#x}", self.number(entry + 8, 8)?).into());
                }
                relocations.push((self.number(entry, 8)?, self.number(entry + 16, 8)?));
            }
        }
        relocations.sort_unstable();
        Ok(relocations)
    }
}
