//! From a byte stream, split anywhere, to checked frames in sequence.
//!
//! Fed by `lockstep-engine`'s link with whatever a read returned. Memory follows what arrived, not
//! what a header promises, and after the first error it gives nothing more. It does not notice a
//! peer that stops in the middle of a frame: time-outs are the link's.

use crate::frame::{Frame, FrameError, HEADER_BYTES, RawHeader, Unpacker};
use bytes::{Buf, BytesMut};
use std::fmt;

/// Room for one read: one frame with a batch of 64 KiB, or many small ones.
const READ_BYTES: usize = 64 << 10;

/// The most that is reserved because a header announces a body. A usual batch fits, so that it
/// arrives in one buffer; for longer ones the room at most doubles with what has arrived.
const AHEAD_BYTES: usize = 256 << 10;

/// A long body grows the buffer only when less room than this is left: growing early would double
/// what has just been doubled.
const SHORTEST_READ_BYTES: usize = 4 << 10;

/// Collects bytes and gives frames.
#[derive(Default)]
pub struct Deframer {
    buffer: BytesMut,
    header: Option<RawHeader>,
    unpacker: Unpacker,
    next_sequence: u64,
    failed: Option<FrameError>,
}

impl Deframer {
    /// A deframer that expects sequence 0 first.
    pub fn new() -> Self {
        Self::default()
    }

    /// The buffer to read into: append what arrived, then call [`Self::next_frame`] until it gives
    /// `None`. After `None` it has room for the next read.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next whole frame, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError`] on the first malformed frame, and the same again ever after.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.advance();
        if let Err(error) = &result {
            self.failed = Some(error.clone());
        }
        result
    }

    fn advance(&mut self) -> Result<Option<Frame>, FrameError> {
        let header = match self.header {
            Some(header) => header,
            None => {
                let Some(bytes) = self.buffer.first_chunk::<HEADER_BYTES>() else {
                    self.make_room(HEADER_BYTES);
                    return Ok(None);
                };
                let header = RawHeader::parse(*bytes)?;
                self.buffer.advance(HEADER_BYTES);
                *self.header.insert(header)
            }
        };
        let body_len = header.body_len as usize;
        if self.buffer.len() < body_len {
            self.make_room(body_len);
            return Ok(None);
        }
        self.header = None;
        let frame = header.finish(self.buffer.split_to(body_len).freeze(), &mut self.unpacker)?;
        let (expected, found) = (self.next_sequence, frame.header.sequence);
        if found != expected {
            return Err(FrameError::Sequence { expected, found });
        }
        self.next_sequence += 1;
        Ok(Some(frame))
    }

    /// Makes room for the next read of something that ends `wanted` bytes into the buffer.
    fn make_room(&mut self, wanted: usize) {
        let held = self.buffer.len();
        let missing = wanted - held;
        let enough = if wanted <= AHEAD_BYTES { missing } else { missing.min(SHORTEST_READ_BYTES) };
        if self.buffer.capacity() - held < enough {
            self.buffer.reserve(missing.min(AHEAD_BYTES.max(held)).max(READ_BYTES));
        }
    }
}

impl fmt::Debug for Deframer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (held, next, failed) = (self.buffer.len(), self.next_sequence, &self.failed);
        write!(f, "Deframer {{ held_bytes: {held}, next_sequence: {next}, failed: {failed:?} }}")
    }
}
