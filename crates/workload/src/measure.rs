//! How fast a device takes writes: several threads that write, each the next write as soon as its last one is acknowledged.
//!
//! Purpose: the figures of `cargo xtask bench storage`. Nothing of it is judged: what is written is noise.
//!
//! Invariants: writes bypass the page cache (`O_DIRECT`, and nothing more: no flush, no `O_DSYNC`), so that a time is from the call
//! until the device's answer. Writes that warm up are not timed. The same order chooses the same places.
//!
//! On failure: [`MeasureError`]; a measurement of which one write failed counts for nothing.

use rustix::fs::{Mode, OFlags, SeekFrom, open, seek};
use rustix::io::pwrite;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What buffers are aligned to, bytes: the largest block of any drive.
const ALIGN_BYTES: usize = 4096;
/// The largest write, bytes.
const WRITE_BYTES_MAX: u32 = 1 << 20;

/// What to measure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The device, or a file.
    pub device: PathBuf,
    /// Where its region begins, bytes; nothing outside is written.
    pub from_bytes: u64,
    /// How long its region is, bytes.
    pub region_bytes: u64,
    /// How long a write is, bytes: a multiple of 4096, at most 1 MiB.
    pub write_bytes: u32,
    /// How many are in flight.
    pub writers: u8,
    /// Whether one follows the other, from the region's beginning; otherwise they go anywhere in it.
    pub in_order: bool,
    /// Draws the places.
    pub seed: u64,
    /// Before anything is timed, one write goes to each multiple of this many bytes, so that what keeps track of changes has them
    /// marked; 0: none.
    pub warm_every_bytes: u64,
    /// After how many writes it ends.
    pub writes_max: u64,
    /// After which time it ends, ms.
    pub ms_max: u32,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// How many writes were acknowledged.
    pub writes: u64,
    /// From before the first until after the last, µs.
    pub elapsed_us: u64,
    /// The middle one's time, µs.
    pub median_us: u64,
    /// The time that one of a hundred exceeds, µs.
    pub p99_us: u64,
    /// The longest, µs.
    pub longest_us: u64,
}

/// It could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The device can't be opened.
    #[error("can't open {}", .device.display())]
    Open {
        /// Which.
        device: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The order makes no sense on this device.
    #[error(
        "a region of {region_bytes} bytes from {from_bytes} on, in writes of {write_bytes}, is none of a device of {device_bytes} bytes"
    )]
    Region {
        /// As ordered.
        from_bytes: u64,
        /// As ordered.
        region_bytes: u64,
        /// As ordered.
        write_bytes: u32,
        /// The device's size.
        device_bytes: u64,
    },
    /// A write failed.
    #[error("a write at {at_bytes} failed")]
    Write {
        /// Where.
        at_bytes: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing was written in the time given.
    #[error("nothing was written in the time given")]
    Nothing,
}

/// Measures.
pub fn measure(order: &Order) -> Result<Figures, MeasureError> {
    let failed =
        |errno: rustix::io::Errno| MeasureError::Open { device: order.device.clone(), source: errno.into() };
    let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
    let device = open(&order.device, flags, Mode::empty()).map_err(failed)?;
    let device_bytes = seek(&device, SeekFrom::End(0)).map_err(failed)?;
    check(order, device_bytes)?;
    warm_up(order, &device)?;
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let began = Instant::now();
    let ends = began + Duration::from_millis(order.ms_max.into());
    let measured = thread::scope(|scope| {
        let write = |number| {
            let (device, next, stop) = (&device, &next, &stop);
            move || {
                let times = write(order, device, number, (next, stop), ends);
                // Who fails ends the others, too.
                stop.fetch_or(times.is_err(), Ordering::Relaxed);
                times
            }
        };
        let threads: Vec<_> = (0..order.writers.max(1)).map(|number| scope.spawn(write(number))).collect();
        let joined = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panicked| std::panic::resume_unwind(panicked)));
        joined.collect::<Result<Vec<_>, _>>()
    })?;
    let elapsed = began.elapsed();
    figures(measured.concat(), elapsed).ok_or(MeasureError::Nothing)
}

fn check(order: &Order, device_bytes: u64) -> Result<(), MeasureError> {
    let Order { from_bytes, region_bytes, write_bytes, .. } = *order;
    let whole = write_bytes > 0
        && write_bytes <= WRITE_BYTES_MAX
        && (write_bytes as usize).is_multiple_of(ALIGN_BYTES)
        && from_bytes.is_multiple_of(ALIGN_BYTES as u64);
    let inside = from_bytes.checked_add(region_bytes).is_some_and(|end| end <= device_bytes);
    if whole && inside && region_bytes >= write_bytes.into() {
        Ok(())
    } else {
        Err(MeasureError::Region { from_bytes, region_bytes, write_bytes, device_bytes })
    }
}

fn warm_up(order: &Order, device: &OwnedFd) -> Result<(), MeasureError> {
    let Some(count) = order.region_bytes.checked_div(order.warm_every_bytes) else { return Ok(()) };
    let mut noise = Noise::new(order, 0);
    (0..count)
        .try_for_each(|number| put(device, noise.bytes(), order.from_bytes + number * order.warm_every_bytes))
}

/// One thread's writes; how long each took, µs.
fn write(
    order: &Order,
    device: &OwnedFd,
    number: u8,
    (next, stop): (&AtomicU64, &AtomicBool),
    ends: Instant,
) -> Result<Vec<u64>, MeasureError> {
    let mut noise = Noise::new(order, number);
    let mut random = fastrand::Rng::with_seed(order.seed.wrapping_add(number.into()));
    let places = order.region_bytes / u64::from(order.write_bytes);
    let mut times = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let turn = next.fetch_add(1, Ordering::Relaxed);
        if turn >= order.writes_max || Instant::now() >= ends {
            break;
        }
        let place = if order.in_order { turn % places } else { random.u64(0..places) };
        let began = Instant::now();
        put(device, noise.bytes(), order.from_bytes + place * u64::from(order.write_bytes))?;
        times.push(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(times)
}

fn put(device: &OwnedFd, bytes: &[u8], at_bytes: u64) -> Result<(), MeasureError> {
    let failed = |source| MeasureError::Write { at_bytes, source };
    match pwrite(device, bytes, at_bytes) {
        Ok(written) if written == bytes.len() => Ok(()),
        Ok(_) => Err(failed(io::ErrorKind::WriteZero.into())),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// What is written: bytes that nothing can save writing.
struct Noise {
    memory: Vec<u8>,
    from: usize,
    len: usize,
}

impl Noise {
    fn new(order: &Order, number: u8) -> Self {
        let len = order.write_bytes as usize;
        let mut memory = vec![0; len + ALIGN_BYTES];
        fastrand::Rng::with_seed(!order.seed ^ u64::from(number)).fill(&mut memory);
        let from = memory.as_ptr().align_offset(ALIGN_BYTES).min(ALIGN_BYTES);
        Self { memory, from, len }
    }

    /// Other bytes each time, at the price of one.
    fn bytes(&mut self) -> &[u8] {
        let bytes = &mut self.memory[self.from..self.from + self.len];
        bytes[0] = bytes[0].wrapping_add(1);
        bytes
    }
}

/// `None`: nothing was written.
fn figures(mut times_us: Vec<u64>, elapsed: Duration) -> Option<Figures> {
    times_us.sort_unstable();
    let at =
        |percent: usize| times_us.get((times_us.len() * percent).div_ceil(100).saturating_sub(1)).copied();
    Some(Figures {
        writes: times_us.len() as u64,
        elapsed_us: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
        median_us: at(50)?,
        p99_us: at(99)?,
        longest_us: at(100)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_the_times() {
        let figures = figures((1..=200).rev().collect(), Duration::from_millis(3)).unwrap();
        let Figures { writes, elapsed_us, median_us, p99_us, longest_us } = figures;
        assert_eq!((writes, elapsed_us, median_us, p99_us, longest_us), (200, 3000, 100, 198, 200));
        assert_eq!(super::figures(Vec::new(), Duration::ZERO), None);
    }

    fn order(device: PathBuf) -> Order {
        Order {
            device,
            from_bytes: 8192,
            region_bytes: 1 << 16,
            write_bytes: 4096,
            writers: 3,
            in_order: true,
            seed: 1,
            warm_every_bytes: 0,
            writes_max: 16,
            ms_max: 60_000,
        }
    }

    /// A file with zeros, on a file system that takes what bypasses the page cache; `None`: this machine's does not.
    fn file() -> Option<(tempfile::TempDir, PathBuf)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device");
        std::fs::write(&path, vec![0; 1 << 17]).unwrap();
        let direct = open(&path, OFlags::RDWR | OFlags::DIRECT, Mode::empty());
        direct.is_ok().then_some((dir, path))
    }

    #[test]
    fn the_whole_region_is_written_in_order_and_nothing_else() {
        let Some((_dir, path)) = file() else { return };
        let measured = measure(&order(path.clone())).unwrap();
        assert_eq!(measured.writes, 16);
        assert!(measured.median_us <= measured.p99_us && measured.p99_us <= measured.longest_us);
        let bytes = std::fs::read(&path).unwrap();
        let written = |from: usize| bytes[from..from + 4096].iter().any(|byte| *byte != 0);
        let blocks: Vec<usize> = (0..32).filter(|block| written(block * 4096)).collect();
        assert_eq!(blocks, (2..18).collect::<Vec<_>>());
    }

    #[test]
    fn what_warms_up_is_not_counted() {
        let Some((_dir, path)) = file() else { return };
        let order = Order { warm_every_bytes: 1 << 14, writes_max: 1, writers: 1, ..order(path.clone()) };
        assert_eq!(measure(&order).unwrap().writes, 1);
        let bytes = std::fs::read(&path).unwrap();
        let blocks: Vec<usize> =
            (0..32).filter(|block| bytes[block * 4096..][..4096].iter().any(|byte| *byte != 0)).collect();
        assert_eq!(blocks, [2, 6, 10, 14]);
    }

    #[test]
    fn a_region_that_is_none_of_the_device_is_refused() {
        let order = order("x".into());
        assert!(check(&order, 8192 + (1 << 16)).is_ok());
        for bad in [
            Order { write_bytes: 512, ..order.clone() },
            Order { write_bytes: 0, ..order.clone() },
            Order { from_bytes: u64::MAX - 4095, ..order.clone() },
            Order { from_bytes: 100, ..order.clone() },
            Order { region_bytes: 1 << 17, ..order.clone() },
            Order { region_bytes: 0, ..order.clone() },
        ] {
            assert!(matches!(check(&bad, 8192 + (1 << 16)), Err(MeasureError::Region { .. })), "{bad:?}");
        }
    }
}
