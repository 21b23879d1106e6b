//! What must hold of the links of one stream at its receiver at any time.

use std::collections::BTreeSet;

use qm_wire::Link;

use super::{Branch, Branches, NAMED_MAX};

impl Branches {
    /// For audits.
    ///
    /// # Errors
    /// Names the first rule that is broken.
    pub fn audit(&self) -> Result<(), String> {
        let mut begun = BTreeSet::new();
        for branch in &self.branches {
            branch.audit()?;
            let first = branch.nodes.front().map(|node| node.link);
            if !begun.insert((branch.first, first)) {
                return Err(format!("position {} is taken twice", branch.first));
            }
            if branch.first == 1 && branch.before != self.root {
                return Err("it has another root than its own".to_owned());
            }
            let follows = self.dropped || self.knows(branch.first, branch.before);
            if branch.first > 1 && !follows {
                return Err(format!("position {} follows nothing", branch.first));
            }
        }
        Ok(())
    }

    /// What is being stored: positions and links.
    pub fn open(&self) -> impl Iterator<Item = (u64, Link)> + '_ {
        self.branches.iter().flat_map(|branch| {
            let positions = branch.stored_to.max(branch.first)..branch.end();
            positions.filter_map(|at| Some((at, branch.node(at)?.link)))
        })
    }

    /// The newest position that the disk has.
    #[must_use]
    pub fn stored_to(&self) -> u64 {
        let ends = self.branches.iter().map(|branch| branch.stored_to);
        ends.max().unwrap_or(0)
    }
}

impl Branch {
    fn audit(&self) -> Result<(), String> {
        let (first, stored, written, end) =
            (self.first, self.stored_to, self.written_to, self.end());
        if first == end {
            return Err(format!("nothing stands in its branch at {first}"));
        }
        if stored > written || written > end {
            return Err(format!(
                "of {first}..{end} it was written up to {written} and is stored up to {stored}"
            ));
        }
        if self.named.len() > self.nodes.len().min(NAMED_MAX) {
            return Err(format!("it keeps {} names", self.named.len()));
        }
        let mut at = 0;
        for (name, links, _) in &self.runs {
            if name.0 < at || *links == 0 {
                return Err(format!("its run at {} overlaps the one before", name.0));
            }
            at = name.0.saturating_add(*links as u64);
        }
        if at > written {
            return Err(format!("its runs end at {at}, written up to {written}"));
        }
        Ok(())
    }
}
