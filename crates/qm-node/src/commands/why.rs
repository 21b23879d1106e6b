//! Why is this not moving?

use qm_node::admin_json::{Request, WhyDocument};

use crate::exit::{Exit, Failure};
use crate::output::{Output, printable};

use super::node::Node;
use super::outgoing::engine_name;

pub(crate) async fn why(node: &Node, subject: &str, out: &Output) -> Result<Exit, Failure> {
    let request = Request::Why {
        subject: engine_name(subject),
    };
    let why: WhyDocument = node.ask(&request).await?;
    let exit = if why.code == "unknown" {
        Exit::Nothing
    } else {
        Exit::Done
    };
    if out.json {
        out.document(&why)?;
        return Ok(exit);
    }
    out.line(&printable(&why.cause))?;
    if let Some(fix) = &why.fix {
        out.line(&format!("  fix: {}", printable(fix)))?;
    }
    for evidence in &why.evidence {
        out.line(&format!("  {}", printable(evidence)))?;
    }
    Ok(exit)
}
