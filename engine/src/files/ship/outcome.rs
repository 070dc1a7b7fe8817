//! What is known of the standby once it has answered a batch of which some operations failed. Pure.
//!
//! Operations build on each other: a link to a file whose new content failed is a link to the old one, and succeeds.
//! So what each brought is judged in the order in which it was sent, also in the batches that were under way when the
//! failure became known. What cannot be sure is a doubt: it is in no index, and is sent anew.

use crate::files::TreePath;
use crate::files::index::{Change, Doubts, NO_MODE, NodeId, Seen};
use lockstep_wire::{TreeFailure, TreeKind, TreeOpKind, TreeReason};
use std::collections::HashMap;

/// Why something is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// This operation was sent.
    Sent(TreeOpKind),
    /// It was only found.
    Found,
    /// It was to be sent and could not be read; what the standby has there is not known any more.
    Lost,
}

/// What one operation brings, to be remembered when its batch is answered.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) path: TreePath,
    pub(super) from: Option<TreePath>,
    pub(super) changes: Vec<Change>,
    pub(super) why: Why,
}

/// Failures of one batch, by path and operation.
#[derive(Debug, Default)]
pub(super) struct Failures(HashMap<(TreePath, TreeOpKind), TreeFailure>);

/// Both ways to send a file fail as one.
fn normal(kind: TreeOpKind) -> TreeOpKind {
    if kind == TreeOpKind::Begin { TreeOpKind::Put } else { kind }
}

impl Failures {
    pub(super) fn add(&mut self, failure: TreeFailure) {
        if let Ok(path) = TreePath::parse(&failure.path) {
            self.0.insert((path, normal(failure.op())), failure);
        }
    }

    /// Did an operation of this path fail?
    pub(super) fn are_of(&self, path: &TreePath) -> bool {
        self.0.keys().any(|(failed, _)| failed == path)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&TreePath, &TreeFailure)> {
        self.0.iter().map(|((path, _), failure)| (path, failure))
    }

    fn of(&self, done: &Done) -> Option<&TreeFailure> {
        match done.why {
            Why::Sent(kind) if !self.is_empty() => self.0.get(&(done.path.clone(), normal(kind))),
            _ => None,
        }
    }
}

/// What came of an operation.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// What is known by it.
    pub(super) changes: Vec<Change>,
    /// The standby has it as it was sent.
    pub(super) certain: bool,
    /// A directory that is what it was, with metadata that nobody knows.
    pub(super) meta: Option<NodeId>,
}

/// Judges an operation, and brings the doubts to where they are after it.
pub(super) fn judge(doubts: &mut Doubts, done: Done, failures: &Failures) -> Outcome {
    if let Some(failure) = failures.of(&done) {
        return failed(doubts, &done, failure);
    }
    if !follow(doubts, &done) {
        return Outcome::default();
    }
    Outcome { certain: matches!(done.why, Why::Sent(_)), changes: done.changes, meta: None }
}

fn failed(doubts: &mut Doubts, done: &Done, failure: &TreeFailure) -> Outcome {
    let misses = failure.reason() == TreeReason::Missing;
    if done.why == Why::Sent(TreeOpKind::Meta)
        && !misses
        && !doubts.cover(&done.path)
        && let [Change::Set { id, parent, name, seen }] = &done.changes[..]
        && seen.kind == TreeKind::Directory
    {
        let seen = Box::new(Seen { mode: NO_MODE, ..(**seen).clone() });
        let set = Change::Set { id: *id, parent: *parent, name: name.clone(), seen };
        return Outcome { changes: vec![set], certain: false, meta: Some(*id) };
    }
    doubts.add(&done.path);
    if let Some(from) = &done.from {
        doubts.add(from);
    }
    if misses
        && is_made(done)
        && done.from.is_none()
        && let Some(parent) = done.path.parent()
    {
        // Somebody removed its directory on the standby.
        doubts.add(&parent);
    }
    Outcome::default()
}

/// It was sent as something new, whatever the standby had there.
fn is_made(done: &Done) -> bool {
    done.changes.iter().any(|change| matches!(change, Change::Set { .. }))
}

/// Brings the doubts to where they are after an operation that did not fail. Is what it brought certain?
pub(super) fn follow(doubts: &mut Doubts, done: &Done) -> bool {
    use TreeOpKind::{Directory, Exchange, Link, Meta, Remove, Rename};
    let path = &done.path;
    let from = done.from.as_ref();
    let from_is_doubted = from.is_some_and(|from| doubts.cover(from));
    let kind = match done.why {
        Why::Sent(kind) => kind,
        Why::Found => return !doubts.cover(path),
        Why::Lost => {
            doubts.add(path);
            return false;
        }
    };
    let doubted = doubts.contains(path);
    let certain = !doubts.cover_above(path)
        && match kind {
            // They change what is there.
            Directory | Meta => !doubted,
            Exchange => !doubted && !from_is_doubted,
            Rename => !from_is_doubted,
            Remove => true,
            Link => !from_is_doubted && (!doubted || is_made(done)),
            // A file, symlink or FIFO: what was there is replaced.
            _ => !doubted || is_made(done),
        };
    match (kind, from) {
        (Meta, _) => {}
        (Rename, Some(from)) if certain => doubts.rename(from, path),
        (Exchange, Some(from)) if certain => doubts.exchange(from, path),
        (Rename | Exchange, Some(from)) => {
            doubts.add(from);
            doubts.add(path);
        }
        _ if certain => doubts.forget(path),
        _ => doubts.add(path),
    }
    certain
}

#[cfg(test)]
mod tests {
    use super::super::reconcile::seen_of;
    use super::*;
    use crate::files::index::ROOT;
    use TreeOpKind::{Directory, Exchange, Link, Meta, Put, Remove, Rename};

    fn path(text: &str) -> TreePath {
        TreePath::parse(text.as_bytes()).unwrap()
    }

    fn set(kind: TreeKind) -> Change {
        let seen = seen_of(kind);
        Change::Set { id: NodeId(9), parent: ROOT, name: (*b"x").into(), seen: Box::new(seen) }
    }

    /// `made`: sent as something new.
    fn sent(kind: TreeOpKind, at: &str, from: Option<&str>, made: bool) -> Done {
        let changes = if made { vec![set(TreeKind::File)] } else { Vec::new() };
        Done { path: path(at), from: from.map(path), changes, why: Why::Sent(kind) }
    }

    fn failures(reason: TreeReason, of: &[(&str, TreeOpKind)]) -> Failures {
        let mut failures = Failures::default();
        for (at, op) in of {
            let path = path(at).as_bytes().to_vec().into();
            let (op, reason, detail) = ((*op).into(), reason.into(), String::new());
            failures.add(TreeFailure { path, op, reason, detail });
        }
        failures
    }

    /// Judges them in order; answers which are certain, and what is doubted at the end.
    fn judged<const N: usize>(dones: [Done; N], failures: &Failures) -> (Vec<bool>, Vec<String>) {
        let mut doubts = Doubts::default();
        let certain = dones.into_iter().map(|done| judge(&mut doubts, done, failures).certain).collect();
        (certain, doubts.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_builds_on_a_failed_file_is_no_more_certain_than_it() {
        let dones = [
            sent(Put, "a", None, false),
            sent(Link, "b", Some("a"), false),
            sent(Rename, "c", Some("b"), false),
            sent(Link, "d", Some("c"), true),
            sent(Put, "e", None, false),
        ];
        let (certain, doubts) = judged(dones, &failures(TreeReason::NoSpace, &[("a", TreeOpKind::Begin)]));
        assert_eq!(certain, [false, false, false, false, true]);
        assert_eq!(doubts, ["a", "b", "c", "d"]);
    }

    #[test]
    fn what_is_made_anew_settles_a_doubt_and_what_changes_something_does_not() {
        let failures = failures(TreeReason::Differs, &[("p", Rename)]);
        for (settling, by) in [
            (true, sent(Put, "p", None, true)),
            (false, sent(Put, "p", None, false)),
            (true, sent(Remove, "p", None, false)),
            (false, sent(Directory, "p", None, true)),
            (false, sent(Meta, "p", None, false)),
            (true, sent(Link, "p", Some("r"), true)),
            (true, sent(Rename, "p", Some("r"), false)),
            (false, sent(Exchange, "p", Some("r"), false)),
        ] {
            let mut doubts = Doubts::default();
            judge(&mut doubts, sent(Rename, "p", Some("q"), false), &failures);
            assert!(doubts.contains(&path("p")) && doubts.contains(&path("q")));
            let what = format!("{by:?}");
            let outcome = judge(&mut doubts, by, &Failures::default());
            assert_eq!((outcome.certain, !doubts.contains(&path("p"))), (settling, settling), "{what}");
        }
    }

    #[test]
    fn a_directory_that_failed_takes_all_that_was_put_into_it_along() {
        let dones = [
            sent(Rename, "new", Some("old"), false),
            sent(Put, "new/a", None, true),
            sent(Remove, "new/b", None, false),
            sent(Rename, "out", Some("new/c"), false),
        ];
        let (certain, doubts) = judged(dones, &failures(TreeReason::Missing, &[("new", Rename)]));
        assert_eq!((certain, doubts), (vec![false; 4], ["new", "old", "out"].map(String::from).to_vec()));
        let gone = [sent(Put, "d/a", None, true)];
        let (_, doubts) = judged(gone, &failures(TreeReason::Missing, &[("d/a", Put)]));
        assert_eq!(doubts, ["d"], "its directory is not there");
    }

    #[test]
    fn a_directory_whose_metadata_could_not_be_set_stays_known_with_what_is_in_it() {
        let done = || Done { changes: vec![set(TreeKind::Directory)], ..sent(Meta, "d", None, false) };
        let mut doubts = Doubts::default();
        let outcome = judge(&mut doubts, done(), &failures(TreeReason::Denied, &[("d", Meta)]));
        assert_eq!((outcome.meta, doubts.iter().count()), (Some(NodeId(9)), 0));
        let [Change::Set { seen, .. }] = &outcome.changes[..] else { panic!("{outcome:?}") };
        assert_eq!(seen.mode, NO_MODE);
        judge(&mut doubts, done(), &failures(TreeReason::Missing, &[("d", Meta)]));
        assert!(doubts.contains(&path("d")), "it is not even there");
    }

    #[test]
    fn what_was_found_or_lost_below_a_doubt_adds_nothing() {
        let mut doubts: Doubts = [path("d")].into_iter().collect();
        let found = Done { why: Why::Found, ..sent(Put, "d/x", None, true) };
        assert!(judge(&mut doubts, found, &Failures::default()).changes.is_empty());
        let lost = Done { why: Why::Lost, ..sent(Put, "y", None, true) };
        assert!(judge(&mut doubts, lost, &Failures::default()).changes.is_empty());
        assert!(doubts.contains(&path("y")));
    }
}
