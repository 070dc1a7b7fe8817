//! A connection that ends or is replaced is followed by the next.

use super::*;

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
