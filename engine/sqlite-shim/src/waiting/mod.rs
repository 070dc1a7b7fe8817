//! Which commits this process has made and not waited for, and how it waits. No SQLite types here.
//!
//! Every way into a program tells this module what it sees, in the program's own threads:
//!
//! ```text
//! Database::of(path)     a database file, or its write-ahead log, is opened
//! database.look()        the write lock is about to be taken: is there a board by now?
//! is_refused()           then: answer BUSY instead of taking it
//! began, wrote, failed, ended      write lock taken, WAL written, a write or sync failed, write lock released
//! committed()            the commit is published and its lock released: wait, for all of this thread
//! hold()                 wait before the commit is published
//! ```
//!
//! One database has one write lock, and SQLite writes the commit frame, syncs, publishes and reports the end
//! within one call of one thread. So pending commits are kept per thread and database, without a lock; a
//! connection that moves between threads changes nothing.

mod boards;
mod database;
mod pending;
mod question;
#[cfg(test)]
mod tests;
mod tracker;

pub use boards::runtime_dir;
pub use database::Database;
pub use pending::{began, committed, ended, failed, hold, wrote};
pub use tracker::{Tracker, WAL_HEADER_BYTES, page_bytes_of};
