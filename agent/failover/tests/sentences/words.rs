//! A peer's heartbeats and an open lease, for the tests of single parts.

use lockstep_failover::{Judgement, Lease, Permit, Profile, Time, Timing, Voice};
use lockstep_wire::{Epoch, Heartbeat, Intent, NodeId, SessionId};

pub(crate) const OURS: SessionId = SessionId(11);
pub(crate) const THEIRS: u64 = 22;
pub(crate) const EPOCH: Epoch = Epoch { counter: 1, node: NodeId(1) };
pub(crate) const NEXT: Epoch = Epoch { counter: 2, node: NodeId(2) };

pub(crate) fn timing() -> Timing {
    Profile::Default.timing()
}

pub(crate) fn ms(ms: u64) -> Time {
    Time::from_us(ms * 1_000)
}

/// A heartbeat of the peer that echoes what we sent at `echo_ms`.
pub(crate) fn from_peer(sequence: u64, echo_ms: u64) -> Heartbeat {
    Heartbeat {
        session: THEIRS,
        sequence,
        sent_us: 5_000_000 + sequence,
        echo_session: OURS.0,
        echo_sent_us: echo_ms * 1_000,
        epoch_counter: EPOCH.counter,
        epoch_node: EPOCH.node.0,
        period_us: 200_000,
        lease_us: 600_000,
        ..Heartbeat::default()
    }
}

pub(crate) fn voice(at: Time) -> Voice {
    Voice {
        revision: 1,
        at,
        epoch: EPOCH,
        active: false,
        solo: false,
        outdated: false,
        grant: None,
        intent: Intent::None,
        intent_counter: 0,
        solo_commits: 0,
        fit: false,
        hands_off: false,
        echo: true,
        silent_when_deaf: false,
        permit: None,
    }
}

pub(crate) const PERMIT: Permit = Permit { epoch: EPOCH, opening: 1, alone: false, targets: true };

pub(crate) fn open_lease(solo: bool) -> Lease {
    let mut lease = Lease::new(&timing());
    lease.on_permit(Some(PERMIT), solo, ms(1_000));
    lease.on_received(&from_peer(1, 1_000), OURS, ms(1_001), true);
    assert_eq!(lease.judge(ms(1_001)), Judgement::Opened);
    assert_eq!(lease.lease_end(), Some(ms(1_600)), "send time of the echoed heartbeat + lease");
    lease
}
