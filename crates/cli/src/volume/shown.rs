//! What is shown of volumes: for programs as it is, for people as text. Pure.
//!
//! Invariant of the JSON: fields are added within a version, and never removed or changed in meaning.

use crate::shown::{VERSION, name_of, rack_of, size, table};
use api::ClusterView;
use control::State;
use control::state::{Drive, Health, Volume};
use deploy::pool::{capacity, leg_in_words, newest, phase_in_words};
use model::{DriveId, Mirror, NodeId, NodeName, Provision, SLAB_BYTES, VolumeId};
use serde::Serialize;
use std::fmt;

/// Every volume, and what each node has.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    version: u32,
    volumes: Vec<Row>,
    nodes: Vec<NodeRoom>,
}

#[derive(Debug, Serialize)]
struct Row {
    id: String,
    name: String,
    size_bytes: u64,
    growing_bytes: Option<u64>,
    provision: Provision,
    /// What of it has a place: all of a fixed volume.
    mapped_bytes: u64,
    mirror: Mirror,
    phase: String,
    owner: String,
    legs: usize,
    legs_in_sync: usize,
}

/// What a node has, bytes.
#[derive(Debug, Serialize)]
struct NodeRoom {
    node: String,
    rack: String,
    total_bytes: u64,
    used_bytes: u64,
    reserve_bytes: u64,
    available_bytes: u64,
    /// What thin volumes may come to take beside what they have.
    promised_bytes: u64,
}

/// One volume.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    version: u32,
    #[serde(flatten)]
    row: Row,
    epoch: String,
    device: Option<String>,
    device_bytes: Option<u64>,
    waits: Option<String>,
    out_of_room: Option<String>,
    copies: Vec<Placed>,
}

/// One of its copies.
#[derive(Debug, Serialize)]
struct Placed {
    leg: String,
    rack: String,
    node: String,
    drive: String,
    serial: String,
    drive_state: &'static str,
    state: &'static str,
    incarnation: u32,
    slabs: u64,
    ready_slabs: u64,
    replaces: Option<String>,
    rebuilt_bytes: Option<u64>,
    to_rebuild_bytes: Option<u64>,
}

/// One that is gone.
#[derive(Debug, Serialize)]
pub(super) struct Deleted {
    version: u32,
    deleted: String,
}

impl Deleted {
    pub(super) fn new(id: VolumeId) -> Self {
        Self { version: VERSION, deleted: id.to_string() }
    }
}

/// A copy that was moved.
#[derive(Debug, Serialize)]
pub(super) struct Moved {
    version: u32,
    volume: String,
    from: String,
    to: String,
}

impl Moved {
    pub(super) fn new(id: VolumeId, from: DriveId, to: DriveId) -> Self {
        Self { version: VERSION, volume: id.to_string(), from: from.to_string(), to: to.to_string() }
    }
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the copy of {} is on {} now, and no more on {}", self.volume, self.to, self.from)
    }
}

/// By name, then by id.
pub(crate) fn find(state: &State, volume: &str) -> Option<VolumeId> {
    let by = |is: &dyn Fn(&VolumeId, &str) -> bool| {
        state.volumes.iter().find(|(id, found)| is(id, &found.name.to_string())).map(|(id, _)| *id)
    };
    by(&|_, name| name == volume).or_else(|| by(&|id, _| id.to_string() == volume))
}

fn row(state: &State, id: VolumeId) -> Option<Row> {
    let volume = state.volumes.get(&id)?;
    Some(Row {
        id: id.to_string(),
        name: volume.name.to_string(),
        size_bytes: volume.size_bytes,
        growing_bytes: volume.growing,
        provision: volume.provision,
        mapped_bytes: volume.array_bytes().min(volume.size_bytes),
        mirror: volume.mirror,
        phase: phase_in_words(&volume.phase),
        owner: name_of(state, volume.owner),
        legs: volume.legs.len(),
        legs_in_sync: volume.in_sync().count(),
    })
}

impl Listed {
    pub(super) fn of(state: &State) -> Self {
        let node = |found: placement::NodeCapacity| NodeRoom {
            node: name_of(state, found.node),
            rack: found.zone.to_string(),
            total_bytes: found.total_bytes,
            used_bytes: found.used_bytes,
            reserve_bytes: found.reserve_bytes,
            available_bytes: found.available_bytes,
            promised_bytes: promised(state, found.node),
        };
        let volumes = state.volumes.keys().filter_map(|id| row(state, *id)).collect();
        Self { version: VERSION, volumes, nodes: capacity(state).nodes.into_iter().map(node).collect() }
    }
}

impl Shown {
    pub(super) fn of(state: &State, views: &[(NodeName, ClusterView)], id: VolumeId) -> Option<Self> {
        let (row, volume) = (row(state, id)?, state.volumes.get(&id)?);
        let owner = views.iter().map(|(_, view)| view).find(|view| view.node == volume.owner);
        let rebuild = owner.and_then(|view| view.rebuilds.get(&id));
        // Of others than the leader it is what they once took for true.
        let waits = newest(views).and_then(|view| view.blocked.get(&id)).cloned();
        let copies = volume.legs.iter().map(|(leg, found)| {
            let node = state.node_of(found);
            let progress = rebuild.filter(|rebuild| rebuild.leg == *leg);
            let drive = state.drives.get(&found.drive);
            Placed {
                leg: leg.to_string(),
                rack: rack_of(state, node),
                node: node.map_or_else(|| "-".to_owned(), |node| name_of(state, node)),
                drive: found.drive.to_string(),
                serial: drive.map(|drive| drive.serial.to_string()).unwrap_or_default(),
                drive_state: drive.map_or("gone", drive_in_words),
                state: leg_in_words(found.state),
                incarnation: found.incarnation.0,
                slabs: found.slabs(),
                ready_slabs: found.laid_slabs(),
                replaces: found.replaces.map(|old| old.to_string()),
                rebuilt_bytes: progress.map(|progress| progress.done_bytes),
                to_rebuild_bytes: progress.map(|progress| progress.total_bytes),
            }
        });
        let mut copies: Vec<Placed> = copies.collect();
        copies.sort_by(|one, other| {
            (&one.rack, &one.node, &one.leg).cmp(&(&other.rack, &other.node, &other.leg))
        });
        let device = owner.and_then(|view| view.devices.get(&id)).cloned();
        let device_bytes = owner.and_then(|view| view.device_bytes.get(&id)).copied();
        let epoch = volume.epoch.to_string();
        let out_of_room = owner.and_then(|view| view.out_of_room.get(&id)).cloned();
        Some(Self { version: VERSION, row, epoch, device, device_bytes, waits, out_of_room, copies })
    }
}

impl Row {
    fn mapped_in_words(&self) -> String {
        match self.provision {
            Provision::Fixed => "all".to_owned(),
            Provision::Thin => size(self.mapped_bytes),
        }
    }
}

/// What the copies of thin volumes on a node may come to take there beside what they have, bytes.
fn promised(state: &State, node: NodeId) -> u64 {
    let thin = state.volumes.values().filter(|volume| volume.provision == Provision::Thin);
    let of = |volume: &Volume| {
        let on_node = volume.legs.values().filter(|leg| state.node_of(leg) == Some(node)).count() as u64;
        on_node * volume.size_bytes.saturating_sub(volume.array_to_be()).next_multiple_of(SLAB_BYTES)
    };
    thin.map(of).sum()
}

/// What a drive is that is neither retired nor worse.
const IN_USE: &str = "in use";

fn drive_in_words(drive: &Drive) -> &'static str {
    match drive.health {
        Health::Erred => "erred, retired",
        Health::Lost => "lost",
        Health::Slow => "slow, retired",
        Health::Good if drive.retired => "retired",
        Health::Good => IN_USE,
    }
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let volumes = self.volumes.iter().map(|row| {
            let copies = format!("{} of {}", row.legs_in_sync, row.legs);
            [
                row.id.clone(),
                row.name.clone(),
                size(row.size_bytes),
                row.mapped_in_words(),
                row.phase.clone(),
                row.owner.clone(),
                copies,
            ]
        });
        table(f, ["ID", "NAME", "SIZE", "MAPPED", "PHASE", "OWNER", "IN SYNC"], volumes)?;
        writeln!(f)?;
        let nodes = self.nodes.iter().map(|room| {
            let sizes = [room.total_bytes, room.used_bytes, room.reserve_bytes, room.available_bytes];
            let [total, used, reserve, available] = sizes.map(size);
            let promised = size(room.promised_bytes);
            [room.rack.clone(), room.node.clone(), total, used, reserve, available, promised]
        });
        table(f, ["RACK", "NODE", "TOTAL", "USED", "KEPT FREE", "AVAILABLE", "PROMISED"], nodes)?;
        for room in self.nodes.iter().filter(|room| room.promised_bytes > room.available_bytes) {
            let more = size(room.promised_bytes - room.available_bytes);
            writeln!(f, "{} lacks {more} of what thin volumes there may come to take", room.node)?;
        }
        Ok(())
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { id, name, size_bytes, growing_bytes, phase, owner, legs, legs_in_sync, .. } = &self.row;
        let grows = growing_bytes.map(|to| format!(" (grows to {})", size(to))).unwrap_or_default();
        let mapped = match self.row.provision {
            Provision::Fixed => String::new(),
            Provision::Thin => format!(", {} of it mapped", self.row.mapped_in_words()),
        };
        let size = size(*size_bytes);
        writeln!(f, "{id} {name}: {size}{grows}{mapped}, {legs_in_sync} of {legs} copies in sync")?;
        writeln!(f, "epoch {}, {phase}, owner {owner}", self.epoch)?;
        if let Some(device) = &self.device {
            writeln!(f, "device {device} on {owner}")?;
        }
        if let Some(waits) = &self.waits {
            writeln!(f, "it waits: {waits}")?;
        }
        if let Some(why) = &self.out_of_room {
            writeln!(f, "writes to what was never written wait for room: {why}")?;
        }
        writeln!(f)?;
        let copies = self.copies.iter().map(|copy| {
            let progress = copy.rebuilt_bytes.zip(copy.to_rebuild_bytes);
            let progress =
                progress.map(|(done, all)| format!(" ({done} of {all} bytes)")).unwrap_or_default();
            let replaces =
                copy.replaces.as_ref().map(|old| format!(", in place of {old}")).unwrap_or_default();
            let lacks = if copy.ready_slabs < copy.slabs {
                format!(", {} of {} slabs ready", copy.ready_slabs, copy.slabs)
            } else {
                String::new()
            };
            let state = format!("{}{progress}{replaces}{lacks}", copy.state);
            let is =
                if copy.drive_state == IN_USE { String::new() } else { format!(" ({})", copy.drive_state) };
            let drive = format!("{} {}{is}", copy.drive, copy.serial);
            [copy.rack.clone(), copy.node.clone(), drive, copy.leg.clone(), state]
        });
        table(f, ["RACK", "NODE", "DRIVE", "COPY", "STATE"], copies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::state::{Cache, Settings};
    use control::{ClusterCommand, Command};
    use model::{BootId, PowerCycles};
    use std::collections::BTreeMap;

    /// Two nodes with a drive of 15 slabs each, and a thin volume of 32 extents over them, of which the first is mapped.
    fn overcommitted() -> State {
        let mut state = State::new(Settings::default());
        let mut must = |command| drop(state.apply(&Command::Cluster(command)).unwrap());
        for number in [1, 2] {
            let (name, zone) =
                (format!("n{number}").parse().unwrap(), format!("zone{number}").parse().unwrap());
            must(ClusterCommand::AddNode { name, zone: Some(zone) });
            let (node, serial) = (NodeId(number), format!("S{number}").parse().unwrap());
            let (size_bytes, cache, power_cycles) = (1 << 30, Cache::Safe, PowerCycles(1));
            must(ClusterCommand::AddDrive { node, serial, size_bytes, cache, power_cycles });
            let (boot, drives) = (BootId(number.into()), BTreeMap::from([(DriveId(number), power_cycles)]));
            must(ClusterCommand::Register { node, was: None, boot, drives });
        }
        must(ClusterCommand::CreateVolume {
            name: "data".parse().unwrap(),
            mirror: Mirror::TwoWay,
            provision: Provision::Thin,
            size_bytes: 32 * SLAB_BYTES,
            drives: vec![DriveId(1), DriveId(2)],
            owner: NodeId(1),
        });
        state
    }

    #[test]
    fn what_was_promised_beyond_what_there_is_is_told() {
        let state = overcommitted();
        let listed = Listed::of(&state);
        let room = &listed.nodes[0];
        assert_eq!((room.used_bytes, room.promised_bytes), (2 * SLAB_BYTES, 31 * SLAB_BYTES));
        assert_eq!(listed.volumes[0].mapped_bytes, SLAB_BYTES);
        let lacks = size(18 * SLAB_BYTES);
        assert!(
            listed
                .to_string()
                .contains(&format!("n1 lacks {lacks} of what thin volumes there may come to take"))
        );
        let shown = Shown::of(&state, &[], VolumeId(1)).unwrap().to_string();
        assert!(shown.contains(&format!("{} of it mapped", size(SLAB_BYTES))), "{shown}");
    }
}
