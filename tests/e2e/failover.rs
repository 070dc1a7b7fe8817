//! The failover path on real pairs: every fault a lab can make, under load.
//!
//! Each story ends with the same count: nothing acknowledged is lost, never two nodes sent from
//! the virtual address, both databases are sound and equal. Times are never asserted.

use std::time::Duration;

use lockstep::config::Vip;
use lockstep::effects::announce::Announcer;
use lockstep::effects::guard::Guard;
use lockstep::effects::vip::VipAddresses;
use lockstep::lab::{LAN_INTERFACE, PAIR, VIP};
use lockstep::status::{HeartbeatStatus, PairState};
use rustix::process::Signal;

use crate::harness::{Logged, Pair, arguments};

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
fn an_outdated_standby_that_starts_alone_may_be_forced_to_serve() {
    let mut pair = Pair::up(&[]);
    // Outdated, by the active's word, and then nobody is left.
    both(&pair, "cut", "b", &["--one-way", "out"]);
    let mark = pair.mark("b");
    pair.until("outdated", || pair.is("b", PairState::Copying));
    pair.lab.ok(&["power-off", "a"]);
    pair.lab.ok(&["power-off", "b"]);
    both(&pair, "mend", "b", &[]);
    pair.moves(|pair| {
        pair.lab.ok(&["power-on", "b"]);
        pair.logs("b", mark, "c4a");
        let done = pair.verb("b", &["failover", "--accept-loss"]);
        assert_eq!(done.status.code(), Some(4), "done, but not in sync: {done:?}");
        pair.taken_over_by("b");
    });
    pair.assert_one_holder();
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

#[test]
fn a_killed_or_halted_standby_comes_back_in_sync() {
    let pair = Pair::up(&[]);
    pair.lab.ok(&["agent", "kill", "b"]);
    pair.writes_go_on();
    pair.in_sync_under("a");
    // What a standby says out of its rhythm, as when it has just come in sync, postpones R2: dying right then, it
    // may take the active's lease with it.
    pair.never("the address goes", Duration::from_secs(1), || !pair.is("a", PairState::Active));
    pair.lab.ok(&["agent", "halt", "b"]);
    pair.until("solo", || pair.status("a").is_some_and(|a| a.solo));
    pair.writes_go_on();
    pair.lab.ok(&["agent", "start", "b"]);
    pair.end("a");
}

#[test]
fn one_cable_that_is_cut_for_a_moment_never_moves_the_address() {
    let pair = Pair::up(&[]);
    let (inward, outward) = (&["--one-way", "in"][..], &["--one-way", "out"][..]);
    // The direct link has two ends and is one cable: what b does not hear, a does not reach.
    type Rows = Option<[&'static str; 2]>;
    let cuts: [(&str, &str, &[&str], Rows); 9] = [
        ("direct", "a", &[], Some(["2a", "2b"])),
        ("direct", "a", inward, None),
        ("direct", "a", outward, None),
        // Only a is cut off from the targets.
        ("lan", "a", &[], Some(["3c", "4b"])),
        ("lan", "b", &[], Some(["4a", "4b"])),
        ("lan", "a", inward, None),
        ("lan", "a", outward, None),
        ("lan", "b", inward, None),
        ("lan", "b", outward, None),
    ];
    let mark = pair.mark("b");
    for (cable, node, way, rows) in cuts {
        let marks = [pair.mark("a"), pair.mark("b")];
        pair.lab.ok(&[&["cut", cable, node], way].concat());
        if let Some(rows) = rows {
            pair.logs("a", marks[0], rows[0]);
            pair.logs("b", marks[1], rows[1]);
        } else {
            // Longer than a takeover's wait.
            std::thread::sleep(Duration::from_millis(800));
        }
        pair.lab.ok(&[&["mend", cable, node], way].concat());
        // A row that still holds is not logged again at the next cut.
        pair.until("both paths", || ["a", "b"].iter().all(|node| hears_both_paths(&pair, node)));
    }
    let took_over = |event: &Logged| ["claim", "10b", "10c"].contains(&event.kind.as_str());
    let moved = pair.events("b", mark).into_iter().find(took_over);
    assert!(moved.is_none(), "the address moved: {moved:?}");
    pair.end("a");
}

/// Both paths carry heartbeats, also by the word of the table: no alarm of it stands.
fn hears_both_paths(pair: &Pair, node: &str) -> bool {
    let fresh = |beat: &HeartbeatStatus| beat.age_ms.is_some_and(|age_ms| age_ms < 300);
    pair.status(node).is_some_and(|status| {
        status.alarms.is_empty()
            && fresh(&status.heartbeat.lan)
            && status.heartbeat.direct.as_ref().is_some_and(fresh)
    })
}

#[test]
fn an_active_that_hears_nobody_serves_alone_and_the_standby_never_moves() {
    let pair = Pair::up(&[]);
    // S is mute: it hears the active, and is told that it is outdated.
    let marks = [pair.mark("a"), pair.mark("b")];
    both(&pair, "cut", "b", &["--one-way", "out"]);
    pair.logs("b", marks[1], "7");
    pair.logs("a", marks[0], "14");
    pair.logs("a", marks[0], "solo");
    pair.logs("b", marks[1], "outdated");
    pair.writes_go_on();
    both(&pair, "mend", "b", &[]);
    pair.in_sync_under("a");

    // S is cut off.
    let marks = [pair.mark("a"), pair.mark("b")];
    both(&pair, "cut", "b", &[]);
    pair.logs("b", marks[1], "9");
    pair.logs("a", marks[0], "solo");
    pair.writes_go_on();
    both(&pair, "mend", "b", &[]);
    pair.end("a");
}

#[test]
fn a_deaf_standby_ends_the_lease_and_nobody_serves_until_it_hears_again() {
    let mut pair = Pair::up(&[]);
    let mark = pair.mark("a");
    pair.moves(|pair| {
        both(pair, "cut", "b", &["--one-way", "in"]);
        pair.logs("a", mark, "lapsed");
        pair.never("the deaf standby serves", Duration::from_secs(1), || pair.is("b", PairState::Active));
        both(pair, "mend", "b", &[]);
        pair.in_sync_under("a");
    });
    pair.end("a");
}

#[test]
fn an_active_that_is_mute_or_cut_off_is_replaced() {
    let mut pair = Pair::up(&[]);
    for (active, standby, way) in [("a", "b", &["--one-way", "out"][..]), ("b", "a", &[][..])] {
        let marks = [pair.mark(active), pair.mark(standby)];
        pair.moves(|pair| {
            both(pair, "cut", active, way);
            pair.logs(active, marks[0], "lapsed");
            pair.logs(standby, marks[1], "10b");
            pair.logs(standby, marks[1], "claim");
            pair.taken_over_by(standby);
            both(pair, "mend", active, &[]);
            pair.in_sync_under(standby);
        });
    }
    pair.end("a");
}

#[test]
fn a_hung_active_that_was_cut_off_sends_nothing_when_its_cables_are_mended() {
    let mut pair = Pair::up(&[]);
    pair.moves(|pair| {
        pair.signal_agent("a", Signal::STOP);
        both(pair, "cut", "a", &[]);
        pair.taken_over_by("b");
    });
    // What its kernel has kept for its neighbours would leave now, and nobody there drops it.
    both(&pair, "mend", "a", &[]);
    pair.writes_go_on();
    pair.never("b lets go", Duration::from_secs(2), || !pair.is("b", PairState::Active));
    pair.signal_agent("a", Signal::CONT);
    pair.end("b");
}

fn both(pair: &Pair, verb: &str, node: &str, way: &[&str]) {
    for cable in ["direct", "lan"] {
        pair.lab.ok(&[&[verb, cable, node], way].concat());
    }
}

#[test]
fn a_flushed_ruleset_is_noticed_and_the_address_is_guarded_again() {
    let mut pair = Pair::up(&[]);
    let mark = pair.mark("a");
    pair.moves(|pair| {
        flush_guard(pair, "a");
        // Whoever looks first: the heartbeat thread renewing the lease, or the address's own watch.
        pair.until("the guard is missed", || {
            let events = pair.events("a", mark);
            let opened = events.iter().any(|event| event.kind == "open");
            let lapsed = events.iter().any(|event| event.sentence.contains("flushed the nftables"));
            events.iter().any(|event| event.kind == "guard.mended") || (lapsed && opened)
        });
        pair.in_sync_under("a");
        pair.writes_go_on();
    });
    pair.end("a");
}

#[test]
fn an_unguarded_address_of_a_hung_agent_is_never_taken_over() {
    let mut pair = Pair::up(&[]);
    let mark = pair.mark("b");
    pair.moves(|pair| {
        pair.signal_agent("a", Signal::STOP);
        flush_guard(pair, "a");
        pair.logs("b", mark, "cancel");
        pair.never("b takes over what still answers", Duration::from_secs(1), || {
            pair.is("b", PairState::Active)
        });
        pair.signal_agent("a", Signal::CONT);
        pair.in_sync_under("a");
    });
    pair.end("a");
}

/// What `nft flush ruleset` does to the guard.
fn flush_guard(pair: &Pair, node: &str) {
    let flushed = pair.lab.inside(node, "failover::inside_flush", &[]).output().expect("exec starts");
    assert!(flushed.status.success(), "{}", String::from_utf8_lossy(&flushed.stdout));
}

#[test]
#[ignore = "runs on a lab machine, started by other tests"]
fn inside_flush() {
    if arguments().is_some() {
        let pair = PAIR.parse().expect("a pair id");
        let guard = Guard::install(&pair, &[VIP.into()], LAN_INTERFACE).expect("CAP_NET_ADMIN and nf_tables");
        guard.remove().expect("the tables go");
    }
}

#[test]
fn a_foreign_holder_is_alarmed_and_never_fought_by_a_takeover() {
    let mut pair = Pair::up(&[]);
    // From here on the client itself sends from the address.
    pair.assert_one_holder();
    let mark = pair.mark("a");
    foreign(&pair, "claim");
    let event = pair.logs("a", mark, "13a");
    assert_eq!(event.severity, "critical");
    foreign(&pair, "leave");
    pair.until("the row is left", || pair.events("a", event.id).iter().any(|event| event.kind == "1a"));
    pair.in_sync_under("a");
    pair.writes_go_on();

    let mark = pair.mark("b");
    foreign(&pair, "claim");
    pair.lab.ok(&["power-off", "a"]);
    let refusal = pair.logs("b", mark, "cancel");
    assert!(refusal.sentence.contains("somebody answers for the VIP"), "{refusal:?}");
    pair.never("b takes over", Duration::from_secs(1), || pair.is("b", PairState::Active));
    foreign(&pair, "leave");
    pair.lab.ok(&["power-on", "a"]);
    pair.until("somebody serves in sync", || pair.is_in_sync("a") || pair.is_in_sync("b"));
    let active = if pair.is_in_sync("a") { "a" } else { "b" };
    pair.end(active);
}

/// The client's machine takes the address as its own and says so, or lets it go.
fn foreign(pair: &Pair, what: &str) {
    let done = pair.lab.inside("c", "failover::inside_foreign", &[what]).output().expect("exec starts");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}

#[test]
#[ignore = "runs on a lab machine, started by other tests"]
fn inside_foreign() {
    let Some(arguments) = arguments() else { return };
    let vip = Vip { address: VIP.into(), prefix: 32 };
    let mut addresses = VipAddresses::open().expect("netlink");
    if arguments[0] == "leave" {
        return addresses.delete(LAN_INTERFACE, vip).expect("it goes");
    }
    addresses.add(LAN_INTERFACE, vip, 120).expect("CAP_NET_ADMIN");
    let mut announcer = Announcer::open(LAN_INTERFACE, &[vip.address]).expect("CAP_NET_RAW");
    announcer.announce_now(u64::MAX).expect("it announces");
}

#[test]
fn what_an_operator_may_not_do_is_refused_in_one_sentence() {
    let mut pair = Pair::up(&[]);
    let refused = |pair: &Pair, node: &str, verb: &[&str], why: &str| {
        let output = pair.verb(node, verb);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{node} {verb:?}: {said}");
        assert!(said.contains(why), "{node} {verb:?}: {said}");
    };
    refused(&pair, "a", &["failback"], "primary");
    refused(&pair, "a", &["failover"], "already active");
    refused(&pair, "b", &["failover", "--accept-loss"], "heard");
    pair.moves(|pair| {
        let done = pair.verb("a", &["switchover"]);
        assert_eq!(done.status.code(), Some(0), "{done:?}");
        pair.taken_over_by("b");
    });
    pair.in_sync_under("b");

    // The grant ends while the standby stands still: what was acknowledged since is unknown.
    let mark = pair.mark("a");
    pair.moves(|pair| {
        pair.lab.ok(&["freeze", "a"]);
        pair.until("solo", || pair.status("b").is_some_and(|b| b.solo));
        pair.lab.ok(&["power-off", "b"]);
        pair.lab.ok(&["thaw", "a"]);
        pair.logs("a", mark, "11");
        refused(pair, "a", &["switchover"], "");
        refused(pair, "a", &["failover"], "--accept-loss");
        let done = pair.verb("a", &["failover", "--accept-loss"]);
        assert_eq!(done.status.code(), Some(4), "done, but not in sync: {done:?}");
        pair.taken_over_by("a");
    });
    pair.assert_one_holder();
}
