//! Carries out a plan: reads files, builds operations, and remembers what each brought.

use super::batch::{Done, Stop};
use super::read::{Base, Read, read};
use super::thread::Tree;
use crate::files::TreePath;
use crate::files::disk::{Disk, Found};
use crate::files::index::{Change, Seen};
use crate::files::plan::{Facts, Op, Step, WHOLE_MAX_BYTES, change_of};
use bytes::Bytes;
use lockstep_wire::{TreeOp, TreeOpKind};
use std::time::Instant;

fn bytes_of(path: &TreePath) -> Bytes {
    Bytes::copy_from_slice(path.as_bytes())
}

impl Tree {
    /// Does all steps in order, and ends the batch.
    pub(super) fn carry_out(&mut self, disk: &Disk, facts: &Facts, steps: Vec<Step>) -> Result<(), Stop> {
        for step in steps {
            if let Op::Content { always } = step.op {
                self.content(disk, &step, always)?;
            } else {
                self.other(facts, step)?;
            }
        }
        self.finish()
    }

    fn other(&mut self, facts: &Facts, step: Step) -> Result<(), Stop> {
        let Step { op, path, expected, mut changes } = step;
        let found = facts.found(&path);
        let (kind, from) = match op {
            Op::Note => {
                return self.done(Done { path, from: None, changes, silent: true });
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
                let Some(seen) = self.known.at(&from).cloned() else {
                    self.look_again(&path, std::time::Duration::ZERO);
                    return Ok(());
                };
                let id = self.known.set(&path, seen);
                changes.retain(|change| matches!(change, Change::Gone(_)));
                changes.extend(id.and_then(|id| change_of(&self.known, id, None)));
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
        self.done(Done { path, from, changes, silent: false })
    }

    fn content(&mut self, disk: &Disk, step: &Step, always: bool) -> Result<(), Stop> {
        let path = &step.path;
        let Some(id) = self.known.find(path) else { return Ok(()) };
        let Some(seen) = self.known.seen(id).cloned() else { return Ok(()) };
        let on_standby = seen.mtime != Default::default() || seen.content.is_some() || !always;
        let blocks = match self.flying_blocks(id) {
            Some(blocks) => blocks,
            None if seen.size > WHOLE_MAX_BYTES => {
                let (_, store) = self.lines()?;
                store.blocks(id)?.unwrap_or_default()
            }
            None => Vec::new(),
        };
        let base = Base {
            blocks: if on_standby { blocks } else { Vec::new() },
            size: seen.size,
            content: seen.content,
            expected: on_standby.then(|| seen.expected()),
        };
        let began = Instant::now();
        let result = {
            let (session, store) = self.lines()?;
            read(disk, path, (&base, always), session, store)?
        };
        let took = began.elapsed();
        match result {
            Read::Absent => {
                // Of a file that the standby does not have nothing is known any more.
                if !on_standby {
                    self.known.remove(id);
                }
                self.look_again(path, std::time::Duration::ZERO);
                Ok(())
            }
            Read::Failed(error) => {
                if !on_standby {
                    self.known.remove(id);
                }
                self.hold(path, &format!("it cannot be read: {error}"), Instant::now());
                Ok(())
            }
            Read::Done { found, content, blocks, sent, changed } => {
                if changed {
                    self.look_again(path, took);
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

    /// The standby has this content, or will have it with this batch.
    fn remember(
        &mut self,
        step: &Step,
        found: &Found,
        (content, blocks): (crate::files::ContentHash, Vec<crate::files::BlockHash>),
        sent: bool,
    ) -> Result<(), Stop> {
        let path = &step.path;
        let meta_differs = self.known.at(path).is_some_and(|seen| !seen.same_meta(found));
        let now = Seen::of(found, Some(content));
        let mut changes = step.changes.clone();
        let id = self.known.set(path, now.clone());
        changes.extend(id.and_then(|id| change_of(&self.known, id, Some(blocks.clone()))));
        if !sent {
            let others: Vec<_> =
                self.known.names(found.id).iter().filter_map(|id| self.known.path(*id)).collect();
            for other in others.iter().filter(|other| *other != path) {
                let id = self.known.set(other, now.clone());
                changes.extend(id.and_then(|id| change_of(&self.known, id, Some(blocks.clone()))));
            }
        }
        let silent = !sent && !meta_differs;
        if !sent && meta_differs {
            let op = TreeOp {
                kind: TreeOpKind::Meta.into(),
                path: bytes_of(path),
                meta: Some(found.meta.to_wire()),
                ..TreeOp::default()
            };
            let (session, store) = self.lines()?;
            session.op(&op, store)?;
        }
        self.done(Done { path: path.clone(), from: None, changes, silent })
    }

    /// Block hashes of a file that is on its way.
    fn flying_blocks(&self, id: crate::files::index::NodeId) -> Option<Vec<crate::files::BlockHash>> {
        self.session.as_ref()?.flying_blocks(id)
    }
}
