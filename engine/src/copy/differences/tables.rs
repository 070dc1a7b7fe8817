//! Which tables there are, by what their rows are matched, and the queries for it.
//!
//! A key is the primary key or a unique index whose columns hold no NULL: without one, "the same
//! row" has no meaning. Names come from foreign files and are always quoted.

use super::{BASE, Change};
use rusqlite::{Connection, OptionalExtension};

/// A table of one or both databases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its columns with values of their own, in order; generated ones follow from these.
    pub columns: Vec<String>,
    /// How it can be compared.
    pub comparison: Comparison,
}

/// How a table can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// Row by row, matched by these columns (indexes into [`Table::columns`]).
    Keyed(Vec<usize>),
    /// It has no key: only counted.
    CountedOnly,
    /// Only this database has it.
    OnlyHere,
    /// Only the other database has it.
    OnlyThere,
    /// Its columns differ: only counted.
    OtherColumns,
    /// A virtual table: what it shows lies in other tables or outside.
    NoRows,
}

/// An identifier in SQL.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Table {
    /// One row per difference: the columns here (of [`Change::OnlyThere`]: there), for a changed row those
    /// there behind them.
    pub(super) fn query(&self, change: Change) -> String {
        let name = quoted(&self.name);
        let (here, there) = (format!("main.{name} AS h"), format!("{BASE}.{name} AS t"));
        match change {
            Change::OnlyHere => self.unmatched(("h", &here), ("t", &there)),
            Change::OnlyThere => self.unmatched(("t", &there), ("h", &here)),
            Change::Changed => {
                let differs = self.columns.iter().map(|column| {
                    let column = quoted(column);
                    format!("h.{column} COLLATE BINARY IS NOT t.{column} OR typeof(h.{column}) <> typeof(t.{column})")
                });
                let differs: Vec<String> = differs.collect();
                let (of_here, of_there, matched) = (self.list("h"), self.list("t"), self.matched());
                let differs = differs.join(" OR ");
                format!("SELECT {of_here}, {of_there} FROM {here} JOIN {there} ON {matched} WHERE {differs}")
            }
        }
    }

    fn unmatched(&self, (one, from): (&str, &str), (_, other): (&str, &str)) -> String {
        let list = self.list(one);
        match self.comparison {
            Comparison::Keyed(_) => {
                let matched = self.matched();
                format!("SELECT {list} FROM {from} WHERE NOT EXISTS (SELECT 1 FROM {other} WHERE {matched})")
            }
            _ => format!("SELECT {list} FROM {from}"),
        }
    }

    fn list(&self, of: &str) -> String {
        let columns: Vec<String> = self.columns.iter().map(|name| format!("{of}.{}", quoted(name))).collect();
        columns.join(", ")
    }

    /// The columns, compared byte by byte.
    pub(super) fn binary_columns(&self) -> String {
        let binary = |name: &String| format!("{} COLLATE BINARY", quoted(name));
        self.columns.iter().map(binary).collect::<Vec<_>>().join(", ")
    }

    fn key(&self) -> impl Iterator<Item = &String> {
        let key = match &self.comparison {
            Comparison::Keyed(key) => key.as_slice(),
            _ => &[],
        };
        key.iter().map(|&column| &self.columns[column])
    }

    fn matched(&self) -> String {
        let same = |name: &String| format!("h.{0} = t.{0}", quoted(name));
        self.key().map(same).collect::<Vec<_>>().join(" AND ")
    }

    /// Rows in order of the key, so that two looks show the same.
    pub(super) fn order(&self) -> String {
        let places: Vec<String> = match &self.comparison {
            Comparison::Keyed(key) => key.iter().map(|column| (column + 1).to_string()).collect(),
            _ => return String::new(),
        };
        format!(" ORDER BY {}", places.join(", "))
    }
}

/// All tables of both databases, by name.
pub(super) fn all(connection: &Connection) -> rusqlite::Result<Vec<Table>> {
    let list = |schema: &str| -> rusqlite::Result<Vec<(String, String)>> {
        let mut statement = connection.prepare(
            "SELECT name, type FROM pragma_table_list WHERE schema = ?1 AND type IN ('table', 'shadow', 'virtual')
             AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
        )?;
        let rows = statement.query_map([schema], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect()
    };
    let (here, there) = (list("main")?, list(BASE)?);
    let mut tables = Vec::new();
    for (name, kind) in &here {
        let columns = columns(connection, "main", name)?;
        let other = there.iter().find(|(other, _)| other == name);
        let comparison = match other {
            _ if kind == "virtual" => Comparison::NoRows,
            None => Comparison::OnlyHere,
            Some(_) if self::columns(connection, BASE, name)? != columns => Comparison::OtherColumns,
            Some(_) => match key(connection, name, &columns)? {
                Some(key) => Comparison::Keyed(key),
                None => Comparison::CountedOnly,
            },
        };
        let columns = columns.into_iter().map(|column| column.name).collect();
        tables.push(Table { name: name.clone(), columns, comparison });
    }
    for (name, kind) in there.iter().filter(|(name, _)| here.iter().all(|(other, _)| other != name)) {
        let columns = columns(connection, BASE, name)?.into_iter().map(|column| column.name).collect();
        let comparison = if kind == "virtual" { Comparison::NoRows } else { Comparison::OnlyThere };
        tables.push(Table { name: name.clone(), columns, comparison });
    }
    tables.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(tables)
}

#[derive(Debug, PartialEq)]
struct Column {
    name: String,
    declared: String,
    not_null: bool,
    /// Place in the primary key, from 1; 0: not in it.
    primary: u32,
}

fn columns(connection: &Connection, schema: &str, table: &str) -> rusqlite::Result<Vec<Column>> {
    let mut statement = connection.prepare(
        "SELECT name, type, \"notnull\", pk FROM pragma_table_xinfo(?1, ?2) WHERE hidden = 0 ORDER BY cid",
    )?;
    let rows = statement.query_map([table, schema], |row| {
        Ok(Column { name: row.get(0)?, declared: row.get(1)?, not_null: row.get(2)?, primary: row.get(3)? })
    })?;
    rows.collect()
}

/// The columns by which rows are matched: the primary key, else the first unique index that will do.
fn key(connection: &Connection, table: &str, columns: &[Column]) -> rusqlite::Result<Option<Vec<usize>>> {
    let mut primary: Vec<usize> = (0..columns.len()).filter(|&at| columns[at].primary > 0).collect();
    primary.sort_by_key(|&at| columns[at].primary);
    // The only column of a primary key with this type is the row's own number.
    let is_rowid = |key: &[usize]| matches!(key, [at] if columns[*at].declared.eq_ignore_ascii_case("INTEGER") && columns[*at].primary > 0);
    let mut candidates = vec![primary];
    candidates.extend(unique_indexes(connection, table, columns)?);
    for key in candidates.into_iter().filter(|key| !key.is_empty()) {
        let declared = key.iter().all(|&at| columns[at].not_null);
        // A primary key may hold NULLs by an old mistake of SQLite's; most do not.
        let in_primary = key.iter().all(|&at| columns[at].primary > 0);
        if is_rowid(&key) || declared || (in_primary && !holds_null(connection, table, columns, &key)?) {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

fn unique_indexes(
    connection: &Connection,
    table: &str,
    columns: &[Column],
) -> rusqlite::Result<Vec<Vec<usize>>> {
    let in_both = format!(
        "SELECT name FROM pragma_index_list(?1, 'main') WHERE \"unique\" AND NOT partial
         AND name IN (SELECT name FROM pragma_index_list(?1, '{BASE}') WHERE \"unique\" AND NOT partial)
         ORDER BY name"
    );
    let mut statement = connection.prepare(&in_both)?;
    let names: Vec<String> = statement.query_map([table], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut found = Vec::new();
    for index in names {
        let of = |schema: &str| -> rusqlite::Result<Vec<Option<String>>> {
            let mut statement =
                connection.prepare("SELECT name FROM pragma_index_info(?1, ?2) ORDER BY seqno")?;
            statement.query_map([index.as_str(), schema], |row| row.get(0))?.collect()
        };
        let here = of("main")?;
        // An index over an expression has a column without a name.
        let places =
            here.iter().map(|name| columns.iter().position(|column| Some(&column.name) == name.as_ref()));
        if let Some(places) = places.collect::<Option<Vec<usize>>>()
            && here == of(BASE)?
        {
            found.push(places);
        }
    }
    Ok(found)
}

fn holds_null(
    connection: &Connection,
    table: &str,
    columns: &[Column],
    key: &[usize],
) -> rusqlite::Result<bool> {
    let null: Vec<String> = key.iter().map(|&at| format!("{} IS NULL", quoted(&columns[at].name))).collect();
    for schema in ["main", BASE] {
        let sql = format!("SELECT 1 FROM {schema}.{} WHERE {} LIMIT 1", quoted(table), null.join(" OR "));
        if connection.query_row(&sql, (), |_| Ok(())).optional()?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}
