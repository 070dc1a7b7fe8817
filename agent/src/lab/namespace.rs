//! Linux namespaces for the lab: making them, entering them, and what a fresh one needs.
//!
//! Namespaces are anonymous: a process or a descriptor keeps each alive and nothing is mounted
//! under /run/netns, so they go when the lab's last process goes. Everything here is for
//! single-threaded processes only: the kernel refuses most of it to others.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::route::Route;

/// Leaves some namespaces of the calling process for new ones.
pub(super) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: the descriptor table (`UnshareFlags::FILES`) is never among the flags.
    unsafe { unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// Leaves for new namespaces; without the privilege, in a new user namespace in which the caller
/// is root.
pub(super) fn unshare_as_root(flags: UnshareFlags) -> Result<()> {
    match unshare(flags) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
        other => return other.context("new namespaces"),
    }
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    unshare(UnshareFlags::NEWUSER).context(
        "new user namespace: run the lab as root, or allow them \
         (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns)",
    )?;
    write_once("/proc/self/setgroups", "deny")?;
    write_once("/proc/self/uid_map", &format!("0 {} 1", uid.as_raw()))?;
    write_once("/proc/self/gid_map", &format!("0 {} 1", gid.as_raw()))?;
    unshare(flags).context("new namespaces inside the user namespace")
}

fn write_once(path: &str, text: &str) -> Result<()> {
    let mut file = File::options().write(true).open(path).with_context(|| path.to_owned())?;
    file.write_all(text.as_bytes()).with_context(|| format!("{path}: writing {text:?}"))
}

/// Makes the mounts of this process its own and shows the processes of its PID namespace in /proc.
pub(super) fn own_mounts() -> Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("making the mounts private")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, None).context(
        "mounting /proc: a container that hides parts of /proc does not allow it; run the lab outside of it",
    )
}

/// Shows this network namespace's interfaces in /sys. Where that is not allowed (a container in a
/// container) /sys goes on showing the host's, which only misleads people: the agents use netlink.
pub(super) fn own_sys() {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    if let Err(e) = mount("sysfs", "/sys", "sysfs", flags, None) {
        eprintln!("/sys shows the host's interfaces: {e}");
    }
}

/// A network namespace kept by a descriptor, with a socket to change it.
pub(super) struct Network {
    pub(super) namespace: OwnedFd,
    pub(super) route: Route,
}

impl Network {
    /// The calling process's own.
    pub(super) fn own() -> Result<Self> {
        Self::open(Path::new("/proc/self/ns/net"))
    }

    /// A process's, by its number.
    pub(super) fn of_process(pid: u32) -> Result<Self> {
        Self::open(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// A new one; the caller stays where it is.
    pub(super) fn create() -> Result<Self> {
        let home = File::open("/proc/self/ns/net").context("/proc/self/ns/net")?;
        unshare(UnshareFlags::NEWNET).context("new network namespace")?;
        let made = Self::own();
        enter(&home)?;
        let mut made = made?;
        made.route.set_up("lo", true).context("loopback up")?;
        Ok(made)
    }

    fn open(path: &Path) -> Result<Self> {
        let namespace = File::open(path).with_context(|| path.display().to_string())?;
        let route = within(&namespace, Route::open)??;
        Ok(Self { namespace: namespace.into(), route })
    }
}

/// Runs `work` in a network namespace and comes back.
pub(super) fn within<T>(namespace: &impl AsFd, work: impl FnOnce() -> T) -> Result<T> {
    let home = File::open("/proc/self/ns/net").context("/proc/self/ns/net")?;
    enter(namespace)?;
    let done = work();
    enter(&home)?;
    Ok(done)
}

/// Moves the calling thread into a network namespace.
pub(super) fn enter(namespace: &impl AsFd) -> Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .context("entering a network namespace")
}
