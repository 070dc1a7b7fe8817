//! What a standby remembers of a tree: a state file in the agent's directory, and in the tree's hidden directory the
//! paths of the batch that is, or was last, put in place.
//!
//! The state names the last batch that is on disk. It is written after that batch was synced and before it is
//! acknowledged, so that no index of an active is ever ahead of this disk. The record of the batch is synced
//! together with the staged files, before the first of them gets its name: if the two differ when the node comes
//! back, that batch was interrupted, and its paths are those of which nobody knows whether they are old or new.

use super::ApplyError;
use crate::durable::{read_small_file, write_file_durably_blocking};
use crate::files::TreePath;
use crate::sealed_text::{seal, unseal};
use crate::storage::{Backend, BlockingDisk};
use futures_util::FutureExt;
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{self, Mode, OFlags},
    io::{self, Errno},
};
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

const TITLE: &str = "lockstep-tree 1";
const RECORD_NAME: &str = "batch";
const RECORD_MAGIC: &[u8; 8] = b"LKSTREE1";
/// Magic, index, batch, length and checksum of the paths.
const RECORD_HEADER_BYTES: usize = 40;
/// As long as a record can be: two paths of two bytes of length and their own for each operation.
const RECORD_MAX_BYTES: u64 = (lockstep_wire::MAX_TREE_BATCH_BYTES
    + 4 * lockstep_wire::MAX_TREE_BATCH_OPS
    + RECORD_HEADER_BYTES) as u64;

/// Which index is followed, and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Followed {
    /// The active's index; 0: none.
    pub index: u64,
    /// Its last batch that is on disk.
    pub batch: u64,
}

impl Followed {
    /// Reads the state file; none: nothing is followed.
    pub(super) fn read(path: &Path) -> Result<Self, ApplyError> {
        let disk = Backend::Blocking(BlockingDisk { inline: true });
        let read = read_small_file(&disk, path).now_or_never().expect("an inline disk never waits");
        let Some(text) = read? else { return Ok(Self::default()) };
        let text = String::from_utf8(text).map_err(|_| "it is no text".to_owned());
        text.and_then(|text| Self::decode(&text))
            .map_err(|what| ApplyError::State { path: path.to_owned(), what })
    }

    /// Replaces the state file.
    pub(super) fn write(&self, path: &Path) -> Result<(), ApplyError> {
        Ok(write_file_durably_blocking(path, self.encode())?)
    }

    fn encode(&self) -> String {
        seal(format!("{TITLE}\nindex {:016x}\nbatch {}\n", self.index, self.batch))
    }

    fn decode(text: &str) -> Result<Self, String> {
        let mut followed = Self::default();
        for line in unseal(text, TITLE)? {
            let wrong = || format!("line \"{line}\" is not understood");
            let (key, value) = line.split_once(' ').ok_or_else(wrong)?;
            match key {
                "index" => followed.index = u64::from_str_radix(value, 16).map_err(|_| wrong())?,
                "batch" => followed.batch = value.parse().map_err(|_| wrong())?,
                _ => return Err(wrong()),
            }
        }
        Ok(followed)
    }
}

/// The record of the batch that is being, or was last, put in place.
#[derive(Debug)]
pub(super) struct Record {
    file: OwnedFd,
    /// The batch and its paths.
    pub(super) of: Followed,
    pub(super) paths: Vec<TreePath>,
}

impl Record {
    /// Opens it in the hidden directory; a damaged one counts as none, for its batch was not begun. False: it was
    /// made now.
    pub(super) fn open(hidden: BorrowedFd<'_>) -> io::Result<(Self, bool)> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (file, existed) = match fs::openat(hidden, RECORD_NAME, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                let mode = Mode::from_raw_mode(0o600);
                (fs::openat(hidden, RECORD_NAME, flags | OFlags::CREATE | OFlags::EXCL, mode)?, false)
            }
            found => (found?, true),
        };
        let length = u64::try_from(fs::fstat(&file)?.st_size).unwrap_or(0).min(RECORD_MAX_BYTES);
        let mut bytes = vec![0; length as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            match io::retry_on_intr(|| io::pread(&file, &mut bytes[filled..], filled as u64))? {
                0 => break,
                read => filled += read,
            }
        }
        let (of, paths) = decode_record(&bytes[..filled]).unwrap_or_default();
        Ok((Self { file, of, paths }, existed))
    }

    /// Replaces it in place; durable with the next [`Self::file`]'s sync.
    pub(super) fn write(&mut self, of: Followed, paths: Vec<TreePath>) -> io::Result<()> {
        let bytes = encode_record(of, &paths);
        (self.of, self.paths) = (of, paths);
        write_all_at(self.file.as_fd(), &bytes, 0)?;
        fs::ftruncate(&self.file, bytes.len() as u64)
    }

    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Writes all of `bytes` at `offset`.
pub(super) fn write_all_at(file: BorrowedFd<'_>, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match io::retry_on_intr(|| io::pwrite(file, bytes, offset))? {
            0 => return Err(Errno::IO),
            written => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
        }
    }
    Ok(())
}

fn encode_record(of: Followed, paths: &[TreePath]) -> Vec<u8> {
    let mut list = Vec::new();
    for path in paths {
        let length = u16::try_from(path.as_bytes().len()).expect("a path is shorter than 4096 bytes");
        list.extend_from_slice(&length.to_le_bytes());
        list.extend_from_slice(path.as_bytes());
    }
    let mut record = RECORD_MAGIC.to_vec();
    for number in [of.index, of.batch, list.len() as u64] {
        record.extend_from_slice(&number.to_le_bytes());
    }
    let check = xxh3_64(&[&record[..], &list].concat());
    record.extend_from_slice(&check.to_le_bytes());
    record.extend(list);
    record
}

fn decode_record(bytes: &[u8]) -> Option<(Followed, Vec<TreePath>)> {
    let (header, list) = bytes.split_at_checked(RECORD_HEADER_BYTES)?;
    let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let list = list.get(..usize::try_from(number(24)).ok()?)?;
    if &header[..8] != RECORD_MAGIC || number(32) != xxh3_64(&[&header[..32], list].concat()) {
        return None;
    }
    let mut paths = Vec::new();
    let mut rest = list;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (path, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        paths.push(TreePath::parse(path).ok()?);
        rest = after;
    }
    Some((Followed { index: number(8), batch: number(16) }, paths))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_and_record_survive_their_bytes_and_any_changed_byte_is_noticed() {
        let followed = Followed { index: 0x1d3e, batch: 41 };
        let text = followed.encode();
        assert_eq!(Followed::decode(&text), Ok(followed));
        for at in 0..text.len() - 1 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(String::from_utf8(bytes).is_ok_and(|text| Followed::decode(&text).is_err()), "byte {at}");
        }
        let paths = vec![TreePath::root(), TreePath::parse(b"a/caf\xe9").unwrap()];
        let record = encode_record(followed, &paths);
        assert_eq!(decode_record(&record), Some((followed, paths.clone())));
        for at in 0..record.len() {
            let mut changed = record.clone();
            changed[at] ^= 1;
            assert_eq!(decode_record(&changed), None, "byte {at}");
            assert_eq!(decode_record(&record[..at]), None, "cut at {at}");
        }
        let longer = [&record[..], b"rest of a longer one before"].concat();
        assert_eq!(decode_record(&longer), Some((followed, paths)));
    }
}
