//! The bounded buffer between the capture thread and the channel to the pair session.
//!
//! The thread never waits for the channel: what does not fit stays here, and when this is full too,
//! nothing more is taken from the WAL and the read mark stays. A permit that becomes free wakes the
//! thread through its signal.

use super::CaptureEvent;
use super::wakeup::Signal;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::error::{SendError, TrySendError};
use tokio::sync::mpsc::{OwnedPermit, Sender};

/// Bytes of events kept here before taking pauses: enough to read on while the session sends a few
/// batches, little beside what the session itself holds.
const OUTBOX_MAX_BYTES: usize = 1 << 20;

type Reservation = Pin<Box<dyn Future<Output = Result<OwnedPermit<CaptureEvent>, SendError<()>>> + Send>>;

/// Events on their way to the session.
pub(super) struct Outbox {
    queue: VecDeque<CaptureEvent>,
    bytes: usize,
    sender: Sender<CaptureEvent>,
    reservation: Option<Reservation>,
    waker: Waker,
    stuck_since: Option<Instant>,
}

impl Outbox {
    pub(super) fn new(sender: Sender<CaptureEvent>, signal: Arc<Signal>) -> Self {
        Self {
            queue: VecDeque::new(),
            bytes: 0,
            sender,
            reservation: None,
            waker: signal.into(),
            stuck_since: None,
        }
    }

    /// More may be taken.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < OUTBOX_MAX_BYTES
    }

    /// Everything was sent.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How long the channel has accepted nothing while something was waiting.
    pub(super) fn stuck_for(&self) -> Duration {
        self.stuck_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Nobody will ever take an event again.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Appends an event and sends what fits.
    pub(super) fn push(&mut self, event: CaptureEvent) {
        self.bytes += event_bytes(&event);
        self.queue.push_back(event);
        self.flush();
    }

    /// Forgets what was not sent.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.bytes = 0;
        self.reservation = None;
        self.stuck_since = None;
    }

    /// Sends what fits.
    pub(super) fn flush(&mut self) {
        while !self.queue.is_empty() {
            let sent = if self.reservation.is_some() { self.send_reserved() } else { self.send_now() };
            if !sent {
                self.stuck_since.get_or_insert_with(Instant::now);
                return;
            }
            self.stuck_since = None;
        }
    }

    fn pop(&mut self) -> Option<CaptureEvent> {
        let event = self.queue.pop_front()?;
        self.bytes -= event_bytes(&event);
        Some(event)
    }

    fn send_now(&mut self) -> bool {
        let Some(event) = self.pop() else { return false };
        match self.sender.try_send(event) {
            Ok(()) => true,
            Err(TrySendError::Full(event)) => {
                self.bytes += event_bytes(&event);
                self.queue.push_front(event);
                self.reservation = Some(Box::pin(self.sender.clone().reserve_owned()));
                self.send_reserved()
            }
            Err(TrySendError::Closed(_)) => {
                self.clear();
                false
            }
        }
    }

    fn send_reserved(&mut self) -> bool {
        let Some(reservation) = &mut self.reservation else { return false };
        match reservation.as_mut().poll(&mut Context::from_waker(&self.waker)) {
            Poll::Pending => false,
            Poll::Ready(Err(_)) => {
                self.clear();
                false
            }
            Poll::Ready(Ok(permit)) => {
                self.reservation = None;
                if let Some(event) = self.pop() {
                    permit.send(event);
                }
                true
            }
        }
    }
}

fn event_bytes(event: &CaptureEvent) -> usize {
    match event {
        CaptureEvent::Frames { data, .. } | CaptureEvent::Pages { data, .. } => data.len(),
        CaptureEvent::PagesAt { pages, .. } => {
            pages.hashes.len() * size_of::<u64>()
                + pages.contents.iter().map(|(_, data)| data.len()).sum::<usize>()
        }
        _ => 0,
    }
}
