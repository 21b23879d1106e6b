//! Transactions and leases of applications against a sequential model: random interleavings of
//! applications, a slow and sometimes full disk, lost connections and crashes. All of a transaction
//! happens or nothing; nothing of it is seen before its commit; how often a message was handed out
//! is known after a crash.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[path = "common/disk.rs"]
mod disk;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use qm_engine::admin::AdminRequest;
use qm_engine::{
    ConnId, Engine, EngineConfig, Entropy, Identity, Input, LocalSettings, Now, Output,
    RefusalsKnown, SeededEntropy, StoreOp, Ticket, Timestamp,
};
use qm_wire::local::{
    ClientFrame, ClientHello, EndTransaction, IdempotencyKey, NodeFrame, Put, Receive, Settle,
    TransactionEnded, Verdict,
};
use qm_wire::{Class, ClientId, Outcome, Priority, QmId};

use disk::Disk;

/// What a disk holds, and what it was told to hold and does not yet.
#[derive(Default)]
struct SlowDisk {
    holds: Disk,
    waiting: VecDeque<Waiting>,
    /// Batches that found no room in this life.
    refusals: u64,
}

/// A batch that the disk was told to hold.
struct Waiting {
    ticket: Ticket,
    ops: Vec<StoreOp>,
    refusals_known: RefusalsKnown,
}

impl Waiting {
    fn puts(&self) -> bool {
        self.ops.iter().any(|op| matches!(op, StoreOp::Put { .. }))
    }
}

impl SlowDisk {
    /// Whether the first batch is behind those that put and does not know of all refusals: no other
    /// is refused here.
    fn overtakes(&self) -> bool {
        let first = self.waiting.front();
        first.is_some_and(|batch| match batch.refusals_known {
            RefusalsKnown::All(known) => known < self.refusals,
            RefusalsKnown::Settling(_) => false,
        })
    }
}

/// A node, its disk, and what it told applications.
struct Node {
    engine: Engine,
    disk: SlowDisk,
    /// Whether batches are on disk at once.
    prompt: bool,
    told: VecDeque<(ConnId, NodeFrame)>,
    lives: u64,
    at_ms: u64,
}

fn identity() -> Identity {
    let public_key = [1; 32];
    Identity {
        qm: QmId::from_ed25519_public_key(&public_key),
        public_key,
        store_id: [1; 16],
        token_key: qm_engine::TokenKey::new(public_key),
    }
}

fn engine_over(disk: &SlowDisk, lives: u64, at_ms: u64) -> Engine {
    let entropy = Box::new(SeededEntropy::new(lives));
    let now = now(at_ms);
    let config = EngineConfig::default();
    Engine::new(config, identity(), disk.holds.recovered(), entropy, now)
}

fn now(at_ms: u64) -> Now {
    Now {
        at: Timestamp(at_ms * 1_000),
        wall_us: at_ms * 1_000,
    }
}

impl Node {
    fn new() -> Self {
        let disk = SlowDisk::default();
        let engine = engine_over(&disk, 1, 0);
        let mut node = Self {
            engine,
            disk,
            prompt: true,
            told: VecDeque::new(),
            lives: 1,
            at_ms: 0,
        };
        node.give(Input::Tick);
        node
    }

    fn give(&mut self, input: Input) {
        self.engine.handle(now(self.at_ms), input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.engine.poll(now(self.at_ms)) {
            match output {
                Output::Client { conn, frame } => self.told.push_back((conn, frame)),
                Output::Persist { ticket, ops, .. } if self.prompt => {
                    self.disk.holds.apply(ops);
                    let persisted = Input::Persisted { ticket };
                    self.engine.handle(now(self.at_ms), persisted);
                }
                Output::Persist {
                    ticket,
                    ops,
                    refusals_known,
                } => self.disk.waiting.push_back(Waiting {
                    ticket,
                    ops,
                    refusals_known,
                }),
                Output::Load {
                    load,
                    stream,
                    from,
                    records_max,
                    bytes_max,
                } => {
                    let records = self.disk.holds.load(stream, from, records_max, bytes_max);
                    let loaded = Input::Loaded { load, records };
                    self.engine.handle(now(self.at_ms), loaded);
                }
                Output::CloseClient { text, .. } => panic!("a connection was closed: {text}"),
                _ => {}
            }
        }
        self.engine.audit().unwrap();
    }

    /// The disk does what it was told first, or refuses what would overtake something it refused.
    fn flush_one(&mut self) {
        if self.disk.overtakes() {
            self.refuse_first();
        } else if let Some(batch) = self.disk.waiting.pop_front() {
            self.disk.holds.apply(batch.ops);
            self.give(Input::Persisted {
                ticket: batch.ticket,
            });
        }
    }

    fn refuse_first(&mut self) {
        let Some(batch) = self.disk.waiting.pop_front() else {
            return;
        };
        self.disk.refusals += 1;
        self.give(Input::PersistRefused {
            ticket: batch.ticket,
            ops: batch.ops,
            limited: false,
        });
        self.give(Input::DiskHasRoom);
    }

    fn flush(&mut self) {
        while !self.disk.waiting.is_empty() {
            self.flush_one();
        }
    }

    /// The disk has no room for what it was told first; what needs no room is never refused.
    fn refuse_one(&mut self) {
        if self.disk.waiting.front().is_some_and(Waiting::puts) {
            self.refuse_first();
        } else {
            self.flush_one();
        }
    }

    /// Killed and started again; the disk may have done some of what it did not report.
    fn crash(&mut self, done: usize) {
        for _ in 0..done {
            let overtakes = self.disk.overtakes();
            match self.disk.waiting.pop_front() {
                Some(_) if overtakes => self.disk.refusals += 1,
                Some(batch) => self.disk.holds.apply(batch.ops),
                None => break,
            }
        }
        self.disk.waiting.clear();
        self.disk.refusals = 0;
        self.told.clear();
        self.lives += 1;
        self.engine = engine_over(&self.disk, self.lives, self.at_ms);
        self.give(Input::Tick);
    }

    fn create(&mut self, queue: &str, transactional: bool) {
        let mut settings = LocalSettings::new(queue.parse().unwrap());
        settings.transactional = transactional;
        self.give(Input::Admin {
            conn: ConnId(0),
            request: 1,
            what: AdminRequest::QueueCreate(settings),
        });
        self.flush();
    }

    fn client(&mut self, conn: ConnId, frame: ClientFrame) {
        self.give(Input::Client { conn, frame });
    }

    fn hello(&mut self, conn: ConnId, client: u8) {
        let hello = ClientHello {
            protocol: 1,
            client: ClientId([client; 16]),
            program: "test".into(),
        };
        self.client(conn, ClientFrame::Hello(hello));
    }

    fn put(&mut self, conn: ConnId, sequence: u64, transaction: Option<u64>, to: &str, body: &str) {
        self.client(
            conn,
            ClientFrame::Put(put_of(sequence, transaction, to, body)),
        );
    }

    fn receive(&mut self, conn: ConnId, request: u64, transaction: Option<u64>, queue: &str) {
        let mut receive = Receive::new(request, queue.parse().unwrap());
        receive.messages_max = 3;
        receive.wait_ms = 0;
        receive.transaction = transaction;
        self.client(conn, ClientFrame::Receive(receive));
    }

    fn end(&mut self, conn: ConnId, sequence: u64, transaction: u64, commit: bool) {
        let end = EndTransaction {
            sequence,
            transaction,
            commit,
        };
        self.client(conn, ClientFrame::EndTransaction(end));
    }

    fn settle(&mut self, conn: ConnId, request: u64, queue: &str, lookup: u64, verdict: Verdict) {
        let settle = Settle {
            request,
            queue: queue.parse().unwrap(),
            verdict,
            ranges: vec![(lookup, lookup)],
        };
        self.client(conn, ClientFrame::Settle(settle));
    }

    /// Bodies that were handed out since this was asked last, with their abort counts.
    fn bodies(&mut self) -> Vec<(String, u32)> {
        let told = std::mem::take(&mut self.told);
        told.into_iter()
            .filter_map(|(_, frame)| match frame {
                NodeFrame::Delivery(delivery) => {
                    let body = String::from_utf8(delivery.body.to_vec()).unwrap();
                    Some((body, delivery.abort_count))
                }
                _ => None,
            })
            .collect()
    }

    /// The last end of a transaction that was told.
    fn ended(&mut self) -> Option<TransactionEnded> {
        let told = std::mem::take(&mut self.told);
        told.into_iter()
            .filter_map(|(_, frame)| match frame {
                NodeFrame::TransactionEnded(ended) => Some(ended),
                _ => None,
            })
            .next_back()
    }

    /// Looks at a queue without taking anything.
    fn peek(&mut self, queue: &str) -> Vec<String> {
        let conn = ConnId(u64::MAX);
        let mut receive = Receive::new(self.at_ms, queue.parse().unwrap());
        self.at_ms += 1;
        receive.mode = qm_wire::local::ReceiveMode::Peek;
        receive.messages_max = 1_000;
        receive.wait_ms = 0;
        self.told.clear();
        self.client(conn, ClientFrame::Receive(receive));
        self.bodies().into_iter().map(|(body, _)| body).collect()
    }
}

fn put_of(sequence: u64, transaction: Option<u64>, to: &str, body: &str) -> Put {
    let mut put = Put::new(sequence, to, Bytes::copy_from_slice(body.as_bytes()));
    put.transaction = transaction;
    if to == "exact" {
        put.class = Class::Transactional;
        put.priority = Priority::LOWEST;
    }
    put
}

const A: ConnId = ConnId(1);

fn node() -> Node {
    let mut node = Node::new();
    node.create("orders", false);
    node.create("done", false);
    node.create("exact", true);
    node.hello(A, 1);
    node.told.clear();
    node
}

#[test]
fn nothing_is_seen_before_the_commit_and_all_of_it_afterwards() {
    let mut node = node();
    node.put(A, 1, Some(1), "orders", "one");
    node.put(A, 2, Some(1), "done", "two");
    node.put(A, 3, Some(1), "exact", "three");
    assert!(node.told.is_empty(), "the end answers puts (W-LOC-8)");
    assert!(node.disk.holds.records.is_empty());
    assert!(node.peek("orders").is_empty());
    node.end(A, 4, 1, true);
    let ended = node.ended().unwrap();
    let sequences: Vec<_> = ended.ids(3).map(|id| id.sequence).collect();
    assert_eq!(sequences, [1, 2, 3]);
    assert_eq!(ended.outcome, None);
    for (queue, body) in [("orders", "one"), ("done", "two"), ("exact", "three")] {
        assert_eq!(node.peek(queue), [body]);
    }
}

#[test]
fn an_end_that_is_repeated_gets_the_same_answer_also_after_a_crash() {
    let mut node = node();
    node.put(A, 1, Some(1), "orders", "one");
    node.end(A, 2, 1, true);
    let first = node.ended().unwrap();
    node.end(A, 2, 1, true);
    let again = node.ended().unwrap();
    assert!(again.repeated);
    assert_eq!(again.committed, first.committed);
    node.crash(0);
    node.hello(ConnId(2), 1);
    node.end(ConnId(2), 2, 1, true);
    let again = node.ended().unwrap();
    assert_eq!((again.committed, again.repeated), (first.committed, true));
    assert_eq!(node.peek("orders"), ["one"]);
    // One that was never committed is not, and never will be.
    node.end(ConnId(2), 4, 2, true);
    let unknown = node.ended().unwrap();
    assert_eq!(unknown.outcome, Some(Outcome::TRANSACTION_ABORTED));
}

/// Who was answered what since this was asked last: connection, sequence, whether it was done.
fn answers(node: &mut Node) -> Vec<(ConnId, u64, bool)> {
    let told = std::mem::take(&mut node.told);
    told.into_iter()
        .filter_map(|(conn, frame)| match frame {
            NodeFrame::Accepted(run) => Some((conn, run.first_sequence, true)),
            NodeFrame::Refused(refused) => Some((conn, refused.sequence, false)),
            NodeFrame::TransactionEnded(end) => Some((conn, end.sequence, end.committed.is_some())),
            _ => None,
        })
        .collect()
}

/// W-LOC-2: an application takes an answer to what it has not said on a connection for nonsense.
#[test]
fn an_answer_goes_to_the_connection_on_which_its_request_came_last() {
    let mut node = node();
    let (second, third) = (ConnId(2), ConnId(3));
    node.prompt = false;
    // The connection is lost, and the application has said no more than its name on the next one
    // when the disk answers.
    node.put(A, 1, None, "orders", "one");
    node.put(A, 2, Some(1), "orders", "two");
    node.end(A, 3, 1, true);
    node.give(Input::ClientClosed { conn: A });
    node.hello(second, 1);
    node.flush();
    assert_eq!(answers(&mut node), []);
    node.put(second, 1, None, "orders", "one");
    node.end(second, 3, 1, true);
    assert_eq!(answers(&mut node), [(second, 1, true), (second, 3, true)]);
    // Asked again while it is being stored, it is answered where it was asked last.
    node.put(second, 4, None, "orders", "four");
    node.hello(third, 1);
    node.put(third, 4, None, "orders", "four");
    node.flush();
    assert_eq!(answers(&mut node), [(third, 4, true)]);
    // What still arrives on an older connection is answered there.
    node.put(second, 5, None, "orders", "five");
    node.flush();
    assert_eq!(answers(&mut node), [(second, 5, true)]);
    // The same when the disk has no room.
    node.put(second, 6, None, "orders", "six");
    node.put(second, 7, Some(2), "orders", "seven");
    node.end(second, 8, 2, true);
    node.hello(ConnId(4), 1);
    while !node.disk.waiting.is_empty() {
        node.refuse_one();
    }
    assert_eq!(answers(&mut node), [(second, 6, false), (second, 8, false)]);
    node.put(ConnId(4), 6, None, "orders", "six");
    node.end(ConnId(4), 8, 2, true);
    assert_eq!(
        answers(&mut node),
        [(ConnId(4), 6, false), (ConnId(4), 8, false)]
    );
}

#[test]
fn what_arrives_late_on_an_older_connection_is_not_committed_after_all() {
    let mut node = node();
    node.put(A, 1, Some(1), "orders", "one");
    // The application believes the connection lost; the node has not read its end there yet.
    let later = ConnId(2);
    node.hello(later, 1);
    node.end(later, 2, 1, true);
    let told = node.ended().unwrap();
    assert_eq!(told.outcome, Some(Outcome::TRANSACTION_ABORTED));
    node.end(A, 2, 1, true);
    let late = node.ended().unwrap();
    assert_eq!((late.committed, late.repeated), (None, true));
    assert!(node.peek("orders").is_empty());
}

#[test]
fn the_end_of_a_connection_aborts_its_transactions() {
    let mut node = node();
    node.put(A, 1, None, "orders", "one");
    node.receive(A, 1, Some(1), "orders");
    node.put(A, 2, Some(1), "done", "two");
    assert_eq!(node.bodies(), [("one".to_owned(), 0)]);
    node.give(Input::ClientClosed { conn: A });
    let later = ConnId(2);
    node.hello(later, 1);
    node.receive(later, 1, None, "orders");
    assert_eq!(node.bodies(), [("one".to_owned(), 1)]);
    assert!(node.peek("done").is_empty());
    // Its number begins no new one (W-LOC-8).
    node.put(later, 3, Some(1), "done", "three");
    node.end(later, 4, 1, true);
    let outcome = node.ended().unwrap().outcome;
    assert_eq!(outcome, Some(Outcome::TRANSACTION_ABORTED));
    assert!(node.peek("done").is_empty());
}

#[test]
fn a_refused_put_leaves_nothing_but_to_abort() {
    let mut node = node();
    node.put(A, 1, Some(1), "orders", "one");
    node.put(A, 2, Some(1), "nowhere", "two");
    node.put(A, 3, Some(1), "orders", "three");
    assert!(node.told.is_empty());
    node.end(A, 4, 1, true);
    let ended = node.ended().unwrap();
    let bad = Outcome::BAD_DESTINATION_QUEUE;
    assert_eq!((ended.committed, ended.outcome), (None, Some(bad)));
    assert!(ended.text.starts_with("message 2 of the transaction: "));
    assert!(node.peek("orders").is_empty());
}

#[test]
fn classes_and_queues_go_together() {
    let mut node = node();
    let mut refusal = |class, to: &str, transaction| {
        let mut put = Put::new(node.at_ms + 1, to, Bytes::from_static(b"x"));
        node.at_ms += 1;
        put.class = class;
        put.transaction = transaction;
        if class == Class::Transactional {
            put.priority = Priority::LOWEST;
        }
        node.told.clear();
        node.client(A, ClientFrame::Put(put));
        if let Some(transaction) = transaction {
            node.at_ms += 1;
            node.end(A, node.at_ms, transaction, true);
        }
        match node.told.pop_back() {
            Some((_, NodeFrame::Refused(refused))) => Some(refused.outcome),
            Some((_, NodeFrame::TransactionEnded(ended))) => ended.outcome,
            _ => None,
        }
    };
    let to_transactional = Some(Outcome::NOT_TRANSACTIONAL_MESSAGE);
    let to_ordinary = Some(Outcome::NOT_TRANSACTIONAL_QUEUE);
    assert_eq!(refusal(Class::Recoverable, "exact", None), to_transactional);
    assert_eq!(refusal(Class::Express, "exact", None), to_transactional);
    assert_eq!(refusal(Class::Transactional, "orders", None), to_ordinary);
    assert_eq!(
        refusal(Class::Transactional, "orders", Some(1)),
        to_ordinary
    );
    assert_eq!(refusal(Class::Transactional, "exact", None), None);
    let express = refusal(Class::Express, "orders", Some(2));
    assert_eq!(express, Some(Outcome::BAD_REQUEST));
    assert_eq!(node.peek("exact"), ["x"]);
}

#[test]
fn a_transaction_is_bounded() {
    let mut node = node();
    let body = "b".repeat(1 << 20);
    for sequence in 1..=8 {
        node.put(A, sequence, Some(1), "orders", &body);
    }
    node.end(A, 9, 1, true);
    let outcome = node.ended().unwrap().outcome;
    assert_eq!(outcome, Some(Outcome::TRANSACTION_TOO_LARGE));
    for transaction in 2..=257 {
        node.put(A, 100 + transaction, Some(transaction), "orders", "small");
    }
    // 256 may be open.
    node.put(A, 400, Some(258), "orders", "small");
    node.end(A, 401, 258, true);
    let outcome = node.ended().unwrap().outcome;
    assert_eq!(outcome, Some(Outcome::TRANSACTION_ABORTED));
    // An hour later they are aborted.
    node.at_ms += 60 * 60 * 1_000;
    node.give(Input::Tick);
    node.end(A, 402, 257, true);
    let outcome = node.ended().unwrap().outcome;
    assert_eq!(outcome, Some(Outcome::TRANSACTION_ABORTED));
    assert_eq!(node.engine.counters().transactions_timed_out, 256);
    node.put(A, 403, Some(259), "orders", "small");
    node.end(A, 404, 259, true);
    assert!(node.ended().unwrap().committed.is_some());
}

#[test]
fn a_transaction_larger_than_its_queue_is_refused_as_a_whole() {
    let mut node = node();
    let mut settings = LocalSettings::new("small".parse().unwrap());
    settings.quota_messages = 3;
    node.give(Input::Admin {
        conn: ConnId(0),
        request: 1,
        what: AdminRequest::QueueCreate(settings),
    });
    for sequence in 1..=4 {
        node.put(A, sequence, Some(1), "small", "x");
    }
    node.end(A, 5, 1, true);
    let outcome = node.ended().unwrap().outcome;
    assert_eq!(outcome, Some(Outcome::QUOTA_EXCEEDED));
    for sequence in 6..=8 {
        node.put(A, sequence, Some(2), "small", "x");
    }
    node.end(A, 9, 2, true);
    assert!(node.ended().unwrap().committed.is_some());
    assert_eq!(node.peek("small").len(), 3);
    // What goes and what comes fit together.
    node.receive(A, 1, Some(3), "small");
    for sequence in 10..=12 {
        node.put(A, sequence, Some(3), "small", "y");
    }
    node.end(A, 13, 3, true);
    let outcome = node.ended().unwrap().outcome;
    assert_eq!(
        outcome,
        Some(Outcome::QUOTA_EXCEEDED),
        "it is full until then"
    );
}

#[test]
fn a_key_names_a_transaction_whoever_repeats_it() {
    let mut node = node();
    let mut keyed = |conn: ConnId, sequence, transaction, key: &str, number, body: &str| {
        let mut put = put_of(sequence, Some(transaction), "orders", body);
        put.idempotency = Some(IdempotencyKey {
            key: Bytes::copy_from_slice(key.as_bytes()),
            number: Some(number),
        });
        node.client(conn, ClientFrame::Put(put));
    };
    keyed(A, 1, 1, "k", 1, "one");
    keyed(A, 2, 1, "k", 2, "two");
    let other = ConnId(2);
    node.end(A, 3, 1, true);
    let first = node.ended().unwrap().committed;
    assert!(first.is_some());
    node.hello(other, 2);
    let mut keyed = |conn: ConnId, sequence, transaction, key: &str, number, body: &str| {
        let mut put = put_of(sequence, Some(transaction), "orders", body);
        put.idempotency = Some(IdempotencyKey {
            key: Bytes::copy_from_slice(key.as_bytes()),
            number: Some(number),
        });
        node.client(conn, ClientFrame::Put(put));
    };
    keyed(other, 1, 1, "k", 1, "one");
    keyed(other, 2, 1, "k", 2, "two");
    // Another content, and only a part of it.
    keyed(other, 4, 2, "k", 1, "one");
    keyed(other, 5, 2, "k", 2, "other");
    keyed(other, 7, 3, "k", 2, "two");
    keyed(other, 8, 3, "k", 3, "three");
    node.end(other, 9, 1, true);
    let again = node.ended().unwrap();
    assert_eq!((again.committed, again.repeated), (first, true));
    for (sequence, transaction) in [(10, 2), (11, 3)] {
        node.end(other, sequence, transaction, true);
        let outcome = node.ended().unwrap().outcome;
        assert_eq!(outcome, Some(Outcome::IDEMPOTENCY_CONFLICT));
    }
    assert_eq!(node.peek("orders"), ["one", "two"]);
}

#[test]
fn what_a_committed_transaction_took_does_not_come_again() {
    let mut node = node();
    for sequence in 1..=3 {
        node.put(A, sequence, None, "orders", &sequence.to_string());
    }
    node.receive(A, 1, Some(1), "orders");
    node.put(A, 4, Some(1), "done", "sum");
    node.prompt = false;
    node.end(A, 5, 1, true);
    // On disk, and neither removed nor answered before the machine stops.
    node.crash(node.disk.waiting.len());
    node.prompt = true;
    node.flush();
    assert!(node.peek("orders").is_empty());
    assert_eq!(node.peek("done"), ["sum"]);
    node.hello(A, 1);
    node.end(A, 5, 1, true);
    assert!(node.ended().unwrap().committed.is_some());
    node.give(Input::Tick);
    node.crash(0);
    assert!(node.peek("orders").is_empty());
    let left: Vec<_> = node
        .disk
        .holds
        .state
        .keys()
        .filter(|key| key.starts_with(b"taken/"))
        .collect();
    assert!(left.is_empty(), "what was taken is removed: {left:?}");
}

#[test]
fn what_a_transaction_gives_back_before_its_end_is_not_committed() {
    let mut node = node();
    node.put(A, 1, None, "orders", "one");
    node.receive(A, 1, Some(1), "orders");
    let lookup = node.told.iter().find_map(|(_, frame)| match frame {
        NodeFrame::Delivery(delivery) => Some(delivery.lookup),
        _ => None,
    });
    node.settle(A, 2, "orders", lookup.unwrap(), Verdict::GiveBack);
    node.put(A, 2, Some(1), "done", "two");
    node.end(A, 3, 1, true);
    assert!(node.ended().unwrap().committed.is_some());
    assert_eq!(node.peek("orders"), ["one"]);
    assert_eq!(node.peek("done"), ["two"]);
}

#[test]
fn what_is_committed_is_not_seen_while_the_disk_removes_it() {
    let mut node = node();
    node.put(A, 1, None, "orders", "one");
    node.receive(A, 1, Some(1), "orders");
    node.end(A, 2, 1, true);
    node.crash(0);
    node.hello(A, 1);
    node.put(A, 3, None, "orders", "two");
    node.receive(A, 1, Some(2), "orders");
    node.told.clear();
    node.prompt = false;
    node.end(A, 4, 2, true);
    while node.told.is_empty() {
        node.flush_one();
    }
    assert!(node.ended().unwrap().committed.is_some());
    assert!(!node.disk.waiting.is_empty(), "its removal is not on disk");
    assert!(node.peek("orders").is_empty());
    node.flush();
    assert!(node.peek("orders").is_empty());
}

#[test]
fn no_body_leaves_before_it_is_on_disk_that_it_does() {
    let mut node = node();
    node.put(A, 1, None, "orders", "one");
    node.told.clear();
    node.prompt = false;
    node.receive(A, 1, None, "orders");
    assert!(
        node.told.is_empty(),
        "the disk was not asked: {:?}",
        node.told
    );
    node.flush();
    assert_eq!(node.bodies(), [("one".to_owned(), 0)]);
    node.crash(0);
    node.receive(A, 1, None, "orders");
    node.flush();
    node.receive(A, 1, None, "orders");
    node.flush();
    assert_eq!(node.bodies(), [("one".to_owned(), 1)]);
    node.give(Input::ClientClosed { conn: A });
    node.flush();
    node.receive(ConnId(2), 1, None, "orders");
    assert!(
        node.bodies().is_empty(),
        "the second time is to be noted as well"
    );
    node.flush();
    assert_eq!(node.bodies(), [("one".to_owned(), 2)]);
}

#[test]
fn who_waits_gets_a_message_with_the_commit_that_stored_it() {
    let mut node = node();
    let mut receive = Receive::new(1, "orders".parse().unwrap());
    receive.wait_ms = 60_000;
    node.client(ConnId(2), ClientFrame::Receive(receive));
    node.prompt = false;
    node.put(A, 1, None, "orders", "one");
    let batches = node.disk.waiting.len();
    for _ in 0..batches {
        node.flush_one();
    }
    assert_eq!(node.bodies(), [("one".to_owned(), 0)]);
    node.crash(0);
    node.flush();
    node.prompt = true;
    node.receive(ConnId(3), 1, None, "orders");
    assert_eq!(node.bodies(), [("one".to_owned(), 1)]);
}

#[test]
fn an_orderly_stop_leaves_no_message_marked_that_was_not_handed_out() {
    let mut node = node();
    for sequence in 1..=20 {
        node.put(A, sequence, None, "orders", &sequence.to_string());
    }
    for request in 1..=3 {
        node.receive(A, request, None, "orders");
    }
    assert_eq!(node.bodies().len(), 9);
    node.give(Input::Stop);
    node.crash(0);
    for request in 1..=7 {
        node.receive(A, request, None, "orders");
    }
    let counts: Vec<_> = node.bodies().iter().map(|(_, aborts)| *aborts).collect();
    let expected: Vec<u32> = (1..=20).map(|n| u32::from(n <= 9)).collect();
    assert_eq!(counts, expected);
}

/// A refusal would be final, and what the next life accepts behind it would leave a hole.
#[test]
fn what_comes_while_the_node_stops_is_asked_again_and_keeps_its_order() {
    let mut node = node();
    node.put(A, 1, None, "orders", "first");
    node.put(A, 2, Some(1), "orders", "in a transaction");
    node.give(Input::Stop);
    let before = node.told.len();
    node.put(A, 3, None, "orders", "second");
    node.end(A, 4, 1, true);
    node.put(A, 5, None, "orders", "third");
    assert_eq!(
        node.told.len(),
        before,
        "nothing is answered while it stops"
    );
    node.crash(0);
    node.hello(A, 1);
    // As a client does: what was not answered, under its first numbers. The transaction ended with
    // its connection.
    node.put(A, 3, None, "orders", "second");
    node.end(A, 4, 1, true);
    assert_eq!(node.ended().unwrap().committed, None);
    node.put(A, 5, None, "orders", "third");
    assert_eq!(node.peek("orders"), ["first", "second", "third"]);
}

/// A message that is refused behind another one is accepted when it is put again, whatever was
/// written in between and whenever the node died.
#[test]
fn no_stored_answer_speaks_for_a_message_that_was_refused() {
    let keyed = |sequence: u64| {
        let mut put = put_of(sequence, None, "orders", &sequence.to_string());
        put.idempotency = Some(IdempotencyKey {
            key: "lines".into(),
            number: Some(sequence),
        });
        ClientFrame::Put(put)
    };
    for done in 0..6 {
        let mut node = node();
        node.prompt = false;
        for sequence in 1..=3 {
            node.client(A, keyed(sequence));
        }
        while !node.disk.waiting.front().unwrap().puts() {
            node.flush_one();
        }
        node.refuse_first();
        // The others are refused as well, what is said of the first is written, and nobody hears.
        node.crash(done);
        node.prompt = true;
        node.hello(A, 1);
        for sequence in 1..=3 {
            node.client(A, keyed(sequence));
        }
        assert_eq!(
            node.peek("orders"),
            ["1", "2", "3"],
            "{done} batches were done"
        );
    }
}

/// A commit that only receives puts nothing, and is written with the answers of its application.
#[test]
fn no_answer_of_a_commit_that_only_receives_speaks_for_a_message_that_was_refused() {
    for done in 0..6 {
        let mut node = node();
        node.put(A, 1, None, "orders", "taken");
        node.receive(A, 1, Some(7), "orders");
        assert_eq!(node.bodies().len(), 1);
        node.prompt = false;
        node.put(A, 2, None, "orders", "refused");
        node.end(A, 3, 7, true);
        while !node.disk.waiting.front().unwrap().puts() {
            node.flush_one();
        }
        node.refuse_first();
        node.crash(done);
        node.prompt = true;
        node.hello(A, 1);
        node.put(A, 2, None, "orders", "refused");
        let waiting = node.peek("orders");
        assert!(
            waiting.contains(&"refused".to_owned()),
            "{done}: {waiting:?}"
        );
    }
}

/// What a commit on its way to the disk takes is its own, whatever an operator does.
#[test]
fn a_queue_is_deleted_when_the_commits_that_take_from_it_are_decided() {
    for stands in [true, false] {
        let mut node = node();
        node.put(A, 1, None, "orders", "taken");
        node.receive(A, 1, Some(7), "orders");
        assert_eq!(node.bodies().len(), 1);
        node.prompt = false;
        if !stands {
            // The commit is refused with the message before it.
            node.put(A, 2, None, "done", "refused");
        }
        node.end(A, 3, 7, true);
        node.give(Input::Admin {
            conn: ConnId(0),
            request: 9,
            what: AdminRequest::QueueDelete {
                name: "orders".parse().unwrap(),
                force: true,
                discard: false,
            },
        });
        let mut ended = None;
        while !node.disk.waiting.is_empty() {
            if stands || node.disk.refusals == 0 {
                // The disk has no room for letters.
                node.refuse_one();
            } else {
                node.flush_one();
            }
            ended = ended.or_else(|| node.ended());
        }
        let committed = ended.unwrap().committed;
        assert_eq!(committed.is_some(), stands);
        // Received; or it came back, and into a queue that stays, because there is no room for its
        // letter.
        assert_eq!(node.disk.holds.records.len(), usize::from(!stands));
        node.prompt = true;
        node.receive(A, 2, None, "orders");
        assert_eq!(node.bodies().len(), usize::from(!stands));
    }
}

// ---- the model ----

const QUEUES: [&str; 3] = ["orders", "done", "exact"];

#[derive(Clone, Debug, Default)]
struct Work {
    puts: Vec<(usize, String)>,
    taken: Vec<(usize, String)>,
    /// Requests of it that were not answered.
    asked: usize,
}

struct Application {
    client: u8,
    conn: ConnId,
    next_sequence: u64,
    next_transaction: u64,
    next_request: u64,
    open: Option<(u64, Work)>,
    /// Commits without an answer, by sequence.
    ending: BTreeMap<u64, (u64, Work)>,
    /// Which requests are of which transaction.
    requests: BTreeMap<u64, (usize, Option<u64>)>,
    /// Held without a transaction: queue, lookup id, body.
    held: Vec<(usize, u64, String)>,
    settling: BTreeMap<u64, String>,
}

struct Model {
    node: Node,
    applications: Vec<Application>,
    next_conn: u64,
    next_body: u64,
    entropy: SeededEntropy,
    /// What must be in each queue when all is quiet.
    queues: [BTreeSet<String>; 3],
    /// Bodies whose commit was asked for, so that they may be seen.
    maybe: BTreeSet<String>,
    /// Bodies that may be gone: their consumption was asked for and not answered.
    maybe_gone: BTreeSet<String>,
    consumed: BTreeSet<String>,
    /// How often each body was seen.
    seen: BTreeMap<String, u32>,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut node = Node::new();
        for queue in QUEUES {
            node.create(queue, queue == "exact");
        }
        node.prompt = false;
        let mut model = Self {
            node,
            applications: Vec::new(),
            next_conn: 10,
            next_body: 0,
            entropy: SeededEntropy::new(seed),
            queues: Default::default(),
            maybe: BTreeSet::new(),
            maybe_gone: BTreeSet::new(),
            consumed: BTreeSet::new(),
            seen: BTreeMap::new(),
        };
        for client in 1..=2 {
            let application = Application {
                client,
                conn: ConnId(0),
                next_sequence: 1,
                next_transaction: 1,
                next_request: 1,
                open: None,
                ending: BTreeMap::new(),
                requests: BTreeMap::new(),
                held: Vec::new(),
                settling: BTreeMap::new(),
            };
            model.applications.push(application);
            model.connect(usize::from(client) - 1);
        }
        model
    }

    fn draw(&mut self, below: u64) -> usize {
        usize::try_from(self.entropy.next_u64() % below).unwrap()
    }

    /// A new connection, on which everything without an answer is asked again.
    fn connect(&mut self, who: usize) {
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        let application = &mut self.applications[who];
        application.conn = conn;
        application.open = None;
        application.requests.clear();
        application.held.clear();
        application.next_request = 1;
        for body in std::mem::take(&mut application.settling).into_values() {
            self.maybe_gone.insert(body);
        }
        let (client, ending) = (application.client, application.ending.clone());
        self.node.hello(conn, client);
        for (sequence, (transaction, _)) in ending {
            self.node.end(conn, sequence, transaction, true);
        }
        self.listen();
    }

    fn step(&mut self) {
        let who = self.draw(2);
        let what = self.draw(100);
        let application = &mut self.applications[who];
        let conn = application.conn;
        match what {
            0..25 => {
                let queue = self.next_queue();
                self.next_body += 1;
                let body = format!("m{}", self.next_body);
                let (transaction, sequence) = self.in_transaction(who);
                self.work(who).puts.push((queue, body.clone()));
                let to = QUEUES[queue];
                self.node.put(conn, sequence, Some(transaction), to, &body);
            }
            25..45 => {
                let queue = self.next_queue();
                let (transaction, _) = self.in_transaction(who);
                self.work(who).asked += 1;
                self.ask(who, queue, Some(transaction));
            }
            45..55 => {
                let queue = self.next_queue();
                self.ask(who, queue, None);
            }
            55..65 => self.settle_something(who),
            // Not while it waits for what it asked for: what comes then is not its any more.
            65..80 => {
                if application
                    .open
                    .as_ref()
                    .is_some_and(|(_, work)| work.asked == 0)
                {
                    let (transaction, work) = application.open.take().unwrap();
                    let sequence = application.next_sequence;
                    application.next_sequence += 1;
                    self.maybe
                        .extend(work.puts.iter().map(|(_, body)| body.clone()));
                    application.ending.insert(sequence, (transaction, work));
                    self.node.end(conn, sequence, transaction, true);
                }
            }
            80..83 => {
                if let Some((transaction, _)) = application.open.take() {
                    let sequence = application.next_sequence;
                    application.next_sequence += 1;
                    self.node.end(conn, sequence, transaction, false);
                }
            }
            83..86 => {
                self.node.give(Input::ClientClosed { conn });
                self.connect(who);
            }
            86..96 => self.node.flush_one(),
            96..98 => self.node.refuse_one(),
            98 => {
                let done = self.draw(4);
                self.node.crash(done);
                self.connect(0);
                self.connect(1);
            }
            _ => {
                self.node.at_ms += 1_000;
                self.node.give(Input::Tick);
            }
        }
        self.listen();
    }

    fn next_queue(&mut self) -> usize {
        self.draw(3)
    }

    fn in_transaction(&mut self, who: usize) -> (u64, u64) {
        let application = &mut self.applications[who];
        if application.open.is_none() {
            application.open = Some((application.next_transaction, Work::default()));
            application.next_transaction += 1;
        }
        let sequence = application.next_sequence;
        application.next_sequence += 1;
        (application.open.as_ref().unwrap().0, sequence)
    }

    fn work(&mut self, who: usize) -> &mut Work {
        &mut self.applications[who].open.as_mut().unwrap().1
    }

    fn ask(&mut self, who: usize, queue: usize, transaction: Option<u64>) {
        let application = &mut self.applications[who];
        let request = application.next_request;
        application.next_request += 1;
        application.requests.insert(request, (queue, transaction));
        let conn = application.conn;
        self.node.receive(conn, request, transaction, QUEUES[queue]);
    }

    fn settle_something(&mut self, who: usize) {
        let consume = self.draw(3) > 0;
        let application = &mut self.applications[who];
        let Some((queue, lookup, body)) = application.held.pop() else {
            return;
        };
        let (conn, request) = (application.conn, application.next_request);
        application.next_request += 1;
        let verdict = if consume {
            application.settling.insert(request, body);
            Verdict::Consume
        } else {
            Verdict::GiveBack
        };
        self.node
            .settle(conn, request, QUEUES[queue], lookup, verdict);
    }

    /// Looks at what applications were told.
    fn listen(&mut self) {
        while let Some((conn, frame)) = self.node.told.pop_front() {
            let Some(who) = self.applications.iter().position(|a| a.conn == conn) else {
                continue;
            };
            match frame {
                NodeFrame::Delivery(delivery) => {
                    let body = String::from_utf8(delivery.body.to_vec()).unwrap();
                    self.look_at(&body, delivery.abort_count);
                    let application = &mut self.applications[who];
                    let (queue, transaction) = application.requests[&delivery.request];
                    match (&mut application.open, transaction) {
                        (Some((open, work)), Some(of)) if *open == of => {
                            work.taken.push((queue, body));
                        }
                        (_, None) => application.held.push((queue, delivery.lookup, body)),
                        // Its transaction was aborted meanwhile.
                        _ => {}
                    }
                }
                NodeFrame::ReceiveDone(done) => {
                    let application = &mut self.applications[who];
                    let (_, transaction) = application.requests.remove(&done.request).unwrap();
                    if let (Some((open, work)), Some(of)) = (&mut application.open, transaction)
                        && *open == of
                    {
                        work.asked -= 1;
                    }
                }
                NodeFrame::TransactionEnded(ended) => {
                    let ending = self.applications[who].ending.remove(&ended.sequence);
                    if let Some((_, work)) = ending {
                        self.ended(work, ended.committed.is_some());
                    }
                }
                NodeFrame::Settled(settled) => {
                    let body = self.applications[who].settling.remove(&settled.request);
                    if let Some(body) = body {
                        assert_eq!(settled.outcome, None, "{body} was held");
                        self.gone(&body);
                    }
                }
                _ => {}
            }
        }
    }

    fn look_at(&mut self, body: &str, aborts: u32) {
        let may = self.maybe.contains(body) || self.queues.iter().any(|q| q.contains(body));
        assert!(may, "{body} is seen, and its transaction was not committed");
        assert!(!self.consumed.contains(body), "{body} comes again");
        let seen = self.seen.entry(body.to_owned()).or_default();
        assert!(
            aborts >= *seen,
            "{body} was seen {seen} times, and says {aborts}"
        );
        *seen += 1;
    }

    fn gone(&mut self, body: &str) {
        self.maybe_gone.remove(body);
        self.consumed.insert(body.to_owned());
        for queue in &mut self.queues {
            queue.remove(body);
        }
    }

    fn ended(&mut self, work: Work, committed: bool) {
        for (queue, body) in work.puts {
            self.maybe.remove(&body);
            if committed && !self.consumed.contains(&body) {
                self.queues[queue].insert(body);
            } else if !committed {
                assert!(
                    !self.seen.contains_key(&body),
                    "{body} was seen, and is not there"
                );
            }
        }
        for (_, body) in work.taken.into_iter().filter(|_| committed) {
            self.gone(&body);
        }
    }

    /// Everything comes to rest, and is what it should be.
    fn finish(mut self) {
        for _ in 0..3 {
            self.node.flush();
            self.listen();
            self.node.at_ms += 2_000;
            self.node.give(Input::Tick);
        }
        self.node.crash(0);
        self.connect(0);
        self.connect(1);
        self.node.flush();
        self.listen();
        for application in &self.applications {
            assert!(application.ending.is_empty(), "every end is answered");
        }
        self.node.prompt = true;
        for (queue, expected) in QUEUES.iter().zip(&self.queues) {
            let there = self.node.peek(queue);
            let unique: BTreeSet<_> = there.iter().cloned().collect();
            assert_eq!(unique.len(), there.len(), "twice in {queue}: {there:?}");
            for body in &unique {
                assert!(expected.contains(body), "{body} is in {queue}");
            }
            for body in expected {
                let gone = self.maybe_gone.contains(body);
                assert!(gone || unique.contains(body), "{body} is not in {queue}");
            }
        }
    }
}

#[test]
fn random_interleavings_are_all_or_nothing() {
    let seeds: u64 = std::env::var("QM_SEEDS").map_or(25, |n| n.parse().unwrap());
    let first: u64 = std::env::var("QM_SEED").map_or(0, |n| n.parse().unwrap());
    let mut committed = 0;
    for seed in first..first + seeds {
        let run = std::panic::catch_unwind(|| {
            let mut model = Model::new(seed);
            for _ in 0..400 {
                model.step();
            }
            let consumed = model.consumed.len();
            model.finish();
            consumed
        });
        match run {
            Ok(consumed) => committed += consumed,
            Err(_) => panic!("QM_SEED={seed} QM_SEEDS=1 shows it again"),
        }
    }
    assert!(committed > 0, "nothing was ever consumed");
}
