//! A machine that left an identity to another machine proves it, so that alarms about copies end by
//! themselves, where they were raised and at the machine that keeps the identity (W-TWN-6).
//!
//! It speaks of its own lives and of nobody else's: with more than two copies, the alarm about the
//! others stands.

use std::collections::{BTreeMap, VecDeque};

use qm_wire::limits::PARTED_LIVES_MAX;
use qm_wire::{Incarnation, Parted, PeerFrame, QmId};

use super::TwinMachine;
use crate::engine::Engine;
use crate::heirs::ids;
use crate::io::{Lane, LinkId, Output};
use crate::reidentify::Former;

/// Words that are being verified.
const UNDER_WAY_MAX: usize = 64;
/// Words of one session that are listened to: there is one for each copy.
const HEARD_MAX: u8 = 16;
/// Identities of others about which such words are remembered, and words about each.
const IDENTITIES_MAX: usize = 64;
const WORDS_MAX: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Partings {
    /// What this node says of itself, once it is signed.
    own: Option<Parted>,
    signing: Option<(u64, Parted)>,
    verifying: BTreeMap<u64, Verifying>,
    /// What others have proven, by the identity that they left: told to those that have it.
    proven: BTreeMap<QmId, VecDeque<Parted>>,
    /// Whether this process heard, proven, of a machine that left this node's own identity: it may
    /// speak under that as long as something of it drains.
    left_own: bool,
}

#[derive(Clone, Debug)]
struct Verifying {
    link: LinkId,
    parted: Parted,
    step: Step,
}

/// Which signature is being verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Old,
    New,
    Lives,
}

impl Partings {
    /// Remembers a word. False when it was known.
    fn remember(&mut self, old: QmId, parted: Parted) -> bool {
        if self.proven.len() >= IDENTITIES_MAX && !self.proven.contains_key(&old) {
            self.proven.pop_first();
        }
        let words = self.proven.entry(old).or_default();
        if words.contains(&parted) {
            return false;
        }
        words.retain(|word| word.succession.new_key != parted.succession.new_key);
        if words.len() >= WORDS_MAX {
            words.pop_front();
        }
        words.push_back(parted);
        true
    }
}

impl Engine {
    /// The present life of this process and those by which copies of it know it, the newest of
    /// them when there are many. Not all that it ever had: what a copy of its memory shares with
    /// it, that one may be living in.
    pub(crate) fn lives_to_leave(&self) -> Vec<Incarnation> {
        let mut lives = vec![self.incarnation];
        let shown = self.election.shown.iter().rev().copied();
        lives.extend(shown.filter(|life| *life != self.incarnation));
        lives.truncate(PARTED_LIVES_MAX);
        lives.sort_unstable();
        lives
    }

    /// Tells a peer that this machine left its former identity to another one, as soon as the key's
    /// holder has signed that.
    pub(crate) fn tell_parted(&mut self, link: LinkId) {
        let Some(former) = self.split_former() else {
            self.partings.own = None;
            self.partings.signing = None;
            return;
        };
        let succession = former.succession;
        let is_it = |parted: &Parted| parted.succession == succession;
        if let Some(own) = self.partings.own.clone().filter(is_it) {
            return self.say_parted(link, &own);
        }
        let signing = self.partings.signing.as_ref();
        if signing.is_some_and(|(_, parted)| is_it(parted)) {
            return;
        }
        let parted = Parted {
            succession,
            lives: former.lives.clone(),
            signature: [0; 64],
        };
        let bytes = parted.signed_bytes().freeze();
        let sign = self.next_identity_number();
        self.partings.signing = Some((sign, parted));
        self.outputs.push_back(Output::Sign { sign, bytes });
    }

    /// The key's holder has signed; whether it was for this.
    pub(super) fn on_parted_signed(&mut self, sign: u64, signature: [u8; 64]) -> bool {
        let signed = self.partings.signing.take_if(|(of, _)| *of == sign);
        let Some((_, mut parted)) = signed else {
            return false;
        };
        parted.signature = signature;
        self.partings.own = Some(parted);
        let links: Vec<LinkId> = self.sessions.keys().copied().collect();
        for link in links {
            self.tell_parted(link);
        }
        true
    }

    fn say_parted(&mut self, link: LinkId, parted: &Parted) {
        let untold = |peer: QmId| self.is_untold(peer);
        let told = self
            .sessions
            .get(&link)
            .map(|s| s.opened && !untold(s.peer));
        if told == Some(true)
            && let Some(session) = self.sessions.get_mut(&link)
        {
            session.push(Lane::Control, &PeerFrame::Parted(parted.clone()));
            self.busy_sessions.insert(link);
        }
    }

    /// The former identity that another machine keeps.
    fn split_former(&self) -> Option<&Former> {
        self.former_record().filter(|former| former.split)
    }

    /// A peer says that it, or somebody else, left an identity to another machine.
    pub(super) fn on_parted(&mut self, link: LinkId, parted: Parted) {
        let Some(session) = self.sessions.get_mut(&link) else {
            return;
        };
        let (old, new) = ids(&parted.succession);
        let peer = session.peer;
        let of_peer = peer == old || peer == new;
        session.parted_heard = session.parted_heard.saturating_add(1);
        if session.parted_heard > HEARD_MAX {
            return;
        }
        // Told of this node's own identity: by one that it listens to, or by the copy itself. Told
        // of another one: by whoever had it, if that one was listened to.
        let heard = if old == self.me.qm {
            of_peer || self.is_heard(peer)
        } else {
            of_peer && self.is_heard(old)
        };
        let once = |verifying: &Verifying| verifying.link == link;
        let verifying = &self.partings.verifying;
        if !heard || verifying.len() >= UNDER_WAY_MAX || verifying.values().any(once) {
            return;
        }
        self.verify_parted(Verifying {
            link,
            parted,
            step: Step::Old,
        });
    }

    fn verify_parted(&mut self, verifying: Verifying) {
        let parted = &verifying.parted;
        let succession = &parted.succession;
        let (key, bytes, signature) = match verifying.step {
            Step::Old => (
                succession.old_key,
                succession.signed_bytes(),
                succession.old_signature,
            ),
            Step::New => (
                succession.new_key,
                succession.signed_bytes(),
                succession.new_signature,
            ),
            Step::Lives => (succession.new_key, parted.signed_bytes(), parted.signature),
        };
        let bytes = bytes.freeze();
        let verify = self.next_identity_number();
        self.partings.verifying.insert(verify, verifying);
        self.outputs.push_back(Output::Verify {
            verify,
            key,
            bytes,
            signature,
        });
    }

    /// A signature was verified; whether it was for this.
    pub(super) fn on_parted_verified(&mut self, verify: u64, good: bool) -> bool {
        let Some(mut verifying) = self.partings.verifying.remove(&verify) else {
            return false;
        };
        if !good {
            let text = "it tells of a machine that parted, which its keys did not sign";
            self.misbehaved(verifying.link, text);
            return true;
        }
        verifying.step = match verifying.step {
            Step::Old => Step::New,
            Step::New => Step::Lives,
            Step::Lives => {
                self.parting_proven(verifying.link, verifying.parted);
                return true;
            }
        };
        self.verify_parted(verifying);
        true
    }

    fn parting_proven(&mut self, link: LinkId, parted: Parted) {
        let (old, _) = ids(&parted.succession);
        // Never of this process, which has it.
        let is_it = |machine: &TwinMachine| {
            !machine.address.is_empty() && parted.lives.contains(&machine.incarnation)
        };
        self.machine_parted(old, is_it);
        self.partings.left_own |= old == self.me.qm;
        if old == self.me.qm || !self.partings.remember(old, parted.clone()) {
            return;
        }
        let links = self.by_peer.get(&old).into_iter().flatten();
        let links: Vec<LinkId> = links.copied().filter(|other| *other != link).collect();
        for link in links {
            self.pass_parted(link, &parted);
        }
    }

    /// A session opened: whoever has an identity hears who left it.
    pub(crate) fn tell_who_parted(&mut self, link: LinkId) {
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        let words = self.partings.proven.get(&session.peer).cloned();
        for parted in words.into_iter().flatten() {
            self.pass_parted(link, &parted);
        }
    }

    fn pass_parted(&mut self, link: LinkId, parted: &Parted) {
        let draining = self.is_draining(link);
        let Some(session) = self.sessions.get(&link) else {
            return;
        };
        let same = session.incarnation();
        let same = same.is_some_and(|life| parted.lives.contains(&life));
        if session.opened && !draining && !same {
            self.say_parted(link, parted);
        }
    }

    /// Whether a machine with this node's identity is known to live, or to have left it and perhaps
    /// to drain: another process with the key is no news then, and lives in another life.
    pub(super) fn is_accompanied(&self) -> bool {
        self.knows_own_copy() || self.partings.left_own || self.own_parted_view().is_some()
    }

    /// This node has another identity, which nobody left.
    pub(crate) const fn forget_who_left(&mut self) {
        self.partings.left_own = false;
    }

    /// The operator forgot a peer.
    pub(crate) fn forget_partings(&mut self, peer: QmId) {
        self.partings.proven.remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{engine, qm, session};

    fn parted(new: u8) -> Parted {
        Parted {
            succession: qm_wire::Succession {
                old_key: [2; 32],
                new_key: [new; 32],
                old_signature: [0; 64],
                new_signature: [0; 64],
            },
            lives: vec![Incarnation(1)],
            signature: [0; 64],
        }
    }

    #[test]
    fn of_so_many_identities_so_many_words_each_are_kept() {
        let mut partings = Partings::default();
        for new in (10..).take(WORDS_MAX + 1) {
            assert!(partings.remember(qm(0), parted(new)));
        }
        let words = &partings.proven[&qm(0)];
        assert_eq!(words.len(), WORDS_MAX);
        assert_eq!(words[0], parted(11), "the oldest is forgotten");
        for old in 1..=IDENTITIES_MAX {
            assert!(partings.remember(qm(old), parted(10)));
        }
        assert_eq!(partings.proven.len(), IDENTITIES_MAX);
        assert!(!partings.remember(qm(5), parted(10)), "it is known");
    }

    #[test]
    fn so_many_words_are_verified_at_a_time_and_heard_of_one_session() {
        let asked = |engine: &mut Engine| {
            let outputs = core::mem::take(&mut engine.outputs);
            let verify = |output: &&Output| matches!(output, Output::Verify { .. });
            outputs.iter().filter(verify).count()
        };
        let link = LinkId(999);
        for (under_way, verified) in [(UNDER_WAY_MAX - 1, 1), (UNDER_WAY_MAX, 0)] {
            let mut engine = engine();
            session(&mut engine, link, ids(&parted(9).succession).0);
            for n in 0..under_way as u64 {
                let (link, parted) = (LinkId(n), parted(9));
                let step = Step::Old;
                let verifying = Verifying { link, parted, step };
                engine.partings.verifying.insert(n, verifying);
            }
            engine.on_parted(link, parted(9));
            assert_eq!(asked(&mut engine), verified, "{under_way}");
        }
        let mut engine = engine();
        session(&mut engine, link, ids(&parted(9).succession).0);
        for heard in 1..=HEARD_MAX + 1 {
            engine.partings.verifying.clear();
            engine.on_parted(link, parted(9));
            assert_eq!(asked(&mut engine), usize::from(heard <= HEARD_MAX));
        }
    }
}
