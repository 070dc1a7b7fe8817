//! Who is let in, what the greeting settles, and which sentence each refusal carries.

use super::*;

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
