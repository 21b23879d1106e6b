//! What a run consists of, drawn from its seed.

mod clones;
mod streams;

use qm_engine::{Breaks, Entropy, SeededEntropy};

use crate::quic::Packets;

pub use clones::{Case, Clones};

/// Everything that distinguishes one run from another.
///
/// Fields that end in `_every_ms` are mean times between two faults of a kind; 0 is never.
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
    /// Queues of each machine, each with an application that consumes it.
    pub queues: usize,
    /// Virtual time during which faults happen, milliseconds.
    pub fault_ms: u64,
    /// Links that break; their ends may notice at different times.
    pub link_break_every_ms: u64,
    /// Links over which one side reads nothing for a while.
    pub stall_every_ms: u64,
    /// Machines between which nothing, or nothing in one direction, gets through for a while.
    pub partition_every_ms: u64,
    /// Machines that get another address; links may live on, names and books are wrong for a
    /// while, and somebody else may answer at the old address.
    pub move_every_ms: u64,
    /// Machines that lose power, at once or at one of the next operations of the disk.
    pub power_loss_every_ms: u64,
    /// Killed processes; the disk keeps everything.
    pub kill_every_ms: u64,
    /// Processes that are told to stop, as for an upgrade.
    pub stop_every_ms: u64,
    /// Processes that die between two effects of the engine, out of a hundred thousand effects.
    pub sudden_death: u64,
    /// Applications that lose their connection.
    pub client_break_every_ms: u64,
    /// Applications that lose their memory, too, and repeat what has a key.
    pub client_crash_every_ms: u64,
    /// Disks that are full for a while.
    pub disk_full_every_ms: u64,
    /// Disks that fail at one operation; the process starts anew.
    pub disk_failure_every_ms: u64,
    /// Disks that take up to a second for a commit, for a while.
    pub slow_disk_every_ms: u64,
    /// Wall clocks that jump by up to sixty years.
    pub clock_jump_every_ms: u64,
    /// Machines that have less memory for a while: their process ends for want of it, or is told
    /// to stop, and those after it are given less.
    pub squeeze_every_ms: u64,
    /// Operators that pause, purge, delete and create queues.
    pub operator_every_ms: u64,
    /// Operators that block a peer for a while.
    pub block_every_ms: u64,
    /// Of a thousand buffers under way this many are lost on a link that lives on, which QUIC
    /// never does.
    pub lost_buffers_per_mille: u64,
    /// Of a thousand buffers with answers and acks this many arrive twice, which QUIC never does.
    pub repeated_buffers_per_mille: u64,
    /// Longest delay of a buffer, microseconds.
    pub delay_max_us: u64,
    /// Longest time of a commit, microseconds.
    pub commit_max_us: u64,
    /// Of a thousand messages this many are express.
    pub express_per_mille: u64,
    /// Of a thousand messages this many are given back by their receiver once.
    pub give_back_per_mille: u64,
    /// Of a thousand messages this many have little time to reach their queue or to be received.
    pub hasty_per_mille: u64,
    /// Of a thousand messages this many are for a queue that does not exist.
    pub misaddressed_per_mille: u64,
    /// Of a thousand messages this many are larger than their destination allows.
    pub oversized_per_mille: u64,
    /// Of a thousand messages this many wish no dead letter.
    pub careless_per_mille: u64,
    /// Of a thousand messages this many have a key by which they are repeated.
    pub keyed_per_mille: u64,
    /// So many queues of each machine, the last ones, are transactional.
    pub transactional_queues: usize,
    /// Of a thousand messages this many are of the wrong class for their queue.
    pub mistyped_per_mille: u64,
    /// Applications of each machine that move tokens between queues of all machines in
    /// transactions.
    pub movers: usize,
    /// Tokens that each of them brings into the world.
    pub tokens: u64,
    /// Of a thousand messages this many wish that their application hears how they end: in a queue
    /// of reports, or by following them until they are received.
    pub wishes_per_mille: u64,
    /// Of a thousand messages this many wish a copy when they have left.
    pub journal_per_mille: u64,
    /// Whether priorities vary.
    pub priorities: bool,
    /// Whether the last machine cannot be dialled and holds connections of its own.
    pub nat: bool,
    /// Whether strangers wait for an operator's approval.
    pub approval: bool,
    /// Messages in flight towards a machine.
    pub window_messages: u64,
    /// Quota of each queue in messages.
    pub quota_messages: u64,
    /// Bytes of waiting durable messages that a machine keeps in memory.
    pub resident_bytes_max: usize,
    /// Bytes of waiting express messages that a machine holds.
    pub express_bytes_max: usize,
    /// Bytes of messages that a machine stores.
    pub store_bytes_max: u64,
    /// Entries of the duplicate cache; 0 turns it off.
    pub dedup_capacity: usize,
    /// Life of an ack route.
    pub ack_route_lifetime_ms: u64,
    /// Longest body of a message that is not oversized.
    pub body_bytes_max: u64,
    /// Segments of the store; with small ones the log soon forgets consumed messages, and a
    /// machine that died may take a message twice whose sender died too.
    pub segment_bytes: u32,
    /// How datagrams fare, when links are QUIC's; `None` for links that only keep their order.
    pub packets: Option<Packets>,
    /// What is copied, or put back from a backup.
    pub clones: Option<Clones>,
    /// Rules that are switched off, to see that the oracle notices.
    pub breaks: Breaks,
}

/// One thing that can be taken out of a scenario to make it simpler.
pub(crate) type Simpler = (&'static str, fn(&mut Scenario));

impl Scenario {
    /// The scenario of a seed: each fault is switched on in some seeds only, so that rare
    /// combinations are reached and a failure's cause is easier to see.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut random = SeededEntropy::new(seed ^ 0x5ce4_a110);
        let mut draw = |low: u64, high: u64| low + random.next_u64() % (high - low + 1);
        // Some runs have few kinds of faults, some have many.
        let odds = draw(1, 5);
        let mut some = |low: u64, high: u64| {
            let (on, value) = (draw(0, 5) < odds, draw(low, high));
            if on { value } else { 0 }
        };
        let mut scenario = Self {
            seed,
            nodes: 2,
            messages: 0,
            senders: 1,
            queues: 1,
            fault_ms: 0,
            link_break_every_ms: some(50, 4_000),
            stall_every_ms: some(200, 4_000),
            partition_every_ms: some(500, 8_000),
            move_every_ms: some(500, 8_000),
            power_loss_every_ms: some(300, 8_000),
            kill_every_ms: some(300, 8_000),
            stop_every_ms: some(500, 8_000),
            sudden_death: some(5, 200),
            client_break_every_ms: some(100, 4_000),
            client_crash_every_ms: some(500, 8_000),
            disk_full_every_ms: some(1_000, 8_000),
            disk_failure_every_ms: some(500, 8_000),
            slow_disk_every_ms: some(500, 8_000),
            clock_jump_every_ms: some(500, 8_000),
            squeeze_every_ms: 0,
            operator_every_ms: some(200, 4_000),
            block_every_ms: some(500, 8_000),
            lost_buffers_per_mille: some(1, 60),
            repeated_buffers_per_mille: some(1, 60),
            hasty_per_mille: some(20, 300),
            misaddressed_per_mille: some(5, 100),
            oversized_per_mille: some(5, 100),
            careless_per_mille: some(20, 500),
            keyed_per_mille: some(100, 1_000),
            give_back_per_mille: some(50, 200),
            delay_max_us: 0,
            commit_max_us: 0,
            express_per_mille: 0,
            transactional_queues: 0,
            mistyped_per_mille: 0,
            movers: 0,
            tokens: 0,
            wishes_per_mille: 0,
            journal_per_mille: 0,
            priorities: false,
            nat: false,
            approval: false,
            window_messages: 0,
            quota_messages: u64::MAX,
            resident_bytes_max: 1 << 20,
            express_bytes_max: 64 << 20,
            store_bytes_max: 64 << 30,
            dedup_capacity: 10_000,
            ack_route_lifetime_ms: 600_000,
            body_bytes_max: 16,
            segment_bytes: 1 << 20,
            packets: None,
            clones: None,
            breaks: Breaks::default(),
        };
        let few = |value: u64| usize::try_from(value).unwrap_or(0);
        scenario.nodes = [2, 2, 3, 3, 4, 5][few(draw(0, 5))];
        scenario.senders = few(draw(1, 3));
        scenario.queues = few(draw(1, 2));
        scenario.messages = draw(10, 120);
        scenario.fault_ms = draw(2_000, 20_000);
        scenario.delay_max_us = [500, 20_000, 200_000][few(draw(0, 2))];
        scenario.commit_max_us = [200, 60_000][few(draw(0, 1))];
        scenario.express_per_mille = [0, 300, 1_000][few(draw(0, 2))];
        scenario.priorities = draw(0, 1) == 1;
        scenario.nat = draw(0, 3) == 0;
        scenario.approval = draw(0, 3) == 0;
        scenario.window_messages = [1, 4, 64, 4_096][few(draw(0, 3))];
        if draw(0, 3) == 0 {
            scenario.quota_messages = draw(5, 50);
        }
        if draw(0, 1) == 0 {
            scenario.resident_bytes_max = 2_000;
        }
        if draw(0, 5) == 0 {
            scenario.express_bytes_max = few(draw(8_000, 30_000));
        }
        let (small, bytes) = (draw(0, 7) == 0, draw(20_000, 100_000));
        if small {
            scenario.store_bytes_max = bytes;
        }
        scenario.dedup_capacity = [0, 8, 64, 10_000, 10_000, 10_000][few(draw(0, 5))];
        scenario.ack_route_lifetime_ms = [500, 5_000, 600_000][few(draw(0, 2))];
        scenario.body_bytes_max = [16, 3_000][few(draw(0, 1))];
        scenario.segment_bytes = [192 << 10, 1 << 20][few(draw(0, 1))];
        // Drawn apart, so that everything else about a seed is as it was without.
        let mut random = SeededEntropy::new(seed ^ 0x65_6e64_7321);
        let mut draw = |of: u64| random.next_u64() % of;
        let (wishes, copies) = (draw(6) == 0, draw(8) == 0);
        let per_mille = [100 + draw(900), 50 + draw(500)];
        scenario.wishes_per_mille = if wishes { per_mille[0] } else { 0 };
        scenario.journal_per_mille = if copies { per_mille[1] } else { 0 };
        // The same.
        let mut random = SeededEntropy::new(seed ^ 0x6d65_6d6f_7279);
        let mut draw = |of: u64| random.next_u64() % of;
        let (squeezed, every_ms) = (draw(6) == 0, 500 + draw(7_500));
        scenario.squeeze_every_ms = if squeezed { every_ms } else { 0 };
        scenario
    }

    /// The same world with QUIC between its machines, on a network with troubles of its own.
    #[must_use]
    pub fn quinn_from_seed(seed: u64) -> Self {
        let world = Self::from_seed(seed);
        // Messages of many datagrams, where a segment has room for many messages.
        let large = world.segment_bytes >= 1 << 20 && seed.is_multiple_of(3);
        Self {
            packets: Some(Packets::from_seed(seed)),
            // QUIC loses and repeats nothing on a link that lives on; its network moves machines
            // and parts them itself.
            lost_buffers_per_mille: 0,
            repeated_buffers_per_mille: 0,
            stall_every_ms: 0,
            partition_every_ms: 0,
            move_every_ms: 0,
            body_bytes_max: if large { 3_900 } else { world.body_bytes_max },
            ..world
        }
    }

    /// Whether applications are told how messages end, or keep copies of them.
    pub(crate) const fn tells_ends(&self) -> bool {
        self.wishes_per_mille > 0 || self.journal_per_mille > 0
    }

    /// What can be taken out, in the order in which it should be tried.
    pub(crate) const SIMPLER: &'static [Simpler] = &[
        ("links break", |s| s.link_break_every_ms = 0),
        ("readers stall", |s| s.stall_every_ms = 0),
        ("partitions", |s| s.partition_every_ms = 0),
        ("machines move", |s| s.move_every_ms = 0),
        ("power is lost", |s| s.power_loss_every_ms = 0),
        ("processes are killed", |s| s.kill_every_ms = 0),
        ("processes are stopped", |s| s.stop_every_ms = 0),
        ("sudden deaths", |s| s.sudden_death = 0),
        ("applications break", |s| s.client_break_every_ms = 0),
        ("applications crash", |s| s.client_crash_every_ms = 0),
        ("disks fill up", |s| s.disk_full_every_ms = 0),
        ("disks fail", |s| s.disk_failure_every_ms = 0),
        ("disks are slow", |s| s.slow_disk_every_ms = 0),
        ("clocks jump", |s| s.clock_jump_every_ms = 0),
        ("memory runs short", |s| s.squeeze_every_ms = 0),
        ("operators act", |s| s.operator_every_ms = 0),
        ("peers are blocked", |s| s.block_every_ms = 0),
        ("buffers are lost", |s| s.lost_buffers_per_mille = 0),
        ("buffers repeat", |s| s.repeated_buffers_per_mille = 0),
        ("troubles of paths", |s| packets(s, |p| p.trouble_ms = 0)),
        ("datagrams are lost", |s| {
            packets(s, |p| p.loss_per_mille = 0);
        }),
        ("datagrams come twice", |s| {
            packets(s, |p| p.duplicate_per_mille = 0);
        }),
        ("datagrams are overtaken", |s| {
            packets(s, |p| p.reorder_per_mille = 0);
        }),
        ("datagrams are damaged", |s| {
            packets(s, |p| p.corrupt_per_mille = 0);
        }),
        ("narrow paths", |s| packets(s, |p| p.bytes_per_second = 0)),
        ("delays vary", |s| packets(s, |p| p.jitter_ms = 0)),
        ("small datagrams", |s| packets(s, |p| p.mtu = 1_472)),
        ("links that die soon", |s| {
            packets(s, |p| p.idle_ms = 30_000);
        }),
        ("little room for frames", |s| {
            packets(s, |p| p.received_bytes_max = 8 << 20);
        }),
        ("far machines", |s| packets(s, |p| p.delay_ms = 1)),
        ("one copy is enough", |s| {
            copies(s, |c| c.copies = c.copies.min(1));
        }),
        ("nobody sends to the copies", |s| {
            copies(s, |c| c.receives = c.case.receives());
        }),
        ("other hardware", |s| {
            copies(s, |c| c.other_hardware = false);
        }),
        ("the others are slow", |s| {
            copies(s, |c| c.slow_others = false);
        }),
        ("nobody receives at first", |s| {
            copies(s, |c| c.nobody_receives = false);
        }),
        ("haste", |s| s.hasty_per_mille = 0),
        ("wrong addresses", |s| s.misaddressed_per_mille = 0),
        ("large bodies", |s| s.oversized_per_mille = 0),
        ("no dead letters", |s| s.careless_per_mille = 0),
        ("keys", |s| s.keyed_per_mille = 0),
        ("giving back", |s| s.give_back_per_mille = 0),
        ("express messages", |s| s.express_per_mille = 0),
        ("wishes", |s| s.wishes_per_mille = 0),
        ("copies", |s| s.journal_per_mille = 0),
        ("wrong classes", |s| s.mistyped_per_mille = 0),
        ("transactional queues", |s| s.transactional_queues = 0),
        ("transactions", |s| s.movers = 0),
        ("fewer tokens", |s| s.tokens = (s.tokens / 2).max(1)),
        ("priorities", |s| s.priorities = false),
        ("no dialling in", |s| s.nat = false),
        ("approval", |s| s.approval = false),
        ("quotas", |s| s.quota_messages = u64::MAX),
        ("small memory", |s| s.resident_bytes_max = 1 << 20),
        ("small express memory", |s| s.express_bytes_max = 64 << 20),
        ("small store", |s| s.store_bytes_max = 64 << 30),
        ("small duplicate cache", |s| s.dedup_capacity = 10_000),
        ("short routes", |s| s.ack_route_lifetime_ms = 600_000),
        ("large windows", |s| s.window_messages = 64),
        ("long bodies", |s| s.body_bytes_max = 16),
        ("short logs", |s| s.segment_bytes = 1 << 20),
        ("several queues", |s| s.queues = 1),
        ("long delays", |s| s.delay_max_us = 500),
        ("slow commits", |s| s.commit_max_us = 200),
        ("two machines are enough", |s| s.nodes = 2),
        ("one machine less", |s| s.nodes = (s.nodes - 1).max(2)),
        ("one sender", |s| s.senders = 1),
        ("half of the messages", |s| {
            s.messages = (s.messages / 2).max(1);
        }),
        ("fewer messages", |s| {
            s.messages = (s.messages * 3 / 4).max(1);
        }),
        ("half of the time", |s| {
            s.fault_ms = (s.fault_ms / 2).max(100);
        }),
        ("less time", |s| s.fault_ms = (s.fault_ms * 3 / 4).max(100)),
    ];
}

/// Makes the troubles of datagrams simpler, where there are any.
fn packets(scenario: &mut Scenario, simplify: impl FnOnce(&mut Packets)) {
    if let Some(packets) = &mut scenario.packets {
        simplify(packets);
    }
}

/// The same of copied machines.
fn copies(scenario: &mut Scenario, simplify: impl FnOnce(&mut Clones)) {
    if let Some(clones) = &mut scenario.clones {
        simplify(clones);
    }
}

impl PartialEq for Scenario {
    fn eq(&self, other: &Self) -> bool {
        // Comparing the text keeps the list of fields in one place.
        format!("{self:?}") == format!("{other:?}")
    }
}
