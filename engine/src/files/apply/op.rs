//! An operation of the active, taken apart and checked. Pure: whatever passes here is refused by the disk alone.

use crate::files::{ContentHash, Entry, EntryError, Kind, Meta, Mtime, PathError, TreePath};
use bytes::Bytes;
use lockstep_wire::{TreeExpected, TreeKind, TreeOp, TreeOpKind};

/// The largest file: offsets are signed in the kernel.
const MAX_FILE_BYTES: u64 = i64::MAX as u64;

/// Why an operation is none. The active never sends such; the connection ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// The list or an entry of it does not decode.
    #[error("a list of operations is malformed")]
    Malformed,
    /// A kind of a later version, or none.
    #[error("operation {0} is unknown: run the same software version on both nodes")]
    Unknown(i32),
    /// A path that leads elsewhere or nowhere.
    #[error("operation {op:?} on {path:?}: {source}")]
    Path {
        /// What was to be done.
        op: TreeOpKind,
        /// The beginning of the bytes.
        path: String,
        /// What is wrong with them.
        source: PathError,
    },
    /// Metadata that no entry can have.
    #[error("operation {op:?} on {path}: {source}")]
    Entry {
        /// What was to be done.
        op: TreeOpKind,
        /// Where.
        path: TreePath,
        /// What is wrong.
        source: EntryError,
    },
    /// An offset, length or size that lies.
    #[error(
        "operation {op:?}: {length} bytes at {offset} do not fit a file of {size} that is filled up to {filled}"
    )]
    Extent {
        /// What was to be done.
        op: TreeOpKind,
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// Size of the file.
        size: u64,
        /// Where the next bytes may begin.
        filled: u64,
    },
    /// `Data`, `Keep` or `End` without `Begin`, or another operation between them.
    #[error("operation {0:?} out of order")]
    Order(TreeOpKind),
    /// More operations or more of paths and attributes than a batch may have.
    #[error("a batch is larger than any active sends")]
    Large,
    /// A batch that does not follow the one before, or is of another index in its midst.
    #[error("batch {found} follows batch {last}")]
    Batch {
        /// The last one.
        last: u64,
        /// What came.
        found: u64,
    },
}

/// Something to do, checked.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Op {
    Put { path: TreePath, meta: Meta, data: Bytes, content: ContentHash },
    Make { path: TreePath, kind: Kind, meta: Meta },
    Link { path: TreePath, from: TreePath, expected: Option<Expected> },
    Remove { path: TreePath },
    Rename { path: TreePath, from: TreePath, expected: Option<Expected> },
    Exchange { path: TreePath, from: TreePath, expected: Option<Expected> },
    Meta { path: TreePath, meta: Meta },
    Begin { path: TreePath, from: Option<(TreePath, Option<Expected>)>, size: u64, meta: Meta },
    Data { offset: u64, data: Bytes },
    Keep { offset: u64, length: u64 },
    End { content: ContentHash },
}

/// What the active believes something to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) kind: TreeKind,
    pub(super) size: u64,
    pub(super) mtime: Mtime,
}

impl Expected {
    fn from_wire(wire: &TreeExpected) -> Option<Self> {
        let kind = TreeKind::try_from(wire.kind).ok()?;
        Some(Self { kind, size: wire.size, mtime: Mtime { s: wire.mtime_s, ns: wire.mtime_ns } })
    }
}

impl Op {
    /// Takes an operation of a message apart.
    pub(super) fn from_wire(wire: TreeOp) -> Result<Self, OpError> {
        let op = TreeOpKind::try_from(wire.kind).map_err(|_| OpError::Unknown(wire.kind))?;
        let below =
            |bytes: &Bytes| TreePath::parse_below(bytes).map_err(|source| path_error(op, bytes, source));
        let needs_path =
            !matches!(op, TreeOpKind::Data | TreeOpKind::Keep | TreeOpKind::End | TreeOpKind::None);
        let path = match op {
            TreeOpKind::Meta if wire.path.is_empty() => TreePath::root(),
            _ if needs_path => below(&wire.path)?,
            _ => TreePath::root(),
        };
        let wrong = |source| OpError::Entry { op, path: path.clone(), source };
        let meta = || {
            let meta = wire.meta.as_ref().ok_or(EntryError::Field("its metadata"));
            meta.and_then(Meta::from_wire).map_err(wrong)
        };
        let expected = match &wire.expected {
            Some(expected) => Some(
                Expected::from_wire(expected).ok_or_else(|| wrong(EntryError::Field("what it expects")))?,
            ),
            None => None,
        };
        let content = || {
            ContentHash::from_wire(&wire.content).ok_or_else(|| wrong(EntryError::Field("its content hash")))
        };
        let sized = |size: u64| match size <= MAX_FILE_BYTES {
            true => Ok(size),
            false => Err(OpError::Extent { op, offset: 0, length: size, size, filled: 0 }),
        };
        Ok(match op {
            TreeOpKind::None => return Err(OpError::Unknown(wire.kind)),
            TreeOpKind::Put => Self::Put { meta: meta()?, content: content()?, data: wire.data, path },
            TreeOpKind::Directory => Self::Make { kind: Kind::Directory, meta: meta()?, path },
            TreeOpKind::Symlink => {
                Self::Make { kind: Kind::symlink(&wire.data).map_err(wrong)?, meta: meta()?, path }
            }
            TreeOpKind::Fifo => Self::Make { kind: Kind::Fifo, meta: meta()?, path },
            TreeOpKind::Link => Self::Link { from: below(&wire.from)?, expected, path },
            TreeOpKind::Remove => Self::Remove { path },
            TreeOpKind::Rename => Self::Rename { from: below(&wire.from)?, expected, path },
            TreeOpKind::Exchange => Self::Exchange { from: below(&wire.from)?, expected, path },
            TreeOpKind::Meta => Self::Meta { meta: meta()?, path },
            TreeOpKind::Begin => {
                let from = if wire.from.is_empty() { None } else { Some((below(&wire.from)?, expected)) };
                Self::Begin { from, size: sized(wire.size)?, meta: meta()?, path }
            }
            TreeOpKind::Data => Self::Data { offset: wire.offset, data: wire.data },
            TreeOpKind::Keep => Self::Keep { offset: wire.offset, length: wire.length },
            TreeOpKind::End => Self::End { content: content()? },
        })
    }

    /// What it is, for a failure.
    pub(super) fn kind(&self) -> TreeOpKind {
        match self {
            Self::Put { .. } => TreeOpKind::Put,
            Self::Make { kind: Kind::Symlink { .. }, .. } => TreeOpKind::Symlink,
            Self::Make { kind: Kind::Fifo, .. } => TreeOpKind::Fifo,
            Self::Make { .. } => TreeOpKind::Directory,
            Self::Link { .. } => TreeOpKind::Link,
            Self::Remove { .. } => TreeOpKind::Remove,
            Self::Rename { .. } => TreeOpKind::Rename,
            Self::Exchange { .. } => TreeOpKind::Exchange,
            Self::Meta { .. } => TreeOpKind::Meta,
            Self::Begin { .. } => TreeOpKind::Begin,
            Self::Data { .. } => TreeOpKind::Data,
            Self::Keep { .. } => TreeOpKind::Keep,
            Self::End { .. } => TreeOpKind::End,
        }
    }

    /// The paths it names.
    pub(super) fn paths(&self) -> [Option<&TreePath>; 2] {
        match self {
            Self::Put { path, .. }
            | Self::Make { path, .. }
            | Self::Remove { path }
            | Self::Meta { path, .. } => [Some(path), None],
            Self::Link { path, from, .. }
            | Self::Rename { path, from, .. }
            | Self::Exchange { path, from, .. } => [Some(path), Some(from)],
            Self::Begin { path, .. } => [Some(path), None],
            Self::Data { .. } | Self::Keep { .. } | Self::End { .. } => [None, None],
        }
    }

    /// Bytes that are kept until the batch ends.
    pub(super) fn kept_bytes(&self) -> usize {
        let paths: usize = self.paths().iter().flatten().map(|path| path.as_bytes().len()).sum();
        let meta = match self {
            Self::Put { meta, .. }
            | Self::Make { meta, .. }
            | Self::Meta { meta, .. }
            | Self::Begin { meta, .. } => {
                meta.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum()
            }
            _ => 0,
        };
        let target = match self {
            Self::Make { kind: Kind::Symlink { target }, .. } => target.len(),
            _ => 0,
        };
        paths + meta + target
    }
}

fn path_error(op: TreeOpKind, bytes: &[u8], source: PathError) -> OpError {
    // Enough to recognise it; a peer chooses its length.
    let path = bytes[..bytes.len().min(80)].escape_ascii().to_string();
    OpError::Path { op, path, source }
}

impl From<&Entry> for Expected {
    fn from(entry: &Entry) -> Self {
        Self::from_wire(&entry.expected()).expect("an entry's own type is known")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_wire::TreeMeta;

    fn op(kind: TreeOpKind) -> TreeOp {
        TreeOp {
            kind: kind.into(),
            path: "a/b".into(),
            from: "a/c".into(),
            meta: Some(TreeMeta { mode: 0o644, ..TreeMeta::default() }),
            data: "target".into(),
            content: vec![7; 16].into(),
            ..TreeOp::default()
        }
    }

    #[test]
    fn no_operation_gets_past_with_a_path_that_leads_elsewhere() {
        let hostile =
            ["", "..", "../x", "/etc/passwd", "a/../../x", "a\0b", "a//b", "./a", ".lockstep/x", "a/"];
        for kind in (1..=13).map(|kind| TreeOpKind::try_from(kind).unwrap()) {
            let sound = Op::from_wire(op(kind)).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
            assert_eq!(sound.kind(), kind);
            let uses = [
                !matches!(kind, TreeOpKind::Data | TreeOpKind::Keep | TreeOpKind::End),
                matches!(
                    kind,
                    TreeOpKind::Link | TreeOpKind::Rename | TreeOpKind::Exchange | TreeOpKind::Begin
                ),
            ];
            for path in hostile {
                let bytes = Bytes::copy_from_slice(path.as_bytes());
                let root = path.is_empty() && kind == TreeOpKind::Meta;
                if uses[0] && !root {
                    let found = Op::from_wire(TreeOp { path: bytes.clone(), ..op(kind) });
                    assert!(matches!(found, Err(OpError::Path { .. })), "{kind:?} {path:?}: {found:?}");
                }
                if uses[1] && !(path.is_empty() && kind == TreeOpKind::Begin) {
                    let found = Op::from_wire(TreeOp { from: bytes, ..op(kind) });
                    assert!(matches!(found, Err(OpError::Path { .. })), "{kind:?} from {path:?}: {found:?}");
                }
            }
        }
    }

    #[test]
    fn an_operation_without_what_it_needs_is_refused() {
        let refused = [
            TreeOp { meta: None, ..op(TreeOpKind::Put) },
            TreeOp { meta: None, ..op(TreeOpKind::Meta) },
            TreeOp { content: vec![7; 15].into(), ..op(TreeOpKind::Put) },
            TreeOp { content: Bytes::new(), ..op(TreeOpKind::End) },
            TreeOp { data: Bytes::new(), ..op(TreeOpKind::Symlink) },
            TreeOp { size: u64::MAX, ..op(TreeOpKind::Begin) },
            TreeOp { kind: 0, ..op(TreeOpKind::Put) },
            TreeOp { kind: 99, ..op(TreeOpKind::Put) },
            TreeOp {
                expected: Some(TreeExpected { kind: 77, ..Default::default() }),
                ..op(TreeOpKind::Rename)
            },
        ];
        for wire in refused {
            assert!(Op::from_wire(wire.clone()).is_err(), "{wire:?}");
        }
        let long = TreeOp { path: vec![b'/'; 1 << 20].into(), ..op(TreeOpKind::Put) };
        assert!(Op::from_wire(long).unwrap_err().to_string().len() < 300);
    }
}
