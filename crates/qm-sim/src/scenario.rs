//! What a run consists of, drawn from its seed.

use qm_engine::{Breaks, Entropy, SeededEntropy};

use crate::quic::Packets;

/// Everything that distinguishes one run from another.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The seed of all randomness in the run.
    pub seed: u64,
    /// Machines.
    pub nodes: usize,
    /// Messages each application sends.
    pub messages: u64,
    /// Applications that send, per machine.
    pub senders: usize,
    /// Virtual time during which faults happen, milliseconds.
    pub fault_ms: u64,
    /// Mean time between two broken links, milliseconds; 0 for never.
    pub link_break_ms: u64,
    /// Mean time between two machines losing power, milliseconds; 0 for never.
    pub power_loss_ms: u64,
    /// Mean time between two killed processes, milliseconds; 0 for never. The disk keeps
    /// everything.
    pub kill_ms: u64,
    /// Mean time between two applications that lose their connection, milliseconds; 0 for never.
    pub client_break_ms: u64,
    /// Mean time between two disks that fill up for a while, milliseconds; 0 for never.
    pub disk_full_ms: u64,
    /// Mean time between two jumps of a wall clock, milliseconds; 0 for never.
    pub clock_jump_ms: u64,
    /// Of a thousand buffers under way this many are lost on a link that lives on.
    pub lost_buffers_per_mille: u64,
    /// Longest delay of a buffer, microseconds.
    pub delay_max_us: u64,
    /// Longest time of a commit, microseconds.
    pub commit_max_us: u64,
    /// Of a thousand messages this many are express.
    pub express_per_mille: u64,
    /// Of a thousand messages this many are given back by their receiver once.
    pub give_back_per_mille: u64,
    /// Whether priorities vary.
    pub priorities: bool,
    /// Whether the last machine cannot be dialled and holds connections of its own.
    pub nat: bool,
    /// Messages in flight towards a machine.
    pub window_messages: u64,
    /// Quota of each queue in messages.
    pub quota_messages: u64,
    /// Bytes of waiting messages that a machine keeps in memory.
    pub resident_bytes_max: usize,
    /// Longest body of a message.
    pub body_bytes_max: u64,
    /// Segments of the store; with small ones the log soon forgets consumed messages, and a
    /// machine that died may take a message twice whose sender died too.
    pub segment_bytes: u32,
    /// How datagrams fare, when links are QUIC's; `None` for links that only keep their order.
    pub packets: Option<Packets>,
    /// Rules that are switched off, to see that the oracle notices.
    pub breaks: Breaks,
}

impl Scenario {
    /// The scenario of a seed: each fault is switched on in some seeds only, so that rare
    /// combinations are reached and a failure's cause is easier to see.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut random = SeededEntropy::new(seed ^ 0x5ce4_a110);
        let mut draw = |low: u64, high: u64| low + random.next_u64() % (high - low + 1);
        let nodes = usize::try_from(draw(2, 4)).unwrap_or(2);
        let mut some = |low: u64, high: u64| if draw(0, 2) == 0 { 0 } else { draw(low, high) };
        let link_break_ms = some(50, 4_000);
        let power_loss_ms = some(300, 8_000);
        let kill_ms = some(300, 8_000);
        let client_break_ms = some(100, 4_000);
        let disk_full_ms = some(1_000, 8_000);
        let clock_jump_ms = some(500, 8_000);
        let lost_buffers_per_mille = some(1, 60);
        Self {
            seed,
            nodes,
            messages: draw(20, 150),
            senders: usize::try_from(draw(1, 3)).unwrap_or(1),
            fault_ms: draw(2_000, 20_000),
            link_break_ms,
            power_loss_ms,
            kill_ms,
            client_break_ms,
            disk_full_ms,
            clock_jump_ms,
            lost_buffers_per_mille,
            delay_max_us: draw(50, 200_000),
            commit_max_us: draw(50, 60_000),
            express_per_mille: [0, 300, 1_000][usize::try_from(draw(0, 2)).unwrap_or(0)],
            give_back_per_mille: [0, 100][usize::try_from(draw(0, 1)).unwrap_or(0)],
            priorities: draw(0, 1) == 1,
            nat: draw(0, 3) == 0,
            window_messages: [1, 4, 64, 4_096][usize::try_from(draw(0, 3)).unwrap_or(3)],
            quota_messages: if draw(0, 3) == 0 {
                draw(5, 50)
            } else {
                u64::MAX
            },
            resident_bytes_max: if draw(0, 1) == 0 { 2_000 } else { 1 << 20 },
            body_bytes_max: [16, 3_000][usize::try_from(draw(0, 1)).unwrap_or(0)],
            segment_bytes: if draw(0, 1) == 0 { 192 << 10 } else { 8 << 20 },
            packets: None,
            breaks: Breaks::default(),
        }
    }

    /// The same world with QUIC between its machines, on a network with troubles of its own.
    #[must_use]
    pub fn quinn_from_seed(seed: u64) -> Self {
        let world = Self::from_seed(seed);
        // Messages of many datagrams, where a segment has room for many messages.
        let large = world.segment_bytes > 1 << 20 && seed.is_multiple_of(3);
        Self {
            packets: Some(Packets::from_seed(seed)),
            // QUIC loses nothing on a link that lives on.
            lost_buffers_per_mille: 0,
            body_bytes_max: if large { 60_000 } else { world.body_bytes_max },
            ..world
        }
    }
}
