//! The address book: who is known, who may send, and by which name and address.
//! [`crate::dialling`] is how they are reached.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use qm_wire::{Hello, Incarnation, QmId, Text, key_digest};

use crate::config::{EngineConfig, Trust};
use crate::engine::Engine;
use crate::io::Output;
use crate::limits::{ADDRESSES_MAX, PEERS_MAX};
use crate::outgoing::Remote;
use crate::record::{RemoteKey, prefixed, put_bytes, take_array, take_bytes, take_text};

/// Whether a peer may send to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Approval {
    /// Approved by the operator or by policy.
    Approved,
    /// It came by itself and waits for the operator.
    Pending,
    /// This node dialled it; it may receive, and has not been approved to send.
    Known,
    /// The operator shut it out.
    Blocked,
    /// Unknown, and there is no room for another that waits.
    Overflow,
}

impl Approval {
    /// Whether what such a peer says of others is listened to: not a stranger's word.
    pub(crate) const fn is_heard(self) -> bool {
        matches!(self, Self::Approved | Self::Known)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Pending | Self::Overflow => "pending",
            Self::Known => "known",
            Self::Blocked => "blocked",
        }
    }
}

/// What is remembered of a queue manager.
#[derive(Clone, Debug)]
pub(crate) struct PeerRecord {
    pub(crate) digest: [u8; 32],
    pub(crate) approval: Approval,
    pub(crate) announced_name: String,
    pub(crate) host: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) last_seen_us: u64,
    pub(crate) incarnation: Option<Incarnation>,
}

/// The operator's own name for a peer.
#[derive(Clone, Debug)]
pub(crate) struct BookEntry {
    pub(crate) name: String,
    pub(crate) remote: RemoteKey,
    pub(crate) keep_connected: bool,
    /// Approve whoever answers first at the address.
    pub(crate) approve: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct PeerBook {
    pub(crate) known: BTreeMap<QmId, PeerRecord>,
    pub(crate) names: BTreeMap<String, BookEntry>,
}

impl PeerBook {
    /// What a queue manager may do that has just proven its key.
    pub(crate) fn met(
        &mut self,
        peer: QmId,
        public_key: &[u8; 32],
        config: &EngineConfig,
    ) -> Approval {
        let digest = key_digest(public_key);
        if let Some(record) = self.known.get_mut(&peer) {
            if record.digest == [0; 32] {
                record.digest = digest;
            }
            if config.trust == Trust::Any && record.approval != Approval::Blocked {
                record.approval = Approval::Approved;
            }
            // 122 bits make the id; the pin is the whole digest.
            return if record.digest == digest {
                record.approval
            } else {
                Approval::Blocked
            };
        }
        let approval = match config.trust {
            Trust::Any => Approval::Approved,
            Trust::Approve => {
                let pending = self
                    .known
                    .values()
                    .filter(|r| r.approval == Approval::Pending)
                    .count();
                if pending >= config.pending_peers_max {
                    return Approval::Overflow;
                }
                Approval::Pending
            }
        };
        self.known.insert(peer, PeerRecord::new(digest, approval));
        approval
    }

    pub(crate) fn approval(&self, peer: QmId) -> Approval {
        match self.known.get(&peer).map(|record| record.approval) {
            // To a peer that was only dialled nothing was promised: it waits like the others.
            Some(Approval::Known) | None => Approval::Pending,
            Some(approval) => approval,
        }
    }

    /// Notes what a peer says of itself. Returns whether it is news for the operator.
    pub(crate) fn announced(
        &mut self,
        peer: QmId,
        hello: &Hello,
        remote: SocketAddr,
        wall_us: u64,
    ) -> bool {
        let Some(record) = self.known.get_mut(&peer) else {
            return false;
        };
        let first = record.last_seen_us == 0;
        record.announced_name = hello.name.as_str().to_owned();
        record.host = hello.host.as_str().to_owned();
        record.last_seen_us = wall_us.max(1);
        record.incarnation = Some(hello.incarnation);
        if hello.listen_port != 0 {
            let address = SocketAddr::new(remote.ip(), hello.listen_port).to_string();
            record.learn_address(address);
        }
        first && record.approval == Approval::Pending
    }

    /// The operator's name for a remote.
    pub(crate) fn name_of(&self, remote: &RemoteKey, pin: Option<QmId>) -> Option<&BookEntry> {
        self.names
            .values()
            .find(|entry| entry.remote == *remote)
            .or_else(|| pin.and_then(|qm| self.name_of_peer(qm)))
    }

    pub(crate) fn name_of_peer(&self, peer: QmId) -> Option<&BookEntry> {
        self.names
            .values()
            .find(|entry| entry.remote == RemoteKey::Id(peer))
    }

    /// The peers that a word of the operator names: an operator's name, an id, or a beginning of
    /// an id or announced name that is unique.
    pub(crate) fn find(&self, who: &str) -> Vec<QmId> {
        if let Ok(qm) = who.parse::<QmId>() {
            return vec![qm];
        }
        let who = who.to_lowercase();
        self.known
            .iter()
            .filter(|(qm, record)| {
                qm.to_string().starts_with(&who) || record.announced_name.to_lowercase() == who
            })
            .map(|(qm, _)| *qm)
            .collect()
    }
}

impl PeerBook {
    /// The peers that a sender's word names. A stranger says of itself what it likes: it must not
    /// be sent what is meant for another, nor make another's name ambiguous.
    pub(crate) fn find_for_sending(&self, who: &str) -> Vec<QmId> {
        let mut found = self.find(who);
        let vouched = |qm: &QmId| {
            let approval = self.known.get(qm).map(|record| record.approval);
            matches!(approval, None | Some(Approval::Approved | Approval::Known))
        };
        found.retain(vouched);
        found
    }
}

impl PeerRecord {
    pub(crate) const fn new(digest: [u8; 32], approval: Approval) -> Self {
        Self {
            digest,
            approval,
            announced_name: String::new(),
            host: String::new(),
            addresses: Vec::new(),
            last_seen_us: 0,
            incarnation: None,
        }
    }

    /// Newest first, a few at most.
    pub(crate) fn learn_address(&mut self, address: String) {
        self.addresses.retain(|known| *known != address);
        self.addresses.insert(0, address);
        self.addresses.truncate(ADDRESSES_MAX);
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut to = BytesMut::new();
        to.put_u8(1);
        to.put_slice(&self.digest);
        to.put_u8(match self.approval {
            Approval::Approved => 1,
            Approval::Pending | Approval::Overflow => 2,
            Approval::Known => 3,
            Approval::Blocked => 4,
        });
        to.put_u64_le(self.last_seen_us);
        put_bytes(&mut to, self.announced_name.as_bytes());
        put_bytes(&mut to, self.host.as_bytes());
        for address in &self.addresses {
            put_bytes(&mut to, address.as_bytes());
        }
        to.freeze()
    }

    pub(crate) fn decode(value: &Bytes) -> Option<Self> {
        let mut r = value.clone();
        if r.try_get_u8().ok()? != 1 {
            return None;
        }
        let digest = take_array(&mut r)?;
        let approval = match r.try_get_u8().ok()? {
            1 => Approval::Approved,
            2 => Approval::Pending,
            3 => Approval::Known,
            4 => Approval::Blocked,
            _ => return None,
        };
        let mut record = Self::new(digest, approval);
        record.last_seen_us = r.try_get_u64_le().ok()?;
        record.announced_name = take_text(&mut r)?.as_str().to_owned();
        record.host = take_text(&mut r)?.as_str().to_owned();
        while !r.is_empty() && record.addresses.len() < ADDRESSES_MAX {
            record
                .addresses
                .push(take_text(&mut r)?.as_str().to_owned());
        }
        Some(record)
    }
}

impl BookEntry {
    pub(crate) fn encode(&self) -> Bytes {
        let mut to = BytesMut::new();
        to.put_u8(1);
        to.put_u8(u8::from(self.keep_connected) | u8::from(self.approve) << 1);
        put_bytes(&mut to, self.name.as_bytes());
        match &self.remote {
            RemoteKey::Id(qm) => put_bytes(&mut to, qm.as_bytes()),
            RemoteKey::Host(host) => {
                put_bytes(&mut to, &[]);
                put_bytes(&mut to, host.as_bytes());
            }
        }
        to.freeze()
    }

    pub(crate) fn decode(value: &Bytes) -> Option<Self> {
        let mut r = value.clone();
        if r.try_get_u8().ok()? != 1 {
            return None;
        }
        let flags = r.try_get_u8().ok()?;
        let name = take_text(&mut r)?.as_str().to_owned();
        let id = take_bytes(&mut r)?;
        let remote = if id.is_empty() {
            RemoteKey::Host(take_text(&mut r)?.as_str().to_owned())
        } else {
            RemoteKey::Id(QmId::from_bytes(id.as_ref().try_into().ok()?))
        };
        Some(Self {
            name,
            remote,
            keep_connected: flags & 1 != 0,
            approve: flags & 2 != 0,
        })
    }
}

pub(crate) fn peer_key(peer: QmId) -> Bytes {
    prefixed(b"peer/", peer.as_bytes())
}

pub(crate) fn name_key(name: &str) -> Bytes {
    prefixed(b"name/", name.to_lowercase().as_bytes())
}

pub(crate) fn pin_key(host: &str) -> Bytes {
    prefixed(b"pin/", host.as_bytes())
}

impl Engine {
    /// What a queue manager may do that has just proven its key. A stranger for whom there is no
    /// room takes the place of the one seen longest ago: so nobody who invents keys can keep all
    /// others from being seen.
    pub(crate) fn meet(&mut self, peer: QmId, public_key: &[u8; 32]) -> Approval {
        if !self.peers.known.contains_key(&peer) {
            let pending = |record: &PeerRecord| record.approval == Approval::Pending;
            let waiting = self.peers.known.values().filter(|r| pending(r)).count();
            if waiting >= self.config.pending_peers_max && self.config.trust == Trust::Approve {
                let oldest = self
                    .peers
                    .known
                    .iter()
                    .filter(|(qm, record)| pending(record) && !self.by_peer.contains_key(*qm))
                    // What is known of copies of this node is no stranger's.
                    .filter(|(qm, _)| **qm != self.me.qm)
                    .min_by_key(|(_, record)| record.last_seen_us)
                    .map(|(qm, _)| *qm);
                if let Some(oldest) = oldest {
                    self.oust(oldest);
                }
            }
            if self.peers.known.len() >= PEERS_MAX {
                return Approval::Overflow;
            }
        }
        self.peers.met(peer, public_key, &self.config)
    }

    /// Forgets a stranger that has no session.
    pub(crate) fn oust(&mut self, peer: QmId) {
        self.peers.known.remove(&peer);
        self.forget_tokens(peer);
        self.forget_branches(peer);
        self.forget_alarm(peer);
        self.forget_parted(peer);
        self.forget_untold(peer);
        if !self.remotes.values().any(|of| of.peer() == Some(peer)) {
            self.forget_met(peer);
        }
        self.commits.unset(peer_key(peer));
    }

    pub(crate) fn save_peer(&mut self, peer: QmId) {
        if let Some(record) = self.peers.known.get(&peer) {
            let value = record.encode();
            self.commits.set(peer_key(peer), value);
        }
    }

    pub(crate) fn is_kept(&self, remote: &Remote) -> bool {
        self.peers
            .name_of(&remote.key, remote.pin)
            .is_some_and(|entry| entry.keep_connected)
    }

    /// The remote of this key, made when there is none: under the identity under which messages for
    /// it are minted now.
    pub(crate) fn remote(&mut self, key: &RemoteKey) -> u32 {
        self.remote_as(self.minting_own(key), key)
    }

    /// The same under one of this node's identities.
    pub(crate) fn remote_as(&mut self, own: QmId, key: &RemoteKey) -> u32 {
        let full = (own, key.clone());
        if let Some(number) = self.remote_keys.get(&full) {
            return *number;
        }
        let number = self.next_remote;
        self.next_remote += 1;
        let known = self
            .find_remote(key)
            .and_then(|known| self.remotes.get(&known));
        let pin = match (known, key) {
            (Some(known), _) => known.pin,
            (None, RemoteKey::Id(qm)) => Some(self.heirs.of(*qm)),
            (None, RemoteKey::Host(_)) => None,
        };
        self.remote_keys.insert(full, number);
        self.remotes
            .insert(number, Remote::new(own, key.clone(), pin));
        if let Some(peer) = pin {
            self.meet_open(peer);
        }
        number
    }

    /// The remote of this key under whichever identity of this node; under the one that mints now,
    /// if there is one.
    pub(crate) fn find_remote(&self, key: &RemoteKey) -> Option<u32> {
        let owns = [self.minting_own(key)].into_iter().chain(self.owns());
        let mut found = owns.filter_map(|own| self.remote_keys.get(&(own, key.clone())));
        found.next().copied()
    }

    /// Everything addressed by this key goes to this queue manager and to no other.
    pub(crate) fn pin(&mut self, key: &RemoteKey, peer: Option<QmId>) {
        for own in self.owns() {
            let number = self.remote_keys.get(&(own, key.clone()));
            if let Some(remote) = number.and_then(|number| self.remotes.get_mut(number)) {
                remote.pin = peer;
            }
        }
        if let Some(peer) = peer {
            self.meet_open(peer);
        }
    }

    /// Lets a peer send: grants credit on its sessions.
    pub(crate) fn approve(&mut self, peer: QmId, name: Option<&str>) {
        let record = self
            .peers
            .known
            .entry(peer)
            .or_insert_with(|| PeerRecord::new([0; 32], Approval::Approved));
        record.approval = Approval::Approved;
        let announced = record.announced_name.clone();
        self.save_peer(peer);
        self.forgive_peer(peer);
        let taken =
            |engine: &Self, name: &str| engine.peers.names.contains_key(&name.to_lowercase());
        let name = match name {
            Some(name) => Some(name.to_owned()),
            None if self.entry_of_peer(peer).is_some() => None,
            None if !announced.is_empty() && !announced.contains('/') => {
                (!taken(self, &announced)).then_some(announced)
            }
            None => None,
        };
        if let Some(name) = name {
            let remote = RemoteKey::Id(peer);
            let entry = BookEntry {
                name,
                remote,
                keep_connected: false,
                approve: true,
            };
            self.write_name(entry);
        }
        let links: Vec<_> = self
            .by_peer
            .get(&peer)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        for link in links {
            if let Some(session) = self.sessions.get_mut(&link) {
                session.peer_pending = false;
                crate::reached!(self, Approved);
                self.outputs.push_back(Output::Trust { link });
            }
            self.grant_credit(link);
        }
        self.meet_open(peer);
        let remotes: Vec<_> = self
            .remotes
            .iter()
            .filter(|(_, remote)| remote.peer() == Some(peer))
            .map(|(number, _)| *number)
            .collect();
        for number in remotes {
            self.retry_now(number);
        }
    }

    /// The operator's name for a queue manager, whether given to its id or to its address.
    pub(crate) fn entry_of_peer(&self, peer: QmId) -> Option<&BookEntry> {
        self.peers.name_of_peer(peer).or_else(|| {
            self.peers.names.values().find(|entry| {
                let number = self.find_remote(&entry.remote);
                number
                    .and_then(|number| self.remotes.get(&number))
                    .and_then(Remote::peer)
                    == Some(peer)
            })
        })
    }

    pub(crate) fn write_name(&mut self, entry: BookEntry) {
        self.commits.set(name_key(&entry.name), entry.encode());
        let number = self.remote(&entry.remote);
        self.peers.names.insert(entry.name.to_lowercase(), entry);
        self.want_connection(number);
    }

    /// Reads a peer, name or pin back. Returns whether the value was understood.
    pub(crate) fn recover_peer(&mut self, key: &Bytes, value: &Bytes) -> Option<bool> {
        if let Some(id) = key.strip_prefix(&b"peer/"[..]) {
            let id = <[u8; 16]>::try_from(id).ok();
            let Some((id, record)) = id.zip(PeerRecord::decode(value)) else {
                return Some(false);
            };
            self.peers.known.insert(QmId::from_bytes(id), record);
        } else if key.starts_with(b"name/") {
            let Some(entry) = BookEntry::decode(value) else {
                return Some(false);
            };
            self.remote(&entry.remote);
            self.peers.names.insert(entry.name.to_lowercase(), entry);
        } else if let Some(host) = key.strip_prefix(&b"pin/"[..]) {
            let host = Text::from_utf8(Bytes::copy_from_slice(host), "pin").ok();
            let id = <[u8; 16]>::try_from(value.as_ref()).ok();
            let Some((host, id)) = host.zip(id) else {
                return Some(false);
            };
            let key = RemoteKey::Host(host.as_str().to_owned());
            self.remote(&key);
            self.pin(&key, Some(QmId::from_bytes(id)));
        } else {
            return None;
        }
        Some(true)
    }
}

#[cfg(test)]
mod tests {
    use qm_wire::Outcome;

    use super::*;
    use crate::io::{Input, LinkId, Output};
    use crate::testing::{engine, outputs, qm};
    use crate::time::Now;

    #[test]
    fn so_many_peers_are_remembered_and_nobody_else_is_let_in() {
        let mut engine = engine();
        for n in 1..PEERS_MAX {
            let record = PeerRecord::new([0; 32], Approval::Known);
            engine.peers.known.insert(qm(n), record);
        }
        let mut comes = |number: u8| {
            let public_key = [number; 32];
            let own = engine.qm_id();
            let connected = Input::Connected {
                link: LinkId(u64::from(number)),
                peer: QmId::from_ed25519_public_key(&public_key),
                public_key,
                own,
                remote: "10.0.0.9:1801".parse().expect("an address"),
                dial: None,
            };
            engine.handle(Now::default(), connected);
            let closed = outputs(&mut engine).into_iter().find_map(|out| match out {
                Output::Close { reason, .. } => Some(reason),
                _ => None,
            });
            (closed, engine.peers.known.len())
        };
        assert_eq!(comes(21), (None, PEERS_MAX), "the last place");
        assert_eq!(comes(22), (Some(Outcome::BUSY), PEERS_MAX));
    }
}
