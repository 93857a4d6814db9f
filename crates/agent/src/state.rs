//! What the daemon knows while it runs, and what runs beside the server.

use crate::adapters::Adapters;
use crate::neighbours::Neighbours;
use crate::network::{BootId, Changes, Kernel, Network};
use crate::probes::Probes;
use crate::store::{Lock, Store, StoreError};
use crate::throughput::Throughput;
#[cfg(feature = "volumes")]
use crate::volumes::{LeftUsers, Volumes};
use crate::{Owner, announce, clock, inventory, lldp};
use api::{Health, Hello, NicState, NodeConfig, PowerAction};
#[cfg(feature = "volumes")]
use ledger::http::HttpTransport;
use network::kernel::{ListenError, Monitor, NetlinkError};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use tracing::warn;

/// Why the daemon stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It was told to end; the machine goes on.
    Signal,
    /// Its ledger can go on in another run of it only: whoever is over it starts that.
    #[cfg(feature = "volumes")]
    Anew,
    /// The machine goes down, or down and up.
    Power(PowerAction),
}

/// Why the daemon can't start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("can't reach the kernel's network")]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("the kernel doesn't say which boot this is: what an earlier agent left can't be judged")]
    BootId,
    #[cfg(feature = "volumes")]
    #[error("can't look after users that an earlier agent has left")]
    LeftUsers(#[source] std::io::Error),
    #[error("can't go on where the last agent ended")]
    Store(#[from] StoreError),
    #[cfg(feature = "volumes")]
    #[error("can't use the TLS identity of the configuration")]
    Identity(#[from] api::IdentityError),
}

/// What all requests share.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: NodeConfig,
    pub(crate) owner: Owner,
    pub(crate) network: Arc<Network<Kernel>>,
    pub(crate) changes: Arc<Changes>,
    pub(crate) probes: Arc<Probes>,
    pub(crate) throughput: Throughput,
    pub(crate) inventory: inventory::Turn,
    #[cfg(feature = "volumes")]
    pub(crate) volumes: Arc<Volumes>,
    boot_id: String,
    adapters: Adapters,
    neighbours: Arc<Mutex<Neighbours>>,
    stop: watch::Sender<Option<Stop>>,
    _lock: Lock,
}

impl State {
    /// Starts what runs beside the server. A plan that nobody confirmed is taken back before anything else that may fail.
    pub(crate) async fn start(
        config: NodeConfig,
        owner: Owner,
        store: Store,
    ) -> Result<Arc<Self>, StartError> {
        #[cfg(feature = "volumes")]
        let (run, left) = left_users()?;
        let lock = store.lock()?;
        #[cfg(feature = "volumes")]
        crate::volumes::renew_lease(&config.tls, run, &left);
        let kernel = Kernel::open(config.adapters.clone())?;
        let boot = BootId::here().ok_or(StartError::BootId)?;
        let network = Network::start(config.node.clone(), boot, kernel, store.clone()).await?;
        let adapters = Adapters::find(&config.adapters);
        for (name, mac) in adapters.missing() {
            warn!("adapter `{name}`: no NIC has MAC address {mac}");
        }
        let changes = Arc::<Changes>::default();
        tokio::spawn(Arc::clone(&changes).watch(Monitor::open()?));
        tokio::spawn(Arc::clone(&network).mend_drift(Arc::clone(&changes)));
        let neighbours = Arc::<Mutex<Neighbours>>::default();
        let pending = Arc::<announce::Pending>::default();
        lldp::listen(adapters.by_index(), Arc::clone(&neighbours), Arc::clone(&pending))?;
        announce::start(pending)?;
        let probes = Arc::new(Probes::start(store.clone())?);
        #[cfg(feature = "volumes")]
        let volumes = start_volumes(&config, store, &probes, (run, left)).await?;
        Ok(Arc::new(Self {
            network,
            probes,
            #[cfg(feature = "volumes")]
            volumes,
            throughput: Throughput::default(),
            inventory: inventory::Turn::default(),
            boot_id: inventory::boot_id(),
            stop: watch::Sender::new(None),
            config,
            owner,
            changes,
            adapters,
            neighbours,
            _lock: lock,
        }))
    }

    pub(crate) fn hello(&self) -> Hello {
        Hello {
            node: self.config.node.clone(),
            role: self.config.role,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: self.boot_id.clone(),
            uptime_ms: clock::uptime_ms(),
        }
    }

    /// What the adapters see.
    pub(crate) fn nics(&self) -> Vec<NicState> {
        // Frames come in whole: after a panic elsewhere the table is still good.
        let neighbours = self.neighbours.lock().unwrap_or_else(PoisonError::into_inner);
        self.adapters.states(&neighbours, clock::uptime_ms())
    }

    /// How the node is.
    pub(crate) fn health(&self) -> Health {
        let (paths, listening_ms) = self.probes.heard();
        Health {
            node: self.config.node.clone(),
            boot_id: self.boot_id.clone(),
            uptime_ms: clock::uptime_ms(),
            wall_ms: clock::wall_ms(),
            listening_ms,
            paths,
            qualities: self.probes.qualities(),
            nics: self.nics(),
            drifts: self.network.drifts_at_a_glance(),
            out_of_room: std::collections::BTreeMap::new(),
        }
    }

    /// Tells everything to end. The first reason counts.
    pub(crate) fn stop(&self, why: Stop) {
        self.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            stop.get_or_insert(why);
            first
        });
    }

    /// Ends when the daemon shall stop, with the reason.
    pub(crate) async fn stopped(&self) -> Stop {
        let mut stop = self.stop.subscribe();
        // The sender lives in `self`: waiting can't fail.
        stop.wait_for(Option::is_some).await.ok().and_then(|why| *why).unwrap_or(Stop::Signal)
    }
}

/// This boot, and who looks after users that an earlier run of the agent has left: before anything that may fail or wait.
#[cfg(feature = "volumes")]
fn left_users() -> Result<(model::BootId, LeftUsers), StartError> {
    let boot = inventory::boot_id().parse().map_err(|_| StartError::BootId)?;
    Ok((boot, LeftUsers::of(boot).map_err(StartError::LeftUsers)?))
}

/// The ledger and volumes, if this node has them.
#[cfg(feature = "volumes")]
async fn start_volumes(
    config: &NodeConfig,
    store: Store,
    probes: &Arc<Probes>,
    (boot, left): (model::BootId, LeftUsers),
) -> Result<Arc<Volumes>, StartError> {
    let listener = Arc::clone(probes);
    let heard = Arc::new(move || listener.heard().0);
    let transport = Arc::new(HttpTransport::new(&config.tls)?);
    let who = (config.node.clone(), boot);
    Ok(Volumes::start(who, store, transport, probes.watch(), heard, left).await)
}
