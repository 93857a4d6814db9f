//! The node's part in the ledger and in volumes: the shell around `control`, `ledger` and `storage`.
//!
//! Purpose: [`Volumes`] begins, joins or opens the ledger; from then on [`shell`] tells control what happens and carries out
//! what it orders ([`target`] for legs, [`owner`] for arrays). Nothing here decides.
//!
//! Invariants: before a node acts on the ledger it has caught up with it: until then it would see the past. What must not go back
//! (floors) is on disk before it is acted on. A node whose ledger or floors are lost takes no part until it has joined again, under a new id.
//!
//! On failure: [`VolumesError`] to whoever asks. What control ordered and could not be done is done again until control
//! orders otherwise.
//!
//! Not here yet: docs/volumes.md, "What the agent leaves out yet".

mod beside;
mod bounce;
mod contents;
mod digests;
mod give_back;
mod guard;
mod hand_over;
mod image;
mod lay;
mod lease_note;
mod left_users;
mod lives;
mod load;
mod openers;
mod owner;
mod place;
mod renewal;
mod seeded;
mod shell;
mod stalls;
mod standing;
mod stirs;
mod target;
mod uevents;
mod vms;

pub(crate) use contents::contents;
pub(crate) use guard::guard;
pub(crate) use left_users::LeftUsers;
pub(crate) use renewal::start as renew_lease;
pub(crate) use vms::keep_memory;

use crate::store::{Store, StoreError};
use api::{
    BeginRequest, ClaimRequest, CloseRequest, ClusterView, Console, ConsoleQuery, DigestsRequest,
    GivenLegRequest, InviteRequest, Invited, JoinRequest, Joined, LeaseRequest, PathsRequest, Proposed,
    Token, VotersRequest,
};
use control::hand_over::CantHandOver;
use control::{Command, LegRef};
use ledger::http::HttpTransport;
use ledger::{Config, Contact, Ledger, Newcomer, VotersError};
use model::{BootId, LedgerIncarnation, NodeId, NodeName, VolumeId};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use storage::header::ClusterId;
use tokio::sync::{OnceCell, watch};
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

/// The folder of the ledger, in the agent's.
const LEDGER_FOLDER: &str = "ledger";
/// For how long an invitation is good.
const INVITATION_VALID: Duration = Duration::from_mins(10);
/// How long whoever asks for a confirmed view waits for it.
const CONFIRM_LIMIT: Duration = Duration::from_secs(2);
/// How long a health report waits for the shell: one that has not caught up with the ledger says nothing, and nobody waits here then.
const GLANCE_LIMIT: Duration = Duration::from_millis(200);
/// How long a change of voters waits for one that is under way, and how often it looks.
const VOTERS_LIMIT: Duration = Duration::from_secs(10);
const VOTERS_AGAIN: Duration = Duration::from_millis(100);

/// Why the ledger or the pool did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumesError {
    #[error("this node has no ledger yet")]
    NoLedger,
    #[error("this node has a ledger already, as {0}")]
    HasLedger(NodeId),
    #[error(transparent)]
    Begin(#[from] ledger::BootstrapError),
    #[error(transparent)]
    Open(#[from] ledger::OpenError),
    #[error(transparent)]
    Join(#[from] ledger::JoinError),
    #[error(transparent)]
    Invite(#[from] ledger::InviteError),
    #[error(transparent)]
    Voters(#[from] VotersError),
    #[error(transparent)]
    Propose(#[from] ledger::ProposeError),
    #[error("it is not a token: 64 hexadecimal digits are one")]
    NotAToken,
    #[error("the ledger knows no drive with serial number {0} on this node")]
    NoDrive(model::DriveSerial),
    #[error("drive {0} is not claimed")]
    NotClaimed(model::DriveSerial),
    #[error(transparent)]
    Claim(#[from] storage::kernel::ClaimError),
    #[error(transparent)]
    Step(#[from] storage::kernel::StepError),
    #[error("the ledger has no id for a cluster that storage can use")]
    NoClusterId,
    #[error("what the kernel has does not allow it: {0}")]
    AtOdds(String),
    #[error("the leg's slabs have {has_bytes} bytes and {needs_bytes} are needed")]
    TooFewSlabs { has_bytes: u64, needs_bytes: u64 },
    #[error(
        "this node has a ledger and has lost its floors: which of its legs it has promised to give to nobody"
    )]
    FloorsLost,
    #[error("this node's ledger stays closed: {0}")]
    Closed(String),
    #[error("can't remove what is left of the ledger")]
    Remove(#[source] std::io::Error),
    #[error("can't set this node's ledger aside")]
    SetAside(#[source] ledger::StoreError),
    #[error("this node's ledger is {node}'s of incarnation {incarnation}, not the one that was named")]
    OtherLedger { node: NodeId, incarnation: LedgerIncarnation },
    #[error(
        "this node's ledger says neither that the cluster is dissolved nor that this node leaves and has nothing any more"
    )]
    NotLeft,
    #[error("this node leads the ledger yet")]
    Leads,
    #[error("devices of volumes stand here yet: {}", .0.join(", "))]
    Standing(Vec<String>),
    #[error("a quorum answers: none is forced")]
    QuorumAnswers,
    #[error("the log ends at entry {index} of term {term}, which is not where it was said to end")]
    OtherEnd { term: u64, index: u64 },
    #[error(transparent)]
    Force(#[from] ledger::ForceError),
    #[error("this node does not know what the cluster knows")]
    Behind(#[from] ledger::Behind),
    #[error("a peer did not do it")]
    Peer(#[from] ledger::TransportError),
    #[error("{given} is not given out again: {why}")]
    CutShort { given: storage::name::GivenLeg, why: String },
    #[error("{0} is not given out")]
    NotGivenOut(storage::name::GivenLeg),
    #[error(transparent)]
    Abort(#[from] network::kernel::AbortError),
    #[cfg(feature = "seeded-bugs")]
    #[error("this node is told to break a rule `{0}`, which it does not know")]
    NoSuchRule(String),
    #[error("can't open the note of the lease's end")]
    LeaseNote(#[source] std::io::Error),
    #[error(transparent)]
    CantHandOver(#[from] CantHandOver),
    #[error("{volume} is open at {owner}, and only that node hands it over")]
    NotOwner { volume: VolumeId, owner: NodeId },
    #[error("{0} has no lease: its users are being stopped")]
    NoLease(NodeId),
    #[error("nothing is heard of {0} on the storage networks")]
    Silent(NodeId),
    #[error("{count} processes have {volume} open")]
    InUse { volume: VolumeId, count: usize },
    #[error("{volume} is mounted, or another device stands on it")]
    Mounted { volume: VolumeId },
    #[error("there is no {0}")]
    NoVm(model::VmId),
    #[error("{0} is not open here")]
    NotHere(VolumeId),
    #[error("{0} does not wait here for another node's memory, or not for that node's")]
    NotAwaited(model::VmId),
    #[error("a virtual machine's memory did not come through: {why}")]
    Wire { why: String },
    #[error("{0} has no volume to save its memory on")]
    NowhereToSave(model::VmId),
    #[error(transparent)]
    Vm(Box<::vm::instance::InstanceError>),
    #[error(transparent)]
    Process(#[from] ::vm::process::ProcessError),
    #[error("can't read what {id} said")]
    Console {
        id: model::VmId,
        #[source]
        source: std::io::Error,
    },
    #[error("can't connect {id}")]
    Tap {
        id: model::VmId,
        #[source]
        source: network::kernel::TapError,
    },
    #[error("{volume} is the disk of {vm}, which is not off")]
    InVm { volume: VolumeId, vm: model::VmId },
    #[error("a piece of {len} bytes at {offset} does not fit {volume}, or is not of whole sectors")]
    BadPiece { volume: VolumeId, offset: u64, len: usize },
    #[error("can't write to {volume}")]
    Image {
        volume: VolumeId,
        #[source]
        source: std::io::Error,
    },
    #[error("can't begin a thread")]
    Thread(#[source] std::io::Error),
    #[error("the shell has ended")]
    Ended,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a task of the agent has ended")]
    Task(#[from] tokio::task::JoinError),
}

/// What the rest of the daemon knows of it.
pub(crate) struct Volumes {
    name: NodeName,
    boot: BootId,
    store: Store,
    transport: Arc<HttpTransport>,
    paths: watch::Receiver<Option<PathsRequest>>,
    heard: shell::Heard,
    left: LeftUsers,
    running: OnceCell<Running>,
    closed: Mutex<Option<Closed>>,
    ends: Arc<standing::Ends>,
}

/// Why a ledger that is there is not open.
struct Closed {
    why: String,
    /// Nothing is lost by giving it up: it can't be used again.
    is_lost: bool,
}

impl Closed {
    fn new(error: &VolumesError) -> Self {
        let damaged = |error: &ledger::OpenError| {
            matches!(error, ledger::OpenError::Store(ledger::StoreError::Damaged { .. }))
        };
        let is_lost = match error {
            VolumesError::FloorsLost => true,
            VolumesError::Open(error) => damaged(error),
            _ => false,
        };
        Self { why: crate::chain(error), is_lost }
    }
}

impl std::fmt::Debug for Volumes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volumes").field("name", &self.name).finish_non_exhaustive()
    }
}

struct Running {
    ledger: Ledger,
    place: Arc<place::Place>,
    shell: shell::Handle,
    router: axum::Router,
    /// Waits for the ledger's end.
    watch: tokio::task::AbortHandle,
}

impl Volumes {
    /// Opens the ledger if this node has one.
    pub(crate) async fn start(
        (name, boot): (NodeName, BootId),
        store: Store,
        transport: Arc<HttpTransport>,
        paths: watch::Receiver<Option<PathsRequest>>,
        heard: shell::Heard,
        left: LeftUsers,
    ) -> Arc<Self> {
        let (running, closed, ends) = (OnceCell::new(), Mutex::default(), Arc::default());
        let volumes =
            Arc::new(Self { name, boot, store, transport, paths, heard, left, running, closed, ends });
        if !volumes.folder().join(ledger::FILE).exists() {
            if let Err(error) = give_back::tidy(&volumes.folder()) {
                warn!("what is left of a ledger can't be removed: {error}");
            }
            volumes.left.are_none();
        } else if let Err(error) = volumes.open().await {
            // The node goes on without: it can be told to join again, or its disk may take writes again.
            let closed = Closed::new(&error);
            error!("the ledger stays closed: {}", closed.why);
            if !closed.is_lost {
                let later = Arc::clone(&volumes);
                tokio::spawn(async move { later.open_later().await });
            }
            *volumes.closed.lock().unwrap_or_else(PoisonError::into_inner) = Some(closed);
        }
        volumes
    }

    async fn open(&self) -> Result<NodeId, VolumesError> {
        let ledger = Ledger::open(&self.folder(), Config::default(), self.transport.clone()).await?;
        self.run(ledger).await
    }

    fn folder(&self) -> PathBuf {
        self.store.directory().join(LEDGER_FOLDER)
    }

    /// The route for letters between ledgers.
    pub(crate) fn letters(&self) -> Option<axum::Router> {
        self.running.get().map(|running| running.router.clone())
    }

    fn running(&self) -> Result<&Running, VolumesError> {
        self.running.get().ok_or_else(|| self.is_closed().unwrap_or(VolumesError::NoLedger))
    }

    /// Why there is none, if there should be one.
    fn is_closed(&self) -> Option<VolumesError> {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        closed.as_ref().map(|closed| VolumesError::Closed(closed.why.clone()))
    }

    /// Runs the shell around a ledger that has just been opened.
    async fn run(&self, ledger: Ledger) -> Result<NodeId, VolumesError> {
        let node = ledger.id();
        let cluster = ledger.identity().cluster.bits().ok_or(VolumesError::NoClusterId)?;
        let (store, paths, who) = (self.store.clone(), self.paths.clone(), (ClusterId(cluster), node));
        let place = tokio::task::spawn_blocking(move || place::Place::new(who, store, paths)).await??;
        let place = Arc::new(place);
        let identity = shell::Identity { node, boot: self.boot };
        let shell = shell::start(
            identity,
            ledger.clone(),
            Arc::clone(&place),
            Arc::clone(&self.transport),
            Arc::clone(&self.heard),
            self.left.clone(),
        );
        let router = ledger::http::router(ledger.clone());
        info!("{node} in the ledger");
        let watch = self.ends.watch(&ledger, &self.store);
        let running = Running { ledger, place, shell, router, watch };
        self.running.set(running).map_err(|_| VolumesError::HasLedger(node))?;
        Ok(node)
    }

    fn newcomer(&self, address: std::net::SocketAddr) -> Newcomer {
        Newcomer { name: self.name.clone(), address }
    }

    fn has_none(&self) -> Result<(), VolumesError> {
        self.running.get().map_or(Ok(()), |running| Err(VolumesError::HasLedger(running.ledger.id())))
    }

    /// Gives up a ledger that can't be used again. This comes before floors are prepared: a ledger beside floors that were made after it
    /// would be taken for a whole one.
    fn set_lost_aside(&self) -> Result<(), VolumesError> {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        match &*closed {
            None => return Ok(()),
            Some(Closed { why, is_lost: false }) => return Err(VolumesError::Closed(why.clone())),
            Some(Closed { why, .. }) => {
                let aside = ledger::set_aside(&self.folder()).map_err(VolumesError::SetAside)?;
                warn!("the ledger is kept as {}: {why}", aside.display());
            }
        }
        *closed = None;
        Ok(())
    }

    pub(crate) async fn begin(&self, request: BeginRequest) -> Result<Joined, VolumesError> {
        self.has_none()?;
        self.is_closed().map_or(Ok(()), Err)?;
        let (folder, first) = (self.folder(), self.newcomer(request.address));
        let settings = control::state::Settings::default();
        let store = self.store.clone();
        let made = move || -> Result<(), VolumesError> {
            place::prepare(&store)?;
            ledger::bootstrap(&folder, &first, request.zone, settings)?;
            Ok(())
        };
        tokio::task::spawn_blocking(made).await??;
        Ok(Joined { node: self.open().await? })
    }

    pub(crate) async fn join(&self, request: JoinRequest) -> Result<Joined, VolumesError> {
        self.has_none()?;
        let Token(token) = request.token;
        let token = token.parse().map_err(|_| VolumesError::NotAToken)?;
        self.set_lost_aside()?;
        place::prepare(&self.store)?;
        let contact = |(name, address)| Contact { name, address };
        let contacts: Vec<Contact> = request.contacts.into_iter().map(contact).collect();
        let (folder, newcomer) = (self.folder(), self.newcomer(request.address));
        let transport = self.transport.clone();
        let joined =
            ledger::join(&folder, &newcomer, &token, &contacts, Config::default(), transport).await?;
        Ok(Joined { node: self.run(joined).await? })
    }

    pub(crate) async fn invite(&self, request: InviteRequest) -> Result<Invited, VolumesError> {
        let ledger = &self.running()?.ledger;
        let token = ledger.invite(request.node, request.zone, INVITATION_VALID).await?;
        Ok(Invited { token: Token(token.into()) })
    }

    pub(crate) async fn voters(&self, request: VotersRequest) -> Result<(), VolumesError> {
        let ledger = &self.running()?.ledger;
        let deadline = Instant::now() + VOTERS_LIMIT;
        loop {
            match ledger.change_voters(&request.voters).await {
                // This node is at it by itself: those vote who live.
                Err(VotersError::Busy) if Instant::now() < deadline => sleep(VOTERS_AGAIN).await,
                other => return Ok(other?),
            }
        }
    }

    pub(crate) async fn propose(&self, command: Command) -> Result<Proposed, VolumesError> {
        let applied = self.running()?.ledger.propose(command).await?;
        Ok(Proposed { events: applied.events })
    }

    /// Answered when a quorum has confirmed that this node leads, or it is known that it does not.
    pub(crate) async fn lease(&self, request: LeaseRequest) -> Result<bool, VolumesError> {
        Ok(self.running()?.shell.lease(request).await)
    }

    /// The name that the ledger has for a node.
    pub(crate) fn name_of(&self, node: NodeId) -> Option<NodeName> {
        let running = self.running.get()?;
        running.ledger.state().borrow().nodes.get(&node).map(|node| node.name.clone())
    }

    /// Control closes it, if this node owns it: the ledger says when that is done.
    pub(crate) fn close(&self, request: CloseRequest) -> Result<(), VolumesError> {
        self.running()?.shell.close(request.volume)
    }

    /// What a virtual machine has said on its serial port on this node.
    pub(crate) async fn console(&self, of: ConsoleQuery) -> Result<Console, VolumesError> {
        let piece = tokio::task::spawn_blocking(move || vms::console(of.vm(), of.from)).await??;
        let text = String::from_utf8_lossy(&piece.bytes).into_owned();
        Ok(Console { from: piece.from, end: piece.end(), text })
    }

    pub(crate) async fn claim(&self, request: ClaimRequest) -> Result<(), VolumesError> {
        let running = self.running()?;
        running.place.claim(&running.ledger, request.serial, request.wipe).await
    }

    pub(crate) async fn flush(&self, request: GivenLegRequest) -> Result<(), VolumesError> {
        self.running()?.place.flush((request.volume, request.leg), request.key).await
    }

    pub(crate) async fn digests(&self, request: DigestsRequest) -> Result<Vec<(u64, u64)>, VolumesError> {
        digests::of_own_leg(&self.running()?.place, request).await
    }

    pub(crate) async fn bounce(&self, request: GivenLegRequest) -> Result<(), VolumesError> {
        self.running()?.shell.bounce((request.volume, request.leg), request.key).await
    }

    /// Thin volumes of this node whose users write what gets no place, and why.
    pub(crate) async fn out_of_room(&self) -> BTreeMap<VolumeId, String> {
        let Some(running) = self.running.get() else { return BTreeMap::new() };
        let glance = tokio::time::timeout(GLANCE_LIMIT, running.shell.glance()).await;
        glance.ok().flatten().map(|glance| glance.out_of_room).unwrap_or_default()
    }

    /// The node that has a leg has taken it back, as it was given out to this one.
    pub(crate) fn taken_back(&self, request: GivenLegRequest) -> Result<(), VolumesError> {
        let leg = LegRef { id: request.leg, incarnation: request.key.incarnation };
        self.running()?.shell.taken_back(request.volume, leg)
    }

    /// Who had a leg of this node needs it no more, as it was given out.
    pub(crate) fn given_back(&self, request: GivenLegRequest) -> Result<(), VolumesError> {
        self.running()?.shell.given_back((request.volume, request.leg), request.key)
    }

    /// What this node says of the cluster; confirmed: after it has followed all that was acknowledged before it was asked.
    pub(crate) async fn view(&self, confirmed: bool) -> Result<ClusterView, VolumesError> {
        let running = self.running()?;
        if confirmed {
            running.ledger.caught_up(CONFIRM_LIMIT).await?;
        }
        let status = running.ledger.status();
        let state = running.ledger.state().borrow().as_ref().clone();
        let shell::Glance { leased, blocked, out_of_room, rebuilds } =
            running.shell.glance().await.ok_or(VolumesError::Ended)?;
        let legs = running.place.legs(&state)?;
        let (devices, device_bytes) = running.place.devices(&state).await?;
        let node = running.ledger.id();
        Ok(ClusterView {
            node,
            mac_range: running.place.mac_range(),
            leader: status.leader,
            voters: status.voters,
            confirmed,
            leased,
            devices,
            device_bytes,
            legs,
            blocked,
            out_of_room,
            rebuilds,
            state,
        })
    }
}
