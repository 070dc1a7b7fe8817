//! Frames that were changed or cut on their way are not delivered.

use super::*;

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
