//! Where a node keeps its things; the same options on every verb.

use clap::Args;
use lockstep_wire::PairId;
use std::path::PathBuf;

/// The three places, by option, environment or default.
#[derive(Debug, Clone, Args)]
pub struct Paths {
    /// The configuration file.
    #[arg(long, global = true, env = "LOCKSTEP_CONFIG", value_name = "FILE", help_heading = "Places")]
    #[arg(default_value = "/etc/lockstep/lockstep.toml", hide_env_values = true)]
    pub config: PathBuf,
    /// Where identity, epochs, events and quarantine are kept.
    #[arg(long, global = true, env = "LOCKSTEP_STATE_DIR", value_name = "DIR", help_heading = "Places")]
    #[arg(default_value = "/var/lib/lockstep", hide_env_values = true)]
    pub state_dir: PathBuf,
    /// Where the agent's socket is.
    #[arg(long, global = true, env = "LOCKSTEP_RUNTIME_DIR", value_name = "DIR", help_heading = "Places")]
    #[arg(default_value = "/run/lockstep", hide_env_values = true)]
    pub runtime_dir: PathBuf,
}

impl Paths {
    /// The agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime_dir.join("agent.sock")
    }

    /// What is kept of one pair.
    pub fn pair_dir(&self, pair: &PairId) -> PathBuf {
        self.state_dir.join(pair.as_str())
    }

    /// The event log of one pair.
    pub fn events(&self, pair: &PairId) -> PathBuf {
        self.pair_dir(pair).join("events.db")
    }

    /// What diverged and was kept before a rewind or resync, one folder per epoch.
    pub fn quarantine(&self, pair: &PairId) -> PathBuf {
        self.pair_dir(pair).join("quarantine")
    }
}
