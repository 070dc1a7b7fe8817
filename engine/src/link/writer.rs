//! The writing task of a connection: picks what goes next, stamps, packs and writes it.
//!
//! Pings on its own, because only here the moment of sending is known. A frame that has begun is
//! always finished, so the longest wait of an acknowledgement is one frame and what is on its way.

use super::{
    compression::{CompressionSetting, Packer},
    connection::{PINGS_MAX, Shared, last_words},
    error::LinkError,
    pacing::{Pacer, RateMeter},
    queue::{Class, Pick, Queued},
};
use bytes::{Bytes, BytesMut};
use lockstep_wire::{Frame, FrameHeader, Goodbye, Message, Ping};
use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// How long the end of a connection may wait for the frame being written and the last words.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// The link may be the bottleneck when this much waits: more than a commit of a few pages.
const BACKLOG_BYTES: u64 = 64 << 10;

/// The greeting was frame 0 of each direction.
const FIRST_SEQUENCE: u64 = 1;

pub(crate) struct Writer {
    shared: Arc<Shared>,
    pacer: Pacer,
    meter: RateMeter,
    packer: Packer,
    sequence: u64,
    written_bytes: u64,
    next_ping_us: u64,
    /// Pings under way: nonce, and the bytes written before it.
    pings: VecDeque<(u64, u64)>,
    confirmed_bytes: u64,
    buffer: BytesMut,
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        compression: CompressionSetting,
        cap_bytes_per_s: Option<u64>,
    ) -> Self {
        Self {
            shared,
            pacer: Pacer::new(cap_bytes_per_s),
            meter: RateMeter::default(),
            packer: Packer::new(compression),
            sequence: FIRST_SEQUENCE,
            written_bytes: 0,
            next_ping_us: 0,
            pings: VecDeque::new(),
            confirmed_bytes: 0,
            buffer: BytesMut::new(),
        }
    }

    /// Runs until the connection ends; says why in the shared state, and to the peer.
    pub(crate) async fn run<W: AsyncWrite + Unpin>(mut self, mut stream: W) {
        let result = loop {
            if let Some(error) = self.shared.why_ended() {
                break self.part(&mut stream, &error).await;
            }
            if let Err(error) = self.step(&mut stream).await {
                break Err(error);
            }
        };
        if let Err(error) = result {
            self.shared.end(error);
        }
    }

    /// Writes one frame, or waits for something to do.
    async fn step<W: AsyncWrite + Unpin>(&mut self, stream: &mut W) -> Result<(), LinkError> {
        let now_us = self.shared.now_us();
        let unconfirmed_bytes = self.measure(now_us);
        if now_us >= self.next_ping_us {
            return self.ping(stream, now_us).await;
        }
        let (pick, wait_us) = {
            let mut queue = self.shared.queue();
            let wait_us =
                if queue.has_bulk_head() { self.pacer.bulk_wait_us(now_us, unconfirmed_bytes) } else { 0 };
            (queue.pick(wait_us == 0), wait_us)
        };
        match pick {
            Pick::Frame(queued) => {
                if matches!(queued.class, Class::Bulk | Class::Files) {
                    self.pacer.on_bulk(now_us, queued.body.len() as u64);
                    self.next_ping_us = now_us;
                }
                self.write(stream, queued).await
            }
            Pick::BulkWaits => {
                self.wait(wait_us.max(1)).await;
                Ok(())
            }
            Pick::Empty => {
                let farewell = self.shared.farewell.lock().unwrap_or_else(PoisonError::into_inner).take();
                match farewell {
                    Some(reason) => Err(self.say_goodbye(stream, reason).await?),
                    None => {
                        self.wait(u64::MAX).await;
                        Ok(())
                    }
                }
            }
        }
    }

    /// Sends a ping; its answer confirms everything written before it.
    async fn ping<W: AsyncWrite + Unpin>(&mut self, stream: &mut W, now_us: u64) -> Result<(), LinkError> {
        self.next_ping_us = now_us + self.shared.timing.ping.as_micros() as u64;
        if self.pings.len() == PINGS_MAX {
            self.pings.pop_front();
        }
        self.pings.push_back((now_us, self.written_bytes));
        let message = Message::Ping(Ping { nonce: now_us, answer: false });
        self.write(stream, message_frame(&message)).await
    }

    /// Feeds pacing and rate with what the pings say; gives the bytes not yet confirmed.
    fn measure(&mut self, now_us: u64) -> u64 {
        let answered =
            std::mem::take(&mut *self.shared.answered.lock().unwrap_or_else(PoisonError::into_inner));
        for (nonce, round_trip_us) in answered {
            // An answer to nothing we asked is ignored.
            if let Some(at) = self.pings.iter().position(|(sent, _)| *sent == nonce) {
                self.confirmed_bytes = self.pings[at].1;
                self.pings.drain(..=at);
                self.pacer.on_round_trip(nonce + u64::from(round_trip_us), round_trip_us);
            }
        }
        let unconfirmed_bytes = self.written_bytes - self.confirmed_bytes;
        // What small commits leave unconfirmed between two pings says how many there are, not how fast the link is.
        let backlog = self.shared.queue().waiting_bytes() >= BACKLOG_BYTES;
        self.meter.observe(now_us, self.written_bytes, if backlog { unconfirmed_bytes } else { 0 });
        unconfirmed_bytes
    }

    /// Waits for work, for the next ping, or for `at_most_us`.
    async fn wait(&self, at_most_us: u64) {
        let until_ping_us = self.next_ping_us.saturating_sub(self.shared.now_us());
        let wait = Duration::from_micros(until_ping_us.min(at_most_us));
        // A time-out is one of the events waited for.
        let _ = tokio::time::timeout(wait, self.shared.work.notified()).await;
    }

    async fn write<W: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut W,
        queued: Queued,
    ) -> Result<(), LinkError> {
        let header = FrameHeader {
            version: self.shared.version,
            kind: queued.kind,
            stream: queued.stream,
            sequence: self.sequence,
            epoch: self.shared.epoch.load(),
        };
        self.sequence += 1;
        let link_bytes_per_s = self.meter.bytes_per_s();
        let packed = match queued.class {
            Class::Control => None,
            Class::Frames | Class::Bulk | Class::Files => self.packer.pack(&queued.body, link_bytes_per_s),
        };
        self.buffer.clear();
        let plain_bytes = lockstep_wire::HEADER_BYTES + queued.body.len();
        let Queued { body, room, .. } = queued;
        Frame { header, body }.encode(packed, &mut self.buffer);
        self.shared.stats.sent(self.buffer.len(), plain_bytes);
        self.shared.stats.flow(self.packer.reason(), self.pacer.window_bytes(), link_bytes_per_s);
        self.written_bytes += self.buffer.len() as u64;
        let shared = self.shared.clone();
        let writing = async {
            stream.write_all(&self.buffer).await?;
            stream.flush().await
        };
        tokio::pin!(writing);
        let result = tokio::select! {
            result = &mut writing => result,
            error = shared.ended() => match tokio::time::timeout(LAST_WORDS, writing).await {
                Ok(result) => result,
                Err(_) => return Err(error),
            },
        };
        // Room for the next message only now: what the kernel has not taken still costs memory.
        drop(room);
        Ok(result?)
    }

    async fn say_goodbye<W: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut W,
        reason: String,
    ) -> Result<LinkError, LinkError> {
        let message = Goodbye { reason: reason.clone() }.into();
        self.write(stream, message_frame(&message)).await?;
        stream.shutdown().await?;
        Ok(LinkError::Goodbye(reason))
    }

    /// Tells the peer why the connection ends, where it can do something about it.
    async fn part<W: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut W,
        error: &LinkError,
    ) -> Result<(), LinkError> {
        let parting = async {
            if let Some(message) = last_words(error) {
                self.write(stream, message_frame(&message)).await?;
            }
            Ok(stream.shutdown().await?)
        };
        tokio::time::timeout(LAST_WORDS, parting).await.unwrap_or(Ok(()))
    }
}

fn message_frame(message: &Message) -> Queued {
    let body: Bytes = message.encode();
    Queued { stream: 0, kind: message.kind(), class: Class::Control, body, room: None }
}
