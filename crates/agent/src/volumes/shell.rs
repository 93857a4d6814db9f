//! The loop around control's [`Member`]: what happens goes in, what it orders is carried out.
//!
//! Invariants: one task steps the member, so that control sees one thing after the other. Nothing is waited for in it.
//!
//! On failure: whatever is lost (a letter, a lease, a proposal's answer) is asked for again by control.

mod given_back;
mod hand_over;
mod leases;
mod left;
mod peers;

use self::hand_over::HandOver;
use self::left::left_by_another;
use self::peers::Peers;
use super::VolumesError;
use super::lease_note::LeaseNote;
use super::left_users::LeftUsers;
use super::lives;
use super::load::Load;
use super::owner::{Arrays, Shared};
use super::place::Place;
use super::renewal;
use super::stalls;
use super::target::{Bounced, Legs};
use super::vms::{self, Vms};
use crate::beat::Beat;
use crate::clock;
use api::{LeaseRequest, RebuildProgress};
use control::lease::GrantorEvent;
use control::member::{Input, Member, Output, Timing};
use control::owner::Stage;
use control::rebuild::Progress;
use control::target::{Effect, Key, LegOf, Target};
use control::{Command, LegRef, Moment, State};
use ledger::http::HttpTransport;
use ledger::{Contact, Ledger, Role};
use model::{BootId, Epoch, Generation, NodeId, VmId, VolumeId};
use network::diagnose::PathView;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

/// How often control is told that time passes.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The same while nothing happens. Hellos go out as often, and drives are looked at: an agent at rest wakes for all of them together. A peer that falls silent
/// is noticed no later: it is asked for an echo 400 to 600 ms after its last hello, and from there on the looks are quick again.
const LOOK_AT_REST_EVERY: Duration = Duration::from_millis(200);
/// A lease that was not asked for so lately is about to be missed.
const RENEWED_WITHIN: Duration = Duration::from_millis(900);
/// For how long nothing must have been ordered that is not routine.
const REST_AFTER: Duration = Duration::from_secs(2);
/// How long a node that asks for a lease waits for the answer.
const LEASE_LIMIT: Duration = Duration::from_secs(2);
/// How long a node that comes back waits for the ledger before it says that it still does.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(2);
/// A peer on a storage network.
type Path = (NodeId, u16);

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

    pub(super) fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.0.state()
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
    HandOver(HandOver),
    Lease(LeaseRequest, oneshot::Sender<bool>),
    Glance(oneshot::Sender<Glance>),
    Bounce(LegOf, Key, Bounced),
    Close(VolumeId),
    Echoed(Path, bool),
    TakenBack(VolumeId, LegRef),
    GivenBack(LegOf, Key),
    Received(VmId, Generation, oneshot::Sender<bool>),
}

/// What control knows and the ledger does not.
#[derive(Debug)]
pub(super) struct Glance {
    /// Whether there is a lease.
    pub(super) leased: bool,
    /// Why volumes wait.
    pub(super) blocked: BTreeMap<VolumeId, String>,
    /// Why what users of this node's thin volumes write gets no place.
    pub(super) out_of_room: BTreeMap<VolumeId, String>,
    /// How far the rebuilds of this node's volumes are.
    pub(super) rebuilds: BTreeMap<VolumeId, RebuildProgress>,
}

/// The daemon's side of the shell, and that of its own tasks.
#[derive(Clone)]
pub(super) struct Handle(mpsc::UnboundedSender<Asked>);

impl Handle {
    /// Answered when control has decided; no answer is none.
    pub(super) async fn lease(&self, request: LeaseRequest) -> bool {
        let (answer, granted) = oneshot::channel();
        let asked = self.0.send(Asked::Lease(request, answer)).is_ok();
        asked && matches!(timeout(LEASE_LIMIT, granted).await, Ok(Ok(true)))
    }

    /// Control is told that a volume shall be closed.
    pub(super) fn close(&self, id: VolumeId) -> Result<(), VolumesError> {
        self.0.send(Asked::Close(id)).map_err(|_| VolumesError::Ended)
    }

    /// Control is told that a leg of a volume was taken back.
    pub(super) fn taken_back(&self, id: VolumeId, leg: LegRef) -> Result<(), VolumesError> {
        self.0.send(Asked::TakenBack(id, leg)).map_err(|_| VolumesError::Ended)
    }

    /// Whether all of a virtual machine that waits here for another node's memory has come, and it is complete.
    pub(super) async fn received(&self, id: VmId, generation: Generation) -> bool {
        let (answer, complete) = oneshot::channel();
        self.0.send(Asked::Received(id, generation, answer)).is_ok() && complete.await.unwrap_or(false)
    }

    /// What control knows and the ledger does not.
    pub(super) async fn glance(&self) -> Option<Glance> {
        let (answer, seen) = oneshot::channel();
        self.0.send(Asked::Glance(answer)).ok()?;
        seen.await.ok()
    }

    /// A bounce of a leg of this node.
    pub(super) async fn bounce(&self, leg: LegOf, key: Key) -> Result<(), VolumesError> {
        let (answer, done) = oneshot::channel();
        self.0.send(Asked::Bounce(leg, key, answer)).map_err(|_| VolumesError::Ended)?;
        done.await.map_err(|_| VolumesError::Ended)?
    }
}

struct Shell {
    identity: Identity,
    lease: LeaseNote,
    grantors: renewal::Noted,
    ledger: Ledger,
    state: watch::Receiver<Arc<State>>,
    member: Member,
    place: Arc<Place>,
    legs: Legs,
    arrays: Arrays,
    vms: Vms,
    own: Handle,
    told: Told,
    transport: Arc<HttpTransport>,
    heard: Heard,
    load: Load,
    peers: Peers,
    /// When anything was last ordered that is not routine.
    stirred: Moment,
    /// In which term this node leads, as control was told.
    leads: Option<u64>,
    /// Who leads in which term, as control was told: the last that was known.
    led_by: Option<(u64, NodeId)>,
    /// A change of voters, while it is under way.
    voters: Option<JoinHandle<()>>,
    waiting: BTreeMap<(NodeId, u64), oneshot::Sender<bool>>,
}

/// Starts the loop, once the node has caught up.
pub(super) fn start(
    identity: Identity,
    ledger: Ledger,
    place: Arc<Place>,
    transport: Arc<HttpTransport>,
    heard: Heard,
    left: LeftUsers,
) -> Handle {
    let (inputs, told) = mpsc::unbounded_channel();
    let (handle, asked) = mpsc::unbounded_channel();
    let handle = Handle(handle);
    let own = handle.clone();
    let begin = async move {
        while let Err(why) = ledger.caught_up(CATCH_UP_LIMIT).await {
            info!("not caught up with the ledger yet: {why}");
        }
        let shell = loop {
            let shared = Shared {
                place: Arc::clone(&place),
                ledger: Ledgers(ledger.clone()),
                told: Told(inputs.clone()),
                transport: Arc::clone(&transport),
                shell: own.clone(),
            };
            match Shell::new(&identity, &ledger, shared, &heard, &left).await {
                Ok(shell) => break shell,
                Err(error) => warn!("can't see what an earlier agent left: {}", crate::chain(&error)),
            }
            sleep(LOOK_EVERY * 10).await;
        };
        shell.run(told, asked).await;
    };
    tokio::spawn(begin);
    handle
}

impl Shell {
    async fn new(
        identity: &Identity,
        ledger: &Ledger,
        shared: Shared,
        heard: &Heard,
        users: &LeftUsers,
    ) -> Result<Self, VolumesError> {
        let (node, boot) = (identity.node, identity.boot);
        let Shared { place, told, transport, shell: own, .. } = shared.clone();
        let mut vms = Vms::new(&shared);
        let state = ledger.state();
        let (now, here) = (Arc::clone(&state.borrow()), Arc::clone(&place));
        let now_ms = Moment(clock::uptime_ms());
        // All drives from the first step on: a leg on one that control does not know of would be fenced.
        let seen = move || Ok((left_by_another(&here, &now, now_ms)?, lives::counts(&here, &now, boot)?));
        let ((given, found), counts) = blocking(seen).await?;
        let target = Target::new(node, boot, counts.clone(), (place.floors(), place.laid()), given);
        let legs = Legs::new(Arc::clone(&place), Ledgers(ledger.clone()), told.clone());
        let mut arrays = Arrays::new(shared);
        for id in found.keys() {
            arrays.adopt(*id);
        }
        let left = vms::left(&place).await?;
        let instances = left.iter().map(|left| (left.id, left.instance())).collect();
        for one in left {
            vms.adopt(one);
        }
        let lease = users.taken_over(boot).map_err(VolumesError::LeaseNote)?;
        vms.leased_until(lease.end());
        place.leased_until(lease.end());
        let watch = lives::Watch {
            place: Arc::clone(&place),
            ledger: Ledgers(ledger.clone()),
            told: told.clone(),
            boot,
            counts,
        };
        tokio::spawn(watch.run());
        tokio::spawn(stalls::watch(node, ledger.state(), told.clone()));
        let first_request = clock::uptime_ms() + 1;
        let member = Member::new((node, boot), Timing::default(), target, found, first_request);
        let member = member.with_bugs(place.seeded.control).with_users_until(lease.end()).with_vms(instances);
        Ok(Self {
            identity: identity.clone(),
            lease,
            grantors: renewal::Noted::default(),
            ledger: ledger.clone(),
            state,
            member,
            place,
            legs,
            arrays,
            vms,
            own,
            told,
            transport,
            heard: Arc::clone(heard),
            load: Load::start(node, ledger.state()),
            peers: Peers::default(),
            stirred: now_ms,
            leads: None,
            led_by: None,
            voters: None,
            waiting: BTreeMap::new(),
        })
    }

    async fn run(
        mut self,
        mut told: mpsc::UnboundedReceiver<Input>,
        mut asked: mpsc::UnboundedReceiver<Asked>,
    ) {
        let mut beat = Beat::every(LOOK_EVERY);
        loop {
            let mut has_looked = false;
            tokio::select! {
                () = beat.next() => {
                    self.tick();
                    has_looked = true;
                }
                Ok(()) = self.state.changed() => self.step(Input::Look),
                Some(input) = told.recv() => self.step(input),
                asked = asked.recv() => match asked {
                    Some(asked) => self.answer(asked),
                    None => return,
                },
            }
            let pace = self.pace();
            // A look that is due is not put off.
            if has_looked || pace == LOOK_EVERY {
                beat.change(pace);
            }
        }
    }

    /// How often it is looked. Who leads is who misses nodes, and a witness would not notice by hellos: it does not rest.
    fn pace(&self) -> Duration {
        let now = Moment(clock::uptime_ms());
        let lease_ms = self.state.borrow().settings.lease_ms;
        let is_renewed =
            now.after(Duration::from_millis(lease_ms.into())) < self.lease.end().after(RENEWED_WITHIN);
        let rests = now >= self.stirred.after(REST_AFTER) && self.leads.is_none();
        if rests && is_renewed && self.peers.are_all_heard() { LOOK_AT_REST_EVERY } else { LOOK_EVERY }
    }

    fn step(&mut self, input: Input) {
        let state = Arc::clone(&self.state.borrow_and_update());
        if let Input::Granted(request) = &input
            && let Some(end) = self.member.lease_of(&state, *request)
            && let Err(error) = self.lease.extend(end)
        {
            return warn!("a lease that can't be noted is not taken: {error}");
        }
        self.vms.leased_until(self.lease.end());
        self.place.leased_until(self.lease.end());
        let leased = self.member.is_leased();
        let outputs = self.member.step(Moment(clock::uptime_ms()), &state, input);
        match (leased, self.member.is_leased()) {
            (false, true) => info!("this node has a lease"),
            (true, false) => {
                warn!("the lease ends soon, and the leader has not renewed it: users are stopped");
            }
            _ => {}
        }
        for output in outputs {
            self.carry_out(output);
        }
    }

    fn tick(&mut self) {
        self.see_leadership();
        self.abdicate_to_leave();
        // After a pause of this agent's own, too: it reads the hellos that came meanwhile, and knows when.
        self.see_peers();
        self.step(Input::Look);
        self.adapt_voters();
        self.grantors.see(&self.ledger, self.identity.boot);
        self.vms.say_room(&self.ledger, self.identity.node);
        self.waiting.retain(|_, answer| !answer.is_closed());
    }

    /// Who leaves the cluster leads it no more once it has no vote: its end would be a dead leader's.
    fn abdicate_to_leave(&self) {
        let (state, id) = (self.state.borrow(), self.identity.node);
        if let Some(term) = self.leads
            && state.leaves(id)
            && !state.may_vote(id)
        {
            self.ledger.abdicate(term);
        }
    }

    fn see_leadership(&mut self) {
        let status = self.ledger.status();
        let led_by = status.leader.map(|leader| (status.term, leader));
        if led_by.is_some() && led_by != self.led_by {
            self.led_by = led_by;
            self.member.led_by_another();
        }
        let leads = (status.role == Role::Leader).then_some(status.term);
        if leads == self.leads {
            return;
        }
        if self.leads.take().is_some() {
            self.step(Input::Leadership(GrantorEvent::Deposed));
        }
        self.leads = leads;
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
    }

    /// As the leader: sees to it that those vote who live, one change at a time, and that who is no node any more is no member. What is not done is wanted again.
    fn adapt_voters(&mut self) {
        if self.voters.as_ref().is_some_and(|change| !change.is_finished()) {
            return;
        }
        let state = Arc::clone(&self.state.borrow());
        let wanted = self.member.wanted_voters(Moment(clock::uptime_ms()), &state);
        let is_unsettled = self.leads.is_some() && self.ledger.is_unsettled();
        let ledger = self.ledger.clone();
        self.voters = match wanted {
            Some(voters) => Some(tokio::spawn(async move {
                match ledger.change_voters(&voters).await {
                    Ok(()) => info!("{voters:?} vote now"),
                    Err(why) => {
                        warn!("{voters:?} do not vote yet: {}", crate::chain(&why));
                        sleep(LOOK_EVERY * 10).await;
                    }
                }
            })),
            None if is_unsettled => Some(tokio::spawn(async move {
                if let Err(why) = ledger.settle_voters().await {
                    info!("members are not settled yet: {}", crate::chain(&why));
                    sleep(LOOK_EVERY * 10).await;
                }
            })),
            None => return,
        };
    }

    fn answer(&mut self, asked: Asked) {
        match asked {
            Asked::Lease(request, answer) => self.answer_lease(request, answer),
            Asked::HandOver(asked) => self.answer_hand_over(asked),
            Asked::TakenBack(id, leg) => self.step(Input::Owner(id, control::owner::Event::TakenBack(leg))),
            Asked::GivenBack(leg, key) => {
                self.step(Input::Target(control::target::Event::GivenBack(leg, key)));
            }
            Asked::Close(id) => self.step(Input::Owner(id, control::owner::Event::Close)),
            Asked::Echoed(path, came) => self.peers.echoed(Moment(clock::uptime_ms()), path, came),
            Asked::Glance(answer) => {
                let state = Arc::clone(&self.state.borrow());
                let blocked = self.member.blocked(Moment(clock::uptime_ms()), &state);
                let blocked = blocked.into_iter().map(|(id, why)| (id, why.to_string())).collect();
                let out_of_room = self.member.out_of_room(&state);
                let out_of_room = out_of_room.into_iter().map(|(id, why)| (id, why.to_string())).collect();
                let ids = state.volumes.keys();
                let rebuilds = ids.filter_map(|id| Some((*id, self.progress(*id)?))).collect();
                // Whoever asked may be gone.
                let _ =
                    answer.send(Glance { leased: self.member.is_leased(), blocked, out_of_room, rebuilds });
            }
            Asked::Bounce(leg, key, done) => self.legs.bounce(leg, key, done),
            Asked::Received(id, generation, answer) => self.vms.received(id, generation, answer),
        }
    }

    fn progress(&self, id: VolumeId) -> Option<RebuildProgress> {
        let Some(Stage::Up(up)) = self.member.stage(id) else { return None };
        let rebuild = up.rebuild?;
        let Progress { done_bytes, total_bytes, .. } = rebuild.progress;
        Some(RebuildProgress { leg: rebuild.leg.id, done_bytes, total_bytes })
    }

    fn carry_out(&mut self, output: Output) {
        if !matches!(output, Output::Ask(_) | Output::Confirm(_) | Output::Grant(..) | Output::Feed) {
            self.stirred = Moment(clock::uptime_ms());
        }
        match output {
            Output::Target(Effect::TakenBack(leg, key, to)) => self.say_taken_back(leg, key, to),
            Output::Target(effect) => self.legs.order(effect),
            Output::Owner(id, control::owner::Effect::GivenBack(legs)) => self.say_given_back(id, &legs),
            Output::Owner(id, effect) => {
                if let Some(epoch) = self.epoch_of(id) {
                    self.arrays.order(id, epoch, effect);
                }
            }
            Output::Propose(command) => self.propose(command, None),
            // Without a term it was decided just before this node was seen to lead no longer.
            Output::Decide(command) => self.propose(command, Some(self.leads.unwrap_or_default())),
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
            Output::Vm(effect) => self.vms.order(&effect),
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

    /// Through whoever leads, or as the leader of this term.
    fn propose(&self, command: Command, term: Option<u64>) {
        info!("asks the ledger: {command:?}");
        let (ledger, told) = (self.ledger.clone(), self.told.clone());
        tokio::spawn(async move {
            let proposed = match term {
                Some(term) => ledger.propose_as_leader(term, command.clone()).await,
                None => ledger.propose(command.clone()).await,
            };
            if let Err(why) = proposed {
                info!("the ledger has not taken {command:?}: {why}");
            }
            told.tell(Input::Answered(command));
        });
    }
}
