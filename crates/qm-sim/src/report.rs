//! What a run did, or which rule it broke.

use qm_engine::Reached;

/// What a run that kept every rule did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Messages accepted.
    pub accepted: u64,
    /// Messages consumed by applications.
    pub consumed: u64,
    /// Puts refused for good.
    pub refused: u64,
    /// Messages that became dead letters.
    pub dead_letters: u64,
    /// Machines that lost power or were killed.
    pub deaths: u64,
    /// Of these, in the middle of a commit or of recovery.
    pub deaths_in_commit: u64,
    /// Of these, between two effects of an engine.
    pub sudden_deaths: u64,
    /// Disks that failed under a commit or under recovery.
    pub disk_failures: u64,
    /// Processes that were told to stop.
    pub stops: u64,
    /// Links that broke.
    pub broken_links: u64,
    /// Machines that read nothing from another one for a while.
    pub stalls: u64,
    /// Pairs of machines between which nothing got through.
    pub partitions: u64,
    /// Pairs of machines between which nothing got through in one direction.
    pub one_way_partitions: u64,
    /// Machines that got another address.
    pub moves: u64,
    /// Dials at which somebody else answered.
    pub strangers: u64,
    /// Buffers lost on living links.
    pub lost_buffers: u64,
    /// Buffers that arrived twice.
    pub repeated_buffers: u64,
    /// Batches refused by full disks.
    pub full_batches: u64,
    /// Disks that became slow.
    pub slow_disks: u64,
    /// Wall clocks that jumped.
    pub clock_jumps: u64,
    /// Machines that had less memory for a while.
    pub squeezes: u64,
    /// Applications that lost their memory.
    pub client_crashes: u64,
    /// Acts of operators on queues.
    pub operations: u64,
    /// Peers approved after they had to wait.
    pub approvals: u64,
    /// Peers blocked.
    pub blocks: u64,
    /// Causes asked for and compared with the world.
    pub whys: u64,
    /// Fates that applications were told.
    pub fates_told: u64,
    /// Duplicates removed by the duplicate cache.
    pub duplicates: u64,
    /// Duplicates delivered because the destination could not remember.
    pub duplicates_allowed: u64,
    /// Arrivals that a node took out of its store again before it told anybody of them.
    pub undone: u64,
    /// Ends that destinations wrote down.
    pub finals: u64,
    /// Ends that senders heard and wrote down.
    pub ends_heard: u64,
    /// Messages of whose ends their senders heard that nobody knows them.
    pub ends_unknown_told: u64,
    /// Reports that were put into administration queues.
    pub reports: u64,
    /// Reports for which there was no queue.
    pub reports_lost: u64,
    /// Reports that applications got into their hands.
    pub reports_read: u64,
    /// Copies of messages that had left.
    pub copies_kept: u64,
    /// Of these, into the hands of applications.
    pub copies_read: u64,
    /// Transactions that their applications know to have happened.
    pub committed: u64,
    /// Transactions of which nothing happened.
    pub aborted: u64,
    /// Transactions of which their applications never heard.
    pub ends_unknown: u64,
    /// Tokens that a transaction took from one queue and put into another.
    pub tokens_moved: u64,
    /// Acks sent off their session.
    pub routed_acks: u64,
    /// Messages whose fate was asked.
    pub queried: u64,
    /// Machines that were made as copies of others.
    pub copies: u64,
    /// Disks that were replaced by older ones, or by empty ones.
    pub restores: u64,
    /// Alarms about two live machines with one identity, at nodes between and at copies.
    pub alarms: u64,
    /// Machines that took another identity.
    pub parted: u64,
    /// Histories that were seen to branch.
    pub branched: u64,
    /// Stores that were seen to have gone back, by their own node.
    pub went_back: u64,
    /// Transactional streams that stood for their operator.
    pub held: u64,
    /// Operators that began such streams anew.
    pub rebased: u64,
    /// Words about identities that were withheld, repeated or forged.
    pub lies: u64,
    /// Datagrams handed to the network, where links are QUIC's.
    pub datagrams: u64,
    /// Of these, lost on the way.
    pub lost_datagrams: u64,
    /// Of these, delivered with a bit turned.
    pub damaged_datagrams: u64,
    /// Of these, delivered twice.
    pub repeated_datagrams: u64,
    /// Of these, overtaken by others.
    pub overtaken_datagrams: u64,
    /// Datagrams that no machine of the world made.
    pub strange_datagrams: u64,
    /// Machines to and from which nothing got through.
    pub isolations: u64,
    /// Paths on which no datagram above some size got through.
    pub black_holes: u64,
    /// Paths on which most datagrams were lost.
    pub lossy_paths: u64,
    /// Paths that became narrow, with a queue that drops.
    pub narrow_paths: u64,
    /// Machines whose address changed under living connections.
    pub rebinds: u64,
    /// Processes that were stopped and went on later.
    pub freezes: u64,
    /// Rare branches of the engine that were taken.
    pub reached: Reached,
    /// Virtual time, milliseconds.
    pub virtual_ms: u64,
    /// Of this, after the last fault; over several runs the longest.
    pub drain_ms: u64,
    /// Events handled.
    pub steps: u64,
    /// Hash over everything that happened, in order.
    pub trace_hash: u64,
}

impl Report {
    /// Adds what another run did.
    pub fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.consumed += other.consumed;
        self.refused += other.refused;
        self.dead_letters += other.dead_letters;
        self.deaths += other.deaths;
        self.deaths_in_commit += other.deaths_in_commit;
        self.sudden_deaths += other.sudden_deaths;
        self.disk_failures += other.disk_failures;
        self.stops += other.stops;
        self.broken_links += other.broken_links;
        self.stalls += other.stalls;
        self.partitions += other.partitions;
        self.one_way_partitions += other.one_way_partitions;
        self.moves += other.moves;
        self.strangers += other.strangers;
        self.lost_buffers += other.lost_buffers;
        self.repeated_buffers += other.repeated_buffers;
        self.full_batches += other.full_batches;
        self.slow_disks += other.slow_disks;
        self.clock_jumps += other.clock_jumps;
        self.squeezes += other.squeezes;
        self.client_crashes += other.client_crashes;
        self.operations += other.operations;
        self.approvals += other.approvals;
        self.blocks += other.blocks;
        self.whys += other.whys;
        self.fates_told += other.fates_told;
        self.duplicates += other.duplicates;
        self.duplicates_allowed += other.duplicates_allowed;
        self.undone += other.undone;
        self.finals += other.finals;
        self.ends_heard += other.ends_heard;
        self.ends_unknown_told += other.ends_unknown_told;
        self.reports += other.reports;
        self.reports_lost += other.reports_lost;
        self.reports_read += other.reports_read;
        self.copies_kept += other.copies_kept;
        self.copies_read += other.copies_read;
        self.committed += other.committed;
        self.aborted += other.aborted;
        self.ends_unknown += other.ends_unknown;
        self.tokens_moved += other.tokens_moved;
        self.routed_acks += other.routed_acks;
        self.queried += other.queried;
        self.copies += other.copies;
        self.restores += other.restores;
        self.alarms += other.alarms;
        self.parted += other.parted;
        self.branched += other.branched;
        self.went_back += other.went_back;
        self.held += other.held;
        self.rebased += other.rebased;
        self.lies += other.lies;
        self.datagrams += other.datagrams;
        self.lost_datagrams += other.lost_datagrams;
        self.damaged_datagrams += other.damaged_datagrams;
        self.repeated_datagrams += other.repeated_datagrams;
        self.overtaken_datagrams += other.overtaken_datagrams;
        self.strange_datagrams += other.strange_datagrams;
        self.isolations += other.isolations;
        self.black_holes += other.black_holes;
        self.lossy_paths += other.lossy_paths;
        self.narrow_paths += other.narrow_paths;
        self.rebinds += other.rebinds;
        self.freezes += other.freezes;
        self.virtual_ms += other.virtual_ms;
        self.drain_ms = self.drain_ms.max(other.drain_ms);
        self.steps += other.steps;
        self.trace_hash ^= other.trace_hash;
        self.reached.add(&other.reached);
    }
}

/// A rule was broken.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed to run again.
    pub seed: u64,
    /// Whether links were QUIC's.
    pub quinn: bool,
    /// Whether some queues were transactional.
    pub streams: bool,
    /// What was copied, if anything was.
    pub case: Option<&'static str>,
    /// Which rule, and what was seen.
    pub text: String,
    /// Virtual time of it, milliseconds.
    pub at_ms: u64,
    /// Events handled until then.
    pub steps: u64,
    /// The last things that happened before.
    pub tail: Vec<String>,
}

impl Failure {
    /// The rule that was broken, as its text begins.
    #[must_use]
    pub fn rule(&self) -> &str {
        self.text.split(':').next().unwrap_or_default()
    }
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        writeln!(f, "seed {} at {} ms: {}", self.seed, self.at_ms, self.text)?;
        for line in &self.tail {
            writeln!(f, "  {line}")?;
        }
        let mode = match (self.case, self.quinn, self.streams) {
            (Some(case), ..) => format!("--mode clones --scenario {case} "),
            (_, true, _) => "--mode quinn ".to_owned(),
            (_, _, true) => "--mode streams ".to_owned(),
            _ => String::new(),
        };
        write!(f, "again with: cargo xtask sim {mode}--seed {}", self.seed)
    }
}

impl core::error::Error for Failure {}
