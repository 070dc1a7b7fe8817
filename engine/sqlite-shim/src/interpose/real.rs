//! libc's own functions, found behind this library.

use libc::{c_char, c_int, c_void, off64_t, size_t, ssize_t};
use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A function of libc by its name; a second name where an older libc has only that.
pub(super) struct Real {
    name: &'static CStr,
    other: Option<&'static CStr>,
    found: AtomicPtr<c_void>,
}

impl Real {
    const fn new(name: &'static CStr, other: Option<&'static CStr>) -> Self {
        Self { name, other, found: AtomicPtr::new(std::ptr::null_mut()) }
    }

    fn address(&self) -> *mut c_void {
        let found = self.found.load(Ordering::Relaxed);
        if !found.is_null() {
            return found;
        }
        let look = |name: &CStr| {
            // SAFETY: a lookup by name; finding the same address twice does no harm.
            unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) }
        };
        let mut found = look(self.name);
        if found.is_null() {
            found = self.other.map_or(found, look);
        }
        if found.is_null() {
            // A libc without it: nothing in this process could have called it.
            std::process::abort();
        }
        self.found.store(found, Ordering::Relaxed);
        found
    }
}

macro_rules! real {
    ($($name:ident $(or $other:literal)? ($($argument:ident: $kind:ty),*) -> $result:ty;)*) => {
        $(
            /// libc's function of this name.
            ///
            /// # Safety
            /// As libc's.
            pub(super) unsafe fn $name($($argument: $kind),*) -> $result {
                static REAL: Real = Real::new(
                    // SAFETY: the literal ends with its only zero.
                    unsafe { CStr::from_bytes_with_nul_unchecked(concat!(stringify!($name), "\0").as_bytes()) },
                    real!(@other $($other)?),
                );
                type Function = unsafe extern "C" fn($($kind),*) -> $result;
                // SAFETY: it is libc's function of this name, which has this signature.
                let function: Function = unsafe { std::mem::transmute(REAL.address()) };
                // SAFETY: the caller's promise.
                unsafe { function($($argument),*) }
            }
        )*
    };
    (@other) => { None };
    (@other $other:literal) => { Some($other) };
}

real! {
    open(path: *const c_char, flags: c_int, mode: c_int) -> c_int;
    open64 or c"open" (path: *const c_char, flags: c_int, mode: c_int) -> c_int;
    close(fd: c_int) -> c_int;
    write(fd: c_int, bytes: *const c_void, length: size_t) -> ssize_t;
    pwrite or c"pwrite64" (fd: c_int, bytes: *const c_void, length: size_t, offset: off64_t) -> ssize_t;
    pwrite64 or c"pwrite" (fd: c_int, bytes: *const c_void, length: size_t, offset: off64_t) -> ssize_t;
    fsync(fd: c_int) -> c_int;
    fdatasync(fd: c_int) -> c_int;
    fcntl(fd: c_int, command: c_int, argument: *mut c_void) -> c_int;
    fcntl64 or c"fcntl" (fd: c_int, command: c_int, argument: *mut c_void) -> c_int;
}
