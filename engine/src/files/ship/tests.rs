//! A tree's thread against the standby's applier, without a connection between them.

use super::random::{Random, operate};
use super::{DELETE_MAX_PERCENT, Shipper, TreeConfig, TreeState};
use crate::files::apply::{Applier, ApplyConfig};
use crate::files::rules::Rules;
use lockstep_wire::{
    Message, TreeAck, TreeFailure, TreeOp, TreeOpKind, TreeOps, TreeReason, TreeState as Held, pack, unpack,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Nothing here takes this long unless it never comes.
const LIMIT: Duration = Duration::from_secs(20);

/// What goes wrong on the standby.
#[derive(Default)]
struct Faults {
    /// So many of a hundred operations are not done and answered with a failure.
    refused_percent: AtomicU64,
    /// Batches are put in place and not answered.
    deaf: AtomicBool,
}

/// Refuses operations of a batch.
struct Refuser {
    random: Random,
    /// The content of a refused file still comes.
    skipping: bool,
    failures: Vec<TreeFailure>,
}

impl Refuser {
    fn take_out(&mut self, ops: TreeOps, percent: u64) -> TreeOps {
        let mut left = Vec::new();
        for op in unpack::<TreeOp>(ops.ops).map(Result::unwrap) {
            let of_content = matches!(op.kind(), TreeOpKind::Data | TreeOpKind::Keep | TreeOpKind::End);
            if !of_content {
                self.skipping = self.random.below(100) < percent;
                if self.skipping {
                    let (path, reason) = (op.path.clone(), TreeReason::Other.into());
                    self.failures.push(TreeFailure { path, op: op.kind, reason, detail: String::new() });
                }
            }
            if !self.skipping {
                left.push(op);
            }
        }
        TreeOps { ops: pack(left), ..ops }
    }

    /// The answers to a batch, with what was refused.
    fn told(&mut self, mut acks: Vec<TreeAck>) -> Vec<TreeAck> {
        if let Some(ack) = acks.last_mut() {
            let failures = unpack::<TreeFailure>(std::mem::take(&mut ack.failures)).map(Result::unwrap);
            ack.failures = pack(failures.chain(std::mem::take(&mut self.failures)).collect::<Vec<_>>());
        }
        acks
    }
}

struct Pair {
    directory: TempDir,
    faults: Arc<Faults>,
    shipper: Option<Arc<Shipper>>,
    notices: Arc<Mutex<Vec<String>>>,
    standby: Option<std::thread::JoinHandle<()>>,
    bytes: Arc<Mutex<u64>>,
}

impl Pair {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("a")).unwrap();
        let mut pair = Self {
            directory,
            faults: Arc::default(),
            shipper: None,
            notices: Arc::default(),
            standby: None,
            bytes: Arc::default(),
        };
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
        let (bytes, faults) = (self.bytes.clone(), self.faults.clone());
        let mut refuser = Refuser { random: Random::new(7), skipping: false, failures: Vec::new() };
        let serve = move || {
            while let Some(message) = messages.blocking_recv() {
                let length = message.encode().len() as u64;
                *bytes.lock().unwrap() += length;
                let Message::TreeOps(ops) = message else { panic!("{} is not expected", message.name()) };
                let ops = refuser.take_out(ops, faults.refused_percent.load(Ordering::SeqCst));
                let acks = refuser.told(applier.take(ops, length).unwrap());
                if faults.deaf.load(Ordering::SeqCst) && !acks.is_empty() {
                    continue;
                }
                let progress = acks.is_empty().then(|| applier.ack());
                for ack in acks.into_iter().chain(progress) {
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

    /// Whoever waits hurries what rests; what happened by a name that came and went needs a look at everything.
    fn level(&self) {
        let until = Instant::now() + LIMIT;
        self.settle();
        while self.shipper().status().state != TreeState::Level {
            assert!(Instant::now() < until, "{:#?}", self.shipper().status());
            std::thread::sleep(Duration::from_millis(2));
            self.settle();
        }
    }

    fn equal(&self) {
        self.level();
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

/// Random operations with pauses, reconnects and restarts of the active; equality after each stretch. So many of a
/// hundred operations the standby refuses at first.
fn random_run(seed: u64, stretches: u64, refused_percent: u64) {
    println!("LOCKSTEP_SEED={seed} {refused_percent}");
    let mut random = Random::new(seed);
    let mut pair = Pair::new();
    pair.connect();
    for stretch in 0..stretches {
        pair.faults.refused_percent.store(refused_percent, Ordering::SeqCst);
        for _ in 0..random.below(150) {
            operate(&pair.a(), &mut random);
            if random.below(40) == 0 {
                std::thread::sleep(Duration::from_millis(random.below(30)));
            }
        }
        match random.below(5) {
            0 => {
                pair.disconnect();
                operate(&pair.a(), &mut random);
                pair.connect();
            }
            2 => {
                pair.faults.deaf.store(true, Ordering::SeqCst);
                for _ in 0..random.below(50) {
                    operate(&pair.a(), &mut random);
                }
                std::thread::sleep(Duration::from_millis(random.below(20)));
                pair.disconnect();
                pair.faults.deaf.store(false, Ordering::SeqCst);
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
        pair.faults.refused_percent.store(0, Ordering::SeqCst);
        pair.equal();
    }
    pair.stop();
}

fn runs() -> u64 {
    std::env::var("LOCKSTEP_RUNS").map_or(20, |runs| runs.parse().expect("a number"))
}

#[test]
fn random_operations_end_equal_also_when_the_standby_refuses_some() {
    for (at, seed) in seeds(2).into_iter().enumerate() {
        random_run(seed, 2, at as u64 * 10);
    }
}

/// As many as `LOCKSTEP_RUNS` says.
#[test]
#[ignore = "minutes"]
fn long_random_operations_with_reconnects_and_restarts_end_equal() {
    for seed in seeds(runs()) {
        random_run(seed, 12, 0);
    }
}

/// As many as `LOCKSTEP_RUNS` says.
#[test]
#[ignore = "minutes"]
fn long_random_operations_of_which_the_standby_refuses_some_end_equal() {
    for seed in seeds(runs()) {
        random_run(seed, 12, 5);
    }
}

/// What is written, owned or allowed by a name that is gone before anybody looks at it is another file's change.
#[test]
fn what_happens_by_another_name_of_a_file_that_comes_and_goes_is_on_the_standby() {
    let mut pair = Pair::new();
    let a = pair.a();
    std::fs::write(a.join("kept"), vec![1; 5000]).unwrap();
    std::fs::write(a.join("linked"), vec![2; 5000]).unwrap();
    std::fs::hard_link(a.join("linked"), a.join("name")).unwrap();
    pair.connect();
    pair.equal();
    let mtime = std::fs::metadata(a.join("kept")).unwrap().modified().unwrap();
    std::fs::hard_link(a.join("kept"), a.join("passing")).unwrap();
    for name in ["passing", "name"] {
        // The same size and time as before.
        let file = std::fs::OpenOptions::new().write(true).open(a.join(name)).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"other", 100).unwrap();
        file.set_modified(mtime).unwrap();
        drop(file);
        std::fs::remove_file(a.join(name)).unwrap();
    }
    pair.equal();
    std::fs::hard_link(a.join("kept"), a.join("passing")).unwrap();
    std::os::unix::fs::chown(a.join("passing"), None, Some(nobody(&a))).unwrap();
    std::fs::remove_file(a.join("passing")).unwrap();
    pair.equal();
    pair.stop();
}

/// A group that files may be given.
fn nobody(root: &Path) -> u32 {
    let own = std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(root).unwrap());
    if rustix::process::geteuid().is_root() { 65_534 } else { own }
}

/// The new content of a file fails, and links to it and renames of it do not: they are of the old content.
#[test]
fn what_builds_on_a_refused_operation_is_sent_anew() {
    let mut pair = Pair::new();
    let a = pair.a();
    std::fs::create_dir(a.join("d")).unwrap();
    std::fs::write(a.join("d/f"), vec![1; 300_000]).unwrap();
    pair.connect();
    pair.equal();
    for round in 2..5 {
        pair.faults.refused_percent.store(70, Ordering::SeqCst);
        let old = format!("d{}", if round == 2 { String::new() } else { (round - 1).to_string() });
        std::fs::write(a.join(&old).join("f"), vec![round; 200_000 + usize::from(round)]).unwrap();
        std::fs::hard_link(a.join(&old).join("f"), a.join(format!("l{round}"))).unwrap();
        std::fs::rename(a.join(&old), a.join(format!("d{round}"))).unwrap();
        std::fs::write(a.join(format!("d{round}/n{round}")), "new").unwrap();
        pair.settle();
        pair.faults.refused_percent.store(0, Ordering::SeqCst);
        pair.equal();
    }
    pair.stop();
}
