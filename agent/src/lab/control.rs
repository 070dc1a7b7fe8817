//! What `lockstep lab` says to a lab's supervisor: one line of JSON each way over a Unix socket.
//!
//! Entering a machine needs its namespaces; they travel as one process descriptor with the reply.

use std::io::{BufRead, BufReader, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::layout::{Cable, Direction, Home, Host, Node};

/// Longest wait for a reply: power-on waits for a file system's log recovery.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest request or reply; a status is below 1 KiB.
const MESSAGE_MAX_BYTES: usize = 64 * 1024;

/// A wish.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    Power,
    Enter { host: Host },
    PowerOff { node: Node },
    PowerOn { node: Node, agent: bool },
    Freeze { node: Node },
    Thaw { node: Node },
    Cut { cable: Cable, node: Node, direction: Option<Direction> },
    Mend { cable: Cable, node: Node, direction: Option<Direction> },
    Shape { rate_mbit: Option<u32> },
    Agent { node: Node, action: AgentAction },
    SniffStart,
    SniffStop,
    Down,
}

/// What can be done to a node's agent alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum AgentAction {
    /// SIGKILL; the node's init starts it again at once, as systemd would.
    Kill,
    /// SIGKILL, and it stays away; returns when it has ended.
    Halt,
    /// SIGTERM, and it stays away; returns when it has ended.
    Stop,
    /// Start it again after `halt` or `stop`.
    Start,
}

/// Whether a node runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// It runs.
    On,
    /// It is off.
    Off,
    /// All its processes stand still; its kernel still answers ARP.
    Frozen,
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    Done,
    Power { a: Power, b: Power },
    Entered { user_namespace: bool },
    Failed { reason: String },
}

/// Asks the lab's supervisor; an error is its sentence.
pub(super) fn ask(home: &Home, request: &Request) -> Result<(Reply, Option<OwnedFd>)> {
    let mut stream = connect(home)?;
    ask_on(&mut stream, request)
}

/// The connection to a running lab.
pub(super) fn connect(home: &Home) -> Result<UnixStream> {
    let path = home.socket();
    let stream = UnixStream::connect(&path).map_err(|e| {
        anyhow!("no lab is running at {}: {e}; start one with `lockstep lab up`", home.root().display())
    })?;
    stream.set_read_timeout(Some(REPLY_TIMEOUT)).context("reply time-out")?;
    Ok(stream)
}

/// Asks on an open connection.
pub(super) fn ask_on(stream: &mut UnixStream, request: &Request) -> Result<(Reply, Option<OwnedFd>)> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).context("asking the lab's supervisor")?;
    let mut bytes = vec![0; MESSAGE_MAX_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(&*stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            .context("waiting for the lab's supervisor")?;
    if received.bytes == 0 {
        bail!("the lab's supervisor ended; see `supervisor.log` in its folder");
    }
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    match serde_json::from_slice(&bytes[..received.bytes]).context("the supervisor's reply")? {
        Reply::Failed { reason } => bail!(reason),
        reply => Ok((reply, descriptor)),
    }
}

/// Reads a request; `None` when the other side said nothing.
pub(super) fn receive(stream: &UnixStream) -> Result<Option<Request>> {
    let mut line = String::new();
    let mut reader = BufReader::new(std::io::Read::take(stream, MESSAGE_MAX_BYTES as u64));
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    serde_json::from_str(&line).with_context(|| format!("request {line:?}")).map(Some)
}

/// Sends a reply.
pub(super) fn send(stream: &UnixStream, reply: &Reply, descriptor: Option<BorrowedFd<'_>>) -> Result<()> {
    let bytes = serde_json::to_vec(reply)?;
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    sendmsg(stream.as_fd(), &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}
