//! Active: page hashes that follow what is sent, and their sum compared with the standby's.
//!
//! The sum at each commit sent is remembered for a while; the standby's acknowledgements name a commit
//! and its own sum there. One value lives as long as the database is served. Building reads pages through
//! capture, like the scrub, and takes turns with it ([`super::ship`]).

use crate::capture::{CaptureEvent, PagesAt, ReadAt};
use crate::equality::{BUILD_PAGES, BUILD_RETRY, PageHashCache};
use crate::wal::{Frames, WalHeader, WalPoint};
use lockstep_wire::{Ack, FrameNo, Position, WalGeneration};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Sums remembered until the standby has answered: more commits than one connection's window holds.
const REMEMBERED: usize = 4096;

/// How often to look for something to build when there was nothing.
const LOOK: Duration = Duration::from_millis(500);

/// What the comparison of two sums says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compared {
    /// Nothing: one of them is not known.
    Unknown,
    Equal,
    /// They differ, at this commit.
    Differ(Position),
}

/// The page hashes of a database being served.
#[derive(Debug)]
pub(super) struct ServedSums {
    /// None: hashes are not kept.
    state_dir: Option<PathBuf>,
    cache: Option<PageHashCache>,
    /// The last frame sent on this connection.
    sent: WalPoint,
    remembered: VecDeque<(Position, u64)>,
    due: Instant,
    reading: bool,
    compared_at: Option<Instant>,
    trouble: Option<String>,
}

impl ServedSums {
    /// `taken`: what a mirror remembered that was opened just now.
    pub(super) fn new(state_dir: Option<PathBuf>, taken: Option<PageHashCache>, now: Instant) -> Self {
        Self {
            state_dir,
            cache: taken,
            sent: WalPoint::default(),
            remembered: VecDeque::new(),
            due: now,
            reading: false,
            compared_at: None,
            trouble: None,
        }
    }

    /// A standby is attached. `from`: where its WAL goes on; None: pages are copied first.
    pub(super) fn attached(&mut self, from: Option<WalPoint>, page_size: u32, now: Instant) {
        self.remembered.clear();
        self.reading = false;
        self.due = now;
        self.sent = from.unwrap_or_default();
        let fits = self.cache.as_ref().is_some_and(|cache| cache.page_size() == page_size);
        if !fits && page_size > 0 {
            self.cache = None;
            self.open(page_size);
        }
        let Some(cache) = &mut self.cache else { return };
        match from {
            Some(from) => cache.resume(from, 0),
            None => cache.stop(),
        }
        self.remember();
    }

    fn open(&mut self, page_size: u32) {
        let Some(state_dir) = &self.state_dir else { return };
        let opened = std::fs::create_dir_all(state_dir)
            .map_err(|error| {
                format!("{} cannot be made ({error}): no page hashes are kept", state_dir.display())
            })
            .and_then(|()| {
                PageHashCache::open(&PageHashCache::path(state_dir), page_size).map_err(|e| e.to_string())
            });
        match opened {
            Ok(cache) => self.cache = Some(cache),
            Err(sentence) => {
                // Not again for every connection.
                self.state_dir = None;
                self.trouble = Some(sentence);
            }
        }
    }

    /// Follows what was handed to the link.
    pub(super) fn sent(&mut self, event: &CaptureEvent) {
        let Some(cache) = &mut self.cache else { return };
        match event {
            CaptureEvent::Generation { generation, wal_header, previous } => {
                let Ok(header) = WalHeader::parse(wal_header) else { return };
                cache.generation(*generation, &header, previous.map(|end| (end.position.frame, end.chain)));
                let position = Position { generation: *generation, frame: FrameNo(0) };
                self.sent = WalPoint { position, chain: header.chain, salts: header.salts };
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
                let frames = Frames::new(data, cache.page_size());
                cache.frames(*first, *chain_before, &frames);
                cache.publish(*published);
                let position = Position { generation: *generation, frame: *last };
                self.sent = WalPoint { position, chain: *chain_after, salts: *salts };
                if cache.is_off() && commits.last().is_some_and(|(frame, _)| frame == last) {
                    cache.restart(self.sent, 0);
                }
            }
            CaptureEvent::Published(position) => cache.publish(position.frame),
            CaptureEvent::Rewind(to) => {
                cache.rewind(to.position.frame, to.chain);
                // What comes instead has the same positions.
                self.remembered.retain(|(position, _)| *position <= to.position);
                self.sent = *to;
            }
            CaptureEvent::EndOfCopy { position, .. } if cache.is_off() => {
                cache.restart(WalPoint { position: *position, ..self.sent }, 0);
            }
            _ => return,
        }
        self.remember();
    }

    fn remember(&mut self) {
        let Some((at, sum)) = self.cache.as_ref().and_then(|cache| cache.content()) else { return };
        if self.remembered.back() == Some(&(at.position, sum)) {
            return;
        }
        if self.remembered.len() == REMEMBERED {
            self.remembered.pop_front();
        }
        self.remembered.push_back((at.position, sum));
    }

    /// Compares with what the standby says.
    pub(super) fn compare(&mut self, ack: &Ack, now: Instant) -> Compared {
        let Some(theirs) = ack.content else { return Compared::Unknown };
        let at = Position { generation: WalGeneration(ack.generation), frame: FrameNo(ack.content_frame) };
        while self.remembered.front().is_some_and(|(position, _)| *position < at) {
            self.remembered.pop_front();
        }
        match self.remembered.front() {
            Some((position, ours)) if *position == at && *ours == theirs => {
                self.compared_at = Some(now);
                Compared::Equal
            }
            Some((position, _)) if *position == at => {
                self.remembered.clear();
                if let Some(cache) = &mut self.cache {
                    cache.rebuild();
                }
                Compared::Differ(at)
            }
            _ => Compared::Unknown,
        }
    }

    /// When there may be something to read.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.cache.is_some() && !self.reading).then_some(self.due)
    }

    /// Capture reads for the sums now.
    pub(super) fn is_reading(&self) -> bool {
        self.reading
    }

    /// What to read at `now`, if anything.
    pub(super) fn read(&mut self, now: Instant) -> Option<ReadAt> {
        if self.reading || now < self.due {
            return None;
        }
        self.due = now + LOOK;
        let (first_page, page_count) = self.cache.as_mut()?.begin_reading(BUILD_PAGES)?;
        self.reading = true;
        Some(ReadAt::Hashes { first_page, page_count })
    }

    /// Capture has read.
    pub(super) fn have_read(&mut self, at: Option<Position>, pages: PagesAt, now: Instant) {
        self.reading = false;
        let Some(cache) = &mut self.cache else { return };
        let Some(at) = at else {
            cache.abandon_reading();
            self.due = now + BUILD_RETRY;
            return;
        };
        self.due = now + cache.pause(pages.hashes.len());
        cache.end_reading(at, pages.first_page, pages.hashes, pages.page_count);
        self.remember();
    }

    /// Why no hashes are kept; told once.
    pub(super) fn trouble(&mut self) -> Option<String> {
        let full = self.cache.as_mut().is_some_and(|cache| cache.take_full());
        if full {
            self.trouble = Some("no room for the page hashes in the state directory: free space there; until this node's next start sums are not compared".into());
        }
        self.trouble.take()
    }

    /// When both sums were last known and equal.
    pub(super) fn compared_at(&self) -> Option<Instant> {
        self.compared_at
    }

    /// Closes the file. One that is not closed is built anew.
    pub(super) fn close(&mut self) {
        if let Some(cache) = self.cache.take()
            && let Err(error) = cache.close()
        {
            tracing::warn!(%error, "the page hashes are built anew at the next start");
        }
    }
}
