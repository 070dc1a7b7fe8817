//! Finds the board of a database among those the agent keeps.
//!
//! The directory is looked through at most every [`LOOK_PERIOD_MS`] in a process, whoever asks: a
//! database that is not replicated must cost nothing.

use lockstep_barrier::{BOARD_SUFFIX, BoardReader};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// How long a board that has just appeared may go unnoticed by a program that was there before it.
pub(super) const LOOK_PERIOD_MS: u64 = 100;
/// Boards looked at: pairs of a node times databases of a pair, with much room.
const MAX_BOARDS: usize = 1024;
/// The variable that names the agent's socket; the boards are beside it.
#[cfg(not(test))]
const SOCKET_VARIABLE: &str = "LOCKSTEP_SOCKET";

/// Where the agent's socket is.
pub(super) fn socket() -> &'static Path {
    static SOCKET: OnceLock<PathBuf> = OnceLock::new();
    SOCKET.get_or_init(|| {
        #[cfg(test)]
        return super::tests::socket();
        #[cfg(not(test))]
        named_socket()
    })
}

#[cfg(not(test))]
fn named_socket() -> PathBuf {
    let named = std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty());
    named.map_or_else(|| lockstep_client::DEFAULT_SOCKET.into(), Into::into)
}

/// Where the agent keeps its boards: the directory of its socket.
pub fn runtime_dir() -> &'static Path {
    socket().parent().unwrap_or(Path::new("/"))
}

/// Milliseconds of the monotonic clock, coarse: cheap enough to be read at each transaction.
pub(super) fn now_ms() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: libc writes one timespec. libc's own call, not rustix': that reads the kernel's page itself and
    // does not survive where a tool such as valgrind hides it.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

struct Known {
    looked_ms: u64,
    boards: Vec<Arc<BoardReader>>,
}

static KNOWN: Mutex<Known> = Mutex::new(Known { looked_ms: 0, boards: Vec::new() });

/// The board of the database with this canonical path, or of this device and inode: in a container
/// the agent's path means nothing.
pub(super) fn find(path: &Path, file: (u64, u64)) -> Option<Arc<BoardReader>> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let now = now_ms();
    if known.looked_ms == 0 || now >= known.looked_ms + LOOK_PERIOD_MS {
        known.looked_ms = now;
        known.boards = read_all(runtime_dir(), std::mem::take(&mut known.boards));
    }
    // A number alone may have been a file's that is gone, a path alone another container's.
    let is_file = |board: &BoardReader| board.database_file() == Some(file);
    let is_both =
        |board: &BoardReader| (board.database_file().is_none() || is_file(board)) && is_path(board, path);
    let mut boards = known.boards.iter();
    let found = boards.clone().find(|board| is_both(board));
    let found = found.or_else(|| boards.clone().find(|board| is_file(board)));
    found.or_else(|| boards.find(|board| is_path(board, path))).cloned()
}

/// Looks at the directory at the next question, whenever it was looked at before.
pub(super) fn forget() {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner).looked_ms = 0;
}

fn is_path(board: &BoardReader, path: &Path) -> bool {
    let named = board.database_path();
    named == path || named.canonicalize().is_ok_and(|named| named == path)
}

fn read_all(runtime: &Path, mut before: Vec<Arc<BoardReader>>) -> Vec<Arc<BoardReader>> {
    before.retain(|board| board.is_current());
    let mut boards = before;
    let Ok(pairs) = std::fs::read_dir(runtime).inspect_err(|error| warn_of_denial(runtime, error)) else {
        return boards;
    };
    for pair in pairs.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let pair = pair.path();
        let Ok(files) = std::fs::read_dir(&pair).inspect_err(|error| warn_of_denial(&pair, error)) else {
            continue;
        };
        for file in files.flatten().map(|entry| entry.path()) {
            let is_board = file.to_str().is_some_and(|name| name.ends_with(BOARD_SUFFIX));
            if !is_board || boards.len() >= MAX_BOARDS || boards.iter().any(|board| board.path() == file) {
                continue;
            }
            match BoardReader::open(&file) {
                Ok(board) => boards.push(Arc::new(board)),
                Err(error) => warn_of_denial(&file, &error),
            }
        }
    }
    boards
}

/// A program that may not read the boards commits without waiting, which somebody must hear, once.
fn warn_of_denial(path: &Path, error: &std::io::Error) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if error.kind() == ErrorKind::NotFound || WARNED.swap(true, Ordering::Relaxed) {
        return;
    }
    eprintln!(
        "lockstep: {}: {error}: commits of this program may not wait for the standby; let it run in the group lockstep",
        path.display()
    );
}
