//! A whole network of qm nodes as a function of one seed.
//!
//! Real engines, real caches and the real store run on simulated disks, clocks and links, on one
//! thread, in virtual time. Everything that may go wrong is drawn from the seed: links that break
//! and lose what is under way, machines that lose power in the middle of a commit, disks that
//! forget, tear or fill up, applications that vanish, wall clocks that jump. The same seed gives
//! the same run, to the byte; a failure is a seed.
//!
//! It is for finding faults in the protocol and its implementation. Links keep order per lane as
//! QUIC streams do, and in harsh runs lose single buffers, which QUIC never does. With
//! [`Scenario::quinn_from_seed`] they are QUIC: the endpoints of a node, on a network of datagrams
//! that loses, damages, reorders and forges them.
//!
//! ```
//! let report = qm_sim::run(qm_sim::Scenario::from_seed(7)).unwrap();
//! assert!(report.accepted > 0);
//! ```
//!
//! What must hold is written down in [`oracle`].
#![forbid(unsafe_code)]

mod application;
mod frames;
mod machine;
mod network;
pub mod oracle;
mod quic;
mod regressions;
mod report;
mod scenario;
mod shrink;
mod tape;
mod world;

pub use qm_engine::{Breaks, Reach, Reached};
pub use quic::Packets;
pub use regressions::regressions;
pub use report::{Failure, Report};
pub use scenario::{Case, Clones, Scenario};
pub use shrink::{Shrunk, shrink};
pub use world::{run, run_traced};
