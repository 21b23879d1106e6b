//! For the simulation: rules that can be switched off, and rare branches that were taken.

macro_rules! breaks {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// Rules of the protocol that a test switches off to see that the tests notice.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Breaks {
            $($(#[doc = $doc])* pub $name: bool,)*
        }

        impl Breaks {
            /// The break of this name alone.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                match name {
                    $(stringify!($name) => Some(Self { $name: true, ..Self::default() }),)*
                    _ => None,
                }
            }

            /// The names of all breaks.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];
        }
    };
}

breaks! {
    /// Acknowledge a durable message before it is on disk.
    ack_before_durable,
    /// Remember a message in the duplicate cache before it is stored.
    remember_before_stored,
    /// Apply an ack to the oldest messages in flight, by count, without comparing what it names.
    ack_by_position,
    /// Send what was in flight when a session ended again without asking.
    resend_blindly,
    /// Say nothing about routed acks for messages that are not held.
    silent_not_held,
    /// Do not acknowledge a duplicate again.
    silent_duplicates,
    /// Settle a message when it is transmitted.
    settle_on_transmit,
    /// Send what an earlier life left as if it had never been transmitted.
    forget_doubt,
    /// Declare what was transmitted expired without asking its destination.
    expire_in_doubt,
    /// Take messages into queues that are full.
    ignore_quota,
    /// Hand out the lowest priority first.
    ignore_priority,
    /// Transmit without credit.
    ignore_credit,
    /// Keep every durable message in memory.
    ignore_memory,
    /// Store the answer to an application's request some time after its message.
    answer_apart,
    /// Let times run by the wall clock.
    wall_clock,
    /// Send transactional messages of a new identity before those of the former one have left.
    no_barrier,
    /// Speak under a new identity as soon as it is there, approved or not.
    switch_at_once,
    /// Keep in memory alone under which identity a destination is spoken to.
    forget_switch,
    /// Tell an application that its settlement is done before it is on disk.
    settle_before_durable,
    /// Drop express messages on an orderly stop.
    no_spill,
    /// Send a message before older ones whose fate is asked.
    overtake_doubt,
    /// Forget idempotency keys at a restart.
    forget_keys,
    /// Tell refusals late, also on later sessions, and believe them by their tag.
    late_refusals,
    /// Tell refusals late, believe them by their tag, and forget what was refused.
    forget_refusals,
    /// Know what arrived by the duplicate cache alone, which other peers fill.
    forget_recent,
    /// Judge a transactional message by its number and not by its link.
    number_for_link,
    /// Settle transactional messages by the numbers of an order ack and not by its link.
    order_ack_by_number,
    /// Settle everything up to the link of an order ack, not only its run.
    order_ack_from_start,
    /// Store the links of transactional messages some time after the messages.
    position_apart,
    /// Promise never to take a message, and keep the promise in memory only.
    void_in_memory,
    /// Take the word of a destination that forgot, or began another life, for certain.
    trust_any_void,
    /// Leave nothing in the place of a transactional message that left.
    no_skip,
    /// Take every token that a peer presents for one that goes forward.
    believe_strange_tokens,
    /// Confirm a token before it is on disk.
    confirm_before_stored,
    /// Store the messages of a transaction in batches of their own.
    commit_in_parts,
    /// Keep in memory alone what a committed transaction took.
    taken_in_memory,
    /// Know what arrived by its name alone, without its tag.
    ignore_tag,
    /// Take the answer of one session for the proof that there are two machines.
    believe_one_answer,
    /// Draw the rank of this node anew, by chance, for every word about it.
    redraw_rank,
    /// Send what waits under a former identity under the new one.
    relabel_queue,
    /// Set nothing aside of what another machine has as well.
    quarantine_nothing,
    /// Set everything aside, whether another machine has it or not.
    quarantine_everything,
    /// Keep in memory alone how messages of others ended.
    final_in_memory,
    /// Tell how a message ended before that is on disk.
    final_before_durable,
    /// Tell of what ran out of time that it was received.
    received_for_expired,
    /// Wait in memory alone for the ends of messages.
    wait_in_memory,
    /// Forget what was noted of a report some time after it is stored.
    report_apart,
    /// Remove a message some time after its copy is stored.
    copy_apart,
}

macro_rules! reach {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// A branch that is taken rarely and that the simulation must have taken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Reach {
            $($(#[doc = $doc])* $name,)*
        }

        impl Reach {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }

        /// How often each was taken.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Reached(std::collections::BTreeMap<Reach, u64>);
    };
}

reach! {
    /// A question was answered: it is here.
    AnsweredDelivered,
    /// A question was answered: it is being stored.
    AnsweredInFlight,
    /// A question was answered: it is unknown here.
    AnsweredUnknown,
    /// Doubt ended: the destination has it.
    DoubtDelivered,
    /// Doubt ended: it is sent again.
    DoubtUnknown,
    /// Doubt goes on: the destination is storing it.
    DoubtInFlight,
    /// A message in flight was lost on a living link, as its destination says.
    FlightUnknown,
    /// A message in flight is settled by an answer.
    FlightDelivered,
    /// A routed ack settled a message.
    RoutedAckApplied,
    /// A routed ack named what is not held, and the acker was told.
    NotHeldSent,
    /// An acker was told that what it named is not held.
    NotHeldReceived,
    /// An ack that was not held somewhere was sent elsewhere.
    AlternativeTried,
    /// An ack without a session waits for one.
    AckOwed,
    /// An ack that waited for a session leaves on it.
    AckPaid,
    /// An ack did not match what it named.
    AckUnverified,
    /// A message was refused as an earlier copy of it was.
    RefusalRepeated,
    /// A refusal for nothing in flight.
    RefusalStale,
    /// A whole message was refused as damaged.
    DamagedOnTheWay,
    /// A message expired before it was ever transmitted.
    ExpiredWaiting,
    /// A message ran out of time that may have been transmitted: its destination is asked.
    ExpiredInDoubt,
    /// A message whose place is settled was to expire or to be purged, and left as delivered.
    LeftSettled,
    /// A transactional message that ran out of time was sent again, for its destination to refuse
    /// or recognise.
    ExpiredAsked,
    /// A message expired in its destination queue.
    ExpiredInQueue,
    /// A duplicate was acknowledged again.
    DuplicateAcknowledged,
    /// A duplicate that the cache had forgotten was known as one of its sender's newest messages.
    DuplicateBeyondCache,
    /// A copy arrived while another one was being stored.
    DuplicateInFlight,
    /// A batch was refused by a full disk, and what it should have done was undone.
    BatchRefused,
    /// Of two sessions with one life of a peer one was closed.
    SessionSuperseded,
    /// Express messages were written down by an orderly stop.
    ExpressSpilled,
    /// A full queue ended a session so that order holds.
    QueueOverrun,
    /// A full queue has room again.
    QueueReopened,
    /// A repeated request got the first answer.
    RequestRepeated,
    /// A repeated key got the first answer.
    KeyRepeated,
    /// A key was repeated while its message was on its way to the disk.
    KeyPending,
    /// A waiting message was left on disk for want of memory.
    LeftOnDisk,
    /// Waiting messages were read back from disk.
    ReadBack,
    /// Credit was withheld because memory or store are full.
    CreditWithheld,
    /// An application was refused an express message for want of memory.
    ExpressRefused,
    /// Credit was withheld because express messages that arrived fill the peers' part of memory.
    PeersPartFull,
    /// A peer got credit by its approval.
    Approved,
    /// An order ack settled transactional messages.
    OrderAckApplied,
    /// An order ack named a link that is not held.
    OrderAckNotHeld,
    /// A transactional message that came again was recognised by its link.
    StreamDuplicate,
    /// Two messages followed one link.
    StreamBranched,
    /// A transactional message left its place otherwise than by delivery.
    LeftStream,
    /// A skip was taken.
    SkipTaken,
    /// A skip came for what had been delivered.
    SkipCameLate,
    /// A skip, or the message in its place, was answered as skipped.
    AnsweredSkipped,
    /// The destination confirmed a skip.
    SkipConfirmed,
    /// The destination had delivered what left here.
    SkipDelivered,
    /// A sender was told where to go on.
    NeedSent,
    /// A sender went on where its destination needed it.
    NeedMet,
    /// A stream stands for its operator.
    StreamHeld,
    /// A stream was begun anew because its destination lost its store.
    StreamRerooted,
    /// A stream that had begun anew, or was about to, began so again.
    StreamBegunAgain,
    /// A question was answered from the links of a stream.
    AnsweredFromStream,
    /// Links were forgotten.
    LinksForgotten,
    /// A destination was asked for what had ended here.
    EndedAsked,
    /// It had voided it.
    EndedVoided,
    /// It had it.
    EndedDelivered,
    /// A message is never to be taken.
    VoidRecorded,
    /// A message came that is never to be taken.
    VoidedRefused,
    /// A dead letter became uncertain.
    LetterUncertain,
    /// A token that does not go forward was asked about.
    StrangeTokenAsked,
    /// The history of a peer branched, says its token.
    BranchedByToken,
    /// The history of a peer branched, say two tags of one name.
    BranchedByTag,
    /// This node began another life while it ran.
    NewLife,
    /// A token proved that this node's own store went back.
    OwnStoreWentBack,
    /// A token of this node proved that another process gave it.
    GivenByAnother,
    /// Of two sessions that were asked whether they live, one answered first.
    OneAnswered,
    /// Both did.
    BothAnswered,
    /// The words of two copies were passed on.
    WordRelayed,
    /// A copy met this node directly.
    MetOwnCopy,
    /// A signature of a copy was verified.
    ClaimVerified,
    /// A signature that should have been a copy's was not by the key of both.
    ClaimForged,
    /// Two ranks were equal.
    RankTied,
    /// A copy is asked again because it named a higher rank than it had shown.
    RankOutdated,
    /// A higher rank was shown.
    ElectionLost,
    /// Another identity was taken.
    Reidentified,
    /// A message was set aside that another machine has as well.
    SetAside,
    /// A destination approved the new identity.
    IdentitySwitched,
    /// A transactional queue waited for that of the former identity.
    BarredByFormer,
    /// The former identity has drained.
    FormerDrained,
    /// A sender was told at once how its message ended.
    FinalTold,
    /// A sender was told on a new session how messages ended.
    FinalToldAgain,
    /// Whoever was told of an end does not hold the message.
    FinalNotHeld,
    /// The disk did not note how a message ended.
    FinalRefused,
    /// How a message ended was heard before its ack.
    FinalBeforeAck,
    /// The same for one that was a dead letter here.
    FinalOverLetter,
    /// How a message ended was heard once more.
    FinalHeardAgain,
    /// How a message ended was answered to a question.
    FinalAnswered,
    /// Nobody can tell how a message ended.
    EndUnknown,
    /// A report waits for room on the disk.
    ReportHeldBack,
    /// A report was decided and not put when its node died.
    ReportFound,
    /// A copy waits for room on the disk.
    CopyHeldBack,
}

impl Reached {
    /// How often a branch was taken.
    #[must_use]
    pub fn count(&self, what: Reach) -> u64 {
        self.0.get(&what).copied().unwrap_or(0)
    }

    /// Adds what another engine took.
    pub fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(*what).or_insert(0) += count;
        }
    }

    pub(crate) fn note(&mut self, what: Reach) {
        *self.0.entry(what).or_insert(0) += 1;
    }
}

impl crate::Engine {
    /// Rare branches taken so far.
    #[must_use]
    pub const fn reached(&self) -> &Reached {
        &self.reached
    }
}
