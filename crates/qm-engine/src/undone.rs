//! Messages that the disk took although it had refused earlier ones: they are taken out again, so
//! that order holds, and nothing that is left of them may speak for them after a crash.

use bytes::Bytes;
use qm_wire::{ClientId, MessageKey};

use crate::arrivals::arrival_bytes;
use crate::clients::Commit;
use crate::commits::{PutAt, Then};
use crate::engine::Engine;
use crate::io::StoreOp;
use crate::record::prefixed;
use crate::reports::With;

/// Names of the values that list arrivals which were undone: the log remembers that they came, and
/// a restart would take them for delivered.
pub(crate) const UNDONE: &[u8] = b"undone/";

/// What is being taken out of the store again.
#[derive(Clone, Debug)]
pub(crate) enum Undone {
    /// A message.
    Message { put: PutAt, of: Of },
    /// What a transaction took, and its answer; its messages are taken out one by one.
    Commit(Box<Commit>),
}

/// Where it came from.
#[derive(Clone, Debug)]
pub(crate) enum Of {
    Client {
        client: ClientId,
        sequence: u64,
        key: Option<([u8; 16], u64)>,
        /// It belongs to a transaction, whose end is the answer.
        transaction: bool,
    },
    Peer(MessageKey),
    /// In a stream: what takes its link back.
    Stream(Vec<StoreOp>),
}

pub(crate) fn undone_key(arrival: &MessageKey) -> Bytes {
    prefixed(UNDONE, &arrival_bytes(arrival))
}

impl Engine {
    /// The disk took a batch although it had refused an earlier one. What the batch puts would be
    /// before what is put again now: it is taken out again and refused as well, so that order
    /// holds. Returns what stands nevertheless.
    pub(crate) fn undo(&mut self, batch: Vec<Then>) -> Vec<Then> {
        let mut stands = Vec::new();
        let mut void = Vec::new();
        let before = batch.len();
        // The removals go with the corrected answers in a batch without messages, which needs no
        // room: a refused one would leave an answer that speaks for a message that is gone.
        self.seal();
        for then in batch {
            match then {
                Then::Accepted {
                    put,
                    id,
                    client,
                    sequence,
                    idempotency,
                    local,
                    transaction,
                    ..
                } => {
                    self.put_refused(local, put);
                    self.withdraw(client, sequence, id, idempotency);
                    let of = Of::Client {
                        client,
                        sequence,
                        key: idempotency,
                        transaction,
                    };
                    self.take_out(Undone::Message { put, of });
                }
                Then::Committed(commit) => {
                    self.uncommitted(&commit);
                    self.take_out(Undone::Commit(commit));
                }
                Then::Arrived {
                    put,
                    source,
                    entry,
                    place,
                    ..
                } => {
                    void.push(then);
                    let of = match place {
                        Some(place) => Of::Stream(self.untake(source, place)),
                        None => Of::Peer(MessageKey { source, entry }),
                    };
                    self.take_out(Undone::Message { put, of });
                }
                Then::SkipTaken { source, place, .. } => {
                    void.push(then);
                    self.untake_refused(source, place);
                }
                Then::Repeated { .. } => void.push(then),
                Then::Report {
                    key,
                    with: With::Acceptance,
                } => self.void_report(key),
                then => stands.push(then),
            }
        }
        if stands.len() < before {
            self.commits.undone();
            self.take_back(void);
            self.seal();
        }
        stands
    }

    fn take_out(&mut self, undone: Undone) {
        let (put, of) = match &undone {
            Undone::Message { put, of } => (put, of),
            Undone::Commit(commit) => {
                self.correct(commit.client, None);
                if commit.noted {
                    self.commits.unset(commit.taken_key());
                }
                self.unset_finals(&commit.finals);
                self.unset_reports(&commit.reports);
                let then = Then::Uncommitted(commit.clone());
                return self.commits.after_settling(then);
            }
        };
        let PutAt {
            queue,
            priority,
            position,
            ..
        } = *put;
        self.commits.settle(StoreOp::Remove {
            stream: Self::stream_of(queue, priority),
            first: position,
            last: position,
        });
        match of {
            Of::Client { client, key, .. } => self.correct(*client, *key),
            Of::Stream(ops) => {
                for op in ops {
                    self.commits.change(op.clone());
                }
            }
            Of::Peer(arrival) => {
                self.undone_arrivals.insert(*arrival);
                self.commits.set(undone_key(arrival), Bytes::new());
            }
        }
        self.commits.after_settling(Then::Undone(Box::new(undone)));
    }

    /// Only now nothing of it can come back: its application may hear that it was refused.
    pub(crate) fn undone_durable(&mut self, undone: Undone) {
        if let Undone::Message {
            of:
                Of::Client {
                    client,
                    sequence,
                    transaction,
                    ..
                },
            ..
        } = undone
        {
            if transaction {
                // Its end is what is answered.
                self.owed(client, sequence);
            } else {
                self.refuse_for_room(client, sequence);
            }
        }
    }
}
