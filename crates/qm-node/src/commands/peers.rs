//! Other nodes: who may send here, and where they are.

use qm_node::admin_json::{DoneDocument, PeerDocument, Request};
use qm_wire::{Destination, Outcome, QmId};

use crate::cli::PeersCommand;
use crate::exit::{Exit, Failure};
use crate::output::{Column, Output};

use super::node::Node;
use super::outgoing::connections;
use super::queue::{agreed, tell};

pub(crate) async fn peers(
    node: &Node,
    command: &PeersCommand,
    out: &Output,
) -> Result<Exit, Failure> {
    match command {
        PeersCommand::List => list(&all(node).await?, out)?,
        PeersCommand::Show { who } => {
            for peer in named(&all(node).await?, who)? {
                show(peer, out)?;
            }
        }
        PeersCommand::Add {
            name,
            address,
            qm,
            keep_connected,
        } => {
            let address = address.as_deref().map(with_port).transpose()?;
            let request = Request::PeersAdd {
                name: name.clone(),
                address,
                qm: *qm,
                keep_connected: *keep_connected,
            };
            let done: DoneDocument = node.ask(&request).await?;
            tell(
                &done,
                &format!("{name}/QUEUE is now a destination, and {name} may send here"),
                out,
            )?;
        }
        PeersCommand::Approve { who, name } => {
            // An identity may be approved before it is met.
            let who = match meant(&all(node).await?, who) {
                Err(_) if who.parse::<QmId>().is_ok() => who.clone(),
                meant => meant?,
            };
            let request = Request::PeersApprove {
                who: who.clone(),
                name: name.clone(),
            };
            let done: DoneDocument = node.ask(&request).await?;
            tell(&done, &format!("{who} may send here"), out)?;
        }
        PeersCommand::Block { who, confirm } => {
            let known = all(node).await?;
            let who = meant(&known, who)?;
            let what = format!(
                "close the sessions of {} and take no message from it",
                titles(&named(&known, &who)?)
            );
            if agreed(*confirm, &what, 1, out)? {
                let done: DoneDocument =
                    node.ask(&Request::PeersBlock { who: who.clone() }).await?;
                tell(&done, &format!("{who} may not send here"), out)?;
            }
        }
        PeersCommand::Forget { who, confirm } => {
            let known = all(node).await?;
            let (who, what) = match meant(&known, who) {
                Ok(who) => {
                    let what = format!(
                        "forget {} and the identity remembered for its address",
                        titles(&named(&known, &who)?)
                    );
                    (who, what)
                }
                // It may be the node's own.
                Err(_) if who.parse::<QmId>().is_ok() => {
                    let what = format!("forget that other machines have the identity {who}");
                    (who.clone(), what)
                }
                Err(failure) => return Err(failure),
            };
            if agreed(*confirm, &what, 1, out)? {
                let before = named(&known, &who).unwrap_or_default();
                let request = Request::PeersForget { who: who.clone() };
                let done: DoneDocument = node.ask(&request).await?;
                tell(&done, &format!("{who} is forgotten"), out)?;
                still_approved(&before, &all(node).await?, out);
            }
        }
    }
    Ok(Exit::Done)
}

async fn all(node: &Node) -> Result<Vec<PeerDocument>, Failure> {
    node.list(|after| Request::PeersList { after }).await
}

/// `host:port` from `host`, `host:port`, `[v6]`, `[v6]:port` or `qm://…`.
fn with_port(address: &str) -> Result<String, Failure> {
    let bare = address.trim_start_matches("qm://").trim_end_matches('/');
    let lone_v6 = bare.parse::<core::net::Ipv6Addr>().is_ok();
    let bare = if lone_v6 {
        format!("[{bare}]")
    } else {
        bare.to_owned()
    };
    match format!("qm://{bare}/-").parse() {
        Ok(Destination::Host { host, port, .. }) if host.contains(':') => {
            Ok(format!("[{host}]:{port}"))
        }
        Ok(Destination::Host { host, port, .. }) => Ok(format!("{host}:{port}")),
        _ => Err(Failure::usage(
            format!("`{address}` is no address of a node"),
            "write HOST or HOST:PORT",
        )),
    }
}

/// What the node shall be told for a word that means one peer: the word itself when it is a name or
/// an identity, else the one of which it is the beginning.
fn meant(all: &[PeerDocument], who: &str) -> Result<String, Failure> {
    let found = named(all, who)?;
    let [peer] = found.as_slice() else {
        let cause = format!("`{who}` may be {}", titles(&found));
        return Err(Failure::usage(
            cause,
            "write more of it, or its whole identity",
        ));
    };
    let wanted = who.to_lowercase();
    let begins = |name: &&String| name.to_lowercase().starts_with(&wanted);
    let name = peer.name.as_ref().filter(begins).cloned();
    Ok(name
        .or_else(|| peer.qm.map(|qm| qm.to_string()))
        .unwrap_or_else(|| who.to_owned()))
}

/// A name is forgotten, and the identity behind it is not: it may still send.
fn still_approved(before: &[&PeerDocument], after: &[PeerDocument], out: &Output) {
    let identities = before.iter().filter_map(|peer| peer.qm);
    for qm in identities {
        let left = after.iter().find(|peer| peer.qm == Some(qm));
        if left.is_some_and(|peer| peer.approval == "approved") {
            out.note(&format!(
                "{qm} may still send here: end that with qm-node peers block {qm}, or qm-node peers \
                 forget {qm}"
            ));
        }
    }
}

/// The peers that a word means: those it names exactly, else those of which it is the beginning.
fn named<'a>(all: &'a [PeerDocument], who: &str) -> Result<Vec<&'a PeerDocument>, Failure> {
    let wanted = who.to_lowercase();
    let names_of = |peer: &PeerDocument| -> Vec<String> {
        let qm = peer.qm.map(|qm| qm.to_string());
        let names = [peer.name.clone(), Some(peer.announced_name.clone()), qm];
        names
            .into_iter()
            .flatten()
            .map(|name| name.to_lowercase())
            .collect()
    };
    let mut found: Vec<_> = all
        .iter()
        .filter(|peer| names_of(peer).contains(&wanted))
        .collect();
    if found.is_empty() {
        let begins = |peer: &&PeerDocument| names_of(peer).iter().any(|n| n.starts_with(&wanted));
        found = all.iter().filter(begins).collect();
    }
    if found.is_empty() {
        let cause = format!("no peer is called `{who}`");
        return Err(Failure::rejected(Outcome::NOT_FOUND, cause)
            .with_fix("`qm-node peers list` shows the peers"));
    }
    Ok(found)
}

fn titles(peers: &[&PeerDocument]) -> String {
    let titles: Vec<String> = peers.iter().map(|peer| title(peer)).collect();
    titles.join(" or ")
}

fn title(peer: &PeerDocument) -> String {
    let name = peer.name.as_deref().unwrap_or(&peer.announced_name);
    match (name, peer.qm) {
        ("", Some(qm)) => qm.to_string(),
        (name, Some(qm)) => format!("{name} ({qm})"),
        (name, None) => name.to_owned(),
    }
}

fn list(peers: &[PeerDocument], out: &Output) -> Result<(), Failure> {
    let columns = [
        Column::left("NAME"),
        Column::left("APPROVAL"),
        Column::left("SESSION"),
        Column::left("IDENTITY"),
        Column::left("CALLS ITSELF"),
        Column::left("ADDRESSES"),
        Column::left("LAST SEEN"),
    ];
    out.list(peers, columns, |peer| {
        [
            peer.name.clone().unwrap_or_else(dash),
            peer.approval.clone(),
            session(peer).to_owned(),
            peer.qm.map_or_else(dash, |qm| qm.to_string()),
            if peer.announced_name.is_empty() {
                dash()
            } else {
                peer.announced_name.clone()
            },
            if peer.addresses.is_empty() {
                dash()
            } else {
                peer.addresses.join(" ")
            },
            peer.last_seen.clone().unwrap_or_else(dash),
        ]
    })?;
    if !out.json && peers.iter().any(|peer| peer.approval == "pending") {
        out.note(
            "`qm-node peers approve WHO` lets a pending peer send; its own `qm-node identity show` must \
             print the same identity",
        );
    }
    Ok(())
}

fn show(peer: &PeerDocument, out: &Output) -> Result<(), Failure> {
    if out.json {
        return out.document(peer);
    }
    let mut facts = vec![
        ("name", peer.name.clone().unwrap_or_else(dash)),
        ("calls itself", peer.announced_name.clone()),
        ("host", peer.host.clone()),
        ("approval", peer.approval.clone()),
        ("session", session(peer).to_owned()),
        ("identity", peer.qm.map_or_else(dash, |qm| qm.to_string())),
        (
            "life",
            peer.incarnation.map_or_else(dash, |life| life.to_string()),
        ),
        ("addresses", peer.addresses.join(" ")),
        (
            "kept connected",
            if peer.keep_connected { "yes" } else { "no" }.to_owned(),
        ),
        ("last seen", peer.last_seen.clone().unwrap_or_else(dash)),
    ];
    facts.extend(
        peer.twins
            .as_ref()
            .map(|twins| ("copies", twins.sentence())),
    );
    let id = |qm: &QmId| format!("{qm}, proven with both keys");
    facts.extend(peer.succeeds.as_ref().map(|qm| ("was", id(qm))));
    facts.extend(peer.succeeded_by.as_ref().map(|qm| ("is now", id(qm))));
    out.facts(&facts)?;
    connections(&peer.connections, out)
}

const fn session(peer: &PeerDocument) -> &'static str {
    match (peer.connected, peer.twins.is_some()) {
        (true, false) => "open",
        (true, true) => "open, has copies",
        (false, true) => "-, has copies",
        (false, false) => "-",
    }
}

fn dash() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    #[test]
    fn addresses_get_their_port() {
        for (typed, whole) in [
            ("Hub", "hub:1801"),
            ("hub.example:1802", "hub.example:1802"),
            ("192.0.2.7", "192.0.2.7:1801"),
            ("2001:db8::1", "[2001:db8::1]:1801"),
            ("[2001:db8::1]:1802", "[2001:db8::1]:1802"),
            ("qm://hub/", "hub:1801"),
        ] {
            assert_eq!(with_port(typed).unwrap(), whole);
        }
        for wrong in ["hub:port", "hub:0", "", "a/b", "a b"] {
            assert_eq!(with_port(wrong).unwrap_err().exit, Exit::Usage, "{wrong}");
        }
    }

    #[test]
    fn a_word_names_what_it_begins() {
        let peer = |name: Option<&str>, announced: &str, qm: &str| -> PeerDocument {
            serde_json::from_value(serde_json::json!({
                "schema": "qm.peer/1", "name": name, "announced_name": announced, "host": "",
                "qm": qm, "addresses": [], "approval": "pending", "keep_connected": false,
                "connected": false, "incarnation": null, "last_seen": null,
            }))
            .unwrap()
        };
        let all = [
            peer(Some("hub"), "box", "11111111-1111-1111-1111-111111111111"),
            peer(None, "hub-2", "22222222-2222-2222-2222-222222222222"),
        ];
        let found = |who: &str| named(&all, who).map(|peers| titles(&peers));
        assert_eq!(
            found("HUB").unwrap(),
            "hub (11111111-1111-1111-1111-111111111111)"
        );
        assert_eq!(
            found("22").unwrap(),
            "hub-2 (22222222-2222-2222-2222-222222222222)"
        );
        assert_eq!(named(&all, "hu").unwrap().len(), 2);
        assert_eq!(found("x").unwrap_err().code, "not_found");
        let told = |who: &str| meant(&all, who);
        assert_eq!(told("Hub").unwrap(), "hub");
        let one = "11111111-1111-1111-1111-111111111111";
        let other = "22222222-2222-2222-2222-222222222222";
        for (who, is) in [("hub-", other), ("box", one), ("1111", one), (other, other)] {
            assert_eq!(told(who).unwrap(), is);
        }
        let failure = told("hu").unwrap_err();
        assert_eq!((failure.exit, &*failure.code), (Exit::Usage, "usage"));
        assert_eq!(
            failure.cause,
            format!("`hu` may be hub ({one}) or hub-2 ({other})")
        );
    }
}
