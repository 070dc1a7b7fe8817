//! First copy, resync, adoption and quarantine.

use super::{
    Mirror, MirrorConfig, Source, bytes_of, config_in, contents, copy, feed, mirror_pages, on_every_disk,
};
use crate::copy::quarantine::{KeepReason, Quarantine, QuarantineError, Why, list};
use crate::storage::{Backend, Storage, StorageFile};
use lockstep_wire::{Epoch, NodeId, WalGeneration};
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

#[test]
fn a_copy_counts_only_when_the_frames_through_its_end_are_durable() {
    on_every_disk(async |disk, dir| {
        let mut source = Source::new(1024);
        for _ in 0..10 {
            source.commit();
        }
        source.checkpoint("RESTART");
        source.commit();
        let config = config_in(&dir);
        let mut mirror = Mirror::open(disk.clone(), config.clone()).await.unwrap();
        assert_eq!(mirror.start_snapshot(&dir.join("early")).err().unwrap().code(), "protocol");
        let pages = source.file_pages();
        let page_count = (pages.len() / 1024) as u32;
        mirror.begin_copy(false, 1024, page_count).await.unwrap();
        let mut sent = source.news(3);
        let last = sent.pop().unwrap();
        feed(&mut mirror, sent).await.unwrap();
        mirror.write_pages(1, pages.into()).await.unwrap();
        mirror.end_copy(source.generation, source.frame, page_count).await.unwrap();
        mirror.flush().await.unwrap();
        assert!(!mirror.state(1).await.unwrap().complete);
        // A restart in the middle finds an incomplete mirror that may keep its pages.
        mirror.close().await.unwrap();
        let mut mirror = Mirror::open(disk.clone(), config.clone()).await.unwrap();
        let state = mirror.state(1).await.unwrap();
        assert_eq!((state.complete, state.has_pages, state.diverged), (false, true, false));
        assert!(mirror.append_refused(last).await);
        copy(&mut mirror, &mut source).await.unwrap();
        assert!(mirror.state(1).await.unwrap().complete);
        assert_eq!(mirror_pages(&disk, &config).await, source.pages());
    });
}

impl Mirror {
    /// Whether a message is refused.
    async fn append_refused(&mut self, message: super::Sent) -> bool {
        feed(self, vec![message]).await.is_err()
    }
}

/// What the active does with the standby's hashes.
async fn send_differing_pages(mirror: &mut Mirror, source: &mut Source) -> usize {
    let page_size = mirror.state(1).await.unwrap().page_size.max(1024) as usize;
    let pages = source.file_pages();
    let page_count = (pages.len() / page_size) as u32;
    mirror.begin_copy(true, page_size as u32, page_count).await.unwrap();
    source.start_over();
    feed(mirror, source.news(7)).await.unwrap();
    let mut hashes = mirror.hash_pages(1, page_count.div_ceil(2)).await.unwrap();
    hashes.extend(mirror.hash_pages(hashes.len() as u32 + 1, page_count).await.unwrap());
    let mut sent = 0;
    for (index, page) in pages.chunks(page_size).enumerate() {
        if hashes.get(index) != Some(&xxh3_64(page)) {
            mirror.write_pages(index as u32 + 1, page.to_vec().into()).await.unwrap();
            sent += 1;
        }
    }
    mirror.end_copy(source.generation, source.frame, page_count).await.unwrap();
    mirror.flush().await.unwrap();
    assert!(mirror.is_complete());
    sent
}

#[test]
fn a_resync_ships_only_pages_that_differ() {
    on_every_disk(async |disk, dir| {
        let mut source = Source::new(1024);
        source.db.execute_batch("CREATE TABLE big(b); INSERT INTO big VALUES (randomblob(300000))").unwrap();
        source.commit();
        let config = config_in(&dir);
        let mut mirror = Mirror::open(disk.clone(), config.clone()).await.unwrap();
        copy(&mut mirror, &mut source).await.unwrap();
        // The link is away while the source goes through generations.
        for _ in 0..5 {
            source.commit();
            source.checkpoint("TRUNCATE");
        }
        source.commit();
        source.checkpoint("TRUNCATE");
        source.commit();
        let sent = send_differing_pages(&mut mirror, &mut source).await;
        assert!((1..60).contains(&sent), "{sent} pages sent of {}", source.file_pages().len() / 1024);
        assert_eq!(mirror_pages(&disk, &config).await, source.pages());
    });
}

/// Puts the files of a source that was the active into a mirror's place.
async fn become_former_active(disk: &Backend, config: &MirrorConfig, source: &Source) {
    disk.create_dir_all(config.database.parent().unwrap()).await.unwrap();
    let wal = source.path().with_extension("db-wal");
    for (from, to) in [(source.path(), config.database.clone()), (wal, config.wal())] {
        let file = disk.open(&to, crate::storage::Open { create: true }).await.unwrap();
        file.write_at(0, std::fs::read(from).unwrap().into()).await.unwrap();
        file.close().await.unwrap();
    }
}

fn reason() -> KeepReason {
    KeepReason {
        epoch: Epoch { counter: 3, node: NodeId(1) },
        database: "app".parse().unwrap(),
        why: Why::Diverged,
        fork: None,
    }
}

#[test]
fn a_former_active_with_the_same_last_commit_goes_on_as_mirror() {
    on_every_disk(async |disk, dir| {
        let mut source = Source::new(1024);
        source.commit();
        source.news(100);
        let config = config_in(&dir);
        become_former_active(&disk, &config, &source).await;
        let mut mirror = Mirror::open(disk.clone(), config.clone()).await.unwrap();
        let state = mirror.state(1).await.unwrap();
        assert!(state.diverged && state.complete);
        assert_eq!((state.frame, state.chain), (source.frame, source.chain.packed()));
        source.commit();
        let news = source.news(100);
        assert_eq!(feed(&mut mirror, news.clone()).await.unwrap_err().code(), "protocol");

        let mut point = mirror.point();
        point.position.generation = WalGeneration(source.generation);
        let mut other = point;
        other.chain.0[0] ^= 1;
        assert_eq!(mirror.adopt(other).await.unwrap_err().code(), "chain");
        mirror.adopt(point).await.unwrap();
        feed(&mut mirror, news).await.unwrap();
        mirror.flush().await.unwrap();
        assert!(!mirror.state(1).await.unwrap().diverged);
        assert_eq!(mirror_pages(&disk, &config).await, source.pages());
    });
}

#[test]
fn a_former_active_is_kept_before_it_is_resynced_and_a_full_quarantine_refuses() {
    on_every_disk(async |disk, dir| {
        let mut old = Source::new(1024);
        old.commit();
        let config = config_in(&dir);
        become_former_active(&disk, &config, &old).await;
        let mut mirror = Mirror::open(disk.clone(), config.clone()).await.unwrap();
        let before = (bytes_of(&disk, &config.database).await, bytes_of(&disk, &config.wal()).await);
        let error = mirror.begin_copy(true, 1024, 3).await.unwrap_err();
        assert!(error.to_string().contains("keep it in quarantine"), "{error}");

        let mut quarantine =
            Quarantine { pair: "shop".parse().unwrap(), state_dir: dir.join("agent"), limit_bytes: 100 };
        let full = mirror.quarantine(&quarantine, reason()).await.unwrap_err();
        assert!(matches!(full, QuarantineError::Full { .. }), "{full}");
        assert!(mirror.begin_copy(true, 1024, 3).await.is_err());
        quarantine.limit_bytes = 1 << 20;
        let kept = mirror.quarantine(&quarantine, reason()).await.unwrap();
        // Asked again, for instance after a restart, it is not kept twice.
        assert_eq!(mirror.quarantine(&quarantine, reason()).await.unwrap(), kept);
        assert_eq!(list(&disk, &quarantine.state_dir).await.unwrap().kept, vec![kept.clone()]);
        assert!(
            kept.directory.ends_with(Path::new("quarantine/0000000003-0000000000000001/app"))
                || kept.directory.starts_with(dir.join("agent/quarantine")),
            "{}",
            kept.directory.display()
        );

        let mut new = Source::new(1024);
        new.commit();
        new.commit();
        send_differing_pages(&mut mirror, &mut new).await;
        assert_eq!(mirror_pages(&disk, &config).await, new.pages());
        let database = bytes_of(&disk, &kept.directory.join("database")).await;
        let wal = bytes_of(&disk, &kept.directory.join("database-wal")).await;
        let opened = super::Opened::from_bytes(&database, &wal);
        assert_eq!(contents(&opened.db).unwrap(), contents(&old.db).unwrap());
        assert_eq!((database, wal), before);
    });
}
