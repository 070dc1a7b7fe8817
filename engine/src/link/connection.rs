//! A running connection: one task writes, one reads, the pair session holds both ends.
//!
//! Between the greeting (`hello.rs`) and the pair session. Everything has a limit: what waits to be
//! sent (the sender awaits room), what was received and not taken (the reader stops reading, TCP
//! stops the peer). Every outgoing frame carries this node's epoch at the moment of writing, every
//! incoming one is held against it. Which message goes next is `queue.rs`, when bulk may go is
//! `pacing.rs`; what a message means is the pair session's business.

use super::{
    compression::CompressionSetting,
    error::LinkError,
    hello::Greeted,
    queue::{Class, Outgoing, Queued},
    reader,
    stats::LinkStats,
    writer,
};
use lockstep_wire::{Epoch, Goodbye, Message};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch},
};

/// Control messages that wait: thousands of acknowledgements.
const CONTROL_ROOM_BYTES: u32 = 256 << 10;

/// WAL frames of one stream that wait: one batch being written and the next.
const FRAMES_ROOM_BYTES: u32 = 2 << 20;

/// Bulk of one stream that waits. Small, because the WAL frames behind it wait too.
const BULK_ROOM_BYTES: u32 = 512 << 10;

/// Files of one tree that wait: two messages, one being written and the next.
const FILES_ROOM_BYTES: u32 = 1 << 20;

/// Received and not yet taken: as much as the largest messages of two streams.
pub(crate) const RECEIVE_ROOM_BYTES: u32 = 4 << 20;

/// Pings under way at once: one per bulk frame of a full window, and then some.
pub(crate) const PINGS_MAX: usize = 1024;

const _: () = assert!(RECEIVE_ROOM_BYTES as usize >= 2 * lockstep_wire::MAX_BODY_BYTES);

/// This node's epoch, shared by everything that speaks or listens.
#[derive(Debug, Clone, Default)]
pub struct EpochCell(Arc<Mutex<Epoch>>);

impl EpochCell {
    /// A cell that holds `epoch`.
    pub fn new(epoch: Epoch) -> Self {
        Self(Arc::new(Mutex::new(epoch)))
    }

    /// The present epoch.
    pub fn load(&self) -> Epoch {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a higher epoch, which the caller has made durable. A lower one is ignored: an epoch only grows.
    pub fn raise(&self, epoch: Epoch) {
        let mut own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *own = epoch.max(*own);
    }
}

/// Times of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkTiming {
    /// A ping so often, besides the one behind each bulk frame.
    pub ping: Duration,
    /// A peer that sent nothing for so long is gone.
    pub silence: Duration,
    /// Limit of the TCP connect.
    pub connect: Duration,
    /// Limit of TLS handshake and greeting together.
    pub greeting: Duration,
    /// The LAN is tried when the direct link has not connected after this.
    pub direct_head_start: Duration,
    /// While on the LAN, the direct link is tried so often.
    pub direct_retry: Duration,
}

impl Default for LinkTiming {
    fn default() -> Self {
        Self {
            ping: Duration::from_millis(250),
            silence: Duration::from_secs(2),
            connect: Duration::from_secs(2),
            greeting: Duration::from_secs(2),
            direct_head_start: Duration::from_millis(200),
            direct_retry: Duration::from_secs(1),
        }
    }
}

/// A message as received.
#[derive(Debug)]
pub struct Received {
    /// 0: control; n: the n-th database.
    pub stream: u16,
    /// The sender's epoch.
    pub epoch: Epoch,
    /// The message.
    pub message: Message,
}

/// What both tasks and both ends share.
pub(crate) struct Shared {
    pub(crate) outgoing: Mutex<Outgoing>,
    /// Something was queued or has changed.
    pub(crate) work: Notify,
    pub(crate) ended: watch::Sender<Option<LinkError>>,
    /// Send all that is queued, then this.
    pub(crate) farewell: Mutex<Option<String>>,
    /// Pings that came back: nonce, and round trip in microseconds.
    pub(crate) answered: Mutex<Vec<(u64, u32)>>,
    pub(crate) epoch: EpochCell,
    /// The peer's epoch in its greeting, which the caller was told of.
    pub(crate) peer_epoch: Epoch,
    pub(crate) version: u16,
    pub(crate) started: Instant,
    pub(crate) timing: LinkTiming,
    pub(crate) stats: Arc<LinkStats>,
    room: Mutex<Room>,
}

struct Room {
    control: Arc<Semaphore>,
    streams: HashMap<u16, [Arc<Semaphore>; 3]>,
    closed: bool,
}

impl Shared {
    pub(crate) fn queue(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection; the first reason stands.
    pub(crate) fn end(&self, error: LinkError) {
        let first = self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(error);
            first
        });
        if first {
            let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
            room.closed = true;
            room.control.close();
            room.streams.values().flatten().for_each(|room| room.close());
            drop(room);
            self.queue().clear();
            self.work.notify_one();
        }
    }

    /// Why the connection ended, if it did.
    pub(crate) fn why_ended(&self) -> Option<LinkError> {
        self.ended.borrow().clone()
    }

    /// Waits for the end.
    pub(crate) async fn ended(&self) -> LinkError {
        let mut watch = self.ended.subscribe();
        let ended = watch.wait_for(Option::is_some).await;
        // The sender lives in `self`, so the wait cannot fail.
        ended.ok().and_then(|e| e.clone()).unwrap_or(LinkError::Cut)
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    fn room(&self, stream: u16, class: Class) -> (Arc<Semaphore>, u32) {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = room.closed;
        let new = |bytes: u32| {
            let semaphore = Semaphore::new(bytes as usize);
            if closed {
                semaphore.close();
            }
            Arc::new(semaphore)
        };
        let mut of_stream = || {
            let fresh = || [new(FRAMES_ROOM_BYTES), new(BULK_ROOM_BYTES), new(FILES_ROOM_BYTES)];
            room.streams.entry(stream).or_insert_with(fresh).clone()
        };
        match class {
            Class::Control => (room.control.clone(), CONTROL_ROOM_BYTES),
            Class::Frames => (of_stream()[0].clone(), FRAMES_ROOM_BYTES),
            Class::Bulk => (of_stream()[1].clone(), BULK_ROOM_BYTES),
            Class::Files => (of_stream()[2].clone(), FILES_ROOM_BYTES),
        }
    }

    fn push(&self, stream: u16, message: &Message, body: bytes::Bytes, room: Option<OwnedSemaphorePermit>) {
        let queued = Queued { stream, kind: message.kind(), class: Class::of(message), body, room };
        self.queue().push(queued);
        self.work.notify_one();
    }

    /// Queues an answer without waiting. When there is no room it is left out: a peer that asks faster
    /// than it reads gets no answer.
    pub(crate) fn answer(&self, message: &Message) {
        let body = message.encode();
        let (room, limit) = self.room(0, Class::Control);
        let bytes = (body.len() as u32).clamp(1, limit);
        if let Ok(permit) = room.try_acquire_many_owned(bytes) {
            self.push(0, message, body, Some(permit));
        }
    }
}

/// Sends messages on a connection. Clones share it.
#[derive(Clone)]
pub struct Sender {
    pub(crate) shared: Arc<Shared>,
}

impl Sender {
    /// Queues a message, waiting for room. Messages of one stream that one task sends keep their
    /// order, except that control messages overtake the others. Cancelled while waiting, nothing was sent.
    ///
    /// # Errors
    /// [`LinkError`]: why the connection ended. What was queued then may not have arrived.
    pub async fn send(&self, stream: u16, message: impl Into<Message>) -> Result<(), LinkError> {
        let message = message.into();
        let body = message.encode();
        let (room, limit) = self.shared.room(stream, Class::of(&message));
        let bytes = (body.len() as u32).clamp(1, limit);
        match room.acquire_many_owned(bytes).await {
            Ok(permit) => {
                self.shared.push(stream, &message, body, Some(permit));
                Ok(())
            }
            Err(_) => Err(self.shared.ended().await),
        }
    }

    /// Ends the connection at once and tells the peer why, in one sentence with the remedy.
    /// `code` is one of the words of [`lockstep_wire::Refusal`].
    pub fn refuse(&self, code: &str, sentence: impl Into<String>) {
        self.shared.end(LinkError::refused(code, sentence.into()));
    }

    /// Sends what is queued, then says goodbye, and waits until that is done or the connection ended.
    pub async fn close(&self, reason: impl Into<String>) {
        *self.shared.farewell.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.into());
        self.shared.work.notify_one();
        self.shared.ended().await;
    }

    /// Waits for the end of the connection and says why it ended.
    pub async fn ended(&self) -> LinkError {
        self.shared.ended().await
    }

    /// True while the connection lives.
    pub fn is_open(&self) -> bool {
        self.shared.why_ended().is_none()
    }
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").field("open", &self.is_open()).finish()
    }
}

/// Receives the messages of a connection. Dropping it ends the connection.
pub struct Receiver {
    messages: mpsc::UnboundedReceiver<(Received, OwnedSemaphorePermit)>,
    shared: Arc<Shared>,
}

impl Receiver {
    /// The next message. Pings, goodbyes and refusals are dealt with inside. Cancellation safe.
    ///
    /// # Errors
    /// [`LinkError`] after the last message: why the connection ended. [`LinkError::HigherEpoch`] asks the
    /// caller to follow or to demote before it takes the next connection.
    pub async fn next(&mut self) -> Result<Received, LinkError> {
        match self.messages.recv().await {
            Some((received, _room)) => Ok(received),
            None => Err(self.shared.ended().await),
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.end(LinkError::Goodbye("this node let the connection go".to_owned()));
    }
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

/// What a connection needs besides its stream.
pub(crate) struct Setup {
    pub(crate) epoch: EpochCell,
    pub(crate) timing: LinkTiming,
    pub(crate) stats: Arc<LinkStats>,
    pub(crate) compression: CompressionSetting,
    pub(crate) bulk_cap_bytes_per_s: Option<u64>,
}

/// Starts the two tasks of a greeted connection on the current runtime.
pub(crate) fn start<S>(stream: S, greeted: Greeted, setup: Setup) -> (Sender, Receiver)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let shared = Arc::new(Shared {
        outgoing: Mutex::default(),
        work: Notify::new(),
        ended: watch::Sender::new(None),
        farewell: Mutex::default(),
        answered: Mutex::default(),
        epoch: setup.epoch,
        peer_epoch: greeted.epoch,
        version: greeted.version,
        started: Instant::now(),
        timing: setup.timing,
        stats: setup.stats,
        room: Mutex::new(Room {
            control: Arc::new(Semaphore::new(CONTROL_ROOM_BYTES as usize)),
            streams: HashMap::new(),
            closed: false,
        }),
    });
    let (read_half, write_half) = tokio::io::split(stream);
    // Unbounded in count, bounded in bytes by the permits that travel with the messages.
    let (deliver, messages) = mpsc::unbounded_channel();
    tokio::spawn(reader::run(shared.clone(), read_half, greeted.deframer, deliver));
    let writer = writer::Writer::new(shared.clone(), setup.compression, setup.bulk_cap_bytes_per_s);
    tokio::spawn(writer.run(write_half));
    (Sender { shared: shared.clone() }, Receiver { messages, shared })
}

/// The last message of a connection that ended for `error`, if the peer should get one.
pub(crate) fn last_words(error: &LinkError) -> Option<Message> {
    match error {
        LinkError::Goodbye(reason) => Some(Goodbye { reason: reason.clone() }.into()),
        other => other.refusal().map(Message::from),
    }
}
