//! What of a configuration only this machine can say: are the trees there, and clear of Lockstep's own files?

use super::{Config, ConfigError, ConfigErrors, Paths, Tree};
use std::path::{Path, PathBuf};

/// The directory behind symlinks; as written while it does not exist.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn overlap(a: &Path, b: &Path) -> bool {
    let (a, b) = (real(a), real(b));
    a.starts_with(&b) || b.starts_with(&a)
}

impl Config {
    /// Looks at the trees of this node. Answers what is probably not meant, one line each: a root may be mounted, or
    /// made, later, and an agent waits for it with an alarm.
    ///
    /// # Errors
    /// A tree that holds, or lies in, Lockstep's own files, or shares files with another tree.
    pub fn check_places(&self, paths: &Paths) -> Result<Vec<String>, ConfigErrors> {
        let (mut faults, mut warnings) = (Vec::new(), Vec::new());
        let role = self.node.role;
        let all: Vec<(String, &Tree)> = self
            .pairs
            .iter()
            .flat_map(|pair| {
                pair.trees
                    .iter()
                    .map(move |tree| (format!("pair \"{}\" tree \"{}\" {role}", pair.id, tree.name), tree))
            })
            .collect();
        for (at, (key, tree)) in all.iter().enumerate() {
            let root = tree.path(role);
            let mut fault = |problem: String, remedy: &str| {
                let (file, key, remedy) = (paths.config.clone(), key.clone(), remedy.to_owned());
                faults.push(ConfigError { file, key, problem, remedy });
            };
            for (own, what) in [(&paths.state_dir, "state"), (&paths.runtime_dir, "runtime")] {
                if overlap(root, own) {
                    let problem = format!(
                        "{} and Lockstep's {what} directory {} overlap",
                        root.display(),
                        own.display()
                    );
                    fault(problem, "replicate a directory of the application's alone");
                }
            }
            for (_, other) in all[..at].iter().filter(|(_, other)| overlap(root, other.path(role))) {
                let problem =
                    format!("{} and {} are or share a directory", root.display(), other.path(role).display());
                fault(problem, "give each tree a directory of its own");
            }
            if !root.is_dir() {
                let line = format!(
                    "{}: {key}: there is no directory {}: create or mount it",
                    paths.config.display(),
                    root.display()
                );
                warnings.push(line);
            }
        }
        if faults.is_empty() { Ok(warnings) } else { Err(ConfigErrors(faults)) }
    }
}
