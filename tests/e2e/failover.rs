//! The failover path on real pairs: every fault a lab can make, under load.
//!
//! Each story ends with the same count: nothing acknowledged is lost, never two nodes sent from
//! the virtual address, both databases are sound and equal. Times are never asserted.

use std::time::Duration;

use lockstep::status::PairState;
use rustix::process::Signal;

use crate::harness::Pair;

#[test]
fn the_standby_takes_over_a_dead_active_which_comes_back_as_standby() {
    let mut pair = Pair::up(&[]);
    pair.moves(|pair| {
        pair.lab.ok(&["power-off", "a"]);
        pair.taken_over_by("b");
    });
    pair.until("solo, durably", || pair.status("b").is_some_and(|b| b.solo));
    pair.lab.ok(&["power-on", "a"]);
    pair.in_sync_under("b");
    pair.moves(|pair| {
        let output = pair.verb("a", &["failback"]);
        assert!(output.status.success(), "{output:?}");
        pair.taken_over_by("a");
    });
    pair.end("a");
}

#[test]
fn a_dead_standby_makes_the_active_solo_and_its_return_clears_that() {
    let pair = Pair::up(&[]);
    let mark = pair.mark("a");
    pair.lab.ok(&["power-off", "b"]);
    pair.logs("a", mark, "14");
    pair.logs("a", mark, "solo");
    let alarmed = || !pair.status("a").is_some_and(|status| status.alarms.is_empty());
    assert!(alarmed(), "the status names what is wrong: {:?}", pair.status("a"));
    pair.writes_go_on();
    pair.lab.ok(&["power-on", "b"]);
    pair.in_sync_under("a");
    pair.until("the end of the alarm", || !alarmed());
    pair.end("a");
}

#[test]
fn after_both_lost_power_the_last_active_serves() {
    let mut pair = Pair::up(&[]);
    pair.moves(|pair| {
        pair.lab.ok(&["power-off", "b"]);
        pair.lab.ok(&["power-off", "a"]);
        pair.lab.ok(&["power-on", "b"]);
        pair.logs("b", 0, "c4a");
        pair.never("a standby alone serves", Duration::from_secs(1), || pair.is("b", PairState::Active));
        pair.lab.ok(&["power-on", "a"]);
        pair.taken_over_by("a");
    });
    pair.end("a");
}

#[test]
fn a_solo_active_serves_alone_again_after_a_power_loss() {
    let pair = Pair::up(&[]);
    pair.lab.ok(&["power-off", "b"]);
    pair.until("solo", || pair.status("a").is_some_and(|a| a.solo));
    pair.lab.ok(&["power-off", "a"]);
    let mark = pair.mark("a");
    pair.lab.ok(&["power-on", "a"]);
    pair.logs("a", mark, "c2c");
    pair.writes_go_on();
    pair.lab.ok(&["power-on", "b"]);
    pair.end("a");
}

#[test]
fn a_frozen_active_is_replaced_and_gives_way_when_it_thaws() {
    let mut pair = Pair::up(&[]);
    pair.moves(|pair| {
        pair.lab.ok(&["freeze", "a"]);
        pair.taken_over_by("b");
        pair.lab.ok(&["thaw", "a"]);
        pair.in_sync_under("b");
    });
    pair.end("b");
}

#[test]
fn a_stopped_agent_loses_the_lease_to_the_standby_while_its_application_lives() {
    let mut pair = Pair::up(&[]);
    pair.moves(|pair| {
        pair.signal_agent("a", Signal::STOP);
        pair.taken_over_by("b");
        pair.signal_agent("a", Signal::CONT);
        pair.in_sync_under("b");
    });
    pair.end("b");
}

#[test]
fn a_killed_agent_resumes_within_its_lease_or_is_replaced() {
    let mut pair = Pair::up(&[]);
    pair.moves(|pair| {
        pair.lab.ok(&["agent", "kill", "a"]);
        pair.until("somebody serves in sync", || pair.is_in_sync("a") || pair.is_in_sync("b"));
    });
    pair.writes_go_on();
    let active = if pair.is_in_sync("a") { "a" } else { "b" };
    pair.end(active);
}

#[test]
fn a_halted_agent_is_replaced() {
    let mut pair = Pair::up(&[]);
    pair.moves(|pair| {
        pair.lab.ok(&["agent", "halt", "a"]);
        pair.taken_over_by("b");
    });
    pair.lab.ok(&["agent", "start", "a"]);
    pair.end("b");
}
