//! MSMQ's rules, as the article on cloned machines and the open specifications tell them.
//!
//! * A message is named by the sender's QMId and a 4-byte counter that an image copies ([MS-MQMQ]
//!   2.2.18.1.3).
//! * Acknowledgements go to the machine in a cache that knows one address for each QMId. A row
//!   lives until its lifetime ends; whoever it names prolongs it by sending; others do not change
//!   it (John Breakwell, "MSMQ prefers to be unique").
//! * An acknowledgement of a message that a machine did not send is discarded in silence. One of a
//!   message with the number of its own is taken for that.
//! * The receiver removes duplicates by the name: 10,000 names, purged every 30 minutes when they
//!   are older than that; a duplicate renews its name (KB 255546, [MS-MQQB] 3.1.5.8). It is
//!   acknowledged again, which is the reading kinder to MSMQ: as written it is not, and then every
//!   lost acknowledgement makes a message stick.
//! * At most 64 messages are unacknowledged; each is sent again after 20 s ([MS-MQQB] 3.1.2.4).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use qm_engine::{Entropy as _, SeededEntropy};

use super::figures::{Books, Figures, Situation, delay_us};

const WINDOW: usize = 64;
const ACK_WAIT_US: u64 = 20_000_000;
const REMEMBERED_MAX: usize = 10_000;
const REMEMBERED_US: u64 = 30 * 60 * 1_000_000;

/// The name of a message: whose, and the counter.
type Name = (u16, u64);

enum What {
    Send {
        clone: u16,
    },
    Arrive {
        from: u16,
        name: Name,
        number: usize,
    },
    Acknowledge {
        to: u16,
        name: Name,
    },
    Resend {
        clone: u16,
        counter: u64,
    },
}

struct Machine {
    counter: u64,
    waiting: VecDeque<usize>,
    /// Transmitted and not acknowledged, by the counter.
    transmitted: BTreeMap<u64, usize>,
}

/// To whom acknowledgements for a QMId go.
struct Row {
    holder: u16,
    until_us: u64,
}

/// The receiver's duplicate cache.
#[derive(Default)]
struct Remembered {
    seen_us: BTreeMap<Name, u64>,
    order: BTreeSet<(u64, Name)>,
    purged_us: u64,
}

impl Remembered {
    /// Whether a message of this name came lately; notes that it did.
    fn knows(&mut self, name: Name, now_us: u64) -> bool {
        while self.purged_us + REMEMBERED_US <= now_us {
            self.purged_us += REMEMBERED_US;
            let oldest_us = self.purged_us - REMEMBERED_US;
            while let Some((seen_us, old)) = self.order.first().copied()
                && seen_us < oldest_us
            {
                self.order.pop_first();
                self.seen_us.remove(&old);
            }
        }
        let before = self.seen_us.insert(name, now_us);
        if let Some(seen_us) = before {
            self.order.remove(&(seen_us, name));
        }
        self.order.insert((now_us, name));
        if self.order.len() > REMEMBERED_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.seen_us.remove(&oldest);
        }
        before.is_some()
    }
}

struct World<'a> {
    situation: &'a Situation,
    random: SeededEntropy,
    now_us: u64,
    agenda: BTreeMap<(u64, u64), What>,
    planned: u64,
    machines: Vec<Machine>,
    rows: BTreeMap<u16, Row>,
    remembered: Remembered,
    books: Books,
}

/// Plays a situation through.
pub(super) fn play(situation: &Situation) -> Figures {
    let mut random = situation.random(2);
    let apart = u64::from(situation.apart) + 1;
    let machines = (0..situation.clones)
        .map(|_| Machine {
            counter: random.next_u64() % apart,
            waiting: VecDeque::new(),
            transmitted: BTreeMap::new(),
        })
        .collect();
    let mut world = World {
        situation,
        random,
        now_us: 0,
        agenda: BTreeMap::new(),
        planned: 0,
        machines,
        rows: BTreeMap::new(),
        remembered: Remembered::default(),
        books: Books::new(situation.clones, 0),
    };
    for (at_us, clone) in situation.sendings() {
        world.plan(at_us, What::Send { clone });
    }
    // Afterwards each clone gets its turn, if only once the others are silent.
    let turn_us = situation.lifetime_ms.saturating_mul(1_000) + ACK_WAIT_US;
    let turns_us = (u64::from(situation.clones) + 2).saturating_mul(2 * turn_us);
    let end_us = (situation.duration_ms * 1_000).saturating_add(turns_us);
    while let Some(((at_us, _), what)) = world.agenda.pop_first() {
        if at_us > end_us {
            break;
        }
        world.now_us = at_us;
        world.step(what);
    }
    world.books.figures(world.now_us)
}

impl World<'_> {
    fn plan(&mut self, at_us: u64, what: What) {
        self.planned += 1;
        self.agenda.insert((at_us, self.planned), what);
    }

    fn step(&mut self, what: What) {
        match what {
            What::Send { clone } => {
                let number = self.books.sent(usize::from(clone), self.now_us);
                self.machines[usize::from(clone)].waiting.push_back(number);
                self.transmit_waiting(clone);
            }
            What::Arrive { from, name, number } => self.arrive(from, name, number),
            What::Acknowledge { to, name } => {
                let machine = &mut self.machines[usize::from(to)];
                // One that it does not wait for is discarded.
                if let Some(number) = machine.transmitted.remove(&name.1) {
                    self.books.settled(usize::from(to), number, self.now_us);
                    self.transmit_waiting(to);
                }
            }
            What::Resend { clone, counter } => {
                let machine = &self.machines[usize::from(clone)];
                if let Some(number) = machine.transmitted.get(&counter) {
                    self.transmit(clone, counter, *number);
                }
            }
        }
    }

    fn transmit_waiting(&mut self, clone: u16) {
        loop {
            let machine = &mut self.machines[usize::from(clone)];
            if machine.transmitted.len() >= WINDOW {
                return;
            }
            let Some(number) = machine.waiting.pop_front() else {
                return;
            };
            machine.counter += 1;
            let counter = machine.counter;
            machine.transmitted.insert(counter, number);
            self.transmit(clone, counter, number);
        }
    }

    fn transmit(&mut self, clone: u16, counter: u64, number: usize) {
        let identity = if self.situation.one_identity {
            0
        } else {
            clone
        };
        let arrive = What::Arrive {
            from: clone,
            name: (identity, counter),
            number,
        };
        let delay = delay_us(&mut self.random);
        self.plan(self.now_us + delay, arrive);
        self.plan(self.now_us + ACK_WAIT_US, What::Resend { clone, counter });
    }

    fn arrive(&mut self, from: u16, name: Name, number: usize) {
        let to = self.route(name.0, from);
        if !self.remembered.knows(name, self.now_us) {
            self.books.delivered(usize::from(from), number);
        }
        self.books.misrouted_acks += u64::from(to != from);
        let delay = delay_us(&mut self.random);
        self.plan(self.now_us + delay, What::Acknowledge { to, name });
    }

    /// To whom acknowledgements for an identity go, now that this machine sent under it.
    fn route(&mut self, identity: u16, from: u16) -> u16 {
        let now_us = self.now_us;
        let until_us = now_us.saturating_add(self.situation.lifetime_ms.saturating_mul(1_000));
        let row = self.rows.entry(identity).or_insert(Row {
            holder: from,
            until_us,
        });
        if row.until_us <= now_us && row.holder != from {
            self.books.turns += 1;
            row.holder = from;
        }
        if row.holder == from {
            row.until_us = until_us;
        }
        row.holder
    }
}
