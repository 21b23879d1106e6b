//! How long a connection between two identities takes to open, and a bare one of quinn in the same
//! run, in which the server alone proves a key. Both over the loopback interface, by turns.
//!
//! `cargo bench -p qm-transport --bench handshake`, optionally with the number of rounds behind
//! `--`.
#![expect(clippy::print_stdout, reason = "a benchmark reports to its user")]
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot go on has failed"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qm_transport::{Endpoint, EndpointConfig, Event, LinkId, NodeKey};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

fn main() {
    let rounds = std::env::args()
        .find_map(|arg| arg.parse().ok())
        .unwrap_or(1_000);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let bare = Bare::new().await;
        let mut ends = Ends::new().await;
        let (mut alone, mut both, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=rounds {
            let (quic, keys) = (bare.connect().await, ends.connect().await);
            // The first round warms up.
            if round > 0 {
                alone.push(quic.as_secs_f64() * 1e3);
                both.push(keys.as_secs_f64() * 1e3);
                ratios.push(keys.as_secs_f64() / quic.as_secs_f64());
            }
        }
        println!("{rounds} rounds: lower quartile, median, upper quartile");
        say("quinn, the server alone proves a key, ms", &mut alone);
        say("two identities prove their keys, ms", &mut both);
        say("the second to the first, within a round", &mut ratios);
    });
}

fn say(what: &str, figures: &mut [f64]) {
    figures.sort_unstable_by(f64::total_cmp);
    let at = |quarter: usize| figures.get(figures.len() * quarter / 4).unwrap();
    println!("{what:<42} {:>7.2} {:>7.2} {:>7.2}", at(1), at(2), at(3));
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Two endpoints that know who they are, and nothing above.
struct Ends {
    from: Endpoint,
    at_from: UnboundedReceiver<Event>,
    to: Endpoint,
    at_to: UnboundedReceiver<Event>,
    dials: u64,
}

impl Ends {
    async fn new() -> Self {
        let (from, at_from) = Self::end(1).await;
        let (to, at_to) = Self::end(2).await;
        Self {
            from,
            at_from,
            to,
            at_to,
            dials: 0,
        }
    }

    async fn end(seed: u8) -> (Endpoint, UnboundedReceiver<Event>) {
        let config = EndpointConfig {
            listen: loopback(),
            ..EndpointConfig::default()
        };
        let (events, told) = unbounded_channel();
        let endpoint = Endpoint::bind(config, &NodeKey::generate([seed; 32]), events).await;
        (endpoint.unwrap(), told)
    }

    async fn connect(&mut self) -> Duration {
        let address = self.to.local_addr().unwrap().to_string();
        self.dials += 1;
        let start = Instant::now();
        self.from.dial(self.dials, &address, None);
        let (link, _) = tokio::join!(connected(&mut self.at_from), connected(&mut self.at_to));
        let took = start.elapsed();
        self.from.close(link, 0, "measured");
        took
    }
}

/// The next connection; what is told of the one before it is no matter.
async fn connected(told: &mut UnboundedReceiver<Event>) -> LinkId {
    loop {
        if let Event::Connected { link, .. } = told.recv().await.unwrap() {
            return link;
        }
    }
}

/// Two endpoints of quinn alone: the server has a raw public key, the client has none.
struct Bare {
    client: quinn::Endpoint,
    server: quinn::Endpoint,
}

impl Bare {
    async fn new() -> Self {
        let provider = Arc::new(ring::default_provider());
        let key = NodeKey::generate([3; 32]);
        let der = PrivatePkcs8KeyDer::from(key.to_pkcs8());
        let signing = ring::sign::any_eddsa_type(&der).unwrap();
        let spki = CertificateDer::from(signing.public_key().unwrap().to_vec());
        let certified = Arc::new(CertifiedKey::new(vec![spki], signing));
        let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified)));
        let server = Arc::new(QuicServerConfig::try_from(server).unwrap());
        let server = quinn::ServerConfig::with_crypto(server);
        let server = quinn::Endpoint::server(server, loopback()).unwrap();

        let client = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyKey(provider)))
            .with_no_client_auth();
        let client_config = Arc::new(QuicClientConfig::try_from(client).unwrap());
        let mut client = quinn::Endpoint::client(loopback()).unwrap();
        client.set_default_client_config(quinn::ClientConfig::new(client_config));
        Self { client, server }
    }

    async fn connect(&self) -> Duration {
        let address = self.server.local_addr().unwrap();
        let start = Instant::now();
        let dial = async { self.client.connect(address, "bare").unwrap().await.unwrap() };
        let accept = async { self.server.accept().await.unwrap().await.unwrap() };
        let (here, there) = tokio::join!(dial, accept);
        let took = start.elapsed();
        here.close(0_u32.into(), b"measured");
        there.closed().await;
        took
    }
}

/// Whoever proves its key is welcome.
#[derive(Debug)]
struct AnyKey(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyKey {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        let schemes = &self.0.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signed, schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
