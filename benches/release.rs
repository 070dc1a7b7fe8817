//! What it takes from the agent's decision to the program that waits: the board and its poke, beside `WAIT` on a socket.
//!
//! No pair and no disk: the agent here answers at once, so only the way between two threads is measured, there and
//! back. Its side of the socket is the simplest that is possible, one blocked thread for each program; a
//! real agent takes longer. In turns, round after round. `LOCKSTEP_ROUNDS` (5), `LOCKSTEP_COMMITS`
//! (20000) for each part of a round, `LOCKSTEP_WRITERS` ("1,16") programs at once.

use lockstep_barrier::{Board, BoardReader, Mark, Poke, PokeReceiver, Rule, Verdict};
use lockstep_benches::{Times, announce, setting, tell};
use lockstep_client::{Client, Mode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longer is a failure.
const LIMIT: Duration = Duration::from_secs(10);

fn main() {
    announce("release");
    let directory = tempfile::tempdir().expect("a folder");
    let rounds = setting("LOCKSTEP_ROUNDS", 5);
    let commits = setting("LOCKSTEP_COMMITS", 20_000);
    let writers = std::env::var("LOCKSTEP_WRITERS").unwrap_or_else(|_| "1,16".to_owned());
    for writers in writers.split(',').map(|text| text.parse::<u64>().expect("numbers of writers")) {
        for round in 1..=rounds {
            let each = (commits / writers).max(1);
            let (board, socket) =
                (over_board(directory.path(), writers, each), over_socket(directory.path(), writers, each));
            tell(&json!({
                "writers": writers, "round": round, "board": board.figures(), "socket": socket.figures(),
                "socket_to_board": socket.median_us() / board.median_us(),
            }));
        }
    }
}

/// Runs the programs and gathers what each commit took them.
fn programs(writers: u64, program: impl Fn(u64) -> Vec<Duration> + Sync) -> Times {
    let mut all = Times::default();
    std::thread::scope(|scope| {
        let program = &program;
        let running: Vec<_> = (0..writers).map(|number| scope.spawn(move || program(number))).collect();
        for program in running {
            program.join().expect("it ends").into_iter().for_each(|time| all.add(time));
        }
    });
    all
}

fn over_board(directory: &Path, writers: u64, commits: u64) -> Times {
    let (file, socket) = (directory.join("main.board"), directory.join("main.poke"));
    let board = Board::create(&file, "shop", "main", Path::new("/srv/app.db"), false).expect("a board");
    board.set_rule(Rule::Hold);
    let pokes = PokeReceiver::bind(&socket).expect("a socket");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let slice = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            while !done.load(Ordering::Relaxed) {
                poll(&mut [PollFd::new(&pokes, PollFlags::IN)], Some(&slice)).expect("poll");
                board.publish(std::iter::from_fn(|| pokes.next()));
            }
        });
        let times = programs(writers, |number| {
            let reader = BoardReader::open(&file).expect("the board");
            let poke = Poke::connect(&socket).expect("the socket");
            let commit = |turn: u64| {
                let begin = Instant::now();
                let frame = u32::try_from(turn * writers + number + 1).expect("few commits");
                let mark = Mark { salts: 7, chain: u64::from(frame), frame };
                let session = reader.session();
                assert!(poke.send(&mark), "the agent is there");
                // A full queue drops pokes: the program tells again, as the shim does.
                let until = begin + LIMIT;
                while reader.wait(&mark, session, Duration::from_millis(200)) != Verdict::Safe {
                    assert!(Instant::now() < until, "never released");
                    poke.send(&mark);
                }
                begin.elapsed()
            };
            (0..commits).map(commit).collect()
        });
        done.store(true, Ordering::Relaxed);
        times
    })
}

fn over_socket(directory: &Path, writers: u64, commits: u64) -> Times {
    let socket = directory.join("agent.sock");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).expect("a socket");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..writers {
                let (stream, _) = listener.accept().expect("a program");
                scope.spawn(move || answer(stream));
            }
        });
        programs(writers, |_| {
            let mut client = Client::connect(&socket).expect("the agent");
            let commit = |_| {
                let begin = Instant::now();
                client.wait("shop", "main", Mode::Durable, LIMIT).expect("acknowledged");
                begin.elapsed()
            };
            (0..commits).map(commit).collect()
        })
    })
}

fn answer(stream: UnixStream) {
    let mut requests = BufReader::new(stream);
    let mut line = String::new();
    while requests.read_line(&mut line).is_ok_and(|length| length > 0) {
        assert!(line.starts_with("WAIT shop main durable "));
        line.clear();
        requests.get_mut().write_all(b"OK durable 0000000001.0000000042\n").expect("it listens");
    }
}
