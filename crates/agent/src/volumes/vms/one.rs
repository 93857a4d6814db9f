//! The task of one virtual machine.
//!
//! ```text
//!  a start       Start(Run) ─ disks that lead nowhere, QEMU stands still ─► Ready        Resume: disks lead to the volumes, it runs
//!  a save        Stop { save } ─ it stands still, its memory goes to its volume ─► Saved, or NotSaved: Resume        … End        ([`super::memory`])
//!  a restore     Start(Restore) ─ as a start, then what was saved is loaded ─► Ready        Resume: what was saved is wiped, disks lead to the volumes, it runs
//!  a migration   there: Start(Incoming) ─ disks that lead nowhere, QEMU listens ─► Ready        all received ─► answered        Resume: disks lead to the volumes, it runs
//!                here:  Send ─ QEMU sends, through a wire ─► all sent, and answered ─► disks lead nowhere ─► Paused        … End
//! ```
//! Invariants: it carries out one order after the other, and between two of them looks at what runs, and at how far sending is. Told to end it, it drops whatever it is at. An
//! order for a generation that is not there is void. It is *Paused* only when the other side has all of it, so that from then on neither runs by itself
//! ([`vm::instance`]): the ledger's next word decides which does.
//!
//! On failure: what is there is killed, and control told so. Sending that comes to nothing is told as that, and it runs on, or stands still until it is told to.

use super::super::shell::blocking;
use super::super::{VolumesError, openers};
use super::disks::{Disks, Lead};
use super::memory::may_be_saved;
use super::wire::Wire;
use super::{ACCEL, QEMU, Shared, kill, places, taps, tell};
use ::vm::console;
use ::vm::instance::{Instance, InstanceError, Limits, Phase, Sending, Switchover, last_words};
use ::vm::machine::{Disk, Machine, Places, Role};
use ::vm::process::{self, Process, ProcessError};
use api::IncomingQuery;
use control::vm::runner::{self, Event, Stage};
use control::vm::{How, Vm};
use model::{Generation, NodeId, SaveTry, VmId, VolumeId};
use rustix::process::Pid;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};

/// How long one has to shut itself down before it is killed.
const SHUT_DOWN_MAX: Duration = Duration::from_mins(1);
/// How often one that says nothing is looked at, and its console cut to what is kept.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How often it is looked at while it is sent: what is between the last of it and the next step is a part of the time for which it stands still.
const LOOK_AT_SENDING: Duration = Duration::from_millis(20);
/// How long sending may take. A guest that writes to its memory faster than that is sent never gets to an end.
const SEND_MAX: Duration = Duration::from_mins(5);
/// What sending may cost. QEMU stops the guest for the rest when it thinks that it is sent in this time.
const LIMITS: Limits = Limits { bandwidth: 1 << 30, downtime: Duration::from_millis(100) };
/// How long the last of it may take to be read, after it has come.
const RECEIVE_MAX: Duration = Duration::from_secs(10);

/// What is asked of it.
#[derive(Debug)]
pub(super) enum Order {
    Start(Generation, runner::Role),
    Resume(Generation),
    Send {
        generation: Generation,
        to: NodeId,
        there: Generation,
    },
    /// All of it has come: say whether that is complete.
    Received(Generation, oneshot::Sender<bool>),
    Stop {
        generation: Generation,
        save: Option<SaveTry>,
    },
    End(Generation),
}

/// A run of it whose QEMU answers.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) generation: Generation,
    pub(super) instance: Instance,
    /// Whether it was ordered to run: only then does it go on by itself after a disk's error.
    pub(super) runs: bool,
    /// Whether what it has in memory may be, whole, on the volume for that: it was restored from there, or was saved, and has not run since. It is wiped before it runs.
    pub(super) may_be_saved: bool,
    sends: Option<Sends>,
}

/// It is being sent.
#[derive(Debug)]
struct Sends {
    wire: Wire,
    deadline: Instant,
}

/// One that an earlier run of the agent has left, and how far it surely is: it runs, stands still with all of it elsewhere or saved, was restored, or waits for another node's.
pub(super) async fn find(id: VmId) -> Option<(Watched, Stage)> {
    let found = async {
        let Some(mut instance) = Instance::find(&places(id)).await? else { return Ok(None) };
        let role = instance.process().record.role;
        let mut phase = instance.phase().await?;
        // One that waits says how far its receiving is. What carried what is sent has ended with the agent.
        if phase != Phase::Waiting {
            phase = instance.come_to_rest().await?;
        }
        let sending = instance.sending().await?;
        let Some(stage) = stage_of(phase, role, &sending) else {
            warn!("{id}, begun as {role:?}, is {phase:?}: it is killed");
            return Ok(None);
        };
        let generation = instance.process().record.generation();
        let runs = stage == Stage::Running;
        let may_be_saved = may_be_saved(phase, role, &sending);
        let watched = Watched { generation, instance, runs, may_be_saved, sends: None };
        Ok::<_, InstanceError>(Some((watched, stage)))
    };
    found.await.unwrap_or_else(|error| {
        warn!("{id} can't be taken up: {}", crate::chain(&error));
        None
    })
}

/// How far one is that an earlier run of the agent has left; `None`: nobody can tell. One that has received all of it says of that, too, that it is done.
fn stage_of(phase: Phase, role: Role, sending: &Sending) -> Option<Stage> {
    match phase {
        Phase::Running => Some(Stage::Running),
        Phase::New => Some(Stage::Ready(runner::Role::Run)),
        // To a generation that nobody has, or to where it is saved: what the ledger says of it now decides.
        Phase::Sent => Some(Stage::Sending(Generation(0))),
        Phase::Still if matches!(sending, Sending::Failed(_)) => Some(Stage::Sending(Generation(0))),
        Phase::Waiting | Phase::Still if role == Role::Incoming => Some(Stage::Ready(runner::Role::Incoming)),
        // All of it was looked through before any was given to it. One that waits yet has perhaps not all of it, and is begun anew.
        Phase::Still if role == Role::Restore => Some(Stage::Ready(runner::Role::Restore)),
        _ => None,
    }
}

/// The task.
pub(super) struct One {
    pub(super) id: VmId,
    pub(super) shared: Shared,
    watched: Option<Watched>,
    disks: Disks,
    /// Whose disks were made here.
    volumes: Vec<VolumeId>,
    /// Its process, while that is being started.
    starts: Option<JoinHandle<Result<Process, ProcessError>>>,
    /// The order that has broken saving off.
    pub(super) next: Option<Order>,
}

/// What became of an order, or of looking.
pub(super) type Seen = Result<Option<How>, VolumesError>;

impl One {
    pub(super) fn new(id: VmId, shared: Shared, watched: Option<Watched>) -> Self {
        let known = shared.ledger.now().vms.all.get(&id).map(|vm| vm.spec.disks().collect());
        let volumes = watched.as_ref().and(known).unwrap_or_default();
        let disks = Disks::new(Arc::clone(&shared.place));
        Self { id, shared, watched, disks, volumes, starts: None, next: None }
    }

    pub(super) async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>, end: Arc<Notify>) {
        if self.watched.is_some() {
            // The former run's valve closes.
            self.shared.taps.hold(self.id, &self.shared.ledger.now()).await;
        }
        // The generation that is being started, run or ended.
        let mut generation = self.watched.as_ref().map(|watched| watched.generation);
        loop {
            let seen = tokio::select! {
                biased;
                () = end.notified() => {
                    generation = void_before_end(&mut orders).or(generation);
                    Ok(Some(How::Died))
                }
                seen = self.go_on(&mut orders, &mut generation) => match seen {
                    Some(seen) => seen,
                    None => return,
                },
            };
            let how = match seen {
                Ok(None) => continue,
                Ok(Some(how)) => how,
                Err(error) => {
                    warn!("{} is ended: {}", self.id, crate::chain(&error));
                    if let Some(said) = left_unsaid(&error, &places(self.id)) {
                        warn!("its QEMU said: {said}");
                    }
                    How::Died
                }
            };
            self.watched = None;
            self.next = None;
            if let Some(starts) = self.starts.take() {
                // Whatever comes of it is found then.
                let _ = starts.await;
            }
            while let Err(error) = kill(self.id).await {
                warn!("can't end {}: {}", self.id, crate::chain(&error));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            if let Err(error) = self.disks.remove(std::mem::take(&mut self.volumes)).await {
                warn!("disks of {} are left: {}", self.id, crate::chain(&error));
            }
            if let Some(generation) = generation.take() {
                info!("{} in {generation} has ended: {how:?}", self.id);
                tell(&self.shared.told, Event::Ended(self.id, generation, how));
            }
            taps::disconnect(|vm| vm != self.id).await;
        }
    }

    /// The next order, or what is seen of what runs. `None`: the agent ends.
    async fn go_on(
        &mut self,
        orders: &mut mpsc::UnboundedReceiver<Order>,
        generation: &mut Option<Generation>,
    ) -> Option<Seen> {
        if let Some(order) = self.next.take() {
            return Some(self.carry_out(order, orders, generation).await);
        }
        let order = match &mut self.watched {
            None => orders.recv().await?,
            Some(watched) => tokio::select! {
                biased;
                order = orders.recv() => order?,
                stirs = watched.instance.stirs(watched.look_every()) => return Some(match stirs {
                    Ok(_) => self.look().await,
                    Err(error) => Err(error.into()),
                }),
            },
        };
        Some(self.carry_out(order, orders, generation).await)
    }

    async fn carry_out(
        &mut self,
        order: Order,
        orders: &mut mpsc::UnboundedReceiver<Order>,
        generation: &mut Option<Generation>,
    ) -> Seen {
        match order {
            Order::Start(begun, as_what) => {
                *generation = Some(begun);
                self.start(begun, as_what).await
            }
            Order::Resume(named) => self.resume(named).await,
            Order::Send { generation: named, to, there } => self.send(named, to, there).await,
            Order::Received(named, answer) => {
                let complete = self.received(named).await;
                // Whoever asked may be gone.
                let _ = answer.send(matches!(complete, Ok(true)));
                complete.map(|_| None)
            }
            Order::Stop { generation: named, save: Some(which) } => self.save(named, which, orders).await,
            Order::Stop { generation: named, save: None } => self.stop(named).await,
            // What was to be ended has been, or it is ended now.
            Order::End(named) => Ok((*generation == Some(named)).then_some(How::Died)),
        }
    }

    async fn start(&mut self, generation: Generation, as_what: runner::Role) -> Seen {
        let role = match as_what {
            runner::Role::Run => Role::Run,
            runner::Role::Incoming => Role::Incoming,
            runner::Role::Restore => Role::Restore,
        };
        let machine = self.machine(generation).await?;
        let instance = Instance::attach(self.process(machine, role).await?).await?;
        let watched = Watched { generation, instance, runs: false, may_be_saved: false, sends: None };
        let watched = self.watched.insert(watched);
        info!("{} is begun in {generation}", self.id);
        match role {
            Role::Run => {}
            Role::Incoming => watched.instance.listen().await?,
            Role::Restore => {
                if let Some(spoilt) = self.load(generation).await? {
                    return Ok(Some(spoilt));
                }
            }
        }
        tell(&self.shared.told, Event::Ready(self.id, generation));
        Ok(None)
    }

    /// Starts its process. On another thread: a node's processor may take a second for the fork and the exec, and its peers would take it for dead.
    async fn process(&mut self, machine: Machine, role: Role) -> Result<Process, VolumesError> {
        let places = places(self.id);
        let begun = Instant::now();
        let start = move || process::start(QEMU.as_ref(), &machine, &places, ACCEL, role);
        let started = self.starts.insert(tokio::task::spawn_blocking(start)).await;
        self.starts = None;
        let process = started??;
        info!("{} has its process after {} ms", self.id, begun.elapsed().as_millis());
        Ok(process)
    }

    /// What is started: what the ledger says of it, on disks that lead nowhere yet.
    async fn machine(&mut self, generation: Generation) -> Result<Machine, VolumesError> {
        let vm = self.known()?;
        self.volumes = vm.spec.disks().collect();
        Ok(Machine {
            vm: self.id,
            generation,
            name: vm.spec.name.clone(),
            memory_bytes: vm.spec.memory_bytes,
            cores: vm.spec.cores,
            disks: self.lead(&vm, Lead::Nowhere).await?,
            nics: self.shared.taps.connect(self.id, &vm.spec).await?,
        })
    }

    pub(super) fn known(&self) -> Result<Vm, VolumesError> {
        self.shared.ledger.now().vms.all.get(&self.id).cloned().ok_or(VolumesError::NoVm(self.id))
    }

    /// Has its disks lead somewhere; they are made if there are none.
    async fn lead(&self, vm: &Vm, lead: Lead) -> Result<Vec<Disk>, VolumesError> {
        let state = self.shared.ledger.now();
        let size = |id: VolumeId| {
            let found = state.volumes.get(&id).ok_or(VolumesError::NotHere(id))?;
            Ok::<_, VolumesError>((id, found.size_bytes))
        };
        let volumes = vm.spec.disks().map(size).collect::<Result<_, _>>()?;
        self.disks.lead(volumes, lead).await
    }

    pub(super) async fn lead_to_volumes(&self, vm: &Vm) -> Result<Vec<Disk>, VolumesError> {
        self.lead(vm, Lead::Volume).await
    }

    pub(super) fn of(&mut self, named: Generation) -> Option<&mut Watched> {
        self.watched.as_mut().filter(|watched| watched.generation == named)
    }

    /// Lets it run, on its volumes; a migration that goes on is given up.
    async fn resume(&mut self, named: Generation) -> Seen {
        let Some(watched) = self.of(named) else { return Ok(None) };
        if watched.is_not_sent_any_more().await? {
            info!("{} is not sent any more", self.id);
        }
        let vm = self.known()?;
        let disks = self.lead(&vm, Lead::Volume).await?;
        // Asked before what is saved is used up, and again just before it runs.
        self.shared.place.is_leased()?;
        let Some(watched) = self.of(named) else { return Ok(None) };
        has_its_disks(watched.instance.process().pid(), disks).await?;
        if watched.may_be_saved && vm.spec.saves_to.is_some() && !self.is_used_up(vm.spec.saves_to).await {
            return Ok(Some(How::Spoilt));
        }
        let place = Arc::clone(&self.shared.place);
        let Some(watched) = self.of(named) else { return Ok(None) };
        watched.may_be_saved = false;
        place.is_leased()?;
        watched.instance.resume().await?;
        watched.runs = true;
        info!("{} runs, in {named}", self.id);
        tell(&self.shared.told, Event::Started(self.id, named));
        Ok(None)
    }

    /// Whether all of it has come, and stands still: what its sender was stopped by, a disk's error or the guest itself, it would be here, too.
    async fn received(&mut self, named: Generation) -> Result<bool, VolumesError> {
        let Some(Watched { instance, .. }) = self.of(named) else { return Ok(false) };
        instance.received(RECEIVE_MAX).await?;
        Ok(instance.phase().await? == Phase::Still)
    }

    async fn send(&mut self, named: Generation, to: NodeId, there: Generation) -> Seen {
        let failed = Event::Failed(self.id, named);
        let Some(watched) = self.watched.as_mut().filter(|watched| watched.generation == named) else {
            tell(&self.shared.told, failed);
            return Ok(None);
        };
        let socket = places(self.id).outgoing();
        let of = IncomingQuery { vm: self.id.0, generation: there.0 };
        let wire = match self.shared.ledger.contact(to) {
            Some(contact) => Wire::begin(&socket, &self.shared.transport, contact, of).await,
            None => Err(VolumesError::NoLedger),
        };
        let begun = match wire {
            Ok(wire) => {
                watched.sends = Some(Sends { wire, deadline: Instant::now() + SEND_MAX });
                watched.begin_to_send(&socket).await.map_err(VolumesError::from)
            }
            Err(error) => Err(error),
        };
        match begun {
            Ok(()) => info!("{} is sent to {to}, to {there} there", self.id),
            Err(error) => {
                warn!("{} can't be sent to {to}: {}", self.id, crate::chain(&error));
                watched.sends = None;
                tell(&self.shared.told, failed);
            }
        }
        Ok(None)
    }

    /// How far sending is. When the other side has all of it, it gives its volumes away.
    async fn look_at_sending(&mut self) -> Seen {
        let Some(Watched { generation, instance, sends, .. }) = &mut self.watched else { return Ok(None) };
        let Some(Sends { wire, deadline }) = sends else { return Ok(None) };
        let (id, generation) = (self.id, *generation);
        let over = match instance.sending().await? {
            Sending::Copying(_) | Sending::Finishing if Instant::now() < *deadline => return Ok(None),
            Sending::Done => match wire.outcome().await {
                None if Instant::now() < *deadline => return Ok(None),
                None => Err("the other side does not say that it has all of it".to_owned()),
                Some(Ok(())) => Ok(()),
                Some(Err(error)) => Err(crate::chain(&error)),
            },
            Sending::Failed(why) => match wire.outcome().await {
                Some(Err(error)) => Err(crate::chain(&error)),
                _ => Err(why),
            },
            late @ (Sending::Copying(_) | Sending::Finishing) => {
                instance.cancel().await?;
                Err(format!("it takes too long, and is {late:?}"))
            }
            other @ (Sending::Not | Sending::Held) => Err(format!("sending is {other:?}")),
        };
        *sends = None;
        let over = match over {
            Ok(()) => self.disks.part(self.volumes.clone()).await.map_err(|error| crate::chain(&error)),
            Err(why) => Err(why),
        };
        match over {
            Ok(()) => {
                info!("{id} in {generation} stands still: all of it is there");
                tell(&self.shared.told, Event::Paused(id, generation));
            }
            Err(why) => {
                warn!("{id} in {generation} is not sent: {why}");
                tell(&self.shared.told, Event::Failed(id, generation));
            }
        }
        Ok(None)
    }

    async fn stop(&mut self, named: Generation) -> Seen {
        let Some(Watched { instance, .. }) = self.of(named) else { return Ok(None) };
        let by_itself = instance.shut_down(SHUT_DOWN_MAX).await?;
        Ok(Some(if by_itself { How::PoweredOff } else { How::Died }))
    }

    /// How what runs is now. One that stands still because a disk failed is let go on: whoever took its disk from it ends it.
    async fn look(&mut self) -> Seen {
        let Some(Watched { instance, sends, .. }) = &mut self.watched else { return Ok(None) };
        if sends.is_some() && instance.phase().await? != Phase::Off {
            return self.look_at_sending().await;
        }
        console::trim(&places(self.id)).map_err(|source| VolumesError::Console { id: self.id, source })?;
        self.shared.taps.hold(self.id, &self.shared.ledger.now()).await;
        let Some(Watched { instance, runs, may_be_saved, .. }) = &mut self.watched else { return Ok(None) };
        match instance.phase().await? {
            Phase::Off => Ok(Some(How::PoweredOff)),
            phase @ Phase::Broken => Err(InstanceError::Phase { phase, what: "let run on" }.into()),
            // It was restored so, and waits to be let run.
            Phase::DiskError if *may_be_saved => Ok(None),
            phase @ Phase::DiskError if !*runs => {
                Err(InstanceError::Phase { phase, what: "let run on" }.into())
            }
            Phase::DiskError => {
                warn!("{} stands still: a disk failed", self.id);
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.shared.place.is_leased()?;
                instance.resume().await?;
                Ok(None)
            }
            Phase::New | Phase::Waiting | Phase::Still | Phase::Running | Phase::Finishing | Phase::Sent => {
                Ok(None)
            }
        }
    }
}

/// It was started with numbers of devices (`/dev/dm-N`), and one may have been another device's when it opened it. It does not run with that.
pub(super) async fn has_its_disks(pid: Pid, disks: Vec<Disk>) -> Result<(), VolumesError> {
    blocking(move || match openers::not_open(pid, disks.iter().map(|disk| disk.path.as_path())) {
        Some(disk) => Err(VolumesError::AtOdds(format!("its QEMU does not have {} open", disk.display()))),
        None => Ok(()),
    })
    .await
}

/// What QEMU itself has said of one that is ended since something went wrong, unless that is the error's own words. Its folder goes with the next start.
fn left_unsaid(why: &VolumesError, places: &Places) -> Option<String> {
    let told = matches!(why, VolumesError::Vm(error) if matches!(**error, InstanceError::Ended { .. }));
    if told { None } else { last_words(places) }
}

/// What was ordered before an end is void; the run that would have been started, if any.
fn void_before_end(orders: &mut mpsc::UnboundedReceiver<Order>) -> Option<Generation> {
    let mut begun = None;
    while let Ok(order) = orders.try_recv() {
        match order {
            Order::Start(generation, _) => begun = Some(generation),
            Order::End(_) => break,
            Order::Resume(_) | Order::Send { .. } | Order::Received(..) | Order::Stop { .. } => {}
        }
    }
    begun
}

impl Watched {
    async fn begin_to_send(&mut self, socket: &Path) -> Result<(), InstanceError> {
        let phase = self.instance.phase().await?;
        if phase != Phase::Running {
            return Err(InstanceError::Phase { phase, what: "sent" });
        }
        self.instance.send(socket, Switchover::AtOnce, LIMITS).await
    }

    /// A migration that goes on is given up; whether there was one.
    pub(super) async fn is_not_sent_any_more(&mut self) -> Result<bool, InstanceError> {
        let Some(sends) = self.sends.take() else { return Ok(false) };
        drop(sends);
        self.instance.cancel().await.map(|_| true)
    }

    fn look_every(&self) -> Duration {
        if self.sends.is_some() { LOOK_AT_SENDING } else { LOOK_EVERY }
    }
}

impl From<InstanceError> for VolumesError {
    fn from(error: InstanceError) -> Self {
        Self::Vm(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_taken_up_as_what_it_surely_is() {
        let (failed, sent) = (Sending::Failed("cancelled".to_owned()), Stage::Sending(Generation(0)));
        let waits = Stage::Ready(runner::Role::Incoming);
        assert_eq!(stage_of(Phase::Running, Role::Incoming, &Sending::Done), Some(Stage::Running));
        assert_eq!(stage_of(Phase::Sent, Role::Run, &Sending::Done), Some(sent));
        assert_eq!(
            stage_of(Phase::Still, Role::Run, &failed),
            Some(sent),
            "stopped to be sent, and it was not"
        );
        assert_eq!(stage_of(Phase::Still, Role::Incoming, &failed), Some(sent));
        assert_eq!(stage_of(Phase::Still, Role::Incoming, &Sending::Done), Some(waits), "all of it has come");
        assert_eq!(stage_of(Phase::Waiting, Role::Incoming, &Sending::Not), Some(waits));
        let restored = Stage::Ready(runner::Role::Restore);
        assert_eq!(stage_of(Phase::Still, Role::Restore, &Sending::Done), Some(restored));
        assert_eq!(
            stage_of(Phase::Still, Role::Restore, &failed),
            Some(sent),
            "it has run, and was about to be saved again"
        );
        assert_eq!(stage_of(Phase::Waiting, Role::Restore, &Sending::Not), None, "perhaps not all has come");
        assert_eq!(stage_of(Phase::Still, Role::Run, &Sending::Not), None, "stopped, and nobody knows why");
        assert_eq!(
            stage_of(Phase::New, Role::Run, &Sending::Not),
            Some(Stage::Ready(runner::Role::Run)),
            "it was never let run"
        );
        assert_eq!(stage_of(Phase::DiskError, Role::Incoming, &Sending::Done), None);
    }

    #[test]
    fn what_qemu_said_is_told_unless_the_error_says_it() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places::new(folder.path(), VmId(3));
        let late = || InstanceError::Late { what: "receiving", bound: RECEIVE_MAX }.into();
        assert_eq!(left_unsaid(&late(), &places), None, "it has said nothing");
        std::fs::create_dir_all(places.folder()).unwrap();
        std::fs::write(places.output(), "qemu: a device was refused\n").unwrap();
        assert_eq!(left_unsaid(&late(), &places).unwrap(), "qemu: a device was refused");
        let ended = InstanceError::Ended { said: "qemu: a device was refused".to_owned() }.into();
        assert_eq!(left_unsaid(&ended, &places), None);
    }

    #[tokio::test]
    async fn one_whose_disk_is_another_device_does_not_run() {
        let disk = |path: &str| vec![Disk { path: path.into(), serial: String::new() }];
        let nobody = has_its_disks(rustix::process::getpid(), disk("/dev/null")).await;
        assert!(matches!(nobody, Err(VolumesError::AtOdds(_))), "{nobody:?}");
        assert!(has_its_disks(rustix::process::getpid(), Vec::new()).await.is_ok());
    }

    #[test]
    fn what_was_ordered_before_an_end_is_void_and_what_comes_after_it_is_not() {
        let (order, mut orders) = mpsc::unbounded_channel();
        for one in [
            Order::Start(Generation(3), runner::Role::Run),
            Order::Resume(Generation(3)),
            Order::End(Generation(3)),
            Order::Start(Generation(4), runner::Role::Run),
        ] {
            order.send(one).unwrap();
        }
        assert_eq!(void_before_end(&mut orders), Some(Generation(3)));
        assert!(matches!(orders.try_recv(), Ok(Order::Start(Generation(4), _))));
        assert_eq!(void_before_end(&mut orders), None);
    }
}
