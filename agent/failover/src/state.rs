//! What a node must remember about its pair over a restart, and its text form.
//!
//! The file is one checked line and JSON: `lockstep-pair-state 1 crc32 <8 hex>`. Writing it is
//! `engine::durable`'s. A state that is damaged, foreign or newer is refused: guessing here could
//! make two nodes serve.

use lockstep_wire::{Epoch, Position};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the text form.
pub const VERSION: u32 = 1;
/// Epochs kept in the lineage; older ones are of no use to a peer that must copy anyway.
pub const LINEAGE_MAX: usize = 64;
/// Largest text accepted: far above what [`LINEAGE_MAX`] epochs of a few databases take.
pub const TEXT_MAX_BYTES: usize = 1 << 20;

/// What this node last was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Was {
    /// It never served and never followed.
    Never,
    /// It served.
    Active,
    /// It followed.
    Standby,
}

/// One epoch in the history of the data.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fork {
    /// The epoch that began.
    pub epoch: Epoch,
    /// Where its holder's databases stood when it began.
    pub positions: BTreeMap<String, Position>,
}

/// The durable state of one pair on one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PairState {
    /// The newest epoch this node claimed or accepted.
    pub epoch: Epoch,
    /// Epochs it went through, oldest first.
    pub lineage: Vec<Fork>,
    /// What it last was, under `epoch`.
    pub was: Was,
    /// Active: it may have acknowledged commits alone. Cleared before the first grant.
    pub solo: bool,
    /// Standby: it may lack acknowledged commits.
    pub outdated: bool,
    /// An intent that was neither fulfilled nor cancelled.
    pub intent: Option<Epoch>,
    /// The operator forced this node to serve although commits might be missing.
    pub forced: bool,
    /// It released the VIP under `epoch` and nobody has claimed since.
    pub released: bool,
    /// It refused to claim after the release under this epoch.
    pub refused: Option<Epoch>,
}

impl PairState {
    /// A node that has never been in a pair.
    pub fn new() -> Self {
        Self {
            epoch: Epoch::NONE,
            lineage: Vec::new(),
            was: Was::Never,
            solo: false,
            outdated: true,
            intent: None,
            forced: false,
            released: false,
            refused: None,
        }
    }

    /// The text to store.
    pub fn to_text(&self) -> String {
        let json = serde_json::to_string_pretty(&Raw::from(self)).expect("strings and flags always encode");
        let crc = crc32fast::hash(json.as_bytes());
        format!("lockstep-pair-state {VERSION} crc32 {crc:08x}\n{json}\n")
    }

    /// The state in a stored text.
    ///
    /// # Errors
    /// [`StateError`] with the remedy; the text is never guessed at.
    pub fn from_text(text: &str) -> Result<Self, StateError> {
        if text.len() > TEXT_MAX_BYTES {
            return Err(StateError::Long(text.len()));
        }
        let (head, json) = text.split_once('\n').ok_or(StateError::Head(first_bytes(text)))?;
        let words: Vec<&str> = head.split(' ').collect();
        let ["lockstep-pair-state", version, "crc32", crc] = words[..] else {
            return Err(StateError::Head(first_bytes(head)));
        };
        if version != VERSION.to_string() {
            return Err(StateError::Version(first_bytes(version)));
        }
        let json = json.strip_suffix('\n').ok_or(StateError::Crc)?;
        if format!("{:08x}", crc32fast::hash(json.as_bytes())) != crc {
            return Err(StateError::Crc);
        }
        let raw: Raw = serde_json::from_str(json).map_err(|error| StateError::Content(error.to_string()))?;
        raw.checked()
    }
}

impl Default for PairState {
    fn default() -> Self {
        Self::new()
    }
}

fn first_bytes(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Why a stored text is not a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The first line is another.
    #[error(
        "pair.state: expected \"lockstep-pair-state {VERSION} crc32 ..\", found \"{0}\": restore the file or `lockstep unpair` and pair anew"
    )]
    Head(String),
    /// Another version of the text form.
    #[error("pair.state has version {0}, this software reads {VERSION}: run the software that wrote it")]
    Version(String),
    /// The checksum differs.
    #[error(
        "pair.state is damaged (its checksum differs): restore the file or `lockstep unpair` and pair anew"
    )]
    Crc,
    /// Too long to be ours.
    #[error("pair.state has {0} bytes, at most {TEXT_MAX_BYTES} are expected: restore the file")]
    Long(usize),
    /// The checksum is right and the content is not.
    #[error("pair.state is not understood: {0}: run the software that wrote it")]
    Content(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    epoch: String,
    was: Was,
    solo: bool,
    outdated: bool,
    intent: Option<String>,
    forced: bool,
    released: bool,
    refused: Option<String>,
    lineage: Vec<RawFork>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFork {
    epoch: String,
    positions: BTreeMap<String, String>,
}

impl From<&PairState> for Raw {
    fn from(state: &PairState) -> Self {
        let fork = |fork: &Fork| RawFork {
            epoch: fork.epoch.to_string(),
            positions: fork.positions.iter().map(|(name, at)| (name.clone(), at.to_string())).collect(),
        };
        Self {
            epoch: state.epoch.to_string(),
            was: state.was,
            solo: state.solo,
            outdated: state.outdated,
            intent: state.intent.map(|epoch| epoch.to_string()),
            forced: state.forced,
            released: state.released,
            refused: state.refused.map(|epoch| epoch.to_string()),
            lineage: state.lineage.iter().map(fork).collect(),
        }
    }
}

impl Raw {
    fn checked(self) -> Result<PairState, StateError> {
        let content = |error: lockstep_wire::IdError| StateError::Content(error.to_string());
        let mut lineage = Vec::with_capacity(self.lineage.len());
        for fork in self.lineage {
            let mut positions = BTreeMap::new();
            for (name, at) in fork.positions {
                positions.insert(name, at.parse().map_err(content)?);
            }
            lineage.push(Fork { epoch: fork.epoch.parse().map_err(content)?, positions });
        }
        let epoch: Epoch = self.epoch.parse().map_err(content)?;
        if self.was == Was::Active && epoch == Epoch::NONE {
            return Err(StateError::Content("it was active without an epoch".to_owned()));
        }
        Ok(PairState {
            epoch,
            lineage,
            was: self.was,
            solo: self.solo,
            outdated: self.outdated,
            intent: self.intent.map(|text| text.parse().map_err(content)).transpose()?,
            forced: self.forced,
            released: self.released,
            refused: self.refused.map(|text| text.parse().map_err(content)).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests;
