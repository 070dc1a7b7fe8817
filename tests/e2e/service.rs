//! What a service manager sees of an agent.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::harness::Lab;

/// Long enough for a loaded machine; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn an_agent_tells_the_service_manager_that_it_is_ready() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    let lab = Lab::new();
    let up = lab.command(&["up"]).env("NOTIFY_SOCKET", &path).output().expect("the lockstep binary starts");
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    for _ in ["a", "b"] {
        let mut message = [0; 256];
        let length = manager.recv(&mut message).expect("each agent says that it is ready");
        let message = String::from_utf8_lossy(&message[..length]);
        assert!(message.lines().any(|line| line == "READY=1"), "{message}");
    }
}
