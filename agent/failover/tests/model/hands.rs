//! The deciding thread of a node, its disk, and what it has done.

use crate::node::{Command, Data, Probing};
use crate::sabotage::Sabotage;
use crate::world::World;
use lockstep_failover::{Action, Engine, Event, Path, Proof, Refusal, Request, Step};
use std::time::Duration;

/// Events one machine takes within a tick; more would be a loop without time.
const EVENTS_MAX: u32 = 1_000;

impl World {
    /// Hands the machine what waits for it. True: it did something.
    pub(crate) fn run_machine(&mut self, n: usize) -> bool {
        let mut did = self.finish_write(n);
        for count in 0.. {
            if count == EVENTS_MAX - 20 {
                self.story = Some(Vec::new());
            }
            assert!(
                count < EVENTS_MAX,
                "events without end\n{}\n{:?}",
                self.story.clone().unwrap_or_default().join("\n"),
                self.nodes
            );
            let now = self.now(n);
            let node = &mut self.nodes[n];
            let is_idle = !node.runs() || node.stuck;
            let Some(agent) =
                node.agent.as_deref_mut().filter(|agent| !is_idle && agent.persisting.is_none())
            else {
                return did;
            };
            if agent.inbox.is_empty() {
                return did;
            }
            let event = agent.inbox.remove(0);
            did |= event != Event::Tick;
            if let Event::HeartbeatReceived { heartbeat, .. } = &event {
                agent.seen[1] = crate::node::newest(agent.seen[1], heartbeat);
                agent.stalled = Duration::ZERO;
            }
            if let Event::Stalled { lasted, .. } = &event {
                agent.stalled += *lasted;
            }
            let step = agent.machine.handle(now, event);
            self.follow_step(n, step);
        }
        did
    }

    /// An operator's request.
    pub(crate) fn request(&mut self, n: usize, request: Request) -> Result<(), Refusal> {
        let now = self.now(n);
        let node = &mut self.nodes[n];
        let is_idle = !node.runs() || node.stuck;
        let Some(agent) = node.agent.as_deref_mut().filter(|agent| !is_idle && agent.persisting.is_none())
        else {
            return Err(Refusal::Busy("not running"));
        };
        let step = agent.machine.request(now, request)?;
        self.follow_step(n, step);
        Ok(())
    }

    fn finish_write(&mut self, n: usize) -> bool {
        let node = &mut self.nodes[n];
        if !node.runs() || node.stuck || node.slow_disk {
            return false;
        }
        let Some(pending) = node.agent.as_mut().and_then(|agent| agent.persisting.take()) else {
            return false;
        };
        self.follow_step(n, Step::Persist(pending));
        true
    }

    fn follow_step(&mut self, n: usize, mut step: Step) {
        let speaks_first = self.set.sabotage == Some(Sabotage::SpeakFirst);
        loop {
            match step {
                Step::Ready(actions) => return self.carry_out_all(n, actions),
                Step::Persist(pending) if self.nodes[n].slow_disk && !speaks_first => {
                    if let Some(agent) = &mut self.nodes[n].agent {
                        agent.persisting = Some(pending);
                    }
                    return;
                }
                Step::Persist(pending) => {
                    let state = pending.state().clone();
                    self.tell_story(n, || format!("writes {}", shown(&state)));
                    if !self.nodes[n].slow_disk {
                        self.nodes[n].on_disk(state.clone());
                    }
                    let proof = Proof::by_writing(&state, |_| Ok::<(), ()>(())).expect("written");
                    let actions = pending.persisted(proof);
                    self.carry_out_all(n, actions);
                    let now = self.now(n);
                    let Some(agent) = &mut self.nodes[n].agent else { return };
                    step = agent.machine.handle(now, Event::Persisted);
                }
            }
        }
    }

    fn carry_out_all(&mut self, n: usize, actions: Vec<Action>) {
        for action in actions {
            self.carry_out(n, action);
        }
    }

    fn carry_out(&mut self, n: usize, action: Action) {
        let (set, tick, now) = (self.set, self.tick, self.now(n));
        match action {
            Action::Log { row, sentence, .. } => {
                self.tell_story(n, || format!("[{row}] {sentence}"));
                return;
            }
            Action::RenewAlone { probe_sent_at } => return self.renew_alone(n, probe_sent_at),
            Action::ProbeVip if set.effects == 0 => {
                let result = self.probe_result(n);
                self.tell_story(n, || format!("probes for the VIP: {result:?}"));
                return self.nodes[n].tell(Event::VipProbed { sent_at: now, result });
            }
            Action::Question(question) => {
                self.tell_story(n, || {
                    question.clone().unwrap_or_else(|| "the question is withdrawn".to_owned())
                });
                self.nodes[n].question = question.is_some();
                return;
            }
            Action::Engine(order) => {
                self.tell_story(n, || format!("data path: {order:?}"));
                return self.order(n, order);
            }
            Action::RoundTripAlarm(_)
            | Action::WitnessAlarm(_)
            | Action::ProbeTargets(_)
            | Action::Announce
            | Action::ConflictWatch(_) => return,
            _ => {}
        }
        if !matches!(action, Action::SetHeartbeat(_)) {
            self.tell_story(n, || format!("does {action:?}"));
        }
        let sees_holder = self.sees_holder(n);
        let node = &mut self.nodes[n];
        let Some(agent) = node.agent.as_deref_mut() else { return };
        let done = match action {
            Action::SetHeartbeat(voice) => {
                return agent.command(Command::Speak(Sabotage::spoken(set, voice)));
            }
            Action::ProbeVip => {
                agent.probing =
                    Some(Probing { due: tick + set.effects, sent_at: now, answered: sees_holder });
                return;
            }
            Action::SendIntentPings => return agent.command(Command::Pings),
            Action::AddVipSilent => {
                node.vip = true;
                Event::VipAdded
            }
            Action::EndVipSockets => Event::VipSocketsEnded,
            Action::DeleteLeaseElement => {
                (node.guard_end, node.flushed) = (lockstep_failover::Time::default(), None);
                Event::LeaseElementDeleted
            }
            Action::DeleteVip => {
                node.vip = false;
                Event::VipGone
            }
            Action::StartApp => {
                agent.app_started = true;
                self.after(n, Event::AppStarted);
                if self.nodes[n].app_broken {
                    Event::AppFailed("it exits at once".to_owned())
                } else if let (Some(_), Some(agent)) = (set.open_early, &mut self.nodes[n].agent) {
                    // What opens early has a slow application.
                    return agent.effects.push((tick + 3, Event::AppHealthy));
                } else {
                    Event::AppHealthy
                }
            }
            Action::StopApp | Action::KillApp => {
                agent.app_started = false;
                Event::AppStopped
            }
            other => unreachable!("{other:?} is dealt with above"),
        };
        self.after(n, done);
    }

    /// The machine is told when the effect is done.
    fn after(&mut self, n: usize, event: Event) {
        let (effects, due) = (self.set.effects, self.tick + self.set.effects);
        let Some(agent) = &mut self.nodes[n].agent else { return };
        if effects == 0 { agent.tell(event) } else { agent.effects.push((due, event)) }
    }

    fn renew_alone(&mut self, n: usize, probe_sent_at: lockstep_failover::Time) {
        let holds = self.nodes[n].lease_holds(self.now(n));
        if holds && self.passes(Path::Lan, n) && self.nodes[1 - n].runs() {
            let received_at = self.now(1 - n);
            self.nodes[1 - n].tell(Event::PeerAnnounced { received_at });
        }
        if let Some(agent) = &mut self.nodes[n].agent {
            agent.command(Command::Probe(probe_sent_at));
        }
    }

    fn order(&mut self, n: usize, order: Engine) {
        let node = &mut self.nodes[n];
        let ours =
            |event: &Event| matches!(event, Event::EngineReady | Event::Drained | Event::StandbyDurable);
        if let Some(agent) = &mut node.agent {
            // The outcome of an order that a newer one has replaced is not told.
            agent.inbox.retain(|event| !ours(event));
            agent.effects.retain(|(_, event)| !ours(event));
        }
        let fresh = |epoch| Data { epoch, ..Data::default() };
        match order {
            Engine::BecomeActive { epoch } | Engine::Promote { epoch } => {
                node.data = Data { active: true, ..fresh(epoch) };
                self.after(n, Event::EngineReady);
            }
            Engine::BecomeStandby { epoch } => {
                node.data = Data { follows: Some(epoch), ..fresh(epoch) };
                self.after(n, Event::EngineReady);
            }
            Engine::AllowSolo { .. } => node.data.solo = true,
            Engine::HoldCommits => {
                node.data.solo = false;
                node.data.wants_durable = true;
            }
            Engine::Drain => node.data.wants_drain = true,
            Engine::Stop => node.data = Data::default(),
        }
    }
}

/// A durable state in few words.
fn shown(state: &lockstep_failover::PairState) -> String {
    let flags = [
        (state.solo, "solo"),
        (state.outdated, "outdated"),
        (state.forced, "forced"),
        (state.released, "released"),
    ];
    let flags: Vec<&str> = flags.into_iter().filter(|(is, _)| *is).map(|(_, word)| word).collect();
    let intent = state.intent.map_or(String::new(), |epoch| format!(" intending {epoch}"));
    let refused = state.refused.map_or(String::new(), |epoch| format!(" refused {epoch}"));
    format!("{:?} of {}{intent}{refused} {}", state.was, state.epoch, flags.join(" "))
}
