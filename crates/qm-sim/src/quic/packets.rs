//! What happens to datagrams, drawn from the seed.

use std::time::Duration;

use qm_engine::{Entropy, SeededEntropy};
use qm_transport::EndpointConfig;
use qm_transport::memory::Faults;

/// How a network of datagrams treats them, and how its endpoints are set.
#[derive(Clone, Debug)]
pub struct Packets {
    /// Datagrams lost, of a thousand.
    pub loss_per_mille: u32,
    /// Datagrams delivered twice, of a thousand.
    pub duplicate_per_mille: u32,
    /// Datagrams overtaken, of a thousand.
    pub reorder_per_mille: u32,
    /// By how much, milliseconds.
    pub reorder_ms: u64,
    /// Datagrams damaged, of a thousand.
    pub corrupt_per_mille: u32,
    /// Shortest delay, milliseconds.
    pub delay_ms: u64,
    /// What a delay may be longer, milliseconds.
    pub jitter_ms: u64,
    /// Longest datagram that passes.
    pub mtu: usize,
    /// What a path carries; 0 for as much as comes.
    pub bytes_per_second: u64,
    /// Mean time between two troubles (cut paths, black holes, moves, deafness, noise),
    /// milliseconds; 0 for never.
    pub trouble_ms: u64,
    /// After this time without a sign a link is over, milliseconds.
    pub idle_ms: u64,
    /// Bytes of received frames that an endpoint holds before it stops reading.
    pub received_bytes_max: usize,
}

impl Packets {
    /// Those of a seed; each fault in some seeds only.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut random = SeededEntropy::new(seed ^ 0x9ac4_e750);
        let mut draw = |low: u64, high: u64| low + random.next_u64() % (high - low + 1);
        let mut some = |low: u64, high: u64| if draw(0, 1) == 0 { 0 } else { draw(low, high) };
        let per_mille = |value: u64| u32::try_from(value).unwrap_or(0);
        let loss_per_mille = per_mille(some(1, 150));
        let duplicate_per_mille = per_mille(some(1, 100));
        let reorder_per_mille = per_mille(some(1, 100));
        let corrupt_per_mille = per_mille(some(1, 50));
        let bytes_per_second = some(20_000, 2_000_000);
        let trouble_ms = some(100, 3_000);
        Self {
            loss_per_mille,
            duplicate_per_mille,
            reorder_per_mille,
            reorder_ms: [20, 300, 3_000][usize::try_from(draw(0, 2)).unwrap_or(0)],
            corrupt_per_mille,
            delay_ms: draw(1, 60),
            jitter_ms: [0, 5, 40][usize::try_from(draw(0, 2)).unwrap_or(0)],
            mtu: [1_200, 1_472][usize::try_from(draw(0, 1)).unwrap_or(0)],
            bytes_per_second,
            trouble_ms,
            idle_ms: [3_000, 30_000][usize::try_from(draw(0, 1)).unwrap_or(0)],
            received_bytes_max: [1_000, 64 << 10, 8 << 20]
                [usize::try_from(draw(0, 2)).unwrap_or(0)],
        }
    }

    /// How paths treat datagrams while faults happen.
    pub(crate) fn faults(&self) -> Faults {
        Faults {
            loss_per_mille: self.loss_per_mille,
            duplicate_per_mille: self.duplicate_per_mille,
            reorder_per_mille: self.reorder_per_mille,
            reorder_delay: Duration::from_millis(self.reorder_ms),
            corrupt_per_mille: self.corrupt_per_mille,
            bytes_per_second: self.bytes_per_second,
            mtu: self.mtu,
            delay_max: Duration::from_millis(self.delay_ms + self.jitter_ms),
            ..self.calm()
        }
    }

    /// How they do when faults are over. Without jitter, too: it lets datagrams overtake each
    /// other, which QUIC takes for loss, and a mended path would stay as slow as a lossy one.
    pub(crate) fn calm(&self) -> Faults {
        Faults {
            delay_min: Duration::from_millis(self.delay_ms),
            delay_max: Duration::from_millis(self.delay_ms),
            ..Faults::default()
        }
    }

    pub(crate) fn endpoint(&self) -> EndpointConfig {
        EndpointConfig {
            idle_timeout: Duration::from_millis(self.idle_ms),
            keep_alive: Duration::from_millis(self.idle_ms / 3),
            stream_window_bytes: 64 << 10,
            received_bytes_max: self.received_bytes_max,
            ..EndpointConfig::default()
        }
    }
}
