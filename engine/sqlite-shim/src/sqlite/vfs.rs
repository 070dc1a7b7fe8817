//! SQLite's file systems (VFS) under the shim: which files are taken over when they are opened.
//!
//! The VFS `lockstep` is registered over the one that was the default. Unless only the name was asked
//! for, it becomes the default and the one below also takes over what it opens: a connection that was there
//! before the shim opens its log and what it attaches through that.

use super::files::{self, Kind};
use super::types::{Calls, ERROR, File, OK, OPEN_MAIN_DB, OPEN_WAL, Opaque, OpenFile, Vfs};
use crate::guard::guarded;
use crate::interpose::unseen;
use crate::waiting::Database;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};

/// Name of the VFS, for `vfs=lockstep` in a URI.
pub(super) const NAME: &CStr = c"lockstep";
/// The first SQLite that reports the end of a commit (`SQLITE_FCNTL_COMMIT_PHASETWO`).
pub(super) const OLDEST: c_int = 3_008_003;
/// The first SQLite that keeps an extension loaded when it asks for it.
pub(super) const KNOWS_PERMANENT: c_int = 3_014_000;
/// Set to `named` to cover only connections that ask for the VFS by its name.
const CHOICE_VARIABLE: &str = "LOCKSTEP_VFS";

/// The shim's VFS over one of the program's.
#[repr(C)]
struct Layer {
    vfs: Vfs,
    below: *mut Vfs,
}

/// VFS whose files are taken over although the program asks for them by another name: what opened them before.
static OPENERS: Mutex<Vec<(usize, OpenFile)>> = Mutex::new(Vec::new());

/// Whether all connections are covered, not only those that ask by name.
pub(super) fn covers_all() -> bool {
    std::env::var_os(CHOICE_VARIABLE).is_none_or(|choice| choice != "named")
}

/// Registers the shim with a program's SQLite, once; later calls change nothing.
///
/// # Safety
/// `calls` are functions of one SQLite that may be called now.
pub(super) unsafe fn install(calls: &Calls) -> c_int {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _one = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the caller's word; SQLite keeps a registered VFS, so it is never freed.
    unsafe {
        if !(calls.vfs_find)(NAME.as_ptr()).is_null() {
            return OK;
        }
        let below = (calls.vfs_find)(std::ptr::null());
        if below.is_null() {
            return ERROR;
        }
        let layer = Box::leak(Box::new(Layer { vfs: over(&*below), below }));
        let code = (calls.vfs_register)(&raw mut layer.vfs, c_int::from(covers_all()));
        if code == OK && covers_all() {
            cover(below);
        }
        code
    }
}

/// Makes a VFS of the program take over what it opens from now on; null, our own and one that does so already
/// are left alone.
///
/// # Safety
/// `vfs` is registered with SQLite, or null.
pub(super) unsafe fn cover(vfs: *mut Vfs) {
    let mut openers = OPENERS.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: SQLite writes to a registered VFS itself (its list), so it is writable, and never freed while
    // registered. A thread that opens a file meanwhile sees one function or the other.
    unsafe {
        let Some(original) = vfs.as_ref().and_then(|vfs| vfs.open) else { return };
        let is = |other: OpenFile| std::ptr::fn_addr_eq(original, other);
        if is(open) || is(open_covered) {
            return;
        }
        openers.push((vfs.addr(), original));
        let open = AtomicPtr::from_ptr((&raw mut (*vfs).open).cast::<*mut c_void>());
        open.store(open_covered as *mut c_void, Ordering::Release);
    }
}

unsafe extern "C" fn open_covered(
    vfs: *mut Vfs,
    name: *const c_char,
    file: *mut File,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let original = {
        let openers = OPENERS.lock().unwrap_or_else(PoisonError::into_inner);
        openers.iter().find(|(covered, _)| *covered == vfs.addr()).map(|(_, open)| *open)
    };
    let Some(original) = original else { return ERROR };
    // SAFETY: SQLite's own arguments for its own function.
    unsafe {
        let code = unseen(|| original(vfs, name, file, flags, out_flags));
        if code == OK {
            guarded((), || take_opened(name, file, flags));
        }
        code
    }
}

unsafe extern "C" fn open(
    vfs: *mut Vfs,
    name: *const c_char,
    file: *mut File,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: our VFS is a Layer; the arguments are SQLite's.
    unsafe {
        let below = (*vfs.cast::<Layer>()).below;
        let Some(original) = (*below).open else { return ERROR };
        let code = unseen(|| original(below, name, file, flags, out_flags));
        if code == OK {
            guarded((), || take_opened(name, file, flags));
        }
        code
    }
}

/// Takes over main databases and their logs; journals and temporary files stay as they are.
unsafe fn take_opened(name: *const c_char, file: *mut File, flags: c_int) {
    let kind = match flags & (OPEN_MAIN_DB | OPEN_WAL) {
        OPEN_MAIN_DB => Kind::Main,
        OPEN_WAL => Kind::Wal,
        _ => return,
    };
    // SAFETY: the file was opened just now.
    if name.is_null() || unsafe { files::is_taken(file) } {
        return;
    }
    // SAFETY: SQLite's names end with a zero.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes();
    // SAFETY: the file was opened just now and nobody else knows it.
    unsafe { take_named(name, file, kind) };
}

/// Takes over a file by its name.
///
/// # Safety
/// As for [`files::take`].
pub(super) unsafe fn take_named(name: &[u8], file: *mut File, kind: Kind) {
    let database = match kind {
        Kind::Main => name,
        Kind::Wal => name.strip_suffix(b"-wal").unwrap_or(name),
    };
    if let Some(database) = Database::of(Path::new(OsStr::from_bytes(database))) {
        // SAFETY: the caller's word.
        unsafe { files::take(file, kind, database) };
    }
}

/// The shim's VFS: all but the opening is passed on.
fn over(below: &Vfs) -> Vfs {
    let is_v2 = below.version >= 2;
    let is_v3 = below.version >= 3;
    Vfs {
        version: below.version.clamp(1, 3),
        file_bytes: below.file_bytes,
        path_bytes: below.path_bytes,
        next: std::ptr::null_mut(),
        name: NAME.as_ptr(),
        app_data: std::ptr::null_mut(),
        open: Some(open),
        delete: below.delete.map(|_| delete as _),
        access: below.access.map(|_| access as _),
        full_pathname: below.full_pathname.map(|_| full_pathname as _),
        dl_open: below.dl_open.map(|_| dl_open as _),
        dl_error: below.dl_error.map(|_| dl_error as _),
        dl_sym: below.dl_sym.map(|_| dl_sym as _),
        dl_close: below.dl_close.map(|_| dl_close as _),
        randomness: below.randomness.map(|_| randomness as _),
        sleep: below.sleep.map(|_| sleep as _),
        current_time: below.current_time.map(|_| current_time as _),
        last_error: below.last_error.map(|_| last_error as _),
        current_time_int64: below.current_time_int64.filter(|_| is_v2).map(|_| current_time_int64 as _),
        set_system_call: below.set_system_call.filter(|_| is_v3).map(|_| set_system_call as _),
        system_call: below.system_call.filter(|_| is_v3).map(|_| system_call as _),
        next_system_call: below.next_system_call.filter(|_| is_v3).map(|_| next_system_call as _),
    }
}

/// A function that the VFS below has too, called with that VFS.
macro_rules! passed_on {
    ($($name:ident($($argument:ident: $kind:ty),*) $(-> $answer:ty)?;)*) => {$(
        unsafe extern "C" fn $name(vfs: *mut Vfs, $($argument: $kind),*) $(-> $answer)? {
            // SAFETY: our VFS is a Layer, and has this function only if the one below has it.
            unsafe {
                let below = (*vfs.cast::<Layer>()).below;
                let original = (*below).$name.expect("taken over only where it is");
                original(below, $($argument),*)
            }
        }
    )*};
}

passed_on! {
    delete(name: *const c_char, sync_directory: c_int) -> c_int;
    access(name: *const c_char, flags: c_int, answer: *mut c_int) -> c_int;
    full_pathname(name: *const c_char, length: c_int, answer: *mut c_char) -> c_int;
    dl_open(name: *const c_char) -> *mut c_void;
    dl_error(length: c_int, message: *mut c_char);
    dl_sym(library: *mut c_void, name: *const c_char) -> Opaque;
    dl_close(library: *mut c_void);
    randomness(length: c_int, bytes: *mut c_char) -> c_int;
    sleep(microseconds: c_int) -> c_int;
    current_time(answer: *mut f64) -> c_int;
    last_error(length: c_int, message: *mut c_char) -> c_int;
    current_time_int64(answer: *mut i64) -> c_int;
    set_system_call(name: *const c_char, call: Opaque) -> c_int;
    system_call(name: *const c_char) -> Opaque;
    next_system_call(name: *const c_char) -> *const c_char;
}
