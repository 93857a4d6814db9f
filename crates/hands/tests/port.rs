//! The protocol over a socket pair, with real commands and with what nobody should send.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use hands::{Answer, LIMIT_MAX, OUTPUT_MAX_BYTES, REQUEST_MAX_BYTES, Request};
use proptest::prelude::*;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

struct Port {
    reader: BufReader<UnixStream>,
    service: JoinHandle<std::io::Result<()>>,
}

impl Port {
    fn open() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(LIMIT_MAX)).unwrap();
        let service = std::thread::spawn(move || hands::serve(theirs.try_clone().unwrap(), theirs));
        Self { reader: BufReader::new(ours), service }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).unwrap();
    }

    fn answer(&mut self) -> Answer {
        let mut line = String::new();
        while line.trim().is_empty() {
            line.clear();
            assert_ne!(self.reader.read_line(&mut line).unwrap(), 0, "the service ended");
        }
        serde_json::from_str(&line).unwrap()
    }

    fn ask(&mut self, request: &Request) -> Answer {
        self.send(format!("{}\n", serde_json::to_string(request).unwrap()).as_bytes());
        let answer = self.answer();
        assert_eq!(answer.id, Some(request.id));
        answer
    }

    fn run(&mut self, argv: &[&str]) -> Answer {
        self.ask(&request(argv))
    }

    /// Whether it still serves, and ends when the port does.
    fn still_serves(mut self) {
        assert_eq!(self.run(&["echo", "well"]).stdout, "well\n");
        self.reader.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
        self.service.join().unwrap().unwrap();
    }
}

fn request(argv: &[&str]) -> Request {
    Request {
        id: 7,
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        stdin: String::new(),
        limit_ms: None,
    }
}

#[test]
fn the_lines_are_these() {
    let mut port = Port::open();
    port.send(b"{\"id\":1,\"argv\":[\"cat\"],\"stdin\":\"in\"}\n");
    let mut lines = [String::new(), String::new()];
    for line in &mut lines {
        port.reader.read_line(line).unwrap();
    }
    let (said, took_us) = lines[1].split_once(",\"took_us\":").unwrap();
    assert_eq!((&*lines[0], said), ("\n", "{\"id\":1,\"status\":0,\"stdout\":\"in\",\"stderr\":\"\""));
    assert!(took_us.strip_suffix("}\n").unwrap().parse::<u64>().is_ok(), "{took_us}");
    port.still_serves();
}

#[test]
fn a_command_has_its_input_outputs_and_status() {
    let mut port = Port::open();
    let argv = ["sh", "-c", "cat; echo problem >&2; exit 3"];
    let answer = port.ask(&Request { stdin: "wörds".to_owned(), ..request(&argv) });
    let told = (answer.status, &*answer.stdout, &*answer.stderr);
    assert_eq!(told, (Some(3), "wörds", "problem\n"));
    assert_eq!((answer.signal, answer.error, answer.truncated), (None, None, false));
    assert_eq!(port.run(&["sh", "-c", "kill -15 $$"]).signal, Some(15));
    assert_eq!(port.run(&["printf", r"a\377b"]).stdout, "a\u{fffd}b");
    port.still_serves();
}

#[test]
fn a_large_input_that_nobody_reads_is_no_trouble() {
    let mut port = Port::open();
    let stdin = "x".repeat(REQUEST_MAX_BYTES / 2);
    assert_eq!(port.ask(&Request { stdin: stdin.clone(), ..request(&["true"]) }).status, Some(0));
    let sleep = Request { stdin: stdin.clone(), limit_ms: Some(300), ..request(&["sleep", "600"]) };
    assert!(port.ask(&sleep).error.unwrap().contains("still ran"));
    assert!(port.ask(&Request { stdin: stdin.clone(), ..request(&["cat"]) }).truncated);
    assert_eq!(port.ask(&Request { stdin, ..request(&["wc", "-c"]) }).stdout.trim(), "524288");
    port.still_serves();
}

#[test]
fn what_is_no_request_is_said_and_not_repeated() {
    let mut port = Port::open();
    for bad in [
        &b"password"[..],
        b"{\"id\":1}",
        b"{\"id\":-1,\"argv\":[\"true\"]}",
        b"{\"id\":1,\"argv\":\"password\"}",
        b"{\"id\":1,\"argv\":[\"true\"],\"password\":1}",
        b"[[[[[[",
        b"\xff\xfe\0",
    ] {
        port.send(&[bad, b"\n"].concat());
        let answer = port.answer();
        let error = answer.error.unwrap();
        assert!(error.starts_with("the request is no request: ") && !error.contains("password"), "{error}");
        assert_eq!((answer.id, answer.status), (None, None));
    }
    assert_eq!(port.run(&[]).error.as_deref(), Some("the request names no command"));
    port.send(b"\n \n\r\n");
    port.still_serves();
}

#[test]
fn a_line_without_end_is_thrown_away() {
    let mut port = Port::open();
    port.send(&vec![b'{'; 3 * REQUEST_MAX_BYTES + 1]);
    port.send(b"\n");
    assert_eq!(port.answer().error.as_deref(), Some("the request is longer than 1048576 bytes"));
    let request = |padding: usize| {
        let line = "{\"id\":7,\"argv\":[\"true\"]}";
        format!("{line}{}\n", " ".repeat(padding - line.len()))
    };
    port.send(request(REQUEST_MAX_BYTES).as_bytes());
    assert_eq!(port.answer().status, Some(0));
    port.send(request(REQUEST_MAX_BYTES + 1).as_bytes());
    assert!(port.answer().error.is_some());
    port.still_serves();
}

#[test]
fn half_a_line_at_the_end_is_not_run() {
    let mut port = Port::open();
    port.send(b"{\"id\":1,\"argv\":[\"echo\"]}");
    port.reader.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    let mut line = String::new();
    assert_eq!(port.reader.read_line(&mut line).unwrap(), 0, "{line}");
    port.service.join().unwrap().unwrap();
}

#[test]
fn a_command_that_is_not_there_is_an_error_with_its_name() {
    let mut port = Port::open();
    let error = port.run(&["no-such-command", "x"]).error.unwrap();
    assert!(error.starts_with("cannot start no-such-command: No such file"), "{error}");
    port.run(&["/etc"]).error.unwrap();
    port.run(&["a\0b"]).error.unwrap();
    port.still_serves();
}

#[test]
fn a_command_that_runs_too_long_is_killed_with_its_children() {
    let mut port = Port::open();
    let argv = ["sh", "-c", "sleep 600 & echo $!; wait"];
    let answer = port.ask(&Request { limit_ms: Some(300), ..request(&argv) });
    assert_eq!(answer.error.as_deref(), Some("sh was killed: it still ran after 300 ms"));
    gone(answer.stdout.trim());
    port.still_serves();
}

#[test]
fn a_command_that_has_ended_is_not_waited_for_longer() {
    let mut port = Port::open();
    let started = Instant::now();
    let answer = port.run(&["sh", "-c", "sleep 600 & echo $!"]);
    assert_eq!(answer.status, Some(0));
    assert!(started.elapsed() < hands::LIMIT_DEFAULT, "it was waited for");
    gone(answer.stdout.trim());
    port.still_serves();
}

/// Waits until there is no such process.
fn gone(pid: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let stat = format!("/proc/{}/stat", pid.parse::<u32>().unwrap());
    // An orphan that nobody waits for stays as a zombie, which is as dead.
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < deadline, "{pid} is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_flood_is_cut_and_does_not_hold_anybody_up() {
    let mut port = Port::open();
    let argv =
        ["sh", "-c", r"head -c 3000000 /dev/zero | tr '\0' '\1'; head -c 300000 /dev/zero >&2; exit 5"];
    let answer = port.run(&argv);
    assert_eq!((answer.status, answer.truncated), (Some(5), true));
    assert_eq!((answer.stdout.len(), answer.stderr.len()), (OUTPUT_MAX_BYTES, OUTPUT_MAX_BYTES));
    assert!(serde_json::to_vec(&answer).unwrap().len() <= hands::ANSWER_MAX_BYTES);
    let endless = port.ask(&Request { limit_ms: Some(300), ..request(&["cat", "/dev/zero"]) });
    assert!(endless.truncated && endless.error.is_some());
    port.still_serves();
}

#[test]
fn processes_are_killed_by_their_names() {
    let mut port = Port::open();
    // A name of its own, so that nobody else's process has it (a name has 15 bytes at most, proc(5)).
    let name = format!("hnd{}", std::process::id());
    let program = std::env::temp_dir().join(&name);
    std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
    let mut child = Command::new(&program).arg("600").stdin(Stdio::null()).spawn().unwrap();
    std::fs::remove_file(&program).unwrap();
    // Whoever spawns goes on as soon as the child has let go of its memory; the kernel gives it its name a moment later (fs/exec.c, `begin_new_exec`).
    let comm = format!("/proc/{}/comm", child.id());
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::fs::read_to_string(&comm).unwrap().trim_end() != name {
        assert!(Instant::now() < deadline, "it has no name yet");
        std::thread::yield_now();
    }
    let answer = port.run(&["@kill", "9", &name]);
    assert_eq!((answer.status, answer.stdout), (Some(0), format!("{}\n", child.id())));
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9));
    assert_eq!(port.run(&["@kill", "9", &name]).status, Some(1));
    port.still_serves();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_comes_every_line_is_answered_and_the_next_one_too(
        lines in proptest::collection::vec("[ \\[\\]{}\":,a-z0-9\\\\]{0,40}", 0..8),
    ) {
        let mut port = Port::open();
        for line in &lines {
            port.send(format!("{line}\n").as_bytes());
        }
        for _ in lines.iter().filter(|line| !line.trim().is_empty()) {
            prop_assert!(port.answer().error.is_some());
        }
        port.still_serves();
    }
}
