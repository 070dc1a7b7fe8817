//! Why there is no data connection, each as one sentence with the remedy.
//!
//! Used by every file of the link; the connector logs these, the pair session acts on a few of
//! them (a higher epoch demotes). What travels to the peer is a [`Refusal`] made from the same sentence.

use super::identity::Fingerprint;
use lockstep_wire::{Epoch, FrameError, MessageError, Refusal};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// Why a connection was not made, or ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LinkError {
    /// The peer's certificate is another one than configured.
    #[error(
        "the peer's certificate is {found}, this node has pinned {pinned}: if the peer's identity was renewed on purpose, set peer_fingerprint to the new one; otherwise a foreign machine answers at this address"
    )]
    NotPinned {
        /// From the configuration.
        pinned: Fingerprint,
        /// What the peer showed.
        found: Fingerprint,
    },
    /// The peer refuses our certificate.
    #[error("the peer does not accept this node's certificate {0}: set peer_fingerprint on the peer to it")]
    OurCertificate(Fingerprint),
    /// The peer's certificate without the peer's key.
    #[error(
        "the other end shows the peer's certificate without having its key: a foreign machine answers at this address; find it before connecting again"
    )]
    Impostor,
    /// The other end does not speak Lockstep, or another one of its services.
    #[error(
        "the other end does not speak lockstep/1 over TLS 1.3 ({0}): check address and port, and run the same software version on both nodes"
    )]
    NotLockstep(String),
    /// TLS found altered or malformed bytes.
    #[error(
        "TLS refuses what came over the link ({0}): check cable and NIC; something alters bytes on the way"
    )]
    Tls(String),
    /// The certificates fit, the greeting does not.
    #[error("{}", .0.sentence)]
    Refused(Refusal),
    /// The peer closed the connection and said why.
    #[error("the peer refused: {}", .0.sentence)]
    RefusedByPeer(Refusal),
    /// The peer (or this node) stopped using this connection on purpose.
    #[error("closed on purpose: {0}")]
    Goodbye(String),
    /// A frame is not one.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// A frame's body is not a message.
    #[error("{0}")]
    Message(#[from] MessageError),
    /// A message of an older epoch: the sender has lost the right to write.
    #[error(
        "{message} message of epoch {theirs} refused, this node is at {ours}: the sender was replaced and has to demote"
    )]
    OlderEpoch {
        /// Name of the message.
        message: &'static str,
        /// This node's.
        ours: Epoch,
        /// The sender's.
        theirs: Epoch,
    },
    /// A message of a newer epoch: this node has to adopt it, and to demote if it is active.
    #[error(
        "the peer is at epoch {theirs}, this node at {ours}: this node was replaced and has to demote or to follow"
    )]
    HigherEpoch {
        /// This node's.
        ours: Epoch,
        /// The peer's.
        theirs: Epoch,
    },
    /// Nothing was heard for too long.
    #[error("nothing was heard from the peer for {} ms: check cable and peer", .0.as_millis())]
    Silent(Duration),
    /// The stream ended without a word.
    #[error(
        "the peer closed the connection without a word: look at its log; it may have stopped or lost power"
    )]
    Cut,
    /// Handshake or greeting took too long.
    #[error("the peer accepted the connection and then did not greet within {} ms: check that it runs", .0.as_millis())]
    NoGreeting(Duration),
    /// No TCP connection within the time allowed.
    #[error("{peer} does not answer within {} ms: check cable, address, and that the peer runs", .after.as_millis())]
    NoAnswer {
        /// Address and port.
        peer: SocketAddr,
        /// How long was waited.
        after: Duration,
    },
    /// Somebody else connected.
    #[error(
        "{from} connected, the peer is configured at {expected}: check `peer` here and `address` on the peer; a foreign machine otherwise"
    )]
    Stranger {
        /// Where the connection came from.
        from: IpAddr,
        /// The configured address of the peer.
        expected: IpAddr,
    },
    /// The kernel refused to connect, bind or listen.
    #[error("{what} {address}: {source}: check interface, address and port in the configuration")]
    Socket {
        /// `connect to` or `listen on`.
        what: &'static str,
        /// Address and port.
        address: SocketAddr,
        /// What the kernel said.
        source: Arc<io::Error>,
    },
    /// Reading or writing failed.
    #[error("the connection broke: {0}")]
    Io(Arc<io::Error>),
}

impl LinkError {
    /// A refusal of our own, with a stable code and one sentence.
    pub(crate) fn refused(code: &str, sentence: String) -> Self {
        Self::Refused(Refusal { code: code.to_owned(), sentence })
    }

    /// What to tell the peer about it, where the peer can do something.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        let code = match self {
            Self::Refused(refusal) => return Some(refusal.clone()),
            Self::Frame(FrameError::Version(_)) => "version",
            Self::OlderEpoch { .. } => "epoch",
            Self::Frame(_) | Self::Message(_) => "protocol",
            _ => return None,
        };
        Some(Refusal { code: code.to_owned(), sentence: self.to_string() })
    }
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        super::tls::explain(error)
    }
}
