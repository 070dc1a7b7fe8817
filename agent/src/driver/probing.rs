//! The probes, each in its own thread: targets, who answers for the VIP, carrier, conflicts.
//!
//! They sleep until asked and report facts; what a fact means is the machine's.

use super::queue::EventQueue;
use crate::clock::boottime_us;
use crate::effects::route::Route;
use crate::heartbeat::Heart;
use crate::probes::carrier::CarrierWatch;
use crate::probes::targets::TargetProbe;
use crate::probes::vip::VipProbe;
use lockstep_failover::{Event, Path, Time};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// How long one wait of a watching thread lasts at most: bounds how late it sees that it shall stop.
const WATCH: Duration = Duration::from_millis(100);

/// What the probes need.
#[derive(Clone)]
pub(super) struct ProbeConfig {
    /// The interface of the VIP.
    pub(super) interface: String,
    /// The interface of the direct link, if there is one.
    pub(super) direct: Option<String>,
    /// This node's own address on the VIP's interface.
    pub(super) own: IpAddr,
    /// The peer's address there.
    pub(super) peer: IpAddr,
    pub(super) targets: Vec<IpAddr>,
    pub(super) vips: Vec<IpAddr>,
    /// One round of target probes each.
    pub(super) period: Duration,
    pub(super) queue: EventQueue,
}

/// The switches of the probes.
pub(super) struct Probes {
    targets: Arc<AtomicBool>,
    conflicts: Arc<AtomicBool>,
    ask_vip: mpsc::Sender<()>,
}

impl Probes {
    /// Starts the threads; they end when the queue's other end is gone.
    ///
    /// # Errors
    /// When the kernel gives no packet sockets: CAP_NET_RAW is missing.
    pub(super) fn start(config: &ProbeConfig, heart: &Arc<Heart>) -> anyhow::Result<Self> {
        let (targets, conflicts) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let probe = TargetProbe::open(&config.interface, Some(config.own), &config.targets)?;
        spawn("targets", config, targets.clone(), move |c, on| probe_targets(c, probe, &on))?;
        let watch = VipProbe::open(&config.interface, &config.vips)?;
        let heart = heart.clone();
        spawn("conflicts", config, conflicts.clone(), move |c, on| watch_conflicts(c, watch, &heart, &on))?;
        let (ask_vip, asked) = mpsc::channel();
        let probe = VipProbe::open(&config.interface, &config.vips)?;
        spawn("vip-probe", config, conflicts.clone(), move |c, _| probe_vip(c, probe, &asked))?;
        let links = [(Path::Lan, Some(config.interface.clone())), (Path::Direct, config.direct.clone())];
        for (path, interface) in links {
            if let Some(interface) = interface {
                let watch = CarrierWatch::open(&interface)?;
                spawn("carrier", config, conflicts.clone(), move |c, _| watch_carrier(c, path, watch))?;
            }
        }
        Ok(Self { targets, conflicts, ask_vip })
    }

    /// Probe the target list each period, or stop.
    pub(super) fn targets(&self, on: bool) {
        self.targets.store(on, Ordering::Release);
    }

    /// Report foreign ARP for the VIP, or stop.
    pub(super) fn conflicts(&self, on: bool) {
        self.conflicts.store(on, Ordering::Release);
    }

    /// Ask five times who answers for the VIP.
    pub(super) fn ask_vip(&self) {
        let _ = self.ask_vip.send(());
    }
}

fn spawn(
    name: &str,
    config: &ProbeConfig,
    on: Arc<AtomicBool>,
    run: impl FnOnce(&ProbeConfig, Arc<AtomicBool>) + Send + 'static,
) -> std::io::Result<()> {
    let config = config.clone();
    std::thread::Builder::new().name(name.into()).spawn(move || run(&config, on)).map(|_| ())
}

fn probe_targets(config: &ProbeConfig, mut probe: TargetProbe, on: &AtomicBool) {
    let of = config.targets.len() as u32;
    loop {
        let began_us = boottime_us();
        if on.load(Ordering::Acquire) {
            let round = probe.round(config.period);
            let (sent_us, answered) = match &round {
                Ok(round) if round.has_majority() => {
                    (round.majority_sent_us().unwrap_or(round.sent_us), round.answered.len() as u32)
                }
                Ok(round) => (round.sent_us, round.answered.len() as u32),
                // An interface that does not send reaches nobody.
                Err(_) => (began_us, 0),
            };
            let event = Event::TargetsMajority { sent_at: Time::from_us(sent_us), answered, of };
            if !config.queue.event(event) {
                return;
            }
        }
        let spent = Duration::from_micros(boottime_us() - began_us);
        std::thread::sleep(config.period.saturating_sub(spent).max(Duration::from_millis(1)));
    }
}

fn probe_vip(config: &ProbeConfig, mut probe: VipProbe, asked: &mpsc::Receiver<()>) {
    while asked.recv().is_ok() {
        let sent_at = Time::from_us(boottime_us());
        let event = match probe.ask_repeatedly() {
            Ok(claim) => Event::VipProbed { sent_at, result: judge(config, claim.map(|c| c.mac)) },
            Err(error) => Event::EffectFailed(format!("probing the VIP on {}: {error}", config.interface)),
        };
        if !config.queue.event(event) {
            return;
        }
    }
}

fn judge(config: &ProbeConfig, mac: Option<[u8; 6]>) -> lockstep_failover::event::VipProbe {
    use lockstep_failover::event::VipProbe as Outcome;
    match mac {
        None => Outcome::Silent,
        Some(mac) if peer_mac(config).is_none_or(|peer| peer == mac) => Outcome::PeerMac,
        Some(_) => Outcome::ForeignMac,
    }
}

/// The peer's card as the kernel knows it; the LAN heartbeats keep the entry fresh.
fn peer_mac(config: &ProbeConfig) -> Option<[u8; 6]> {
    Route::open().and_then(|mut route| route.neighbour(&config.interface, config.peer)).ok().flatten()
}

fn watch_conflicts(config: &ProbeConfig, mut probe: VipProbe, heart: &Heart, on: &AtomicBool) {
    loop {
        let seen = probe.watch(WATCH);
        if !on.load(Ordering::Acquire) {
            // Still drained, so that switching it on does not report what is long over.
            if seen.is_err() {
                std::thread::sleep(WATCH);
            }
            continue;
        }
        if matches!(seen, Ok(Some(_))) {
            // Also the peer's: a lease that rests on the targets alone does not outlive another's claim.
            // A heartbeat thread that is gone renews nothing anyway.
            let _ = heart.foreign_arp();
        }
        let alive = match seen {
            Ok(Some(claim)) if peer_mac(config) == Some(claim.mac) => {
                config.queue.event(Event::PeerAnnounced { received_at: Time::from_us(claim.seen_us) })
            }
            Ok(Some(_)) => config.queue.event(Event::ForeignArp),
            Ok(None) => true,
            Err(_) => {
                std::thread::sleep(WATCH);
                true
            }
        };
        if !alive {
            return;
        }
    }
}

fn watch_carrier(config: &ProbeConfig, path: Path, mut watch: CarrierWatch) {
    // An interface without carrier at the start is news; one with it is not.
    let mut news = watch.up().is_ok_and(|up| !up).then_some(false);
    loop {
        if let Some(up) = news
            && !config.queue.event(Event::Carrier { path, up })
        {
            return;
        }
        news = watch.changed(WATCH * 10).unwrap_or_else(|_| {
            std::thread::sleep(WATCH * 10);
            None
        });
    }
}
