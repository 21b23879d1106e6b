//! Who this node is.

use std::borrow::Cow;

use qm_node::admin_json::{Request, StatusDocument, TwinDocument};
use serde::Serialize;

use crate::config::Settings;
use crate::exit::{Exit, Failure};
use crate::output::Output;

use super::node::Node;
use super::run::from_run;

/// `qm.identity/1`.
#[derive(Debug, Serialize)]
struct IdentityDocument {
    schema: Cow<'static, str>,
    name: String,
    qm: String,
    fingerprint: String,
    data: String,
    running: bool,
    /// The live machines that have this identity, when this node knows that it is not alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    twins: Option<TwinDocument>,
}

/// Asks the node that runs, else its data directory.
pub(crate) async fn show(settings: &Settings, out: &Output) -> Result<Exit, Failure> {
    let schema = "qm.identity/1".into();
    let document = match Node::connect(settings).await {
        Ok(node) => {
            let status: StatusDocument = node.ask(&Request::Status {}).await?;
            IdentityDocument {
                schema,
                name: status.name,
                qm: status.qm.to_string(),
                fingerprint: status.node.fingerprint,
                data: status.node.data,
                running: true,
                twins: status.twins.into_iter().find(|twin| twin.qm == status.qm),
            }
        }
        Err(failure) if failure.exit != Exit::NotRunning => return Err(failure),
        Err(_not_running) => {
            let info = qm_node::identity(&settings.data).map_err(|error| from_run(&error))?;
            IdentityDocument {
                schema,
                name: info.name,
                qm: info.qm.to_string(),
                fingerprint: info.fingerprint,
                data: settings.data.display().to_string(),
                running: false,
                twins: None,
            }
        }
    };
    if out.json {
        out.document(&document)?;
        return Ok(Exit::Done);
    }
    let twins = document.twins.as_ref().map(TwinDocument::sentence);
    let mut facts = vec![
        ("name", document.name),
        ("identity", document.qm),
        ("fingerprint", document.fingerprint),
        ("data", document.data),
        (
            "running",
            if document.running { "yes" } else { "no" }.to_owned(),
        ),
    ];
    facts.extend(twins.map(|twins| ("copies", twins)));
    out.facts(&facts)?;
    Ok(Exit::Done)
}
