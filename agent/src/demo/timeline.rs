//! The live timeline: one line for each look, so that it reads as a story afterwards.

use super::{client::Progress, stage::Client, stage::Stage};
use crate::{
    lab::Node,
    status::{Paint, PairStatus, bytes},
};
use std::{
    thread,
    time::{Duration, Instant},
};

/// Often enough to follow, seldom enough to read.
const PERIOD: Duration = Duration::from_millis(500);

/// Room for what is said about a node.
const NODE_COLUMNS: usize = 56;

/// Prints what happens.
pub(super) struct Timeline {
    begun: Instant,
    paint: Paint,
}

impl Timeline {
    pub(super) fn new(paint: Paint) -> Self {
        Self { begun: Instant::now(), paint }
    }

    /// Something was done.
    pub(super) fn mark(&self, sentence: &str) {
        println!("{} {}", self.clock(), self.paint.bold(sentence));
    }

    /// What the columns are.
    pub(super) fn legend(&self) {
        for line in [
            "each line: time, the application as the client sees it, node a, node b; for a node",
            "hb: the other's heartbeats arrive by cable/LAN, lag: WAL frames the standby lacks,",
            "lease: for how long the node may still answer for the address unless it is renewed",
        ] {
            println!("         {}", self.paint.dim(line));
        }
    }

    /// Shows the pair for a while.
    pub(super) fn show_for(&self, stage: &Stage, client: &Client, time: Duration) {
        let end = Instant::now() + time;
        loop {
            self.look(stage, client);
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(PERIOD.min(left));
        }
    }

    /// Shows the pair until something is so.
    ///
    /// # Errors
    /// It was not within the time.
    pub(super) fn show_until(
        &self,
        stage: &Stage,
        client: &Client,
        what: &str,
        within: Duration,
        mut so: impl FnMut() -> bool,
    ) -> anyhow::Result<()> {
        let mut next = Instant::now();
        super::stage::until(what, within, || {
            if Instant::now() >= next {
                next = Instant::now() + PERIOD;
                self.look(stage, client);
            }
            so().then_some(())
        })
    }

    fn look(&self, stage: &Stage, client: &Client) {
        let [a, b] = Node::ALL.map(|node| self.node(node, stage.pair(node).as_ref()));
        println!("{} {}  {a} {b}", self.clock(), writes(&client.progress(), self.paint));
    }

    fn clock(&self) -> String {
        self.paint.dim(&format!("{:6.1} s", self.begun.elapsed().as_secs_f64()))
    }

    fn node(&self, node: Node, pair: Option<&PairStatus>) -> String {
        let name = self.paint.bold(node.name());
        let facts = pair.map_or_else(|| self.paint.dim(&padded("no answer")), |pair| facts(pair, self.paint));
        format!("{name} {facts}")
    }
}

fn writes(progress: &Progress, paint: Paint) -> String {
    let silent = progress.app_silent_ms.is_none_or(|ms| ms > PERIOD.as_millis() as u64);
    let word = if silent { paint.bad("silent ") } else { paint.good("answers") };
    format!("app {word} {:6} acknowledged {:3} retries", progress.acknowledged, progress.retries)
}

/// As wide as the facts of a node, so that the other's stand below each other.
fn padded(text: &str) -> String {
    format!("{text:NODE_COLUMNS$}")
}

fn facts(pair: &PairStatus, paint: Paint) -> String {
    let (sync, mark): (_, fn(Paint, &str) -> String) = match (pair.in_sync, pair.solo) {
        (true, _) => ("in sync", Paint::good),
        (false, true) => ("solo", Paint::warn),
        (false, false) => ("not in sync", Paint::warn),
    };
    let beat = |up: bool| if up { "up" } else { "down" };
    let direct = pair.heartbeat.direct.as_ref().is_some_and(|direct| direct.up);
    let mut rest = format!("hb {}/{}", beat(direct), beat(pair.heartbeat.lan.up));
    if let Some(frames) = pair.lag_frames {
        rest += &format!("  lag {frames}");
    }
    if let Some(left) = pair.lease_ms_left {
        rest += &format!("  lease {left} ms");
    }
    if let Some(copy) = pair.databases.iter().find_map(|database| database.copy.as_ref()) {
        rest += &format!("  copied {}/{}", bytes(copy.done_bytes), bytes(copy.total_bytes));
    }
    let painted = mark(paint, sync);
    // Colours have no width: what is written without them is measured.
    let plain = format!("{:9}  {sync}  {rest}", pair.state);
    let gap = NODE_COLUMNS.saturating_sub(plain.chars().count());
    format!("{:9}  {painted}  {rest}{:gap$}", pair.state, "")
}
