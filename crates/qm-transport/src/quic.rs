//! quinn's settings, derived from ours.

use std::sync::Arc;
use std::time::Duration;

use quinn::{ConnectionId, IdleTimeout, MtuDiscoveryConfig, NoneTokenStore, VarInt};
use ring::{hkdf, hmac};
use rustls::crypto::CryptoProvider;

use crate::cid::{self, CidGenerator};
use crate::config::EndpointConfig;
use crate::error::BindError;
use crate::key::NodeKey;
use crate::lane::LANES;
use crate::tls::Tls;

/// Ethernet's payload less IPv4 and UDP headers: what quinn takes for receiving by default.
const RECEIVED_DATAGRAM_BYTES: u16 = 1472;

/// Application close codes of the transport itself, above the 32 bits that callers use.
pub(crate) mod code {
    pub(crate) const SHUT_DOWN: u64 = 1 << 32;
    pub(crate) const MISBEHAVED: u64 = (1 << 32) + 1;
    pub(crate) const TOO_MANY: u64 = (1 << 32) + 2;
}

/// Everything needed to open a quinn endpoint and to dial with it.
pub(crate) struct Quic {
    pub(crate) endpoint: quinn::EndpointConfig,
    pub(crate) server: quinn::ServerConfig,
    pub(crate) client: Client,
    pub(crate) tls: Tls,
}

/// Makes the client side of each dial.
pub(crate) struct Client {
    transport: Arc<quinn::TransportConfig>,
    first_ids: Arc<dyn Fn() -> ConnectionId + Send + Sync>,
}

impl Client {
    pub(crate) fn config(
        &self,
        crypto: Arc<quinn::crypto::rustls::QuicClientConfig>,
    ) -> quinn::ClientConfig {
        let mut client = quinn::ClientConfig::new(crypto);
        client.transport_config(Arc::clone(&self.transport));
        // Address tokens are kept by server name, and all our servers share one.
        client.token_store(Arc::new(NoneTokenStore));
        client.initial_dst_cid_provider(Arc::clone(&self.first_ids));
        client
    }
}

impl Quic {
    pub(crate) fn new(
        config: &EndpointConfig,
        key: &NodeKey,
        seed: [u8; 32],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, BindError> {
        let made = Tls::new(std::slice::from_ref(key), Arc::clone(provider));
        let (tls, server_crypto) = made.map_err(|e| BindError::Key {
            reason: e.to_string(),
        })?;
        let transport = Arc::new(transport(config)?);
        // Seals the addresses that callers have proved; what an endpoint's next life cannot read
        // is proved again.
        let token_key = hkdf::Salt::new(hkdf::HKDF_SHA256, b"qm-transport token").extract(&seed);
        let mut server = quinn::ServerConfig::new(server_crypto, Arc::new(token_key));
        server
            .transport_config(Arc::clone(&transport))
            .migration(true)
            .max_incoming(config.limits.handshakes)
            .incoming_buffer_size(64 << 10)
            .incoming_buffer_size_total(4 << 20);
        Ok(Self {
            endpoint: endpoint(config, key, seed)?,
            server,
            tls,
            client: Client {
                transport,
                first_ids: Arc::new(cid::first_ids(&seed)),
            },
        })
    }
}

fn endpoint(
    config: &EndpointConfig,
    key: &NodeKey,
    seed: [u8; 32],
) -> Result<quinn::EndpointConfig, BindError> {
    // Derived from the node's key, so that a restarted node still recognizes the packets of its
    // former life and answers them with a stateless reset (RFC 9000, section 10.3): its peers
    // then reconnect at once, not after the idle timeout.
    let reset_key = hmac::Key::new(hmac::HMAC_SHA256, &key.derive(b"qm-transport reset"));

    let mut endpoint = quinn::EndpointConfig::new(Arc::new(reset_key));
    endpoint
        .cid_generator(move || Box::new(CidGenerator::new(&seed)))
        .rng_seed(Some(seed))
        .max_udp_payload_size(config.mtu_max.max(RECEIVED_DATAGRAM_BYTES))
        .map_err(|_e| BindError::Config {
            rule: "mtu_max is out of range",
        })?;
    Ok(endpoint)
}

fn transport(config: &EndpointConfig) -> Result<quinn::TransportConfig, BindError> {
    let idle = IdleTimeout::try_from(config.idle_timeout).map_err(|_e| BindError::Config {
        rule: "idle_timeout is too long",
    })?;
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(config.mtu_max);
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::try_from(LANES).map_err(|_e| BindError::Config {
            rule: "too many lanes",
        })?)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(config.keep_alive))
        .stream_receive_window(VarInt::from_u32(config.stream_window_bytes))
        .receive_window(VarInt::from_u32(
            config
                .stranger_window_bytes
                .unwrap_or(config.connection_window_bytes),
        ))
        .send_window(u64::from(config.send_window_bytes))
        .initial_mtu(config.mtu_initial)
        .min_mtu(1200)
        .mtu_discovery_config((config.mtu_max > config.mtu_initial).then_some(discovery))
        // The RFC's 333 ms is a guess for the Internet; it is also the first retransmission's wait.
        .initial_rtt(Duration::from_millis(100))
        .enable_segmentation_offload(true);
    Ok(transport)
}
