//! Against a real etcd (package etcd-server): what wins, what is refused, and what is said when it is not there.

use super::*;
use lockstep_wire::{Epoch, NodeId};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

const OURS: Epoch = Epoch { counter: 3, node: NodeId(1) };
const NEXT: Epoch = Epoch { counter: 4, node: NodeId(2) };
/// Only a test that fails waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// An etcd of one member in a folder of its own.
struct Etcd {
    child: Child,
    url: String,
    dir: tempfile::TempDir,
}

impl Etcd {
    fn start() -> Self {
        Self::with("http", |_| Vec::new())
    }

    fn with(scheme: &str, more: impl Fn(&Path) -> Vec<String>) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let more = more(dir.path());
        let port = || TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let (url, peers) =
            (format!("{scheme}://127.0.0.1:{}", port()), format!("http://127.0.0.1:{}", port()));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(dir.path().join("data"));
        for (option, value) in [
            ("--listen-client-urls", &url),
            ("--advertise-client-urls", &url),
            ("--listen-peer-urls", &peers),
            ("--initial-advertise-peer-urls", &peers),
        ] {
            command.args([option, value.as_str()]);
        }
        command.args(["--initial-cluster", &format!("default={peers}")]).args(more);
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        let child = command.stdout(Stdio::null()).stderr(log).spawn();
        Self { child: child.expect("etcd runs: install the package etcd-server"), url, dir }
    }

    fn settings(&self) -> Settings {
        settings(&self.url)
    }

    fn witness(&self) -> Witness {
        until_reached(self.settings())
    }
}

fn settings(url: &str) -> Settings {
    Settings {
        endpoints: vec![url.to_owned()],
        key: "/lockstep/test".into(),
        timeout: Duration::from_secs(5),
        ca: None,
        certificate: None,
        private_key: None,
        user: None,
        password_file: None,
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until_reached(settings: Settings) -> Witness {
    let end = Instant::now() + PATIENCE;
    let mut witness = Witness::new(settings).expect("settings");
    loop {
        match witness.ask(Claim::Look) {
            Answer::Reached { .. } => return witness,
            Answer::Unreachable(why) => assert!(Instant::now() < end, "{why}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn register(epoch: Epoch, alone: bool) -> Option<Register> {
    Some(Register { epoch, alone })
}

fn reached(won: bool, holds: Option<Register>) -> Answer {
    Answer::Reached { won, holds }
}

#[test]
fn one_key_goes_through_the_life_of_a_pair() {
    let etcd = Etcd::start();
    let (mut active, mut standby) = (etcd.witness(), etcd.witness());
    assert_eq!(active.ask(Claim::Look), reached(false, None));
    assert_eq!(standby.ask(Claim::Take { from: OURS, to: NEXT }), reached(false, None), "it knows nothing");
    assert_eq!(active.ask(Claim::Share { epoch: OURS }), reached(true, register(OURS, false)));
    assert_eq!(standby.ask(Claim::Take { from: OURS, to: NEXT }), reached(true, register(NEXT, true)));
    assert_eq!(active.ask(Claim::Alone { epoch: OURS }), reached(false, register(NEXT, true)));
    assert_eq!(standby.ask(Claim::Yield { won: NEXT, epoch: OURS }), reached(true, register(OURS, false)));
    assert_eq!(active.ask(Claim::Alone { epoch: OURS }), reached(true, register(OURS, true)));
    assert_eq!(standby.ask(Claim::Take { from: OURS, to: NEXT }), reached(false, register(OURS, true)));
    assert_eq!(standby.ask(Claim::Force { epoch: NEXT }), reached(true, register(NEXT, true)));
}

#[test]
fn of_two_that_ask_at_once_one_wins() {
    let etcd = Etcd::start();
    let (mut active, mut standby) = (etcd.witness(), etcd.witness());
    for _ in 0..50 {
        assert!(matches!(active.ask(Claim::Share { epoch: OURS }), Answer::Reached { won: true, .. }));
        let (stay, take) = std::thread::scope(|scope| {
            let stay = scope.spawn(|| active.ask(Claim::Alone { epoch: OURS }));
            let take = scope.spawn(|| standby.ask(Claim::Take { from: OURS, to: NEXT }));
            (stay.join().expect("no panic"), take.join().expect("no panic"))
        });
        let won = |answer: &Answer| matches!(answer, Answer::Reached { won: true, .. });
        assert_ne!(won(&stay), won(&take), "{stay:?} {take:?}");
        if won(&take) {
            let back = standby.ask(Claim::Yield { won: NEXT, epoch: OURS });
            assert_eq!(back, reached(true, register(OURS, false)));
        }
    }
}

#[test]
fn a_swap_that_comes_late_changes_nothing() {
    let etcd = Etcd::start();
    let mut witness = etcd.witness();
    let end = Instant::now() + PATIENCE;
    witness.ask(Claim::Share { epoch: OURS });
    let read = witness.read(0, end).expect("it is reached");
    witness.ask(Claim::Alone { epoch: OURS });
    witness.ask(Claim::Share { epoch: OURS });
    let late = Register { epoch: NEXT, alone: true };
    assert!(!witness.swap(0, &read, late, end).expect("it is reached"), "the same value, and written since");
    assert_eq!(witness.ask(Claim::Look), reached(false, register(OURS, false)));
}

#[test]
fn an_endpoint_that_is_gone_is_passed_over_and_a_witness_that_is_gone_is_named() {
    let etcd = Etcd::start();
    let gone = "http://127.0.0.1:1".to_owned();
    let mut settings = etcd.settings();
    settings.endpoints.insert(0, gone.clone());
    let mut witness = until_reached(settings);
    assert_eq!(witness.ask(Claim::Share { epoch: OURS }), reached(true, register(OURS, false)));
    let alone = Settings { endpoints: vec![gone.clone()], ..etcd.settings() };
    let answer = Witness::new(alone).expect("settings").ask(Claim::Look);
    assert!(matches!(&answer, Answer::Unreachable(why) if why.contains(&gone)), "{answer:?}");
}

#[test]
fn what_is_not_a_register_is_neither_used_nor_overwritten() {
    let etcd = Etcd::start();
    let mut witness = etcd.witness();
    let key = BASE64.encode("/lockstep/test");
    let body = json!({ "key": key, "value": BASE64.encode("somebody else's") });
    let (status, _) = witness.post(0, "kv/put", &body, Instant::now() + PATIENCE).expect("it is reached");
    assert_eq!(status, 200);
    for claim in [Claim::Look, Claim::Alone { epoch: OURS }, Claim::Force { epoch: NEXT }] {
        let answer = witness.ask(claim);
        assert!(matches!(&answer, Answer::Unreachable(why) if why.contains("/lockstep/test")), "{answer:?}");
    }
}

#[test]
fn a_stranger_that_speaks_http_is_no_witness() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let server = std::thread::spawn(move || {
        use std::io::{Read, Write};
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
            "HTTP/1.1 404 No\r\nContent-Length: 4\r\n\r\nwhat",
        ] {
            let (mut stream, _) = listener.accept().expect("a connection");
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(text.as_bytes());
        }
    });
    let settings = settings(&url);
    for expected in ["something else than etcd", "404: what"] {
        let answer = Witness::new(settings.clone()).expect("settings").ask(Claim::Look);
        assert!(matches!(&answer, Answer::Unreachable(why) if why.contains(expected)), "{answer:?}");
    }
    server.join().expect("no panic");
}

#[test]
fn a_user_with_a_password_is_let_in_and_nobody_else() {
    let etcd = Etcd::start();
    let witness = etcd.witness();
    let end = Instant::now() + PATIENCE;
    for (path, body) in [
        ("auth/user/add", json!({ "name": "root", "password": "secret" })),
        ("auth/role/add", json!({ "name": "root" })),
        ("auth/user/grant", json!({ "user": "root", "role": "root" })),
        ("auth/enable", json!({})),
    ] {
        let (status, answer) = witness.post(0, path, &body, end).expect("it is reached");
        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&answer));
    }
    let file = |text: &str| {
        let path = etcd.dir.path().join(format!("password-{}", text.len()));
        std::fs::write(&path, text).expect("a file");
        Some(path)
    };
    let user =
        |password| Settings { user: Some("root".into()), password_file: file(password), ..etcd.settings() };
    let mut let_in = Witness::new(user("secret\n")).expect("settings");
    assert_eq!(let_in.ask(Claim::Share { epoch: OURS }), reached(true, register(OURS, false)));
    // A token runs out after five minutes.
    let_in.token = Some("run out".into());
    assert_eq!(let_in.ask(Claim::Look), reached(false, register(OURS, false)));
    for settings in [user("wrong"), etcd.settings()] {
        let answer = Witness::new(settings).expect("settings").ask(Claim::Alone { epoch: OURS });
        assert!(matches!(answer, Answer::Unreachable(_)), "{answer:?}");
    }
}

/// A certificate authority with a certificate for `127.0.0.1` and one for a node, as files.
fn certificates(dir: &Path) -> [PathBuf; 5] {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        std::fs::write(&path, text).expect("a file");
        path
    };
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).expect("signed");
    let issuer = Issuer::new(params, key);
    let mut files = vec![write("ca.pem", ca.pem())];
    for name in ["server", "node"] {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, &issuer).expect("signed");
        files.push(write(&format!("{name}.pem"), certificate.pem()));
        files.push(write(&format!("{name}.key"), key.serialize_pem()));
    }
    files.try_into().expect("five files")
}

#[test]
fn over_tls_both_ends_are_known_by_their_certificates() {
    let etcd = Etcd::with("https", |dir| {
        let [ca, server, key, _, _] = certificates(dir).map(|path| path.display().to_string());
        ["--client-cert-auth", "--trusted-ca-file", &ca, "--cert-file", &server, "--key-file", &key]
            .map(str::to_owned)
            .to_vec()
    });
    let file = |name: &str| Some(etcd.dir.path().join(name));
    let known = Settings {
        ca: file("ca.pem"),
        certificate: file("node.pem"),
        private_key: file("node.key"),
        ..etcd.settings()
    };
    let mut witness = until_reached(known.clone());
    assert_eq!(witness.ask(Claim::Share { epoch: OURS }), reached(true, register(OURS, false)));
    for stranger in [
        Settings { ca: None, ..known.clone() },
        Settings { certificate: None, private_key: None, ..known.clone() },
    ] {
        let answer = Witness::new(stranger).expect("settings").ask(Claim::Look);
        assert!(matches!(answer, Answer::Unreachable(_)), "{answer:?}");
    }
    let missing = Witness::new(Settings { ca: file("nowhere.pem"), ..known.clone() }).err().expect("refused");
    assert!(missing.to_string().contains("nowhere.pem"), "{missing}");
    let no_key = Witness::new(Settings { private_key: file("ca.pem"), ..known }).err().expect("refused");
    assert!(no_key.to_string().contains("expected a private key"), "{no_key}");
}
