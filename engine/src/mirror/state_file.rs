//! `mirror.state`: what cannot be read off the WAL itself.
//!
//! Text, one `word value` per line, closed by a checksum. It says whether this node mirrors the
//! database or writes it, whether the copy is complete, and which generation the salts of a WAL
//! mean: the one in use and, during a switch, the next; and where this node took over, if it did. How far the WAL goes is never written here;
//! its own checksums say that.

use crate::sealed_text::{seal, unseal};
use crate::wal::WalPoint;
use lockstep_wire::{Chain, FrameNo, Position, Salts, WalGeneration};

const TITLE: &str = "lockstep-mirror 1";

/// Contents of `mirror.state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct StateFile {
    /// This node mirrors the database; false: it writes it.
    pub(crate) mirrors: bool,
    /// The database file and the WAL together are a sound database.
    pub(crate) complete: bool,
    /// Page size in bytes, 0 when unknown.
    pub(crate) page_size: u32,
    /// Inode of the WAL.
    pub(crate) wal_inode: u64,
    /// Generation by salts: in use, and next.
    pub(crate) generations: [Option<(WalGeneration, Salts)>; 2],
    /// The last commit of the mirror that this node has opened to write it.
    pub(crate) took_over: Option<WalPoint>,
}

impl StateFile {
    /// The generation that a WAL with these salts is.
    pub(crate) fn generation_of(&self, salts: Salts) -> Option<WalGeneration> {
        self.generations
            .iter()
            .flatten()
            .rev()
            .find(|(_, known)| *known == salts)
            .map(|(generation, _)| *generation)
    }

    pub(crate) fn encode(&self) -> String {
        let mut text = format!(
            "{TITLE}\nrole {}\ncomplete {}\npage_size {}\nwal_inode {}\n",
            if self.mirrors { "mirror" } else { "active" },
            self.complete,
            self.page_size,
            self.wal_inode,
        );
        for (generation, salts) in self.generations.iter().flatten() {
            text.push_str(&format!("generation {} {:016x}\n", generation.0, salts.packed()));
        }
        if let Some(WalPoint { position, chain, salts }) = self.took_over {
            let (chain, salts) = (chain.packed(), salts.packed());
            text.push_str(&format!(
                "took_over {} {} {chain:016x} {salts:016x}\n",
                position.generation.0, position.frame.0
            ));
        }
        seal(text)
    }

    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn decode(text: &str) -> Result<Self, String> {
        let mut state = Self::default();
        let mut generations = state.generations.iter_mut();
        for line in unseal(text, TITLE)? {
            let wrong = || format!("line \"{line}\" is not understood");
            let (key, value) = line.split_once(' ').ok_or_else(wrong)?;
            match key {
                "role" => state.mirrors = value == "mirror",
                "complete" => state.complete = value.parse().map_err(|_| wrong())?,
                "page_size" => state.page_size = value.parse().map_err(|_| wrong())?,
                "wal_inode" => state.wal_inode = value.parse().map_err(|_| wrong())?,
                "generation" => {
                    let (generation, salts) = value.split_once(' ').ok_or_else(wrong)?;
                    let generation = WalGeneration(generation.parse().map_err(|_| wrong())?);
                    let salts = Salts::from_packed(u64::from_str_radix(salts, 16).map_err(|_| wrong())?);
                    *generations.next().ok_or_else(wrong)? = Some((generation, salts));
                }
                "took_over" => state.took_over = Some(decode_point(value).ok_or_else(wrong)?),
                _ => return Err(wrong()),
            }
        }
        Ok(state)
    }
}

fn decode_point(text: &str) -> Option<WalPoint> {
    let mut words = text.split(' ');
    let generation = WalGeneration(words.next()?.parse().ok()?);
    let frame = FrameNo(words.next()?.parse().ok()?);
    let mut packed = || u64::from_str_radix(words.next()?, 16).ok();
    let (chain, salts) = (Chain::from_packed(packed()?), Salts::from_packed(packed()?));
    words.next().is_none().then_some(WalPoint { position: Position { generation, frame }, chain, salts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_file_survives_its_text_and_any_changed_byte_is_noticed() {
        let state = StateFile {
            mirrors: true,
            complete: true,
            page_size: 4096,
            wal_inode: 7,
            generations: [Some((WalGeneration(3), Salts([1, 2]))), Some((WalGeneration(4), Salts([2, 9])))],
            took_over: Some(WalPoint {
                position: Position { generation: WalGeneration(4), frame: FrameNo(17) },
                chain: Chain([5, 6]),
                salts: Salts([2, 9]),
            }),
        };
        let text = state.encode();
        assert_eq!(StateFile::decode(&text), Ok(state));
        for at in 0..text.len() - 1 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(changed) = String::from_utf8(bytes) {
                assert!(StateFile::decode(&changed).is_err(), "byte {at}");
            }
        }
    }
}
