//! Active: ships one database to the attached standby, from attach to the end of the connection.
//!
//! `capture -> here -> link`. One task per database and connection: it turns capture's ordered
//! events into messages, and drives a copy or resync by asking capture for pages between them, so
//! that pages and frames share one order. It tells the data thread's main loop only what that has
//! to know ([`ShipNote`]); acknowledgements go there directly.

use super::connection::StreamSender;
use super::scrub::{Scrub, Todo, Word};
use super::status::CopyProgress;
use crate::capture::{Attached, Capture, CaptureCommand, CaptureEvent};
use crate::wal::WalPoint;
use lockstep_wire::{
    Chain, CopyBegin, CopyEnd, FileAttributes, FrameNo, Generation, HashRequest, MirrorState, PageChunk,
    PageHashes, Position, Rewind, Salts, WalBatch, WalGeneration,
};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;
use tokio::sync::{Notify, mpsc, oneshot};

/// Pages asked for at a time: 256 KiB of 4 KiB pages, small enough that frames slip in between.
const PAGES_PER_READ: u32 = 64;

/// Pages hashed at a time: 128 KiB of hashes on the wire, 64 MiB of 4 KiB pages read on each side.
const PAGES_PER_HASH: u32 = 16_384;

/// What the main loop has to know of a database being shipped.
#[derive(Debug, Clone)]
pub(super) enum ShipNote {
    /// Attached: positions are of the standby's numbering from now on.
    Attached {
        /// What the standby holds durably; None: a copy comes first.
        held: Option<Position>,
        /// It is a mirror already; false: it becomes one with its first acknowledgement.
        complete: bool,
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
        /// Salts of their WAL.
        salts: Salts,
        /// Commit frames among them, with the running checksum after each.
        commits: Vec<(FrameNo, Chain)>,
    },
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
    pub(super) note: &'a dyn Fn(ShipNote),
    /// What is compared with the standby's disk, and when.
    pub(super) scrub: Rc<RefCell<Scrub>>,
    /// Something new in it.
    pub(super) wake: Rc<Notify>,
    /// Compare the whole database first: the standby's disk is in doubt.
    pub(super) resync: bool,
}

/// Why a shipment ended.
enum End {
    ConnectionClosed,
    CaptureClosed,
}

struct Copying {
    progress: CopyProgress,
    /// Next page to ask for, from 1.
    next: u32,
    /// Pages of a range are on their way from capture.
    in_flight: bool,
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
        let mut from =
            (!self.resync && (standby.complete || standby.diverged)).then(|| mirror_point(&standby));
        if let Some(from) = from.as_mut().filter(|_| standby.diverged) {
            // A node that served until now counted by itself; from here on our count is the pair's.
            from.position.generation = self.capture.status().position.generation;
        }
        let (reply, attached) = oneshot::channel();
        self.tell(CaptureCommand::Attach { from, reply })?;
        let attached = attached.await.map_err(|_| End::CaptureClosed)?;
        let mut copying = match attached {
            Attached::Resumed => {
                let held = from.map(|from| from.position);
                (self.note)(ShipNote::Attached { held, complete: !standby.diverged });
                if let Some(from) = from.filter(|_| standby.diverged) {
                    // Its last commit is ours: "keep everything through it" makes it a mirror again.
                    let (generation, frame) = (from.position.generation.0, from.position.frame.0);
                    self.send(Rewind { generation, frame, chain: from.chain.packed() }).await?;
                }
                let target = self.sync().await?;
                (self.note)(ShipNote::Target(target));
                None
            }
            Attached::FromStart { page_size, page_count, ahead } => {
                (self.note)(ShipNote::Attached { held: None, complete: false });
                if ahead && !standby.diverged {
                    (self.note)(ShipNote::Ahead);
                }
                let resync = standby.has_pages && standby.page_size == page_size;
                let attributes = self.attributes.take();
                let verify = self.resync;
                let begin = CopyBegin { resync, page_size, page_count, keep: ahead, attributes, verify };
                Some(self.begin_copy(begin).await?)
            }
        };
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

    async fn begin_copy(&mut self, begin: CopyBegin) -> Result<Copying, End> {
        let CopyBegin { resync, page_size, page_count, .. } = begin;
        self.send(begin).await?;
        let progress = CopyProgress {
            resync,
            page_size,
            pages_done: 0,
            pages_total: page_count,
            bytes_sent: 0,
            started: Instant::now(),
        };
        (self.note)(ShipNote::Copy(progress));
        Ok(Copying { progress, next: 1, in_flight: false })
    }

    /// Asks for the next range, or for the end of the copy when there is none.
    async fn ask(&mut self, copying: &mut Copying) -> Result<(), End> {
        copying.in_flight = false;
        copying.progress.pages_done = copying.next - 1;
        (self.note)(ShipNote::Copy(copying.progress));
        let left = (copying.progress.pages_total + 1).saturating_sub(copying.next);
        if left == 0 {
            self.tell(CaptureCommand::EndOfCopy)?;
        } else if copying.progress.resync {
            let page_count = left.min(PAGES_PER_HASH);
            let first_page = copying.next;
            self.send(HashRequest { first_page, page_count, ..HashRequest::default() }).await?;
        } else {
            let page_count = left.min(PAGES_PER_READ);
            self.tell(CaptureCommand::ReadPages { first_page: copying.next, page_count })?;
            copying.next += page_count;
            copying.in_flight = true;
        }
        Ok(())
    }

    /// The standby's hashes of a range are here: let capture send what differs.
    fn compare(&self, copying: &mut Copying, hashes: &PageHashes) -> Result<(), End> {
        let left = (copying.progress.pages_total + 1).saturating_sub(copying.next);
        if hashes.first_page != copying.next || copying.in_flight || left == 0 {
            return Ok(()); // an answer to nothing we asked
        }
        let page_count = left.min(PAGES_PER_HASH);
        let values = hashes.hashes.chunks_exact(8).take(page_count as usize);
        let hashes =
            values.map(|h| u64::from_le_bytes(h.try_into().expect("chunks of eight bytes"))).collect();
        let first_page = copying.next;
        self.tell(CaptureCommand::DifferingPages { first_page, page_count, hashes })?;
        copying.next += page_count;
        copying.in_flight = true;
        Ok(())
    }

    /// Does what the scrub has to do now; answers when it has to do something again.
    async fn scrub_on(&mut self) -> Result<Instant, End> {
        loop {
            let todo = self.scrub.borrow_mut().todo(Instant::now());
            match todo {
                Todo::Rest(due) => return Ok(due),
                todo => self.perform(Some(todo)).await?,
            }
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
                self.send(WalBatch {
                    generation: generation.0,
                    first_frame: first.0,
                    chain_before: chain_before.packed(),
                    chain_after: chain_after.packed(),
                    published_frame: published.0,
                    data,
                })
                .await?;
                let position = Position { generation, frame: last };
                (self.note)(ShipNote::Sent { position, salts, commits });
            }
            CaptureEvent::Pages { first_page, data } => {
                if let Some(copying) = copying {
                    copying.progress.bytes_sent += data.len() as u64;
                    copying.progress.pages_done =
                        first_page - 1 + (data.len() / copying.progress.page_size.max(1) as usize) as u32;
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
                self.send(CopyEnd { generation: position.generation.0, frame: position.frame.0, page_count })
                    .await?;
                (self.note)(ShipNote::CopySent(position));
                return Ok(true);
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
