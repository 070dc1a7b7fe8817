//! Real power loss: nodes on file systems of their own that are shut down without flushing, under load.
//!
//! After each loss the node starts without its agent, and its database is read as the power left it; then
//! it comes back, and the next loss hits it or the other. What was acknowledged is written down outside.

use std::time::Duration;

use lockstep::status::{PairState, PairStatus};

use crate::harness::invariants::Commits;
use crate::harness::{Pair, unmodified_app, waiting_app};
use crate::simulated::seed;

/// The longest time under load before a loss.
const LOAD: Duration = Duration::from_millis(400);

/// Each node loses its power so many times as active and as standby, half of `losses_of_each` each.
fn power_losses(disk: &str, app: &str, losses_of_each: u32) {
    let mut moments = seed();
    let mut pair = Pair::with_app(app, &["--disk", disk]);
    let mut active = "a";
    for loss in 0..2 * losses_of_each {
        std::thread::sleep(moment(&mut moments));
        // On a machine that is too busy the address may move at any moment.
        pair.moves(|pair| active = lose_power(pair, loss));
    }
    println!(
        "{} orders acknowledged over {} power losses on {disk}",
        pair.acknowledged(),
        2 * losses_of_each
    );
    pair.end(active);
}

/// The standby, or with an odd number the active, loses its power and comes back; answers who serves then.
fn lose_power(pair: &Pair, loss: u32) -> &'static str {
    // What was acknowledged before both are in sync is on both disks.
    let (mut safe, mut active) = (Commits::default(), "a");
    pair.until("somebody serves in sync", || {
        safe = Commits::acknowledged(&pair.acknowledged_file()).expect("the client's file");
        let found = ["a", "b"].into_iter().find(|node| pair.is_in_sync(node));
        active = found.unwrap_or(active);
        found.is_some()
    });
    let standby = if active == "a" { "b" } else { "a" };
    let node = if loss % 2 == 1 { active } else { standby };
    pair.lab.ok(&["power-off", node]);
    if node == active {
        // The grant may have ended before: then it asks, rightly.
        pair.until("a takeover or a question", || {
            let seen = |status: PairStatus| status.state == PairState::Active || status.question.is_some();
            pair.status(standby).is_some_and(seen)
        });
    }
    pair.lab.ok(&["power-on", "--no-agent", node]);
    let left = pair.files_of(node);
    pair.judge(&format!("loss {loss}, the disk of {node}"), &left, &safe);
    pair.lab.ok(&["agent", "start", node]);
    let active = pair.somebody_in_sync();
    pair.writes_go_on();
    pair.judge_the_active(&format!("loss {loss}, {active} in sync"), active);
    active
}

/// The next moment of a seed, from 0 to [`LOAD`].
pub(crate) fn moment(seed: &mut u64) -> Duration {
    *seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
    LOAD.mul_f64((*seed >> 40) as f64 / f64::from(1 << 24))
}

/// Losses of each node in a long run, over both file systems.
fn runs() -> u32 {
    std::env::var("LOCKSTEP_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(200)
}

#[test]
fn power_losses_on_xfs_lose_nothing_acknowledged() {
    power_losses("loop", &waiting_app(), 2);
}

#[test]
fn power_losses_on_ext4_lose_nothing_acknowledged() {
    power_losses("loop-ext4", &waiting_app(), 1);
}

#[test]
fn power_losses_lose_nothing_that_an_unmodified_program_committed() {
    power_losses("loop", &unmodified_app(), 1);
}

#[test]
#[ignore = "minutes: LOCKSTEP_RUNS / 2 power losses of each node"]
fn long_power_losses_lose_nothing_that_an_unmodified_program_committed() {
    power_losses("loop", &unmodified_app(), runs().div_ceil(2));
}

#[test]
#[ignore = "minutes: LOCKSTEP_RUNS / 2 power losses of each node"]
fn long_power_losses_on_xfs_lose_nothing_acknowledged() {
    power_losses("loop", &waiting_app(), runs().div_ceil(2));
}

#[test]
#[ignore = "minutes: LOCKSTEP_RUNS / 2 power losses of each node"]
fn long_power_losses_on_ext4_lose_nothing_acknowledged() {
    power_losses("loop-ext4", &waiting_app(), runs().div_ceil(2));
}
