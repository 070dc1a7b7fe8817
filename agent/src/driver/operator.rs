//! What the operator switched on for longer than one life of the agent: maintenance, observe.

use lockstep_engine::durable::write_file_durably_blocking;
use lockstep_failover::Request;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// In the pair's state directory.
const FILE: &str = "operator.json";

/// The switches and where they are kept.
#[derive(Debug, Clone)]
pub(super) struct Switches {
    file: PathBuf,
    now: Set,
    /// The configuration says so.
    observe: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    maintenance: bool,
    observe: bool,
}

impl Switches {
    /// As the last life left them; none in a new pair. `observe` of the configuration outranks its switch.
    ///
    /// # Errors
    /// The file cannot be read or is not understood: guessing could move a service in maintenance.
    pub(super) fn load(state_dir: &Path, observe: bool) -> anyhow::Result<Self> {
        let file = state_dir.join(FILE);
        let now = match std::fs::read_to_string(&file) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| {
                anyhow::anyhow!(
                    "{}: {error}: remove it to switch maintenance and observe off",
                    file.display()
                )
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Set::default(),
            Err(error) => anyhow::bail!("{}: {error}", file.display()),
        };
        Ok(Self { file, now, observe })
    }

    /// What the machine is told first.
    pub(super) fn requests(&self) -> Vec<Request> {
        let Set { maintenance, observe } = self.now;
        let observe = observe || self.observe;
        let wanted = [(maintenance, Request::Maintenance(true)), (observe, Request::Observe(true))];
        wanted.into_iter().filter(|(on, _)| *on).map(|(_, request)| request).collect()
    }

    /// Keeps a switch; anything else changes nothing.
    ///
    /// # Errors
    /// The disk did not take it: it holds in this life only.
    pub(super) fn keep(&mut self, request: Request) -> Result<(), String> {
        let mut set = self.now;
        match request {
            Request::Maintenance(on) => set.maintenance = on,
            Request::Observe(on) => set.observe = on,
            _ => return Ok(()),
        }
        self.now = set;
        let text = serde_json::to_string(&set).expect("two flags always encode");
        write_file_durably_blocking(&self.file, text)
            .map_err(|error| format!("{} cannot be written: {error}", self.file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_outlive_an_agent_and_a_damaged_file_is_named() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut switches = Switches::load(dir.path(), false).expect("none yet");
        assert_eq!(switches.requests(), []);
        switches.keep(Request::Maintenance(true)).expect("written");
        switches.keep(Request::Switchover).expect("nothing to keep");
        let mut again = Switches::load(dir.path(), false).expect("reads back");
        assert_eq!(again.requests(), [Request::Maintenance(true)]);
        again.keep(Request::Observe(true)).expect("written");
        again.keep(Request::Maintenance(false)).expect("written");
        assert_eq!(
            Switches::load(dir.path(), false).expect("reads back").requests(),
            [Request::Observe(true)]
        );
        let observing = Switches::load(dir.path(), true).expect("reads back");
        assert_eq!(observing.requests(), [Request::Observe(true)]);
        std::fs::write(dir.path().join(FILE), "{\"maintenance\":").expect("damaged");
        let error = Switches::load(dir.path(), false).expect_err("it is not guessed").to_string();
        assert!(error.contains(FILE) && error.contains("remove it"), "{error}");
    }
}
