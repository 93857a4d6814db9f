//! A cluster before anything has happened to it.

use super::grow::FIRST_BYTES;
use super::judge::{Judge, Truth};
use super::raft::{Raft, Seat};
use super::target::{Disk, DriveSim};
use super::{Event, MS, Machine, VmSim, World, vm, volume_id};
use crate::bugs::Broken;
use crate::hits::Hits;
use crate::schedule::Schedule;
use control::state::{Cache, Settings, State, Voters};
use control::vm::{Policy, Room, Wanted};
use control::{ClusterCommand, Command, VmsCommand};
use model::{BootId, DriveId, Mirror, NodeId, PowerCycles, Provision, SLAB_BYTES, VmSpec, VolumeSize};
use std::collections::{BTreeMap, BinaryHeap};

const DRIVES_PER_NODE: usize = 2;
const DRIVE_BYTES: u64 = 1 << 30;

fn node_id(node: usize) -> NodeId {
    NodeId(node as u32 + 1)
}

impl World {
    /// Everybody is off; the ledger knows nodes, drives and volumes that nobody has made yet.
    pub(crate) fn new(schedule: Schedule, bug: Option<Broken>, tells: bool) -> Result<Self, String> {
        let mut random = fastrand::Rng::with_seed(schedule.seed);
        let (nodes, volumes) = (schedule.kind.nodes(), schedule.kind.volumes());
        let mut state = State::new(Settings::default());
        let declared = |node: usize| schedule.volatile && node + 1 == nodes;
        cluster(&mut state, nodes, declared)?;
        for (volume, legs) in volumes.iter().enumerate() {
            let mirror = if *legs == 2 { Mirror::TwoWay } else { Mirror::FourWay };
            let size = match schedule.thin(volume) {
                Some(extents) => VolumeSize::new(mirror, Provision::Thin, extents * SLAB_BYTES),
                None => VolumeSize::new(mirror, Provision::Fixed, FIRST_BYTES),
            };
            let id = volume_id(volume);
            let own = placement::place(&state.pool(), &state.placed(), id, size)
                .map_err(|refused| refused.to_string())?;
            let create = ClusterCommand::CreateVolume {
                name: format!("volume{volume}").parse().map_err(|error| format!("{error}"))?,
                mirror,
                provision: size.provision,
                size_bytes: size.size_bytes,
                drives: own.iter().map(|leg| leg.drive).collect(),
                owner: node_id(random.usize(..nodes)),
            };
            apply(&mut state, create)?;
        }
        machines_of(&mut state, &schedule)?;
        let sizes = state.volumes.iter().map(|(id, volume)| (*id, volume.size())).collect();
        if let Some(broken) = placement::check(&state.pool(), &sizes, &state.placed()).first() {
            return Err(broken.to_string());
        }
        let drive = |at: usize| DriveSim {
            id: DriveId(at as u32 + 1),
            node: at / DRIVES_PER_NODE,
            volatile: declared(at / DRIVES_PER_NODE) || bug == Some(Broken::LyingCache),
            present: true,
            power_cycles: 1,
            to_fail: 0,
            errors: 0,
            stalls_until: 0,
        };
        let placed = state.placed();
        let of = |volume: usize| {
            let own = placed.iter().filter(|leg| leg.volume == volume_id(volume));
            let thin =
                state.volumes.get(&volume_id(volume)).is_some_and(|found| found.provision == Provision::Thin);
            let disk =
                |leg: &model::PlacedLeg| Disk::new(leg.drive.0 as usize - 1, leg.extents.clone(), thin);
            own.map(|leg| (leg.leg.0, disk(leg))).collect()
        };
        let machines = (0..=nodes).map(|node| machine(node, nodes, volumes.len(), &mut random)).collect();
        let (disks, links) = ((0..volumes.len()).map(of).collect(), vec![0; (nodes + 1) * (nodes + 1)]);
        let mut world = Self {
            bug,
            random,
            random_vm: schedule.machines_source(),
            vms: vms(&schedule),
            now: 0,
            queue: BinaryHeap::new(),
            number: 0,
            uid: 0,
            machines,
            drives: (0..nodes * DRIVES_PER_NODE).map(drive).collect(),
            disks,
            cuts: [links.clone(), links],
            losses: 0,
            raft: Raft::new(state),
            truths: vec![Truth::new(); volumes.len()],
            judge: Judge::default(),
            hits: Hits::default(),
            planned: Vec::new(),
            closed_since: vec![None; volumes.len()],
            paused_until: vec![0; volumes.len()],
            mended: false,
            done: false,
            wiped: false,
            forced: None,
            story: tells.then(Vec::new),
            schedule,
        };
        world.wind_up();
        Ok(world)
    }

    /// Everything that will happen by itself.
    fn wind_up(&mut self) {
        for node in 0..self.machines.len() {
            // Its boot is the one that the ledger knows.
            self.machines[node].boots = 0;
            self.post(0, Event::Boot(node));
        }
        for at in 0..self.schedule.faults.len() {
            let fault = self.schedule.faults[at];
            self.post(fault.at_ms * MS, Event::Fault(at));
            self.post((fault.at_ms + fault.for_ms) * MS, Event::Mend(at));
        }
        self.post(self.schedule.mended_ms * MS, Event::Mended);
        self.post(100 * MS, Event::Operator);
    }
}

fn vms(schedule: &Schedule) -> Vec<VmSim> {
    let of = |found: crate::schedule::Machine| VmSim {
        volumes: found.volumes,
        home: found.home,
        known: vm::Known::default(),
        trap: None,
    };
    schedule.machines().into_iter().map(of).collect()
}

/// Virtual machines, all wanted running, and what nodes have for them.
fn machines_of(state: &mut State, schedule: &Schedule) -> Result<(), String> {
    let mut ask = |command| {
        let applied = state.apply(&Command::Vms(command));
        applied.map(|_| ()).map_err(|refused| refused.to_string())
    };
    let machines = schedule.machines();
    if machines.is_empty() {
        return Ok(());
    }
    for node in 0..schedule.kind.nodes() {
        ask(VmsCommand::SetRoom(node_id(node), Room { memory_bytes: 4 << 30, cores: 8 }))?;
    }
    ask(VmsCommand::SetPolicy(Policy { hold_down_ms: 3_000, migrations_max: 1, ..Policy::default() }))?;
    for (at, machine) in machines.iter().enumerate() {
        let spec = VmSpec {
            name: format!("vm{at}").parse().map_err(|error| format!("{error}"))?,
            memory_bytes: 1 << 30,
            cores: 1,
            placement: vm::placement(machine.home),
            anti_affinity: None,
            volumes: machine.volumes.iter().map(|volume| volume_id(*volume)).collect(),
            saves_to: machine.volumes.last().map(|volume| volume_id(*volume)),
            nics: Vec::new(),
        };
        ask(VmsCommand::Create(Box::new(spec)))?;
        ask(VmsCommand::Want(vm::vm_id(at), Wanted::Running))?;
    }
    Ok(())
}

pub(super) fn zone(node: usize) -> model::ZoneName {
    if node.is_multiple_of(2) { "zone1" } else { "zone2" }.parse().expect("a zone's name")
}

fn apply(state: &mut State, command: ClusterCommand) -> Result<(), String> {
    state.apply(&Command::Cluster(command)).map(|_| ()).map_err(|refused| refused.to_string())
}

fn cluster(state: &mut State, nodes: usize, volatile: impl Fn(usize) -> bool) -> Result<(), String> {
    let name = |name: String| name.parse().map_err(|error| format!("{error}"));
    for node in 0..nodes {
        let zone = Some(zone(node));
        apply(state, ClusterCommand::AddNode { name: name(format!("n{node}"))?, zone })?;
        let mut drives = BTreeMap::new();
        for at in 0..DRIVES_PER_NODE {
            let cache = if volatile(node) { Cache::Volatile } else { Cache::Safe };
            let serial = format!("serial-{node}-{at}").parse().map_err(|error| format!("{error}"))?;
            let (power_cycles, size_bytes, id) = (PowerCycles(1), DRIVE_BYTES, node_id(node));
            apply(state, ClusterCommand::AddDrive { node: id, serial, size_bytes, cache, power_cycles })?;
            drives.insert(DriveId((node * DRIVES_PER_NODE + at) as u32 + 1), power_cycles);
        }
        let boot = BootId(u128::from(node_id(node).0) * 100_000 + 1);
        apply(state, ClusterCommand::Register { node: node_id(node), was: None, boot, drives })?;
    }
    apply(state, ClusterCommand::AddNode { name: name("witness".to_owned())?, zone: None })?;
    state.voters = Voters::Settled(state.nodes.keys().copied().collect());
    Ok(())
}

fn machine(node: usize, nodes: usize, volumes: usize, random: &mut fastrand::Rng) -> Machine {
    Machine {
        node: node_id(node),
        rack: (node < nodes).then_some(node % 2),
        power: false,
        gone: false,
        off: 0,
        frozen: 0,
        clock_stopped_at: None,
        deferred: Vec::new(),
        boots: 0,
        run: 0,
        clock_ahead_ms: random.u64(..100_000),
        clock_behind_us: 0,
        clock_jumped: false,
        clock_ppm: random.i64(-20_000..=20_000),
        watchdog: None,
        lease_note: control::Moment(0),
        arrays: std::iter::repeat_with(|| None).take(volumes).collect(),
        floors: BTreeMap::new(),
        laid: BTreeMap::new(),
        guests: BTreeMap::new(),
        agent: None,
        agents: 0,
        seat: Seat::default(),
    }
}
