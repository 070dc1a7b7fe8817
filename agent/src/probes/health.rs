//! Asks an application whether it works.
//!
//! Path: driver -> [`check`] -> application opened, restarted or failed (decision table, row 5).
//! That the process runs at all is [`crate::effects::app::Application::is_running`]'s. Each
//! check has a time limit, because an application that hangs accepts connections too.

use std::net::{TcpStream, ToSocketAddrs};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use rustix::time::Timespec;

use crate::config::Health;

/// Why an application is not healthy, in one sentence each.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    /// An HTTP answer outside 200 to 299.
    #[error("{url} answered {status}")]
    Status {
        /// What was asked.
        url: String,
        /// The answer.
        status: u16,
    },
    /// No HTTP answer.
    #[error("{url} did not answer: {reason}")]
    NoAnswer {
        /// What was asked.
        url: String,
        /// Why.
        reason: String,
    },
    /// No TCP connection.
    #[error("{address} takes no connection: {reason}")]
    NoConnection {
        /// What was asked.
        address: String,
        /// Why.
        reason: String,
    },
    /// The command said no, or could not be run.
    #[error("health command \"{command}\" {outcome}")]
    Command {
        /// The command.
        command: String,
        /// What became of it.
        outcome: String,
    },
}

/// Asks once, and waits at most `timeout`.
///
/// # Errors
/// It is not healthy, or has not answered in time.
pub fn check(health: &Health, timeout: Duration) -> Result<(), Unhealthy> {
    match health {
        Health::Http(url) => check_http(url, timeout),
        Health::Tcp(address) => check_tcp(address, timeout),
        Health::Command(command) => check_command(command, timeout),
    }
}

fn check_http(url: &str, timeout: Duration) -> Result<(), Unhealthy> {
    // A redirect leads to something else, which may be healthy while this is not.
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .build();
    match ureq::Agent::new_with_config(config).get(url).call() {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => Err(Unhealthy::Status { url: url.to_owned(), status: answer.status().as_u16() }),
        Err(e) => Err(Unhealthy::NoAnswer { url: url.to_owned(), reason: e.to_string() }),
    }
}

fn check_tcp(address: &str, timeout: Duration) -> Result<(), Unhealthy> {
    let failed = |reason: String| Unhealthy::NoConnection { address: address.to_owned(), reason };
    let mut ends = address.to_socket_addrs().map_err(|e| failed(e.to_string()))?.peekable();
    let mut reason = "no such host".to_owned();
    while let Some(end) = ends.next() {
        // A name with several addresses shares the time.
        let share = if ends.peek().is_some() { timeout / 2 } else { timeout };
        match TcpStream::connect_timeout(&end, share) {
            Ok(_) => return Ok(()),
            Err(e) => reason = e.to_string(),
        }
    }
    Err(failed(reason))
}

fn check_command(command: &[String], timeout: Duration) -> Result<(), Unhealthy> {
    use std::os::unix::process::CommandExt;
    let failed = |outcome: String| Unhealthy::Command { command: command.join(" "), outcome };
    let [program, arguments @ ..] = command else { return Err(failed("is empty".to_owned())) };
    let mut check = Command::new(program);
    check.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut child = check.spawn().map_err(|e| failed(format!("cannot be run: {e}")))?;
    let ended = ends_within(&child, timeout);
    if !matches!(ended, Ok(true)) {
        // With its children: a shell line would otherwise leave them behind at each check.
        let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
    }
    let status = child.wait().map_err(|e| failed(format!("cannot be waited for: {e}")))?;
    match ended {
        Ok(true) if status.success() => Ok(()),
        Ok(true) => Err(failed(format!("ended with {status}"))),
        Ok(false) => Err(failed(format!("took longer than {} ms", timeout.as_millis()))),
        Err(e) => Err(failed(format!("cannot be watched: {e}"))),
    }
}

/// Whether it ends within `timeout`; not waited for.
///
/// # Errors
/// It cannot be watched.
pub(crate) fn ends_within(child: &Child, timeout: Duration) -> std::io::Result<bool> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let timeout = Timespec::try_from(timeout).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    Ok(poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout))? > 0)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn shell(line: &str) -> Health {
        Health::Command(vec!["/bin/sh".into(), "-c".into(), line.into()])
    }

    /// One HTTP server that gives each answer once.
    fn serve(answers: &'static [&'static str]) -> Health {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
        let url = format!("http://{}/health", listener.local_addr().expect("an address"));
        std::thread::spawn(move || {
            for answer in answers {
                let (mut client, _) = listener.accept().expect("accepts");
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    client.read_exact(&mut byte).expect("reads");
                    request.extend(byte);
                }
                write!(client, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .expect("answers");
            }
        });
        Health::Http(url)
    }

    #[test]
    fn a_command_says_yes_by_ending_with_zero() {
        check(&shell("exit 0"), PATIENCE).expect("healthy");
        let error = check(&shell("exit 3"), PATIENCE).expect_err("unhealthy");
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        check(&Health::Command(vec!["/nowhere/check".into()]), PATIENCE).expect_err("there is none");
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_its_children() {
        let error = check(&shell("sleep 1000; sleep 1000"), Duration::from_millis(30)).expect_err("hangs");
        assert!(error.to_string().contains("took longer than 30 ms"), "{error}");
    }

    #[test]
    fn only_answers_from_200_to_299_are_healthy() {
        let health = serve(&["200 OK", "204 No Content", "302 Found", "500 Broken"]);
        check(&health, PATIENCE).expect("200");
        check(&health, PATIENCE).expect("204");
        for status in [302, 500] {
            let error = check(&health, PATIENCE).expect_err("unhealthy");
            assert!(error.to_string().ends_with(&format!("answered {status}")), "{error}");
        }
    }

    #[test]
    fn a_port_is_healthy_while_somebody_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
        let health = Health::Tcp(listener.local_addr().expect("an address").to_string());
        check(&health, PATIENCE).expect("it listens");
        drop(listener);
        let error = check(&health, PATIENCE).expect_err("nobody listens");
        assert!(error.to_string().contains("takes no connection"), "{error}");
        check(&Health::Tcp("host.invalid:80".into()), PATIENCE).expect_err("no such host");
    }

    #[test]
    fn an_address_where_nobody_listens_or_answers_is_unhealthy() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
        let health = Health::Http(format!("http://{}/", listener.local_addr().expect("an address")));
        check(&health, Duration::from_millis(50)).expect_err("accepted by the kernel, never answered");
        drop(listener);
        check(&health, PATIENCE).expect_err("refused");
    }
}
