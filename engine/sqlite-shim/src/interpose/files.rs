//! Which descriptors of this process are a database's write-ahead log or its shared memory.
//!
//! Every `write` of the program asks here, so the usual answer costs one look into an array.

use crate::waiting::Database;
use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

/// Descriptors with a flag of their own; all above share the last one.
const FLAGS: usize = 1 << 16;

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `-wal`
    Log = 1,
    /// `-shm`
    Shared = 2,
}

/// 0: nothing of ours. Otherwise the map tells more, and for the shared last flag whether it is ours at all.
static KINDS: [AtomicU8; FLAGS] = [const { AtomicU8::new(0) }; FLAGS];

type Watched = HashMap<RawFd, (Kind, Arc<Database>)>;

fn watched() -> &'static RwLock<Watched> {
    static WATCHED: OnceLock<RwLock<Watched>> = OnceLock::new();
    WATCHED.get_or_init(RwLock::default)
}

fn flag(fd: RawFd) -> Option<&'static AtomicU8> {
    let fd = usize::try_from(fd).ok()?;
    Some(&KINDS[fd.min(FLAGS - 1)])
}

/// The program has opened `path` as `fd`.
pub(super) fn opened(fd: RawFd, path: &CStr) {
    let name = path.to_bytes();
    let (kind, database) = if let Some(database) = name.strip_suffix(b"-wal") {
        (Kind::Log, database)
    } else if let Some(database) = name.strip_suffix(b"-shm") {
        (Kind::Shared, database)
    } else {
        return;
    };
    if super::is_unseen() {
        return;
    }
    let (Some(flag), Some(database)) = (flag(fd), Database::of(Path::new(OsStr::from_bytes(database))))
    else {
        return;
    };
    if kind == Kind::Log {
        database.set_page_bytes(0);
    }
    watched().write().unwrap_or_else(PoisonError::into_inner).insert(fd, (kind, database));
    flag.store(kind as u8, Ordering::Release);
}

/// The program is about to close `fd`. What the map holds of it is overwritten when the number comes
/// back as a log: taking a lock here could hang a forked child that closes everything.
pub(super) fn closing(fd: RawFd) {
    if let Some(flag) = flag(fd)
        && fd < FLAGS as RawFd - 1
        && flag.load(Ordering::Relaxed) != 0
    {
        flag.store(0, Ordering::Release);
    }
}

/// The database whose `kind` of file this is.
pub(super) fn database(fd: RawFd, kind: Kind) -> Option<Arc<Database>> {
    let flag = flag(fd)?.load(Ordering::Acquire);
    // The last flag may have been left by another number.
    if flag != kind as u8 && (flag == 0 || fd < FLAGS as RawFd - 1) {
        return None;
    }
    let watched = watched().read().unwrap_or_else(PoisonError::into_inner);
    watched.get(&fd).filter(|(found, _)| *found == kind).map(|(_, database)| Arc::clone(database))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_logs_and_shared_memory_of_databases_that_exist_are_watched() {
        let dir = tempfile::tempdir().expect("a directory");
        let name = |suffix: &str| {
            let path = format!("{}/app.db{suffix}", dir.path().display());
            std::ffi::CString::new(path).expect("no zero in it")
        };
        // Numbers that no descriptor of this test has.
        opened(60_000, &name("-wal"));
        assert!(database(60_000, Kind::Log).is_none(), "its database does not exist");
        std::fs::write(dir.path().join("app.db"), "").expect("it is written");
        for fd in [60_000, 70_000] {
            opened(fd, &name("-wal"));
            opened(fd + 1, &name("-shm"));
            opened(fd + 2, &name(""));
            assert!(database(fd, Kind::Log).is_some());
            assert!(database(fd, Kind::Shared).is_none());
            assert!(database(fd + 1, Kind::Shared).is_some());
            assert!(database(fd + 2, Kind::Log).is_none());
        }
        closing(60_000);
        assert!(database(60_000, Kind::Log).is_none());
        super::super::unseen(|| opened(60_000, &name("-wal")));
        assert!(database(60_000, Kind::Log).is_none(), "seen by SQLite's own interface");
        assert!(database(-1, Kind::Log).is_none());
    }
}
