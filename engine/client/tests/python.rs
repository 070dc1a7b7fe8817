//! The ten-line Python example, run as it stands against a socket that answers like an agent.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixListener,
    path::Path,
    process::Command,
    thread,
};

const EXAMPLE: &str = "../../docs/examples/wait.py";

/// Runs the example against one answer; returns the request, the exit code and what it said.
fn run(answer: &'static str) -> (String, Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let (socket, database) = (dir.path().join("agent.sock"), dir.path().join("orders.db"));
    let listener = UnixListener::bind(&socket).unwrap();
    let agent = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = String::new();
        BufReader::new(&stream).read_line(&mut request).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        request
    });
    let make = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('CREATE TABLE orders (item)')";
    let python = |arguments: &[&Path]| {
        let output = Command::new("python3").args(arguments).output();
        output
            .expect("python3 is missing: install it, the example in docs/examples/wait.py is tested with it")
    };
    let made = Command::new("python3").arg("-c").arg(make).arg(&database).status();
    assert!(made.expect("python3 is missing: install it").success());
    let shop = Path::new("shop");
    let output = python(&[Path::new(EXAMPLE), &database, shop, Path::new("orders"), &socket]);
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    (agent.join().unwrap(), output.status.code(), said)
}

#[test]
fn the_python_example_is_ten_lines_and_trusts_only_ok_and_solo() {
    let text = std::fs::read_to_string(EXAMPLE).unwrap();
    assert_eq!(text.lines().count(), 10);
    let (request, code, said) = run("OK durable 0000000001.0000000007\n");
    assert_eq!((request.as_str(), code, said.as_str()), ("WAIT shop orders durable 5000\n", Some(0), ""));
    assert_eq!(run("SOLO 0000000003-00112233aabbccdd\n").1, Some(0));
    let timeout = "ERR timeout not acknowledged within 5000 ms";
    assert_eq!(run("ERR timeout not acknowledged within 5000 ms\n"), (request, Some(1), timeout.into()));
    assert_eq!(run("").1, Some(1), "an agent that hangs up acknowledges nothing");
}
