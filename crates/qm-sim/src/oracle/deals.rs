//! Transactions of applications (rule 13): what they took and put happens together or not at all,
//! and the tokens they move are neither lost nor doubled.
//!
//! A transaction has happened as soon as its node says so, or as soon as one of its messages is
//! seen in a queue: an application that lost the answer may never hear of it.

use std::collections::{BTreeMap, BTreeSet};

use qm_wire::{MessageId, QmId};

use super::{Fate, Oracle, Put};

/// A thing of which there is one: it lies in one queue, or is in the hands of one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token {
    /// The application that brought it into the world.
    pub application: u32,
    /// Its number there, from 1.
    pub number: u64,
}

impl Token {
    /// A body that carries it under the name of this put.
    #[must_use]
    pub fn to_body(self, put: Put) -> Vec<u8> {
        let mut body = put.to_body(0);
        body.extend_from_slice(format!("token {} {}", self.application, self.number).as_bytes());
        body
    }

    /// The token that a body carries.
    #[must_use]
    pub fn from_body(body: &[u8]) -> Option<Self> {
        let text = core::str::from_utf8(body).ok()?;
        let mut words = text.split(' ').skip(1);
        if words.next()? != "token" {
            return None;
        }
        Some(Self {
            application: words.next()?.parse().ok()?,
            number: words.next()?.parse().ok()?,
        })
    }
}

/// What is known of one transaction.
#[derive(Clone, Debug, Default)]
struct Deal {
    /// What it took, and which token that was.
    taken: Vec<(Put, Token)>,
    puts: Vec<(Put, Token)>,
    /// Whether its commit was asked for.
    asked: bool,
    /// What its application was told.
    told: Option<bool>,
    /// Whether a message of it was seen in a queue, or died on its way.
    seen: bool,
    /// Whether what it took is entered as consumed.
    entered: bool,
}

/// How a message of a transaction ended.
enum End {
    /// Another transaction took it.
    Taken,
    /// It is a dead letter.
    Dead,
}

impl Deal {
    const fn happened(&self) -> bool {
        self.seen || matches!(self.told, Some(true))
    }
}

/// The books of transactions.
#[derive(Clone, Debug, Default)]
pub(super) struct Deals {
    deals: Vec<Deal>,
    /// Which transaction a message is of.
    of: BTreeMap<Put, usize>,
    /// Tokens that left the world, and how often they did.
    retired: BTreeMap<Token, u64>,
    committed: u64,
    aborted: u64,
    /// Tokens that a transaction took from one queue and put into another.
    moved: u64,
}

impl Oracle {
    /// An application begins a transaction: its number.
    pub fn deal_begins(&mut self) -> usize {
        self.deals.deals.push(Deal::default());
        self.deals.deals.len() - 1
    }

    /// A transaction puts a token.
    pub fn deal_puts(&mut self, deal: usize, put: Put, token: Token, fate: Fate) {
        self.fates.insert(put, fate);
        self.deals.of.insert(put, deal);
        self.deals.deals[deal].puts.push((put, token));
    }

    /// A transaction got a token into its hands.
    pub fn deal_takes(&mut self, deal: usize, put: Put, token: Token) {
        self.deals.deals[deal].taken.push((put, token));
    }

    /// The wish to commit reached the node.
    pub fn deal_asked(&mut self, deal: usize) {
        self.deals.deals[deal].asked = true;
    }

    /// Its application is told that it happened.
    ///
    /// # Errors
    /// Rules 1, 4 and 13.
    pub fn deal_committed(
        &mut self,
        deal: usize,
        node: usize,
        source: QmId,
        ids: impl Iterator<Item = MessageId>,
    ) -> Result<(), String> {
        self.deals.committed += 1;
        let book = &mut self.deals.deals[deal];
        if !book.asked {
            return Err(format!(
                "rule 13: transaction {deal} was committed and nobody asked for it"
            ));
        }
        book.told = Some(true);
        let puts = book.puts.clone();
        for ((put, _), id) in puts.iter().zip(ids) {
            self.accepted(*put, node, source, id)?;
        }
        self.deal_happened(deal)
    }

    /// Its application is told that nothing of it happened, or knows that it never asked.
    ///
    /// # Errors
    /// Rule 13.
    pub fn deal_aborted(&mut self, deal: usize) -> Result<(), String> {
        self.deals.aborted += 1;
        let book = &mut self.deals.deals[deal];
        book.told = Some(false);
        if book.seen {
            return Err(format!(
                "rule 13: transaction {deal} was aborted and happened: {book:?}"
            ));
        }
        Ok(())
    }

    /// Its application lost the connection before it asked for the end: nothing of it can happen.
    pub fn deal_dropped(&mut self, deal: usize) {
        self.deals.aborted += 1;
        self.deals.deals[deal].told = Some(false);
    }

    /// A message of an application is seen outside of its transaction: in a queue, or dead.
    ///
    /// # Errors
    /// Rule 13.
    pub(super) fn deal_seen(&mut self, put: Put) -> Result<(), String> {
        let Some(deal) = self.deals.of.get(&put).copied() else {
            return Ok(());
        };
        self.deal_stored(put)?;
        let book = &mut self.deals.deals[deal];
        if book.told == Some(false) {
            return Err(format!(
                "rule 13: {put:?} is of transaction {deal}, which was aborted: {book:?}"
            ));
        }
        if core::mem::replace(&mut book.seen, true) {
            return Ok(());
        }
        self.deal_happened(deal)
    }

    /// A message of an application is on the disk of its node, where it may still be undone.
    ///
    /// # Errors
    /// Rule 13.
    pub fn deal_stored(&self, put: Put) -> Result<(), String> {
        match self
            .deals
            .of
            .get(&put)
            .map(|deal| (deal, &self.deals.deals[*deal]))
        {
            Some((deal, book)) if !book.asked => Err(format!(
                "rule 13: {put:?} is seen before transaction {deal} was committed"
            )),
            _ => Ok(()),
        }
    }

    /// What it took is gone, whoever hears of it.
    fn deal_happened(&mut self, deal: usize) -> Result<(), String> {
        let book = &mut self.deals.deals[deal];
        if core::mem::replace(&mut book.entered, true) {
            return Ok(());
        }
        let (taken, puts) = (book.taken.clone(), !book.puts.is_empty());
        for (put, token) in taken {
            if let Some(fate) = self.fates.get_mut(&put) {
                fate.done = true;
            }
            self.consumed(put)?;
            if puts {
                self.deals.moved += 1;
            } else {
                *self.deals.retired.entry(token).or_insert(0) += 1;
            }
        }
        Ok(())
    }

    /// Messages of transactions that happened, which are neither consumed nor dead.
    pub(super) fn open_deals(&self) -> usize {
        let happened = self.deals.deals.iter().filter(|book| book.happened());
        let puts = happened.flat_map(|book| &book.puts);
        puts.filter(|(put, _)| self.end_of(*put).is_none()).count()
    }

    /// How a message of a transaction ended.
    fn end_of(&self, put: Put) -> Option<End> {
        let fate = self.fates.get(&put)?;
        let dead = fate.dead.is_some() && !fate.dead_doubtful;
        match (fate.consumed > 0, dead) {
            (true, _) => Some(End::Taken),
            (false, true) => Some(End::Dead),
            (false, false) => None,
        }
    }

    /// At the end: every token that came into the world left it once, or is a dead letter.
    ///
    /// # Errors
    /// Rule 13.
    pub(super) fn finish_deals(&self) -> Result<(), String> {
        let mut minted = BTreeSet::new();
        let mut dead: BTreeMap<Token, u64> = BTreeMap::new();
        for (number, book) in self.deals.deals.iter().enumerate() {
            for (put, token) in &book.puts {
                match self.end_of(*put) {
                    Some(End::Dead) => *dead.entry(*token).or_insert(0) += 1,
                    None if book.happened() => {
                        return Err(format!(
                            "rule 13: of transaction {number} only a part happened, not {put:?}: {book:?}"
                        ));
                    }
                    Some(End::Taken) | None => {}
                }
            }
            if book.happened() && book.taken.is_empty() {
                minted.extend(book.puts.iter().map(|(_, token)| *token));
            }
        }
        for token in &minted {
            let retired = self.deals.retired.get(token).copied().unwrap_or(0);
            let dead = dead.get(token).copied().unwrap_or(0);
            if retired + dead != 1 {
                return Err(format!(
                    "rule 13: {token:?} left the world {retired} times and is dead {dead} times"
                ));
            }
        }
        let retired = &mut self.deals.retired.keys();
        match retired.find(|token| !minted.contains(token)) {
            Some(token) => Err(format!(
                "rule 13: {token:?} was never brought into the world"
            )),
            None => Ok(()),
        }
    }

    /// Transactions that were committed, aborted, and of which their applications never heard; and
    /// tokens moved.
    #[must_use]
    pub fn deal_counts(&self) -> [u64; 4] {
        let deals = &self.deals;
        let unknown = deals
            .deals
            .iter()
            .filter(|book| book.told.is_none())
            .count();
        [deals.committed, deals.aborted, unknown as u64, deals.moved]
    }
}
