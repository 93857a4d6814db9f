//! Drives taken into the pool: named in the ledger, then claimed by their node.
//!
//! Invariants: a drive that its node refuses to claim does not stay in the ledger, unless it was in it before: nothing may be put on it. What a drive holds is lost only if that was asked for.
//!
//! On failure: [`PoolError`]; it can be asked for again.

use super::{
    NOT_CLAIMED, PoolError, STEP_BOUND, confirmed, insist, newest_ids, remove_drive, says, settle, until,
};
use crate::recorder::Recorder;
use crate::{Cluster, Member};
use api::ClaimRequest;
use control::state::Cache;
use control::{ClusterCommand, Command, State};
use model::{DriveClass, DriveId, DriveSerial, Inventory, NodeId, NodeName, PowerCycles};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Takes the drives of each node into the pool. Those of `wipe` are taken whatever they hold, and all of that is lost.
pub async fn drives(
    cluster: &Cluster,
    drives: &BTreeMap<NodeName, BTreeSet<DriveSerial>>,
    wipe: &BTreeSet<DriveSerial>,
    recorder: &mut Recorder<'_>,
) -> Result<(), PoolError> {
    let (contact, state) = confirmed(&cluster.members, STEP_BOUND).await?;
    let nodes = newest_ids(&state);
    for member in cluster.members.iter().filter(|member| member.zone.is_some()) {
        let serials = drives.get(&member.name).into_iter().flatten();
        let mut inventory = None;
        for serial in serials {
            let node = *nodes.get(&member.name).ok_or(PoolError::NoLedger)?;
            if inventory.is_none() {
                inventory = Some(registered(member, STEP_BOUND).await?);
            }
            let Some(inventory) = &inventory else { continue };
            let was_named = state.drive_of(serial).is_some();
            let claim = name_and_claim(contact, (member, node), inventory, (serial, wipe.contains(serial)));
            let step = async {
                match claim.await {
                    Err(error @ PoolError::NotClaimed { .. }) if !was_named => {
                        unname(&cluster.members, serial).await?;
                        Err(error)
                    }
                    claimed => {
                        let did = claimed?.then(|| format!("drive {serial} of {} was added", member.name));
                        Ok::<_, PoolError>(((), did))
                    }
                }
            };
            recorder.step(format!("drive {serial} of {}", member.name), step).await?;
        }
    }
    Ok(())
}

/// Takes a drive out of the ledger that its node refuses to claim: nothing may be put on it.
async fn unname(members: &[Member], serial: &DriveSerial) -> Result<(), PoolError> {
    let (_, state) = confirmed(members, STEP_BOUND).await?;
    match state.drive_of(serial) {
        Some((drive, _)) => remove_drive(members, drive, STEP_BOUND).await,
        None => Ok(()),
    }
}

/// Takes one more drive of a node into the pool, and gives its id. One that is refused, as it holds something, does not stay in the ledger.
///
/// `wipe`: it is taken whatever it holds, and all of that is lost.
pub async fn add_one_drive(
    members: &[Member],
    member: &Member,
    (serial, wipe): (&DriveSerial, bool),
    bound: Duration,
) -> Result<DriveId, PoolError> {
    let (contact, before) = confirmed(members, bound).await?;
    // The last id under a name is the present one.
    let node = before.nodes.iter().filter(|(_, node)| node.name == member.name).map(|(id, _)| *id).max();
    let node = node.ok_or(PoolError::NoLedger)?;
    let inventory = registered(member, bound).await?;
    let claimed = name_and_claim(contact, (member, node), &inventory, (serial, wipe)).await;
    let (_, state) = confirmed(members, bound).await?;
    let found = state.drive_of(serial).map(|(id, _)| id);
    if let (Err(PoolError::NotClaimed { .. }), Some(drive)) = (&claimed, found)
        && !before.drives.contains_key(&drive)
    {
        // Nothing may be put on it.
        remove_drive(members, drive, bound).await?;
    }
    claimed?;
    found.ok_or_else(|| PoolError::NoDrive { node: member.name.clone(), serial: serial.clone() })
}

/// What a node has, once it takes part in the ledger in this boot.
async fn registered(member: &Member, bound: Duration) -> Result<Inventory, PoolError> {
    let what = format!("{} to register", member.name);
    until(member, &what, bound, |view| {
        view.state.nodes.get(&view.node).is_some_and(|node| node.boot.is_some())
    })
    .await?;
    Ok(member.client.inventory().await?)
}

/// Names a drive in the ledger, if it is not, and has its node claim it; whether it was new.
async fn name_and_claim(
    contact: &Member,
    (member, node): (&Member, NodeId),
    inventory: &Inventory,
    (serial, wipe): (&DriveSerial, bool),
) -> Result<bool, PoolError> {
    let command = add_drive(&member.name, node, inventory, serial)?;
    let has = |state: &State| state.drive_of(serial).is_some();
    let what = format!("drive {serial} of {} in the ledger", member.name);
    let is_new = settle(contact, &what, STEP_BOUND, &Command::Cluster(command), has).await?;
    // The node must have heard of it before it can claim it.
    until(member, &what, STEP_BOUND, |view| has(&view.state)).await?;
    let claim = ClaimRequest { serial: serial.clone(), wipe };
    match insist(&format!("drive {serial} to be claimed"), || member.client.claim(&claim)).await {
        Err(PoolError::Ask(source)) if says(&source, NOT_CLAIMED) => {
            Err(PoolError::NotClaimed { serial: serial.clone(), source: Box::new(source) })
        }
        claimed => claimed.map(|()| is_new),
    }
}

/// The command that names a drive in the ledger. Nobody reads how often it was switched on: its node registers that, and the ledger
/// takes only counts that are not lower, so it begins at 0.
pub(super) fn add_drive(
    name: &NodeName,
    node: NodeId,
    inventory: &Inventory,
    serial: &DriveSerial,
) -> Result<ClusterCommand, PoolError> {
    let drive = inventory.drives.iter().find(|drive| drive.serial == *serial);
    let drive = drive.ok_or_else(|| PoolError::NoDrive { node: name.clone(), serial: serial.clone() })?;
    // An NVMe drive's cache is turned off when it is claimed, and again before each leg is given out; where that can't be, no leg is.
    // Of others, what nobody knows to be safe may forget.
    let is_safe = drive.class == DriveClass::Nvme || drive.volatile_write_cache == Some(false);
    let cache = if is_safe { Cache::Safe } else { Cache::Volatile };
    let (serial, size_bytes) = (serial.clone(), drive.size_bytes);
    Ok(ClusterCommand::AddDrive { node, serial, size_bytes, cache, power_cycles: PowerCycles(0) })
}
