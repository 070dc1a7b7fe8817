//! The applications of a pair, in their own thread: start in order, watch, stop in reverse.
//!
//! Their life is tied to the lease twice: this thread passes its end on to each supervisor, which kills
//! by itself when that moment comes, and the machine stops them at a release. An agent that was
//! restarted within the lease finds them running. One that stops takes its time without keeping the
//! lease from those that still run.

use super::queue::EventQueue;
use super::watched::{Found, Watched};
use crate::clock::boottime_us;
use crate::config::{self, Config, Paths};
use crate::effects::app::{Application, Environment, Supervise};
use crate::heartbeat::Gauges;
use crate::status::AppStatus;
use lockstep_failover::{Event, Status, Time};
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the lease's end is passed on: well within the shortest lease.
const RENEW: Duration = Duration::from_millis(20);

/// Before the lease opens an application lives by this; one agent stall must not kill what is being started.
const STARTING_LEASE_US: u64 = 5_000_000;

/// How often a stop that does not come to its end is told.
const STUCK: Duration = Duration::from_secs(10);

/// What the thread is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Start all, in order.
    Start,
    /// Stop all, in reverse order, politely.
    Stop,
    /// End all now.
    Kill,
}

/// What the status shows of the applications.
#[derive(Clone, Default)]
pub(super) struct Shown(Arc<Mutex<Vec<AppStatus>>>);

impl Shown {
    pub(super) fn status(&self) -> Vec<AppStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whether commits wait for the standby now.
pub(super) type CommitsWait = Box<dyn Fn() -> bool + Send>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    Down,
    Up,
    Stopping,
    Killing,
}

struct Applications {
    apps: Vec<Watched>,
    pair: config::Pair,
    role: config::Role,
    socket: PathBuf,
    gauges: Arc<Gauges>,
    machine: Arc<Mutex<Status>>,
    queue: EventQueue,
    commits_wait: CommitsWait,
    shown: Shown,
    aim: Aim,
    /// The machine waits for the word that all are healthy.
    owes_health: bool,
    /// The lease has been open since the last start.
    leased: bool,
    /// When a stop that did not come to its end was last told.
    stuck_told: Option<Instant>,
}

/// Starts the thread; it starts no application by itself.
///
/// # Errors
/// When this binary cannot be found for the supervisors.
pub(super) fn start(
    config: &Config,
    pair: &config::Pair,
    paths: &Paths,
    machine: Arc<Mutex<Status>>,
    gauges: Arc<Gauges>,
    queue: EventQueue,
    commits_wait: CommitsWait,
) -> anyhow::Result<(mpsc::Sender<Task>, Shown)> {
    let supervise = Supervise::this_binary()?;
    let (runtime, state) = (&paths.runtime_dir, paths.pair_dir(&pair.id));
    let watched = |app: &config::App| {
        let application = Application::new(&pair.id, app, supervise.clone(), runtime, &state);
        Watched::new(application, app.health.clone(), app.watch)
    };
    let shown = Shown::default();
    let mut applications = Applications {
        apps: pair.apps.iter().map(watched).collect(),
        pair: pair.clone(),
        role: config.node.role,
        socket: paths.socket(),
        gauges,
        machine,
        queue,
        commits_wait,
        shown: shown.clone(),
        aim: Aim::Down,
        owes_health: false,
        leased: false,
        stuck_told: None,
    };
    let (tasks, receiver) = mpsc::channel();
    let name = format!("apps-{}", pair.id);
    std::thread::Builder::new().name(name).spawn(move || applications.run(&receiver))?;
    Ok((tasks, shown))
}

impl Applications {
    fn run(&mut self, tasks: &mpsc::Receiver<Task>) {
        loop {
            match tasks.recv_timeout(RENEW) {
                Ok(Task::Start) => self.start_all(),
                Ok(Task::Stop) => self.stop_all(Aim::Stopping),
                Ok(Task::Kill) => self.stop_all(Aim::Killing),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.turn();
            self.show();
        }
    }

    /// The end of the right to run: the lease's, or while it has not opened yet a provisional one.
    fn end_us(&mut self) -> u64 {
        let lease = self.gauges.lease_end().map_or(0, Time::as_us);
        let now = boottime_us();
        self.leased |= lease > now;
        if self.leased { lease } else { now + STARTING_LEASE_US }
    }

    /// What an application is told, as of now.
    fn environment(&self) -> Environment {
        let epoch = self.machine.lock().unwrap_or_else(PoisonError::into_inner).epoch;
        Environment::new(&self.pair, self.role, epoch, &self.socket)
    }

    fn start_all(&mut self) {
        (self.aim, self.leased, self.owes_health) = (Aim::Up, false, true);
        let end_us = self.end_us();
        let environment = self.environment();
        for app in &mut self.apps {
            if let Err(error) = app.begin(&environment, end_us) {
                self.queue.note(true, "app.start", error.to_string());
            }
        }
        self.queue.event(Event::AppStarted);
    }

    fn stop_all(&mut self, aim: Aim) {
        if aim == Aim::Killing {
            for app in &mut self.apps {
                app.renew(1);
            }
        }
        // What is being killed is not asked politely any more.
        if self.aim != Aim::Killing {
            self.aim = aim;
        }
    }

    fn turn(&mut self) {
        let end_us = self.end_us();
        if matches!(self.aim, Aim::Up | Aim::Stopping) {
            for app in &mut self.apps {
                app.renew(end_us);
            }
        }
        match self.aim {
            Aim::Down => {}
            Aim::Up => self.watch(end_us),
            Aim::Stopping | Aim::Killing => self.go_on_stopping(),
        }
    }

    /// The last one first; the one before it when that is gone.
    fn go_on_stopping(&mut self) {
        let kill = self.aim == Aim::Killing;
        for app in self.apps.iter_mut().rev() {
            match app.stop(kill) {
                Ok(true) => {}
                // Killed at once, all of them.
                Ok(false) if kill => {}
                Ok(false) => return,
                Err(error) => {
                    if self.stuck_told.is_none_or(|at| at.elapsed() >= STUCK) {
                        self.stuck_told = Some(Instant::now());
                        self.queue.event(Event::EffectFailed(error.to_string()));
                    }
                    return;
                }
            }
        }
        if self.apps.iter_mut().all(|app| app.stop(kill).unwrap_or(false)) {
            (self.aim, self.stuck_told) = (Aim::Down, None);
            self.queue.event(Event::AppStopped);
        }
    }

    fn watch(&mut self, end_us: u64) {
        if end_us <= boottime_us() {
            return; // The lease is over: they were killed for that, and are not ours to start.
        }
        let commits_wait = (self.commits_wait)();
        let environment = self.environment();
        for app in &mut self.apps {
            match app.turn(commits_wait, &environment, end_us) {
                Ok(Found::Nothing | Found::Healthy) => {}
                Ok(Found::Again(time, why)) => {
                    let sentence = format!("application {} is started again ({time}): {why}", app.name());
                    self.queue.note(true, "app.restarted", sentence);
                }
                Ok(Found::GivenUp(why)) => {
                    self.owes_health = true;
                    self.queue.event(Event::AppFailed(why));
                }
                Err(error) => self.queue.note(true, "app.start", error.to_string()),
            }
        }
        let healthy = self.apps.iter().all(|app| app.healthy() == Some(true));
        // One that waits in a commit has started; it goes on only when the lease is open.
        let waits = commits_wait && !self.apps.iter().any(Watched::is_given_up);
        if self.owes_health && (healthy || waits) {
            self.owes_health = false;
            self.queue.event(Event::AppHealthy);
        }
    }

    fn show(&self) {
        let status = |app: &Watched| AppStatus {
            name: app.name().to_owned(),
            running: self.aim == Aim::Up && app.healthy().is_some(),
            healthy: app.healthy(),
            restarts: app.restarts(),
            failed: app.is_given_up(),
        };
        let now: Vec<AppStatus> = self.apps.iter().map(status).collect();
        *self.shown.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }
}

#[cfg(test)]
#[path = "application_tests.rs"]
mod tests;
