//! Whether KVM works here. That `/dev/kvm` opens proves nothing: there are hosts, usually virtual machines themselves, where it opens and whatever runs with it hangs.
//!
//! So pulse is booted with it once, from a file, within [`WITHIN`]. Blocks for as long.
//!
//! Invariants: QEMU is killed and waited for before the answer, and dies with the thread that asks.
//!
//! On failure: whatever goes wrong speaks for the translator, which always works, and the reason is told.

#![expect(unsafe_code, reason = "what a child does between fork and exec is nobody's but ours to check")]

use crate::machine::Accel;
use pulse::format::{Params, Said};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, set_parent_process_death_signal};
use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long pulse may take: half a second where KVM works, ten times that on a busy host.
pub const WITHIN: Duration = Duration::from_secs(5);

/// The smallest disk with a block on it.
const DISK_BYTES: u64 = 1 << 20;

/// What pulse is told: it need only begin.
const PARAMS: Params = Params {
    vm: 0,
    blocks_max: 1,
    warm_blocks: 0,
    beat_ms: 1000,
    flush_every: 0,
    writes_per_beat: 1,
    in_flight: 1,
    warm_percent: 0,
    seed: 0,
};

/// What carries out virtual processors here, and if it is the translator, why. `folder` is one for a file of a mebibyte.
pub fn trial(qemu: &Path, folder: &Path) -> (Accel, String) {
    match boots(qemu, folder) {
        Ok(()) => (Accel::Kvm, "a trial came up with it".to_owned()),
        Err(why) => (Accel::Tcg, format!("a trial with KVM {why}")),
    }
}

fn boots(qemu: &Path, folder: &Path) -> Result<(), String> {
    let disk = folder.join("kvm-trial");
    let failed = |error: std::io::Error| format!("could not be made: {error}");
    let image = pulse::image(&PARAMS).map_err(|error| format!("could not be made: {error}"))?;
    fs::write(&disk, image).map_err(failed)?;
    let file = fs::File::options().write(true).open(&disk).map_err(failed)?;
    file.set_len(DISK_BYTES).map_err(failed)?;
    let verdict = run(qemu, &disk);
    // What is left of it is a file of a mebibyte in a folder that goes with the node's power.
    let _ = fs::remove_file(&disk);
    verdict
}

fn run(qemu: &Path, disk: &Path) -> Result<(), String> {
    let mut command = Command::new(qemu);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-m", "16"]);
    command.args(["-machine", "q35", "-accel", "kvm", "-cpu", "host", "-serial", "stdio"]);
    let disk = disk.to_string_lossy().replace(',', ",,");
    command.args(["-blockdev", &format!("driver=raw,node-name=d,file.driver=file,file.filename={disk}")]);
    command.args(["-device", "virtio-blk-pci,drive=d"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: one system call, which allocates nothing.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    let mut child = command.spawn().map_err(|error| format!("did not start: {error}"))?;
    let said = child.stdout.take().map_or(Ok(Vec::new()), listen);
    // It may have ended by itself; either way it is gone after this.
    let _ = child.kill();
    let _ = child.wait();
    let said = said.map_err(|error| format!("could not be followed: {error}"))?;
    if began(&said) {
        return Ok(());
    }
    let mut words = String::new();
    let _ = child.stderr.take().map(|errors| errors.take(1000).read_to_string(&mut words));
    let last = words.lines().rfind(|line| !line.trim().is_empty() && !line.contains("terminating on signal"));
    Err(last.map_or_else(
        || format!("was still silent after {} s", WITHIN.as_secs()),
        |last| format!("ended: {last}"),
    ))
}

/// What comes until pulse has begun, or no more comes, or it is too late.
fn listen(mut from: std::process::ChildStdout) -> std::io::Result<Vec<u8>> {
    let (deadline, mut said, mut piece) = (Instant::now() + WITHIN, Vec::new(), [0; 256]);
    while !began(&said) {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()));
        let left = left.unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        if poll(&mut [PollFd::new(&from, PollFlags::IN)], Some(&left))? == 0 {
            break;
        }
        let read = from.read(&mut piece)?;
        if read == 0 {
            break;
        }
        said.extend_from_slice(&piece[..read]);
    }
    Ok(said)
}

fn began(said: &[u8]) -> bool {
    let (_, said) = pulse::records(said, PARAMS.vm);
    said.iter().any(|said| matches!(said, Said::Started { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    /// A program in QEMU's place.
    fn instead(folder: &Path, script: &str) -> PathBuf {
        let path = folder.join("qemu");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn what_pulse_says_with_it_decides() {
        let folder = tempfile::tempdir().unwrap();
        let verdict = |script: &str| trial(&instead(folder.path(), script), folder.path());
        let line = Said::Started { vm: 0, run: 1, blocks: 1, nonce: 5, ms: 1 }.line();
        let line = String::from_utf8(line.as_bytes().to_vec()).unwrap();
        let line = line.trim_end();
        let (accel, why) = verdict("echo SeaBIOS; exec sleep 1000");
        assert_eq!((accel, why.as_str()), (Accel::Tcg, "a trial with KVM was still silent after 5 s"));
        assert_eq!(verdict(&format!("echo SeaBIOS; echo '{line}'; exec sleep 1000")).0, Accel::Kvm);
        let (accel, why) = verdict("echo 'failed to initialize kvm' >&2; exit 1");
        assert_eq!((accel, why.as_str()), (Accel::Tcg, "a trial with KVM ended: failed to initialize kvm"));
        assert_eq!(verdict("exit 0").0, Accel::Tcg);
        let (accel, why) = trial(Path::new("/nowhere"), folder.path());
        assert!(accel == Accel::Tcg && why.starts_with("a trial with KVM did not start"), "{why}");
    }
}
