//! What belongs to a tree: everything below its root but Lockstep's own directory, the pair's databases and what the
//! operator excluded. Pure; both nodes have the same rules, so that they watch, ship and compare the same entries.

use super::{HIDDEN_DIR, TreePath};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What SQLite keeps beside a database, by the ends of their names.
const DATABASE_SUFFIXES: [&[u8]; 4] = [b"", b"-wal", b"-shm", b"-journal"];

/// Decides what belongs to a tree.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    excluded: GlobSet,
    databases: Vec<TreePath>,
}

/// Why a pattern cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("\"{pattern}\" is no pattern: {reason}")]
pub struct PatternError {
    /// As written.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The patterns that one line of the configuration stands for, as in rsync and git: without a slash it names an entry
/// in any directory, with one it is a path below the root.
fn patterns_of(written: &str) -> String {
    let plain = written.trim_end_matches('/');
    match plain.strip_prefix('/') {
        Some(anchored) => anchored.to_owned(),
        None if plain.contains('/') => plain.to_owned(),
        None => format!("**/{plain}"),
    }
}

impl Rules {
    /// For the tree at `root`, which holds some of `databases` perhaps.
    ///
    /// # Errors
    /// A pattern is none.
    pub fn new(root: &Path, exclude: &[String], databases: &[PathBuf]) -> Result<Self, PatternError> {
        let mut set = GlobSetBuilder::new();
        let refused = |pattern: &String, error: globset::Error| PatternError {
            pattern: pattern.clone(),
            reason: error.kind().to_string(),
        };
        for pattern in exclude {
            let glob = GlobBuilder::new(&patterns_of(pattern)).literal_separator(true).build();
            set.add(glob.map_err(|error| refused(pattern, error))?);
        }
        let excluded = set.build().map_err(|error| PatternError {
            pattern: exclude.join(", "),
            reason: error.kind().to_string(),
        })?;
        let mut left_out = Vec::new();
        for database in databases {
            let Ok(below) = database.strip_prefix(root) else { continue };
            for suffix in DATABASE_SUFFIXES {
                let path = [below.as_os_str().as_bytes(), suffix].concat();
                left_out.extend(TreePath::parse_below(&path));
            }
        }
        Ok(Self { excluded, databases: left_out })
    }

    /// Does the entry at `path`, whose directory does, belong to the tree?
    pub fn includes(&self, path: &TreePath) -> bool {
        path.is_root()
            || (path.as_bytes() != HIDDEN_DIR
                && !self.databases.contains(path)
                && !self.excluded.is_match(Path::new(OsStr::from_bytes(path.as_bytes()))))
    }

    /// Databases in the tree, with what SQLite keeps beside them.
    pub fn databases(&self) -> &[TreePath] {
        &self.databases
    }

    /// Does it belong to the tree, and every directory above it?
    pub fn includes_all(&self, path: &TreePath) -> bool {
        self.includes(path) && path.parent().is_none_or(|parent| self.includes_all(&parent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_pattern_without_a_slash_counts_in_every_directory_and_one_with_a_slash_from_the_root() {
        let exclude = ["*.tmp", "cache/", "/a/*.log"].map(str::to_owned);
        let rules = Rules::new(Path::new("/srv"), &exclude, &[]).unwrap();
        for (text, belongs) in [
            ("x.tmp", false),
            ("a/b/x.tmp", false),
            ("x.tmp.not", true),
            ("cache", false),
            ("a/cache/x", false),
            ("a/x.log", false),
            ("b/x.log", true),
            ("a/b/x.log", true),
            ("", true),
        ] {
            assert_eq!(rules.includes_all(&path(text)), belongs, "{text}");
        }
        assert!(rules.includes(&path("cache/x")), "asked of a directory's children only when it belongs");
        assert!(Rules::new(Path::new("/srv"), &["a[".into()], &[]).is_err());
    }

    #[test]
    fn databases_and_the_hidden_directory_do_not_belong_to_the_tree() {
        let rules =
            Rules::new(Path::new("/srv/app"), &[], &["/srv/app/db/main.db".into(), "/etc/x.db".into()]);
        let rules = rules.unwrap();
        for name in ["db/main.db", "db/main.db-wal", "db/main.db-shm", "db/main.db-journal"] {
            assert!(!rules.includes(&path(name)), "{name}");
        }
        assert!(rules.includes(&path("db/main.db-old")) && rules.includes(&path("x.db")));
        assert!(rules.includes(&path("a/.l")));
    }
}
