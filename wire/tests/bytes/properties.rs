//! What must hold for every value and every stream: splits, damage, round trips and order.

use crate::{
    checks::deframe,
    samples::{encoded, frame},
};
use bytes::Bytes;
use lockstep_wire::*;
use proptest::{collection::vec, prelude::*};

fn body_bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..600).prop_map(Bytes::from)
}

fn mirror_state() -> impl Strategy<Value = MirrorState> {
    let published = any::<(Option<u32>, u64)>();
    (any::<(u32, bool, u64, u32, u64)>(), any::<(u64, u32, u32, bool, bool)>(), published).prop_map(
        |(a, b, c)| MirrorState {
            stream: a.0,
            complete: a.1,
            generation: a.2,
            frame: a.3,
            chain: a.4,
            salts: b.0,
            page_size: b.1,
            page_count: b.2,
            has_pages: b.3,
            diverged: b.4,
            rewinds: !b.4,
            published_frame: c.0,
            published_chain: c.1,
        },
    )
}

fn control_message() -> impl Strategy<Value = Message> {
    prop_oneof![
        (any::<(u32, u32)>(), any::<(String, String, String)>(), any::<(u64, u64)>()).prop_map(
            |(v, t, id)| {
                let (software, node_name, pair) = t;
                let (version_min, version_max, node, session) = (v.0, v.1, id.0, id.1);
                Hello { version_min, version_max, software, node_name, node, pair, session }.into()
            }
        ),
        any::<(String, String)>().prop_map(|(code, sentence)| Refusal { code, sentence }.into()),
        (vec(any::<String>(), 0..8), any::<u64>()).prop_map(|(names, boot)| Databases {
            names,
            attributes: Vec::new(),
            boot
        }
        .into()),
        vec(mirror_state(), 0..8).prop_map(|states| MirrorStates { states }.into()),
        any::<(u64, bool)>().prop_map(|(nonce, answer)| Ping { nonce, answer }.into()),
        any::<String>().prop_map(|reason| Goodbye { reason }.into()),
    ]
}

fn data_message() -> impl Strategy<Value = Message> {
    prop_oneof![
        (any::<(u64, u32, u64, bool)>(), body_bytes()).prop_map(|(n, wal_header)| {
            let (generation, previous_frame, previous_chain, fresh) = n;
            Generation { generation, wal_header, previous_frame, previous_chain, fresh }.into()
        }),
        (any::<(u64, u32, u64, u64, (u32, u32))>(), body_bytes()).prop_map(|(n, data)| {
            let (generation, first_frame, chain_before, chain_after, (published_frame, gather_ms)) = n;
            WalBatch { generation, first_frame, chain_before, chain_after, published_frame, data, gather_ms }
                .into()
        }),
        any::<(u64, u32, u32)>().prop_map(|(generation, received_frame, durable_frame)| {
            {
                let content = (durable_frame % 2 == 1).then_some(generation);
                let complete = generation % 2 == 0;
                let content_frame = durable_frame;
                Ack { generation, received_frame, durable_frame, complete, content_frame, content }.into()
            }
        }),
        any::<(u64, u32, u64)>()
            .prop_map(|(generation, frame, chain)| Rewind { generation, frame, chain }.into()),
        any::<(u64, u32)>().prop_map(|(generation, frame)| Rewound { generation, frame }.into()),
        any::<(bool, u32, u32)>().prop_map(|(resync, page_size, page_count)| {
            let fork = (!resync).then_some(ForkPoint { frame: page_size, ..ForkPoint::default() });
            CopyBegin {
                resync,
                page_size,
                page_count,
                keep: !resync,
                attributes: None,
                verify: resync,
                fork,
                rewind: resync,
            }
            .into()
        }),
        any::<(u32, u32)>().prop_map(|(first_page, page_count)| HashRequest {
            first_page,
            page_count,
            frame: page_count,
            ..HashRequest::default()
        }
        .into()),
        (any::<u32>(), body_bytes()).prop_map(|(first_page, hashes)| PageHashes {
            first_page,
            hashes,
            ..PageHashes::default()
        }
        .into()),
        (any::<u32>(), body_bytes()).prop_map(|(first_page, data)| PageChunk {
            first_page,
            data,
            ..PageChunk::default()
        }
        .into()),
        any::<(u64, u32, u64, u64)>().prop_map(|(generation, frame, chain, salts)| {
            ForkQuery { fork: Some(ForkPoint { generation, frame, chain, salts }) }.into()
        }),
        (any::<bool>(), body_bytes()).prop_map(|(held, runs)| ForkPages { held, runs }.into()),
        any::<(u64, u32, u32)>()
            .prop_map(|(generation, frame, page_count)| { CopyEnd { generation, frame, page_count }.into() }),
    ]
}

fn tree_op() -> impl Strategy<Value = TreeOp> {
    let bytes = (body_bytes(), body_bytes(), body_bytes());
    let meta = proptest::option::of((any::<(u32, u32, u32)>(), any::<(i64, u32)>(), body_bytes()));
    (any::<i32>(), any::<(u64, u64, u64)>(), bytes, meta).prop_map(|(kind, numbers, bytes, meta)| TreeOp {
        kind,
        size: numbers.0,
        offset: numbers.1,
        length: numbers.2,
        path: bytes.0,
        from: bytes.1,
        content: bytes.2.slice(..bytes.2.len().min(16)),
        data: bytes.2,
        expected: (kind % 2 == 0).then_some(TreeExpected { size: numbers.0, ..TreeExpected::default() }),
        meta: meta.map(|(owner, (mtime_s, mtime_ns), xattrs)| {
            let (mode, user, group) = owner;
            TreeMeta { mode, user, group, mtime_s, mtime_ns, xattrs }
        }),
    })
}

fn tree_message() -> impl Strategy<Value = Message> {
    prop_oneof![
        (any::<(u64, u64, bool)>(), vec(tree_op(), 0..6)).prop_map(|((index, batch, last), ops)| {
            TreeOps { index, batch, last, ops: pack(ops) }.into()
        }),
        (any::<(u64, u64, u64, bool)>(), body_bytes()).prop_map(|(n, failures)| {
            TreeAck { index: n.0, batch: n.1, received_bytes: n.2, more: n.3, failures }.into()
        }),
        (any::<(u64, i32, bool)>(), body_bytes()).prop_map(|((request, question, deep), path)| {
            TreeListRequest { request, question, path, deep }.into()
        }),
        (any::<(u64, bool, u64, String)>(), body_bytes()).prop_map(|(n, entries)| {
            let (request, last, first_batch, fault) = n;
            TreeListing { request, entries, last, first_batch, fault, ..TreeListing::default() }.into()
        }),
        any::<(String, u64, u64)>().prop_map(|(name, index, batch)| {
            Trees { trees: vec![TreeAnnounced { name, index, batch }; 2] }.into()
        }),
        any::<(u32, u64, u64, bool, String)>().prop_map(|(stream, index, batch, empty, fault)| {
            let state = TreeState { stream, index, batch, interrupted: !empty, empty, fault };
            TreeStates { states: vec![state] }.into()
        }),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![control_message(), data_message(), tree_message()]
}

fn epoch() -> impl Strategy<Value = Epoch> {
    // Small numbers too, so that equal counters and leading zeros occur.
    (prop_oneof![any::<u64>(), 0..12_u64], any::<u64>())
        .prop_map(|(counter, node)| Epoch { counter, node: NodeId(node) })
}

fn position() -> impl Strategy<Value = Position> {
    (prop_oneof![any::<u64>(), 0..12_u64], any::<u32>()).prop_map(|(generation, frame)| Position {
        generation: WalGeneration(generation),
        frame: FrameNo(frame),
    })
}

fn assert_texts_sort<T>(a: &T, b: &T) -> Result<(), TestCaseError>
where
    T: Ord + std::fmt::Debug + std::fmt::Display + std::str::FromStr<Err = IdError>,
{
    prop_assert_eq!(&a.to_string().parse::<T>().expect("its own text"), a);
    prop_assert_eq!(a.to_string().cmp(&b.to_string()), a.cmp(b));
    Ok(())
}

#[test]
fn a_batch_is_read_without_copying_its_data() {
    let message: Message =
        PageChunk { first_page: 1, data: crate::samples::bytes(4096), ..PageChunk::default() }.into();
    let (frames, _) = deframe(&encoded(&frame(&message, 0), false), 1000);
    let body = frames[0].body.clone();
    let Ok(Message::PageChunk(chunk)) = Message::decode(frames[0].header.kind, body.clone()) else {
        panic!("the chunk comes back")
    };
    assert!(body.as_ptr_range().contains(&chunk.data.as_ptr()), "the data lies inside the frame's body");
}

/// Every cut, between any two bytes and into single bytes, of a stream with packed and plain frames.
#[test]
fn every_split_of_a_stream_gives_the_same_frames() {
    let messages = crate::samples::messages();
    let frames: Vec<Frame> = messages.iter().zip(0..).map(|(m, sequence)| frame(m, sequence)).collect();
    let stream: Vec<u8> = frames.iter().flat_map(|f| encoded(f, f.header.sequence % 2 == 0)).collect();
    for cut in 0..stream.len() {
        let mut deframer = Deframer::new();
        let mut found = Vec::new();
        for piece in [&stream[..cut], &stream[cut..]] {
            deframer.buffer().extend_from_slice(piece);
            while let Some(frame) = deframer.next_frame().expect("a sound stream") {
                found.push(frame);
            }
        }
        assert_eq!(found, frames, "cut at {cut}");
    }
    for step in 1..100 {
        assert_eq!(deframe(&stream, step), (frames.clone(), None), "in pieces of {step}");
    }
}

#[test]
fn every_flipped_bit_of_a_frame_is_refused_or_leaves_it_incomplete() {
    for message in crate::samples::messages() {
        for pack in [false, true] {
            let sound = encoded(&frame(&message, 0), pack);
            for bit in 0..sound.len() * 8 {
                let mut damaged = sound.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(deframe(&damaged, damaged.len()).0, [], "bit {bit} of {}", message.name());
            }
        }
    }
}

proptest! {
    #[test]
    fn every_message_survives_the_wire(messages in vec(message(), 1..6), pack: bool, step in 1..700_usize) {
        let frames: Vec<Frame> = messages.iter().zip(0..).map(|(m, sequence)| frame(m, sequence)).collect();
        let stream: Vec<u8> = frames.iter().flat_map(|f| encoded(f, pack)).collect();
        let (found, error) = deframe(&stream, step);
        prop_assert_eq!(error, None);
        let found: Result<Vec<Message>, _> =
            found.into_iter().map(|f| Message::decode(f.header.kind, f.body)).collect();
        prop_assert_eq!(found, Ok(messages));
    }

    #[test]
    fn a_truncated_frame_is_incomplete_and_a_burst_of_wrong_bits_is_refused(
        message in message(), pack: bool, at: prop::sample::Index, burst in 1..=u32::MAX,
    ) {
        let sound = encoded(&frame(&message, 0), pack);
        prop_assert_eq!(deframe(&sound[..at.index(sound.len())], 50), (vec![], None));
        // CRC-32 finds every burst of up to 32 bits.
        let mut damaged = sound;
        let first = at.index(damaged.len() - 3);
        for (byte, wrong) in damaged[first..].iter_mut().zip(burst.to_le_bytes()) {
            *byte ^= wrong;
        }
        prop_assert_eq!(deframe(&damaged, 64).0, vec![]);
    }

    #[test]
    fn any_bytes_are_taken_without_a_panic(data in vec(any::<u8>(), 0..400), kind in 0..40_u16) {
        crate::checks::deframer(&data);
        crate::checks::messages(&[&kind.to_le_bytes()[..], &data].concat());
    }

    #[test]
    fn a_packed_list_is_read_entry_by_entry_without_copying(ops in vec(tree_op(), 0..6)) {
        let list = pack(ops.clone());
        let read: Vec<TreeOp> = unpack(list.clone()).collect::<Result<_, _>>().expect("a sound list");
        let inside = |data: &Bytes| data.is_empty() || list.as_ptr_range().contains(&data.as_ptr());
        prop_assert!(read.iter().all(|op| inside(&op.data)), "the data lies inside the list");
        prop_assert_eq!(read, ops);
    }

    #[test]
    fn epochs_positions_and_ids_round_trip_and_sort_as_text(
        epochs in (epoch(), epoch()), positions in (position(), position()), ids: (u64, u64),
        names in ("[a-z0-9][a-z0-9-]{0,31}", "[a-z0-9][a-z0-9-]{0,31}"),
    ) {
        assert_texts_sort(&epochs.0, &epochs.1)?;
        assert_texts_sort(&positions.0, &positions.1)?;
        assert_texts_sort(&NodeId(ids.0), &NodeId(ids.1))?;
        assert_texts_sort(&SessionId(ids.0), &SessionId(ids.1))?;
        let pairs: Vec<PairId> = [&names.0, &names.1].map(|n| n.parse().expect("a name")).into();
        assert_texts_sort(&pairs[0], &pairs[1])?;
        prop_assert!(epochs.0.next(NodeId(ids.0)).counter >= epochs.0.counter);
    }

    #[test]
    fn a_text_stands_for_a_value_only_if_it_is_the_values_text(text in "[-+. 0-9a-fA-F]{0,40}") {
        crate::checks::messages(&[b"\0\0", text.as_bytes()].concat());
    }

    #[test]
    fn packed_salts_and_chains_come_back(words: [u32; 2]) {
        prop_assert_eq!(Chain::from_packed(Chain(words).packed()), Chain(words));
        prop_assert_eq!(Salts::from_packed(Salts(words).packed()), Salts(words));
    }
}
