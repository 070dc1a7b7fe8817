//! Who a node is: a key pair, its self-signed certificate, and the fingerprint others pin.
//!
//! Made once by `lockstep identity`, read by the link at start. There is no authority and no
//! expiry: a peer is trusted because the configuration names its fingerprint, and no decision
//! uses wall-clock time. Checking a peer during the handshake is `tls.rs`.

use crate::{durable, storage::StorageError};
use aws_lc_rs::digest::{SHA256, digest};
use lockstep_wire::NodeId;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    fmt, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// File name of the private key (PKCS#8 PEM, mode 0600).
pub const KEY_FILE: &str = "identity.key";

/// File name of the certificate (PEM).
pub const CERTIFICATE_FILE: &str = "identity.crt";

/// The SHA-256 of a certificate's DER: what a configuration pins.
/// Text form: `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate in DER.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let hash = digest(&SHA256, certificate);
        Self(hash.as_ref().try_into().expect("SHA-256 gives 32 bytes"))
    }

    /// The id of the node with this certificate: the first eight bytes, big-endian.
    pub fn node_id(&self) -> NodeId {
        NodeId(u64::from_be_bytes(*self.0.first_chunk().expect("a fingerprint has 32 bytes")))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let wrong = || IdentityError::FingerprintForm(text.to_owned());
        let hex = text.strip_prefix("sha256:").ok_or_else(wrong)?.as_bytes();
        let plain = hex.len() == 64 && hex.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !plain {
            return Err(wrong());
        }
        let nibble = |b: u8| if b.is_ascii_digit() { b - b'0' } else { b - b'a' + 10 };
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = (nibble(pair[0]) << 4) | nibble(pair[1]);
        }
        Ok(Self(bytes))
    }
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A text that is no fingerprint.
    #[error(
        "expected a fingerprint like sha256:<64 hexadecimal digits>, found \"{0}\": copy what `lockstep identity` prints on the peer"
    )]
    FingerprintForm(String),
    /// No identity was made yet.
    #[error("{0} does not exist: run `lockstep identity` on this node to make it")]
    Missing(PathBuf),
    /// An identity is there already.
    #[error(
        "{0} exists: a new identity would lock this node out of its pair; remove the old one or ask for replacement if that is meant"
    )]
    Exists(PathBuf),
    /// The private key is open to other users.
    #[error(
        "{path} has mode {mode:03o}, expected 600: run `chmod 600 {path}` and consider the key known to others"
    )]
    Mode {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file is not what it should be.
    #[error(
        "{path} holds no valid {expected} ({found}): restore both identity files from a backup, or make a new identity and pin it on the peer"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// What the reader said.
        found: String,
    },
    /// Making the key or the certificate failed.
    #[error("cannot make a key and a certificate: {0}")]
    Generate(#[from] rcgen::Error),
    /// Reading or writing failed.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A node's key pair and certificate.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    certificate_pem: String,
    key_pem: String,
}

impl Identity {
    /// Makes a new key (ECDSA P-256) and a certificate that names the node, for people.
    ///
    /// # Errors
    /// [`IdentityError::Generate`] when the name cannot be written in a certificate or the system gives no randomness.
    pub fn generate(node_name: &str) -> Result<Self, IdentityError> {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        // The defaults hold from 1975 to 4096, so that a dead clock battery locks nobody out.
        let mut params = rcgen::CertificateParams::new(Vec::new())?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, node_name);
        let certificate = params.self_signed(&pair)?;
        Ok(Self {
            certificate: certificate.der().clone(),
            key: PrivateKeyDer::Pkcs8(pair.serialize_der().into()),
            certificate_pem: certificate.pem(),
            key_pem: pair.serialize_pem(),
        })
    }

    /// Writes both files into `dir`, durably. An interrupted save leaves the old files, the new
    /// ones, or a pair that [`Self::load`] refuses; never a usable mixture.
    ///
    /// # Errors
    /// [`IdentityError::Exists`] unless `replace`; [`IdentityError::Io`].
    pub fn save(&self, dir: &Path, replace: bool) -> Result<(), IdentityError> {
        for name in [KEY_FILE, CERTIFICATE_FILE] {
            let path = dir.join(name);
            if !replace && path.symlink_metadata().is_ok() {
                return Err(IdentityError::Exists(path));
            }
        }
        install(&dir.join(KEY_FILE), &self.key_pem)?;
        install(&dir.join(CERTIFICATE_FILE), &self.certificate_pem)
    }

    /// Reads both files from `dir` and checks that they belong together.
    ///
    /// # Errors
    /// [`IdentityError`] with the file and the remedy.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let (key_path, certificate_path) = (dir.join(KEY_FILE), dir.join(CERTIFICATE_FILE));
        let key_pem = read(&key_path)?;
        let certificate_pem = read(&certificate_path)?;
        let mode = fs::metadata(&key_path)
            .map_err(|source| IdentityError::Io { path: key_path.clone(), source })?
            .permissions()
            .mode()
            & 0o777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Mode { path: key_path, mode });
        }
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|e| damaged(&key_path, "private key", &e))?;
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|e| damaged(&certificate_path, "certificate", &e))?;
        let identity = Self { certificate, key, certificate_pem, key_pem };
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        rustls::sign::CertifiedKey::from_der(vec![identity.certificate()], identity.key(), &provider)
            .map_err(|e| damaged(&certificate_path, "certificate for the key beside it", &e))?;
        Ok(identity)
    }

    /// What the peer has to pin.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// This node's id.
    pub fn node_id(&self) -> NodeId {
        self.fingerprint().node_id()
    }

    /// The certificate as sent in the handshake.
    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    /// A copy of the private key for the TLS configuration.
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the key: debug output ends up in logs.
        f.debug_struct("Identity").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<String, IdentityError> {
    fs::read_to_string(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => IdentityError::Missing(path.to_owned()),
        _ => IdentityError::Io { path: path.to_owned(), source },
    })
}

fn damaged(path: &Path, expected: &'static str, found: &dyn fmt::Display) -> IdentityError {
    IdentityError::Damaged { path: path.to_owned(), expected, found: found.to_string() }
}

/// Only this process's user may read it: also the certificate, which nobody else has a use for.
fn install(path: &Path, text: &str) -> Result<(), IdentityError> {
    durable::write_file_durably_blocking(path, text.to_owned())
        .map_err(|StorageError { path, source, .. }| IdentityError::Io { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_saving_and_loading() {
        let dir = tempfile::tempdir().unwrap();
        let made = Identity::generate("alpha").unwrap();
        made.save(dir.path(), false).unwrap();
        let read = Identity::load(dir.path()).unwrap();
        assert_eq!(read.fingerprint(), made.fingerprint());
        assert_eq!(read.node_id(), made.node_id());
        assert_eq!(read.key().secret_der(), made.key().secret_der());
        let mode = fs::metadata(dir.path().join(KEY_FILE)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file is left");
    }

    #[test]
    fn an_identity_is_not_overwritten_unless_told() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::generate("alpha").unwrap();
        first.save(dir.path(), false).unwrap();
        let second = Identity::generate("alpha").unwrap();
        assert!(matches!(second.save(dir.path(), false), Err(IdentityError::Exists(_))));
        assert_eq!(Identity::load(dir.path()).unwrap().fingerprint(), first.fingerprint());
        second.save(dir.path(), true).unwrap();
        assert_eq!(Identity::load(dir.path()).unwrap().fingerprint(), second.fingerprint());
    }

    #[test]
    fn a_fingerprint_round_trips_and_gives_the_node_id() {
        let fingerprint = Identity::generate("alpha").unwrap().fingerprint();
        let text = fingerprint.to_string();
        assert_eq!(text.len(), 7 + 64);
        assert_eq!(text.parse::<Fingerprint>().unwrap(), fingerprint);
        assert_eq!(fingerprint.node_id().to_string(), text[7..23]);
    }

    #[test]
    fn only_the_one_text_form_of_a_fingerprint_is_read() {
        let good = Identity::generate("alpha").unwrap().fingerprint().to_string();
        for bad in ["", "sha256:", &good[7..], &good[..70], &good.to_uppercase(), &format!("{good}0")] {
            let error = bad.parse::<Fingerprint>().unwrap_err().to_string();
            assert!(error.contains("lockstep identity"), "{error}");
        }
    }

    #[test]
    fn a_missing_open_damaged_or_mixed_identity_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let error = Identity::load(dir.path()).unwrap_err();
        assert!(
            matches!(error, IdentityError::Missing(_)) && error.to_string().contains("lockstep identity")
        );

        Identity::generate("alpha").unwrap().save(dir.path(), false).unwrap();
        let key = dir.path().join(KEY_FILE);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Identity::load(dir.path()).unwrap_err().to_string().contains("chmod 600"));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();

        let good = fs::read(&key).unwrap();
        fs::write(&key, "not a key").unwrap();
        assert!(matches!(Identity::load(dir.path()), Err(IdentityError::Damaged { .. })));
        fs::write(&key, good).unwrap();

        let other = tempfile::tempdir().unwrap();
        Identity::generate("beta").unwrap().save(other.path(), false).unwrap();
        fs::copy(other.path().join(CERTIFICATE_FILE), dir.path().join(CERTIFICATE_FILE)).unwrap();
        assert!(matches!(Identity::load(dir.path()), Err(IdentityError::Damaged { .. })));
    }
}
