//! What an entry of a tree is: type, metadata, content. Pure; reading and setting it is `apply`'s and `ship`'s.
//!
//! Two entries are equal when the hashes of both are: over everything that `rsync -aHAXS` compares, times to the
//! nanosecond, and the hash of the content. A name is not part of its entry.

use super::content::ContentHash;
use super::proof::entry_hash;
use bytes::Bytes;
use lockstep_wire::{MAX_TREE_PATH_BYTES, TreeExpected, TreeKind, TreeMeta, TreeXattr, pack, unpack};
use std::collections::BTreeMap;
use xxhash_rust::xxh3::Xxh3;

/// The longest value of an extended attribute, XATTR_SIZE_MAX of Linux.
pub const MAX_XATTR_VALUE_BYTES: usize = 64 << 10;

/// All names and values of one entry's extended attributes: well below the longest message, and more than any file
/// system but xfs can hold.
pub const MAX_XATTR_BYTES: usize = 512 << 10;

/// The longest name of an extended attribute, XATTR_NAME_MAX of Linux.
const MAX_XATTR_NAME_BYTES: usize = 255;

/// setuid, setgid, sticky and permissions.
const MODE_MASK: u32 = 0o7777;

/// Extended attributes, by full name.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Why metadata from a message is not an entry's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Bits beyond those of chmod(2).
    #[error("mode {0:o} has bits that are no permissions")]
    Mode(u32),
    /// The number which chown(2) takes for "leave it as it is".
    #[error("owner {0}:{1} is none")]
    Owner(u32, u32),
    /// A second has a thousand million nanoseconds.
    #[error("{0} nanoseconds are more than a second")]
    Nanoseconds(u32),
    /// Not ascending, too long, or not to be carried.
    #[error("an extended attribute is not in order, too long or not one that is replicated")]
    Xattr,
    /// Does not decode.
    #[error("a list is malformed")]
    List,
    /// Empty, too long, or with a NUL.
    #[error("a symlink's target is empty, longer than {MAX_TREE_PATH_BYTES} bytes or holds a NUL")]
    Target,
    /// A field that its kind needs is missing or has a wrong length.
    #[error("{0} is missing or has a wrong length")]
    Field(&'static str),
}

/// When the content last changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mtime {
    /// Seconds since 1970.
    pub s: i64,
    /// And nanoseconds, below a thousand million.
    pub ns: u32,
}

/// The metadata of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Meta {
    /// Permissions with setuid, setgid and sticky; 0 for a symlink, which has none.
    pub mode: u32,
    /// Number of the owner.
    pub user: u32,
    /// Number of the group.
    pub group: u32,
    /// Last change of the content.
    pub mtime: Mtime,
    /// Those for which [`is_carried`] holds.
    pub xattrs: Xattrs,
}

/// The type of an entry and what only that type has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// Size in bytes.
        size: u64,
        /// Its content, where that is known.
        content: Option<ContentHash>,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Where it points; never followed.
        target: Vec<u8>,
    },
    /// A FIFO.
    Fifo,
}

/// An entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Type.
    pub kind: Kind,
    /// Metadata.
    pub meta: Meta,
}

/// Hash of an entry; equal entries have equal ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryHash(pub [u8; 16]);

/// Does this extended attribute belong to the file rather than to the node? Labels of security modules and
/// signatures (`security.selinux`, `security.ima`, `security.evm`) are set by each node's own policy and keys.
pub fn is_carried(xattr: &[u8]) -> bool {
    let space = xattr.split(|byte| *byte == b'.').next();
    match space {
        Some(b"user" | b"trusted") => xattr.len() <= MAX_XATTR_NAME_BYTES && !xattr.contains(&0),
        _ => {
            matches!(xattr, b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default")
        }
    }
}

impl Meta {
    /// From a message.
    ///
    /// # Errors
    /// What in it no entry can have.
    pub fn from_wire(wire: &TreeMeta) -> Result<Self, EntryError> {
        if wire.mode & !MODE_MASK != 0 {
            return Err(EntryError::Mode(wire.mode));
        }
        if wire.user == u32::MAX || wire.group == u32::MAX {
            return Err(EntryError::Owner(wire.user, wire.group));
        }
        if wire.mtime_ns >= 1_000_000_000 {
            return Err(EntryError::Nanoseconds(wire.mtime_ns));
        }
        let mtime = Mtime { s: wire.mtime_s, ns: wire.mtime_ns };
        let xattrs = xattrs_from_wire(wire.xattrs.clone())?;
        Ok(Self { mode: wire.mode, user: wire.user, group: wire.group, mtime, xattrs })
    }

    /// For a message.
    pub fn to_wire(&self) -> TreeMeta {
        let xattr = |(name, value): (&Vec<u8>, &Vec<u8>)| TreeXattr {
            name: Bytes::copy_from_slice(name),
            value: Bytes::copy_from_slice(value),
        };
        TreeMeta {
            mode: self.mode,
            user: self.user,
            group: self.group,
            mtime_s: self.mtime.s,
            mtime_ns: self.mtime.ns,
            xattrs: pack(self.xattrs.iter().map(xattr)),
        }
    }
}

fn xattrs_from_wire(list: Bytes) -> Result<Xattrs, EntryError> {
    if list.len() > MAX_XATTR_BYTES {
        return Err(EntryError::Xattr);
    }
    let mut xattrs = Xattrs::new();
    for xattr in unpack::<TreeXattr>(list) {
        let xattr = xattr.map_err(|_| EntryError::List)?;
        let ascending = xattrs.last_key_value().is_none_or(|(last, _)| last[..] < xattr.name[..]);
        if !ascending || !is_carried(&xattr.name) || xattr.value.len() > MAX_XATTR_VALUE_BYTES {
            return Err(EntryError::Xattr);
        }
        xattrs.insert(xattr.name.into(), xattr.value.into());
    }
    Ok(xattrs)
}

impl Kind {
    /// The target of a symlink, checked.
    ///
    /// # Errors
    /// [`EntryError::Target`].
    pub fn symlink(target: &[u8]) -> Result<Self, EntryError> {
        if target.is_empty() || target.len() > MAX_TREE_PATH_BYTES || target.contains(&0) {
            return Err(EntryError::Target);
        }
        Ok(Self::Symlink { target: target.to_vec() })
    }

    /// Its type, for a message.
    pub fn to_wire(&self) -> TreeKind {
        match self {
            Self::File { .. } => TreeKind::File,
            Self::Directory => TreeKind::Directory,
            Self::Symlink { .. } => TreeKind::Symlink,
            Self::Fifo => TreeKind::Fifo,
        }
    }
}

impl Entry {
    /// What an operation may expect to find: cheap to look at, and different for another file in all likelihood.
    pub fn expected(&self) -> TreeExpected {
        let kind = self.kind.to_wire().into();
        match &self.kind {
            Kind::File { size, .. } => {
                let Mtime { s, ns } = self.meta.mtime;
                TreeExpected { kind, size: *size, mtime_s: s, mtime_ns: ns }
            }
            _ => TreeExpected { kind, ..TreeExpected::default() },
        }
    }

    /// Its hash; `None` for a file whose content is not known.
    pub fn hash(&self) -> Option<EntryHash> {
        let (target, file) = match &self.kind {
            Kind::File { size, content } => (&[][..], (*size, *content)),
            Kind::Symlink { target } => (&target[..], (0, None)),
            Kind::Directory | Kind::Fifo => (&[][..], (0, None)),
        };
        let Meta { mode, user, group, mtime, xattrs } = &self.meta;
        entry_hash(self.kind.to_wire(), (*mode, *user, *group), *mtime, rest_of(xattrs, target), file)
    }
}

/// Extended attributes and target of a symlink as one number.
pub(super) fn rest_of(xattrs: &Xattrs, target: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    for (name, value) in xattrs {
        for part in [name, value] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    hash.update(&[0xff]);
    hash.update(target);
    hash.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Entry {
        let xattrs = [(b"user.a".to_vec(), b"1".to_vec()), (b"user.b".to_vec(), vec![])].into();
        let mtime = Mtime { s: -5, ns: 7 };
        let content = Some(ContentHash::of(b"hello"));
        Entry {
            kind: Kind::File { size: 5, content },
            meta: Meta { mode: 0o4755, user: 1, group: 2, mtime, xattrs },
        }
    }

    #[test]
    fn every_part_of_an_entry_counts_in_its_hash() {
        let changes: [fn(&mut Entry); 12] = [
            |e| e.meta.mode = 0o755,
            |e| e.meta.user = 2,
            |e| e.meta.group = 1,
            |e| e.meta.mtime.ns = 8,
            |e| e.meta.mtime.s = 5,
            |e| drop(e.meta.xattrs.remove(&b"user.b"[..])),
            |e| drop(e.meta.xattrs.insert(b"user.a".to_vec(), b"2".to_vec())),
            |e| e.kind = Kind::File { size: 5, content: Some(ContentHash::of(b"hellO")) },
            |e| e.kind = Kind::Directory,
            |e| e.kind = Kind::Fifo,
            |e| e.kind = Kind::symlink(b"a").unwrap(),
            |e| e.kind = Kind::symlink(b"b").unwrap(),
        ];
        let mut hashes = vec![file().hash().unwrap()];
        for change in changes {
            let mut changed = file();
            change(&mut changed);
            let hash = changed.hash().unwrap();
            assert!(!hashes.contains(&hash), "{changed:?}");
            hashes.push(hash);
        }
        let mut unknown = file();
        unknown.kind = Kind::File { size: 5, content: None };
        assert_eq!(unknown.hash(), None);
    }

    #[test]
    fn metadata_survives_the_wire_and_hostile_metadata_is_refused() {
        let meta = file().meta;
        assert_eq!(Meta::from_wire(&meta.to_wire()), Ok(meta.clone()));
        let sound = meta.to_wire();
        let xattr = |name: &str, value: usize| TreeXattr {
            name: Bytes::copy_from_slice(name.as_bytes()),
            value: vec![0; value].into(),
        };
        let lists = [
            (pack([xattr("user.b", 1), xattr("user.a", 1)]), EntryError::Xattr),
            (pack([xattr("user.a", 1), xattr("user.a", 1)]), EntryError::Xattr),
            (pack([xattr("security.evm", 1)]), EntryError::Xattr),
            (pack([xattr("security.selinux", 1)]), EntryError::Xattr),
            (pack([xattr("user.a\0b", 1)]), EntryError::Xattr),
            (pack([xattr(&format!("user.{}", "a".repeat(251)), 1)]), EntryError::Xattr),
            (pack([xattr("", 1)]), EntryError::Xattr),
            (pack([xattr("user.a", MAX_XATTR_VALUE_BYTES + 1)]), EntryError::Xattr),
            (vec![0; MAX_XATTR_BYTES + 1].into(), EntryError::Xattr),
            (vec![9, 9].into(), EntryError::List),
        ];
        for (xattrs, error) in lists {
            assert_eq!(Meta::from_wire(&TreeMeta { xattrs, ..sound.clone() }), Err(error));
        }
        for (wire, error) in [
            (TreeMeta { mode: 0o100_644, ..sound.clone() }, EntryError::Mode(0o100_644)),
            (TreeMeta { user: u32::MAX, ..sound.clone() }, EntryError::Owner(u32::MAX, 2)),
            (TreeMeta { group: u32::MAX, ..sound.clone() }, EntryError::Owner(1, u32::MAX)),
            (TreeMeta { mtime_ns: 1_000_000_000, ..sound }, EntryError::Nanoseconds(1_000_000_000)),
        ] {
            assert_eq!(Meta::from_wire(&wire), Err(error));
        }
        for target in [&b""[..], b"a\0b", &[b'a'; 4096]] {
            assert_eq!(Kind::symlink(target), Err(EntryError::Target));
        }
    }
}
