// SPDX-License-Identifier: Apache-2.0
//! Test suites that report what they did not run.
//!
//! The built-in harness decides at build time what it ignores, so a test that finds no `/dev/kvm` can only
//! pass or fail. In a suite, a test returns [`Missing`] instead, and cargo's summary counts it as ignored,
//! with the reason. A suite is a test target with `harness = false`:
//!
//! ```no_run
//! use cvmm_test_support::{needs, suite};
//!
//! fn arithmetic_works() {
//!     assert_eq!(1 + 1, 2);
//! }
//!
//! fn the_guest_boots() -> suite::Result {
//!     needs::kvm()?;
//!     Ok(())
//! }
//!
//! suite!(arithmetic_works, the_guest_boots);
//! ```
//!
//! A test that is not listed is dead code, which the compiler reports.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};

pub use crate::needs::Missing;

/// What a test returns that may find something missing.
pub type Result = std::result::Result<(), Missing>;

/// What a test of a suite returns: nothing, or a [`Result`].
pub trait Outcome {
    /// The same as a [`Result`].
    #[allow(clippy::missing_errors_doc, reason = "the error is the test's own")]
    fn result(self) -> Result;
}

impl Outcome for () {
    fn result(self) -> Result {
        Ok(())
    }
}

impl Outcome for Result {
    fn result(self) -> Result {
        self
    }
}

/// A test for [`run`].
pub fn test<T: Outcome + 'static>(name: &'static str, function: fn() -> T) -> Trial {
    Trial::ignorable_test(name, move || {
        Ok(match function().result() {
            Ok(()) => Completion::Completed,
            Err(missing) => Completion::ignored_with(missing),
        })
    })
}

/// Runs those that the command line asks for, as cargo's own harness does.
pub fn run(tests: Vec<Trial>) -> ExitCode {
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

/// The variable that names the [role](crate::suite!) of a process.
pub const ROLE: &str = "CVMM_TEST_ROLE";

/// This test program again, in a role.
pub fn process(role: &str) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.env(ROLE, role);
    command
}

/// The `main` of a suite: the tests, by name. `roles` are functions that a test runs in a process of their
/// own, by [`process`](crate::suite::process).
#[macro_export]
macro_rules! suite {
    (roles: [$($role:path),+ $(,)?], $($test:path),+ $(,)?) => {
        fn main() -> ::std::process::ExitCode {
            match ::std::env::var($crate::suite::ROLE).as_deref() {
                $(Ok(stringify!($role)) => {
                    $role();
                    ::std::process::ExitCode::SUCCESS
                })+
                Ok(other) => panic!("this suite does not have the role {other}"),
                Err(_) => $crate::suite::run(vec![$($crate::suite::test(stringify!($test), $test)),+]),
            }
        }
    };
    ($($test:path),+ $(,)?) => {
        fn main() -> ::std::process::ExitCode {
            $crate::suite::run(vec![$($crate::suite::test(stringify!($test), $test)),+])
        }
    };
}
