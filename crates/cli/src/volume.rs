//! `twinrack volume`: what volumes there are, where their copies are, and making and deleting them.
//!
//! Purpose: read the access file, ask the cluster through `deploy`, print. What is shown is what the ledger says by the word of a quorum.
//!
//! On failure: [`VolumeError`], with what to do; exit code 2 if the access file or a size can't be read, 1 otherwise. What had begun stands:
//! the command can be given again.

mod shown;

use crate::Outcome;
use api::{Access, Client, ClientError, Endpoint, TlsIdentity};
use clap::{Args, Subcommand, ValueEnum};
use deploy::Member;
use deploy::pool::{self, PoolError, VolumeRequest};
use model::{Mirror, VolumeName, ZoneName};
use shown::{Listed, Shown};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLES: &str = "\
The access file names the cluster's agents and the certificate to show them, with paths that are relative to it:

  { \"ca\": \"ca.pem\", \"certificate\": \"client.pem\", \"key\": \"client.key\", \"agents\": { \"node-a1\": \"10.0.0.11:7443\" } }

A kept lab (`cargo xtask hil --keep`) has one in its directory.

Examples:
  twinrack volume --access access.json list
  twinrack volume --access access.json show data
  twinrack volume --access access.json create data --size 10GiB --mirror two-way
  twinrack volume --access access.json delete data --close

Exit codes: 0 good; 1 the cluster refused or did not answer; 2 the access file or the command line can't be read.";

/// Volumes: list, show, create, delete.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct VolumeArgs {
    /// Where the agents are, and who asks.
    #[arg(long, env = "TWINRACK_ACCESS", value_name = "FILE")]
    access: PathBuf,
    /// Print one JSON object, for programs.
    #[arg(long, global = true)]
    json: bool,
    /// How long to wait for the cluster, seconds.
    #[arg(long, global = true, default_value_t = 60, value_name = "SECONDS")]
    within: u64,
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Every volume, and what each node has left.
    List,
    /// One volume: each copy's rack, node, drive and state.
    Show {
        /// Its name or its id (`volume-1`).
        volume: String,
    },
    /// Make a volume, and wait until it is open with every copy in sync. One that is there and is what is asked for is let alone.
    Create {
        /// Its name.
        name: VolumeName,
        /// Its size: a number with KiB, MiB, GiB or TiB, or of bytes; whole blocks of 4096 bytes.
        #[arg(long, value_parser = size)]
        size: u64,
        /// How many copies: two-way is one in each rack, four-way two in each rack on different nodes.
        #[arg(long, value_enum, default_value_t = Copies::TwoWay)]
        mirror: Copies,
        /// In which rack it is opened first.
        #[arg(long)]
        rack: Option<ZoneName>,
    },
    /// Delete a volume and all that is on it. One that is open is refused.
    Delete {
        /// Its name or its id.
        volume: String,
        /// Close it first; refused while somebody uses it.
        #[arg(long)]
        close: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Copies {
    TwoWay,
    FourWay,
}

/// Why a command about volumes failed.
#[derive(Debug, thiserror::Error)]
enum VolumeError {
    #[error("can't read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is no access file", path.display())]
    Access {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("can't use the identity of {}", path.display())]
    Identity {
        path: PathBuf,
        #[source]
        source: Box<ClientError>,
    },
    #[error("can't start")]
    Runtime(#[source] io::Error),
    #[error(transparent)]
    Pool(Box<PoolError>),
    #[error("there is no volume {0}")]
    NoSuch(String),
}

impl From<PoolError> for VolumeError {
    fn from(error: PoolError) -> Self {
        Self::Pool(Box::new(error))
    }
}

impl VolumeError {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Read { .. } | Self::Access { .. } | Self::Identity { .. } => Outcome::Unreadable,
            Self::Runtime(_) | Self::Pool(_) | Self::NoSuch(_) => Outcome::Violated,
        }
    }

    fn help(&self) -> &'static str {
        match self {
            Self::Read { .. } | Self::Access { .. } | Self::Identity { .. } => {
                "`twinrack volume --help` says what an access file has"
            }
            Self::Runtime(_) => "see that the host has threads and memory left",
            Self::Pool(error) => error.help(),
            Self::NoSuch(_) => "`twinrack volume list` shows names and ids",
        }
    }
}

/// `10GiB` and the like, in bytes.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        unit => return Err(format!("`{unit}` is no unit: KiB, MiB, GiB and TiB are")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("`{digits}` is no whole number"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text} is more than can be counted"))
}

/// The ways to the agents.
fn members(path: &Path) -> Result<Vec<Member>, VolumeError> {
    let read = |path: &Path| {
        let failed = |source| VolumeError::Read { path: path.to_owned(), source };
        fs::read_to_string(path).map_err(failed)
    };
    let failed = |source| VolumeError::Access { path: path.to_owned(), source };
    let access: Access = serde_json::from_str(&read(path)?).map_err(failed)?;
    let beside = |file: &Path| path.parent().unwrap_or(Path::new("")).join(file);
    let identity = TlsIdentity {
        ca_pem: read(&beside(&access.ca))?,
        certificate_pem: read(&beside(&access.certificate))?,
        key_pem: api::PrivateKeyPem::new(read(&beside(&access.key))?),
    };
    let member = |(name, address): (model::NodeName, _)| {
        let failed = |error| VolumeError::Identity { path: path.to_owned(), source: Box::new(error) };
        let client = Client::new(Endpoint { node: name.clone(), address }, &identity).map_err(failed)?;
        Ok(Member { name, zone: None, adapters: BTreeMap::new(), client })
    };
    access.agents.into_iter().map(member).collect()
}

pub(crate) fn run(args: &VolumeArgs) -> io::Result<Outcome> {
    let done = members(&args.access).and_then(|members| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(VolumeError::Runtime)?.block_on(carry_out(args, &members))
    });
    match done {
        Ok(text) => {
            io::stdout().lock().write_all(text.as_bytes())?;
            Ok(Outcome::Good)
        }
        Err(error) => {
            let mut out = io::stderr().lock();
            writeln!(out, "error: {error}")?;
            let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
            for cause in causes {
                writeln!(out, "  because: {cause}")?;
            }
            writeln!(out, "  help: {}", error.help())?;
            Ok(error.outcome())
        }
    }
}

async fn carry_out(args: &VolumeArgs, members: &[Member]) -> Result<String, VolumeError> {
    let bound = Duration::from_secs(args.within);
    match &args.task {
        Task::List => {
            let (_, state) = pool::confirmed(members, bound).await?;
            let listed = Listed::of(&state);
            Ok(if args.json { shown::json(&listed) } else { listed.to_string() })
        }
        Task::Show { volume } => show(args, members, bound, volume).await,
        Task::Create { name, size, mirror, rack } => {
            let mirror = match mirror {
                Copies::TwoWay => Mirror::TwoWay,
                Copies::FourWay => Mirror::FourWay,
            };
            let (name, size_bytes, rack) = (name.clone(), *size, rack.clone());
            let ready =
                pool::volume(members, &VolumeRequest { name, mirror, size_bytes, rack }, bound).await?;
            show(args, members, bound, &ready.id.to_string()).await
        }
        Task::Delete { volume, close } => {
            let (_, state) = pool::confirmed(members, bound).await?;
            let id = shown::find(&state, volume).ok_or_else(|| VolumeError::NoSuch(volume.clone()))?;
            pool::delete(members, id, *close, bound).await?;
            Ok(if args.json { shown::json(&shown::Deleted::new(id)) } else { format!("{id} is deleted\n") })
        }
    }
}

async fn show(
    args: &VolumeArgs,
    members: &[Member],
    bound: Duration,
    volume: &str,
) -> Result<String, VolumeError> {
    let (_, state) = pool::confirmed(members, bound).await?;
    let views = pool::views(members).await;
    let found = shown::find(&state, volume).and_then(|id| Shown::of(&state, &views, id));
    let shown = found.ok_or_else(|| VolumeError::NoSuch(volume.to_owned()))?;
    Ok(if args.json { shown::json(&shown) } else { shown.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let sizes =
            [("4096", 4096), ("4KiB", 4096), ("64MiB", 1 << 26), ("10GiB", 10 << 30), ("2TiB", 2 << 40)];
        for (text, bytes) in sizes {
            assert_eq!(size(text), Ok(bytes));
        }
        for bad in ["", "GiB", "-1", "1.5GiB", "10GB", "99999999999999TiB", "1 GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_access_file_says_so_and_ends_with_2() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.json");
        assert!(matches!(members(&path), Err(VolumeError::Read { .. })));
        fs::write(&path, "{\"ca\": 7}").unwrap();
        let error = members(&path).unwrap_err();
        assert!(matches!(error, VolumeError::Access { .. }) && error.outcome() == Outcome::Unreadable);
        fs::write(&path, r#"{"ca": "ca.pem", "certificate": "c", "key": "k", "agents": {}}"#).unwrap();
        assert!(matches!(members(&path), Err(VolumeError::Read { path, .. }) if path.ends_with("ca.pem")));
    }
}
