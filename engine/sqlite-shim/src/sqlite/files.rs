//! The files of a database under the shim: the calls around a commit come here, all others stay SQLite's own.
//!
//! A file is not wrapped in another one: its table of functions is replaced by a copy in which
//! the write lock, the end of a commit, writes and syncs of the log and the close are ours. So files that are open
//! already can be taken over, reads and memory maps cost nothing, and every version of the table works.
//! Nothing here returns an error that SQLite's own function did not return, but BUSY at the write lock.

use super::types::{
    BUSY, FCNTL_COMMIT_PHASETWO, File, IO_METHODS_V1_BYTES, IO_METHODS_V2_BYTES, IoMethods, NOTFOUND, OK,
    SHM_EXCLUSIVE, SHM_UNLOCK, WAL_WRITE_LOCK,
};
use crate::guard::guarded;
use crate::interpose::unseen;
use crate::waiting::{self, Database};
use std::ffi::{c_int, c_void};
use std::sync::Arc;

/// What a taken-over file's table begins with, so that the table leads to the rest.
#[repr(C)]
struct Taken {
    methods: IoMethods,
    original: *const IoMethods,
    database: Arc<Database>,
}

/// Which calls are ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Main,
    Wal,
}

/// Takes over an open file. Nothing happens to one that is taken already or has no table.
///
/// # Safety
/// `file` is an open file of SQLite's that no other thread uses now.
pub(super) unsafe fn take(file: *mut File, kind: Kind, database: Arc<Database>) {
    // SAFETY: the caller's word; a table is constant and outlives its files.
    let Some(original) = (unsafe { (*file).methods.as_ref() }) else { return };
    if is_ours(original) {
        return;
    }
    // SAFETY: `original` is a table of the version it says.
    let mut methods = unsafe { copy(original) };
    methods.close = Some(close);
    match kind {
        Kind::Main => {
            methods.file_control = Some(file_control);
            methods.shm_map = methods.shm_map.map(|_| shm_map as _);
            methods.shm_lock = methods.shm_lock.map(|_| shm_lock as _);
        }
        Kind::Wal => {
            database.set_page_bytes(0);
            methods.write = Some(write);
            methods.sync = Some(sync);
        }
    }
    let taken = Box::into_raw(Box::new(Taken { methods, original, database }));
    // SAFETY: the file is nobody else's now; the table lives until `close`.
    unsafe { (*file).methods = taken.cast_const().cast() };
}

/// Whether a file is taken over already, or cannot be.
///
/// # Safety
/// `file` is a file of SQLite's, open or zeroed.
pub(super) unsafe fn is_taken(file: *mut File) -> bool {
    // SAFETY: the caller's word.
    unsafe { (*file).methods.as_ref() }.is_none_or(is_ours)
}

fn is_ours(methods: &IoMethods) -> bool {
    methods.close.is_some_and(|found| std::ptr::fn_addr_eq(found, close as unsafe extern "C" fn(_) -> _))
}

/// Copies as much as there is of a table; what a later version adds is left away.
unsafe fn copy(original: &IoMethods) -> IoMethods {
    let bytes = match original.version {
        ..=1 => IO_METHODS_V1_BYTES,
        2 => IO_METHODS_V2_BYTES,
        _ => size_of::<IoMethods>(),
    };
    // SAFETY: all fields are a number or optional functions, for which zeros are valid.
    let mut methods: IoMethods = unsafe { std::mem::zeroed() };
    let (from, to) = (std::ptr::from_ref(original).cast::<u8>(), (&raw mut methods).cast::<u8>());
    // SAFETY: a table of this version has so many bytes.
    unsafe { std::ptr::copy_nonoverlapping(from, to, bytes) };
    methods.version = original.version.clamp(1, 3);
    methods
}

/// The rest of a file's table. SQLite uses a file in one thread at a time and not after its close.
unsafe fn taken<'a>(file: *mut File) -> &'a Taken {
    // SAFETY: our functions are called for files with our table only.
    unsafe { &*(*file).methods.cast::<Taken>() }
}

unsafe extern "C" fn close(file: *mut File) -> c_int {
    // SAFETY: the table is ours and used no more; the file gets its own back to be closed.
    unsafe {
        let taken = Box::from_raw((*file).methods.cast_mut().cast::<Taken>());
        (*file).methods = taken.original;
        let code = (*taken.original).close.map_or(OK, |close| close(file));
        guarded((), || drop(taken));
        code
    }
}

unsafe extern "C" fn file_control(file: *mut File, operation: c_int, argument: *mut c_void) -> c_int {
    // SAFETY: as for all files with our table.
    unsafe {
        let taken = taken(file);
        let code =
            (*taken.original).file_control.map_or(NOTFOUND, |original| original(file, operation, argument));
        if operation == FCNTL_COMMIT_PHASETWO && taken.database.is_replicated() {
            guarded((), || waiting::committed(&taken.database));
        }
        code
    }
}

/// The wal-index is opened in here; its locks are seen by [`shm_lock`] already.
unsafe extern "C" fn shm_map(
    file: *mut File,
    region: c_int,
    bytes: c_int,
    extend: c_int,
    address: *mut *mut c_void,
) -> c_int {
    // SAFETY: as for all files with our table; it had this function before it was taken.
    unsafe {
        let Some(original) = (*taken(file).original).shm_map else { return OK };
        unseen(|| original(file, region, bytes, extend, address))
    }
}

unsafe extern "C" fn shm_lock(file: *mut File, offset: c_int, count: c_int, flags: c_int) -> c_int {
    // SAFETY: as for all files with our table; it had this function before it was taken.
    unsafe {
        let taken = taken(file);
        let Some(original) = (*taken.original).shm_lock else { return OK };
        let is_write_lock = offset == WAL_WRITE_LOCK && flags & SHM_EXCLUSIVE != 0;
        if !is_write_lock {
            return original(file, offset, count, flags);
        }
        let database = &taken.database;
        if flags & SHM_UNLOCK != 0 {
            let code = original(file, offset, count, flags);
            if database.is_replicated() {
                guarded((), || waiting::ended(database));
            }
            return code;
        }
        let is_refused = guarded(false, || {
            database.look();
            database.is_refused()
        });
        if is_refused {
            return BUSY;
        }
        let code = original(file, offset, count, flags);
        if code == OK && database.is_replicated() {
            guarded((), || waiting::began(database));
        }
        code
    }
}

unsafe extern "C" fn write(file: *mut File, bytes: *const c_void, length: c_int, offset: i64) -> c_int {
    // SAFETY: as for all files with our table; SQLite gives `length` bytes.
    unsafe {
        let taken = taken(file);
        let Some(original) = (*taken.original).write else { return OK };
        let code = original(file, bytes, length, offset);
        guarded((), || {
            if code != OK {
                waiting::failed(&taken.database);
            } else if let (Ok(length), Ok(offset)) = (usize::try_from(length), u64::try_from(offset)) {
                let bytes = std::slice::from_raw_parts(bytes.cast::<u8>(), length);
                waiting::wrote(&taken.database, offset, bytes, || read_header(file, &*taken.original));
            }
        });
        code
    }
}

unsafe fn read_header(file: *mut File, original: &IoMethods) -> Option<Vec<u8>> {
    let mut header = vec![0_u8; waiting::WAL_HEADER_BYTES as usize];
    // SAFETY: the file is open and the buffer as long as it is said to be.
    let code = unsafe { original.read?(file, header.as_mut_ptr().cast(), header.len() as c_int, 0) };
    (code == OK).then_some(header)
}

unsafe extern "C" fn sync(file: *mut File, flags: c_int) -> c_int {
    // SAFETY: as for all files with our table.
    unsafe {
        let taken = taken(file);
        let code = (*taken.original).sync.map_or(OK, |original| original(file, flags));
        if taken.database.is_replicated() {
            guarded((), || {
                if code != OK {
                    waiting::failed(&taken.database);
                } else if taken.database.is_strict() {
                    waiting::hold(&taken.database);
                }
            });
        }
        code
    }
}
