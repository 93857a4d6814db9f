//! `/bin/hands` of a lab's node: serves one virtio port for as long as the machine is up.
//!
//! On failure: one line on standard error and exit code 1; who started it starts it again.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;

/// A port of virtio-console.
struct Port(File);

impl Read for Port {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                // Nobody is at the other end. A write waits until somebody is (drivers/char/virtio_console.c,
                // `wait_port_writable`), without turning round here meanwhile; an empty line means nothing to them.
                Ok(0) => self.0.write_all(b"\n")?,
                other => return other,
            }
        }
    }
}

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: hands PORT");
        return ExitCode::from(2);
    };
    let served = File::options().read(true).write(true).open(path).and_then(|port| {
        let writer = port.try_clone()?;
        hands::serve(Port(port), writer)
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hands: {error}");
            ExitCode::from(1)
        }
    }
}
