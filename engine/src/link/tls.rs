//! TLS for the data connection: 1.3 only, both sides show a certificate, exactly one is accepted.
//!
//! Stands between the TCP socket and the framing. There is no authority, no name, no expiry and
//! no session resumption: every connection proves possession of the pinned key anew. Heartbeat
//! keys are exported here; what they seal is `lockstep`'s heartbeat module.

use super::{
    error::LinkError,
    identity::{Fingerprint, Identity},
};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    version::TLS13,
};
use std::{fmt, io, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// The application protocol: another service on the port ends the handshake.
const ALPN: &[u8] = b"lockstep/1";

/// Exporter label of the heartbeat keys (RFC 8446 7.5); a change makes them differ.
const HEARTBEAT_LABEL: &[u8] = b"EXPORTER-lockstep-heartbeat-1";

/// Keys for the heartbeat datagrams, the same on both nodes with `send` and `receive` exchanged.
#[derive(Clone, PartialEq, Eq)]
pub struct HeartbeatKeys {
    /// Names the connection the keys come from; random, so never the same for two connections.
    pub id: u64,
    /// Seals what this node sends.
    pub send: [u8; 32],
    /// Opens what the peer sends.
    pub receive: [u8; 32],
}

impl fmt::Debug for HeartbeatKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the keys: debug output ends up in logs.
        write!(f, "HeartbeatKeys({:016x})", self.id)
    }
}

/// Which end of the TCP connection this node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Connects: the node configured as secondary.
    Connect,
    /// Listens: the node configured as primary.
    Listen,
}

/// Both halves of the TLS configuration of one pair.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    own: Fingerprint,
}

impl Tls {
    /// For a node that shows `identity` and accepts `peer` alone.
    pub(crate) fn new(identity: &Identity, peer: Fingerprint) -> Result<Self, LinkError> {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        // One key exchange and one cipher of 256 bits: both ends are ours, nothing is negotiated.
        provider.cipher_suites = vec![rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384];
        let provider = Arc::new(provider);
        let pin = Arc::new(Pin { peer, algorithms: provider.signature_verification_algorithms });
        let wrong = |error: rustls::Error| LinkError::Tls(error.to_string());
        let client = client_config(identity, &provider, pin.clone()).map_err(wrong)?;
        let server = server_config(identity, provider, pin).map_err(wrong)?;
        let (connector, acceptor) = (Arc::new(client).into(), Arc::new(server).into());
        Ok(Self { connector, acceptor, own: identity.fingerprint() })
    }

    /// Does the handshake and exports the heartbeat keys. The caller sets a time limit.
    pub(crate) async fn handshake(
        &self,
        tcp: TcpStream,
        side: Side,
    ) -> Result<(TlsStream<TcpStream>, HeartbeatKeys), LinkError> {
        let result = match side {
            Side::Connect => {
                let name = ServerName::try_from("lockstep").expect("a constant name is valid");
                self.connector.connect(name, tcp).await.map(TlsStream::from)
            }
            Side::Listen => self.acceptor.accept(tcp).await.map(TlsStream::from),
        };
        let stream = result.map_err(|error| match self.own_certificate(error.into()) {
            // During the handshake, bytes that are no TLS come from another program, not from a bad cable.
            LinkError::Tls(found) => LinkError::NotLockstep(found),
            other => other,
        })?;
        // A peer that offers no protocol at all passes rustls; it is not a Lockstep node either.
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(LinkError::NotLockstep("no such application protocol".to_owned()));
        }
        let keys = heartbeat_keys(&stream, side).map_err(|e| LinkError::Tls(e.to_string()))?;
        Ok((stream, keys))
    }

    /// The client learns only with its first read that the server refused its certificate:
    /// names it in that error.
    pub(crate) fn own_certificate(&self, error: LinkError) -> LinkError {
        match error {
            LinkError::OurCertificate(_) => LinkError::OurCertificate(self.own),
            other => other,
        }
    }
}

fn client_config(
    identity: &Identity,
    provider: &Arc<CryptoProvider>,
    pin: Arc<Pin>,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(pin)
        .with_client_auth_cert(vec![identity.certificate()], identity.key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

fn server_config(
    identity: &Identity,
    provider: Arc<CryptoProvider>,
    pin: Arc<Pin>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(pin)
        .with_single_cert(vec![identity.certificate()], identity.key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}

fn heartbeat_keys(stream: &TlsStream<TcpStream>, side: Side) -> Result<HeartbeatKeys, rustls::Error> {
    let export = |context: &[u8]| match stream {
        TlsStream::Client(s) => s.get_ref().1.export_keying_material([0; 32], HEARTBEAT_LABEL, Some(context)),
        TlsStream::Server(s) => s.get_ref().1.export_keying_material([0; 32], HEARTBEAT_LABEL, Some(context)),
    };
    let (from_client, from_server) = (export(b"client")?, export(b"server")?);
    let id: [u8; 32] = export(b"id")?;
    let id = u64::from_be_bytes(*id.first_chunk().expect("32 bytes hold 8"));
    Ok(match side {
        Side::Connect => HeartbeatKeys { id, send: from_client, receive: from_server },
        Side::Listen => HeartbeatKeys { id, send: from_server, receive: from_client },
    })
}

/// Accepts one certificate, whole.
#[derive(Debug)]
struct Pin {
    peer: Fingerprint,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Carries both fingerprints through rustls to [`explain`].
#[derive(Debug, thiserror::Error)]
#[error("certificate {found} instead of {pinned}")]
struct NotPinned {
    pinned: Fingerprint,
    found: Fingerprint,
}

impl Pin {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let found = Fingerprint::of(certificate);
        if found == self.peer {
            return Ok(());
        }
        let error = NotPinned { pinned: self.peer, found };
        Err(CertificateError::Other(OtherError(Arc::new(error))).into())
    }
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(certificate).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // Never asked: the configuration speaks TLS 1.3 alone.
        Err(rustls::PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

impl ClientCertVerifier for Pin {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(certificate).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}

/// A sentence for the operator out of what the TLS stream returned.
pub(crate) fn explain(error: io::Error) -> LinkError {
    let Some(tls) = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => LinkError::Cut,
            _ => LinkError::Io(Arc::new(error)),
        };
    };
    match tls {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            match inner.downcast_ref::<NotPinned>() {
                Some(&NotPinned { pinned, found }) => LinkError::NotPinned { pinned, found },
                None => LinkError::Tls(tls.to_string()),
            }
        }
        rustls::Error::InvalidCertificate(CertificateError::BadSignature) => LinkError::Impostor,
        rustls::Error::AlertReceived(
            AlertDescription::CertificateUnknown
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA,
        ) => LinkError::OurCertificate(Fingerprint([0; 32])),
        rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)
        | rustls::Error::NoApplicationProtocol
        | rustls::Error::PeerIncompatible(_)
        | rustls::Error::AlertReceived(
            AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure,
        ) => LinkError::NotLockstep(tls.to_string()),
        _ => LinkError::Tls(tls.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    use tokio::net::TcpListener;

    async fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, connected) = tokio::join!(listener.accept(), TcpStream::connect(address));
        (accepted.unwrap().0, connected.unwrap())
    }

    /// `node`'s certificate with a key of the thief's own: what somebody has who copied the certificate alone.
    fn stolen(node: &Identity) -> Arc<SingleCertAndKey> {
        let thief = Identity::generate("thief").unwrap();
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&thief.key()).unwrap();
        Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![node.certificate()], key)))
    }

    #[tokio::test]
    async fn a_copied_certificate_without_its_key_is_refused_by_both_sides() {
        let (a, b) = (Identity::generate("a").unwrap(), Identity::generate("b").unwrap());
        let (to_a, to_b) = (Tls::new(&b, a.fingerprint()).unwrap(), Tls::new(&a, b.fingerprint()).unwrap());

        let mut client = ClientConfig::clone(to_a.connector.config());
        client.client_auth_cert_resolver = stolen(&b);
        let thief = Tls { connector: Arc::new(client).into(), ..to_a.clone() };
        let (tcp_a, tcp_b) = sockets().await;
        let (accepted, _) =
            tokio::join!(to_b.handshake(tcp_a, Side::Listen), thief.handshake(tcp_b, Side::Connect));
        assert!(matches!(accepted, Err(LinkError::Impostor)));

        let mut server = ServerConfig::clone(to_b.acceptor.config());
        server.cert_resolver = stolen(&a);
        let thief = Tls { acceptor: Arc::new(server).into(), ..to_b.clone() };
        let (tcp_a, tcp_b) = sockets().await;
        let (_, connected) =
            tokio::join!(thief.handshake(tcp_a, Side::Listen), to_a.handshake(tcp_b, Side::Connect));
        assert!(matches!(connected, Err(LinkError::Impostor)));
    }
}
