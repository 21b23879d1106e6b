//! Signs that this machine was resumed from a snapshot: hints, never proof.
//!
//! A false one costs a reconnect, so each is believed. Signs that come too late or not at all cost
//! no message: what that rests on is told in docs/identity.md.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use qm_engine::Now;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

/// The wall clock is set in steps of this size when a machine is resumed, and by hand.
const STEP_US: u64 = 5_000_000;
/// The kernel's word of a new generation is looked for this often: what a resumed machine sends
/// until then it may send twice.
const KERNEL_LOOK: Duration = Duration::from_millis(20);
/// The boot is looked at this often: a process in another one was restored.
const BOOT_LOOK: Duration = Duration::from_secs(1);
/// Messages of the kernel that are read in one look; more follow in the next.
const MESSAGES_MAX: usize = 64;
/// Such a message has some hundred bytes, and no more than a page or two.
const MESSAGE_BYTES_MAX: usize = 8 << 10;
/// Which of the kernel's broadcasts: its own, not those of udev.
const KERNEL_GROUP: u32 = 1;
/// What the kernel tells when the hypervisor gave the machine a new generation.
const NEW_GENERATION: &[u8] = b"NEW_VMGENID=1";
/// Changes with every boot, so never while a process lives, unless it was moved into another one.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// See the module.
#[derive(Debug)]
pub(crate) struct Signals {
    /// Wall clock less node time, at the last look.
    skew_us: Option<i128>,
    boot: Option<Vec<u8>>,
    /// Where the kernel tells of devices, if it lets this process hear.
    kernel: Option<OwnedFd>,
    kernel_looked: Instant,
    boot_looked: Instant,
}

impl Signals {
    /// From now on.
    pub(crate) fn watch() -> Self {
        Self {
            skew_us: None,
            boot: boot_id(Path::new(BOOT_ID)),
            kernel: listen(),
            kernel_looked: Instant::now(),
            boot_looked: Instant::now(),
        }
    }

    /// What happened since the last look that says so.
    pub(crate) fn look(&mut self, now: &Now) -> Option<&'static str> {
        if self.clock_stepped(now) {
            return Some("the wall clock stepped");
        }
        if self.kernel_looked.elapsed() < KERNEL_LOOK {
            return None;
        }
        self.kernel_looked = Instant::now();
        if self.kernel.as_ref().is_some_and(new_generation) {
            return Some("the hypervisor gave the machine a new generation id");
        }
        if self.boot_looked.elapsed() < BOOT_LOOK {
            return None;
        }
        self.boot_looked = Instant::now();
        let boot = boot_id(Path::new(BOOT_ID));
        if boot.is_some() && boot != self.boot {
            let first = self.boot.is_none();
            self.boot = boot;
            return (!first).then_some("this process runs in another boot than before");
        }
        None
    }

    /// Clocks that go at different paces differ by little from one look to the next.
    fn clock_stepped(&mut self, now: &Now) -> bool {
        let skew = i128::from(now.wall_us) - i128::from(now.at.0);
        let before = self.skew_us.replace(skew);
        before.is_some_and(|before| skew.abs_diff(before) > u128::from(STEP_US))
    }
}

fn boot_id(path: &Path) -> Option<Vec<u8>> {
    let mut id = Vec::new();
    File::open(path).ok()?.take(64).read_to_end(&mut id).ok()?;
    (!id.is_empty()).then_some(id)
}

/// Hears the kernel's broadcasts about devices; `None` where that is not to be had, as in many
/// containers.
fn listen() -> Option<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let family = AddressFamily::NETLINK;
    let kind = SocketType::DGRAM;
    let socket = rustix::net::socket_with(family, kind, flags, Some(KOBJECT_UEVENT)).ok()?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP)).ok()?;
    Some(socket)
}

/// Whether one of the messages that wait is about a new generation.
fn new_generation(socket: &OwnedFd) -> bool {
    let mut message = vec![0; MESSAGE_BYTES_MAX];
    let mut seen = false;
    for _ in 0..MESSAGES_MAX {
        let Ok((length, _)) = rustix::net::recv(socket, &mut message[..], RecvFlags::empty())
        else {
            break;
        };
        seen |= tells_of_new_generation(message.get(..length).unwrap_or_default());
    }
    seen
}

/// A message is a line and then settings, each ended by a zero.
fn tells_of_new_generation(message: &[u8]) -> bool {
    message
        .split(|byte| *byte == 0)
        .any(|line| line == NEW_GENERATION)
}

#[cfg(test)]
mod tests {
    use qm_engine::Timestamp;

    use super::*;

    fn now(at_s: u64, wall_s: u64) -> Now {
        Now {
            at: Timestamp(at_s * 1_000_000),
            wall_us: wall_s * 1_000_000,
        }
    }

    #[test]
    fn a_step_of_the_wall_clock_is_a_sign_and_its_pace_is_none() {
        let mut signals = Signals::watch();
        assert_eq!(signals.look(&now(10, 1_000)), None);
        // A clock that is put right a little at a time, and one that sleeps with its machine.
        for n in 1..100 {
            assert_eq!(signals.look(&now(10 + n, 1_000 + 3 * n)), None);
        }
        assert_eq!(signals.look(&now(1_000_110, 1_001_300)), None);
        for wall_s in [1_001_310, 1_001_300] {
            let said = signals.look(&now(1_000_110, wall_s));
            assert_eq!(said, Some("the wall clock stepped"));
            assert_eq!(signals.look(&now(1_000_110, wall_s)), None, "once");
        }
    }

    #[test]
    fn the_kernels_word_is_found_among_others() {
        let about = |settings: &str| format!("change@/devices/acpi/VMGENCTR:00\0{settings}\0");
        let other = about("ACTION=change\0NEW_VMGENID=12");
        assert!(!tells_of_new_generation(other.as_bytes()));
        let this = about("ACTION=change\0NEW_VMGENID=1\0SEQNUM=7");
        assert!(tells_of_new_generation(this.as_bytes()));
        assert!(!tells_of_new_generation(b""));
    }

    #[test]
    fn another_boot_is_a_sign() {
        let mut signals = Signals::watch();
        if signals.boot.is_none() {
            return;
        }
        signals.boot = Some(b"another".to_vec());
        let long_ago = Instant::now().checked_sub(BOOT_LOOK).unwrap();
        (signals.kernel_looked, signals.boot_looked) = (long_ago, long_ago);
        let said = signals.look(&now(10, 1_000));
        assert_eq!(said, Some("this process runs in another boot than before"));
    }
}
