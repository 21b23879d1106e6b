//! Starting a node.

use qm_node::admin_json::NodeDocument;
use qm_node::{NodeInfo, RunError};

use crate::config::Settings;
use crate::exit::{Exit, Failure};
use crate::logging::{self, Lines};
use crate::output::Output;

pub(crate) fn run(settings: &Settings, out: &Output) -> Result<Exit, Failure> {
    let lines = Lines::to(std::io::stderr()).map_err(|source| {
        from_run(&RunError::System {
            what: "log",
            source,
        })
    })?;
    let _logging = logging::start(settings, lines, out.colour)
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
    Failure::of(error.code(), error.to_string()).with_fix(error.fix())
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use qm_node::{IdentityError, LocalError};
    use qm_store::StoreError;
    use qm_transport::BindError;

    use super::*;

    #[test]
    fn every_start_up_error_has_its_row() {
        let os = io::Error::from_raw_os_error;
        let listen = "127.0.0.1:1801".parse().unwrap();
        let store = |action, number| StoreError::Io {
            action,
            path: "/var/lib/qm/store/00000002.seg".into(),
            source: Arc::new(os(number)),
        };
        let local = |what, number| LocalError::Io {
            what,
            path: "/srv/file/run".into(),
            source: os(number),
        };
        let system = |what, number| RunError::System {
            what,
            source: os(number),
        };
        let errors: Vec<(&str, RunError)> = vec![
            (
                "store_options",
                StoreError::Options {
                    what: "disk_bytes_max must hold the reserve and one segment more",
                }
                .into(),
            ),
            ("store_io", store("read", 5).into()),
            ("disk_full", store("allocate", 28).into()),
            (
                "network_options",
                BindError::Config {
                    rule: "mtu_initial must be at least 1200",
                }
                .into(),
            ),
            (
                "listen",
                BindError::Io {
                    listen: "[::]:1801".parse().unwrap(),
                    source: os(97),
                }
                .into(),
            ),
            (
                "port_permission",
                BindError::PermissionDenied { listen }.into(),
            ),
            (
                "address_not_available",
                BindError::AddressNotAvailable { listen }.into(),
            ),
            ("socket", local("create the directory", 20).into()),
            ("system", system("runtime", 11)),
            ("panicked", RunError::Panicked),
            (
                "identity_key_missing",
                RunError::KeyMissing {
                    data: "/var/lib/qm".into(),
                },
            ),
        ];
        for (code, error) in errors {
            assert_eq!(error.code(), code);
            from_run(&error).assert_as_in_the_table();
        }
        // Under the same codes in other words.
        let foreign = IdentityError::Entropy(getrandom::Error::UNSUPPORTED);
        for (code, error) in [
            ("system", RunError::from(foreign)),
            ("system", BindError::Entropy.into()),
            ("store_io", store("open", 2).into()),
            ("no_permission", local("open the local socket", 13).into()),
            ("too_many_files", system("first files", 24)),
        ] {
            let failure = from_run(&error);
            assert_eq!((&*failure.code, failure.exit), (code, Exit::Failed));
        }
    }

    #[test]
    fn nobody_known_is_another_process() {
        let listen = "127.0.0.1:1801".parse().unwrap();
        let error = |holder| RunError::PortInUse { listen, holder }.to_string();
        assert!(error(None).ends_with("is in use by another process"));
        // Advice belongs to the fix and stands there once.
        let newer = StoreError::NewerFormat {
            path: "/s".into(),
            found: 9,
            supported: 1,
        };
        let failure = from_run(&newer.into());
        assert!(!failure.cause.contains("install"), "{failure:?}");
        assert!(failure.fix.contains("install"), "{failure:?}");
    }
}
