//! Where a message goes: from what an application writes to a queue here or a node elsewhere.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use qm_wire::{AddressError, Class, Destination, Outcome, QueueName};

use crate::engine::Engine;
use crate::limits::UNDERSTOOD_MAX;
use crate::record::RemoteKey;

/// Where a put goes.
pub(crate) enum Target {
    Local(u32),
    Remote(RemoteKey, QueueName),
}

/// Destinations that applications wrote, understood: they write the same few over and over. What
/// they stand for may change, and is looked up each time.
#[derive(Debug, Default)]
pub(crate) struct Understood(BTreeMap<Box<str>, Arc<Destination>>);

impl Understood {
    fn understand(&mut self, text: &str) -> Result<Arc<Destination>, AddressError> {
        if let Some(known) = self.0.get(text) {
            return Ok(Arc::clone(known));
        }
        let destination: Arc<Destination> = Arc::new(text.parse()?);
        if self.0.len() >= UNDERSTOOD_MAX {
            self.0.clear();
        }
        self.0.insert(text.into(), Arc::clone(&destination));
        Ok(destination)
    }
}

/// A peer's name as the address book lists it.
fn lower(name: &str) -> Cow<'_, str> {
    if name
        .bytes()
        .all(|b| b.is_ascii() && !b.is_ascii_uppercase())
    {
        Cow::Borrowed(name)
    } else {
        Cow::Owned(name.to_lowercase())
    }
}

impl Engine {
    /// Resolves a destination as an application writes it.
    pub(crate) fn resolve(&mut self, text: &str) -> Result<Target, (Outcome, String)> {
        let bad = |text: String| (Outcome::BAD_DESTINATION_NAME, text);
        let understood = self.understood.understand(text);
        let destination = understood.map_err(|error| bad(error.to_string()))?;
        let key = match &*destination {
            Destination::Local { queue } => return self.local_target(queue),
            Destination::Peer { peer, .. } => match self.peers.names.get(&*lower(peer)) {
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
            _ if queue.is_system() => {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_understood_is_the_same_again_and_bounded() {
        let mut understood = Understood::default();
        for round in 0..3 {
            for n in 0..UNDERSTOOD_MAX + 1 {
                let text = format!("Hub/orders-{n}");
                let parsed: Destination = text.parse().unwrap();
                assert_eq!(*understood.understand(&text).unwrap(), parsed, "{round}");
                assert!(understood.0.len() <= UNDERSTOOD_MAX);
            }
        }
        let first = understood.understand("Hub/orders").unwrap();
        let again = understood.understand("Hub/orders").unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        let other = understood.understand("hub/Orders").unwrap();
        assert_ne!(*other, *first);
        let wrong: Result<Destination, _> = "".parse();
        assert_eq!(understood.understand("").err(), wrong.err());
    }

    #[test]
    fn names_are_lowered_as_the_book_does() {
        for name in ["hub", "Hub", "till-3", "Größe", "ÉCOLE", "straße", "İ", ""] {
            assert_eq!(lower(name), name.to_lowercase(), "{name}");
        }
        assert!(matches!(lower("till-3"), Cow::Borrowed(_)));
    }
}
