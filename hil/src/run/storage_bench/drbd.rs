//! DRBD 8.4, the one in Debian's kernel, in a measurement: by its own low-level programs, without configuration files.
//!
//! It has a whole drive on each node, and one connection over the first storage network, which is all that 8.4 can have.

use super::node::{Bench, Place, refused};
use super::until;
use crate::run::RunError;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

const SETUP: &str = "/lib/drbd/drbdsetup-84";
const META: &str = "/sbin/drbdmeta";
const RESOURCE: &str = "bench";
const MINOR: &str = "0";
const PORT: u16 = 7789;
/// Which of each node's drives it has.
const DRIVE: usize = 2;
/// How long it may take to connect: it tries every ten seconds.
const CONNECT_BOUND: Duration = Duration::from_secs(30);
/// How long it may take to bring a peer up to date.
const SYNC_BOUND: Duration = Duration::from_mins(1);

/// What users open.
pub(super) fn device() -> PathBuf {
    format!("/dev/drbd{MINOR}").into()
}

/// Whether it flushes drives between dependent writes, and its own data: on both nodes.
pub(super) async fn flushes(bench: &Bench<'_>, flushes: bool) -> Result<(), RunError> {
    let word = if flushes { "yes" } else { "no" };
    let [disk, md] = ["disk", "md"].map(|of| format!("--{of}-flushes={word}"));
    for place in [&bench.owner, &bench.peer] {
        bench.run(place, &[SETUP, "disk-options", MINOR, &disk, &md]).await?;
    }
    Ok(())
}

/// A device on both nodes, in use on the owner.
#[derive(Debug)]
pub(super) struct Drbd;

impl Drbd {
    pub(super) async fn make(bench: &Bench<'_>) -> Result<Self, RunError> {
        for place in [&bench.owner, &bench.peer] {
            let drive = folders(bench, place).await?;
            let create = [META, "--force", MINOR, "v08", &drive, "internal", "create-md"];
            bench.run(place, &create).await?;
        }
        up(bench, &bench.owner, &bench.peer).await?;
        up(bench, &bench.peer, &bench.owner).await?;
        until("DRBD's connection", CONNECT_BOUND, || says(bench, "cstate", "Connected")).await?;
        // Both drives hold zeros, so they are equal.
        bench.run(&bench.owner, &[SETUP, "new-current-uuid", MINOR, "--clear-bitmap=yes"]).await?;
        until("DRBD's agreement", SYNC_BOUND, || says(bench, "dstate", "UpToDate/UpToDate")).await?;
        bench.run(&bench.owner, &[SETUP, "primary", MINOR]).await?;
        Ok(Self)
    }

    /// Starts it on a peer that is back; what was written to its drive, and how long it took until both had everything, from when
    /// they were told to connect.
    pub(super) async fn resync(&self, bench: &Bench<'_>) -> Result<(u64, Duration), RunError> {
        folders(bench, &bench.peer).await?;
        let before = bench.written_bytes(&bench.peer, DRIVE).await?;
        let begun = Instant::now();
        up(bench, &bench.peer, &bench.owner).await?;
        until("DRBD's connection", CONNECT_BOUND, || async {
            says(bench, "cstate", "WFConnection").await.map(|waits| !waits)
        })
        .await?;
        until("DRBD's resync", SYNC_BOUND, || says(bench, "dstate", "UpToDate/UpToDate")).await?;
        let took = begun.elapsed();
        let written = bench.written_bytes(&bench.peer, DRIVE).await? - before;
        flushes(bench, false).await?;
        Ok((written, took))
    }
}

/// Makes the folders that its programs want; its drive.
async fn folders(bench: &Bench<'_>, on: &Place) -> Result<String, RunError> {
    let folders = ["/var/run/drbd", "/var/lock", "/var/lib/drbd"];
    let mut make = vec!["/bin/busybox", "mkdir", "-p"];
    make.extend(folders);
    bench.run(on, &make).await?;
    bench.device(on, DRIVE).await
}

/// Starts it on a node.
async fn up(bench: &Bench<'_>, on: &Place, peer: &Place) -> Result<(), RunError> {
    let drive = bench.device(on, DRIVE).await?;
    let address = |place: &Place| {
        let first = place.addresses.values().next();
        first
            .map(|address| format!("ipv4:{address}:{PORT}"))
            .ok_or_else(|| refused(on, "connect", "no address"))
    };
    let (own, other) = (address(on)?, address(peer)?);
    bench.run(on, &[SETUP, "new-resource", RESOURCE]).await?;
    bench.run(on, &[SETUP, "new-minor", RESOURCE, MINOR, "0"]).await?;
    // What a crash left in the activity log; nothing on a new one.
    bench.run(on, &[META, MINOR, "v08", &drive, "internal", "apply-al"]).await?;
    bench.run(on, &[SETUP, "attach", MINOR, &drive, &drive, "internal"]).await?;
    bench.run(on, &[SETUP, "connect", RESOURCE, &own, &other, "--protocol=C"]).await?;
    Ok(())
}

/// Whether the owner's answer to a question is this.
async fn says(bench: &Bench<'_>, question: &str, wanted: &str) -> Result<bool, RunError> {
    Ok(bench.run(&bench.owner, &[SETUP, question, MINOR]).await?.trim() == wanted)
}
