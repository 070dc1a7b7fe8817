//! From a write to the moment the thread that waits for it runs: inotify polled in that thread, beside
//! the notify crate, whose own thread calls back and passes it on through a channel.
//!
//! Both wait for the same file in the same run, in turns. `LOCKSTEP_WRITES` is the number of writes
//! each, 5,000 by default; one a millisecond.

use lockstep_benches::{Times, announce, setting, tell};
use notify::Watcher;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use serde_json::json;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

fn main() {
    announce("wakeup");
    let writes = setting("LOCKSTEP_WRITES", 5_000);
    let directory = tempfile::tempdir().expect("a folder");
    let path = directory.path().join("app.db-wal");
    let file = File::create(&path).expect("a file");
    for _ in 0..3 {
        report("poll in the waiting thread", &polled(&path, &file, writes));
        report("notify, callback and channel", &notified(&path, &file, writes));
    }
}

fn report(what: &str, times: &Times) {
    tell(&json!({ "bench": "wakeup", "what": what, "write_to_running": times.figures() }));
}

/// Another thread that writes once for each word it is given, a millisecond later, and tells when.
struct Writer {
    go: Sender<()>,
    moments: Receiver<Instant>,
}

impl Writer {
    fn start(file: &File) -> Self {
        let (go, asked) = channel();
        let (tell, moments) = channel();
        let file = file.try_clone().expect("a second descriptor");
        std::thread::spawn(move || {
            while asked.recv().is_ok() {
                std::thread::sleep(Duration::from_millis(1));
                let moment = Instant::now();
                file.write_all_at(&[7; 4096], 0).expect("written");
                if tell.send(moment).is_err() {
                    return;
                }
            }
        });
        Self { go, moments }
    }

    /// Has one write made; the time from it to the return of `wait`.
    fn once(&self, wait: impl FnOnce()) -> Duration {
        self.go.send(()).expect("the writer lives");
        wait();
        let woken = Instant::now();
        woken.saturating_duration_since(self.moments.recv().expect("the writer lives"))
    }
}

fn polled(path: &Path, file: &File, writes: u64) -> Times {
    let hints =
        inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).expect("inotify");
    inotify::add_watch(&hints, path, inotify::WatchFlags::MODIFY).expect("a watch");
    let (writer, mut times) = (Writer::start(file), Times::default());
    for _ in 0..writes {
        times.add(writer.once(|| {
            poll(&mut [PollFd::new(&hints, PollFlags::IN)], None).expect("poll");
        }));
        while rustix::io::read(&hints, &mut [0_u8; 4096]).is_ok() {}
    }
    times
}

fn notified(path: &Path, file: &File, writes: u64) -> Times {
    let (tell, hints) = channel();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| event.kind.is_modify()) {
            // Nobody listens any more at the end.
            let _ = tell.send(());
        }
    })
    .expect("a watcher");
    watcher.watch(path, notify::RecursiveMode::NonRecursive).expect("a watch");
    let (writer, mut times) = (Writer::start(file), Times::default());
    for _ in 0..writes {
        times.add(writer.once(|| hints.recv().expect("the watcher lives")));
        while hints.try_recv().is_ok() {}
    }
    times
}
