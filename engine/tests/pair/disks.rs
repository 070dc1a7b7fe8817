//! Disks of the standby that tests can fill, break and make read-only: mounts in a namespace of their own
//! that only both engines see. Needs root (CAP_SYS_ADMIN).

use crate::node::{Node, pair_without_database};
use lockstep_engine::link::Side;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

type Job = Box<dyn FnOnce(&Path) + Send>;

/// The namespace with the mounts; it ends with the engines.
pub(crate) struct Mounts {
    jobs: Sender<Job>,
    done: Receiver<()>,
}

impl Mounts {
    /// A pair without databases whose standby has had its directory prepared in the namespace.
    pub(crate) fn pair(prepare: impl Fn(&Path) + Send + 'static) -> (Node, Node, Self) {
        let (nodes, made) = channel();
        let (jobs, queue) = channel::<Job>();
        let (tell, done) = channel();
        std::thread::spawn(move || {
            // SAFETY: no pointers; it concerns this thread and those it starts.
            let result = unsafe { libc::unshare(libc::CLONE_NEWNS) };
            let error = std::io::Error::last_os_error();
            assert_eq!(result, 0, "a mount namespace needs CAP_SYS_ADMIN: {error}");
            mount("none", Path::new("/"), "none", libc::MS_REC | libc::MS_PRIVATE, "");
            let directory = std::cell::OnceCell::<PathBuf>::new();
            let pair = pair_without_database(|config| {
                config.databases[0].checkpoint_frames = 1_000_000;
                if config.link.side == Side::Connect {
                    let own = config.state_dir.parent().expect("it lies in the node's directory");
                    prepare(own);
                    // Memory of this process that would keep the disk from being unmounted.
                    config.boards = None;
                    directory.set(own.to_owned()).expect("one standby");
                }
            });
            nodes.send(pair).unwrap_or_else(|_| panic!("the test waits for it"));
            for job in queue {
                job(directory.get().expect("it is prepared"));
                tell.send(()).expect("the test waits for it");
            }
        });
        let (active, standby) = made.recv().expect("the pair starts");
        (active, standby, Self { jobs, done })
    }

    /// Does something to the standby's directory as the engines see it.
    pub(crate) fn run(&self, job: impl FnOnce(&Path) + Send + 'static) {
        self.jobs.send(Box::new(job)).expect("the namespace lives");
        self.done.recv().expect("it is done");
    }
}

/// Mounts, or changes a mount.
pub(crate) fn mount(source: &str, target: &Path, kind: &str, flags: libc::c_ulong, data: &str) {
    let text = |text: &str| CString::new(text).expect("no zero byte");
    let target = text(target.to_str().expect("UTF-8"));
    let (source, kind, data) = (text(source), text(kind), text(data));
    // SAFETY: every pointer is a terminated string that outlives the call.
    let result =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) };
    assert_eq!(result, 0, "mounting needs CAP_SYS_ADMIN: {}", std::io::Error::last_os_error());
}

/// Unmounts what nobody uses any more; the kernel may close the last descriptors a moment after the call.
pub(crate) fn unmount(target: &Path) {
    let path = CString::new(target.to_str().expect("UTF-8")).expect("no zero byte");
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        // SAFETY: a terminated string that outlives the call.
        if unsafe { libc::umount(path.as_ptr()) } == 0 {
            return;
        }
        let error = std::io::Error::last_os_error();
        assert!(Instant::now() < until, "cannot unmount {}: {error}", target.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a program of e2fsprogs or mount.
pub(crate) fn program(name: &str, arguments: &[&str]) {
    let output = Command::new(name).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{name} does not run: {error}"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{name} {arguments:?}: {said}");
}

/// Takes a file system's disk away without a flush: from then on every write and sync fails.
pub(crate) fn shut_down(directory: &Path) {
    // _IOR('X', 125, __u32), with the flag for no flush of the journal.
    const FS_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
    const NO_FLUSH: u32 = 2;
    let directory = std::fs::File::open(directory).expect("it is there");
    let flags = NO_FLUSH;
    // SAFETY: the descriptor is open for the call and `flags` outlives it.
    let result = unsafe {
        libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&directory), FS_IOC_SHUTDOWN, &raw const flags)
    };
    assert_eq!(result, 0, "shutting down needs CAP_SYS_ADMIN: {}", std::io::Error::last_os_error());
}
