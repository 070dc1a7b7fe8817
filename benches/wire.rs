//! Frames per second of the receiving side, beside what the same bytes cost at least.
//!
//! `memcpy` and `crc32fast` run over the same bytes in the same run: the deframer copies a stream once
//! (as a read from a socket does) and checks it once, so it cannot be faster than both together.

#![allow(missing_docs, reason = "criterion's macros make public items")]

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use lockstep_wire::{Deframer, Epoch, Frame, FrameHeader, Message, NodeId, ProtocolVersion, WalBatch};
use std::hint::black_box;

/// More than the second-level cache holds, less than the third.
const STREAM_BYTES: usize = 4 << 20;

/// What one read from a socket returns at most.
const READ_BYTES: usize = 64 << 10;

/// WAL frames of `batch_bytes` in all, of bytes that do not repeat.
fn batch(sequence: u64, batch_bytes: usize) -> Frame {
    let mut state = sequence + 1;
    let data: Bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(batch_bytes)
    .collect::<Vec<_>>()
    .into();
    let message: Message = WalBatch {
        generation: 3,
        first_frame: 1,
        chain_before: u64::MAX,
        chain_after: u64::MAX,
        published_frame: 1,
        data,
        gather_ms: 0,
    }
    .into();
    let epoch = Epoch { counter: 3, node: NodeId(0x0011_2233_aabb_ccdd) };
    let version = ProtocolVersion::CURRENT;
    let header = FrameHeader { version, kind: message.kind(), stream: 1, sequence, epoch };
    Frame { header, body: message.encode() }
}

fn receive(stream: &[u8], mut each: impl FnMut(Frame)) {
    let mut deframer = Deframer::new();
    for read in stream.chunks(READ_BYTES) {
        deframer.buffer().extend_from_slice(read);
        while let Some(frame) = deframer.next_frame().expect("a sound stream") {
            each(frame);
        }
    }
}

fn wire(criterion: &mut Criterion) {
    for (name, batch_bytes) in [("4KiB", 4 << 10), ("128KiB", 128 << 10)] {
        let frames: Vec<Frame> =
            (0..(STREAM_BYTES / batch_bytes) as u64).map(|i| batch(i, batch_bytes)).collect();
        let mut stream = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(None, &mut stream));
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(stream.len() as u64));
        let mut copy = vec![0_u8; stream.len()];
        group.bench_function("memcpy", |b| b.iter(|| black_box(&mut copy).copy_from_slice(&stream)));
        group.bench_function("crc32fast", |b| {
            b.iter(|| stream.chunks(batch_bytes).for_each(|chunk| _ = black_box(crc32fast::hash(chunk))));
        });
        group.bench_function("deframer", |b| b.iter(|| receive(&stream, |frame| _ = black_box(frame))));
        group.bench_function("deframer_and_message", |b| {
            b.iter(|| {
                receive(&stream, |frame| {
                    let message = Message::decode(frame.header.kind, frame.body);
                    black_box(message.expect("a sound message"));
                });
            });
        });
        group.bench_function("frame_encode", |b| {
            b.iter_batched_ref(
                || BytesMut::with_capacity(stream.len()),
                |out| frames.iter().for_each(|frame| frame.encode(None, out)),
                BatchSize::LargeInput,
            );
        });
        group.finish();
    }
}

criterion_group!(benches, wire);
criterion_main!(benches);
