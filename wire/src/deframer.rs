//! From a byte stream, split anywhere, to checked frames in sequence.
//!
//! Fed by `lockstep-engine`'s link with whatever a read returned. It never buffers more than one
//! frame beyond what it was given, and after the first error it gives nothing more.

use crate::frame::{Frame, FrameError, HEADER_BYTES, RawHeader};
use bytes::{Buf, BytesMut};

/// Collects bytes and gives frames.
#[derive(Debug, Default)]
pub struct Deframer {
    buffer: BytesMut,
    header: Option<RawHeader>,
    next_sequence: u64,
    failed: Option<FrameError>,
}

impl Deframer {
    /// A deframer that expects sequence 0 first.
    pub fn new() -> Self {
        Self::default()
    }

    /// The buffer to read into: append what arrived, then call [`Self::next_frame`] until it gives `None`.
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
                let Some(bytes) = self.buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
                let header = RawHeader::parse(*bytes)?;
                self.buffer.advance(HEADER_BYTES);
                *self.header.insert(header)
            }
        };
        let body_len = header.body_len as usize;
        if self.buffer.len() < body_len {
            self.buffer.reserve(body_len - self.buffer.len());
            return Ok(None);
        }
        self.header = None;
        let frame = header.finish(self.buffer.split_to(body_len).freeze())?;
        let (expected, found) = (self.next_sequence, frame.header.sequence);
        if found != expected {
            return Err(FrameError::Sequence { expected, found });
        }
        self.next_sequence += 1;
        Ok(Some(frame))
    }
}
