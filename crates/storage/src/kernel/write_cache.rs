//! A drive's volatile write cache: turned off, and read back (design notes, rule 10).
//!
//! Purpose: what a drive acknowledged outlives its power, without a flush. A flush alone does not do: one that fails over between paths
//! is answered without having been done, and md swallows the errors of flushes.
//!
//! Invariants: a drive passes only if it says itself that its cache is off, or that it has none. What the kernel believes of it stays as
//! it is: flushes that are not needed cost little.
//!
//! On failure: [`StepError`]; such a drive may hold no leg. A drive that is reset or loses its power may forget this setting: it is asked
//! again before each leg is given out.

use super::StepError;
use super::drive_life::controller;
use super::sysfs::{self, failed};
use std::fs::File;
use std::path::Path;

/// Turns the write cache of a block device's drive off. What the cache had taken until then is flushed.
pub(super) fn turn_off(device: &Path) -> Result<(), StepError> {
    let Some(drive) = controller(device)? else {
        // What is no NVMe drive is not told anything. The kernel knows of such a cache (Documentation/ABI/stable/sysfs-block).
        let name = device.file_name().unwrap_or_default();
        let known = sysfs::read_if_there(&Path::new("/sys/block").join(name).join("queue/write_cache"));
        return if known.as_deref() == Some("write through") { Ok(()) } else { Err(stays_on(device)) };
    };
    if !drive.caches_writes()? {
        return Ok(());
    }
    drive.turn_cache_off()?;
    if drive.caches_writes()? {
        return Err(stays_on(device));
    }
    let flush = || File::open(device)?.sync_all();
    Ok(flush().map_err(failed("flush", device))?)
}

fn stays_on(device: &Path) -> StepError {
    StepError::VolatileCache { device: device.display().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_say_that_it_is_safe_is_refused() {
        let error = turn_off(Path::new("/dev/no-such-drive")).unwrap_err();
        assert!(matches!(error, StepError::VolatileCache { .. }), "{error}");
    }
}
