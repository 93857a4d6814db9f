//! Times and sizes of the ledger.

use openraft::SnapshotPolicy;
use std::sync::Arc;
use std::time::Duration;

/// How long a snapshot may take on its way, ms: kilobytes, but the machine that takes it may be emulated.
const SNAPSHOT_LIMIT_MS: u64 = 10_000;
/// Entries in one message.
const MESSAGE_ENTRIES_MAX: u64 = 64;
/// The longest request that is proposed. A specification of the largest cluster is some ten kilobytes.
pub(crate) const REQUEST_BYTES_MAX: usize = 128 << 10;

/// Times and sizes. docs/ledger.md says where the numbers come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How often the leader is heard, ms.
    pub heartbeat_ms: u32,
    /// How long a follower may take for a message, ms; then it is sent again.
    pub request_limit_ms: u32,
    /// How long a candidate waits for a vote, ms.
    pub vote_limit_ms: u32,
    /// How long no leader must have been heard before a voter stands or lets another stand, ms.
    pub silence_ms: u32,
    /// Up to how much later a voter stands, ms: drawn each time, so that two seldom stand at once.
    pub jitter_ms: u32,
    /// How often every other member is greeted, ms, so that the way to it stays open.
    pub greet_ms: u32,
    /// How long a proposal may take, ms; then its outcome is unknown.
    pub propose_limit_ms: u32,
    /// How long a change of voters may take, ms, the time that new ones need to catch up included.
    pub voters_limit_ms: u32,
    /// After how many entries a snapshot is made.
    pub snapshot_after_entries: u32,
    /// How many entries behind the snapshot are kept, for followers that are a little late.
    pub keep_entries: u32,
    /// Seed of the jitter; `None`: another each time.
    pub seed: Option<u64>,
}

impl Default for Config {
    /// A dead leader's successor is elected 0.45 to 1.0 s after its death: silence and jitter, less up to one heartbeat, and two
    /// round trips.
    fn default() -> Self {
        Self {
            heartbeat_ms: 200,
            request_limit_ms: 300,
            vote_limit_ms: 400,
            silence_ms: 600,
            jitter_ms: 300,
            greet_ms: 20_000,
            propose_limit_ms: 5000,
            voters_limit_ms: 10_000,
            snapshot_after_entries: 1000,
            keep_entries: 200,
            seed: None,
        }
    }
}

/// Times that contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the ledger's times must be ordered: heartbeat_ms < request_limit_ms < vote_limit_ms < silence_ms, jitter_ms and \
     snapshot_after_entries at least 1"
)]
pub struct ConfigError;

impl Config {
    pub(crate) fn raft(&self) -> Result<Arc<openraft::Config>, ConfigError> {
        let ordered = [self.heartbeat_ms, self.request_limit_ms, self.vote_limit_ms, self.silence_ms];
        let ordered = ordered.is_sorted_by(|a, b| a < b) && self.heartbeat_ms > 0;
        if !ordered || self.jitter_ms == 0 || self.snapshot_after_entries == 0 {
            return Err(ConfigError);
        }
        let config = openraft::Config {
            cluster_name: "twinrack".to_owned(),
            // openraft takes its limit for a message from this; heartbeats come from the elector.
            heartbeat_interval: self.request_limit_ms.into(),
            election_timeout_min: self.vote_limit_ms.into(),
            // Also how long a follower of a leader gives no vote to another.
            election_timeout_max: self.silence_ms.into(),
            install_snapshot_timeout: SNAPSHOT_LIMIT_MS,
            max_payload_entries: MESSAGE_ENTRIES_MAX,
            replication_lag_threshold: u64::from(self.snapshot_after_entries) * 4,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_after_entries.into()),
            max_in_snapshot_log_to_keep: self.keep_entries.into(),
            enable_elect: false,
            enable_heartbeat: false,
            ..openraft::Config::default()
        };
        config.validate().map(Arc::new).map_err(|_| ConfigError)
    }

    pub(crate) fn heartbeat(&self) -> Duration {
        millis(self.heartbeat_ms)
    }

    pub(crate) fn request_limit(&self) -> Duration {
        millis(self.request_limit_ms)
    }

    pub(crate) fn silence(&self) -> Duration {
        millis(self.silence_ms)
    }

    pub(crate) fn greet_every(&self) -> Duration {
        millis(self.greet_ms)
    }

    pub(crate) fn propose_limit(&self) -> Duration {
        millis(self.propose_limit_ms)
    }

    pub(crate) fn voters_limit(&self) -> Duration {
        millis(self.voters_limit_ms)
    }
}

fn millis(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_ordered_and_what_is_not_is_refused() {
        assert!(Config::default().raft().is_ok());
        assert!(Config { silence_ms: 300, ..Config::default() }.raft().is_err());
        assert!(Config { heartbeat_ms: 0, ..Config::default() }.raft().is_err());
        assert!(Config { jitter_ms: 0, ..Config::default() }.raft().is_err());
    }
}
