//! Agent and program over one board, as two mappings of the same file.

use lockstep_barrier::{Board, BoardReader, Mark, Poke, PokeReceiver, Rule, Verdict};
use std::path::Path;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(10);

fn mark(frame: u32, chain: u64) -> Mark {
    Mark { salts: 7, chain, frame }
}

fn both(directory: &Path) -> (Board, BoardReader) {
    let file = directory.join("main.board");
    let board =
        Board::create(&file, "shop", "main", Path::new("/srv/app.db"), false).expect("a board is made");
    let reader = BoardReader::open(&file).expect("it is mapped");
    (board, reader)
}

#[test]
fn a_waiter_is_woken_when_its_commit_is_safe_and_by_no_other_content_of_that_frame() {
    let directory = tempfile::tempdir().expect("a directory");
    let (board, reader) = both(directory.path());
    let session = reader.session();
    board.publish([mark(5, 1)]);
    assert_eq!(reader.look(&mark(5, 2), session), Verdict::Waiting, "a phantom's frame 5 is not ours");
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| reader.wait(&mark(5, 2), session, LONG));
        board.publish([mark(5, 2)]);
        assert_eq!(waiter.join().expect("it ends"), Verdict::Safe);
    });
}

#[test]
fn a_standby_that_goes_takes_its_marks_along() {
    let directory = tempfile::tempdir().expect("a directory");
    let (board, reader) = both(directory.path());
    let session = reader.session();
    board.publish([mark(5, 1)]);
    assert_eq!(reader.look(&mark(5, 1), session), Verdict::Safe);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| reader.wait(&mark(6, 1), session, LONG));
        board.void(Rule::Hold);
        assert_eq!(waiter.join().expect("it ends"), Verdict::Void);
    });
    assert_eq!(reader.look(&mark(5, 1), reader.session()), Verdict::Waiting);
}

#[test]
fn solo_releases_everybody() {
    let directory = tempfile::tempdir().expect("a directory");
    let (board, reader) = both(directory.path());
    let session = reader.session();
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (1..40)
            .map(|frame| {
                let reader = &reader;
                scope.spawn(move || reader.wait(&mark(frame, 1), session, LONG))
            })
            .collect();
        board.set_rule(Rule::Solo);
        for waiter in waiters {
            assert_eq!(waiter.join().expect("it ends"), Verdict::Alone);
        }
    });
}

#[test]
fn a_restarted_agent_goes_on_with_the_file_its_waiters_have() {
    let directory = tempfile::tempdir().expect("a directory");
    let (board, reader) = both(directory.path());
    let session = reader.session();
    drop(board);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| reader.wait(&mark(1, 1), session, LONG));
        let (board, _) = both(directory.path());
        assert_eq!(waiter.join().expect("it ends"), Verdict::Void);
        board.publish([mark(1, 1)]);
    });
    assert!(reader.is_current());
    assert_eq!(reader.look(&mark(1, 1), reader.session()), Verdict::Safe);
    assert_eq!(reader.names(), ("shop".to_owned(), "main".to_owned()));
    assert_eq!(reader.database_path(), Path::new("/srv/app.db"));
    assert_eq!(reader.database_file(), None);
}

#[test]
fn what_is_no_board_is_refused_and_replaced() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("main.board");
    std::fs::write(&file, "short").expect("it is written");
    assert!(BoardReader::open(&file).is_err());
    let (_board, reader) = both(directory.path());
    assert_eq!(reader.rule(), Rule::Hold);
}

#[test]
fn a_poke_arrives_under_a_long_path_and_survives_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let deep = directory.path().join("d".repeat(100));
    std::fs::create_dir(&deep).expect("a directory");
    let path = deep.join("main.poke");
    let receiver = PokeReceiver::bind(&path).expect("it is bound");
    let poke = Poke::connect(&path).expect("it connects");
    assert!(poke.send(&mark(3, 4)));
    assert_eq!(receiver.next(), Some(mark(3, 4)));
    assert_eq!(receiver.next(), None);
    drop(receiver);
    assert!(!poke.send(&mark(3, 5)), "nobody is there");
    let receiver = PokeReceiver::bind(&path).expect("the name is taken over");
    assert!(Poke::connect(&path).expect("it connects").send(&mark(3, 6)));
    assert_eq!(receiver.next(), Some(mark(3, 6)));
}
