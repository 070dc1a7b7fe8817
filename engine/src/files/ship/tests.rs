//! A tree's thread against the standby's applier, without a connection between them.

use super::random::{Random, operate};
use super::{DELETE_MAX_PERCENT, Shipper, TreeConfig, TreeState};
use crate::files::apply::{Applier, ApplyConfig};
use crate::files::rules::Rules;
use lockstep_wire::{Message, TreeState as Held};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Nothing here takes this long unless it never comes.
const LIMIT: Duration = Duration::from_secs(20);

struct Pair {
    directory: TempDir,
    shipper: Option<Arc<Shipper>>,
    notices: Arc<Mutex<Vec<String>>>,
    standby: Option<std::thread::JoinHandle<()>>,
    bytes: Arc<Mutex<u64>>,
}

impl Pair {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("a")).unwrap();
        let mut pair =
            Self { directory, shipper: None, notices: Arc::default(), standby: None, bytes: Arc::default() };
        pair.start();
        pair
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn a(&self) -> PathBuf {
        self.path("a")
    }

    fn start(&mut self) {
        let config = TreeConfig {
            name: "files".parse().unwrap(),
            root: self.a(),
            exclude: Vec::new(),
            before_commits: false,
            delete_max_percent: DELETE_MAX_PERCENT,
            bytes_per_s_max: None,
        };
        let notices = self.notices.clone();
        let notice = Arc::new(move |_, sentence| notices.lock().unwrap().push(sentence));
        let index = self.path("state/index.db");
        let shipper = Shipper::start(config, Rules::default(), index, false, notice).unwrap();
        self.shipper = Some(Arc::new(shipper));
    }

    fn shipper(&self) -> &Shipper {
        self.shipper.as_ref().unwrap()
    }

    fn stop(&mut self) {
        self.disconnect();
        if let Some(shipper) = self.shipper.take() {
            shipper.stop()();
        }
    }

    fn connect(&mut self) {
        let config = ApplyConfig {
            root: self.path("b"),
            state_dir: self.path("standby"),
            untouchable: Vec::new(),
            sync_each_max: 0,
        };
        let mut applier = Applier::open(config).unwrap();
        let ack = applier.ack();
        let empty = std::fs::read_dir(self.path("b")).unwrap().count() <= 1;
        let held = Held { stream: 2, index: ack.index, batch: ack.batch, empty, ..Held::default() };
        let (out, mut messages) = mpsc::channel(2);
        let shipper = self.shipper.clone().unwrap();
        shipper.connected(held, out);
        let bytes = self.bytes.clone();
        let serve = move || {
            while let Some(message) = messages.blocking_recv() {
                let length = message.encode().len() as u64;
                *bytes.lock().unwrap() += length;
                let Message::TreeOps(ops) = message else { panic!("{} is not expected", message.name()) };
                let acks = applier.take(ops, length).unwrap();
                shipper.ack(applier.ack());
                for ack in acks {
                    shipper.ack(ack);
                }
            }
        };
        self.standby = Some(std::thread::spawn(serve));
    }

    fn disconnect(&mut self) {
        if let Some(standby) = self.standby.take() {
            self.shipper().disconnected();
            standby.join().unwrap();
        }
    }

    fn settle(&self) {
        let answer = self.shipper().barrier().blocking_recv().unwrap();
        answer.unwrap_or_else(|error| panic!("{error}: {:#?} {:#?}", self.shipper().status(), self.notices));
    }

    fn equal(&self) {
        self.settle();
        let differences = rsync(&self.a(), &self.path("b"));
        assert!(differences.is_empty(), "{differences}\n{:#?}", self.shipper().status());
    }

    fn until(&self, state: &TreeState) {
        let until = Instant::now() + LIMIT;
        while self.shipper().status().state != *state {
            assert!(Instant::now() < until, "{:#?}", self.shipper().status());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn rsync(a: &Path, b: &Path) -> String {
    let output = std::process::Command::new("rsync")
        .args(["-aHAXSni", "--numeric-ids", "--delete", "--checksum", "--exclude=/.lockstep"])
        .args([a.join(""), b.join("")])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn what_is_there_and_what_comes_is_on_the_standby() {
    let mut pair = Pair::new();
    let a = pair.a();
    std::fs::create_dir_all(a.join("d/e")).unwrap();
    std::fs::write(a.join("d/small"), "hello").unwrap();
    std::fs::write(a.join("d/e/large"), vec![1; 1_000_000]).unwrap();
    std::os::unix::fs::symlink("small", a.join("d/link")).unwrap();
    std::fs::hard_link(a.join("d/small"), a.join("hard")).unwrap();
    pair.connect();
    pair.equal();
    std::fs::write(a.join("d/small"), "hello again").unwrap();
    pair.equal();
    std::fs::rename(a.join("d"), a.join("f")).unwrap();
    pair.equal();
    std::fs::remove_dir_all(a.join("f/e")).unwrap();
    std::fs::write(a.join("new"), "").unwrap();
    pair.equal();
    pair.until(&TreeState::Level);
    pair.stop();
}

/// Seeds of random runs: `LOCKSTEP_SEED` for one, else as many new ones.
fn seeds(count: u64) -> Vec<u64> {
    if let Ok(seed) = std::env::var("LOCKSTEP_SEED") {
        return vec![seed.parse().expect("a number")];
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    (0..count).map(|at| now.as_nanos() as u64 % 1_000_000_007 + at).collect()
}

/// Random operations with pauses, reconnects and restarts of the active; equality after each stretch.
fn random_run(seed: u64, stretches: u64) {
    println!("LOCKSTEP_SEED={seed}");
    let mut random = Random::new(seed);
    let mut pair = Pair::new();
    pair.connect();
    for stretch in 0..stretches {
        for _ in 0..random.below(150) {
            operate(&pair.a(), &mut random);
            if random.below(40) == 0 {
                std::thread::sleep(Duration::from_millis(random.below(30)));
            }
        }
        match random.below(4) {
            0 => {
                pair.disconnect();
                operate(&pair.a(), &mut random);
                pair.connect();
            }
            1 => {
                pair.stop();
                for _ in 0..random.below(20) {
                    operate(&pair.a(), &mut random);
                }
                pair.start();
                pair.connect();
            }
            _ => {}
        }
        println!("stretch {stretch}");
        pair.equal();
    }
    pair.stop();
}

/// As many as `LOCKSTEP_RUNS` says.
#[test]
#[ignore = "minutes"]
fn long_random_operations_with_reconnects_and_restarts_end_equal() {
    let runs = std::env::var("LOCKSTEP_RUNS").map_or(20, |runs| runs.parse().expect("a number"));
    for seed in seeds(runs) {
        random_run(seed, 12);
    }
}
