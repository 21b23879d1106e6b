//! What machines hear of each other: dials, frames under way, links that end.

use qm_wire::PeerFrame;

use super::*;

/// A link over which nothing is heard for this long is given up, used or not: QUIC asks a quiet
/// peer for a sign of life.
pub(super) const SILENCE_US: u64 = 10_000_000;
/// After this time at the latest both ends know that their link is gone.
pub(super) const NOTICED_US: u64 = 2_000_000;
/// The port at which a machine that cannot be dialled is seen.
const SEEN_PORT: u16 = 40_000;

impl World {
    pub(super) fn send(&mut self, from: End, lane: Lane, frames: Bytes) {
        let frames = self.lie(from.node, lane, frames);
        if let Some(wires) = &self.wires {
            return wires.send(from.node, from.link, lane, frames);
        }
        let lossy = matches!(lane, Lane::Ack | Lane::Priority(_));
        if lossy && self.may_fail() && self.happens(self.scenario.lost_buffers_per_mille) {
            self.report.lost_buffers += 1;
            self.note(&format!(
                "node{} loses {} bytes on {}",
                from.node,
                frames.len(),
                from.link
            ));
            return;
        }
        if self.may_fail() && self.happens(self.scenario.repeated_buffers_per_mille) {
            let again = match lane {
                Lane::Ack => Some(frames.clone()),
                Lane::Control => repeatable(frames.clone()),
                Lane::Priority(_) => None,
            };
            if let Some(again) = again {
                self.report.repeated_buffers += 1;
                self.transmit(from, lane, again);
            }
        }
        self.transmit(from, lane, frames);
    }

    fn transmit(&mut self, from: End, lane: Lane, frames: Bytes) {
        let delay = self.draw(10, self.scenario.delay_max_us);
        let now = self.now;
        let Some(link) = self.network.id_of(from) else {
            return;
        };
        let Some((to, _)) = self.network.towards(from) else {
            return;
        };
        if self.network.is_mute(from) {
            return;
        }
        let opens = self.network.opens_at(from.node, to.node);
        if opens > now + SILENCE_US {
            // Both ends give up before the network heals, and streams have no holes.
            if self.network.mute(from) {
                self.plan(SILENCE_US, What::Silence { link });
            }
            return;
        }
        let Some((_, lanes)) = self.network.towards(from) else {
            return;
        };
        let at = (now.max(opens) + delay).max(lanes.get(&lane).copied().unwrap_or(0) + 1);
        lanes.insert(lane, at);
        self.plan_at(at, What::Frames { to, link, frames });
    }

    /// The other end gets what was sent, then the end.
    pub(super) fn close(&mut self, from: End, reason: Outcome, text: &str) {
        if let Some(wires) = &self.wires {
            return wires.close(from.node, from.link, u32::from(reason.0), text);
        }
        let now = self.now;
        let Some(link) = self.network.id_of(from) else {
            return;
        };
        let Some((_, lanes)) = self.network.towards(from) else {
            return;
        };
        let at = lanes.values().copied().max().unwrap_or(0).max(now) + 1;
        self.network.deafen(from);
        self.plan_at(at, What::LinkEnd { link });
    }

    pub(super) fn link_ends(&mut self, link: u64) -> Result<(), String> {
        if let Some(ends) = self.network.break_link(link, false) {
            for end in ends {
                let input = Input::Closed {
                    link: end.link,
                    text: "closed by the peer".to_owned(),
                };
                self.give(end.node, input)?;
            }
        }
        Ok(())
    }

    /// Where a machine is. Names follow a move with a delay.
    pub(super) fn address_of(&self, node: usize) -> SocketAddr {
        let host = self.homes.get(node).copied().unwrap_or(0);
        let [high, low] = host.to_be_bytes();
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, high, low)), PORT)
    }

    /// The machine that answers at an address.
    fn who_answers(&self, address: &str) -> Result<usize, DialFailure> {
        let named = (0..self.scenario.nodes).find(|n| address == format!("node{n}:{PORT}"));
        let host = match named {
            Some(node) => self.resolved.get(node).copied(),
            None => address
                .parse::<SocketAddr>()
                .ok()
                .and_then(|address| match address.ip() {
                    IpAddr::V4(ip) => {
                        let [_, _, high, low] = ip.octets();
                        Some(u16::from_be_bytes([high, low]))
                    }
                    IpAddr::V6(_) => None,
                }),
        };
        let host = host.ok_or(DialFailure::Unresolved)?;
        self.homes
            .iter()
            .position(|home| *home == host)
            .ok_or(DialFailure::Unreachable)
    }

    pub(super) fn is_hidden(&self, node: usize) -> bool {
        self.scenario.nat && node == self.scenario.nodes - 1
    }

    /// Who takes a dial from this machine.
    fn reach(
        &mut self,
        node: usize,
        address: &str,
        expected: Option<QmId>,
    ) -> Result<usize, (DialFailure, &'static str)> {
        let target = self
            .who_answers(address)
            .map_err(|failure| (failure, "nobody is there"))?;
        let down = self.machines[target].running.is_none() || self.is_hidden(target);
        if down || target == node {
            return Err((DialFailure::Refused, "nothing listens there"));
        }
        // A name that leads to somebody else before it was ever used is for the operator to
        // find out; here it leads nowhere.
        let name = format!("node{}:", self.family(target));
        let stale = expected.is_none() && !address.contains(&name);
        if stale
            || self.is_kept_apart(node, target)
            || self.network.apart_until(node, target) > self.now
        {
            return Err((DialFailure::Unreachable, "nobody answers"));
        }
        if expected.is_some_and(|qm| self.machines[target].key_of(qm).is_none()) {
            self.report.strangers += 1;
            return Err((DialFailure::WrongIdentity, "somebody else answers"));
        }
        Ok(target)
    }

    pub(super) fn dialled(
        &mut self,
        node: usize,
        dial: u64,
        address: &str,
        expected: Option<QmId>,
        own: QmId,
    ) -> Result<(), String> {
        let target = match self.reach(node, address, expected) {
            Ok(target) => target,
            Err((failure, text)) => {
                let text = text.to_owned();
                let input = Input::DialFailed {
                    dial,
                    failure,
                    text,
                };
                return self.give(node, input);
            }
        };
        let [here, there] = self.network.connect(node, target);
        // Either end may still prove the identity that it had before.
        let key = |machine: &Machine, wanted: Option<QmId>| {
            let key = wanted.and_then(|qm| machine.key_of(qm));
            let key = key.unwrap_or(machine.identity.public_key);
            (QmId::from_ed25519_public_key(&key), key)
        };
        let (me, my_key) = key(&self.machines[node], Some(own));
        let (peer, peer_key) = key(&self.machines[target], expected);
        self.note(&format!("node{node} reaches node{target}"));
        let remote = self.address_of(target);
        self.give(
            node,
            Input::Connected {
                link: here.link,
                peer,
                public_key: peer_key,
                own: me,
                remote,
                dial: Some(dial),
            },
        )?;
        let mut remote = self.address_of(node);
        remote.set_port(SEEN_PORT + u16::try_from(node - self.family(node)).unwrap_or(0));
        self.give(
            target,
            Input::Connected {
                link: there.link,
                peer: me,
                public_key: my_key,
                own: peer,
                remote,
                dial: None,
            },
        )
    }

    pub(super) fn break_link(&mut self, link: u64) {
        let fading = self.draw(0, 1) == 0;
        if let Some(ends) = self.network.break_link(link, fading) {
            self.report.broken_links += 1;
            for end in ends {
                let delay = self.draw(1, NOTICED_US);
                self.plan(
                    delay,
                    What::LinkDown {
                        end,
                        text: "the connection was lost",
                    },
                );
            }
        }
    }

    pub(super) fn break_some_link(&mut self) {
        if self.wires.is_some() {
            self.close_some_wire();
        }
        let alive = self.network.alive();
        if !alive.is_empty() {
            let pick = self.pick(alive.len());
            self.note("a link breaks");
            self.break_link(alive[pick]);
        }
        self.plan_fault(self.scenario.link_break_every_ms, What::BreakLink);
    }

    /// One machine reads nothing of another one for a while; when it takes too long, the link is
    /// given up.
    pub(super) fn stall(&mut self) {
        self.plan_fault(self.scenario.stall_every_ms, What::Stall);
        let Some((from, to)) = self.some_pair() else {
            return;
        };
        let pause = self.draw(100_000, 15_000_000);
        self.note(&format!("node{to} reads nothing from node{from}"));
        self.report.stalls += 1;
        self.network.stall(from, to, self.now + pause);
    }

    /// Nothing gets through between two machines, or in one direction.
    pub(super) fn partition(&mut self) {
        self.plan_fault(self.scenario.partition_every_ms, What::Partition);
        let Some((from, to)) = self.some_pair() else {
            return;
        };
        let until = self.now + self.draw(100_000, 20_000_000);
        let both = self.draw(0, 1) == 0;
        if self.network.apart_until(from, to) <= self.now {
            self.truth.part(from, to, self.now);
        }
        self.note(&format!("nothing gets from node{from} to node{to}"));
        self.block(from, to, until);
        if both {
            self.report.partitions += 1;
            self.block(to, from, until);
        } else {
            self.report.one_way_partitions += 1;
        }
        if until > self.now + SILENCE_US {
            for link in self.network.alive_between(from, to) {
                self.plan(SILENCE_US, What::Silence { link });
            }
        }
    }

    /// Nothing gets through between two machines.
    pub(super) fn part(&mut self, one: usize, other: usize, until: u64) {
        self.note(&format!("node{one} and node{other} are apart"));
        self.report.partitions += 1;
        self.block(one, other, until);
        self.block(other, one, until);
    }

    /// A separation that another one prolongs is silent from its beginning.
    fn block(&mut self, from: usize, to: usize, until: u64) {
        let (since, until) = self.network.block(from, to, self.now, until);
        let given_up = since + SILENCE_US;
        if since < self.now && (self.now..until).contains(&given_up) {
            self.plan_at(given_up, What::LongSilence { from, to });
        }
    }

    /// What could be heard in this direction was not, for so long that no link lives.
    pub(super) fn give_up_silent(&mut self, from: usize, to: usize) {
        if self.network.silent_for(from, to, self.now) >= SILENCE_US {
            for link in self.network.alive_between(from, to) {
                self.break_link(link);
            }
        }
    }

    fn some_pair(&mut self) -> Option<(usize, usize)> {
        let from = self.pick(self.machines.len());
        let to = self.pick(self.machines.len());
        (from != to).then_some((from, to))
    }

    /// A name leads to where its machine is by now; that of a machine that is off for good leads to
    /// its copies.
    pub(super) fn rename(&mut self, node: usize) {
        if !self.is_gone(node) {
            self.resolved[node] = self.homes[node];
        }
    }

    /// A machine gets another address: a fresh one, or that of another machine, which gets a fresh
    /// one. Its links live on, as QUIC's do, or break. Names follow later.
    pub(super) fn move_machine(&mut self) {
        self.plan_fault(self.scenario.move_every_ms, What::Move);
        let node = self.pick(self.scenario.nodes);
        let other = self.pick(self.scenario.nodes);
        self.report.moves += 1;
        let mut movers = vec![node];
        if other != node && self.draw(0, 2) == 0 {
            // The old address of one is the new one of the other.
            movers.push(other);
            self.homes[node] = self.homes[other];
            self.next_home += 1;
            self.homes[other] = self.next_home;
        } else {
            self.next_home += 1;
            self.homes[node] = self.next_home;
        }
        movers.retain(|node| !self.is_gone(*node));
        for node in movers {
            let address = self.address_of(node);
            self.note(&format!("node{node} is at {address} now"));
            let delay = self.draw(1_000, 5_000_000);
            self.plan(delay, What::Rename { node });
            for link in self.network.alive_at(node) {
                if self.draw(0, 1) == 0 {
                    self.break_link(link);
                }
            }
        }
    }
}

/// The frames of a control buffer that may come twice without breaking the protocol.
fn repeatable(mut frames: Bytes) -> Option<Bytes> {
    let whole = frames.clone();
    while let Ok(Some(frame)) = PeerFrame::next(&mut frames, usize::MAX) {
        if !matches!(
            frame,
            PeerFrame::Query(_) | PeerFrame::Answer(_) | PeerFrame::Credit(_)
        ) {
            return None;
        }
    }
    frames.is_empty().then_some(whole)
}
