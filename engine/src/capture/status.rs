//! What capture tells about itself, for the status page and for alarms.

use lockstep_wire::Position;

/// A snapshot of one database's capture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaptureStatus {
    /// Everything committed up to here has been seen.
    pub position: Position,
    /// The last frame handed to the session (equal to `position` when nothing is behind).
    pub taken: Position,
    /// The last commit of the present attachment that a program has said it will wait for.
    pub poked: Position,
    /// Bytes of the WAL through the last committed frame.
    pub wal_bytes: u64,
    /// Runs of frames shipped before they were published.
    pub prepared: u64,
    /// How often such frames had to be taken back.
    pub rewinds: u64,
    /// Frames published since the start.
    pub frames: u64,
    /// Commit frames among them.
    pub commits: u64,
    /// Times the WAL began anew with frames.
    pub resets: u64,
    /// A session takes frames.
    pub attached: bool,
    /// The read mark was let go and no session has attached since.
    pub let_go: bool,
    /// Checkpoints handed over under the write lock.
    pub handovers: u64,
    /// Hand-overs that gave way because a writer held the lock.
    pub handovers_busy: u64,
    /// Hand-overs after which other readers still kept frames from the database file: the WAL grows on.
    pub handovers_incomplete: u64,
    /// Longest time writers were held by a hand-over, microseconds.
    pub held_max_us: u64,
    /// Sum of those times, microseconds.
    pub held_total_us: u64,
    /// Commits are noticed by inotify; otherwise by the timer alone.
    pub hints: bool,
    /// `SQLITE_VERSION_NUMBER` of the library that last changed page 1; 0: unknown.
    pub sqlite_version: u32,
    /// Why capture ended, if it did.
    pub failed: Option<String>,
}

impl CaptureStatus {
    /// A sentence for the operator if the application's SQLite can corrupt its database by itself.
    ///
    /// From 3.7.0 to 3.51.2 (fixed in 3.44.6, 3.50.7 and 3.51.3) a checkpointer that races a
    /// writer's WAL reset can lose pages.
    pub fn sqlite_warning(&self) -> Option<String> {
        sqlite_warning(self.sqlite_version)
    }
}

/// [`CaptureStatus::sqlite_warning`] of a version number.
pub fn sqlite_warning(version: u32) -> Option<String> {
    let fixed = matches!(version, 3_044_006..=3_044_999 | 3_050_007..=3_050_999 | 3_051_003..);
    (version != 0 && !fixed).then(|| {
            let (major, minor, patch) = (version / 1_000_000, version / 1000 % 1000, version % 1000);
            format!(
                "the application uses SQLite {major}.{minor}.{patch}, in which a checkpoint that races a WAL reset can corrupt the database: update it to 3.51.3 or newer"
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warns(sqlite_version: u32) -> bool {
        CaptureStatus { sqlite_version, ..CaptureStatus::default() }.sqlite_warning().is_some()
    }

    #[test]
    fn versions_with_the_reset_defect_are_warned_of() {
        assert!(warns(3_040_001) && warns(3_051_002) && warns(3_050_006) && warns(3_044_005));
        assert!(
            !warns(0) && !warns(3_044_006) && !warns(3_050_007) && !warns(3_051_003) && !warns(3_054_001)
        );
    }
}
