//! Who decides when two nodes do not hear each other: a real etcd on the client's machine, and a fence agent
//! that takes the power of a node of the lab. Needs the package etcd-server.

use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};
use std::time::Duration;

use lockstep::lab::{LAN_INTERFACE, lan_mac};
use lockstep::status::PairState;

use crate::harness::Pair;

/// The client's address in the lab's LAN; etcd listens there.
const ENDPOINT: &str = "http://10.77.0.9:2379";
/// Longer than a takeover takes.
const A_WHILE: Duration = Duration::from_secs(5);

struct Etcd(Child);

impl Etcd {
    fn start(pair: &Pair) -> Self {
        let data = pair.lab.home().join("etcd");
        let data = data.to_str().expect("a plain path");
        let script = format!(
            "command -v etcd >/dev/null || exit 9; exec etcd --data-dir '{data}' --listen-client-urls {ENDPOINT} --advertise-client-urls {ENDPOINT}"
        );
        let mut command = pair.lab.exec("c", &["sh", "-c", &script]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::piped()).spawn();
        Self(child.expect("exec starts"))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // The lab's end takes what this leaves.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn witnessed() -> (Pair, Etcd) {
    let setting = format!("witness = {{ endpoints = [\"{ENDPOINT}\"] }}");
    let pair = Pair::up(&["--set", &setting]);
    let etcd = Etcd::start(&pair);
    registered(&pair, "a");
    (pair, etcd)
}

/// The witness knows that both nodes of the pair are together under `active`.
fn registered(pair: &Pair, active: &str) {
    pair.until("the register is shared", || {
        let why = pair.verb(active, &["why", "--json"]).stdout;
        let why: serde_json::Value = serde_json::from_slice(&why).unwrap_or_default();
        let said = why.to_string();
        said.contains(" shared\"")
    });
}

/// Neither node hears the other on the LAN; both hear everybody else, and the witness.
fn split(pair: &Pair) {
    for (node, other) in [("a", 2), ("b", 1)] {
        let mac = lan_mac(other).map(|byte| format!("{byte:02x}")).join(":");
        let rules = format!(
            "nft add table netdev split && nft 'add chain netdev split in {{ type filter hook ingress device {LAN_INTERFACE} priority -500; }}' && nft add rule netdev split in ether saddr {mac} drop"
        );
        let output = pair.lab.exec(node, &["sh", "-c", &rules]).output().expect("exec starts");
        assert!(output.status.success(), "{output:?}");
    }
}

fn unite(pair: &Pair) {
    for node in ["a", "b"] {
        let output = pair.lab.exec(node, &["nft", "delete", "table", "netdev", "split"]).output();
        assert!(output.expect("exec starts").status.success());
    }
}

#[test]
fn a_split_lan_and_a_cut_cable_leave_one_that_serves() {
    let (mut pair, _etcd) = witnessed();
    let mark = pair.mark("b");
    pair.moves(|pair| {
        split(pair);
        pair.lab.ok(&["cut", "direct", "a"]);
        let decided =
            |pair: &Pair| pair.events("b", mark).iter().any(|e| e.kind == "10e" || e.kind == "claim");
        pair.until("the witness decides", || decided(pair));
        std::thread::sleep(A_WHILE);
        let serving = ["a", "b"].into_iter().filter(|node| pair.is(node, PairState::Active)).count();
        assert_eq!(serving, 1, "one has won");
        pair.writes_go_on();
        pair.lab.ok(&["mend", "direct", "a"]);
        unite(pair);
        pair.somebody_in_sync();
    });
    let active = pair.somebody_in_sync();
    pair.end(active);
}

#[test]
fn the_standby_takes_over_with_the_witness_and_not_without_it() {
    let (mut pair, etcd) = witnessed();
    pair.moves(|pair| {
        pair.lab.ok(&["power-off", "a"]);
        pair.taken_over_by("b");
    });
    pair.lab.ok(&["power-on", "a"]);
    pair.in_sync_under("b");
    registered(&pair, "b");
    drop(etcd);
    let mark = pair.mark("a");
    pair.moves(|pair| {
        pair.lab.ok(&["power-off", "b"]);
        let asked = pair.logs("a", mark, "10e");
        assert_eq!(asked.severity, "critical");
        pair.never("it serves without a witness", Duration::from_secs(1), || pair.is("a", PairState::Active));
        pair.lab.ok(&["power-on", "b"]);
        pair.somebody_in_sync();
    });
    let _etcd = Etcd::start(&pair);
    registered(&pair, pair.somebody_in_sync());
    let active = pair.somebody_in_sync();
    pair.end(active);
}

/// A fence agent that takes node a's power; `off_works`: otherwise it only says that it did.
fn fenced(off_works: bool) -> Pair {
    let dir = tempfile::tempdir().expect("a folder").keep();
    let agent = dir.join("fence_lab");
    let setting = format!("fence = {{ agent = \"{}\", timeout_s = 10 }}", agent.display());
    std::fs::write(&agent, "#!/bin/sh\nexit 1\n").expect("a script");
    let pair = Pair::up(&["--set", &setting]);
    let (lab, program) = (pair.lab.home(), env!("CARGO_BIN_EXE_lockstep"));
    let lab_dir = lab.parent().expect("a folder above").display();
    let off = if off_works {
        format!("LOCKSTEP_LAB_DIR={lab_dir} {program} lab power-off a")
    } else {
        "true".into()
    };
    let script = format!(
        "#!/bin/sh\naction=$(sed -n s/^action=//p)\ncase $action in\n off) {off} && touch {0}/asked;;\n status) {1} && exit 2; exit 0;;\nesac\n",
        dir.display(),
        if off_works { format!("test -e {}/asked", dir.display()) } else { "false".into() },
    );
    std::fs::write(&agent, script).expect("a script");
    std::fs::set_permissions(&agent, PermissionsExt::from_mode(0o755)).expect("it can be run");
    pair
}

#[test]
fn a_hung_active_is_powered_off_before_the_standby_serves() {
    let mut pair = fenced(true);
    let mark = pair.mark("b");
    pair.moves(|pair| {
        pair.lab.ok(&["freeze", "a"]);
        pair.taken_over_by("b");
    });
    let order: Vec<String> = pair.events("b", mark).into_iter().map(|event| event.kind).collect();
    let at = |kind: &str| {
        order.iter().position(|found| found == kind).unwrap_or_else(|| panic!("{kind}: {order:?}"))
    };
    assert!(at("fence") < at("claim"), "{order:?}");
    assert!(pair.status("a").is_none(), "its power is off");
    pair.lab.ok(&["power-on", "a"]);
    pair.in_sync_under("b");
    pair.end("b");
}

#[test]
fn an_active_that_is_not_confirmed_off_is_not_replaced() {
    let mut pair = fenced(false);
    let mark = pair.mark("b");
    pair.moves(|pair| {
        pair.lab.ok(&["power-off", "a"]);
        pair.logs("b", mark, "10e");
        assert!(!pair.is("b", PairState::Active));
        pair.lab.ok(&["power-on", "a"]);
        pair.taken_over_by("a");
    });
    pair.end("a");
}
