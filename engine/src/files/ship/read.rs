//! Reads a file and sends what of it the standby lacks: whole if it is small, else the blocks that differ.

use super::batch::{Session, Stop};
use crate::files::disk::{Disk, FileId, Found, look_at};
use crate::files::index::Store;
use crate::files::plan::WHOLE_MAX_BYTES;
use crate::files::{BLOCK_BYTES, BlockHash, ContentHash, TreePath, content_of_blocks};
use crate::storage::read_full;
use bytes::Bytes;
use lockstep_wire::{TreeExpected, TreeOp, TreeOpKind};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

/// Read at a time.
const READ_BYTES: usize = 16 * BLOCK_BYTES;

/// Bytes of one `Data`.
const DATA_BYTES: usize = 4 * BLOCK_BYTES;

/// What the standby has of the file.
pub(super) struct Base {
    /// Hashes of its blocks; empty: not known, or no file.
    pub(super) blocks: Vec<BlockHash>,
    /// Its size in bytes.
    pub(super) size: u64,
    /// Hash of its content, where it is known.
    pub(super) content: Option<ContentHash>,
    /// What the standby checks before it takes blocks from it.
    pub(super) expected: Option<TreeExpected>,
}

/// What came of it.
pub(super) enum Read {
    /// It is on its way, or is there already.
    Done {
        /// As it was when it was opened, of the size that was read.
        found: Box<Found>,
        /// What was read.
        content: ContentHash,
        /// Of a large file.
        blocks: Vec<BlockHash>,
        /// Operations were sent.
        sent: bool,
        /// It changed while it was read.
        changed: bool,
    },
    /// That file is not there any more.
    Absent,
    /// It cannot be read.
    Failed(io::Error),
}

/// Reads `path`, if the file `id` is still there, and sends what differs from `base`; with `always` also when nothing does.
pub(super) fn read(
    disk: &Disk,
    (path, id): (&TreePath, FileId),
    (base, always): (&Base, bool),
    session: &mut Session,
    store: &mut Store,
) -> Result<Read, Stop> {
    let (file, found) = match disk.file(path) {
        Ok(Some(opened)) if opened.1.id == id => opened,
        Ok(_) => return Ok(Read::Absent),
        Err(error) => return Ok(Read::Failed(error)),
    };
    let mut reader = Reader { path, base, always, found: &found, session, store, sent: false };
    let small = if found.size <= WHOLE_MAX_BYTES { reader.whole(&file)? } else { None };
    let (content, blocks, size) = match small {
        Some(Ok((content, size))) => (content, Vec::new(), size),
        Some(Err(error)) => return Ok(Read::Failed(error)),
        None => match reader.by_blocks(&file)? {
            Ok((content, blocks)) => (content, blocks, found.size),
            // What was begun is ended, so that the batch is sound; the file is sent again.
            Err(error) => return Ok(Read::Failed(error)),
        },
    };
    let sent = reader.sent;
    let changed = match look_at(&OwnedFd::from(file)) {
        Ok(now) => (now.size, now.meta.mtime, now.ctime) != (found.size, found.meta.mtime, found.ctime),
        Err(_) => true,
    };
    let found = Found { size, ..found };
    Ok(Read::Done { found: Box::new(found), content, blocks, sent, changed })
}

struct Reader<'a> {
    path: &'a TreePath,
    base: &'a Base,
    always: bool,
    found: &'a Found,
    session: &'a mut Session,
    store: &'a mut Store,
    sent: bool,
}

/// An error of the file within an error of the connection.
type Tried<T> = Result<Result<T, io::Error>, Stop>;

impl Reader<'_> {
    fn op(&mut self, op: &TreeOp) -> Result<(), Stop> {
        self.sent = true;
        self.session.op(op, self.store)
    }

    fn path_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(self.path.as_bytes())
    }

    /// A small file. None: it has grown beyond that.
    fn whole(&mut self, file: &File) -> Result<Option<io::Result<(ContentHash, u64)>>, Stop> {
        let mut data = vec![0; WHOLE_MAX_BYTES as usize + 1];
        let length = match read_full(file, &mut data, 0) {
            Ok(length) => length,
            Err(error) => return Ok(Some(Err(error))),
        };
        if length as u64 > WHOLE_MAX_BYTES {
            return Ok(None);
        }
        data.truncate(length);
        let content = ContentHash::of(&data);
        if self.always || self.base.content != Some(content) || self.base.size != length as u64 {
            let op = TreeOp {
                kind: TreeOpKind::Put.into(),
                path: self.path_bytes(),
                meta: Some(self.found.meta.to_wire()),
                data: data.into(),
                content: Bytes::copy_from_slice(&content.0),
                ..TreeOp::default()
            };
            self.op(&op)?;
        }
        Ok(Some(Ok((content, length as u64))))
    }

    fn by_blocks(&mut self, file: &File) -> Tried<(ContentHash, Vec<BlockHash>)> {
        let size = self.found.size;
        let mut sink = Sink { begun: false, kept: None, data: Vec::new(), data_at: 0 };
        if self.always || self.base.size != size || self.base.blocks.is_empty() {
            self.begin(&mut sink, size)?;
        }
        let mut blocks = Vec::with_capacity((size as usize).div_ceil(BLOCK_BYTES));
        let mut buffer = vec![0; READ_BYTES];
        let (mut at, mut failed) = (0_u64, None);
        let mut holes = Holes::default();
        while at < size {
            let want = READ_BYTES.min((size - at) as usize);
            let hole = holes.at(file, at, want as u64);
            if hole {
                buffer[..want].fill(0);
            } else {
                match read_full(file, &mut buffer[..want], at) {
                    // Cut while it was read: zeros for now, and it is read again.
                    Ok(length) => buffer[length..want].fill(0),
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
            for block in buffer[..want].chunks(BLOCK_BYTES) {
                let hash = BlockHash::of(block);
                self.block(&mut sink, (at, block, hole), hash, blocks.len())?;
                blocks.push(hash);
                at += block.len() as u64;
            }
        }
        if let Some(error) = failed {
            if sink.begun {
                // An `End` with a wrong hash: the standby throws away what was begun.
                self.flush(&mut sink)?;
                self.end(&[0; 16])?;
            }
            return Ok(Err(error));
        }
        let content = content_of_blocks(&blocks, size);
        if sink.begun {
            self.flush(&mut sink)?;
            self.end(&content.0)?;
        }
        Ok(Ok((content, blocks)))
    }

    /// One block: kept, sent, or left to be a hole.
    fn block(
        &mut self,
        sink: &mut Sink,
        (at, block, hole): (u64, &[u8], bool),
        hash: BlockHash,
        number: usize,
    ) -> Result<(), Stop> {
        let end = at + block.len() as u64;
        let same = self.base.blocks.get(number) == Some(&hash)
            && end <= self.base.size
            && (block.len() == BLOCK_BYTES || end == self.base.size);
        if same {
            self.flush_data(sink)?;
            let from = sink.kept.map_or(at, |(from, _)| from);
            sink.kept = Some((from, end));
            return Ok(());
        }
        if !sink.begun {
            self.begin(sink, self.found.size)?;
        }
        self.flush_kept(sink)?;
        if hole {
            return self.flush_data(sink);
        }
        if sink.data.is_empty() {
            sink.data_at = at;
        }
        sink.data.extend_from_slice(block);
        if sink.data.len() >= DATA_BYTES { self.flush_data(sink) } else { Ok(()) }
    }

    fn begin(&mut self, sink: &mut Sink, size: u64) -> Result<(), Stop> {
        sink.begun = true;
        let keeps = !self.base.blocks.is_empty();
        let op = TreeOp {
            kind: TreeOpKind::Begin.into(),
            path: self.path_bytes(),
            from: if keeps { self.path_bytes() } else { Bytes::new() },
            expected: self.base.expected.filter(|_| keeps),
            meta: Some(self.found.meta.to_wire()),
            size,
            ..TreeOp::default()
        };
        self.op(&op)
    }

    fn flush(&mut self, sink: &mut Sink) -> Result<(), Stop> {
        self.flush_kept(sink)?;
        self.flush_data(sink)
    }

    fn flush_kept(&mut self, sink: &mut Sink) -> Result<(), Stop> {
        if !sink.begun {
            return Ok(());
        }
        let Some((from, to)) = sink.kept.take() else { return Ok(()) };
        let kind = TreeOpKind::Keep.into();
        self.op(&TreeOp { kind, offset: from, length: to - from, ..TreeOp::default() })
    }

    fn flush_data(&mut self, sink: &mut Sink) -> Result<(), Stop> {
        if sink.data.is_empty() {
            return Ok(());
        }
        let data = std::mem::take(&mut sink.data).into();
        let kind = TreeOpKind::Data.into();
        self.op(&TreeOp { kind, offset: sink.data_at, data, ..TreeOp::default() })
    }

    fn end(&mut self, content: &[u8; 16]) -> Result<(), Stop> {
        let content = Bytes::copy_from_slice(content);
        self.op(&TreeOp { kind: TreeOpKind::End.into(), content, ..TreeOp::default() })
    }
}

/// Blocks on their way into operations.
struct Sink {
    begun: bool,
    kept: Option<(u64, u64)>,
    data: Vec<u8>,
    data_at: u64,
}

/// Where a file has no data.
#[derive(Default)]
struct Holes {
    /// The last extent of data that was found.
    data: Option<(u64, u64)>,
}

impl Holes {
    /// Is there no data in `length` bytes from `at` on?
    fn at(&mut self, file: &File, at: u64, length: u64) -> bool {
        if self.data.is_none_or(|(_, end)| end <= at) {
            let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(start) => start,
                // No data up to the end.
                Err(Errno::NXIO) => u64::MAX,
                // A file system that does not tell: all is data.
                Err(_) => at,
            };
            let end = if start == u64::MAX {
                u64::MAX
            } else {
                rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap_or(u64::MAX).max(start + 1)
            };
            self.data = Some((start, end));
        }
        self.data.is_some_and(|(start, _)| start >= at + length)
    }
}
