//! The fixed field names, and what people see.

use super::*;
use crate::events::Severity;

/// A status with something in every field.
pub(crate) fn full() -> Status {
    let beat = HeartbeatStatus { up: true, age_ms: Some(12), mean_rtt_ms: Some(0.31) };
    let copy = CopyStatus {
        rewind: false,
        resync: false,
        done_bytes: 512 << 20,
        total_bytes: 1 << 30,
        rate_bytes_per_s: 100 << 20,
        remaining_s: Some(75),
    };
    let mut event =
        Event::now(Severity::Critical, "failover", "took over: the peer is silent", serde_json::json!({}));
    event.at = "2026-11-24T22:00:00.000Z".into();
    let alarm = Alarm {
        key: "direct".into(),
        severity: Severity::Warning,
        sentence: "the direct link is down: check the cable".into(),
        since: "2026-11-24T22:00:00Z".into(),
    };
    let database = DatabaseStatus {
        name: "orders".into(),
        path: "/srv/orders.db".into(),
        position: "0000000003.0000000042".into(),
        in_sync: false,
        lag_frames: Some(7),
        waiting: 3,
        wal_bytes: 4096,
        copy: Some(copy),
        fault: Some("the disk is full: free some space\x1b[2J".into()),
        verified_age_s: Some(135),
        sums_equal_age_s: Some(61),
        scrub: Some(ScrubStatus {
            done_pages: 256,
            total_pages: 5000,
            mismatched_pages: 3,
            repaired_pages: 2,
        }),
    };
    let tree = TreeStatus {
        name: "uploads".into(),
        path: "/srv/uploads".into(),
        state: TreeState::Sending,
        in_sync: true,
        behind_files: Some(12),
        behind_bytes: 3 << 20,
        behind_ms: Some(4100),
        rate_bytes_per_s: 1 << 20,
        remaining_s: Some(3),
        entries: Some(5000),
        sent_files: 1,
        sent_bytes: 2,
        source: Some("inotify".into()),
        fault: Some("a directory cannot be watched: raise the limit".into()),
        stuck_files: 8,
        stuck: vec![StuckStatus {
            path: "a/b".into(),
            reason: "the standby has no room left: free some there".into(),
            age_s: 62,
        }],
    };
    let link = LinkStatus {
        path: Some("direct".into()),
        compressing: true,
        compression_reason: "compression is on: it saves 50 %".into(),
        ..LinkStatus::default()
    };
    let pair = PairStatus {
        id: "shop".into(),
        state: PairState::Copying,
        epoch: "0000000003-00112233aabbccdd".into(),
        in_sync: false,
        solo: true,
        maintenance: true,
        observe: true,
        position: "0000000003.0000000042".into(),
        lag_frames: Some(7),
        lag_ms: Some(3),
        unwaited_commits: 2,
        waiting: 3,
        waiting_why: Some("3 commits wait until the standby is back".into()),
        vip: vec!["10.0.0.10/24".into()],
        lease_ms_left: Some(480),
        heartbeat: Heartbeats {
            direct: Some(beat.clone()),
            lan: HeartbeatStatus { up: false, ..beat },
            silences: Silences::default(),
        },
        databases: vec![database],
        trees: vec![tree],
        io_backend: "uring".into(),
        events: vec![event],
        link,
        apps: vec![AppStatus {
            name: "web".into(),
            running: true,
            healthy: Some(true),
            restarts: 0,
            failed: false,
        }],
        alarms: vec![alarm],
        question: Some("the peer is silent: confirm that it is off with `lockstep failover`".into()),
        quarantined: 1,
    };
    Status {
        schema: SCHEMA,
        node: "alpha".into(),
        role: Role::Primary,
        version: "0.1.0".into(),
        pairs: vec![pair],
    }
}

fn keys(value: &serde_json::Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[track_caller]
fn has_keys(value: &serde_json::Value, expected: &str) {
    for key in expected.split(' ') {
        assert!(keys(value).contains(&key), "{key} is missing in {:?}", keys(value));
    }
}

#[test]
fn the_json_has_the_fixed_names() {
    let json = serde_json::to_value(full()).unwrap();
    has_keys(&json, "schema node role version pairs");
    let pair = &json["pairs"][0];
    let fixed = "id state epoch in_sync solo position lag_frames lag_ms unwaited_commits vip lease_ms_left \
                 heartbeat databases trees io_backend events";
    has_keys(pair, fixed);
    for path in ["direct", "lan"] {
        has_keys(&pair["heartbeat"][path], "up age_ms mean_rtt_ms");
    }
    assert_eq!((&json["role"], &json["schema"]), (&"primary".into(), &1.into()));
    has_keys(
        &pair["trees"][0],
        "name path state in_sync behind_files behind_bytes behind_ms rate_bytes_per_s remaining_s fault stuck_files stuck",
    );
    has_keys(&pair["trees"][0]["stuck"][0], "path reason age_s");
    assert!(pair["vip"][0].is_string() && pair["events"].is_array() && pair["trees"].is_array());
    let states = "unpaired copying active standby promoting releasing holding";
    for state in states.split(' ') {
        let read: PairState = serde_json::from_value(state.into()).unwrap();
        assert_eq!(read.to_string(), state);
    }
}

#[test]
fn the_json_reads_back_and_skips_what_it_does_not_know() {
    let status = full();
    let mut json = serde_json::to_value(&status).unwrap();
    json["later"] = 1.into();
    json["pairs"][0]["later"] = 1.into();
    assert_eq!(serde_json::from_value::<Status>(json).unwrap(), status);
}

#[test]
fn people_see_every_fact_and_no_escape_sequence_without_a_terminal() {
    let text = human(&full(), Paint { colour: false });
    let facts = [
        "alpha",
        "primary",
        "copying",
        "SOLO",
        "lag 7 frames, 3 ms",
        "2 commits nobody waited for",
        "3 commits wait until the standby is back",
        "3 waiting",
        "10.0.0.10/24",
        "lease 480 ms left",
        "direct up (12 ms ago, round trip 0.31 ms)",
        "lan DOWN",
        "compression is on: it saves 50 %",
        "disk by uring",
        "web  healthy",
        "orders",
        "[##########          ]  50 %",
        "512.0 MiB of 1.0 GiB",
        "100.0 MiB/s",
        "remaining 1 min 15 s",
        "the disk is full",
        "verified 2 min 15 s ago, sums equal 1 min 1 s ago",
        "page 256 of 5000",
        "3 pages differed, 2 repaired",
        "uploads  in sync, sending  behind 12 paths, 3.0 MiB, oldest 4100 ms, 1.0 MiB/s, remaining 3 s  5000 entries",
        "raise the limit",
        "a/b: the standby has no room left: free some there (for 1 min 2 s)",
        "and 7 more paths are not on the standby",
        "quarantine list",
        "check the cable",
        "took over: the peer is silent",
        "lockstep failover",
    ];
    for fact in facts {
        assert!(text.contains(fact), "{fact} is missing in:\n{text}");
    }
    assert!(!text.contains('\x1b'), "{text:?}");
    assert!(human(&full(), Paint { colour: true }).contains("\x1b[32m"));
}

#[test]
fn people_read_whether_all_pages_are_copied_compared_or_only_those_since_the_fork() {
    for (resync, rewind, word) in
        [(false, false, "copy ["), (true, false, "resync ["), (true, true, "rewind [")]
    {
        let mut status = full();
        let copy = status.pairs[0].databases[0].copy.as_mut().unwrap();
        (copy.resync, copy.rewind) = (resync, rewind);
        let text = human(&status, Paint { colour: false });
        assert!(text.contains(word), "{word}: {text}");
    }
}
