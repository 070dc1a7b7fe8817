//! The pages say what is so: their commands parse, their tests and links exist.

use super::Cli;
use clap::Parser;
use clap::error::ErrorKind;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the repository")
}

/// All files below `dir` with this ending, without what Cargo builds.
fn files(dir: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("the repository can be read") {
        let path = entry.expect("the repository can be read").path();
        let name = path.file_name().expect("entries have names").to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                files(&path, ending, found);
            }
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
}

/// README.md and everything below docs/.
fn pages() -> Vec<(PathBuf, String)> {
    let mut paths = vec![root().join("README.md")];
    files(&root().join("docs"), ".md", &mut paths);
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("pages are text");
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

/// The commands of a page that call this program: from fenced and indented blocks and from inline code.
fn commands(page: &str) -> Vec<&str> {
    let block = page.lines().map(str::trim).filter(|line| !line.starts_with(['|', '`', '-']));
    let inline = page.split('`').skip(1).step_by(2);
    let ours = |text: &'_ str| text.starts_with("lockstep ") || text.starts_with("cargo run ");
    let mut found: Vec<&str> =
        block.chain(inline).filter(|text| ours(text) && !text.contains("...")).collect();
    found.retain(|text| !text.contains('`'));
    found
}

/// Splits a shell line; double quotes hold words together, a redirection or pipe ends it.
fn words(line: &str) -> Vec<String> {
    let line =
        line.strip_prefix("cargo run --release --").map_or(line.to_owned(), |rest| format!("lockstep{rest}"));
    let line = line.split(['>', '|', '#']).next().unwrap_or_default();
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.trim().chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().expect("there is always a word").push(c),
        }
    }
    words
}

#[test]
fn every_command_of_the_pages_is_one_the_program_knows() {
    let mut wrong = Vec::new();
    for (path, text) in pages() {
        let commands = commands(&text);
        let name = path.file_name().expect("pages have names").to_string_lossy().into_owned();
        let least = match name.as_str() {
            "try-your-application.md" => 15,
            "operating.md" => 20,
            "deploy.md" => 5,
            _ => 0,
        };
        assert!(commands.len() >= least, "{name}: its commands are found: {commands:?}");
        for command in commands {
            match Cli::try_parse_from(words(command)) {
                Ok(_) => {}
                // "`lockstep lab`" names a group of verbs.
                Err(e) if e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {}
                Err(e) => wrong.push(format!("{name}: {command}: {e}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_test_the_pages_name_exists() {
    let mut sources = Vec::new();
    for part in ["wire", "engine", "agent", "tests"] {
        files(&root().join(part), ".rs", &mut sources);
    }
    let mut known = BTreeSet::new();
    for source in sources {
        let text = std::fs::read_to_string(source).expect("sources are text");
        let name = |line: &str| Some(line.split_once("fn ")?.1.split_once('(')?.0.to_owned());
        known.extend(text.lines().filter_map(name));
    }
    let guarantees = std::fs::read_to_string(root().join("docs/guarantees.md")).expect("the page is there");
    let named: Vec<&str> =
        guarantees.lines().filter_map(|l| l.strip_prefix("- `")?.strip_suffix('`')).collect();
    assert!(named.len() > 40, "the page's tests are found: {named:?}");
    let missing: Vec<_> = named.iter().filter(|name| !known.contains(**name)).collect();
    assert!(missing.is_empty(), "docs/guarantees.md names tests that do not exist: {missing:?}");
}

#[test]
fn every_link_between_the_pages_leads_somewhere() {
    for (path, text) in pages() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            let target = path.parent().expect("pages lie in folders").join(file);
            assert!(link.contains("://") || target.exists(), "{}: {link} leads nowhere", path.display());
        }
    }
}

#[test]
fn the_unit_starts_a_verb_that_exists_and_waits_for_the_agent_to_be_ready() {
    let unit = std::fs::read_to_string(root().join("packaging/lockstep.service")).expect("the unit is there");
    let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let start =
        value("ExecStart").expect("it starts something").strip_prefix("/usr/bin/").expect("from /usr/bin");
    Cli::try_parse_from(start.split(' ')).expect("the program knows it");
    assert_eq!((value("Type"), value("KillMode")), (Some("notify"), Some("process")));
}

#[test]
fn the_configuration_of_the_deployment_page_is_sound() {
    let page = std::fs::read_to_string(root().join("docs/deploy.md")).expect("the page is there");
    let begin = page.find("    [node]\n").expect("it shows a configuration");
    let shown = page[begin..].lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("lockstep.toml");
    std::fs::write(&file, shown.map(|line| format!("{}\n", line.trim())).collect::<String>())
        .expect("written");
    crate::config::Config::load(&file).expect("the configuration is sound");
}
