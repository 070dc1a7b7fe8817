//! The path of an entry below a tree's root: bytes, relative, and checked once, here.
//!
//! A peer chooses these bytes. What passes can name nothing outside the root by itself; symlinks on the way are
//! refused by the kernel when the path is used (`RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`).

use lockstep_wire::MAX_TREE_PATH_BYTES;
use std::fmt;

/// Lockstep's own directory in the root of a tree: staged files and the cookie. It belongs to the node and not to
/// the tree.
pub const HIDDEN_DIR: &[u8] = b".lockstep";

/// The longest name of an entry in bytes, NAME_MAX of Linux.
pub const MAX_NAME_BYTES: usize = 255;

/// The most components of a path. Directories are walked with one open descriptor per level, and of those a process
/// has a thousand by default.
pub const MAX_DEPTH: usize = 256;

/// Why bytes are not a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It would begin at the root of the file system.
    #[error("the path is absolute")]
    Absolute,
    /// Nothing between two slashes, or at an end.
    #[error("the path has an empty component")]
    Empty,
    /// `.` or `..`.
    #[error("the path has a component \".\" or \"..\"")]
    Dots,
    /// A NUL or, in a single name, a slash.
    #[error("a name holds a NUL or a slash")]
    Byte,
    /// Longer than [`MAX_TREE_PATH_BYTES`].
    #[error("the path has {0} bytes, the limit is {MAX_TREE_PATH_BYTES}")]
    Long(usize),
    /// A component longer than [`MAX_NAME_BYTES`].
    #[error("a name has {0} bytes, the limit is {MAX_NAME_BYTES}")]
    Name(usize),
    /// More components than [`MAX_DEPTH`].
    #[error("the path is deeper than {MAX_DEPTH} directories")]
    Deep,
    /// The path lies in [`HIDDEN_DIR`].
    #[error("the path lies in Lockstep's own directory .lockstep")]
    Hidden,
}

/// A path below the root of a tree, or the root itself (empty). Sorts as its bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TreePath(Box<[u8]>);

/// Is this the name of an entry in a directory?
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &[u8]) -> Result<(), PathError> {
    match name {
        [] => Err(PathError::Empty),
        b"." | b".." => Err(PathError::Dots),
        _ if name.len() > MAX_NAME_BYTES => Err(PathError::Name(name.len())),
        _ if name.iter().any(|byte| matches!(byte, 0 | b'/')) => Err(PathError::Byte),
        _ => Ok(()),
    }
}

impl TreePath {
    /// The root of the tree.
    pub fn root() -> Self {
        Self::default()
    }

    /// A path from bytes; empty bytes are the root.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.is_empty() {
            return Ok(Self::root());
        }
        if bytes.len() > MAX_TREE_PATH_BYTES {
            return Err(PathError::Long(bytes.len()));
        }
        if bytes[0] == b'/' {
            return Err(PathError::Absolute);
        }
        for (depth, name) in bytes.split(|byte| *byte == b'/').enumerate() {
            check_name(name)?;
            if depth >= MAX_DEPTH {
                return Err(PathError::Deep);
            }
            if depth == 0 && name == HIDDEN_DIR {
                return Err(PathError::Hidden);
            }
        }
        Ok(Self(bytes.into()))
    }

    /// As [`Self::parse`], and not the root.
    ///
    /// # Errors
    /// What is wrong with the bytes; [`PathError::Empty`] for the root.
    pub fn parse_below(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.is_empty() { Err(PathError::Empty) } else { Self::parse(bytes) }
    }

    /// Its bytes, components separated by `/`; empty for the root.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Is it the root?
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// How many components it has; 0 for the root.
    pub fn depth(&self) -> usize {
        if self.is_root() { 0 } else { 1 + self.0.iter().filter(|byte| **byte == b'/').count() }
    }

    /// The directory that holds it; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        let (parent, _) = self.split()?;
        Some(Self(parent.into()))
    }

    /// Its last component; `None` for the root.
    pub fn name(&self) -> Option<&[u8]> {
        self.split().map(|(_, name)| name)
    }

    /// The path of the entry `name` in this directory.
    ///
    /// # Errors
    /// What is wrong with the name, or with a path of that length or depth.
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        check_name(name)?;
        if self.is_root() {
            return Self::parse(name);
        }
        let joined = [&self.0, &b"/"[..], name].concat();
        if joined.len() > MAX_TREE_PATH_BYTES {
            return Err(PathError::Long(joined.len()));
        }
        if self.depth() >= MAX_DEPTH {
            return Err(PathError::Deep);
        }
        Ok(Self(joined.into()))
    }

    /// Is it `directory`, or does it lie below it?
    pub fn is_in(&self, directory: &Self) -> bool {
        self.below(directory).is_some()
    }

    /// What follows `directory` in it, empty for the directory itself; `None` if it does not lie there.
    pub fn below(&self, directory: &Self) -> Option<&[u8]> {
        if directory.is_root() {
            return Some(&self.0);
        }
        match self.0.strip_prefix(directory.as_bytes())? {
            [] => Some(&[]),
            [b'/', rest @ ..] => Some(rest),
            _ => None,
        }
    }

    /// The same path after `from`, in which it lies, was renamed to `to`; `None` if it does not lie there, or if the
    /// new path would be too long or too deep.
    pub fn moved(&self, from: &Self, to: &Self) -> Option<Self> {
        let rest = self.below(from)?;
        let joined = match (to.is_root(), rest.is_empty()) {
            (_, true) => to.0.to_vec(),
            (true, false) => rest.to_vec(),
            (false, false) => [&to.0, &b"/"[..], rest].concat(),
        };
        Self::parse(&joined).ok()
    }

    fn split(&self) -> Option<(&[u8], &[u8])> {
        if self.is_root() {
            return None;
        }
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(at) => Some((&self.0[..at], &self.0[at + 1..])),
            None => Some((&[], &self.0)),
        }
    }
}

/// For people and logs: what is not printable ASCII is escaped, so that a name cannot write to a terminal.
impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() { f.write_str(".") } else { self.0.escape_ascii().fmt(f) }
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_that_lead_elsewhere_or_nowhere_are_refused() {
        let name = |length: usize| vec![b'a'; length];
        let deep = |depth: usize| vec![b"a".as_slice(); depth].join(&b'/');
        let refused: [(&[u8], PathError); 17] = [
            (b"/", PathError::Absolute),
            (b"/etc/passwd", PathError::Absolute),
            (b"a/", PathError::Empty),
            (b"a//b", PathError::Empty),
            (b".", PathError::Dots),
            (b"..", PathError::Dots),
            (b"a/../../b", PathError::Dots),
            (b"a/..", PathError::Dots),
            (b"a/./b", PathError::Dots),
            (b"a\0b", PathError::Byte),
            (b"a/b\0", PathError::Byte),
            (b".lockstep", PathError::Hidden),
            (b".lockstep/staging/x", PathError::Hidden),
            (&name(256), PathError::Name(256)),
            (&deep(257), PathError::Deep),
            (&[name(255), b"/".to_vec()].concat().repeat(16), PathError::Long(4096)),
            (&[b"ok/".to_vec(), name(300)].concat(), PathError::Name(300)),
        ];
        for (bytes, error) in refused {
            assert_eq!(TreePath::parse(bytes), Err(error), "{:?}", bytes.escape_ascii().to_string());
        }
        assert_eq!(TreePath::parse_below(b""), Err(PathError::Empty));
        for sound in
            [&b""[..], b"a", b"...", b"..a", b"a/.lockstep", b"caf\xe9", b"a b\n", &deep(256), &name(255)]
        {
            assert_eq!(TreePath::parse(sound).map(|path| path.as_bytes().to_vec()), Ok(sound.to_vec()));
        }
    }

    #[test]
    fn a_path_knows_its_directory_and_follows_its_rename() {
        let path = |text: &str| TreePath::parse(text.as_bytes()).unwrap();
        assert_eq!(path("a/b/c").parent(), Some(path("a/b")));
        assert_eq!(path("a").parent(), Some(TreePath::root()));
        assert_eq!(TreePath::root().parent(), None);
        assert_eq!(path("a/b/c").name(), Some(&b"c"[..]));
        assert!(
            path("a/b").is_in(&path("a"))
                && path("a").is_in(&path("a"))
                && path("a").is_in(&TreePath::root())
        );
        assert!(!path("ab").is_in(&path("a")) && !path("a").is_in(&path("a/b")));
        assert_eq!(path("a/b/c").moved(&path("a"), &path("x/y")), Some(path("x/y/b/c")));
        assert_eq!(path("a").moved(&path("a"), &path("x")), Some(path("x")));
        assert_eq!(path("ab").moved(&path("a"), &path("x")), None);
        assert_eq!(path("a\u{7}é").to_string(), "a\\x07\\xc3\\xa9");
    }

    proptest! {
        #[test]
        fn whatever_is_taken_stays_below_the_root(bytes in proptest::collection::vec(
            prop_oneof![Just(b'/'), Just(b'.'), Just(0), Just(b'a'), any::<u8>()], 0..40)) {
            if let Ok(path) = TreePath::parse(&bytes) {
                prop_assert_eq!(path.as_bytes(), &bytes[..]);
                let mut rebuilt = TreePath::root();
                for name in bytes.split(|byte| *byte == b'/').filter(|_| !bytes.is_empty()) {
                    prop_assert!(!name.is_empty() && name != b"." && name != b".." && !name.contains(&0));
                    rebuilt = rebuilt.join(name).unwrap();
                }
                prop_assert_eq!(&rebuilt, &path);
                prop_assert_eq!(path.depth(), if bytes.is_empty() { 0 } else { bytes.split(|b| *b == b'/').count() });
            }
        }
    }
}
