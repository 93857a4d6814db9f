//! Nodes that lose their power or stand still, and come back.
//!
//! What must hold when they do: nobody has to help them. A node makes the links of its confirmed plan by itself, and
//! until all is well nothing but what was broken was named.

use super::{Runner, Seen, or_failure};
use crate::run::RunError;
use crate::suite::Step;
use deploy::{Cluster, DeployError, plan_for};
use model::NodeName;
use network::{Generation, diff};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

impl Runner<'_> {
    /// The cluster without the nodes that the lab keeps from working.
    pub(super) fn working(&self) -> Cluster {
        let down = self.lab.down();
        let mut cluster = self.cluster.clone();
        cluster.members.retain(|member| !down.contains(&member.name));
        for zone in &mut cluster.spec.zones {
            zone.nodes.retain(|node| !down.contains(&node.name));
        }
        cluster
    }

    /// Cycles the power of nodes, and sees them come back.
    pub(super) async fn power_cycle(&mut self, step: &Step, bound: Duration) -> Result<Seen, RunError> {
        let since = Instant::now();
        let made = self.break_it(step).await?;
        if !made.good {
            return Ok(made);
        }
        let expected = self.expected();
        let mut seen = self.come_back(step, (since, since + bound)).await?;
        let named = self.namings.judged(&expected, expected.len(), 2 * expected.len());
        if seen.good && !named.good {
            return Ok(named);
        }
        seen.what = format!("{}; {}", seen.what, named.what);
        Ok(seen)
    }

    /// Gives nodes their power back, or lets them go on, and sees them come back.
    pub(super) async fn bring_back(&mut self, step: &Step, bound: Duration) -> Result<Seen, RunError> {
        let since = Instant::now();
        let strays = self.vigil.end();
        let mut seen = self.come_back(step, (since, since + bound)).await?;
        if !strays.is_empty() {
            seen = Seen::not(strays.join("\n"));
        }
        Ok(seen)
    }

    /// Within a bound the nodes have made their links by themselves; if nothing else is broken, all is well, and nothing but the
    /// faults made was named on the way.
    async fn come_back(
        &mut self,
        step: &Step,
        (since, deadline): (Instant, Instant),
    ) -> Result<Seen, RunError> {
        // Some of it may be mended already: it was named while it was broken.
        let broken = self.broken.clone();
        let names = self.lab.nodes_of(&self.cluster.spec, step)?;
        // Who lost its power for a moment is broken until it answers.
        let is_cycle = matches!(step, Step::PowerCycle { .. });
        if !is_cycle {
            self.note_drives_of(&names)?;
            self.undo(step).await?;
        }
        let made = or_failure(self.made_their_links(&names, since, deadline).await);
        if is_cycle {
            self.undo(step).await?;
        }
        let is_whole = self.lab.faults().is_empty();
        if !made.good || !is_whole {
            return Ok(made);
        }
        let well = self.well_by(deadline).await;
        if !well.good {
            return Ok(well);
        }
        let after = since.elapsed().as_millis();
        let judged = self.namings.judged(&broken, 0, usize::MAX);
        let what = format!("{}; all well after {after} ms", made.what);
        Ok(if judged.good { Seen::held(what) } else { judged })
    }

    async fn undo(&mut self, step: &Step) -> Result<(), RunError> {
        self.lab.bring_back(self.keeper, &self.cluster.spec, step).await?;
        if self.lab.faults().is_empty() {
            self.note_healed();
        }
        Ok(())
    }

    /// Waits until nodes answer and are on their confirmed plans.
    async fn made_their_links(
        &self,
        names: &BTreeSet<NodeName>,
        since: Instant,
        deadline: Instant,
    ) -> Result<Seen, DeployError> {
        let mut words = Vec::new();
        for member in self.cluster.members.iter().filter(|member| names.contains(&member.name)) {
            let name = &member.name;
            let left = deadline.saturating_duration_since(Instant::now());
            member.client.wait_ready(left).await.map_err(DeployError::Ask)?;
            let answered = since.elapsed().as_millis();
            let mut last = "it did not say".to_owned();
            let made = async {
                loop {
                    let state = member.client.network().await.map_err(DeployError::Ask)?;
                    let plan = plan_for(&self.cluster, member, state.generation.unwrap_or(Generation(0)))?;
                    let is_made = state.committed.as_ref().is_some_and(|plan| plan.not_made.is_none());
                    let left = diff(&state.links, &plan, &member.adapters);
                    if is_made && left.as_ref().is_ok_and(Vec::is_empty) {
                        return Ok::<_, DeployError>(());
                    }
                    last = format!("it says {:?}, and still to do is {left:?}", state.committed);
                    tokio::time::sleep(super::POLL).await;
                }
            };
            match timeout_at(deadline, made).await {
                Ok(made) => made?,
                Err(_) => {
                    return Ok(Seen::not(format!("{name} is not on its plan within the bound: {last}")));
                }
            }
            let linked = since.elapsed().as_millis();
            words.push(format!("{name} answers after {answered} ms, has its links after {linked} ms"));
        }
        Ok(Seen::unless(&[], words.join("; ")))
    }
}
