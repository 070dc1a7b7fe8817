//! Paths of which it is not known what the standby has there. Pure.
//!
//! A doubted path is in no [`Known`](super::Known) and in no store: whatever comes there is made anew, and what the
//! standby may still have there is replaced or removed. A doubt covers all that lies below it.

use crate::files::TreePath;
use std::collections::BTreeSet;

/// The set; none of its paths lies below another one. The root is never doubted: it is always there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Doubts(BTreeSet<TreePath>);

impl Doubts {
    /// Is exactly this path doubted?
    pub fn contains(&self, path: &TreePath) -> bool {
        self.0.contains(path)
    }

    /// Is this path doubted, or a directory above it?
    pub fn cover(&self, path: &TreePath) -> bool {
        self.contains(path) || self.cover_above(path)
    }

    /// Is a directory above this path doubted?
    pub fn cover_above(&self, path: &TreePath) -> bool {
        if self.0.is_empty() {
            return false;
        }
        std::iter::successors(path.parent(), TreePath::parent).any(|above| self.contains(&above))
    }

    /// Nobody knows what is at `path` and below it.
    pub fn add(&mut self, path: &TreePath) {
        if !path.is_root() && !self.cover(path) {
            self.forget(path);
            self.0.insert(path.clone());
        }
    }

    /// `path` is known, and below it there is nothing that is not.
    pub fn forget(&mut self, path: &TreePath) {
        self.take(path);
    }

    /// What was at `from` with all below it is at `to` now; what was there is gone.
    pub fn rename(&mut self, from: &TreePath, to: &TreePath) {
        self.forget(to);
        let moved = self.take(from);
        self.0.extend(moved.iter().filter_map(|path| path.moved(from, to)));
    }

    /// Two have changed places.
    pub fn exchange(&mut self, a: &TreePath, b: &TreePath) {
        let (of_a, of_b) = (self.take(a), self.take(b));
        self.0.extend(of_a.iter().filter_map(|path| path.moved(a, b)));
        self.0.extend(of_b.iter().filter_map(|path| path.moved(b, a)));
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &TreePath> {
        self.0.iter()
    }

    /// Takes out `path` and all below it.
    fn take(&mut self, path: &TreePath) -> Vec<TreePath> {
        let below = self.0.range(path.clone()..);
        let below = below.take_while(|other| other.as_bytes().starts_with(path.as_bytes()));
        let taken: Vec<TreePath> = below.filter(|other| other.is_in(path)).cloned().collect();
        for path in &taken {
            self.0.remove(path);
        }
        taken
    }
}

impl FromIterator<TreePath> for Doubts {
    fn from_iter<T: IntoIterator<Item = TreePath>>(paths: T) -> Self {
        let mut doubts = Self::default();
        for path in paths {
            doubts.add(&path);
        }
        doubts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text.as_bytes()).unwrap()
    }

    fn doubts(texts: &[&str]) -> Doubts {
        texts.iter().map(|text| path(text)).collect()
    }

    #[test]
    fn a_doubt_covers_what_lies_below_and_nothing_beside_it() {
        let doubts = doubts(&["a/b", "a/b/c", "a-b"]);
        assert_eq!(doubts.iter().count(), 2, "what is covered needs no doubt of its own");
        assert!(doubts.cover(&path("a/b/c/d")) && doubts.cover_above(&path("a/b/c")));
        assert!(
            !doubts.cover(&path("a")) && !doubts.cover_above(&path("a/b")) && !doubts.cover(&path("a/bb"))
        );
        assert!(!Doubts::from_iter([TreePath::root()]).cover(&path("a")), "the root is known");
    }

    #[test]
    fn doubts_follow_renames_and_end_with_what_they_are_of() {
        let mut moved = doubts(&["a/x", "a/y/z", "b/old", "ab"]);
        moved.rename(&path("a"), &path("b"));
        assert_eq!(moved, doubts(&["ab", "b/x", "b/y/z"]));
        moved.exchange(&path("b"), &path("ab"));
        assert_eq!(moved, doubts(&["ab/x", "ab/y/z", "b"]));
        moved.forget(&path("ab/y"));
        assert_eq!(moved, doubts(&["ab/x", "b"]));
    }
}
