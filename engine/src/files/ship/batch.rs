//! Operations into batches and messages, within the standby's window.

use super::outcome::Done;
use super::shared::Shared;
use crate::files::BlockHash;
use crate::files::TreePath;
use crate::files::index::{Change, NodeId, Store, StoreError, Touched};
use lockstep_wire::{Message, TREE_WINDOW_BYTES, TreeOp, TreeOpKind, TreeOps, pack_one};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// A message is sent when it has so many bytes of operations: 2 ms at 1 Gbit/s, so that a WAL frame that comes
/// meanwhile does not wait long.
const MESSAGE_BYTES: usize = 256 << 10;

/// A batch ends after so many operations, half of what the protocol allows ...
const BATCH_OPS: usize = lockstep_wire::MAX_TREE_BATCH_OPS / 2;

/// ... or bytes: what a disk makes durable in a tenth of a second.
const BATCH_BYTES: u64 = 16 << 20;

/// ... or bytes of paths and extended attributes.
const BATCH_KEPT_BYTES: usize = 8 << 20;

/// Batches under way: one being staged while another is synced, and one on its way.
pub(super) const FLIGHTS_MAX: usize = 3;

/// Why nothing more can be sent now.
#[derive(Debug)]
pub(super) enum Stop {
    /// The connection has ended, or the node stops.
    Gone,
    /// The index cannot be written.
    Store(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A batch under way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) batch: u64,
    pub(super) done: Vec<Done>,
    pub(super) since: Instant,
    /// Of content.
    pub(super) bytes: u64,
    /// When the oldest of the marks was set that led to it.
    pub(super) first: Instant,
}

/// One connection's sending side of a tree.
pub(super) struct Session {
    shared: Arc<Shared>,
    out: mpsc::Sender<Message>,
    connection: u64,
    index: u64,
    sent_bytes: u64,
    /// The batch that is open, or was closed last.
    batch: u64,
    open: bool,
    ops: Vec<u8>,
    count: usize,
    bytes: u64,
    kept_bytes: usize,
    touched: Vec<Touched>,
    done: Vec<Done>,
    pub(super) flights: VecDeque<Flight>,
    limit: Option<Limit>,
}

/// A limit of bytes per second.
struct Limit {
    bytes_per_s: u64,
    free_at: Instant,
}

impl Session {
    pub(super) fn new(
        shared: Arc<Shared>,
        out: mpsc::Sender<Message>,
        connection: u64,
        (index, batch): (u64, u64),
        bytes_per_s: Option<u64>,
    ) -> Self {
        let limit = bytes_per_s.map(|rate| Limit { bytes_per_s: rate.max(1), free_at: Instant::now() });
        Self {
            shared,
            out,
            connection,
            index,
            sent_bytes: 0,
            batch,
            open: false,
            ops: Vec::new(),
            count: 0,
            bytes: 0,
            kept_bytes: 0,
            touched: Vec::new(),
            done: Vec::new(),
            flights: VecDeque::new(),
            limit,
        }
    }

    /// The last batch that was begun.
    pub(super) fn last_batch(&self) -> u64 {
        self.batch
    }

    /// The index that is made anew for this standby.
    pub(super) fn follow(&mut self, index: u64) {
        (self.index, self.batch) = (index, 0);
    }

    /// Sends a message that is no operation.
    pub(super) fn send(&self, message: Message) -> Result<(), Stop> {
        self.out.blocking_send(message).map_err(|_| Stop::Gone)
    }

    /// Adds an operation to the open batch, and begins one if none is.
    pub(super) fn op(&mut self, op: &TreeOp, store: &mut Store) -> Result<(), Stop> {
        self.begin();
        self.count += 1;
        self.bytes += op.data.len() as u64;
        let xattrs = op.meta.as_ref().map_or(0, |meta| meta.xattrs.len());
        self.kept_bytes += op.path.len() + op.from.len() + xattrs;
        self.touch(op);
        pack_one(op, &mut self.ops);
        if self.ops.len() >= MESSAGE_BYTES { self.flush(store, false) } else { Ok(()) }
    }

    /// Notes what an operation touches: whoever does not hear of its outcome must look there.
    fn touch(&mut self, op: &TreeOp) {
        let kind = op.kind();
        if matches!(kind, TreeOpKind::Data | TreeOpKind::Keep | TreeOpKind::End) {
            return;
        }
        let from = Some(&op.from).filter(|from| !from.is_empty() && *from != &op.path);
        for path in std::iter::once(&op.path).chain(from) {
            let meta = kind == TreeOpKind::Meta;
            self.touched.extend(TreePath::parse(path).map(|path| Touched { path, meta }));
        }
    }

    fn begin(&mut self) {
        if !self.open {
            self.open = true;
            self.batch += 1;
            (self.count, self.bytes, self.kept_bytes) = (0, 0, 0);
        }
    }

    /// Remembers what the operations since the last call brought; ends the batch when it is large.
    pub(super) fn done(&mut self, done: Done, store: &mut Store, first: Instant) -> Result<(), Stop> {
        self.done.push(done);
        let large =
            self.count >= BATCH_OPS || self.bytes >= BATCH_BYTES || self.kept_bytes >= BATCH_KEPT_BYTES;
        if self.open && large { self.close(store, first).map(drop) } else { Ok(()) }
    }

    /// Block hashes of a file that was sent and is not answered.
    pub(super) fn flying_blocks(&self, id: NodeId) -> Option<Vec<BlockHash>> {
        let flying =
            self.done.iter().rev().chain(self.flights.iter().rev().flat_map(|f| f.done.iter().rev()));
        let mut changes = flying.flat_map(|done| done.changes.iter().rev());
        changes.find_map(|change| match change {
            Change::Content { id: of, blocks, .. } if *of == id => Some(blocks.clone()),
            _ => None,
        })
    }

    /// Ends the open batch. What was only found, with no batch open, is remembered with the last one under way;
    /// answers it when there is none.
    pub(super) fn close(&mut self, store: &mut Store, first: Instant) -> Result<Vec<Done>, Stop> {
        if self.open {
            self.flush(store, true)?;
            self.open = false;
            let done = std::mem::take(&mut self.done);
            self.flights.push_back(Flight {
                batch: self.batch,
                done,
                since: Instant::now(),
                bytes: self.bytes,
                first,
            });
            return Ok(Vec::new());
        }
        let done = std::mem::take(&mut self.done);
        match self.flights.back_mut() {
            Some(last) => {
                last.done.extend(done);
                Ok(Vec::new())
            }
            None => Ok(done),
        }
    }

    /// Sends an empty batch: the standby follows this index from then on.
    pub(super) fn empty_batch(&mut self, store: &mut Store) -> Result<(), Stop> {
        self.begin();
        self.close(store, Instant::now()).map(drop)
    }

    fn flush(&mut self, store: &mut Store, last: bool) -> Result<(), Stop> {
        let mut touched = std::mem::take(&mut self.touched);
        touched.dedup();
        store.sending(self.batch, &touched)?;
        let ops = std::mem::take(&mut self.ops).into();
        let message = TreeOps { index: self.index, batch: self.batch, ops, last };
        let message = Message::from(message);
        let bytes = message.encode().len() as u64;
        self.wait_for_room(bytes)?;
        self.sent_bytes += bytes;
        self.send(message)
    }

    /// Waits until the standby's window and the limit allow it.
    fn wait_for_room(&mut self, bytes: u64) -> Result<(), Stop> {
        let mut state = self.shared.lock();
        loop {
            if state.stop || state.connection != self.connection {
                return Err(Stop::Gone);
            }
            let under_way = (self.sent_bytes + bytes).saturating_sub(state.received_bytes);
            let now = Instant::now();
            let late =
                self.limit.as_ref().map_or(Duration::ZERO, |l| l.free_at.saturating_duration_since(now));
            if under_way <= TREE_WINDOW_BYTES && late.is_zero() {
                break;
            }
            let wait = if late.is_zero() { Duration::from_secs(1) } else { late };
            state = self.shared.wake.wait_timeout(state, wait).map_or_else(|e| e.into_inner().0, |(s, _)| s);
        }
        drop(state);
        if let Some(limit) = &mut self.limit {
            let cost = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / limit.bytes_per_s);
            limit.free_at = limit.free_at.max(Instant::now()) + cost;
        }
        Ok(())
    }
}
