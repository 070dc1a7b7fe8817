//! Everything malformed gets its own error, which says what to do, and nothing gets past it.

use crate::{
    checks::deframe,
    samples::{NODE, encoded, frame},
};
use lockstep_wire::*;

/// A frame with `change` made to its bytes and the checksum put right again.
fn resealed(message: &Message, pack: bool, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = encoded(&frame(message, 0), pack);
    change(&mut bytes);
    bytes[20..24].fill(0);
    let crc = crc32fast::hash(&bytes);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn error_of(stream: &[u8]) -> FrameError {
    let (frames, error) = deframe(stream, stream.len());
    assert_eq!(frames, []);
    error.expect("the frame is refused")
}

fn ping() -> Message {
    Ping { nonce: 7, answer: false }.into()
}

fn zeros() -> Message {
    PageChunk { first_page: 1, data: vec![0; 4096].into(), ..PageChunk::default() }.into()
}

fn set_u32(at: usize, value: u32) -> impl FnOnce(&mut Vec<u8>) {
    move |bytes| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes())
}

#[test]
fn another_program_on_the_port_is_named_as_such() {
    let text = b"GET / HTTP/1.1\r\nHost: 10.0.0.1\r\nUser-Agent: curl/8.0\r\n\r\n";
    assert_eq!(error_of(text), FrameError::Magic(*b"GET "));
    assert!(error_of(text).to_string().contains("another program"));
}

#[test]
fn another_version_and_unknown_flags_ask_for_the_same_software() {
    for version in [0, 2, u16::MAX] {
        let found = error_of(&resealed(&ping(), false, |b| b[4..6].copy_from_slice(&version.to_le_bytes())));
        assert_eq!(found, FrameError::Version(version));
        assert!(found.to_string().contains("same software version"));
    }
    assert_eq!(error_of(&resealed(&ping(), false, |b| b[8] = 2)), FrameError::Flags(2));
}

#[test]
fn lengths_that_no_sender_writes_are_refused_before_the_body_comes() {
    let over = MAX_BODY_BYTES as u32 + 1;
    for (at, value, expected) in [
        (12, over, FrameError::TooLong(over)),
        (16, u32::MAX, FrameError::TooLong(u32::MAX)),
        (16, 5, FrameError::Lengths { sent: 9, unpacked: 5 }),
        // The flags say packed, and yet it is not shorter.
        (8, 0x0001_0001, FrameError::Lengths { sent: 9, unpacked: 9 }),
    ] {
        let bytes = resealed(&ping(), false, set_u32(at, value));
        assert_eq!(error_of(&bytes[..HEADER_BYTES]), expected);
    }
}

#[test]
fn a_body_that_unpacks_to_another_length_or_not_at_all_is_refused() {
    let length = frame(&zeros(), 0).body.len() as u32;
    for stated in [length - 1, length + 1] {
        assert_eq!(error_of(&resealed(&zeros(), true, set_u32(16, stated))), FrameError::Unpack(stated));
    }
    let damaged = resealed(&zeros(), true, |b| b[HEADER_BYTES] ^= 1);
    assert_eq!(error_of(&damaged), FrameError::Unpack(length));
}

#[test]
fn a_lost_doubled_or_altered_frame_ends_the_stream() {
    let bytes = |sequence| encoded(&frame(&ping(), sequence), false);
    let lost = [bytes(0), bytes(2)].concat();
    assert_eq!(deframe(&lost, 10).1, Some(FrameError::Sequence { expected: 1, found: 2 }));
    let doubled = [bytes(0), bytes(0)].concat();
    assert_eq!(deframe(&doubled, 10).1, Some(FrameError::Sequence { expected: 1, found: 0 }));
    let mut altered = bytes(0);
    *altered.last_mut().expect("a body") ^= 1;
    assert!(matches!(error_of(&altered), FrameError::Checksum { .. }));
}

#[test]
fn an_announced_body_reserves_no_more_than_a_usual_batch() {
    let mut deframer = Deframer::new();
    let longest = MAX_BODY_BYTES as u32;
    let bytes = resealed(&ping(), false, |b| {
        b[12..16].copy_from_slice(&longest.to_le_bytes());
        b[16..20].copy_from_slice(&longest.to_le_bytes());
    });
    deframer.buffer().extend_from_slice(&bytes[..HEADER_BYTES]);
    assert_eq!(deframer.next_frame(), Ok(None));
    let capacity = deframer.buffer().capacity();
    assert!(capacity <= 256 << 10, "{capacity} bytes reserved for a header");
}

#[test]
fn the_longest_body_is_sent_and_read() {
    let data = vec![7; MAX_BODY_BYTES - 100].into();
    let longest = frame(&PageChunk { first_page: 1, data, ..PageChunk::default() }.into(), 0);
    assert_eq!(deframe(&encoded(&longest, false), 100_000), (vec![longest.clone()], None));
    assert_eq!(deframe(&encoded(&longest, true), 100_000), (vec![longest], None));
}

#[test]
fn a_message_of_unknown_kind_or_hostile_length_is_refused() {
    assert_eq!(Message::decode(999, Vec::new().into()), Err(MessageError::UnknownKind(999)));
    // A list of a million empty names would take fifty times its length in memory.
    let names = [0x0a, 0x00].repeat(1 << 20);
    assert!(matches!(Message::decode(3, names.into()), Err(MessageError::TooLong { name: "Databases", .. })));
    let error = Message::decode(6, vec![0xff; 20].into()).expect_err("no such message");
    assert!(error.to_string().starts_with("WalBatch message is malformed"), "{error}");
}

/// Two bytes of list for every entry: decoded at once it would take a hundred times as much.
#[test]
fn a_packed_list_ends_at_its_first_error_and_takes_no_memory_for_entries_not_read() {
    let hostile = [vec![0; 1000], vec![0x05, 0x08]].concat();
    let ops = TreeOps { ops: hostile.into(), ..TreeOps::default() };
    let Ok(Message::TreeOps(read)) = Message::decode(21, prost::Message::encode_to_vec(&ops).into()) else {
        panic!("the list is not looked into")
    };
    let entries: Vec<_> = unpack::<TreeOp>(read.ops).collect();
    assert_eq!(entries.len(), 1001);
    assert!(entries[..1000].iter().all(|entry| entry == &Ok(TreeOp::default())));
    assert!(entries[1000].is_err(), "an entry longer than the list");
}

#[test]
fn a_later_versions_unknown_field_is_skipped() {
    let mut body = ping().encode().to_vec();
    body.extend([0xf8, 0x01, 0x05]); // field 31, number 5
    assert_eq!(Message::decode(15, body.into()), Ok(ping()));
}

#[test]
fn a_wrong_text_is_refused_with_the_right_form_and_never_fills_the_log() {
    let long = "x".repeat(100_000);
    for error in [
        long.parse::<Epoch>().expect_err("no epoch"),
        long.parse::<Position>().expect_err("no position"),
        long.parse::<NodeId>().expect_err("no node"),
        long.parse::<PairId>().expect_err("no pair"),
    ] {
        assert!(error.to_string().len() < 250, "{error}");
    }
    for name in ["", "-rf", "--json", "a b", "Shop", "../x", "a\n", &"a".repeat(33)] {
        assert!(name.parse::<PairId>().is_err(), "{name:?} is no name");
    }
    for text in [
        "3-00112233aabbccdd",
        "+0000000000000000003-00112233aabbccdd",
        "99999999999999999999-0011223344556677",
    ] {
        assert!(text.parse::<Epoch>().is_err(), "{text} is no epoch");
    }
    for text in ["00000000000000000003.4294967296", "00000000000000000003", "0.0"] {
        assert!(text.parse::<Position>().is_err(), "{text} is no position");
    }
}

#[test]
fn epochs_grow_by_counter_and_then_by_node_and_never_fall() {
    let (low, high) = (NodeId(1), NodeId(2));
    let third = Epoch { counter: 3, node: high };
    assert!(third.next(low) > third);
    assert!(Epoch { counter: 3, node: low } < third);
    assert!(Epoch::NONE < Epoch::NONE.next(NODE));
    let last = Epoch { counter: u64::MAX, node: low };
    assert_eq!(last.next(high), Epoch { counter: u64::MAX, node: high });
}

#[test]
fn two_nodes_speak_the_highest_version_both_know() {
    let current = ProtocolVersion::CURRENT;
    assert_eq!(ProtocolVersion::common(current.into(), u32::MAX), Some(current));
    assert_eq!(ProtocolVersion::common(0, current.into()), Some(current));
    assert_eq!(ProtocolVersion::common(u32::from(current) + 1, u32::MAX), None);
    assert_eq!(ProtocolVersion::common(0, 0), None);
    assert_eq!(ProtocolVersion::common(5, 1), None, "an empty range has nothing in common");
}
