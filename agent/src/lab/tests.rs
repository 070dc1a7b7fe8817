//! The page about trying Lockstep names commands that exist.

use clap::Parser;

use crate::cli::Cli;

/// Splits a shell line; double quotes hold words together, there is no escaping in the page.
fn words(line: &str) -> Vec<String> {
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
fn every_command_of_the_page_about_trying_it_is_one_the_program_knows() {
    let page = include_str!("../../../docs/try-your-application.md");
    let blocks = page.lines().filter_map(|line| line.strip_prefix("    "));
    let inline = page.split('`').skip(1).step_by(2);
    let commands: Vec<&str> = blocks.chain(inline).filter(|text| text.starts_with("lockstep lab ")).collect();
    assert!(commands.len() > 15, "the page's commands are found: {commands:?}");
    for command in commands {
        if let Err(e) = Cli::try_parse_from(words(command)) {
            panic!("{command}: {e}");
        }
    }
}
