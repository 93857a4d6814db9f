//! Miswirings from the seed, and a watch over a cluster to which nothing is done.
//!
//! Invariants: what is named is held against what the lab knows it did, for equality, by the task that sees every sighting:
//! nothing that is named for a moment is missed. The watch over a healthy cluster looks at every sighting, too.
//!
//! On failure: the step ends with the first miswiring that does not hold, or the first thing that is raised; what was made is mended.

use super::diagnosis::unwell;
use super::{Runner, Seen};
use crate::lab::miswiring::Miswiring;
use crate::progress::Progress;
use crate::run::RunError;
use crate::ui::Line;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// Within what time from its beginning on a watch knows how long round trips usually take.
const USUAL_BOUND: Duration = Duration::from_secs(30);
/// For how long a miswiring stays after it was named: whatever else it may be taken for shows by then.
const STAYS: Duration = Duration::from_secs(2);
/// How often a person is told how far a long watch has come.
const TELL_EVERY: Duration = Duration::from_mins(1);
/// For how long a cluster may be unwell without a name in a watch over hours: a report that comes late names nothing and is no
/// fault of the cluster. Nobody reports later than this while nothing is wrong.
const LATE_MAX: Duration = Duration::from_secs(5);

impl Runner<'_> {
    /// Makes so many miswirings one after another; each must be named, all of it and nothing else, and be gone in time.
    pub(super) async fn miswire_many(
        &mut self,
        count: u8,
        (named_within, well_within): (Duration, Duration),
        line: &Line,
    ) -> Result<Seen, RunError> {
        let usual = self.usual_is_known().await;
        if !usual.good {
            return Ok(usual);
        }
        let drawn = self.lab.draw_miswirings(&self.cluster.spec, count.into());
        if drawn.len() < usize::from(count) {
            return Ok(Seen::not(format!("only {} miswirings can be made of this cluster", drawn.len())));
        }
        let mut told = Vec::new();
        for (number, miswiring) in (1..).zip(&drawn) {
            line.step(&format!("{number} of {count}: {miswiring}"));
            let seen = self.miswire_one(miswiring, named_within, well_within).await?;
            if !seen.good {
                return Ok(Seen::not(format!("{number} of {count}: {miswiring}: {}", seen.what)));
            }
            told.push(format!("{miswiring}: {}", seen.what));
        }
        Ok(Seen::held(told.join("\n")))
    }

    /// Waits until the watch knows how long round trips usually take.
    pub(super) async fn usual_is_known(&self) -> Seen {
        let since = Instant::now();
        let mut sightings = self.watch.sightings();
        let known =
            timeout_at(since + USUAL_BOUND, sightings.wait_for(|sighting| sighting.knows_usual)).await;
        match known {
            Ok(Ok(_)) => Seen::held(format!("after {} ms", since.elapsed().as_millis())),
            _ => Seen::not("the watch does not know how long round trips usually take"),
        }
    }

    /// One miswiring, from just before it is made until all is well again.
    async fn miswire_one(
        &mut self,
        miswiring: &Miswiring,
        named_within: Duration,
        well_within: Duration,
    ) -> Result<Seen, RunError> {
        self.before_a_fault();
        let now = Instant::now();
        let made = self.lab.miswire(&self.cluster.spec, miswiring).await?;
        self.made(now, &made);
        let named = self.named_within(named_within).await;
        if !named.good {
            return Ok(named);
        }
        sleep(STAYS).await;
        // From before it was made until now: what was named for a moment counts.
        let calm = self.named_calmly(1, usize::MAX);
        let mended = self.heal().await?;
        let well = self.well_by(Instant::now() + well_within).await;
        let all = [&calm, &mended, &well];
        let wrong = all.into_iter().find(|seen| !seen.good).cloned();
        Ok(wrong.unwrap_or_else(|| Seen::held(format!("{}; well {}", named.what, well.what))))
    }

    /// For so long nothing is raised: no loss, no condition, no drift; and all report and carry.
    pub(super) async fn nothing_raised(&self, for_long: Duration, line: &Line) -> Seen {
        let (since, members) = (Instant::now(), self.cluster.members.len());
        let deadline = since + for_long;
        let mut sightings = self.watch.sightings();
        let before = sightings.borrow().drifts.clone();
        let (mut looked, mut last_well, mut tell_at) = (0_u64, since, since + TELL_EVERY);
        while let Ok(Ok(())) = timeout_at(deadline, sightings.changed()).await {
            let sighting = sightings.borrow_and_update().clone();
            looked += 1;
            let after = || format!("after {} s", since.elapsed().as_secs());
            let drifted = sighting
                .drifts
                .iter()
                .any(|(node, now)| before.get(node).is_some_and(|was| was.count != now.count));
            let is_named = !sighting.named().is_empty() || drifted || sighting.drifting().next().is_some();
            if sighting.is_well(members) {
                last_well = sighting.at;
            } else if is_named || sighting.at.duration_since(last_well) > LATE_MAX {
                let drifted = if drifted { "\na drift was found" } else { "" };
                return Seen::not(format!("{}: {}{drifted}", after(), unwell(&sighting, members)));
            }
            if drifted {
                return Seen::not(format!("{}: a drift was found", after()));
            }
            if sighting.at >= tell_at {
                tell_at += TELL_EVERY;
                line.step(&format!(
                    "nothing was raised in {} of {} s",
                    since.elapsed().as_secs(),
                    for_long.as_secs()
                ));
            }
        }
        if Instant::now() < deadline {
            return Seen::not("the watch ended");
        }
        Seen::held(format!("{looked} looks in {} s, and nothing was raised in any", for_long.as_secs()))
    }
}
