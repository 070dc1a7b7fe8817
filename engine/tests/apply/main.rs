//! The standby's half of a file tree, killed and without power at random moments.
//!
//! Batch `n` writes two of [`FILES`] files, and every fifth renames a directory; what the tree holds after any batch
//! follows from its number. Afterwards every file is whole and of the last batch on disk, or of the one that was
//! interrupted, and nothing acknowledged is missing.

use lockstep_engine::files::apply::{Applier, ApplyConfig, ApplyError, SYNC_EACH_MAX};
use lockstep_engine::files::{ContentHash, Meta, Mtime};
use lockstep_wire::{TreeOp, TreeOpKind, TreeOps, TreeReason, pack, unpack};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;
use tempfile::TempDir;

const FILES: u64 = 20;
const INDEX: u64 = 7;
/// Names the directory of the process that applies until it is killed.
const CHILD: &str = "LOCKSTEP_TEST_APPLY_IN";

/// The state is beside the directory: on another disk, whose syncs make nothing of the tree durable by chance.
fn config(directory: &Path) -> ApplyConfig {
    ApplyConfig {
        root: directory.join("tree"),
        state_dir: directory.with_file_name("state"),
        untouchable: Vec::new(),
        sync_each_max: SYNC_EACH_MAX,
    }
}

/// The files that a batch writes.
fn written(batch: u64) -> [u64; 2] {
    [batch % FILES, (batch * 7 + 3) % FILES]
}

/// The batch that wrote a file last, up to `batch`; 0: none.
fn last_of(file: u64, batch: u64) -> u64 {
    (1..=batch).rev().find(|batch| written(*batch).contains(&file)).unwrap_or(0)
}

/// Of a length that tells the batch too.
fn content(batch: u64) -> Vec<u8> {
    format!("{batch:08}").repeat(1 + (batch as usize * 997) % 30_000).into_bytes()
}

fn op(kind: TreeOpKind, path: &str) -> TreeOp {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let meta = Meta { mode: 0o755, user, group, mtime: Mtime { s: 1_000, ns: 5 }, ..Meta::default() };
    TreeOp {
        kind: kind.into(),
        path: path.to_owned().into(),
        meta: Some(meta.to_wire()),
        ..TreeOp::default()
    }
}

fn ops(batch: u64) -> TreeOps {
    let whole = content(batch);
    let hash = || ContentHash::of(&whole).0.to_vec().into();
    let [put, pieces] = written(batch).map(|file| format!("f{file}"));
    let (first, second) = whole.split_at(whole.len() / 2);
    let data = |offset: usize, data: &[u8]| TreeOp {
        offset: offset as u64,
        data: data.to_vec().into(),
        ..op(TreeOpKind::Data, "")
    };
    let mut ops = vec![
        TreeOp { data: whole.clone().into(), content: hash(), ..op(TreeOpKind::Put, &put) },
        TreeOp { size: whole.len() as u64, ..op(TreeOpKind::Begin, &pieces) },
        data(0, first),
        data(first.len(), second),
        TreeOp { content: hash(), ..op(TreeOpKind::End, "") },
    ];
    if batch == 1 {
        ops.push(op(TreeOpKind::Directory, "d0"));
    } else if batch.is_multiple_of(5) {
        let from = format!("d{}", batch / 5 - 1).into();
        ops.push(TreeOp { from, ..op(TreeOpKind::Rename, &format!("d{}", batch / 5)) });
    }
    TreeOps { index: INDEX, batch, ops: pack(ops), last: true }
}

/// Applies one batch after the other, telling `acknowledged` of each; an error ends it.
fn apply(directory: &Path, mut acknowledged: impl FnMut(u64) -> bool) -> Result<(), String> {
    let text = |error: ApplyError| error.to_string();
    let mut applier = Applier::open(config(directory)).map_err(text)?;
    let mut batch = applier.followed().batch;
    loop {
        batch += 1;
        let interrupted = applier.is_interrupted();
        for ack in applier.take(ops(batch), 1).map_err(text)? {
            assert_eq!(ack.batch, batch);
            for failure in unpack::<lockstep_wire::TreeFailure>(ack.failures) {
                let failure = failure.expect("a sound list");
                if matches!(failure.reason(), TreeReason::Disk | TreeReason::ReadOnly) {
                    return Err(failure.detail);
                }
                // The interrupted batch may have renamed the directory already.
                assert!(interrupted && failure.op() == TreeOpKind::Rename, "batch {batch}: {failure:?}");
            }
        }
        if !acknowledged(batch) {
            return Ok(());
        }
    }
}

/// What must hold after a crash; answers the last batch that is on disk.
fn judge(directory: &Path, acknowledged: u64) -> u64 {
    let applier = Applier::open(config(directory)).expect("the tree opens");
    let last = applier.followed().batch;
    assert!(last >= acknowledged, "batch {acknowledged} was acknowledged, the state says {last}");
    let tree = directory.join("tree");
    let staged = fs::read_dir(tree.join(".lockstep/staging")).expect("the staging directory");
    assert_eq!(staged.count(), 0, "leftovers are removed");
    let may_be = if applier.is_interrupted() { last + 1 } else { last };
    for file in 0..FILES {
        let found = fs::read(tree.join(format!("f{file}"))).unwrap_or_default();
        let fits = [last, may_be].map(|batch| last_of(file, batch)).into_iter().any(|batch| match batch {
            0 => found.is_empty(),
            batch => found == content(batch),
        });
        let beginning = String::from_utf8_lossy(&found[..found.len().min(8)]).into_owned();
        assert!(fits, "file {file} after batch {last} or {may_be}: {} bytes of {beginning}", found.len());
    }
    let directories = [last, may_be].map(|batch| tree.join(format!("d{}", batch / 5)));
    assert!(last == 0 || directories.iter().any(|path| path.is_dir()), "{directories:?} after batch {last}");
    last
}

fn dice(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
    *seed >> 33
}

fn seed() -> u64 {
    let given = std::env::var("LOCKSTEP_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| u64::from(std::process::id()) << 20);
    println!("LOCKSTEP_SEED={seed}");
    seed
}

fn runs() -> u32 {
    std::env::var("LOCKSTEP_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(100)
}

/// The process that is killed; does nothing when it is run as a test.
#[test]
fn child_applies_until_it_is_killed() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let said = apply(Path::new(&directory), |batch| {
        let mut out = std::io::stdout();
        writeln!(out, "\nacknowledged {batch}").and_then(|()| out.flush()).is_ok()
    });
    panic!("{said:?}");
}

fn kills(runs: u32) {
    let (dir, mut moments, mut total) = (TempDir::new().unwrap(), seed(), 0);
    let directory = dir.path().join("disk");
    fs::create_dir(&directory).expect("a directory");
    for _ in 0..runs {
        let mut child = Command::new(std::env::current_exe().expect("this test's own file"))
            .args(["--exact", "child_applies_until_it_is_killed", "--nocapture"])
            .env(CHILD, &directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let (stdout, (told, acknowledged)) = (child.stdout.take().expect("it is piped"), channel());
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(batch) = line.strip_prefix("acknowledged ") {
                    told.send(batch.parse::<u64>().expect("a number")).expect("somebody listens");
                }
            }
        });
        let mut last = acknowledged.recv_timeout(Duration::from_secs(20)).expect("it applies");
        std::thread::sleep(Duration::from_micros(dice(&mut moments) % 60_000));
        let pid = Pid::from_child(&child);
        kill_process(pid, Signal::KILL).expect("it runs");
        child.wait().expect("it ends");
        reader.join().expect("it reads to the end");
        last = acknowledged.try_iter().last().unwrap_or(last);
        total = judge(&directory, last);
    }
    println!("{total} batches over {runs} kills");
    assert!(total > u64::from(runs));
}

#[test]
fn a_killed_standby_has_whole_files_and_everything_it_acknowledged() {
    kills(8);
}

#[test]
#[ignore = "LOCKSTEP_RUNS kills"]
fn long_a_killed_standby_has_whole_files_and_everything_it_acknowledged() {
    kills(runs());
}

/// A file system of its own, on a loop device.
struct LoopDisk {
    image: PathBuf,
    mount: PathBuf,
}

fn run(command: &str, arguments: &[&std::ffi::OsStr]) {
    let output = Command::new(command).args(arguments).output().expect("the command is there");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

impl LoopDisk {
    fn new(directory: &Path, kind: &str) -> Self {
        let (image, mount) = (directory.join("image"), directory.join("mount"));
        fs::create_dir(&mount).expect("a directory");
        let file = fs::File::create(&image).expect("an image");
        file.set_len(400 << 20).expect("it is sparse");
        run(&format!("mkfs.{kind}"), &["-q".as_ref(), image.as_ref()]);
        let disk = Self { image, mount };
        disk.mount();
        disk
    }

    fn mount(&self) {
        run("mount", &["-o".as_ref(), "loop".as_ref(), self.image.as_ref(), self.mount.as_ref()]);
    }

    fn unmount(&self) {
        run("umount", &[self.mount.as_ref()]);
    }

    /// Nothing that was not synced reaches the disk from here on: not even the log.
    fn lose_power(&self) {
        const FS_IOC_SHUTDOWN: rustix::ioctl::Opcode = 0x8004_587d;
        const WITHOUT_LOG: u32 = 2;
        let root = fs::File::open(&self.mount).expect("it is mounted");
        // SAFETY: this call takes the address of a u32 and only reads it.
        let shut = unsafe {
            rustix::ioctl::ioctl(&root, rustix::ioctl::Setter::<FS_IOC_SHUTDOWN, u32>::new(WITHOUT_LOG))
        };
        shut.expect("the file system shuts down");
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // At the end of a failed test too.
        let _ = Command::new("umount").arg(&self.mount).output();
    }
}

fn power_losses(kind: &str, losses: u32) {
    if !rustix::process::geteuid().is_root() {
        println!("only root can mount file systems");
        return;
    }
    let (dir, mut moments, mut total) = (TempDir::new().unwrap(), seed(), 0);
    let disk = LoopDisk::new(dir.path(), kind);
    for _ in 0..losses {
        let (told, acknowledged) = channel();
        let directory = disk.mount.clone();
        let applying = std::thread::spawn(move || apply(&directory, |batch| told.send(batch).is_ok()));
        let first = acknowledged.recv_timeout(Duration::from_secs(20)).expect("it applies");
        std::thread::sleep(Duration::from_micros(dice(&mut moments) % 200_000));
        disk.lose_power();
        let stopped = applying.join().expect("it does not panic");
        assert!(stopped.is_err(), "without a disk nothing is acknowledged");
        let last = acknowledged.try_iter().last().unwrap_or(first);
        disk.unmount();
        disk.mount();
        total = judge(&disk.mount, last);
    }
    println!("{total} batches over {losses} power losses on {kind}");
}

#[test]
fn a_standby_without_power_has_whole_files_and_everything_it_acknowledged_on_xfs() {
    power_losses("xfs", 3);
}

#[test]
fn a_standby_without_power_has_whole_files_and_everything_it_acknowledged_on_ext4() {
    power_losses("ext4", 3);
}

#[test]
#[ignore = "LOCKSTEP_RUNS / 2 power losses on each file system"]
fn long_a_standby_without_power_has_whole_files_and_everything_it_acknowledged() {
    power_losses("xfs", runs().div_ceil(2));
    power_losses("ext4", runs().div_ceil(2));
}
