//! Kept data made by a mirror as on a real node, looked at through the verbs.

use super::super::tests::lockstep;
use super::{entry, list, show};
use crate::{cli::Exit, config::Paths};
use lockstep_engine::copy::quarantine::{KeepReason, Kept, Quarantine, Why};
use lockstep_engine::mirror::{Mirror, MirrorConfig};
use lockstep_engine::storage::{Backend, BlockingDisk};
use lockstep_wire::{Epoch, NodeId};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const EPOCH: Epoch = Epoch { counter: 3, node: NodeId(0x0011_2233_aabb_ccdd) };

fn paths(dir: &Path) -> Paths {
    Paths { config: dir.join("lockstep.toml"), state_dir: dir.join("state"), runtime_dir: dir.to_owned() }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

async fn mirror_of(database: &Path, state: &Path) -> Mirror {
    let disk = Backend::Blocking(BlockingDisk { inline: true });
    Mirror::open(disk, MirrorConfig::new(database, state)).await.unwrap()
}

/// The files of a database as they are now, while somebody has it open.
fn copy(database: &Path, to: &Path) {
    for suffix in ["", "-wal"] {
        let name = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
        std::fs::copy(name(database), name(to)).unwrap();
    }
}

/// A former active's database: committed `before` the fork, then `after` it; then it is kept.
fn keep(dir: &Path, before: &str, after: &str) -> Kept {
    let (live, forked, last) = (dir.join("live.db"), dir.join("forked.db"), dir.join("last.db"));
    let connection = Connection::open(&live).unwrap();
    connection.execute_batch("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0").unwrap();
    connection.execute_batch(before).unwrap();
    copy(&live, &forked);
    connection.execute_batch(after).unwrap();
    copy(&live, &last);
    block_on(async {
        let fork = mirror_of(&forked, &dir.join("forked")).await.point();
        let quarantine = Quarantine {
            pair: "shop".parse().unwrap(),
            state_dir: dir.join("state/shop"),
            limit_bytes: 1 << 30,
        };
        let database = "orders".parse().unwrap();
        let reason = KeepReason { epoch: EPOCH, database, why: Why::Diverged, fork: Some(fork) };
        mirror_of(&last, &dir.join("last")).await.quarantine(&quarantine, reason).await.unwrap()
    })
}

/// What `show --json` gathers.
fn report(dir: &Path, against: Option<&Path>) -> serde_json::Value {
    let (kept, work) = (entry::find(&paths(dir), "orders").unwrap(), TempDir::new().unwrap());
    let kept = kept.kept().unwrap();
    let opened = show::open(kept, against, &paths(dir), work.path()).unwrap();
    serde_json::to_value(show::report("orders", kept, &opened, 100).unwrap()).unwrap()
}

const SHOP: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1,'a'),(2,'b'),(3,'c')";
const LATER: &str =
    "INSERT INTO t VALUES (4,'new'); UPDATE t SET v='changed' WHERE id=2; DELETE FROM t WHERE id=3";

#[test]
fn what_is_kept_is_listed_per_pair_and_epoch_and_what_has_no_manifest_is_incomplete() {
    let dir = TempDir::new().unwrap();
    assert_eq!(lockstep(dir.path(), "quarantine list"), Exit::Done, "none is fine");
    let kept = keep(dir.path(), SHOP, LATER);
    let torn = dir.path().join("state/shop/quarantine/00000000000000000003-00112233aabbccdd/torn");
    std::fs::create_dir_all(&torn).unwrap();
    std::fs::write(torn.join("database"), [0; 4096]).unwrap();
    let found = list::epochs(&paths(dir.path())).unwrap();
    assert_eq!((found.len(), found[0].files, found[0].databases.len()), (1, 4, 2));
    let [orders, other] = &found[0].databases[..] else { panic!("{found:?}") };
    assert_eq!(orders.name, "shop/00000000000000000003-00112233aabbccdd/orders");
    assert_eq!((orders.complete, &orders.path), (true, &kept.directory));
    assert!(orders.fork.is_some() && !other.complete && other.fork.is_none());
    for line in ["quarantine list", "quarantine list --json"] {
        assert_eq!(lockstep(dir.path(), line), Exit::Done);
    }
    assert_eq!(lockstep(dir.path(), "quarantine show torn"), Exit::Failed);
    assert_eq!(lockstep(dir.path(), "quarantine show nothing"), Exit::Usage);
}

#[test]
fn exactly_the_rows_that_differ_from_the_fork_are_shown() {
    let dir = TempDir::new().unwrap();
    keep(dir.path(), SHOP, LATER);
    let report = report(dir.path(), None);
    assert_eq!(report["compared_with"]["kind"], "fork");
    let table = &report["tables"][0];
    let rows = serde_json::json!([
        { "change": "only_kept", "values": [4, "new"], "other": null },
        { "change": "changed", "values": [2, "changed"], "other": [{ "column": "v", "value": "b" }] },
        { "change": "only_other", "values": [3, "c"], "other": null },
    ]);
    assert_eq!(table["rows"], rows);
    let counts = ["rows_kept", "rows_other", "only_kept", "changed", "only_other"];
    assert_eq!(counts.map(|name| table[name].as_u64().unwrap()), [3, 3, 1, 1, 1]);
    for line in ["quarantine show orders", "quarantine show orders --json --limit 1"] {
        assert_eq!(lockstep(dir.path(), line), Exit::Done);
    }
}

#[test]
fn a_fork_that_a_checkpoint_overwrote_is_not_made_up() {
    let dir = TempDir::new().unwrap();
    keep(
        dir.path(),
        SHOP,
        &format!("PRAGMA wal_checkpoint(PASSIVE); {LATER}; PRAGMA wal_checkpoint(PASSIVE)"),
    );
    let present = dir.path().join("present.db");
    let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1,'a'),(9,'theirs')";
    Connection::open(&present).unwrap().execute_batch(sql).unwrap();
    let kept = entry::find(&paths(dir.path()), "orders").unwrap();
    let error = show::open(kept.kept().unwrap(), None, &paths(dir.path()), dir.path()).err().unwrap();
    assert!(format!("{error:#}").contains("--against"), "no agent, no configuration: {error:#}");
    let report = report(dir.path(), Some(&present));
    assert_eq!(report["compared_with"]["kind"], "file");
    let shown: Vec<String> =
        report["tables"][0]["rows"].as_array().unwrap().iter().map(|row| row["values"].to_string()).collect();
    assert_eq!(shown, [r#"[2,"changed"]"#, r#"[4,"new"]"#], "what came later elsewhere is not shown");
    assert_eq!(report["tables"][0]["only_other"], 1);
}

#[test]
fn looking_at_kept_data_changes_none_of_it_and_a_changed_file_is_refused() {
    let dir = TempDir::new().unwrap();
    let kept = keep(dir.path(), SHOP, LATER);
    let files = || {
        let entries = std::fs::read_dir(&kept.directory).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
        files.sort();
        files
    };
    let before = files();
    assert_eq!(lockstep(dir.path(), "quarantine show orders"), Exit::Done);
    assert_eq!(files(), before);
    let mut wal = std::fs::read(kept.directory.join("database-wal")).unwrap();
    *wal.last_mut().unwrap() ^= 1;
    std::fs::write(kept.directory.join("database-wal"), wal).unwrap();
    assert_eq!(lockstep(dir.path(), "quarantine show orders"), Exit::Failed);
}

#[test]
fn an_export_is_a_sound_database_and_its_script_brings_the_rows_back() {
    let dir = TempDir::new().unwrap();
    keep(dir.path(), SHOP, LATER);
    let (file, sql) = (dir.path().join("kept.db"), dir.path().join("kept.sql"));
    let line = format!("quarantine export orders {} --sql {}", file.display(), sql.display());
    assert_eq!(lockstep(dir.path(), &line), Exit::Done);
    assert_eq!(lockstep(dir.path(), &line), Exit::Refused, "it replaces nothing");
    let rows = |connection: &Connection| -> Vec<String> {
        let mut statement = connection.prepare("SELECT id || v FROM t ORDER BY id").unwrap();
        statement.query_map((), |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    let exported = Connection::open(&file).unwrap();
    assert_eq!(rows(&exported), ["1a", "2changed", "4new"]);
    let mode: String = exported.query_row("PRAGMA journal_mode", (), |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete", "one file is all of it");
    let other = Connection::open_in_memory().unwrap();
    other.execute_batch(SHOP).unwrap();
    other.execute_batch(&std::fs::read_to_string(&sql).unwrap()).unwrap();
    assert_eq!(rows(&other), rows(&exported));
    let folder = TempDir::new().unwrap();
    let line = format!("quarantine export orders {} --json", folder.path().display());
    assert_eq!(lockstep(dir.path(), &line), Exit::Done);
    assert!(folder.path().join("shop-orders-00000000000000000003-00112233aabbccdd.db").exists());
}

#[test]
fn only_a_confirmed_discard_removes_and_it_is_an_event() {
    let dir = TempDir::new().unwrap();
    let kept = keep(dir.path(), SHOP, LATER);
    assert_eq!(lockstep(dir.path(), "quarantine discard orders"), Exit::Refused);
    assert!(kept.directory.join("manifest.json").exists());
    assert_eq!(lockstep(dir.path(), "quarantine discard orders --yes"), Exit::Done);
    assert!(!kept.directory.exists() && entry::all(&paths(dir.path())).unwrap().is_empty());
    let log = crate::events::EventLog::open(&dir.path().join("state/shop/events.db")).unwrap();
    assert_eq!(log.recent().last().unwrap().kind, "quarantine.discarded");
}
