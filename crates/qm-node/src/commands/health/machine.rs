//! The machine: directory, disk, clock, socket buffers, files.

use std::path::Path;
use std::time::SystemTime;

use rustix::process::{Resource, getrlimit};

use crate::config::Settings;
use crate::config::units::about_size;

use super::Finding;

/// What the transport asks of the system for its socket.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Open files below which a busy node runs out: sockets of applications, segments, its own.
const FILES_FEW: u64 = 1_024;
/// 2026-01-01T00:00:00Z: a clock before it has not yet heard of the time.
const PLAUSIBLE_WALL_SECONDS: u64 = 1_767_225_600;

pub(super) fn look(settings: &Settings, findings: &mut Vec<Finding>) {
    directory(&settings.data, findings);
    set_aside(&settings.data, findings);
    clock(findings);
    socket_buffers(findings);
}

fn directory(data: &Path, findings: &mut Vec<Finding>) {
    let place = data.display().to_string();
    match std::fs::metadata(data) {
        Err(error) => {
            findings.push(Finding::problem(
                "no_data",
                place,
                format!("the data directory cannot be used: {error}"),
                "`qm-node run` makes it; or name the right one with --data",
            ));
            return;
        }
        Ok(about) if !about.is_dir() => {
            findings.push(Finding::problem(
                "no_data",
                place,
                "this is no directory",
                "name the right one with --data",
            ));
            return;
        }
        Ok(_) => {}
    }
    use rustix::fs::{Access, access};
    if let Err(error) = access(data, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
        findings.push(Finding::problem(
            "no_permission",
            place.clone(),
            format!("the data directory cannot be written: {error}"),
            "run this command, and the node, as the user that owns it",
        ));
    }
    if let Err(error) = qm_node::identity(data) {
        findings.push(Finding::problem(
            "identity",
            place,
            error.to_string(),
            "`qm-node init` makes an identity in a new directory; restore a lost one from a backup",
        ));
    }
}

/// Damaged messages that a node could not serve and kept.
fn set_aside(data: &Path, findings: &mut Vec<Finding>) {
    let aside = data.join("damaged");
    let Ok(entries) = std::fs::read_dir(&aside) else {
        return;
    };
    let records = entries.filter_map(Result::ok);
    let records = records
        .filter(|entry| {
            entry
                .path()
                .extension()
                .is_some_and(|kind| kind == "record")
        })
        .count();
    if records > 0 {
        findings.push(Finding::notice(
            "damaged_kept",
            aside.display().to_string(),
            format!("{records} damaged messages that were taken out of their queues are kept here"),
            "send them again from their source, then remove the files",
        ));
    }
}

/// Bytes that are free for this user, and all bytes; or why nobody can tell.
fn room(data: &Path) -> Result<(u64, u64), String> {
    let about = rustix::fs::statvfs(data)
        .map_err(|error| format!("the disk of {} cannot be measured: {error}", data.display()))?;
    Ok((
        about.f_bavail.saturating_mul(about.f_frsize),
        about.f_blocks.saturating_mul(about.f_frsize),
    ))
}

/// How full the disk of a data directory is, for this user.
pub(super) fn disk_used_percent(data: &Path) -> Result<u64, String> {
    let (free, all) = room(data)?;
    Ok(100_u64.saturating_sub(super::percent(free, all)))
}

/// Looks at the disk of a data directory, which a node may have elsewhere than its caller.
pub(super) fn disk(data: &Path, settings: &Settings, findings: &mut Vec<Finding>) {
    let place = data.display().to_string();
    let (free, all) = match room(data) {
        Ok(room) => room,
        Err(reason) => {
            let fix = "run this command on the machine of the node, as its user";
            findings.push(Finding::problem("disk_room", place, reason, fix));
            return;
        }
    };
    let segment = u64::from(settings.store.segment_bytes);
    let text = format!("{} of {} are free", about_size(free), about_size(all));
    let fix = "make room, or move the data directory; a full disk makes senders wait and loses nothing that is on disk, \
         but an orderly stop has no place for express messages";
    if free < segment.saturating_add(settings.store.reserve_bytes) {
        let text = format!(
            "{text}, less than one more file of the log and its reserve ({} and {})",
            about_size(segment),
            about_size(settings.store.reserve_bytes)
        );
        findings.push(Finding::problem("disk_room", place, text, fix));
    } else if super::percent(free, all) < 5 {
        findings.push(Finding::notice("disk_room", place, text, fix));
    }
}

fn clock(findings: &mut Vec<Finding>) {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    if now < PLAUSIBLE_WALL_SECONDS {
        findings.push(Finding::notice(
            "clock",
            "wall clock",
            "the clock of this machine is years behind; messages age all the same, but the times shown are wrong",
            "set the clock, or let it be set over the network",
        ));
    }
}

fn socket_buffers(findings: &mut Vec<Finding>) {
    use socket2::{Domain, Socket, Type};
    let Ok(socket) = Socket::new(Domain::IPV4, Type::DGRAM, None) else {
        return;
    };
    // Refused or cut, the size read back tells.
    let _asked = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let Ok(got) = socket.recv_buffer_size() else {
        return;
    };
    if got < SOCKET_BUFFER_BYTES {
        findings.push(Finding::notice(
            "udp_buffers",
            "net.core.rmem_max",
            format!(
                "the system gives UDP sockets {} of the {} asked for: bursts are lost and sent again",
                about_size(got as u64),
                about_size(SOCKET_BUFFER_BYTES as u64)
            ),
            format!(
                "sysctl -w net.core.rmem_max={SOCKET_BUFFER_BYTES} net.core.wmem_max={SOCKET_BUFFER_BYTES}"
            ),
        ));
    }
    let files = getrlimit(Resource::Nofile).current;
    if let Some(files) = files.filter(|files| *files < FILES_FEW) {
        findings.push(Finding::notice(
            "files",
            "limit of this shell",
            format!("{files} files may be open; a node started here serves few applications"),
            "ulimit -n 65536, or LimitNOFILE= of the service",
        ));
    }
}

/// The limits of the node's own process, where the system shows them.
pub(super) fn look_at_process(pid: u32, findings: &mut Vec<Finding>) {
    let Ok(limits) = std::fs::read_to_string(format!("/proc/{pid}/limits")) else {
        return;
    };
    let limit = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|soft| soft.parse::<u64>().ok());
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count) as u64;
    if let Some(limit) = limit
        && super::percent(open, limit) >= 80
    {
        findings.push(Finding::problem(
            "files",
            format!("process {pid}"),
            format!("{open} of {limit} files are open; soon no application can connect"),
            "raise LimitNOFILE= of the service, or close applications",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn a_directory_that_is_not_there_is_found() {
        let mut findings = Vec::new();
        directory(Path::new("/nonexistent/qm"), &mut findings);
        assert_eq!(findings.len(), 1);
        assert_eq!(
            (findings[0].code, findings[0].level),
            ("no_data", Level::Problem)
        );
        let here = tempfile::tempdir().unwrap();
        let mut findings = Vec::new();
        directory(here.path(), &mut findings);
        assert_eq!(findings[0].code, "identity");
    }
}
