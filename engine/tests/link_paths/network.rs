//! Two nodes and the cables between them, in network namespaces that end with the test.
//!
//! Each namespace belongs to a thread of this process; nothing is named, so nothing is left behind.
//! A third namespace in the middle holds both cables, so that a cut takes the carrier of both ends and
//! leaves the nodes' own interfaces up.

use std::{
    net::IpAddr,
    process::Command,
    sync::mpsc,
    thread::{self, JoinHandle},
};

type Job = Box<dyn FnOnce() + Send>;

/// A namespace and the thread that lives in it.
pub(crate) struct Namespace {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    tid: String,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (tell, tid) = mpsc::channel();
        let thread = thread::spawn(move || {
            // SAFETY: NEWNET alone shares no descriptor table with anybody.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
                .expect("needs CAP_SYS_ADMIN to make network namespaces: run as root");
            tell.send(rustix::thread::gettid().to_string()).expect("the test waits for it");
            queue.into_iter().for_each(|job| job());
        });
        let tid = tid.recv().expect("the thread of the namespace has begun");
        let namespace = Self { jobs: Some(jobs), thread: Some(thread), tid };
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs `job` in the namespace and waits for it.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.start(job).recv().expect("the job did not panic")
    }

    /// Runs `job` in the namespace; its result can be waited for.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> mpsc::Receiver<T> {
        let (tell, result) = mpsc::channel();
        let job = Box::new(move || {
            // Nobody may be interested in the end of a node.
            let _ = tell.send(job());
        });
        self.jobs.as_ref().expect("open until dropped").send(job).expect("the thread lives as long");
        result
    }

    fn ip(&self, arguments: &str) {
        self.command("ip", arguments);
    }

    fn tc(&self, arguments: &str) {
        self.command("tc", arguments);
    }

    fn command(&self, program: &'static str, arguments: &str) {
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        self.run(move || {
            let output = Command::new(program).args(&arguments).output();
            let output = output.unwrap_or_else(|e| panic!("{program} (package iproute2) does not run: {e}"));
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{program} {arguments:?}: {said}");
        });
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic in there has already failed the test.
            let _ = thread.join();
        }
    }
}

/// Nodes `a` and `b`, each with `direct` and `lan`.
pub(crate) struct Network {
    pub(crate) a: Namespace,
    pub(crate) b: Namespace,
    middle: Namespace,
}

impl Network {
    pub(crate) fn new() -> Self {
        let network = Self { a: Namespace::new(), b: Namespace::new(), middle: Namespace::new() };
        for (cable, subnet) in [("direct", 1), ("lan", 2)] {
            network.middle.ip(&format!("link add {cable} type bridge"));
            network.middle.ip(&format!("link set {cable} up"));
            for (name, node, host) in [("a", &network.a, 1), ("b", &network.b, 2)] {
                let (middle, tid) = (&network.middle, &node.tid);
                middle.ip(&format!("link add {cable}-{name} type veth peer name {cable} netns {tid}"));
                middle.ip(&format!("link set {cable}-{name} master {cable} up"));
                node.ip(&format!("address add 10.77.{subnet}.{host}/24 dev {cable}"));
                node.ip(&format!("-6 address add fd77:{subnet}::{host}/64 nodad dev {cable}"));
                node.ip(&format!("link set {cable} up"));
            }
        }
        network
    }

    /// Pulls the cable `direct` or `lan` at both ends.
    pub(crate) fn cut(&self, cable: &str) {
        self.both_ends(cable, "down");
    }

    /// Plugs it in again.
    pub(crate) fn mend(&self, cable: &str) {
        self.both_ends(cable, "up");
    }

    /// Puts a queueing discipline on the way from `a` to `b`.
    pub(crate) fn shape(&self, cable: &str, discipline: &str) {
        self.middle.tc(&format!("qdisc add dev {cable}-b root {discipline}"));
    }

    fn both_ends(&self, cable: &str, state: &str) {
        for node in ["a", "b"] {
            self.middle.ip(&format!("link set {cable}-{node} {state}"));
        }
    }
}

/// The address of node 1 (`a`) or 2 (`b`) on a cable.
pub(crate) fn address(cable: &str, host: u8, v6: bool) -> IpAddr {
    let subnet = if cable == "direct" { 1 } else { 2 };
    let text = if v6 { format!("fd77:{subnet}::{host}") } else { format!("10.77.{subnet}.{host}") };
    text.parse().expect("an address as the network gives it out")
}
