//! Drives that err, are slow, hang or are pulled, and what their node's kernel sees of that; and what they keep when the power goes.
//!
//! Purpose: shows each fault to be what it says it is, by requests of a program on the node, without any volume. Suites of volumes make
//! the same faults and look at the volume.
//!
//! Invariants: nothing is written to a drive itself where there is a volume. Runs of the writer on drives are numbered through.
//!
//! On failure: what a kernel doesn't see is a step that does not hold; what the lab can't do ends the run.

use super::{Runner, Seen};
use crate::judgement;
use crate::lab::{LabError, LabNode};
use crate::run::RunError;
use crate::suite::{DriveAt, Held, Step, WhichDrive};
use drives::fault::{Fault, Requests};
use model::{DriveSerial, NodeName};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use workload::choice::Pattern;
use workload::judge::{Durable, Promises, Verdict, judge};
use workload::probe::{Probe, What};
use workload::record::{Event, Record};
use workload::writer::Config;
use workload::{BLOCK_BYTES, BlockNumber};

/// How often a node is asked while its kernel is to see something.
const POLL: Duration = Duration::from_millis(100);
/// How long a few requests may take, and the writer's runs.
const REQUESTS_LIMIT: Duration = Duration::from_secs(20);
const WRITER_LIMIT: Duration = Duration::from_mins(1);
/// How long nothing is answered by a drive that hangs, to be called so.
const STUCK_FOR: Duration = Duration::from_secs(2);
/// How many requests of a kind are made.
const TIMES: u32 = 5;
/// How many times slower than its peer a slow drive is.
const SLOWER: u32 = 10;
/// Where a write goes that waits at a drive that hangs.
const STUCK_BLOCK: u32 = 64;
/// Few blocks, so that what is not flushed lies over what was.
const FEW: Pattern = Pattern { warm_blocks: 400, warm_percent: 100 };

/// How a kernel tells that a drive failed: a medium error (`ENODATA`, what it makes of the status of QEMU's nvme device) or any other (`EIO`).
const FAILED: [&str; 2] = ["(os error 61)", "(os error 5)"];

/// What was written to drives themselves.
#[derive(Debug, Default)]
pub(super) struct Raw {
    run: u32,
    /// The runs on each drive.
    runs: BTreeMap<DriveSerial, BTreeSet<u32>>,
    /// The run that waits at a drive that hangs.
    waiting: Option<(DriveSerial, u32)>,
    /// What had been written to each drive when it was mended last, or its node got its power back, bytes.
    mended: BTreeMap<DriveSerial, u64>,
}

/// A drive and who has it.
struct Target {
    node: NodeName,
    drive: DriveSerial,
}

impl Runner<'_> {
    /// Steps about a drive.
    pub(super) async fn drive_step(&mut self, step: &Step) -> Result<Seen, RunError> {
        let target = match self.target(step)? {
            Ok(target) => target,
            Err(why) => return Ok(Seen::not(why)),
        };
        match step {
            Step::DriveWorks { .. } | Step::PutDriveBack { .. } => {
                let written = self.lab.drive_state(&target.drive)?.written_bytes;
                self.raw.mended.insert(target.drive.clone(), written);
                self.lab.mend_drive(&target.node, &target.drive).await?;
                if self.lab.faults().is_empty() {
                    self.note_healed();
                }
                Ok(Seen::held(format!("drive {} of {}", target.drive, target.node)))
            }
            Step::KernelSeesDrive { within_ms, .. } => {
                self.kernel_sees(&target, Duration::from_millis(*within_ms)).await
            }
            Step::WriteToDrive { writes, .. } => self.write_to_drive(&target, *writes).await,
            Step::OnlyFlushedIsSure { .. } => self.only_flushed_is_sure(&target),
            Step::DriveTookAtMost { mib, .. } => self.took_at_most(&target, *mib),
            fault => {
                self.before_a_fault();
                let now = Instant::now();
                let made = self.lab.break_drive(&target.node, &target.drive, fault.drive_fault()).await?;
                Ok(self.made(now, &[made]))
            }
        }
    }

    fn target(&self, step: &Step) -> Result<Result<Target, String>, RunError> {
        let Some(DriveAt { room, position, which }) = step.drive() else {
            return Ok(Err("this is no step about a drive".to_owned()));
        };
        let no_node = || LabError::NoSuchNode { room: room.index() + 1, position };
        let at = usize::from(position).checked_sub(1).ok_or_else(no_node)?;
        let node = self.cluster.spec.zones.get(room.index()).and_then(|zone| zone.nodes.get(at));
        let name = node.map(|node| node.name.clone()).ok_or_else(no_node)?;
        let found = match which {
            WhichDrive::Number(number) => {
                let found = self.lab_node(&name)?.data_drive(number);
                let no_drive = || LabError::NoSuchDrive { drive: format!("number {number} of {name}") };
                Ok(found.ok_or_else(no_drive)?)
            }
            WhichDrive::Holds(Held::Leg) => {
                self.drive_of_leg(&name).ok_or_else(|| format!("{name} has no leg of a volume"))
            }
        };
        Ok(found.map(|drive| Target { node: name, drive }))
    }

    /// Nodes go on: what had been written to their drives by then.
    pub(super) fn note_drives_of(&mut self, nodes: &BTreeSet<NodeName>) -> Result<(), RunError> {
        let drives: Vec<DriveSerial> = nodes
            .iter()
            .filter_map(|name| self.lab.nodes().get(name))
            .flat_map(LabNode::data_drives)
            .collect();
        for drive in drives {
            let written = self.lab.drive_state(&drive)?.written_bytes;
            self.raw.mended.insert(drive, written);
        }
        Ok(())
    }

    fn took_at_most(&mut self, target: &Target, mib: u64) -> Result<Seen, RunError> {
        let Some(before) = self.raw.mended.get(&target.drive).copied() else {
            return Ok(Seen::not(format!("drive {} was not mended", target.drive)));
        };
        let bytes = self.lab.drive_state(&target.drive)?.written_bytes.saturating_sub(before);
        let what = format!("{} KiB were written to drive {} since", bytes >> 10, target.drive);
        // Nothing at all: it is not the one that was brought up to date.
        Ok(if bytes > 0 && bytes <= mib << 20 { Seen::held(what) } else { Seen::not(what) })
    }

    fn lab_node(&self, name: &NodeName) -> Result<&LabNode, LabError> {
        self.lab.nodes().get(name).ok_or_else(|| LabError::Missing { node: name.to_string() })
    }

    /// The device by which a node's kernel has a drive; `None`: it has none.
    async fn device(&self, node: &NodeName, drive: &DriveSerial) -> Result<Option<PathBuf>, RunError> {
        let inventory = self.lab_node(node)?.client.inventory().await;
        let inventory = inventory.map_err(deploy::DeployError::Ask)?;
        let found = inventory.drives.iter().find(|known| known.serial == *drive);
        Ok(found.map(|found| Path::new("/dev").join(&found.kernel_name)))
    }

    async fn kernel_sees(&mut self, target: &Target, bound: Duration) -> Result<Seen, RunError> {
        let deadline = Instant::now() + bound;
        let fault = self.lab.drive_state(&target.drive)?.fault;
        let is_there = fault != Fault::Pulled;
        let device = loop {
            let device = self.device(&target.node, &target.drive).await?;
            if device.is_some() == is_there {
                break device;
            }
            if Instant::now() >= deadline {
                let has = if device.is_some() { "still has" } else { "has not got" };
                return Ok(Seen::not(format!("{} {has} drive {}", target.node, target.drive)));
            }
            sleep(POLL).await;
        };
        let Some(device) = device else {
            return Ok(Seen::held(format!("{} has no drive {} any more", target.node, target.drive)));
        };
        match fault {
            Fault::Stuck => self.is_stuck(target, &device).await,
            Fault::Slow { delay_ms } => self.is_slow(target, &device, delay_ms).await,
            Fault::Errors { of, range } => {
                let first = range.map_or(0, |range| range.offset_bytes);
                let behind = range.map(|range| range.offset_bytes + range.len_bytes);
                let bad = (of != Requests::Writes, of != Requests::Reads);
                let mut seen = self.answers(target, &device, block_at(first), bad).await?;
                if let Some(behind) = behind.filter(|_| seen.good) {
                    let well = self.answers(target, &device, block_at(behind), (false, false)).await?;
                    seen = Seen::of(well.good, format!("{}; behind it: {}", seen.what, well.what));
                }
                Ok(seen)
            }
            Fault::None | Fault::Pulled => {
                let mut seen = self.answers(target, &device, 0, (false, false)).await?;
                if let Some((drive, run)) = self.raw.waiting.take_if(|(drive, _)| *drive == target.drive)
                    && seen.good
                {
                    let done = self.until_acknowledged(&target.node, run, deadline).await?;
                    let what = if done { "was carried out" } else { "is still not answered" };
                    seen = Seen::of(done, format!("{}; what waited at {drive} {what}", seen.what));
                }
                Ok(seen)
            }
        }
    }

    /// Reads, and where there is no volume writes and flushes; whether each fails as it must.
    async fn answers(
        &self,
        target: &Target,
        device: &Path,
        block: BlockNumber,
        (reads_fail, writes_fail): (bool, bool),
    ) -> Result<Seen, RunError> {
        let kinds: &[(What, bool)] = if self.volume.is_none() {
            &[(What::Read, reads_fail), (What::Write, writes_fail), (What::Flush, false)]
        } else {
            &[(What::Read, reads_fail)]
        };
        let (mut words, mut good) = (Vec::new(), true);
        for (what, fails) in kinds {
            if *what == What::Flush && writes_fail {
                continue;
            }
            let answer = self.ask(&target.node, device, *what, block).await?;
            good &= answer
                .as_ref()
                .map_or_else(|why| *fails && FAILED.iter().any(|errno| why.ends_with(errno)), |_| !fails);
            words.push(match answer {
                Ok(took) => format!("{what:?} takes {:.1} ms", median(&took).as_secs_f64() * 1e3),
                Err(why) => why,
            });
        }
        Ok(Seen::of(good, words.join("; ")))
    }

    async fn ask(
        &self,
        node: &NodeName,
        device: &Path,
        what: What,
        block: BlockNumber,
    ) -> Result<Result<Vec<Duration>, String>, RunError> {
        let probe = Probe { device: device.to_owned(), what, block, times: TIMES };
        Ok(self.lab_node(node)?.probe(&probe, REQUESTS_LIMIT).await?)
    }

    /// Each request takes the delay at least, and many times what another drive of the node takes.
    async fn is_slow(&self, target: &Target, device: &Path, delay_ms: u32) -> Result<Seen, RunError> {
        let others = self.lab_node(&target.node)?.data_drives();
        let Some(peer) = others.into_iter().find(|other| *other != target.drive) else {
            return Ok(Seen::not("the node has no other drive to compare with"));
        };
        let Some(peer_device) = self.device(&target.node, &peer).await? else {
            return Ok(Seen::not(format!("the node has no drive {peer}")));
        };
        let slow = self.ask(&target.node, device, What::Read, 0).await?;
        let fast = self.ask(&target.node, &peer_device, What::Read, 0).await?;
        let (slow, fast) = match (slow, fast) {
            (Ok(slow), Ok(fast)) => (slow, fast),
            (Err(why), _) | (_, Err(why)) => return Ok(Seen::not(why)),
        };
        let each = slow.iter().all(|took| *took >= Duration::from_millis(delay_ms.into()));
        let (slow, fast) = (median(&slow), median(&fast));
        let what = format!(
            "a read takes {:.1} ms, {:.1} ms from drive {peer}",
            slow.as_secs_f64() * 1e3,
            fast.as_secs_f64() * 1e3
        );
        Ok(Seen::of(each && slow >= SLOWER * fast, what))
    }

    /// A write that waits is not acknowledged.
    async fn is_stuck(&mut self, target: &Target, device: &Path) -> Result<Seen, RunError> {
        if self.volume.is_some() {
            return Ok(Seen::not("there is a volume: a write to the drive itself would harm it"));
        }
        let run = self.next_run(&target.drive);
        let pattern = Pattern { warm_blocks: STUCK_BLOCK, warm_percent: 100 };
        let config = self.config(device, run, pattern, 1, 0);
        self.lab_node(&target.node)?.start_writing(&config).await?;
        self.raw.waiting = Some((target.drive.clone(), run));
        let deadline = Instant::now() + REQUESTS_LIMIT;
        while self.lab.drive_state(&target.drive)?.waiting == 0 {
            if Instant::now() >= deadline {
                return Ok(Seen::not("no write came to the drive"));
            }
            sleep(POLL).await;
        }
        let is_answered = self.until_acknowledged(&target.node, run, Instant::now() + STUCK_FOR).await?;
        let waiting = self.lab.drive_state(&target.drive)?.waiting;
        let what = format!("{waiting} requests wait, and none was answered for {} s", STUCK_FOR.as_secs());
        Ok(if is_answered { Seen::not("a write was answered") } else { Seen::held(what) })
    }

    /// Whether a write of a run is acknowledged by a deadline.
    async fn until_acknowledged(
        &self,
        node: &NodeName,
        run: u32,
        deadline: Instant,
    ) -> Result<bool, RunError> {
        loop {
            let records = self.records_of(node, &[run].into())?;
            let is_it = |record: &Record| matches!(record.event, Event::Acknowledged { .. });
            if records.iter().any(is_it) {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            sleep(POLL).await;
        }
    }

    async fn write_to_drive(&mut self, target: &Target, writes: u32) -> Result<Seen, RunError> {
        if self.volume.is_some() {
            return Ok(Seen::not("there is a volume: writes to the drive itself would harm it"));
        }
        let Some(device) = self.device(&target.node, &target.drive).await? else {
            return Ok(Seen::not(format!("the node has no drive {}", target.drive)));
        };
        for flush_every in [u64::from(writes), 0] {
            let run = self.next_run(&target.drive);
            let config = self.config(&device, run, FEW, writes, flush_every);
            if let Some(why) = self.lab_node(&target.node)?.write_all(&config, WRITER_LIMIT).await? {
                return Ok(Seen::not(why));
            }
        }
        let state = self.lab.drive_state(&target.drive)?;
        let what = format!(
            "{} was written; {} KiB are not flushed; {} of {} writes so far were to be durable at once",
            target.drive,
            state.unflushed_bytes >> 10,
            state.writes_through,
            state.writes
        );
        Ok(Seen::held(what))
    }

    fn only_flushed_is_sure(&self, target: &Target) -> Result<Seen, RunError> {
        if !self.lab.down().contains(&target.node) {
            return Ok(Seen::not(format!("{} is on", target.node)));
        }
        let runs = self.raw.runs.get(&target.drive).cloned().unwrap_or_default();
        let records = self.records_of(&target.node, &runs)?;
        let no_drive = || LabError::NoSuchDrive { drive: target.drive.to_string() };
        let path = self.lab.drive_file(&target.drive).ok_or_else(no_drive)?;
        let verdict = |durable| {
            judge_drive(&records, durable, &path)
                .map_err(|source| judgement::JudgeError::Read { path: path.clone(), source })
        };
        let judged = verdict(Durable::WhenFlushed).and_then(|flushed| {
            let all = verdict(Durable::WhenAcknowledged)?;
            Ok((flushed, all))
        });
        let (flushed, all) = match judged {
            Ok(judged) => judged,
            Err(error) => return Ok(Seen::not(crate::chain(&error))),
        };
        let mut what = format!(
            "{} blocks hold what was flushed, {} don't; of {} that were acknowledged {} are lost",
            flushed.promised, flushed.wrong, all.promised, all.wrong
        );
        what.extend(flushed.findings.iter().map(|finding| format!("\n  {finding}")));
        Ok(Seen::of(flushed.is_good() && all.wrong > 0, what))
    }

    fn next_run(&mut self, drive: &DriveSerial) -> u32 {
        self.raw.run += 1;
        self.raw.runs.entry(drive.clone()).or_default().insert(self.raw.run);
        self.raw.run
    }

    fn config(&self, device: &Path, run: u32, pattern: Pattern, writes: u32, flush_every: u64) -> Config {
        Config {
            device: device.to_owned(),
            log: PathBuf::new(),
            run,
            seed: self.lab.seed().rotate_left(run),
            in_flight: 8,
            pause_ms: 0,
            pattern,
            flush_every,
            writes: Some(writes.into()),
        }
    }

    /// What runs on a node told of, so far.
    fn records_of(&self, node: &NodeName, runs: &BTreeSet<u32>) -> Result<Vec<Record>, RunError> {
        let path = self.lab_node(node)?.records();
        let read = std::fs::read(path);
        let log = read.map_err(|source| LabError::Write { path: path.to_owned(), source })?;
        let (mut records, _) = workload::record::read_all(&log);
        records.retain(|record| match record.event {
            Event::Begun { run, .. } => runs.contains(&run),
            Event::Acknowledged { version, .. } | Event::Failed { version, .. } => {
                runs.contains(&version.run)
            }
            Event::Flushed { up_to } => runs.contains(&up_to.run),
        });
        Ok(records)
    }
}

fn judge_drive(records: &[Record], durable: Durable, path: &Path) -> io::Result<Verdict> {
    let mut promises = Promises::of(records, durable);
    // The rest was never written.
    promises.blocks = promises.blocks.min(FEW.warm_blocks);
    let file = File::open(path)?;
    judge(&promises, |block| {
        let mut content = [0; BLOCK_BYTES];
        file.read_exact_at(&mut content, u64::from(block) * BLOCK_BYTES as u64)?;
        Ok(content)
    })
}

fn block_at(offset_bytes: u64) -> BlockNumber {
    BlockNumber::try_from(offset_bytes / BLOCK_BYTES as u64).unwrap_or(BlockNumber::MAX)
}

fn median(took: &[Duration]) -> Duration {
    let mut sorted = took.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
