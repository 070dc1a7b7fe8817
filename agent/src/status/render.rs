//! A status for people: aligned, coloured on a terminal, nothing that the JSON does not have.

use super::{CopyStatus, DatabaseStatus, HeartbeatStatus, PairState, PairStatus, ScrubStatus, Status};
use crate::events::{Event, Severity};
use std::fmt::Write;

/// Colours, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint {
    /// Write escape sequences.
    pub colour: bool,
}

impl Paint {
    fn wrap(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// As it should be.
    pub fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// Not as it should be.
    pub fn warn(self, text: &str) -> String {
        self.wrap("33", text)
    }

    /// Somebody has to act.
    pub fn bad(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    /// What the eye looks for first.
    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// What it may skip.
    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }
}

/// The whole status.
pub fn human(status: &Status, paint: Paint) -> String {
    let mut out = String::new();
    let name = paint.bold(&status.node);
    line(&mut out, "node", &format!("{name}  {}  lockstep {}", status.role, status.version));
    for pair in &status.pairs {
        out.push('\n');
        self::pair(&mut out, pair, paint);
    }
    out
}

/// Events, oldest first, one line each.
pub fn events(events: &[Event], paint: Paint) -> String {
    let mut out = String::new();
    for event in events {
        let severity = match event.severity {
            Severity::Info => format!("{:8}", event.severity),
            Severity::Warning => paint.warn(&format!("{:8}", event.severity)),
            Severity::Critical => paint.bad(&format!("{:8}", event.severity)),
        };
        let _ = writeln!(out, "  {}  {severity}  {}", paint.dim(&event.at), printable(&event.sentence));
    }
    out
}

fn pair(out: &mut String, pair: &PairStatus, paint: Paint) {
    let state = pair.state.to_string();
    let state = match pair.state {
        PairState::Active | PairState::Standby => paint.good(&state),
        PairState::Holding | PairState::Unpaired => paint.bad(&state),
        _ => paint.warn(&state),
    };
    let sync = match (pair.in_sync, pair.solo) {
        (true, _) => paint.good("in sync"),
        (false, true) => paint.bad("SOLO: the standby lacks commits"),
        (false, false) => paint.warn("not in sync"),
    };
    line(out, "pair", &format!("{}  {state}  {sync}", paint.bold(&pair.id)));
    if let Some(question) = &pair.question {
        line(out, "question", &paint.bad(&printable(question)));
    }
    if pair.maintenance {
        line(
            out,
            "mode",
            &paint.warn("maintenance: nothing moves by itself; end it with `lockstep maintenance off`"),
        );
    }
    if pair.observe {
        line(out, "mode", &paint.warn("observe: this node decides and logs, and moves nothing"));
    }
    line(out, "epoch", &pair.epoch);
    line(out, "position", &format!("{}  {}", pair.position, lag(pair)));
    line(out, "unwaited", &format!("{} commits nobody waited for", pair.unwaited_commits));
    if let Some(why) = &pair.waiting_why {
        line(out, "waiting", &paint.bad(&printable(why)));
    }
    line(out, "vip", &format!("{}  {}", pair.vip.join(" "), lease(pair, paint)));
    let direct = pair.heartbeat.direct.as_ref().map_or_else(|| "none".into(), |beat| heartbeat(beat, paint));
    line(out, "heartbeat", &format!("direct {direct}   lan {}", heartbeat(&pair.heartbeat.lan, paint)));
    line(out, "link", &link(pair, paint));
    for app in &pair.apps {
        let state = match (app.running, app.healthy) {
            _ if app.failed => paint.bad("FAILED after its restarts"),
            (false, _) => paint.dim("not running here"),
            (true, Some(true)) => paint.good("healthy"),
            (true, Some(false)) => paint.bad("not healthy"),
            (true, None) => "running".into(),
        };
        let again = match app.restarts {
            0 => String::new(),
            times => format!("  started again {times} times"),
        };
        line(out, "app", &format!("{}  {state}{again}", app.name));
    }
    for database in &pair.databases {
        self::database(out, database, paint);
    }
    for tree in &pair.trees {
        super::tree::render(out, tree, paint);
    }
    if pair.quarantined > 0 {
        let count = format!("{} kept, see `lockstep quarantine list`", pair.quarantined);
        line(out, "quarantine", &paint.warn(&count));
    }
    for alarm in &pair.alarms {
        let text = format!("{} (since {})", printable(&alarm.sentence), alarm.since);
        let text = if alarm.severity == Severity::Critical { paint.bad(&text) } else { paint.warn(&text) };
        line(out, "alarm", &text);
    }
    if !pair.events.is_empty() {
        line(out, "events", "");
        out.push_str(&events(&pair.events, paint));
    }
}

pub(super) fn line(out: &mut String, label: &str, text: &str) {
    let _ = writeln!(out, "{}", format!("{label:<11}{text}").trim_end());
}

fn lag(pair: &PairStatus) -> String {
    match (pair.lag_frames, pair.lag_ms) {
        (Some(0), _) => "no lag".into(),
        (Some(frames), Some(ms)) => format!("lag {frames} frames, {ms} ms"),
        (Some(frames), None) => format!("lag {frames} frames"),
        (None, _) => "lag unknown".into(),
    }
}

fn lease(pair: &PairStatus, paint: Paint) -> String {
    match pair.lease_ms_left {
        Some(left) => paint.good(&format!("lease {left} ms left")),
        None => paint.dim("no lease here"),
    }
}

fn heartbeat(beat: &HeartbeatStatus, paint: Paint) -> String {
    let age = beat.age_ms.map_or_else(|| "never heard".into(), |age| format!("{age} ms ago"));
    let rtt = beat.mean_rtt_ms.map_or_else(String::new, |rtt| format!(", round trip {rtt:.2} ms"));
    let word = if beat.up { paint.good("up") } else { paint.bad("DOWN") };
    format!("{word} ({age}{rtt})")
}

fn link(pair: &PairStatus, paint: Paint) -> String {
    let link = &pair.link;
    let mut text = match &link.path {
        Some(path) => paint.good(&format!("over {path}")),
        None => paint.warn("not connected"),
    };
    if let Some(fault) = &link.fault {
        let _ = write!(text, " ({})", printable(fault));
    }
    if !link.compression_reason.is_empty() {
        let _ = write!(text, "  {}", printable(&link.compression_reason));
    }
    let _ = write!(text, "  disk by {}", pair.io_backend);
    text
}

fn database(out: &mut String, database: &DatabaseStatus, paint: Paint) {
    let sync = if database.in_sync { paint.good("in sync") } else { paint.warn("not in sync") };
    let wal = bytes(database.wal_bytes);
    let waiting =
        if database.waiting == 0 { String::new() } else { format!("  {} waiting", database.waiting) };
    line(
        out,
        "database",
        &format!("{}  {}  {sync}{waiting}  WAL {wal}  {}", database.name, database.position, database.path),
    );
    if let Some(copy) = &database.copy {
        line(out, "", &format!("  {}", progress(copy)));
    }
    if let Some(scrub) = &database.scrub {
        line(out, "", &format!("  {}", equality(database, scrub, paint)));
    }
    if let Some(fault) = &database.fault {
        line(out, "", &format!("  {}", paint.bad(&printable(fault))));
    }
}

fn equality(database: &DatabaseStatus, scrub: &ScrubStatus, paint: Paint) -> String {
    let ScrubStatus { done_pages, total_pages, mismatched_pages, repaired_pages } = scrub;
    let mut text = match database.verified_age_s {
        Some(age) => format!("verified {} ago", duration(age)),
        None => paint.warn("not verified yet"),
    };
    if let Some(age) = database.sums_equal_age_s {
        let _ = write!(text, ", sums equal {} ago", duration(age));
    }
    if *done_pages > 0 {
        let _ = write!(text, ", now at page {done_pages} of {total_pages}");
    }
    if *mismatched_pages > 0 {
        let word = format!("{mismatched_pages} pages differed, {repaired_pages} repaired");
        let _ = write!(text, "  {}", paint.bad(&word));
    }
    text
}

fn progress(copy: &CopyStatus) -> String {
    let word = match copy {
        CopyStatus { rewind: true, .. } => "rewind",
        CopyStatus { resync: true, .. } => "resync",
        _ => "copy",
    };
    let percent = (copy.done_bytes * 100).checked_div(copy.total_bytes).unwrap_or(100).min(100);
    let bar = "#".repeat(percent as usize / 5);
    let remaining = copy.remaining_s.map_or_else(|| "unknown".into(), duration);
    format!(
        "{word} [{bar:<20}] {percent:3} %  {} of {}  {}/s  remaining {remaining}",
        bytes(copy.done_bytes),
        bytes(copy.total_bytes),
        bytes(copy.rate_bytes_per_s)
    )
}

pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A number of bytes for people, in binary units.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Text from elsewhere must not steer the terminal.
pub(super) fn printable(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}
