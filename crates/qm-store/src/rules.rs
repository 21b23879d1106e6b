//! What every store checks before it does anything.

use std::collections::BTreeMap;

use crate::types::{Batch, HEAD_BYTES_MAX, KEY_BYTES_MAX, Op, Refusal, StreamId};

/// The rules for batches, with the highest position put in each stream.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    highest: BTreeMap<StreamId, u64>,
    /// Of the commit being checked.
    rising: BTreeMap<StreamId, u64>,
}

impl Rules {
    /// Starts checking a commit.
    pub(crate) fn begin(&mut self) {
        self.rising.clear();
    }

    /// The first rule a batch breaks. `capacity` is what one batch may take.
    pub(crate) fn check(
        &mut self,
        batch: &Batch,
        bytes: usize,
        capacity: usize,
    ) -> Option<Refusal> {
        if bytes > capacity {
            return Some(Refusal::TooLarge {
                bytes: bytes as u64,
                max: capacity as u64,
            });
        }
        // Positions of a refused batch do not count.
        let mut undo: Vec<(StreamId, Option<u64>)> = Vec::new();
        for op in &batch.ops {
            let refusal = match op {
                Op::Put {
                    stream,
                    position,
                    head,
                    ..
                } => {
                    let own = self.rising.get(stream).copied();
                    let last = own.max(self.highest.get(stream).copied());
                    match last {
                        _ if head.len() > HEAD_BYTES_MAX => {
                            Some(Refusal::HeadTooLong { bytes: head.len() })
                        }
                        Some(last) if *position <= last => {
                            let (stream, position) = (*stream, *position);
                            Some(Refusal::NotRising {
                                stream,
                                position,
                                last,
                            })
                        }
                        _ => {
                            if batch.ops.len() > 1 {
                                undo.push((*stream, own));
                            }
                            self.rising.insert(*stream, *position);
                            None
                        }
                    }
                }
                Op::Remove {
                    stream,
                    first,
                    last,
                } if first > last => Some(Refusal::Reversed {
                    stream: *stream,
                    first: *first,
                    last: *last,
                }),
                Op::Set { key, .. } | Op::Unset { key } if key.len() > KEY_BYTES_MAX => {
                    Some(Refusal::KeyTooLong { bytes: key.len() })
                }
                _ => None,
            };
            if refusal.is_some() {
                for (stream, before) in undo.into_iter().rev() {
                    match before {
                        Some(before) => self.rising.insert(stream, before),
                        None => self.rising.remove(&stream),
                    };
                }
                return refusal;
            }
        }
        None
    }

    /// A put was done.
    pub(crate) fn put(&mut self, stream: StreamId, position: u64) {
        let highest = self.highest.entry(stream).or_insert(position);
        *highest = position.max(*highest);
    }
}
