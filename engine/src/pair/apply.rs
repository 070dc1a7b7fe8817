//! Standby: one database's task: applies messages in order and acknowledges what is durable.
//!
//! While one flush is in flight the next frames are appended, so that all commits that arrive
//! meanwhile share the next flush. Messages that change more than the WAL's end wait for the flush.

use super::connection::{Credit, StreamSender};
use super::copying::encode_runs;
use super::folding::Folding;
use super::hashing::Hashing;
use super::sharing::Due;
use super::standby::StandbyNote;
use super::status::CopyProgress;
use super::thread::{Input, Inputs};
use crate::copy::quarantine::{KeepReason, Quarantine, QuarantineError, Why};
use crate::mirror::{FORK_PAGES_MAX, FlushTicket, Flushed, Mirror, MirrorError, SnapshotStop};
use crate::wal::WalPoint;
use bytes::Bytes;
use lockstep_wire::{
    Ack, Chain, CopyBegin, DatabaseName, Epoch, FileAttributes, ForkPages, ForkPoint, ForkQuery, FrameNo,
    HashRequest, Message, MirrorState, PageChunk, PageHashes, Position, Refusal, Rewind, Rewound, Salts,
    WalGeneration,
};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};

/// The code of a refusal after which the mirror must be opened anew.
const DISK: &str = "disk";

/// What a task is given.
pub(super) enum Work {
    /// A message of the active, with its share of the memory the connection may use.
    Message(Message, Credit),
    /// A wish for a snapshot.
    Snapshot(PathBuf, oneshot::Sender<Result<(), String>>),
}

/// A task's tools besides its mirror.
pub(super) struct Applier {
    pub(super) index: usize,
    pub(super) name: DatabaseName,
    pub(super) sender: StreamSender,
    pub(super) inputs: Inputs,
    pub(super) acknowledge_received: bool,
    pub(super) quarantine: Quarantine,
    /// Ends the snapshots that this task begins.
    pub(super) stop: SnapshotStop,
    /// The epoch under which diverged data is replaced: names its quarantine.
    pub(super) epoch: Epoch,
    /// Who may use the database's file on the active, as far as it said at the beginning.
    pub(super) attributes: Option<FileAttributes>,
}

/// Why a database cannot go on with this connection.
#[derive(Debug, thiserror::Error)]
enum ApplyError {
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    #[error(transparent)]
    Quarantine(#[from] QuarantineError),
    #[error("a standby takes no {0} message: run the same software version on both nodes")]
    Unexpected(&'static str),
}

type Flush = Pin<Box<dyn Future<Output = Result<Flushed, MirrorError>>>>;

/// The flush in flight, if any. Never dropped half-way.
#[derive(Default)]
struct InFlight(Option<Flush>);

impl Applier {
    /// Says what the mirror holds, once that is at a commit's end, and runs.
    pub(super) async fn begin(
        self,
        mut mirror: Box<Mirror>,
        stream: u32,
        held: oneshot::Sender<MirrorState>,
        work: mpsc::UnboundedReceiver<Work>,
    ) -> Option<Box<Mirror>> {
        let settled = match mirror.settle().await {
            Ok(()) => mirror.state(stream).await,
            Err(error) => Err(error),
        };
        match settled {
            Ok(state) => {
                let _ = held.send(state);
                self.run(mirror, work).await
            }
            Err(error) => self.give_up(mirror, &error.into()).await,
        }
    }

    /// Runs until the queue is closed or the mirror refuses; then nothing is in flight any more. Gives the
    /// mirror back, unless its disk failed: then it is closed, because what memory and disk hold may differ.
    async fn run(
        self,
        mut mirror: Box<Mirror>,
        mut work: mpsc::UnboundedReceiver<Work>,
    ) -> Option<Box<Mirror>> {
        let mut flush = InFlight::default();
        let (mut hashing, mut folding) = (Hashing::new(), Folding::default());
        let mut copy = None;
        let mut failed = self.set_attributes(&mut mirror, None).await.err();
        if failed.is_none() {
            let beside = (&mut flush, &mut hashing, &mut folding);
            failed = self.serve(&mut mirror, &mut work, beside, &mut copy).await.err();
        }
        hashing.finish(&mut mirror).await;
        if let Err(error) = folding.finish(&mut mirror).await {
            failed = Some(error.into());
        }
        if let Some(flush) = flush.0.take() {
            // That nobody hears of its frames any more is no failure.
            let finished = match flush.await {
                Ok(flushed) => mirror.finish_flush(flushed).await.map(drop),
                Err(error) => Err(error),
            };
            if let Err(error) = finished {
                failed = Some(error.into());
            }
        }
        match failed {
            None => Some(mirror),
            Some(error) => self.give_up(mirror, &error).await,
        }
    }

    /// Says why, and gives the mirror back unless its disk failed.
    async fn give_up(&self, mirror: Box<Mirror>, error: &ApplyError) -> Option<Box<Mirror>> {
        let refusal = self.refusal(error);
        let disk = refusal.code == DISK;
        self.note(StandbyNote::Failed(refusal));
        if !disk {
            return Some(mirror);
        }
        if let Err(error) = mirror.close_after_failed_flush().await {
            self.inputs.notice(true, format!("database {}: {error}", self.name));
        }
        None
    }

    /// The mirror cannot be opened now.
    pub(super) fn cannot_open(&self, error: &MirrorError) {
        let sentence = format!("database {}: {error}", self.name);
        self.note(StandbyNote::Failed(Refusal { code: error.code().to_owned(), sentence }));
    }

    async fn serve(
        &self,
        mirror: &mut Mirror,
        work: &mut mpsc::UnboundedReceiver<Work>,
        (flush, hashing, folding): (&mut InFlight, &mut Hashing, &mut Folding),
        copy: &mut Option<CopyProgress>,
    ) -> Result<(), ApplyError> {
        let mut due = Due::default();
        loop {
            let put_off = due.put_off(Instant::now()).filter(|_| flush.0.is_none());
            tokio::select! {
                biased;
                flushed = async { flush.0.as_mut().expect("guarded").await }, if flush.0.is_some() => {
                    flush.0 = None;
                    mirror.finish_flush(flushed?).await?;
                    self.acknowledge(mirror).await;
                }
                folded = folding.turn() => {
                    mirror.finish_fold(&folded?);
                }
                next = work.recv() => match next {
                    Some(Work::Message(message, credit)) => {
                        due.received(gather_ms(&message), Instant::now());
                        self.apply(mirror, message, (&mut *flush, &mut *hashing), copy).await?;
                        drop(credit);
                    }
                    Some(Work::Snapshot(path, reply)) => start_snapshot(mirror, &path, reply, &self.stop),
                    None => return Ok(()),
                },
                () = tokio::time::sleep_until(put_off.unwrap_or_else(Instant::now).into()), if put_off.is_some() => {}
                turn = hashing.turn() => {
                    if hashing.go_on(mirror, turn).await? {
                        self.acknowledge(mirror).await;
                    }
                }
            }
            folding.begin(mirror);
            if let Some(trouble) = mirror.page_hash_trouble() {
                self.inputs.notice(true, format!("database {}: {trouble}", self.name));
            }
            if flush.0.is_some() || due.put_off(Instant::now()).is_some() {
                continue;
            }
            due = Due::default();
            if let Some(ticket) = mirror.start_flush().await? {
                if self.acknowledge_received {
                    self.acknowledge(mirror).await;
                }
                flush.0 = Some(Box::pin(FlushTicket::run(ticket)));
            } else if work.is_empty() {
                mirror.zero_ahead().await?;
            }
        }
    }

    async fn apply(
        &self,
        mirror: &mut Mirror,
        message: Message,
        (flush, hashing): (&mut InFlight, &mut Hashing),
        copy: &mut Option<CopyProgress>,
    ) -> Result<(), ApplyError> {
        if let Message::HashRequest(request) = &message
            && request.at_position
        {
            return self.hash_at(mirror, request, hashing).await;
        }
        if !matches!(message, Message::WalBatch(_) | Message::PageChunk(_))
            && let Some(running) = flush.0.take()
        {
            mirror.finish_flush(running.await?).await?;
            self.acknowledge(mirror).await;
        }
        match message {
            Message::WalBatch(batch) => mirror.append(batch).await?,
            Message::Generation(generation) => {
                mirror.begin_generation(generation).await?;
                self.acknowledge(mirror).await;
            }
            Message::PageChunk(chunk) if chunk.repair => self.repair(mirror, chunk).await?,
            Message::PageChunk(chunk) => self.write_pages(mirror, copy, chunk.first_page, chunk.data).await?,
            Message::CopyBegin(begin) => {
                self.begin_copy(mirror, &begin).await?;
                *copy = Some(CopyProgress {
                    resync: begin.resync,
                    rewind: begin.rewind,
                    page_size: begin.page_size,
                    pages_done: 0,
                    pages_total: begin.page_count,
                    bytes_sent: 0,
                    hash_bytes: 0,
                    started: Instant::now(),
                });
                self.note(StandbyNote::Copy(*copy));
            }
            Message::ForkQuery(query) => self.tell_fork(mirror, &query).await?,
            Message::HashRequest(request) => {
                let hashes = mirror.hash_pages(request.first_page, request.page_count).await?;
                if let Some(copy) = copy {
                    copy.hash_bytes += hashes.len() as u64 * 8;
                    let done = (request.first_page - 1).saturating_add(request.page_count);
                    copy.pages_done = done.min(copy.pages_total);
                    self.note(StandbyNote::Copy(Some(*copy)));
                }
                let hashes: Bytes = hashes.into_iter().flat_map(u64::to_le_bytes).collect();
                let first_page = request.first_page;
                self.send(PageHashes { first_page, hashes, ..PageHashes::default() }.into()).await;
            }
            Message::CopyEnd(end) => {
                mirror.end_copy(end.generation, end.frame, end.page_count).await?;
                *copy = None;
                self.note(StandbyNote::Copy(None));
                self.acknowledge(mirror).await;
            }
            Message::Rewind(rewind) => {
                self.rewind(mirror, rewind.clone()).await?;
                self.send(Rewound { generation: rewind.generation, frame: rewind.frame }.into()).await;
            }
            other => return Err(ApplyError::Unexpected(other.name())),
        }
        self.at(mirror);
        Ok(())
    }

    /// Takes frames back. To a database that this node wrote itself and that already ends there, it
    /// says that the active holds all of it: it continues as a mirror.
    async fn rewind(&self, mirror: &mut Mirror, rewind: Rewind) -> Result<(), ApplyError> {
        if mirror.is_diverged() {
            let position =
                Position { generation: WalGeneration(rewind.generation), frame: FrameNo(rewind.frame) };
            let chain = Chain::from_packed(rewind.chain);
            mirror.adopt(WalPoint { position, chain, salts: mirror.point().salts }).await?;
            self.set_attributes(mirror, None).await?;
            self.acknowledge(mirror).await;
            return Ok(());
        }
        Ok(mirror.rewind(rewind).await?)
    }

    /// Answers what the disk holds of some pages at a position, beside whatever goes on.
    async fn hash_at(
        &self,
        mirror: &mut Mirror,
        request: &HashRequest,
        hashing: &mut Hashing,
    ) -> Result<(), ApplyError> {
        if request.rebuild {
            mirror.rebuild_hashes();
        }
        let at = Position { generation: WalGeneration(request.generation), frame: FrameNo(request.frame) };
        let answer = PageHashes {
            first_page: request.first_page,
            at_position: true,
            generation: request.generation,
            frame: request.frame,
            ..PageHashes::default()
        };
        let Some(ticket) = mirror.start_hashing(at, request.first_page, request.page_count).await? else {
            self.send(PageHashes { passed: true, ..answer }.into()).await;
            return Ok(());
        };
        hashing.answer(ticket, answer, self.sender.clone(), (self.inputs.clone(), self.name.clone()));
        Ok(())
    }

    /// Puts pages right that this disk holds wrongly.
    async fn repair(&self, mirror: &mut Mirror, chunk: PageChunk) -> Result<(), ApplyError> {
        let at = Position { generation: WalGeneration(chunk.generation), frame: FrameNo(chunk.frame) };
        let first_page = chunk.first_page;
        if mirror.repair(at, first_page, chunk.data).await? > 0 {
            let sentence = format!(
                "database {}: this node's disk held page {first_page} wrongly; it was written anew. Check this disk and this node's memory",
                self.name
            );
            self.inputs.notice(true, sentence);
        }
        Ok(())
    }

    async fn write_pages(
        &self,
        mirror: &mut Mirror,
        copy: &mut Option<CopyProgress>,
        first_page: u32,
        data: Bytes,
    ) -> Result<(), ApplyError> {
        let bytes = data.len() as u64;
        mirror.write_pages(first_page, data).await?;
        if let Some(copy) = copy {
            copy.bytes_sent += bytes;
            copy.pages_done = copy.pages_done.max(first_page);
            self.note(StandbyNote::Copy(Some(*copy)));
        }
        Ok(())
    }

    /// What this node wrote itself is kept before the first byte of it changes.
    async fn begin_copy(&self, mirror: &mut Mirror, begin: &CopyBegin) -> Result<(), ApplyError> {
        if mirror.is_diverged() || begin.keep {
            let why = if mirror.is_diverged() { Why::Diverged } else { Why::ActiveLostCommits };
            let fork = begin.fork.as_ref().map(fork_point);
            let reason = KeepReason { epoch: self.epoch, database: self.name.clone(), why, fork };
            let kept = mirror.quarantine(&self.quarantine, reason).await?;
            self.note(StandbyNote::Quarantined(kept.directory));
        }
        if begin.verify {
            // The disk is in doubt: nothing remembered shall answer for it.
            mirror.rebuild_hashes();
        }
        self.set_attributes(mirror, begin.attributes.as_ref()).await?;
        if begin.rewind {
            return Ok(mirror.begin_rewind(&begin.fork.as_ref().map(fork_point).unwrap_or_default()).await?);
        }
        Ok(mirror.begin_copy(begin.resync, begin.page_size, begin.page_count).await?)
    }

    /// Before any data of the active becomes visible. What was told later counts more; diverged files stay as
    /// they are until a copy begins or they are adopted.
    async fn set_attributes(
        &self,
        mirror: &mut Mirror,
        later: Option<&FileAttributes>,
    ) -> Result<(), ApplyError> {
        let early = self.attributes.as_ref().filter(|_| !mirror.is_diverged());
        if let Some(wanted) = later.or(early) {
            self.note(StandbyNote::LacksAttributes(mirror.set_attributes(wanted).await?));
        }
        Ok(())
    }

    /// Which pages this node's own commits after the fork touched.
    async fn tell_fork(&self, mirror: &Mirror, query: &ForkQuery) -> Result<(), ApplyError> {
        let runs = match query.fork.as_ref().map(fork_point) {
            Some(fork) => mirror.pages_after_fork(&fork, FORK_PAGES_MAX).await?,
            None => None,
        };
        let answer = ForkPages { held: runs.is_some(), runs: encode_runs(&runs.unwrap_or_default()) };
        self.send(answer.into()).await;
        Ok(())
    }

    async fn acknowledge(&self, mirror: &Mirror) {
        let (received, durable) = (mirror.received(), mirror.point().position);
        let content = mirror.content().filter(|(at, _)| at.position.generation == durable.generation);
        let content_frame = content.map_or(0, |(at, _)| at.position.frame.0);
        let content = content.map(|(_, sum)| sum);
        let ack = Ack {
            generation: durable.generation.0,
            received_frame: received.frame.0,
            durable_frame: durable.frame.0,
            complete: mirror.is_complete(),
            content_frame,
            content,
        };
        self.sender.acknowledge(ack).await;
        self.at(mirror);
    }

    fn at(&self, mirror: &Mirror) {
        self.note(StandbyNote::At {
            received: mirror.received(),
            durable: mirror.point().position,
            complete: mirror.is_complete(),
        });
    }

    async fn send(&self, message: Message) {
        // A closed connection ends this task through its queue.
        let _ = self.sender.send(message).await;
    }

    fn note(&self, note: StandbyNote) {
        self.inputs.send(Input::Standby { index: self.index, note });
    }

    fn refusal(&self, error: &ApplyError) -> Refusal {
        let code = match error {
            ApplyError::Mirror(error) => error.code(),
            ApplyError::Quarantine(_) => DISK,
            ApplyError::Unexpected(_) => "protocol",
        };
        Refusal { code: code.to_owned(), sentence: format!("database {}: {error}", self.name) }
    }
}

/// How long a flush of it may be put off; only commits nobody waits for can be.
fn gather_ms(message: &Message) -> u32 {
    if let Message::WalBatch(batch) = message { batch.gather_ms } else { 0 }
}

fn fork_point(fork: &ForkPoint) -> WalPoint {
    WalPoint {
        position: Position { generation: WalGeneration(fork.generation), frame: FrameNo(fork.frame) },
        chain: Chain::from_packed(fork.chain),
        salts: Salts::from_packed(fork.salts),
    }
}

/// Writes a snapshot beside whatever goes on.
pub(super) fn start_snapshot(
    mirror: &Mirror,
    path: &Path,
    reply: oneshot::Sender<Result<(), String>>,
    stop: &SnapshotStop,
) {
    match mirror.start_snapshot(path) {
        Ok(ticket) => {
            let stop = stop.clone();
            tokio::task::spawn_local(async move {
                let done = ticket.run(&stop).await;
                let _ = reply.send(done.map(|_| ()).map_err(|error| error.to_string()));
            });
        }
        Err(error) => drop(reply.send(Err(error.to_string()))),
    }
}
