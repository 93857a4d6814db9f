//! Virtual machines: QEMU under supervision.
//!
//! [`machine`] says what a virtual machine is as a command line, which [`arguments`] puts together (both pure); [`process`] starts it so that there is never more than one of it on a
//! node, finds it again and ends it; [`instance`] lets it run, and sends it to another node; [`saved`] puts its memory into a file and back;
//! [`console`] keeps what its serial port says; [`image`] reads what disks are imported from; [`trial`] says whether KVM works here;
//! [`qmp`] is QEMU's machine protocol, which the lab uses for its nodes too.
//!
//! Whether and where one runs is decided elsewhere. What is here carries that out, and remembers nothing but what is in the places of
//! [`machine::Places`] and in the processes themselves: whoever is killed between two steps finds what is there, and goes on.

pub mod arguments;
pub mod console;
pub mod image;
pub mod instance;
pub mod machine;
pub mod process;
pub mod qmp;
pub mod saved;
pub mod trial;
