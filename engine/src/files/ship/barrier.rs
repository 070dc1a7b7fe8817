//! Whoever waits until everything that happened in the tree is on the standby's disk.

use super::thread::Tree;
use std::time::Instant;
use tokio::sync::oneshot;

/// Somebody who waits.
pub(super) struct Barrier {
    reply: oneshot::Sender<Result<(), String>>,
    /// The cookie that must be seen first; None: it was.
    cookie: Option<u64>,
    /// When it was seen.
    since: Instant,
    /// The last batch that must be answered; None: not known yet.
    batch: Option<u64>,
}

impl Barrier {
    /// Answers; whoever waited may have gone.
    pub(super) fn answer(self, answer: Result<(), String>) {
        let _ = self.reply.send(answer);
    }

    /// Something that was sent failed: what must be answered is not known any more.
    pub(super) fn wait_on(&mut self) {
        self.batch = None;
    }

    /// Its cookie is waited for, and the last one seen is it or a later one.
    pub(super) fn is_seen_now(&self, seen: u64) -> bool {
        self.cookie.is_some_and(|cookie| cookie <= seen)
    }
}

impl Tree {
    pub(super) fn barrier(&mut self, reply: oneshot::Sender<Result<(), String>>) {
        let ready = self.session.is_some() && self.stopped.is_none();
        let cookie = match &self.watch {
            Some(watch) if ready => watch.send_cookie(),
            _ => {
                let _ = reply.send(Err("the tree is not being sent".to_owned()));
                return;
            }
        };
        match cookie {
            Ok(cookie) => {
                let since = Instant::now();
                self.barriers.push(Barrier { reply, cookie: Some(cookie), since, batch: None });
            }
            Err(error) => {
                let _ = reply.send(Err(format!("no cookie can be written below its root: {error}")));
            }
        }
    }

    /// Answers whoever waits for nothing more.
    pub(super) fn judge_barriers(&mut self) {
        if self.barriers.is_empty() {
            return;
        }
        let (seen, oldest) = {
            let mut shared = self.shared.lock();
            let seen = shared.cookie;
            if self.barriers.iter().any(|barrier| barrier.cookie.is_none_or(|cookie| cookie <= seen)) {
                shared.dirty.hurry(Instant::now());
            }
            (seen, shared.dirty.oldest())
        };
        let busy = !self.scan.is_empty() || !self.vanished.is_empty() || self.introduce;
        let (last, acked) = match (&self.session, &self.store) {
            (Some(session), Some(store)) => (session.last_batch(), store.identity().acked),
            _ => return,
        };
        let now = Instant::now();
        let stopped = self.stopped.is_some();
        let mut left = Vec::new();
        for mut barrier in self.barriers.drain(..) {
            if barrier.is_seen_now(seen) {
                (barrier.cookie, barrier.since) = (None, now);
            }
            if barrier.cookie.is_none() && barrier.batch.is_none() && !busy {
                let sent = oldest.is_none_or(|first| first > barrier.since);
                barrier.batch = sent.then_some(last);
            }
            if stopped {
                barrier.answer(Err("the tree has stopped".to_owned()));
            } else if barrier.batch.is_some_and(|batch| acked >= batch) {
                barrier.answer(Ok(()));
            } else {
                left.push(barrier);
            }
        }
        self.barriers = left;
    }
}
