//! How fast copies are brought up to date.
//!
//! On failure: [`PoolError`]; what was there before stays.

use super::volume::confirmed;
use super::{PoolError, settle};
use crate::Member;
use control::state::RebuildRate;
use control::{ClusterCommand, Command, Rejected, State};
use std::time::Duration;

/// Sets it, for all copies from now on.
pub async fn set_rebuild_rate(
    members: &[Member],
    rate: RebuildRate,
    bound: Duration,
) -> Result<(), PoolError> {
    if !rate.is_sound() {
        return Err(PoolError::Rate(Rejected::RebuildRate(rate)));
    }
    let (contact, _) = confirmed(members, bound).await?;
    let set = Command::Cluster(ClusterCommand::SetRebuildRate(rate));
    let is_set = |state: &State| state.settings.rebuild == rate;
    settle(contact, "the rate of rebuilds to be set", bound, &set, is_set).await.map(drop)
}
