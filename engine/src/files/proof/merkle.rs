//! One hash for everything below a directory. Pure.

use crate::files::{ContentHash, EntryHash, Mtime};
use lockstep_wire::TreeKind;
use xxhash_rust::xxh3::Xxh3;

/// Hash of all below a directory: names, entries and, of directories, what is below them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BelowHash(pub [u8; 16]);

/// What counts of an entry: type, (mode, user, group), time, hash of attributes and target, and of a file its size
/// and content. `None`: a file whose content is not known.
pub fn entry_hash(
    kind: TreeKind,
    (mode, user, group): (u32, u32, u32),
    mtime: Mtime,
    rest: u64,
    file: (u64, Option<ContentHash>),
) -> Option<EntryHash> {
    let mut hash = Xxh3::new();
    hash.update(&[kind as u8]);
    for number in [mode, user, group, mtime.ns] {
        hash.update(&number.to_le_bytes());
    }
    hash.update(&mtime.s.to_le_bytes());
    hash.update(&rest.to_le_bytes());
    if kind == TreeKind::File {
        hash.update(&file.0.to_le_bytes());
        hash.update(&file.1?.0);
    }
    Some(EntryHash(hash.digest128().to_be_bytes()))
}

/// Hashes a directory whose entries come in ascending order of their names.
#[derive(Default)]
pub struct DirectoryHasher(Xxh3);

impl DirectoryHasher {
    /// The next entry; `below` of a directory.
    pub fn add(&mut self, name: &[u8], entry: EntryHash, below: Option<BelowHash>) {
        // No name is longer than 255 bytes.
        self.0.update(&(name.len() as u32).to_le_bytes());
        self.0.update(name);
        self.0.update(&entry.0);
        self.0.update(&below.map_or([0; 16], |below| below.0));
    }

    /// The hash of all of them.
    pub fn finish(self) -> BelowHash {
        BelowHash(self.0.digest128().to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_order_and_what_is_below_count() {
        let [a, b] = [1, 2].map(|byte| EntryHash([byte; 16]));
        let hash = |entries: &[(&str, EntryHash, Option<BelowHash>)]| {
            let mut hasher = DirectoryHasher::default();
            for (name, entry, below) in entries {
                hasher.add(name.as_bytes(), *entry, *below);
            }
            hasher.finish()
        };
        let below = Some(BelowHash([3; 16]));
        let all = [
            hash(&[]),
            hash(&[("x", a, None)]),
            hash(&[("y", a, None)]),
            hash(&[("x", b, None)]),
            hash(&[("x", a, below)]),
            hash(&[("x", a, None), ("y", b, None)]),
            hash(&[("x", b, None), ("y", a, None)]),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[..at].contains(one), "{at}");
        }
    }
}
