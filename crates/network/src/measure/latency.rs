//! Whether the rooms are near enough to each other.
//!
//! The bound (spec.md): the median of at least [`PROBES_MIN`] round trips is at most [`LIMIT_US`], on every way between the
//! rooms, in both directions. The 99th percentile is reported.
//!
//! On emulated machines a round trip is mostly the time that the host's scheduler takes, inside a room as between rooms. So
//! there the bound stands on a baseline: the median of the slowest way inside the rooms, of the same storage network in
//! the same measurement. The slowest, because ways of one kind differ among themselves by as much as the bound (on four nodes and two busy processors,
//! medians from 1567 to 2735 µs were measured inside the rooms): what the slowest way between the rooms is held against has to be its like.
//! Above it is [`LIMIT_US`], or twice what the ways inside the rooms differ by, if that is more: there are more ways between the rooms than inside them, the
//! slowest of more is slower by chance, and what chance does there can be called no distance (on a slow host medians inside the rooms were 13.8 to 24.7 ms).
//! Twice, because four medians are mostly two of their standard errors apart, and the slowest of eight is above the slowest of four by more than that in
//! one measurement of thirty or so, and by more than four hardly ever.
//! With one node a room there are no such ways: then the figures are reported and not judged.

use super::Machines;
use model::{NodeName, StorageNetworkIndex, rules};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The longest median round trip between the rooms, µs.
pub const LIMIT_US: u64 = 1000;

/// Fewer probes than these are judged by nobody.
pub const PROBES_MIN: u32 = 200;

/// From one node to another on a storage network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// Who probed.
    pub from: NodeName,
    /// Who answered.
    pub to: NodeName,
    /// On which storage network.
    pub network: StorageNetworkIndex,
    /// Whether the two are in different rooms.
    pub between_rooms: bool,
    /// Probes that were answered.
    pub answered: u32,
    /// The median, µs; `None`: no answer.
    pub median_us: Option<u64>,
}

/// What the medians between the rooms are held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "limit", rename_all = "kebab-case")]
pub enum Limit {
    /// The specification's.
    Fixed {
        /// µs.
        us: u64,
    },
    /// So much above what round trips take inside the rooms.
    OverBaseline {
        /// The median of the slowest way inside the rooms, µs.
        baseline_us: u64,
        /// By how much they differ inside the rooms, µs.
        #[serde(default)]
        differ_us: u64,
        /// µs, the baseline included.
        us: u64,
    },
    /// Nothing: emulated machines, and none has a peer in its room.
    Nothing,
}

impl Limit {
    /// The bound, µs; `None`: not judged.
    pub fn us(self) -> Option<u64> {
        match self {
            Self::Fixed { us } | Self::OverBaseline { us, .. } => Some(us),
            Self::Nothing => None,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed { us } => write!(f, "limit {us} µs"),
            Self::OverBaseline { baseline_us, differ_us, us } => {
                let above_us = us.saturating_sub(*baseline_us);
                write!(
                    f,
                    "limit {us} µs: on emulated machines {above_us} µs above {baseline_us} µs, the slowest median inside the rooms"
                )?;
                if differ_us.saturating_mul(2) > LIMIT_US {
                    f.write_str(", twice what those differ by")?;
                }
                Ok(())
            }
            Self::Nothing => f.write_str(
                "not judged: on emulated machines the limit stands on round trips inside the rooms, and here are none",
            ),
        }
    }
}

/// A way that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Too few probes were answered for a judgement.
    TooFewProbes(Way),
    /// The median is above the limit.
    TooSlow(Way, Limit),
}

impl Finding {
    /// Its rule.
    pub fn rule(&self) -> &'static rules::Rule {
        match self {
            Self::TooFewProbes(_) => rules::LATENCY_TOO_FEW_PROBES,
            Self::TooSlow(..) => rules::LATENCY_ROOMS_TOO_FAR,
        }
    }

    /// Its rule's stable id.
    pub fn id(&self) -> &'static str {
        self.rule().id.0
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::TooFewProbes(way) | Self::TooSlow(way, _)) = self;
        write!(f, "{} to {} over storage network {}: ", way.from, way.to, way.network)?;
        match self {
            Self::TooFewProbes(way) => {
                write!(f, "{} probes were answered, {PROBES_MIN} are needed to judge", way.answered)
            }
            Self::TooSlow(way, limit) => {
                write!(f, "median {} µs; {limit}", way.median_us.unwrap_or_default())
            }
        }
    }
}

/// What was found, and against what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// What each storage network was held against.
    pub limits: BTreeMap<StorageNetworkIndex, Limit>,
    /// The ways that are not as they should be.
    pub findings: Vec<Finding>,
}

/// Judges the ways between the rooms. Those inside the rooms are no more than the baseline.
pub fn judge(ways: &[Way], machines: Machines) -> Judgement {
    let mut limits = BTreeMap::new();
    let mut findings = Vec::new();
    for way in ways.iter().filter(|way| way.between_rooms) {
        let limit = *limits.entry(way.network).or_insert_with(|| limit(ways, way.network, machines));
        if way.answered < PROBES_MIN {
            findings.push(Finding::TooFewProbes(way.clone()));
        } else if let (Some(median), Some(bound)) = (way.median_us, limit.us())
            && median > bound
        {
            findings.push(Finding::TooSlow(way.clone(), limit));
        }
    }
    Judgement { limits, findings }
}

fn limit(ways: &[Way], network: StorageNetworkIndex, machines: Machines) -> Limit {
    if machines == Machines::Real {
        return Limit::Fixed { us: LIMIT_US };
    }
    let inside = ways.iter().filter(|way| way.network == network && !way.between_rooms);
    let medians: Vec<u64> = inside.filter_map(|way| way.median_us).collect();
    let (Some(fastest_us), Some(baseline_us)) = (medians.iter().min(), medians.iter().max().copied()) else {
        return Limit::Nothing;
    };
    let differ_us = baseline_us - fastest_us;
    let above_us = differ_us.saturating_mul(2).max(LIMIT_US);
    Limit::OverBaseline { baseline_us, differ_us, us: baseline_us.saturating_add(above_us) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(from: &str, to: &str, network: u64, median_us: u64) -> Way {
        Way {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            network: network.try_into().unwrap(),
            between_rooms: from.as_bytes()[0] != to.as_bytes()[0],
            answered: PROBES_MIN,
            median_us: Some(median_us),
        }
    }

    fn said(ways: &[Way], machines: Machines) -> Vec<String> {
        let judgement = judge(ways, machines);
        judgement.findings.iter().map(|finding| format!("{}: {finding}", finding.id())).collect()
    }

    #[test]
    fn on_hardware_a_millisecond_is_the_limit_each_way() {
        let ways = [way("a1", "b1", 1, 1000), way("b1", "a1", 1, 1001), way("a1", "a2", 1, 9000)];
        assert_eq!(
            said(&ways, Machines::Real),
            ["latency.rooms-too-far: b1 to a1 over storage network 1: median 1001 µs; limit 1000 µs"]
        );
    }

    #[test]
    fn emulated_machines_are_held_against_their_own_rooms_and_the_finding_says_so() {
        let ways = [
            way("a1", "a2", 1, 400),
            way("a2", "a1", 1, 700),
            way("b1", "b2", 1, 500),
            way("b2", "b1", 1, 450),
            way("a1", "b1", 1, 1700),
            way("b1", "a1", 1, 1701),
            way("a1", "b1", 2, 90_000),
        ];
        assert_eq!(
            said(&ways, Machines::Emulated),
            [
                "latency.rooms-too-far: b1 to a1 over storage network 1: median 1701 µs; limit 1700 µs: on emulated \
                 machines 1000 µs above 700 µs, the slowest median inside the rooms"
            ]
        );
        let limits = judge(&ways, Machines::Emulated).limits;
        let other = limits.values().nth(1).unwrap();
        assert_eq!((*other, limits.len()), (Limit::Nothing, 2), "another network's rooms are no baseline");
        assert!(other.to_string().starts_with("not judged"));
    }

    #[test]
    fn what_ways_inside_the_rooms_differ_by_is_no_distance() {
        let inside = [way("a1", "a2", 1, 13_800), way("a2", "a1", 1, 19_100), way("b1", "b2", 1, 24_700)];
        let between = |median_us| [&inside[..], &[way("a1", "b1", 1, median_us)]].concat();
        assert_eq!(said(&between(46_500), Machines::Emulated), [""; 0]);
        assert_eq!(
            said(&between(46_501), Machines::Emulated),
            [
                "latency.rooms-too-far: a1 to b1 over storage network 1: median 46501 µs; limit 46500 µs: on emulated machines \
                 21800 µs above 24700 µs, the slowest median inside the rooms, twice what those differ by"
            ]
        );
        assert_eq!(said(&between(1001), Machines::Real).len(), 1);
    }

    #[test]
    fn what_was_probed_too_seldom_is_found_and_not_passed() {
        let few = Way { answered: PROBES_MIN - 1, ..way("a1", "b1", 1, 10) };
        let none = Way { answered: 0, median_us: None, ..way("b1", "a1", 1, 10) };
        for machines in [Machines::Real, Machines::Emulated] {
            assert_eq!(
                said(&[few.clone(), none.clone()], machines),
                [
                    "latency.too-few-probes: a1 to b1 over storage network 1: 199 probes were answered, 200 are needed to judge",
                    "latency.too-few-probes: b1 to a1 over storage network 1: 0 probes were answered, 200 are needed to judge"
                ]
            );
        }
    }
}
