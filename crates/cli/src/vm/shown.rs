//! What is shown of virtual machines and of the nodes that run them: for programs as it is, for people as text. Pure.
//!
//! Invariant of the JSON: fields are added within a version, and never removed or changed in meaning.

use crate::shown::{VERSION, name_of, rack_of, size, table};
use api::ClusterView;
use control::State;
use control::vm::{Leftover, Vm, VmPhase, Wanted};
use deploy::vms::{self, Drains};
use model::{MacAddress, NodeId, NodeName, VlanId, VmId, VmNic};
use placement::vm::Plan;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Every virtual machine.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    version: u32,
    vms: Vec<Row>,
}

/// One, as a table and a status have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Row {
    /// Its id.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
    /// What is wanted of it.
    pub(crate) wanted: &'static str,
    /// What may be done with it.
    pub(crate) phase: String,
    /// Where it is, or is being put.
    pub(crate) node: Option<String>,
    /// The zone of that node.
    pub(crate) zone: Option<String>,
    /// Its home zone.
    pub(crate) home: Option<String>,
    /// Where it may run, in words.
    pub(crate) placement: String,
    /// Whether it never leaves its home.
    pub(crate) strict: bool,
    /// Which run of it is the last.
    pub(crate) generation: u32,
    /// How much of its memory is saved, bytes; `None`: none is.
    pub(crate) saved_bytes: Option<u64>,
    /// Why it has not the memory any more with which it was to go on; until it is saved anew, or stopped.
    pub(crate) memory_lost: Option<&'static str>,
    /// Why it does not run where it should, or at all: one reason for each node; none if nothing is in its way.
    pub(crate) reasons: BTreeMap<String, String>,
}

impl Row {
    pub(crate) fn of(state: &State, plan: &Plan, id: VmId, vm: &Vm) -> Self {
        let seat = vm.phase.seat();
        let reasons = plan.off.get(&id).map(|off| &off.reasons);
        let reasons = reasons.or_else(|| plan.held.get(&id).map(|held| &held.reasons));
        Self {
            id: id.to_string(),
            name: vm.spec.name.to_string(),
            wanted: vms::wanted_in_words(vm.wanted),
            phase: vms::phase_in_words(state, &vm.phase),
            node: seat.map(|seat| name_of(state, seat.node)),
            zone: seat.map(|seat| rack_of(state, Some(seat.node))),
            home: vm.spec.placement.home().map(ToString::to_string),
            placement: vms::placement_in_words(&vm.spec.placement),
            strict: vm.spec.placement.is_strict(),
            generation: vm.generation.0,
            saved_bytes: vm.saved.map(|_| vm.saved_bytes),
            memory_lost: vm.memory_lost.map(vms::memory_lost_in_words),
            reasons: reasons
                .map(|reasons| vms::reasons_in_words(state, reasons).into_iter().collect())
                .unwrap_or_default(),
        }
    }

    /// Why it is not where it should be, in a line.
    pub(crate) fn why(&self) -> Option<String> {
        let told = self.reasons.iter().map(|(node, why)| format!("{node} {why}")).collect::<Vec<_>>();
        (!told.is_empty()).then(|| told.join("; "))
    }

    /// What of it is not well, a sentence each.
    pub(crate) fn troubles(&self, vm: &Vm) -> Vec<String> {
        let (name, phase) = (&self.name, &self.phase);
        let why = self.why().map(|why| format!(": {why}")).unwrap_or_default();
        let mut troubles = Vec::new();
        let runs =
            matches!(vm.phase, VmPhase::Running { .. } | VmPhase::Migrating { .. } | VmPhase::Landing { .. });
        if vm.wanted == Wanted::Running && !runs {
            troubles.push(format!("virtual machine {name} is wanted running and is {phase}{why}"));
        }
        if let (Some(zone), Some(home), true) = (&self.zone, &self.home, runs)
            && zone != home
        {
            troubles.push(format!("virtual machine {name} runs in {zone}, away from its home {home}{why}"));
        }
        if let Some(why) = self.memory_lost {
            troubles.push(format!(
                "virtual machine {name} does not go on where it was, and has booted, or will: {why}"
            ));
        }
        troubles
    }

    /// As a line of a table.
    pub(crate) fn cells(&self) -> [String; 6] {
        let node = match (&self.node, &self.zone) {
            (Some(node), Some(zone)) => format!("{node} ({zone})"),
            _ => "-".to_owned(),
        };
        let home = self.home.clone().unwrap_or_else(|| "-".to_owned());
        let saved = self.saved_bytes.map(|bytes| format!(" ({})", size(bytes))).unwrap_or_default();
        let (name, wanted, phase) =
            (self.name.clone(), self.wanted.to_owned(), format!("{}{saved}", self.phase));
        [name, wanted, phase, node, home, self.placement.clone()]
    }
}

/// The head of such a table.
pub(crate) const COLUMNS: [&str; 6] = ["VM", "WANTED", "PHASE", "NODE", "HOME", "PLACEMENT"];

/// Every row, in the order of ids.
pub(crate) fn rows(state: &State, views: &[(NodeName, ClusterView)]) -> Vec<Row> {
    let plan = vms::planned(state, views);
    state.vms.all.iter().map(|(id, vm)| Row::of(state, &plan, *id, vm)).collect()
}

impl Listed {
    pub(super) fn of(state: &State, views: &[(NodeName, ClusterView)]) -> Self {
        Self { version: VERSION, vms: rows(state, views) }
    }
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.vms.is_empty() {
            return writeln!(f, "there are no virtual machines");
        }
        table(f, COLUMNS, self.vms.iter().map(Row::cells))?;
        for row in &self.vms {
            if let Some(why) = row.why() {
                writeln!(f, "{}: {why}", row.name)?;
            }
        }
        Ok(())
    }
}

/// One virtual machine.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    version: u32,
    #[serde(flatten)]
    row: Row,
    memory_bytes: u64,
    cores: u32,
    group: Option<String>,
    volumes: Vec<Disk>,
    /// Which of them its memory is saved on; `None`: it can't be saved.
    saves_to: Option<String>,
    /// Why the last try at saving it came to nothing.
    not_saved: Option<&'static str>,
    nics: Vec<Nic>,
    /// Nodes where an earlier run of it may go on: it is not started before they have yielded.
    yielding: Vec<String>,
}

/// One of its volumes, the one it boots from first.
#[derive(Debug, Serialize)]
struct Disk {
    id: String,
    name: String,
    phase: String,
    owner: String,
}

/// One of its NICs.
#[derive(Debug, Serialize)]
struct Nic {
    vlan: VlanId,
    /// The same wherever it runs; `None`: no node answers that knows.
    mac: Option<MacAddress>,
}

impl Shown {
    pub(super) fn of(state: &State, views: &[(NodeName, ClusterView)], id: VmId) -> Option<Self> {
        let vm = state.vms.all.get(&id)?;
        let row = Row::of(state, &vms::planned(state, views), id, vm);
        let disk = |id: &model::VolumeId| {
            let volume = state.volumes.get(id)?;
            Some(Disk {
                id: id.to_string(),
                name: volume.name.to_string(),
                phase: deploy::pool::phase_in_words(&volume.phase),
                owner: name_of(state, volume.owner),
            })
        };
        let range = views.first().map(|(_, view)| view.mac_range);
        let nic = |(at, nic): (u8, &VmNic)| {
            let mac = range.map(|range| range.of_nic(id, at));
            Nic { vlan: nic.vlan, mac }
        };
        Some(Self {
            version: VERSION,
            row,
            memory_bytes: vm.spec.memory_bytes,
            cores: vm.spec.cores,
            group: vm.spec.anti_affinity.as_ref().map(ToString::to_string),
            volumes: vm.spec.volumes.iter().filter_map(disk).collect(),
            saves_to: vm.spec.saves_to.map(|id| id.to_string()),
            not_saved: vm.not_saved.map(vms::why_not_saved_in_words),
            nics: (0..).zip(&vm.spec.nics).map(nic).collect(),
            yielding: vm.yielding.keys().map(|node| name_of(state, *node)).collect(),
        })
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { id, name, wanted, phase, node, placement, generation, reasons, .. } = &self.row;
        writeln!(f, "{name} ({id}): {phase}, wanted {wanted}")?;
        if let (Some(node), Some(zone)) = (node, &self.row.zone) {
            writeln!(f, "  on          {node} ({zone})")?;
        }
        writeln!(f, "  placement   {placement}")?;
        if let Some(group) = &self.group {
            writeln!(f, "  kept apart  from others of {group}")?;
        }
        writeln!(f, "  has         {} of memory, {} virtual cores", size(self.memory_bytes), self.cores)?;
        writeln!(f, "  generation  {generation}")?;
        for Nic { vlan, mac } in &self.nics {
            let mac = mac.map_or_else(|| "-".to_owned(), |mac| mac.to_string());
            writeln!(f, "  NIC         {mac} in VLAN {vlan}")?;
        }
        if let Some(volume) = &self.saves_to {
            match self.row.saved_bytes {
                Some(bytes) => writeln!(f, "  memory      {} are saved on {volume}", size(bytes))?,
                None => writeln!(f, "  memory      can be saved on {volume}")?,
            }
        }
        if let Some(why) = self.not_saved {
            writeln!(f, "  the last try at saving it came to nothing: {why}")?;
        }
        if let Some(why) = self.row.memory_lost {
            writeln!(f, "  it does not go on where it was, and has booted, or will: {why}")?;
        }
        for node in &self.yielding {
            writeln!(f, "  an earlier run on {node} is not known to be over")?;
        }
        for (node, why) in reasons {
            writeln!(f, "  {node} {why}")?;
        }
        let disks = self.volumes.iter().map(|disk| {
            let Disk { id, name, phase, owner } = disk;
            [name.clone(), id.clone(), phase.clone(), owner.clone()]
        });
        table(f, ["VOLUME", "ID", "PHASE", "OWNER"], disks)
    }
}

/// What became of one, in a word.
#[derive(Debug, Serialize)]
pub(super) struct Done {
    version: u32,
    vm: String,
    is: &'static str,
    /// How much of its memory is saved, bytes, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    saved_bytes: Option<u64>,
}

impl Done {
    pub(super) fn new(id: VmId, is: &'static str) -> Self {
        Self { version: VERSION, vm: id.to_string(), is, saved_bytes: None }
    }

    /// One that is saved, and how much that is.
    pub(super) fn saved(state: &State, id: VmId) -> Self {
        let vm = state.vms.all.get(&id);
        let saved_bytes = vm.and_then(|vm| vm.saved.map(|_| vm.saved_bytes));
        Self { saved_bytes, ..Self::new(id, "saved") }
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let much = self.saved_bytes.map(|bytes| format!(": {}", size(bytes))).unwrap_or_default();
        writeln!(f, "{} is {}{much}", self.vm, self.is)
    }
}

/// An image that was written.
#[derive(Debug, Serialize)]
pub(super) struct Written {
    version: u32,
    volume: String,
    format: String,
    bytes: u64,
}

impl Written {
    pub(super) fn new(volume: String, format: String, bytes: u64) -> Self {
        Self { version: VERSION, volume, format, bytes }
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} of a {} image are on {}", size(self.bytes), self.format, self.volume)
    }
}

/// What nodes have for virtual machines, and which are in maintenance.
#[derive(Debug, Serialize)]
pub(crate) struct Nodes {
    version: u32,
    nodes: Vec<NodeRow>,
}

#[derive(Debug, Serialize)]
struct NodeRow {
    id: String,
    name: String,
    zone: String,
    /// `up`, `down`, `drains` (somebody is still there) or `in maintenance`.
    state: &'static str,
    /// What becomes of those that can't leave.
    leftover: Option<Leftover>,
    memory_bytes: u64,
    memory_used_bytes: u64,
    cores: u32,
    virtual_cores_used: u64,
    vms: Vec<String>,
}

impl Nodes {
    pub(crate) fn of(state: &State, views: &[(NodeName, ClusterView)]) -> Self {
        let storage = state.nodes.iter().filter(|(_, node)| node.zone.is_some());
        Self { version: VERSION, nodes: storage.map(|(id, _)| node_row(state, views, *id)).collect() }
    }
}

fn node_row(state: &State, views: &[(NodeName, ClusterView)], id: NodeId) -> NodeRow {
    let here = |vm: &&Vm| {
        let seats = vm.phase.seat().into_iter().chain(vm.phase.other_seat());
        seats.into_iter().any(|seat| seat.node == id)
    };
    let there: Vec<&Vm> = state.vms.all.values().filter(here).collect();
    let room = state.vms.rooms.get(&id);
    let leftover = state.vms.draining.get(&id).copied();
    let answers = views.iter().any(|(_, view)| view.node == id && view.leased);
    NodeRow {
        id: id.to_string(),
        name: name_of(state, id),
        zone: rack_of(state, Some(id)),
        state: match leftover {
            _ if state.leaves(id) => "leaves",
            Some(_) if there.is_empty() => "in maintenance",
            Some(_) => "drains",
            None if answers => "up",
            None => "down",
        },
        leftover,
        memory_bytes: room.map_or(0, |room| room.memory_bytes),
        memory_used_bytes: there.iter().map(|vm| vm.spec.memory_bytes).sum(),
        cores: room.map_or(0, |room| room.cores),
        virtual_cores_used: there.iter().map(|vm| u64::from(vm.spec.cores)).sum(),
        vms: there.iter().map(|vm| vm.spec.name.to_string()).collect(),
    }
}

impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.nodes.iter().map(|row| {
            let memory = format!("{} of {}", size(row.memory_used_bytes), size(row.memory_bytes));
            let cores = format!("{} on {}", row.virtual_cores_used, row.cores);
            let (name, zone) = (row.name.clone(), row.zone.clone());
            [name, zone, row.state.to_owned(), memory, cores, row.vms.join(", ")]
        });
        table(f, ["NODE", "ZONE", "IS", "MEMORY", "CORES", "VMS"], rows)
    }
}

/// What a drain did, or an end of one.
#[derive(Debug, Serialize)]
pub(crate) struct Drained {
    version: u32,
    nodes: Vec<String>,
    moved: Vec<String>,
    saved: Vec<String>,
    in_maintenance: bool,
}

impl Drained {
    pub(crate) fn new(state: &State, drains: &Drains) -> Self {
        let vm =
            |id: VmId| state.vms.all.get(&id).map_or_else(|| id.to_string(), |vm| vm.spec.name.to_string());
        Self {
            version: VERSION,
            nodes: drains.nodes.iter().map(|node| name_of(state, *node)).collect(),
            moved: drains.foreseen.moves.iter().map(|moved| vm(moved.vm)).collect(),
            saved: drains.foreseen.saved.keys().map(|id| vm(*id)).collect(),
            in_maintenance: true,
        }
    }

    pub(crate) fn over(state: &State, nodes: impl Iterator<Item = NodeId>) -> Self {
        let nodes = nodes.map(|node| name_of(state, node)).collect();
        Self { version: VERSION, nodes, moved: Vec::new(), saved: Vec::new(), in_maintenance: false }
    }
}

impl fmt::Display for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = self.nodes.join(", ");
        if !self.in_maintenance {
            return writeln!(f, "{nodes}: takes virtual machines again");
        }
        writeln!(
            f,
            "{nodes}: in maintenance, no virtual machine is there; `twinrack node end-drain` ends it"
        )?;
        for (what, names) in [("moved", &self.moved), ("saved", &self.saved)] {
            if !names.is_empty() {
                writeln!(f, "  {what}: {}", names.join(", "))?;
            }
        }
        Ok(())
    }
}

/// By name, then by id.
pub(super) fn find(state: &State, vm: &str) -> Option<VmId> {
    let named = state.vms.all.iter().find(|(_, found)| found.spec.name.to_string() == vm);
    let found = named.or_else(|| state.vms.all.iter().find(|(id, _)| id.to_string() == vm));
    found.map(|(id, _)| *id)
}

#[cfg(test)]
#[path = "shown_tests.rs"]
mod tests;
