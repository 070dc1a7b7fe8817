//! The pure half of the heartbeat thread: what to send, what to echo, when to be silent.
//!
//! It speaks by the [`Voice`] the machine gave it and holds the [`Lease`]. The thread around it
//! owns sockets, keys and the guard, and hands in only what it could also report to the machine:
//! a heartbeat the machine does not know of must never be echoed.

use crate::action::Voice;
use crate::lease::{Judgement, Lapse, Lease};
use crate::profile::{PERMIT_AGE, Timing};
use crate::time::Time;
use lockstep_wire::{Heartbeat, SessionId};
use std::hash::{Hash, Hasher};
use std::time::Duration;

/// Former sessions of the peer whose late datagrams are ignored.
const FORMER_SESSIONS: usize = 4;

/// What the thread reports to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// It speaks by this voice now.
    Set {
        /// Of the voice.
        revision: u64,
        /// When a grant was last sent.
        last_grant_sent: Option<Time>,
    },
    /// The lease opened.
    Opened,
    /// The lease ended.
    Lapsed(Lapse),
}

/// The newest word of the peer.
#[derive(Debug, Clone, Copy)]
struct Newest {
    session: u64,
    sequence: u64,
    sent_us: u64,
    at: Time,
}

/// The peer's moment as an `i128`, as [`Time`] is a `u128`: a model checker's hasher takes it relative
/// to the peer's present.
impl Hash for Newest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_i128(i128::from(self.sent_us));
        self.at.hash(state);
    }
}

/// One node's heartbeat.
#[derive(Debug, Clone, Copy)]
pub struct Pulse {
    session: SessionId,
    timing: Timing,
    sequence: u64,
    voice: Option<Voice>,
    lease: Lease,
    newest: Option<Newest>,
    former: [u64; FORMER_SESSIONS],
    next_beat: Time,
    started: Time,
}

/// Of all that decides what it will do: not of sessions and sequence numbers, which only grow.
impl Hash for Pulse {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.voice, self.lease, self.newest, self.next_beat, self.started).hash(state);
    }
}

impl Pulse {
    /// A new life; silent until it has a voice.
    pub fn new(session: SessionId, timing: Timing, now: Time) -> Self {
        Self {
            session,
            timing,
            sequence: 0,
            voice: None,
            lease: Lease::new(&timing),
            newest: None,
            former: [0; FORMER_SESSIONS],
            next_beat: now,
            started: now,
        }
    }

    /// Speaks by `voice` from now on; the report is due to the machine once.
    pub fn set_voice(&mut self, voice: Voice) -> Report {
        self.lease.on_permit(voice.permit, voice.solo, voice.at);
        if self.voice.is_some_and(|before| before.revision != voice.revision) {
            // A claim, a release or a wish is not made to wait for the rhythm.
            self.next_beat = self.next_beat.min(voice.at);
        }
        self.voice = Some(voice);
        Report::Set { revision: voice.revision, last_grant_sent: self.lease.last_grant_sent() }
    }

    /// Is this datagram of a former life of the peer? Then it is dropped before anything else.
    ///
    /// `by_last_key`: it was not opened by the key of the present data connection, but by the one before.
    /// Every life of the peer begins with a connection of its own, so what speaks under the last key for
    /// another session than the one heard last is of a life that is over. Taken for a new one, a late
    /// datagram of it would make the present life a former one, never to be heard again.
    pub fn is_stale(&self, heartbeat: &Heartbeat, by_last_key: bool) -> bool {
        let is_other = self.newest.is_some_and(|newest| newest.session != heartbeat.session);
        self.is_former(heartbeat) || (by_last_key && is_other)
    }

    fn is_former(&self, heartbeat: &Heartbeat) -> bool {
        heartbeat.session == 0 || self.former.contains(&heartbeat.session)
    }

    /// A heartbeat came in (and was queued for the machine). The answer, if one is due, goes out
    /// at once on the same path.
    pub fn on_received(&mut self, heartbeat: &Heartbeat, at: Time, now: Time) -> Option<Heartbeat> {
        if self.is_former(heartbeat) {
            return None;
        }
        let is_newest = match self.newest {
            Some(newest) if newest.session == heartbeat.session => heartbeat.sequence > newest.sequence,
            Some(newest) => {
                self.former.rotate_right(1);
                self.former[0] = newest.session;
                true
            }
            None => true,
        };
        if is_newest {
            let (session, sequence, sent_us) = (heartbeat.session, heartbeat.sequence, heartbeat.sent_us);
            self.newest = Some(Newest { session, sequence, sent_us, at });
        }
        self.lease.on_received(heartbeat, self.session, at, is_newest);
        if heartbeat.is_echo {
            return None;
        }
        let answer = self.message(now, true)?;
        if self.voice.is_some_and(|voice| !voice.active) {
            // The standby's own beats follow its echoes: a message that carries no newer echo
            // would only postpone the active's R2 while its R1 runs out.
            self.next_beat = now + self.timing.period * 5 / 4;
        }
        Some(answer)
    }

    /// The next moment at which something is due although nothing happens: a heartbeat, or a look at
    /// the lease.
    pub fn due(&self, now: Time) -> Time {
        self.lease.judge_at(now).map_or(self.next_beat, |at| at.min(self.next_beat))
    }

    /// The heartbeat due at `now` for every path; `None` when it is not yet time, or silent.
    pub fn beat(&mut self, now: Time) -> Option<Heartbeat> {
        if now < self.next_beat {
            return None;
        }
        let on_time = self.next_beat + self.timing.period;
        self.next_beat = if on_time > now { on_time } else { now + self.timing.period };
        self.message(now, false)
    }

    /// One heartbeat outside the rhythm (intent pings).
    pub fn ping(&mut self, now: Time) -> Option<Heartbeat> {
        self.message(now, false)
    }

    /// Does it keep silent at `now`?
    pub fn is_silent(&self, now: Time) -> bool {
        let Some(voice) = self.voice else { return true };
        let deaf = now >= self.lease.heard().unwrap_or(self.started) + self.timing.dead_after;
        now >= voice.at + PERMIT_AGE || (voice.silent_when_deaf && deaf && self.lease.lease_end().is_none())
    }

    fn message(&mut self, now: Time, is_echo: bool) -> Option<Heartbeat> {
        if self.is_silent(now) {
            return None;
        }
        let voice = self.voice?;
        self.sequence += 1;
        let echoed = self.newest.filter(|_| voice.echo);
        let grant = voice.grant.filter(|_| echoed.is_some());
        self.lease.on_sent(now, grant.is_some());
        Some(Heartbeat {
            session: self.session.0,
            sequence: self.sequence,
            sent_us: now.as_us(),
            is_echo,
            echo_session: echoed.map_or(0, |newest| newest.session),
            echo_sent_us: echoed.map_or(0, |newest| newest.sent_us),
            echo_held_us: echoed.map_or(0, |newest| micros(now.since(newest.at))),
            epoch_counter: voice.epoch.counter,
            epoch_node: voice.epoch.node.0,
            active: voice.active,
            solo: voice.solo,
            outdated: voice.outdated,
            grant_us: grant.map_or(0, micros),
            period_us: micros(self.timing.period),
            lease_us: micros(self.timing.lease),
            intent: voice.intent as i32,
            intent_counter: voice.intent_counter,
            solo_commits: voice.solo_commits,
            fit: voice.fit,
            hands_off: voice.hands_off,
        })
    }

    /// A majority of the targets answered the probe sent then.
    pub fn on_majority_probe(&mut self, sent_at: Time) {
        self.lease.on_majority_probe(sent_at);
    }

    /// A foreign MAC spoke for the VIP.
    pub fn on_foreign_arp(&mut self, at: Time) {
        self.lease.on_foreign_arp(at);
    }

    /// Judges the lease at `now`; call after every batch of datagrams, once the socket is drained.
    pub fn judge(&mut self, now: Time) -> Judgement {
        self.lease.judge(now)
    }

    /// The guard would not take the renewal: the lease is over.
    pub fn guard_gone(&mut self) -> Judgement {
        self.lease.close(Lapse::GuardGone)
    }

    /// The lease, to look at.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }
}

fn micros(span: Duration) -> u32 {
    u32::try_from(span.as_micros()).unwrap_or(u32::MAX)
}
