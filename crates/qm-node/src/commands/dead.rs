//! Messages that could not be delivered.

use qm_client::ReceiveOptions;
use qm_node::admin_json::{DeadLetterDocument, LetterFateDocument, List, Request};
use qm_wire::{Outcome, QueueName};

use crate::cli::{Confirm, DeadCommand, DeadFilter, DeadSelection};
use crate::config::units::{about_duration, about_size};
use crate::exit::{Exit, Failure};
use crate::output::{Column, Output, printable};

use super::message::for_terminal;
use super::node::{Node, from_receive};
use super::queue::agreed;

/// Letters named in one request.
const NAMED_MAX: usize = 512;

pub(crate) async fn dead(
    node: &Node,
    command: &DeadCommand,
    out: &Output,
) -> Result<Exit, Failure> {
    match command {
        DeadCommand::List { filter, count } => {
            let letters = find(node, filter, None, *count).await?;
            list(&letters, out)?;
            Ok(Exit::Done)
        }
        DeadCommand::Show { id } => {
            let letter = one(node, id).await?;
            show(node, &letter, out).await?;
            Ok(Exit::Done)
        }
        DeadCommand::Resend {
            which,
            force,
            to,
            confirm,
        } => {
            let letters = selected(node, which).await?;
            let open = |letter: &&DeadLetterDocument| letter.uncertain || letter.unconfirmed;
            let uncertain = letters.iter().filter(open).count();
            let mut what = format!("send {} again", counted(letters.len()));
            if let Some(to) = to {
                what.push_str(&format!(" to {to}"));
            }
            if uncertain > 0 {
                what.push_str(&if *force {
                    format!(", {uncertain} of which may have been delivered already")
                } else {
                    format!(", leaving {uncertain} that may have been delivered already")
                });
            }
            let to = to.as_ref().map(ToString::to_string);
            let ask = |positions| Request::DeadResend {
                positions,
                force: *force,
                to: to.clone(),
            };
            act(node, which, *confirm, &letters, &what, ask, out).await
        }
        DeadCommand::Drop { which, confirm } => {
            let letters = selected(node, which).await?;
            let what = format!("remove {} for good", counted(letters.len()));
            let ask = |positions| Request::DeadDrop { positions };
            act(node, which, *confirm, &letters, &what, ask, out).await
        }
    }
}

fn counted(letters: usize) -> String {
    format!(
        "{letters} dead letter{}",
        if letters == 1 { "" } else { "s" }
    )
}

/// The dead letters that a filter admits, oldest first.
async fn find(
    node: &Node,
    filter: &DeadFilter,
    id: Option<&str>,
    count: Option<u64>,
) -> Result<Vec<DeadLetterDocument>, Failure> {
    let most = count.map_or(usize::MAX, |count| {
        usize::try_from(count).unwrap_or(usize::MAX)
    });
    let mut letters: Vec<DeadLetterDocument> = Vec::new();
    let mut after = None;
    loop {
        let request = Request::DeadList {
            after,
            reason: filter.reason.map(|reason| format!("{:04x}", reason.0)),
            destination: filter.destination.clone(),
            older_than_ms: filter.older_than,
            id: id.map(str::to_owned),
        };
        let page: List<DeadLetterDocument> = node.ask(&request).await?;
        letters.extend(page.items);
        after = page.after;
        if after.is_none() || letters.len() >= most {
            letters.truncate(most);
            return Ok(letters);
        }
    }
}

/// The one dead letter of this id, or of the id that begins so.
async fn one(node: &Node, id: &str) -> Result<DeadLetterDocument, Failure> {
    let found = find(node, &DeadFilter::default(), Some(id), None).await?;
    only(found, id)
}

fn only(mut found: Vec<DeadLetterDocument>, id: &str) -> Result<DeadLetterDocument, Failure> {
    // `…-1` begins `…-17`, and is an id of its own.
    if let Some(exact) = found.iter().position(|l| l.id.eq_ignore_ascii_case(id)) {
        return Ok(found.swap_remove(exact));
    }
    match found.len() {
        0 => {
            let cause = format!("no dead letter is called `{id}`");
            Err(Failure::rejected(Outcome::NOT_FOUND, cause)
                .with_fix("`qm-node dead list` shows the dead letters"))
        }
        1 => Ok(found.swap_remove(0)),
        several => {
            let ids: Vec<&str> = found.iter().take(3).map(|l| l.id.as_str()).collect();
            let more = if several > 3 { " or another" } else { "" };
            let cause = format!("`{id}` may be {}{more}", ids.join(" or "));
            Err(Failure::usage(cause, "write more of the id"))
        }
    }
}

/// The letters that a command is to work on.
async fn selected(node: &Node, which: &DeadSelection) -> Result<Vec<DeadLetterDocument>, Failure> {
    let filter = &which.filter;
    let filtered =
        filter.reason.is_some() || filter.destination.is_some() || filter.older_than.is_some();
    if which.ids.is_empty() && !which.all && !filtered {
        return Err(Failure::usage(
            "no dead letter is named",
            "name message ids, filters, or --all",
        ));
    }
    if which.ids.is_empty() {
        let found = find(node, filter, None, None).await?;
        if found.is_empty() {
            return Err(Failure::of("nothing", "no dead letter matches")
                .with_fix("`qm-node dead list` shows the dead letters"));
        }
        return Ok(found);
    }
    let mut letters: Vec<DeadLetterDocument> = Vec::new();
    for id in &which.ids {
        let letter = only(find(node, filter, Some(id), None).await?, id)?;
        if letters
            .iter()
            .all(|other| other.position != letter.position)
        {
            letters.push(letter);
        }
    }
    Ok(letters)
}

async fn act(
    node: &Node,
    which: &DeadSelection,
    confirm: Confirm,
    letters: &[DeadLetterDocument],
    what: &str,
    ask: impl Fn(Vec<u64>) -> Request,
    out: &Output,
) -> Result<Exit, Failure> {
    // One letter that was named is neither bulk nor, when sent again, lost.
    let bulk = which.ids.is_empty() || letters.len() > 1 || what.starts_with("remove");
    let count = u64::try_from(letters.len()).unwrap_or(u64::MAX);
    if confirm.dry_run {
        agreed(confirm, what, count, out)?;
        if !out.json {
            list(letters, out)?;
        }
        return Ok(Exit::Done);
    }
    if bulk {
        agreed(confirm, what, count, out)?;
    }
    let mut failed: Option<(LetterFateDocument, usize)> = None;
    let mut done = 0_usize;
    // Whoever reads no further has not asked for less to be done.
    let mut printed = Ok(());
    for chunk in letters.chunks(NAMED_MAX) {
        let positions = chunk.iter().map(|letter| letter.position).collect();
        let fates: List<LetterFateDocument> = node.ask(&ask(positions)).await?;
        for fate in fates.items {
            let id = fate.id.clone().or_else(|| id_of(chunk, fate.position));
            let id = id.unwrap_or_default();
            let told = if out.json {
                out.document(&fate)
            } else if fate.done {
                match &fate.resent_as {
                    Some(new) => out.line(&format!("{id}\t{new}\t{}", fate.destination)),
                    None => out.line(&id),
                }
            } else {
                let text = printable(&fate.text);
                out.note(&format!("{id}: left alone: {text}"));
                Ok(())
            };
            printed = printed.and(told);
            if fate.done {
                done += 1;
            } else {
                let before = failed.take().map_or(0, |(_, count)| count);
                failed = Some((fate, before + 1));
            }
        }
    }
    match failed {
        None => printed.map(|()| Exit::Done),
        Some((fate, count)) => {
            let outcome = fate.outcome.as_deref().and_then(Outcome::from_name);
            let cause = format!(
                "{} done, {count} left alone; the last one because: {}",
                done, fate.text
            );
            Err(
                Failure::rejected(outcome.unwrap_or(Outcome::BAD_REQUEST), cause)
                    .with_fix("`qm-node dead list` shows those that are left"),
            )
        }
    }
}

fn id_of(letters: &[DeadLetterDocument], position: u64) -> Option<String> {
    let letter = letters.iter().find(|letter| letter.position == position);
    letter.map(|letter| letter.id.clone())
}

fn list(letters: &[DeadLetterDocument], out: &Output) -> Result<(), Failure> {
    let columns = [
        Column::left("MESSAGE"),
        Column::left("REASON"),
        Column::left("DESTINATION"),
        Column::left("DIED"),
        Column::left("AGE"),
        Column::left("CLASS"),
        Column::right("BYTES"),
        Column::left("HOP"),
        Column::left("CERTAIN"),
        Column::left("LABEL"),
    ];
    out.list(letters, columns, |letter| {
        [
            letter.id.clone(),
            reason(letter),
            letter.destination.clone(),
            letter.died_at.clone(),
            about_duration(letter.age_ms),
            letter.class.clone(),
            letter.body_bytes.to_string(),
            letter.by.map_or_else(dash, |by| by.to_string()),
            certain(letter).to_owned(),
            letter.label.clone(),
        ]
    })
}

/// Whether it is known that the message was not delivered.
const fn certain(letter: &DeadLetterDocument) -> &'static str {
    if letter.unconfirmed {
        "unconfirmed"
    } else if letter.uncertain {
        "no"
    } else {
        "yes"
    }
}

fn reason(letter: &DeadLetterDocument) -> String {
    format!("{} {}", letter.outcome, letter.reason)
}

async fn show(node: &Node, letter: &DeadLetterDocument, out: &Output) -> Result<(), Failure> {
    if out.json {
        return out.document(letter);
    }
    let meaning = Outcome::from_name(&letter.outcome).map_or("", Outcome::describe);
    out.facts(&[
        ("message", letter.id.clone()),
        ("reason", format!("{}: {meaning}", reason(letter))),
        ("destination", letter.destination.clone()),
        (
            "certain",
            if letter.unconfirmed {
                "not yet: its destination is being asked; resending before it answers needs --force"
            } else if letter.uncertain {
                "no: it may have been delivered all the same; resending needs --force"
            } else {
                "yes: it was not delivered"
            }
            .to_owned(),
        ),
        ("died at", letter.died_at.clone()),
        ("dead for", about_duration(letter.age_ms)),
        (
            "by the word of",
            letter.by.map_or_else(dash, |by| by.to_string()),
        ),
        ("sent at", letter.sent_at.clone()),
        ("sent by", letter.source.to_string()),
        ("class", letter.class.clone()),
        ("priority", letter.priority.to_string()),
        ("label", letter.label.clone()),
        (
            "resent from",
            letter.resent_from.clone().unwrap_or_else(dash),
        ),
        ("body", about_size(letter.body_bytes)),
        ("lookup id", letter.lookup_id.to_string()),
    ])?;
    let queue: QueueName = "dead$".parse().expect("the name follows the rules");
    let options = ReceiveOptions::new().lookup(letter.lookup_id).limit(1);
    let read = node.client.peek(&queue, &options).await;
    for message in read.map_err(|error| from_receive(&error))? {
        out.line("")?;
        if out.terminal {
            out.line(&for_terminal(message.body()))?;
        } else {
            out.bytes(message.body())?;
            out.bytes(b"\n")?;
        }
    }
    Ok(())
}

fn dash() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(id: &str) -> DeadLetterDocument {
        serde_json::from_value(serde_json::json!({
            "schema": "qm.dead_letter/1", "id": id,
            "source": "22222222-2222-2222-2222-222222222222", "reason": "bad_destination_queue",
            "outcome": "8000", "uncertain": false, "died_at": "", "age_ms": 1, "by": null,
            "destination": "qm://hub/orders", "class": "recoverable", "priority": 3, "sent_at": "",
            "body_bytes": 1, "leased": false, "lookup_id": 1, "position": 1,
        }))
        .unwrap()
    }

    #[test]
    fn an_id_is_found_by_its_unique_beginning() {
        let all = || vec![letter("00000000000000ab-17"), letter("00000000000000ab-1")];
        assert_eq!(
            only(all(), "00000000000000AB-1").unwrap().id,
            "00000000000000ab-1"
        );
        let ambiguous = only(all(), "00000000000000ab").unwrap_err();
        assert_eq!(
            (ambiguous.exit, ambiguous.code.as_str()),
            (Exit::Usage, "usage")
        );
        assert_eq!(only(vec![], "7").unwrap_err().exit, Exit::Rejected);
        assert_eq!(only(vec![letter("a")], "").unwrap().id, "a");
    }
}
