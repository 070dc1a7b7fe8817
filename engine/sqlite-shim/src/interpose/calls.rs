//! The functions that stand before libc's.
//!
//! `open` and `fcntl` are variadic in C. On the processors this is built for, a caller passes their
//! third argument in the same register whether or not the callee says `...`, so they are declared
//! with three.

use super::files::{self, Kind};
use super::real;
use crate::guard::guarded;
use crate::waiting::{self, Database};
use libc::{c_char, c_int, c_void, off64_t, size_t, ssize_t};
use std::ffi::CStr;
use std::sync::Arc;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("how this processor passes variadic arguments has not been looked at");

/// SQLite's write lock: this byte of the `-shm` file.
const WRITE_LOCK: i64 = 120;

/// Bytes that tell the page size of a log.
const LOG_HEAD_BYTES: usize = 12;

/// The database whose `kind` of file this descriptor is.
fn watched(fd: c_int, kind: Kind) -> Option<Arc<Database>> {
    guarded(None, || files::database(fd, kind))
}

/// # Safety
/// `path` is null or a C string, as for libc's `open`.
unsafe fn opened(fd: c_int, path: *const c_char) -> c_int {
    if fd >= 0 && !path.is_null() {
        // SAFETY: the caller's promise.
        let path = unsafe { CStr::from_ptr(path) };
        guarded((), || files::opened(fd, path));
    }
    fd
}

/// # Safety
/// `bytes` are readable for `length`, as libc's `write` asks.
unsafe fn wrote(database: &Arc<Database>, fd: c_int, offset: i64, bytes: *const c_void, written: ssize_t) {
    let (Ok(offset), Ok(length)) = (u64::try_from(offset), usize::try_from(written)) else {
        guarded((), || waiting::failed(database));
        return;
    };
    // SAFETY: the caller's promise; no more was written than it gave.
    let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), length) };
    guarded((), || waiting::wrote(database, offset, bytes, || log_head(fd)));
}

fn log_head(fd: c_int) -> Option<Vec<u8>> {
    let mut head = vec![0; LOG_HEAD_BYTES];
    // SAFETY: the buffer is as long as said.
    let read = unsafe { libc::pread64(fd, head.as_mut_ptr().cast(), head.len(), 0) };
    (read == LOG_HEAD_BYTES as ssize_t).then_some(head)
}

fn synced(fd: c_int, result: c_int) -> c_int {
    if let Some(database) = watched(fd, Kind::Log) {
        guarded((), || match result {
            0 if database.is_strict() => waiting::hold(&database),
            0 => {}
            _ => waiting::failed(&database),
        });
    }
    result
}

/// What a lock request does with the write lock: `Some(true)` takes, `Some(false)` releases it.
///
/// # Safety
/// `argument` is what libc's `fcntl` asks for this command.
unsafe fn write_lock(command: c_int, argument: *const c_void) -> Option<bool> {
    let locks = [libc::F_SETLK, libc::F_SETLKW, libc::F_OFD_SETLK, libc::F_OFD_SETLKW];
    if !locks.contains(&command) || argument.is_null() {
        return None;
    }
    // SAFETY: these commands take a flock, whose 64-bit form is the only one on these processors.
    let lock = unsafe { &*argument.cast::<libc::flock>() };
    let covers = lock.l_start <= WRITE_LOCK && (lock.l_len == 0 || WRITE_LOCK < lock.l_start + lock.l_len);
    if c_int::from(lock.l_whence) != libc::SEEK_SET || !covers {
        return None;
    }
    match c_int::from(lock.l_type) {
        libc::F_WRLCK => Some(true),
        libc::F_UNLCK => Some(false),
        _ => None,
    }
}

/// # Safety
/// As libc's `fcntl`, which is `real`.
unsafe fn control(
    fd: c_int,
    command: c_int,
    argument: *mut c_void,
    real: unsafe fn(c_int, c_int, *mut c_void) -> c_int,
) -> c_int {
    // SAFETY: the caller's promise.
    let lock = unsafe { write_lock(command, argument) };
    let database = lock.and_then(|_| watched(fd, Kind::Shared));
    let (Some(takes), Some(database)) = (lock, database) else {
        // SAFETY: the caller's promise.
        return unsafe { real(fd, command, argument) };
    };
    let refused = || {
        database.look();
        database.is_refused()
    };
    if takes && guarded(false, refused) {
        // SAFETY: errno is this thread's own. SQLite makes SQLITE_BUSY of it.
        unsafe { *libc::__errno_location() = libc::EAGAIN };
        return -1;
    }
    // SAFETY: the caller's promise.
    let result = unsafe { real(fd, command, argument) };
    if result != -1 {
        guarded((), || {
            if takes {
                waiting::began(&database);
            } else {
                waiting::ended(&database);
                waiting::committed(&database);
            }
        });
    }
    result
}

/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { opened(real::open(path, flags, mode), path) }
}

/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { opened(real::open64(path, flags, mode), path) }
}

/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
unsafe extern "C" fn close(fd: c_int) -> c_int {
    files::closing(fd);
    // SAFETY: the caller's promise.
    unsafe { real::close(fd) }
}

/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, length: size_t) -> ssize_t {
    let Some(database) = watched(fd, Kind::Log) else {
        // SAFETY: the caller's promise.
        return unsafe { real::write(fd, bytes, length) };
    };
    // SAFETY: a question about a descriptor.
    let offset = unsafe { libc::lseek64(fd, 0, libc::SEEK_CUR) };
    // SAFETY: the caller's promise.
    unsafe {
        let written = real::write(fd, bytes, length);
        wrote(&database, fd, offset, bytes, written);
        written
    }
}

/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite(fd: c_int, bytes: *const c_void, length: size_t, offset: off64_t) -> ssize_t {
    // SAFETY: the caller's promise.
    unsafe { written_at(fd, bytes, offset, real::pwrite(fd, bytes, length, offset)) }
}

/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(fd: c_int, bytes: *const c_void, length: size_t, offset: off64_t) -> ssize_t {
    // SAFETY: the caller's promise.
    unsafe { written_at(fd, bytes, offset, real::pwrite64(fd, bytes, length, offset)) }
}

/// # Safety
/// As [`wrote`].
unsafe fn written_at(fd: c_int, bytes: *const c_void, offset: off64_t, written: ssize_t) -> ssize_t {
    if let Some(database) = watched(fd, Kind::Log) {
        // SAFETY: the caller's promise.
        unsafe { wrote(&database, fd, offset, bytes, written) };
    }
    written
}

/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    // SAFETY: the caller's promise.
    synced(fd, unsafe { real::fsync(fd) })
}

/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    // SAFETY: the caller's promise.
    synced(fd, unsafe { real::fdatasync(fd) })
}

/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
unsafe extern "C" fn fcntl(fd: c_int, command: c_int, argument: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { control(fd, command, argument, real::fcntl) }
}

/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
unsafe extern "C" fn fcntl64(fd: c_int, command: c_int, argument: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { control(fd, command, argument, real::fcntl64) }
}
