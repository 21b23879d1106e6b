//! Everything that can happen in the world at some time.

use super::*;

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a simulation may spend the memory"
)]
pub(super) enum What {
    Frames {
        to: End,
        link: u64,
        frames: Bytes,
    },
    LinkDown {
        end: End,
        text: &'static str,
    },
    LinkEnd {
        link: u64,
    },
    Dialled {
        node: usize,
        life: u64,
        dial: u64,
        address: String,
        expected: Option<QmId>,
        own: QmId,
    },
    /// An answer that takes a while.
    Later {
        node: usize,
        life: u64,
        input: Box<Input>,
    },
    /// A machine is copied, or what belongs to that.
    Clone(CloneStep),
    Commit {
        node: usize,
        life: u64,
    },
    Loaded {
        node: usize,
        life: u64,
        load: LoadId,
        records: Vec<StoredRecord>,
    },
    Tick {
        node: usize,
        life: u64,
    },
    Start {
        node: usize,
    },
    ToNode {
        conn: ConnId,
        frame: ClientFrame,
    },
    ToApplication {
        conn: ConnId,
        frame: NodeFrame,
    },
    Connect {
        who: Who,
    },
    Work {
        sender: usize,
    },
    /// An application goes on with its transactions.
    Trade {
        mover: usize,
    },
    /// A receiver asks again on the connection that it had.
    Ask {
        conn: ConnId,
        number: usize,
    },
    /// Both ends of a link heard nothing for too long.
    Silence {
        link: u64,
    },
    /// Nothing got through in one direction for too long.
    LongSilence {
        from: usize,
        to: usize,
    },
    BreakLink,
    Trouble,
    Mend(Mend),
    Stall,
    Partition,
    Move,
    /// A name leads to where its machine is.
    Rename {
        node: usize,
    },
    LosePower,
    Kill,
    Stop,
    BreakClient,
    CrashClient,
    FillDisk,
    EmptyDisk {
        node: usize,
    },
    FailDisk,
    SlowDisk,
    JumpClock,
    Squeeze,
    /// A machine has its memory again.
    Relax {
        node: usize,
    },
    Operate,
    /// A queue that was deleted is created again.
    Create {
        node: usize,
        queue: usize,
    },
    /// A queue could not be put right, because it was being deleted.
    Unpause {
        node: usize,
        queue: usize,
    },
    Approve {
        node: usize,
        peer: QmId,
    },
    Block,
    AskWhy,
    /// Operators drop dead letters that fill a small store.
    Tidy,
    Heal,
}

impl What {
    /// The same at a copy of a machine, for what was under way within it.
    pub(super) fn at_copy(&self, of: usize, at_life: u64, copy: usize) -> Option<Self> {
        let same = |node: &usize, life: &u64| *node == of && *life == at_life;
        let life = at_life;
        Some(match self {
            Self::Commit { node, life: l } if same(node, l) => Self::Commit { node: copy, life },
            Self::Tick { node, life: l } if same(node, l) => Self::Tick { node: copy, life },
            Self::Loaded {
                node,
                life: l,
                load,
                records,
            } if same(node, l) => Self::Loaded {
                node: copy,
                life,
                load: *load,
                records: records.clone(),
            },
            Self::Later {
                node,
                life: l,
                input,
            } if same(node, l) => Self::Later {
                node: copy,
                life,
                input: input.clone(),
            },
            Self::Dialled {
                node,
                life: l,
                dial,
                address,
                expected,
                own,
            } if same(node, l) => Self::Dialled {
                node: copy,
                life,
                dial: *dial,
                address: address.clone(),
                expected: *expected,
                own: *own,
            },
            _ => return None,
        })
    }

    /// Whether it happens while faults do, and not after.
    pub(super) const fn is_fault(&self) -> bool {
        matches!(
            self,
            Self::BreakLink
                | Self::Stall
                | Self::Partition
                | Self::Move
                | Self::LosePower
                | Self::Kill
                | Self::Stop
                | Self::BreakClient
                | Self::CrashClient
                | Self::FillDisk
                | Self::FailDisk
                | Self::SlowDisk
                | Self::JumpClock
                | Self::Squeeze
                | Self::Operate
                | Self::Block
        )
    }
}
