//! A report for people: one line per table that differs, one per row, long values cut.

use super::super::list::because;
use super::Base;
use super::report::{Report, Row, Table};
use serde_json::Value;
use std::fmt::Write;

/// Characters of a value; the whole of it is in the JSON and in an export.
const CELL_CHARS: usize = 60;

pub(super) fn human(report: &Report) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}  kept {}: {}", report.name, report.kept_at, because(report.why));
    let _ = match &report.compared_with {
        Base::Fork { position } => writeln!(out, "compared with what both nodes had, at {position}"),
        Base::Present { why_not_fork } => {
            writeln!(out, "compared with this node's database as it is now ({why_not_fork})")
        }
        Base::File { path } => writeln!(out, "compared with {}", path.display()),
    };
    for found in &report.schema_differences {
        let kind = &found.kind;
        let name = printable(&found.name);
        let _ = match (&found.kept, &found.other) {
            (Some(kept), Some(other)) => {
                let (kept, other) = (cut(kept), cut(other));
                writeln!(out, "schema: {kind} {name} differs: kept {kept}, other {other}")
            }
            (Some(_), None) => writeln!(out, "schema: {kind} {name} is only in the kept data"),
            (None, _) => writeln!(out, "schema: {kind} {name} is not in the kept data"),
        };
    }
    let mut equal = 0;
    for table in &report.tables {
        if table.differs() { self::table(&mut out, table) } else { equal += 1 }
    }
    let _ = writeln!(out, "{equal} other tables are equal");
    out
}

impl Table {
    fn differs(&self) -> bool {
        let rows = self.only_kept + self.changed + self.only_other > 0;
        rows || self.fault.is_some() || matches!(self.comparison, "other_columns" | "virtual")
    }
}

fn table(out: &mut String, table: &Table) {
    let name = printable(&table.name);
    if let Some(fault) = &table.fault {
        let _ = writeln!(out, "table {name}: cannot be compared: {}", printable(fault));
        return;
    }
    let Table { rows_kept, rows_other, only_kept, changed, only_other, .. } = table;
    let numbers = format!("{rows_kept} rows kept, {rows_other} in the other");
    let _ = match table.comparison {
        "virtual" => writeln!(out, "table {name}: virtual, not compared"),
        "other_columns" => writeln!(out, "table {name}: its columns differ; {numbers}"),
        "counts" => {
            let only = format!("{only_kept} distinct rows only kept, {only_other} only in the other");
            writeln!(out, "table {name}: {numbers}; it has no key: {only}")
        }
        _ => writeln!(
            out,
            "table {name}: {numbers}; {only_kept} only kept, {changed} changed, {only_other} only in the other"
        ),
    };
    for row in &table.rows {
        self::row(out, table, row);
    }
    let shown = |change: &str| table.rows.iter().filter(|row| row.change == change).count() as u64;
    let left = (only_kept - shown("only_kept").min(*only_kept)) + (changed - shown("changed").min(*changed));
    if left > 0 && table.comparison != "counts" {
        let _ =
            writeln!(out, "  and {left} more: --limit shows them, `lockstep quarantine export` writes all");
    }
}

fn row(out: &mut String, table: &Table, row: &Row) {
    let sign = match row.change {
        "only_kept" => '+',
        "changed" => '~',
        _ => '-',
    };
    let cells = table.columns.iter().zip(&row.values).map(|(column, value)| {
        let other = row.other.iter().flatten().find(|other| other.column == *column);
        let was = other.map_or_else(String::new, |other| format!(" (other: {})", cell(&other.value)));
        format!("{}={}{was}", printable(column), cell(value))
    });
    let _ = writeln!(out, "  {sign} {}", cells.collect::<Vec<_>>().join("  "));
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{}'", cut(text)),
        Value::Object(_) => format!("x'{}'", cut(value["blob"].as_str().unwrap_or_default())),
        Value::Null => "NULL".to_owned(),
        other => other.to_string(),
    }
}

fn cut(text: &str) -> String {
    let text = printable(text);
    match text.char_indices().nth(CELL_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Text from elsewhere must not steer the terminal.
fn printable(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}
