//! What applications and operators ask, fitting or not.

use bytes::Bytes;
use qm_engine::admin::{AdminRequest, DeadFilter, Selector};
use qm_engine::{ConnId, Input, LocalSettings};
use qm_wire::local::{
    ClientFrame, ClientHello, EndTransaction, Follow, IdempotencyKey, Put, Receive, ReceiveMode,
    Settle, Verdict,
};
use qm_wire::{Class, ClientId, Priority};

use super::{Cut, PEERS, QUEUES, World, id_of, queue};

impl World {
    pub(super) fn client(&mut self, cut: &mut Cut<'_>) {
        if self.conns.is_empty() || cut.below(16) == 0 {
            self.next_conn += 1;
            self.conns.push(ConnId(self.next_conn));
        }
        let at = usize::from(cut.byte()) % self.conns.len();
        let conn = self.conns[at];
        let frame = match cut.below(10) {
            0 | 1 => ClientFrame::Hello(ClientHello {
                protocol: 1,
                client: ClientId([cut.below(3); 16]),
                program: "fuzz".into(),
            }),
            2..=4 => ClientFrame::Put(self.put(cut)),
            5 | 6 => ClientFrame::Receive(self.receive(cut)),
            7 => ClientFrame::EndTransaction(EndTransaction {
                sequence: self.sequence(cut),
                transaction: self.transaction(cut),
                commit: cut.below(4) < 3,
            }),
            _ => ClientFrame::Settle(self.settle(cut)),
        };
        self.give(Input::Client { conn, frame });
    }

    pub(super) fn settle(&mut self, cut: &mut Cut<'_>) -> Settle {
        let lookup = match self.lookups.pop() {
            Some(lookup) if cut.below(4) > 0 => lookup,
            _ => cut.number(),
        };
        self.requests += 1;
        Settle {
            request: self.requests,
            queue: queue(cut.below(4)),
            verdict: [Verdict::Consume, Verdict::GiveBack, Verdict::Reject]
                [usize::from(cut.below(3))],
            ranges: vec![(lookup, lookup.saturating_add(cut.number() % 3))],
        }
    }

    /// A new transaction, the one that was begun last, or any.
    fn transaction(&mut self, cut: &mut Cut<'_>) -> u64 {
        match cut.byte() {
            0..64 => self.transactions += 1,
            64..240 => {}
            _ => return cut.number().max(1),
        }
        self.transactions.max(1)
    }

    fn sequence(&mut self, cut: &mut Cut<'_>) -> u64 {
        let slot = usize::from(cut.below(3));
        let sequence = match cut.byte() {
            255 => cut.number(),
            254 => self.sequences[slot],
            _ => self.sequences[slot].saturating_add(1 + u64::from(cut.below(2))),
        };
        self.sequences[slot] = self.sequences[slot].max(sequence.min(1 << 40));
        sequence.max(1)
    }

    fn put(&mut self, cut: &mut Cut<'_>) -> Put {
        let sequence = self.sequence(cut);
        let to = match cut.below(8) {
            0 => "orders".to_owned(),
            1 => "full".to_owned(),
            2 => "hub/orders".to_owned(),
            3 => format!("qm://10.0.0.{}/orders", cut.below(3)),
            4 => "ledger".to_owned(),
            peer => format!(
                "qm:{}/{}",
                id_of(peer - 5),
                QUEUES[usize::from(cut.below(4))]
            ),
        };
        let mut put = Put::new(
            sequence,
            to.as_str(),
            vec![7; usize::from(cut.byte()) * 12].into(),
        );
        put.class = Class::from_code(cut.below(3)).unwrap_or(Class::Express);
        if put.class == Class::Transactional {
            put.priority = Priority::LOWEST;
        }
        if cut.below(4) == 0 {
            put.transaction = Some(self.transaction(cut));
        }
        put.follow = [Follow::None, Follow::Delivered, Follow::Received][usize::from(cut.below(3))];
        if cut.below(4) == 0 {
            put.idempotency = Some(IdempotencyKey {
                key: Bytes::copy_from_slice(&[b'k', cut.below(4)]),
                number: (cut.below(2) == 0).then(|| cut.number()),
            });
        }
        if cut.below(4) == 0 {
            put.time_to_reach_queue_ms = Some(u64::from(cut.byte()) * 50);
        }
        put
    }

    pub(super) fn receive(&mut self, cut: &mut Cut<'_>) -> Receive {
        self.requests += 1;
        let request = if cut.byte() == 255 {
            cut.number()
        } else {
            self.requests
        };
        let queue = queue(cut.below(4));
        let mut receive = Receive::new(request, queue);
        receive.messages_max = u32::from(cut.below(5));
        receive.bytes_max = u32::MAX;
        receive.wait_ms = if cut.byte() > 250 {
            u64::MAX
        } else {
            u64::from(cut.byte()) * 10
        };
        if cut.below(4) == 0 {
            receive.transaction = Some(self.transaction(cut));
        }
        match cut.below(8) {
            0 => receive.mode = ReceiveMode::Peek,
            1 => receive.lookup = Some(self.lookups.last().copied().unwrap_or(cut.number())),
            2 => receive.correlation_id = Bytes::from_static(b"c"),
            3 => receive.after = Some(cut.number()),
            _ => {}
        }
        receive
    }

    pub(super) fn administer(&mut self, cut: &mut Cut<'_>) {
        let who = id_of(cut.below(PEERS)).to_string();
        let name = || "orders".parse().expect("a good name");
        self.admin(match cut.below(16) {
            0 => AdminRequest::PeerApprove { who, name: None },
            1 => AdminRequest::PeerBlock { who },
            2 => AdminRequest::PeerForget { who },
            3 => AdminRequest::QueueDelete {
                name: name(),
                force: true,
                discard: cut.below(2) == 0,
            },
            4 => AdminRequest::QueueCreate(LocalSettings::new(name())),
            5 => AdminRequest::QueuePurge {
                name: name(),
                discard: cut.below(2) == 0,
            },
            6 => AdminRequest::Why { subject: who },
            7 => AdminRequest::Peers,
            8 => AdminRequest::Streams,
            9 => AdminRequest::StreamRebase {
                which: Selector::All,
                dry_run: cut.below(2) == 1,
            },
            10 => AdminRequest::OutgoingPurge {
                which: Selector::All,
                discard: cut.below(2) == 1,
            },
            11 => AdminRequest::DeadList {
                filter: DeadFilter::default(),
                after: None,
            },
            12 => AdminRequest::DeadResend {
                positions: (0..4).map(|n| u64::from(cut.below(4)) + n).collect(),
                force: cut.below(2) == 1,
                to: None,
            },
            13 => AdminRequest::Remint {
                because: "an operator wished it".to_owned(),
            },
            14 => AdminRequest::Reclaim,
            _ => AdminRequest::Identity,
        });
    }
}
