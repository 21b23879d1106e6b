//! What must hold of a chain at any time.

use super::{Chain, Mark};

impl<F: Copy> Chain<F> {
    /// For audits.
    ///
    /// # Errors
    /// Names the first rule that is broken.
    pub fn audit(&self) -> Result<(), String> {
        let rises = |(before, behind): (&Mark, &Mark)| {
            before.at < behind.at && before.position < behind.position
        };
        if !self.marks.iter().zip(self.marks.iter().skip(1)).all(rises) {
            return Err(format!("its marks do not rise: {:?}", self.marks));
        }
        let placed = || self.placed.iter().map(|placed| &placed.mark);
        if !placed().zip(placed().skip(1)).all(rises) {
            return Err("its places do not rise".to_owned());
        }
        if let Some(newest) = placed().next_back().filter(|m| m.at > self.cursor.at) {
            return Err(format!(
                "position {} was never given: the last is {}",
                newest.position, self.cursor.position
            ));
        }
        self.audit_links()?;
        self.audit_skips()?;
        let resting = self.placed.iter().filter(|placed| placed.flight.is_none());
        if !resting
            .map(|placed| &placed.mark.at)
            .eq(self.resting.iter())
        {
            return Err("what is not in flight is not what rests".to_owned());
        }
        Ok(())
    }

    /// Each link follows the one before it, and what is settled is not open as well.
    fn audit_links(&self) -> Result<(), String> {
        let placed = self.placed.iter().map(|p| (p.mark, p.previous));
        let skips = self.skips.values().map(|s| (s.mark, s.previous));
        let mut open: Vec<_> = placed.chain(skips).collect();
        open.sort_unstable_by_key(|(mark, _)| mark.position);
        for ((before, _), (mark, previous)) in open.iter().zip(open.iter().skip(1)) {
            if before.position >= mark.position || before.at >= mark.at {
                return Err(format!("two things stand at position {}", mark.position));
            }
            if before.position.checked_add(1) == Some(mark.position) && before.link != *previous {
                return Err(format!(
                    "position {} does not follow the link before it",
                    mark.position
                ));
            }
        }
        let is_open = |mark: &&Mark| {
            self.placed(mark.position).is_some() || self.skips.contains_key(&mark.position)
        };
        match self.marks.iter().find(is_open) {
            Some(mark) => Err(format!("position {} is settled and open", mark.position)),
            None => Ok(()),
        }
    }

    fn audit_skips(&self) -> Result<(), String> {
        let listed = |position: &u64, at: u64| self.skips_at.get(&at) == Some(position);
        let mut skips = self.skips.iter();
        let all =
            skips.all(|(position, s)| *position == s.mark.position && listed(position, s.mark.at));
        if !all || self.skips.len() != self.skips_at.len() {
            return Err("its skips are not listed as they lie".to_owned());
        }
        let sent = self.skips.values().filter(|skip| skip.sent.is_some());
        let sent = sent.count();
        if sent != self.sent {
            return Err(format!(
                "{sent} of its skips are sent, counted {}",
                self.sent
            ));
        }
        let mut passed = self.skips.range(..self.unsent_from);
        if passed.any(|(_, skip)| skip.sent.is_none()) {
            return Err("a skip that is not sent is passed over".to_owned());
        }
        Ok(())
    }
}
