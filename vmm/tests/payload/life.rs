// SPDX-License-Identifier: Apache-2.0
//! How a VM ends, is reset, and what is recorded of it.

use serde_json::Value;

use cvmm_test_support::suite;

use crate::common::{proc_count, status_field};
use crate::script::Script;
use crate::{lab, run};

pub fn text_arrives_and_a_word_to_0x604_powers_off() -> suite::Result {
    let text = "hello from the guest\r\n\x01\x7f";
    let ended = run(Script::new().text(text).out16(0x604, 0x2000).text("still there"))?;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), text), "{}", ended.stderr);
    Ok(())
}

pub fn a_byte_to_0x605_powers_off() -> suite::Result {
    let script = Script::new().out16(0x604, 1).in16(0x604).print().out8(0x605, 0x20).text("still there");
    let ended = run(script)?;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "00000001\n"), "{}", ended.stderr);
    Ok(())
}

pub fn a_reset_can_be_the_end() -> suite::Result {
    for (port, value) in [(0xcf9, 0x06), (0xcf9, 0x0e), (0x64, 0xfe)] {
        let script = Script::new().text("up\n").out8(port, value).text("still there");
        let lab = lab(script)?;
        let ended = lab.argument("--exit-on-reset").start().finish();
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(13), "up\n"), "{port:#x}: {}", ended.stderr);
    }
    Ok(())
}

/// Every reset builds the whole machine again; what one leaves behind shows after many.
pub fn resets_leave_nothing_behind() -> suite::Result {
    for (port, value) in [(0xcf9, 0x06), (0x64, 0xfe)] {
        let script = Script::new().text("boot\n").out8(port, value).halt();
        let lab = lab(script)?;
        let mut vm = lab.vcpus(2).argument("--grace=60").start();
        let pid = vm.pid();
        let boots = |text: &str| text.matches("boot\n").count();
        // In the middle of a rebuild there is less; the most that was seen counts.
        let mut most = |until: usize| {
            let seen = std::cell::Cell::new([0_u64; 3]);
            vm.wait_for("resets", |vm| {
                let now = [
                    proc_count(pid, "fd") as u64,
                    proc_count(pid, "task") as u64,
                    status_field(pid, "VmRSS:").unwrap_or(0),
                ];
                seen.set(std::array::from_fn(|i| now[i].max(seen.get()[i])));
                boots(&vm.stdout()) >= until
            });
            seen.get()
        };
        let first = most(12);
        let last = most(40);
        assert!(last[0] <= first[0] + 2, "descriptors: {first:?}, then {last:?}");
        assert!(last[1] <= first[1] + 2, "threads: {first:?}, then {last:?}");
        assert!(last[2] <= first[2] + 1024, "KiB of memory: {first:?}, then {last:?}");

        // The first request presses the power button of a guest that resets instead; the second one still
        // counts.
        vm.signal(libc::SIGTERM);
        let before = boots(&vm.stdout());
        vm.wait_for("resets after the signal", |vm| boots(&vm.stdout()) >= before + 3);
        vm.signal(libc::SIGTERM);
        let ended = vm.finish();
        assert_eq!(ended.code, Some(12), "{}", ended.stderr);
    }
    Ok(())
}

/// A guest that reboots when asked to power off is stopped all the same.
pub fn the_grace_time_goes_on_through_resets() -> suite::Result {
    let lab = lab(Script::new().text("boot\n").out8(0xcf9, 0x06).halt())?;
    let mut vm = lab.argument("--grace=1").start();
    vm.wait_for_text("boot\nboot\n");
    let asked = std::time::Instant::now();
    vm.signal(libc::SIGTERM);
    let ended = vm.finish();
    assert_eq!(ended.code, Some(12), "{}", ended.stderr);
    let took = asked.elapsed().as_secs_f64();
    assert!((0.9..6.0).contains(&took), "took {took} s");
    Ok(())
}

pub fn a_triple_fault_has_its_own_exit_code() -> suite::Result {
    let ended = run(Script::new().text("up\n").triple_fault().text("still there"))?;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(10), "up\n"), "{}", ended.stderr);
    Ok(())
}

/// The two ways in which a guest hangs before its console: without an exit, and in a loop that waits for a
/// device.
pub fn a_guest_that_shows_nothing_is_ended_by_the_boot_timeout() -> suite::Result {
    let cases = [
        (Script::new().spin(), "its firmware has accessed no device"),
        (Script::new().in32(0x608).spin(), "its firmware ran"),
        // Linux looks for the PCI bus so.
        (Script::new().out8(0xcfb, 1).halt(), "its kernel was entered"),
    ];
    for (script, seen) in cases {
        let lab = lab(script)?;
        let timeline = lab.path("timeline.json");
        let lab = lab.argument("--boot-timeout=1").argument(&format!("--timeline={}", timeline.display()));
        let mut vm = lab.start();
        vm.wait_for("the message", |vm| vm.stderr().contains("nothing to its console"));
        vm.wait_for("the timeline", |_| std::fs::metadata(&timeline).is_ok_and(|file| file.len() > 2));
        let text = std::fs::read_to_string(&timeline).unwrap();
        let ended = vm.finish();
        assert_eq!(ended.code, Some(16), "{}", ended.stderr);
        assert!(ended.stderr.contains(seen), "expected {seen:?}: {}", ended.stderr);
        let took = ended.took.as_secs_f64();
        assert!((1.0..8.0).contains(&took), "took {took} s");
        let recorded: Value = serde_json::from_str(&text).unwrap();
        let names: Vec<_> =
            recorded["phases"].as_array().unwrap().iter().map(|phase| &phase["name"]).collect();
        assert!(names.contains(&&Value::from("no_console")), "{names:?}");
        assert!(!names.contains(&&Value::from("user_space")), "{names:?}");
    }
    Ok(())
}

/// What has shown something is not hung; nor is what says by the marker port that its user space is up.
pub fn a_guest_that_shows_something_may_be_slow() -> suite::Result {
    for script in [Script::new().text("up\n").spin(), Script::new().out8(0x5f0, 1).spin()] {
        let lab = lab(script)?;
        let vm = lab.argument("--boot-timeout=1").argument("--grace=0").start();
        std::thread::sleep(std::time::Duration::from_millis(2500));
        vm.signal(libc::SIGTERM);
        let ended = vm.finish();
        assert_eq!(ended.code, Some(12), "{}", ended.stderr);
        assert!(!ended.stderr.contains("its console"), "{}", ended.stderr);
    }
    Ok(())
}

pub fn memory_above_4_gib_costs_nothing_untouched() -> suite::Result {
    let mut lab = lab(Script::new().text("up\n").halt())?;
    lab.memory = "5GiB";
    let mut vm = lab.argument("--grace=0").start();
    vm.wait_for_text("up\n");
    let resident = status_field(vm.pid(), "VmRSS:").unwrap();
    assert!(resident < 64 << 10, "{resident} KiB are resident");
    vm.signal(libc::SIGTERM);
    assert_eq!(vm.finish().code, Some(12));
    Ok(())
}

pub fn timeline_and_counters_tell_what_happened() -> suite::Result {
    let script = Script::new().in8(0x608).out8(0xcfb, 1).out8(0x5f0, 1).read32(0xfed4_0000).text("up\n");
    let lab = lab(script)?;
    let file = lab.path("timeline.json");
    let ended = lab.argument("--exit-stats").argument(&format!("--timeline={}", file.display())).start();
    // The folder must outlive the VM.
    let (ended, text) = {
        let mut vm = ended;
        vm.wait_for("the timeline", |_| {
            std::fs::read_to_string(&file).is_ok_and(|text| text.ends_with("}\n"))
        });
        let text = std::fs::read_to_string(&file).unwrap();
        (vm.finish(), text)
    };
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let recording: Value = serde_json::from_str(&text).unwrap();
    let phases: Vec<_> = recording["phases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mark| (mark["name"].as_str().unwrap(), mark["ns"].as_u64().unwrap()))
        .collect();
    let names: Vec<_> = phases.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        [
            "process_start",
            "config",
            "plan",
            "vm_created",
            "memory",
            "first_run",
            "firmware",
            "kernel",
            "user_space",
            "power_off",
            "exit"
        ]
    );
    assert!(phases.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{phases:?}");
    let exits = &recording["exits"];
    for (key, count) in [
        ("io.0x608", 1),
        ("io.0xcfb", 1),
        ("io.0x5f0", 1),
        ("io.0x3f8", 3),
        ("io.0x604", 1),
        ("mmio.0xfed40000", 1),
    ] {
        assert_eq!(exits[key], count, "{key} in {exits}");
        assert!(ended.stderr.contains(&format!("{count} {key}")), "{key} in {}", ended.stderr);
    }
    Ok(())
}
