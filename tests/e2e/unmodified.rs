//! Programs that know nothing of Lockstep, on real pairs: what COMMIT has returned for is not lost.
//!
//! The demonstration's application is told to answer its clients when COMMIT returns.

use lockstep::lab::APP_PORT;

use crate::harness::{Pair, unmodified_app};

/// Takes the power of each node once, and counts.
fn loses_nothing(mut pair: Pair) {
    pair.moves(|pair| {
        pair.lab.ok(&["power-off", "a"]);
        pair.taken_over_by("b");
    });
    pair.lab.ok(&["power-on", "a"]);
    pair.in_sync_under("b");
    pair.lab.ok(&["power-off", "a"]);
    pair.until("solo, durably", || pair.status("b").is_some_and(|b| b.solo));
    pair.writes_go_on();
    pair.lab.ok(&["power-on", "a"]);
    pair.in_sync_under("b");
    pair.moves(|pair| {
        pair.lab.ok(&["power-off", "b"]);
        pair.taken_over_by("a");
    });
    pair.lab.ok(&["power-on", "b"]);
    pair.end("a");
}

#[test]
fn what_commit_returned_for_survives_the_power_loss_of_either_node() {
    loses_nothing(Pair::with_app(&unmodified_app(), &[]));
}

#[test]
fn every_commit_of_an_unmodified_program_counts_as_waited_for() {
    let pair = Pair::with_app(&unmodified_app(), &[]);
    let before = pair.acknowledged();
    pair.until("fifty acknowledged writes", || pair.acknowledged() >= before + 50);
    pair.until("no commit that nobody waited for", || {
        pair.status("a").is_some_and(|status| status.unwaited_commits == 0)
    });
    pair.end("a");
}

#[test]
#[ignore = "needs node, and better-sqlite3 in $LOCKSTEP_NODE_MODULES: docs/testing.md"]
fn long_a_node_program_with_better_sqlite3_loses_nothing_it_committed() {
    let modules = std::env::var("LOCKSTEP_NODE_MODULES").expect("LOCKSTEP_NODE_MODULES names a node_modules");
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/e2e/programs/orders.js");
    let (lockstep, database) = (env!("CARGO_BIN_EXE_lockstep"), "$LOCKSTEP_DATABASE_MAIN");
    let app =
        format!("NODE_PATH='{modules}' exec '{lockstep}' run -- node '{program}' \"{database}\" {APP_PORT}");
    loses_nothing(Pair::with_app(&app, &[]));
}
