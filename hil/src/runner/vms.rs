//! A virtual machine that writes while things break, seen from outside: by what its node's agent says of its serial port.
//!
//! Purpose: makes the virtual machine of a suite, whose disk is the suite's volume and whose guest is [`pulse`], and sees where and when its writes are
//! acknowledged. The judge of volumes ([`super::volume`]) has its acknowledgements, too.
//!
//! Invariants: one virtual machine at a time. An acknowledgement counts from when it was read here, so times are no shorter than they were. What it said and
//! nobody had read when its node lost its power is lost with it: the judge asks for no more than was read.
//!
//! On failure: what the product does not do is a step that does not hold.

mod cut;
mod hung;

use super::beats::Beats;
use super::{Runner, Seen, milliseconds};
use crate::judgement::LegFile;
use crate::run::RunError;
use crate::suite::{Room, Tie, VmStep};
use control::State;
use control::vm::{Leftover, VmPhase, Wanted};
use deploy::pool::{newest, views};
use deploy::vms::{Drained, VmsError};
use deploy::{DeployError, Member};
use futures_util::future::join_all;
use model::{NodeName, VmId, VmNic, VmPlacement, VmSpec};
use pulse::format::{DATA_OFFSET, Params, Said};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use workload::record::Record;

/// How often consoles are read.
const READ_EVERY: Duration = Duration::from_millis(50);
/// How long one read may take.
const READ_LIMIT: Duration = Duration::from_secs(1);

/// The virtual machine of a suite.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) id: VmId,
    /// Whether it has a NIC, by which its beats are heard.
    pub(super) has_nic: bool,
    /// Those that were.
    pub(super) beats: Beats,
    /// What each node's console has said, up to where it was read, and the line that is not whole yet.
    read: BTreeMap<NodeName, (u64, String)>,
    /// Whose agents did not answer when they were last asked for that: since then it may have said something at any time.
    unread: BTreeSet<NodeName>,
    /// What it said, when that was read, and where.
    said: Vec<(Instant, NodeName, Said)>,
    /// All that it said, for the judge.
    text: String,
    /// Where the agent was stopped under it.
    frozen: Option<NodeName>,
    /// Its run when it was last to migrate.
    migrates: Option<u32>,
}

impl Guest {
    fn new(id: VmId, has_nic: bool) -> Self {
        let (read, said, text) = (BTreeMap::new(), Vec::new(), String::new());
        let (beats, unread) = (Beats::default(), BTreeSet::new());
        Self { id, has_nic, beats, read, unread, said, text, frozen: None, migrates: None }
    }

    /// Its acknowledgements, for the judge.
    pub(super) fn records(&self) -> Vec<Record> {
        pulse::records(self.text.as_bytes(), self.id.0).0
    }

    /// Takes in what a node's console said from a place on. One that ends before that has begun anew, with its node. What comes late of a run that was followed by another since says nothing
    /// of when that was: it is for the judge alone (that no two run at once is seen by their beats).
    fn take(&mut self, node: &NodeName, console: &api::Console) {
        let is_late = self.unread.remove(node);
        let last_run = self.last_run().filter(|_| is_late);
        let (at, rest) = self.read.entry(node.clone()).or_default();
        if console.end < *at {
            (*at, *rest) = (0, String::new());
            return;
        }
        *at = console.end;
        rest.push_str(&console.text);
        let Some(whole) = rest.rfind('\n') else { return };
        let lines: String = rest.drain(..=whole).collect();
        let (_, said) = pulse::records(lines.as_bytes(), self.id.0);
        let is_of_now = |said: &Said| run_of(said).zip(last_run).is_none_or(|(run, last)| run >= last);
        let now = Instant::now();
        self.said.extend(said.into_iter().filter(is_of_now).map(|said| (now, node.clone(), said)));
        self.text.push_str(&lines);
    }

    fn acknowledged_since(&self, since: Instant) -> impl Iterator<Item = &(Instant, NodeName, Said)> {
        self.said
            .iter()
            .filter(move |(at, _, said)| *at >= since && matches!(said, Said::Acknowledged { .. }))
    }

    /// What it said last, in words.
    fn last_words(&self) -> String {
        self.said.last().map_or_else(
            || "it has said nothing".to_owned(),
            |(at, node, said)| {
                format!("it said last: {said:?} on {node}, {} ms ago", milliseconds(at.elapsed()))
            },
        )
    }

    /// The run of it whose write was acknowledged last.
    fn last_run(&self) -> Option<u32> {
        self.said.iter().rev().find_map(|(.., said)| run_of(said))
    }

    /// What is seen when a write of it was read where it has moved to, which went on from this run.
    fn moved(
        &self,
        before: u32,
        begun: Instant,
        (at, node, said): &(Instant, NodeName, Said),
        gap_at_most: Duration,
    ) -> Seen {
        let without_write = self.longest_gap(begun, *at);
        let away = if self.has_nic { self.beats.lately() } else { without_write };
        let same = run_of(said) == Some(before);
        let booted = if same { "" } else { ", booted anew" };
        let what = format!(
            "it writes on {node} after {} ms{booted}, away for {} ms, no two acknowledgements more than {} ms apart",
            milliseconds(*at - begun),
            milliseconds(away),
            milliseconds(without_write)
        );
        Seen::of(same && away.max(without_write) <= gap_at_most, what).measuring(milliseconds(away))
    }

    /// The longest time without an acknowledgement from a moment to another.
    fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        let ends = self.acknowledged_since(from).map(|(at, ..)| *at).filter(|at| *at <= to);
        let moments: Vec<Instant> = std::iter::once(from).chain(ends).chain([to]).collect();
        moments.windows(2).map(|two| two[1] - two[0]).max().unwrap_or_default()
    }
}

/// The run of the guest that a write was acknowledged to.
fn run_of(said: &Said) -> Option<u32> {
    match said {
        Said::Acknowledged { run, .. } => Some(*run),
        _ => None,
    }
}

/// A leg without what its guest boots from: the judge's first block is behind that.
pub(super) fn behind_boot(leg: &LegFile) -> LegFile {
    let mut leg = leg.clone();
    leg.place.data_offset_bytes += DATA_OFFSET;
    leg.place.data_bytes = leg.place.data_bytes.saturating_sub(DATA_OFFSET);
    leg
}

/// What the guest of a suite does: writes all the time, a few at once, here and there.
fn pulse_for(id: VmId, seed: u64) -> Params {
    Params {
        vm: id.0,
        blocks_max: 4096,
        warm_blocks: 64,
        beat_ms: 100,
        flush_every: 50,
        writes_per_beat: 2,
        in_flight: 4,
        warm_percent: 50,
        seed: seed.rotate_left(id.0),
    }
}

/// When the ledger was first seen to say what of a failover.
#[derive(Debug, Default)]
struct Stages {
    lost: Option<Duration>,
    placed: Option<Duration>,
    began: Option<Duration>,
}

impl Stages {
    fn see(&mut self, state: &State, id: VmId, there: &[NodeName], after: Duration) {
        let Some(vm) = state.vms.all.get(&id) else { return };
        let named = |node| state.nodes.get(&node).is_some_and(|node| there.contains(&node.name));
        let is_there = vm.phase.seat().is_some_and(|seat| named(seat.node));
        if is_there || vm.phase == VmPhase::Off {
            self.lost.get_or_insert(after);
        }
        if is_there {
            self.placed.get_or_insert(after);
            if matches!(vm.phase, VmPhase::Running { .. }) {
                self.began.get_or_insert(after);
            }
        }
    }

    fn in_words(&self) -> String {
        let one = |what: &str, after: Option<Duration>| {
            after.map_or_else(
                || format!("{what} not seen"),
                |after| format!("{what} after {} ms", milliseconds(after)),
            )
        };
        [one("lost", self.lost), one("placed", self.placed), one("begun", self.began)].join(", ")
    }
}

impl Runner<'_> {
    pub(super) async fn vm_step(&mut self, step: &VmStep) -> Result<Seen, RunError> {
        let ms = Duration::from_millis;
        Ok(match step {
            VmStep::Make { room, tie, memory_mib, can_be_saved, within_ms } => {
                let (placement, size) = (self.home(*room, *tie), (*memory_mib, *can_be_saved));
                let made = self.make_vm(*room, placement, size, ms(*within_ms)).await;
                super::or_failure(made)
            }
            VmStep::SetPlacement { room, tie, within_ms } => {
                let placed = self.place_vm(&self.home(*room, *tie), ms(*within_ms)).await;
                super::or_failure(placed)
            }
            VmStep::Writes { room, within_ms } => {
                let there = room.map_or_else(|| self.elsewhere(), |room| self.there(room));
                self.vm_writes(&there, self.last_fault(), ms(*within_ms)).await
            }
            VmStep::FreezeAgent {} => self.freeze_agent().await?,
            VmStep::Ended { within_ms } => self.vm_has_ended(ms(*within_ms)).await?,
            VmStep::Off { within_ms, for_ms } => {
                self.vm_is_off(self.last_fault(), ms(*within_ms), ms(*for_ms)).await?
            }
            VmStep::KeepsWriting { for_ms, gap_at_most_ms } => {
                self.vm_keeps_writing(ms(*for_ms), ms(*gap_at_most_ms)).await
            }
            VmStep::Drain { room, within_ms, gap_at_most_ms } => {
                self.drain_rack(*room, ms(*within_ms), ms(*gap_at_most_ms)).await?
            }
            VmStep::Migrate { room, within_ms, gap_at_most_ms } => {
                self.migrate_vm(*room, ms(*within_ms), ms(*gap_at_most_ms)).await?
            }
            VmStep::GoHome { room, within_ms, gap_at_most_ms } => {
                self.end_drain(*room, ms(*within_ms), ms(*gap_at_most_ms)).await?
            }
            VmStep::BeginMigrating { room, reaches, within_ms } => {
                self.begin_migrating(*room, *reaches, ms(*within_ms)).await?
            }
            VmStep::LeaderDies { room, reaches, within_ms } => {
                self.leader_dies(*room, *reaches, ms(*within_ms)).await?
            }
            VmStep::CancelMigration { within_ms } => self.cancel_migration(ms(*within_ms)).await,
            VmStep::Settles { alive, within_ms } => self.vm_settles(*alive, ms(*within_ms)).await,
            VmStep::Beats { gap_at_most_ms } => self.vm_beats(ms(*gap_at_most_ms))?,
            // It has the rest of the list.
            _ => self.save_step(step).await?,
        })
    }

    /// The members in a room.
    fn there(&self, room: Room) -> Vec<NodeName> {
        let zone = self.cluster.spec.zones.get(room.index());
        zone.into_iter().flat_map(|zone| &zone.nodes).map(|node| node.name.clone()).collect()
    }

    fn home(&self, room: Room, tie: Tie) -> VmPlacement {
        let zone = self.cluster.spec.zones[room.index()].name.clone();
        match tie {
            Tie::Prefers => VmPlacement::Prefers(zone),
            Tie::Strict => VmPlacement::Strict(zone),
            Tie::Anywhere => VmPlacement::Anywhere,
        }
    }

    /// When the last fault was; now, if there is none.
    pub(super) fn last_fault(&self) -> Instant {
        self.faulted.map_or_else(Instant::now, |(_, last)| last)
    }

    async fn make_vm(
        &mut self,
        room: Room,
        placement: VmPlacement,
        (memory_mib, can_be_saved): (u32, bool),
        bound: Duration,
    ) -> Result<Seen, DeployError> {
        let begun = Instant::now();
        let Some(tested) = &mut self.volume else { return Ok(Seen::not("there is no volume")) };
        let volume = tested.id;
        tested.is_unjudged = true;
        let Ok(name) = self.suite.parse() else {
            return Ok(Seen::not("the suite's name is none for a virtual machine"));
        };
        let memory_bytes = u64::from(memory_mib) << 20;
        let volumes = vec![volume];
        let nics: Vec<_> =
            self.cluster.spec.compute_vlans.first().map(|vlan| VmNic { vlan: *vlan }).into_iter().collect();
        let has_nic = !nics.is_empty();
        let (anti_affinity, saves_to) = (None, None);
        let spec = VmSpec { name, memory_bytes, cores: 1, placement, anti_affinity, volumes, saves_to, nics };
        let members = &self.cluster.members;
        let id = if can_be_saved {
            deploy::vms::create_with_memory(members, &spec, bound).await?
        } else {
            deploy::vms::create(members, &spec, bound).await?
        };
        let image = match pulse::image(&pulse_for(id, self.lab.seed())) {
            Ok(image) => image,
            Err(error) => return Ok(Seen::not(crate::chain(&error))),
        };
        let read = |at: u64, into: &mut [u8]| (&image[usize::try_from(at).unwrap_or(0)..]).read_exact(into);
        deploy::vms::write(members, volume, image.len() as u64, read, bound, |_| {}).await?;
        let left = bound.saturating_sub(begun.elapsed());
        deploy::vms::want(members, id, Wanted::Running, left, |_| {}).await?;
        self.guest = Some(Guest::new(id, has_nic));
        let left = bound.saturating_sub(begun.elapsed());
        let writes = self.vm_writes(&self.there(room), Instant::now(), left).await;
        let what = format!("{id}: {}", writes.what);
        Ok(Seen { what, ..writes })
    }

    /// Reads what all who work have of its console.
    pub(super) async fn read_consoles(&mut self) {
        let members: Vec<Member> = self.working().members;
        let Some(guest) = &mut self.guest else { return };
        let asked = members.iter().map(|member| {
            let from = guest.read.get(&member.name).map_or(0, |(at, _)| *at);
            let id = guest.id;
            async move {
                let console = timeout(READ_LIMIT, member.client.console(id, from)).await;
                (member.name.clone(), console.ok().and_then(Result::ok))
            }
        });
        for (node, console) in join_all(asked).await {
            match console {
                Some(console) => guest.take(&node, &console),
                None => drop(guest.unread.insert(node)),
            }
        }
    }

    /// It has a write acknowledged on one of these nodes that was read there since a moment.
    async fn vm_writes(&mut self, there: &[NodeName], since: Instant, bound: Duration) -> Seen {
        let mut stages = Stages::default();
        loop {
            self.read_consoles().await;
            let views = views(&self.working().members).await;
            let Some(guest) = &self.guest else { return Seen::not("there is no virtual machine") };
            if let Some(view) = newest(&views) {
                stages.see(&view.state, guest.id, there, since.elapsed());
            }
            let first = guest.acknowledged_since(since).find(|(_, node, _)| there.contains(node));
            if let Some((at, node, said)) = first {
                let after_ms = milliseconds(*at - since);
                let what = format!("{said:?} on {node} after {after_ms} ms: {}", stages.in_words());
                return Seen::of(*at - since <= bound, what).measuring(after_ms);
            }
            if since.elapsed() >= bound {
                let phase =
                    newest(&views).and_then(|view| view.state.vms.all.get(&guest.id)).map(|vm| vm.phase);
                return Seen::not(format!(
                    "nothing was acknowledged there; it is {phase:?}; {}; {}",
                    guest.last_words(),
                    stages.in_words()
                ));
            }
            sleep(READ_EVERY).await;
        }
    }

    async fn place_vm(&self, placement: &VmPlacement, bound: Duration) -> Result<Seen, DeployError> {
        let begun = Instant::now();
        let Some(guest) = &self.guest else { return Ok(Seen::not("there is no virtual machine")) };
        deploy::vms::set_placement(&self.working().members, guest.id, placement, bound).await?;
        Ok(Seen::held(format!("after {} ms", milliseconds(begun.elapsed()))))
    }

    /// The ledger has it off, or saved, within a bound from a moment; from then on, for so long, it is seated nowhere and nothing of it is seen or heard.
    async fn vm_is_off(
        &mut self,
        since: Instant,
        within: Duration,
        for_long: Duration,
    ) -> Result<Seen, RunError> {
        let mut off: Option<(Instant, u64)> = None;
        loop {
            self.read_consoles().await;
            let views = views(&self.working().members).await;
            let beats = self.hear_beats()?.map_or(0, Beats::count);
            let Some(guest) = &self.guest else { return Ok(Seen::not("there is no virtual machine")) };
            let phase = newest(&views).and_then(|view| view.state.vms.all.get(&guest.id)).map(|vm| vm.phase);
            let Some((from, beats_before)) = off else {
                if phase.is_some_and(|phase| phase.seat().is_none()) {
                    off = Some((Instant::now(), beats));
                } else if since.elapsed() >= within {
                    return Ok(Seen::not(format!("it is {phase:?}; {}", guest.last_words())));
                }
                sleep(READ_EVERY).await;
                continue;
            };
            let writes = guest.acknowledged_since(from).count();
            let is_seated = phase.is_some_and(|phase| phase.seat().is_some());
            if is_seated || writes > 0 || beats > beats_before {
                let what = format!("{writes} writes, {} beats, it is {phase:?}", beats - beats_before);
                return Ok(Seen::not(format!("{what}; {}", guest.last_words())));
            }
            if from.elapsed() >= for_long {
                let after_ms = milliseconds(from - since);
                return Ok(Seen::of(from - since <= within, format!("after {after_ms} ms")));
            }
            sleep(READ_EVERY).await;
        }
    }

    async fn vm_keeps_writing(&mut self, for_long: Duration, gap_at_most: Duration) -> Seen {
        let begun = Instant::now();
        let before = self.guest.as_ref().and_then(Guest::last_run);
        while begun.elapsed() < for_long {
            self.read_consoles().await;
            sleep(READ_EVERY).await;
        }
        let Some(guest) = &self.guest else { return Seen::not("there is no virtual machine") };
        let gap = guest.longest_gap(begun, begun + for_long);
        let count = guest.acknowledged_since(begun).count();
        let nodes: BTreeSet<&NodeName> = guest.acknowledged_since(begun).map(|(_, node, _)| node).collect();
        let where_ = nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", then ");
        let is_one =
            nodes.len() == 1 && guest.acknowledged_since(begun).all(|(.., said)| run_of(said) == before);
        let booted = if is_one { "" } else { ", not by one run in one place" };
        let what = format!(
            "{count} writes were acknowledged on {where_}{booted}, no two more than {} ms apart",
            milliseconds(gap)
        );
        let held = is_one && gap <= gap_at_most;
        Seen::of(held, if held { what } else { format!("{what}; {}", guest.last_words()) })
    }

    async fn drain_rack(
        &mut self,
        room: Room,
        within: Duration,
        gap_at_most: Duration,
    ) -> Result<Seen, RunError> {
        let members = self.working().members;
        let what = Drained::Rack(self.cluster.spec.zones[room.index()].name.clone());
        let drained = deploy::vms::drain(&members, &what, Leftover::Stays, within, |_| {});
        self.moves_by(drained, room.other(), within, gap_at_most).await
    }

    async fn migrate_vm(
        &mut self,
        room: Room,
        within: Duration,
        gap_at_most: Duration,
    ) -> Result<Seen, RunError> {
        let members = self.working().members;
        let (Some(to), Some(id)) =
            (self.there(room).into_iter().next(), self.guest.as_ref().map(|guest| guest.id))
        else {
            return Ok(Seen::not("there is no virtual machine"));
        };
        let moved = deploy::vms::migrate(&members, id, &to, within, |_| {});
        self.moves_by(moved, room, within, gap_at_most).await
    }

    /// What is ordered is done, and meanwhile it moves to that room alive.
    pub(super) async fn moves_by<T>(
        &mut self,
        order: impl Future<Output = Result<T, VmsError>>,
        room: Room,
        within: Duration,
        gap_at_most: Duration,
    ) -> Result<Seen, RunError> {
        self.listen_anew()?;
        let moves = self.moves_alive(room, Instant::now(), within, gap_at_most);
        let (done, seen) = tokio::join!(order, moves);
        seen.map(|seen| super::or_failure(done.map(|_| seen).map_err(DeployError::from)))
    }

    async fn end_drain(
        &mut self,
        room: Room,
        within: Duration,
        gap_at_most: Duration,
    ) -> Result<Seen, RunError> {
        let members = self.working().members;
        let ended = async {
            let views = views(&members).await;
            let draining = newest(&views).map(|view| view.state.vms.draining.keys().copied().collect());
            deploy::vms::end_drain(&members, &draining.unwrap_or_default(), within).await
        };
        self.moves_by(ended, room, within, gap_at_most).await
    }

    /// It writes in a room as the same run of the guest as before, and was away no longer than this since a moment: by its beats, where it has a NIC.
    async fn moves_alive(
        &mut self,
        room: Room,
        begun: Instant,
        within: Duration,
        gap_at_most: Duration,
    ) -> Result<Seen, RunError> {
        let there = self.there(room);
        let Some(before) = self.guest.as_ref().and_then(Guest::last_run) else {
            return Ok(Seen::not("it has written nothing yet"));
        };
        // How many beats there were when its first write there was read: one more, and the time that it was away is over.
        let mut beats = None;
        loop {
            self.read_consoles().await;
            self.hear_beats()?;
            let Some(guest) = &self.guest else { return Ok(Seen::not("there is no virtual machine")) };
            let arrived = guest.acknowledged_since(begun).find(|(_, node, _)| there.contains(node));
            let count = guest.beats.count();
            if let Some(arrived) = arrived
                && (!guest.has_nic || *beats.get_or_insert(count) < count)
            {
                return Ok(guest.moved(before, begun, arrived, gap_at_most));
            }
            if begun.elapsed() >= within {
                let views = views(&self.working().members).await;
                let phase =
                    newest(&views).and_then(|view| view.state.vms.all.get(&guest.id)).map(|vm| vm.phase);
                let what = if arrived.is_some() { "it is not heard" } else { "it does not write there" };
                return Ok(Seen::not(format!("{what}; it is {phase:?}; {}", guest.last_words())));
            }
            sleep(READ_EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(from: u64, text: &str) -> api::Console {
        api::Console { from, end: from + text.len() as u64, text: text.to_owned() }
    }

    fn acknowledged(sequence: u64) -> String {
        acknowledged_to(1, sequence)
    }

    fn acknowledged_to(run: u32, sequence: u64) -> String {
        let said = Said::Acknowledged { vm: 3, run, sequence, block: 5, took_us: 100, ms: 7 };
        String::from_utf8(said.line().as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn lines_are_put_together_and_a_console_that_begins_anew_is_read_from_its_begin() {
        let mut guest = Guest::new(VmId(3), false);
        let node: NodeName = "a1".parse().unwrap();
        let text = acknowledged(1) + &acknowledged(2);
        let (one, rest) = text.split_at(text.len() - 4);
        let before = Instant::now();
        guest.take(&node, &console(0, one));
        assert_eq!(guest.acknowledged_since(before).count(), 1);
        guest.take(&node, &console(one.len() as u64, rest));
        assert_eq!(guest.records().len(), 2);
        guest.take(&node, &console(0, ""));
        assert_eq!(guest.read[&node].0, 0, "its node has booted anew");
        guest.take(&node, &console(0, &acknowledged(3)));
        assert_eq!(guest.records().len(), 3);
    }

    #[test]
    fn what_is_read_late_of_an_earlier_run_is_for_the_judge_alone() {
        let mut guest = Guest::new(VmId(3), false);
        let (a, b): (NodeName, NodeName) = ("a1".parse().unwrap(), "b1".parse().unwrap());
        let before = Instant::now();
        guest.unread.insert(b.clone());
        guest.take(&b, &console(0, &acknowledged_to(2, 1)));
        guest.unread.insert(a.clone());
        guest.take(&a, &console(0, &acknowledged_to(1, 7)));
        assert_eq!((guest.acknowledged_since(before).count(), guest.last_run()), (1, Some(2)));
        assert_eq!(guest.records().len(), 2);
        // That is a second one.
        guest.take(&a, &console(acknowledged_to(1, 7).len() as u64, &acknowledged_to(1, 8)));
        assert_eq!((guest.acknowledged_since(before).count(), guest.last_run()), (2, Some(1)));
    }

    #[test]
    fn a_silence_at_the_end_is_a_gap_too() {
        let mut guest = Guest::new(VmId(3), false);
        let from = Instant::now();
        let node: NodeName = "a1".parse().unwrap();
        let said = Said::Acknowledged { vm: 3, run: 1, sequence: 1, block: 5, took_us: 1, ms: 7 };
        guest.said.push((from + Duration::from_millis(300), node, said));
        let gap = |to_ms| guest.longest_gap(from, from + Duration::from_millis(to_ms));
        assert_eq!(gap(400), Duration::from_millis(300));
        assert_eq!(gap(1000), Duration::from_millis(700));
    }
}
