//! Frames in, position out: appending, restarting, refusing, rewinding.

use super::{Sent, Source, bytes_of, config_in, copy, feed, mirror_pages, on_every_disk};
use crate::mirror::{Mirror, MirrorError};
use crate::wal::{Frames, frame_offset};
use lockstep_wire::{Chain, FrameNo, Rewind};

#[test]
fn a_mirror_follows_commits_and_generations_and_equals_its_source() {
    on_every_disk(async |disk, dir| {
        let mut source = Source::new(4096);
        source.commit();
        let mut mirror = Mirror::open(disk.clone(), config_in(&dir)).await.unwrap();
        copy(&mut mirror, &mut source).await.unwrap();
        for round in 0..60 {
            source.commit();
            feed(&mut mirror, source.news(4)).await.unwrap();
            let durable = mirror.flush().await.unwrap();
            assert_eq!(durable.0, source.frame);
            mirror.zero_ahead().await.unwrap();
            if round % 7 == 6 {
                source.checkpoint(["RESTART", "TRUNCATE", "FULL"][round % 3]);
            }
        }
        assert!(source.generation > 5, "{} generations", source.generation);
        let wal = bytes_of(&disk, &mirror.config().wal()).await;
        let original = std::fs::read(source.path().with_extension("db-wal")).unwrap();
        let end = mirror.append_offset() as usize;
        assert_eq!(wal[..end], original[..end]);
        assert_eq!(mirror_pages(&disk, mirror.config()).await, source.pages());
    });
}

#[test]
fn a_restart_at_any_point_finds_the_last_commit() {
    on_every_disk(async |disk, dir| {
        let mut source = Source::new(1024);
        let mut mirror = Mirror::open(disk.clone(), config_in(&dir)).await.unwrap();
        source.commit();
        copy(&mut mirror, &mut source).await.unwrap();
        let mut resumed = 0;
        for round in 0..40 {
            source.commit();
            if round % 9 == 8 {
                source.checkpoint("RESTART");
                source.commit();
            }
            for message in source.news(2) {
                feed(&mut mirror, vec![message.clone()]).await.unwrap();
                let commit = mirror.last_commit(mirror.last_frame());
                let (config, received) = (mirror.config().clone(), mirror.received());
                drop_mirror(mirror).await;
                mirror = Mirror::open(disk.clone(), config).await.unwrap();
                assert!(mirror.is_complete());
                assert_eq!(mirror.point().position.generation, received.generation);
                assert_eq!((mirror.point().position.frame, mirror.received().frame), (commit, commit));
                // The active sends the uncommitted part again.
                if let Sent::Batch(batch) = message
                    && commit < received.frame
                {
                    resumed += 1;
                    resend(&mut mirror, &source, batch.first_frame + batch_frames(&batch, 1024) - 1).await;
                    assert_eq!(mirror.received(), received);
                }
            }
        }
        assert!(resumed > 10);
        assert_eq!(mirror_pages(&disk, mirror.config()).await, source.pages());
    });
}

fn batch_frames(batch: &lockstep_wire::WalBatch, page_size: usize) -> u32 {
    (batch.data.len() / (page_size + 24)) as u32
}

/// Sends what follows the mirror's position through frame `last`.
async fn resend(mirror: &mut Mirror, source: &Source, last: u32) {
    let header = source.header.unwrap();
    let wal = std::fs::read(source.path().with_extension("db-wal")).unwrap();
    let first = mirror.received().frame.0 + 1;
    let offset = |frame: u32| frame_offset(FrameNo(frame), header.page_size) as usize;
    let data = wal[offset(first)..offset(last + 1)].to_vec();
    let after =
        Frames::new(&data, header.page_size).verify(&header, FrameNo(first), mirror.chain).unwrap().chain;
    let batch = lockstep_wire::WalBatch {
        generation: mirror.received().generation.0,
        first_frame: first,
        chain_before: mirror.chain.packed(),
        chain_after: after.packed(),
        published_frame: last,
        data: data.into(),
        gather_ms: 0,
    };
    mirror.append(batch).await.unwrap();
}

/// Dropping closes in the background on io_uring; the lock must be gone before the next open.
async fn drop_mirror(mirror: Mirror) {
    mirror.close().await.unwrap();
}

#[test]
fn frames_that_do_not_follow_are_refused_by_name_and_change_nothing() {
    on_every_disk(async |disk, dir| {
        let mut source = Source::new(1024);
        source.commit();
        let mut mirror = Mirror::open(disk.clone(), config_in(&dir)).await.unwrap();
        copy(&mut mirror, &mut source).await.unwrap();
        source.commit();
        let Some(Sent::Batch(good)) = source.news(100).pop() else { panic!("a commit makes a batch") };
        let before = (mirror.received(), mirror_pages(&disk, mirror.config()).await);

        let mut bad = good.clone();
        bad.first_frame += 1;
        assert_eq!(mirror.append(bad).await.unwrap_err().code(), "gap");
        let mut bad = good.clone();
        bad.generation += 1;
        assert_eq!(mirror.append(bad).await.unwrap_err().code(), "gap");
        let mut bad = good.clone();
        bad.chain_before ^= 1;
        assert_eq!(mirror.append(bad).await.unwrap_err().code(), "chain");
        let mut bad = good.clone();
        bad.chain_after ^= 1;
        assert_eq!(mirror.append(bad).await.unwrap_err().code(), "chain");
        for at in [0, 9, 17, 24, good.data.len() - 1] {
            let mut bad = good.clone();
            let mut data = bad.data.to_vec();
            data[at] ^= 1;
            bad.data = data.into();
            assert_eq!(mirror.append(bad).await.unwrap_err().code(), "chain", "byte {at}");
        }
        let mut bad = good.clone();
        bad.data = bad.data.slice(..100);
        let error = mirror.append(bad).await.unwrap_err();
        assert_eq!(error.refusal().code, "protocol");
        assert!(error.to_string().contains("whole frames of 1048 bytes"), "{error}");

        assert_eq!((mirror.received(), mirror_pages(&disk, mirror.config()).await), before);
        mirror.append(good).await.unwrap();
    });
}

#[test]
fn a_rewind_takes_frames_back_for_good() {
    on_every_disk(async |disk, dir| {
        let mut source = Source::new(1024);
        source.commit();
        let mut mirror = Mirror::open(disk.clone(), config_in(&dir)).await.unwrap();
        copy(&mut mirror, &mut source).await.unwrap();
        let kept = (mirror.point(), mirror_pages(&disk, mirror.config()).await);
        source.commit();
        source.commit();
        feed(&mut mirror, source.news(100)).await.unwrap();
        mirror.flush().await.unwrap();
        let position = kept.0.position;
        let rewind = |chain: Chain| Rewind {
            generation: position.generation.0,
            frame: position.frame.0,
            chain: chain.packed(),
        };
        let wrong = mirror.rewind(rewind(Chain([1, 2]))).await.unwrap_err();
        assert_eq!(wrong.code(), "chain");
        let mut beyond = rewind(kept.0.chain);
        beyond.frame = 1000;
        assert_eq!(mirror.rewind(beyond).await.unwrap_err().code(), "gap");

        mirror.rewind(rewind(kept.0.chain)).await.unwrap();
        assert_eq!(mirror.point(), kept.0);
        assert_eq!(mirror_pages(&disk, mirror.config()).await, kept.1);
        let config = mirror.config().clone();
        drop_mirror(mirror).await;
        let mirror = Mirror::open(disk.clone(), config).await.unwrap();
        assert_eq!(mirror.point(), kept.0);
    });
}

#[test]
fn what_a_broken_connection_left_of_a_transaction_is_dropped_and_comes_anew() {
    on_every_disk(async |disk, dir| {
        let mut source = Source::new(1024);
        source.commit();
        let mut mirror = Mirror::open(disk.clone(), config_in(&dir)).await.unwrap();
        copy(&mut mirror, &mut source).await.unwrap();
        source.commit();
        source.commit();
        let sent = source.news(1);
        let (last, before) = sent.split_last().unwrap();
        feed(&mut mirror, before.to_vec()).await.unwrap();
        let commit = mirror.last_commit(mirror.last_frame());
        assert!(commit < mirror.received().frame && mirror.point().position.frame < commit);
        mirror.settle().await.unwrap();
        let state = mirror.state(1).await.unwrap();
        assert_eq!(
            (state.frame, mirror.received().frame),
            (commit.0, commit),
            "what is whole is durable now"
        );
        let Sent::Batch(last) = last else { panic!("frames come last") };
        resend(&mut mirror, &source, last.first_frame).await;
        mirror.flush().await.unwrap();
        assert_eq!(mirror_pages(&disk, mirror.config()).await, source.pages());
    });
}

#[test]
fn a_mirror_says_what_of_it_was_published_until_it_is_opened_anew() {
    on_every_disk(async |disk, dir| {
        let mut source = Source::new(1024);
        source.commit();
        let mut mirror = Mirror::open(disk.clone(), config_in(&dir)).await.unwrap();
        copy(&mut mirror, &mut source).await.unwrap();
        let published = mirror.point();
        source.commit();
        let mut prepared = source.news(100);
        let Some(Sent::Batch(batch)) = prepared.last_mut() else { panic!("a commit makes a batch") };
        batch.published_frame = published.position.frame.0;
        feed(&mut mirror, prepared).await.unwrap();
        mirror.flush().await.unwrap();
        let state = mirror.state(1).await.unwrap();
        assert_eq!(state.frame, source.frame, "a prepared commit counts once it is durable");
        let shown = (state.published_frame, state.published_chain);
        assert_eq!(shown, (Some(published.position.frame.0), published.chain.packed()));
        let rewind = Rewind {
            generation: published.position.generation.0,
            frame: published.position.frame.0,
            chain: published.chain.packed(),
        };
        mirror.rewind(rewind).await.unwrap();
        assert_eq!(mirror.point(), published);
        let config = mirror.config().clone();
        drop_mirror(mirror).await;
        let mirror = Mirror::open(disk.clone(), config).await.unwrap();
        assert_eq!(mirror.state(1).await.unwrap().published_frame, None);
        assert_eq!(mirror.point(), published);
    });
}

#[test]
fn a_generation_that_does_not_follow_is_refused() {
    on_every_disk(async |disk, dir| {
        let mut source = Source::new(1024);
        source.commit();
        let mut mirror = Mirror::open(disk.clone(), config_in(&dir)).await.unwrap();
        copy(&mut mirror, &mut source).await.unwrap();
        source.checkpoint("RESTART");
        source.commit();
        let Some(Sent::Generation(good)) = source.news(100).into_iter().next() else {
            panic!("it begins anew")
        };
        for (change, code) in [(0, "gap"), (1, "chain"), (2, "gap"), (3, "protocol"), (4, "protocol")] {
            let mut bad = good.clone();
            match change {
                0 => bad.previous_frame += 1,
                1 => bad.previous_chain ^= 1,
                2 => bad.generation = 1,
                3 => bad.fresh = true,
                _ => bad.wal_header = bad.wal_header.slice(1..),
            }
            let error: MirrorError = mirror.begin_generation(bad).await.unwrap_err();
            assert_eq!(error.code(), code, "{error}");
        }
        mirror.begin_generation(good.clone()).await.unwrap();
        // The same once more changes nothing.
        mirror.begin_generation(good).await.unwrap();
    });
}

#[test]
fn the_next_batch_is_taken_while_a_flush_is_in_flight() {
    on_every_disk(async |disk, dir| {
        let mut source = Source::new(4096);
        source.commit();
        let mut mirror = Mirror::open(disk.clone(), config_in(&dir)).await.unwrap();
        copy(&mut mirror, &mut source).await.unwrap();
        for _ in 0..20 {
            source.commit();
            feed(&mut mirror, source.news(100)).await.unwrap();
            let first = mirror.received().frame;
            let ticket = mirror.start_flush().await.unwrap().expect("a commit is not durable yet");
            source.commit();
            let (flushed, fed) = tokio::join!(ticket.run(), feed(&mut mirror, source.news(100)));
            fed.unwrap();
            assert_eq!(mirror.finish_flush(flushed.unwrap()).await.unwrap(), first);
            assert!(mirror.received().frame > first);
        }
        mirror.flush().await.unwrap();
        assert!(mirror.start_flush().await.unwrap().is_none());
        assert_eq!(mirror_pages(&disk, mirror.config()).await, source.pages());
    });
}
