//! What the lab needs of the host that it runs on: a few Debian packages.
//!
//! Invariants: what is there is left alone and no package tool is started; nothing ever asks a question. What apt would
//! remove to make room is said before it happens.
//!
//! On failure: the error lists exactly the packages that are missing and the command that a person can run instead.
//! The lab can't run without them (exit code 69).

mod command;

pub use command::CommandError;
#[cfg(test)]
pub(crate) use command::command_line;
use command::run_to_its_end;
pub(crate) use command::{Finished, bound_to_us, run, run_well};

use crate::progress::Progress;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A Debian package, and the file by which one sees that it is there.
///
/// A file rather than dpkg's word: it also holds where somebody put their own build at that place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPackage {
    /// The package's name.
    pub name: &'static str,
    /// A file that it installs; an absolute path.
    pub file: &'static str,
}

/// The virtual machine monitor that the lab's nodes run in.
pub const QEMU: HostPackage = HostPackage { name: "qemu-system-x86", file: "/usr/bin/qemu-system-x86_64" };

/// What makes images of disks for tests. No run needs it.
pub const QEMU_IMG: HostPackage = HostPackage { name: "qemu-utils", file: "/usr/bin/qemu-img" };

/// What makes the file system on the nodes' boot drives.
pub const MKE2FS: HostPackage = HostPackage { name: "e2fsprogs", file: "/usr/sbin/mkfs.ext4" };

/// What replays the journal of a file system, and what changes a file on one that is not mounted.
pub const E2FSCK: HostPackage = HostPackage { name: "e2fsprogs", file: "/usr/sbin/e2fsck" };
/// As above.
pub const DEBUGFS: HostPackage = HostPackage { name: "e2fsprogs", file: "/usr/sbin/debugfs" };

/// The browser that the report's page is looked at in by a test. No run needs it.
pub const CHROMIUM: HostPackage = HostPackage { name: "chromium", file: "/usr/bin/chromium" };

/// How long apt may take for one step: slow mirrors exist, and apt gives up on dead ones by itself.
const APT_LIMIT: Duration = Duration::from_mins(15);

/// How long sudo may take to say whether it needs a password.
const SUDO_LIMIT: Duration = Duration::from_secs(20);

/// The host lacks something and it could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Installing needs root, and neither are we root nor does sudo let us be without a password.
    #[error(
        "this host lacks {} and installing needs root without a password; run by hand: {by_hand}",
        packages.join(", ")
    )]
    NotRoot {
        /// The packages that are missing.
        packages: Vec<String>,
        /// The command to run by hand.
        by_hand: String,
    },
    /// apt could not install them.
    #[error("this host lacks {} and apt could not install it; run by hand: {by_hand}", packages.join(", "))]
    Install {
        /// The packages that are missing.
        packages: Vec<String>,
        /// The command to run by hand.
        by_hand: String,
        /// What apt said.
        #[source]
        source: CommandError,
    },
    /// apt said that it had installed them, but a file that they should bring isn't there.
    #[error("{package} is installed but {file} is not there; try: apt-get install --reinstall {package}")]
    Incomplete {
        /// The package.
        package: String,
        /// The file.
        file: String,
    },
}

/// Makes sure that the packages are there, installing what is missing.
pub fn ensure_packages(packages: &[HostPackage], progress: &dyn Progress) -> Result<(), HostError> {
    let missing = missing(packages, Path::new("/"));
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing, progress)?;
    packages.iter().find(|package| !Path::new(package.file).exists()).map_or(Ok(()), |package| {
        Err(HostError::Incomplete { package: package.name.into(), file: package.file.into() })
    })
}

/// The names of the packages whose file isn't there under the root.
fn missing(packages: &[HostPackage], root: &Path) -> Vec<String> {
    let absent = |package: &&HostPackage| !root.join(package.file.trim_start_matches('/')).exists();
    packages.iter().filter(absent).map(|package| package.name.to_owned()).collect()
}

fn install(packages: &[String], progress: &dyn Progress) -> Result<(), HostError> {
    let failed =
        |source| HostError::Install { packages: packages.to_vec(), by_hand: by_hand(packages), source };
    let root = rustix::process::geteuid().is_root();
    if !root && run_well(Command::new("sudo").args(["-n", "true"]), SUDO_LIMIT).is_err() {
        return Err(HostError::NotRoot { packages: packages.to_vec(), by_hand: by_hand(packages) });
    }
    let update = || {
        progress.step("fetching apt's package lists");
        run_well(&mut apt_get(root, &["update"]), APT_LIMIT)
    };
    let rehearse = || run_well(&mut install_command(true, true, packages), APT_LIMIT);
    let install = || run_to_its_end(&mut install_command(root, false, packages), APT_LIMIT);

    // The rehearsal needs no root, and fails where apt has no lists yet.
    let rehearsal = rehearse().or_else(|_| update().and_then(|_| rehearse())).map_err(failed)?;
    let names = packages.join(", ");
    progress.step(&match removals(&rehearsal.stdout) {
        none if none.is_empty() => format!("installing {names}"),
        some => format!("installing {names}; apt removes {} for it", some.join(", ")),
    });
    // Old lists name files that the archive no longer has.
    install().or_else(|_| update().and_then(|_| install())).map(drop).map_err(failed)
}

/// `apt-get` as root, without a terminal to ask at.
fn apt_get(root: bool, args: &[&str]) -> Command {
    // sudo drops the environment, so it is set behind it.
    let mut command = Command::new(if root { "env" } else { "sudo" });
    if !root {
        command.args(["-n", "env"]);
    }
    command.args(["DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", "apt-get", "-q"]).args(args);
    command
}

fn install_command(root: bool, rehearse: bool, packages: &[String]) -> Command {
    let mut command = apt_get(root, &["install", "--yes", "--no-install-recommends"]);
    if rehearse {
        command.arg("--simulate");
    }
    command.args(packages);
    command
}

/// What a person types to install the packages.
fn by_hand(packages: &[String]) -> String {
    format!("sudo apt-get update && sudo apt-get install --no-install-recommends {}", packages.join(" "))
}

/// The packages that a rehearsal says apt would remove (its lines `Remv NAME [VERSION]`).
fn removals(rehearsal: &str) -> Vec<&str> {
    let removed = rehearsal.lines().filter_map(|line| line.strip_prefix("Remv "));
    removed.filter_map(|rest| rest.split_whitespace().next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_there_is_missing() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        std::fs::write(root.path().join("usr/bin/here"), "").unwrap();
        let here = HostPackage { name: "here", file: "/usr/bin/here" };
        let gone = HostPackage { name: "gone", file: "/usr/bin/gone" };
        assert_eq!(missing(&[here, gone], root.path()), ["gone"]);
    }

    #[test]
    fn apt_is_never_left_to_ask() {
        let packages = ["qemu-system-x86".to_owned()];
        assert_eq!(
            command_line(&install_command(false, false, &packages)),
            "sudo -n env DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get -q install --yes \
             --no-install-recommends qemu-system-x86"
        );
    }

    #[test]
    fn what_apt_would_remove_is_found() {
        let said = "Reading package lists...\nRemv qemu-utils [1:10.0]\nInst qemu-system-x86 (1:7.2)\n";
        assert_eq!(removals(said), ["qemu-utils"]);
    }

    #[test]
    fn the_error_names_the_packages_and_the_way_out() {
        let packages = vec!["a".to_owned(), "b".to_owned()];
        let error = HostError::NotRoot { by_hand: by_hand(&packages), packages };
        assert_eq!(
            error.to_string(),
            "this host lacks a, b and installing needs root without a password; run by hand: \
             sudo apt-get update && sudo apt-get install --no-install-recommends a b"
        );
    }
}
