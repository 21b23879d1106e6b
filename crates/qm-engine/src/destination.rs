//! Where a message goes: from what an application writes to a queue here or a node elsewhere.

use qm_wire::{Class, Destination, Outcome, QueueName};

use crate::engine::Engine;
use crate::record::RemoteKey;

/// Where a put goes.
pub(crate) enum Target {
    Local(u32),
    Remote(RemoteKey, QueueName),
}

impl Engine {
    /// Resolves a destination as an application writes it.
    pub(crate) fn resolve(&mut self, text: &str) -> Result<Target, (Outcome, String)> {
        let bad = |text: String| (Outcome::BAD_DESTINATION_NAME, text);
        let destination: Destination = text
            .parse()
            .map_err(|error: qm_wire::AddressError| bad(error.to_string()))?;
        let key = match &destination {
            Destination::Local { queue } => return self.local_target(queue),
            Destination::Peer { peer, .. } => match self.peers.names.get(&peer.to_lowercase()) {
                Some(entry) => entry.remote.clone(),
                None => match self.peers.find_for_sending(peer).as_slice() {
                    [qm] => RemoteKey::Id(*qm),
                    [] => {
                        return Err(bad(format!(
                            "no peer is called {peer}; add it with: qm-node peers add {peer} HOST[:PORT]"
                        )));
                    }
                    _ => return Err(bad(format!("several peers are called {peer}"))),
                },
            },
            Destination::Host {
                qm: Some(qm),
                host,
                port,
                ..
            } => {
                self.learn_host(*qm, host, *port);
                RemoteKey::Id(*qm)
            }
            Destination::Host {
                qm: None,
                host,
                port,
                ..
            } => RemoteKey::Host(join_host(host, *port)),
            Destination::Id { qm, .. } => RemoteKey::Id(*qm),
            _ => return Err(bad("this form of destination is not known here".to_owned())),
        };
        if matches!(&key, RemoteKey::Id(qm) if *qm == self.me.qm || self.was_here(*qm)) {
            return self.local_target(destination.queue());
        }
        Ok(Target::Remote(key, destination.queue().clone()))
    }

    /// Whether a queue of this node takes messages of this class: transactional queues take
    /// transactional messages and nothing else. Of queues elsewhere their own node knows.
    pub(crate) fn check_class(
        &self,
        class: Class,
        target: &Target,
    ) -> Result<(), (Outcome, String)> {
        let Target::Local(number) = target else {
            return Ok(());
        };
        let Some(queue) = self.locals.get(number) else {
            return Ok(());
        };
        let name = &queue.settings.name;
        match (queue.settings.transactional, class == Class::Transactional) {
            (false, true) => Err((
                Outcome::NOT_TRANSACTIONAL_QUEUE,
                format!("queue {name} is not transactional; send a recoverable message"),
            )),
            (true, false) => Err((
                Outcome::NOT_TRANSACTIONAL_MESSAGE,
                format!("queue {name} is transactional; send with --transactional"),
            )),
            _ => Ok(()),
        }
    }

    fn local_target(&self, queue: &QueueName) -> Result<Target, (Outcome, String)> {
        match self.local_names.get(queue) {
            Some(_) if queue.is_system() => {
                let text = format!("{queue} belongs to the system; it cannot be sent to");
                Err((Outcome::ACCESS_DENIED, text))
            }
            Some(number) => Ok(Target::Local(*number)),
            None => {
                let text = format!(
                    "there is no queue {queue} on this node; create it with: qm-node queue create {queue}"
                );
                Err((Outcome::BAD_DESTINATION_QUEUE, text))
            }
        }
    }

    fn learn_host(&mut self, qm: qm_wire::QmId, host: &str, port: u16) {
        use crate::peers::{Approval, PeerRecord};
        let known = &self.peers.known;
        if known.len() >= crate::limits::PEERS_MAX && !known.contains_key(&qm) {
            return;
        }
        let record = self
            .peers
            .known
            .entry(qm)
            .or_insert_with(|| PeerRecord::new([0; 32], Approval::Known));
        let address = join_host(host, port);
        if !record.addresses.contains(&address) {
            record.learn_address(address);
            self.save_peer(qm);
        }
    }
}

fn join_host(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}
