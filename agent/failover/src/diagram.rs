//! The table as a mermaid diagram and as a table in Markdown, for docs/failover.md.
//!
//! A test compares the page with what is generated here, so the page cannot lie.

use crate::table::{Row, TABLE, Verdict, Who};
use std::fmt::Write as _;

/// The state a verdict leads to.
fn target(row: &Row) -> &'static str {
    match (row.who, row.verdict) {
        (Who::Active, Verdict::Hold) => "holding",
        (Who::Active, Verdict::HandOver) => "releasing",
        (Who::Active, _) => "active",
        (Who::Standby, Verdict::Promote) => "promoting",
        (Who::Standby, _) => "standby",
        (Who::Cold, Verdict::Serve) => "active",
        (Who::Cold, Verdict::Follow) => "standby",
        (Who::Cold, _) => "holding",
    }
}

fn source(who: Who) -> &'static str {
    match who {
        Who::Active => "active",
        Who::Standby => "standby",
        Who::Cold => "holding",
    }
}

/// States and the rows that lead from one to another.
pub fn mermaid() -> String {
    let mut text = String::from("stateDiagram-v2\n    [*] --> holding: start\n");
    let mut edges: Vec<(&str, &str, Vec<&str>)> = Vec::new();
    for row in TABLE {
        let (from, to) = (source(row.who), target(row));
        match edges.iter_mut().find(|edge| edge.0 == from && edge.1 == to) {
            Some(edge) => edge.2.push(row.id),
            None => edges.push((from, to, vec![row.id])),
        }
    }
    for (from, to, ids) in edges {
        let _ = writeln!(text, "    {from} --> {to}: {}", ids.join(" "));
    }
    text.push_str("    promoting --> active: lease open\n");
    text.push_str("    promoting --> standby: any answer, or a failed check\n");
    text.push_str("    active --> releasing: switchover\n");
    text.push_str("    releasing --> active: called off, or durably refused\n");
    text.push_str("    releasing --> standby: the peer claimed\n");
    text.push_str("    active --> holding: lease lapsed, or a higher epoch seen\n");
    text
}

/// Every row in Markdown.
pub fn markdown() -> String {
    let mut text = String::from("| row | node | verdict | what is logged |\n|---|---|---|---|\n");
    for row in TABLE {
        let _ = writeln!(text, "| {} | {:?} | {:?} | {} |", row.id, row.who, row.verdict, row.sentence);
    }
    text
}
