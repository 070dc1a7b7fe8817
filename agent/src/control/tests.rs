//! A real socket, a fake agent, and clients that behave badly.

use super::*;
use crate::{
    config::Role,
    events::Severity,
    status::{SCHEMA, Status},
};
use lockstep_client::{Client, Mode, WaitError};
use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinHandle;

/// Acknowledges "orders", runs alone for "solo", never answers for "slow", refuses the rest.
#[derive(Default)]
struct FakeAgent {
    operations: AtomicU32,
    starts: AtomicU32,
}

impl AgentHandle for FakeAgent {
    async fn wait(&self, request: WaitRequest) -> Result<Acknowledged, Failure> {
        match request.database.as_str() {
            "orders" => {
                Ok(Acknowledged::Replicated { mode: request.mode, position: "0000000001.0000000007".into() })
            }
            "solo" => Ok(Acknowledged::Solo { epoch: "0000000003-00112233aabbccdd".into() }),
            "slow" => std::future::pending().await,
            "young" if self.starts.fetch_add(1, Ordering::Relaxed) < 5 => {
                Err(Failure::new(FailureCode::Starting, "the agent has just started"))
            }
            "young" => Ok(Acknowledged::Solo { epoch: "0000000003-00112233aabbccdd".into() }),
            other => {
                Err(Failure::new(FailureCode::Database, format!("there is no database \"{other}\"\nhere")))
            }
        }
    }

    async fn status(&self) -> Status {
        Status {
            schema: SCHEMA,
            node: "alpha".into(),
            role: Role::Primary,
            version: "0".into(),
            pairs: vec![],
        }
    }

    async fn events(&self, _pair: Option<PairId>, last: u32) -> Result<Vec<Event>, Failure> {
        Ok(vec![Event::now(
            Severity::Info,
            "test",
            format!("{last} were asked for"),
            serde_json::Value::Null,
        )])
    }

    async fn operate(&self, operation: Operation) -> Result<Done, Failure> {
        self.operations.fetch_add(1, Ordering::Relaxed);
        match operation.kind {
            OperationKind::Failover { accept_loss: false } => {
                Err(Failure::new(FailureCode::Refused, "the standby may lack commits: use --accept-loss"))
            }
            _ => Ok(Done { sentence: "done".into(), in_sync: true }),
        }
    }

    async fn why(&self, _pair: Option<PairId>) -> Result<Why, Failure> {
        Err(Failure::new(FailureCode::Failed, "not here"))
    }

    async fn drill(&self, pair: Option<PairId>) -> Result<Drilled, Failure> {
        self.operations.fetch_add(1, Ordering::Relaxed);
        let pair = pair.map_or_else(String::new, |pair| pair.to_string());
        Ok(Drilled { pair, moves: vec![], diverged_databases: 0, in_sync: true })
    }

    async fn discarded(&self, _pair: PairId, entry: String) -> Result<Done, Failure> {
        Ok(Done { sentence: entry, in_sync: true })
    }

    async fn snapshot(&self, request: SnapshotRequest) -> Result<Done, Failure> {
        Ok(Done { sentence: format!("{}", request.file.display()), in_sync: true })
    }

    async fn verify(&self, request: VerifyRequest) -> Result<Vec<Verified>, Failure> {
        let name = request.name.map_or_else(|| "all".into(), |name| name.to_string());
        Ok(vec![Verified::Database(VerifiedDatabase { database: name, pages: 1, repaired_pages: 0 })])
    }
}

struct Served {
    dir: tempfile::TempDir,
    agent: Arc<FakeAgent>,
    task: JoinHandle<()>,
}

impl Served {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let agent = Arc::new(FakeAgent::default());
        let listener = bind(&dir.path().join("agent.sock")).unwrap();
        let task = tokio::spawn(serve(listener, Arc::clone(&agent)));
        Self { dir, agent, task }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    /// Runs a blocking client beside the server.
    async fn with<T: Send + 'static>(&self, client: impl FnOnce(PathBuf) -> T + Send + 'static) -> T {
        let path = self.path();
        tokio::task::spawn_blocking(move || client(path)).await.unwrap()
    }
}

/// Sends bytes, ends the sending side, returns all that came back.
fn talk(path: &PathBuf, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    // The server may hang up before all was sent; what it said first counts.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn several_waits_on_one_connection_are_answered_in_order() {
    let served = Served::start();
    let answers = served
        .with(|path| {
            let requests =
                "WAIT shop orders durable 1000\nWAIT shop solo received 1000\nWAIT shop other local 5\n";
            talk(&path, requests.as_bytes())
        })
        .await;
    let expected = "OK durable 0000000001.0000000007\nSOLO 0000000003-00112233aabbccdd\n\
                    ERR database there is no database \"other\" here\n";
    assert_eq!(answers, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_takes_too_long_is_told_so() {
    let served = Served::start();
    let answer = served.with(|path| talk(&path, b"WAIT shop slow durable 20\n")).await;
    assert!(answer.starts_with("ERR timeout not acknowledged within 20 ms"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_gets_an_error_and_changes_nothing() {
    let served = Served::start();
    let long = vec![b'x'; 100_000];
    let garbage: Vec<Vec<u8>> = vec![
        b"\n".to_vec(),
        b"wait shop orders durable 5\n".to_vec(),
        b"WAIT shop orders durable\n".to_vec(),
        b"WAIT shop orders durable 5 6\n".to_vec(),
        b"WAIT  shop orders durable 5\n".to_vec(),
        b"WAIT shop orders durable -5\n".to_vec(),
        b"WAIT shop orders durable +5\n".to_vec(),
        b"WAIT shop orders durable 99999999999999999999\n".to_vec(),
        b"WAIT shop orders durable 3600001\n".to_vec(),
        b"WAIT ../etc orders durable 5\n".to_vec(),
        b"WAIT shop orders Durable 5\n".to_vec(),
        b"\xff\xfe\n".to_vec(),
        b"\0\0\0\0\n".to_vec(),
        long,
    ];
    for bytes in garbage {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        let answer = served.with(move |path| talk(&path, &bytes)).await;
        assert!(answer.starts_with("ERR syntax ") && answer.lines().count() == 1, "{shown:?}: {answer:?}");
    }
    let json = [
        "{}",
        "{\"request\":\"reboot\"}",
        "{\"request\":\"failover\"}",
        "{\"request\":\"failover\",\"accept_loss\":1}",
        "{\"request\":\"failover\",\"accept_loss\":true,\"extra\":1}",
        "{\"request\":\"switchover\",\"pair\":\"../x\"}",
        "{\"request\":\"snapshot\",\"database\":\"orders\",\"file\":\"relative\"}",
        "{\"request\":\"status\"",
        "{\"request\":{\"request\":{}}}",
    ];
    for line in json {
        let answer = served.with(move |path| talk(&path, format!("{line}\n").as_bytes())).await;
        assert!(matches!(serde_json::from_str(&answer), Ok(Answer::Error(_))), "{line}: {answer:?}");
    }
    assert_eq!(served.agent.operations.load(Ordering::Relaxed), 0);
    let half = served.with(|path| talk(&path, b"WAIT shop orders durable 5")).await;
    assert_eq!(half, "", "a request without its newline is none");
    let sound = served.with(|path| talk(&path, b"WAIT shop orders durable 5\n")).await;
    assert!(sound.starts_with("OK "), "the server still serves: {sound}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_while_it_waits_disturbs_nobody() {
    let served = Served::start();
    let answer = served
        .with(|path| {
            for _ in 0..50 {
                let mut gone = UnixStream::connect(&path).unwrap();
                gone.write_all(b"WAIT shop slow durable 100\n").unwrap();
            }
            talk(&path, b"WAIT shop orders durable 5\n")
        })
        .await;
    assert!(answer.starts_with("OK "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_and_told_so() {
    let served = Served::start();
    let answer = served
        .with(|path| {
            let mut open = Vec::new();
            for _ in 0..1025 {
                // The backlog is shorter than the limit: a connection counts when it was served once.
                let mut stream = UnixStream::connect(&path).unwrap();
                let _ = stream.write_all(b"WAIT shop orders durable 5\n");
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                if line.starts_with("ERR busy") {
                    return (open.len(), line);
                }
                open.push(stream);
            }
            (open.len(), String::new())
        })
        .await;
    assert_eq!(answer.0, 1024, "{}", answer.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_gets_facts_events_and_refusals() {
    let served = Served::start();
    let ask = |request| {
        served
            .with(move |path| ask(&path, &request, Duration::from_secs(5)).unwrap_or_else(|e| panic!("{e}")))
    };
    let Answer::Status(status) = ask(Request::Status {}).await else { panic!("no status") };
    assert_eq!(status.node, "alpha");
    let Answer::Events(events) = ask(Request::Events { pair: None, last: 7 }).await else {
        panic!("no events")
    };
    assert_eq!(events[0].sentence, "7 were asked for");
    let done = ask(Request::Switchover { pair: Some("shop".into()) }).await;
    assert!(matches!(done, Answer::Done(Done { in_sync: true, .. })), "{done:?}");
    let refused = ask(Request::Failover { pair: None, accept_loss: false }).await;
    let Answer::Error(Failure { code: FailureCode::Refused, sentence }) = refused else {
        panic!("{refused:?}")
    };
    assert!(sentence.contains("--accept-loss"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_for_the_group_and_replaces_one_left_behind_but_not_a_live_one() {
    let served = Served::start();
    let mode = std::fs::metadata(served.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert!(matches!(bind(&served.path()), Err(BindError::Taken(_))));
    served.task.abort();
    let path = served.path();
    while UnixStream::connect(&path).is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(path.exists(), "a killed agent leaves its socket");
    bind(&path).expect("it is replaced");
    assert_eq!(server::group_id("root:x:0:\nlockstep:x:417:web\n", "lockstep"), Some(417));
    assert_eq!(server::group_id("root:x:0:\nlockstep2:x:417:\n", "lockstep"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_crate_waits_through_a_restart_of_the_agent() {
    let served = Served::start();
    let path = served.path();
    let mut client = served.with(|path| Client::connect(path).unwrap()).await;
    let (mut client, first) = tokio::task::spawn_blocking(move || {
        let first = client.wait("shop", "orders", Mode::Durable, Duration::from_secs(5));
        (client, first)
    })
    .await
    .unwrap();
    assert!(matches!(first, Ok(Acknowledged::Replicated { mode: Mode::Durable, .. })), "{first:?}");
    served.task.abort();
    while UnixStream::connect(&path).is_ok() {
        tokio::task::yield_now().await;
    }
    let waiting = tokio::task::spawn_blocking(move || {
        client.wait("shop", "solo", Mode::Durable, Duration::from_secs(60))
    });
    let again = bind(&path).unwrap();
    let task = tokio::spawn(serve(again, Arc::new(FakeAgent::default())));
    assert!(matches!(waiting.await.unwrap(), Ok(Acknowledged::Solo { .. })));
    task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_crate_tells_time_out_refusal_and_absence_apart() {
    let served = Served::start();
    let wait = |database: &'static str| {
        served.with(move |path| {
            Client::connect(path).unwrap().wait("shop", database, Mode::Durable, Duration::from_millis(30))
        })
    };
    assert!(matches!(wait("slow").await, Err(WaitError::Timeout { .. })));
    assert!(matches!(wait("other").await, Err(WaitError::Refused { code, .. }) if code == "database"));
    assert!(
        wait("young").await.is_err_and(|e| e.to_string().contains("just started")),
        "30 ms are too short"
    );
    let young = served.with(|path| {
        Client::connect(path).unwrap().wait("shop", "young", Mode::Durable, Duration::from_secs(60))
    });
    assert!(young.await.is_ok(), "an agent that has just started is asked again");
    let absent = served.dir.path().join("nobody.sock");
    assert!(matches!(Client::connect(absent), Err(WaitError::Socket { .. })));
}
