//! A writer that waits for its commits as a program with the shim does, without the shim.
//!
//! SQLite lets a program replace the `pwrite` it uses: here it also watches for commit frames, pokes the
//! agent, and keeps the mark that the caller waits for once the commit has returned. One writer, one
//! WAL per process.

use lockstep_barrier::{BoardReader, Mark, Poke, Verdict};
use rusqlite::ffi;
use std::cell::RefCell;
use std::path::Path;
use std::time::{Duration, Instant};

const FRAME_HEADER_BYTES: usize = 24;
const WAL_HEADER_BYTES: i64 = 32;

/// Longer is a failure of the bench.
const LIMIT: Duration = Duration::from_secs(10);

/// Between questions to a board that may be of an older session.
const LOOK: Duration = Duration::from_millis(200);

thread_local! {
    static SEEN: RefCell<Seen> = const { RefCell::new(Seen { header: None, mark: None, poke: None }) };
}

struct Seen {
    /// A commit frame's header was written, its page comes next: where, and its bytes.
    header: Option<(i64, [u8; FRAME_HEADER_BYTES])>,
    mark: Option<Mark>,
    poke: Option<Poke>,
}

/// Waits on the board of one database.
#[derive(Debug)]
pub struct Tap(BoardReader);

impl Tap {
    /// Hooks into the SQLite of this process; to be called before a database is opened.
    ///
    /// # Panics
    /// When there is no board, or SQLite lets nobody replace its `pwrite`.
    pub fn install(board: &Path) -> Self {
        let reader = BoardReader::open(board).expect("the node has made a board");
        let poke = Poke::connect(&board.with_extension("poke")).expect("the node listens");
        SEEN.with_borrow_mut(|seen| seen.poke = Some(poke));
        for name in [c"pwrite64", c"pwrite"] {
            // SAFETY: the function has the signature of pwrite(2) and lives as long as the process.
            let replaced = unsafe {
                let vfs = ffi::sqlite3_vfs_find(std::ptr::null());
                let set = (*vfs).xSetSystemCall.expect("the unix VFS has system calls");
                let call = std::mem::transmute::<
                    unsafe extern "C" fn(i32, *const u8, usize, i64) -> isize,
                    unsafe extern "C" fn(),
                >(pwrite);
                set(vfs, name.as_ptr(), Some(call))
            };
            assert_eq!(replaced, ffi::SQLITE_OK, "SQLite has no system call {name:?}");
        }
        Self(reader)
    }

    /// Waits for the commit that has just returned.
    ///
    /// # Panics
    /// When there was none, or it is not shown in time.
    pub fn wait(&self) {
        let mark = SEEN.with_borrow_mut(|seen| seen.mark.take()).expect("a commit frame was written");
        let (session, until) = (self.0.session(), Instant::now() + LIMIT);
        loop {
            match self.0.wait(&mark, session, LOOK) {
                Verdict::Safe => return,
                other => assert!(Instant::now() < until, "{other:?}"),
            }
        }
    }
}

unsafe extern "C" {
    #[link_name = "pwrite64"]
    fn system_pwrite(fd: i32, data: *const u8, length: usize, offset: i64) -> isize;
}

unsafe extern "C" fn pwrite(fd: i32, data: *const u8, length: usize, offset: i64) -> isize {
    // SAFETY: SQLite's own arguments.
    let (written, bytes) =
        unsafe { (system_pwrite(fd, data, length, offset), std::slice::from_raw_parts(data, length)) };
    SEEN.with_borrow_mut(|seen| seen.write(bytes, offset));
    written
}

impl Seen {
    fn write(&mut self, bytes: &[u8], offset: i64) {
        let word = |at: usize| u32::from_be_bytes(*bytes[at..].first_chunk().expect("four bytes"));
        if bytes.len() == FRAME_HEADER_BYTES {
            let header = *bytes.first_chunk().expect("its length");
            self.header = (word(4) != 0).then_some((offset, header));
            return;
        }
        let Some((at, header)) = self.header.take() else { return };
        let long = |at: usize| u64::from_be_bytes(*header[at..].first_chunk().expect("eight bytes"));
        let frame_bytes = (FRAME_HEADER_BYTES + bytes.len()) as i64;
        if offset != at + FRAME_HEADER_BYTES as i64 || (at - WAL_HEADER_BYTES) % frame_bytes != 0 {
            return;
        }
        let frame = (at - WAL_HEADER_BYTES) / frame_bytes + 1;
        let mark =
            Mark { salts: long(8), chain: long(16), frame: u32::try_from(frame).expect("a frame number") };
        if let Some(poke) = &self.poke {
            poke.send(&mark);
        }
        self.mark = Some(mark);
    }
}
