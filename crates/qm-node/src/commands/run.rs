//! Starting a node.

use qm_node::admin_json::NodeDocument;
use qm_node::{NodeInfo, RunError};

use crate::config::Settings;
use crate::exit::{Exit, Failure};
use crate::logging;
use crate::output::Output;

pub(crate) fn run(settings: &Settings, out: &Output) -> Result<Exit, Failure> {
    logging::start(settings, out.colour)
        .map_err(|cause| Failure::of("config", format!("log lines cannot appear: {cause}")))?;
    warn_of_variables(settings, out);
    let mut told = Ok(());
    qm_node::run(settings.node_config(), |info| told = tell(info, out))
        .map_err(|error| from_run(&error))?;
    told.map(|()| Exit::Done)
}

pub(crate) fn init(settings: &Settings, out: &Output) -> Result<Exit, Failure> {
    let info = qm_node::init(&settings.node_config()).map_err(|error| from_run(&error))?;
    if out.json {
        out.document(&NodeDocument::new(&info))?;
    } else {
        out.facts(&[
            ("name", info.name.clone()),
            ("identity", info.qm.to_string()),
            ("fingerprint", info.fingerprint.clone()),
            ("data", info.data.display().to_string()),
        ])?;
    }
    if !info.created {
        out.note("the node existed already; nothing was changed but, if given, its name");
    }
    Ok(Exit::Done)
}

/// Who is up, and where.
fn tell(info: &NodeInfo, out: &Output) -> Result<(), Failure> {
    if out.json {
        return out.document(&NodeDocument::new(info));
    }
    if info.created {
        out.note(&format!(
            "created a new identity in {}",
            info.data.display()
        ));
    }
    out.note(&format!("node        {}", info.name));
    out.note(&format!("identity    {}", info.qm));
    out.note(&format!("fingerprint {}", info.fingerprint));
    out.note(&format!("listens at  {} (UDP)", info.listen));
    if !info.addresses.is_empty() {
        out.note(&format!("reachable   {}", info.addresses.join(", ")));
    }
    out.note(&format!("socket      {}", info.socket.display()));
    out.note(&format!("data        {}", info.data.display()));
    if info.trust == qm_engine::Trust::Any {
        out.note("trust       any: everybody who can reach this node may send to it");
    }
    out.note("ready; Ctrl-C stops it");
    Ok(())
}

/// Says which variables look like settings and are none.
pub(crate) fn warn_of_variables(settings: &Settings, out: &Output) {
    for name in &settings.unknown_variables {
        out.note(&format!(
            "note: the environment variable {name} is no setting of qm-node"
        ));
    }
}

pub(crate) fn from_run(error: &RunError) -> Failure {
    let exit = if error.exit_code() == 2 {
        Exit::Usage
    } else {
        Exit::Failed
    };
    Failure::new(exit, error.code(), error.to_string(), error.fix())
}
