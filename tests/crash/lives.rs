//! Lives of a mirror on a simulated disk: followed, copied anew, rewound, formerly active.
//!
//! Each says, call by call, what a crash may leave. While a call runs the old and the new are right; once
//! it has returned only the new.

use std::path::Path;

use lockstep_engine::copy::quarantine::{KeepReason, Quarantine, Why};
use lockstep_engine::mirror::Mirror;
use lockstep_engine::storage::{Open, Storage, StorageFile, SwallowedSync};
use lockstep_engine::wal::WalPoint;
use lockstep_wire::{Epoch, NodeId, Position, Rewind, WalGeneration};
use xxhash_rust::xxh3::xxh3_64;

use crate::harness::invariants;
use crate::history::History;
use crate::recover::{AGENT_STATE, DATABASE, Standing, config_below};
use crate::source::{Source, feed, folder_in_memory};

/// What kind of life.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Life {
    pub(crate) page_size: u32,
    pub(crate) generations: u32,
    pub(crate) seed: u64,
    pub(crate) swallowed: Option<SwallowedSync>,
}

fn commit(source: &mut Source, history: &mut History) {
    source.commit();
    history.committed(source.contents());
}

impl Life {
    /// A source with three commits and a node that has nothing.
    fn begin(&self) -> (Source, History) {
        let (mut source, mut history) =
            (Source::new(self.page_size, self.seed), History::new(self.swallowed));
        for _ in 0..3 {
            commit(&mut source, &mut history);
        }
        (source, history)
    }

    /// A first copy of a live database, commits, generation switches.
    pub(crate) async fn followed(&self) -> History {
        let (mut source, mut history) = self.begin();
        let mut mirror = history.open().await;
        copy(&mut mirror, &mut source, &mut history, false).await;
        follow(&mut mirror, &mut source, &mut history, self.generations).await;
        end(mirror, &source, history).await
    }

    /// The active goes on alone for generations; then the differing pages.
    pub(crate) async fn resynchronised(&self) -> History {
        let (mut source, mut history) = self.begin();
        let mut mirror = history.open().await;
        copy(&mut mirror, &mut source, &mut history, false).await;
        follow(&mut mirror, &mut source, &mut history, 1).await;
        for mode in ["TRUNCATE", "RESTART", "FULL"] {
            // What the active acknowledges alone is not promised here; what was before, stays.
            commit(&mut source, &mut history);
            commit(&mut source, &mut history);
            source.checkpoint(mode);
        }
        commit(&mut source, &mut history);
        copy(&mut mirror, &mut source, &mut history, true).await;
        follow(&mut mirror, &mut source, &mut history, 2).await;
        end(mirror, &source, history).await
    }

    /// Commits that were never published are taken back, several times; others come in their place.
    pub(crate) async fn rewound(&self) -> History {
        let (mut source, mut history) = self.begin();
        let mut mirror = history.open().await;
        copy(&mut mirror, &mut source, &mut history, false).await;
        for round in 0..self.generations {
            if round % 3 == 2 {
                source.checkpoint("RESTART");
            }
            commit(&mut source, &mut history);
            send(&mut mirror, &mut source, 2).await;
            flush(&mut mirror, &mut history).await;
            let mut phantom = source;
            source = phantom.fork();
            let mut taken_back = Vec::new();
            for _ in 0..=round % 2 {
                phantom.commit();
                taken_back.push(history.committed(phantom.contents()));
            }
            send(&mut mirror, &mut phantom, 2).await;
            if round % 4 < 2 {
                // Durable, and not acknowledged to anybody.
                mirror.flush().await.expect("a flush");
            }
            let rewind =
                Rewind { generation: source.generation, frame: source.frame, chain: source.chain.packed() };
            mirror.rewind(rewind).await.expect("a rewind");
            history.expect(|expected| expected.retracted.extend(taken_back));
        }
        commit(&mut source, &mut history);
        send(&mut mirror, &mut source, 2).await;
        flush(&mut mirror, &mut history).await;
        end(mirror, &source, history).await
    }

    /// A former active with commits of its own: kept, then copied over with the pages that differ.
    pub(crate) async fn kept(&self) -> History {
        let (mut source, mut history) = self.begin();
        let mut own = source.fork();
        own.commit();
        own.commit();
        let state = history.committed(own.contents());
        wrote_itself(&own, &mut history, state).await;
        commit(&mut source, &mut history);
        commit(&mut source, &mut history);
        let mut mirror = history.open().await;
        keep(&mut mirror, &mut history).await;
        copy(&mut mirror, &mut source, &mut history, true).await;
        follow(&mut mirror, &mut source, &mut history, 1).await;
        end(mirror, &source, history).await
    }

    /// A former active with commits of its own, checkpointed into its file: kept, then cut back to where the new
    /// active took over, with the pages that its own commits may have changed.
    pub(crate) async fn rejoined(&self) -> History {
        let (mut source, mut history) = self.begin();
        source.news(100);
        let fork = source.point();
        let mut own = source.fork();
        own.commit();
        own.commit();
        own.checkpoint("PASSIVE");
        let state = history.committed(own.contents());
        wrote_itself(&own, &mut history, state).await;
        commit(&mut source, &mut history);
        commit(&mut source, &mut history);
        let mut mirror = history.open().await;
        keep(&mut mirror, &mut history).await;
        let runs = mirror.pages_after_fork(&fork, 1000).await.expect("the WAL can be read");
        let runs = runs.expect("it holds the fork");
        history.expect(|expected| expected.standings.push(Standing::Incomplete));
        mirror.begin_rewind(&fork).await.expect("it holds the fork");
        history.expect(|expected| expected.standings = vec![Standing::Incomplete]);
        for (round, page) in runs.iter().flat_map(|(first, count)| *first..first + count).enumerate() {
            let pages = source.file_pages();
            let at = (page as usize - 1) * source.page_size as usize;
            if let Some(bytes) = pages.get(at..at + source.page_size as usize) {
                mirror.write_pages(page, bytes.to_vec().into()).await.expect("a page");
            }
            if round % 2 == 0 {
                commit(&mut source, &mut history);
                send(&mut mirror, &mut source, 3).await;
                mirror.flush().await.expect("a flush");
            }
        }
        end_copy(&mut mirror, &mut source, &mut history).await;
        follow(&mut mirror, &mut source, &mut history, 2).await;
        end(mirror, &source, history).await
    }

    /// A former active without commits of its own goes on as a mirror.
    pub(crate) async fn adopted(&self) -> History {
        let (mut source, mut history) = self.begin();
        commit(&mut source, &mut history);
        source.news(100);
        let state = history.committed(source.contents());
        wrote_itself(&source, &mut history, state).await;
        let mut mirror = history.open().await;
        history.expect(|expected| {
            expected.standings = vec![Standing::Own, Standing::Complete];
            expected.least = expected.newest;
        });
        let position = Position { generation: WalGeneration(source.generation), ..mirror.point().position };
        mirror.adopt(WalPoint { position, ..mirror.point() }).await.expect("the same last commit");
        history.expect(|expected| {
            expected.standings = vec![Standing::Complete];
            expected.own = None;
        });
        follow(&mut mirror, &mut source, &mut history, 2).await;
        end(mirror, &source, history).await
    }
}

/// The mirror says that it has all, and holds the same pages as its source.
async fn end(mut mirror: Mirror, source: &Source, mut history: History) -> History {
    flush(&mut mirror, &mut history).await;
    mirror.close().await.expect("it closes");
    let config = config_below(Path::new("/"));
    let bytes = |path: &Path| history.disk.contents(path).expect("a mirror's file");
    let mirrored = pages_of(&bytes(&config.database), &bytes(&config.wal()));
    let expected = pages_of(&source.file_pages(), &source.wal());
    invariants::pages_are_equal(&mirrored, &expected).expect("the same database");
    history
}

fn pages_of(database: &[u8], wal: &[u8]) -> Vec<u8> {
    let dir = folder_in_memory();
    let file = dir.path().join("app.db");
    std::fs::write(&file, database).expect("a copied file");
    std::fs::write(dir.path().join("app.db-wal"), wal).expect("a copied file");
    invariants::pages(&file).expect("SQLite opens it")
}

fn reason() -> KeepReason {
    KeepReason {
        epoch: Epoch { counter: 3, node: NodeId(1) },
        database: "app".parse().expect("a name"),
        why: Why::Diverged,
        fork: None,
    }
}

/// What this node wrote itself goes into quarantine.
async fn keep(mirror: &mut Mirror, history: &mut History) {
    let quarantine = Quarantine {
        pair: "lab".parse().expect("a pair id"),
        state_dir: AGENT_STATE.into(),
        limit_bytes: 1 << 30,
    };
    mirror.quarantine(&quarantine, reason()).await.expect("room in quarantine");
    history.expect(|expected| expected.kept = true);
}

/// Puts an active's files onto the disk, durably, as SQLite with synchronous=FULL leaves them.
async fn wrote_itself(source: &Source, history: &mut History, state: usize) {
    let (disk, config) = (history.backend(), config_below(Path::new("/")));
    let wal = source.wal();
    for (path, bytes) in [(config.database.clone(), source.file_pages()), (config.wal(), wal)] {
        let file = disk.open(&path, Open { create: true }).await.expect("a new file");
        file.write_at(0, bytes.into()).await.expect("its bytes");
        file.sync_all().await.expect("a sync");
        file.close().await.expect("it closes");
    }
    disk.sync_dir(Path::new(DATABASE).parent().expect("a folder")).await.expect("a sync");
    history.expect(|expected| {
        expected.standings = vec![Standing::Own];
        expected.own = Some(state);
    });
    history.begin();
}

async fn send(mirror: &mut Mirror, source: &mut Source, batch_frames: usize) {
    feed(mirror, source.news(batch_frames)).await.expect("it follows on");
}

async fn flush(mirror: &mut Mirror, history: &mut History) {
    mirror.flush().await.expect("a flush");
    history.acknowledged();
}

/// Generations of commits; some flush alone, some together, some while the next batch is written.
async fn follow(mirror: &mut Mirror, source: &mut Source, history: &mut History, generations: u32) {
    for generation in 0..generations {
        for round in 0..4 {
            commit(source, history);
            send(mirror, source, 2).await;
            match (round, generation % 3) {
                (0, 1 | 2) | (1, _) => {}
                (2, 1) => {
                    let covered = history.committed(source.contents());
                    let ticket = mirror.start_flush().await.expect("its position").expect("news to flush");
                    commit(source, history);
                    send(mirror, source, 1).await;
                    let flushed = ticket.run().await.expect("a flush");
                    mirror.finish_flush(flushed).await.expect("a note");
                    history.expect(|expected| expected.least = covered);
                }
                _ => flush(mirror, history).await,
            }
            if round == 2 {
                mirror.zero_ahead().await.expect("zeros");
            }
        }
        source.checkpoint(["RESTART", "FULL", "TRUNCATE"][generation as usize % 3]);
    }
}

/// Pages are read from a database that goes on being written and checkpointed between them; with `resync`
/// only those that differ.
async fn copy(mirror: &mut Mirror, source: &mut Source, history: &mut History, resync: bool) {
    let page_bytes = source.page_size as usize;
    let count = |source: &Source| (source.file_pages().len() / page_bytes) as u32;
    history.expect(|expected| expected.standings.push(Standing::Incomplete));
    mirror.begin_copy(resync, source.page_size, count(source).max(1)).await.expect("a copy begins");
    history.expect(|expected| expected.standings = vec![Standing::Incomplete]);
    source.start_over();
    let mut page = 0;
    for round in 0.. {
        send(mirror, source, 3).await;
        let hashes = mirror.hash_pages(page as u32 + 1, 2).await.expect("hashes");
        let pages = source.file_pages();
        let Some(chunk) = pages.chunks(2 * page_bytes).nth(page / 2) else { break };
        for (index, bytes) in chunk.chunks(page_bytes).enumerate() {
            if hashes.get(index) != Some(&xxh3_64(bytes)) {
                let number = (page + index) as u32 + 1;
                mirror.write_pages(number, bytes.to_vec().into()).await.expect("a page");
            }
        }
        page += 2;
        if round < 6 {
            commit(source, history);
        }
        match round % 3 {
            0 => drop(mirror.flush().await.expect("a flush")),
            1 => {
                send(mirror, source, 3).await;
                source.checkpoint("RESTART");
            }
            _ => {}
        }
    }
    end_copy(mirror, source, history).await;
}

/// Every page is there; the mirror is a database once everything so far is durable.
async fn end_copy(mirror: &mut Mirror, source: &mut Source, history: &mut History) {
    send(mirror, source, 3).await;
    assert!(!mirror.is_complete());
    history.expect(|expected| {
        expected.standings.push(Standing::Complete);
        expected.least = expected.newest;
    });
    let pages = (source.file_pages().len() / source.page_size as usize) as u32;
    mirror.end_copy(source.generation, source.frame, pages).await.expect("it ends");
    mirror.flush().await.expect("a flush");
    assert!(mirror.is_complete());
    history.expect(|expected| expected.standings = vec![Standing::Complete]);
}
