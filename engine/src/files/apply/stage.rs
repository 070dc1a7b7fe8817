//! Staging: whole entries under numbers in the hidden directory, from where one rename puts them in place.

use super::Stamp;
use super::op::{Expected, Op, OpError};
use super::state::write_all_at;
use crate::files::attributes::{Lacking, Opened, mtime_of};
use crate::files::beneath::{Root, names, remove_all};
use crate::files::{ContentHash, ContentHasher, Kind, Meta, TreePath};
use lockstep_wire::{TreeKind, TreeOpKind, TreeReason};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{self, FallocateFlags, FileType, Mode, OFlags, SeekFrom, Stat},
    io::{self, Errno},
};

/// Bytes copied at once from a file that is kept in part.
const COPY_BYTES: usize = 1 << 20;

/// Why an operation failed, for the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) reason: TreeReason,
    pub(super) detail: String,
}

impl Failed {
    pub(super) fn new(reason: TreeReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// The metadata that could not be set; the entry is in place without.
    pub(super) fn lacking(lacking: Lacking) -> Option<Self> {
        lacking.0.map(|(what, errno)| {
            let failed = Self::from(errno);
            Self { detail: format!("{what}: {}", failed.detail), ..failed }
        })
    }
}

impl From<Errno> for Failed {
    fn from(errno: Errno) -> Self {
        let reason = match errno {
            Errno::NOSPC | Errno::DQUOT => TreeReason::NoSpace,
            Errno::NAMETOOLONG | Errno::ILSEQ => TreeReason::Name,
            Errno::OPNOTSUPP | Errno::FBIG | Errno::XDEV | Errno::RANGE | Errno::TOOBIG | Errno::INVAL => {
                TreeReason::Unsupported
            }
            Errno::NOENT | Errno::NOTDIR => TreeReason::Missing,
            Errno::LOOP => TreeReason::Symlink,
            Errno::PERM | Errno::ACCESS => TreeReason::Denied,
            Errno::ROFS => TreeReason::ReadOnly,
            Errno::IO => TreeReason::Disk,
            _ => TreeReason::Other,
        };
        Self { reason, detail: std::io::Error::from(errno).to_string() }
    }
}

/// An entry that waits for its place.
#[derive(Debug)]
pub(super) struct Staged {
    /// Its name in the staging directory.
    pub(super) name: String,
    pub(super) kind: TreeKind,
    /// What of its metadata could not be set.
    pub(super) lacking: Option<Failed>,
    /// Of a file: what it is, and its content.
    pub(super) content: Option<(Stamp, ContentHash)>,
}

/// The staging directory.
#[derive(Debug)]
pub(super) struct Staging {
    directory: OwnedFd,
    next: u64,
}

/// A file that comes in pieces.
pub(super) struct Filling {
    pub(super) path: TreePath,
    meta: Meta,
    size: u64,
    /// Where the next bytes may begin.
    filled: u64,
    hasher: ContentHasher,
    /// Where it is written; `Err` once something failed: what else comes of it is passed over.
    writing: Result<Writing, Failed>,
    /// Its failure has been told.
    is_refused: bool,
}

struct Writing {
    name: String,
    file: OwnedFd,
    base: Option<OwnedFd>,
    /// It began as a clone of the base: what is kept is there already, and what is neither kept nor sent is not a hole.
    cloned: bool,
}

impl Staging {
    /// Opens it below the hidden directory, makes it if need be, and removes what a crash left there.
    pub(super) fn open(hidden: BorrowedFd<'_>) -> io::Result<Self> {
        let directory = directory_in(hidden, b"staging")?;
        let staging = Self { directory, next: 0 };
        staging.clear()?;
        Ok(staging)
    }

    /// Removes everything in it.
    pub(super) fn clear(&self) -> io::Result<()> {
        for name in names(self.fd())? {
            remove_all(self.fd(), &name)?;
        }
        Ok(())
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// A name that is free.
    pub(super) fn name(&mut self) -> String {
        self.next += 1;
        self.next.to_string()
    }

    fn create(&mut self) -> io::Result<(String, OwnedFd)> {
        let name = self.name();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&self.directory, &name, flags, Mode::from_raw_mode(0o600))?;
        Ok((name, file))
    }

    /// A whole file.
    pub(super) fn put(&mut self, meta: &Meta, data: &[u8], content: ContentHash) -> Result<Staged, Failed> {
        if ContentHash::of(data) != content {
            return Err(wrong_content());
        }
        let (name, file) = self.create()?;
        write_all_at(file.as_fd(), data, 0)?;
        finish_file(name, file.as_fd(), meta, content)
    }

    /// A directory, symlink or FIFO.
    pub(super) fn make(&mut self, kind: &Kind, meta: &Meta) -> Result<Staged, Failed> {
        let name = self.name();
        match kind {
            Kind::Directory => fs::mkdirat(&self.directory, &name, Mode::from_raw_mode(0o700))?,
            Kind::Symlink { target } => fs::symlinkat(&target[..], &self.directory, &name)?,
            Kind::Fifo => {
                fs::mknodat(&self.directory, &name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
            }
            Kind::File { .. } => return Err(Failed::new(TreeReason::Unsupported, "a file has content")),
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = fs::openat(&self.directory, &name, flags, Mode::empty())?;
        let stat = fs::fstat(&handle)?;
        let lacking = Opened::handle(handle.as_fd(), &stat).set(meta, false)?;
        let lacking = Failed::lacking(lacking);
        Ok(Staged { name, kind: kind.to_wire(), lacking, content: None })
    }

    /// Begins a file of `size` bytes; `from` is the file that parts of it are taken from.
    pub(super) fn begin(
        &mut self,
        root: &Root,
        (path, meta, size): (TreePath, Meta, u64),
        from: Option<(TreePath, Option<Expected>)>,
    ) -> Filling {
        let writing = self.begin_writing(root, size, from);
        Filling { path, meta, size, filled: 0, hasher: ContentHasher::default(), writing, is_refused: false }
    }

    fn begin_writing(
        &mut self,
        root: &Root,
        size: u64,
        from: Option<(TreePath, Option<Expected>)>,
    ) -> Result<Writing, Failed> {
        let base = from.map(|(path, expected)| open_base(root, &path, expected)).transpose()?;
        let (name, file) = self.create()?;
        let cloned = base.as_ref().is_some_and(|base| fs::ioctl_ficlone(&file, base).is_ok());
        fs::ftruncate(&file, size)?;
        Ok(Writing { name, file, base, cloned })
    }

    /// The same file under another name, to be put in place.
    pub(super) fn link(&mut self, parent: BorrowedFd<'_>, from: &[u8]) -> io::Result<String> {
        let name = self.name();
        fs::linkat(parent, from, &self.directory, &name, fs::AtFlags::empty())?;
        Ok(name)
    }

    /// Makes a staged file or directory durable by itself.
    pub(super) fn sync(&self, staged: &Staged) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fs::fsync(fs::openat(&self.directory, &staged.name, flags, Mode::empty())?)
    }
}

/// Opens a directory, which is made if need be and is nobody else's.
pub(super) fn directory_in(above: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    match fs::mkdirat(above, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    crate::files::beneath::open_beneath(above, name, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Is it what the active believes?
pub(super) fn check_expected(stat: &Stat, expected: Option<Expected>) -> Result<(), Failed> {
    let Some(expected) = expected else { return Ok(()) };
    let kind = kind_of(stat);
    let fits = kind == expected.kind
        && (kind != TreeKind::File
            || (stat.st_size as u64, mtime_of(stat)) == (expected.size, expected.mtime));
    if fits {
        return Ok(());
    }
    let found = format!("{kind:?} of {} bytes, changed {}", stat.st_size, stat.st_mtime);
    Err(Failed::new(TreeReason::Differs, format!("expected {expected:?}, found {found}")))
}

/// The type of an entry.
pub(crate) fn kind_of(stat: &Stat) -> TreeKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => TreeKind::File,
        FileType::Directory => TreeKind::Directory,
        FileType::Symlink => TreeKind::Symlink,
        FileType::Fifo => TreeKind::Fifo,
        _ => TreeKind::Other,
    }
}

fn open_base(root: &Root, path: &TreePath, expected: Option<Expected>) -> Result<OwnedFd, Failed> {
    let (base, stat) = match root.file(path) {
        Err(Errno::INVAL) => return Err(Failed::new(TreeReason::Differs, "what is to be kept is no file")),
        found => found?,
    };
    check_expected(&stat, expected)?;
    Ok(base)
}

fn wrong_content() -> Failed {
    Failed::new(TreeReason::Content, "the content does not have the hash that was sent with it")
}

fn finish_file(
    name: String,
    file: BorrowedFd<'_>,
    meta: &Meta,
    content: ContentHash,
) -> Result<Staged, Failed> {
    let lacking = Failed::lacking(Opened::file(file).set(meta, true)?);
    let content = Some((Stamp::of(&fs::fstat(file)?), content));
    Ok(Staged { name, kind: TreeKind::File, lacking, content })
}

impl Filling {
    /// A file whose content is passed over.
    pub(super) fn refused(path: TreePath, begin: &Op) -> Self {
        let (size, meta) = match begin {
            Op::Begin { size, meta, .. } => (*size, meta.clone()),
            _ => (0, Meta::default()),
        };
        let writing = Err(Failed::new(TreeReason::Denied, "refused"));
        Self { path, meta, size, filled: 0, hasher: ContentHasher::default(), writing, is_refused: true }
    }

    /// Checks an extent and passes over the hole in front of it.
    fn advance(&mut self, op: TreeOpKind, offset: u64, length: u64) -> Result<(), OpError> {
        let lies = OpError::Extent { op, offset, length, size: self.size, filled: self.filled };
        let end = offset.checked_add(length).filter(|end| offset >= self.filled && *end <= self.size);
        let Some(end) = end else { return Err(lies) };
        self.hole(offset);
        self.filled = end;
        Ok(())
    }

    fn hole(&mut self, end: u64) {
        let length = end - self.filled;
        if length == 0 {
            return;
        }
        let start = self.filled;
        self.attempt(|writing, hasher| {
            hasher.update_zeros(length);
            if writing.cloned {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fs::fallocate(&writing.file, flags, start, length)?;
            }
            Ok(())
        });
    }

    /// Bytes of the file.
    pub(super) fn data(&mut self, offset: u64, data: &[u8]) -> Result<(), OpError> {
        self.advance(TreeOpKind::Data, offset, data.len() as u64)?;
        self.attempt(|writing, hasher| {
            hasher.update(data);
            Ok(write_all_at(writing.file.as_fd(), data, offset)?)
        });
        Ok(())
    }

    /// A part that the file had before.
    pub(super) fn keep(&mut self, offset: u64, length: u64) -> Result<(), OpError> {
        self.advance(TreeOpKind::Keep, offset, length)?;
        self.attempt(|writing, hasher| writing.keep(hasher, offset, length));
        Ok(())
    }

    /// The file is whole; `None` when its failure has been told.
    pub(super) fn end(mut self, content: ContentHash) -> Option<Result<Staged, Failed>> {
        self.hole(self.size);
        (!self.is_refused).then(|| {
            let writing = self.writing?;
            if self.hasher.finish().0 != content {
                return Err(wrong_content());
            }
            finish_file(writing.name, writing.file.as_fd(), &self.meta, content)
        })
    }

    fn attempt(&mut self, what: impl FnOnce(&mut Writing, &mut ContentHasher) -> Result<(), Failed>) {
        if let Ok(writing) = &mut self.writing
            && let Err(failed) = what(writing, &mut self.hasher)
        {
            self.writing = Err(failed);
        }
    }
}

impl Writing {
    /// Takes an extent from the base, its holes as holes.
    fn keep(&mut self, hasher: &mut ContentHasher, offset: u64, length: u64) -> Result<(), Failed> {
        let Some(base) = &self.base else {
            return Err(Failed::new(TreeReason::Missing, "there is no file to keep a part of"));
        };
        let end = offset + length;
        if fs::fstat(base)?.st_size.cast_unsigned() < end {
            return Err(Failed::new(TreeReason::Differs, "the file to keep a part of is shorter"));
        }
        let mut buffer = vec![0; COPY_BYTES.min(usize::try_from(length).unwrap_or(COPY_BYTES))];
        let mut at = offset;
        while at < end {
            let data = match fs::seek(base, SeekFrom::Data(at)) {
                Ok(data) => data.min(end),
                Err(Errno::NXIO) => end,
                // Not every file system tells holes.
                Err(Errno::INVAL) => at,
                Err(error) => return Err(error.into()),
            };
            hasher.update_zeros(data - at);
            at = data;
            let stop = match fs::seek(base, SeekFrom::Hole(at)) {
                Ok(hole) => hole.min(end),
                Err(_) => end,
            };
            while at < stop {
                let now = buffer.len().min(usize::try_from(stop - at).unwrap_or(usize::MAX));
                let read = io::retry_on_intr(|| io::pread(base, &mut buffer[..now], at))?;
                if read == 0 {
                    return Err(Failed::new(TreeReason::Differs, "the file to keep a part of was cut"));
                }
                hasher.update(&buffer[..read]);
                if !self.cloned {
                    write_all_at(self.file.as_fd(), &buffer[..read], at)?;
                }
                at += read as u64;
            }
        }
        Ok(())
    }
}
