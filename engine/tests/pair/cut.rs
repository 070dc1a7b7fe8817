//! The cable between two nodes that both live on is cut while a commit is in doubt on both, and mended.

use crate::epoch;
use crate::node::{Node, pair_over};
use crate::prepared::{leave_commit, leave_first_commit, leave_phantom, until_held};
use crate::writer::{self, Writer};
use lockstep_barrier::Poke;
use lockstep_engine::pair::CommitMode;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// The far end of the cable, as the connecting node calls it: another address of the loopback interface.
const FAR_END: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A cable that can be cut: what is written into it then goes nowhere, and neither end is told.
struct Cable {
    is_cut: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Cable {
    fn new(port: u16) -> Self {
        let listener = TcpListener::bind((FAR_END, port)).expect("loopback has more than one address");
        let (is_cut, streams) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<TcpStream>>>::default());
        let (cut, all) = (Arc::clone(&is_cut), Arc::clone(&streams));
        // Ends with the test program.
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().expect("a copy"), to.try_clone().expect("a copy"));
                    let cut = Arc::clone(&cut);
                    std::thread::spawn(move || carry(from, to, &cut));
                }
                all.lock().expect("no holder panics").extend([near, far]);
            }
        });
        Self { is_cut, streams }
    }

    fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
    }

    /// What was lost in between stays lost: connections from before are dead.
    fn mend(&self) {
        for stream in self.streams.lock().expect("no holder panics").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.is_cut.store(false, Ordering::Release);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool) {
    let mut bytes = [0; 65536];
    while let Ok(length) = from.read(&mut bytes)
        && length > 0
    {
        if !cut.load(Ordering::Acquire) && to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

struct Pair {
    active: Node,
    standby: Node,
    cable: Cable,
    writer: Writer,
    row: i64,
}

async fn in_sync() -> Pair {
    let (mut active, mut standby, port) = pair_over(FAR_END);
    let cable = Cable::new(port);
    active.become_active(epoch(1)).await.expect("the database can be followed");
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    active.until_in_sync().await;
    let mut writer = Writer::start(active.database());
    writer.commit();
    let row = writer.commit();
    active.wait(CommitMode::Durable).await.expect("the standby is there");
    Pair { active, standby, cable, writer, row }
}

impl Pair {
    async fn cut(&mut self) {
        self.cable.cut();
        self.active.until_out_of_sync().await;
    }

    /// After the mending both are equal, without a copy, a quarantine or an alarm.
    async fn mends(mut self, row: i64) {
        self.cable.mend();
        self.active.until_in_sync().await;
        self.active.wait(CommitMode::Durable).await.expect("the standby is back");
        self.active.verify().await.expect("the standby is there");
        self.writer.kill();
        assert_eq!((self.active.alarms(), self.standby.alarms()), (Vec::new(), Vec::new()));
        assert_eq!((self.standby.copies(), self.standby.quarantined()), (0, 0));
        self.active.stop().await;
        self.standby.takes_over_with(epoch(2), row).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phantom_that_is_overwritten_while_the_cable_is_cut_is_taken_back_when_it_is_mended() {
    let mut pair = in_sync().await;
    let mark = leave_phantom(pair.active.database());
    until_held(&pair.active, &pair.standby, mark).await;
    pair.cut().await;
    let row = pair.writer.commit();
    assert_eq!(row, pair.row + 1, "the phantom is nobody's row");
    pair.mends(row).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_in_doubt_that_comes_true_while_the_cable_is_cut_is_kept() {
    let mut pair = in_sync().await;
    // The same statement on the same pages: what the copy's writer wrote is what the real one writes.
    let mark = leave_commit(pair.active.database(), writer::SAME);
    until_held(&pair.active, &pair.standby, mark).await;
    pair.cut().await;
    let row = pair.writer.commit_the_same();
    assert_eq!(row, pair.row + 1);
    let bytes = std::fs::read(format!("{}-wal", pair.active.database().display())).expect("a WAL");
    assert_eq!(crate::prepared::last_commit(&bytes), Some(mark), "the very same commit");
    pair.mends(row).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_commit_that_was_lost_on_its_way_is_sent_again_without_a_copy() {
    let mut pair = in_sync().await;
    pair.writer.empty_wal();
    pair.cable.cut();
    let mark = leave_first_commit(pair.active.database(), "lost");
    let poke = Poke::connect(&pair.active.board().with_extension("poke")).expect("the engine listens");
    assert!(poke.send(&mark));
    pair.cut().await;
    pair.cable.mend();
    pair.active.until_in_sync().await;
    let row = pair.writer.commit();
    pair.mends(row).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_still_in_doubt_when_the_cable_is_mended_is_settled_then() {
    let mut pair = in_sync().await;
    let mark = leave_phantom(pair.active.database());
    until_held(&pair.active, &pair.standby, mark).await;
    pair.cut().await;
    pair.cable.mend();
    pair.active.until_in_sync().await;
    let row = pair.writer.commit();
    pair.mends(row).await;
}
