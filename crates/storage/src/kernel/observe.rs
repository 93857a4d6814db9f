//! What the kernel has now.

use super::carry_target::{NVMET, is_being_disabled};
use super::{Engine, StepError, fabrics, md, sysfs};
use crate::name::{self, GivenLeg};
use crate::owner::{Array, Seen as SeenOwner, Site};
use crate::target::{Export, NAMESPACE, Port, Seen as SeenTarget};
use model::DriveSerial;
use std::path::{Path, PathBuf};

/// What the kernel has of the drive with that serial number.
pub(super) fn drive_folder(serial: &DriveSerial) -> Result<PathBuf, StepError> {
    let names = sysfs::names(Path::new("/sys/block")).into_iter();
    let mut folders = names.map(|name| Path::new("/sys/block").join(name));
    let found = folders.find(|folder| is_drive(folder, serial));
    found.ok_or_else(|| StepError::Missing { what: format!("drive {serial}") })
}

/// Whether that is the folder of the drive with that serial number: of an NVMe, a virtio or a SCSI one (SPC-4, 7.8.15: the page has four bytes before the number). A path below a multipath
/// device is none.
fn is_drive(folder: &Path, serial: &DriveSerial) -> bool {
    if sysfs::read_if_there(&folder.join("hidden")).as_deref() == Some("1") {
        return false;
    }
    let page = std::fs::read(folder.join("device/vpd_pg80")).unwrap_or_default();
    let of_page = String::from_utf8_lossy(page.get(4..).unwrap_or_default()).into_owned();
    let said = ["device/serial", "serial"].map(|file| sysfs::read_if_there(&folder.join(file)));
    said.into_iter().flatten().chain([of_page]).any(|found| found.trim() == serial.as_str())
}

pub(super) fn drive(serial: &DriveSerial) -> Result<PathBuf, StepError> {
    let folder = drive_folder(serial)?;
    Ok(Path::new("/dev").join(folder.file_name().unwrap_or_default()))
}

pub(super) fn drive_number(serial: &DriveSerial) -> Result<String, StepError> {
    Ok(sysfs::read(&drive_folder(serial)?.join("dev"))?)
}

pub(super) fn target(engine: &Engine) -> Result<SeenTarget, StepError> {
    let mut seen = SeenTarget::default();
    let root = Path::new(NVMET);
    let given = |name: &String| GivenLeg::of_subsystem(engine.settings.cluster, name);
    for number in sysfs::names(&root.join("ports")) {
        let folder = root.join("ports").join(&number);
        let Ok(number) = number.parse() else { continue };
        let address = sysfs::read_if_there(&folder.join("addr_traddr")).and_then(|text| text.parse().ok());
        let links = sysfs::names(&folder.join("subsystems")).iter().filter_map(given).collect();
        seen.ports.insert(number, Port { address, links });
    }
    seen.hosts = sysfs::names(&root.join("hosts")).into_iter().collect();
    for name in sysfs::names(&root.join("subsystems")) {
        let Some(given) = given(&name) else { continue };
        let folder = root.join("subsystems").join(&name);
        let namespace = folder.join("namespaces").join(NAMESPACE.to_string());
        let enabled = sysfs::read_if_there(&namespace.join("enable")).as_deref() == Some("1");
        let enabled = enabled || is_being_disabled(&namespace);
        let hosts = sysfs::names(&folder.join("allowed_hosts")).into_iter().collect();
        seen.exports.insert(given, Export { namespace: namespace.exists(), enabled, hosts });
    }
    seen.devices = engine.dm.names()?.iter().filter_map(|name| GivenLeg::of_device(name)).collect();
    Ok(seen)
}

pub(super) fn owner(engine: &Engine, site: &Site) -> Result<SeenOwner, StepError> {
    let mut seen = SeenOwner::default();
    let names = engine.dm.names()?;
    seen.thin = super::thin::seen(engine, site, &names)?;
    for device in &names {
        if *device == name::top(site.volume) {
            seen.top = len_bytes(engine, device)?;
        }
        let ours = [name::of_gate(device), name::of_way(device)].into_iter().flatten();
        if ours.into_iter().any(|((volume, _), _)| volume == site.volume)
            && let Some(((_, leg), gate)) = super::gate::seen(engine, device, &names)?
        {
            seen.gates.insert(leg, gate);
        }
    }
    let ours = |given: &GivenLeg| given.leg.0 == site.volume;
    seen.connections = fabrics::connections(engine).into_iter().filter(|(given, _)| ours(given)).collect();
    let arrays = sysfs::names(Path::new("/sys/block"));
    let array =
        arrays.iter().find_map(|name| name::of_array(name).filter(|(volume, _)| *volume == site.volume));
    seen.array = array.and_then(|(volume, epoch)| read_array(&name::array(volume, epoch), epoch));
    Ok(seen)
}

/// How long a device of ours is; `None`: it is gone.
pub(super) fn len_bytes(engine: &Engine, device: &str) -> Result<Option<u64>, StepError> {
    let Some(info) = engine.dm.info(device)? else { return Ok(None) };
    let sectors = sysfs::read_if_there(Path::new(&format!("/sys/dev/block/{}/size", info.number)));
    Ok(sectors.and_then(|text| text.trim().parse::<u64>().ok()).map(|sectors| sectors * 512))
}

fn read_array(array: &str, epoch: model::Epoch) -> Option<Array> {
    let state = md::get(array, "array_state").ok()?;
    let action = md::get(array, "sync_action").unwrap_or_default();
    let held = md::get(array, "sync_max").is_ok_and(|max| max == "0");
    let room =
        md::get(array, "raid_disks").ok().and_then(|text| text.split(' ').next()?.parse().ok()).unwrap_or(0);
    let folder = md::folder(array);
    let folders = sysfs::names(&folder).into_iter().filter(|name| name.starts_with("dev-"));
    let members = folders.filter_map(|name| {
        let (member, device) = md::read_member(&folder.join(name))?;
        let ((_, leg), _) = name::of_gate(&device)?;
        Some((leg, member))
    });
    Some(Array { epoch, state, action, held, room, members: members.collect() })
}
