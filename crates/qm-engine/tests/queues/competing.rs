//! Several applications that receive from one queue.

use std::collections::{BTreeMap, BTreeSet};

use qm_engine::{ConnId, Entropy as _, Input, SeededEntropy};
use qm_wire::Class;
use qm_wire::local::{ClientFrame, NodeFrame, Receive, Settle, Verdict};

use super::support::Node;

const MESSAGES: usize = 40;
const APPLICATIONS: usize = 4;

/// The books about one queue and whoever receives from it.
struct World {
    node: Node,
    random: SeededEntropy,
    /// The connection of each application.
    conns: Vec<ConnId>,
    next_conn: u64,
    next_request: u64,
    /// Requests that may bring messages, and whose they are.
    receiving: BTreeMap<u64, usize>,
    /// What is in somebody's hands: its body, and whose they are.
    held: BTreeMap<u64, (String, usize)>,
    /// What was settled, without an answer yet.
    settling: BTreeMap<u64, (String, Verdict)>,
    consumed: BTreeSet<String>,
    /// Whether it is still there nobody can say: its node died before the answer.
    unsure: BTreeSet<String>,
    handed: BTreeMap<String, u32>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut node = Node::new(1);
        node.create("orders", |settings| {
            settings.transactional = false;
            settings.aborts_max = 0;
        });
        for n in 0..MESSAGES {
            let body = n.to_string();
            node.put("orders", &body, |put| put.class = Class::Recoverable);
        }
        node.told.clear();
        Self {
            node,
            random: SeededEntropy::new(seed),
            conns: (0..APPLICATIONS as u64).map(|n| ConnId(100 + n)).collect(),
            next_conn: 200,
            next_request: 1,
            receiving: BTreeMap::new(),
            held: BTreeMap::new(),
            settling: BTreeMap::new(),
            consumed: BTreeSet::new(),
            unsure: BTreeSet::new(),
            handed: BTreeMap::new(),
        }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random.next_u64() % below
    }

    fn say(&mut self, who: usize, frame: ClientFrame) {
        let conn = self.conns[who];
        self.node.give(Input::Client { conn, frame });
        self.hear();
    }

    fn receive(&mut self, who: usize) {
        let request = self.next_request;
        self.next_request += 1;
        let mut receive = Receive::new(request, "orders".parse().unwrap());
        receive.messages_max = 1 + u32::try_from(self.draw(4)).unwrap();
        receive.bytes_max = u32::MAX;
        receive.wait_ms = 1_000 * self.draw(3);
        self.receiving.insert(request, who);
        self.say(who, ClientFrame::Receive(receive));
    }

    fn settle(&mut self, who: usize) {
        let mine = self.held.iter().filter(|(_, (_, whose))| *whose == who);
        let mine: Vec<u64> = mine.map(|(lookup, _)| *lookup).collect();
        if mine.is_empty() {
            return;
        }
        let at = usize::try_from(self.random.next_u64() % mine.len() as u64).unwrap();
        let lookup = mine[at];
        let verdict = if self.draw(3) == 0 {
            Verdict::GiveBack
        } else {
            Verdict::Consume
        };
        let (body, _) = self.held.remove(&lookup).unwrap();
        let request = self.next_request;
        self.next_request += 1;
        self.settling.insert(request, (body, verdict));
        self.say(
            who,
            ClientFrame::Settle(Settle {
                request,
                queue: "orders".parse().unwrap(),
                verdict,
                ranges: vec![(lookup, lookup)],
            }),
        );
    }

    /// Its connection ends with what it holds, and it comes again.
    fn hang_up(&mut self, who: usize) {
        self.receiving.retain(|_, whose| *whose != who);
        self.held.retain(|_, (_, whose)| *whose != who);
        let conn = self.conns[who];
        self.conns[who] = ConnId(self.next_conn);
        self.next_conn += 1;
        self.node.give(Input::ClientClosed { conn });
        self.hear();
    }

    /// All connections end, and of what the disk was asked for it has the first batches.
    fn crash(mut self) -> Self {
        self.receiving.clear();
        self.held.clear();
        for (body, verdict) in std::mem::take(&mut self.settling).into_values() {
            if verdict == Verdict::Consume {
                self.unsure.insert(body);
            }
        }
        let reached = usize::try_from(self.draw(4)).unwrap();
        self.node = self.node.die_with(|batch| batch < reached);
        self.node.hold_disk = false;
        self.node.told.clear();
        self
    }

    fn hear(&mut self) {
        for frame in std::mem::take(&mut self.node.told) {
            match frame {
                NodeFrame::Delivery(delivery) => {
                    let body = String::from_utf8(delivery.body.to_vec()).unwrap();
                    let Some(who) = self.receiving.get(&delivery.request).copied() else {
                        // On a connection that has ended: it reaches nobody.
                        continue;
                    };
                    assert!(!self.consumed.contains(&body), "{body} was consumed");
                    assert!(self.held.values().all(|(held, _)| *held != body), "{body}");
                    let before = self.handed.entry(body.clone()).or_insert(0);
                    // It is counted before it leaves, and may not reach anybody.
                    assert!(delivery.abort_count >= *before, "{body}");
                    *before += 1;
                    self.held.insert(delivery.lookup, (body, who));
                }
                NodeFrame::Settled(settled) => {
                    assert_eq!((settled.outcome, settled.messages), (None, 1));
                    // Of an application that hung up before it heard so.
                    let (body, verdict) = self.settling.remove(&settled.request).unwrap();
                    if verdict == Verdict::Consume {
                        assert!(self.consumed.insert(body.clone()), "{body} again");
                    }
                }
                _ => {}
            }
        }
    }

    fn step(mut self) -> Self {
        let who = usize::try_from(self.draw(APPLICATIONS as u64)).unwrap();
        match self.draw(40) {
            0..12 => self.receive(who),
            12..28 => self.settle(who),
            28..31 => self.hang_up(who),
            31 => return self.crash(),
            32..36 => self.node.hold_disk = true,
            36..39 => {
                self.node.release_disk(0);
                self.hear();
            }
            _ => {
                self.node.wait(700);
                self.hear();
            }
        }
        self
    }
}

/// None is in two hands, none is consumed twice, none is lost, and whoever is handed one is told
/// that others had it before: whatever gives back, hangs up or dies, and however slow the disk is.
#[test]
fn competing_consumers_share_a_queue_without_loss_or_double() {
    for seed in 0..16 {
        let mut world = World::new(seed);
        for _ in 0..400 {
            world = world.step();
        }
        world.node.release_disk(0);
        world.hear();
        for who in 0..APPLICATIONS {
            world.hang_up(who);
        }
        let left: BTreeSet<String> = world.node.receive("orders").into_iter().collect();
        let all = left.union(&world.consumed).chain(&world.unsure);
        let all: BTreeSet<_> = all.cloned().collect();
        assert_eq!(all.len(), MESSAGES, "seed {seed}");
        assert!(left.is_disjoint(&world.consumed), "seed {seed}");
        assert!(world.handed.values().any(|times| *times > 1), "seed {seed}");
    }
}
