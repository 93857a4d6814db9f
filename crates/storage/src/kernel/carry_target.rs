//! A target's steps in configfs and device-mapper.

use super::block::Block;
use super::dm::Target;
use super::sysfs::FileError;
use super::{Engine, Settings, StepError, sysfs};
use crate::header::ClusterId;
use crate::leg::{BLOCK_BYTES, LegError, LegHeader, Sizes};
use crate::name::{GivenLeg, node_of_host};
use crate::slab::Extent;
use crate::target::{NAMESPACE, Step, TCP_PORT};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(super) const NVMET: &str = "/sys/kernel/config/nvmet";

/// How long I/O in flight may take when a namespace is disabled. What takes longer is reported, and the leg not confirmed.
const BARRIER_BOUND: Duration = Duration::from_secs(10);

fn subsystem(cluster: ClusterId, given: GivenLeg) -> PathBuf {
    PathBuf::from(NVMET).join("subsystems").join(given.subsystem(cluster))
}

fn port(number: u16) -> PathBuf {
    PathBuf::from(NVMET).join("ports").join(number.to_string())
}

fn host(name: &str) -> PathBuf {
    PathBuf::from(NVMET).join("hosts").join(name)
}

pub(super) fn carry(engine: &Engine, step: &Step, sizes: Sizes) -> Result<(), StepError> {
    let of = |given: &GivenLeg| subsystem(engine.settings.cluster, *given);
    let namespace = |given: &GivenLeg| of(given).join("namespaces").join(NAMESPACE.to_string());
    match step {
        Step::MakeDevice(given, drive, extents, bytes) => {
            let table = backed(&super::observe::drive_number(drive)?, extents, *bytes);
            engine.dm.create(&given.device(), &table)?;
        }
        Step::TurnDevice(given, drive, extents, bytes) => {
            let table = backed(&super::observe::drive_number(drive)?, extents, *bytes);
            engine.dm.replace_when_idle(&given.device(), &table)?;
        }
        Step::MakeLeg(given, bytes) => make_leg(engine, *given, sizes, *bytes)?,
        Step::CheckLeg(given) => check_leg(engine, *given, sizes)?,
        Step::RemoveDevice(given) => engine.dm.remove(&given.device())?,
        Step::MakePort(number, address) => make_port(*number, *address)?,
        Step::MakeHost(name) => sysfs::make(&host(name))?,
        Step::MakeSubsystem(given) => {
            sysfs::make(&of(given))?;
            sysfs::write(&of(given).join("attr_serial"), &given.serial(engine.settings.cluster))?;
        }
        Step::RemoveSubsystem(given) => sysfs::remove(&of(given))?,
        Step::MakeNamespace(given) => sysfs::make(&namespace(given))?,
        Step::DescribeNamespace(given) => {
            let device = engine.node_of(&given.device())?;
            let folder = namespace(given);
            sysfs::write(&folder.join("device_path"), &device.display().to_string())?;
            sysfs::write(&folder.join("device_uuid"), &given.uuid(engine.settings.cluster))?;
            sysfs::write(&folder.join("device_nguid"), &given.nguid(engine.settings.cluster))?;
        }
        Step::Enable(given) => sysfs::write(&namespace(given).join("enable"), "1")?,
        Step::Disable(given) => barrier(*given, namespace(given).join("enable"))?,
        Step::RemoveNamespace(given) => sysfs::remove(&namespace(given))?,
        Step::Allow(given, name) => sysfs::link(&host(name), &of(given).join("allowed_hosts").join(name))?,
        Step::Disallow(given, name) => sysfs::unlink(&of(given).join("allowed_hosts").join(name))?,
        Step::Link(number, given) => {
            let name = given.subsystem(engine.settings.cluster);
            sysfs::link(&of(given), &port(*number).join("subsystems").join(name))?;
        }
        Step::Unlink(number, given) => {
            sysfs::unlink(&port(*number).join("subsystems").join(given.subsystem(engine.settings.cluster)))?;
        }
    }
    Ok(())
}

/// Pieces of a device in a row.
pub(super) fn linear(device: &str, extents: &[Extent]) -> Vec<Target> {
    let mut start_sectors = 0;
    let mut table = Vec::new();
    for extent in extents {
        let len_sectors = extent.len_bytes / 512;
        let parameters = format!("{device} {}", extent.offset_bytes / 512);
        table.push(Target { start_sectors, len_sectors, kind: "linear", parameters });
        start_sectors += len_sectors;
    }
    table
}

/// Pieces of a device in a row, no more than `bytes` of them; what is missing reads as zeros (Documentation/admin-guide/device-mapper/zero).
pub(super) fn backed(device: &str, extents: &[Extent], bytes: u64) -> Vec<Target> {
    let mut left_bytes = bytes;
    let cut = |extent: &Extent| {
        let len_bytes = extent.len_bytes.min(left_bytes);
        left_bytes -= len_bytes;
        Extent { len_bytes, ..*extent }
    };
    let pieces: Vec<Extent> = extents.iter().map(cut).filter(|piece| piece.len_bytes > 0).collect();
    let mut table = linear(device, &pieces);
    if left_bytes > 0 {
        let (start_sectors, len_sectors) = ((bytes - left_bytes) / 512, left_bytes / 512);
        table.push(Target { start_sectors, len_sectors, kind: "zero", parameters: String::new() });
    }
    table
}

fn make_port(number: u16, address: IpAddr) -> Result<(), StepError> {
    let folder = port(number);
    sysfs::make(&folder)?;
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    for (attribute, value) in
        [("addr_trtype", "tcp"), ("addr_adrfam", family), ("addr_trsvcid", &TCP_PORT.to_string())]
    {
        sysfs::write(&folder.join(attribute), value)?;
    }
    // Last: a port with an address is a whole one.
    Ok(sysfs::write(&folder.join("addr_traddr"), &address.to_string())?)
}

/// Ports and hosts stay when nothing is given out any more: this takes them away, of this cluster alone.
pub(super) fn withdraw(engine: &Engine) -> Result<(), StepError> {
    let Settings { cluster, own, .. } = &engine.settings;
    for (number, address) in own {
        let folder = port(*number);
        let is_ours =
            sysfs::read_if_there(&folder.join("addr_traddr")).as_deref() == Some(&address.to_string());
        if is_ours && sysfs::names(&folder.join("subsystems")).is_empty() {
            sysfs::remove(&folder)?;
        }
    }
    let hosts = sysfs::names(&PathBuf::from(NVMET).join("hosts"));
    for name in hosts.iter().filter(|name| node_of_host(*cluster, name).is_some()) {
        sysfs::remove(&host(name))?;
    }
    Ok(())
}

/// Fills a leg that was never made with zeros, whole slabs, so that all legs of a volume begin equal, and says so in its header at last.
fn make_leg(engine: &Engine, given: GivenLeg, sizes: Sizes, bytes: u64) -> Result<(), StepError> {
    let failed = |source| StepError::Leg { device: given.device(), source };
    let header = LegHeader::new(engine.settings.cluster, given.leg, sizes);
    let leg = Block::open(&engine.node_of(&given.device())?)?;
    let beginning = leg.read(0, usize::try_from(BLOCK_BYTES).unwrap_or(0))?;
    if !header.is_made(&beginning).map_err(failed)? {
        leg.zero(0, bytes)?;
        leg.flush()?;
        leg.write_and_check(0, &header.encode())?;
    }
    Ok(())
}

fn check_leg(engine: &Engine, given: GivenLeg, sizes: Sizes) -> Result<(), StepError> {
    let failed = |source| StepError::Leg { device: given.device(), source };
    let header = LegHeader::new(engine.settings.cluster, given.leg, sizes);
    let leg = Block::open(&engine.node_of(&given.device())?)?;
    let found =
        LegHeader::decode(&leg.read(0, usize::try_from(BLOCK_BYTES).unwrap_or(0))?).map_err(failed)?;
    if found == header { Ok(()) } else { Err(failed(LegError::Other { found })) }
}

/// Barriers that did not come through in time, and go on: by the file that is written.
static UNDER_WAY: Mutex<BTreeMap<PathBuf, Receiver<Result<(), FileError>>>> = Mutex::new(BTreeMap::new());

fn under_way() -> MutexGuard<'static, BTreeMap<PathBuf, Receiver<Result<(), FileError>>>> {
    // Each change is one call: after a panic elsewhere it is still good.
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a namespace's barrier is under way. Its `enable` says 0 from the moment on in which the kernel begins to wait
/// (drivers/nvme/target/core.c, `nvmet_ns_disable`).
pub(super) fn is_being_disabled(namespace: &Path) -> bool {
    under_way().contains_key(&namespace.join("enable"))
}

/// Disabling waits for all I/O in flight, for as long as that takes: on a thread of its own. One that takes longer than the bound goes
/// on, and the next call waits for the same.
fn barrier(given: GivenLeg, file: PathBuf) -> Result<(), StepError> {
    let known = under_way().remove(&file);
    let through = known.unwrap_or_else(|| {
        let (done, through) = channel();
        let file = file.clone();
        std::thread::spawn(move || done.send(sysfs::write(&file, "0")));
        through
    });
    if let Ok(result) = through.recv_timeout(BARRIER_BOUND) {
        return Ok(result?);
    }
    under_way().insert(file, through);
    Err(StepError::Barrier { given, bound: BARRIER_BOUND })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_piece_backs_is_zero_and_nothing_is_longer_than_it_shall_be() {
        let piece = |at: u64, sectors: u64| Extent { offset_bytes: at * 512, len_bytes: sectors * 512 };
        let pieces = [piece(2048, 100), piece(8192, 50)];
        let rows = |sectors: u64| -> Vec<(u64, u64, &str, String)> {
            let table = backed("8:0", &pieces, sectors * 512);
            table
                .into_iter()
                .map(|row| (row.start_sectors, row.len_sectors, row.kind, row.parameters))
                .collect()
        };
        let first = || (0, 100, "linear", "8:0 2048".to_owned());
        let second = |len| (100, len, "linear", "8:0 8192".to_owned());
        assert_eq!(rows(1000), [first(), second(50), (150, 850, "zero", String::new())]);
        assert_eq!(rows(150), [first(), second(50)]);
        assert_eq!(rows(120), [first(), second(20)]);
        assert_eq!(rows(100), [first()]);
    }
}
