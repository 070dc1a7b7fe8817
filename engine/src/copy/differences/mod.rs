//! Row-level differences of two ordinary databases: what one has that the other lacks.
//!
//! For people who must decide what to carry over from a quarantine. Works on copies that nobody
//! writes, through SQLite only. Rows are matched by a key (see tables.rs); a table without one is only
//! counted. Values are compared as stored: by type and byte, whatever collation the table has.

mod script;
mod tables;

pub use script::{ScriptError, literal, write_script};
pub use tables::{Comparison, Table};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row};
use std::path::Path;
use tables::quoted;

/// The name under which the database to compare with is attached.
const BASE: &str = "base";

/// Two databases, open for comparison.
#[derive(Debug)]
pub struct Differences {
    connection: Connection,
}

/// What is not a row: tables, indexes, views, triggers, versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaDifference {
    /// `table`, `index`, `view`, `trigger`, or `pragma`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// How it is made here; none: only the other database has it.
    pub here: Option<String>,
    /// How it is made there; none: only this database has it.
    pub there: Option<String>,
}

/// How a row differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Only this database has it.
    OnlyHere,
    /// Both have it, with other values.
    Changed,
    /// Only the other database has it.
    OnlyThere,
}

/// Numbers of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// In this database.
    pub here: u64,
    /// In the other one.
    pub there: u64,
    /// Only here; without a key: distinct rows only here.
    pub only_here: u64,
    /// In both, with other values; 0 without a key.
    pub changed: u64,
    /// Only there; without a key: distinct rows only there.
    pub only_there: u64,
}

/// One row that differs, while it is looked at.
pub struct Difference<'a> {
    row: &'a Row<'a>,
    columns: usize,
    change: Change,
}

impl Difference<'_> {
    /// How it differs.
    pub fn change(&self) -> Change {
        self.change
    }

    /// The value of a column of [`Table::columns`] here; there for a row that is only there.
    ///
    /// # Errors
    /// As SQLite says.
    pub fn value(&self, column: usize) -> rusqlite::Result<ValueRef<'_>> {
        self.row.get_ref(column)
    }

    /// The value there of a column of a changed row; none when it is the same.
    ///
    /// # Errors
    /// As SQLite says.
    pub fn other(&self, column: usize) -> rusqlite::Result<Option<ValueRef<'_>>> {
        if self.change != Change::Changed {
            return Ok(None);
        }
        let (here, there) = (self.row.get_ref(column)?, self.row.get_ref(self.columns + column)?);
        Ok((here != there).then_some(there))
    }
}

impl Differences {
    /// Opens `here` and attaches `there`, both read-only.
    ///
    /// # Errors
    /// As SQLite says.
    pub fn open(here: &Path, there: &Path) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(here, flags)?;
        let there = there.to_str().ok_or(rusqlite::Error::InvalidPath(there.to_owned()))?;
        connection.execute(&format!("ATTACH ?1 AS {BASE}"), [there])?;
        Ok(Self { connection })
    }

    /// Differences that are no rows.
    ///
    /// # Errors
    /// As SQLite says.
    pub fn schema(&self) -> rusqlite::Result<Vec<SchemaDifference>> {
        let mut found = Vec::new();
        for name in ["user_version", "application_id", "encoding"] {
            let of = |schema: &str| -> rusqlite::Result<String> {
                let sql = format!("PRAGMA {schema}.{name}");
                self.connection.query_row(&sql, (), |row| Ok(literal(row.get_ref(0)?)))
            };
            let (here, there) = (of("main")?, of(BASE)?);
            if here != there {
                let kind = "pragma".to_owned();
                found.push(SchemaDifference {
                    kind,
                    name: name.to_owned(),
                    here: Some(here),
                    there: Some(there),
                });
            }
        }
        let own = "sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
        let sql = format!(
            "SELECT type, name, h.sql, t.sql
             FROM (SELECT type, name, sql FROM main.sqlite_schema WHERE {own}) AS h
             FULL JOIN (SELECT type, name, sql FROM {BASE}.sqlite_schema WHERE {own}) AS t USING (type, name)
             WHERE h.sql IS NOT t.sql ORDER BY type <> 'table', type, name"
        );
        let mut statement = self.connection.prepare(&sql)?;
        let rows = statement.query_map((), |row| {
            Ok(SchemaDifference {
                kind: row.get(0)?,
                name: row.get(1)?,
                here: row.get(2)?,
                there: row.get(3)?,
            })
        })?;
        for row in rows {
            found.push(row?);
        }
        Ok(found)
    }

    /// All tables of both, by name.
    ///
    /// # Errors
    /// As SQLite says.
    pub fn tables(&self) -> rusqlite::Result<Vec<Table>> {
        tables::all(&self.connection)
    }

    /// Counts the rows of one table that differ.
    ///
    /// # Errors
    /// As SQLite says, for example that a collation is not known to this program.
    pub fn count(&self, table: &Table) -> rusqlite::Result<Counts> {
        let number = |sql: &str| -> rusqlite::Result<u64> {
            let count: i64 = self.connection.query_row(sql, (), |row| row.get(0))?;
            Ok(count.unsigned_abs())
        };
        let name = quoted(&table.name);
        let all = |schema: &str| number(&format!("SELECT count(*) FROM {schema}.{name}"));
        let rows = |change| number(&format!("SELECT count(*) FROM ({})", table.query(change)));
        let without_key = |one: &str, other: &str| {
            let (one, other) = (format!("{one}.{name}"), format!("{other}.{name}"));
            number(&format!(
                "SELECT count(*) FROM (SELECT {0} FROM {one} EXCEPT SELECT {0} FROM {other})",
                table.binary_columns()
            ))
        };
        Ok(match &table.comparison {
            Comparison::Keyed(_) => Counts {
                here: all("main")?,
                there: all(BASE)?,
                only_here: rows(Change::OnlyHere)?,
                changed: rows(Change::Changed)?,
                only_there: rows(Change::OnlyThere)?,
            },
            Comparison::CountedOnly => Counts {
                here: all("main")?,
                there: all(BASE)?,
                only_here: without_key("main", BASE)?,
                changed: 0,
                only_there: without_key(BASE, "main")?,
            },
            Comparison::OnlyHere => {
                let here = all("main")?;
                Counts { here, only_here: here, ..Counts::default() }
            }
            Comparison::OnlyThere => {
                let there = all(BASE)?;
                Counts { there, only_there: there, ..Counts::default() }
            }
            Comparison::OtherColumns => Counts { here: all("main")?, there: all(BASE)?, ..Counts::default() },
            Comparison::NoRows => Counts::default(),
        })
    }

    /// Looks at the rows of one table that differ in this way, in order of the key, at most `limit`.
    ///
    /// # Errors
    /// As SQLite says, or as `look` does.
    pub fn rows<E: From<rusqlite::Error>>(
        &self,
        table: &Table,
        change: Change,
        limit: u64,
        mut look: impl FnMut(&Difference<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let known = match table.comparison {
            Comparison::Keyed(_) => true,
            Comparison::OnlyHere => change == Change::OnlyHere,
            Comparison::OnlyThere => change == Change::OnlyThere,
            Comparison::CountedOnly | Comparison::OtherColumns | Comparison::NoRows => false,
        };
        if !known {
            return Ok(());
        }
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sql = format!("{}{} LIMIT ?1", table.query(change), table.order());
        let mut statement = self.connection.prepare(&sql)?;
        let mut rows = statement.query([limit])?;
        while let Some(row) = rows.next()? {
            look(&Difference { row, columns: table.columns.len(), change })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
