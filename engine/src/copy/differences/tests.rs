//! Two small databases, and everything that can differ between them.

use super::*;
use tempfile::TempDir;

fn databases(here: &str, there: &str) -> (TempDir, Differences) {
    let dir = TempDir::new().unwrap();
    for (name, sql) in [("here.db", here), ("there.db", there)] {
        Connection::open(dir.path().join(name)).unwrap().execute_batch(sql).unwrap();
    }
    let differences = Differences::open(&dir.path().join("here.db"), &dir.path().join("there.db")).unwrap();
    (dir, differences)
}

fn table<'a>(tables: &'a [Table], name: &str) -> &'a Table {
    tables.iter().find(|table| table.name == name).unwrap()
}

fn rows(differences: &Differences, table: &Table, change: Change) -> Vec<String> {
    let mut found = Vec::new();
    let look = |row: &Difference<'_>| -> rusqlite::Result<()> {
        let values = (0..table.columns.len()).map(|at| literal(row.value(at).unwrap()));
        found.push(values.collect::<Vec<_>>().join("|"));
        Ok(())
    };
    differences.rows(table, change, 100, look).unwrap();
    found
}

#[test]
fn rows_are_matched_by_their_key_and_compared_as_stored() {
    let (_dir, differences) = databases(
        "CREATE TABLE n(id INTEGER PRIMARY KEY, v);
         INSERT INTO n VALUES (1, 'same'), (2, 'new'), (3, 1), (5, NULL), (7, 'a');
         CREATE TABLE u(\"a \"\"b\" TEXT NOT NULL UNIQUE COLLATE NOCASE, w TEXT COLLATE NOCASE);
         INSERT INTO u VALUES ('x', 'Case'), ('y', '1');
         CREATE TABLE w(a, b, v, PRIMARY KEY (a, b)) WITHOUT ROWID; INSERT INTO w VALUES (1, 2, 3), (1, 3, 4);",
        "CREATE TABLE n(id INTEGER PRIMARY KEY, v);
         INSERT INTO n VALUES (1, 'same'), (2, 'old'), (3, 1.0), (4, 'gone'), (5, NULL), (7, x'61');
         CREATE TABLE u(\"a \"\"b\" TEXT NOT NULL UNIQUE COLLATE NOCASE, w TEXT COLLATE NOCASE);
         INSERT INTO u VALUES ('x', 'case');
         CREATE TABLE w(a, b, v, PRIMARY KEY (a, b)) WITHOUT ROWID; INSERT INTO w VALUES (1, 2, 3);",
    );
    let tables = differences.tables().unwrap();
    let n = table(&tables, "n");
    let counts = Counts { here: 5, there: 6, only_here: 0, changed: 3, only_there: 1 };
    assert_eq!(differences.count(n).unwrap(), counts);
    assert_eq!(rows(&differences, n, Change::Changed), ["2|'new'", "3|1", "7|'a'"]);
    assert_eq!(rows(&differences, n, Change::OnlyThere), ["4|'gone'"]);
    let u = table(&tables, "u");
    assert_eq!(u.comparison, Comparison::Keyed(vec![0]));
    assert_eq!(rows(&differences, u, Change::Changed), ["'x'|'Case'"]);
    assert_eq!(rows(&differences, u, Change::OnlyHere), ["'y'|'1'"]);
    assert_eq!(rows(&differences, table(&tables, "w"), Change::OnlyHere), ["1|3|4"]);
    assert!(differences.schema().unwrap().is_empty());
}

#[test]
fn a_table_without_a_key_is_counted_and_what_only_one_has_is_said() {
    let (_dir, differences) = databases(
        "CREATE TABLE bag(v); INSERT INTO bag VALUES (1), (1), (2);
         CREATE TABLE nulls(k TEXT PRIMARY KEY, v); INSERT INTO nulls VALUES (NULL, 1);
         CREATE TABLE alone(v); INSERT INTO alone VALUES (9);
         CREATE TABLE shape(a, b); CREATE VIEW look AS SELECT 1; PRAGMA user_version = 3;",
        "CREATE TABLE bag(v); INSERT INTO bag VALUES (1), (3), (4);
         CREATE TABLE nulls(k TEXT PRIMARY KEY, v); INSERT INTO nulls VALUES (NULL, 1);
         CREATE TABLE shape(a); INSERT INTO shape VALUES (1); CREATE TABLE other(v);",
    );
    let tables = differences.tables().unwrap();
    let bag = table(&tables, "bag");
    assert_eq!(bag.comparison, Comparison::CountedOnly);
    let counts = Counts { here: 3, there: 3, only_here: 1, changed: 0, only_there: 2 };
    assert_eq!(differences.count(bag).unwrap(), counts);
    assert_eq!(table(&tables, "nulls").comparison, Comparison::CountedOnly);
    assert_eq!(table(&tables, "shape").comparison, Comparison::OtherColumns);
    assert_eq!(rows(&differences, table(&tables, "alone"), Change::OnlyHere), ["9"]);
    assert_eq!(table(&tables, "other").comparison, Comparison::OnlyThere);
    let schema = differences.schema().unwrap().into_iter();
    let named: Vec<(String, bool, bool)> =
        schema.map(|d| (d.name, d.here.is_some(), d.there.is_some())).collect();
    let expected = [("user_version", true, true), ("alone", true, false), ("other", false, true)];
    let rest = [("shape", true, true), ("look", true, false)];
    let expected: Vec<_> = expected.iter().chain(&rest).map(|(n, h, t)| ((*n).to_owned(), *h, *t)).collect();
    assert_eq!(named, expected);
}

#[test]
fn the_script_makes_the_other_database_equal_and_never_replaces_a_row() {
    let (dir, differences) = databases(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE \"odd; name\"(x);
         INSERT INTO t VALUES (1, 'it''s'), (2, x'00ff'), (3, 1e308 * 10), (4, 'a' || char(0) || 'b'), (5, 0.1);
         INSERT INTO \"odd; name\" VALUES ('new');",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'old'), (9, 'gone');",
    );
    let mut script = Vec::new();
    write_script(&differences, true, &mut script).unwrap();
    let script = String::from_utf8(script).unwrap();
    drop(differences);
    let there = Connection::open(dir.path().join("there.db")).unwrap();
    there.execute_batch(&script).unwrap();
    let differences = Differences::open(&dir.path().join("here.db"), &dir.path().join("there.db")).unwrap();
    for table in differences.tables().unwrap() {
        let counts = differences.count(&table).unwrap();
        assert_eq!((counts.only_here, counts.changed, counts.only_there), (0, 0, 0), "{}", table.name);
    }
    assert!(there.execute_batch(&script).is_err(), "the rows are there now");
}
