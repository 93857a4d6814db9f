//! A cluster that gets one node more in each rack (`twinrack node add`): what is in the way of that, and how its copies are spread then. Pure, but for [`spread`], which asks for it.
//!
//! ```text
//!   the template of the larger cluster ─► the stages of a deployment, of which those who are there need nothing ─► copies: two-way volumes of 1+1 become four-way, then what nodes have is evened out
//! ```
//! Invariants: racks stay of one size: a node comes with one in the other rack, and never two at a time, so that what is in the middle is known. Nothing of the nodes that are there is changed but where copies lie. Each
//! change of copies is decided anew from what the ledger says: whoever is interrupted is gone on with.
//!
//! On failure: [`InTheWay`] before anything is changed; then [`PoolError`], and what was done stands.

use super::express::{self, PoolDrive};
use super::plan::{Change, Fate, InTheWay, Wishes};
use crate::Cluster;
use crate::pool::{self, CantWiden, POLL, Patience, PoolError, Widening, chain, next_of_widening};
use crate::recorder::{Recorder, Stage};
use control::State;
use control::rebalance::{self, Next, Wait};
use control::state::{Phase, Volume};
use model::{Mirror, NodeName, SLAB_BYTES, VolumeId, VolumeName, ZoneName};
use placement::LegMove;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long the ledger may take to say what it says.
pub(crate) const LEDGER_BOUND: Duration = Duration::from_secs(30);
/// How long a change of copies may take besides the copying.
const SPREAD_BOUND: Duration = Duration::from_mins(3);

/// What the rack sizes of a ledger and of a template say about a growth between them.
pub(super) fn may_grow(cluster: &Cluster, ledger: Option<&State>, way: &mut InTheWay) {
    let Some(ledger) = ledger else {
        let help = "`twinrack deploy` makes a cluster; `twinrack node add` makes one larger";
        // Why it says nothing, if there is one, has been told.
        if way.is_nothing() {
            way.others.push(("no node has a ledger: there is no cluster to add nodes to".to_owned(), help));
        }
        return;
    };
    let is_there =
        |name: &NodeName| ledger.nodes.values().any(|node| node.name == *name && node.boot.is_some());
    let mut there: BTreeMap<&ZoneName, usize> = BTreeMap::new();
    for (zone, node) in cluster.spec.nodes() {
        *there.entry(&zone.name).or_default() += usize::from(is_there(&node.name));
    }
    let asked = cluster.spec.shape().nodes_per_zone();
    for (zone, count) in there {
        if asked.saturating_sub(count) > 1 {
            let what = format!("{} nodes would be added to rack {zone} at once", asked - count);
            way.others
                .push((what, "add one node to each rack at a time: give a template with that many first"));
        }
    }
}

/// Leaves the drives of nodes that serve out: what is added to those is an operator's to say, drive by drive. A node serves that has copies; one that was just added, and is gone on with, has none.
pub(super) fn only_new(fates: &mut Vec<Fate>, ledger: &State, wishes: &Wishes, way: &mut InTheWay) {
    let nodes =
        ledger.volumes.values().flat_map(|volume| volume.legs.values()).filter_map(|leg| ledger.node_of(leg));
    let serving: BTreeSet<&NodeName> =
        nodes.filter_map(|node| ledger.nodes.get(&node)).map(|node| &node.name).collect();
    let stays = |fate: &Fate| !fate.is_ours && serving.contains(&fate.node);
    for fate in fates.iter().filter(|fate| stays(fate) && wishes.wipe.contains(&fate.drive.serial)) {
        let what = format!("drive {} is in {}, which is no new node", fate.drive.serial, fate.node);
        way.others.push((what, "`twinrack drive add --wipe` takes a drive into a node that serves"));
    }
    fates.retain(|fate| !stays(fate));
}

/// The ledger as it will be with the new nodes, their drives and the copies that will be made; that they have no room is in the way.
pub(super) fn imagined(
    cluster: &Cluster,
    ledger: &State,
    drives: &BTreeMap<NodeName, Vec<PoolDrive>>,
    way: &mut InTheWay,
) -> Option<State> {
    let help = "give the new nodes drives as large, and as many, as the others have";
    let mut state = match express::imagined(&cluster.spec, drives, Some(ledger)) {
        Ok(state) => state,
        Err(error) => {
            way.others.push((error.to_string(), help));
            return None;
        }
    };
    for (id, name) in to_widen(cluster, ledger) {
        match next_of_widening(&state, id) {
            Ok(Widening::Ask { command, .. }) => drop(state.apply(&command)),
            Ok(_) | Err(CantWiden::NotOpen { .. }) => {}
            Err(error) => way.others.push((format!("volume {name}: {}", chain(&error)), help)),
        }
    }
    Some(state)
}

/// Two-way volumes that get two copies more, as the larger cluster's shape has four, and those that are getting them; nothing if it has not.
pub(super) fn to_widen(cluster: &Cluster, ledger: &State) -> BTreeMap<VolumeId, VolumeName> {
    let is_meant = cluster.spec.shape().mirror() == Mirror::FourWay;
    let lacks = |(_, volume): &(&VolumeId, &Volume)| {
        let is_added = volume.legs.values().any(|leg| !leg.held_all && leg.replaces.is_none());
        is_meant && (volume.mirror == Mirror::TwoWay || is_added)
    };
    ledger.volumes.iter().filter(lacks).map(|(id, volume)| (*id, volume.name.clone())).collect()
}

/// What is changed about copies, as far as that is known before nodes are added.
pub(super) fn changes(cluster: &Cluster, ledger: &State, imagined: &State) -> Vec<Change> {
    let of = |name: &VolumeName| name.to_string();
    let what = || "make two copies more, one in each rack".to_owned();
    let change = |name| Change { stage: Stage::Volumes, of: of(name), what: what(), takes: false };
    let mut changes: Vec<Change> = to_widen(cluster, ledger).values().map(change).collect();
    let moves = rebalance::plan(imagined).moves;
    if !moves.is_empty() {
        let (count, mib) =
            (moves.len(), (moves.iter().map(|step| step.slabs).sum::<u64>() * SLAB_BYTES) >> 20);
        let (stage, of) = (Stage::Volumes, cluster.spec.name.to_string());
        let what = format!("even copies out: move {count} of them, {mib} MiB");
        changes.push(Change { stage, of, what, takes: false });
    }
    changes
}

/// Spreads copies over the nodes that are there now, one change after the other, while volumes are used.
pub(super) async fn spread(cluster: &Cluster, recorder: &mut Recorder<'_>) -> Result<(), PoolError> {
    let members = &cluster.members;
    let (_, state) = pool::confirmed(members, LEDGER_BOUND).await?;
    for (id, name) in to_widen(cluster, &state) {
        let Some(volume) = state.volumes.get(&id) else { continue };
        if is_closed(volume) {
            recorder.note(format!(
                "volume {name} is not open, and keeps two copies; `twinrack volume widen {name}` makes two more"
            ));
            continue;
        }
        let patience = copy_patience(&state, volume);
        let step = async {
            let is_new = pool::widen(members, id, patience, |_| {}).await?;
            Ok::<_, PoolError>(((), is_new.then(|| format!("volume {name} has four copies"))))
        };
        recorder.step(format!("two copies more of volume {name}"), step).await?;
    }
    even_out(cluster, recorder).await
}

/// Moves copies to nodes that have less than their share, one after the other, until there is nothing to gain. What the whole of it moves, beside what any plan must, is told.
async fn even_out(cluster: &Cluster, recorder: &mut Recorder<'_>) -> Result<(), PoolError> {
    let members = &cluster.members;
    let (_, state) = pool::confirmed(members, LEDGER_BOUND).await?;
    let all = rebalance::plan(&state);
    if !all.moves.is_empty() {
        recorder.note(all.to_string());
    }
    let (mut deadline, mut moved_slabs) = (Instant::now() + SPREAD_BOUND, 0);
    loop {
        let (_, state) = pool::confirmed(members, LEDGER_BOUND).await?;
        match rebalance::next(&state, |_| true) {
            Next::Done => break,
            Next::Moves(LegMove { volume, from, to, slabs, .. }) => {
                let Some(found) = state.volumes.get(&volume) else { continue };
                let (name, patience) = (found.name.clone(), copy_patience(&state, found));
                let step = async {
                    pool::move_copy(members, volume, (from, Some(to)), patience).await?;
                    let did = format!("a copy of volume {name} went from {from} to {to}: {slabs} slabs");
                    Ok::<_, PoolError>(((), Some(did)))
                };
                recorder.step(format!("a copy of volume {name} from {from} to {to}"), step).await?;
                (deadline, moved_slabs) = (Instant::now() + SPREAD_BOUND, moved_slabs + slabs);
            }
            Next::Waits(wait) if Instant::now() < deadline => {
                // It is closed: nothing here opens it.
                if let Wait::NotOpen(volume) = wait
                    && state.volumes.get(&volume).is_some_and(is_closed)
                {
                    recorder.note(format!("copies are not evened out further: {wait}"));
                    break;
                }
                sleep(POLL).await;
            }
            Next::Waits(wait) => {
                let what = "copies to be evened out".to_owned();
                return Err(PoolError::Late { what, bound: SPREAD_BOUND, last: Some(wait.to_string()) });
            }
        }
    }
    if moved_slabs > 0 {
        let mib = |slabs: u64| (slabs * SLAB_BYTES) >> 20;
        recorder.note(format!(
            "{} MiB of copies were moved; any way to the same must move {} MiB",
            mib(moved_slabs),
            mib(all.bound_slabs())
        ));
    }
    Ok(())
}

pub(crate) fn is_closed(volume: &Volume) -> bool {
    matches!(volume.phase, Phase::Closed | Phase::Offline)
}

/// A copy is waited for as long as it goes on. Where it begins nothing is told of it (its place is made blank, it waits for its turn): as long as it would take at the least rate that the ledger has for it, twice over.
pub(super) fn copy_patience(state: &State, volume: &Volume) -> Patience {
    let mib_s = u64::from(state.settings.rebuild.min_mib_s).max(1);
    Patience::while_it_goes_on(SPREAD_BOUND + Duration::from_secs(2 * (volume.array_bytes() >> 20) / mib_s))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::tests::{blank, cluster_of, done, ledger, planned, spec_of};
    use super::super::{Aim, Look, Plan, Wishes, plan};
    use super::*;
    use api::NodeLedger;
    use model::ClusterSpec;
    use network::measure::Machines;

    pub(crate) const TWO: &str = include_str!("../../../../hil/templates/2+2.toml");
    pub(crate) const THREE: &str = include_str!("../../../../hil/templates/3+3.toml");

    /// The same cluster with so many of each rack's nodes; ordinals stay.
    fn smaller(mut spec: ClusterSpec, nodes: usize) -> ClusterSpec {
        spec.zones.iter_mut().for_each(|zone| zone.nodes.truncate(nodes));
        spec
    }

    /// What is seen of a larger cluster when its first nodes are deployed and the others are blank.
    pub(crate) fn deployed(larger: &Cluster, nodes: usize) -> Look {
        let small = cluster_of(smaller(larger.spec.clone(), nodes));
        let first = planned(&small, &blank(&small), &[]).unwrap();
        let (there, mut look) = (done(&small, &first), blank(larger));
        let is_there = |name: &NodeName| small.members.iter().any(|member| member.name == *name);
        look.ledgers.extend(there.ledgers);
        look.contents.extend(there.contents);
        for (node, ops) in look.links.as_mut().unwrap() {
            if is_there(node) {
                ops.clear();
            }
        }
        look.ledger = there.ledger;
        for volume in ledger(&mut look).volumes.values_mut() {
            volume.phase = Phase::Open { boot: model::BootId(1) };
        }
        look
    }

    fn grown(cluster: &Cluster, look: &Look) -> Result<Plan, InTheWay> {
        plan(cluster, look, &Wishes { aim: Aim::Grow, ..Wishes::default() }, Machines::Real)
    }

    pub(in crate::deployment) fn said(plan: &Plan) -> String {
        let lines = plan.changes.iter().map(|change| format!("{} {change}", change.stage));
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_node_is_added_to_each_rack_and_volumes_get_two_copies_more() {
        let cluster = cluster_of(spec_of(TWO));
        let look = deployed(&cluster, 1);
        insta::assert_snapshot!(said(&grown(&cluster, &look).unwrap()));
        let unasked = planned(&cluster, &look, &[]).unwrap_err().to_string();
        assert!(unasked.contains("`twinrack node add`"), "{unasked}");
    }

    #[test]
    fn one_that_was_interrupted_goes_on_with_what_is_left() {
        let cluster = cluster_of(spec_of(TWO));
        let mut look = deployed(&cluster, 1);
        // One of the two has joined, and the ledger has been asked for its place.
        let zone = Some(cluster.spec.zones[0].name.clone());
        let add = control::ClusterCommand::AddNode { name: "a2".parse().unwrap(), zone };
        ledger(&mut look).apply(&control::Command::Cluster(add)).unwrap();
        let changes = said(&grown(&cluster, &look).unwrap());
        assert!(
            changes.contains("a2: join the ledger") && changes.contains("b2: join the ledger"),
            "{changes}"
        );
    }

    #[test]
    fn what_would_not_be_one_more_in_each_rack_is_in_the_way() {
        let three = cluster_of(spec_of(THREE));
        let refused = grown(&three, &deployed(&three, 1)).unwrap_err().to_string();
        assert!(refused.contains("2 nodes would be added to rack rack-a at once"), "{refused}");
        let refused = grown(&three, &blank(&three)).unwrap_err().to_string();
        assert!(refused.contains("there is no cluster to add nodes to"), "{refused}");
        // A node that was there and lost its ledger is none that is added.
        let mut lost = deployed(&three, 2);
        lost.ledgers.insert("b1".parse().unwrap(), NodeLedger::None {});
        let refused = grown(&three, &lost).unwrap_err().to_string();
        assert!(refused.contains("b1 is in the ledger, and has none itself"), "{refused}");
    }

    #[test]
    fn four_way_volumes_keep_their_copies() {
        let three = cluster_of(spec_of(THREE));
        let plan = grown(&three, &deployed(&three, 2)).unwrap();
        assert!(
            plan.changes.iter().all(|change| !change.what.contains("two copies more")),
            "{:?}",
            plan.changes
        );
    }
}
