// SPDX-License-Identifier: Apache-2.0
//! Tiny guests on this machine's own KVM: no firmware, no operating system, a script each (`script`).
//!
//! They do what a well-behaved guest never does, in milliseconds. Where `/dev/kvm` is missing, the tests are
//! reported as ignored. Nested virtualisation without hardware support is fast enough: a guest runs a few ten
//! thousand instructions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;
mod console;
#[expect(unsafe_code, reason = "kill(2) has no safe interface in std")]
mod core_files;
mod hostile;
mod life;
#[expect(unsafe_code, reason = "takes the assembled interpreter from read-only data")]
mod script;
mod signals;
mod smp;
#[expect(unsafe_code, reason = "openpty and termios have no safe interface in std")]
mod terminal;
mod tpm;
mod virtio;

use common::{Ended, Lab};
use cvmm_test_support::suite::Missing;
use cvmm_test_support::{needs, suite};
use script::Script;

/// A VM for `script`.
fn lab(script: Script) -> Result<Lab, Missing> {
    needs::kvm()?;
    Ok(Lab::new(&script.image()))
}

/// Runs `script` to its end.
fn run(script: Script) -> Result<Ended, Missing> {
    lab(script).map(|lab| lab.start().finish())
}

suite!(
    script::image_is_what_a_processor_starts_from,
    console::much_output_arrives_complete,
    console::a_closed_pipe_does_not_stop_the_guest,
    console::an_unread_pipe_costs_output_and_little_time,
    console::input_reaches_the_guest_however_late_it_reads,
    console::the_end_of_input_is_not_the_end_of_the_guest,
    console::a_file_gets_the_output_appended,
    console::no_console_takes_everything,
    console::a_pseudo_terminal_is_named_and_works_both_ways,
    console::a_stuck_terminal_does_not_gather_threads_over_resets,
    core_files::a_crash_leaves_no_core_file,
    hostile::every_port_by_bytes,
    hostile::every_port_by_words,
    hostile::every_port_by_doublewords,
    hostile::unclaimed_memory,
    hostile::random_pci_configuration,
    hostile::fw_cfg_transfers_from_and_to_anywhere,
    hostile::long_fw_cfg_transfers_do_not_hold_up_a_stop,
    life::text_arrives_and_a_word_to_0x604_powers_off,
    life::a_byte_to_0x605_powers_off,
    life::a_reset_can_be_the_end,
    life::resets_leave_nothing_behind,
    life::the_grace_time_goes_on_through_resets,
    life::a_triple_fault_has_its_own_exit_code,
    life::a_guest_that_shows_nothing_is_ended_by_the_boot_timeout,
    life::a_guest_that_shows_something_may_be_slow,
    life::memory_above_4_gib_costs_nothing_untouched,
    life::timeline_and_counters_tell_what_happened,
    signals::each_stop_signal_presses_the_power_button,
    signals::a_guest_that_does_not_react_is_stopped_when_its_time_is_over,
    signals::a_second_signal_stops_at_once,
    signals::sigquit_stops_at_once_whatever_the_processors_do,
    signals::a_signal_ends_a_guest_that_keeps_all_exits_busy,
    signals::survives_being_stopped_and_continued,
    smp::every_processor_starts_and_knows_its_number,
    smp::sixty_four_processors_start_and_end,
    smp::processors_that_never_start_do_not_hold_up_the_end,
    smp::a_triple_fault_of_one_processor_ends_all,
    terminal::after_power_off_reset_and_triple_fault,
    terminal::after_a_stop_signal,
    terminal::after_the_operators_keys,
    terminal::control_characters_go_to_the_guest,
    terminal::after_an_error,
    tpm::answers_on_every_way,
    tpm::collects_writes_and_plays_them_in_order,
    tpm::starts_again_with_every_reset,
    tpm::a_guest_without_one_finds_nothing,
    tpm::anything_to_any_register,
    tpm::a_tpm_whose_process_is_killed,
    tpm::a_buffer_that_changes_while_commands_start,
    virtio::a_correct_request_is_served,
    virtio::broken_rings_stop_the_queue,
    virtio::requests_for_memory_that_is_not_there_fail,
    virtio::rings_outside_memory_are_not_enabled,
);
