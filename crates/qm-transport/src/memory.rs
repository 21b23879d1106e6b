//! A datagram network in memory, whose every fault comes from one seed.
//!
//! [`Endpoint::bind_memory`](crate::Endpoint::bind_memory) opens a real endpoint, with real QUIC
//! and TLS, on such a network instead of a UDP socket. A whole network of nodes then runs in one
//! thread, on tokio's paused clock, as fast as the processor allows.
//!
//! # What is deterministic
//!
//! On a current-thread runtime with the clock paused, the same seed, the same keys and the same
//! calls give the same run: the same datagrams in number, size, time, order and fate, and so the
//! same events in the same order. [`Network::trace`] is a digest of all of it. What the caller
//! must see to: no `HashMap` iteration, `biased` in every `select!`, no blocking threads, keys
//! from constants ([`NodeKey::generate`](crate::NodeKey::generate)).
//!
//! Without the feature `simulation` the *bytes* differ from run to run, because the TLS library
//! draws its own randomness; nothing but ciphertext depends on it, as long as no fault looks at
//! the bytes. With the feature, TLS draws from the seed, too, in exchange for all secrecy, and the
//! bytes are the same ([`Network::trace_bytes`]). Its state is one per thread, begun anew by
//! [`Network::new`].
//!
//! ```
//! use qm_transport::{Endpoint, EndpointConfig, Event, NodeKey, memory::Network};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread()
//! #     .enable_time().start_paused(true).build().unwrap();
//! # runtime.block_on(async {
//! let network = Network::new(42);
//! network.set_faults(qm_transport::memory::Faults { loss_per_mille: 100, ..Default::default() });
//! let (events, mut told) = tokio::sync::mpsc::unbounded_channel();
//! let (hub_events, _hub_told) = tokio::sync::mpsc::unbounded_channel();
//! let hub_config =
//!     EndpointConfig { listen: "10.0.0.1:7000".parse().unwrap(), ..EndpointConfig::default() };
//! let hub_key = NodeKey::generate([1; 32]);
//! let hub = Endpoint::bind_memory(hub_config, &hub_key, hub_events, &network).unwrap();
//! network.name("hub.example:7000", hub.local_addr().unwrap());
//!
//! let key = NodeKey::generate([2; 32]);
//! let node =
//!     Endpoint::bind_memory(EndpointConfig::default(), &key, events, &network).unwrap();
//! node.dial(1, "hub.example:7000", Some(hub_key.qm_id()));
//! assert!(matches!(told.recv().await, Some(Event::Connected { dial: Some(1), .. })));
//! # });
//! ```

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::time::Instant;

mod random;
mod socket;
#[cfg(feature = "simulation")]
pub(crate) mod tls;

use random::Random;
use socket::{Datagram, Inbox, SimSocket};

/// First port given to endpoints that ask for port 0.
const FIRST_PORT: u16 = 40_000;

/// How a path treats datagrams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    /// Datagrams lost, of a thousand.
    pub loss_per_mille: u32,
    /// Datagrams delivered twice, of a thousand.
    pub duplicate_per_mille: u32,
    /// Datagrams, of a thousand, that are held back by `reorder_delay` and so overtaken.
    pub reorder_per_mille: u32,
    /// The extra delay of such datagrams.
    pub reorder_delay: Duration,
    /// Shortest one-way delay. Timers tick in milliseconds, so that arrivals do too.
    pub delay_min: Duration,
    /// Longest one-way delay; each datagram's is drawn evenly between the two.
    pub delay_max: Duration,
    /// Longest datagram that passes, without IP and UDP headers; longer ones are lost.
    pub mtu: usize,
    /// Datagrams, of a thousand, that arrive with one bit turned. No checksum of UDP stands in the
    /// way here; QUIC must notice.
    pub corrupt_per_mille: u32,
    /// What the path carries; a datagram waits until those before it have passed. 0: no limit.
    pub bytes_per_second: u64,
    /// Longest wait for that; who would have to wait longer is lost, as in a full queue.
    pub queue_max: Duration,
}

impl Default for Faults {
    /// A local network without faults: 1 ms each way, Ethernet's datagram size.
    fn default() -> Self {
        Self {
            loss_per_mille: 0,
            duplicate_per_mille: 0,
            reorder_per_mille: 0,
            reorder_delay: Duration::from_millis(20),
            delay_min: Duration::from_millis(1),
            delay_max: Duration::from_millis(1),
            mtu: 1472,
            corrupt_per_mille: 0,
            bytes_per_second: 0,
            queue_max: Duration::from_millis(200),
        }
    }
}

/// What a network has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Datagrams handed in.
    pub sent: u64,
    /// Datagrams put on their way; a duplicate counts again.
    pub carried: u64,
    /// Datagrams lost by chance.
    pub lost: u64,
    /// Datagrams lost in a cut path, at an address nobody has, or for their length.
    pub blocked: u64,
    /// Datagrams lost because too many waited before them.
    pub overflowed: u64,
    /// Datagrams that arrive with a bit turned.
    pub corrupted: u64,
    /// Datagrams that arrive twice.
    pub duplicated: u64,
    /// Datagrams that others overtake, for longer than delays vary.
    pub overtaken: u64,
    /// Bytes of the datagrams handed in.
    pub sent_bytes: u64,
}

/// A simulated datagram network. A cheap handle; clones are the same network.
///
/// Endpoints are named by the address they were bound to, also behind a NAT: faults and cuts of a
/// path take that address, whatever [`rebind`](Self::rebind) shows to the others.
#[derive(Clone)]
pub struct Network {
    world: Arc<Mutex<World>>,
}

struct World {
    random: Random,
    start: Instant,
    inboxes: BTreeMap<SocketAddr, Arc<Mutex<Inbox>>>,
    /// The address others see → the address bound.
    inside: BTreeMap<SocketAddr, SocketAddr>,
    /// The address bound → the address others see.
    outside: BTreeMap<SocketAddr, SocketAddr>,
    names: BTreeMap<String, SocketAddr>,
    faults: Faults,
    paths: BTreeMap<(SocketAddr, SocketAddr), Faults>,
    cut: BTreeSet<(SocketAddr, SocketAddr)>,
    /// When the last datagram of a path of limited bandwidth has passed.
    busy_until: BTreeMap<(SocketAddr, SocketAddr), Instant>,
    last_port: u16,
    last_datagram: u64,
    trace: u64,
    trace_bytes: u64,
    stats: Stats,
}

impl Network {
    /// An empty network without faults. Call it inside the runtime whose clock it shall use.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        #[cfg(feature = "simulation")]
        tls::seed(seed);
        let world = World {
            random: Random::new(seed),
            start: Instant::now(),
            inboxes: BTreeMap::new(),
            inside: BTreeMap::new(),
            outside: BTreeMap::new(),
            names: BTreeMap::new(),
            faults: Faults::default(),
            paths: BTreeMap::new(),
            cut: BTreeSet::new(),
            busy_until: BTreeMap::new(),
            last_port: FIRST_PORT,
            last_datagram: 0,
            trace: seed,
            trace_bytes: seed,
            stats: Stats::default(),
        };
        Self {
            world: Arc::new(Mutex::new(world)),
        }
    }

    /// Faults of every path that has none of its own, from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.world().faults = faults;
    }

    /// Faults of one direction of one path; `None` gives it those of all the others again.
    pub fn set_path(&self, from: SocketAddr, to: SocketAddr, faults: Option<Faults>) {
        let mut world = self.world();
        match faults {
            Some(faults) => world.paths.insert((from, to), faults),
            None => world.paths.remove(&(from, to)),
        };
    }

    /// Cuts one direction of a path: nothing passes until [`mend`](Self::mend).
    pub fn cut(&self, from: SocketAddr, to: SocketAddr) {
        self.world().cut.insert((from, to));
    }

    /// Ends a [`cut`](Self::cut).
    pub fn mend(&self, from: SocketAddr, to: SocketAddr) {
        self.world().cut.remove(&(from, to));
    }

    /// From now on the others see the endpoint bound to `bound` at `shown`, as if its NAT had
    /// forgotten the old mapping: what is sent to the address shown before is lost.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AddrInUse`] if others see another endpoint there.
    pub fn rebind(&self, bound: SocketAddr, shown: SocketAddr) -> io::Result<()> {
        let mut world = self.world();
        if world
            .inside
            .get(&shown)
            .is_some_and(|holder| *holder != bound)
        {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        if let Some(before) = world.outside.insert(bound, shown) {
            world.inside.remove(&before);
        }
        world.inside.insert(shown, bound);
        Ok(())
    }

    /// Takes the endpoint at `bound` off the network at once and for good, as when its process is
    /// killed: it sends and receives nothing more, and its address is free for another.
    pub fn unplug(&self, bound: SocketAddr) {
        let mut world = self.world();
        world.inboxes.remove(&bound);
        world.forget(bound);
    }

    /// Puts a datagram of anybody's making on its way to the endpoint that others see at `to`, as
    /// if it came from `from`: a forgery, noise, or an old datagram again. Faults of the path do
    /// not touch it. Returns whether an endpoint is there.
    pub fn inject(&self, from: SocketAddr, to: SocketAddr, bytes: Bytes) -> bool {
        let mut world = self.world();
        let inbox = world
            .inside
            .get(&to)
            .and_then(|bound| world.inboxes.get(bound))
            .map(Arc::clone);
        let Some(inbox) = inbox else { return false };
        let datagram = Datagram {
            from,
            bytes,
            ecn: None,
        };
        let delay = Duration::from_millis(1);
        world.note(from, to, &datagram.bytes, delay, Fate::Injected);
        world.deliver(&inbox, delay, datagram);
        true
    }

    /// Lets [`dial`](crate::Endpoint::dial) find `name` (`host:port`) at an address.
    pub fn name(&self, name: &str, address: SocketAddr) {
        self.world().names.insert(name.to_owned(), address);
    }

    /// A digest of every datagram so far: its time, ends, length and fate.
    ///
    /// Equal digests at the end of two runs mean that the two runs were the same.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.world().trace
    }

    /// A digest of the bytes of every datagram so far. Repeats itself only with the feature
    /// `simulation`.
    #[must_use]
    pub fn trace_bytes(&self) -> u64 {
        self.world().trace_bytes
    }

    /// Counts of what has happened so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.world().stats
    }

    pub(crate) fn resolve(&self, name: &str) -> Option<SocketAddr> {
        self.world().names.get(name).copied()
    }

    /// The wall clock of every endpoint: it dates address tokens.
    pub(crate) fn clock(&self) -> Arc<dyn quinn::TimeSource> {
        Arc::new(WallClock {
            start: self.world().start,
        })
    }

    /// Randomness for one endpoint's QUIC state.
    pub(crate) fn endpoint_seed(&self) -> [u8; 32] {
        let mut world = self.world();
        let mut seed = [0; 32];
        for place in seed.chunks_exact_mut(8) {
            place.copy_from_slice(&world.random.next().to_le_bytes());
        }
        seed
    }

    pub(crate) fn socket(&self, listen: SocketAddr) -> io::Result<Arc<SimSocket>> {
        let mut world = self.world();
        let mut bound = listen;
        if bound.ip().is_unspecified() {
            bound.set_ip(IpAddr::V4(Ipv4Addr::new(10, 255, 255, 254)));
        }
        if bound.port() == 0 {
            world.last_port = world
                .last_port
                .checked_add(1)
                .ok_or(io::ErrorKind::AddrInUse)?;
            bound.set_port(world.last_port);
        }
        if world.inside.contains_key(&bound) || world.outside.contains_key(&bound) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let inbox = Arc::new(Mutex::new(Inbox::default()));
        world.inboxes.insert(bound, Arc::clone(&inbox));
        world.inside.insert(bound, bound);
        world.outside.insert(bound, bound);
        Ok(Arc::new(SimSocket::new(self.clone(), bound, inbox)))
    }

    /// Carries one datagram from the socket with that inbox, or loses it.
    fn carry(&self, from: SocketAddr, own: &Arc<Mutex<Inbox>>, to: SocketAddr, datagram: Datagram) {
        let mut world = self.world();
        let plugged = world
            .inboxes
            .get(&from)
            .is_some_and(|inbox| Arc::ptr_eq(inbox, own));
        if plugged {
            world.carry(from, to, datagram);
        }
    }

    /// A socket is gone; its address is free unless another has taken it meanwhile.
    fn release(&self, bound: SocketAddr, own: &Arc<Mutex<Inbox>>) {
        let mut world = self.world();
        if world
            .inboxes
            .get(&bound)
            .is_some_and(|inbox| Arc::ptr_eq(inbox, own))
        {
            world.inboxes.remove(&bound);
            world.forget(bound);
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let world = self.world();
        f.debug_struct("Network")
            .field("endpoints", &world.inboxes.len())
            .field("stats", &world.stats)
            .finish_non_exhaustive()
    }
}

/// Begins in 2026 with the network.
struct WallClock {
    start: Instant,
}

impl quinn::TimeSource for WallClock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_767_312_000) + self.start.elapsed()
    }
}

/// What became of a datagram, as it enters the trace.
#[derive(Clone, Copy)]
enum Fate {
    Carried = 1,
    Lost = 2,
    Blocked = 3,
    Overflowed = 4,
    Injected = 5,
}

impl World {
    fn carry(&mut self, from: SocketAddr, to: SocketAddr, mut datagram: Datagram) {
        let length = datagram.bytes.len();
        self.stats.sent += 1;
        self.stats.sent_bytes += length as u64;
        let bound = self.inside.get(&to).copied();
        let path = bound.map(|bound| (from, bound));
        let faults = path
            .and_then(|path| self.paths.get(&path))
            .unwrap_or(&self.faults)
            .clone();
        // Drawn for every datagram, so that a cut does not shift the luck of those behind it.
        let lost = self.random.one_of_thousand(faults.loss_per_mille);
        let twice = self.random.one_of_thousand(faults.duplicate_per_mille);
        let ((first, overtaken), (second, _)) = (self.delay(&faults), self.delay(&faults));
        let corrupt = self.random.one_of_thousand(faults.corrupt_per_mille);
        let bit = self.random.below(length as u64 * 8);

        let inbox = bound
            .and_then(|bound| self.inboxes.get(&bound))
            .map(Arc::clone);
        let open = path.is_some_and(|path| !self.cut.contains(&path));
        let Some(inbox) = inbox.filter(|_inbox| open && length <= faults.mtu) else {
            self.stats.blocked += 1;
            self.note(from, to, &datagram.bytes, Duration::ZERO, Fate::Blocked);
            return;
        };
        if lost {
            self.stats.lost += 1;
            self.note(from, to, &datagram.bytes, Duration::ZERO, Fate::Lost);
            return;
        }
        let Some(wait) = path.and_then(|path| self.queue(path, length, &faults)) else {
            self.stats.overflowed += 1;
            self.note(from, to, &datagram.bytes, Duration::ZERO, Fate::Overflowed);
            return;
        };
        if corrupt {
            self.stats.corrupted += 1;
            datagram.bytes = with_bit_turned(&datagram.bytes, bit);
        }
        datagram.from = self.outside.get(&from).copied().unwrap_or(from);
        self.stats.duplicated += u64::from(twice);
        self.stats.overtaken += u64::from(overtaken);
        let copies = [Some(first), twice.then_some(second)];
        for delay in copies.into_iter().flatten() {
            self.stats.carried += 1;
            self.note(from, to, &datagram.bytes, wait + delay, Fate::Carried);
            self.deliver(&inbox, wait + delay, datagram.clone());
        }
    }

    fn deliver(&mut self, inbox: &Mutex<Inbox>, delay: Duration, datagram: Datagram) {
        self.last_datagram += 1;
        socket::deliver(inbox, Instant::now() + delay, self.last_datagram, datagram);
    }

    /// How long a datagram waits until it has passed a path; `None` if the queue is full.
    fn queue(
        &mut self,
        path: (SocketAddr, SocketAddr),
        length: usize,
        faults: &Faults,
    ) -> Option<Duration> {
        let micros = (length as u64)
            .saturating_mul(1_000_000)
            .checked_div(faults.bytes_per_second);
        let Some(micros) = micros else {
            return Some(Duration::ZERO);
        };
        let now = Instant::now();
        let free = self
            .busy_until
            .get(&path)
            .map_or(now, |free| now.max(*free));
        if free - now > faults.queue_max {
            return None;
        }
        let passed = free + Duration::from_micros(micros);
        self.busy_until.insert(path, passed);
        Some(passed - now)
    }

    /// How long a datagram is on its way, and whether others overtake it.
    fn delay(&mut self, faults: &Faults) -> (Duration, bool) {
        let spread = faults.delay_max.saturating_sub(faults.delay_min);
        let spread = u64::try_from(spread.as_micros()).unwrap_or(u64::MAX);
        let jitter = Duration::from_micros(self.random.below(spread.saturating_add(1)));
        let overtaken = self.random.one_of_thousand(faults.reorder_per_mille);
        let extra = if overtaken {
            faults.reorder_delay
        } else {
            Duration::ZERO
        };
        (faults.delay_min + jitter + extra, overtaken)
    }

    /// Mixes one datagram into the digest.
    fn note(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        bytes: &[u8],
        delay: Duration,
        fate: Fate,
    ) {
        let length = bytes.len();
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let end = |address: SocketAddr| {
            let ip = match address.ip() {
                IpAddr::V4(ip) => u64::from(ip.to_bits()),
                IpAddr::V6(ip) => ip.segments().iter().fold(0, |sum: u64, part| {
                    sum.wrapping_mul(0x1_0001).wrapping_add(u64::from(*part))
                }),
            };
            ip << 16 ^ u64::from(address.port())
        };
        let facts = [
            micros(self.start.elapsed()),
            micros(delay),
            end(from),
            end(to),
            length as u64,
            fate as u64,
        ];
        for fact in facts {
            self.trace = random::mix(self.trace ^ fact);
        }
        self.trace_bytes = bytes.chunks(8).fold(self.trace_bytes, |digest, chunk| {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            random::mix(digest ^ u64::from_le_bytes(word))
        });
        tracing::trace!(?from, ?to, length, fate = fate as u64, "datagram");
    }

    fn forget(&mut self, bound: SocketAddr) {
        if let Some(shown) = self.outside.remove(&bound) {
            self.inside.remove(&shown);
        }
    }
}

fn with_bit_turned(bytes: &[u8], bit: u64) -> Bytes {
    let mut turned = bytes.to_vec();
    let at = usize::try_from(bit / 8).unwrap_or(usize::MAX);
    if let Some(byte) = turned.get_mut(at) {
        *byte ^= 1 << (bit % 8);
    }
    turned.into()
}
