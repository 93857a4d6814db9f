//! What is seen of a cluster: racks, nodes, voters, volumes and their copies, virtual machines, and what is not well, in words. Pure.
//!
//! Invariant of the JSON: fields are added within a version, and never removed or changed in meaning. All is well exactly if there are no troubles.

use crate::shown::{VERSION, name_of, rack_of, size, table};
use crate::vm::shown::{self as vm_shown, Row};
use api::{ClusterView, RebuildProgress};
use control::State;
use control::state::{Drive, Health, LegState, Phase, Volume};
use deploy::pool::{capacity, leg_in_words, newest, phase_in_words};
use model::{NodeId, NodeName, VolumeId};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;

/// The cluster at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Status {
    version: u32,
    /// Whether a quorum answers. If not, all of this is what `told_by` last knew.
    pub(crate) has_quorum: bool,
    /// The node whose word this is.
    pub(crate) told_by: String,
    /// Who leads the ledger.
    pub(crate) leader: Option<String>,
    /// The racks, by their zones' names; the witness is in none.
    pub(crate) racks: Vec<Rack>,
    /// Nodes that are in no rack: the witness.
    pub(crate) witnesses: Vec<NodeSeen>,
    /// Every volume.
    pub(crate) volumes: Vec<VolumeSeen>,
    /// Every virtual machine.
    pub(crate) vms: Vec<Row>,
    /// What is not well, a sentence each.
    pub(crate) troubles: Vec<String>,
}

/// A rack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Rack {
    /// Its zone.
    pub(crate) zone: String,
    /// Its nodes.
    pub(crate) nodes: Vec<NodeSeen>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a word of its own in the JSON")]
pub(crate) struct NodeSeen {
    /// Its name.
    pub(crate) name: String,
    /// Whether its agent does.
    pub(crate) answers: bool,
    /// Whether it leads the ledger.
    pub(crate) leads: bool,
    /// Whether it votes.
    pub(crate) votes: bool,
    /// Whether it may own volumes and run virtual machines: it says that it has a lease.
    pub(crate) leased: bool,
    /// Its drives in the pool that are in use.
    pub(crate) drives: usize,
    /// Of their bytes, those that legs have.
    pub(crate) used_bytes: u64,
    /// Their bytes.
    pub(crate) total_bytes: u64,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct VolumeSeen {
    /// Its id.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
    /// What its users see, bytes.
    pub(crate) size_bytes: u64,
    /// What may be done with it.
    pub(crate) phase: String,
    /// Whether users may open it.
    pub(crate) is_open: bool,
    /// The node that owns it.
    pub(crate) owner: String,
    /// Its copies, by rack and node.
    pub(crate) copies: Vec<CopySeen>,
}

/// A copy of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct CopySeen {
    /// Its rack.
    pub(crate) rack: String,
    /// Its node.
    pub(crate) node: String,
    /// What the ledger says of it.
    pub(crate) state: &'static str,
    /// How it stands.
    pub(crate) standing: Standing,
    /// While it is brought up to date: how far that is, percent.
    pub(crate) percent: Option<u8>,
}

/// How a copy stands, for who looks rather than reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Standing {
    /// It has every acknowledged write.
    InSync,
    /// It is being brought up to date.
    Rebuilding,
    /// It lacks writes.
    Behind,
    /// It may have lost what it had.
    Suspect,
}

impl Status {
    /// From whom was asked and what those said who answered; `None`: nobody who has the ledger.
    pub(crate) fn of(asked: &[NodeName], views: &[(NodeName, ClusterView)]) -> Option<Self> {
        let last_known = || views.iter().map(|(_, view)| view).max_by_key(|view| view.state.incarnation);
        let view = newest(views).or_else(last_known)?;
        let (state, has_quorum) = (&view.state, view.confirmed);
        let rooms = capacity(state).nodes;
        let node = |id: NodeId| node_seen(view, views, &rooms, id);
        let present = present_nodes(state, asked);
        let zones: BTreeSet<String> = present.iter().map(|id| rack_of(state, Some(*id))).collect();
        let of_zone = |zone: &str| -> Vec<NodeSeen> {
            present.iter().filter(|id| rack_of(state, Some(**id)) == zone).map(|id| node(*id)).collect()
        };
        let racks = zones.iter().filter(|zone| *zone != NO_RACK);
        let racks = racks.map(|zone| Rack { zone: zone.clone(), nodes: of_zone(zone) });
        let mut status = Self {
            version: VERSION,
            has_quorum,
            told_by: name_of(state, view.node),
            leader: view.leader.filter(|_| has_quorum).map(|leader| name_of(state, leader)),
            racks: racks.collect(),
            witnesses: of_zone(NO_RACK),
            volumes: state.volumes.iter().map(|(id, volume)| volume_seen(view, views, *id, volume)).collect(),
            vms: vm_shown::rows(state, views),
            troubles: Vec::new(),
        };
        status.troubles = status.cluster_troubles(asked, views);
        status.troubles.extend(drive_troubles(state));
        for (id, volume) in &state.volumes {
            status.troubles.extend(volume_troubles(view, views, *id, volume));
        }
        for (row, vm) in status.vms.iter().zip(state.vms.all.values()) {
            status.troubles.extend(row.troubles(vm));
        }
        let told = state.vms.draining.keys().map(|id| {
            let node = name_of(state, *id);
            if state.leaves(*id) {
                format!("{node} leaves the cluster: `twinrack node remove`, given again, goes on with that")
            } else {
                format!(
                    "{node} is in maintenance: it takes no virtual machines before `twinrack node end-drain`"
                )
            }
        });
        status.troubles.extend(told);
        Some(status)
    }

    fn cluster_troubles(&self, asked: &[NodeName], views: &[(NodeName, ClusterView)]) -> Vec<String> {
        let mut troubles = Vec::new();
        if !self.has_quorum {
            let told_by = &self.told_by;
            troubles
                .push(format!("no quorum answers: nothing is decided, and this is what {told_by} last knew"));
        }
        let silent = asked.iter().filter(|name| !views.iter().any(|(found, _)| found == *name));
        troubles.extend(silent.map(|name| format!("{name} does not answer, or has no ledger")));
        let nodes = self.racks.iter().flat_map(|rack| &rack.nodes);
        let without = nodes.filter(|node| node.answers && !node.leased);
        troubles.extend(without.map(|node| format!("{} has no lease: it may not own volumes", node.name)));
        troubles
    }

    /// In a line: whether all is well, and who decides.
    pub(crate) fn in_short(&self) -> String {
        let troubles = match self.troubles.len() {
            0 => "all is well".to_owned(),
            1 => "1 thing is not well".to_owned(),
            count => format!("{count} things are not well"),
        };
        let leads =
            self.leader.as_ref().map_or("nobody leads".to_owned(), |leader| format!("{leader} leads"));
        let nodes = self.racks.iter().flat_map(|rack| &rack.nodes).chain(&self.witnesses);
        let voters: Vec<&str> = nodes.filter(|node| node.votes).map(|node| node.name.as_str()).collect();
        format!("{troubles}; {leads}; {} vote: {}", voters.len(), voters.join(", "))
    }
}

/// What [`rack_of`] says of who is in none.
const NO_RACK: &str = "-";

/// Of several nodes of a name the last is the present one; of those that nobody asked only such as vote or have drives are shown.
fn present_nodes(state: &State, asked: &[NodeName]) -> Vec<NodeId> {
    let last =
        |name: &NodeName| state.nodes.iter().rev().find(|(_, node)| node.name == *name).map(|(id, _)| *id);
    let has_drives = |id: NodeId| state.drives.values().any(|drive| drive.node == id);
    let shown = state.nodes.iter().filter(|(id, node)| {
        last(&node.name) == Some(**id)
            && (asked.contains(&node.name) || has_drives(**id) || state.voters.present().contains(id))
    });
    shown.map(|(id, _)| *id).collect()
}

fn node_seen(
    view: &ClusterView,
    views: &[(NodeName, ClusterView)],
    rooms: &[placement::NodeCapacity],
    id: NodeId,
) -> NodeSeen {
    let state = &view.state;
    let own = views.iter().map(|(_, view)| view).find(|view| view.node == id);
    let room = rooms.iter().find(|room| room.node == id);
    let in_use = |drive: &&Drive| drive.node == id && !drive.retired;
    NodeSeen {
        name: name_of(state, id),
        answers: own.is_some(),
        leads: view.confirmed && view.leader == Some(id),
        votes: view.voters.contains(&id),
        leased: own.is_some_and(|own| own.leased),
        drives: state.drives.values().filter(in_use).count(),
        used_bytes: room.map_or(0, |room| room.used_bytes),
        total_bytes: room.map_or(0, |room| room.total_bytes),
    }
}

/// What the owner says of a volume's rebuild.
fn rebuild_of(views: &[(NodeName, ClusterView)], id: VolumeId, volume: &Volume) -> Option<RebuildProgress> {
    let owner = views.iter().map(|(_, view)| view).find(|view| view.node == volume.owner)?;
    owner.rebuilds.get(&id).copied()
}

fn volume_seen(
    view: &ClusterView,
    views: &[(NodeName, ClusterView)],
    id: VolumeId,
    volume: &Volume,
) -> VolumeSeen {
    let state = &view.state;
    let rebuild = rebuild_of(views, id, volume);
    let copies = volume.legs.iter().map(|(leg_id, leg)| {
        let node = state.node_of(leg);
        let progress = rebuild.filter(|rebuild| rebuild.leg == *leg_id && rebuild.total_bytes > 0);
        CopySeen {
            rack: rack_of(state, node),
            node: node.map_or_else(|| "-".to_owned(), |node| name_of(state, node)),
            state: leg_in_words(leg.state),
            standing: match leg.state {
                LegState::InSync => Standing::InSync,
                LegState::Rebuilding { .. } => Standing::Rebuilding,
                LegState::Stale { .. } => Standing::Behind,
                LegState::Suspect { .. } => Standing::Suspect,
            },
            percent: progress.map(percent),
        }
    });
    let mut copies: Vec<CopySeen> = copies.collect();
    copies.sort_by(|one, other| (&one.rack, &one.node).cmp(&(&other.rack, &other.node)));
    VolumeSeen {
        id: id.to_string(),
        name: volume.name.to_string(),
        size_bytes: volume.size_bytes,
        phase: phase_in_words(&volume.phase),
        is_open: matches!(volume.phase, Phase::Open { .. }),
        owner: name_of(state, volume.owner),
        copies,
    }
}

fn percent(progress: RebuildProgress) -> u8 {
    let done = u128::from(progress.done_bytes) * 100 / u128::from(progress.total_bytes.max(1));
    u8::try_from(done.min(100)).unwrap_or(100)
}

fn drive_troubles(state: &State) -> impl Iterator<Item = String> {
    state.drives.values().filter_map(|drive| {
        let is = match drive.health {
            Health::Good => return None,
            Health::Slow => "is slow",
            Health::Erred => "reported an error",
            Health::Lost => "is lost",
        };
        let node = name_of(state, drive.node);
        Some(format!(
            "drive {} of {node} {is}; it is retired, `twinrack drive replace` ends that",
            drive.serial
        ))
    })
}

fn volume_troubles(
    view: &ClusterView,
    views: &[(NodeName, ClusterView)],
    id: VolumeId,
    volume: &Volume,
) -> Vec<String> {
    let mut troubles = Vec::new();
    let (name, all, in_sync) = (&volume.name, volume.legs.len(), volume.in_sync().count());
    match volume.phase {
        Phase::Offline => {
            troubles.push(format!("{name} is offline: no copy of it is known to have every write"));
        }
        Phase::Fencing { .. } | Phase::Opening { .. } => {
            troubles.push(format!("{name} can't be used at the moment: {}", phase_in_words(&volume.phase)));
        }
        Phase::Open { .. } | Phase::Closed => {}
    }
    if in_sync < all {
        troubles.push(format!("{name}: {in_sync} of {all} copies are in sync"));
    }
    let waits = view.blocked.get(&id).map(|why| format!("{name} waits: {why}"));
    let owner = views.iter().map(|(_, view)| view).find(|view| view.node == volume.owner);
    let room = owner.and_then(|owner| owner.out_of_room.get(&id));
    troubles
        .extend(waits.into_iter().chain(room.map(|why| format!("writes to {name} wait for room: {why}"))));
    troubles
}

impl NodeSeen {
    /// What it is in the cluster, in words.
    pub(crate) fn roles(&self) -> String {
        if !self.answers {
            return "does not answer".to_owned();
        }
        let said = [(self.leads, "leads"), (self.votes, "votes"), (self.leased, "has a lease")];
        said.into_iter().filter(|(is, _)| *is).map(|(_, word)| word).collect::<Vec<_>>().join(", ")
    }

    /// What of its drives is taken; nothing of a witness.
    pub(crate) fn room(&self) -> String {
        if self.total_bytes == 0 {
            return String::new();
        }
        let drives = if self.drives == 1 { "drive" } else { "drives" };
        format!("{} of {} on {} {drives}", size(self.used_bytes), size(self.total_bytes), self.drives)
    }
}

impl CopySeen {
    /// In words, with how far it is.
    pub(crate) fn in_words(&self) -> String {
        let far = self.percent.map(|percent| format!(" {percent} %")).unwrap_or_default();
        format!("{} {}{far}", self.node, self.state)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.in_short())?;
        for trouble in &self.troubles {
            writeln!(f, "  - {trouble}")?;
        }
        writeln!(f)?;
        let of =
            |rack: &str, node: &NodeSeen| [rack.to_owned(), node.name.clone(), node.roles(), node.room()];
        let racks = self.racks.iter().flat_map(|rack| rack.nodes.iter().map(|node| of(&rack.zone, node)));
        let witnesses = self.witnesses.iter().map(|node| of("witness", node));
        table(f, ["RACK", "NODE", "IS", "USED"], racks.chain(witnesses))?;
        writeln!(f)?;
        let volumes = self.volumes.iter().map(|volume| {
            let copies: Vec<String> = volume.copies.iter().map(CopySeen::in_words).collect();
            let VolumeSeen { name, size_bytes, phase, owner, .. } = volume;
            [name.clone(), size(*size_bytes), phase.clone(), owner.clone(), copies.join("; ")]
        });
        table(f, ["VOLUME", "SIZE", "PHASE", "OWNER", "COPIES"], volumes)?;
        if self.vms.is_empty() {
            return Ok(());
        }
        writeln!(f)?;
        table(f, vm_shown::COLUMNS, self.vms.iter().map(Row::cells))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use control::state::{Cache, Settings, Voters};
    use control::vm::{Leftover, Room, Seat, Vm, VmPhase, Wanted};
    use control::{ClusterCommand, Command};
    use model::{BootId, DriveId, Generation, LegId, Mirror, PowerCycles, Provision, SLAB_BYTES};
    use model::{MacRange, VmId, VmPlacement, VmSpec};
    use std::collections::BTreeMap;

    /// A node in each rack with a drive of 15 slabs, a witness, and a volume of ten slabs.
    fn state() -> State {
        let mut state = State::new(Settings::default());
        let mut must = |command| drop(state.apply(&Command::Cluster(command)).unwrap());
        for (number, name, zone) in [(1, "a1", "room-1"), (2, "b1", "room-2")] {
            must(ClusterCommand::AddNode { name: name.parse().unwrap(), zone: Some(zone.parse().unwrap()) });
            let (node, serial) = (NodeId(number), format!("S{number}").parse().unwrap());
            let (size_bytes, cache, power_cycles) = (1 << 30, Cache::Safe, PowerCycles(1));
            must(ClusterCommand::AddDrive { node, serial, size_bytes, cache, power_cycles });
            let (boot, drives) = (BootId(number.into()), BTreeMap::from([(DriveId(number), power_cycles)]));
            must(ClusterCommand::Register { node, was: None, boot, drives });
        }
        must(ClusterCommand::AddNode { name: "witness".parse().unwrap(), zone: None });
        must(ClusterCommand::CreateVolume {
            name: "data".parse().unwrap(),
            mirror: Mirror::TwoWay,
            provision: Provision::Fixed,
            size_bytes: 10 * SLAB_BYTES,
            drives: vec![DriveId(1), DriveId(2)],
            owner: NodeId(1),
        });
        state.voters = Voters::Settled([1, 2, 3].map(NodeId).into());
        let volume = state.volumes.get_mut(&VolumeId(1)).unwrap();
        volume.phase = Phase::Open { boot: BootId(1) };
        volume.legs.values_mut().for_each(|leg| leg.state = LegState::InSync);
        state
    }

    /// Adds one that is wanted running, and is on the first node, or off.
    fn add_vm(state: &mut State, name: &str, placement: VmPlacement, runs: bool) {
        let (memory_bytes, cores) = (1 << 30, 1);
        let volumes = Vec::new();
        let spec = VmSpec {
            name: name.parse().unwrap(),
            memory_bytes,
            cores,
            placement,
            anti_affinity: None,
            volumes,
            saves_to: None,
            nics: Vec::new(),
        };
        let at = Seat { node: NodeId(1), boot: BootId(1), generation: Generation(1) };
        let phase = if runs { VmPhase::Running { at } } else { VmPhase::Off };
        let (generation, yielding) = (Generation(1), BTreeMap::new());
        let wanted = Wanted::Running;
        let vm = Vm {
            spec,
            wanted,
            generation,
            phase,
            last: None,
            yielding,
            setbacks: 0,
            avoids: None,
            saved: None,
            saves: model::SaveTry(0),
            saved_bytes: 0,
            not_saved: None,
            memory_lost: None,
        };
        for node in [1, 2] {
            state.vms.rooms.insert(NodeId(node), Room { memory_bytes: 4 << 30, cores: 4 });
        }
        state.vms.minted = state.vms.minted.next();
        state.vms.all.insert(state.vms.minted, vm);
    }

    fn view_of(state: &State, node: u32) -> ClusterView {
        let node = NodeId(node);
        ClusterView {
            node,
            leader: Some(NodeId(1)),
            voters: state.voters.present().clone(),
            confirmed: node == NodeId(1),
            leased: node != NodeId(3),
            state: state.clone(),
            mac_range: MacRange::default(),
            devices: BTreeMap::new(),
            device_bytes: BTreeMap::new(),
            legs: Vec::new(),
            blocked: BTreeMap::new(),
            out_of_room: BTreeMap::new(),
            rebuilds: BTreeMap::new(),
        }
    }

    const ASKED: [&str; 3] = ["a1", "b1", "witness"];

    fn asked() -> Vec<NodeName> {
        ASKED.map(|name| name.parse().unwrap()).into()
    }

    fn seen(views: &[(u32, ClusterView)]) -> Status {
        let name = |node: u32| ASKED[usize::try_from(node).unwrap() - 1].parse().unwrap();
        let views: Vec<_> = views.iter().map(|(node, view)| (name(*node), view.clone())).collect();
        Status::of(&asked(), &views).unwrap()
    }

    /// All is well.
    pub(crate) fn well() -> Status {
        let mut state = state();
        add_vm(&mut state, "web", VmPlacement::Prefers("room-1".parse().unwrap()), true);
        seen(&[1, 2, 3].map(|node| (node, view_of(&state, node))))
    }

    /// A rack was lost; its drive erred, too; another leg is being made. One virtual machine was started in the other rack, one never leaves its own.
    pub(crate) fn a_rack_is_lost() -> Status {
        let mut state = state();
        add_vm(&mut state, "web", VmPlacement::Prefers("room-2".parse().unwrap()), true);
        add_vm(&mut state, "db", VmPlacement::Strict("room-2".parse().unwrap()), false);
        state.drives.get_mut(&DriveId(2)).unwrap().health = Health::Erred;
        let volume = state.volumes.get_mut(&VolumeId(1)).unwrap();
        volume.legs.get_mut(&LegId(2)).unwrap().state =
            LegState::Rebuilding { base: control::state::Base::Changes };
        let mut owner = view_of(&state, 1);
        let (done_bytes, total_bytes) = (3 * SLAB_BYTES, 10 * SLAB_BYTES);
        owner.rebuilds.insert(VolumeId(1), RebuildProgress { leg: LegId(2), done_bytes, total_bytes });
        seen(&[(1, owner), (3, view_of(&state, 3))])
    }

    #[test]
    fn all_is_well_or_it_is_said_what_is_not() {
        assert_eq!(well().troubles, Vec::<String>::new());
        insta::assert_snapshot!("well", well().to_string());
        insta::assert_snapshot!("a_rack_is_lost", a_rack_is_lost().to_string());
        insta::assert_json_snapshot!("a_rack_is_lost_json", a_rack_is_lost());
    }

    #[test]
    fn without_a_quorum_it_is_said_whose_word_it_is_and_nobody_leads() {
        let mut alone = view_of(&state(), 2);
        alone.confirmed = false;
        let status = seen(&[(2, alone)]);
        assert!(!status.has_quorum && status.leader.is_none() && status.told_by == "b1");
        assert!(status.troubles[0].contains("this is what b1 last knew"), "{:?}", status.troubles);
        assert!(status.troubles.iter().any(|trouble| trouble.starts_with("a1 does not answer")));
        assert_eq!(Status::of(&asked(), &[]), None);
    }

    #[test]
    fn a_node_without_a_lease_and_a_volume_that_waits_or_is_offline_are_troubles() {
        let mut state = state();
        let mut without = view_of(&state, 2);
        without.leased = false;
        state.volumes.get_mut(&VolumeId(1)).unwrap().phase = Phase::Offline;
        let mut leads = view_of(&state, 1);
        leads.blocked.insert(VolumeId(1), "its drives are away".to_owned());
        leads.out_of_room.insert(VolumeId(1), "the pool is full".to_owned());
        let troubles = seen(&[(1, leads), (2, without), (3, view_of(&state, 3))]).troubles.join("; ");
        for trouble in
            ["b1 has no lease", "data is offline", "data waits: its drives", "writes to data wait for room"]
        {
            assert!(troubles.contains(trouble), "{trouble} is missing: {troubles}");
        }
    }
    #[test]
    fn a_node_in_maintenance_and_one_that_can_t_leave_it_are_troubles() {
        let mut state = state();
        add_vm(&mut state, "web", VmPlacement::Strict("room-1".parse().unwrap()), true);
        state.vms.draining.insert(NodeId(1), Leftover::Stays);
        let status = seen(&[1, 2, 3].map(|node| (node, view_of(&state, node))));
        assert_eq!(
            status.troubles,
            ["a1 is in maintenance: it takes no virtual machines before `twinrack node end-drain`"]
        );
        assert_eq!(status.vms[0].why().unwrap(), "a1 is being drained; b1 is outside its zone");
        state.nodes.get_mut(&NodeId(1)).unwrap().leaving = true;
        let leaves = seen(&[1, 2, 3].map(|node| (node, view_of(&state, node))));
        assert!(leaves.troubles[0].starts_with("a1 leaves the cluster"), "{:?}", leaves.troubles);
        state.vms.all.get_mut(&VmId(1)).unwrap().wanted = Wanted::Stopped;
        state.vms.all.get_mut(&VmId(1)).unwrap().phase = VmPhase::Off;
        state.vms.draining.clear();
        let stopped = seen(&[1, 2, 3].map(|node| (node, view_of(&state, node))));
        assert_eq!(stopped.troubles, Vec::<String>::new(), "what is wanted stopped may be off");
    }
}
