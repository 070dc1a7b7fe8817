//! Databases of every kind that `adopt` meets, on real files and with a real other process.

use super::super::tests::lockstep;
use super::{Exit, facts::Facts, journal};
use rusqlite::Connection;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

fn database(dir: &Path, statements: &str) -> std::path::PathBuf {
    let path = dir.join("My Orders.db");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(statements).unwrap();
    path
}

const ROLLBACK: &str = "CREATE TABLE t(v); INSERT INTO t VALUES (1)";
const WAL: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(v); INSERT INTO t VALUES (1)";

fn run(dir: &Path, path: &Path, options: &str) -> Exit {
    let link = dir.join("link.db");
    let _ = std::fs::remove_file(&link);
    // The words of a test's command line are parted by spaces, and the database's name has one.
    std::os::unix::fs::symlink(path, &link).unwrap();
    lockstep(dir, format!("adopt {} {options}", link.display()).trim_end())
}

/// A program that has a file open until it is ended.
struct Holder(Child);

impl Holder {
    fn of(path: &Path) -> Self {
        let mut child = Command::new("/bin/sh")
            .args(["-c", "exec 3<>\"$0\"; echo open; read line"])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "open\n");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_database_in_wal_mode_may_join_at_once_and_its_section_is_printed() {
    let dir = TempDir::new().unwrap();
    let path = database(dir.path(), WAL);
    let facts = Facts::gather(&path, dir.path());
    assert!(facts.refusal.is_none() && !facts.switch_needed && facts.open_by.is_empty());
    let header = facts.header.unwrap();
    assert_eq!((header.journal_mode, header.page_size), ("WAL", 4096));
    assert_eq!(header.sqlite_version, rusqlite::version());
    let section = facts.section.unwrap();
    assert!(
        section.contains("name = \"my-orders\"") && section.contains(&path.display().to_string()),
        "{section}"
    );
    assert!(toml::from_str::<toml::Table>(&section).is_ok(), "{section}");
    assert!(facts.free_bytes.is_some() && facts.state_free_bytes.is_some());
    assert_eq!(run(dir.path(), &path, ""), Exit::Done);
    assert_eq!(run(dir.path(), &path, "--json"), Exit::Done);
}

#[test]
fn what_can_never_be_followed_is_refused_with_the_reason() {
    let dir = TempDir::new().unwrap();
    let refusal = |path: &Path| {
        assert_eq!(run(dir.path(), path, ""), Exit::Refused, "{}", path.display());
        assert_eq!(run(dir.path(), path, "--switch-to-wal"), Exit::Refused, "{}", path.display());
        Facts::gather(path, dir.path()).refusal.unwrap()
    };
    let at = |name: &str| dir.path().join(name);
    assert!(refusal(&at("missing.db")).contains("does not exist"));
    std::fs::write(at("encrypted.db"), [7; 4096]).unwrap();
    assert!(refusal(&at("encrypted.db")).contains("encrypted databases are not supported"));
    let path = database(dir.path(), WAL);
    let mut bytes = std::fs::read(&path).unwrap();
    (bytes[18], bytes[19]) = (3, 3);
    std::fs::write(at("wal2.db"), bytes).unwrap();
    assert!(refusal(&at("wal2.db")).contains("wal2"));
    std::fs::hard_link(&path, at("second.db")).unwrap();
    assert!(refusal(&path).contains("hard links"));
}

#[test]
fn a_database_in_rollback_mode_is_switched_when_nobody_has_it_open() {
    let dir = TempDir::new().unwrap();
    let path = database(dir.path(), ROLLBACK);
    let before = std::fs::read(&path).unwrap();
    assert_eq!(run(dir.path(), &path, ""), Exit::Refused);
    assert_eq!(std::fs::read(&path).unwrap(), before, "looking changes nothing");
    let holder = Holder::of(&path);
    let facts = Facts::gather(&path, dir.path());
    assert_eq!((facts.open_by[0].pid, facts.switch_needed), (holder.0.id(), true));
    let refused = journal::switch(&path, journal::Mode::Wal).unwrap_err().to_string();
    assert!(refused.contains(&format!("process {}", holder.0.id())), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    drop(holder);
    assert_eq!(run(dir.path(), &path, "--switch-to-wal"), Exit::Done);
    assert!(!Facts::gather(&path, dir.path()).switch_needed);
    assert_eq!(run(dir.path(), &path, "--switch-to-wal --json"), Exit::Done, "it is in WAL mode already");
}

#[test]
fn a_database_that_is_locked_by_this_very_process_is_not_switched() {
    let dir = TempDir::new().unwrap();
    let path = database(dir.path(), ROLLBACK);
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("BEGIN; SELECT * FROM t").unwrap();
    let refused = journal::switch(&path, journal::Mode::Wal).unwrap_err().to_string();
    assert!(refused.contains("locked by another program"), "{refused}");
}

#[test]
fn a_database_leaves_with_nothing_beside_it() {
    let dir = TempDir::new().unwrap();
    let path = database(dir.path(), WAL);
    assert_eq!(run(dir.path(), &path, "--leave"), Exit::Done);
    assert!(!Facts::gather(&path, dir.path()).switch_needed, "it stays as it is unless asked");
    let holder = Holder::of(&path);
    assert_eq!(run(dir.path(), &path, "--leave --rollback-journal"), Exit::Refused);
    drop(holder);
    assert_eq!(run(dir.path(), &path, "--leave --rollback-journal --json"), Exit::Done);
    assert!(Facts::gather(&path, dir.path()).switch_needed);
    let beside: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(beside.len(), 2, "the database and the test's link: {beside:?}");
}
