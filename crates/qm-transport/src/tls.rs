//! Mutual TLS 1.3 with raw public keys (RFC 7250): the key is the identity, there is no authority.
//!
//! A node may hold two keys, while one identity follows another. Whoever dials says in the server
//! name which identity it expects, if it expects one: a hint ([`server_name`]) that lets the other
//! side prove the right key. It decides nothing, for the key that is proven is checked.

use std::sync::{Arc, Mutex, PoisonError};

use qm_wire::QmId;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring as provider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, CipherSuite, DigitallySignedStruct, DistinguishedName, Error,
    PeerIncompatible, SignatureScheme,
};

use crate::key::{NodeKey, public_key_of_spki};

/// The one application protocol; another version of the framing gets another name.
pub(crate) const ALPN: &[u8] = b"qm/1";

/// What a dialler that expects nobody in particular names; it is sent in no packet.
const NO_NAME: &str = "qm";

/// Bytes of the hint: enough to tell two keys apart, too few to learn an identity from.
const HINT_BYTES: usize = 6;

/// The TLS half of an endpoint, for the keys that it holds now.
pub(crate) struct Tls {
    keys: Vec<OwnKey>,
    provider: Arc<CryptoProvider>,
}

/// A key of this endpoint, ready to dial with.
struct OwnKey {
    qm: QmId,
    client: rustls::ClientConfig,
}

/// The name that tells a server which of its identities is expected: digits of a hash over the
/// identity, in a domain that no resolver has.
pub(crate) fn server_name(expected: Option<QmId>) -> String {
    expected.map_or_else(|| NO_NAME.to_owned(), |qm| hint(&qm))
}

fn hint(qm: &QmId) -> String {
    let digest = ring::digest::digest(
        &ring::digest::SHA256,
        &[b"qm-server-name".as_slice(), qm.as_bytes()].concat(),
    );
    let start = digest.as_ref().get(..HINT_BYTES).unwrap_or_default();
    format!("{}.qm.invalid", data_encoding::HEXLOWER.encode(start))
}

/// The identity that answers to a server name: the one that it hints at, else the first.
pub(crate) fn answering(owns: &[QmId], name: Option<&str>) -> Option<QmId> {
    let hinted = owns.iter().find(|qm| name == Some(&hint(qm)));
    hinted.or_else(|| owns.first()).copied()
}

/// Proves the key that the dialler hints at.
#[derive(Debug)]
struct HintedKeys {
    keys: Vec<(QmId, Arc<CertifiedKey>)>,
}

impl ResolvesServerCert for HintedKeys {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let owns: Vec<QmId> = self.keys.iter().map(|(qm, _)| *qm).collect();
        let own = answering(&owns, hello.server_name())?;
        let found = self.keys.iter().find(|(qm, _)| *qm == own);
        found.map(|(_, key)| Arc::clone(key))
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }
}

impl Tls {
    /// The first key is the node's own, behind it are those that it still answers to.
    pub(crate) fn new(
        keys: &[NodeKey],
        provider: Arc<CryptoProvider>,
    ) -> Result<(Self, Arc<QuicServerConfig>), Error> {
        let verifier = Arc::new(RawKeyVerifier::new(&provider, None));
        let mut owns = Vec::new();
        let mut hinted = Vec::new();
        for key in keys {
            let der = PrivatePkcs8KeyDer::from(key.to_pkcs8());
            let signing = provider::sign::any_eddsa_type(&der)?;
            let spki = vec![CertificateDer::from(key.spki())];
            let certified = Arc::new(CertifiedKey::new(spki, signing));
            owns.push(OwnKey {
                qm: key.qm_id(),
                client: Self::client(&provider, &verifier, &certified)?,
            });
            hinted.push((key.qm_id(), certified));
        }

        let mut server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(HintedKeys { keys: hinted }));
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.max_early_data_size = 0;
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        let server =
            QuicServerConfig::try_from(server).map_err(|e| Error::General(e.to_string()))?;
        let keys = owns;
        Ok((Self { keys, provider }, Arc::new(server)))
    }

    fn client(
        provider: &Arc<CryptoProvider>,
        verifier: &Arc<RawKeyVerifier>,
        certified: &Arc<CertifiedKey>,
    ) -> Result<rustls::ClientConfig, Error> {
        let mut client = rustls::ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(verifier) as _)
            .with_client_cert_resolver(Arc::new(
                rustls::client::AlwaysResolvesClientRawPublicKeys::new(Arc::clone(certified)),
            ));
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.enable_sni = false;
        client.enable_early_data = false;
        // A resumed session would skip the proof that the peer still holds its key.
        client.resumption = rustls::client::Resumption::disabled();
        Ok(client)
    }

    /// The identities whose keys it holds, its own first.
    pub(crate) fn owns(&self) -> Vec<QmId> {
        self.keys.iter().map(|key| key.qm).collect()
    }

    /// The client side of one dial under one of this endpoint's identities, which fails unless the
    /// peer proves to be `expected`.
    ///
    /// The key the peer showed can be read from the returned place, also after a failure.
    pub(crate) fn dial(
        &self,
        own: QmId,
        expected: Option<QmId>,
    ) -> Result<(Arc<QuicClientConfig>, SeenKey), Error> {
        let key = self.keys.iter().find(|key| key.qm == own);
        let key = key.ok_or_else(|| Error::General(format!("the key of {own} is not held")))?;
        let verifier = RawKeyVerifier::new(&self.provider, expected);
        let seen = Arc::clone(&verifier.seen);
        let mut client = key.client.clone();
        // A key has no name; the hint is for a peer that holds two.
        client.enable_sni = expected.is_some();
        client
            .dangerous()
            .set_certificate_verifier(Arc::new(verifier));
        let client =
            QuicClientConfig::try_from(client).map_err(|e| Error::General(e.to_string()))?;
        Ok((Arc::new(client), SeenKey(seen)))
    }
}

/// ring, with the suite that costs least on hardware with AES instructions first.
pub(crate) fn crypto_provider() -> CryptoProvider {
    let mut provider = provider::default_provider();
    provider
        .cipher_suites
        .retain(|suite| suite.tls13().is_some());
    provider
        .cipher_suites
        .sort_by_key(|suite| match suite.suite() {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => 0,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => 1,
            _ => 2,
        });
    provider
}

/// The key a peer showed during one dial.
pub(crate) struct SeenKey(Arc<Mutex<Option<[u8; 32]>>>);

impl SeenKey {
    pub(crate) fn qm_id(&self) -> Option<QmId> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.as_ref().map(QmId::from_ed25519_public_key)
    }
}

/// Accepts any Ed25519 key whose holder signs the handshake, or only one identity.
///
/// *Who may talk* is decided above the transport; here the peer only proves who it is.
#[derive(Debug)]
struct RawKeyVerifier {
    provider: Arc<CryptoProvider>,
    expected: Option<QmId>,
    seen: Arc<Mutex<Option<[u8; 32]>>>,
}

impl RawKeyVerifier {
    fn new(provider: &Arc<CryptoProvider>, expected: Option<QmId>) -> Self {
        Self {
            provider: Arc::clone(provider),
            expected,
            seen: Arc::new(Mutex::new(None)),
        }
    }

    fn check(&self, end_entity: &[u8], intermediates: &[CertificateDer<'_>]) -> Result<(), Error> {
        let public_key = public_key_of_spki(end_entity)
            .filter(|_key| intermediates.is_empty())
            .ok_or(CertificateError::BadEncoding)?;
        let Some(expected) = self.expected else {
            return Ok(());
        };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(public_key);
        if QmId::from_ed25519_public_key(&public_key) == expected {
            Ok(())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        spki: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(spki.as_ref()),
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }
}

/// TLS 1.2 is not offered; this answers a peer that speaks it all the same.
fn tls12_refused() -> Error {
    PeerIncompatible::ServerDoesNotSupportTls12Or13.into()
}

impl ServerCertVerifier for RawKeyVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12_refused())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for RawKeyVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12_refused())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
