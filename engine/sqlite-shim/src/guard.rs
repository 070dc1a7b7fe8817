//! No panic leaves the shim: every entry from C goes through here.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Does it; a panic, which is a bug, is printed by the runtime and gives `otherwise` to a program that lives on.
pub(crate) fn guarded<T>(otherwise: T, act: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or(otherwise)
}
