//! From what was written to what may be used: every rule of the configuration, once.
//!
//! All faults of a file are found in one go. Rules that need the machine (does the interface
//! exist, is the database in WAL mode) belong to those who touch it.

use super::{
    Config, ConfigError, ConfigErrors, Node, Pair, Profile, check_arbiter, check_network, check_tree,
    check_workload,
    raw::{RawConfig, RawNode, RawPair},
};
use lockstep_client::Mode;
use lockstep_engine::link::Fingerprint;
use lockstep_failover::SoloAfter;
use lockstep_wire::PairId;
use std::{
    collections::HashSet,
    fmt::Display,
    hash::Hash,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

/// Hardware families a node may be.
const PLATFORMS: [&str; 8] = ["generic", "3310", "3350", "3355", "va-2", "va-3", "va-4", "va-5"];

/// Collects faults while checking goes on.
pub(super) struct Faults {
    file: PathBuf,
    found: Vec<ConfigError>,
    warnings: Vec<String>,
}

impl Faults {
    /// Notes a fault.
    pub(super) fn add(
        &mut self,
        key: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let (key, problem, remedy) = (key.into(), problem.into(), remedy.into());
        // One line each, whatever a value contains.
        let line = |text: String| text.replace(|c: char| c.is_control(), " ");
        self.found.push(ConfigError {
            file: self.file.clone(),
            key: line(key),
            problem: line(problem),
            remedy: line(remedy),
        });
    }

    /// Notes what is allowed but probably not meant.
    pub(super) fn warn(&mut self, key: &str, sentence: &str) {
        self.warnings.push(format!("{}: {key}: {sentence}", self.file.display()));
    }

    /// How many faults were noted so far.
    pub(super) fn count(&self) -> usize {
        self.found.len()
    }

    /// What `text` names; notes a fault when that is no such name.
    pub(super) fn name<T: FromStr<Err: Display>>(&mut self, key: String, text: &str) -> Option<T> {
        text.parse().map_err(|error| self.add(key, format!("{error}"), "give it such a name")).ok()
    }

    /// Notes each value that occurs twice.
    pub(super) fn unique<T: Hash + Eq>(&mut self, key: &str, values: impl Iterator<Item = (T, String)>) {
        let mut seen = HashSet::new();
        for (value, text) in values {
            if !seen.insert(value) {
                self.add(key, format!("{text} occurs twice"), "name each once");
            }
        }
    }
}

/// Checks a whole file.
pub(super) fn check(raw: &RawConfig, path: &Path) -> Result<Config, ConfigErrors> {
    let mut faults = Faults { file: path.to_owned(), found: Vec::new(), warnings: Vec::new() };
    let node = check_node(&raw.node, &mut faults);
    if raw.pair.is_empty() {
        faults.add("pair", "expected at least one [[pair]]", "add one, see `lockstep config --example`");
    }
    let pairs: Vec<Pair> = raw
        .pair
        .iter()
        .enumerate()
        .filter_map(|(index, pair)| check_pair(pair, index, node.profile, &mut faults))
        .collect();
    across_pairs(&pairs, &mut faults);
    if faults.found.is_empty() {
        Ok(Config { node, pairs, warnings: faults.warnings })
    } else {
        Err(ConfigErrors(faults.found))
    }
}

fn check_node(raw: &RawNode, faults: &mut Faults) -> Node {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if raw.name.is_empty() || raw.name.len() > 63 || !raw.name.bytes().all(plain) {
        faults.add(
            "node.name",
            format!("\"{}\" is not a node name", raw.name),
            "use 1 to 63 letters, digits, \"-\", \".\" or \"_\"",
        );
    }
    let platform = raw.platform.clone().unwrap_or_else(|| PLATFORMS[0].to_owned());
    if !PLATFORMS.contains(&platform.as_str()) {
        faults.add(
            "node.platform",
            format!("\"{platform}\" is unknown"),
            format!("use one of {}", PLATFORMS.join(", ")),
        );
    }
    Node {
        name: raw.name.clone(),
        role: raw.role,
        platform,
        profile: raw.profile,
        io_backend: raw.io_backend,
    }
}

fn check_pair(raw: &RawPair, index: usize, profile: Profile, faults: &mut Faults) -> Option<Pair> {
    let key = |name: &str| format!("pair \"{}\" {name}", raw.id);
    let before = faults.found.len();
    let id: Option<PairId> = faults.name(format!("pair[{index}] id"), &raw.id);
    let commit_mode = check_commit_mode(raw.commit_mode.as_deref(), key("commit_mode"), faults);
    let peer_fingerprint =
        check_fingerprint(raw.peer_fingerprint.as_deref(), key("peer_fingerprint"), faults);
    let hold_off_s = raw.hold_off_s.unwrap_or(0);
    if hold_off_s > super::MAX_HOLD_OFF_S {
        faults.add(
            key("hold_off_s"),
            format!("expected 0 to {} seconds, found {hold_off_s}", super::MAX_HOLD_OFF_S),
            "use failover = \"manual\" if a person is to decide",
        );
    }
    let failback_after = check_failback(raw, &key("failback_after_s"), faults);
    let solo_after = check_solo_after(raw.solo_after.as_deref(), key("solo_after"), faults);
    let network = check_network::network(raw, profile, faults);
    let witness =
        raw.witness.as_ref().and_then(|w| check_arbiter::witness(w, &raw.id, &key("witness"), faults));
    let fence = raw.fence.as_ref().and_then(|f| check_arbiter::fence(f, &key("fence"), faults));
    let databases = check_workload::databases(&raw.database, &raw.id, faults);
    let trees = check_tree::trees(raw, &databases, faults);
    let apps = check_workload::apps(&raw.app, &raw.id, faults);
    let link = raw.link.as_ref();
    let cap = link.and_then(|link| link.bandwidth_max_mbit_s).filter(|cap| *cap > 0);
    if faults.found.len() > before {
        return None;
    }
    let network = network?;
    Some(Pair {
        id: id?,
        commit_mode: commit_mode?,
        peer_fingerprint: peer_fingerprint?,
        vips: network.vips,
        targets: network.targets,
        failover: raw.failover,
        failback_after,
        observe: raw.observe,
        hold_off_s,
        open_early_ms: raw.open_early_ms.unwrap_or(super::DEFAULT_OPEN_EARLY_MS),
        solo_after: solo_after?,
        strict: raw.strict,
        direct: network.direct,
        lan: network.lan,
        compression: link.map(|link| link.compression).unwrap_or_default(),
        bandwidth_max_mbit_s: cap,
        witness,
        fence,
        databases,
        trees,
        apps,
    })
}

fn check_commit_mode(text: Option<&str>, key: String, faults: &mut Faults) -> Option<Mode> {
    let text = text.unwrap_or("durable");
    let parsed = text.parse();
    if parsed.is_err() {
        let problem = format!("expected a commit mode, found \"{text}\"");
        faults.add(key, problem, "use \"local\", \"received\" or \"durable\"");
    }
    parsed.ok()
}

fn check_solo_after(text: Option<&str>, key: String, faults: &mut Faults) -> Option<SoloAfter> {
    let Some(text) = text else { return Some(SoloAfter::default()) };
    if text == "never" {
        return Some(SoloAfter::Never);
    }
    let number = |unit: &str| text.strip_suffix(unit).and_then(|number| number.parse().ok());
    let delay = number("ms").map(Duration::from_millis).or_else(|| number("s").map(Duration::from_secs));
    let allowed = delay.filter(|delay| *delay <= super::MAX_SOLO_AFTER);
    if allowed.is_none() {
        let problem = format!("expected a time of at most one day, or \"never\", found \"{text}\"");
        faults.add(key, problem, "write for example \"30s\" or \"500ms\"");
    }
    allowed.map(SoloAfter::Delay)
}

fn check_failback(raw: &RawPair, key: &str, faults: &mut Faults) -> Option<Duration> {
    let seconds = raw.failback_after_s.unwrap_or(super::DEFAULT_FAILBACK_AFTER_S);
    match raw.failback {
        super::FailbackType::Automatic => Some(Duration::from_secs(seconds.into())),
        super::FailbackType::Manual => {
            if raw.failback_after_s.is_some_and(|seconds| seconds != super::DEFAULT_FAILBACK_AFTER_S) {
                faults.warn(key, "has no effect while failback = \"manual\"");
            }
            None
        }
    }
}

fn check_fingerprint(text: Option<&str>, key: String, faults: &mut Faults) -> Option<Fingerprint> {
    let Some(text) = text else {
        faults.add(
            key,
            "expected the peer's fingerprint, found nothing",
            "run `lockstep identity` on the other node and copy the line it prints",
        );
        return None;
    };
    let parsed = text.parse();
    if parsed.is_err() {
        let shown: String = text.chars().take(80).collect();
        faults.add(
            key,
            format!("expected sha256: and 64 hexadecimal digits, found \"{shown}\""),
            "copy what `lockstep identity` prints on the other node",
        );
    }
    parsed.ok()
}

fn across_pairs(pairs: &[Pair], faults: &mut Faults) {
    faults.unique("pair id", pairs.iter().map(|p| (p.id.clone(), format!("\"{}\"", p.id))));
    let vips = pairs.iter().flat_map(|p| p.vips.iter().map(|v| (v.address, v.address.to_string())));
    let lists = pairs.len();
    if lists > 1 {
        faults.unique("pair vip", vips);
        let endpoints = pairs.iter().flat_map(|p| p.direct.iter().chain([&p.lan]));
        faults.unique(
            "pair port",
            endpoints.map(|e| ((e.address, e.port), format!("{} port {}", e.address, e.port))),
        );
        check_workload::paths_across(pairs, faults);
        check_tree::across(pairs, faults);
    }
}
