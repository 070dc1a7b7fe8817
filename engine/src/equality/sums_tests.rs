//! Hashes and sum against a database that is simply kept.

use super::*;
use lockstep_wire::Salts;
use proptest::prelude::*;

const PAGE: usize = 512;

/// A database of small pages, its WAL since the last generation, and what SQLite would say of it.
#[derive(Clone)]
struct Model {
    pages: Vec<Vec<u8>>,
    at: WalPoint,
}

/// One frame: page, content, committed size.
type Change = (u32, u8, u32);

fn frame(page: u32, content: u8, commit_pages: u32, salts: Salts, chain: Chain) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [page, commit_pages, salts.0[0], salts.0[1], chain.0[0], chain.0[1]] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(vec![content; PAGE]);
    bytes
}

fn header(salt: u32) -> WalHeader {
    WalHeader::new(crate::wal::ChecksumOrder::Big, PAGE as u32, 0, Salts([salt, salt]))
}

impl Model {
    fn new() -> Self {
        let position = Position { generation: WalGeneration(1), frame: FrameNo(0) };
        let at = WalPoint { position, chain: header(1).chain, salts: header(1).salts };
        Self { pages: (0..4).map(|n| vec![n; PAGE]).collect(), at }
    }

    fn hashes(&self, first: u32, count: u32) -> Vec<u64> {
        let from = (first as usize - 1).min(self.pages.len());
        self.pages[from..].iter().take(count as usize).map(|page| xxh3_64(page)).collect()
    }

    /// What a cache that read everything now says.
    fn sum(&self) -> u64 {
        let mut sums = Sums::new(Vec::new(), PAGE as u32, None);
        sums.restart(self.at, self.pages.len() as u32);
        sums.begin_reading(1000).unwrap();
        sums.end_reading(self.at.position, 1, self.hashes(1, 1000), self.pages.len() as u32);
        sums.content().unwrap().1
    }

    /// A transaction that writes some pages and ends with a size: its frames.
    fn transaction(&mut self, writes: &[(u32, u8)], size: u32) -> Vec<Change> {
        let old = self.pages.len() as u32;
        let mut changes: Vec<Change> =
            writes.iter().map(|&(page, content)| (page % size + 1, content, 0)).collect();
        // SQLite writes every page that it adds.
        changes.extend((old + 1..=size).map(|page| (page, page as u8, 0)));
        changes.last_mut().expect("a transaction writes something").2 = size;
        self.pages.resize(size as usize, Vec::new());
        for &(page, content, _) in &changes {
            self.pages[page as usize - 1] = vec![content; PAGE];
        }
        changes
    }

    fn apply(&mut self, sums: &mut Sums<Vec<u64>>, changes: &[Change]) {
        let before = self.at.chain;
        let mut bytes = Vec::new();
        for &(page, content, commit) in changes {
            self.at.position.frame.0 += 1;
            self.at.chain = Chain([self.at.position.frame.0, self.at.salts.0[0]]);
            bytes.extend(frame(page, content, commit, self.at.salts, self.at.chain));
        }
        let first = FrameNo(self.at.position.frame.0 + 1 - changes.len() as u32);
        sums.frames(first, before, &Frames::new(&bytes, PAGE as u32));
    }

    fn next_generation(&mut self, sums: &mut Sums<Vec<u64>>) {
        let end = (self.at.position.frame, self.at.chain);
        let number = WalGeneration(self.at.position.generation.0 + 1);
        let header = header(number.0 as u32);
        sums.generation(number, &header, Some(end));
        let position = Position { generation: number, frame: FrameNo(0) };
        self.at = WalPoint { position, chain: header.chain, salts: header.salts };
    }
}

#[derive(Debug, Clone)]
enum Op {
    Transaction {
        writes: Vec<(u32, u8)>,
        size: u32,
        late: bool,
    },
    Generation,
    /// Read a range, and merge it some operations later.
    Read(u32),
    Merge,
    /// A prepared transaction that is taken back.
    Rewound(Vec<(u32, u8)>),
}

fn op() -> impl Strategy<Value = Op> {
    let writes = || prop::collection::vec((any::<u32>(), any::<u8>()), 1..6);
    prop_oneof![
        5 => (writes(), 1_u32..40, any::<bool>())
            .prop_map(|(writes, size, late)| Op::Transaction { writes, size, late }),
        1 => Just(Op::Generation),
        3 => (1_u32..9).prop_map(Op::Read),
        3 => Just(Op::Merge),
        1 => writes().prop_map(Op::Rewound),
    ]
}

fn run(ops: Vec<Op>) {
    let mut model = Model::new();
    let mut sums = Sums::new(Vec::new(), PAGE as u32, None);
    sums.restart(model.at, 0);
    let mut read = None;
    let mut finish = vec![Op::Merge, Op::Read(100), Op::Merge, Op::Read(100), Op::Merge];
    finish.insert(0, Op::Transaction { writes: vec![(0, 1)], size: 7, late: false });
    for op in ops.into_iter().chain(finish) {
        match op {
            Op::Transaction { writes, size, late } => {
                let changes = model.transaction(&writes, size);
                if late {
                    // The reading's place is ahead of the stream, as on the active.
                    let reading = sums.reading.as_ref().map(|r| (r.first, r.end - r.first));
                    if let (Some((first, count)), true) = (reading, read.is_none()) {
                        let mut ahead = model.at.position;
                        ahead.frame.0 += changes.len() as u32;
                        sums.end_reading(ahead, first, model.hashes(first, count), model.pages.len() as u32);
                    }
                }
                model.apply(&mut sums, &changes);
                sums.publish(model.at.position.frame);
            }
            Op::Generation => model.next_generation(&mut sums),
            Op::Read(count) => {
                if let Some((first, count)) = sums.begin_reading(count) {
                    let pages = model.pages.len() as u32;
                    read = Some((model.at.position, first, model.hashes(first, count), pages));
                }
            }
            Op::Merge => {
                if let Some((at, first, hashes, pages)) = read.take() {
                    sums.end_reading(at, first, hashes, pages);
                }
            }
            Op::Rewound(writes) => {
                let mut phantom = model.clone();
                let changes = phantom.transaction(&writes, model.pages.len() as u32);
                phantom.apply(&mut sums, &changes);
                sums.rewind(model.at.position.frame, model.at.chain);
            }
        }
        if let Some((at, sum)) = sums.content() {
            assert_eq!(at, model.at);
            assert_eq!(sum, model.sum());
        }
    }
    assert_eq!(sums.content(), Some((model.at, model.sum())), "it is complete at last");
    for page in 1..=model.pages.len() as u32 {
        assert_eq!(sums.hash(page), Some(model.hashes(page, 1)[0]));
    }
}

proptest! {
    #[test]
    fn whatever_happens_while_they_are_built_hashes_and_sum_are_those_of_the_database(
        ops in prop::collection::vec(op(), 0..40)
    ) {
        run(ops);
    }
}

fn built() -> (Model, Sums<Vec<u64>>) {
    let model = Model::new();
    let mut sums = Sums::new(Vec::new(), PAGE as u32, None);
    sums.restart(model.at, 4);
    sums.begin_reading(100).unwrap();
    sums.end_reading(model.at.position, 1, model.hashes(1, 100), 4);
    (model, sums)
}

#[test]
fn two_pages_that_change_places_change_the_sum() {
    let (mut model, sums) = built();
    model.pages.swap(1, 2);
    assert_ne!(sums.content().unwrap().1, model.sum());
}

#[test]
fn frames_that_do_not_follow_stop_it_and_frames_that_come_again_are_skipped() {
    let (mut model, mut sums) = built();
    let before = model.clone();
    let changes = model.transaction(&[(1, 9)], 4);
    model.apply(&mut sums, &changes);
    sums.publish(model.at.position.frame);
    let content = sums.content().unwrap();
    before.clone().apply(&mut sums, &changes);
    assert_eq!(sums.content(), Some(content));
    model.at.position.frame.0 += 1;
    model.apply(&mut sums, &changes);
    assert_eq!(sums.content(), None);
    sums.resume(before.at, 4);
    assert_eq!((sums.content(), sums.begin_reading(9)), (None, Some((1, 9))));
}

#[test]
fn the_lock_page_is_left_out() {
    let mut sums = Sums::new(Vec::new(), 65_536, None);
    let lock = lock_page(65_536);
    sums.restart(WalPoint::default(), lock);
    let read = |sums: &mut Sums<Vec<u64>>, last: u64| {
        sums.restart(WalPoint::default(), lock);
        sums.begin_reading(lock).unwrap();
        let mut hashes = vec![1; lock as usize - 1];
        hashes.push(last);
        sums.end_reading(Position::default(), 1, hashes, lock);
        sums.content().unwrap().1
    };
    assert_eq!(read(&mut sums, 5), read(&mut sums, 6));
}
