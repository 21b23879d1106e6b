//! What came under idempotency keys: which message each number became.
//!
//! The numbers of a key are kept in blocks, each with a value of its own on disk: a batch writes
//! only those that it adds to, however many numbers were sent under the key and however many
//! applications took turns. What is kept of a key is bounded: beyond, its lowest block is
//! forgotten, and numbers from there are refused when they are repeated, never taken again.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use qm_wire::{MessageId, Outcome};

use super::Clients;
use crate::engine::Engine;
use crate::limits::{KEY_BLOCKS_MAX, REMEMBERED_MAX};
use crate::record::{Run, decode_runs, prefixed};
use crate::time::Timestamp;

/// Numbers of one block.
const BLOCK: u64 = 512;
const PREFIX: &[u8] = b"idem/";

/// A key, by its hash, and which of its numbers.
pub(super) type KeyBlock = ([u8; 16], u64);

/// What is remembered of one block of numbers of a key.
#[derive(Debug, Default)]
pub(super) struct KeyState {
    pub(super) runs: Vec<Run>,
    /// Of the content, where the key has no numbers.
    pub(super) digest: [u8; 16],
    /// Numbers whose messages are not durable yet.
    pub(super) pending: BTreeSet<u64>,
    pub(super) touched: Timestamp,
    pub(super) dirty: bool,
    /// What is stored speaks for something that was refused.
    pub(super) stale: bool,
    pub(super) durable: bool,
}

impl KeyState {
    pub(super) fn note(&mut self, number: u64, id: MessageId) {
        if !self
            .runs
            .last_mut()
            .is_some_and(|run| run.extend(number, id))
        {
            self.runs.push(Run {
                first: number,
                last: number,
                first_id: id,
            });
        }
    }

    pub(super) fn id_of(&self, number: u64) -> Option<MessageId> {
        self.runs.iter().rev().find_map(|run| run.id_of(number))
    }
}

pub(super) const fn block_of(hash: [u8; 16], number: u64) -> KeyBlock {
    (hash, number / BLOCK)
}

/// The name of a block in the store; the first one has that of its key.
pub(super) fn name_of((hash, block): KeyBlock) -> Bytes {
    if block == 0 {
        return prefixed(PREFIX, &hash);
    }
    let mut rest = [0; 24];
    let (head, tail) = rest.split_at_mut(hash.len());
    head.copy_from_slice(&hash);
    tail.copy_from_slice(&block.to_be_bytes());
    prefixed(PREFIX, &rest)
}

/// The block of a name, if it is that of one.
fn named(name: &[u8]) -> Option<Option<KeyBlock>> {
    let rest = name.strip_prefix(PREFIX)?;
    let block = rest.split_first_chunk::<16>().and_then(|(hash, rest)| {
        if rest.is_empty() {
            return Some((*hash, 0));
        }
        let block = <[u8; 8]>::try_from(rest).ok()?;
        Some((*hash, u64::from_be_bytes(block)))
    });
    Some(block)
}

/// A run in parts, each inside a block; of a very long one only the last blocks.
fn in_blocks(run: Run) -> impl Iterator<Item = (u64, Run)> {
    let last = run.last / BLOCK;
    let first = (run.first / BLOCK).max(last.saturating_sub(KEY_BLOCKS_MAX as u64 - 1));
    (first..=last).filter_map(move |block| {
        let from = run.first.max(block.saturating_mul(BLOCK));
        let part = Run {
            first: from,
            last: run.last.min(block.saturating_mul(BLOCK) + (BLOCK - 1)),
            first_id: run.id_of(from)?,
        };
        Some((block, part))
    })
}

impl Clients {
    fn blocks_of(&self, hash: [u8; 16]) -> impl DoubleEndedIterator<Item = (&KeyBlock, &KeyState)> {
        self.keys.range((hash, 0)..=(hash, u64::MAX))
    }

    /// Whether a number may be one of those that were forgotten, which may not come again.
    ///
    /// Nothing was forgotten before there were that many blocks, and one more is kept than that:
    /// a crash that loses the newest does not let the forgotten ones in.
    pub(super) fn is_forgotten(&self, (hash, block): KeyBlock) -> bool {
        let mut blocks = self.blocks_of(hash).map(|((_, block), _)| *block);
        let lowest = blocks.next();
        lowest.is_some_and(|lowest| block < lowest) && blocks.count() + 1 >= KEY_BLOCKS_MAX
    }

    /// Makes room for another block of a key; returns the name of a stored one to be removed.
    pub(super) fn room_for_block(&mut self, (hash, block): KeyBlock) -> Option<Bytes> {
        if self.keys.contains_key(&(hash, block)) || self.blocks_of(hash).count() <= KEY_BLOCKS_MAX
        {
            return None;
        }
        // No other: what is refused is all that lies below the lowest.
        let (lowest, _) = self
            .blocks_of(hash)
            .next()
            .filter(|(_, old)| old.pending.is_empty())?;
        let lowest = *lowest;
        self.dirty_keys.remove(&lowest);
        let forgotten = self.keys.remove(&lowest)?;
        forgotten.durable.then(|| name_of(lowest))
    }
}

impl Engine {
    /// Refuses a number whose message is not known any more.
    pub(super) fn check_forgotten(&self, block: KeyBlock) -> Result<(), (Outcome, String)> {
        if !self.clients.is_forgotten(block) {
            return Ok(());
        }
        let text = "so many higher numbers came under this idempotency key that it is not known any more whether this one did; it is not taken";
        Err((Outcome::BAD_REQUEST, text.to_owned()))
    }

    /// Forgets keys that were not asked for within their time, and the longest untouched of too
    /// many.
    pub(super) fn purge_keys(&mut self) {
        let now = self.now.at;
        let retention = self.config.outcome_retention_ms;
        let mut keys: BTreeMap<[u8; 16], (Timestamp, usize, bool)> = BTreeMap::new();
        for ((hash, _), state) in &self.clients.keys {
            let (touched, blocks, is_pending) = keys.entry(*hash).or_default();
            *touched = (*touched).max(state.touched);
            *blocks += 1;
            *is_pending |= !state.pending.is_empty();
        }
        for key in self
            .clients
            .digests
            .keys_without(|key| keys.contains_key(key))
        {
            for forgotten in self.clients.digests.forget(key) {
                self.commits.unset(forgotten);
            }
            self.seal_if_large();
        }
        let mut oldest: Vec<_> = keys
            .into_iter()
            .filter(|(_, (_, _, is_pending))| !is_pending)
            .map(|(hash, (touched, blocks, _))| (touched, hash, blocks))
            .collect();
        oldest.sort_unstable();
        let mut surplus = self.clients.keys.len().saturating_sub(REMEMBERED_MAX);
        for (touched, hash, blocks) in oldest {
            if surplus == 0 && now.ms_since(touched) <= retention {
                continue;
            }
            surplus = surplus.saturating_sub(blocks);
            let blocks: Vec<KeyBlock> = self.clients.blocks_of(hash).map(|(of, _)| *of).collect();
            for block in blocks {
                let state = self.clients.keys.remove(&block);
                self.clients.dirty_keys.remove(&block);
                if state.is_some_and(|state| state.durable) {
                    self.commits.unset(name_of(block));
                }
            }
            for forgotten in self.clients.digests.forget(hash) {
                self.commits.unset(forgotten);
            }
            self.seal_if_large();
        }
    }

    /// Reads a block of a key back, also what an earlier version wrote of the whole key. Returns
    /// whether the value was understood; `None` when it is of something else.
    pub(super) fn recover_key(&mut self, name: &Bytes, value: &Bytes) -> Option<bool> {
        let Some((hash, own)) = named(name)? else {
            return Some(false);
        };
        let Some((at_us, digest, runs)) = decode_runs(value) else {
            return Some(false);
        };
        if crate::broken!(self, forget_keys) {
            return Some(true);
        }
        let parts: Vec<(u64, Run)> = runs.into_iter().flat_map(in_blocks).collect();
        let is_split = parts.iter().any(|(block, _)| *block != own);
        let blocks: BTreeSet<u64> = parts.iter().map(|(block, _)| *block).collect();
        // The lowest of more than there may be are as good as forgotten.
        let from = blocks.iter().rev().nth(KEY_BLOCKS_MAX).copied();
        let own_state = self.clients.keys.entry((hash, own)).or_default();
        own_state.digest = digest;
        own_state.touched = Timestamp(at_us);
        own_state.durable = true;
        own_state.dirty |= is_split;
        if is_split {
            self.clients.dirty_keys.insert((hash, own));
        }
        for (block, part) in parts {
            if from.is_some_and(|from| block < from) {
                continue;
            }
            let state = self.clients.keys.entry((hash, block)).or_default();
            if state.id_of(part.first).is_none() {
                state.runs.push(part);
            }
            if block != own {
                state.touched = Timestamp(at_us);
                state.durable = true;
                state.dirty = true;
                self.clients.dirty_keys.insert((hash, block));
            }
        }
        Some(true)
    }
}

#[cfg(test)]
mod tests {
    use qm_wire::Incarnation;

    use super::*;

    fn run(first: u64, last: u64) -> Run {
        Run {
            first,
            last,
            first_id: MessageId {
                incarnation: Incarnation(1),
                sequence: 1000 + first,
            },
        }
    }

    #[test]
    fn a_long_run_is_split_and_every_number_keeps_its_message() {
        let whole = run(10, 2 * BLOCK);
        let parts: Vec<_> = in_blocks(whole).collect();
        assert_eq!(parts.len(), 3);
        for number in 10..=2 * BLOCK {
            let found = parts.iter().filter(|(block, _)| *block == number / BLOCK);
            let found: Vec<_> = found.filter_map(|(_, part)| part.id_of(number)).collect();
            assert_eq!(found, [whole.id_of(number).unwrap()]);
        }
        // Whatever stands there, it takes no longer.
        let damaged = Run {
            first_id: run(0, 0).first_id,
            ..run(0, u64::MAX)
        };
        assert!(in_blocks(damaged).count() <= KEY_BLOCKS_MAX);
    }

    #[test]
    fn names_tell_their_blocks() {
        for block in [([7; 16], 0), ([7; 16], 1), ([9; 16], u64::MAX / BLOCK)] {
            assert_eq!(named(&name_of(block)), Some(Some(block)));
        }
        assert_eq!(named(b"idem/short"), Some(None));
        assert_eq!(named(b"client/x"), None);
    }

    #[test]
    fn of_too_many_keys_the_longest_untouched_are_forgotten() {
        let mut engine = crate::testing::engine();
        let block = |n: u64| block_of(crate::clients::answers::hash16(&[&n.to_le_bytes()]), 0);
        let all = REMEMBERED_MAX as u64 + 10;
        engine.now.at = Timestamp(all);
        for n in 0..all {
            let touched = Timestamp(n);
            let state = KeyState {
                touched,
                ..KeyState::default()
            };
            engine.clients.keys.insert(block(n), state);
        }
        engine.purge_keys();
        assert_eq!(engine.clients.keys.len(), REMEMBERED_MAX);
        let known = |n: u64| engine.clients.keys.contains_key(&block(n));
        assert!(!known(9) && known(10) && known(all - 1));
    }
}
