//! The heartbeat datagram: who I am, what I have heard from you, and what I grant you.
//!
//! Sent each period on every path, and once more at once as an echo. All failover talk is in
//! here as *state*, so that loss, delay and doubling do no harm. Sealing (AES-256-GCM) and
//! replay protection are in `lockstep`'s heartbeat module; meaning is in `lockstep-failover`.

/// One heartbeat, the plain text of a sealed datagram. Times are microseconds of the *sender's*
/// CLOCK_BOOTTIME unless a field says otherwise; no two nodes' clocks are ever compared.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Heartbeat {
    /// The sender's session.
    #[prost(fixed64, tag = "1")]
    pub session: u64,
    /// Grows with every datagram of the session, over all paths.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// When this datagram was sent.
    #[prost(fixed64, tag = "3")]
    pub sent_us: u64,
    /// True: sent only to echo (answers are never answered).
    #[prost(bool, tag = "4")]
    pub is_echo: bool,
    /// Session of the newest heartbeat received from the peer; 0: none, or silent on purpose.
    #[prost(fixed64, tag = "5")]
    pub echo_session: u64,
    /// `sent_us` of that heartbeat, on the receiver's clock.
    #[prost(fixed64, tag = "6")]
    pub echo_sent_us: u64,
    /// How long the sender held it before this datagram left, for the round trip.
    #[prost(uint32, tag = "7")]
    pub echo_held_us: u32,
    /// The sender's epoch.
    #[prost(fixed64, tag = "8")]
    pub epoch_counter: u64,
    /// Node of that epoch.
    #[prost(fixed64, tag = "9")]
    pub epoch_node: u64,
    /// The sender serves (holds or may renew the VIP lease).
    #[prost(bool, tag = "10")]
    pub active: bool,
    /// The sender acknowledges commits alone, or is about to: mark yourself outdated.
    #[prost(bool, tag = "11")]
    pub solo: bool,
    /// The sender durably knows that it may lack acknowledged commits.
    #[prost(bool, tag = "12")]
    pub outdated: bool,
    /// The grant: valid for this long after the `echo_sent_us` it stands beside; 0: no grant.
    #[prost(uint32, tag = "13")]
    pub grant_us: u32,
    /// How often the sender sends.
    #[prost(uint32, tag = "14")]
    pub period_us: u32,
    /// How long the sender's lease is.
    #[prost(uint32, tag = "15")]
    pub lease_us: u32,
    /// What the sender intends, see [`Intent`].
    #[prost(enumeration = "Intent", tag = "16")]
    pub intent: i32,
    /// The epoch the intent is about (counter).
    #[prost(fixed64, tag = "17")]
    pub intent_counter: u64,
    /// Acknowledged commits only the sender has (solo), 0 otherwise; for the operator.
    #[prost(uint64, tag = "18")]
    pub solo_commits: u64,
    /// The sender stands by and may be handed the service: its LAN, disk and application let it.
    #[prost(bool, tag = "19")]
    pub fit: bool,
    /// The sender's operator switched automatic moves off: the receiver makes none either.
    #[prost(bool, tag = "20")]
    pub hands_off: bool,
}

impl Heartbeat {
    /// Replaces the contents of `out` by the plain text of the datagram. Does not allocate once
    /// `out` has grown.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.clear();
        prost::Message::encode(self, out).expect("a Vec takes any length");
    }

    /// A heartbeat from plain text; unknown fields are skipped.
    ///
    /// # Errors
    /// What the decoder found; the bytes are not a heartbeat.
    pub fn from_plain(plain: &[u8]) -> Result<Self, prost::DecodeError> {
        prost::Message::decode(plain)
    }

    /// The epoch it carries.
    pub fn epoch(&self) -> crate::Epoch {
        crate::Epoch { counter: self.epoch_counter, node: crate::NodeId(self.epoch_node) }
    }
}

/// What a heartbeat says besides "I am alive".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Intent {
    /// Nothing.
    None = 0,
    /// "I am about to promote with this epoch": any answer cancels.
    Promote = 1,
    /// "Please switch over to me": a request by an operator on the standby.
    SwitchoverWanted = 2,
    /// "I have released the VIP and the right to write: claim it" (switchover).
    Released = 3,
    /// "I durably refuse to serve with this epoch: take it back."
    Refused = 4,
}
