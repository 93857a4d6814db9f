//! What a deployment will do, decided from what there is. Pure.
//!
//! Invariants: everything that is in the way is said at once. A drive is taken if it is flash and blank, or the pool's already, or was named to be wiped; never one that the system uses.
//!
//! On failure: [`InTheWay`]; nothing has changed.

use super::express::{self, PoolDrive};
use super::growth;
use super::look::Look;
use super::repair;
use crate::Cluster;
use crate::hardware::{self, NodeHardware};
use crate::pool::{VolumeRequest, Voting, voting};
use crate::recorder::Stage;
use api::{Holds, NodeLedger};
use control::State;
use model::rules::{self, Rule};
use model::{ClusterSpec, Diagnostic, Drive, DriveClass, DriveId, DriveSerial, NodeName, Severity};
use network::Op;
use network::measure::Machines;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What the links of each node lack.
type Links = [(NodeName, Vec<Op>)];

/// What is wanted besides the template.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Drives that are taken whatever they hold.
    pub wipe: BTreeSet<DriveSerial>,
    /// What for.
    pub aim: Aim,
}

/// What a deployment is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Aim {
    /// A cluster that is as its template says.
    #[default]
    Deploy,
    /// Nodes that the ledger has not are added to its cluster.
    Grow,
    /// This node of it is replaced, or has lost what it had.
    Repair(NodeName),
}

impl Aim {
    /// Whether there is a cluster that serves meanwhile.
    fn is_beside(&self) -> bool {
        *self != Self::Deploy
    }

    /// Whether this node is the one that is repaired.
    fn repairs(&self, node: &NodeName) -> bool {
        matches!(self, Self::Repair(repaired) if repaired == node)
    }
}

/// What will be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Line by line, in the order of stages.
    pub changes: Vec<Change>,
    /// The data drives of each node: those that are the pool's, and those that will be.
    pub drives: BTreeMap<NodeName, BTreeSet<DriveSerial>>,
    /// Those of them whose data is lost.
    pub wipe: BTreeSet<DriveSerial>,
    /// The volumes that there will be; those that there are when nodes are added are none of it.
    pub volumes: Vec<VolumeRequest>,
    /// Nodes of the cluster beside which this is done: their links are let alone.
    pub serving: BTreeSet<NodeName>,
    /// What it is for.
    pub aim: Aim,
    /// Drives of a repaired node that are gone for good.
    pub lost: BTreeMap<DriveId, DriveSerial>,
    /// What is worth knowing: warnings, drives that are let alone.
    pub notes: Vec<String>,
    /// Whether no volume is there yet that anybody could use: then storage networks may be loaded to measure them.
    pub is_idle: bool,
}

/// One thing that will be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// In which stage.
    pub stage: Stage,
    /// Of whom: a node's name, or the cluster's.
    pub of: String,
    /// What.
    pub what: String,
    /// Whether it takes something away.
    pub takes: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.of, self.what)
    }
}

/// Why nothing is deployed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InTheWay {
    /// Rules that are broken, errors among them.
    pub diagnostics: Vec<Diagnostic>,
    /// What else is: a sentence each, and what to do about it.
    pub others: Vec<(String, &'static str)>,
}

impl InTheWay {
    pub(crate) fn is_nothing(&self) -> bool {
        self.others.is_empty() && self.diagnostics.iter().all(|found| found.severity < Severity::Error)
    }
}

impl fmt::Display for InTheWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors = self.diagnostics.iter().filter(|found| found.severity == Severity::Error);
        let rules = errors.map(|found| (found.message.as_str(), Some(found.rule), found.help.as_str()));
        let others = self.others.iter().map(|(what, help)| (what.as_str(), None, *help));
        for (at, (what, rule, help)) in rules.chain(others).enumerate() {
            let gap = if at > 0 { "\n" } else { "" };
            write!(f, "{gap}{what}")?;
            if let Some(rule) = rule {
                write!(f, "\n  rule: {rule}; `twinrack explain {rule}` says more")?;
            }
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

/// Decides.
pub fn plan(cluster: &Cluster, look: &Look, wishes: &Wishes, machines: Machines) -> Result<Plan, InTheWay> {
    let mut way = InTheWay::default();
    let mut notes = Vec::new();
    let (mut fates, ledger) = (fates(look, wishes), ledger(cluster, look, &wishes.aim, &mut way));
    let drives = taken(&fates);
    way.diagnostics.extend(look.cabling.findings.iter().map(network::wiring::WiringFinding::diagnostic));
    let hardware = hardware(cluster, look, &drives);
    way.diagnostics.extend(hardware.iter().map(|finding| finding.diagnostic(machines)));
    way.diagnostics.extend(fates.iter().filter_map(Fate::refusal));
    let known: BTreeSet<&DriveSerial> = fates.iter().map(|fate| &fate.drive.serial).collect();
    for serial in wishes.wipe.iter().filter(|serial| !known.contains(serial)) {
        let help = "name a drive by its serial number, as this plan and `twinrack drive list` show it";
        way.others.push((format!("no node has a drive {serial} that could be wiped"), help));
    }
    let links = links(look, &mut way);
    if let Some(ledger) = ledger {
        what_serves(cluster, look, ledger, (links, &wishes.aim), &mut way);
    }
    let beside = beside(cluster, ledger, wishes, &mut fates, &mut way);
    let drives = taken(&fates);
    if let Some(ledger) = ledger {
        let erased = fates.iter().filter(|fate| !wishes.aim.repairs(&fate.node));
        way.others.extend(erased.filter_map(|fate| erased_drive(fate, ledger)));
    }
    let volumes = if ledger.is_some() && wishes.aim.is_beside() {
        Vec::new()
    } else {
        volumes(&cluster.spec, &fates, ledger, &mut way)
    };
    if !way.is_nothing() {
        return Err(way);
    }
    let worth = way.diagnostics.iter().filter(|found| found.severity < Severity::Error);
    notes.extend(worth.map(|found| format!("{}: {} ({})", found.severity, found.message, found.rule)));
    notes.extend(fates.iter().filter_map(Fate::note));
    let mut changes = changes(cluster, look, ledger, (links, &fates, &volumes));
    changes.extend(beside.changes);
    changes.sort_by_key(|change| change.stage);
    let wipe = fates.iter().filter(|fate| fate.is_wiped()).map(|fate| fate.drive.serial.clone()).collect();
    let is_idle = ledger.is_none_or(|ledger| ledger.volumes.is_empty());
    let serve =
        cluster.members.iter().filter(|member| wishes.aim.is_beside() && has_ledger(look, &member.name));
    let serving = serve.map(|member| member.name.clone()).collect();
    let (aim, lost) = (wishes.aim.clone(), beside.lost);
    Ok(Plan { changes, drives, wipe, volumes, serving, aim, lost, notes, is_idle })
}

/// What there is to do besides, where there is a cluster that serves meanwhile.
#[derive(Default)]
struct Beside {
    changes: Vec<Change>,
    lost: BTreeMap<DriveId, DriveSerial>,
}

fn beside(
    cluster: &Cluster,
    ledger: Option<&State>,
    wishes: &Wishes,
    fates: &mut Vec<Fate>,
    way: &mut InTheWay,
) -> Beside {
    match &wishes.aim {
        Aim::Deploy => Beside::default(),
        Aim::Repair(name) => {
            repair::may_repair(cluster, ledger, name, way);
            let Some(ledger) = ledger else { return Beside::default() };
            repair::only_its(fates, name, wishes, way);
            let lost = repair::lost(ledger, name, fates, way);
            repair::none_for_who_leaves(fates, ledger, name);
            repair::imagined(cluster, ledger, &lost, &pool_drives(fates), way);
            Beside { changes: repair::changes(ledger, name, &lost), lost }
        }
        Aim::Grow => {
            growth::may_grow(cluster, ledger, way);
            let Some(ledger) = ledger else { return Beside::default() };
            growth::only_new(fates, ledger, wishes, way);
            let imagined = growth::imagined(cluster, ledger, &pool_drives(fates), way);
            let changes = imagined.map(|imagined| growth::changes(cluster, ledger, &imagined));
            Beside { changes: changes.unwrap_or_default(), ..Beside::default() }
        }
    }
}

/// What links lack; nothing where that can't be said, which is then in the way.
fn links<'a>(look: &'a Look, way: &mut InTheWay) -> &'a Links {
    match &look.links {
        Ok(links) => links,
        Err(why) => {
            // A NIC that is missing has been told.
            if way.diagnostics.iter().all(|found| found.rule != rules::NIC_MISSING.id) {
                let what = format!("no plan can be made for the links: {why}");
                way.others.push((what, "see what the node's NICs are"));
            }
            &[]
        }
    }
}

/// Every change, in the order of stages.
fn changes(
    cluster: &Cluster,
    look: &Look,
    ledger: Option<&State>,
    (links, fates, volumes): (&Links, &[Fate], &[VolumeRequest]),
) -> Vec<Change> {
    let of_link = |(node, op): (&NodeName, &Op)| Change {
        stage: Stage::Network,
        of: node.to_string(),
        what: op.to_string(),
        takes: op.is_removal(),
    };
    let mut changes: Vec<Change> =
        links.iter().flat_map(|(node, ops)| ops.iter().map(move |op| of_link((node, op)))).collect();
    let mut change = |stage, of: &dyn fmt::Display, what: String| {
        changes.push(Change { stage, of: of.to_string(), what, takes: false });
    };
    let joins = cluster.members.iter().filter(|member| !has_ledger(look, &member.name));
    for (at, member) in joins.enumerate() {
        let begins = ledger.is_none() && at == 0;
        change(
            Stage::Quorum,
            &member.name,
            if begins { "begin the ledger" } else { "join the ledger" }.to_owned(),
        );
    }
    if ledger.is_none_or(|ledger| !matches!(voting(ledger), Voting::Settled))
        || cluster.members.iter().any(|member| !has_ledger(look, &member.name))
    {
        change(Stage::Quorum, &cluster.spec.name, format!("let all {} vote", cluster.members.len()));
    }
    for fate in fates.iter().filter(|fate| fate.is_new()) {
        change(Stage::Pool, &fate.node, fate.in_words());
    }
    let there = |name| ledger.is_some_and(|ledger| ledger.volumes.values().any(|volume| volume.name == name));
    for asked in volumes.iter().filter(|asked| !there(asked.name.clone())) {
        let (mib, copies) = (asked.size_bytes >> 20, asked.mirror.legs());
        let rack = asked.rack.as_ref().map(|rack| format!(", opened in {rack}")).unwrap_or_default();
        change(
            Stage::Volumes,
            &asked.name,
            format!("make a thin volume of {mib} MiB with {copies} copies{rack}"),
        );
    }
    changes
}

fn has_ledger(look: &Look, name: &NodeName) -> bool {
    matches!(look.ledgers.get(name), Some(NodeLedger::Open(_)))
}

/// What a deployment does not do to a cluster that is there already: its ledger goes over its networks, and users may be on its volumes.
fn what_serves(
    cluster: &Cluster,
    look: &Look,
    ledger: &State,
    (links, aim): (&Links, &Aim),
    way: &mut InTheWay,
) {
    let members = cluster.members.iter().filter(|member| has_ledger(look, &member.name));
    for member in members {
        let ops = links.iter().find(|(node, _)| *node == member.name).map_or(0, |(_, ops)| ops.len());
        if ops > 0 {
            let what = format!(
                "{ops} changes of {}'s links are asked for, and it is part of a cluster that runs on them",
                member.name
            );
            let help = "give the template that the cluster was deployed with, nodes with the ordinals that they had; `twinrack verify` says whether its links are as planned";
            way.others.push((what, help));
        }
    }
    // One that is repaired joins, whether it was the last to be invited under its name or has yet to be.
    let is_without = |name: &NodeName| !has_ledger(look, name) && !aim.repairs(name);
    let without = cluster.members.iter().filter(|member| is_without(&member.name));
    for name in without.map(|member| &member.name) {
        // The last under a name is the present one. One that was invited and has not joined has never registered.
        let known = ledger.nodes.values().rfind(|node| node.name == *name);
        if known.is_some_and(|node| node.boot.is_some()) {
            let what = format!("{name} is in the ledger, and has none itself");
            way.others.push((what, "`twinrack node repair` brings it back, with the drives that it has"));
        } else if !ledger.volumes.is_empty() && *aim != Aim::Grow {
            let what = format!("{name} is not in the ledger of a cluster that has volumes");
            way.others.push((what, "`twinrack node add` adds a node to each rack of a cluster that serves"));
        }
    }
}

/// A drive that is blank, and copies of volumes were on it.
fn erased_drive(fate: &Fate, ledger: &State) -> Option<(String, &'static str)> {
    let serial = &fate.drive.serial;
    let drive = ledger.drive_of(serial)?.0;
    let has_legs =
        ledger.volumes.values().flat_map(|volume| volume.legs.values()).any(|leg| leg.drive == drive);
    let what =
        format!("drive {serial} of {} is blank, and the ledger has copies of volumes on it", fate.node);
    let help = "`twinrack drive replace` makes them anew on other drives";
    (has_legs && !fate.is_ours).then_some((what, help))
}

/// Who has a ledger that can be used, and of which cluster. One that can't be, with what to do about it, and two clusters are in the way.
pub(crate) fn usable_ledgers(
    ledgers: &BTreeMap<NodeName, NodeLedger>,
    help: &'static str,
    way: &mut InTheWay,
) -> BTreeMap<NodeName, String> {
    let mut usable = BTreeMap::new();
    for (node, ledger) in ledgers {
        match ledger {
            NodeLedger::None {} => {}
            NodeLedger::Open(open) => drop(usable.insert(node.clone(), open.cluster.clone())),
            NodeLedger::Closed { why, .. } => {
                way.others.push((format!("the ledger of {node} can't be used: {why}"), help));
            }
        }
    }
    let clusters: BTreeSet<&String> = usable.values().collect();
    if clusters.len() > 1 {
        let what = format!("the nodes have ledgers of {} clusters", clusters.len());
        way.others.push((what, "see that the access file names the nodes of one cluster"));
    }
    usable
}

/// What the ledger says, if there is one; that nobody says it is in the way.
pub(crate) fn what_it_says<'a>(
    ledger: Option<&'a Result<State, String>>,
    way: &mut InTheWay,
) -> Option<&'a State> {
    match ledger? {
        Ok(state) => Some(state),
        Err(why) => {
            let what = format!("there is a ledger, and nobody says what is in it: {why}");
            way.others.push((what, "`twinrack ledger show` says how it is on each node"));
            None
        }
    }
}

/// The ledger that there is, if it is this cluster's and can be used.
fn ledger<'a>(cluster: &Cluster, look: &'a Look, aim: &Aim, way: &mut InTheWay) -> Option<&'a State> {
    let lost = "`twinrack ledger show` says how it is, `twinrack ledger rejoin` brings one back that is lost";
    let mut ledgers = look.ledgers.clone();
    // One that is lost is given up with the rest of what a repaired node had.
    ledgers.retain(|name, found| {
        !(aim.repairs(name) && matches!(found, NodeLedger::Closed { is_lost: true, .. }))
    });
    usable_ledgers(&ledgers, lost, way);
    let state = what_it_says(look.ledger.as_ref(), way)?;
    if state.dissolved {
        let what = "there is a ledger that says that its cluster is dissolved".to_owned();
        way.others
            .push((what, "`twinrack destroy` gives back what is left of it, and then there can be another"));
        return None;
    }
    let leaving: Vec<&str> = state.leaving().map(|(_, node)| node.name.as_str()).collect();
    if !leaving.is_empty() && !matches!(aim, Aim::Repair(_)) {
        let what = format!("{} leave the cluster, and are not out of its ledger yet", leaving.join(" and "));
        way.others.push((what, "`twinrack node remove`, given again, goes on with that"));
    }
    // The last under a name is the present one.
    let present: BTreeMap<&NodeName, _> = state.nodes.values().map(|node| (&node.name, &node.zone)).collect();
    for (name, zone) in present {
        let help = "give the template's own nodes; `twinrack node remove`, with the template that has them, takes a node of each rack out";
        match cluster.members.iter().find(|member| member.name == *name) {
            // It has been left out.
            None if state.needs_none_of(name) => {}
            None => way
                .others
                .push((format!("the ledger has a node {name}, the template has none of that name"), help)),
            Some(member) if member.zone != *zone => {
                let rack = |zone: &Option<model::ZoneName>| {
                    zone.as_ref().map_or("no rack".to_owned(), ToString::to_string)
                };
                let what = format!(
                    "{name} is in {} in the template, and in {} in the ledger",
                    rack(&member.zone),
                    rack(zone)
                );
                way.others.push((what, help));
            }
            Some(_) => {}
        }
    }
    Some(state)
}

/// A drive, and what becomes of it.
pub(super) struct Fate {
    pub(super) node: NodeName,
    pub(super) drive: Drive,
    pub(super) holds: Holds,
    wipe: bool,
    /// It is one of this cluster's pool, by its header and by the ledger.
    pub(super) is_ours: bool,
}

impl Fate {
    fn is_flash(&self) -> bool {
        self.drive.class != DriveClass::Hdd
    }

    /// Whether it will be, or is, the pool's.
    fn is_taken(&self) -> bool {
        let may = match self.holds {
            Holds::Nothing {} => true,
            Holds::System {} | Holds::Unread { .. } => false,
            Holds::Pool { .. } => self.is_ours || self.wipe,
            Holds::Other { .. } => self.wipe,
        };
        may && self.is_flash()
    }

    fn is_wiped(&self) -> bool {
        self.is_taken() && !self.is_ours && !matches!(self.holds, Holds::Nothing {})
    }

    /// It is named in the ledger before it is claimed: whoever was killed in between goes on with it.
    fn is_new(&self) -> bool {
        self.is_taken() && !self.is_ours
    }

    fn in_words(&self) -> String {
        let Drive { serial, size_bytes, kernel_name, .. } = &self.drive;
        let held = if self.is_wiped() {
            format!(", and LOSE what it holds: {}", self.held())
        } else {
            String::new()
        };
        format!("take drive {serial} ({kernel_name}, {} GB){held}", size_bytes / 1_000_000_000)
    }

    fn held(&self) -> String {
        match &self.holds {
            Holds::Nothing {} => "nothing".to_owned(),
            Holds::System {} => "what the system uses".to_owned(),
            Holds::Pool { cluster, drive } => format!("{drive} of cluster {cluster}"),
            Holds::Other { what } => what.clone(),
            Holds::Unread { why } => format!("what nobody can read: {why}"),
        }
    }

    /// A data drive that may not be taken.
    fn refusal(&self) -> Option<Diagnostic> {
        let holds_others =
            matches!(self.holds, Holds::Pool { .. } | Holds::Other { .. } | Holds::Unread { .. });
        if self.is_taken() || !self.is_flash() || !holds_others {
            return None;
        }
        let rule: &Rule = rules::DRIVE_FOREIGN_DATA;
        let Self { node, drive: Drive { serial, .. }, .. } = self;
        let message = format!("drive {serial} of {node} is not taken: it holds {}", self.held());
        let help = match &self.holds {
            Holds::Unread { .. } => "see why it can't be read, or take it out of the node".to_owned(),
            _ => format!("{}; if it may be lost: --wipe {serial}", rule.help),
        };
        Some(Diagnostic {
            rule: rule.id,
            severity: rule.severity,
            message,
            help,
            location: None,
            related: Vec::new(),
            overridden: false,
        })
    }

    fn note(&self) -> Option<String> {
        let why = match &self.holds {
            _ if self.is_taken() => return None,
            Holds::System {} => "the system uses it",
            _ if !self.is_flash() => "it is no flash",
            _ => return None,
        };
        Some(format!("drive {} of {} is let alone: {why}", self.drive.serial, self.node))
    }
}

fn fates(look: &Look, wishes: &Wishes) -> Vec<Fate> {
    let ledger = look.ledger.as_ref().and_then(|ledger| ledger.as_ref().ok());
    // By its header, by the ledger, and in the node that the ledger says: nothing less makes it ours.
    let is_ours = |node: &NodeName, serial: &DriveSerial, holds: &Holds| {
        let (Holds::Pool { cluster, drive }, Some(state)) = (holds, ledger) else { return false };
        let is_cluster =
            |found: &NodeLedger| matches!(found, NodeLedger::Open(open) if open.cluster == *cluster);
        let is_it = |named: &&control::state::Drive| named.serial == *serial && !named.is_lost();
        let named = state.drives.get(drive).filter(is_it);
        let home = named.and_then(|named| state.nodes.get(&named.node));
        home.is_some_and(|home| home.name == *node) && look.ledgers.values().any(is_cluster)
    };
    let mut fates = Vec::new();
    for (node, contents) in &look.contents {
        let drives = look.inventories.get(node).into_iter().flat_map(|inventory| &inventory.drives);
        for drive in drives {
            let holds =
                contents.iter().find(|found| found.serial == drive.serial).map(|found| found.holds.clone());
            let holds = holds.unwrap_or_else(|| Holds::Unread { why: "nobody said".to_owned() });
            let is_ours = is_ours(node, &drive.serial, &holds);
            let wipe = wishes.wipe.contains(&drive.serial);
            fates.push(Fate { node: node.clone(), drive: drive.clone(), holds, wipe, is_ours });
        }
    }
    fates
}

fn taken(fates: &[Fate]) -> BTreeMap<NodeName, BTreeSet<DriveSerial>> {
    let mut drives: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for fate in fates.iter().filter(|fate| fate.is_taken()) {
        drives.entry(fate.node.clone()).or_default().insert(fate.drive.serial.clone());
    }
    drives
}

fn hardware(
    cluster: &Cluster,
    look: &Look,
    drives: &BTreeMap<NodeName, BTreeSet<DriveSerial>>,
) -> Vec<hardware::HardwareFinding> {
    let nodes = cluster.members.iter().filter(|member| member.zone.is_some()).filter_map(|member| {
        Some(NodeHardware {
            node: member.name.clone(),
            adapters: &member.adapters,
            inventory: look.inventories.get(&member.name)?,
            data_drives: drives.get(&member.name).cloned().unwrap_or_default(),
        })
    });
    hardware::check(&cluster.spec, &nodes.collect::<Vec<_>>())
}

fn volumes(
    spec: &ClusterSpec,
    fates: &[Fate],
    ledger: Option<&State>,
    way: &mut InTheWay,
) -> Vec<VolumeRequest> {
    let drives = pool_drives(fates);
    let imagined = express::imagined(spec, &drives, ledger).map_err(express::CantSize::from);
    match imagined.and_then(|imagined| express::volumes(spec, &imagined)) {
        Ok(volumes) => volumes,
        // Drives that are refused have been told, and are why there is no room.
        Err(_) if !way.is_nothing() => Vec::new(),
        Err(error) => {
            let help = "give the nodes larger drives, or more of them; or ask for the infrastructure volume alone (configuration = \"infra-only\")";
            way.others.push((crate::pool::chain(&error), help));
            Vec::new()
        }
    }
}

/// The drives that will be the pool's, those that are it included.
fn pool_drives(fates: &[Fate]) -> BTreeMap<NodeName, Vec<PoolDrive>> {
    let mut drives: BTreeMap<NodeName, Vec<PoolDrive>> = BTreeMap::new();
    for fate in fates.iter().filter(|fate| fate.is_taken()) {
        let (serial, size_bytes) = (fate.drive.serial.clone(), fate.drive.size_bytes);
        drives.entry(fate.node.clone()).or_default().push(PoolDrive { serial, size_bytes });
    }
    drives
}
