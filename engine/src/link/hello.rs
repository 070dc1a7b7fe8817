//! The greeting: both ends say who they are and judge what the other says, before anything else.
//!
//! Runs between the TLS handshake and the first message of the pair session. Both ends check the same
//! things, so both end with one clear sentence. The epoch of the greeting is reported, never
//! refused: the one behind learns from it that it has to follow or to demote.

use super::{error::LinkError, identity::Fingerprint};
use bytes::BytesMut;
use lockstep_wire::{
    Deframer, Epoch, Frame, FrameHeader, Hello, Message, NodeId, PairId, ProtocolVersion, Refusal, SessionId,
};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How long a refused peer may take to read why.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A greeting is a few hundred bytes; what is longer is none.
const READ_BYTES: usize = 4096;

/// Who this node is on this link.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// The pair; the same on both nodes.
    pub pair: PairId,
    /// Name of this node, for people.
    pub node_name: String,
    /// Version of this software, for people.
    pub software: String,
    /// This node's session.
    pub session: SessionId,
}

/// How the greeting ended.
#[derive(Debug)]
pub(crate) struct Greeted {
    pub(crate) hello: Hello,
    pub(crate) epoch: Epoch,
    /// The version both speak.
    pub(crate) version: u16,
    /// Holds what came behind the greeting.
    pub(crate) deframer: Deframer,
}

impl Greeting {
    fn hello(&self, node: NodeId) -> Hello {
        Hello {
            version_min: u32::from(ProtocolVersion::OLDEST),
            version_max: u32::from(ProtocolVersion::CURRENT),
            software: self.software.clone(),
            node_name: self.node_name.clone(),
            node: node.0,
            pair: self.pair.to_string(),
            session: self.session.0,
        }
    }

    /// Judges the peer's greeting.
    fn check(&self, own: NodeId, peer: Fingerprint, hello: &Hello) -> Result<u16, LinkError> {
        let name = &hello.node_name;
        let Some(version) = ProtocolVersion::common(hello.version_min, hello.version_max) else {
            return Err(LinkError::refused(
                "version",
                format!(
                    "{} (Lockstep {}) speaks protocol {} to {}, {name} (Lockstep {}) speaks {} to {}: install the same version on both nodes",
                    self.node_name,
                    self.software,
                    ProtocolVersion::OLDEST,
                    ProtocolVersion::CURRENT,
                    hello.software,
                    hello.version_min,
                    hello.version_max
                ),
            ));
        };
        if hello.pair != self.pair.as_str() {
            let sentence = format!(
                "{} belongs to pair \"{}\", {name} to pair \"{}\": give both nodes the same pair id, or connect to the right peer",
                self.node_name, self.pair, hello.pair
            );
            return Err(LinkError::refused("pair", sentence));
        }
        let certified = peer.node_id();
        if hello.node != certified.0 {
            let sentence = format!(
                "{name} calls itself node {}, its certificate says {certified}: its software is damaged, install it anew",
                NodeId(hello.node)
            );
            return Err(LinkError::refused("pair", sentence));
        }
        if certified == own || hello.session == 0 {
            let sentence = format!(
                "{name} has this node's own identity or no session: make an identity of its own on each node"
            );
            return Err(LinkError::refused("pair", sentence));
        }
        Ok(version)
    }
}

/// Exchanges greetings. The caller sets a time limit.
pub(crate) async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    greeting: &Greeting,
    own: NodeId,
    peer: Fingerprint,
    epoch: Epoch,
) -> Result<Greeted, LinkError> {
    write(stream, Message::Hello(greeting.hello(own)), 0, epoch).await?;
    let mut deframer = Deframer::new();
    let result = read_hello(stream, &mut deframer).await.and_then(|(hello, peer_epoch)| {
        let version = greeting.check(own, peer, &hello)?;
        Ok((hello, peer_epoch, version))
    });
    match result {
        Ok((hello, epoch, version)) => Ok(Greeted { hello, epoch, version, deframer }),
        Err(error) => {
            if let Some(refusal) = error.refusal() {
                let told = refuse(stream, refusal, 1, epoch);
                // The peer may be gone or deaf; our own sentence stands either way.
                let _ = tokio::time::timeout(LAST_WORDS, told).await;
            }
            Err(error)
        }
    }
}

/// Tells the peer why, and waits until it hung up: closing at once could destroy the words on their way.
pub(crate) async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    refusal: Refusal,
    sequence: u64,
    epoch: Epoch,
) -> Result<(), LinkError> {
    write(stream, Message::Refusal(refusal), sequence, epoch).await?;
    stream.shutdown().await?;
    let mut rest = [0; READ_BYTES];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// The greeting is written in the oldest version, so that every peer can read it and see the others.
async fn write<S: AsyncWrite + Unpin>(
    stream: &mut S,
    message: Message,
    sequence: u64,
    epoch: Epoch,
) -> Result<(), LinkError> {
    let header =
        FrameHeader { version: ProtocolVersion::OLDEST, kind: message.kind(), stream: 0, sequence, epoch };
    let mut bytes = BytesMut::new();
    Frame { header, body: message.encode() }.encode(None, &mut bytes);
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    Ok(())
}

async fn read_hello<S: AsyncRead + Unpin>(
    stream: &mut S,
    deframer: &mut Deframer,
) -> Result<(Hello, Epoch), LinkError> {
    let frame = loop {
        if let Some(frame) = deframer.next_frame()? {
            break frame;
        }
        deframer.buffer().reserve(READ_BYTES);
        if stream.read_buf(deframer.buffer()).await? == 0 {
            return Err(LinkError::Cut);
        }
    };
    match Message::decode(frame.header.kind, frame.body)? {
        Message::Hello(hello) => Ok((hello, frame.header.epoch)),
        Message::Refusal(refusal) => Err(LinkError::RefusedByPeer(refusal)),
        other => {
            let sentence = format!(
                "the peer's first message is {}, expected Hello: install the same version on both nodes",
                other.name()
            );
            Err(LinkError::refused("protocol", sentence))
        }
    }
}
