//! What the agents use while nothing happens.

use super::{Runner, Seen};
use crate::lab::{AgentUsage, LabError};
use model::NodeName;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

impl Runner<'_> {
    /// For so long the agents use so much of one processor at most, percent, and each holds so much memory at most, MiB. Nobody asks them anything meanwhile.
    pub(super) async fn agents_rest(
        &mut self,
        for_long: Duration,
        (percent, mib): (u16, u16),
    ) -> Result<Seen, LabError> {
        // The watch asks every agent five times a second: that is not rest, and not theirs.
        let _unwatched = self.watch.rest();
        let begun = Instant::now();
        let before = self.agents_use().await?;
        sleep(for_long).await;
        let after = self.agents_use().await?;
        Ok(judge(&before, &after, begun.elapsed(), (percent, mib)))
    }

    async fn agents_use(&self) -> Result<BTreeMap<NodeName, AgentUsage>, LabError> {
        let mut used = BTreeMap::new();
        for (name, node) in self.lab.nodes() {
            used.insert(name.clone(), node.agent_usage().await?);
        }
        Ok(used)
    }
}

fn judge(
    before: &BTreeMap<NodeName, AgentUsage>,
    after: &BTreeMap<NodeName, AgentUsage>,
    took: Duration,
    (percent_at_most, mib_at_most): (u16, u16),
) -> Seen {
    let mut said = Vec::new();
    let (mut processor_ms, mut memory_kib) = (0, 0);
    for (name, now) in after {
        let Some(then) = before.get(name).filter(|then| then.process == now.process) else {
            return Seen::not(format!("the agent of {name} started anew"));
        };
        let used_ms = now.processor_ms.saturating_sub(then.processor_ms);
        said.push(format!(
            "{name} {:.1} % and {} MiB",
            percent(used_ms, took),
            now.memory_kib.div_ceil(1024)
        ));
        processor_ms += used_ms;
        memory_kib = memory_kib.max(now.memory_kib);
    }
    let percent = percent(processor_ms, took);
    let what = format!("{percent:.1} % of a processor together: {}", said.join(", "));
    let good = percent <= f64::from(percent_at_most) && memory_kib <= u64::from(mib_at_most) * 1024;
    if good { Seen::held(what) } else { Seen::not(what) }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of one measurement")]
fn percent(used_ms: u64, took: Duration) -> f64 {
    used_ms as f64 / took.as_secs_f64() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(process: u64, processor_ms: u64, memory_kib: u64) -> BTreeMap<NodeName, AgentUsage> {
        let name = |name: &str| name.parse::<NodeName>().unwrap();
        let usage = |ms| AgentUsage { process, processor_ms: ms, memory_kib };
        [(name("a1"), usage(processor_ms)), (name("b1"), usage(2 * processor_ms))].into()
    }

    #[test]
    fn agents_that_use_too_much_are_told() {
        let look = |after: &_, at_most| judge(&used(9, 100, 1), after, Duration::from_secs(10), at_most);
        // 500 ms and 1000 ms more: 15 % of ten seconds.
        let after = used(9, 600, 40 * 1024);
        let seen = look(&after, (15, 40));
        assert!(seen.good, "{seen:?}");
        assert!(seen.what.contains("15.0 %") && seen.what.contains("a1 5.0 % and 40 MiB"), "{seen:?}");
        assert!(!look(&after, (14, 40)).good && !look(&after, (15, 39)).good);
        assert!(!look(&used(8, 600, 1), (15, 40)).good, "another process has other times");
    }
}
