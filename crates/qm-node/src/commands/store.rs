//! The message store on disk, while the node does not run.

use qm_node::store_tools::{
    DamageDocument, RepairTo, StoreCheckDocument, StoreRepairDocument, check_store, repair_store,
};

use crate::cli::StoreCommand;
use crate::config::Settings;
use crate::config::units::about_size;
use crate::exit::{Exit, Failure};
use crate::output::{Output, messages};

use super::run::from_run;

pub(crate) fn store(
    settings: &Settings,
    command: &StoreCommand,
    out: &Output,
) -> Result<Exit, Failure> {
    match command {
        StoreCommand::Check => check(settings, out),
        StoreCommand::Repair { confirm, .. } if confirm.dry_run => {
            out.note("nothing is written; this is what would be gone");
            match check(settings, out) {
                Err(failure) if failure.code == "store_damaged" => Ok(Exit::Done),
                ended => ended,
            }
        }
        StoreCommand::Repair {
            out: Some(dir),
            confirm: _,
            ..
        } => {
            let dir = std::path::absolute(dir).map_err(|e| Failure::io(dir.display(), &e))?;
            repair(settings, &RepairTo::Directory(dir), out)
        }
        StoreCommand::Repair { confirm, .. } => {
            let what = format!(
                "replace the store in {} by what is whole of it, and keep the damaged one beside it",
                settings.data.display()
            );
            out.confirm(&what, confirm.yes)?;
            repair(settings, &RepairTo::InPlace, out)
        }
    }
}

fn check(settings: &Settings, out: &Output) -> Result<Exit, Failure> {
    let document = check_store(&settings.data).map_err(|error| from_run(&error))?;
    if out.json {
        out.document(&document)?;
    } else {
        show_check(&document, out)?;
    }
    if document.sound {
        return Ok(Exit::Done);
    }
    let places = document.damages.len() as u64 + document.unlisted_damages;
    let places = format!(
        "{places} damaged place{}",
        if places == 1 { "" } else { "s" }
    );
    let cost = if !document.loses {
        "nothing is lost: other copies are whole".to_owned()
    } else if document
        .damages
        .iter()
        .any(|damage| damage.lost == "unknown")
    {
        format!(
            "{} lost for certain, and what stood in {} places is unknown",
            messages(document.lost_messages),
            document
                .damages
                .iter()
                .filter(|d| d.lost == "unknown")
                .count()
        )
    } else {
        format!("{} lost", messages(document.lost_messages))
    };
    let cause = format!("{}: {places}; {cost}", document.store);
    Err(Failure::of("store_damaged", cause))
}

fn show_check(document: &StoreCheckDocument, out: &Output) -> Result<(), Failure> {
    let mut facts = vec![
        ("store", document.store.clone()),
        (
            "verified",
            format!(
                "{} in {} segment{}",
                about_size(document.bytes),
                document.segments,
                if document.segments == 1 { "" } else { "s" }
            ),
        ),
        ("messages", document.messages.to_string()),
        ("keys", document.keys.to_string()),
        ("lost messages", document.lost_messages.to_string()),
        ("damaged places", {
            let listed = document.damages.len() as u64;
            (listed + document.unlisted_damages).to_string()
        }),
    ];
    if document.uncertain_messages > 0 {
        let count = document.uncertain_messages;
        facts.push(("perhaps received", messages(count)));
    }
    if let Some(place) = &document.unfinished_write {
        let text = format!("{} at {}: no damage", place.file, place.offset);
        facts.push(("last write cut", text));
    }
    facts.extend(
        document
            .set_aside
            .iter()
            .map(|file| ("set aside", file.clone())),
    );
    out.facts(&facts)?;
    document
        .damages
        .iter()
        .try_for_each(|damage| out.line(&sentence(damage)))?;
    if document.unlisted_damages > 0 {
        out.line(&format!("… and {} places more", document.unlisted_damages))?;
    }
    Ok(())
}

/// One damaged place, in words.
fn sentence(damage: &DamageDocument) -> String {
    let DamageDocument {
        file,
        offset,
        bytes,
        what,
        ..
    } = damage;
    let message = damage.message.as_ref().map(|message| {
        let queue = message.queue.as_deref().unwrap_or("an unknown queue");
        let id = message.id.as_ref().map_or_else(
            || "its id cannot be read".to_owned(),
            |id| format!("id {id}"),
        );
        format!("message at position {} of {queue} ({id})", message.position)
    });
    let cost = match (&*damage.lost, message) {
        ("nothing", _) => "nothing is lost".to_owned(),
        ("message", Some(message)) => format!("lost: {message}"),
        (_, Some(message)) => format!("lost, probably: {message}"),
        _ => "what it held is unknown: messages may be missing, and received ones may be back"
            .to_owned(),
    };
    crate::output::printable(&format!(
        "damaged: {file} at {offset}, {bytes} bytes: {what}; {cost}"
    ))
}

fn repair(settings: &Settings, to: &RepairTo, out: &Output) -> Result<Exit, Failure> {
    let document = repair_store(&settings.node_config(), to).map_err(|error| from_run(&error))?;
    if out.json {
        out.document(&document)?;
        return Ok(Exit::Done);
    }
    show_repair(&document, to, out)
}

fn show_repair(
    document: &StoreRepairDocument,
    to: &RepairTo,
    out: &Output,
) -> Result<Exit, Failure> {
    let Some(damaged) = &document.damaged_store else {
        out.note("the store is sound: nothing was done");
        return Ok(Exit::Done);
    };
    show_check(&document.check, out)?;
    out.facts(&[
        ("saved", messages(document.messages)),
        ("saved keys", document.keys.to_string()),
        ("new store", document.store.clone()),
        ("damaged store", damaged.clone()),
    ])?;
    if matches!(to, RepairTo::Directory(_)) {
        out.note("to use it, move it to where the damaged store is; --in-place does that");
    } else {
        out.note(
            "start the node; keep the damaged store until you are sure that you do not need it",
        );
    }
    Ok(Exit::Done)
}
