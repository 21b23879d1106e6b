//! What an endpoint tells, as an input of the engine.

use qm_engine::{DialFailure, Input, LinkId};
use qm_transport::{CloseReason, DialError, Event, Held};

/// The input that an event is, if it is one, and the bytes to be given back afterwards.
pub(crate) fn input_of(event: Event) -> (Option<Input>, Option<Held>) {
    let input = match event {
        Event::Connected {
            link,
            peer,
            public_key,
            own,
            remote,
            dial,
        } => Input::Connected {
            link: LinkId(link.0),
            peer,
            public_key,
            own,
            remote,
            dial,
        },
        Event::DialFailed { dial, error } => Input::DialFailed {
            dial,
            failure: failure(&error),
            text: error.to_string(),
        },
        Event::Received {
            link, frames, held, ..
        } => {
            let link = LinkId(link.0);
            return (Some(Input::Received { link, frames }), Some(held));
        }
        Event::Closed { link, reason } => Input::Closed {
            link: LinkId(link.0),
            text: text(reason),
        },
        _ => return (None, None),
    };
    (Some(input), None)
}

fn failure(error: &DialError) -> DialFailure {
    match error {
        DialError::Resolve { .. } => DialFailure::Unresolved,
        DialError::Refused { .. } | DialError::Busy { .. } => DialFailure::Refused,
        DialError::WrongIdentity { .. } => DialFailure::WrongIdentity,
        DialError::Version { .. } => DialFailure::Version,
        DialError::Tls { .. } => DialFailure::Handshake,
        _ => DialFailure::Unreachable,
    }
}

fn text(reason: CloseReason) -> String {
    match reason {
        CloseReason::Local { reason, .. } | CloseReason::Peer { reason, .. }
            if !reason.is_empty() =>
        {
            reason
        }
        other => other.to_string(),
    }
}
