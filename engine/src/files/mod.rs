//! File trees beside the databases: every change on the standby, whole and in order.
//!
//! Active: watch -> plan -> ship. Standby: apply. Both: `path` and `entry` are what an entry of a tree is called and
//! is, `content` how its bytes are hashed. State-based: what counts is the difference between what the standby
//! acknowledged and what is on disk, never a log of events.

pub mod apply;
mod attributes;
mod beneath;
mod content;
pub mod disk;
mod entry;
pub mod follow;
pub mod index;
pub mod kept;
mod path;
pub mod plan;
pub mod proof;
pub mod rules;
pub mod ship;
pub mod watch;

pub use attributes::{Lacking, Opened, mtime_of};
pub use beneath::Root;
pub use content::{BLOCK_BYTES, BlockHash, ContentHash, ContentHasher, content_of_blocks};
pub use entry::{
    Entry, EntryError, EntryHash, Kind, MAX_XATTR_BYTES, MAX_XATTR_VALUE_BYTES, Meta, Mtime, Xattrs,
    is_carried,
};
pub use path::{HIDDEN_DIR, MAX_DEPTH, MAX_NAME_BYTES, PathError, TreePath, check_name};
