//! What must hold of a database after any fault: one function for each guarantee.
//!
//! They look at what stock SQLite finds, and know nothing of how it came there. An error says in one
//! sentence what is wrong, so that a test can count the wrong ones or end at the first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rusqlite::Connection;

/// Commits by their writer; each writer numbers its own from 0 and makes the next one only when the one
/// before is acknowledged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Commits(BTreeMap<String, BTreeSet<u64>>);

impl Commits {
    /// One more.
    pub(crate) fn add(&mut self, writer: &str, number: u64) {
        self.0.entry(writer.to_owned()).or_default().insert(number);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }

    /// The demonstration's orders by their names: `seed-worker-number`.
    fn of_orders(ids: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut commits = Self::default();
        for id in ids {
            let parts = id.rsplit_once('-').and_then(|(writer, number)| Some((writer, number.parse().ok()?)));
            let (writer, number) = parts.ok_or_else(|| format!("order {id:?} is none of the client's"))?;
            commits.add(writer, number);
        }
        Ok(commits)
    }

    /// What the client wrote down as acknowledged until now. A line that is being written does not count.
    pub(crate) fn acknowledged(file: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        Self::of_orders(whole.lines().map(str::to_owned))
    }

    /// The orders in a database.
    pub(crate) fn found(connection: &Connection) -> Result<Self, String> {
        let ids = || -> rusqlite::Result<Vec<String>> {
            connection.prepare("SELECT id FROM orders")?.query_map([], |row| row.get(0))?.collect()
        };
        Self::of_orders(ids().map_err(|error| format!("reading the orders: {error}"))?.into_iter())
    }
}

/// G1: every acknowledged commit is there.
pub(crate) fn nothing_acknowledged_is_lost(found: &Commits, acknowledged: &Commits) -> Result<(), String> {
    let none = BTreeSet::new();
    for (writer, numbers) in &acknowledged.0 {
        let there = found.0.get(writer).unwrap_or(&none);
        let missing: Vec<_> = numbers.difference(there).collect();
        if !missing.is_empty() {
            return Err(format!("acknowledged and missing: {missing:?} of {writer}"));
        }
    }
    Ok(())
}

/// G3: a committed prefix has no gap in any writer's numbers.
pub(crate) fn is_a_committed_prefix(found: &Commits) -> Result<(), String> {
    for (writer, numbers) in &found.0 {
        if let Some((expected, number)) = (0..).zip(numbers).find(|(expected, number)| expected != *number) {
            return Err(format!("{writer} has number {number} and not {expected}"));
        }
    }
    Ok(())
}

/// G3: what SQLite itself says about the database.
pub(crate) fn is_sound(connection: &Connection) -> Result<(), String> {
    let answer: rusqlite::Result<String> =
        connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0));
    match answer.as_deref() {
        Ok("ok") => Ok(()),
        Ok(answer) => Err(format!("integrity_check: {answer}")),
        Err(error) => Err(format!("integrity_check: {error}")),
    }
}

/// G6: both nodes hold the same pages.
pub(crate) fn pages_are_equal(one: &[u8], other: &[u8]) -> Result<(), String> {
    if one == other {
        return Ok(());
    }
    let at = one.iter().zip(other).position(|(one, other)| one != other);
    let at = at.map_or_else(|| "at the end of the shorter".to_owned(), |at| format!("first at byte {at}"));
    Err(format!("{} and {} bytes of pages differ, {at}", one.len(), other.len()))
}

/// The pages of a database file and its WAL, which this moves into the file; nobody else may have it open.
pub(crate) fn pages(database: &Path) -> Result<Vec<u8>, String> {
    let folded = || -> rusqlite::Result<()> {
        let connection = Connection::open(database)?;
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    };
    folded().map_err(|error| format!("{}: {error}", database.display()))?;
    std::fs::read(database).map_err(|error| format!("{}: {error}", database.display()))
}

#[test]
fn each_invariant_notices_what_breaks_it() {
    let of = |numbers: &[u64]| {
        let mut commits = Commits::default();
        numbers.iter().for_each(|number| commits.add("w", *number));
        commits
    };
    assert_eq!(nothing_acknowledged_is_lost(&of(&[0, 1, 2]), &of(&[0, 2])), Ok(()));
    assert!(nothing_acknowledged_is_lost(&of(&[0, 1]), &of(&[2])).is_err());
    assert!(nothing_acknowledged_is_lost(&Commits::default(), &of(&[0])).is_err());
    assert_eq!(is_a_committed_prefix(&of(&[0, 1, 2])), Ok(()));
    assert!(is_a_committed_prefix(&of(&[0, 2])).is_err());
    assert!(is_a_committed_prefix(&of(&[1])).is_err());
    assert_eq!(pages_are_equal(b"ab", b"ab"), Ok(()));
    assert!(pages_are_equal(b"ab", b"aba").is_err());
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("damaged.db");
    let make = "PRAGMA page_size=512; CREATE TABLE t(a); CREATE INDEX i ON t(a);
                INSERT INTO t SELECT value FROM (VALUES (1), (2), (3)), (SELECT 1 AS value);";
    Connection::open(&file).and_then(|db| db.execute_batch(make)).expect("a database");
    assert_eq!(is_sound(&Connection::open(&file).expect("it opens")), Ok(()));
    let mut bytes = std::fs::read(&file).expect("its bytes");
    let last = bytes.len() - 1;
    bytes[last] ^= 7;
    std::fs::write(&file, bytes).expect("damaged bytes");
    assert!(is_sound(&Connection::open(&file).expect("it opens")).is_err());
}
