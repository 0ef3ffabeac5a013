// SPDX-License-Identifier: Apache-2.0
//! How long a change takes until it is on the disk: `write_time [FOLDER] [WRITES]`. The folder's disk is what
//! is measured.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "an example")]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cvmm_guest_state::{Expected, Kind, StateKey, Store, VmId};

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e3;
    println!("{what:44} min {:.3}  p50 {:.3}  p99 {:.3} ms", at(0), at(50), at(99));
}

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let folder = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let writes: usize = arguments.next().and_then(|text| text.to_str()?.parse().ok()).unwrap_or(2000);
    let folder = tempfile::tempdir_in(folder).unwrap();
    let path = folder.path().join("state.vmgs");
    let (key, vm_id) = (StateKey::random().unwrap(), VmId::new("vm").unwrap());

    let time = |run: &mut dyn FnMut()| {
        let began = Instant::now();
        run();
        began.elapsed()
    };
    show(
        "create",
        (0..5)
            .map(|number| {
                let path = folder.path().join(number.to_string());
                time(&mut || drop(Store::create(&path, &key, &vm_id, 0).unwrap()))
            })
            .collect(),
    );
    let mut store = Store::create(&path, &key, &vm_id, 0).unwrap();
    for len in [1315, 2848, 6005, 180 << 10] {
        let content = vec![0x5a; len];
        let mut write = || store.store(Kind::TpmPermanent, 1, &content).unwrap();
        show(&format!("write {len} bytes, durably"), (0..writes).map(|_| time(&mut write)).collect());
    }
    drop(store);
    let expected = Expected { vm_id, epochs: 0..=0, least_counter: 0 };
    let open = |_| time(&mut || drop(Store::open(&path, std::slice::from_ref(&key), &expected).unwrap()));
    show("open and verify (180 KiB)", (0..100).map(open).collect());

    // What the disk itself takes: the same two writes and syncs, and nothing else.
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let mut bare = || {
        file.write_all_at(&[1; 3 * 4096], 40 * 4096).unwrap();
        file.sync_data().unwrap();
        file.write_all_at(&[1; 168], 512).unwrap();
        file.sync_data().unwrap();
    };
    show("the disk alone (12 KiB, sync, 168 B, sync)", (0..writes).map(|_| time(&mut bare)).collect());
}
