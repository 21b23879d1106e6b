//! What a data directory says about who the node is: its private key and its display name.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use qm_transport::NodeKey;
use qm_wire::limits::NAME_BYTES_MAX;

/// The key, PKCS#8 DER, readable by its owner only.
pub(crate) const KEY_FILE: &str = "identity.key";
/// The key of the identity that the node had before, while that drains or may be taken back.
pub(crate) const FORMER_FILE: &str = "identity.former";
/// A key that has no role yet.
pub(crate) const NEXT_FILE: &str = "identity.next";
/// Beginning of the names of files with keys that a store from before knows nothing of; the
/// identity follows.
const KEPT: &str = "identity.kept-";
/// End of the names of files that are being written.
const NEW: &str = ".new";
/// The display name, one line.
pub(crate) const NAME_FILE: &str = "name";
/// A PKCS#8 Ed25519 key has 48 to 83 bytes; more is some other file.
const KEY_BYTES_MAX: u64 = 1024;

/// Why the identity in a data directory cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The operating system refuses.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The key file holds something else.
    #[error("{} is not an unencrypted Ed25519 private key in PKCS#8 DER: {what}", path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// What it is instead, as far as its first bytes tell.
        what: &'static str,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gives no random bytes: {0}")]
    Entropy(getrandom::Error),
}

/// Creates the data directory, for its owner only, when it is missing.
pub(crate) fn create_data_dir(data: &Path) -> Result<(), IdentityError> {
    let missing: Vec<&Path> = data.ancestors().take_while(|dir| !dir.exists()).collect();
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data);
    made.map_err(io_error("create the data directory", data))?;
    // The names of all that were made must survive, the outermost first.
    let made = missing.into_iter().rev();
    let mut made = made.filter(|dir| !dir.as_os_str().is_empty());
    made.try_for_each(sync_parent)
}

/// Creates a directory, for its owner only, that is not there yet.
pub(crate) fn create_new_dir(dir: &Path) -> Result<(), IdentityError> {
    let made = fs::DirBuilder::new().mode(0o700).create(dir);
    made.map_err(io_error("create the directory", dir))?;
    sync_parent(dir)
}

/// Makes the name of a file or directory durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), IdentityError> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => sync_dir(Path::new(".")),
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

/// The key of a data directory, `None` when it has none yet.
pub(crate) fn load_key(data: &Path) -> Result<Option<NodeKey>, IdentityError> {
    load_key_file(data, KEY_FILE)
}

/// The key in one of the files of a data directory.
pub(crate) fn load_key_file(data: &Path, file: &str) -> Result<Option<NodeKey>, IdentityError> {
    let path = data.join(file);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error("open", &path)(e)),
    };
    let mode = file
        .metadata()
        .map_err(io_error("read", &path))?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        tracing::warn!(
            event = "key_readable",
            path = %path.display(),
            "the node's private key was readable by others; its permissions are now 0600"
        );
        file.set_permissions(Permissions::from_mode(0o600))
            .map_err(io_error("restrict the permissions of", &path))?;
    }
    let mut der = Vec::new();
    let read = (&file).take(KEY_BYTES_MAX).read_to_end(&mut der);
    read.map_err(io_error("read", &path))?;
    let what = guess(&der);
    let key = NodeKey::from_pkcs8(&der).map_err(|_e| IdentityError::NotAKey { path, what })?;
    Ok(Some(key))
}

/// What a file is that is no key of ours.
fn guess(bytes: &[u8]) -> &'static str {
    /// The algorithm's number in DER (RFC 8410, section 3).
    const ED25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
    match bytes {
        [] => "it is empty",
        _ if bytes.len() >= usize::try_from(KEY_BYTES_MAX).unwrap_or(usize::MAX) => {
            "it is too large for one"
        }
        _ if bytes.iter().all(|byte| *byte == 0) => "it holds zeros only",
        _ if bytes.starts_with(b"-----BEGIN") => "it is PEM, not DER",
        [0x30, ..] if bytes.windows(ED25519.len()).any(|part| part == ED25519) => {
            "it is cut short or damaged"
        }
        [0x30, ..] => "it is a key of another kind, or encrypted",
        _ => "it is no key at all",
    }
}

/// Makes a key and puts it on disk before anybody can have seen it used.
pub(crate) fn create_key(data: &Path, file: &str) -> Result<NodeKey, IdentityError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(IdentityError::Entropy)?;
    let key = NodeKey::generate(seed);
    save_key(data, file, &key)?;
    Ok(key)
}

/// Puts a key on disk, in the place of what was there.
pub(crate) fn save_key(data: &Path, file: &str, key: &NodeKey) -> Result<(), IdentityError> {
    replace_file(data, file, &key.to_pkcs8())
}

/// Removes a key from the disk.
pub(crate) fn erase_key(data: &Path, file: &str) -> Result<(), IdentityError> {
    let path = data.join(file);
    match fs::remove_file(&path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(io_error("remove", &path)(e)),
    }
    sync_dir(data)
}

/// Where a key is kept of which the store knows nothing.
pub(crate) fn kept_file(key: &NodeKey) -> String {
    format!("{KEPT}{}", key.qm_id())
}

/// The files with such keys, in order of their names.
pub(crate) fn kept_files(data: &Path) -> Result<Vec<String>, IdentityError> {
    files(data, |name| name.starts_with(KEPT) && !name.ends_with(NEW))
}

/// What crashes left of [`replace_file`], in order of their names: keys among them.
pub(crate) fn unfinished_files(data: &Path) -> Result<Vec<String>, IdentityError> {
    files(data, |name| {
        let of = name.strip_suffix(NEW);
        let own = [KEY_FILE, FORMER_FILE, NEXT_FILE, NAME_FILE];
        of.is_some_and(|of| of.starts_with(KEPT) || own.contains(&of))
    })
}

fn files(data: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>, IdentityError> {
    let entries = match fs::read_dir(data) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io_error("read", data)(e)),
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| wanted(name)).collect();
    names.sort_unstable();
    Ok(names)
}

/// The display name kept in a data directory.
pub(crate) fn load_name(data: &Path) -> Result<Option<String>, IdentityError> {
    let path = data.join(NAME_FILE);
    let mut bytes = Vec::new();
    let limit = u64::try_from(NAME_BYTES_MAX)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    match File::open(&path) {
        Ok(file) => file
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(io_error("read", &path))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error("open", &path)(e)),
    };
    let name = tidy_name(&String::from_utf8_lossy(&bytes));
    Ok((!name.is_empty()).then_some(name))
}

/// Keeps the display name for the next start.
pub(crate) fn save_name(data: &Path, name: &str) -> Result<(), IdentityError> {
    replace_file(data, NAME_FILE, format!("{name}\n").as_bytes())
}

/// A name as it may be shown and sent: one line without control characters, within the limit of
/// the wire.
pub(crate) fn tidy_name(name: &str) -> String {
    let mut tidy: String = name.trim().chars().filter(|c| !c.is_control()).collect();
    while tidy.len() > NAME_BYTES_MAX {
        tidy.pop();
    }
    tidy
}

/// The name of this machine, a first guess at a display name and a hint to peers' operators.
pub(crate) fn host_name() -> String {
    let uname = rustix::system::uname();
    tidy_name(&uname.nodename().to_string_lossy())
}

/// Writes a file so that after a crash either the old content or the new one is there, whole.
pub(crate) fn replace_file(dir: &Path, name: &str, content: &[u8]) -> Result<(), IdentityError> {
    let path = dir.join(name);
    let new = dir.join(format!("{name}{NEW}"));
    match fs::remove_file(&new) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(io_error("remove", &new)(e)),
    }
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new);
    let mut file = created.map_err(io_error("create", &new))?;
    file.write_all(content).map_err(io_error("write", &new))?;
    file.sync_all().map_err(io_error("flush", &new))?;
    fs::rename(&new, &path).map_err(io_error("put in place", &path))?;
    sync_dir(dir)
}

/// What was made or removed in a directory is so after a crash, too.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), IdentityError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(io_error("flush the directory", dir))
}

pub(crate) fn io_error<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> IdentityError + 'a {
    move |source| IdentityError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load_key(dir.path()).unwrap().is_none());
        // What a crash between writing and renaming leaves.
        fs::write(dir.path().join("identity.key.new"), b"half").unwrap();
        let key = create_key(dir.path(), KEY_FILE).unwrap();
        let again = load_key(dir.path()).unwrap().unwrap();
        assert_eq!(again.qm_id(), key.qm_id());
        let path = dir.path().join(KEY_FILE);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );

        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        load_key(dir.path()).unwrap().unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_damaged_key_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        let whole = create_key(dir.path(), KEY_FILE).unwrap().to_pkcs8();
        let cut = whole[..whole.len() - 1].to_vec();
        let mut other = whole.clone();
        // X25519 (RFC 8410): a key, but none to sign with.
        let at = whole.windows(3).position(|part| part == [0x2b, 0x65, 0x70]);
        other[at.unwrap() + 2] = 0x6e;
        for (content, what) in [
            (vec![], "it is empty"),
            (vec![0; 83], "zeros only"),
            (b"-----BEGIN PRIVATE KEY-----".to_vec(), "PEM, not DER"),
            (b"hello".to_vec(), "no key at all"),
            (cut, "cut short or damaged"),
            (other, "a key of another kind"),
            ([&*whole, &[0; 2_000]].concat(), "too large"),
        ] {
            fs::write(&path, &content).unwrap();
            let error = load_key(dir.path()).unwrap_err();
            assert!(matches!(error, IdentityError::NotAKey { .. }), "{error}");
            let text = error.to_string();
            assert!(
                text.contains("identity.key") && text.contains(what),
                "{text}"
            );
            assert_eq!(fs::read(&path).unwrap(), content);
        }
    }

    #[test]
    fn names_are_one_line_within_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load_name(dir.path()).unwrap(), None);
        save_name(dir.path(), "till-17").unwrap();
        assert_eq!(load_name(dir.path()).unwrap().as_deref(), Some("till-17"));
        assert_eq!(tidy_name(" a\n\u{1b}[2Jb "), "a[2Jb");
        assert_eq!(tidy_name(&"ü".repeat(400)).len(), 254);
    }
}
