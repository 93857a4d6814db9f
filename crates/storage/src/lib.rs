//! Control's words to kernel objects: drives, legs, exports, gates, arrays.
//!
//! Purpose: what control orders of storage (`control::target::Effect`, `control::owner::Effect`) is turned into steps by pure code
//! from what the kernel has now ([`target`], [`owner`]); [`header`], [`slab`], [`leg`], [`bitmap`] and [`maps`] are what stands on
//! drives; [`digest`] says what of it differs; [`kernel`] (feature `kernel`) carries the steps out and decides nothing. docs/storage.md has the recipe.
//!
//! Invariants: nothing is remembered beside the kernel's objects and the drives: every order is planned from what is there, so
//! that whoever is killed between two steps, the next one finds its way. What can't be read marks everything.
//!
//! On failure: a typed error per operation; the order is given again.

pub mod bitmap;
pub mod bug;
mod checksum;
pub mod digest;
pub mod header;
#[cfg(feature = "kernel")]
pub mod kernel;
pub mod leg;
pub mod maps;
pub mod name;
pub mod owner;
pub mod slab;
pub mod target;
