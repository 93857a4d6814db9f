//! Loading kernel modules.
//!
//! The image's builder wrote the order (dependencies first), so that there is nothing to resolve here.
//! `finit_module` returns when the module's devices are probed, asynchronous probes included (kernel/module/main.c,
//! `do_init_module`): afterwards NICs and drives are there, without waiting.

use rustix::io::Errno;
use rustix::system::finit_module;
use std::ffi::CStr;
use std::fs::{self, File};
use std::path::Path;

/// Loads what the list names. A module that can't be loaded is reported and the rest goes on: what needs it says so.
pub(super) fn load(list: &Path) {
    let text = match fs::read_to_string(list) {
        Ok(text) => text,
        Err(error) => return eprintln!("twinrackd init: no modules loaded: {}: {error}", list.display()),
    };
    for path in paths(&text) {
        if let Err(errno) = load_one(&Path::new("/").join(path)) {
            eprintln!("twinrackd init: module {path}: {errno}");
        }
    }
}

/// The lines of a module list, without blank ones and comments.
pub(crate) fn paths(list: &str) -> impl Iterator<Item = &str> {
    list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// What modules are told when they are loaded.
fn parameters(path: &Path) -> &'static CStr {
    match path.file_stem().and_then(|name| name.to_str()) {
        // Else it makes a bond0 that nobody asked for.
        Some("bonding") => c"max_bonds=0",
        _ => c"",
    }
}

fn load_one(path: &Path) -> Result<(), Errno> {
    let file = match File::open(path) {
        Ok(file) => file,
        // The list may name more than an image has (a witness needs less).
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    };
    match finit_module(&file, parameters(path), 0) {
        // Listed twice, or built in.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}
