//! Commits that wait for a standby that is away: as long as the operator says, and nobody is punished
//! for it. Needs the program `python3`.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use lockstep::control::{Answer, Request, ask};
use lockstep::status::{PairState, PairStatus};

use crate::harness::{Lab, Pair};

/// Long enough for a loaded machine; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(40);
/// More than three health checks that fail take.
const MANY_CHECKS: Duration = Duration::from_secs(11);

/// After this the client has told of what was acknowledged before.
const TOLD: Duration = Duration::from_millis(500);

/// Serves one request after the other: while a commit waits, its health check gets no answer.
const APPLICATION: &str = r#"
import http.server, os, socket, sqlite3
database = sqlite3.connect(os.environ["LOCKSTEP_DATABASE_MAIN"], isolation_level=None)
database.execute("PRAGMA journal_mode=WAL")
database.execute("CREATE TABLE IF NOT EXISTS t(x)")
class Application(http.server.BaseHTTPRequestHandler):
    def answer(self, text):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text)
    def do_GET(self):
        self.answer(b"well")
    def do_POST(self):
        database.execute("INSERT INTO t VALUES (1)")
        agent = socket.socket(socket.AF_UNIX)
        agent.connect(os.environ["LOCKSTEP_SOCKET"])
        agent.sendall(b"WAIT lab main durable 600000\n")
        self.answer(agent.makefile("rb").readline())
http.server.HTTPServer(("", 8080), Application).serve_forever()
"#;

const CLIENT: &str = "import urllib.request as u, sys
sys.stdout.buffer.write(u.urlopen('http://10.77.0.10:8080/', data=b'x', timeout=100).read())";

fn status(lab: &Lab, node: &str) -> Option<PairStatus> {
    match ask(&lab.home().join(node).join("run/agent.sock"), &Request::Status {}, PATIENCE) {
        Ok(Answer::Status(status)) => status.pairs.into_iter().next(),
        _ => None,
    }
}

fn until(lab: &Lab, what: &str, is_so: impl Fn(&PairStatus) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !status(lab, "a").is_some_and(|pair| is_so(&pair)) {
        assert!(Instant::now() < deadline, "{what} did not happen: {:#?}", status(lab, "a"));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn order(lab: &Lab) -> Child {
    let mut client = lab.exec("c", &["python3", "-c", CLIENT]);
    client.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("exec starts")
}

fn answer(client: Child) -> String {
    let output = client.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn an_application_that_hangs_in_a_commit_for_an_absent_standby_is_not_counted_as_failed() {
    let program = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(program.path(), APPLICATION).expect("the program");
    let app = format!("exec python3 {}", program.path().display());
    let health = "http://127.0.0.1:8080/";
    let lab = Lab::new().up(&["--app", &app, "--health", health, "--solo-after", "never"]);
    until(&lab, "being in sync", |pair| pair.in_sync && pair.apps[0].healthy == Some(true));
    assert!(answer(order(&lab)).starts_with("OK durable "));

    lab.ok(&["power-off", "b"]);
    let mut client = order(&lab);
    let names_never = |text: &str| text.contains("never") && text.contains("1 commits wait");
    until(&lab, "the waiting and its reason", |pair| {
        pair.waiting == 1
            && pair.databases[0].waiting == 1
            && pair.waiting_why.as_deref().is_some_and(names_never)
            && pair.alarms.iter().any(|alarm| names_never(&alarm.sentence))
    });
    std::thread::sleep(MANY_CHECKS);
    assert!(client.try_wait().expect("it is ours").is_none(), "it waits on");
    let waits = status(&lab, "a").expect("it answers");
    assert!(waits.state == PairState::Active && !waits.solo && waits.apps[0].running, "{waits:#?}");
    lab.ok(&["power-on", "b"]);
    assert!(answer(client).starts_with("OK durable "));
    until(&lab, "health", |pair| {
        pair.in_sync && pair.waiting == 0 && pair.apps[0].healthy == Some(true) && pair.alarms.is_empty()
    });
    let events = lab.exec("a", &["lockstep", "events", "--last", "1000"]).output().expect("exec starts");
    let events = String::from_utf8_lossy(&events.stdout).into_owned();
    assert!(!events.contains("restarted") && !events.contains("acknowledged alone from"), "{events}");
}

#[test]
fn commits_wait_for_the_configured_time_and_are_then_acknowledged_alone() {
    let pair = Pair::up(&["--solo-after", "6s"]);
    pair.lab.ok(&["power-off", "b"]);
    pair.until("commits that wait", || pair.status("a").is_some_and(|a| a.waiting_why.is_some()));
    std::thread::sleep(TOLD);
    let before = pair.acknowledged();
    // The last grant of this profile is over after two seconds.
    pair.never("solo before its time", Duration::from_secs(3), || {
        pair.status("a").is_some_and(|a| a.solo) || pair.acknowledged() > before
    });
    pair.until("solo", || pair.status("a").is_some_and(|a| a.solo && a.waiting_why.is_none()));
    pair.writes_go_on();
    pair.lab.ok(&["power-on", "b"]);
    pair.end("a");
}

#[test]
fn a_pair_that_never_acknowledges_alone_waits_after_a_takeover_too() {
    let mut pair = Pair::up(&["--solo-after", "never"]);
    pair.moves(|pair| {
        pair.lab.ok(&["power-off", "a"]);
        pair.until("the takeover by b", || pair.is("b", PairState::Active));
        pair.until("commits that wait", || pair.status("b").is_some_and(|b| b.waiting_why.is_some()));
        std::thread::sleep(TOLD);
        let before = pair.acknowledged();
        pair.never("an acknowledgement of one node alone", Duration::from_secs(3), || {
            pair.acknowledged() > before
        });
        pair.lab.ok(&["power-on", "a"]);
        pair.in_sync_under("b");
    });
    pair.end("b");
}
