//! The rules for what a pair protects: trees of files.

use super::{
    Database, Pair, Role, Tree, TreeOrder,
    check::Faults,
    check_workload::absolute,
    raw::{RawPair, RawTree},
};
use lockstep_engine::files::HIDDEN_DIR;
use lockstep_engine::files::{rules::Rules, ship::DELETE_MAX_PERCENT};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Both, with the key that names a node's paths.
const ROLES: [(Role, &str); 2] = [(Role::Primary, "primary"), (Role::Secondary, "secondary")];

/// Checks `[[pair.tree]]`.
pub(super) fn trees(raw: &RawPair, databases: &[Database], faults: &mut Faults) -> Vec<Tree> {
    let all: Vec<Tree> = raw.tree.iter().filter_map(|tree| self::tree(tree, raw, faults)).collect();
    let key = format!("pair \"{}\" tree", raw.id);
    faults.unique(&format!("{key} name"), all.iter().map(|tree| (&tree.name, format!("\"{}\"", tree.name))));
    let trees: Vec<&Tree> = all.iter().collect();
    overlaps(&trees, &format!("pair \"{}\" tree", raw.id), faults);
    for tree in &all {
        for database in databases {
            beside(tree, database, &format!("{key} \"{}\"", tree.name), faults);
        }
    }
    all
}

fn tree(raw: &RawTree, pair: &RawPair, faults: &mut Faults) -> Option<Tree> {
    let key = format!("pair \"{}\" tree \"{}\"", pair.id, raw.name);
    let before = faults.count();
    let name = faults.name(format!("{key} name"), &raw.name);
    let secondary = raw.secondary.as_ref().unwrap_or(&raw.primary);
    root(&raw.primary, &format!("{key} primary"), faults);
    if raw.secondary.is_some() {
        root(secondary, &format!("{key} secondary"), faults);
    }
    if let Err(error) = Rules::new(&raw.primary, &raw.exclude, &[]) {
        let remedy = "for example \"*.tmp\", \"cache\" or \"/a/b/*.log\"";
        faults.add(format!("{key} exclude"), error.to_string(), remedy);
    }
    let delete_max_percent = raw.delete_max_percent.unwrap_or(DELETE_MAX_PERCENT);
    if !(1..=100).contains(&delete_max_percent) {
        let problem = format!("expected 1 to 100 percent, found {delete_max_percent}");
        faults.add(
            format!("{key} delete_max_percent"),
            problem,
            format!("{DELETE_MAX_PERCENT} is the default"),
        );
    }
    if raw.order == TreeOrder::WithDatabase && pair.strict {
        faults.add(
            format!("{key} order"),
            "\"with-database\" cannot be had together with strict = true: strict commits travel before they are visible, ahead of nothing",
            "set strict = false, or order = \"independent\"",
        );
    }
    if faults.count() > before {
        return None;
    }
    Some(Tree {
        name: name?,
        primary: raw.primary.clone(),
        secondary: secondary.clone(),
        exclude: raw.exclude.clone(),
        order: raw.order,
        delete_max_percent,
        bandwidth_max_mbit_s: raw.bandwidth_max_mbit_s.filter(|cap| *cap > 0),
    })
}

fn root(path: &Path, key: &str, faults: &mut Faults) {
    if absolute(path, key, faults) && path.components().any(|part| part.as_os_str().as_bytes() == HIDDEN_DIR)
    {
        let problem = format!("\"{}\" lies in Lockstep's own directory of another tree", path.display());
        faults.add(key, problem, "name a directory of the application");
    }
}

/// No file belongs to two trees.
fn overlaps(trees: &[&Tree], key: &str, faults: &mut Faults) {
    for (at, one) in trees.iter().enumerate() {
        for other in &trees[..at] {
            for (role, word) in ROLES {
                let (a, b) = (one.path(role), other.path(role));
                if a.starts_with(b) || b.starts_with(a) {
                    faults.add(
                        format!("{key} {word}"),
                        format!(
                            "the trees \"{}\" ({}) and \"{}\" ({}) overlap",
                            other.name,
                            b.display(),
                            one.name,
                            a.display()
                        ),
                        "give each a directory of its own",
                    );
                }
            }
        }
    }
}

/// A database may lie in a tree, but no tree in a database, and in the same place on both nodes.
fn beside(tree: &Tree, database: &Database, key: &str, faults: &mut Faults) {
    for (role, word) in ROLES {
        if tree.path(role).starts_with(database.path(role)) {
            let problem =
                format!("{} is the file of database \"{}\"", tree.path(role).display(), database.name);
            faults.add(format!("{key} {word}"), problem, "name a directory");
            return;
        }
    }
    let [primary, secondary] = ROLES.map(|(role, _)| database.path(role).strip_prefix(tree.path(role)).ok());
    if primary != secondary {
        faults.add(
            format!("{key} secondary"),
            format!(
                "database \"{}\" lies in it on one node and not, or elsewhere, on the other",
                database.name
            ),
            "give it the same place in the tree on both nodes",
        );
    }
}

/// Files that two pairs of this node share.
pub(super) fn across(pairs: &[Pair], faults: &mut Faults) {
    let before = faults.count();
    let trees: Vec<&Tree> = pairs.iter().flat_map(|pair| &pair.trees).collect();
    overlaps(&trees, "pair tree", faults);
    if faults.count() > before {
        return;
    }
    for pair in pairs {
        for other in pairs.iter().filter(|other| other.id != pair.id) {
            for (tree, database) in
                pair.trees.iter().flat_map(|t| other.databases.iter().map(move |d| (t, d)))
            {
                let within = ROLES.iter().any(|(role, _)| database.path(*role).starts_with(tree.path(*role)));
                if within {
                    faults.add(
                        format!("pair \"{}\" tree \"{}\"", pair.id, tree.name),
                        format!("database \"{}\" of pair \"{}\" lies in it", database.name, other.id),
                        "keep what belongs to one pair out of the trees of another",
                    );
                }
            }
        }
    }
}
