//! The messages about file trees, with explicit tags.
//!
//! Lists are not repeated fields but *packed*: one field of bytes that holds messages one behind the other, each
//! preceded by its length. Decoding a hostile list of a million empty entries would take a hundred times its
//! length in memory; a packed list is read entry by entry and shares the body's buffer. Paths and names are bytes
//! (Linux knows no encoding); whoever uses one checks it first. docs/protocol.md holds the table, checked by a test.

use bytes::{Buf, Bytes};
use std::marker::PhantomData;

/// The longest path below a tree's root in bytes: one less than PATH_MAX, which counts the closing NUL.
pub const MAX_TREE_PATH_BYTES: usize = 4095;

/// Operations in one batch, `Data`, `Keep` and `End` not counted: as many as a disk puts in place in a second or two.
pub const MAX_TREE_BATCH_OPS: usize = 16_384;

/// Bytes of paths, targets and extended attributes in one batch: the standby holds them until the batch ends.
pub const MAX_TREE_BATCH_BYTES: usize = 16 << 20;

/// Bytes of a [`TreeOps`] body that may be on their way to be staged, for one tree: enough to keep a 10 Gbit/s link
/// and a disk busy, and little enough to hold in memory. An active never sends more than that beyond
/// [`TreeAck::received_bytes`]; a standby refuses it.
pub const TREE_WINDOW_BYTES: u64 = 8 << 20;

const _: () = assert!(TREE_WINDOW_BYTES >= 2 * crate::MAX_BODY_BYTES as u64);

/// Active to standby, after [`crate::Databases`]: the trees it will send; entry `i` travels on the stream after those of
/// the databases and of the trees before it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Trees {
    /// In stream order.
    #[prost(message, repeated, tag = "1")]
    pub trees: Vec<TreeAnnounced>,
}

/// Part of [`Trees`]: one tree.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TreeAnnounced {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The active's index of what this standby holds, a random number made with it; 0: it has none.
    #[prost(fixed64, tag = "2")]
    pub index: u64,
    /// The last batch which that index knows to be acknowledged.
    #[prost(uint64, tag = "3")]
    pub batch: u64,
}

/// Standby to active: what it holds, one entry per tree of [`Trees`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct TreeStates {
    /// The states, in stream order.
    #[prost(message, repeated, tag = "1")]
    pub states: Vec<TreeState>,
}

/// Part of [`TreeStates`]: what the standby holds of one tree.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TreeState {
    /// The stream of the tree.
    #[prost(uint32, tag = "1")]
    pub stream: u32,
    /// The index it follows; 0: none.
    #[prost(fixed64, tag = "2")]
    pub index: u64,
    /// The last batch of that index which is on disk.
    #[prost(uint64, tag = "3")]
    pub batch: u64,
    /// The batch after it was being put in place when the node stopped: ask with [`TreeListRequest`] what its paths hold.
    #[prost(bool, tag = "4")]
    pub interrupted: bool,
    /// There is nothing below the root.
    #[prost(bool, tag = "5")]
    pub empty: bool,
    /// Not empty: the tree cannot be followed, one sentence why.
    #[prost(string, tag = "6")]
    pub fault: String,
}

/// Part of several messages: the metadata of one entry. Users and groups go by number, as on disk.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TreeMeta {
    /// Permission bits with setuid, setgid and sticky, without the type; 0 for a symlink.
    #[prost(uint32, tag = "1")]
    pub mode: u32,
    /// Number of the owner.
    #[prost(uint32, tag = "2")]
    pub user: u32,
    /// Number of the group.
    #[prost(uint32, tag = "3")]
    pub group: u32,
    /// Last change of the content, seconds since 1970.
    #[prost(sint64, tag = "4")]
    pub mtime_s: i64,
    /// And nanoseconds.
    #[prost(uint32, tag = "5")]
    pub mtime_ns: u32,
    /// Packed [`TreeXattr`], ascending by name.
    #[prost(bytes = "bytes", tag = "6")]
    pub xattrs: Bytes,
}

/// Part of [`TreeMeta`]: one extended attribute. ACLs are extended attributes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TreeXattr {
    /// Its full name, as `user.mime_type`.
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
    /// Its value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// Active to standby: operations of one batch, in order. A batch may span several messages.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TreeOps {
    /// The active's index; a standby that followed another one follows this one once the batch is on disk.
    #[prost(fixed64, tag = "1")]
    pub index: u64,
    /// Counts the batches of the index, from 1.
    #[prost(uint64, tag = "2")]
    pub batch: u64,
    /// Packed [`TreeOp`].
    #[prost(bytes = "bytes", tag = "3")]
    pub ops: Bytes,
    /// The batch ends here: make it durable, put it in place and acknowledge.
    #[prost(bool, tag = "4")]
    pub last: bool,
}

/// Part of [`TreeOps`]: one operation. Fields that its kind does not name are empty.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TreeOp {
    /// What to do.
    #[prost(enumeration = "TreeOpKind", tag = "1")]
    pub kind: i32,
    /// The path it makes, changes or removes, relative to the root; empty: the root itself (`Meta` only).
    #[prost(bytes = "bytes", tag = "2")]
    pub path: Bytes,
    /// The path it takes from: of a `Rename`, `Exchange` or `Link` as the operations before it left the tree, of a
    /// `Begin` as it stood before the batch.
    #[prost(bytes = "bytes", tag = "3")]
    pub from: Bytes,
    /// The metadata that `path` gets.
    #[prost(message, optional, tag = "4")]
    pub meta: Option<TreeMeta>,
    /// What `from` must be, or the operation fails with `Differs`; absent: not checked.
    #[prost(message, optional, tag = "5")]
    pub expected: Option<TreeExpected>,
    /// Size of the file in bytes (`Begin`).
    #[prost(uint64, tag = "6")]
    pub size: u64,
    /// First byte (`Data`, `Keep`); never before the end of the `Data` or `Keep` before it.
    #[prost(uint64, tag = "7")]
    pub offset: u64,
    /// Bytes to keep (`Keep`).
    #[prost(uint64, tag = "8")]
    pub length: u64,
    /// Content (`Put`, `Data`) or target (`Symlink`).
    #[prost(bytes = "bytes", tag = "9")]
    pub data: Bytes,
    /// Content hash of the whole file (`Put`, `End`), 16 bytes.
    #[prost(bytes = "bytes", tag = "10")]
    pub content: Bytes,
}

/// Part of [`TreeOp`]: what the active believes an entry of the standby to be.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct TreeExpected {
    /// Its type.
    #[prost(enumeration = "TreeKind", tag = "1")]
    pub kind: i32,
    /// Size in bytes of a file; 0 of anything else.
    #[prost(uint64, tag = "2")]
    pub size: u64,
    /// Last change of the content of a file, seconds since 1970; 0 of anything else.
    #[prost(sint64, tag = "3")]
    pub mtime_s: i64,
    /// And nanoseconds.
    #[prost(uint32, tag = "4")]
    pub mtime_ns: u32,
}

/// What a [`TreeOp`] does. What it makes replaces what was there, of whatever type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum TreeOpKind {
    /// No operation; refused.
    None = 0,
    /// A file, whole, with `data`, `content` and `meta`.
    Put = 1,
    /// A directory with `meta`; one that is there stays with what it holds.
    Directory = 2,
    /// A symlink to `data` with `meta`.
    Symlink = 3,
    /// A FIFO with `meta`.
    Fifo = 4,
    /// Another name of the file `from`.
    Link = 5,
    /// Removes `path` and all below it; there is no such thing: nothing to do.
    Remove = 6,
    /// `from` becomes `path`, with all below it.
    Rename = 7,
    /// `from` and `path` change places.
    Exchange = 8,
    /// `path` gets `meta`.
    Meta = 9,
    /// A file of `size` bytes with `meta` follows in `Data` and `Keep`, up to its `End`; what neither fills is a hole.
    /// `Keep` takes from the file `from`.
    Begin = 10,
    /// `data` at `offset`, of the file that was begun.
    Data = 11,
    /// `length` bytes at `offset` are those of `from` at the same offset, holes too.
    Keep = 12,
    /// The file is whole and its hash is `content`.
    End = 13,
}

/// The type of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum TreeKind {
    /// None: there is no such entry.
    Absent = 0,
    /// A regular file.
    File = 1,
    /// A directory.
    Directory = 2,
    /// A symbolic link.
    Symlink = 3,
    /// A FIFO.
    Fifo = 4,
    /// A type that is not replicated: socket, device.
    Other = 5,
}

/// Standby to active: how far a tree has come.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TreeAck {
    /// The index it follows; 0: none yet.
    #[prost(fixed64, tag = "1")]
    pub index: u64,
    /// The last batch of it that is on disk, in place.
    #[prost(uint64, tag = "2")]
    pub batch: u64,
    /// Bytes of all [`TreeOps`] bodies of this tree and connection that it has taken in.
    #[prost(uint64, tag = "3")]
    pub received_bytes: u64,
    /// Packed [`TreeFailure`]: what of `batch` could not be done. Everything else of it is on disk.
    #[prost(bytes = "bytes", tag = "4")]
    pub failures: Bytes,
    /// More failures of `batch` follow in the next message.
    #[prost(bool, tag = "5")]
    pub more: bool,
}

/// Part of [`TreeAck`]: an operation that failed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TreeFailure {
    /// Its path.
    #[prost(bytes = "bytes", tag = "1")]
    pub path: Bytes,
    /// What it was.
    #[prost(enumeration = "TreeOpKind", tag = "2")]
    pub op: i32,
    /// Why.
    #[prost(enumeration = "TreeReason", tag = "3")]
    pub reason: i32,
    /// What the system said, for people.
    #[prost(string, tag = "4")]
    pub detail: String,
}

/// Why an operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum TreeReason {
    /// Something else; see the detail.
    Other = 0,
    /// The file system has no room or no inode left, or a quota is used up.
    NoSpace = 1,
    /// The standby's file system takes no such name or no such path.
    Name = 2,
    /// The standby's file system has no such feature (extended attribute, type, size).
    Unsupported = 3,
    /// What the operation takes from or changes is not there.
    Missing = 4,
    /// What is there is not what the active expected.
    Differs = 5,
    /// The content does not have the hash that was given.
    Content = 6,
    /// The agent lacks the right.
    Denied = 7,
    /// The file system is read-only, or its root is gone.
    ReadOnly = 8,
    /// The disk failed.
    Disk = 9,
    /// A symlink stands where a directory of the path should be.
    Symlink = 10,
}

/// Active to standby: say what the tree holds.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TreeListRequest {
    /// Comes back in the answers.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// What is asked for.
    #[prost(enumeration = "TreeQuestion", tag = "2")]
    pub question: i32,
    /// The directory; empty: the root.
    #[prost(bytes = "bytes", tag = "3")]
    pub path: Bytes,
    /// True: read the content of files instead of answering with remembered hashes.
    #[prost(bool, tag = "4")]
    pub deep: bool,
}

/// What a [`TreeListRequest`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum TreeQuestion {
    /// The entries of a directory: metadata alone.
    Entries = 0,
    /// The entries of a directory, files with the hash of their content, directories with the hash of all below them.
    Hashes = 1,
    /// The hash of all below a directory, without its entries.
    Summary = 2,
    /// The paths of the last batch, as they are now; names are whole paths.
    Touched = 3,
}

/// Standby to active: the answer to a [`TreeListRequest`], in one or more messages.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TreeListing {
    /// As in the request.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// As in the request.
    #[prost(bytes = "bytes", tag = "2")]
    pub path: Bytes,
    /// Packed [`TreeEntry`], ascending by name.
    #[prost(bytes = "bytes", tag = "3")]
    pub entries: Bytes,
    /// The answer ends here.
    #[prost(bool, tag = "4")]
    pub last: bool,
    /// Hash of all below the directory, 16 bytes; with `Hashes` and `Summary`, in the last message.
    #[prost(bytes = "bytes", tag = "5")]
    pub below: Bytes,
    /// The last batch in place when the answer was begun.
    #[prost(uint64, tag = "6")]
    pub first_batch: u64,
    /// And when it was finished; the same: it is a picture of one moment.
    #[prost(uint64, tag = "7")]
    pub last_batch: u64,
    /// Not empty: it could not be answered, one sentence why.
    #[prost(string, tag = "8")]
    pub fault: String,
}

/// Part of [`TreeListing`]: one entry.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TreeEntry {
    /// Its name in the directory.
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
    /// Its type.
    #[prost(enumeration = "TreeKind", tag = "2")]
    pub kind: i32,
    /// Its metadata.
    #[prost(message, optional, tag = "3")]
    pub meta: Option<TreeMeta>,
    /// Size in bytes of a file.
    #[prost(uint64, tag = "4")]
    pub size: u64,
    /// Target of a symlink.
    #[prost(bytes = "bytes", tag = "5")]
    pub target: Bytes,
    /// Of a file with more than one name: its number on the standby; 0: it has one name.
    #[prost(fixed64, tag = "6")]
    pub inode: u64,
    /// Content hash of a file, hash of all below a directory, 16 bytes; empty: not asked for.
    #[prost(bytes = "bytes", tag = "7")]
    pub hash: Bytes,
    /// Not empty: it could not be read, what the system said.
    #[prost(string, tag = "8")]
    pub fault: String,
}

impl TreeOps {
    /// Length of its body in bytes, as both sides count it for the window.
    pub fn body_bytes(&self) -> u64 {
        prost::Message::encoded_len(self) as u64
    }
}

/// Packs messages one behind the other, each preceded by its length.
pub fn pack<M: prost::Message>(messages: impl IntoIterator<Item = M>) -> Bytes {
    let mut packed = Vec::new();
    for message in messages {
        pack_one(&message, &mut packed);
    }
    packed.into()
}

/// Appends one message to a packed list.
pub fn pack_one<M: prost::Message>(message: &M, packed: &mut Vec<u8>) {
    message.encode_length_delimited(packed).expect("a Vec takes any length");
}

/// Reads a packed list; ends after the first error.
pub fn unpack<M: prost::Message + Default>(packed: Bytes) -> Unpack<M> {
    Unpack { packed, of: PhantomData }
}

/// What [`unpack`] answers: the messages of a packed list, which share its bytes.
#[derive(Debug)]
pub struct Unpack<M> {
    packed: Bytes,
    of: PhantomData<M>,
}

impl<M: prost::Message + Default> Iterator for Unpack<M> {
    type Item = Result<M, prost::DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.packed.has_remaining() {
            return None;
        }
        let decoded = M::decode_length_delimited(&mut self.packed);
        if decoded.is_err() {
            self.packed.clear();
        }
        Some(decoded)
    }
}
