//! One application as it is watched: how often it is asked, when it is started again, when it is given up.
//!
//! Nothing here waits: what a program needs to end or to answer is looked at in later turns, so that the
//! lease of the others is passed on meanwhile.

use crate::config::{Health, Watch};
use crate::effects::app::{AppError, Application, Environment};
use crate::probes::health;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How often one is asked that has not been healthy since its start.
const CHECK_STARTING: Duration = Duration::from_millis(25);

/// Most applications answer at once; others are heard at a later turn.
const QUICK_ANSWER: Duration = Duration::from_millis(5);

/// The second and later restarts within the window wait so much longer each: a port may still be taken.
const BACKOFF: Duration = Duration::from_secs(1);

/// What one turn found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing new.
    Nothing,
    /// It is healthy, and was not before.
    Healthy,
    /// It is started again, or is about to be: which time, and why.
    Again(u32, String),
    /// It is not, since it was too often; told once.
    GivenUp(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Down on purpose.
    Down,
    /// It should run.
    Up,
    /// It was asked to end, to be started again.
    Ending,
    /// It is started at this moment.
    StartAt(Instant),
}

/// See the module.
pub(super) struct Watched {
    pub(super) application: Application,
    health: Option<Health>,
    rules: Watch,
    stage: Stage,
    /// A check under way, in a thread of its own.
    asked: Option<mpsc::Receiver<Result<(), String>>>,
    healthy: Option<bool>,
    /// Healthy at least once since its start.
    was_healthy: bool,
    /// Answers in a row.
    failures: u32,
    successes: u32,
    started: Instant,
    checked: Option<Instant>,
    restarted: Vec<Instant>,
    given_up: bool,
    stop_asked: Option<Instant>,
}

impl Watched {
    pub(super) fn new(application: Application, health: Option<Health>, rules: Watch) -> Self {
        Self {
            application,
            health,
            rules,
            stage: Stage::Down,
            asked: None,
            healthy: None,
            was_healthy: false,
            failures: 0,
            successes: 0,
            started: Instant::now(),
            checked: None,
            restarted: Vec::new(),
            given_up: false,
            stop_asked: None,
        }
    }

    pub(super) fn name(&self) -> &str {
        self.application.name()
    }

    /// What its checks said last; none yet, or it is down.
    pub(super) fn healthy(&self) -> Option<bool> {
        self.healthy
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up
    }

    /// Restarts within the window.
    pub(super) fn restarts(&self) -> u32 {
        self.restarted.iter().filter(|at| at.elapsed() < self.rules.restart_window).count() as u32
    }

    /// It should run from now on. One that was just asked to stop is started when it is gone.
    ///
    /// # Errors
    /// It could not be started; like one that does not run, it is found and started again.
    pub(super) fn begin(&mut self, environment: &Environment, end_us: u64) -> Result<(), AppError> {
        if self.stage == Stage::Down && self.stop_asked.is_none() {
            self.restarted.clear();
        }
        self.given_up = false;
        if self.stop_asked.is_some() {
            self.stage = Stage::Ending;
            return Ok(());
        }
        self.start(environment, end_us)
    }

    fn start(&mut self, environment: &Environment, end_us: u64) -> Result<(), AppError> {
        self.stage = Stage::Up;
        self.stop_asked = None;
        (self.failures, self.successes) = (0, 0);
        (self.healthy, self.was_healthy) = (None, false);
        (self.asked, self.checked) = (None, None);
        self.started = Instant::now();
        // One that was just dying counts as running at first, and is found by its next check.
        self.application.start(environment, end_us)
    }

    /// Moves the moment at which it is killed; one that is found dead is looked at in this turn.
    pub(super) fn renew(&mut self, end_us: u64) {
        if let Err(AppError::NotRunning { .. }) = self.application.renew(end_us) {
            self.checked = None;
        }
    }

    /// Goes on stopping it for good; true when it is gone. It is asked once, and killed by its supervisor when
    /// its time is over.
    ///
    /// # Errors
    /// Its supervisor does not answer.
    pub(super) fn stop(&mut self, kill: bool) -> Result<bool, AppError> {
        self.stage = Stage::Down;
        (self.healthy, self.asked) = (None, None);
        if !self.application.is_running()? {
            self.stop_asked = None;
            return Ok(true);
        }
        if kill {
            // Its supervisor finds the lease long over.
            let _ = self.application.renew(1);
        } else if self.stop_asked.is_none() {
            self.stop_asked = Some(Instant::now());
            self.application.ask_to_stop()?;
        }
        Ok(false)
    }

    /// One turn of one that should run.
    ///
    /// # Errors
    /// It could not be started again.
    pub(super) fn turn(
        &mut self,
        commits_wait: bool,
        environment: &Environment,
        end_us: u64,
    ) -> Result<Found, AppError> {
        match self.stage {
            Stage::Down => Ok(Found::Nothing),
            Stage::Ending => {
                if !self.application.is_running().unwrap_or(true) {
                    self.stage = Stage::StartAt(Instant::now());
                }
                Ok(Found::Nothing)
            }
            Stage::StartAt(at) if Instant::now() < at => Ok(Found::Nothing),
            Stage::StartAt(_) => self.start(environment, end_us).map(|()| Found::Nothing),
            Stage::Up => Ok(self.judge(commits_wait)),
        }
    }

    fn judge(&mut self, commits_wait: bool) -> Found {
        match self.ask(commits_wait) {
            None => Found::Nothing,
            Some(Ok(())) => self.good(),
            Some(Err(Unhealthy::Gone(error))) => self.again(&error.to_string(), false),
            Some(Err(Unhealthy::Answer(why))) => {
                (self.successes, self.healthy) = (0, Some(false));
                if self.was_healthy {
                    self.failures += 1;
                    if self.failures >= self.rules.failures {
                        return self.again(&why, true);
                    }
                } else if self.started.elapsed() >= self.rules.start_timeout {
                    let limit_s = self.rules.start_timeout.as_secs();
                    return self.again(&format!("not healthy {limit_s} s after its start: {why}"), true);
                }
                Found::Nothing
            }
        }
    }

    fn good(&mut self) -> Found {
        self.failures = 0;
        self.successes = self.successes.saturating_add(1);
        if self.successes < self.rules.successes {
            return Found::Nothing;
        }
        let is_news = self.healthy != Some(true) || self.given_up;
        (self.healthy, self.was_healthy, self.given_up) = (Some(true), true, false);
        if is_news { Found::Healthy } else { Found::Nothing }
    }

    /// Starts it again, or gives it up until the window lets it be tried anew.
    fn again(&mut self, why: &str, is_running: bool) -> Found {
        self.healthy = Some(false);
        let window = self.rules.restart_window;
        self.restarted.retain(|at| at.elapsed() < window);
        let restarts = self.restarted.len() as u32;
        if restarts >= self.rules.restarts {
            if std::mem::replace(&mut self.given_up, true) {
                return Found::Nothing;
            }
            let window_s = window.as_secs();
            return Found::GivenUp(format!(
                "application {} failed after {restarts} restarts within {window_s} s: {why}",
                self.name()
            ));
        }
        let now = Instant::now();
        self.restarted.push(now);
        self.stage = Stage::StartAt(now + BACKOFF * restarts);
        // A supervisor that does not answer is asked again when it does.
        if is_running && self.application.ask_to_stop().is_ok() {
            self.stage = Stage::Ending;
        }
        Found::Again(restarts + 1, why.to_owned())
    }

    /// What a check found; none while one is under way, or nothing was due.
    fn ask(&mut self, commits_wait: bool) -> Option<Result<(), Unhealthy>> {
        let every = if self.was_healthy { self.rules.interval } else { CHECK_STARTING };
        let due = self.checked.is_none_or(|at| at.elapsed() >= every);
        if !due && self.asked.is_none() {
            return None;
        }
        if due {
            self.checked = Some(Instant::now());
            match self.application.is_running() {
                Ok(true) => {}
                Ok(false) => return Some(Err(Unhealthy::Gone(self.application.absent()))),
                Err(error) => return Some(Err(Unhealthy::Gone(error))),
            }
        }
        let Some(health) = &self.health else { return due.then_some(Ok(())) };
        if commits_wait {
            // It may hang in a commit until the standby is back, and is not asked meanwhile.
            (self.asked, self.failures, self.started) = (None, 0, Instant::now());
            return None;
        }
        let answer = match self.asked.take() {
            Some(answer) => answer,
            None if due => begin(health.clone(), self.rules.timeout),
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

/// Why an application is not healthy.
enum Unhealthy {
    Gone(AppError),
    Answer(String),
}

/// Asks in a thread of its own; its end is the answer.
fn begin(health: Health, timeout: Duration) -> mpsc::Receiver<Result<(), String>> {
    let (answer, asked) = mpsc::channel();
    let check = move || {
        let _ = answer.send(health::check(&health, timeout).map_err(|e| e.to_string()));
    };
    // Without a thread the channel closes, which counts as one failed check.
    let _ = std::thread::Builder::new().name("health".into()).spawn(check);
    asked
}
