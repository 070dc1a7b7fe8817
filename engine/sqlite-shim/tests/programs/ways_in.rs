//! What is covered by which way in, and what comes later than the program: boards, logs, databases.

use super::agent::Stage;
use super::program::{Program, Way, plain};

#[test]
fn by_name_only_those_wait_that_ask_for_the_name_and_who_loaded_it() {
    let stage = Stage::new();
    let path = stage.database("app.db");
    let agent = stage.replicate(&path);
    let script = "
import os, sqlite3, sys
os.environ['LOCKSTEP_VFS'] = 'named'
loader = sqlite3.connect(sys.argv[1], isolation_level=None)
loader.enable_load_extension(True)
loader.load_extension(os.environ['SHIM'])
def commit(connection, name):
    connection.execute('INSERT INTO t VALUES (1)')
    print(name)
commit(loader, 'loader')
commit(sqlite3.connect('file:%s?vfs=lockstep' % sys.argv[1], uri=True, isolation_level=None), 'named')
commit(sqlite3.connect(sys.argv[1], isolation_level=None), 'plain')
";
    let program = Program::python(&stage, Way::Load, script, &[&path]);
    for name in ["loader", "named"] {
        let mark = agent.poked();
        program.waits();
        agent.board.publish([mark]);
        program.answers(name);
    }
    program.answers("plain");
    assert!(agent.is_quiet());
}

#[test]
fn once_loaded_all_later_connections_wait_whatever_file_system_they_name() {
    let stage = Stage::new();
    let path = stage.database("app.db");
    let agent = stage.replicate(&path);
    let script = "
import os, sqlite3, sys
loader = sqlite3.connect(':memory:')
loader.enable_load_extension(True)
loader.load_extension(os.environ['SHIM'])
loader.close()
for name in ['', '?vfs=unix', '?vfs=lockstep']:
    connection = sqlite3.connect('file:' + sys.argv[1] + name, uri=True, isolation_level=None)
    connection.execute('INSERT INTO t VALUES (1)')
    print('done' + name)
";
    let program = Program::python(&stage, Way::Load, script, &[&path]);
    for name in ["", "?vfs=unix", "?vfs=lockstep"] {
        let mark = agent.poked();
        program.waits();
        agent.board.publish([mark]);
        program.answers(&format!("done{name}"));
    }
}

#[test]
fn a_database_that_gets_its_log_after_the_shim_was_loaded_waits() {
    let stage = Stage::new();
    let path = stage.database("app.db");
    plain(&path, "PRAGMA journal_mode=DELETE");
    let agent = stage.replicate(&path);
    let mut shell = Program::shell(&stage, Way::Load, &path);
    shell.says("INSERT INTO t VALUES (0); SELECT 'no log';");
    shell.answers("no log");
    shell.says("PRAGMA journal_mode=WAL;");
    shell.answers("wal");
    shell.says("INSERT INTO t VALUES (1); SELECT 'done';");
    let mark = agent.poked();
    shell.waits();
    agent.board.publish([mark]);
    shell.answers("done");
}

#[test]
fn a_shim_loaded_within_a_transaction_waits_for_its_end() {
    let stage = Stage::new();
    let path = stage.database("app.db");
    let agent = stage.replicate(&path);
    let script = "
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.enable_load_extension(True)
connection.execute('BEGIN IMMEDIATE')
connection.execute('INSERT INTO t VALUES (1)')
connection.load_extension(os.environ['SHIM'])
connection.execute('COMMIT')
print('done')
";
    let program = Program::python(&stage, Way::Load, script, &[&path]);
    let mark = agent.poked();
    program.waits();
    agent.board.publish([mark]);
    program.answers("done");
}

#[test]
fn a_board_that_appears_while_the_program_runs_is_found_without_a_restart() {
    let stage = Stage::new();
    let path = stage.database("app.db");
    let mut shell = Program::shell(&stage, Way::Preload, &path);
    shell.says("INSERT INTO t VALUES (1); SELECT 'alone';");
    shell.answers("alone");
    let agent = stage.replicate(&path);
    // The program looks about ten times a second; until it has looked, it does not tell.
    for _ in 0..1000 {
        shell.says("INSERT INTO t VALUES (2); SELECT 'again';");
        if shell.line_within(std::time::Duration::from_millis(50)).is_none() {
            break;
        }
    }
    agent.release();
    shell.answers("again");
}

#[test]
fn a_database_made_after_its_board_waits_from_its_first_commit() {
    let stage = Stage::new();
    let path = stage.database("app.db");
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{path}{suffix}"));
    }
    let agent = stage.replicate(&path);
    let script = "
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute('PRAGMA journal_mode=WAL')
connection.execute('CREATE TABLE t(x)')
print('made')
";
    let program = Program::python(&stage, Way::Preload, script, &[&path]);
    agent.release();
    program.answers("made");
}
