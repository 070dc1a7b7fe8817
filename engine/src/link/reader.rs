//! The reading task of a connection: bytes to frames to messages, each held against the epoch.
//!
//! Answers pings itself, so that the round trip does not depend on the pair session. Delivers the
//! rest in order, within a budget of bytes; when that is used up it stops reading.

use super::{
    connection::{PINGS_MAX, RECEIVE_ROOM_BYTES, Received, Shared},
    error::LinkError,
};
use lockstep_wire::{Deframer, Epoch, Frame, Message, Ping};
use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

/// Bytes asked for in one read.
const READ_BYTES: usize = 128 << 10;

/// With less room than this the buffer grows before the next read; growing may copy a half-read frame.
const READ_MIN_BYTES: usize = 16 << 10;

/// After the end, the peer may take so long to hang up: closing while it still sends would make the
/// kernel reset the connection and destroy our last words on their way.
const LINGER: Duration = Duration::from_millis(500);

/// Runs until the connection ends; says why in `shared`.
pub(crate) async fn run<R: AsyncRead + Unpin>(
    shared: Arc<Shared>,
    mut stream: R,
    deframer: Deframer,
    deliver: mpsc::UnboundedSender<(Received, OwnedSemaphorePermit)>,
) {
    let mut reader = Reader {
        shared: &shared,
        deframer,
        deliver,
        room: Arc::new(Semaphore::new(RECEIVE_ROOM_BYTES as usize)),
    };
    let result = tokio::select! {
        biased;
        _ = shared.ended() => Ok(()),
        result = reader.read(&mut stream) => result,
    };
    drop(reader);
    if let Err(error) = result {
        shared.end(error);
    }
    let mut rest = vec![0; READ_BYTES];
    let hang_up = async { while stream.read(&mut rest).await.is_ok_and(|bytes| bytes > 0) {} };
    // Running into the limit is fine: the peer had its time.
    let _ = tokio::time::timeout(LINGER, hang_up).await;
}

struct Reader<'a> {
    shared: &'a Shared,
    deframer: Deframer,
    deliver: mpsc::UnboundedSender<(Received, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
}

impl Reader<'_> {
    async fn read<R: AsyncRead + Unpin>(&mut self, stream: &mut R) -> Result<(), LinkError> {
        let silence = self.shared.timing.silence;
        loop {
            while let Some(frame) = self.deframer.next_frame()? {
                self.shared.stats.received_frame();
                self.handle(frame).await?;
            }
            let buffer = self.deframer.buffer();
            if buffer.capacity() - buffer.len() < READ_MIN_BYTES {
                buffer.reserve(READ_BYTES);
            }
            // Only the wait for the peer counts as its silence, never the wait for our own session.
            let read = stream.read_buf(self.deframer.buffer());
            let bytes =
                tokio::time::timeout(silence, read).await.map_err(|_| LinkError::Silent(silence))??;
            if bytes == 0 {
                return Err(LinkError::Cut);
            }
            self.shared.stats.received_bytes(bytes);
        }
    }

    async fn handle(&mut self, frame: Frame) -> Result<(), LinkError> {
        let (epoch, stream, bytes) = (frame.header.epoch, frame.header.stream, frame.body.len());
        let message = Message::decode(frame.header.kind, frame.body)?;
        self.check_epoch(epoch, &message)?;
        match message {
            Message::Ping(ping) if ping.answer => self.on_round_trip(ping.nonce),
            Message::Ping(ping) => self.shared.answer(&Ping { nonce: ping.nonce, answer: true }.into()),
            Message::Goodbye(goodbye) => return Err(LinkError::Goodbye(goodbye.reason)),
            Message::Refusal(refusal) => return Err(LinkError::RefusedByPeer(refusal)),
            Message::Hello(_) => {
                let sentence = "the peer greeted twice: install the same version on both nodes";
                return Err(LinkError::refused("protocol", sentence.to_owned()));
            }
            message => {
                let room = self.room.clone().acquire_many_owned((bytes as u32).clamp(1, RECEIVE_ROOM_BYTES));
                let room = room.await.expect("the reader's budget is never closed");
                // A session that is gone has ended the connection; this task sees that next.
                let _ = self.deliver.send((Received { stream, epoch, message }, room));
            }
        }
        Ok(())
    }

    /// An older epoch may still say that it lives, or goes; it may not change anything.
    fn check_epoch(&self, theirs: Epoch, message: &Message) -> Result<(), LinkError> {
        let ours = self.shared.epoch.load();
        if theirs > ours.max(self.shared.peer_epoch) {
            return Err(LinkError::HigherEpoch { ours, theirs });
        }
        let harmless = matches!(message, Message::Ping(_) | Message::Goodbye(_) | Message::Refusal(_));
        if theirs < ours && !harmless {
            return Err(LinkError::OlderEpoch { message: message.name(), ours, theirs });
        }
        Ok(())
    }

    /// The nonce is our own clock at sending. A peer that makes one up can only mislead the pacing.
    fn on_round_trip(&self, nonce: u64) {
        let Some(round_trip_us) = self.shared.now_us().checked_sub(nonce) else { return };
        let round_trip_us = u32::try_from(round_trip_us).unwrap_or(u32::MAX);
        self.shared.stats.round_trip(round_trip_us);
        let mut answered = self.shared.answered.lock().unwrap_or_else(PoisonError::into_inner);
        // The writer takes them at its next step. More than it ever has under way are not its own.
        if answered.len() < PINGS_MAX {
            answered.push((nonce, round_trip_us));
        }
        drop(answered);
        self.shared.work.notify_one();
    }
}
