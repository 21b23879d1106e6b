//! Links as they really are: endpoints of `qm-transport`, with QUIC and TLS, on a network of
//! datagrams that is made from the seed.

use core::future::poll_fn;
use core::task::Poll;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use qm_engine::{Entropy, Lane, LinkId, SeededEntropy};
use qm_transport::memory::{Faults, Network, Stats};
use qm_transport::{Endpoint, EndpointConfig, Event, NodeKey};
use qm_wire::QmId;
use tokio::sync::mpsc;

pub(crate) mod input;
pub(crate) mod noise;
mod packets;

pub use packets::Packets;

/// The port that every machine listens on.
pub(crate) const PORT: u16 = 1801;

/// All machines' places on the network.
pub(crate) struct Wires {
    network: Network,
    homes: Vec<Home>,
    config: EndpointConfig,
    /// The machine that nobody can dial.
    hidden: Option<usize>,
}

/// One machine's place on the network.
struct Home {
    key: NodeKey,
    /// Its own address, by which the network knows it.
    bound: SocketAddr,
    /// What the others see.
    shown: SocketAddr,
    /// How often that has changed.
    moves: u16,
    plugged: Option<Plugged>,
    /// Whether it reads what arrives.
    deaf: bool,
}

/// The endpoint of a running process.
struct Plugged {
    endpoint: Endpoint,
    told: mpsc::UnboundedReceiver<Event>,
    links: BTreeSet<LinkId>,
}

impl Wires {
    /// A network for so many machines. Must be made inside the runtime whose clock it follows.
    pub(crate) fn new(seed: u64, nodes: usize, packets: &Packets, hidden: Option<usize>) -> Self {
        let network = Network::new(seed ^ 0x9a1c);
        network.set_faults(packets.faults());
        let homes: Vec<_> = (0..nodes).map(|node| Home::new(seed, node)).collect();
        let wires = Self {
            network,
            homes,
            config: packets.endpoint(),
            hidden,
        };
        for node in 0..nodes {
            wires.publish(node);
        }
        wires
    }

    pub(crate) fn public_key(&self, node: usize) -> [u8; 32] {
        self.homes[node].key.public_key()
    }

    /// Puts a machine on the network.
    pub(crate) fn plug(&mut self, node: usize) -> Result<(), String> {
        let home = &mut self.homes[node];
        let config = EndpointConfig {
            listen: home.bound,
            ..self.config.clone()
        };
        let (events, told) = mpsc::unbounded_channel();
        let endpoint = Endpoint::bind_memory(config, &home.key, events, &self.network)
            .map_err(|error| format!("node{node}: {error}"))?;
        home.plugged = Some(Plugged {
            endpoint,
            told,
            links: BTreeSet::new(),
        });
        home.shown = home.bound;
        home.deaf = false;
        self.publish(node);
        if self.hidden == Some(node) {
            // Every life has a mapping of its own in the translator.
            self.move_away(node);
        }
        Ok(())
    }

    /// Takes a machine off the network without a word to anybody.
    pub(crate) fn unplug(&mut self, node: usize) {
        let home = &mut self.homes[node];
        if home.plugged.is_some() {
            self.network.unplug(home.bound);
            home.plugged = None;
        }
    }

    pub(crate) fn dial(&self, node: usize, dial: u64, address: &str, expected: Option<QmId>) {
        if let Some(plugged) = &self.homes[node].plugged {
            plugged.endpoint.dial(dial, address, expected);
        }
    }

    pub(crate) fn send(&self, node: usize, link: LinkId, lane: Lane, frames: Bytes) {
        if let Some(plugged) = &self.homes[node].plugged {
            let lane = match lane {
                Lane::Control => qm_transport::Lane::Control,
                Lane::Ack => qm_transport::Lane::Ack,
                Lane::Priority(priority) => qm_transport::Lane::Priority(priority),
            };
            let link = qm_transport::LinkId(link.0);
            plugged.endpoint.send(link, lane, frames);
        }
    }

    pub(crate) fn close(&self, node: usize, link: LinkId, code: u32, text: &str) {
        if let Some(plugged) = &self.homes[node].plugged {
            let link = qm_transport::LinkId(link.0);
            plugged.endpoint.close(link, code, text);
        }
    }

    /// The next thing that a machine with open ears is told.
    pub(crate) async fn next(&mut self) -> (usize, Event) {
        poll_fn(|context| {
            for (node, home) in self.homes.iter_mut().enumerate() {
                let Some(plugged) = home.plugged.as_mut().filter(|_| !home.deaf) else {
                    continue;
                };
                let Poll::Ready(Some(event)) = plugged.told.poll_recv(context) else {
                    continue;
                };
                match &event {
                    Event::Connected { link, .. } => {
                        plugged.links.insert(LinkId(link.0));
                    }
                    Event::Closed { link, .. } => {
                        plugged.links.remove(&LinkId(link.0));
                    }
                    _ => {}
                }
                return Poll::Ready((node, event));
            }
            Poll::Pending
        })
        .await
    }

    /// Every open end of a link.
    pub(crate) fn ends(&self) -> Vec<(usize, LinkId)> {
        let homes = self.homes.iter().enumerate();
        homes
            .flat_map(|(node, home)| {
                let links = home.plugged.iter().flat_map(|plugged| &plugged.links);
                links.map(move |link| (node, *link))
            })
            .collect()
    }

    /// Cuts or mends one direction between two machines.
    pub(crate) fn cut(&self, from: usize, to: usize, cut: bool) {
        let (from, to) = (self.homes[from].bound, self.homes[to].bound);
        if cut {
            self.network.cut(from, to);
        } else {
            self.network.mend(from, to);
        }
    }

    /// Faults of one direction between two machines; `None` for those of all the others.
    pub(crate) fn set_path(&self, from: usize, to: usize, faults: Option<Faults>) {
        let (from, to) = (self.homes[from].bound, self.homes[to].bound);
        self.network.set_path(from, to, faults);
    }

    pub(crate) fn set_deaf(&mut self, node: usize, deaf: bool) {
        self.homes[node].deaf = deaf;
    }

    /// From now on the others see a machine somewhere else, as behind a translator that forgot
    /// its mapping, or on another network.
    pub(crate) fn move_away(&mut self, node: usize) {
        let home = &mut self.homes[node];
        if home.plugged.is_none() {
            return;
        }
        home.moves += 1;
        let last = u8::try_from(node + 1).unwrap_or(u8::MAX);
        home.shown = (Ipv4Addr::new(203, 0, 113, last), 20_000 + home.moves).into();
        // Nobody else has that address.
        drop(self.network.rebind(home.bound, home.shown));
        self.publish(node);
    }

    /// Sends a machine a datagram that none of them made, in a stranger's or a peer's name.
    pub(crate) fn inject(&self, name: Option<usize>, to: usize, bytes: Bytes) {
        let from = name.map_or_else(
            || (Ipv4Addr::new(192, 0, 2, 9), 53).into(),
            |node| self.homes[node].shown,
        );
        self.network.inject(from, self.homes[to].shown, bytes);
    }

    /// The end of all faults; who does not read will by himself.
    pub(crate) fn calm(&self, packets: &Packets) {
        self.network.set_faults(packets.calm());
        for from in 0..self.homes.len() {
            for to in 0..self.homes.len() {
                self.cut(from, to, false);
                self.set_path(from, to, None);
            }
        }
    }

    /// What the network has done, with a digest of all of it.
    pub(crate) fn summary(&self) -> (Stats, u64) {
        let digest = self.network.trace() ^ self.network.trace_bytes().rotate_left(1);
        (self.network.stats(), digest)
    }

    /// Lets names lead to where a machine is seen now.
    fn publish(&self, node: usize) {
        if self.hidden != Some(node) {
            let name = format!("node{node}:{PORT}");
            self.network.name(&name, self.homes[node].shown);
        }
    }
}

impl Home {
    fn new(seed: u64, node: usize) -> Self {
        let mut random = SeededEntropy::new(seed ^ (node as u64) << 32 ^ 0x6b65);
        let mut key = [0; 32];
        random.fill(&mut key);
        let last = u8::try_from(node + 1).unwrap_or(u8::MAX);
        let bound = (Ipv4Addr::new(10, 0, 0, last), PORT).into();
        Self {
            key: NodeKey::generate(key),
            bound,
            shown: bound,
            moves: 0,
            plugged: None,
            deaf: false,
        }
    }
}
