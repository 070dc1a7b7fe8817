//! Carries out a plan: reads files, builds operations, and remembers what each brought.

use super::batch::{Session, Stop};
use super::outcome::{Done, Failures, Why, follow};
use super::read::{Base, Read, read};
use super::thread::Tree;
use crate::files::TreePath;
use crate::files::disk::{Disk, Found};
use crate::files::index::{Change, NodeId, Seen, Store};
use crate::files::plan::{Facts, Op, Step, WHOLE_MAX_BYTES};
use crate::files::{BlockHash, ContentHash};
use bytes::Bytes;
use lockstep_wire::{TreeOp, TreeOpKind};
use std::time::Instant;

fn bytes_of(path: &TreePath) -> Bytes {
    Bytes::copy_from_slice(path.as_bytes())
}

impl Tree {
    /// Does all steps in order, and ends the batch.
    pub(super) fn carry_out(&mut self, disk: &Disk, facts: &Facts, steps: Vec<Step>) -> Result<(), Stop> {
        self.unread.clear();
        let before = self.doubts.clone();
        for step in steps {
            if let Op::Content { always } = step.op {
                self.content(disk, &step, always)?;
            } else {
                self.other(facts, step)?;
            }
        }
        // Some may have another place with the directory they are in.
        self.look_at_doubts(&before, self.round_first);
        self.finish()
    }

    fn other(&mut self, facts: &Facts, step: Step) -> Result<(), Stop> {
        let Step { op, path, node, from_node, expected, mut changes } = step;
        let found = facts.found(&path);
        let (kind, from) = match op {
            Op::Note => {
                return self.done(Done { path, from: None, changes, why: Why::Found });
            }
            Op::Directory => (TreeOpKind::Directory, None),
            Op::Symlink => (TreeOpKind::Symlink, None),
            Op::Fifo => (TreeOpKind::Fifo, None),
            Op::Meta => (TreeOpKind::Meta, None),
            Op::Remove => (TreeOpKind::Remove, None),
            Op::Rename(from) => (TreeOpKind::Rename, Some(from)),
            Op::Exchange(from) => (TreeOpKind::Exchange, Some(from)),
            Op::Link(from) => {
                // As it is known now, after the file was read.
                let read = from_node.filter(|from| !self.unread.contains(from));
                let seen = read.and_then(|from| self.known.seen(from)).cloned();
                let (Some(seen), Some(node)) = (seen, node) else {
                    self.look_again(&path, std::time::Duration::ZERO, false);
                    return self.lose(&path, node);
                };
                let blocks = self.blocks_of(from_node)?;
                self.known.set_seen(node, seen.clone());
                changes.push(Change::Content { id: node, seen: Box::new(seen), blocks });
                (TreeOpKind::Link, Some(from))
            }
            Op::Content { .. } => return Ok(()),
        };
        let with_meta =
            matches!(kind, TreeOpKind::Directory | TreeOpKind::Symlink | TreeOpKind::Fifo | TreeOpKind::Meta);
        let Some(meta) = (if with_meta { found.map(|found| Some(found.meta.to_wire())) } else { Some(None) })
        else {
            return Ok(());
        };
        let target = match (kind, found) {
            (TreeOpKind::Symlink, Some(Found { target, .. })) => Bytes::copy_from_slice(target),
            _ => Bytes::new(),
        };
        let op = TreeOp {
            kind: kind.into(),
            path: bytes_of(&path),
            from: from.as_ref().map(bytes_of).unwrap_or_default(),
            meta,
            expected,
            data: target,
            ..TreeOp::default()
        };
        let (session, store) = self.lines()?;
        session.op(&op, store)?;
        self.done(Done { path, from, changes, why: Why::Sent(kind) })
    }

    fn content(&mut self, disk: &Disk, step: &Step, always: bool) -> Result<(), Stop> {
        let path = &step.path;
        let Some((id, seen)) = step.node.and_then(|id| Some((id, self.known.seen(id)?.clone()))) else {
            return Ok(());
        };
        let on_standby = seen.mtime != Default::default() || seen.content.is_some() || !always;
        let blocks = self.blocks_of(Some(id))?;
        let base = Base {
            blocks: if on_standby { blocks } else { Vec::new() },
            size: seen.size,
            content: seen.content,
            expected: on_standby.then(|| seen.expected()),
        };
        let began = Instant::now();
        let result = {
            let (session, store) = self.lines()?;
            read(disk, (path, seen.id), (&base, always), session, store)?
        };
        let took = began.elapsed();
        match result {
            Read::Absent => {
                self.unread(path, id, on_standby)?;
                self.look_again(path, std::time::Duration::ZERO, false);
                Ok(())
            }
            Read::Failed(error) => {
                self.unread(path, id, on_standby)?;
                self.hold(path, &format!("it cannot be read: {error}"), self.round_first);
                Ok(())
            }
            Read::Done { found, content, blocks, sent, changed } => {
                if changed {
                    self.look_again(path, took, true);
                } else if took > std::time::Duration::from_millis(50) {
                    self.resting.insert(path.clone(), Instant::now() + took * 10);
                }
                if sent {
                    self.count.files += 1;
                    self.count.bytes += found.size;
                }
                self.remember(step, &found, (content, blocks), sent)
            }
        }
    }

    /// A file was not sent. The standby has what it had before, whichever file that was here, or nothing.
    fn unread(&mut self, path: &TreePath, id: NodeId, on_standby: bool) -> Result<(), Stop> {
        self.unread.insert(id);
        if !on_standby {
            return self.lose(path, Some(id));
        }
        self.known.set_stranger(id);
        Ok(())
    }

    /// What was to come to `path` does not; what the standby has there it was to replace.
    fn lose(&mut self, path: &TreePath, node: Option<NodeId>) -> Result<(), Stop> {
        if let Some(node) = node {
            self.known.remove(node);
        }
        self.done(Done { path: path.clone(), from: None, changes: Vec::new(), why: Why::Lost })
    }

    /// The standby has this content, or will have it with this batch.
    fn remember(
        &mut self,
        step: &Step,
        found: &Found,
        (content, blocks): (ContentHash, Vec<BlockHash>),
        sent: bool,
    ) -> Result<(), Stop> {
        let path = &step.path;
        let Some(id) = step.node else { return Ok(()) };
        let meta_differs = self.known.seen(id).is_some_and(|seen| !seen.same_meta(found));
        let now = Seen::of(found, Some(content));
        let mut changes = step.changes.clone();
        // All names of a file are one file on the standby too; of a new one the links come later.
        let others = if sent { Vec::new() } else { self.known.names(found.id).to_vec() };
        for id in std::iter::once(id).chain(others.into_iter().filter(|other| *other != id)) {
            self.known.set_seen(id, now.clone());
            changes.push(Change::Content { id, seen: Box::new(now.clone()), blocks: blocks.clone() });
        }
        let why = match (sent, meta_differs) {
            (true, _) => Why::Sent(TreeOpKind::Put),
            (false, true) => Why::Sent(TreeOpKind::Meta),
            (false, false) => Why::Found,
        };
        if why == Why::Sent(TreeOpKind::Meta) {
            let op = TreeOp {
                kind: TreeOpKind::Meta.into(),
                path: bytes_of(path),
                meta: Some(found.meta.to_wire()),
                ..TreeOp::default()
            };
            let (session, store) = self.lines()?;
            session.op(&op, store)?;
        }
        self.done(Done { path: path.clone(), from: None, changes, why })
    }

    /// Block hashes of a large file, as the standby has it or will have it.
    fn blocks_of(&mut self, id: Option<NodeId>) -> Result<Vec<BlockHash>, Stop> {
        let Some((id, seen)) = id.and_then(|id| Some((id, self.known.seen(id)?))) else {
            return Ok(Vec::new());
        };
        if seen.size <= WHOLE_MAX_BYTES {
            return Ok(Vec::new());
        }
        let (session, store) = self.lines()?;
        match session.flying_blocks(id) {
            Some(blocks) => Ok(blocks),
            None => Ok(store.blocks(id)?.unwrap_or_default()),
        }
    }

    fn finish(&mut self) -> Result<(), Stop> {
        let first = self.round_first;
        let (session, store) = self.lines()?;
        let found = session.close(store, first)?;
        if found.is_empty() {
            return Ok(());
        }
        let batch = session.last_batch();
        self.account(batch, found, &Failures::default())
    }

    /// Remembers one finished step.
    fn done(&mut self, done: Done) -> Result<(), Stop> {
        if !follow(&mut self.doubts, &done)
            && let Some(id) = self.known.find(&done.path).filter(|_| self.doubts.cover(&done.path))
        {
            // Looked at again at the end of the round.
            self.known.remove(id);
        }
        let first = self.round_first;
        let (session, store) = self.lines()?;
        session.done(done, store, first)
    }

    /// Session and store, which are there while something is sent.
    fn lines(&mut self) -> Result<(&mut Session, &mut Store), Stop> {
        match (&mut self.session, &mut self.store) {
            (Some(session), Some(store)) => Ok((session, store)),
            _ => Err(Stop::Gone),
        }
    }
}
