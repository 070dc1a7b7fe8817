//! Power fails at any operation of a mirror's life, with every write since the last sync kept, lost,
//! torn or reordered: what is found must be an acknowledged prefix.
//!
//! The last test leaves out the sync of a new generation's header and must find a wrong image, or
//! the others would prove nothing.

use super::{Mirror, MirrorConfig, Opened, Sent, Source, config_in, contents, feed};
use crate::mirror::Faults;
use crate::storage::{Backend, BackendChoice, SimulatedDisk, run};
use std::path::{Path, PathBuf};

/// What happened on the simulated disk, and when.
struct History {
    disk: SimulatedDisk,
    config: MirrorConfig,
    /// The copy was complete from this moment on.
    complete: usize,
    /// (moment, commit): acknowledged from then on.
    acknowledged: Vec<(usize, i64)>,
    /// All rows after each commit; index 0: before the first.
    contents: Vec<String>,
}

fn seed() -> u64 {
    let seed = std::env::var("LOCKSTEP_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
    println!("replay with LOCKSTEP_SEED={seed}");
    seed
}

/// A copy of a live database, commits, generation switches, zeros ahead; flushes as acknowledgements.
async fn live(faults: Faults, generations: u32) -> History {
    let disk = SimulatedDisk::default();
    let config = MirrorConfig { zero_ahead_bytes: 4096, faults, ..config_in(Path::new("/simulated")) };
    let mut source = Source::new(1024);
    let mut history = History {
        disk: disk.clone(),
        config: config.clone(),
        complete: 0,
        acknowledged: Vec::new(),
        contents: vec![contents(&source.db).unwrap().1],
    };
    let commit = |source: &mut Source, history: &mut History| {
        source.commit();
        history.contents.push(contents(&source.db).unwrap().1);
    };
    for _ in 0..3 {
        commit(&mut source, &mut history);
    }
    let mut mirror = Mirror::open(Backend::Simulated(disk.clone()), config).await.unwrap();
    copy_while_written(&mut mirror, &mut source, |source| commit(source, &mut history)).await;
    history.complete = disk.moment();
    history.acknowledged.push((disk.moment(), source.commits));
    for generation in 0..generations {
        for round in 0..4 {
            commit(&mut source, &mut history);
            feed(&mut mirror, source.news(2)).await.unwrap();
            // Sometimes several commits share the first flush of a generation.
            if round > 1 || (round == 0 && generation % 3 == 0) {
                assert_eq!(mirror.flush().await.unwrap().0, source.frame);
                history.acknowledged.push((disk.moment(), source.commits));
            }
            if round == 2 {
                mirror.zero_ahead().await.unwrap();
            }
        }
        source.checkpoint("RESTART");
    }
    mirror.close().await.unwrap();
    history
}

/// Pages are read from a database that goes on being written and checkpointed between them.
async fn copy_while_written(mirror: &mut Mirror, source: &mut Source, mut commit: impl FnMut(&mut Source)) {
    let page_count = (source.file_pages().len() / 1024) as u32;
    mirror.begin_copy(false, 1024, page_count.max(1)).await.unwrap();
    source.start_over();
    let mut page = 0;
    loop {
        feed(mirror, source.news(3)).await.unwrap();
        let pages = source.file_pages();
        let Some(chunk) = pages.chunks(2048).nth(page) else { break };
        mirror.write_pages(page as u32 * 2 + 1, chunk.to_vec().into()).await.unwrap();
        page += 1;
        commit(source);
        match page % 3 {
            0 => mirror.flush().await.map(|_| ()).unwrap(),
            1 => {
                feed(mirror, source.news(3)).await.unwrap();
                source.checkpoint("RESTART");
            }
            _ => {}
        }
    }
    feed(mirror, source.news(3)).await.unwrap();
    let page_count = (source.file_pages().len() / 1024) as u32;
    assert!(!mirror.is_complete());
    mirror.end_copy(source.generation, source.frame, page_count).await.unwrap();
    mirror.flush().await.unwrap();
    assert!(mirror.is_complete());
}

/// Why the image is wrong, if it is.
async fn judge(history: &History, moment: usize, seed: u64) -> Result<(), String> {
    let image = history.disk.crash_image(moment, seed);
    let opened = Mirror::open(Backend::Simulated(image.clone()), history.config.clone()).await;
    let mirror = opened.map_err(|error| format!("open: {error}"))?;
    if moment < history.complete {
        // Whatever it is, it must not be promoted by mistake before it is complete.
        if !mirror.is_complete() {
            return Ok(());
        }
    } else if !mirror.is_complete() {
        return Err("incomplete after its copy was complete".to_owned());
    }
    let least =
        history.acknowledged.iter().rev().find(|(at, _)| *at <= moment).map_or(0, |(_, commit)| *commit);
    let bytes = |path: &PathBuf| image.contents(path).unwrap_or_default();
    let opened = Opened::from_bytes(&bytes(&history.config.database), &bytes(&history.config.wal()));
    match opened.integrity() {
        Ok(answer) if answer == "ok" => {}
        other => return Err(format!("integrity_check: {other:?}")),
    }
    let (last, rows) = contents(&opened.db).map_err(|error| format!("read: {error}"))?;
    if last < least {
        return Err(format!("commit {least} was acknowledged, {last} is there"));
    }
    if history.contents[last as usize] != rows {
        return Err(format!("the rows are not those of commit {last}"));
    }
    let frames: u32 = opened
        .db
        .query_row("PRAGMA wal_checkpoint(NOOP)", (), |row| row.get(1))
        .map_err(|e| e.to_string())?;
    let frame = mirror.point().position.frame.0;
    if frames == frame { Ok(()) } else { Err(format!("the mirror says frame {frame}, SQLite {frames}")) }
}

async fn wrong_images(history: &History, images_per_moment: u64, seed: u64) -> (usize, Vec<String>) {
    let (mut looked, mut wrong) = (0, Vec::new());
    for moment in 0..=history.disk.moment() {
        for image in 0..images_per_moment {
            let seed = seed ^ (moment as u64) << 20 ^ image;
            looked += 1;
            if let Err(why) = judge(history, moment, seed).await {
                wrong.push(format!("moment {moment} image seed {seed}: {why}"));
            }
        }
    }
    (looked, wrong)
}

fn crash_everywhere(generations: u32, images_per_moment: u64) {
    let seed = seed();
    run(BackendChoice::Blocking, async |_, _| {
        let history = live(Faults::default(), generations).await;
        let (looked, wrong) = wrong_images(&history, images_per_moment, seed).await;
        println!("{looked} images");
        assert!(
            wrong.is_empty(),
            "{} of {looked} images are wrong: {:#?}",
            wrong.len(),
            &wrong[..wrong.len().min(5)]
        );
    })
    .unwrap();
}

#[test]
fn every_crash_image_of_a_copy_and_of_generation_switches_is_an_acknowledged_prefix() {
    crash_everywhere(6, 8);
}

#[test]
#[ignore = "minutes; LOCKSTEP_RUNS sets the images per moment"]
fn long_every_crash_image_is_an_acknowledged_prefix() {
    let runs = std::env::var("LOCKSTEP_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(100);
    crash_everywhere(8, runs);
}

#[test]
fn without_the_header_sync_some_crash_image_is_wrong() {
    let seed = seed();
    run(BackendChoice::Blocking, async |_, _| {
        let history = live(Faults { skip_header_sync: true }, 6).await;
        let (looked, wrong) = wrong_images(&history, 8, seed).await;
        println!("{} of {looked} images are wrong, the first: {:?}", wrong.len(), wrong.first());
        assert!(!wrong.is_empty(), "the crash test does not notice a missing sync");
    })
    .unwrap();
}

#[test]
fn a_torn_append_ends_at_the_last_whole_commit() {
    run(BackendChoice::Blocking, async |_, _| {
        let disk = SimulatedDisk::default();
        let config = config_in(Path::new("/simulated"));
        let mut source = Source::new(1024);
        source.commit();
        let mut mirror = Mirror::open(Backend::Simulated(disk.clone()), config.clone()).await.unwrap();
        super::copy(&mut mirror, &mut source).await.unwrap();
        let durable = mirror.point();
        source.commit();
        let Some(Sent::Batch(batch)) = source.news(100).pop() else { panic!("a commit makes a batch") };
        mirror.append(batch).await.unwrap();
        let whole = mirror.received().frame;
        mirror.close().await.unwrap();
        let mut torn = 0;
        for seed in 0..64 {
            let image = disk.crash_image(disk.moment(), seed);
            let mirror = Mirror::open(Backend::Simulated(image), config.clone()).await.unwrap();
            let frame = mirror.point().position.frame;
            assert!(frame == durable.position.frame || frame == whole, "{frame:?}");
            torn += u32::from(frame == durable.position.frame);
        }
        assert!((1..64).contains(&torn), "{torn} of 64");
    })
    .unwrap();
}

#[test]
fn frames_whose_sync_failed_are_never_taken_for_durable() {
    run(BackendChoice::Blocking, async |_, _| {
        let world = SimulatedDisk::default();
        let disk = Backend::Simulated(world.clone());
        let config = config_in(Path::new("/simulated"));
        let mut source = Source::new(1024);
        source.commit();
        let mut mirror = Mirror::open(disk.clone(), config.clone()).await.unwrap();
        super::copy(&mut mirror, &mut source).await.unwrap();
        let durable = mirror.point();
        source.commit();
        let lost = source.news(2);
        feed(&mut mirror, lost.clone()).await.unwrap();
        world.set_syncs_fail(true);
        assert_eq!(mirror.flush().await.unwrap_err().code(), "disk");
        mirror.close_after_failed_flush().await.unwrap();
        world.set_syncs_fail(false);
        let mut mirror = Mirror::open(disk.clone(), config.clone()).await.unwrap();
        assert_eq!(mirror.point(), durable);
        feed(&mut mirror, lost).await.unwrap();
        assert_eq!(mirror.flush().await.unwrap().0, source.frame);
        let held = mirror.point();
        for seed in 0..20 {
            let image = Backend::Simulated(world.crash_image(world.moment(), seed));
            let mirror = Mirror::open(image, config.clone()).await.unwrap();
            assert_eq!(mirror.point(), held);
        }
    })
    .unwrap();
}

#[test]
fn a_rewind_that_returned_is_on_disk_whatever_follows() {
    run(BackendChoice::Blocking, async |_, _| {
        let disk = SimulatedDisk::default();
        let config = config_in(Path::new("/simulated"));
        let mut source = Source::new(1024);
        source.commit();
        let mut mirror = Mirror::open(Backend::Simulated(disk.clone()), config.clone()).await.unwrap();
        super::copy(&mut mirror, &mut source).await.unwrap();
        let kept = mirror.point();
        source.commit();
        source.commit();
        let again = source.news(2);
        feed(&mut mirror, again.clone()).await.unwrap();
        mirror.flush().await.unwrap();
        let rewind = lockstep_wire::Rewind {
            generation: kept.position.generation.0,
            frame: kept.position.frame.0,
            chain: kept.chain.packed(),
        };
        mirror.rewind(rewind).await.unwrap();
        // The same first frame comes again; the frames that followed it once must not come back with it.
        feed(&mut mirror, again[..1].to_vec()).await.unwrap();
        for seed in 0..50 {
            let image = Backend::Simulated(disk.crash_image(disk.moment(), seed));
            let found = Mirror::open(image, config.clone()).await.unwrap();
            assert_eq!(found.point(), kept);
        }
    })
    .unwrap();
}
