//! What a simulated disk may hold after the power went: what was synced, and of the rest a part.
//!
//! Of the unsynced writes to a file nothing, all, the first or the last, some, some 512-byte sectors,
//! the first up to a torn one, or only the length they gave it; of the unsynced names a prefix, as
//! journalling file systems order them, a prefix in each directory, or some. A rename is whole or did
//! not happen. That is at least as cruel as a page cache whose power went. Pure: no I/O, no clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use bytes::Bytes;

/// What a disk writes as a whole.
const SECTOR_BYTES: usize = 512;

/// What becomes of writes and names that were not synced when the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unsynced {
    /// All is there, as after the death of a process.
    Kept,
    /// Nothing of it is there.
    Lost,
    /// A part, chosen by this seed: the same seed gives the same part.
    Seeded(u64),
}

/// One recorded change or sync.
#[derive(Debug, Clone)]
pub(super) enum Operation {
    Write {
        file: usize,
        offset: usize,
        data: Bytes,
    },
    SetLen {
        file: usize,
        length: usize,
    },
    SyncFile(usize),
    /// What was written before is on no disk, although it can still be read.
    SyncFailed(usize),
    Name {
        path: PathBuf,
        file: Option<usize>,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
        file: usize,
    },
    MakeDir(PathBuf),
    SyncDir(PathBuf),
}

/// Names and contents.
#[derive(Debug, Clone, Default)]
pub(super) struct Tree {
    pub(super) names: BTreeMap<PathBuf, usize>,
    /// Directories made here; every other one has always been there.
    pub(super) made: BTreeSet<PathBuf>,
    pub(super) files: Vec<Vec<u8>>,
}

impl Tree {
    pub(super) fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Write { file, offset, data } => put(self.file(*file), *offset, data),
            Operation::SetLen { file, length } => self.file(*file).resize(*length, 0),
            Operation::Name { path, file: Some(file) } => {
                self.names.insert(path.clone(), *file);
            }
            Operation::Name { path, file: None } => {
                self.names.remove(path);
            }
            Operation::Rename { from, to, file } => {
                self.names.remove(from);
                self.names.insert(to.clone(), *file);
            }
            Operation::MakeDir(path) => {
                self.made.insert(path.clone());
            }
            Operation::SyncFile(_) | Operation::SyncFailed(_) | Operation::SyncDir(_) => {}
        }
    }

    fn file(&mut self, file: usize) -> &mut Vec<u8> {
        if self.files.len() <= file {
            self.files.resize(file + 1, Vec::new());
        }
        &mut self.files[file]
    }

    /// What is below a directory whose own name is gone cannot be reached.
    fn drop_unreachable(&mut self, lost: &[&Path]) {
        self.names.retain(|path, _| !lost.iter().any(|directory| path.starts_with(directory)));
        self.made.retain(|path| !lost.iter().any(|directory| path.starts_with(directory)));
    }
}

impl Operation {
    /// The directory whose sync makes this change of names durable.
    fn directory(&self) -> Option<&Path> {
        match self {
            Self::Name { path, .. } | Self::Rename { to: path, .. } | Self::MakeDir(path) => path.parent(),
            _ => None,
        }
    }
}

/// A small deterministic generator (splitmix64), so that a crash replays from its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ (word >> 31)) % bound.max(1) as u64) as usize
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}

/// The tree after `log` when the power went and `unsynced` decided about the rest.
pub(super) fn image(base: &Tree, log: &[Operation], unsynced: Unsynced) -> Tree {
    let mut tree = base.clone();
    let mut writes: BTreeMap<usize, Vec<&Operation>> = BTreeMap::new();
    let mut names: Vec<&Operation> = Vec::new();
    for operation in log {
        match operation {
            Operation::Write { file, .. } | Operation::SetLen { file, .. } => {
                writes.entry(*file).or_default().push(operation);
            }
            Operation::SyncFile(file) => {
                for operation in writes.remove(file).unwrap_or_default() {
                    tree.apply(operation);
                }
            }
            Operation::SyncFailed(file) => {
                writes.remove(file);
            }
            Operation::Name { .. } | Operation::Rename { .. } | Operation::MakeDir(_) => {
                names.push(operation);
            }
            Operation::SyncDir(directory) => names.retain(|operation| {
                let inside = operation.directory() == Some(directory);
                if inside {
                    tree.apply(operation);
                }
                !inside
            }),
        }
    }
    let kept = match unsynced {
        Unsynced::Kept => vec![true; names.len()],
        Unsynced::Lost => vec![false; names.len()],
        Unsynced::Seeded(seed) => surviving_names(&names, &mut Dice(!seed)),
    };
    let mut lost = Vec::new();
    for (operation, kept) in names.iter().zip(kept) {
        match operation {
            _ if kept => tree.apply(operation),
            Operation::MakeDir(path) => lost.push(path.as_path()),
            _ => {}
        }
    }
    tree.drop_unreachable(&lost);
    match unsynced {
        Unsynced::Kept => writes.into_values().flatten().for_each(|operation| tree.apply(operation)),
        Unsynced::Lost => {}
        Unsynced::Seeded(seed) => {
            let mut dice = Dice(seed);
            for operations in writes.values() {
                survive(&mut tree, operations, &mut dice);
            }
        }
    }
    let highest = tree.names.values().max().map_or(0, |file| file + 1);
    if tree.files.len() < highest {
        tree.files.resize(highest, Vec::new());
    }
    tree
}

fn surviving_names(names: &[&Operation], dice: &mut Dice) -> Vec<bool> {
    match dice.below(3) {
        0 => {
            let border = dice.below(names.len() + 1);
            (0..names.len()).map(|index| index < border).collect()
        }
        1 => {
            let mut borders: BTreeMap<Option<&Path>, usize> = BTreeMap::new();
            for operation in names {
                *borders.entry(operation.directory()).or_default() += 1;
            }
            borders.values_mut().for_each(|count| *count = dice.below(*count + 1));
            let keep = names.iter().map(|operation| {
                let left = borders.get_mut(&operation.directory()).expect("every directory was counted");
                let kept = *left > 0;
                *left = left.saturating_sub(1);
                kept
            });
            keep.collect()
        }
        _ => names.iter().map(|_| dice.coin()).collect(),
    }
}

/// How many manners [`survive`] has.
const MANNERS: usize = 8;

fn survive(tree: &mut Tree, operations: &[&Operation], dice: &mut Dice) {
    let manner = dice.below(MANNERS);
    let border = dice.below(operations.len() + 1);
    for (index, operation) in operations.iter().enumerate() {
        match (manner, operation) {
            (0, _) => {}
            (1, _) => tree.apply(operation),
            (2, _) if index < border => tree.apply(operation),
            (3, _) if index >= border => tree.apply(operation),
            (2 | 3, _) => {}
            (4, Operation::Write { .. }) => write_sectors(tree, operation, |_| dice.coin()),
            // The first writes, and of the next one the first sectors.
            (5, _) if index < border => tree.apply(operation),
            (5, Operation::Write { data, .. }) if index == border => {
                let whole = dice.below(data.len() / SECTOR_BYTES + 1);
                write_sectors(tree, operation, |sector| sector < whole);
            }
            (5, _) => {}
            // The length reached the disk before the data: zeros.
            (6, Operation::Write { file, offset, data }) => {
                let contents = tree.file(*file);
                contents.resize(contents.len().max(offset + data.len()), 0);
            }
            _ if dice.coin() => tree.apply(operation),
            _ => {}
        }
    }
}

/// The sectors of a write for which `kept`, given their number within it, says so.
fn write_sectors(tree: &mut Tree, write: &Operation, mut kept: impl FnMut(usize) -> bool) {
    let Operation::Write { file, offset, data } = write else { return };
    let (mut at, end) = (*offset, offset + data.len());
    for sector in 0.. {
        if at >= end {
            break;
        }
        let next = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
        if kept(sector) {
            put(tree.file(*file), at, &data[at - offset..next - offset]);
        }
        at = next;
    }
}

fn put(file: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if file.len() < offset + data.len() {
        file.resize(offset + data.len(), 0);
    }
    file[offset..offset + data.len()].copy_from_slice(data);
}
