//! SQLite's on-disk formats, pure: WAL header, frame, chain checksum, wal-index header.

use lockstep_wire::{Chain, Position, Salts};

/// A point in a WAL that can be proven: position, the running checksum after its frame, and the salts.
/// Two WALs with an equal point are byte-for-byte equal through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WalPoint {
    /// Generation and last frame; frame 0: the WAL is empty.
    pub position: Position,
    /// Running checksum after that frame; of the header when the frame is 0.
    pub chain: Chain,
    /// Salts of the WAL header.
    pub salts: Salts,
}
