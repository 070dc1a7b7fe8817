//! Two ends over loopback: what passes, what is refused and with which sentence, and what is bounded.
//!
//! The second end is this software too, or a peer made by hand that is pinned and misbehaves.

mod damage;
mod flow;
mod greeting;
mod renewal;

use super::{connector::Inner, hello::Greeting, tls::Tls, *};
use bytes::{Bytes, BytesMut};
use lockstep_wire::{
    Ack, Epoch, Frame, FrameHeader, HEADER_BYTES, Hello, Message, NodeId, PageChunk, Ping, SessionId,
    WalBatch,
};
use std::{net::IpAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsStream;

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn config(name: &str, side: Side, peer: Fingerprint, port: u16) -> LinkConfig {
    LinkConfig {
        greeting: Greeting {
            pair: "mse".parse().unwrap(),
            node_name: name.to_owned(),
            software: "0.1.0".to_owned(),
            session: SessionId(7),
        },
        peer,
        side,
        direct: Some(PathConfig { interface: None, address: LOOPBACK, peer: LOOPBACK, port }),
        lan: None,
        compression: CompressionSetting::Adaptive,
        bulk_cap_bytes_per_s: None,
        timing: LinkTiming::default(),
    }
}

/// Both nodes, each pinned to the other: `a` listens, `b` connects.
struct Nodes {
    a: Identity,
    b: Identity,
    config_a: LinkConfig,
    config_b: LinkConfig,
    epoch_a: EpochCell,
    epoch_b: EpochCell,
}

impl Nodes {
    fn new() -> Self {
        let (a, b) = (Identity::generate("a").unwrap(), Identity::generate("b").unwrap());
        let config_a = config("a", Side::Listen, b.fingerprint(), 0);
        let config_b = config("b", Side::Connect, a.fingerprint(), 0);
        Self { a, b, config_a, config_b, epoch_a: EpochCell::default(), epoch_b: EpochCell::default() }
    }

    /// Connects both ends over loopback and greets.
    async fn meet(&self) -> (Result<Established, LinkError>, Result<Established, LinkError>) {
        let a = Inner::new(self.config_a.clone(), &self.a, self.epoch_a.clone()).unwrap();
        let b = Inner::new(self.config_b.clone(), &self.b, self.epoch_b.clone()).unwrap();
        let (tcp_a, tcp_b) = sockets().await;
        tokio::join!(a.establish(tcp_a, Path::Direct), b.establish(tcp_b, Path::Direct))
    }

    async fn connected(&self) -> (Established, Established) {
        let (a, b) = self.meet().await;
        (a.unwrap(), b.unwrap())
    }

    /// `a`, and in the place of `b` a stream on which the test writes what it likes.
    async fn with_peer_by_hand(&self) -> (Established, ByHand) {
        let a = Inner::new(self.config_a.clone(), &self.a, self.epoch_a.clone()).unwrap();
        let (tcp_a, tcp_b) = sockets().await;
        let (a, hand) = tokio::join!(a.establish(tcp_a, Path::Direct), async {
            let mut hand = ByHand::shake_hands(&self.b, self.a.fingerprint(), tcp_b).await;
            hand.send(self.hello(), |_| {}).await;
            hand
        });
        (a.unwrap(), hand)
    }

    fn hello(&self) -> Message {
        Message::Hello(Hello {
            version_min: 1,
            version_max: 1,
            software: "0.1.0".to_owned(),
            node_name: "b".to_owned(),
            node: self.b.node_id().0,
            pair: "mse".to_owned(),
            session: 9,
        })
    }
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (accepted, connected) = tokio::join!(listener.accept(), TcpStream::connect(address));
    (accepted.unwrap().0, connected.unwrap())
}

struct ByHand {
    stream: TlsStream<TcpStream>,
    sequence: u64,
}

impl ByHand {
    async fn shake_hands(identity: &Identity, peer: Fingerprint, tcp: TcpStream) -> Self {
        let tls = Tls::new(identity, peer).unwrap();
        let (stream, _) = tls.handshake(tcp, Side::Connect).await.unwrap();
        Self { stream, sequence: 0 }
    }

    async fn send(&mut self, message: Message, spoil: impl FnOnce(&mut BytesMut)) {
        let header = FrameHeader {
            version: 1,
            kind: message.kind(),
            stream: 0,
            sequence: self.sequence,
            epoch: Epoch::NONE,
        };
        self.sequence += 1;
        let mut bytes = BytesMut::new();
        Frame { header, body: message.encode() }.encode(None, &mut bytes);
        spoil(&mut bytes);
        self.stream.write_all(&bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The refusal among what the other end says until it hangs up.
    async fn refusal(mut self) -> lockstep_wire::Refusal {
        let mut deframer = lockstep_wire::Deframer::new();
        loop {
            while let Some(frame) = deframer.next_frame().unwrap() {
                if let Message::Refusal(refusal) = Message::decode(frame.header.kind, frame.body).unwrap() {
                    return refusal;
                }
            }
            assert_ne!(self.stream.read_buf(deframer.buffer()).await.unwrap(), 0, "no refusal came");
        }
    }
}

fn one_line_with(error: &LinkError, words: &[&str]) {
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    for word in words {
        assert!(text.contains(word), "\"{word}\" is missing: {text}");
    }
}

fn wal(first_frame: u32, bytes: usize) -> WalBatch {
    WalBatch { first_frame, data: Bytes::from(vec![first_frame as u8; bytes]), ..WalBatch::default() }
}

/// A free port; another process could take it before the link does, which then retries.
async fn free_port() -> u16 {
    TcpListener::bind((LOOPBACK, 0)).await.unwrap().local_addr().unwrap().port()
}
