//! Protocol versions and what each changed.
//!
//! Two nodes speak the highest version both know; without a common one the connection is refused.

/// One version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtocolVersion {
    /// The number in frame headers and [`crate::Hello`].
    pub number: u16,
    /// What it changed, for docs/protocol.md.
    pub change: &'static str,
}

impl ProtocolVersion {
    /// The newest version this software speaks.
    pub const CURRENT: u16 = 1;

    /// The oldest version this software speaks.
    pub const OLDEST: u16 = 1;

    /// The version to speak with a peer that speaks `min..=max`, if there is one.
    pub fn common(peer_min: u32, peer_max: u32) -> Option<u16> {
        let newest = peer_max.min(u32::from(Self::CURRENT));
        let oldest = peer_min.max(u32::from(Self::OLDEST));
        (oldest <= newest).then_some(newest as u16)
    }
}

/// All versions, oldest first.
pub const VERSIONS: &[ProtocolVersion] = &[ProtocolVersion { number: 1, change: "first version" }];
