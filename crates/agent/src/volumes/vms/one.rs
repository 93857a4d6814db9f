//! The task of one virtual machine.
//!
//! Invariants: it carries out one order after the other, and between two of them looks at what runs. Told to end it, it drops whatever it is at. An order for a
//! generation that is not there is void.
//!
//! On failure: what is there is killed, and control told so.

use super::super::VolumesError;
use super::super::shell::blocking;
use super::{ACCEL, QEMU, Shared, kill, places, tell};
use ::vm::console;
use ::vm::instance::{Instance, InstanceError, Phase};
use ::vm::machine::{Disk, Machine, Role};
use control::vm::How;
use control::vm::runner::{self, Event};
use model::{Generation, VmId};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tracing::{info, warn};

/// How long one has to shut itself down before it is killed.
const SHUT_DOWN_MAX: Duration = Duration::from_mins(1);
/// How often one that says nothing is looked at, and its console cut to what is kept.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What is asked of it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    Start(Generation, runner::Role),
    Resume(Generation),
    Send(Generation),
    Stop { generation: Generation, save: bool },
    End(Generation),
}

/// A run of it whose QEMU answers.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) generation: Generation,
    instance: Instance,
}

/// One that an earlier run of the agent has left and that surely runs.
pub(super) async fn find(id: VmId) -> Option<Watched> {
    let found = async {
        let Some(mut instance) = Instance::find(&places(id)).await? else { return Ok(None) };
        let phase = instance.phase().await?;
        if phase != Phase::Running {
            let was = instance.process().record.role;
            warn!("{id}, begun as {was:?}, is {phase:?}: it is killed");
            return Ok(None);
        }
        let generation = instance.process().record.generation();
        Ok::<_, InstanceError>(Some(Watched { generation, instance }))
    };
    found.await.unwrap_or_else(|error| {
        warn!("{id} can't be taken up: {}", crate::chain(&error));
        None
    })
}

/// The task.
pub(super) struct One {
    id: VmId,
    shared: Shared,
    watched: Option<Watched>,
}

/// What became of an order, or of looking.
type Seen = Result<Option<How>, VolumesError>;

impl One {
    pub(super) fn new(id: VmId, shared: Shared, watched: Option<Watched>) -> Self {
        Self { id, shared, watched }
    }

    pub(super) async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>, end: Arc<Notify>) {
        // The generation that is being started, run or ended.
        let mut generation = self.watched.as_ref().map(|watched| watched.generation);
        loop {
            let seen = tokio::select! {
                biased;
                () = end.notified() => Ok(Some(How::Died)),
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
                    How::Died
                }
            };
            self.watched = None;
            while let Err(error) = kill(self.id).await {
                warn!("can't end {}: {}", self.id, crate::chain(&error));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            if let Some(generation) = generation.take() {
                info!("{} in {generation} has ended: {how:?}", self.id);
                tell(&self.shared.told, Event::Ended(self.id, generation, how));
            }
        }
    }

    /// The next order, or what is seen of what runs. `None`: the agent ends.
    async fn go_on(
        &mut self,
        orders: &mut mpsc::UnboundedReceiver<Order>,
        generation: &mut Option<Generation>,
    ) -> Option<Seen> {
        let order = match &mut self.watched {
            None => orders.recv().await?,
            Some(watched) => tokio::select! {
                biased;
                order = orders.recv() => order?,
                stirs = watched.instance.stirs(LOOK_EVERY) => return Some(match stirs {
                    Ok(_) => self.look().await,
                    Err(error) => Err(error.into()),
                }),
            },
        };
        Some(self.carry_out(order, generation).await)
    }

    async fn carry_out(&mut self, order: Order, generation: &mut Option<Generation>) -> Seen {
        match order {
            Order::Start(begun, as_what) => {
                *generation = Some(begun);
                self.start(begun, as_what).await
            }
            Order::Resume(named) => self.resume(named).await,
            Order::Send(named) => {
                tell(&self.shared.told, Event::Failed(self.id, named));
                Ok(None)
            }
            Order::Stop { generation: named, save } => self.stop(named, save).await,
            // What was to be ended has been, or it is ended now.
            Order::End(named) => Ok((*generation == Some(named)).then_some(How::Died)),
        }
    }

    async fn start(&mut self, generation: Generation, as_what: runner::Role) -> Seen {
        if as_what != runner::Role::Run {
            return Err(VolumesError::NotYet("what waits for another node's memory, or was saved"));
        }
        let machine = self.machine(generation).await?;
        let instance = Instance::start(QEMU.as_ref(), &machine, &places(self.id), ACCEL, Role::Run).await?;
        self.watched = Some(Watched { generation, instance });
        info!("{} is begun in {generation}", self.id);
        self.resume(generation).await
    }

    /// What is started: what the ledger says of it, on the devices of its volumes.
    async fn machine(&self, generation: Generation) -> Result<Machine, VolumesError> {
        let state = self.shared.ledger.now();
        let vm = state.vms.all.get(&self.id).ok_or(VolumesError::NoVm(self.id))?;
        let (place, volumes) = (Arc::clone(&self.shared.place), vm.spec.volumes.clone());
        let disks = blocking(move || {
            let engine = place.own_engine()?;
            let disk = |volume| {
                let path = engine.top(volume)?.ok_or(VolumesError::NotHere(volume))?;
                Ok(Disk { path, serial: volume.to_string() })
            };
            volumes.into_iter().map(disk).collect::<Result<_, VolumesError>>()
        });
        Ok(Machine {
            vm: self.id,
            generation,
            name: vm.spec.name.clone(),
            memory_bytes: vm.spec.memory_bytes,
            cores: vm.spec.cores,
            disks: disks.await?,
            nics: Vec::new(),
        })
    }

    fn of(&mut self, named: Generation) -> Option<&mut Instance> {
        self.watched
            .as_mut()
            .filter(|watched| watched.generation == named)
            .map(|watched| &mut watched.instance)
    }

    async fn resume(&mut self, named: Generation) -> Seen {
        let Some(instance) = self.of(named) else { return Ok(None) };
        instance.resume().await?;
        info!("{} runs, in {named}", self.id);
        tell(&self.shared.told, Event::Started(self.id, named));
        Ok(None)
    }

    async fn stop(&mut self, named: Generation, save: bool) -> Seen {
        if save {
            return Err(VolumesError::NotYet("saving"));
        }
        let Some(instance) = self.of(named) else { return Ok(None) };
        let by_itself = instance.shut_down(SHUT_DOWN_MAX).await?;
        Ok(Some(if by_itself { How::PoweredOff } else { How::Died }))
    }

    /// How what runs is now. One that stands still because a disk failed is let go on: whoever took its disk from it ends it.
    async fn look(&mut self) -> Seen {
        console::trim(&places(self.id)).map_err(|source| VolumesError::Console { id: self.id, source })?;
        let Some(Watched { instance, .. }) = &mut self.watched else { return Ok(None) };
        match instance.phase().await? {
            Phase::Off => Ok(Some(How::PoweredOff)),
            Phase::Broken => Ok(Some(How::Died)),
            Phase::DiskError => {
                warn!("{} stands still: a disk failed", self.id);
                tokio::time::sleep(Duration::from_secs(1)).await;
                instance.resume().await?;
                Ok(None)
            }
            Phase::Waiting | Phase::Still | Phase::Running | Phase::Finishing | Phase::Sent => Ok(None),
        }
    }
}

impl From<InstanceError> for VolumesError {
    fn from(error: InstanceError) -> Self {
        Self::Vm(Box::new(error))
    }
}
