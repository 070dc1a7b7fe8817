//! `LD_PRELOAD` for programs with a dynamic libsqlite3: before a connection is opened, the shim is installed.
//!
//! The names of SQLite's functions for opening lead here. Which SQLite the caller means is found from where
//! it called: a process may have several, each behind its own library, also loaded late and
//! locally as Python does.

use super::types::{CANTOPEN, Calls, Connection};
use super::vfs;
use crate::guard::guarded;
use std::ffi::{CStr, c_char, c_int, c_void};

/// What a function of SQLite's is found in.
struct Library {
    handle: *mut c_void,
    is_ours: bool,
}

impl Library {
    /// The library that holds this address, with what it was linked to.
    fn of(address: *const c_void) -> Option<Self> {
        let name = name_of(address)?;
        // SAFETY: the name is valid while its library is loaded, and the caller is in it.
        let handle = unsafe { libc::dlopen(name, libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        (!handle.is_null()).then(|| Self { handle, is_ours: true })
    }

    /// What comes after the shim in the order of loading.
    const fn after_us() -> Self {
        Self { handle: libc::RTLD_NEXT, is_ours: false }
    }

    fn symbol(&self, name: &CStr) -> Option<*mut c_void> {
        // SAFETY: the handle is open.
        let found = unsafe { libc::dlsym(self.handle, name.as_ptr()) };
        (!found.is_null() && base_of(found) != base_of(symbol_of_us())).then_some(found)
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        if self.is_ours {
            // SAFETY: opened once, closed once; the caller itself keeps its library loaded.
            unsafe { libc::dlclose(self.handle) };
        }
    }
}

fn info_of(address: *const c_void) -> Option<libc::Dl_info> {
    // SAFETY: a structure of pointers, for which zeros are valid; dladdr only reads the list of libraries.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        (libc::dladdr(address, &raw mut info) != 0).then_some(info)
    }
}

fn name_of(address: *const c_void) -> Option<*const c_char> {
    let info = info_of(address)?;
    (info.dli_fbase != info_of(symbol_of_us())?.dli_fbase).then_some(info.dli_fname)
}

fn base_of(address: *const c_void) -> Option<*mut c_void> {
    info_of(address).map(|info| info.dli_fbase)
}

fn symbol_of_us() -> *const c_void {
    symbol_of_us as *const c_void
}

/// SQLite's own function of this name for this caller, after the shim is installed there.
fn real(caller: *const c_void, name: &CStr) -> Option<*mut c_void> {
    let libraries = [Library::of(caller), Some(Library::after_us())];
    let library = libraries.into_iter().flatten().find(|library| library.symbol(name).is_some())?;
    let function = library.symbol(name)?;
    let symbols = (
        library.symbol(c"sqlite3_libversion_number"),
        library.symbol(c"sqlite3_vfs_find"),
        library.symbol(c"sqlite3_vfs_register"),
    );
    if let (Some(version), Some(find), Some(register)) = symbols {
        // SAFETY: these names have these types in every SQLite 3.
        let calls = unsafe { Calls::of(version, find, register) };
        install(&calls);
    }
    Some(function)
}

/// A SQLite too old for it, or without a file system, is reached through libc.
fn install(calls: &Calls) {
    // SAFETY: functions of one SQLite, which is about to open a file and so may be initialised.
    unsafe {
        if (calls.libversion_number)() >= vfs::OLDEST {
            vfs::install(calls);
        }
    }
}

type Open = unsafe extern "C" fn(*const c_void, *mut *mut Connection) -> c_int;
type OpenV2 = unsafe extern "C" fn(*const c_char, *mut *mut Connection, c_int, *const c_char) -> c_int;

unsafe fn open_like(
    name: &CStr,
    path: *const c_void,
    connection: *mut *mut Connection,
    caller: *const c_void,
) -> c_int {
    let Some(function) = guarded(None, || real(caller, name)) else {
        // SAFETY: SQLite's own place for the connection.
        unsafe { *connection = std::ptr::null_mut() };
        return CANTOPEN;
    };
    // SAFETY: both functions that come here have this type.
    unsafe { std::mem::transmute::<*mut c_void, Open>(function)(path, connection) }
}

unsafe extern "C" fn open(
    path: *const c_void,
    connection: *mut *mut Connection,
    caller: *const c_void,
) -> c_int {
    // SAFETY: the program's arguments.
    unsafe { open_like(c"sqlite3_open", path, connection, caller) }
}

unsafe extern "C" fn open16(
    path: *const c_void,
    connection: *mut *mut Connection,
    caller: *const c_void,
) -> c_int {
    // SAFETY: the program's arguments.
    unsafe { open_like(c"sqlite3_open16", path, connection, caller) }
}

unsafe extern "C" fn open_v2(
    path: *const c_char,
    connection: *mut *mut Connection,
    flags: c_int,
    vfs: *const c_char,
    caller: *const c_void,
) -> c_int {
    let Some(function) = guarded(None, || real(caller, c"sqlite3_open_v2")) else {
        // SAFETY: SQLite's own place for the connection.
        unsafe { *connection = std::ptr::null_mut() };
        return CANTOPEN;
    };
    // SAFETY: the program's arguments for the function that they were meant for.
    unsafe { std::mem::transmute::<*mut c_void, OpenV2>(function)(path, connection, flags, vfs) }
}

/// A function under SQLite's name that gives ours one argument more: where it was called from.
macro_rules! entry {
    ($name:ident, $ours:ident, $x86:literal, $arm:literal) => {
        #[doc = concat!("`", stringify!($name), "` of the program's SQLite, with the shim in place.")]
        ///
        /// # Safety
        /// As SQLite's function.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            #[cfg(target_arch = "x86_64")]
            core::arch::naked_asm!(concat!("mov ", $x86, ", [rsp]"), "jmp {}", sym $ours);
            #[cfg(target_arch = "aarch64")]
            core::arch::naked_asm!(concat!("mov ", $arm, ", x30"), "b {}", sym $ours);
        }
    };
}

entry!(sqlite3_open, open, "rdx", "x2");
entry!(sqlite3_open16, open16, "rdx", "x2");
entry!(sqlite3_open_v2, open_v2, "r8", "x4");
