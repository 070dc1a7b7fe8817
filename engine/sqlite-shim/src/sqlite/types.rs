//! The few types and numbers of SQLite's C interface that the shim needs, as in `sqlite3.h`.
//!
//! Tables of functions only ever grow at their end, and say by their version how far they go.

use std::ffi::{c_char, c_int, c_void};

pub(super) const OK: c_int = 0;
pub(super) const ERROR: c_int = 1;
pub(super) const BUSY: c_int = 5;
pub(super) const NOTFOUND: c_int = 12;
pub(super) const CANTOPEN: c_int = 14;
/// `SQLITE_OK_LOAD_PERMANENTLY`, since SQLite 3.14.
pub(super) const OK_LOAD_PERMANENTLY: c_int = 256;
pub(super) const OPEN_MAIN_DB: c_int = 0x100;
pub(super) const OPEN_WAL: c_int = 0x8_0000;
pub(super) const FCNTL_FILE_POINTER: c_int = 7;
pub(super) const FCNTL_COMMIT_PHASETWO: c_int = 22;
pub(super) const FCNTL_VFS_POINTER: c_int = 27;
pub(super) const FCNTL_JOURNAL_POINTER: c_int = 28;
pub(super) const SHM_UNLOCK: c_int = 1;
pub(super) const SHM_EXCLUSIVE: c_int = 8;
/// Which of the wal-index's locks is the one for writing.
pub(super) const WAL_WRITE_LOCK: c_int = 0;

/// `sqlite3_file`: the files of a VFS begin with this.
#[repr(C)]
pub(super) struct File {
    pub(super) methods: *const IoMethods,
}

/// A method that the shim passes on unseen.
pub(super) type Opaque = Option<unsafe extern "C" fn()>;

/// `sqlite3_io_methods`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct IoMethods {
    pub(super) version: c_int,
    pub(super) close: Option<unsafe extern "C" fn(*mut File) -> c_int>,
    pub(super) read: Option<unsafe extern "C" fn(*mut File, *mut c_void, c_int, i64) -> c_int>,
    pub(super) write: Option<unsafe extern "C" fn(*mut File, *const c_void, c_int, i64) -> c_int>,
    pub(super) truncate: Opaque,
    pub(super) sync: Option<unsafe extern "C" fn(*mut File, c_int) -> c_int>,
    pub(super) file_size: Opaque,
    pub(super) lock: Opaque,
    pub(super) unlock: Opaque,
    pub(super) check_reserved_lock: Opaque,
    pub(super) file_control: Option<unsafe extern "C" fn(*mut File, c_int, *mut c_void) -> c_int>,
    pub(super) sector_size: Opaque,
    pub(super) device_characteristics: Opaque,
    // Version 2
    pub(super) shm_map:
        Option<unsafe extern "C" fn(*mut File, c_int, c_int, c_int, *mut *mut c_void) -> c_int>,
    pub(super) shm_lock: Option<unsafe extern "C" fn(*mut File, c_int, c_int, c_int) -> c_int>,
    pub(super) shm_barrier: Opaque,
    pub(super) shm_unmap: Opaque,
    // Version 3
    pub(super) fetch: Opaque,
    pub(super) unfetch: Opaque,
}

/// Bytes of [`IoMethods`] that exist in version 1 and 2.
pub(super) const IO_METHODS_V1_BYTES: usize = std::mem::offset_of!(IoMethods, shm_map);
pub(super) const IO_METHODS_V2_BYTES: usize = std::mem::offset_of!(IoMethods, fetch);

pub(super) type OpenFile =
    unsafe extern "C" fn(*mut Vfs, *const c_char, *mut File, c_int, *mut c_int) -> c_int;

/// `sqlite3_vfs`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Vfs {
    pub(super) version: c_int,
    pub(super) file_bytes: c_int,
    pub(super) path_bytes: c_int,
    pub(super) next: *mut Vfs,
    pub(super) name: *const c_char,
    pub(super) app_data: *mut c_void,
    pub(super) open: Option<OpenFile>,
    pub(super) delete: Option<unsafe extern "C" fn(*mut Vfs, *const c_char, c_int) -> c_int>,
    pub(super) access: Option<unsafe extern "C" fn(*mut Vfs, *const c_char, c_int, *mut c_int) -> c_int>,
    pub(super) full_pathname:
        Option<unsafe extern "C" fn(*mut Vfs, *const c_char, c_int, *mut c_char) -> c_int>,
    pub(super) dl_open: Option<unsafe extern "C" fn(*mut Vfs, *const c_char) -> *mut c_void>,
    pub(super) dl_error: Option<unsafe extern "C" fn(*mut Vfs, c_int, *mut c_char)>,
    pub(super) dl_sym: Option<unsafe extern "C" fn(*mut Vfs, *mut c_void, *const c_char) -> Opaque>,
    pub(super) dl_close: Option<unsafe extern "C" fn(*mut Vfs, *mut c_void)>,
    pub(super) randomness: Option<unsafe extern "C" fn(*mut Vfs, c_int, *mut c_char) -> c_int>,
    pub(super) sleep: Option<unsafe extern "C" fn(*mut Vfs, c_int) -> c_int>,
    pub(super) current_time: Option<unsafe extern "C" fn(*mut Vfs, *mut f64) -> c_int>,
    pub(super) last_error: Option<unsafe extern "C" fn(*mut Vfs, c_int, *mut c_char) -> c_int>,
    // Version 2
    pub(super) current_time_int64: Option<unsafe extern "C" fn(*mut Vfs, *mut i64) -> c_int>,
    // Version 3
    pub(super) set_system_call: Option<unsafe extern "C" fn(*mut Vfs, *const c_char, Opaque) -> c_int>,
    pub(super) system_call: Option<unsafe extern "C" fn(*mut Vfs, *const c_char) -> Opaque>,
    pub(super) next_system_call: Option<unsafe extern "C" fn(*mut Vfs, *const c_char) -> *const c_char>,
}

/// A connection, never looked into.
#[repr(C)]
pub(super) struct Connection {
    _opaque: [u8; 0],
}

type VersionNumber = unsafe extern "C" fn() -> c_int;
type FindVfs = unsafe extern "C" fn(*const c_char) -> *mut Vfs;
type RegisterVfs = unsafe extern "C" fn(*mut Vfs, c_int) -> c_int;

/// The functions of the program's SQLite that the shim calls in every way in.
#[derive(Clone, Copy)]
pub(super) struct Calls {
    pub(super) libversion_number: VersionNumber,
    pub(super) vfs_find: FindVfs,
    pub(super) vfs_register: RegisterVfs,
}

impl Calls {
    /// From their addresses.
    ///
    /// # Safety
    /// They are `sqlite3_libversion_number`, `sqlite3_vfs_find` and `sqlite3_vfs_register` of one SQLite 3.
    pub(super) unsafe fn of(version: *const c_void, find: *const c_void, register: *const c_void) -> Self {
        // SAFETY: in every SQLite 3 they have these types.
        unsafe {
            Self {
                libversion_number: std::mem::transmute::<*const c_void, VersionNumber>(version),
                vfs_find: std::mem::transmute::<*const c_void, FindVfs>(find),
                vfs_register: std::mem::transmute::<*const c_void, RegisterVfs>(register),
            }
        }
    }
}
