//! Builds the guest in `guest/` with the compiler that builds the crate: bare-metal code for the processor that the host's target is
//! for, so that no other target and no other tools are needed; `ld` comes with what every Rust on Linux links with.
//!
//! On failure: the compiler's words, and no crate.

use std::env;
use std::error::Error;
use std::path::Path;
use std::process::Command;

/// As small as it gets, without the standard library, without unwinding; where the linker script says. Interrupts come while the
/// guest halts and use its stack: no red zone below it.
const FLAGS: [&str; 13] = [
    "opt-level=z",
    "lto=fat",
    "codegen-units=1",
    "panic=abort",
    "overflow-checks=off",
    "relocation-model=static",
    "relro-level=off",
    "no-redzone=yes",
    "target-cpu=x86-64",
    "strip=none",
    "linker-flavor=ld",
    "linker=ld",
    "link-args=--oformat=binary --gc-sections -z noexecstack --build-id=none -no-pie",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=guest");
    println!("cargo::rerun-if-changed=src/choose.rs");
    println!("cargo::rerun-if-changed=src/format.rs");
    let image = Path::new(&env::var("OUT_DIR")?).join("pulse.bin");
    let mut rustc = Command::new(env::var_os("RUSTC").ok_or("cargo says which compiler")?);
    rustc.args(["--edition=2024", "--crate-name=pulse_guest", "--crate-type=bin"]);
    rustc.args(["--target", "x86_64-unknown-linux-gnu"]);
    rustc.args(FLAGS.iter().flat_map(|flag| ["-C", flag]));
    rustc.arg("-C").arg(format!("link-arg=-T{}/guest/link.ld", env::var("CARGO_MANIFEST_DIR")?));
    rustc.arg("guest/main.rs").arg("-o").arg(&image);
    let output = rustc.output()?;
    if !output.status.success() {
        return Err(format!("the guest can't be built:\n{}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(())
}
