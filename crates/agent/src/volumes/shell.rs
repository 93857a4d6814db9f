//! The loop around control's [`Member`]: what happens goes in, what it orders is carried out.
//!
//! Invariants: one task steps the member, so that control sees one thing after the other. Nothing is waited for in it.
//!
//! On failure: whatever is lost (a letter, a lease, a proposal's answer) is asked for again by control.

use super::VolumesError;
use super::owner::{Arrays, Shared};
use super::place::Place;
use super::target::Legs;
use crate::clock;
use api::{LeaseAnswer, LeaseRequest};
use control::lease::GrantorEvent;
use control::member::{Input, Member, Output, Timing};
use control::owner::Stage;
use control::state::{Phase, Volume};
use control::target::{Event as TargetEvent, LegOf, Target};
use control::{Command, Moment, State};
use ledger::http::HttpTransport;
use ledger::{Contact, Ledger, Role};
use model::{BootId, DriveId, Epoch, NodeId, NodeName, PowerCycles, VolumeId};
use network::diagnose::PathView;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};

/// How often control is told that time passes.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a node that asks for a lease waits for the answer.
const LEASE_LIMIT: Duration = Duration::from_secs(2);
/// A peer is heard while a hello of it came within this on any storage network, ms; it is silent after the other.
const HEARD_WITHIN_MS: u32 = 600;
const SILENT_AFTER_MS: u32 = 1000;
/// What was heard of a peer last, ms, over all storage networks; so much at most is told apart.
const NEVER_MS: u32 = u32::MAX;

/// The count of a drive that has none in the ledger: nobody counts power cycles yet.
const FIRST_COUNT: PowerCycles = PowerCycles(1);

/// What was heard of peers on the storage networks.
pub(crate) type Heard = Arc<dyn Fn() -> Vec<PathView> + Send + Sync>;

/// Who this node is.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) node: NodeId,
    pub(super) boot: BootId,
}

/// Where tasks tell control what has happened.
#[derive(Debug, Clone)]
pub(super) struct Told(mpsc::UnboundedSender<Input>);

impl Told {
    pub(super) fn tell(&self, input: Input) {
        // The shell ends with the agent; then nobody needs to know.
        let _ = self.0.send(input);
    }
}

/// What the ledger says now.
#[derive(Clone)]
pub(super) struct Ledgers(Ledger);

impl Ledgers {
    pub(super) fn now(&self) -> Arc<State> {
        Arc::clone(&self.0.state().borrow())
    }

    pub(super) fn contact(&self, node: NodeId) -> Option<Contact> {
        self.0.contact(node)
    }
}

/// Work that blocks, on a thread for that.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VolumesError> + Send + 'static,
) -> Result<T, VolumesError> {
    tokio::task::spawn_blocking(work).await?
}

/// What is asked of the shell.
enum Asked {
    Lease(LeaseRequest, oneshot::Sender<bool>),
    Glance(oneshot::Sender<(bool, BTreeMap<VolumeId, String>)>),
}

/// The daemon's side of the shell.
pub(super) struct Handle(mpsc::UnboundedSender<Asked>);

impl Handle {
    /// Answered when control has decided; no answer is none.
    pub(super) async fn lease(&self, request: LeaseRequest) -> bool {
        let (answer, granted) = oneshot::channel();
        let asked = self.0.send(Asked::Lease(request, answer)).is_ok();
        asked && matches!(timeout(LEASE_LIMIT, granted).await, Ok(Ok(true)))
    }

    /// Whether there is a lease, and why volumes wait.
    pub(super) async fn glance(&self) -> Option<(bool, BTreeMap<VolumeId, String>)> {
        let (answer, seen) = oneshot::channel();
        self.0.send(Asked::Glance(answer)).ok()?;
        seen.await.ok()
    }
}

struct Shell {
    identity: Identity,
    ledger: Ledger,
    state: watch::Receiver<Arc<State>>,
    member: Member,
    legs: Legs,
    arrays: Arrays,
    told: Told,
    transport: Arc<HttpTransport>,
    heard: Heard,
    silent: BTreeSet<NodeId>,
    drives: BTreeSet<DriveId>,
    /// In which term this node leads, as control was told.
    leads: Option<u64>,
    waiting: BTreeMap<(NodeId, u64), oneshot::Sender<bool>>,
}

/// Starts the loop, once the node has caught up.
pub(super) fn start(
    identity: Identity,
    ledger: Ledger,
    place: Arc<Place>,
    transport: Arc<HttpTransport>,
    heard: Heard,
) -> Handle {
    let (inputs, told) = mpsc::unbounded_channel();
    let (handle, asked) = mpsc::unbounded_channel();
    let begin = async move {
        while let Err(why) = ledger.caught_up(super::CAUGHT_UP_LIMIT).await {
            info!("not caught up with the ledger yet: {why}");
        }
        let shell = loop {
            let inputs = Told(inputs.clone());
            match Shell::new(&identity, &ledger, &place, inputs, &transport, &heard).await {
                Ok(shell) => break shell,
                Err(error) => warn!("can't see what an earlier agent left: {}", crate::chain(&error)),
            }
            sleep(LOOK_EVERY * 10).await;
        };
        shell.run(told, asked).await;
    };
    tokio::spawn(begin);
    Handle(handle)
}

impl Shell {
    async fn new(
        identity: &Identity,
        ledger: &Ledger,
        place: &Arc<Place>,
        told: Told,
        transport: &Arc<HttpTransport>,
        heard: &Heard,
    ) -> Result<Self, VolumesError> {
        let (node, boot) = (identity.node, identity.boot);
        let state = ledger.state();
        let (now, here) = (Arc::clone(&state.borrow()), Arc::clone(place));
        let now_ms = Moment(clock::uptime_ms());
        let (given, found) = blocking(move || left_by_another(&here, &now, now_ms)).await?;
        // All of them from the first step on: a leg on a drive that control does not know of would be fenced.
        let drives: BTreeMap<DriveId, PowerCycles> = counts_of(&state.borrow(), node);
        let known = drives.keys().copied().collect();
        let target = Target::new(node, boot, drives, place.floors(), given);
        let shared = Shared {
            place: Arc::clone(place),
            ledger: Ledgers(ledger.clone()),
            told: told.clone(),
            transport: Arc::clone(transport),
        };
        let legs = Legs::new(Arc::clone(place), Ledgers(ledger.clone()), told.clone());
        let mut arrays = Arrays::new(shared);
        for id in found.keys() {
            arrays.adopt(*id);
        }
        let member = Member::new((node, boot), Timing::default(), target, found, clock::uptime_ms());
        Ok(Self {
            identity: identity.clone(),
            ledger: ledger.clone(),
            state,
            member,
            legs,
            arrays,
            told,
            transport: Arc::clone(transport),
            heard: Arc::clone(heard),
            silent: BTreeSet::new(),
            drives: known,
            leads: None,
            waiting: BTreeMap::new(),
        })
    }

    async fn run(
        mut self,
        mut told: mpsc::UnboundedReceiver<Input>,
        mut asked: mpsc::UnboundedReceiver<Asked>,
    ) {
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = tick.tick() => self.tick(),
                Ok(()) = self.state.changed() => self.step(Input::Look),
                Some(input) = told.recv() => self.step(input),
                asked = asked.recv() => match asked {
                    Some(asked) => self.answer(asked),
                    None => return,
                },
            }
        }
    }

    fn step(&mut self, input: Input) {
        let state = Arc::clone(&self.state.borrow_and_update());
        for output in self.member.step(Moment(clock::uptime_ms()), &state, input) {
            self.carry_out(output);
        }
    }

    fn tick(&mut self) {
        self.see_leadership();
        self.see_drives();
        self.see_peers();
        self.step(Input::Look);
        self.waiting.retain(|_, answer| !answer.is_closed());
    }

    fn see_leadership(&mut self) {
        let status = self.ledger.status();
        let leads = (status.role == Role::Leader).then_some(status.term);
        if leads == self.leads {
            return;
        }
        if self.leads.take().is_some() {
            self.step(Input::Leadership(GrantorEvent::Deposed));
        }
        if leads.is_some() {
            info!("this node leads the ledger in term {}", status.term);
            self.step(Input::Leadership(GrantorEvent::Leading));
            let ledger = self.ledger.clone();
            tokio::spawn(async move {
                // A change of voters whose leader died in it.
                if let Err(why) = ledger.settle_voters().await {
                    warn!("a change of voters is not settled: {why}");
                }
            });
        }
        self.leads = leads;
    }

    /// Drives that the ledger has got to know of.
    fn see_drives(&mut self) {
        let state = Arc::clone(&self.state.borrow());
        for (id, count) in counts_of(&state, self.identity.node) {
            if self.drives.insert(id) {
                self.step(Input::Target(TargetEvent::DriveReset(id, count)));
            }
        }
    }

    fn see_peers(&mut self) {
        let mut ages: BTreeMap<NodeName, u32> = BTreeMap::new();
        for path in (self.heard)() {
            let age = ages.entry(path.peer).or_insert(NEVER_MS);
            *age = path.heard_ms_ago.unwrap_or(NEVER_MS).min(*age);
        }
        let state = Arc::clone(&self.state.borrow());
        for (id, node) in &state.nodes {
            let Some(age) = ages.get(&node.name).copied() else { continue };
            if age > SILENT_AFTER_MS && self.silent.insert(*id) {
                self.step(Input::Silent(*id));
            } else if age <= HEARD_WITHIN_MS && self.silent.remove(id) {
                self.step(Input::Heard(*id));
            }
        }
    }

    fn answer(&mut self, asked: Asked) {
        match asked {
            Asked::Lease(LeaseRequest { node, request }, answer) => {
                self.waiting.insert((node, request), answer);
                self.step(Input::Asked(node, request));
            }
            Asked::Glance(answer) => {
                let state = Arc::clone(&self.state.borrow());
                let blocked = self.member.blocked(Moment(clock::uptime_ms()), &state);
                let blocked = blocked.into_iter().map(|(id, why)| (id, why.to_string())).collect();
                // Whoever asked may be gone.
                let _ = answer.send((self.member.is_leased(), blocked));
            }
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Target(effect) => self.legs.order(effect),
            Output::Owner(id, effect) => {
                if let Some(epoch) = self.epoch_of(id) {
                    self.arrays.order(id, epoch, effect);
                }
            }
            Output::Propose(command) => self.propose(command),
            Output::Ask(request) => self.ask(request),
            Output::Confirm(round) => {
                let (ledger, told) = (self.ledger.clone(), self.told.clone());
                tokio::spawn(async move {
                    let confirmed = ledger.leadership().await.is_ok();
                    let event = if confirmed {
                        GrantorEvent::Confirmed(round)
                    } else {
                        GrantorEvent::Unconfirmed(round)
                    };
                    told.tell(Input::Leadership(event));
                });
            }
            Output::Grant(node, request) if node == self.identity.node => {
                self.told.tell(Input::Granted(request));
            }
            Output::Grant(node, request) => {
                if let Some(answer) = self.waiting.remove(&(node, request)) {
                    // Whoever asked may be gone.
                    let _ = answer.send(true);
                }
            }
            Output::Feed => {}
        }
    }

    /// The epoch of what this node has of a volume; else the ledger's.
    fn epoch_of(&self, id: VolumeId) -> Option<Epoch> {
        match self.member.stage(id) {
            Some(Stage::Assembling(assembly, _)) => Some(assembly.epoch),
            Some(Stage::Up(up)) => Some(up.epoch),
            Some(Stage::Stopping { epoch, .. } | Stage::Stopped { epoch, .. }) => Some(*epoch),
            Some(Stage::Idle) | None => self.state.borrow().volumes.get(&id).map(|volume| volume.epoch),
        }
    }

    fn propose(&self, command: Command) {
        let (ledger, told) = (self.ledger.clone(), self.told.clone());
        tokio::spawn(async move {
            if let Err(why) = ledger.propose(command.clone()).await {
                info!("the ledger has not taken {command:?}: {why}");
            }
            told.tell(Input::Answered(command));
        });
    }

    fn ask(&self, request: u64) {
        let node = self.identity.node;
        match self.ledger.status().leader {
            Some(leader) if leader == node => self.told.tell(Input::Asked(node, request)),
            Some(leader) => {
                let Some(to) = self.ledger.contact(leader) else { return };
                let (transport, told) = (Arc::clone(&self.transport), self.told.clone());
                tokio::spawn(async move {
                    let asked = LeaseRequest { node, request };
                    let answer = transport.call(to, api::path::CLUSTER_LEASE, &asked, LEASE_LIMIT);
                    if let Ok(LeaseAnswer { granted: true }) = answer.await {
                        told.tell(Input::Granted(request));
                    }
                });
            }
            None => {}
        }
    }
}

/// The node's drives, and what is taken for their counts of power cycles.
fn counts_of(state: &State, node: NodeId) -> BTreeMap<DriveId, PowerCycles> {
    let own = state.drives.iter().filter(|(_, drive)| drive.node == node);
    own.map(|(id, drive)| (*id, drive.power_cycles.unwrap_or(FIRST_COUNT))).collect()
}

type Left = (BTreeMap<LegOf, (control::target::Key, NodeId)>, BTreeMap<VolumeId, control::owner::Up>);

/// What an earlier run of the agent in this boot has left: legs that are given out, and arrays.
fn left_by_another(place: &Place, state: &State, now: Moment) -> Result<Left, VolumesError> {
    let engine = place.engine(state)?;
    let (own, _) = place.addresses(state);
    let seen = engine.seen_target()?;
    let given = storage::target::found(&seen, place.cluster, place.node, &own);
    let mut arrays = BTreeMap::new();
    // One that the ledger does not call open yet is assembled anew: nobody was let in.
    let open = |volume: &Volume| matches!(volume.phase, Phase::Open { .. });
    for (id, volume) in state.volumes.iter().filter(|(_, volume)| open(volume)) {
        let nodes =
            volume.legs.iter().filter_map(|(leg, found)| Some((*leg, state.node_of(found)?))).collect();
        let seen = engine.seen_owner(&place.site(*id, volume)?)?;
        if let Some(up) = storage::owner::found(&seen, &nodes, volume.map_sequence, now) {
            arrays.insert(*id, up);
        }
    }
    Ok((given, arrays))
}
