//! What `adopt` found out: the database, its file, its disk, and who has it open.

use lockstep_engine::capture::{self, DatabaseHeader};
use lockstep_wire::DatabaseName;
use serde::Serialize;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Version of the JSON form.
const SCHEMA: u32 = 1;

/// A copy of the database may go to quarantine, and the WAL may grow: less room than this many times it is short.
const ROOM_FACTOR: u64 = 2;

#[derive(Debug, Serialize)]
pub(super) struct Facts {
    pub(super) schema: u32,
    /// As SQLite resolves it.
    pub(super) path: PathBuf,
    /// Why it can never join as it is, with the remedy.
    pub(super) refusal: Option<String>,
    /// What its header says; null when it is refused.
    pub(super) header: Option<Header>,
    pub(super) bytes: u64,
    pub(super) user: u32,
    pub(super) group: u32,
    pub(super) mode: String,
    /// Free on its file system; null: unknown.
    pub(super) free_bytes: Option<u64>,
    pub(super) state_dir: PathBuf,
    /// Free where the agent keeps its state; null: unknown.
    pub(super) state_free_bytes: Option<u64>,
    pub(super) open_by: Vec<OpenBy>,
    /// Processes whose files this user may not see.
    pub(super) unseen_processes: u32,
    /// It must be put into WAL mode first.
    pub(super) switch_needed: bool,
    /// How long the application must be stopped, in words; null when it is refused.
    pub(super) downtime: Option<&'static str>,
    pub(super) warnings: Vec<String>,
    /// For the configuration; null when it is refused.
    pub(super) section: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Header {
    pub(super) page_size: u32,
    /// `WAL` or `rollback`.
    pub(super) journal_mode: &'static str,
    /// Of the library that wrote it last.
    pub(super) sqlite_version: String,
}

#[derive(Debug, Serialize)]
pub(super) struct OpenBy {
    pub(super) pid: u32,
    pub(super) command: String,
}

impl Facts {
    pub(super) fn gather(database: &Path, state_dir: &Path) -> Self {
        let (path, header, refusal) = match capture::examine(database) {
            Ok((path, header)) => (path, Some(header), None),
            Err(error) => {
                let path = fs::canonicalize(database).unwrap_or_else(|_| database.to_owned());
                (path, None, Some(error.to_string()))
            }
        };
        let metadata = fs::metadata(&path).ok();
        let of = |number: fn(&fs::Metadata) -> u32| metadata.as_ref().map_or(0, number);
        let (open_by, unseen_processes) = open_by(&path);
        let switch_needed = header.is_some_and(|header| !header.wal);
        let bytes = metadata.as_ref().map_or(0, fs::Metadata::len);
        let free_bytes = path.parent().and_then(free);
        let state_free_bytes = state_dir.ancestors().find(|directory| directory.is_dir()).and_then(free);
        let downtime = header.map(|_| downtime(switch_needed));
        let mut warnings = Vec::new();
        warnings.extend(header.and_then(|header| capture::sqlite_warning(header.sqlite_version)));
        let short = |free: Option<u64>| free.is_some_and(|free| free < bytes.saturating_mul(ROOM_FACTOR));
        if short(free_bytes) || short(state_free_bytes) {
            let wanted = crate::status::bytes(bytes.saturating_mul(ROOM_FACTOR));
            warnings.push(format!("little room: keep {wanted} free for the WAL and for a quarantine"));
        }
        Self {
            schema: SCHEMA,
            section: header.map(|_| section(&path)),
            header: header.map(Header::from),
            path,
            refusal,
            bytes,
            user: of(MetadataExt::uid),
            group: of(MetadataExt::gid),
            mode: format!("{:04o}", of(MetadataExt::mode) & 0o7777),
            free_bytes,
            state_dir: state_dir.to_owned(),
            state_free_bytes,
            open_by,
            unseen_processes,
            switch_needed,
            downtime,
            warnings,
        }
    }
}

impl From<DatabaseHeader> for Header {
    fn from(header: DatabaseHeader) -> Self {
        let version = header.sqlite_version;
        let (major, minor, patch) = (version / 1_000_000, version / 1000 % 1000, version % 1000);
        Self {
            page_size: header.page_size,
            journal_mode: if header.wal { "WAL" } else { "rollback" },
            sqlite_version: format!("{major}.{minor}.{patch}"),
        }
    }
}

fn downtime(switch_needed: bool) -> &'static str {
    if switch_needed {
        "the application stops for the switch to WAL, which takes a moment whatever the size; then none"
    } else {
        "none: it is copied while the application writes"
    }
}

/// Who has it open, and how many processes could not be looked at.
pub(super) fn open_by(path: &Path) -> (Vec<OpenBy>, u32) {
    let openers = capture::openers(path);
    let named = openers.found.into_iter().map(|opener| {
        let command = fs::read_to_string(format!("/proc/{}/comm", opener.pid)).unwrap_or_default();
        OpenBy { pid: opener.pid, command: command.trim_end().to_owned() }
    });
    (named.collect(), openers.unseen)
}

fn free(directory: &Path) -> Option<u64> {
    let room = rustix::fs::statvfs(directory).ok()?;
    room.f_bavail.checked_mul(room.f_frsize)
}

/// `[[pair.database]]` for this file; the name is the file's as far as names allow.
fn section(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let plain: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let plain = plain.trim_matches('-');
    let name = plain.parse::<DatabaseName>().map_or_else(|_| "main".to_owned(), |name| name.to_string());
    let primary = toml::Value::String(path.display().to_string());
    format!(
        "[[pair.database]]\nname = \"{name}\"\nprimary = {primary}\n# secondary = where it lies on the other node, if elsewhere\n"
    )
}
