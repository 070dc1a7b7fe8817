//! Crashes at chosen moments of a mirror's life. Every moment, and every kind of operation, is the crash
//! suite's in `tests/crash/`.

use super::{Mirror, Sent, Source, config_in, feed};
use crate::storage::{Backend, BackendChoice, SimulatedDisk, Unsynced, run};
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
        let rewind = lockstep_wire::Rewind {
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
