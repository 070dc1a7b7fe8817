//! The manifest of one kept database: JSON, written last, so that what lies beside it is whole.
//!
//! Numbers that programs compare are text in the forms used everywhere else (epochs, positions) or
//! hexadecimal. Who writes it, and when, is [`super`]'s.

use super::{Kept, Why};
use crate::wal::WalPoint;
use bytes::Bytes;
use lockstep_wire::{Chain, Salts};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The name of the file.
pub(super) const FILE: &str = "manifest.json";

/// Version of the form.
const SCHEMA: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Manifest {
    schema: u32,
    pair: String,
    database: String,
    epoch: String,
    why: Why,
    fork: Option<Fork>,
    last: String,
    last_chain: String,
    salts: String,
    database_bytes: u64,
    wal_bytes: u64,
    database_xxh3: String,
    wal_xxh3: String,
    kept_at_unix_s: u64,
}

#[derive(Serialize, Deserialize)]
struct Fork {
    position: String,
    chain: String,
}

impl Kept {
    pub(super) fn encode(&self) -> Bytes {
        let fork = self.fork.map(|fork| Fork {
            position: fork.position.to_string(),
            chain: hexadecimal(fork.chain.packed()),
        });
        let manifest = Manifest {
            schema: SCHEMA,
            pair: self.pair.to_string(),
            database: self.database.to_string(),
            epoch: self.epoch.to_string(),
            why: self.why,
            fork,
            last: self.last.to_string(),
            last_chain: hexadecimal(self.chain.packed()),
            salts: hexadecimal(self.salts.packed()),
            database_bytes: self.database_bytes,
            wal_bytes: self.wal_bytes,
            database_xxh3: hexadecimal(self.database_xxh3),
            wal_xxh3: hexadecimal(self.wal_xxh3),
            kept_at_unix_s: self.kept_at_unix_s,
        };
        let mut text = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
        text.push(b'\n');
        text.into()
    }

    pub(super) fn decode(directory: PathBuf, text: &[u8]) -> Option<Self> {
        let manifest: Manifest = serde_json::from_slice(text).ok()?;
        if manifest.schema != SCHEMA {
            return None;
        }
        let salts = Salts::from_packed(number(&manifest.salts)?);
        let fork = match manifest.fork {
            None => None,
            Some(fork) => Some(WalPoint {
                position: fork.position.parse().ok()?,
                chain: Chain::from_packed(number(&fork.chain)?),
                salts,
            }),
        };
        Some(Self {
            directory,
            pair: manifest.pair.parse().ok()?,
            epoch: manifest.epoch.parse().ok()?,
            database: manifest.database.parse().ok()?,
            why: manifest.why,
            fork,
            last: manifest.last.parse().ok()?,
            chain: Chain::from_packed(number(&manifest.last_chain)?),
            salts,
            database_bytes: manifest.database_bytes,
            wal_bytes: manifest.wal_bytes,
            database_xxh3: number(&manifest.database_xxh3)?,
            wal_xxh3: number(&manifest.wal_xxh3)?,
            kept_at_unix_s: manifest.kept_at_unix_s,
        })
    }
}

fn hexadecimal(number: u64) -> String {
    format!("{number:016x}")
}

fn number(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_wire::{Epoch, FrameNo, NodeId, Position, WalGeneration};

    #[test]
    fn a_manifest_survives_its_text_and_half_of_it_is_none() {
        let position = |frame| Position { generation: WalGeneration(2), frame: FrameNo(frame) };
        let salts = Salts([3, 4]);
        let kept = Kept {
            directory: "/q/1/app".into(),
            pair: "shop".parse().unwrap(),
            epoch: Epoch { counter: 4, node: NodeId(7) },
            database: "app".parse().unwrap(),
            why: Why::Diverged,
            fork: Some(WalPoint { position: position(9), chain: Chain([5, 6]), salts }),
            last: position(11),
            chain: Chain([1, 2]),
            salts,
            database_bytes: 8192,
            wal_bytes: 4152,
            database_xxh3: u64::MAX,
            wal_xxh3: 1,
            kept_at_unix_s: 1,
        };
        let text = kept.encode();
        assert_eq!(Kept::decode(kept.directory.clone(), &text), Some(kept.clone()));
        assert_eq!(Kept::decode(kept.directory, &text[..text.len() / 2]), None);
    }
}
