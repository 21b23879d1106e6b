//! What a running node says of itself.

use qm_node::admin_json::{OutgoingDocument, StoreHealthDocument, WhyDocument};

use crate::config::units::{about_duration, about_size};
use crate::output::{counted, messages};

use super::{Finding, Seen};

/// A write that the disk has not confirmed for so long is worth a word.
const DISK_SLOW_MS: u64 = 2_000;
/// Messages for which no application asks for so long.
const UNRECEIVED_MS: u64 = 60 * 60 * 1_000;
/// How full the node's own quota may be.
const QUOTA_PERCENT: u64 = 80;

pub(super) fn look(seen: &Seen, findings: &mut Vec<Finding>) {
    store(seen, findings);
    queues(seen, findings);
    rest(seen, findings);
}

fn store(seen: &Seen, findings: &mut Vec<Finding>) {
    let status = &seen.status;
    if let Some(full) = super::super::status::full(status) {
        let disk = status.store_full_by.as_deref().unwrap_or("disk") == "disk";
        findings.push(Finding::problem(
            "store_full",
            status.node.data.clone(),
            full,
            if disk {
                "receive, purge with --discard, or make room; the node goes on by itself"
            } else {
                "receive, purge with --discard, or raise the limit; the node goes on by itself"
            },
        ));
    }
    if let Some(ms) = status.unconfirmed_ms.filter(|ms| *ms >= DISK_SLOW_MS) {
        findings.push(Finding::problem(
            "disk_slow",
            status.node.data.clone(),
            format!(
                "the disk has not confirmed a write for {}",
                about_duration(ms)
            ),
            "look at the disk: it is overloaded or failing",
        ));
    }
    let damaged = status.missing_records.max(status.counters.unreadable);
    if damaged > 0 {
        findings.push(Finding::problem(
            "damaged_records",
            status.node.data.clone(),
            format!("{damaged} records cannot be read and were passed over"),
            "stop the node, then `qm-node store check`",
        ));
    }
    if let Some(health) = &status.store_health {
        damage(health, &status.node.data, findings);
    }
    if super::percent(status.stored_bytes, status.stored_bytes_max) >= QUOTA_PERCENT {
        findings.push(Finding::problem(
            "quota",
            "limits.store_bytes",
            format!(
                "waiting messages take {} of the {} that they may",
                about_size(status.stored_bytes),
                about_size(status.stored_bytes_max)
            ),
            "receive, find out what does not move, or raise the limit",
        ));
    }
    if super::percent(status.express_bytes, status.express_bytes_max) >= QUOTA_PERCENT {
        findings.push(Finding::problem(
            "quota",
            "limits.express_bytes",
            format!(
                "waiting express messages take {} of the {} that they may",
                about_size(status.express_bytes),
                about_size(status.express_bytes_max)
            ),
            "receive, or raise the limit",
        ));
    }
}

/// What the node met of damage on its disk since it started.
fn damage(health: &StoreHealthDocument, data: &str, findings: &mut Vec<Finding>) {
    if let Some(first) = health.damages.first() {
        let moved = health.damages.iter();
        let moved = moved.filter(|damage| damage.moved_to.is_some()).count();
        let id = first
            .id
            .as_ref()
            .map_or_else(String::new, |id| format!(" (id {id})"));
        findings.push(Finding::problem(
            "damaged_messages",
            first.file.clone(),
            format!(
                "{} stored messages are damaged and never served, {moved} of them are moved to the \
                 directory damaged; the first{id} at offset {}: {}",
                health.damaged_records, first.offset, first.what
            ),
            "look at the disk (kernel log, SMART); stop the node, `qm-node store check` names each, \
             send them again from their source",
        ));
    }
    for note in &health.found_at_start {
        findings.push(Finding::problem(
            "store_note",
            data,
            note.clone(),
            "look at the disk; stop the node, then `qm-node store check`",
        ));
    }
}

fn queues(seen: &Seen, findings: &mut Vec<Finding>) {
    for queue in &seen.queues {
        let place = format!("queue {}", queue.name);
        let fill = waiting(queue.messages);
        if queue.full {
            findings.push(Finding::problem(
                "queue_full",
                place.clone(),
                format!("it is at its quota, and its senders wait; {fill}"),
                format!("qm-node receive {0}, or qm-node queue set {0}", queue.name),
            ));
        }
        if queue.paused && queue.messages > 0 {
            findings.push(Finding::notice(
                "queue_paused",
                place.clone(),
                format!("its receivers are held back; {fill}"),
                format!("qm-node queue resume {}", queue.name),
            ));
        }
        let age = queue.oldest_age_ms.unwrap_or(0);
        let aside = queue.name.subqueue() == Some(qm_engine::QUARANTINE);
        let idle = !aside && queue.waiting_receivers == 0 && queue.leased == 0 && !queue.paused;
        if idle && age >= UNRECEIVED_MS && !queue.name.is_system() {
            findings.push(Finding::notice(
                "no_receiver",
                place.clone(),
                format!(
                    "{fill}, the oldest for {}, and no application receives",
                    about_duration(age)
                ),
                format!("qm-node receive {}", queue.name),
            ));
        }
        if queue.name.subqueue() == Some("poison") && queue.messages > 0 {
            findings.push(Finding::problem(
                "poison",
                place,
                format!("{fill} that applications gave back too often"),
                format!("qm-node peek {} --output json", queue.name),
            ));
        }
    }
}

fn rest(seen: &Seen, findings: &mut Vec<Finding>) {
    let status = &seen.status;
    if status.stopping {
        findings.push(Finding::problem(
            "stopping",
            status.name.clone(),
            "the node is stopping",
            "wait, then `qm-node run`",
        ));
    }
    for twin in &status.twins {
        let (code, place) = if twin.qm == status.qm {
            ("own_twin", "this node".to_owned())
        } else {
            ("twin_seen", format!("peer {}", twin.qm))
        };
        findings.push(Finding::problem(
            code,
            place,
            twin.sentence(),
            if twin.held_up.is_some() {
                "qm-node identity show names what its former identity waits for: have that approved"
            } else {
                "give all but one of these machines an identity of their own: docs/identity.md tells how"
            },
        ));
    }
    for parted in &status.parted {
        let place = if parted.qm == status.qm {
            "this node".to_owned()
        } else {
            format!("peer {}", parted.qm)
        };
        findings.push(Finding::notice(
            "copy_parted",
            place,
            parted.sentence(),
            "approve its new identity where it is to be used (qm-node peers list), and find out who \
             copied the machine; qm-node peers forget with the identity named here ends this notice",
        ));
    }
    for branch in &status.branched {
        let place = if branch.qm == status.qm {
            "this node".to_owned()
        } else {
            format!("peer {}", branch.qm)
        };
        findings.push(Finding::notice(
            "history_branched",
            place,
            branch.sentence(),
            "nothing if it was restored from a backup; else look for a copy of that machine",
        ));
    }
    if let Some(cause) = &status.network_failed {
        findings.push(Finding::problem(
            "network_failed",
            status.node.listen.clone(),
            format!("no peer reaches this node and it reaches none: {cause}"),
            "bring the address up, or set another one with --listen and start anew; it is tried \
             again until then, and what waits is kept",
        ));
    }
    for back in &status.own_store_went_back {
        findings.push(Finding::problem(
            "own_store_went_back",
            status.node.data.clone(),
            back.sentence(),
            "if a backup was restored here: what was acknowledged after it may be missing, send it \
             again from its source; if this is a copy of a machine that went on: stop it, or \
             qm-node identity remint",
        ));
    }
    if let Some(former) = status.former.as_ref().filter(|f| f.erased_in_ms.is_none()) {
        findings.push(Finding::notice(
            "former_identity",
            "this node",
            format!(
                "it still speaks under its former identity: {}",
                former.sentence()
            ),
            "have the new identity approved at the destinations that qm-node identity show names",
        ));
    }
    if status.quarantined > 0 {
        findings.push(Finding::notice(
            "quarantine",
            "this node",
            format!(
                "{} aside that another machine has as well",
                counted(status.quarantined, "message is set", "messages are set")
            ),
            "qm-node quarantine list, then quarantine drop, or quarantine release if this machine is to deal with them",
        ));
    }
    if status.dead_letters > 0 {
        findings.push(Finding::notice(
            "dead_letters",
            "dead$",
            format!("{} could not be delivered", messages(status.dead_letters)),
            "qm-node dead list, then dead resend or dead drop",
        ));
    }
    if status.pending_peers > 0 {
        findings.push(Finding::notice(
            "pending_peers",
            "peers",
            format!(
                "{} approval and transmit{} nothing",
                counted(status.pending_peers, "peer awaits", "peers await"),
                if status.pending_peers == 1 { "s" } else { "" }
            ),
            "qm-node peers list, then qm-node peers approve WHO",
        ));
    }
    if status.counters.misbehaved > 0 {
        findings.push(Finding::notice(
            "misbehaved",
            "peers",
            format!(
                "peers broke the protocol {} times",
                status.counters.misbehaved
            ),
            "the log names them under peer_misbehaved",
        ));
    }
    if seen.dedup.evicted_young > 0 {
        let window = seen
            .dedup
            .effective_window_ms
            .map_or_else(|| "shorter than configured".to_owned(), about_duration);
        // Not a problem: what a sender may still send again is remembered beside the cache.
        findings.push(Finding::notice(
            "dedup_window",
            "dedup.size",
            format!(
                "{} left the duplicate cache before their time, its window is {window}; the newest of \
                 each sender are remembered beside it",
                messages(seen.dedup.evicted_young)
            ),
            "raise dedup.size when duplicates from further back are to be expected: docs/delivery.md",
        ));
    }
    if status.node.version != env!("CARGO_PKG_VERSION") {
        findings.push(Finding::notice(
            "version",
            status.name.clone(),
            format!(
                "the node is version {}, this command is {}",
                status.node.version,
                env!("CARGO_PKG_VERSION")
            ),
            "restart the node, or use the command of its version",
        ));
    }
}

/// `1 message waits`, `2 messages wait`.
fn waiting(count: u64) -> String {
    counted(count, "message waits", "messages wait")
}

/// What holds the messages of a destination, when something does.
pub(super) fn stuck(outgoing: &OutgoingDocument, why: &WhyDocument) -> Option<Finding> {
    if ["moving", "idle", "connecting", "behind", "in_doubt"].contains(&why.code.as_str()) {
        return None;
    }
    let age = outgoing.oldest_age_ms.map_or_else(String::new, |ms| {
        format!(", the oldest for {}", about_duration(ms))
    });
    Some(Finding::problem(
        "stuck",
        outgoing.destination.clone(),
        format!("{}{age}: {}", waiting(outgoing.waiting), why.cause),
        why.fix
            .clone()
            .unwrap_or_else(|| format!("qm-node why {}", outgoing.destination)),
    ))
}
