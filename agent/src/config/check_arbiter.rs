//! The rules for who decides between two nodes that do not hear each other.

use super::check::Faults;
use super::raw::{RawFence, RawWitness};
use super::{Fence, Witness};
use std::path::PathBuf;
use std::time::Duration;

/// Longest time a question to the witness may take: commits and takeovers wait for it.
const MAX_TIMEOUT_MS: u32 = 10_000;
/// Longest time until a peer must be off.
const MAX_FENCE_S: u32 = 120;
/// More than that only one etcd cluster in ten thousand has.
const MAX_ENDPOINTS: usize = 9;
/// Etcd takes longer ones; nobody needs them.
const MAX_KEY_BYTES: usize = 200;

/// Checks `[pair.witness]` of the pair `id`.
pub(super) fn witness(raw: &RawWitness, id: &str, key: &str, faults: &mut Faults) -> Option<Witness> {
    let before = faults.count();
    if raw.endpoints.is_empty() || raw.endpoints.len() > MAX_ENDPOINTS {
        let problem = format!("expected 1 to {MAX_ENDPOINTS} addresses, found {}", raw.endpoints.len());
        faults.add(format!("{key}.endpoints"), problem, "for example [\"http://10.0.0.5:2379\"]");
    }
    let endpoints: Vec<String> =
        raw.endpoints.iter().map(|text| text.trim_end_matches('/').to_owned()).collect();
    for endpoint in endpoints.iter().filter(|endpoint| !is_origin(endpoint)) {
        let problem = format!("expected http:// or https:// with host and port, found \"{endpoint}\"");
        faults.add(format!("{key}.endpoints"), problem, "for example \"http://10.0.0.5:2379\"");
    }
    let name = raw.key.clone().unwrap_or_else(|| format!("/lockstep/{id}"));
    if name.is_empty() || name.len() > MAX_KEY_BYTES || name.chars().any(char::is_control) {
        faults.add(format!("{key}.key"), "expected 1 to 200 printable characters", "leave it out");
    }
    let timeout_ms = raw.timeout_ms.unwrap_or(super::DEFAULT_WITNESS_TIMEOUT_MS);
    if timeout_ms == 0 || timeout_ms > MAX_TIMEOUT_MS {
        let problem = format!("expected 1 to {MAX_TIMEOUT_MS} ms, found {timeout_ms}");
        faults.add(
            format!("{key}.timeout_ms"),
            problem,
            "both commits and a takeover wait for the answer: keep it short",
        );
    }
    if raw.ca.is_none() && endpoints.iter().any(|endpoint| endpoint.starts_with("https://")) {
        faults.add(
            format!("{key}.ca"),
            "an https:// address needs it",
            "name the file with the cluster's certificate authority",
        );
    }
    both(&raw.certificate, &raw.private_key, &format!("{key}.certificate"), "private_key", faults);
    let user = raw.user.as_ref().map(PathBuf::from);
    both(&user, &raw.password_file, &format!("{key}.user"), "password_file", faults);
    let files = [&raw.ca, &raw.certificate, &raw.private_key, &raw.password_file];
    for file in files.into_iter().flatten().filter(|file| !file.is_absolute()) {
        faults.add(key, format!("expected an absolute path, found {}", file.display()), "write it from / on");
    }
    if raw.user.is_some() && endpoints.iter().any(|endpoint| endpoint.starts_with("http://")) {
        faults.warn(&format!("{key}.user"), "the password travels unencrypted to an http:// address");
    }
    (faults.count() == before).then(|| Witness {
        endpoints,
        key: name,
        timeout: Duration::from_millis(timeout_ms.into()),
        ca: raw.ca.clone(),
        certificate: raw.certificate.clone(),
        private_key: raw.private_key.clone(),
        user: raw.user.clone(),
        password_file: raw.password_file.clone(),
    })
}

/// Checks `[pair.fence]`.
pub(super) fn fence(raw: &RawFence, key: &str, faults: &mut Faults) -> Option<Fence> {
    let before = faults.count();
    let odd = |text: &str| text.chars().any(char::is_control);
    if raw.agent.is_empty() || odd(&raw.agent) || (raw.agent.contains('/') && !raw.agent.starts_with('/')) {
        let problem = format!("expected a name or an absolute path, found \"{}\"", raw.agent);
        faults.add(
            format!("{key}.agent"),
            problem,
            "for example \"fence_ipmilan\"; see the package fence-agents",
        );
    }
    for (name, value) in &raw.options {
        // The value may be a password.
        if name.is_empty() || name.contains('=') || odd(name) || odd(value) {
            faults.add(
                format!("{key}.options"),
                "expected one line for each option",
                "see the manual page of the fence agent",
            );
        } else if ["action", "delay"].contains(&name.as_str()) {
            faults.add(format!("{key}.options"), format!("\"{name}\" is given by Lockstep"), "remove it");
        }
    }
    let timeout_s = raw.timeout_s.unwrap_or(super::DEFAULT_FENCE_TIMEOUT_S);
    if timeout_s == 0 || timeout_s > MAX_FENCE_S {
        let problem = format!("expected 1 to {MAX_FENCE_S} seconds, found {timeout_s}");
        faults.add(format!("{key}.timeout_s"), problem, "as long as the agent needs to power the peer off");
    }
    (faults.count() == before).then(|| Fence {
        agent: raw.agent.clone(),
        options: raw.options.clone(),
        timeout: Duration::from_secs(timeout_s.into()),
    })
}

fn both(one: &Option<PathBuf>, other: &Option<PathBuf>, key: &str, name: &str, faults: &mut Faults) {
    if one.is_some() != other.is_some() {
        faults.add(key, format!("this and {name} belong together, found only one"), "give both, or neither");
    }
}

/// `http://host:port` without a path.
fn is_origin(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let port = rest.and_then(|rest| rest.rsplit_once(':'));
    port.is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(['/', '@', ' ']) && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}
