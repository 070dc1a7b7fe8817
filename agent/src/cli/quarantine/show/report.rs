//! The differences of kept data, as facts: what `show --json` prints.

use super::super::list;
use super::Base;
use lockstep_engine::copy::differences::{
    Change, Comparison, Counts, Difference, Differences, SchemaDifference, Table as ComparedTable,
};
use lockstep_engine::copy::quarantine::{Kept, Why};
use rusqlite::types::ValueRef;
use serde::Serialize;
use serde_json::Value;

/// Version of the JSON form.
const SCHEMA: u32 = 1;

#[derive(Debug, Serialize)]
pub(in super::super) struct Report {
    pub(super) schema: u32,
    pub(super) name: String,
    pub(super) pair: String,
    pub(super) database: String,
    pub(super) epoch: String,
    pub(super) why: Why,
    pub(super) kept_at: String,
    pub(super) compared_with: Base,
    /// What is not a row; `kept` or `other` is null where only one has it.
    pub(super) schema_differences: Vec<Schema>,
    pub(super) tables: Vec<Table>,
}

#[derive(Debug, Serialize)]
pub(super) struct Schema {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) kept: Option<String>,
    pub(super) other: Option<String>,
}

impl From<SchemaDifference> for Schema {
    fn from(found: SchemaDifference) -> Self {
        let SchemaDifference { kind, name, here, there } = found;
        Self { kind, name, kept: here, other: there }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) columns: Vec<String>,
    /// `rows`, `counts` (no key), `only_kept`, `only_other`, `other_columns` or `virtual`.
    pub(super) comparison: &'static str,
    /// The columns by which rows are matched.
    pub(super) key: Vec<String>,
    pub(super) rows_kept: u64,
    pub(super) rows_other: u64,
    pub(super) only_kept: u64,
    pub(super) changed: u64,
    pub(super) only_other: u64,
    /// At most the limit of each kind.
    pub(super) rows: Vec<Row>,
    /// Why it could not be compared.
    pub(super) fault: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Row {
    /// `only_kept`, `changed` or `only_other`.
    pub(super) change: &'static str,
    /// In the order of the columns; a blob is `{"blob": "<hex>"}`.
    pub(super) values: Vec<Value>,
    /// What the other database has, of a changed row; null where it is the same.
    pub(super) other: Option<Vec<Other>>,
}

/// A value that differs.
#[derive(Debug, Serialize)]
pub(super) struct Other {
    pub(super) column: String,
    pub(super) value: Value,
}

pub(super) fn gather(
    name: &str,
    kept: &Kept,
    compared_with: Base,
    differences: &Differences,
    limit: u64,
) -> anyhow::Result<Report> {
    let schema_differences = differences.schema()?.into_iter().map(Schema::from).collect();
    // What came later elsewhere is not this data's: counted, not shown.
    let mut changes = vec![Change::OnlyHere, Change::Changed];
    changes.extend(compared_with.is_fork().then_some(Change::OnlyThere));
    let tables = differences.tables()?;
    let tables = tables.iter().map(|compared| table(differences, compared, &changes, limit)).collect();
    Ok(Report {
        schema: SCHEMA,
        name: name.to_owned(),
        pair: kept.pair.to_string(),
        database: kept.database.to_string(),
        epoch: kept.epoch.to_string(),
        why: kept.why,
        kept_at: list::kept_at(kept.kept_at_unix_s),
        compared_with,
        schema_differences,
        tables,
    })
}

fn table(differences: &Differences, compared: &ComparedTable, changes: &[Change], limit: u64) -> Table {
    let mut rows = Vec::new();
    let gathered = differences.count(compared).and_then(|counts| {
        for &change in changes {
            differences.rows::<rusqlite::Error>(compared, change, limit, |found| {
                rows.push(row(compared, found)?);
                Ok(())
            })?;
        }
        Ok(counts)
    });
    let (counts, fault) = match gathered {
        Ok(counts) => (counts, None),
        // One table with a collation of its application must not hide the others.
        Err(error) => (Counts::default(), Some(error.to_string())),
    };
    let (comparison, key) = match &compared.comparison {
        Comparison::Keyed(key) => ("rows", key.as_slice()),
        Comparison::CountedOnly => ("counts", &[][..]),
        Comparison::OnlyHere => ("only_kept", &[][..]),
        Comparison::OnlyThere => ("only_other", &[][..]),
        Comparison::OtherColumns => ("other_columns", &[][..]),
        Comparison::NoRows => ("virtual", &[][..]),
    };
    Table {
        name: compared.name.clone(),
        columns: compared.columns.clone(),
        comparison,
        key: key.iter().map(|&at| compared.columns[at].clone()).collect(),
        rows_kept: counts.here,
        rows_other: counts.there,
        only_kept: counts.only_here,
        changed: counts.changed,
        only_other: counts.only_there,
        rows,
        fault,
    }
}

fn row(table: &ComparedTable, found: &Difference<'_>) -> rusqlite::Result<Row> {
    let columns = 0..table.columns.len();
    let values = columns.clone().map(|at| Ok(json(found.value(at)?))).collect::<rusqlite::Result<_>>()?;
    let mut other = Vec::new();
    for at in columns {
        if let Some(value) = found.other(at)? {
            other.push(Other { column: table.columns[at].clone(), value: json(value) });
        }
    }
    let change = match found.change() {
        Change::OnlyHere => "only_kept",
        Change::Changed => "changed",
        Change::OnlyThere => "only_other",
    };
    Ok(Row { change, values, other: (found.change() == Change::Changed).then_some(other) })
}

fn json(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => number.into(),
        ValueRef::Real(number) => serde_json::Number::from_f64(number)
            .map_or_else(|| Value::String(number.to_string()), Value::Number),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
        ValueRef::Blob(bytes) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            serde_json::json!({ "blob": hex })
        }
    }
}
