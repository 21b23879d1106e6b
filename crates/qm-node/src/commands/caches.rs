//! The ack-route cache and the duplicate cache.

use qm_node::admin_json::{DedupDocument, Request, RouteDocument};

use crate::config::units::{about_duration, about_size};
use crate::exit::{Exit, Failure};
use crate::output::{Column, Output, counted};

use super::node::Node;

pub(crate) async fn routes(node: &Node, out: &Output) -> Result<Exit, Failure> {
    let page = |after| Request::Routes { after };
    let (routes, summary) = node.list_with_summary::<RouteDocument>(page).await?;
    let columns = [
        Column::left("QUEUE MANAGER"),
        Column::left("LIFE"),
        Column::left("VIA"),
    ];
    out.list(&routes, columns, |route| {
        [
            route.qm.to_string(),
            route.incarnation.to_string(),
            route.candidates.join(" "),
        ]
    })?;
    let Some(stats) = summary else {
        return Ok(Exit::Done);
    };
    if out.json {
        out.document(&stats)?;
        return Ok(Exit::Done);
    }
    out.note(&format!(
        "{}: {} learned, {} expired, {} failed, {} displaced, {} refused for want of room",
        counted(stats.rows, "way back", "ways back"),
        stats.learned,
        stats.expired,
        stats.failed,
        stats.displaced,
        stats.refused
    ));
    Ok(Exit::Done)
}

pub(crate) async fn dedup(node: &Node, out: &Output) -> Result<Exit, Failure> {
    let dedup: DedupDocument = node.ask(&Request::Dedup {}).await?;
    if out.json {
        out.document(&dedup)?;
        return Ok(Exit::Done);
    }
    let age = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), about_duration);
    out.facts(&[
        ("size", dedup.size.to_string()),
        ("entries", dedup.entries.to_string()),
        ("duplicates removed", dedup.duplicates.to_string()),
        ("messages let through", dedup.fresh.to_string()),
        ("oldest entry", age(dedup.oldest_age_ms)),
        ("effective window", age(dedup.effective_window_ms)),
        ("forgotten by age", dedup.purged.to_string()),
        ("forgotten for room", dedup.evicted.to_string()),
        ("forgotten too early", dedup.evicted_young.to_string()),
        ("being stored", dedup.in_flight.to_string()),
        ("refused or not stored", dedup.aborted.to_string()),
        ("memory", about_size(dedup.heap_bytes)),
    ])?;
    if dedup.size == 0 {
        out.note("duplicate removal is off (dedup.size = 0)");
    } else if dedup.evicted_young > 0 {
        out.note("its window is shorter than dedup.purge_interval; the newest messages of each sender are \
             remembered beside it: raise dedup.size when duplicates from further back are to be expected");
    }
    Ok(Exit::Done)
}
