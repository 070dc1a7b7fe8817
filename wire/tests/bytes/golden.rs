//! The exact bytes of every message. A change of any of them is a change of the protocol.

use crate::{assert_file_holds, checks::deframe, samples};
use lockstep_wire::{Heartbeat, Message};
use std::{env, fmt::Write, fs, path::PathBuf};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"))
}

fn hex_text(comment: &str, bytes: &[u8]) -> String {
    let mut text = format!("# {comment}\n");
    for line in bytes.chunks(32) {
        for byte in line {
            write!(text, "{byte:02x}").expect("a String takes any text");
        }
        text.push('\n');
    }
    text
}

fn read_hex(name: &str) -> Vec<u8> {
    let path = golden(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("reading {}: {e}", path.display()));
    let digits: String = text.lines().filter(|line| !line.starts_with('#')).collect();
    let byte =
        |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("golden files hold hexadecimal digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

#[test]
fn every_message_kind_has_a_sample() {
    let kinds: Vec<u16> = samples::messages().iter().map(Message::kind).collect();
    let table: Vec<u16> = Message::TABLE.iter().map(|row| row.0).collect();
    assert_eq!(kinds, table);
}

#[test]
fn every_message_is_sent_as_its_golden_bytes_and_read_from_them() {
    for message in samples::messages() {
        let frame = samples::frame(&message, 0);
        let comment = format!(
            "A {} message (kind {}) in the first frame of a connection, epoch {}",
            message.name(),
            message.kind(),
            frame.header.epoch
        );
        assert_file_holds(&golden(message.name()), &hex_text(&comment, &samples::encoded(&frame, false)));
        assert_eq!(deframe(&read_hex(message.name()), 1), (vec![frame.clone()], None), "{}", message.name());
        assert_eq!(Message::decode(frame.header.kind, frame.body), Ok(message));
    }
}

#[test]
fn the_heartbeat_is_sent_as_its_golden_bytes_and_read_from_them() {
    let heartbeat = samples::heartbeat();
    let bytes = prost::Message::encode_to_vec(&heartbeat);
    assert_file_holds(&golden("Heartbeat"), &hex_text("A heartbeat, the plain text of a datagram", &bytes));
    assert_eq!(<Heartbeat as prost::Message>::decode(&read_hex("Heartbeat")[..]), Ok(heartbeat));
}

/// Another release of zstd may pack differently, so this file is written once and then only read.
#[test]
fn a_body_packed_by_another_release_of_zstd_is_read() {
    let message: Message =
        lockstep_wire::PageChunk { first_page: 9, data: vec![0x2a; 4096].into(), ..Default::default() }
            .into();
    let frame = samples::frame(&message, 0);
    if env::var_os("LOCKSTEP_BLESS").is_some() && !golden("packed").exists() {
        let comment = "A PageChunk of one page of 2a bytes, packed by zstd 1.5.7";
        fs::write(golden("packed"), hex_text(comment, &samples::encoded(&frame, true))).expect("blessing");
    }
    let bytes = read_hex("packed");
    assert!(bytes.len() < 150, "the golden frame is packed");
    assert_eq!(deframe(&bytes, 7), (vec![frame], None));
}

#[test]
fn no_golden_file_is_left_over() {
    let mut expected: Vec<String> = Message::TABLE.iter().map(|row| format!("{}.hex", row.1)).collect();
    expected.extend(["Heartbeat.hex".into(), "packed.hex".into()]);
    let folder = golden("x").with_file_name("");
    let mut found: Vec<String> = fs::read_dir(&folder)
        .expect("the golden files are beside the tests")
        .map(|entry| entry.expect("listing").file_name().into_string().expect("plain names"))
        .collect();
    found.retain(|name| !expected.contains(name));
    assert_eq!(found, [] as [String; 0], "golden files that no test reads");
}
