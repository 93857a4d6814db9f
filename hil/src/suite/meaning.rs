//! What steps mean to a scenario: what they break and undo, whom they concern, what they need.

use super::needs::{Need, no_network, no_node, no_switch, wiring};
use super::{DeployStep, DriveAt, Place, Room, Step, VmStep, Whom, Wrong};
use crate::lab::miswiring::Miswiring;
use model::{ClusterSpec, Mirror, Wiring};

impl Step {
    /// Whether the step breaks something.
    pub fn is_fault(&self) -> bool {
        matches!(
            self,
            Self::FailSwitch { .. }
                | Self::CutRoomLink { .. }
                | Self::CutSpineLink { .. }
                | Self::FlapRoomLink { .. }
                | Self::FlapCable { .. }
                | Self::CrossCable { .. }
                | Self::PowerOff { .. }
                | Self::PowerCycle { .. }
                | Self::Freeze { .. }
                | Self::KillAgent { .. }
                | Self::SkewClock { .. }
                | Self::Miswire { .. }
                | Self::DamageLedger { .. }
                | Self::FillLedgerDisk { .. }
                | Self::DriveErrors { .. }
                | Self::DriveSlow { .. }
                | Self::DriveStuck { .. }
                | Self::PullDrive { .. }
                | Self::Vm(VmStep::FreezeAgent {} | VmStep::LeaderDies { .. })
        )
    }

    /// Whether machines or cables are in another state after it: management has to find its ways anew.
    pub fn disturbs(&self) -> bool {
        self.is_fault() || matches!(self, Self::Judge {} | Self::LeaderIn { .. })
    }

    /// Whose power it is about, or who freezes or goes on.
    pub fn whom(&self) -> Option<Whom> {
        match *self {
            Self::PowerOff { room, position }
            | Self::PowerOn { room, position, .. }
            | Self::PowerCycle { room, position, .. }
            | Self::Freeze { room, position }
            | Self::Thaw { room, position, .. } => Some(Whom { room, position }),
            _ => None,
        }
    }

    /// Whether this step ends what an earlier one broke.
    pub(super) fn undoes(&self, fault: &Self) -> bool {
        match (self, fault) {
            // Who only lost its power for a moment comes back in the same step.
            (Self::Heal {}, _) | (_, Self::PowerCycle { .. }) => true,
            (Self::PowerOn { .. }, Self::PowerOff { .. }) | (Self::Thaw { .. }, Self::Freeze { .. }) => {
                self.whom() == fault.whom()
            }
            (Self::Rejoin { room, position, .. }, Self::DamageLedger { room: lost, position: there, .. }) => {
                (room.room(), position) == (Some(*lost), there)
            }
            (Self::PutDriveBack { .. }, Self::PullDrive { .. })
            | (
                Self::DriveWorks { .. },
                Self::DriveErrors { .. } | Self::DriveSlow { .. } | Self::DriveStuck { .. },
            ) => self.drive() == fault.drive(),
            _ => false,
        }
    }

    /// Whether this step gives some their power back of those who lost it at once.
    pub(super) fn undoes_part(&self, fault: &Self) -> bool {
        let pair = matches!((self, fault), (Self::PowerOn { .. }, Self::PowerOff { .. }));
        pair && fault.whom().zip(self.whom()).is_some_and(|(gone, back)| gone.includes(back))
    }

    /// What the step speaks of that this cluster hasn't got.
    pub(super) fn missing(&self, spec: &ClusterSpec) -> Option<String> {
        match self {
            Self::FailSwitch { room, storage_network, .. }
            | Self::CutSpineLink { room, storage_network, .. } => {
                no_network(spec, *storage_network).or_else(|| no_switch(spec, *room, *storage_network))
            }
            Self::CutRoomLink { storage_network, .. } | Self::FlapRoomLink { storage_network, .. } => {
                no_network(spec, *storage_network).or_else(|| {
                    (wiring(spec) == Wiring::D)
                        .then(|| "with wiring D no storage crosses between the rooms".to_owned())
                })
            }
            Self::Carries { storage_network, .. } => no_network(spec, *storage_network),
            Self::MakeVolume { mirror: Some(Mirror::FourWay), .. } => {
                Need::PeersInRoom.unmet(spec).map(|_| "four copies need two nodes in each room".to_owned())
            }
            Self::Miswire { what, room, position, storage_network } => no_network(spec, *storage_network)
                .or_else(|| no_node(spec, *room, *position))
                .or_else(|| match what {
                    Wrong::SmallSwitch | Wrong::SmallSwitchUnsaid => no_switch(spec, *room, *storage_network),
                    _ => None,
                })
                .or_else(|| {
                    let miswiring = Miswiring::of(spec, *what, (*room, *position), *storage_network)?;
                    miswiring.unmet(spec).map(ToOwned::to_owned)
                }),
            Self::FlapCable { room, position, storage_network, .. } => {
                no_network(spec, *storage_network).or_else(|| no_node(spec, *room, *position))
            }
            Self::Deployment(DeployStep::AddNodes { loses, .. }) => {
                loses.iter().find_map(|at| no_node(spec, at.room, at.position))
            }
            Self::Deployment(DeployStep::Removes { position, .. }) => {
                // Racks are of one size.
                let last = Need::PeersInRoom.unmet(spec);
                let last = last.map(|_| "the last node of a room does not leave".to_owned());
                no_node(spec, Room::default(), *position).or(last)
            }
            Self::CrossCable { room, position, .. }
            | Self::KillAgent { room, position }
            | Self::SkewClock { room, position, .. }
            | Self::DamageLedger { room, position, .. }
            | Self::FillLedgerDisk { room: Some(room), position }
            | Self::LedgerIsRefused { room, position, .. }
            | Self::Rejoin { room: Place::Room(room), position, .. }
            | Self::Deployment(DeployStep::Repair { room: Place::Room(room), position, .. })
            | Self::ForceQuorum { room, position, .. }
            | Self::OverrideVolume { room, position, .. }
            | Self::HandOver { room, position, .. }
            | Self::BeginHandOver { room, position, .. }
            | Self::BadPlan { room, position, .. }
            | Self::DieDuringApplies { room, position, .. } => no_node(spec, *room, *position),
            _ => {
                let of_drive = self.drive().map(|DriveAt { room, position, .. }| (room, Some(position)));
                let of_node = || self.whom().and_then(|whom| Some((whom.room.room()?, whom.position)));
                let (room, position) = of_drive.or_else(of_node)?;
                no_node(spec, room, position?)
            }
        }
    }
}
