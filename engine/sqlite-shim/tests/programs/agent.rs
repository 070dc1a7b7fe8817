//! The agent's side of the tests: boards of databases in a runtime directory, and what programs poke.

use lockstep_barrier::{Board, Mark, PokeReceiver, Rule};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Long enough for a loaded machine; only a failing test waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A directory with databases and the agent's runtime directory beside them.
pub(crate) struct Stage {
    directory: tempfile::TempDir,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(directory.path().join("run/shop")).expect("the pair's directory");
        Self { directory }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("run/agent.sock")
    }

    /// A WAL database with the table `t(x)`, made without the shim.
    pub(crate) fn database(&self, name: &str) -> String {
        let path = self.directory.path().join(name);
        let path = path.to_str().expect("UTF-8").to_owned();
        super::program::plain(&path, "PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
        path
    }

    /// Says that this database is replicated; commits are to wait.
    pub(crate) fn replicate(&self, database: &str) -> Replicated {
        Replicated::new(&self.directory.path().join("run/shop"), Path::new(database))
    }
}

/// One database as the agent keeps it.
pub(crate) struct Replicated {
    stem: PathBuf,
    database: PathBuf,
    pub(crate) board: Board,
    pokes: PokeReceiver,
    /// Who waits long tells again.
    told: RefCell<Vec<Mark>>,
}

impl Replicated {
    fn new(pair: &Path, database: &Path) -> Self {
        let stem = pair.join(database.file_stem().expect("a name"));
        let (board, pokes) = open(&stem, database);
        Self { stem, database: database.to_owned(), board, pokes, told: RefCell::default() }
    }

    /// The agent is killed and starts again, on the same files.
    pub(crate) fn restarted(self) -> Self {
        let Self { stem, database, board, pokes, .. } = self;
        drop((board, pokes));
        let (board, pokes) = open(&stem, &database);
        Self { stem, database, board, pokes, told: RefCell::default() }
    }

    fn new_poke(&self) -> Option<Mark> {
        let mut told = self.told.borrow_mut();
        let mark = std::iter::from_fn(|| self.pokes.next()).find(|mark| !told.contains(mark))?;
        told.push(mark);
        Some(mark)
    }

    /// The next poke of a commit not told of before, within the time.
    pub(crate) fn poked(&self) -> Mark {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(mark) = self.new_poke() {
                return mark;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no program told of a commit to {}", self.database.display());
            let mut fds = [rustix::event::PollFd::new(&self.pokes, rustix::event::PollFlags::IN)];
            let left = rustix::time::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: 0 };
            rustix::event::poll(&mut fds, Some(&left)).expect("poll");
        }
    }

    /// Whether no commit was told of up to now.
    pub(crate) fn is_quiet(&self) -> bool {
        self.new_poke().is_none()
    }

    /// Waits for the next poke, checks that it names what is in the log, and releases it.
    pub(crate) fn release(&self) -> Mark {
        let mark = self.poked();
        assert_eq!(self.in_log(mark.frame), Some(mark), "the poke names another frame than the log has");
        self.board.publish([mark]);
        mark
    }

    /// What frame `frame` of the log says of itself.
    pub(crate) fn in_log(&self, frame: u32) -> Option<Mark> {
        let log = self.log();
        let page_bytes = u32::from_be_bytes(log[8..12].try_into().expect("four bytes")) as usize;
        let header = log.get(32 + (frame as usize - 1) * (24 + page_bytes)..)?.get(..24)?;
        let long = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        Some(Mark { salts: long(8), chain: long(16), frame })
    }

    /// The last frame that the wal-index has published.
    pub(crate) fn published(&self) -> u32 {
        let index = std::fs::read(format!("{}-shm", self.database.display())).expect("the wal-index");
        u32::from_ne_bytes(index[16..20].try_into().expect("four bytes"))
    }

    fn log(&self) -> Vec<u8> {
        std::fs::read(format!("{}-wal", self.database.display())).expect("the log")
    }
}

fn open(stem: &Path, database: &Path) -> (Board, PokeReceiver) {
    let name = stem.file_name().and_then(|name| name.to_str()).expect("UTF-8");
    let pokes = PokeReceiver::bind(&stem.with_extension("poke")).expect("the poke");
    let board =
        Board::create(&stem.with_extension("board"), "shop", name, database, false).expect("the board");
    board.set_rule(Rule::Hold);
    (board, pokes)
}
