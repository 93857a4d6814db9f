//! A run put together from its event log: what was in force from when to when.
//!
//! Purpose: pictures and comparisons are made from a [`Story`], which is made from the events and from nothing else.
//!
//! Invariants: pure. Times are milliseconds since the run's start. What did not end before the log did has no end.
//! A loss belongs to the scenario in which it was first named, by time: the log's lines are in the order in which the
//! harness learned of things, so a loss may be gone a line after its scenario ended.

use crate::events::{Counters, Event, Paths, Record, RoundTrips, Topology, Verdict, Wrote};
use std::collections::BTreeMap;

/// What of a log could not be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unread {
    /// Lines of a kind that this version doesn't know.
    pub unknown: usize,
    /// The last line has no end.
    pub cut_off: bool,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    /// Its name.
    pub run: String,
    /// The cluster's shape.
    pub shape: String,
    /// The seed that every random choice came from.
    pub seed: u64,
    /// The command that does the same again.
    pub replay: String,
    /// Whether everything held; none: the log ends before the run.
    pub good: Option<bool>,
    /// The time of its last event.
    pub end_ms: u64,
    /// Its phases, in order.
    pub phases: Vec<Span>,
    /// When each machine's agent first answered.
    pub ready: Vec<Ready>,
    /// Its suites, in order.
    pub suites: Vec<SuiteStory>,
    /// The losses named outside any scenario.
    pub elsewhere: Vec<Named>,
    /// The cabling, if it was found.
    pub topology: Option<Topology>,
    /// The storage paths and who reports, each time that changed.
    pub paths: Vec<(u64, Paths)>,
    /// Round trips, as they were measured.
    pub round_trips: Vec<RoundTrips>,
    /// What workloads wrote to a volume.
    pub wrote: Vec<Wrote>,
    /// What went over the cables.
    pub counters: Option<Counters>,
    /// What could not be read.
    pub unread: Unread,
}

/// Something that lasted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// What.
    pub what: String,
    /// Since when.
    pub from_ms: u64,
    /// Until when; none: until the log ends.
    pub to_ms: Option<u64>,
}

/// A machine that answered for the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Which.
    pub node: String,
    /// When.
    pub at_ms: u64,
    /// Since its power was switched on.
    pub took_ms: u64,
}

/// A suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuiteStory {
    /// Its name.
    pub name: String,
    /// Its scenarios, in order.
    pub scenarios: Vec<ScenarioStory>,
}

/// A scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScenarioStory {
    /// Its name.
    pub name: String,
    /// When it began; one that is not applicable begins when it ends.
    pub from_ms: u64,
    /// When it ended; none: the log ends before.
    pub to_ms: Option<u64>,
    /// What became of it.
    pub verdict: Option<Verdict>,
    /// Its steps, as they ended.
    pub steps: Vec<StepStory>,
    /// Its faults. They end when all is mended.
    pub faults: Vec<Span>,
    /// What was named meanwhile.
    pub named: Vec<Named>,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepStory {
    /// In words.
    pub step: String,
    /// When it ended.
    pub at_ms: u64,
    /// How long it took.
    pub took_ms: u64,
    /// Whether it held.
    pub good: bool,
    /// What was seen.
    pub seen: String,
}

/// A loss that the diagnosis named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The loss and its time.
    pub span: Span,
    /// Whether it was still named when the faults were mended: then it was the answer to them, and not a step on the way.
    pub lasting: bool,
}

impl SuiteStory {
    /// When it began and ended.
    pub fn span(&self, end_ms: u64) -> (u64, u64) {
        let from = self.scenarios.iter().map(|scenario| scenario.from_ms).min().unwrap_or(0);
        let to = self.scenarios.iter().map(|scenario| scenario.to_ms.unwrap_or(end_ms)).max();
        (from, to.unwrap_or(from))
    }
}

impl ScenarioStory {
    /// When its last fault was made.
    fn last_fault_ms(&self) -> Option<u64> {
        self.faults.iter().map(|fault| fault.from_ms).max()
    }

    /// From the last fault until the last of the losses that stayed named was: how long the diagnosis took.
    pub fn named_after_ms(&self) -> Option<u64> {
        let fault = self.last_fault_ms()?;
        let lasting = self.named.iter().filter(|named| named.lasting);
        let last = lasting.map(|named| named.span.from_ms).max()?;
        Some(last.saturating_sub(fault))
    }

    /// From the mending until nothing was named any more. None: nothing was broken, or something is named still.
    pub fn well_after_ms(&self) -> Option<u64> {
        let mended = self.faults.iter().filter_map(|fault| fault.to_ms).max()?;
        let gone: Option<Vec<u64>> = self.named.iter().map(|named| named.span.to_ms).collect();
        Some(gone?.into_iter().max().unwrap_or(mended).saturating_sub(mended))
    }

    /// How long it lasted.
    pub fn took_ms(&self, end_ms: u64) -> u64 {
        self.to_ms.unwrap_or(end_ms).saturating_sub(self.from_ms)
    }

    /// The step that did not hold, if there is one.
    pub fn failure(&self) -> Option<&StepStory> {
        self.steps.iter().find(|step| !step.good)
    }
}

impl Story {
    /// All scenarios with the suites they belong to.
    pub fn scenarios(&self) -> impl Iterator<Item = (&SuiteStory, &ScenarioStory)> {
        self.suites.iter().flat_map(|suite| suite.scenarios.iter().map(move |scenario| (suite, scenario)))
    }

    /// How many scenarios have this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.scenarios().filter(|(_, scenario)| scenario.verdict == Some(verdict)).count()
    }

    /// Puts a log together; none: it does not begin with the run's start.
    pub fn of(records: &[Record], unread: Unread) -> Option<Self> {
        let Some(Record { event: Event::RunStarted { run, shape, seed, replay }, .. }) = records.first()
        else {
            return None;
        };
        let story = Self {
            run: run.clone(),
            shape: shape.clone(),
            seed: *seed,
            replay: replay.clone(),
            good: None,
            end_ms: records.iter().map(|record| record.at_ms).max().unwrap_or(0),
            phases: Vec::new(),
            ready: Vec::new(),
            suites: Vec::new(),
            elsewhere: Vec::new(),
            topology: None,
            paths: Vec::new(),
            round_trips: Vec::new(),
            wrote: Vec::new(),
            counters: None,
            unread,
        };
        let mut teller = Teller { story, faults: Vec::new(), losses: Losses::default() };
        for record in records {
            teller.take(record.at_ms, &record.event);
        }
        Some(teller.finish())
    }
}

/// A story under way.
struct Teller {
    story: Story,
    faults: Vec<Span>,
    losses: Losses,
}

/// Losses: those that are named, by their words, and those that were.
#[derive(Default)]
struct Losses {
    open: BTreeMap<String, u64>,
    closed: Vec<Span>,
}

impl Teller {
    fn take(&mut self, at_ms: u64, event: &Event) {
        match event {
            // Drifts are told in their step.
            // What they say is in the words of the step.
            Event::RunStarted { .. }
            | Event::Drift { .. }
            | Event::Throughput(_)
            | Event::Stall(_)
            | Event::TookOver(_)
            | Event::LegJudged(_) => {}
            Event::PhaseStarted { phase } => {
                self.story.phases.push(Span { what: phase.clone(), from_ms: at_ms, to_ms: None });
            }
            Event::PhaseEnded { phase, .. } => {
                let started = self.story.phases.iter_mut().rfind(|span| span.what == *phase);
                if let Some(span) = started {
                    span.to_ms = Some(at_ms);
                }
            }
            Event::NodeReady { node, took_ms } => {
                self.story.ready.push(Ready { node: node.clone(), at_ms, took_ms: *took_ms });
            }
            Event::Topology(topology) => self.story.topology = Some(topology.clone()),
            Event::Paths(paths) => self.story.paths.push((at_ms, paths.clone())),
            Event::RoundTrips(trips) => self.story.round_trips.push(trips.clone()),
            Event::Counters(counters) => self.story.counters = Some(counters.clone()),
            Event::Wrote(wrote) => self.story.wrote.push(wrote.clone()),
            Event::FaultMade { fault } => {
                self.faults.push(Span { what: fault.clone(), from_ms: at_ms, to_ms: None });
            }
            Event::NodeReset { node } => {
                let what = format!("node {node} reset itself");
                self.faults.push(Span { what, from_ms: at_ms, to_ms: Some(at_ms) });
            }
            Event::Healed => {
                for fault in self.faults.iter_mut().filter(|fault| fault.to_ms.is_none()) {
                    fault.to_ms = Some(at_ms);
                }
            }
            Event::LossNamed { loss } | Event::ConditionRaised { condition: loss } => {
                self.losses.open.insert(loss.clone(), at_ms);
            }
            Event::LossGone { loss } | Event::ConditionCleared { condition: loss } => {
                if let Some(from_ms) = self.losses.open.remove(loss) {
                    self.losses.closed.push(Span { what: loss.clone(), from_ms, to_ms: Some(at_ms) });
                }
            }
            Event::RunEnded { good } => self.story.good = Some(*good),
            Event::ScenarioStarted { .. } | Event::StepEnded { .. } | Event::ScenarioEnded { .. } => {
                self.take_scenario(at_ms, event);
            }
        }
    }

    fn take_scenario(&mut self, at_ms: u64, event: &Event) {
        match event {
            Event::ScenarioStarted { suite, scenario } => {
                self.begin(suite, scenario, at_ms);
            }
            Event::StepEnded { suite, scenario, step, good, seen, took_ms } => {
                let (step, seen) = (step.clone(), seen.clone());
                let ended = StepStory { step, at_ms, took_ms: *took_ms, good: *good, seen };
                self.current(suite, scenario, at_ms).steps.push(ended);
            }
            Event::ScenarioEnded { suite, scenario, verdict, .. } => {
                let current = self.current(suite, scenario, at_ms);
                (current.to_ms, current.verdict) = (Some(at_ms), Some(*verdict));
            }
            _ => {}
        }
    }

    fn begin(&mut self, suite: &str, scenario: &str, at_ms: u64) -> &mut ScenarioStory {
        if self.story.suites.last().is_none_or(|last| last.name != suite) {
            self.story.suites.push(SuiteStory { name: suite.to_owned(), scenarios: Vec::new() });
        }
        let at = self.story.suites.len() - 1;
        let scenarios = &mut self.story.suites[at].scenarios;
        scenarios.push(ScenarioStory {
            name: scenario.to_owned(),
            from_ms: at_ms,
            to_ms: None,
            verdict: None,
            steps: Vec::new(),
            faults: Vec::new(),
            named: Vec::new(),
        });
        let last = scenarios.len() - 1;
        &mut scenarios[last]
    }

    /// The scenario that is under way; one that never began (because it is not applicable) begins now.
    fn current(&mut self, suite: &str, scenario: &str, at_ms: u64) -> &mut ScenarioStory {
        let last = self.story.suites.last().filter(|last| last.name == suite);
        let last = last.and_then(|suite| suite.scenarios.last());
        if last.is_none_or(|last| last.name != scenario || last.to_ms.is_some()) {
            return self.begin(suite, scenario, at_ms);
        }
        let suite = self.story.suites.len() - 1;
        let scenario = self.story.suites[suite].scenarios.len() - 1;
        &mut self.story.suites[suite].scenarios[scenario]
    }

    fn finish(mut self) -> Story {
        let Losses { open, mut closed } = self.losses;
        closed.extend(open.into_iter().map(|(what, from_ms)| Span { what, from_ms, to_ms: None }));
        closed.sort_by(|a, b| (a.from_ms, a.to_ms, &a.what).cmp(&(b.from_ms, b.to_ms, &b.what)));
        let end_ms = self.story.end_ms;
        for span in closed {
            let faults: Vec<&Span> =
                self.faults.iter().filter(|fault| fault.from_ms <= span.from_ms).collect();
            let named = Named { lasting: is_lasting(&span, &faults, end_ms), span };
            match scenario_at(&mut self.story.suites, named.span.from_ms) {
                Some(scenario) => scenario.named.push(named),
                None => self.story.elsewhere.push(named),
            }
        }
        for fault in self.faults {
            if let Some(scenario) = scenario_at(&mut self.story.suites, fault.from_ms) {
                scenario.faults.push(fault);
            }
        }
        self.story
    }
}

/// Whether a loss was named when one of the faults before it was mended, or the log ended.
fn is_lasting(loss: &Span, faults: &[&Span], end_ms: u64) -> bool {
    let named_at = |moment: u64| loss.from_ms <= moment && loss.to_ms.is_none_or(|gone| gone > moment);
    faults.iter().any(|fault| named_at(fault.to_ms.unwrap_or(end_ms)))
}

/// The last scenario that began by then and has not ended before.
fn scenario_at(suites: &mut [SuiteStory], at_ms: u64) -> Option<&mut ScenarioStory> {
    let began = |scenario: &&mut ScenarioStory| {
        scenario.from_ms <= at_ms
            && scenario.verdict != Some(Verdict::NotApplicable)
            && scenario.to_ms.is_none_or(|ended| at_ms <= ended)
    };
    suites.iter_mut().flat_map(|suite| &mut suite.scenarios).rfind(began)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::events::{
        Bucket, CabledNic, CabledNode, Cables, Carried, Dropped, NetworkPaths, SwitchPort, Waited,
    };

    fn topology() -> Event {
        let nic = |adapter: &str, storage: &[u8], switch: &str, port: u8| CabledNic {
            adapter: adapter.into(),
            kernel_name: format!("eth{port}"),
            storage_networks: storage.to_vec(),
            port: Some(SwitchPort {
                chassis: format!("02:00:00:00:00:{switch}"),
                name: Some(format!("sw-{switch}")),
                port: format!("Ethernet1/{port}"),
            }),
        };
        let node = |node: &str, zone: &str, first: &str, second: &str| CabledNode {
            node: node.into(),
            zone: Some(zone.into()),
            nics: vec![
                nic("mgmt1", &[], first, 1),
                nic("storage1", &[1], first, 2),
                nic("storage2", &[2], second, 3),
            ],
        };
        let witness =
            CabledNode { node: "witness".into(), zone: None, nics: vec![nic("mgmt1", &[], "ee", 9)] };
        let nodes = vec![node("a1", "rack-a", "a1", "a2"), node("b1", "rack-b", "b1", "b2"), witness];
        Event::Topology(Topology { wiring: "wiring option A".into(), nodes })
    }

    fn paths(carrying: u32, silent: u32) -> Event {
        let network = |network, carrying, silent| NetworkPaths { network, carrying, silent };
        let networks = vec![network(1, carrying, silent), network(2, 2, 0)];
        Event::Paths(Paths { networks, not_reporting: Vec::new() })
    }

    fn measured() -> Vec<Event> {
        let buckets = [(680, 3), (1000, 90), (1500, 6)];
        let trips = RoundTrips {
            over: "storage network 1".into(),
            inside_a_room: false,
            ways: 2,
            answered: 100,
            lost: 0,
            min_us: Some(612),
            worst_median_us: Some(890),
            worst_p99_us: Some(1400),
            max_us: Some(5000),
            buckets: buckets
                .map(|(bound, probes)| Bucket { up_to_us: Some(bound), probes })
                .into_iter()
                .chain([Bucket { up_to_us: None, probes: 1 }])
                .collect(),
        };
        let carried = |cables, vlan, pcp, frames| Carried { cables, vlan, pcp, frames, bytes: frames * 100 };
        let counters = Counters {
            carried: vec![carried(Cables::Node, 711, 3, 12_000), carried(Cables::Spine, 7, 0, 492)],
            dropped: vec![Dropped { cables: Cables::Node, reason: "switch-down".into(), frames: 7 }],
        };
        vec![Event::RoundTrips(trips), Event::Counters(counters)]
    }

    /// A small run: one suite, one fault, one scenario that failed, one that is not applicable.
    pub(crate) fn example() -> Vec<Record> {
        let at = |at_ms, event| Record { at_ms, event };
        let (suite, cut, deaf) =
            ("tor-loss".to_owned(), "off, room 1".to_owned(), "deaf, <b>\"room\"</b> 2".to_owned());
        let step = |scenario: &String, step: &str, good, seen: &str, took_ms| Event::StepEnded {
            suite: "tor-loss".into(),
            scenario: scenario.clone(),
            step: step.into(),
            good,
            seen: seen.into(),
            took_ms,
        };
        let ended = |scenario: &str, verdict, took_ms| {
            let (suite, scenario) = ("tor-loss".to_owned(), scenario.to_owned());
            Event::ScenarioEnded { suite, scenario, verdict, took_ms }
        };
        let named = |loss: &str| Event::LossNamed { loss: loss.into() };
        let gone = |loss: &str| Event::LossGone { loss: loss.into() };
        let off = "switch sw-a1 (02:00:00:00:00:a1) is off";
        let lost = "switch sw-a1 (02:00:00:00:00:a1) is lost";
        let slow = "round trips between the rooms on storage network 2 take 2900 µs longer than they did";
        let started =
            |scenario: &String| Event::ScenarioStarted { suite: suite.clone(), scenario: scenario.clone() };
        let mut events = vec![
            at(
                0,
                Event::RunStarted {
                    run: "20260101T000000-7".into(),
                    shape: "1+1".into(),
                    seed: 7,
                    replay: "cargo xtask hil --shape 1+1 --seed 7".into(),
                },
            ),
            at(0, Event::PhaseStarted { phase: "boot".into() }),
            at(6000, Event::NodeReady { node: "a1".into(), took_ms: 5900 }),
            at(6100, Event::NodeReady { node: "b1".into(), took_ms: 6000 }),
            at(6200, Event::PhaseEnded { phase: "boot".into(), took_ms: 6200 }),
            at(6500, topology()),
            at(8000, paths(2, 0)),
            at(8000, Event::PhaseStarted { phase: "suites".into() }),
            at(8000, started(&cut)),
            at(8005, Event::FaultMade { fault: off.into() }),
            at(8006, step(&cut, "the switch is off", true, off, 1)),
            at(8150, named("what a1 sends to b1 on storage network 1 is lost")),
            at(8202, gone("what a1 sends to b1 on storage network 1 is lost")),
            at(8202, named(lost)),
            at(8202, step(&cut, "exactly that is named within 2000 ms", true, "after 197 ms", 196)),
            at(8900, Event::ConditionRaised { condition: slow.into() }),
            at(9000, paths(0, 2)),
            at(9500, Event::ConditionCleared { condition: slow.into() }),
            at(11_000, Event::Healed),
            at(11_900, paths(2, 0)),
            at(12_000, step(&cut, "all is well again", true, "after 1000 ms", 1000)),
            at(12_000, ended(&cut, Verdict::Passed, 4000)),
            // Learned of a moment too late.
            at(12_000, gone(lost)),
            at(12_001, started(&deaf)),
            at(12_002, Event::FaultMade { fault: "switch sw-b1 takes no frames <any> more".into() }),
            at(14_002, step(&deaf, "exactly that is named", false, "expected this;\nnamed: nothing", 2000)),
            at(14_003, Event::Healed),
            at(15_000, ended(&deaf, Verdict::Failed, 2999)),
            at(15_000, ended("needs peers", Verdict::NotApplicable, 0)),
        ];
        events.extend(measured().into_iter().map(|event| at(15_001, event)));
        let stalls = vec![Waited { from_ms: 8010, to_ms: 9300 }];
        let (node, run, acknowledged) = ("a1".to_owned(), 1, 900);
        let wrote = Wrote { node, run, from_ms: 8001, to_ms: 11_500, acknowledged, stalls };
        events.push(at(15_001, Event::Wrote(wrote)));
        events.push(at(15_002, Event::PhaseEnded { phase: "suites".into(), took_ms: 7002 }));
        events.push(at(15_010, Event::RunEnded { good: false }));
        events
    }

    #[test]
    fn a_story_tells_when_what_was_broken_was_named_and_well_again() {
        let story = Story::of(&example(), Unread::default()).unwrap();
        let scenarios = &story.suites[0].scenarios;
        assert_eq!(
            scenarios.iter().map(|s| s.verdict.unwrap()).collect::<Vec<_>>(),
            [Verdict::Passed, Verdict::Failed, Verdict::NotApplicable]
        );
        let off = &scenarios[0];
        assert_eq!((off.named_after_ms(), off.well_after_ms()), (Some(197), Some(1000)));
        assert_eq!(off.named.iter().map(|named| named.lasting).collect::<Vec<_>>(), [false, true, false]);
        assert_eq!((off.faults[0].from_ms, off.faults[0].to_ms), (8005, Some(11_000)));
        assert_eq!((scenarios[1].named_after_ms(), scenarios[1].well_after_ms()), (None, Some(0)));
        assert_eq!(scenarios[2].well_after_ms(), None);
        assert_eq!(story.suites[0].span(story.end_ms), (8000, 15_000));
        assert_eq!(scenarios[1].failure().unwrap().took_ms, 2000);
    }

    #[test]
    fn a_log_that_breaks_off_leaves_things_open() {
        let records = example();
        let story = Story::of(&records[..14], Unread::default()).unwrap();
        let off = &story.suites[0].scenarios[0];
        assert_eq!((story.good, off.verdict, off.to_ms, off.well_after_ms()), (None, None, None, None));
        assert_eq!(off.named_after_ms(), Some(197), "named, and still so when the log ends");
        assert_eq!(Story::of(&records[1..], Unread::default()), None);
        assert_eq!(Story::of(&[], Unread::default()), None);
    }

    #[test]
    fn every_event_survives_the_log() {
        for record in example() {
            let line = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record, "{line}");
        }
    }
}
