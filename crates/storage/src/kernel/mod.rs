//! What talks to the kernel about storage: configfs (nvmet), nvme-fabrics, device-mapper, md. It decides nothing.
//!
//! Purpose: [`Engine`] carries out the steps that the pure modules compute, one after the other, and reads back what is there. It
//! keeps no state: a new one knows all that an earlier one knew.
//!
//! Invariants: every wait has a bound, except those of reads and writes through a gate that queues: these end when the gate has a
//! path or is told to fail, as do an order's steps that hang in one. Needs `CAP_SYS_ADMIN`.
//!
//! On failure: [`StepError`]; what was done until then stays, and the order may be given again.

mod block;
mod carry_owner;
mod carry_target;
mod disk;
mod dm;
mod drive_life;
mod fabrics;
mod gate;
mod idle;
mod load;
mod maps_io;
mod md;
mod observe;
mod stirs;
mod sysfs;
mod thin;
mod write_cache;

pub use dm::{DeviceNumber, DmError};
pub use load::{Count, Counters};
pub use stirs::Stirs;
pub use sysfs::{FileError, Watched};

use crate::bug::{Bug, Bugs};
use crate::digest::{Digest, DigestKey};
use crate::header::{self, Claim, ClusterId, Content, DriveHeader, EXAMINED_BYTES, HEADER_BYTES, Refused};
use crate::leg::LegError;
use crate::name::GivenLeg;
use crate::owner::Site;
use crate::slab::Extent;
use crate::target;
use block::Block;
use control::target::LegOf;
use dm::{Dm, Info};
use model::{DriveId, DriveSerial, LegId, NodeId};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::TryLockError;
use std::time::Duration;

/// A step could not be done.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A file of the kernel's, or a device.
    #[error(transparent)]
    File(#[from] FileError),
    /// Device-mapper.
    #[error(transparent)]
    Dm(#[from] DmError),
    /// A leg's header or sizes.
    #[error("the leg behind {device}")]
    Leg {
        /// Its device.
        device: String,
        /// What about it.
        #[source]
        source: LegError,
    },
    /// It should be there.
    #[error("there is no {what}")]
    Missing {
        /// What was looked for.
        what: String,
    },
    /// It did not come in time.
    #[error("{what} did not come within {bound:?}")]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        bound: Duration,
    },
    /// No way to a leg.
    #[error("no path to {given:?} came about: {why}")]
    NoPath {
        /// Which leg.
        given: GivenLeg,
        /// The last path's error.
        why: String,
    },
    /// md must not be answered.
    #[error("{0} has failed and is not one of those that may")]
    OtherFailed(LegId),
    /// md took a leg in without our having brought it up to date.
    #[error("{0} became in sync by itself")]
    InSyncByItself(LegId),
    /// What was written before a rebuild may still be held, unacknowledged and unmarked.
    #[error("{0} failed while another leg was to be copied")]
    FailedMeanwhile(LegId),
    /// More maps than a leg has room for.
    #[error("no room for so many maps")]
    TooManyMaps,
    /// A drive does not say what it is asked.
    #[error(transparent)]
    Drive(#[from] nvme::NvmeError),
    /// It would forget what it acknowledged.
    #[error("the volatile write cache of {device} can't be turned off: it may hold no leg")]
    VolatileCache {
        /// The drive's device.
        device: String,
    },
    /// The barrier is not through.
    #[error("I/O in flight to {given:?} has not ended within {bound:?}")]
    Barrier {
        /// Of which leg.
        given: GivenLeg,
        /// How long was waited.
        bound: Duration,
    },
}

/// A drive can't be made one of the pool.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// It could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It may not.
    #[error("drive {path} is left as it is")]
    Refused {
        /// Its device.
        path: String,
        /// Why.
        #[source]
        source: Refused,
    },
}

/// Who this node is, and where it reaches whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// Its addresses, by storage network.
    pub own: BTreeMap<u16, IpAddr>,
    /// Its peers' addresses, by storage network.
    pub peers: BTreeMap<NodeId, BTreeMap<u16, IpAddr>>,
    /// How long a request may stall on a path before the path is given up (`queue/io_timeout`). It trades how soon a dead path is
    /// found against ghosts, and against paths that are given up where a node is only slow.
    pub stall_max: Duration,
}

impl Settings {
    /// Gave a dead path in 1.0 s (design notes, rule 3).
    pub const STALL_MAX_DEFAULT: Duration = Duration::from_secs(1);
}

/// How the node that has a leg is asked for digests of a stretch of it; `None`: it did not say.
#[derive(Clone)]
pub struct AskDigests(Arc<dyn Fn(GivenLeg, Extent, DigestKey) -> Option<Vec<Digest>> + Send + Sync>);

impl AskDigests {
    /// By this; it may block.
    pub fn new(
        ask: impl Fn(GivenLeg, Extent, DigestKey) -> Option<Vec<Digest>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(ask))
    }
}

impl std::fmt::Debug for AskDigests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AskDigests")
    }
}

/// What is on a drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// This.
    Holds(Content),
    /// What the system uses.
    InUse,
}

/// Looks at a drive's beginning and end.
fn examine(drive: &Block) -> Result<Content, FileError> {
    let [(first_at, first), (last_at, last)] = ends(drive)?;
    Ok(header::examine(&drive.read(first_at, first)?, &drive.read(last_at, last)?))
}

/// Where a drive's beginning and its end are, and how long they are: whole blocks.
fn ends(drive: &Block) -> Result<[(u64, usize); 2], FileError> {
    let len = usize::try_from(drive.len_bytes()?).unwrap_or(usize::MAX) / 4096 * 4096;
    let looked = EXAMINED_BYTES.min(len);
    Ok([(0, looked), ((len - looked) as u64, looked)])
}

/// This node's storage in the kernel.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    dm: Dm,
    ask: Option<AskDigests>,
    bugs: Bugs,
}

impl Engine {
    /// For this node.
    pub fn new(settings: Settings) -> Result<Self, StepError> {
        Ok(Self { settings, dm: Dm::open()?, ask: None, bugs: Bugs::default() })
    }

    /// The same, which asks peers for digests where legs are made equal. Without, all that may differ is read through the legs' gates.
    #[must_use]
    pub fn asking(self, ask: AskDigests) -> Self {
        Self { ask: Some(ask), ..self }
    }

    /// With rules broken on purpose.
    #[must_use]
    pub fn with_bugs(self, bugs: Bugs) -> Self {
        Self { bugs, ..self }
    }

    /// Writes a drive's header, unless it holds what may not be lost or the system uses it. Of what is wiped no mark stays: neither its beginning nor its end would say what it was.
    pub fn claim(
        &self,
        path: &std::path::Path,
        header: DriveHeader,
        wipe: bool,
    ) -> Result<Claim, ClaimError> {
        let refused = |source| ClaimError::Refused { path: path.display().to_string(), source };
        let drive = Block::open(path)?;
        // One that is ours already is used by us.
        if header::claim(&examine(&drive)?, header, wipe).map_err(refused)? == Claim::Done {
            return Ok(Claim::Done);
        }
        // Nobody mounts it meanwhile. What it holds by now is what counts.
        let Some(_held) = Block::hold(path)? else { return Err(refused(Refused::InUse)) };
        let content = examine(&drive)?;
        let claim = header::claim(&content, header, wipe).map_err(refused)?;
        if claim == Claim::Write {
            if content != Content::Blank {
                for (at, len) in ends(&drive)? {
                    drive.write(at, &vec![0; len])?;
                }
            }
            drive.write_and_check(0, &header.encode())?;
        }
        Ok(claim)
    }

    /// Which of this cluster's pool a drive says that it is; `None`: none.
    pub fn of_cluster(&self, path: &std::path::Path) -> Result<Option<DriveId>, StepError> {
        Ok(match examine(&Block::open_to_read(path)?)? {
            Content::Pool(header) if header.cluster == self.settings.cluster => Some(header.drive),
            _ => None,
        })
    }

    /// Makes a drive of this cluster's pool blank: neither its beginning nor its end says any more what it was. Any other drive is let alone.
    ///
    /// Nobody may use the pool any more: one that is in use is refused.
    pub fn give_back(&self, path: &std::path::Path) -> Result<(), ClaimError> {
        let refused = |source| ClaimError::Refused { path: path.display().to_string(), source };
        let Some(_held) = Block::hold(path)? else { return Err(refused(Refused::InUse)) };
        let drive = Block::open(path)?;
        // What it holds by now is what counts.
        if !matches!(examine(&drive)?, Content::Pool(header) if header.cluster == self.settings.cluster) {
            return Ok(());
        }
        // The header last: whoever is killed before it finds it again.
        for (at, len) in ends(&drive)?.into_iter().rev() {
            drive.write(at, &vec![0; len])?;
        }
        Ok(drive.flush()?)
    }

    /// Takes away what targets of this node left for the next leg: ports at its own addresses that nothing is given out at, and hosts of its cluster.
    pub fn withdraw(&self) -> Result<(), StepError> {
        carry_target::withdraw(self)
    }

    /// What is on a drive. One that is no pool's is also looked at for whether the system uses it; a pool's is used by the pool.
    pub fn contents(&self, path: &std::path::Path) -> Result<Contents, StepError> {
        match examine(&Block::open_to_read(path)?)? {
            content @ Content::Pool(_) => Ok(Contents::Holds(content)),
            _ if Block::hold(path)?.is_none() => Ok(Contents::InUse),
            content => Ok(Contents::Holds(content)),
        }
    }

    /// Whether a drive has this header, and no other: only then is anything of the pool written to it.
    pub fn is_claimed(&self, path: &std::path::Path, header: DriveHeader) -> Result<bool, StepError> {
        let drive = Block::open(path)?;
        Ok(DriveHeader::decode(&drive.read(0, HEADER_BYTES)?) == Ok(header))
    }

    /// The device of the drive with that serial number.
    pub fn drive(&self, serial: &DriveSerial) -> Result<PathBuf, StepError> {
        observe::drive(serial)
    }

    /// Sees that what a drive acknowledges outlives its power: turns its volatile write cache off, and reads that back.
    pub fn turn_cache_off(&self, path: &std::path::Path) -> Result<(), StepError> {
        if self.bugs.has(Bug::LyingCache) {
            return Ok(());
        }
        write_cache::turn_off(path)
    }

    /// A number that is another one after the drive was gone and came back; `None` for what is no NVMe drive.
    pub fn appearance(&self, path: &std::path::Path) -> Option<u64> {
        drive_life::appearance(path)
    }

    /// What the drive says of its health; `None` for what is no NVMe drive.
    pub fn health(&self, path: &std::path::Path) -> Result<Option<nvme::Health>, StepError> {
        drive_life::health(path)
    }

    /// What the kernel has of this node as target.
    pub fn seen_target(&self) -> Result<target::Seen, StepError> {
        observe::target(self)
    }

    /// What it has of it as owner of a volume.
    pub fn seen_owner(&self, site: &Site) -> Result<crate::owner::Seen, StepError> {
        observe::owner(self, site)
    }

    /// Carries out a target's step. `sizes` are those of the leg's volume, for one that has never been made.
    pub fn carry_target(&self, step: &target::Step, sizes: crate::leg::Sizes) -> Result<(), StepError> {
        carry_target::carry(self, step, sizes)
    }

    /// Carries out an owner's step.
    pub fn carry_owner(
        &self,
        site: &Site,
        epoch: model::Epoch,
        step: &crate::owner::Step,
    ) -> Result<(), StepError> {
        carry_owner::carry(self, site, epoch, step)
    }

    /// Flushes a leg's drive, here where the leg is: the status is the drive's own.
    pub fn flush_leg(&self, given: GivenLeg) -> Result<(), StepError> {
        Ok(Block::open(&self.node_of(&given.device())?)?.flush()?)
    }

    /// Digests of a stretch of a leg, here where the leg is. The leg is given out under this key, so that nobody but who asks can write to it; what an
    /// earlier owner had in flight has ended (the barrier).
    pub fn digests(&self, given: GivenLeg, of: Extent, key: DigestKey) -> Result<Vec<Digest>, StepError> {
        maps_io::digests(&Block::open_to_read(&self.node_of(&given.device())?)?, of, key)
    }

    /// Gives a gate its path again, after the bounce: [`crate::owner::to_bounce`].
    pub fn reinstate(&self, leg: LegOf, epoch: model::Epoch) -> Result<(), StepError> {
        self.tell_path(&crate::name::gate(leg, epoch), "reinstate_path")
    }

    /// Connects to a leg through one network more, if one is missing, and waits until that has come about or failed; the number of what was made.
    pub fn connect_more(&self, given: GivenLeg, node: NodeId) -> Result<Option<u32>, StepError> {
        fabrics::connect_more(self, given, node)
    }

    /// Lets go of a connection that was made.
    pub fn let_go_of(&self, controller: u32) {
        fabrics::delete(controller);
    }

    /// Which extents of a thin volume users write that have no place, since this was asked last. What waits is counted again whenever
    /// [`Self::reinstate_queue`] lets it try.
    pub fn unmapped(&self, volume: model::VolumeId) -> Result<std::collections::BTreeSet<u64>, StepError> {
        thin::written(self, volume)
    }

    /// Lets what waits for a place try again: what has one goes on.
    pub fn reinstate_queue(&self, volume: model::VolumeId) -> Result<(), StepError> {
        self.tell_path(&crate::name::queue(volume), "reinstate_path")
    }

    /// Tells a gate something about its one path.
    fn tell_path(&self, gate: &str, word: &str) -> Result<(), StepError> {
        for number in self.dm.below(gate)? {
            self.dm.message(gate, &format!("{word} {number}"))?;
        }
        Ok(())
    }

    /// Lets the device of an own leg lead to its drive as that is found now, once nothing is in flight through it: the bounce of a leg that
    /// its own node uses. Fails unless the leg is there.
    pub fn turn_device(&self, offer: &target::Offer) -> Result<(), StepError> {
        let (drive, extents) = (offer.drive.clone(), offer.extents.clone());
        let turn = target::Step::TurnDevice(offer.given, drive, extents, offer.bytes);
        carry_target::carry(self, &turn, crate::leg::Sizes { data_bytes: 0, room_bytes: 0, chunk_bytes: 0 })
    }

    /// Fills pieces of a drive with zeros, durably, a stretch at a time while `goes_on` says so; whether it came to the end. Nothing of it is in flight
    /// when this returns.
    pub fn fill(
        &self,
        drive: &std::path::Path,
        pieces: &[Extent],
        goes_on: impl Fn() -> bool,
    ) -> Result<bool, StepError> {
        let block = Block::open(drive)?;
        for stretch in pieces.iter().flat_map(|piece| crate::slab::stretches(*piece)) {
            if !goes_on() {
                return Ok(false);
            }
            block.zero(stretch.offset_bytes, stretch.len_bytes)?;
        }
        block.flush()?;
        Ok(true)
    }

    /// Waits for an event of a gate; whether there was one in time.
    pub fn wait_for_gates(&self, bound: Duration) -> Result<bool, StepError> {
        Ok(self.dm.wait(bound)?)
    }

    /// Tells of every change of an array and of every event of a gate, as long as what this gives is kept.
    pub fn stirs(
        &self,
        site: &Site,
        epoch: model::Epoch,
        told: impl Fn() + Send + 'static,
    ) -> Result<Stirs, StepError> {
        Stirs::begin(self.watch(site, epoch)?, Dm::open()?, told)
    }

    /// The files of md that tell when to look again: `array_state`, and each leg's `state`.
    pub fn watch(&self, site: &Site, epoch: model::Epoch) -> Result<Vec<Watched>, StepError> {
        md::watch(&crate::name::array(site.volume, epoch))
    }

    /// How far md is with copying, bytes of all that the volume has; `None`: it copies nothing. What is only room md passes over: nothing is marked there.
    pub fn progress(&self, site: &Site, epoch: model::Epoch) -> Option<(u64, u64)> {
        let (done, total) = md::progress(&crate::name::array(site.volume, epoch))?;
        let has = site.geometry.sizes().data_bytes;
        Some((done.min(has), total.min(has)))
    }

    /// The device that users of a volume have; `None`: nobody may here. It is the disk in front of it while a virtual machine has that.
    pub fn top(&self, volume: model::VolumeId) -> Result<Option<PathBuf>, StepError> {
        Ok(self.users_devices(volume)?.into_iter().next())
    }

    /// Does something while users of a volume have nothing in flight, if that comes about within a bound; what they begin meanwhile waits.
    pub fn while_users_wait<T>(
        &self,
        volume: model::VolumeId,
        bound: Duration,
        work: impl FnOnce() -> T,
    ) -> Result<T, StepError> {
        let turn = idle::turn(volume);
        let _turn = match turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => {
                let (what, name) = ("suspend", crate::name::top(volume));
                return Err(DmError { what, name, errno: rustix::io::Errno::BUSY }.into());
            }
        };
        // A thin volume's own device waits for what has no place as well; all that gets to the array goes through the route.
        let (top, route) = (crate::name::top(volume), crate::name::route(volume));
        let through = if self.dm.info(&route)?.is_some() { route } else { top };
        Ok(idle::while_idle(&self.dm, &through, bound, work)?)
    }

    /// Lets users of all volumes go on whom an engine had wait that was killed meanwhile; the first error, when all have been tried.
    pub fn let_users_go_on(&self) -> Result<(), StepError> {
        let names = self.dm.names()?;
        let has_users = |name: &&String| crate::name::of_top(name).or(crate::name::of_route(name)).is_some();
        let tried = names.iter().filter(has_users).map(|name| self.dm.go_on(name));
        Ok(tried.fold(Ok(()), Result::and)?)
    }

    /// Where users of a volume may have it open: the disk in front of it while a virtual machine has that, and its own device. From the front.
    pub fn users_devices(&self, volume: model::VolumeId) -> Result<Vec<PathBuf>, StepError> {
        let node = |info: &Info| PathBuf::from(format!("/dev/dm-{}", info.number.minor));
        Ok(self.in_front_and_own(volume)?.iter().map(node).collect())
    }

    /// How often these devices are open: processes, what is mounted, and what stands on them but that disk.
    pub fn open_count(&self, volume: model::VolumeId) -> Result<usize, StepError> {
        let found = self.in_front_and_own(volume)?;
        let all: usize = found.iter().map(|info| usize::try_from(info.open_count).unwrap_or(0)).sum();
        Ok(all.saturating_sub(found.len().saturating_sub(1)))
    }

    fn in_front_and_own(&self, volume: model::VolumeId) -> Result<Vec<Info>, StepError> {
        let found = [self.disk_in_front(volume)?, self.dm.info(&crate::name::top(volume))?];
        Ok(found.into_iter().flatten().collect())
    }

    /// How long that device is, bytes.
    pub fn top_bytes(&self, volume: model::VolumeId) -> Result<Option<u64>, StepError> {
        observe::len_bytes(self, &crate::name::top(volume))
    }

    /// All volumes that users may open here.
    pub fn open_volumes(&self) -> Result<Vec<model::VolumeId>, StepError> {
        let names = self.dm.names()?;
        Ok(names.iter().filter_map(|name| crate::name::of_top(name)).collect())
    }

    /// Devices of any volume's that stand here, whoever has set them up.
    pub fn standing(&self) -> Result<Vec<String>, StepError> {
        let names = self.dm.names()?;
        Ok(names.into_iter().filter(|name| crate::name::is_device(name)).collect())
    }

    /// The sequence of the maps that are on every leg in sync of an array that stands, for [`crate::owner::found`]. Reads them: it may
    /// hang in a gate without path.
    pub fn maps_sequence(&self, site: &Site, epoch: model::Epoch) -> Result<model::MapSequence, StepError> {
        maps_io::sequence(self, site, epoch)
    }

    /// A dm device's node.
    fn node_of(&self, name: &str) -> Result<PathBuf, StepError> {
        Ok(PathBuf::from(format!("/dev/dm-{}", self.number_of(name)?.minor)))
    }

    fn number_of(&self, name: &str) -> Result<DeviceNumber, StepError> {
        let info = self.dm.info(name)?;
        info.map(|info| info.number).ok_or_else(|| StepError::Missing { what: format!("device {name}") })
    }
}
