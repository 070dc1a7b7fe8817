//! Who sends from the virtual address, and when: the measure of "never two holders".
//!
//! [`dual_holder_ms`] is pure. The watching itself is a helper process of the supervisor
//! (`watch`), which keeps only runs: how long one hardware address went on sending from
//! one virtual address without another one coming between.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::str::FromStr;

use anyhow::{Context, Result};
use rustix::process::{Pid, WaitOptions, waitpid};
use serde::{Deserialize, Serialize};

use super::layout::Home;

/// A hardware address. Text form: six bytes in hexadecimal with colons.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct HardwareAddress(pub [u8; 6]);

impl fmt::Display for HardwareAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for HardwareAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes: Result<Vec<u8>, _> = text.split(':').map(|part| u8::from_str_radix(part, 16)).collect();
        let bytes = bytes.ok().and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(Self)
            .ok_or_else(|| format!("hardware address {text:?}: expected six hexadecimal bytes with colons"))
    }
}

impl From<HardwareAddress> for String {
    fn from(address: HardwareAddress) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for HardwareAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// One sender's frames from one virtual address, with no other sender's between them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Run {
    /// The virtual address sent from.
    pub vip: IpAddr,
    /// The Ethernet source.
    pub mac: HardwareAddress,
    /// First frame, in the nanoseconds of [`now_ns`].
    pub first_ns: u64,
    /// Last frame.
    pub last_ns: u64,
    /// How many.
    pub frames: u64,
}

/// What was seen.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Observations {
    /// In the order of their beginning.
    pub runs: Vec<Run>,
    /// Frames the kernel had no room for: more than 0 makes the measurement doubtful.
    pub unseen_frames: u64,
    /// How often the virtual addresses were asked for.
    pub asked: u64,
}

impl Observations {
    /// Adds a frame; those of one address come in the order of their time.
    pub fn add(&mut self, vip: IpAddr, mac: HardwareAddress, at_ns: u64) {
        match self.runs.iter_mut().rev().find(|run| run.vip == vip) {
            Some(run) if run.mac == mac => {
                run.last_ns = run.last_ns.max(at_ns);
                run.frames += 1;
            }
            _ => self.runs.push(Run { vip, mac, first_ns: at_ns, last_ns: at_ns, frames: 1 }),
        }
    }

    /// Reads what the watcher wrote.
    ///
    /// # Errors
    /// The file cannot be read or is none of the watcher's.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).with_context(|| path.display().to_string())?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    }
}

/// A time in which the address may move, from the fault or the order to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Takeover {
    /// In the nanoseconds of [`now_ns`].
    pub start_ns: u64,
    /// In the nanoseconds of [`now_ns`].
    pub end_ns: u64,
}

/// The clock of all observations (`CLOCK_MONOTONIC`), for the times of takeovers.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// How long two nodes sent from the virtual address, milliseconds, begun ones counted whole.
///
/// Per takeover: how long the old sender went on after the new one's first frame. A sender other
/// than the holder outside of any takeover counts from its first frame to its last, at least 1 ms.
/// Several virtual addresses move one by one: the worst of them is the result.
pub fn dual_holder_ms(observations: &Observations, takeovers: &[Takeover]) -> u64 {
    let addresses: BTreeSet<IpAddr> = observations.runs.iter().map(|run| run.vip).collect();
    let of_one = |vip| {
        let runs: Vec<&Run> = observations.runs.iter().filter(|run| run.vip == vip).collect();
        dual_ns(&runs, takeovers)
    };
    addresses.into_iter().map(of_one).max().unwrap_or(0).div_ceil(1_000_000)
}

/// Walks one address's runs; the holder changes only inside a takeover, once in each.
fn dual_ns(runs: &[&Run], takeovers: &[Takeover]) -> u64 {
    let mut takeovers = takeovers.to_vec();
    takeovers.sort_by_key(|takeover| takeover.start_ns);
    let Some(mut holder) = runs.first().map(|run| run.mac) else { return 0 };
    let mut total_ns = 0;
    for (index, period) in periods(&takeovers).into_iter().enumerate() {
        let inside: Vec<Run> = runs.iter().filter_map(|run| clip(run, period)).collect();
        let moved = index.checked_sub(1).and_then(|taken| {
            let takeover = takeovers[taken];
            inside.iter().find(|run| run.mac != holder && run.first_ns <= takeover.end_ns)
        });
        let old = holder;
        if let Some(new) = moved {
            let last_old =
                inside.iter().filter(|run| run.mac == old).map(|run| run.last_ns).max().unwrap_or(0);
            total_ns += last_old.saturating_sub(new.first_ns);
            holder = new.mac;
        }
        let strangers: BTreeSet<_> =
            inside.iter().map(|run| run.mac).filter(|mac| *mac != old && *mac != holder).collect();
        for stranger in strangers {
            let frames = inside.iter().filter(|run| run.mac == stranger);
            let first_ns = frames.clone().map(|run| run.first_ns).min().unwrap_or(0);
            let last_ns = frames.map(|run| run.last_ns).max().unwrap_or(0);
            total_ns += (last_ns - first_ns).max(1);
        }
    }
    total_ns
}

/// Before the first takeover, then from each takeover's start to the next one's.
fn periods(takeovers: &[Takeover]) -> Vec<(u64, u64)> {
    let starts: Vec<u64> = takeovers.iter().map(|takeover| takeover.start_ns).collect();
    let from = std::iter::once(0).chain(starts.iter().copied());
    let to = starts.iter().copied().chain(std::iter::once(u64::MAX));
    from.zip(to).collect()
}

/// The part of a run within `[start, end)`. A run has its frames at both ends only for certain;
/// what lies between is one sender's, so cutting it at a takeover's start invents nothing.
fn clip(run: &Run, (start_ns, end_ns): (u64, u64)) -> Option<Run> {
    if run.last_ns < start_ns || run.first_ns >= end_ns {
        return None;
    }
    let first_ns = run.first_ns.max(start_ns);
    let last_ns = run.last_ns.min(end_ns - 1);
    Some(Run { first_ns, last_ns, ..run.clone() })
}

/// The watcher, as its supervisor holds it.
pub(super) struct Running {
    pid: Pid,
    /// Its end is the watcher's order to write down what it saw.
    stdin: ChildStdin,
}

impl Running {
    /// Starts it in the calling process's network namespace, the switch; it asks from the client's.
    pub(super) fn start(home: &Home, client: Pid) -> Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg("lab-watch")
            .arg(home.root())
            .arg(client.as_raw_nonzero().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the watcher")?;
        let stdin = child.stdin.take().expect("stdin is piped");
        let running = Self { pid: Pid::from_child(&child), stdin };
        let mut line = String::new();
        let out = child.stdout.take().expect("stdout is piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line)?;
        anyhow::ensure!(line == "watching\n", "the watcher ended; its reason is in supervisor.log");
        Ok(running)
    }

    /// Ends it; its observations are then in the lab's folder.
    pub(super) fn stop(self) -> Result<()> {
        drop(self.stdin);
        let ended = waitpid(Some(self.pid), WaitOptions::empty()).context("the watcher ended by itself")?;
        let status = ended.context("the watcher's end")?.1;
        anyhow::ensure!(
            status.exit_status() == Some(0),
            "the watcher failed ({status:?}); see supervisor.log"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests;
