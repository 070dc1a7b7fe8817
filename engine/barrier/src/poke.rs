//! The other way: a program tells the agent that it has written a commit frame and will wait for it.
//!
//! A poke is a hint. One that is lost costs time and a count, never a commit: the WAL says the same.

use crate::mark::Mark;
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Where the agent hears pokes of one database.
#[derive(Debug)]
pub struct PokeReceiver(UnixDatagram);

impl PokeReceiver {
    /// Takes the name; a socket that an earlier agent left is replaced.
    ///
    /// # Errors
    /// What the system says.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = through_directory(path, |short| UnixDatagram::bind(short))?;
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o660))?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// The next poke, if one is there. What is no poke is dropped.
    pub fn next(&self) -> Option<Mark> {
        let mut bytes = [0; 64];
        loop {
            let length = self.0.recv(&mut bytes).ok()?;
            if let Some(mark) = Mark::from_bytes(&bytes[..length]) {
                return Some(mark);
            }
        }
    }
}

impl AsFd for PokeReceiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A program's end.
#[derive(Debug)]
pub struct Poke(UnixDatagram);

impl Poke {
    /// Connects to the agent.
    ///
    /// # Errors
    /// What the system says; an agent that is not there is `ConnectionRefused` or `NotFound`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        through_directory(path, |short| socket.connect(short))?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// Tells of one commit; never waits. False: connect anew (the agent was restarted).
    pub fn send(&self, mark: &Mark) -> bool {
        let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
        match rustix::net::send(&self.0, &mark.to_bytes(), flags) {
            // A full queue holds pokes that do as well.
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => true,
            Err(_) => false,
        }
    }
}

/// Gives `act` a short name for `path`: socket addresses are at most 107 bytes long, directories of labs and
/// tests are longer.
///
/// # Errors
/// What the system says about the directory, or `act`.
pub fn through_directory<T>(path: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent, flags, Mode::empty())?;
    act(&PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name))
}
