//! The real kernel behind [`super::Network`], and the seam that tests put another one in.

use api::{Applied, Outcome};
use network::kernel::{ApplyError, ApplyOutcome, ApplyReport, Netlink, NetlinkError, apply, restore};
use network::link::AdapterMap;
use network::{CurrentLinks, Difference, NetworkPlan, Op, ResolveError, diff, differences, revert};

/// What observes and changes links.
pub(crate) trait Executor: Send + Sync + 'static {
    fn observe(&self) -> impl Future<Output = Result<CurrentLinks, NetlinkError>> + Send;
    /// Whether a way leads from these links to the plan. Touches nothing.
    fn check(&self, now: &CurrentLinks, plan: &NetworkPlan) -> Result<(), ApplyError>;
    /// What of these links is not as planned. Touches nothing.
    fn differences(&self, now: &CurrentLinks, plan: &NetworkPlan) -> Result<Vec<Difference>, ResolveError>;
    /// What leads from these links to those of before a plan. Touches nothing.
    fn way_back(
        &self,
        now: &CurrentLinks,
        before: &CurrentLinks,
        plan: &NetworkPlan,
    ) -> Result<Vec<Op>, ApplyError>;
    fn apply(&self, plan: &NetworkPlan) -> impl Future<Output = Result<Applied, ApplyError>> + Send;
    fn restore(
        &self,
        before: &CurrentLinks,
        plan: &NetworkPlan,
    ) -> impl Future<Output = Result<Applied, ApplyError>> + Send;
}

/// The kernel of this machine.
#[derive(Debug)]
pub(crate) struct Kernel {
    netlink: Netlink,
    adapters: AdapterMap,
}

impl Kernel {
    pub(crate) fn open(adapters: AdapterMap) -> Result<Self, NetlinkError> {
        Ok(Self { netlink: Netlink::open()?, adapters })
    }
}

impl Executor for Kernel {
    async fn observe(&self) -> Result<CurrentLinks, NetlinkError> {
        self.netlink.observe().await
    }

    fn check(&self, now: &CurrentLinks, plan: &NetworkPlan) -> Result<(), ApplyError> {
        diff(now, plan, &self.adapters)?;
        Ok(())
    }

    fn differences(&self, now: &CurrentLinks, plan: &NetworkPlan) -> Result<Vec<Difference>, ResolveError> {
        differences(now, plan, &self.adapters)
    }

    fn way_back(
        &self,
        now: &CurrentLinks,
        before: &CurrentLinks,
        plan: &NetworkPlan,
    ) -> Result<Vec<Op>, ApplyError> {
        Ok(revert(now, before, plan, &self.adapters)?.ops)
    }

    async fn apply(&self, plan: &NetworkPlan) -> Result<Applied, ApplyError> {
        apply(&self.netlink, plan, &self.adapters).await.map(|report| applied(plan, report))
    }

    async fn restore(&self, before: &CurrentLinks, plan: &NetworkPlan) -> Result<Applied, ApplyError> {
        restore(&self.netlink, before, plan, &self.adapters).await.map(|report| applied(plan, report))
    }
}

fn applied(plan: &NetworkPlan, report: ApplyReport) -> Applied {
    Applied {
        generation: plan.generation,
        changed: report.changed,
        duration_us: report.duration_us,
        outcome: match report.outcome {
            ApplyOutcome::Unchanged => Outcome::Unchanged,
            ApplyOutcome::Applied => Outcome::Applied,
            ApplyOutcome::RolledBack { why } => Outcome::RolledBack { why },
            ApplyOutcome::RollbackFailed { why, then } => Outcome::RollbackFailed { why, then },
        },
        pending: false,
    }
}
