//! Real drives behind real sockets, and a machine that is a few lines.

use super::*;
use crate::control::Control;
use crate::fault::Requests;
use std::fs::{self, File};
use std::io::Read;
use std::time::{Duration, Instant};

const SIZE_BYTES: u64 = 1 << 20;
const BOUND: Duration = Duration::from_secs(10);
const FUA: u16 = 1;
const READ: u16 = 0;
const WRITE: u16 = 1;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;

struct Lab {
    dir: tempfile::TempDir,
    control: Control,
    drive: DriveSerial,
}

impl Lab {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let drive: DriveSerial = "NV1".parse().unwrap();
        let (file, socket) = (dir.path().join("file"), dir.path().join("sock"));
        File::create(&file).unwrap().set_len(SIZE_BYTES).unwrap();
        let config = Config { drives: vec![DriveConfig { drive: drive.clone(), file, socket, seed: 5 }] };
        let at = dir.path().to_owned();
        thread::spawn(move || run(&config, &at).unwrap());
        let deadline = Instant::now() + BOUND;
        let control = loop {
            match Control::connect(dir.path()) {
                Ok(control) => break control,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            thread::yield_now();
        };
        Self { dir, control, drive }
    }

    fn machine(&self) -> Machine {
        let mut stream = UnixStream::connect(self.dir.path().join("sock")).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        stream.read_exact(&mut [0; 18]).unwrap();
        let mut hello = 1u32.to_be_bytes().to_vec();
        // Structured replies, which are refused; then an export without a name.
        for (option, data) in [(8u32, &[][..]), (7, &[0; 6])] {
            hello.extend(b"IHAVEOPT");
            hello.extend(option.to_be_bytes());
            hello.extend((data.len() as u32).to_be_bytes());
            hello.extend(data);
        }
        stream.write_all(&hello).unwrap();
        let mut answers = [0; 20 + 20 + 12 + 20 + 14 + 20];
        stream.read_exact(&mut answers).unwrap();
        assert_eq!(answers[42..50], SIZE_BYTES.to_be_bytes());
        Machine { stream }
    }

    fn content(&self) -> Vec<u8> {
        fs::read(self.dir.path().join("file")).unwrap()
    }

    fn state(&mut self) -> DriveState {
        self.control.states().unwrap().remove(0)
    }

    fn until(&mut self, holds: impl Fn(&DriveState) -> bool) -> DriveState {
        let deadline = Instant::now() + BOUND;
        loop {
            let state = self.state();
            if holds(&state) {
                return state;
            }
            assert!(Instant::now() < deadline, "{state:?}");
        }
    }

    fn fault(&mut self, fault: Fault) {
        self.control.fault(&self.drive, fault).unwrap();
    }
}

struct Machine {
    stream: UnixStream,
}

impl Machine {
    fn ask(&mut self, kind: u16, flags: u16, offset: u64, len: u32, data: &[u8]) {
        let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend(offset.to_be_bytes()); // the cookie
        bytes.extend(offset.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes.extend_from_slice(data);
        self.stream.write_all(&bytes).unwrap();
    }

    /// The answer's error and cookie.
    fn answer(&mut self) -> (u32, u64) {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head).unwrap();
        let error = u32::from_be_bytes(head[4..8].try_into().unwrap());
        (error, u64::from_be_bytes(head[8..].try_into().unwrap()))
    }

    fn write(&mut self, flags: u16, offset: u64, byte: u8) -> u32 {
        self.ask(WRITE, flags, offset, 4096, &[byte; 4096]);
        self.answer().0
    }

    fn flush(&mut self) -> u32 {
        self.ask(FLUSH, 0, 0, 0, &[]);
        self.answer().0
    }

    fn read(&mut self, offset: u64) -> Result<Vec<u8>, u32> {
        self.ask(READ, 0, offset, 4096, &[]);
        match self.answer().0 {
            0 => {
                let mut bytes = vec![0; 4096];
                self.stream.read_exact(&mut bytes).unwrap();
                Ok(bytes)
            }
            error => Err(error),
        }
    }
}

#[test]
fn what_was_flushed_outlives_the_power_and_what_was_not_need_not() {
    let mut lab = Lab::start();
    let mut machine = lab.machine();
    for page in 0..100 {
        assert_eq!(machine.write(0, page * 4096, 1), 0);
    }
    assert_eq!(machine.flush(), 0);
    assert_eq!(machine.write(FUA, 100 * 4096, 2), 0);
    assert_eq!(lab.content()[..101 * 4096], [vec![1; 100 * 4096], vec![2; 4096]].concat(), "both are there");
    let (mut lost, mut is_kept) = (0, false);
    for round in 0..4 {
        for page in 0..50 {
            assert_eq!(machine.write(0, page * 4096, 3), 0);
        }
        assert_eq!(machine.read(0).unwrap(), [3; 4096], "what is read is the newest");
        drop(machine);
        let state = lab.until(|state| !state.has_power);
        assert_eq!((state.power_losses, state.unflushed_bytes), (round + 1, 0));
        lost += state.lost_sectors;
        let content = lab.content();
        assert!(content[..50 * 4096].chunks(512).all(|sector| sector == [1; 512] || sector == [3; 512]));
        is_kept |= content[..512] == [3; 512] || content[49 * 4096..50 * 4096 - 512].contains(&3);
        assert_eq!(content[50 * 4096..101 * 4096], [vec![1; 50 * 4096], vec![2; 4096]].concat());
        machine = lab.machine();
        assert_eq!(machine.read(0).unwrap(), content[..4096], "the machine finds what is there");
    }
    assert!(lost > 0 && is_kept, "some is lost and some is kept");
}

#[test]
fn zeros_make_holes_once_they_are_flushed() {
    let lab = Lab::start();
    let mut machine = lab.machine();
    assert_eq!(machine.write(FUA, 0, 1), 0);
    machine.ask(TRIM, 0, 0, 1 << 20, &[]);
    assert_eq!(machine.answer().0, 0);
    assert_eq!(lab.content()[..4096], [1; 4096]);
    assert_eq!((machine.read(0).unwrap(), machine.flush()), (vec![0; 4096], 0));
    let found = fs::metadata(lab.dir.path().join("file")).unwrap();
    assert_eq!((found.len(), std::os::unix::fs::MetadataExt::blocks(&found)), (SIZE_BYTES, 0));
}

#[test]
fn a_drive_errs_where_it_is_told_to_until_it_works_again() {
    let mut lab = Lab::start();
    let mut machine = lab.machine();
    assert_eq!(machine.write(0, 0, 1), 0);
    lab.fault(Fault::Errors { of: Requests::Writes, range: None });
    assert_eq!((machine.write(0, 0, 2), machine.flush()), (5, 5));
    assert_eq!(machine.read(0).unwrap(), [1; 4096]);
    let range = Some(crate::fault::Range { offset_bytes: 4096, len_bytes: 512 });
    lab.fault(Fault::Errors { of: Requests::Reads, range });
    assert_eq!(machine.read(4096), Err(5));
    assert_eq!((machine.read(0).unwrap(), machine.flush()), (vec![1; 4096], 0));
    lab.fault(Fault::None);
    assert_eq!(machine.read(4096).unwrap(), [0; 4096]);
    assert_eq!(lab.state().failed, 3);
    assert_eq!(machine.write(0, SIZE_BYTES, 1), 22, "there is no such place");
}

#[test]
fn what_waits_at_a_stuck_drive_is_done_when_it_is_released_or_sorted_out_when_the_power_goes() {
    let mut lab = Lab::start();
    let mut machine = lab.machine();
    lab.fault(Fault::Stuck);
    for page in 0..3 {
        machine.ask(WRITE, 0, page * 4096, 4096, &[7; 4096]);
    }
    lab.until(|state| state.waiting == 3);
    lab.fault(Fault::None);
    let answers: Vec<_> = (0..3).map(|_| machine.answer()).collect();
    assert_eq!(answers, [(0, 0), (0, 4096), (0, 8192)]);
    lab.fault(Fault::Stuck);
    machine.ask(WRITE, FUA, 0, 4096, &[8; 4096]);
    lab.until(|state| state.waiting == 1);
    drop(machine);
    let state = lab.until(|state| !state.has_power);
    assert_eq!((state.waiting, state.writes), (0, 3), "it was never answered");
    assert!(lab.content()[..4096].chunks(512).all(|sector| [0, 7, 8].contains(&sector[0])));
}

#[test]
fn a_slow_drive_takes_its_time_side_by_side() {
    let mut lab = Lab::start();
    let mut machine = lab.machine();
    lab.fault(Fault::Slow { delay_ms: 200 });
    let begun = Instant::now();
    for page in 0..8 {
        machine.ask(READ, 0, page * 4096, 512, &[]);
    }
    for _ in 0..8 {
        assert_eq!(machine.answer().0, 0);
        machine.stream.read_exact(&mut [0; 512]).unwrap();
    }
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(200) && took < Duration::from_millis(1600), "{took:?}");
}

#[test]
fn a_drive_that_is_pulled_forgets_while_its_machine_goes_on() {
    let mut lab = Lab::start();
    let mut machine = lab.machine();
    lab.fault(Fault::None);
    for page in 0..50 {
        assert_eq!(machine.write(0, page * 4096, 9), 0);
    }
    lab.fault(Fault::Pulled);
    lab.control.lose_power(&lab.drive.clone()).unwrap();
    let state = lab.state();
    assert!(state.has_power && state.power_losses == 1 && state.unflushed_bytes == 0, "{state:?}");
    let content = lab.content();
    assert_eq!(machine.read(0), Err(5));
    lab.fault(Fault::None);
    assert_eq!(machine.read(0).unwrap(), content[..4096]);
}

#[test]
fn an_order_for_a_drive_that_is_not_there_is_refused() {
    let mut lab = Lab::start();
    let error = lab.control.fault(&"NV2".parse().unwrap(), Fault::Stuck).unwrap_err().to_string();
    assert!(error.ends_with("there is no drive NV2"), "{error}");
    assert_eq!(lab.state().fault, Fault::None);
}

#[test]
fn who_speaks_something_else_is_hung_up_on_and_the_next_is_served() {
    let lab = Lab::start();
    let mut stranger = UnixStream::connect(lab.dir.path().join("sock")).unwrap();
    stranger.set_read_timeout(Some(BOUND)).unwrap();
    stranger.write_all(&[b'x'; 64]).unwrap();
    let mut said = Vec::new();
    stranger.read_to_end(&mut said).ok();
    assert_eq!(said.len(), 18);
    assert_eq!(lab.machine().read(0).unwrap(), [0; 4096]);
}
