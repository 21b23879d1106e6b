//! What an operator may set, where it comes from, and what is wrong with it.
//!
//! Later sources win: the defaults, the file, the environment, the command line.

mod file;
pub(crate) mod keys;
pub(crate) mod units;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use qm_engine::EngineConfig;
use qm_node::NodeConfig;
use qm_store::LogOptions;

use self::keys::{KEYS, Key};

/// Bytes of a Unix socket's path that every supported system takes.
const SOCKET_PATH_BYTES_MAX: usize = 100;
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
    File {
        path: PathBuf,
        line: usize,
    },
    Environment(String),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "{name}"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// What is wrong with the configuration, where, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    pub(crate) cause: String,
    pub(crate) fix: String,
}

/// What the process finds around it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    pub(crate) variables: BTreeMap<String, OsString>,
    pub(crate) root: bool,
}

impl Surroundings {
    pub(crate) fn of_process() -> Self {
        let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value));
        Self {
            variables: std::env::vars_os().filter_map(text).collect(),
            root: rustix::process::geteuid().is_root(),
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
            file: None,
            unknown_variables: Vec::new(),
            origins: BTreeMap::new(),
            socket_candidates: Vec::new(),
        }
    }

    /// Reads all sources.
    ///
    /// # Errors
    /// [`ConfigError`] for the first value that is wrong.
    pub(crate) fn load(around: &Surroundings, flags: &Flags) -> Result<Self, ConfigError> {
        let mut settings = Self::default_in(around);
        settings.read_file(around, flags)?;
        settings.read_environment(around)?;
        for (flag, key, value) in &flags.values {
            settings.set(key, value, Origin::Flag(flag))?;
        }
        settings.place_socket(around);
        settings.check()?;
        Ok(settings)
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
        config
    }

    fn read_file(&mut self, around: &Surroundings, flags: &Flags) -> Result<(), ConfigError> {
        let named = flags.config.clone().or_else(|| around.path("QM_CONFIG"));
        let path = named.clone().unwrap_or_else(|| around.default_file());
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            // Only a file that somebody named must be there.
            Err(e) if named.is_none() && e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => {
                return Err(ConfigError {
                    cause: format!(
                        "the configuration file {} cannot be read: {e}",
                        path.display()
                    ),
                    fix: "name another one with --config or QM_CONFIG".to_owned(),
                });
            }
        };
        self.read_text(&path, &text)?;
        self.file = Some(path);
        Ok(())
    }

    /// Takes the values of a file's text.
    pub(crate) fn read_text(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        for value in file::parse(path, text)? {
            let line = value.line;
            let origin = Origin::File {
                path: path.to_owned(),
                line,
            };
            self.set(value.key, &value.text, origin)?;
        }
        Ok(())
    }

    fn read_environment(&mut self, around: &Surroundings) -> Result<(), ConfigError> {
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
                        return Err(ConfigError {
                            cause: format!("the environment variable {name} is not UTF-8"),
                            fix: "set it again".to_owned(),
                        });
                    };
                    self.set(key.name, value, Origin::Environment(name.clone()))?;
                }
                _ if rest.contains("__") => {
                    return Err(ConfigError {
                        cause: format!(
                            "the environment variable {name} names no key: there is no `{wanted}`"
                        ),
                        fix: file::accepted(&wanted),
                    });
                }
                _ => self.unknown_variables.push(name.clone()),
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &'static str, value: &str, origin: Origin) -> Result<(), ConfigError> {
        let known = Key::named(key).expect("sources name keys of the table");
        (known.set)(self, value).map_err(|problem| ConfigError {
            cause: format!("{origin}: `{key}`: {problem}"),
            fix: format!("`{key}` is {}", known.kind.describe()),
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

    /// Rules between values.
    fn check(&self) -> Result<(), ConfigError> {
        let engine = &self.engine;
        let wrong = |key: &str, problem: String, fix: String| {
            let cause = format!("{}: `{key}`: {problem}", self.origin(key));
            Err(ConfigError { cause, fix })
        };
        if engine.reconnect_min_ms > engine.reconnect_max_ms {
            let problem = "the first pause is longer than the longest".to_owned();
            return wrong(
                "reconnect.min",
                problem,
                "set reconnect.min below reconnect.max".to_owned(),
            );
        }
        let bytes = self.socket.as_os_str().len();
        if bytes > SOCKET_PATH_BYTES_MAX {
            let problem = format!(
                "{} has {bytes} bytes, and operating systems take {SOCKET_PATH_BYTES_MAX}",
                self.socket.display()
            );
            let key = if self.origins.contains_key("socket") {
                "socket"
            } else {
                "data"
            };
            return wrong(key, problem, "give --socket a shorter path".to_owned());
        }
        Ok(())
    }
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
