//! Every order in which two copies with equal ranks can hear of each other over one relay, with
//! their real books ([`super::proof::Proofs`], [`super::relays::Relays`]) and rules: nothing is
//! lost, and nobody asks but for what was heard. Both rise, at different times and while answers
//! are being signed, and one of them gives up in the end. Without asking again when the other named
//! a higher rank, both may keep the identity for ever.
#![expect(
    clippy::print_stdout,
    reason = "how many states there were is for people"
)]

use std::collections::BTreeSet;

use qm_wire::{Ask, Claim, Incarnation, QmId, Rank, Twin};

use super::election::{Verdict, judge, raised};
use super::proof::{Proofs, Voice};
use super::relays::{Relays, Word};
use super::shares::Tenant;

const RELAY: [u8; 16] = [7; 16];
const EQUAL: Rank = Rank {
    sealed: true,
    served_s: 1,
    draw: 5,
};
/// Steps of a rise: two copies may draw the same once, not for ever.
const CHANCES: [u64; 2] = [1, 2];

const fn tenant() -> Tenant {
    Tenant {
        peer: QmId::from_bytes([1; 16]),
        stranger: false,
        at_ms: 0,
    }
}

#[derive(Clone, Debug)]
struct Copy {
    active: bool,
    rank: Rank,
    durable: bool,
    /// Asks again, or answers, when the disk has the rank.
    again: bool,
    unanswered: Vec<Ask>,
    proofs: Proofs<u8>,
    rises: u8,
}

/// Words under way to a copy; a claim is signed for as long as it takes.
#[derive(Clone, Debug)]
enum Said {
    Ask(Ask),
    Claim(Box<Claim>),
}

#[derive(Clone, Debug)]
struct World {
    copies: [Copy; 2],
    said: [Vec<Said>; 2],
    relays: Relays<u8>,
    challenges: u8,
    asks_again: bool,
}

impl World {
    fn new(asks_again: bool) -> Self {
        let copy = || Copy {
            active: true,
            rank: EQUAL,
            durable: true,
            again: false,
            unanswered: Vec::new(),
            proofs: Proofs::new(),
            rises: 0,
        };
        let mut relays = Relays::new();
        assert!(relays.open(RELAY, [0, 1], tenant()));
        let mut world = Self {
            copies: [copy(), copy()],
            said: [Vec::new(), Vec::new()],
            relays,
            challenges: 0,
            asks_again,
        };
        for who in 0..2 {
            let twin = Twin {
                relay: RELAY,
                incarnation: world.voice(1 - who).0,
                known_s: 0,
                address: "10.0.0.2:1801".into(),
                host: "till".into(),
            };
            let challenge = world.fresh();
            let asked = world.copies[who]
                .proofs
                .told(0, twin, challenge, EQUAL, tenant());
            world.pass(who, Said::Ask(asked.expect("it asks")));
        }
        world
    }

    fn voice(&self, who: usize) -> Voice {
        let number = u8::from(who == 1);
        (Incarnation(number.into()), [number; 16])
    }

    fn fresh(&mut self) -> [u8; 32] {
        self.challenges += 1;
        [self.challenges; 32]
    }

    /// Over the node between, which passes on a few words only.
    fn pass(&mut self, from: usize, said: Said) {
        let word = match said {
            Said::Ask(_) => Word::Ask,
            Said::Claim(_) => Word::Claim,
        };
        let side = u8::from(from == 1);
        if self.relays.pass(&RELAY, side, word) == Some(1 - side) {
            self.said[1 - from].push(said);
        }
    }

    fn ask_again(&mut self, who: usize) {
        let challenge = self.fresh();
        let rank = self.copies[who].rank;
        if let Some(ask) = self.copies[who].proofs.again(0, RELAY, challenge, rank) {
            self.pass(who, Said::Ask(ask));
        }
    }

    fn ask_if_outdated(&mut self, who: usize) {
        let copy = &mut self.copies[who];
        if !self.asks_again || !copy.active || !copy.proofs.is_outdated(0, RELAY, copy.rank) {
            return;
        }
        if copy.durable {
            self.ask_again(who);
        } else {
            copy.again = true;
        }
    }

    fn hear(&mut self, who: usize, said: Said, chance: u64) {
        match said {
            Said::Ask(ask) if !self.copies[who].durable => self.copies[who].unanswered.push(ask),
            Said::Ask(ask) => self.answer(who, &ask),
            Said::Claim(claim) => self.judge(who, &claim, chance),
        }
    }

    fn answer(&mut self, who: usize, ask: &Ask) {
        let voice = self.voice(who);
        let copy = &mut self.copies[who];
        if let Some(claim) = copy.proofs.asked(0, ask, voice, copy.rank) {
            self.ask_if_outdated(who);
            self.pass(who, Said::Claim(Box::new(claim)));
        }
    }

    fn judge(&mut self, who: usize, claim: &Claim, chance: u64) {
        let own = self.voice(who);
        let copy = &mut self.copies[who];
        let Some(claim) = copy.proofs.claimed(0, claim, &[own]) else {
            return;
        };
        copy.proofs.judged(0, RELAY);
        match judge(copy.rank, claim.rank) {
            Verdict::GivesUp => copy.active = false,
            Verdict::Tied if copy.active => {
                copy.rises += 1;
                copy.rank = raised(copy.rank, chance, false);
                copy.durable = false;
                copy.again = true;
            }
            Verdict::Tied | Verdict::Keeps => self.ask_if_outdated(who),
        }
    }

    /// The disk has the raised rank.
    fn keep(&mut self, who: usize) {
        let copy = &mut self.copies[who];
        copy.durable = true;
        let again = core::mem::take(&mut copy.again);
        let unanswered = core::mem::take(&mut copy.unanswered);
        if again {
            self.ask_again(who);
        }
        for ask in unanswered {
            self.answer(who, &ask);
        }
    }

    fn next(&self) -> Vec<Self> {
        let mut next = Vec::new();
        for who in 0..2 {
            for at in 0..self.said[who].len() {
                for chance in CHANCES {
                    let mut world = self.clone();
                    // After one equal rise they draw apart.
                    let apart = u64::from(who == 1) * 7 * u64::from(world.copies[who].rises);
                    let said = world.said[who].remove(at);
                    world.hear(who, said, chance + apart);
                    next.push(world);
                }
            }
            if !self.copies[who].durable {
                let mut world = self.clone();
                world.keep(who);
                next.push(world);
            }
        }
        next
    }
}

fn explore(name: &str, asks_again: bool) -> Result<(), String> {
    let first = World::new(asks_again);
    let mut seen = BTreeSet::from([format!("{first:?}")]);
    let mut open = vec![first];
    let mut ends = 0;
    while let Some(world) = open.pop() {
        let active = world.copies.iter().filter(|copy| copy.active).count();
        let next = world.next();
        let wrong = match active {
            0 => Some("both gave up"),
            2 if next.is_empty() => Some("both keep it"),
            _ => None,
        };
        if let Some(wrong) = wrong {
            println!("{name}: {} states, then: {wrong}", seen.len());
            return Err(wrong.to_owned());
        }
        ends += usize::from(next.is_empty());
        for next in next {
            if seen.insert(format!("{next:?}")) {
                open.push(next);
            }
        }
    }
    println!("{name}: all {} states, {ends} ends", seen.len());
    Ok(())
}

#[test]
fn of_two_copies_that_rise_at_once_one_gives_up() {
    assert_eq!(explore("crossing", true), Ok(()));
    let once = explore("crossing, asked once", false);
    assert_eq!(once, Err("both keep it".to_owned()));
}
