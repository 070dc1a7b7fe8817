//! From a crash image to a database, by the real code: the image becomes real files, the mirror is opened
//! and taken over, stock SQLite reads it.
//!
//! It says what it found; whether that is right is `history`'s.

use std::path::{Path, PathBuf};

use lockstep_engine::copy::quarantine;
use lockstep_engine::mirror::{Mirror, MirrorConfig};
use lockstep_engine::storage::{Backend, BlockingDisk, SimulatedDisk};
use rusqlite::Connection;
use std::os::unix::fs::MetadataExt;
use xxhash_rust::xxh3::xxh3_64;

use crate::harness::invariants;
use crate::source::{Contents, contents, folder_in_memory};

/// Where simulated disks have the database.
pub(crate) const DATABASE: &str = "/simulated/data/app.db";
/// And the state of its mirror.
pub(crate) const MIRROR_STATE: &str = "/simulated/agent/mirror/app";
/// And the agent's own.
pub(crate) const AGENT_STATE: &str = "/simulated/agent";

/// What a node would say of its database after the crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// A mirror that may be promoted.
    Complete,
    /// A mirror that needs a copy first, or nothing.
    Incomplete,
    /// A database that this node wrote itself.
    Own,
}

/// What was found.
#[derive(Debug, Clone)]
pub(crate) struct Recovered {
    pub(crate) standing: Standing,
    /// What stock SQLite reads; None where nothing may be opened.
    pub(crate) contents: Option<Contents>,
    /// What the databases in quarantine hold.
    pub(crate) kept: Vec<Contents>,
}

/// The mirror's configuration with everything below `root`.
pub(crate) fn config_below(root: &Path) -> MirrorConfig {
    let below = |path: &str| root.join(path.trim_start_matches('/'));
    MirrorConfig { zero_ahead_bytes: 4096, ..MirrorConfig::new(below(DATABASE), below(MIRROR_STATE)) }
}

/// Starts a node on the image.
pub(crate) async fn recover(image: &SimulatedDisk) -> Result<Recovered, String> {
    let dir = folder_in_memory();
    materialise(image, dir.path());
    let config = config_below(dir.path());
    let disk = Backend::Blocking(BlockingDisk { inline: true });
    let mirror = Mirror::open(disk.clone(), config).await.map_err(|error| format!("open: {error}"))?;
    let standing = match () {
        () if mirror.is_complete() => Standing::Complete,
        () if mirror.is_diverged() => Standing::Own,
        () => Standing::Incomplete,
    };
    let contents = if standing == Standing::Incomplete {
        None
    } else {
        let taken = mirror.take_over().await.map_err(|error| format!("takeover: {error}"))?;
        Some(checked(&taken.connection)?)
    };
    let agent = dir.path().join(AGENT_STATE.trim_start_matches('/'));
    let listed = quarantine::list(&disk, &agent).await.map_err(|error| format!("quarantine: {error}"))?;
    let mut kept = Vec::new();
    if let Some(damaged) = listed.incomplete.iter().find(|one| one.damaged) {
        return Err(format!("quarantine: {} is damaged", damaged.directory.display()));
    }
    for one in listed.kept {
        let opened = Connection::open(one.directory.join("database"));
        let connection = opened.map_err(|error| format!("quarantine: {error}"))?;
        kept.push(checked(&connection).map_err(|why| format!("quarantine: {why}"))?);
    }
    Ok(Recovered { standing, contents, kept })
}

fn checked(connection: &Connection) -> Result<Contents, String> {
    invariants::is_sound(connection)?;
    let contents = contents(connection)?;
    invariants::is_a_committed_prefix(&contents.commits)?;
    Ok(contents)
}

/// Writes an image's files below `root`.
fn materialise(image: &SimulatedDisk, root: &Path) {
    let target = |path: &Path| root.join(path.strip_prefix("/").expect("simulated paths are absolute"));
    std::fs::create_dir_all(target(Path::new(DATABASE)).parent().expect("a folder")).expect("its folder");
    for path in image.paths() {
        let target = target(&path);
        std::fs::create_dir_all(target.parent().expect("a folder")).expect("its folder");
        std::fs::write(&target, image.contents(&path).expect("a path of the image")).expect("its file");
    }
    let simulated = config_below(Path::new("/"));
    let inode = image.inode(&simulated.wal());
    let file = target(&PathBuf::from(MIRROR_STATE).join("mirror.state"));
    if let Ok(text) = std::fs::read_to_string(&file)
        && let Some(text) = with_real_inode(&text, inode, std::fs::metadata(target(&simulated.wal())).ok())
    {
        std::fs::write(file, text).expect("the state file");
    }
}

/// The state file names the WAL by its inode, which is another one in the real files. A damaged file stays so.
fn with_real_inode(text: &str, simulated: Option<u64>, real: Option<std::fs::Metadata>) -> Option<String> {
    let (body, check) = text.rsplit_once("check ")?;
    if check.trim_end() != format!("{:016x}", xxh3_64(body.as_bytes())) {
        return None;
    }
    let (before, rest) = body.split_once("wal_inode ")?;
    let (named, after) = rest.split_once('\n')?;
    let same = simulated.is_some() && named.parse().ok() == simulated;
    let inode = real.filter(|_| same).map_or(u64::MAX, |file| file.ino());
    let body = format!("{before}wal_inode {inode}\n{after}");
    let check = xxh3_64(body.as_bytes());
    Some(format!("{body}check {check:016x}\n"))
}
