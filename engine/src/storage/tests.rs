//! The runtimes carry what the data thread needs, and the simulated disk is as cruel as it says.

use super::{
    Backend, BackendChoice, BackendReport, Open, SimulatedDisk, Storage, StorageFile, SwallowedSync,
    Unsynced, run,
};
use bytes::Bytes;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CREATE: Open = Open { create: true };

#[test]
fn both_runtimes_carry_sockets_timers_local_tasks_and_files() {
    for choice in [BackendChoice::Best, BackendChoice::Blocking] {
        let dir = tempfile::TempDir::new().unwrap();
        run(choice, async |disk, report| {
            assert_eq!(report == BackendReport::Uring, choice == BackendChoice::Best, "{report}");
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let echo = tokio::task::spawn_local(async move {
                let (mut peer, _) = listener.accept().await.unwrap();
                let mut word = [0; 5];
                peer.read_exact(&mut word).await.unwrap();
                peer.write_all(&word).await.unwrap();
            });
            let mut peer = tokio::net::TcpStream::connect(address).await.unwrap();
            peer.write_all(b"hello").await.unwrap();
            let mut word = [0; 5];
            peer.read_exact(&mut word).await.unwrap();
            echo.await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;

            let file = disk.open(&dir.path().join("file"), CREATE).await.unwrap();
            file.write_at(3, Bytes::copy_from_slice(&word)).await.unwrap();
            file.sync_data().await.unwrap();
            assert_eq!(file.read_at(0, 100).await.unwrap(), b"\0\0\0hello");
            let clone = file.clone();
            assert!(clone.close().await.is_err(), "a clone is still in use");
            file.close().await.unwrap();
        })
        .unwrap();
    }
}

/// Makes `io_uring_setup` fail for this thread, as `kernel.io_uring_disabled` or a container does.
fn forbid_uring(errno: i32) {
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        step(0x20, 0, 0, 0), // the number of the call
        step(0x15, 0, 1, u32::try_from(libc::SYS_io_uring_setup).unwrap()),
        step(0x06, 0, 0, libc::SECCOMP_RET_ERRNO | u32::try_from(errno).unwrap()),
        step(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: plain numbers; the filter outlives the call that copies it. Both hold for this thread only.
    let (no_new, set) = unsafe {
        (
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter),
        )
    };
    assert_eq!((no_new, set), (0, 0), "{}", std::io::Error::last_os_error());
}

#[test]
fn without_io_uring_blocking_calls_take_over_and_say_why() {
    for (errno, cause) in [(libc::EPERM, "not permitted"), (libc::ENOSYS, "not implemented")] {
        let thread = std::thread::spawn(move || {
            forbid_uring(errno);
            run(BackendChoice::Best, async |disk, report| {
                (matches!(disk, Backend::Blocking(_)), report.to_string())
            })
        });
        let (blocking, report) = thread.join().unwrap().unwrap();
        assert!(blocking && report.contains(cause), "{report}");
    }
}

#[test]
fn a_crash_keeps_what_was_synced_and_replays_from_its_seed() {
    run(BackendChoice::Blocking, async |_, _| {
        let disk = SimulatedDisk::default();
        let path = Path::new("/d/file");
        let file = disk.open(path, CREATE).await.unwrap();
        file.write_at(0, vec![1; 2048].into()).await.unwrap();
        file.sync_all().await.unwrap();
        let nameless = disk.moment();
        disk.sync_dir(Path::new("/d")).await.unwrap();
        file.write_at(512, vec![2; 1024].into()).await.unwrap();
        file.write_at(4096, vec![3; 512].into()).await.unwrap();
        let mut images = std::collections::BTreeSet::new();
        let mut names_lost = 0;
        for seed in 0..200 {
            let crash = |moment| disk.crash_image(moment, Unsynced::Seeded(seed));
            let image = crash(disk.moment()).contents(path).unwrap();
            assert_eq!(Some(&image), crash(disk.moment()).contents(path).as_ref());
            assert_eq!((&image[..512], &image[1536..2048]), (&[1; 512][..], &[1; 512][..]));
            images.insert(image);
            names_lost += u32::from(crash(nameless).contents(path).is_none());
        }
        assert!(images.len() >= 6, "{} different images", images.len());
        assert!((1..200).contains(&names_lost));
    })
    .unwrap();
}

#[test]
fn a_file_is_lost_with_the_name_of_any_directory_above_it_and_a_rename_is_whole() {
    run(BackendChoice::Blocking, async |_, _| {
        let disk = SimulatedDisk::default();
        let (dir, path) = (Path::new("/d/new/deep"), Path::new("/d/new/deep/file"));
        disk.create_dir_all(dir).await.unwrap();
        let file = disk.open(path, CREATE).await.unwrap();
        file.sync_all().await.unwrap();
        disk.sync_dir(dir).await.unwrap();
        disk.sync_dir(Path::new("/d/new")).await.unwrap();
        assert!(disk.crash_image(disk.moment(), Unsynced::Lost).paths().is_empty());
        assert_eq!(disk.crash_image(disk.moment(), Unsynced::Kept).paths(), [path]);
        for above in ["/d", "/"] {
            disk.sync_dir(Path::new(above)).await.unwrap();
        }
        assert_eq!(disk.crash_image(disk.moment(), Unsynced::Lost).paths(), [path]);
        let to = dir.join("renamed");
        disk.rename(path, &to).await.unwrap();
        for seed in 0..50 {
            let paths = disk.crash_image(disk.moment(), Unsynced::Seeded(seed)).paths();
            assert!(paths == [path.to_owned()] || paths == [to.clone()], "{paths:?}");
        }
    })
    .unwrap();
}

#[test]
fn a_swallowed_sync_succeeds_and_keeps_nothing() {
    run(BackendChoice::Blocking, async |_, _| {
        let kept = async |swallowed: Option<SwallowedSync>| {
            let disk = SimulatedDisk::default();
            if let Some(kind) = swallowed {
                disk.swallow_syncs(kind);
            }
            let path = Path::new("/d/file");
            let file = disk.open(path, CREATE).await.unwrap();
            disk.sync_dir(Path::new("/d")).await.unwrap();
            file.write_at(0, vec![1; 32].into()).await.unwrap();
            file.sync_data().await.unwrap();
            file.write_at(512, vec![1; 512].into()).await.unwrap();
            file.sync_data().await.unwrap();
            file.write_at(0, vec![2; 32].into()).await.unwrap();
            file.sync_data().await.unwrap();
            file.write_at(1024, vec![1; 512].into()).await.unwrap();
            file.sync_all().await.unwrap();
            let whole = disk.crash_image(disk.moment(), Unsynced::Lost).contents(path);
            let before_last = disk.crash_image(disk.moment() - 2, Unsynced::Lost).contents(path);
            (whole.map(|bytes| bytes.len()), before_last.map(|bytes| (bytes.len(), bytes.first().copied())))
        };
        assert_eq!(kept(None).await, (Some(1536), Some((1024, Some(2)))));
        assert_eq!(kept(Some(SwallowedSync::Directory)).await, (None, None));
        assert_eq!(kept(Some(SwallowedSync::All)).await, (Some(1024), Some((1024, Some(1)))));
        assert_eq!(kept(Some(SwallowedSync::Header)).await, (Some(1536), Some((1024, Some(1)))));
        assert_eq!(kept(Some(SwallowedSync::Data)).await, (Some(1536), Some((0, None))));
    })
    .unwrap();
}
