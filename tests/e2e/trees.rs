//! File trees on real pairs: what an application keeps beside its database is on the standby, moves with the service, and
//! nothing of it is lost in silence. Needs rsync, which compares.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lockstep::status::{TreeState, TreeStatus};
use rustix::process::Signal;

use crate::harness::{Pair, arguments, waiting_app};

#[allow(dead_code, reason = "the engine's own tests use more of it")]
#[path = "../../engine/src/files/ship/random.rs"]
mod random;

/// Two operations of the churn, at most so quick.
const CHURN_PERIOD: Duration = Duration::from_millis(4);

/// The demonstration's application, which keeps changing `churn` in its tree at random until the file `pause` is there.
fn churning_app(pause: &Path, seed: u64) -> String {
    let program = std::env::current_exe().expect("the test program has a path");
    let inside = format!("LOCKSTEP_TEST_INSIDE={seed}$(printf '\\037'){}", pause.display());
    let churn = format!("'{}' trees::inside_churn --exact --ignored --nocapture", program.display());
    format!("{inside} {churn} >/dev/null 2>&1 & {}", waiting_app())
}

#[test]
#[ignore = "runs on a machine of the lab"]
fn inside_churn() {
    let Some(arguments) = arguments() else { return };
    let (seed, pause) = (arguments[0].parse().expect("a number"), PathBuf::from(&arguments[1]));
    let root = PathBuf::from(std::env::var_os("LOCKSTEP_TREE_FILES").expect("the agent names the tree"));
    let root = root.join("churn");
    std::fs::create_dir_all(&root).expect("a directory");
    let mut random = random::Random::new(seed);
    loop {
        std::thread::sleep(CHURN_PERIOD);
        if !pause.exists() {
            random::operate(&root, &mut random);
        }
    }
}

fn path(pair: &Pair, node: &str) -> String {
    pair.lab.status()["nodes"][node]["trees"]["files"].as_str().expect("a path").to_owned()
}

/// Where a node's tree is, also on a disk that only the node itself sees.
fn root(pair: &Pair, node: &str) -> PathBuf {
    let agent = pair.agent(node).expect("an agent runs");
    PathBuf::from(format!("/proc/{}/root{}", agent.as_raw_nonzero(), path(pair, node)))
}

fn tree(pair: &Pair, node: &str) -> Option<TreeStatus> {
    pair.status(node).and_then(|pair| pair.trees.into_iter().next())
}

fn rsync(options: &[&str], from: &Path, to: &Path) -> String {
    let side = |path: &Path| format!("{}/", path.display());
    let output = std::process::Command::new("rsync")
        .args(["-aHAXS", "--numeric-ids", "--delete", "--exclude=/.lockstep"])
        .args(options)
        .args([side(from), side(to)])
        .output()
        .expect("install rsync");
    let said = String::from_utf8_lossy(&output.stderr);
    // 23, 24: something vanished while it looked.
    assert!(matches!(output.status.code(), Some(0 | 23 | 24)), "{said}");
    String::from_utf8_lossy(&output.stdout).into_owned() + &said
}

/// What differs between both nodes' trees, as rsync lists it. It cannot receive into another machine's mounts, so that
/// trees on disks of their own are copied first.
fn differences(pair: &Pair, from: &str, to: &str) -> String {
    let copies = [(); 2].map(|()| tempfile::tempdir().expect("a temporary folder"));
    let [from, to] = [(from, &copies[0]), (to, &copies[1])].map(|(node, copy)| {
        let here = PathBuf::from(path(pair, node));
        if here.join(".lockstep").exists() {
            return here;
        }
        rsync(&[], &root(pair, node), copy.path());
        copy.path().to_owned()
    });
    rsync(&["-ni", "--checksum"], &from, &to)
}

/// Waits until both trees are the same.
fn until_equal(pair: &Pair, active: &str) {
    let standby = if active == "a" { "b" } else { "a" };
    let found = std::cell::RefCell::new(String::new());
    pair.until_or(
        "equal trees",
        || {
            *found.borrow_mut() = differences(pair, active, standby);
            found.borrow().is_empty()
        },
        || {
            eprintln!("{}\n{:#?}\n{:#?}", found.borrow(), tree(pair, active), tree(pair, standby));
            explain(&root(pair, active), &root(pair, standby), Path::new(""));
        },
    );
}

/// Prints where the content of files differs.
fn explain(here: &Path, there: &Path, below: &Path) {
    for entry in std::fs::read_dir(here.join(below)).into_iter().flatten().flatten() {
        let path = below.join(entry.file_name());
        let kind = entry.file_type().expect("it was just listed");
        if kind.is_dir() {
            explain(here, there, &path);
        } else if kind.is_file() {
            let [ours, theirs] =
                [here, there].map(|root| std::fs::read(root.join(&path)).unwrap_or_default());
            if ours != theirs {
                let at = ours.iter().zip(&theirs).position(|(a, b)| a != b);
                let (a, b) = (ours.len(), theirs.len());
                eprintln!("{path:?}: {a} bytes here, {b} there, the first that differs is {at:?}");
            }
        }
    }
}

/// Waits until the standby has said that all is on its disk.
fn until_acknowledged(pair: &Pair, active: &str) {
    until_equal(pair, active);
    // What the status shows is at most so old.
    std::thread::sleep(Duration::from_millis(300));
    pair.until("an acknowledged tree", || {
        tree(pair, active).is_some_and(|tree| tree.state == TreeState::Level)
    });
}

fn fill(root: &Path, name: &str) {
    std::fs::create_dir_all(root.join(name).join("deep")).expect("a directory");
    for number in 0..50 {
        std::fs::write(root.join(name).join(format!("deep/{number}")), format!("{name} {number}"))
            .expect("a file");
    }
    std::fs::write(root.join(name).join("large"), vec![name.as_bytes()[0]; 3 << 20]).expect("a file");
    std::os::unix::fs::symlink("deep/1", root.join(name).join("link")).expect("a symlink");
}

#[test]
fn acknowledged_files_are_on_the_node_that_took_over_and_are_shipped_back() {
    let mut pair = Pair::up(&["--tree"]);
    fill(&root(&pair, "a"), "first");
    until_acknowledged(&pair, "a");
    assert!(
        tree(&pair, "a").is_some_and(|tree| tree.in_sync && tree.entries > Some(50)),
        "{:#?}",
        tree(&pair, "a")
    );
    assert_eq!(tree(&pair, "b").map(|tree| tree.state), Some(TreeState::Following));
    pair.moves(|pair| {
        pair.lab.ok(&["power-off", "a"]);
        pair.taken_over_by("b");
    });
    let there = root(&pair, "b");
    assert_eq!(
        std::fs::read_to_string(there.join("first/deep/49")).expect("it was acknowledged"),
        "first 49"
    );
    assert_eq!(std::fs::metadata(there.join("first/large")).expect("it was acknowledged").len(), 3 << 20);
    fill(&there, "second");
    std::fs::rename(there.join("first/deep"), there.join("moved")).expect("it is there");
    pair.moves(|pair| {
        pair.lab.ok(&["power-on", "a"]);
        pair.in_sync_under("b");
    });
    until_acknowledged(&pair, "b");
    pair.moves(|pair| {
        let done = pair.verb("b", &["failback"]);
        assert!(matches!(done.status.code(), Some(0 | 4)), "{done:?}");
        pair.in_sync_under("a");
    });
    let here = root(&pair, "a");
    assert_eq!(std::fs::read_to_string(here.join("moved/49")).expect("it was shipped back"), "first 49");
    std::fs::write(here.join("third"), "third").expect("a file");
    until_equal(&pair, "a");
    pair.end("a");
}

#[test]
fn a_switchover_takes_along_what_was_written_up_to_the_applications_end() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut pair = Pair::with_app(&churning_app(&dir.path().join("pause"), 11), &["--tree"]);
    for (from, to) in [("a", "b"), ("b", "a")] {
        std::thread::sleep(Duration::from_millis(500));
        pair.moves(|pair| {
            let done = pair.verb(from, &["switchover"]);
            assert!(matches!(done.status.code(), Some(0 | 4)), "{done:?}");
            pair.in_sync_under(to);
        });
        let kept = pair.lab.home().join(from).join("disk/state/lab/tree/files/kept");
        let manifest = std::fs::read_to_string(kept.join("kept-1/manifest.txt"));
        assert!(!kept.exists(), "the switchover left something behind: {manifest:?}");
    }
    std::fs::write(dir.path().join("pause"), "").expect("a file");
    until_equal(&pair, "a");
    pair.end("a");
}

/// Kills the agents of both nodes in turn while the application changes its tree.
fn kill_agents(kills: u32) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let pause = dir.path().join("pause");
    let seed = std::env::var("LOCKSTEP_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(41);
    println!("LOCKSTEP_SEED={seed}");
    let mut moments = random::Random::new(seed);
    let mut pair = Pair::with_app(&churning_app(&pause, seed), &["--tree"]);
    for kill in 0..kills {
        std::thread::sleep(Duration::from_millis(moments.below(600)));
        let node = if kill % 2 == 0 { "a" } else { "b" };
        pair.moves(|pair| {
            pair.signal(node, "agent", Signal::KILL);
            pair.somebody_in_sync();
        });
        if kill % 10 == 9 || kill + 1 == kills {
            std::fs::write(&pause, "").expect("a file");
            let active = pair.somebody_in_sync();
            until_equal(&pair, active);
            std::fs::remove_file(&pause).expect("it is there");
        }
    }
    let active = pair.somebody_in_sync();
    pair.end(active);
}

#[test]
fn agents_killed_while_a_tree_changes_leave_equal_trees() {
    kill_agents(4);
}

#[test]
#[ignore = "minutes: LOCKSTEP_RUNS kills"]
fn long_agents_killed_while_a_tree_changes_leave_equal_trees() {
    kill_agents(runs());
}

fn runs() -> u32 {
    std::env::var("LOCKSTEP_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(100)
}

/// The standby's disk, a file system of its own, loses what was not synced, again and again.
fn standby_losses(losses: u32) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let pause = dir.path().join("pause");
    let mut moments = random::Random::new(43);
    let mut pair = Pair::with_app(&churning_app(&pause, 43), &["--tree", "--disk", "loop"]);
    for loss in 0..losses {
        std::thread::sleep(Duration::from_millis(moments.below(600)));
        let marker = format!("acknowledged-{loss}");
        std::fs::write(root(&pair, "a").join(&marker), &marker).expect("a file");
        std::fs::write(&pause, "").expect("a file");
        until_acknowledged(&pair, "a");
        std::fs::remove_file(&pause).expect("it is there");
        std::thread::sleep(Duration::from_millis(moments.below(300)));
        pair.moves(|pair| {
            pair.lab.ok(&["power-off", "b"]);
            pair.lab.ok(&["power-on", "--no-agent", "b"]);
        });
        let there = pair.lab.ok(&["exec", "b", "--", "cat", &format!("{}/{marker}", path(&pair, "b"))]);
        assert_eq!(there, marker, "loss {loss}: an acknowledged file is missing");
        pair.lab.ok(&["agent", "start", "b"]);
        pair.in_sync_under("a");
    }
    std::fs::write(&pause, "").expect("a file");
    until_equal(&pair, "a");
    pair.end("a");
}

#[test]
fn power_losses_of_the_standby_keep_every_acknowledged_file() {
    standby_losses(2);
}

#[test]
#[ignore = "minutes: LOCKSTEP_RUNS power losses"]
fn long_power_losses_of_the_standby_keep_every_acknowledged_file() {
    standby_losses(runs());
}

#[test]
fn what_a_node_changed_alone_is_kept_when_it_comes_back() {
    let mut pair = Pair::up(&["--tree"]);
    fill(&root(&pair, "a"), "first");
    until_acknowledged(&pair, "a");
    let old = path(&pair, "a");
    pair.moves(|pair| {
        pair.lab.ok(&["agent", "halt", "a"]);
        pair.taken_over_by("b");
        std::fs::write(Path::new(&old).join("lonely"), "mine alone").expect("a file");
        std::fs::remove_file(Path::new(&old).join("first/deep/7")).expect("it is there");
        std::fs::write(root(pair, "b").join("theirs"), "of the new active").expect("a file");
        pair.lab.ok(&["agent", "start", "a"]);
        pair.in_sync_under("b");
    });
    until_equal(&pair, "b");
    assert!(!Path::new(&old).join("lonely").exists() && Path::new(&old).join("first/deep/7").exists());
    let kept = pair.lab.home().join("a/disk/state/lab/tree/files/kept/kept-1");
    assert_eq!(std::fs::read_to_string(kept.join("1")).expect("it is kept"), "mine alone");
    pair.end("b");
}

/// `lockstep verify` of the tree on `a`: exit code and answer.
fn verify(pair: &Pair, options: &[&str]) -> (Option<i32>, serde_json::Value) {
    let done = pair.verb("a", &[&["verify", "files", "--json"], options].concat());
    let answer = serde_json::from_slice(&done.stdout);
    let answer: serde_json::Value = answer.unwrap_or_else(|error| panic!("{error}: {done:?}"));
    (done.status.code(), answer[0].clone())
}

fn what(answer: &serde_json::Value, path: &str) -> String {
    let differing = answer["differing"].as_array().expect("a list");
    let one = differing.iter().find(|one| one["path"] == path);
    one.map_or_else(String::new, |one| one["what"].as_str().expect("a word").to_owned())
}

#[test]
fn verify_tells_changes_from_rot_on_the_standby_and_repairs_both() {
    use std::os::unix::fs::FileExt;
    let pair = Pair::up(&["--tree"]);
    fill(&root(&pair, "a"), "first");
    until_acknowledged(&pair, "a");
    for options in [&[][..], &["--deep"]] {
        let (code, answer) = verify(&pair, options);
        assert_eq!((code, &answer["tree"]), (Some(0), &"files".into()), "{answer}");
        assert!(
            answer["entries"].as_u64() > Some(50) && answer["differing"] == serde_json::json!([]),
            "{answer}"
        );
    }
    let there = root(&pair, "b").join("first");
    std::fs::write(there.join("deep/3"), "by somebody").expect("it is there");
    std::fs::remove_file(there.join("deep/4")).expect("it is there");
    std::fs::write(there.join("only-there"), "by somebody").expect("a file");
    let large = std::fs::File::options().write(true).open(there.join("large")).expect("it is there");
    let time = large.metadata().and_then(|metadata| metadata.modified()).expect("it has one");
    large.write_all_at(b"rot", 1 << 20).expect("it can be written");
    large.set_modified(time).expect("it is ours");
    let (code, answer) = verify(&pair, &["--deep"]);
    assert_eq!(code, Some(1), "{answer}");
    for (path, expected) in [
        ("first/deep/3", "changed"),
        ("first/deep/4", "missing"),
        ("first/only-there", "extra"),
        ("first/large", "rotten-standby"),
    ] {
        assert_eq!(what(&answer, path), expected, "{path}: {answer}");
    }
    assert_eq!(
        (&answer["rotten_standby_paths"], &answer["repaired_paths"]),
        (&1.into(), &0.into()),
        "{answer}"
    );
    pair.until("an event that says so", || {
        pair.events("a", 0).iter().any(|event| event.kind == "tree.differs")
    });
    let (code, answer) = verify(&pair, &["--deep", "--repair"]);
    let differed = answer["drifted_paths"].as_u64().expect("a number") + 1;
    assert_eq!((code, answer["repaired_paths"].as_u64()), (Some(1), Some(differed)), "{answer}");
    assert_eq!(verify(&pair, &["--deep"]).0, Some(0));
    assert_eq!(differences(&pair, "a", "b"), "");
    let refused = pair.verb("b", &["verify", "files"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not active"), "{refused:?}");
    pair.end("a");
}

#[test]
fn verify_under_load_finds_nothing() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let pair = Pair::with_app(&churning_app(&dir.path().join("pause"), 17), &["--tree"]);
    for options in [&[][..], &["--deep"], &["--deep"]] {
        let (code, answer) = verify(&pair, options);
        assert_eq!(code, Some(0), "{answer}");
    }
    pair.end("a");
}

fn alarm(pair: &Pair, node: &str, words: &str) -> bool {
    pair.status(node).is_some_and(|pair| pair.alarms.iter().any(|alarm| alarm.sentence.contains(words)))
}

#[test]
fn what_keeps_a_tree_back_is_an_alarm_until_it_is_put_right() {
    let pair = Pair::up(&["--tree"]);
    let (here, there) = (root(&pair, "a"), root(&pair, "b"));
    fill(&here, "first");
    until_equal(&pair, "a");
    // A type that is not replicated: one path is stuck, everything else goes on.
    let socket = std::os::unix::net::UnixListener::bind(here.join("socket")).expect("a socket");
    pair.until("the alarm of a stuck path", || alarm(&pair, "a", "socket is not on the standby"));
    let stuck = tree(&pair, "a").expect("it answers");
    assert_eq!((stuck.stuck_files, stuck.stuck[0].path.as_str()), (1, "socket"), "{stuck:#?}");
    std::fs::write(here.join("beside"), "goes on").expect("a file");
    pair.until("the file beside it", || there.join("beside").exists());
    drop(socket);
    std::fs::remove_file(here.join("socket")).expect("it is there");
    pair.until("the end of the alarm", || pair.status("a").is_some_and(|pair| pair.alarms.is_empty()));
    // The root goes, on the active: nothing is deleted on the standby.
    let away = here.with_file_name("away");
    std::fs::rename(&here, &away).expect("it is there");
    pair.until("the alarm of a lost root", || {
        alarm(&pair, "a", "put it back") || alarm(&pair, "a", "create or mount")
    });
    assert!(there.join("first/deep/1").exists());
    assert_eq!(tree(&pair, "a").map(|tree| tree.state), Some(TreeState::Stopped));
    assert!(pair.is_in_sync("a"), "the database is not concerned");
    std::fs::rename(&away, &here).expect("it is there");
    pair.until("the end of the alarm", || pair.status("a").is_some_and(|pair| pair.alarms.is_empty()));
    std::fs::write(here.join("again"), "goes on").expect("a file");
    until_equal(&pair, "a");
    pair.end("a");
}

#[test]
fn a_mass_deletion_stops_the_tree_until_the_files_are_back() {
    let pair = Pair::up(&["--tree"]);
    let (here, there) = (root(&pair, "a"), root(&pair, "b"));
    std::fs::create_dir(here.join("many")).expect("a directory");
    for number in 0..1200 {
        std::fs::write(here.join("many").join(number.to_string()), "").expect("a file");
    }
    until_equal(&pair, "a");
    let away = here.parent().expect("it lies in one").join("away");
    std::fs::rename(here.join("many"), &away).expect("it is there");
    pair.until("the brake", || alarm(&pair, "a", "delete_max_percent"));
    assert!(there.join("many/1199").exists(), "nothing is removed");
    std::fs::rename(&away, here.join("many")).expect("it is there");
    pair.until("the end of the alarm", || pair.status("a").is_some_and(|pair| pair.alarms.is_empty()));
    std::fs::write(here.join("again"), "goes on").expect("a file");
    until_equal(&pair, "a");
    pair.end("a");
}
