//! Applications: one kind puts messages, another consumes a queue, a third does both in
//! transactions.

mod mover;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use qm_engine::{ConnId, Entropy, SeededEntropy};
use qm_wire::local::{
    ClientFrame, ClientHello, Follow, IdempotencyKey, Put as PutFrame, Receive, ReceiveMode,
    Settle, Verdict,
};
use qm_wire::{AckWishes, Class, ClientId, MessageFlags, Priority};

use crate::machine::Machine;
use crate::oracle::{Fate, Put};
use crate::scenario::Scenario;

pub(crate) use mover::{Moved, Mover, Stage};

/// Stands for the queue of each machine into which reports are put.
pub(crate) const REPORTS: usize = usize::MAX - 1;
/// Stands for the queue of each machine in which copies are kept.
pub(crate) const JOURNAL: usize = usize::MAX;

/// Name of a queue of every machine; beyond those there is none of that name anywhere.
pub(crate) fn queue_name(number: usize) -> String {
    match number {
        0 => "inbox".to_owned(),
        REPORTS => "reports".to_owned(),
        JOURNAL => "journal$".to_owned(),
        other => format!("work{other}"),
    }
}

/// How a queue of a machine is addressed from another one, or from itself.
fn destination(scenario: &Scenario, from: usize, to: usize, queue: usize) -> String {
    let name = queue_name(queue);
    if to == from {
        name
    } else if scenario.nat && to == scenario.nodes - 1 {
        // Nobody can dial it: it is a peer of the address book that holds a connection.
        format!("node{to}/{name}")
    } else {
        format!("qm://node{to}:1801/{name}")
    }
}

/// An application that puts messages, keeps what is unanswered, and repeats it on a new connection.
pub(crate) struct Sender {
    pub(crate) number: u32,
    pub(crate) node: usize,
    client: ClientId,
    pub(crate) conn: Option<ConnId>,
    next: u64,
    /// Sequence of the next request; refused puts are put again under a new one.
    next_sequence: u64,
    pub(crate) unanswered: BTreeMap<u64, (Put, PutFrame)>,
    /// What each request was that is answered, for what is reported later.
    pub(crate) answered: BTreeMap<u64, Put>,
    /// Refused for want of room: to be put again.
    pub(crate) again: Vec<(Put, PutFrame)>,
    /// The latest puts with a key, answered or not: an application that lost its memory goes over
    /// its input once more.
    keyed: VecDeque<(Put, PutFrame)>,
}

/// How many puts with a key an application repeats when it lost its memory.
const REPEATED_MAX: usize = 12;

impl Sender {
    pub(crate) fn new(number: u32, node: usize, random: &mut SeededEntropy) -> Self {
        let mut client = [0; 16];
        random.fill(&mut client);
        Self {
            number,
            node,
            client: ClientId(client),
            conn: None,
            next: 1,
            next_sequence: 1,
            unanswered: BTreeMap::new(),
            answered: BTreeMap::new(),
            again: Vec::new(),
            keyed: VecDeque::new(),
        }
    }

    /// Loses its memory: what has a key will be put again under another client's name, also some of
    /// what was answered; what has none is forgotten and returned.
    pub(crate) fn crash(&mut self, random: &mut SeededEntropy) -> Vec<Put> {
        random.fill(&mut self.client.0);
        self.next_sequence = 1;
        self.answered.clear();
        let open = core::mem::take(&mut self.unanswered).into_values();
        let open = open.chain(core::mem::take(&mut self.again));
        let (keyed, forgotten): (Vec<_>, Vec<_>) =
            open.partition(|(_, frame)| frame.idempotency.is_some());
        self.again = keyed;
        for (put, frame) in &self.keyed {
            if !self.again.iter().any(|(other, _)| other == put) {
                self.again.push((*put, frame.clone()));
            }
        }
        forgotten.into_iter().map(|(put, _)| put).collect()
    }

    /// What is sent first on a new connection: the hello, then everything unanswered.
    pub(crate) fn reconnect(&mut self, conn: ConnId) -> Vec<ClientFrame> {
        self.conn = Some(conn);
        let hello = ClientHello {
            protocol: 1,
            client: self.client,
            program: "simulation".into(),
        };
        let mut frames = vec![ClientFrame::Hello(hello)];
        frames.extend(
            self.unanswered
                .values()
                .map(|(_, put)| ClientFrame::Put(put.clone())),
        );
        frames
    }

    pub(crate) const fn is_done(&self, scenario: &Scenario) -> bool {
        self.next > scenario.messages && self.again.is_empty()
    }

    /// The next few puts, with what the oracle should know of new ones.
    pub(crate) fn more(
        &mut self,
        scenario: &Scenario,
        random: &mut SeededEntropy,
    ) -> Vec<(Put, Option<Fate>, PutFrame)> {
        let mut frames = Vec::new();
        let batch = 1 + random.next_u64() % 8;
        for _ in 0..batch {
            let (put, fate, mut frame) = if let Some((put, frame)) = self.again.pop() {
                (put, None, frame)
            } else if self.next <= scenario.messages {
                let put = Put {
                    application: self.number,
                    number: self.next,
                };
                self.next += 1;
                let (fate, frame) = self.compose(scenario, put, random);
                (put, Some(fate), frame)
            } else {
                break;
            };
            frame.sequence = self.next_sequence;
            self.next_sequence += 1;
            if frame.idempotency.is_some() {
                self.keyed.retain(|(other, _)| *other != put);
                self.keyed.push_back((put, frame.clone()));
                if self.keyed.len() > REPEATED_MAX {
                    self.keyed.pop_front();
                }
            }
            self.unanswered.insert(frame.sequence, (put, frame.clone()));
            frames.push((put, fate, frame));
        }
        frames
    }

    fn compose(
        &self,
        scenario: &Scenario,
        put: Put,
        random: &mut SeededEntropy,
    ) -> (Fate, PutFrame) {
        let mut below = |bound: u64| random.next_u64() % bound.max(1);
        let mut fate = Fate {
            node: self.node,
            ..Fate::default()
        };
        let mut to = usize::try_from(below(scenario.nodes as u64)).unwrap_or(0);
        if scenario.is_avoided(to) {
            to = (to + 1) % scenario.nodes;
        }
        if to == scenario.family(self.node) {
            // Each machine of a family puts into its own queues.
            to = self.node;
        }
        let mut queue = usize::try_from(below(scenario.queues as u64)).unwrap_or(0);
        if to != self.node && below(1_000) < scenario.misaddressed_per_mille {
            queue = scenario.queues;
        }
        fate.towards = (to, queue);
        let destination = destination(scenario, self.node, to, queue);
        let mut bytes = usize::try_from(below(scenario.body_bytes_max)).unwrap_or(0);
        if below(1_000) < scenario.oversized_per_mille {
            bytes = 5_000;
            fate.oversized = Machine::body_bytes_max(to) < 5_000;
        }
        let body = Bytes::from(put.to_body(bytes));
        let mut frame = PutFrame::new(0, destination, body);
        let plain = if below(1_000) >= scenario.express_per_mille {
            Class::Recoverable
        } else {
            Class::Express
        };
        frame.class = scenario.class_for(queue, plain, &mut below);
        fate.durable = frame.class.is_durable();
        fate.transactional = frame.class == Class::Transactional;
        fate.mistyped = fate.transactional != scenario.is_transactional(queue);
        if fate.transactional {
            frame.priority = Priority::LOWEST;
        } else if scenario.priorities {
            let priority = u8::try_from(below(8)).unwrap_or(3);
            frame.priority = Priority::new(priority).unwrap_or_default();
        }
        fate.priority = frame.priority.get();
        if below(1_000) < scenario.hasty_per_mille {
            let copied = scenario.clones.is_some();
            // Of copies it is the time of one that is over first, and not that of the others.
            let limit = if copied {
                2_000 + below(8_000)
            } else {
                100 + below(5_000)
            };
            match if copied { 0 } else { below(3) } {
                0 => frame.time_to_reach_queue_ms = Some(limit),
                1 => frame.time_to_be_received_ms = Some(limit),
                _ => {
                    frame.flags = frame.flags.with(MessageFlags::FAIL_WHEN_FULL);
                    fate.fails_when_full = true;
                }
            }
        }
        fate.times_ms = [frame.time_to_reach_queue_ms, frame.time_to_be_received_ms];
        if below(1_000) < scenario.careless_per_mille {
            fate.careless = true;
            frame.flags = if fate.fails_when_full {
                MessageFlags::FAIL_WHEN_FULL
            } else {
                MessageFlags::NONE
            };
        }
        if below(1_000) < scenario.keyed_per_mille {
            let series = below(2) == 0;
            let text = if series {
                format!("series of {}", put.application)
            } else {
                format!("{} of {}", put.number, put.application)
            };
            frame.idempotency = Some(IdempotencyKey {
                key: Bytes::from(text),
                number: series.then_some(put.number),
            });
        }
        if below(3) == 0 {
            frame.follow = Follow::Delivered;
        }
        if scenario.wishes_per_mille > 0 && below(1_000) < scenario.wishes_per_mille {
            wish(&mut frame, &mut fate, &mut below);
        }
        if scenario.journal_per_mille > 0 && below(1_000) < scenario.journal_per_mille {
            frame.flags = frame.flags.with(MessageFlags::JOURNAL);
            fate.journal = true;
        }
        (fate, frame)
    }
}

/// An application wishes to hear how a message ends: it follows it, or has reports put, or both.
fn wish(frame: &mut PutFrame, fate: &mut Fate, mut below: impl FnMut(u64) -> u64) {
    let follows = below(3) == 0;
    if follows && below(2) == 0 {
        frame.follow = Follow::Received;
        return;
    }
    let bits = u8::try_from(1 + below(15)).unwrap_or(1);
    frame.ack_wishes = AckWishes::from_bits(bits).unwrap_or(AckWishes::NONE);
    frame.admin_queue = queue_name(REPORTS).into();
    fate.wishes = frame.ack_wishes;
    let of_end = [AckWishes::POSITIVE_RECEIVE, AckWishes::NEGATIVE_RECEIVE];
    if follows && of_end.iter().any(|wish| fate.wishes.contains(*wish)) {
        frame.follow = Follow::Received;
    }
}

/// For how long a receiver waits, milliseconds.
pub(crate) const WAIT_MS: u64 = 500;

/// An application that consumes a queue of its machine.
pub(crate) struct Receiver {
    pub(crate) node: usize,
    /// The queue's number.
    pub(crate) queue: usize,
    client: ClientId,
    pub(crate) conn: Option<ConnId>,
    next_request: u64,
    /// Deliveries in hand: lookup id and what it is.
    pub(crate) in_hand: Vec<(u64, Put)>,
    /// Settle requests under way, what they concern and whether they consume it.
    pub(crate) settling: BTreeMap<u64, (Put, Verdict)>,
    given_back: std::collections::BTreeSet<Put>,
    /// Number of the request whose deliveries came last, and the last of these.
    pub(crate) latest: (u64, u64),
}

impl Receiver {
    pub(crate) fn new(node: usize, queue: usize, random: &mut SeededEntropy) -> Self {
        let mut client = [0; 16];
        random.fill(&mut client);
        Self {
            node,
            queue,
            client: ClientId(client),
            conn: None,
            next_request: 1,
            in_hand: Vec::new(),
            settling: BTreeMap::new(),
            given_back: std::collections::BTreeSet::new(),
            latest: (0, 0),
        }
    }

    pub(crate) fn reconnect(&mut self, conn: ConnId) -> Vec<ClientFrame> {
        self.conn = Some(conn);
        self.in_hand.clear();
        self.settling.clear();
        let hello = ClientHello {
            protocol: 1,
            client: self.client,
            program: "simulation".into(),
        };
        vec![ClientFrame::Hello(hello), self.ask(WAIT_MS)]
    }

    /// Asks for what is in its queue, or comes into it within so many milliseconds.
    pub(crate) fn ask(&mut self, wait_ms: u64) -> ClientFrame {
        let queue = queue_name(self.queue).parse().expect("a valid name");
        let mut receive = Receive::new(self.next_request, queue);
        self.next_request += 1;
        receive.mode = ReceiveMode::Take;
        receive.messages_max = 16;
        receive.bytes_max = 1 << 20;
        receive.wait_ms = wait_ms;
        ClientFrame::Receive(receive)
    }

    /// Consumes what is in hand; some of it is given back once, and then perhaps rejected.
    pub(crate) fn settle(
        &mut self,
        scenario: &Scenario,
        random: &mut SeededEntropy,
    ) -> Vec<ClientFrame> {
        let mut frames = Vec::new();
        for (lookup, put) in core::mem::take(&mut self.in_hand) {
            let unhappy = random.next_u64() % 1_000 < scenario.give_back_per_mille;
            let request = self.next_request;
            self.next_request += 1;
            let verdict = if !unhappy {
                Verdict::Consume
            } else if self.given_back.insert(put) {
                Verdict::GiveBack
            } else if self.queue >= REPORTS {
                Verdict::Consume
            } else {
                Verdict::Reject
            };
            self.settling.insert(request, (put, verdict));
            let queue = queue_name(self.queue).parse().expect("a valid name");
            frames.push(ClientFrame::Settle(Settle {
                request,
                queue,
                verdict,
                ranges: vec![(lookup, lookup)],
            }));
        }
        frames
    }
}
