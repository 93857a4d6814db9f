//! How fast volumes take writes, and what a peer's death costs: one leg alone, the mirror, and DRBD, in turn on the same nodes.
//!
//! ```text
//!   lab ─ networks ─ [local leg │ remote leg │ mirror │ DRBD │ DRBD that flushes] × rounds ─ peer's power taken, given back: mirror, then DRBD
//! ```
//! Every system has a drive of its own on each node, all of one kind. Nobody but the measurement uses the nodes: their agents have
//! made the networks and rest, and orders to the storage engine are given by `/bin/storage-trial`, as docs/storage.md has it. What is
//! measured is timed on the node, by `/bin/workload measure` (plain `O_DIRECT` writes), but for a resync, which is timed from here.
//!
//! Invariants: systems take turns within a round, so that a busy machine hits all alike; all write to the same places of their devices
//! in the same order; a mirror or DRBD that is not in sync on all legs is not measured.
//!
//! On failure: [`RunError`]; what was measured until then counts for nothing.

mod drbd;
mod mirror;
mod node;

use super::session::Session;
use super::{Options, RunError, in_session};
use crate::lab::{Keeper, Lab};
use crate::progress::Progress;
use crate::ui::Ui;
use deploy::{Cluster, NetworkStage};
use drbd::Drbd;
use mirror::{Alone, Mirror};
use node::Bench;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, sleep};
pub use workload::measure::Figures;
use workload::measure::Order;

/// One for each of: the mirror, a leg alone, DRBD, a mirror of all nodes.
pub(super) const DATA_DRIVES: u8 = 4;

/// How long the first neighbours may take to be heard.
const NEIGHBOURS_PATIENCE: Duration = Duration::from_secs(10);
/// Where measurements write, bytes: behind what a leg alone has at its beginning, at the beginning of a chunk of the bitmap.
const FROM_BYTES: u64 = 16 << 20;
/// How much they write to, bytes: four chunks of the bitmap, sixteen extents of DRBD's activity log.
const REGION_BYTES: u64 = 64 << 20;
/// What tracks changes is warm when each of its pieces was written to: the smallest is an extent of 4 MiB.
const WARM_EVERY_BYTES: u64 = 1 << 20;
/// How much is changed while a peer is away, bytes: two chunks of the bitmap, as a whole.
const CHANGE_BYTES: u64 = 32 << 20;
/// How many writes of one writer make a median and a 99th percentile.
const LATENCY_WRITES: u64 = 1000;
/// How long one writer may take for them, and how long several write, ms.
const MEASURED_MS: u32 = 2000;
/// How long writers have written when the peer's power is taken.
const BEFORE_LOSS: Duration = Duration::from_secs(3);
/// For how long they write in all, ms: more than twice what DRBD's defaults let them wait.
const LOSS_MS: u32 = 25_000;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageOrder {
    /// So many rounds.
    pub rounds: u32,
    /// Whether a peer loses its power.
    pub losses: bool,
    /// Whether there is a mirror of all nodes, too.
    pub all_nodes: bool,
}

/// What takes writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum System {
    /// A leg of this node, alone.
    LocalLeg,
    /// A leg of the other node, alone, by the way that the mirror has to it.
    RemoteLeg,
    /// Two legs, as users have them.
    Mirror,
    /// A leg of every node of four.
    WideMirror,
    /// DRBD, protocol C, told that its drives lose nothing (no flushes), which is what the mirror takes for granted.
    Drbd,
    /// DRBD, protocol C, as it comes: it flushes drives between dependent writes.
    DrbdFlushing,
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::LocalLeg => "local leg alone",
            Self::RemoteLeg => "remote leg alone",
            Self::Mirror => "mirror",
            Self::WideMirror => "mirror of four",
            Self::Drbd => "DRBD without flushes",
            Self::DrbdFlushing => "DRBD as it comes",
        })
    }
}

/// How it is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Load {
    /// 4 KiB anywhere, one at a time.
    One,
    /// 4 KiB anywhere, eight at a time.
    Eight,
    /// 128 KiB, one behind the other, eight at a time.
    InOrder,
}

impl Load {
    const ALL: [Self; 3] = [Self::One, Self::Eight, Self::InOrder];

    /// How long its writes are, bytes.
    pub fn write_bytes(self) -> u32 {
        if self == Self::InOrder { 128 << 10 } else { 4096 }
    }

    fn order(self, device: PathBuf, seed: u64) -> Order {
        Order {
            device,
            from_bytes: FROM_BYTES,
            region_bytes: REGION_BYTES,
            write_bytes: self.write_bytes(),
            writers: if self == Self::One { 1 } else { 8 },
            in_order: self == Self::InOrder,
            seed,
            warm_every_bytes: WARM_EVERY_BYTES,
            writes_max: if self == Self::One { LATENCY_WRITES } else { u64::MAX },
            ms_max: MEASURED_MS,
        }
    }
}

/// What a peer's death cost.
#[derive(Debug, Clone)]
pub struct Loss {
    /// What was written to.
    pub system: System,
    /// The longest time that a write took.
    pub stall: Duration,
    /// How much was written while the peer was away, bytes: each block of a region once or more.
    pub changed_bytes: u64,
    /// What was written to the peer's drive for it when it was back, bytes.
    pub copied_bytes: u64,
    /// From the order that begins it until both have everything.
    pub resync: Duration,
    /// What the engine said of the loss.
    pub said: String,
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct StorageBench {
    /// The kernel, and what ran the nodes' processors.
    pub machine: String,
    /// Round by round.
    pub rounds: Vec<BTreeMap<(System, Load), Figures>>,
    /// Losses of a peer.
    pub losses: Vec<Loss>,
}

/// Boots a lab and measures in it.
pub async fn bench_storage(options: Options, order: StorageOrder, ui: &Ui) -> Result<StorageBench, RunError> {
    in_session(options, ui, async |session: &mut Session<'_>| session.measure_storage(order).await).await
}

/// Measures in a lab that was booted.
pub(super) async fn measure(
    order: StorageOrder,
    mut cluster: Cluster,
    (lab, keeper): (&mut Lab, &mut Keeper),
    machine: String,
    ui: &Ui,
) -> Result<StorageBench, RunError> {
    let line = ui.line("bench");
    line.step("makes the networks");
    cluster.learn_speeds().await?;
    let failures = match deploy::network(&cluster, NEIGHBOURS_PATIENCE).await? {
        NetworkStage::Applied { applied, .. } => applied.failures(),
        NetworkStage::Refused(cabling) => cabling.errors().map(ToString::to_string).collect(),
    };
    if !failures.is_empty() {
        return Err(RunError::Refused(failures.join("\n")));
    }
    line.step("makes legs, mirror and DRBD");
    let mut bench = Bench::new(cluster, lab, keeper)?;
    let mut systems = Systems::make(&bench, order.all_nodes).await?;
    let mut rounds = Vec::new();
    for number in 1..=order.rounds {
        line.step(&format!("round {number} of {}", order.rounds));
        let round = systems.round(&bench, number).await?;
        ui.say(&format!("round {number}: {}", in_a_line(&round)));
        rounds.push(round);
    }
    let mut losses = Vec::new();
    for system in [System::Mirror, System::Drbd].into_iter().filter(|_| order.losses) {
        line.step(&format!("{system}: the peer's power is taken"));
        let loss = systems.lose_peer(&mut bench, system).await?;
        ui.say(&format!("{system}: the longest write took {:.2} s", loss.stall.as_secs_f64()));
        losses.push(loss);
    }
    Ok(StorageBench { machine, rounds, losses })
}

/// One writer's medians.
fn in_a_line(round: &BTreeMap<(System, Load), Figures>) -> String {
    let of_one = round.iter().filter(|((_, load), _)| *load == Load::One);
    let words: Vec<String> =
        of_one.map(|((system, _), figures)| format!("{system} {} µs", figures.median_us)).collect();
    words.join(", ")
}

/// All that is measured.
struct Systems {
    alone: Alone,
    mirror: Mirror,
    wide: Option<Mirror>,
    drbd: Drbd,
}

impl Systems {
    async fn make(bench: &Bench<'_>, all_nodes: bool) -> Result<Self, RunError> {
        let two = [bench.owner.clone(), bench.peer.clone()];
        let mut systems = Self {
            mirror: Mirror::make(bench, mirror::TWO_WAY, &two).await?,
            alone: Alone::make(bench).await?,
            drbd: Drbd::make(bench).await?,
            wide: None,
        };
        if all_nodes {
            systems.wide = Some(Mirror::make(bench, mirror::WIDE, &bench.all).await?);
        }
        Ok(systems)
    }

    fn devices(&self) -> Vec<(System, PathBuf)> {
        let mut devices = vec![
            (System::LocalLeg, self.alone.local.clone()),
            (System::RemoteLeg, self.alone.remote.clone()),
            (System::Mirror, self.mirror.device.clone()),
        ];
        devices.extend(self.wide.as_ref().map(|wide| (System::WideMirror, wide.device.clone())));
        devices.extend([System::Drbd, System::DrbdFlushing].map(|system| (system, drbd::device())));
        devices
    }

    async fn round(
        &self,
        bench: &Bench<'_>,
        number: u32,
    ) -> Result<BTreeMap<(System, Load), Figures>, RunError> {
        let mut round = BTreeMap::new();
        for load in Load::ALL {
            for (system, device) in self.devices() {
                if matches!(system, System::Drbd | System::DrbdFlushing) {
                    drbd::flushes(bench, system == System::DrbdFlushing).await?;
                }
                let figures = bench.measure(&load.order(device, number.into())).await?;
                round.insert((system, load), figures);
            }
        }
        drbd::flushes(bench, false).await?;
        Ok(round)
    }

    /// Takes the peer's power while eight write to a system, changes it, gives the power back, and has it brought up to date. The
    /// other systems come through it too.
    async fn lose_peer(&mut self, bench: &mut Bench<'_>, system: System) -> Result<Loss, RunError> {
        let device = if system == System::Mirror { self.mirror.device.clone() } else { drbd::device() };
        let written =
            Order { region_bytes: CHANGE_BYTES, ms_max: LOSS_MS, ..Load::Eight.order(device.clone(), 0) };
        let guard = self.mirror.guard(LOSS_MS);
        let writing = bench.measure_beside(&guard, &written).await?;
        let cut = async {
            sleep(BEFORE_LOSS).await;
            bench.power_off_peer().await
        };
        let (written, cut) = tokio::join!(writing, cut);
        cut?;
        let (figures, said) = written?;
        let change = Order {
            region_bytes: CHANGE_BYTES,
            warm_every_bytes: 0,
            writes_max: CHANGE_BYTES / u64::from(Load::InOrder.write_bytes()),
            ms_max: LOSS_MS,
            ..Load::InOrder.order(device, 0)
        };
        bench.measure(&change).await?;
        bench.power_on_peer().await?;
        let (mirror, drbd) = (self.mirror.rebuild(bench).await?, self.drbd.resync(bench).await?);
        let (copied_bytes, resync) = if system == System::Mirror { mirror } else { drbd };
        Ok(Loss {
            system,
            stall: Duration::from_micros(figures.longest_us),
            changed_bytes: CHANGE_BYTES,
            copied_bytes,
            resync,
            said,
        })
    }
}

/// Asks until it is so, within a bound; how long that took.
async fn until<F: Future<Output = Result<bool, RunError>>>(
    what: &str,
    bound: Duration,
    mut ask: impl FnMut() -> F,
) -> Result<Duration, RunError> {
    /// A command by a node's hands takes some 10 ms.
    const POLL: Duration = Duration::from_millis(20);
    let begun = Instant::now();
    while !ask().await? {
        if begun.elapsed() > bound {
            return Err(RunError::Refused(format!("{what} did not come about within {} s", bound.as_secs())));
        }
        sleep(POLL).await;
    }
    Ok(begun.elapsed())
}
