//! docs/failover.md says what the table says.
//!
//! `LOCKSTEP_BLESS=1 cargo test -p lockstep-failover --test page` writes both parts anew.

use lockstep_failover::action::Severity;
use lockstep_failover::{Profile, diagram, table};
use std::time::Duration;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/failover.md");
const OPERATING: &str = include_str!("../../../docs/operating.md");
const DEPLOY: &str = include_str!("../../../docs/deploy.md");

fn with(page: &str, name: &str, content: &str) -> String {
    let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
    let (head, rest) = page.split_once(&begin).expect("the page has the begin marker");
    let (_, tail) = rest.split_once(&end).expect("the page has the end marker");
    format!("{head}{begin}{content}{end}{tail}")
}

#[test]
#[allow(clippy::disallowed_methods, reason = "reads the page it checks")]
fn the_failover_page_shows_the_table_and_the_diagram_of_the_code() {
    let page = std::fs::read_to_string(PAGE).expect("docs/failover.md");
    let diagram = format!("```mermaid\n{}```\n", diagram::mermaid());
    let wanted = with(&with(&page, "diagram", &diagram), "table", &diagram::markdown());
    if std::env::var_os("LOCKSTEP_BLESS").is_some() {
        std::fs::write(PAGE, &wanted).expect("docs/failover.md can be written");
        return;
    }
    assert!(page == wanted, "write it anew: LOCKSTEP_BLESS=1 cargo test -p lockstep-failover --test page");
}

#[test]
fn the_operating_page_says_what_resolves_each_alarm_question_and_hold() {
    let explained: Vec<&str> = OPERATING
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" |").next())
        .flat_map(|cell| cell.split(' '))
        .collect();
    for row in table::TABLE {
        let needs_somebody = row.severity != Severity::Info && row.verdict != table::Verdict::Probe;
        let passing = ["10a", "c2c", "c3d"];
        if needs_somebody && !passing.contains(&row.id) {
            assert!(explained.contains(&row.id), "docs/operating.md lacks row {}: {}", row.id, row.sentence);
        }
    }
}

#[test]
fn the_deployment_page_shows_the_timing_of_each_profile() {
    let text = |span: Duration| match span.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        _ => format!("{} s", span.as_secs_f64()),
    };
    for profile in Profile::ALL {
        let timing = profile.timing();
        let [period, dead, lease] = [timing.period, timing.dead_after, timing.lease].map(text);
        let row = format!("| `{}` | {period} | {dead} | {lease} | ", profile.name());
        assert!(DEPLOY.contains(&row), "docs/deploy.md lacks: {row}");
    }
}
