//! The virtual machine of a suite is stopped, or its memory saved, by command or since its rack is drained; and it goes on where it was.
//!
//! On failure: what the product does not do is a step that does not hold.

use super::{Runner, Seen, milliseconds};
use crate::run::RunError;
use crate::suite::{Room, VmStep};
use control::State;
use control::vm::{Leftover, VmPhase, Wanted};
use deploy::DeployError;
use deploy::pool::{PoolError, confirmed, newest, views};
use deploy::vms::Drained;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often it is looked what has become of it.
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl Runner<'_> {
    pub(super) async fn save_step(&mut self, step: &VmStep) -> Result<Seen, RunError> {
        let ms = Duration::from_millis;
        Ok(match step {
            VmStep::Stop { within_ms } => {
                super::or_failure(self.wait_until_wanted(Wanted::Stopped, ms(*within_ms)).await)
            }
            VmStep::Save { within_ms } => {
                super::or_failure(self.wait_until_wanted(Wanted::Saved, ms(*within_ms)).await)
            }
            VmStep::BeginSaving { within_ms } => {
                super::or_failure(self.only_want(Wanted::Saved, ms(*within_ms)).await)
            }
            VmStep::Saved { within_ms } => self.vm_is_saved(self.last_fault(), ms(*within_ms)).await,
            VmStep::BeginRestoring { within_ms } => {
                super::or_failure(self.only_want(Wanted::Running, ms(*within_ms)).await)
            }
            VmStep::Restore { room, within_ms } => self.restore_vm(*room, ms(*within_ms)).await?,
            VmStep::DrainSaving { room, within_ms } => {
                super::or_failure(self.drain_saving(*room, ms(*within_ms)).await)
            }
            _ => Seen::not("no step of this kind"),
        })
    }

    async fn wait_until_wanted(&mut self, wanted: Wanted, within: Duration) -> Result<Seen, DeployError> {
        let begun = Instant::now();
        let Some(id) = self.guest.as_ref().map(|guest| guest.id) else {
            return Ok(Seen::not("there is no virtual machine"));
        };
        let members = self.working().members;
        deploy::vms::want(&members, id, wanted, within, |_| {}).await?;
        let after_ms = milliseconds(begun.elapsed());
        self.read_consoles().await;
        Ok(Seen::held(format!("after {after_ms} ms")).measuring(after_ms))
    }

    /// Says what is wanted of it, and waits for nothing but the ledger.
    async fn only_want(&mut self, wanted: Wanted, within: Duration) -> Result<Seen, DeployError> {
        let Some(id) = self.guest.as_ref().map(|guest| guest.id) else {
            return Ok(Seen::not("there is no virtual machine"));
        };
        let members = self.working().members;
        let begun = Instant::now();
        deploy::vms::say(&members, id, wanted, within).await?;
        Ok(Seen::held(format!("the ledger has it after {} ms", milliseconds(begun.elapsed()))))
    }

    /// It runs again, and the first write that is acknowledged to it then is of the same run of the guest as the last one before.
    async fn restore_vm(&mut self, room: Room, within: Duration) -> Result<Seen, RunError> {
        let begun = Instant::now();
        let members = self.working().members;
        let Some(id) = self.guest.as_ref().map(|guest| guest.id) else {
            return Ok(Seen::not("there is no virtual machine"));
        };
        let started = deploy::vms::want(&members, id, Wanted::Running, within, |_| {});
        // How long it was away is as long as it was saved.
        let seen = self.moves_by(started, room, within, Duration::MAX).await?;
        Ok(if seen.good { seen.measuring(milliseconds(begun.elapsed())) } else { seen })
    }

    /// Its rack is emptied, what can't leave being saved.
    async fn drain_saving(&mut self, room: Room, within: Duration) -> Result<Seen, DeployError> {
        let begun = Instant::now();
        let members = self.working().members;
        let what = Drained::Rack(self.cluster.spec.zones[room.index()].name.clone());
        deploy::vms::drain(&members, &what, Leftover::Saved, within, |_| {}).await?;
        let after_ms = milliseconds(begun.elapsed());
        let saved = self.phase_of_guest(within).await? == Some(VmPhase::Saved);
        // What it said before is no sign that it goes on.
        self.read_consoles().await;
        let what = format!("its rack is empty after {after_ms} ms");
        Ok(if saved {
            Seen::held(what).measuring(after_ms)
        } else {
            Seen::not(format!("{what}, and it is not saved"))
        })
    }

    async fn phase_of_guest(&self, within: Duration) -> Result<Option<VmPhase>, PoolError> {
        let members = self.working().members;
        let (_, state) = confirmed(&members, within).await?;
        Ok(self.phase_in(&state))
    }

    pub(super) fn phase_in(&self, state: &State) -> Option<VmPhase> {
        let id = self.guest.as_ref()?.id;
        state.vms.all.get(&id).map(|vm| vm.phase)
    }

    /// It is saved within a bound from the last fault, whatever has happened on the way.
    async fn vm_is_saved(&mut self, since: Instant, within: Duration) -> Seen {
        loop {
            let views = views(&self.working().members).await;
            let phase = newest(&views).and_then(|view| self.phase_in(&view.state));
            let after_ms = milliseconds(since.elapsed());
            match phase {
                Some(VmPhase::Saved) => {
                    // What it said before is no sign that it goes on.
                    self.read_consoles().await;
                    return Seen::held(format!("after {after_ms} ms")).measuring(after_ms);
                }
                Some(VmPhase::Off) => return Seen::not("its memory is lost: it is off"),
                _ if since.elapsed() >= within => return Seen::not(format!("it is {phase:?}")),
                _ => sleep(LOOK_EVERY).await,
            }
        }
    }
}
