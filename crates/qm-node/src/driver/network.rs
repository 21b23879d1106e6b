//! The network of a running node, which is given up and begun anew when the machine was asleep, or
//! the node stood still: keys of its connections may be elsewhere then.

use std::time::Duration;

use qm_engine::{Input, LinkId, Timestamp};
use qm_transport::{Endpoint, EndpointConfig, Event as NetworkEvent};
use qm_wire::QmId;
use tokio::sync::mpsc;

use super::Driver;
use crate::fair::Fairness;
use crate::life;
use crate::run::RunError;

/// A network that cannot be begun is tried again after this, and after twice as long each time.
/// The port of the one before is often not free at once.
const NETWORK_AGAIN: Duration = Duration::from_millis(50);
const NETWORK_AGAIN_LONGEST: Duration = Duration::from_secs(30);
/// From so many failures in a row on, which takes more than a second, operators hear of it.
const NETWORK_FAILURES_TOLD: u32 = 5;

/// A network that is to be begun anew, because the keys of its connections may be elsewhere.
pub(super) struct Renewal {
    pub(super) config: EndpointConfig,
    /// Links of all networks have numbers of their own.
    pub(super) first_link: u64,
    /// Nothing is sent on the present one any more.
    pub(super) due: bool,
    /// What the next one is to dial.
    pub(super) dials: Vec<Dial>,
    /// How often that failed in a row, and when it is tried again.
    pub(super) failures: u32,
    pub(super) again_at: Timestamp,
}

impl Renewal {
    /// The first network is there.
    pub(super) const fn new(config: EndpointConfig) -> Self {
        Self {
            config,
            first_link: 0,
            due: false,
            dials: Vec::new(),
            failures: 0,
            again_at: Timestamp(0),
        }
    }
}

/// What the engine wants to be dialled.
pub(super) struct Dial {
    pub(super) dial: u64,
    pub(super) own: QmId,
    pub(super) address: String,
    pub(super) expected: Option<QmId>,
}

impl Driver {
    /// Begins a new network in the place of one that was abandoned.
    pub(super) async fn renew_network(
        &mut self,
    ) -> Result<mpsc::UnboundedReceiver<NetworkEvent>, RunError> {
        let (events, network) = mpsc::unbounded_channel();
        let config = &self.network.config;
        self.endpoint = Some(life::bind(config, &self.keys, events, true).await?);
        self.network.due = false;
        if self.info.network_failed.take().is_some() {
            tracing::info!(event = "network_is_back", "the node has its network again");
            self.handle(Input::Network { failed: None });
        }
        self.network.failures = 0;
        // More than any endpoint ever has.
        self.network.first_link += 1 << 40;
        for dial in core::mem::take(&mut self.network.dials) {
            self.dial(dial);
        }
        Ok(network)
    }

    /// There is no network: it is tried again after a while.
    pub(super) fn network_failed(&mut self, error: &RunError) {
        let again = NETWORK_AGAIN
            .saturating_mul(2_u32.saturating_pow(self.network.failures))
            .min(NETWORK_AGAIN_LONGEST);
        self.network.failures = self.network.failures.saturating_add(1);
        self.network.again_at = self.clock.now().at + again;
        if self.network.failures < NETWORK_FAILURES_TOLD {
            return;
        }
        let cause = error.to_string();
        if self.info.network_failed.as_ref() != Some(&cause) {
            tracing::error!(
                event = "network_failed",
                %cause,
                "the node has no network; it is tried again until there is one"
            );
            self.info.network_failed = Some(cause.clone());
            let failed = Some(cause);
            self.handle(Input::Network { failed });
        }
    }

    /// Ends the present network without sending anything more on it; its port is free soon.
    pub(super) fn abandon_network(&mut self) {
        if let Some(endpoint) = self.endpoint.take() {
            endpoint.abandon();
        }
        self.fair = Fairness::new();
        self.network.due = true;
        self.network.dials.clear();
    }

    pub(super) fn dial(&mut self, dial: Dial) {
        if self.network.due {
            self.network.dials.push(dial);
            return;
        }
        let Dial {
            dial,
            own,
            address,
            expected,
        } = dial;
        if let Some(endpoint) = &self.endpoint {
            endpoint.dial_as(dial, own, &address, expected);
        }
    }

    pub(super) const fn link_here(&self, link: qm_transport::LinkId) -> LinkId {
        LinkId(link.0 + self.network.first_link)
    }

    /// `None` for a link of an earlier network.
    pub(super) fn link_there(&self, link: LinkId) -> Option<(&Endpoint, qm_transport::LinkId)> {
        let number = link.0.checked_sub(self.network.first_link)?;
        Some((self.endpoint.as_ref()?, qm_transport::LinkId(number)))
    }
}
