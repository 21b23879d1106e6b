//! The proof that somebody else holds this node's key and uses it now.
//!
//! A node between tells both copies of each other. Each asks the other over it with a fresh
//! challenge and its rank, and each answers with a claim signed by the common key (W-TWN-2). The
//! node between has no key: it can keep a proof back, not make one, and not use one twice.

use std::collections::BTreeMap;

use bytes::Bytes;
use qm_wire::{Ask, Claim, ForkPoint, Incarnation, Rank, Twin};

use super::shares::{Shares, Tenant};

/// Pairs of copies over which this node hears of others at a time: strangers are not heard.
const SHARES: Shares = Shares {
    heard: 256,
    strangers: 0,
    peer: 16,
    kept_ms: 60_000,
};
/// Such of one session.
const RELAYS_PER_SESSION_MAX: usize = 8;
/// Answers over one relay.
const ANSWERS_MAX: u8 = 4;

/// A life of this identity on one session with the node between: its incarnation, and the nonce
/// that the node between gave the session. Copies of a running machine share the first only.
pub(crate) type Voice = (Incarnation, [u8; 16]);

/// What was told over one relay, and what this node asked.
#[derive(Clone, Debug)]
struct Heard {
    twin: Twin,
    tenant: Tenant,
    challenge: [u8; 32],
    /// The rank that was asked with.
    rank: Rank,
    /// How often the other's question was answered: once, and again when ranks were equal.
    answered: u8,
    /// The highest rank that the other's questions named. Nobody signed that.
    named: Option<Rank>,
    answer: Answer,
}

/// What came of this node's question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Awaited,
    /// A claim came, and its signature is being verified.
    Came,
    /// The rank in it was compared.
    Judged,
}

/// A claim that is right but for its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unverified {
    /// What must be signed by this node's own key, and the signature.
    pub(crate) bytes: Bytes,
    pub(crate) signature: [u8; 64],
    /// What the node between says of the claimer.
    pub(crate) twin: Twin,
    pub(crate) rank: Rank,
    /// The courses of the claimer's store.
    pub(crate) points: Vec<ForkPoint>,
}

/// Copies of this node that others tell of.
#[derive(Clone, Debug)]
pub(crate) struct Proofs<L> {
    /// By session and relay: copies that meet have no relay.
    heard: BTreeMap<(L, [u8; 16]), Heard>,
}

impl<L: Copy + Ord> Proofs<L> {
    pub(crate) const fn new() -> Self {
        Self {
            heard: BTreeMap::new(),
        }
    }

    /// A node between tells of a copy: what to ask it, unless too many are told of.
    pub(crate) fn told(
        &mut self,
        link: L,
        twin: Twin,
        challenge: [u8; 32],
        rank: Rank,
        tenant: Tenant,
    ) -> Option<Ask> {
        let of_session = self.heard.keys().filter(|(heard, _)| *heard == link);
        if of_session.count() >= RELAYS_PER_SESSION_MAX
            || self.heard.contains_key(&(link, twin.relay))
        {
            return None;
        }
        let tenants = self.heard.iter().map(|(key, heard)| (*key, heard.tenant));
        if let Some(gone) = SHARES.room(tenants, &tenant).ok()? {
            self.heard.remove(&gone);
        }
        let relay = twin.relay;
        let heard = Heard {
            twin,
            tenant,
            challenge,
            rank,
            answered: 0,
            named: None,
            answer: Answer::Awaited,
        };
        self.heard.insert((link, relay), heard);
        Some(Ask {
            relay,
            challenge,
            rank,
        })
    }

    /// The same copy is asked once more, with a fresh challenge.
    pub(crate) fn again(
        &mut self,
        link: L,
        relay: [u8; 16],
        challenge: [u8; 32],
        rank: Rank,
    ) -> Option<Ask> {
        let heard = self.heard.get_mut(&(link, relay))?;
        (heard.challenge, heard.rank) = (challenge, rank);
        heard.answer = Answer::Awaited;
        Some(Ask {
            relay,
            challenge,
            rank,
        })
    }

    /// A copy asks: the claim to sign, if it came as it should. Never one over a challenge of this
    /// node's own, and a few a relay.
    pub(crate) fn asked(&mut self, link: L, ask: &Ask, me: Voice, rank: Rank) -> Option<Claim> {
        if self.heard.values().any(|h| h.challenge == ask.challenge) {
            return None;
        }
        let heard = self.heard.get_mut(&(link, ask.relay))?;
        if heard.answered >= ANSWERS_MAX {
            return None;
        }
        heard.answered += 1;
        heard.named = heard.named.max(Some(ask.rank));
        Some(Claim {
            relay: ask.relay,
            challenge: ask.challenge,
            incarnation: me.0,
            nonce: me.1,
            rank,
            asked_rank: ask.rank,
            points: Vec::new(),
            signature: [0; 64],
        })
    }

    /// A claim came: what is left to verify, if it answers this node's own fresh question, and is
    /// not its own voice.
    pub(crate) fn claimed(&mut self, link: L, claim: &Claim, own: &[Voice]) -> Option<Unverified> {
        let heard = self.heard.get_mut(&(link, claim.relay))?;
        if heard.answer != Answer::Awaited
            || heard.challenge != claim.challenge
            || heard.rank != claim.asked_rank
            || own.contains(&(claim.incarnation, claim.nonce))
        {
            return None;
        }
        heard.answer = Answer::Came;
        Some(Unverified {
            bytes: claim.signed_bytes().freeze(),
            signature: claim.signature,
            twin: heard.twin.clone(),
            rank: claim.rank,
            points: claim.points.clone(),
        })
    }

    /// The rank of the claim that came is compared.
    pub(crate) fn judged(&mut self, link: L, relay: [u8; 16]) {
        if let Some(heard) = self.heard.get_mut(&(link, relay))
            && heard.answer == Answer::Came
        {
            heard.answer = Answer::Judged;
        }
    }

    /// Whether the last answer is too old to go by: the other named a higher rank than `own` in a
    /// question of its own, which it has risen to since it answered, or will be heard to have.
    pub(crate) fn is_outdated(&self, link: L, relay: [u8; 16], own: Rank) -> bool {
        self.heard.get(&(link, relay)).is_some_and(|heard| {
            heard.answer == Answer::Judged && heard.named.is_some_and(|named| named > own)
        })
    }

    /// A session ended: what was asked on it is void.
    pub(crate) fn ended(&mut self, link: L) {
        self.heard.retain(|(heard, _), _| *heard != link);
    }
}

#[cfg(test)]
mod tests {
    use qm_wire::QmId;

    use super::*;

    const fn tenant(peer: u8) -> Tenant {
        Tenant {
            peer: QmId::from_bytes([peer; 16]),
            stranger: false,
            at_ms: 0,
        }
    }

    const RANK: Rank = Rank {
        sealed: true,
        served_s: 5,
        draw: 9,
    };
    const ME: Voice = (Incarnation(1), [1; 16]);

    fn twin(relay: u8) -> Twin {
        Twin {
            relay: [relay; 16],
            incarnation: Incarnation(2),
            known_s: 3,
            address: "10.0.0.2:1801".into(),
            host: "till".into(),
        }
    }

    /// A process, told of a copy over relay 7 on session 1.
    fn asking(challenge: u8) -> (Proofs<u64>, Ask) {
        let mut proofs = Proofs::new();
        let ask = proofs
            .told(1, twin(7), [challenge; 32], RANK, tenant(1))
            .expect("it asks");
        (proofs, ask)
    }

    fn claim_of_the_other(ask: &Ask) -> Claim {
        let (mut other, _) = asking(99);
        let voice = (Incarnation(2), [2; 16]);
        other.asked(1, ask, voice, RANK).expect("it answers")
    }

    #[test]
    fn a_claim_is_believed_over_ones_own_fresh_challenge_only() {
        let (mut proofs, ask) = asking(5);
        let claim = claim_of_the_other(&ask);
        let with = |change: fn(&mut Claim)| {
            let mut changed = claim.clone();
            change(&mut changed);
            changed
        };
        for wrong in [
            with(|c| c.challenge = [6; 32]),
            with(|c| c.relay = [8; 16]),
            with(|c| c.asked_rank.draw += 1),
            with(|c| (c.incarnation, c.nonce) = ME),
        ] {
            assert_eq!(proofs.claimed(1, &wrong, &[ME]), None, "{wrong:?}");
        }
        assert_eq!(proofs.claimed(2, &claim, &[ME]), None, "another session");
        let right = proofs.claimed(1, &claim, &[ME]).expect("it is right");
        assert_eq!(right.bytes, claim.signed_bytes().freeze());
        assert_eq!(proofs.claimed(1, &claim, &[ME]), None, "no second time");
    }

    #[test]
    fn a_memory_copy_is_told_apart_by_the_nonce_of_its_session() {
        let (mut proofs, ask) = asking(5);
        let mut claim = claim_of_the_other(&ask);
        claim.incarnation = ME.0;
        assert!(proofs.claimed(1, &claim, &[ME]).is_some());
    }

    #[test]
    fn nobody_gets_a_signature_over_ones_own_challenge_or_unasked() {
        let (mut proofs, ask) = asking(5);
        assert_eq!(proofs.asked(1, &ask, ME, RANK), None, "its own question");
        let foreign = |relay: u8| Ask {
            relay: [relay; 16],
            challenge: [44; 32],
            rank: RANK,
        };
        assert_eq!(
            proofs.asked(1, &foreign(8), ME, RANK),
            None,
            "no such relay"
        );
        assert_eq!(
            proofs.asked(2, &foreign(7), ME, RANK),
            None,
            "another session"
        );
        for _ in 0..ANSWERS_MAX {
            assert!(proofs.asked(1, &foreign(7), ME, RANK).is_some());
        }
        assert_eq!(
            proofs.asked(1, &foreign(7), ME, RANK),
            None,
            "a few a relay"
        );
        proofs.ended(1);
        assert!(proofs.heard.is_empty());
    }

    #[test]
    fn what_a_session_can_make_a_node_remember_is_bounded() {
        let (mut proofs, _) = asking(5);
        for relay in 8..100 {
            let _asked = proofs.told(1, twin(relay), [relay; 32], RANK, tenant(1));
        }
        assert_eq!(proofs.heard.len(), RELAYS_PER_SESSION_MAX);
        // However many sessions it has: nobody else's word of a copy is lost for it.
        for relay in 100..200 {
            let link = u64::from(relay);
            let _asked = proofs.told(link, twin(relay), [0; 32], RANK, tenant(1));
        }
        assert_eq!(proofs.heard.len(), SHARES.peer);
        assert!(proofs.told(2, twin(1), [0; 32], RANK, tenant(2)).is_some());
    }
}
