//! `pair.state` crashed at every moment: it is the old one or the new one, and the new one once it was
//! said to be on disk.

use std::path::Path;

use lockstep_engine::durable::{create_dir_durably, read_small_file, write_file_durably};
use lockstep_engine::storage::{Backend, BackendChoice, SimulatedDisk, SwallowedSync, Unsynced, run};
use lockstep_failover::PairState;
use lockstep_failover::state::{Fork, Was};
use lockstep_wire::{Epoch, NodeId};

use crate::simulated::seed;

const FILE: &str = "/simulated/var/agent/lab/pair.state";

/// What a node goes through in a life of failovers; the lineage makes the text longer than one sector.
fn states() -> Vec<PairState> {
    let epoch = |counter| Epoch { counter, node: NodeId(counter % 2 + 1) };
    let mut states = Vec::new();
    let mut state = PairState::new();
    for counter in 1..8 {
        state.intent = Some(epoch(counter));
        states.push(state.clone());
        state.epoch = epoch(counter);
        state.lineage.push(Fork { epoch: epoch(counter), positions: Default::default() });
        (state.was, state.intent, state.outdated) = (Was::Active, None, false);
        states.push(state.clone());
        state.solo = true;
        states.push(state.clone());
        (state.was, state.solo, state.outdated) = (Was::Standby, false, true);
        states.push(state.clone());
    }
    states
}

async fn wrong_images(swallowed: Option<SwallowedSync>, seeded: u64) -> (usize, Vec<String>) {
    let seed = seed();
    let disk = SimulatedDisk::default();
    if let Some(kind) = swallowed {
        disk.swallow_syncs(kind);
    }
    let (backend, file, states) = (Backend::Simulated(disk.clone()), Path::new(FILE), states());
    create_dir_durably(&backend, file.parent().expect("a folder")).await.expect("its folder");
    let mut returned = Vec::new();
    for state in &states {
        write_file_durably(&backend, file, state.to_text().into()).await.expect("it is written");
        returned.push(disk.moment());
    }
    let (mut images, mut wrong) = (0, Vec::new());
    for moment in 0..=disk.moment() {
        let parts = (0..seeded).map(|part| Unsynced::Seeded(seed ^ (moment as u64) << 20 ^ part));
        for unsynced in [Unsynced::Kept, Unsynced::Lost].into_iter().chain(parts) {
            images += 1;
            let image = Backend::Simulated(disk.crash_image(moment, unsynced));
            let text = read_small_file(&image, file).await.expect("a simulated disk reads");
            let written = returned.iter().filter(|&&at| at <= moment).count();
            // The state before, and the one that is being written.
            let mut possible =
                written.checked_sub(1).into_iter().chain((written < states.len()).then_some(written));
            let right = match text.map(|text| PairState::from_text(&String::from_utf8_lossy(&text))) {
                None => written == 0,
                Some(Ok(found)) => possible.any(|state| states[state] == found),
                Some(Err(_)) => false,
            };
            if !right {
                wrong.push(format!("moment {moment}, {unsynced:?}, {written} written"));
            }
        }
    }
    println!("{images} images of pair.state, {} wrong", wrong.len());
    (images, wrong)
}

#[test]
fn every_crash_image_of_the_pair_state_is_the_old_or_the_new_one() {
    let (images, wrong) =
        run(BackendChoice::Blocking, async |_, _| wrong_images(None, 20).await).expect("a runtime");
    assert!(wrong.is_empty(), "{} of {images} are wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(5)]);
}

#[test]
fn without_either_sync_some_crash_image_of_the_pair_state_is_wrong() {
    for kind in [SwallowedSync::All, SwallowedSync::Directory] {
        let (_, wrong) =
            run(BackendChoice::Blocking, async |_, _| wrong_images(Some(kind), 4).await).expect("a runtime");
        assert!(!wrong.is_empty(), "{kind:?}");
    }
}
