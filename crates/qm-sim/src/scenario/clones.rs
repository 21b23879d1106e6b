//! Worlds in which a machine is copied, put back from a backup, or only looks as if it were.

use qm_engine::{Entropy, SeededEntropy};

use super::Scenario;

/// What happens to the machine that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Case {
    /// The process is stopped or killed, its disk copied, and both run.
    StoppedDiskCopied,
    /// The disk of a running machine is copied at some step: what was flushed, and perhaps more.
    RunningDiskCopied,
    /// A running machine is copied with its memory; both go on.
    SnapshotResumedTwice,
    /// Two or three machines begin with the disk of one that was used, and that never runs again.
    GoldenImageUsed,
    /// Three machines run with one disk, two of them copies made at different times.
    ThreeCopies,
    /// The copies are seen at one address, behind address translation.
    BehindOneAddress,
    /// Until the faults end, the copy and the original never have a session with the same node.
    LateCommonPeer,
    /// A copy is made, and machines die again and again while one of them takes another identity.
    CrashWhileParting,
    /// Nobody takes another identity: every copy is set to tell its operator only.
    AlarmOnly,
    /// An older backup runs beside the machine that it was made of.
    BackupBesideTheOld,
    /// An older backup takes the place of its machine.
    BackupRestored,
    /// The machine to which others send is copied, and its name leads to one and then the other.
    ReceiverCopied,
    /// An older backup takes the place of a machine to which others send.
    ReceiverRestored,
    /// The disk of a machine to which others send is lost; the key is put back, nothing else.
    ReceiverDiskLost,
    /// The disk is put into another machine, and nothing else.
    DiskMoved,
    /// Addresses change again and again, and nothing else.
    AddressesMove,
    /// Links and processes end again and again, in the middle of handshakes, and nothing else.
    HandshakesCut,
    /// A node through which the copies hear of each other withholds, repeats and forges what they
    /// say.
    LyingRelay,
    /// Somebody without the key repeats to a machine, and to others, what was said before.
    StrangerWithoutKey,
    /// A running machine is copied with its memory, every queue is transactional, and the others
    /// are slow: what one machine sent is acknowledged to the other one, which has something else
    /// in the same place of the stream.
    MemoryCopiedInOrder,
    /// Messages have little time. They run out of it at one machine, whose destinations promise
    /// never to take them; these lose power; then a copy comes for whose clock there is time left.
    ExpiredAtOne,
}

/// Cases from which a seed draws, as it always did; those behind them it draws apart.
const FIRST: u64 = 19;

impl Case {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::StoppedDiskCopied,
        Self::RunningDiskCopied,
        Self::SnapshotResumedTwice,
        Self::GoldenImageUsed,
        Self::ThreeCopies,
        Self::BehindOneAddress,
        Self::LateCommonPeer,
        Self::CrashWhileParting,
        Self::AlarmOnly,
        Self::BackupBesideTheOld,
        Self::BackupRestored,
        Self::ReceiverCopied,
        Self::ReceiverRestored,
        Self::ReceiverDiskLost,
        Self::DiskMoved,
        Self::AddressesMove,
        Self::HandshakesCut,
        Self::LyingRelay,
        Self::StrangerWithoutKey,
        Self::MemoryCopiedInOrder,
        Self::ExpiredAtOne,
    ];

    /// How it is asked for.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::StoppedDiskCopied => "stopped-disk-copied",
            Self::RunningDiskCopied => "running-disk-copied",
            Self::SnapshotResumedTwice => "snapshot-resumed-twice",
            Self::GoldenImageUsed => "golden-image-used",
            Self::ThreeCopies => "three-copies",
            Self::BehindOneAddress => "behind-one-address",
            Self::LateCommonPeer => "late-common-peer",
            Self::CrashWhileParting => "crash-while-parting",
            Self::AlarmOnly => "alarm-only",
            Self::BackupBesideTheOld => "backup-beside-the-old",
            Self::BackupRestored => "backup-restored",
            Self::ReceiverCopied => "receiver-copied",
            Self::ReceiverRestored => "receiver-restored",
            Self::ReceiverDiskLost => "receiver-disk-lost",
            Self::DiskMoved => "disk-moved",
            Self::AddressesMove => "addresses-move",
            Self::HandshakesCut => "handshakes-cut",
            Self::LyingRelay => "lying-relay",
            Self::StrangerWithoutKey => "stranger-without-key",
            Self::MemoryCopiedInOrder => "memory-copied-in-order",
            Self::ExpiredAtOne => "expired-at-one",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|case| case.name() == name)
    }

    /// Whether several live machines have one identity at some time.
    #[must_use]
    pub const fn makes_twins(self) -> bool {
        !matches!(
            self,
            Self::BackupRestored
                | Self::ReceiverRestored
                | Self::ReceiverDiskLost
                | Self::DiskMoved
                | Self::AddressesMove
                | Self::HandshakesCut
                | Self::StrangerWithoutKey
        )
    }

    /// Whether the machine is copied with its memory.
    #[must_use]
    pub const fn copies_memory(self) -> bool {
        matches!(self, Self::SnapshotResumedTwice | Self::MemoryCopiedInOrder)
    }

    /// Whether others send to the machine, whatever the seed: the case is about that.
    #[must_use]
    pub const fn receives(self) -> bool {
        matches!(
            self,
            Self::ReceiverCopied
                | Self::ReceiverRestored
                | Self::ReceiverDiskLost
                | Self::DiskMoved
                | Self::AddressesMove
                | Self::HandshakesCut
                | Self::StrangerWithoutKey
        )
    }
}

/// What distinguishes a world with copies from others.
#[derive(Clone, Debug)]
pub struct Clones {
    /// What happens.
    pub case: Case,
    /// To which machine.
    pub victim: usize,
    /// When, milliseconds; a backup is made earlier, at half of it.
    pub at_ms: u64,
    /// Machines that are made of it.
    pub copies: usize,
    /// Whether a copy is on other hardware than its original, as far as the operating system
    /// tells.
    pub other_hardware: bool,
    /// Whether others send to the machine. To an identity that several machines have, messages
    /// reach one of them, and nobody promises which: where nobody sends to it, the rules need no
    /// exemption.
    pub receives: bool,
    /// Whether much is sent, the disks of the others are slow from then on, and the copy dials at
    /// once: they acknowledge what one machine sent after the other one with its life has taken its
    /// session.
    pub slow_others: bool,
    /// Whether nobody receives at the machine and its copies until the faults end: what they hold
    /// in common still waits when one takes another identity.
    pub nobody_receives: bool,
}

impl Scenario {
    /// A world in which a machine is copied in the way named, or in one drawn from the seed. The
    /// faults are those of other worlds, without operators who purge, delete or block, and without
    /// messages that run out of time: what is missing here has no excuse.
    #[must_use]
    pub fn clones_from_seed(seed: u64, case: Option<Case>) -> Self {
        let world = Self::from_seed(seed);
        let mut random = SeededEntropy::new(seed ^ 0x0063_6f70_6965);
        let mut draw = |of: u64| random.next_u64() % of.max(1);
        let few = |value: u64| usize::try_from(value).unwrap_or(0);
        let drawn = Case::ALL[few(draw(FIRST))];
        // Drawn apart, so that the other seeds are what they were.
        let apart = SeededEntropy::new(seed ^ 0x6f72_6465_7273).next_u64() % 12;
        let drawn = match apart {
            0 => Case::MemoryCopiedInOrder,
            1 => Case::ExpiredAtOne,
            _ => drawn,
        };
        let case = case.unwrap_or(drawn);
        let nodes = 3;
        let fault_ms = 4_000 + draw(12_000);
        let two_or_three = 1 + few(draw(2));
        let clones = Clones {
            case,
            victim: few(draw(nodes)),
            at_ms: fault_ms / 10 + draw(fault_ms * 6 / 10),
            copies: match case {
                Case::ThreeCopies => 2,
                Case::GoldenImageUsed => 1 + two_or_three,
                Case::LyingRelay | Case::BehindOneAddress => two_or_three,
                _ if case.makes_twins() => 1,
                _ => 0,
            },
            other_hardware: draw(2) == 0,
            receives: case.receives()
                || case.makes_twins()
                    && case != Case::ExpiredAtOne
                    && SeededEntropy::new(seed ^ 0x746f_7761_7264)
                        .next_u64()
                        .is_multiple_of(2),
            slow_others: false,
            nobody_receives: case.makes_twins()
                && case != Case::ExpiredAtOne
                && SeededEntropy::new(seed ^ 0x0070_6174_6965_6e74)
                    .next_u64()
                    .is_multiple_of(8),
        };
        let mut clones = clones;
        clones.slow_others = case == Case::MemoryCopiedInOrder
            || case == Case::SnapshotResumedTwice
                && SeededEntropy::new(seed ^ 0x736c_6f77)
                    .next_u64()
                    .is_multiple_of(2);
        let queues = 1 + few(draw(2));
        let mut scenario = Self {
            nodes: few(nodes),
            queues,
            transactional_queues: few(draw(1 + queues as u64)),
            messages: 5 + draw(30),
            senders: 1 + few(draw(2)),
            fault_ms,
            client_crash_every_ms: 0,
            disk_full_every_ms: 0,
            squeeze_every_ms: 0,
            operator_every_ms: 0,
            block_every_ms: 0,
            lost_buffers_per_mille: 0,
            repeated_buffers_per_mille: 0,
            hasty_per_mille: 0,
            misaddressed_per_mille: 0,
            oversized_per_mille: 0,
            careless_per_mille: 0,
            give_back_per_mille: 0,
            wishes_per_mille: 0,
            journal_per_mille: 0,
            nat: false,
            quota_messages: u64::MAX,
            express_bytes_max: 64 << 20,
            store_bytes_max: 64 << 30,
            dedup_capacity: 10_000,
            segment_bytes: 1 << 20,
            ..world
        };
        match case {
            Case::AddressesMove => scenario.move_every_ms = 100 + draw(900),
            Case::HandshakesCut => {
                scenario.link_break_every_ms = 20 + draw(300);
                scenario.sudden_death = 50 + draw(300);
            }
            Case::CrashWhileParting => {
                scenario.sudden_death = 100 + draw(400);
                scenario.kill_every_ms = 200 + draw(800);
            }
            _ => {}
        }
        if clones.slow_others {
            let in_order = case == Case::MemoryCopiedInOrder;
            scenario.transactional_queues = if in_order { queues } else { 0 };
            scenario.messages *= 3;
        }
        if case == Case::ExpiredAtOne {
            clones.at_ms = 2_000 + draw(2_000);
            scenario.fault_ms = clones.at_ms + 20_000;
            scenario.run_out_of_time(40 + draw(40));
        }
        scenario.clones = Some(clones);
        scenario
    }

    /// So many messages with little time, and nothing else goes wrong: whatever else ended the
    /// machine would take the messages that run out of it.
    const fn run_out_of_time(&mut self, messages: u64) {
        self.messages = messages;
        self.transactional_queues = 0;
        self.express_per_mille = 0;
        self.hasty_per_mille = 1_000;
        self.delay_max_us = 200_000;
        self.link_break_every_ms = 0;
        self.stall_every_ms = 0;
        self.partition_every_ms = 0;
        self.move_every_ms = 0;
        self.power_loss_every_ms = 0;
        self.kill_every_ms = 0;
        self.stop_every_ms = 0;
        self.sudden_death = 0;
        self.client_break_every_ms = 0;
        self.disk_failure_every_ms = 0;
        self.slow_disk_every_ms = 0;
        self.clock_jump_every_ms = 0;
    }

    /// The first machine of a machine's family: all copies are of one.
    pub(crate) fn family(&self, node: usize) -> usize {
        match &self.clones {
            Some(clones) if node >= self.nodes => clones.victim,
            _ => node,
        }
    }

    /// Whether nobody sends to this machine.
    pub(crate) fn is_avoided(&self, node: usize) -> bool {
        let clones = self.clones.as_ref();
        clones.is_some_and(|clones| clones.victim == node && !clones.receives)
    }
}
