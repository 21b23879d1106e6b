//! Rule 16 of [`clones`](super::clones): what two copies of a disk had both received is set aside
//! at the one that takes another identity, and nothing else is.

use std::collections::{BTreeMap, BTreeSet};

use super::Put;

/// What machines of one family received before they were two.
#[derive(Clone, Debug, Default)]
pub struct Aside {
    /// Of each pair of machines, the lower number first: what was on both disks for certain.
    common: BTreeMap<(usize, usize), BTreeSet<Put>>,
    /// Copies that have not been started yet.
    unstarted: BTreeSet<usize>,
    /// What a copy found on its disk, and nobody had been told that it is there, an express message
    /// among them: its original may have it too, or may have lost it.
    doubtful: BTreeSet<Put>,
    /// What an operator released, and where.
    released: BTreeSet<(usize, Put)>,
}

impl Aside {
    fn common(&self, one: usize, other: usize) -> Option<&BTreeSet<Put>> {
        self.common.get(&(one.min(other), one.max(other)))
    }

    /// A machine begins with a copy of another one's disk, on which these messages were.
    pub fn copied(&mut self, of: usize, copy: usize, received: &BTreeSet<Put>) {
        let mut pairs = vec![((of, copy), received.clone())];
        for (pair, common) in &self.common {
            let other = match *pair {
                (one, other) if one == of => other,
                (other, one) if one == of => other,
                _ => continue,
            };
            pairs.push(((other, copy), common & received));
        }
        self.common.extend(pairs);
        self.unstarted.insert(copy);
    }

    /// A machine starts and finds these; `known` are those that it is known to have received.
    pub fn starts(&mut self, node: usize, found: &BTreeSet<Put>, known: &BTreeSet<Put>) {
        if self.unstarted.remove(&node) {
            self.doubtful.extend(found - known);
        }
    }

    /// A machine sets a message aside.
    ///
    /// # Errors
    /// Rule 16.
    pub fn set_aside(&self, node: usize, put: Put) -> Result<(), String> {
        let mut pairs = self.common.iter();
        let shared = |(pair, common): (&(usize, usize), &BTreeSet<Put>)| {
            (pair.0 == node || pair.1 == node) && common.contains(&put)
        };
        if pairs.any(shared) || self.doubtful.contains(&put) {
            return Ok(());
        }
        Err(format!(
            "rule 16: node{node} sets {put:?} aside, which no copy of it had received"
        ))
    }

    /// An operator of a machine released a message.
    pub fn released(&mut self, node: usize, put: Put) {
        self.released.insert((node, put));
    }

    /// A machine that took another identity hands a message out; `others` are the others of its
    /// family.
    ///
    /// # Errors
    /// Rule 16.
    pub fn handed_out(
        &self,
        node: usize,
        put: Put,
        others: impl IntoIterator<Item = usize>,
    ) -> Result<(), String> {
        let mut others = others.into_iter().peekable();
        let alone = others.peek().is_none();
        let shared = |other| {
            let common = self.common(node, other);
            common.is_some_and(|common| common.contains(&put))
        };
        if alone || !others.all(shared) || self.released.contains(&(node, put)) {
            return Ok(());
        }
        Err(format!(
            "rule 16: node{node} hands {put:?} out, which every copy of it had received too"
        ))
    }
}
