//! apt without root, with a state of its own inside the cache.
//!
//! apt's lists, downloads and list of installed packages (an empty one) are in the cache, so neither root nor a previous
//! `apt-get update` is needed and the host's state is not touched. Sources, keys and proxies are the host's, so apt's own
//! verification of what it fetches holds.
//!
//! On failure: the error says which packages and what apt said.

use super::cache::Cache;
use super::error::{ImageError, file_error};
use crate::host::{CommandError, Finished, run_well};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long apt may take for one step; it gives up on dead mirrors by itself long before.
const APT_LIMIT: Duration = Duration::from_mins(10);

/// What apt is told beside the folders. The hooks are the host's (they clean *its* cache, wake *its* desktop) and may
/// fail without root.
const APT_CONF: &str = r#"#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Architectures;
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons-hidpi::DefaultEnabled "false";
"#;

/// A package of one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Package {
    /// Its name.
    #[serde(rename = "package")]
    pub(super) name: String,
    /// Its version.
    pub(super) version: String,
    /// The SHA-256 of its file, from the archive's signed lists.
    pub(super) sha256: String,
}

/// apt with its state in the cache.
pub(super) struct Apt {
    root: PathBuf,
}

impl Apt {
    /// Makes the folders and files that apt expects.
    pub(super) fn prepare(cache: &Cache) -> Result<Self, ImageError> {
        let root = cache.root().join("apt");
        for folder in ["state/lists/partial", "cache/archives/partial"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).map_err(file_error("make", &folder))?;
        }
        for (name, contents) in [("status", ""), ("apt.conf", APT_CONF)] {
            let path = root.join(name);
            fs::write(&path, contents).map_err(file_error("write", &path))?;
        }
        Ok(Self { root })
    }

    /// One of apt's programs, told where its state is.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-q").arg("-c").arg(self.root.join("apt.conf"));
        for (option, place) in
            [("Dir::State", "state"), ("Dir::State::status", "status"), ("Dir::Cache", "cache")]
        {
            let mut value = std::ffi::OsString::from(format!("{option}="));
            value.push(self.root.join(place));
            command.arg("-o").arg(value);
        }
        command
    }

    /// Fetches the archive's lists.
    pub(super) fn update(&self) -> Result<Finished, ImageError> {
        run_well(self.command("apt-get").arg("update"), APT_LIMIT).map_err(ImageError::PackageLists)
    }

    /// The lists' entry for the version of the package that apt would install. `fetched` is how fetching the lists went.
    pub(super) fn show(&self, package: &str, fetched: &Finished) -> Result<String, ImageError> {
        let mut command = self.command("apt-cache");
        let shown = run_well(command.args(["show", "--no-all-versions", package]), APT_LIMIT);
        shown.map(|shown| shown.stdout).map_err(|source| unknown(package, fetched, source))
    }

    /// The packages with everything that they depend on, as apt would install them on an empty machine.
    pub(super) fn with_dependencies(
        &self,
        packages: &[&str],
        fetched: &Finished,
    ) -> Result<Vec<Package>, ImageError> {
        let failed = |source| unknown(&packages.join(", "), fetched, source);
        let mut install = self.command("apt-get");
        install.args(["install", "--simulate", "--yes"]).args(packages);
        let simulated = run_well(&mut install, APT_LIMIT).map_err(failed)?;
        let names = to_install(&simulated.stdout);
        let mut show = self.command("apt-cache");
        show.args(["show", "--no-all-versions"]);
        show.args(names.iter().map(|(name, version)| format!("{name}={version}")));
        let stanzas = run_well(&mut show, APT_LIMIT).map_err(failed)?.stdout;
        names.into_iter().map(|(name, version)| package_in(&stanzas, &name, &version)).collect()
    }

    /// Fetches the packages' files into the folder.
    pub(super) fn download(&self, packages: &[Package], into: &Path) -> Result<Finished, CommandError> {
        let mut command = self.command("apt-get");
        command.arg("download").current_dir(into);
        command.args(packages.iter().map(|package| format!("{}={}", package.name, package.version)));
        run_well(&mut command, APT_LIMIT)
    }
}

fn unknown(package: &str, fetched: &Finished, source: CommandError) -> ImageError {
    ImageError::UnknownPackage { package: package.to_owned(), fetching: fetched.tail(), source }
}

/// The names and versions of what a simulation would install: its lines `Inst NAME (VERSION ARCHIVE…)`, sorted by name.
fn to_install(simulated: &str) -> Vec<(String, String)> {
    let one = |line: &str| {
        let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
        Some((name.to_owned(), rest.split([' ', ')']).next()?.to_owned()))
    };
    let mut names: Vec<_> = simulated.lines().filter_map(one).collect();
    names.sort();
    names
}

/// The package of that name and version among stanzas.
fn package_in(stanzas: &str, name: &str, version: &str) -> Result<Package, ImageError> {
    let is_it =
        |stanza: &&str| field(stanza, "Package") == Some(name) && field(stanza, "Version") == Some(version);
    let stanza = stanzas.split("\n\n").map(str::trim_start).find(is_it);
    let stanza = stanza.ok_or_else(|| entry_error(name, "Version"))?;
    package(stanza, name)
}

/// The package that a stanza describes.
pub(super) fn package(stanza: &str, name: &str) -> Result<Package, ImageError> {
    let text = |what| field(stanza, what).map(str::to_owned).ok_or_else(|| entry_error(name, what));
    Ok(Package { name: name.to_owned(), version: text("Version")?, sha256: text("SHA256")? })
}

/// A field of the first stanza (deb822(5); only fields of one line are asked for).
pub(super) fn field<'a>(stanza: &'a str, name: &str) -> Option<&'a str> {
    stanza
        .lines()
        .take_while(|line| !line.is_empty())
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
        .filter(|value| !value.is_empty())
}

pub(super) fn entry_error(package: &str, field: &'static str) -> ImageError {
    ImageError::PackageEntry { package: package.to_owned(), field }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANZAS: &str = "Package: a\nVersion: 1:2-3\nSHA256:  00ff\nDescription: A\n of two lines\n\n\
                           Package: a\nVersion: 4\nSHA256: 01\n\nPackage: b\nVersion: 1:2-3\nSize: 5\n";

    #[test]
    fn fields_are_those_of_the_first_stanza() {
        assert_eq!(field(STANZAS, "Version"), Some("1:2-3"));
        assert_eq!(field(STANZAS, "SHA256"), Some("00ff"));
        assert_eq!(field(STANZAS, "Size"), None);
        assert_eq!(field(STANZAS, "SHA"), None);
    }

    #[test]
    fn packages_are_found_by_name_and_version() {
        let found = |name, version| package_in(STANZAS, name, version).map(|package| package.sha256);
        assert_eq!(found("a", "1:2-3").unwrap(), "00ff");
        assert_eq!(found("a", "4").unwrap(), "01");
        assert_eq!(
            found("a", "5").unwrap_err().to_string(),
            "apt's entry for package a has no usable Version"
        );
        assert_eq!(
            found("b", "1:2-3").unwrap_err().to_string(),
            "apt's entry for package b has no usable SHA256"
        );
    }

    #[test]
    fn a_simulation_says_what_would_be_installed() {
        let said = "Reading package lists...\n  libc6 iproute2\n\
                    Inst libcap2 (1:2.66-4+deb12u3+b1 Debian:12.15/oldstable [amd64])\n\
                    Inst iproute2 (6.1.0-3 Debian:12.15/oldstable [amd64]) []\n\
                    Conf libcap2 (1:2.66-4+deb12u3+b1 Debian:12.15/oldstable [amd64])\n";
        let pairs = [("iproute2", "6.1.0-3"), ("libcap2", "1:2.66-4+deb12u3+b1")];
        assert_eq!(to_install(said), pairs.map(|(name, version)| (name.to_owned(), version.to_owned())));
    }

    #[test]
    fn apt_is_pointed_at_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let apt = Apt::prepare(&Cache::open(folder.path()).unwrap()).unwrap();
        let line = crate::host::command_line(&apt.command("apt-get"));
        let root = apt.root.display();
        assert_eq!(
            line,
            format!(
                "apt-get -q -c {root}/apt.conf -o Dir::State={root}/state \
                 -o Dir::State::status={root}/status -o Dir::Cache={root}/cache"
            )
        );
    }
}
