//! The qm queue manager: daemon and command line
#![forbid(unsafe_code)]

mod adapter;
pub mod admin_json;
mod clock;
mod driver;
mod events;
mod identity_file;
mod info;
mod life;
mod local;
pub mod run;

pub use identity_file::IdentityError;
pub use info::NodeInfo;
pub use local::{LocalError, LocalLimits};
pub use run::{DEFAULT_PORT, IdentityInfo, Node, NodeConfig, RunError, identity, init, run};
