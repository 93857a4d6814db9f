//! An owner's steps in nvme-fabrics, device-mapper and md.

use super::block::Block;
use super::carry_target::linear;
use super::dm::Target;
use super::sysfs::FileError;
use super::{Engine, StepError, fabrics, gate, idle, maps_io, md, sysfs, thin};
use crate::name;
use crate::owner::{self, Layout, Site, Step, Way};
use crate::slab::Extent;
use model::{Epoch, LegId};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// How long the first write may take: a path that is lost meanwhile is found by the owner, who orders anew.
const FIRST_WRITE_BOUND: Duration = Duration::from_secs(10);

/// How long what users have in flight may take, while they wait, before an array gets a place more or they get more to see: much less than a path's stall.
const IDLE_BOUND: Duration = Duration::from_millis(500);

/// How long what was in flight before a copy may take: longer than a path's stall, and than the owner's patience with a leg.
const QUIET_BOUND: Duration = Duration::from_secs(10);

pub(super) fn carry(engine: &Engine, site: &Site, epoch: Epoch, step: &Step) -> Result<(), StepError> {
    let array = name::array(site.volume, epoch);
    match step {
        Step::Connect(given, node) => fabrics::connect(engine, *given, *node)?,
        Step::Disconnect(given) => fabrics::disconnect(engine, *given),
        Step::MakeGate(way, bytes) => gate::make(engine, *way, *bytes)?,
        Step::TurnGate(way, bytes) => gate::turn(engine, *way, *bytes)?,
        Step::FailGate(leg, epoch) => gate::fail(engine, (site.volume, *leg), *epoch)?,
        Step::FailPath(leg, epoch) => gate::fail_path(engine, (site.volume, *leg), *epoch)?,
        Step::EmptyGate(leg, epoch, bytes) => gate::empty(engine, (site.volume, *leg), *epoch, *bytes)?,
        Step::RemoveGate(leg, epoch) => gate::remove(engine, (site.volume, *leg), *epoch)?,
        Step::Prepare(order) => maps_io::prepare(engine, site, order)?,
        Step::NewArray => md::new_array(&array)?,
        Step::Set(attribute, value) => md::set(&array, attribute, value)?,
        Step::Add(way) => md::set(&array, "new_dev", &engine.number_of(&way.device())?.to_string())?,
        Step::SetMember(way, attribute, value) => {
            sysfs::write(&member(engine, &array, *way)?.join(attribute), value)?;
        }
        Step::FirstWrite => first_write(&array)?,
        Step::AwaitIdle => md::await_idle(&array)?,
        Step::Mark(way, base) => maps_io::mark(engine, site, epoch, *way, *base)?,
        Step::MarkAgain(_) => maps_io::mark_again(engine, site, epoch)?,
        Step::CheckNotInSync(way) => {
            let state = sysfs::read(&member(engine, &array, *way)?.join("state"))?;
            if state.split(',').any(|word| word == "in_sync") {
                return Err(StepError::InSyncByItself(way.leg()));
            }
        }
        Step::HoldCopy => md::hold_copy(&array)?,
        Step::AwaitQuiet(sound) => await_quiet(engine, site, epoch, sound)?,
        Step::Answer(legs) => answer(engine, site, epoch, legs)?,
        Step::Remove(way) => md::remove(&array, engine.number_of(&way.device())?.minor)?,
        Step::MakeHole(bytes) => thin::make_hole(engine, site, *bytes)?,
        Step::MakeRoute(layout) => thin::make_route(engine, site, layout, &array)?,
        Step::MakeQueue => thin::make_queue(engine, site)?,
        Step::MakeTop(layout) => {
            engine.dm.create(&name::top(site.volume), &top_table(engine, site, &array, layout)?)?;
        }
        Step::LoadRoute(layout) => thin::load_route(engine, site, layout, &array)?,
        Step::LoadTop(layout) => {
            engine.dm.load(&name::top(site.volume), &top_table(engine, site, &array, layout)?)?;
        }
        Step::SwapRoute => in_turn(site, || engine.dm.swap(&name::route(site.volume)))?,
        Step::SwapTop => {
            in_turn(site, || idle::swap_soon(&engine.dm, &name::top(site.volume), IDLE_BOUND))?;
            engine.lengthen_disk(site.volume)?;
        }
        Step::ReinstateQueue => engine.reinstate_queue(site.volume)?,
        Step::FailQueue => engine.dm.message(&name::queue(site.volume), "fail_if_no_path")?,
        Step::AddPlace(room) => add_place(engine, site, &array, *room)?,
        Step::RemoveTop => engine.remove_top(site.volume)?,
        Step::RemoveQueue => engine.dm.remove(&name::queue(site.volume))?,
        Step::RemoveRoute => engine.dm.remove(&name::route(site.volume))?,
        Step::RemoveHole => thin::remove_hole(engine, site.volume)?,
        Step::Clear => {
            // Of whatever epoch is there.
            if let Some(found) = engine.seen_owner(site)?.array {
                md::clear(&name::array(site.volume, found.epoch))?;
            }
        }
    }
    Ok(())
}

/// Swaps a table under a volume's users, while nobody has them wait.
fn in_turn<T>(site: &Site, swap: impl FnOnce() -> T) -> T {
    let turn = idle::turn(site.volume);
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    swap()
}

/// Gives an array a place more while nothing is in flight in it: what fails while `raid_disks` changes is freed with the new number (6.1 has not commit
/// 2cc583653bbe, which ends that), and what waits in a gate would hold md's lock against whoever lets that gate go.
fn add_place(engine: &Engine, site: &Site, array: &str, room: u32) -> Result<(), StepError> {
    let set = || md::set(array, "raid_disks", &room.to_string());
    if engine.top(site.volume)?.is_none() {
        return Ok(set()?);
    }
    Ok(engine.while_users_wait(site.volume, IDLE_BOUND, set)??)
}

fn top_table(engine: &Engine, site: &Site, array: &str, layout: &Layout) -> Result<Vec<Target>, StepError> {
    if layout.table.is_some() {
        return thin::top_table(engine, site, layout);
    }
    let device = sysfs::read(&PathBuf::from(format!("/sys/block/{array}/dev")))?;
    Ok(linear(&device, &[Extent { offset_bytes: 0, len_bytes: layout.size_bytes }]))
}

fn member(engine: &Engine, array: &str, way: Way) -> Result<PathBuf, StepError> {
    Ok(md::member(array, engine.number_of(&way.device())?.minor))
}

/// Answers md, unless a leg other than these has failed.
fn answer(engine: &Engine, site: &Site, epoch: Epoch, legs: &BTreeSet<LegId>) -> Result<(), StepError> {
    let seen = engine.seen_owner(site)?;
    let look = owner::look(&seen);
    let failed = |(leg, look): (&LegId, &control::owner::LegLook)| {
        (*look == control::owner::LegLook::Failed && !legs.contains(leg)).then_some(*leg)
    };
    if let Some(other) = look.legs.iter().find_map(failed) {
        return Err(StepError::OtherFailed(other));
    }
    if look.waits {
        md::set(&name::array(site.volume, epoch), "array_state", "active")?;
    }
    Ok(())
}

/// Waits until md is past its quiesce. Then nothing is held if all that were in sync before still are: what fails and is not answered shows, and what was answered is out.
fn await_quiet(engine: &Engine, site: &Site, epoch: Epoch, sound: &BTreeSet<LegId>) -> Result<(), StepError> {
    let array = name::array(site.volume, epoch);
    let deadline = Instant::now() + QUIET_BOUND;
    loop {
        let quiet = md::is_quiet(&array)?;
        if let Some(leg) = owner::no_longer_sound(&engine.seen_owner(site)?, sound) {
            return Err(StepError::FailedMeanwhile(leg));
        }
        if quiet {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(StepError::Late {
                what: format!("the end of what is in flight in {array}"),
                bound: QUIET_BOUND,
            });
        }
        // md tells of nothing here.
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The first write after a start makes md ask for `active`. It is the agent's own: what is in the first block is written there
/// again, while nobody else can have the array open.
fn first_write(array: &str) -> Result<(), StepError> {
    let node = Path::new("/dev").join(array);
    let (done, written) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let write = || -> Result<(), FileError> {
            let device = Block::open(&node)?;
            device.write(0, &device.read(0, 4096)?)
        };
        done.send(write())
    });
    let deadline = Instant::now() + FIRST_WRITE_BOUND;
    loop {
        match written.recv_timeout(Duration::from_millis(5)) {
            Ok(result) => return Ok(result?),
            Err(_) if Instant::now() > deadline => {
                return Err(StepError::Late {
                    what: format!("the first write to {array}"),
                    bound: FIRST_WRITE_BOUND,
                });
            }
            Err(_) => {
                if md::get(array, "array_state")? == "write-pending" {
                    md::set(array, "array_state", "active")?;
                }
            }
        }
    }
}
