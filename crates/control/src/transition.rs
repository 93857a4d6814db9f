//! What may follow what: the pictures, and the one table of legal transitions.
//!
//! A volume:
//! ```text
//!   create                 takeover (also from Fencing itself: the new owner died, too)
//!     │          ┌────────────────────────────────────────┐
//!     ▼          ▼                                        │
//!  ┌─────────────────┐ activate ┌─────────┐  opened  ┌────┴───┐
//!  │     Fencing     ├─────────►│ Opening ├─────────►│  Open  │
//!  └─────────────────┘          └────▲─┬──┘          └─┬─┬─┬──┘
//!     ▲   │    override, from        │ │  hand over    │ │ │ the last in-sync leg errs
//!     │   │    Offline or Fencing    │ │◄──────────────┘ │ └────────────┐
//!     │   │                     open │ └─ takeover ─►    │ close        │
//!     │   │                     ┌────┴─────┐             │              │
//!     │   │                     │  Closed  │◄────────────┘              │
//!     │   │                     └──────────┘                            ▼
//!     │   │ the last in-sync leg errs (from each phase), forced quorum ┌───────────┐
//!     │   └───────────────────────────────────────────────────────────►│  Offline  │
//!     └────────────────────────────────────────────────────────────────┴───────────┘
//! ```
//! A leg:
//! ```text
//!               lost (owner's proposal), unconfirmed (activation)
//!        ┌───────────────────────────────────────────────────────┐
//!        │                                                       ▼
//!   ┌────┴───┐ rebuilt  ┌────────────┐  rebuild begun   ┌────────────────┐
//!   │ InSync │◄─────────┤ Rebuilding │◄─────────────────┤     Stale      │◄┐ returned (fenced, new
//!   └─▲─┬────┘          └──┬───────┬─┘                  │  back: no/yes  ├─┘ incarnation: back = yes)
//!     │ │ erred, cache     │ erred │ lost, superseded   └──▲──────────┬──┘
//!     │ │ lost, unproven   │       └───────────────────────┘          │ erred
//!     │ ▼                  ▼                                          │
//!   ┌─┴────────────────────────┐  returned (while another is in sync) │
//!   │         Suspect          │◄─────────────────────────────────────┘
//!   └──────────────────────────┘  → Stale, from scratch
//! ```
//! `overridden` leads from stale or suspect to in sync, `set aside` from everything else in that volume to stale, from scratch.
//! In [`LEGS`] and [`VOLUMES`] stand all of it; [`State::apply`](crate::State::apply) changes a phase or a leg's state only
//! through [`leg`] and [`volume`].

use crate::command::Rejected;
use crate::state::{LegState, Phase};
use serde::{Deserialize, Serialize};

/// A volume's phase without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PhaseKind {
    /// [`Phase::Fencing`].
    Fencing,
    /// [`Phase::Opening`].
    Opening,
    /// [`Phase::Open`].
    Open,
    /// [`Phase::Closed`].
    Closed,
    /// [`Phase::Offline`].
    Offline,
}

/// Why a volume's phase changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeCause {
    /// A new epoch and owner; the old one is to be fenced.
    Takeover,
    /// The fence holds, as far as it will.
    Activate,
    /// The owner has assembled it.
    Opened,
    /// The owner has closed it in order.
    Close,
    /// Opened from closed.
    Open,
    /// The owner has closed it in order for another, in one commit.
    HandOver,
    /// The last in-sync leg became suspect.
    LastLegSuspect,
    /// An operator declared a leg good.
    Override,
    /// A quorum was forced.
    ForcedQuorum,
}

/// A leg's state without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LegKind {
    /// [`LegState::InSync`].
    InSync,
    /// [`LegState::Stale`].
    Stale,
    /// [`LegState::Rebuilding`].
    Rebuilding,
    /// [`LegState::Suspect`].
    Suspect,
}

/// Why a leg's state changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LegCause {
    /// The owner can't write it.
    Lost,
    /// Its target did not confirm the fence before the epoch was activated.
    Unconfirmed,
    /// Its drive has a volatile cache and has restarted.
    CacheLost,
    /// Its drive reported an error.
    Errored,
    /// Its target restarted and gave it out anew; it is the last, and still good.
    Kept,
    /// Its drive was away and has forgotten nothing; it is the last, and stands in its own node's array as it did.
    Stayed,
    /// Its target has fenced it and gave it out anew.
    Returned,
    /// The owner begins to copy.
    RebuildBegun,
    /// The owner has copied, and the copy is durable.
    Rebuilt,
    /// The epoch of its rebuild is over.
    Superseded,
    /// An operator declared it good.
    Overridden,
    /// An operator declared another good.
    SetAside,
    /// Forced quorum: nobody can prove that it is good.
    Unproven,
}

/// All that may happen to a leg's state.
pub const LEGS: [(LegKind, LegCause, LegKind); 21] = {
    use LegCause as C;
    use LegKind::{InSync, Rebuilding, Stale, Suspect};
    [
        (InSync, C::Lost, Stale),
        (InSync, C::Unconfirmed, Stale),
        (InSync, C::CacheLost, Suspect),
        (InSync, C::Errored, Suspect),
        (InSync, C::Kept, InSync),
        (InSync, C::Stayed, InSync),
        (InSync, C::SetAside, Stale),
        (InSync, C::Unproven, Suspect),
        (Stale, C::Returned, Stale),
        (Stale, C::RebuildBegun, Rebuilding),
        (Stale, C::Errored, Suspect),
        (Stale, C::Superseded, Stale),
        (Stale, C::Overridden, InSync),
        (Stale, C::SetAside, Stale),
        (Rebuilding, C::Rebuilt, InSync),
        (Rebuilding, C::Lost, Stale),
        (Rebuilding, C::Superseded, Stale),
        (Rebuilding, C::Errored, Suspect),
        (Suspect, C::Returned, Stale),
        (Suspect, C::Overridden, InSync),
        (Suspect, C::SetAside, Stale),
    ]
};

/// All that may happen to a volume's phase.
pub const VOLUMES: [(PhaseKind, VolumeCause, PhaseKind); 19] = {
    use PhaseKind::{Closed, Fencing, Offline, Open, Opening};
    use VolumeCause as C;
    [
        (Fencing, C::Takeover, Fencing),
        (Opening, C::Takeover, Fencing),
        (Open, C::Takeover, Fencing),
        (Fencing, C::Activate, Opening),
        (Opening, C::Opened, Open),
        (Open, C::Close, Closed),
        (Open, C::HandOver, Opening),
        (Closed, C::Open, Opening),
        (Fencing, C::LastLegSuspect, Offline),
        (Opening, C::LastLegSuspect, Offline),
        (Open, C::LastLegSuspect, Offline),
        (Closed, C::LastLegSuspect, Offline),
        (Offline, C::Override, Fencing),
        (Fencing, C::Override, Fencing),
        (Fencing, C::ForcedQuorum, Offline),
        (Opening, C::ForcedQuorum, Offline),
        (Open, C::ForcedQuorum, Offline),
        (Closed, C::ForcedQuorum, Offline),
        (Offline, C::ForcedQuorum, Offline),
    ]
};

impl Phase {
    /// Without its data.
    pub fn kind(&self) -> PhaseKind {
        match self {
            Self::Fencing { .. } => PhaseKind::Fencing,
            Self::Opening { .. } => PhaseKind::Opening,
            Self::Open { .. } => PhaseKind::Open,
            Self::Closed => PhaseKind::Closed,
            Self::Offline => PhaseKind::Offline,
        }
    }
}

impl LegState {
    /// Without its data.
    pub fn kind(self) -> LegKind {
        match self {
            Self::InSync => LegKind::InSync,
            Self::Stale { .. } => LegKind::Stale,
            Self::Rebuilding { .. } => LegKind::Rebuilding,
            Self::Suspect { .. } => LegKind::Suspect,
        }
    }
}

/// Whether a leg may go so.
pub fn leg(from: LegState, cause: LegCause, to: LegState) -> Result<(), Rejected> {
    let wanted = (from.kind(), cause, to.kind());
    if LEGS.contains(&wanted) { Ok(()) } else { Err(Rejected::LegCannot { state: from.kind(), cause }) }
}

/// Whether a volume may go so.
pub fn volume(from: &Phase, cause: VolumeCause, to: &Phase) -> Result<(), Rejected> {
    let wanted = (from.kind(), cause, to.kind());
    if VOLUMES.contains(&wanted) { Ok(()) } else { Err(Rejected::VolumeCannot { phase: from.kind(), cause }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// From one state a cause leads to one state: otherwise the log would not say what happened.
    #[test]
    fn a_cause_leads_to_one_state() {
        let legs: BTreeSet<_> = LEGS.iter().map(|(from, cause, _)| (from, cause)).collect();
        let volumes: BTreeSet<_> = VOLUMES.iter().map(|(from, cause, _)| (from, cause)).collect();
        assert_eq!((legs.len(), volumes.len()), (LEGS.len(), VOLUMES.len()));
    }

    #[test]
    fn nothing_becomes_in_sync_but_by_a_rebuild_or_an_override() {
        let ways = LEGS.iter().filter(|(from, _, to)| *to == LegKind::InSync && *from != LegKind::InSync);
        for (_, cause, _) in ways {
            assert!(matches!(cause, LegCause::Rebuilt | LegCause::Overridden), "{cause:?}");
        }
    }

    #[test]
    fn what_is_not_in_the_table_is_refused_with_its_reason() {
        let stale = LegState::Stale { base: crate::state::Base::Changes, back: true };
        assert_eq!(
            leg(stale, LegCause::Rebuilt, LegState::InSync),
            Err(Rejected::LegCannot { state: LegKind::Stale, cause: LegCause::Rebuilt })
        );
        assert!(volume(&Phase::Closed, VolumeCause::Takeover, &Phase::Closed).is_err());
    }
}
