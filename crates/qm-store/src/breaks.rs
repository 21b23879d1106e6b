//! Faults that can be built in, so that tests can show that they would notice.

/// A rule of the log to break. Only for tests of the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// Recovery takes records without waiting for the end of their batch.
    IgnoreBatchEnd,
    /// Every segment has the same salt.
    ConstantSalt,
    /// Commits are reported before they are flushed.
    ReportBeforeSync,
    /// A segment is reused although records its marks removed are still on disk.
    IgnoreMarkDependencies,
    /// What a reused segment had replaced is forgotten by those that replaced its own records.
    ForgetReplaced,
    /// A segment counts as empty although its header still stands.
    SkipVoid,
    /// Writing goes on behind an unfinished write.
    AppendAfterTornTail,
}
