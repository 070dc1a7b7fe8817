//! Silence is bounded, a slow end slows the other, and nothing waits behind bulk that must not.

use super::*;

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
    let chunk =
        |first_page| PageChunk { first_page, data: Bytes::from(vec![1; 60 << 10]), ..PageChunk::default() };
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
