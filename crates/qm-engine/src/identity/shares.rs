//! Room for what is said about copies, which no peer takes from others.
//!
//! Strangers make as many identities as they like, so all of them together have a share of their
//! own; every peer has one within its kind; and what came to no end for some time gives way.

use qm_wire::QmId;

/// For whom room was taken, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tenant {
    pub(crate) peer: QmId,
    /// Whether nobody listens to it: it was neither approved nor dialled.
    pub(crate) stranger: bool,
    /// Node time in milliseconds.
    pub(crate) at_ms: u64,
}

/// How much of something may be there at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shares {
    /// Of all peers that are listened to.
    pub(super) heard: usize,
    /// Of all strangers.
    pub(super) strangers: usize,
    /// Of one peer.
    pub(super) peer: usize,
    /// What is older gives way to what is new.
    pub(super) kept_ms: u64,
}

/// There is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Shares {
    /// What gives way to a new one, when something has to.
    pub(super) fn room<K>(
        &self,
        known: impl Iterator<Item = (K, Tenant)> + Clone,
        new: &Tenant,
    ) -> Result<Option<K>, Full> {
        let same = |tenant: &Tenant| tenant.peer == new.peer;
        let kind = |tenant: &Tenant| tenant.stranger == new.stranger;
        let count =
            |of: &dyn Fn(&Tenant) -> bool| known.clone().filter(|(_, known)| of(known)).count();
        let most = if new.stranger {
            self.strangers
        } else {
            self.heard
        };
        let full_of_peer = count(&same) >= self.peer;
        if !full_of_peer && count(&kind) < most {
            return Ok(None);
        }
        let old = |tenant: &Tenant| tenant.at_ms.saturating_add(self.kept_ms) <= new.at_ms;
        known
            .filter(|(_, known)| old(known))
            .filter(|(_, known)| {
                if full_of_peer {
                    same(known)
                } else {
                    kind(known)
                }
            })
            .min_by_key(|(_, known)| known.at_ms)
            .map(|(key, _)| Some(key))
            .ok_or(Full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARES: Shares = Shares {
        heard: 8,
        strangers: 4,
        peer: 2,
        kept_ms: 100,
    };

    fn tenant(peer: u8, stranger: bool, at_ms: u64) -> Tenant {
        Tenant {
            peer: QmId::from_bytes([peer; 16]),
            stranger,
            at_ms,
        }
    }

    fn room(known: &[Tenant], new: &Tenant) -> Result<Option<usize>, Full> {
        SHARES.room(known.iter().copied().enumerate(), new)
    }

    #[test]
    fn strangers_take_no_room_from_others() {
        let mut known: Vec<_> = (0..4).map(|n| tenant(n, true, 10 + u64::from(n))).collect();
        assert_eq!(room(&known, &tenant(9, true, 50)), Err(Full));
        assert_eq!(room(&known, &tenant(9, false, 50)), Ok(None));
        assert_eq!(
            room(&known, &tenant(9, true, 110)),
            Ok(Some(0)),
            "the oldest"
        );
        known.extend((20..28).map(|n| tenant(n, false, 0)));
        assert_eq!(room(&known, &tenant(9, false, 99)), Err(Full));
        assert_eq!(room(&known, &tenant(9, false, 100)), Ok(Some(4)));
    }

    #[test]
    fn a_peer_takes_no_room_from_another() {
        let known = [
            tenant(1, false, 0),
            tenant(2, false, 1),
            tenant(1, false, 2),
        ];
        assert_eq!(room(&known, &tenant(1, false, 50)), Err(Full));
        assert_eq!(room(&known, &tenant(2, false, 50)), Ok(None));
        assert_eq!(room(&known[1..], &tenant(1, false, 50)), Ok(None));
        assert_eq!(room(&known, &tenant(1, false, 102)), Ok(Some(0)), "its own");
    }
}
