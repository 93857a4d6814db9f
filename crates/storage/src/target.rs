//! A node as target: from control's `GiveOut`, `Lay` and `Fence` to steps in configfs and device-mapper.
//!
//! Purpose: [`make`], [`give_out`], [`map`] and [`fence`] compute, from what the kernel has now ([`Seen`]), the steps that lead to what control
//! wants. Nothing is remembered between steps: after a kill, or a step that failed, they are computed anew from what is there.
//!
//! ```text
//!  make       device ─► zeros, header ─► no device
//!  map        the device's table
//!  give out   device, its header seen ─► host ─► subsystem ─► namespace, its marks ─► enable ─► allow one host ─► link to each port
//!  fence      unlink from EVERY port ─► disable (the barrier) ─► namespace, host, subsystem ─► device
//! ```
//!
//! Invariants (design notes, rules 1 and 5; `simulate` refuses a step that breaks one):
//! - a namespace is enabled before it is linked; while it is linked neither it nor its subsystem is changed;
//! - a subsystem is linked only when exactly one host is allowed;
//! - the device goes last: the kernel refuses that while anybody has it open, which is a second barrier.
//!
//! On failure: a step's error is the executor's; [`Refused`] if what is there contradicts what is wanted.

use crate::header::ClusterId;
use crate::name::{self, GivenLeg};
use crate::slab::Extent;
use control::target::{Key, LegOf};
use model::{DriveSerial, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The one namespace of an export.
pub const NAMESPACE: u32 = 1;

/// The TCP port of NVMe/TCP, as IANA has it.
pub const TCP_PORT: u16 = 4420;

/// What the kernel has of targets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// nvmet's ports, by number.
    pub ports: BTreeMap<u16, Port>,
    /// nvmet's hosts, by name.
    pub hosts: BTreeSet<String>,
    /// Our subsystems.
    pub exports: BTreeMap<GivenLeg, Export>,
    /// Our local devices.
    pub devices: BTreeSet<GivenLeg>,
}

/// A port of nvmet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Where it listens, once something is linked.
    pub address: Option<IpAddr>,
    /// Our subsystems that are linked.
    pub links: BTreeSet<GivenLeg>,
}

/// A subsystem of nvmet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Export {
    /// Whether its namespace is there.
    pub namespace: bool,
    /// Whether that is enabled.
    pub enabled: bool,
    /// Who may use it.
    pub hosts: BTreeSet<String>,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make the local device over these pieces of the drive, of so many bytes: behind them are zeros.
    MakeDevice(GivenLeg, DriveSerial, Vec<Extent>, u64),
    /// Give the local device these pieces instead, once nothing is in flight through those that it has.
    TurnDevice(GivenLeg, DriveSerial, Vec<Extent>, u64),
    /// Fill so many bytes of the leg with zeros and write its header, unless it has it already.
    MakeLeg(GivenLeg, u64),
    /// Fails unless the leg has its header: what was never made, or was damaged, is given to nobody.
    CheckLeg(GivenLeg),
    /// Remove the local device; fails while anybody has it open.
    RemoveDevice(GivenLeg),
    /// Make a port that listens there.
    MakePort(u16, IpAddr),
    /// Make a host of that name.
    MakeHost(String),
    /// Make the subsystem, for nobody, with its serial number.
    MakeSubsystem(GivenLeg),
    /// Remove it; what it is made of has gone before.
    RemoveSubsystem(GivenLeg),
    /// Make its namespace.
    MakeNamespace(GivenLeg),
    /// Set the namespace's device, UUID and NGUID: always the same, so that twice does no harm.
    DescribeNamespace(GivenLeg),
    /// Enable it.
    Enable(GivenLeg),
    /// Disable it, and wait for all I/O in flight: the barrier.
    Disable(GivenLeg),
    /// Remove it.
    RemoveNamespace(GivenLeg),
    /// Let a host in.
    Allow(GivenLeg, String),
    /// Take a host off the list. This cuts nothing.
    Disallow(GivenLeg, String),
    /// Link the subsystem to a port: from here on it can be reached.
    Link(u16, GivenLeg),
    /// Unlink it: shuts its connections through that port.
    Unlink(u16, GivenLeg),
}

/// What is to be given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// What.
    pub given: GivenLeg,
    /// On which drive, where.
    pub drive: DriveSerial,
    /// In order.
    pub extents: Vec<Extent>,
    /// How long the leg's device is, with its room: more than the pieces, unless the volume fills its room.
    pub bytes: u64,
    /// To this host; `None`: to this node itself, as a local device and no more.
    pub host: Option<String>,
}

/// What is there contradicts what is wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another key of the leg still stands: it has to be fenced first.
    #[error("{} is still given out as {}", wanted.device(), found.device())]
    Other {
        /// What was to be given out.
        wanted: GivenLeg,
        /// What is.
        found: GivenLeg,
    },
    /// Under the same key to another host: a key is for one.
    #[error("{} is already given out to {host}", given.device())]
    OtherHost {
        /// What.
        given: GivenLeg,
        /// To whom.
        host: String,
    },
    /// A port listens elsewhere: somebody else's, or the addresses have changed.
    #[error("port {number} listens at {found:?}, not at {wanted}")]
    OtherPort {
        /// The port's.
        number: u16,
        /// Where it does.
        found: Option<IpAddr>,
        /// Where it should.
        wanted: IpAddr,
    },
}

/// Everything of a leg that stands.
fn standing(seen: &Seen, leg: LegOf) -> BTreeSet<GivenLeg> {
    let linked = seen.ports.values().flat_map(|port| &port.links);
    let all = seen.exports.keys().chain(&seen.devices).chain(linked);
    all.filter(|given| given.leg == leg).copied().collect()
}

/// Makes a leg that the ledger has never known in any run, before its first fence is confirmed. Never of another: what is there goes.
pub fn make(seen: &Seen, offer: &Offer) -> Result<Vec<Step>, Refused> {
    let wanted = offer.given;
    if let Some(found) = standing(seen, wanted.leg)
        .into_iter()
        .find(|found| *found != wanted || seen.exports.contains_key(found))
    {
        return Err(Refused::Other { wanted, found });
    }
    // Without room: a device that has some can't let the drive itself write zeros (dm-table.c, `dm_table_supports_write_zeroes`).
    let bytes = offer.extents.iter().map(|extent| extent.len_bytes).sum();
    let device = Step::MakeDevice(wanted, offer.drive.clone(), offer.extents.clone(), bytes);
    let device = (!seen.devices.contains(&wanted)).then_some(device);
    Ok(device.into_iter().chain([Step::MakeLeg(wanted, bytes), Step::RemoveDevice(wanted)]).collect())
}

/// From what is there to what is wanted: given out under this key, through all ports, to one host.
pub fn give_out(seen: &Seen, offer: &Offer, ports: &BTreeMap<u16, IpAddr>) -> Result<Vec<Step>, Refused> {
    let given = offer.given;
    if let Some(found) = standing(seen, given.leg).into_iter().find(|found| *found != given) {
        return Err(Refused::Other { wanted: given, found });
    }
    let mut steps = Vec::new();
    if !seen.devices.contains(&given) {
        let (drive, extents) = (offer.drive.clone(), offer.extents.clone());
        steps.push(Step::MakeDevice(given, drive, extents, offer.bytes));
    }
    steps.push(Step::CheckLeg(given));
    let export = seen.exports.get(&given);
    let Some(host) = &offer.host else {
        return match export {
            Some(_) => Err(Refused::OtherHost { given, host: "another node".to_owned() }),
            None => Ok(steps),
        };
    };
    let has = export.cloned().unwrap_or_default();
    if let Some(other) = has.hosts.iter().find(|other| *other != host) {
        return Err(Refused::OtherHost { given, host: other.clone() });
    }
    for (number, wanted) in ports {
        match seen.ports.get(number) {
            Some(port) if port.address == Some(*wanted) => {}
            // Made, and killed before it had its address.
            Some(Port { address: None, .. }) | None => steps.push(Step::MakePort(*number, *wanted)),
            Some(port) => {
                return Err(Refused::OtherPort { number: *number, found: port.address, wanted: *wanted });
            }
        }
    }
    let mut need = |there: bool, step: Step| (!there).then(|| steps.push(step));
    need(seen.hosts.contains(host), Step::MakeHost(host.clone()));
    need(export.is_some(), Step::MakeSubsystem(given));
    need(has.namespace, Step::MakeNamespace(given));
    need(has.enabled, Step::DescribeNamespace(given));
    need(has.enabled, Step::Enable(given));
    need(has.hosts.contains(host), Step::Allow(given, host.clone()));
    for number in ports.keys() {
        let linked = seen.ports.get(number).is_some_and(|port| port.links.contains(&given));
        need(linked, Step::Link(*number, given));
    }
    Ok(steps)
}

/// Pieces that a leg got later, where it is given out: its device has them behind those that it had. Where it is not, its next device has them.
pub fn map(seen: &Seen, offer: &Offer) -> Vec<Step> {
    let stands = seen.devices.iter().filter(|given| given.leg == offer.given.leg);
    let turn =
        |given: &GivenLeg| Step::TurnDevice(*given, offer.drive.clone(), offer.extents.clone(), offer.bytes);
    stands.map(turn).collect()
}

/// From what is there to nothing: nobody has the leg, and nothing is in flight.
pub fn fence(seen: &Seen, leg: LegOf) -> Vec<Step> {
    let standing = standing(seen, leg);
    let mut steps = Vec::new();
    for (number, port) in &seen.ports {
        steps.extend(port.links.intersection(&standing).map(|given| Step::Unlink(*number, *given)));
    }
    let exports = || standing.iter().filter_map(|given| Some((*given, seen.exports.get(given)?)));
    steps.extend(exports().filter(|(_, export)| export.enabled).map(|(given, _)| Step::Disable(given)));
    for (given, export) in exports() {
        steps.extend(export.hosts.iter().map(|host| Step::Disallow(given, host.clone())));
        if export.namespace {
            steps.push(Step::RemoveNamespace(given));
        }
        steps.push(Step::RemoveSubsystem(given));
    }
    steps.extend(
        standing.iter().filter(|given| seen.devices.contains(given)).map(|given| Step::RemoveDevice(*given)),
    );
    steps
}

/// What an earlier run of the agent has given out, for control: complete ones only. What is half made is found by [`leftovers`].
pub fn found(
    seen: &Seen,
    cluster: ClusterId,
    node: NodeId,
    ports: &BTreeMap<u16, IpAddr>,
) -> BTreeMap<LegOf, (Key, NodeId)> {
    let whole = |given: &GivenLeg| {
        let to = match seen.exports.get(given) {
            None => node,
            Some(export) => {
                let linked = |number| seen.ports.get(number).is_some_and(|port| port.links.contains(given));
                let mut hosts = export.hosts.iter();
                let host = hosts.next().filter(|_| hosts.next().is_none() && export.enabled)?;
                ports.keys().all(linked).then(|| name::node_of_host(cluster, host))??
            }
        };
        Some((given.leg, (given.key, to)))
    };
    seen.devices.iter().filter_map(whole).collect()
}

/// Legs of which something stands that [`found`] did not tell of, with the greatest key: they are to be fenced before anything else.
pub fn leftovers(seen: &Seen, found: &BTreeMap<LegOf, (Key, NodeId)>) -> BTreeMap<LegOf, Key> {
    let linked = seen.ports.values().flat_map(|port| &port.links);
    let all = seen.exports.keys().chain(&seen.devices).chain(linked);
    let mut left: BTreeMap<LegOf, Key> = BTreeMap::new();
    for given in all.filter(|given| found.get(&given.leg).is_none_or(|(key, _)| *key != given.key)) {
        let greatest = left.entry(given.leg).or_insert(given.key);
        *greatest = given.key.max(*greatest);
    }
    left
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
