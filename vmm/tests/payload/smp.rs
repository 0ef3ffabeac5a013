// SPDX-License-Identifier: Apache-2.0
//! More than one processor.

use crate::lab;
use crate::script::Script;

#[test]
fn every_processor_starts_and_knows_its_number() {
    for count in [2, 4] {
        let Some(lab) = lab(Script::new().processors(count)) else { return };
        let ended = lab.vcpus(count).start().finish();
        let expected: String = (0..count).map(|id| format!("{id:08x}\n")).collect();
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), expected.as_str()), "{}", ended.stderr);
    }
}

#[test]
fn sixty_four_processors_start_and_end() {
    let Some(lab) = lab(Script::new().processors(64)) else { return };
    let ended = lab.vcpus(64).start().finish();
    let expected: String = (0..64).map(|id| format!("{id:08x}\n")).collect();
    assert_eq!((ended.code, ended.stdout), (Some(0), expected), "{}", ended.stderr);
}

/// Processors that were never started wait in the kernel and must come out of it.
#[test]
fn processors_that_never_start_do_not_hold_up_the_end() {
    let Some(lab) = lab(Script::new().text("up\n")) else { return };
    let ended = lab.vcpus(64).start().finish();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "up\n"), "{}", ended.stderr);
}

#[test]
fn a_triple_fault_of_one_processor_ends_all() {
    let Some(lab) = lab(Script::new().processors(4).triple_fault()) else { return };
    let ended = lab.vcpus(4).start().finish();
    assert_eq!(ended.code, Some(10), "{}", ended.stderr);
}
