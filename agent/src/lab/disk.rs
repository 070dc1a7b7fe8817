//! A node's disk: a folder, or an XFS or ext4 of its own that loses its cache with the power.
//!
//! The loop device clears itself when the last mount goes, so it lives exactly as long as the
//! machine's mount namespace. `--disk loop` needs root and `mkfs.xfs` (`loop-ext4`: `mkfs.ext4`), the only
//! program the lab calls.

use std::fs::{DirBuilder, File};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lockstep_engine::link::{CERTIFICATE_FILE, KEY_FILE};
use rustix::mount::{MountFlags, mount};
use rustix::process::Pid;

use super::layout::{Home, Node};
use super::spec::{Disk, FileSystem};

/// Size of a node's disk. Sparse; XFS wants at least 300 MiB.
const IMAGE_BYTES: u64 = 4 << 30;
/// The old mount of a machine that just lost power goes when the kernel has let go of its last
/// file; until then the same file system cannot be mounted again.
const REMOUNT_DEADLINE: Duration = Duration::from_secs(20);

/// Makes a node's disk, once, before the lab starts.
pub(super) fn make(home: &Home, node: Node, disk: Disk) -> Result<()> {
    let Some(file_system) = disk.file_system() else { return Ok(()) };
    if !rustix::process::geteuid().is_root() {
        bail!(
            "a disk of its own needs root: loop devices and mounting are not given to others; use --disk dir"
        );
    }
    let path = home.image(node);
    let image = File::create_new(&path).with_context(|| path.display().to_string())?;
    image.set_len(IMAGE_BYTES).with_context(|| path.display().to_string())?;
    let FileSystem { name, make: [program, options @ ..], package } = file_system else {
        bail!("{} has no program that makes it", file_system.name);
    };
    let made =
        Command::new(program).args(options).arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).status();
    match made {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("{program} {}: {status}", path.display()),
        Err(e) => bail!("{name} needs {program}: {e}; install the package {package}, or use --disk dir"),
    }
}

/// Mounts a node's disk in the calling machine's mount namespace; after a power loss this is the file
/// system's log recovery.
pub(super) fn mount_disk(home: &Home, node: Node, disk: Disk) -> Result<()> {
    let Some(file_system) = disk.file_system() else { return furnish(home, node) };
    mount_loop(home, node, file_system.name)?;
    furnish(home, node)?;
    // The identity survives even the first power loss.
    let root = File::open(home.disk(node)).context("the node's disk")?;
    rustix::fs::syncfs(&root).context("the node's disk")
}

/// Gives a fresh disk its folders and the node its identity.
fn furnish(home: &Home, node: Node) -> Result<()> {
    let (state, seed) = (home.state(node), home.seed(node));
    let mut private = DirBuilder::new();
    private.recursive(true).mode(0o700);
    for dir in [&state, &home.data(node), &home.tree(node)] {
        private.create(dir).with_context(|| dir.display().to_string())?;
    }
    for name in [CERTIFICATE_FILE, KEY_FILE] {
        let (from, to) = (seed.join(name), state.join(name));
        if !to.exists() {
            std::fs::copy(&from, &to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
        }
    }
    Ok(())
}

fn mount_loop(home: &Home, node: Node, file_system: &str) -> Result<()> {
    let deadline = Instant::now() + REMOUNT_DEADLINE;
    loop {
        // A new device each time: the old one may still be closing.
        match attach(home, node).and_then(|device| mount_once(&device, home, node, file_system)) {
            Ok(()) => return Ok(()),
            Err(e) if Instant::now() > deadline => return Err(e),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

struct LoopDevice {
    path: String,
    /// Keeps the device until it is mounted.
    _open: File,
}

fn mount_once(device: &LoopDevice, home: &Home, node: Node, file_system: &str) -> Result<()> {
    let disk = home.disk(node);
    mount(device.path.as_str(), &disk, file_system, MountFlags::NODEV | MountFlags::NOSUID, None)
        .with_context(|| format!("mounting {} at {}", device.path, disk.display()))
}

/// `LOOP_CTL_GET_FREE` (linux/loop.h).
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
/// `LOOP_CONFIGURE` (linux/loop.h, Linux 5.8).
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
/// `LO_FLAGS_AUTOCLEAR`: the device goes with its last user.
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// `struct loop_config` with `struct loop_info64` (linux/loop.h).
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    devices_and_limits: [u64; 5],
    number: u32,
    encrypt_type: u32,
    encrypt_key_bytes: u32,
    flags: u32,
    names_and_key: [u8; 64 + 64 + 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopConfig>() == 304, "struct loop_config is 304 bytes");

fn attach(home: &Home, node: Node) -> Result<LoopDevice> {
    let path = home.image(node);
    let image =
        File::options().read(true).write(true).open(&path).with_context(|| path.display().to_string())?;
    let controller =
        File::options().read(true).write(true).open("/dev/loop-control").context("/dev/loop-control")?;
    // SAFETY: this ioctl takes no pointer and returns a number or -1.
    let number = unsafe { libc::ioctl(controller.as_raw_fd(), LOOP_CTL_GET_FREE) };
    if number < 0 {
        return Err(std::io::Error::last_os_error()).context("a free loop device");
    }
    let device_path = format!("/dev/loop{number}");
    let device =
        File::options().read(true).write(true).open(&device_path).with_context(|| device_path.clone())?;
    let config = LoopConfig {
        fd: image.as_raw_fd().cast_unsigned(),
        block_size: 0,
        devices_and_limits: [0; 5],
        number: 0,
        encrypt_type: 0,
        encrypt_key_bytes: 0,
        flags: LO_FLAGS_AUTOCLEAR,
        names_and_key: [0; 160],
        init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: the kernel reads `struct loop_config` from the pointer, which outlives the call.
    let configured = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
    if configured < 0 {
        return Err(std::io::Error::last_os_error())
            .with_context(|| format!("{device_path} on {}", path.display()));
    }
    Ok(LoopDevice { path: device_path, _open: device })
}

/// Shuts the machine's file system down without writing its log: what was not synced is lost.
pub(super) fn lose_power(machine: Pid, home: &Home, node: Node) -> Result<()> {
    let disk = home.disk(node);
    let inside = format!("/proc/{}/root{}", machine.as_raw_nonzero(), disk.display());
    let root = File::open(&inside).with_context(|| inside.clone())?;
    shut_down(std::os::fd::AsFd::as_fd(&root))
        .with_context(|| format!("shutting down the file system at {inside}"))
}

fn shut_down(root: BorrowedFd<'_>) -> std::io::Result<()> {
    /// `FS_IOC_SHUTDOWN`, in XFS `XFS_IOC_GOINGDOWN`, in ext4 `EXT4_IOC_SHUTDOWN`: `_IOR('X', 125, __u32)`.
    const FS_IOC_SHUTDOWN: libc::Ioctl = 0x8004_587D_u32 as libc::Ioctl;
    // `XFS_FSOP_GOING_FLAGS_NOLOGFLUSH`, `EXT4_GOING_FLAGS_NOLOGFLUSH`: neither data nor log.
    let no_log_flush: u32 = 2;
    // SAFETY: the kernel reads one u32 from the pointer, which outlives the call.
    let done = unsafe { libc::ioctl(root.as_raw_fd(), FS_IOC_SHUTDOWN, &raw const no_log_flush) };
    if done < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
