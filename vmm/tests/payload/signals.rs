// SPDX-License-Identifier: Apache-2.0
//! Stop signals: the power button, the grace time, and stopping at once, whatever the guest is doing.

use std::time::Instant;

use crate::lab;
use crate::script::Script;

/// The I/O APIC pin of the power button; ACPI tells a real guest.
const BUTTON_PIN: u32 = 9;

/// Runs `script` until it says "up", sends `signals`, and gives exit code and seconds from the first of them.
fn stop(script: Script, vcpus: u32, grace: &str, signals: &[libc::c_int]) -> Option<(Option<i32>, f64)> {
    let mut vm = lab(script)?.vcpus(vcpus).argument(grace).start();
    vm.wait_for_text("up\n");
    let asked = Instant::now();
    for (index, signal) in signals.iter().enumerate() {
        if index > 0 {
            // Two signals of one kind that are both pending are one.
            vm.wait_for("the power button", |vm| vm.stderr().contains("power button"));
        }
        vm.signal(*signal);
    }
    let ended = vm.finish();
    assert!(ended.stderr.contains("stop signal"), "{}", ended.stderr);
    Some((ended.code, asked.elapsed().as_secs_f64()))
}

fn up() -> Script {
    Script::new().text("up\n")
}

#[test]
fn each_stop_signal_presses_the_power_button() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        let Some((code, took)) = stop(up().button(BUTTON_PIN), 1, "--grace=20", &[signal]) else { return };
        assert_eq!(code, Some(0), "signal {signal}: the guest powered itself off");
        assert!(took < 10.0, "signal {signal}: took {took} s");
    }
}

#[test]
fn a_guest_that_does_not_react_is_stopped_when_its_time_is_over() {
    for script in [up().halt(), up().spin()] {
        let Some((code, took)) = stop(script, 1, "--grace=1", &[libc::SIGTERM]) else { return };
        assert_eq!(code, Some(12));
        assert!((1.0..6.0).contains(&took), "took {took} s");
    }
}

#[test]
fn a_second_signal_stops_at_once() {
    for second in [libc::SIGTERM, libc::SIGINT] {
        let Some((code, took)) = stop(up().halt(), 1, "--grace=60", &[libc::SIGTERM, second]) else { return };
        assert_eq!(code, Some(12));
        assert!(took < 10.0, "took {took} s");
    }
}

#[test]
fn sigquit_stops_at_once_whatever_the_processors_do() {
    for (script, vcpus) in [(up().halt(), 1), (up().spin(), 1), (up().processors(4).spin(), 4)] {
        let Some((code, took)) = stop(script, vcpus, "--grace=60", &[libc::SIGQUIT]) else { return };
        assert_eq!(code, Some(12));
        assert!(took < 10.0, "took {took} s");
    }
}

#[test]
fn a_signal_ends_a_guest_that_keeps_all_exits_busy() {
    // About a million exits, far more than the grace time allows.
    let busy =
        up().sweep_ports(1, 0).sweep_ports(2, 0).sweep_ports(4, 0).sweep_memory(0xfed0_0000, 0, 100_000);
    let Some((code, took)) = stop(busy, 1, "--grace=0", &[libc::SIGTERM]) else { return };
    assert_eq!(code, Some(12));
    assert!(took < 6.0, "took {took} s");
}

/// Job control: a stop and a continue in the middle change nothing.
#[test]
fn survives_being_stopped_and_continued() {
    let Some(lab) = lab(up().button(BUTTON_PIN).text("button\n")) else { return };
    let mut vm = lab.argument("--grace=20").start();
    vm.wait_for_text("up\n");
    vm.signal(libc::SIGSTOP);
    std::thread::sleep(std::time::Duration::from_millis(50));
    vm.signal(libc::SIGCONT);
    vm.signal(libc::SIGTERM);
    let ended = vm.finish();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "up\nbutton\n"), "{}", ended.stderr);
}
