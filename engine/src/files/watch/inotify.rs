//! The inotify source: one watch per directory, by descriptor, so that a renamed directory keeps its watches.
//!
//! A watch belongs to an inode. This keeps which directory each watch is (its name and its parent's watch), so that
//! a rename of a directory with ten thousand below it is one change here, and no event is told under a name that
//! the directory no longer has. New directories: the watch first, then the listing.

use super::super::TreePath;
use super::super::disk::{Disk, Listed, list_directory};
use super::{Cause, Dirty, Job, cookie_number, lock};
use crate::files::HIDDEN_DIR;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What is listened to.
const EVENTS: WatchFlags = WatchFlags::ATTRIB
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::EXCL_UNLINK);

/// After an overflow everything is looked at anew, and not again before this: a queue that overflows all the time must
/// not keep the tree from being used.
const OVERFLOW_REST: Duration = Duration::from_millis(200);

/// The second half of a rename out of the tree never comes.
const MOVE_WAIT: Duration = Duration::from_millis(20);

/// A root that is held open and removed raises no event: it is looked at so often.
const ROOT_LOOK: Duration = Duration::from_secs(1);

/// Of what is no directory.
const NO_WATCH: i32 = -3;

/// Events read at a time.
const BUFFER_BYTES: usize = 64 << 10;

struct Directory {
    parent: i32,
    name: Vec<u8>,
    children: BTreeMap<Vec<u8>, i32>,
}

/// Watches a tree.
pub(super) struct Watcher {
    job: Job,
    queue: OwnedFd,
    directories: HashMap<i32, Directory>,
    root: i32,
    /// The hidden directory.
    hidden: i32,
    /// First halves of renames: cookie, watch of a directory, when, path.
    moving: Vec<(u32, i32, Instant, TreePath)>,
    /// Directories whose name another one took: two that changed places are told one after the other.
    displaced: HashMap<(i32, Vec<u8>), i32>,
    /// Watched, and what is in them is not: they were renamed when that was looked for.
    unlisted: HashSet<i32>,
    /// Look at everything at this time.
    relist: Option<Instant>,
    /// No watch could be had for some directory.
    short: Option<String>,
}

/// An event, out of the kernel's buffer.
struct Seen {
    watch: i32,
    flags: ReadFlags,
    cookie: u32,
    name: Vec<u8>,
}

impl Watcher {
    /// Makes the queue and watches the root.
    pub(super) fn new(job: Job) -> std::io::Result<Self> {
        let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mut watcher = Self {
            job,
            queue,
            directories: HashMap::new(),
            root: -1,
            hidden: -1,
            moving: Vec::new(),
            displaced: HashMap::new(),
            unlisted: HashSet::new(),
            relist: None,
            short: None,
        };
        watcher.watch_root()?;
        Ok(watcher)
    }

    fn watch_root(&mut self) -> std::io::Result<()> {
        self.root =
            add(&self.queue, &self.job.disk, &TreePath::root())?.ok_or(std::io::ErrorKind::NotFound)?;
        let root = Directory { parent: -1, name: Vec::new(), children: BTreeMap::new() };
        self.directories.entry(self.root).or_insert(root);
        self.hidden = self.watch_hidden().unwrap_or(-1);
        Ok(())
    }

    fn watch_hidden(&self) -> std::io::Result<i32> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.job.disk.root(), HIDDEN_DIR, flags, Mode::empty())?;
        Ok(inotify::add_watch(&self.queue, format!("/proc/self/fd/{}", fd.as_raw_fd()), EVENTS)?)
    }

    /// Runs until it is stopped.
    pub(super) fn run(mut self, fault: &Mutex<Option<String>>) {
        self.list_everything();
        let mut looked = Instant::now();
        while !self.job.stop.is_set() {
            lock(fault).clone_from(&self.short);
            self.sleep();
            let mut lost = self.read();
            let now = Instant::now();
            if now.duration_since(looked) >= ROOT_LOOK {
                looked = now;
                lost |= !self.job.disk.is_in_place();
            }
            if lost {
                return self.job.listener.root_lost();
            }
            self.forget_moved_away(now);
            if self.relist.is_some_and(|due| due <= now) {
                self.list_everything();
            }
        }
    }

    fn sleep(&self) {
        let now = Instant::now();
        let moves = self.moving.iter().map(|(_, _, since, _)| *since + MOVE_WAIT);
        let until = moves.chain(self.relist).min().unwrap_or(now + ROOT_LOOK).min(now + ROOT_LOOK);
        let left = until.saturating_duration_since(now) + Duration::from_millis(1);
        let timeout = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ };
        let mut fds =
            [PollFd::new(&self.queue, PollFlags::IN), PollFd::new(&self.job.stop.raised, PollFlags::IN)];
        // Interrupted or timed out: the loop looks for itself.
        let _ = rustix::event::poll(&mut fds, Some(&timeout));
    }

    /// Reads what there is and marks it; true: the root is gone.
    fn read(&mut self) -> bool {
        let mut events = Vec::new();
        let mut buffer = vec![MaybeUninit::<u8>::uninit(); BUFFER_BYTES];
        let mut reader = inotify::Reader::new(&self.queue, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_bytes().to_vec()).unwrap_or_default();
                    let (watch, flags, cookie) = (event.wd(), event.events(), event.cookie());
                    events.push(Seen { watch, flags, cookie, name });
                    if reader.is_buffer_empty() && events.len() >= BUFFER_BYTES / 64 {
                        break;
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        if events.is_empty() {
            return false;
        }
        let listener = self.job.listener.clone();
        let (mut cookies, mut lost) = (Vec::new(), false);
        listener.mark(&mut |dirty| {
            for event in &events {
                lost |= self.event(dirty, event, &mut cookies);
            }
        });
        for cookie in cookies {
            listener.cookie(cookie);
        }
        lost
    }

    /// One event; true: the root is gone.
    fn event(&mut self, dirty: &mut Dirty, event: &Seen, cookies: &mut Vec<u64>) -> bool {
        let (now, flags) = (Instant::now(), event.flags);
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.relist.get_or_insert(now + OVERFLOW_REST);
            return false;
        }
        if event.watch == self.hidden {
            cookies.extend(cookie_number(&event.name).filter(|_| flags.contains(ReadFlags::CREATE)));
            return false;
        }
        if flags.contains(ReadFlags::IGNORED) {
            self.forget(event.watch);
            return event.watch == self.root;
        }
        if event.watch == self.root
            && flags.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT)
        {
            return true;
        }
        let Some(directory) = self.path(event.watch) else { return false };
        if event.name.is_empty() {
            if flags.contains(ReadFlags::ATTRIB) {
                dirty.note(directory, Cause::Attributes, now);
            }
            return false;
        }
        self.job.note(dirty, &directory, &event.name, cause(flags), now);
        if flags.contains(ReadFlags::ISDIR) {
            self.directory_event(dirty, &directory, event, now);
        } else if flags.intersects(ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO) {
            self.file_moved(dirty, &directory, event, now);
        }
        false
    }

    /// Something else than a directory was renamed: what is marked of it goes along.
    fn file_moved(&mut self, dirty: &mut Dirty, parent: &TreePath, event: &Seen, now: Instant) {
        let Ok(path) = parent.join(&event.name) else { return };
        if event.flags.contains(ReadFlags::MOVED_FROM) {
            self.moving.push((event.cookie, NO_WATCH, now, path));
        } else if let Some(at) = self.moving.iter().rposition(|(cookie, ..)| *cookie == event.cookie) {
            let (.., from) = self.moving.remove(at);
            if self.job.rules.includes(&path) {
                dirty.renamed(&from, &path);
            }
        }
    }

    /// A directory was made, moved or removed.
    fn directory_event(&mut self, dirty: &mut Dirty, parent: &TreePath, event: &Seen, now: Instant) {
        let Ok(path) = parent.join(&event.name) else { return };
        if event.flags.contains(ReadFlags::MOVED_FROM) {
            let displaced = self.displaced.remove(&(event.watch, event.name.clone()));
            if let Some(watch) = displaced.or_else(|| self.detach(event.watch, &event.name)) {
                self.moving.push((event.cookie, watch, now, path));
            }
        } else if event.flags.contains(ReadFlags::MOVED_TO) {
            let moved = self.moving.iter().rposition(|(cookie, ..)| *cookie == event.cookie);
            let moved = moved.map(|at| self.moving.remove(at));
            self.directory_came(dirty, &path, event.watch, moved.map(|(_, watch, _, from)| (watch, from)));
        } else if event.flags.contains(ReadFlags::CREATE) {
            self.add_below(dirty, &path, event.watch);
        }
    }

    /// A directory was renamed to `path`, in `parent`; `moved`: the one that an event said goes somewhere.
    ///
    /// Events tell of what was, and names may belong to others by now. So it is asked which directory is there: what
    /// one event was told wrongly, the next one puts right.
    fn directory_came(
        &mut self,
        dirty: &mut Dirty,
        path: &TreePath,
        parent: i32,
        moved: Option<(i32, TreePath)>,
    ) {
        let Some(name) = path.name() else { return };
        if !self.job.rules.includes(path) {
            if let Some((watch, _)) = moved {
                self.remove_watches(watch);
            }
            return;
        }
        let place = (parent, name.to_vec());
        let before = self.detach(parent, name);
        let there = add(&self.queue, &self.job.disk, path).ok().flatten();
        let there = there.filter(|watch| *watch != self.root && *watch != self.hidden);
        let came = moved.as_ref().map(|(watch, _)| *watch);
        // The next event that somebody leaves this place is of whoever was here first.
        let leaves = [before, came].into_iter().flatten().find(|watch| Some(*watch) != there);
        match leaves {
            Some(watch) if there.is_some() || before == Some(watch) => {
                self.displaced.insert(place, watch);
            }
            _ => {
                self.displaced.remove(&place);
            }
        }
        match (there, moved) {
            (there, Some((watch, from))) if there.is_none_or(|there| there == watch) => {
                dirty.renamed(&from, path);
                self.attach(watch, parent, name);
                if !self.unlisted.is_empty() {
                    self.list_below(path, watch);
                    dirty.note_below(path.clone(), Instant::now());
                }
            }
            // None: it is gone again, and what made it go is told later.
            _ => self.add_below(dirty, path, parent),
        }
    }

    /// Watches everything anew and marks everything.
    fn list_everything(&mut self) {
        self.relist = None;
        self.short = None;
        let before: Vec<i32> = self.directories.keys().copied().collect();
        self.directories.clear();
        self.moving.clear();
        self.displaced.clear();
        self.unlisted.clear();
        if self.watch_root().is_err() {
            self.job.listener.root_lost();
            return;
        }
        self.list_below(&TreePath::root(), self.root);
        for watch in before {
            if !self.directories.contains_key(&watch) && watch != self.hidden {
                // Gone already: the kernel removed it with its directory.
                let _ = inotify::remove_watch(&self.queue, watch);
            }
        }
        self.job.listener.mark(&mut |dirty| dirty.note_below(TreePath::root(), Instant::now()));
        let took = Instant::now();
        if let Some(due) = &mut self.relist {
            *due = (*due).max(took + OVERFLOW_REST);
        }
    }

    /// A directory has turned up.
    fn add_below(&mut self, dirty: &mut Dirty, path: &TreePath, parent: i32) {
        if !self.job.rules.includes(path) {
            return;
        }
        if let Some(watch) = self.add(path, None, parent) {
            self.list_below(path, watch);
            dirty.note_below(path.clone(), Instant::now());
        }
    }

    /// Watches all directories below one that is watched. What is renamed meanwhile and not found is remembered: the
    /// event that tells so is still to come.
    fn list_below(&mut self, path: &TreePath, watch: i32) {
        let mut left = vec![(path.clone(), watch)];
        while let Some((path, watch)) = left.pop() {
            let Some((directory, entries)) = self.open_watched(&path, watch) else {
                self.unlisted.insert(watch);
                continue;
            };
            self.unlisted.remove(&watch);
            for (name, kind) in entries {
                if !matches!(kind, FileType::Directory | FileType::Unknown) {
                    continue;
                }
                let Ok(child) = path.join(&name) else { continue };
                if self.job.rules.includes(&child)
                    && let Some(added) = self.add(&child, Some(&directory), watch)
                {
                    left.push((child, added));
                }
            }
        }
    }

    /// The directory at `path` and its entries, if it is the one of this watch.
    fn open_watched(&self, path: &TreePath, watch: i32) -> Option<(OwnedFd, Vec<Listed>)> {
        let directory = self.job.disk.directory(path).ok().flatten()?;
        let there = add_fd(&self.queue, &directory).ok().flatten()?;
        (there == watch).then_some(())?;
        let entries = list_directory(&directory).ok()?;
        Some((directory, entries))
    }

    /// Watches the directory at `path`, opened in its directory if that is held; None when it is gone or no watch can
    /// be had.
    fn add(&mut self, path: &TreePath, above: Option<&OwnedFd>, parent: i32) -> Option<i32> {
        let name = path.name()?;
        let added = match above {
            Some(above) => {
                open_in(above, name).and_then(|fd| fd.map_or(Ok(None), |fd| add_fd(&self.queue, &fd)))
            }
            None => add(&self.queue, &self.job.disk, path),
        };
        match added {
            Ok(Some(watch)) if watch != self.root && watch != self.hidden => {
                self.attach(watch, parent, name);
                Some(watch)
            }
            Ok(_) => None,
            Err(error) => {
                self.short = Some(format!(
                    "directory {path} cannot be watched ({error}); its changes are found by sweeps only: raise fs.inotify.max_user_watches"
                ));
                None
            }
        }
    }

    /// The directory of this watch is `name` in `parent` now.
    fn attach(&mut self, watch: i32, parent: i32, name: &[u8]) {
        let name = name.to_vec();
        // It was found, wherever an event will say that it went.
        self.moving.retain(|(_, moving, ..)| *moving != watch);
        let before = self.directories.get(&watch).map(|known| (known.parent, known.name.clone()));
        if let Some((old_parent, old_name)) = before
            && let Some(old) = self.directories.get_mut(&old_parent)
            && old.children.get(&old_name) == Some(&watch)
        {
            old.children.remove(&old_name);
        }
        let children = self.directories.remove(&watch).map(|known| known.children).unwrap_or_default();
        self.directories.insert(watch, Directory { parent, name: name.clone(), children });
        if let Some(above) = self.directories.get_mut(&parent) {
            above.children.insert(name, watch);
        }
    }

    /// Takes `name` out of its directory; its watch stays.
    fn detach(&mut self, parent: i32, name: &[u8]) -> Option<i32> {
        let watch = self.directories.get_mut(&parent)?.children.remove(name)?;
        if let Some(directory) = self.directories.get_mut(&watch) {
            directory.parent = -2; // nowhere
        }
        Some(watch)
    }

    fn forget(&mut self, watch: i32) {
        self.displaced.retain(|_, displaced| *displaced != watch);
        self.unlisted.remove(&watch);
        if let Some(known) = self.directories.remove(&watch)
            && let Some(parent) = self.directories.get_mut(&known.parent)
            && parent.children.get(&known.name) == Some(&watch)
        {
            parent.children.remove(&known.name);
        }
    }

    fn forget_moved_away(&mut self, now: Instant) {
        while let Some((_, watch, since, _)) = self.moving.first()
            && *since + MOVE_WAIT <= now
        {
            let watch = *watch;
            self.moving.remove(0);
            self.remove_watches(watch);
        }
    }

    /// It left the tree, with all below it.
    fn remove_watches(&mut self, watch: i32) {
        let mut left = vec![watch];
        while let Some(watch) = left.pop() {
            self.unlisted.remove(&watch);
            if let Some(directory) = self.directories.remove(&watch) {
                left.extend(directory.children.values());
                let _ = inotify::remove_watch(&self.queue, watch);
            }
        }
    }

    /// Where the directory of a watch is; None: nowhere in the tree.
    fn path(&self, mut watch: i32) -> Option<TreePath> {
        let mut names: Vec<&[u8]> = Vec::new();
        while watch != self.root {
            let directory = self.directories.get(&watch)?;
            names.push(&directory.name);
            watch = directory.parent;
        }
        names.reverse();
        TreePath::parse(&names.join(&b'/')).ok()
    }
}

fn cause(flags: ReadFlags) -> Cause {
    if flags.contains(ReadFlags::CLOSE_WRITE) {
        Cause::Closed
    } else if flags.contains(ReadFlags::MODIFY) {
        Cause::Written
    } else if flags.contains(ReadFlags::ATTRIB) {
        Cause::Attributes
    } else {
        Cause::Named
    }
}

/// Watches a directory; None: there is none.
fn add(queue: &OwnedFd, disk: &Disk, path: &TreePath) -> std::io::Result<Option<i32>> {
    disk.directory(path)?.map_or(Ok(None), |fd| add_fd(queue, &fd))
}

fn add_fd(queue: &OwnedFd, fd: &OwnedFd) -> std::io::Result<Option<i32>> {
    match inotify::add_watch(queue, format!("/proc/self/fd/{}", fd.as_raw_fd()), EVENTS) {
        Ok(watch) => Ok(Some(watch)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A directory in another one; None: there is none.
fn open_in(above: &OwnedFd, name: &[u8]) -> std::io::Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(above, name, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
