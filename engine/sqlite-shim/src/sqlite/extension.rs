//! `.load` and `load_extension`: covers what is opened from now on and the connection it is loaded into.

use super::files::Kind;
use super::types::{
    Calls, Connection, ERROR, FCNTL_FILE_POINTER, FCNTL_JOURNAL_POINTER, FCNTL_VFS_POINTER, File, OK,
    OK_LOAD_PERMANENTLY, Vfs,
};
use super::vfs;
use crate::guard::guarded;
use std::ffi::{CStr, CString, c_char, c_int, c_void};

/// Rows of a statement, one after another, as texts.
type Rows = unsafe extern "C" fn(*mut c_void, c_int, *mut *mut c_char, *mut *mut c_char) -> c_int;

/// The first functions of `sqlite3_api_routines`, which grows only at its end.
#[repr(C)]
struct Routines {
    functions: [*const c_void; 143],
}

/// Places in that table, counted in `sqlite3ext.h`.
const EXEC: usize = 55;
const LIBVERSION_NUMBER: usize = 67;
const MPRINTF: usize = 69;
const FILE_CONTROL: usize = 127;
const VFS_FIND: usize = 141;
const VFS_REGISTER: usize = 142;

type Exec = unsafe extern "C" fn(
    *mut Connection,
    *const c_char,
    Option<Rows>,
    *mut c_void,
    *mut *mut c_char,
) -> c_int;
type Mprintf = unsafe extern "C" fn(*const c_char, ...) -> *mut c_char;
type FileControl = unsafe extern "C" fn(*mut Connection, *const c_char, c_int, *mut c_void) -> c_int;

/// What the shim calls of the SQLite that loads it.
struct Host {
    calls: Calls,
    exec: Exec,
    mprintf: Mprintf,
    file_control: FileControl,
}

impl Host {
    unsafe fn of(routines: &Routines) -> Self {
        let at = |place: usize| routines.functions[place];
        // SAFETY: SQLite fills the table with functions of these types at these places.
        unsafe {
            Self {
                calls: Calls::of(at(LIBVERSION_NUMBER), at(VFS_FIND), at(VFS_REGISTER)),
                exec: std::mem::transmute::<*const c_void, Exec>(at(EXEC)),
                mprintf: std::mem::transmute::<*const c_void, Mprintf>(at(MPRINTF)),
                file_control: std::mem::transmute::<*const c_void, FileControl>(at(FILE_CONTROL)),
            }
        }
    }

    /// One column of all rows; empty when the statement fails.
    unsafe fn column(&self, connection: *mut Connection, sql: &CStr, column: usize) -> Vec<CString> {
        struct Texts {
            column: usize,
            texts: Vec<CString>,
        }
        unsafe extern "C" fn row(
            texts: *mut c_void,
            count: c_int,
            values: *mut *mut c_char,
            _names: *mut *mut c_char,
        ) -> c_int {
            // SAFETY: what is passed below; a row has `count` values, null or ending with a zero.
            guarded(OK, || unsafe {
                let texts = &mut *texts.cast::<Texts>();
                if texts.column < count as usize {
                    let value = *values.add(texts.column);
                    let text =
                        if value.is_null() { CString::default() } else { CStr::from_ptr(value).into() };
                    texts.texts.push(text);
                }
                OK
            })
        }
        let mut texts = Texts { column, texts: Vec::new() };
        // SAFETY: the connection is the caller's, in this thread; the statement's error is not asked for.
        unsafe {
            let to = (&raw mut texts).cast();
            (self.exec)(connection, sql.as_ptr(), Some(row), to, std::ptr::null_mut());
        }
        texts.texts
    }

    unsafe fn pointer<T>(&self, connection: *mut Connection, schema: &CStr, operation: c_int) -> *mut T {
        let mut pointer: *mut T = std::ptr::null_mut();
        // SAFETY: these operations store one pointer.
        let code =
            unsafe { (self.file_control)(connection, schema.as_ptr(), operation, (&raw mut pointer).cast()) };
        if code == OK { pointer } else { std::ptr::null_mut() }
    }

    /// Takes over the files of databases that the connection has open.
    unsafe fn take(&self, connection: *mut Connection) {
        // SAFETY: the connection is the caller's; SQLite holds its lock while it loads an extension.
        unsafe {
            let schemas = self.column(connection, c"PRAGMA database_list", 1);
            let paths = self.column(connection, c"PRAGMA database_list", 2);
            for (schema, path) in schemas.iter().zip(&paths) {
                if path.is_empty() {
                    continue;
                }
                if vfs::covers_all() {
                    vfs::cover(self.pointer::<Vfs>(connection, schema, FCNTL_VFS_POINTER));
                }
                let quoted = schema.to_string_lossy().replace('"', "\"\"");
                let Ok(sql) = CString::new(format!("PRAGMA \"{quoted}\".journal_mode")) else { continue };
                // This reads the database, which opens its log.
                let is_wal = self.column(connection, &sql, 0).first().is_some_and(|mode| **mode == *c"wal");
                let main = self.pointer::<File>(connection, schema, FCNTL_FILE_POINTER);
                let wal = self.pointer::<File>(connection, schema, FCNTL_JOURNAL_POINTER);
                if !main.is_null() {
                    vfs::take_named(path.to_bytes(), main, Kind::Main);
                }
                if is_wal && !wal.is_null() {
                    vfs::take_named(path.to_bytes(), wal, Kind::Wal);
                }
            }
        }
    }
}

/// Keeps this library in the process: SQLite's tables point into it.
fn stay() {
    let mut found = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: the address is this function's; the name stays valid while the library is loaded.
    unsafe {
        if libc::dladdr(stay as *const c_void, &raw mut found) != 0 {
            libc::dlopen(found.dli_fname, libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE);
        }
    }
}

unsafe fn load(connection: *mut Connection, error: *mut *mut c_char, routines: &Routines) -> c_int {
    // SAFETY: SQLite calls this with its own table, a connection and a place for a message.
    unsafe {
        let host = Host::of(routines);
        let version = (host.calls.libversion_number)();
        let refusal = if version < vfs::OLDEST {
            Some(c"lockstep: SQLite 3.8.3 or newer is needed: an older one does not say when a commit ends")
        } else if vfs::install(&host.calls) != OK {
            Some(c"lockstep: SQLite has no file system to stand over: load the extension after sqlite3_initialize")
        } else {
            None
        };
        if let Some(sentence) = refusal {
            if !error.is_null() {
                *error = (host.mprintf)(c"%s".as_ptr(), sentence.as_ptr());
            }
            return ERROR;
        }
        stay();
        host.take(connection);
        if version >= vfs::KNOWS_PERMANENT { OK_LOAD_PERMANENTLY } else { OK }
    }
}

/// The entry point that SQLite looks for in every extension.
///
/// # Safety
/// Called by SQLite when it loads this library.
#[unsafe(no_mangle)]
unsafe extern "C" fn sqlite3_extension_init(
    connection: *mut Connection,
    error: *mut *mut c_char,
    routines: *const Routines,
) -> c_int {
    // SAFETY: SQLite's own arguments.
    guarded(ERROR, || unsafe { load(connection, error, &*routines) })
}

/// The entry point named after the file, for programs that load several extensions.
///
/// # Safety
/// As [`sqlite3_extension_init`].
#[unsafe(no_mangle)]
unsafe extern "C" fn sqlite3_lockstepsqlite_init(
    connection: *mut Connection,
    error: *mut *mut c_char,
    routines: *const Routines,
) -> c_int {
    // SAFETY: the same contract.
    unsafe { sqlite3_extension_init(connection, error, routines) }
}
