//! Is the node running and healthy?

use qm_node::admin_json::{Request, StatusDocument};

use crate::config::units::{about_duration, about_size};
use crate::exit::{Exit, Failure};
use crate::output::{Output, messages};

use super::node::Node;

pub(crate) async fn status(node: &Node, out: &Output) -> Result<Exit, Failure> {
    let status: StatusDocument = node.ask(&Request::Status {}).await?;
    if out.json {
        out.document(&status)?;
        return Ok(Exit::Done);
    }
    let process = &status.node;
    let full = full(&status);
    let health = if let Some(full) = &full {
        full
    } else if status.stopping {
        "stopping"
    } else if status.network_failed.is_some() {
        "the node has no network: see qm-node doctor"
    } else if status.missing_records > 0 {
        "records on disk cannot be read: see qm-node doctor"
    } else if status.twins.iter().any(|twin| twin.qm == status.qm) {
        "another live machine has this identity: see qm-node doctor"
    } else if !status.own_store_went_back.is_empty() {
        "this node's store went back to an earlier state: see qm-node doctor"
    } else {
        "ok"
    };
    let messages = |count, bytes| format!("{}, {}", messages(count), about_size(bytes));
    let mut facts = vec![
        ("name", status.name.clone()),
        ("health", health.to_owned()),
        ("identity", status.qm.to_string()),
        ("fingerprint", process.fingerprint.clone()),
        ("listens at", process.listen.clone()),
        ("reachable", process.addresses.join(" ")),
        ("socket", process.socket.clone()),
        ("data", process.data.clone()),
        ("version", process.version.clone()),
        ("process", process.pid.to_string()),
        ("up for", about_duration(status.uptime_ms)),
        (
            "queues",
            messages(status.local_messages, status.local_bytes),
        ),
        (
            "outgoing",
            messages(status.outgoing_messages, status.outgoing_bytes),
        ),
        ("dead letters", status.dead_letters.to_string()),
        ("sessions", status.sessions.to_string()),
        ("pending peers", status.pending_peers.to_string()),
        // This command is one of them.
        ("applications", status.clients.saturating_sub(1).to_string()),
        ("memory for messages", about_size(status.resident_bytes)),
        (
            "on disk",
            format!(
                "{} of {}",
                about_size(status.stored_bytes),
                about_size(status.stored_bytes_max)
            ),
        ),
        (
            "express in memory",
            format!(
                "{} of {}",
                about_size(status.express_bytes),
                about_size(status.express_bytes_max)
            ),
        ),
        (
            "disk owes a write for",
            status
                .unconfirmed_ms
                .map_or_else(|| "-".to_owned(), about_duration),
        ),
    ];
    if let Some(store) = &status.store_health {
        let last = store.last_scrub_at.as_deref().unwrap_or("not complete yet");
        facts.push(("messages verified", last.to_owned()));
        facts.push(("damaged on disk", store.damaged_records.to_string()));
        let notes = store.found_at_start.iter();
        facts.extend(notes.map(|note| ("found at start", note.clone())));
    }
    let counters = status.counters.named();
    let counters: Vec<(String, u64)> = counters
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| (name.replace('_', " "), count))
        .collect();
    facts.extend(
        counters
            .iter()
            .map(|(name, count)| (name.as_str(), count.to_string())),
    );
    out.facts(&facts)?;
    if status.pending_peers > 0 {
        out.note("peers await approval: `qm-node peers list`, then `qm-node peers approve WHO`");
    }
    for twin in status.twins.iter().filter(|twin| twin.qm != status.qm) {
        out.note(&format!(
            "peer {}: {}; see `qm-node doctor`",
            twin.qm,
            twin.sentence()
        ));
    }
    if let Some(former) = &status.former {
        out.note(&format!("former identity {}", former.sentence()));
    }
    if status.quarantined > 0 {
        out.note(
            "messages that another machine has as well are set aside: `qm-node quarantine list`",
        );
    }
    if status.dead_letters > 0 {
        out.note("there are dead letters: `qm-node dead list` shows them");
    }
    Ok(Exit::Done)
}

/// What is full, if something is.
pub(super) fn full(status: &StatusDocument) -> Option<String> {
    let used =
        |limit: &str| format!("{limit} is reached: messages are refused until some have left");
    status
        .store_full
        .then(|| match status.store_full_by.as_deref() {
            None | Some("disk") => "the disk is full: nothing is accepted".to_owned(),
            Some(limit) => used(limit),
        })
}
