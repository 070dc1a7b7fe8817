//! What a commit takes a program that waits until it is on the standby's disk, beside what it must take.
//!
//! Two nodes in processes and network namespaces of their own (root, iproute2), one disk, writers with
//! synchronous=FULL and rows of 200 bytes in processes of their own. In turns, round after round: a
//! frame to the other end of the cable and onto its disk with an answer back; SQLite alone; a standby
//! attached and not waited for; each commit waited for through the commit board. The floor is the
//! larger of the first two. `LOCKSTEP_ROUNDS` (5) rounds with `LOCKSTEP_SECONDS` (2) for each part;
//! `LOCKSTEP_WRITERS` ("1,4,16") programs at once; `LOCKSTEP_DIR` where files lie.

#[path = "../engine/tests/link_paths/network.rs"]
#[allow(dead_code, reason = "the tests cut cables, this does not")]
mod network;

use lockstep_benches::load;
use lockstep_benches::node::{self, Node};
use lockstep_benches::tap::Tap;
use lockstep_benches::{Times, announce, setting, tell};
use network::{Namespace, Network, address};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// A page with its frame header, and what TLS and framing add.
const FRAME_BYTES: usize = 4096 + 24 + 80;

/// Longer is a failure.
const LIMIT: Duration = Duration::from_secs(60);

/// The far end of the floor listens here.
const FLOOR_PORT: u16 = 7600;

const ROLE: &str = "BENCH_ROLE";

fn main() {
    match std::env::var(ROLE).as_deref() {
        Ok("writer") => return write(),
        Ok(node) => return serve(node),
        Err(_) => {}
    }
    announce("commit_latency");
    let root = std::env::var_os("LOCKSTEP_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = tempfile::tempdir_in(root).expect("a folder for both nodes");
    let bench = Bench::start(directory.path());
    let writers = std::env::var("LOCKSTEP_WRITERS").unwrap_or_else(|_| "1,4,16".to_owned());
    for writers in writers.split(',') {
        bench.compare(writers.parse().expect("numbers of writers"));
    }
}

fn configs(directory: &Path) -> [lockstep_engine::pair::EngineConfig; 2] {
    node::pair_of_processes(directory, "direct", [1, 2].map(|host| address("direct", host, false)))
}

/// Starts this program again.
fn again(directory: &Path, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command.env(ROLE, role).env("BENCH_DIR", directory).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

fn directory() -> PathBuf {
    std::env::var_os("BENCH_DIR").expect("set by the bench").into()
}

/// A process that answers lines with lines.
struct Other {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Other {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().expect("this program can be started again");
        let input = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, input, output }
    }

    fn ask(&mut self, question: &str) -> String {
        self.tell(question);
        self.answer()
    }

    fn tell(&mut self, question: &str) {
        self.input.write_all(format!("{question}\n").as_bytes()).expect("the process lives");
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        let read = self.output.read_line(&mut line).expect("the process lives");
        assert!(read > 0, "a process has ended");
        line.trim().to_owned()
    }

    /// Its time on a processor so far.
    fn cpu_us(&mut self) -> u64 {
        self.ask("cpu").parse().expect("a number")
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cpu_us() -> u128 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    now.tv_sec.unsigned_abs() as u128 * 1_000_000 + now.tv_nsec.unsigned_abs() as u128 / 1_000
}

/// One kind of commit, over all rounds.
#[derive(Default)]
struct Part {
    times: Times,
    writers_cpu_us: u64,
    nodes_cpu_us: [u64; 2],
    commits: u64,
}

impl Part {
    fn figures(&self) -> Value {
        let per_commit = |us: u64| (us as f64 / self.commits.max(1) as f64 * 10.0).round() / 10.0;
        let mut figures = self.times.figures();
        figures["cpu_us_per_commit"] = json!({
            "writers": per_commit(self.writers_cpu_us),
            "active": per_commit(self.nodes_cpu_us[0]),
            "standby": per_commit(self.nodes_cpu_us[1]),
        });
        figures
    }
}

struct Bench {
    network: Network,
    directory: PathBuf,
    nodes: std::cell::RefCell<[Other; 2]>,
    rounds: u64,
    seconds: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Alone,
    Attached,
    Waited,
}

impl Bench {
    fn start(directory: &Path) -> Self {
        let network = Network::new();
        node::make_identities(directory);
        let [a, _] = configs(directory);
        load::create(&node::database(&a));
        load::create(&directory.join("alone.db"));
        let start = |namespace: &Namespace, name: &'static str| {
            let directory = directory.to_owned();
            namespace.run(move || Other::start(again(&directory, name)))
        };
        let mut nodes = [start(&network.a, "a"), start(&network.b, "b")];
        nodes[0].ask("active");
        nodes[1].ask("standby");
        nodes[0].ask("sync");
        Self {
            network,
            directory: directory.to_owned(),
            nodes: nodes.into(),
            rounds: setting("LOCKSTEP_ROUNDS", 5),
            seconds: setting("LOCKSTEP_SECONDS", 2),
        }
    }

    fn compare(&self, writers: usize) {
        let mut floor = Times::default();
        let [mut alone, mut attached, mut waited] = [(); 3].map(|()| Part::default());
        for _ in 0..self.rounds {
            if writers == 1 {
                self.floor(&mut floor);
            }
            self.commit(writers, Kind::Alone, &mut alone);
            self.commit(writers, Kind::Attached, &mut attached);
            self.commit(writers, Kind::Waited, &mut waited);
        }
        let say = |what: &str, figures: &Value| {
            tell(&json!({ "bench": "commit_latency", "writers": writers, "what": what, "figures": figures }));
        };
        if writers == 1 {
            say("a frame there, onto disk, answer", &floor.figures());
        }
        say("SQLite alone", &alone.figures());
        say("standby attached, not waited for", &attached.figures());
        say("waited for through the board", &waited.figures());
        let local = alone.times.median_us();
        let least = if writers == 1 { local.max(floor.median_us()) } else { local };
        let ratio = |part: &Part, to: f64| (part.times.median_us() / to * 100.0).round() / 100.0;
        let ratios = json!({
            "attached_to_alone": ratio(&attached, local),
            "waited_to_alone": ratio(&waited, local),
            "waited_to_floor": ratio(&waited, least),
        });
        say("ratios of medians", &ratios);
    }

    fn commit(&self, writers: usize, kind: Kind, part: &mut Part) {
        let [a, _] = configs(&self.directory);
        let database = if kind == Kind::Alone { self.directory.join("alone.db") } else { node::database(&a) };
        let mut nodes = self.nodes.borrow_mut();
        let mut started: Vec<Other> = (0..writers)
            .map(|_| {
                let mut command = again(&self.directory, "writer");
                command.env("BENCH_DATABASE", &database).env("BENCH_SECONDS", self.seconds.to_string());
                if kind == Kind::Waited {
                    command.env("BENCH_BOARD", node::board(&a));
                }
                Other::start(command)
            })
            .collect();
        started.iter_mut().for_each(|writer| assert_eq!(writer.answer(), "ready"));
        let before = nodes.each_mut().map(Other::cpu_us);
        started.iter_mut().for_each(|writer| writer.tell("go"));
        for writer in &mut started {
            for time_ns in writer.answer().split_ascii_whitespace() {
                part.times.add(Duration::from_nanos(time_ns.parse().expect("a number")));
                part.commits += 1;
            }
            part.writers_cpu_us += writer.answer().parse::<u64>().expect("a number");
        }
        let after = nodes.each_mut().map(Other::cpu_us);
        for node in 0..2 {
            part.nodes_cpu_us[node] += after[node] - before[node];
        }
        nodes[0].ask("durable");
    }

    /// A frame to the other end of the cable, onto its disk over written zeros, and a byte back.
    fn floor(&self, times: &mut Times) {
        self.nodes.borrow_mut()[1].ask("floor");
        let seconds = self.seconds;
        let found = self.network.a.run(move || {
            let mut stream = TcpStream::connect((address("direct", 2, false), FLOOR_PORT)).expect("connects");
            stream.set_nodelay(true).expect("an option");
            let (frame, mut found, began) = (vec![7; FRAME_BYTES], Vec::new(), Instant::now());
            while began.elapsed() < Duration::from_secs(seconds) {
                let sent = Instant::now();
                stream.write_all(&frame).expect("sent");
                stream.read_exact(&mut [0]).expect("answered");
                found.push(sent.elapsed());
            }
            found
        });
        found.into_iter().for_each(|time| times.add(time));
        self.nodes.borrow_mut()[1].ask("floored");
    }
}

/// The far end of [`Bench::floor`], for one connection.
fn far_end(listener: &TcpListener, path: &Path) {
    let file = File::create(path).expect("a file");
    file.write_all_at(&vec![0; FRAME_BYTES * 1_000], 0).and_then(|()| file.sync_all()).expect("zeros");
    let (mut stream, _) = listener.accept().expect("accepts");
    stream.set_nodelay(true).expect("an option");
    let mut frame = vec![0; FRAME_BYTES];
    for count in 0_u64.. {
        if stream.read_exact(&mut frame).is_err() {
            return;
        }
        file.write_all_at(&frame, count % 1_000 * FRAME_BYTES as u64).expect("written");
        file.sync_data().expect("on disk");
        stream.write_all(&[1]).expect("answered");
    }
}

/// A node's process.
fn serve(name: &str) {
    let directory = directory();
    let [a, b] = configs(&directory);
    let mut node = Node::start(if name == "a" { a } else { b });
    let mut far = None;
    for line in std::io::stdin().lines() {
        match line.expect("text").as_str() {
            "active" => node.become_active(),
            "standby" => node.become_standby(),
            "sync" => node.until_in_sync(LIMIT),
            "durable" => node.wait_durable(),
            "floor" => {
                let listener =
                    TcpListener::bind((address("direct", 2, false), FLOOR_PORT)).expect("it listens");
                let path = directory.join("floor");
                far = Some(std::thread::spawn(move || far_end(&listener, &path)));
            }
            "floored" => far.take().into_iter().for_each(|far| far.join().expect("it ends with its peer")),
            "cpu" => {
                println!("{}", cpu_us());
                continue;
            }
            other => panic!("unknown request {other}"),
        }
        println!("done");
    }
}

/// A writer's process.
fn write() {
    let database = std::env::var_os("BENCH_DATABASE").expect("set by the bench");
    let seconds = std::env::var("BENCH_SECONDS").expect("set by the bench").parse().expect("a number");
    let tap = std::env::var_os("BENCH_BOARD").map(|board| Tap::install(Path::new(&board)));
    let connection = Connection::open(database).expect("the database opens");
    connection.busy_timeout(LIMIT).expect("a busy timeout");
    connection.pragma_update(None, "synchronous", "FULL").expect("synchronous");
    let mut insert =
        connection.prepare("INSERT INTO t(v) VALUES (randomblob(200))").expect("the table is there");
    println!("ready");
    std::io::stdin().read_line(&mut String::new()).expect("the bench says go");
    let (mut found, began, cpu) = (Vec::new(), Instant::now(), cpu_us());
    while began.elapsed() < Duration::from_secs(seconds) {
        let commit = Instant::now();
        insert.execute([]).expect("a row is committed");
        tap.iter().for_each(Tap::wait);
        found.push(commit.elapsed());
    }
    let cpu = cpu_us() - cpu;
    let found: Vec<String> = found.iter().map(|time| time.as_nanos().to_string()).collect();
    println!("{}\n{cpu}", found.join(" "));
}
