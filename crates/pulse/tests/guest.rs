//! The guest in a machine of QEMU's, without KVM: boots, beats, writes; is killed, and goes on.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use pulse::format::{BLOCK_BYTES, Beat, DATA_OFFSET, Params, Said, Stop};
use pulse::history::History;
use pulse::{image, records};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};
use workload::judge::{Durable, Promises, Verdict, judge};

const PARAMS: Params = Params {
    vm: 3,
    blocks_max: 200,
    warm_blocks: 20,
    beat_ms: 20,
    flush_every: 16,
    writes_per_beat: 2,
    in_flight: 8,
    warm_percent: 50,
    seed: 1,
};
/// A boot takes a second or two on an idle host.
const BOUND: Duration = Duration::from_mins(1);

/// A machine that runs. Dropping it is pulling its plug.
struct Machine {
    qemu: Child,
    console: Receiver<Vec<u8>>,
    frames: Receiver<Beat>,
    said: Vec<u8>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.qemu.kill().unwrap();
        self.qemu.wait().unwrap();
    }
}

fn pieces(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            if sender.send(buffer[..read].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// The beats that come out of a NIC: QEMU connects, and says the length of each frame in four bytes.
fn beats(listener: UnixListener) -> Receiver<Beat> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut length = [0; 4];
        while stream.read_exact(&mut length).is_ok() {
            let mut frame = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut frame).unwrap();
            if let Some(beat) = Beat::of_frame(&frame)
                && sender.send(beat).is_err()
            {
                break;
            }
        }
    });
    receiver
}

fn start(machine: &str, disk: &Path, folder: &Path) -> Machine {
    let socket = folder.join("nic");
    match fs::remove_file(&socket) {
        Err(error) if error.kind() != ErrorKind::NotFound => panic!("{error}"),
        _ => {}
    }
    let frames = beats(UnixListener::bind(&socket).unwrap());
    let mut qemu = Command::new("/usr/bin/qemu-system-x86_64");
    qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-m", "32"]);
    qemu.args(["-machine", machine, "-accel", "tcg", "-cpu", "max", "-serial", "stdio"]);
    let disk = disk.display();
    qemu.args(["-blockdev", &format!("driver=raw,node-name=d,file.driver=file,file.filename={disk}")]);
    qemu.args(["-device", "virtio-blk-pci,drive=d"]);
    let socket = socket.display();
    qemu.args(["-netdev", &format!("stream,id=n,server=off,addr.type=unix,addr.path={socket}")]);
    qemu.args(["-device", "virtio-net-pci,netdev=n,romfile="]);
    let monitor = folder.join("monitor");
    qemu.args(["-monitor", &format!("unix:{},server=on,wait=off", monitor.display())]);
    let mut qemu = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let console = pieces(qemu.stdout.take().unwrap());
    Machine { qemu, console, frames, said: Vec::new() }
}

impl Machine {
    /// Until so many writes were acknowledged since it was started; what it said.
    fn until_acknowledged(&mut self, writes: usize) -> Vec<Said> {
        let deadline = Instant::now() + BOUND;
        loop {
            let (_, said) = records(&self.said, PARAMS.vm);
            if said.iter().filter(|said| matches!(said, Said::Acknowledged { .. })).count() >= writes {
                return said;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let text = String::from_utf8_lossy(&self.said).into_owned();
            self.said
                .extend(self.console.recv_timeout(left).unwrap_or_else(|_| panic!("it said only: {text}")));
        }
    }
}

fn verdict(console: &[u8], disk: &Path) -> Verdict {
    let (records, _) = records(console, PARAMS.vm);
    let promises = Promises::of(&records, Durable::WhenAcknowledged);
    let file = File::open(disk).unwrap();
    judge(&promises, |block| {
        let mut found = [0; BLOCK_BYTES];
        file.read_exact_at(&mut found, DATA_OFFSET + u64::from(block) * BLOCK_BYTES as u64).map(|()| found)
    })
    .unwrap()
}

fn disk(folder: &Path) -> PathBuf {
    let path = folder.join("disk");
    let file = File::create_new(&path).unwrap();
    file.write_all_at(&image(&PARAMS).unwrap(), 0).unwrap();
    file.set_len(4 << 20).unwrap();
    path
}

fn outlives_its_machine(machine: &str) {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path());
    let (mut console, mut history) = (Vec::new(), History::default());
    for run in 1..=3 {
        let mut guest = start(machine, &disk, folder.path());
        let said = guest.until_acknowledged(60);
        let Said::Started { run: own, blocks: 200, .. } = said[0] else { panic!("{:?}", said[0]) };
        assert_eq!(own, run);
        let beats = said.iter().filter(|said| matches!(said, Said::Beat { .. })).count();
        assert!(said.iter().any(|said| matches!(said, Said::Flushed { .. })));
        console.extend_from_slice(&guest.said);
        let seen: Vec<Beat> = guest.frames.try_iter().collect();
        assert!(seen.len() >= beats / 2, "{} frames of {beats} beats", seen.len());
        assert!(seen.last().unwrap().acknowledged > 0);
        for beat in seen {
            history.saw(Duration::ZERO, beat).unwrap();
        }
    }
    let good = verdict(&console, &disk);
    assert!(good.is_good() && good.promised > 30, "{good:?}");

    let promised = Promises::of(&records(&console, PARAMS.vm).0, Durable::WhenAcknowledged);
    let block = *promised.versions.keys().next().unwrap();
    let file = File::options().write(true).open(&disk).unwrap();
    file.write_all_at(&[0; 512], DATA_OFFSET + u64::from(block) * BLOCK_BYTES as u64).unwrap();
    let bad = verdict(&console, &disk);
    assert_eq!((bad.wrong, bad.findings[0].block), (1, block));
}

#[test]
fn no_acknowledged_write_is_lost_when_it_is_killed_and_each_start_has_a_higher_run() {
    outlives_its_machine("q35");
}

#[test]
fn it_boots_on_an_older_machine_too() {
    outlives_its_machine("pc");
}

/// Its last words come when all that it began is answered, and then its machine ends.
fn ends_by_its_power_button(machine: &str) {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path());
    let mut guest = start(machine, &disk, folder.path());
    guest.until_acknowledged(20);
    let mut monitor = UnixStream::connect(folder.path().join("monitor")).unwrap();
    monitor.write_all(b"system_powerdown\n").unwrap();
    let deadline = Instant::now() + BOUND;
    loop {
        match guest.console.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(piece) => guest.said.extend(piece),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("{}", String::from_utf8_lossy(&guest.said)),
        }
    }
    assert!(guest.qemu.wait().unwrap().success());
    let (_, said) = records(&guest.said, PARAMS.vm);
    assert_eq!(said.last(), Some(&Said::Stopped { vm: PARAMS.vm, why: Stop::PowerButton }));
    let mut answered: Vec<u64> = said
        .iter()
        .filter_map(|said| match said {
            Said::Acknowledged { sequence, .. } => Some(*sequence),
            _ => None,
        })
        .collect();
    answered.sort_unstable();
    let all: Vec<u64> = (1..=answered.len() as u64).collect();
    assert_eq!(answered, all, "what it began was answered");
}

#[test]
fn its_power_button_ends_it_with_nothing_in_flight() {
    ends_by_its_power_button("q35");
    ends_by_its_power_button("pc");
}

#[test]
fn a_guest_that_does_not_know_what_ran_before_says_so_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path());
    let file = File::options().write(true).open(&disk).unwrap();
    file.write_all_at(&[7], 2 * 512 + 8).unwrap();
    let before = fs::read(&disk).unwrap();
    let mut guest = start("q35", &disk, folder.path());
    let deadline = Instant::now() + BOUND;
    while !guest.said.ends_with(b"\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        guest.said.extend(guest.console.recv_timeout(left).unwrap());
    }
    let (_, said) = records(&guest.said, PARAMS.vm);
    assert_eq!(said, [Said::Stopped { vm: PARAMS.vm, why: Stop::Run }]);
    drop(guest);
    assert_eq!(fs::read(&disk).unwrap(), before);
}
