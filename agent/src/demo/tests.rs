//! The application and the client on the loopback interface, without Lockstep: the honest baseline.

use super::{
    app::{self, Safety},
    client::{self, Load, Progress},
    outage::longest_ms,
    verify::verify,
};
use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};
use tokio::runtime::Runtime;

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// An application that ends, with everything it was doing, when it is dropped.
struct Running(Option<Runtime>);

impl Running {
    fn start(database: &Path, listen: SocketAddr, safety: Option<Safety>) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(app::serve(database.to_owned(), listen, safety));
        Self(Some(runtime))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.take().expect("dropped once").shutdown_background();
    }
}

/// A client in a thread, with its progress.
struct Writing {
    stop: UnixStream,
    lines: std::io::Lines<BufReader<UnixStream>>,
    thread: thread::JoinHandle<anyhow::Result<()>>,
}

impl Writing {
    fn start(target: SocketAddr, acknowledged: PathBuf) -> Self {
        let (stop, until) = UnixStream::pair().unwrap();
        let (lines, mut out) = UnixStream::pair().unwrap();
        let load = Load { target, workers: 4, rate_per_s: 2000, seed: 7, acknowledged };
        let thread = thread::spawn(move || client::run(&load, until, &mut out));
        Self { stop, lines: BufReader::new(lines).lines(), thread }
    }

    fn next(&mut self) -> Progress {
        serde_json::from_str(&self.lines.next().expect("the client tells progress").unwrap()).unwrap()
    }

    fn until(&mut self, so: impl Fn(&Progress) -> bool) -> Progress {
        loop {
            let progress = self.next();
            if so(&progress) {
                return progress;
            }
        }
    }

    fn finish(mut self) -> Progress {
        drop(self.stop);
        let last = loop {
            let line = self.lines.next().expect("the last line has the measures").unwrap();
            let progress: Progress = serde_json::from_str(&line).unwrap();
            if progress.finished.is_some() {
                break progress;
            }
        };
        self.thread.join().unwrap().unwrap();
        last
    }
}

#[test]
fn without_lockstep_a_restart_on_the_same_disk_is_measured_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (database, acknowledged) = (dir.path().join("app.db"), dir.path().join("acknowledged"));
    let listen = free_port();
    let first = Running::start(&database, listen, None);
    let mut writing = Writing::start(listen, acknowledged.clone());
    writing.until(|progress| progress.acknowledged >= 50);
    drop(first);
    let down = writing.until(|progress| progress.app_silent_ms.is_some_and(|ms| ms >= 300));
    let _second = Running::start(&database, listen, None);
    writing.until(|progress| progress.acknowledged >= down.acknowledged + 50);
    let end = writing.finish();
    let measured = end.finished.unwrap();
    let (app_ms, vip_ms) =
        (longest_ms(&measured.app_gaps, 0, u64::MAX), longest_ms(&measured.vip_gaps, 0, u64::MAX));
    assert!(app_ms >= 300 && end.retries > 0, "the outage was seen: {app_ms} ms, {} retries", end.retries);
    let verified = verify(&database, &acknowledged).unwrap();
    println!(
        "baseline without protection: {} acknowledged, {} lost, application silent for {app_ms} ms, address for {vip_ms} ms",
        end.acknowledged, verified.missing
    );
    assert_eq!((verified.integrity.as_str(), verified.missing), ("ok", 0));
    assert!(verified.orders >= end.acknowledged);
}

#[test]
fn a_lost_order_is_counted_and_the_database_itself_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let (database, acknowledged) = (dir.path().join("app.db"), dir.path().join("acknowledged"));
    let open = rusqlite::Connection::open(&database).unwrap();
    open.execute_batch(
        "PRAGMA journal_mode = WAL; CREATE TABLE orders (id TEXT PRIMARY KEY, item TEXT NOT NULL) WITHOUT ROWID;
         INSERT INTO orders VALUES ('1', 'tea'), ('2', 'milk');",
    )
    .unwrap();
    std::fs::write(&acknowledged, "1\n2\n3\n").unwrap();
    let before = std::fs::read(dir.path().join("app.db-wal")).unwrap();
    let verified = verify(&database, &acknowledged).unwrap();
    assert_eq!((verified.orders, verified.missing, verified.integrity.as_str()), (2, 1, "ok"));
    assert_eq!(std::fs::read(dir.path().join("app.db-wal")).unwrap(), before);
    assert_eq!(verify(&database, &acknowledged).unwrap(), verified, "the same pages, the same sum");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 4, "app.db, its WAL and wal-index, the ids: {left:?}");
    assert!(verify(&dir.path().join("none.db"), &acknowledged).is_err());
}

/// Answers every WAIT on its socket with this line.
fn fake_agent(socket: &Path, answer: &'static str) {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let requests = BufReader::new(stream.try_clone().unwrap()).lines();
                for request in requests.map_while(Result::ok) {
                    assert_eq!(
                        request.split(' ').take(4).collect::<Vec<_>>(),
                        ["WAIT", "shop", "orders", "durable"]
                    );
                    writeln!(stream, "{answer}").unwrap();
                }
            });
        }
    });
}

fn post(target: SocketAddr, id: &str) -> Option<(u16, serde_json::Value)> {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let order = serde_json::json!({ "id": id, "item": "tea" });
    let mut answer = agent.post(format!("http://{target}/orders")).send_json(order).ok()?;
    Some((answer.status().as_u16(), answer.body_mut().read_json().ok()?))
}

/// Sends one order to an application that waits at this socket.
fn order_at(socket: PathBuf) -> (u16, serde_json::Value) {
    let dir = tempfile::tempdir().unwrap();
    let listen = free_port();
    let safety = Safety { socket, pair: "shop".into(), database: "orders".into() };
    let _running = Running::start(&dir.path().join("app.db"), listen, Some(safety));
    loop {
        match post(listen, "order-1") {
            Some(answer) => return answer,
            None => thread::sleep(Duration::from_millis(5)),
        }
    }
}

#[test]
fn an_order_is_answered_with_200_only_when_the_agent_acknowledged_it() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        ("OK durable 0000000001.0000000007", 200),
        ("SOLO 0000000003-00112233aabbccdd", 200),
        ("ERR timeout not acknowledged within 2000 ms", 503),
        ("ERR standby this node is not active", 503),
        ("okay", 503),
    ];
    for (number, (line, status)) in cases.into_iter().enumerate() {
        let socket = dir.path().join(format!("{number}.sock"));
        fake_agent(&socket, line);
        let answer = order_at(socket);
        assert_eq!(answer.0, status, "{line}: {answer:?}");
        if status == 200 {
            assert_eq!((&answer.1["acknowledged"], &answer.1["id"]), (&line.into(), &"order-1".into()));
        }
    }
    assert_eq!(order_at(dir.path().join("nobody.sock")).0, 503, "without an agent nothing is safe");
}

#[test]
fn an_order_sent_twice_is_there_once() {
    let dir = tempfile::tempdir().unwrap();
    let listen = free_port();
    let _running = Running::start(&dir.path().join("app.db"), listen, None);
    while post(listen, "order-1").is_none() {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(post(listen, "order-1").unwrap().0, 200);
    let read = |path: &str| -> serde_json::Value {
        ureq::get(format!("http://{listen}/{path}")).call().unwrap().body_mut().read_json().unwrap()
    };
    assert_eq!(read("count")["count"], 1);
    assert_eq!(read("orders/order-1")["item"], "tea");
    let missing = ureq::get(format!("http://{listen}/orders/other")).call();
    assert!(matches!(missing, Err(ureq::Error::StatusCode(404))));
}
