//! Leases: without one a node runs no virtual machine and keeps no array.
//!
//! Purpose: that two copies of a virtual machine never run. (The safety of data does not depend on it: fences see to that.)
//! [`Grantor`] is where the ledger's leader is, [`Holder`] on every node.
//!
//! ```text
//!  holder   ask ──────────────────── counts from here ─────────────────► stop users ─► end
//!            │                     ▲ grant                      last feed + watchdog ─► │
//!  grantor   └──► asked ── quorum round that begins now ── confirmed: may hold until ───┼──► + drift
//! ```
//!
//! Why it holds: the round that a grant rests on began after the request came, so the quorum knew no later leader when the
//! holder had long sent it. A later leader's first confirmed round comes after that, and from there it waits a full
//! lease and the drift of two clocks before it takes that any node has none. The leader itself counts from when the request came:
//! it had been sent by then.
//!
//! Requests that come within [`ROUND_EVERY`] share a round: each is a message to every voter.
//!
//! Invariants: a grant for a request that the holder doesn't remember is nothing. The watchdog is fed only while its timeout ends before the lease does.
//!
//! On failure: a lost message costs a try; a lease that runs out costs the users of the node, not the data.

use crate::moment::Moment;
use crate::state::Settings;
use model::NodeId;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often a round with the quorum begins, at most.
///
/// A little less than two looks: one that comes a moment early is the one that is meant.
const ROUND_EVERY: Duration = Duration::from_millis(180);

/// What a holder needs to know of its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HolderTiming {
    /// How often to ask.
    pub ask_every: Duration,
    /// How long before the end users are stopped.
    pub stop_before: Duration,
    /// The same for those that an earlier run of the agent has left: they are killed without more ado, and until then this run has to start and to get
    /// a lease, if need be from a leader that has to be elected first.
    pub stop_left_before: Duration,
    /// When the watchdog resets a node that does not feed it.
    pub watchdog: Duration,
}

impl Default for HolderTiming {
    /// Five tries within the two seconds of a lease of 3 s that leave one to stop what runs. Looks come every 100 or 200 ms, now and then a moment early: asked is every 400.
    fn default() -> Self {
        let ask_every = Duration::from_millis(350);
        let (stop_before, stop_left_before) = (Duration::from_secs(1), Duration::from_millis(500));
        Self { ask_every, stop_before, stop_left_before, watchdog: Duration::from_secs(1) }
    }
}

/// What a holder orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HolderEffect {
    /// Ask the leader.
    Ask(u64),
    /// There is a lease (again): owners may make arrays.
    Leased,
    /// It ends soon: kill virtual machines, stop arrays.
    StopUsers,
    /// Feed the watchdog.
    Feed,
}

/// A node that needs a lease.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Holder {
    timing: HolderTiming,
    asked: BTreeMap<u64, Moment>,
    next: u64,
    ask_at: Moment,
    until: Option<Moment>,
    leased: bool,
    /// Users of an earlier run of the agent may be here, whose lease is over then at the latest.
    users_until: Option<Moment>,
}

impl Holder {
    /// Requests that are still waited for; older ones are forgotten.
    const ASKED_MAX: usize = 8;

    /// At the agent's start. `first` is greater than any request that an earlier run of the agent made (the clock's ms will do).
    pub fn new(timing: HolderTiming, first: u64) -> Self {
        let (asked, ask_at, until) = (BTreeMap::new(), Moment(0), None);
        Self { timing, asked, next: first, ask_at, until, leased: false, users_until: None }
    }

    /// An earlier run of the agent may have left users, whose lease ends at this moment at the latest: they are stopped unless there is
    /// another by then.
    #[must_use]
    pub fn with_users_until(self, end: Moment) -> Self {
        Self { users_until: Some(end), ..self }
    }

    /// Whether users may run.
    pub fn is_leased(&self) -> bool {
        self.leased
    }

    /// When the lease ends that this request gets if it is granted; `None`: it is not remembered, and gets none.
    pub fn lease_of(&self, settings: Settings, request: u64) -> Option<Moment> {
        let sent = self.asked.get(&request)?;
        Some(sent.after(Duration::from_millis(settings.lease_ms.into())))
    }

    /// There is another leader, who knows of nothing that was asked: it is asked in the next step.
    pub fn led_by_another(&mut self) {
        self.ask_at = Moment(0);
    }

    /// Time has passed; or a grant has come for this request.
    pub fn step(&mut self, now: Moment, settings: Settings, granted: Option<u64>) -> Vec<HolderEffect> {
        let mut effects = Vec::new();
        if let Some(request) = granted {
            self.until = self.until.max(self.lease_of(settings, request));
            self.asked.remove(&request);
        }
        let holds = self.until.is_some_and(|until| now.after(self.timing.stop_before) < until);
        if holds != self.leased {
            self.leased = holds;
            effects.push(if holds { HolderEffect::Leased } else { HolderEffect::StopUsers });
            self.users_until = None;
        }
        if self.users_until.take_if(|end| now.after(self.timing.stop_left_before) >= *end).is_some() {
            effects.push(HolderEffect::StopUsers);
        }
        let drift = Duration::from_millis(settings.drift_ms.into());
        let fed_until = now.after(self.timing.watchdog).after(drift);
        if self.until.is_some_and(|until| fed_until < until) {
            effects.push(HolderEffect::Feed);
        }
        if now >= self.ask_at {
            self.ask_at = now.after(self.timing.ask_every);
            self.asked.insert(self.next, now);
            if self.asked.len() > Self::ASKED_MAX {
                self.asked.pop_first();
            }
            effects.push(HolderEffect::Ask(self.next));
            self.next += 1;
        }
        effects
    }
}

/// What a grantor is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantorEvent {
    /// This node has become the ledger's leader, as far as it knows.
    Leading,
    /// It no longer is.
    Deposed,
    /// Time has passed.
    Look,
    /// A node asks.
    Asked(NodeId, u64),
    /// A quorum has confirmed the leadership, in a round that began when [`GrantorEffect::Confirm`] was ordered.
    Confirmed(u64),
    /// That round failed.
    Unconfirmed(u64),
}

/// What a grantor orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantorEffect {
    /// Begin a round with the quorum now.
    Confirm(u64),
    /// Grant this request.
    Grant(NodeId, u64),
}

/// A node's request: its number, and when it came.
type Request = (u64, Moment);

/// The leader's memory of who may have a lease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Grantor {
    leading: bool,
    since: Option<Moment>,
    waiting: BTreeMap<NodeId, Request>,
    round: Option<(u64, BTreeMap<NodeId, Request>)>,
    rounds: u64,
    /// When the last round began.
    began: Option<Moment>,
    ends: BTreeMap<NodeId, Moment>,
}

impl Grantor {
    /// Something happened.
    pub fn step(&mut self, now: Moment, settings: Settings, event: GrantorEvent) -> Vec<GrantorEffect> {
        let mut effects = Vec::new();
        match event {
            GrantorEvent::Leading => self.leading = true,
            GrantorEvent::Deposed => {
                // Rounds keep counting: an answer to one of before means nothing.
                *self = Self { rounds: self.rounds, ..Self::default() };
            }
            GrantorEvent::Asked(node, request) => {
                if self.leading {
                    self.waiting.insert(node, (request, now));
                }
            }
            GrantorEvent::Look => {}
            GrantorEvent::Confirmed(round) => {
                if let Some((_, asked)) = self.round.take_if(|(running, _)| *running == round) {
                    self.since = self.since.or(Some(now));
                    for (node, (request, came)) in asked {
                        self.ends.insert(node, came.after(longest(settings)));
                        effects.push(GrantorEffect::Grant(node, request));
                    }
                }
            }
            GrantorEvent::Unconfirmed(round) => {
                if let Some((_, asked)) = self.round.take_if(|(running, _)| *running == round) {
                    // The next round begins later still: what it confirms holds for them as well.
                    for (node, request) in asked {
                        self.waiting.entry(node).or_insert(request);
                    }
                }
            }
        }
        let needed = self.leading && (self.since.is_none() || !self.waiting.is_empty());
        let rested = self.began.is_none_or(|began| now >= began.after(ROUND_EVERY));
        if needed && rested && self.round.is_none() {
            self.rounds += 1;
            self.began = Some(now);
            self.round = Some((self.rounds, std::mem::take(&mut self.waiting)));
            effects.push(GrantorEffect::Confirm(self.rounds));
        }
        effects
    }

    /// Whether a quorum has confirmed this leadership.
    pub fn is_confirmed(&self) -> bool {
        self.since.is_some()
    }

    /// When it was first confirmed; `None`: it is not.
    pub fn since(&self) -> Option<Moment> {
        self.since
    }

    /// Whether a node may have a lease, from this leader or one before it, or get one for what it has asked: whoever takes its lease for over decides that beside a grant
    /// that may be on its way.
    pub fn may_hold(&self, now: Moment, settings: Settings, node: NodeId) -> bool {
        let of_another = self.since.is_none_or(|since| now < since.after(longest(settings)));
        let lasts = |(_, came): &Request| now < came.after(longest(settings));
        let asked = self.waiting.get(&node).is_some_and(lasts)
            || self.round.as_ref().and_then(|(_, asked)| asked.get(&node)).is_some_and(lasts);
        of_another || asked || self.ends.get(&node).is_some_and(|end| now < *end)
    }
}

fn longest(settings: Settings) -> Duration {
    Duration::from_millis(u64::from(settings.lease_ms) + u64::from(settings.drift_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NODE: NodeId = NodeId(2);

    /// The leader is without its quorum for a while, in which what was asked waits; when the quorum is back it is granted.
    #[test]
    fn whose_request_waits_may_get_its_lease_yet() {
        let (settings, mut leader) = (Settings::default(), Grantor::default());
        let long = longest(settings);
        leader.step(Moment(0), settings, GrantorEvent::Leading);
        leader.step(Moment(1), settings, GrantorEvent::Confirmed(1));
        let later = Moment(1).after(long);
        assert!(!leader.may_hold(later, settings, NODE));
        leader.step(later, settings, GrantorEvent::Asked(NODE, 7));
        assert!(leader.may_hold(later, settings, NODE), "its round is under way");
        leader.step(later, settings, GrantorEvent::Unconfirmed(2));
        assert!(leader.may_hold(later, settings, NODE), "it waits for the next");
        assert!(!leader.may_hold(later.after(long), settings, NODE), "a grant would be over when it comes");
    }

    /// A clock that runs a little fast or slow.
    #[derive(Debug, Clone, Copy)]
    struct Clock {
        offset: u64,
        per_mille: i64,
    }

    impl Clock {
        fn at(self, real: u64) -> Moment {
            let run = i64::try_from(real).unwrap() * (1000 + self.per_mille) / 1000;
            Moment(self.offset + u64::try_from(run).unwrap())
        }
    }

    fn clock() -> impl Strategy<Value = Clock> {
        (0u64..100_000, -20i64..=20).prop_map(|(offset, per_mille)| Clock { offset, per_mille })
    }

    /// Two leaders one after the other, a holder, and messages that take their time or never come.
    struct Trial {
        holder: (Holder, Clock),
        leaders: [(Grantor, Clock); 2],
        /// From when the quorum follows the second.
        elected_at: u64,
        asks: Vec<(u64, usize, u64)>,
        rounds: Vec<(u64, u64, usize, u64)>,
        grants: Vec<(u64, u64)>,
    }

    impl Trial {
        fn tick(&mut self, real: u64, delays: &mut impl Iterator<Item = u64>) {
            let settings = Settings::default();
            let granted: Vec<u64> =
                due(&mut self.grants, real).into_iter().map(|(_, request)| request).collect();
            for request in granted.into_iter().map(Some).chain([None]) {
                let (holder, clock) = &mut self.holder;
                for effect in holder.step(clock.at(real), settings, request) {
                    let HolderEffect::Ask(request) = effect else { continue };
                    for leader in 0..2 {
                        self.asks.push((real + delays.next().unwrap_or(0), leader, request));
                    }
                }
            }
            let asks: Vec<_> = self.asks.extract_if(.., |(at, _, _)| *at <= real).collect();
            for (_, leader, request) in asks {
                self.lead(real, leader, GrantorEvent::Asked(NODE, request), delays);
            }
            let rounds: Vec<_> = self.rounds.extract_if(.., |(at, _, _, _)| *at <= real).collect();
            for leader in 0..2 {
                self.lead(real, leader, GrantorEvent::Look, delays);
            }
            for (_, acked_at, leader, round) in rounds {
                let follows =
                    if leader == 0 { acked_at < self.elected_at } else { acked_at >= self.elected_at };
                let event =
                    if follows { GrantorEvent::Confirmed(round) } else { GrantorEvent::Unconfirmed(round) };
                self.lead(real, leader, event, delays);
            }
        }

        fn lead(
            &mut self,
            real: u64,
            leader: usize,
            event: GrantorEvent,
            delays: &mut impl Iterator<Item = u64>,
        ) {
            let (grantor, clock) = &mut self.leaders[leader];
            for effect in grantor.step(clock.at(real), Settings::default(), event) {
                match effect {
                    GrantorEffect::Confirm(round) => {
                        let acked_at = real + delays.next().unwrap_or(0);
                        self.rounds.push((acked_at + delays.next().unwrap_or(0), acked_at, leader, round));
                    }
                    GrantorEffect::Grant(_, request) => {
                        self.grants.push((real + delays.next().unwrap_or(0), request));
                    }
                }
            }
        }
    }

    fn due(messages: &mut Vec<(u64, u64)>, real: u64) -> Vec<(u64, u64)> {
        messages.extract_if(.., |(at, _)| *at <= real).collect()
    }

    proptest! {
        /// Whatever messages and clocks do: when the new leader takes it that a node has no lease, the node knows, too.
        #[test]
        fn a_leader_never_takes_over_from_a_node_that_has_a_lease(
            clocks in (clock(), clock(), clock()),
            elected_at in 500u64..6000,
            delays in proptest::collection::vec(prop_oneof![1u64..30, 1u64..3000], 400),
        ) {
            let mut trial = Trial {
                holder: (Holder::new(HolderTiming { stop_before: Duration::ZERO, ..HolderTiming::default() }, 1), clocks.0),
                leaders: [(Grantor::default(), clocks.1), (Grantor::default(), clocks.2)],
                elected_at,
                asks: Vec::new(),
                rounds: Vec::new(),
                grants: Vec::new(),
            };
            let mut delays = delays.into_iter().cycle();
            trial.lead(0, 0, GrantorEvent::Leading, &mut delays);
            let mut led = false;
            for real in (0..16_000).step_by(10) {
                trial.tick(real, &mut delays);
                if real >= elected_at && !led {
                    led = true;
                    trial.lead(real, 1, GrantorEvent::Leading, &mut delays);
                }
                let (holder, _) = &trial.holder;
                for (grantor, clock) in &trial.leaders[1..] {
                    let free = grantor.is_confirmed()
                        && !grantor.may_hold(clock.at(real), Settings::default(), NODE);
                    prop_assert!(!(free && holder.is_leased()), "at {real} ms");
                }
            }
        }
    }

    #[test]
    fn users_that_an_earlier_run_has_left_are_stopped_unless_there_is_a_lease_in_time() {
        let settings = Settings::default();
        let stops = |granted_at: Option<u64>| {
            let mut holder = Holder::new(HolderTiming::default(), 1).with_users_until(Moment(3000));
            let mut stopped = Vec::new();
            for at in (0..=6000).step_by(100) {
                let granted = granted_at.filter(|granted| *granted == at).map(|_| 1);
                let effects = holder.step(Moment(at), settings, granted);
                stopped.extend(effects.contains(&HolderEffect::StopUsers).then_some(at));
            }
            stopped
        };
        assert_eq!(stops(None), [2500], "half a second before the end, and once");
        // Asked for at 0, granted at 500: it ends as any other does.
        assert_eq!(stops(Some(500)), [2000]);
        assert_eq!(stops(Some(2400)), [2500], "too late to be one");
    }

    #[test]
    fn another_leader_is_asked_at_once() {
        let (settings, timing) = (Settings::default(), HolderTiming::default());
        let mut holder = Holder::new(timing, 1);
        let asks = |holder: &mut Holder, ms| {
            let effects = holder.step(Moment(ms), settings, None);
            effects.iter().any(|effect| matches!(effect, HolderEffect::Ask(_)))
        };
        assert!(asks(&mut holder, 1000) && !asks(&mut holder, 1100));
        holder.led_by_another();
        assert!(asks(&mut holder, 1100) && !asks(&mut holder, 1200));
        assert!(asks(&mut holder, 1500));
    }

    #[test]
    fn the_watchdog_bites_before_the_lease_ends() {
        let settings = Settings::default();
        let mut holder = Holder::new(HolderTiming::default(), 1);
        assert_eq!(holder.step(Moment(0), settings, None), [HolderEffect::Ask(1)]);
        let granted = holder.step(Moment(100), settings, Some(1));
        assert_eq!(granted, [HolderEffect::Leased, HolderEffect::Feed]);
        let mut last_feed = 0;
        let mut stopped_at = None;
        for now in 101..4000 {
            for effect in holder.step(Moment(now), settings, None) {
                match effect {
                    HolderEffect::Feed => last_feed = now,
                    HolderEffect::StopUsers => stopped_at = Some(now),
                    HolderEffect::Ask(_) | HolderEffect::Leased => {}
                }
            }
        }
        assert_eq!(
            (last_feed, stopped_at),
            (1849, Some(2000)),
            "the lease ends at 3000, counted from the request"
        );
    }

    #[test]
    fn a_grant_needs_a_round_that_began_after_the_request() {
        let settings = Settings::default();
        let mut grantor = Grantor::default();
        let at = |ms| Moment(ms);
        assert_eq!(grantor.step(at(0), settings, GrantorEvent::Leading), [GrantorEffect::Confirm(1)]);
        assert_eq!(grantor.step(at(100), settings, GrantorEvent::Asked(NODE, 7)), []);
        let confirmed = grantor.step(at(110), settings, GrantorEvent::Confirmed(1));
        assert_eq!(confirmed, [], "round 1 began before the request, and the next is not due");
        assert_eq!(grantor.step(at(179), settings, GrantorEvent::Look), []);
        assert_eq!(grantor.step(at(180), settings, GrantorEvent::Look), [GrantorEffect::Confirm(2)]);
        let granted = grantor.step(at(400), settings, GrantorEvent::Confirmed(2));
        assert_eq!(granted, [GrantorEffect::Grant(NODE, 7)]);
        let may_hold = |ms| grantor.may_hold(at(ms), settings, NODE);
        assert!(
            may_hold(3259) && !may_hold(3260),
            "this leader was confirmed at 110; the request came at 100"
        );
    }

    #[test]
    fn what_was_asked_in_a_round_that_failed_is_answered_by_the_next() {
        let settings = Settings::default();
        let mut grantor = Grantor::default();
        let mut step = |ms, event| grantor.step(Moment(ms), settings, event);
        assert_eq!(step(0, GrantorEvent::Asked(NODE, 6)), []);
        assert_eq!(step(0, GrantorEvent::Leading), [GrantorEffect::Confirm(1)]);
        step(10, GrantorEvent::Unconfirmed(1));
        step(20, GrantorEvent::Asked(NODE, 7));
        assert_eq!(step(200, GrantorEvent::Look), [GrantorEffect::Confirm(2)]);
        assert_eq!(step(300, GrantorEvent::Unconfirmed(2)), []);
        assert_eq!(step(400, GrantorEvent::Look), [GrantorEffect::Confirm(3)]);
        assert_eq!(step(450, GrantorEvent::Confirmed(3)), [GrantorEffect::Grant(NODE, 7)]);
        // A later one of the same node counts, and the lease from when it came.
        step(600, GrantorEvent::Asked(NODE, 8));
        step(650, GrantorEvent::Asked(NODE, 9));
        let again = [step(700, GrantorEvent::Unconfirmed(4)), step(900, GrantorEvent::Look)].concat();
        assert_eq!(again, [GrantorEffect::Confirm(5)]);
        assert_eq!(step(950, GrantorEvent::Confirmed(5)), [GrantorEffect::Grant(NODE, 9)]);
        let longest = u64::from(settings.lease_ms + settings.drift_ms);
        assert!(grantor.may_hold(Moment(649 + longest), settings, NODE));
        assert!(!grantor.may_hold(Moment(650 + longest), settings, NODE));
    }
}
