//! One connection as the sessions see it: streams to send on, and messages as inputs.
//!
//! Sits between the link and the data thread's queue. What was received and not yet applied is
//! bounded here: each message carries its share of a fixed credit until somebody has dealt with it,
//! and without credit nothing more is read, so that TCP slows the peer.

use super::thread::{Input, Inputs};
use crate::link::{EpochCell, Established, LinkError, Receiver, Sender};
use lockstep_wire::{Ack, Epoch, Message};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Received and not yet applied, in KiB: tens of batches ahead of the disk, an eighth of what an agent may have.
const CREDIT_KIB: u32 = 8 << 10;

/// A message's share of what may wait.
pub(super) type Credit = OwnedSemaphorePermit;

/// A connection in use.
pub(super) struct Connection {
    id: u64,
    sender: Sender,
    epoch: EpochCell,
}

/// Sends on one stream of a connection.
#[derive(Clone)]
pub(super) struct StreamSender {
    sender: Sender,
    stream: u16,
    connection: u64,
}

impl Connection {
    /// Begins to forward what is received.
    pub(super) fn start(id: u64, established: Established, epoch: EpochCell, inputs: Inputs) -> Self {
        let Established { sender, receiver, .. } = established;
        tokio::task::spawn_local(forward(id, receiver, inputs));
        Self { id, sender, epoch }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The epoch this node stamps its frames with.
    pub(super) fn epoch(&self) -> Epoch {
        self.epoch.load()
    }

    /// Sends on the control stream, soon. If the connection ends first nobody needs the message.
    pub(super) fn send_control(&self, message: Message) {
        let sender = self.sender.clone();
        tokio::task::spawn_local(async move {
            let _ = sender.send(0, message).await;
        });
    }

    /// Sends what is queued, says why this connection is given up, and ends it.
    pub(super) fn goodbye(&self, reason: &str) {
        let (sender, reason) = (self.sender.clone(), reason.to_owned());
        tokio::task::spawn_local(async move { sender.close(reason).await });
    }

    /// The sending half of one stream.
    pub(super) fn stream(&self, stream: u16) -> StreamSender {
        StreamSender { sender: self.sender.clone(), stream, connection: self.id }
    }
}

impl StreamSender {
    /// Sends in order, waiting for room.
    ///
    /// # Errors
    /// Why the connection ended.
    pub(super) async fn send(&self, message: Message) -> Result<(), LinkError> {
        self.sender.send(self.stream, message).await
    }

    /// Acknowledges. An acknowledgement that cannot be sent is not needed: the next connection begins
    /// with what this node holds.
    pub(super) async fn acknowledge(&self, ack: Ack) {
        let _ = self.sender.send(self.stream, ack).await;
    }

    /// Waits for the end of the connection.
    pub(super) async fn closed(&self) {
        self.sender.ended().await;
    }

    /// Which connection this is.
    pub(super) fn connection_id(&self) -> u64 {
        self.connection
    }
}

async fn forward(connection: u64, mut receiver: Receiver, inputs: Inputs) {
    let credits = Arc::new(Semaphore::new(CREDIT_KIB as usize));
    loop {
        match receiver.next().await {
            Ok(received) => {
                let share = (data_bytes(&received.message) >> 10).clamp(1, CREDIT_KIB as usize) as u32;
                let credit = credits.clone().acquire_many_owned(share).await;
                let credit = credit.expect("the semaphore is never closed");
                let (stream, message) = (received.stream, received.message);
                inputs.send(Input::Message { connection, stream, message, credit });
            }
            Err(error) => {
                inputs.send(Input::Lost { connection, reason: error.to_string() });
                return;
            }
        }
    }
}

/// What of a message counts in memory.
fn data_bytes(message: &Message) -> usize {
    match message {
        Message::WalBatch(batch) => batch.data.len(),
        Message::PageChunk(chunk) => chunk.data.len(),
        Message::PageHashes(hashes) => hashes.hashes.len(),
        // What trees have under way is bounded by windows of their own, so that they take no room from databases.
        _ => 0,
    }
}
