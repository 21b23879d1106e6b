//! Who this node is, and becoming somebody else.

use std::path::PathBuf;

use qm_node::admin_json::{
    FormerDestinationDocument, FormerDocument, IdentityDocument, PartedDocument, Request,
    TwinDocument,
};

use qm_node::sysprep::Waiting;
use qm_wire::Outcome;
use serde::Serialize;

use crate::cli::{Confirm, IdentityCommand};
use crate::config::Settings;
use crate::exit::{Exit, Failure};
use crate::output::{Output, messages};

use super::node::Node;
use super::queue::agreed;
use super::run::from_run;

/// Asks the node that runs, else its data directory.
pub(crate) async fn show(settings: &Settings, out: &Output) -> Result<Exit, Failure> {
    let document = match Node::connect(settings).await {
        Ok(node) => node.ask(&Request::IdentityShow {}).await?,
        Err(failure) if failure.exit != Exit::NotRunning => return Err(failure),
        Err(_not_running) => {
            let info = qm_node::identity(&settings.data).map_err(|error| from_run(&error))?;
            let data = settings.data.display().to_string();
            IdentityDocument::at_rest(info.name, info.qm, info.fingerprint, data)
        }
    };
    print(&document, out)
}

/// Takes a new identity, or the former one back.
pub(crate) async fn change(
    node: &Node,
    command: &IdentityCommand,
    out: &Output,
) -> Result<Exit, Failure> {
    let (request, confirm) = match command {
        IdentityCommand::Show | IdentityCommand::Sysprep { .. } => (Request::IdentityShow {}, None),
        IdentityCommand::Remint { because, confirm } => {
            let because = because.clone();
            (Request::IdentityRemint { because }, Some(*confirm))
        }
        IdentityCommand::Reclaim { confirm } => (Request::IdentityReclaim {}, Some(*confirm)),
    };
    if let Some(confirm) = confirm {
        let now: IdentityDocument = node.ask(&Request::IdentityShow {}).await?;
        let reclaims = matches!(request, Request::IdentityReclaim {});
        if !is_agreed(&now, reclaims, confirm, out)? {
            return Ok(Exit::Done);
        }
    }
    let done: IdentityDocument = node.ask(&request).await?;
    if confirm.is_some() && !out.json {
        out.note(&format!(
            "this node is {} from now on; to let it send, the operators of other nodes run: qm-node peers approve {}",
            done.qm, done.qm
        ));
    }
    print(&done, out)
}

/// What becomes of messages that wait, as the command line says it.
pub(crate) struct Waits {
    pub(crate) purge: bool,
    pub(crate) export: Option<PathBuf>,
}

/// `qm.sysprep/1`.
#[derive(Debug, Serialize)]
struct SysprepDocument {
    schema: &'static str,
    data: String,
    messages: u64,
    exported_to: Option<String>,
}

/// Makes a data directory ready to be copied.
pub(crate) fn sysprep(
    settings: &Settings,
    waits: Waits,
    confirm: Confirm,
    out: &Output,
) -> Result<Exit, Failure> {
    let data = settings.data.display().to_string();
    let exported_to = waits.export.as_ref().map(|dir| dir.display().to_string());
    let waiting = match (waits.purge, waits.export) {
        (_, Some(dir)) => {
            let dir = std::path::absolute(&dir).map_err(|e| Failure::io(dir.display(), &e))?;
            Waiting::Export(dir)
        }
        (true, None) => Waiting::Purge,
        (false, None) => Waiting::Refuse,
    };
    let what = match &exported_to {
        Some(dir) => format!(
            "move keys and messages of {data} to {dir}, so that {data} gets a new identity at the next start"
        ),
        None => format!(
            "erase keys, messages and everything else of this machine in {data}, for good; the next start makes a new identity"
        ),
    };
    if !agreed(confirm, &what, 0, out)? {
        return Ok(Exit::Done);
    }
    let config = settings.node_config();
    let held = qm_node::sysprep::sysprep(&config, &waiting);
    let held = held.map_err(|error| from_run(&error))?;
    if held.refused {
        let cause = format!("{} in {data} would be lost", messages(held.messages));
        let fix = "give them up with --purge, keep them with --export DIR, or run the node until they have left";
        return Err(Failure::rejected(Outcome::BAD_REQUEST, cause).with_fix(fix));
    }
    if out.json {
        out.document(&SysprepDocument {
            schema: "qm.sysprep/1",
            data,
            messages: held.messages,
            exported_to,
        })?;
    } else {
        out.note(&format!(
            "{data} is ready to be copied; the next start makes a new identity"
        ));
    }
    Ok(Exit::Done)
}

fn is_agreed(
    now: &IdentityDocument,
    reclaims: bool,
    confirm: Confirm,
    out: &Output,
) -> Result<bool, Failure> {
    let former = now.former.as_ref();
    let what = match former {
        Some(former) if reclaims => format!(
            "give this node its former identity {} back; {} drains instead, and every node that has approved the former one goes on with it",
            former.qm, now.qm
        ),
        // The node says why not.
        None if reclaims => "go back to the former identity".to_owned(),
        _ => format!(
            "give this node a new identity while it runs; messages go on under {} to each destination until its operator approves the new one, and its key is erased 30 days after the last of them",
            now.qm
        ),
    };
    let waiting = former.map_or(0, |former| former.waiting);
    agreed(confirm, &what, waiting, out)
}

fn print(document: &IdentityDocument, out: &Output) -> Result<Exit, Failure> {
    if out.json {
        out.document(document)?;
        return Ok(Exit::Done);
    }
    let running = if document.running { "yes" } else { "no" };
    let mut facts = vec![
        ("name", document.name.clone()),
        ("identity", document.qm.to_string()),
        ("fingerprint", document.fingerprint.clone()),
        ("data", document.data.clone()),
        ("running", running.to_owned()),
    ];
    let twins = document.twins.as_ref().map(TwinDocument::sentence);
    facts.extend(twins.map(|twins| ("copies", twins)));
    let parted = document.parted.as_ref().map(PartedDocument::sentence);
    facts.extend(parted.map(|parted| ("parted", parted)));
    if let Some(former) = &document.former {
        facts.push(("former", FormerDocument::sentence(former)));
        let lines = former.destinations.iter();
        facts.extend(lines.map(|d| ("destination", FormerDestinationDocument::sentence(d))));
        if former.unlisted > 0 {
            facts.push(("destinations", format!("and {} more", former.unlisted)));
        }
    }
    out.facts(&facts)?;
    Ok(Exit::Done)
}
