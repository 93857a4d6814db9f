//! What the kernel says of drives that come or begin anew (kobject uevents: `lib/kobject_uevent.c`, `nvme_class_uevent` of `drivers/nvme/host/core.c`).
//!
//! On failure: the kernel's error when the socket is made. Later, messages that were lost count as one that came.

use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use std::io;
use std::sync::Arc;
use std::thread;
use tokio::sync::Notify;
use tracing::warn;

/// The group of what the kernel itself sends; udev has another.
const FROM_THE_KERNEL: u32 = 1;
/// `UEVENT_BUFFER_SIZE` of linux/kobject.h, and the line in front of it.
const MESSAGE_BYTES: usize = 4096;

/// Begins to listen: told each time a drive may have come or begun anew. On a thread that lives as long as the agent.
pub(super) fn of_drives() -> io::Result<Arc<Notify>> {
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(KOBJECT_UEVENT))?;
    bind(&socket, &SocketAddrNetlink::new(0, FROM_THE_KERNEL))?;
    let news = Arc::new(Notify::new());
    let told = Arc::clone(&news);
    let listen = move || {
        let mut message = [0; MESSAGE_BYTES];
        loop {
            match recv(&socket, message.as_mut_slice(), RecvFlags::empty()) {
                Ok((len, _)) if !is_of_a_drive(&message[..len]) => {}
                // What was lost, because much came at once, may have been about a drive.
                Ok(_) | Err(Errno::NOBUFS) => told.notify_one(),
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return warn!("drives that are reset or put back are not noticed any more: {errno}");
                }
            }
        }
    };
    thread::Builder::new().name("uevents".to_owned()).spawn(listen)?;
    Ok(news)
}

/// A controller in this machine that has been added or has started (again), or a block device of NVMe: with the latter a controller can be used.
fn is_of_a_drive(message: &[u8]) -> bool {
    let has = |wanted: &str| message.split(|byte| *byte == 0).any(|field| field == wanted.as_bytes());
    let names =
        |wanted: &str| message.split(|byte| *byte == 0).any(|field| field.starts_with(wanted.as_bytes()));
    let controller = has("SUBSYSTEM=nvme") && has("NVME_TRTYPE=pcie") && !has("ACTION=remove");
    controller || (has("SUBSYSTEM=block") && has("ACTION=add") && names("DEVNAME=nvme"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drives_of_this_machine_count_and_other_machines_and_whatever_goes_do_not() {
        let is = |fields: &[&str]| is_of_a_drive(fields.join("\0").as_bytes());
        let started =
            ["change@/devices/pci0000:00/0000:00:04.0/nvme/nvme0", "ACTION=change", "SUBSYSTEM=nvme"];
        assert!(is(&[&started[..], &["NVME_TRTYPE=pcie", "NVME_EVENT=connected"]].concat()));
        assert!(!is(&[&started[..], &["NVME_TRTYPE=tcp", "NVME_TRADDR=10.0.0.1"]].concat()));
        assert!(!is(&["remove@/x", "ACTION=remove", "SUBSYSTEM=nvme", "NVME_TRTYPE=pcie"]));
        assert!(is(&["add@/x", "ACTION=add", "SUBSYSTEM=block", "DEVNAME=nvme0n1", "DEVTYPE=disk"]));
        assert!(!is(&["add@/x", "ACTION=add", "SUBSYSTEM=block", "DEVNAME=dm-3", "DEVTYPE=disk"]));
        assert!(!is(&[""]) && !is_of_a_drive(&[0xff, 0, 0]));
    }

    #[test]
    fn the_kernel_lets_it_listen() {
        of_drives().unwrap();
    }
}
