// SPDX-License-Identifier: Apache-2.0
//! Who is compared and how each is started.
//!
//! Everything that is read during a run is copied to a tmpfs first. QEMU gets the leanest q35 that boots this
//! guest; docs/internals/performance.md gives the reason for every option.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A VMM with a boot profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contestant {
    /// cvmm, its default profile.
    CvmmUki,
    /// The same with a TPM, which firmware and the UKI's stub measure into.
    CvmmTpm,
    /// QEMU with the UKI and its HOB placed in RAM by hand.
    QemuUki,
    /// cvmm with kernel, initrd and command line by fw_cfg.
    CvmmHashes,
    /// QEMU's `-kernel`, with the hash page placed by hand.
    QemuHashes,
}

impl Contestant {
    /// All of ordinary guests, in the order of a round: the two of a pair follow each other.
    pub const PLAIN: [Self; 5] =
        [Self::CvmmUki, Self::CvmmTpm, Self::QemuUki, Self::CvmmHashes, Self::QemuHashes];
    /// All of SNP guests: a loader device's pages are not part of QEMU's launch, so that it has one way of
    /// direct boot.
    pub const SNP: [Self; 4] = [Self::CvmmUki, Self::CvmmTpm, Self::CvmmHashes, Self::QemuHashes];

    /// Who is compared.
    pub fn all(snp: bool) -> &'static [Self] {
        if snp { &Self::SNP } else { &Self::PLAIN }
    }

    pub fn is_cvmm(self) -> bool {
        matches!(self, Self::CvmmUki | Self::CvmmTpm | Self::CvmmHashes)
    }

    fn is_uki(self) -> bool {
        matches!(self, Self::CvmmUki | Self::CvmmTpm | Self::QemuUki)
    }

    /// The name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::CvmmUki => "cvmm-uki",
            Self::CvmmTpm => "cvmm-uki-tpm",
            Self::QemuUki => "qemu-uki",
            Self::CvmmHashes => "cvmm-hashes",
            Self::QemuHashes => "qemu-hashes",
        }
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// Size of the guest.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    pub vcpus: u32,
    pub memory_mib: u32,
    /// An SNP guest.
    pub snp: bool,
}

/// Programs and images on the tmpfs.
#[derive(Debug)]
pub struct Files {
    dir: PathBuf,
}

/// Where the firmware's hash page, its HOB page and the UKI are in guest RAM (cvmm's own plan puts them there
/// too).
const HASHES_ADDRESS: &str = "0x810000";
const HOB_ADDRESS: &str = "0x813000";
const UKI_ADDRESS: &str = "0x2000000";

impl Files {
    /// Copies all that is needed to `dir`.
    pub fn stage(dir: &Path, cvmm: &Path, qemu: &Path, images: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        for (from, to) in [(cvmm, "cvmm"), (qemu, "qemu"), (images, "images")] {
            // cp keeps modes and links, which the unpacked QEMU is full of.
            let status = Command::new("cp").arg("-a").arg(from).arg(dir.join(to)).status().context("cp")?;
            ensure!(status.success(), "cannot copy {} to {}", from.display(), dir.display());
        }
        fs::File::create(dir.join("disk.img"))?.set_len(16 << 20)?;
        Ok(Self { dir: dir.to_path_buf() })
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// The program and arguments that run the guest's test `test`.
    pub fn command(&self, contestant: Contestant, machine: Machine, test: &str) -> Result<Command> {
        if contestant.is_cvmm() {
            self.cvmm(contestant, machine, test)
        } else {
            self.qemu(contestant, machine, test)
        }
    }

    fn cvmm(&self, contestant: Contestant, machine: Machine, test: &str) -> Result<Command> {
        let boot = if contestant.is_uki() {
            format!("profile = \"uki\"\nuki = \"{}\"", self.path(&format!("images/{test}.efi")))
        } else {
            format!(
                "profile = \"hashes\"\nkernel = \"{}\"\ninitrd = \"{}\"\ncmdline = \"{}\"",
                self.path("images/vmlinuz"),
                self.path("images/initrd.img"),
                self.cmdline(test)?,
            )
        };
        let tpm = if contestant == Contestant::CvmmTpm { "[vtpm]\nmode = \"in-process\"\n" } else { "" };
        let config = format!(
            "name = \"bench\"\nvcpus = {}\nmemory = \"{}MiB\"\nisolation = \"{}\"\nfirmware = \"{}\"\nrng = false\n\
             [boot]\n{boot}\n{tpm}[[disk]]\npath = \"{}\"\nserial = \"data\"\n[console]\ndevice = \"serial\"\nmode = \"stdio\"\n\
             [debug]\nuser_space_marker = \"cvmm-guest: userspace\"\n",
            machine.vcpus,
            machine.memory_mib,
            if machine.snp { "snp" } else { "none" },
            self.path("images/OVMF.amdsev.fd"),
            self.path("disk.img"),
        );
        let file = self.path("vm.toml");
        fs::write(&file, config)?;
        let mut command = Command::new(self.path("cvmm"));
        command.args(["run", "--config", &file, "--timeline", &self.path("timeline.json")]);
        if machine.snp {
            command.arg("--without-gate");
        }
        Ok(command)
    }

    fn cmdline(&self, test: &str) -> Result<String> {
        let path = self.path(&format!("images/{test}.cmdline"));
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }

    fn qemu(&self, contestant: Contestant, machine: Machine, test: &str) -> Result<Command> {
        // By its own dynamic linker: the package's libraries are not this host's.
        let mut command = Command::new(self.path("qemu/lib64/ld-linux-x86-64.so.2"));
        // No user interface, sound or other modules to look for.
        command.env("QEMU_MODULE_DIR", self.path("qemu/no-modules"));
        command.args([
            "--library-path",
            &self.path("qemu/lib"),
            &self.path("qemu/usr/bin/qemu-system-x86_64"),
        ]);
        command.args(["-L", &self.path("qemu/share"), "-nodefaults", "-no-user-config", "-display", "none"]);
        let board = "q35,accel=kvm,kernel-irqchip=on,pit=off,pic=off,hpet=off,smm=off,sata=off,usb=off,smbus=off,i8042=off,vmport=off,graphics=off";
        if machine.snp {
            command.args(["-machine", &format!("{board},confidential-guest-support=snp")]);
            command.args([
                "-object",
                "sev-snp-guest,id=snp,cbitpos=51,reduced-phys-bits=1,policy=0x30000,kernel-hashes=on",
            ]);
        } else {
            command.args(["-machine", board]);
        }
        command.args(["-cpu", "host", "-smp", &machine.vcpus.to_string()]);
        command.args(["-m", &format!("{}M", machine.memory_mib)]);
        command.args(["-bios", &self.path("images/OVMF.amdsev.fd"), "-monitor", "none", "-serial", "stdio"]);
        command.args(["-drive", &format!("if=none,id=disk,format=raw,file={}", self.path("disk.img"))]);
        command.args([
            "-device",
            "virtio-blk-pci,drive=disk,serial=data,disable-legacy=on,iommu_platform=on,romfile=",
        ]);
        let mut load = |file: String, address: &str| {
            command.args(["-device", &format!("loader,file={file},addr={address},force-raw=on")]);
        };
        if contestant.is_uki() {
            load(self.path(&format!("images/{test}.efi")), UKI_ADDRESS);
            load(self.path(&format!("images/{test}.hob")), HOB_ADDRESS);
        } else {
            // An SNP guest's hash page QEMU makes itself.
            if !machine.snp {
                load(self.path(&format!("images/{test}.hashes")), HASHES_ADDRESS);
            }
            command.args([
                "-kernel",
                &self.path("images/vmlinuz"),
                "-initrd",
                &self.path("images/initrd.img"),
            ]);
            command.args(["-append", &self.cmdline(test)?]);
        }
        Ok(command)
    }

    /// The phases in cvmm's timeline of the run before, in seconds; none for QEMU.
    pub fn take_timeline(&self, contestant: Contestant) -> Result<Vec<(String, f64)>> {
        if !contestant.is_cvmm() {
            return Ok(Vec::new());
        }
        let path = self.path("timeline.json");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        fs::remove_file(&path)?;
        phases(&text)
    }
}

fn phases(text: &str) -> Result<Vec<(String, f64)>> {
    let json: serde_json::Value = serde_json::from_str(text).context("cvmm's timeline is not JSON")?;
    let marks = json["phases"].as_array().context("cvmm's timeline has no phases")?;
    marks
        .iter()
        .map(|mark| {
            let name = mark["name"].as_str().context("a phase without a name")?;
            let ns = mark["ns"].as_f64().context("a phase without a time")?;
            Ok((name.to_owned(), ns / 1e9))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_timeline() {
        let text =
            r#"{"version":1,"phases":[{"name":"process_start","ns":0},{"name":"exit","ns":2500000000}]}"#;
        assert_eq!(phases(text).unwrap(), [("process_start".to_owned(), 0.0), ("exit".to_owned(), 2.5)]);
        assert!(phases("{}").is_err());
        assert!(phases(r#"{"phases":[{"name":"exit"}]}"#).is_err());
    }

    #[test]
    fn both_of_a_pair_get_the_same_guest() {
        let dir = std::env::temp_dir().join(format!("cvmm-bench-test-{}", std::process::id()));
        fs::create_dir_all(dir.join("images")).unwrap();
        fs::write(dir.join("images/boot.cmdline"), "console=ttyS0 quiet").unwrap();
        let files = Files { dir: dir.clone() };
        let machine = Machine { vcpus: 2, memory_mib: 512, snp: false };
        let text_of = |contestant, machine| {
            let command = files.command(contestant, machine, "boot").unwrap();
            let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
            args.join(" ") + &fs::read_to_string(dir.join("vm.toml")).unwrap_or_default()
        };
        let text = |contestant| text_of(contestant, machine);
        for contestant in [Contestant::CvmmHashes, Contestant::QemuHashes] {
            let text = text(contestant);
            for part in
                ["images/vmlinuz", "images/initrd.img", "console=ttyS0 quiet", "OVMF.amdsev.fd", "disk.img"]
            {
                assert!(text.contains(part), "{contestant}: no {part} in {text}");
            }
        }
        assert!(
            text(Contestant::CvmmTpm).contains("[vtpm]") && !text(Contestant::CvmmUki).contains("[vtpm]")
        );
        let uki = text(Contestant::QemuUki);
        assert!(uki.contains("boot.efi,addr=0x2000000") && uki.contains("boot.hob,addr=0x813000"));
        assert!(!uki.contains("-kernel"));
        let snp = |contestant| text_of(contestant, Machine { snp: true, ..machine });
        let qemu = snp(Contestant::QemuHashes);
        assert!(qemu.contains("kernel-hashes=on") && qemu.contains("confidential-guest-support=snp"));
        assert!(!qemu.contains("loader") && qemu.contains("images/vmlinuz"));
        let cvmm = snp(Contestant::CvmmUki);
        assert!(cvmm.contains("isolation = \"snp\"") && cvmm.contains("--without-gate"));
        fs::remove_dir_all(dir).unwrap();
    }
}
