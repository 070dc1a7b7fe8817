//! A lab that ends with its test.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use super::inside;

/// One lab, in a folder of its own. Dropping it takes it down.
pub(crate) struct Lab {
    dir: tempfile::TempDir,
    /// Another user to be, by number.
    user: Option<u32>,
}

impl Lab {
    /// Nothing runs yet.
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary folder"), user: None }
    }

    /// The same as a user without privileges.
    pub(crate) fn of_user(user: u32) -> Self {
        let mut lab = Self::new();
        lab.user = Some(user);
        std::os::unix::fs::chown(lab.dir.path(), Some(user), Some(user)).expect("root gives its folder away");
        lab
    }

    /// Starts it; panics with what it said when it cannot. It ends with this program, also when that is killed.
    pub(crate) fn up(self, options: &[&str]) -> Self {
        self.ok(&[&["up", "--end-with-caller"], options].concat());
        self
    }

    /// Machines and cables without agents.
    pub(crate) fn up_without_agents() -> Self {
        Self::new().up(&["--no-agent"])
    }

    /// The lab's folder.
    pub(crate) fn home(&self) -> PathBuf {
        self.dir.path().join("lab")
    }

    /// `lockstep lab ARGUMENTS`, not yet started.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
        command.arg("lab").args(arguments).env("LOCKSTEP_LAB_DIR", self.dir.path()).stdin(Stdio::null());
        // What the surroundings set must not decide a test.
        for name in ["LOCKSTEP_CONFIG", "LOCKSTEP_STATE_DIR", "LOCKSTEP_RUNTIME_DIR"] {
            command.env_remove(name);
        }
        if let Some(user) = self.user {
            std::os::unix::process::CommandExt::gid(&mut command, user);
            std::os::unix::process::CommandExt::uid(&mut command, user);
        }
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the lockstep binary starts")
    }

    /// Runs it and gives what it printed; panics with what it said when it fails.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "lockstep lab {arguments:?}: {}\n{said}", output.status);
        String::from_utf8(output.stdout).expect("output is UTF-8")
    }

    /// A command on a machine, not yet started.
    pub(crate) fn exec(&self, machine: &str, command: &[&str]) -> Command {
        self.command(&[&["exec", machine, "--"], command].concat())
    }

    /// A function of this test program on a machine, not yet started: see [`super::arguments`].
    pub(crate) fn inside(&self, machine: &str, function: &str, arguments: &[&str]) -> Command {
        let program = std::env::current_exe().expect("the test program has a path");
        let program = program.to_str().expect("its path is UTF-8");
        let mut command = self.exec(machine, &[program, function, "--exact", "--ignored", "--nocapture"]);
        inside::set_arguments(&mut command, arguments);
        command
    }

    /// `lab status --json`.
    pub(crate) fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.ok(&["status", "--json"])).expect("status is JSON")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let output = self.run(&["down"]);
        if !output.status.success() && !std::thread::panicking() {
            panic!("lab down: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
