//! How much of a processor this daemon gets when others want it, too.
//!
//! A node whose users take all its processors must still say that it lives, and keep its lease: at work the daemon comes first. While it starts it must not: a
//! restart takes an emulated processor a second, and md, NVMe and whoever writes would stand still for so long. Only the threads that must be in time come first at once.
//!
//! On failure: a line in the log; the daemon goes on with what it gets.

use rustix::io::Errno;
use rustix::process::{Pid, setpriority_process};
use std::fs;
use tracing::warn;

/// The highest that there is, as a nice value.
const FIRST: i32 = -20;
/// Nine times what others get (kernel/sched/core.c, `sched_prio_to_weight`).
const STARTING: i32 = -10;

/// This process, before it has other threads; they have what their makers have.
pub(crate) fn starts() {
    set(None, STARTING);
}

/// All threads that there are, and that these will make.
pub(crate) fn is_at_work() {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    for thread in tasks.filter_map(|task| Pid::from_raw(task.file_name().to_str()?.parse().ok()?)) {
        set(Some(thread), FIRST);
    }
}

/// The calling thread alone: to Linux a nice value is a thread's (setpriority(2), "C library/kernel differences").
#[cfg(feature = "volumes")]
pub(crate) fn is_in_time() {
    set(None, FIRST);
}

fn set(thread: Option<Pid>, nice: i32) {
    match setpriority_process(thread, nice) {
        // A thread that has ended meanwhile.
        Ok(()) | Err(Errno::SRCH) => {}
        Err(errno) => warn!("this daemon gets no more of the processor than others: {errno}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::getpriority_process;

    #[test]
    fn a_thread_that_must_be_in_time_comes_first_alone() {
        // Of threads of their own: others of this process run tests.
        let nice = || getpriority_process(None).unwrap();
        let before = nice();
        // Who is not root may not.
        let may = std::thread::spawn(|| setpriority_process(None, FIRST).is_ok()).join().unwrap();
        let expected = if may { FIRST } else { before };
        let first = std::thread::spawn(move || {
            is_in_time();
            (nice(), std::thread::spawn(nice).join().unwrap())
        });
        assert_eq!(first.join().unwrap(), (expected, expected));
        assert_eq!(nice(), before);
    }
}
