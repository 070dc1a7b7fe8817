//! The stock `sqlite3` shell: what its commits wait for.

use super::agent::Stage;
use super::program::{Program, Way, plain};
use lockstep_barrier::Rule;

const WAYS: [Way; 2] = [Way::Preload, Way::Load];

#[test]
fn a_commit_returns_when_the_standby_has_it_and_not_before() {
    for way in WAYS {
        let stage = Stage::new();
        let path = stage.database("app.db");
        let agent = stage.replicate(&path);
        let mut shell = Program::shell(&stage, way, &path);
        for turn in ["one", "two"] {
            shell.says(&format!("INSERT INTO t VALUES ('{turn}'); SELECT '{turn} done';"));
            let mark = agent.poked();
            shell.waits();
            // It is committed here and visible: nothing but the answer waits.
            assert_eq!(plain(&path, "SELECT x FROM t ORDER BY rowid DESC LIMIT 1"), turn);
            assert_eq!(agent.in_log(mark.frame), Some(mark));
            agent.board.publish([mark]);
            shell.answers(&format!("{turn} done"));
        }
    }
}

#[test]
fn databases_attached_to_one_connection_are_waited_for_together() {
    for way in WAYS {
        let stage = Stage::new();
        let (one, two) = (stage.database("one.db"), stage.database("two.db"));
        let agents = [stage.replicate(&one), stage.replicate(&two)];
        let mut shell = Program::shell(&stage, way, &one);
        shell.says(&format!("ATTACH '{two}' AS two;"));
        for order in [[0, 1], [1, 0]] {
            shell.says(
                "BEGIN; INSERT INTO t VALUES (1); INSERT INTO two.t VALUES (2); COMMIT; SELECT 'both';",
            );
            let marks = [agents[0].poked(), agents[1].poked()];
            shell.waits();
            // Nobody is kept waiting behind a lock of this transaction.
            let locks = "BEGIN IMMEDIATE; ROLLBACK; SELECT 'free'";
            assert_eq!((plain(&one, locks), plain(&two, locks)), ("free".into(), "free".into()));
            agents[order[0]].board.publish([marks[order[0]]]);
            shell.waits();
            agents[order[1]].board.publish([marks[order[1]]]);
            shell.answers("both");
        }
        // One of them alone does not wait for the other.
        shell.says("INSERT INTO two.t VALUES (3); SELECT 'second';");
        agents[1].release();
        shell.answers("second");
    }
}

#[test]
fn no_transaction_begins_while_this_node_may_not_acknowledge() {
    for way in WAYS {
        let stage = Stage::new();
        let path = stage.database("app.db");
        let agent = stage.replicate(&path);
        let mut shell = Program::shell(&stage, way, &path);
        agent.board.set_rule(Rule::Refuse);
        shell.says("INSERT INTO t VALUES (1);\nSELECT count(*) FROM t;");
        shell.answers("0");
        assert!(agent.is_quiet(), "something was written");
        agent.board.set_rule(Rule::Hold);
        shell.says("INSERT INTO t VALUES (1); SELECT 'done';");
        agent.release();
        shell.answers("done");
    }
}

#[test]
fn a_node_alone_answers_at_once_also_who_waits_already() {
    let stage = Stage::new();
    let path = stage.database("app.db");
    let agent = stage.replicate(&path);
    let mut shell = Program::shell(&stage, Way::Preload, &path);
    shell.says("INSERT INTO t VALUES (1); SELECT 'first';");
    agent.poked();
    shell.waits();
    agent.board.set_rule(Rule::Solo);
    shell.answers("first");
    shell.says("INSERT INTO t VALUES (2); SELECT 'second';");
    shell.answers("second");
    agent.board.set_rule(Rule::Local);
    shell.says("INSERT INTO t VALUES (3); SELECT 'third';");
    shell.answers("third");
}

#[test]
fn a_strict_database_shows_a_commit_to_others_only_when_the_standby_has_it() {
    for way in WAYS {
        let stage = Stage::new();
        let path = stage.database("app.db");
        let agent = stage.replicate(&path);
        let mut shell = Program::shell_with(&stage, way, &path, &[("LOCKSTEP_STRICT", "1")]);
        shell.says("INSERT INTO t VALUES (1); SELECT 'done';");
        let mark = agent.poked();
        shell.waits();
        assert_eq!(plain(&path, "SELECT count(*) FROM t"), "0", "it is visible too early");
        agent.board.publish([mark]);
        shell.answers("done");
        assert_eq!(plain(&path, "SELECT count(*) FROM t"), "1");
    }
}

#[test]
fn what_is_rolled_back_or_empty_waits_for_nothing_and_the_next_commit_for_itself() {
    for way in WAYS {
        let stage = Stage::new();
        let path = stage.database("app.db");
        let agent = stage.replicate(&path);
        let mut shell = Program::shell(&stage, way, &path);
        shell.says("BEGIN; INSERT INTO t VALUES (1); ROLLBACK; SELECT 'rolled back';");
        shell.answers("rolled back");
        shell.says("BEGIN IMMEDIATE; COMMIT; SELECT 'empty';");
        shell.answers("empty");
        shell.says("BEGIN; SELECT count(*) FROM t; COMMIT; SELECT 'read';");
        shell.answers("0");
        shell.answers("read");
        // Rolled back after its pages were spilled into the log.
        shell.says("PRAGMA cache_size = 5; BEGIN;");
        shell.says(
            "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i < 200) INSERT INTO t SELECT zeroblob(2000) FROM n; ROLLBACK; SELECT 'spilled';",
        );
        shell.answers("spilled");
        assert!(agent.is_quiet(), "something was told that is no commit");
        shell.says("INSERT INTO t VALUES (2); SELECT 'done';");
        let mark = agent.poked();
        shell.waits();
        agent.board.publish([mark]);
        shell.answers("done");
    }
}

#[test]
fn the_release_of_the_outermost_savepoint_is_a_commit() {
    let stage = Stage::new();
    let path = stage.database("app.db");
    let agent = stage.replicate(&path);
    let mut shell = Program::shell(&stage, Way::Load, &path);
    shell.says("SAVEPOINT a; SAVEPOINT b; INSERT INTO t VALUES (1); RELEASE b; SELECT 'inner';");
    shell.answers("inner");
    shell.says("RELEASE a; SELECT 'outer';");
    let mark = agent.poked();
    shell.waits();
    agent.board.publish([mark]);
    shell.answers("outer");
}

#[test]
fn a_transaction_whose_spilled_frames_are_rewritten_waits_for_its_final_content() {
    let stage = Stage::new();
    let path = stage.database("app.db");
    let agent = stage.replicate(&path);
    let mut shell = Program::shell(&stage, Way::Preload, &path);
    shell.says("PRAGMA cache_size = 5; BEGIN;");
    let fill = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i < 200)";
    shell.says(&format!("{fill} INSERT INTO t SELECT zeroblob(2000) FROM n;"));
    shell.says("UPDATE t SET x = randomblob(2000); UPDATE t SET x = randomblob(2000) WHERE rowid % 7 = 0;");
    shell.says("COMMIT; SELECT 'done';");
    // The chain is repaired after the commit frame was written, so it may be told twice.
    let mut mark = agent.poked();
    shell.waits();
    agent.board.publish([mark]);
    while agent.in_log(mark.frame) != Some(mark) {
        shell.waits();
        mark = agent.poked();
    }
    assert_eq!(mark.frame, agent.published());
    agent.board.publish([mark]);
    shell.answers("done");
}

#[test]
fn a_commit_frame_that_is_repeated_to_fill_a_sector_is_waited_for_to_its_last_repetition() {
    let stage = Stage::new();
    let path = stage.database("app.db");
    plain(&path, "PRAGMA journal_mode=DELETE; PRAGMA page_size=512; VACUUM; PRAGMA journal_mode=WAL");
    let agent = stage.replicate(&path);
    let uri = format!("file:{path}?psow=0");
    let mut shell = Program::shell(&stage, Way::Preload, &uri);
    shell.says("PRAGMA synchronous=FULL; INSERT INTO t VALUES (1); SELECT 'done';");
    let first = agent.poked();
    let mut last = first;
    shell.waits();
    while last.frame != agent.published() {
        last = agent.poked();
    }
    assert!(last.frame > first.frame, "nothing was repeated: {first:?}");
    agent.board.publish([first]);
    shell.waits();
    agent.board.publish([last]);
    shell.answers("done");
}

#[test]
fn two_processes_are_released_each_by_its_own_commit() {
    let stage = Stage::new();
    let path = stage.database("app.db");
    let agent = stage.replicate(&path);
    let mut shells = WAYS.map(|way| Program::shell(&stage, way, &path));
    let mut marks = Vec::new();
    for shell in &mut shells {
        shell.says("INSERT INTO t VALUES (1); SELECT 'done';");
        marks.push(agent.poked());
        shell.waits();
    }
    agent.board.publish([marks[1]]);
    shells[1].answers("done");
    shells[0].waits();
    agent.board.publish([marks[0]]);
    shells[0].answers("done");
}

#[test]
fn an_agent_that_was_killed_and_is_back_releases_who_has_waited_all_the_while() {
    let stage = Stage::new();
    let path = stage.database("app.db");
    let agent = stage.replicate(&path);
    let mut shell = Program::shell(&stage, Way::Preload, &path);
    shell.says("INSERT INTO t VALUES (1); SELECT 'done';");
    let mark = agent.poked();
    let agent = agent.restarted();
    shell.waits();
    assert_eq!(agent.release(), mark, "the waiting program tells of its commit again");
    shell.answers("done");
    // Its next commit finds the new socket.
    shell.says("INSERT INTO t VALUES (2); SELECT 'next';");
    agent.release();
    shell.answers("next");
}

#[test]
fn a_database_without_a_board_does_not_wait() {
    let stage = Stage::new();
    let (path, other) = (stage.database("app.db"), stage.database("other.db"));
    let agent = stage.replicate(&path);
    let mut shell = Program::shell(&stage, Way::Preload, &other);
    shell.says("INSERT INTO t VALUES (1); SELECT 'done';");
    shell.answers("done");
    assert!(agent.is_quiet());
}
