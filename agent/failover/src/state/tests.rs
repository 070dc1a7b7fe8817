//! The text form round-trips and refuses what is not it.

use super::*;
use lockstep_wire::{FrameNo, NodeId, WalGeneration};
use proptest::prelude::*;

fn some() -> PairState {
    let epoch = Epoch { counter: 7, node: NodeId(0xabc) };
    let position = Position { generation: WalGeneration(3), frame: FrameNo(42) };
    PairState {
        epoch,
        lineage: vec![Fork { epoch, positions: BTreeMap::from([("main".to_owned(), position)]) }],
        was: Was::Active,
        solo: true,
        outdated: false,
        intent: Some(epoch.next(NodeId(1))),
        forced: true,
        released: true,
        refused: Some(epoch),
    }
}

#[test]
fn the_text_reads_back() {
    for state in [PairState::new(), some()] {
        assert_eq!(PairState::from_text(&state.to_text()), Ok(state));
    }
}

#[test]
fn a_flipped_bit_a_cut_and_another_version_are_refused() {
    let text = some().to_text();
    for cut in 0..text.len() {
        PairState::from_text(&text[..cut]).expect_err("cut");
    }
    for byte in 0..text.len() {
        let mut damaged = text.clone().into_bytes();
        damaged[byte] ^= 1;
        if let Ok(damaged) = String::from_utf8(damaged) {
            PairState::from_text(&damaged).expect_err("a flipped bit");
        }
    }
    let newer = text.replace("pair-state 1 ", "pair-state 2 ");
    assert_eq!(PairState::from_text(&newer), Err(StateError::Version("2".to_owned())));
}

proptest! {
    #[test]
    fn garbage_is_refused_and_never_panics(text in ".{0,300}") {
        prop_assert!(PairState::from_text(&text).is_err());
    }
}
