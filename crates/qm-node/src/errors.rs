//! The one table of errors: what the program prints, with its exit code and what to do.
//!
//! Messages that were refused have an [`Outcome`](qm_wire::Outcome) instead, which is on the wire
//! as well. `docs/errors.md` is made from both tables, and `qm-node errors` prints them.

use std::io;

/// An error that the program prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ErrorCode {
    /// A stable word.
    pub code: &'static str,
    /// Exit code of the command that ends with it.
    pub exit: u8,
    /// What it means, for every case of it.
    pub meaning: &'static str,
    /// A cause as it is printed: what, and where.
    pub example: &'static str,
    /// What to do, unless the error itself knows more.
    pub fix: &'static str,
}

impl ErrorCode {
    /// The row of a code.
    #[must_use]
    pub fn named(code: &str) -> Option<&'static Self> {
        ALL.iter().find(|known| known.code == code)
    }
}

/// The code of what an operating system refuses: the same wherever it happens. `otherwise` for
/// what says nothing by itself.
#[must_use]
pub fn code_of_io(error: &io::Error, otherwise: &'static str) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "disk_full"
        }
        io::ErrorKind::ReadOnlyFilesystem => "read_only",
        io::ErrorKind::PermissionDenied => "no_permission",
        _ if out_of_files(error) => "too_many_files",
        _ => otherwise,
    }
}

/// Neither has a kind of its own in the standard library.
fn out_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let limits = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error
        .raw_os_error()
        .is_some_and(|number| limits.contains(&number))
}

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const NOTHING: u8 = 3;
const NOT_RUNNING: u8 = 5;

macro_rules! errors {
    ($($code:ident, $exit:ident, $meaning:literal, $example:literal, $fix:literal;)*) => {
        /// Every error, those of one exit code together.
        pub const ALL: &[ErrorCode] = &[$(ErrorCode {
            code: stringify!($code),
            exit: $exit,
            meaning: $meaning,
            example: $example,
            fix: $fix,
        },)*];
    };
}

errors! {
    // What was typed or configured.
    usage, USAGE,
    "the command line is wrong",
    "invalid value '9' for '--priority <N>': write a whole number from 0 to 7",
    "`qm-node help COMMAND` shows what is possible";
    destination, USAGE,
    "a destination is written wrong; a caret shows where",
    "the port at byte 9 of the destination is no number from 1 to 65535",
    "write a destination as `queue`, `peer/queue`, `qm://host[:port]/queue`, `qm://<QMId>@host[:port]/queue` or `qm:<QMId>/queue`";
    config, USAGE,
    "a value of the configuration is wrong; all that are wrong are told at once",
    "qm-node.toml:2:1: there is no key `dedup.sise`",
    "`qm-node config check` names it, with what is accepted";
    needs_yes, USAGE,
    "a destructive or bulk command was not confirmed",
    "this would close the sessions of hub and take no message from it, and nobody can be asked",
    "add --yes; --dry-run shows what it would do";
    not_initialised, USAGE,
    "the data directory holds no node",
    "/var/lib/qm holds no node",
    "run `qm-node init`, or name the right directory with --data";
    socket_path_too_long, USAGE,
    "the path of the local socket does not fit into a socket address",
    "the path of the local socket has 120 bytes, operating systems take 100: /srv/a-long-path/node.sock",
    "choose a shorter path with --socket, or `socket` in the configuration";
    not_a_socket, USAGE,
    "something else lies where the local socket should be",
    "/run/qm/node.sock exists and is not a socket",
    "move the file away, or choose another path with --socket";
    store_options, USAGE,
    "the settings of the store contradict themselves",
    "store options: disk_bytes_max must hold the reserve and one segment more",
    "correct the `store` settings of the configuration";
    network_options, USAGE,
    "the settings of the network contradict themselves",
    "bad transport setting: mtu_initial must be at least 1200",
    "correct the setting; nodes started by the command line have none of these";

    // What a start needs.
    data_dir_locked, FAILED,
    "another process uses the data directory",
    "process 4711 (qm-node) uses the data directory /var/lib/qm",
    "use the node that runs, stop it, or choose another directory with --data";
    data_dir, FAILED,
    "the data directory or the identity in it cannot be used",
    "cannot create the data directory /srv/file/qm: Not a directory (os error 20)",
    "check that the path leads where it should; choose another directory with --data";
    identity_key_missing, FAILED,
    "the store belongs to an identity whose key is gone, or was replaced by that of another node",
    "/var/lib/qm holds a store but not the key of its node: the messages have lost their sender",
    "put identity.key back from a backup; to begin anew, move the directory away";
    identity_key_damaged, FAILED,
    "the identity's key file holds something else",
    "/var/lib/qm/identity.key is not an unencrypted Ed25519 private key in PKCS#8 DER: it is empty",
    "put identity.key back from a backup; it is never replaced by itself";
    store_newer, FAILED,
    "the store was written by a newer version",
    "/var/lib/qm/store/00000002.seg has format version 9, this version reads up to 1",
    "install the version that wrote the data directory, or a later one";
    store_damaged, FAILED,
    "a file of the store is gone or holds other bytes than were written",
    "segment 1 (/var/lib/qm/store/00000002.seg) is damaged at offset 12480: the checksum of a mark or of state does not match",
    "`qm-node store check` tells what is affected; `qm-node store repair --in-place` saves everything undamaged and keeps the damaged store; or put the directory back from a backup";
    store_foreign, FAILED,
    "a file of another store lies in the store's directory",
    "/var/lib/qm/store/00000072.seg does not belong to this store: another store wrote it",
    "move the named file out of the store's directory";
    store_io, FAILED,
    "the disk refuses the store",
    "could not read /var/lib/qm/store/00000002.seg: Input/output error (os error 5)",
    "look at the disk: kernel log, SMART, mount options; the store is as it was";
    store_given_up, FAILED,
    "the store failed while the node ran, and reopening it did not help",
    "the store failed 5 times, last: the store stopped after an error: could not flush /var/lib/qm/store/00000002.seg: Input/output error (os error 5)",
    "look at the disk (kernel log, SMART, mount options), then start the node again: recovery tells what survived";
    stop_unfinished, FAILED,
    "the node was told to stop, and the disk did not take all that was to be written",
    "the node was to stop, and the disk wrote nothing for 10 s; 3 commits were left",
    "recoverable messages that were accepted are there at the next start; express messages that were still in memory may be gone; look at the disk (kernel log, SMART, mount options)";
    port_in_use, FAILED,
    "another process has the UDP port",
    "UDP address 127.0.0.1:1801 is in use by process 4711 (qm-node)",
    "stop the other process, or choose another port with --listen";
    address_not_available, FAILED,
    "no interface of this machine has the address",
    "UDP address 192.0.2.7:1801 does not belong to this machine",
    "choose an address of this machine with --listen, or [::]:1801 for all of them";
    port_permission, FAILED,
    "the operating system refuses the port",
    "no permission for UDP address 127.0.0.1:80",
    "choose a port of 1024 or above with --listen, or give the program the privilege (CAP_NET_BIND_SERVICE)";
    listen, FAILED,
    "the UDP socket cannot be opened",
    "cannot open UDP socket [::]:1801: Address family not supported by protocol (os error 97)",
    "choose another address with --listen";
    socket_in_use, FAILED,
    "another process answers at the local socket",
    "process 4711 (qm-node) answers at the local socket /run/qm/node.sock",
    "stop the other node, or choose another path with --socket";
    socket, FAILED,
    "the local socket cannot be opened",
    "cannot create the directory /srv/file/run: Not a directory (os error 20)",
    "check the path, or choose another one with --socket";
    system, FAILED,
    "the operating system gives no threads, timers, signals or random bytes",
    "cannot start the node's runtime: Resource temporarily unavailable (os error 11)",
    "raise the limits of the process (ulimit -n, ulimit -u)";
    panicked, FAILED,
    "a thread of the node ended by panic, which is a defect",
    "the node's thread panicked",
    "report this with the log; the store recovers at the next start";

    // What an operating system says wherever it is asked.
    disk_full, FAILED,
    "the disk, or a quota or limit on it, is full",
    "could not allocate /var/lib/qm/store/00000002.seg: No space left on device (os error 28)",
    "make room on that disk; nothing that was accepted is lost, and a node that runs goes on by itself";
    read_only, FAILED,
    "the file system is read-only",
    "could not create /var/lib/qm/store: Read-only file system (os error 30)",
    "mount it writable (the kernel log says why it was remounted), or choose another directory with --data";
    no_permission, FAILED,
    "a socket, file or directory belongs to somebody else",
    "this user may not use the socket /run/qm/node.sock: Permission denied (os error 13)",
    "run the command as the user of the node, or give this user access to what the cause names";
    too_many_files, FAILED,
    "the process may not open more files",
    "could not open /var/lib/qm/store/lock: Too many open files (os error 24)",
    "raise the limit (`ulimit -n`, LimitNOFILE= of a service): a node needs about 48, and one for each application";
    io, FAILED,
    "a file or stream cannot be read or written",
    "invoice.pdf cannot be read: No such file or directory (os error 2)",
    "check that it is there and is what it should be";

    // Between a command and its node.
    connection, FAILED,
    "the connection to the node was lost",
    "the node at /run/qm/node.sock ended the connection",
    "the node was stopped or restarted, or its log says why; repeat the command";
    no_answer, FAILED,
    "whoever listens at the socket did not answer",
    "whoever listens at /run/qm/node.sock did not answer within 10000 ms",
    "look at the node's log: it is starting, hanging, or out of files; or another program listens there";
    not_a_node, FAILED,
    "what listens at the socket does not speak the local protocol",
    "what answers at /run/qm/node.sock does not speak the local protocol: the first frame is no greeting",
    "check the path (--socket, --data): another program listens there";
    local_version, FAILED,
    "node and command speak different versions of the local protocol",
    "the node at /run/qm/node.sock speaks version 9 of the local protocol, this command version 1",
    "use the qm-node command of the node's own version, or restart the node after an update";
    other_node, FAILED,
    "another node answers at the socket than before",
    "another node answers at /run/qm/node.sock now: 6d7f2a10-0000-8000-8000-000000000002 instead of 6d7f2a10-0000-8000-8000-000000000001",
    "what was unanswered stays with the former node: look there before the command is repeated";
    outcome_unknown, FAILED,
    "the answer was lost: the message may have been accepted or not",
    "the answer was lost: the node at /run/qm/node.sock ended the connection",
    "send again with the same --idempotency-key, or look with `qm-node peek`";
    command_failed, FAILED,
    "the command that a message was given to did not succeed; the message is back in its queue",
    "./book ended with exit code 1 after 3 ms; message 19d2f1c55fd1a3b0-17 is back in queue orders",
    "look at what the command says; after --max-aborts failures the message goes to QUEUE:poison";
    not_followed, FAILED,
    "too many messages are under way at once for one command",
    "32768 messages are being followed already",
    "send less at a time";
    not_understood, FAILED,
    "the node's answer is not understood",
    "the node's answer is not understood: missing field `schema` at line 1 column 2",
    "use the qm-node command of the node's own version";

    // What the commands themselves find.
    aborted, FAILED,
    "the command was interrupted, or the operator answered no",
    "the answer was not yes",
    "nothing was done";
    not_intact, FAILED,
    "messages are missing, changed or out of order",
    "of 60000 lines 60000 were reported as delivered, 1 did not arrive, 0 arrived with other bytes, 0 behind a later one; 0 messages arrived that were not sent",
    "report it: this must not happen; the nodes' directory with their logs was kept";
    trial, FAILED,
    "a node that was started for a demonstration or measurement failed",
    "the sending node ended: error [port_in_use]: UDP address 127.0.0.1:1801 is in use by process 4711 (qm-node)",
    "the cause shows the end of its log; --keep leaves all of it";

    nothing, NOTHING,
    "there was no message, or nothing that matches",
    "there is no message in queue orders",
    "wait for one with --wait or --follow";
    fate_open, NOTHING,
    "the time to wait ran out before the message's fate was known",
    "the message is accepted and not yet where it should be: hub has not approved this node",
    "`qm-node why MESSAGE-ID` tells what holds it up; the message is still on its way";

    not_running, NOT_RUNNING,
    "no node answers at the socket",
    "no node answers at /run/qm/node.sock: No such file or directory (os error 2)",
    "start one with `qm-node run`, or name its socket with --socket or its directory with --data";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_words() {
        for (n, known) in ALL.iter().enumerate() {
            let word = known
                .code
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b == b'_');
            assert!(word, "{}", known.code);
            assert_eq!(ErrorCode::named(known.code), Some(known));
            assert!(ALL.iter().skip(n + 1).all(|other| other.code != known.code));
            assert!(qm_wire::Outcome::from_name(known.code).is_none());
        }
    }

    #[test]
    fn what_the_system_refuses_has_one_code_wherever_it_happens() {
        for (number, code) in [
            (28, "disk_full"),
            (122, "disk_full"),
            (27, "disk_full"),
            (30, "read_only"),
            (13, "no_permission"),
            (1, "no_permission"),
            (24, "too_many_files"),
            (23, "too_many_files"),
            (5, "otherwise"),
            (2, "otherwise"),
        ] {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(code_of_io(&error, "otherwise"), code, "{error}");
        }
    }
}
