//! The map of the ack-route cache when a model is explored: papaya's calls, on a list that loom
//! sees.
//!
//! papaya itself is not explored, it has tests of its own. What is, is what this crate does between
//! two of its calls and beside them. As there, a reader sees the row before or after a change, and
//! a computation that another thread overtook is run again.

use std::hash::BuildHasher;
use std::marker::PhantomData;
use std::sync::OnceLock;

use loom::sync::Mutex;

/// Changes of one map that a model may make.
const CHANGES_MAX: usize = 32;

pub(crate) enum Operation<V, T> {
    Insert(V),
    Remove,
    Abort(T),
}

#[expect(
    dead_code,
    reason = "as papaya's; the cache does not look at all of it"
)]
pub(crate) enum Compute<'g, K, V, T> {
    Inserted(&'g K, &'g V),
    Updated {
        old: (&'g K, &'g V),
        new: (&'g K, &'g V),
    },
    Removed(&'g K, &'g V),
    Aborted(T),
}

pub(crate) struct HashMap<K, V, S> {
    /// Every change since the beginning, so that whoever reads an old row may keep it.
    changes: Box<[OnceLock<(K, Option<V>)>]>,
    made: Mutex<usize>,
    _hasher: S,
}

pub(crate) struct Builder<K, V, S>(S, PhantomData<(K, V)>);

impl<K, V> HashMap<K, V, ()> {
    pub(crate) fn builder() -> Builder<K, V, ()> {
        Builder((), PhantomData)
    }
}

impl<K, V, S> Builder<K, V, S> {
    pub(crate) fn hasher<T: BuildHasher>(self, hasher: T) -> Builder<K, V, T> {
        Builder(hasher, PhantomData)
    }

    pub(crate) fn build(self) -> HashMap<K, V, S> {
        HashMap {
            changes: (0..CHANGES_MAX).map(|_| OnceLock::new()).collect(),
            made: Mutex::new(0),
            _hasher: self.0,
        }
    }
}

impl<K: Eq + Copy, V, S> HashMap<K, V, S> {
    pub(crate) fn pin(&self) -> &Self {
        self
    }

    fn made(&self) -> usize {
        *self.made.lock().expect("no model panics here")
    }

    /// Where the latest of the first `made` changes of a key is.
    fn latest(&self, key: &K, made: usize) -> Option<(usize, &K, Option<&V>)> {
        let changes = self.changes[..made].iter().enumerate().rev();
        changes
            .filter_map(|(at, change)| {
                let (of, row) = change.get()?;
                Some((at, of, row.as_ref()))
            })
            .find(|(_, of, _)| *of == key)
    }

    fn entry(&self, key: &K, made: usize) -> Option<(&K, &V)> {
        let (_, key, row) = self.latest(key, made)?;
        Some((key, row?))
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entry(key, self.made()).map(|(_, row)| row)
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    pub(crate) fn compute<'g, T>(
        &'g self,
        key: K,
        mut compute: impl FnMut(Option<(&'g K, &'g V)>) -> Operation<V, T>,
    ) -> Compute<'g, K, V, T> {
        loop {
            let made = self.made();
            let old = self.entry(&key, made);
            let new = match compute(old) {
                Operation::Abort(why) => return Compute::Aborted(why),
                Operation::Insert(row) => Some(row),
                Operation::Remove => None,
            };
            let place = |at: Option<(usize, &K, Option<&V>)>| at.map(|(at, ..)| at);
            let mut now = self.made.lock().expect("no model panics here");
            if place(self.latest(&key, *now)) != place(self.latest(&key, made)) {
                continue;
            }
            let change = &self.changes[*now];
            assert!(change.set((key, new)).is_ok(), "written once, by the lock");
            *now += 1;
            let written = change
                .get()
                .and_then(|(key, row)| Some((key, row.as_ref()?)));
            return match (old, written) {
                (None, Some((key, row))) => Compute::Inserted(key, row),
                (Some(old), Some(new)) => Compute::Updated { old, new },
                (Some((key, row)), None) => Compute::Removed(key, row),
                (None, None) => unreachable!("this crate removes rows that it found"),
            };
        }
    }
}

impl<'g, K: Eq + Copy, V, S> IntoIterator for &&'g HashMap<K, V, S> {
    type Item = (&'g K, &'g V);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        let made = self.made();
        let is_latest = |at: usize, key: &K| self.latest(key, made).is_some_and(|(l, ..)| l == at);
        let rows: Vec<_> = self.changes[..made]
            .iter()
            .enumerate()
            .filter_map(|(at, change)| {
                let (key, row) = change.get()?;
                Some((key, row.as_ref().filter(|_| is_latest(at, key))?))
            })
            .collect();
        rows.into_iter()
    }
}
