//! What hands do themselves: an image has no shell, no `kill` and nothing that calls a port.

use crate::{Answer, failure};
use rustix::process::{Pid, Signal, kill_process};
use std::fmt::{Display, Write};
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

/// How long a call may ring: longer than the kernel takes to try again twice.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// More processes than a node has.
const PROCESSES_MAX: usize = 100_000;

/// Carries out a verb, which came without its `@`.
pub(crate) fn carry_out(verb: &str, arguments: &[String]) -> Answer {
    match (verb, arguments) {
        ("kill", [signal, name]) => kill(signal, name),
        ("kill", _) => failure(None, "@kill wants a signal's number and a process's name".to_owned()),
        ("connect", [address]) => connect(address),
        ("connect", _) => failure(None, "@connect wants an address with a port".to_owned()),
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
