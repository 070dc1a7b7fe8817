//! Answers what an active asks of this node's tree, from the disk.

use super::merkle::{BelowHash, DirectoryHasher, entry_hash};
use super::remembered::Remembered;
use crate::files::apply::Stamp;
use crate::files::disk::{Disk, Found};
use crate::files::entry::rest_of;
use crate::files::rules::Rules;
use crate::files::{ContentHash, ContentHasher, EntryHash, TreePath};
use bytes::Bytes;
use lockstep_wire::{TreeEntry, TreeKind, TreeListRequest, TreeListing, TreeQuestion, pack_one};
use rustix::fs::{Advice, SeekFrom, fadvise, seek};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The longest list of entries in one message: an entry with all its attributes fits beside it.
const ENTRIES_BYTES: usize = 256 << 10;

/// Read at once.
const READ_BYTES: usize = 1 << 20;

/// How fast content is read for a proof: half of what a slow SSD gives, so that batches and databases go on.
const READ_BYTES_PER_S: u64 = 256 << 20;

/// Which batch is in place. What begins before one was begun and ends when none was since saw one moment.
#[derive(Debug, Default)]
pub struct Placed {
    begun: AtomicU64,
    done: AtomicU64,
}

impl Placed {
    /// A batch is being put in place.
    pub fn begin(&self, batch: u64) {
        self.begun.store(batch, Ordering::SeqCst);
    }

    /// It is in place.
    pub fn done(&self, batch: u64) {
        self.begun.store(batch, Ordering::SeqCst);
        self.done.store(batch, Ordering::SeqCst);
    }
}

/// Why an answer ended early.
enum Stop {
    /// Nobody waits for it any more.
    Unwanted,
    /// The disk; a sentence.
    Fault(String),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Fault(error.to_string())
    }
}

/// Looks at a tree on this node's disk.
pub struct Prover {
    disk: Disk,
    rules: Arc<Rules>,
    remembered: Arc<Remembered>,
    placed: Arc<Placed>,
    stop: Arc<AtomicBool>,
    /// Until when what was read so far uses up the speed.
    busy_until: Instant,
}

/// An entry with what was asked of it.
struct Looked {
    found: Found,
    content: Option<ContentHash>,
    below: Option<BelowHash>,
}

impl Looked {
    fn hash(&self) -> Option<EntryHash> {
        let Found { kind, meta, target, size, .. } = &self.found;
        let rest = rest_of(&meta.xattrs, target);
        entry_hash(*kind, (meta.mode, meta.user, meta.group), meta.mtime, rest, (*size, self.content))
    }
}

impl Prover {
    /// For a tree; `stop` ends an answer under way.
    pub fn new(
        disk: Disk,
        rules: Arc<Rules>,
        remembered: Arc<Remembered>,
        placed: Arc<Placed>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        Self { disk, rules, remembered, placed, stop, busy_until: Instant::now() }
    }

    /// Answers in one or more messages, each given to `send`; false from there: nobody waits. `touched` are the paths
    /// of the last batch.
    pub fn answer(
        &mut self,
        request: &TreeListRequest,
        touched: &[TreePath],
        send: &mut dyn FnMut(TreeListing) -> bool,
    ) {
        let first_batch = self.placed.done.load(Ordering::SeqCst);
        let empty = TreeListing {
            request: request.request,
            path: request.path.clone(),
            first_batch,
            ..TreeListing::default()
        };
        let mut packing = Packing { of: empty.clone(), list: Vec::new(), send };
        let answered = self.answer_into(request, touched, &mut packing);
        let entries = Bytes::from(std::mem::take(&mut packing.list));
        let (below, fault) = match answered {
            Ok(below) => (below.map_or(Bytes::new(), |below| below.0.to_vec().into()), String::new()),
            Err(Stop::Fault(fault)) => (Bytes::new(), fault),
            Err(Stop::Unwanted) => return,
        };
        let last_batch = self.placed.begun.load(Ordering::SeqCst);
        send(TreeListing { entries, below, fault, last: true, last_batch, ..empty });
    }

    fn answer_into(
        &mut self,
        request: &TreeListRequest,
        touched: &[TreePath],
        packing: &mut Packing<'_>,
    ) -> Result<Option<BelowHash>, Stop> {
        let path = TreePath::parse(&request.path).map_err(|error| Stop::Fault(error.to_string()))?;
        let question = request.question();
        match question {
            TreeQuestion::Summary => self.below(&path, request.deep).map(Some),
            TreeQuestion::Touched => {
                for path in touched {
                    let looked = self.look(path)?.map(|found| Looked { found, content: None, below: None });
                    packing.add(&entry_of(path.as_bytes(), looked.as_ref()))?;
                }
                Ok(None)
            }
            TreeQuestion::Entries | TreeQuestion::Hashes => {
                let mut hasher = DirectoryHasher::default();
                let with_hashes = question == TreeQuestion::Hashes;
                for (name, child) in self.entries(&path)? {
                    let looked = match self.looked(&child, with_hashes, request.deep) {
                        Ok(None) => continue,
                        Ok(Some(looked)) => looked,
                        Err(Stop::Fault(fault)) => {
                            let name = Bytes::from(name);
                            packing.add(&TreeEntry { name, fault, ..TreeEntry::default() })?;
                            continue;
                        }
                        Err(stop) => return Err(stop),
                    };
                    if let Some(hash) = looked.hash() {
                        hasher.add(&name, hash, looked.below);
                    }
                    packing.add(&entry_of(&name, Some(&looked)))?;
                }
                Ok(with_hashes.then(|| hasher.finish()))
            }
        }
    }

    /// The hash of all below a directory.
    fn below(&mut self, path: &TreePath, deep: bool) -> Result<BelowHash, Stop> {
        let mut hasher = DirectoryHasher::default();
        for (name, child) in self.entries(path)? {
            let Some(looked) = self.looked(&child, true, deep)? else { continue };
            if let Some(hash) = looked.hash() {
                hasher.add(&name, hash, looked.below);
            }
        }
        Ok(hasher.finish())
    }

    /// Names and paths in a directory that belong to the tree, ascending.
    fn entries(&self, path: &TreePath) -> Result<Vec<(Vec<u8>, TreePath)>, Stop> {
        let listed = self.disk.list(path)?.ok_or_else(|| Stop::Fault(format!("{path} is no directory")))?;
        let mut entries = Vec::with_capacity(listed.len());
        for (name, _) in listed {
            // What has no path in a tree was never sent, and its owner made it here.
            if let Ok(child) = path.join(&name)
                && self.rules.includes(&child)
            {
                entries.push((name, child));
            }
        }
        entries.sort_unstable();
        Ok(entries)
    }

    fn look(&self, path: &TreePath) -> Result<Option<Found>, Stop> {
        self.disk.look(path).map_err(|error| Stop::Fault(format!("{path}: {error}")))
    }

    /// An entry, with its hashes if they are wanted; `None` when it is gone. A path is at most 256 directories deep,
    /// and so is this recursion.
    fn looked(&mut self, path: &TreePath, with_hashes: bool, deep: bool) -> Result<Option<Looked>, Stop> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Stop::Unwanted);
        }
        let Some(found) = self.look(path)? else { return Ok(None) };
        let mut looked = Looked { found, content: None, below: None };
        match looked.found.kind {
            TreeKind::File if with_hashes => {
                let Some((found, content)) = self.content(path, looked.found, deep)? else { return Ok(None) };
                looked = Looked { found, content: Some(content), below: None };
            }
            TreeKind::Directory if with_hashes => looked.below = Some(self.below(path, deep)?),
            _ => {}
        }
        Ok(Some(looked))
    }

    /// Content of a file, remembered or read, and what the file was when it was read.
    fn content(
        &mut self,
        path: &TreePath,
        found: Found,
        deep: bool,
    ) -> Result<Option<(Found, ContentHash)>, Stop> {
        if let Some(content) = self.remembered.content(&stamp_of(&found)).filter(|_| !deep) {
            return Ok(Some((found, content)));
        }
        let opened = self.disk.file(path).map_err(|error| Stop::Fault(format!("{path}: {error}")))?;
        let Some((file, found)) = opened else { return Ok(None) };
        let content = self.read(&file, found.size).map_err(|stop| match stop {
            Stop::Fault(fault) => Stop::Fault(format!("{path}: {fault}")),
            stop => stop,
        })?;
        self.remembered.extend([(stamp_of(&found), content)]);
        Ok(Some((found, content)))
    }

    /// Reads a file at a bounded speed, from the disk and not from the page cache.
    fn read(&mut self, file: &File, size: u64) -> Result<ContentHash, Stop> {
        let forget = || {
            // Advice; without it the cache is read.
            let _ = fadvise(file, 0, None, Advice::DontNeed);
        };
        forget();
        let mut hasher = ContentHasher::default();
        let mut buffer = vec![0; READ_BYTES.min(usize::try_from(size).unwrap_or(READ_BYTES)).max(1)];
        let mut at = 0;
        while at < size {
            let data = match seek(file, SeekFrom::Data(at)) {
                Ok(data) => data.min(size),
                Err(rustix::io::Errno::NXIO) => size,
                Err(_) => at,
            };
            hasher.update_zeros(data - at);
            at = data;
            let wanted = usize::try_from(size - at).unwrap_or(usize::MAX).min(buffer.len());
            if wanted == 0 {
                break;
            }
            match file.read_at(&mut buffer[..wanted], at)? {
                0 => break,
                read => {
                    hasher.update(&buffer[..read]);
                    at += read as u64;
                    self.pace(read as u64)?;
                }
            }
        }
        forget();
        Ok(hasher.finish().0)
    }

    fn pace(&mut self, bytes: u64) -> Result<(), Stop> {
        /// Reads go ahead of the speed for so long, so that small files need no sleep each.
        const BURST: Duration = Duration::from_millis(50);
        let now = Instant::now();
        self.busy_until =
            self.busy_until.max(now) + Duration::from_secs_f64(bytes as f64 / READ_BYTES_PER_S as f64);
        let ahead = self.busy_until.saturating_duration_since(now);
        if ahead > BURST {
            std::thread::sleep(ahead - BURST);
        }
        if self.stop.load(Ordering::Relaxed) { Err(Stop::Unwanted) } else { Ok(()) }
    }
}

fn stamp_of(found: &Found) -> Stamp {
    Stamp { inode: found.id.inode, size: found.size, mtime: found.meta.mtime }
}

fn entry_of(name: &[u8], looked: Option<&Looked>) -> TreeEntry {
    let name = Bytes::copy_from_slice(name);
    let Some(Looked { found, content, below }) = looked else {
        return TreeEntry { name, kind: TreeKind::Absent.into(), ..TreeEntry::default() };
    };
    let hash = content.map(|content| content.0).or(below.map(|below| below.0));
    TreeEntry {
        name,
        kind: found.kind.into(),
        meta: Some(found.meta.to_wire()),
        size: found.size,
        target: Bytes::copy_from_slice(&found.target),
        inode: if found.kind == TreeKind::File && found.links > 1 { found.id.inode } else { 0 },
        hash: hash.map_or(Bytes::new(), |hash| hash.to_vec().into()),
        fault: String::new(),
    }
}

struct Packing<'a> {
    of: TreeListing,
    list: Vec<u8>,
    send: &'a mut dyn FnMut(TreeListing) -> bool,
}

impl Packing<'_> {
    fn add(&mut self, entry: &TreeEntry) -> Result<(), Stop> {
        pack_one(entry, &mut self.list);
        if self.list.len() < ENTRIES_BYTES {
            return Ok(());
        }
        let entries = std::mem::take(&mut self.list).into();
        if (self.send)(TreeListing { entries, ..self.of.clone() }) { Ok(()) } else { Err(Stop::Unwanted) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_wire::unpack;
    use std::fs;
    use tempfile::TempDir;

    struct Answer {
        messages: usize,
        entries: Vec<TreeEntry>,
        last: TreeListing,
    }

    fn prover(dir: &TempDir) -> Prover {
        let rules = Rules::new(dir.path(), &["*.tmp".to_owned()], &[dir.path().join("shop.db")]).unwrap();
        let disk = Disk::open(dir.path()).unwrap();
        Prover::new(disk, Arc::new(rules), Arc::default(), Arc::default(), Arc::default())
    }

    fn ask(prover: &mut Prover, question: TreeQuestion, path: &str, deep: bool) -> Answer {
        let path = Bytes::copy_from_slice(path.as_bytes());
        let request = TreeListRequest { request: 9, question: question.into(), path, deep };
        let mut messages = Vec::new();
        prover.answer(&request, &[TreePath::parse(b"gone").unwrap()], &mut |listing| {
            messages.push(listing);
            true
        });
        let entries = messages.iter().flat_map(|listing| unpack(listing.entries.clone())).map(Result::unwrap);
        let entries = entries.collect();
        Answer { messages: messages.len(), entries, last: messages.pop().unwrap() }
    }

    fn summary(prover: &mut Prover, deep: bool) -> Bytes {
        let answer = ask(prover, TreeQuestion::Summary, "", deep);
        assert_eq!((answer.last.fault.as_str(), answer.last.below.len()), ("", 16));
        answer.last.below
    }

    fn tree() -> TempDir {
        let dir = TempDir::new().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::create_dir(dir.path().join(".lockstep")).unwrap();
        for (name, content) in [("a/b/file", "hello"), ("z", ""), ("x.tmp", "t"), ("shop.db", "d")] {
            fs::write(dir.path().join(name), content).unwrap();
        }
        dir
    }

    #[test]
    fn a_directory_is_listed_without_what_is_no_part_of_the_tree() {
        let dir = tree();
        let mut prover = prover(&dir);
        let names = |answer: &Answer| -> Vec<Vec<u8>> {
            answer.entries.iter().map(|entry| entry.name.to_vec()).collect()
        };
        let answer = ask(&mut prover, TreeQuestion::Entries, "", false);
        assert_eq!(names(&answer), [b"a", b"z"]);
        assert!(answer.last.last && answer.last.below.is_empty() && answer.entries[0].hash.is_empty());
        let answer = ask(&mut prover, TreeQuestion::Hashes, "a/b", false);
        assert_eq!(answer.entries[0].hash[..], ContentHash::of(b"hello").0);
        assert_eq!(answer.entries[0].kind(), TreeKind::File);
        let absent = ask(&mut prover, TreeQuestion::Touched, "", false);
        assert_eq!((names(&absent), absent.entries[0].kind()), (vec![b"gone".to_vec()], TreeKind::Absent));
        for path in ["none", "a/b/file", "../x", "a/../.."] {
            let answer = ask(&mut prover, TreeQuestion::Hashes, path, false);
            assert!(!answer.last.fault.is_empty(), "{path}");
        }
        for number in 0..20_000 {
            fs::write(dir.path().join(format!("a/b/{number}")), "").unwrap();
        }
        let answer = ask(&mut prover, TreeQuestion::Entries, "a/b", false);
        assert!(answer.messages > 1 && answer.entries.len() == 20_001, "{}", answer.messages);
        assert!(answer.entries.is_sorted_by(|a, b| a.name < b.name));
    }

    #[test]
    fn any_change_below_changes_the_summary_and_rotten_bits_are_found_by_reading() {
        let dir = tree();
        let mut prover = prover(&dir);
        let file = dir.path().join("a/b/file");
        let before = summary(&mut prover, false);
        fs::write(dir.path().join("x.tmp"), "other").unwrap();
        fs::write(dir.path().join(".lockstep/x"), "other").unwrap();
        assert_eq!(summary(&mut prover, false), before, "what is no part of the tree does not count");
        let time = fs::metadata(&file).unwrap().modified().unwrap();
        fs::write(&file, "hellO").unwrap();
        File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
        assert_eq!(summary(&mut prover, false), before, "same size and time: only reading tells");
        let rotten = summary(&mut prover, true);
        assert_ne!(rotten, before);
        assert_eq!(summary(&mut prover, false), rotten, "what was read counts from now on");
        fs::write(&file, "hello").unwrap();
        File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
        assert_eq!(summary(&mut prover, true), before);
        fs::rename(dir.path().join("z"), dir.path().join("y")).unwrap();
        assert_ne!(summary(&mut prover, false), before);
    }

    #[test]
    fn an_answer_tells_whether_a_batch_came_in_between() {
        let dir = tree();
        let mut prover = prover(&dir);
        let placed = prover.placed.clone();
        placed.done(4);
        let batches = |answer: Answer| (answer.last.first_batch, answer.last.last_batch);
        assert_eq!(batches(ask(&mut prover, TreeQuestion::Summary, "", false)), (4, 4));
        placed.begin(5);
        assert_eq!(
            batches(ask(&mut prover, TreeQuestion::Summary, "", false)),
            (4, 5),
            "half of it may be there"
        );
        placed.done(5);
        assert_eq!(batches(ask(&mut prover, TreeQuestion::Summary, "", false)), (5, 5));
    }
}
