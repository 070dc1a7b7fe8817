//! Small state files as text: a title, lines of words, and a checksum over all of it.
//!
//! Pure; written and replaced through [`crate::durable`]. What the lines mean is their owner's.

use xxhash_rust::xxh3::xxh3_64;

/// Appends the line with the checksum over `text`, whose first line is the title.
pub(crate) fn seal(mut text: String) -> String {
    let check = xxh3_64(text.as_bytes());
    text.push_str(&format!("check {check:016x}\n"));
    text
}

/// The lines after the title of a text that [`seal`] made.
///
/// # Errors
/// What is wrong with it, in words.
pub(crate) fn unseal<'a>(text: &'a str, title: &str) -> Result<std::str::Lines<'a>, String> {
    let (body, check) = text.rsplit_once("check ").ok_or("it has no checksum")?;
    if check.trim_end() != format!("{:016x}", xxh3_64(body.as_bytes())) {
        return Err("its checksum is wrong".to_owned());
    }
    let mut lines = body.lines();
    if lines.next() != Some(title) {
        return Err(format!("expected \"{title}\" in its first line"));
    }
    Ok(lines)
}
