//! docs/protocol.md says what the code says: its tables are generated from the sources.

use crate::assert_file_holds;
use lockstep_wire::{HEADER_BYTES, MAX_BODY_BYTES, MAX_CONTROL_BYTES, Message, ProtocolVersion, VERSIONS};
use std::{fmt::Write, fs, path::PathBuf};

const MESSAGES: &str = include_str!("../../src/messages.rs");
const TREES: &str = include_str!("../../src/tree.rs");
const HEARTBEAT: &str = include_str!("../../src/heartbeat.rs");
const FRAME: &str = include_str!("../../src/frame.rs");

/// A message or enumeration as its source declares it.
#[derive(Default)]
struct Declared {
    name: String,
    meaning: String,
    /// (number, name, type, meaning); the type is empty for an enumeration's value.
    fields: Vec<(u32, String, String, String)>,
}

/// Reads the prost structs and enumerations of a source file. It knows just as much Rust as those need.
fn declared(source: &str) -> Vec<Declared> {
    let mut found: Vec<Declared> = Vec::new();
    let (mut docs, mut attribute) = (String::new(), String::new());
    for line in source.lines().map(str::trim).take_while(|line| !line.starts_with("macro_rules!")) {
        if let Some(doc) = line.strip_prefix("///") {
            docs.push_str(doc);
        } else if let Some(prost) = line.strip_prefix("#[prost(") {
            attribute = prost.trim_end_matches(")]").to_owned();
        } else if let Some(rest) = line.strip_prefix("pub struct ").or(line.strip_prefix("pub enum ")) {
            let name = rest.trim_end_matches(" {").to_owned();
            found.push(Declared { name, meaning: plain(&docs), fields: Vec::new() });
        } else if let (Some(rest), false) = (line.strip_prefix("pub "), attribute.is_empty()) {
            let (name, _) = rest.split_once(':').expect("a field has a type");
            let (kind, tag) = attribute.split_once(", tag = \"").expect("every field has an explicit tag");
            let tag = tag.trim_end_matches('"').parse().expect("tags are numbers");
            let owner = found.last_mut().expect("a field has an owner");
            owner.fields.push((tag, name.to_owned(), field_type(kind), plain(&docs)));
        } else if let Some((name, number)) = line.trim_end_matches(',').split_once(" = ")
            && let (Ok(number), Some(owner)) = (number.parse(), found.last_mut())
        {
            owner.fields.push((number, name.to_owned(), String::new(), plain(&docs)));
        } else if !line.starts_with('#') {
            docs.clear();
        }
        if !line.starts_with("///") && !line.starts_with('#') {
            docs.clear();
            attribute.clear();
        }
    }
    found
}

/// Documentation for Markdown: one line, links to code as code.
fn plain(docs: &str) -> String {
    docs.trim().replace("[`", "`").replace("`]", "`").replace('|', "\\|")
}

fn field_type(prost: &str) -> String {
    let plain = match prost.strip_prefix("enumeration = \"") {
        Some(name) => name.replace('"', ""),
        None => prost.to_owned(),
    };
    plain.replace(" = \"bytes\"", "").replace(", repeated", " list").replace(", optional", " or none")
}

fn field_table(of: &Declared) -> String {
    if of.fields.iter().all(|field| field.2.is_empty()) {
        return value_table(of);
    }
    let mut text = String::from("| tag | field | type | meaning |\n|---|---|---|---|\n");
    for (tag, name, kind, meaning) in &of.fields {
        writeln!(text, "| {tag} | `{name}` | {kind} | {meaning} |").expect("a String takes any text");
    }
    text
}

fn value_table(of: &Declared) -> String {
    let mut text = format!("{}\n\n| value | name | meaning |\n|---|---|---|\n", of.meaning);
    for (number, name, _, meaning) in &of.fields {
        writeln!(text, "| {number} | `{name}` | {meaning} |").expect("a String takes any text");
    }
    text
}

fn frame_table() -> String {
    let rows: String =
        FRAME.lines().filter_map(|line| line.strip_prefix("//! |")).map(|row| format!("|{row}\n")).collect();
    format!("{rows}\nThe header has {HEADER_BYTES} bytes, a body at most {MAX_BODY_BYTES} (packed or not).\n")
}

fn message_tables() -> String {
    let declared = all_messages();
    let find = |name: &str| declared.iter().find(|d| d.name == name).expect("every message is declared");
    let mut text =
        String::from("| kind | message | sent by | longest body | meaning |\n|---|---|---|---|---|\n");
    for (kind, name, sender, longest) in Message::TABLE {
        let meaning = &find(name).meaning;
        writeln!(text, "| {kind} | {name} | {sender} | {} KiB | {meaning} |", longest >> 10).expect("text");
    }
    assert!(MAX_CONTROL_BYTES.is_multiple_of(1024) && MAX_BODY_BYTES.is_multiple_of(1024));
    for of in &declared {
        write!(text, "\n### {}\n\n{}", of.name, field_table(of)).expect("text");
    }
    text
}

/// The messages of both files, and the enumerations of their fields.
fn all_messages() -> Vec<Declared> {
    let mut all = declared(MESSAGES);
    all.extend(declared(TREES));
    all.retain(|of| !of.fields.is_empty());
    all
}

fn version_table() -> String {
    let rows: String = VERSIONS.iter().map(|v| format!("| {} | {} |\n", v.number, v.change)).collect();
    let (oldest, newest) = (ProtocolVersion::OLDEST, ProtocolVersion::CURRENT);
    format!("| version | change |\n|---|---|\n{rows}\nThis software speaks {oldest} to {newest}.\n")
}

fn heartbeat_tables() -> String {
    let declared = declared(HEARTBEAT);
    let [heartbeat, intent] = &declared[..] else { panic!("a heartbeat and its intent are declared") };
    let mut text = field_table(heartbeat);
    text.push_str("\n| intent | name | meaning |\n|---|---|---|\n");
    for (number, name, _, meaning) in &intent.fields {
        writeln!(text, "| {number} | `{name}` | {meaning} |").expect("a String takes any text");
    }
    text
}

#[test]
fn the_tables_of_the_protocol_page_are_those_of_the_code() {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    let mut text = fs::read_to_string(&page).unwrap_or_else(|e| panic!("reading {}: {e}", page.display()));
    for (section, table) in [
        ("frame", frame_table()),
        ("messages", message_tables()),
        ("versions", version_table()),
        ("heartbeat", heartbeat_tables()),
    ] {
        let (begin, end) =
            (format!("<!-- {section}: from the code -->\n"), format!("<!-- end of {section} -->\n"));
        let start = text.find(&begin).unwrap_or_else(|| panic!("docs/protocol.md has {begin}")) + begin.len();
        let stop = text.find(&end).unwrap_or_else(|| panic!("docs/protocol.md has {end}"));
        text.replace_range(start..stop, &table);
    }
    assert_file_holds(&page, &text);
}

#[test]
fn tags_and_kinds_are_used_once() {
    let trees = declared(TREES);
    let unpack = "Unpack<M>";
    for of in declared(MESSAGES).iter().chain(&trees).chain(&declared(HEARTBEAT)) {
        assert!(!of.fields.is_empty() || of.name == unpack, "{} has fields", of.name);
        assert!(of.fields.iter().all(|f| !f.3.is_empty()), "every field of {} is explained", of.name);
        assert!(of.fields.windows(2).all(|two| two[0].0 < two[1].0), "tags of {} grow", of.name);
    }
    assert!(Message::TABLE.windows(2).all(|two| two[0].0 < two[1].0), "kinds grow");
}

#[test]
fn the_version_table_leads_from_the_oldest_version_to_the_current_one() {
    let numbers: Vec<u16> = VERSIONS.iter().map(|v| v.number).collect();
    let expected: Vec<u16> = (ProtocolVersion::OLDEST..=ProtocolVersion::CURRENT).collect();
    assert!(numbers.ends_with(&expected), "{numbers:?} ends with {expected:?}");
}
