//! What was sent under each number of an idempotency key: enough to notice that the same number
//! comes again with other content.
//!
//! Four bytes for each number, in blocks that are written with the batch of their messages. Equal
//! digests of different contents are possible, once in four billion: then the second message is
//! answered as a repetition, as it would be without them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use qm_wire::{Salt, Tag};

use crate::record::prefixed;

/// Numbers of one block.
const BLOCK: u64 = 64;
const BLOCK_LEN: usize = 64;
/// Blocks kept of all keys: a million numbers, four MiB. Beyond, the lowest block of the key that
/// grows is forgotten, and its numbers are not compared any more.
const BLOCKS_MAX: usize = 16_384;
const PREFIX: &[u8] = b"idemd/";
const VERSION: u8 = 1;

type BlockOf = ([u8; 16], u64);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    /// 0 stands for a number of which nothing is known.
    blocks: BTreeMap<BlockOf, [u32; BLOCK_LEN]>,
    dirty: BTreeSet<BlockOf>,
    /// Blocks that are on disk.
    stored: BTreeSet<BlockOf>,
}

/// A digest of where a message goes and what it says, never 0.
pub(crate) fn content_digest(key: [u8; 16], destination: &str, body: &[u8]) -> u32 {
    let Tag([a, b, c, d, ..]) = Tag::compute(destination.as_bytes(), &Salt(key), body);
    u32::from_le_bytes([a, b, c, d]).max(1)
}

fn place_of(number: u64) -> (u64, usize) {
    let place = usize::try_from(number % BLOCK).unwrap_or(0);
    (number / BLOCK, place)
}

fn name_of((key, block): BlockOf) -> Bytes {
    let mut rest = [0; 24];
    let (head, tail) = rest.split_at_mut(16);
    head.copy_from_slice(&key);
    tail.copy_from_slice(&block.to_be_bytes());
    prefixed(PREFIX, &rest)
}

impl Digests {
    /// Whether this content may come under this number.
    pub(crate) fn admits(&self, key: [u8; 16], number: u64, digest: u32) -> bool {
        let (block, place) = place_of(number);
        let known = self.blocks.get(&(key, block));
        let known = known.and_then(|block| block.get(place)).copied();
        known.is_none_or(|known| known == 0 || known == digest)
    }

    /// Notes what comes under a number. Returns the names of stored blocks to be removed.
    pub(crate) fn note(
        &mut self,
        key: [u8; 16],
        number: u64,
        digest: u32,
        durable: bool,
    ) -> Option<Bytes> {
        let (block, place) = place_of(number);
        let of = (key, block);
        let mut forgotten = None;
        if self.blocks.len() >= BLOCKS_MAX && !self.blocks.contains_key(&of) {
            let lowest = self.blocks.range((key, 0)..).next().map(|(of, _)| *of);
            match lowest.filter(|(of, _)| *of == key) {
                Some(lowest) => forgotten = self.drop_block(lowest),
                // Other keys have all the room: this one goes without.
                None => return None,
            }
        }
        let digests = self.blocks.entry(of).or_insert([0; BLOCK_LEN]);
        if let Some(known) = digests.get_mut(place) {
            *known = digest;
        }
        if durable {
            self.dirty.insert(of);
        }
        forgotten
    }

    fn drop_block(&mut self, of: BlockOf) -> Option<Bytes> {
        self.blocks.remove(&of);
        self.dirty.remove(&of);
        self.stored.remove(&of).then(|| name_of(of))
    }

    /// Forgets a key. Returns the names of stored blocks to be removed.
    pub(crate) fn forget(&mut self, key: [u8; 16]) -> Vec<Bytes> {
        let blocks: Vec<BlockOf> = self
            .blocks
            .range((key, 0)..=(key, u64::MAX))
            .map(|(of, _)| *of)
            .collect();
        blocks
            .into_iter()
            .filter_map(|of| self.drop_block(of))
            .collect()
    }

    /// Keys that are not known any more, of which blocks are left.
    pub(crate) fn keys_without(&self, known: impl Fn(&[u8; 16]) -> bool) -> BTreeSet<[u8; 16]> {
        let keys: BTreeSet<_> = self.blocks.keys().map(|(key, _)| *key).collect();
        keys.into_iter().filter(|key| !known(key)).collect()
    }

    /// Blocks that changed, to be written with the messages of their batch.
    pub(crate) fn take_dirty(&mut self) -> Vec<(Bytes, Bytes)> {
        let mut values = Vec::new();
        for of in core::mem::take(&mut self.dirty) {
            if let Some(block) = self.blocks.get(&of) {
                let mut value = BytesMut::with_capacity(1 + 4 * block.len());
                value.put_u8(VERSION);
                for digest in block {
                    value.put_u32_le(*digest);
                }
                self.stored.insert(of);
                values.push((name_of(of), value.freeze()));
            }
        }
        values
    }

    /// Reads a block back; `None` when the name is not that of one.
    pub(crate) fn recover(&mut self, key: &Bytes, value: &Bytes) -> Option<bool> {
        let rest = key.strip_prefix(PREFIX)?;
        let Some((key, block)) = rest.split_first_chunk::<16>() else {
            return Some(false);
        };
        let (Ok(block), Some((&VERSION, mut digests))) =
            (<[u8; 8]>::try_from(block), value.split_first())
        else {
            return Some(false);
        };
        let of = (*key, u64::from_be_bytes(block));
        let mut read = [0; BLOCK_LEN];
        for digest in &mut read {
            match digests.try_get_u32_le() {
                Ok(known) => *digest = known,
                Err(_short) => return Some(false),
            }
        }
        self.blocks.insert(of, read);
        self.stored.insert(of);
        Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_and_what_is_forgotten_leaves_nothing() {
        let key = [7; 16];
        let digest = |body: &[u8]| content_digest(key, "qm://hub/q", body);
        assert_ne!(digest(b"a"), digest(b"b"));
        let mut digests = Digests::default();
        for number in [0, 63, 64, u64::MAX] {
            assert!(digests.note(key, number, digest(b"a"), true).is_none());
        }
        assert!(digests.admits(key, 63, digest(b"a")));
        assert!(!digests.admits(key, 63, digest(b"b")));
        assert!(digests.admits(key, 5, digest(b"b")), "never seen");
        let written = digests.take_dirty();
        assert_eq!(written.len(), 3);
        assert!(digests.take_dirty().is_empty());
        let mut read = Digests::default();
        for (name, value) in &written {
            assert_eq!(read.recover(name, value), Some(true));
        }
        assert!(!read.admits(key, u64::MAX, digest(b"b")));
        assert_eq!(
            read.recover(&written[0].0, &Bytes::from_static(b"?")),
            Some(false)
        );
        assert_eq!(
            read.recover(&Bytes::from_static(b"idem/x"), &Bytes::new()),
            None
        );
        let names: Vec<_> = written.into_iter().map(|(name, _)| name).collect();
        assert_eq!(read.forget(key), names);
        assert!(read.admits(key, 63, digest(b"b")));
    }

    #[test]
    fn a_key_without_end_forgets_its_beginning() {
        let key = [7; 16];
        let mut digests = Digests::default();
        let mut removed = 0;
        for block in 0..BLOCKS_MAX as u64 + 10 {
            removed += usize::from(digests.note(key, block * BLOCK, 1, true).is_some());
            digests.take_dirty();
        }
        assert_eq!((digests.blocks.len(), removed), (BLOCKS_MAX, 10));
        assert!(digests.admits(key, 0, 2), "forgotten, so not compared");
        assert!(!digests.admits(key, 10 * BLOCK, 2));
    }
}
