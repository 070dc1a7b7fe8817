//! Active: what of a database is proven to be on the standby's disk, and what to do next about it.
//!
//! Pure: time is an argument. A pass goes over all pages, range by range. Each range is read through
//! SQLite at a position ([`crate::capture::ReadAt`]); the standby answers with hashes of what its disk
//! holds at the same position. What differs is an alarm, is sent again, and is compared again; what
//! cannot be put right that way needs a resync of the whole database. One value lives as long as the
//! database is served, so that a new connection goes on where the one before ended.

use super::status::EqualityStatus;
use crate::capture::{PagesAt, READ_PAGES_MAX, ReadAt};
use lockstep_wire::{HashRequest, PageChunk, PageHashes, Position};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How fast pages are compared in the background unless configured: 2 GiB in nine minutes, and a few
/// thousandths of a processor.
pub const SCRUB_BYTES_PER_S: u64 = 4 << 20;

/// Bytes of pages in a range: some milliseconds of reading on both sides.
const RANGE_BYTES: u32 = 1 << 20;

/// Fewest pages of a range: a busy database may leave a position no longer than that.
const RANGE_PAGES_MIN: u32 = 8;

/// Between the end of a pass and the next: a small database need not be read all the time.
const PASS_PAUSE: Duration = Duration::from_secs(60);

/// Before the same range is tried again at a later position.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// An answer that has not come by then never comes: what was read was of a session before.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Repairs of one range before the whole database is compared.
const REPAIRS_MAX: u32 = 3;

/// Page numbers named in an alarm; the rest are counted.
const PAGES_NAMED: usize = 8;

/// What came of a pass that somebody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verified {
    /// Pages compared.
    pub pages: u64,
    /// Of them, pages that differed; they have been sent again and compared again.
    pub repaired: u64,
}

/// Answers somebody who asked for a pass.
pub(super) type VerifyReply = oneshot::Sender<Result<Verified, String>>;

/// What to do now.
#[derive(Debug, PartialEq)]
pub(super) enum Todo {
    /// Nothing before that time.
    Rest(Instant),
    /// Let capture read.
    Read(ReadAt),
    /// Ask the standby.
    Ask(HashRequest),
    /// Send the standby pages.
    Send(Vec<PageChunk>),
    /// Compare the whole database by a resync.
    Resync,
}

/// Something for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) alarm: bool,
    pub(super) sentence: String,
}

#[derive(Debug)]
enum Step {
    /// Between two ranges.
    Rest,
    /// Capture reads, for a comparison or a repair.
    Reading { since: Instant },
    /// The standby was asked for the same pages.
    Asked { since: Instant, at: Position, pages: PagesAt },
}

/// The scrub of one database.
#[derive(Debug)]
pub(super) struct Scrub {
    /// 0: only on demand.
    bytes_per_s: u64,
    step: Step,
    due: Instant,
    /// Next page of the pass, from 1.
    next: u32,
    /// Pages of the present range.
    range_pages: u32,
    page_size: u32,
    total: u32,
    /// Pages of this pass that differed.
    differed: u64,
    /// Pages of the present range that differed, until they are equal.
    wrong: Vec<u32>,
    repairs: u32,
    /// `wrong` is to be read and sent.
    resend: bool,
    /// A pass at full speed: somebody waits for it, or a doubt has come up.
    urgent: bool,
    /// Begin the pass anew with the next answer.
    restart: bool,
    /// The standby shall build its remembered hashes anew.
    rebuild: bool,
    waiting: Vec<VerifyReply>,
    verified_at: Option<Instant>,
    mismatches: u64,
    repaired: u64,
    unsupported: bool,
    words: Vec<Word>,
}

impl Scrub {
    pub(super) fn new(bytes_per_s: u64, now: Instant) -> Self {
        Self {
            bytes_per_s,
            step: Step::Rest,
            due: now,
            next: 1,
            range_pages: READ_PAGES_MAX,
            page_size: 0,
            total: 0,
            differed: 0,
            wrong: Vec::new(),
            repairs: 0,
            resend: false,
            urgent: false,
            restart: false,
            rebuild: false,
            waiting: Vec::new(),
            verified_at: None,
            mismatches: 0,
            repaired: 0,
            unsupported: false,
            words: Vec::new(),
        }
    }

    /// Somebody wants a pass from the beginning, now.
    pub(super) fn verify(&mut self, reply: VerifyReply, now: Instant) {
        self.waiting.push(reply);
        self.begin_urgent(now);
    }

    /// The sums of both nodes differed: compare everything now.
    pub(super) fn doubt(&mut self, at: Position, now: Instant) {
        self.rebuild = true;
        if self.urgent || !self.wrong.is_empty() {
            return; // That is being done, and begun anew it would never come to the end of a repair.
        }
        self.words.push(Word {
            alarm: true,
            sentence: format!(
                "the sums over all pages of both nodes differ at {at}: every page is compared with the standby's disk now. Check the memory of both nodes"
            ),
        });
        self.begin_urgent(now);
    }

    fn begin_urgent(&mut self, now: Instant) {
        self.urgent = true;
        self.restart = !matches!(self.step, Step::Rest);
        if !self.restart {
            self.begin_pass(now);
        }
    }

    fn begin_pass(&mut self, now: Instant) {
        self.step = Step::Rest;
        self.restart = false;
        self.next = 1;
        self.differed = 0;
        self.repairs = 0;
        self.resend = false;
        self.wrong.clear();
        self.due = now;
    }

    /// A standby is attached; what was under way with the one before is over.
    pub(super) fn attached(&mut self, now: Instant) {
        self.step = Step::Rest;
        self.repairs = 0;
        self.resend = false;
        self.unsupported = false;
        if self.restart {
            self.begin_pass(now);
        }
        self.due = if self.urgent { now } else { self.due.max(now) };
    }

    /// The whole database has been compared by a resync, which put right what this pass found.
    pub(super) fn resynced(&mut self) {
        self.repaired += self.wrong.len() as u64;
        self.wrong.clear();
        self.repairs = 0;
    }

    /// The connection, or this node's turn, is over: nobody is waited for any longer.
    pub(super) fn give_up(&mut self, sentence: &str) {
        for reply in self.waiting.drain(..) {
            let _ = reply.send(Err(sentence.to_owned()));
        }
    }

    /// Capture reads for it, or is about to.
    pub(super) fn is_reading(&self) -> bool {
        matches!(self.step, Step::Reading { .. })
    }

    /// What the operator must hear since the last call.
    pub(super) fn words(&mut self) -> Vec<Word> {
        std::mem::take(&mut self.words)
    }

    /// What to do at `now`.
    pub(super) fn todo(&mut self, now: Instant) -> Todo {
        /// No appointment; the wake-up of a request comes earlier.
        const LONG: Duration = Duration::from_secs(3600);
        match self.step {
            Step::Reading { since } | Step::Asked { since, .. } if now < since + ANSWER_LIMIT => {
                return Todo::Rest(since + ANSWER_LIMIT);
            }
            Step::Reading { .. } | Step::Asked { .. } => self.step = Step::Rest,
            Step::Rest => {}
        }
        if self.unsupported || (self.bytes_per_s == 0 && !self.urgent) {
            return Todo::Rest(now + LONG);
        }
        if now < self.due {
            return Todo::Rest(self.due);
        }
        self.step = Step::Reading { since: now };
        if std::mem::take(&mut self.resend) {
            return Todo::Read(ReadAt::Contents { pages: self.wrong.clone() });
        }
        Todo::Read(ReadAt::Hashes { first_page: self.next, page_count: self.range_pages })
    }

    /// Capture has read. None: nothing to send, ask [`Self::todo`] again.
    pub(super) fn read(&mut self, at: Option<Position>, pages: PagesAt, now: Instant) -> Option<Todo> {
        let Step::Reading { .. } = self.step else { return None };
        self.step = Step::Rest;
        if self.restart {
            self.begin_pass(now);
            return None;
        }
        let Some(at) = at else {
            self.retry(now);
            return None;
        };
        if !pages.contents.is_empty() {
            // Whatever the standby makes of them, the range is compared anew.
            self.due = now;
            return Some(Todo::Send(chunks(at, pages.contents)));
        }
        self.page_size = pages.page_size;
        self.total = pages.page_count;
        let request = HashRequest {
            first_page: self.next,
            page_count: pages.hashes.len() as u32,
            at_position: true,
            generation: at.generation.0,
            frame: at.frame.0,
            rebuild: std::mem::take(&mut self.rebuild),
        };
        if pages.hashes.is_empty() {
            // The database has become smaller than where the pass was.
            self.pass_ends(now);
            return None;
        }
        self.step = Step::Asked { since: now, at, pages };
        Some(Todo::Ask(request))
    }

    /// The standby has answered. None: nothing to send, ask [`Self::todo`] again.
    pub(super) fn answered(&mut self, answer: &PageHashes, now: Instant) -> Option<Todo> {
        let Step::Asked { at, pages, .. } = &self.step else { return None };
        if !answer.at_position {
            self.unsupported = true;
            self.give_up("the standby's version cannot compare pages at a position: run the same software version on both nodes");
            self.step = Step::Rest;
            return None;
        }
        let same = (at.generation.0, at.frame.0, pages.first_page);
        if (answer.generation, answer.frame, answer.first_page) != same {
            return None; // An answer to an earlier question.
        }
        if self.restart {
            self.begin_pass(now);
            return None;
        }
        if answer.passed {
            self.step = Step::Rest;
            self.retry(now);
            return None;
        }
        let theirs: Vec<u64> = answer.hashes.chunks_exact(8).map(le64).collect();
        let numbered = (pages.first_page..).zip(&pages.hashes).enumerate();
        let wrong: Vec<u32> = numbered
            .filter(|(index, (_, ours))| theirs.get(*index) != Some(ours))
            .map(|(_, (page, _))| page)
            .collect();
        let (at, count) = (*at, pages.hashes.len() as u32);
        self.step = Step::Rest;
        if wrong.is_empty() {
            self.range_is_equal(count, now);
            return None;
        }
        self.differs(at, &wrong, now)
    }

    fn retry(&mut self, now: Instant) {
        self.range_pages = (self.range_pages / 2).max(RANGE_PAGES_MIN);
        self.due = now + RETRY_PAUSE;
    }

    fn differs(&mut self, at: Position, wrong: &[u32], now: Instant) -> Option<Todo> {
        if self.wrong.is_empty() {
            self.mismatches += wrong.len() as u64;
            self.differed += wrong.len() as u64;
            self.words.push(Word {
                alarm: true,
                sentence: format!(
                    "the standby's disk holds other contents than this node at {at}: {}; they are sent again now. Check disk and memory of both nodes; if it comes again, replace the node that causes it",
                    named(wrong)
                ),
            });
        }
        self.wrong = wrong.to_vec();
        self.repairs += 1;
        if self.repairs > REPAIRS_MAX {
            let sentence =
                format!("{} cannot be put right alone: the whole database is compared now", named(wrong));
            self.words.push(Word { alarm: true, sentence });
            self.next = 1;
            self.urgent = true;
            return Some(Todo::Resync);
        }
        // Not at once: capture may be reading for the sums.
        self.resend = true;
        self.due = now;
        None
    }

    fn range_is_equal(&mut self, count: u32, now: Instant) {
        if !self.wrong.is_empty() {
            let sentence = format!("{} are equal on both nodes again", named(&self.wrong));
            self.words.push(Word { alarm: false, sentence });
            self.repaired += self.wrong.len() as u64;
            self.wrong.clear();
        }
        self.repairs = 0;
        self.next = self.next.saturating_add(count);
        if self.next > self.total {
            self.pass_ends(now);
            return;
        }
        let most = (RANGE_BYTES / self.page_size.max(1)).clamp(RANGE_PAGES_MIN, READ_PAGES_MAX);
        self.range_pages = (self.range_pages * 2).min(most);
        let bytes = u64::from(count) * u64::from(self.page_size);
        let pause = if self.urgent { 0.0 } else { bytes as f64 / self.bytes_per_s.max(1) as f64 };
        self.due = now + Duration::from_secs_f64(pause);
    }

    fn pass_ends(&mut self, now: Instant) {
        let verified = Verified { pages: self.total.into(), repaired: self.differed };
        for reply in self.waiting.drain(..) {
            let _ = reply.send(Ok(verified));
        }
        self.verified_at = Some(now);
        self.urgent = false;
        self.next = 1;
        self.differed = 0;
        self.due = now + PASS_PAUSE;
    }

    pub(super) fn status(&self) -> EqualityStatus {
        EqualityStatus {
            verified_at: self.verified_at,
            pages_done: self.next - 1,
            pages_total: self.total,
            sums_equal_at: None,
            mismatched_pages: self.mismatches,
            repaired_pages: self.repaired,
        }
    }
}

fn le64(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("chunks of eight bytes"))
}

/// A message for each page.
fn chunks(at: Position, contents: Vec<(u32, bytes::Bytes)>) -> Vec<PageChunk> {
    let chunk = |(first_page, data)| PageChunk {
        first_page,
        data,
        repair: true,
        generation: at.generation.0,
        frame: at.frame.0,
    };
    contents.into_iter().map(chunk).collect()
}

fn named(pages: &[u32]) -> String {
    let list: Vec<String> = pages.iter().take(PAGES_NAMED).map(u32::to_string).collect();
    let more = pages.len().saturating_sub(PAGES_NAMED);
    let word = if pages.len() == 1 { "page" } else { "pages" };
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{word} {}{rest}", list.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_wire::{FrameNo, WalGeneration};

    fn at(frame: u32) -> Position {
        Position { generation: WalGeneration(2), frame: FrameNo(frame) }
    }

    fn pages(first_page: u32, hashes: &[u64], page_count: u32) -> PagesAt {
        PagesAt { page_size: 4096, page_count, first_page, hashes: hashes.to_vec(), contents: Vec::new() }
    }

    fn answer(at: Position, first_page: u32, hashes: &[u64]) -> PageHashes {
        PageHashes {
            first_page,
            hashes: hashes.iter().flat_map(|hash| hash.to_le_bytes()).collect(),
            at_position: true,
            generation: at.generation.0,
            frame: at.frame.0,
            passed: false,
        }
    }

    /// A scrub whose standby has been asked for pages 1 to 3 of 3.
    fn asked(now: Instant) -> Scrub {
        let mut scrub = Scrub::new(1 << 20, now);
        assert!(matches!(scrub.todo(now), Todo::Read(ReadAt::Hashes { first_page: 1, .. })));
        let todo = scrub.read(Some(at(7)), pages(1, &[1, 2, 3], 3), now);
        assert!(matches!(todo, Some(Todo::Ask(HashRequest { first_page: 1, page_count: 3, .. }))));
        scrub
    }

    #[test]
    fn a_pass_over_equal_pages_is_noted_and_the_next_one_comes_later() {
        let now = Instant::now();
        let mut scrub = asked(now);
        assert_eq!(scrub.answered(&answer(at(7), 1, &[1, 2, 3]), now), None);
        assert_eq!(scrub.status().verified_at, Some(now));
        assert_eq!(scrub.todo(now), Todo::Rest(now + PASS_PAUSE));
        assert!(scrub.words().is_empty());
    }

    #[test]
    fn a_page_that_differs_is_an_alarm_sent_again_and_compared_again() {
        let now = Instant::now();
        let mut scrub = asked(now);
        assert_eq!(scrub.answered(&answer(at(7), 1, &[1, 9, 3]), now), None);
        assert_eq!(scrub.todo(now), Todo::Read(ReadAt::Contents { pages: vec![2] }));
        let words = scrub.words();
        assert!(words[0].alarm && words[0].sentence.contains("page 2;"), "{words:?}");
        let contents = PagesAt { contents: vec![(2, vec![5; 4096].into())], ..pages(0, &[], 3) };
        let Some(Todo::Send(sent)) = scrub.read(Some(at(8)), contents, now) else {
            panic!("nothing is sent")
        };
        assert_eq!((sent[0].first_page, sent[0].repair, sent[0].frame), (2, true, 8));
        assert!(matches!(scrub.todo(now), Todo::Read(ReadAt::Hashes { first_page: 1, .. })));
        scrub.read(Some(at(8)), pages(1, &[1, 2, 3], 3), now);
        assert_eq!(scrub.answered(&answer(at(8), 1, &[1, 2, 3]), now), None);
        assert_eq!((scrub.status().mismatched_pages, scrub.status().repaired_pages), (1, 1));
    }

    #[test]
    fn a_page_that_stays_wrong_leads_to_a_resync_of_everything() {
        let now = Instant::now();
        let mut scrub = asked(now);
        for _ in 0..REPAIRS_MAX {
            let todo = scrub.answered(&answer(at(7), 1, &[1, 9, 3]), now);
            assert_eq!(todo, None);
            assert!(matches!(scrub.todo(now), Todo::Read(ReadAt::Contents { .. })));
            let contents = PagesAt { contents: vec![(2, vec![5; 4096].into())], ..pages(0, &[], 3) };
            scrub.read(Some(at(7)), contents, now);
            scrub.todo(now);
            scrub.read(Some(at(7)), pages(1, &[1, 2, 3], 3), now);
        }
        assert_eq!(scrub.answered(&answer(at(7), 1, &[1, 9, 3]), now), Some(Todo::Resync));
        assert_eq!(scrub.status().mismatched_pages, 1, "one page, however often it was looked at");
    }

    #[test]
    fn a_position_that_has_passed_is_tried_again_with_fewer_pages() {
        let now = Instant::now();
        let mut scrub = asked(now);
        let passed = PageHashes { passed: true, ..answer(at(7), 1, &[]) };
        assert_eq!(scrub.answered(&passed, now), None);
        let later = now + RETRY_PAUSE;
        let half = READ_PAGES_MAX / 2;
        assert_eq!(scrub.todo(later), Todo::Read(ReadAt::Hashes { first_page: 1, page_count: half }));
    }

    #[test]
    fn a_standby_that_knows_no_positions_is_not_asked_again_on_its_connection() {
        let now = Instant::now();
        let mut scrub = asked(now);
        let (reply, mut told) = oneshot::channel();
        scrub.waiting.push(reply);
        assert_eq!(scrub.answered(&PageHashes { at_position: false, ..answer(at(7), 1, &[1]) }, now), None);
        assert!(matches!(scrub.todo(now), Todo::Rest(_)));
        assert!(told.try_recv().expect("it is answered").is_err());
        scrub.attached(now);
        assert!(matches!(scrub.todo(now), Todo::Read(_)));
    }

    #[test]
    fn who_asks_for_a_pass_is_told_of_one_that_began_afterwards() {
        let now = Instant::now();
        let mut scrub = asked(now);
        let (reply, mut told) = oneshot::channel();
        scrub.verify(reply, now);
        assert_eq!(scrub.answered(&answer(at(7), 1, &[1, 2, 3]), now), None);
        assert!(told.try_recv().is_err(), "that answer was to an earlier question");
        scrub.todo(now);
        scrub.read(Some(at(9)), pages(1, &[4, 2, 3], 3), now);
        scrub.answered(&answer(at(9), 1, &[4, 2, 3]), now);
        assert_eq!(told.try_recv().expect("it is answered"), Ok(Verified { pages: 3, repaired: 0 }));
    }
}
