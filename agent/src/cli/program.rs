//! Can a library be preloaded into this program? Reads the program's file; starts nothing.
//!
//! The dynamic linker ignores LD_PRELOAD for set-user-ID programs, and is not there at all in
//! statically linked ones.

use anyhow::{Context, bail};
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::unix::ffi::OsStrExt,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Interpreters of interpreters: the kernel follows five.
const SCRIPTS_MAX: u32 = 5;

/// Longest first line of a script that the kernel reads.
const SCRIPT_LINE_BYTES: usize = 256;

/// Program headers looked at; real programs have a dozen.
const HEADERS_MAX: u16 = 256;

const SET_ID_BITS: u32 = 0o6000;
const PT_INTERP: u32 = 3;

/// Why a library cannot be preloaded into `program`; `None`: it can.
///
/// # Errors
/// The program is not found or cannot be read.
pub(super) fn refuses_preload(program: &Path) -> anyhow::Result<Option<String>> {
    let mut path = find(program)?;
    for _ in 0..SCRIPTS_MAX {
        let mut file = File::open(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        if file.metadata()?.mode() & SET_ID_BITS != 0 {
            return Ok(Some(format!("{} is set-user-ID or set-group-ID", path.display())));
        }
        let mut head = [0; SCRIPT_LINE_BYTES];
        let length = read_some(&mut file, &mut head)?;
        if let Some(interpreter) = interpreter(&head[..length]) {
            path = find(&interpreter)?;
        } else if head.starts_with(b"\x7fELF\x02\x01") && !has_linker(&mut file, &head)? {
            return Ok(Some(format!("{} is linked statically", path.display())));
        } else {
            return Ok(None);
        }
    }
    Ok(None)
}

/// Where the shell would find it.
fn find(program: &Path) -> anyhow::Result<PathBuf> {
    if program.as_os_str().as_bytes().contains(&b'/') {
        return Ok(program.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|dir| dir.join(program));
    let Some(found) = places.find(|place| place.is_file()) else {
        bail!("{} is not found in PATH", program.display());
    };
    Ok(found)
}

fn read_some(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..])? {
            0 => break,
            n => length += n,
        }
    }
    Ok(length)
}

/// The interpreter of a script, and for `/usr/bin/env NAME` that name.
fn interpreter(head: &[u8]) -> Option<PathBuf> {
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let mut words = line.split(|byte| b" \t".contains(byte)).filter(|word| !word.is_empty());
    let first = Path::new(std::ffi::OsStr::from_bytes(words.next()?));
    let named = first.ends_with("env").then(|| words.find(|word| !word.starts_with(b"-"))).flatten();
    Some(named.map_or_else(|| first.to_owned(), |word| std::ffi::OsStr::from_bytes(word).into()))
}

/// Does the 64-bit little-endian ELF file name a dynamic linker?
fn has_linker(file: &mut File, head: &[u8; SCRIPT_LINE_BYTES]) -> anyhow::Result<bool> {
    let half = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let offset = u64::from_le_bytes(head[32..40].try_into().expect("eight bytes"));
    let (size, count) = (half(54), half(56).min(HEADERS_MAX));
    for index in 0..count {
        let mut kind = [0; 4];
        file.seek(SeekFrom::Start(offset.saturating_add(u64::from(index) * u64::from(size))))?;
        if file.read_exact(&mut kind).is_err() {
            return Ok(false);
        }
        if u32::from_le_bytes(kind) == PT_INTERP {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn dynamic_programs_and_scripts_are_taken() {
        assert_eq!(refuses_preload(Path::new("sh")).expect("a shell is there"), None);
        let dir = tempfile::tempdir().expect("a directory");
        let script = dir.path().join("script");
        std::fs::write(&script, "#!/usr/bin/env sh\nexit 0\n").expect("it is written");
        assert_eq!(refuses_preload(&script).expect("it is readable"), None);
    }

    #[test]
    fn static_and_set_id_programs_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let program = dir.path().join("program");
        let mut elf = vec![0; 512];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (elf[32], elf[54], elf[56], elf[64]) = (64, 56, 1, 1);
        std::fs::write(&program, &elf).expect("it is written");
        let reason = refuses_preload(&program).expect("it is readable").expect("refused");
        assert!(reason.ends_with("is linked statically"), "{reason}");
        elf[64] = 3;
        std::fs::write(&program, &elf).expect("it is written");
        assert_eq!(refuses_preload(&program).expect("it is readable"), None);
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o4755)).expect("it is ours");
        assert!(refuses_preload(&program).expect("it is readable").is_some());
        assert!(refuses_preload(Path::new("no-such-program-anywhere")).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let dir = tempfile::tempdir().expect("a directory");
        let program = dir.path().join("program");
        let heads: [&[u8]; 4] = [b"", b"#!", b"#! \t", b"\x7fELF\x02\x01"];
        for head in heads {
            for fill in [0, 0xff] {
                let mut bytes = head.to_vec();
                bytes.resize(300, fill);
                std::fs::write(&program, &bytes[..head.len().max(bytes.len() - 1)]).expect("it is written");
                let _ = refuses_preload(&program);
            }
        }
    }
}
