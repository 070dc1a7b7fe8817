//! Crashes at chosen moments of a mirror's life. Every moment, and every kind of operation, is the crash
//! suite's in `tests/crash/`.

use super::{Mirror, Sent, Source, config_in, feed};
use crate::storage::{Backend, BackendChoice, SimulatedDisk, Unsynced, run};
use crate::wal::WalPoint;
use lockstep_wire::Rewind;
use std::path::Path;

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
            let image = disk.crash_image(disk.moment(), Unsynced::Seeded(seed));
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
            let image = Backend::Simulated(world.crash_image(world.moment(), Unsynced::Seeded(seed)));
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
        let rewind = Rewind {
            generation: kept.position.generation.0,
            frame: kept.position.frame.0,
            chain: kept.chain.packed(),
        };
        mirror.rewind(rewind).await.unwrap();
        // The same first frame comes again; the frames that followed it once must not come back with it.
        feed(&mut mirror, again[..1].to_vec()).await.unwrap();
        for seed in 0..50 {
            let image = Backend::Simulated(disk.crash_image(disk.moment(), Unsynced::Seeded(seed)));
            let found = Mirror::open(image, config.clone()).await.unwrap();
            assert_eq!(found.point(), kept);
        }
    })
    .unwrap();
}

/// A commit on the simulated disk, by the moments of its life.
struct Held {
    point: WalPoint,
    /// Its first frame was written after this.
    sent: usize,
    /// Durable, and so acknowledged, from here on.
    durable: usize,
    /// Being taken back after this.
    rewinding: usize,
    /// Taken back, and answered, from here on.
    gone: usize,
}

/// A mirror, its disk, and what it held when.
struct Life {
    disk: SimulatedDisk,
    mirror: Mirror,
    held: Vec<Held>,
}

impl Life {
    async fn take(&mut self, sent: Vec<Sent>) {
        for message in sent {
            let (begins, before) = (matches!(message, Sent::Generation(_)), self.disk.moment());
            feed(&mut self.mirror, vec![message]).await.unwrap();
            if begins {
                self.note(before);
            }
        }
    }

    /// A commit; with `false` nobody waits for the disk.
    async fn commit(&mut self, sent: Vec<Sent>, flush: bool) {
        let before = self.disk.moment();
        self.take(sent).await;
        if flush {
            self.mirror.flush().await.unwrap();
            self.note(before);
        } else {
            // Received: it may be on the disk, and then it counts.
            let point = WalPoint {
                position: self.mirror.received(),
                chain: self.mirror.chain,
                salts: self.mirror.point().salts,
            };
            self.held.push(Held {
                point,
                sent: before,
                durable: usize::MAX,
                rewinding: usize::MAX,
                gone: usize::MAX,
            });
        }
    }

    fn note(&mut self, sent: usize) {
        let (point, durable) = (self.mirror.point(), self.disk.moment());
        self.held.push(Held { point, sent, durable, rewinding: usize::MAX, gone: usize::MAX });
    }

    async fn rewind(&mut self, to: WalPoint) {
        let (generation, frame) = (to.position.generation.0, to.position.frame.0);
        let rewinding = self.disk.moment();
        self.mirror.rewind(Rewind { generation, frame, chain: to.chain.packed() }).await.unwrap();
        let last = self.held.last_mut().unwrap();
        (last.rewinding, last.gone) = (rewinding, self.disk.moment());
    }

    /// Of the commits an image of `moment` may end with, and no others.
    fn allowed(&self, moment: usize) -> Vec<WalPoint> {
        let stands = |held: &Held| held.durable <= moment && moment <= held.rewinding;
        let floor = self.held.iter().rposition(stands).unwrap();
        let possible = |held: &&Held| held.sent <= moment && moment < held.gone;
        self.held[floor..].iter().filter(possible).map(|held| held.point).collect()
    }
}

#[test]
fn every_crash_image_of_prepared_commits_and_rewinds_holds_what_was_acknowledged_and_nothing_taken_back() {
    run(BackendChoice::Blocking, async |_, _| {
        let disk = SimulatedDisk::default();
        let config = config_in(Path::new("/simulated"));
        let mut source = Source::new(1024);
        source.commit();
        let mut mirror = Mirror::open(Backend::Simulated(disk.clone()), config.clone()).await.unwrap();
        super::copy(&mut mirror, &mut source).await.unwrap();
        let first = disk.moment();
        let mut life = Life { disk: disk.clone(), mirror, held: Vec::new() };
        life.note(0);
        for round in 0..8 {
            source.commit();
            life.commit(source.news(2), true).await;
            let published = life.mirror.point();
            let mut dies = source.fork();
            dies.commit();
            let mut phantom = dies.news(2);
            for message in &mut phantom {
                let Sent::Batch(batch) = message else { panic!("it goes on in the same WAL") };
                batch.published_frame = published.position.frame.0;
            }
            life.commit(phantom, round % 3 > 0).await;
            life.rewind(published).await;
            if round % 2 == 1 {
                source.checkpoint("RESTART");
            }
        }
        let (mut looked, mut in_doubt) = (0, 0);
        for moment in first..=disk.moment() {
            let allowed = life.allowed(moment);
            for seed in 0..12 {
                let image = Backend::Simulated(
                    disk.crash_image(moment, Unsynced::Seeded(seed ^ (moment as u64) << 8)),
                );
                let found = Mirror::open(image, config.clone()).await.unwrap().point();
                assert!(allowed.contains(&found), "moment {moment} seed {seed}: {found:?} of {allowed:?}");
                looked += 1;
                in_doubt +=
                    u32::from(life.held.iter().any(|held| held.point == found && held.gone < usize::MAX));
            }
        }
        println!("{looked} images, {in_doubt} with a commit in doubt");
        assert!(in_doubt > 0);
    })
    .unwrap();
}
