//! Pages moved into the database file ahead of a generation's end: the same database at every moment.

use super::{
    Mirror, MirrorConfig, Sent, Source, bytes_of, config_in, contents, feed, mirror_pages, on_every_disk,
};
use crate::storage::{Backend, BackendChoice, SimulatedDisk, Unsynced, run};
use crate::wal::{FRAME_HEADER_BYTES, FrameHeader, WalPoint};
use lockstep_wire::Rewind;
use std::path::Path;

/// Moves from the first frame on, a page or two at a time.
fn config(dir: &Path) -> MirrorConfig {
    MirrorConfig { fold_ahead_bytes: 2048, ..config_in(dir) }
}

/// A source with a commit, and a mirror that is a whole copy of it.
async fn copied(disk: Backend, config: MirrorConfig) -> (Source, Mirror) {
    let mut source = Source::new(1024);
    source.commit();
    let mut mirror = Mirror::open(disk, config).await.unwrap();
    super::copy(&mut mirror, &mut source).await.unwrap();
    (source, mirror)
}

/// At most `steps`; answers how many there were.
async fn fold(mirror: &mut Mirror, steps: usize) -> usize {
    for step in 0..steps {
        let Some(ticket) = mirror.start_fold() else { return step };
        let folded = ticket.run().await.unwrap();
        mirror.finish_fold(&folded);
    }
    steps
}

#[test]
fn whatever_was_moved_ahead_the_database_is_the_same_after_each_commit_and_switch() {
    on_every_disk(async |disk, dir| {
        let config = config(&dir);
        let (mut source, mut mirror) = copied(disk.clone(), config.clone()).await;
        let mut moved = 0;
        for round in 0..24 {
            source.commit();
            feed(&mut mirror, source.news(3)).await.unwrap();
            mirror.flush().await.unwrap();
            // All of it, nothing, or a part, after which more comes before the switch.
            moved += fold(&mut mirror, [usize::MAX, 0, 1, 0][round % 4]).await;
            assert_eq!(mirror_pages(&disk, &config).await, source.pages(), "round {round}");
            if round % 4 == 3 {
                source.checkpoint("RESTART");
            }
            if round % 7 == 6 {
                source.db.execute_batch("DELETE FROM t WHERE k < 20; VACUUM").unwrap();
            }
        }
        assert!(moved > 20, "{moved}");
        mirror.close().await.unwrap();
    });
}

#[test]
fn a_position_before_what_was_moved_is_neither_told_nor_gone_back_to() {
    on_every_disk(async |disk, dir| {
        let (mut source, mut mirror) = copied(disk, config(&dir)).await;
        let before = mirror.point();
        source.commit();
        feed(&mut mirror, source.news(100)).await.unwrap();
        mirror.flush().await.unwrap();
        let after = mirror.point().position;
        let told = mirror.start_hashing(before.position, 1, 9).await.unwrap().expect("nothing was moved");
        assert!(mirror.start_fold().is_none(), "a reader needs the file as it is");
        drop(told);
        assert!(fold(&mut mirror, 1).await == 1);
        assert!(mirror.start_hashing(before.position, 1, 9).await.unwrap().is_none());
        assert!(mirror.start_hashing(after, 1, 9).await.unwrap().is_some());
        let back = Rewind {
            generation: before.position.generation.0,
            frame: before.position.frame.0,
            chain: before.chain.packed(),
        };
        assert_eq!(mirror.rewind(back).await.unwrap_err().code(), "gap");
        assert_eq!(mirror.point().position, after);
    });
}

#[test]
fn what_is_prepared_is_not_moved() {
    on_every_disk(async |disk, dir| {
        let (mut source, mut mirror) = copied(disk, config(&dir)).await;
        fold(&mut mirror, usize::MAX).await;
        source.commit();
        let mut news = source.news(100);
        let Some(Sent::Batch(batch)) = news.first_mut() else { panic!("it goes on in the same WAL") };
        batch.published_frame = batch.first_frame - 1;
        feed(&mut mirror, news).await.unwrap();
        mirror.flush().await.unwrap();
        assert!(mirror.start_fold().is_none());
    });
}

#[test]
fn much_of_an_open_transaction_goes_to_disk_and_does_not_count() {
    on_every_disk(async |disk, dir| {
        let (mut source, mut mirror) = copied(disk, config(&dir)).await;
        let before = mirror.point();
        source.db.execute("INSERT INTO t SELECT 2000, 0, zeroblob(9000000)", ()).unwrap();
        let mut news = source.news(512);
        let commit = news.pop().unwrap();
        let Sent::Batch(last) = &commit else { panic!("it goes on in the same WAL") };
        let at = last.data.len() - 1024 - FRAME_HEADER_BYTES;
        assert!(FrameHeader::parse(last.data[at..].first_chunk().unwrap()).commit_pages > 0);
        feed(&mut mirror, news).await.unwrap();
        let ticket = mirror.start_flush().await.unwrap().expect("much was written");
        let flushed = ticket.run().await.unwrap();
        assert_eq!(mirror.finish_flush(flushed).await.unwrap(), before.position.frame);
        assert!(mirror.start_flush().await.unwrap().is_none(), "all of it was flushed");
        assert_eq!(mirror.point(), before);
        feed(&mut mirror, vec![commit]).await.unwrap();
        assert_eq!(mirror.flush().await.unwrap().0, source.frame);
    });
}

/// A commit: what it is in the database, its place, and the moment from which on it must be there.
struct Held {
    number: i64,
    point: WalPoint,
    durable: usize,
}

#[test]
fn every_crash_image_of_pages_being_moved_is_the_last_commit_that_was_acknowledged_or_a_later_one() {
    run(BackendChoice::Blocking, async |_, _| {
        let disk = SimulatedDisk::default();
        let config = config(Path::new("/simulated"));
        let mut source = Source::new(1024);
        let mut number = source.commit();
        let mut mirror = Mirror::open(Backend::Simulated(disk.clone()), config.clone()).await.unwrap();
        super::copy(&mut mirror, &mut source).await.unwrap();
        let first = disk.moment();
        let mut held = vec![Held { number, point: mirror.point(), durable: first }];
        for round in 0..6 {
            number = source.commit();
            feed(&mut mirror, source.news(3)).await.unwrap();
            // What is not durable yet stays where it is.
            fold(&mut mirror, usize::MAX).await;
            mirror.flush().await.unwrap();
            held.push(Held { number, point: mirror.point(), durable: disk.moment() });
            fold(&mut mirror, 1 + round).await;
            if round % 2 == 1 {
                source.checkpoint("RESTART");
            }
        }
        for moment in first..=disk.moment() {
            let acknowledged = held.iter().rfind(|held| held.durable <= moment).unwrap().number;
            for seed in 0..6 {
                let image = disk.crash_image(moment, Unsynced::Seeded(seed ^ (moment as u64) << 8));
                let image = Backend::Simulated(image);
                let found = Mirror::open(image.clone(), config.clone()).await.unwrap().point();
                let (database, wal) =
                    (bytes_of(&image, &config.database).await, bytes_of(&image, &config.wal()).await);
                let opened = super::Opened::from_bytes(&database, &wal);
                assert_eq!(opened.integrity().unwrap(), "ok", "moment {moment} seed {seed}");
                let last = contents(&opened.db).unwrap().0;
                assert!(last >= acknowledged, "moment {moment} seed {seed}: {last} of {acknowledged}");
                let known = held.iter().find(|held| held.point == found);
                assert!(known.is_none_or(|held| held.number == last), "moment {moment} seed {seed}");
            }
        }
    })
    .unwrap();
}
