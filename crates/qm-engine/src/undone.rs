//! Messages that the disk took although it had refused earlier ones: they are taken out again, so
//! that order holds, and nothing that is left of them may speak for them after a crash.

use bytes::Bytes;
use qm_wire::{ClientId, MessageKey};

use crate::commits::{PutAt, Then};
use crate::engine::Engine;
use crate::io::StoreOp;
use crate::record::prefixed;
use crate::recover::arrival_bytes;

/// Names of the values that list arrivals which were undone: the log remembers that they came, and
/// a restart would take them for delivered.
pub(crate) const UNDONE: &[u8] = b"undone/";

/// A message that is being taken out of the store again.
#[derive(Clone, Debug)]
pub(crate) struct Undone {
    put: PutAt,
    of: Of,
}

/// Where it came from.
#[derive(Clone, Debug)]
enum Of {
    Client {
        client: ClientId,
        sequence: u64,
        key: Option<[u8; 16]>,
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
                } => {
                    self.put_refused(local, put);
                    self.withdraw(client, sequence, id, idempotency);
                    let key = idempotency.map(|(hash, _)| hash);
                    let of = Of::Client {
                        client,
                        sequence,
                        key,
                    };
                    self.take_out(Undone { put, of });
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
                    self.take_out(Undone { put, of });
                }
                Then::SkipTaken { source, place, .. } => {
                    void.push(then);
                    self.untake_refused(source, place);
                }
                Then::Repeated { .. } => void.push(then),
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
        let PutAt {
            queue,
            priority,
            position,
            ..
        } = undone.put;
        self.commits.settle(StoreOp::Remove {
            stream: Self::stream_of(queue, priority),
            first: position,
            last: position,
        });
        match &undone.of {
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
        if let Of::Client {
            client, sequence, ..
        } = undone.of
        {
            self.refuse_for_room(client, sequence);
        }
    }

    /// The disk did not even take removals: they are tried again.
    pub(crate) fn undo_again(&mut self) {
        for undone in core::mem::take(&mut self.undo_later) {
            self.take_out(undone);
        }
    }
}
