//! The connection to the node, with failures as the command line tells them.

use qm_client::{AdminError, Client, ClientError, ReceiveError, SendError, SettleError};
use qm_node::admin_json::{ErrorDocument, List, Request, RouteStatsDocument};
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
        Failure::of("connection", cause)
            .with_fix("use the qm-node command of the node's own version")
    })
}

/// No connection.
pub(crate) fn from_client(error: &ClientError) -> Failure {
    match error {
        ClientError::NotRunning { path, reason } => {
            let cause = format!("no node answers at {}: {reason}", path.display());
            Failure::of("not_running", cause)
        }
        ClientError::Denied { path, reason } => {
            Failure::of("no_permission", format!("{}: {reason}", path.display()))
        }
        other => Failure::of("connection", other.to_string()),
    }
}

/// An administrative request that failed.
fn from_admin(error: &AdminError) -> Failure {
    match error {
        AdminError::Failed { json } => match serde_json::from_slice::<ErrorDocument>(json) {
            Ok(document) => Failure::from_document(document),
            Err(_other) => Failure::of("connection", String::from_utf8_lossy(json).into_owned()),
        },
        AdminError::Invalid(error) => Failure::usage(error.to_string(), "ask for less"),
        AdminError::Disconnected(error) => from_client(error),
        AdminError::OutcomeUnknown(error) => Failure::of("outcome_unknown", error.to_string())
            .with_fix("look whether it was done, then repeat the command"),
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
        SendError::OutcomeUnknown(error) => Failure::of("outcome_unknown", error.to_string()),
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
        ReceiveError::Damaged { .. } => Failure::rejected(Outcome::DAMAGED, error.to_string()),
        other => Failure::of("connection", other.to_string()),
    }
}

/// Messages that were printed and are still in their queue.
pub(crate) fn from_settle(error: &SettleError) -> Failure {
    match error {
        SettleError::Refused { outcome, .. } => Failure::rejected(*outcome, error.to_string()),
        SettleError::LeaseLost { .. } => Failure::rejected(Outcome::LEASE_LOST, error.to_string()),
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
