//! Asks a standby that follows another index what it holds, directory by directory.
//!
//! Names, types and metadata only: a file of the same size and time of modification is taken to be the same, as
//! rsync does; whether its content is equal is proven by whoever compares hashes.

use crate::files::disk::FileId;
use crate::files::index::{Known, NO_MODE, Seen};
use crate::files::rules::Rules;
use crate::files::{Meta, Mtime, TreePath};
use lockstep_wire::{TreeEntry, TreeKind, TreeListRequest, TreeListing, TreeQuestion, unpack};

/// A walk over the standby's tree.
pub(super) struct Reconcile {
    asked: Option<(u64, TreePath)>,
    left: Vec<TreePath>,
    pub(super) known: Known,
    requests: u64,
}

/// An entry of which only the kind is known.
pub(super) fn seen_of(kind: TreeKind) -> Seen {
    Seen {
        kind,
        mode: NO_MODE,
        user: 0,
        group: 0,
        mtime: Mtime::default(),
        rest: 0,
        size: 0,
        id: FileId::default(),
        ctime: Mtime::default(),
        racy: false,
        links: 1,
        content: None,
    }
}

impl Reconcile {
    pub(super) fn new() -> Self {
        let mut known = Known::default();
        known.set(&TreePath::root(), seen_of(TreeKind::Directory));
        Self { asked: None, left: vec![TreePath::root()], known, requests: 0 }
    }

    /// The next question; None: everything is known.
    pub(super) fn next(&mut self) -> Option<TreeListRequest> {
        let path = self.left.pop()?;
        self.requests += 1;
        let request = TreeListRequest {
            request: self.requests,
            question: TreeQuestion::Entries.into(),
            path: bytes::Bytes::copy_from_slice(path.as_bytes()),
            deep: false,
        };
        self.asked = Some((self.requests, path));
        Some(request)
    }

    /// An answer; Ok(true): the directory is complete.
    pub(super) fn answer(&mut self, listing: &TreeListing, rules: &Rules) -> Result<bool, String> {
        let Some((request, path)) = self.asked.clone() else { return Ok(false) };
        if listing.request != request {
            return Ok(false);
        }
        if !listing.fault.is_empty() {
            return Err(format!("the standby cannot list {path}: {}", listing.fault));
        }
        for entry in unpack::<TreeEntry>(listing.entries.clone()) {
            let entry = entry.map_err(|_| "the standby's listing is malformed".to_owned())?;
            if path.is_root() && entry.name == crate::files::HIDDEN_DIR {
                continue;
            }
            let child = path.join(&entry.name).map_err(|error| format!("the standby's listing: {error}"))?;
            if !rules.includes(&child) {
                continue;
            }
            let kind = if entry.fault.is_empty() { entry.kind() } else { TreeKind::Other };
            self.known.set(&child, seen_in(&entry, kind)?);
            if kind == TreeKind::Directory {
                self.left.push(child);
            }
        }
        if listing.last {
            self.asked = None;
        }
        Ok(listing.last)
    }
}

fn seen_in(entry: &TreeEntry, kind: TreeKind) -> Result<Seen, String> {
    let mut seen = seen_of(kind);
    if let Some(meta) = entry.meta.as_ref().filter(|_| kind != TreeKind::Other) {
        let meta = Meta::from_wire(meta).map_err(|error| format!("the standby's listing: {error}"))?;
        let found = crate::files::disk::Found {
            kind,
            meta,
            size: entry.size,
            target: entry.target.to_vec(),
            id: FileId::default(),
            ctime: Mtime::default(),
            racy: false,
            links: if entry.inode == 0 { 1 } else { 2 },
            device: (0, 0),
        };
        seen = Seen::of(&found, None);
    }
    Ok(seen)
}
