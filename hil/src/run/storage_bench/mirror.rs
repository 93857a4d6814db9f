//! Our engine's legs and mirrors in a measurement, by `/bin/storage-trial`.

use super::node::{Bench, Place, serial};
use crate::run::RunError;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

/// A volume's number, and which of each node's drives its legs have.
type Volume = (u32, usize);

/// The mirror of two.
pub(super) const TWO_WAY: Volume = (1, 0);
/// The mirror of all.
pub(super) const WIDE: Volume = (2, 3);
/// The legs that are measured alone.
const ALONE: Volume = (3, 1);

/// There are no others here.
const EPOCH: u32 = 1;
/// How long a rebuild may take, s.
const REBUILD_S: u64 = 50;

/// Makes a leg and gives it out; its device here.
async fn give_out(
    bench: &Bench<'_>,
    (volume, drive): Volume,
    (place, leg): (&Place, usize),
    incarnation: u32,
) -> Result<String, RunError> {
    let serial = serial(place, drive)?;
    if incarnation == 1 {
        let claim = json!({ "claim": { "serial": serial, "drive": leg, "wipe": false } });
        bench.trial(place, volume, &claim).await?;
        bench.trial(place, volume, &json!({ "make": { "serial": serial, "leg": leg } })).await?;
    }
    let give_out = json!({ "give_out": {
        "serial": serial, "leg": leg, "epoch": EPOCH, "incarnation": incarnation, "to": bench.owner.id,
    } });
    bench.trial_device(place, volume, &give_out).await
}

/// Legs without a mirror above them.
#[derive(Debug)]
pub(super) struct Alone {
    /// The owner's own.
    pub(super) local: PathBuf,
    /// The gate to the peer's.
    pub(super) remote: PathBuf,
}

impl Alone {
    pub(super) async fn make(bench: &Bench<'_>) -> Result<Self, RunError> {
        let local = give_out(bench, ALONE, (&bench.owner, 0), 1).await?;
        give_out(bench, ALONE, (&bench.peer, 1), 1).await?;
        let reach = json!({ "reach": { "epoch": EPOCH, "leg": 1, "incarnation": 1, "node": bench.peer.id } });
        let remote = bench.trial_device(&bench.owner, ALONE.0, &reach).await?;
        Ok(Self { local: local.into(), remote: remote.into() })
    }
}

/// A mirror that is open on the owner.
#[derive(Debug)]
pub(super) struct Mirror {
    volume: Volume,
    /// What users open.
    pub(super) device: PathBuf,
    /// The peer's leg, and how often it was given out.
    peer: (usize, u32),
}

impl Mirror {
    /// With a leg on each of these nodes, the owner the first.
    pub(super) async fn make(bench: &Bench<'_>, volume: Volume, places: &[Place]) -> Result<Self, RunError> {
        let mut legs = BTreeMap::new();
        let mut peer = 0;
        for (leg, place) in places.iter().enumerate() {
            give_out(bench, volume, (place, leg), 1).await?;
            legs.insert(leg, json!([1, place.id]));
            peer = if place.name == bench.peer.name { leg } else { peer };
        }
        let assemble = json!({ "assemble": {
            "epoch": EPOCH, "legs": legs, "make_equal": false, "stale": [], "maps": 1, "known": 0,
        } });
        bench.trial(&bench.owner, volume.0, &assemble).await?;
        let admit = json!({ "admit": { "epoch": EPOCH } });
        let device = bench.trial_device(&bench.owner, volume.0, &admit).await?;
        Ok(Self { volume, device: device.into(), peer: (peer, 1) })
    }

    /// The order that waits until the peer's leg has no path, and then lets it go at once; for which volume it is.
    pub(super) fn guard(&self, within_ms: u32) -> (u32, Value) {
        let guard = json!({ "epoch": EPOCH, "leg": self.peer.0, "seconds": within_ms / 1000 });
        (self.volume.0, json!({ "guard": guard }))
    }

    /// Brings the peer's leg up to date once the peer is back; what was written to its drive, and how long it took.
    pub(super) async fn rebuild(&mut self, bench: &Bench<'_>) -> Result<(u64, Duration), RunError> {
        let (leg, incarnation) = (self.peer.0, self.peer.1 + 1);
        let (volume, drive) = self.volume;
        give_out(bench, self.volume, (&bench.peer, leg), incarnation).await?;
        self.peer.1 = incarnation;
        let before = bench.written_bytes(&bench.peer, drive).await?;
        let begun = Instant::now();
        let rebuild = json!({ "rebuild": {
            "epoch": EPOCH, "leg": leg, "incarnation": incarnation, "node": bench.peer.id, "base": "changes",
        } });
        bench.trial(&bench.owner, volume, &rebuild).await?;
        let end = json!({ "await_rebuild": { "epoch": EPOCH, "seconds": REBUILD_S } });
        bench.trial(&bench.owner, volume, &end).await?;
        let flush = json!({ "flush": { "leg": leg, "epoch": EPOCH, "incarnation": incarnation } });
        bench.trial(&bench.peer, volume, &flush).await?;
        let took = begun.elapsed();
        let written = bench.written_bytes(&bench.peer, drive).await? - before;
        // md waits for an answer at the end of a copy (docs/storage.md).
        let release = json!({ "release": { "epoch": EPOCH, "legs": [] } });
        bench.trial(&bench.owner, volume, &release).await?;
        Ok((written, took))
    }
}
