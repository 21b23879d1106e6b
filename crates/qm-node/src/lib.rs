//! The qm queue manager as a process or inside another one: the daemon behind `qm-node run`.
//!
//! It drives the pieces that know nothing of each other: the delivery protocol (`qm-engine`), the
//! store (`qm-store`), the network (`qm-transport`) and the socket of applications. It is for
//! running a node; applications that only send and receive link `qm-client` instead, which is
//! small.
//!
//! ```
//! use qm_client::{Message, ReceiveOptions, blocking::Client};
//! use qm_node::TestNode;
//!
//! let (till, hub) = (TestNode::start()?, TestNode::start()?);
//! let at_hub = Client::connect(hub.socket())?;
//! at_hub.admin(r#"{"do":"queue.create","name":"orders"}"#)?;
//!
//! let at_till = Client::connect(till.socket())?;
//! at_till.send(Message::new(format!("qm://{}/orders", hub.listen()), "two teas"))?;
//!
//! let wait = ReceiveOptions::new().wait(std::time::Duration::from_secs(10));
//! let delivery = at_hub.receive(&"orders".parse()?, &wait)?.expect("it arrives");
//! assert_eq!(&delivery.body()[..], b"two teas");
//! at_hub.wait(delivery.consume())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The few types to know
//!
//! * [`QueueManager::builder`] and [`Node`]: a node inside this process; [`TestNode`] for tests.
//! * [`run()`]: a node on the calling thread until a signal, as the daemon does.
//! * [`NodeConfig`]: everything that can be set. [`RunError`]: what went wrong and what to do.
//!
//! # Guarantees
//!
//! * One thread runs network, protocol and applications, one commits, one reads cold messages;
//!   a slow disk holds up neither sessions nor commands.
//! * An application or a peer can end its own connection, never the process.
//! * After an error of the disk nothing in memory is believed: the node recovers from what is on
//!   disk, a few times, and then ends with the cause.
//! * Frames that wait, unanswered requests and unread answers are bounded for every connection.
#![forbid(unsafe_code)]

#[cfg(not(unix))]
compile_error!("a node serves applications over Unix domain sockets, which this platform lacks");

mod adapter;
pub mod admin_json;
mod clock;
mod data_lock;
mod driver;
mod embed;
mod entropy;
pub mod errors;
mod events;
mod fair;
mod health;
mod holder;
mod identity_file;
mod info;
mod keys;
mod life;
mod local;
mod log_rate;
mod reading;
pub mod run;
mod seals;
mod signals;
mod stop_signals;
pub mod store_tools;
pub mod sysprep;

pub use driver::FREEZE_MS_MAX;
pub use embed::{Builder, QueueManager, TestNode};
pub use holder::Holder;
pub use identity_file::IdentityError;
pub use info::NodeInfo;
pub use local::{LocalError, LocalLimits};
pub use run::{
    DEFAULT_PORT, IdentityInfo, Node, NodeConfig, RunError, check_files_left, identity, init, run,
};
