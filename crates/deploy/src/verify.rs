//! Whether a cluster is what a rack aware cluster has to be: asked after a deployment, and whenever somebody wants to know.
//!
//! ```text
//!   what members say (ledger, health, links) ─► [`verify`]: check by check, all of them, what was found and what is wrong
//! ```
//! Purpose: `status` says how the cluster is doing; this says whether it is *made* as it should be: two racks of equal size, a witness in neither, every copy where the shape says, every path heard,
//! every plan in force. Nothing is changed.
//!
//! Invariants: every check is told, held or not. A member that does not answer makes the checks that need its word fail; none holds because nobody could be asked. Pure but for [`facts`].
//!
//! On failure: who does not answer is a finding, not an error.

use crate::Member;
use crate::pool::{newest, views};
use api::{ClusterView, Health, NetworkState};
use control::State;
use control::state::{Health as DriveHealth, LegState, Volume};
use futures_util::future::join_all;
use model::{Mirror, NodeId, NodeName, Shape, ZoneName};
use network::measure::Machines;
use network::measure::latency::LIMIT_US;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;
use tokio::time::timeout;

/// How long a member has for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// A path on which the last hello is older is not heard, ms: agents greet each other five times a second.
const HEARD_WITHIN_MS: u32 = 1000;
/// Nodes of a zone at most.
const ZONE_NODES_MAX: usize = Shape::ALL.len();
/// Between two nodes there are so many storage networks.
const NETWORKS: usize = 2;
/// The check that is about times, which emulated machines do not keep.
const TIMES: &str = "round-trips";

/// What was asked of whom, and what those said who answered.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Who was asked.
    pub asked: Vec<NodeName>,
    /// What they say of the ledger, if they have it.
    pub views: Vec<(NodeName, ClusterView)>,
    /// How they are.
    pub health: BTreeMap<NodeName, Health>,
    /// Their links.
    pub networks: BTreeMap<NodeName, NetworkState>,
}

/// Something that has to hold of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name.
    pub id: &'static str,
    /// What has to hold.
    pub asks: &'static str,
    /// What was found.
    pub found: String,
    /// The same one by one, where that says more: each volume with where its copies are.
    pub each: Vec<String>,
    /// What is wrong, a sentence each; none: it holds.
    pub wrong: Vec<String>,
}

impl Check {
    /// Whether it holds.
    pub fn holds(&self) -> bool {
        self.wrong.is_empty()
    }

    /// Whether that it does not hold says something of the cluster: how long emulated machines take is their host's.
    pub fn is_judged(&self, machines: Machines) -> bool {
        machines == Machines::Real || self.id != TIMES
    }
}

/// Asks all members at once.
pub async fn facts(members: &[Member]) -> Facts {
    let health = all(members, |member| async { member.client.health().await.ok() });
    let networks = all(members, |member| async { member.client.network().await.ok() });
    let (views, health, networks) = tokio::join!(views(members), health, networks);
    Facts { asked: members.iter().map(|member| member.name.clone()).collect(), views, health, networks }
}

async fn all<'a, T, F: Future<Output = Option<T>>>(
    members: &'a [Member],
    ask: impl Fn(&'a Member) -> F,
) -> BTreeMap<NodeName, T> {
    let asked = members.iter().map(|member| {
        let answer = timeout(ANSWER_LIMIT, ask(member));
        async { Some((member.name.clone(), answer.await.ok().flatten()?)) }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Every check, in an order in which a failed one may explain those behind it.
pub fn verify(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![plans(facts), carriers(facts), paths(facts), round_trips(facts)];
    let Some(view) = newest(&facts.views) else {
        let wrong =
            vec!["no quorum answers: `twinrack ledger show` says how each node's ledger is".to_owned()];
        checks.push(Check { found: "nothing".to_owned(), wrong, ..check("quorum", QUORUM) });
        return checks;
    };
    let seen = Seen::of(facts, view);
    checks.extend([seen.quorum(), seen.zones(), seen.witness(), seen.nodes()]);
    checks.extend([seen.drives(), seen.reserve(), seen.layout(), seen.in_sync()]);
    checks
}

fn check(id: &'static str, asks: &'static str) -> Check {
    Check { id, asks, found: String::new(), each: Vec::new(), wrong: Vec::new() }
}

const QUORUM: &str = "a quorum answers, and all nodes and the witness vote";

/// Everybody who was asked, with what they said; who said nothing is wrong.
fn said<'a, T>(
    facts: &'a Facts,
    of: &'a BTreeMap<NodeName, T>,
    wrong: &mut Vec<String>,
) -> Vec<(&'a NodeName, &'a T)> {
    let silent = facts.asked.iter().filter(|name| !of.contains_key(*name));
    wrong.extend(silent.map(|name| format!("{name} does not answer")));
    of.iter().collect()
}

/// Intents, priorities and bandwidth among them, are what plans are made from; agents hold kernels to them.
fn plans(facts: &Facts) -> Check {
    let mut wrong = Vec::new();
    let all = said(facts, &facts.networks, &mut wrong);
    for (name, state) in &all {
        match (&state.committed, state.pending_ms) {
            (_, Some(ms)) => {
                wrong.push(format!("{name} has a plan that nobody has confirmed, for {ms} ms more"));
            }
            (None, None) => wrong.push(format!("{name} has no network plan")),
            (Some(committed), None) => {
                let why = committed.not_made.as_ref();
                wrong.extend(why.map(|why| format!("{name} could not make its network plan: {why}")));
            }
        }
        let standing = facts.health.get(*name).map_or(0, |health| health.drifts.standing);
        if standing > 0 {
            wrong.push(format!("{standing} of {name}'s links are not as its plan says, and not mended"));
        }
    }
    let found = format!("{} of {} with a plan in force", all.len(), facts.asked.len());
    Check {
        found,
        wrong,
        ..check(
            "network-plans",
            "every node's intents, priorities and QoS are in force, and nobody has changed its links",
        )
    }
}

fn carriers(facts: &Facts) -> Check {
    let mut wrong = Vec::new();
    let all = said(facts, &facts.health, &mut wrong);
    let nics = || all.iter().flat_map(|(name, health)| health.nics.iter().map(move |nic| (name, nic)));
    let without = nics().filter(|(_, nic)| nic.carrier != Some(true));
    wrong.extend(without.map(|(name, nic)| format!("{name}: adapter {} has no carrier", nic.adapter)));
    let bare = all.iter().filter(|(_, health)| health.nics.is_empty());
    wrong.extend(bare.map(|(name, _)| format!("{name} has no adapters")));
    Check {
        found: format!("{} adapters", nics().count()),
        wrong,
        ..check("carriers", "every adapter has carrier")
    }
}

/// Who should be on the storage networks: nodes in a zone; before there is a ledger, whoever listens there.
fn ends(facts: &Facts) -> Vec<&NodeName> {
    let zone = |name: &NodeName| {
        newest(&facts.views).and_then(|view| {
            view.state.nodes.values().rev().find(|node| node.name == *name).map(|node| node.zone.is_some())
        })
    };
    let listens = |name: &NodeName| facts.health.get(name).is_some_and(|health| !health.paths.is_empty());
    facts.asked.iter().filter(|name| zone(name).unwrap_or_else(|| listens(name))).collect()
}

/// Everybody in a zone hears everybody else, on both.
fn paths(facts: &Facts) -> Check {
    let mut wrong = Vec::new();
    said(facts, &facts.health, &mut wrong);
    let (ends, mut heard) = (ends(facts), 0);
    for (name, health) in ends.iter().filter_map(|name| Some((*name, facts.health.get(*name)?))) {
        for peer in ends.iter().filter(|peer| **peer != name) {
            let views = health.paths.iter().filter(|path| path.peer == **peer);
            let networks: BTreeSet<_> = views
                .filter(|path| path.heard_ms_ago.is_some_and(|ms| ms <= HEARD_WITHIN_MS))
                .map(|path| path.network)
                .collect();
            heard += networks.len();
            if networks.len() < NETWORKS {
                wrong.push(format!(
                    "{name} hears {peer} on {} of {NETWORKS} storage networks",
                    networks.len()
                ));
            }
        }
    }
    if ends.len() < 2 {
        wrong.push("fewer than two nodes are on storage networks".to_owned());
    }
    let found = format!("{heard} paths between {} nodes are heard", ends.len());
    Check { found, wrong, ..check("storage-paths", "every node hears every other on both storage networks") }
}

/// As hellos take them, between the racks alone: the rule is about those.
fn round_trips(facts: &Facts) -> Check {
    let mut wrong = Vec::new();
    let all = said(facts, &facts.health, &mut wrong);
    let zones: BTreeMap<&NodeName, Option<&ZoneName>> = newest(&facts.views)
        .into_iter()
        .flat_map(|view| view.state.nodes.values().map(|node| (&node.name, node.zone.as_ref())))
        .collect();
    let between = |one: &NodeName, other: &NodeName| zones.get(one) != zones.get(other);
    let mut longest = None;
    for (name, health) in all {
        for quality in health.qualities.iter().filter(|quality| between(name, &quality.peer)) {
            let (peer, network) = (&quality.peer, quality.network);
            let Some(median_us) = quality.median_us else {
                wrong.push(format!("{name} to {peer} on storage network {network}: not measured"));
                continue;
            };
            longest = longest.max(Some(median_us));
            if u64::from(median_us) > LIMIT_US {
                wrong.push(format!("{name} to {peer} on storage network {network}: {median_us} µs"));
            }
        }
    }
    let found = longest.map_or("none was measured".to_owned(), |us| format!("medians of at most {us} µs"));
    if longest.is_none() {
        wrong.push("no round trip between the racks was measured in the last four seconds".to_owned());
    }
    Check {
        found,
        wrong,
        ..check(TIMES, "storage round trips between the racks take at most 1 ms, as hellos measure them")
    }
}

/// A cluster by the word of a quorum.
struct Seen<'a> {
    view: &'a ClusterView,
    state: &'a State,
    facts: &'a Facts,
    views: &'a [(NodeName, ClusterView)],
    /// The present one of each name that was asked or votes.
    nodes: BTreeMap<NodeId, (&'a NodeName, Option<&'a ZoneName>)>,
}

impl<'a> Seen<'a> {
    fn of(facts: &'a Facts, view: &'a ClusterView) -> Self {
        let state = &view.state;
        let mut last: BTreeMap<&NodeName, (NodeId, Option<&ZoneName>)> = BTreeMap::new();
        for (id, node) in &state.nodes {
            last.insert(&node.name, (*id, node.zone.as_ref()));
        }
        let present = last.into_iter().filter(|(name, (id, _))| {
            facts.asked.contains(name)
                || view.voters.contains(id)
                || state.drives.values().any(|drive| drive.node == *id)
        });
        let nodes = present.map(|(name, (id, zone))| (id, (name, zone))).collect();
        Self { view, state, facts, views: &facts.views, nodes }
    }

    fn name(&self, id: NodeId) -> String {
        self.nodes.get(&id).map_or_else(|| id.to_string(), |(name, _)| name.to_string())
    }

    fn quorum(&self) -> Check {
        let shall = self.nodes.iter().filter(|(id, _)| !self.state.leaves(**id));
        let without = shall.filter(|(id, _)| !self.view.voters.contains(id));
        let mut wrong: Vec<String> = without.map(|(_, (name, _))| format!("{name} does not vote")).collect();
        let others = self.view.voters.iter().filter(|id| !self.nodes.contains_key(id));
        wrong.extend(others.map(|id| format!("{id} votes, and is no node that is there")));
        let leader = self.view.leader.map_or("nobody".to_owned(), |id| self.name(id));
        let found = format!("{} vote, {leader} leads", self.view.voters.len());
        Check { found, wrong, ..check("quorum", QUORUM) }
    }

    fn zones(&self) -> Check {
        let mut zones: BTreeMap<&ZoneName, Vec<&str>> = BTreeMap::new();
        // Of a pair that leaves one may be gone already.
        for (id, (name, zone)) in &self.nodes {
            if let (Some(zone), false) = (zone, self.state.leaves(*id)) {
                zones.entry(zone).or_default().push(name.as_str());
            }
        }
        let sizes: Vec<usize> = zones.values().map(Vec::len).collect();
        let mut wrong = Vec::new();
        match &sizes[..] {
            [one, other] if one != other => wrong.push(format!("one has {one} nodes and the other {other}")),
            [one, _] if *one > ZONE_NODES_MAX => {
                wrong.push(format!("each has {one} nodes, more than {ZONE_NODES_MAX}"));
            }
            [_, _] => {}
            _ => wrong.push(format!("there are {} zones with nodes", sizes.len())),
        }
        let told = zones.iter().map(|(zone, names)| format!("{zone} ({})", names.join(", ")));
        let found = told.collect::<Vec<_>>().join(" and ");
        Check { found, wrong, ..check("zones", "rack aware: two zones with as many nodes each, one to four") }
    }

    fn witness(&self) -> Check {
        let witnesses: Vec<_> = self.nodes.iter().filter(|(_, (_, zone))| zone.is_none()).collect();
        let mut wrong = Vec::new();
        if witnesses.len() != 1 {
            wrong.push(format!("there are {}", witnesses.len()));
        }
        let answers = |id: NodeId| self.views.iter().any(|(_, view)| view.node == id);
        let silent = witnesses.iter().filter(|(id, _)| !answers(**id));
        wrong.extend(silent.map(|(_, (name, _))| format!("{name} does not answer, or has no ledger")));
        let with_drives =
            witnesses.iter().filter(|(id, _)| self.state.drives.values().any(|drive| drive.node == **id));
        wrong.extend(with_drives.map(|(_, (name, _))| format!("{name} has drives in the pool")));
        let found = witnesses.iter().map(|(_, (name, _))| name.as_str()).collect::<Vec<_>>().join(", ");
        Check { found, wrong, ..check("witness", "one witness, in no zone and without drives, answers") }
    }

    fn nodes(&self) -> Check {
        let named = |name: &NodeName| self.nodes.values().any(|(found, _)| *found == name);
        let strangers = self.facts.asked.iter().filter(|name| !named(name));
        let mut wrong: Vec<String> = strangers.map(|name| format!("the ledger knows no {name}")).collect();
        let mut leased = 0;
        for (id, (name, _)) in &self.nodes {
            match self.views.iter().find(|(_, view)| view.node == *id) {
                None => wrong.push(format!("{name} does not answer, or has no ledger")),
                Some((_, view)) if !view.leased => wrong.push(format!("{name} has no lease")),
                Some(_) => leased += 1,
            }
        }
        let found = format!("{leased} of {} with a lease", self.nodes.len());
        Check { found, wrong, ..check("nodes", "every node answers and has a lease") }
    }

    fn drives(&self) -> Check {
        let mut wrong = Vec::new();
        let mut per_node: BTreeMap<NodeId, usize> = BTreeMap::new();
        for (id, (_, zone)) in &self.nodes {
            if zone.is_some() {
                per_node.insert(*id, 0);
            }
        }
        for drive in self.state.drives.values() {
            let node = self.name(drive.node);
            match drive.health {
                DriveHealth::Good if drive.retired => {
                    wrong.push(format!("drive {} of {node} is retired", drive.serial));
                }
                DriveHealth::Good => *per_node.entry(drive.node).or_default() += 1,
                DriveHealth::Slow => wrong.push(format!("drive {} of {node} is slow", drive.serial)),
                DriveHealth::Erred => {
                    wrong.push(format!("drive {} of {node} reported an error", drive.serial));
                }
                DriveHealth::Lost => wrong.push(format!("drive {} of {node} is lost", drive.serial)),
            }
        }
        let most = per_node.values().copied().max().unwrap_or(0);
        let fewer = per_node.iter().filter(|(_, count)| **count < most);
        wrong.extend(
            fewer.map(|(id, count)| format!("{} has {count} drives, others have {most}", self.name(*id))),
        );
        if most == 0 {
            wrong.push("the pool has no drives".to_owned());
        }
        let found = format!("{} drives, {most} a node", per_node.values().sum::<usize>());
        Check {
            found,
            wrong,
            ..check("drives", "every drive of the pool is good, and nodes have as many each")
        }
    }

    fn reserve(&self) -> Check {
        let broken = placement::check_reserve(&self.state.pool(), &self.state.placed());
        let wrong = broken.iter().map(ToString::to_string).collect();
        let capacity = placement::capacity(&self.state.pool(), &self.state.placed());
        let found = format!("{} nodes with drives", capacity.nodes.len());
        Check { found, wrong, ..check("reserve", "one drive's worth is free on every node") }
    }

    /// Racks first, then nodes: by placement's own check, which shares nothing with what placed them.
    fn layout(&self) -> Check {
        let sizes = self.state.volumes.iter().map(|(id, volume)| (*id, volume.size())).collect();
        let broken = placement::check(&self.state.pool(), &sizes, &self.state.placed());
        let wrong = broken.iter().map(ToString::to_string).collect();
        let of =
            |mirror: Mirror| self.state.volumes.values().filter(|volume| volume.mirror == mirror).count();
        let found = format!(
            "{} two-way (one copy a rack), {} four-way (two a rack, each on its own node)",
            of(Mirror::TwoWay),
            of(Mirror::FourWay)
        );
        let each = self.state.volumes.values().map(|volume| self.copies(volume)).collect();
        Check {
            found,
            each,
            wrong,
            ..check("layout", "every volume's copies are in both racks, and in a rack on different nodes")
        }
    }

    /// A volume, and where its copies are.
    fn copies(&self, volume: &Volume) -> String {
        let mut racks: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for id in volume.legs.values().filter_map(|leg| self.state.node_of(leg)) {
            let zone = self.nodes.get(&id).and_then(|(_, zone)| *zone);
            racks.entry(zone.map_or("no zone", ZoneName::as_str)).or_default().push(self.name(id));
        }
        let told = racks.into_iter().map(|(zone, mut nodes)| {
            nodes.sort();
            format!("{zone} ({})", nodes.join(", "))
        });
        format!("{}: {}", volume.name, told.collect::<Vec<_>>().join(" and "))
    }

    fn in_sync(&self) -> Check {
        let (mut wrong, mut all) = (Vec::new(), 0);
        for (id, volume) in &self.state.volumes {
            let count = volume.legs.len();
            let in_sync = volume.legs.values().filter(|leg| leg.state == LegState::InSync).count();
            all += count;
            if in_sync < count {
                wrong.push(format!("{}: {in_sync} of {count} copies are in sync", volume.name));
            }
            let why = self.view.blocked.get(id);
            wrong.extend(why.map(|why| format!("{} waits: {why}", volume.name)));
            let rooms = self.facts.health.values().filter_map(|health| health.out_of_room.get(id));
            wrong.extend(rooms.map(|why| format!("writes to {} wait for room: {why}", volume.name)));
        }
        let found = format!("{all} copies of {} volumes", self.state.volumes.len());
        Check { found, wrong, ..check("in-sync", "every copy of every volume is in sync, and none waits") }
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
