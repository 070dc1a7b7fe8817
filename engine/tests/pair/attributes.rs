//! A mirror's files belong to whom the active's belong to. Needs root (CAP_CHOWN, CAP_FOWNER, CAP_SYS_ADMIN).

use crate::node::{Node, pair_without_database};
use crate::{epoch, writer};
use lockstep_engine::pair::CommitMode;
use rustix::fs::XattrFlags;
use rustix::thread::CapabilitySet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use writer::Writer;

const ACL: &str = "system.posix_acl_access";
const LABEL: &str = "security.selinux";

/// What can be seen of a file: mode, owner, group, ACL, label.
type Seen = (u32, u32, u32, Vec<u8>, Vec<u8>);

/// user::rw-, user:7777:r--, group::r--, mask::r--, other::---
fn acl() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, u32::MAX), (2, 4, 7777), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)];
    let bytes = entries.iter().flat_map(|(tag, bits, id)| {
        [tag.to_le_bytes().as_slice(), &bits.to_le_bytes(), &id.to_le_bytes()].concat()
    });
    2_u32.to_le_bytes().into_iter().chain(bytes).collect()
}

fn xattr(path: &Path, name: &str) -> Vec<u8> {
    let mut value = vec![0; 1024];
    let length = rustix::fs::getxattr(path, name, value.as_mut_slice()).unwrap_or(0);
    value.truncate(length);
    value
}

fn seen(path: &Path) -> Seen {
    let metadata = std::fs::metadata(path).expect("it is there");
    (metadata.mode() & 0o7777, metadata.uid(), metadata.gid(), xattr(path, ACL), xattr(path, LABEL))
}

fn with_wal(database: &Path) -> [PathBuf; 2] {
    [database.to_owned(), PathBuf::from(format!("{}-wal", database.display()))]
}

fn chown(path: &Path, user: u32, group: u32) {
    std::os::unix::fs::chown(path, Some(user), Some(group)).expect("a foreign owner needs CAP_CHOWN");
}

fn set_xattr(path: &Path, name: &str, value: &[u8], privilege: &str) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty())
        .unwrap_or_else(|error| panic!("setting {name} needs {privilege}: {error}"));
}

async fn start(active: &mut Node, standby: &mut Node) {
    active.become_active(epoch(1)).await.expect("the database can be followed");
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    active.until_in_sync().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_has_the_owner_mode_acl_and_label_of_the_active_also_after_they_changed() {
    let (mut active, mut standby) = pair_without_database(|_| {});
    writer::create(active.database());
    let database = active.database().to_owned();
    chown(&database, 1234, 4321);
    set_xattr(&database, ACL, &acl(), "CAP_FOWNER");
    set_xattr(&database, LABEL, b"system_u:object_r:var_lib_t:s0\0", "CAP_SYS_ADMIN");
    let wanted = seen(&database);
    assert_eq!((wanted.0, wanted.3.len()), (0o640, 44), "the ACL's mask is the group's bits");
    start(&mut active, &mut standby).await;
    for file in with_wal(standby.database()) {
        assert_eq!(seen(&file), wanted, "{}", file.display());
    }
    // What changes meanwhile is told by the next connection, without a copy.
    rustix::fs::removexattr(&database, ACL).expect("it was set");
    chown(&database, 1235, 4322);
    std::fs::set_permissions(&database, std::fs::Permissions::from_mode(0o604)).expect("a change of mode");
    standby.become_idle().await;
    active.until_out_of_sync().await;
    standby.become_standby(epoch(1)).await.expect("the mirror opens");
    let mut writer = Writer::start(&database);
    let row = writer.commit();
    active.wait(CommitMode::Durable).await.expect("the standby is back");
    let wanted = seen(&database);
    assert_eq!((wanted.0, wanted.1, wanted.3.len()), (0o604, 1235, 0));
    for file in with_wal(standby.database()) {
        assert_eq!(seen(&file), wanted, "{}", file.display());
    }
    assert_eq!(standby.copies(), 0);
    writer.kill();
    active.stop().await;
    standby.promote(epoch(2)).await.expect("a complete mirror can be promoted");
    assert_eq!(writer::rows(standby.database()), row);
    assert_eq!(seen(standby.database()), wanted);
    assert!(!standby.notices().iter().any(|notice| notice.contains("could not be given")));
    standby.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_may_not_change_owners_says_so_once_and_mirrors_all_the_same() {
    let pair = std::thread::spawn(|| {
        // For this thread and those it starts, which are the engines'.
        let mut rights = rustix::thread::capabilities(None).expect("capabilities can be read");
        rights.effective.remove(CapabilitySet::CHOWN);
        rights.permitted.remove(CapabilitySet::CHOWN);
        rights.inheritable.remove(CapabilitySet::CHOWN);
        rustix::thread::set_capabilities(None, rights).expect("a right may be given up");
        pair_without_database(|_| {})
    });
    let (mut active, mut standby) = pair.join().expect("the pair starts");
    writer::create(active.database());
    chown(active.database(), 1234, 4321);
    std::fs::set_permissions(active.database(), std::fs::Permissions::from_mode(0o640)).expect("a mode");
    start(&mut active, &mut standby).await;
    active.become_idle().await;
    active.become_active(epoch(1)).await.expect("the database can be followed");
    active.until_out_of_sync().await;
    active.until_in_sync().await;
    let told: Vec<_> = standby.notices().into_iter().filter(|n| n.contains("owner 1234:4321")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(standby.alarms().is_empty());
    assert_eq!(seen(standby.database()).0, 0o640);
    active.stop().await;
    standby.stop().await;
}
