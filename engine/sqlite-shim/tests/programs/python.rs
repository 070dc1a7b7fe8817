//! Python's `sqlite3` module, which brings libsqlite3 in late and for itself alone: threads and connections.

use super::agent::Stage;
use super::program::{Program, Way};

/// Connections as an unmodified program makes them; under `Way::Load` it loads the extension first.
const PRELUDE: &str = "
import os, sqlite3, sys, threading
def connect(path, **options):
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, **options)
    if 'LD_PRELOAD' not in os.environ:
        connection.enable_load_extension(True)
        connection.load_extension(os.environ['SHIM'])
    return connection
";

fn python(stage: &Stage, way: Way, script: &str, arguments: &[&str]) -> Program {
    Program::python(stage, way, &format!("{PRELUDE}{script}"), arguments)
}

#[test]
fn a_commit_of_python_waits_whichever_way_the_shim_came_in() {
    for way in [Way::Preload, Way::Load] {
        let stage = Stage::new();
        let path = stage.database("app.db");
        let agent = stage.replicate(&path);
        let script = "
connection = connect(sys.argv[1])
connection.execute('BEGIN')
connection.execute('INSERT INTO t VALUES (1)')
connection.execute('COMMIT')
print('done')
";
        let program = python(&stage, way, script, &[&path]);
        let mark = agent.poked();
        program.waits();
        agent.board.publish([mark]);
        program.answers("done");
    }
}

#[test]
fn a_connection_that_moves_between_threads_within_a_transaction_waits_where_it_commits() {
    let stage = Stage::new();
    let path = stage.database("app.db");
    let agent = stage.replicate(&path);
    let script = "
connection = connect(sys.argv[1])
connection.execute('PRAGMA cache_size = 5')
connection.execute('BEGIN IMMEDIATE')
connection.executemany('INSERT INTO t VALUES (zeroblob(?))', [(2000,)] * 100)
def commit():
    connection.execute('COMMIT')
    print('moved')
thread = threading.Thread(target=commit)
thread.start()
thread.join()
connection.execute('INSERT INTO t VALUES (1)')
print('back')
";
    let program = python(&stage, Way::Preload, script, &[&path]);
    let mark = agent.poked();
    program.waits();
    agent.board.publish([mark]);
    program.answers("moved");
    let mut mark = agent.poked();
    program.waits();
    while agent.in_log(mark.frame) != Some(mark) {
        mark = agent.poked();
    }
    agent.board.publish([mark]);
    program.answers("back");
}

#[test]
fn threads_with_connections_of_their_own_wait_at_the_same_time() {
    let stage = Stage::new();
    let path = stage.database("app.db");
    let agent = stage.replicate(&path);
    let script = "
def commit():
    connection = connect(sys.argv[1], timeout=30)
    connection.execute('INSERT INTO t VALUES (1)')
    sys.stdout.write('done\\n')
threads = [threading.Thread(target=commit) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
";
    let program = python(&stage, Way::Load, script, &[&path]);
    // Others commit while the first waits: the standby's next flush covers them all.
    let marks = [agent.poked(), agent.poked(), agent.poked()];
    program.waits();
    agent.board.publish(marks);
    for _ in 0..3 {
        program.answers("done");
    }
}
