//! A real SQLite database as the active would have it, and the messages that capture would send of it.
//!
//! Reads its own `-wal` file; the bytes it stores come from its seed.

use std::path::PathBuf;

use lockstep_engine::mirror::{Mirror, MirrorError};
use lockstep_engine::wal::{Frames, WAL_HEADER_BYTES, WalHeader, WalPoint, frame_bytes, frame_offset};
use lockstep_wire::{Chain, FrameNo, Generation, Position, WalBatch, WalGeneration};
use rusqlite::Connection;
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64;

use crate::harness::invariants::Commits;

/// A message from the active.
#[derive(Debug, Clone)]
pub(crate) enum Sent {
    /// A WAL begins anew.
    Generation(Generation),
    /// Frames of it.
    Batch(WalBatch),
}

/// An application's database.
pub(crate) struct Source {
    dir: TempDir,
    db: Connection,
    header: Option<WalHeader>,
    pub(crate) generation: u64,
    pub(crate) frame: u32,
    pub(crate) chain: Chain,
    pub(crate) page_size: u32,
    commits: u64,
    dice: u64,
}

/// Folders that only tests read need no disk.
pub(crate) fn folder_in_memory() -> TempDir {
    TempDir::new_in("/dev/shm").expect("a folder in /dev/shm")
}

fn open(path: &std::path::Path) -> Connection {
    let db = Connection::open(path).expect("the database opens");
    db.execute_batch("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=OFF;")
        .expect("it is in WAL mode");
    db
}

impl Source {
    pub(crate) fn new(page_size: u32, seed: u64) -> Self {
        let dir = folder_in_memory();
        let path = dir.path().join("app.db");
        let schema = "CREATE TABLE commits(number INTEGER PRIMARY KEY);
                      CREATE TABLE t(k INTEGER PRIMARY KEY, v INTEGER, pad BLOB);";
        let first = Connection::open(&path).expect("the database is made");
        first.execute_batch(&format!("PRAGMA page_size={page_size}; {schema}")).expect("its schema");
        drop(first);
        Self {
            db: open(&path),
            dir,
            header: None,
            generation: 0,
            frame: 0,
            chain: Chain::default(),
            page_size,
            commits: 0,
            dice: seed,
        }
    }

    /// Another database with the same past, byte for byte; what both write from here on differs.
    pub(crate) fn fork(&self) -> Self {
        let dir = folder_in_memory();
        for name in ["app.db", "app.db-wal"] {
            std::fs::copy(self.dir.path().join(name), dir.path().join(name)).expect("a copied file");
        }
        let db = open(&dir.path().join("app.db"));
        Self { db, dir, dice: !self.dice, ..*self }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    pub(crate) fn wal(&self) -> Vec<u8> {
        std::fs::read(self.path().with_extension("db-wal")).unwrap_or_default()
    }

    /// One transaction that changes a few rows.
    pub(crate) fn commit(&mut self) {
        let number = i64::try_from(self.commits).expect("a few commits");
        self.commits += 1;
        let change = || -> rusqlite::Result<()> {
            self.db.execute_batch("BEGIN")?;
            self.db.execute("INSERT INTO commits VALUES (?1)", [number])?;
            for row in 0..3_i64 {
                let pad = pad(self.dice ^ (number << 8 ^ row).cast_unsigned());
                let key = (number * 7 + row * 13) % 40;
                self.db.execute("INSERT OR REPLACE INTO t VALUES (?1, ?2, ?3)", (key, number, pad))?;
            }
            self.db.execute_batch("COMMIT")
        };
        change().expect("a commit");
    }

    /// Moves the WAL into the database file, so that the next commit begins a WAL anew.
    pub(crate) fn checkpoint(&self, mode: &str) {
        let pragma = format!("PRAGMA wal_checkpoint({mode})");
        let busy: i64 = self.db.query_row(&pragma, (), |row| row.get(0)).expect("a checkpoint");
        assert_eq!(busy, 0, "nobody else has it open");
    }

    /// The last commit that [`Self::news`] told of.
    pub(crate) fn point(&self) -> WalPoint {
        let position = Position { generation: WalGeneration(self.generation), frame: FrameNo(self.frame) };
        let salts = self.header.map(|header| header.salts).unwrap_or_default();
        WalPoint { position, chain: self.chain, salts }
    }

    /// What is new in the WAL, in batches of at most `batch_frames`.
    pub(crate) fn news(&mut self, batch_frames: usize) -> Vec<Sent> {
        let wal = self.wal();
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
            let frames = Frames::new(batch, header.page_size);
            let run = frames.verify(&header, FrameNo(1), before).expect("frames that verified");
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

    /// A connection was made anew: everything from the start of the present WAL.
    pub(crate) fn start_over(&mut self) {
        (self.header, self.frame, self.chain) = (None, 0, Chain::default());
    }

    pub(crate) fn file_pages(&self) -> Vec<u8> {
        std::fs::read(self.path()).expect("the database file")
    }

    /// What it holds now.
    pub(crate) fn contents(&self) -> Contents {
        contents(&self.db).expect("a live database")
    }
}

/// A few hundred bytes, the same for the same number.
fn pad(number: u64) -> Vec<u8> {
    let words = (0..25).map(|word| xxh3_64(&(number.wrapping_mul(31) + word).to_le_bytes()));
    words.flat_map(u64::to_le_bytes).collect()
}

/// What a database holds: a digest of all rows, and the commits in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) digest: u64,
    pub(crate) commits: Commits,
}

/// Reads all of a database with the schema of a [`Source`].
pub(crate) fn contents(db: &Connection) -> Result<Contents, String> {
    let read = || -> rusqlite::Result<Contents> {
        let rows = "SELECT coalesce(group_concat(k || ':' || v || ':' || hex(pad)), '') FROM t";
        let text: String = db.query_row(rows, (), |row| row.get(0))?;
        let mut commits = Commits::default();
        let mut numbers = db.prepare("SELECT number FROM commits")?;
        for number in numbers.query_map((), |row| row.get(0))? {
            let number: i64 = number?;
            commits.add("writer", number.cast_unsigned());
        }
        Ok(Contents { digest: xxh3_64(text.as_bytes()) ^ commits.count() as u64, commits })
    };
    read().map_err(|error| format!("reading it: {error}"))
}

/// Hands messages to a mirror.
pub(crate) async fn feed(mirror: &mut Mirror, sent: Vec<Sent>) -> Result<(), MirrorError> {
    for message in sent {
        match message {
            Sent::Generation(generation) => mirror.begin_generation(generation).await?,
            Sent::Batch(batch) => mirror.append(batch).await?,
        }
    }
    Ok(())
}
