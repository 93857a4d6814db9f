//! The node's part in the ledger and in volumes: the shell around `control`, `ledger` and `storage`.
//!
//! Purpose: [`Volumes`] begins, joins or opens the ledger; from then on [`shell`] tells control what happens and carries out
//! what it orders ([`target`] for legs, [`owner`] for arrays). Nothing here decides.
//!
//! Invariants: before a node acts on the ledger it has caught up with it: until then it would see the past. What must not go back
//! (floors, where legs lie) is on disk before it is acted on.
//!
//! On failure: [`VolumesError`] to whoever asks. What control ordered and could not be done is done again until control
//! orders otherwise.
//!
//! Not here yet: docs/volumes.md, "What the agent leaves out yet".

mod openers;
mod owner;
mod place;
mod shell;
mod target;

use crate::store::{Store, StoreError};
use api::{
    BeginRequest, ClaimRequest, ClusterView, GivenLegRequest, InviteRequest, Invited, JoinRequest, Joined,
    LeaseRequest, PathsRequest, Proposed, Token, VotersRequest,
};
use control::Command;
use ledger::http::HttpTransport;
use ledger::{Config, Contact, Ledger, Newcomer, VotersError};
use model::{BootId, NodeId, NodeName};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OnceCell, watch};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

/// The folder of the ledger, in the agent's.
const LEDGER_FOLDER: &str = "ledger";
/// For how long an invitation is good.
const INVITATION_VALID: Duration = Duration::from_mins(10);

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
    #[error("no room for the leg")]
    Slabs(#[from] storage::slab::SlabError),
    #[error("a peer did not do it")]
    Peer(#[from] ledger::TransportError),
    #[error("{given} is not given out again: {why}")]
    CutShort { given: storage::name::GivenLeg, why: String },
    #[error("{0} is not given out")]
    NotGivenOut(storage::name::GivenLeg),
    #[error(transparent)]
    Abort(#[from] network::kernel::AbortError),
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
    running: OnceCell<Running>,
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
}

impl Volumes {
    /// Opens the ledger if this node has one.
    pub(crate) async fn start(
        (name, boot): (NodeName, BootId),
        store: Store,
        transport: Arc<HttpTransport>,
        paths: watch::Receiver<Option<PathsRequest>>,
        heard: shell::Heard,
    ) -> Self {
        let volumes = Self { name, boot, store, transport, paths, heard, running: OnceCell::new() };
        let folder = volumes.folder();
        if folder.join(ledger::FILE).exists() {
            match Ledger::open(&folder, Config::default(), volumes.transport.clone()).await {
                Ok(ledger) => drop(volumes.run(ledger).await),
                // The node goes on without: it can be told to join again.
                Err(error) => warn!("the ledger stays closed: {}", crate::chain(&error)),
            }
        }
        volumes
    }

    fn folder(&self) -> PathBuf {
        self.store.directory().join(LEDGER_FOLDER)
    }

    /// The route for letters between ledgers.
    pub(crate) fn letters(&self) -> Option<axum::Router> {
        self.running.get().map(|running| running.router.clone())
    }

    fn running(&self) -> Result<&Running, VolumesError> {
        self.running.get().ok_or(VolumesError::NoLedger)
    }

    /// Runs the shell around a ledger that has just been opened.
    async fn run(&self, ledger: Ledger) -> Result<NodeId, VolumesError> {
        let node = ledger.id();
        let place = place::Place::new(&ledger, self.store.clone(), self.paths.clone()).await?;
        let place = Arc::new(place);
        if let Err(error) = place.turn_caches_off(&ledger).await {
            warn!("the caches of the drives: {}", crate::chain(&error));
        }
        let identity = shell::Identity { node, boot: self.boot };
        let shell = shell::start(
            identity,
            ledger.clone(),
            Arc::clone(&place),
            Arc::clone(&self.transport),
            Arc::clone(&self.heard),
        );
        let router = ledger::http::router(ledger.clone());
        info!("{node} in the ledger");
        let running = Running { ledger, place, shell, router };
        self.running.set(running).map_err(|_| VolumesError::HasLedger(node))?;
        Ok(node)
    }

    fn newcomer(&self, address: std::net::SocketAddr) -> Newcomer {
        Newcomer { name: self.name.clone(), address }
    }

    fn has_none(&self) -> Result<(), VolumesError> {
        self.running.get().map_or(Ok(()), |running| Err(VolumesError::HasLedger(running.ledger.id())))
    }

    pub(crate) async fn begin(&self, request: BeginRequest) -> Result<Joined, VolumesError> {
        self.has_none()?;
        let (folder, first) = (self.folder(), self.newcomer(request.address));
        let settings = control::state::Settings::default();
        let made = move || ledger::bootstrap(&folder, &first, request.zone, settings);
        tokio::task::spawn_blocking(made).await??;
        let ledger = Ledger::open(&self.folder(), Config::default(), self.transport.clone()).await?;
        Ok(Joined { node: self.run(ledger).await? })
    }

    pub(crate) async fn join(&self, request: JoinRequest) -> Result<Joined, VolumesError> {
        self.has_none()?;
        let Token(token) = request.token;
        let token = token.parse().map_err(|_| VolumesError::NotAToken)?;
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

    pub(crate) async fn claim(&self, request: ClaimRequest) -> Result<(), VolumesError> {
        let running = self.running()?;
        running.place.claim(&running.ledger, request.serial, request.wipe).await
    }

    pub(crate) async fn flush(&self, request: GivenLegRequest) -> Result<(), VolumesError> {
        self.running()?.place.flush((request.volume, request.leg), request.key).await
    }

    pub(crate) async fn bounce(&self, request: GivenLegRequest) -> Result<(), VolumesError> {
        self.running()?.shell.bounce((request.volume, request.leg), request.key).await
    }

    pub(crate) async fn view(&self) -> Result<ClusterView, VolumesError> {
        let running = self.running()?;
        let status = running.ledger.status();
        let state = running.ledger.state().borrow().as_ref().clone();
        let (leased, blocked) = running.shell.glance().await.ok_or(VolumesError::Ended)?;
        let legs = running.place.legs(&state)?;
        let devices = running.place.devices(&state).await?;
        let node = running.ledger.id();
        Ok(ClusterView {
            node,
            leader: status.leader,
            voters: status.voters,
            leased,
            devices,
            legs,
            blocked,
            state,
        })
    }
}
