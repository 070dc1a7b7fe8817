//! Owner, group, mode, ACL and label of a database file: read on the active, applied on the standby.
//!
//! Read by name: `stat` and `getxattr` open nothing, while closing a descriptor of a database would drop
//! SQLite's locks on it in this process. Applied by descriptor. What this process has no right to set is
//! named, not an error: an agent without root mirrors all the same.

use lockstep_wire::FileAttributes;
use rustix::{
    fs::{self, Mode, Uid, XattrFlags},
    io::{Errno, Result as SystemResult},
};
use std::{
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::Path,
};

const ACL_NAME: &str = "system.posix_acl_access";
const LABEL_NAME: &str = "security.selinux";

/// The longest ACL taken over, bytes: 4, and 8 for each of a thousand entries.
pub const ACL_MAX_BYTES: usize = 8 << 10;
/// The longest label taken over, bytes: a page of a policy's categories.
pub const LABEL_MAX_BYTES: usize = 1 << 10;

/// Type bits of `st_mode`, and those of a regular file.
const TYPE_MASK: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
/// Bits that are taken over. A database is no program: set-user-id and the like stay behind.
const PERMISSIONS: u32 = 0o777;

/// What applying attributes came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The file was changed: only a sync makes that durable.
    pub changed: bool,
    /// What could not be set and what the operating system said.
    pub missing: Vec<String>,
}

/// Attributes of the file of that name; `None` when there is none. An ACL or label beyond its limit is left out.
///
/// # Errors
/// As the operating system says.
pub fn attributes_of(path: &Path) -> io::Result<Option<FileAttributes>> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let xattr = |name, longest| {
        let mut value = vec![0; longest];
        let read = fs::getxattr(path, name, value.as_mut_slice());
        present(read).map(|length| {
            value.truncate(length);
            value.into()
        })
    };
    Ok(Some(FileAttributes {
        mode: metadata.mode(),
        user: metadata.uid(),
        group: metadata.gid(),
        acl: xattr(ACL_NAME, ACL_MAX_BYTES)?,
        label: xattr(LABEL_NAME, LABEL_MAX_BYTES)?,
    }))
}

/// Length of an extended attribute, 0 for one that is not there or is too long.
fn present(read: SystemResult<usize>) -> io::Result<usize> {
    match read {
        Ok(length) => Ok(length),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(0),
        Err(Errno::RANGE) => {
            tracing::warn!("an extended attribute is longer than what is taken over");
            Ok(0)
        }
        Err(error) => Err(error.into()),
    }
}

/// Are these attributes that a database file can have?
///
/// # Errors
/// What is wrong with them, in words.
pub fn check_attributes(attributes: &FileAttributes) -> Result<(), String> {
    // In chown(2) the highest number means "leave as it is".
    if attributes.user == u32::MAX || attributes.group == u32::MAX {
        return Err(format!("owner {}:{}", attributes.user, attributes.group));
    }
    if attributes.mode & TYPE_MASK != REGULAR {
        return Err(format!("mode {:o} of no regular file", attributes.mode));
    }
    if attributes.acl.len() > ACL_MAX_BYTES || attributes.label.len() > LABEL_MAX_BYTES {
        let (acl, label) = (attributes.acl.len(), attributes.label.len());
        return Err(format!("an ACL of {acl} and a label of {label} bytes"));
    }
    Ok(())
}

/// Gives an open file the attributes, as far as this process may.
///
/// The mode comes last: a change of the owner takes bits away, and an ACL sets those of the group.
pub(super) fn apply(file: &impl AsFd, wanted: &FileAttributes) -> io::Result<Applied> {
    let mut applied = Applied::default();
    let stat = fs::fstat(file)?;
    if (stat.st_uid, stat.st_gid) != (wanted.user, wanted.group) {
        let (user, group) = (Uid::from_raw(wanted.user), fs::Gid::from_raw(wanted.group));
        let what = || format!("owner {}:{}", wanted.user, wanted.group);
        applied.note(what, fs::fchown(file, Some(user), Some(group)))?;
    }
    if !wanted.label.is_empty() && xattr(file, LABEL_NAME, LABEL_MAX_BYTES)? != wanted.label {
        let set = fs::fsetxattr(file, LABEL_NAME, &wanted.label, XattrFlags::empty());
        applied.note(|| format!("label {}", String::from_utf8_lossy(&wanted.label)), set)?;
    }
    if xattr(file, ACL_NAME, ACL_MAX_BYTES)? != wanted.acl {
        let set = match wanted.acl.is_empty() {
            true => fs::fremovexattr(file, ACL_NAME),
            false => fs::fsetxattr(file, ACL_NAME, &wanted.acl, XattrFlags::empty()),
        };
        applied.note(|| "access control list".to_owned(), set)?;
    }
    let mode = wanted.mode & PERMISSIONS;
    if fs::fstat(file)?.st_mode & PERMISSIONS != mode {
        applied.note(|| format!("mode {mode:04o}"), fs::fchmod(file, Mode::from_raw_mode(mode)))?;
    }
    Ok(applied)
}

fn xattr(file: &impl AsFd, name: &str, longest: usize) -> io::Result<Vec<u8>> {
    let mut value = vec![0; longest];
    let length = present(fs::fgetxattr(file, name, value.as_mut_slice()))?;
    value.truncate(length);
    Ok(value)
}

impl Applied {
    /// A right that is missing, a number that this user namespace does not map, and a file system without the
    /// attribute are all no reason to stop mirroring.
    fn note(&mut self, what: impl Fn() -> String, result: SystemResult<()>) -> io::Result<()> {
        match result {
            Ok(()) => self.changed = true,
            Err(error @ (Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::OPNOTSUPP)) => {
                self.missing.push(format!("{} ({})", what(), io::Error::from(error)));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_attributes_are_refused() {
        let sound = FileAttributes { mode: 0o100_640, user: 1, group: 2, ..FileAttributes::default() };
        assert_eq!(check_attributes(&sound), Ok(()));
        let hostile = [
            FileAttributes { user: u32::MAX, ..sound.clone() },
            FileAttributes { group: u32::MAX, ..sound.clone() },
            FileAttributes { mode: 0o120_777, ..sound.clone() },
            FileAttributes { mode: 0, ..sound.clone() },
            FileAttributes { acl: vec![0; ACL_MAX_BYTES + 1].into(), ..sound.clone() },
            FileAttributes { label: vec![0; LABEL_MAX_BYTES + 1].into(), ..sound },
        ];
        for attributes in hostile {
            assert!(check_attributes(&attributes).is_err(), "{attributes:?}");
        }
    }

    #[test]
    fn set_user_id_stays_behind_and_an_acl_that_is_none_is_named() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("file");
        let file = std::fs::File::create(&path).unwrap();
        let own = attributes_of(&path).unwrap().unwrap();
        let wanted = FileAttributes { mode: 0o104_640, acl: vec![7; 20].into(), ..own };
        let applied = apply(&file, &wanted).unwrap();
        assert!(applied.changed);
        assert_eq!(applied.missing.len(), 1, "{applied:?}");
        assert!(applied.missing[0].starts_with("access control list"), "{applied:?}");
        assert_eq!(std::fs::metadata(&path).unwrap().mode(), 0o100_640);
        assert_eq!(attributes_of(&dir.path().join("none")).unwrap(), None);
    }
}
