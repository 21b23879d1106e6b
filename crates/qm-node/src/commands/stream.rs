//! Transactional streams: where they are, and beginning one anew.

use qm_node::admin_json::{RebasedDocument, Request, StreamDocument};

use crate::cli::{OutgoingSelection, StreamCommand};
use crate::exit::{Exit, Failure};
use crate::output::{Column, Output, messages, printable};

use super::node::Node;
use super::outgoing::engine_name;
use super::queue::agreed;

pub(crate) async fn stream(
    node: &Node,
    command: &StreamCommand,
    out: &Output,
) -> Result<Exit, Failure> {
    match command {
        StreamCommand::List => list(node, out).await?,
        StreamCommand::Rebase(which) => rebase(node, which, out).await?,
    }
    Ok(Exit::Done)
}

async fn list(node: &Node, out: &Output) -> Result<(), Failure> {
    let streams = node
        .list::<StreamDocument>(|after| Request::StreamList { after })
        .await?;
    let columns = [
        Column::left("WAY"),
        Column::left("PEER"),
        Column::left("QUEUE"),
        Column::right("POSITION"),
        Column::right("LOW"),
        Column::right("UNSETTLED"),
        Column::right("SKIPS"),
        Column::right("BRANCHES"),
        Column::left("HELD"),
    ];
    out.list(&streams, columns, |stream| {
        [
            stream.direction.clone(),
            stream.peer_name.clone(),
            stream.queue.to_string(),
            stream.position.to_string(),
            stream.low.to_string(),
            stream.unsettled.to_string(),
            stream.skips.to_string(),
            stream.branches.to_string(),
            stream
                .held
                .as_ref()
                .map_or_else(|| "-".to_owned(), |held| printable(held)),
        ]
    })
}

async fn rebase(node: &Node, which: &OutgoingSelection, out: &Output) -> Result<(), Failure> {
    let request = |dry_run| Request::StreamRebase {
        which: which.dest.as_deref().map(engine_name),
        all: which.all,
        dry_run,
    };
    let would: RebasedDocument = node.ask(&request(true)).await?;
    let what = format!(
        "begin {} anew, which sends {} that {} not acknowledged, whatever the destination lost before, and leaves {} dead letters uncertain for good",
        streams(would.streams),
        messages(would.messages),
        if would.messages == 1 { "is" } else { "are" },
        would.uncertain,
    );
    if !agreed(which.confirm, &what, would.messages, out)? {
        return Ok(());
    }
    let done: RebasedDocument = node.ask(&request(false)).await?;
    if out.json {
        return out.document(&done);
    }
    out.note(&format!(
        "began {} anew with {}",
        streams(done.streams),
        messages(done.messages)
    ));
    Ok(())
}

fn streams(count: u64) -> String {
    match count {
        1 => "1 stream".to_owned(),
        count => format!("{count} streams"),
    }
}
