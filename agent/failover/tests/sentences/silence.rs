//! When a silent peer counts as gone.

use crate::rig::Rig;
use crate::words::{ms, timing};
use lockstep_failover::{Action, Event, Path, detector::Detector};
use std::time::Duration;

#[test]
fn the_wait_counts_from_the_newest_sign_of_life_with_the_longest_announced_lease() {
    let mut detector = Detector::new(&timing(), ms(0));
    detector.on_keys(true, ms(0));
    let (lease, period) = (Duration::from_millis(3_000), Duration::from_millis(1_000));
    detector.on_heard(Path::Lan, ms(1_000), lease, period);
    assert_eq!(detector.wait_over_at(&timing()), ms(1_000 + 3_006 + 50));
    detector.on_announced(ms(2_000));
    assert_eq!(
        detector.wait_over_at(&timing()),
        ms(2_000 + 3_006 + 50),
        "an R2 renewal counts like a heartbeat"
    );
    detector.on_stalled(Duration::from_millis(100));
    assert_eq!(detector.wait_over_at(&timing()), ms(2_100 + 3_006 + 50), "our own stall is not the peer's");
}

#[test]
fn a_peer_without_keys_is_unknown_and_the_last_key_stays() {
    let mut detector = Detector::new(&timing(), ms(0));
    assert!(!detector.knows_peer());
    detector.on_keys(true, ms(10));
    detector.on_keys(false, ms(20));
    assert!(detector.knows_peer());
}

#[test]
fn without_a_majority_nothing_is_taken_over() {
    let mut rig = Rig::standby();
    rig.actions.clear();
    for _ in 0..20 {
        rig.now = rig.now + Duration::from_millis(100);
        rig.tell(Event::TargetsMajority { sent_at: rig.now, answered: 1, of: 3 });
    }
    assert_eq!(rig.position(|action| *action == Action::ProbeVip), None);
    assert_eq!(rig.machine.status().row, "9");
}
