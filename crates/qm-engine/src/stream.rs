//! The transactional class between nodes: exactly once, in order, per sender and destination queue.
//!
//! A sender's messages for one queue form a chain of links (SPEC.md, section 7). Whether a receiver
//! takes a message is decided by the link before it, never by a number, so neither clones nor
//! restored backups of either end can make it take a message twice or swallow a new one.
//!
//! * [`chain`] is the sender's side of one stream: which place each message has, and what an
//!   answer settles. Places are **derived**: a message's position and link follow from the order
//!   of the outgoing queue on disk and from marks that are written in the commit which removes
//!   what was settled. So the commit of a message is the commit of its place, and every copy of a
//!   store derives the same links.
//! * [`branches`] is the receiver's side of one stream: the links it took, as delivered or as
//!   skips, which of them are on disk, and what to do with a message.
//! * `sending` and `receiving` are how the engine uses them, `record` how they lie in the store,
//!   `operator` what operators see and decide.
//!
//! The first two know no engine, no clock and no disk; the model in `tests/streams` explores them
//! with crashes, loss, duplicates, restored backups, expiry and refusals.

pub mod branches;
pub mod chain;
pub(crate) mod operator;
pub(crate) mod receiving;
pub(crate) mod record;
pub(crate) mod recovery;
pub(crate) mod sending;
mod settling;
pub(crate) mod standing;
