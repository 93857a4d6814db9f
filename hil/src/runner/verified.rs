//! Whether a cluster that was deployed is what its template asks for.
//!
//! Purpose: a deployment ends with every check of `twinrack verify`. Here the harness asks for them itself, when the deployment has ended, and compares what no check can know, which has no template: which node is in
//! which zone, whose drives are in the pool, which volumes there are.
//!
//! Invariants: what was found is told check by check, and each volume with where its copies are.
//!
//! On failure: each check that does not hold, and each difference, is a sentence of a step that does not hold.

use super::{Runner, Seen};
use control::State;
use deploy::pool::newest;
use deploy::verify::{Check, facts, verify};
use model::{ClusterSpec, ConfigurationMode, DriveSerial, Mirror, NodeName, ZoneName};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often the members are asked: an answer of everything costs an emulated node some tens of milliseconds.
const SELDOM: Duration = Duration::from_millis(250);

/// The data drives of each node.
type Drives = BTreeMap<NodeName, BTreeSet<DriveSerial>>;

impl Runner<'_> {
    /// Within a bound everything holds at one moment.
    pub(super) async fn verifies(&self, bound: Duration) -> Seen {
        let begun = Instant::now();
        let machines = self.lab.machines();
        let holding = self.lab.nodes().iter().filter(|(_, node)| node.holds_data());
        let drives: Drives = holding.map(|(name, node)| (name.clone(), node.data_drives())).collect();
        loop {
            let facts = facts(&self.cluster.members).await;
            let checks = verify(&facts);
            let judged = checks.iter().filter(|check| check.is_judged(machines));
            let mut wrong: Vec<String> = judged
                .flat_map(|check| check.wrong.iter().map(|wrong| format!("{}: {wrong}", check.id)))
                .collect();
            let state = newest(&facts.views).map(|view| &view.state);
            wrong.extend(state.into_iter().flat_map(|state| otherwise(&self.cluster.spec, &drives, state)));
            if wrong.is_empty() || begun.elapsed() >= bound {
                let told = checks.iter().map(found);
                return Seen::unless(&wrong, told.collect::<Vec<_>>().join("\n"));
            }
            sleep(SELDOM).await;
        }
    }
}

/// What a check found, if it holds or is not judged.
fn found(check: &Check) -> String {
    let not = if check.holds() { "" } else { " (does not hold, and is not judged on emulated machines)" };
    [&[format!("{}: {}{not}", check.id, check.found)][..], &check.each].concat().join("\n  ")
}

/// The volumes that the configuration asks for (spec.md, "Shapes").
fn volumes_asked(spec: &ClusterSpec) -> BTreeMap<String, Mirror> {
    let workloads = match spec.configuration {
        ConfigurationMode::KeepStorage => return BTreeMap::new(),
        ConfigurationMode::InfraOnly => 0,
        ConfigurationMode::Express => spec.nodes().count(),
    };
    let names = (1..=workloads).map(|number| format!("workload-{number}"));
    names.chain(["infrastructure".to_owned()]).map(|name| (name, spec.shape().mirror())).collect()
}

/// What the ledger has otherwise than the template asks for, and the lab has.
fn otherwise(spec: &ClusterSpec, drives: &Drives, state: &State) -> Vec<String> {
    // Of several of one name the last is the present one: a node that lost its ledger has another id.
    let nodes: BTreeMap<&NodeName, Option<&ZoneName>> =
        state.nodes.values().map(|node| (&node.name, node.zone.as_ref())).collect();
    let asked = spec.nodes().map(|(zone, node)| (&node.name, Some(&zone.name)));
    let asked: BTreeMap<_, _> = asked.chain([(&spec.witness.name, None)]).collect();
    let mut pool = Drives::new();
    for drive in state.drives.values() {
        if let Some(node) = state.nodes.get(&drive.node) {
            pool.entry(node.name.clone()).or_default().insert(drive.serial.clone());
        }
    }
    let volumes: BTreeMap<String, Mirror> =
        state.volumes.values().map(|volume| (volume.name.to_string(), volume.mirror)).collect();
    let mut wrong = differences("node", &nodes, &asked, |zone| {
        zone.map_or("no zone".to_owned(), |zone| format!("zone {zone}"))
    });
    let serials =
        |all: &BTreeSet<DriveSerial>| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    wrong.extend(differences("drives of", &pool, drives, serials));
    let copies = |mirror: &Mirror| format!("{} copies", mirror.legs());
    wrong.extend(differences("volume", &volumes, &volumes_asked(spec), copies));
    wrong
}

/// Each thing that is there otherwise than asked for, not there, or there unasked.
fn differences<K: Ord + Display, V: PartialEq>(
    kind: &str,
    there: &BTreeMap<K, V>,
    asked: &BTreeMap<K, V>,
    in_words: impl Fn(&V) -> String,
) -> Vec<String> {
    let words = |found: Option<&V>| found.map_or("nothing".to_owned(), &in_words);
    let names: BTreeSet<&K> = there.keys().chain(asked.keys()).collect();
    let other = names.into_iter().filter(|name| there.get(name) != asked.get(name));
    other
        .map(|name| {
            let (is, should) = (words(there.get(name)), words(asked.get(name)));
            format!("{kind} {name}: the ledger has {is}, asked for is {should}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::state::{Cache, Settings};
    use control::{ClusterCommand, Command};
    use model::{NodeId, PowerCycles, Provision};

    fn spec() -> ClusterSpec {
        let path = format!("{}/templates/1+1.toml", env!("CARGO_MANIFEST_DIR"));
        let source = template::Source::new("1+1".to_owned(), std::fs::read_to_string(path).unwrap());
        template::read(&source, &template::ReadOptions::default()).unwrap().spec.unwrap()
    }

    /// A node in each rack with a drive, the witness, and the volumes of the configuration.
    fn deployed(spec: &ClusterSpec) -> (Drives, State) {
        let (mut drives, mut state) = (Drives::new(), State::new(Settings::default()));
        let add = |state: &mut State, command| drop(state.apply(&Command::Cluster(command)).unwrap());
        for (number, (zone, node)) in (1..).zip(spec.nodes()) {
            let (name, serial): (_, DriveSerial) = (node.name.clone(), format!("S{number}").parse().unwrap());
            drives.insert(name.clone(), BTreeSet::from([serial.clone()]));
            add(&mut state, ClusterCommand::AddNode { name, zone: Some(zone.name.clone()) });
            let (node, size_bytes, cache) = (NodeId(number), 8 << 30, Cache::Safe);
            let power_cycles = PowerCycles(1);
            add(&mut state, ClusterCommand::AddDrive { node, serial, size_bytes, cache, power_cycles });
            let boot = model::BootId(number.into());
            let attached = BTreeMap::from([(model::DriveId(number), power_cycles)]);
            add(&mut state, ClusterCommand::Register { node, was: None, boot, drives: attached });
        }
        add(&mut state, ClusterCommand::AddNode { name: spec.witness.name.clone(), zone: None });
        for (name, mirror) in volumes_asked(spec) {
            add(
                &mut state,
                ClusterCommand::CreateVolume {
                    name: name.parse().unwrap(),
                    mirror,
                    provision: Provision::Fixed,
                    size_bytes: 1 << 28,
                    drives: vec![model::DriveId(1), model::DriveId(2)],
                    owner: NodeId(1),
                },
            );
        }
        (drives, state)
    }

    #[test]
    fn what_was_deployed_as_asked_is_not_otherwise_and_each_difference_is_told() {
        let spec = spec();
        let (drives, clean) = deployed(&spec);
        assert_eq!(otherwise(&spec, &drives, &clean), Vec::<String>::new());
        let told = |change: &dyn Fn(&mut State)| {
            let mut state = clean.clone();
            change(&mut state);
            otherwise(&spec, &drives, &state)
        };
        let only = |wrong: Vec<String>, what: &str| {
            assert!(wrong.len() == 1 && wrong[0].contains(what), "{what}: {wrong:?}");
        };
        let zones = |state: &mut State| {
            let zone = state.nodes[&NodeId(1)].zone.clone();
            state.nodes.get_mut(&NodeId(2)).unwrap().zone = zone;
        };
        only(told(&zones), "node b1: the ledger has zone rack-a, asked for is zone rack-b");
        only(
            told(&|state| drop(state.drives.pop_last())),
            "drives of b1: the ledger has nothing, asked for is S2",
        );
        only(told(&|state| drop(state.volumes.pop_last())), "volume workload-2: the ledger has nothing");
        only(
            told(&|state| state.volumes.values_mut().next().unwrap().mirror = Mirror::FourWay),
            "volume infrastructure: the ledger has 4 copies, asked for is 2 copies",
        );
        let in_a_rack = |state: &mut State| {
            state.nodes.get_mut(&NodeId(3)).unwrap().zone = Some("rack-a".parse().unwrap());
        };
        only(told(&in_a_rack), "node witness: the ledger has zone rack-a, asked for is no zone");
        let strange = |state: &mut State| state.drives.values_mut().next().unwrap().node = NodeId(2);
        assert_eq!(told(&strange).len(), 2, "one node has too many drives, the other too few");
    }

    #[test]
    fn a_configuration_has_its_volumes() {
        let of = |configuration| volumes_asked(&ClusterSpec { configuration, ..spec() }).len();
        assert_eq!(
            [3, 1, 0],
            [
                of(ConfigurationMode::Express),
                of(ConfigurationMode::InfraOnly),
                of(ConfigurationMode::KeepStorage)
            ]
        );
    }
}
