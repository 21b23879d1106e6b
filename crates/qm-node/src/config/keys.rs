//! Every key: its name, meaning, and how its value is read and shown.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use qm_engine::{OnTwin, Trust};
use qm_wire::limits::{BODY_BYTES_MAX, NAME_BYTES_MAX, WINDOW_MESSAGES_MAX};

use super::units::{parse_duration, parse_size, show_duration, show_size};
use super::{LogFormat, Settings};

/// A key of the configuration.
pub(crate) struct Key {
    /// `section.key`, or `key` at the top.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Its meaning, wrapped for a comment.
    pub(crate) doc: &'static str,
    /// The value as text that `set` reads back.
    pub(crate) show: fn(&Settings) -> String,
    /// Takes a value, or says what is wrong with it.
    pub(crate) set: fn(&mut Settings, &str) -> Result<(), String>,
}

/// What the value of a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Number,
    Duration,
    Size,
    Text,
    Levels,
    Path,
    Address,
    Word(&'static [&'static str]),
}

impl Key {
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }
}

impl Kind {
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Number => "a whole number, such as 10000".to_owned(),
            Self::Duration => "a duration, such as \"30s\" or \"4d\"".to_owned(),
            Self::Size => "a size, such as \"4MiB\"".to_owned(),
            Self::Text => "a text".to_owned(),
            Self::Levels => {
                "a level, also per module: such as \"info\" or \"info,qm_node=debug\"".to_owned()
            }
            Self::Path => "a path".to_owned(),
            Self::Address => "an address and a port, such as \"[::]:1801\" or \":1801\"".to_owned(),
            Self::Word(words) => format!("one of: {}", words.join(", ")),
        }
    }

    /// A value as TOML writes it.
    pub(crate) fn toml(self, value: &str) -> String {
        if self == Self::Number {
            value.to_owned()
        } else {
            quoted(value)
        }
    }
}

/// A basic string of TOML. Rust's own escapes differ from TOML's: `\u{fff8}` is none there.
fn quoted(value: &str) -> String {
    let mut text = String::from('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            c if c.is_control() => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

/// A whole number between two others.
fn number<T: TryFrom<u64>>(text: &str, from: u64, to: u64) -> Result<T, String> {
    let wrong = || format!("`{text}` is not a whole number from {from} to {to}");
    let value: u64 = text
        .trim()
        .replace('_', "")
        .parse()
        .map_err(|_not| wrong())?;
    bounded(value, from, to, wrong)
}

fn size<T: TryFrom<u64>>(text: &str, from: u64, to: u64) -> Result<T, String> {
    let wrong = || {
        format!(
            "`{text}` is not between {} and {}",
            show_size(from),
            show_size(to)
        )
    };
    bounded(parse_size(text)?, from, to, wrong)
}

fn bounded<T: TryFrom<u64>>(
    value: u64,
    from: u64,
    to: u64,
    wrong: impl Fn() -> String,
) -> Result<T, String> {
    let inside = (from..=to).contains(&value).then_some(value);
    inside
        .and_then(|value| T::try_from(value).ok())
        .ok_or_else(wrong)
}

/// A duration that ends.
fn finite(text: &str) -> Result<u64, String> {
    match parse_duration(text)? {
        0 => Err("it must not be 0".to_owned()),
        qm_wire::INFINITE_MS => Err("it must not be infinite".to_owned()),
        ms => Ok(ms),
    }
}

fn path(text: &str) -> Result<std::path::PathBuf, String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    std::path::absolute(text).map_err(|e| e.to_string())
}

/// `address:port`, or `:port` for all addresses of both families.
fn address(text: &str) -> Result<SocketAddr, String> {
    let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let wrong = |_error| format!("`{text}` is no address with a port");
    match text.strip_prefix(':') {
        Some(port) if !port.starts_with(':') => port
            .parse()
            .map(|port| SocketAddr::new(any, port))
            .map_err(wrong_port(text)),
        _ => text.parse().map_err(wrong),
    }
}

fn wrong_port(text: &str) -> impl FnOnce(std::num::ParseIntError) -> String + '_ {
    move |_error| format!("`{text}` names no port from 0 to 65535")
}

/// Bytes that a 64-bit memory could hold: no limit of its own.
const ANY: u64 = u64::MAX;

macro_rules! keys {
    ($($name:literal, $kind:expr, $doc:literal, $show:expr, $set:expr;)*) => {
        /// All keys, those of a section together.
        pub(crate) const KEYS: &[Key] = &[
            $(Key { name: $name, kind: $kind, doc: $doc, show: $show, set: $set },)*
        ];
    };
}

macro_rules! duration {
    ($field:ident) => {
        |s| show_duration(s.engine.$field)
    };
}

macro_rules! set_duration {
    ($field:ident) => {
        |s, text| {
            s.engine.$field = finite(text)?;
            Ok(())
        }
    };
}

keys! {
    "listen", Kind::Address,
    "UDP address at which peers reach this node; [::] takes IPv4 as well, port 0 any free port.",
    |s| s.listen.to_string(),
    |s, text| { s.listen = address(text)?; Ok(()) };

    "name", Kind::Text,
    "Name under which people know this node. Empty: the one given at its creation, else the name\nof the host.",
    |s| s.name.clone().unwrap_or_default(),
    |s, text| {
        if text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(format!("a name is one line of at most {NAME_BYTES_MAX} bytes"));
        }
        s.name = (!text.trim().is_empty()).then(|| text.trim().to_owned());
        Ok(())
    };

    "trust", Kind::Word(&["approve", "any"]),
    "Who may send to this node: `approve` lets a stranger wait until `qm-node peers approve`, `any`\nlets everybody send (for laboratories).",
    |s| match s.engine.trust { Trust::Approve => "approve", Trust::Any => "any" }.to_owned(),
    |s, text| {
        s.engine.trust = match text {
            "approve" => Trust::Approve,
            "any" => Trust::Any,
            other => return Err(format!("`{other}` is no kind of trust")),
        };
        Ok(())
    };

    "on_twin", Kind::Word(&["reidentify", "alarm-only"]),
    "What this node does when another live machine has its identity and proves the higher rank:\n`reidentify` takes another at once while it runs, losing nothing; `alarm-only` tells the\noperators, who decide (qm-node identity remint).",
    |s| s.engine.on_twin.name().to_owned(),
    |s, text| {
        s.engine.on_twin = match text {
            "reidentify" => OnTwin::Reidentify,
            "alarm-only" => OnTwin::AlarmOnly,
            other => return Err(format!("`{other}` is nothing that a node does then")),
        };
        Ok(())
    };

    "data", Kind::Path,
    "Directory of identity and messages. For a user other than root: ~/.local/state/qm.",
    |s| s.data.display().to_string(),
    |s, text| { s.data = path(text)?; Ok(()) };

    "socket", Kind::Path,
    "Socket of applications and of the qm-node command. For a user other than root:\n$XDG_RUNTIME_DIR/qm/node.sock; with `data` set: node.sock in that directory.",
    |s| s.socket.display().to_string(),
    |s, text| { s.socket = path(text)?; Ok(()) };

    "log", Kind::Levels,
    "What is logged: error, warn, info, debug or trace, also per module as in\n\"info,qm_node=debug\".",
    |s| s.log.clone(),
    |s, text| { crate::logging::filter(text)?; text.clone_into(&mut s.log); Ok(()) };

    "log_format", Kind::Word(&["text", "json"]),
    "Shape of log lines.",
    |s| match s.log_format { LogFormat::Text => "text", LogFormat::Json => "json" }.to_owned(),
    |s, text| {
        s.log_format = match text {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            other => return Err(format!("`{other}` is no format of log lines")),
        };
        Ok(())
    };

    "limits.body_bytes", Kind::Size,
    "Largest body of a message, up to 1GiB.",
    |s| show_size(s.engine.body_bytes_max.into()),
    |s, text| { s.engine.body_bytes_max = size(text, 1, BODY_BYTES_MAX.into())?; Ok(()) };

    "limits.store_bytes", Kind::Size,
    "Bytes of waiting messages on disk; above, the node accepts nothing until there is room.",
    |s| show_size(s.engine.store_bytes_max),
    |s, text| { s.engine.store_bytes_max = size(text, 1 << 20, ANY)?; Ok(()) };

    "limits.express_bytes", Kind::Size,
    "Bytes of waiting express messages, which live in memory.",
    |s| show_size(s.engine.express_bytes_max as u64),
    |s, text| { s.engine.express_bytes_max = size(text, 0, ANY)?; Ok(()) };

    "limits.resident_bytes", Kind::Size,
    "Bytes of waiting durable messages that are kept in memory beside the disk.",
    |s| show_size(s.engine.resident_bytes_max as u64),
    |s, text| { s.engine.resident_bytes_max = size(text, 0, ANY)?; Ok(()) };

    "limits.pending_peers", Kind::Number,
    "Strangers that may await approval at a time.",
    |s| s.engine.pending_peers_max.to_string(),
    |s, text| { s.engine.pending_peers_max = number(text, 0, 1_000_000)?; Ok(()) };

    "store.segment_bytes", Kind::Size,
    "Size of a file of the message log, a multiple of 4KiB; it is raised when the largest body asks\nfor it. A new size holds for new files.",
    |s| show_size(s.store.segment_bytes.into()),
    |s, text| {
        let bytes: u32 = size(text, 64 << 10, 2 << 30)?;
        if !bytes.is_multiple_of(4 << 10) {
            return Err(format!("`{text}` is not a multiple of 4KiB"));
        }
        s.store.segment_bytes = bytes;
        Ok(())
    };

    "store.reserve_bytes", Kind::Size,
    "Disk space kept free for acknowledgements and removals, so that a full node can be drained.",
    |s| show_size(s.store.reserve_bytes),
    |s, text| { s.store.reserve_bytes = size(text, 1 << 20, ANY)?; Ok(()) };

    "store.scrub_rate", Kind::Size,
    "Bytes of waiting messages that are verified a second in the background, once a day, while\nnothing else is read; 0 for never.",
    |s| show_size(s.scrub_bytes_per_second),
    |s, text| { s.scrub_bytes_per_second = size(text, 0, ANY)?; Ok(()) };

    "store.disk_bytes", Kind::Size,
    "Most that the files of the message log may take together; \"none\" for all the disk gives.",
    |s| s.store.disk_bytes_max.map_or_else(|| "none".to_owned(), show_size),
    |s, text| {
        s.store.disk_bytes_max = match text {
            "none" => None,
            text => Some(size(text, 1 << 20, ANY)?),
        };
        Ok(())
    };

    "store.index_bytes", Kind::Size,
    "Memory for the index of what waits on disk; the parts of a longer one that are not needed now\nwait in a file. The newest records of every queue stay in memory beside it.",
    |s| show_size(s.store.index_bytes_max as u64),
    |s, text| { s.store.index_bytes_max = size(text, 1 << 20, ANY)?; Ok(()) };

    "store.side_file_bytes", Kind::Size,
    "Bodies of so many bytes or more get a file of their own beside the message log.",
    |s| show_size(s.store.side_file_bytes as u64),
    |s, text| { s.store.side_file_bytes = size(text, 64 << 10, 64 << 20)?; Ok(()) };

    "dedup.size", Kind::Number,
    "Messages that the duplicate cache remembers; 0 turns it off.",
    |s| s.engine.dedup_capacity.to_string(),
    |s, text| { s.engine.dedup_capacity = number(text, 0, 100_000_000)?; Ok(()) };

    "dedup.purge_interval", Kind::Duration,
    "Age at which an entry of the duplicate cache is forgotten.",
    duration!(dedup_purge_interval_ms), set_duration!(dedup_purge_interval_ms);

    "ack_route.lifetime", Kind::Duration,
    "How long the way back to a sender is remembered after it was last heard of.",
    duration!(ack_route_lifetime_ms), set_duration!(ack_route_lifetime_ms);

    "ack_route.purge_interval", Kind::Duration,
    "How often ways back that have run out are removed.",
    duration!(ack_route_purge_interval_ms), set_duration!(ack_route_purge_interval_ms);

    "window.messages", Kind::Number,
    "Messages that a peer may have in flight towards this node, up to 4096.",
    |s| s.engine.window_messages.to_string(),
    |s, text| { s.engine.window_messages = number(text, 1, WINDOW_MESSAGES_MAX)?; Ok(()) };

    "window.bytes", Kind::Size,
    "Bytes that a peer may have in flight towards this node.",
    |s| show_size(s.engine.window_bytes),
    |s, text| { s.engine.window_bytes = size(text, 64 << 10, 1 << 30)?; Ok(()) };

    "window.client_messages", Kind::Number,
    "Messages that an application may have sent without an answer.",
    |s| s.engine.client_window_messages.to_string(),
    |s, text| { s.engine.client_window_messages = number(text, 1, 1 << 20)?; Ok(()) };

    "window.client_bytes", Kind::Size,
    "Bytes that an application may have sent without an answer.",
    |s| show_size(s.engine.client_window_bytes.into()),
    |s, text| { s.engine.client_window_bytes = size(text, 64 << 10, 1 << 30)?; Ok(()) };

    "reconnect.min", Kind::Duration,
    "First pause before a peer is dialled again; it doubles up to the longest.",
    duration!(reconnect_min_ms), set_duration!(reconnect_min_ms);

    "reconnect.max", Kind::Duration,
    "Longest pause before a peer is dialled again.",
    duration!(reconnect_max_ms), set_duration!(reconnect_max_ms);

    "session.handshake_timeout", Kind::Duration,
    "Time that two nodes have to greet each other.",
    duration!(handshake_timeout_ms), set_duration!(handshake_timeout_ms);

    "session.idle", Kind::Duration,
    "A session without messages is closed after this time, unless the peer is kept connected.",
    duration!(idle_session_ms), set_duration!(idle_session_ms);

    "session.ack_wait_min", Kind::Duration,
    "A message unacknowledged for eight times as long as acks take is asked for, and never resent\nblindly; after this time at the earliest.",
    duration!(ack_wait_min_ms), set_duration!(ack_wait_min_ms);

    "session.ack_wait", Kind::Duration,
    "The same, at the latest.",
    duration!(ack_wait_ms), set_duration!(ack_wait_ms);

    "session.query_interval", Kind::Duration,
    "How often an open question about a message is repeated.",
    duration!(query_interval_ms), set_duration!(query_interval_ms);

    "express.time_to_reach_queue", Kind::Duration,
    "Time that an express message has to reach its queue unless it says so itself; \"infinite\" is\npossible.",
    duration!(express_reach_queue_ms),
    |s, text| { s.engine.express_reach_queue_ms = parse_duration(text)?; Ok(()) };

    "recoverable.time_to_reach_queue", Kind::Duration,
    "The same for recoverable messages.",
    duration!(recoverable_reach_queue_ms),
    |s, text| { s.engine.recoverable_reach_queue_ms = parse_duration(text)?; Ok(()) };

    "client.outcome_retention", Kind::Duration,
    "How long an application may repeat a request, or an idempotency key, and get the first answer;\nat least 1d.",
    duration!(outcome_retention_ms), set_duration!(outcome_retention_ms);

    "client.transaction_time", Kind::Duration,
    "How long an application may keep a transaction open; then it is aborted.",
    duration!(transaction_ms_max), set_duration!(transaction_ms_max);

    "history.events", Kind::Number,
    "Events of messages remembered in memory for `trace`; 0 for none.",
    |s| s.engine.history_events_max.to_string(),
    |s, text| { s.engine.history_events_max = number(text, 0, 100_000_000)?; Ok(()) };

    "history.bytes", Kind::Size,
    "Memory for them; the smaller of the two limits holds.",
    |s| show_size(s.engine.history_bytes_max as u64),
    |s, text| { s.engine.history_bytes_max = size(text, 0, ANY)?; Ok(()) };
}
