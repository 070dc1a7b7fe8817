//! Two ends over loopback: what passes, what is refused and with which sentence, and what is bounded.
//!
//! The second end is this software too, or a peer made by hand that is pinned and misbehaves.

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

#[tokio::test]
async fn messages_pass_both_ways_and_the_heartbeat_keys_are_crossed() {
    let (mut a, mut b) = Nodes::new().connected().await;
    assert_eq!((a.keys.id, a.keys.send), (b.keys.id, b.keys.receive));
    assert_eq!(a.keys.receive, b.keys.send);
    assert_ne!(a.keys.send, a.keys.receive);
    assert_eq!((a.peer.node_name.as_str(), b.peer.node_name.as_str()), ("b", "a"));

    a.sender.send(1, wal(1, 100_000)).await.unwrap();
    let received = b.receiver.next().await.unwrap();
    assert_eq!((received.stream, received.message), (1, Message::WalBatch(wal(1, 100_000))));
    b.sender
        .send(1, Ack { generation: 1, received_frame: 1, durable_frame: 1, ..Ack::default() })
        .await
        .unwrap();
    assert!(matches!(a.receiver.next().await.unwrap().message, Message::Ack(_)));

    a.sender.close("the test is over").await;
    assert!(matches!(b.receiver.next().await, Err(LinkError::Goodbye(why)) if why == "the test is over"));
}

#[tokio::test]
async fn two_connections_have_different_heartbeat_keys() {
    let nodes = Nodes::new();
    let ((first, _b), (second, _c)) = (nodes.connected().await, nodes.connected().await);
    assert_ne!(first.keys.id, second.keys.id);
    assert_ne!(first.keys.send, second.keys.send);
}

#[tokio::test]
async fn an_unpinned_certificate_is_refused_and_both_ends_say_what_to_pin() {
    let stranger = Identity::generate("stranger").unwrap().fingerprint();
    let mut nodes = Nodes::new();
    nodes.config_a.peer = stranger;
    let (a, b) = nodes.meet().await;
    let (own_a, own_b) = (nodes.a.fingerprint().to_string(), nodes.b.fingerprint().to_string());
    one_line_with(&a.unwrap_err(), &[&stranger.to_string(), &own_b, "peer_fingerprint"]);
    one_line_with(&b.unwrap_err(), &[&own_b, "peer_fingerprint"]);

    let mut nodes = Nodes { config_a: config("a", Side::Listen, nodes.b.fingerprint(), 0), ..nodes };
    nodes.config_b.peer = stranger;
    let (a, b) = nodes.meet().await;
    one_line_with(&b.unwrap_err(), &[&stranger.to_string(), &own_a, "peer_fingerprint"]);
    one_line_with(&a.unwrap_err(), &[&own_a, "peer_fingerprint"]);
}

#[tokio::test]
async fn another_program_on_the_port_is_named_as_such() {
    let nodes = Nodes::new();
    let a = Inner::new(nodes.config_a.clone(), &nodes.a, EpochCell::default()).unwrap();
    let (tcp_a, mut tcp_b) = sockets().await;
    tcp_b.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    one_line_with(&a.establish(tcp_a, Path::Lan).await.unwrap_err(), &["lockstep/1", "port"]);
}

#[tokio::test]
async fn a_foreign_pair_is_refused_on_both_ends() {
    let mut nodes = Nodes::new();
    nodes.config_b.greeting.pair = "other".parse().unwrap();
    let (a, b) = nodes.meet().await;
    for error in [a.unwrap_err(), b.unwrap_err()] {
        one_line_with(&error, &["\"mse\"", "\"other\"", "same pair id"]);
    }
}

#[tokio::test]
async fn an_other_version_is_refused_on_both_ends() {
    let nodes = Nodes::new();
    let a = Inner::new(nodes.config_a.clone(), &nodes.a, EpochCell::default()).unwrap();
    let (tcp_a, tcp_b) = sockets().await;
    let (a, refusal) = tokio::join!(a.establish(tcp_a, Path::Direct), async {
        let mut hand = ByHand::shake_hands(&nodes.b, nodes.a.fingerprint(), tcp_b).await;
        let Message::Hello(hello) = nodes.hello() else { unreachable!() };
        let newer = Hello { version_min: 7, version_max: 9, software: "9.0".to_owned(), ..hello };
        hand.send(newer.into(), |_| {}).await;
        hand.refusal().await
    });
    one_line_with(&a.unwrap_err(), &["7 to 9", "9.0", "install the same version"]);
    assert_eq!(refusal.code, "version");
    assert!(refusal.sentence.contains("install the same version"), "{}", refusal.sentence);
}

#[tokio::test]
async fn a_node_id_that_is_not_its_certificates_is_refused() {
    let nodes = Nodes::new();
    let a = Inner::new(nodes.config_a.clone(), &nodes.a, EpochCell::default()).unwrap();
    let (tcp_a, tcp_b) = sockets().await;
    let (a, refusal) = tokio::join!(a.establish(tcp_a, Path::Direct), async {
        let mut hand = ByHand::shake_hands(&nodes.b, nodes.a.fingerprint(), tcp_b).await;
        let Message::Hello(hello) = nodes.hello() else { unreachable!() };
        hand.send(Hello { node: 1, ..hello }.into(), |_| {}).await;
        hand.refusal().await
    });
    one_line_with(&a.unwrap_err(), &["0000000000000001", &nodes.b.node_id().to_string(), "install"]);
    assert_eq!(refusal.code, "pair");
}

#[tokio::test]
async fn a_message_of_an_older_epoch_is_refused_and_its_sender_told_to_demote() {
    let nodes = Nodes::new();
    let (old, new) = (Epoch { counter: 4, node: NodeId(1) }, Epoch { counter: 5, node: NodeId(2) });
    nodes.epoch_a.raise(new);
    nodes.epoch_b.raise(old);
    let (mut a, mut b) = nodes.connected().await;
    assert_eq!((a.peer_epoch, b.peer_epoch), (old, new), "the greeting tells, and refuses nothing");

    b.sender.send(1, wal(1, 1_000)).await.unwrap();
    let error = a.receiver.next().await.unwrap_err();
    one_line_with(&error, &["WalBatch", &old.to_string(), &new.to_string(), "demote"]);
    let error = b.receiver.next().await.unwrap_err();
    assert!(matches!(&error, LinkError::RefusedByPeer(refusal) if refusal.code == "epoch"), "{error}");
    one_line_with(&error, &["demote"]);
}

#[tokio::test]
async fn a_node_that_follows_the_epoch_of_the_greeting_is_accepted() {
    let nodes = Nodes::new();
    let new = Epoch { counter: 5, node: NodeId(2) };
    nodes.epoch_a.raise(new);
    let (mut a, mut b) = nodes.connected().await;
    a.sender.send(1, wal(1, 10)).await.unwrap();
    assert_eq!(b.receiver.next().await.unwrap().epoch, new);
    nodes.epoch_b.raise(b.peer_epoch);
    b.sender.send(1, Ack::default()).await.unwrap();
    assert_eq!(a.receiver.next().await.unwrap().epoch, new);
}

#[tokio::test]
async fn a_higher_epoch_in_mid_connection_is_reported() {
    let nodes = Nodes::new();
    let (a, mut b) = nodes.connected().await;
    nodes.epoch_a.raise(Epoch { counter: 1, node: NodeId(2) });
    // The next ping carries it; nobody has to send anything.
    let error = b.receiver.next().await.unwrap_err();
    assert!(matches!(error, LinkError::HigherEpoch { .. }), "{error}");
    drop(a);
}

#[tokio::test]
async fn a_bit_flipped_anywhere_in_a_frame_is_refused_and_nothing_of_it_delivered() {
    let nodes = Nodes::new();
    for at in (0..HEADER_BYTES).step_by(3).chain([HEADER_BYTES, HEADER_BYTES + 50]) {
        let (mut a, mut hand) = nodes.with_peer_by_hand().await;
        hand.send(wal(1, 100).into(), |bytes| bytes[at] ^= 0x10).await;
        // A flipped length makes the frame longer than what was sent: the end of the stream shows it.
        hand.stream.shutdown().await.unwrap();
        let error = a.receiver.next().await.unwrap_err();
        assert!(matches!(error, LinkError::Frame(_) | LinkError::Cut), "byte {at}: {error}");
        one_line_with(&error, &[]);
    }
    let (a, mut hand) = nodes.with_peer_by_hand().await;
    hand.send(wal(1, 100).into(), |bytes| bytes[HEADER_BYTES] ^= 1).await;
    let refusal = hand.refusal().await;
    assert_eq!(refusal.code, "protocol");
    assert!(refusal.sentence.contains("check cable"), "{}", refusal.sentence);
    drop(a);
}

#[tokio::test]
async fn a_truncated_frame_is_not_delivered() {
    let nodes = Nodes::new();
    for keep in [1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 50] {
        let (mut a, mut hand) = nodes.with_peer_by_hand().await;
        hand.send(wal(1, 100).into(), |bytes| bytes.truncate(keep)).await;
        hand.stream.shutdown().await.unwrap();
        assert!(matches!(a.receiver.next().await, Err(LinkError::Cut)), "{keep} bytes kept");
    }
}

#[tokio::test]
async fn bytes_altered_below_tls_end_the_connection_and_point_at_the_cable() {
    let nodes = Nodes::new();
    let a = Inner::new(nodes.config_a.clone(), &nodes.a, EpochCell::default()).unwrap();
    let b = Inner::new(nodes.config_b.clone(), &nodes.b, EpochCell::default()).unwrap();
    let ((tcp_a, proxy_a), (proxy_b, tcp_b)) = (sockets().await, sockets().await);
    let (from_b, mut to_b) = proxy_b.into_split();
    let (mut from_a, mut to_a) = proxy_a.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_a, &mut to_b).await });
    let (flip, mut flipped) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        let (mut from_b, mut bytes) = (from_b, vec![0; 1 << 16]);
        while let Ok(count @ 1..) = from_b.read(&mut bytes).await {
            if *flipped.borrow_and_update() {
                bytes[count - 1] ^= 1;
            }
            if to_a.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    });
    let (a, b) = tokio::join!(a.establish(tcp_a, Path::Direct), b.establish(tcp_b, Path::Direct));
    let (mut a, b) = (a.unwrap(), b.unwrap());
    flip.send(true).unwrap();
    b.sender.send(1, wal(1, 1_000)).await.unwrap();
    one_line_with(&a.receiver.next().await.unwrap_err(), &["check cable"]);
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_given_up() {
    let mut nodes = Nodes::new();
    nodes.config_a.timing.silence = Duration::from_millis(100);
    let (mut a, hand) = nodes.with_peer_by_hand().await;
    let error = a.receiver.next().await.unwrap_err();
    one_line_with(&error, &["nothing was heard", "100 ms", "check cable"]);
    drop(hand);
}

#[tokio::test]
async fn a_peer_that_accepts_and_never_greets_is_given_up() {
    let mut nodes = Nodes::new();
    nodes.config_b.timing.greeting = Duration::from_millis(100);
    let b = Inner::new(nodes.config_b.clone(), &nodes.b, EpochCell::default()).unwrap();
    let (_tcp_a, tcp_b) = sockets().await;
    one_line_with(&b.establish(tcp_b, Path::Lan).await.unwrap_err(), &["did not greet within 100 ms"]);
}

#[tokio::test]
async fn a_sender_waits_when_the_other_end_takes_nothing_and_nothing_is_lost() {
    const BATCH_BYTES: usize = 256 << 10;
    let (a, mut b) = Nodes::new().connected().await;
    let mut sent = 0u32;
    // Stands still: for a quarter of a second there was no room for one more batch.
    while let Ok(result) =
        tokio::time::timeout(Duration::from_millis(250), a.sender.send(1, wal(sent + 1, BATCH_BYTES))).await
    {
        result.unwrap();
        sent += 1;
        // Both ends' budgets are 6 MiB, the kernel's buffers at most about 10 by default.
        assert!((sent as usize) * BATCH_BYTES < 64 << 20, "memory is not bounded");
    }
    for expected in 1..=sent {
        let Message::WalBatch(batch) = b.receiver.next().await.unwrap().message else {
            panic!("not a batch")
        };
        assert_eq!((batch.first_frame, batch.data.len()), (expected, BATCH_BYTES));
    }
}

#[tokio::test]
async fn acknowledgements_overtake_bulk_that_waits_to_be_sent() {
    let mut nodes = Nodes::new();
    nodes.config_a.bulk_cap_bytes_per_s = Some(400 << 10);
    let (a, mut b) = nodes.connected().await;
    let chunk = |first_page| PageChunk { first_page, data: Bytes::from(vec![1; 60 << 10]) };
    for page in 1..=8 {
        a.sender.send(1, chunk(page)).await.unwrap();
    }
    a.sender.send(1, Ack::default()).await.unwrap();
    a.sender.send(2, wal(1, 100)).await.unwrap();
    let mut order = Vec::new();
    while order.len() < 10 {
        order.push(b.receiver.next().await.unwrap().message.name());
    }
    assert_eq!(order.last(), Some(&"PageChunk"), "{order:?}");
    assert_eq!(order.iter().filter(|name| **name == "PageChunk").count(), 8);
}

#[tokio::test]
async fn pings_of_the_peer_are_answered_while_the_session_takes_nothing() {
    let nodes = Nodes::new();
    let (_a, mut hand) = nodes.with_peer_by_hand().await;
    hand.send(Ping { nonce: 77, answer: false }.into(), |_| {}).await;
    let mut deframer = lockstep_wire::Deframer::new();
    loop {
        while let Some(frame) = deframer.next_frame().unwrap() {
            if let Message::Ping(Ping { nonce: 77, answer: true }) =
                Message::decode(frame.header.kind, frame.body).unwrap()
            {
                return;
            }
        }
        assert_ne!(hand.stream.read_buf(deframer.buffer()).await.unwrap(), 0);
    }
}

#[test]
fn the_link_runs_on_the_data_threads_runtime() {
    let exchange = async {
        let (a, mut b) = Nodes::new().connected().await;
        a.sender.send(1, wal(1, 10_000)).await.unwrap();
        assert_eq!(b.receiver.next().await.unwrap().message, Message::WalBatch(wal(1, 10_000)));
    };
    // Where io_uring is not available the data thread has a plain runtime, and the same must hold.
    if let Ok(runtime) = tokio_uring::Runtime::new(&tokio_uring::builder()) {
        runtime.block_on(exchange);
    } else {
        let plain = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        plain.block_on(exchange);
    }
}

/// A free port; another process could take it before the link does, which then retries.
async fn free_port() -> u16 {
    TcpListener::bind((LOOPBACK, 0)).await.unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn a_connection_that_is_let_go_is_followed_by_a_new_one() {
    let mut nodes = Nodes::new();
    let port = free_port().await;
    for config in [&mut nodes.config_a, &mut nodes.config_b] {
        config.direct.as_mut().unwrap().port = port;
    }
    let mut a = Link::new(nodes.config_a, &nodes.a, EpochCell::default()).unwrap();
    let mut b = Link::new(nodes.config_b, &nodes.b, EpochCell::default()).unwrap();
    let mut keys = Vec::new();
    for round in 1..=3 {
        let (mut on_a, on_b) = tokio::join!(a.next(), b.next());
        assert_eq!(on_a.keys.id, on_b.keys.id);
        assert!(!keys.contains(&on_a.keys.id));
        keys.push(on_a.keys.id);
        assert_eq!(a.stats().snapshot().connections, round);
        drop(on_b);
        assert!(matches!(on_a.receiver.next().await, Err(LinkError::Goodbye(_))));
    }
}

#[tokio::test]
async fn a_newer_connection_takes_the_place_of_the_older_one() {
    let mut nodes = Nodes::new();
    nodes.config_a.direct.as_mut().unwrap().port = free_port().await;
    let port = nodes.config_a.direct.as_ref().unwrap().port;
    let mut a = Link::new(nodes.config_a.clone(), &nodes.a, EpochCell::default()).unwrap();
    nodes.config_b.direct.as_mut().unwrap().port = port;
    let mut first = Link::new(nodes.config_b.clone(), &nodes.b, EpochCell::default()).unwrap();
    let mut older = first.next().await;
    let older_on_a = a.next().await;
    // The same node once more, as after a restart that the listener has not noticed.
    let by_hand = Inner::new(nodes.config_b.clone(), &nodes.b, EpochCell::default()).unwrap();
    let tcp = TcpStream::connect((LOOPBACK, port)).await.unwrap();
    let newer = by_hand.establish(tcp, Path::Direct).await.unwrap();
    assert_eq!(a.next().await.keys.id, newer.keys.id);
    let why = older_on_a.sender.ended().await;
    assert!(matches!(&why, LinkError::Goodbye(reason) if reason.contains("newer connection")), "{why}");
    assert!(matches!(older.receiver.next().await, Err(LinkError::Goodbye(_))));
}

#[tokio::test]
async fn a_stranger_gets_no_handshake_and_is_named() {
    let mut nodes = Nodes::new();
    let port = free_port().await;
    nodes.config_a.direct.as_mut().unwrap().port = port;
    nodes.config_a.direct.as_mut().unwrap().peer = "127.0.0.9".parse().unwrap();
    let a = Link::new(nodes.config_a.clone(), &nodes.a, EpochCell::default()).unwrap();
    let mut tcp = loop {
        // Until the listener's task has run.
        match TcpStream::connect((LOOPBACK, port)).await {
            Ok(tcp) => break tcp,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(tcp.read(&mut [0; 16]).await.unwrap(), 0, "closed without a word");
    let trouble = a.stats().snapshot().trouble.unwrap();
    assert!(trouble.contains("127.0.0.1") && trouble.contains("127.0.0.9"), "{trouble}");
}
