//! The commits that this thread has written and not yet waited for.
//!
//! A transaction over attached databases ends database by database while the others are still locked,
//! and nobody may be kept waiting behind a lock: only the last end waits, for all.

use super::database::Database;
use super::tracker::{Tracker, page_bytes_of};
use lockstep_barrier::Mark;
use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::sync::Arc;

/// One database with a write transaction of this thread.
struct Entry {
    database: Arc<Database>,
    tracker: Tracker,
    /// Whose marks counted when the commit frame was written.
    session: u64,
    /// The commit that was waited for before it was published.
    held: Option<Mark>,
    /// The write lock is still taken: the end of this transaction is to come.
    is_locked: bool,
    /// The end has come and is not waited for yet.
    is_ended: bool,
}

thread_local! {
    // Never dropped: a program may commit while its thread ends, after what is dropped then is gone. An empty
    // list keeps no memory, so a thread that ends between transactions leaves none behind.
    static ENTRIES: ManuallyDrop<RefCell<Vec<Entry>>> =
        const { ManuallyDrop::new(RefCell::new(Vec::new())) };
}

fn with_entries<T>(act: impl FnOnce(&mut Vec<Entry>) -> T) -> T {
    ENTRIES.with(|entries| {
        let mut entries = entries.borrow_mut();
        let result = act(&mut entries);
        if entries.is_empty() {
            *entries = Vec::new();
        }
        result
    })
}

fn position(entries: &[Entry], database: &Arc<Database>) -> Option<usize> {
    entries.iter().position(|entry| Arc::ptr_eq(&entry.database, database))
}

/// This thread has taken the write lock: what it has left over there was never committed.
pub fn began(database: &Arc<Database>) {
    with_entries(|entries| {
        let Some(at) = position(entries, database) else { return };
        if entries[at].is_ended {
            // Its transaction was to end with another that never ended.
            entries.clear();
        } else {
            entries.swap_remove(at);
        }
    });
}

/// Written to the database's write-ahead log. `read_header` gives its first 12 bytes or more, when the page
/// size is not known yet.
pub fn wrote(
    database: &Arc<Database>,
    offset: u64,
    bytes: &[u8],
    read_header: impl FnOnce() -> Option<Vec<u8>>,
) {
    if offset == 0
        && let Some(page_bytes) = page_bytes_of(bytes)
    {
        database.set_page_bytes(page_bytes);
    }
    if !database.is_replicated() {
        return;
    }
    if database.page_bytes() == 0 {
        let Some(page_bytes) = read_header().and_then(|header| page_bytes_of(&header)) else { return };
        database.set_page_bytes(page_bytes);
    }
    let new = with_entries(|entries| {
        let at = position(entries, database).unwrap_or_else(|| {
            entries.push(Entry {
                database: Arc::clone(database),
                tracker: Tracker::default(),
                session: 0,
                held: None,
                is_locked: true,
                is_ended: false,
            });
            entries.len() - 1
        });
        let entry = &mut entries[at];
        if !entry.tracker.wrote(offset, bytes, database.page_bytes()) {
            return None;
        }
        entry.session = database.session();
        entry.tracker.mark()
    });
    if let Some(mark) = new {
        database.poke(&mark);
    }
}

/// A write or a sync of the log failed: the commit will not be published.
pub fn failed(database: &Arc<Database>) {
    with_entries(|entries| {
        if let Some(at) = position(entries, database) {
            entries.swap_remove(at);
        }
    });
}

/// This thread has released the write lock, after a commit or a rollback.
pub fn ended(database: &Arc<Database>) {
    with_entries(|entries| match position(entries, database) {
        Some(at) if entries[at].tracker.mark().is_some() => entries[at].is_locked = false,
        Some(at) => drop(entries.swap_remove(at)),
        None => {}
    });
}

/// The commit is published: waits until it is safe, unless another transaction of this thread is still to
/// end; then that one waits for both. Never fails.
pub fn committed(database: &Arc<Database>) {
    let waiting = with_entries(|entries| {
        let mark = |entry: &Entry| entry.tracker.mark();
        if let Some(at) = position(entries, database) {
            entries[at].is_ended = true;
        }
        let is_to_come = |entry: &Entry| entry.is_locked && !entry.is_ended && mark(entry).is_some();
        if entries.iter().any(is_to_come) {
            return Vec::new();
        }
        let (ended, others): (Vec<_>, Vec<_>) = entries.drain(..).partition(|entry| entry.is_ended);
        entries.extend(others.into_iter().filter(|entry| entry.is_locked));
        ended
    });
    for entry in waiting {
        match entry.tracker.mark() {
            Some(mark) if entry.held != Some(mark) => {
                entry.database.wait(&mark, entry.session, true);
            }
            // A rollback of nothing, an empty transaction, or waited for before it was published.
            _ => {}
        }
    }
}

/// Waits before the commit is published: for strict databases, and for programs whose SQLite cannot be
/// seen but by its writes. Does nothing without a whole commit frame.
pub fn hold(database: &Arc<Database>) {
    let waiting = with_entries(|entries| {
        let entry = &entries[position(entries, database)?];
        let mark = entry.tracker.mark().filter(|mark| entry.held != Some(*mark))?;
        Some((mark, entry.session))
    });
    let Some((mark, session)) = waiting else { return };
    database.wait(&mark, session, false);
    with_entries(|entries| {
        if let Some(at) = position(entries, database) {
            entries[at].held = Some(mark);
        }
    });
}
