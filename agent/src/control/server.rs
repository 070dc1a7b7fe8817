//! The listening side: bounded lines, bounded connections, one request at a time on each.
//!
//! Everybody in the socket's group may wait and look; only root and the agent's own user may
//! operate, because a snapshot writes files and a failover moves the service.

use super::{
    AgentHandle, Answer, Failure, FailureCode, Operation, OperationKind, Request, SnapshotRequest,
    VerifyRequest, WaitRequest, protocol::WaitLine,
};
use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::{fs::PermissionsExt, net::UnixStream as StdUnixStream},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};

/// The longest request is a snapshot to a path of 4096 bytes, escaped.
const MAX_LINE_BYTES: u64 = 16 * 1024;

/// A program with a thousand threads may have a connection for each.
const MAX_CONNECTIONS: usize = 1024;

/// A client that does not read its answer for this long has gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How many events one request may ask for.
const MAX_EVENTS: u32 = 10_000;

/// The group whose members may wait for commits and look.
const GROUP: &str = "lockstep";

/// Why the socket is not there.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another agent listens.
    #[error("{0} is served by another agent: stop it first, or give this one its own --runtime-dir")]
    Taken(PathBuf),
    /// The system refused.
    #[error("{path}: {source}: the runtime directory must exist and be writable by the agent")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Makes the agent's socket (0660, group `lockstep` where it exists), in place of one left behind.
/// Needs a tokio runtime.
///
/// # Errors
/// [`BindError`].
pub fn bind(path: &Path) -> Result<UnixListener, BindError> {
    let failed = |source| BindError::Io { path: path.to_owned(), source };
    if StdUnixStream::connect(path).is_ok() {
        return Err(BindError::Taken(path.to_owned()));
    }
    // Renamed into place only when its mode is right: nobody connects in between.
    let fresh = path.with_extension("sock.new");
    match fs::remove_file(&fresh) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh).map_err(failed)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o660)).map_err(failed)?;
    if let Some(gid) = group()
        && let Err(error) = std::os::unix::fs::chown(&fresh, None, Some(gid))
    {
        tracing::warn!(%error, "the socket stays in the agent's own group");
    }
    fs::rename(&fresh, path).map_err(failed)?;
    Ok(listener)
}

/// The id of the group whose members may wait for commits and look, where it exists.
pub fn group() -> Option<u32> {
    group_id(&fs::read_to_string("/etc/group").unwrap_or_default(), GROUP)
}

/// The id of a group in the text of /etc/group.
pub(super) fn group_id(groups: &str, name: &str) -> Option<u32> {
    let fields = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields.filter(|f| f.first() == Some(&name)).find_map(|f| f.get(2)?.parse().ok())
}

/// Serves until it is dropped; then all connections end.
pub async fn serve<H: AgentHandle>(listener: UnixListener, handle: Arc<H>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => match Arc::clone(&slots).try_acquire_owned() {
                Ok(slot) => {
                    connections.spawn(connection(stream, Arc::clone(&handle), slot));
                }
                Err(_) => turn_away(&stream),
            },
            Err(error) => {
                // Out of descriptors: accepting again at once would only burn the processor.
                tracing::warn!(%error, "cannot accept on the agent's socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn turn_away(stream: &UnixStream) {
    let line = format!("ERR busy {MAX_CONNECTIONS} connections are open: close some\n");
    if let Err(error) = stream.try_write(line.as_bytes()) {
        tracing::debug!(%error, "a connection beyond the limit went before its answer");
    }
}

async fn connection<H: AgentHandle>(stream: UnixStream, handle: Arc<H>, _slot: OwnedSemaphorePermit) {
    let operator = may_operate(&stream);
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        // One byte more than allowed tells a long line from one that just fits.
        match (&mut read).take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let whole = line.pop_if(|last| *last == b'\n').is_some();
        let mut answer = match (whole, std::str::from_utf8(&line)) {
            (true, Ok(text)) => answer(text, handle.as_ref(), operator).await,
            (true, Err(_)) => refuse("the request is not UTF-8"),
            (false, _) if line.len() as u64 > MAX_LINE_BYTES => {
                refuse(&format!("the request is longer than {MAX_LINE_BYTES} bytes"))
            }
            (false, _) => return,
        };
        answer.push('\n');
        let sent = tokio::time::timeout(WRITE_TIMEOUT, write.write_all(answer.as_bytes())).await;
        if !whole || !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
}

fn refuse(sentence: &str) -> String {
    WaitLine(Err(Failure::new(FailureCode::Syntax, sentence))).to_string()
}

fn may_operate(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
}

async fn answer<H: AgentHandle>(line: &str, handle: &H, operator: bool) -> String {
    if !line.starts_with('{') {
        return WaitLine(wait(line, handle).await).to_string();
    }
    let answer = match serde_json::from_str(line) {
        Ok(request) => perform(request, handle, operator).await,
        Err(error) => {
            Err(Failure::new(FailureCode::Syntax, format!("the request is not understood: {error}")))
        }
    };
    serde_json::to_string(&answer.unwrap_or_else(Answer::Error)).expect("an answer is plain data")
}

async fn wait<H: AgentHandle>(line: &str, handle: &H) -> Result<lockstep_client::Acknowledged, Failure> {
    let request = WaitRequest::parse(line)?;
    let timeout = request.timeout;
    tokio::time::timeout(timeout, handle.wait(request)).await.unwrap_or_else(|_| {
        let sentence =
            format!("not acknowledged within {} ms: `lockstep status` shows why", timeout.as_millis());
        Err(Failure::new(FailureCode::Timeout, sentence))
    })
}

async fn perform<H: AgentHandle>(request: Request, handle: &H, operator: bool) -> Result<Answer, Failure> {
    let looks = matches!(request, Request::Status {} | Request::Events { .. } | Request::Why { .. });
    if !looks && !operator {
        let sentence = "only root and the agent's own user may operate: use sudo";
        return Err(Failure::new(FailureCode::Permission, sentence));
    }
    let operate = async |pair: Option<String>, kind| {
        let pair = name(pair, FailureCode::Pair)?;
        handle.operate(Operation { pair, kind }).await.map(Answer::Done)
    };
    match request {
        Request::Status {} => Ok(Answer::Status(Box::new(handle.status().await))),
        Request::Events { pair, last } => {
            let pair = name(pair, FailureCode::Pair)?;
            handle.events(pair, last.min(MAX_EVENTS)).await.map(Answer::Events)
        }
        Request::Switchover { pair } => operate(pair, OperationKind::Switchover).await,
        Request::Failover { pair, accept_loss } => {
            operate(pair, OperationKind::Failover { accept_loss }).await
        }
        Request::Failback { pair } => operate(pair, OperationKind::Failback).await,
        Request::Observe { pair, on } => operate(pair, OperationKind::Observe(on)).await,
        Request::Maintenance { pair, on } => operate(pair, OperationKind::Maintenance(on)).await,
        Request::Why { pair } => {
            let pair = name(pair, FailureCode::Pair)?;
            handle.why(pair).await.map(|why| Answer::Why(Box::new(why)))
        }
        Request::Drill { pair } => {
            let pair = name(pair, FailureCode::Pair)?;
            handle.drill(pair).await.map(Answer::Drilled)
        }
        Request::Discarded { pair, entry } => {
            let pair = pair.parse().map_err(|e| Failure::new(FailureCode::Pair, format!("{e}")))?;
            handle.discarded(pair, entry).await.map(Answer::Done)
        }
        Request::Snapshot { pair, database, file } => {
            let pair = name(pair, FailureCode::Pair)?;
            let database =
                database.parse().map_err(|e| Failure::new(FailureCode::Database, format!("{e}")))?;
            if !file.is_absolute() {
                return Err(Failure::new(FailureCode::Syntax, "expected an absolute path for the snapshot"));
            }
            handle.snapshot(SnapshotRequest { pair, database, file }).await.map(Answer::Done)
        }
        Request::Verify { pair, database, deep, repair } => {
            let pair = name(pair, FailureCode::Pair)?;
            let name = name(database, FailureCode::Database)?;
            handle.verify(VerifyRequest { pair, name, deep, repair }).await.map(Answer::Verified)
        }
    }
}

fn name<T: FromStr<Err: std::fmt::Display>>(
    text: Option<String>,
    code: FailureCode,
) -> Result<Option<T>, Failure> {
    text.map(|text| text.parse().map_err(|e| Failure::new(code, format!("{e}")))).transpose()
}
