//! Queues of messages that wait for other nodes.

use qm_node::admin_json::{ConnectionDocument, DoneDocument, OutgoingDocument, Request, Which};
use qm_wire::Destination;

use crate::cli::{OutgoingCommand, OutgoingSelection};
use crate::config::units::about_duration;
use crate::exit::{Exit, Failure};
use crate::output::{Column, Output, messages, printable};

use super::node::Node;
use super::queue::{agreed, kept, tally, tell};

pub(crate) async fn outgoing(
    node: &Node,
    command: &OutgoingCommand,
    out: &Output,
) -> Result<Exit, Failure> {
    let all = node
        .list::<OutgoingDocument>(|after| Request::OutgoingList { after })
        .await?;
    match command {
        OutgoingCommand::List => list(&all, out)?,
        OutgoingCommand::Show { dest } => {
            for outgoing in named(&all, dest)? {
                show(outgoing, out)?;
            }
        }
        OutgoingCommand::Pause(selection) => {
            let verb = Verb {
                would: "stop transmitting to",
                done: "paused",
            };
            act(node, &all, selection, verb, Request::OutgoingPause, out).await?;
        }
        OutgoingCommand::Resume(selection) => {
            let verb = Verb {
                would: "go on transmitting to",
                done: "resumed",
            };
            act(node, &all, selection, verb, Request::OutgoingResume, out).await?;
        }
        OutgoingCommand::Retry(selection) => {
            let verb = Verb {
                would: "dial now for",
                done: "dialling for",
            };
            act(node, &all, selection, verb, Request::OutgoingRetry, out).await?;
        }
        OutgoingCommand::Purge { which, discard } => {
            purge(node, &all, which, *discard, out).await?;
        }
    }
    Ok(Exit::Done)
}

/// A name as the engine compares it: a host always with its port, nothing escaped.
pub(crate) fn engine_name(name: &str) -> String {
    let whole = name.parse::<Destination>();
    // A node without a queue.
    let node = || format!("{}/-", name.trim_end_matches('/')).parse::<Destination>();
    let (found, queue) = match (whole, name.strip_prefix("qm:")) {
        (Ok(found), Some(_)) => {
            let queue = format!("/{}", found.queue());
            (found, queue)
        }
        (Err(_), Some(_)) => match node() {
            Ok(found) => (found, String::new()),
            Err(_neither) => return name.to_owned(),
        },
        _ => return name.to_owned(),
    };
    match found {
        Destination::Host { qm: Some(qm), .. } | Destination::Id { qm, .. } => {
            format!("qm:{qm}{queue}")
        }
        Destination::Host { host, port, .. } if host.contains(':') => {
            format!("qm://[{host}]:{port}{queue}")
        }
        Destination::Host { host, port, .. } => format!("qm://{host}:{port}{queue}"),
        _ => name.to_owned(),
    }
}

/// What a command does.
#[derive(Clone, Copy)]
struct Verb {
    would: &'static str,
    done: &'static str,
}

async fn act(
    node: &Node,
    all: &[OutgoingDocument],
    selection: &OutgoingSelection,
    verb: Verb,
    request: fn(Which) -> Request,
    out: &Output,
) -> Result<(), Failure> {
    let chosen: Vec<&OutgoingDocument> = match &selection.dest {
        Some(dest) => named(all, dest)?,
        None => all.iter().collect(),
    };
    let waiting: u64 = chosen.iter().map(|outgoing| outgoing.waiting).sum();
    let names: Vec<&str> = chosen
        .iter()
        .map(|outgoing| outgoing.destination.as_str())
        .collect();
    let what = format!("{} {} ({waiting} waiting)", verb.would, enumerated(&names));
    if (selection.all || selection.confirm.dry_run)
        && !agreed(selection.confirm, &what, waiting, out)?
    {
        return Ok(());
    }
    let mut count = 0_u64;
    for outgoing in &chosen {
        // The one form that names nothing but this outgoing queue.
        let which = Which::named(format!("{}/{}", outgoing.remote, outgoing.queue));
        let done: DoneDocument = node.ask(&request(which)).await?;
        count = count.saturating_add(done.count);
    }
    let text = format!("{} {}", verb.done, enumerated(&names));
    tell(&DoneDocument::new(count), &text, out)
}

/// Removes what waits and is not under way.
async fn purge(
    node: &Node,
    all: &[OutgoingDocument],
    selection: &OutgoingSelection,
    discard: bool,
    out: &Output,
) -> Result<(), Failure> {
    let chosen: Vec<&OutgoingDocument> = match &selection.dest {
        Some(dest) => named(all, dest)?,
        None => all.iter().collect(),
    };
    let waiting: u64 = chosen.iter().map(|outgoing| outgoing.waiting).sum();
    let names: Vec<&str> = chosen
        .iter()
        .map(|outgoing| outgoing.destination.as_str())
        .collect();
    let what = format!(
        "remove what waits for {} ({waiting} waiting){}",
        enumerated(&names),
        kept(discard)
    );
    if !agreed(selection.confirm, &what, waiting, out)? {
        return Ok(());
    }
    let mut sum = DoneDocument::new(0);
    for outgoing in &chosen {
        let request = Request::OutgoingPurge {
            which: Some(format!("{}/{}", outgoing.remote, outgoing.queue)),
            all: false,
            discard,
        };
        let done: DoneDocument = node.ask(&request).await?;
        sum.add(&done);
    }
    let text = format!(
        "removed {} that waited for {}{}",
        messages(sum.count),
        enumerated(&names),
        tally(&sum)
    );
    tell(&sum, &text, out)
}

fn enumerated(names: &[&str]) -> String {
    match names {
        [] => "no destination".to_owned(),
        [a] => (*a).to_owned(),
        [a, b] => format!("{a} and {b}"),
        [a, b, rest @ ..] => format!("{a}, {b} and {} more", rest.len()),
    }
}

/// The outgoing queues that a word means: those it names exactly, else the one of which it is a
/// unique beginning.
fn named<'a>(
    all: &'a [OutgoingDocument],
    wanted: &str,
) -> Result<Vec<&'a OutgoingDocument>, Failure> {
    let wanted = engine_name(wanted).to_lowercase();
    let names_of = |outgoing: &OutgoingDocument| -> Vec<String> {
        let queue = outgoing.queue.to_string();
        let mut nodes = vec![outgoing.remote.clone()];
        nodes.extend(outgoing.remote.strip_prefix("qm://").map(str::to_owned));
        nodes.extend(outgoing.peer_name.clone());
        nodes.extend(outgoing.peer.map(|peer| peer.to_string()));
        let mut names = vec![outgoing.destination.clone(), queue.clone()];
        for node in nodes {
            names.push(format!("{node}/{queue}"));
            names.push(node);
        }
        names.iter().map(|name| name.to_lowercase()).collect()
    };
    let exact: Vec<_> = all
        .iter()
        .filter(|o| names_of(o).contains(&wanted))
        .collect();
    if !exact.is_empty() {
        return Ok(exact);
    }
    let begins: Vec<_> = all
        .iter()
        .filter(|o| names_of(o).iter().any(|name| name.starts_with(&wanted)))
        .collect();
    match begins.as_slice() {
        [] => {
            let cause = format!("nothing waits for a destination called `{wanted}`");
            Err(Failure::rejected(qm_wire::Outcome::NOT_FOUND, cause)
                .with_fix("`qm-node outgoing list` shows the destinations"))
        }
        [first, rest @ ..] if rest.iter().all(|o| o.remote == first.remote) => Ok(begins),
        several => {
            let names: Vec<&str> = several.iter().map(|o| o.destination.as_str()).collect();
            let cause = format!("`{wanted}` may be {}", names.join(" or "));
            Err(Failure::usage(cause, "write more of it, or --all"))
        }
    }
}

fn list(all: &[OutgoingDocument], out: &Output) -> Result<(), Failure> {
    let columns = [
        Column::left("DESTINATION"),
        Column::left("STATE"),
        Column::right("WAITING"),
        Column::right("BYTES"),
        Column::right("UNACKNOWLEDGED"),
        Column::right("IN DOUBT"),
        Column::right("ACKNOWLEDGED"),
        Column::left("NEXT DIAL"),
        Column::left("PEER"),
        Column::left("LAST ERROR"),
    ];
    out.list(all, columns, |outgoing| {
        [
            outgoing.destination.clone(),
            outgoing.state.clone(),
            outgoing.waiting.to_string(),
            outgoing.waiting_bytes.to_string(),
            outgoing.unacknowledged.to_string(),
            outgoing.in_doubt.to_string(),
            outgoing.acknowledged.to_string(),
            outgoing.retry_in_ms.map_or_else(dash, about_duration),
            peer(outgoing),
            outgoing.last_error.clone().unwrap_or_else(dash),
        ]
    })
}

fn show(outgoing: &OutgoingDocument, out: &Output) -> Result<(), Failure> {
    if out.json {
        return out.document(outgoing);
    }
    out.facts(&[
        ("destination", outgoing.destination.clone()),
        ("state", outgoing.state.clone()),
        ("waiting", outgoing.waiting.to_string()),
        ("bytes", outgoing.waiting_bytes.to_string()),
        ("unacknowledged", outgoing.unacknowledged.to_string()),
        ("in doubt", outgoing.in_doubt.to_string()),
        (
            "acknowledged since the start",
            outgoing.acknowledged.to_string(),
        ),
        (
            "next dial in",
            outgoing.retry_in_ms.map_or_else(dash, about_duration),
        ),
        ("peer", peer(outgoing)),
        (
            "last error",
            outgoing.last_error.clone().unwrap_or_else(dash),
        ),
        (
            "oldest message in memory",
            outgoing.oldest_age_ms.map_or_else(dash, about_duration),
        ),
    ])?;
    connections(&outgoing.connections, out)
}

/// What happened to connections, oldest first.
pub(crate) fn connections(events: &[ConnectionDocument], out: &Output) -> Result<(), Failure> {
    for event in events {
        let line = format!("{}\t{}", event.event, printable(&event.text));
        out.line(&format!("connection\t{}\t{line}", event.at))?;
    }
    Ok(())
}

fn peer(outgoing: &OutgoingDocument) -> String {
    let name = outgoing.peer_name.clone();
    name.or_else(|| outgoing.peer.map(|peer| peer.to_string()))
        .unwrap_or_else(dash)
}

fn dash() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn outgoing(remote: &str, queue: &str, name: Option<&str>) -> OutgoingDocument {
        serde_json::from_value(serde_json::json!({
            "schema": "qm.outgoing/1", "destination": format!("{}/{queue}", remote.replace(":1801", "")),
            "remote": remote, "queue": queue, "peer": null, "peer_name": name, "state": "idle",
            "waiting": 0, "waiting_bytes": 0, "unacknowledged": 0, "in_doubt": 0,
            "retry_in_ms": null, "last_error": null, "acknowledged": 0,
        }))
        .unwrap()
    }

    #[test]
    fn names_are_those_of_the_engine() {
        for (typed, engine) in [
            ("qm://Hub/orders", "qm://hub:1801/orders"),
            ("qm://hub:1802/a%20b", "qm://hub:1802/a b"),
            ("qm://[::1]/q", "qm://[::1]:1801/q"),
            ("qm://hub", "qm://hub:1801"),
            ("qm://hub/", "qm://hub:1801"),
            ("hub/orders", "hub/orders"),
            ("orders", "orders"),
            (
                "qm:11111111-1111-1111-1111-111111111111/q",
                "qm:11111111-1111-1111-1111-111111111111/q",
            ),
            (
                "qm://11111111-1111-1111-1111-111111111111@hub/q",
                "qm:11111111-1111-1111-1111-111111111111/q",
            ),
            ("0000000000000051-7", "0000000000000051-7"),
        ] {
            assert_eq!(engine_name(typed), engine, "{typed}");
        }
    }

    #[test]
    fn a_word_names_what_it_begins() {
        let all = [
            outgoing("qm://hub:1801", "orders", Some("hub")),
            outgoing("qm://hub:1801", "bills", Some("hub")),
            outgoing("qm://depot:1801", "orders", Some("hull")),
        ];
        let found = |word: &str| -> Result<Vec<String>, Failure> {
            named(&all, word).map(|found| found.iter().map(|o| o.destination.clone()).collect())
        };
        assert_eq!(found("hub").unwrap().len(), 2);
        assert_eq!(found("HUB/orders").unwrap(), ["qm://hub/orders"]);
        assert_eq!(found("qm://hub/orders").unwrap(), ["qm://hub/orders"]);
        assert_eq!(found("qm://hub").unwrap().len(), 2);
        assert_eq!(found("hul").unwrap(), ["qm://depot/orders"]);
        assert_eq!(found("depot:1801").unwrap(), ["qm://depot/orders"]);
        assert_eq!(found("dep").unwrap(), ["qm://depot/orders"]);
        assert_eq!(found("bil").unwrap(), ["qm://hub/bills"]);
        assert_eq!(found("orders").unwrap().len(), 2);
        let ambiguous = found("hu").unwrap_err();
        assert_eq!(
            (ambiguous.exit, ambiguous.code.as_str()),
            (Exit::Usage, "usage")
        );
        assert_eq!(found("x").unwrap_err().exit, Exit::Rejected);
    }

    #[test]
    fn many_names_are_counted() {
        assert_eq!(enumerated(&[]), "no destination");
        assert_eq!(enumerated(&["a", "b"]), "a and b");
        assert_eq!(enumerated(&["a", "b", "c", "d"]), "a, b and 2 more");
    }
}
