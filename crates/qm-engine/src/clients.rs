//! The local hop: what applications hand over is accepted exactly once, whatever is repeated.
//!
//! A request carries (client id, sequence). Its answer is stored in the same commit as the message
//! and kept, so a client that lost the reply asks again and gets the same answer. An idempotency
//! key does the same for an application that lost itself: it names the message, not the request.

mod accept;
mod answers;
mod commit;
mod followed;
mod keys;
mod pages;
mod room;
mod transactions;

use std::collections::{BTreeMap, BTreeSet};

use qm_wire::local::{Accepted, ClientFrame, Follow, NodeFrame, NodeHello};
use qm_wire::{ClientId, MessageId, Outcome};

use self::answers::ClientState;
pub(crate) use self::commit::Commit;
use self::keys::{KeyBlock, KeyState};
use self::transactions::Transaction;
use crate::digests::Digests;
use crate::engine::{Engine, Timer};
use crate::io::{ConnId, Output};
use crate::limits::{REMEMBERED_MAX, REMEMBERED_SLACK_MAX};
use crate::time::Timestamp;

/// Version of the protocol between an application and its node.
const LOCAL_PROTOCOL: u16 = 1;

/// One connection of an application.
#[derive(Debug, Default)]
pub(crate) struct Conn {
    client: Option<ClientId>,
    /// What the application calls itself.
    program: String,
    /// Highest number of a receive request: numbers rise on a connection.
    last_receive: Option<u64>,
    /// Receive requests without an answer.
    pub(crate) receives: usize,
    /// Messages held unsettled, and their bytes.
    pub(crate) leases: usize,
    pub(crate) lease_bytes: u64,
}

/// A message whose fate its sender wants to know.
#[derive(Clone, Copy, Debug)]
struct Followed {
    client: ClientId,
    sequence: u64,
    follow: Follow,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    pub(crate) conns: BTreeMap<ConnId, Conn>,
    states: BTreeMap<ClientId, ClientState>,
    keys: BTreeMap<KeyBlock, KeyState>,
    followed: BTreeMap<MessageId, Followed>,
    /// Of these, those whose whereabouts are looked up with the next batch.
    followed_again: BTreeSet<MessageId>,
    /// Those that were not found, while messages were on disk that were not looked through.
    followed_unsure: BTreeSet<MessageId>,
    /// When room for more of them is looked for again.
    next_unfollow: Timestamp,
    answers: BTreeMap<ConnId, Vec<Accepted>>,
    fates: BTreeMap<ConnId, Vec<(u64, u64, Outcome)>>,
    /// Bytes of the messages that all applications hold unsettled.
    pub(crate) lease_bytes: u64,
    digests: Digests,
    transactions: BTreeMap<(ConnId, u64), Transaction>,
    /// What the puts of open transactions take.
    transaction_bytes: usize,
    dirty_clients: BTreeSet<ClientId>,
    dirty_keys: BTreeSet<KeyBlock>,
}

impl Clients {
    pub(crate) fn is_connected(&self, conn: ConnId) -> bool {
        self.conns.contains_key(&conn)
    }

    /// The client of a connection, once it said hello.
    pub(crate) fn client_of(&self, conn: ConnId) -> Option<ClientId> {
        self.conns.get(&conn).and_then(|conn| conn.client)
    }

    /// An application as people know it.
    pub(crate) fn title(&self, conn: ConnId) -> String {
        match self.conns.get(&conn) {
            Some(Conn {
                client: Some(client),
                program,
                ..
            }) if !program.is_empty() => format!("application {program:?} (client {client})"),
            Some(Conn {
                client: Some(client),
                ..
            }) => format!("client {client}"),
            _ => format!("connection {}", conn.0),
        }
    }

    pub(crate) fn connected(&self) -> usize {
        self.conns.len()
    }

    /// Clients, keys and followed messages.
    pub(crate) fn remembered(&self) -> (usize, usize, usize) {
        (self.states.len(), self.keys.len(), self.followed.len())
    }
}

impl Engine {
    pub(crate) fn on_client(&mut self, conn: ConnId, frame: ClientFrame) {
        match frame {
            ClientFrame::Hello(hello) => {
                let client = hello.client;
                if self
                    .clients
                    .conns
                    .get(&conn)
                    .is_some_and(|c| c.client.is_some())
                {
                    return self.close_client(conn, "a second hello on one connection");
                }
                let known = self.clients.conns.entry(conn).or_default();
                known.client = Some(client);
                known.program = hello.program.as_str().to_owned();
                let state = self.clients.states.entry(client).or_default();
                state.conn = Some(conn);
                state.touched = self.now.at;
                let frame = NodeFrame::Hello(NodeHello {
                    protocol: LOCAL_PROTOCOL,
                    node: self.me.qm,
                    incarnation: self.incarnation,
                    name: self.config.name.as_str().into(),
                    body_bytes_max: self.config.body_bytes_max,
                    window_messages: self.config.client_window_messages,
                    window_bytes: self.config.client_window_bytes,
                });
                self.outputs.push_back(Output::Client { conn, frame });
                if self.clients.states.len() >= REMEMBERED_MAX + REMEMBERED_SLACK_MAX {
                    self.arm(self.now.at, Timer::Outcomes);
                }
            }
            ClientFrame::Put(put) => match self.clients.conns.get(&conn).and_then(|c| c.client) {
                Some(client) => {
                    self.on_put(conn, client, put);
                }
                None => self.close_client(conn, "a message before the hello"),
            },
            ClientFrame::Receive(receive) => {
                let known = self.clients.conns.entry(conn).or_default();
                // One that takes another's place is not one more.
                let new = known.last_receive.is_none_or(|last| receive.request > last);
                if new && known.receives >= qm_wire::limits::CLIENT_REQUESTS_MAX {
                    return self.close_client(conn, "too many receive requests without an answer");
                }
                self.on_receive(conn, receive);
            }
            ClientFrame::Settle(settle) => self.on_settle(conn, &settle),
            ClientFrame::EndTransaction(end) => self.on_end_transaction(conn, end),
            _ => self.close_client(conn, "a frame that the engine does not take"),
        }
    }

    /// Whether this number was not used by an earlier receive request of the connection.
    pub(crate) fn is_new_receive(&mut self, conn: ConnId, request: u64) -> bool {
        let last = &mut self.clients.conns.entry(conn).or_default().last_receive;
        let new = last.is_none_or(|last| request > last);
        *last = Some(last.map_or(request, |last| last.max(request)));
        new
    }

    fn close_client(&mut self, conn: ConnId, text: &str) {
        self.outputs.push_back(Output::CloseClient {
            conn,
            text: text.to_owned(),
        });
    }

    pub(crate) fn on_client_closed(&mut self, conn: ConnId) {
        self.drop_transactions(conn);
        if let Some(client) = self.clients.conns.remove(&conn).and_then(|c| c.client)
            && let Some(state) = self.clients.states.get_mut(&client)
            && state.conn == Some(conn)
        {
            state.conn = None;
            state.touched = self.now.at;
        }
        self.clients.answers.remove(&conn);
        self.clients.fates.remove(&conn);
        self.early_receives.retain(|(waiting, _)| *waiting != conn);
        self.release_leases(conn);
    }
}
