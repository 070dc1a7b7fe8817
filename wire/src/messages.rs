//! The messages of the data connection, with explicit tags.
//!
//! Each message is the body of one frame; the frame header carries its kind, the epoch and the
//! stream (0: control, n: the n-th database of [`Databases`], then the trees of [`Trees`]). Unknown fields are skipped, so that
//! two neighbouring versions understand each other; a tag is never used twice.
//! docs/protocol.md holds the table, checked by a test.

use crate::MAX_BODY_BYTES;
use crate::tree::*;
use bytes::Bytes;

/// The longest body of a message that carries no pages, WAL frames or hashes. Decoding makes up to
/// forty times as much memory of a hostile list of empty entries, so such lists must be short;
/// at 64 KiB still a thousand databases fit.
pub const MAX_CONTROL_BYTES: usize = 64 << 10;

/// First message in both directions.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    /// Lowest protocol version the sender speaks.
    #[prost(uint32, tag = "1")]
    pub version_min: u32,
    /// Highest protocol version the sender speaks.
    #[prost(uint32, tag = "2")]
    pub version_max: u32,
    /// Software version, for people.
    #[prost(string, tag = "3")]
    pub software: String,
    /// Name of the sending node, for people.
    #[prost(string, tag = "4")]
    pub node_name: String,
    /// Id of the sending node; must equal the id of its certificate.
    #[prost(fixed64, tag = "5")]
    pub node: u64,
    /// The pair this connection belongs to.
    #[prost(string, tag = "6")]
    pub pair: String,
    /// The sender's session.
    #[prost(fixed64, tag = "7")]
    pub session: u64,
}

/// Why the sender closes the connection. Last message of a connection.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Refusal {
    /// A stable word: `version`, `pair`, `epoch`, `gap`, `chain`, `disk`, `protocol`.
    #[prost(string, tag = "1")]
    pub code: String,
    /// One sentence for the operator, with the remedy.
    #[prost(string, tag = "2")]
    pub sentence: String,
}

/// Active to standby: the databases it will send; entry `i` travels on stream `i + 1`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Databases {
    /// Names, in stream order.
    #[prost(string, repeated, tag = "1")]
    pub names: Vec<String>,
    /// Who may use their files, in the same order; may end early: the rest is not told.
    #[prost(message, repeated, tag = "2")]
    pub attributes: Vec<FileAttributes>,
    /// Names the run of the active's machine since it started; 0: unknown.
    #[prost(fixed64, tag = "3")]
    pub boot: u64,
}

/// Part of [`Databases`] and [`CopyBegin`]: who may use a database's file on the active. Users and groups go by
/// number, as access rights do on disk: a name may be missing on the standby, or be another user's.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FileAttributes {
    /// Type and permission bits as stat(2) shows them; 0: not told, as there is no file yet.
    #[prost(uint32, tag = "1")]
    pub mode: u32,
    /// Number of the owner.
    #[prost(uint32, tag = "2")]
    pub user: u32,
    /// Number of the group.
    #[prost(uint32, tag = "3")]
    pub group: u32,
    /// The extended attribute `system.posix_acl_access`; empty: none.
    #[prost(bytes = "bytes", tag = "4")]
    pub acl: Bytes,
    /// The extended attribute `security.selinux`; empty: none.
    #[prost(bytes = "bytes", tag = "5")]
    pub label: Bytes,
}

/// Standby to active: what it holds of one database.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MirrorState {
    /// The stream of the database.
    #[prost(uint32, tag = "1")]
    pub stream: u32,
    /// False: nothing usable (first copy needed); then the rest means nothing.
    #[prost(bool, tag = "2")]
    pub complete: bool,
    /// Generation of the mirror's WAL.
    #[prost(uint64, tag = "3")]
    pub generation: u64,
    /// Last durable commit frame in it; 0: the WAL is empty.
    #[prost(uint32, tag = "4")]
    pub frame: u32,
    /// Running checksum after that frame, packed.
    #[prost(fixed64, tag = "5")]
    pub chain: u64,
    /// Salts of the mirror's WAL, packed.
    #[prost(fixed64, tag = "6")]
    pub salts: u64,
    /// Page size in bytes, 0 when unknown.
    #[prost(uint32, tag = "7")]
    pub page_size: u32,
    /// Size of the database file in pages.
    #[prost(uint32, tag = "8")]
    pub page_count: u32,
    /// A database file exists, so differing pages suffice even if `complete` is false.
    #[prost(bool, tag = "9")]
    pub has_pages: bool,
    /// The node wrote this database itself since it last mirrored: keep it before changing it.
    #[prost(bool, tag = "10")]
    pub diverged: bool,
    /// Last frame at or before `frame` that an active of the same [`Databases::boot`] called published. Absent when
    /// the standby does not know one: it was started anew, or the active's machine was.
    #[prost(uint32, optional, tag = "11")]
    pub published_frame: Option<u32>,
    /// Running checksum after that frame, packed.
    #[prost(fixed64, tag = "12")]
    pub published_chain: u64,
    /// It answers a [`ForkQuery`] and takes a [`CopyBegin`] with `rewind`.
    #[prost(bool, tag = "13")]
    pub rewinds: bool,
}

/// Part of [`ForkQuery`] and [`CopyBegin`]: a point that can be proven to be in a WAL.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ForkPoint {
    /// The active's count of the generation.
    #[prost(uint64, tag = "1")]
    pub generation: u64,
    /// A commit frame.
    #[prost(uint32, tag = "2")]
    pub frame: u32,
    /// Running checksum after it, packed.
    #[prost(fixed64, tag = "3")]
    pub chain: u64,
    /// Salts of the WAL, packed.
    #[prost(fixed64, tag = "4")]
    pub salts: u64,
}

/// Standby to active: what it holds, one entry per stream of [`Databases`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct MirrorStates {
    /// The states, in stream order.
    #[prost(message, repeated, tag = "1")]
    pub states: Vec<MirrorState>,
}

/// Active to standby: a new generation begins; the one before ends at `previous_frame`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Generation {
    /// Our count of it.
    #[prost(uint64, tag = "1")]
    pub generation: u64,
    /// The 32 bytes of its WAL header, as on disk.
    #[prost(bytes = "bytes", tag = "2")]
    pub wal_header: Bytes,
    /// Where the previous generation ended (its last frame); 0 with `fresh`.
    #[prost(uint32, tag = "3")]
    pub previous_frame: u32,
    /// Running checksum there, packed.
    #[prost(fixed64, tag = "4")]
    pub previous_chain: u64,
    /// True after a copy or resync began: nothing of an earlier generation is kept.
    #[prost(bool, tag = "5")]
    pub fresh: bool,
}

/// Active to standby: consecutive frames of the WAL, byte for byte.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WalBatch {
    /// Generation the frames belong to.
    #[prost(uint64, tag = "1")]
    pub generation: u64,
    /// First frame in `data`.
    #[prost(uint32, tag = "2")]
    pub first_frame: u32,
    /// Running checksum before it, packed.
    #[prost(fixed64, tag = "3")]
    pub chain_before: u64,
    /// Running checksum after the last frame, packed.
    #[prost(fixed64, tag = "4")]
    pub chain_after: u64,
    /// Frames through this one are published (committed) on the active; later ones are prepared: chained through a
    /// commit frame, and to be taken back by a [`Rewind`] if they are never published.
    #[prost(uint32, tag = "5")]
    pub published_frame: u32,
    /// Frame headers and pages, as on disk.
    #[prost(bytes = "bytes", tag = "6")]
    pub data: Bytes,
    /// Nobody waits for these commits: the standby may gather more for so many milliseconds before it makes them
    /// durable. 0: at once.
    #[prost(uint32, tag = "7")]
    pub gather_ms: u32,
}

/// Standby to active: how far one database has come.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ack {
    /// Generation of both frames.
    #[prost(uint64, tag = "1")]
    pub generation: u64,
    /// Last frame received and checked.
    #[prost(uint32, tag = "2")]
    pub received_frame: u32,
    /// Last commit frame that is on disk.
    #[prost(uint32, tag = "3")]
    pub durable_frame: u32,
    /// The mirror is a sound database: no copy or resync is unfinished.
    #[prost(bool, tag = "4")]
    pub complete: bool,
    /// The commit frame at which `content` was taken.
    #[prost(uint32, tag = "5")]
    pub content_frame: u32,
    /// XOR over all pages, by page hash and number; absent while it is not known.
    #[prost(fixed64, optional, tag = "6")]
    pub content: Option<u64>,
}

/// Active to standby: forget the frames after `frame`; they were never published.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Rewind {
    /// Generation of `frame`.
    #[prost(uint64, tag = "1")]
    pub generation: u64,
    /// The last frame to keep.
    #[prost(uint32, tag = "2")]
    pub frame: u32,
    /// Running checksum after it, packed.
    #[prost(fixed64, tag = "3")]
    pub chain: u64,
}

/// Standby to active: the rewind to `frame` is on disk.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Rewound {
    /// Generation of `frame`.
    #[prost(uint64, tag = "1")]
    pub generation: u64,
    /// The last frame kept.
    #[prost(uint32, tag = "2")]
    pub frame: u32,
}

/// Active to standby: pages follow; the mirror is incomplete until [`CopyEnd`] is durable.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CopyBegin {
    /// True: keep the pages you have, only differing ones follow, after [`HashRequest`]s.
    #[prost(bool, tag = "1")]
    pub resync: bool,
    /// Page size in bytes.
    #[prost(uint32, tag = "2")]
    pub page_size: u32,
    /// Size of the database file in pages now, for progress.
    #[prost(uint32, tag = "3")]
    pub page_count: u32,
    /// True: you hold commits that the active lacks: keep them before you change anything.
    #[prost(bool, tag = "4")]
    pub keep: bool,
    /// Who may use the file.
    #[prost(message, optional, tag = "5")]
    pub attributes: Option<FileAttributes>,
    /// True: your disk is in doubt: answer with hashes of what it holds, not with remembered ones.
    #[prost(bool, tag = "6")]
    pub verify: bool,
    /// The last point that the active had before it took over, if it knows one: yours too, if your WAL holds it.
    #[prost(message, optional, tag = "7")]
    pub fork: Option<ForkPoint>,
    /// True: cut your WAL after `fork` and keep the rest of it: frames follow from there, and of the pages only
    /// those you named in [`ForkPages`].
    #[prost(bool, tag = "8")]
    pub rewind: bool,
}

/// Active to standby: does your own WAL hold this point, and which pages did you write after it?
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ForkQuery {
    /// Where the active took over.
    #[prost(message, optional, tag = "1")]
    pub fork: Option<ForkPoint>,
}

/// Standby to active: what it wrote after the point of a [`ForkQuery`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct ForkPages {
    /// False: it does not hold the point, or there are too many pages: compare all of them.
    #[prost(bool, tag = "1")]
    pub held: bool,
    /// Runs of pages: first page (from 1) and number of pages, four bytes each, little-endian, ascending.
    #[prost(bytes = "bytes", tag = "2")]
    pub runs: Bytes,
}

/// Active to standby: hash the pages of your database file, and answer with [`PageHashes`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct HashRequest {
    /// First page, counted from 1.
    #[prost(uint32, tag = "1")]
    pub first_page: u32,
    /// How many.
    #[prost(uint32, tag = "2")]
    pub page_count: u32,
    /// True: hash the pages as they are at a position, of what database file and WAL hold on your disk.
    #[prost(bool, tag = "3")]
    pub at_position: bool,
    /// With `at_position`: its generation.
    #[prost(uint64, tag = "4")]
    pub generation: u64,
    /// With `at_position`: its last frame, a commit frame.
    #[prost(uint32, tag = "5")]
    pub frame: u32,
    /// The XOR differed: build your remembered page hashes anew.
    #[prost(bool, tag = "6")]
    pub rebuild: bool,
}

/// Standby to active: xxh3-64 of each page, little-endian; shorter than asked at the end of the file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PageHashes {
    /// First page, counted from 1.
    #[prost(uint32, tag = "1")]
    pub first_page: u32,
    /// Eight bytes per page.
    #[prost(bytes = "bytes", tag = "2")]
    pub hashes: Bytes,
    /// As in the request: the hashes are of that position.
    #[prost(bool, tag = "3")]
    pub at_position: bool,
    /// With `at_position`: its generation.
    #[prost(uint64, tag = "4")]
    pub generation: u64,
    /// With `at_position`: its last frame.
    #[prost(uint32, tag = "5")]
    pub frame: u32,
    /// With `at_position`: those pages can no longer be told, ask for a later position.
    #[prost(bool, tag = "6")]
    pub passed: bool,
}

/// Active to standby: consecutive pages of the database file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PageChunk {
    /// First page, counted from 1.
    #[prost(uint32, tag = "1")]
    pub first_page: u32,
    /// The pages, whole.
    #[prost(bytes = "bytes", tag = "2")]
    pub data: Bytes,
    /// True: outside of a copy, replace the pages of the database file, which are these at a position.
    #[prost(bool, tag = "3")]
    pub repair: bool,
    /// With `repair`: the position's generation.
    #[prost(uint64, tag = "4")]
    pub generation: u64,
    /// With `repair`: the position's last frame.
    #[prost(uint32, tag = "5")]
    pub frame: u32,
}

/// Active to standby: the copy is a sound database once the WAL is durable through this position.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CopyEnd {
    /// Generation of `frame`.
    #[prost(uint64, tag = "1")]
    pub generation: u64,
    /// The position after the last page was read; 0: the WAL had no frame.
    #[prost(uint32, tag = "2")]
    pub frame: u32,
    /// Size of the database file in pages; the mirror's is cut to it.
    #[prost(uint32, tag = "3")]
    pub page_count: u32,
}

/// Either way: is the connection alive, and how long is its round trip?
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ping {
    /// Comes back unchanged.
    #[prost(fixed64, tag = "1")]
    pub nonce: u64,
    /// True in the answer.
    #[prost(bool, tag = "2")]
    pub answer: bool,
}

/// Either way: the sender stops using this connection on purpose (role change, shutdown).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Goodbye {
    /// One sentence for the log.
    #[prost(string, tag = "1")]
    pub reason: String,
}

macro_rules! messages {
    ($($kind:literal $name:ident $sender:literal $longest:ident),* $(,)?) => {
        /// Any message of the data connection.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs, reason = "each variant wraps the message of its name")]
        pub enum Message {
            $($name($name),)*
        }

        impl Message {
            /// (kind, name, sender, longest body in bytes) of every message, in order of kind.
            pub const TABLE: &'static [(u16, &'static str, &'static str, usize)] =
                &[$(($kind, stringify!($name), $sender, $longest)),*];

            /// The kind for the frame header.
            pub fn kind(&self) -> u16 {
                match self { $(Self::$name(_) => $kind,)* }
            }

            /// The name, for logs.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => stringify!($name),)* }
            }

            /// The body of a frame.
            pub fn encode(&self) -> Bytes {
                match self { $(Self::$name(m) => prost::Message::encode_to_vec(m).into(),)* }
            }

            /// A message from a frame's kind and body; `data` fields share the body's buffer.
            ///
            /// # Errors
            /// [`MessageError`] when the kind is unknown or the body is too long for it or malformed.
            pub fn decode(kind: u16, body: Bytes) -> Result<Self, MessageError> {
                match kind {
                    $($kind if body.len() > $longest => {
                        Err(MessageError::TooLong { name: stringify!($name), length: body.len(), longest: $longest })
                    })*
                    $($kind => prost::Message::decode(body)
                        .map(Self::$name)
                        .map_err(|source| MessageError::Malformed { name: stringify!($name), source }),)*
                    _ => Err(MessageError::UnknownKind(kind)),
                }
            }
        }

        $(impl From<$name> for Message {
            fn from(message: $name) -> Self {
                Self::$name(message)
            }
        })*
    };
}

messages! {
    1 Hello "both" MAX_CONTROL_BYTES,
    2 Refusal "both" MAX_CONTROL_BYTES,
    3 Databases "active" MAX_CONTROL_BYTES,
    4 MirrorStates "standby" MAX_CONTROL_BYTES,
    5 Generation "active" MAX_CONTROL_BYTES,
    6 WalBatch "active" MAX_BODY_BYTES,
    7 Ack "standby" MAX_CONTROL_BYTES,
    8 Rewind "active" MAX_CONTROL_BYTES,
    9 Rewound "standby" MAX_CONTROL_BYTES,
    10 CopyBegin "active" MAX_CONTROL_BYTES,
    11 HashRequest "active" MAX_CONTROL_BYTES,
    12 PageHashes "standby" MAX_BODY_BYTES,
    13 PageChunk "active" MAX_BODY_BYTES,
    14 CopyEnd "active" MAX_CONTROL_BYTES,
    15 Ping "both" MAX_CONTROL_BYTES,
    16 Goodbye "both" MAX_CONTROL_BYTES,
    17 ForkQuery "active" MAX_CONTROL_BYTES,
    18 ForkPages "standby" MAX_BODY_BYTES,
    19 Trees "active" MAX_CONTROL_BYTES,
    20 TreeStates "standby" MAX_CONTROL_BYTES,
    21 TreeOps "active" MAX_BODY_BYTES,
    22 TreeAck "standby" MAX_BODY_BYTES,
    23 TreeListRequest "active" MAX_CONTROL_BYTES,
    24 TreeListing "standby" MAX_BODY_BYTES,
}

/// Why a frame's body is not a message.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MessageError {
    /// A kind this version does not know.
    #[error("message kind {0} is unknown to this version: run the same software version on both nodes")]
    UnknownKind(u16),
    /// Longer than any sound message of its kind.
    #[error("{name} message of {length} bytes is longer than the limit of {longest}")]
    TooLong {
        /// Name of the message.
        name: &'static str,
        /// Length of its body in bytes.
        length: usize,
        /// The limit in bytes.
        longest: usize,
    },
    /// The body does not decode.
    #[error("{name} message is malformed: {source}")]
    Malformed {
        /// Name of the message.
        name: &'static str,
        /// What the decoder found.
        source: prost::DecodeError,
    },
}
