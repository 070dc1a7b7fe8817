//! The story: load, power off, takeover, power on, resync, failback, and the count at the end.

use super::{
    DemoArgs,
    outage::longest_ms,
    report::{Report, SCHEMA, integrity},
    stage::{Stage, quoted, until},
    timeline::Timeline,
    verify::Verified,
};
use crate::{
    control::Request,
    lab::{
        APP_PORT, Node, VIP, VIP6,
        sniffer::{Takeover, dual_holder_ms, now_ns},
    },
    status::{Paint, PairState},
};
use anyhow::Context;
use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    thread,
    time::Duration,
};

/// Every profile takes over within this; longer is a failure of the demonstration.
const TAKEOVER_DEADLINE: Duration = Duration::from_secs(60);

/// A few megabytes are resynchronised at once.
const RESYNC_DEADLINE: Duration = Duration::from_secs(120);

/// The power goes off at a moment of this length that the seed chooses.
const MOMENT_MS: u64 = 1000;

/// After a move of the address: somebody who still holds it shows within this.
const AFTERMATH: Duration = Duration::from_secs(1);

/// What the takeover and the failback took.
struct Moves {
    power_off: Takeover,
    failback: Takeover,
    detect_ms: u64,
    resync_ms: u64,
}

/// Tells the story, takes its measures and shows them.
pub(super) fn run(args: &DemoArgs, seed: u64, paint: Paint) -> anyhow::Result<Report> {
    let timeline = Timeline::new(paint);
    timeline.mark("two nodes, a cable, a switch: the first copy");
    let program = std::env::current_exe().context("own program")?;
    let (any, own) = if args.ipv6 { ("[::]", "[::1]") } else { ("0.0.0.0", "127.0.0.1") };
    let app = format!("exec {} demo-app --listen {any}:{APP_PORT}", quoted(program.as_os_str()));
    let health = format!("http://{own}:{APP_PORT}/health");
    let mut up = vec!["--app", &app, "--health", &health, "--disk", &args.disk, "--profile", &args.profile];
    if args.ipv6 {
        up.push("--ipv6=only");
    }
    let stage = Stage::up(&up, args.keep)?;
    let report = play(&stage, &timeline, args, seed).inspect_err(|_| stage.show_logs())?;
    println!("\n{}", report.table(paint));
    Ok(report)
}

/// Where clients find the application.
fn target(args: &DemoArgs) -> SocketAddr {
    let vip: IpAddr = if args.ipv6 { VIP6.into() } else { VIP.into() };
    (vip, APP_PORT).into()
}

/// Everything between the lab's coming up and its going down.
fn play(stage: &Stage, timeline: &Timeline, args: &DemoArgs, seed: u64) -> anyhow::Result<Report> {
    let acknowledged = stage.folder().join("acknowledged");
    stage.lab(&["sniff-start"])?;
    let client = stage.client(&[
        format!("--target={}", target(args)),
        format!("--acknowledged={}", acknowledged.display()),
        format!("--seed={seed}"),
        format!("--rate={}", args.rate),
    ])?;
    timeline.mark(&format!("a client writes {} orders a second to {}", args.rate, target(args)));
    timeline.legend();
    timeline.show_for(stage, &client, Duration::from_secs(args.seconds));
    let moves = moves(stage, &client, timeline, args, seed)?;
    let progress = client.stop()?;
    let measured = progress.finished.context("the client measured nothing")?;
    let observations = stage.observations()?;
    anyhow::ensure!(
        observations.unseen_frames == 0,
        "the watcher on the switch missed {} frames: run it again on a machine with less load",
        observations.unseen_frames
    );
    timeline.mark("the client stops; now both agents, then the orders in both databases are counted");
    let (a, b) = count(stage, &acknowledged)?;
    if args.keep {
        restart(stage)?;
    }
    let longest = |gaps, takeover: Takeover| longest_ms(gaps, takeover.start_ns, takeover.end_ns);
    Ok(Report {
        schema: SCHEMA,
        seed,
        profile: args.profile.clone(),
        commit_mode: "durable".into(),
        acknowledged: progress.acknowledged,
        lost: a.missing.max(b.missing),
        detect_ms: moves.detect_ms,
        vip_outage_ms: longest(&measured.vip_gaps, moves.power_off),
        app_outage_ms: longest(&measured.app_gaps, moves.power_off),
        dual_holder_ms: dual_holder_ms(&observations, &[moves.power_off, moves.failback]),
        resync_ms: moves.resync_ms,
        failback_outage_ms: longest(&measured.app_gaps, moves.failback),
        integrity: integrity(&a, &b),
    })
}

fn moves(
    stage: &Stage,
    client: &super::stage::Client,
    timeline: &Timeline,
    args: &DemoArgs,
    seed: u64,
) -> anyhow::Result<Moves> {
    thread::sleep(Duration::from_millis(seed % MOMENT_MS));
    let off_ns = now_ns();
    stage.lab(&["power-off", "a"])?;
    timeline.mark("POWER OFF: a is dead");
    let detect_ms = detected(stage, off_ns)?;
    timeline.mark(&format!("b knows after {detect_ms} ms: it hears a by neither path"));
    let is = |node, state| move || stage.pair(node).is_some_and(|pair| pair.state == state);
    timeline.show_until(
        stage,
        client,
        "the takeover by b",
        TAKEOVER_DEADLINE,
        is(Node::B, PairState::Active),
    )?;
    timeline.mark("b is active: its copy is the database now, the application and the address are on b");
    let before = client.progress().acknowledged;
    let writes = || client.progress().acknowledged > before;
    timeline.show_until(stage, client, "an acknowledged write on b", TAKEOVER_DEADLINE, writes)?;
    timeline.show_for(stage, client, Duration::from_secs(args.seconds).div_f64(2.0).max(AFTERMATH));
    let power_off = Takeover { start_ns: off_ns, end_ns: now_ns() };

    let on_ns = now_ns();
    stage.lab(&["power-on", "a"])?;
    timeline.mark("POWER ON: a comes back and brings its data up to date");
    timeline.show_until(
        stage,
        client,
        "the resync of a",
        RESYNC_DEADLINE,
        in_sync(stage, Node::B, Node::A),
    )?;
    let resync_ms = (now_ns() - on_ns).div_ceil(1_000_000);
    timeline.mark("in sync again. FAILBACK: b hands over to a in good order");

    let start_ns = now_ns();
    stage.operate(Node::B, &Request::Failback { pair: None }, TAKEOVER_DEADLINE)?;
    timeline.mark("b has let go: it stands by again");
    timeline.show_until(
        stage,
        client,
        "the failback to a",
        TAKEOVER_DEADLINE,
        is(Node::A, PairState::Active),
    )?;
    let before = client.progress().acknowledged;
    let writes = || client.progress().acknowledged > before;
    timeline.show_until(stage, client, "an acknowledged write on a", TAKEOVER_DEADLINE, writes)?;
    timeline.mark("a is active again");
    timeline.show_for(stage, client, AFTERMATH);
    let failback = Takeover { start_ns, end_ns: now_ns() };
    timeline.show_until(
        stage,
        client,
        "the resync of b",
        RESYNC_DEADLINE,
        in_sync(stage, Node::A, Node::B),
    )?;
    Ok(Moves { power_off, failback, detect_ms, resync_ms })
}

/// When the standby hears its peer on no path any more, or already acts on it.
fn detected(stage: &Stage, off_ns: u64) -> anyhow::Result<u64> {
    until("the detection by b", TAKEOVER_DEADLINE, || {
        let pair = stage.pair(Node::B)?;
        let heard = pair.heartbeat.lan.up || pair.heartbeat.direct.is_some_and(|direct| direct.up);
        let acts = matches!(pair.state, PairState::Promoting | PairState::Active);
        (acts || !heard).then(|| (now_ns() - off_ns).div_ceil(1_000_000))
    })
}

fn in_sync(stage: &Stage, active: Node, standby: Node) -> impl FnMut() -> bool {
    move || {
        let pair = |node, state| stage.pair(node).is_some_and(|pair| pair.in_sync && pair.state == state);
        pair(active, PairState::Active) && pair(standby, PairState::Standby)
    }
}

/// Everything sent has arrived; then both agents stop, standby first, and each disk is looked at.
fn count(stage: &Stage, acknowledged: &Path) -> anyhow::Result<(Verified, Verified)> {
    until("the last write's arrival on b", RESYNC_DEADLINE, || {
        stage.pair(Node::A).filter(|pair| pair.in_sync && pair.lag_frames == Some(0))
    })?;
    stage.lab(&["agent", "stop", "b"])?;
    stage.lab(&["agent", "stop", "a"])?;
    let program = std::env::current_exe().context("own program")?;
    let program = program.to_str().context("the program's path is not UTF-8")?;
    let file = acknowledged.to_str().context("the lab's path is not UTF-8")?;
    let look = |node: Node| {
        let database = stage.database(node)?;
        let arguments = ["exec", node.name(), "--", program, "demo-verify", &database, file];
        let out = stage.lab(&arguments).with_context(|| format!("the database of {}", node.name()))?;
        serde_json::from_slice(&out).context("the result of demo-verify")
    };
    Ok((look(Node::A)?, look(Node::B)?))
}

/// The pair again, for a lab that is kept.
fn restart(stage: &Stage) -> anyhow::Result<()> {
    stage.lab(&["agent", "start", "a"])?;
    stage.lab(&["agent", "start", "b"])?;
    let mut in_sync = in_sync(stage, Node::A, Node::B);
    until("the start of both agents", RESYNC_DEADLINE, || in_sync().then_some(()))
}
