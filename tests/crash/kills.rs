//! Application, agent or both killed at random moments under load, on either node.
//!
//! After each kill everything acknowledged is in the database of the node that serves; at the end both
//! nodes hold the same. Whoever serves afterwards is right.

use rustix::process::Signal;

use crate::harness::{DEMO_APP, Pair, unmodified_app, waiting_app};
use crate::power::moment;
use crate::simulated::seed;

fn kill_at_random(app: &str, kills: u32, victims: &[&[&str]]) -> Pair {
    let mut moments = seed();
    let mut pair = Pair::with_app(app, &[]);
    assert_eq!(pair.copies(), (1, 0), "the first copy is told");
    for kill in 0..kills {
        let node = if kill % 2 == 0 { "a" } else { "b" };
        let victims = victims[kill as usize / 2 % victims.len()];
        std::thread::sleep(moment(&mut moments));
        pair.moves(|pair| {
            for victim in victims {
                // The standby has no application.
                pair.signal(node, victim, Signal::KILL);
            }
            pair.somebody_in_sync();
        });
        pair.writes_go_on();
        let active = pair.somebody_in_sync();
        pair.judge_the_active(&format!("kill {kill}: {victims:?} of {node}"), active);
    }
    println!("{} orders acknowledged over {kills} kills", pair.acknowledged());
    pair
}

fn end(pair: Pair) {
    let active = pair.somebody_in_sync();
    pair.end(active);
}

fn kill_agents(kills: u32) {
    let pair = kill_at_random(&waiting_app(), kills, &[&["agent"]]);
    let (copies, resyncs) = pair.copies();
    println!("{resyncs} resyncs by pages");
    assert_eq!(copies, 1, "a full copy was made although the WAL held the gap");
    end(pair);
}

fn kill_applications_and_agents(app: &str, kills: u32) {
    end(kill_at_random(app, kills, &[&[DEMO_APP], &["agent"], &["agent", DEMO_APP]]));
}

fn runs() -> u32 {
    std::env::var("LOCKSTEP_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(200)
}

#[test]
fn agents_killed_at_random_moments_lose_nothing_and_copy_nothing() {
    kill_agents(4);
}

#[test]
#[ignore = "minutes: LOCKSTEP_RUNS kills"]
fn long_agents_killed_at_random_moments_lose_nothing_and_copy_nothing() {
    kill_agents(runs());
}

#[test]
fn applications_and_agents_killed_at_random_moments_lose_nothing() {
    kill_applications_and_agents(&waiting_app(), 6);
}

#[test]
fn kills_lose_nothing_that_an_unmodified_program_committed() {
    kill_applications_and_agents(&unmodified_app(), 6);
}

#[test]
#[ignore = "minutes: LOCKSTEP_RUNS kills"]
fn long_kills_lose_nothing_that_an_unmodified_program_committed() {
    kill_applications_and_agents(&unmodified_app(), runs());
}

#[test]
#[ignore = "minutes: LOCKSTEP_RUNS kills"]
fn long_applications_and_agents_killed_at_random_moments_lose_nothing() {
    kill_applications_and_agents(&waiting_app(), runs());
}
