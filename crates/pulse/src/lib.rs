//! pulse, the workload guest: a virtual machine of a few kilobytes that writes so that it can be judged, and beats.
//!
//! Purpose: what suites run as a virtual machine. It boots from its volume in no time and without an operating system, writes
//! the blocks of [`workload::block`] to the rest of it, says each acknowledgement on its serial port and beats there and as a
//! frame on its NIC, whose gaps are the machine's blackouts as seen from outside. Between beats it halts.
//!
//! The guest itself is in `guest/`, bare-metal code that the build script makes into [`image`]; what both sides must agree
//! on is in [`format`] and [`choose`], which it includes and the tests here hold to `workload`'s formats.
//!
//! Invariants: an acknowledgement is said after the device's answer, never before. Each start has a higher run than any
//! start before it: the run is on the disk, flushed, before the first block is written. [`history`] judges the beats.
//!
//! On failure: a guest that can't go on says why ([`format::Said::Stopped`]) and stands still. A line or frame that is not whole is none.

pub mod choose;
pub mod format;
pub mod history;
mod image;

/// The guest is linted with the crate, although only the build script compiles it.
#[cfg(clippy)]
#[path = "../guest/guest.rs"]
#[expect(dead_code, reason = "its entry is called by guest/main.rs")]
#[expect(unsafe_code, reason = "it is alone with its machine: ports, interrupts, memory that devices reach")]
#[expect(
    clippy::cast_ptr_alignment,
    reason = "queues are aligned to pages, and virtio aligns what is in them"
)]
mod guest;

pub use image::{ImageError, image, records};
