//! Something done while nothing is in flight through a device: work of ours, or the swap of its table.
//!
//! Invariants: the wait is bounded. What waits is a thread of its own, which is sent a signal when the bound is over: the kernel then gives the wait up
//! and lets go on what came meanwhile (dm.c, `dm_wait_for_completion` in `TASK_INTERRUPTIBLE`, its undo in `__dm_suspend`). So nothing waits for good above an array
//! that waits itself. Whatever becomes of the work, the device goes on.
//!
//! Whoever swaps a table that users go through waits as long as it takes and would have the device go on in the middle of the work: of each volume one at a time does
//! either ([`turn`]).
//!
//! On failure: [`DmError`], with `EINTR` when the bound was over, with `EBUSY` while another table is to be swapped in. A process that is killed between the two leaves the device suspended: the next one lets it go on
//! ([`Dm::go_on`]) before anything else.
#![expect(unsafe_code, reason = "pthread_kill(3) takes a thread by a handle without lifetime")]

use super::dm::{Dm, DmError};
use model::VolumeId;
use rustix::io::Errno;
use signal_hook::consts::SIGUSR1;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A signal that comes before the thread waits in the kernel is lost: it is sent again.
const AGAIN: Duration = Duration::from_millis(5);

/// Who turns what users of a volume go through, of all of this process: whoever swaps a table waits for it, whoever has users wait does not.
pub(super) fn turn(volume: VolumeId) -> Arc<Mutex<()>> {
    static TURNS: Mutex<BTreeMap<VolumeId, Arc<Mutex<()>>>> = Mutex::new(BTreeMap::new());
    Arc::clone(TURNS.lock().unwrap_or_else(PoisonError::into_inner).entry(volume).or_default())
}

/// Does something while nothing is in flight through a device; what comes meanwhile waits above it.
pub(super) fn while_idle<T>(
    dm: &Dm,
    name: &str,
    bound: Duration,
    work: impl FnOnce() -> T,
) -> Result<T, DmError> {
    let failed = |errno| DmError { what: "suspend", name: name.to_owned(), errno };
    caught().map_err(failed)?;
    // Whoever swaps it waits as long as it takes and can't be asked to stop: two would wait for each other.
    if dm.has_table_ready(name)? {
        return Err(failed(Errno::BUSY));
    }
    bounded(bound, || dm.suspend(name))?;
    let done = work();
    dm.go_on(name)?;
    Ok(done)
}

/// Gives a device the table that is ready; if that does not come about within the bound it keeps the old one, and nothing is ready.
pub(super) fn swap_soon(dm: &Dm, name: &str, bound: Duration) -> Result<(), DmError> {
    caught().map_err(|errno| DmError { what: "swap the table of", name: name.to_owned(), errno })?;
    bounded(bound, || dm.swap(name))
}

/// Ends a call that waits in the kernel when the bound is over.
fn bounded(bound: Duration, call: impl FnOnce() -> Result<(), DmError> + Send) -> Result<(), DmError> {
    thread::scope(|scope| {
        let (own, known) = channel();
        let waiting = scope.spawn(move || {
            // SAFETY: it has no preconditions.
            let _ = own.send(unsafe { libc::pthread_self() });
            call()
        });
        let begun = Instant::now();
        let thread = known.recv();
        while !waiting.is_finished() {
            if begun.elapsed() > bound
                && let Ok(thread) = thread
            {
                // SAFETY: the thread is not joined yet, so that its handle is still its own; its handler only stores a flag.
                unsafe { libc::pthread_kill(thread, SIGUSR1) };
            }
            thread::sleep(AGAIN);
        }
        waiting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Has the signal end a system call and nothing else: without a handler it would end the process.
fn caught() -> Result<(), Errno> {
    static CAUGHT: OnceLock<Result<(), Errno>> = OnceLock::new();
    *CAUGHT.get_or_init(|| {
        let registered = signal_hook::flag::register(SIGUSR1, Arc::new(AtomicBool::new(false)));
        registered.map(drop).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))
    })
}
