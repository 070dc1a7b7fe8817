//! The event log on disk: one SQLite file per pair, written by a thread of its own.
//!
//! Whoever records never waits: events go through a bounded queue, and what does not fit is
//! counted and lost. The last events stay in memory, so that a status touches no disk. The log
//! is for people; no decision reads it.

use super::{Alarm, Event, Severity};
use crate::status::STATUS_EVENTS;
use rusqlite::{Connection, OpenFlags, params};
use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

/// Years of an ordinary pair, and at most some 100 MiB.
pub const MAX_ROWS: u64 = 100_000;

/// A burst of a flapping pair while the disk hangs for some seconds.
const QUEUE_EVENTS: usize = 1024;

/// One transaction for a burst.
const BATCH_EVENTS: usize = 256;

/// A sentence is for a line.
const MAX_SENTENCE_CHARS: usize = 2000;

/// Evidence is a handful of facts.
const MAX_DETAIL_BYTES: usize = 16 * 1024;

/// A reader of ours never holds the file for longer.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    CREATE TABLE IF NOT EXISTS event (
        id INTEGER PRIMARY KEY,
        at TEXT NOT NULL,
        boot_ms INTEGER NOT NULL,
        severity TEXT NOT NULL,
        kind TEXT NOT NULL,
        sentence TEXT NOT NULL,
        detail TEXT NOT NULL
    ) STRICT;";

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EventLogError {
    /// SQLite refused.
    #[error("{path}: {source}: the state directory must be writable and have space left")]
    Sqlite {
        /// The log.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The system refused.
    #[error("{path}: {source}: the state directory must be writable and have space left")]
    Io {
        /// The log.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
}

/// The event log of one pair. Cheap to share behind an `Arc`; writes what is queued when dropped.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    shared: Arc<Shared>,
    queue: Option<SyncSender<Event>>,
    writer: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    memory: Mutex<Memory>,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Memory {
    last_id: u64,
    recent: VecDeque<Event>,
    alarms: BTreeMap<String, Alarm>,
}

impl EventLog {
    /// Opens or makes the log. One that is no database is kept beside as `events.db.damaged`.
    ///
    /// # Errors
    /// [`EventLogError`] when the file can neither be opened nor replaced.
    pub fn open(path: &Path) -> Result<Self, EventLogError> {
        Self::with_limit(path, MAX_ROWS)
    }

    pub(super) fn with_limit(path: &Path, max_rows: u64) -> Result<Self, EventLogError> {
        let failed = |source| EventLogError::Sqlite { path: path.to_owned(), source };
        let (connection, damaged) = match connect(path) {
            Err(error) if is_damage(&error) => {
                set_aside(path)?;
                (connect(path).map_err(failed)?, true)
            }
            other => (other.map_err(failed)?, false),
        };
        let recent = read_last(&connection, STATUS_EVENTS).map_err(failed)?;
        let last_id = recent.last().map_or(0, |event| event.id);
        let memory = Memory { last_id, recent: recent.into(), ..Memory::default() };
        let shared = Arc::new(Shared { memory: Mutex::new(memory), lost: AtomicU64::new(0) });
        let (queue, events) = sync_channel(QUEUE_EVENTS);
        let writer = thread::Builder::new()
            .name("events".into())
            .spawn({
                let (shared, path) = (Arc::clone(&shared), path.to_owned());
                move || write_all(connection, &events, &shared, &path, max_rows)
            })
            .map_err(|source| EventLogError::Io { path: path.to_owned(), source })?;
        let log = Self { path: path.to_owned(), shared, queue: Some(queue), writer: Some(writer) };
        if damaged {
            let sentence = "the event log was damaged: a new one was begun, the old one is kept beside it";
            log.record(Event::now(Severity::Warning, "log.damaged", sentence, serde_json::Value::Null));
        }
        Ok(log)
    }

    /// Keeps an event and logs its sentence. Never blocks on the disk.
    pub fn record(&self, mut event: Event) {
        event.sentence = event.sentence.chars().take(MAX_SENTENCE_CHARS).collect();
        if event.detail.to_string().len() > MAX_DETAIL_BYTES {
            event.detail = serde_json::json!({ "left_out": "longer than the log takes" });
        }
        match event.severity {
            Severity::Info => tracing::info!(kind = event.kind, "{}", event.sentence),
            Severity::Warning => tracing::warn!(kind = event.kind, "{}", event.sentence),
            Severity::Critical => tracing::error!(kind = event.kind, "{}", event.sentence),
        }
        let mut memory = self.memory();
        memory.last_id += 1;
        event.id = memory.last_id;
        if memory.recent.len() == STATUS_EVENTS as usize {
            memory.recent.pop_front();
        }
        memory.recent.push_back(event.clone());
        // Sent under the lock, so that the disk has the order of the numbers.
        let sent = self.queue.as_ref().is_some_and(|queue| queue.try_send(event).is_ok());
        if !sent {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Begins an alarm, or changes its sentence; one that stands already is not recorded again.
    pub fn raise(&self, key: &str, severity: Severity, sentence: &str) {
        if self.stand(key, severity, sentence) {
            let detail = serde_json::json!({ "alarm": key });
            self.record(Event::now(severity, "alarm.raised", sentence, detail));
        }
    }

    /// Ends an alarm; nothing happens if it does not stand.
    pub fn clear(&self, key: &str, sentence: &str) {
        if self.lift(key) {
            let detail = serde_json::json!({ "alarm": key });
            self.record(Event::now(Severity::Info, "alarm.cleared", sentence, detail));
        }
    }

    /// Shows an alarm whose event is recorded elsewhere; true if it is new or has changed.
    pub fn stand(&self, key: &str, severity: Severity, sentence: &str) -> bool {
        let mut memory = self.memory();
        let since = match memory.alarms.get(key) {
            Some(alarm) if alarm.sentence == sentence && alarm.severity == severity => return false,
            Some(alarm) => alarm.since.clone(),
            None => Event::now(severity, "", "", serde_json::Value::Null).at,
        };
        let alarm = Alarm { key: key.to_owned(), severity, sentence: sentence.to_owned(), since };
        memory.alarms.insert(key.to_owned(), alarm);
        true
    }

    /// Shows an alarm no longer; true if it stood.
    pub fn lift(&self, key: &str) -> bool {
        self.memory().alarms.remove(key).is_some()
    }

    /// Whether an alarm stands.
    pub fn stands(&self, key: &str) -> bool {
        self.memory().alarms.contains_key(key)
    }

    /// The alarms that stand, in order of their keys.
    pub fn alarms(&self) -> Vec<Alarm> {
        self.memory().alarms.values().cloned().collect()
    }

    /// The last events for a status, oldest first, from memory.
    pub fn recent(&self) -> Vec<Event> {
        self.memory().recent.iter().cloned().collect()
    }

    /// Events that did not reach the disk since the log was opened.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// The last `count` events on disk, oldest first. Blocks on the disk.
    ///
    /// # Errors
    /// [`EventLogError::Sqlite`].
    pub fn last(&self, count: u32) -> Result<Vec<Event>, EventLogError> {
        let read = || {
            let connection = Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            read_last(&connection, count)
        };
        read().map_err(|source| EventLogError::Sqlite { path: self.path.clone(), source })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.shared.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the event log's thread panicked");
        }
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.execute_batch(SCHEMA)?;
    Ok(connection)
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

fn set_aside(path: &Path) -> Result<(), EventLogError> {
    let failed = |source| EventLogError::Io { path: path.to_owned(), source };
    for suffix in ["-wal", "-shm"] {
        let mut side = path.as_os_str().to_owned();
        side.push(suffix);
        match std::fs::remove_file(&side) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
    }
    std::fs::rename(path, path.with_extension("db.damaged")).map_err(failed)
}

fn write_all(
    mut connection: Connection,
    events: &Receiver<Event>,
    shared: &Shared,
    path: &Path,
    max_rows: u64,
) {
    while let Ok(first) = events.recv() {
        let batch: Vec<Event> =
            std::iter::once(first).chain(events.try_iter().take(BATCH_EVENTS - 1)).collect();
        if let Err(error) = write(&mut connection, &batch, max_rows) {
            shared.lost.fetch_add(batch.len() as u64, Ordering::Relaxed);
            tracing::error!(path = %path.display(), %error, lost = batch.len(), "events were not written");
        }
    }
}

fn write(connection: &mut Connection, batch: &[Event], max_rows: u64) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let insert = "INSERT INTO event VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let mut insert = transaction.prepare_cached(insert)?;
        for event in batch {
            let Event { id, at, boot_ms, severity, kind, sentence, detail } = event;
            let (id, boot_ms, detail) = (*id as i64, *boot_ms as i64, detail.to_string());
            insert.execute(params![id, at, boot_ms, severity.to_string(), kind, sentence, detail])?;
        }
    }
    let newest = batch.last().map_or(0, |event| event.id);
    transaction.execute("DELETE FROM event WHERE id <= ?1", [newest.saturating_sub(max_rows) as i64])?;
    transaction.commit()
}

fn read_last(connection: &Connection, count: u32) -> rusqlite::Result<Vec<Event>> {
    let select =
        "SELECT id, at, boot_ms, severity, kind, sentence, detail FROM event ORDER BY id DESC LIMIT ?1";
    let mut select = connection.prepare(select)?;
    let rows = select.query_map([count], |row| {
        let severity: String = row.get(3)?;
        let detail: String = row.get(6)?;
        Ok(Event {
            id: row.get::<_, i64>(0)? as u64,
            at: row.get(1)?,
            boot_ms: row.get::<_, i64>(2)? as u64,
            severity: match severity.as_str() {
                "info" => Severity::Info,
                "warning" => Severity::Warning,
                _ => Severity::Critical,
            },
            kind: row.get(4)?,
            sentence: row.get(5)?,
            detail: serde_json::from_str(&detail).unwrap_or_default(),
        })
    })?;
    let mut events: Vec<Event> = rows.collect::<Result<_, _>>()?;
    events.reverse();
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(sentence: &str) -> Event {
        Event::now(Severity::Info, "test", sentence, serde_json::json!({ "evidence": 1 }))
    }

    fn sentences(events: &[Event]) -> Vec<&str> {
        events.iter().map(|event| event.sentence.as_str()).collect()
    }

    #[test]
    fn events_are_there_after_a_restart_with_their_evidence_and_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.db");
        let log = EventLog::open(&path).unwrap();
        for number in 1..=30 {
            log.record(info(&format!("event {number}")));
        }
        let before = log.recent();
        drop(log);
        let log = EventLog::open(&path).unwrap();
        assert_eq!(log.recent(), before);
        assert_eq!((before.len(), before[19].id, before[0].id), (20, 30, 11));
        log.record(info("event 31"));
        assert_eq!(log.recent()[19].id, 31);
        assert_eq!(log.last(25).unwrap()[..24].len(), 24);
        assert_eq!(log.lost(), 0);
    }

    #[test]
    fn the_log_is_bounded_and_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.db");
        let log = EventLog::with_limit(&path, 50).unwrap();
        for number in 1..=500 {
            log.record(info(&format!("event {number}")));
        }
        drop(log);
        let events = EventLog::open(&path).unwrap().last(1000).unwrap();
        assert_eq!((events.len(), events[0].id, events[49].id), (50, 451, 500));
    }

    #[test]
    fn an_alarm_is_recorded_when_it_begins_changes_and_ends_and_not_between() {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::open(&dir.path().join("events.db")).unwrap();
        log.clear("cable", "never stood");
        log.raise("cable", Severity::Warning, "the cable is out");
        let since = log.alarms()[0].since.clone();
        log.raise("cable", Severity::Warning, "the cable is out");
        log.raise("cable", Severity::Critical, "both cables are out");
        assert_eq!((log.alarms().len(), log.alarms()[0].severity), (1, Severity::Critical));
        assert_eq!(log.alarms()[0].since, since);
        log.clear("cable", "the cable is back");
        assert_eq!(log.alarms(), []);
        let expected = ["the cable is out", "both cables are out", "the cable is back"];
        assert_eq!(sentences(&log.recent()), expected);
    }

    #[test]
    fn a_hanging_disk_blocks_nobody_and_what_is_lost_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.db");
        let log = EventLog::open(&path).unwrap();
        let other = Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let count = 2 * (QUEUE_EVENTS + BATCH_EVENTS) as u64;
        for number in 1..=count {
            log.record(info(&format!("event {number}")));
        }
        let lost = log.lost();
        assert!(lost >= (QUEUE_EVENTS) as u64, "the queue took {} events", count - lost);
        assert_eq!(log.recent()[19].id, count, "memory has them all");
        other.execute_batch("ROLLBACK").unwrap();
        drop(log);
        let log = EventLog::open(&path).unwrap();
        assert_eq!(log.last(u32::MAX).unwrap().len() as u64, count - lost);
    }

    #[test]
    fn a_damaged_log_is_set_aside_and_a_new_one_begun() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.db");
        std::fs::write(&path, [7; 8192]).unwrap();
        let log = EventLog::open(&path).unwrap();
        assert_eq!(log.recent()[0].kind, "log.damaged");
        assert_eq!(std::fs::read(dir.path().join("events.db.damaged")).unwrap(), [7; 8192]);
    }

    #[test]
    fn long_texts_are_cut() {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::open(&dir.path().join("events.db")).unwrap();
        log.record(Event::now(
            Severity::Info,
            "test",
            "x".repeat(1 << 20),
            serde_json::json!(["y".repeat(1 << 20)]),
        ));
        let event = &log.recent()[0];
        assert_eq!(event.sentence.len(), MAX_SENTENCE_CHARS);
        assert!(event.detail.to_string().len() < 100);
    }
}
