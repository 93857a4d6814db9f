//! Which volumes a deployment makes, and how large. Pure.
//!
//! Express makes one infrastructure volume for the cluster and one workload volume per node, `InfraOnly` just the first, `KeepStorage` none (spec.md, "Shapes"). All are thin, of the
//! mirror that the shape has. How large is nowhere said, so it is what fits: the sizes are those with which all of them could be written full and the reserve would stay free.
//!
//! Invariants: the same drives give the same sizes, whatever was made of them already: a deployment that goes on makes what it would have made. A volume that is there is kept as it is,
//! whatever its size: an operator may have let it grow.
//!
//! On failure: [`CantSize`]; nothing has changed.

use crate::pool::{NoPlace, VolumeRequest, breaches, choose};
use control::state::{Cache, Settings};
use control::{ClusterCommand, Command, Rejected, State};
use model::{
    BootId, ClusterSpec, ConfigurationMode, DriveSerial, Mirror, NodeName, PowerCycles, Provision,
    SLAB_BYTES, VolumeName, VolumeSize, ZoneName,
};
use placement::Broken;
use std::collections::{BTreeMap, BTreeSet};

/// The infrastructure volume's name.
const INFRASTRUCTURE: &str = "infrastructure";
/// Of what all volumes may have, the infrastructure volume has this share at most, percent.
const INFRASTRUCTURE_PERCENT: u64 = 10;
/// And no more than this, bytes: as much as the reference's has (Azure Local, its infrastructure volume: 256 GB).
const INFRASTRUCTURE_BYTES_MAX: u64 = 256 << 30;

/// No sizes are found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CantSize {
    /// The ledger would not take a node or a drive.
    #[error("the ledger would not take the nodes and drives")]
    Rejected(#[from] Rejected),
    /// Not even the smallest fit.
    #[error("the drives are too small for {volumes} volumes of {} MiB each", SLAB_BYTES >> 20)]
    TooSmall {
        /// So many.
        volumes: usize,
        /// What the smallest lacks.
        #[source]
        source: NoPlace,
    },
    /// A volume of that name is another kind.
    #[error("there is a volume {name} already, and it has {has} copies; the shape asks for {asked}")]
    OtherMirror {
        /// Its name.
        name: VolumeName,
        /// So many.
        has: usize,
        /// So many are asked for.
        asked: usize,
    },
    /// A volume of that name lies wrongly.
    #[error("there is a volume {name} already, and its copies are not where the shape says")]
    Misplaced {
        /// Its name.
        name: VolumeName,
        /// In what.
        #[source]
        source: Broken,
    },
}

/// A drive that is the pool's, or will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PoolDrive {
    /// Which.
    pub serial: DriveSerial,
    /// Its size.
    pub size_bytes: u64,
}

/// The ledger as it will be when these nodes and drives are in it: from the one that there is, or from none.
pub(super) fn imagined(
    spec: &ClusterSpec,
    drives: &BTreeMap<NodeName, Vec<PoolDrive>>,
    ledger: Option<&State>,
) -> Result<State, Rejected> {
    let mut state = ledger.cloned().unwrap_or_else(|| State::new(Settings::default()));
    for (zone, node) in spec.nodes() {
        let known = |state: &State| {
            state.nodes.iter().filter(|(_, found)| found.name == node.name).map(|(id, _)| *id).max()
        };
        if known(&state).is_none() {
            let (name, zone) = (node.name.clone(), Some(zone.name.clone()));
            state.apply(&Command::Cluster(ClusterCommand::AddNode { name, zone }))?;
        }
        let Some(id) = known(&state) else { continue };
        if state.nodes.get(&id).is_some_and(|found| found.boot.is_none()) {
            let boot = BootId(u128::from(id.0));
            let register = ClusterCommand::Register { node: id, was: None, boot, drives: BTreeMap::new() };
            state.apply(&Command::Cluster(register))?;
        }
        for PoolDrive { serial, size_bytes } in drives.get(&node.name).into_iter().flatten() {
            if state.drive_of(serial).is_none() {
                let (serial, size_bytes, power_cycles) = (serial.clone(), *size_bytes, PowerCycles(0));
                let cache = Cache::Safe;
                let add = ClusterCommand::AddDrive { node: id, serial, size_bytes, cache, power_cycles };
                state.apply(&Command::Cluster(add))?;
            }
        }
    }
    Ok(state)
}

/// What a volume is to be, before its size is known.
struct Wanted {
    name: VolumeName,
    rack: Option<ZoneName>,
}

/// The volumes that the configuration asks for, over the ledger as it will be ([`imagined`]).
pub(super) fn volumes(spec: &ClusterSpec, ledger: &State) -> Result<Vec<VolumeRequest>, CantSize> {
    let wanted = wanted(spec);
    let names: BTreeSet<&VolumeName> = wanted.iter().map(|wanted| &wanted.name).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mirror = spec.shape().mirror();
    // As if none of them were there: so it does not matter how many are.
    let mut without = ledger.clone();
    without.volumes.retain(|_, volume| !names.contains(&volume.name));
    let (infrastructure, workload) = sizes(&without, mirror, wanted.len())?;
    let request = |Wanted { name, rack }: Wanted| {
        let there = ledger.volumes.iter().find(|(_, volume)| volume.name == name);
        let Some((id, there)) = there else {
            let slabs = if name.as_str() == INFRASTRUCTURE { infrastructure } else { workload };
            let (provision, size_bytes) = (Provision::Thin, slabs * SLAB_BYTES);
            return Ok(VolumeRequest { name, mirror, provision, size_bytes, rack });
        };
        let has = there.size();
        if has.mirror != mirror {
            return Err(CantSize::OtherMirror { name, has: has.mirror.legs(), asked: mirror.legs() });
        }
        if let Some(source) = breaches(ledger, *id).into_iter().next() {
            return Err(CantSize::Misplaced { name, source });
        }
        Ok(VolumeRequest { name, mirror, provision: has.provision, size_bytes: has.size_bytes, rack })
    };
    wanted.into_iter().map(request).collect()
}

fn wanted(spec: &ClusterSpec) -> Vec<Wanted> {
    let infrastructure = INFRASTRUCTURE.parse().ok().map(|name| Wanted { name, rack: None });
    let workload = spec.nodes().filter_map(|(zone, node)| {
        let name = format!("workload-{}", node.ordinal.get()).parse().ok()?;
        Some(Wanted { name, rack: Some(zone.name.clone()) })
    });
    match spec.configuration {
        ConfigurationMode::Express => infrastructure.into_iter().chain(workload).collect(),
        ConfigurationMode::InfraOnly => infrastructure.into_iter().collect(),
        ConfigurationMode::KeepStorage => Vec::new(),
    }
}

/// How many slabs the infrastructure volume and each of the others get, of so many in all.
fn sizes(ledger: &State, mirror: Mirror, volumes: usize) -> Result<(u64, u64), CantSize> {
    fit(ledger, mirror, &vec![1; volumes]).map_err(|source| CantSize::TooSmall { volumes, source })?;
    // All of the same size, to know how much there is.
    let even = largest(|slabs| fit(ledger, mirror, &vec![slabs; volumes]).is_ok());
    let all = even.saturating_mul(volumes as u64);
    let infrastructure = all.saturating_mul(INFRASTRUCTURE_PERCENT) / 100;
    let infrastructure = infrastructure.clamp(1, INFRASTRUCTURE_BYTES_MAX / SLAB_BYTES);
    let with = |slabs| {
        let mut all = vec![slabs; volumes];
        all[0] = infrastructure;
        all
    };
    let workload = if volumes > 1 { largest(|slabs| fit(ledger, mirror, &with(slabs)).is_ok()) } else { 1 };
    Ok((infrastructure, workload.max(1)))
}

/// The largest number for which it holds, of those that follow each other from 1 on; 1, if it holds for none.
fn largest(holds: impl Fn(u64) -> bool) -> u64 {
    let (mut good, mut bad) = (1, 2);
    while holds(bad) {
        (good, bad) = (bad, bad.saturating_mul(2));
    }
    while bad - good > 1 {
        let middle = good.midpoint(bad);
        if holds(middle) { good = middle } else { bad = middle }
    }
    good
}

/// Whether fixed volumes of so many slabs each have room, one after the other.
fn fit(ledger: &State, mirror: Mirror, slabs: &[u64]) -> Result<(), NoPlace> {
    let mut state = ledger.clone();
    for (number, slabs) in slabs.iter().enumerate() {
        let Ok(name) = format!("imagined-{number}").parse() else { continue };
        let size = VolumeSize::new(mirror, Provision::Fixed, slabs.saturating_mul(SLAB_BYTES));
        let create = choose(&state, &name, size, None)?;
        state.apply(&Command::Cluster(create))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use template::{ReadOptions, Source};

    const GIB: u64 = 1 << 30;

    fn spec(shape: &str, configuration: ConfigurationMode) -> ClusterSpec {
        let path = format!("{}/../../hil/templates/{shape}.toml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let reading =
            template::read(&Source::new("t.toml".to_owned(), &text), &ReadOptions::default()).unwrap();
        ClusterSpec { configuration, ..reading.spec.unwrap() }
    }

    fn drives(spec: &ClusterSpec, sizes: &[u64]) -> BTreeMap<NodeName, Vec<PoolDrive>> {
        let of = |name: &NodeName| {
            let drive = |(at, size_bytes): (usize, &u64)| PoolDrive {
                serial: format!("S-{name}-{at}").parse().unwrap(),
                size_bytes: *size_bytes,
            };
            sizes.iter().enumerate().map(drive).collect()
        };
        spec.nodes().map(|(_, node)| (node.name.clone(), of(&node.name))).collect()
    }

    fn made(state: &mut State, request: &VolumeRequest) {
        let create = choose(state, &request.name, request.size(), request.rack.as_ref()).unwrap();
        state.apply(&Command::Cluster(create)).unwrap();
    }

    fn said(requests: &[VolumeRequest]) -> Vec<String> {
        let one = |request: &VolumeRequest| {
            format!(
                "{} {} MiB {:?} {:?}",
                request.name,
                request.size_bytes >> 20,
                request.mirror,
                request.provision
            )
        };
        requests.iter().map(one).collect()
    }

    #[test]
    fn express_makes_one_for_the_cluster_and_one_for_each_node() {
        let spec = spec("2+2", ConfigurationMode::Express);
        let state = imagined(&spec, &drives(&spec, &[1000 * GIB; 4]), None).unwrap();
        let asked = volumes(&spec, &state).unwrap();
        insta::assert_snapshot!(said(&asked).join("\n"));
        let racks: Vec<_> = asked.iter().map(|asked| asked.rack.as_ref().map(ToString::to_string)).collect();
        assert_eq!(racks[..2], [None, Some("rack-a".to_owned())]);
        assert_eq!(racks.last().unwrap().as_deref(), Some("rack-b"));
    }

    #[test]
    fn the_lab_s_small_drives_are_enough() {
        for shape in ["1+1", "2+2", "3+3", "4+4"] {
            let spec = spec(shape, ConfigurationMode::Express);
            let state = imagined(&spec, &drives(&spec, &[GIB, GIB]), None).unwrap();
            assert_eq!(volumes(&spec, &state).unwrap().len(), 1 + spec.nodes().count(), "{shape}");
        }
    }

    #[test]
    fn the_other_modes_make_one_and_none() {
        let infra = spec("1+1", ConfigurationMode::InfraOnly);
        let state = imagined(&infra, &drives(&infra, &[GIB, GIB]), None).unwrap();
        assert_eq!(said(&volumes(&infra, &state).unwrap()), ["infrastructure 64 MiB TwoWay Thin"]);
        let keep = spec("1+1", ConfigurationMode::KeepStorage);
        assert_eq!(volumes(&keep, &state).unwrap(), []);
    }

    #[test]
    fn one_that_is_there_is_kept_unless_it_is_of_another_kind() {
        let spec = spec("2+2", ConfigurationMode::Express);
        let mut state = imagined(&spec, &drives(&spec, &[100 * GIB; 2]), None).unwrap();
        let first = volumes(&spec, &state).unwrap();
        let larger = VolumeRequest { size_bytes: 3 * GIB, provision: Provision::Fixed, ..first[1].clone() };
        made(&mut state, &larger);
        let again = volumes(&spec, &state).unwrap();
        assert_eq!((&again[1], &again[0], &again[2..]), (&larger, &first[0], &first[2..]));
        let two_way = VolumeRequest { mirror: Mirror::TwoWay, ..first[2].clone() };
        made(&mut state, &two_way);
        assert!(matches!(volumes(&spec, &state), Err(CantSize::OtherMirror { has: 2, asked: 4, .. })));
    }

    #[test]
    fn drives_that_are_too_small_are_told() {
        let spec = spec("1+1", ConfigurationMode::Express);
        let state = imagined(&spec, &drives(&spec, &[GIB / 4, GIB / 4]), None).unwrap();
        assert!(matches!(volumes(&spec, &state), Err(CantSize::TooSmall { volumes: 3, .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Killed after any of them, the rest is made as it would have been; and all of them fit, full.
        #[test]
        fn sizes_do_not_depend_on_what_is_there(
            shape in 1usize..=4, gib in prop::collection::vec(1u64..4000, 1..5), made_first in 0usize..10,
        ) {
            let shape = format!("{shape}+{shape}");
            let spec = spec(&shape, ConfigurationMode::Express);
            let drives = drives(&spec, &gib.iter().map(|gib| gib * GIB).collect::<Vec<_>>());
            let mut state = imagined(&spec, &drives, None).unwrap();
            let all = volumes(&spec, &state).unwrap();
            all.iter().take(made_first).for_each(|request| made(&mut state, request));
            let state = imagined(&spec, &drives, Some(&state)).unwrap();
            prop_assert_eq!(&volumes(&spec, &state).unwrap(), &all);
            let slabs: Vec<u64> = all.iter().map(|request| request.size_bytes / SLAB_BYTES).collect();
            let empty = imagined(&spec, &drives, None).unwrap();
            prop_assert!(fit(&empty, spec.shape().mirror(), &slabs).is_ok());
        }
    }
}
