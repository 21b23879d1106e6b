//! Rules between values: what cannot be kept, or would make no sense.

use super::units::{about_size, show_duration, show_size};
use super::{ConfigError, Origin, Settings};

/// Memory of an entry of the duplicate cache, rounded up from what its benchmark tells of a large
/// one: two rings of 70 bytes an entry.
const DEDUP_ENTRY_BYTES: u64 = 140;
/// Applications may hide a lost connection for 23 hours, and then repeat what is unanswered: until
/// then it must be known.
const OUTCOME_RETENTION_MIN_MS: u64 = 24 * 60 * 60 * 1_000;
/// Bytes of a Unix socket's path that every supported system takes.
const SOCKET_PATH_BYTES_MAX: usize = 100;

impl Settings {
    /// Everything that does not go together, or not with this many bytes of memory.
    pub(super) fn check(&self, memory: Option<u64>) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let mut rule = |key: &str, broken: bool, problem: String, fix: &str| {
            if broken {
                errors.push(self.broken(key, &problem, fix));
            }
        };
        let engine = &self.engine;
        rule(
            "reconnect.min",
            engine.reconnect_min_ms > engine.reconnect_max_ms,
            "the first pause is longer than the longest, `reconnect.max`".to_owned(),
            "set reconnect.min to reconnect.max at most",
        );
        rule(
            "session.ack_wait_min",
            engine.ack_wait_min_ms > engine.ack_wait_ms,
            "the shortest wait is longer than the longest, `session.ack_wait`".to_owned(),
            "set session.ack_wait_min to session.ack_wait at most",
        );
        rule(
            "client.outcome_retention",
            engine.outcome_retention_ms < OUTCOME_RETENTION_MIN_MS,
            format!(
                "applications repeat for up to 23h what was not answered, and after {} it would \
                 be accepted a second time",
                show_duration(engine.outcome_retention_ms)
            ),
            "set client.outcome_retention to 1d at least",
        );
        let body = u64::from(engine.body_bytes_max);
        rule(
            "limits.body_bytes",
            body > engine.store_bytes_max,
            format!(
                "the largest body, {}, could never be stored: `limits.store_bytes` is {}",
                show_size(body),
                show_size(engine.store_bytes_max)
            ),
            "raise limits.store_bytes, or lower limits.body_bytes",
        );
        errors.extend(memory.and_then(|memory| self.check_memory(memory)));
        errors.extend(self.check_disk());
        errors.extend(self.check_socket());
        errors
    }

    /// What the node may keep in memory with one peer and one application must fit there: else the
    /// system would end it before it refuses anything.
    fn check_memory(&self, memory: u64) -> Option<ConfigError> {
        let engine = &self.engine;
        let bytes = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        let pools = [
            ("limits.express_bytes", bytes(engine.express_bytes_max)),
            ("limits.resident_bytes", bytes(engine.resident_bytes_max)),
            ("store.index_bytes", bytes(self.store.index_bytes_max)),
            (
                "dedup.size",
                bytes(engine.dedup_capacity).saturating_mul(DEDUP_ENTRY_BYTES),
            ),
            ("window.bytes", engine.window_bytes),
            ("window.client_bytes", engine.client_window_bytes.into()),
        ];
        let sum = pools
            .iter()
            .fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        let (largest, _) = pools.iter().max_by_key(|(_, bytes)| *bytes)?;
        (sum > memory).then(|| {
            let parts: Vec<String> = pools
                .iter()
                .map(|(key, bytes)| format!("{key} {}", about_size(*bytes)))
                .collect();
            let problem = format!(
                "messages may take {} of memory ({}), and this machine or service has {}",
                about_size(sum),
                parts.join(", "),
                about_size(memory)
            );
            self.broken(
                largest,
                &problem,
                "lower them, or give the node more memory",
            )
        })
    }

    /// The store would refuse it as well, in the words of its own options.
    fn check_disk(&self) -> Option<ConfigError> {
        let disk = self.store.disk_bytes_max?;
        let segment = u64::from(self.node_config().segment_bytes());
        let reserve = self.store.reserve_bytes.div_ceil(segment);
        let least = reserve.saturating_add(1).saturating_mul(segment);
        (disk < least).then(|| {
            let problem = format!(
                "{} do not hold the reserve ({}) and one file more ({}, as the largest body asks): \
                 {} are needed",
                show_size(disk),
                show_size(self.store.reserve_bytes),
                show_size(segment),
                show_size(least)
            );
            let fix = "raise store.disk_bytes, or lower limits.body_bytes, store.segment_bytes or \
                       store.reserve_bytes";
            self.broken("store.disk_bytes", &problem, fix)
        })
    }

    fn check_socket(&self) -> Option<ConfigError> {
        let bytes = self.socket.as_os_str().len();
        (bytes > SOCKET_PATH_BYTES_MAX).then(|| {
            let origin = ["socket", "data"].map(|key| self.origin(key));
            let origin = origin
                .into_iter()
                .find(|origin| **origin != Origin::Default);
            let told = origin.map_or_else(String::new, |origin| format!("{}: ", origin.exact()));
            let cause = format!(
                "{told}the path of the local socket has {bytes} bytes, operating systems take \
                 {SOCKET_PATH_BYTES_MAX}: {}",
                self.socket.display()
            );
            let fix = "choose a shorter path with --socket, or `socket` in the configuration; \
                       the data may stay where it is";
            ConfigError {
                code: "socket_path_too_long",
                ..ConfigError::new(cause, fix.to_owned())
            }
        })
    }

    fn broken(&self, key: &str, problem: &str, fix: &str) -> ConfigError {
        let origin = self.origin(key);
        let excerpt = match origin {
            Origin::File(place) => Some(place.excerpt()),
            _ => None,
        };
        ConfigError {
            excerpt,
            ..ConfigError::new(
                format!("{}: `{key}`: {problem}", origin.exact()),
                fix.to_owned(),
            )
        }
    }
}
