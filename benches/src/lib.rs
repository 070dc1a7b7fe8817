//! What the benchmarks share: how a run says where it was made, and how it says what it found.
//!
//! A figure without its machine, its load and its command is worth nothing later, so every scenario
//! begins with [`announce`] and ends each finding with [`tell`]: one JSON line each, to be kept
//! under `runs/`.

pub mod load;
pub mod node;
pub mod tap;

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::time::Duration;

/// A number from the environment, or what stands in for it.
pub fn setting(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a whole number, found {text:?}")),
        Err(_) => otherwise,
    }
}

/// Prints where and how this run is made.
pub fn announce(bench: &str) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo");
    let processor = processor.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let settings: Vec<String> = std::env::vars()
        .filter(|(name, _)| name.starts_with("LOCKSTEP_"))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    tell(&json!({
        "bench": bench,
        "command": format!("{} cargo bench -p lockstep-benches --bench {bench}", settings.join(" ")).trim(),
        "processor": processor.trim_start_matches(['\t', ' ', ':']),
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_average": read("/proc/loadavg").trim(),
        "debug_build": cfg!(debug_assertions),
    }));
}

/// Prints one finding.
pub fn tell(finding: &Value) {
    println!("{finding}");
}

/// Nothing that is measured takes as long as ten minutes.
const LONGEST_NS: u64 = 600_000_000_000;

/// Durations of one kind.
#[derive(Debug)]
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self(Histogram::new_with_max(LONGEST_NS, 3).expect("three digits are supported"))
    }
}

impl Times {
    /// Adds one.
    pub fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1));
    }

    /// The median, microseconds.
    pub fn median_us(&self) -> f64 {
        self.0.value_at_quantile(0.5) as f64 / 1000.0
    }

    /// Median, tail and extremes, microseconds.
    pub fn figures(&self) -> Value {
        let us = |ns: u64| (ns as f64 / 100.0).round() / 10.0;
        json!({
            "count": self.0.len(),
            "min_us": us(self.0.min()),
            "p50_us": us(self.0.value_at_quantile(0.5)),
            "p99_us": us(self.0.value_at_quantile(0.99)),
            "max_us": us(self.0.max()),
        })
    }
}

/// Median and range of a few whole measurements.
pub fn median_of(mut values: Vec<f64>) -> Value {
    values.sort_by(f64::total_cmp);
    let round = |value: f64| (value * 10.0).round() / 10.0;
    match values.as_slice() {
        [] => Value::Null,
        [first, .., last] => {
            json!({ "n": values.len(), "median": round(values[values.len() / 2]), "min": round(*first), "max": round(*last) })
        }
        [only] => json!({ "n": 1, "median": round(*only), "min": round(*only), "max": round(*only) }),
    }
}
