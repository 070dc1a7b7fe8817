//! What must hold for any bytes: the body of both fuzz targets.
//!
//! `wire/tests/bytes/corpus.rs` runs the same checks over the checked-in corpus on the stable
//! toolchain. No check here knows what a fuzzer is.

use bytes::BytesMut;
use lockstep_wire::{
    DatabaseName, Deframer, Epoch, Frame, FrameError, HEADER_BYTES, Heartbeat, MAX_BODY_BYTES, Message,
    NodeId, PairId, Position, SessionId, TreeEntry, TreeFailure, TreeName, TreeOp, TreeXattr, pack, unpack,
};
use std::{fmt::Display, str::FromStr};

/// A stream of frames. Byte 0, when odd, has magic, version, sequence and checksum of every frame put
/// right first, so that what lies behind them is reached; byte 1 is how the stream is split.
pub(crate) fn deframer(data: &[u8]) {
    let [repair, split, stream @ ..] = data else { return };
    let mut stream = stream.to_vec();
    if repair % 2 == 1 {
        repair_frames(&mut stream);
    }
    let whole = deframe(&stream, stream.len().max(1));
    assert_eq!(whole, deframe(&stream, usize::from(*split) + 1), "a split changes nothing");
    for frame in &whole.0 {
        assert!(frame.body.len() <= MAX_BODY_BYTES);
        let mut out = BytesMut::new();
        let first =
            Frame { header: lockstep_wire::FrameHeader { sequence: 0, ..frame.header }, ..frame.clone() };
        first.encode(None, &mut out);
        assert_eq!(deframe(&out, out.len()), (vec![first], None), "a frame survives being sent on");
        let _ = Message::decode(frame.header.kind, frame.body.clone());
    }
}

/// A message's kind (two bytes, little-endian; 0: a heartbeat) and body; and the body as text.
pub(crate) fn messages(data: &[u8]) {
    let [low, high, body @ ..] = data else { return };
    let kind = u16::from_le_bytes([*low, *high]);
    if let Ok(message) = Message::decode(kind, body.to_vec().into()) {
        assert_eq!(message.kind(), kind);
        match &message {
            Message::TreeOps(ops) => packed::<TreeOp>(&ops.ops),
            Message::TreeAck(ack) => packed::<TreeFailure>(&ack.failures),
            Message::TreeListing(listing) => packed::<TreeEntry>(&listing.entries),
            _ => {}
        }
        assert_eq!(Message::decode(kind, message.encode()), Ok(message), "a message survives being sent on");
    }
    if kind == 0
        && let Ok(heartbeat) = <Heartbeat as prost::Message>::decode(body)
    {
        let again = prost::Message::encode_to_vec(&heartbeat);
        assert_eq!(<Heartbeat as prost::Message>::decode(&again[..]), Ok(heartbeat));
    }
    if kind == 0 {
        packed::<TreeXattr>(body);
        packed::<TreeOp>(body);
    }
    if let Ok(text) = std::str::from_utf8(body) {
        same_text::<Epoch>(text);
        same_text::<Position>(text);
        same_text::<NodeId>(text);
        same_text::<SessionId>(text);
        same_text::<PairId>(text);
        same_text::<DatabaseName>(text);
        same_text::<TreeName>(text);
    }
}

/// A packed list: never more entries than bytes, nothing after an error, and sound entries survive being sent on.
fn packed<M: prost::Message + Default + PartialEq + Clone + std::fmt::Debug>(list: &[u8]) {
    let read: Vec<_> = unpack::<M>(list.to_vec().into()).take(list.len() + 1).collect();
    assert!(read.len() <= list.len(), "every entry takes a byte");
    let sound: Vec<M> = read.iter().map_while(|entry| entry.as_ref().ok().cloned()).collect();
    assert!(sound.len() + 1 >= read.len(), "nothing comes after an error");
    let again: Result<Vec<M>, _> = unpack(pack(sound.clone())).collect();
    assert_eq!(again, Ok(sound));
}

fn same_text<T: FromStr + Display>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string(), text, "only one text stands for a value");
    }
}

/// All frames of `stream`, fed `step` bytes at a time, and the error that ended it.
pub(crate) fn deframe(stream: &[u8], step: usize) -> (Vec<Frame>, Option<FrameError>) {
    let (mut deframer, mut frames, mut fed) = (Deframer::new(), Vec::new(), 0);
    for piece in stream.chunks(step) {
        deframer.buffer().extend_from_slice(piece);
        fed += piece.len();
        loop {
            match deframer.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(deframer.next_frame(), Err(error.clone()), "nothing comes after an error");
                    return (frames, Some(error));
                }
            }
        }
        let capacity = deframer.buffer().capacity();
        assert!(capacity <= 2 * fed + (512 << 10), "{capacity} bytes reserved after {fed} arrived");
    }
    (frames, None)
}

fn repair_frames(mut rest: &mut [u8]) {
    let mut sequence = 0_u64;
    while rest.len() >= HEADER_BYTES {
        rest[0..6].copy_from_slice(b"LKS1\x01\x00");
        rest[24..32].copy_from_slice(&sequence.to_le_bytes());
        rest[20..24].fill(0);
        let stated = u32::from_le_bytes([rest[12], rest[13], rest[14], rest[15]]) as usize;
        let body_len = stated.min(rest.len() - HEADER_BYTES);
        rest[12..16].copy_from_slice(&(body_len as u32).to_le_bytes());
        let (frame, after) = rest.split_at_mut(HEADER_BYTES + body_len);
        let crc = crc32fast::hash(frame);
        frame[20..24].copy_from_slice(&crc.to_le_bytes());
        (rest, sequence) = (after, sequence + 1);
    }
}
