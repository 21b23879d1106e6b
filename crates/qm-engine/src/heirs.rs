//! Peers that have another identity than before, proven with both keys.
//!
//! Whoever holds the former key could have answered under the former identity, so messages for it
//! may go to its successor; that is all: what the successor sends waits for approval like a
//! stranger's (W-SUC-2).
//!
//! Keys cost nothing, so whoever is listened to could take another identity every moment: of those
//! that follow each other a few are remembered, the newest.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use qm_wire::{QmId, Succession, key_digest};

use crate::connections::With;
use crate::engine::Engine;
use crate::io::{Event, LinkId, Output};
use crate::limits::PEERS_MAX;
use crate::peers::{Approval, PeerRecord, pin_key};
use crate::record::{RemoteKey, prefixed};
use crate::reidentify::record::HEIR;

/// Successions whose signatures are being verified.
const UNDER_WAY_MAX: usize = 64;
/// Successors of successors that are followed.
const HEIRS_IN_LINE_MAX: usize = 16;
/// Successions that are remembered among identities that followed each other.
const SUCCESSIONS_MAX: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Heirs {
    /// By the identity that ended.
    known: BTreeMap<QmId, QmId>,
    /// In which order that came about, by the identity that ended. What an earlier process heard is
    /// not among it, and older.
    order: BTreeMap<QmId, u64>,
    next: u64,
    verifying: BTreeMap<u64, Verifying>,
}

#[derive(Clone, Copy, Debug)]
struct Verifying {
    link: LinkId,
    succession: Succession,
    /// The signature by the old key is good, the one by the new key is being verified.
    half: bool,
}

impl Heirs {
    /// Who is to be asked for, where a name stands for this identity.
    pub(crate) fn of(&self, qm: QmId) -> QmId {
        let mut last = qm;
        for _ in 0..HEIRS_IN_LINE_MAX {
            match self.known.get(&last) {
                Some(heir) => last = *heir,
                None => break,
            }
        }
        last
    }

    /// Whose successor this identity is.
    pub(crate) fn predecessor(&self, qm: QmId) -> Option<QmId> {
        let mut known = self.known.iter();
        known.find(|(_, heir)| **heir == qm).map(|(old, _)| *old)
    }

    /// Whether one of two identities followed the other.
    pub(crate) fn succeeded(&self, one: QmId, other: Option<QmId>) -> bool {
        other.is_some_and(|other| self.of(one) == other || self.of(other) == one)
    }

    /// The new one follows the old one, and nobody follows it: an identity may come back. Whose
    /// successors are forgotten for it, and those of whom nothing is known any more.
    fn insert(&mut self, old: QmId, new: QmId) -> Ended {
        let mut ended = Ended::default();
        if self.remove(new).is_some() {
            ended.successions.push(new);
        }
        ended.identities.extend(self.remove(old));
        self.known.insert(old, new);
        self.order.insert(old, self.next);
        self.next += 1;
        let mut family: Vec<QmId> = self.family(new).into_iter().collect();
        family.retain(|qm| self.known.contains_key(qm));
        family.sort_by_key(|qm| self.order.get(qm).copied());
        let over = family.len().saturating_sub(SUCCESSIONS_MAX);
        for oldest in family.into_iter().take(over) {
            self.remove(oldest);
            ended.successions.push(oldest);
            ended.identities.push(oldest);
        }
        let follows = |qm: &QmId| self.known.contains_key(qm) || self.predecessor(*qm).is_some();
        ended.identities.retain(|qm| !follows(qm));
        ended
    }

    fn remove(&mut self, old: QmId) -> Option<QmId> {
        self.order.remove(&old);
        self.known.remove(&old)
    }

    /// Everybody who followed or was followed by this identity, or by one of those.
    fn family(&self, qm: QmId) -> BTreeSet<QmId> {
        let mut family = BTreeSet::from([qm]);
        loop {
            let known = self.known.iter();
            let more = known.filter(|(old, new)| family.contains(old) != family.contains(new));
            let more: Vec<QmId> = more.flat_map(|(old, new)| [*old, *new]).collect();
            if more.is_empty() {
                return family;
            }
            family.extend(more);
        }
    }
}

/// What a new succession ends.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ended {
    /// Identities that nobody follows any more.
    successions: Vec<QmId>,
    /// Identities that follow nobody any more either.
    identities: Vec<QmId>,
}

fn heir_key(qm: QmId) -> Bytes {
    prefixed(HEIR, qm.as_bytes())
}

pub(crate) fn ids(succession: &Succession) -> (QmId, QmId) {
    (
        QmId::from_ed25519_public_key(&succession.old_key),
        QmId::from_ed25519_public_key(&succession.new_key),
    )
}

impl Engine {
    /// A peer says that it has another identity, or had.
    pub(crate) fn on_succession(&mut self, link: LinkId, succession: Succession) {
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        let (old, new) = ids(&succession);
        let peer = session.peer;
        if (peer != old && peer != new) || old == new {
            return self.misbehaved(link, "a succession of other identities than its own");
        }
        // It may come before this side's session is open: that waits for this side's disk.
        // A stranger's successions are nobody's business: there is nothing to move.
        let approval = self.peers.known.get(&old).map(|record| record.approval);
        let pinned = self.remotes.values().any(|remote| remote.pin == Some(old));
        if !pinned && !approval.is_some_and(Approval::is_heard) {
            return;
        }
        if self.heirs.known.get(&old) == Some(&new) {
            session.succeeded = peer == old;
            return;
        }
        let room = self.heirs.known.len() < PEERS_MAX;
        let once = |verifying: &Verifying| verifying.link == link;
        if !room
            || self.heirs.verifying.len() >= UNDER_WAY_MAX
            || self.heirs.verifying.values().any(once)
        {
            // It is told again on the next session.
            return;
        }
        self.verify_succession(Verifying {
            link,
            succession,
            half: false,
        });
    }

    fn verify_succession(&mut self, verifying: Verifying) {
        let succession = &verifying.succession;
        let (key, signature) = if verifying.half {
            (succession.new_key, succession.new_signature)
        } else {
            (succession.old_key, succession.old_signature)
        };
        let bytes = succession.signed_bytes().freeze();
        let verify = self.next_identity_number();
        self.heirs.verifying.insert(verify, verifying);
        self.outputs.push_back(Output::Verify {
            verify,
            key,
            bytes,
            signature,
        });
    }

    pub(crate) fn on_succession_verified(&mut self, verify: u64, good: bool) {
        let Some(verifying) = self.heirs.verifying.remove(&verify) else {
            return;
        };
        let link = verifying.link;
        if !good {
            return self.misbehaved(link, "a succession that its keys did not sign");
        }
        if !verifying.half {
            return self.verify_succession(Verifying {
                half: true,
                ..verifying
            });
        }
        let (old, new) = ids(&verifying.succession);
        let keys = [
            (old, verifying.succession.old_key),
            (new, verifying.succession.new_key),
        ];
        let other_key = keys.iter().any(|(qm, key)| {
            let record = self.peers.known.get(qm);
            record.is_some_and(|r| r.digest != [0; 32] && r.digest != key_digest(key))
        });
        if other_key {
            return self.misbehaved(link, "a succession of other keys than were known");
        }
        self.succeed(old, new, &verifying.succession.new_key);
        if let Some(session) = self.sessions.get_mut(&link) {
            session.succeeded = session.peer == old;
        }
    }

    fn succeed(&mut self, old: QmId, new: QmId, new_key: &[u8; 32]) {
        let ended = self.heirs.insert(old, new);
        for qm in ended.successions {
            self.commits.unset(heir_key(qm));
        }
        self.commits
            .set(heir_key(old), Bytes::copy_from_slice(new.as_bytes()));
        // What is known of where the old one was helps to find the new one, and to know it again.
        if let Some(before) = self.peers.known.get(&old).cloned()
            && (self.peers.known.len() < PEERS_MAX || self.peers.known.contains_key(&new))
        {
            let digest = key_digest(new_key);
            let made = || PeerRecord::new(digest, Approval::Pending);
            let record = self.peers.known.entry(new).or_insert_with(made);
            if record.announced_name.is_empty() {
                record.announced_name = before.announced_name;
                record.host = before.host;
            }
            for address in before.addresses.into_iter().rev() {
                if !record.addresses.contains(&address) {
                    record.learn_address(address);
                }
            }
            self.save_peer(new);
        }
        let mut moved = Vec::new();
        let mut hosts = Vec::new();
        for (number, remote) in &mut self.remotes {
            if remote.pin == Some(old) {
                remote.pin = Some(new);
                moved.push(*number);
                if let RemoteKey::Host(host) = &remote.key {
                    hosts.push(host.clone());
                }
            }
        }
        for host in hosts {
            let value = BytesMut::from(&new.as_bytes()[..]).freeze();
            self.commits.set(pin_key(&host), value);
        }
        self.meet_open(new);
        // The copy that keeps the old identity is alone with it from now on.
        self.forget_alarm(old);
        let text = format!("{old} is {new} from now on, proven with both keys");
        for peer in [old, new] {
            self.note_connection(With::Peer(peer), "succeeded", &text);
        }
        self.event(Event::PeerSucceeded {
            old,
            new,
            moved: moved.len(),
        });
        for number in moved {
            self.want_connection(number);
        }
        self.busy_peers.insert(new);
        for qm in ended.identities {
            self.forget_heir(qm);
        }
    }

    /// Somebody of whom only successions told, and who is addressed by nobody, is forgotten.
    fn forget_heir(&mut self, qm: QmId) {
        let record = self.peers.known.get(&qm);
        let pending = record.is_some_and(|record| record.approval == Approval::Pending);
        let used = self.by_peer.contains_key(&qm)
            || self.is_own(qm)
            || self.remotes.values().any(|remote| remote.pin == Some(qm));
        if pending && !used {
            self.oust(qm);
        }
    }

    /// A session with a peer is gone that has another identity by now: what was in flight is asked
    /// for there.
    pub(crate) fn ask_the_heir(&mut self, own: QmId, peer: QmId) {
        let heir = self.heirs.of(peer);
        if heir == peer {
            return;
        }
        self.query_doubts(own, heir);
        self.busy_peers.insert(heir);
        let remotes = self.remotes.iter();
        let towards = remotes.filter(|(_, remote)| remote.peer() == Some(heir));
        for number in towards.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.want_connection(number);
        }
    }

    /// The operator forgot a peer: nobody follows it, and it follows nobody.
    pub(crate) fn forget_heirs(&mut self, peer: QmId) {
        let known = self.heirs.known.iter();
        let of = known.filter(|(old, new)| **old == peer || **new == peer);
        for old in of.map(|(old, _)| *old).collect::<Vec<_>>() {
            self.heirs.remove(old);
            self.commits.unset(heir_key(old));
        }
    }

    /// Reads back who follows whom; returns how many values were not understood.
    pub(crate) fn recover_heirs(&mut self, state: &BTreeMap<Bytes, Bytes>) -> usize {
        let mut bad = 0;
        for (key, value) in state {
            let Some(old) = key.strip_prefix(HEIR) else {
                continue;
            };
            let ends = <[u8; 16]>::try_from(old).ok();
            match ends.zip(<[u8; 16]>::try_from(value.as_ref()).ok()) {
                Some((old, new)) => {
                    let (old, new) = (QmId::from_bytes(old), QmId::from_bytes(new));
                    self.heirs.known.insert(old, new);
                }
                None => bad += 1,
            }
        }
        bad
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heirs_are_followed_in_line_and_an_identity_may_come_back() {
        let [a, b, c] = [1, 2, 3].map(|n| QmId::from_bytes([n; 16]));
        let mut heirs = Heirs::default();
        assert_eq!(heirs.insert(a, b), Ended::default());
        assert_eq!(heirs.insert(b, c), Ended::default());
        assert_eq!(heirs.of(a), c);
        assert_eq!(heirs.predecessor(c), Some(b));
        assert!(heirs.succeeded(a, Some(c)) && heirs.succeeded(c, Some(a)));
        assert!(!heirs.succeeded(c, None));
        // Back to the first: no circle.
        assert_eq!(heirs.insert(c, a).successions, [a]);
        assert_eq!([a, b, c].map(|qm| heirs.of(qm)), [a, a, a]);
    }

    /// One after the other, back and forth, or many for one: the newest few are remembered, and
    /// others' are not touched.
    #[test]
    fn a_few_of_those_who_follow_each_other_are_remembered() {
        let id = |n: u8| QmId::from_bytes([n; 16]);
        type Steps = fn(u8) -> Vec<(u8, u8)>;
        let histories: [Steps; 3] = [
            |n| vec![(n, n + 1)],
            |n| vec![(1, n + 1), (n + 1, 1)],
            |n| vec![(1, n + 1)],
        ];
        for (number, history) in histories.into_iter().enumerate() {
            let mut heirs = Heirs::default();
            for other in 101..128 {
                heirs.insert(id(2 * other), id(2 * other + 1));
            }
            let others = heirs.known.len();
            let mut forgotten = BTreeSet::new();
            for (old, new) in (1..100).flat_map(history) {
                let ended = heirs.insert(id(old), id(new));
                forgotten.extend(ended.identities);
                for qm in [old, new] {
                    forgotten.remove(&id(qm));
                }
            }
            assert!(heirs.known.len() <= others + SUCCESSIONS_MAX, "{number}");
            let remembered = 100 - forgotten.len();
            assert!(remembered <= SUCCESSIONS_MAX + 2, "{number}: {remembered}");
            assert!(heirs.known.len() == heirs.order.len());
        }
    }

    #[test]
    fn so_many_successors_are_followed_and_then_the_last_of_them_is_asked() {
        let mut heirs = Heirs::default();
        for n in 0..20 {
            let (old, new) = (crate::testing::qm(n), crate::testing::qm(n + 1));
            heirs.known.insert(old, new);
        }
        let last = crate::testing::qm(HEIRS_IN_LINE_MAX);
        assert_eq!(heirs.of(crate::testing::qm(0)), last);
    }

    #[test]
    fn so_many_successions_are_verified_at_a_time() {
        let succession = Succession {
            old_key: [2; 32],
            new_key: [3; 32],
            old_signature: [0; 64],
            new_signature: [0; 64],
        };
        for (under_way, asks) in [(UNDER_WAY_MAX - 1, true), (UNDER_WAY_MAX, false)] {
            let mut engine = crate::testing::engine();
            crate::testing::session(&mut engine, LinkId(999), ids(&succession).0);
            for n in 0..under_way as u64 {
                let verifying = Verifying {
                    link: LinkId(n),
                    succession,
                    half: false,
                };
                engine.heirs.verifying.insert(n, verifying);
            }
            engine.on_succession(LinkId(999), succession);
            let asked = engine.outputs.iter();
            let asked = asked.filter(|output| matches!(output, Output::Verify { .. }));
            assert_eq!(asked.count() == 1, asks, "{under_way}");
        }
    }
}
