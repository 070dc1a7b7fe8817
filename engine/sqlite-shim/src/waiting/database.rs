//! One database of this process: its board once there is one, its poke, and the wait for one commit.

use super::boards::{self, LOOK_PERIOD_MS, now_ms};
use super::question::{Answer, Question};
use lockstep_barrier::{BOARD_SUFFIX, BoardReader, Mark, POKE_SUFFIX, Poke, Rule, Verdict};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

/// After so long without news from the board the agent is asked: commits take a fraction of it.
const NEWS: Duration = Duration::from_millis(200);
/// While the agent is asked, how often its answer is looked for; the board still wakes at once.
const ANSWER_PERIOD: Duration = Duration::from_millis(20);
/// Turns of [`ANSWER_PERIOD`] between two questions that nobody answered.
const ASK_EVERY: u32 = 10;
/// Set to 1 to wait before a commit is visible, whatever the agent's configuration says.
const STRICT_VARIABLE: &str = "LOCKSTEP_STRICT";

/// A database file that this process has open, replicated or not.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    file: (u64, u64),
    is_strict_here: bool,
    is_bound: AtomicBool,
    board: RwLock<Option<Arc<BoardReader>>>,
    poke: Mutex<Line>,
    looked_ms: AtomicU64,
    page_bytes: AtomicU32,
}

/// The way to the agent.
#[derive(Debug, Default)]
struct Line {
    poke: Option<Poke>,
    tried_ms: u64,
    /// The process that made it: after a fork its descriptor may have become something else.
    process: u32,
}

impl Database {
    /// The database at `path`, which exists; the same one for every opening of the same file.
    pub fn of(path: &Path) -> Option<Arc<Self>> {
        static ALL: Mutex<Vec<Weak<Database>>> = Mutex::new(Vec::new());
        let path = path.canonicalize().ok()?;
        let metadata = std::fs::metadata(&path).ok()?;
        let file = (metadata.dev(), metadata.ino());
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.strong_count() > 0);
        let known =
            all.iter().filter_map(Weak::upgrade).find(|known| known.file == file && known.path == path);
        let database = known.unwrap_or_else(|| {
            let new = Arc::new(Self {
                path,
                file,
                is_strict_here: std::env::var_os(STRICT_VARIABLE).is_some_and(|value| value == "1"),
                is_bound: AtomicBool::new(false),
                board: RwLock::new(None),
                poke: Mutex::default(),
                looked_ms: AtomicU64::new(0),
                page_bytes: AtomicU32::new(0),
            });
            all.push(Arc::downgrade(&new));
            new
        });
        drop(all);
        database.look();
        Some(database)
    }

    /// Whether a board was found: only then is anything else here worth calling.
    pub fn is_replicated(&self) -> bool {
        self.is_bound.load(Ordering::Acquire)
    }

    /// Looks for the board, or whether it is still the same, at most ten times a second. Before each
    /// write transaction: a few nanoseconds mostly.
    pub fn look(&self) {
        let now = now_ms();
        if now < self.looked_ms.load(Ordering::Relaxed) + LOOK_PERIOD_MS {
            return;
        }
        self.looked_ms.store(now, Ordering::Relaxed);
        match self.board() {
            Some(board) if board.is_current() => {}
            _ => self.bind(),
        }
    }

    /// No write transaction may begin: this node may not acknowledge it.
    pub fn is_refused(&self) -> bool {
        if !self.is_replicated() {
            return false;
        }
        let refuses = |board: &BoardReader| board.rule() == Rule::Refuse;
        match self.board() {
            Some(board) if refuses(&board) && !board.is_current() => {
                boards::forget();
                self.bind();
                self.board().is_some_and(|board| refuses(&board))
            }
            Some(board) => refuses(&board),
            None => false,
        }
    }

    /// Commits are waited for before others can read them.
    pub fn is_strict(&self) -> bool {
        self.is_strict_here || self.board().is_some_and(|board| board.is_strict())
    }

    /// Page size of the write-ahead log, bytes; 0 while unknown.
    pub fn page_bytes(&self) -> u32 {
        self.page_bytes.load(Ordering::Relaxed)
    }

    /// Remembers the page size; 0 to learn it anew, when the log is opened.
    pub fn set_page_bytes(&self, page_bytes: u32) {
        self.page_bytes.store(page_bytes, Ordering::Relaxed);
    }

    /// Which standby's marks count now.
    pub(super) fn session(&self) -> u64 {
        self.board().map_or(0, |board| board.session())
    }

    /// Tells the agent of a commit frame; never waits.
    pub(super) fn poke(&self, mark: &Mark) {
        let mut line = self.poke.lock().unwrap_or_else(PoisonError::into_inner);
        let process = std::process::id();
        if line.process != process {
            line.process = process;
            std::mem::forget(line.poke.take());
        }
        if let Some(poke) = &line.poke {
            if poke.send(mark) {
                return;
            }
            line.poke = None;
        }
        // The agent is not there, or another than before.
        let now = now_ms();
        if now < line.tried_ms + LOOK_PERIOD_MS {
            return;
        }
        line.tried_ms = now;
        let Some(board) = self.board() else { return };
        let name = board.path().to_string_lossy();
        let Some(stem) = name.strip_suffix(BOARD_SUFFIX) else { return };
        line.poke = Poke::connect(Path::new(&format!("{stem}{POKE_SUFFIX}"))).ok();
        if let Some(poke) = &line.poke {
            poke.send(mark);
            line.tried_ms = 0;
        }
    }

    /// Waits until the commit is safe or need not be. It has no other end: what is on this node's disk can
    /// only be waited for. `published`: the wal-index shows the commit, so an answer on the agent's socket covers
    /// it. Before that the socket is asked only so that the agent knows of somebody who waits.
    pub(super) fn wait(&self, mark: &Mark, mut session: u64, published: bool) {
        let mut question: Option<Question> = None;
        let (mut slice, mut turn) = (NEWS, 0_u32);
        loop {
            let Some(board) = self.board() else {
                std::thread::sleep(ANSWER_PERIOD);
                self.rebind(&mut session);
                continue;
            };
            match board.wait(mark, session, slice) {
                Verdict::Safe => return,
                // The word of a board that the agent has replaced is worth nothing.
                Verdict::Alone if board.is_current() => return,
                Verdict::Alone => std::thread::sleep(ANSWER_PERIOD),
                Verdict::Void => session = board.session(),
                Verdict::Waiting => {}
            }
            slice = ANSWER_PERIOD;
            if !board.is_current() {
                self.rebind(&mut session);
            }
            match question.as_mut().map(Question::answer) {
                Some(Answer::Acknowledged) if published => return,
                Some(Answer::Acknowledged | Answer::Again) => question = None,
                Some(Answer::None) | None => {}
            }
            if turn.is_multiple_of(ASK_EVERY) {
                self.poke(mark);
                if question.is_none() {
                    let (pair, database) = board.names();
                    question = Question::ask(boards::socket(), &pair, &database);
                }
            }
            turn = turn.wrapping_add(1);
        }
    }

    fn rebind(&self, session: &mut u64) {
        boards::forget();
        self.bind();
        *session = self.session();
    }

    fn board(&self) -> Option<Arc<BoardReader>> {
        self.board.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the board that is there now. A board that is gone is kept: its database is replicated, and
    /// whoever commits waits for the agent to come back.
    fn bind(&self) {
        if let Some(found) = boards::find(&self.path, self.file) {
            *self.board.write().unwrap_or_else(PoisonError::into_inner) = Some(found);
            self.is_bound.store(true, Ordering::Release);
        }
    }
}
