//! The commit barrier, pure: which waiters may be released when the standby says how far it is.
//!
//! A waiter is first *unstamped*: it has asked, but the wal-index was not read since. One reading
//! stamps everyone who asked before it with a position; an acknowledgement at or beyond that
//! position releases. Attaching a standby may renumber generations, so it unstamps everybody.
//! Time-outs and sockets are the caller's.

use lockstep_wire::{Epoch, Position};

/// How safe a commit must be before its waiter is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CommitMode {
    /// On this node's disk, as SQLite left it.
    Local,
    /// In the standby's memory.
    Received,
    /// On the standby's disk.
    Durable,
}

impl CommitMode {
    /// The word on the socket and in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Received => "received",
            Self::Durable => "durable",
        }
    }
}

impl std::str::FromStr for CommitMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "local" => Ok(Self::Local),
            "received" => Ok(Self::Received),
            "durable" => Ok(Self::Durable),
            other => Err(format!("commit mode is one of local, received, durable, found \"{other}\"")),
        }
    }
}

/// What a waiter is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledged {
    /// Every commit through the position is as safe as asked.
    Ok(CommitMode, Position),
    /// The active durably runs alone since this epoch; the commit is on its disk only.
    Solo(Epoch),
}

/// How far the standby is with one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Last position it has received.
    pub received: Position,
    /// Last position on its disk.
    pub durable: Position,
}

struct Waiter<T> {
    mode: CommitMode,
    /// None: asked, not yet stamped.
    position: Option<Position>,
    ticket: T,
}

/// The waiters of one database. `T` is whatever the caller answers with.
pub(super) struct Barrier<T> {
    waiters: Vec<Waiter<T>>,
    /// Waiters from this index on asked after the reading in flight began.
    stamping: Option<usize>,
    progress: Progress,
    attached: bool,
    solo: Option<Epoch>,
}

impl<T> Default for Barrier<T> {
    fn default() -> Self {
        Self {
            waiters: Vec::new(),
            stamping: None,
            progress: Progress::default(),
            attached: false,
            solo: None,
        }
    }
}

impl<T> Barrier<T> {
    /// Somebody waits.
    pub(super) fn wait(&mut self, mode: CommitMode, ticket: T) {
        self.waiters.push(Waiter { mode, position: None, ticket });
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// True when the wal-index should be read now (once; [`Self::stamped`] or [`Self::unstamp`] ends it).
    pub(super) fn begin_stamping(&mut self) -> bool {
        let wanted = self.stamping.is_none() && self.waiters.iter().any(|w| w.position.is_none());
        if wanted {
            self.stamping = Some(self.waiters.len());
        }
        wanted
    }

    /// The reading begun by [`Self::begin_stamping`] found this position.
    pub(super) fn stamped(&mut self, position: Position) {
        let Some(end) = self.stamping.take() else { return };
        for waiter in self.waiters.iter_mut().take(end).filter(|w| w.position.is_none()) {
            waiter.position = Some(position);
        }
    }

    /// The reading begun by [`Self::begin_stamping`] could not be made.
    pub(super) fn not_stamped(&mut self) {
        self.stamping = None;
    }

    /// Positions given so far mean nothing any more: the standby is gone, or attached anew.
    pub(super) fn unstamp(&mut self) {
        self.stamping = None;
        self.attached = false;
        self.progress = Progress::default();
        for waiter in &mut self.waiters {
            waiter.position = None;
        }
    }

    /// A standby is attached: from now on positions and progress are of one numbering.
    pub(super) fn attach(&mut self) {
        self.unstamp();
        self.attached = true;
    }

    /// The standby is this far.
    pub(super) fn advance(&mut self, progress: Progress) {
        self.progress.received = self.progress.received.max(progress.received);
        self.progress.durable = self.progress.durable.max(progress.durable);
    }

    /// The standby's progress.
    pub(super) fn progress(&self) -> Progress {
        self.progress
    }

    /// Commits are (or are no longer) acknowledged alone.
    pub(super) fn set_solo(&mut self, solo: Option<Epoch>) {
        self.solo = solo;
    }

    /// Commits are acknowledged alone.
    pub(super) fn is_solo(&self) -> bool {
        self.solo.is_some()
    }

    /// Takes out everybody who may be answered now.
    pub(super) fn release(&mut self) -> Vec<(T, Acknowledged)> {
        let mut released = Vec::new();
        let mut index = 0;
        while index < self.waiters.len() {
            match self.verdict(&self.waiters[index]) {
                Some(answer) => {
                    let waiter = self.waiters.remove(index);
                    self.stamping = self.stamping.map(|end| if index < end { end - 1 } else { end });
                    released.push((waiter.ticket, answer));
                }
                None => index += 1,
            }
        }
        released
    }

    /// Drops waiters whose caller has gone.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        let mut index = 0;
        while index < self.waiters.len() {
            if keep(&self.waiters[index].ticket) {
                index += 1;
            } else {
                self.waiters.remove(index);
                self.stamping = self.stamping.map(|end| if index < end { end - 1 } else { end });
            }
        }
    }

    fn verdict(&self, waiter: &Waiter<T>) -> Option<Acknowledged> {
        if let (Some(epoch), true) = (self.solo, waiter.mode > CommitMode::Local) {
            // The commit returned before the request came, so it is on this disk already.
            return Some(Acknowledged::Solo(epoch));
        }
        let position = waiter.position?;
        let reached = match waiter.mode {
            CommitMode::Local => true,
            CommitMode::Received => {
                self.attached && self.progress.received.max(self.progress.durable) >= position
            }
            CommitMode::Durable => self.attached && self.progress.durable >= position,
        };
        reached.then_some(Acknowledged::Ok(waiter.mode, position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_wire::{FrameNo, NodeId, WalGeneration};

    fn at(generation: u64, frame: u32) -> Position {
        Position { generation: WalGeneration(generation), frame: FrameNo(frame) }
    }

    fn durable(position: Position) -> Progress {
        Progress { received: position, durable: position }
    }

    #[test]
    fn a_waiter_is_released_only_when_its_position_is_durable() {
        let mut barrier = Barrier::default();
        barrier.attach();
        barrier.wait(CommitMode::Durable, "w");
        assert!(barrier.begin_stamping());
        assert!(!barrier.begin_stamping(), "one reading at a time");
        barrier.stamped(at(1, 5));
        barrier.advance(Progress { received: at(1, 5), durable: at(1, 4) });
        assert!(barrier.release().is_empty());
        barrier.advance(durable(at(1, 5)));
        assert_eq!(barrier.release(), vec![("w", Acknowledged::Ok(CommitMode::Durable, at(1, 5)))]);
    }

    #[test]
    fn who_asks_during_a_reading_is_not_stamped_by_it() {
        let mut barrier = Barrier::default();
        barrier.attach();
        barrier.wait(CommitMode::Durable, 1);
        assert!(barrier.begin_stamping());
        barrier.wait(CommitMode::Durable, 2);
        barrier.stamped(at(1, 1));
        barrier.advance(durable(at(1, 1)));
        assert_eq!(barrier.release().len(), 1);
        assert_eq!(barrier.waiting(), 1, "the second asked after the reading began");
        assert!(barrier.begin_stamping());
    }

    #[test]
    fn progress_before_an_attach_releases_nobody_after_it() {
        let mut barrier = Barrier::default();
        barrier.attach();
        barrier.advance(durable(at(9, 9)));
        barrier.attach();
        barrier.wait(CommitMode::Durable, ());
        assert!(barrier.begin_stamping());
        barrier.stamped(at(1, 1));
        assert!(barrier.release().is_empty());
    }

    #[test]
    fn positions_of_an_older_numbering_are_forgotten_at_an_attach() {
        let mut barrier = Barrier::default();
        barrier.wait(CommitMode::Durable, ());
        assert!(barrier.begin_stamping());
        barrier.stamped(at(1, 500));
        barrier.attach();
        barrier.advance(durable(at(7, 300)));
        assert!(barrier.release().is_empty(), "7.300 is not beyond 1.500 of another numbering");
    }

    #[test]
    fn a_removed_waiter_does_not_shift_the_reading_onto_a_later_one() {
        let mut barrier = Barrier::default();
        barrier.attach();
        barrier.wait(CommitMode::Durable, 1);
        assert!(barrier.begin_stamping());
        barrier.wait(CommitMode::Durable, 2);
        barrier.retain(|ticket| *ticket != 1);
        barrier.stamped(at(1, 1));
        barrier.advance(durable(at(1, 1)));
        assert!(barrier.release().is_empty());
    }

    #[test]
    fn solo_answers_everybody_but_local_waiters() {
        let mut barrier = Barrier::default();
        let epoch = Epoch::NONE.next(NodeId(1));
        barrier.wait(CommitMode::Durable, "d");
        barrier.wait(CommitMode::Local, "l");
        barrier.set_solo(Some(epoch));
        assert_eq!(barrier.release(), vec![("d", Acknowledged::Solo(epoch))]);
        assert!(barrier.begin_stamping());
        barrier.stamped(at(1, 1));
        assert_eq!(barrier.release(), vec![("l", Acknowledged::Ok(CommitMode::Local, at(1, 1)))]);
    }
}
