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
    /// Recovery believes the last group without writing it again.
    SkipRewrite,
    /// Recovery writes the first group of a segment again without the header before it.
    RewriteWithoutHeader,
    /// Readers see a group before it is flushed.
    ShowBeforeSync,
    /// Puts may use the reserve.
    ReserveForPuts,
    /// What moves is not flushed before the place it came from is given up.
    CopyWithoutSync,
    /// A segment counts as sealed although nothing on disk says where it ends.
    SkipSeal,
    /// Recovery believes that what looks empty is empty on disk.
    SkipVoidAgain,
    /// A new segment is used before its name is on disk.
    SkipDirSync,
    /// Records are handed out without a look at their checksums.
    ServeUnchecked,
    /// A record is written before the file with its body is flushed.
    SkipBodySync,
    /// A record is written before the name of the file with its body is durable.
    SkipBodyName,
    /// A hint is believed although its hash is not what the seal says.
    TrustHints,
    /// A cold part of the index is believed whatever its hash.
    TrustPages,
    /// A segment that was begun is not listed.
    SkipListing,
    /// A segment is emptied before the list says so.
    EmptyBeforeListing,
    /// The list is not flushed before anything builds on it.
    SkipListingSync,
    /// The file with a body is removed before the removal of its record is durable.
    RemoveBodyFirst,
}

#[cfg(feature = "__breaks")]
impl Break {
    /// Every one of them.
    pub const ALL: &'static [Self] = &[
        Self::IgnoreBatchEnd,
        Self::ConstantSalt,
        Self::ReportBeforeSync,
        Self::IgnoreMarkDependencies,
        Self::ForgetReplaced,
        Self::SkipVoid,
        Self::AppendAfterTornTail,
        Self::SkipRewrite,
        Self::RewriteWithoutHeader,
        Self::ShowBeforeSync,
        Self::ReserveForPuts,
        Self::CopyWithoutSync,
        Self::SkipSeal,
        Self::SkipVoidAgain,
        Self::SkipDirSync,
        Self::ServeUnchecked,
        Self::SkipBodySync,
        Self::SkipBodyName,
        Self::TrustHints,
        Self::TrustPages,
        Self::SkipListing,
        Self::EmptyBeforeListing,
        Self::SkipListingSync,
        Self::RemoveBodyFirst,
    ];
}
