//! The nodes of a measurement of storage, and what is done on them.
//!
//! On failure: [`RunError`]; an order that a node could not carry out with what it said.

use super::until;
use crate::lab::hands::Hands;
use crate::lab::{Keeper, Lab, LabError, LabNode};
use crate::run::RunError;
use deploy::{Cluster, DeployError};
use hands::LIMIT_DEFAULT;
use model::{ClusterSpec, DriveSerial, NodeName};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;
use workload::measure::{Figures, Order};

/// As long as a node's hands let a command run.
const LIMIT: Duration = hands::LIMIT_MAX;
/// How long two programs beside each other may take, seconds: less than that.
const BESIDE_S: u8 = 50;
/// A node's return: boot, links.
const RETURN_BOUND: Duration = Duration::from_mins(1);
/// How much a volume holds, bytes.
const VOLUME_BYTES: u64 = 512 << 20;
/// As the agent has it (crates/agent, `STALL_MAX`).
const STALL_MS: u64 = 2000;

/// A node of a rack.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) name: NodeName,
    /// By which the storage engine knows it.
    pub(super) id: u32,
    /// Its data drives.
    pub(super) drives: Vec<DriveSerial>,
    /// On the storage networks.
    pub(super) addresses: BTreeMap<u16, Ipv4Addr>,
}

/// The lab of a measurement.
pub(super) struct Bench<'a> {
    cluster: Cluster,
    lab: &'a mut Lab,
    keeper: &'a mut Keeper,
    /// Where volumes are open.
    pub(super) owner: Place,
    /// The first node of the other rack.
    pub(super) peer: Place,
    /// All that have drives, the owner first.
    pub(super) all: Vec<Place>,
}

impl<'a> Bench<'a> {
    pub(super) fn new(cluster: Cluster, lab: &'a mut Lab, keeper: &'a mut Keeper) -> Result<Self, RunError> {
        let missing = || LabError::Missing { node: cluster.spec.name.to_string() };
        let mut all = Vec::new();
        for (_, node) in cluster.spec.nodes() {
            let lab_node = lab.nodes().get(&node.name).ok_or_else(missing)?;
            let networks = (1..).zip(&cluster.spec.storage_networks);
            let address = |network| ClusterSpec::storage_address(network, node.ordinal);
            all.push(Place {
                name: node.name.clone(),
                id: node.ordinal.get().into(),
                drives: lab_node.data_drives().into_iter().collect(),
                addresses: networks.map(|(number, network)| (number, address(network))).collect(),
            });
        }
        let first_of = |zone: usize| {
            let node = cluster.spec.zones.get(zone)?.nodes.first()?;
            all.iter().find(|place| place.name == node.name).cloned()
        };
        let (Some(owner), Some(peer)) = (first_of(0), first_of(1)) else { return Err(missing().into()) };
        all.sort_by_key(|place| place.name != owner.name);
        Ok(Self { cluster, lab, keeper, owner, peer, all })
    }

    fn node(&self, place: &Place) -> Result<&LabNode, LabError> {
        let missing = || LabError::Missing { node: place.name.to_string() };
        self.lab.nodes().get(&place.name).ok_or_else(missing)
    }

    /// Runs a command; gives what it said, once it has ended well.
    pub(super) async fn run(&self, on: &Place, argv: &[&str]) -> Result<String, RunError> {
        let hands = self.node(on)?.hands_or_lab_error().await?;
        command(hands, on, argv, LIMIT_DEFAULT).await
    }

    /// Gives a node's storage engine an order.
    pub(super) async fn trial(&self, on: &Place, volume: u32, order: &Value) -> Result<String, RunError> {
        let hands = self.node(on)?.hands_or_lab_error().await?;
        let (site, order) = (self.site(on, volume), order.to_string());
        command(hands, on, &["/bin/storage-trial", &site, &order], LIMIT).await
    }

    /// The same, of an order that says a device.
    pub(super) async fn trial_device(
        &self,
        on: &Place,
        volume: u32,
        order: &Value,
    ) -> Result<String, RunError> {
        let said = self.trial(on, volume, order).await?;
        let device = said.lines().rev().find(|line| line.starts_with("/dev/")).map(str::to_owned);
        device.ok_or_else(|| refused(on, &order.to_string(), &said).into())
    }

    /// Who a node is, as `/bin/storage-trial` wants it.
    pub(super) fn site(&self, on: &Place, volume: u32) -> String {
        let others = self.all.iter().filter(|place| place.name != on.name);
        let peers: BTreeMap<u32, &BTreeMap<u16, Ipv4Addr>> =
            others.map(|place| (place.id, &place.addresses)).collect();
        json!({
            "cluster": format!("{:032x}", 1),
            "node": on.id,
            "own": on.addresses,
            "peers": peers,
            "volume": volume,
            "sizes": { "data_bytes": VOLUME_BYTES, "room_bytes": VOLUME_BYTES, "chunk_bytes": 16 << 20 },
            "slab_bytes": 64 << 20,
            "stall_ms": STALL_MS,
        })
        .to_string()
    }

    /// Measures on the owner.
    pub(super) async fn measure(&self, order: &Order) -> Result<Figures, RunError> {
        let hands = self.node(&self.owner)?.hands_or_lab_error().await?;
        let order = serde_json::to_string(order).unwrap_or_default();
        match command(hands, &self.owner, &["/bin/workload", "measure", &order], LIMIT).await {
            Ok(said) => figures(&self.owner, &said).map(|(figures, _)| figures),
            Err(error) => Err(self.with_kernel_s_words(error).await),
        }
    }

    /// What failed on the owner, and what its kernel said last.
    async fn with_kernel_s_words(&self, error: RunError) -> RunError {
        const LINES: &str = "12";
        let last = format!("/bin/busybox dmesg | /bin/busybox tail -n {LINES}");
        let said = self.run(&self.owner, &["/bin/busybox", "sh", "-c", &last]).await.unwrap_or_default();
        refused(
            &self.owner,
            "measure",
            &format!("{}\nits kernel's last words:\n{said}", crate::chain(&error)),
        )
        .into()
    }

    /// The same, while an order to the storage engine of a volume waits there beside it; gives what that said, too.
    pub(super) async fn measure_beside(
        &self,
        (volume, waiting): &(u32, Value),
        order: &Order,
    ) -> Result<impl Future<Output = Result<(Figures, String), RunError>> + use<>, RunError> {
        let (site, order) =
            (self.site(&self.owner, *volume), serde_json::to_string(order).unwrap_or_default());
        // Writes may hang for good: then what the engine did says more than that they do.
        let script = format!(
            "/bin/storage-trial '{site}' '{waiting}' >/run/waiting 2>&1 & waiting=$!; \
             /bin/workload measure '{order}' >/run/measured 2>&1 & measured=$!; \
             for i in $(/bin/busybox seq {BESIDE_S}); do \
             kill -0 $measured 2>/dev/null || kill -0 $waiting 2>/dev/null || break; /bin/busybox sleep 1; done; \
             /bin/busybox cat /run/measured /run/waiting; kill -0 $measured 2>/dev/null || exit 0; \
             /bin/busybox grep . /sys/block/md*/md/array_state /sys/block/md*/md/dev-*/state; \
             /bin/busybox dmesg | /bin/busybox tail -n 40"
        );
        let (hands, owner) = (self.node(&self.owner)?.hands_or_lab_error().await?, self.owner.clone());
        Ok(async move {
            let said = command(hands, &owner, &["/bin/busybox", "sh", "-c", &script], LIMIT).await?;
            figures(&owner, &said)
        })
    }

    /// What was written to a drive since the node started, bytes (Documentation/block/stat.rst: the seventh number, sectors).
    pub(super) async fn written_bytes(&self, on: &Place, drive: usize) -> Result<u64, RunError> {
        let device = self.device(on, drive).await?;
        let file = format!("/sys/block/{}/stat", device.trim_start_matches("/dev/"));
        let said = self.run(on, &["/bin/busybox", "cat", &file]).await?;
        let sectors = said.split_whitespace().nth(6).and_then(|word| word.parse::<u64>().ok());
        sectors.map(|sectors| sectors * 512).ok_or_else(|| refused(on, &file, &said).into())
    }

    /// The device of a drive: its name may be another after each start.
    pub(super) async fn device(&self, on: &Place, drive: usize) -> Result<String, RunError> {
        let serial = serial(on, drive)?;
        self.trial_device(on, 0, &json!({ "drive": { "serial": serial } })).await
    }

    pub(super) async fn power_off_peer(&mut self) -> Result<(), RunError> {
        let names = BTreeSet::from([self.peer.name.clone()]);
        Ok(self.lab.power_off(self.keeper, &names).await?)
    }

    /// Gives the peer its power back; returns when it has made its links.
    pub(super) async fn power_on_peer(&mut self) -> Result<(), RunError> {
        let names = BTreeSet::from([self.peer.name.clone()]);
        self.lab.power_on(self.keeper, &names).await?;
        self.node(&self.peer)?.client.wait_ready(RETURN_BOUND).await.map_err(DeployError::Ask)?;
        let made = || async {
            let left = deploy::read_back(&self.cluster).await?;
            Ok(left.iter().all(|(_, ops)| ops.is_empty()))
        };
        until("the peer's links", RETURN_BOUND, made).await.map(drop)
    }
}

/// A drive of a node.
pub(super) fn serial(of: &Place, drive: usize) -> Result<&DriveSerial, RunError> {
    of.drives.get(drive).ok_or_else(|| refused(of, "find a drive", "there are too few").into())
}

async fn command(mut hands: Hands, on: &Place, argv: &[&str], limit: Duration) -> Result<String, RunError> {
    let node = || on.name.to_string();
    let run = hands.run_with(argv, "", limit).await;
    let output = run.map_err(|source| LabError::Hands { node: node(), source })?;
    if output.status == 0 {
        return Ok(output.stdout);
    }
    Err(refused(on, &argv.join(" "), &format!("{}{}", output.stdout, output.stderr)).into())
}

pub(super) fn refused(on: &Place, what: &str, said: &str) -> LabError {
    LabError::Refused { node: on.name.to_string(), what: what.to_owned(), said: said.trim().to_owned() }
}

/// The figures in the first line, and what follows.
fn figures(on: &Place, said: &str) -> Result<(Figures, String), RunError> {
    let (first, rest) = said.split_once('\n').unwrap_or((said, ""));
    let parsed = serde_json::from_str(first);
    parsed.map(|figures| (figures, rest.to_owned())).map_err(|_| refused(on, "measure", said).into())
}
