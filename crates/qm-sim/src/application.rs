//! Applications: one kind puts messages, the other consumes a queue.

use std::collections::BTreeMap;

use bytes::Bytes;
use qm_engine::{ConnId, Entropy, SeededEntropy};
use qm_wire::local::{
    ClientFrame, ClientHello, Put as PutFrame, Receive, ReceiveMode, Settle, Verdict,
};
use qm_wire::{Class, ClientId, Priority};

use crate::oracle::Put;
use crate::scenario::Scenario;

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
    /// Refused for want of room: to be put again.
    pub(crate) again: Vec<(Put, PutFrame)>,
}

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
            again: Vec::new(),
        }
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

    /// The next few puts with the machine each goes to.
    pub(crate) fn more(
        &mut self,
        scenario: &Scenario,
        random: &mut SeededEntropy,
    ) -> Vec<(Put, usize, PutFrame)> {
        let mut frames = Vec::new();
        let batch = 1 + random.next_u64() % 8;
        for _ in 0..batch {
            let (put, to, mut frame) = if let Some((put, frame)) = self.again.pop() {
                (put, usize::MAX, frame)
            } else if self.next <= scenario.messages {
                let put = Put {
                    application: self.number,
                    number: self.next,
                };
                self.next += 1;
                let others = scenario.nodes as u64;
                let to = usize::try_from(random.next_u64() % others).unwrap_or(0);
                (put, to, self.frame(scenario, put, to, random))
            } else {
                break;
            };
            frame.sequence = self.next_sequence;
            self.next_sequence += 1;
            self.unanswered.insert(frame.sequence, (put, frame.clone()));
            frames.push((put, to, frame));
        }
        frames
    }

    fn frame(
        &self,
        scenario: &Scenario,
        put: Put,
        to: usize,
        random: &mut SeededEntropy,
    ) -> PutFrame {
        let destination = if to == self.node {
            "inbox".to_owned()
        } else if scenario.nat && to == scenario.nodes - 1 {
            // Nobody can dial it: it is a peer of the address book that holds a connection.
            format!("node{to}/inbox")
        } else {
            format!("qm://node{to}:1801/inbox")
        };
        let most = scenario.body_bytes_max.max(1);
        let bytes = usize::try_from(random.next_u64() % most).unwrap_or(0);
        let mut frame = PutFrame::new(0, destination, Bytes::from(put.to_body(bytes)));
        frame.class = if random.next_u64() % 1_000 < scenario.express_per_mille {
            Class::Express
        } else {
            Class::Recoverable
        };
        if scenario.priorities {
            let priority = u8::try_from(random.next_u64() % 8).unwrap_or(3);
            frame.priority = Priority::new(priority).unwrap_or_default();
        }
        frame
    }
}

/// An application that consumes the queue of its machine.
pub(crate) struct Receiver {
    client: ClientId,
    pub(crate) conn: Option<ConnId>,
    next_request: u64,
    /// Deliveries in hand: lookup id and what it is.
    pub(crate) in_hand: Vec<(u64, Option<Put>)>,
    /// Settle requests under way and what they consume.
    pub(crate) settling: BTreeMap<u64, Vec<Option<Put>>>,
    given_back: std::collections::BTreeSet<Put>,
}

impl Receiver {
    pub(crate) fn new(random: &mut SeededEntropy) -> Self {
        let mut client = [0; 16];
        random.fill(&mut client);
        Self {
            client: ClientId(client),
            conn: None,
            next_request: 1,
            in_hand: Vec::new(),
            settling: BTreeMap::new(),
            given_back: std::collections::BTreeSet::new(),
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
        vec![ClientFrame::Hello(hello), self.ask()]
    }

    pub(crate) fn ask(&mut self) -> ClientFrame {
        let queue = "inbox".parse().expect("a valid name");
        let mut receive = Receive::new(self.next_request, queue);
        self.next_request += 1;
        receive.mode = ReceiveMode::Take;
        receive.messages_max = 16;
        receive.bytes_max = 1 << 20;
        receive.wait_ms = 500;
        ClientFrame::Receive(receive)
    }

    /// Consumes what is in hand; some of it is given back once.
    pub(crate) fn settle(
        &mut self,
        scenario: &Scenario,
        random: &mut SeededEntropy,
    ) -> Vec<ClientFrame> {
        let mut frames = Vec::new();
        for (lookup, put) in core::mem::take(&mut self.in_hand) {
            let back = random.next_u64() % 1_000 < scenario.give_back_per_mille
                && put.is_some_and(|put| self.given_back.insert(put));
            let request = self.next_request;
            self.next_request += 1;
            let verdict = if back {
                Verdict::GiveBack
            } else {
                Verdict::Consume
            };
            if !back {
                self.settling.insert(request, vec![put]);
            }
            let queue = "inbox".parse().expect("a valid name");
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
