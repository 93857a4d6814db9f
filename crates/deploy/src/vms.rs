//! Virtual machines, as an operator asks for them: made, started, stopped, placed, deleted; nodes in maintenance.
//!
//! ```text
//!   what the ledger says, by the word of a quorum ─► is it possible? (`control::vm::placing`) ─► a word in the ledger ─► waited for
//! ```
//! The steps between a word and what comes of it are the ledger's leader's and the nodes' (`control::vm`): here they are only watched.
//!
//! Invariants: nothing is made, or placed, that would not run with a rack lost, and no node is emptied of what can go nowhere, unless that was said to be saved. What
//! is so already is let alone: every command can be given again.
//!
//! On failure: [`VmsError`]; what the ledger took stands.

mod console;
mod image;
mod migrate;
mod networks;
mod saved;
mod told;

pub use console::{Heard, hear};
pub use image::{NotWritten, write};
pub use migrate::{NotMoved, begin_migration, cancel_migration, migrate};
pub use networks::{NotConnected, compute_vlans, nics};
pub use saved::{NotSaved, create_with_memory, goes_on, has_gone_on};
pub use told::{
    memory_lost_in_words, phase_in_words, placement_in_words, reasons_in_words, wanted_in_words, why_not,
    why_not_saved_in_words,
};

use crate::Member;
use crate::pool::{self, POLL, PoolError, confirmed, settle};
use api::ClusterView;
use control::vm::{Leftover, Vm, VmPhase, VmsCommand, Wanted, placing};
use control::{Command, State};
use model::{NodeId, NodeName, VmId, VmName, VmPlacement, VmSpec, ZoneName};
pub use placement::vm::Drained;
use placement::vm::{Drain, NotAdmitted, NotDrained, Plan};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Something about virtual machines could not be done.
#[derive(Debug, thiserror::Error)]
pub enum VmsError {
    /// The ledger could not be asked, or did not come to it in time.
    #[error(transparent)]
    Ledger(#[from] PoolError),
    /// It would not run, or something that runs would not, with a rack lost; or it is another's.
    #[error("{name}, which would be {id}, is not made")]
    NotAdmitted {
        /// Its name.
        name: VmName,
        /// The id that it would have.
        id: VmId,
        /// What is missing.
        #[source]
        why: NotAdmitted,
    },
    /// It would not run where it shall, or something else would not, with a rack lost or with none.
    #[error("the placement of {id} stays as it is")]
    NotPlaced {
        /// Which.
        id: VmId,
        /// What is missing.
        #[source]
        why: NotAdmitted,
    },
    /// Nothing boots without.
    #[error("a virtual machine needs at least one volume")]
    NoVolume,
    /// One of that name is another one.
    #[error("there is a virtual machine {name} already, {id}, and it is another one")]
    Another {
        /// Its name.
        name: VmName,
        /// Its id.
        id: VmId,
    },
    /// There is none.
    #[error("there is no {0}")]
    NoVm(VmId),
    /// There is no such zone.
    #[error("there is no zone {0}")]
    NoZone(ZoneName),
    /// It runs, or may still run somewhere.
    #[error("{id} is {phase}")]
    NotOff {
        /// Which.
        id: VmId,
        /// What it is doing.
        phase: String,
    },
    /// What is saved of it would be forgotten.
    #[error("{0} is saved")]
    HoldsMemory(VmId),
    /// These can't leave.
    #[error("it can't be emptied")]
    NotDrained(#[source] NotDrained),
    /// It can't go on on that node.
    #[error("{id} is not moved")]
    NotMoved {
        /// Which.
        id: VmId,
        /// Why.
        #[source]
        why: NotMoved,
    },
    /// Its memory can't be saved, or was not.
    #[error("{id} is not saved")]
    NotSaved {
        /// Which.
        id: VmId,
        /// Why.
        #[source]
        why: NotSaved,
    },
    /// Its memory could not be saved.
    #[error("{name} is not made: it could not be saved")]
    NotSavable {
        /// Its name.
        name: VmName,
        /// Why.
        #[source]
        why: NotSaved,
    },
    /// Nobody would be left to run anything.
    #[error("all nodes of the cluster would be in maintenance")]
    NobodyLeft,
    /// Nobody was told how to ask the node where it is.
    #[error("there is no way to {node}, where {id} is")]
    NoWay {
        /// Which.
        id: VmId,
        /// The node's name.
        node: String,
    },
    /// What it said can't be read.
    #[error("the console of {id} can't be read")]
    Console {
        /// Which.
        id: VmId,
        /// Why.
        #[source]
        source: Box<api::ClientError>,
    },
    /// An image is not written.
    #[error("the image is not written")]
    Image(#[from] NotWritten),
    /// Its NICs can't be where they shall be.
    #[error("its NICs can't be connected")]
    NotConnected(#[from] NotConnected),
}

impl VmsError {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Ledger(error) => error.help(),
            Self::NotAdmitted { why: NotAdmitted::Capacity(_), .. } => {
                "make it smaller, or less strict, or delete others; `twinrack node list` shows what nodes have"
            }
            Self::NotPlaced { .. } => {
                "leave it less strict, or delete others or make them less strict; `twinrack node list` shows what nodes have"
            }
            Self::NotAdmitted { why: NotAdmitted::NotTwoRacks(_), .. } => {
                "let a node of the other rack join first"
            }
            Self::NotAdmitted { .. } | Self::Another { .. } => {
                "`twinrack vm list` and `twinrack volume list` show what there is, and whose it is"
            }
            Self::NoVolume => "make one first: `twinrack volume create`",
            Self::NoVm(_) => "`twinrack vm list` shows names and ids",
            Self::NotOff { .. } => "stop it first: `twinrack vm stop`",
            Self::HoldsMemory(_) => "stop it first, which gives its memory up: `twinrack vm stop`",
            Self::NotDrained(NotDrained::InTheWay(_)) => {
                "what would help stands with each; with `--save` those are saved that were made with `--can-be-saved`; nothing was moved"
            }
            Self::NotDrained(_) | Self::NoZone(_) => "`twinrack node list` shows the nodes and their zones",
            Self::NotMoved { why: NotMoved::OutsideZone(_) | NotMoved::WouldGoHome, .. } => {
                "give it another home first: `twinrack vm set-placement`"
            }
            Self::NotMoved {
                why:
                    NotMoved::NotRunning(_)
                    | NotMoved::GivenUp(_)
                    | NotMoved::NotMoving(_)
                    | NotMoved::HasMoved(_),
                ..
            } => "`twinrack vm show` says what it is doing",
            Self::NotMoved { .. } => "`twinrack node list` shows the nodes, and which are in maintenance",
            Self::NotSaved { why, .. } | Self::NotSavable { why, .. } => why.help(),
            Self::NobodyLeft => "end the maintenance of others first: `twinrack node end-drain`",
            Self::NoWay { .. } => "name the node's agent in the access file",
            Self::Console { .. } => "see that the node runs and that its agent does",
            Self::Image(why) => why.help(),
            Self::NotConnected(why) => why.help(),
        }
    }
}

const NOBODY_LEADS: &str = "nobody leads by the word of a quorum";

/// Where everything shall run, and why what does not can't, seen from here: nodes that answer and have a lease count as live. (The leader's word may be another
/// for a second: it knows who was heard lately.)
pub fn planned(state: &State, views: &[(NodeName, ClusterView)]) -> Plan {
    let live = |id| is_live(views, id);
    placement::vm::plan(&placing::cluster(state, live), &placing::vms(state))
}

fn is_live(views: &[(NodeName, ClusterView)], id: NodeId) -> bool {
    views.iter().any(|(_, view)| view.node == id && view.leased)
}

/// Makes one, which is wanted stopped. One that is there and is what is asked for is let alone.
pub async fn create(members: &[Member], spec: &VmSpec, bound: Duration) -> Result<VmId, VmsError> {
    let (contact, state) = confirmed(members, bound).await?;
    if let Some(id) = to_make(&state, spec)? {
        return Ok(id);
    }
    if !spec.nics.is_empty() {
        networks::may_be(&spec.nics, &compute_vlans(members).await)?;
    }
    let command = Command::Vms(VmsCommand::Create(Box::new(spec.clone())));
    let what = format!("{} in the ledger", spec.name);
    settle(contact, &what, bound, &command, |state| named(state, &spec.name).is_some()).await?;
    let (_, state) = confirmed(members, bound).await?;
    // Somebody else may have made one of that name meanwhile.
    to_make(&state, spec)?
        .ok_or_else(|| PoolError::Late { what, bound, last: Some("it was deleted again".to_owned()) }.into())
}

/// The one that is what is asked for; `None`: it may be made. Pure.
fn to_make(state: &State, spec: &VmSpec) -> Result<Option<VmId>, VmsError> {
    if spec.disks().next().is_none() {
        return Err(VmsError::NoVolume);
    }
    let name = spec.name.clone();
    match named(state, &spec.name) {
        Some((id, found)) if found.spec == *spec => Ok(Some(id)),
        Some((id, _)) => Err(VmsError::Another { name, id }),
        None => {
            let id = state.vms.minted.next();
            saved::has_room(state, spec).map_err(|why| VmsError::NotSavable { name: name.clone(), why })?;
            placing::admit(state, spec).map_err(|why| VmsError::NotAdmitted { name, id, why })?;
            Ok(None)
        }
    }
}

fn named<'a>(state: &'a State, name: &VmName) -> Option<(VmId, &'a Vm)> {
    state.vms.all.iter().find(|(_, vm)| vm.spec.name == *name).map(|(id, vm)| (*id, vm))
}

/// Says what is wanted of one, and waits for nothing but the ledger.
pub async fn say(members: &[Member], id: VmId, wanted: Wanted, bound: Duration) -> Result<(), VmsError> {
    let (contact, state) = confirmed(members, bound).await?;
    let vm = state.vms.all.get(&id).ok_or(VmsError::NoVm(id))?;
    if wanted == Wanted::Saved && !is_so(vm, wanted) {
        saved::may_be_saved(&state, vm).map_err(|why| VmsError::NotSaved { id, why })?;
    }
    if vm.wanted != wanted {
        let what = format!("{id} to be wanted {}", wanted_in_words(wanted));
        let is_wanted = |state: &State| state.vms.all.get(&id).is_none_or(|vm| vm.wanted == wanted);
        settle(contact, &what, bound, &Command::Vms(VmsCommand::Want(id, wanted)), is_wanted).await?;
    }
    Ok(())
}

/// Says what is wanted of one, and waits until it is so. `told` hears what is waited for, when that changes.
pub async fn want(
    members: &[Member],
    id: VmId,
    wanted: Wanted,
    bound: Duration,
    told: impl FnMut(&str),
) -> Result<(), VmsError> {
    let deadline = Instant::now() + bound;
    say(members, id, wanted, bound).await?;
    let what = format!("{id} to be {}", wanted_in_words(wanted));
    watch(members, (what, bound, deadline), told, |state, views| {
        let vm = state.vms.all.get(&id).ok_or(VmsError::NoVm(id))?;
        if is_so(vm, wanted) {
            return Ok(None);
        }
        if wanted == Wanted::Saved {
            saved::is_being_saved(state, vm).map_err(|why| VmsError::NotSaved { id, why })?;
        }
        Ok(Some(waits_for(state, views, id, vm)))
    })
    .await
}

/// Looks, by the word of a quorum, until nothing is waited for any more. `waits` says what is, in words; `told` hears that when it changes.
async fn watch(
    members: &[Member],
    (what, bound, deadline): (String, Duration, Instant),
    mut told: impl FnMut(&str),
    waits: impl Fn(&State, &[(NodeName, ClusterView)]) -> Result<Option<String>, VmsError>,
) -> Result<(), VmsError> {
    let mut last = String::new();
    loop {
        let views = pool::views(members).await;
        let now = match pool::newest(&views) {
            None => NOBODY_LEADS.to_owned(),
            Some(view) => match waits(&view.state, &views)? {
                None => return Ok(()),
                Some(now) => now,
            },
        };
        if now != last {
            told(&now);
            last = now;
        }
        if Instant::now() >= deadline {
            return Err(PoolError::Late { what, bound, last: Some(last) }.into());
        }
        sleep(POLL).await;
    }
}

/// Whether what is wanted is so. One that migrates runs.
fn is_so(vm: &Vm, wanted: Wanted) -> bool {
    match wanted {
        Wanted::Running => matches!(vm.phase, VmPhase::Running { .. } | VmPhase::Migrating { .. }),
        // What may go on somewhere has not stopped, whatever the ledger lets it do.
        Wanted::Stopped => vm.phase == VmPhase::Off && vm.yielding.is_empty(),
        Wanted::Saved => vm.phase == VmPhase::Saved,
    }
}

/// What one waits for, in words.
fn waits_for(state: &State, views: &[(NodeName, ClusterView)], id: VmId, vm: &Vm) -> String {
    let phase = phase_in_words(state, &vm.phase);
    if let Some(why) = why_not(state, &planned(state, views), id) {
        return format!("it is {phase}: {why}");
    }
    let volumes = vm.spec.volumes.iter().filter_map(|volume| {
        let found = state.volumes.get(volume)?;
        let is_open = matches!(found.phase, control::state::Phase::Open { .. });
        (!is_open).then(|| format!("{} is {}", found.name, pool::phase_in_words(&found.phase)))
    });
    let yielding = vm
        .yielding
        .keys()
        .map(|node| format!("an earlier run on {} is not known to be over", told::name_of(state, *node)));
    let all: Vec<String> = yielding.chain(volumes).collect();
    if all.is_empty() { format!("it is {phase}") } else { format!("it is {phase}; {}", all.join("; ")) }
}

/// Says where one may run. Whoever is where it may no longer be moves by itself.
pub async fn set_placement(
    members: &[Member],
    id: VmId,
    placement: &VmPlacement,
    bound: Duration,
) -> Result<(), VmsError> {
    let (contact, state) = confirmed(members, bound).await?;
    may_be_placed(&state, id, placement)?;
    let what = format!("the placement of {id} to be {}", placement_in_words(placement));
    let is_so = |state: &State| state.vms.all.get(&id).is_none_or(|vm| vm.spec.placement == *placement);
    let command = Command::Vms(VmsCommand::SetPlacement(id, placement.clone()));
    settle(contact, &what, bound, &command, is_so).await?;
    Ok(())
}

/// One that would be made strict where it does not fit would be found off when a rack is lost. Pure.
fn may_be_placed(state: &State, id: VmId, placement: &VmPlacement) -> Result<(), VmsError> {
    if !state.vms.all.contains_key(&id) {
        return Err(VmsError::NoVm(id));
    }
    let is_zone = |zone: &ZoneName| state.nodes.values().any(|node| node.zone.as_ref() == Some(zone));
    if let Some(zone) = placement.home().filter(|zone| !is_zone(zone)) {
        return Err(VmsError::NoZone(zone.clone()));
    }
    placing::admit_placement(state, id, placement).map_err(|why| VmsError::NotPlaced { id, why })
}

/// Deletes one that is off. Its volumes stay, and are nobody's.
pub async fn delete(members: &[Member], id: VmId, bound: Duration) -> Result<(), VmsError> {
    let (contact, state) = confirmed(members, bound).await?;
    let Some(vm) = state.vms.all.get(&id) else { return Ok(()) };
    may_be_deleted(&state, id, vm)?;
    let gone = |state: &State| !state.vms.all.contains_key(&id);
    let command = Command::Vms(VmsCommand::Delete(id));
    settle(contact, &format!("{id} to be deleted"), bound, &command, gone).await?;
    Ok(())
}

/// One that is wanted running would be started the next moment; the ledger alone would let it be deleted in between.
fn may_be_deleted(state: &State, id: VmId, vm: &Vm) -> Result<(), VmsError> {
    let phase = match vm.phase {
        VmPhase::Saved => return Err(VmsError::HoldsMemory(id)),
        VmPhase::Off if vm.wanted == Wanted::Running => "wanted running".to_owned(),
        VmPhase::Off => match vm.yielding.keys().next() {
            None => return Ok(()),
            Some(node) => format!("perhaps still running on {}", told::name_of(state, *node)),
        },
        _ => phase_in_words(state, &vm.phase),
    };
    Err(VmsError::NotOff { id, phase })
}

/// What a drain came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drains {
    /// Which nodes are emptied.
    pub nodes: BTreeSet<NodeId>,
    /// Who goes where, and who is saved, as it looked before.
    pub foreseen: Drain,
}

/// Has nodes emptied, and waits until nothing is on them but what stays there.
pub async fn drain(
    members: &[Member],
    what: &Drained,
    leftover: Leftover,
    bound: Duration,
    told: impl FnMut(&str),
) -> Result<Drains, VmsError> {
    let deadline = Instant::now() + bound;
    let (contact, state) = confirmed(members, bound).await?;
    let drains = to_drain(&state, &pool::views(members).await, what, leftover)?;
    let nodes = &drains.nodes;
    let says = |state: &State| nodes.iter().all(|node| state.vms.draining.get(node) == Some(&leftover));
    let command = Command::Vms(VmsCommand::Drain { nodes: nodes.clone(), leftover });
    settle(contact, "the maintenance in the ledger", bound, &command, says).await?;
    let what = "the nodes to be empty (the maintenance goes on)".to_owned();
    watch(members, (what, bound, deadline), told, |state, views| {
        let left = left_on(state, &planned(state, views), nodes);
        Ok((!left.is_empty()).then(|| left.join("; ")))
    })
    .await?;
    Ok(drains)
}

/// What would be emptied, and what would come of it. Pure.
fn to_drain(
    state: &State,
    views: &[(NodeName, ClusterView)],
    what: &Drained,
    leftover: Leftover,
) -> Result<Drains, VmsError> {
    let foreseen = placing::drain(state, |id| is_live(views, id), what, leftover);
    let foreseen = foreseen.map_err(VmsError::NotDrained)?;
    let nodes: BTreeSet<NodeId> = match what {
        Drained::Node(id) => BTreeSet::from([*id]),
        Drained::Nodes(ids) => ids.clone(),
        Drained::Rack(zone) => {
            let of_zone = state.nodes.iter().filter(|(_, node)| node.zone.as_ref() == Some(zone));
            of_zone.map(|(id, _)| *id).collect()
        }
    };
    let mut storage = state.nodes.iter().filter(|(_, node)| node.zone.is_some()).map(|(id, _)| id);
    if storage.all(|id| nodes.contains(id) || state.vms.draining.contains_key(id)) {
        return Err(VmsError::NobodyLeft);
    }
    Ok(Drains { nodes, foreseen })
}

/// Who is still there, and why those are who can't leave, in words.
fn left_on(state: &State, plan: &Plan, nodes: &BTreeSet<NodeId>) -> Vec<String> {
    let there = state.vms.all.iter().filter(|(_, vm)| {
        let seats = vm.phase.seat().into_iter().chain(vm.phase.other_seat());
        seats.into_iter().any(|seat| nodes.contains(&seat.node))
    });
    let told = there.map(|(id, vm)| {
        let why = why_not(state, plan, *id).map(|why| format!(" ({why})")).unwrap_or_default();
        format!("{} is {}{why}", vm.spec.name, phase_in_words(state, &vm.phase))
    });
    told.collect()
}

/// Has nodes take virtual machines again.
pub async fn end_drain(
    members: &[Member],
    nodes: &BTreeSet<NodeId>,
    bound: Duration,
) -> Result<(), VmsError> {
    let (contact, _) = confirmed(members, bound).await?;
    let command = Command::Vms(VmsCommand::EndDrain { nodes: nodes.clone() });
    let over = |state: &State| !nodes.iter().any(|node| state.vms.draining.contains_key(node));
    settle(contact, "the end of the maintenance in the ledger", bound, &command, over).await?;
    Ok(())
}

#[cfg(test)]
#[path = "vms_tests.rs"]
pub(crate) mod tests;
