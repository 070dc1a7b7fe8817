//! The one flat table of failover: code, log sentence, documentation and diagram.
//!
//! Every combination of evidence meets exactly one row (a test walks them all). A row's id is the
//! number of the decision table in docs/failover.md, `c` for a cold start; a letter tells apart
//! what one number means on the two nodes or at different moments. What a verdict *does* is
//! `machine/`'s; what a facet *means* is `evidence.rs`'s.

use crate::action::Severity;

mod facet;

pub use facet::{Peer, Relation, Tie, Verdict, Vip, WasKind, Who};

/// The evidence, reduced to what the table distinguishes. Facets that a node's part of the table
/// does not use are ignored there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Whose question.
    pub who: Who,
    /// The peer.
    pub peer: Peer,
    /// A majority of the targets answers.
    pub majority: bool,
    /// Standby: the wait for the other's lease is over.
    pub wait_over: bool,
    /// The VIP probes.
    pub vip: Vip,
    /// Standby: the grant is valid.
    pub grant: bool,
    /// Standby, cold: the witness.
    pub tie: Tie,
    /// Failover is automatic.
    pub automatic: bool,
    /// Active: the lease is open.
    pub lease: bool,
    /// Active: a foreign MAC spoke for the VIP.
    pub foreign: bool,
    /// Active: the permit was too old.
    pub permit_old: bool,
    /// Active: the application failed after its restarts, or the database's disk fails.
    pub unfit: bool,
    /// Active: the standby is in sync and fit, automatic moves are on and within their limit, and this node
    /// is unfit, or has been cut off from its LAN for long enough.
    pub may_hand_over: bool,
    /// Active: an automatic failback is due.
    pub failback: bool,
    /// Cold: what we were.
    pub was: WasKind,
    /// Cold: the peer's history.
    pub relation: Relation,
    /// Cold: the peer was solo too, at another epoch.
    pub peer_solo: bool,
    /// Cold: the present epoch is ours (we were the last active).
    pub last_active: bool,
    /// Configured primary.
    pub primary: bool,
}

/// Which views a row takes: an empty list or `None` means any.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the fields are those of View")]
pub struct When {
    pub peer: &'static [Peer],
    pub majority: Option<bool>,
    pub wait_over: Option<bool>,
    pub vip: &'static [Vip],
    pub grant: Option<bool>,
    pub tie: &'static [Tie],
    pub automatic: Option<bool>,
    pub lease: Option<bool>,
    pub foreign: Option<bool>,
    pub permit_old: Option<bool>,
    pub unfit: Option<bool>,
    pub may_hand_over: Option<bool>,
    pub failback: Option<bool>,
    pub was: &'static [WasKind],
    pub relation: &'static [Relation],
    pub peer_solo: Option<bool>,
    pub last_active: Option<bool>,
    pub primary: Option<bool>,
}

/// Takes every view.
pub const ANY: When = When {
    peer: &[],
    majority: None,
    wait_over: None,
    vip: &[],
    grant: None,
    tie: &[],
    automatic: None,
    lease: None,
    foreign: None,
    permit_old: None,
    unfit: None,
    may_hand_over: None,
    failback: None,
    was: &[],
    relation: &[],
    peer_solo: None,
    last_active: None,
    primary: None,
};

impl When {
    /// Does it take `view`?
    pub fn takes(&self, view: &View) -> bool {
        fn one<T: PartialEq>(list: &[T], value: &T) -> bool {
            list.is_empty() || list.contains(value)
        }
        let flag = |wanted: Option<bool>, is: bool| wanted.is_none_or(|wanted| wanted == is);
        one(self.peer, &view.peer)
            && flag(self.majority, view.majority)
            && flag(self.wait_over, view.wait_over)
            && one(self.vip, &view.vip)
            && flag(self.grant, view.grant)
            && one(self.tie, &view.tie)
            && flag(self.automatic, view.automatic)
            && flag(self.lease, view.lease)
            && flag(self.foreign, view.foreign)
            && flag(self.permit_old, view.permit_old)
            && flag(self.unfit, view.unfit)
            && flag(self.may_hand_over, view.may_hand_over)
            && flag(self.failback, view.failback)
            && one(self.was, &view.was)
            && one(self.relation, &view.relation)
            && flag(self.peer_solo, view.peer_solo)
            && flag(self.last_active, view.last_active)
            && flag(self.primary, view.primary)
    }
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Number in docs/failover.md and a letter.
    pub id: &'static str,
    /// Whose.
    pub who: Who,
    /// When.
    pub when: When,
    /// What to do.
    pub verdict: Verdict,
    /// How much it matters.
    pub severity: Severity,
    /// The log sentence, without the evidence that is added to it.
    pub sentence: &'static str,
}

impl Row {
    /// It is about which paths carry a peer that is heard.
    pub fn is_of_a_heard_peer(&self) -> bool {
        let heard = |peer: &Peer| !matches!(peer, Peer::Nothing | Peer::Unknown);
        self.who != Cold && !self.when.peer.is_empty() && self.when.peer.iter().all(heard)
    }
}

/// The row that takes `view`.
///
/// # Panics
/// When none does: the table is total, a test walks every combination.
pub fn row_for(view: &View) -> &'static Row {
    TABLE
        .iter()
        .find(|row| row.who == view.who && row.when.takes(view))
        .expect("the table is total: a test walks every combination of evidence")
}

use Severity::{Critical, Info, Warning};
use Verdict::{Arbitrate, Ask, Follow, HandOver, Hold, Probe, Promote, Serve, Stay, Wait};
use Who::{Active, Cold, Standby};

const fn row(
    id: &'static str,
    who: Who,
    when: When,
    verdict: Verdict,
    severity: Severity,
    sentence: &'static str,
) -> Row {
    Row { id, who, when, verdict, severity, sentence }
}

/// An active node with its lease, whose address is nobody else's.
const LEASED: When = When { foreign: Some(false), permit_old: Some(false), lease: Some(true), ..ANY };
/// The same, and it is fit to serve.
const SERVING: When = When { unfit: Some(false), ..LEASED };
/// It is not.
const UNFIT: When = When { unfit: Some(true), ..LEASED };
/// It is, and its own LAN is dead.
const CUT_OFF: When = When { peer: &[Peer::DirectOnly], majority: Some(false), ..SERVING };
/// The standby hears nothing, sees its targets, and the other's lease is over.
const MAY_TAKE: When = When { peer: &[Peer::Nothing], majority: Some(true), wait_over: Some(true), ..ANY };
/// No witness refused it.
const ALLOWED: &[Tie] = &[Tie::Free, Tie::Unasked, Tie::Won];
/// There is a witness.
const WITNESSED: &[Tie] = &[Tie::Unasked, Tie::Won, Tie::Lost];
const IN_SYNC: When = When { was: &[WasKind::InSync], relation: &[Relation::Unheard], tie: WITNESSED, ..ANY };
const ALONE: When = When { was: &[WasKind::Alone], relation: &[Relation::Unheard], ..ANY };

/// The table.
#[rustfmt::skip]
pub const TABLE: &[Row] = &[
    row("1a", Active, When { peer: &[Peer::Both], failback: Some(false), ..SERVING }, Stay, Info,
        "both paths carry heartbeats: serving goes on, the lease is renewed by the standby's echoes"),
    row("1c", Active, When { peer: &[Peer::Both], failback: Some(true), ..SERVING }, HandOver, Info,
        "the primary has been in sync and fit for the configured time: handing the service back to it"),
    row("2a", Active, When { peer: &[Peer::LanOnly], ..SERVING }, Stay, Warning,
        "the direct link is silent and the LAN is not: serving goes on over the LAN, the address does not move"),
    row("3a", Active, When { may_hand_over: Some(true), automatic: Some(true), ..CUT_OFF }, HandOver, Critical,
        "this node's LAN has carried neither heartbeats nor answers of the targets for a while, and the standby is in sync and sees them: handing over to it"),
    row("3b", Active, When { may_hand_over: Some(true), automatic: Some(false), ..CUT_OFF }, Ask, Critical,
        "this node's LAN has carried neither heartbeats nor answers of the targets for a while, and the standby is in sync and sees them; failover is manual: `lockstep switchover`"),
    row("3c", Active, When { may_hand_over: Some(false), ..CUT_OFF }, Stay, Critical,
        "the LAN carries neither heartbeats nor answers of the targets here, and the direct link lives: clients may not reach this node; it is moved when that lasts and the standby is in sync and fit; look at this node's LAN or use `lockstep switchover`"),
    row("4a", Active, When { peer: &[Peer::DirectOnly], majority: Some(true), ..SERVING }, Stay, Warning,
        "the LAN carries no heartbeats and the direct link does: serving goes on, look at the LAN"),
    row("5a", Active, When { may_hand_over: Some(true), automatic: Some(true), ..UNFIT }, HandOver, Critical,
        "the application failed after its restarts, or the database's disk fails, and the standby is in sync and fit: handing over to it"),
    row("5b", Active, When { may_hand_over: Some(true), automatic: Some(false), ..UNFIT }, Ask, Critical,
        "the application failed after its restarts, or the database's disk fails, and the standby is in sync and fit; failover is manual: `lockstep switchover`"),
    row("5c", Active, When { may_hand_over: Some(false), ..UNFIT }, Stay, Critical,
        "the application failed after its restarts, or the database's disk fails, and the standby may not take over by itself now (it is not in sync or failed too, automatic moves are off, or two were made within the hour): repair it here, or use `lockstep switchover`"),
    row("6", Active, When { permit_old: Some(true), ..ANY }, Hold, Critical,
        "the state machine was stuck for more than 5 s: the lease lapsed and this node fell silent; look at the disk of the state directory, then `systemctl restart lockstep`"),
    row("8a", Active, When { peer: &[Peer::Deaf], ..SERVING }, Wait, Critical,
        "the standby is heard but hears nothing: without its echo the lease runs out, the standby may take over; look at the cables and the standby's firewall, `lockstep why` shows each path"),
    row("13a", Active, When { permit_old: Some(false), foreign: Some(true), ..ANY }, Stay, Critical,
        "a foreign MAC answers for the VIP: the address is announced again; find the device, `lockstep why` shows when it was last seen"),
    row("14", Active, When { peer: &[Peer::Nothing, Peer::Unknown], majority: Some(true), ..SERVING }, Stay, Warning,
        "the standby is silent and a majority of the targets answers: serving goes on alone, solo once the grant and `solo_after` are over"),
    row("15a", Active, When { peer: &[Peer::Nothing, Peer::Unknown], majority: Some(false), ..SERVING }, Wait, Critical,
        "neither the standby nor a majority of the targets answers: this node may be the one that is cut off, the lease runs out; repair its LAN, `lockstep why` shows what answers"),
    row("15b", Active, When { permit_old: Some(false), foreign: Some(false), lease: Some(false), ..ANY }, Hold, Critical,
        "the lease is not open: nothing is served until it opens again; `lockstep why` shows which evidence is missing"),

    row("1b", Standby, When { peer: &[Peer::Both], ..ANY }, Stay, Info,
        "both paths carry heartbeats: following"),
    row("2b", Standby, When { peer: &[Peer::LanOnly], ..ANY }, Stay, Warning,
        "the direct link is silent and the LAN is not: the active lives, this never moves the address by itself"),
    row("4b", Standby, When { peer: &[Peer::DirectOnly], ..ANY }, Stay, Warning,
        "the LAN carries no heartbeats and the direct link does: the active lives, nothing is moved"),
    row("7", Standby, When { peer: &[Peer::Deaf], ..ANY }, Stay, Warning,
        "the active is heard but does not hear this node: no takeover; when told solo this node marks itself outdated"),
    row("0", Standby, When { peer: &[Peer::Unknown], ..ANY }, Wait, Info,
        "the peer is unknown, never dead: there are no heartbeat keys yet"),
    row("9", Standby, When { peer: &[Peer::Nothing], majority: Some(false), ..ANY }, Hold, Critical,
        "the active is silent and so is the majority of the targets: this node may be the one that is cut off, no takeover; repair its LAN, `lockstep why` shows what answers"),
    row("10a", Standby, When { peer: &[Peer::Nothing], majority: Some(true), wait_over: Some(false), ..ANY }, Wait, Warning,
        "the active is silent: waiting until its lease is over for certain"),
    row("10b", Standby, When { vip: &[Vip::Unasked], grant: Some(true), tie: ALLOWED, ..MAY_TAKE }, Probe, Warning,
        "the active is silent and its lease is over: asking whether anybody holds the VIP or answers an intent"),
    row("10c", Standby, When { vip: &[Vip::Silent], grant: Some(true), tie: ALLOWED, automatic: Some(true), ..MAY_TAKE }, Promote, Critical,
        "the active is silent on every path, its lease is over, nobody answers for the VIP and the grant is valid: promoting"),
    row("10d", Standby, When { vip: &[Vip::Silent], grant: Some(true), tie: ALLOWED, automatic: Some(false), ..MAY_TAKE }, Ask, Critical,
        "the active is gone and this node may serve without loss; failover is manual: `lockstep failover`"),
    row("10e", Standby, When { vip: &[Vip::Unasked, Vip::Silent], grant: Some(true), tie: &[Tie::Lost], ..MAY_TAKE }, Ask, Critical,
        "the active is silent, and the witness did not give this node the right to take over, or the active could not be fenced: asked again every 5 s; if the active is confirmed off, `lockstep failover --accept-loss`"),
    row("11", Standby, When { vip: &[Vip::Unasked, Vip::Silent], grant: Some(false), ..MAY_TAKE }, Ask, Critical,
        "the active is silent and there is no valid grant: the loss is 0 if it died before the grant ended, otherwise unknown; confirm that it is off, then `lockstep failover --accept-loss`"),
    row("12", Standby, When { vip: &[Vip::PeerMac], ..MAY_TAKE }, Hold, Critical,
        "the active sends no heartbeats but its kernel still answers for the VIP: no takeover of what serves; `systemctl restart lockstep` there, or switch it off"),
    row("13b", Standby, When { vip: &[Vip::Foreign], ..MAY_TAKE }, Hold, Critical,
        "a foreign MAC answers for the VIP: no takeover; find the device and give it another address, `lockstep why` shows when it was last seen"),

    row("c0", Cold, When { relation: &[Relation::Serves], ..ANY }, Follow, Info,
        "the peer serves: following it"),
    row("c1a", Cold, When { was: &[WasKind::Never], relation: &[Relation::Unheard], ..ANY }, Hold, Warning,
        "this pair has never served and the peer is not heard: waiting for it; start the other node, `lockstep config --check` on both"),
    row("c1b", Cold, When { was: &[WasKind::Never], relation: &[Relation::Same], primary: Some(true), ..ANY }, Serve, Info,
        "neither node has ever served and this is the primary: claiming the first epoch"),
    row("c1c", Cold, When { was: &[WasKind::Never], relation: &[Relation::Same, Relation::Lower], primary: Some(false), ..ANY }, Wait, Info,
        "neither node has ever served and this is the secondary: waiting for the primary"),
    row("c1d", Cold, When { was: &[WasKind::Never], relation: &[Relation::Higher], ..ANY }, Follow, Info,
        "the peer has served before and this node has not: following it"),
    row("c1e", Cold, When { was: &[WasKind::Never], relation: &[Relation::Lower], primary: Some(true), ..ANY }, Hold, Critical,
        "the peer's epoch is lower than none: this cannot be, see `lockstep events`"),
    row("c2a", Cold, When { majority: Some(false), ..ALONE }, Hold, Critical,
        "this node served last, the peer is not heard and neither is a majority of the targets: holding; repair this node's LAN, `lockstep why` shows what answers"),
    row("c2b", Cold, When { majority: Some(true), vip: &[Vip::Unasked], ..ALONE }, Probe, Info,
        "this node served last and a majority of the targets answers: asking whether anybody holds the VIP"),
    row("c2c", Cold, When { majority: Some(true), vip: &[Vip::Silent], tie: &[Tie::Free, Tie::Won], ..ALONE }, Serve, Warning,
        "this node served last and alone, nobody answers for the VIP and a majority of the targets answers: serving"),
    row("c2d", Cold, When { majority: Some(true), vip: &[Vip::PeerMac, Vip::Foreign], ..ALONE }, Hold, Critical,
        "this node served last, but somebody answers for the VIP: holding; find out who, `lockstep why` shows whose answer it was"),
    row("c2h", Cold, When { majority: Some(true), vip: &[Vip::Silent], tie: &[Tie::Unasked], ..ALONE }, Arbitrate, Info,
        "this node served last and alone and nobody answers for the VIP: asking the witness whether it still has the right"),
    row("c2i", Cold, When { majority: Some(true), vip: &[Vip::Silent], tie: &[Tie::Lost], ..ALONE }, Ask, Critical,
        "this node served last and alone, but the witness does not give it the right or is not reached: asked again every 5 s; if the peer is confirmed off, `lockstep failover --accept-loss`"),
    row("c2e", Cold, When { was: &[WasKind::Alone], relation: &[Relation::Same, Relation::Lower], peer_solo: Some(false), last_active: Some(true), ..ANY }, Serve, Info,
        "the peer was reached and this node served last: serving"),
    row("c2f", Cold, When { was: &[WasKind::Alone], relation: &[Relation::Same, Relation::Lower], peer_solo: Some(false), last_active: Some(false), ..ANY }, Hold, Critical,
        "this node served under an epoch that is not its own: this cannot be, see `lockstep events`"),
    row("c2g", Cold, When { was: &[WasKind::Alone], relation: &[Relation::Higher], peer_solo: Some(false), ..ANY }, Follow, Critical,
        "the peer has the higher epoch: following it; what only this node has is kept in quarantine"),
    row("c3a", Cold, When { tie: &[Tie::Free], ..IN_SYNC }, Ask, Critical,
        "this node served in sync and the peer is not heard: it may have been promoted since; start the peer, or confirm that it is off and `lockstep failover --accept-loss`"),
    row("c3e", Cold, When { majority: Some(false), ..IN_SYNC }, Hold, Critical,
        "this node served in sync, the peer is not heard and neither is a majority of the targets: holding; repair this node's LAN, `lockstep why` shows what answers"),
    row("c3f", Cold, When { majority: Some(true), vip: &[Vip::Unasked], ..IN_SYNC }, Probe, Info,
        "this node served in sync and the peer is not heard: asking whether anybody holds the VIP"),
    row("c3g", Cold, When { majority: Some(true), vip: &[Vip::Silent], tie: &[Tie::Unasked], ..IN_SYNC }, Arbitrate, Info,
        "this node served in sync and nobody answers for the VIP: asking the witness whether the peer took over"),
    row("c3h", Cold, When { majority: Some(true), vip: &[Vip::Silent], tie: &[Tie::Won], ..IN_SYNC }, Serve, Warning,
        "the peer is not heard and did not take over, says the witness: serving"),
    row("c3i", Cold, When { majority: Some(true), vip: &[Vip::Silent], tie: &[Tie::Lost], ..IN_SYNC }, Ask, Critical,
        "this node served in sync, and the witness says that the peer took over or is not reached: asked again every 5 s; start the peer, or confirm that it is off and `lockstep failover --accept-loss`"),
    row("c3j", Cold, When { majority: Some(true), vip: &[Vip::PeerMac, Vip::Foreign], ..IN_SYNC }, Hold, Critical,
        "this node served in sync, but somebody answers for the VIP: holding; find out who, `lockstep why` shows whose answer it was"),
    row("c3b", Cold, When { was: &[WasKind::InSync], relation: &[Relation::Same, Relation::Lower], last_active: Some(true), ..ANY }, Serve, Info,
        "the peer was reached and never promoted: serving"),
    row("c3c", Cold, When { was: &[WasKind::InSync], relation: &[Relation::Same, Relation::Lower], last_active: Some(false), ..ANY }, Hold, Critical,
        "this node served under an epoch that is not its own: this cannot be, see `lockstep events`"),
    row("c3d", Cold, When { was: &[WasKind::InSync], relation: &[Relation::Higher], ..ANY }, Follow, Warning,
        "the peer was promoted meanwhile: following it, resync"),
    row("c4a", Cold, When { was: &[WasKind::Followed], relation: &[Relation::Unheard], ..ANY }, Ask, Critical,
        "this node followed and the active is not heard: holding; start the active, or confirm that it is off and `lockstep failover --accept-loss`"),
    row("c4b", Cold, When { was: &[WasKind::Followed], relation: &[Relation::Same], last_active: Some(true), ..ANY }, Serve, Info,
        "same history, and this node served last: serving"),
    row("c4c", Cold, When { was: &[WasKind::Followed], relation: &[Relation::Same], last_active: Some(false), ..ANY }, Follow, Info,
        "same history, and the peer served last: following it"),
    row("c4d", Cold, When { was: &[WasKind::Followed], relation: &[Relation::Higher], ..ANY }, Follow, Info,
        "the peer has the higher epoch: following it"),
    row("c4e", Cold, When { was: &[WasKind::Followed], relation: &[Relation::Lower], last_active: Some(true), ..ANY }, Serve, Info,
        "the peer has a lower epoch, and this node served last: serving once the peer has followed"),
    row("c4f", Cold, When { was: &[WasKind::Followed], relation: &[Relation::Lower], last_active: Some(false), ..ANY }, Ask, Critical,
        "the peer has a lower epoch and this node only followed: the peer lost its state; `lockstep failover --accept-loss` on the node to keep"),
    row("c5a", Cold, When { was: &[WasKind::Forced], relation: &[Relation::Unheard, Relation::Same, Relation::Higher, Relation::Lower], ..ANY }, Ask, Critical,
        "this node was forced to serve: compare both counts of solo commits, then `lockstep failover --accept-loss` on the node to keep"),
    row("c5b", Cold, When { was: &[WasKind::Alone], relation: &[Relation::Same, Relation::Higher, Relation::Lower], peer_solo: Some(true), ..ANY }, Ask, Critical,
        "both nodes acknowledged commits alone: compare both counts, then `lockstep failover --accept-loss` on the node to keep"),
];

#[cfg(test)]
mod tests;
