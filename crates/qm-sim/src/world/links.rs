//! What machines hear of each other: dials, frames under way, links that end.

use super::*;

impl World {
    pub(super) fn send(&mut self, from: End, lane: Lane, frames: Bytes) {
        if let Some(wires) = &self.wires {
            return wires.send(from.node, from.link, lane, frames);
        }
        let lossy = matches!(lane, Lane::Ack | Lane::Priority(_));
        if lossy
            && self.draw(1, 1_000) <= self.scenario.lost_buffers_per_mille
            && self.now < self.scenario.fault_ms * 1_000
        {
            self.report.lost_buffers += 1;
            self.note(&format!(
                "node{} loses {} bytes on {}",
                from.node,
                frames.len(),
                from.link
            ));
            return;
        }
        let delay = self.draw(10, self.scenario.delay_max_us);
        let now = self.now;
        let Some(link) = self.network.id_of(from) else {
            return;
        };
        let Some((to, lanes)) = self.network.towards(from) else {
            return;
        };
        let at = (now + delay).max(lanes.get(&lane).copied().unwrap_or(0) + 1);
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
        self.plan_at(at, What::LinkEnd { link });
    }

    pub(super) fn address_of(node: usize) -> SocketAddr {
        let last = u8::try_from(node + 1).unwrap_or(u8::MAX);
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), PORT)
    }

    pub(super) fn dialled(
        &mut self,
        node: usize,
        dial: u64,
        address: &str,
        expected: Option<QmId>,
    ) -> Result<(), String> {
        let target = (0..self.scenario.nodes).find(|n| {
            address == format!("node{n}:{PORT}") || address == Self::address_of(*n).to_string()
        });
        let hidden = |n: usize| self.scenario.nat && n == self.scenario.nodes - 1;
        let fail = |failure, text: &str| Input::DialFailed {
            dial,
            failure,
            text: text.to_owned(),
        };
        let Some(target) = target else {
            return self.give(node, fail(DialFailure::Unresolved, "no such host"));
        };
        if self.machines[target].running.is_none() || hidden(target) {
            return self.give(node, fail(DialFailure::Refused, "nothing listens there"));
        }
        if expected.is_some_and(|qm| qm != self.machines[target].identity.qm) {
            return self.give(
                node,
                fail(DialFailure::WrongIdentity, "somebody else answers"),
            );
        }
        let [here, there] = self.network.connect(node, target);
        let (me, peer) = (self.machines[node].identity, self.machines[target].identity);
        self.note(&format!("node{node} reaches node{target}"));
        self.give(
            node,
            Input::Connected {
                link: here.link,
                peer: peer.qm,
                public_key: peer.public_key,
                remote: Self::address_of(target),
                dial: Some(dial),
            },
        )?;
        let mut remote = Self::address_of(node);
        remote.set_port(40_000);
        self.give(
            target,
            Input::Connected {
                link: there.link,
                peer: me.qm,
                public_key: me.public_key,
                remote,
                dial: None,
            },
        )
    }

    pub(super) fn break_link(&mut self, link: u64) {
        if let Some(ends) = self.network.break_link(link) {
            self.report.broken_links += 1;
            for end in ends {
                let delay = self.draw(1, 2_000_000);
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
}
