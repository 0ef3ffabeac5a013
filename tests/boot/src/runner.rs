// SPDX-License-Identifier: Apache-2.0
//! Runs cases: each in a folder of its own, some at a time, and those that change the host alone.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::Options;
use crate::cases::Case;
use crate::harness::{Ctx, Skip};
use crate::report::{self, Finished, Verdict};

/// Files larger than this (disk images) are not kept.
const KEEP_LIMIT: u64 = 1 << 20;

/// Runs `cases`; true if none failed.
pub fn run(options: &Options, cases: &[Case]) -> Result<bool> {
    ensure!(!cases.is_empty(), "no case has {:?} in its name; --list shows them", options.filter);
    for (what, path) in [
        ("--cvmm", &options.cvmm),
        ("--hostile", &options.hostile),
        ("--guest", &options.guest),
        ("--firmware", &options.firmware),
        ("--stock-firmware", &options.stock_firmware),
    ] {
        ensure!(path.exists(), "{what}: there is no {}", path.display());
    }
    let work = tempfile::Builder::new().prefix("cvmm-boot-").tempdir().context("make a work folder")?;
    let began = Instant::now();
    let next = AtomicUsize::new(0);
    // Cases that rename /dev/kvm and the like hold it for writing.
    let host = RwLock::new(());
    let finished = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..options.jobs.clamp(1, 16) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let one = if case.alone {
                        let _guard = host.write().unwrap_or_else(PoisonError::into_inner);
                        run_case(options, case, work.path())
                    } else {
                        let _guard = host.read().unwrap_or_else(PoisonError::into_inner);
                        run_case(options, case, work.path())
                    };
                    let mut finished = finished.lock().unwrap_or_else(PoisonError::into_inner);
                    report::case(&one, &work.path().join(case.name));
                    finished.push(one);
                    drop(finished);
                    put_away(options, case, work.path());
                }
            });
        }
    });
    let finished = finished.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = &options.json {
        let text = format!("{:#}\n", report::json(&finished, began.elapsed()));
        fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    report::total(&finished);
    Ok(report::count(&finished).1 == 0)
}

fn run_case(options: &Options, case: &Case, work: &Path) -> Finished {
    let dir = work.join(case.name);
    let began = Instant::now();
    let ctx = Ctx::new(options, &dir, case.limit);
    let result = fs::create_dir(&dir)
        .context("make the case's folder")
        // A bug in a case must not take the others' results with it.
        .and_then(|()| {
            catch_unwind(AssertUnwindSafe(|| (case.run)(&ctx)))
                .unwrap_or_else(|_| Err(anyhow::anyhow!("the case itself panicked")))
        });
    let verdict = match result {
        Ok(()) => Verdict::Passed,
        Err(error) => match error.downcast_ref::<Skip>() {
            Some(skip) => Verdict::Skipped(skip.0.clone()),
            None => Verdict::Failed(format!("{error:#}")),
        },
    };
    Finished { name: case.name, verdict, spent: began.elapsed(), boots: ctx.into_records() }
}

/// Keeps the logs if asked to and gives the memory of disk images back (the folder is on a tmpfs in L1).
fn put_away(options: &Options, case: &Case, work: &Path) {
    let dir = work.join(case.name);
    if let Some(keep) = &options.keep {
        let to = keep.join(case.name);
        let _ = fs::create_dir_all(&to);
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.metadata().is_ok_and(|data| data.is_file() && data.len() <= KEEP_LIMIT) {
                // A lost log does not fail the case.
                let _ = fs::copy(entry.path(), to.join(entry.file_name()));
            }
        }
    }
    let _ = fs::remove_dir_all(&dir);
}
