//! md's sysfs files.
//!
//! On failure: [`FileError`].

use super::StepError;
use super::sysfs::{self, FileError, Watched};
use crate::bitmap::Bitmap;
use crate::owner::Member;
use rustix::io::Errno;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// sysfs takes one page at a time.
const LINE_BYTES_MAX: usize = 4000;

/// How long md may take to take out a leg that has failed, to end a copy, or to go.
const BOUND: Duration = Duration::from_secs(5);

pub(super) fn folder(array: &str) -> PathBuf {
    PathBuf::from(format!("/sys/block/{array}/md"))
}

/// The folder of the device in the array.
pub(super) fn member(array: &str, minor: u32) -> PathBuf {
    folder(array).join(format!("dev-dm-{minor}"))
}

pub(super) fn new_array(array: &str) -> Result<(), FileError> {
    sysfs::write(&PathBuf::from("/sys/module/md_mod/parameters/new_array"), array)
}

pub(super) fn set(array: &str, attribute: &str, value: &str) -> Result<(), FileError> {
    sysfs::write(&folder(array).join(attribute), value)
}

pub(super) fn get(array: &str, attribute: &str) -> Result<String, FileError> {
    sysfs::read(&folder(array).join(attribute))
}

/// Marks chunks as to be copied, on disk when this returns (md.c, `bitmap_store`).
pub(super) fn mark(array: &str, bitmap: &Bitmap) -> Result<(), FileError> {
    let mut line = String::new();
    for run in bitmap.runs() {
        if line.len() > LINE_BYTES_MAX - 50 {
            set(array, "bitmap_set_bits", &line)?;
            line.clear();
        }
        line.push_str(&[&run.start.to_string(), "-", &(run.end - 1).to_string(), " "].concat());
    }
    if line.is_empty() { Ok(()) } else { set(array, "bitmap_set_bits", &line) }
}

/// Takes a leg out: refused as long as md has something in flight to it.
pub(super) fn remove(array: &str, minor: u32) -> Result<(), StepError> {
    let folder = member(array, minor);
    let deadline = Instant::now() + BOUND;
    while folder.exists() {
        match sysfs::write(&folder.join("state"), "remove") {
            Ok(()) => {}
            Err(error) if error.errno() == Some(Errno::BUSY) && Instant::now() < deadline => {}
            // md took it out by itself in this moment.
            Err(error) if matches!(error.errno(), Some(Errno::NODEV | Errno::NOENT)) => {}
            Err(error) => return Err(error.into()),
        }
        // md tells of nothing here.
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Stops an array and waits until it is gone.
pub(super) fn clear(array: &str) -> Result<(), StepError> {
    set(array, "array_state", "clear")?;
    let deadline = Instant::now() + BOUND;
    while folder(array).exists() {
        if Instant::now() > deadline {
            return Err(StepError::Late { what: format!("the end of {array}"), bound: BOUND });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

pub(super) fn await_idle(array: &str) -> Result<(), StepError> {
    let idle = |action: &str| matches!(action, "idle" | "frozen");
    let found = sysfs::wait_until(&folder(array).join("sync_action"), BOUND, idle)?;
    found.map(drop).ok_or_else(|| StepError::Late { what: format!("rest of {array}"), bound: BOUND })
}

/// Lets the copy that begins next wait before its first chunk. Refused for the moment in which md sees that there is nothing to copy.
pub(super) fn hold_copy(array: &str) -> Result<(), StepError> {
    let deadline = Instant::now() + BOUND;
    loop {
        match set(array, "sync_max", "0") {
            Err(error) if error.errno() == Some(Errno::BUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            done => return Ok(done?),
        }
    }
}

/// Whether a copy is past md's quiesce (md.c, `md_do_sync`). While there is none, `sync_speed` is `none` and `sync_completed` says `0 / …` all the same; while it is waited
/// for, the one is a number and the other `delayed`.
pub(super) fn is_quiet(array: &str) -> Result<bool, FileError> {
    Ok(get(array, "sync_speed")?.parse::<u64>().is_ok() && get(array, "sync_completed")?.contains('/'))
}

/// What a leg's folder says.
pub(super) fn read_member(folder: &std::path::Path) -> Option<(Member, String)> {
    let words = sysfs::read_if_there(&folder.join("state"))?;
    let slot = sysfs::read_if_there(&folder.join("slot")).and_then(|slot| slot.parse().ok());
    let name = sysfs::read_if_there(&folder.join("block/dm/name"))?;
    let words = words.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect();
    Some((Member { slot, words }, name))
}

pub(super) fn watch(array: &str) -> Result<Vec<Watched>, StepError> {
    let folder = folder(array);
    let members = sysfs::names(&folder).into_iter().filter(|name| name.starts_with("dev-"));
    let files = members.map(|name| folder.join(name).join("state"));
    let all = [folder.join("array_state"), folder.join("sync_action")].into_iter().chain(files);
    Ok(all.map(|path| Watched::open(&path)).collect::<Result<_, _>>()?)
}

pub(super) fn progress(array: &str) -> Option<(u64, u64)> {
    let text = get(array, "sync_completed").ok()?;
    let (done, total) = text.split_once(" / ")?;
    let bytes = |sectors: &str| sectors.trim().parse::<u64>().ok()?.checked_mul(512);
    Some((bytes(done)?, bytes(total)?))
}
