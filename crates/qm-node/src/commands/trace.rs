//! What happened to a message?

use qm_node::admin_json::{Request, TraceDocument};

use crate::exit::{Exit, Failure};
use crate::output::{Column, Output, printable};

use super::node::Node;

pub(crate) async fn trace(node: &Node, id: &str, out: &Output) -> Result<Exit, Failure> {
    let subject = id.to_owned();
    let trace: TraceDocument = node.ask(&Request::Trace { subject }).await?;
    let exit = if trace.state == "unknown" && trace.events.is_empty() {
        Exit::Nothing
    } else {
        Exit::Done
    };
    if out.json {
        out.document(&trace)?;
        return Ok(exit);
    }
    out.line(&format!("{}: {}", trace.state, printable(&trace.now)))?;
    let columns = [Column::left(""), Column::left(""), Column::left("")];
    out.list(&trace.events, columns, |event| {
        [event.at.clone(), event.event.clone(), event.text.clone()]
    })?;
    if !trace.complete {
        let since = trace.remembered_since.as_deref().unwrap_or("now");
        out.note(&format!(
            "this may not be all: the node remembers {} events of all messages (of at most {}), since {since}",
            trace.remembered_events, trace.remembered_events_max
        ));
    }
    for ask in &trace.ask {
        out.note(&printable(ask));
    }
    Ok(exit)
}
