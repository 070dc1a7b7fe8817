//! Pages as SQLite itself reads them, at one known position: what the standby's disk must hold too.
//!
//! A thread with a connection of its own reads a range in one short read transaction, so that neither
//! commits nor checkpoints wait for it. The position is known because the wal-index is the same
//! before and after the transaction began. Which place in the published stream that is, the capture
//! thread says ([`Follower::scrub_step`]); nothing here compares.

use super::cursor::{Cursor, Next};
use super::files::Files;
use super::follow::{Follower, Mode, Pace};
use super::wakeup::Signal;
use super::worker::Worker;
use super::{CaptureError, CaptureEvent, PagesAt, ReadAt, marks};
use crate::wal::{WalIndex, lock_page};
use bytes::Bytes;
use lockstep_wire::Position;
use rusqlite::{Connection, OptionalExtension};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Pages read in one transaction at most: a longer one would keep a checkpoint from its end.
pub const READ_PAGES_MAX: u32 = 256;

/// Tries to begin a transaction between two commits: on a busy database one of a few succeeds.
const BEGIN_TRIES: u32 = 50;

/// Memory for pages of the reading connection, KiB: nothing is read twice.
const CACHE_KIB: i32 = 256;

/// What was read, at what the wal-index showed. None: no position could be had, or a lock was in the way.
type ReadDone = Result<Option<(WalIndex, PagesAt)>, CaptureError>;

/// The thread that reads, and what it is at.
#[derive(Debug)]
pub(super) struct Scrubber {
    worker: Worker<ReadAt, ReadDone>,
    /// The session's wish, not begun.
    wish: Option<ReadAt>,
    running: bool,
    /// What runs was asked for by an earlier session.
    stale: bool,
    /// Read; its frames are still to be published.
    read: Option<(WalIndex, PagesAt)>,
}

impl Scrubber {
    /// Starts the thread.
    pub(super) fn start(
        connection: Connection,
        files: &Arc<Files>,
        signal: Arc<Signal>,
    ) -> Result<Self, CaptureError> {
        let own = Arc::clone(files);
        let work = move |job| read_at(&connection, &own, &job);
        let worker = Worker::start("lockstep-scrub", files, signal, work)?;
        Ok(Self { worker, wish: None, running: false, stale: false, read: None })
    }

    /// A wish of the session; it replaces one that has not begun.
    pub(super) fn wish(&mut self, job: ReadAt) {
        self.wish = Some(job);
    }

    /// The session is over.
    pub(super) fn forget(&mut self) {
        self.wish = None;
        self.read = None;
        self.stale = self.running;
    }

    /// Begins what is wished and takes what is done. True: a read came to nothing.
    fn turn(&mut self) -> Result<bool, CaptureError> {
        let mut failed = false;
        if self.running {
            let Some(done) = self.worker.done()? else { return Ok(false) };
            self.running = false;
            let read = done?;
            if !std::mem::take(&mut self.stale) {
                failed = read.is_none();
                self.read = read;
            }
        }
        if self.read.is_none()
            && !failed
            && let Some(job) = self.wish.take()
        {
            self.worker.begin(job)?;
            self.running = true;
        }
        Ok(failed)
    }
}

impl Follower {
    /// Puts pages that were read into the stream, behind the frames they were read after.
    pub(super) fn scrub_step(&mut self) -> Result<Pace, CaptureError> {
        if self.mode != Mode::Publish {
            return Ok(Pace::Idle);
        }
        if self.scrubber.turn()? {
            self.outbox.push(CaptureEvent::PagesAt { at: None, pages: PagesAt::default() });
        }
        if self.scrubber.read.is_none() || !self.outbox.has_room() {
            return Ok(Pace::Idle);
        }
        let now = self.index()?;
        let Some((index, pages)) = self.scrubber.read.take() else { return Ok(Pace::Idle) };
        let at = match place_of(&self.cursor, &index, &now) {
            Place::At(position) => Some(position),
            Place::Gone => None,
            Place::Ahead => {
                self.scrubber.read = Some((index, pages));
                return Ok(Pace::Idle);
            }
        };
        self.outbox.push(CaptureEvent::PagesAt { at, pages });
        Ok(Pace::Idle)
    }
}

/// Where in the published stream a wal-index is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    At(Position),
    /// Its frames are still to be taken.
    Ahead,
    /// The stream is in a later generation, whose beginning need not be that place.
    Gone,
}

fn place_of(cursor: &Cursor, index: &WalIndex, now: &WalIndex) -> Place {
    let position = cursor.point.position;
    if index.last_frame.0 == 0 {
        // All is in the database file: the place is where the stream stands, as long as it stands.
        let rests = index.shows_same_commit(now) && cursor.next(now) == Next::Nothing;
        return if rests { Place::At(position) } else { Place::Gone };
    }
    if cursor.begun {
        return match index.salts == cursor.point.salts {
            true if index.last_frame <= position.frame => {
                Place::At(Position { frame: index.last_frame, ..position })
            }
            true => Place::Ahead,
            false => Place::Gone,
        };
    }
    if cursor.next(index) == Next::Nothing { Place::At(position) } else { Place::Gone }
}

fn read_at(connection: &Connection, files: &Files, job: &ReadAt) -> ReadDone {
    let error = |what| move |source| CaptureError::Sqlite { what, path: files.path.clone(), source };
    let Some(index) = begin_at(connection, files)? else { return Ok(None) };
    let pages = read_pages(connection, files.page_size(), job);
    marks::rollback(connection).map_err(error("end a transaction on"))?;
    match pages {
        Err(e) if marks::is_busy(&e) => Ok(None),
        other => Ok(Some((index, other.map_err(error("read pages of"))?))),
    }
}

/// Begins to read at a position that is known.
fn begin_at(connection: &Connection, files: &Files) -> Result<Option<WalIndex>, CaptureError> {
    for _ in 0..BEGIN_TRIES {
        let Some(before) = files.wal_index()? else { continue };
        let error = |source| CaptureError::Sqlite { what: "read", path: files.path.clone(), source };
        if !marks::begin_read(connection).map_err(error)? {
            return Ok(None);
        }
        if files.wal_index()?.is_some_and(|after| before.shows_same_commit(&after)) {
            return Ok(Some(before));
        }
        marks::rollback(connection).map_err(error)?;
    }
    Ok(None)
}

fn read_pages(connection: &Connection, page_size: u32, job: &ReadAt) -> rusqlite::Result<PagesAt> {
    let page_count: u32 = connection.prepare_cached("PRAGMA page_count")?.query_row([], |row| row.get(0))?;
    let mut select = connection.prepare_cached("SELECT data FROM sqlite_dbpage('main') WHERE pgno = ?1")?;
    let mut page = |number: u32, take: &mut dyn FnMut(&[u8])| {
        select.query_row([number], |row| row.get_ref(0)?.as_blob().map(take).map_err(Into::into)).optional()
    };
    let mut read = PagesAt { page_size, page_count, ..PagesAt::default() };
    match job {
        ReadAt::Hashes { first_page, page_count: wanted } => {
            read.first_page = *first_page;
            let end = first_page.saturating_add((*wanted).min(READ_PAGES_MAX)).min(page_count + 1);
            for number in *first_page..end {
                let mut hash = 0;
                if number != lock_page(page_size) {
                    page(number, &mut |data| hash = xxh3_64(data))?;
                }
                read.hashes.push(hash);
            }
        }
        ReadAt::Contents { pages } => {
            let wanted = pages.iter().take(READ_PAGES_MAX as usize);
            for number in wanted.filter(|&&number| number <= page_count && number != lock_page(page_size)) {
                let mut content = Bytes::new();
                page(*number, &mut |data| content = Bytes::copy_from_slice(data))?;
                read.contents.push((*number, content));
            }
        }
    }
    Ok(read)
}

/// Prepares the connection of the thread.
pub(super) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "query_only", true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::cursor::Seen;
    use crate::wal::WalPoint;
    use lockstep_wire::{Chain, FrameNo, Salts, WalGeneration};

    fn index(salt: u32, frame: u32, change: u32) -> WalIndex {
        WalIndex {
            change,
            page_size: 4096,
            last_frame: FrameNo(frame),
            page_count: 5,
            chain: Chain([frame, salt]),
            salts: Salts([salt, salt]),
            backfilled: FrameNo(0),
        }
    }

    fn after(salt: u32, frame: u32) -> Cursor {
        let position = Position { generation: WalGeneration(3), frame: FrameNo(frame) };
        let point = WalPoint { position, chain: Chain([frame, salt]), salts: Salts([salt, salt]) };
        Cursor::after(point, None)
    }

    fn at(frame: u32) -> Place {
        Place::At(Position { generation: WalGeneration(3), frame: FrameNo(frame) })
    }

    #[test]
    fn a_read_is_placed_by_salts_and_frame_and_waits_for_frames_still_to_come() {
        let now = index(1, 9, 9);
        assert_eq!(place_of(&after(1, 9), &index(1, 7, 7), &now), at(7));
        assert_eq!(place_of(&after(1, 6), &index(1, 7, 7), &now), Place::Ahead);
        assert_eq!(place_of(&after(2, 1), &index(1, 7, 7), &now), Place::Gone);
    }

    #[test]
    fn a_read_of_an_empty_wal_is_where_the_stream_rests() {
        let empty = index(1, 0, 7);
        assert_eq!(place_of(&after(1, 9), &empty, &empty), at(9));
        assert_eq!(place_of(&after(1, 9), &empty, &index(2, 1, 8)), Place::Gone);
    }

    #[test]
    fn a_read_of_a_wal_that_was_never_published_is_at_the_beginning() {
        let settled = index(1, 9, 9);
        let cursor = Cursor::before(WalGeneration(3), Seen::of(&settled));
        assert_eq!(place_of(&cursor, &settled, &settled), at(0));
        assert_eq!(place_of(&cursor, &index(1, 10, 10), &settled), Place::Gone);
    }
}
