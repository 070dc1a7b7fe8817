//! Test code that runs on a lab machine: an ignored test of the same program, started there by
//! [`super::Lab::inside`]. Started by itself, without arguments, it does nothing.

use std::process::Command;

const VARIABLE: &str = "LOCKSTEP_TEST_INSIDE";
const SEPARATOR: char = '\u{1f}';

pub(super) fn set_arguments(command: &mut Command, arguments: &[&str]) {
    command.env(VARIABLE, arguments.join(&SEPARATOR.to_string()));
}

/// What the starting test passed; `None` when nobody did, and then there is nothing to do.
pub(crate) fn arguments() -> Option<Vec<String>> {
    let text = std::env::var(VARIABLE).ok()?;
    Some(text.split(SEPARATOR).map(str::to_owned).collect())
}
