//! Active: how far the standby is, beside what is published and what was taken back. Pure.
//!
//! An acknowledgement names a frame, not its content. While a rewind is under way it may be of what
//! stood there before, so it counts only as far as the rewind keeps; [`lockstep_wire::Rewound`] comes
//! behind the last of those. And a frame counts as *committed* on the standby only when it was told
//! here, in the order of the stream, that it is published: a position that was read off the
//! wal-index may be ahead of a rewind that is still on its way.

use super::barrier::Progress;
use lockstep_wire::Position;
use std::collections::VecDeque;

/// One attached standby of one database.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Acknowledged, prepared frames too.
    acknowledged: Progress,
    /// What was sent is published through here.
    published: Position,
    /// Rewinds that were sent and not answered, oldest first.
    rewinds: VecDeque<Position>,
}

impl Standing {
    /// A standby attached that holds so much durably.
    pub(super) fn attached(held: Position, published: Position) -> Self {
        let acknowledged = Progress { received: held, durable: held };
        Self { acknowledged, published, rewinds: VecDeque::new() }
    }

    /// An acknowledgement came.
    pub(super) fn acknowledge(&mut self, progress: Progress) {
        let kept = |at: Position| self.rewinds.front().map_or(at, |to| at.min(*to));
        let (received, durable) = (kept(progress.received), kept(progress.durable));
        self.acknowledged.received = self.acknowledged.received.max(received);
        self.acknowledged.durable = self.acknowledged.durable.max(durable);
    }

    /// Everything sent through `position` is published.
    pub(super) fn publish(&mut self, position: Position) {
        self.published = self.published.max(position);
    }

    /// The standby is being told to forget what follows `to`.
    pub(super) fn rewind(&mut self, to: Position) {
        self.acknowledged.received = self.acknowledged.received.min(to);
        self.acknowledged.durable = self.acknowledged.durable.min(to);
        self.rewinds.push_back(to);
    }

    /// The standby has forgotten what followed `to`.
    ///
    /// # Errors
    /// It was not told to.
    pub(super) fn rewound(&mut self, to: Position) -> Result<(), String> {
        match self.rewinds.front() {
            Some(asked) if *asked == to => {
                self.rewinds.pop_front();
                Ok(())
            }
            asked => Err(format!("expected the rewind {asked:?} to be answered, found one to {to}")),
        }
    }

    /// What comes from the standby may still be of frames that it has been told to forget.
    pub(super) fn is_rewinding(&self) -> bool {
        !self.rewinds.is_empty()
    }

    /// What the standby has of what was sent, published or not: enough for whoever knows the content.
    pub(super) fn sent(&self) -> Progress {
        self.acknowledged
    }

    /// What the standby has of what is published.
    pub(super) fn committed(&self) -> Progress {
        let Progress { received, durable } = self.acknowledged;
        Progress { received: received.min(self.published), durable: durable.min(self.published) }
    }

    /// The last published position that was sent.
    pub(super) fn published(&self) -> Position {
        self.published
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_wire::{FrameNo, WalGeneration};

    fn at(generation: u64, frame: u32) -> Position {
        Position { generation: WalGeneration(generation), frame: FrameNo(frame) }
    }

    fn durable(frame: u32) -> Progress {
        Progress { received: at(1, frame), durable: at(1, frame) }
    }

    #[test]
    fn a_prepared_frame_counts_as_committed_only_once_it_is_published() {
        let mut standing = Standing::attached(at(1, 5), at(1, 5));
        standing.acknowledge(durable(8));
        assert_eq!((standing.sent(), standing.committed()), (durable(8), durable(5)));
        standing.publish(at(1, 8));
        assert_eq!(standing.committed(), durable(8));
    }

    #[test]
    fn an_acknowledgement_of_a_phantom_is_not_taken_for_what_overwrote_it() {
        let mut standing = Standing::attached(at(1, 5), at(1, 5));
        standing.acknowledge(durable(8));
        standing.rewind(at(1, 5));
        standing.publish(at(1, 8));
        assert_eq!(standing.committed(), durable(5));
        standing.acknowledge(durable(8));
        assert_eq!(standing.sent(), durable(5), "it was sent before the rewind");
        assert!(standing.is_rewinding(), "its sum is of before, too");
        standing.rewound(at(1, 5)).unwrap();
        assert!(!standing.is_rewinding());
        assert_eq!(standing.sent(), durable(5));
        standing.acknowledge(durable(8));
        assert_eq!(standing.committed(), durable(8));
    }

    #[test]
    fn two_rewinds_under_way_are_answered_in_their_order() {
        let mut standing = Standing::attached(at(1, 5), at(1, 5));
        standing.rewind(at(1, 5));
        standing.publish(at(1, 7));
        standing.rewind(at(1, 7));
        assert!(standing.rewound(at(1, 7)).is_err());
        standing.acknowledge(durable(9));
        assert_eq!(standing.sent(), durable(5));
        standing.rewound(at(1, 5)).unwrap();
        standing.acknowledge(durable(9));
        assert_eq!(standing.sent(), durable(7), "what lies beyond may be the second phantom");
        standing.rewound(at(1, 7)).unwrap();
        assert!(standing.rewound(at(1, 7)).is_err(), "answered twice");
    }
}
