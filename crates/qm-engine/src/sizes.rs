//! How much the engine holds of everything that others can make it hold.

use crate::engine::Engine;

/// Counts of what peers and applications can make an engine remember; see
/// [`limits`](crate::limits) and docs/limits.md for how far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sizes {
    /// Sessions, open or not.
    pub sessions: usize,
    /// Queue managers remembered.
    pub peers: usize,
    /// Queue managers as addressed.
    pub remotes: usize,
    /// Local and outgoing queues.
    pub queues: usize,
    /// Lives of peers to which acks are owed.
    pub owed_lives: usize,
    /// Acks owed.
    pub owed_acks: usize,
    /// Rows of the ack-route cache.
    pub routes: usize,
    /// Entries of the duplicate cache.
    pub remembered: usize,
    /// Peers that are held off because they broke the protocol.
    pub penalties: usize,
    /// Messages in flight, over all sessions.
    pub flights: usize,
    /// Bytes of them.
    pub flight_bytes: u64,
    /// Messages whose fate is to be asked for.
    pub doubts: usize,
    /// Refusals remembered, over all sessions.
    pub refused: usize,
    /// Full queues of peers, over all sessions.
    pub closed_queues: usize,
    /// Applications connected.
    pub connections: usize,
    /// Applications remembered.
    pub clients: usize,
    /// Idempotency keys remembered.
    pub keys: usize,
    /// Messages whose fate is followed.
    pub followed: usize,
    /// Receive requests that wait.
    pub receives: usize,
    /// Bytes that applications hold unsettled.
    pub lease_bytes: u64,
    /// Newest arrivals of each peer.
    pub recent: usize,
    /// Bytes of durable messages kept in memory.
    pub resident_bytes: usize,
    /// Bytes of express messages.
    pub express_bytes: usize,
    /// Batches at the disk.
    pub commits: usize,
    /// Reads at the disk.
    pub loads: usize,
    /// Timers.
    pub timers: usize,
}

impl Engine {
    /// What is held now.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let sessions = || self.sessions.values();
        let (clients, keys, followed) = self.clients.remembered();
        Sizes {
            sessions: self.sessions.len(),
            peers: self.peers.known.len(),
            remotes: self.remotes.len(),
            queues: self.locals.len() + self.outs.len(),
            owed_lives: self.owed.len(),
            owed_acks: self.owed.values().map(Vec::len).sum(),
            routes: self.routes.stats().rows,
            remembered: self.dedup.stats().len,
            recent: self.recent.len(),
            penalties: self.penalties.len(),
            flights: sessions().map(|s| s.flights.len()).sum(),
            flight_bytes: sessions().map(|s| s.flight_bytes).sum(),
            doubts: self.doubts.len(),
            refused: sessions().map(|s| s.refused.len()).sum(),
            closed_queues: sessions().map(|s| s.closed_queues.len()).sum(),
            connections: self.clients.connected(),
            clients,
            keys,
            followed,
            receives: self.clients.conns.values().map(|conn| conn.receives).sum(),
            lease_bytes: self.clients.lease_bytes,
            resident_bytes: self.resident_bytes,
            express_bytes: self.express_bytes,
            commits: self.commits.waiting(),
            loads: self.loads.len(),
            timers: self.timers.len(),
        }
    }
}
