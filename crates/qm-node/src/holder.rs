//! Who has what we want: the process behind a lock, a port or a socket, where `/proc` tells.
//!
//! Only for the words of an error. Whatever is missing or not to be read there is nobody.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// What its program is called, at most 15 bytes.
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.name)
    }
}

/// The other process that has a file open.
pub(crate) fn of_file(path: &Path) -> Option<Holder> {
    let path = fs::canonicalize(path).ok()?;
    with_open(|target| target == path)
}

/// The process at a UDP address.
pub(crate) fn of_udp(listen: SocketAddr) -> Option<Holder> {
    let tables = ["/proc/net/udp", "/proc/net/udp6"];
    let inodes: Vec<String> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| udp_inodes(&table, listen))
        .collect();
    of_sockets(&inodes)
}

/// The process that listens at the path of a local socket.
pub(crate) fn of_socket(path: &Path) -> Option<Holder> {
    let table = fs::read_to_string("/proc/net/unix").ok()?;
    let path = path.to_str()?;
    // Connections that it has not accepted yet stand there as well, and belong to nobody.
    let inodes: Vec<String> = table
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let inode = fields.nth(6)?;
            (fields.next() == Some(path)).then(|| inode.to_owned())
        })
        .collect();
    of_sockets(&inodes)
}

/// Numbers of the sockets that keep others from `listen`: of its port, at its address or at all
/// of them.
fn udp_inodes(table: &str, listen: SocketAddr) -> Vec<String> {
    let any = |address: &str| address.bytes().all(|digit| digit == b'0');
    let wanted = hex_address(listen);
    let rows = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (address, port) = fields.nth(1)?.split_once(':')?;
        let inode = fields.nth(7)?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let meets =
            any(address) || listen.ip().is_unspecified() || wanted.contains(&address.into());
        (port == listen.port() && meets).then(|| inode.to_owned())
    });
    rows.collect()
}

/// An address as the tables of `/proc/net` write it: 32-bit words in the machine's order. One of
/// IPv4 also as the address of IPv6 that stands for it.
fn hex_address(listen: SocketAddr) -> Vec<String> {
    let hex = |bytes: &[u8]| -> String {
        let words = bytes
            .chunks_exact(4)
            .filter_map(|word| word.try_into().ok());
        words
            .map(|word: [u8; 4]| {
                let word = if cfg!(target_endian = "little") {
                    u32::from_le_bytes(word)
                } else {
                    u32::from_be_bytes(word)
                };
                format!("{word:08X}")
            })
            .collect()
    };
    match listen {
        SocketAddr::V4(v4) => vec![
            hex(&v4.ip().octets()),
            hex(&v4.ip().to_ipv6_mapped().octets()),
        ],
        SocketAddr::V6(v6) => vec![hex(&v6.ip().octets())],
    }
}

fn of_sockets(inodes: &[String]) -> Option<Holder> {
    let names: Vec<String> = inodes
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    with_open(|target| {
        target
            .to_str()
            .is_some_and(|target| names.iter().any(|name| name == target))
    })
}

/// The first process, other than this one, with an open file that `matches`.
fn with_open(matches: impl Fn(&Path) -> bool) -> Option<Holder> {
    let me = std::process::id();
    let pids = fs::read_dir("/proc").ok()?.flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids.filter(|pid| *pid != me) {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        let has = files
            .flatten()
            .filter_map(|file| fs::read_link(file.path()).ok())
            .any(|target| matches(&target));
        if has {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            return Some(Holder {
                pid,
                name: name.trim().chars().filter(|c| !c.is_control()).collect(),
            });
        }
    }
    None
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_the_kernel_are_read() {
        let v4 = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
                  1: 0100007F:0709 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4242 2 0 0\n\
                  2: 0200007F:0709 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4343 2 0 0\n\
                  3: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4444 2 0 0\n\
                  4: broken\n";
        let inodes = |listen: &str| udp_inodes(v4, listen.parse().unwrap());
        assert_eq!(inodes("127.0.0.1:1801"), ["4242"]);
        assert_eq!(inodes("0.0.0.0:1801"), ["4242", "4343"]);
        assert_eq!(inodes("[::]:1801"), ["4242", "4343"]);
        assert_eq!(inodes("127.0.0.9:53"), ["4444"]);
        assert!(inodes("127.0.0.1:1802").is_empty());
        let v6 = "head\n1: 0000000000000000FFFF00000100007F:0709 0:0 07 0:0 00:0 0 0 0 51 2 0 0\n";
        assert_eq!(udp_inodes(v6, "127.0.0.1:1801".parse().unwrap()), ["51"]);
    }
}
