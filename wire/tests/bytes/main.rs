//! The wire format from outside: golden bytes, properties, the fuzz corpus, docs/protocol.md.
//!
//! `LOCKSTEP_BLESS=1` rewrites golden files and the generated tables after a change that was meant.
#![allow(clippy::disallowed_methods, reason = "tests read the files beside them; the crate itself may not")]

#[path = "../../fuzz/checks.rs"]
mod checks;
mod corpus;
mod golden;
mod properties;
mod protocol_doc;
mod refusals;
mod samples;

use std::{env, fs, path::Path};

/// Compares `text` with the file, or writes it there when blessing.
fn assert_file_holds(path: &Path, text: &str) {
    if env::var_os("LOCKSTEP_BLESS").is_some() {
        fs::write(path, text).unwrap_or_else(|e| panic!("writing {}: {e}", path.display()));
    }
    let found = fs::read_to_string(path).unwrap_or_else(|e| panic!("reading {}: {e}", path.display()));
    assert!(
        found == text,
        "{} differs from the code. If the change is meant (and another version's node still understands it), \
         run the test with LOCKSTEP_BLESS=1.\n--- the code says\n{text}",
        path.display()
    );
}
