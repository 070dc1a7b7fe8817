//! One frame of the data connection: a fixed 48-byte header, little-endian, and a body.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `LKS1` |
//! | 4 | 2 | protocol version |
//! | 6 | 2 | kind of the message |
//! | 8 | 2 | flags: bit 0 the body is zstd |
//! | 10 | 2 | stream: 0 control, n the n-th database, then the trees |
//! | 12 | 4 | length of the body as sent |
//! | 16 | 4 | length of the body unpacked |
//! | 20 | 4 | CRC-32 over the header (with this field 0) and the body as sent |
//! | 24 | 8 | sequence, from 0, plus one per frame and direction |
//! | 32 | 16 | epoch: counter, node |
//!
//! A body is packed only where that makes it shorter, so an unpacked frame states its length twice.
//!
//! A [`Frame`] exists only with a checked header and checksum; its body is not yet a message.
//! Whether packing pays is the link's decision, not taken here.

use crate::{Epoch, NodeId};
use bytes::{BufMut, Bytes, BytesMut};

/// Size of the header.
pub const HEADER_BYTES: usize = 48;

/// The longest body, packed or not: a batch of frames or pages is at most 1 MiB plus its fields,
/// and a decoder must not allocate more on a peer's word.
pub const MAX_BODY_BYTES: usize = 2 << 20;

const MAGIC: [u8; 4] = *b"LKS1";
const FLAG_ZSTD: u16 = 1;
const KNOWN_FLAGS: u16 = FLAG_ZSTD;

/// What the header says besides lengths and checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Protocol version the frame is written in.
    pub version: u16,
    /// Kind of the message.
    pub kind: u16,
    /// 0: control; n: the n-th database.
    pub stream: u16,
    /// Counts the frames of one direction of one connection.
    pub sequence: u64,
    /// The sender's epoch.
    pub epoch: Epoch,
}

/// A frame with a sound header and checksum, its body unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The header.
    pub header: FrameHeader,
    /// The message's bytes.
    pub body: Bytes,
}

/// Why bytes are not a frame. Any of these ends the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first bytes are not the magic.
    #[error(
        "expected a Lockstep frame, found bytes {0:02x?}: another program speaks on this port, or the stream is damaged"
    )]
    Magic([u8; 4]),
    /// A version outside what this software speaks.
    #[error("frame of protocol version {0}: run the same software version on both nodes")]
    Version(u16),
    /// A flag this version does not know.
    #[error("frame with unknown flags {0:#06x}: run the same software version on both nodes")]
    Flags(u16),
    /// A length above [`MAX_BODY_BYTES`].
    #[error("frame of {0} bytes is longer than the limit of {MAX_BODY_BYTES}")]
    TooLong(u32),
    /// Lengths that no sender writes: an unpacked body has one length, a packed one is shorter.
    #[error(
        "frame lengths {sent} as sent and {unpacked} unpacked contradict its flags: the stream is damaged"
    )]
    Lengths {
        /// Length of the body as sent.
        sent: u32,
        /// Length of the body unpacked.
        unpacked: u32,
    },
    /// Header or body was altered.
    #[error(
        "frame checksum is {computed:08x}, expected {expected:08x}: the link alters bytes, check cable and NIC"
    )]
    Checksum {
        /// From the header.
        expected: u32,
        /// Over what came.
        computed: u32,
    },
    /// The body does not unpack to the stated length.
    #[error("frame body does not unpack to its stated {0} bytes")]
    Unpack(u32),
    /// A frame is missing or doubled.
    #[error("frame sequence is {found}, expected {expected}")]
    Sequence {
        /// The next in order.
        expected: u64,
        /// What came.
        found: u64,
    },
}

/// A header as read, lengths not yet trusted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawHeader {
    pub(crate) header: FrameHeader,
    pub(crate) body_len: u32,
    raw_len: u32,
    zstd: bool,
    crc: u32,
    bytes: [u8; HEADER_BYTES],
}

impl Frame {
    /// The frame as bytes. With `packed` (a zstd form of the body) that is sent when it is shorter.
    ///
    /// # Panics
    /// When the body is longer than [`MAX_BODY_BYTES`]: senders cut their batches below it.
    pub fn encode(&self, packed: Option<&[u8]>, out: &mut BytesMut) {
        assert!(self.body.len() <= MAX_BODY_BYTES, "senders cut batches below the frame limit");
        let packed = packed.filter(|p| p.len() < self.body.len());
        let body = packed.unwrap_or(&self.body);
        let flags = if packed.is_some() { FLAG_ZSTD } else { 0 };
        let h = &self.header;
        let start = out.len();
        out.reserve(HEADER_BYTES + body.len());
        out.put_slice(&MAGIC);
        for word in [h.version, h.kind, flags, h.stream] {
            out.put_u16_le(word);
        }
        for word in [body.len() as u32, self.body.len() as u32, 0] {
            out.put_u32_le(word);
        }
        for word in [h.sequence, h.epoch.counter, h.epoch.node.0] {
            out.put_u64_le(word);
        }
        out.put_slice(body);
        let crc = crc32fast::hash(&out[start..]);
        out[start + 20..start + 24].copy_from_slice(&crc.to_le_bytes());
    }
}

impl RawHeader {
    /// Reads a header; checks everything that needs no body.
    pub(crate) fn parse(bytes: [u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | (u64::from(u32_at(at + 4)) << 32);
        let magic = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if magic != MAGIC {
            return Err(FrameError::Magic(magic));
        }
        let (version, flags) = (u16_at(4), u16_at(8));
        if crate::ProtocolVersion::common(version.into(), version.into()).is_none() {
            return Err(FrameError::Version(version));
        }
        if flags & !KNOWN_FLAGS != 0 {
            return Err(FrameError::Flags(flags));
        }
        let (body_len, raw_len) = (u32_at(12), u32_at(16));
        let longest = body_len.max(raw_len);
        if longest as usize > MAX_BODY_BYTES {
            return Err(FrameError::TooLong(longest));
        }
        let zstd = flags & FLAG_ZSTD != 0;
        if if zstd { body_len >= raw_len } else { body_len != raw_len } {
            return Err(FrameError::Lengths { sent: body_len, unpacked: raw_len });
        }
        let epoch = Epoch { counter: u64_at(32), node: NodeId(u64_at(40)) };
        let header =
            FrameHeader { version, kind: u16_at(6), stream: u16_at(10), sequence: u64_at(24), epoch };
        Ok(Self { header, body_len, raw_len, zstd, crc: u32_at(20), bytes })
    }

    /// Checks the checksum and unpacks the body, which has exactly `body_len` bytes.
    pub(crate) fn finish(self, body: Bytes, unpacker: &mut Unpacker) -> Result<Frame, FrameError> {
        let mut header = self.bytes;
        header[20..24].fill(0);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&header);
        crc.update(&body);
        let computed = crc.finalize();
        if computed != self.crc {
            return Err(FrameError::Checksum { expected: self.crc, computed });
        }
        let body = if self.zstd { unpacker.unpack(&body, self.raw_len)? } else { body };
        Ok(Frame { header: self.header, body })
    }
}

/// The zstd context of one connection: made with the first packed frame, then used again.
#[derive(Default)]
pub(crate) struct Unpacker(Option<zstd::bulk::Decompressor<'static>>);

impl Unpacker {
    fn unpack(&mut self, body: &[u8], raw_len: u32) -> Result<Bytes, FrameError> {
        // `raw_len` was held against MAX_BODY_BYTES, so this bounds the allocation.
        let raw = self.0.get_or_insert_default().decompress(body, raw_len as usize);
        match raw {
            Ok(raw) if raw.len() == raw_len as usize => Ok(raw.into()),
            _ => Err(FrameError::Unpack(raw_len)),
        }
    }
}
