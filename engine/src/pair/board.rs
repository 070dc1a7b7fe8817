//! Active: which commits programs on this node are told are safe, and by which rule they wait.
//!
//! Sits between acknowledgements (in [`super::active`]) and the shared memory of `lockstep-barrier`.
//! [`CommitBoards`] lives as long as the data thread, because programs keep their mapping over every
//! change of role; [`Marks`] belongs to one database being served. When anything may be released
//! is not decided here.

use super::{BoardConfig, CommitMode, EngineConfig};
use lockstep_barrier::{BOARD_SUFFIX, Board, MARKS_KEPT, Mark, POKE_SUFFIX, PokeReceiver, Rule};
use lockstep_wire::{Chain, FrameNo, Position, Salts};
use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// Mode of the directory of boards: its group may look and poke, nobody else.
const DIRECTORY_MODE: u32 = 0o750;

/// One database's board, and where its programs poke.
#[derive(Clone)]
pub(super) struct CommitBoard {
    board: Rc<Board>,
    pokes: Arc<PokeReceiver>,
}

/// The boards of a pair's databases, in their order; None: programs are not told.
#[derive(Default)]
pub(super) struct CommitBoards(Vec<Option<CommitBoard>>);

impl CommitBoards {
    /// Makes the boards or goes on with those of an earlier agent. Says what cannot be made: those
    /// databases are served without one.
    pub(super) fn open(config: &EngineConfig) -> (Self, Vec<String>) {
        let Some(boards) = &config.boards else { return (Self::default(), Vec::new()) };
        let mut alarms = Vec::new();
        let open = |database: &super::DatabaseConfig| {
            let pair = config.link.greeting.pair.as_str();
            let opened = CommitBoard::open(boards, pair, database);
            let board = opened.map_err(|error| {
                let (name, directory) = (&database.name, boards.runtime_dir.join(pair));
                alarms.push(format!("database {name}: its programs cannot wait for commits: the commit board in {} cannot be made: {error}", directory.display()));
            });
            board.ok()
        };
        let opened = config.databases.iter().map(open).collect();
        (Self(opened), alarms)
    }

    /// The board of one database.
    pub(super) fn of(&self, index: usize) -> Option<CommitBoard> {
        self.0.get(index).cloned().flatten()
    }

    /// This node does not serve: no program may begin to write, and nobody who waits returns.
    pub(super) fn refuse(&self) {
        for board in self.0.iter().flatten() {
            board.board.void(Rule::Refuse);
        }
    }
}

impl CommitBoard {
    fn open(boards: &BoardConfig, pair: &str, database: &super::DatabaseConfig) -> std::io::Result<Self> {
        let directory = boards.runtime_dir.join(pair);
        make_directory(&directory, boards.group)?;
        let name = database.name.as_str();
        let file = directory.join(format!("{name}{BOARD_SUFFIX}"));
        let board = Board::create(&file, pair, name, &database.path, boards.strict)?;
        let socket = directory.join(format!("{name}{POKE_SUFFIX}"));
        let pokes = PokeReceiver::bind(&socket)?;
        for path in [&file, &socket] {
            give_to_group(path, boards.group)?;
        }
        Ok(Self { board: Rc::new(board), pokes: Arc::new(pokes) })
    }
}

/// Makes the pair's directory.
fn make_directory(directory: &Path, group: Option<u32>) -> std::io::Result<()> {
    match std::fs::create_dir(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    std::fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(DIRECTORY_MODE))?;
    give_to_group(directory, group)
}

fn give_to_group(path: &Path, group: Option<u32>) -> std::io::Result<()> {
    group.map_or(Ok(()), |group| std::os::unix::fs::chown(path, None, Some(group)))
}

/// The commits of one served database that its programs may be waiting for.
pub(super) struct Marks {
    board: Option<CommitBoard>,
    mode: CommitMode,
    /// Sent to the attached standby and not yet released, oldest first.
    sent: VecDeque<(Position, Mark)>,
    /// Nobody will release what is committed from now on.
    in_vain: bool,
}

impl Marks {
    pub(super) fn new(board: Option<CommitBoard>, mode: CommitMode) -> Self {
        Self { board, mode, sent: VecDeque::new(), in_vain: false }
    }

    /// Where its programs poke.
    pub(super) fn pokes(&self) -> Option<Arc<PokeReceiver>> {
        self.board.as_ref().map(|board| board.pokes.clone())
    }

    /// Says which file the database is; nothing when it is gone again.
    pub(super) fn set_file(&self, database: &Path) {
        let Some(board) = &self.board else { return };
        let (device, inode) = std::fs::metadata(database).map_or((0, 0), |file| (file.dev(), file.ino()));
        board.board.set_file(device, inode);
    }

    /// Commit frames are on their way to the standby, published or not: a mark names the content, so nobody else's
    /// commit is meant by it. `position` is the last frame sent with them.
    pub(super) fn sent(&mut self, position: Position, salts: Salts, commits: &[(FrameNo, Chain)]) {
        if self.board.is_none() {
            return;
        }
        for (frame, chain) in commits {
            // Programs hold no more than a board does: one whose mark is pushed out asks on the socket.
            if self.sent.len() == MARKS_KEPT {
                self.sent.pop_front();
            }
            let mark = Mark { salts: salts.packed(), chain: chain.packed(), frame: frame.0 };
            self.sent.push_back((Position { generation: position.generation, frame: *frame }, mark));
        }
    }

    /// What was sent after `to` is being taken back: nobody will ever have committed it.
    pub(super) fn rewind(&mut self, to: Position) {
        let kept = self.sent.partition_point(|(at, _)| *at <= to);
        self.sent.truncate(kept);
    }

    /// Something can be released now that the standby is as far as `reached`.
    pub(super) fn reached(&self, reached: Position) -> bool {
        self.sent.front().is_some_and(|(at, _)| *at <= reached)
    }

    /// Tells programs of everything through `reached`. Called only while this node may acknowledge.
    pub(super) fn release(&mut self, reached: Position) {
        let Some(board) = &self.board else { return };
        let safe = self.sent.partition_point(|(at, _)| *at <= reached);
        board.board.publish(self.sent.drain(..safe).map(|(_, mark)| mark));
    }

    /// A standby came or went: what was sent before is never released by this board.
    pub(super) fn void(&mut self, solo: bool) {
        self.sent.clear();
        if let Some(board) = &self.board {
            board.board.void(self.rule_of(solo));
        }
    }

    /// By which rule programs wait from now on.
    pub(super) fn rule(&self, solo: bool) {
        if let Some(board) = &self.board {
            board.board.set_rule(self.rule_of(solo));
        }
    }

    /// Whether waiting has no end in sight: then no program may begin to write.
    pub(super) fn set_in_vain(&mut self, in_vain: bool) {
        if self.in_vain != in_vain {
            self.in_vain = in_vain;
            // Whoever may return alone is told so with the next release.
            self.rule(false);
        }
    }

    fn rule_of(&self, solo: bool) -> Rule {
        match (self.mode, solo) {
            (CommitMode::Local, _) => Rule::Local,
            (_, true) => Rule::Solo,
            (_, false) if self.in_vain => Rule::Refuse,
            (_, false) => Rule::Hold,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_wire::WalGeneration;

    fn at(frame: u32) -> Position {
        Position { generation: WalGeneration(1), frame: FrameNo(frame) }
    }

    fn marks_on(directory: &Path) -> Marks {
        let board = Board::create(&directory.join("b"), "p", "d", Path::new("/d"), false).unwrap();
        let pokes = Arc::new(PokeReceiver::bind(&directory.join("p")).unwrap());
        Marks::new(Some(CommitBoard { board: Rc::new(board), pokes }), CommitMode::Durable)
    }

    #[test]
    fn what_is_taken_back_is_never_shown() {
        let directory = tempfile::tempdir().unwrap();
        let mut marks = marks_on(directory.path());
        marks.sent(at(5), Salts([1, 2]), &[(FrameNo(5), Chain([5, 0]))]);
        marks.sent(at(8), Salts([1, 2]), &[(FrameNo(8), Chain([8, 0]))]);
        marks.rewind(at(5));
        marks.release(at(8));
        let reader = lockstep_barrier::BoardReader::open(&directory.path().join("b")).unwrap();
        let look = |frame: u32| {
            let (salts, chain) = (Salts([1, 2]).packed(), Chain([frame, 0]).packed());
            reader.look(&Mark { salts, chain, frame }, reader.session())
        };
        assert_eq!(look(5), lockstep_barrier::Verdict::Safe);
        assert_eq!(look(8), lockstep_barrier::Verdict::Waiting);
    }

    #[test]
    fn more_commits_than_a_board_holds_push_out_the_oldest() {
        let directory = tempfile::tempdir().unwrap();
        let mut marks = marks_on(directory.path());
        for frame in 1..=MARKS_KEPT as u32 + 1 {
            marks.sent(at(frame), Salts([1, 2]), &[(FrameNo(frame), Chain([frame, 0]))]);
        }
        assert_eq!(marks.sent.len(), MARKS_KEPT);
        assert!(!marks.reached(at(1)), "the first was pushed out");
        assert!(marks.reached(at(2)));
        marks.release(at(2));
        assert!(!marks.reached(at(2)));
    }
}
