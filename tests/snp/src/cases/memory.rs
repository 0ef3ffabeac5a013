// SPDX-License-Identifier: Apache-2.0
//! "The host cannot read or write the guest" as tests.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};

use super::Case;
use super::guests::terminated;
use crate::code::{HALT, SECRET_AT, TERMINATE, make_secret, secret};
use crate::mailbox::frame_behind;
use crate::memory::{Dump, Rmp};
use crate::plain::PlainVm;
use crate::sys;
use crate::vm::{DATA, PAGE, SnpVm};

pub const CASES: &[Case] = &[
    Case { name: "secret", about: "64 bytes made by the guest, in a dump of the host's memory", run: hidden },
    Case { name: "host-write", about: "the host's kernel writes to a private page", run: host_write },
    Case { name: "rmp-write", about: "the host writes to the RMP", run: rmp_write },
];

/// Each guest has a seed of its own, so that what an earlier one left behind is not found.
fn hidden(_: &crate::Options) -> Result<String> {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).context("the time")?.subsec_nanos();
    let dump = Dump::open()?;
    let words = |seed| move || -> Box<dyn Iterator<Item = u32>> { Box::new(secret(seed)) };

    let mut plain = PlainVm::new(&make_secret(seed, &HALT))?;
    ensure!(plain.run()?, "the plain guest did not get to its HLT");
    let (places, pages) = dump.find(words(seed), true)?;
    ensure!(!places.is_empty(), "the plain guest's secret is not among {pages} pages: the search is broken");
    let start = DATA as usize + SECRET_AT;
    plain.memory()[start..start + 64].fill(0);
    drop(plain);

    let mut vm = SnpVm::started()?;
    vm.code(&make_secret(!seed, &TERMINATE))?;
    vm.zeros(DATA)?;
    vm.finish()?;
    terminated(&mut vm)?;
    let (seen, pages) = dump.find(words(!seed), false)?;
    ensure!(seen.is_empty(), "the SNP guest's secret can be read at {seen:x?}");
    // It is there, and what the host sees of it is not what the host gave.
    let frame = frame_of(DATA)?;
    let mut bytes = [0; 64];
    dump.read(frame * PAGE as u64 + SECRET_AT as u64, &mut bytes)?;
    ensure!(bytes != [0; 64], "the host sees zeros at {frame:#x}");
    Ok(format!("plain: found; SNP: not in {pages} pages in use"))
}

fn frame_of(gpa: u64) -> Result<u64> {
    let frames = Rmp::open()?.frames_at(gpa);
    ensure!(frames.len() == 1, "{} RMP entries are validated at {gpa:#x}", frames.len());
    Ok(frames[0] as u64)
}

/// A kernel module does the write: user space has no way to such a page. The kernel kills the process that
/// loads it.
fn host_write(options: &crate::Options) -> Result<String> {
    let mut vm = SnpVm::started()?;
    vm.code(&TERMINATE)?;
    vm.zeros(DATA)?;
    vm.finish()?;
    let frame = frame_of(DATA)?;

    // Control: an ordinary page, of this process.
    let mut ordinary = sys::Mapping::new(PAGE)?;
    ordinary.bytes()[0] = 1;
    let own = frame_behind(ordinary.address())?;
    let module = File::open(&options.poke).with_context(|| format!("open {}", options.poke.display()))?;
    // It refuses to stay, once its work is done.
    match sys::load_module(&module, &format!("frame={own} value=77")) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => (),
        other => bail!("the module did not run: {other:?}; see the kernel's log"),
    }
    ensure!(ordinary.bytes()[0] == 77, "the module does not write");

    let before = sys::dmesg()?.len();
    let status = Command::new("insmod")
        .arg(&options.poke)
        .arg(format!("frame={frame}"))
        .arg("value=77")
        .status()
        .context("start insmod")?;
    let log = sys::dmesg()?;
    let said = log.get(before..).unwrap_or(&log);
    ensure!(status.signal() == Some(libc::SIGKILL), "the write to frame {frame:#x} went through: {status}");
    let line =
        said.lines().find(|line| line.contains("RMP violation")).context("no RMP violation in the log")?;
    terminated(&mut vm)?;
    Ok(line.split_once("] ").map_or(line, |(_, text)| text).to_owned())
}

/// The kernel has no answer to such a fault but to try again: our alarm ends it.
fn rmp_write(_: &crate::Options) -> Result<String> {
    let (signal, changed) = Rmp::open()?.try_write()?;
    ensure!(!changed, "the RMP was changed");
    let signal = signal.context("the write to the RMP did not fault")?;
    Ok(format!("signal {signal}, unchanged"))
}
