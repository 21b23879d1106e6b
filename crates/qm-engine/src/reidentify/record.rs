//! What lies in the store of a node's identities.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use qm_wire::limits::PARTED_LIVES_MAX;
use qm_wire::{Incarnation, QmId, Succession};

use crate::record::{RemoteKey, prefixed, put_bytes, take_array, take_text};
use crate::time::Timestamp;

/// Name of the value that says which key is which.
pub(super) const IDENTITY: &[u8] = b"identity";
/// Names of the values that say under which identity a destination is spoken to.
const SWITCHED: &[u8] = b"switched/";
/// Names of the values that say who follows a peer.
pub(crate) const HEIR: &[u8] = b"heir/";

const VERSION: u8 = 1;

/// Whether a name of state belongs to what is read back before everything else.
pub(crate) fn is_identity_value(key: &[u8]) -> bool {
    key == IDENTITY || key.starts_with(SWITCHED) || key.starts_with(HEIR)
}

/// Which of the keys in a data directory plays which role, as the store says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Key of the identity that the node has: the one for [`Engine::new`](crate::Engine::new).
    pub current: [u8; 32],
    /// Key of the identity that drains or may be taken back; `None` once it is to be erased.
    pub former: Option<[u8; 32]>,
}

impl Roles {
    /// Looks into a store's keyed state; `None` when the node never changed its identity.
    ///
    /// # Errors
    /// When there is a value that cannot be read: guessing would mix up two identities.
    pub fn read(state: &BTreeMap<Bytes, Bytes>) -> Result<Option<Self>, &'static str> {
        let Some(value) = state.get(IDENTITY) else {
            return Ok(None);
        };
        let former = Former::decode(value).ok_or("the value that tells the node's keys apart")?;
        Ok(Some(Self {
            current: former.succession.new_key,
            former: (!former.gone).then_some(former.succession.old_key),
        }))
    }
}

/// An identity that this node had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Former {
    pub(crate) qm: QmId,
    /// From the former key to the current one.
    pub(crate) succession: Succession,
    /// Wall clock of the change, microseconds.
    pub(crate) since_us: u64,
    /// Why, for people.
    pub(crate) because: String,
    /// Whether the change went back to an identity that the node had before.
    pub(crate) reclaimed: bool,
    /// Another machine keeps the former identity, so nobody follows it: no succession is shown.
    pub(crate) split: bool,
    /// Node time before which that machine has stored what this one has.
    pub(crate) inherited_before: Option<Timestamp>,
    /// Lives of this node in which it met copies of the former identity, for the proof that it left
    /// it to one of them.
    pub(crate) lives: Vec<Incarnation>,
    /// Destinations that are known to have switched, or not to; of others, those have switched to
    /// which nothing was ever sent under the former identity, which is when it was `reclaimed`.
    pub(crate) marks: BTreeMap<RemoteKey, bool>,
    /// Since when nothing is left to do under it.
    pub(crate) drained: Option<Timestamp>,
    /// Nothing is left of it: the value only says whose store this is.
    pub(crate) gone: bool,
}

impl Former {
    /// Whether messages for a destination are minted under this identity still.
    pub(crate) fn mints(&self, to: &RemoteKey) -> bool {
        let switched = self.marks.get(to).copied();
        // Nothing new begins under an identity that has drained.
        !switched.unwrap_or_else(|| self.reclaimed || self.drained.is_some())
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut to = BytesMut::new();
        to.put_u8(VERSION);
        to.put_u8(
            u8::from(self.reclaimed)
                | u8::from(self.drained.is_some()) << 1
                | u8::from(self.gone) << 2
                | u8::from(self.split) << 3
                | u8::from(self.inherited_before.is_some()) << 4,
        );
        to.put_u64_le(self.since_us);
        to.put_u64_le(self.drained.map_or(0, |at| at.0));
        to.put_slice(&self.succession.old_key);
        to.put_slice(&self.succession.new_key);
        to.put_slice(&self.succession.old_signature);
        to.put_slice(&self.succession.new_signature);
        put_bytes(&mut to, self.because.as_bytes());
        if let Some(before) = self.inherited_before {
            to.put_u64_le(before.0);
        }
        for life in &self.lives {
            to.put_u64_le(life.0);
        }
        to.freeze()
    }

    pub(super) fn decode(value: &Bytes) -> Option<Self> {
        let mut r = value.clone();
        if r.try_get_u8().ok()? != VERSION {
            return None;
        }
        let flags = r.try_get_u8().ok()?;
        let since_us = r.try_get_u64_le().ok()?;
        let drained = Timestamp(r.try_get_u64_le().ok()?);
        let succession = Succession {
            old_key: take_array(&mut r)?,
            new_key: take_array(&mut r)?,
            old_signature: take_array(&mut r)?,
            new_signature: take_array(&mut r)?,
        };
        let because = take_text(&mut r)?.as_str().to_owned();
        let inherited_before = if flags & 16 == 0 {
            None
        } else {
            Some(Timestamp(r.try_get_u64_le().ok()?))
        };
        let mut lives = Vec::new();
        while !r.is_empty() && lives.len() < PARTED_LIVES_MAX {
            lives.push(Incarnation(r.try_get_u64_le().ok()?));
        }
        (flags < 32 && r.is_empty()).then(|| Self {
            qm: QmId::from_ed25519_public_key(&succession.old_key),
            succession,
            since_us,
            because,
            reclaimed: flags & 1 != 0,
            split: flags & 8 != 0,
            inherited_before,
            lives,
            marks: BTreeMap::new(),
            drained: (flags & 2 != 0).then_some(drained),
            gone: flags & 4 != 0,
        })
    }
}

pub(super) fn mark_key(key: &RemoteKey) -> Bytes {
    let mut to = BytesMut::new();
    match key {
        RemoteKey::Id(qm) => {
            to.put_u8(0);
            to.put_slice(qm.as_bytes());
        }
        RemoteKey::Host(host) => {
            to.put_u8(1);
            to.put_slice(host.as_bytes());
        }
    }
    prefixed(SWITCHED, &to)
}

pub(super) fn encode_mark(switched: bool) -> Bytes {
    Bytes::copy_from_slice(&[VERSION, u8::from(switched)])
}

/// `None` for the name of another value, `Some(None)` for a mark that cannot be read.
pub(super) fn decode_mark(key: &Bytes, value: &Bytes) -> Option<Option<(RemoteKey, bool)>> {
    let name = key.strip_prefix(SWITCHED)?;
    let remote = match name.split_first() {
        Some((0, id)) => <[u8; 16]>::try_from(id)
            .ok()
            .map(|id| RemoteKey::Id(QmId::from_bytes(id))),
        Some((1, host)) => core::str::from_utf8(host)
            .ok()
            .map(|host| RemoteKey::Host(host.to_owned())),
        _ => None,
    };
    let mark = match value.as_ref() {
        [VERSION, 0] => Some(false),
        [VERSION, 1] => Some(true),
        _ => None,
    };
    Some(remote.zip(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were_and_cut_ones_do_not() {
        let succession = Succession {
            old_key: [1; 32],
            new_key: [2; 32],
            old_signature: [3; 64],
            new_signature: [4; 64],
        };
        for drained in [None, Some(Timestamp(9))] {
            let former = Former {
                qm: QmId::from_ed25519_public_key(&[1; 32]),
                succession,
                since_us: 7,
                because: "a copy was found".to_owned(),
                reclaimed: drained.is_some(),
                split: drained.is_none(),
                inherited_before: drained,
                lives: if drained.is_none() {
                    vec![Incarnation(6), Incarnation(7)]
                } else {
                    Vec::new()
                },
                marks: BTreeMap::new(),
                drained,
                gone: false,
            };
            let value = former.encode();
            // Of the lives, whole ones may be missing.
            let whole = (1..=former.lives.len()).map(|n| value.len() - 8 * n);
            let whole: Vec<usize> = whole.collect();
            assert_eq!(Former::decode(&value), Some(former));
            for cut in (0..value.len()).filter(|cut| !whole.contains(cut)) {
                assert_eq!(Former::decode(&value.slice(..cut)), None, "{cut}");
            }
            let state = BTreeMap::from([(Bytes::from_static(IDENTITY), value)]);
            let roles = Roles::read(&state).unwrap().unwrap();
            assert_eq!((roles.current, roles.former), ([2; 32], Some([1; 32])));
        }
        for key in [
            RemoteKey::Id(QmId::from_bytes([5; 16])),
            RemoteKey::Host("hub.example:1801".to_owned()),
        ] {
            let read = decode_mark(&mark_key(&key), &encode_mark(true));
            assert_eq!(read, Some(Some((key, true))));
        }
        let short = Bytes::from_static(b"switched/\x00abc");
        assert_eq!(decode_mark(&short, &encode_mark(true)), Some(None));
        assert_eq!(decode_mark(&Bytes::from_static(b"name/x"), &short), None);
    }
}
