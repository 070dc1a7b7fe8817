//! The rules for what a pair protects: databases and applications.

use super::{
    App, AppRun, Database, Health, Pair, Watch,
    check::Faults,
    raw::{RawApp, RawCommand, RawDatabase},
};
use std::path::{Component, Path};
use std::time::Duration;

/// Checks `[[pair.database]]`.
pub(super) fn databases(raw: &[RawDatabase], pair: &str, faults: &mut Faults) -> Vec<Database> {
    if raw.is_empty() {
        faults.add(
            format!("pair \"{pair}\" database"),
            "expected at least one [[pair.database]]",
            "add one with name and primary",
        );
    }
    let all: Vec<Database> = raw.iter().filter_map(|raw| database(raw, pair, faults)).collect();
    let key = format!("pair \"{pair}\" database");
    faults.unique(&format!("{key} name"), all.iter().map(|d| (&d.name, format!("\"{}\"", d.name))));
    faults
        .unique(&format!("{key} primary"), all.iter().map(|d| (&d.primary, d.primary.display().to_string())));
    faults.unique(
        &format!("{key} secondary"),
        all.iter().map(|d| (&d.secondary, d.secondary.display().to_string())),
    );
    all
}

fn database(raw: &RawDatabase, pair: &str, faults: &mut Faults) -> Option<Database> {
    let key = format!("pair \"{pair}\" database \"{}\"", raw.name);
    let name = faults.name(format!("{key} name"), &raw.name);
    let secondary = raw.secondary.as_ref().unwrap_or(&raw.primary);
    let mut sound = absolute(&raw.primary, &format!("{key} primary"), faults);
    if raw.secondary.is_some() {
        sound &= absolute(secondary, &format!("{key} secondary"), faults);
    }
    let checkpoint_frames = raw.checkpoint_frames.unwrap_or(super::DEFAULT_CHECKPOINT_FRAMES);
    if checkpoint_frames == 0 {
        faults.add(
            format!("{key} checkpoint_frames"),
            "expected at least 1, found 0",
            "1000 is SQLite's own default",
        );
        sound = false;
    }
    let wal_retain_max_mib = raw.wal_retain_max_mib.unwrap_or(super::DEFAULT_WAL_RETAIN_MAX_MIB);
    if wal_retain_max_mib == 0 {
        faults.add(
            format!("{key} wal_retain_max_mib"),
            "expected at least 1, found 0",
            "1024 is the default",
        );
        sound = false;
    }
    let name = name?;
    sound.then(|| Database {
        name,
        primary: raw.primary.clone(),
        secondary: secondary.clone(),
        checkpoint_frames,
        wal_retain_max_mib,
        scrub_max_kib_s: raw.scrub_max_kib_s.unwrap_or(super::DEFAULT_SCRUB_MAX_KIB_S),
    })
}

pub(super) fn absolute(path: &Path, key: &str, faults: &mut Faults) -> bool {
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let sound = path.is_absolute() && plain && path.file_name().is_some();
    if !sound {
        faults.add(
            key,
            format!("expected an absolute path without \"..\", found \"{}\"", path.display()),
            "write the whole path, beginning with /",
        );
    }
    sound
}

/// Paths that two pairs of this node share; each database belongs to one pair.
pub(super) fn paths_across(pairs: &[Pair], faults: &mut Faults) {
    let all = || pairs.iter().flat_map(|pair| &pair.databases);
    faults.unique("pair database primary", all().map(|d| (&d.primary, d.primary.display().to_string())));
    faults
        .unique("pair database secondary", all().map(|d| (&d.secondary, d.secondary.display().to_string())));
}

/// Checks `[[pair.app]]`.
pub(super) fn apps(raw: &[RawApp], pair: &str, faults: &mut Faults) -> Vec<App> {
    let all: Vec<App> = raw.iter().filter_map(|raw| app(raw, pair, faults)).collect();
    faults.unique(
        &format!("pair \"{pair}\" app name"),
        all.iter().map(|a| (&a.name, format!("\"{}\"", a.name))),
    );
    all
}

fn app(raw: &RawApp, pair: &str, faults: &mut Faults) -> Option<App> {
    let key = format!("pair \"{pair}\" app \"{}\"", raw.name);
    if raw.name.is_empty() || raw.name.len() > 63 || raw.name.contains(|c: char| c.is_control() || c == '/') {
        faults.add(format!("{key} name"), "expected 1 to 63 characters without \"/\"", "give it such a name");
        return None;
    }
    let run = match (&raw.unit, &raw.command) {
        (Some(unit), None) => unit_name(unit, &key, faults).map(AppRun::Unit),
        (None, Some(command)) => arguments(command, &format!("{key} command"), faults).map(AppRun::Command),
        _ => {
            faults.add(key.clone(), "expected either unit or command", "give exactly one of them");
            None
        }
    };
    let health = match &raw.health {
        None => None,
        Some(RawCommand::Line(url)) if url.contains("://") => Some(address(url, &key, faults)?),
        Some(command) => Some(Health::Command(arguments(command, &format!("{key} health"), faults)?)),
    };
    let stop_timeout_s = raw.stop_timeout_s.unwrap_or(super::DEFAULT_STOP_TIMEOUT_S);
    let watch = watch(raw, &key, faults)?;
    Some(App { name: raw.name.clone(), run: run?, health, watch, stop_timeout_s })
}

fn watch(raw: &RawApp, key: &str, faults: &mut Faults) -> Option<Watch> {
    let usual = super::DEFAULT_WATCH;
    let numbers = [
        ("health_interval_ms", raw.health_interval_ms, 10),
        ("health_timeout_ms", raw.health_timeout_ms, 1),
        ("health_failures", raw.health_failures, 1),
        ("health_successes", raw.health_successes, 1),
        ("restart_window_s", raw.restart_window_s, 1),
        ("start_timeout_s", raw.start_timeout_s, 1),
    ];
    let before = faults.count();
    for (name, value, least) in numbers {
        if let Some(value) = value.filter(|value| *value < least) {
            let problem = format!("expected at least {least}, found {value}");
            faults.add(format!("{key} {name}"), problem, "leave it out for the usual value");
        }
    }
    let of = |value: Option<u32>, unit: fn(u64) -> Duration, usual| value.map_or(usual, |v| unit(v.into()));
    (faults.count() == before).then(|| Watch {
        interval: of(raw.health_interval_ms, Duration::from_millis, usual.interval),
        timeout: of(raw.health_timeout_ms, Duration::from_millis, usual.timeout),
        failures: raw.health_failures.unwrap_or(usual.failures),
        successes: raw.health_successes.unwrap_or(usual.successes),
        restarts: raw.restarts.unwrap_or(usual.restarts),
        restart_window: of(raw.restart_window_s, Duration::from_secs, usual.restart_window),
        start_timeout: of(raw.start_timeout_s, Duration::from_secs, usual.start_timeout),
    })
}

fn unit_name(unit: &str, key: &str, faults: &mut Faults) -> Option<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._@:\\".contains(&b);
    let sound = !unit.is_empty() && !unit.starts_with('-') && unit.bytes().all(plain);
    if !sound {
        faults.add(
            format!("{key} unit"),
            format!("\"{unit}\" is not a systemd unit"),
            "for example \"shop.service\"",
        );
    }
    sound.then(|| unit.to_owned())
}

/// `http://` and what follows, or `tcp://` and a host with its port.
fn address(url: &str, key: &str, faults: &mut Faults) -> Option<Health> {
    let plain = !url.contains(char::is_whitespace);
    let host = |rest: &str| rest.split('/').next().is_some_and(|host| !host.is_empty());
    if plain && url.strip_prefix("http://").is_some_and(host) {
        return Some(Health::Http(url.to_owned()));
    }
    let end = |rest: &&str| {
        let port = rest.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
        port.and_then(|port| port.parse::<u16>().ok()).is_some_and(|port| port > 0)
    };
    if let Some(rest) = url.strip_prefix("tcp://").filter(|_| plain).filter(end) {
        return Some(Health::Tcp(rest.to_owned()));
    }
    faults.add(
        format!("{key} health"),
        format!("expected an http:// address, tcp:// with host and port, or a command, found \"{url}\""),
        "for example \"http://127.0.0.1:80/health\" or \"tcp://127.0.0.1:80\"",
    );
    None
}

/// A shell line runs by the shell, a list as it is.
fn arguments(command: &RawCommand, key: &str, faults: &mut Faults) -> Option<Vec<String>> {
    let list = match command {
        RawCommand::Line(line) if line.trim().is_empty() => Vec::new(),
        RawCommand::Line(line) => vec!["/bin/sh".into(), "-c".into(), line.clone()],
        RawCommand::Arguments(list) => list.clone(),
    };
    if list.first().is_none_or(String::is_empty) || list.iter().any(|a| a.contains('\0')) {
        faults.add(
            key,
            "expected a program and its arguments, found nothing",
            "for example [\"/usr/bin/shop\"]",
        );
        return None;
    }
    Some(list)
}
