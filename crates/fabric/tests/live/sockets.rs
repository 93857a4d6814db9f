//! A fabric in a thread, and machines that speak to it as QEMU does, over real unix sockets.
//!
//! Nothing here sleeps: every wait is for something to arrive, with a deadline.

use super::common::{BROADCAST, frame, link, mac, nic, port, switch, topology, vlan};
use fabric::{
    Control, ControlError, DropReason, Fabric, Flap, RunError, Shaping, SocketError, Stopper, Topology, Ways,
    socket_path,
};
use network::lldp;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(10);
const STORAGE: Option<u16> = Some(0x62c7);

struct Running {
    dir: tempfile::TempDir,
    stopper: Stopper,
    thread: Option<JoinHandle<Result<(), RunError>>>,
}

impl Running {
    fn start(topology: &Topology) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fabric = Fabric::bind(topology, dir.path()).unwrap();
        let stopper = fabric.stopper();
        Self { dir, stopper, thread: Some(std::thread::spawn(|| fabric.serve())) }
    }

    fn control(&self) -> Control {
        Control::connect(self.dir.path()).unwrap()
    }

    fn machine(&self, id: &str) -> Machine {
        Machine::connect(self.dir.path(), id)
    }

    fn stop(mut self) -> tempfile::TempDir {
        self.stopper.stop().unwrap();
        self.thread.take().unwrap().join().unwrap().unwrap();
        self.dir
    }
}

/// One NIC of a QEMU.
struct Machine(UnixStream);

impl Machine {
    fn connect(dir: &Path, id: &str) -> Self {
        let stream = UnixStream::connect(socket_path(dir, &nic(id)).unwrap()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Self(stream)
    }

    fn send(&mut self, frame: &[u8]) {
        let length = u32::try_from(frame.len()).unwrap();
        self.0.write_all(&[&length.to_be_bytes(), frame].concat()).unwrap();
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut frame).unwrap();
        frame
    }

    /// The next frame that is not LLDP.
    fn receive_data(&mut self) -> Vec<u8> {
        std::iter::repeat_with(|| self.receive()).find(|frame| lldp::decode(frame).is_err()).unwrap()
    }

    fn is_closed_by_fabric(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

/// Asks again until the answer is good.
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen in time");
        std::thread::yield_now();
    }
}

#[test]
fn two_machines_talk_and_their_frames_are_counted() {
    let fabric = Running::start(&topology());
    let (mut a, mut b) = (fabric.machine("a1.storage1"), fabric.machine("b1.storage1"));
    lldp::decode(&b.receive()).expect("the port speaks first: b's connection stands");
    let hello = frame(BROADCAST, mac(1), STORAGE, 8000);
    a.send(&hello);
    assert_eq!(b.receive_data(), hello);
    let answer = frame(mac(1), mac(2), STORAGE, 60);
    b.send(&answer);
    assert_eq!(a.receive_data(), answer);

    let snapshot = fabric.control().counters().unwrap();
    let room = snapshot.link(&link("room")).unwrap();
    assert_eq!((room.a_to_b.carried_frames(vlan(711)), room.b_to_a.carried_frames(vlan(711))), (1, 1));
    assert_eq!(room.a_to_b.carried[0].count.bytes, hello.len() as u64);
    let unconnected = snapshot.link(&link("a2.storage1")).unwrap();
    assert_eq!(unconnected.b_to_a.dropped_frames(DropReason::NoSocket), 1);
    fabric.stop();
}

#[test]
fn lldp_comes_at_once_and_again_within_the_interval() {
    let slow = Topology { lldp_interval_ms: 60_000, ..topology() };
    let fabric = Running::start(&slow);
    let mut machine = fabric.machine("a1.storage1");
    let first = lldp::decode(&machine.receive()).unwrap().lldpdu;
    assert_eq!(first.port_id.to_string(), "Ethernet1/1");
    assert_eq!(first, fabric::lldpdu(&slow.switches[0], &slow.switches[0].ports[0], 60_000));
    drop(machine);
    lldp::decode(&fabric.machine("a1.storage1").receive()).expect("again at once for a new connection");
    fabric.stop();

    let fabric = Running::start(&topology());
    let mut machine = fabric.machine("a1.storage1");
    machine.receive();
    machine.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap(); // 50 intervals: machines may be slow
    (0..3).for_each(|_| drop(lldp::decode(&machine.receive()).unwrap()));
    fabric.stop();
}

#[test]
fn a_one_way_cut_lets_the_other_way_pass() {
    let fabric = Running::start(&topology());
    let mut control = fabric.control();
    let (mut a, mut b) = (fabric.machine("a1.storage1"), fabric.machine("b1.storage1"));
    a.receive();
    b.receive();
    assert_eq!(control.cut_link(&link("room"), Ways::AToB).unwrap(), []);
    a.send(&frame(BROADCAST, mac(1), STORAGE, 60));
    until("the drop", || {
        let snapshot = control.counters().unwrap();
        (snapshot.link(&link("room")).unwrap().a_to_b.dropped_frames(DropReason::Cut) == 1).then_some(())
    });
    let back = frame(BROADCAST, mac(2), STORAGE, 60);
    b.send(&back);
    assert_eq!(a.receive_data(), back);

    control.restore_link(&link("room")).unwrap();
    let through = frame(BROADCAST, mac(1), STORAGE, 61);
    a.send(&through);
    assert_eq!(b.receive_data(), through, "and the one that was cut never comes");
    fabric.stop();
}

#[test]
fn a_shaped_cable_takes_its_time_and_a_flapping_one_comes_back() {
    let fabric = Running::start(&topology());
    let mut control = fabric.control();
    let (mut a, mut b) = (fabric.machine("a1.storage1"), fabric.machine("b1.storage1"));
    a.receive();
    b.receive();
    let slow = Shaping { latency_us: 30_000, ..Shaping::default() };
    control.shape_link(&link("room"), Ways::AToB, slow).unwrap();
    let started = Instant::now();
    let late = frame(BROADCAST, mac(1), STORAGE, 60);
    a.send(&late);
    assert_eq!(b.receive_data(), late);
    assert!(started.elapsed() >= Duration::from_millis(30));
    assert!(control.shape_link(&link("nowhere"), Ways::Both, slow).is_err());

    let flap = Flap { down_ms: 50, up_ms: 10, cycles: 1 };
    assert_eq!(control.flap_link(&link("b1.storage1"), flap).unwrap().len(), 1);
    until("the end of the flap", || control.carrier().unwrap()[&nic("b1.storage1")].then_some(()));
    assert!(started.elapsed() >= Duration::from_millis(80));
    fabric.stop();
}

#[test]
fn more_than_one_read_s_worth_is_read_to_its_end() {
    let slow = Topology { lldp_interval_ms: 60_000, ..topology() };
    let dir = tempfile::tempdir().unwrap();
    let fabric = Fabric::bind(&slow, dir.path()).unwrap();
    let stopper = fabric.stopper();
    let (mut sender, mut receiver) =
        (Machine::connect(dir.path(), "a1.storage1"), Machine::connect(dir.path(), "b1.storage1"));
    let jumbo = frame(BROADCAST, mac(1), STORAGE, 9000);
    // All of it waits in the socket before the fabric looks for the first time: no later event will tell of the rest.
    sender.0.set_nonblocking(true).unwrap();
    let count = 16;
    (0..count).for_each(|_| sender.send(&jumbo));
    let thread = std::thread::spawn(|| fabric.serve());
    (0..count).for_each(|_| assert_eq!(receiver.receive_data(), jumbo));
    stopper.stop().unwrap();
    thread.join().unwrap().unwrap();
}

#[test]
fn carrier_changes_are_told_and_refusals_explained() {
    let fabric = Running::start(&topology());
    let mut control = fabric.control();
    assert!(control.carrier().unwrap()[&nic("b1.mgmt")]);
    assert!(!control.carrier().unwrap()[&nic("spare")], "no cable");
    let changed = control.switch_down(&switch("tor-b")).unwrap();
    assert_eq!(changed.iter().map(|c| c.nic.as_str()).collect::<Vec<_>>(), ["b1.storage1", "b1.mgmt"]);
    assert!(!control.carrier().unwrap()[&nic("b1.mgmt")]);
    assert_eq!(control.switch_up(&switch("tor-b")).unwrap().len(), 2);
    let down = control.recable(&nic("a1.mgmt"), &port("tor-b", "Ethernet1/4")).unwrap();
    assert_eq!(down, [], "tor-b runs: the link comes up again at once");
    control.restore_cabling().unwrap();
    control.cut_link(&link("a1.mgmt"), Ways::Both).unwrap();
    assert_eq!(control.heal().unwrap().len(), 1);
    match control.cut_link(&link("nowhere"), Ways::Both) {
        Err(ControlError::Refused { message, .. }) => assert_eq!(message, "there is no link `nowhere`"),
        other => panic!("{other:?}"),
    }
    fabric.stop();
}

#[test]
fn a_nic_has_one_connection_and_can_come_back() {
    let fabric = Running::start(&topology());
    let mut control = fabric.control();
    let mut state = move |id: &str| {
        let nics = control.nics().unwrap();
        nics.into_iter().find(|state| state.nic == nic(id)).unwrap()
    };
    let mut first = fabric.machine("a1.storage1");
    first.receive();
    assert!(fabric.machine("a1.storage1").is_closed_by_fabric(), "one at a time");
    assert_eq!((state("a1.storage1").connected, state("a1.storage1").refused_connections), (true, 1));
    drop(first);
    let mut second = fabric.machine("a1.storage1");
    lldp::decode(&second.receive()).expect("the link came up");
    second.0.write_all(&[0xff; 8]).unwrap();
    assert!(second.is_closed_by_fabric(), "not QEMU's framing");
    until("the error count", || (state("a1.storage1").protocol_errors == 1).then_some(()));
    assert!(!state("a1.storage1").connected);
    fabric.machine("a1.storage1").receive();
    fabric.stop();
}

#[test]
fn a_slow_reader_loses_frames_and_delays_nobody() {
    let fabric = Running::start(&topology());
    let mut control = fabric.control();
    let mut sender = fabric.machine("a1.storage1");
    let (mut slow, mut quick) = (fabric.machine("a2.storage1"), fabric.machine("b1.storage1"));
    slow.receive();
    quick.receive();
    let big = frame(BROADCAST, mac(1), STORAGE, 9000);
    let count = 1500; // 13 MB: far beyond what a socket and an outbox hold
    for _ in 0..count {
        sender.send(&big);
        assert_eq!(quick.receive_data().len(), big.len());
    }
    let snapshot = control.counters().unwrap();
    let to_slow = &snapshot.link(&link("a2.storage1")).unwrap().b_to_a;
    let lost = to_slow.dropped_frames(DropReason::Backpressure);
    assert!(lost > 0 && to_slow.carried_frames(vlan(711)) == count - lost, "{to_slow:?}");
    for _ in 0..count - lost {
        assert_eq!(slow.receive_data().len(), big.len(), "what was taken comes whole");
    }
    fabric.stop();
}

#[test]
fn a_capture_can_be_read() {
    let fabric = Running::start(&topology());
    let mut control = fabric.control();
    let path = fabric.dir.path().join("room.pcap");
    let (mut a, mut b) = (fabric.machine("a1.storage1"), fabric.machine("b1.storage1"));
    a.receive();
    b.receive();
    let relative = control.start_capture(&link("room"), Path::new("x.pcap"), 1000);
    assert!(matches!(relative, Err(ControlError::Refused { .. })));
    control.start_capture(&link("room"), &path, 1_000_000).unwrap();
    assert!(control.start_capture(&link("room"), &path, 1_000_000).is_err(), "runs already");
    let (there, back) = (frame(BROADCAST, mac(1), STORAGE, 60), frame(mac(1), mac(2), STORAGE, 70));
    a.send(&there);
    b.receive_data();
    b.send(&back);
    a.receive_data();
    let report = control.stop_capture(&link("room")).unwrap();
    let file = std::fs::read(&path).unwrap();
    assert_eq!(file.len() as u64, report.file_bytes);
    let frames: Vec<Vec<u8>> = pcap_frames(&file);
    assert_eq!(frames.len() as u64, report.frames);
    let data: Vec<_> = frames.into_iter().filter(|frame| lldp::decode(frame).is_err()).collect();
    assert_eq!(data, [there, back], "both directions, with their tags");
    assert!(control.stop_capture(&link("room")).is_err());
    fabric.stop();
}

/// The frames of a big-endian, nanosecond capture.
fn pcap_frames(file: &[u8]) -> Vec<Vec<u8>> {
    let word = |at: usize| u32::from_be_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!((word(0), word(20)), (0xa1b2_3c4d, 1), "magic and link type");
    let mut frames = Vec::new();
    let mut at = 24;
    while at < file.len() {
        assert!(word(at) > 1_600_000_000, "seconds since 1970");
        let length = word(at + 8);
        frames.push(file[at + 16..at + 16 + length].to_vec());
        at += 16 + length;
    }
    frames
}

#[test]
fn a_client_may_write_nonsense_and_others_go_on() {
    let fabric = Running::start(&topology());
    let mut raw = UnixStream::connect(fabric.dir.path().join("fabric.ctl")).unwrap();
    raw.set_read_timeout(Some(DEADLINE)).unwrap();
    raw.write_all(b"nonsense\n{\"op\":\"nics\"}\n{\"op\":\"cut-link\"}\n").unwrap();
    let mut answers = String::new();
    while answers.lines().count() < 3 || !answers.ends_with('\n') {
        let mut chunk = [0; 4096];
        let bytes = raw.read(&mut chunk).unwrap();
        answers.push_str(std::str::from_utf8(&chunk[..bytes]).unwrap());
    }
    let kinds: Vec<_> = answers.lines().map(|line| line.starts_with("{\"ok\"")).collect();
    assert_eq!(kinds, [false, true, false], "{answers}");
    let _ = raw.write_all(&vec![b'x'; 100_000]); // may fail: the fabric closes at 64 KiB
    let mut rest = Vec::new();
    assert!(raw.read_to_end(&mut rest).is_ok() || rest.is_empty());
    fabric.control().counters().unwrap();
    fabric.stop();
}

#[test]
fn it_takes_its_sockets_along_and_refuses_to_share_them() {
    let fabric = Running::start(&topology());
    match Fabric::bind(&topology(), fabric.dir.path()) {
        Err(RunError::Socket(SocketError::InUse { path })) => {
            assert_eq!(path, fabric.dir.path().join("a1.storage1.sock"));
        }
        other => panic!("{other:?}"),
    }
    let mut control = fabric.control();
    let dir = fabric.stop();
    let left: Vec<PathBuf> = dir.path().read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(matches!(control.nics(), Err(ControlError::Exchange { .. })));
    assert!(matches!(control.nics(), Err(ControlError::Connect { .. })));
    let again = Fabric::bind(&topology(), dir.path()).unwrap();
    let stopper = again.stopper();
    let thread = std::thread::spawn(|| again.serve());
    control.nics().expect("the client finds the new one by itself");
    stopper.stop().unwrap();
    thread.join().unwrap().unwrap();
}
