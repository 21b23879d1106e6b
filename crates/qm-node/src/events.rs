//! The engine's events as log lines. The field `event` is a stable word that alerts may rely on;
//! no line carries a body.
//!
//! Levels: a peer's fault `warn`, ours `error`, a step of the protocol `debug`, a message `trace`.

use qm_engine::{Event, TwinMachine};

use crate::log_rate;

/// The word of an event that a peer can cause as often as it likes.
const fn caused_by_peers(event: &Event) -> Option<&'static str> {
    Some(match event {
        Event::SessionOpened { .. } => "session_opened",
        Event::SessionClosed { .. } => "session_closed",
        Event::PeerPending { .. } => "peer_pending",
        Event::PeerMisbehaved { .. } => "peer_misbehaved",
        Event::AckNotHeld { .. } => "ack_not_held",
        Event::AckUnverified { .. } => "ack_unverified",
        Event::IdentityChanged { .. } => "identity_changed",
        Event::TwinSeen { .. } => "twin_seen",
        Event::TwinUnasked { .. } => "twin_unasked",
        Event::OwnTwin { .. } => "own_twin",
        Event::TwinParted { .. } => "twin_parted",
        Event::Resumed { .. } => "resumed",
        Event::Quarantined { .. } => "quarantined",
        Event::QuarantineReleased { .. } => "quarantine_released",
        Event::ElectionLost { .. } => "election_lost",
        Event::HistoryBranched { .. } => "history_branched",
        Event::OwnHistoryBranched { .. } => "own_history_branched",
        Event::OwnStoreWentBack { .. } => "own_store_went_back",
        Event::Dead { .. } => "dead",
        Event::StreamHeld { .. } => "stream_held",
        Event::StreamRerooted { .. } => "stream_rerooted",
        Event::QueueFull { full: true, .. } => "queue_full",
        Event::QueueFull { full: false, .. } => "queue_has_room",
        _ => return None,
    })
}

pub(crate) fn log(event: &Event) {
    if caused_by_peers(event).is_some_and(|word| !log_rate::admits(word)) {
        return;
    }
    match event {
        Event::Accepted { id } => tracing::trace!(event = "accepted", %id),
        Event::Delivered { source, id, .. } => tracing::trace!(event = "delivered", %source, %id),
        Event::Acknowledged { id } => tracing::trace!(event = "acknowledged", %id),
        Event::DuplicateRemoved { source, id } => {
            tracing::debug!(event = "duplicate_removed", %source, %id, "a duplicate was removed");
        }
        Event::Dead {
            id,
            outcome,
            kept,
            uncertain,
        } => tracing::warn!(
            event = "dead",
            %id,
            %outcome,
            kept,
            uncertain,
            "a message ended without being delivered"
        ),
        Event::SessionOpened {
            link,
            peer,
            incarnation,
        } => tracing::info!(
            event = "session_opened",
            link = link.0,
            %peer,
            %incarnation,
            "a session is open"
        ),
        Event::SessionClosed { link, peer, text } => tracing::info!(
            event = "session_closed",
            link = link.0,
            %peer,
            reason = text.as_str(),
            "a session ended"
        ),
        Event::DialFailed {
            address,
            failure,
            text,
        } => tracing::debug!(
            event = "dial_failed",
            address = address.as_str(),
            failure = failure.name(),
            reason = text.as_str(),
            "a peer could not be reached"
        ),
        Event::PeerPending { peer, name } => tracing::warn!(
            event = "peer_pending",
            %peer,
            name = name.as_str(),
            "an unknown queue manager awaits approval: qm-node peers approve {peer}"
        ),
        Event::PeerMisbehaved { peer, text } => tracing::warn!(
            event = "peer_misbehaved",
            %peer,
            reason = text.as_str(),
            "a peer broke the protocol; its session was closed"
        ),
        Event::AckNotHeld {
            peer,
            entries,
            foreign_incarnation,
        } => tracing::warn!(
            event = "ack_not_held",
            %peer,
            entries,
            foreign_incarnation,
            "a peer acknowledged messages that this node does not hold"
        ),
        Event::AckUnverified { peer } => tracing::warn!(
            event = "ack_unverified",
            %peer,
            "an ack does not match what it names; its messages are asked for instead"
        ),
        Event::IdentityChanged {
            address,
            pinned,
            found,
        } => tracing::warn!(
            event = "identity_changed",
            address = address.as_str(),
            %pinned,
            %found,
            "another queue manager answers at a pinned address"
        ),
        Event::TwinSeen { peer, machines } => {
            let [one, other] = machines.each_ref().map(TwinMachine::title);
            tracing::error!(
                event = "twin_seen",
                %peer,
                one,
                other,
                "two live machines have the identity of a peer: {one} and {other}"
            );
        }
        Event::TwinUnasked { peer } => tracing::warn!(
            event = "twin_unasked",
            %peer,
            "two lives of a peer were not asked whether they are two machines: too many are asked"
        ),
        Event::OwnTwin { told_by, other } => {
            let other = other.title();
            let told_by = told_by.map(|by| by.to_string()).unwrap_or_default();
            tracing::error!(
                event = "own_twin",
                told_by,
                other,
                "another live machine has this node's identity: {other}"
            );
        }
        Event::TwinParted { qm, title, over } => tracing::warn!(
            event = "twin_parted",
            %qm,
            machine = title.as_str(),
            over,
            "{title} takes an identity of its own instead of {qm}; approve that one when it asks: \
             qm-node peers list"
        ),
        Event::ElectionLost {
            told_by,
            winner,
            on_twin,
        } => {
            let winner = winner.title();
            let told_by = told_by.map(|by| by.to_string()).unwrap_or_default();
            tracing::error!(
                event = "election_lost",
                told_by,
                winner,
                on_twin = on_twin.name(),
                "another live machine keeps this node's identity: {winner}; this one \
                 needs another, which it takes when on_twin = reidentify; else: qm-node identity remint"
            );
        }
        Event::Quarantined { queue, messages } => tracing::warn!(
            event = "quarantined",
            queue = queue.as_str(),
            messages,
            "messages that another machine has as well are set aside: qm-node quarantine list"
        ),
        Event::QuarantineReleased { queue, messages } => tracing::warn!(
            event = "quarantine_released",
            queue = queue.as_str(),
            messages,
            "messages that were set aside are back in their queue"
        ),
        Event::Resumed { why } => tracing::warn!(
            event = "resumed",
            why,
            "this process may have been resumed from a snapshot ({why}): it connects anew, under \
             another life"
        ),
        Event::Moved => tracing::warn!(
            event = "moved",
            "this identity is on another machine than the one it was made on; \
             if it was copied and not moved, see docs/identity.md"
        ),
        Event::HistoryBranched { peer, by } => tracing::warn!(
            event = "history_branched",
            %peer,
            by = by.name(),
            "the history of a peer branched: it was copied, or went back to a backup"
        ),
        Event::OwnHistoryBranched { told_by } => tracing::warn!(
            event = "own_history_branched",
            %told_by,
            "this node's history branched: it was copied, or went back to a backup; \
             a new life begins, and what was left is asked for before it is sent"
        ),
        Event::OwnStoreWentBack { peer } => tracing::error!(
            event = "own_store_went_back",
            %peer,
            "this node's own store went back: a peer holds a token that this node does not remember"
        ),
        Event::Reidentified { old, new, because } => tracing::warn!(
            event = "reidentified",
            %old,
            %new,
            because = because.as_str(),
            "this node has a new identity; what it holds is delivered under the former one"
        ),
        Event::IdentitySwitched { peer, remote } => tracing::info!(
            event = "identity_switched",
            peer = peer.map(|peer| peer.to_string()).unwrap_or_default(),
            remote = remote.as_str(),
            "a destination is spoken to under this node's new identity from now on"
        ),
        Event::FormerDrained { former } => tracing::info!(
            event = "former_drained",
            %former,
            "nothing is left to do under the former identity; its key is kept for 30 days"
        ),
        Event::FormerErased { former } => tracing::warn!(
            event = "former_erased",
            %former,
            "the key of the former identity is erased"
        ),
        Event::PeerSucceeded { old, new, moved } => tracing::warn!(
            event = "peer_succeeded",
            %old,
            %new,
            moved,
            "a peer proved with both keys that it has another identity; it may not send before it is approved"
        ),
        Event::StoreFull { full: true, by } => tracing::error!(
            event = "store_full",
            by = by.name(),
            "{}: nothing is accepted until there is room; nothing stored is lost",
            by.sentence()
        ),
        Event::StoreFull { full: false, by } => tracing::info!(
            event = "store_has_room",
            by = by.name(),
            "there is room for messages again"
        ),
        Event::QueueFull { queue, full: true } => {
            tracing::warn!(event = "queue_full", %queue, "a queue reached its quota");
        }
        Event::QueueFull { queue, full: false } => {
            tracing::info!(event = "queue_has_room", %queue, "a queue has room again");
        }
        Event::MessageDamaged {
            queue,
            priority,
            position,
            removed,
        } => tracing::error!(
            event = "message_damaged",
            queue = queue.as_str(),
            priority,
            position,
            removed,
            "a waiting message was damaged on disk and is lost; its queue goes on without it"
        ),
        Event::Unreadable { what } => tracing::error!(
            event = "unreadable",
            what,
            "a stored record cannot be understood and was left alone"
        ),
        Event::StreamHeld {
            peer,
            queue,
            incoming,
            text,
        } => tracing::warn!(
            event = "stream_held",
            peer = peer.map(tracing::field::display),
            %queue,
            incoming,
            %text,
            "a transactional stream stands"
        ),
        Event::StreamRerooted { peer, queue, text } => tracing::warn!(
            event = "stream_rerooted",
            peer = peer.map(tracing::field::display),
            %queue,
            %text,
            "a transactional stream begins anew"
        ),
        other => tracing::debug!(event = "other", ?other),
    }
}
