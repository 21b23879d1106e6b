//! Peers built on the QUIC library itself, which do what our own endpoint never would.

use std::net::SocketAddr;
use std::sync::Arc;

use qm_transport::{CloseReason, DialError, Event, FramingError, NodeKey};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, ResolvesClientCert};
use rustls::crypto::ring::{default_provider, sign::any_eddsa_type};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::support::{Node, connect, frame};

const ALPN: &[u8] = b"qm/1";

/// Believes every peer.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Gullible {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Shows `shown`'s public key and signs with `signing`'s private one.
fn certified(shown: &NodeKey, signing: &NodeKey) -> Arc<CertifiedKey> {
    let key = |key: &NodeKey| any_eddsa_type(&PrivatePkcs8KeyDer::from(key.to_pkcs8())).unwrap();
    let spki = key(shown).public_key().unwrap().to_vec();
    Arc::new(CertifiedKey::new(
        vec![CertificateDer::from(spki)],
        key(signing),
    ))
}

/// Dials `to` with that client certificate (or none) and protocol.
async fn dial(
    to: SocketAddr,
    resolver: Option<Arc<dyn ResolvesClientCert>>,
    alpn: &[u8],
) -> Result<quinn::Connection, quinn::ConnectionError> {
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let mut tls = match resolver {
        Some(resolver) => builder.with_client_cert_resolver(resolver),
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.connect_with(config, to, "qm").unwrap().await
}

/// Connects with that key, as a peer that does nothing further by itself.
pub(crate) async fn dial_as(
    key: &NodeKey,
    to: SocketAddr,
) -> Result<quinn::Connection, quinn::ConnectionError> {
    dial(to, own(key), ALPN).await
}

fn own(key: &NodeKey) -> Option<Arc<dyn ResolvesClientCert>> {
    Some(Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified(
        key, key,
    ))))
}

/// Waits until the server has turned the connection down, which TLS 1.3 clients learn late.
async fn turned_down(connection: Result<quinn::Connection, quinn::ConnectionError>) -> String {
    match connection {
        Ok(connection) => {
            let patience = std::time::Duration::from_secs(10);
            let closed = tokio::time::timeout(patience, connection.closed()).await;
            closed.expect("the server turns it down").to_string()
        }
        Err(error) => error.to_string(),
    }
}

/// The node is told nothing of peers that failed the handshake, and still serves others.
async fn unimpressed(node: &mut Node) {
    assert!(node.told_now().is_none());
    let mut other = Node::loopback(9).await;
    connect(&mut other, node).await;
}

#[tokio::test]
async fn nobody_speaks_as_a_qmid_without_its_key() {
    let mut node = Node::loopback(1).await;
    let (victim, thief) = (NodeKey::generate([2; 32]), NodeKey::generate([3; 32]));
    let at = node.endpoint.local_addr().unwrap();
    // With its own key the same code gets in, so that the refusal below is the signature's.
    let _connection = dial(at, own(&victim), ALPN).await.unwrap();
    match node.told().await {
        Event::Connected { peer, .. } => assert_eq!(peer, victim.qm_id()),
        other => panic!("{other:?}"),
    }
    let stolen = Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified(
        &victim, &thief,
    )));
    let error = turned_down(dial(at, Some(stolen), ALPN).await).await;
    assert!(error.contains("cryptographic handshake failed"), "{error}");
    unimpressed(&mut node).await;
}

#[tokio::test]
async fn a_peer_without_a_key_or_protocol_is_turned_down() {
    let mut node = Node::loopback(1).await;
    let at = node.endpoint.local_addr().unwrap();
    let error = turned_down(dial(at, None, ALPN).await).await;
    assert!(error.contains("cryptographic handshake failed"), "{error}");
    let key = NodeKey::generate([2; 32]);
    let error = turned_down(dial(at, own(&key), b"h3").await).await;
    assert!(error.contains("cryptographic handshake failed"), "{error}");
    unimpressed(&mut node).await;
}

/// Has a node dial a server with that key and protocol; returns what the node is told.
async fn dialled(key: Arc<CertifiedKey>, alpn: &[u8], expected: &NodeKey) -> Event {
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(Gullible))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(key)));
    tls.alpn_protocols = vec![alpn.to_vec()];
    let crypto = QuicServerConfig::try_from(tls).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let server = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = server.local_addr().unwrap().to_string();
    let serve = tokio::spawn(async move { server.accept().await.unwrap().await });
    let mut node = Node::loopback(1).await;
    node.endpoint.dial(1, &address, Some(expected.qm_id()));
    let event = node.told().await;
    serve.abort();
    event
}

#[tokio::test]
async fn a_server_is_believed_only_with_its_own_key_and_our_protocol() {
    let (victim, thief) = (NodeKey::generate([2; 32]), NodeKey::generate([3; 32]));
    let event = dialled(certified(&victim, &victim), ALPN, &victim).await;
    assert!(matches!(event, Event::Connected { .. }), "{event:?}");
    let event = dialled(certified(&victim, &thief), ALPN, &victim).await;
    assert!(
        matches!(
            event,
            Event::DialFailed {
                error: DialError::Tls { .. },
                ..
            }
        ),
        "{event:?}"
    );
    let event = dialled(certified(&victim, &victim), b"qm/2", &victim).await;
    let version = |error: &DialError| matches!(error, DialError::Version { .. });
    assert!(
        matches!(&event, Event::DialFailed { error, .. } if version(error)),
        "{event:?}"
    );
}

/// Opens streams that begin with these bytes; returns how the node ends the link.
async fn streams(beginnings: &[&[u8]]) -> CloseReason {
    let mut node = Node::loopback(1).await;
    let at = node.endpoint.local_addr().unwrap();
    let connection = dial(at, own(&NodeKey::generate([2; 32])), ALPN)
        .await
        .unwrap();
    let link = node.connected().await;
    let mut open = Vec::new();
    for beginning in beginnings {
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(beginning).await.unwrap();
        open.push(stream);
    }
    let reason = node.closed(link).await;
    let told = connection.closed().await;
    assert!(
        matches!(told, quinn::ConnectionError::ApplicationClosed(_)),
        "{told}"
    );
    unimpressed(&mut node).await;
    reason
}

#[tokio::test]
async fn lanes_that_do_not_exist_or_come_twice_end_the_link() {
    let reason = streams(&[&[11]]).await;
    assert_eq!(
        reason,
        CloseReason::Misbehaved(FramingError::UnknownLane { found: 11 })
    );
    let reason = streams(&[&[0], &[255]]).await;
    assert_eq!(
        reason,
        CloseReason::Misbehaved(FramingError::UnknownLane { found: 255 })
    );
    let control = [&[0], frame(b"hello").as_ref()].concat();
    let reason = streams(&[&control, &control]).await;
    assert_eq!(
        reason,
        CloseReason::Misbehaved(FramingError::LaneTwice { index: 0 })
    );
}

#[tokio::test]
async fn streams_beyond_the_lanes_cannot_be_opened() {
    let mut node = Node::loopback(1).await;
    let at = node.endpoint.local_addr().unwrap();
    let connection = dial(at, own(&NodeKey::generate([2; 32])), ALPN)
        .await
        .unwrap();
    node.connected().await;
    let mut open = Vec::new();
    for lane in 0..11 {
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(&[lane]).await.unwrap();
        open.push(stream);
    }
    let refused = |opened: Result<(), _>| opened.is_err();
    let patience = std::time::Duration::from_millis(100);
    let uni = async { drop(connection.open_uni().await) };
    assert!(refused(tokio::time::timeout(patience, uni).await));
    let bi = async { drop(connection.open_bi().await) };
    assert!(refused(tokio::time::timeout(patience, bi).await));
    assert_eq!(connection.max_datagram_size(), None);
    // The link itself is none the worse for it.
    open[0].write_all(&frame(b"hello")).await.unwrap();
    assert_eq!(node.received().await.2, frame(b"hello"));
}

#[tokio::test]
async fn an_abandoned_lane_is_no_misbehaviour_and_the_peers_text_is_made_printable() {
    let mut node = Node::loopback(1).await;
    let at = node.endpoint.local_addr().unwrap();
    let connection = dial(at, own(&NodeKey::generate([2; 32])), ALPN)
        .await
        .unwrap();
    let link = node.connected().await;
    let mut stream = connection.open_uni().await.unwrap();
    // A header that announces 4 MiB, and nothing behind it; then the stream is reset.
    let announced = frame(&vec![0; 4 << 20]);
    stream.write_all(&[3]).await.unwrap();
    stream.write_all(&announced[..16]).await.unwrap();
    stream.reset(7_u32.into()).unwrap();
    connection.close(5_u32.into(), b"had enough\x1b[31m");
    let reason = "had enough?[31m".to_owned();
    assert_eq!(
        node.closed(link).await,
        CloseReason::Peer { code: 5, reason }
    );
}
