//! The agent's binary for the nodes: static, because the image holds no libraries beside it.

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

/// The binary's name.
const BINARY: &str = "twinrackd";

/// A build from nothing on a slow machine.
const BUILD_LIMIT: Duration = Duration::from_mins(30);

/// Builds the agent as it runs on nodes, and returns the binary's path. Cargo decides what is to be done anew.
///
/// `workspace` is the folder with the workspace's manifest; the build's own folder is `node` under `target`, so that it
/// neither waits for nor disturbs other builds.
pub fn build_agent(workspace: &Path, target: &Path, progress: &dyn Progress) -> Result<PathBuf, ImageError> {
    progress.step("building the agent");
    let mut command = build_command(workspace, &target.join("node"));
    run_well(&mut command, BUILD_LIMIT).map_err(ImageError::BuildAgent)?;
    let path = target.join("node").join(TARGET).join(PROFILE).join(BINARY);
    if path.is_file() { Ok(path) } else { Err(ImageError::NoAgent { path }) }
}

fn build_command(workspace: &Path, target: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace).args(["build", "--quiet"]);
    command
        .args(["--package", "agent", "--profile", PROFILE, "--target", TARGET, "--target-dir"])
        .arg(target);
    command.arg("--config");
    command.arg(format!("target.{TARGET}.rustflags=[\"-C\",\"target-feature=+crt-static\"]"));
    // Either would replace the flags above, and the binary would be dynamic.
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
}
