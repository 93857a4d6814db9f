//! Which accelerator the lab's nodes run on: KVM where it works, QEMU's own translator (TCG) where it doesn't.
//!
//! That `/dev/kvm` opens proves nothing: there are hosts, usually virtual machines themselves, where it opens and a
//! stock kernel hangs early in its boot. So the node image is booted once, with `twinrack.trial=1` on its command line,
//! which makes the agent write [`TRIAL_OK`] to its console and power off.
//!
//! Invariants: KVM is used only after such a boot has come up within [`TRIAL_LIMIT`]. A trial is never longer than
//! that: its QEMU is killed and waited for, and dies with us ([`run`]). A verdict is remembered for the same host kernel, boot,
//! device, QEMU and image kernel, in `accelerator.json` in the cache; removing the file asks again.
//!
//! On failure: whatever goes wrong speaks for TCG, which always works, and the reason is told. Nothing here is an error
//! of the lab.

use crate::host::{QEMU, run};
use crate::image::NodeImage;
use crate::progress::Progress;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What a node says on its console in a trial, when it has come up.
pub const TRIAL_OK: &str = "TWINRACK-TRIAL-OK";

/// The kernel command line's word that asks a node for a trial.
pub const TRIAL_WORD: &str = "twinrack.trial=1";

/// How long a trial boot may take: a node comes up within 1.5 s where KVM works.
const TRIAL_LIMIT: Duration = Duration::from_secs(5);

/// How long QEMU may take to say its version.
const VERSION_LIMIT: Duration = Duration::from_secs(5);

/// KVM's device.
const DEVICE: &str = "/dev/kvm";

/// The remembered verdict's file in the cache.
const REMEMBERED: &str = "accelerator.json";

/// What runs the nodes' processors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "accelerator", rename_all = "lowercase")]
pub enum Accel {
    /// The host's virtualisation: a trial boot came up with it.
    Kvm,
    /// QEMU's translator.
    Tcg {
        /// Why not KVM.
        why: String,
    },
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kvm => write!(f, "KVM (a trial boot came up)"),
            Self::Tcg { why } => write!(f, "TCG ({why})"),
        }
    }
}

/// What a verdict holds for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Circumstances {
    qemu: String,
    host_kernel: String,
    host_boot: String,
    device: u64,
    image_kernel: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    circumstances: Circumstances,
    verdict: Accel,
}

/// Decides, by a trial boot of the image unless the answer is known.
pub fn decide(image: &NodeImage, cache: &Path, progress: &dyn Progress) -> Accel {
    let device = match File::options().read(true).write(true).open(DEVICE).and_then(|file| file.metadata()) {
        Ok(device) => device,
        Err(error) => return Accel::Tcg { why: format!("{DEVICE} cannot be opened: {error}") },
    };
    let circumstances = match circumstances(image, device.rdev()) {
        Ok(circumstances) => circumstances,
        Err(why) => return Accel::Tcg { why },
    };
    let path = cache.join(REMEMBERED);
    if let Some(verdict) = remembered(&path, &circumstances) {
        return verdict;
    }
    progress.step("trying KVM with one boot");
    let verdict = trial(image);
    remember(&path, circumstances, &verdict);
    verdict
}

fn circumstances(image: &NodeImage, device: u64) -> Result<Circumstances, String> {
    let read = |path: &str| {
        fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .map_err(|error| format!("cannot read {path}: {error}"))
    };
    let qemu =
        run(Command::new(QEMU.file).arg("--version"), VERSION_LIMIT).map_err(|error| error.to_string())?;
    Ok(Circumstances {
        qemu: qemu.stdout.lines().next().unwrap_or_default().to_owned(),
        host_kernel: read("/proc/sys/kernel/osrelease")?,
        host_boot: read("/proc/sys/kernel/random/boot_id")?,
        device,
        image_kernel: image.release.clone(),
    })
}

/// The verdict in that file, if it was made in the same circumstances.
fn remembered(path: &Path, circumstances: &Circumstances) -> Option<Accel> {
    let found: Remembered = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (found.circumstances == *circumstances).then_some(found.verdict)
}

/// Writes the verdict down. A failure only costs the next run a trial.
fn remember(path: &Path, circumstances: Circumstances, verdict: &Accel) {
    let text = serde_json::to_vec_pretty(&Remembered { circumstances, verdict: verdict.clone() });
    let unfinished = path.with_extension(format!("json.{}", std::process::id()));
    if text.is_ok_and(|text| fs::write(&unfinished, text).is_ok()) {
        let _ = fs::rename(&unfinished, path);
    }
}

fn trial(image: &NodeImage) -> Accel {
    match run(&mut trial_command(image), TRIAL_LIMIT) {
        Ok(finished) if finished.stdout.contains(TRIAL_OK) => Accel::Kvm,
        Ok(finished) => Accel::Tcg { why: why_not(finished.status, &finished.stdout, &finished.stderr) },
        Err(error) => Accel::Tcg { why: format!("the trial boot with KVM did not run: {error}") },
    }
}

fn why_not(status: Option<std::process::ExitStatus>, console: &str, stderr: &str) -> String {
    let last = |text: &str| text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned);
    let said = last(stderr).or_else(|| last(console));
    let said = said.map_or_else(|| "without a word".into(), |said| format!("after saying: {said}"));
    let end = match status {
        None => format!("hung for {} s", TRIAL_LIMIT.as_secs()),
        Some(status) => format!("ended ({status})"),
    };
    format!("{DEVICE} opens, but a trial boot with it {end} {said}")
}

/// QEMU with nothing but a processor, memory and a console.
fn trial_command(image: &NodeImage) -> Command {
    let mut command = Command::new(QEMU.file);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot"]);
    command.args(["-machine", "q35", "-accel", "kvm", "-cpu", "host", "-m", "256"]);
    command.args(["-display", "none", "-serial", "stdio"]);
    command.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initrd);
    command.arg("-append").arg(format!("console=ttyS0 quiet panic=-1 {TRIAL_WORD}"));
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    fn here() -> Circumstances {
        Circumstances {
            qemu: "QEMU emulator version 7.2".into(),
            host_kernel: "6.1".into(),
            host_boot: "b".into(),
            device: 10,
            image_kernel: "6.1.0-9".into(),
        }
    }

    #[test]
    fn a_verdict_is_remembered_for_the_same_circumstances_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(REMEMBERED);
        assert_eq!(remembered(&path, &here()), None);
        let verdict = Accel::Tcg { why: "it hung".into() };
        remember(&path, here(), &verdict);
        assert_eq!(remembered(&path, &here()), Some(verdict));
        for other in [
            Circumstances { qemu: "8".into(), ..here() },
            Circumstances { host_kernel: "6.12".into(), ..here() },
            Circumstances { host_boot: "c".into(), ..here() },
            Circumstances { device: 11, ..here() },
            Circumstances { image_kernel: "6.12".into(), ..here() },
        ] {
            assert_eq!(remembered(&path, &other), None, "{other:?}");
        }
        fs::write(&path, "{").unwrap();
        assert_eq!(remembered(&path, &here()), None);
    }

    #[test]
    fn the_reason_says_what_was_seen_last() {
        let failed = Some(std::process::ExitStatus::from_raw(256));
        assert_eq!(
            why_not(failed, "", "qemu: failed to initialize kvm\n\n"),
            "/dev/kvm opens, but a trial boot with it ended (exit status: 1) after saying: qemu: failed to initialize kvm"
        );
        assert_eq!(
            why_not(None, "Linux version\r\nlast words\r\n", ""),
            "/dev/kvm opens, but a trial boot with it hung for 5 s after saying: last words"
        );
        assert_eq!(
            why_not(None, "", ""),
            "/dev/kvm opens, but a trial boot with it hung for 5 s without a word"
        );
        assert_eq!(Accel::Tcg { why: "x".into() }.to_string(), "TCG (x)");
    }
}
