//! Virtual machines on this host, without KVM: the guest is pulse, its disk is judged at the end.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod saves;

use model::{Generation, VmId};
use pulse::format::{BLOCK_BYTES, DATA_OFFSET, Params, Said};
use pulse::{image, records};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use vm::console;
use vm::instance::{Instance, InstanceError, Limits, Phase, Sending, Switchover};
use vm::machine::{Accel, Disk, Machine, Places, Role};
use vm::process::{self, Gone, ProcessError};
use workload::judge::{Durable, Promises, judge};

const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const VM: u32 = 9;
const BOUND: Duration = Duration::from_mins(1);
const KILL: Duration = Duration::from_secs(10);
const LIMITS: Limits = Limits { bandwidth: 1 << 30, downtime: Duration::from_millis(300) };
/// Tells the test of that name which folder to start a machine in, as an agent that is killed then.
const AGENT: &str = "TWINRACK_TEST_AGENT";

/// A disk, and nodes that all reach it.
struct Rack {
    folder: tempfile::TempDir,
    disks: tempfile::TempDir,
}

impl Rack {
    fn new() -> Self {
        // Sockets' paths are short; what is opened past the page cache is not on a tmpfs.
        let rack = Self {
            folder: tempfile::tempdir().unwrap(),
            disks: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
        };
        let params = Params {
            vm: VM,
            blocks_max: 300,
            warm_blocks: 30,
            beat_ms: 20,
            flush_every: 16,
            writes_per_beat: 2,
            in_flight: 8,
            warm_percent: 50,
            seed: 1,
        };
        let file = File::create_new(rack.disk()).unwrap();
        file.write_all_at(&image(&params).unwrap(), 0).unwrap();
        file.set_len(4 << 20).unwrap();
        rack
    }

    fn disk(&self) -> PathBuf {
        self.disks.path().join("disk")
    }

    fn places(&self, node: &str) -> Places {
        Places::new(&self.folder.path().join(node), VmId(VM))
    }

    async fn start(&self, node: &str, generation: u32, role: Role) -> Result<Instance, InstanceError> {
        let machine = machine(&self.disk(), generation);
        Instance::start(Path::new(QEMU), &machine, &self.places(node), Accel::Tcg, role).await
    }

    async fn find(&self, node: &str) -> Instance {
        Instance::find(&self.places(node)).await.unwrap().unwrap()
    }

    fn said(&self, node: &str) -> Vec<Said> {
        records(&console::read(&self.places(node), 0, usize::MAX).unwrap().bytes, VM).1
    }

    fn acknowledged(&self, node: &str) -> usize {
        self.said(node).iter().filter(|said| matches!(said, Said::Acknowledged { .. })).count()
    }

    /// Waits until so many writes were acknowledged there.
    async fn writes(&self, node: &str, writes: usize) {
        let deadline = Instant::now() + BOUND;
        while self.acknowledged(node) < writes {
            assert!(Instant::now() < deadline, "{:?}", self.said(node).last());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Every write that was acknowledged on these nodes is on the disk.
    fn judge(&self, nodes: &[&str]) {
        let all =
            nodes.iter().flat_map(|node| console::read(&self.places(node), 0, usize::MAX).unwrap().bytes);
        let (records, _) = records(&all.collect::<Vec<u8>>(), VM);
        let promises = Promises::of(&records, Durable::WhenAcknowledged);
        let file = File::open(self.disk()).unwrap();
        let verdict = judge(&promises, |block| {
            let mut found = [0; BLOCK_BYTES];
            let at = DATA_OFFSET + u64::from(block) * BLOCK_BYTES as u64;
            file.read_exact_at(&mut found, at).map(|()| found)
        });
        let verdict = verdict.unwrap();
        assert!(verdict.is_good(), "{verdict:?}");
    }
}

impl Drop for Rack {
    fn drop(&mut self) {
        for node in fs::read_dir(self.folder.path()).unwrap().flatten() {
            if let Ok(Some(process)) = process::find(&Places::new(&node.path(), VmId(VM))) {
                process.kill(KILL).unwrap();
            }
        }
    }
}

fn machine(disk: &Path, generation: u32) -> Machine {
    Machine {
        vm: VmId(VM),
        generation: Generation(generation),
        name: "pulse".parse().unwrap(),
        memory_bytes: 32 << 20,
        cores: 1,
        disks: vec![Disk { path: disk.to_owned(), serial: "volume-1".into() }],
        nics: Vec::new(),
    }
}

#[tokio::test]
async fn it_runs_when_it_is_told_to_is_found_again_never_twice_and_is_seen_gone() {
    let rack = Rack::new();
    let mut first = rack.start("a", 1, Role::Run).await.unwrap();
    assert_eq!(first.phase().await.unwrap(), Phase::New);
    assert!(rack.said("a").is_empty());
    first.resume().await.unwrap();
    first.resume().await.unwrap();
    rack.writes("a", 20).await;
    let again = rack.start("a", 2, Role::Run).await;
    assert!(matches!(again, Err(InstanceError::Process(ProcessError::There))));

    drop(first);
    let mut found = rack.find("a").await;
    assert_eq!(found.process().record.generation(), Generation(1));
    assert_eq!(found.phase().await.unwrap(), Phase::Running);
    assert!(!process::is_gone(&rack.places("a")).unwrap());
    assert_eq!(found.kill(KILL).await.unwrap(), Gone::Yes);
    assert_eq!(found.kill(KILL).await.unwrap(), Gone::Yes);
    assert!(process::is_gone(&rack.places("a")).unwrap());
    assert!(matches!(found.phase().await, Err(InstanceError::Ended { .. })));
    assert!(Instance::find(&rack.places("a")).await.unwrap().is_none());

    let mut second = rack.start("a", 2, Role::Run).await.unwrap();
    second.resume().await.unwrap();
    let before = rack.acknowledged("a");
    rack.writes("a", before + 20).await;
    second.kill(KILL).await.unwrap();
    let runs = rack.said("a").into_iter().filter_map(|said| match said {
        Said::Started { run, .. } => Some(run),
        _ => None,
    });
    assert_eq!(runs.collect::<Vec<_>>(), [1, 2]);
    rack.judge(&["a"]);
}

/// The agent of the next test: it starts a machine and is killed at once.
#[tokio::test]
async fn as_an_agent_that_is_killed() {
    let Ok(arguments) = std::env::var(AGENT) else { return };
    let (folder, disk) = arguments.split_once('|').unwrap();
    let places = Places::new(Path::new(folder), VmId(VM));
    let machine = machine(Path::new(disk), 5);
    process::start(Path::new(QEMU), &machine, &places, Accel::Tcg, Role::Run).unwrap();
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn what_an_agent_that_was_killed_has_started_is_found_and_goes_on() {
    let rack = Rack::new();
    let arguments = format!("{}|{}", rack.folder.path().join("a").display(), rack.disk().display());
    let mut agent = Command::new(std::env::current_exe().unwrap());
    agent.args(["--exact", "as_an_agent_that_is_killed"]).env(AGENT, arguments);
    assert!(!agent.output().unwrap().status.success());
    let again = rack.start("a", 6, Role::Run).await;
    assert!(matches!(again, Err(InstanceError::Process(ProcessError::There))));
    let mut found = rack.find("a").await;
    assert_eq!(found.process().record.generation(), Generation(5));
    assert_eq!(found.phase().await.unwrap(), Phase::New);
    found.resume().await.unwrap();
    rack.writes("a", 10).await;
    assert_eq!(found.kill(KILL).await.unwrap(), Gone::Yes);
    rack.judge(&["a"]);
}

#[tokio::test]
async fn a_qemu_that_does_not_start_says_why() {
    let rack = Rack::new();
    fs::remove_file(rack.disk()).unwrap();
    let error = rack.start("a", 1, Role::Run).await.unwrap_err();
    assert!(matches!(&error, InstanceError::Ended { said } if said.contains("No such file")), "{error}");
    assert!(Instance::find(&rack.places("a")).await.unwrap().is_none());
}

#[tokio::test]
async fn what_ends_by_itself_is_told_from_what_is_killed() {
    let rack = Rack::new();
    let mut instance = rack.start("a", 1, Role::Run).await.unwrap();
    instance.resume().await.unwrap();
    rack.writes("a", 5).await;
    instance.pause().await.unwrap();
    assert!(!instance.shut_down(BOUND).await.unwrap(), "it stands still: it does not hear its power button");
    assert_eq!(instance.phase().await.unwrap(), Phase::Still);
    instance.resume().await.unwrap();
    assert!(instance.shut_down(BOUND).await.unwrap());
    assert_eq!(instance.phase().await.unwrap(), Phase::Off);
    assert_eq!(instance.kill(KILL).await.unwrap(), Gone::Yes);
}

/// Beats and acknowledgements of one run, none twice.
fn in_order(said: &[Said]) {
    let beats = said.iter().filter_map(|said| match said {
        Said::Beat { beat, .. } => Some(*beat),
        _ => None,
    });
    let beats: Vec<u64> = beats.collect();
    assert!(beats.is_sorted_by(|one, next| one < next), "{beats:?}");
}

/// One that runs on `a`, and one on `b` that listens.
async fn two(rack: &Rack) -> (Instance, Instance) {
    let mut from = rack.start("a", 1, Role::Run).await.unwrap();
    from.resume().await.unwrap();
    rack.writes("a", 20).await;
    let mut to = rack.start("b", 2, Role::Incoming).await.unwrap();
    to.listen().await.unwrap();
    to.listen().await.unwrap();
    assert_eq!(to.phase().await.unwrap(), Phase::Waiting);
    assert!(matches!(to.resume().await, Err(InstanceError::Phase { .. })));
    (from, to)
}

/// It runs there, and the other side does not.
async fn only(rack: &Rack, runs: &str, other: Option<&mut Instance>) {
    let silent = if runs == "a" { "b" } else { "a" };
    let (before, quiet) = (rack.acknowledged(runs), rack.said(silent).len());
    rack.writes(runs, before + 10).await;
    assert_eq!(rack.said(silent).len(), quiet);
    if let Some(other) = other {
        assert_ne!(other.phase().await.unwrap(), Phase::Running);
    }
}

#[tokio::test]
async fn it_moves_and_goes_on_where_it_was_told_to() {
    let rack = Rack::new();
    let (mut from, mut to) = two(&rack).await;
    let socket = rack.places("b").incoming();
    from.send(&socket, Switchover::Held, LIMITS).await.unwrap();
    assert_eq!(from.sent(BOUND).await.unwrap(), Sending::Held);
    assert_ne!(from.phase().await.unwrap(), Phase::Running);
    from.go_on().await.unwrap();
    assert_eq!(from.sent(BOUND).await.unwrap(), Sending::Done);
    to.received(BOUND).await.unwrap();
    // Both are complete, and neither runs, whoever asks.
    drop((from, to));
    let (mut from, mut to) = (rack.find("a").await, rack.find("b").await);
    assert_eq!((from.phase().await.unwrap(), to.phase().await.unwrap()), (Phase::Sent, Phase::Still));
    to.resume().await.unwrap();
    only(&rack, "b", Some(&mut from)).await;
    from.kill(KILL).await.unwrap();
    to.kill(KILL).await.unwrap();
    in_order(&[rack.said("a"), rack.said("b")].concat());
    rack.judge(&["a", "b"]);
}

#[tokio::test]
async fn given_up_at_any_stage_it_runs_on_one_side() {
    let slow = Limits { bandwidth: 1 << 14, ..LIMITS };
    for stage in ["listening", "copying", "held", "done"] {
        let rack = Rack::new();
        let (mut from, to) = two(&rack).await;
        let socket = rack.places("b").incoming();
        match stage {
            "listening" => {}
            "copying" => {
                from.send(&socket, Switchover::AtOnce, slow).await.unwrap();
                assert!(matches!(from.sending().await.unwrap(), Sending::Copying(_)));
            }
            _ => {
                from.send(&socket, Switchover::Held, LIMITS).await.unwrap();
                assert_eq!(from.sent(BOUND).await.unwrap(), Sending::Held);
            }
        }
        if stage == "done" {
            from.go_on().await.unwrap();
            assert_eq!(from.sent(BOUND).await.unwrap(), Sending::Done);
            assert_eq!(from.cancel().await.unwrap(), Sending::Done);
            assert_eq!(from.phase().await.unwrap(), Phase::Sent);
            to.kill(KILL).await.unwrap();
            from.resume().await.unwrap();
        } else if stage == "listening" {
            assert_eq!(from.cancel().await.unwrap(), Sending::Not);
        } else {
            assert!(matches!(from.cancel().await.unwrap(), Sending::Failed(_)), "{stage}");
        }
        only(&rack, "a", None).await;
        assert_eq!(to.kill(KILL).await.unwrap(), Gone::Yes);
        from.kill(KILL).await.unwrap();
        rack.judge(&["a"]);
    }
}

#[tokio::test]
async fn when_the_side_that_receives_dies_the_other_runs_on() {
    for held in [false, true] {
        let rack = Rack::new();
        let (mut from, to) = two(&rack).await;
        let (switchover, bandwidth) =
            if held { (Switchover::Held, 1 << 30) } else { (Switchover::AtOnce, 1 << 14) };
        from.send(&rack.places("b").incoming(), switchover, Limits { bandwidth, ..LIMITS }).await.unwrap();
        if held {
            assert_eq!(from.sent(BOUND).await.unwrap(), Sending::Held);
        }
        to.kill(KILL).await.unwrap();
        if held {
            from.go_on().await.unwrap();
        }
        assert!(matches!(from.sent(BOUND).await.unwrap(), Sending::Failed(_)), "{held}");
        only(&rack, "a", None).await;
        from.kill(KILL).await.unwrap();
        rack.judge(&["a"]);
    }
}

#[tokio::test]
async fn when_the_side_that_sends_dies_the_other_never_runs() {
    let rack = Rack::new();
    let (mut from, mut to) = two(&rack).await;
    let slow = Limits { bandwidth: 1 << 14, ..LIMITS };
    from.send(&rack.places("b").incoming(), Switchover::AtOnce, slow).await.unwrap();
    from.kill(KILL).await.unwrap();
    // QEMU gives up when a sender goes away in the middle; before it has said a word, it waits on.
    let error = to.received(Duration::from_secs(2)).await.unwrap_err();
    let waits = matches!(error, InstanceError::Late { .. });
    assert!(waits || matches!(error, InstanceError::Ended { .. } | InstanceError::Qmp(_)), "{error}");
    assert!(to.resume().await.is_err());
    assert_eq!(to.kill(KILL).await.unwrap(), Gone::Yes);
    assert!(rack.said("b").is_empty());
    rack.judge(&["a"]);
}

/// A boot sector of a guest that goes through 112 pages, round after round: each has the number of the last round, or it says `X`, and gets that of this one. Every 64 rounds it says `.`.
const GOES_THROUGH_PAGES: [u8; 92] = [
    0xfa, // cli
    0x31, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x70, // a stack at 0x7000
    0x66, 0x31, 0xc9, // round 0
    0xbb, 0x00, 0x10, 0x8e, 0xc3, // from 0x10000 on,
    0x26, 0x66, 0xc7, 0x06, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // its number to each page
    0x81, 0xc3, 0x00, 0x01, 0x81, 0xfb, 0x00, 0x80, 0x72, 0xea, // up to 0x80000
    0xba, 0xf8, 0x03, // the serial port
    0x66, 0x89, 0xcd, 0x66, 0x41, // the next round
    0xbb, 0x00, 0x10, 0x8e, 0xc3, // from 0x10000 on,
    0x26, 0x66, 0x39, 0x2e, 0x00, 0x00, 0x74, 0x03, 0xb0, 0x58,
    0xee, // the number of the last one, or X
    0x26, 0x66, 0x89, 0x0e, 0x00, 0x00, // the number of this one
    0x81, 0xc3, 0x00, 0x01, 0x81, 0xfb, 0x00, 0x80, 0x72, 0xe3, // up to 0x80000
    0xbf, 0xd0, 0x07, 0x4f, 0x75, 0xfd, // some time for others
    0xf6, 0xc1, 0x3f, 0x75, 0xd0, // 64 rounds?
    0xb0, 0x2e, 0xee, 0xeb, 0xcb, // .
];

/// What it writes while it is sent is there: [`vm::machine`] says what would be missing.
#[tokio::test]
async fn a_guest_that_runs_while_it_is_sent_has_all_of_its_memory_there() {
    let rack = Rack::new();
    let mut sector = GOES_THROUGH_PAGES.to_vec();
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    File::options().write(true).open(rack.disk()).unwrap().write_all_at(&sector, 0).unwrap();
    let says = |node: &str| console::read(&rack.places(node), 0, usize::MAX).unwrap().bytes;
    let rounds = |node: &str| says(node).iter().rev().take_while(|said| **said == b'.').count();
    let deadline = Instant::now() + BOUND;
    let mut from = rack.start("a", 1, Role::Run).await.unwrap();
    from.resume().await.unwrap();
    let mut to = rack.start("b", 2, Role::Incoming).await.unwrap();
    to.listen().await.unwrap();
    while rounds("a") < 5 {
        assert!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&says("a")));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // So slowly that it writes to most pages after they were sent.
    let slow = Limits { bandwidth: 2 << 20, ..LIMITS };
    from.send(&rack.places("b").incoming(), Switchover::AtOnce, slow).await.unwrap();
    assert_eq!(from.sent(BOUND).await.unwrap(), Sending::Done);
    to.received(BOUND).await.unwrap();
    to.resume().await.unwrap();
    while says("b").is_empty() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    to.kill(KILL).await.unwrap();
    from.kill(KILL).await.unwrap();
    assert!(!says("b").contains(&b'X'), "pages that are not as they were left");
}
