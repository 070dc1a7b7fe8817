//! A node in a process of its own: this very program, started again, so that its memory can be measured.
//!
//! A bench calls [`serve`] first thing in `main`; in the child it never returns. Words go over the
//! child's standard input, one answer each comes back.

use super::Node;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

const NODE: &str = "BENCH_NODE";

/// A running node.
#[derive(Debug)]
pub struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// What a process came to in all its life.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// The most memory it ever had, KiB.
    pub peak_kib: u64,
    /// Processor time of all its threads, seconds.
    pub processor_s: f64,
}

impl Process {
    /// Starts node 0 as the active, or 1 as its standby, with identities made before; to be called in its namespace.
    pub fn start(directory: &Path, own: usize, addresses: [IpAddr; 2]) -> Self {
        let [a, b] = addresses;
        let mut child = Command::new(std::env::current_exe().expect("this program has a path"))
            .env(NODE, format!("{own} {a} {b} {}", directory.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started again");
        let input = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut process = Self { child, input, output };
        process.answer();
        process
    }

    /// Waits until the standby holds everything.
    pub fn until_in_sync(&mut self, limit: Duration) {
        self.ask(&format!("sync {}", limit.as_secs()));
    }

    /// Waits until every commit that has returned is on the standby's disk.
    pub fn wait_durable(&mut self) {
        self.ask("durable");
    }

    /// Ends it in order.
    pub fn stop(mut self) -> Cost {
        let answer = self.ask("stop");
        assert!(self.child.wait().expect("it is our child").success(), "the node failed");
        let (peak_kib, processor_s) = answer.split_once(' ').expect("two numbers");
        Cost {
            peak_kib: peak_kib.parse().expect("a number of KiB"),
            processor_s: processor_s.parse().expect("seconds"),
        }
    }

    fn ask(&mut self, word: &str) -> String {
        writeln!(self.input, "{word}").expect("the node lives");
        self.answer()
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        let read = self.output.read_line(&mut line).expect("the node's words are text");
        assert!(read > 0, "the node ended");
        line.trim().to_owned()
    }
}

/// In a process started by [`Process::start`]: runs the node and never returns. Elsewhere: nothing.
pub fn serve() {
    let Ok(what) = std::env::var(NODE) else { return };
    let words: Vec<&str> = what.splitn(4, ' ').collect();
    let [own, a, b, directory] = words[..] else { panic!("four words") };
    let own: usize = own.parse().expect("0 or 1");
    let addresses = [a, b].map(|address| address.parse::<IpAddr>().expect("an address"));
    let [a, b] = super::pair_of_processes(Path::new(directory), "direct", addresses);
    let mut node = Node::start(if own == 0 { a } else { b });
    if own == 0 {
        node.become_active();
    } else {
        node.become_standby();
    }
    println!("runs");
    for line in std::io::stdin().lines() {
        let line = line.expect("the bench's words are text");
        match line.split_once(' ') {
            Some(("sync", seconds)) => {
                node.until_in_sync(Duration::from_secs(seconds.parse().expect("seconds")));
                println!("in sync");
            }
            None if line == "durable" => {
                node.wait_durable();
                println!("durable");
            }
            _ => break,
        }
    }
    node.stop();
    println!("{} {}", peak_kib(), processor_s());
    std::process::exit(0);
}

/// Processor time of this process until now, seconds.
pub fn processor_s() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says it");
    peak.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
}
