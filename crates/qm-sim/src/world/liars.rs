//! A node between that lies about copies, and a stranger who repeats what it overheard.

use bytes::BytesMut;
use qm_wire::PeerFrame;

use super::*;
use crate::scenario::Case;

/// Frames that are kept to say them again.
const OVERHEARD_MAX: usize = 64;

impl World {
    /// The node that lies, where one does.
    fn liar(&self) -> Option<usize> {
        let clones = self.scenario.clones.as_ref();
        clones.map(|clones| (clones.victim + 1) % self.scenario.nodes)
    }

    /// Whether a peer breaks the protocol on purpose.
    pub(super) fn is_hostile(&self, peer: QmId) -> bool {
        let stranger = self.copying.stranger.as_ref();
        let lies = self.case() == Some(Case::LyingRelay);
        let liar = self
            .liar()
            .filter(|_| lies)
            .map(|node| self.machines[node].identity.qm);
        stranger.map(QmId::from_ed25519_public_key) == Some(peer) || liar == Some(peer)
    }

    /// What is said about identities is overheard, and a relay that lies changes it.
    pub(super) fn lie(&mut self, from: usize, lane: Lane, frames: Bytes) -> Bytes {
        let case = self.case();
        if lane != Lane::Control
            || !matches!(case, Some(Case::LyingRelay | Case::StrangerWithoutKey))
        {
            return frames;
        }
        if self.copying.overheard.len() < OVERHEARD_MAX {
            self.copying.overheard.push(frames.clone());
        }
        if case != Some(Case::LyingRelay) || self.liar() != Some(from) {
            return frames;
        }
        let mut rest = frames;
        let mut said = BytesMut::new();
        while let Ok(Some(frame)) = PeerFrame::next(&mut rest, usize::MAX) {
            let about = matches!(
                frame,
                PeerFrame::Ask(_) | PeerFrame::Claim(_) | PeerFrame::Twin(_)
            );
            if !about {
                frame.encode(&mut said);
                continue;
            }
            self.report.lies += 1;
            match (self.draw(0, 3), frame) {
                (0, _) => {}
                (1, frame) => {
                    frame.encode(&mut said);
                    frame.encode(&mut said);
                }
                (2, PeerFrame::Claim(mut claim)) => {
                    claim.rank.sealed = true;
                    claim.rank.served_s = u64::MAX;
                    PeerFrame::Claim(claim).encode(&mut said);
                }
                (2, PeerFrame::Ask(mut ask)) => {
                    ask.rank.draw = 0;
                    PeerFrame::Ask(ask).encode(&mut said);
                }
                (_, frame) => frame.encode(&mut said),
            }
        }
        said.freeze()
    }

    /// Somebody with a key of its own says to a machine, and to another, what it overheard.
    pub(super) fn intrude(&mut self, victim: usize) -> Result<(), String> {
        let key = match self.copying.stranger {
            Some(key) => key,
            None => {
                let mut key = [0; 32];
                self.random.fill(&mut key);
                *self.copying.stranger.insert(key)
            }
        };
        let peer = QmId::from_ed25519_public_key(&key);
        for node in 0..self.scenario.nodes {
            if node != victim && self.draw(0, 1) == 0 || self.machines[node].running.is_none() {
                continue;
            }
            self.copying.next_stranger_link += 1;
            // Above all numbers that links of the network get.
            let link = qm_engine::LinkId(u64::MAX / 2 + self.copying.next_stranger_link);
            self.note(&format!("a stranger says to node{node} what it overheard"));
            self.report.lies += 1;
            let own = self.machines[node].identity.qm;
            let life = self.life(node);
            let connected = Input::Connected {
                link,
                peer,
                public_key: key,
                own,
                remote: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)), PORT),
                dial: None,
            };
            self.give(node, connected)?;
            for _ in 0..self.copying.overheard.len().min(12) {
                let at = self.pick(self.copying.overheard.len());
                let frames = self.copying.overheard[at].clone();
                if self.is_same_life(node, life) {
                    self.give(node, Input::Received { link, frames })?;
                }
            }
            if self.is_same_life(node, life) {
                let text = "the stranger leaves".to_owned();
                self.give(node, Input::Closed { link, text })?;
            }
        }
        Ok(())
    }
}
