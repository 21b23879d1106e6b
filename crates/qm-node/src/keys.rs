//! The keys of a data directory: the node's own, and for a while that of its former identity.
//!
//! Which key is which, the store says ([`Roles`]); the files only have to hold them. A new key is
//! on disk before the store is told of it, and no file is given up before its key lies in another
//! one, so a crash at any moment leaves both keys and a store that tells them apart. A store that
//! went back knows nothing of the newer key: that is put aside, for the newer store may come back.

use std::path::{Path, PathBuf};

use qm_engine::Roles;
use qm_transport::NodeKey;
use qm_wire::{QmId, Succession};

use crate::identity_file::{self, FORMER_FILE, IdentityError, KEY_FILE, NEXT_FILE};

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct NodeKeys {
    data: PathBuf,
    current: NodeKey,
    former: Option<NodeKey>,
    /// On disk, and in no role yet.
    next: Option<NodeKey>,
}

impl NodeKeys {
    /// Whether a data directory has an identity.
    pub(crate) fn exist(data: &Path) -> Result<bool, IdentityError> {
        Ok(identity_file::load_key(data)?.is_some())
    }

    /// A new identity.
    pub(crate) fn create(data: &Path) -> Result<Self, IdentityError> {
        Ok(Self {
            data: data.to_owned(),
            current: identity_file::create_key(data, KEY_FILE)?,
            former: None,
            next: None,
        })
    }

    /// A new identity in the place of one that nobody knows.
    pub(crate) fn replace(self) -> Result<Self, IdentityError> {
        Self::create(&self.data)
    }

    /// The keys in their roles, and the files put in order; `None` when a key is missing.
    pub(crate) fn open(data: &Path, roles: Option<Roles>) -> Result<Option<Self>, IdentityError> {
        let kept = identity_file::kept_files(data)?;
        let kept: Vec<&str> = kept.iter().map(String::as_str).collect();
        let mut found = Vec::new();
        for file in [FORMER_FILE, KEY_FILE, NEXT_FILE] {
            found.extend(identity_file::load_key_file(data, file)?.map(|key| (file, key)));
        }
        for file in &kept {
            match identity_file::load_key_file(data, file) {
                Ok(key) => found.extend(key.map(|key| (*file, key))),
                // Most likely nobody needs it; if it is needed, a key is missing.
                Err(error) => {
                    tracing::warn!(event = "kept_key_unreadable", %error, "a key that was put aside");
                }
            }
        }
        let of = |public_key: &[u8; 32]| {
            let mut keys = found.iter().map(|(_, key)| key);
            keys.find(|key| key.public_key() == *public_key).cloned()
        };
        let (current, former) = match roles {
            Some(roles) => {
                let former = roles.former.as_ref().map(of);
                let Some(current) = of(&roles.current).filter(|_| !matches!(former, Some(None)))
                else {
                    return Ok(None);
                };
                (current, former.flatten())
            }
            // The store knows of no change: a key that was the node's before one is the store's.
            None => {
                let in_use = [FORMER_FILE, KEY_FILE];
                let mut first = found.iter().filter(|(file, _)| in_use.contains(file));
                let Some((_, key)) = first.next() else {
                    return Ok(None);
                };
                (key.clone(), None)
            }
        };
        let has_role = |key: &NodeKey| {
            let mut roles = [Some(&current), former.as_ref()].into_iter().flatten();
            roles.any(|of| of.public_key() == key.public_key())
        };
        let in_place = found.iter().find(|(file, _)| *file == KEY_FILE);
        if in_place.is_some_and(|(_, key)| !has_role(key)) {
            // The store went back. Another one may know more, so nothing is thrown away.
            for (_, key) in found.iter().filter(|(_, key)| !has_role(key)) {
                let file = identity_file::kept_file(key);
                identity_file::save_key(data, &file, key)?;
                tracing::warn!(
                    event = "identity_went_back",
                    qm = %current.qm_id(),
                    newer = %key.qm_id(),
                    kept = file.as_str(),
                    "the store is older than the last change of identity: its own identity is \
                     taken, and the newer key is kept for a newer store"
                );
            }
        }
        let own: Vec<&str> = found
            .iter()
            .filter(|(file, key)| kept.contains(file) && has_role(key))
            .map(|(file, _)| *file)
            .collect();
        let keys = Self {
            data: data.to_owned(),
            current,
            former,
            next: None,
        };
        if found.len() > 1 {
            keys.arrange()?;
        }
        for file in own {
            identity_file::erase_key(data, file)?;
        }
        Ok(Some(keys))
    }

    /// The key of the identity that the node has.
    pub(crate) const fn current(&self) -> &NodeKey {
        &self.current
    }

    /// The key of the identity that it had before.
    pub(crate) const fn former(&self) -> Option<&NodeKey> {
        self.former.as_ref()
    }

    /// Every key that the node may prove, its own first.
    pub(crate) fn held(&self) -> Vec<NodeKey> {
        let former = self.former.iter();
        [&self.current].into_iter().chain(former).cloned().collect()
    }

    fn find(&self, held: impl Fn(&NodeKey) -> bool) -> Option<NodeKey> {
        let others = self.former.iter().chain(&self.next);
        let mut all = [&self.current].into_iter().chain(others);
        all.find(|key| held(key)).cloned()
    }

    /// Has a key ready that may follow, and signs the succession with both. No role changes.
    pub(crate) fn succeed(
        &mut self,
        old_key: &[u8; 32],
        new_key: Option<&[u8; 32]>,
    ) -> Result<(Succession, NodeKey), KeysError> {
        let missing = || KeysError::Missing;
        let old = self.find(|key| key.public_key() == *old_key);
        let old = old.ok_or_else(missing)?;
        let new = match new_key {
            Some(wanted) => {
                let held = self.find(|key| key.public_key() == *wanted);
                held.ok_or_else(missing)?
            }
            None => {
                // A key that has a role may lie there alone, after a disk that was full.
                self.arrange()?;
                let made = identity_file::create_key(&self.data, NEXT_FILE)?;
                self.next = Some(made.clone());
                made
            }
        };
        let mut succession = Succession {
            old_key: old.public_key(),
            new_key: new.public_key(),
            old_signature: [0; 64],
            new_signature: [0; 64],
        };
        let bytes = succession.signed_bytes();
        succession.old_signature = old.sign(&bytes);
        succession.new_signature = new.sign(&bytes);
        Ok((succession, new))
    }

    /// The roles are durable: keeps the keys that have one, erases the others.
    pub(crate) fn assume(&mut self, current: QmId, former: Option<QmId>) -> Result<(), KeysError> {
        let of = |qm: QmId| self.find(|key| key.qm_id() == qm);
        let roles = (of(current), former.map(of));
        let (Some(current), former) = roles else {
            return Err(KeysError::Missing);
        };
        let lost = matches!(former, Some(None));
        (self.current, self.former) = (current, former.flatten());
        self.next = None;
        self.arrange()?;
        if lost {
            return Err(KeysError::Missing);
        }
        Ok(())
    }

    fn arrange(&self) -> Result<(), IdentityError> {
        let data = &self.data;
        let held = identity_file::load_key_file(data, KEY_FILE)?;
        let in_place = held.is_some_and(|key| key.public_key() == self.current.public_key());
        if !in_place {
            // Its only copy may lie where the former key is written next.
            identity_file::save_key(data, NEXT_FILE, &self.current)?;
        }
        match &self.former {
            Some(former) => identity_file::save_key(data, FORMER_FILE, former)?,
            None => identity_file::erase_key(data, FORMER_FILE)?,
        }
        if !in_place {
            identity_file::save_key(data, KEY_FILE, &self.current)?;
        }
        identity_file::erase_key(data, NEXT_FILE)
    }
}

/// Why a key cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysError {
    /// The file system, or the system's randomness.
    #[error(transparent)]
    File(#[from] IdentityError),
    /// It is in no file.
    #[error("the node has not got the key that is asked for")]
    Missing,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(data: &Path, roles: Option<Roles>) -> Option<(QmId, Option<QmId>)> {
        let keys = NodeKeys::open(data, roles).unwrap()?;
        Some((keys.current.qm_id(), keys.former.map(|key| key.qm_id())))
    }

    /// Every file that a crash may leave, before and after the store took the change.
    #[test]
    fn a_crash_at_any_step_leaves_both_keys_in_the_roles_that_the_store_says() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path();
        let mut keys = NodeKeys::create(data).unwrap();
        let old = keys.current().clone();
        let (signed, _) = keys.succeed(&old.public_key(), None).unwrap();
        assert!(qm_transport::verify(
            &signed.old_key,
            &signed.signed_bytes(),
            &signed.old_signature
        ));
        assert!(qm_transport::verify(
            &signed.new_key,
            &signed.signed_bytes(),
            &signed.new_signature
        ));
        let new = QmId::from_ed25519_public_key(&signed.new_key);
        let roles = |current, former| Some(Roles { current, former });
        let changed = roles(signed.new_key, Some(signed.old_key));

        // The new key lies there, and the store does not know it: as if nothing had been.
        let copy = |to: &Path| {
            for entry in std::fs::read_dir(data).unwrap() {
                let path = entry.unwrap().path();
                std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
            }
        };
        let before = tempfile::tempdir().unwrap();
        copy(before.path());
        assert_eq!(ids(before.path(), None), Some((old.qm_id(), None)));
        assert!(!before.path().join(NEXT_FILE).exists());

        // The store took the change, and the files were not arranged.
        let between = tempfile::tempdir().unwrap();
        copy(between.path());
        let expected = Some((new, Some(old.qm_id())));
        assert_eq!(ids(between.path(), changed), expected);
        assert_eq!(ids(between.path(), changed), expected);

        keys.assume(new, Some(old.qm_id())).unwrap();
        assert_eq!(ids(data, changed), expected);
        // A store from before the change belongs to the former key.
        let restored = tempfile::tempdir().unwrap();
        copy(restored.path());
        for _ in 0..2 {
            assert_eq!(ids(restored.path(), None), Some((old.qm_id(), None)));
        }
        // And the newer key is there when the newer store is back.
        let kept = identity_file::kept_files(restored.path()).unwrap();
        assert_eq!(kept, [format!("identity.kept-{new}")]);
        assert_eq!(ids(restored.path(), changed), expected);
        assert_eq!(ids(restored.path(), changed), expected);
        assert!(
            identity_file::kept_files(restored.path())
                .unwrap()
                .is_empty()
        );

        // Back again: each key lies where the other one is to be written.
        let (back, _) = keys
            .succeed(&signed.new_key, Some(&signed.old_key))
            .unwrap();
        assert_eq!(back.new_key, signed.old_key);
        keys.assume(old.qm_id(), Some(new)).unwrap();
        let reclaimed = roles(signed.old_key, Some(signed.new_key));
        assert_eq!(ids(data, reclaimed), Some((old.qm_id(), Some(new))));

        // The store is done with the former one, and the file is left over.
        let last = tempfile::tempdir().unwrap();
        copy(last.path());
        let alone = roles(signed.old_key, None);
        assert_eq!(ids(last.path(), alone), Some((old.qm_id(), None)));
        assert!(!last.path().join(FORMER_FILE).exists());

        // A role without a key is no identity at all.
        std::fs::remove_file(data.join(FORMER_FILE)).unwrap();
        assert_eq!(ids(data, reclaimed), None);
        assert!(matches!(
            keys.succeed(&[9; 32], None),
            Err(KeysError::Missing)
        ));
    }
}
