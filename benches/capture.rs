//! What following a database costs its writer and whoever asks for a position, across hand-overs.
//!
//! The same load in one run: SQLite alone, SQLite with capture and a consumer that only
//! counts, and the same beside a program that keeps the disk busy. Meanwhile a position is asked for
//! each millisecond, as the commit barrier does. `LOCKSTEP_SECONDS` is the length of each, 5 by
//! default; `LOCKSTEP_DIR` is where the database lies.

use lockstep_benches::load::{self, Work, Writer};
use lockstep_benches::{Times, announce, setting, tell};
use lockstep_engine::capture::{Capture, CaptureCommand, CaptureConfig, CaptureStatus};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Frames between hand-overs: the agent's default, and SQLite's own between checkpoints.
const CHECKPOINT_FRAMES: u64 = 1_000;

fn main() {
    load::serve();
    announce("capture");
    let seconds = setting("LOCKSTEP_SECONDS", 5);
    for rate_per_s in [1_000, 0] {
        let work = Work { seconds, rate_per_s, rows: 1, row_bytes: 1_000, say_commits: false };
        for (follow, busy_disk) in [(false, false), (true, false), (false, true), (true, true)] {
            scenario(work, follow, busy_disk);
        }
    }
}

fn scenario(work: Work, follow: bool, busy_disk: bool) {
    let directory = directory();
    let database = directory.path().join("app.db");
    load::create(&database);
    load::fill(&database, 32 << 20);
    let follower = follow.then(|| Follower::start(&database));
    let disk = busy_disk.then(|| DiskHog::start(directory.path()));
    let commits = Writer::start(&database, work).finish();
    let mut finding = json!({
        "bench": "capture",
        "what": if follow { "with capture" } else { "SQLite alone" },
        "busy_disk": busy_disk,
        "commits_per_s_asked": work.rate_per_s,
        "commit": commits,
    });
    if let Some(follower) = follower {
        let (status, asked) = follower.finish();
        finding["position_asked"] = asked.figures();
        finding["handovers"] = status.handovers.into();
        finding["handovers_busy"] = status.handovers_busy.into();
        finding["handovers_incomplete"] = status.handovers_incomplete.into();
        finding["resets"] = status.resets.into();
        finding["writers_held_max_us"] = status.held_max_us.into();
        finding["writers_held_mean_us"] = (status.held_total_us / status.handovers.max(1)).into();
    }
    drop(disk);
    tell(&finding);
}

fn directory() -> tempfile::TempDir {
    let root = std::env::var_os("LOCKSTEP_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(root).expect("a folder for the database")
}

/// Capture, a consumer, and somebody who asks for positions.
struct Follower {
    capture: Arc<Capture>,
    stop: Arc<AtomicBool>,
    asker: JoinHandle<Times>,
}

impl Follower {
    fn start(database: &Path) -> Self {
        let (events, mut taken) = mpsc::channel(8);
        let config = CaptureConfig {
            path: database.to_owned(),
            checkpoint_frames: setting("LOCKSTEP_CHECKPOINT_FRAMES", CHECKPOINT_FRAMES) as u32,
            wal_retain_max_bytes: 1 << 30,
            poll_ms: 5,
            continues: None,
            pokes: None,
        };
        let capture = Arc::new(Capture::start(config, events).expect("the database can be followed"));
        std::thread::spawn(move || while taken.blocking_recv().is_some() {});
        let (reply, attached) = oneshot::channel();
        capture.command(CaptureCommand::Attach { from: None, published: None, reply }).expect("capture runs");
        attached.blocking_recv().expect("capture answers");
        let stop = Arc::new(AtomicBool::new(false));
        let (asked, ended) = (Arc::clone(&capture), Arc::clone(&stop));
        let asker = std::thread::spawn(move || {
            let mut times = Times::default();
            while !ended.load(Ordering::Relaxed) {
                let (reply, position) = oneshot::channel();
                let began = Instant::now();
                asked.command(CaptureCommand::Sync(reply)).expect("capture runs");
                position.blocking_recv().expect("capture answers");
                times.add(began.elapsed());
                std::thread::sleep(Duration::from_millis(1));
            }
            times
        });
        Self { capture, stop, asker }
    }

    fn finish(self) -> (CaptureStatus, Times) {
        self.stop.store(true, Ordering::Relaxed);
        let times = self.asker.join().expect("the asker does not panic");
        (self.capture.status(), times)
    }
}

/// Keeps the disk busy: 8 MiB written and synced, again and again.
struct DiskHog(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl DiskHog {
    fn start(directory: &Path) -> Self {
        let (stop, path) = (Arc::new(AtomicBool::new(false)), directory.join("hog"));
        let ended = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let block = vec![7; 8 << 20];
            while !ended.load(Ordering::Relaxed) {
                let mut file = std::fs::File::create(&path).expect("a file");
                file.write_all(&block).and_then(|()| file.sync_all()).expect("the disk takes it");
            }
        });
        Self(stop, Some(thread))
    }
}

impl Drop for DiskHog {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.take().expect("joined once").join().expect("the hog does not panic");
    }
}
