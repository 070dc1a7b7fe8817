//! What the model has found, as scripts that stay.

use crate::check::{Pair, story};
use crate::choice::{Choice, Fault};
use crate::setting::Setting;
use crate::world::World;

/// The pair after the choices of a script; nothing may be broken on the way.
fn after(script: &str) -> World {
    let choices = Choice::script(script);
    let pair = Pair::new(Setting::new(u8::MAX), false);
    let mut world = pair.root();
    for &choice in &choices {
        assert!(world.make(choice), "{choice} is possible\n{}", story(&pair, &choices));
        assert_eq!(world.broken, None, "{}", story(&pair, &choices));
    }
    world
}

/// The standby's intent was heard, then the standby hung and was switched off: the operator accepts
/// loss on the old active, whose lease did not open, since an intent bars R2.
#[test]
fn a_node_forced_to_serve_serves_although_it_heard_the_other_ones_intent_before() {
    let world = after(
        "power-off a; tick 4; slow-disk b; tick; start a; tick 25; power-off b; accept-loss a; tick 10",
    );
    assert!(world.holders().eq([0]), "it serves");
}

/// A late datagram of a life of the standby that the restarted active had never heard came after the
/// first of its next life, was taken for a third one, and made the living one a former one for good.
#[test]
fn a_late_datagram_of_a_life_that_was_never_heard_does_not_silence_the_present_one() {
    let script = "power-off a; start a; tick; delay b; tick; power-off b; start b; tick 2; arrive; tick 30";
    assert!(after(script).is_well(), "{script}");
}

/// Who answers for the VIP was forgotten at once, and asked for again without end.
#[test]
fn a_standby_that_finds_the_vip_answered_holds_instead_of_probing_without_end() {
    assert!(after("hang-beat a; flush a; tick 7").holders().eq([0]), "what serves is not taken over");
}

/// Long random runs of many faults, each ended after some time; then everything is mended.
fn walk(seed: u64, faults: u8) {
    let pair = Pair::new(Setting::new(faults), !seed.is_multiple_of(4));
    let mut world = pair.root();
    let mut state = seed;
    let mut below = |n: usize| {
        // SplitMix64, as in tests/sim.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    };
    let mut made = Vec::new();
    let mut choices = Vec::new();
    let told = |made: &[Choice]| format!("seed {seed}\n{}", story(&pair, made));
    while world.budget > 0 || made.len() < 40 {
        choices.clear();
        world.choices(&mut choices);
        // Faults come in bursts: mostly it is time that passes.
        let choice = if below(3) > 0 { Choice::Tick } else { choices[below(choices.len())] };
        if world.make(choice) {
            made.push(choice);
        }
        assert_eq!(world.broken, None, "{}", told(&made));
    }
    loop {
        choices.clear();
        world.mends(&mut choices);
        let Some(&choice) = choices.first() else { break };
        world.make(choice);
        made.push(choice);
        world.make(Choice::Tick);
        made.push(Choice::Tick);
    }
    assert!(pair.has_way_out(&world), "no way out: {}", told(&made));
}

#[test]
fn random_walks_of_many_faults_leave_one_holder_no_loss_and_a_way_out() {
    for seed in 0..300 {
        walk(seed, 8);
    }
}

#[test]
#[ignore = "minutes: LOCKSTEP_RUNS random walks of LOCKSTEP_FAULTS faults"]
fn long_random_walks_of_many_faults_leave_one_holder_no_loss_and_a_way_out() {
    let faults = u8::try_from(crate::explore::number("LOCKSTEP_FAULTS", 8)).expect("a small number");
    for seed in 0..crate::explore::number("LOCKSTEP_RUNS", 100_000) as u64 {
        walk(1_000 + seed, faults);
    }
}

#[test]
fn every_choice_reads_back_as_it_prints() {
    for script in ["mute a; tick 3; arrive; mend-lan b", "power-off-written b; tick"] {
        assert_eq!(Choice::write_script(&Choice::script(script)), script);
    }
    assert!(Fault::ALL.len() > 20);
}
