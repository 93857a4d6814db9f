//! The network as far as it must be there before the daemon: loopback, the lab's way in, settings of the stack.

use crate::ioctl::Interfaces;
use api::OutOfBand;
use model::{AdapterName, MacAddress};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const SYS_CLASS_NET: &str = "/sys/class/net";

/// Settings that a node with several networks needs. A failure is reported and the rest goes on.
const SETTINGS: [(&str, &str); 7] = [
    // Anybody may open ICMP sockets: probes need no raw ones.
    ("net/ipv4/ping_group_range", "0 2147483647"),
    // Linux answers ARP for any of its addresses on any NIC. Then a storage address could be reached over the other
    // storage NIC, and one cut cable would look like two, or like none. 1: only for the NIC's own addresses.
    ("net/ipv4/conf/all/arp_ignore", "1"),
    // 2: ask with an address of the NIC that asks, for the same reason.
    ("net/ipv4/conf/all/arp_announce", "2"),
    // 1: no IPv6 addresses by themselves. Nothing here speaks IPv6, and NICs shall be silent until a plan says otherwise.
    ("net/ipv6/conf/default/addr_gen_mode", "1"),
    ("net/ipv6/conf/all/addr_gen_mode", "1"),
    // 1: drop what comes in by a NIC that the answer would not leave by (RFC 3704, strict). Storage is never routed.
    ("net/ipv4/conf/all/rp_filter", "1"),
    ("net/ipv4/conf/default/rp_filter", "1"),
];

/// Why the node can't be reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum NetworkError {
    #[error("can't open a socket to configure interfaces")]
    Socket(#[source] Errno),
    #[error("no interface has the out-of-band MAC address {mac}; there are: {found}")]
    Missing { mac: MacAddress, found: String },
    #[error("can't set {name} up")]
    Up {
        name: String,
        #[source]
        source: Errno,
    },
    #[error("can't give {name} its address {address}")]
    Address {
        name: String,
        address: ipnet::Ipv4Net,
        #[source]
        source: Errno,
    },
}

/// Writes [`SETTINGS`].
pub(super) fn settings() {
    for (name, value) in SETTINGS {
        if let Err(error) = fs::write(Path::new("/proc/sys").join(name), value) {
            eprintln!("twinrackd init: setting {name}: {error}");
        }
    }
}

/// Sets the loopback interface up; the kernel gives it 127.0.0.1.
pub(super) fn loopback() -> Result<(), NetworkError> {
    let interfaces = Interfaces::open().map_err(NetworkError::Socket)?;
    interfaces.set_up("lo").map_err(|source| NetworkError::Up { name: "lo".to_owned(), source })
}

/// Finds the out-of-band NIC by its MAC address, gives it its address and sets it up.
pub(super) fn out_of_band(wanted: OutOfBand) -> Result<(), NetworkError> {
    let interfaces = Interfaces::open().map_err(NetworkError::Socket)?;
    let found = present();
    let Some((name, _)) = found.iter().find(|(_, mac)| *mac == wanted.mac) else {
        let found: Vec<_> = found.iter().map(|(name, mac)| format!("{name} {mac}")).collect();
        return Err(NetworkError::Missing { mac: wanted.mac, found: found.join(", ") });
    };
    let address = wanted.address;
    interfaces
        .set_address(name, address.addr(), address.netmask())
        .map_err(|source| NetworkError::Address { name: name.clone(), address, source })?;
    interfaces.set_up(name).map_err(|source| NetworkError::Up { name: name.clone(), source })
}

/// Sets the adapters up, without addresses: so that switches are heard (LLDP) and carrier and speed are known before any
/// plan. A missing one is reported: validation says more about it.
pub(super) fn adapters(wanted: &BTreeMap<AdapterName, MacAddress>) -> Result<(), NetworkError> {
    let interfaces = Interfaces::open().map_err(NetworkError::Socket)?;
    let found = present();
    for (adapter, mac) in wanted {
        match found.iter().find(|(_, present)| present == mac) {
            Some((name, _)) => {
                interfaces.set_up(name).map_err(|source| NetworkError::Up { name: name.clone(), source })?;
            }
            None => eprintln!("twinrackd init: adapter `{adapter}`: no NIC has MAC address {mac}"),
        }
    }
    Ok(())
}

fn present() -> Vec<(String, MacAddress)> {
    let entries = fs::read_dir(SYS_CLASS_NET).into_iter().flatten().flatten();
    let mac = |entry: fs::DirEntry| {
        let mac = fs::read_to_string(entry.path().join("address")).ok()?.trim().parse().ok()?;
        Some((entry.file_name().into_string().ok()?, mac))
    };
    entries.filter_map(mac).collect()
}
