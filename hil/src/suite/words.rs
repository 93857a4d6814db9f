//! Steps in words, for reports.

use super::{DriveAt, Nics, Place, Room, Step, Whom, Wrong};
use std::fmt;

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FailSwitch { .. }
            | Self::CutRoomLink { .. }
            | Self::CutSpineLink { .. }
            | Self::FlapRoomLink { .. }
            | Self::FlapCable { .. }
            | Self::CrossCable { .. } => cut(self, f),
            Self::KillAgent { .. }
            | Self::SkewClock { .. }
            | Self::PowerOff { .. }
            | Self::PowerOn { .. }
            | Self::PowerCycle { .. }
            | Self::Freeze { .. }
            | Self::Thaw { .. } => power(self, f),
            Self::Miswire { what, room, position, storage_network } => {
                wrong_in_words(f, *what, (*room, *position), *storage_network)
            }
            Self::DriveErrors { .. }
            | Self::DriveSlow { .. }
            | Self::DriveStuck { .. }
            | Self::DriveWorks { .. }
            | Self::PullDrive { .. }
            | Self::PutDriveBack { .. }
            | Self::KernelSeesDrive { .. }
            | Self::WriteToDrive { .. }
            | Self::OnlyFlushedIsSure { .. }
            | Self::DriveTookAtMost { .. } => drive(self, f),
            Self::MiswireMany { count, .. } => {
                write!(f, "{count} miswirings from the seed, each named and gone when mended")
            }
            Self::NothingRaised { for_ms } => write!(f, "nothing is raised for {} s", for_ms / 1000),
            Self::Heal {} => f.write_str("everything is mended"),
            Self::BadPlan { .. } | Self::DieDuringApplies { .. } => apply(self, f),
            Self::Named { within_ms } => write!(f, "exactly that is named within {within_ms} ms"),
            Self::StaysNamed { for_ms } => write!(f, "exactly that is named for {for_ms} ms"),
            Self::NamedCalmly { at_least, .. } => {
                let what = if *at_least == 0 { "nothing else" } else { "exactly that" };
                write!(f, "{what} is named, and without a storm")
            }
            Self::NothingNamed { for_ms } => write!(f, "nothing is named for {for_ms} ms"),
            Self::Carries { storage_network, for_ms } => {
                write!(f, "storage network {storage_network} carries on for {for_ms} ms")
            }
            Self::ManagementCarries {} => f.write_str("management carries"),
            Self::ManagementParted { room } => {
                write!(f, "management does not reach {room}, and carries elsewhere")
            }
            Self::Refused {} => f.write_str("deployment refuses the cabling and names it"),
            Self::InventoryMatches {} => f.write_str("inventory is what the lab built"),
            Self::CablingIsRight { within_ms: 0 } => f.write_str("cabling is right"),
            Self::CablingIsRight { within_ms } => write!(f, "cabling is right within {within_ms} ms"),
            Self::LinksAreAsPlanned {} => f.write_str("links are as planned"),
            Self::Drift { count } => write!(f, "{count} drifts, each found, told and mended"),
            Self::SecondApplyChangesNothing {} => f.write_str("a second apply changes nothing"),
            Self::RoundTrips { probes } => write!(f, "round trips, {probes} probes a pair"),
            Self::JumboFrames {} => f.write_str("jumbo frames pass unfragmented"),
            Self::PrioritiesAreSeen {} => {
                f.write_str("every frame in the fabric has the priority of its kind")
            }
            Self::Throughput { .. } => f.write_str("throughput of the storage paths between the rooms"),
            Self::StorageIsIsolated {} => f.write_str("no storage network is reached from another network"),
            Self::SpineCarriesNoStorage {} => f.write_str("no storage frame on the spine"),
            Self::SpineStaysClean {} => {
                f.write_str("no storage frame on the spine while all nodes send some")
            }
            Self::DamageLedger { .. }
            | Self::FillLedgerDisk { .. }
            | Self::LedgersStop { .. }
            | Self::LedgerIsRefused { .. }
            | Self::Rejoin { .. }
            | Self::ForceQuorum { .. }
            | Self::LedgersWork { .. } => ledger(self, f),
            _ => volume(self, f),
        }
    }
}

/// Steps about nodes' ledgers.
fn ledger(step: &Step, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match step {
        Step::DamageLedger { room, position, how } => {
            write!(f, "the ledger of node {position} of {room} {how}")
        }
        Step::FillLedgerDisk { room: Some(room), position } => {
            write!(f, "the disk of the ledger of node {position} of {room} is filled")
        }
        Step::FillLedgerDisk { room: None, .. } => f.write_str("the disk of the leader's ledger is filled"),
        Step::LedgersStop { within_ms } => {
            write!(f, "used on, exactly the ledgers whose disks are full stop within {within_ms} ms")
        }
        Step::LedgerIsRefused { room, position, within_ms } => {
            write!(f, "node {position} of {room} does not use its ledger, and says why within {within_ms} ms")
        }
        Step::Rejoin { room, position, votes, within_ms } => {
            let whom = Whom { room: *room, position: matches!(room, Place::Room(_)).then_some(*position) };
            let votes = if *votes { "votes" } else { "follows" };
            write!(f, "{whom} joins again and {votes} within {within_ms} ms")
        }
        Step::ForceQuorum { room, position, within_ms } => {
            write!(
                f,
                "a quorum is forced with node {position} of {room}, which decides alone within {within_ms} ms"
            )
        }
        Step::LedgersWork { within_ms } => {
            write!(f, "everybody's ledger works and everybody votes within {within_ms} ms")
        }
        _ => Ok(()),
    }
}

/// Steps about plans that are applied.
fn apply(step: &Step, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match step {
        Step::BadPlan { room, position, plan, meanwhile, .. } => {
            write!(f, "node {position} of {room} is given {plan}")?;
            meanwhile.map_or(Ok(()), |death| write!(f, "; {death}"))
        }
        Step::DieDuringApplies { room, position, death, times, .. } => {
            write!(f, "{death} {times} times while node {position} of {room} applies a plan")
        }
        _ => Ok(()),
    }
}

/// Steps about switches and cables.
fn cut(step: &Step, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match step {
        Step::FailSwitch { room, storage_network, how } => {
            write!(f, "the switch of storage network {storage_network} in {room} {how}")
        }
        Step::CutRoomLink { storage_network, way } => {
            write!(f, "the room-to-room link of storage network {storage_network} is cut {way}")
        }
        Step::CutSpineLink { room, storage_network, way } => {
            write!(f, "the spine link of storage network {storage_network}'s switch in {room} is cut {way}")
        }
        Step::FlapRoomLink { storage_network, flapping } => {
            write!(f, "the room-to-room link of storage network {storage_network} {flapping}")
        }
        Step::FlapCable { room, position, storage_network, flapping } => {
            write!(
                f,
                "the cable of node {position} of {room} for storage network {storage_network} {flapping}"
            )
        }
        Step::CrossCable { room, position, nics } => {
            let nics = if *nics == Nics::All { "all NICs" } else { "the storage NICs" };
            write!(f, "{nics} of node {position} of {room} are cabled to the other room")
        }
        _ => Ok(()),
    }
}

/// Steps about power, about machines that stand still, their agents and clocks.
fn power(step: &Step, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let whom = step.whom().as_ref().map(Whom::to_string).unwrap_or_default();
    match step {
        Step::KillAgent { room, position } => {
            write!(f, "the agent of node {position} of {room} is killed")
        }
        Step::SkewClock { room, position, by_s } => {
            let way = if *by_s < 0 { "back" } else { "forward" };
            write!(f, "the clock of node {position} of {room} is set {way} by {} s", by_s.unsigned_abs())
        }
        Step::PowerOff { .. } => write!(f, "{whom} loses its power"),
        Step::PowerOn { within_ms, .. } => {
            write!(f, "{whom} gets its power back and is well by itself within {within_ms} ms")
        }
        Step::PowerCycle { within_ms, .. } => {
            write!(f, "{whom} loses its power for a moment, and is well by itself within {within_ms} ms")
        }
        Step::Freeze { .. } => write!(f, "{whom} freezes"),
        Step::Thaw { within_ms, .. } => write!(f, "{whom} goes on and is well within {within_ms} ms"),
        _ => Ok(()),
    }
}

/// Steps about a drive.
fn drive(step: &Step, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let at = step.drive().as_ref().map(DriveAt::to_string).unwrap_or_default();
    match step {
        Step::DriveErrors { .. }
        | Step::DriveSlow { .. }
        | Step::DriveStuck { .. }
        | Step::PullDrive { .. } => write!(f, "{at}: {}", step.drive_fault()),
        Step::DriveWorks { .. } => write!(f, "{at} works again"),
        Step::PutDriveBack { .. } => write!(f, "{at} is put back"),
        Step::KernelSeesDrive { within_ms, .. } => {
            write!(f, "the kernel sees {at} as it is within {within_ms} ms")
        }
        Step::WriteToDrive { writes, .. } => {
            write!(f, "{writes} writes to {at} are flushed, and as many more are not")
        }
        Step::OnlyFlushedIsSure { .. } => {
            write!(f, "{at} holds everything that was flushed, and lost some of the rest")
        }
        Step::DriveTookAtMost { mib, .. } => {
            write!(f, "{at} was written {mib} MiB at most since it was mended")
        }
        _ => Ok(()),
    }
}

/// Steps about a volume and what is written to it.
fn volume(step: &Step, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match step {
        Step::MakeVolume { size_mib, mirror, thin, room, within_ms } => {
            let thin = if *thin { "thin " } else { "" };
            write!(f, "a {thin}volume of {size_mib} MiB with ")?;
            match mirror {
                Some(mirror) => write!(f, "{} copies", mirror.legs())?,
                None => write!(f, "the shape's copies")?,
            }
            write!(f, " is open in {room} within {within_ms} ms")
        }
        Step::VolumeIsOffline { within_ms } => {
            write!(f, "the volume is offline, and no leg is taken to be good, within {within_ms} ms")
        }
        Step::OverrideVolume { room, position, within_ms } => {
            write!(
                f,
                "an operator takes the leg of node {position} of {room} for good, and the volume opens within {within_ms} ms"
            )
        }
        Step::StartWriting { in_flight, .. } => write!(f, "the workload writes, {in_flight} at a time"),
        Step::WritesGoOn { within_ms } => write!(f, "writes go on within {within_ms} ms"),
        Step::HasWritten { mib, within_ms } => {
            write!(f, "{mib} MiB have been written since the first fault, within {within_ms} ms")
        }
        Step::KeepsWriting { for_ms, gap_at_most_ms } => {
            write!(f, "for {for_ms} ms no two acknowledgements are more than {gap_at_most_ms} ms apart")
        }
        Step::KeptWriting { gap_at_most_ms } => {
            write!(
                f,
                "since the first fault, or the first write where nothing was broken, no two acknowledgements were more than {gap_at_most_ms} ms apart"
            )
        }
        Step::AgentsRest { for_ms, processor_percent_at_most, memory_mib_at_most } => write!(
            f,
            "for {for_ms} ms all agents use {processor_percent_at_most} % of a processor at most, and each holds {memory_mib_at_most} MiB at most"
        ),
        Step::LegsInSync { within_ms } => write!(f, "all legs are in sync within {within_ms} ms"),
        Step::LegsStayInSync { for_ms } => {
            write!(f, "for {for_ms} ms the volume stays where it is and no leg is lost")
        }
        Step::RebuildsAtMost { count } => write!(f, "legs were lost {count} times at most"),
        Step::BrokenDrivesAreLeft { within_ms } => {
            write!(f, "broken drives are retired and hold no leg within {within_ms} ms")
        }
        Step::SlowDrivesAreTold { within_ms } => {
            write!(f, "broken drives are said to be slow within {within_ms} ms, and their legs stay")
        }
        Step::LeaderIn { room, within_ms } => {
            write!(f, "the ledger's leader is in {room} within {within_ms} ms")
        }
        Step::VotersWork { within_ms } => write!(f, "everybody who votes works within {within_ms} ms"),
        Step::OldOwnerIsSilent { for_ms } => {
            write!(f, "for {for_ms} ms nothing is acknowledged where the volume was open before")
        }
        Step::VolumeOpens { room: Some(room), within_ms } => {
            write!(f, "the volume is open in {room} within {within_ms} ms")
        }
        Step::VolumeOpens { room: None, within_ms } => {
            write!(f, "the volume is open within {within_ms} ms")
        }
        Step::Vm(step) => write!(f, "{step}"),
        Step::Deployment(step) => write!(f, "{step}"),
        Step::StopWriting {} => f.write_str("the workload is ended"),
        Step::Judge {} => f.write_str("every leg in sync holds every acknowledged write"),
        _ => operator(step, f),
    }
}

/// Steps about what an operator does to a volume.
fn operator(step: &Step, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match step {
        Step::MoveLeg { room, position, within_ms, .. } => {
            write!(f, "the leg on node {position} of {room} is on another drive within {within_ms} ms")
        }
        Step::BeginGrowth { size_mib } => write!(f, "the volume is asked to grow to {size_mib} MiB"),
        Step::VolumeHasGrown { size_mib, within_ms } => {
            write!(f, "the volume and what its users have is {size_mib} MiB within {within_ms} ms")
        }
        Step::HandOver { room, position, within_ms } => {
            write!(
                f,
                "the volume is handed over to node {position} of {room}, and written there within {within_ms} ms"
            )
        }
        Step::BeginHandOver { room, position, committed } => {
            let how_far = if *committed { ", and the ledger says so" } else { "" };
            write!(f, "the volume is to be handed over to node {position} of {room}{how_far}")
        }
        Step::FillPool { leaving_mib, .. } => {
            write!(f, "another volume leaves {leaving_mib} MiB of each node for volumes")
        }
        Step::FreePool { within_ms } => write!(f, "it is deleted within {within_ms} ms"),
        Step::WaitsForRoom { within_ms } => {
            write!(
                f,
                "the owner says within {within_ms} ms that writes wait for room, and every leg stays in sync"
            )
        }
        Step::ReplaceDrive { room, position, within_ms, .. } => {
            write!(f, "the drive with the leg of node {position} of {room} is replaced within {within_ms} ms")
        }
        _ => Ok(()),
    }
}

fn wrong_in_words(
    f: &mut fmt::Formatter<'_>,
    what: Wrong,
    (room, position): (Room, u8),
    network: u8,
) -> fmt::Result {
    let nic = format!("the storage network {network} NIC of node {position} of {room}");
    let switch = format!("the switch of storage network {network} in {room}");
    match what {
        Wrong::OtherPort => write!(f, "{nic} is cabled to another port of its switch"),
        Wrong::NoVlan => write!(f, "{nic} is at a port without its VLAN"),
        Wrong::SmallPort => write!(f, "{nic} is at a port for small packets that says so"),
        Wrong::SmallPortUnsaid => write!(f, "{nic} is at a port for small packets that does not say so"),
        Wrong::SmallSwitch => write!(f, "{switch} takes small packets only and says so"),
        Wrong::SmallSwitchUnsaid => write!(f, "{switch} takes small packets only and does not say so"),
        Wrong::SlowCable => write!(f, "{nic} has a cable that takes 3 ms there and back"),
        Wrong::SlowRoomLink => write!(f, "storage network {network} takes 3 ms between the rooms and back"),
        Wrong::SwappedStorageNics => {
            write!(f, "the storage NICs of node {position} of {room} have each other's cables")
        }
        Wrong::SendsNothing => write!(f, "{nic} sends nothing any more"),
        Wrong::ReceivesNothing => write!(f, "{nic} receives nothing any more"),
    }
}
