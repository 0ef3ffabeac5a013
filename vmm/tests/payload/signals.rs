// SPDX-License-Identifier: Apache-2.0
//! Stop signals: the power button, the grace time, and stopping at once, whatever the guest is doing.

use std::time::Instant;

use cvmm_test_support::suite;
use cvmm_test_support::suite::Missing;

use crate::lab;
use crate::script::Script;

/// The I/O APIC pin of the power button; ACPI tells a real guest.
const BUTTON_PIN: u32 = 9;

/// Runs `script` until it says "up", sends `signals`, and gives exit code and seconds from the first of them.
fn stop(
    script: Script,
    vcpus: u32,
    grace: &str,
    signals: &[libc::c_int],
) -> Result<(Option<i32>, f64), Missing> {
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
    Ok((ended.code, asked.elapsed().as_secs_f64()))
}

fn up() -> Script {
    Script::new().text("up\n")
}

pub fn each_stop_signal_presses_the_power_button() -> suite::Result {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        let (code, took) = stop(up().button(BUTTON_PIN), 1, "--grace=20", &[signal])?;
        assert_eq!(code, Some(0), "signal {signal}: the guest powered itself off");
        assert!(took < 10.0, "signal {signal}: took {took} s");
    }
    Ok(())
}

pub fn a_guest_that_does_not_react_is_stopped_when_its_time_is_over() -> suite::Result {
    for script in [up().halt(), up().spin()] {
        let (code, took) = stop(script, 1, "--grace=1", &[libc::SIGTERM])?;
        assert_eq!(code, Some(12));
        assert!((1.0..6.0).contains(&took), "took {took} s");
    }
    Ok(())
}

pub fn a_second_signal_stops_at_once() -> suite::Result {
    for second in [libc::SIGTERM, libc::SIGINT] {
        let (code, took) = stop(up().halt(), 1, "--grace=60", &[libc::SIGTERM, second])?;
        assert_eq!(code, Some(12));
        assert!(took < 10.0, "took {took} s");
    }
    Ok(())
}

pub fn sigquit_stops_at_once_whatever_the_processors_do() -> suite::Result {
    for (script, vcpus) in [(up().halt(), 1), (up().spin(), 1), (up().processors(4).spin(), 4)] {
        let (code, took) = stop(script, vcpus, "--grace=60", &[libc::SIGQUIT])?;
        assert_eq!(code, Some(12));
        assert!(took < 10.0, "took {took} s");
    }
    Ok(())
}

pub fn a_signal_ends_a_guest_that_keeps_all_exits_busy() -> suite::Result {
    // About a million exits, far more than the grace time allows.
    let busy =
        up().sweep_ports(1, 0).sweep_ports(2, 0).sweep_ports(4, 0).sweep_memory(0xfed0_0000, 0, 100_000);
    let (code, took) = stop(busy, 1, "--grace=0", &[libc::SIGTERM])?;
    assert_eq!(code, Some(12));
    assert!(took < 6.0, "took {took} s");
    Ok(())
}

/// Job control: a stop and a continue in the middle change nothing.
pub fn survives_being_stopped_and_continued() -> suite::Result {
    let lab = lab(up().button(BUTTON_PIN).text("button\n"))?;
    let mut vm = lab.argument("--grace=20").start();
    vm.wait_for_text("up\n");
    vm.signal(libc::SIGSTOP);
    std::thread::sleep(std::time::Duration::from_millis(50));
    vm.signal(libc::SIGCONT);
    vm.signal(libc::SIGTERM);
    let ended = vm.finish();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "up\nbutton\n"), "{}", ended.stderr);
    Ok(())
}
