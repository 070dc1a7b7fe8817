//! Standby: takes batches of operations, stages them, makes them durable, puts them in place and acknowledges.
//!
//! ```text
//! stage each entry whole, hash checked, owner, mode, attributes, times set
//! sync the staged entries and the record of the batch's paths        (`Applier::commit`)
//! put in place, in order, each by a rename; put directory times back (`place`)
//! sync what was put in place
//! write the state file: this batch is on disk                        (`state`)
//! acknowledge
//! ```
//!
//! Everything happens below a held root (`beneath`), blocks, and belongs on a thread of its own. What the active
//! asks wrongly ends the connection ([`OpError`]); what the disk refuses is answered path by path; what leaves no
//! sound way to go on is a fault of this tree alone ([`ApplyError`]).

mod error;
mod op;
mod place;
mod stage;
mod state;

pub use error::ApplyError;
pub use op::OpError;
pub use state::Followed;

use super::beneath::Root;
use super::{ContentHash, HIDDEN_DIR, Kind, Mtime, TreePath};
use crate::durable::create_dir_durably_blocking;
use bytes::Bytes;
use lockstep_wire::{
    MAX_BODY_BYTES, MAX_TREE_BATCH_BYTES, MAX_TREE_BATCH_OPS, TreeAck, TreeFailure, TreeOp, TreeOpKind,
    TreeOps, TreeReason, pack_one, unpack,
};
use op::Op;
use place::{Placing, Step, open_hidden};
use rustix::{
    fd::OwnedFd,
    fs::{self, Stat},
    io::Errno,
};
use stage::{Failed, Filling, Staged, Staging};
use state::Record;
use std::path::PathBuf;

/// Up to so many files and directories are synced one by one; more by one sync of their file system, which also
/// waits for what others wrote there. A sync of one file took 0.1 to 1 ms, so this is where the two cross.
pub const SYNC_EACH_MAX: usize = 8;

/// The longest list of failures in one answer: well below a body's limit, one entry of 4 KiB and a sentence included.
const FAILURES_BYTES: usize = MAX_BODY_BYTES / 2;

/// Where a tree is and what is known of it.
#[derive(Debug, Clone)]
pub struct ApplyConfig {
    /// Its root.
    pub root: PathBuf,
    /// Where the state file is.
    pub state_dir: PathBuf,
    /// Databases and their side files in the tree: no operation may touch them, or remove a directory around them.
    pub untouchable: Vec<TreePath>,
    /// See [`SYNC_EACH_MAX`].
    pub sync_each_max: usize,
}

/// Tells a file whose content was proven from one that was changed or replaced since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// Its number in its file system.
    pub inode: u64,
    /// Size in bytes.
    pub size: u64,
    /// Last change of its content.
    pub mtime: Mtime,
}

impl Stamp {
    /// Of an open file.
    pub fn of(stat: &Stat) -> Self {
        let mtime = super::attributes::mtime_of(stat);
        Self { inode: stat.st_ino, size: stat.st_size.cast_unsigned(), mtime }
    }
}

/// Applies the batches of one tree.
pub struct Applier {
    config: ApplyConfig,
    root: Root,
    /// Keeps the hidden directory open: it is what it was, whatever happens to its name.
    _hidden: OwnedFd,
    staging: Staging,
    record: Record,
    followed: Followed,
    batch: Option<Batch>,
    received_bytes: u64,
    /// There is something to remove in the staging directory.
    untidy: bool,
    proven: Vec<(Stamp, ContentHash)>,
}

/// A batch that is being received.
struct Batch {
    of: Followed,
    steps: Vec<(TreeOpKind, TreePath, Step)>,
    filling: Option<Filling>,
    touched: Vec<TreePath>,
    kept_bytes: usize,
    failures: Vec<TreeFailure>,
}

impl Applier {
    /// Opens a tree: its root, what is known of it, and its staging directory, from which the leftovers of a crash
    /// are removed. A root that is missing is made if nothing was followed there yet.
    ///
    /// # Errors
    /// Why it cannot be followed.
    pub fn open(config: ApplyConfig) -> Result<Self, ApplyError> {
        create_dir_durably_blocking(&config.state_dir)?;
        let followed = Followed::read(&state_path(&config))?;
        if followed == Followed::default() {
            // Its parent must be there: a missing mount point is not made up for.
            let _ = fs::mkdirat(fs::CWD, &config.root, fs::Mode::from_raw_mode(0o755));
        }
        let failed =
            |errno: Errno| ApplyError::Root { path: config.root.display().to_string(), source: errno.into() };
        let root = Root::open(&config.root).map_err(failed)?;
        let is_new = super::beneath::stat_in(root.fd(), HIDDEN_DIR).map_err(failed)?.is_none();
        if is_new && followed != Followed::default() {
            return Err(ApplyError::Lost {
                path: config.root.display().to_string(),
                state: state_path(&config).display().to_string(),
            });
        }
        let hidden_failed = ApplyError::disk("opening the tree's directory .lockstep");
        let hidden = open_hidden(&root, HIDDEN_DIR).map_err(hidden_failed)?;
        let fd = rustix::fd::AsFd::as_fd(&hidden);
        let staging = Staging::open(fd).map_err(ApplyError::disk("opening the staging directory"))?;
        let (record, existed) =
            Record::open(fd).map_err(ApplyError::disk("opening the record of batches"))?;
        if !existed {
            fs::fsync(&hidden).map_err(ApplyError::disk("syncing the tree's directory .lockstep"))?;
        }
        Ok(Self {
            config,
            root,
            _hidden: hidden,
            staging,
            record,
            followed,
            batch: None,
            received_bytes: 0,
            untidy: false,
            proven: Vec::new(),
        })
    }

    /// What is followed, and how far.
    pub fn followed(&self) -> Followed {
        self.followed
    }

    /// Was a batch after [`Self::followed`] being put in place when the node stopped?
    pub fn is_interrupted(&self) -> bool {
        self.record.of != Followed::default() && self.record.of != self.followed
    }

    /// The paths of the last batch that was put in place, or was being put.
    pub fn touched(&self) -> &[TreePath] {
        &self.record.paths
    }

    /// Is there nothing below the root?
    pub fn is_empty(&self) -> bool {
        let names = super::beneath::names(self.root.fd());
        names.is_ok_and(|names| names.iter().all(|name| name == HIDDEN_DIR))
    }

    /// The held root.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Bytes of messages taken in since the last [`Self::disconnect`].
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Files whose content was proven since this was asked last.
    pub fn take_proven(&mut self) -> Vec<(Stamp, ContentHash)> {
        std::mem::take(&mut self.proven)
    }

    /// The connection is gone, or this node takes over: an open batch is dropped, nothing of it was in place.
    pub fn disconnect(&mut self) {
        self.untidy |= self.batch.take().is_some();
        self.received_bytes = 0;
        self.tidy();
    }

    /// Removes what is left in the staging directory, when nobody waits.
    pub fn tidy(&mut self) {
        if std::mem::take(&mut self.untidy)
            && self.batch.is_none()
            && let Err(error) = self.staging.clear()
        {
            tracing::warn!(root = %self.config.root.display(), %error, "removing staged leftovers");
            self.untidy = true;
        }
    }

    /// This node writes the tree from now on: no active's index describes it any more, durably.
    ///
    /// # Errors
    /// The disk of the agent's own directory.
    pub fn forget(&mut self) -> Result<(), ApplyError> {
        self.followed = Followed::default();
        Self::forget_state(&self.config)
    }

    /// [`Self::forget`] of a tree that is not open.
    ///
    /// # Errors
    /// The disk of the agent's own directory.
    pub fn forget_state(config: &ApplyConfig) -> Result<(), ApplyError> {
        let path = state_path(config);
        if Followed::read(&path).is_ok_and(|followed| followed == Followed::default()) {
            return Ok(());
        }
        create_dir_durably_blocking(&config.state_dir)?;
        Followed::default().write(&path)
    }

    /// Takes a message in; `body_bytes` is the length of its body. At the end of a batch: the answers, in order.
    ///
    /// # Errors
    /// Why the tree, or with [`ApplyError::Op`] the connection, cannot go on; the open batch is dropped.
    pub fn take(&mut self, ops: TreeOps, body_bytes: u64) -> Result<Vec<TreeAck>, ApplyError> {
        let taken = self.take_ops(ops, body_bytes);
        if taken.is_err() {
            self.batch = None;
            self.untidy = true;
        }
        taken
    }

    fn take_ops(&mut self, ops: TreeOps, body_bytes: u64) -> Result<Vec<TreeAck>, ApplyError> {
        self.received_bytes += body_bytes;
        let of = Followed { index: ops.index, batch: ops.batch };
        let mut batch = match self.batch.take() {
            Some(batch) if batch.of == of => batch,
            Some(batch) => return Err(OpError::Batch { last: batch.of.batch, found: of.batch }.into()),
            None => self.begin(of)?,
        };
        for wire in unpack::<TreeOp>(ops.ops) {
            let op = Op::from_wire(wire.map_err(|_| OpError::Malformed)?)?;
            self.stage(&mut batch, op)?;
        }
        if !ops.last {
            self.batch = Some(batch);
            return Ok(Vec::new());
        }
        if batch.filling.is_some() {
            return Err(OpError::Order(TreeOpKind::End).into());
        }
        self.commit(batch)
    }

    fn begin(&mut self, of: Followed) -> Result<Batch, ApplyError> {
        let follows = of.index == self.followed.index && of.batch == self.followed.batch.saturating_add(1);
        let is_other = of.index != self.followed.index && of.batch > 0;
        if of.index == 0 || !follows && !is_other {
            return Err(OpError::Batch { last: self.followed.batch, found: of.batch }.into());
        }
        if !self.root.is_at(&self.config.root) {
            return Err(ApplyError::Moved(self.config.root.display().to_string()));
        }
        self.tidy();
        Ok(Batch {
            of,
            steps: Vec::new(),
            filling: None,
            touched: Vec::new(),
            kept_bytes: 0,
            failures: Vec::new(),
        })
    }

    /// Checks the limits of a batch and stages what an operation brings.
    fn stage(&mut self, batch: &mut Batch, op: Op) -> Result<(), OpError> {
        batch.kept_bytes += op.kept_bytes();
        if batch.steps.len() + batch.failures.len() >= MAX_TREE_BATCH_OPS
            || batch.kept_bytes > MAX_TREE_BATCH_BYTES
        {
            return Err(OpError::Large);
        }
        let kind = op.kind();
        let is_content = matches!(kind, TreeOpKind::Data | TreeOpKind::Keep | TreeOpKind::End);
        if is_content != batch.filling.is_some() {
            return Err(OpError::Order(kind));
        }
        let touched = op.paths().map(Option::<&TreePath>::cloned);
        for path in touched.iter().flatten() {
            if let Err(failed) = self.check_touchable(path, kind) {
                batch.fail(kind, path, failed);
                if kind == TreeOpKind::Begin {
                    // Its content still comes.
                    batch.filling = Some(Filling::refused(path.clone(), &op));
                }
                return Ok(());
            }
        }
        batch.touched.extend(touched.into_iter().flatten());
        match op {
            Op::Put { path, meta, data, content } => {
                let staged = self.staging.put(&meta, &data, content);
                batch.staged(kind, path, staged, None);
            }
            Op::Make { path, kind: Kind::Directory, meta } => {
                let staged = self.staging.make(&Kind::Directory, &meta);
                batch.staged(kind, path, staged, Some(meta));
            }
            Op::Make { path, kind: made, meta } => {
                let staged = self.staging.make(&made, &meta);
                batch.staged(kind, path, staged, None);
            }
            Op::Begin { path, from, size, meta } => {
                batch.filling = Some(self.staging.begin(&self.root, (path, meta, size), from));
            }
            Op::Data { offset, data } => batch.filling(kind)?.data(offset, &data)?,
            Op::Keep { offset, length } => batch.filling(kind)?.keep(offset, length)?,
            Op::End { content } => {
                let filling = batch.filling.take().ok_or(OpError::Order(kind))?;
                let path = filling.path.clone();
                if let Some(staged) = filling.end(content) {
                    batch.staged(TreeOpKind::Begin, path, staged, None);
                }
            }
            Op::Link { path, from, expected } => {
                batch.step(kind, path.clone(), Step::Link { path, from, expected });
            }
            Op::Remove { path } => batch.step(kind, path.clone(), Step::Remove { path }),
            Op::Rename { path, from, expected } => {
                batch.step(kind, path.clone(), Step::Rename { path, from, expected });
            }
            Op::Exchange { path, from, expected } => {
                batch.step(kind, path.clone(), Step::Exchange { path, from, expected });
            }
            Op::Meta { path, meta } => batch.step(kind, path.clone(), Step::Meta { path, meta }),
        }
        Ok(())
    }

    fn check_touchable(&self, path: &TreePath, kind: TreeOpKind) -> Result<(), Failed> {
        let is_touched = |guarded: &TreePath| match kind {
            // A directory around it may get other times and stay where it is.
            TreeOpKind::Meta | TreeOpKind::Directory => guarded == path,
            _ => guarded.is_in(path),
        };
        match self.config.untouchable.iter().find(|guarded| is_touched(guarded)) {
            Some(guarded) => {
                Err(Failed::new(TreeReason::Denied, format!("{guarded} is part of a replicated database")))
            }
            None => Ok(()),
        }
    }

    /// Makes the staged entries durable, puts them in place, makes that durable, remembers and answers it.
    fn commit(&mut self, mut batch: Batch) -> Result<Vec<TreeAck>, ApplyError> {
        self.untidy |= !batch.steps.is_empty() || !batch.failures.is_empty();
        match self.make_staged_durable(&mut batch) {
            Ok(()) => {}
            Err(errno @ (Errno::NOSPC | Errno::DQUOT)) => {
                for (kind, path, _) in std::mem::take(&mut batch.steps) {
                    batch.fail(kind, &path, errno.into());
                }
            }
            Err(errno) => return Err(ApplyError::disk("syncing staged files")(errno)),
        }
        if !batch.steps.is_empty() {
            let mut placing = Placing::new(&self.root, &mut self.staging);
            for (kind, path, step) in std::mem::take(&mut batch.steps) {
                let proven = proven(&step);
                match placing.step(step) {
                    Ok(None) => self.proven.extend(proven),
                    Ok(Some(lacking)) => batch.fail(kind, &path, lacking),
                    Err(failed) => batch.fail(kind, &path, failed),
                }
            }
            let done = placing.finish(self.config.sync_each_max);
            done.map_err(ApplyError::disk("syncing the tree"))?;
        }
        if batch.failures.iter().any(|f| matches!(f.reason(), TreeReason::Disk | TreeReason::ReadOnly)) {
            // One bad sector is a path's failure; a file system that takes nothing any more is the tree's.
            fs::syncfs(self.root.fd()).map_err(ApplyError::disk("syncing the tree's file system"))?;
        }
        batch.of.write(&state_path(&self.config))?;
        self.followed = batch.of;
        Ok(self.acks(&batch.failures))
    }

    fn make_staged_durable(&mut self, batch: &mut Batch) -> rustix::io::Result<()> {
        self.record.write(batch.of, std::mem::take(&mut batch.touched))?;
        // A record of nothing is needed by nobody after a crash.
        if batch.steps.is_empty() { Ok(()) } else { self.sync_staged(batch) }
    }

    fn sync_staged(&self, batch: &Batch) -> rustix::io::Result<()> {
        let staged = || {
            batch.steps.iter().filter_map(|(.., step)| match step {
                Step::Install { staged, .. } => Some(staged),
                _ => None,
            })
        };
        let each = |staged: &Staged| {
            matches!(staged.kind, lockstep_wire::TreeKind::File | lockstep_wire::TreeKind::Directory)
        };
        if staged().count() > self.config.sync_each_max || !staged().all(each) {
            return fs::syncfs(self.root.fd());
        }
        staged().try_for_each(|staged| self.staging.sync(staged))?;
        fs::fsync(self.record.file())
    }

    /// An acknowledgement of what is on disk.
    pub fn ack(&self) -> TreeAck {
        let Followed { index, batch } = self.followed;
        TreeAck { index, batch, received_bytes: self.received_bytes, failures: Bytes::new(), more: false }
    }

    fn acks(&self, failures: &[TreeFailure]) -> Vec<TreeAck> {
        let mut lists = vec![Vec::new()];
        for failure in failures {
            if lists.last().is_some_and(|list| list.len() > FAILURES_BYTES) {
                lists.push(Vec::new());
            }
            pack_one(failure, lists.last_mut().expect("there is always one"));
        }
        let last = lists.len() - 1;
        let ack =
            |(at, list): (usize, Vec<u8>)| TreeAck { failures: list.into(), more: at < last, ..self.ack() };
        lists.into_iter().enumerate().map(ack).collect()
    }
}

fn state_path(config: &ApplyConfig) -> PathBuf {
    config.state_dir.join("standby.state")
}

fn proven(step: &Step) -> Option<(Stamp, ContentHash)> {
    match step {
        Step::Install { staged, .. } => staged.content,
        _ => None,
    }
}

impl Batch {
    fn filling(&mut self, kind: TreeOpKind) -> Result<&mut Filling, OpError> {
        self.filling.as_mut().ok_or(OpError::Order(kind))
    }

    fn step(&mut self, kind: TreeOpKind, path: TreePath, step: Step) {
        self.steps.push((kind, path, step));
    }

    fn staged(
        &mut self,
        kind: TreeOpKind,
        path: TreePath,
        staged: Result<Staged, Failed>,
        meta: Option<super::Meta>,
    ) {
        match staged {
            Ok(staged) => self.step(kind, path.clone(), Step::Install { path, staged, meta }),
            Err(failed) => self.fail(kind, &path, failed),
        }
    }

    fn fail(&mut self, kind: TreeOpKind, path: &TreePath, failed: Failed) {
        self.failures.push(TreeFailure {
            path: Bytes::copy_from_slice(path.as_bytes()),
            op: kind.into(),
            reason: failed.reason.into(),
            detail: failed.detail,
        });
    }
}

#[cfg(test)]
mod tests;
