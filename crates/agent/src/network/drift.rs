//! Drift: somebody else changes links of the plan in force; it is found, told and mended.
//!
//! ```text
//!     the kernel told of a change, or half a minute passed
//!   wait ──────────────────────────────────────────────────▶ look: links against the plan in force, twice the same
//!     ▲                                                        │ as planned              │ differs
//!     ├────────────────────────────────────────────────────────┘                         ▼
//!     └──────────────────────────────────── mend at once; after a pause, if that failed or it is contested
//! ```
//! To mend is to apply the plan in force once more ([`Executor::apply`]): the same way as the first time, read back, and taken
//! back to what was found if it fails. So what is told, and what is touched, is what the plan names, and no more.
//!
//! Invariants:
//! - Only a plan in force is looked at: while one is pending, what comes is the dead-man's business, and one that was taken
//!   back is nobody's wish. Looking and mending hold the same lock as everything else that changes links. After a restart it
//!   goes on with the plan that is settled on disk; what was told before is lost with the agent.
//! - Carrier is no attribute of a plan: a pulled cable is no drift. A NIC that is gone leaves the plan without a way
//!   ([`network::ResolveError`]): then nothing is compared and nothing touched, also of the rest of the links, until it is back;
//!   [`Drifts::unable`] says so.
//! - Never a fight at full speed: what comes back more than [`RETURNS_MAX`] times in a minute is contested, and mended after a
//!   pause that doubles each time up to [`PAUSE_MAX_MS`].
//! - [`Log`] decides and has no clock; all its lists are bounded.
//!
//! On failure: a repair that fails is told in its drift, and tried again after 1, 2, 4 … 60 s for as long as the drift stands. While anything
//! stands, or can't be compared, or no plan is in force, and when the kernel's messages are not heard any more, it is looked every [`EVERY`].
//!
//! What is not given back: routes that went with a link or address. Plans name none, so nobody knows here that they were wanted.

use super::{Changes, Disk, Executor, Network};
use crate::{chain, clock};
use api::{Applied, Drift, DriftGlance, Drifts, LinkChange, Outcome, Repair};
use model::NodeName;
use network::{Attribute, Difference, LinkName, NetworkPlan};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

/// How often it is looked when nobody tells: drift shall be found within 5 s, and a loaded node is slow.
const EVERY: Duration = Duration::from_secs(2);
/// How often it is looked while all is as planned and the kernel would tell of a change: for what it does not tell. A look is several dumps of
/// all links.
const SELDOM: Duration = Duration::from_secs(30);
/// A look is several dumps, and links may change between them: what differs must differ the same twice. At most so many looks.
const LOOKS_MAX: u32 = 4;
/// Drifts that are remembered.
const KEPT: usize = 64;
/// Attributes that are told of one drift.
const DIFFERENCES_MAX: usize = 32;
/// Changes that are told with one drift.
const CHANGES_MAX: usize = 16;
/// What is found more often than this in a minute is contested.
const RETURNS_MAX: usize = 5;
const MINUTE_MS: u64 = 60_000;
/// The first pause before what is contested is mended.
const PAUSE_FIRST_MS: u64 = 2000;
/// The longest pause, before what is contested and before what failed.
const PAUSE_MAX_MS: u64 = 60_000;
/// Attributes whose returns are remembered. A node has some dozens.
const KEYS_MAX: usize = 256;

impl<E: Executor, D: Disk> Network<E, D> {
    /// Finds and mends drift for as long as the agent lives. Not to be dropped half-way but with the agent.
    pub(crate) async fn mend_drift(self: Arc<Self>, changes: Arc<Changes>) {
        let start = Instant::now();
        let (mut seen, mut missed) = (0, 0);
        loop {
            let news = changes.since(seen).await;
            let is_told = news.is_ok();
            let mut told = Vec::new();
            if let Ok(news) = news {
                (seen, missed, told) = (news.count, news.missed, news.changes);
            }
            let as_planned = self.look(told, start).await;
            let pause = if is_told && as_planned { SELDOM } else { EVERY };
            tokio::select! {
                () = changes.beyond(seen, missed) => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Looks once, and mends what is due. Whether all was found as the plan in force says.
    async fn look(&self, told: Vec<LinkChange>, start: Instant) -> bool {
        let links = self.state.lock().await;
        let Some(plan) = links.in_force() else {
            self.drifts.lock().end(&Repair::Gone);
            return false;
        };
        let found = match self.find(plan).await {
            Ok(found) => found,
            Err(why) => {
                self.drifts.lock().unable(&self.node, why);
                return false;
            }
        };
        let due = self.drifts.lock().found(now(start), &found, told);
        if due {
            let mended = mend(&self.executor, plan).await;
            self.drifts.lock().tried(now(start), mended);
        }
        found.is_empty()
    }

    /// What differs from the plan, seen twice.
    async fn find(&self, plan: &NetworkPlan) -> Result<Vec<Difference>, String> {
        let mut before = Vec::new();
        for _ in 0..LOOKS_MAX {
            let current = self.executor.observe().await.map_err(|error| chain(&error))?;
            let found = self.executor.differences(&current, plan).map_err(|error| chain(&error))?;
            if found == before {
                return Ok(found);
            }
            before = found;
        }
        // It changes faster than one can look; it differs all the same.
        Ok(before)
    }

    pub(crate) fn drifts_at_a_glance(&self) -> DriftGlance {
        let log = self.drifts.lock();
        let standing = log.last.iter().filter(|drift| drift.repair.stands()).count();
        DriftGlance { count: log.count, standing: u32::try_from(standing).unwrap_or(u32::MAX) }
    }
}

/// Applies the plan in force. Good: how long that took, or `None` if there was nothing to do any more.
async fn mend<E: Executor>(executor: &E, plan: &NetworkPlan) -> Result<Option<u64>, String> {
    let Applied { outcome, duration_us, .. } = executor.apply(plan).await.map_err(|error| chain(&error))?;
    match outcome {
        Outcome::Applied => Ok(Some(duration_us)),
        Outcome::Unchanged => Ok(None),
        Outcome::RolledBack { why } => Err(format!("{why}; the links are as they were found")),
        Outcome::RollbackFailed { why, then } => {
            Err(format!("{why}; and the way back to what was found failed: {then}"))
        }
    }
}

/// When something is decided, and how that is told.
#[derive(Debug, Clone, Copy, Default)]
struct Now {
    /// Since looking began, on a clock that never jumps; tests turn it.
    ms: u64,
    /// How long the machine has been up.
    uptime_ms: u64,
}

fn now(start: Instant) -> Now {
    let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    Now { ms, uptime_ms: clock::uptime_ms() }
}

/// The log, where requests can read it while links are changed.
#[derive(Debug, Default)]
pub(super) struct Shared(Mutex<Log>);

impl Shared {
    /// Nothing is half done in a log: after a panic elsewhere it is still good.
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn all(&self) -> Drifts {
        let log = self.lock();
        Drifts { count: log.count, last: log.last.iter().cloned().collect(), unable: log.unable.clone() }
    }
}

/// What was found, and what is to be done about it.
#[derive(Debug, Default)]
struct Log {
    count: u64,
    last: VecDeque<Drift>,
    unable: Option<String>,
    /// What the kernel told since all was well, without what we did.
    told: VecDeque<LinkChange>,
    /// Until when what the kernel told was our own doing.
    ours_until_ms: u64,
    /// What is not as planned, as last seen. Drifts stand exactly while this is not empty.
    standing: Vec<Difference>,
    /// When it is to be mended.
    due_ms: u64,
    /// How often that failed in a row.
    tries: u32,
    returns: BTreeMap<(LinkName, Attribute), Returns>,
}

/// How often the same attribute was found to differ.
#[derive(Debug, Default)]
struct Returns {
    /// When, in the last minute, milliseconds.
    lately: VecDeque<u64>,
    last_ms: u64,
    /// 0: it is not contested.
    pause_ms: u64,
}

impl Returns {
    /// Found again; gives the pause before it is mended.
    fn again(&mut self, now_ms: u64) -> u64 {
        // What stayed away for longer than it was left alone has calmed down.
        if now_ms.saturating_sub(self.last_ms) > MINUTE_MS.max(2 * self.pause_ms) {
            *self = Self::default();
        }
        self.last_ms = now_ms;
        self.lately.push_back(now_ms);
        self.lately.retain(|found_ms| now_ms - found_ms < MINUTE_MS);
        if self.pause_ms > 0 {
            self.pause_ms = (2 * self.pause_ms).min(PAUSE_MAX_MS);
        } else if self.lately.len() > RETURNS_MAX {
            self.pause_ms = PAUSE_FIRST_MS;
        }
        self.pause_ms
    }
}

impl Log {
    /// Takes in what a look found; gives whether it is to be mended now.
    fn found(&mut self, now: Now, found: &[Difference], told: Vec<LinkChange>) -> bool {
        if self.unable.take().is_some() {
            info!("the links can be compared with the plan again");
        }
        self.told.extend(told.into_iter().filter(|change| change.at_ms > self.ours_until_ms));
        let surplus = self.told.len().saturating_sub(CHANGES_MAX);
        self.told.drain(..surplus);
        if found.is_empty() {
            self.end(&Repair::Gone);
            return false;
        }
        let fresh: Vec<Difference> =
            found.iter().filter(|difference| !self.standing.contains(difference)).cloned().collect();
        if !fresh.is_empty() {
            let pause_ms = fresh.iter().map(|difference| self.again(difference, now.ms)).max();
            let pause_ms = pause_ms.unwrap_or_default();
            let due_ms = now.ms.saturating_add(pause_ms);
            // Something new may be what lets the rest be mended.
            self.due_ms = if self.standing.is_empty() { due_ms } else { self.due_ms.min(due_ms) };
            self.note(now, fresh, pause_ms > 0);
        }
        self.standing = found.to_vec();
        now.ms >= self.due_ms
    }

    fn again(&mut self, difference: &Difference, now_ms: u64) -> u64 {
        let key = (difference.link.clone(), difference.attribute);
        if self.returns.len() >= KEYS_MAX && !self.returns.contains_key(&key) {
            let oldest = self.returns.iter().min_by_key(|(_, returns)| returns.last_ms);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.returns.remove(&oldest);
            }
        }
        self.returns.entry(key).or_default().again(now_ms)
    }

    fn note(&mut self, now: Now, mut differences: Vec<Difference>, contested: bool) {
        differences.truncate(DIFFERENCES_MAX);
        self.count += 1;
        let drift = Drift {
            number: self.count,
            found_at_ms: now.uptime_ms,
            differences,
            changes: self.told.iter().cloned().collect(),
            contested,
            repair: Repair::Due,
        };
        warn!("drift {}: {drift}", self.count);
        if self.last.len() >= KEPT {
            self.last.pop_front();
        }
        self.last.push_back(drift);
    }

    /// How a repair went.
    fn tried(&mut self, now: Now, mended: Result<Option<u64>, String>) {
        self.ours_until_ms = now.uptime_ms;
        match mended {
            Ok(Some(duration_us)) => {
                let after_ms = |drift: &Drift| now.uptime_ms.saturating_sub(drift.found_at_ms);
                for drift in self.last.iter_mut().filter(|drift| drift.repair.stands()) {
                    drift.repair = Repair::Mended { after_ms: after_ms(drift), duration_us };
                    info!("drift {} mended in {duration_us} us", drift.number);
                }
                self.end(&Repair::Gone);
            }
            Ok(None) => self.end(&Repair::Gone),
            Err(why) => {
                self.tries = self.tries.saturating_add(1);
                let doubled = 1000u64.saturating_mul(2u64.saturating_pow(self.tries - 1));
                self.due_ms = now.ms.saturating_add(doubled.min(PAUSE_MAX_MS));
                self.told.clear();
                warn!("drift can't be mended, try {}: {why}", self.tries);
                for drift in self.last.iter_mut().filter(|drift| drift.repair.stands()) {
                    let before = if let Repair::Failed { tries, .. } = drift.repair { tries } else { 0 };
                    drift.repair = Repair::Failed { tries: before.saturating_add(1), why: why.clone() };
                }
            }
        }
    }

    /// Nothing stands any more.
    fn end(&mut self, how: &Repair) {
        for drift in self.last.iter_mut().filter(|drift| drift.repair.stands()) {
            drift.repair = how.clone();
        }
        self.told.clear();
        self.standing.clear();
        self.tries = 0;
    }

    /// The links can't be seen, or not be compared with the plan.
    fn unable(&mut self, node: &NodeName, why: String) {
        if self.unable.as_ref() != Some(&why) {
            warn!("{node}: can't look for drift: {why}");
        }
        self.unable = Some(why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now { ms, uptime_ms: 1_000_000 + ms }
    }

    fn differs(link: &str, found: &str) -> Difference {
        Difference {
            link: link.parse().unwrap(),
            attribute: Attribute::Mtu,
            expected: "9000".to_owned(),
            found: found.to_owned(),
        }
    }

    fn change(number: u64, at_ms: u64) -> LinkChange {
        LinkChange { number, kind: "link".to_owned(), index: Some(7), name: None, at_ms }
    }

    fn repairs(log: &Log) -> Vec<Repair> {
        log.last.iter().map(|drift| drift.repair.clone()).collect()
    }

    #[test]
    fn what_stands_is_told_once_and_what_joins_it_is_told_apart() {
        let mut log = Log::default();
        let (one, two) = (differs("a", "1400"), differs("b", "1400"));
        assert!(log.found(at(0), std::slice::from_ref(&one), Vec::new()));
        log.tried(at(1), Err("EBUSY".to_owned()));
        assert!(
            !log.found(at(999), std::slice::from_ref(&one), Vec::new()),
            "not before a second has passed"
        );
        assert!(
            log.found(at(1000), &[one.clone(), two.clone()], Vec::new()),
            "something new is tried at once"
        );
        log.tried(at(1001), Err("EBUSY".to_owned()));
        assert!(!log.found(at(3000), &[one.clone(), two.clone()], Vec::new()), "two seconds after two tries");
        assert!(log.found(at(3001), &[one.clone(), two.clone()], Vec::new()));
        let failed = |tries| Repair::Failed { tries, why: "EBUSY".to_owned() };
        assert_eq!(repairs(&log), [failed(2), failed(1)]);
        assert_eq!(
            log.last.iter().map(|drift| drift.differences.clone()).collect::<Vec<_>>(),
            [[one], [two]]
        );
        log.tried(at(3002), Ok(Some(7)));
        let mended = |after_ms| Repair::Mended { after_ms, duration_us: 7 };
        assert_eq!(repairs(&log), [mended(3002), mended(2002)]);
    }

    #[test]
    fn a_drift_is_told_with_what_the_kernel_told_before_it_but_not_with_our_own_doing() {
        let mut log = Log::default();
        let told = |log: &Log| log.last.back().unwrap().changes.iter().map(|c| c.number).collect::<Vec<_>>();
        assert!(!log.found(at(0), &[], vec![change(1, 999_000)]));
        let one = [differs("a", "1400")];
        assert!(log.found(at(10), &one, (2..40).map(|number| change(number, 1_000_005)).collect()));
        assert_eq!(told(&log), (24..40).collect::<Vec<_>>());
        log.tried(at(20), Ok(Some(7)));
        assert!(log.found(at(30), &one, vec![change(40, 1_000_020), change(41, 1_000_021)]));
        assert_eq!(told(&log), [41]);
    }

    #[test]
    fn what_comes_back_again_and_again_is_mended_ever_more_slowly_until_it_calms_down() {
        let mut log = Log::default();
        let one = [differs("a", "1400")];
        let mut now_ms = 0;
        let mut waited = Vec::new();
        for _ in 0..14 {
            let found_ms = now_ms;
            while !log.found(at(now_ms), &one, Vec::new()) {
                now_ms += 100;
            }
            waited.push((now_ms - found_ms) / 1000);
            log.tried(at(now_ms), Ok(Some(7)));
            now_ms += 100;
        }
        assert_eq!(waited, [0, 0, 0, 0, 0, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
        assert!(log.last.iter().map(|drift| drift.contested).eq((0..14).map(|n| n >= 5)));
        // Another attribute is not made to wait.
        assert!(log.found(at(now_ms), &[differs("b", "1400")], Vec::new()));
        log.tried(at(now_ms), Ok(Some(7)));
        assert!(log.found(at(now_ms + 121_000), &one, Vec::new()) && !log.last.back().unwrap().contested);
    }

    #[test]
    fn everything_is_bounded() {
        let mut log = Log::default();
        for round in 0..300u64 {
            let links: Vec<_> = (0..40).map(|n| differs(&format!("x{round}y{n}"), "1400")).collect();
            log.found(at(round), &links, (0..40).map(|n| change(n, 2_000_000)).collect());
            log.tried(at(round), Ok(Some(1)));
        }
        let last = log.last.back().unwrap();
        assert_eq!((log.count, log.last.len(), log.returns.len()), (300, KEPT, KEYS_MAX));
        assert_eq!((last.differences.len(), last.changes.len()), (DIFFERENCES_MAX, CHANGES_MAX));
        for _ in 0..100 {
            log.tried(at(0), Err("EBUSY".to_owned()));
        }
        assert_eq!(log.due_ms, PAUSE_MAX_MS);
    }
}
