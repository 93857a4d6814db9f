//! virtio over PCI the old way (virtio 1.2, "legacy interface"): everything through ports, queues of the device's size in memory.
//! It is the smallest there is, and what QEMU's devices on the root bus have beside the new one.
//!
//! Invariants: a buffer that a device was given is not touched before the device has given it back. What a device gives back
//! is taken at its word only within bounds.

use super::machine::{in8, in16, in32, out8, out16, out32};
use core::sync::atomic::{Ordering, fence};

/// The longest queue that is known what to do with: what QEMU makes unless it is told otherwise.
const ENTRIES_MAX: usize = 256;
/// Descriptors, the ring of what is available, and from the next page on the ring of what was used.
const QUEUE_BYTES: usize = 3 * 4096;
const DESCRIPTOR_BYTES: usize = 16;
/// Another descriptor follows.
const NEXT: u16 = 1;
/// The device writes there.
const WRITE: u16 = 2;

/// Where a device stands in its configuration, as its ports.
#[derive(Clone, Copy)]
pub(super) struct Device {
    ports: u16,
    /// Its interrupt.
    pub(super) line: u8,
}

/// A queue's memory. Made for being a `static`, which begins as zeros.
#[repr(C, align(4096))]
pub(super) struct Memory([u8; QUEUE_BYTES]);

impl Memory {
    pub(super) const fn new() -> Self {
        Self([0; QUEUE_BYTES])
    }
}

/// A piece of memory that goes with a request.
pub(super) struct Piece {
    pub(super) at: *const u8,
    pub(super) bytes: u32,
    /// The device writes it.
    pub(super) answer: bool,
}

fn configuration(device: u32, register: u32) -> u16 {
    out32(0xcf8, 1 << 31 | device << 11 | register);
    0xcfc
}

/// The first of all devices on the root bus with this id of virtio's old ones.
pub(super) fn find(id: u16) -> Option<Device> {
    // Of each place the first function: QEMU puts virtio devices there.
    let device = (0..32).find(|device| in32(configuration(*device, 0)) == u32::from(id) << 16 | 0x1af4)?;
    let bar = in32(configuration(device, 0x10));
    let line = in8(configuration(device, 0x3c));
    // Ports, and access to memory; the interrupt line stays on.
    out16(configuration(device, 0x04), 1 | 4);
    (bar & 1 == 1).then_some(Device { ports: (bar & 0xfffc) as u16, line })
}

impl Device {
    /// Resets it and says that a driver is there that understands these features, if it has them. Which of them it has.
    pub(super) fn begin(self, features: u32) -> u32 {
        for status in [0, 1, 1 | 2] {
            out8(self.ports + 18, status);
        }
        let features = in32(self.ports) & features;
        out32(self.ports + 4, features);
        features
    }

    /// The driver is ready.
    pub(super) fn ready(self) {
        out8(self.ports + 18, 1 | 2 | 4);
    }

    /// A byte of its own configuration.
    pub(super) fn own8(self, at: u16) -> u8 {
        in8(self.ports + 20 + at)
    }

    /// A word of it.
    pub(super) fn own32(self, at: u16) -> u32 {
        in32(self.ports + 20 + at)
    }

    /// Takes back its interrupt.
    pub(super) fn quiet(self) {
        in8(self.ports + 19);
    }
}

/// A queue of requests.
pub(super) struct Queue {
    device: Device,
    number: u16,
    memory: *mut u8,
    entries: usize,
    given: u16,
    taken: u16,
}

impl Queue {
    /// Gives a device memory for one of its queues; `None`: it has no such queue, or a longer one than there is memory for.
    pub(super) fn new(device: Device, number: u16, memory: *mut Memory) -> Option<Self> {
        out16(device.ports + 14, number);
        let entries = usize::from(in16(device.ports + 12));
        if entries == 0 || entries > ENTRIES_MAX {
            return None;
        }
        out32(device.ports + 8, (memory as u64 >> 12) as u32);
        Some(Self { device, number, memory: memory.cast(), entries, given: 0, taken: 0 })
    }

    /// # Safety
    /// `at` and what is written lie within the memory.
    unsafe fn put<T>(&mut self, at: usize, value: T) {
        // SAFETY: the caller's; places are multiples of what lies there (virtio 1.2, 2.7).
        unsafe { self.memory.add(at).cast::<T>().write_volatile(value) }
    }

    fn available(&self) -> usize {
        DESCRIPTOR_BYTES * self.entries
    }

    fn used(&self) -> usize {
        (self.available() + 6 + 2 * self.entries).next_multiple_of(4096)
    }

    /// Gives the device a request under a descriptor's number. Those from it on, one a piece, must not be with the device.
    pub(super) fn give(&mut self, first: u16, pieces: &[Piece]) {
        if usize::from(first) + pieces.len() > self.entries {
            return;
        }
        for (number, piece) in (first..).zip(pieces) {
            let last = usize::from(number - first) + 1 == pieces.len();
            let flags = if piece.answer { WRITE } else { 0 } | if last { 0 } else { NEXT };
            let at = DESCRIPTOR_BYTES * usize::from(number);
            // SAFETY: the number is below `entries`, for which there is memory.
            unsafe {
                self.put(at, piece.at as u64);
                self.put(at + 8, piece.bytes);
                self.put(at + 12, flags);
                self.put(at + 14, number + 1);
            }
        }
        let at = self.available() + 4 + 2 * (usize::from(self.given) % self.entries);
        self.given = self.given.wrapping_add(1);
        // The device sees the request whole, then that there is one more.
        // SAFETY: within the ring of what is available, behind the descriptors.
        unsafe {
            self.put(at, first);
            fence(Ordering::SeqCst);
            self.put(self.available() + 2, self.given);
        }
        fence(Ordering::SeqCst);
        out16(self.device.ports + 16, self.number);
    }

    /// A request that the device gave back, by its first descriptor's number.
    pub(super) fn take(&mut self) -> Option<u16> {
        let used = self.used();
        // SAFETY: within the ring of what was used, which lies behind that of what is available.
        let count = unsafe { self.memory.add(used + 2).cast::<u16>().read_volatile() };
        if count == self.taken {
            return None;
        }
        fence(Ordering::SeqCst);
        let at = used + 4 + 8 * (usize::from(self.taken) % self.entries);
        self.taken = self.taken.wrapping_add(1);
        // SAFETY: as above; 256 entries of 8 bytes end before the memory does.
        let first = unsafe { self.memory.add(at).cast::<u32>().read_volatile() };
        Some((first & 0xffff) as u16)
    }
}
