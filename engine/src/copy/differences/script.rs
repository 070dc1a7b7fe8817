//! The differences as an SQL script that would bring rows of one database into the other.
//!
//! Every statement fails, instead of replacing anything, where the other database meanwhile has a
//! row with the same key: which one is right is the operator's to say.

use super::{Change, Comparison, Differences, Table, tables::quoted};
use rusqlite::types::ValueRef;
use std::io::{self, Write};

/// Why no script was written.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// The database.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// The script.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A value as SQL writes it.
pub fn literal(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) if number == f64::INFINITY => "9e999".to_owned(),
        ValueRef::Real(number) if number == f64::NEG_INFINITY => "-9e999".to_owned(),
        ValueRef::Real(number) => format!("{number:?}"),
        ValueRef::Blob(bytes) => format!("X'{}'", hexadecimal(bytes)),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            // A literal ends at a NUL.
            Ok(text) if !text.contains('\0') => format!("'{}'", text.replace('\'', "''")),
            _ => format!("CAST(X'{}' AS TEXT)", hexadecimal(bytes)),
        },
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Writes the statements that bring what is only here, or changed here, into the other database; with
/// `deletions` also those that remove what is only there.
///
/// # Errors
/// As SQLite or the writer says.
pub fn write_script(
    differences: &Differences,
    deletions: bool,
    script: &mut impl Write,
) -> Result<(), ScriptError> {
    writeln!(
        script,
        "-- Run with `sqlite3 -bail`: a row that is there already stops it and nothing is changed."
    )?;
    writeln!(script, "BEGIN IMMEDIATE;")?;
    for difference in differences.schema()? {
        let (kind, name) = (&difference.kind, difference.name.replace(['\n', '\r'], " "));
        match (&difference.here, &difference.there) {
            (Some(here), None) if kind == "table" => writeln!(script, "{here};")?,
            (Some(_), Some(_)) => writeln!(script, "-- {kind} {name} is defined differently")?,
            (Some(_), None) => writeln!(script, "-- {kind} {name} is not in the other database")?,
            (None, _) => writeln!(script, "-- {kind} {name} is only in the other database")?,
        }
    }
    for table in differences.tables()? {
        let name = table.name.replace(['\n', '\r'], " ");
        match table.comparison {
            Comparison::CountedOnly => writeln!(script, "-- table {name} has no key and was left out")?,
            Comparison::OtherColumns => {
                writeln!(script, "-- table {name} has other columns and was left out")?;
            }
            _ => statements(differences, &table, deletions, script)?,
        }
    }
    writeln!(script, "COMMIT;")?;
    Ok(())
}

fn statements(
    differences: &Differences,
    table: &Table,
    deletions: bool,
    script: &mut impl Write,
) -> Result<(), ScriptError> {
    let name = quoted(&table.name);
    let columns: Vec<String> = table.columns.iter().map(|column| quoted(column)).collect();
    let key = match &table.comparison {
        Comparison::Keyed(key) => key.as_slice(),
        _ => &[],
    };
    let every = u64::MAX;
    differences.rows::<ScriptError>(table, Change::OnlyHere, every, |row| {
        let values = (0..columns.len()).map(|at| Ok(literal(row.value(at)?)));
        let values = values.collect::<rusqlite::Result<Vec<_>>>()?.join(", ");
        Ok(writeln!(script, "INSERT INTO {name} ({}) VALUES ({values});", columns.join(", "))?)
    })?;
    differences.rows::<ScriptError>(table, Change::Changed, every, |row| {
        let mut changes = Vec::new();
        for (at, column) in columns.iter().enumerate() {
            if row.other(at)?.is_some() {
                changes.push(format!("{column} = {}", literal(row.value(at)?)));
            }
        }
        let which = matching(row, &columns, key)?;
        Ok(writeln!(script, "UPDATE {name} SET {} WHERE {which};", changes.join(", "))?)
    })?;
    if deletions && !key.is_empty() {
        differences.rows::<ScriptError>(table, Change::OnlyThere, every, |row| {
            Ok(writeln!(script, "DELETE FROM {name} WHERE {};", matching(row, &columns, key)?)?)
        })?;
    }
    Ok(())
}

fn matching(row: &super::Difference<'_>, columns: &[String], key: &[usize]) -> rusqlite::Result<String> {
    let parts = key.iter().map(|&at| Ok(format!("{} = {}", columns[at], literal(row.value(at)?))));
    Ok(parts.collect::<rusqlite::Result<Vec<_>>>()?.join(" AND "))
}
