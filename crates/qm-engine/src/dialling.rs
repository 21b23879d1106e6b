//! Connections that this node makes: when one is wanted, at which addresses, and how long it waits
//! before the next try.

use bytes::Bytes;
use qm_wire::QmId;

use crate::connections::With;
use crate::engine::{Engine, Timer};
use crate::io::{DialFailure, Event, Output};
use crate::outgoing::{DialState, Remote};
use crate::peers::{Approval, PeerRecord, pin_key};
use crate::record::RemoteKey;

impl Engine {
    /// Dials when something wants a connection and there is none.
    pub(crate) fn want_connection(&mut self, number: u32) {
        let Some(remote) = self.remotes.get(&number) else {
            return;
        };
        if self.stopping || !matches!(remote.state, DialState::Idle) || !self.has_work(number) {
            return;
        }
        if remote
            .peer()
            .is_some_and(|peer| self.has_session(remote.own, peer))
        {
            return;
        }
        self.dial(number);
    }

    fn has_work(&self, number: u32) -> bool {
        let Some(remote) = self.remotes.get(&number) else {
            return false;
        };
        if self.asks_for_approval(remote) {
            return true;
        }
        let mints = remote.own == self.minting_own(&remote.key);
        (mints && self.is_kept(remote))
            || remote.at_work.values().any(|queue| {
                self.outs
                    .get(queue)
                    .is_some_and(|out| !out.paused && out.has_work())
            })
            || remote
                .peer()
                .is_some_and(|peer| self.awaits_finals(remote.own, peer))
            || (mints
                && remote.peer().is_some_and(|peer| {
                    self.owed.keys().any(|(qm, _)| *qm == peer) || self.has_final_for(peer)
                }))
    }

    fn addresses(&self, remote: &Remote) -> Vec<String> {
        let mut addresses = Vec::new();
        if let RemoteKey::Host(host) = &remote.key {
            addresses.push(host.clone());
        } else if let Some(peer) = remote.peer() {
            if let Some(record) = self.peers.known.get(&peer) {
                addresses.extend(record.addresses.iter().cloned());
            }
            for entry in self
                .remotes
                .values()
                .filter(|other| other.pin == Some(peer))
            {
                if let RemoteKey::Host(host) = &entry.key
                    && !addresses.contains(host)
                {
                    addresses.push(host.clone());
                }
            }
        }
        addresses
    }

    fn dial(&mut self, number: u32) {
        let Some(remote) = self.remotes.get(&number) else {
            return;
        };
        let addresses = self.addresses(remote);
        let (own, expected) = (remote.own, remote.peer());
        let busy = expected.is_some_and(|peer| {
            self.remotes.values().any(|other| {
                other.own == own
                    && other.peer() == Some(peer)
                    && matches!(other.state, DialState::Dialing { .. })
            })
        });
        if busy {
            // The other dial may fail, and with it what wanted it: look again.
            return self.back_off(number);
        }
        let Some(remote) = self.remotes.get_mut(&number) else {
            return;
        };
        let turn = remote.turn;
        let Some(address) = addresses.get(turn.checked_rem(addresses.len()).unwrap_or(0)) else {
            remote.last_error = Some("no address is known for this peer".to_owned());
            return;
        };
        remote.turn = remote.turn.wrapping_add(1);
        self.next_dial += 1;
        let dial = self.next_dial;
        remote.state = DialState::Dialing {
            address: address.clone(),
        };
        self.dials.insert(dial, number);
        let address = address.clone();
        self.outputs.push_back(Output::Dial {
            dial,
            address,
            expected,
            own,
        });
    }

    /// Notes that a dial reached somebody. Returns whether it is who was expected.
    pub(crate) fn dial_succeeded(&mut self, dial: u64, peer: QmId) -> bool {
        let Some(number) = self.dials.remove(&dial) else {
            return true;
        };
        let Some(remote) = self.remotes.get_mut(&number) else {
            return true;
        };
        remote.state = DialState::Idle;
        match remote.pin {
            Some(pinned) if pinned == peer => true,
            Some(pinned) => {
                let address = remote.key.to_string();
                let text = format!(
                    "{address} was {pinned} so far and is now {peer}; if that is right, run: qm-node peers forget {pinned}"
                );
                remote.last_error = Some(text.clone());
                remote.last_failure = Some(DialFailure::WrongIdentity);
                let key = remote.key.clone();
                self.note_connection(With::Address(key), "wrong_identity", &text);
                self.event(Event::IdentityChanged {
                    address,
                    pinned,
                    found: peer,
                });
                self.back_off(number);
                false
            }
            None => {
                let key = remote.key.clone();
                self.pin(&key, Some(peer));
                if let RemoteKey::Host(host) = &key {
                    self.commits
                        .set(pin_key(host), Bytes::copy_from_slice(peer.as_bytes()));
                    let approve = self
                        .peers
                        .names
                        .values()
                        .any(|entry| entry.remote == key && entry.approve);
                    let approval = if approve {
                        Approval::Approved
                    } else {
                        Approval::Known
                    };
                    let record = self
                        .peers
                        .known
                        .entry(peer)
                        .or_insert_with(|| PeerRecord::new([0; 32], approval));
                    if approve && record.approval != Approval::Blocked {
                        record.approval = Approval::Approved;
                    }
                    record.learn_address(host.clone());
                    self.save_peer(peer);
                }
                true
            }
        }
    }

    pub(crate) fn on_dial_failed(&mut self, dial: u64, failure: DialFailure, text: String) {
        let Some(number) = self.dials.remove(&dial) else {
            return;
        };
        let Some(remote) = self.remotes.get_mut(&number) else {
            return;
        };
        let address = match core::mem::replace(&mut remote.state, DialState::Idle) {
            DialState::Dialing { address, .. } => address,
            _ => remote.key.to_string(),
        };
        remote.last_error = Some(format!("{}: {text}", failure.name()));
        remote.last_failure = Some(failure);
        let (key, peer) = (remote.key.clone(), remote.peer());
        if let Some(peer) = peer {
            // How its last session ended explains nothing any more.
            self.connections.opened(peer);
        }
        // Most failures name the address themselves.
        let what = if text.contains(&address) {
            format!("{}: {text}", failure.name())
        } else {
            format!("{address}: {}: {text}", failure.name())
        };
        self.note_connection(With::Address(key), "dial_failed", &what);
        self.event(Event::DialFailed {
            address,
            failure,
            text,
        });
        self.back_off(number);
    }

    /// Waits before the next dial: doubling, with jitter between half and all of it.
    pub(crate) fn back_off(&mut self, number: u32) {
        let jitter = self.entropy.next_u64();
        let Some(remote) = self.remotes.get_mut(&number) else {
            return;
        };
        let bound = if remote.backoff_ms == 0 {
            self.config.reconnect_min_ms
        } else {
            remote
                .backoff_ms
                .saturating_mul(2)
                .min(self.config.reconnect_max_ms)
        };
        remote.backoff_ms = bound;
        let half = bound / 2;
        let until = self.now.at.plus_ms(half + jitter % (half + 1));
        remote.state = DialState::Waiting { until };
        self.arm(until, Timer::Dial(number));
    }

    pub(crate) fn on_dial_timer(&mut self, number: u32) {
        let Some(remote) = self.remotes.get_mut(&number) else {
            return;
        };
        if let DialState::Waiting { until } = remote.state
            && until <= self.now.at
        {
            remote.state = DialState::Idle;
            self.want_connection(number);
        }
    }

    /// A session with this peer is open: dials towards it are over.
    pub(crate) fn connected_to(&mut self, own: QmId, peer: QmId) {
        for remote in self
            .remotes
            .values_mut()
            .filter(|remote| remote.own == own && remote.peer() == Some(peer))
        {
            if matches!(remote.state, DialState::Waiting { .. }) {
                remote.state = DialState::Idle;
            }
            remote.last_error = None;
            remote.last_failure = None;
        }
    }

    /// A session with this peer ended: dial again when something waits, later when sessions keep
    /// ending at once.
    pub(crate) fn disconnected_from(&mut self, own: QmId, peer: QmId, lasted_ms: u64, text: &str) {
        if self.has_session(own, peer) || self.stopping {
            return;
        }
        let numbers: Vec<_> = self
            .remotes
            .iter()
            .filter(|(_, remote)| remote.own == own && remote.peer() == Some(peer))
            .map(|(number, _)| *number)
            .collect();
        for number in numbers {
            let work = self.has_work(number);
            let Some(remote) = self.remotes.get_mut(&number) else {
                continue;
            };
            remote.last_error = Some(text.to_owned());
            if lasted_ms >= 1_000 {
                remote.backoff_ms = 0;
            }
            if work && matches!(remote.state, DialState::Idle) {
                self.back_off(number);
            }
        }
    }

    /// Dials now, whatever was waited for.
    pub(crate) fn retry_now(&mut self, number: u32) {
        let Some(remote) = self.remotes.get_mut(&number) else {
            return;
        };
        remote.backoff_ms = 0;
        if matches!(remote.state, DialState::Waiting { .. }) {
            remote.state = DialState::Idle;
        }
        self.want_connection(number);
    }

    /// Dial deadline of a remote, for commands.
    pub(crate) fn retry_in_ms(&self, remote: &Remote) -> Option<u64> {
        match remote.state {
            DialState::Waiting { until } => Some(until.ms_since(self.now.at)),
            DialState::Idle | DialState::Dialing { .. } => None,
        }
    }

    /// Connections that are to be held open, at start.
    pub(crate) fn connect_kept(&mut self) {
        let numbers: Vec<_> = self.remotes.keys().copied().collect();
        for number in numbers {
            self.want_connection(number);
        }
    }
}
