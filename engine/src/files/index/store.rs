//! The index on disk: SQLite, one row per entry.
//!
//! A batch is written when the standby has answered, in one transaction with the batch's number. Before a batch is
//! sent its paths are noted, so that after a crash it is known which of them are in doubt. Nothing here is synced:
//! what a power cut takes back is older than what the standby says it holds, which is noticed, and then the standby
//! is asked what it holds.

use super::doubts::Doubts;
use super::known::{Known, NO_MODE, NodeId, ROOT, Seen};
use crate::files::disk::FileId;
use crate::files::{BlockHash, ContentHash, Mtime, TreePath};
use lockstep_wire::TreeKind;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};
use std::path::{Path, PathBuf};

/// Grows with every change of the tables; an index of another form is made anew.
const FORM: i64 = 2;

const TABLES: &str = "
    CREATE TABLE entry (
        id INTEGER PRIMARY KEY, parent INTEGER NOT NULL, name BLOB NOT NULL,
        kind INTEGER NOT NULL, mode INTEGER NOT NULL, user INTEGER NOT NULL, grp INTEGER NOT NULL,
        mtime_s INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, rest INTEGER NOT NULL, size INTEGER NOT NULL,
        inode INTEGER NOT NULL, born_s INTEGER, born_ns INTEGER,
        ctime_s INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, racy INTEGER NOT NULL, links INTEGER NOT NULL,
        content BLOB,
        UNIQUE (parent, name)
    );
    CREATE TABLE blocks (id INTEGER PRIMARY KEY, hashes BLOB NOT NULL);
    CREATE TABLE sent (batch INTEGER NOT NULL, path BLOB NOT NULL, meta INTEGER NOT NULL);
    CREATE TABLE doubt (path BLOB PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE identity (id INTEGER NOT NULL, acked INTEGER NOT NULL, sent INTEGER NOT NULL);
";

/// The index cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the index of the tree in {path}: {source}: remove the file, it is made anew")]
pub struct StoreError {
    /// Its file.
    pub path: PathBuf,
    /// What SQLite said.
    pub source: rusqlite::Error,
}

/// Which index it is and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// A random number, never 0.
    pub index: u64,
    /// The last batch that was answered.
    pub acked: u64,
    /// The last batch that was sent.
    pub sent: u64,
}

/// What a batch changes once it is answered.
#[derive(Debug, Clone)]
pub enum Change {
    /// The entry is so now.
    Set {
        /// Its number.
        id: NodeId,
        /// The number of its directory.
        parent: NodeId,
        /// Its name there.
        name: Box<[u8]>,
        /// What is known of it.
        seen: Box<Seen>,
    },
    /// A file that is known has this content now; its place stays what it is.
    Content {
        /// Its number.
        id: NodeId,
        /// What is known of it.
        seen: Box<Seen>,
        /// The hashes of its blocks.
        blocks: Vec<BlockHash>,
    },
    /// It is gone, and all below it.
    Gone(NodeId),
    /// It has another place.
    Moved(NodeId, NodeId, Box<[u8]>),
}

/// What an operation under way touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    /// Where.
    pub path: TreePath,
    /// Nothing but the metadata of what is there.
    pub meta: bool,
}

/// The open index.
pub struct Store {
    path: PathBuf,
    db: Connection,
    identity: Identity,
}

impl Store {
    /// Opens the index in `path`, or makes one when there is none or it cannot be used.
    ///
    /// # Errors
    /// Nothing can be made there.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let fault = |source| StoreError { path: path.to_owned(), source };
        if let Ok(store) = Self::open_existing(path) {
            return Ok(store);
        }
        Self::forget(path);
        let db = connect(path).map_err(fault)?;
        let index = random();
        db.execute_batch(TABLES).map_err(fault)?;
        db.execute("INSERT INTO identity VALUES (?1, 0, 0)", [index as i64]).map_err(fault)?;
        db.pragma_update(None, "user_version", FORM).map_err(fault)?;
        Ok(Self { path: path.to_owned(), db, identity: Identity { index, acked: 0, sent: 0 } })
    }

    /// Removes an index, whose standby is none any more.
    pub fn forget(path: &Path) {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            // It is not there mostly; what cannot be removed cannot be opened anew either, and says so then.
            let _ = std::fs::remove_file(name);
        }
    }

    fn open_existing(path: &Path) -> rusqlite::Result<Self> {
        if !path.exists() {
            return Err(rusqlite::Error::QueryReturnedNoRows);
        }
        let db = connect(path)?;
        let form: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if form != FORM {
            return Err(rusqlite::Error::QueryReturnedNoRows);
        }
        let identity = db.query_row("SELECT id, acked, sent FROM identity", [], |row| {
            let number = |at| row.get(at).map(|number: i64| number as u64);
            Ok(Identity { index: number(0)?, acked: number(1)?, sent: number(2)? })
        })?;
        Ok(Self { path: path.to_owned(), db, identity })
    }

    fn fault(&self) -> impl Fn(rusqlite::Error) -> StoreError + use<> {
        let path = self.path.clone();
        move |source| StoreError { path: path.clone(), source }
    }

    /// Which index it is and how far.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Everything that was answered.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn load(&self) -> Result<Known, StoreError> {
        self.read_all().map_err(self.fault())
    }

    fn read_all(&self) -> rusqlite::Result<Known> {
        let mut known = Known::default();
        let mut query = self.db.prepare(
            "SELECT id, parent, name, kind, mode, user, grp, mtime_s, mtime_ns, rest, size, inode, born_s, born_ns,
             ctime_s, ctime_ns, racy, links, content FROM entry",
        )?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let number = |at| row.get::<_, i64>(at);
            let born: Option<i64> = row.get(12)?;
            let content: Option<Vec<u8>> = row.get(18)?;
            let seen = Seen {
                kind: TreeKind::try_from(number(3)? as i32).unwrap_or(TreeKind::Absent),
                mode: number(4)? as u32,
                user: number(5)? as u32,
                group: number(6)? as u32,
                mtime: Mtime { s: number(7)?, ns: number(8)? as u32 },
                rest: number(9)? as u64,
                size: number(10)? as u64,
                id: FileId {
                    inode: number(11)? as u64,
                    born: match born {
                        Some(s) => Some(Mtime { s, ns: number(13)? as u32 }),
                        None => None,
                    },
                },
                ctime: Mtime { s: number(14)?, ns: number(15)? as u32 },
                racy: number(16)? != 0,
                links: number(17)? as u32,
                content: content.and_then(|bytes| ContentHash::from_wire(&bytes)),
            };
            let name: Vec<u8> = row.get(2)?;
            known.insert(NodeId(number(0)? as u64), NodeId(number(1)? as u64), &name, seen);
        }
        known.connect();
        Ok(known)
    }

    /// The block hashes of a file, as the standby acknowledged it.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn blocks(&self, id: NodeId) -> Result<Option<Vec<BlockHash>>, StoreError> {
        let bytes: Option<Vec<u8>> = self
            .db
            .prepare_cached("SELECT hashes FROM blocks WHERE id = ?1")
            .and_then(|mut query| query.query_row([id.0 as i64], |row| row.get(0)).optional())
            .map_err(self.fault())?;
        Ok(bytes.map(|bytes| bytes.as_chunks::<16>().0.iter().map(|hash| BlockHash(*hash)).collect()))
    }

    /// Notes that a batch that touches these is about to be sent.
    ///
    /// # Errors
    /// The disk.
    pub fn sending(&mut self, batch: u64, touched: &[Touched]) -> Result<(), StoreError> {
        let fault = self.fault();
        let write = |db: &mut Connection| {
            let transaction = db.transaction()?;
            {
                let mut insert = transaction.prepare_cached("INSERT INTO sent VALUES (?1, ?2, ?3)")?;
                for Touched { path, meta } in touched {
                    insert.execute(params![batch as i64, path.as_bytes(), meta])?;
                }
                transaction.execute("UPDATE identity SET sent = ?1", [batch as i64])?;
            }
            transaction.commit()
        };
        write(&mut self.db).map_err(fault)?;
        self.identity.sent = batch;
        Ok(())
    }

    /// The standby has answered a batch: it holds `changes`, and `doubts` are all that is not known of it, if they
    /// are others than before.
    ///
    /// # Errors
    /// The disk.
    pub fn answered(
        &mut self,
        batch: u64,
        changes: &[Change],
        doubts: Option<&Doubts>,
    ) -> Result<(), StoreError> {
        let fault = self.fault();
        let write = |db: &mut Connection| {
            let transaction = db.transaction()?;
            for change in changes {
                apply(&transaction, change)?;
            }
            if let Some(doubts) = doubts {
                transaction.execute("DELETE FROM doubt", [])?;
                doubt(&transaction, doubts.iter())?;
            }
            transaction.execute("DELETE FROM sent WHERE batch <= ?1", [batch as i64])?;
            transaction.execute("UPDATE identity SET acked = ?1", [batch as i64])?;
            transaction.commit()
        };
        write(&mut self.db).map_err(fault)?;
        self.identity.acked = batch;
        Ok(())
    }

    /// The standby is at `batch`, whose answer never came. What the batches after the last answered one touched is in
    /// doubt when it may be on the standby's disk. Answers what must be looked at: all that they touched.
    ///
    /// # Errors
    /// The disk.
    pub fn resume(&mut self, batch: u64, interrupted: bool) -> Result<Vec<TreePath>, StoreError> {
        let fault = self.fault();
        let acked = self.identity.acked;
        let last = batch + u64::from(interrupted);
        let write = |db: &mut Connection| {
            let transaction = db.transaction()?;
            let sent = sent(&transaction)?;
            let unsure = || sent.iter().filter(|(at, _)| *at > acked && *at <= last).map(|(_, of)| of);
            doubt(&transaction, unsure().filter(|of| !of.meta).map(|of| &of.path))?;
            for Touched { path, .. } in unsure().filter(|of| of.meta) {
                doubt_meta(&transaction, path)?;
            }
            transaction.execute("DELETE FROM sent", [])?;
            transaction.execute("UPDATE identity SET acked = ?1, sent = ?1", [batch as i64])?;
            transaction.commit()?;
            Ok(sent.into_iter().map(|(_, of)| of.path).collect())
        };
        let paths = write(&mut self.db).map_err(fault)?;
        (self.identity.acked, self.identity.sent) = (batch, batch);
        Ok(paths)
    }

    /// Paths of which it is not known what the standby has there.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn doubts(&self) -> Result<Doubts, StoreError> {
        let read = || {
            let mut query = self.db.prepare("SELECT path FROM doubt")?;
            let rows = query.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        let paths: Vec<Vec<u8>> = read().map_err(self.fault())?;
        Ok(paths.iter().filter_map(|path| TreePath::parse(path).ok()).collect())
    }
}

fn sent(db: &Connection) -> rusqlite::Result<Vec<(u64, Touched)>> {
    let mut query = db.prepare("SELECT batch, path, meta FROM sent")?;
    let rows = query.query_map([], |row| {
        Ok((row.get::<_, i64>(0)? as u64, row.get::<_, Vec<u8>>(1)?, row.get::<_, bool>(2)?))
    })?;
    let parsed = |(batch, path, meta): (u64, Vec<u8>, bool)| {
        TreePath::parse(&path).ok().map(|path| (batch, Touched { path, meta }))
    };
    Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().filter_map(parsed).collect())
}

/// Notes doubts; of a doubted path nothing is known.
fn doubt<'a>(db: &Connection, paths: impl Iterator<Item = &'a TreePath>) -> rusqlite::Result<()> {
    let mut note = db.prepare_cached("INSERT OR IGNORE INTO doubt VALUES (?1)")?;
    for path in paths.filter(|path| !path.is_root()) {
        note.execute([path.as_bytes()])?;
        if let Some(id) = find(db, path)? {
            apply(db, &Change::Gone(id))?;
        }
    }
    Ok(())
}

/// Nobody knows what metadata the entry has. A directory stays known with all that is in it.
fn doubt_meta(db: &Connection, path: &TreePath) -> rusqlite::Result<()> {
    let Some(id) = find(db, path)? else { return Ok(()) };
    let changed = db
        .prepare_cached("UPDATE entry SET mode = ?2 WHERE id = ?1 AND kind = ?3")?
        .execute(params![id.0 as i64, NO_MODE, i32::from(TreeKind::Directory)])?;
    if changed == 0 { doubt(db, std::iter::once(path)) } else { Ok(()) }
}

/// The number of the entry at `path`.
fn find(db: &Connection, path: &TreePath) -> rusqlite::Result<Option<NodeId>> {
    let mut at = ROOT.0 as i64;
    if !path.is_root() {
        let mut query = db.prepare_cached("SELECT id FROM entry WHERE parent = ?1 AND name = ?2")?;
        for name in path.as_bytes().split(|byte| *byte == b'/') {
            match query.query_row(params![at, name], |row| row.get(0)).optional()? {
                Some(id) => at = id,
                None => return Ok(None),
            }
        }
    }
    Ok(Some(NodeId(at as u64)))
}

fn apply(db: &Connection, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Set { id, parent, name, seen } => {
            db.prepare_cached("DELETE FROM entry WHERE parent = ?1 AND name = ?2 AND id <> ?3")?
                .execute(params![parent.0 as i64, name, id.0 as i64])?;
            db.prepare_cached(
                "INSERT OR REPLACE INTO entry VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19)",
            )?
            .execute(params_from_iter(
                [Value::from(id.0 as i64), Value::from(parent.0 as i64), Value::from(name.to_vec())]
                    .into_iter()
                    .chain(columns(seen)),
            ))?;
        }
        Change::Content { id, seen, blocks } => content(db, *id, seen, blocks)?,
        Change::Gone(id) => {
            const BELOW: &str = "WITH RECURSIVE below(id) AS (VALUES (?1) UNION SELECT entry.id FROM entry
                JOIN below ON entry.parent = below.id WHERE entry.id <> 1)";
            for table in ["blocks", "entry"] {
                let delete = format!("{BELOW} DELETE FROM {table} WHERE id IN (SELECT id FROM below)");
                db.prepare_cached(&delete)?.execute([id.0 as i64])?;
            }
        }
        Change::Moved(id, parent, name) => {
            debug_assert_ne!(*id, ROOT);
            // Two that change places meet in the middle: the other one's row follows in the same transaction.
            db.prepare_cached("UPDATE entry SET parent = -id WHERE parent = ?1 AND name = ?2 AND id <> ?3")?
                .execute(params![parent.0 as i64, name, id.0 as i64])?;
            db.prepare_cached("UPDATE entry SET parent = ?2, name = ?3 WHERE id = ?1")?.execute(params![
                id.0 as i64,
                parent.0 as i64,
                name
            ])?;
        }
    }
    Ok(())
}

/// What is known of an entry, in the order of the columns behind its place.
fn columns(seen: &Seen) -> [Value; 16] {
    [
        i32::from(seen.kind).into(),
        seen.mode.into(),
        seen.user.into(),
        seen.group.into(),
        seen.mtime.s.into(),
        seen.mtime.ns.into(),
        (seen.rest as i64).into(),
        (seen.size as i64).into(),
        (seen.id.inode as i64).into(),
        seen.id.born.map(|born| born.s).into(),
        seen.id.born.map(|born| born.ns).into(),
        seen.ctime.s.into(),
        seen.ctime.ns.into(),
        i32::from(seen.racy).into(),
        seen.links.into(),
        seen.content.map(|hash| hash.0.to_vec()).into(),
    ]
}

fn content(db: &Connection, id: NodeId, seen: &Seen, blocks: &[BlockHash]) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE entry SET kind=?2, mode=?3, user=?4, grp=?5, mtime_s=?6, mtime_ns=?7, rest=?8, size=?9, inode=?10,
         born_s=?11, born_ns=?12, ctime_s=?13, ctime_ns=?14, racy=?15, links=?16, content=?17 WHERE id = ?1",
    )?
    .execute(params_from_iter(std::iter::once(Value::from(id.0 as i64)).chain(columns(seen))))?;
    if blocks.is_empty() {
        db.prepare_cached("DELETE FROM blocks WHERE id = ?1")?.execute([id.0 as i64])?;
    } else {
        let bytes: Vec<u8> = blocks.iter().flat_map(|hash| hash.0).collect();
        db.prepare_cached("INSERT OR REPLACE INTO blocks VALUES (?1, ?2)")?
            .execute(params![id.0 as i64, bytes])?;
    }
    Ok(())
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    db.pragma_update(None, "journal_mode", "wal")?;
    db.pragma_update(None, "synchronous", "normal")?;
    db.set_prepared_statement_cache_capacity(32);
    Ok(db)
}

/// A number that no other index has; never 0.
fn random() -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has random numbers");
    u64::from_le_bytes(bytes).max(1)
}
