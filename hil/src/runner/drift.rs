//! Drifts: made behind the agents' backs, and each found, told and mended, and nothing else.
//!
//! Invariants: what is told is held against what the kernel makes of the drift, link by link and attribute by attribute: the one
//! that was aimed at must be among it, and nothing that does not follow from it. That it is mended is seen from the links
//! themselves, which must be as before, attributes included that no plan has; the diff that the agent goes by is not asked alone.
//!
//! On failure: the step ends with the first drift that does not hold. Then the plans are applied once more, so that the
//! next scenario finds a cluster that is as it should be.

use super::{NEIGHBOURS_PATIENCE, Runner, Seen, milliseconds, or_failure};
use crate::events::Event;
use crate::lab::LabError;
use crate::lab::drift::{BY_HAND, Drift, Settled};
use crate::lab::hands::Hands;
use crate::run::RunError;
use api::Repair;
use deploy::DeployError;
use model::NodeName;
use network::{Attribute, CurrentLinks, Generation, LinkKind, LinkName};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, interval, sleep, timeout};

/// Within what time a drift is found: what the product promises.
const FOUND_BOUND: Duration = Duration::from_secs(5);
/// Within what time after that it is mended.
const MENDED_BOUND: Duration = Duration::from_secs(5);
/// How often the node is asked meanwhile.
const POLL: Duration = Duration::from_millis(100);
/// What an agent invents, it invents until then: it looks every two seconds.
const AFTERMATH: Duration = Duration::from_millis(2500);

/// How long one took, milliseconds.
struct Times {
    found_ms: u64,
    mended_ms: u64,
}

impl Runner<'_> {
    /// Makes drifts one after another, and sees what becomes of each.
    pub(super) async fn drift(&mut self, count: u8) -> Result<Seen, RunError> {
        let mut seen = self.drift_beside_others(count).await?;
        for node in self.lab.nodes().values() {
            node.remove_by_hand().await?;
        }
        if !seen.good
            && let Err(error) = deploy::network(&self.cluster, NEIGHBOURS_PATIENCE).await
        {
            seen.what =
                format!("{}\nand to apply the plans again failed: {}", seen.what, crate::chain(&error));
        }
        Ok(seen)
    }

    /// With a link on every node that is not ours.
    async fn drift_beside_others(&mut self, count: u8) -> Result<Seen, RunError> {
        let links = match self.links().await {
            Ok(links) => links,
            Err(error) => return Ok(or_failure(Err(error))),
        };
        for (name, links) in &links {
            let Some(node) = self.lab.nodes().get(name) else { continue };
            let managed: BTreeSet<_> = node.adapters().into_values().collect();
            // The out-of-band NIC: the only one that no plan names.
            let free = links.links.iter().find(|(_, link)| {
                link.kind == LinkKind::Nic && link.permanent_mac.is_some_and(|mac| !managed.contains(&mac))
            });
            let Some((nic, _)) = free else {
                return Ok(Seen::not(format!("{name} has no NIC that is not in its plan")));
            };
            node.make_by_hand(nic).await?;
        }
        let settled = match self.settled().await {
            Ok(settled) => settled,
            Err(error) => return Ok(or_failure(Err(error))),
        };
        let drifts = self.lab.deal_drifts(&settled, usize::from(count));
        if drifts.len() < usize::from(count) {
            return Ok(Seen::not(format!("only {} different drifts can be made", drifts.len())));
        }
        let mut times = Vec::new();
        for drift in &drifts {
            match self.one_drift(drift, &settled).await? {
                Ok(took) => times.push(took),
                Err(why) => return Ok(Seen::not(format!("{drift}: {why}"))),
            }
        }
        let calm = self.calm(&settled).await;
        Ok(or_failure(calm.map(|wrong| Seen::unless(&wrong, summary(&times)))))
    }

    /// One drift, from just before it is made until it is mended.
    async fn one_drift(&self, drift: &Drift, settled: &[Settled]) -> Result<Result<Times, String>, RunError> {
        let missing = || LabError::Missing { node: drift.node.to_string() };
        let node = self.lab.nodes().get(&drift.node).ok_or_else(missing)?;
        let mut hands = node.hands_or_lab_error().await?;
        Ok(match self.make_and_see(drift, &mut hands, settled).await {
            Ok(took) => Ok(took),
            Err(Stop::Lab(error)) => return Err(error.into()),
            Err(Stop::Ask(error)) => Err(crate::chain(&error)),
            Err(Stop::Wrong(why)) => Err(why),
        })
    }

    async fn make_and_see(
        &self,
        drift: &Drift,
        hands: &mut Hands,
        settled: &[Settled],
    ) -> Result<Times, Stop> {
        let find = || Stop::Wrong("the node is not in the cluster".to_owned());
        let member = self.cluster.members.iter().find(|m| m.name == drift.node).ok_or_else(find)?;
        let settled_here = settled.iter().find(|s| s.node == drift.node).ok_or_else(find)?;
        let before = self.all_drifts().await?;
        // By the node's own clock, and from before it is made: it must not look faster than it is.
        let start_ms = member.client.health().await?.uptime_ms;
        let made = Instant::now();
        drift.make(hands).await.map_err(Stop::Lab)?;
        let known = before.get(&drift.node).copied().unwrap_or_default();
        let told = timeout(FOUND_BOUND + MENDED_BOUND, self.told(member, known, drift)).await;
        let told = match told {
            Ok(told) => told?,
            Err(_) => return Err(Stop::Wrong(self.untold(member, known, made).await?)),
        };
        let times = judge(drift, settled_here, &told, start_ms).map_err(Stop::Wrong)?;
        let mut wrong = self.others_are_silent(drift, &before, told.len()).await?;
        wrong.extend(self.differing(settled).await?);
        if !wrong.is_empty() {
            return Err(Stop::Wrong(wrong.join("\n")));
        }
        self.log.log(Event::Drift {
            node: drift.node.to_string(),
            done: drift.to_string(),
            told: told.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            found_after_ms: times.found_ms,
            mended_after_ms: times.mended_ms,
        });
        Ok(times)
    }

    /// Waits until the node tells of the drift, and that it is mended.
    async fn told(
        &self,
        member: &deploy::Member,
        known: u64,
        drift: &Drift,
    ) -> Result<Vec<api::Drift>, DeployError> {
        let mut ticks = interval(POLL);
        loop {
            ticks.tick().await;
            let glance = member.client.health().await?.drifts;
            if glance.count == known || glance.standing > 0 {
                continue;
            }
            let drifts = member.client.network().await?.drifts.last;
            let told: Vec<_> = drifts.into_iter().filter(|told| told.number > known).collect();
            // One that is done in two strokes may be told in two.
            if told.iter().any(|told| names(told, drift)) {
                return Ok(told);
            }
        }
    }

    /// What is known of a drift that was not told in time.
    async fn untold(
        &self,
        member: &deploy::Member,
        known: u64,
        made: Instant,
    ) -> Result<String, DeployError> {
        let drifts = member.client.network().await?.drifts;
        let told: Vec<_> =
            drifts.last.iter().filter(|told| told.number > known).map(ToString::to_string).collect();
        let unable = drifts.unable.map(|why| format!("; it can't look: {why}")).unwrap_or_default();
        let told = if told.is_empty() { "nothing".to_owned() } else { told.join("; ") };
        Ok(format!("not told and mended in {} ms; told: {told}{unable}", milliseconds(made.elapsed())))
    }

    /// How many drifts each member has told of.
    async fn all_drifts(&self) -> Result<BTreeMap<NodeName, u64>, DeployError> {
        let mut counts = BTreeMap::new();
        for member in &self.cluster.members {
            counts.insert(member.name.clone(), member.client.health().await?.drifts.count);
        }
        Ok(counts)
    }

    /// What the members tell of besides a drift.
    async fn others_are_silent(
        &self,
        drift: &Drift,
        before: &BTreeMap<NodeName, u64>,
        told: usize,
    ) -> Result<Vec<String>, DeployError> {
        let now = self.all_drifts().await?;
        let told = u64::try_from(told).unwrap_or(u64::MAX);
        let expected = |node: &NodeName, count: &u64| count + if *node == drift.node { told } else { 0 };
        let wrong = before.iter().filter(|(node, count)| now.get(*node) != Some(&expected(node, count)));
        Ok(wrong.map(|(node, _)| format!("{node} has told of a drift that nobody made")).collect())
    }

    /// Nothing more is told, and all links, those of others included, are as before.
    async fn calm(&self, settled: &[Settled]) -> Result<Vec<String>, DeployError> {
        let before = self.all_drifts().await?;
        sleep(AFTERMATH).await;
        let now = self.all_drifts().await?;
        let mut wrong = self.differing(settled).await?;
        let told = before.iter().filter(|(node, count)| now.get(*node) != Some(*count));
        wrong
            .extend(told.map(|(node, _)| format!("{node} has told of one more drift after all were mended")));
        Ok(wrong)
    }

    async fn links(&self) -> Result<BTreeMap<NodeName, CurrentLinks>, DeployError> {
        let mut links = BTreeMap::new();
        for member in &self.cluster.members {
            links.insert(member.name.clone(), member.client.network().await?.links);
        }
        Ok(links)
    }

    /// The links of all members with what their plans want of them.
    async fn settled(&self) -> Result<Vec<Settled>, DeployError> {
        let mut settled = Vec::new();
        for member in &self.cluster.members {
            let state = member.client.network().await?;
            let plan = deploy::plan_for(&self.cluster, member, state.generation.unwrap_or(Generation(1)))?;
            let resolved = plan.resolve(&member.adapters, &state.links);
            let desired = resolved
                .map_err(|source| DeployError::Diff { node: member.name.clone(), source: source.into() })?;
            settled.push(Settled { node: member.name.clone(), links: state.links, desired });
        }
        Ok(settled)
    }

    /// How the links of all members differ from before, and from their plans.
    async fn differing(&self, settled: &[Settled]) -> Result<Vec<String>, DeployError> {
        let now = self.links().await?;
        let mut wrong = Vec::new();
        for before in settled {
            let Some(now) = now.get(&before.node) else { continue };
            wrong.extend(
                changed(&before.links, now).into_iter().map(|what| format!("{}: {what}", before.node)),
            );
        }
        for (node, ops) in deploy::read_back(&self.cluster).await? {
            wrong.extend(ops.iter().map(|op| format!("{node}: still to do: {op}")));
        }
        Ok(wrong)
    }
}

/// Why a drift does not hold.
enum Stop {
    Lab(LabError),
    Ask(DeployError),
    Wrong(String),
}

impl From<DeployError> for Stop {
    fn from(error: DeployError) -> Self {
        Self::Ask(error)
    }
}

impl From<api::ClientError> for Stop {
    fn from(error: api::ClientError) -> Self {
        Self::Ask(error.into())
    }
}

fn names(told: &api::Drift, drift: &Drift) -> bool {
    let aim = drift.aims_at();
    told.differences.iter().any(|difference| {
        Some((&difference.link, difference.attribute))
            == aim.as_ref().map(|(link, attribute)| (link, *attribute))
    })
}

/// Whether what was told is the drift, all of it and nothing else, in time.
fn judge(drift: &Drift, settled: &Settled, told: &[api::Drift], start_ms: u64) -> Result<Times, String> {
    let words = told.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if told.len() > drift.ops.len() {
        return Err(format!("told {} times: {words}", told.len()));
    }
    let follows: BTreeSet<(LinkName, Attribute)> = drift.follows(settled);
    let invented = |d: &&network::Difference| !follows.contains(&(d.link.clone(), d.attribute));
    let invented: Vec<String> =
        told.iter().flat_map(|told| &told.differences).filter(invented).map(ToString::to_string).collect();
    if !invented.is_empty() {
        return Err(format!("told what does not follow from it: {}", invented.join("; ")));
    }
    if told.iter().any(|told| told.contested || told.differences.iter().any(|d| d.link.as_str() == BY_HAND)) {
        return Err(format!("told as something else: {words}"));
    }
    let (mut found_ms, mut mended_ms) = (0, 0);
    for told in told {
        let Repair::Mended { after_ms, .. } = told.repair else {
            return Err(format!("it was not mended: {words}"));
        };
        found_ms = told.found_at_ms.saturating_sub(start_ms).max(found_ms);
        mended_ms = after_ms.max(mended_ms);
    }
    if found_ms > milliseconds(FOUND_BOUND) {
        return Err(format!("found only after {found_ms} ms: {words}"));
    }
    Ok(Times { found_ms, mended_ms })
}

/// What of a node's links is not as before. What the kernel chooses when a link is made anew may differ, and carrier.
fn changed(before: &CurrentLinks, now: &CurrentLinks) -> Vec<String> {
    let names: BTreeSet<&LinkName> = before.links.keys().chain(now.links.keys()).collect();
    let bare = |links: &CurrentLinks, name: &LinkName| {
        links.get(name).cloned().map(|mut link| {
            (link.index, link.carrier) = (0, None);
            link
        })
    };
    let differs = names.into_iter().filter(|name| bare(before, name) != bare(now, name));
    differs.map(|name| format!("{name} was {:?} and is {:?}", bare(before, name), bare(now, name))).collect()
}

fn summary(times: &[Times]) -> String {
    let of = |what: fn(&Times) -> u64| {
        let mut sorted: Vec<u64> = times.iter().map(what).collect();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        (median, sorted.last().copied().unwrap_or_default())
    };
    let ((found, found_max), (mended, mended_max)) = (of(|t| t.found_ms), of(|t| t.mended_ms));
    format!(
        "{} drifts: found after {found} ms (at most {found_max}), mended {mended} ms later (at most {mended_max}); \
         nothing else was told, and what is not ours is as it was",
        times.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::MacAddress;
    use network::link::CurrentLink;
    use network::{DesiredLinks, Difference};

    #[test]
    fn medians_and_maxima_are_told() {
        let times: Vec<Times> =
            [(9, 1), (100, 2), (5, 30)].map(|(found_ms, mended_ms)| Times { found_ms, mended_ms }).into();
        let words = summary(&times);
        let expected = "3 drifts: found after 9 ms (at most 100), mended 2 ms later (at most 30)";
        assert!(words.starts_with(expected), "{words}");
    }

    fn name() -> LinkName {
        "eth0".parse().unwrap()
    }

    /// One NIC, which is as planned.
    fn settled() -> Settled {
        let nic = CurrentLink {
            index: 2,
            kind: LinkKind::Nic,
            mac: None,
            permanent_mac: Some(MacAddress([2, 0, 0, 0, 0, 2])),
            up: true,
            carrier: Some(true),
            mtu_bytes: 9000,
            master: None,
            addresses: BTreeSet::new(),
            bridge_vlans: BTreeMap::new(),
            ipv6_link_local: None,
            routes: BTreeSet::new(),
            traffic: network::traffic::Traffic::default(),
        };
        let links = CurrentLinks { links: [(name(), nic)].into() };
        let nics = [name()].into();
        Settled { node: "a1".parse().unwrap(), desired: DesiredLinks::restoring(&links, &nics), links }
    }

    fn told(attribute: Attribute, found_at_ms: u64, repair: Repair) -> api::Drift {
        let (expected, found) = ("9000".to_owned(), "1400".to_owned());
        let differences = vec![Difference { link: name(), attribute, expected, found }];
        api::Drift { number: 1, found_at_ms, differences, changes: Vec::new(), contested: false, repair }
    }

    #[test]
    fn a_drift_holds_only_if_it_is_told_as_what_it_is_in_time_once_and_mended() {
        let settled = settled();
        let drift = Drift::lowering_the_mtu(&settled.node, &name());
        let mended = || Repair::Mended { after_ms: 30, duration_us: 9 };
        let judged =
            |told: &[api::Drift]| judge(&drift, &settled, told, 1000).map(|t| (t.found_ms, t.mended_ms));
        let good = told(Attribute::Mtu, 1200, mended());
        assert_eq!(judged(std::slice::from_ref(&good)), Ok((200, 30)));
        let bad = [
            (vec![told(Attribute::Mtu, 6001, mended())], "found only after 5001 ms"),
            (vec![told(Attribute::Up, 1200, mended())], "does not follow"),
            (vec![told(Attribute::Mtu, 1200, Repair::Gone)], "not mended"),
            (vec![told(Attribute::Mtu, 1200, Repair::Due)], "not mended"),
            (vec![good.clone(), good.clone()], "told 2 times"),
            (vec![api::Drift { contested: true, ..good }], "something else"),
        ];
        for (told, why) in bad {
            let error = judged(&told).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn whatever_is_not_as_before_is_seen_but_what_the_kernel_chooses() {
        let before = settled().links;
        let with = |change: fn(&mut CurrentLink)| {
            let mut links = before.clone();
            links.links.values_mut().for_each(change);
            changed(&before, &links).len()
        };
        assert_eq!(with(|link| (link.index, link.carrier) = (9, None)), 0);
        assert_eq!(with(|link| link.mtu_bytes = 1400), 1);
        assert_eq!(changed(&before, &CurrentLinks::default()).len(), 1);
        assert_eq!(changed(&CurrentLinks::default(), &before).len(), 1);
    }
}
