//! One message of each kind with every field set, for golden files and corpus.

use bytes::{Bytes, BytesMut};
use lockstep_wire::*;

/// The node that sends all samples.
pub(crate) const NODE: NodeId = NodeId(0x0011_2233_aabb_ccdd);

/// `count` bytes that differ from their neighbours.
pub(crate) fn bytes(count: usize) -> Bytes {
    (0..count).map(|i| (i * 7 + i / 251) as u8).collect::<Vec<_>>().into()
}

/// One message of each kind, in order of kind.
pub(crate) fn messages() -> Vec<Message> {
    let mirror = MirrorState {
        stream: 1,
        complete: true,
        generation: 7,
        frame: 42,
        chain: Chain([0x0102_0304, 0x0506_0708]).packed(),
        salts: Salts([0xa1a2_a3a4, 0xb1b2_b3b4]).packed(),
        page_size: 4096,
        page_count: 1000,
        has_pages: true,
        diverged: true,
        rewinds: true,
        published_frame: Some(40),
        published_chain: Chain([0x1112_1314, 0x1516_1718]).packed(),
    };
    let attributes = FileAttributes {
        mode: 0o100_640,
        user: 1234,
        group: 4321,
        acl: bytes(44),
        label: Bytes::from_static(b"system_u:object_r:var_lib_t:s0\0"),
    };
    let fork =
        ForkPoint { generation: 7, frame: 40, chain: 0x5152_5354_5556_5758, salts: 0x6162_6364_6566_6768 };
    vec![
        Hello {
            version_min: 1,
            version_max: 3,
            software: "0.1.0".into(),
            node_name: "a".into(),
            node: NODE.0,
            pair: "shop".into(),
            session: 0x5e55_1011_0000_0001,
        }
        .into(),
        Refusal { code: "pair".into(), sentence: "this node belongs to pair \"till\": correct `id`".into() }
            .into(),
        Databases {
            names: vec!["orders".into(), "users".into()],
            attributes: vec![attributes.clone(), FileAttributes::default()],
            boot: 0xb007_0000_0000_0001,
        }
        .into(),
        MirrorStates { states: vec![mirror, MirrorState { stream: 2, ..MirrorState::default() }] }.into(),
        Generation {
            generation: 8,
            wal_header: bytes(32),
            previous_frame: 42,
            previous_chain: 0x0102_0304_0506_0708,
            fresh: true,
        }
        .into(),
        WalBatch {
            generation: 8,
            first_frame: 1,
            chain_before: 0x1112_1314_1516_1718,
            chain_after: 0x2122_2324_2526_2728,
            published_frame: 1,
            data: bytes(24 + 512),
            gather_ms: 2,
        }
        .into(),
        Ack {
            generation: 8,
            received_frame: 300,
            durable_frame: 299,
            complete: true,
            content_frame: 298,
            content: Some(0x5152_5354_5556_5758),
        }
        .into(),
        Rewind { generation: 8, frame: 298, chain: 0x3132_3334_3536_3738 }.into(),
        Rewound { generation: 8, frame: 298 }.into(),
        CopyBegin {
            resync: true,
            page_size: 512,
            page_count: 70_000,
            keep: true,
            attributes: Some(attributes),
            verify: true,
            fork: Some(fork),
            rewind: true,
        }
        .into(),
        HashRequest {
            first_page: 1,
            page_count: 1024,
            at_position: true,
            generation: 8,
            frame: 298,
            rebuild: true,
        }
        .into(),
        PageHashes {
            first_page: 1,
            hashes: bytes(32),
            at_position: true,
            generation: 8,
            frame: 298,
            passed: true,
        }
        .into(),
        PageChunk { first_page: 65, data: bytes(512), repair: true, generation: 8, frame: 298 }.into(),
        CopyEnd { generation: 8, frame: 301, page_count: 70_001 }.into(),
        Ping { nonce: 0x4142_4344_4546_4748, answer: true }.into(),
        Goodbye { reason: "the agent is shutting down".into() }.into(),
        ForkQuery { fork: Some(fork) }.into(),
        ForkPages { held: true, runs: bytes(16) }.into(),
    ]
    .into_iter()
    .chain(trees())
    .collect()
}

/// The messages about trees.
fn trees() -> [Message; 6] {
    const INDEX: u64 = 0x1d3e_0000_0000_0001;
    let path = Bytes::from_static(b"uploads/caf\xe9.jpg");
    let xattrs = [
        TreeXattr { name: Bytes::from_static(b"system.posix_acl_access"), value: bytes(44) },
        TreeXattr { name: Bytes::from_static(b"user.mime_type"), value: Bytes::from_static(b"image/jpeg") },
    ];
    let meta = TreeMeta {
        mode: 0o4755,
        user: 1234,
        group: 4321,
        mtime_s: -2,
        mtime_ns: 999_999_999,
        xattrs: pack(xattrs),
    };
    let expected = TreeExpected {
        kind: TreeKind::File.into(),
        size: 70_000,
        mtime_s: 1_700_000_000,
        mtime_ns: 123_456_789,
    };
    let ops = [
        TreeOp {
            kind: TreeOpKind::Begin.into(),
            path: path.clone(),
            from: Bytes::from_static(b"old"),
            meta: Some(meta.clone()),
            expected: Some(expected),
            size: 70_000,
            ..TreeOp::default()
        },
        TreeOp { kind: TreeOpKind::Keep.into(), offset: 512, length: 69_488, ..TreeOp::default() },
        TreeOp { kind: TreeOpKind::Data.into(), offset: 65_536, data: bytes(512), ..TreeOp::default() },
        TreeOp { kind: TreeOpKind::End.into(), content: bytes(16), ..TreeOp::default() },
    ];
    let failure = TreeFailure {
        path: path.clone(),
        op: TreeOpKind::Put.into(),
        reason: TreeReason::NoSpace.into(),
        detail: "No space left on device".into(),
    };
    let entry = TreeEntry {
        name: Bytes::from_static(b"caf\xe9.jpg"),
        kind: TreeKind::File.into(),
        meta: Some(meta),
        size: 70_000,
        target: Bytes::from_static(b"../a"),
        inode: 4711,
        hash: bytes(16),
        fault: "Input/output error".into(),
    };
    let announced = TreeAnnounced { name: "uploads".into(), index: INDEX, batch: 41 };
    let state = TreeState {
        stream: 3,
        index: INDEX,
        batch: 41,
        interrupted: true,
        empty: true,
        fault: "the root /srv/uploads is not there: mount it".into(),
    };
    [
        Trees { trees: vec![announced, TreeAnnounced::default()] }.into(),
        TreeStates { states: vec![state, TreeState { stream: 4, ..TreeState::default() }] }.into(),
        TreeOps { index: INDEX, batch: 42, ops: pack(ops), last: true }.into(),
        TreeAck { index: INDEX, batch: 42, received_bytes: 1_000_000, failures: pack([failure]), more: true }
            .into(),
        TreeListRequest {
            request: 7,
            question: TreeQuestion::Hashes.into(),
            path: Bytes::from_static(b"uploads"),
            deep: true,
        }
        .into(),
        TreeListing {
            request: 7,
            path: Bytes::from_static(b"uploads"),
            entries: pack([entry]),
            last: true,
            below: bytes(16),
            first_batch: 41,
            last_batch: 42,
            fault: "the path is no directory".into(),
        }
        .into(),
    ]
}

/// A heartbeat with every field set.
pub(crate) fn heartbeat() -> Heartbeat {
    Heartbeat {
        session: 0x5e55_1011_0000_0001,
        sequence: 1000,
        sent_us: 50_000_000,
        is_echo: true,
        echo_session: 0x5e55_1011_0000_0002,
        echo_sent_us: 49_999_000,
        echo_held_us: 250,
        epoch_counter: 3,
        epoch_node: NODE.0,
        active: true,
        solo: true,
        outdated: true,
        grant_us: 900_000,
        period_us: 50_000,
        lease_us: 150_000,
        intent: Intent::Released.into(),
        intent_counter: 4,
        solo_commits: 17,
        fit: true,
        hands_off: true,
    }
}

/// The frame that carries `message` as the `sequence`-th of its connection.
pub(crate) fn frame(message: &Message, sequence: u64) -> Frame {
    let stream = match message.kind() {
        5..=14 => 1,
        21..=24 => 3,
        _ => 0,
    };
    let epoch = Epoch { counter: 3, node: NODE };
    let version = ProtocolVersion::CURRENT;
    Frame {
        header: FrameHeader { version, kind: message.kind(), stream, sequence, epoch },
        body: message.encode(),
    }
}

/// `frame` as bytes, its body packed where that is shorter.
pub(crate) fn encoded(frame: &Frame, pack: bool) -> Vec<u8> {
    let packed = pack.then(|| zstd::bulk::compress(&frame.body, 1).expect("packing into memory"));
    let mut out = BytesMut::new();
    frame.encode(packed.as_deref(), &mut out);
    out.to_vec()
}
