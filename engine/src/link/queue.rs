//! What goes next: control, then WAL frames, then bulk, then files, without breaking a stream's order.
//!
//! Filled by the sender, emptied by the writer. Control messages (acknowledgements, pings, answers)
//! overtake everything. The messages of one database stream are one ordered sequence: a page chunk must
//! reach the mirror before the WAL frames captured after it, and the other way round (a copy is valid
//! once the frames up to the position after its last chunk are in), so neither ever overtakes the other
//! *within* a stream. Priority therefore applies between streams, and bulk is slowed by `pacing.rs`
//! instead of being reordered. Pure; its limits are kept by `connection.rs`.

use bytes::Bytes;
use lockstep_wire::Message;
use std::collections::{BTreeMap, VecDeque};
use tokio::sync::OwnedSemaphorePermit;

/// After so many WAL frames of other streams one bulk frame goes, so that a copy comes to its end
/// beside a database that is always busy.
const FRAMES_PER_BULK: u32 = 8;

/// After so many bulk frames one of a file tree goes, so that files move beside a copy of a large database.
const BULK_PER_FILES: u32 = 8;

/// How urgent a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Small, overtakes everything.
    Control,
    /// In its stream's order; commits wait for it.
    Frames,
    /// In its stream's order, paced.
    Bulk,
    /// File trees: as bulk, and behind the bulk of databases.
    Files,
}

impl Class {
    pub(crate) fn of(message: &Message) -> Self {
        match message {
            Message::PageChunk(_) | Message::PageHashes(_) => Self::Bulk,
            Message::TreeOps(_) | Message::TreeListing(_) => Self::Files,
            Message::Generation(_)
            | Message::WalBatch(_)
            | Message::Rewind(_)
            | Message::CopyBegin(_)
            | Message::HashRequest(_)
            | Message::CopyEnd(_) => Self::Frames,
            _ => Self::Control,
        }
    }
}

/// A message that waits to be sent.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) stream: u16,
    pub(crate) kind: u16,
    pub(crate) class: Class,
    pub(crate) body: Bytes,
    /// Room in the sender's budget, given back when the message is written.
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

/// What [`Outgoing::pick`] found.
#[derive(Debug)]
pub(crate) enum Pick {
    /// Send this.
    Frame(Queued),
    /// Only bulk is left, and it has to wait.
    BulkWaits,
    /// Nothing.
    Empty,
}

/// All that waits to be sent on one connection.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    control: VecDeque<Queued>,
    streams: BTreeMap<u16, VecDeque<Queued>>,
    /// The stream served last; the next one after it comes first.
    last: u16,
    frames_since_bulk: u32,
    bulk_since_files: u32,
    /// Bodies in `streams`.
    waiting_bytes: u64,
}

impl Outgoing {
    pub(crate) fn push(&mut self, queued: Queued) {
        match queued.class {
            Class::Control => self.control.push_back(queued),
            Class::Frames | Class::Bulk | Class::Files => {
                self.waiting_bytes += queued.body.len() as u64;
                self.streams.entry(queued.stream).or_default().push_back(queued);
            }
        }
    }

    /// Takes the next message; bulk only with `bulk_may_go`.
    pub(crate) fn pick(&mut self, bulk_may_go: bool) -> Pick {
        if let Some(queued) = self.control.pop_front() {
            return Pick::Frame(queued);
        }
        let (frames, bulk) = (self.next_with(Class::Frames), self.next_slow());
        let bulk_is_due = bulk_may_go && self.frames_since_bulk >= FRAMES_PER_BULK;
        let (stream, is_bulk) = match (frames, bulk) {
            (Some(stream), None) => (stream, false),
            (Some(stream), Some(_)) if !bulk_is_due => (stream, false),
            (_, Some(stream)) if bulk_may_go => (stream, true),
            (None, Some(_)) => return Pick::BulkWaits,
            (None, None) => return Pick::Empty,
            (Some(_), Some(_)) => unreachable!("bulk is due only when it may go"),
        };
        if is_bulk {
            let files = self.next_with(Class::Files) == Some(stream);
            self.bulk_since_files = if files { 0 } else { self.bulk_since_files.saturating_add(1) };
        }
        self.last = stream;
        self.frames_since_bulk = if is_bulk { 0 } else { self.frames_since_bulk.saturating_add(1) };
        let queue = self.streams.get_mut(&stream).expect("the stream was just found");
        let queued = queue.pop_front().expect("its head was just looked at");
        self.waiting_bytes -= queued.body.len() as u64;
        if queue.is_empty() {
            self.streams.remove(&stream);
        }
        Pick::Frame(queued)
    }

    /// True when [`Self::pick`] could only give bulk.
    pub(crate) fn has_bulk_head(&self) -> bool {
        self.next_slow().is_some()
    }

    /// How much of frames, bulk and files waits.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    /// The stream of the next paced message: bulk, and now and then files.
    fn next_slow(&self) -> Option<u16> {
        let (bulk, files) = (self.next_with(Class::Bulk), self.next_with(Class::Files));
        if self.bulk_since_files >= BULK_PER_FILES { files.or(bulk) } else { bulk.or(files) }
    }

    /// Drops everything, and with it the room it took.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The first stream after the last served whose head is of `class`, round robin.
    fn next_with(&self, class: Class) -> Option<u16> {
        let head = |(_, queue): &(&u16, &VecDeque<Queued>)| queue.front().is_some_and(|q| q.class == class);
        let after = self.streams.range(self.last.saturating_add(1)..);
        after.chain(self.streams.iter()).find(head).map(|(stream, _)| *stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(stream: u16, class: Class, kind: u16) -> Queued {
        Queued { stream, kind, class, body: Bytes::new(), room: None }
    }

    fn drain(outgoing: &mut Outgoing, bulk_may_go: bool) -> Vec<u16> {
        std::iter::from_fn(|| match outgoing.pick(bulk_may_go) {
            Pick::Frame(queued) => Some(queued.kind),
            Pick::BulkWaits | Pick::Empty => None,
        })
        .collect()
    }

    #[test]
    fn control_overtakes_frames_and_frames_overtake_the_bulk_of_other_streams() {
        let mut outgoing = Outgoing::default();
        outgoing.push(queued(1, Class::Bulk, 10));
        outgoing.push(queued(2, Class::Frames, 20));
        outgoing.push(queued(0, Class::Control, 30));
        assert_eq!(drain(&mut outgoing, true), [30, 20, 10]);
    }

    #[test]
    fn files_go_behind_the_bulk_of_databases_and_come_to_their_end() {
        let mut outgoing = Outgoing::default();
        for _ in 0..20 {
            outgoing.push(queued(1, Class::Files, 1));
            outgoing.push(queued(2, Class::Bulk, 2));
        }
        outgoing.push(queued(3, Class::Frames, 3));
        let order = drain(&mut outgoing, true);
        assert_eq!(order[..11], [3, 2, 2, 2, 2, 2, 2, 2, 2, 1, 2]);
        assert_eq!(order.len(), 41);
        outgoing.push(queued(1, Class::Files, 1));
        assert!(outgoing.has_bulk_head() && matches!(outgoing.pick(false), Pick::BulkWaits));
    }

    #[test]
    fn what_waits_is_counted_until_it_is_taken_or_dropped() {
        let mut outgoing = Outgoing::default();
        let body = Bytes::from_static(&[0; 100]);
        for class in [Class::Control, Class::Frames, Class::Bulk, Class::Files] {
            outgoing.push(Queued { body: body.clone(), ..queued(1, class, 1) });
        }
        assert_eq!(outgoing.waiting_bytes(), 300, "control is small and never waits long");
        assert!(matches!(outgoing.pick(true), Pick::Frame(_)));
        assert_eq!(outgoing.waiting_bytes(), 300);
        assert!(matches!(outgoing.pick(true), Pick::Frame(_)));
        assert_eq!(outgoing.waiting_bytes(), 200);
        outgoing.clear();
        assert_eq!(outgoing.waiting_bytes(), 0);
    }

    #[test]
    fn nothing_overtakes_within_a_stream() {
        let mut outgoing = Outgoing::default();
        for (kind, class) in
            [Class::Frames, Class::Bulk, Class::Frames, Class::Bulk, Class::Bulk, Class::Frames]
                .into_iter()
                .enumerate()
        {
            outgoing.push(queued(1, class, kind as u16));
        }
        assert_eq!(drain(&mut outgoing, false), [0]);
        assert!(matches!(outgoing.pick(false), Pick::BulkWaits));
        assert_eq!(drain(&mut outgoing, true), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn streams_take_turns_and_a_copy_is_not_starved() {
        let mut outgoing = Outgoing::default();
        for _ in 0..20 {
            outgoing.push(queued(1, Class::Frames, 1));
            outgoing.push(queued(2, Class::Frames, 2));
            outgoing.push(queued(3, Class::Bulk, 3));
        }
        let order = drain(&mut outgoing, true);
        assert_eq!(order[..8], [1, 2, 1, 2, 1, 2, 1, 2]);
        assert_eq!(order[8], 3);
        assert_eq!(order[9..17].iter().filter(|kind| **kind == 3).count(), 0);
        assert_eq!(order[17], 3);
    }
}
