//! Who has a volume open, and how they are made to let it go: SIGKILL, and waiting until none is left.
//!
//! Invariants: [`Left::Doomed`] says that nobody hears of an acknowledgement any more (rule 11), so that it may be given. It is said only of processes that this run of the agent
//! has killed for the device, and never while something else has a claim to it: a file system's writers, or a loop device's, go on, and would take it for theirs.
//!
//! On failure: whoever waits for I/O can't end before that does. [`Left`] says how far they are. What nobody can tell is taken for a claim.

use ::vm::process::{descriptors, has_other_threads, is_doomed};
use model::VolumeId;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};
use storage::kernel::{Engine, StepError};

/// How long a killed process may take to be gone before its I/O is looked at.
const GONE_MAX: Duration = Duration::from_millis(300);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How long opening a device may take, to see whether somebody claims it.
const CLAIM_BOUND: Duration = Duration::from_millis(100);
/// Who is left of those who had a device open; later ones are worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Left {
    /// Nobody.
    Nobody,
    /// Processes none of which returns to user mode: every thread of them has SIGKILL pending, or has ended.
    Doomed,
    /// Other processes.
    Alive,
    /// No process, or none that matters: it is mounted, or something stands on it. Nobody can be made to end for that.
    Kernel,
}

/// Whom this run has killed, by device.
static KILLED: Mutex<BTreeMap<u64, Vec<Pid>>> = Mutex::new(BTreeMap::new());

/// Who has a volume open here; `kills`: everybody who has is killed. The disk in front of it has a claim to it that is no user's, and users of its own.
pub(super) fn of_volume(engine: &Engine, volume: VolumeId, kills: bool) -> Result<Left, StepError> {
    loop {
        let devices = engine.users_devices(volume)?;
        // Nobody was let in, or can be any more.
        let Some((front, behind)) = devices.split_first() else { return Ok(Left::Nobody) };
        let left = if kills { kill(front) } else { look(front) };
        let left = behind.iter().map(|device| beside_disk(device, kills)).fold(left, Left::max);
        // A disk that has come in front of it meanwhile would be taken for something that stands on it.
        if engine.users_devices(volume)? == devices {
            return Ok(left);
        }
    }
}

/// Who has a volume's own device open beside the disk that stands on it.
fn beside_disk(device: &Path, kills: bool) -> Left {
    let Ok(number) = fs::metadata(device).map(|device| device.rdev()) else { return Left::Nobody };
    let openers = openers(number);
    for pid in openers.iter().filter(|_| kills) {
        // It may have ended by itself.
        let _ = kill_process(*pid, Signal::KILL);
    }
    match (has_loop(Path::new("/sys/block"), number), openers.is_empty()) {
        (true, _) => Left::Kernel,
        (false, true) => Left::Nobody,
        (false, false) => Left::Alive,
    }
}

/// Kills everybody who has this block device open; returns when nobody has, or after a while.
fn kill(device: &Path) -> Left {
    let Ok(number) = fs::metadata(device).map(|device| device.rdev()) else { return Left::Nobody };
    let deadline = Instant::now() + GONE_MAX;
    loop {
        let openers = openers(number);
        for pid in &openers {
            // It may have ended by itself.
            let _ = kill_process(*pid, Signal::KILL);
        }
        let late = Instant::now() > deadline;
        match (openers.iter().all(|pid| is_doomed(*pid)), are_going(number, &openers)) {
            (true, false) => match claim(device, number) {
                Claim::Held => return Left::Kernel,
                Claim::None => return Left::Nobody,
                // Whoever was killed may be closing it.
                Claim::Unknown if late => return Left::Alive,
                Claim::Unknown => {}
            },
            (true, true) if late && claim(device, number) != Claim::None => return Left::Kernel,
            (true, true) if late => return Left::Doomed,
            (false, _) if late => return Left::Alive,
            _ => sleep(LOOK_AGAIN),
        }
    }
}

/// Who has this block device open; nobody is killed.
fn look(device: &Path) -> Left {
    let Ok(number) = fs::metadata(device).map(|device| device.rdev()) else { return Left::Nobody };
    match openers(number).is_empty() {
        true if claim(device, number) != Claim::None => Left::Kernel,
        true => Left::Nobody,
        false => Left::Alive,
    }
}

/// Another part of this agent is about to kill a process: it counts as killed for every device that it has open.
pub(super) fn is_to_be_killed(pid: Pid) {
    let devices = devices_of(pid);
    let mut killed = KILLED.lock().unwrap_or_else(PoisonError::into_inner);
    for number in devices {
        killed.entry(number).or_default().push(pid);
    }
}

/// The numbers of all block devices that a process has open.
fn devices_of(pid: Pid) -> Vec<u64> {
    let open = descriptors(pid).into_iter().filter_map(|path| fs::metadata(path).ok());
    open.filter(|file| file.file_type().is_block_device()).map(|device| device.rdev()).collect()
}

/// The first of these block devices that a process has not open, whatever it was told to open.
pub(super) fn not_open<'a>(pid: Pid, mut devices: impl Iterator<Item = &'a Path>) -> Option<&'a Path> {
    let open = devices_of(pid);
    devices.find(|device| fs::metadata(device).map_or(true, |device| !open.contains(&device.rdev())))
}

/// Whether any of those that were killed for a device, these among them, is still on its way out: it may hold the device without a descriptor of it.
fn are_going(number: u64, openers: &[Pid]) -> bool {
    let mut killed = KILLED.lock().unwrap_or_else(PoisonError::into_inner);
    let killed = killed.entry(number).or_default();
    killed.extend(openers);
    killed.sort_unstable_by_key(|pid| pid.as_raw_nonzero());
    killed.dedup();
    killed.retain(|pid| is_going(*pid));
    !killed.is_empty()
}

/// What is known of whoever has a device and is no process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    None,
    Held,
    /// Nothing, within a bound.
    Unknown,
}

/// Whether something that is no process may have a device: whoever mounts it or puts a device on it claims it (block/bdev.c, `bd_prepare_to_claim`); a loop
/// device does not.
fn claim(device: &Path, number: u64) -> Claim {
    let (asked, claimed) = channel();
    let opened = device.to_owned();
    // It may hang behind somebody who closes it.
    thread::spawn(move || {
        let opened = rustix::fs::open(opened, OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC, Mode::empty());
        let is_claimed = matches!(opened, Err(Errno::BUSY));
        // Before anybody hears of it: who sees nobody takes the device away, and would find it open.
        drop(opened);
        let _ = asked.send(is_claimed);
    });
    match claimed.recv_timeout(CLAIM_BOUND) {
        _ if has_loop(Path::new("/sys/block"), number) => Claim::Held,
        Ok(true) => Claim::Held,
        Ok(false) => Claim::None,
        Err(_) => Claim::Unknown,
    }
}

/// Whether a loop device stands on a device (drivers/block/loop.c, `backing_file`).
fn has_loop(blocks: &Path, number: u64) -> bool {
    let Ok(blocks) = fs::read_dir(blocks) else { return true };
    blocks.flatten().any(|block| {
        let file = fs::read_to_string(block.path().join("loop/backing_file")).unwrap_or_default();
        fs::metadata(file.trim_end()).is_ok_and(|file| file.rdev() == number)
    })
}

/// How many processes have any of these block devices open.
pub(super) fn count(devices: &[PathBuf]) -> usize {
    devices.iter().map(|device| fs::metadata(device).map_or(0, |device| openers(device.rdev()).len())).sum()
}

/// Asks everybody who has any of these block devices open to end.
pub(super) fn ask_to_end(devices: &[PathBuf]) {
    let openers = |device: &PathBuf| fs::metadata(device).map(|device| openers(device.rdev()));
    for pid in devices.iter().filter_map(|device| openers(device).ok()).flatten() {
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Kills everybody who has any volume open on this node.
pub(super) fn kill_all(engine: &Engine) -> Result<(), StepError> {
    for volume in engine.open_volumes()? {
        of_volume(engine, volume, true)?;
    }
    Ok(())
}

/// Whether a process has not ended, and never returns to user mode. One that has (`Z`) has let go of its files.
fn is_going(pid: Pid) -> bool {
    let threads = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()));
    let ended = |stat: &str| {
        matches!(
            stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next(),
            Some('Z' | 'X') | None
        )
    };
    let stays =
        |thread: fs::DirEntry| fs::read_to_string(thread.path().join("stat")).is_ok_and(|stat| !ended(&stat));
    threads.is_ok_and(|threads| threads.flatten().any(stays)) && is_doomed(pid)
}

/// A process that has one of these files open, and is no agent. It is held: whoever gets its id after it is not it.
#[derive(Debug)]
pub(super) struct User {
    pub(super) pid: Pid,
    process: OwnedFd,
    /// Its descriptor of the file, and which file that is.
    open: (PathBuf, FileId),
}

/// The device it is on, and its number there.
type FileId = (u64, u64);

impl User {
    fn of(pid: Pid, is_open: impl Fn() -> Option<(PathBuf, FileId)>) -> io::Result<Option<Self>> {
        if is_open().is_none() {
            return Ok(None);
        }
        let process = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(Errno::SRCH) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        // What is seen now is seen of the process that is held, or that has ended.
        Ok(is_open().map(|open| Self { pid, process, open }))
    }

    /// Whether it still has open what it had, under the same descriptor.
    pub(super) fn has_it_open(&self) -> bool {
        let (path, id) = &self.open;
        fs::metadata(path).is_ok_and(|file| id_of(&file) == *id)
    }

    /// Ends it at once. That takes no memory (kernel/signal.c: SIGKILL is not queued).
    pub(super) fn end(&self) {
        // It may have ended by itself.
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }
}

fn id_of(file: &fs::Metadata) -> FileId {
    (file.dev(), file.ino())
}

/// Whether a file is one of these block devices. Character devices have numbers of their own.
pub(super) fn is_one_of(devices: &BTreeSet<u64>) -> impl Fn(&fs::Metadata) -> bool {
    |file| file.file_type().is_block_device() && devices.contains(&file.rdev())
}

/// Who has any of these files open, agents left out: an item for each process there is, so that whoever looks may stop after any. One walk for all files, and nothing is opened for
/// it: another process may be about to take a device away. Those that were started last come first: the kernel's own threads are the first that there are.
pub(super) fn users(
    is_one: impl Fn(&fs::Metadata) -> bool,
) -> io::Result<impl Iterator<Item = io::Result<Option<User>>>> {
    let own = program_of("self").ok();
    let all = fs::read_dir("/proc")?.collect::<io::Result<Vec<_>>>()?;
    let mut pids: Vec<Pid> = all.iter().filter_map(pid_of).collect();
    pids.sort_unstable_by_key(|pid| std::cmp::Reverse(pid.as_raw_nonzero()));
    let open = move |pid: Pid| {
        let may_use = match program_of(&pid.as_raw_nonzero().to_string()) {
            Ok(program) => own.as_ref() != Some(&program),
            // A kernel thread, or one that never returns to user mode; but its first thread may have gone before others.
            Err(error) => error.kind() != io::ErrorKind::NotFound || has_other_threads(pid),
        };
        may_use.then(|| opened(pid, &is_one)).flatten()
    };
    Ok(pids.into_iter().map(move |pid| User::of(pid, || open(pid))))
}

/// What a process runs; of one that was replaced meanwhile, what it was.
fn program_of(process: &str) -> io::Result<PathBuf> {
    let program = fs::read_link(format!("/proc/{process}/exe"))?;
    let name = program.to_string_lossy();
    Ok(PathBuf::from(name.strip_suffix(" (deleted)").unwrap_or(&name)))
}

/// The first of a process's descriptors that is one of these files.
fn opened(pid: Pid, is_one: impl Fn(&fs::Metadata) -> bool) -> Option<(PathBuf, FileId)> {
    descriptors(pid).into_iter().find_map(|path| {
        let file = fs::metadata(&path).ok().filter(|file| is_one(file))?;
        Some((path, id_of(&file)))
    })
}

fn pid_of(entry: &fs::DirEntry) -> Option<Pid> {
    entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)
}

/// Processes with a descriptor of the device, this one left out.
fn openers(number: u64) -> Vec<Pid> {
    let own = rustix::process::getpid();
    let is_one = |file: &fs::Metadata| file.rdev() == number;
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let others = all.filter_map(|entry| pid_of(&entry)).filter(|pid| *pid != own);
    others.filter(|pid| opened(*pid, is_one).is_some()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_it_open_is_killed_and_gone() {
        let device = Path::new("/dev/null");
        let child =
            std::process::Command::new("sleep").arg("1000").stdin(fs::File::open(device).unwrap()).spawn();
        let mut child = child.unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(openers(fs::metadata(device).unwrap().rdev()).contains(&pid));
        assert_eq!(look(device), Left::Alive);
        kill_process(pid, Signal::KILL).unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(is_doomed(pid) && !is_going(pid));
    }

    /// A process that has this file open.
    fn user_of(file: &fs::File) -> std::process::Child {
        let input = file.try_clone().unwrap();
        std::process::Command::new("sleep").arg("1000").stdin(input).spawn().unwrap()
    }

    #[test]
    fn users_are_found_held_and_ended_and_nobody_else() {
        let file = tempfile::tempfile().unwrap();
        let id = id_of(&file.metadata().unwrap());
        // This process has it open, too: it is taken for an agent.
        let found = || -> Vec<User> {
            users(move |file| id_of(file) == id).unwrap().filter_map(|user| user.unwrap()).collect()
        };
        assert!(found().is_empty());
        let (mut child, mut other) = (user_of(&file), user_of(&file));
        let raw = |user: &User| user.pid.as_raw_nonzero().get().cast_unsigned();
        let mut held = found();
        held.retain(|user| raw(user) == child.id());
        let [mut user] = <[User; 1]>::try_from(held).unwrap();
        assert!(user.has_it_open());
        user.end();
        child.wait().unwrap();
        assert!(!user.has_it_open());
        // Another process that has got its id, and has the file open at the same place.
        user.pid = Pid::from_child(&other);
        user.open.0 = PathBuf::from(format!("/proc/{}/fd/0", other.id()));
        assert!(user.has_it_open());
        user.end();
        assert!(other.try_wait().unwrap().is_none(), "that is not whom we held");
        let rest = found();
        assert_eq!(rest.iter().map(raw).collect::<Vec<_>>(), [other.id()]);
        rest.iter().for_each(User::end);
        other.wait().unwrap();
        assert!(found().is_empty());
    }

    #[test]
    fn who_has_closed_it_is_no_user_any_more() {
        let file = tempfile::tempfile().unwrap();
        let id = id_of(&file.metadata().unwrap());
        let script = "read go <&1; exec <&-; echo closed; read go <&1";
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut child = std::process::Command::new("sh");
        child.args(["-c", script]).stdin(file).stdout(OwnedFd::from(theirs));
        let mut child = child.spawn().unwrap();
        let user = users(move |file| id_of(file) == id).unwrap().find_map(|user| user.unwrap()).unwrap();
        assert!(user.has_it_open());
        io::Write::write_all(&mut &ours, b"go\n").unwrap();
        io::Read::read_exact(&mut &ours, &mut [0; 7]).unwrap();
        assert!(!user.has_it_open());
        user.end();
        child.wait().unwrap();
    }

    /// It has no descriptor any more, perhaps, and holds what it had open; once it has ended it does not, whether somebody waits for it or not.
    #[test]
    fn whom_this_run_has_killed_is_remembered_until_it_has_ended() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(!is_going(pid), "it runs");
        // No device has that number.
        let number = u64::MAX;
        assert!(!are_going(number, &[]));
        assert!(!are_going(number, &[pid]), "nor is one that does not die remembered");
        kill_process(pid, Signal::KILL).unwrap();
        let ended = || fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap().contains(") Z ");
        let deadline = Instant::now() + Duration::from_secs(10);
        while !ended() {
            assert!(Instant::now() < deadline, "it was killed");
            thread::yield_now();
        }
        assert!(!are_going(number, &[pid]) && is_doomed(pid));
        child.wait().unwrap();
    }

    #[test]
    fn a_loop_device_is_found_by_what_it_stands_on() {
        let blocks = tempfile::tempdir().unwrap();
        let number = fs::metadata("/dev/null").unwrap().rdev();
        let file = |name: &str, text: &str| {
            let folder = blocks.path().join(name).join("loop");
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("backing_file"), text).unwrap();
        };
        fs::create_dir(blocks.path().join("dm-0")).unwrap();
        file("loop0", "/dev/zero\n");
        file("loop1", "/nowhere (deleted)\n");
        assert!(!has_loop(blocks.path(), number));
        file("loop2", "/dev/null\n");
        assert!(has_loop(blocks.path(), number));
        assert!(has_loop(Path::new("/nowhere"), number), "what can't be told is taken for one");
    }
}
