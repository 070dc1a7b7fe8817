//! What may have changed and is not yet looked at. Pure: the time is an argument.
//!
//! A mark says "look here", nothing more: looking twice is harmless, and what was marked in vain costs one look.

use super::super::TreePath;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A file that is still being written is looked at when nothing was written for so long ...
const SETTLE: Duration = Duration::from_millis(50);

/// ... and at the latest so long after the first write: a log file is never closed.
const SETTLE_MAX: Duration = Duration::from_millis(500);

/// A new name is looked at after this: a file that was just made is written and closed within it mostly, and what
/// vanishes here turns up elsewhere.
const NAME_SETTLE: Duration = Duration::from_millis(2);

/// More marks than this are one mark of everything: 100,000 new files are looked at one by one, beyond that
/// listing the tree is as quick, and memory has an end.
const MARKS_MAX: usize = 200_000;

/// Why to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A file that was open for writing was closed: it is whole.
    Closed,
    /// Bytes were written, more may follow.
    Written,
    /// Owner, mode, times or extended attributes, no content.
    Attributes,
    /// An entry was made, removed or renamed.
    Named,
}

/// A mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// When it was first set.
    pub first: Instant,
    /// When to look.
    pub due: Instant,
    /// Look at all below it too.
    pub below: bool,
    /// Content may have changed although no time of the file tells.
    pub content: bool,
    /// Content, owner, mode, times or extended attributes of what was there were changed by this name.
    pub changed: bool,
}

/// The set of marks.
#[derive(Debug, Default)]
pub struct Dirty {
    marks: BTreeMap<TreePath, Mark>,
    due: BTreeSet<(Instant, TreePath)>,
}

impl Dirty {
    /// Something happened to `path`.
    pub fn note(&mut self, path: TreePath, cause: Cause, now: Instant) {
        let due = match cause {
            Cause::Closed => now,
            Cause::Written => now + SETTLE,
            Cause::Attributes | Cause::Named => now + NAME_SETTLE,
        };
        let content = matches!(cause, Cause::Closed | Cause::Written);
        let changed = content || cause == Cause::Attributes;
        self.set(path, Mark { first: now, due, below: false, content, changed });
    }

    /// Look at `path` and all below it.
    pub fn note_below(&mut self, path: TreePath, now: Instant) {
        self.set(path, Mark { first: now, due: now, below: true, content: false, changed: false });
    }

    /// Look at `path` again, not before `due`; `first` is when it was first found to be different.
    pub fn retry(&mut self, path: TreePath, mark: Mark) {
        self.set(path, mark);
    }

    fn set(&mut self, path: TreePath, new: Mark) {
        if self.marks.len() >= MARKS_MAX && !self.marks.contains_key(&path) {
            let first = self.oldest().unwrap_or(new.first);
            self.marks.clear();
            self.due.clear();
            return self.put(
                TreePath::root(),
                Mark { first, due: new.due, below: true, content: false, changed: false },
            );
        }
        let merged = match self.marks.get(&path) {
            None => new,
            Some(old) => {
                // A write postpones, up to a limit; whoever is sure (closed, renamed) does not wait for a writer.
                let settling = new.due > new.first && old.due > old.first && new.content;
                let due = if settling {
                    new.due.min(old.first + SETTLE_MAX).max(old.due.min(new.due))
                } else {
                    new.due.min(old.due)
                };
                Mark {
                    first: old.first.min(new.first),
                    due,
                    below: old.below || new.below,
                    content: old.content || new.content,
                    changed: old.changed || new.changed,
                }
            }
        };
        self.put(path, merged);
    }

    fn put(&mut self, path: TreePath, mark: Mark) {
        if let Some(old) = self.marks.insert(path.clone(), mark) {
            self.due.remove(&(old.due, path.clone()));
        }
        self.due.insert((mark.due, path));
    }

    /// The mark of `path`.
    pub fn get(&self, path: &TreePath) -> Option<&Mark> {
        self.marks.get(path)
    }

    /// An entry was renamed: its mark and those below it go along, and stay where they are too.
    pub fn renamed(&mut self, from: &TreePath, to: &TreePath) {
        let range = self
            .marks
            .range(from.clone()..)
            .take_while(|(path, _)| path.as_bytes().starts_with(from.as_bytes()));
        let moved: Vec<_> = range.filter_map(|(path, mark)| Some((path.moved(from, to)?, *mark))).collect();
        for (path, mark) in moved {
            self.set(path, mark);
        }
        if let Some(old) = self.marks.get_mut(from) {
            // It was changed by this name, and is not lost with it.
            (old.content, old.changed) = (false, false);
        }
    }

    /// Takes what is due, oldest first, at most `limit` marks.
    pub fn take_due(&mut self, now: Instant, limit: usize) -> Vec<(TreePath, Mark)> {
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some((due, _)) = self.due.first()
            && *due <= now
        {
            let (_, path) = self.due.pop_first().expect("it was just looked at");
            let mark = self.marks.remove(&path).expect("both hold the same paths");
            taken.push((path, mark));
        }
        taken
    }

    /// Everything is due now: somebody waits for it.
    pub fn hurry(&mut self, now: Instant) {
        for (path, mark) in &mut self.marks {
            if mark.due > now {
                self.due.remove(&(mark.due, path.clone()));
                mark.due = now;
                self.due.insert((now, path.clone()));
            }
        }
    }

    /// When something is due next.
    pub fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// When the oldest mark was set.
    pub fn oldest(&self) -> Option<Instant> {
        self.marks.values().map(|mark| mark.first).min()
    }

    /// How many marks there are.
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// True: nothing is marked.
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text.as_bytes()).unwrap()
    }

    fn taken(dirty: &mut Dirty, now: Instant) -> Vec<String> {
        dirty.take_due(now, 100).into_iter().map(|(path, _)| path.to_string()).collect()
    }

    #[test]
    fn a_closed_file_is_due_at_once_and_a_written_one_when_it_rests() {
        let start = Instant::now();
        let mut dirty = Dirty::default();
        dirty.note(path("log"), Cause::Written, start);
        dirty.note(path("new"), Cause::Closed, start);
        assert_eq!(taken(&mut dirty, start), ["new"]);
        dirty.note(path("log"), Cause::Written, start + SETTLE / 2);
        assert!(taken(&mut dirty, start + SETTLE).is_empty(), "it was written again");
        assert_eq!(taken(&mut dirty, start + SETTLE * 2), ["log"]);
        assert!(dirty.is_empty() && dirty.next_due().is_none());
    }

    #[test]
    fn a_file_that_is_always_written_is_due_at_its_greatest_age() {
        let start = Instant::now();
        let mut dirty = Dirty::default();
        let mut now = start;
        while taken(&mut dirty, now).is_empty() {
            dirty.note(path("log"), Cause::Written, now);
            now += Duration::from_millis(10);
            assert!(now < start + SETTLE_MAX * 2, "it never gets due");
        }
        assert!(now >= start + SETTLE_MAX);
    }

    #[test]
    fn closing_ends_the_wait_and_the_first_mark_keeps_its_age() {
        let start = Instant::now();
        let mut dirty = Dirty::default();
        dirty.note(path("a"), Cause::Written, start);
        dirty.note(path("a"), Cause::Closed, start + SETTLE / 10);
        let due = dirty.take_due(start + SETTLE / 10, 1);
        assert_eq!(due.len(), 1);
        assert!(due[0].1.first == start && due[0].1.content && !due[0].1.below);
    }

    #[test]
    fn marks_below_a_renamed_directory_go_along() {
        let now = Instant::now();
        let mut dirty = Dirty::default();
        for text in ["a/x", "a/y/z", "ab"] {
            dirty.note(path(text), Cause::Closed, now);
        }
        dirty.renamed(&path("a"), &path("b"));
        assert_eq!(taken(&mut dirty, now), ["a/x", "a/y/z", "ab", "b/x", "b/y/z"]);
    }

    #[test]
    fn what_was_changed_by_a_name_goes_along_with_the_file() {
        let now = Instant::now();
        let mut dirty = Dirty::default();
        dirty.note(path("a"), Cause::Closed, now);
        dirty.note(path("b"), Cause::Named, now);
        dirty.renamed(&path("a"), &path("b"));
        let told = |at: &str| dirty.get(&path(at)).map(|mark| (mark.content, mark.changed));
        assert_eq!((told("a"), told("b")), (Some((false, false)), Some((true, true))));
    }

    #[test]
    fn too_many_marks_become_one_of_everything() {
        let now = Instant::now();
        let mut dirty = Dirty::default();
        for i in 0..=MARKS_MAX {
            dirty.note(path(&i.to_string()), Cause::Closed, now);
        }
        let due = dirty.take_due(now, 10);
        assert!(due.len() == 1 && due[0].0.is_root() && due[0].1.below);
    }
}
