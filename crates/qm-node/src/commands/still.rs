//! Holding a node still while a snapshot of its machine is taken.

use qm_node::admin_json::{DoneDocument, Request};

use crate::exit::{Exit, Failure};
use crate::output::Output;

use super::node::Node;
use super::queue::tell;

pub(crate) async fn freeze(node: &Node, for_ms: u64, out: &Output) -> Result<Exit, Failure> {
    let done: DoneDocument = node.ask(&Request::NodeFreeze { for_ms }).await?;
    tell(
        &done,
        "the node stands still: take the snapshot, then qm-node thaw",
        out,
    )?;
    Ok(Exit::Done)
}

pub(crate) async fn thaw(node: &Node, out: &Output) -> Result<Exit, Failure> {
    let done: DoneDocument = node.ask(&Request::NodeThaw {}).await?;
    let text = if done.count == 0 {
        "the node was not held still"
    } else {
        "the node goes on"
    };
    tell(&done, text, out)?;
    Ok(Exit::Done)
}
