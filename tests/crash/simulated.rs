//! Every moment of a mirror's life crashed on the simulated disk, and the proof that the suite notices a
//! sync that is not there.
//!
//! What the moments are is `lives`' and what is right after them `history`'s.

use lockstep_engine::storage::{BackendChoice, SwallowedSync, run};

use crate::history::{History, TAKEN_BACK, Verdict};
use crate::lives::Life;

const LIFE: Life = Life { page_size: 1024, generations: 6, seed: 0, swallowed: None };

/// Replays from `LOCKSTEP_SEED`; printed when a test fails, or with `--nocapture`.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("LOCKSTEP_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0));
    println!("replay with LOCKSTEP_SEED={seed}");
    seed
}

fn crash(life: Life, lived: impl AsyncFnOnce(Life) -> History, seeded: u64) -> Verdict {
    let verdict = run(BackendChoice::Blocking, async |_, _| {
        let history = lived(life).await;
        history.crash_everywhere(seeded, life.seed).await
    });
    let verdict = verdict.expect("a runtime");
    let Verdict { moments, images, different, wrong } = &verdict;
    println!("{life:?}: {moments} moments, {images} images, {different} different, {} wrong", wrong.len());
    verdict
}

fn sound(page_sizes: &[u32], generations: u32, lived: impl AsyncFn(Life) -> History + Copy, seeded: u64) {
    let seed = seed();
    for &page_size in page_sizes {
        let Verdict { images, wrong, .. } =
            crash(Life { page_size, generations, seed, ..LIFE }, async |life| lived(life).await, seeded);
        let first = &wrong[..wrong.len().min(5)];
        assert!(wrong.is_empty(), "{} of {images} images are wrong: {first:#?}", wrong.len());
    }
}

/// Seeded images of each moment in a long run.
fn runs() -> u64 {
    std::env::var("LOCKSTEP_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(100)
}

#[test]
fn every_crash_image_of_a_copy_and_of_generation_switches_is_an_acknowledged_prefix() {
    sound(&[512, 4096], 3, async |life| life.followed().await, 2);
}

#[test]
fn every_crash_image_of_a_resync_is_incomplete_or_an_acknowledged_prefix() {
    sound(&[1024], 1, async |life| life.resynchronised().await, 2);
}

#[test]
fn no_crash_image_of_a_rewind_brings_back_what_was_taken_back() {
    sound(&[1024], 6, async |life| life.rewound().await, 3);
}

#[test]
fn every_crash_image_of_a_former_active_has_its_own_commits_or_keeps_them_in_quarantine() {
    sound(&[1024], 1, async |life| life.kept().await, 2);
}

#[test]
fn every_crash_image_of_a_rewind_to_the_fork_has_its_own_commits_or_keeps_them_in_quarantine() {
    sound(&[1024], 1, async |life| life.rejoined().await, 2);
}

#[test]
fn every_crash_image_of_an_adoption_is_the_same_database() {
    sound(&[1024], 1, async |life| life.adopted().await, 3);
}

#[test]
#[ignore = "minutes: LOCKSTEP_RUNS seeded images of each moment, all page sizes"]
fn long_every_crash_image_of_every_life_is_right() {
    let runs = runs();
    sound(&[512, 1024, 4096, 16384, 65536], 8, async |life| life.followed().await, runs);
    sound(&[512, 1024, 4096, 16384, 65536], 1, async |life| life.resynchronised().await, runs);
    sound(&[512, 1024, 4096, 16384], 12, async |life| life.rewound().await, runs);
    sound(&[512, 1024, 4096, 16384], 1, async |life| life.kept().await, runs);
    sound(&[512, 1024, 4096, 16384], 1, async |life| life.rejoined().await, runs);
    sound(&[512, 1024, 4096, 16384], 1, async |life| life.adopted().await, runs);
}

/// A life on a disk that swallows such syncs leaves images that are wrong in this way.
fn noticed(swallowed: SwallowedSync, lived: impl AsyncFnOnce(Life) -> History, seeded: u64, why: &str) {
    let verdict = crash(Life { seed: seed(), swallowed: Some(swallowed), ..LIFE }, lived, seeded);
    let seen: Vec<_> = verdict.wrong.iter().filter(|wrong| wrong.contains(why)).collect();
    println!("{} times {why:?}, the first: {:?}", seen.len(), seen.first());
    assert!(!seen.is_empty(), "the suite does not notice that {swallowed:?} syncs are not there");
}

#[test]
fn without_the_data_sync_some_crash_image_is_wrong() {
    noticed(SwallowedSync::Data, async |life| life.followed().await, 2, "acknowledged and missing");
}

#[test]
fn without_the_header_sync_some_crash_image_is_wrong() {
    noticed(SwallowedSync::Header, async |life| life.followed().await, 12, "acknowledged and missing");
}

#[test]
fn without_the_directory_sync_some_crash_image_is_wrong() {
    noticed(SwallowedSync::Directory, async |life| life.followed().await, 2, "Incomplete");
}

#[test]
fn without_the_sync_of_pages_and_state_files_some_crash_image_is_wrong() {
    noticed(SwallowedSync::All, async |life| life.followed().await, 2, "mirror.state is damaged");
}

#[test]
fn without_the_sync_of_a_rewind_some_crash_image_is_wrong() {
    noticed(SwallowedSync::Data, async |life| life.rewound().await, 6, TAKEN_BACK);
}

#[test]
fn without_the_syncs_of_a_quarantine_some_crash_image_is_wrong() {
    for kind in [SwallowedSync::All, SwallowedSync::Directory] {
        noticed(kind, async |life| life.kept().await, 2, "quarantine");
    }
}
