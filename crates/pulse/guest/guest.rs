//! The guest: what it does, on the machine's devices.
//!
//! Purpose, formats: see the crate. It runs in 64-bit mode on one processor, each address at itself, interrupts off but while it
//! halts; so nothing here is ever interrupted, and what came meanwhile is looked at when it wakes.
//!
//! Invariants: the run's number is on the disk and flushed before anything else is written or said. A line about a write goes out
//! after the device's answer. A block is in one write at a time.
//!
//! On failure: `stop`. A NIC that is missing or takes no frames costs the frames.

mod machine;
mod virtio;

use crate::choose::Chooser;
use crate::format::{
    BLOCK_BYTES, Beat, DATA_OFFSET, FRAME_BYTES, IN_FLIGHT_MAX, PARAMS_SECTOR, Params, RUN_SECTOR,
    SECTOR_BYTES, Said, Stop, decode_run, encode_run, fill_block,
};
use virtio::{Device, Memory, Piece, Queue};

/// Where the boot sector put the disk's beginning.
const LOADED: usize = 0x7c00;
/// virtio's old ids of what is a disk and what is a NIC.
const DISK: u16 = 0x1001;
const NIC: u16 = 0x1000;
/// The disk can flush.
const CAN_FLUSH: u32 = 1 << 9;
/// The NIC has an address.
const HAS_ADDRESS: u32 = 1 << 5;
/// What a request to a disk is.
const TO_WRITE: u32 = 1;
const TO_FLUSH: u32 = 4;
/// A disk's answer that has not come.
const NO_ANSWER: u8 = 0xff;
/// Writes, and one flush.
const SLOTS: usize = IN_FLIGHT_MAX as usize + 1;
/// The flush's slot.
const FLUSH: usize = SLOTS - 1;
/// The most descriptors that a request has.
const PIECES: u16 = 3;
/// How many frames may be with the NIC.
const FRAMES: usize = 4;
/// What the NIC wants in front of a frame: nothing that this guest has to say.
const NIC_HEADER_BYTES: u32 = 10;

/// A request to the disk, as the device sees it.
#[repr(C, align(512))]
#[derive(Clone, Copy)]
struct Request {
    data: [u8; BLOCK_BYTES],
    kind: u32,
    zero: u32,
    sector: u64,
    status: u8,
}

/// What devices reach. Only `run` has it.
struct Shared {
    disk: Memory,
    nic: Memory,
    requests: [Request; SLOTS],
    frames: [[u8; FRAME_BYTES]; FRAMES],
    header: [u8; NIC_HEADER_BYTES as usize],
}

static mut SHARED: Shared = Shared {
    disk: Memory::new(),
    nic: Memory::new(),
    requests: [Request { data: [0; BLOCK_BYTES], kind: 0, zero: 0, sector: 0, status: 0 }; SLOTS],
    frames: [[0; FRAME_BYTES]; FRAMES],
    header: [0; NIC_HEADER_BYTES as usize],
};

/// Says why, and stands still.
pub(crate) fn stop(vm: u32, why: Stop) -> ! {
    say(&Said::Stopped { vm, why });
    machine::halt()
}

/// A sector that the boot sector loaded.
fn loaded(sector: u64) -> [u8; SECTOR_BYTES] {
    let at = (LOADED + sector as usize * SECTOR_BYTES) as *const [u8; SECTOR_BYTES];
    // SAFETY: the linker leaves these sectors to what was on the disk, and nothing writes there. The compiler is kept from knowing what is.
    unsafe { core::hint::black_box(at).read() }
}

/// Everything, for ever.
pub(crate) fn run() -> ! {
    machine::prepare_serial();
    machine::prepare_power_button();
    let Some(params) = Params::decode(&loaded(PARAMS_SECTOR)) else { stop(0, Stop::Params) };
    let vm = params.vm;
    let Some(last) = decode_run(&loaded(RUN_SECTOR)) else { stop(vm, Stop::Run) };
    let nonce = machine::clock();
    let (disk, nic) = (virtio::find(DISK), virtio::find(NIC));
    let Some(disk) = disk else { stop(vm, Stop::NoDisk) };
    machine::prepare_interrupts([Some(disk), nic].into_iter().flatten().map(|device| device.line));
    let mut guest = Guest {
        params,
        run: last.wrapping_add(1),
        nonce,
        clock: Clock { began: nonce, per_ms: machine::clock_per_ms() },
        disk: Disk::new(vm, disk),
        nic: nic.and_then(Nic::new),
        slots: [None; SLOTS - 1],
        chooser: Chooser::new(0, 0, 0, 0),
        last: 0,
        acknowledged: 0,
        flush: None,
        beat: 0,
    };
    guest.begin();
    guest.go_on()
}

/// Time since the start.
#[derive(Clone, Copy)]
struct Clock {
    began: u64,
    per_ms: u64,
}

impl Clock {
    fn us(self, from: u64, to: u64) -> u32 {
        let us = to.saturating_sub(from).saturating_mul(1000) / self.per_ms;
        u32::try_from(us).unwrap_or(u32::MAX)
    }

    /// Wraps after 49 days, as records do.
    fn ms(self, at: u64) -> u32 {
        (at.saturating_sub(self.began) / self.per_ms) as u32
    }
}

/// A write that is with the disk.
#[derive(Clone, Copy)]
struct Write {
    block: u32,
    sequence: u64,
    began: u64,
}

struct Guest {
    params: Params,
    run: u32,
    nonce: u64,
    clock: Clock,
    disk: Disk,
    nic: Option<Nic>,
    slots: [Option<Write>; SLOTS - 1],
    chooser: Chooser,
    /// The last write's number.
    last: u64,
    acknowledged: u64,
    /// A flush is with the disk: up to which write, and since when.
    flush: Option<(u64, u64)>,
    beat: u64,
}

impl Guest {
    /// Makes the run known to the disk, then to everybody.
    fn begin(&mut self) {
        let vm = self.params.vm;
        let blocks =
            (self.disk.sectors * SECTOR_BYTES as u64).saturating_sub(DATA_OFFSET) / BLOCK_BYTES as u64;
        let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
        let blocks = if self.params.blocks_max == 0 { blocks } else { blocks.min(self.params.blocks_max) };
        if blocks == 0 {
            stop(vm, Stop::Small);
        }
        let Params { seed, warm_blocks, warm_percent, .. } = self.params;
        self.chooser = Chooser::new(seed ^ u64::from(self.run) << 32, blocks, warm_blocks, warm_percent);
        let sector = encode_run(self.run);
        let written = self.disk.alone(TO_WRITE, RUN_SECTOR, &sector)
            && (!self.disk.can_flush || self.disk.alone(TO_FLUSH, 0, &[]));
        if !written {
            stop(vm, Stop::RunWrite);
        }
        let ms = self.clock.ms(machine::clock());
        say(&Said::Started { vm, run: self.run, blocks, nonce: self.nonce, ms });
    }

    fn go_on(&mut self) -> ! {
        let pause = u64::from(self.params.beat_ms.max(1)) * self.clock.per_ms;
        let mut next = machine::clock();
        loop {
            self.hear();
            let ends = machine::is_power_button_pressed();
            if ends && self.flush.is_none() && self.slots.iter().all(Option::is_none) {
                say(&Said::Stopped { vm: self.params.vm, why: Stop::PowerButton });
                machine::power_off();
            }
            let now = machine::clock();
            if now >= next && !ends {
                self.beat(now);
                // Beats that were missed are not made up for.
                next = if now - next < pause { next + pause } else { now + pause };
            }
            let left = next.saturating_sub(machine::clock());
            machine::halt_for(left.div_ceil(self.clock.per_ms));
        }
    }

    /// Takes what the disk has answered.
    fn hear(&mut self) {
        // First: what comes after this wakes the processor again.
        self.disk.device.quiet();
        if let Some(nic) = &mut self.nic {
            nic.hear();
        }
        while let Some(slot) = self.disk.take() {
            let (status, at) = (self.disk.status(slot), machine::clock());
            if slot == FLUSH {
                self.flushed(status, at);
            } else if let Some(write) = self.slots.get_mut(slot).and_then(Option::take) {
                self.written(write, status, at);
            }
        }
    }

    fn written(&mut self, write: Write, status: u8, at: u64) {
        let (vm, run, ms) = (self.params.vm, self.run, self.clock.ms(at));
        let Write { block, sequence, began } = write;
        if status == 0 {
            self.acknowledged += 1;
            let took_us = self.clock.us(began, at);
            say(&Said::Acknowledged { vm, run, sequence, block, took_us, ms });
        } else {
            say(&Said::Failed { vm, run, sequence, block, status, ms });
        }
        let every = u64::from(self.params.flush_every);
        if every > 0 && sequence.is_multiple_of(every) && self.flush.is_none() && self.disk.can_flush {
            let oldest = self.slots.iter().flatten().map(|write| write.sequence).min();
            self.flush = Some((oldest.map_or(self.last, |oldest| oldest - 1), at));
            self.disk.give(FLUSH, TO_FLUSH, 0, 0);
        }
    }

    fn flushed(&mut self, status: u8, at: u64) {
        let Some((up_to, began)) = self.flush.take() else { return };
        if status == 0 {
            let (vm, run, ms) = (self.params.vm, self.run, self.clock.ms(at));
            say(&Said::Flushed { vm, run, up_to, took_us: self.clock.us(began, at), ms });
        }
    }

    fn beat(&mut self, now: u64) {
        for _ in 0..self.params.writes_per_beat {
            self.write();
        }
        self.beat += 1;
        let (vm, run, nonce, beat) = (self.params.vm, self.run, self.nonce, self.beat);
        if let Some(nic) = &mut self.nic {
            nic.send(&Beat { vm, run, nonce, beat, acknowledged: self.acknowledged });
        }
        say(&Said::Beat { vm, run, beat, ms: self.clock.ms(now) });
    }

    /// Begins a write, if one may begin.
    fn write(&mut self) {
        let slots = usize::from(self.params.in_flight.min(IN_FLIGHT_MAX));
        let Some(slot) = self.slots.iter().take(slots).position(Option::is_none) else { return };
        let taken = self.slots;
        let free = |block| taken.iter().flatten().all(|write| write.block != block);
        let Some(block) = self.chooser.next(free) else { return };
        self.last += 1;
        fill_block(self.disk.data(slot), block, self.run, self.last);
        self.slots[slot] = Some(Write { block, sequence: self.last, began: machine::clock() });
        let sector = (DATA_OFFSET + u64::from(block) * BLOCK_BYTES as u64) / SECTOR_BYTES as u64;
        self.disk.give(slot, TO_WRITE, sector, BLOCK_BYTES);
    }
}

fn say(said: &Said) {
    machine::say(said.line().as_bytes());
}

struct Disk {
    device: Device,
    queue: Queue,
    can_flush: bool,
    sectors: u64,
    requests: *mut Request,
}

impl Disk {
    fn new(vm: u32, device: Device) -> Self {
        let can_flush = device.begin(CAN_FLUSH) & CAN_FLUSH != 0;
        // SAFETY: only places are taken here; of each there is one user.
        let (memory, requests) = unsafe { (&raw mut SHARED.disk, (&raw mut SHARED.requests).cast()) };
        let Some(queue) = Queue::new(device, 0, memory) else { stop(vm, Stop::NoDisk) };
        device.ready();
        let sectors = u64::from(device.own32(0)) | u64::from(device.own32(4)) << 32;
        Self { device, queue, can_flush, sectors, requests }
    }

    /// A slot's request; there is none behind the last slot.
    fn request(&self, slot: usize) -> *mut Request {
        // SAFETY: within the array.
        unsafe { self.requests.add(slot.min(SLOTS - 1)) }
    }

    /// Where a slot's data goes, while the slot is not with the device.
    fn data(&mut self, slot: usize) -> &mut [u8; BLOCK_BYTES] {
        // SAFETY: the slot is the guest's until `give`, and there is one borrow at a time.
        unsafe { &mut (*self.request(slot)).data }
    }

    /// The device's answer to what it gave back.
    fn status(&self, slot: usize) -> u8 {
        // SAFETY: within the array; volatile, because the device wrote it.
        unsafe { (&raw const (*self.request(slot)).status).read_volatile() }
    }

    /// Gives the device a slot's request, with so many bytes of its data.
    fn give(&mut self, slot: usize, kind: u32, sector: u64, bytes: usize) {
        let request = self.request(slot);
        // SAFETY: the slot is the guest's until the queue gives it to the device; volatile, because the device reads it.
        let (header, data, status) = unsafe {
            (&raw mut (*request).kind).write_volatile(kind);
            (&raw mut (*request).sector).write_volatile(sector);
            (&raw mut (*request).status).write_volatile(NO_ANSWER);
            (&raw const (*request).kind, &raw const (*request).data, &raw const (*request).status)
        };
        let header = Piece { at: header.cast(), bytes: 16, answer: false };
        let data = Piece { at: data.cast(), bytes: bytes as u32, answer: false };
        let status = Piece { at: status, bytes: 1, answer: true };
        let first = slot as u16 * PIECES;
        if bytes == 0 {
            self.queue.give(first, &[header, status]);
        } else {
            self.queue.give(first, &[header, data, status]);
        }
    }

    /// A slot that the device has given back.
    fn take(&mut self) -> Option<usize> {
        self.queue.take().map(|first| usize::from(first / PIECES))
    }

    /// A request before there are others: whether it went well.
    fn alone(&mut self, kind: u32, sector: u64, data: &[u8]) -> bool {
        for (to, from) in self.data(0).iter_mut().zip(data) {
            *to = *from;
        }
        self.give(0, kind, sector, data.len());
        while self.take().is_none() {
            machine::halt_for(1);
            self.device.quiet();
        }
        self.status(0) == 0
    }
}

struct Nic {
    device: Device,
    queue: Queue,
    address: [u8; 6],
    with_device: [bool; FRAMES],
}

impl Nic {
    fn new(device: Device) -> Option<Self> {
        device.begin(HAS_ADDRESS);
        // The queue of what it sends. It is given nothing to receive into.
        // SAFETY: only a place is taken; it has one user.
        let queue = Queue::new(device, 1, unsafe { &raw mut SHARED.nic })?;
        device.ready();
        let address = core::array::from_fn(|at| device.own8(at as u16));
        Some(Self { device, queue, address, with_device: [false; FRAMES] })
    }

    /// Takes back what was sent.
    fn hear(&mut self) {
        self.device.quiet();
        while let Some(first) = self.queue.take() {
            if let Some(with_device) = self.with_device.get_mut(usize::from(first / 2)) {
                *with_device = false;
            }
        }
    }

    /// Sends a beat, unless the device still has all frames.
    fn send(&mut self, beat: &Beat) {
        let Some(slot) = self.with_device.iter().position(|with_device| !with_device) else { return };
        self.with_device[slot] = true;
        // SAFETY: within the array; the frame is the guest's until the queue gives it to the device, which reads it.
        let (header, frame) = unsafe {
            let frame = (&raw mut SHARED.frames).cast::<[u8; FRAME_BYTES]>().add(slot);
            frame.write(beat.frame(self.address));
            (&raw const SHARED.header, frame.cast_const())
        };
        let header = Piece { at: header.cast(), bytes: NIC_HEADER_BYTES, answer: false };
        let frame = Piece { at: frame.cast(), bytes: FRAME_BYTES as u32, answer: false };
        self.queue.give(2 * slot as u16, &[header, frame]);
    }
}
