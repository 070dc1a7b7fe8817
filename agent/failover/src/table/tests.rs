//! Every combination of evidence meets exactly one row.

use super::*;

const BASE: View = View {
    who: Active,
    peer: Peer::Both,
    majority: false,
    wait_over: false,
    vip: Vip::Unasked,
    grant: false,
    tie: Tie::Free,
    automatic: false,
    lease: false,
    foreign: false,
    permit_old: false,
    unfit: false,
    may_hand_over: false,
    failback: false,
    was: WasKind::Never,
    relation: Relation::Unheard,
    peer_solo: false,
    last_active: false,
    primary: false,
};

fn every_view() -> Vec<View> {
    let mut views = Vec::new();
    let bits = |n: u32, i: u32| n >> i & 1 == 1;
    for &peer in Peer::ALL {
        for n in 0..256 {
            views.push(View {
                peer,
                majority: bits(n, 0),
                lease: bits(n, 1),
                foreign: bits(n, 2),
                permit_old: bits(n, 3),
                unfit: bits(n, 4),
                may_hand_over: bits(n, 5),
                automatic: bits(n, 6),
                failback: bits(n, 7),
                ..BASE
            });
        }
        for &vip in Vip::ALL {
            for n in 0..16 {
                let (majority, wait_over, grant, automatic) =
                    (bits(n, 0), bits(n, 1), bits(n, 2), bits(n, 3));
                for &tie in Tie::ALL {
                    views.push(View {
                        who: Standby,
                        peer,
                        vip,
                        majority,
                        wait_over,
                        grant,
                        tie,
                        automatic,
                        ..BASE
                    });
                }
            }
        }
    }
    for &was in WasKind::ALL {
        for &relation in Relation::ALL {
            for &vip in Vip::ALL {
                for n in 0..64 {
                    let tie = Tie::ALL[n as usize / 16];
                    let (majority, peer_solo, last_active, primary) =
                        (bits(n, 0), bits(n, 1), bits(n, 2), bits(n, 3));
                    views.push(View {
                        who: Cold,
                        was,
                        relation,
                        vip,
                        tie,
                        majority,
                        peer_solo,
                        last_active,
                        primary,
                        ..BASE
                    });
                }
            }
        }
    }
    views
}

#[test]
fn every_combination_of_evidence_meets_exactly_one_row() {
    for view in every_view() {
        let rows: Vec<_> = TABLE
            .iter()
            .filter(|row| row.who == view.who && row.when.takes(&view))
            .map(|row| row.id)
            .collect();
        assert_eq!(rows.len(), 1, "{view:?} meets {rows:?}");
    }
}

#[test]
fn every_row_is_met_by_some_evidence() {
    let views = every_view();
    for row in TABLE {
        assert!(views.iter().any(|view| row_for(view).id == row.id), "row {} is never met", row.id);
    }
}

#[test]
fn row_ids_are_unique() {
    let mut ids: Vec<_> = TABLE.iter().map(|row| row.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), TABLE.len());
}

#[test]
fn a_takeover_needs_silence_the_wait_a_majority_a_silent_vip_and_a_valid_grant() {
    for view in every_view() {
        if row_for(&view).verdict == Promote {
            assert_eq!(view.peer, Peer::Nothing);
            assert!(view.wait_over && view.majority && view.grant && view.automatic);
            assert_ne!(view.tie, Tie::Lost);
            assert_eq!(view.vip, Vip::Silent);
        }
    }
}

#[test]
fn nothing_is_handed_over_by_itself_without_an_open_lease_and_leave_or_a_due_failback() {
    for view in every_view() {
        if row_for(&view).verdict == HandOver {
            assert!(view.lease && !view.foreign && !view.permit_old, "{view:?}");
            let by_fault = view.may_hand_over && view.automatic;
            let failback = view.failback && view.peer == Peer::Both && !view.unfit;
            assert!(by_fault || failback, "{view:?}");
        }
    }
}

#[test]
fn every_row_that_leaves_a_node_stuck_names_the_command_that_helps() {
    for row in TABLE {
        let stuck = matches!(row.verdict, Hold | Ask) || (row.verdict != Promote && row.severity == Critical);
        let moves_on = matches!(row.verdict, HandOver | Follow);
        let named = ["`lockstep ", "`systemctl "].iter().any(|command| row.sentence.contains(command));
        assert!(!stuck || moves_on || named, "row {} says no command: {}", row.id, row.sentence);
    }
}
