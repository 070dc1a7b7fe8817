//! What an operator has besides a switchover: drill, maintenance, observe, reasons, failback by itself.

use std::time::Duration;

use lockstep::config::Vip;
use lockstep::effects::vip::VipAddresses;
use lockstep::lab::{LAN_INTERFACE, VIP};
use lockstep::status::PairState;
use serde_json::Value;

use crate::harness::{Lab, Pair, arguments};

fn json(pair: &Pair, node: &str, verb: &[&str]) -> Value {
    let output = pair.verb(node, verb);
    assert!(output.status.success(), "{verb:?} on {node}: {output:?}");
    serde_json::from_slice(&output.stdout).expect("it is JSON")
}

fn question(pair: &Pair, node: &str) -> String {
    pair.status(node).and_then(|status| status.question).unwrap_or_default()
}

#[test]
fn a_drill_moves_the_service_there_and_back_and_says_what_that_cost() {
    let mut pair = Pair::up(&[]);
    // Its two moves are one time for the watch on the switch, which knows one move in each.
    pair.assert_one_holder();
    let report = json(&pair, "a", &["drill", "--json"]);
    let moves = report["moves"].as_array().expect("a list");
    assert_eq!(
        (moves.len(), &moves[0]["away"], &moves[1]["away"]),
        (2, &true.into(), &false.into()),
        "{report}"
    );
    for one in moves {
        let outage_ms = one["vip_outage_ms"].as_u64().expect("a number");
        assert!(outage_ms > 0 && outage_ms <= one["in_sync_after_ms"].as_u64().unwrap(), "{report}");
    }
    assert_ne!(moves[0]["epoch"], moves[1]["epoch"]);
    assert_eq!((&report["diverged_databases"], &report["in_sync"]), (&0.into(), &true.into()), "{report}");
    // From the other side, in words.
    let output = pair.verb("b", &["drill"]);
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success() && said.contains("no commit was lost"), "{said}");
    pair.end("a");
}

#[test]
fn a_drill_is_refused_while_the_pair_is_not_in_sync() {
    let pair = Pair::up(&[]);
    pair.lab.ok(&["power-off", "b"]);
    pair.until("solo", || pair.status("a").is_some_and(|a| a.solo));
    let output = pair.verb("a", &["drill"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("first move") && said.contains("this node serves"), "{said}");
    pair.lab.ok(&["power-on", "b"]);
    pair.end("a");
}

#[test]
fn in_maintenance_a_node_that_goes_away_is_not_replaced_and_afterwards_it_is() {
    let mut pair = Pair::up(&[]);
    assert!(pair.verb("a", &["maintenance", "on"]).status.success());
    pair.until("b heard of it", || {
        json(&pair, "b", &["why", "--json"]).to_string().contains("automatic moves off")
    });
    pair.moves(|pair| {
        pair.lab.ok(&["power-off", "a"]);
        pair.until("the question", || {
            question(pair, "b").contains("would take over now: `lockstep failover`")
        });
        pair.never("b takes over", Duration::from_secs(1), || pair.is("b", PairState::Active));
        pair.lab.ok(&["power-on", "a"]);
        pair.in_sync_under("a");
    });
    assert!(pair.status("a").is_some_and(|a| a.maintenance), "it outlives the agent");
    assert_eq!(question(&pair, "b"), "", "settled with its cause");
    assert!(pair.verb("a", &["maintenance", "off"]).status.success());
    pair.until("b heard of it", || {
        !json(&pair, "b", &["why", "--json"]).to_string().contains("automatic moves off")
    });
    pair.moves(|pair| {
        pair.lab.ok(&["power-off", "a"]);
        pair.taken_over_by("b");
    });
    pair.lab.ok(&["power-on", "a"]);
    pair.end("b");
}

#[test]
fn the_reasons_of_both_nodes_foretell_what_then_happens() {
    let mut pair = Pair::up(&[]);
    let active = json(&pair, "a", &["why", "--json"]);
    let outcome =
        |why: &Value| why["if_peer_fell_silent"]["outcome"].as_str().expect("a sentence").to_owned();
    assert!(outcome(&active).contains("acknowledge commits alone"), "{active}");
    assert!(active["lease_ms_left"].as_u64().is_some_and(|left| left > 0), "{active}");
    let facts = active["facts"].as_array().expect("a list");
    let fact = |name: &str| facts.iter().find(|fact| fact["name"] == name).cloned().unwrap_or_default();
    assert!(fact("heartbeat-direct")["age_ms"].as_u64().is_some(), "{active}");
    assert_eq!(fact("targets")["value"], "3 of 3 answer");
    let decisions = active["decisions"].as_array().expect("a list");
    assert!(decisions.iter().any(|event| event["kind"] == "open"), "{active}");
    assert!(decisions.iter().all(|event| event["kind"] != "link.up"), "no decision: {active}");

    let standby = json(&pair, "b", &["why", "--json"]);
    assert!(outcome(&standby).starts_with("this node would serve after"), "{standby}");
    let mark = pair.mark("b");
    pair.moves(|pair| {
        pair.lab.ok(&["power-off", "a"]);
        pair.taken_over_by("b");
    });
    let logged: Vec<String> = pair.events("b", mark).into_iter().map(|event| event.kind).collect();
    for step in standby["if_peer_fell_silent"]["steps"].as_array().expect("a list") {
        let row = step["row"].as_str().expect("a word");
        // A row that only waits may be over before it is seen.
        let seen = row == "10a" || logged.iter().any(|kind| kind == row);
        assert!(seen, "{row} was foretold: {logged:?}");
    }
    let text = String::from_utf8(pair.verb("b", &["why"]).stdout).expect("UTF-8");
    assert!(text.contains("if the peer fell silent now") && text.contains("last decisions"), "{text}");
    pair.lab.ok(&["power-on", "a"]);
    pair.end("b");
}

#[test]
fn the_secondary_gives_the_service_back_by_itself_when_the_primary_is_back_for_good() {
    let mut pair = Pair::up(&["--set", "failback = \"automatic\"", "--set", "failback_after_s = 2"]);
    pair.moves(|pair| {
        pair.lab.ok(&["power-off", "a"]);
        pair.taken_over_by("b");
    });
    let mark = pair.mark("b");
    pair.moves(|pair| {
        pair.lab.ok(&["power-on", "a"]);
        pair.logs("b", mark, "1c");
        pair.taken_over_by("a");
    });
    pair.end("a");
}

#[test]
fn a_takeover_that_nobody_asked_for_is_dropped_when_the_primary_is_back_on_its_own_data() {
    let mut pair = Pair::up(&["--set", "failover = \"manual\""]);
    let marks = [pair.mark("a"), pair.mark("b")];
    pair.moves(|pair| {
        pair.lab.ok(&["power-off", "a"]);
        pair.logs("b", marks[1], "10d");
        pair.until("the question", || question(pair, "b").contains("`lockstep failover`"));
        pair.lab.ok(&["power-on", "a"]);
        pair.logs("a", marks[0], "c3b");
        pair.in_sync_under("a");
    });
    assert_eq!(question(&pair, "b"), "", "the question is dropped");
    let claims = |node| pair.events(node, 0).into_iter().filter(|event| event.kind == "claim").count();
    assert_eq!(claims("b"), 0, "it never promoted");
    assert_eq!(pair.status("a").map(|a| a.epoch), pair.status("b").map(|b| b.epoch));
    pair.end("a");
}

#[test]
fn a_secondary_that_could_not_take_over_follows_the_primary_when_it_is_back() {
    let mut pair = Pair::up(&[]);
    let marks = [pair.mark("a"), pair.mark("b")];
    pair.moves(|pair| {
        // Without its targets it may be the one that is cut off.
        pair.lab.ok(&["cut", "lan", "b"]);
        pair.logs("b", marks[1], "4b");
        pair.lab.ok(&["power-off", "a"]);
        pair.logs("b", marks[1], "9");
        pair.never("b serves", Duration::from_secs(1), || pair.is("b", PairState::Active));
        pair.lab.ok(&["power-on", "a"]);
        pair.logs("a", marks[0], "c3b");
        pair.lab.ok(&["mend", "lan", "b"]);
        pair.in_sync_under("a");
    });
    pair.end("a");
}

#[test]
fn a_node_whose_lan_stays_dead_hands_over_and_gets_the_service_back() {
    let mut pair = Pair::up(&[]);
    let mark = pair.mark("a");
    pair.moves(|pair| {
        pair.lab.ok(&["cut", "lan", "a"]);
        pair.logs("a", mark, "3a");
        pair.taken_over_by("b");
    });
    pair.lab.ok(&["mend", "lan", "a"]);
    pair.in_sync_under("b");
    pair.moves(|pair| {
        pair.until("the failback", || pair.verb("a", &["failback"]).status.success());
        pair.taken_over_by("a");
    });
    pair.end("a");
}

#[test]
fn an_address_that_something_deleted_is_put_back_and_said() {
    let pair = Pair::up(&[]);
    let mark = pair.mark("a");
    let done = pair.lab.inside("a", "operate::inside_delete", &[]).output().expect("exec starts");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    let event = pair.logs("a", mark, "vip.deleted");
    assert!(event.sentence.contains("put back") && event.sentence.contains(LAN_INTERFACE), "{event:?}");
    pair.writes_go_on();
    pair.end("a");
}

#[test]
#[ignore = "runs on a lab machine, started by other tests"]
fn inside_delete() {
    if arguments().is_some() {
        let mut addresses = VipAddresses::open().expect("netlink");
        let found = addresses.state(LAN_INTERFACE, VIP.into()).expect("reads").expect("the address is there");
        let vip = Vip { address: VIP.into(), prefix: found.vip.prefix };
        addresses.delete(LAN_INTERFACE, vip).expect("CAP_NET_ADMIN");
    }
}

/// Writes through SQLite as a program does that knows nothing of Lockstep.
const PROGRAM: &str = "import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute('PRAGMA journal_mode=WAL')
database.execute('CREATE TABLE IF NOT EXISTS note (text)')
database.execute('INSERT INTO note VALUES (?)', ['written'])
";

#[test]
fn a_pair_that_only_observes_replicates_touches_nothing_and_says_what_it_would_do() {
    let touched = tempfile::tempdir().expect("a temporary folder");
    let app = format!("touch {}/started; sleep 1000", touched.path().display());
    let lab = Lab::new().up(&["--app", &app, "--set", "observe = true"]);
    let ask = |node: &str, verb: &[&str]| {
        let output = lab.exec(node, &[&["lockstep"], verb].concat()).output().expect("exec starts");
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let status = |node: &str| -> Value {
        serde_json::from_str::<Value>(&ask(node, &["status", "--json"]).1).unwrap_or_default()["pairs"][0]
            .clone()
    };
    let until = |what: &str, so: &dyn Fn() -> bool| {
        for _ in 0..6_000 {
            if so() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{what} did not happen: {} {}", status("a"), status("b"));
    };
    assert_eq!((&status("a")["state"], &status("a")["observe"]), (&"active".into(), &true.into()));
    let events = ask("a", &["events", "--last", "200"]).1;
    assert!(events.contains(&format!("would add {VIP}")) && events.contains("would start app"), "{events}");
    assert!(!touched.path().join("started").exists(), "the application is not Lockstep's");
    let here = lab.inside("a", "operate::inside_has_no_vip", &[]).output().expect("exec starts");
    assert!(here.status.success(), "{}", String::from_utf8_lossy(&here.stdout));

    // The live program.
    let database = |node: &str| lab.status()["nodes"][node]["databases"]["main"].as_str().unwrap().to_owned();
    lab.ok(&["exec", "a", "--", "python3", "-c", PROGRAM, &database("a")]);
    until("the commit on b", &|| {
        status("b")["position"] == status("a")["position"] && status("a")["lag_frames"] == 0
    });
    let copy = touched.path().join("copy.db");
    until("the commit in a snapshot of b", &|| {
        let _ = std::fs::remove_file(&copy);
        let (code, _) = ask("b", &["snapshot", "main", copy.to_str().unwrap()]);
        let read = rusqlite::Connection::open(&copy)
            .and_then(|db| db.query_row("SELECT text FROM note", [], |row| row.get::<_, String>(0)));
        matches!(code, Some(0 | 4)) && read.is_ok_and(|text| text == "written")
    });

    for verb in [&["switchover"][..], &["observe", "off"], &["drill"]] {
        let (code, said) = ask("a", verb);
        assert!(code == Some(3) && said.contains("observe"), "{verb:?}: {said}");
    }
    lab.ok(&["power-off", "a"]);
    until("what it would do", &|| {
        status("b")["question"].as_str().is_some_and(|q| q.contains("only observes"))
    });
    assert_eq!(status("b")["state"], "standby");
    lab.ok(&["power-on", "a"]);
    until("the return of a", &|| status("a")["state"] == "active" && status("b")["in_sync"] == true);
}

#[test]
#[ignore = "runs on a lab machine, started by other tests"]
fn inside_has_no_vip() {
    if arguments().is_some() {
        let mut addresses = VipAddresses::open().expect("netlink");
        assert!(addresses.state(LAN_INTERFACE, VIP.into()).expect("reads").is_none());
    }
}
