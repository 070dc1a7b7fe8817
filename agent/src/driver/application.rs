//! The applications of a pair, in their own thread: start in order, watch, stop in reverse.
//!
//! Their life is tied to the lease twice: this thread passes its end on to each supervisor, which kills
//! by itself when that moment comes, and the machine stops them at a release. An agent that was
//! restarted within the lease finds them running.

use super::queue::EventQueue;
use crate::clock::boottime_us;
use crate::config::{self, Config, Paths};
use crate::effects::app::{AppError, Application, Environment, Supervise};
use crate::heartbeat::Gauges;
use crate::probes::health;
use crate::status::AppStatus;
use lockstep_failover::{Event, Status, Time};
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the lease's end is passed on: well within the shortest lease.
const RENEW: Duration = Duration::from_millis(20);

/// How often health is asked while an application starts, and afterwards.
const CHECK_STARTING: Duration = Duration::from_millis(25);
const CHECK_RUNNING: Duration = Duration::from_secs(1);

/// Before the lease opens an application lives by this; one agent stall must not kill what is being started.
const STARTING_LEASE_US: u64 = 5_000_000;

/// How long one health check may take.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// Most applications answer at once; others are heard at a later turn, so that no check, however
/// slow, keeps this thread from passing the lease on.
const QUICK_ANSWER: Duration = Duration::from_millis(5);

/// Checks that must fail in a row before an application is started again.
const FAILURES_MAX: u32 = 3;

/// Restarts on this node before it counts as failed and the other node is asked.
const RESTARTS_MAX: u32 = 3;

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

struct Watched {
    application: Application,
    health: Option<config::Health>,
    /// A check under way, in a thread of its own.
    asked: Option<mpsc::Receiver<Result<(), String>>>,
    healthy: Option<bool>,
    failures: u32,
    restarts: u32,
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
    /// They should run.
    wanted: bool,
    /// All were healthy since the last start.
    reported: bool,
    /// The lease has been open since the last start.
    leased: bool,
    checked: Instant,
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
    let watched = |app: &config::App| Watched {
        application: Application::new(
            &pair.id,
            app,
            supervise.clone(),
            &paths.runtime_dir,
            &paths.pair_dir(&pair.id),
        ),
        health: app.health.clone(),
        asked: None,
        healthy: None,
        failures: 0,
        restarts: 0,
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
        wanted: false,
        reported: false,
        leased: false,
        checked: Instant::now(),
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
                Ok(Task::Stop) => self.stop_all(),
                Ok(Task::Kill) => self.kill_all(),
                Err(RecvTimeoutError::Timeout) => self.on_time(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
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
        self.leased = false;
        self.reported = false;
        let end_us = self.end_us();
        let environment = self.environment();
        for app in &mut self.apps {
            if !self.wanted {
                app.restarts = 0;
            }
            app.failures = 0;
            app.healthy = None;
            app.asked = None;
            // One that was just dying counts as running at first. Like any other that does not run it is
            // found by its check and started again, within the same limit.
            if let Err(error) = app.application.start(&environment, end_us) {
                self.queue.note(true, "app.start", error.to_string());
            }
        }
        self.wanted = true;
        self.queue.event(Event::AppStarted);
        self.check(true);
    }

    fn stop_all(&mut self) {
        self.wanted = false;
        for app in self.apps.iter_mut().rev() {
            if let Err(error) = app.application.stop() {
                self.queue.event(Event::EffectFailed(error.to_string()));
                return;
            }
            app.healthy = None;
        }
        self.queue.event(Event::AppStopped);
    }

    /// Lets every supervisor find its lease long over, then waits for all to be gone.
    fn kill_all(&mut self) {
        for app in &mut self.apps {
            // One that does not run has nothing to be killed.
            let _ = app.application.renew(1);
        }
        self.stop_all();
    }

    fn on_time(&mut self) {
        if !self.wanted {
            return;
        }
        let end_us = self.end_us();
        for app in &mut self.apps {
            // One that died is found by its check.
            let _ = app.application.renew(end_us);
        }
        let every = if self.reported { CHECK_RUNNING } else { CHECK_STARTING };
        let due = self.checked.elapsed() >= every;
        if due || self.apps.iter().any(|app| app.asked.is_some()) {
            self.check(due);
        }
    }

    /// Hears what was asked before and, when it is due, asks again.
    fn check(&mut self, due: bool) {
        if due {
            self.checked = Instant::now();
        }
        let commits_wait = (self.commits_wait)();
        for index in 0..self.apps.len() {
            let Some(outcome) = self.apps[index].ask(due, commits_wait) else { continue };
            let app = &mut self.apps[index];
            match outcome {
                Ok(()) => {
                    app.failures = 0;
                    app.healthy = Some(true);
                }
                // Not yet healthy: it may need longer to start than we expect.
                Err(Unhealthy::Answer(_)) if !self.reported => app.healthy = Some(false),
                Err(unhealthy) => {
                    app.failures += 1;
                    app.healthy = Some(false);
                    let gone = matches!(unhealthy, Unhealthy::Gone(_));
                    if gone || app.failures >= FAILURES_MAX {
                        self.again(index, &unhealthy.to_string());
                        return;
                    }
                }
            }
        }
        // One that waits in a commit has started; it goes on only when the lease is open.
        if !self.reported && (commits_wait || self.apps.iter().all(|a| a.healthy == Some(true))) {
            self.reported = true;
            self.queue.event(Event::AppHealthy);
        }
    }

    /// Starts a failed application again, or gives it up.
    fn again(&mut self, index: usize, why: &str) {
        let environment = self.environment();
        let end_us = self.end_us();
        let app = &mut self.apps[index];
        let name = app.application.name().to_owned();
        if end_us <= boottime_us() {
            return; // The lease is over: it was killed for that, and is not ours to start.
        }
        if app.restarts >= RESTARTS_MAX {
            self.wanted = false;
            self.queue
                .event(Event::AppFailed(format!("application {name} failed {RESTARTS_MAX} times: {why}")));
            return;
        }
        app.restarts += 1;
        app.failures = 0;
        app.asked = None;
        let (restart, of) = (app.restarts, RESTARTS_MAX);
        let restarted = app.application.stop().and_then(|()| app.application.start(&environment, end_us));
        self.queue.note(
            true,
            "app.restarted",
            format!("application {name} restarted ({restart} of {of}): {why}"),
        );
        if let Err(error) = restarted {
            self.queue.event(Event::AppFailed(error.to_string()));
        }
    }

    fn show(&self) {
        let status = |a: &Watched| AppStatus {
            name: a.application.name().to_owned(),
            running: self.wanted && a.healthy.is_some(),
            healthy: a.healthy,
        };
        let now: Vec<AppStatus> = self.apps.iter().map(status).collect();
        *self.shown.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }
}

/// Why an application is not healthy.
#[derive(Debug, thiserror::Error)]
enum Unhealthy {
    #[error("{0}")]
    Gone(AppError),
    #[error("{0}")]
    Answer(String),
}

impl Watched {
    /// What a check found; none while one is under way, or nothing was asked.
    fn ask(&mut self, due: bool, commits_wait: bool) -> Option<Result<(), Unhealthy>> {
        match self.application.is_running() {
            Ok(true) => {}
            Ok(false) => {
                let name = self.application.name().to_owned();
                let gone = AppError::NotRunning { name, log: "the state directory".into() };
                return Some(Err(Unhealthy::Gone(gone)));
            }
            Err(error) => return Some(Err(Unhealthy::Gone(error))),
        }
        let Some(health) = &self.health else { return Some(Ok(())) };
        if commits_wait {
            // It may hang in a commit until the standby is back, and is not asked meanwhile.
            self.asked = None;
            self.failures = 0;
            return None;
        }
        let answer = match self.asked.take() {
            Some(answer) => answer,
            None if due => begin(health.clone()),
            None => return None,
        };
        match answer.recv_timeout(QUICK_ANSWER) {
            Ok(outcome) => Some(outcome.map_err(Unhealthy::Answer)),
            Err(RecvTimeoutError::Timeout) => {
                self.asked = Some(answer);
                None
            }
            Err(RecvTimeoutError::Disconnected) => {
                Some(Err(Unhealthy::Answer("the health check was not carried out".into())))
            }
        }
    }
}

/// Asks in a thread of its own; its end is the answer.
fn begin(health: config::Health) -> mpsc::Receiver<Result<(), String>> {
    let (answer, asked) = mpsc::channel();
    let check = move || {
        let _ = answer.send(health::check(&health, HEALTH_TIMEOUT).map_err(|e| e.to_string()));
    };
    // Without a thread the channel closes, which counts as one failed check.
    let _ = std::thread::Builder::new().name("health".into()).spawn(check);
    asked
}
