//! A copy of a database built from capture's events alone: what a mirror does, in memory and without disk.

use bytes::Bytes;
use lockstep_engine::capture::CaptureEvent;
use lockstep_engine::wal::{
    FRAME_HEADER_BYTES, FrameHeader, Frames, WAL_HEADER_BYTES, WalHeader, WalPoint, frame_offset,
};
use lockstep_wire::{FrameNo, Position};
use std::path::Path;

/// Database image and WAL image.
#[derive(Debug, Default)]
pub(crate) struct Rebuilt {
    pub(crate) database: Vec<u8>,
    wal: Vec<u8>,
    header: Option<WalHeader>,
    pub(crate) point: WalPoint,
    /// Everything through here is committed; what follows is in doubt.
    pub(crate) published: Position,
    pub(crate) resets: u64,
    pub(crate) rewinds: u64,
    pub(crate) commits: u64,
    pub(crate) copied_to: Option<Position>,
    pub(crate) let_go: bool,
    pub(crate) page_size: usize,
}

impl Rebuilt {
    pub(crate) fn new(page_size: u32) -> Self {
        Self { page_size: page_size as usize, ..Self::default() }
    }

    pub(crate) fn apply(&mut self, event: CaptureEvent) {
        match event {
            CaptureEvent::Generation { generation, wal_header, previous } => {
                if let Some(previous) = previous {
                    assert_eq!(previous, self.point, "the generation before ended elsewhere");
                    assert_eq!(generation.0, self.point.position.generation.0 + 1);
                    self.fold();
                    self.resets += 1;
                }
                let header = WalHeader::parse(&wal_header).expect("a generation brings a sound header");
                self.wal = wal_header.to_vec();
                self.point = WalPoint {
                    position: Position { generation, frame: FrameNo(0) },
                    chain: header.chain,
                    salts: header.salts,
                };
                self.header = Some(header);
            }
            CaptureEvent::Frames {
                generation,
                first,
                last,
                chain_before,
                chain_after,
                data,
                salts,
                commits,
                published,
            } => {
                assert_eq!(generation, self.point.position.generation);
                assert_eq!(first.0, self.point.position.frame.0 + 1, "a gap");
                assert_eq!(chain_before, self.point.chain);
                assert!(published >= last || !commits.is_empty(), "prepared frames end with a commit");
                assert!(published >= last || commits.last().expect("just seen").0 == last);
                assert!(data.len() <= 1 << 20);
                let header = self.header.expect("frames follow a header");
                let frames = Frames::new(&data, header.page_size);
                let verified = frames.verify(&header, first, chain_before).expect("frames verify");
                assert_eq!((verified.chain, verified.commits as usize), (chain_after, commits.len()));
                assert_eq!(salts, header.salts);
                for (frame, chain) in &commits {
                    let of_run = frame_offset(FrameNo(frame.0 - first.0 + 1), header.page_size) as usize;
                    let head = data[of_run - WAL_HEADER_BYTES..].first_chunk().expect("a frame");
                    let head = FrameHeader::parse(head);
                    assert!(head.commit_pages != 0 && head.chain == *chain, "{frame:?} is no commit frame");
                }
                assert_eq!(verified.frames, last.0 - first.0 + 1);
                assert_eq!(frame_offset(first, header.page_size), self.wal.len() as u64);
                self.wal.extend_from_slice(&data);
                self.point.position.frame = last;
                self.published = Position { generation, frame: last.min(published) };
                self.point.chain = chain_after;
                self.commits += commits.len() as u64;
            }
            CaptureEvent::Published(position) => {
                assert_eq!(position.generation, self.point.position.generation);
                assert!(self.published < position && position <= self.point.position);
                self.published = position;
            }
            CaptureEvent::Rewind(to) => {
                assert_eq!(to.position.generation, self.point.position.generation, "taken back too late");
                assert!(self.published <= to.position && to.position < self.point.position);
                let header = self.header.expect("frames follow a header");
                self.wal.truncate(frame_offset(FrameNo(to.position.frame.0 + 1), header.page_size) as usize);
                self.point = to;
                self.rewinds += 1;
            }
            CaptureEvent::PagesAt { .. } | CaptureEvent::PagesDone => {}
            CaptureEvent::Pages { first_page, data } => self.put_pages(first_page, &data),
            CaptureEvent::EndOfCopy { position, page_count } => {
                assert!(self.point.position >= position || position.frame.0 == 0);
                self.database.truncate(page_count as usize * self.page_size);
                self.copied_to = Some(position);
            }
            CaptureEvent::LetGo => self.let_go = true,
            CaptureEvent::Failed(sentence) => panic!("capture failed: {sentence}"),
        }
    }

    fn put_pages(&mut self, first_page: u32, data: &Bytes) {
        let start = (first_page as usize - 1) * self.page_size;
        let end = start + data.len();
        if self.database.len() < end {
            self.database.resize(end, 0);
        }
        self.database[start..end].copy_from_slice(data);
    }

    /// Copies the WAL's committed frames into the database, as a checkpoint of the whole WAL does.
    fn fold(&mut self) {
        let Some(header) = self.header else { return };
        let size = header.page_size as usize;
        let frames: Vec<_> =
            Frames::new(&self.wal[32..], header.page_size).iter().map(|(head, _)| head).collect();
        let Some(last_commit) = frames.iter().rposition(|head| head.commit_pages != 0) else { return };
        self.database.resize(frames[last_commit].commit_pages as usize * size, 0);
        for (at, head) in frames.iter().enumerate().take(last_commit + 1) {
            let to = (head.page as usize - 1) * size;
            if to + size <= self.database.len() {
                let from = 32 + at * (size + FRAME_HEADER_BYTES) + FRAME_HEADER_BYTES;
                self.database[to..to + size].copy_from_slice(&self.wal[from..from + size]);
            }
        }
    }

    /// Compares with the source, page by page, and lets SQLite check the copy.
    ///
    /// No connection or descriptor of the source may be open in this process.
    pub(crate) fn assert_equals(mut self, source: &Path) {
        self.fold();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (source_copy, rebuilt) = (dir.path().join("source.db"), dir.path().join("rebuilt.db"));
        let wal_of = |path: &Path| format!("{}-wal", path.display());
        std::fs::copy(source, &source_copy).expect("the source can be copied");
        std::fs::copy(wal_of(source), wal_of(&source_copy)).expect("the source's WAL can be copied");
        let connection = rusqlite::Connection::open(&source_copy).expect("the copy opens");
        connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
                assert_eq!(row.get::<_, i64>(0)?, 0, "checkpoint of the copy");
                Ok(())
            })
            .expect("the copy can be checkpointed");
        drop(connection);
        let expected = std::fs::read(&source_copy).expect("the copy can be read");
        assert_eq!(self.database.len(), expected.len(), "sizes in bytes");
        for (page, (ours, theirs)) in
            self.database.chunks(self.page_size).zip(expected.chunks(self.page_size)).enumerate()
        {
            assert!(ours == theirs, "page {} differs", page + 1);
        }
        std::fs::write(&rebuilt, &self.database).expect("the rebuilt database can be written");
        let connection = rusqlite::Connection::open(&rebuilt).expect("the rebuilt database opens");
        let verdict: String =
            connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("it can be checked");
        assert_eq!(verdict, "ok");
    }
}
