//! Real labs, booted and broken: whole runs, every way in which a run can end early, and what is left afterwards.
//!
//! Each test has a folder for temporary files of its own; a process or file of a lab can then be told by that folder's path.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything in a lab may take to become true; a cold image build, with the ledger and volumes, is part of the first test.
const PATIENCE: Duration = Duration::from_mins(16);
/// How long a lab may take to be gone after its harness is.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// Something that can be seen of a run that goes on.
type Moment = fn(&Place) -> bool;

/// A place for one run.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("lab-test-").tempdir().unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        Self { dir }
    }

    fn tmp(&self) -> PathBuf {
        self.dir.path().join("tmp")
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// Writes a file and returns its path.
    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// The default lab file with one thing changed.
    fn lab_file(&self, from: &str, to: &str) -> PathBuf {
        let text = include_str!("../../hil/labs/qemu.toml");
        assert!(text.contains(from), "{from}");
        self.file("lab.toml", &text.replace(from, to))
    }

    fn hil(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.arg("hil").args(args).arg("--out").arg(self.out()).env("TMPDIR", self.tmp());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.hil(args).output().unwrap()
    }

    fn start(&self, args: &[&str]) -> Child {
        let log = |name| fs::File::create(self.dir.path().join(name)).unwrap();
        self.hil(args).stdout(log("stdout")).stderr(log("stderr")).spawn().unwrap()
    }

    /// The lab's processes: those that were started with a path in our folder.
    fn processes(&self) -> Vec<u32> {
        let ours = self.tmp().into_os_string().into_encoded_bytes();
        let mentions = |pid: u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.windows(ours.len()).any(|window| window == ours)
        };
        pids().filter(|pid| mentions(*pid)).collect()
    }

    /// The lab's process that was started with this word.
    fn process(&self, word: &str) -> u32 {
        let has = |pid: &u32| {
            String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default())
                .contains(word)
        };
        self.processes().into_iter().find(has).unwrap()
    }

    /// What the lab has left of itself.
    fn leftovers(&self) -> Vec<String> {
        let files =
            fs::read_dir(self.tmp()).unwrap().map(|entry| entry.unwrap().path().display().to_string());
        files.chain(self.processes().iter().map(|pid| format!("process {pid}"))).collect()
    }

    fn said(&self) -> String {
        ["stdout", "stderr"]
            .map(|name| fs::read_to_string(self.dir.path().join(name)).unwrap_or_default())
            .join("\n")
    }

    fn events(&self) -> String {
        fs::read_to_string(self.out().join("events.jsonl")).unwrap_or_default()
    }

    fn summary(&self) -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(self.out().join("summary.json")).unwrap()).unwrap()
    }

    /// Waits until a run has come so far; panics with what it has said if it ends before.
    fn reach(&self, run: &mut Child, what: &str, moment: impl Fn(&Self) -> bool) {
        let run = std::cell::RefCell::new(run);
        let ended = || run.borrow_mut().try_wait().unwrap().is_some();
        self.wait(what, PATIENCE, || moment(self) || ended());
        assert!(moment(self), "{what} did not come before the end: {}", self.said());
    }

    /// Waits until a condition holds; panics with what the run has said if it doesn't come.
    fn wait(&self, what: &str, patience: Duration, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + patience;
        while !condition() {
            assert!(
                Instant::now() < deadline,
                "{what} did not come; left: {:?}\n{}",
                self.leftovers(),
                self.said()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The command behind a shell script that ends in `exec "$@"`, itself behind these words.
fn behind(words: &[&str], script: &str, command: &Command) -> Command {
    let words = [words, &["sh", "-c", script, "sh"]].concat();
    let mut outer = Command::new(words[0]);
    outer.args(&words[1..]).arg(command.get_program()).args(command.get_args());
    outer.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    outer.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    outer
}

/// The command with a file system of its own, in memory and of this size, over the folder for temporary files.
fn with_room(place: &Place, size: &str, command: &Command) -> Command {
    let script = format!("mount -t tmpfs -o size={size} none {} && exec \"$@\"", place.tmp().display());
    behind(&["unshare", "--mount", "--user", "--map-root-user"], &script, command)
}

fn pids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn signal(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A run that fails: its exit code, and words that its one message must have. Nothing may be left.
fn fails(place: &Place, args: &[&str], code: i32, words: &[&str]) {
    let output = place.run(args);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
    assert_eq!(place.leftovers(), Vec::<String>::new());
}

#[test]
fn the_plain_run_is_good_and_leaves_nothing() {
    let place = Place::new();
    let output = place.run(&[]);
    assert!(output.status.success(), "{}", text(&output));
    let summary = place.summary();
    assert_eq!(summary["good"], true);
    assert_eq!(summary["schema"], "twinrack.hil.summary/1");
    assert_eq!(summary["suites"].as_array().unwrap().len(), 8);
    assert!(
        fs::read_to_string(place.out().join("junit.xml")).unwrap().contains("failures=\"0\" errors=\"0\"")
    );
    for line in place.events().lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
    assert_eq!(place.leftovers(), Vec::<String>::new());
}

#[test]
fn an_arm_file_is_deployed_with_the_overrides_that_its_messages_name_and_reported() {
    let place = Place::new();
    let template = place.file("cluster.json", ARM);
    let template = template.to_str().unwrap();
    let refused = place.run(&["--template", template]);
    let refusal = text(&refused);
    assert_eq!(refused.status.code(), Some(1), "{refusal}");
    let named: Vec<&str> =
        refusal.split("--override ").skip(1).filter_map(|rest| rest.split_whitespace().next()).collect();
    let named: Vec<&str> =
        named.iter().map(|id| id.trim_matches(|c: char| !c.is_ascii_alphanumeric())).collect();
    assert!(named.len() >= 2, "{refusal}");
    let mut args = vec!["--template", template, "--keep"];
    args.extend(["wiring", "tor-loss", "deploy"].iter().flat_map(|suite| ["--suite", suite]));
    args.extend(named.iter().flat_map(|rule| ["--override", rule]));
    // With files for what it says: a kept lab must not be waited for.
    let status = place.start(&args).wait().unwrap();
    let said = place.said();
    assert!(status.success(), "{said}");
    let summary = place.summary();
    assert_eq!(summary["shape"], "1+1");
    let tor_loss = &summary["suites"][1]["scenarios"][0];
    assert_eq!(tor_loss["verdict"], "not-applicable", "a converged intent has no second path");
    assert!(summary["notes"].to_string().contains("overridden"), "{summary}");
    let lab = kept(&said);
    looks_well_to_an_operator(&place, Path::new(lab));
    let ended = Command::new(env!("CARGO_BIN_EXE_xtask")).args(["hil", "end", lab]).status().unwrap();
    assert!(ended.success());
    assert_eq!(place.leftovers(), Vec::<String>::new());
}

/// What `twinrack` says of a cluster that was just deployed, and the page that it writes.
fn looks_well_to_an_operator(place: &Place, lab: &Path) {
    let (access, page) = (lab.join("access.json"), place.dir.path().join("cluster.html"));
    // Cargo puts the programs of a workspace side by side.
    let program = Path::new(env!("CARGO_BIN_EXE_xtask")).with_file_name("twinrack");
    let twinrack = |words: &[&str]| {
        let output =
            Command::new(&program).args(words).arg("--access").arg(&access).stdin(Stdio::null()).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{words:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let verified: serde_json::Value = serde_json::from_str(&twinrack(&["verify", "--json"])).unwrap();
    assert!(!verified["checks"].as_array().unwrap().is_empty(), "{verified}");
    twinrack(&["report", "--out", page.to_str().unwrap()]);
    let page = fs::read_to_string(page).unwrap();
    for name in ["East", "churn1", "West", "churn2", "dairy-witness"] {
        assert!(page.contains(name), "`{name}` is not on the page");
    }
}

/// The directory of a kept lab, from what a run said.
fn kept(said: &str) -> &str {
    said.split("cargo xtask hil end ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap()
}

fn deployment(place: &Place) -> bool {
    place.events().contains("\"phase\":\"deploy\"")
}

fn first_suite(place: &Place) -> bool {
    place.events().contains("scenario-started")
}

#[test]
fn a_killed_harness_leaves_nothing_whenever_it_dies() {
    // An abort is also the end of a panic in a panic; a panic that unwinds closes the keeper's pipe as these do.
    let moments: [(&str, Moment, &str); 5] = [
        ("the lab's directory", |place| fs::read_dir(place.tmp()).unwrap().next().is_some(), "-KILL"),
        ("the first QEMU", |place| place.processes().len() > 3, "-KILL"),
        ("a node that boots", |place| place.processes().len() > 3, "-ABRT"),
        ("the deployment", deployment, "-KILL"),
        ("the first suite", first_suite, "-KILL"),
    ];
    for (what, moment, end) in moments {
        let place = Place::new();
        let mut run = place.start(&["--shape", "1+1", "--suite", "wiring"]);
        place.reach(&mut run, what, moment);
        signal(run.id(), end);
        run.wait().unwrap();
        place.wait("the end of everything", GONE_WITHIN, || place.leftovers().is_empty());
    }
}

#[test]
fn ctrl_c_ends_the_lab_and_still_reports_whenever_it_comes() {
    let moments: [(&str, Moment); 3] = [
        ("a node that boots", |place| place.events().contains("\"phase\":\"boot\"")),
        ("the deployment", deployment),
        ("the first suite", first_suite),
    ];
    for (what, moment) in moments {
        let place = Place::new();
        let mut run = place.start(&["--shape", "1+1", "--suite", "wiring"]);
        place.reach(&mut run, what, moment);
        signal(run.id(), "-INT");
        let status: ExitStatus = run.wait().unwrap();
        let said = place.said();
        assert_eq!(status.code(), Some(130), "{what}: {said}");
        assert_eq!(place.leftovers(), Vec::<String>::new(), "{what}");
        assert_eq!(place.summary()["aborted"], "interrupted", "{what}");
        assert!(said.contains("replay: cargo xtask hil --shape 1+1 --suite wiring --seed"), "{what}: {said}");
    }
}

fn a_node_is_off(place: &Place) -> bool {
    place.events().contains("node b1 is off")
}

/// Its power is back: it boots.
fn it_is_started_again(place: &Place) -> bool {
    place.events().contains("\"event\":\"healed\"")
}

#[test]
fn a_node_that_is_off_or_starts_again_is_the_keepers_like_any_other() {
    let moments: [(&str, Moment, &str); 4] = [
        ("a node that is off", a_node_is_off, "-KILL"),
        ("a node that starts again", it_is_started_again, "-KILL"),
        ("a node that is off", a_node_is_off, "-INT"),
        ("a node that starts again", it_is_started_again, "-INT"),
    ];
    for (what, moment, end) in moments {
        let place = Place::new();
        let mut run = place.start(&["--shape", "1+1", "--suite", "node-loss"]);
        place.reach(&mut run, what, moment);
        signal(run.id(), end);
        let status = run.wait().unwrap();
        if end == "-INT" {
            assert_eq!(status.code(), Some(130), "{what}: {}", place.said());
            assert_eq!(place.leftovers(), Vec::<String>::new(), "{what}");
        }
        place.wait("the end of everything", GONE_WITHIN, || place.leftovers().is_empty());
    }
}

#[test]
fn a_node_that_dies_unasked_after_its_power_came_back_is_a_lab_failure() {
    let place = Place::new();
    let mut run = place.start(&["--shape", "1+1", "--suite", "node-loss"]);
    place.reach(&mut run, "a node that starts again", it_is_started_again);
    signal(place.process("guest=b1"), "-KILL");
    assert_eq!(run.wait().unwrap().code(), Some(69), "{}", place.said());
    let said = place.said();
    assert!(said.contains("the QEMU of node b1 was killed by signal 9"), "{said}");
    assert!(said.contains("=== the lab: power on ==="), "the console's end is of the new boot: {said}");
    assert_eq!(place.leftovers(), Vec::<String>::new());
}

#[test]
fn a_killed_keeper_takes_its_processes_along_and_the_next_run_its_files() {
    let place = Place::new();
    let mut run = place.start(&["--shape", "1+1", "--suite", "wiring"]);
    place.wait("a node that boots", PATIENCE, || place.events().contains("\"phase\":\"boot\""));
    signal(place.process("lab-keeper"), "-KILL");
    assert_eq!(run.wait().unwrap().code(), Some(69), "{}", place.said());
    place.wait("the end of the processes", GONE_WITHIN, || place.processes().is_empty());
    assert!(!place.leftovers().is_empty(), "nobody was left to remove the directory");
    let binary = place.lab_file("binary = \"qemu-system-x86_64\"", "binary = \"/bin/false\"");
    fails(
        &place,
        &["--shape", "1+1", "--lab", binary.to_str().unwrap()],
        69,
        &["QEMU of node", "ended with exit code 1"],
    );
}

#[test]
fn a_node_that_dies_unasked_is_a_lab_failure_and_no_finding() {
    let place = Place::new();
    let mut run = place.start(&["--shape", "1+1", "--suite", "room-link-loss"]);
    place.wait("a suite", PATIENCE, || place.events().contains("scenario-started"));
    signal(place.process("guest=b1"), "-KILL");
    assert_eq!(run.wait().unwrap().code(), Some(69), "{}", place.said());
    assert!(place.said().contains("the QEMU of node b1 was killed by signal 9"), "{}", place.said());
    assert_eq!(place.leftovers(), Vec::<String>::new());
}

#[test]
fn a_kept_lab_answers_until_it_is_ended() {
    let place = Place::new();
    // Standard error has another number as well: whatever of the caller's the lab kept would keep these pipes open.
    let harness = place.hil(&["--shape", "1+1", "--suite", "wiring", "--keep"]);
    let mut run = behind(&["env"], "exec 7>&2; exec \"$@\"", &harness).spawn().unwrap();
    let (mut stdout, mut stderr) = (run.stdout.take().unwrap(), run.stderr.take().unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut said = [String::new(), String::new()];
        stdout.read_to_string(&mut said[0]).unwrap();
        stderr.read_to_string(&mut said[1]).unwrap();
        tell.send(said.join("\n")).ok();
    });
    let status = run.wait().unwrap();
    let said = told.recv_timeout(GONE_WITHIN).expect("a kept lab holds the output of who started it");
    assert!(status.success(), "{said}");
    let port = said.split("https://a1:").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    assert!(std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port.parse().unwrap())).is_ok());
    let lab = kept(&said);
    assert!(Path::new(lab).join("client.key").is_file(), "{said}");
    let ended = Command::new(env!("CARGO_BIN_EXE_xtask")).args(["hil", "end", lab]).status().unwrap();
    assert!(ended.success());
    assert_eq!(place.leftovers(), Vec::<String>::new());
}

#[test]
fn a_lab_is_kept_also_when_what_was_examined_is_wrong_and_says_how_to_get_in() {
    let place = Place::new();
    let mut run = place.start(&["--shape", "1+1", "--suite", "wiring", "--keep"]);
    place.wait("the deployment", PATIENCE, || place.events().contains("\"phase\":\"deploy\""));
    // A node that stands still can't be deployed to, and no process of the lab has ended.
    let frozen = place.process("guest=b1");
    signal(frozen, "-STOP");
    assert_eq!(run.wait().unwrap().code(), Some(1), "{}", place.said());
    signal(frozen, "-CONT");
    let said = place.said();
    let lab = kept(&said);
    assert!(said.contains("replay: cargo xtask hil"), "{said}");
    let ended = Command::new(env!("CARGO_BIN_EXE_xtask")).args(["hil", "end", lab]).status().unwrap();
    assert!(ended.success());
    assert_eq!(place.leftovers(), Vec::<String>::new());
}

#[test]
fn a_report_is_of_one_run_and_keeps_what_was_seen_until_the_interruption() {
    let place = Place::new();
    fs::create_dir(place.out()).unwrap();
    fs::write(place.out().join("precious"), "").unwrap();
    fails(&place, &["--shape", "1+1"], 2, &["out", "holds files", "--out"]);
    fs::write(place.out().join("events.jsonl"), "").unwrap();
    fs::write(place.out().join("summary.json"), "{\"good\": true}").unwrap();
    let mut run = place.start(&["--shape", "1+1", "--suite", "wiring", "--keep"]);
    place.wait("a booting node", PATIENCE, || place.events().contains("\"phase\":\"boot\""));
    assert!(!place.out().join("summary.json").exists(), "an earlier run's result is still there");
    place.wait("a scenario's end", PATIENCE, || place.events().contains("scenario-ended"));
    signal(run.id(), "-INT");
    assert_eq!(run.wait().unwrap().code(), Some(130), "{}", place.said());
    let scenario = &place.summary()["suites"][0]["scenarios"][0];
    assert_eq!((&scenario["name"], &scenario["verdict"]), (&"hardware and cables".into(), &"passed".into()));
    assert!(place.out().join("precious").exists());
    assert_eq!(place.leftovers(), Vec::<String>::new(), "an interrupted run keeps no lab");
}

#[test]
fn a_template_that_can_not_be_read_is_named_with_its_place() {
    let place = Place::new();
    let whole = include_str!("../../hil/templates/2+2.toml");
    let cut = whole.find("management_ip = \"").unwrap() + "management_ip = \"10".len();
    let template = place.file("cut.toml", &whole[..cut]);
    fails(&place, &["--template", template.to_str().unwrap()], 2, &["cut.toml"]);
    assert!(!place.out().exists(), "bad input changes nothing");
    fails(&place, &["--template", "/nonexistent/t.toml"], 2, &["/nonexistent/t.toml"]);
}

#[test]
fn a_missing_image_and_an_unknown_suite_are_named() {
    let place = Place::new();
    fails(&place, &["--image", "/nonexistent/image"], 2, &["/nonexistent/image"]);
    fails(&place, &["--suite", "tor-los"], 2, &["tor-los", "tor-loss"]);
}

#[test]
fn a_qemu_that_dies_at_boot_is_a_lab_failure_with_its_last_words() {
    let place = Place::new();
    let lab = place.lab_file("first_port = 0", "first_port = 0\n").to_str().unwrap().to_owned();
    let text = fs::read_to_string(&lab).unwrap();
    fs::write(
        &lab,
        text.replace("kernel_arguments = \"\"", "kernel_arguments = \"rdinit=/nothing panic=-1\""),
    )
    .unwrap();
    fails(
        &place,
        &["--shape", "1+1", "--lab", &lab],
        69,
        &["QEMU of node", "ended with exit code", "Kernel panic"],
    );
}

#[test]
fn an_agent_that_never_answers_is_a_lab_failure_with_the_console() {
    let place = Place::new();
    let lab = place.lab_file("kernel_arguments = \"\"", "kernel_arguments = \"rdinit=/nothing panic=0\"");
    let text = fs::read_to_string(&lab).unwrap().replace("timeout_s = 60", "timeout_s = 12");
    fs::write(&lab, text).unwrap();
    let words =
        ["the agent of node", "gave no good answer (it had 12s)", "Kernel panic", "the last attempt: "];
    fails(&place, &["--shape", "1+1", "--lab", lab.to_str().unwrap()], 69, &words);
}

#[test]
fn a_port_in_use_is_named_with_its_node() {
    let place = Place::new();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let lab = place.lab_file("first_port = 0", &format!("first_port = {port}"));
    fails(
        &place,
        &["--shape", "1+1", "--lab", lab.to_str().unwrap()],
        69,
        &[&port.to_string(), "a1", "in use"],
    );
}

#[test]
fn a_full_disk_is_named_with_what_it_lacks() {
    let place = Place::new();
    let mut run = with_room(&place, "1m", &place.hil(&["--shape", "1+1"])).spawn().unwrap();
    let mut said = String::new();
    run.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(69), "{said}");
    assert!(said.contains("MiB free") && said.contains("TMPDIR"), "{said}");
}

#[test]
fn a_disk_that_fills_while_the_lab_runs_is_named() {
    let place = Place::new();
    let harness = place.hil(&["--shape", "1+1", "--suite", "wiring", "--keep"]);
    let log = |name| fs::File::create(place.dir.path().join(name)).unwrap();
    let mut command = with_room(&place, "80m", &harness);
    let mut run = command.stdout(log("stdout")).stderr(log("stderr")).spawn().unwrap();
    place.reach(&mut run, "the first suite", first_suite);
    // The folder as the harness sees it: proc(5), /proc/PID/root.
    let seen = place.tmp();
    let hog =
        Path::new(&format!("/proc/{}/root", run.id())).join(seen.strip_prefix("/").unwrap()).join("hog");
    let filled = fs::write(&hog, vec![0; 80 << 20]).unwrap_err();
    assert_eq!(filled.kind(), std::io::ErrorKind::StorageFull);
    let status = run.wait().unwrap();
    let said = place.said();
    assert_eq!(status.code(), Some(69), "{said}");
    assert!(
        said.contains("cannot write") && said.contains("No space left") && said.contains("make room"),
        "{said}"
    );
    assert_eq!(said.matches("error:").count(), 1, "{said}");
    place.wait("the end of the processes", GONE_WITHIN, || place.processes().is_empty());
}

/// An ARM deployment parameters file: one converged intent, and a node's address inside the infrastructure range.
const ARM: &str = include_str!("fixtures/converged.parameters.json");
