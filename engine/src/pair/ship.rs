//! Active: ships one database to the attached standby, from attach to the end of the connection.
//!
//! `capture -> here -> link`. One task per database and connection: it turns capture's ordered
//! events into messages, and drives a copy or resync by asking capture for pages between them, so
//! that pages and frames share one order. It tells the data thread's main loop only what that has
//! to know ([`ShipNote`]); acknowledgements go there directly.

use super::connection::StreamSender;
use super::copying::{Copying, Next, decode_runs};
use super::scrub::{Scrub, Todo, Word};
use super::sharing::Waiters;
use super::status::CopyProgress;
use super::sums::ServedSums;
use super::trees::ServedTrees;
use crate::capture::{Attached, Capture, CaptureCommand, CaptureEvent};
use crate::mirror::FORK_PAGES_MAX;
use crate::wal::WalPoint;
use lockstep_wire::{
    Chain, CopyBegin, CopyEnd, FileAttributes, ForkPages, ForkPoint, ForkQuery, FrameNo, Generation,
    HashRequest, MirrorState, PageChunk, PageHashes, Position, Rewind, Salts, WalBatch, WalGeneration,
};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, oneshot};

/// A read by capture takes milliseconds; this only bounds a look at the clock.
const READING_LIMIT: Duration = Duration::from_secs(30);

/// What the main loop has to know of a database being shipped.
#[derive(Debug, Clone)]
pub(super) enum ShipNote {
    /// Attached: positions are of the standby's numbering from now on.
    Attached {
        /// What the standby holds durably; None: a copy comes first.
        held: Option<Position>,
        /// What of it is published; the rest is in doubt.
        published: Position,
        /// It is a mirror already; false: it becomes one with its first acknowledgement.
        complete: bool,
        /// Its last durable commit, when that is in our WAL with the same content.
        last: Option<WalPoint>,
    },
    /// Everything committed before the attachment ends here.
    Target(Position),
    /// The copy's pages are sent; the standby holds everything once durable here.
    CopySent(Position),
    /// Progress of a copy.
    Copy(CopyProgress),
    /// Frames were handed to the link.
    Sent {
        /// The last of them.
        position: Position,
        /// Everything sent through this frame is published.
        published: FrameNo,
        /// Salts of their WAL.
        salts: Salts,
        /// Commit frames among them, with the running checksum after each.
        commits: Vec<(FrameNo, Chain)>,
    },
    /// Frames sent before came true through here.
    Published(Position),
    /// The standby is about to be told to forget what follows this position; [`lockstep_wire::Rewound`] answers.
    Rewind(Position),
    /// The standby holds commits that this node lost.
    Ahead,
    /// The read mark was let go: this attachment is over, resync at the next.
    LetGo,
    /// Something for the operator.
    Word(Word),
    /// Contents differ: attach anew and compare everything.
    Resync,
}

/// One database's shipment.
pub(super) struct Shipment<'a> {
    pub(super) capture: &'a Capture,
    pub(super) events: &'a mut mpsc::Receiver<CaptureEvent>,
    pub(super) sender: StreamSender,
    pub(super) hashes: mpsc::Receiver<PageHashes>,
    /// Who may use the database's file.
    pub(super) attributes: Option<FileAttributes>,
    pub(super) forks: mpsc::Receiver<ForkPages>,
    /// File changes that must be on the standby's disk first.
    pub(super) trees: Rc<ServedTrees>,
    pub(super) note: &'a dyn Fn(ShipNote),
    /// What is compared with the standby's disk, and when.
    pub(super) scrub: Rc<RefCell<Scrub>>,
    /// What is remembered of the pages sent.
    pub(super) sums: Rc<RefCell<ServedSums>>,
    /// Whether anybody waits for commits.
    pub(super) waiters: Waiters,
    /// Something new in `scrub`.
    pub(super) wake: Rc<Notify>,
    /// Compare the whole database first: the standby's disk is in doubt.
    pub(super) resync: bool,
}

/// Why a shipment ended.
enum End {
    ConnectionClosed,
    CaptureClosed,
}

/// Where the standby's own history parted from ours.
struct Parted {
    fork: WalPoint,
    /// The pages that it touched after that, when frames can follow from there.
    runs: Option<Vec<(u32, u32)>>,
}

impl Shipment<'_> {
    /// Runs until the connection or capture ends; then detaches and empties the event channel, so
    /// that the next shipment begins with its own events.
    pub(super) async fn run(mut self, standby: MirrorState) {
        while self.events.try_recv().is_ok() {}
        if let Err(End::CaptureClosed) = self.ship(standby).await {
            return;
        }
        let _ = self.detach().await;
    }

    async fn detach(&mut self) -> Result<(), End> {
        self.tell(CaptureCommand::Detach)?;
        let (reply, mut detached) = oneshot::channel();
        self.tell(CaptureCommand::Sync(reply))?;
        loop {
            tokio::select! {
                _ = &mut detached => return Ok(()),
                event = self.events.recv() => if event.is_none() { return Err(End::CaptureClosed) },
            }
        }
    }

    fn tell(&self, command: CaptureCommand) -> Result<(), End> {
        self.capture.command(command).map_err(|_| End::CaptureClosed)
    }

    async fn ship(&mut self, standby: MirrorState) -> Result<(), End> {
        let parted = self.parted(&standby).await?;
        let mut copying = self.attach(&standby, parted).await?;
        if let Some(copying) = &mut copying {
            self.ask(copying).await?;
        }
        self.scrub.borrow_mut().attached(Instant::now());
        loop {
            // Pages of a copy are compared when it has ended.
            let due = if copying.is_none() { Some(self.scrub_on().await?) } else { None };
            let rest = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                event = self.events.recv() => {
                    let event = event.ok_or(End::CaptureClosed)?;
                    if self.forward(event, copying.as_mut()).await? {
                        copying = None;
                        self.scrub.borrow_mut().resynced();
                    }
                }
                hashes = self.hashes.recv() => {
                    let hashes = hashes.ok_or(End::ConnectionClosed)?;
                    match &mut copying {
                        Some(copying) => self.compare(copying, &hashes)?,
                        None => {
                            let todo = self.scrub.borrow_mut().answered(&hashes, Instant::now());
                            self.perform(todo).await?;
                        }
                    }
                }
                () = self.wake.notified() => {}
                () = rest => {}
                () = self.sender.closed() => return Err(End::ConnectionClosed),
            }
        }
    }

    /// Of a standby that served before us: where its commits parted from ours, and what it touched since.
    async fn parted(&mut self, standby: &MirrorState) -> Result<Option<Parted>, End> {
        if !standby.diverged || !standby.complete {
            return Ok(None);
        }
        let (reply, fork) = oneshot::channel();
        self.tell(CaptureCommand::Fork { of: mirror_point(standby), reply })?;
        let fork = fork.await.map_err(|_| End::CaptureClosed)?;
        let Some(fork) = fork else { return Ok(None) };
        let mut parted = Parted { fork: fork.point, runs: None };
        if fork.in_wal && standby.rewinds && !self.resync {
            self.send(ForkQuery { fork: Some(fork_point(&fork.point)) }).await?;
            let answer = tokio::select! {
                answer = self.forks.recv() => answer.ok_or(End::ConnectionClosed)?,
                () = self.sender.closed() => return Err(End::ConnectionClosed),
            };
            let runs = decode_runs(&answer.runs, FORK_PAGES_MAX);
            parted.runs = runs.filter(|_| answer.held);
        }
        Ok(Some(parted))
    }

    /// Lets capture publish from what the standby has, and says how it begins. A copy comes first: what it is.
    async fn attach(
        &mut self,
        standby: &MirrorState,
        parted: Option<Parted>,
    ) -> Result<Option<Copying>, End> {
        let mut from =
            (!self.resync && (standby.complete || standby.diverged)).then(|| mirror_point(standby));
        if let Some(from) = from.as_mut().filter(|_| standby.diverged) {
            // A node that served until now counted by itself; from here on our count is the pair's.
            from.position.generation = self.capture.status().position.generation;
        }
        let fork = parted.as_ref().map(|parted| fork_point(&parted.fork));
        let rewound = parted.and_then(|parted| Some((parted.fork, parted.runs?)));
        let (reply, attached) = oneshot::channel();
        let first = rewound.as_ref().map_or(from, |(fork, _)| Some(*fork));
        let published = published_point(standby).filter(|_| standby.complete && !standby.diverged);
        self.tell(CaptureCommand::Attach { from: first, published, reply })?;
        let attached = attached.await.map_err(|_| End::CaptureClosed)?;
        match &attached {
            Attached::Resumed { held, published: told } => {
                // A commit in doubt is in no sum of ours and may be taken back: they begin with the next one.
                let known = first.into_iter().chain(published).find(|point| point.position == *held);
                let from = known.filter(|_| held == told);
                self.sums.borrow_mut().attached(from, standby.page_size, Instant::now());
            }
            Attached::FromStart { page_size, .. } => {
                self.sums.borrow_mut().attached(None, *page_size, Instant::now());
            }
        }
        let begin = CopyBegin { attributes: self.attributes.take(), fork, ..CopyBegin::default() };
        match (attached, rewound) {
            (Attached::Resumed { published, .. }, Some((_, runs))) => {
                (self.note)(ShipNote::Attached { held: None, published, complete: false, last: None });
                let copying = Copying::of_fork(standby.page_size, runs);
                // What its disk holds is what counts, not what it remembers.
                self.begin_copy(copying, CopyBegin { rewind: true, verify: true, ..begin }).await
            }
            (Attached::Resumed { held, published }, None) => {
                let complete = !standby.diverged;
                let last = from.filter(|from| from.position == held);
                (self.note)(ShipNote::Attached { held: Some(held), published, complete, last });
                if let Some(from) = from.filter(|_| standby.diverged) {
                    // Its last commit is ours: "keep everything through it" makes it a mirror again.
                    self.rewind(from).await?;
                }
                let target = self.sync().await?;
                (self.note)(ShipNote::Target(target));
                Ok(None)
            }
            (Attached::FromStart { page_size, page_count, ahead }, _) => {
                let published = Position::default();
                (self.note)(ShipNote::Attached { held: None, published, complete: false, last: None });
                if ahead && !standby.diverged {
                    (self.note)(ShipNote::Ahead);
                }
                let resync = standby.has_pages && standby.page_size == page_size;
                let copying = Copying::whole(resync, page_size, page_count);
                let begin = CopyBegin { keep: ahead, verify: self.resync, ..begin };
                self.begin_copy(copying, begin).await
            }
        }
    }

    /// Everything committed so far ends here.
    async fn sync(&mut self) -> Result<Position, End> {
        let (reply, position) = oneshot::channel();
        self.tell(CaptureCommand::Sync(reply))?;
        let mut position = position;
        // Events go on meanwhile: forward them, or capture could wait for room while we wait for it.
        loop {
            tokio::select! {
                biased;
                position = &mut position => return position.map_err(|_| End::CaptureClosed),
                event = self.events.recv() => {
                    let event = event.ok_or(End::CaptureClosed)?;
                    self.forward(event, None).await?;
                }
            }
        }
    }

    async fn begin_copy(&mut self, copying: Copying, begin: CopyBegin) -> Result<Option<Copying>, End> {
        let CopyProgress { resync, page_size, pages_total: page_count, .. } = copying.progress;
        self.send(CopyBegin { resync, page_size, page_count, ..begin }).await?;
        (self.note)(ShipNote::Copy(copying.progress));
        Ok(Some(copying))
    }

    /// Asks for the next range, or for the end of the copy when there is none.
    async fn ask(&mut self, copying: &mut Copying) -> Result<(), End> {
        let next = copying.next();
        (self.note)(ShipNote::Copy(copying.progress));
        match next {
            Next::Read(first_page, page_count) => {
                self.tell(CaptureCommand::ReadPages { first_page, page_count })
            }
            Next::Hash(first_page, page_count) => {
                self.send(HashRequest { first_page, page_count, ..HashRequest::default() }).await
            }
            Next::End => self.tell(CaptureCommand::EndOfCopy),
        }
    }

    /// The standby's hashes of a range are here: let capture send what differs.
    fn compare(&self, copying: &mut Copying, hashes: &PageHashes) -> Result<(), End> {
        let Some((first_page, page_count)) = copying.answered(hashes.first_page) else {
            return Ok(()); // an answer to nothing we asked
        };
        let (values, _) = hashes.hashes.as_chunks::<8>();
        let hashes = values.iter().take(page_count as usize).map(|hash| u64::from_le_bytes(*hash)).collect();
        self.tell(CaptureCommand::DifferingPages { first_page, page_count, hashes })
    }

    /// Does what the scrub has to do now; answers when it has to do something again.
    async fn scrub_on(&mut self) -> Result<Instant, End> {
        loop {
            let now = Instant::now();
            let due = if self.sums.borrow().is_reading() {
                // Capture reads for one at a time, and its answer comes as an event.
                now + READING_LIMIT
            } else {
                let todo = self.scrub.borrow_mut().todo(now);
                match todo {
                    Todo::Rest(due) => due,
                    todo => {
                        self.perform(Some(todo)).await?;
                        continue;
                    }
                }
            };
            if self.scrub.borrow().is_reading() {
                return Ok(due);
            }
            let read = self.sums.borrow_mut().read(now);
            let Some(read) = read else {
                return Ok(self.sums.borrow().due().map_or(due, |build| build.min(due)));
            };
            self.tell(CaptureCommand::ReadAt(read))?;
        }
    }

    async fn perform(&mut self, todo: Option<Todo>) -> Result<(), End> {
        for word in self.scrub.borrow_mut().words() {
            (self.note)(ShipNote::Word(word));
        }
        match todo {
            None | Some(Todo::Rest(_)) => {}
            Some(Todo::Read(read)) => self.tell(CaptureCommand::ReadAt(read))?,
            Some(Todo::Ask(request)) => self.send(request).await?,
            Some(Todo::Send(chunks)) => {
                for chunk in chunks {
                    self.send(chunk).await?;
                }
            }
            Some(Todo::Resync) => (self.note)(ShipNote::Resync),
        }
        Ok(())
    }

    /// Sends one event. True when the copy has ended with it.
    async fn forward(&mut self, event: CaptureEvent, copying: Option<&mut Copying>) -> Result<bool, End> {
        let sent = event.clone();
        let ended = self.send_event(event, copying).await?;
        // Behind the sending, which a commit waits for.
        self.sums.borrow_mut().sent(&sent);
        if let Some(sentence) = self.sums.borrow_mut().trouble() {
            (self.note)(ShipNote::Word(Word { alarm: true, sentence }));
        }
        Ok(ended)
    }

    async fn send_event(&mut self, event: CaptureEvent, copying: Option<&mut Copying>) -> Result<bool, End> {
        match event {
            CaptureEvent::Generation { generation, wal_header, previous } => {
                self.send(Generation {
                    generation: generation.0,
                    wal_header,
                    previous_frame: previous.map_or(0, |p| p.position.frame.0),
                    previous_chain: previous.map_or(0, |p| p.chain.packed()),
                    fresh: previous.is_none(),
                })
                .await?;
            }
            CaptureEvent::Frames {
                generation,
                first,
                last,
                chain_before,
                chain_after,
                published,
                data,
                salts,
                commits,
            } => {
                self.files_first().await?;
                let now = Instant::now();
                if last > published {
                    self.waiters.seen(now);
                }
                self.send(WalBatch {
                    generation: generation.0,
                    first_frame: first.0,
                    chain_before: chain_before.packed(),
                    chain_after: chain_after.packed(),
                    published_frame: published.0,
                    data,
                    gather_ms: self.waiters.gather_ms(now),
                })
                .await?;
                let position = Position { generation, frame: last };
                (self.note)(ShipNote::Sent { position, published, salts, commits });
            }
            CaptureEvent::Published(position) => (self.note)(ShipNote::Published(position)),
            CaptureEvent::Rewind(to) => self.rewind(to).await?,
            CaptureEvent::Pages { first_page, data } => {
                if let Some(copying) = copying {
                    copying.sent(data.len());
                    (self.note)(ShipNote::Copy(copying.progress));
                }
                self.send(PageChunk { first_page, data, ..PageChunk::default() }).await?;
            }
            CaptureEvent::PagesDone => {
                if let Some(copying) = copying {
                    self.ask(copying).await?;
                }
            }
            CaptureEvent::EndOfCopy { position, page_count } => {
                self.files_first().await?;
                self.send(CopyEnd { generation: position.generation.0, frame: position.frame.0, page_count })
                    .await?;
                (self.note)(ShipNote::CopySent(position));
                return Ok(true);
            }
            CaptureEvent::PagesAt { at, pages } if self.sums.borrow().is_reading() => {
                self.sums.borrow_mut().have_read(at, pages, Instant::now());
            }
            CaptureEvent::PagesAt { at, pages } => {
                let todo = self.scrub.borrow_mut().read(at, pages, Instant::now());
                self.perform(todo).await?;
            }
            CaptureEvent::LetGo => (self.note)(ShipNote::LetGo),
            // Its status says why; the main loop looks there.
            CaptureEvent::Failed(_) => return Err(End::CaptureClosed),
        }
        Ok(false)
    }

    /// Waits for the files that come before what is sent next.
    async fn files_first(&self) -> Result<(), End> {
        tokio::select! {
            () = self.trees.before_commits() => Ok(()),
            () = self.sender.closed() => Err(End::ConnectionClosed),
        }
    }

    /// Takes back everything after a point. The main loop knows it first: acknowledgements of what was there
    /// before must not be taken for what comes instead.
    async fn rewind(&self, to: WalPoint) -> Result<(), End> {
        (self.note)(ShipNote::Rewind(to.position));
        let (generation, frame) = (to.position.generation.0, to.position.frame.0);
        self.send(Rewind { generation, frame, chain: to.chain.packed() }).await
    }

    async fn send(&self, message: impl Into<lockstep_wire::Message>) -> Result<(), End> {
        self.sender.send(message.into()).await.map_err(|_| End::ConnectionClosed)
    }
}

/// The point the standby says it has reached.
fn mirror_point(state: &MirrorState) -> WalPoint {
    WalPoint {
        position: Position { generation: WalGeneration(state.generation), frame: FrameNo(state.frame) },
        chain: Chain::from_packed(state.chain),
        salts: Salts::from_packed(state.salts),
    }
}

fn fork_point(point: &WalPoint) -> ForkPoint {
    ForkPoint {
        generation: point.position.generation.0,
        frame: point.position.frame.0,
        chain: point.chain.packed(),
        salts: point.salts.packed(),
    }
}

/// The last point of it that it knows to be published.
fn published_point(state: &MirrorState) -> Option<WalPoint> {
    let held = mirror_point(state);
    let position = Position { frame: FrameNo(state.published_frame?), ..held.position };
    Some(WalPoint { position, chain: Chain::from_packed(state.published_chain), salts: held.salts })
}
