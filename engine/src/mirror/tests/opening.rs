//! Who may open a mirror: nobody else while it mirrors, stock SQLite after a takeover; and what a
//! standby says when its disk is full, read-only or changed beneath it.

use super::{
    Mirror, MirrorConfig, Sent, Source, config_in, contents, copy, feed, mirror_pages, on_every_disk,
};
use crate::storage::{Backend, BackendChoice, SimulatedDisk, run};
use rusqlite::Connection;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const OPEN_PATH: &str = "LOCKSTEP_TEST_OPEN";

#[test]
#[ignore = "runs in a process of its own, started by other tests"]
fn foreign_opener() {
    let Ok(path) = std::env::var(OPEN_PATH) else { return };
    let db = Connection::open(path).unwrap();
    db.busy_timeout(std::time::Duration::ZERO).unwrap();
    let answer = db.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get::<_, i64>(0));
    println!("answer: {answer:?}");
}

/// What `sqlite3 PATH .tables` would meet, in another process.
fn open_elsewhere(path: &Path) -> String {
    let test = format!("{}::foreign_opener", module_path!().split_once("::").unwrap().1);
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test.as_str(), "--exact", "--ignored", "--nocapture"])
        .env(OPEN_PATH, path)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().find(|line| line.contains("answer: ")).expect(&text).to_owned()
}

/// Starts a program whose process has copies of all our descriptors for 100 ms, as every one has for a moment; returns
/// once it has them.
fn fork_slowly() -> std::thread::JoinHandle<()> {
    use std::os::unix::process::CommandExt;
    let (reader, writer) = std::io::pipe().unwrap();
    let child = std::thread::spawn(move || {
        let mut program = Command::new("/bin/true");
        let slowly = move || {
            rustix::io::write(&writer, b"!")?;
            std::thread::sleep(std::time::Duration::from_millis(100));
            Ok(())
        };
        // SAFETY: between fork and exec only a write and a sleep.
        unsafe { program.pre_exec(slowly) };
        assert!(program.status().unwrap().success());
    });
    rustix::io::read(&reader, &mut [0_u8; 1]).unwrap();
    child
}

#[test]
fn a_mirror_is_opened_again_while_a_child_of_this_process_is_being_started() {
    on_real_disks(&async |disk: Backend, dir: &Path| {
        let config = config_in(dir);
        let mirror = Mirror::open(disk.clone(), config.clone()).await.unwrap();
        let child = fork_slowly();
        mirror.close().await.unwrap();
        Mirror::open(disk, config).await.expect("nobody else has it").close().await.unwrap();
        child.join().unwrap();
    });
}

fn on_real_disks(test: &impl AsyncFn(Backend, &Path)) {
    for choice in [BackendChoice::Best, BackendChoice::Blocking] {
        let dir = TempDir::new().unwrap();
        run(choice, async |disk, _| test(disk, dir.path()).await).unwrap();
    }
}

async fn copied(disk: &Backend, config: &MirrorConfig, commits: u32) -> (Mirror, Source) {
    let mut source = Source::new(4096);
    for _ in 0..commits {
        source.commit();
    }
    let mut mirror = Mirror::open(disk.clone(), config.clone()).await.unwrap();
    copy(&mut mirror, &mut source).await.unwrap();
    (mirror, source)
}

#[test]
fn a_foreign_opener_gets_database_is_locked_and_changes_nothing() {
    on_real_disks(&async |disk, dir| {
        let config = config_in(dir);
        let (mut mirror, mut source) = copied(&disk, &config, 3).await;
        let before = (std::fs::read(&config.database).unwrap(), std::fs::read(config.wal()).unwrap());
        assert!(open_elsewhere(&config.database).contains("database is locked"));
        assert_eq!((std::fs::read(&config.database).unwrap(), std::fs::read(config.wal()).unwrap()), before);
        assert!(!config.shm().exists());
        // Another descriptor opened and closed in this process does not drop the lock.
        drop(std::fs::File::open(&config.database).unwrap());
        assert!(open_elsewhere(&config.database).contains("database is locked"));
        source.commit();
        feed(&mut mirror, source.news(100)).await.unwrap();
        mirror.flush().await.unwrap();
        assert_eq!(mirror_pages(&disk, &config).await, source.pages());
    });
}

#[test]
fn a_database_that_is_open_elsewhere_is_not_mirrored() {
    on_real_disks(&async |disk, dir| {
        let config = config_in(dir);
        let db = Connection::open(&config.database).unwrap();
        db.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x)").unwrap();
        let error = Mirror::open(disk, config).await.err().unwrap();
        assert!(error.to_string().contains("stop the application"), "{error}");
        db.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    });
}

#[test]
fn a_takeover_hands_stock_sqlite_the_same_database() {
    on_real_disks(&async |disk, dir| {
        let config = config_in(dir);
        let (mut mirror, mut source) = copied(&disk, &config, 20).await;
        source.checkpoint("RESTART");
        for _ in 0..10 {
            source.commit();
            feed(&mut mirror, source.news(3)).await.unwrap();
        }
        mirror.flush().await.unwrap();
        mirror.zero_ahead().await.unwrap();
        // Received, not yet flushed: it counts as well.
        source.commit();
        feed(&mut mirror, source.news(100)).await.unwrap();
        let taken = mirror.take_over().await.unwrap();
        assert_eq!(taken.point.position.frame.0, source.frame);
        assert_eq!(taken.point.position.generation.0, source.generation);
        assert_eq!((taken.point.chain, taken.point.salts), (source.chain, source.header.unwrap().salts));
        assert!(open_elsewhere(&config.database).contains("Ok("));
        assert_eq!(contents(&taken.connection).unwrap(), contents(&source.db).unwrap());
        let check: String =
            taken.connection.query_row("PRAGMA integrity_check", (), |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        // The foreign opener's close did not take the WAL away, and neither does ours.
        drop(taken);
        assert_eq!(mirror_pages(&disk, &config).await, source.pages());
        let mirror = Mirror::open(disk.clone(), config.clone()).await.unwrap();
        assert!(mirror.state(1).await.unwrap().diverged);
        assert_eq!(mirror.point().position.frame.0, source.frame);
    });
}

#[test]
fn a_copy_of_a_database_with_an_empty_wal_follows_on_and_is_taken_over() {
    on_real_disks(&async |disk, dir| {
        for follow_on in [false, true] {
            let dir = dir.join(follow_on.to_string());
            std::fs::create_dir(&dir).unwrap();
            let config = config_in(&dir);
            let mut source = Source::new(4096);
            source.commit();
            source.checkpoint("TRUNCATE");
            let mut mirror = Mirror::open(disk.clone(), config.clone()).await.unwrap();
            copy(&mut mirror, &mut source).await.unwrap();
            assert!(mirror.is_complete());
            mirror.close().await.unwrap();
            let mut mirror = Mirror::open(disk.clone(), config.clone()).await.unwrap();
            assert!(mirror.state(1).await.unwrap().complete);
            if follow_on {
                source.commit();
                feed(&mut mirror, source.news(100)).await.unwrap();
            }
            let taken = mirror.take_over().await.unwrap();
            assert_eq!(taken.point.position.frame.0, source.frame);
            assert_eq!(contents(&taken.connection).unwrap(), contents(&source.db).unwrap());
        }
    });
}

#[test]
fn an_incomplete_mirror_refuses_a_takeover() {
    on_real_disks(&async |disk, dir| {
        let mut mirror = Mirror::open(disk, config_in(dir)).await.unwrap();
        mirror.begin_copy(false, 4096, 2).await.unwrap();
        mirror.write_pages(1, vec![0; 8192].into()).await.unwrap();
        let error = mirror.take_over().await.unwrap_err();
        assert!(error.to_string().contains("not a complete copy"), "{error}");
    });
}

#[test]
fn a_snapshot_shows_the_last_durable_commit_while_mirroring_goes_on() {
    on_every_disk(async |disk, dir| {
        let config = config_in(&dir);
        let (mut mirror, mut source) = copied(&disk, &config, 30).await;
        let shown = contents(&source.db).unwrap();
        let ticket = mirror.start_snapshot(&dir.join("snapshot.db")).unwrap();
        source.commit();
        feed(&mut mirror, source.news(100)).await.unwrap();
        mirror.flush().await.unwrap();
        let snapshot = ticket.run(&Default::default()).await.unwrap();
        assert!(snapshot.position < mirror.point().position);
        let bytes = super::bytes_of(&disk, &dir.join("snapshot.db")).await;
        assert_eq!(bytes.len(), snapshot.page_count as usize * 4096);
        let opened = super::Opened::from_bytes(&bytes, &[]);
        assert_eq!(opened.integrity().unwrap(), "ok");
        assert_eq!(contents(&opened.db).unwrap(), shown);
    });
}

#[test]
fn a_mirror_whose_files_were_replaced_says_so_at_the_next_flush() {
    on_real_disks(&async |disk, dir| {
        for name in ["app.db", "app.db-wal"] {
            let dir = dir.join(name);
            std::fs::create_dir(&dir).unwrap();
            let config = config_in(&dir);
            let (mut mirror, mut source) = copied(&disk, &config, 2).await;
            std::fs::rename(dir.join(name), dir.join("aside")).unwrap();
            std::fs::copy(dir.join("aside"), dir.join(name)).unwrap();
            source.commit();
            feed(&mut mirror, source.news(100)).await.unwrap();
            let error = mirror.flush().await.unwrap_err();
            assert!(error.to_string().contains("was replaced or removed"), "{error}");
            assert!(error.to_string().contains(name), "{error}");
        }
    });
}

#[test]
fn a_wal_that_somebody_changed_while_no_agent_ran_is_kept_before_a_resync() {
    on_real_disks(&async |disk, dir| {
        let config = config_in(dir);
        let (mirror, source) = copied(&disk, &config, 4).await;
        mirror.close().await.unwrap();
        // One look with the shell checkpoints and removes the WAL.
        let db = Connection::open(&config.database).unwrap();
        assert_eq!(contents(&db).unwrap(), contents(&source.db).unwrap());
        drop(db);
        assert!(!config.wal().exists());
        let mut mirror = Mirror::open(disk.clone(), config.clone()).await.unwrap();
        assert!(mirror.state(1).await.unwrap().diverged && !mirror.is_complete());
        assert!(mirror.begin_copy(true, 4096, 4).await.is_err());
    });
}

#[test]
fn a_full_disk_is_named_and_loses_nothing() {
    run(BackendChoice::Blocking, async |_, _| {
        let world = SimulatedDisk::default();
        let disk = Backend::Simulated(world.clone());
        let config = MirrorConfig { zero_ahead_bytes: 0, ..config_in(Path::new("/simulated")) };
        let (mut mirror, mut source) = copied(&disk, &config, 5).await;
        let held = (mirror.received(), mirror_pages(&disk, &config).await);
        world.set_capacity(Some(world.used_bytes() + 100));
        source.commit();
        let Some(Sent::Batch(batch)) = source.news(100).pop() else { panic!("a commit makes a batch") };
        let error = mirror.append(batch.clone()).await.unwrap_err();
        assert_eq!(error.code(), "disk");
        assert!(error.to_string().contains("/simulated/app.db-wal"), "{error}");
        assert!(error.to_string().contains("free space"), "{error}");
        assert_eq!((mirror.received(), mirror_pages(&disk, &config).await), held);
        world.set_capacity(None);
        mirror.append(batch).await.unwrap();
        mirror.flush().await.unwrap();
        assert_eq!(mirror_pages(&disk, &config).await, source.pages());
    })
    .unwrap();
}

/// A file system of its own that only this thread sees; gone with the thread.
fn on_small_tmpfs(test: impl FnOnce(&Path) + Send) {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    let dir = TempDir::new().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: only this thread gets a mount namespace; no descriptor is shared by it.
            let unshared = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) };
            unshared.expect("CAP_SYS_ADMIN is needed for a mount namespace");
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).unwrap();
            let size = Some(c"size=256k");
            mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), size).unwrap();
            test(dir.path());
        });
    });
}

#[test]
fn a_really_full_file_system_refuses_and_what_was_acknowledged_stays() {
    for choice in [BackendChoice::Best, BackendChoice::Blocking] {
        on_small_tmpfs(|dir| {
            run(choice, async |disk, _| {
                let config = MirrorConfig { zero_ahead_bytes: 0, ..config_in(dir) };
                let (mut mirror, mut source) = copied(&disk, &config, 3).await;
                let error = loop {
                    source.commit();
                    match feed(&mut mirror, source.news(100)).await {
                        Ok(()) => mirror.flush().await.map(|_| ()).unwrap(),
                        Err(error) => break error,
                    }
                };
                assert!(error.to_string().contains("app.db-wal"), "{error}");
                assert!(error.to_string().contains("free space"), "{error}");
                let held = mirror.point();
                mirror.close().await.unwrap();
                let mirror = Mirror::open(disk.clone(), config.clone()).await.unwrap();
                assert_eq!(mirror.point(), held);
                mirror.close().await.unwrap();
            })
            .unwrap();
        });
    }
}

#[test]
fn a_read_only_directory_is_named() {
    on_small_tmpfs(|dir| {
        use rustix::mount::{MountFlags, mount_remount};
        mount_remount(dir, MountFlags::RDONLY, c"").unwrap();
        run(BackendChoice::Best, async |disk, _| {
            let error = Mirror::open(disk, config_in(dir)).await.err().unwrap();
            assert!(error.to_string().contains(dir.to_str().unwrap()), "{error}");
            assert!(error.to_string().contains("read-write"), "{error}");
        })
        .unwrap();
    });
}

#[test]
fn a_damaged_state_file_is_named_and_left_alone() {
    on_real_disks(&async |disk, dir| {
        let config = config_in(dir);
        let (mirror, _) = copied(&disk, &config, 2).await;
        mirror.close().await.unwrap();
        let path = config.state_file();
        std::fs::write(&path, "nonsense").unwrap();
        let error = Mirror::open(disk, config.clone()).await.err().unwrap();
        assert!(error.to_string().contains("mirror.state is damaged"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"nonsense");
    });
}
