//! What happened on a simulated disk and what must be found after a crash at each moment of it.
//!
//! A history is recorded once; then every moment is crashed in several ways, and each image is recovered
//! and judged. A crash replays from the seed: the same seed gives the same parts of what was unsynced.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use lockstep_engine::mirror::Mirror;
use lockstep_engine::storage::{Backend, SimulatedDisk, SwallowedSync, Unsynced};
use xxhash_rust::xxh3::Xxh3;

use crate::harness::invariants;
use crate::recover::{Recovered, Standing, config_below, recover};
use crate::source::Contents;

/// A commit that a rewind took back is there again.
pub(crate) const TAKEN_BACK: &str = "it is a state that was taken back";

/// What may be found after a crash at some moment.
#[derive(Debug, Clone)]
pub(crate) struct Expectation {
    /// Any of these.
    pub(crate) standings: Vec<Standing>,
    /// State that was acknowledged: no older one may be found.
    pub(crate) least: usize,
    /// The active had come so far: no newer one may be found.
    pub(crate) newest: usize,
    /// States taken back: none of them may be found.
    pub(crate) retracted: Vec<usize>,
    /// State this node wrote itself: found in its place, or kept in quarantine.
    pub(crate) own: Option<usize>,
    /// It is in quarantine, whatever else there is.
    pub(crate) kept: bool,
}

/// One life of a mirror.
pub(crate) struct History {
    pub(crate) disk: SimulatedDisk,
    states: Vec<Contents>,
    timeline: Vec<(usize, Expectation)>,
}

/// How many images were looked at, and the wrong ones.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) moments: usize,
    pub(crate) images: usize,
    /// Images that differ from every other.
    pub(crate) different: usize,
    pub(crate) wrong: Vec<String>,
}

impl History {
    /// A node that has nothing yet, on a disk that swallows this kind of sync.
    pub(crate) fn new(swallowed: Option<SwallowedSync>) -> Self {
        let disk = SimulatedDisk::default();
        if let Some(kind) = swallowed {
            disk.swallow_syncs(kind);
        }
        let nothing = Expectation {
            standings: vec![Standing::Incomplete],
            least: 0,
            newest: 0,
            retracted: Vec::new(),
            own: None,
            kept: false,
        };
        Self { timeline: vec![(disk.moment(), nothing)], disk, states: Vec::new() }
    }

    pub(crate) fn backend(&self) -> Backend {
        Backend::Simulated(self.disk.clone())
    }

    pub(crate) async fn open(&self) -> Mirror {
        Mirror::open(self.backend(), config_below(Path::new("/"))).await.expect("it opens")
    }

    /// The active, or this node itself, is in a new state; answers its number.
    pub(crate) fn committed(&mut self, contents: Contents) -> usize {
        self.states.push(contents);
        let state = self.states.len() - 1;
        self.expect(|expected| expected.newest = state);
        state
    }

    /// From this moment on something else is right.
    pub(crate) fn expect(&mut self, change: impl FnOnce(&mut Expectation)) {
        let mut expected = self.timeline.last().expect("it never is empty").1.clone();
        change(&mut expected);
        self.timeline.push((self.disk.moment(), expected));
    }

    /// From this moment on nothing before the newest state may be found.
    pub(crate) fn acknowledged(&mut self) {
        self.expect(|expected| expected.least = expected.newest);
    }

    /// What was before this moment is not crashed: a test's own preparation.
    pub(crate) fn begin(&mut self) {
        let now = self.timeline.pop().expect("it never is empty");
        self.timeline = vec![(self.disk.moment(), now.1)];
    }

    fn at(&self, moment: usize) -> &Expectation {
        let begun = self.timeline.iter().rev().find(|(from, _)| *from <= moment);
        &begun.expect("moments before the first are not crashed").1
    }

    /// Crashes every moment: all kept, all lost, and `seeded` seeded parts.
    pub(crate) async fn crash_everywhere(&self, seeded: u64, seed: u64) -> Verdict {
        let mut verdict = Verdict::default();
        let mut recovered = HashMap::new();
        let mut different = HashSet::new();
        for moment in self.timeline[0].0..=self.disk.moment() {
            verdict.moments += 1;
            let parts = (0..seeded).map(|part| Unsynced::Seeded(seed ^ (moment as u64) << 20 ^ part));
            for unsynced in [Unsynced::Kept, Unsynced::Lost].into_iter().chain(parts) {
                verdict.images += 1;
                let image = self.image(moment, unsynced).await;
                let name = fingerprint(&image);
                different.insert(name);
                let found = match recovered.get(&name) {
                    Some(found) => found,
                    None => recovered.entry(name).or_insert(recover(&image).await),
                };
                if let Err(why) = found.clone().and_then(|found| self.judge(self.at(moment), &found)) {
                    verdict.wrong.push(format!("moment {moment}, {unsynced:?}: {why}"));
                }
            }
        }
        verdict.different = different.len();
        verdict
    }

    /// Every fourth seeded image crashes again while it recovers.
    async fn image(&self, moment: usize, unsynced: Unsynced) -> SimulatedDisk {
        let image = self.disk.crash_image(moment, unsynced);
        let Unsynced::Seeded(seed) = unsynced else { return image };
        if !seed.is_multiple_of(4) {
            return image;
        }
        let opened = Mirror::open(Backend::Simulated(image.clone()), config_below(Path::new("/"))).await;
        drop(opened);
        let again = (seed >> 2) as usize % (image.moment() + 1);
        image.crash_image(again, Unsynced::Seeded(!seed))
    }

    fn judge(&self, expected: &Expectation, found: &Recovered) -> Result<(), String> {
        if !expected.standings.contains(&found.standing) {
            return Err(format!("it is {:?} and not one of {:?}", found.standing, expected.standings));
        }
        if let Some(contents) = &found.contents {
            match (found.standing, expected.own) {
                (Standing::Own, Some(own)) if self.states[own] == *contents => {}
                (Standing::Own, _) => return Err("it is not what this node wrote".to_owned()),
                _ => self.judge_contents(expected, contents)?,
            }
        }
        let Some(own) = expected.own else { return Ok(()) };
        let kept = found.kept.contains(&self.states[own]);
        let adopted = found.standing == Standing::Complete && expected.standings.contains(&Standing::Own);
        if kept || !expected.kept && (found.standing == Standing::Own || adopted) {
            return Ok(());
        }
        Err("what this node wrote is neither there nor in quarantine".to_owned())
    }

    fn judge_contents(&self, expected: &Expectation, found: &Contents) -> Result<(), String> {
        let acknowledged = &self.states[expected.least].commits;
        invariants::nothing_acknowledged_is_lost(&found.commits, acknowledged)?;
        let possible = (expected.least..=expected.newest).filter(|state| !expected.retracted.contains(state));
        if possible.into_iter().any(|state| self.states[state] == *found) {
            return Ok(());
        }
        if expected.retracted.iter().any(|&state| self.states[state] == *found) {
            return Err(TAKEN_BACK.to_owned());
        }
        let (least, newest) = (expected.least, expected.newest);
        Err(format!("{} commits, and no state from {least} to {newest}", found.commits.count()))
    }
}

fn fingerprint(image: &SimulatedDisk) -> u64 {
    let mut hash = Xxh3::new();
    for path in image.paths() {
        let bytes = image.contents(&path).unwrap_or_default();
        hash.update(path.as_os_str().as_encoded_bytes());
        hash.update(&image.inode(&path).unwrap_or_default().to_le_bytes());
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(&bytes);
    }
    hash.digest()
}
