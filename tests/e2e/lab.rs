//! The lab itself: its machines reach each other, and every fault it can make is that fault.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Lab, arguments};

/// Long enough for a loaded machine; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing must happen where nothing may.
const SILENCE: Duration = Duration::from_millis(400);

/// Whether a machine's kernel answers another's: with a refusal, nothing listens there.
fn reaches(lab: &Lab, from: &str, address: &str, patience: Duration) -> bool {
    let patience = patience.as_millis().to_string();
    lab.inside(from, "lab::inside_knock", &[address, &patience])
        .output()
        .expect("exec starts")
        .status
        .success()
}

#[test]
#[ignore = "runs on a lab machine, started by other tests"]
fn inside_knock() {
    let Some(arguments) = arguments() else { return };
    let address: SocketAddr = arguments[0].parse().expect("an address");
    let patience = Duration::from_millis(arguments[1].parse().expect("milliseconds"));
    let answer = TcpStream::connect_timeout(&address, patience);
    let refused = answer.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused);
    assert!(refused, "{address} does not answer");
}

fn carrier(lab: &Lab, node: &str, interface: &str) -> String {
    let path = format!("/sys/class/net/{interface}/carrier");
    let output = lab.exec(node, &["cat", &path]).output().expect("exec starts");
    assert!(output.status.success(), "the interface is down: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a digit").trim().to_owned()
}

/// Starts a function on a machine and waits until it says `ready`.
fn start_inside(
    lab: &Lab,
    machine: &str,
    function: &str,
    arguments: &[&str],
) -> (Child, impl BufRead + use<>) {
    // Its exit code says it all: some of these are meant to fail.
    let mut command = lab.inside(machine, function, arguments);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("exec starts");
    let mut out = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let mut line = String::new();
    while !line.ends_with("ready\n") {
        line.clear();
        assert!(out.read_line(&mut line).expect("it speaks") > 0, "{function} ended before it was ready");
    }
    (child, out)
}

#[test]
fn the_machines_reach_each_other_over_both_networks_and_both_protocols() {
    let lab = Lab::up_without_agents();
    for (from, to) in [
        ("a", "10.77.0.2:9"),
        ("a", "[fd77::2]:9"),
        ("a", "10.78.0.2:9"),
        ("a", "[fd78::2]:9"),
        ("b", "10.78.0.1:9"),
        ("c", "10.77.0.1:9"),
        ("c", "[fd77::2]:9"),
        ("b", "10.77.0.101:9"),
        ("a", "10.77.0.102:9"),
        ("c", "10.77.0.103:9"),
    ] {
        assert!(reaches(&lab, from, to, PATIENCE), "{from} does not reach {to}");
    }
    assert!(!reaches(&lab, "c", "10.78.0.1:9", SILENCE), "the client is not on the direct cable");
}

#[test]
fn a_cut_takes_the_carrier_and_leaves_interface_and_addresses() {
    let lab = Lab::up_without_agents();
    lab.ok(&["cut", "direct", "a"]);
    assert_eq!(carrier(&lab, "a", "eth1"), "0");
    assert_eq!(carrier(&lab, "b", "eth1"), "0", "a crossover cable has one carrier");
    assert_eq!(carrier(&lab, "a", "eth0"), "1");
    lab.ok(&["cut", "lan", "b"]);
    assert_eq!(carrier(&lab, "b", "eth0"), "0");
    assert_eq!(carrier(&lab, "a", "eth0"), "1", "the other node's switch port is another");
    assert!(!reaches(&lab, "a", "10.77.0.2:9", SILENCE));
    lab.ok(&["mend", "direct", "a"]);
    lab.ok(&["mend", "lan", "b"]);
    assert_eq!(carrier(&lab, "b", "eth1"), "1");
    assert!(reaches(&lab, "a", "[fd78::2]:9", PATIENCE), "the IPv6 address outlived the cut");
    assert!(reaches(&lab, "a", "[fd77::2]:9", PATIENCE));
}

#[test]
fn a_cable_cut_one_way_carries_the_other_way_and_keeps_its_carrier() {
    let lab = Lab::up_without_agents();
    for (cable, interface, broadcast) in [("lan", "eth0", "10.77.0.255"), ("direct", "eth1", "10.78.0.3")] {
        let address = format!("{broadcast}:7000");
        lab.ok(&["cut", cable, "a", "--one-way", "out"]);
        assert!(hears(&lab, "a", "b", &address, PATIENCE), "{cable}: a hears b");
        assert!(!hears(&lab, "b", "a", &address, SILENCE), "{cable}: b does not hear a");
        lab.ok(&["mend", cable, "a", "--one-way", "out"]);
        lab.ok(&["cut", cable, "a", "--one-way", "in"]);
        assert!(!hears(&lab, "a", "b", &address, SILENCE), "{cable}: a does not hear b");
        assert!(hears(&lab, "b", "a", &address, PATIENCE), "{cable}: b hears a");
        assert_eq!(carrier(&lab, "a", interface), "1");
        lab.ok(&["mend", cable, "a"]);
        assert!(hears(&lab, "a", "b", &address, PATIENCE), "{cable}: mended");
    }
}

/// Whether `listener` hears what `speaker` broadcasts meanwhile.
fn hears(lab: &Lab, listener: &str, speaker: &str, address: &str, patience: Duration) -> bool {
    let patience = patience.as_millis().to_string();
    let (mut ear, _out) = start_inside(lab, listener, "lab::inside_listen", &[&patience]);
    let mut mouth = lab
        .inside(speaker, "lab::inside_speak", &[address])
        .stdout(Stdio::null())
        .spawn()
        .expect("exec starts");
    let heard = ear.wait().expect("the listener ends").success();
    mouth.kill().expect("the speaker is ours");
    mouth.wait().expect("the speaker ends");
    heard
}

#[test]
#[ignore = "runs on a lab machine, started by other tests"]
fn inside_listen() {
    let Some(arguments) = arguments() else { return };
    let patience = Duration::from_millis(arguments[0].parse().expect("milliseconds"));
    let socket = UdpSocket::bind("0.0.0.0:7000").expect("a socket");
    socket.set_read_timeout(Some(patience)).expect("a time-out");
    println!("\nready");
    socket.recv(&mut [0; 16]).expect("something is heard");
}

#[test]
#[ignore = "runs on a lab machine, started by other tests"]
fn inside_speak() {
    let Some(arguments) = arguments() else { return };
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.set_broadcast(true).expect("broadcast");
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let _ = socket.send_to(b"hello", &arguments[0]);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_power_loss_is_silent_ends_every_process_and_drops_the_carrier() {
    let lab = Lab::up_without_agents();
    let (mut holder, mut said) = start_inside(&lab, "b", "lab::inside_hold", &[]);
    let (mut caller, _) = start_inside(&lab, "a", "lab::inside_call", &["10.77.0.2:7001"]);
    let mut line = String::new();
    said.read_line(&mut line).expect("it speaks");
    assert_eq!(line, "connected\n");

    lab.ok(&["power-off", "a"]);
    assert!(!caller.wait().expect("the command on a ends").success(), "it died with its machine");
    assert!(
        holder.wait().expect("the holder ends").success(),
        "b heard a FIN or a reset from a dead machine"
    );
    assert_eq!(carrier(&lab, "b", "eth1"), "0");
    assert_eq!(lab.status()["nodes"]["a"]["power"], "off");
    let refused = lab.exec("a", &["true"]).output().expect("exec starts");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("lab power-on a"), "it names the remedy");

    lab.ok(&["power-off", "a"]);
    lab.ok(&["power-on", "a"]);
    assert_eq!(carrier(&lab, "b", "eth1"), "1");
    assert!(reaches(&lab, "b", "10.78.0.1:9", PATIENCE));
    assert!(reaches(&lab, "c", "[fd77::1]:9", PATIENCE));
}

#[test]
#[ignore = "runs on a lab machine, started by other tests"]
fn inside_hold() {
    if arguments().is_none() {
        return;
    }
    let listener = TcpListener::bind("10.77.0.2:7001").expect("a listener");
    println!("\nready");
    let (mut stream, _) = listener.accept().expect("a connection");
    println!("connected");
    // The lab is told to pull the plug only now; silence lasts longer than that takes.
    stream.set_read_timeout(Some(Duration::from_secs(2))).expect("a time-out");
    let silent = stream.read(&mut [0; 1]).expect_err("nothing was ever sent");
    assert_eq!(silent.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
#[ignore = "runs on a lab machine, started by other tests"]
fn inside_call() {
    let Some(arguments) = arguments() else { return };
    let _stream = TcpStream::connect(&arguments[0]).expect("a connection");
    println!("\nready");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn exec_passes_exit_code_directory_environment_and_streams_on() {
    let lab = Lab::up_without_agents();
    let output = lab.exec("c", &["sh", "-c", "exit 7"]).output().expect("exec starts");
    assert_eq!(output.status.code(), Some(7));
    let output = lab.exec("c", &["sh", "-c", "kill -9 $$"]).output().expect("exec starts");
    assert_eq!(output.status.code(), Some(137));
    let output = lab
        .exec("a", &["sh", "-c", "hostname; pwd; echo $GIVEN; command -v lockstep; echo $LOCKSTEP_STATE_DIR"])
        .env("GIVEN", "kept")
        .current_dir("/usr")
        .output()
        .expect("exec starts");
    let home = lab.home();
    let expected =
        format!("a\n/usr\nkept\n{0}/bin/lockstep\n{0}/a/disk/state\n", home.to_str().expect("a plain path"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    let output = lab.exec("b", &["lockstep", "config", "--check"]).output().expect("exec starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = lab.exec("b", &["no-such-program"]).output().expect("exec starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no-such-program"));
}

#[test]
fn a_machine_answers_orders_also_those_it_cannot_obey() {
    let lab = Lab::up_without_agents();
    for order in ["kill", "halt", "stop", "start"] {
        let output = lab.run(&["agent", order, "b"]);
        assert!(String::from_utf8_lossy(&output.stderr).contains("runs no agent"), "{output:?}");
    }
    lab.ok(&["freeze", "b"]);
    let output = lab.run(&["agent", "kill", "b"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("lab thaw b"), "{output:?}");
}

#[test]
fn a_frozen_machine_stands_still_while_its_kernel_answers() {
    let lab = Lab::up_without_agents();
    let (mut ticker, _) = start_inside(&lab, "a", "lab::inside_tick", &["10.77.0.9:7002"]);
    assert!(ticks(&lab, PATIENCE), "it ticks");
    lab.ok(&["freeze", "a"]);
    assert_eq!(lab.status()["nodes"]["a"]["power"], "frozen");
    assert!(!ticks(&lab, SILENCE), "it stands still");
    assert!(reaches(&lab, "b", "10.77.0.1:9", PATIENCE), "its kernel answers");
    lab.ok(&["thaw", "a"]);
    assert!(ticks(&lab, PATIENCE), "it goes on");
    ticker.kill().expect("the ticker is ours");
    ticker.wait().expect("the ticker ends");
}

fn ticks(lab: &Lab, patience: Duration) -> bool {
    let patience = patience.as_millis().to_string();
    lab.inside("c", "lab::inside_hear_tick", &[&patience]).output().expect("exec starts").status.success()
}

#[test]
#[ignore = "runs on a lab machine, started by other tests"]
fn inside_tick() {
    let Some(arguments) = arguments() else { return };
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    println!("\nready");
    loop {
        let _ = socket.send_to(b"tick", &arguments[0]);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[ignore = "runs on a lab machine, started by other tests"]
fn inside_hear_tick() {
    let Some(arguments) = arguments() else { return };
    let patience = Duration::from_millis(arguments[0].parse().expect("milliseconds"));
    let socket = UdpSocket::bind("10.77.0.9:7002").expect("a socket");
    socket.set_read_timeout(Some(patience)).expect("a time-out");
    socket.recv(&mut [0; 16]).expect("a tick");
}

#[test]
fn the_watcher_sees_every_holder_of_the_address_also_a_silent_one() {
    use lockstep::lab::sniffer::{Observations, dual_holder_ms};
    let lab = Lab::up_without_agents();
    let watch = |during: &dyn Fn()| {
        lab.ok(&["sniff-start"]);
        during();
        let seen = lab.ok(&["sniff-stop"]);
        serde_json::from_str::<Observations>(&seen).expect("observations are JSON")
    };
    let nobody = watch(&|| std::thread::sleep(SILENCE));
    assert!(nobody.asked > 0 && nobody.runs.is_empty(), "{nobody:?}");

    let take = |node: &str| {
        // The only program that is on every machine and can add an address is this one.
        assert!(
            lab.inside(node, "lab::inside_take", &["10.77.0.10"]).status().expect("exec starts").success()
        );
    };
    take("a");
    let one = watch(&|| std::thread::sleep(SILENCE));
    assert_eq!(one.runs.len(), 1, "{one:?}");
    assert_eq!(one.runs[0].mac.to_string(), "02:4c:53:00:00:01");
    assert_eq!((dual_holder_ms(&one, &[]), one.unseen_frames), (0, 0));

    take("b");
    let two = watch(&|| std::thread::sleep(SILENCE));
    assert!(two.runs.len() > 1, "{two:?}");
    assert!(dual_holder_ms(&two, &[]) > 0);
}

#[test]
#[ignore = "runs on a lab machine, started by other tests"]
fn inside_take() {
    let Some(arguments) = arguments() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().expect("netlink");
        tokio::spawn(connection);
        let index =
            rustix::net::netdevice::name_to_index(UdpSocket::bind("127.0.0.1:0").expect("a socket"), "eth0");
        let address = arguments[0].parse().expect("an address");
        handle
            .address()
            .add(index.expect("eth0"), address, 24)
            .execute()
            .await
            .expect("the address is added");
    });
}
