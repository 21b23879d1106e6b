//! Ready-made keys for messages and senders as qm names them.

use qm_wire::{Entry, Incarnation, MessageKey, QmId};

use crate::{AckRouteCache, DedupCache, Key};

/// The duplicate cache of a receiver of qm's messages.
///
/// ```
/// use qm_cache::{Admit, DedupConfig, MessageDedup};
/// use qm_wire::{Entry, Incarnation, MessageId, MessageKey, QmId, Tag};
///
/// let cache = MessageDedup::new(DedupConfig::default(), [1, 2]);
/// let message = |tag| MessageKey {
///     source: QmId::from_ed25519_public_key(&[7; 32]),
///     entry: Entry {
///         id: MessageId { incarnation: Incarnation(1), sequence: 1 },
///         tag: Tag([tag; 8]),
///     },
/// };
/// if let Admit::Fresh(reservation) = cache.admit(message(1), 0) {
///     reservation.commit();
/// }
/// assert!(matches!(cache.admit(message(1), 0), Admit::Duplicate));
///
/// // Another tag under the same name: no duplicate, but a twin of its sender is about.
/// let other = cache.admit(message(2), 0).fresh().expect("another message");
/// assert!(other.has_sibling());
/// ```
pub type MessageDedup = DedupCache<MessageKey>;

/// The ack-route cache of a receiver of qm's messages: a life of a queue manager → where it is.
pub type AckRoutes<R> = AckRouteCache<(QmId, Incarnation), R>;

/// The message's name is what is hashed, its sender is the owner, and its tag tells contents apart.
impl Key for MessageKey {
    type Words = [u64; 5];
    const WORDS: usize = 5;
    const IDENTITY_WORDS: usize = 4;
    const OWNER_WORDS: usize = 2;

    fn to_words(&self) -> [u64; 5] {
        let source = self.source.as_bytes();
        let (low, high) = source.split_at(8);
        let word = |bytes: &[u8]| {
            let mut word = [0; 8];
            word.copy_from_slice(bytes);
            u64::from_le_bytes(word)
        };
        let Entry { id, tag } = self.entry;
        [
            word(low),
            word(high),
            id.incarnation.0,
            id.sequence,
            u64::from_le_bytes(tag.0),
        ]
    }
}
