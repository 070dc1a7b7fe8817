//! From the WAL into the stream: verified, committed frames and page chunks, in order.

use super::cursor::Next;
use super::follow::{Follower, Mode, Pace};
use super::pages::{self, PageJob};
use super::{CaptureError, CaptureEvent};
use crate::wal::{Frames, Verified, WalError, WalHeader, WalIndex, frame_bytes};
use bytes::Bytes;
use lockstep_wire::{Chain, FrameNo};

/// Bytes of one frames event: what a processor's own cache holds from the read of the WAL to the socket, and what
/// a peer's deframer takes in one buffer.
const BATCH_MAX_BYTES: u64 = 256 << 10;

impl Follower {
    /// Takes committed frames as long as there is room for them.
    pub(super) fn take(&mut self, index: &WalIndex) -> Result<Pace, CaptureError> {
        while self.outbox.has_room() {
            if !self.settle(index)? {
                return Ok(Pace::Again);
            }
            let taken = match self.cursor.next(index) {
                Next::Nothing => return Ok(Pace::Idle),
                Next::Broken => {
                    self.let_go();
                    return Ok(Pace::Again);
                }
                Next::Switch => self.take_header(index)?,
                Next::Continue => self.take_batch(index)?,
            };
            if !taken {
                return Ok(Pace::Again);
            }
        }
        Ok(Pace::Idle)
    }

    /// A generation begins. False: it ended meanwhile, look again.
    fn take_header(&mut self, index: &WalIndex) -> Result<bool, CaptureError> {
        let header = match self.files.wal_header()? {
            Ok(header) if header.salts == index.salts => header,
            Ok(header) => {
                let (expected, found) = (index.salts, header.salts);
                return self.ended_meanwhile(index, WalError::Salts { frame: 0, expected, found });
            }
            Err(error) => return self.ended_meanwhile(index, error),
        };
        self.begin_generation(&header, false);
        Ok(true)
    }

    /// Tells the stream of a generation, published or only being written.
    pub(super) fn begin_generation(&mut self, header: &WalHeader, opening: bool) {
        let previous = if opening { self.cursor.open(header) } else { self.cursor.enter(header) };
        self.header = Some(*header);
        self.outbox.push(CaptureEvent::Generation {
            generation: self.cursor.point.position.generation,
            wal_header: Bytes::copy_from_slice(&header.to_bytes()),
            previous,
        });
    }

    /// Up to one event's worth of frames. False: the generation ended meanwhile, look again.
    fn take_batch(&mut self, index: &WalIndex) -> Result<bool, CaptureError> {
        let page_size = self.files.page_size();
        let point = self.cursor.point;
        let header = match self.header {
            Some(header) if header.salts == point.salts => header,
            _ => match self.files.wal_header()? {
                Ok(header) => header,
                Err(error) => return self.ended_meanwhile(index, error),
            },
        };
        self.header = Some(header);
        let first = FrameNo(point.position.frame.0 + 1);
        let count = (index.last_frame.0 - point.position.frame.0).min(self.batch_max_frames());
        let data = self.files.frames(first, count)?;
        let frames = Frames::new(&data, page_size);
        if frames.count() != count {
            let (expected, found) = (u64::from(count) * frame_bytes(page_size), data.len() as u64);
            return self.ended_meanwhile(index, WalError::Short { what: "frames", expected, found });
        }
        let verified = match frames.verify(&header, first, point.chain) {
            Ok(verified) => verified,
            Err(error) => return self.ended_meanwhile(index, error),
        };
        let last = FrameNo(point.position.frame.0 + count);
        if last == index.last_frame && verified.chain != index.chain {
            let error = WalError::Chain { frame: last.0, expected: verified.chain, found: index.chain };
            return self.ended_meanwhile(index, error);
        }
        self.note(&frames, verified);
        let commits = commits(&frames, first, verified.commits);
        self.cursor.advance(count, verified.chain);
        self.outbox.push(CaptureEvent::Frames {
            generation: point.position.generation,
            first,
            last,
            chain_before: point.chain,
            chain_after: verified.chain,
            published: index.last_frame,
            data,
            salts: point.salts,
            commits,
        });
        Ok(true)
    }

    /// How many frames one event takes.
    pub(super) fn batch_max_frames(&self) -> u32 {
        (BATCH_MAX_BYTES / frame_bytes(self.files.page_size())) as u32
    }

    fn note(&mut self, frames: &Frames<'_>, verified: Verified) {
        self.status.frames += u64::from(verified.frames);
        self.status.commits += u64::from(verified.commits);
        self.note_version(frames);
    }

    /// Page 1 names the library that changed it last.
    pub(super) fn note_version(&mut self, frames: &Frames<'_>) {
        for (_, page) in frames.iter().filter(|(frame, _)| frame.page == 1) {
            self.status.sqlite_version = u32::from_be_bytes([page[96], page[97], page[98], page[99]]);
        }
    }

    /// Committed frames of a WAL that still stands must verify; those of one that was reset need not.
    pub(super) fn ended_meanwhile(
        &mut self,
        before: &WalIndex,
        source: WalError,
    ) -> Result<bool, CaptureError> {
        let now = self.index()?;
        if now.last_frame.0 > 0 && now.salts == before.salts {
            return Err(CaptureError::Damaged { path: self.files.path.clone(), source });
        }
        Ok(false)
    }

    /// Does a step of the first page job, if there is room.
    pub(super) fn page_step(&mut self) -> Result<Pace, CaptureError> {
        if self.mode != Mode::Publish || self.jobs.is_empty() || !self.outbox.has_room() {
            return Ok(Pace::Idle);
        }
        if let Some(PageJob::End { target }) = self.jobs.front() {
            let target = *target;
            return self.end_of_copy(target);
        }
        let waiting = self.jobs.len();
        for (first_page, data) in pages::step(&mut self.jobs, &self.files)? {
            self.outbox.push(CaptureEvent::Pages { first_page, data });
        }
        if self.jobs.len() < waiting {
            self.outbox.push(CaptureEvent::PagesDone);
        }
        Ok(Pace::Again)
    }

    fn end_of_copy(&mut self, target: Option<lockstep_wire::Position>) -> Result<Pace, CaptureError> {
        let target = match target {
            Some(target) => target,
            None => {
                let index = self.index()?;
                self.cursor.position_at(&index)
            }
        };
        if self.cursor.point.position < target {
            if let Some(job) = self.jobs.front_mut() {
                *job = PageJob::End { target: Some(target) };
            }
            return Ok(Pace::Again);
        }
        let page_count = self.files.page_count()?;
        self.jobs.pop_front();
        self.outbox.push(CaptureEvent::EndOfCopy { position: self.cursor.point.position, page_count });
        Ok(Pace::Again)
    }
}

/// The commit frames of a run whose first frame is `first`.
pub(super) fn commits(frames: &Frames<'_>, first: FrameNo, count: u32) -> Vec<(FrameNo, Chain)> {
    let mut commits = Vec::with_capacity(count as usize);
    let numbered = (first.0..).zip(frames.iter());
    commits.extend(
        numbered
            .filter(|(_, (frame, _))| frame.commit_pages != 0)
            .map(|(number, (frame, _))| (FrameNo(number), frame.chain)),
    );
    commits
}
