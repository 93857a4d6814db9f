//! The nodes' own programs: static, so that they need nothing beside them.

use super::error::ImageError;
use crate::host::run_well;
use crate::progress::Progress;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The nodes' target.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The profile in the workspace's manifest: small and stripped.
const PROFILE: &str = "node";

/// A build from nothing on a slow machine.
const BUILD_LIMIT: Duration = Duration::from_mins(30);

/// What the agent of an image has beside its networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentBuild {
    /// Nothing: an emulated node boots faster so.
    Plain,
    /// The ledger and volumes.
    Volumes,
    /// These, and rules that can be broken on purpose ([`crate::seeded`]).
    SeededBugs,
}

impl AgentBuild {
    /// The features that cargo is asked for.
    fn features(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Volumes => Some("agent/volumes"),
            Self::SeededBugs => Some("agent/seeded-bugs"),
        }
    }
}

/// The programs that run on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// The agent, `/init` of the image.
    pub agent: PathBuf,
    /// What carries out a harness's commands on a node of a lab, `/bin/hands` of the image.
    pub hands: PathBuf,
    /// What writes to a volume in a lab so that it can be judged, `/bin/workload` of the image.
    pub workload: PathBuf,
    /// What gives a node's storage one order, without its agent, `/bin/storage-trial` of the image.
    pub storage_trial: PathBuf,
}

/// Builds the programs as they run on nodes, and returns their paths. Cargo decides what is to be done anew.
///
/// `workspace` is the folder with the workspace's manifest; the build's own folder is `node` under `target`, so that it
/// neither waits for nor disturbs other builds.
pub fn build_programs(
    workspace: &Path,
    target: &Path,
    agent: AgentBuild,
    progress: &dyn Progress,
) -> Result<Programs, ImageError> {
    progress.step("building the agent");
    let mut command = build_command(workspace, &target.join("node"), agent);
    run_well(&mut command, BUILD_LIMIT).map_err(ImageError::BuildPrograms)?;
    let built = |name| {
        let path = target.join("node").join(TARGET).join(PROFILE).join(name);
        if path.is_file() { Ok(path) } else { Err(ImageError::NoProgram { path }) }
    };
    Ok(Programs {
        agent: built("twinrackd")?,
        hands: built("hands")?,
        workload: built("workload")?,
        storage_trial: built("storage-trial")?,
    })
}

fn build_command(workspace: &Path, target: &Path, agent: AgentBuild) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace).args(["build", "--quiet", "--bins"]);
    command
        .args(["--package", "agent", "--package", "hands", "--package", "workload"])
        .args(["--package", "storage", "--features", "storage/kernel"])
        .args(agent.features().into_iter().flat_map(|features| ["--features", features]))
        .args(["--profile", PROFILE, "--target", TARGET, "--target-dir"])
        .arg(target);
    command.arg("--config");
    command.arg(format!("target.{TARGET}.rustflags=[\"-C\",\"target-feature=+crt-static\"]"));
    // Either would replace the flags above, and the binaries would be dynamic.
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
}
