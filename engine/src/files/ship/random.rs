//! Random operations on a tree, from a seed that is printed: like fsstress, and every kind of entry and change.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// xorshift64*: the same sequence everywhere.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }
}

/// Every path below `root`, the root first.
fn entries(root: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut directories, mut others, mut left) = (Vec::new(), Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = left.pop() {
        let mut names: Vec<_> = std::fs::read_dir(&directory).unwrap().flatten().collect();
        names.sort_by_key(std::fs::DirEntry::file_name);
        directories.push(directory);
        for entry in names {
            if entry.file_name() == ".lockstep" {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                left.push(entry.path());
            } else {
                others.push(entry.path());
            }
        }
    }
    (directories, others)
}

fn pick<'a>(random: &mut Random, paths: &'a [PathBuf]) -> Option<&'a PathBuf> {
    (!paths.is_empty()).then(|| &paths[random.below(paths.len() as u64) as usize])
}

/// One operation; what a file system refuses is no operation.
pub(super) fn operate(root: &Path, random: &mut Random) {
    let (directories, others) = entries(root);
    let parent = pick(random, &directories).unwrap().clone();
    let name = match random.below(20) {
        0 => OsString::from_vec(vec![b'n', 0xff, 0x80, b'0' + random.below(4) as u8]),
        1 => format!("{} long", "x".repeat(200)).into(),
        n => format!("{}{}", (b'a' + (n % 6) as u8) as char, random.below(3)).into(),
    };
    let new = parent.join(name);
    let file = pick(random, &others).cloned();
    let directory = pick(random, &directories).unwrap().clone();
    // Refused operations (into itself, not empty, another type) leave the tree as it is.
    let _ = match (random.below(22), file) {
        (0..=3, _) => write(&new, &content(random, 5_000)),
        (4, _) => write(&new, &content(random, 600_000)),
        (5 | 6, _) => std::fs::create_dir(&new),
        (7, _) => std::os::unix::fs::symlink("../some/where", &new),
        (8, _) => rustix::fs::mkfifoat(rustix::fs::CWD, &new, 0o640.into()).map_err(Into::into),
        (9, Some(file)) => std::fs::hard_link(file, &new),
        (10, Some(file)) => std::fs::rename(file, &new),
        (11, _) => std::fs::rename(&directory, &new),
        (12, Some(file)) => exchange(&file, &directory, random, &others),
        (13, Some(file)) => std::fs::remove_file(file),
        (14, _) if directory != root => std::fs::remove_dir_all(&directory),
        (15, Some(file)) => in_file(&file, random),
        (16, Some(file)) => in_file(&file, random),
        (17, Some(file)) => attributes(&file, random),
        (18, _) => attributes(&directory, random),
        (19, Some(file)) if is_file(&file) => {
            std::fs::OpenOptions::new().write(true).open(&file).and_then(|f| f.set_len(random.below(400_000)))
        }
        (20, Some(file)) => append(&file, random),
        (21, Some(file)) => mapped(&file, random),
        _ => Ok(()),
    };
}

fn content(random: &mut Random, limit: u64) -> Vec<u8> {
    let length = random.below(limit) as usize;
    let seed = random.below(251) as usize;
    (0..length).map(|at| (at / 7 + seed) as u8).collect()
}

/// Into a FIFO nobody would ever take it.
fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    if path.symlink_metadata().is_ok() && !is_file(path) { Ok(()) } else { std::fs::write(path, content) }
}

fn exchange(file: &Path, directory: &Path, random: &mut Random, others: &[PathBuf]) -> std::io::Result<()> {
    let other = if random.below(2) == 0 { directory } else { pick(random, others).unwrap() };
    let cwd = rustix::fs::CWD;
    Ok(rustix::fs::renameat_with(cwd, file, cwd, other, rustix::fs::RenameFlags::EXCHANGE)?)
}

fn is_file(file: &Path) -> bool {
    std::fs::symlink_metadata(file).is_ok_and(|metadata| metadata.is_file())
}

fn in_file(file: &Path, random: &mut Random) -> std::io::Result<()> {
    if !is_file(file) {
        return Ok(());
    }
    let open = std::fs::OpenOptions::new().write(true).open(file)?;
    let at = random.below(500_000);
    open.write_all_at(&content(random, 9_000), at)
}

fn append(file: &Path, random: &mut Random) -> std::io::Result<()> {
    use std::io::Write;
    if !is_file(file) {
        return Ok(());
    }
    std::fs::OpenOptions::new().append(true).open(file)?.write_all(&content(random, 70_000))
}

fn mapped(file: &Path, random: &mut Random) -> std::io::Result<()> {
    if !is_file(file) {
        return Ok(());
    }
    let open = std::fs::OpenOptions::new().read(true).write(true).open(file)?;
    let length = open.metadata()?.len();
    if length == 0 {
        return Ok(());
    }
    // SAFETY: nobody else cuts the files of this test.
    let mut map = unsafe { memmap2::MmapMut::map_mut(&open)? };
    drop(open);
    map[random.below(length) as usize] ^= 0x55;
    Ok(())
}

fn attributes(path: &Path, random: &mut Random) -> std::io::Result<()> {
    let times = |s| rustix::fs::Timespec { tv_sec: s, tv_nsec: 123_456_789 };
    match random.below(4) {
        0 if !path.is_symlink() => {
            let mode = [0o600, 0o755, 0o4755, 0o2750, 0o1777][random.below(5) as usize];
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        }
        1 => std::os::unix::fs::lchown(path, Some(random.below(3) as u32 * 1000), Some(1000)),
        2 => {
            let at = times(random.below(1 << 31) as i64);
            let times = rustix::fs::Timestamps { last_access: at, last_modification: at };
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            Ok(rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags)?)
        }
        _ => {
            let kind = std::fs::symlink_metadata(path)?.mode() & 0o170_000;
            if kind == 0o100_000 || kind == 0o040_000 {
                let value = content(random, 40);
                let flags = rustix::fs::XattrFlags::empty();
                return Ok(rustix::fs::setxattr(path, "user.test", &value, flags)?);
            }
            Ok(())
        }
    }
}
