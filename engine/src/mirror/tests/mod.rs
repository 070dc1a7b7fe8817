//! Real SQLite sources whose WAL bytes are fed to mirrors on every kind of disk.
//!
//! A [`Source`] reads its own `-wal` file as capture would and makes the messages of the link.

mod copying;
mod crash;
mod folding;
mod following;
mod opening;

use super::{Mirror, MirrorConfig, MirrorError};
use crate::storage::{Backend, BackendChoice, BackendReport, SimulatedDisk, Storage, StorageFile, run};
use crate::wal::{Frames, WAL_HEADER_BYTES, WalHeader, frame_bytes, frame_offset};
use lockstep_wire::{Chain, FrameNo, Generation, WalBatch};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A message from the active.
#[derive(Debug, Clone)]
enum Sent {
    Generation(Generation),
    Batch(WalBatch),
}

/// An application's database and what capture would publish of it.
struct Source {
    dir: TempDir,
    db: Connection,
    header: Option<WalHeader>,
    generation: u64,
    frame: u32,
    chain: Chain,
    commits: i64,
}

impl Source {
    fn new(page_size: u32) -> Self {
        let dir = TempDir::new().unwrap();
        let db = Connection::open(dir.path().join("app.db")).unwrap();
        db.execute_batch(&format!(
            "PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;
             CREATE TABLE t(k INTEGER PRIMARY KEY, v INTEGER, pad BLOB);"
        ))
        .unwrap();
        Self { dir, db, header: None, generation: 0, frame: 0, chain: Chain::default(), commits: 0 }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    /// What another writer would go on from: the same history so far.
    fn fork(&self) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("app.db");
        std::fs::copy(self.path(), &path).unwrap();
        std::fs::copy(self.path().with_extension("db-wal"), path.with_extension("db-wal")).unwrap();
        let db = Connection::open(&path).unwrap();
        db.execute_batch("PRAGMA wal_autocheckpoint=0").unwrap();
        let Self { header, generation, frame, chain, commits, .. } = *self;
        Self { dir, db, header, generation, frame, chain, commits }
    }

    /// One transaction that changes a few rows; answers its number.
    fn commit(&mut self) -> i64 {
        self.commits += 1;
        let sql = "INSERT OR REPLACE INTO t SELECT (?1 * 7 + value * 13) % 40, ?1, randomblob(200)
                   FROM (SELECT 0 AS value UNION SELECT 1 UNION SELECT 2)";
        self.db.execute_batch("BEGIN").unwrap();
        self.db.execute("INSERT OR REPLACE INTO t VALUES (1000, ?1, NULL)", [self.commits]).unwrap();
        self.db.execute(sql, [self.commits]).unwrap();
        self.db.execute_batch("COMMIT").unwrap();
        self.commits
    }

    fn checkpoint(&self, mode: &str) {
        let busy: i64 =
            self.db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), (), |row| row.get(0)).unwrap();
        assert_eq!(busy, 0);
    }

    /// What is new in the WAL, in batches of at most `batch_frames`.
    fn news(&mut self, batch_frames: usize) -> Vec<Sent> {
        let wal = std::fs::read(self.path().with_extension("db-wal")).unwrap();
        let Some(header) = wal.get(..WAL_HEADER_BYTES).and_then(|bytes| WalHeader::parse(bytes).ok()) else {
            return Vec::new();
        };
        let mut sent = Vec::new();
        if self.header != Some(header) {
            self.generation += 1;
            sent.push(Sent::Generation(Generation {
                generation: self.generation,
                wal_header: header.to_bytes().to_vec().into(),
                previous_frame: self.frame,
                previous_chain: self.chain.packed(),
                fresh: self.header.is_none(),
            }));
            (self.header, self.frame, self.chain) = (Some(header), 0, header.chain);
        }
        let size = frame_bytes(header.page_size) as usize;
        let fresh = &wal[frame_offset(FrameNo(self.frame + 1), header.page_size) as usize..];
        let (good, _) = Frames::new(fresh, header.page_size).verified_prefix(&header, FrameNo(1), self.chain);
        let published = self.frame + good.frames;
        for batch in fresh[..good.frames as usize * size].chunks(batch_frames * size) {
            let before = self.chain;
            let run = Frames::new(batch, header.page_size).verify(&header, FrameNo(1), before).unwrap();
            self.chain = run.chain;
            sent.push(Sent::Batch(WalBatch {
                generation: self.generation,
                first_frame: self.frame + 1,
                chain_before: before.packed(),
                chain_after: self.chain.packed(),
                published_frame: published,
                data: batch.to_vec().into(),
                gather_ms: 0,
            }));
            self.frame += run.frames;
        }
        sent
    }

    /// A connection was made anew: everything from the start of the present WAL, as after `FromStart`.
    fn start_over(&mut self) {
        (self.header, self.frame, self.chain) = (None, 0, Chain::default());
    }

    fn file_pages(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }

    /// The database as SQLite sees it, as a file without WAL.
    fn pages(&self) -> Vec<u8> {
        let wal = std::fs::read(self.path().with_extension("db-wal")).unwrap();
        Opened::from_bytes(&self.file_pages(), &wal).checkpointed_pages()
    }
}

/// Database and WAL bytes opened by stock SQLite in a directory of their own.
struct Opened {
    dir: TempDir,
    db: Connection,
}

impl Opened {
    fn from_bytes(database: &[u8], wal: &[u8]) -> Self {
        let dir = TempDir::new_in("/dev/shm").unwrap();
        std::fs::write(dir.path().join("x"), database).unwrap();
        std::fs::write(dir.path().join("x-wal"), wal).unwrap();
        let db = Connection::open(dir.path().join("x")).unwrap();
        Self { dir, db }
    }

    fn integrity(&self) -> rusqlite::Result<String> {
        self.db.query_row("PRAGMA integrity_check", (), |row| row.get(0))
    }

    fn checkpointed_pages(self) -> Vec<u8> {
        assert_eq!(self.integrity().unwrap(), "ok");
        self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())).unwrap();
        drop(self.db);
        std::fs::read(self.dir.path().join("x")).unwrap()
    }
}

/// Number of the last commit and a text of all rows.
fn contents(db: &Connection) -> rusqlite::Result<(i64, String)> {
    let last = db.query_row("SELECT coalesce(max(v), 0) FROM t WHERE k = 1000", (), |row| row.get(0))?;
    let rows = "SELECT coalesce(group_concat(k || ':' || v || ':' || coalesce(hex(pad), '')), '') FROM t";
    Ok((last, db.query_row(rows, (), |row| row.get(0))?))
}

async fn bytes_of(disk: &Backend, path: &Path) -> Vec<u8> {
    let file = disk.open(path, Default::default()).await.unwrap();
    let bytes = file.read_at(0, file.length().await.unwrap() as usize).await.unwrap();
    file.close().await.unwrap();
    bytes
}

/// The mirror as SQLite would see it, as a file without WAL.
async fn mirror_pages(disk: &Backend, config: &MirrorConfig) -> Vec<u8> {
    let (database, wal) = (bytes_of(disk, &config.database).await, bytes_of(disk, &config.wal()).await);
    Opened::from_bytes(&database, &wal).checkpointed_pages()
}

async fn feed(mirror: &mut Mirror, sent: Vec<Sent>) -> Result<(), MirrorError> {
    for message in sent {
        match message {
            Sent::Generation(generation) => mirror.begin_generation(generation).await?,
            Sent::Batch(batch) => mirror.append(batch).await?,
        }
    }
    Ok(())
}

/// First copy of a source at rest, with its whole WAL.
async fn copy(mirror: &mut Mirror, source: &mut Source) -> Result<(), MirrorError> {
    let pages = source.file_pages();
    let page_size: u32 = source.db.query_row("PRAGMA page_size", (), |row| row.get(0)).unwrap();
    let page_count = (pages.len() / page_size as usize) as u32;
    mirror.begin_copy(false, page_size, page_count).await?;
    source.start_over();
    feed(mirror, source.news(5)).await?;
    for (index, chunk) in pages.chunks(3 * page_size as usize).enumerate() {
        mirror.write_pages(index as u32 * 3 + 1, chunk.to_vec().into()).await?;
    }
    mirror.end_copy(source.generation, source.frame, page_count).await?;
    mirror.flush().await?;
    Ok(())
}

fn config_in(dir: &Path) -> MirrorConfig {
    MirrorConfig { zero_ahead_bytes: 16 << 10, ..MirrorConfig::new(dir.join("app.db"), dir.join("state")) }
}

/// Runs a test on io_uring, on blocking calls and on the simulated disk.
fn on_every_disk(test: impl AsyncFn(Backend, PathBuf)) {
    for choice in [BackendChoice::Best, BackendChoice::Blocking] {
        let dir = TempDir::new().unwrap();
        run(choice, async |disk, report| {
            let expected = match choice {
                BackendChoice::Best => BackendReport::Uring,
                BackendChoice::Blocking => BackendReport::BlockingByChoice,
            };
            assert_eq!(report, expected, "this test needs io_uring");
            test(disk, dir.path().to_owned()).await;
        })
        .unwrap();
    }
    run(BackendChoice::Blocking, async |_, _| {
        test(Backend::Simulated(SimulatedDisk::default()), "/simulated".into()).await;
    })
    .unwrap();
}
