//! Writers, checkpointers, readers and kills, all at once.

use crate::session::{config, start_copy, status, sync};
use crate::writers::{Dice, Job, create};
use lockstep_engine::capture::CaptureConfig;
use std::time::{Duration, Instant};

fn writer(seed: u64, autocheckpoint: u32) -> Job {
    Job { pause_us: 500, ..Job::writer(seed, autocheckpoint) }
}

/// Runs writers with every autocheckpoint setting, one checkpointer at random, readers, and kills a
/// writer now and then, until the WAL has begun anew `resets` times; then compares.
fn storm(seed: u64, resets: u64) {
    println!("seed {seed}");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("source.db");
    create(&path);
    let (capture, consumer) = start_copy(CaptureConfig { checkpoint_frames: 100, ..config(&path) }, 16);
    let mut random = Dice(seed);
    let mut writers: Vec<_> =
        [20, 100, 1000].iter().map(|&pages| writer(random.next(), pages).start(&path)).collect();
    let checkpointer = Job::role("checkpointer", random.next()).start(&path);
    let reader = Job::role("reader", random.next()).start(&path);
    let began = Instant::now();
    while capture.status().resets < resets {
        assert!(began.elapsed() < Duration::from_secs(300), "only {:?}", capture.status());
        assert_eq!(capture.status().failed, None);
        std::thread::sleep(Duration::from_millis(random.below(50)));
        let which = random.below(writers.len() as u64) as usize;
        writers.remove(which).kill();
        let pages = [20, 100, 1000][random.below(3) as usize];
        let mut writer = writer(random.next(), pages).start(&path);
        writer.wait_ready();
        writers.push(writer);
    }
    let elapsed = began.elapsed();
    let reports: Vec<_> = writers.into_iter().map(crate::writers::Process::finish).collect();
    println!("writers {reports:?}");
    println!("checkpointer {:?} reader {:?}", checkpointer.finish(), reader.finish());
    // A killed writer may have left a commit frame that was never published; one clean commit covers it.
    Job { count: 1, ..Job::writer(1, 1000) }.start(&path).wait();
    consumer.wait_for(sync(&capture));
    println!("{elapsed:?} {:?}", status(&capture));
    capture.stop();
    let rebuilt = consumer.finish();
    println!("resets {} commits {}", rebuilt.resets, rebuilt.commits);
    assert!(rebuilt.resets >= resets && !rebuilt.let_go);
    rebuilt.assert_equals(&path);
}

#[test]
fn a_database_in_a_storm_is_rebuilt_page_by_page() {
    storm(0x5eed_0001, 100);
}

#[test]
#[ignore = "takes minutes: LOCKSTEP_RUNS storms of 300 resets each (10 unless told)"]
fn long_storms_with_other_seeds() {
    let runs = std::env::var("LOCKSTEP_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(10);
    let first = std::time::UNIX_EPOCH.elapsed().expect("the clock is past 1970").as_secs();
    for seed in first..first + runs {
        storm(seed, 300);
    }
}
