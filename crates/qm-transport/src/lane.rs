//! Lanes: the few long-lived streams of a link.

/// One ordered stream of frames on a link; each direction of a link has its own set.
///
/// Lanes do not wait for each other: a lost packet holds back only the lanes whose bytes it
/// carried. When a link is short of bandwidth [`Control`](Self::Control) goes first, then
/// [`Ack`](Self::Ack), then the priorities from 7 down to 0, then [`Bulk`](Self::Bulk).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Handshake, credit, goodbye: what steers the session.
    Control,
    /// Acknowledgements.
    Ack,
    /// Messages of one priority, 0 (lowest) to 7 (highest); a larger number counts as 7.
    Priority(u8),
    /// Large messages, which must not delay small ones of the same priority.
    Bulk,
}

/// Lanes per direction of a link.
pub(crate) const LANES: usize = 11;

impl Lane {
    /// Position in tables, and the preamble byte of the lane's stream.
    pub(crate) fn index(self) -> u8 {
        match self {
            Self::Control => 0,
            Self::Ack => 1,
            Self::Bulk => 2,
            Self::Priority(priority) => 3 + priority.min(7),
        }
    }

    /// The lane announced by a preamble byte.
    pub(crate) fn from_index(index: u8) -> Option<Self> {
        match index {
            0 => Some(Self::Control),
            1 => Some(Self::Ack),
            2 => Some(Self::Bulk),
            3..=10 => Some(Self::Priority(index - 3)),
            _ => None,
        }
    }

    /// Priority among the streams of one connection, larger first.
    pub(crate) fn stream_priority(self) -> i32 {
        match self {
            Self::Control => 20,
            Self::Ack => 19,
            Self::Priority(priority) => 1 + i32::from(priority.min(7)),
            Self::Bulk => 0,
        }
    }

    /// Whether the lane steers the session, and so must flow while messages are held back.
    pub(crate) fn is_steering(self) -> bool {
        matches!(self, Self::Control | Self::Ack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_names_one_lane() {
        for index in 0..11 {
            assert_eq!(Lane::from_index(index).unwrap().index(), index);
        }
        assert_eq!(Lane::from_index(11), None);
        assert_eq!(Lane::Priority(200).index(), Lane::Priority(7).index());
        assert!(Lane::Control.stream_priority() > Lane::Priority(7).stream_priority());
        assert!(Lane::Priority(0).stream_priority() > Lane::Bulk.stream_priority());
    }
}
