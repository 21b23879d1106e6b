//! Transactions of an application at its node: what ends one and how it ended.

use bytes::{BufMut, BytesMut};

use super::answer::{put_why, read_why};
use crate::codec::{DecodeError, Reader};
use crate::id::{Incarnation, MessageId};
use crate::outcome::Outcome;
use crate::text::Text;

/// Commit or abort a transaction (W-LOC-7, W-LOC-8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndTransaction {
    /// A client sequence as of a put, so that the answer can be asked for again.
    pub sequence: u64,
    /// The transaction, from 1.
    pub transaction: u64,
    /// Whether to commit it.
    pub commit: bool,
}

/// A transaction is ended, on disk when it was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionEnded {
    /// The client sequence of the request.
    pub sequence: u64,
    /// The transaction.
    pub transaction: u64,
    /// The id of the commit when all of it happened; otherwise nothing did. Its `n` messages have
    /// the `n` ids before, in the order of their puts.
    pub committed: Option<MessageId>,
    /// Whether this was said before.
    pub repeated: bool,
    /// Why it was aborted, if the application did not ask for that.
    pub outcome: Option<Outcome>,
    /// One sentence for people, empty when all went well.
    pub text: Text,
}

impl EndTransaction {
    pub(super) fn write(self, to: &mut BytesMut) {
        to.put_u64_le(self.sequence);
        to.put_u64_le(self.transaction);
        to.put_u8(u8::from(!self.commit));
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            sequence: r.ordinal("client sequence")?,
            transaction: r.ordinal("transaction")?,
            commit: !r.bool("verdict on a transaction")?,
        })
    }
}

impl TransactionEnded {
    pub(super) fn write(&self, to: &mut BytesMut) {
        to.put_u64_le(self.sequence);
        to.put_u64_le(self.transaction);
        to.put_u8(u8::from(self.committed.is_some()));
        if let Some(id) = self.committed {
            to.put_u64_le(id.incarnation.0);
            to.put_u64_le(id.sequence);
        }
        to.put_u8(u8::from(self.repeated));
        put_why(to, self.outcome, &self.text);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let sequence = r.ordinal("client sequence")?;
        let transaction = r.ordinal("transaction")?;
        let committed = if r.bool("committed flag")? {
            Some(MessageId {
                incarnation: Incarnation(r.u64("incarnation of the commit")?),
                sequence: r.u64("sequence of the commit")?,
            })
        } else {
            None
        };
        let repeated = r.bool("repeated flag")?;
        let (outcome, text) = read_why(r)?;
        // W-LOC-7.
        if let (Some(_), Some(outcome)) = (committed, outcome) {
            return Err(DecodeError::Invalid {
                what: "outcome of a committed transaction",
                value: u64::from(outcome.0),
            });
        }
        Ok(Self {
            sequence,
            transaction,
            committed,
            repeated,
            outcome,
            text,
        })
    }
}

impl TransactionEnded {
    /// The ids of the transaction's messages, in the order of their puts, when it was committed
    /// with so many; none when it was not.
    pub fn ids(&self, messages: usize) -> impl Iterator<Item = MessageId> + use<> {
        let messages = self.committed.map_or(0, |_| messages as u64);
        let commit = self.committed.unwrap_or(MessageId {
            incarnation: Incarnation(0),
            sequence: 0,
        });
        let first = commit.sequence.saturating_sub(messages);
        (first..commit.sequence).map(move |sequence| MessageId {
            incarnation: commit.incarnation,
            sequence,
        })
    }
}
