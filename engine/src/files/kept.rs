//! What this node changed in a tree and its standby never acknowledged, kept before another active's tree replaces it.
//!
//! A node that lost the right to write comes back as standby with its old index: what is on disk as that index knows
//! it is on the other node too. Everything else is copied, with a manifest, into a directory of the agent's; the tree
//! itself is left for the active to put right.

use super::disk::{Disk, FileId, Found};
use super::index::{Known, Seen, Store};
use super::rules::Rules;
use super::{ContentHasher, TreePath};
use lockstep_wire::TreeKind;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Read at once.
const READ_BYTES: usize = 256 << 10;

/// What was kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Files that were copied, and links and FIFOs that the manifest names.
    pub entries: u64,
    /// Paths that this node had removed; the active brings them back.
    pub removed: u64,
    /// Of their content.
    pub bytes: u64,
    /// Files beyond the limit, which the manifest only names.
    pub left_out: u64,
}

/// Copies what differs from the index at `index` into a new directory `kept-N` below `into`, and forgets the index.
/// `None`: there was no index, or nothing differs.
///
/// # Errors
/// As the system says; the index is then still there.
pub fn keep_changes(
    root: &Path,
    rules: &Rules,
    index: &Path,
    (into, bytes_max): (&Path, u64),
) -> io::Result<Option<(PathBuf, Kept)>> {
    if !index.try_exists()? {
        return Ok(None);
    }
    let known = Store::open(index).and_then(|store| store.load()).map_err(io::Error::other)?;
    let disk = Disk::open(root)?;
    let (changed, removed) = changes(&disk, rules, &known)?;
    // Without an index that ever described a standby everything would count as changed, and nothing is known lost.
    if known.is_empty() || changed.is_empty() && removed.is_empty() {
        Store::forget(index);
        return Ok(None);
    }
    let mut keeping = Keeping::begin(into, bytes_max)?;
    for (path, found) in &changed {
        keeping.keep(&disk, path, found)?;
    }
    for path in &removed {
        keeping.kept.removed += 1;
        writeln!(keeping.manifest, "removed {path}")?;
    }
    let kept = keeping.finish()?;
    Store::forget(index);
    Ok(Some(kept))
}

/// Changed entries, and paths that are gone.
type Changes = (Vec<(TreePath, Found)>, Vec<TreePath>);

/// Paths that are not as the index knows them, and paths that are gone. Directories have nothing of their own to keep.
fn changes(disk: &Disk, rules: &Rules, known: &Known) -> io::Result<Changes> {
    let (mut changed, mut seen) = (Vec::new(), HashSet::new());
    let mut left = vec![TreePath::root()];
    while let Some(directory) = left.pop() {
        for (name, _) in disk.list(&directory)?.unwrap_or_default() {
            let Ok(path) = directory.join(&name) else { continue };
            if !rules.includes(&path) {
                continue;
            }
            let Some(found) = disk.look(&path)? else { continue };
            if let Some(node) = known.find(&path) {
                seen.insert(node);
            }
            if found.kind == TreeKind::Directory {
                left.push(path);
                continue;
            }
            let same = match known.at(&path) {
                Some(known) => is_same(disk, &path, known, &found)?,
                None => false,
            };
            if !same && found.kind != TreeKind::Other {
                changed.push((path, found));
            }
        }
    }
    let all = known.find(&TreePath::root()).map_or_else(Vec::new, |root| known.below(root));
    let gone = all.into_iter().filter(|node| !seen.contains(node)).filter_map(|node| known.path(node));
    Ok((changed, gone.filter(|path| !path.is_root()).collect()))
}

/// The other node has it as it is here. A change of nothing but the time of the last change (another name of the file
/// came or went, its mode was set to what it was) is none; a file is read to tell.
fn is_same(disk: &Disk, path: &TreePath, known: &Seen, found: &Found) -> io::Result<bool> {
    if known.kind != found.kind || known.size != found.size {
        return Ok(false);
    }
    if known.id == found.id && known.id != FileId::default() && known.ctime == found.ctime {
        return Ok(true);
    }
    if !known.same_meta(found) {
        return Ok(false);
    }
    let Some(content) = known.content.filter(|_| found.kind == TreeKind::File) else {
        return Ok(found.kind != TreeKind::File);
    };
    let Some((mut file, _)) = disk.file(path)? else { return Ok(false) };
    let mut hasher = ContentHasher::default();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish().0 == content),
            read => hasher.update(&buffer[..read]),
        }
    }
}

struct Keeping {
    directory: PathBuf,
    manifest: File,
    bytes_max: u64,
    kept: Kept,
}

impl Keeping {
    fn begin(into: &Path, bytes_max: u64) -> io::Result<Self> {
        fs::create_dir_all(into)?;
        let mut number = 1;
        let directory = loop {
            let directory = into.join(format!("kept-{number}"));
            match fs::create_dir(&directory) {
                Ok(()) => break directory,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error),
            }
        };
        let manifest = File::create_new(directory.join("manifest.txt"))?;
        Ok(Self { directory, manifest, bytes_max, kept: Kept::default() })
    }

    /// Copies a file under a number; names are the application's and may be anything.
    fn keep(&mut self, disk: &Disk, path: &TreePath, found: &Found) -> io::Result<()> {
        self.kept.entries += 1;
        if found.kind != TreeKind::File {
            let target = found.target.escape_ascii();
            return writeln!(self.manifest, "{:?} {path} {target}", found.kind);
        }
        let Some((file, now)) = disk.file(path)? else { return Ok(()) };
        if self.kept.bytes.saturating_add(now.size) > self.bytes_max {
            self.kept.left_out += 1;
            return writeln!(self.manifest, "left out, beyond the limit {path} {} bytes", now.size);
        }
        let number = self.kept.entries;
        let mut copy = File::create_new(self.directory.join(number.to_string()))?;
        self.kept.bytes += io::copy(&mut file.take(now.size), &mut copy)?;
        copy.sync_all()?;
        let (mode, user, group) = (now.meta.mode, now.meta.user, now.meta.group);
        writeln!(self.manifest, "file {number} {path} {} bytes {mode:04o} {user}:{group}", now.size)
    }

    fn finish(self) -> io::Result<(PathBuf, Kept)> {
        self.manifest.sync_all()?;
        for directory in [&*self.directory, self.directory.parent().unwrap_or(Path::new("/"))] {
            File::open(directory)?.sync_all()?;
        }
        Ok((self.directory, self.kept))
    }
}
