//! Verbs run in this process, against files and a real socket.

use super::*;
use crate::control::{Answer, Done, Failure, FailureCode, Verified, VerifiedDatabase};
use clap::CommandFactory;
use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixListener,
    path::Path,
    thread,
};

pub(super) fn lockstep(dir: &Path, line: &str) -> Exit {
    let places = ["--config", "--state-dir", "--runtime-dir"];
    let files = ["lockstep.toml", "state", ""];
    let mut arguments: Vec<OsString> = vec!["lockstep".into()];
    for (option, file) in places.iter().zip(files) {
        arguments.extend([option.into(), dir.join(file).into_os_string()]);
    }
    arguments.extend(line.split(' ').map(OsString::from));
    run(arguments)
}

/// Answers each of these to one connection, then stops; returns the requests.
fn agent(dir: &Path, answers: Vec<Option<Answer>>) -> thread::JoinHandle<Vec<String>> {
    let listener = UnixListener::bind(dir.join("agent.sock")).unwrap();
    thread::spawn(move || {
        answers
            .into_iter()
            .map(|answer| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                match answer {
                    Some(answer) => writeln!(stream, "{}", serde_json::to_string(&answer).unwrap()).unwrap(),
                    // Says nothing until the client has gone.
                    None => drop(BufReader::new(&stream).read_line(&mut String::new())),
                }
                line
            })
            .collect()
    })
}

#[test]
fn the_command_line_is_well_formed_and_every_visible_verb_has_an_example() {
    Cli::command().debug_assert();
    fn examples(command: &clap::Command) {
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help")
        {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            if verb.has_subcommands() {
                examples(verb);
            } else {
                assert!(help.contains("Examples:\n  lockstep "), "{} has no example", verb.get_name());
            }
        }
    }
    examples(&Cli::command());
}

#[test]
fn a_wrong_command_line_is_usage_and_help_is_not() {
    let dir = tempfile::tempdir().unwrap();
    for line in ["", "reboot", "status --nonsense", "config", "failover --timeout-s 0", "snapshot orders"] {
        assert_eq!(lockstep(dir.path(), line), Exit::Usage, "{line}");
    }
    for line in ["--help", "status --help", "--version", "config --example", "completions bash", "man"] {
        assert_eq!(lockstep(dir.path(), line), Exit::Done, "{line}");
    }
}

#[test]
fn a_configuration_is_checked_where_it_lies() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(lockstep(dir.path(), "config --check"), Exit::Failed, "there is none");
    std::fs::write(dir.path().join("lockstep.toml"), crate::config::EXAMPLE).unwrap();
    assert_eq!(lockstep(dir.path(), "config --check"), Exit::Done);
    std::fs::write(dir.path().join("lockstep.toml"), "[node]\nnam = \"a\"\n").unwrap();
    assert_eq!(lockstep(dir.path(), "config --check --json"), Exit::Failed);
}

#[test]
fn an_identity_is_made_once_and_replaced_only_on_request() {
    use lockstep_engine::link::Identity;
    let dir = tempfile::tempdir().unwrap();
    let read = || Identity::load(&dir.path().join("state")).unwrap().fingerprint();
    assert_eq!(lockstep(dir.path(), "identity"), Exit::Done);
    let first = read();
    assert_eq!(lockstep(dir.path(), "identity --json"), Exit::Done);
    assert_eq!(read(), first);
    assert_eq!(lockstep(dir.path(), "identity --replace"), Exit::Done);
    assert_ne!(read(), first);
    std::fs::remove_file(dir.path().join("state/identity.crt")).unwrap();
    assert_eq!(lockstep(dir.path(), "identity"), Exit::Failed, "half an identity is damage");
    assert_eq!(lockstep(dir.path(), "identity --replace"), Exit::Done);
}

#[test]
fn without_an_agent_the_verbs_fail() {
    let dir = tempfile::tempdir().unwrap();
    for line in ["status", "events", "switchover", "failover", "failback", "snapshot orders /tmp/x", "verify"]
    {
        assert_eq!(lockstep(dir.path(), line), Exit::Failed, "{line}");
    }
}

#[test]
fn answers_of_the_agent_become_exit_codes() {
    let done = |in_sync| Some(Answer::Done(Done { sentence: "done".into(), in_sync }));
    let error = |code| Some(Answer::Error(Failure::new(code, "no: do something else")));
    let verified = |repaired_pages| {
        let database = VerifiedDatabase { database: "orders".into(), pages: 9, repaired_pages };
        Some(Answer::Verified(vec![Verified::Database(database)]))
    };
    let cases = vec![
        ("switchover", done(true), Exit::Done),
        ("failover --accept-loss", done(false), Exit::NotInSync),
        ("failover --pair shop", error(FailureCode::Refused), Exit::Refused),
        ("failback", error(FailureCode::Failed), Exit::Failed),
        ("switchover --pair other", error(FailureCode::Pair), Exit::Usage),
        ("snapshot orders /tmp/x", error(FailureCode::Timeout), Exit::TimedOut),
        ("status --json", Some(Answer::Status(Box::new(crate::status::tests::full()))), Exit::Done),
        ("status --check", Some(Answer::Status(Box::new(crate::status::tests::full()))), Exit::NotInSync),
        ("events --last 3", Some(Answer::Events(vec![])), Exit::Done),
        ("events", done(true), Exit::Failed),
        ("verify", verified(0), Exit::Done),
        ("verify orders --json", verified(2), Exit::Failed),
        ("verify", error(FailureCode::Standby), Exit::Refused),
        ("switchover --timeout-s 1", None, Exit::TimedOut),
    ];
    let dir = tempfile::tempdir().unwrap();
    let agent = agent(dir.path(), cases.iter().map(|case| case.1.clone()).collect());
    for (line, _, exit) in &cases {
        assert_eq!(lockstep(dir.path(), line), *exit, "{line}");
    }
    let requests = agent.join().unwrap();
    assert_eq!(requests[1].trim(), r#"{"request":"failover","pair":null,"accept_loss":true}"#);
    assert_eq!(
        requests[5].trim(),
        r#"{"request":"snapshot","pair":null,"database":"orders","file":"/tmp/x"}"#
    );
}

#[test]
fn manual_pages_are_written_one_per_verb() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(lockstep(dir.path(), &format!("man {}", dir.path().display())), Exit::Done);
    assert!(dir.path().join("lockstep-status.1").exists() && dir.path().join("lockstep.1").exists());
}
