//! Small closed vocabularies of a message: delivery class, priority, flags and wishes (W-ENV-3).

use crate::codec::DecodeError;

/// Delivery class: what *accepted* and *delivered* promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// In memory at both ends: survives a lost link, not a crash of the node that holds it.
    Express,
    /// On disk at both ends before it is accepted and before it is acknowledged.
    Recoverable,
    /// Recoverable, exactly once and in order per sender and destination queue.
    Transactional,
}

impl Class {
    /// The byte that travels.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Express => 0,
            Self::Recoverable => 1,
            Self::Transactional => 2,
        }
    }

    /// The class of a byte.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for any other byte.
    pub const fn from_code(code: u8) -> Result<Self, DecodeError> {
        match code {
            0 => Ok(Self::Express),
            1 => Ok(Self::Recoverable),
            2 => Ok(Self::Transactional),
            _ => Err(DecodeError::Invalid {
                what: "delivery class",
                value: code as u64,
            }),
        }
    }

    /// The word used in commands and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Express => "express",
            Self::Recoverable => "recoverable",
            Self::Transactional => "transactional",
        }
    }

    /// The class of a word.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Express, Self::Recoverable, Self::Transactional]
            .into_iter()
            .find(|class| class.name() == name)
    }

    /// Whether an ack may leave only after the message is on disk.
    #[must_use]
    pub const fn is_durable(self) -> bool {
        !matches!(self, Self::Express)
    }
}

/// Priority 0 (lowest) to 7; 3 unless said otherwise, 0 for transactional messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(u8);

impl Priority {
    /// The default, 3.
    pub const DEFAULT: Self = Self(3);
    /// The lowest, 0: also what transactional messages carry.
    pub const LOWEST: Self = Self(0);
    /// How many there are.
    pub const COUNT: usize = 8;

    /// A priority from 0 to 7.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] above 7.
    pub const fn new(priority: u8) -> Result<Self, DecodeError> {
        if priority < 8 {
            Ok(Self(priority))
        } else {
            Err(DecodeError::Invalid {
                what: "priority",
                value: priority as u64,
            })
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self::DEFAULT
    }
}

macro_rules! bit_set {
    (
        $(#[$meta:meta])* $name:ident, $what:literal,
        { $($(#[$doc:meta])* $flag:ident = $bit:literal,)* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $name(u8);

        impl $name {
            /// No bit set.
            pub const NONE: Self = Self(0);
            $($(#[$doc])* pub const $flag: Self = Self($bit);)*
            const KNOWN: u8 = 0 $(| $bit)*;

            /// The set with these bits.
            ///
            /// # Errors
            /// [`DecodeError::Invalid`] when a bit is not defined.
            pub const fn from_bits(bits: u8) -> Result<Self, DecodeError> {
                if bits & !Self::KNOWN == 0 {
                    Ok(Self(bits))
                } else {
                    Err(DecodeError::Invalid { what: $what, value: bits as u64 })
                }
            }

            /// The byte that travels.
            #[must_use]
            pub const fn bits(self) -> u8 {
                self.0
            }

            /// Whether every bit of `other` is set.
            #[must_use]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Both sets together.
            #[must_use]
            pub const fn with(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }
    };
}
pub(crate) use bit_set;

bit_set! {
    /// Wishes of the sender that concern its own node and the destination's.
    MessageFlags, "message flags", {
        /// Keep an undeliverable message in the dead-letter queue (the default).
        DEAD_LETTER = 1,
        /// Keep a copy in the sender's journal queue.
        JOURNAL = 2,
        /// Be rejected by a full queue instead of waiting.
        FAIL_WHEN_FULL = 4,
    }
}

bit_set! {
    /// Which administration messages the sender wants, with MSMQ's values
    /// (MS-MQMQ, `PROPID_M_ACKNOWLEDGE`).
    AckWishes, "ack wishes", {
        /// The message reached its queue.
        POSITIVE_ARRIVAL = 1,
        /// An application received it.
        POSITIVE_RECEIVE = 2,
        /// It did not reach its queue.
        NEGATIVE_ARRIVAL = 4,
        /// It was not received.
        NEGATIVE_RECEIVE = 8,
    }
}
