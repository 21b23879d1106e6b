//! The endpoint: one UDP socket, all the links of a node.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use qm_wire::QmId;
use quinn::crypto::rustls::HandshakeData;
use quinn::{Runtime as _, ServerConfig, TokioRuntime, VarInt};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use crate::config::EndpointConfig;
use crate::dial;
use crate::error::{BindError, CloseReason, DialError};
use crate::event::{Event, LinkId};
use crate::gate::{Gate, Rates, origin};
use crate::key::{NodeKey, public_key_of_spki};
use crate::lane::Lane;
use crate::link::{self, Link, canonical, tell};
use crate::memory::Network;
use crate::quic::{Client, Quic, code};
use crate::quiet::QuietSocket;
use crate::stats::LinkStats;
use crate::tls::{Tls, answering, crypto_provider};

/// A link with less unread than this is not why there is too much of it.
const UNREAD_SHARE_BYTES: u64 = 1 << 20;

/// A node's place on the network: a UDP socket and the links over it.
///
/// A cheap handle; when the last clone is dropped every link ends at once, without flushing.
/// All calls may come from any thread; none but [`shutdown`](Self::shutdown) waits.
#[derive(Clone)]
pub struct Endpoint {
    handle: Arc<LastHandle>,
}

/// Closes the endpoint when the last handle goes; the tasks hold [`Shared`], never this.
struct LastHandle(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) config: EndpointConfig,
    pub(crate) quinn: quinn::Endpoint,
    pub(crate) client: Client,
    keys: Mutex<Arc<Keys>>,
    provider: Arc<CryptoProvider>,
    pub(crate) resolver: Resolver,
    events: mpsc::UnboundedSender<Event>,
    runtime: Handle,
    pub(crate) table: Mutex<Table>,
    /// A link, a dial or an incoming handshake has ended.
    ended: Notify,
    /// Whether nothing is sent any more.
    quiet: Arc<AtomicBool>,
}

/// The keys that an endpoint holds at a time, and how they answer.
pub(crate) struct Keys {
    pub(crate) tls: Tls,
    /// For the handshakes that come in while these are the keys.
    server: Arc<ServerConfig>,
}

/// Who turns names into addresses.
pub(crate) enum Resolver {
    System,
    Memory(Network),
}

#[derive(Default)]
pub(crate) struct Table {
    pub(crate) links: BTreeMap<LinkId, Arc<Link>>,
    links_by_peer: BTreeMap<QmId, usize>,
    links_by_address: BTreeMap<IpAddr, usize>,
    /// Links that came in and are not trusted, oldest first.
    strangers: BTreeSet<LinkId>,
    pub(crate) handshakes: usize,
    pub(crate) handshakes_by_address: BTreeMap<IpAddr, usize>,
    pub(crate) rates: Rates,
    dials: usize,
    last_link: u64,
    pub(crate) shut_down: bool,
}

impl Endpoint {
    /// Opens the UDP socket and starts to accept links; what happens is told through `events`.
    ///
    /// Must be called inside a tokio runtime, which then runs the endpoint's tasks.
    ///
    /// # Errors
    ///
    /// [`BindError`] if the address cannot be had or a setting makes no sense.
    #[expect(
        clippy::unused_async,
        reason = "shows that it belongs inside a runtime"
    )]
    pub async fn bind(
        config: EndpointConfig,
        key: &NodeKey,
        events: mpsc::UnboundedSender<Event>,
    ) -> Result<Self, BindError> {
        config.check()?;
        let listen = config.listen;
        let mut seed = [0; 32];
        SystemRandom::new()
            .fill(&mut seed)
            .map_err(|_e| BindError::Entropy)?;
        let provider = Arc::new(crypto_provider());
        let Quic {
            endpoint,
            server,
            client,
            tls,
        } = Quic::new(&config, key, seed, &provider)?;
        let socket = udp_socket(&config).map_err(|e| BindError::io(listen, e))?;
        let keys = Keys {
            tls,
            server: Arc::new(server.clone()),
        };
        let quiet = Arc::new(AtomicBool::new(false));
        let runtime = Arc::new(TokioRuntime);
        let socket = runtime.wrap_udp_socket(socket);
        let socket = socket.map_err(|e| BindError::io(listen, e))?;
        let socket = QuietSocket::new(socket, &quiet);
        let quinn =
            quinn::Endpoint::new_with_abstract_socket(endpoint, Some(server), socket, runtime)
                .map_err(|e| BindError::io(listen, e))?;
        let made = (quinn, client, keys, provider);
        Ok(Self::start(config, made, (Resolver::System, quiet), events))
    }

    /// Opens an endpoint on a simulated network instead of a socket.
    ///
    /// `config.listen` is its address there. See [`memory`](crate::memory) for what is
    /// deterministic.
    ///
    /// # Errors
    ///
    /// [`BindError::AddressInUse`] if another endpoint of that network has the address, and
    /// [`BindError::Config`] if a setting makes no sense.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn bind_memory(
        config: EndpointConfig,
        key: &NodeKey,
        events: mpsc::UnboundedSender<Event>,
        network: &Network,
    ) -> Result<Self, BindError> {
        config.check()?;
        let listen = config.listen;
        let socket = network
            .socket(listen)
            .map_err(|e| BindError::io(listen, e))?;
        let quiet = Arc::new(AtomicBool::new(false));
        let socket = QuietSocket::new(socket, &quiet);
        let seed = network.endpoint_seed();
        let provider = crypto_provider();
        #[cfg(feature = "simulation")]
        let provider = crate::memory::tls::seeded(provider);
        let provider = Arc::new(provider);
        let Quic {
            endpoint,
            mut server,
            client,
            tls,
        } = Quic::new(&config, key, seed, &provider)?;
        server.time_source(network.clock());
        let keys = Keys {
            tls,
            server: Arc::new(server.clone()),
        };
        let quinn = quinn::Endpoint::new_with_abstract_socket(
            endpoint,
            Some(server),
            socket,
            Arc::new(TokioRuntime),
        )
        .map_err(|e| BindError::io(listen, e))?;
        let resolver = Resolver::Memory(network.clone());
        let made = (quinn, client, keys, provider);
        Ok(Self::start(config, made, (resolver, quiet), events))
    }

    fn start(
        config: EndpointConfig,
        (quinn, client, keys, provider): (quinn::Endpoint, Client, Keys, Arc<CryptoProvider>),
        (resolver, quiet): (Resolver, Arc<AtomicBool>),
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        let shared = Arc::new(Shared {
            config,
            quinn,
            client,
            keys: Mutex::new(Arc::new(keys)),
            provider,
            resolver,
            events,
            runtime: Handle::current(),
            table: Mutex::default(),
            ended: Notify::new(),
            quiet,
        });
        shared.runtime.spawn(accept(Arc::clone(&shared)));
        Self {
            handle: Arc::new(LastHandle(shared)),
        }
    }

    /// The address of the UDP socket, with the real port where 0 was asked for.
    ///
    /// # Errors
    ///
    /// When the operating system cannot say, which it can while the socket is open.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.shared().quinn.local_addr()
    }

    /// Changes the keys of this endpoint. The first is its own, behind it are those that it still
    /// answers to when whoever dials asks for them. Links that are open stay what they are.
    ///
    /// # Errors
    ///
    /// [`BindError::Key`] if a key cannot be used; then the keys are the same as before.
    pub fn set_keys(&self, keys: &[NodeKey]) -> Result<(), BindError> {
        let shared = self.shared();
        let made = Tls::new(keys, Arc::clone(&shared.provider));
        let (tls, crypto) = made.map_err(|e| BindError::Key {
            reason: e.to_string(),
        })?;
        if keys.is_empty() {
            return Err(BindError::Key {
                reason: "an endpoint needs a key".to_owned(),
            });
        }
        let mut held = shared.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let mut server = ServerConfig::clone(&held.server);
        server.crypto = crypto;
        *held = Arc::new(Keys {
            tls,
            server: Arc::new(server),
        });
        Ok(())
    }

    /// Starts to dial `address` (`host:port`, IPv6 literals in brackets), resolved anew each time.
    ///
    /// The answer is [`Event::Connected`] or [`Event::DialFailed`] with the same `dial`. With
    /// `expected`, only a peer that proves to hold that id's key is connected. Retrying, and
    /// waiting before it, is the caller's.
    ///
    /// # Panics
    ///
    /// Never: an endpoint has a key of its own.
    pub fn dial(&self, dial: u64, address: &str, expected: Option<QmId>) {
        let own = self.shared().keys().tls.owns().first().copied();
        let own = own.expect("invariant: an endpoint has a key of its own");
        self.dial_as(dial, own, address, expected);
    }

    /// The same; this side proves to be `own`, one of the identities whose keys it holds.
    pub fn dial_as(&self, dial: u64, own: QmId, address: &str, expected: Option<QmId>) {
        let shared = Arc::clone(self.shared());
        let mut table = shared.table();
        if table.shut_down {
            tell(
                &shared.events,
                Event::DialFailed {
                    dial,
                    error: DialError::ShutDown,
                },
            );
            return;
        }
        if table.dials >= shared.config.limits.dials {
            let limit = "as many dials under way as there may be";
            let error = DialError::TooMany { limit };
            tell(&shared.events, Event::DialFailed { dial, error });
            return;
        }
        table.dials += 1;
        drop(table);
        let address = address.to_owned();
        shared.runtime.clone().spawn(async move {
            let under_way = OnDrop::new(&shared, |table| table.dials -= 1);
            match dial::dial(&shared, own, &address, expected).await {
                Ok(connection) => {
                    shared
                        .run_link(connection, own, Some(dial), under_way)
                        .await;
                }
                Err(error) => tell(&shared.events, Event::DialFailed { dial, error }),
            }
        });
    }

    /// Queues whole frames, one behind the other, for a lane of a link.
    ///
    /// Frames of one lane arrive in the order of the calls. Never waits and never refuses; a link
    /// whose peer leaves more than
    /// [`unread_bytes_max`](EndpointConfig::unread_bytes_max) unread is closed with
    /// [`CloseReason::Unread`]. Hand over many frames at once: up to 64 KiB is sent
    /// as cheaply as one. For a link that has ended the frames are dropped; its `Closed` has been
    /// told or is about to be.
    pub fn send(&self, link: LinkId, lane: Lane, frames: Bytes) {
        let shared = self.shared();
        let found = shared.table().links.get(&link).cloned();
        if let Some(link) = found {
            link.send(&shared.runtime, lane, frames);
            shared.bound_unread(&link);
        }
    }

    /// Bytes given to [`send`](Self::send) that QUIC has not taken over yet; 0 for an ended link.
    ///
    /// QUIC itself holds up to
    /// [`send_window_bytes`](EndpointConfig::send_window_bytes) more.
    #[must_use]
    pub fn queued_bytes(&self, link: LinkId) -> u64 {
        self.shared()
            .table()
            .links
            .get(&link)
            .map_or(0, |link| link.queued_bytes())
    }

    /// Gives a link the full use of this node; see
    /// [`stranger_window_bytes`](EndpointConfig::stranger_window_bytes), without which every link
    /// has it from the start. Cannot be taken back except by [`close`](Self::close).
    pub fn trust(&self, link: LinkId) {
        let mut table = self.shared().table();
        table.strangers.remove(&link);
        let found = table.links.get(&link).cloned();
        drop(table);
        if let Some(link) = found {
            link.trust(&self.shared().config);
        }
    }

    /// How a link is doing; `None` if it has ended.
    #[must_use]
    pub fn stats(&self, link: LinkId) -> Option<LinkStats> {
        let found = self.shared().table().links.get(&link).cloned();
        found.map(|link| link.stats())
    }

    /// Ends a link: waits, for at most
    /// [`flush_timeout`](EndpointConfig::flush_timeout), until the peer has everything that is
    /// queued, then closes with `code` and `reason` (cut to 1 KiB), which the peer sees in
    /// [`CloseReason::Peer`].
    ///
    /// Does not wait itself; [`Event::Closed`] tells the end. A second call changes nothing.
    pub fn close(&self, link: LinkId, code: u32, reason: &str) {
        let found = self.shared().table().links.get(&link).cloned();
        if let Some(link) = found {
            link.end(CloseReason::Local {
                code,
                reason: reason.to_owned(),
            });
        }
    }

    /// Ends every link as [`close`](Self::close) does, refuses new ones, and waits for all of it.
    ///
    /// Afterwards every `Closed` and `DialFailed` has been told. Takes at most about twice the
    /// flush timeout.
    pub async fn shutdown(&self) {
        let shared = self.shared();
        let links: Vec<_> = {
            let mut table = shared.table();
            table.shut_down = true;
            table.links.values().cloned().collect()
        };
        for link in links {
            link.end(CloseReason::ShutDown);
        }
        let flush = shared.config.flush_timeout;
        // Links end by themselves within the flush timeout; dials do not.
        let flushed = timeout(flush, shared.wait(|table| table.links.is_empty())).await;
        if flushed.is_err() {
            tracing::debug!("shutdown: the peers did not acknowledge everything in time");
        }
        shared.close_now();
        shared
            .wait(|table| table.links.is_empty() && table.dials == 0 && table.handshakes == 0)
            .await;
        // quinn repeats its close packets for a while; a peer that is gone needs no more of them.
        if timeout(flush, shared.quinn.wait_idle()).await.is_err() {
            tracing::debug!("shutdown: closed without the peers' confirmation");
        }
    }

    /// Ends everything at once and sends nothing more, not even that it ends: for a process that
    /// may share the keys of its connections with another one. Peers notice by silence, or when
    /// this node dials again. The endpoint is of no further use.
    pub fn abandon(&self) {
        let shared = self.shared();
        shared.quiet.store(true, Ordering::SeqCst);
        shared.table().shut_down = true;
        shared.close_now();
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.0
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("local_addr", &self.local_addr().ok())
            .finish_non_exhaustive()
    }
}

impl Drop for LastHandle {
    fn drop(&mut self) {
        self.0.table().shut_down = true;
        self.0.close_now();
    }
}

impl Shared {
    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn close_now(&self) {
        self.quinn.close(
            VarInt::from_u64(code::SHUT_DOWN).unwrap_or(VarInt::MAX),
            b"",
        );
    }

    async fn wait(&self, done: impl Fn(&Table) -> bool) {
        loop {
            // Made before the question, so that no end is missed in between.
            let ended = self.ended.notified();
            if done(&self.table()) {
                return;
            }
            ended.await;
        }
    }

    /// Takes a finished handshake through its life as a link; `under_way` is dropped as soon as
    /// the link is in the table, or is not going to be.
    async fn run_link<T>(
        self: &Arc<Self>,
        connection: quinn::Connection,
        own: QmId,
        dial: Option<u64>,
        under_way: T,
    ) {
        let remote = canonical(connection.remote_address());
        let Some(public_key) = peer_key(&connection) else {
            // The verifiers let nobody through without a key; there is nobody to name.
            connection.close(VarInt::from_u32(0), b"no key");
            return;
        };
        let peer = QmId::from_ed25519_public_key(&public_key);
        let link = match self.admit(&connection, peer, dial, remote.ip()) {
            Ok(link) => link,
            Err(error) => {
                tracing::debug!(%peer, %remote, %error, "link not admitted");
                if let DialError::TooMany { limit } = error {
                    link::refuse(&connection, limit);
                }
                if let Some(dial) = dial {
                    tell(&self.events, Event::DialFailed { dial, error });
                }
                return;
            }
        };
        tell(
            &self.events,
            Event::Connected {
                link: link.id,
                peer,
                public_key,
                own,
                remote,
                dial,
            },
        );
        drop(under_way);
        let reason = link::run(&link, &self.config, &self.events).await;
        self.table().remove(&link, dial, remote.ip());
        tell(
            &self.events,
            Event::Closed {
                link: link.id,
                reason,
            },
        );
        self.ended.notify_waiters();
    }

    /// Ends a link when its peer leaves too much unread; and when all peers together do, the one
    /// that leaves most.
    fn bound_unread(&self, link: &Arc<Link>) {
        let config = &self.config;
        if let Some(bytes) = link.unread_too_much(config) {
            return link.end_unread(bytes);
        }
        // Adding up takes a look at every link: only when this one has its share of it.
        if link.queued_bytes() < UNREAD_SHARE_BYTES {
            return;
        }
        let table = self.table();
        let total: u64 = table.links.values().map(|link| link.queued_bytes()).sum();
        let most = table.links.values().max_by_key(|link| link.queued_bytes());
        let most = most
            .filter(|_| total > config.unread_bytes_total_max)
            .cloned();
        drop(table);
        if let Some(most) = most {
            most.end_unread(most.queued_bytes());
        }
    }

    /// Enters the link into the table, if the limits allow it.
    fn admit(
        &self,
        connection: &quinn::Connection,
        peer: QmId,
        dial: Option<u64>,
        address: IpAddr,
    ) -> Result<Arc<Link>, DialError> {
        let limits = &self.config.limits;
        let mut table = self.table();
        if table.shut_down {
            return Err(DialError::ShutDown);
        }
        let from_peer = table.links_by_peer.get(&peer).copied().unwrap_or(0);
        let address = origin(address);
        let from_address = table.links_by_address.get(&address).copied().unwrap_or(0);
        let too_many = |limit| Err(DialError::TooMany { limit });
        if table.links.len() >= limits.links {
            return too_many("this node has as many links as it may");
        }
        if from_peer >= limits.links_per_peer {
            return too_many("as many links with one identity as there may be");
        }
        let mut ousted = None;
        if dial.is_none() {
            if from_address >= limits.links_per_address {
                return too_many("as many links from one address as there may be");
            }
            table.links_by_address.insert(address, from_address + 1);
            if table.strangers.len() >= limits.strangers {
                // Whoever is known is told apart within a moment: keys cost an attacker nothing,
                // and must not shut out those who come after him.
                let oldest = table.strangers.pop_first();
                ousted = oldest.and_then(|oldest| table.links.get(&oldest).cloned());
            }
        }
        table.links_by_peer.insert(peer, from_peer + 1);
        let (id, dialled) = (table.next_link(), dial.is_some());
        let link = Link::new(id, peer, dialled, connection.clone(), &self.config);
        table.links.insert(link.id, Arc::clone(&link));
        if dial.is_none() && self.config.stranger_window_bytes.is_some() {
            table.strangers.insert(link.id);
        }
        drop(table);
        if let Some(ousted) = ousted {
            ousted.end_now(CloseReason::Local {
                code: u32::from(qm_wire::Outcome::BUSY.0),
                reason: "too many strangers are connected; newer ones took the place".to_owned(),
            });
        }
        Ok(link)
    }
}

impl Table {
    fn next_link(&mut self) -> LinkId {
        self.last_link += 1;
        LinkId(self.last_link)
    }

    fn remove(&mut self, link: &Link, dial: Option<u64>, address: IpAddr) {
        if self.links.remove(&link.id).is_none() {
            return;
        }
        self.strangers.remove(&link.id);
        count_down(&mut self.links_by_peer, link.peer);
        if dial.is_none() {
            count_down(&mut self.links_by_address, origin(address));
        }
    }
}

fn count_down<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

/// Undoes a count in the table and tells those who wait for it.
struct OnDrop<'a, F: Fn(&mut Table)> {
    shared: &'a Shared,
    undo: F,
}

impl<'a, F: Fn(&mut Table)> OnDrop<'a, F> {
    fn new(shared: &'a Shared, undo: F) -> Self {
        Self { shared, undo }
    }
}

impl<F: Fn(&mut Table)> Drop for OnDrop<'_, F> {
    fn drop(&mut self) {
        (self.undo)(&mut self.shared.table());
        self.shared.ended.notify_waiters();
    }
}

/// Takes incoming handshakes until the endpoint is closed.
async fn accept(shared: Arc<Shared>) {
    while let Some(incoming) = shared.quinn.accept().await {
        let address = origin(incoming.remote_address().ip());
        match shared.gate(&incoming, address) {
            Gate::Open => {
                let shared = Arc::clone(&shared);
                let keys = shared.keys();
                let accepted = incoming.accept_with(Arc::clone(&keys.server));
                shared.runtime.clone().spawn(async move {
                    let under_way = OnDrop::new(&shared, |table| {
                        table.handshakes -= 1;
                        count_down(&mut table.handshakes_by_address, address);
                    });
                    let connecting = match accepted {
                        Ok(connecting) => connecting,
                        Err(error) => {
                            return tracing::debug!(%address, %error, "handshake failed");
                        }
                    };
                    let handshake = timeout(shared.config.handshake_timeout, connecting).await;
                    match handshake {
                        Ok(Ok(connection)) => {
                            if let Some(own) = answered_as(&connection, &keys.tls.owns()) {
                                shared.run_link(connection, own, None, under_way).await;
                            }
                        }
                        Ok(Err(error)) => tracing::debug!(%address, %error, "handshake failed"),
                        Err(_elapsed) => tracing::debug!(%address, "handshake took too long"),
                    }
                });
            }
            // Fails only for those who have proved their address, which the gate lets in.
            Gate::ProveAddress => drop(incoming.retry()),
            Gate::Shut => incoming.refuse(),
            Gate::Later => incoming.ignore(),
        }
    }
}

/// Under which identity a handshake that came in was answered, when these were the keys.
fn answered_as(connection: &quinn::Connection, owns: &[QmId]) -> Option<QmId> {
    let data = connection.handshake_data()?;
    let data = data.downcast_ref::<HandshakeData>()?;
    answering(owns, data.server_name.as_deref())
}

fn peer_key(connection: &quinn::Connection) -> Option<[u8; 32]> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast_ref::<Vec<CertificateDer<'static>>>()?;
    public_key_of_spki(chain.first()?)
}

fn udp_socket(config: &EndpointConfig) -> std::io::Result<std::net::UdpSocket> {
    let listen = config.listen;
    let socket = Socket::new(
        Domain::for_address(listen),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if listen.is_ipv6() && listen.ip().is_unspecified() {
        // Platforms differ in their default; some cannot do both, then IPv6 alone must do.
        if let Err(error) = socket.set_only_v6(false) {
            tracing::debug!(%error, "the socket takes IPv6 only");
        }
    }
    for (what, set) in [
        (
            "receive",
            socket.set_recv_buffer_size(config.socket_buffer_bytes),
        ),
        (
            "send",
            socket.set_send_buffer_size(config.socket_buffer_bytes),
        ),
    ] {
        if let Err(error) = set {
            tracing::debug!(%error, what, "the kernel keeps its own UDP buffer size");
        }
    }
    socket.bind(&listen.into())?;
    Ok(socket.into())
}
