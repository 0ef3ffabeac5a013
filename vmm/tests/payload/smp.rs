// SPDX-License-Identifier: Apache-2.0
//! More than one processor.

use cvmm_test_support::suite;

use crate::lab;
use crate::script::Script;

pub fn every_processor_starts_and_knows_its_number() -> suite::Result {
    for count in [2, 4] {
        let lab = lab(Script::new().processors(count))?;
        let ended = lab.vcpus(count).start().finish();
        let expected: String = (0..count).map(|id| format!("{id:08x}\n")).collect();
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), expected.as_str()), "{}", ended.stderr);
    }
    Ok(())
}

pub fn sixty_four_processors_start_and_end() -> suite::Result {
    let lab = lab(Script::new().processors(64))?;
    let ended = lab.vcpus(64).start().finish();
    let expected: String = (0..64).map(|id| format!("{id:08x}\n")).collect();
    assert_eq!((ended.code, ended.stdout), (Some(0), expected), "{}", ended.stderr);
    Ok(())
}

/// Processors that were never started wait in the kernel and must come out of it.
pub fn processors_that_never_start_do_not_hold_up_the_end() -> suite::Result {
    let lab = lab(Script::new().text("up\n"))?;
    let ended = lab.vcpus(64).start().finish();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "up\n"), "{}", ended.stderr);
    Ok(())
}

pub fn a_triple_fault_of_one_processor_ends_all() -> suite::Result {
    let lab = lab(Script::new().processors(4).triple_fault())?;
    let ended = lab.vcpus(4).start().finish();
    assert_eq!(ended.code, Some(10), "{}", ended.stderr);
    Ok(())
}
