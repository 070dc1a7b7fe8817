//! A pair that only observes: the hands that touch the address and the applications say what they would do.
//!
//! The machine, the heartbeats, the probes and the data path are the real ones.

use super::queue::EventQueue;
use super::{address, application};
use crate::config;
use crate::effects::guard::GuardError;
use crate::heartbeat::LeaseGuard;
use lockstep_failover::{Event, Time};
use std::sync::mpsc;

/// What is noted instead of done.
pub(super) const KIND: &str = "observed";

/// A lease that nothing in the kernel enforces: nothing of ours is there.
pub(super) struct NoGuard;

impl LeaseGuard for NoGuard {
    fn renew(&mut self, _end: Time) -> Result<(), GuardError> {
        Ok(())
    }

    fn shut(&mut self) -> Result<(), GuardError> {
        Ok(())
    }

    fn reinstall(&mut self) -> Result<(), GuardError> {
        Ok(())
    }
}

/// Takes what the address thread takes.
///
/// # Errors
/// The thread cannot be made.
pub(super) fn address(
    pair: &config::Pair,
    queue: EventQueue,
) -> std::io::Result<mpsc::Sender<address::Task>> {
    let vips: Vec<String> = pair.vips.iter().map(ToString::to_string).collect();
    let what = format!("{} on {}", vips.join(" "), pair.lan.interface);
    let (tasks, asked) = mpsc::channel();
    let mut there = false;
    let answer = move |task| {
        let would = |verb: &str| queue.note(false, KIND, format!("would {verb} {what}"));
        let event = match task {
            address::Task::Add => {
                if !std::mem::replace(&mut there, true) {
                    would("add");
                }
                Event::VipAdded
            }
            address::Task::Delete => {
                if std::mem::replace(&mut there, false) {
                    would("delete");
                }
                Event::VipGone
            }
            address::Task::EndSockets => Event::VipSocketsEnded,
            address::Task::DeleteLease => Event::LeaseElementDeleted,
            address::Task::Announce | address::Task::AnnounceOnce => return true,
        };
        queue.event(event)
    };
    spawn(asked, answer)?;
    Ok(tasks)
}

/// Takes what the applications' thread takes.
///
/// # Errors
/// The thread cannot be made.
pub(super) fn application(
    pair: &config::Pair,
    queue: EventQueue,
) -> std::io::Result<mpsc::Sender<application::Task>> {
    let names: Vec<&str> = pair.apps.iter().map(|app| app.name.as_str()).collect();
    let what = if names.is_empty() { "no application".to_owned() } else { names.join(", ") };
    let (tasks, asked) = mpsc::channel();
    let mut run = false;
    let answer = move |task| {
        let wanted = task == application::Task::Start;
        if std::mem::replace(&mut run, wanted) != wanted {
            let verb = if wanted { "start" } else { "stop" };
            queue.note(false, KIND, format!("would {verb} {what}"));
        }
        if wanted {
            queue.event(Event::AppStarted) && queue.event(Event::AppHealthy)
        } else {
            queue.event(Event::AppStopped)
        }
    };
    spawn(asked, answer)?;
    Ok(tasks)
}

fn spawn<T: Send + 'static>(
    asked: mpsc::Receiver<T>,
    mut answer: impl FnMut(T) -> bool + Send + 'static,
) -> std::io::Result<()> {
    let run = move || while asked.recv().is_ok_and(&mut answer) {};
    std::thread::Builder::new().name("observes".into()).spawn(run).map(drop)
}
