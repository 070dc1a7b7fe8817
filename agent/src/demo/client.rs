//! The demonstration's client: writes through the virtual address, remembers what was
//! acknowledged, and measures for how long nobody answered.
//!
//! Workers send each order until it is acknowledged; a probe every few milliseconds asks whether
//! the address answers (a TCP reset is an answer) and whether the application does. It runs in
//! the client's namespace; progress goes to standard output as JSON lines, the end of standard
//! input stops it.

use super::{
    app::Order,
    outage::{Answers, Gap},
};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{BufWriter, Read, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    time::{MissedTickBehavior, interval, timeout},
};

/// How often the address is asked: the resolution of the outage.
const VIP_PERIOD: Duration = Duration::from_millis(2);

/// How often the application is asked; each costs it a connection.
const APP_PERIOD: Duration = Duration::from_millis(5);

/// An answer on one switch takes less than a millisecond; later ones are lost.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);

/// Nothing listens on it: an address that is there answers with a reset.
const CLOSED_PORT: u16 = 1;

/// How often progress is told.
const PROGRESS_PERIOD: Duration = Duration::from_millis(200);

/// A lost SYN is sent again by the kernel after a second only; a new connection is quicker.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(150);

/// A request in flight when the active node dies is never answered.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(1000);

/// After a request that was not acknowledged.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// What the client does.
#[derive(Debug, Clone)]
pub struct Load {
    /// The application, by its virtual address.
    pub target: SocketAddr,
    /// Concurrent writers.
    pub workers: u32,
    /// Orders per second, all workers together.
    pub rate_per_s: u32,
    /// Names the orders.
    pub seed: u64,
    /// Where acknowledged ids go, one a line.
    pub acknowledged: PathBuf,
}

/// A line of progress.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Orders acknowledged so far.
    pub acknowledged: u64,
    /// Requests that were not, and were sent again.
    pub retries: u64,
    /// Since the address answered last, milliseconds; null: never.
    pub vip_silent_ms: Option<u64>,
    /// Since the application answered last, milliseconds; null: never.
    pub app_silent_ms: Option<u64>,
    /// Only in the last line.
    pub finished: Option<Measured>,
}

/// What was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// When the address did not answer.
    pub vip_gaps: Vec<Gap>,
    /// When the application did not answer.
    pub app_gaps: Vec<Gap>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    retries: AtomicU64,
    vip: Mutex<Answers>,
    app: Mutex<Answers>,
}

impl Shared {
    fn progress(&self) -> Progress {
        let silent = |answers: &Mutex<Answers>| {
            let last = answers.lock().unwrap_or_else(PoisonError::into_inner).last_ns();
            last.map(|last| now_ns().saturating_sub(last) / 1_000_000)
        };
        Progress {
            acknowledged: self.acknowledged.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            vip_silent_ms: silent(&self.vip),
            app_silent_ms: silent(&self.app),
            finished: None,
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// `CLOCK_MONOTONIC`, shared by all of the machine's namespaces.
pub(super) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// Loads and probes until `until` ends (standard input, in the program); tells progress to `out`.
///
/// # Errors
/// The file of acknowledged ids cannot be written.
pub fn run(load: &Load, until: impl Read + Send + 'static, out: &mut impl Write) -> anyhow::Result<()> {
    let shared = Arc::new(Shared::default());
    let ids = id_file(&load.acknowledged)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.spawn(probe_vip(SocketAddr::new(load.target.ip(), CLOSED_PORT), Arc::clone(&shared)));
    runtime.spawn(probe_app(load.target, Arc::clone(&shared)));
    let workers: Vec<_> = (0..load.workers)
        .map(|number| {
            let (load, shared, ids) = (load.clone(), Arc::clone(&shared), Arc::clone(&ids));
            thread::spawn(move || worker(number, &load, &shared, &ids))
        })
        .collect();
    thread::spawn({
        let shared = Arc::clone(&shared);
        move || {
            let mut until = until;
            let mut ignored = [0; 64];
            while matches!(until.read(&mut ignored), Ok(count) if count > 0) {}
            shared.stop.store(true, Ordering::Relaxed);
        }
    });
    while !shared.stopped() {
        thread::sleep(PROGRESS_PERIOD);
        tell(out, &shared.progress())?;
    }
    for worker in workers {
        worker.join().expect("a worker does not panic")?;
    }
    let (end_ns, last) = (now_ns(), shared.progress());
    runtime.shutdown_timeout(PROBE_TIMEOUT);
    let finish = |answers: &Mutex<Answers>| {
        std::mem::take(&mut *answers.lock().unwrap_or_else(PoisonError::into_inner)).finish(end_ns)
    };
    let measured = Measured { vip_gaps: finish(&shared.vip), app_gaps: finish(&shared.app) };
    tell(out, &Progress { finished: Some(measured), ..last })
}

fn id_file(path: &Path) -> anyhow::Result<Arc<Mutex<BufWriter<File>>>> {
    let file = File::create(path).with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(Arc::new(Mutex::new(BufWriter::new(file))))
}

fn tell(out: &mut impl Write, progress: &Progress) -> anyhow::Result<()> {
    writeln!(out, "{}", serde_json::to_string(progress)?)?;
    Ok(out.flush()?)
}

/// Sends orders, each until it is acknowledged, at its share of the rate.
fn worker(number: u32, load: &Load, shared: &Shared, ids: &Mutex<BufWriter<File>>) -> anyhow::Result<()> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_global(Some(REQUEST_TIMEOUT))
        .http_status_as_error(false)
        .build()
        .into();
    let url = format!("http://{}/orders", load.target);
    let period = Duration::from_secs(1) * load.workers / load.rate_per_s.max(1);
    for count in 0_u64.. {
        let started_ns = now_ns();
        let order =
            Order { id: format!("{:016x}-{number}-{count}", load.seed), item: item(load.seed ^ count) };
        loop {
            if shared.stopped() {
                return Ok(());
            }
            if acknowledged(&agent, &url, &order) {
                break;
            }
            shared.retries.fetch_add(1, Ordering::Relaxed);
            thread::sleep(RETRY_PAUSE);
        }
        {
            let mut ids = ids.lock().unwrap_or_else(PoisonError::into_inner);
            writeln!(ids, "{}", order.id)?;
            ids.flush()?;
        }
        shared.acknowledged.fetch_add(1, Ordering::Relaxed);
        thread::sleep(period.saturating_sub(Duration::from_nanos(now_ns() - started_ns)));
    }
    Ok(())
}

/// Only a complete answer of 200 is an acknowledgement.
fn acknowledged(agent: &ureq::Agent, url: &str, order: &Order) -> bool {
    let Ok(mut answer) = agent.post(url).send_json(order) else { return false };
    // Read to its end, so that the connection can be used again.
    let body: Result<serde_json::Value, _> = answer.body_mut().read_json();
    answer.status() == 200 && body.is_ok_and(|body| body["id"] == order.id.as_str())
}

/// Some 20 to 200 bytes, the same for the same number.
fn item(number: u64) -> String {
    let mixed =
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    format!("{mixed:016x} ").repeat(1 + (mixed % 12) as usize)
}

async fn probe_vip(target: SocketAddr, shared: Arc<Shared>) {
    let mut tick = interval(VIP_PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tick.tick().await;
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let answer = timeout(PROBE_TIMEOUT, async { socket(target)?.connect(target).await }).await;
            let answered = match answer {
                Ok(Ok(_)) => true,
                Ok(Err(error)) => error.kind() == std::io::ErrorKind::ConnectionRefused,
                Err(_) => false,
            };
            if answered {
                shared.vip.lock().unwrap_or_else(PoisonError::into_inner).add(now_ns());
            }
        });
    }
}

async fn probe_app(target: SocketAddr, shared: Arc<Shared>) {
    let mut tick = interval(APP_PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tick.tick().await;
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            if let Ok(Ok(true)) = timeout(PROBE_TIMEOUT, healthy(target)).await {
                shared.app.lock().unwrap_or_else(PoisonError::into_inner).add(now_ns());
            }
        });
    }
}

/// A connection each time: one that outlives its node would hang.
async fn healthy(target: SocketAddr) -> std::io::Result<bool> {
    let mut stream = socket(target)?.connect(target).await?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n").await?;
    let mut start = [0; 12];
    stream.read_exact(&mut start).await?;
    Ok(&start == b"HTTP/1.1 200")
}

/// Closed by a reset, so that thousands of probes leave no port behind in TIME_WAIT.
fn socket(target: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
    Ok(socket)
}
