//! What hands do themselves: an image has no shell, no `kill`, nothing that calls a port, and nothing that leaves a command behind.

use crate::{Answer, failure, run};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use std::fmt::{Display, Write};
use std::fs::{self, File};
use std::io;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

/// How long a call may ring: longer than the kernel takes to try again twice.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// The pieces in which a file system is filled: the first, and the smallest that is tried.
const FIRST_PIECE_BYTES: u64 = 64 << 20;
const LAST_PIECE_BYTES: u64 = 512;

/// Where serial ports have their names (`drivers/char/virtio_console.c`).
const PORTS: &str = "/sys/class/virtio-ports";

/// More processes than a node has.
const PROCESSES_MAX: usize = 100_000;

/// Carries out a verb, which came without its `@`.
pub(crate) fn carry_out(verb: &str, arguments: &[String]) -> Answer {
    match (verb, arguments) {
        ("kill", [signal, name]) => kill(signal, name),
        ("kill", _) => failure(None, "@kill wants a signal's number and a process's name".to_owned()),
        ("connect", [address]) => connect(address),
        ("connect", _) => failure(None, "@connect wants an address with a port".to_owned()),
        ("start", [program, arguments @ ..]) => start(program, arguments),
        ("start", []) => failure(None, "@start wants a program".to_owned()),
        ("port", [name]) => port(Path::new(PORTS), name),
        ("port", _) => failure(None, "@port wants a name".to_owned()),
        ("skew", [seconds]) => skew(seconds, set_clock),
        ("usage", [name]) => usage(Path::new("/proc"), name),
        ("usage", _) => failure(None, "@usage wants a process's name".to_owned()),
        ("list", folders) => list(folders),
        ("fill", [path]) => fill(Path::new(path)),
        ("fill", _) => failure(None, "@fill wants a file's path".to_owned()),
        ("remove", [path]) => remove(Path::new(path)),
        ("remove", _) => failure(None, "@remove wants a file's path".to_owned()),
        ("skew", _) => failure(None, "@skew wants a number of seconds".to_owned()),
        _ => failure(None, format!("hands don't know how to @{verb}")),
    }
}

/// Calls a TCP port, and hangs up; status 1 if nobody takes the call.
fn connect(address: &str) -> Answer {
    let Ok(address) = address.parse() else {
        return failure(None, format!("{address} is no address with a port"));
    };
    match TcpStream::connect_timeout(&address, CALL_LIMIT) {
        Ok(_) => Answer { status: Some(0), ..Answer::default() },
        Err(error) => Answer { status: Some(1), stderr: format!("{error}\n"), ..Answer::default() },
    }
}

/// Starts a program and leaves it running, in a process group of its own: it outlives this answer, and the hands too. What it says on
/// standard error goes where the hands' own does.
fn start(program: &str, arguments: &[String]) -> Answer {
    let mut command = run::command(program, arguments);
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return failure(None, format!("cannot start {program}: {error}")),
    };
    let mut answer = Answer { status: Some(0), ..Answer::default() };
    add_line(&mut answer.stdout, child.id());
    // Takes its end, so that its name does not stay among the processes.
    match thread::Builder::new().name("waits".to_owned()).spawn(move || child.wait()) {
        Ok(_) => answer,
        Err(error) => failure(None, format!("{program} runs, and nobody waits for its end: {error}")),
    }
}

/// Says what is in these folders, path by path, in order. One that is not there has nothing in it.
fn list(folders: &[String]) -> Answer {
    let mut answer = Answer { status: Some(0), ..Answer::default() };
    for folder in folders {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
        paths.sort_unstable();
        for path in &paths {
            add_line(&mut answer.stdout, path.display());
        }
    }
    answer
}

/// Says the device of the serial port of that name; status 1 if there is none.
fn port(ports: &Path, name: &str) -> Answer {
    let mut entries = fs::read_dir(ports).into_iter().flatten().flatten();
    let is_it = |entry: &fs::DirEntry| {
        fs::read_to_string(entry.path().join("name")).is_ok_and(|found| found.trim() == name)
    };
    let mut answer = Answer { status: Some(0), ..Answer::default() };
    if let Some(entry) = entries.find(is_it) {
        add_line(&mut answer.stdout, Path::new("/dev").join(entry.file_name()).display());
    } else {
        answer.status = Some(1);
        add_line(&mut answer.stderr, format_args!("no port is called {name}"));
    }
    answer
}

/// Sends the signal to every process of that name but process 1 and the kernel's own; status 1 if there is none.
fn kill(signal: &str, name: &str) -> Answer {
    let Some(signal) = signal.parse().ok().and_then(Signal::from_named_raw) else {
        return failure(None, format!("{signal} is no signal's number"));
    };
    let mut answer = Answer { status: Some(0), ..Answer::default() };
    let found = named(Path::new("/proc"), name);
    if found.is_empty() {
        answer.status = Some(1);
        answer.stderr = format!("no process is called {name}\n");
    }
    for pid in found {
        match kill_process(pid, signal) {
            Ok(()) => add_line(&mut answer.stdout, pid),
            Err(errno) => {
                answer.status = Some(1);
                add_line(&mut answer.stderr, format_args!("{pid}: {errno}"));
            }
        }
    }
    answer
}

/// For every process of that name but process 1: its id, the time it and its threads have had of processors (milliseconds, user and system), and the
/// memory it holds (KiB); status 1 if there is none.
fn usage(proc: &Path, name: &str) -> Answer {
    let mut answer = Answer { status: Some(0), ..Answer::default() };
    for pid in named(proc, name) {
        let pid = pid.as_raw_nonzero();
        let stat = fs::read_to_string(proc.join(pid.to_string()).join("stat"));
        // One that ended meanwhile uses nothing.
        if let Some((processor_ms, memory_kib)) = stat.ok().as_deref().and_then(used) {
            add_line(&mut answer.stdout, format_args!("{pid} {processor_ms} {memory_kib}"));
        }
    }
    if answer.stdout.is_empty() {
        answer.status = Some(1);
        answer.stderr = format!("no process is called {name}\n");
    }
    answer
}

/// By `/proc/PID/stat` (proc(5)): `utime` and `stime`, fields 14 and 15, in ticks; `rss`, field 24, in pages.
fn used(stat: &str) -> Option<(u64, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let field = |number: usize| rest.split_whitespace().nth(number - 3)?.parse::<u64>().ok();
    let ticks = field(14)?.checked_add(field(15)?)?;
    let (hz, page_kib) = (clock_ticks_per_second().max(1), page_size() as u64 / 1024);
    Some((ticks.checked_mul(1000)? / hz, field(24)?.checked_mul(page_kib)?))
}

/// Sets the machine's clock forward by so many seconds, or back, and says the time that it has then, in seconds since 1970.
fn skew(seconds: &str, set: impl FnOnce(Timespec) -> rustix::io::Result<()>) -> Answer {
    let Ok(by_s) = seconds.parse::<i32>() else {
        return failure(None, format!("{seconds} is no number of seconds"));
    };
    let now = clock_gettime(ClockId::Realtime);
    let then = Timespec { tv_sec: now.tv_sec.saturating_add(by_s.into()), tv_nsec: now.tv_nsec };
    let mut answer = Answer { status: Some(0), ..Answer::default() };
    match set(then) {
        Ok(()) => add_line(&mut answer.stdout, then.tv_sec),
        Err(errno) => {
            answer.status = Some(1);
            add_line(&mut answer.stderr, errno);
        }
    }
    answer
}

fn set_clock(to: Timespec) -> rustix::io::Result<()> {
    clock_settime(ClockId::Realtime, to)
}

/// Makes a file that takes all that is left of its file system, and says how many bytes that is. What is there already grows.
fn fill(path: &Path) -> Answer {
    match File::options().create(true).append(true).open(path).and_then(|file| take_all(&file)) {
        Ok(bytes) => {
            let mut answer = Answer { status: Some(0), ..Answer::default() };
            add_line(&mut answer.stdout, bytes);
            answer
        }
        Err(error) => refused(path, &error),
    }
}

/// What the file system did not do.
fn refused(path: &Path, error: &io::Error) -> Answer {
    let mut answer = Answer { status: Some(1), ..Answer::default() };
    add_line(&mut answer.stderr, format_args!("{}: {error}", path.display()));
    answer
}

/// Pieces of half the size each time there is no room for one: fallocate(2) gives all of a piece or nothing.
fn take_all(file: &File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut piece = FIRST_PIECE_BYTES;
    while piece >= LAST_PIECE_BYTES {
        match fallocate(file, FallocateFlags::empty(), end, piece) {
            Ok(()) => end += piece,
            Err(Errno::NOSPC) => piece /= 2,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    file.sync_all()?;
    Ok(end)
}

/// Removes a file; one that is not there is removed.
fn remove(path: &Path) -> Answer {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => refused(path, &error),
        _ => Answer { status: Some(0), ..Answer::default() },
    }
}

fn add_line(text: &mut String, line: impl Display) {
    // Writing to a string can't fail.
    let _ = writeln!(text, "{line}");
}

/// The processes of that name (proc(5), `comm`), without process 1: its end is the machine's; and without the kernel's threads,
/// which a signal does nothing to.
fn named(proc: &Path, name: &str) -> Vec<Pid> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten().take(PROCESSES_MAX);
    let pids = entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
        // Gone meanwhile: then it is not called anything.
        let comm = fs::read_to_string(entry.path().join("comm")).ok()?;
        let is_it = comm.trim_end_matches('\n') == name && pid != Pid::INIT;
        (is_it && !is_kernel_thread(&fs::read_to_string(entry.path().join("stat")).ok()?)?).then_some(pid)
    });
    let mut pids: Vec<Pid> = pids.collect();
    pids.sort_by_key(|pid| pid.as_raw_nonzero());
    pids
}

/// By the ninth field of `/proc/PID/stat` (proc(5)); the second one, in parentheses, may contain anything.
fn is_kernel_thread(stat: &str) -> Option<bool> {
    /// `include/linux/sched.h`.
    const PF_KTHREAD: u32 = 0x0020_0000;
    let (_, rest) = stat.rsplit_once(')')?;
    let flags: u32 = rest.split_whitespace().nth(6)?.parse().ok()?;
    Some(flags & PF_KTHREAD != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_folders_is_listed_and_what_is_not_there_has_nothing() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["b", "a"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let here = directory.path().display().to_string();
        let answer = carry_out("list", &[format!("{here}/none"), here.clone()]);
        assert_eq!((answer.status, answer.stdout), (Some(0), format!("{here}/a\n{here}/b\n")));
    }

    #[test]
    fn what_is_no_verb_is_refused() {
        let told = |verb: &str, arguments: &[&str]| {
            carry_out(verb, &arguments.iter().map(|&word| word.to_owned()).collect::<Vec<_>>()).error
        };
        assert_eq!(told("power", &["cycle"]).as_deref(), Some("hands don't know how to @power"));
        assert!(told("kill", &["9"]).is_some());
        for signal in ["nine", "0", "-9", "99999", ""] {
            assert_eq!(told("kill", &[signal, "x"]), Some(format!("{signal} is no signal's number")));
        }
    }

    #[test]
    fn a_clock_is_set_by_so_much_and_a_refusal_is_a_status() {
        let now_s = clock_gettime(ClockId::Realtime).tv_sec;
        let mut asked_s = 0;
        let answer = skew("-3600", |to| {
            asked_s = to.tv_sec;
            Ok(())
        });
        assert!((0..10).contains(&(asked_s - (now_s - 3600))), "{asked_s}");
        assert_eq!((answer.status, answer.stdout), (Some(0), format!("{asked_s}\n")));
        assert_eq!(skew("1", |_| Err(Errno::PERM)).status, Some(1));
        assert_eq!(skew("soon", |_| Ok(())).error.as_deref(), Some("soon is no number of seconds"));
    }

    #[test]
    fn what_fills_a_disk_is_a_file_that_can_be_removed_more_than_once() {
        assert_eq!(carry_out("fill", &["/nowhere/x".to_owned()]).status, Some(1));
        assert!(carry_out("fill", &[]).error.is_some());
        let path = std::env::temp_dir().join(format!("hands-fill-{}", std::process::id()));
        fs::write(&path, "x").unwrap();
        let shown = [path.display().to_string()];
        for _ in 0..2 {
            assert_eq!(carry_out("remove", &shown).status, Some(0));
        }
        assert!(!path.exists());
    }

    #[test]
    fn what_a_process_uses_is_told() {
        let stat = |user, system, pages| {
            format!("7 (a ) b) S 1 7 7 0 -1 0 1 2 3 4 {user} {system} 0 0 20 0 1 0 5 99 {pages} 1")
        };
        let tick_ms = 1000 / clock_ticks_per_second();
        assert_eq!(used(&stat(30, 12, 5)), Some((42 * tick_ms, 5 * page_size() as u64 / 1024)));
        assert_eq!(used("7 (x) S 1"), None);
        let answer = carry_out("usage", &["no such process".to_owned()]);
        assert_eq!((answer.status, &*answer.stderr), (Some(1), "no process is called no such process\n"));
    }

    #[test]
    fn a_call_is_taken_or_refused() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let call = |address: &str| carry_out("connect", &[address.to_owned()]);
        assert_eq!(call(&address).status, Some(0));
        drop(listener);
        assert_eq!(call(&address).status, Some(1));
        assert_eq!(call("nowhere").error.as_deref(), Some("nowhere is no address with a port"));
    }

    #[test]
    fn nobody_of_that_name_is_a_status() {
        let answer = carry_out("kill", &["9".to_owned(), "no such process".to_owned()]);
        assert_eq!((answer.status, &*answer.stderr), (Some(1), "no process is called no such process\n"));
    }

    #[test]
    fn a_port_is_found_by_its_name() {
        let ports = std::env::temp_dir().join(format!("hands-ports-{}", std::process::id()));
        for (device, name) in [("vport1p1", "twinrack.hands"), ("vport1p2", "other")] {
            fs::create_dir_all(ports.join(device)).unwrap();
            fs::write(ports.join(device).join("name"), format!("{name}\n")).unwrap();
        }
        let (found, none) = (port(&ports, "other"), port(&ports, "oth"));
        fs::remove_dir_all(&ports).unwrap();
        assert_eq!((found.status, &*found.stdout), (Some(0), "/dev/vport1p2\n"));
        assert_eq!((none.status, &*none.stderr), (Some(1), "no port is called oth\n"));
    }

    #[test]
    fn what_is_started_is_not_waited_for() {
        let told = |arguments: &[&str]| {
            carry_out("start", &arguments.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
        };
        let answer = told(&["sleep", "600"]);
        assert_eq!(answer.status, Some(0));
        let pid = answer.stdout.trim().parse().ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        assert!(told(&["/nowhere"]).error.unwrap().starts_with("cannot start /nowhere"));
        assert!(told(&[]).error.is_some());
    }

    #[test]
    fn processes_are_found_by_their_whole_name_and_never_the_first() {
        let proc = std::env::temp_dir().join(format!("hands-proc-{}", std::process::id()));
        // The last one's flags as Linux 6.1 shows a kernel thread's.
        let (usual, kernel) = (4_194_560, 69_238_848);
        let processes = [
            ("1", "x", usual),
            ("20", "x", usual),
            ("3", "x", usual),
            ("4", "xy", usual),
            ("self", "x", usual),
        ];
        for (pid, comm, flags) in processes.into_iter().chain([("5", "x", kernel)]) {
            fs::create_dir_all(proc.join(pid)).unwrap();
            fs::write(proc.join(pid).join("comm"), format!("{comm}\n")).unwrap();
            let stat = format!("{pid} ({comm} )) S 2 0 0 0 -1 {flags} 0 0 0");
            fs::write(proc.join(pid).join("stat"), stat).unwrap();
        }
        let found: Vec<i32> = named(&proc, "x").iter().map(|pid| pid.as_raw_nonzero().get()).collect();
        fs::remove_dir_all(&proc).unwrap();
        assert_eq!(found, [3, 20]);
    }
}
