//! The fuzz corpus, replayed on the stable toolchain: what a fuzzer once found stays found.

use crate::{checks, samples};
use lockstep_wire::Message;
use std::{env, fs, path::PathBuf};

fn replay(target: &str, check: fn(&[u8])) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("listing {}: {e}", folder.display()));
    let mut count = 0;
    for entry in entries {
        let path = entry.expect("listing the corpus").path();
        println!("{}", path.display());
        check(&fs::read(&path).expect("reading a corpus file"));
        count += 1;
    }
    assert!(count >= 20, "only {count} files in {}", folder.display());
}

#[test]
fn what_the_fuzzers_found_stays_found() {
    if env::var_os("LOCKSTEP_BLESS").is_some() {
        write_seeds();
    }
    replay("deframer", checks::deframer);
    replay("messages", checks::messages);
}

/// The seeds follow from the samples, so that a new message is fuzzed from its first day.
fn write_seeds() {
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let write = |target: &str, name: &str, parts: &[&[u8]]| {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder).expect("making the corpus folder");
        fs::write(folder.join(name), parts.concat()).expect("writing a seed");
    };
    let mut stream = Vec::new();
    for (sequence, message) in samples::messages().iter().enumerate() {
        let frame = samples::frame(message, 0);
        let seed = format!("seed-{}", message.name());
        write("deframer", &seed, &[&[0, 6], &samples::encoded(&frame, false)]);
        write("messages", &seed, &[&message.kind().to_le_bytes(), &message.encode()]);
        stream.extend(samples::encoded(&samples::frame(message, sequence as u64), false));
    }
    write("deframer", "seed-all", &[&[1, 200], &stream]);
    write("deframer", "seed-all-by-byte", &[&[0, 0], &stream]);
    write("deframer", "seed-truncated", &[&[0, 40], &stream[..stream.len() - 1]]);
    let zeros: Message =
        lockstep_wire::PageChunk { first_page: 1, data: vec![0; 65_536].into(), ..Default::default() }.into();
    write("deframer", "seed-packed", &[&[1, 99], &samples::encoded(&samples::frame(&zeros, 0), true)]);
    write("messages", "seed-heartbeat", &[&[0, 0], &prost::Message::encode_to_vec(&samples::heartbeat())]);
    for text in ["00000000000000000003-00112233aabbccdd", "00000000000000000003.0000000042", "shop-2"] {
        write("messages", &format!("seed-text-{text}"), &[&[0, 0], text.as_bytes()]);
    }
}
