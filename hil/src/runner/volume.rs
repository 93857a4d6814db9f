//! A volume that is written while things break, and whether anything is lost.
//!
//! Purpose: makes pool and volume, runs the workload where the volume is open, sees that its writes go on, and judges every leg in
//! sync from the drives' files ([`crate::judgement`]).
//!
//! Invariants: one volume and one writer at a time; each suite has a volume of its own, in whose stead the former one goes. Each start of
//! the workload has a greater run number, so that what is judged is what was written to this volume. What it does comes from the run's
//! seed. Times on a node's clock are told from the harness's by records that were seen as they came.
//!
//! On failure: what the product does not do is a step that does not hold; only the lab's own failures end the run.

use super::legs::Whole;
use super::records::{Clock, Tail};
use super::split::{Commits, Steps};
use super::writers::{CLOCK_SLACK_US, LOOK, Left, Writer};
use super::{Runner, Seen, milliseconds, vms};
use crate::events::{Event, LegJudged, Stall};
use crate::judgement::{self, JudgeError, Judgement, LegFile, acknowledged, first_begun_after, longest_gap};
use crate::lab::LabError;
use crate::run::RunError;
use crate::suite::{Room, Step};
use api::{AGENT_PORT, ClusterView, LegPlace};
use control::state::Phase;
use deploy::DeployError;
use deploy::pool::{PoolRequest, VolumeReady, VolumeRequest, in_words, newest, opened, pool, views, volume};
use model::{DriveSerial, LegId, Mirror, NodeName, Provision, VolumeId};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use workload::choice::Pattern;
use workload::writer::Config;

/// Blocks of a MiB.
const MIB_BLOCKS: u32 = 256;
/// How long the workload has to end: a write that waits for the ledger must come to its end first.
const STOP_BOUND: Duration = Duration::from_secs(30);

/// The volume that is written.
#[derive(Debug)]
pub(super) struct Tested {
    pub(super) id: VolumeId,
    /// Where each leg was last said to lie.
    places: BTreeMap<LegId, (NodeName, LegPlace)>,
    /// The first run of the workload on it.
    first_run: u32,
    pub(super) writer: Option<Writer>,
    /// How hard it writes, or the last one did.
    pub(super) pace: Option<Pace>,
    /// A workload that can't have anything acknowledged any more, as its node has lost the volume.
    pub(super) left: Option<Left>,
    /// The volume when a step saw all its legs in sync last.
    pub(super) whole: Option<Whole>,
    /// The stages that it was seen in.
    pub(super) steps: Steps,
    /// Whether something was written since it was judged.
    pub(super) is_unjudged: bool,
}

/// How hard a workload writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    in_flight: u8,
    pause_ms: u16,
    flush_every: u64,
    /// Where writes go.
    pattern: Pattern,
}

impl Runner<'_> {
    /// Steps about a volume.
    pub(super) async fn volume_step(&mut self, step: &Step) -> Result<Seen, RunError> {
        let ms = Duration::from_millis;
        match step {
            Step::MakeVolume { size_mib, mirror, thin, room, within_ms } => {
                let made = self.make_volume((*size_mib, *mirror, *thin), *room, ms(*within_ms)).await;
                Ok(super::or_failure(made))
            }
            Step::StartWriting { in_flight, pause_ms, flush_every, warm_percent, warm_mib, within_ms } => {
                let (in_flight, pause_ms, flush_every) = (*in_flight, *pause_ms, *flush_every);
                let warm_blocks = u32::from(*warm_mib) * MIB_BLOCKS;
                let pattern = Pattern { warm_blocks, warm_percent: *warm_percent };
                let pace = Pace { in_flight, pause_ms, flush_every, pattern };
                self.start_writing(pace, ms(*within_ms)).await
            }
            Step::WritesGoOn { within_ms } => {
                let seen = or_unreadable(self.writes_go_on(ms(*within_ms)).await);
                self.if_it_runs(seen).await
            }
            Step::KeepsWriting { for_ms, gap_at_most_ms } => {
                let seen = or_unreadable(self.keeps_writing(ms(*for_ms), ms(*gap_at_most_ms)).await);
                self.if_it_runs(seen).await
            }
            Step::HasWritten { mib, within_ms } => {
                let seen = or_unreadable(self.has_written(*mib, ms(*within_ms)).await);
                self.if_it_runs(seen).await
            }
            Step::KeptWriting { gap_at_most_ms } => {
                let seen = or_unreadable(self.kept_writing(ms(*gap_at_most_ms)));
                self.if_it_runs(seen).await
            }
            Step::AgentsRest { for_ms, processor_percent_at_most, memory_mib_at_most } => {
                let at_most = (*processor_percent_at_most, *memory_mib_at_most);
                Ok(self.agents_rest(ms(*for_ms), at_most).await?)
            }
            Step::LegsInSync { within_ms } => Ok(self.legs_in_sync(ms(*within_ms)).await),
            Step::VolumeOpens { room, within_ms } => Ok(self.volume_opens(*room, ms(*within_ms)).await),
            Step::LegsStayInSync { for_ms } => Ok(self.legs_stay_in_sync(ms(*for_ms)).await),
            Step::RebuildsAtMost { count } => Ok(self.rebuilds_at_most(*count).await),
            Step::BrokenDrivesAreLeft { within_ms } => Ok(self.broken_drives_are_left(ms(*within_ms)).await),
            Step::SlowDrivesAreTold { within_ms } => Ok(self.slow_drives_are_told(ms(*within_ms)).await),
            Step::LeaderIn { room, within_ms } => self.leader_in(*room, ms(*within_ms)).await,
            Step::VotersWork { within_ms } => Ok(self.voters_work(ms(*within_ms)).await),
            Step::OldOwnerIsSilent { for_ms } => {
                Ok(or_unreadable(self.old_owner_is_silent(ms(*for_ms)).await))
            }
            Step::FillLedgerDisk { room, position } => {
                self.fill_ledger_disk(room.map(|room| (room, *position))).await
            }
            Step::LedgersStop { within_ms } => self.ledgers_stop(ms(*within_ms)).await,
            Step::LedgerIsRefused { room, position, within_ms } => {
                Ok(self.ledger_is_refused((*room, *position), ms(*within_ms)).await)
            }
            Step::Rejoin { room, position, votes, within_ms } => {
                self.rejoin((*room, *position), *votes, ms(*within_ms)).await
            }
            Step::ForceQuorum { room, position, within_ms } => {
                Ok(self.force_quorum((*room, *position), ms(*within_ms)).await)
            }
            Step::VolumeIsOffline { within_ms } => Ok(self.volume_is_offline(ms(*within_ms)).await),
            Step::OverrideVolume { room, position, within_ms } => {
                Ok(self.override_volume((*room, *position), ms(*within_ms)).await)
            }
            Step::LedgersWork { within_ms } => Ok(self.ledgers_work(ms(*within_ms)).await),
            Step::Vm(step) => self.vm_step(step).await,
            Step::Deployment(step) => self.deploy_step(step).await,
            Step::StopWriting {} => self.stop_writing().await,
            Step::Judge {} => self.judge_legs().await,
            // It has the rest of the list.
            _ => self.operator_step(step).await,
        }
    }

    /// The drive that holds a node's leg of the volume.
    pub(super) fn drive_of_leg(&self, node: &NodeName) -> Option<DriveSerial> {
        let places = &self.volume.as_ref()?.places;
        // Of one that moves the new one, which has the greater number.
        let newest = places.values().rev().find(|(holder, _)| holder == node);
        newest.map(|(_, place)| place.serial.clone())
    }

    /// Whether something was written and not judged since.
    pub(super) fn is_unjudged(&self) -> bool {
        self.volume.as_ref().is_some_and(|tested| tested.is_unjudged)
    }

    async fn make_volume(
        &mut self,
        (size_mib, mirror, thin): (u32, Option<Mirror>, bool),
        room: Room,
        bound: Duration,
    ) -> Result<Seen, DeployError> {
        let begun = Instant::now();
        let drives = self.lab.nodes().iter().filter(|(_, node)| node.holds_data());
        let drives = drives.map(|(name, node)| (name.clone(), node.data_drives())).collect();
        let made = pool(&self.cluster, &PoolRequest { agent_port: AGENT_PORT, drives }).await?;
        let pool_took = begun.elapsed();
        let Ok(name) = self.suite.parse() else {
            return Ok(Seen::not("the suite's name is none for a volume"));
        };
        let deleted = if self.volume.is_none() { self.delete_former(bound).await? } else { String::new() };
        let rack = self.cluster.spec.zones[room.index()].name.clone();
        let mirror = mirror.unwrap_or_else(|| self.cluster.spec.shape().mirror());
        let provision = if thin { Provision::Thin } else { Provision::Fixed };
        let (size_bytes, rack) = (u64::from(size_mib) << 20, Some(rack));
        let request = VolumeRequest { name, mirror, provision, size_bytes, rack };
        let ready = volume(&self.cluster.members, &request, bound).await?;
        let VolumeReady { id, owner, device, legs, .. } = ready;
        if self.volume.is_none() {
            self.volume = Some(Tested::new(id, self.runs + 1));
        }
        let views = self.look_at_volume().await;
        self.note_whole(&views);
        Ok(Seen::held(format!(
            "the pool after {} ms ({} nodes, {} steps); {deleted}{id} after {} ms: {legs} legs in sync, open on {owner} as {device}",
            pool_took.as_millis(),
            made.nodes.len(),
            made.done.len(),
            begun.elapsed().as_millis(),
        )))
    }

    /// Asks those that work; notes where legs lie.
    pub(super) async fn look_at_volume(&mut self) -> Vec<(NodeName, ClusterView)> {
        let views = views(&self.working().members).await;
        if let Some(tested) = &mut self.volume {
            let volume = newest(&views).and_then(|view| view.state.volumes.get(&tested.id));
            if let Some(volume) = volume {
                tested.steps.see(volume);
                tested.places.retain(|leg, _| volume.legs.contains_key(leg));
            }
            for (name, view) in &views {
                for place in view.legs.iter().filter(|place| place.volume == tested.id) {
                    tested.places.insert(place.leg, (name.clone(), place.clone()));
                }
            }
        }
        views
    }

    /// Waits until the volume is as wanted; gives it, or what it waited for last.
    async fn volume_until(
        &mut self,
        deadline: Instant,
        wanted: impl Fn(&VolumeReady) -> bool,
    ) -> Result<VolumeReady, String> {
        loop {
            self.after_resets().await.map_err(|error| crate::chain(&error))?;
            let views = self.look_at_volume().await;
            let id = self.volume.as_ref().map(|tested| tested.id).ok_or("there is no volume")?;
            let last = match opened(&views, id) {
                Ok(ready) if wanted(&ready) => return Ok(ready),
                Ok(VolumeReady { owner, in_sync, legs, .. }) => {
                    let volume = newest(&views).and_then(|view| view.state.volumes.get(&id));
                    let words = volume.map(in_words).unwrap_or_default();
                    format!("it is open on {owner}, {in_sync} of {legs} legs are in sync: {words}")
                }
                Err(why) => why,
            };
            // Of an offline one nothing comes without an operator: who waits for more would wait in vain.
            let volume = newest(&views).and_then(|view| view.state.volumes.get(&id));
            let is_offline = volume.is_some_and(|volume| volume.phase == Phase::Offline);
            if is_offline || Instant::now() >= deadline {
                return Err(last);
            }
            sleep(super::POLL).await;
        }
    }

    pub(super) async fn start_writing(&mut self, pace: Pace, bound: Duration) -> Result<Seen, RunError> {
        let Pace { in_flight, pause_ms, flush_every, pattern } = pace;
        if self.volume.as_ref().is_some_and(|tested| tested.writer.is_some()) {
            let stopped = self.stop_writing().await?;
            if !stopped.good {
                return Ok(stopped);
            }
        }
        let begun = Instant::now();
        let ready = match self.volume_until(begun + bound, |_| true).await {
            Ok(ready) => ready,
            Err(why) => return Ok(Seen::not(format!("the volume is not open: {why}"))),
        };
        let random = self.lab.seed();
        let Some(tested) = &mut self.volume else { return Ok(Seen::not("there is no volume")) };
        let missing = || LabError::Missing { node: ready.owner.to_string() };
        let node = self.lab.nodes().get(&ready.owner).ok_or_else(missing)?;
        self.runs += 1;
        let run = self.runs;
        let config = Config {
            device: PathBuf::from(&ready.device),
            log: PathBuf::new(),
            run,
            seed: random.rotate_left(run),
            in_flight,
            pause_ms,
            pattern,
            flush_every,
            writes: None,
        };
        let tail = match Tail::at_end(node.records()) {
            Ok(tail) => tail,
            Err(error) => return Ok(unreadable(&error)),
        };
        node.start_writing(&config).await?;
        (tested.is_unjudged, tested.pace) = (true, Some(pace));
        let mut writer = Writer { node: ready.owner.clone(), run, tail, clock: Clock::new(begun) };
        let is_acknowledged = match writer.first(begun + bound).await {
            Ok(is_acknowledged) => is_acknowledged,
            Err(error) => return Ok(unreadable(&error)),
        };
        let after_ms = begun.elapsed().as_millis();
        tested.writer = Some(writer);
        let VolumeReady { owner, device, .. } = ready;
        let what = format!("run {run} on {owner} writes to {device}");
        Ok(if is_acknowledged {
            Seen::held(format!("{what}; the first acknowledgement after {after_ms} ms"))
        } else {
            Seen::not(format!("{what}: none was acknowledged within {after_ms} ms; the console may say why"))
        })
    }

    /// What did not hold of writes: whether they wait, or whoever wrote is gone, which is its node's doing.
    async fn if_it_runs(&self, mut seen: Seen) -> Result<Seen, RunError> {
        let writer = self.volume.as_ref().and_then(|tested| tested.writer.as_ref()).filter(|_| !seen.good);
        let Some(writer) = writer else { return Ok(seen) };
        let missing = || LabError::Missing { node: writer.node.to_string() };
        let node = self.lab.nodes().get(&writer.node).ok_or_else(missing)?;
        match node.is_writing().await {
            Ok(true) => seen.what.push_str("; the workload still runs"),
            Ok(false) => seen.what.push_str("; the workload has ended, which nobody asked for"),
            // A node that resets itself has no hands for a while; that is told elsewhere.
            Err(_) => {}
        }
        Ok(seen)
    }

    /// From the last fault on: when writes went on.
    async fn writes_go_on(&mut self, bound: Duration) -> Result<Seen, JudgeError> {
        let Some((_, fault)) = self.faulted else { return Ok(Seen::not("nothing was broken")) };
        let writer = self.volume.as_mut().and_then(|tested| Some((tested.id, tested.writer.as_mut()?)));
        let Some((id, writer)) = writer else { return Ok(Seen::not("nobody writes")) };
        let deadline = fault + bound;
        let member = self.cluster.members.iter().find(|member| member.name == writer.node).cloned();
        let commits = member.map(|member| Commits::ask(member, id, self.lab.down(), fault));
        loop {
            writer.look()?;
            let Some(at_us) = writer.clock.node_us(fault) else {
                return Ok(Seen::not("nothing was ever acknowledged"));
            };
            let done = acknowledged(writer.records(), writer.run);
            let now_us = writer.clock.node_us(Instant::now()).unwrap_or(at_us);
            let begun = first_begun_after(&done, at_us + CLOCK_SLACK_US);
            let Some(gap) = longest_gap(&done, at_us, begun.map_or(now_us, |begun| begun.ended_us)) else {
                return Ok(Seen::not("nothing was ever acknowledged"));
            };
            let after_ms = |moment_us: u64| moment_us.saturating_sub(at_us) / 1000;
            if let Some(begun) = begun {
                let known = commits.as_ref().map(Commits::known).unwrap_or_default();
                let stall = Stall {
                    node: writer.node.to_string(),
                    run: writer.run,
                    longest_gap_ms: gap.len_us() / 1000,
                    next_after_ms: after_ms(gap.until_us),
                    begun_after_ms: after_ms(begun.ended_us),
                    leader_after_ms: known.leader_after_ms,
                    stale_after_ms: known.stale_after_ms,
                };
                let what = format!(
                    "the longest time between two acknowledgements is {} ms; it ends {} ms after the fault, and {} ms after it a write \
                     that was begun since is acknowledged; {}",
                    stall.longest_gap_ms,
                    stall.next_after_ms,
                    stall.begun_after_ms,
                    stall.split()
                );
                let after_ms = stall.begun_after_ms;
                self.log.log(Event::Stall(stall));
                let in_time = u128::from(after_ms) <= bound.as_millis();
                let seen = if in_time { Seen::held(what) } else { Seen::not(what) };
                return Ok(seen.measuring(after_ms));
            }
            if Instant::now() >= deadline {
                let ms = gap.len_us() / 1000;
                return Ok(Seen::not(format!("nothing has been acknowledged for {ms} ms")));
            }
            sleep(LOOK).await;
        }
    }

    /// For some time from now on acknowledgements come.
    async fn keeps_writing(&mut self, for_long: Duration, gap_at_most: Duration) -> Result<Seen, JudgeError> {
        let begun = Instant::now();
        let Some(writer) = self.volume.as_mut().and_then(|tested| tested.writer.as_mut()) else {
            return Ok(Seen::not("nobody writes"));
        };
        while begun.elapsed() < for_long {
            sleep(LOOK).await;
            writer.look()?;
        }
        Ok(writer.wrote_since(Some(begun), gap_at_most))
    }

    /// From the first fault on so much was acknowledged, each write counted.
    async fn has_written(&mut self, mib: u32, bound: Duration) -> Result<Seen, JudgeError> {
        let Some((fault, _)) = self.faulted else { return Ok(Seen::not("nothing was broken")) };
        let Some(writer) = self.volume.as_mut().and_then(|tested| tested.writer.as_mut()) else {
            return Ok(Seen::not("nobody writes"));
        };
        let wanted = u64::from(mib) * u64::from(MIB_BLOCKS);
        loop {
            writer.look()?;
            let since_us = writer.clock.node_us(fault);
            let done = acknowledged(writer.records(), writer.run);
            let count =
                done.iter().filter(|write| since_us.is_some_and(|since| write.ended_us >= since)).count()
                    as u64;
            let after_ms = milliseconds(fault.elapsed());
            let what =
                format!("{count} writes of 4 KiB, {} MiB, in {after_ms} ms", count / u64::from(MIB_BLOCKS));
            if count >= wanted {
                return Ok(Seen::held(what));
            }
            if fault.elapsed() >= bound {
                return Ok(Seen::not(what));
            }
            sleep(super::POLL).await;
        }
    }

    /// From the first fault on acknowledgements came.
    fn kept_writing(&mut self, gap_at_most: Duration) -> Result<Seen, JudgeError> {
        let Some(writer) = self.volume.as_mut().and_then(|tested| tested.writer.as_mut()) else {
            return Ok(Seen::not("nobody writes"));
        };
        writer.look()?;
        Ok(writer.wrote_since(self.faulted.map(|(fault, _)| fault), gap_at_most))
    }

    async fn legs_in_sync(&mut self, bound: Duration) -> Seen {
        let begun = Instant::now();
        match self.volume_until(begun + bound, |ready| ready.in_sync == ready.legs).await {
            Ok(ready) => {
                let after_ms = begun.elapsed().as_millis();
                let views = self.look_at_volume().await;
                self.note_whole(&views);
                Seen::held(format!("all {} after {after_ms} ms, open on {}", ready.legs, ready.owner))
            }
            Err(why) => Seen::not(why),
        }
    }

    async fn volume_opens(&mut self, room: Option<Room>, bound: Duration) -> Seen {
        let Some((_, fault)) = self.faulted else { return Seen::not("nothing was broken") };
        let zones = self.cluster.spec.zones.iter().enumerate();
        let wanted = zones.filter(|(at, _)| room.is_none_or(|room| room.index() == *at));
        let nodes = wanted.flat_map(|(_, zone)| &zone.nodes);
        let there: Vec<NodeName> = nodes.map(|node| node.name.clone()).collect();
        match self.volume_until(fault + bound, |ready| there.contains(&ready.owner)).await {
            Ok(VolumeReady { owner, device, in_sync, legs, .. }) => {
                let now = Instant::now();
                self.writer_left_behind(&owner);
                let took = self.volume.as_ref().map(|tested| tested.steps.since(fault, &owner, now));
                let stages = took.as_ref().map(ToString::to_string).unwrap_or_default();
                if let Some(took) = took {
                    self.log.log(Event::TookOver(took));
                }
                let after_ms = milliseconds(now.duration_since(fault));
                Seen::held(format!(
                    "on {owner} as {device} {after_ms} ms after the fault ({stages}), with {in_sync} of {legs} legs in sync"
                ))
                .measuring(after_ms)
            }
            Err(why) => Seen::not(why),
        }
    }

    async fn stop_writing(&mut self) -> Result<Seen, RunError> {
        Ok(self.end_writing().await?.0)
    }

    /// Ends the workload; when its last write was acknowledged.
    pub(super) async fn end_writing(&mut self) -> Result<(Seen, Option<Instant>), RunError> {
        let Some(mut writer) = self.volume.as_mut().and_then(|tested| tested.writer.take()) else {
            return Ok((Seen::not("nobody writes"), None));
        };
        let missing = || LabError::Missing { node: writer.node.to_string() };
        let node = self.lab.nodes().get(&writer.node).ok_or_else(missing)?;
        let ended = node.stop_writing(STOP_BOUND).await?;
        let what = format!("run {} on {}", writer.run, writer.node);
        let last = writer.last();
        self.writer_ended(writer);
        let seen = if ended {
            Seen::held(what)
        } else {
            Seen::not(format!("{what} still has a write in flight after {} s", STOP_BOUND.as_secs()))
        };
        Ok((seen, last))
    }

    /// Ends everything, and judges every leg in sync. What the nodes last said of the ledger says which those are.
    pub(super) async fn judge_legs(&mut self) -> Result<Seen, RunError> {
        if self.volume.as_ref().is_some_and(|tested| tested.writer.is_some()) {
            let stopped = self.stop_writing().await?;
            if !stopped.good {
                return Ok(stopped);
            }
        }
        // Before they lose their power: what a virtual machine has said until now.
        self.read_consoles().await;
        let views = self.look_at_volume().await;
        let all = self.lab.nodes().keys().cloned().collect();
        self.lab.power_off(self.keeper, &all).await?;
        let Some(tested) = &mut self.volume else { return Ok(Seen::not("there is no volume")) };
        tested.is_unjudged = false;
        let legs = match in_sync(tested, &views, |serial| self.lab.drive_file(serial)) {
            Ok(legs) => legs,
            Err(why) => return Ok(Seen::not(why)),
        };
        let (files, from_run) = (self.lab.records(), tested.first_run);
        let guest = self.guest.as_ref().map(vms::Guest::records);
        let for_judge =
            if guest.is_some() { legs.iter().map(vms::behind_boot).collect() } else { legs.clone() };
        let judged = tokio::task::spawn_blocking(move || {
            let records = guest.map_or_else(|| judgement::records(&files, from_run), Ok)?;
            judgement::judge(&records, &for_judge)
        });
        let judged = judged.await.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()));
        let mut seen = or_unreadable(judged.map(|judged| self.verdict(&legs, &judged)));
        for leg in &legs {
            let serial = &leg.place.serial;
            let drives::DriveState { writes, writes_through, lost_sectors, .. } =
                self.lab.drive_state(serial)?;
            let words = format!(
                "drive {serial}: {writes_through} of {writes} writes were to be durable at once; lost {lost_sectors} sectors"
            );
            seen.what = format!("{}\n{words}", seen.what);
        }
        Ok(seen)
    }

    fn verdict(&self, legs: &[LegFile], judged: &Judgement) -> Seen {
        let mut words =
            vec![format!("{} writes were acknowledged, {} failed", judged.acknowledged, judged.failed)];
        for (leg, verdict) in legs.iter().zip(&judged.legs) {
            let LegFile { leg, node, place, .. } = leg;
            words.push(format!(
                "{leg} on {node}, drive {}: {} blocks read, {} promised, {} lost",
                place.serial, verdict.read, verdict.promised, verdict.wrong
            ));
            let findings: Vec<String> = verdict.findings.iter().map(ToString::to_string).collect();
            words.extend(findings.iter().map(|finding| format!("  {finding}")));
            self.log.log(Event::LegJudged(LegJudged {
                leg: leg.to_string(),
                node: node.to_string(),
                drive: place.serial.to_string(),
                acknowledged: judged.acknowledged,
                promised: verdict.promised,
                read: verdict.read,
                lost: verdict.wrong,
                findings,
            }));
        }
        words.push(match judged.unequal {
            0 => format!("the legs are equal, but for {} blocks in flight", judged.in_flight),
            unequal => format!(
                "{unequal} blocks differ between the legs, the first of them {:?}",
                judged.unequal_blocks
            ),
        });
        let what = words.join("\n");
        if judged.is_good() { Seen::held(what) } else { Seen::not(what) }
    }
}

impl Tested {
    fn new(id: VolumeId, first_run: u32) -> Self {
        let (places, steps) = (BTreeMap::new(), Steps::default());
        let (writer, pace, left, whole) = (None, None, None, None);
        Self { id, places, first_run, writer, pace, left, whole, steps, is_unjudged: false }
    }
}

/// The legs that the ledger calls in sync, with the files of their drives.
fn in_sync(
    tested: &Tested,
    views: &[(NodeName, ClusterView)],
    file: impl Fn(&DriveSerial) -> Option<PathBuf>,
) -> Result<Vec<LegFile>, String> {
    let state = &newest(views).ok_or("nobody who has a ledger answered before the end")?.state;
    let volume = state.volumes.get(&tested.id).ok_or("the ledger has no such volume")?;
    let legs = volume.in_sync().map(|(id, leg)| {
        let drive = state.drives.get(&leg.drive).ok_or_else(|| format!("the ledger has no {}", leg.drive))?;
        let (node, place) = tested.places.get(&id).ok_or_else(|| format!("nobody said where {id} lies"))?;
        if place.serial != drive.serial {
            return Err(format!(
                "{id} was said to lie on drive {}, the ledger says {}",
                place.serial, drive.serial
            ));
        }
        let file = file(&place.serial).ok_or_else(|| format!("the lab has no drive {}", place.serial))?;
        Ok(LegFile { leg: id, node: node.clone(), place: place.clone(), file })
    });
    legs.collect()
}

/// Files of the lab that can't be read are no good judgement.
fn or_unreadable(seen: Result<Seen, JudgeError>) -> Seen {
    seen.unwrap_or_else(|error| unreadable(&error))
}

fn unreadable(error: &JudgeError) -> Seen {
    Seen::not(crate::chain(error))
}
