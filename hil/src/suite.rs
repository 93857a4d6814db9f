//! Suites: failover tests as data.
//!
//! A suite is a TOML file of scenarios; a scenario is a few steps that read like its specification. Steps name rooms,
//! positions and storage networks, never switches or nodes by name, so that a suite runs on every shape and seed.
//! What a fault must be diagnosed as is not written down in the suite: the lab knows what it broke, and the step
//! `named` asks for exactly that, no more and no less.

use model::{ClusterSpec, Intent, Mtu, StorageNetwork};
use serde::Deserialize;
use std::fmt;

/// The suites that come with the harness, in the order in which they run.
const BUILT_IN: [(&str, &str); 4] = [
    ("wiring", include_str!("../suites/wiring.toml")),
    ("tor-loss", include_str!("../suites/tor-loss.toml")),
    ("room-link-loss", include_str!("../suites/room-link-loss.toml")),
    ("miswired-rack", include_str!("../suites/miswired-rack.toml")),
];

/// A suite file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// Its name, which is its file's.
    pub name: String,
    /// What it shows, in a sentence.
    pub title: String,
    /// The sets that it belongs to.
    pub sets: Vec<Set>,
    /// What the cluster must have for the suite to make sense.
    #[serde(default)]
    pub needs: Vec<Need>,
    /// Its scenarios, in order.
    #[serde(rename = "scenario")]
    pub scenarios: Vec<Scenario>,
}

/// A set of suites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Set {
    /// What a plain run does; minutes.
    Default,
    /// Everything.
    Nightly,
}

/// Something that not every cluster has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// Two storage networks on NICs of their own. A converged intent has lost that path diversity.
    DedicatedStorage,
    /// Another node in the same room. Without one, a switch that forwards nothing looks like a cut between the rooms.
    PeersInRoom,
    /// Storage with packets larger than Ethernet's usual ones.
    JumboFrames,
}

impl Need {
    /// Why this cluster hasn't got it; `None`: it has.
    fn unmet(self, spec: &ClusterSpec) -> Option<&'static str> {
        match self {
            Self::DedicatedStorage if spec.intents.iter().any(Intent::is_converged_storage) => {
                Some("storage shares its NICs with other traffic, so there are no two paths")
            }
            Self::PeersInRoom if spec.shape().nodes_per_zone() == 1 => {
                Some("with one node in a room, this fault looks like a cut between the rooms")
            }
            Self::JumboFrames if spec.storage_mtu() <= Mtu::ETHERNET => {
                Some("the template asks for no jumbo frames")
            }
            Self::DedicatedStorage | Self::PeersInRoom | Self::JumboFrames => None,
        }
    }
}

/// One story of a suite, from a healthy cluster to a healthy cluster.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it is about.
    pub name: String,
    /// What the cluster must have for it, besides what the suite needs.
    #[serde(default)]
    pub needs: Vec<Need>,
    /// How many faults it makes at once.
    #[serde(default)]
    pub fault_budget: usize,
    /// Within what time after the last fault is undone all must be well again, milliseconds.
    pub bound_ms: u64,
    /// What happens.
    #[serde(rename = "step")]
    pub steps: Vec<Step>,
}

/// One of the two rooms, by its place in the template: 1 or 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u8")]
pub struct Room(u8);

impl Room {
    /// Its index in the template's zones.
    pub fn index(self) -> usize {
        usize::from(self.0) - 1
    }
}

impl TryFrom<u8> for Room {
    type Error = String;
    fn try_from(value: u8) -> Result<Self, String> {
        if (1..=2).contains(&value) {
            Ok(Self(value))
        } else {
            Err(format!("room {value}: there are rooms 1 and 2"))
        }
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "room {}", self.0)
    }
}

/// Which way a link or switch is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Nothing passes.
    #[default]
    Both,
    /// From the first room to the second nothing passes.
    OneToTwo,
    /// From the second room to the first nothing passes.
    TwoToOne,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Both => "both ways",
            Self::OneToTwo => "from room 1 to room 2",
            Self::TwoToOne => "from room 2 to room 1",
        })
    }
}

/// How a switch fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SwitchFailure {
    /// It is off: its neighbours see no carrier.
    #[default]
    Off,
    /// It still sends, but no frame gets in.
    Deaf,
    /// It still takes frames, but none gets out.
    Mute,
}

impl fmt::Display for SwitchFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "is off",
            Self::Deaf => "takes no frames any more",
            Self::Mute => "sends no frames any more",
        })
    }
}

/// Which NICs of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nics {
    /// All of them.
    All,
    /// Those that carry storage.
    Storage,
}

/// A step of a scenario: a fault, its end, or something that must hold. (Steps without settings have braces, because
/// serde refuses unknown keys only there.)
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Step {
    /// The switch of a storage network in a room fails.
    FailSwitch {
        /// The room.
        room: Room,
        /// The storage network whose switch it is.
        storage_network: u8,
        /// How.
        #[serde(default)]
        how: SwitchFailure,
    },
    /// The link between the rooms that a storage network crosses is cut.
    CutRoomLink {
        /// The storage network.
        storage_network: u8,
        /// Which way.
        #[serde(default)]
        way: Way,
    },
    /// A node's NICs are cabled to the same switches of the other room.
    CrossCable {
        /// The node's room.
        room: Room,
        /// Its position there, from 1.
        position: u8,
        /// Which NICs.
        nics: Nics,
    },
    /// Every fault is undone.
    Heal {},
    /// Exactly the faults made are diagnosed, each by its name, within a bound.
    Named {
        /// The bound from the last fault on, milliseconds.
        within_ms: u64,
    },
    /// From the first fault on, for some time, no path of a storage network is silent; then every node reaches every
    /// other on it without losing a probe.
    Carries {
        /// The storage network.
        storage_network: u8,
        /// How long it is watched, from the first fault, milliseconds. Longer than it takes to call a path dead.
        for_ms: u64,
    },
    /// Every node and the witness reach each other on the management network.
    ManagementCarries {},
    /// Deployment refuses the cabling, blames the cables that were moved and no other (node, NIC, switch and port), and
    /// touches no node.
    Refused {},
    /// What the nodes say they have is what the lab gave them.
    InventoryMatches {},
    /// Deployment finds nothing to say about the cabling, within a bound: switches announce themselves at intervals, so
    /// that a cable that was just moved is heard of later.
    CablingIsRight {
        /// The bound, milliseconds; 0: when every NIC has had 10 s to hear a neighbour.
        within_ms: u64,
    },
    /// Each node's links are as planned, read back from its kernel.
    LinksAreAsPlanned {},
    /// Applying the plans once more changes nothing, as seen by a netlink monitor on each node.
    SecondApplyChangesNothing {},
    /// Every node reaches every other on every storage network, both ways, and how fast.
    RoundTrips {
        /// Probes per pair, direction and network.
        probes: u32,
    },
    /// The largest packets of the storage MTU pass unfragmented, everywhere.
    JumboFrames {},
    /// Storage and heartbeat frames carry their priorities in the fabric.
    PrioritiesAreSeen {},
    /// No storage frame was ever seen on a spine link.
    SpineCarriesNoStorage {},
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FailSwitch { room, storage_network, how } => {
                write!(f, "the switch of storage network {storage_network} in {room} {how}")
            }
            Self::CutRoomLink { storage_network, way } => {
                write!(f, "the room-to-room link of storage network {storage_network} is cut {way}")
            }
            Self::CrossCable { room, position, nics } => {
                let nics = if *nics == Nics::All { "all NICs" } else { "the storage NICs" };
                write!(f, "{nics} of node {position} of {room} are cabled to the other room")
            }
            Self::Heal {} => f.write_str("everything is mended"),
            Self::Named { within_ms } => write!(f, "exactly that is named within {within_ms} ms"),
            Self::Carries { storage_network, for_ms } => {
                write!(f, "storage network {storage_network} carries on for {for_ms} ms")
            }
            Self::ManagementCarries {} => f.write_str("management carries"),
            Self::Refused {} => f.write_str("deployment refuses the cabling and names it"),
            Self::InventoryMatches {} => f.write_str("inventory is what the lab built"),
            Self::CablingIsRight { within_ms: 0 } => f.write_str("cabling is right"),
            Self::CablingIsRight { within_ms } => write!(f, "cabling is right within {within_ms} ms"),
            Self::LinksAreAsPlanned {} => f.write_str("links are as planned"),
            Self::SecondApplyChangesNothing {} => f.write_str("a second apply changes nothing"),
            Self::RoundTrips { probes } => write!(f, "round trips, {probes} probes a pair"),
            Self::JumboFrames {} => f.write_str("jumbo frames pass unfragmented"),
            Self::PrioritiesAreSeen {} => f.write_str("priorities are seen in the fabric"),
            Self::SpineCarriesNoStorage {} => f.write_str("no storage frame on the spine"),
        }
    }
}

impl Step {
    /// Whether the step breaks something.
    pub fn is_fault(&self) -> bool {
        matches!(self, Self::FailSwitch { .. } | Self::CutRoomLink { .. } | Self::CrossCable { .. })
    }

    /// What the step speaks of that this cluster hasn't got.
    fn missing(&self, spec: &ClusterSpec) -> Option<String> {
        match self {
            Self::FailSwitch { storage_network, .. }
            | Self::CutRoomLink { storage_network, .. }
            | Self::Carries { storage_network, .. } => {
                let has = |network: &StorageNetwork| network.index.get() == *storage_network;
                (!spec.storage_networks.iter().any(has))
                    .then(|| format!("the cluster has no storage network {storage_network}"))
            }
            Self::CrossCable { room, position, .. } => {
                let nodes = spec.zones.get(room.index()).map_or(0, |zone| zone.nodes.len());
                (!(1..=nodes).contains(&usize::from(*position)))
                    .then(|| format!("{room} has no node {position}"))
            }
            _ => None,
        }
    }
}

/// A suite file or name that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// Not TOML, an unknown key or a wrong type.
    #[error("suite {name}: {source}")]
    Syntax {
        /// Which suite.
        name: String,
        /// What and where.
        #[source]
        source: toml::de::Error,
    },
    /// No suite of that name.
    #[error("there is no suite `{name}`; there are: {known}")]
    Unknown {
        /// The name given.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A scenario makes more faults at once than it declares.
    #[error("suite {suite}, scenario `{scenario}`: {faults} faults at once, but a budget of {budget}")]
    OverBudget {
        /// The suite.
        suite: String,
        /// The scenario.
        scenario: String,
        /// The most faults at once.
        faults: usize,
        /// What it declares.
        budget: usize,
    },
    /// A suite without scenarios, or a scenario without steps: it would hold without having looked at anything.
    #[error("suite {suite}: {what} is empty")]
    Empty {
        /// The suite.
        suite: String,
        /// What.
        what: String,
    },
    /// A scenario ends broken.
    #[error("suite {suite}, scenario `{scenario}`: ends without mending what it broke")]
    EndsBroken {
        /// The suite.
        suite: String,
        /// The scenario.
        scenario: String,
    },
}

impl Suite {
    /// Reads a suite's text and checks it against its own declarations.
    pub fn parse(name: &str, text: &str) -> Result<Self, SuiteError> {
        let suite: Self =
            toml::from_str(text).map_err(|source| SuiteError::Syntax { name: name.to_owned(), source })?;
        let empty = |what: &str| SuiteError::Empty { suite: suite.name.clone(), what: what.to_owned() };
        if suite.scenarios.is_empty() {
            return Err(empty("its list of scenarios"));
        }
        for scenario in &suite.scenarios {
            if scenario.steps.is_empty() {
                return Err(empty(&format!("scenario `{}`", scenario.name)));
            }
            scenario.check_budget(&suite.name)?;
        }
        Ok(suite)
    }

    /// Why a scenario makes no sense on a cluster; `None`: it does.
    pub fn unmet(&self, scenario: &Scenario, spec: &ClusterSpec) -> Option<String> {
        let needs = self.needs.iter().chain(&scenario.needs);
        let unmet = needs.copied().find_map(|need| need.unmet(spec)).map(ToOwned::to_owned);
        unmet.or_else(|| scenario.steps.iter().find_map(|step| step.missing(spec)))
    }

    /// The suites of these names, in the order given; with no names, those of the set.
    pub fn select(names: &[String], set: Set) -> Result<Vec<Self>, SuiteError> {
        let read = |(name, text): &(&str, &str)| Self::parse(name, text);
        if names.is_empty() {
            let all = BUILT_IN.iter().map(read).collect::<Result<Vec<_>, _>>()?;
            return Ok(all.into_iter().filter(|suite| suite.sets.contains(&set)).collect());
        }
        names
            .iter()
            .map(|name| {
                let found = BUILT_IN.iter().find(|(known, _)| known == name);
                read(found.ok_or_else(|| SuiteError::Unknown {
                    name: name.clone(),
                    known: BUILT_IN.map(|(known, _)| known).join(", "),
                })?)
            })
            .collect()
    }
}

impl Scenario {
    fn check_budget(&self, suite: &str) -> Result<(), SuiteError> {
        let mut at_once = 0;
        let mut most = 0;
        for step in &self.steps {
            at_once = if *step == (Step::Heal {}) { 0 } else { at_once + usize::from(step.is_fault()) };
            most = most.max(at_once);
        }
        let (suite, scenario) = (suite.to_owned(), self.name.clone());
        if most > self.fault_budget {
            return Err(SuiteError::OverBudget { suite, scenario, faults: most, budget: self.fault_budget });
        }
        if at_once > 0 { Err(SuiteError::EndsBroken { suite, scenario }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_suites_are_good_and_named_after_their_files() {
        for (name, text) in BUILT_IN {
            assert_eq!(Suite::parse(name, text).unwrap().name, name);
        }
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("suites");
        let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = files.map(|path| path.file_stem().unwrap().to_owned()).collect();
        files.sort();
        let mut built_in = BUILT_IN.map(|(name, _)| name);
        built_in.sort_unstable();
        assert_eq!(files, built_in, "every suite file is built in");
    }

    #[test]
    fn what_would_look_at_nothing_is_refused() {
        assert!(matches!(parse(""), Err(SuiteError::Empty { .. })));
        let none = "name = 's'\ntitle = 't'\nsets = []\nscenario = []";
        assert!(matches!(Suite::parse("s", none), Err(SuiteError::Empty { .. })));
    }

    fn spec(shape: &str) -> ClusterSpec {
        let text = std::fs::read_to_string(format!("templates/{shape}.toml")).unwrap();
        let source = template::Source::new(shape.to_owned(), &text);
        template::read(&source, &template::ReadOptions::default()).unwrap().spec.unwrap()
    }

    #[test]
    fn what_a_cluster_has_not_got_makes_a_scenario_not_applicable() {
        let unmet = |shape: &str, step: &str| {
            let suite = parse(&format!("{step}, {{ do = 'heal' }}")).unwrap();
            suite.unmet(&suite.scenarios[0], &spec(shape))
        };
        let cross = "{ do = 'cross-cable', room = 2, position = 2, nics = 'all' }";
        assert_eq!(unmet("2+2", cross), None);
        assert_eq!(unmet("1+1", cross).unwrap(), "room 2 has no node 2");
        let cut = "{ do = 'cut-room-link', storage_network = 3 }";
        assert_eq!(unmet("2+2", cut).unwrap(), "the cluster has no storage network 3");
    }

    #[test]
    fn a_need_that_is_not_met_says_why() {
        let small = ClusterSpec { intents: Vec::new(), ..spec("1+1") };
        assert!(Need::PeersInRoom.unmet(&small).is_some());
        assert!(Need::JumboFrames.unmet(&small).is_some());
        let large = spec("2+2");
        for need in [Need::PeersInRoom, Need::JumboFrames, Need::DedicatedStorage] {
            assert_eq!(need.unmet(&large), None, "{need:?}");
        }
    }

    #[test]
    fn an_unknown_suite_is_answered_with_the_known_ones() {
        let error = Suite::select(&["tor-los".into()], Set::Default).unwrap_err();
        assert!(error.to_string().contains("tor-loss"), "{error}");
    }

    fn parse(steps: &str) -> Result<Suite, SuiteError> {
        let head =
            "name = 's'\ntitle = 't'\nsets = []\n[[scenario]]\nname = 'x'\nfault_budget = 1\nbound_ms = 1\n";
        Suite::parse("s", &format!("{head}step = [{steps}]"))
    }

    #[test]
    fn a_scenario_keeps_its_fault_budget_and_mends_what_it_broke() {
        let cut = "{ do = 'cut-room-link', storage_network = 1 }";
        assert!(parse(&format!("{cut}, {{ do = 'heal' }}")).is_ok());
        assert!(matches!(parse(&format!("{cut}, {cut}")), Err(SuiteError::OverBudget { .. })));
        assert!(matches!(parse(cut), Err(SuiteError::EndsBroken { .. })));
    }

    #[test]
    fn what_a_suite_can_not_say_is_refused_with_its_place() {
        for bad in [
            "{ do = 'pray' }",
            "{ do = 'heal', hard = true }",
            "{ do = 'fail-switch', room = 3, storage_network = 1 }",
        ] {
            assert!(matches!(parse(bad), Err(SuiteError::Syntax { .. })), "{bad}");
        }
    }
}
