//! Applications that move tokens between queues of several machines: what a transaction takes from
//! one queue it sends on to others, and both happen or neither.

use bytes::Bytes;
use qm_engine::{ConnId, Entropy, SeededEntropy};
use qm_wire::local::{
    ClientFrame, ClientHello, EndTransaction, Put as PutFrame, Receive, ReceiveMode,
};
use qm_wire::{Class, ClientId, Priority};

use super::{destination, queue_name};
use crate::oracle::{Fate, Put, Token};
use crate::scenario::Scenario;

/// Most tokens that one transaction moves.
const MOVED_MAX: u64 = 3;

/// See the module.
pub(crate) struct Mover {
    pub(crate) number: u32,
    pub(crate) node: usize,
    client: ClientId,
    pub(crate) conn: Option<ConnId>,
    next_put: u64,
    next_sequence: u64,
    next_request: u64,
    next_transaction: u64,
    /// Tokens that it has yet to bring into the world, and the number of the next.
    to_mint: u64,
    next_token: u64,
    pub(crate) open: Option<Open>,
}

/// A transaction whose end its application has not heard of.
pub(crate) struct Open {
    /// Its number in the oracle's books.
    pub(crate) deal: usize,
    transaction: u64,
    pub(crate) stage: Stage,
    pub(crate) taken: Vec<(Put, Token)>,
    pub(crate) puts: usize,
}

/// How far a transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It waits for messages, under the number of this request.
    Receives(u64),
    /// It has put what it puts.
    Holds,
    /// Its end was asked for, and will be again on the next connection.
    Ends(EndTransaction),
}

/// A put of a transaction: its name, its token, what the books should know of it.
pub(crate) type Moved = (Put, Token, Fate, ClientFrame);

impl Mover {
    pub(crate) fn new(
        number: u32,
        node: usize,
        scenario: &Scenario,
        random: &mut SeededEntropy,
    ) -> Self {
        let mut client = [0; 16];
        random.fill(&mut client);
        Self {
            number,
            node,
            client: ClientId(client),
            conn: None,
            next_put: 1,
            next_sequence: 1,
            next_request: 1,
            next_transaction: 1,
            to_mint: scenario.tokens,
            next_token: 1,
            open: None,
        }
    }

    /// What is sent first on a new connection: the hello, and the end that is not answered.
    pub(crate) fn reconnect(&mut self, conn: ConnId) -> Vec<ClientFrame> {
        self.conn = Some(conn);
        let mut frames = vec![ClientFrame::Hello(ClientHello {
            protocol: 1,
            client: self.client,
            program: "simulation".into(),
        })];
        if let Some(Open {
            stage: Stage::Ends(end),
            ..
        }) = &self.open
        {
            frames.push(ClientFrame::EndTransaction(*end));
        }
        frames
    }

    /// The connection is gone, and with it a transaction whose end was not asked for: its number in
    /// the books.
    pub(crate) fn disconnect(&mut self) -> Option<usize> {
        self.conn = None;
        self.open
            .take_if(|open| !matches!(open.stage, Stage::Ends(_)))
            .map(|open| open.deal)
    }

    /// Loses its memory: whether its transaction was committed, it will never know.
    pub(crate) fn crash(&mut self, random: &mut SeededEntropy) {
        random.fill(&mut self.client.0);
        (self.next_sequence, self.next_transaction) = (1, 1);
        self.open = None;
    }

    /// Whether it has nothing in its hands.
    pub(crate) fn is_idle(&self) -> bool {
        self.open
            .as_ref()
            .is_none_or(|open| open.taken.is_empty() && open.puts == 0)
    }

    /// Begins a transaction that brings tokens into the world, if it has to.
    pub(crate) fn mint(
        &mut self,
        deal: usize,
        scenario: &Scenario,
        random: &mut SeededEntropy,
    ) -> Option<Vec<Moved>> {
        if self.to_mint == 0 {
            return None;
        }
        let count = self.to_mint.min(1 + random.next_u64() % MOVED_MAX);
        self.to_mint -= count;
        self.begin(deal, Stage::Holds);
        let mut tokens = Vec::new();
        for _ in 0..count {
            tokens.push(Token {
                application: self.number,
                number: self.next_token,
            });
            self.next_token += 1;
        }
        Some(self.send(&tokens, scenario, random))
    }

    /// Begins a transaction that takes tokens.
    pub(crate) fn receive(
        &mut self,
        deal: usize,
        scenario: &Scenario,
        random: &mut SeededEntropy,
    ) -> ClientFrame {
        let request = self.next_request;
        self.next_request += 1;
        self.begin(deal, Stage::Receives(request));
        let queue = queue_name(scenario.token_queue());
        let mut receive = Receive::new(request, queue.parse().expect("a valid name"));
        receive.mode = ReceiveMode::Take;
        receive.messages_max = u32::try_from(1 + random.next_u64() % MOVED_MAX).unwrap_or(1);
        receive.bytes_max = 1 << 20;
        receive.wait_ms = 500;
        receive.transaction = self.open.as_ref().map(|open| open.transaction);
        ClientFrame::Receive(receive)
    }

    fn begin(&mut self, deal: usize, stage: Stage) {
        self.open = Some(Open {
            deal,
            transaction: self.next_transaction,
            stage,
            taken: Vec::new(),
            puts: 0,
        });
        self.next_transaction += 1;
    }

    /// Sends on what the transaction took.
    pub(crate) fn send_on(
        &mut self,
        scenario: &Scenario,
        random: &mut SeededEntropy,
    ) -> Vec<Moved> {
        let Some(open) = &mut self.open else {
            return Vec::new();
        };
        open.stage = Stage::Holds;
        let tokens: Vec<_> = open.taken.iter().map(|(_, token)| *token).collect();
        self.send(&tokens, scenario, random)
    }

    fn send(
        &mut self,
        tokens: &[Token],
        scenario: &Scenario,
        random: &mut SeededEntropy,
    ) -> Vec<Moved> {
        let Some(open) = &mut self.open else {
            return Vec::new();
        };
        open.puts = tokens.len();
        let transaction = open.transaction;
        let mut moved = Vec::new();
        for token in tokens {
            let mut below = |bound: u64| random.next_u64() % bound.max(1);
            let put = Put {
                application: self.number,
                number: self.next_put,
            };
            self.next_put += 1;
            // To another machine, most of the time.
            let mut to = usize::try_from(below(scenario.nodes as u64)).unwrap_or(0);
            if to == self.node && below(4) > 0 {
                to = (to + 1) % scenario.nodes;
            }
            let queue = scenario.token_queue();
            let fate = Fate {
                node: self.node,
                towards: (to, queue),
                durable: true,
                transactional: true,
                ..Fate::default()
            };
            let body = Bytes::from(token.to_body(put));
            let name = destination(scenario, self.node, to, queue);
            let mut frame = PutFrame::new(self.next_sequence, name, body);
            self.next_sequence += 1;
            frame.class = Class::Transactional;
            frame.priority = Priority::LOWEST;
            frame.transaction = Some(transaction);
            moved.push((put, *token, fate, ClientFrame::Put(frame)));
        }
        moved
    }

    /// Asks for the end of the transaction.
    pub(crate) fn end(&mut self, commit: bool) -> Option<ClientFrame> {
        let open = self.open.as_mut()?;
        let end = EndTransaction {
            sequence: self.next_sequence,
            transaction: open.transaction,
            commit,
        };
        self.next_sequence += 1;
        open.stage = Stage::Ends(end);
        Some(ClientFrame::EndTransaction(end))
    }
}
