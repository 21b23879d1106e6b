//! What an operator may set, where it comes from, and what is wrong with it.
//!
//! Later sources win: the defaults, the file, the environment, the command line.

mod file;
pub(crate) mod keys;
mod rules;
pub(crate) mod units;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use qm_engine::EngineConfig;
use qm_node::NodeConfig;
use qm_store::LogOptions;

use self::file::Place;
use self::keys::{KEYS, Key};

/// A configuration with every key and its comments has 6 KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Name of the local socket in a data directory.
const SOCKET_FILE: &str = "node.sock";

/// Everything that can be set, with its origin.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) data: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) name: Option<String>,
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
    pub(crate) engine: EngineConfig,
    pub(crate) store: LogOptions,
    pub(crate) scrub_bytes_per_second: u64,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
    /// Variables that look like settings and are none.
    pub(crate) unknown_variables: Vec<String>,
    origins: BTreeMap<&'static str, Origin>,
    /// Sockets at which a node of this user may listen when none was named.
    socket_candidates: Vec<PathBuf>,
}

/// Shape of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Where a value comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Origin {
    #[default]
    Default,
    File(Place),
    Environment(String),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(place) => write!(f, "{}:{}", place.path.display(), place.line),
            Self::Environment(name) => write!(f, "{name}"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

impl Origin {
    /// The origin of a value that is wrong.
    fn exact(&self) -> String {
        match self {
            Self::File(place) => place.exact(),
            other => other.to_string(),
        }
    }
}

/// What is wrong with the configuration, where, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    pub(crate) code: &'static str,
    pub(crate) cause: String,
    pub(crate) fix: String,
    /// The line and the column in it, from 0.
    pub(crate) excerpt: Option<(String, usize)>,
}

impl ConfigError {
    fn new(cause: String, fix: String) -> Self {
        Self {
            code: "config",
            cause,
            fix,
            excerpt: None,
        }
    }
}

/// What the process finds around it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    pub(crate) variables: BTreeMap<String, OsString>,
    pub(crate) root: bool,
    /// Bytes that the machine, or the limit on the service, lets a process have.
    pub(crate) memory: Option<u64>,
}

impl Surroundings {
    pub(crate) fn of_process() -> Self {
        let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value));
        Self {
            variables: std::env::vars_os().filter_map(text).collect(),
            root: rustix::process::geteuid().is_root(),
            memory: memory_bytes(),
        }
    }

    /// An absolute directory named by a variable (XDG Base Directory Specification: relative
    /// ones are to be ignored).
    fn directory(&self, name: &str) -> Option<PathBuf> {
        let path = PathBuf::from(self.variables.get(name)?);
        path.is_absolute().then_some(path)
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        let path = self.variables.get(name).filter(|path| !path.is_empty())?;
        Some(PathBuf::from(path))
    }

    fn home(&self, below: &str) -> PathBuf {
        self.directory("HOME")
            .unwrap_or_else(|| "/".into())
            .join(below)
    }

    fn default_data(&self) -> PathBuf {
        if self.root {
            return "/var/lib/qm".into();
        }
        let state = self.directory("XDG_STATE_HOME");
        state
            .unwrap_or_else(|| self.home(".local/state"))
            .join("qm")
    }

    fn default_file(&self) -> PathBuf {
        if self.root {
            return "/etc/qm/qm-node.toml".into();
        }
        let config = self.directory("XDG_CONFIG_HOME");
        config
            .unwrap_or_else(|| self.home(".config"))
            .join("qm/qm-node.toml")
    }

    /// Where a node in the default data directory listens. Not below the runtime directory for
    /// root: a service has none and an operator's shell does, and both must mean one place.
    fn default_socket(&self, data: &Path) -> PathBuf {
        match self.directory("XDG_RUNTIME_DIR") {
            _ if self.root => "/run/qm/node.sock".into(),
            Some(runtime) => runtime.join("qm").join(SOCKET_FILE),
            None => data.join(SOCKET_FILE),
        }
    }
}

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    pub(crate) config: Option<PathBuf>,
    /// Flag, key and value, in the order given.
    pub(crate) values: Vec<(&'static str, &'static str, String)>,
}

impl Settings {
    /// The settings when nobody says anything.
    pub(crate) fn default_in(around: &Surroundings) -> Self {
        let data = around.default_data();
        Self {
            socket: around.default_socket(&data),
            data,
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, qm_node::DEFAULT_PORT)),
            name: None,
            log: "info".to_owned(),
            log_format: LogFormat::Text,
            engine: EngineConfig::default(),
            store: LogOptions::default(),
            scrub_bytes_per_second: 1 << 20,
            file: None,
            unknown_variables: Vec::new(),
            origins: BTreeMap::new(),
            socket_candidates: Vec::new(),
        }
    }

    /// Reads all sources.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the sources.
    pub(crate) fn load(around: &Surroundings, flags: &Flags) -> Result<Self, Vec<ConfigError>> {
        let mut settings = Self::default_in(around);
        let mut errors = settings.read_file(around, flags);
        errors.extend(settings.read_environment(around));
        for (flag, key, value) in &flags.values {
            errors.extend(settings.set(key, value, Origin::Flag(flag)).err());
        }
        if errors.is_empty() {
            settings.place_socket(around);
            errors = settings.check(around.memory);
        }
        if errors.is_empty() {
            Ok(settings)
        } else {
            Err(errors)
        }
    }

    /// Where the value of a key comes from.
    pub(crate) fn origin(&self, key: &str) -> &Origin {
        static DEFAULT: Origin = Origin::Default;
        self.origins.get(key).unwrap_or(&DEFAULT)
    }

    /// The socket to connect to: the configured one, else the first that exists of those where a
    /// node of this user would listen.
    pub(crate) fn client_socket(&self) -> &Path {
        let exists = |path: &&PathBuf| path.exists();
        self.socket_candidates
            .iter()
            .find(exists)
            .unwrap_or(&self.socket)
    }

    /// What the daemon is started with.
    pub(crate) fn node_config(&self) -> NodeConfig {
        let mut config = NodeConfig::new(&self.data);
        config.socket.clone_from(&self.socket);
        config.listen = self.listen;
        config.name.clone_from(&self.name);
        config.engine = self.engine.clone();
        config.store = self.store.clone();
        config.scrub_bytes_per_second = self.scrub_bytes_per_second;
        config
    }

    fn read_file(&mut self, around: &Surroundings, flags: &Flags) -> Vec<ConfigError> {
        let named = flags.config.clone().or_else(|| around.path("QM_CONFIG"));
        let path = named.clone().unwrap_or_else(|| around.default_file());
        let unreadable = |problem: String| {
            let cause = format!(
                "the configuration file {} cannot be read: {problem}",
                path.display()
            );
            let fix = "name another one with --config or QM_CONFIG".to_owned();
            vec![ConfigError::new(cause, fix)]
        };
        let bytes = match read_limited(&path) {
            Ok(bytes) => bytes,
            // Only a file that somebody named must be there.
            Err(e) if named.is_none() && e.kind() == io::ErrorKind::NotFound => return vec![],
            Err(e) => return unreadable(e.to_string()),
        };
        let errors = match std::str::from_utf8(&bytes) {
            Ok(text) => self.read_text(&path, text),
            Err(e) => {
                let line = bytes
                    .iter()
                    .take(e.valid_up_to())
                    .filter(|b| **b == b'\n')
                    .count()
                    + 1;
                return unreadable(format!("line {line} is not UTF-8"));
            }
        };
        self.file = Some(path);
        errors
    }

    /// Takes the values of a file's text, and tells of those that cannot be taken.
    pub(crate) fn read_text(&mut self, path: &Path, text: &str) -> Vec<ConfigError> {
        let (values, mut errors) = file::parse(path, text);
        for value in values {
            let origin = Origin::File(value.place);
            errors.extend(self.set(value.key, &value.text, origin).err());
        }
        errors
    }

    fn read_environment(&mut self, around: &Surroundings) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        for (name, value) in &around.variables {
            let Some(rest) = name.strip_prefix("QM_") else {
                continue;
            };
            if name == "QM_CONFIG" {
                continue;
            }
            let wanted = rest.to_ascii_lowercase().replace("__", ".");
            match Key::named(&wanted) {
                Some(key) if variable_of(key) == *name => {
                    let Some(value) = value.to_str() else {
                        let cause = format!("the environment variable {name} is not UTF-8");
                        let fix = format!("`{}` is {}", key.name, key.kind.describe());
                        errors.push(ConfigError::new(cause, fix));
                        continue;
                    };
                    let origin = Origin::Environment(name.clone());
                    errors.extend(self.set(key.name, value, origin).err());
                }
                _ if rest.contains("__") => {
                    let cause = format!(
                        "the environment variable {name} names no key: there is no `{wanted}`"
                    );
                    errors.push(ConfigError::new(cause, file::accepted(&wanted)));
                }
                _ => self.unknown_variables.push(name.clone()),
            }
        }
        errors
    }

    fn set(&mut self, key: &'static str, value: &str, origin: Origin) -> Result<(), ConfigError> {
        let known = Key::named(key).expect("sources name keys of the table");
        (known.set)(self, value).map_err(|problem| {
            let cause = format!("{}: `{key}`: {problem}", origin.exact());
            let excerpt = match &origin {
                Origin::File(place) => Some(place.excerpt()),
                _ => None,
            };
            ConfigError {
                excerpt,
                ..ConfigError::new(cause, format!("`{key}` is {}", known.kind.describe()))
            }
        })?;
        self.origins.insert(key, origin);
        Ok(())
    }

    /// A node in a directory of its own has its socket there, so that several nodes of one user
    /// do not meet at one socket.
    fn place_socket(&mut self, around: &Surroundings) {
        if self.origins.contains_key("socket") {
            return;
        }
        if self.origins.contains_key("data") {
            self.socket = self.data.join(SOCKET_FILE);
            return;
        }
        let below = self.data.join(SOCKET_FILE);
        self.socket_candidates = vec![self.socket.clone(), below, "/run/qm/node.sock".into()];
        if around.root {
            self.socket_candidates.truncate(2);
        }
    }
}

/// The least of what the machine has and what limits of control groups leave.
fn memory_bytes() -> Option<u64> {
    let read = |path: String| {
        std::fs::read_to_string(path)
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    let group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = group
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or("/");
    let limit = read(format!(
        "/sys/fs/cgroup/{}/memory.max",
        group.trim_matches('/')
    ));
    let of_container = read("/sys/fs/cgroup/memory.max".to_owned());
    let machine = machine_memory();
    [limit, of_container, machine].into_iter().flatten().min()
}

#[cfg(target_os = "linux")]
fn machine_memory() -> Option<u64> {
    let info = rustix::system::sysinfo();
    let bytes = u128::from(info.totalram).saturating_mul(info.mem_unit.into());
    u64::try_from(bytes).ok()
}

#[cfg(not(target_os = "linux"))]
const fn machine_memory() -> Option<u64> {
    None
}

/// Reads a file that people write: a larger one is some other file.
fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    let limit = FILE_BYTES_MAX.saturating_add(1);
    io::Read::read_to_end(&mut io::Read::take(file, limit), &mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        let text = format!("it is larger than {FILE_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(bytes)
}

/// The environment variable of a key.
pub(crate) fn variable_of(key: &Key) -> String {
    format!("QM_{}", key.name.replace('.', "__").to_ascii_uppercase())
}

/// The example file: every key with its meaning and its default, commented out.
pub(crate) fn example() -> String {
    let around = Surroundings {
        root: true,
        ..Surroundings::default()
    };
    let defaults = Settings::default_in(&around);
    let mut text = EXAMPLE_HEAD.to_owned();
    let mut section = "";
    for key in KEYS {
        let (of, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if of != section {
            section = of;
            text.push_str(&format!("\n[{section}]\n"));
        }
        text.push('\n');
        for line in key.doc.lines() {
            text.push_str(&format!("# {line}\n"));
        }
        text.push_str(&format!(
            "#{name} = {}\n",
            key.kind.toml(&(key.show)(&defaults))
        ));
    }
    text
}

const EXAMPLE_HEAD: &str = "\
# Configuration of qm-node. Every key is here with its default; remove the `#` in front of a key to
# change it. `qm-node config check` tells what is wrong with a file, `qm-node config show` what is
# in force and where it comes from.
#
# The file is read from --config FILE, else $QM_CONFIG, else ~/.config/qm/qm-node.toml
# (/etc/qm/qm-node.toml for root). An environment variable QM_SECTION__KEY, such as
# QM_DEDUP__SIZE, wins over the file, and a flag wins over both.
#
# Durations: ms, s, min, h, d. Sizes: B, KiB, MiB, GiB, TiB.
";

#[cfg(test)]
mod tests;
