//! What every source must do, told as one story per test, for each source that this machine allows.

use super::*;
use std::collections::BTreeSet;
use std::sync::Condvar;
use std::time::Duration;

/// Nothing here takes this long unless it never comes.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Heard {
    state: Mutex<(Dirty, u64, bool)>,
    news: Condvar,
}

impl Listener for Heard {
    fn mark(&self, change: &mut dyn FnMut(&mut Dirty)) {
        change(&mut lock(&self.state).0);
        self.news.notify_all();
    }

    fn cookie(&self, number: u64) {
        lock(&self.state).1 = number;
        self.news.notify_all();
    }

    fn root_lost(&self) {
        lock(&self.state).2 = true;
        self.news.notify_all();
    }
}

struct Story {
    _directory: tempfile::TempDir,
    root: PathBuf,
    heard: Arc<Heard>,
    watch: Watch,
}

/// Sources of this machine.
fn sources() -> Vec<Source> {
    [Source::Inotify, Source::Fanotify]
        .into_iter()
        .filter(|source| {
            let directory = tempfile::tempdir().unwrap();
            Watch::start(directory.path(), Arc::default(), Arc::new(Heard::default()), Some(*source)).is_ok()
        })
        .collect()
}

impl Story {
    fn begin(source: Source, prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        std::fs::create_dir(&root).unwrap();
        prepare(&root);
        let heard = Arc::new(Heard::default());
        let rules = Rules::new(&root, &["*.tmp".into(), "cache".into()], &[root.join("app.db")]).unwrap();
        let watch = Watch::start(&root, Arc::new(rules), heard.clone(), Some(source)).unwrap();
        let story = Self { _directory: directory, root, heard, watch };
        assert!(story.marks().contains("."), "the beginning marks everything");
        story
    }

    /// What was marked up to now.
    fn marks(&self) -> BTreeSet<String> {
        self.barrier();
        let mut heard = lock(&self.heard.state);
        let now = Instant::now() + LIMIT;
        let due = heard.0.take_due(now, usize::MAX);
        due.into_iter()
            .map(
                |(path, mark)| {
                    if mark.below { format!("{path}/**").replace("./**", ".") } else { path.to_string() }
                },
            )
            .collect()
    }

    fn barrier(&self) {
        let number = self.watch.send_cookie().unwrap();
        let heard = lock(&self.heard.state);
        let (heard, wait) =
            self.heard.news.wait_timeout_while(heard, LIMIT, |heard| heard.1 < number).unwrap();
        drop(heard);
        assert!(!wait.timed_out(), "the cookie never came");
    }
}

fn has(marks: &BTreeSet<String>, path: &str) -> bool {
    let mut covering = vec![path.to_owned(), ".".to_owned(), format!("{path}/**")];
    covering.extend(path.match_indices('/').map(|(at, _)| format!("{}/**", &path[..at])));
    covering.iter().any(|covering| marks.contains(covering))
}

#[test]
fn writes_removals_renames_and_attributes_are_marked_and_what_is_excluded_is_not() {
    for source in sources() {
        let story = Story::begin(source, |root| std::fs::create_dir(root.join("d")).unwrap());
        let root = &story.root;
        std::fs::write(root.join("d/a"), "1").unwrap();
        assert!(has(&story.marks(), "d/a"));
        std::fs::rename(root.join("d/a"), root.join("b")).unwrap();
        let marks = story.marks();
        assert!(has(&marks, "d/a") && has(&marks, "b"), "{source:?} {marks:?}");
        std::fs::hard_link(root.join("b"), root.join("d/c")).unwrap();
        std::os::unix::fs::symlink("b", root.join("s")).unwrap();
        let marks = story.marks();
        assert!(has(&marks, "d/c") && has(&marks, "s") && has(&marks, "d"), "{source:?} {marks:?}");
        std::fs::set_permissions(root.join("b"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        std::fs::set_permissions(root.join("d"), std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .unwrap();
        let marks = story.marks();
        assert!(has(&marks, "b") && has(&marks, "d"), "{source:?} {marks:?}");
        std::fs::remove_file(root.join("b")).unwrap();
        assert!(has(&story.marks(), "b"));
        std::fs::create_dir(root.join("cache")).unwrap();
        story.marks();
        for name in ["d/x.tmp", "cache/x", "app.db", "app.db-wal", ".lockstep/x"] {
            std::fs::write(root.join(name), "1").unwrap();
        }
        let marks = story.marks();
        let own = marks.iter().filter(|mark| !["d", "."].contains(&mark.as_str())).count();
        assert_eq!(own, 0, "{source:?} {marks:?}");
    }
}

#[test]
fn nothing_that_happens_in_new_or_renamed_directories_is_missed() {
    for source in sources() {
        let story = Story::begin(source, |root| std::fs::create_dir_all(root.join("a/b/c")).unwrap());
        let root = &story.root;
        for round in 0..50 {
            let new = root.join(format!("new{round}/x/y"));
            std::fs::create_dir_all(&new).unwrap();
            std::fs::write(new.join("f"), "1").unwrap();
            assert!(has(&story.marks(), &format!("new{round}/x/y/f")), "{source:?} {round}");
        }
        std::fs::rename(root.join("a/b"), root.join("moved")).unwrap();
        std::fs::write(root.join("moved/c/f"), "1").unwrap();
        let marks = story.marks();
        assert!(has(&marks, "a/b") && has(&marks, "moved"), "{source:?} {marks:?}");
        assert!(has(&marks, "moved/c/f"), "{source:?} {marks:?}");
        std::fs::write(root.join("moved/c/f"), "2").unwrap();
        assert!(has(&story.marks(), "moved/c/f"), "{source:?}");
        std::fs::create_dir(root.join("moved/c/e")).unwrap();
        std::fs::write(root.join("moved/c/e/g"), "2").unwrap();
        assert!(has(&story.marks(), "moved/c/e/g"), "{source:?}");
    }
}

#[test]
fn directories_that_change_places_are_told_under_their_new_names() {
    for source in sources() {
        let story = Story::begin(source, |root| {
            std::fs::create_dir_all(root.join("a/x")).unwrap();
            std::fs::create_dir_all(root.join("b/y")).unwrap();
        });
        let root = &story.root;
        let (cwd, flags) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
        rustix::fs::renameat_with(cwd, root.join("a"), cwd, root.join("b"), flags).unwrap();
        let marks = story.marks();
        assert!(has(&marks, "a") && has(&marks, "b"), "{source:?} {marks:?}");
        for file in ["a/y/f", "b/x/g"] {
            std::fs::write(root.join(file), "1").unwrap();
            assert!(has(&story.marks(), file), "{source:?} {file}");
        }
    }
}

#[test]
fn directories_that_come_from_outside_and_go_there_are_followed_and_let_go() {
    for source in sources() {
        let story = Story::begin(source, |_| ());
        let outside = story.root.parent().unwrap().join("outside");
        std::fs::create_dir_all(outside.join("d")).unwrap();
        std::fs::rename(&outside, story.root.join("inside")).unwrap();
        std::fs::write(story.root.join("inside/d/f"), "1").unwrap();
        assert!(has(&story.marks(), "inside/d/f"), "{source:?}");
        std::fs::rename(story.root.join("inside"), &outside).unwrap();
        assert!(has(&story.marks(), "inside"), "{source:?}");
        std::fs::write(outside.join("d/g"), "1").unwrap();
        std::thread::sleep(Duration::from_millis(30));
        std::fs::write(outside.join("d/g"), "2").unwrap();
        assert!(!has(&story.marks(), "inside/d/g"), "{source:?}: it left the tree");
    }
}

#[test]
fn a_root_that_is_moved_or_removed_is_told() {
    for source in sources() {
        for remove in [false, true] {
            let story = Story::begin(source, |_| ());
            if remove {
                std::fs::remove_dir_all(&story.root).unwrap();
            } else {
                std::fs::rename(&story.root, story.root.with_file_name("away")).unwrap();
            }
            let heard = lock(&story.heard.state);
            let (_heard, wait) = story.heard.news.wait_timeout_while(heard, LIMIT, |heard| !heard.2).unwrap();
            assert!(!wait.timed_out(), "{source:?}: nobody was told, removed: {remove}");
        }
    }
}

/// Events tell of names that belong to others by the time they are read.
#[test]
fn a_directory_whose_name_another_one_took_before_it_was_looked_at_is_watched() {
    for source in sources() {
        let story = Story::begin(source, |root| std::fs::create_dir_all(root.join("d/in")).unwrap());
        let root = &story.root;
        {
            // While this is held no event is told.
            let heard = lock(&story.heard.state);
            std::fs::write(root.join("first"), "").unwrap();
            std::fs::create_dir(root.join("p")).unwrap();
            std::fs::rename(root.join("p"), root.join("q")).unwrap();
            std::fs::create_dir(root.join("p")).unwrap();
            std::fs::create_dir(root.join("n")).unwrap();
            std::fs::rename(root.join("d"), root.join("n/d")).unwrap();
            std::fs::create_dir(root.join("d")).unwrap();
            std::fs::rename(root.join("n"), root.join("m")).unwrap();
            drop(heard);
        }
        story.marks();
        for directory in ["p", "q", "d", "m", "m/d", "m/d/in"] {
            std::fs::write(root.join(directory).join("f"), "").unwrap();
            let marks = story.marks();
            assert!(marks.contains(&format!("{directory}/f")), "{source:?} {directory} {marks:?}");
        }
    }
}
