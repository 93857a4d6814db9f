//! A virtual machine's process: never two of one, found again by whoever comes later, and seen gone.
//!
//! ```text
//!  agent   lock taken ─► record written ─► pid file emptied ─► fork ───────► our lock descriptor closed
//!  child                                                        └► own pid written ─► exec of QEMU, which holds the lock until all of it is gone
//! ```
//! Purpose: the lock (flock(2)) is the truth. It belongs to an open file that the child inherits, so it is free exactly when no process has that
//! file open: before the first start, and after the last thread of the last QEMU has let go of its files. The child writes its own pid into a file of its
//! machine before it becomes QEMU, so that there is no moment in which a QEMU exists whose pid nobody can know.
//!
//! Invariants: nothing is started while the lock is held. What the record says is of the holder: it is written with the lock in hand. No process is
//! sent a signal unless it has the lock's file open: a pid that was given out anew is never hit.
//!
//! On failure: [`ProcessError`]. Killed between any two steps, the starter leaves either nothing that runs (the lock is free: start again) or a QEMU
//! that stands still (`-S`) and is found. A process that can't end because it waits for a disk is [`Gone::Doomed`]: it never runs again, but is there.

#![expect(unsafe_code, reason = "what a child does between fork and exec is nobody's but ours to check")]

use crate::machine::{Accel, Machine, Places, Role, arguments};
use model::Generation;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, FdFlags, fcntl_setfd, write};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, pidfd_open, pidfd_send_signal, setpriority_process, setsid,
    waitpid,
};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a child may take from its birth to the writing of its pid: a few system calls.
const PID_MAX: Duration = Duration::from_secs(2);
/// How often what has no descriptor to wait at is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// A virtual machine's nice value: that of any process.
const USUAL_PRIORITY: i32 = 0;
/// SIGKILL's bit in a mask of signals.
const KILL_BIT: u64 = 1 << 8;
/// `PF_EXITING` of linux/sched.h.
const EXITING: u64 = 4;

/// Why a process could not be started, found or ended.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// A file of the machine's folder.
    #[error("can't {what} {}", .path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is one already.
    #[error("one of this virtual machine is there already")]
    There,
    /// QEMU could not be started.
    #[error("can't start {}", .qemu.display())]
    Start {
        /// Its path.
        qemu: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody has the lock and has not said who it is.
    #[error("{} is held, and its holder has not written its pid for {PID_MAX:?}", .lock.display())]
    Nameless {
        /// The lock.
        lock: PathBuf,
    },
    /// What was written down of it can't be read.
    #[error("{} is damaged", .path.display())]
    Record {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The kernel refused a signal, or to wait.
    #[error("can't {what} process {pid}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// Whom.
        pid: i32,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What was started, as whoever finds it reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The machine.
    pub machine: Machine,
    /// What for.
    pub role: Role,
}

impl Record {
    /// Which run of it.
    pub const fn generation(&self) -> Generation {
        self.machine.generation
    }
}

/// A process that is there.
#[derive(Debug)]
pub struct Process {
    places: Places,
    pid: Pid,
    handle: OwnedFd,
    /// What it is.
    pub record: Record,
}

/// How far an end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// Nothing of it is left.
    Yes,
    /// It waits for something in the kernel, and never returns to user mode: every thread has SIGKILL pending, or has ended.
    Doomed,
    /// It does not end, and nothing says that it will.
    No,
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ProcessError + use<> {
    let path = path.to_owned();
    move |source| ProcessError::File { what, path, source }
}

fn open_lock(places: &Places) -> Result<File, ProcessError> {
    let path = places.lock();
    let options = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    options.map_err(file("open", &path))
}

/// Whether the lock could be taken.
fn take(lock: &File, path: &Path) -> Result<bool, ProcessError> {
    match flock(lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(file("lock", path)(errno.into())),
    }
}

/// Starts a machine, which stands still until it is told to go on.
///
/// Blocks for as long as a fork takes. Refused with [`ProcessError::There`] when anything of this virtual machine is there, whatever its generation.
pub fn start(
    qemu: &Path,
    machine: &Machine,
    places: &Places,
    accel: Accel,
    role: Role,
) -> Result<Process, ProcessError> {
    let folder = places.folder();
    fs::create_dir_all(folder).map_err(file("make", folder))?;
    let (lock, lock_path) = (open_lock(places)?, places.lock());
    if !take(&lock, &lock_path)? {
        return Err(ProcessError::There);
    }
    let pid_path = places.pid();
    let pid_file = File::create(&pid_path).map_err(file("empty", &pid_path))?;
    for socket in [places.qmp(), places.console(), places.incoming(), places.outgoing()] {
        remove(&socket)?;
    }
    let record = Record { machine: machine.clone(), role };
    write_record(places, &record)?;
    let output_path = places.output();
    let output = File::create(&output_path).map_err(file("make", &output_path))?;
    let failed = |source| ProcessError::Start { qemu: qemu.to_owned(), source };
    let errors = output.try_clone().map_err(failed)?;
    let mut command = Command::new(qemu);
    command.args(arguments(machine, places, accel, role));
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    let (lock_fd, pid_fd) = (lock.as_raw_fd(), pid_file.as_raw_fd());
    // SAFETY: between fork and exec only system calls are made, on descriptors that the parent keeps open until `spawn` has returned; nothing is
    // allocated and no lock taken.
    unsafe {
        command.pre_exec(move || {
            let (lock, pid_file) = (BorrowedFd::borrow_raw(lock_fd), BorrowedFd::borrow_raw(pid_fd));
            // Signals to the agent's group are not for it.
            setsid()?;
            // Whoever starts it may come before everything else on its machine; it must not.
            setpriority_process(None, USUAL_PRIORITY)?;
            write_pid(pid_file)?;
            // Only now does it outlive exec.
            fcntl_setfd(lock, FdFlags::empty())?;
            Ok(())
        });
    }
    let child = command.spawn().map_err(failed)?;
    drop(lock);
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(ProcessError::Nameless { lock: lock_path })?;
    // It can't be another's: a child that ended is there until we wait for it.
    let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(kernel("open", pid))?;
    Ok(Process { places: places.clone(), pid, handle, record })
}

/// The process that is there, whoever started it; `None`: there is none.
///
/// Blocks for two seconds at most, while a child is being born.
pub fn find(places: &Places) -> Result<Option<Process>, ProcessError> {
    if !places.lock().exists() {
        return Ok(None);
    }
    let (lock, path) = (open_lock(places)?, places.lock());
    let deadline = Instant::now() + PID_MAX;
    loop {
        if take(&lock, &path)? {
            return Ok(None);
        }
        if let Some((pid, handle)) = holder(places, &lock)? {
            let record = read_record(places)?;
            return Ok(Some(Process { places: places.clone(), pid, handle, record }));
        }
        if Instant::now() > deadline {
            return Err(ProcessError::Nameless { lock: path });
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// The process whose pid is written down, if it has the lock's file open.
fn holder(places: &Places, lock: &File) -> Result<Option<(Pid, OwnedFd)>, ProcessError> {
    let path = places.pid();
    let text = fs::read_to_string(&path).map_err(file("read", &path))?;
    let Some(pid) = text.strip_suffix('\n').and_then(|text| text.parse().ok()).and_then(Pid::from_raw) else {
        return Ok(None);
    };
    let handle = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(Errno::SRCH) => return Ok(None),
        Err(errno) => return Err(kernel("open", pid)(errno)),
    };
    // Looked at after the handle is there: what the handle is of has the file open.
    let own = lock.metadata().map_err(file("look at", &places.lock()))?;
    let same = |path: PathBuf| {
        fs::metadata(path).is_ok_and(|file| (file.dev(), file.ino()) == (own.dev(), own.ino()))
    };
    Ok(descriptors(pid).into_iter().any(same).then_some((pid, handle)))
}

/// Whether nothing of a virtual machine is there: its lock is free.
pub fn is_gone(places: &Places) -> Result<bool, ProcessError> {
    if !places.lock().exists() {
        return Ok(true);
    }
    take(&open_lock(places)?, &places.lock())
}

impl Process {
    /// Where its files are.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Becomes readable when it has ended.
    pub fn handle(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.handle.as_fd()
    }

    /// Its id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether it has ended, or ends within this time.
    pub fn has_ended(&self, within: Duration) -> Result<bool, ProcessError> {
        let within = Timespec::try_from(within).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let mut fds = [PollFd::new(&self.handle, PollFlags::IN)];
        match poll(&mut fds, Some(&within)) {
            Ok(ended) => Ok(ended > 0),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(kernel("wait for", self.pid)(errno)),
        }
    }

    /// Kills it, and sees it gone within this time. Blocks. May be called again and again, by several, and after it is gone.
    pub fn kill(&self, within: Duration) -> Result<Gone, ProcessError> {
        match pidfd_send_signal(&self.handle, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(kernel("kill", self.pid)(errno)),
        }
        let deadline = Instant::now() + within;
        let left = || deadline.saturating_duration_since(Instant::now());
        while !self.has_ended(left())? {
            if left().is_zero() {
                return Ok(if is_doomed(self.pid) { Gone::Doomed } else { Gone::No });
            }
        }
        // If it is our child; another's is its parent's to clear away.
        let _ = waitpid(Some(self.pid), WaitOptions::NOHANG);
        // Its files are closed by now, unless a child of the agent that has not become another program yet has the lock as well.
        while !is_gone(&self.places)? {
            if left().is_zero() {
                return Ok(Gone::No);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(Gone::Yes)
    }
}

fn kernel(what: &'static str, pid: Pid) -> impl Fn(Errno) -> ProcessError {
    move |errno| ProcessError::Kernel { what, pid: pid.as_raw_nonzero().get(), source: errno.into() }
}

/// Writes this process's pid and a line feed, without allocating.
fn write_pid(into: BorrowedFd<'_>) -> io::Result<()> {
    let mut text = [0; 12];
    let mut at = text.len() - 1;
    text[at] = b'\n';
    let mut left = getpid().as_raw_nonzero().get().unsigned_abs();
    while left > 0 && at > 0 {
        at -= 1;
        text[at] = b'0' + (left % 10) as u8;
        left /= 10;
    }
    let written = write(into, &text[at..])?;
    if written == text.len() - at { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

fn remove(path: &Path) -> Result<(), ProcessError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Whole or not at all.
fn write_record(places: &Places, record: &Record) -> Result<(), ProcessError> {
    let (path, new) = (places.record(), places.folder().join("record.new"));
    let text = serde_json::to_vec(record);
    let text = text.map_err(|source| ProcessError::Record { path: path.clone(), source })?;
    fs::write(&new, text).map_err(file("write", &new))?;
    fs::rename(&new, &path).map_err(file("replace", &path))
}

fn read_record(places: &Places) -> Result<Record, ProcessError> {
    let path = places.record();
    let text = fs::read(&path).map_err(file("read", &path))?;
    serde_json::from_slice(&text).map_err(|source| ProcessError::Record { path, source })
}

/// The open files of a process: of its first thread that has any. One that is on its way out and waits in the kernel may have no first thread any more, and its files
/// all the same: they are let go thread by thread (kernel/exit.c, `exit_files`, which comes after `exit_mm`, where I/O in flight is waited for).
pub fn descriptors(pid: Pid) -> Vec<PathBuf> {
    let paths = |dir: PathBuf| -> Vec<PathBuf> {
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let process = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    let own = paths(process.join("fd"));
    // A thread alone has none but those: every kernel thread, for instance.
    if !own.is_empty() || !has_other_threads(pid) {
        return own;
    }
    let threads = paths(process.join("task")).into_iter().map(|thread| paths(thread.join("fd")));
    threads.into_iter().find(|open| !open.is_empty()).unwrap_or_default()
}

/// Whether a process has more threads than its first one. The links of that folder are two and those (fs/proc/base.c, `proc_task_getattr`).
pub fn has_other_threads(pid: Pid) -> bool {
    let threads = fs::metadata(format!("/proc/{}/task", pid.as_raw_nonzero()));
    threads.is_ok_and(|threads| threads.nlink() > 3)
}

/// Whether no thread of a process returns to user mode.
pub fn is_doomed(pid: Pid) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())) else { return true };
    threads.flatten().all(|thread| {
        // One that can't be read has ended.
        let read = |name| fs::read_to_string(thread.path().join(name));
        let (Ok(status), Ok(stat)) = (read("status"), read("stat")) else { return true };
        dies(&status, &stat)
    })
}

/// Whether a thread never returns to user mode, by its `status` and `stat` (proc(5)): SIGKILL is pending for
/// it, as it is for every thread of a process that was sent one (kernel/signal.c, `complete_signal`), or it is on its way out.
fn dies(status: &str, stat: &str) -> bool {
    let pending =
        status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigPnd:")?.trim(), 16).ok());
    // Behind the name, which may hold anything: state, five numbers, flags.
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
    let ended = fields.next().is_some_and(|state| matches!(state, "Z" | "X"));
    let exits =
        fields.nth(5).and_then(|flags| flags.parse::<u64>().ok()).is_some_and(|flags| flags & EXITING != 0);
    ended || exits || pending.is_some_and(|mask| mask & KILL_BIT != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::VmId;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Child;
    use std::thread;

    /// A folder with what is started in place of QEMU: it does nothing.
    fn folder() -> (tempfile::TempDir, PathBuf, Places) {
        let folder = tempfile::tempdir().unwrap();
        let qemu = folder.path().join("qemu");
        fs::write(&qemu, "#!/bin/sh\nexec sleep 1000\n").unwrap();
        fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
        let places = Places::new(folder.path(), VmId(1));
        (folder, qemu, places)
    }

    fn begin(qemu: &Path, places: &Places, generation: u32) -> Result<Process, ProcessError> {
        let machine = Machine {
            vm: VmId(1),
            generation: Generation(generation),
            name: "one".parse().unwrap(),
            memory_bytes: 1 << 20,
            cores: 1,
            disks: Vec::new(),
            nics: Vec::new(),
        };
        start(qemu, &machine, places, Accel::Tcg, Role::Run)
    }

    #[test]
    fn whoever_is_killed_before_the_fork_leaves_nothing_in_the_way() {
        let (_folder, qemu, places) = folder();
        let first = begin(&qemu, &places, 1).unwrap();
        assert_eq!(first.kill(Duration::from_secs(5)).unwrap(), Gone::Yes);
        // Lock free, a record of what never was, a pid file of what was or of nothing.
        for pid in ["", "1\n", "x"] {
            fs::write(places.pid(), pid).unwrap();
            assert!(find(&places).unwrap().is_none());
        }
        let second = begin(&qemu, &places, 2).unwrap();
        assert_eq!(find(&places).unwrap().unwrap().record.generation(), Generation(2));
        assert_eq!(second.kill(Duration::from_secs(5)).unwrap(), Gone::Yes);
    }

    #[test]
    fn one_that_is_being_born_is_waited_for() {
        let (_folder, qemu, places) = folder();
        let process = begin(&qemu, &places, 1).unwrap();
        let pid = fs::read(places.pid()).unwrap();
        fs::write(places.pid(), "").unwrap();
        assert!(matches!(begin(&qemu, &places, 2), Err(ProcessError::There)));
        let at = places.pid();
        // Whether it is looked for before or after does not matter to what is found.
        let writer = thread::spawn(move || fs::write(at, pid).unwrap());
        let found = find(&places).unwrap().unwrap();
        writer.join().unwrap();
        assert_eq!(found.pid, process.pid);
        assert_eq!(found.kill(Duration::from_secs(5)).unwrap(), Gone::Yes);
        assert!(process.has_ended(Duration::ZERO).unwrap());
    }

    #[test]
    fn a_pid_that_was_given_out_anew_is_never_hit() {
        let (_folder, qemu, places) = folder();
        let process = begin(&qemu, &places, 1).unwrap();
        let mut other: Child = Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(places.pid(), format!("{}\n", other.id())).unwrap();
        assert!(matches!(find(&places), Err(ProcessError::Nameless { .. })));
        assert_eq!(process.kill(Duration::from_secs(5)).unwrap(), Gone::Yes);
        assert!(find(&places).unwrap().is_none());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_thread_dies_when_sigkill_is_pending_or_it_has_ended() {
        let status = |mask: &str| format!("Name:\tqemu\nState:\tD (disk sleep)\nSigPnd:\t{mask}\n");
        let stat = |state: &str, flags: u32| format!("7 (a) b) {state} 1 7 7 0 -1 {flags} 0 0");
        assert!(dies(&status("0000000000000100"), &stat("D", 0x40_0000)));
        assert!(dies(&status("0000000000000000"), &stat("Z", 0x40_0000)));
        assert!(dies(&status("0000000000000000"), &stat("D", 0x40_0004)));
        assert!(!dies(&status("0000000000004000"), &stat("D", 0x40_0000)));
        assert!(!dies("", ""));
    }
}
