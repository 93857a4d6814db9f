//! A node of each rack leaves a cluster that serves, and is given back (`twinrack node remove`).
//!
//! ```text
//!   look ─► plan ─► (somebody confirms it) ─► volumes: virtual machines go, and volumes are handed over
//!    └ all that is in the way, at once         quorum: the ledger says that they leave, for good ─► they vote no more
//!                                              pool: copies are made elsewhere in their rack ─► drives leave the pool ─► each gives back what it has, and leaves the ledger
//!                                              network: links as they were found ─► verification of those that stay
//! ```
//! Purpose: [`look`] and [`plan`] say what would be done, [`remove`] does it.
//!
//! Invariants: nothing is changed before everything was looked at and nothing is in the way. What may fail for users' sake comes before the ledger says that they leave, which is never taken back. A node gives nothing back before the ledger that
//! it has read says that it has nothing and no vote (`control::leaving`); it is removed from the ledger only when it has none itself, so that it hears of all until then, or when it has left and does not answer: what it has then is nobody's. Each step is seen from what is there: whoever is killed is gone on with.
//!
//! On failure: [`DeploymentError`]; what was done stands, and the same command goes on.

mod plan;
#[cfg(test)]
pub(crate) mod tests;

pub use crate::destruction::Look;
pub use plan::{Plan, plan};

use crate::deployment::{DeploymentError, LEDGER_BOUND, make_copies, verification};
use crate::destruction::{self, leave};
use crate::pool::{self, NoHandOver, POLL, PoolError, chain, confirmed, settle};
use crate::recorder::{Recorder, Stage};
use crate::vms::{self, Drained};
use crate::{Cluster, DeployError, start_paths};
use api::{HandOverRequest, NodeLedger};
use control::state::{Phase, Volume};
use control::vm::Leftover;
use control::{ClusterCommand, Command, State};
use futures_util::future::join_all;
use model::{NodeId, NodeName, VolumeId};
use network::measure::Machines;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Looks. Nothing is changed. Of those who leave, one that has left needs not answer: it may be gone for good.
pub async fn look(cluster: &Cluster, pair: &BTreeSet<NodeName>) -> Result<Look, DeployError> {
    let (mut answers, mut silent) = (Vec::new(), BTreeMap::new());
    let all = join_all(cluster.members.iter().map(destruction::look_at)).await;
    for (member, answer) in cluster.members.iter().zip(all) {
        match answer {
            Ok(answer) => answers.push(answer),
            Err(error) => drop(silent.insert(member.name.clone(), error)),
        }
    }
    let look = destruction::of_answers(&cluster.without(&silent.keys().cloned().collect()), answers).await;
    let is_needed = |name: &NodeName| match &look.ledger {
        Some(Ok(state)) => !pair.contains(name) || !state.needs_none_of(name),
        _ => true,
    };
    match silent.into_iter().find(|(name, _)| is_needed(name)) {
        Some((_, error)) => Err(error.into()),
        None => Ok(look),
    }
}

/// How long one step may take: a virtual machine is copied while it runs, users of a volume are asked to end.
const STEP_BOUND: Duration = Duration::from_mins(2);

/// What a step found, and what it changed in words.
type Step<T> = Result<(T, Option<String>), DeploymentError>;

/// Carries a plan out, stage by stage, and writes everything down.
pub async fn remove(
    cluster: &Cluster,
    plan: &Plan,
    machines: Machines,
    recorder: &mut Recorder<'_>,
) -> Result<(), DeploymentError> {
    recorder.run_begins(None, plan.changes.iter().map(ToString::to_string).collect())?;
    let (pair, silent) = (&plan.pair, &plan.silent);
    let removal = Removal { cluster, pair, silent, stay: cluster.without(pair) };
    let result = removal.stages(plan, machines, recorder).await;
    recorder.run_ends(result)
}

struct Removal<'a> {
    cluster: &'a Cluster,
    /// Who leaves.
    pair: &'a BTreeSet<NodeName>,
    /// Those of them who have left, and do not answer.
    silent: &'a BTreeSet<NodeName>,
    /// The others.
    stay: Cluster,
}

impl Removal<'_> {
    async fn stages(
        &self,
        plan: &Plan,
        machines: Machines,
        recorder: &mut Recorder<'_>,
    ) -> Result<(), DeploymentError> {
        let names = self.names();
        if plan.is_member {
            recorder.begin(Stage::Volumes);
            recorder.step(format!("no virtual machine on {names}"), self.drain()).await?;
            self.hand_over(recorder).await?;
            recorder.begin(Stage::Quorum);
            recorder.step(format!("the ledger says that {names} leave"), self.says_so()).await?;
            recorder.step(format!("{names} without a vote, and not leading"), self.votes_no_more()).await?;
            recorder.begin(Stage::Pool);
            // A takeover may have given them one meanwhile.
            self.hand_over(recorder).await?;
            make_copies(self.cluster, &plan.drives, recorder).await?;
            recorder.step(format!("{names} have no drive in the pool"), self.have_no_drive()).await?;
            // That may have taken long.
            self.hand_over(recorder).await?;
            recorder.step("nobody greets them on the storage networks", self.greet_less()).await?;
            for member in self.cluster.members.iter().filter(|member| self.pair.contains(&member.name)) {
                let name = &member.name;
                if !self.silent.contains(name) {
                    recorder.step(format!("drives and ledger of {name}"), leave(member)).await?;
                }
                recorder.step(format!("{name} out of the ledger"), self.forget(name)).await?;
            }
        }
        recorder.begin(Stage::Network);
        let leave = self.cluster.only(&self.pair.difference(self.silent).cloned().collect());
        let notes = recorder.step(format!("links of {names}"), destruction::links(&leave)).await?;
        recorder.notes(notes);
        recorder.begin(Stage::Verification);
        recorder.step(format!("{names} as they were found"), self.is_as_found(plan)).await?;
        recorder.step("every check of `twinrack verify`", verification(&self.stay, machines)).await?;
        Ok(())
    }

    fn names(&self) -> String {
        self.pair.iter().map(NodeName::as_str).collect::<Vec<_>>().join(" and ")
    }

    /// Their ids, those of before included.
    fn ids(&self, state: &State) -> BTreeSet<NodeId> {
        state.nodes.iter().filter(|(_, node)| self.pair.contains(&node.name)).map(|(id, _)| *id).collect()
    }

    async fn said(&self) -> Result<State, PoolError> {
        confirmed(&self.cluster.members, LEDGER_BOUND).await.map(|(_, state)| state)
    }

    /// As an operator would: what can't go is in the way, unless it was said before that it is saved.
    async fn drain(&self) -> Step<()> {
        let state = self.said().await?;
        let nodes = present(&state, &self.ids(&state));
        let told = |node| state.vms.draining.get(node);
        let leftover = nodes.iter().filter_map(told).find(|leftover| **leftover == Leftover::Saved).copied();
        let is_new = nodes.iter().any(|node| told(node).is_none() || state.vms.is_on(*node));
        let (what, leftover) = (Drained::Nodes(nodes), leftover.unwrap_or(Leftover::Stays));
        let drained = vms::drain(&self.cluster.members, &what, leftover, STEP_BOUND, |_| {}).await;
        drained.map_err(DeployError::from)?;
        Ok(((), is_new.then(|| format!("{} take no virtual machines any more", self.names()))))
    }

    /// Has each volume that one of them owns opened by a node that stays, in the same rack if it can be.
    async fn hand_over(&self, recorder: &mut Recorder<'_>) -> Result<(), DeploymentError> {
        let deadline = Instant::now() + STEP_BOUND;
        loop {
            let state = self.said().await?;
            let Some((id, volume)) = owned(&state, &self.ids(&state)) else { return Ok(()) };
            let name = &volume.name;
            // It is being taken over, or opened.
            if matches!(volume.phase, Phase::Fencing { .. } | Phase::Opening { .. }) {
                if Instant::now() >= deadline {
                    let what = format!("volume {name} to be open");
                    let last = Some(pool::in_words(volume));
                    return Err(PoolError::Late { what, bound: STEP_BOUND, last }.into());
                }
                sleep(POLL).await;
                continue;
            }
            let step = async {
                let to = heir(&state, volume, &self.ids(&state)).ok_or(PoolError::NoNode)?;
                let request = HandOverRequest { volume: id, to, end_users: false };
                match pool::hand_over(&self.cluster.members, request, STEP_BOUND, |_| {}).await {
                    Ok(ready) => Ok::<_, PoolError>((
                        (),
                        Some(format!("volume {name} was handed over to {}", ready.owner)),
                    )),
                    // Who has it now is looked at.
                    Err(PoolError::NoHandOver(NoHandOver::GivenUp { .. })) if Instant::now() < deadline => {
                        Ok(((), None))
                    }
                    Err(error) => Err(error),
                }
            };
            recorder.step(format!("volume {name} at a node that stays"), step).await?;
        }
    }

    async fn says_so(&self) -> Step<()> {
        let (contact, state) = confirmed(&self.cluster.members, LEDGER_BOUND).await?;
        let nodes = present(&state, &self.ids(&state));
        let command = Command::Cluster(ClusterCommand::NodesLeave { nodes: nodes.clone() });
        let leave =
            |state: &State| nodes.iter().all(|node| state.leaves(*node) || !state.nodes.contains_key(node));
        let what = format!("{} to leave by the ledger", self.names());
        let is_new = settle(contact, &what, LEDGER_BOUND, &command, leave).await?;
        Ok(((), is_new.then(|| format!("the ledger says that {} leave", self.names()))))
    }

    /// The leader sees to that by itself; it may be one of them, and leads no more then.
    async fn votes_no_more(&self) -> Step<()> {
        let what = format!("{} to vote no more", self.names());
        self.until(what, |leader, state, ids| {
            if self.pair.contains(leader) {
                return Some(format!("{leader} leads yet"));
            }
            let voters: Vec<_> = ids.iter().filter(|id| state.may_vote(**id)).collect();
            (!voters.is_empty()).then(|| format!("{voters:?} vote yet"))
        })
        .await
    }

    async fn have_no_drive(&self) -> Step<()> {
        let state = self.said().await?;
        let ids = self.ids(&state);
        let left: Vec<_> = state.drives.iter().filter(|(_, drive)| ids.contains(&drive.node)).collect();
        if left.is_empty() {
            return Ok(((), None));
        }
        let what = "these drives are in the pool yet: they came there meanwhile, or have copies of volumes that are not open";
        let help = "give the command again; it says which volumes are not open";
        let wrong = left.iter().map(|(id, drive)| format!("{id}, drive {}", drive.serial)).collect();
        Err(DeploymentError::NotAsItHasToBe { what, wrong, help })
    }

    /// Who stays is told whom to greet; they would miss who is gone.
    async fn greet_less(&self) -> Step<()> {
        start_paths(&self.stay).await?;
        Ok(((), None))
    }

    /// It is no node of the ledger any more, and no member: nothing is sent to it.
    async fn forget(&self, name: &NodeName) -> Step<()> {
        let mut is_new = false;
        loop {
            let (contact, state) = confirmed(&self.stay.members, LEDGER_BOUND).await?;
            let named = |(id, node): (&NodeId, &control::state::Node)| (node.name == *name).then_some(*id);
            let Some(id) = state.nodes.iter().find_map(named) else { break };
            let remove = Command::Cluster(ClusterCommand::RemoveNode(id));
            let gone = |state: &State| !state.nodes.contains_key(&id);
            is_new |= settle(contact, &format!("{id} to be removed"), STEP_BOUND, &remove, gone).await?;
        }
        self.no_member(name).await?;
        Ok(((), is_new.then(|| format!("{name} is no node of the cluster any more"))))
    }

    /// The leader sees to that by itself.
    async fn no_member(&self, name: &NodeName) -> Result<(), PoolError> {
        let deadline = Instant::now() + STEP_BOUND;
        loop {
            let (contact, state) = confirmed(&self.stay.members, LEDGER_BOUND).await?;
            let last = match contact.client.ledger().await {
                Ok(NodeLedger::Open(open)) => {
                    let others: Vec<_> =
                        open.members.keys().filter(|id| !state.nodes.contains_key(id)).collect();
                    if others.is_empty() {
                        return Ok(());
                    }
                    format!("{others:?} are members yet")
                }
                Ok(_) => format!("{} has no open ledger", contact.name),
                Err(error) => chain(&error),
            };
            if Instant::now() >= deadline {
                let what = format!("the ledger's members to be without {name}");
                return Err(PoolError::Late { what, bound: STEP_BOUND, last: Some(last) });
            }
            sleep(POLL).await;
        }
    }

    async fn is_as_found(&self, plan: &Plan) -> Step<()> {
        let mut wrong = Vec::new();
        let look = look(self.cluster, self.pair).await?;
        let said = match &look.ledger {
            Some(Ok(state)) => state.clone(),
            _ => self.said().await?,
        };
        for name in self.pair.difference(self.silent) {
            match look.ledgers.get(name) {
                Some(NodeLedger::None {}) => {}
                Some(_) => wrong.push(format!("{name} has a ledger")),
                None => wrong.push(format!("{name} does not answer")),
            }
            let ops = look.ways.get(name).map(|way| &way.ops[..]).unwrap_or_default();
            wrong.extend(ops.iter().map(|op| format!("{name}: {op}")));
            let own = plan::drives_of_pool((&look, &said), name, &BTreeSet::new());
            let own = own.into_iter().filter(|serial| !plan.kept.contains(*serial));
            wrong.extend(own.map(|serial| format!("{name}: drive {serial} has this cluster's header")));
        }
        if wrong.is_empty() {
            return Ok(((), None));
        }
        let (what, help) =
            ("this is left", "give the command again; what is left after that, the agents' journals say");
        Err(DeploymentError::NotAsItHasToBe { what, wrong, help })
    }

    /// Until nothing is waited for; `waits` says what is, of the leader and their ids.
    async fn until(
        &self,
        what: String,
        waits: impl Fn(&NodeName, &State, &BTreeSet<NodeId>) -> Option<String>,
    ) -> Step<()> {
        let deadline = Instant::now() + STEP_BOUND;
        loop {
            let (leader, state) = confirmed(&self.cluster.members, LEDGER_BOUND).await?;
            let Some(last) = waits(&leader.name, &state, &self.ids(&state)) else { return Ok(((), None)) };
            if Instant::now() >= deadline {
                return Err(PoolError::Late { what, bound: STEP_BOUND, last: Some(last) }.into());
            }
            sleep(POLL).await;
        }
    }
}

/// Of several of one name the last is the present one.
fn present(state: &State, ids: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    ids.iter().copied().filter(|id| !state.is_replaced(*id)).collect()
}

/// A volume that one of them owns, and that is not closed.
fn owned<'a>(state: &'a State, ids: &BTreeSet<NodeId>) -> Option<(VolumeId, &'a Volume)> {
    let is_theirs = |volume: &Volume| ids.contains(&volume.owner) && volume.phase != Phase::Closed;
    state.volumes.iter().find(|(_, volume)| is_theirs(volume)).map(|(id, volume)| (*id, volume))
}

/// Who shall own a volume: a node of the owner's rack, one that has a good copy, the first.
fn heir(state: &State, volume: &Volume, leave: &BTreeSet<NodeId>) -> Option<NodeId> {
    let rack = |id: &NodeId| state.nodes.get(id).and_then(|node| node.zone.as_ref());
    let holders: BTreeSet<NodeId> = volume.in_sync().filter_map(|(_, leg)| state.node_of(leg)).collect();
    let stays = |id: &NodeId| {
        let node = state.nodes.get(id).filter(|node| node.zone.is_some() && !node.leaving);
        node.is_some_and(|node| node.boot.is_some()) && !leave.contains(id) && !state.is_replaced(*id)
    };
    let all = state.nodes.keys().copied().filter(stays);
    all.min_by_key(|id| (rack(id) != rack(&volume.owner), !holders.contains(id), *id))
}
