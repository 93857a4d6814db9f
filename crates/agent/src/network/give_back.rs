//! The links as they were found: what leads there, and going there for good.
//!
//! What was found is written down before the first plan of a boot is made ([`Saved::found`]); going there is the way back of a plan that is not confirmed, from further away. So an agent that dies in the middle of it
//! is followed by one that goes on, and what fails is tried again.
//!
//! Invariants: nothing is given back while a plan waits for its confirmation. Once it has begun no plan is made again in a later boot.
//!
//! On failure: [`ChangeError::NotGivenBack`]; the agent goes on trying, and it can be asked again.

use super::{
    ChangeError, CurrentLinks, Disk, Executor, Found, Links, Network, Outcome, Refused, Saved, Stage,
};
use api::{GivenBack, WayHome};
use std::sync::Arc;

const UNKNOWN: &str =
    "an agent that did not write down what it found has made them; they go with the node's next restart";

impl<E: Executor, D: Disk> Network<E, D> {
    /// What was found in this boot, if `now` is that, or was written down.
    pub(super) fn found(&self, saved: &Saved, now: &CurrentLinks) -> Option<Found> {
        let is_known = saved.found_in(&self.boot).is_some();
        if saved.is_touched_in(&self.boot) || (is_known && saved.committed.is_some()) {
            return saved.found.clone();
        }
        Some(Found { links: now.clone(), boot: self.boot.clone() })
    }

    /// What would lead to the links as they were found.
    pub(crate) async fn way_home(&self) -> Result<WayHome, ChangeError> {
        let links = self.state.lock().await;
        let Some(plan) = &links.saved.plan else { return Ok(WayHome::default()) };
        let found = match (&links.saved.stage, &links.saved.committed) {
            (Stage::Open { before, .. }, None) => before,
            (_, None) => return Ok(WayHome::default()),
            (_, Some(_)) => match links.saved.found_in(&self.boot) {
                Some(found) => found,
                None => return Ok(WayHome { ops: Vec::new(), unknown: Some(UNKNOWN.to_owned()) }),
            },
        };
        let now = self.executor.observe().await.map_err(ChangeError::Observe)?;
        let ops = self.executor.way_back(&now, found, plan).map_err(ChangeError::Apply)?;
        Ok(WayHome { ops, unknown: None })
    }

    /// Makes the links as they were found, and forgets that there was a plan. Links of which nobody knows how they were stay until the next boot, which has no plan. Don't drop the future half-way: run it as a task of its own.
    pub(crate) async fn give_back(self: &Arc<Self>) -> Result<GivenBack, ChangeError> {
        let given = |changed| GivenBack { changed, unknown: None };
        let mut links = self.state.lock().await;
        if links.stopping {
            return Err(Refused::Stopping.into());
        }
        let is_open = matches!(links.saved.stage, Stage::Open { .. });
        match (&links.saved.plan, &links.saved.committed) {
            (Some(plan), Some(_)) if is_open => {
                return Err(Refused::Pending { pending: plan.generation }.into());
            }
            (_, None) if !is_open => return Ok(given(false)),
            // One that is being taken back, to what was found or to what was there before it: once more.
            (_, None) => {}
            (_, Some(_)) => {
                if let Some(why) = self.let_go(&mut links)? {
                    return Ok(GivenBack { changed: false, unknown: Some(why.to_owned()) });
                }
            }
        }
        match self.take_back(&mut links, "the node is given back").await {
            Some(Outcome::RollbackFailed { then, .. }) => Err(ChangeError::NotGivenBack(then)),
            None | Some(Outcome::RolledBack { .. } | Outcome::Applied | Outcome::Unchanged) => {
                Ok(given(true))
            }
        }
    }

    /// From here on the plan in force is one that is taken back, to what was found. Where that is not known it is taken for taken back, and why is said.
    fn let_go(&self, links: &mut Links) -> Result<Option<&'static str>, ChangeError> {
        let boot = Some(self.boot.clone());
        let (stage, unknown) = match links.saved.found_in(&self.boot).cloned() {
            Some(before) => (Stage::Open { before, boot: boot.clone() }, None),
            None => (Stage::TakenBack { why: UNKNOWN.to_owned() }, Some(UNKNOWN)),
        };
        let plan = links.saved.plan.clone();
        self.save(links, Saved { stage, committed: None, made_in: boot, found: None, plan })?;
        links.next = super::Next::Nothing;
        Ok(unknown)
    }
}
