//! What earlier suites have left in the cluster, out of the next one's way.
//!
//! On failure: [`DeployError`], as of any other request.

use super::Runner;
use control::vm::Wanted;
use deploy::DeployError;
use std::time::Duration;
use tokio::time::Instant;

impl Runner<'_> {
    /// Deletes what earlier suites have left, which was judged at their ends; says so, and how long it took.
    pub(super) async fn delete_former(&self, bound: Duration) -> Result<String, DeployError> {
        let members = &self.cluster.members;
        let begun = Instant::now();
        let (_, state) = deploy::pool::confirmed(members, bound).await?;
        let mut words = Vec::new();
        for id in state.vms.all.keys() {
            deploy::vms::want(members, *id, Wanted::Stopped, bound, |_| {}).await?;
            deploy::vms::delete(members, *id, bound).await?;
            words.push(format!("{id} deleted; "));
        }
        for (id, volume) in &state.volumes {
            deploy::pool::delete(members, *id, true, bound).await?;
            let after_ms = begun.elapsed().as_millis();
            words.push(format!("{id} ({}) deleted after {after_ms} ms; ", volume.name));
        }
        Ok(words.concat())
    }
}
