//! Making a data directory ready to be copied: for images of machines and containers.
//!
//! Everything that belongs to one machine goes: keys, store, display name. What stays is a mark,
//! which the next start takes as the wish for a new identity. The mark is written first, so an
//! interrupted preparation is finished by the next start and never half done.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use qm_store::RealFs;

use crate::adapter::Disk;
use crate::data_lock::DataLock;
use crate::health::StoreHealth;
use crate::identity_file::{
    FORMER_FILE, IdentityError, KEY_FILE, NAME_FILE, NEXT_FILE, io_error, kept_files, replace_file,
    sync_dir, unfinished_files,
};
use crate::life::{STORE_DIR, store_options};
use crate::reading::Pace;
use crate::run::{NodeConfig, RunError};
use crate::store_tools;

/// Says that the next start makes a new identity.
pub(crate) const GENERALIZED_FILE: &str = "generalized";
/// Records that were damaged, beside the store.
const ASIDE_DIR: &str = "damaged";
/// What a machine has of its own in a data directory beside keys that were put aside; the socket is
/// the node's that runs.
const OWN: [&str; 6] = [
    KEY_FILE,
    FORMER_FILE,
    NEXT_FILE,
    NAME_FILE,
    STORE_DIR,
    ASIDE_DIR,
];

/// Where what is exported is gathered, so that it leaves as one: found by a start, the export did
/// not happen.
const EXPORTING_DIR: &str = "exporting";

/// What becomes of messages that wait.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Waiting {
    /// There must be none.
    Refuse,
    /// They are given up.
    Purge,
    /// Keys and store are moved into this directory, which must not be there yet: a node that is
    /// started on it is the one that was here.
    Export(PathBuf),
}

/// What a data directory held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Held {
    /// Messages that waited, dead letters among them.
    pub messages: u64,
    /// Whether they kept it from being made ready.
    pub refused: bool,
}

/// Makes the data directory of a node that does not run ready to be copied, unless messages wait
/// in it and nothing is said of them.
///
/// # Errors
/// [`RunError`]: the node runs, the directory is no node's, or files cannot be read or written.
pub fn sysprep(config: &NodeConfig, waiting: &Waiting) -> Result<Held, RunError> {
    let data = &config.data;
    if !is_prepared(data) && !is_exporting(data) && !data.join(KEY_FILE).exists() {
        return Err(RunError::NotInitialised { data: data.clone() });
    }
    let _lock = DataLock::take(data)?;
    take_back(data)?;
    if is_prepared(data) {
        finish(data)?;
        return Ok(Held {
            messages: 0,
            refused: false,
        });
    }
    let (disk, recovered, _) = Disk::open(
        Arc::new(RealFs),
        &data.join(STORE_DIR),
        store_options(config),
        Pace::of(0),
        &Arc::new(StoreHealth::default()),
    )?;
    let messages = recovered.streams.values().map(|s| s.live_records).sum();
    let refused = messages > 0 && *waiting == Waiting::Refuse;
    if !refused {
        if let Waiting::Export(to) = waiting {
            export(data, to)?;
        }
        replace_file(data, GENERALIZED_FILE, b"qm\n")?;
        erase(data)?;
    }
    drop(disk);
    Ok(Held { messages, refused })
}

/// Whether the next start gives the directory a new identity.
pub(crate) fn is_prepared(data: &Path) -> bool {
    data.join(GENERALIZED_FILE).exists()
}

/// Whether an export was interrupted: what it gathered is still here.
pub(crate) fn is_exporting(data: &Path) -> bool {
    data.join(EXPORTING_DIR).is_dir()
}

/// Finishes what [`sysprep`] began, or takes it back if it was an export, for whoever has the
/// directory's lock.
pub(crate) fn finish(data: &Path) -> Result<(), IdentityError> {
    take_back(data)?;
    if is_prepared(data) {
        erase(data)?;
    }
    Ok(())
}

/// The new identity is on disk.
pub(crate) fn begin(data: &Path) -> Result<(), IdentityError> {
    remove(&data.join(GENERALIZED_FILE))?;
    sync_dir(data)
}

fn own(data: &Path) -> Result<Vec<String>, IdentityError> {
    let mut own = kept_files(data)?;
    own.extend(store_tools::stores_aside(data));
    own.extend(OWN.map(str::to_owned));
    // A whole key, perhaps.
    own.extend(unfinished_files(data)?);
    Ok(own)
}

fn erase(data: &Path) -> Result<(), IdentityError> {
    for name in own(data)? {
        remove(&data.join(name))?;
    }
    sync_dir(data)
}

fn remove(path: &Path) -> Result<(), IdentityError> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Moves rather than copies: there is never more than one directory with this identity. Nor is
/// there ever one with a part of it: everything is gathered first, and that is moved at once.
fn export(data: &Path, to: &Path) -> Result<(), IdentityError> {
    // Nothing is moved to where something is already.
    crate::identity_file::create_new_dir(to)?;
    let moved = gather(data).and_then(|gathered| {
        fs::remove_dir(to).map_err(io_error("replace", to))?;
        fs::rename(&gathered, to).map_err(io_error("move", &gathered))
    });
    if let Err(error) = moved {
        take_back(data)?;
        // What is left of it is empty.
        drop(fs::remove_dir(to));
        return Err(error);
    }
    crate::identity_file::sync_parent(to)?;
    sync_dir(data)
}

/// Moves what belongs to the node into a directory beside it, durably.
fn gather(data: &Path) -> Result<PathBuf, IdentityError> {
    let gathered = data.join(EXPORTING_DIR);
    crate::identity_file::create_new_dir(&gathered)?;
    for name in own(data)? {
        move_file(&data.join(&name), &gathered.join(&name))?;
    }
    sync_dir(&gathered)?;
    sync_dir(data)?;
    Ok(gathered)
}

/// Undoes an export that was interrupted before everything had left.
fn take_back(data: &Path) -> Result<(), IdentityError> {
    let gathered = data.join(EXPORTING_DIR);
    let entries = match fs::read_dir(&gathered) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(io_error("list", &gathered))?,
    };
    for entry in entries {
        let name = entry.map_err(io_error("list", &gathered))?.file_name();
        move_file(&gathered.join(&name), &data.join(&name))?;
    }
    sync_dir(data)?;
    fs::remove_dir(&gathered).map_err(io_error("remove", &gathered))?;
    sync_dir(data)
}

fn move_file(from: &Path, to: &Path) -> Result<(), IdentityError> {
    match fs::rename(from, to) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("move", from)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{identity, init};

    fn config(dir: &Path) -> NodeConfig {
        let mut config = NodeConfig::new(dir.join("node"));
        config.engine.body_bytes_max = 64 << 10;
        config.store.segment_bytes = 1 << 20;
        config.store.reserve_bytes = 1 << 20;
        config
    }

    /// A crash at any step is finished by the next start, which makes one identity, once.
    #[test]
    fn an_interrupted_preparation_is_finished_by_the_next_start() {
        for erased in 0..=OWN.len() {
            let dir = tempfile::tempdir().unwrap();
            let config = config(dir.path());
            let before = init(&config).unwrap();
            let aside = config.data.join("identity.kept-x");
            let key = config.data.join(KEY_FILE);
            fs::copy(&key, &aside).unwrap();
            // What crashes while files are replaced leave.
            let unfinished = [
                "identity.key.new",
                "identity.next.new",
                "identity.kept-x.new",
            ];
            let unfinished = unfinished.map(|name| config.data.join(name));
            for file in &unfinished {
                fs::copy(&key, file).unwrap();
            }
            replace_file(&config.data, GENERALIZED_FILE, b"qm\n").unwrap();
            for name in OWN.iter().take(erased) {
                remove(&config.data.join(name)).unwrap();
            }
            let after = init(&config).unwrap();
            assert!(after.created, "after {erased}");
            assert_ne!(after.qm, before.qm, "after {erased}");
            assert!(!aside.exists());
            for file in unfinished {
                assert!(!file.exists(), "{} after {erased}", file.display());
            }
            assert!(!config.data.join(GENERALIZED_FILE).exists());
            assert_eq!(init(&config).unwrap().qm, after.qm);
        }
    }

    /// A store that a repair put aside holds messages of this machine, and must not be in the way.
    #[test]
    fn what_repairs_put_aside_goes_with_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let before = init(&config).unwrap();
        let aside = ["store.damaged-1", "store.damaged-12", "store.repaired-2"];
        for name in aside {
            fs::create_dir(config.data.join(name)).unwrap();
            fs::write(config.data.join(name).join("00000001.seg"), "a message").unwrap();
        }
        sysprep(&config, &Waiting::Purge).unwrap();
        for name in aside {
            assert!(!config.data.join(name).exists(), "{name}");
        }
        assert_ne!(init(&config).unwrap().qm, before.qm);
    }

    /// Two starts at once on a prepared directory: the second must not erase what the first makes.
    #[test]
    fn nothing_is_erased_under_a_process_that_is_at_work() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let before = init(&config).unwrap();
        let first = DataLock::take(&config.data).unwrap();
        replace_file(&config.data, GENERALIZED_FILE, b"qm\n").unwrap();
        let second = init(&config);
        assert!(
            matches!(second, Err(RunError::DataInUse { .. })),
            "{second:?}"
        );
        let prepared = sysprep(&config, &Waiting::Purge);
        assert!(
            matches!(prepared, Err(RunError::DataInUse { .. })),
            "{prepared:?}"
        );
        assert!(config.data.join(STORE_DIR).is_dir());
        assert_eq!(identity(&config.data).unwrap().qm, before.qm);
        drop(first);
        assert_ne!(init(&config).unwrap().qm, before.qm);
    }

    #[test]
    fn waiting_messages_are_not_given_up_unless_that_is_said() {
        use qm_client::blocking::Client;
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.listen = "127.0.0.1:0".parse().unwrap();
        let node = crate::run::Node::start(config.clone()).unwrap();
        let client = Client::connect(node.socket()).unwrap();
        client
            .admin(r#"{"do":"queue.create","name":"orders"}"#)
            .unwrap();
        client
            .send(qm_client::Message::new("orders", "kept"))
            .unwrap();
        // Not while it runs.
        let running = sysprep(&config, &Waiting::Purge);
        assert!(matches!(running, Err(RunError::DataInUse { .. })));
        let before = node.qm_id();
        client.close();
        node.shutdown().unwrap();
        let held = sysprep(&config, &Waiting::Refuse).unwrap();
        assert_eq!((held.messages, held.refused), (1, true));
        assert_eq!(identity(&config.data).unwrap().qm, before);
        let held = sysprep(&config, &Waiting::Purge).unwrap();
        assert_eq!((held.messages, held.refused), (1, false));
        assert_ne!(init(&config).unwrap().qm, before);
    }

    /// A crash at any step of an export leaves the node here as it was, and nothing elsewhere.
    #[test]
    fn an_interrupted_export_did_not_happen() {
        for moved in 0..=OWN.len() {
            let dir = tempfile::tempdir().unwrap();
            let config = config(dir.path());
            let before = init(&config).unwrap();
            let gathered = config.data.join(EXPORTING_DIR);
            fs::create_dir(&gathered).unwrap();
            for name in OWN.iter().take(moved) {
                move_file(&config.data.join(name), &gathered.join(name)).unwrap();
            }
            let to = dir.path().join("kept");
            if moved % 2 == 0 {
                let after = init(&config).unwrap();
                assert_eq!((after.qm, after.created), (before.qm, false), "{moved}");
                assert!(!gathered.exists());
            }
            // Or it is asked for once more.
            sysprep(&config, &Waiting::Export(to.clone())).unwrap();
            assert_eq!(identity(&to).unwrap().qm, before.qm, "{moved}");
            assert!(to.join(STORE_DIR).is_dir());
            assert!(!gathered.exists());
        }
    }

    /// Where it cannot go, it stays.
    #[test]
    fn an_export_that_fails_leaves_everything_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let before = init(&config).unwrap();
        let to = config.data.join(STORE_DIR).join("inside");
        let failed = sysprep(&config, &Waiting::Export(to.clone()));
        assert!(matches!(failed, Err(RunError::Identity(_))), "{failed:?}");
        assert!(!to.exists() && !config.data.join(EXPORTING_DIR).exists());
        let after = init(&config).unwrap();
        assert_eq!((after.qm, after.created), (before.qm, false));
    }

    #[test]
    fn what_is_exported_is_the_node_that_was() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let before = init(&config).unwrap();
        let to = dir.path().join("kept");
        let held = sysprep(&config, &Waiting::Export(to.clone())).unwrap();
        assert_eq!(held.messages, 0);
        assert!(matches!(
            identity(&config.data),
            Err(RunError::NotInitialised { .. })
        ));
        assert_eq!(identity(&to).unwrap().qm, before.qm);
        // Where something is already, nothing is moved.
        let again = init(&config).unwrap();
        assert_ne!(again.qm, before.qm);
        let refused = sysprep(&config, &Waiting::Export(to.clone()));
        assert!(matches!(refused, Err(RunError::Identity(_))), "{refused:?}");
        assert_eq!(identity(&config.data).unwrap().qm, again.qm);
        assert_eq!(identity(&to).unwrap().qm, before.qm);
        // Twice is as good as once.
        sysprep(&config, &Waiting::Purge).unwrap();
        sysprep(&config, &Waiting::Refuse).unwrap();
        assert_ne!(init(&config).unwrap().qm, again.qm);
    }
}
