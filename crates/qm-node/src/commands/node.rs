//! The connection to the node, with failures as the command line tells them.

use qm_client::{
    AdminError, Client, ClientError, ReceiveError, SendError, SettleError, TransactionError,
};
use qm_node::admin_json::{ErrorDocument, List, Request, RouteStatsDocument};
use qm_node::errors::code_of_io;
use qm_wire::Outcome;
use serde::de::DeserializeOwned;

use crate::config::Settings;
use crate::exit::Failure;

/// A connected node.
pub(crate) struct Node {
    pub(crate) client: Client,
}

impl Node {
    pub(crate) async fn connect(settings: &Settings) -> Result<Self, Failure> {
        let client = Client::builder()
            .program("qm-node")
            .connect(settings.client_socket())
            .await;
        client
            .map(|client| Self { client })
            .map_err(|error| from_client(&error))
    }

    /// Asks for something administrative.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Failure> {
        let json = serde_json::to_vec(request).expect("requests have no failing serializer");
        let answer = self
            .client
            .admin(json)
            .await
            .map_err(|error| from_admin(&error))?;
        understood(&answer)
    }

    /// A whole listing, page by page.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        page: impl Fn(Option<String>) -> Request,
    ) -> Result<Vec<T>, Failure> {
        self.list_with_summary(page).await.map(|(items, _)| items)
    }

    /// A whole listing, page by page, with the summary of its last page.
    pub(crate) async fn list_with_summary<T: DeserializeOwned>(
        &self,
        page: impl Fn(Option<String>) -> Request,
    ) -> Result<(Vec<T>, Option<RouteStatsDocument>), Failure> {
        let mut items = Vec::new();
        let mut after = None;
        loop {
            let list: List<T> = self.ask(&page(after)).await?;
            items.extend(list.items);
            after = list.after;
            if after.is_none() {
                return Ok((items, list.summary));
            }
        }
    }
}

fn understood<T: DeserializeOwned>(answer: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(answer).map_err(|error| {
        let cause = format!("the node's answer is not understood: {error}");
        Failure::of("not_understood", cause)
    })
}

/// No connection.
pub(crate) fn from_client(error: &ClientError) -> Failure {
    let at = |path: &std::path::Path| path.display().to_string();
    match error {
        ClientError::NotRunning { path, reason } => {
            let cause = format!("no node answers at {}: {reason}", at(path));
            Failure::of("not_running", cause)
        }
        ClientError::Denied { path, reason } => {
            let cause = format!("this user may not use the socket {}: {reason}", at(path));
            Failure::of("no_permission", cause)
        }
        ClientError::PathTooLong { path } => {
            let bytes = path.as_os_str().len();
            let cause = format!(
                "the path of the local socket has {bytes} bytes, operating systems take 100: {}",
                at(path)
            );
            Failure::of("socket_path_too_long", cause)
        }
        ClientError::Io { path, reason } => {
            let cause = format!(
                "the connection to the node at {} failed: {reason}",
                at(path)
            );
            Failure::of(code_of_io(reason, "connection"), cause)
        }
        ClientError::HungUp { path } => {
            let cause = format!("the node at {} ended the connection", at(path));
            Failure::of("connection", cause)
        }
        ClientError::Timeout { path, after_ms } => {
            let path = at(path);
            let cause = format!("whoever listens at {path} did not answer within {after_ms} ms");
            Failure::of("no_answer", cause)
        }
        ClientError::Protocol { path, reason } => {
            let path = at(path);
            let cause =
                format!("what answers at {path} does not speak the local protocol: {reason}");
            Failure::of("not_a_node", cause)
        }
        ClientError::Version { path, node, client } => {
            let cause = format!(
                "the node at {} speaks version {node} of the local protocol, this command \
                 version {client}",
                at(path)
            );
            Failure::of("local_version", cause)
        }
        ClientError::OtherNode {
            path,
            before,
            after,
        } => {
            let path = at(path);
            let cause = format!("another node answers at {path} now: {after} instead of {before}");
            Failure::of("other_node", cause)
        }
        ClientError::Restarted { path } => {
            let cause = format!("the node at {} was restarted", at(path));
            Failure::of("connection", cause)
        }
        ClientError::System { what, reason } => {
            Failure::of("system", format!("cannot have {what}: {reason}"))
        }
        other => Failure::of("connection", other.to_string()),
    }
}

/// What was under way when the answer was lost.
fn lost(error: &ClientError) -> Failure {
    let cause = from_client(error).cause;
    Failure::of("outcome_unknown", format!("the answer was lost: {cause}"))
}

/// An administrative request that failed.
fn from_admin(error: &AdminError) -> Failure {
    match error {
        AdminError::Failed { json } => match serde_json::from_slice::<ErrorDocument>(json) {
            Ok(document) => Failure::from_document(document),
            Err(_other) => {
                let json = String::from_utf8_lossy(json);
                Failure::of(
                    "not_understood",
                    format!("the node's answer is not understood: {json}"),
                )
            }
        },
        AdminError::Invalid(error) => Failure::usage(error.to_string(), "ask for less"),
        AdminError::Disconnected(error) => from_client(error),
        AdminError::OutcomeUnknown(error) => {
            lost(error).with_fix("look whether it was done, then repeat the command")
        }
        other => Failure::of("connection", other.to_string()),
    }
}

/// A refusal in the node's words, which may say behind a semicolon what to do.
fn refused(outcome: Outcome, text: &str) -> Failure {
    match text.split_once("; ") {
        _ if text.is_empty() => Failure::rejected(outcome, outcome.describe()),
        Some((cause, fix)) => Failure::rejected(outcome, cause).with_fix(fix),
        None => Failure::rejected(outcome, text),
    }
}

/// A message that was not accepted.
pub(crate) fn from_send(error: &SendError) -> Failure {
    match error {
        SendError::Rejected { outcome, text } => refused(*outcome, text),
        SendError::TooLarge { bytes, limit } => Failure::rejected(
            Outcome::BODY_TOO_LARGE,
            format!("the body has {bytes} bytes and the node accepts {limit}"),
        ),
        SendError::Invalid(error) => {
            Failure::usage(error.to_string(), "shorten or correct that property")
        }
        SendError::Disconnected(error) => from_client(error),
        SendError::OutcomeUnknown(error) => lost(error),
        SendError::TooManyFollowed { limit } => Failure::of(
            "not_followed",
            format!("{limit} messages are being followed already"),
        ),
        other => Failure::of("connection", other.to_string()),
    }
}

/// Transactions that were not committed.
pub(crate) fn from_transaction(error: &TransactionError) -> Failure {
    match error {
        TransactionError::Aborted { outcome, text } => refused(*outcome, text),
        TransactionError::Disconnected(error) => from_client(error),
        TransactionError::OutcomeUnknown(error) => lost(error),
        other => Failure::of("connection", other.to_string()),
    }
}

/// Messages that could not be had.
pub(crate) fn from_receive(error: &ReceiveError) -> Failure {
    match error {
        ReceiveError::Refused { outcome, text } => refused(*outcome, text),
        ReceiveError::Invalid(error) => {
            Failure::usage(error.to_string(), "shorten or correct that option")
        }
        ReceiveError::Disconnected(error) => from_client(error),
        ReceiveError::Damaged {
            queue,
            lookup,
            reason,
        } => {
            let cause = format!("message {lookup} of queue {queue} is damaged: {reason}");
            Failure::rejected(Outcome::DAMAGED, cause)
        }
        other => Failure::of("connection", other.to_string()),
    }
}

/// Messages that were printed and are still in their queue.
pub(crate) fn from_settle(error: &SettleError) -> Failure {
    match error {
        SettleError::Refused { outcome, text } => refused(*outcome, text),
        SettleError::LeaseLost { .. } => Failure::rejected(Outcome::LEASE_LOST, error.to_string()),
        SettleError::OutcomeUnknown {
            queue,
            lookup,
            reason,
        } => {
            let cause = format!(
                "message {lookup} of queue {queue} is removed or will be delivered again: {}",
                from_client(reason).cause
            );
            let fix = format!("look with `qm-node peek {queue}` whether it is still there");
            Failure::of("outcome_unknown", cause).with_fix(fix)
        }
        other => Failure::of("outcome_unknown", other.to_string())
            .with_fix("look with `qm-node peek` whether the message is still there"),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;
    use crate::exit::Exit;

    #[test]
    fn every_failure_of_a_connection_has_its_row() {
        let path = || std::path::PathBuf::from("/run/qm/node.sock");
        let os = |number| Arc::new(io::Error::from_raw_os_error(number));
        let qm = |last| qm_wire::QmId::from_bytes([last; 16]);
        for (code, error) in [
            (
                "not_running",
                ClientError::NotRunning {
                    path: path(),
                    reason: os(2),
                },
            ),
            (
                "no_permission",
                ClientError::Denied {
                    path: path(),
                    reason: os(13),
                },
            ),
            ("connection", ClientError::HungUp { path: path() }),
            (
                "no_answer",
                ClientError::Timeout {
                    path: path(),
                    after_ms: 10_000,
                },
            ),
            (
                "not_a_node",
                ClientError::Protocol {
                    path: path(),
                    reason: qm_client::Violation::NoHello,
                },
            ),
            (
                "local_version",
                ClientError::Version {
                    path: path(),
                    node: 9,
                    client: 1,
                },
            ),
            (
                "other_node",
                ClientError::OtherNode {
                    path: path(),
                    before: qm(1),
                    after: qm(2),
                },
            ),
        ] {
            let failure = from_client(&error);
            assert_eq!(failure.code, code);
            failure.assert_as_in_the_table();
        }
        let long = ClientError::PathTooLong {
            path: "/srv/a-long-path/node.sock".into(),
        };
        from_client(&long).assert_as_in_the_table();
        let gone = ClientError::HungUp { path: path() };
        let unknown = from_send(&SendError::OutcomeUnknown(gone.clone()));
        assert_eq!(unknown.code, "outcome_unknown");
        unknown.assert_as_in_the_table();
        let settling = from_settle(&SettleError::OutcomeUnknown {
            queue: "orders".parse().unwrap(),
            lookup: 7,
            reason: gone,
        });
        assert_eq!(
            (&*settling.code, settling.exit),
            ("outcome_unknown", Exit::Failed)
        );
        assert!(
            settling.fix.contains("`qm-node peek orders`"),
            "{settling:?}"
        );
        let many = from_send(&SendError::TooManyFollowed { limit: 32_768 });
        assert_eq!(many.code, "not_followed");
        many.assert_as_in_the_table();
        let files = ClientError::Io {
            path: path(),
            reason: os(24),
        };
        assert_eq!(from_client(&files).code, "too_many_files");
    }

    #[test]
    fn failures_have_the_codes_of_the_contract() {
        let reason = || Arc::new(io::Error::from(io::ErrorKind::NotFound));
        let gone = ClientError::NotRunning {
            path: "/x".into(),
            reason: reason(),
        };
        assert_eq!(from_client(&gone).exit, Exit::NotRunning);
        let denied = ClientError::Denied {
            path: "/x".into(),
            reason: reason(),
        };
        assert_eq!(from_client(&denied).exit, Exit::Failed);
        let rejected = SendError::Rejected {
            outcome: Outcome::QUOTA_EXCEEDED,
            text: "full".into(),
        };
        let failure = from_send(&rejected);
        assert_eq!(
            (failure.exit, failure.cause.as_str()),
            (Exit::Rejected, "full")
        );
        assert_eq!(failure.code, "queue_quota_exceeded");
        let failure = refused(Outcome::NOT_FOUND, "there is no queue x; create it");
        assert_eq!(
            (&*failure.cause, &*failure.fix),
            ("there is no queue x", "create it")
        );
        assert_eq!(
            from_send(&SendError::OutcomeUnknown(gone.clone())).exit,
            Exit::Failed
        );
        assert_eq!(
            from_send(&SendError::Disconnected(gone)).exit,
            Exit::NotRunning
        );
        let failed = AdminError::Failed {
            json: br#"{"schema":"qm.error/1","code":"not_found","outcome":"9013","cause":"c","fix":"f"}"#.to_vec(),
        };
        let failure = from_admin(&failed);
        assert_eq!(
            (failure.exit, failure.outcome),
            (Exit::Rejected, Some(Outcome::NOT_FOUND))
        );
        assert_eq!((failure.cause.as_str(), failure.fix.as_str()), ("c", "f"));
    }
}
