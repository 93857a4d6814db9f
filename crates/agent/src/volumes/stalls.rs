//! Drives of this node that answer nothing: what the kernel counts of them, held against [`control::stall`] several times a second.
//!
//! On failure: a drive that can't be looked at is none that answers nothing.

use super::load::{own, with_counters};
use super::place::STALL_MAX;
use super::shell::Told;
use crate::beat::Beat;
use crate::clock;
use control::member::Input;
use control::stall::Stall;
use control::target::{Event, LegOf};
use control::{Moment, State};
use model::{DriveId, DriveSerial, NodeId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use storage::kernel::Counters;
use tokio::sync::watch;

const EVERY: Duration = Duration::from_millis(200);

/// Looks as long as the agent lives, and tells control of every leg on a drive that stalls, at every look.
pub(super) async fn watch(node: NodeId, state: watch::Receiver<Arc<State>>, told: Told) {
    let (mut counters, mut stalls) = (Counters::default(), BTreeMap::new());
    let mut beat = Beat::every(EVERY);
    loop {
        beat.next().await;
        let own = own(&state.borrow(), node);
        let looked = with_counters(counters, own, move |counters, own| {
            let stalling = look(counters, &mut stalls, own);
            (stalls, stalling)
        });
        let Some((kept, (known, stalling))) = looked.await else { return };
        (counters, stalls) = (kept, known);
        let legs = legs_on(&state.borrow(), &stalling);
        for leg in legs {
            told.tell(Input::Target(Event::Stalled(leg)));
        }
    }
}

fn look(
    counters: &mut Counters,
    stalls: &mut BTreeMap<DriveId, Stall>,
    own: &BTreeMap<DriveId, DriveSerial>,
) -> Vec<DriveId> {
    stalls.retain(|id, _| own.contains_key(id));
    let mut stalling = Vec::new();
    for (id, serial) in own {
        let seen = counters.activity(serial).ok();
        // Each at the moment in which it was looked at.
        let now = Moment(clock::uptime_ms());
        if stalls.entry(*id).or_default().look(now, seen, STALL_MAX) {
            stalling.push(*id);
        }
    }
    stalling
}

fn legs_on(state: &State, drives: &[DriveId]) -> Vec<LegOf> {
    let legs = state
        .volumes
        .iter()
        .flat_map(|(id, volume)| volume.legs.iter().map(|(leg, found)| ((*id, *leg), found)));
    legs.filter(|(_, found)| drives.contains(&found.drive)).map(|(leg, _)| leg).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::owner::a_volume;
    use control::state::{Cache, Drive, Health, Leg, LegState, Settings};
    use model::{Incarnation, LegId, VolumeId};

    /// Drive 1 is this node's, drive 2 another's; a volume has leg 3 on the one and leg 4 on the other.
    fn two_drives() -> State {
        let mut state = State::new(Settings::default());
        let mut volume = a_volume();
        for number in [1, 2] {
            let drive = Drive {
                node: NodeId(number),
                serial: format!("none-{number}").parse().unwrap(),
                size_bytes: 1 << 30,
                cache: Cache::Safe,
                power_cycles: None,
                retired: false,
                health: Health::Good,
                leaving: Vec::new(),
            };
            state.drives.insert(DriveId(number), drive);
            let leg = Leg {
                drive: DriveId(number),
                extents: Vec::new(),
                to_lay: 0,
                incarnation: Incarnation(1),
                run: None,
                state: LegState::InSync,
                replaces: None,
                held_all: true,
            };
            volume.legs.insert(LegId(2 + u16::try_from(number).unwrap()), leg);
        }
        state.volumes.insert(VolumeId(7), volume);
        state
    }

    #[test]
    fn only_this_nodes_drives_are_looked_at_and_their_legs_are_told_of() {
        let state = two_drives();
        let own = own(&state, NodeId(1));
        assert_eq!(own.keys().collect::<Vec<_>>(), [&DriveId(1)]);
        assert_eq!(legs_on(&state, &[DriveId(1)]), [(VolumeId(7), LegId(3))]);
        assert_eq!(legs_on(&state, &[]), []);
    }

    #[test]
    fn a_drive_that_can_not_be_looked_at_does_not_stall_and_one_that_left_is_forgotten() {
        let state = two_drives();
        let mut stalls = BTreeMap::from([(DriveId(2), Stall::default())]);
        assert_eq!(look(&mut Counters::default(), &mut stalls, &own(&state, NodeId(1))), []);
        assert_eq!(stalls.keys().collect::<Vec<_>>(), [&DriveId(1)]);
    }
}
