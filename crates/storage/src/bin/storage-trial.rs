//! One order to this node's storage, as control would give it, from a command line: for trials on real nodes.
//!
//! `storage-trial SITE ORDER`, both JSON. Every order is a process of its own, so that each finds what the last one left by reading
//! it back from the kernel. It is in images of labs only.
//!
//! On failure: the chain of errors, and exit code 1; 2 if the command line can't be read.

use control::moment::Moment;
use control::owner::Assembly;
use control::state::Base;
use control::target::Key;
use model::{
    DriveId, DriveSerial, Epoch, Incarnation, LedgerIncarnation, LegId, MapSequence, NodeId, VolumeId,
};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use storage::header::{ClusterId, DriveHeader};
use storage::kernel::{Engine, Settings, StepError};
use storage::leg::Sizes;
use storage::name::{self, GivenLeg};
use storage::owner::{self, Site};
use storage::slab::Extent;
use storage::target::{self, Offer};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Here {
    cluster: ClusterId,
    node: NodeId,
    own: BTreeMap<u16, IpAddr>,
    peers: BTreeMap<NodeId, BTreeMap<u16, IpAddr>>,
    volume: VolumeId,
    sizes: Sizes,
    slab_bytes: u64,
    stall_ms: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Order {
    Claim {
        serial: DriveSerial,
        drive: DriveId,
        wipe: bool,
    },
    GiveOut {
        serial: DriveSerial,
        leg: LegId,
        epoch: u32,
        incarnation: Incarnation,
        to: NodeId,
    },
    Make {
        serial: DriveSerial,
        leg: LegId,
    },
    Fence {
        leg: LegId,
    },
    Found {},
    Assemble {
        epoch: u32,
        legs: BTreeMap<LegId, (Incarnation, NodeId)>,
        make_equal: bool,
        stale: BTreeSet<LegId>,
        maps: MapSequence,
        known: MapSequence,
    },
    Admit {
        epoch: u32,
    },
    Look {},
    /// What control would be told of an array that an earlier run has left.
    Adopt {
        nodes: BTreeMap<LegId, NodeId>,
    },
    LetGo {
        epoch: u32,
        leg: LegId,
    },
    Release {
        epoch: u32,
        legs: BTreeSet<LegId>,
    },
    Repoint {
        epoch: u32,
        leg: LegId,
        incarnation: Incarnation,
        node: NodeId,
    },
    Rebuild {
        epoch: u32,
        leg: LegId,
        incarnation: Incarnation,
        node: NodeId,
        base: Base,
    },
    /// Until nothing is copied any more.
    AwaitRebuild {
        epoch: u32,
        seconds: u64,
    },
    StopRebuild {
        epoch: u32,
        leg: LegId,
    },
    Stop {},
    /// Tells of gates that lose their path or get it back, and gives it back to them.
    Tend {
        seconds: u64,
    },
    Flush {
        leg: LegId,
        epoch: u32,
        incarnation: Incarnation,
    },
    /// The way to another node's leg and nothing above it: connections and the gate. For measuring what that costs alone.
    Reach {
        epoch: u32,
        leg: LegId,
        incarnation: Incarnation,
        node: NodeId,
    },
    /// Takes the own leg's gate off its device, as the fence of the last leg in sync does.
    TakeOff {
        epoch: u32,
        leg: LegId,
    },
    /// Has users wait for so long, if what they have in flight ends within a bound.
    Wait {
        bound_ms: u64,
        ms: u64,
    },
    /// Waits until a leg's gate has no path; then lets go of it and releases it at once, as if the ledger had agreed in no time.
    Guard {
        epoch: u32,
        leg: LegId,
        seconds: u64,
    },
    /// Says the device of a drive.
    Drive {
        serial: DriveSerial,
    },
    /// Writes of 4 KiB, eight at a time, at places that follow from their numbers, each with its number in it.
    Write {
        from: u64,
        count: u64,
        per_second: u64,
    },
    /// Reads every place back, and says which number each has.
    Digest {
        device: String,
        offset_bytes: u64,
    },
}

fn epoch(number: u32) -> Epoch {
    Epoch { ledger: LedgerIncarnation(1), number }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [here, order] = arguments.as_slice() else {
        eprintln!("usage: storage-trial SITE ORDER");
        return ExitCode::from(2);
    };
    let parsed =
        serde_json::from_str::<Here>(here).and_then(|here| Ok((here, serde_json::from_str::<Order>(order)?)));
    let (here, order) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            eprintln!("storage-trial: {error}");
            return ExitCode::from(2);
        }
    };
    let began = Instant::now();
    let done = run(&here, order);
    println!("took {:?}", began.elapsed());
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut next: Option<&dyn Error> = Some(error.as_ref());
            while let Some(cause) = next {
                eprintln!("storage-trial: {cause}");
                next = cause.source();
            }
            ExitCode::from(1)
        }
    }
}

fn engine(here: &Here) -> Result<Engine, StepError> {
    Engine::new(Settings {
        cluster: here.cluster,
        node: here.node,
        own: here.own.clone(),
        peers: here.peers.clone(),
        stall_max: Duration::from_millis(here.stall_ms),
    })
}

fn run(here: &Here, order: Order) -> Result<(), Box<dyn Error>> {
    match order {
        Order::Write { from, count, per_second } => return write(here, from, count, per_second),
        Order::Digest { device, offset_bytes } => return digest(here, &device, offset_bytes),
        _ => {}
    }
    let engine = engine(here)?;
    let site = Site::new(here.volume, here.node, here.sizes)?;
    let seen = || engine.seen_owner(&site);
    let carry = |number: u32, steps: Vec<owner::Step>| -> Result<(), Box<dyn Error>> {
        for step in steps.into_iter().take(steps_max()) {
            let began = Instant::now();
            engine.carry_owner(&site, epoch(number), &step).inspect_err(|_| eprintln!("at {step:?}"))?;
            println!("{:>8.1?} {step:?}", began.elapsed());
        }
        Ok(())
    };
    match order {
        Order::Assemble { epoch: number, legs, make_equal, stale, maps, known } => {
            let assembly = Assembly { epoch: epoch(number), legs, make_equal, stale, maps };
            carry(number, owner::assemble(&site, &seen()?, &assembly, known)?)
        }
        Order::Admit { epoch: number } => {
            carry(number, owner::admit(&site, &seen()?, epoch(number), &users(here))?)?;
            told(&name::top(here.volume))
        }
        Order::Adopt { nodes } => {
            let seen = seen()?;
            let array = seen.array.as_ref().ok_or("there is no array")?;
            let maps = engine.maps_sequence(&site, array.epoch)?;
            println!("{:?}", owner::found(&seen, &nodes, maps, Moment(0)));
            Ok(())
        }
        Order::Look {} => {
            let seen = seen()?;
            println!("{:?}\n{seen:#?}\nwithout path: {:?}", owner::look(&seen), owner::without_path(&seen));
            Ok(())
        }
        Order::LetGo { epoch: number, leg } => {
            carry(number, owner::let_go(&site, &seen()?, epoch(number), leg)?)
        }
        Order::Release { epoch: number, legs } => {
            carry(number, owner::release(&site, &seen()?, epoch(number), &legs)?)
        }
        Order::Repoint { epoch: number, leg, incarnation, node } => {
            carry(number, owner::repoint(&site, &seen()?, epoch(number), leg, incarnation, node)?)
        }
        Order::Rebuild { epoch: number, leg, incarnation, node, base } => {
            carry(number, owner::rebuild(&site, &seen()?, epoch(number), (leg, incarnation, node), base)?)
        }
        Order::AwaitRebuild { epoch: number, seconds } => {
            await_rebuild(&engine, &site, epoch(number), seconds)
        }
        Order::StopRebuild { epoch: number, leg } => {
            carry(number, owner::stop_rebuild(&site, &seen()?, epoch(number), leg)?)
        }
        Order::Stop {} => {
            let seen = seen()?;
            let number = seen.array.as_ref().map_or(0, |array| array.epoch.number);
            carry(number, owner::stop(&site, &seen))
        }
        Order::TakeOff { epoch: number, leg } => {
            let now = seen()?;
            let off = owner::take_off(&site, &now, epoch(number), leg);
            carry(number, owner::cut_off(&now, epoch(number), leg).into_iter().chain(off).collect())
        }
        Order::Wait { bound_ms, ms } => wait(&engine, &site, bound_ms, ms),
        Order::Tend { seconds } => tend(&engine, &site, seconds),
        Order::Reach { epoch: number, leg, incarnation, node } => {
            carry(number, reach(&site, epoch(number), (leg, incarnation, node)))?;
            told(&name::gate((here.volume, leg), epoch(number)))
        }
        Order::Guard { epoch: number, leg, seconds } => {
            guard(&engine, &site, (epoch(number), leg), seconds, |steps| carry(number, steps))
        }
        order => as_target(here, &engine, order),
    }
}

/// What users see: all of it.
fn users(here: &Here) -> owner::Layout {
    owner::Layout::fixed(here.sizes.data_bytes)
}

fn reach(
    site: &Site,
    epoch: Epoch,
    (leg, incarnation, node): (LegId, Incarnation, NodeId),
) -> Vec<owner::Step> {
    let given = GivenLeg { leg: (site.volume, leg), key: Key { epoch, incarnation } };
    let gate = owner::Step::MakeGate(owner::Way { given, epoch, local: false }, site.geometry.leg_bytes());
    vec![owner::Step::Connect(given, node), gate]
}

fn wait(engine: &Engine, site: &Site, bound_ms: u64, ms: u64) -> Result<(), Box<dyn Error>> {
    let pause = || std::thread::sleep(Duration::from_millis(ms));
    Ok(engine.while_users_wait(site.volume, Duration::from_millis(bound_ms), pause)?)
}

/// Says where a dm device is.
fn told(name: &str) -> Result<(), Box<dyn Error>> {
    println!("{}", device_of(name)?);
    Ok(())
}

/// Every drive holds one leg, at its beginning.
fn offer(
    here: &Here,
    drive: DriveSerial,
    given: GivenLeg,
    host: Option<String>,
) -> Result<Offer, Box<dyn Error>> {
    let geometry = storage::leg::Geometry::new(here.sizes)?;
    let len_bytes = geometry.backed_bytes().next_multiple_of(here.slab_bytes);
    let extents = vec![Extent { offset_bytes: storage::header::SLABS_OFFSET_BYTES, len_bytes }];
    Ok(Offer { given, drive, extents, bytes: geometry.leg_bytes(), host })
}

fn as_target(here: &Here, engine: &Engine, order: Order) -> Result<(), Box<dyn Error>> {
    let carry = |steps: Vec<target::Step>| -> Result<(), Box<dyn Error>> {
        for step in steps.into_iter().take(steps_max()) {
            let began = Instant::now();
            engine.carry_target(&step, here.sizes).inspect_err(|_| eprintln!("at {step:?}"))?;
            println!("{:>8.1?} {step:?}", began.elapsed());
        }
        Ok(())
    };
    match order {
        Order::Claim { serial, drive, wipe } => {
            let header = DriveHeader { cluster: here.cluster, drive, slab_bytes: here.slab_bytes };
            println!("{:?}", engine.claim(&engine.drive(&serial)?, header, wipe)?);
            Ok(())
        }
        Order::GiveOut { serial, leg, epoch: number, incarnation, to } => {
            let given = GivenLeg { leg: (here.volume, leg), key: Key { epoch: epoch(number), incarnation } };
            let host = (to != here.node).then(|| name::host(here.cluster, to));
            carry(target::give_out(&engine.seen_target()?, &offer(here, serial, given, host)?, &here.own)?)?;
            told(&given.device())
        }
        Order::Drive { serial } => {
            println!("{}", engine.drive(&serial)?.display());
            Ok(())
        }
        Order::Make { serial, leg } => {
            let key = Key { epoch: epoch(1), incarnation: Incarnation(0) };
            let offer = offer(here, serial, GivenLeg { leg: (here.volume, leg), key }, None)?;
            carry(target::make(&engine.seen_target()?, &offer)?)
        }
        Order::Fence { leg } => carry(target::fence(&engine.seen_target()?, (here.volume, leg))),
        Order::Found {} => {
            let seen = engine.seen_target()?;
            let found = target::found(&seen, here.cluster, here.node, &here.own);
            println!("{found:?}\nleft over: {:?}\n{seen:?}", target::leftovers(&seen, &found));
            Ok(())
        }
        Order::Flush { leg, epoch: number, incarnation } => Ok(engine.flush_leg(GivenLeg {
            leg: (here.volume, leg),
            key: Key { epoch: epoch(number), incarnation },
        })?),
        _ => Ok(()),
    }
}

/// After so many steps it is as if this had been killed.
fn steps_max() -> usize {
    std::env::var("TRIAL_STEPS").ok().and_then(|text| text.parse().ok()).unwrap_or(usize::MAX)
}

/// The node of a dm device.
fn device_of(name: &str) -> Result<String, Box<dyn Error>> {
    for entry in std::fs::read_dir("/sys/block")? {
        let entry = entry?;
        if std::fs::read_to_string(entry.path().join("dm/name")).is_ok_and(|found| found.trim() == name) {
            return Ok(format!("/dev/{}", entry.file_name().to_string_lossy()));
        }
    }
    Err(format!("there is no device {name}").into())
}

fn tend(engine: &Engine, site: &Site, seconds: u64) -> Result<(), Box<dyn Error>> {
    let (began, mut known) = (Instant::now(), BTreeSet::new());
    while began.elapsed() < Duration::from_secs(seconds) {
        engine.wait_for_gates(Duration::from_millis(100))?;
        let now = owner::without_path(&engine.seen_owner(site)?);
        for leg in now.difference(&known) {
            println!("{:>8.1?} {leg} has no path", began.elapsed());
        }
        for (leg, given) in owner::to_bounce(&engine.seen_owner(site)?) {
            engine.reinstate(given.leg, given.key.epoch)?;
            println!("{:>8.1?} {leg} was given its path back", began.elapsed());
        }
        for leg in known.difference(&now) {
            println!("{:>8.1?} {leg} has a path", began.elapsed());
        }
        known = now;
    }
    Ok(())
}

/// Lets go of a leg when it has no path, and answers md for it until the time is over: what was in flight fails one after the other, and md
/// asks each time.
fn guard(
    engine: &Engine,
    site: &Site,
    (epoch, leg): (Epoch, LegId),
    seconds: u64,
    carry: impl Fn(Vec<owner::Step>) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    await_no_path(engine, site, leg, seconds)?;
    carry(owner::let_go(site, &engine.seen_owner(site)?, epoch, leg)?)?;
    while Instant::now() < deadline {
        let now = engine.seen_owner(site)?;
        let is_in = now.array.as_ref().is_some_and(|array| array.members.contains_key(&leg));
        if is_in || owner::look(&now).waits {
            let released = carry(owner::release(site, &now, epoch, &BTreeSet::from([leg]))?);
            released.unwrap_or_else(|why| println!("not released yet: {why}"));
        }
        engine.wait_for_gates(Duration::from_millis(20))?;
    }
    Ok(())
}

/// Looks as an agent does: at each event of a gate, and ten times a second.
fn await_no_path(engine: &Engine, site: &Site, leg: LegId, seconds: u64) -> Result<(), Box<dyn Error>> {
    let began = Instant::now();
    while !owner::without_path(&engine.seen_owner(site)?).contains(&leg) {
        if began.elapsed() > Duration::from_secs(seconds) {
            return Err(format!("{leg} has a path").into());
        }
        engine.wait_for_gates(Duration::from_millis(100))?;
    }
    println!("{:>8.1?} {leg} has no path", began.elapsed());
    Ok(())
}

fn await_rebuild(engine: &Engine, site: &Site, epoch: Epoch, seconds: u64) -> Result<(), Box<dyn Error>> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        let seen = engine.seen_owner(site)?;
        let array = seen.array.ok_or("there is no array")?;
        let synced = array.members.values().all(|member| member.words.contains("in_sync"));
        if array.action == "idle" && synced {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("it still copies: {array:?}, {:?}", engine.progress(site, epoch)).into());
        }
        engine.watch(site, epoch)?.first().ok_or("nothing to watch")?.wait(Duration::from_millis(50))?;
    }
}

const BLOCK: u64 = 4096;
/// `O_DIRECT | O_DSYNC` of x86-64.
const DIRECT_DSYNC: i32 = 0x4000 | 0x1000;

/// Where a number's block is: spread over the volume, and for each number always the same.
fn place(here: &Here, number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (here.sizes.data_bytes / BLOCK) * BLOCK
}

fn write(here: &Here, from: u64, count: u64, per_second: u64) -> Result<(), Box<dyn Error>> {
    let top = device_of(&name::top(here.volume))?;
    let (next, began) = (AtomicU64::new(from), Instant::now());
    let lines = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let Ok(device) = File::options().write(true).custom_flags(DIRECT_DSYNC).open(&top) else {
                    return;
                };
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= from + count {
                        return;
                    }
                    let due = Duration::from_millis((number - from) * 1000 / per_second.max(1));
                    std::thread::sleep(due.saturating_sub(began.elapsed()));
                    let mut bytes = vec![0; 2 * 4096];
                    let aligned = bytes.as_ptr().align_offset(4096);
                    bytes[aligned..aligned + 8].copy_from_slice(&number.to_le_bytes());
                    let sent = began.elapsed();
                    let done = device.write_all_at(&bytes[aligned..aligned + 4096], place(here, number));
                    if let (Ok(mut lines), Ok(())) = (lines.lock(), &done) {
                        lines.push((sent, began.elapsed(), number));
                    }
                    if let Err(error) = done {
                        println!("{number} failed: {error}");
                        return;
                    }
                }
            });
        }
    });
    let mut lines = lines.into_inner()?;
    lines.sort_unstable_by_key(|(_, done, _)| *done);
    let mut last = Duration::ZERO;
    let mut gap = (Duration::ZERO, last);
    for (_, done, _) in &lines {
        gap = gap.max((done.saturating_sub(last), last));
        last = *done;
    }
    let mut took: Vec<Duration> = lines.iter().map(|(sent, done, _)| done.saturating_sub(*sent)).collect();
    took.sort_unstable();
    let median = took.get(took.len() / 2).copied().unwrap_or_default();
    println!(
        "{} writes acknowledged, median {median:?}, longest silence {:?} from {:?}",
        lines.len(),
        gap.0,
        gap.1
    );
    Ok(())
}

/// A checksum over the data, as it is read from the device.
fn digest(here: &Here, device: &str, offset_bytes: u64) -> Result<(), Box<dyn Error>> {
    let device = if device.starts_with('/') { device.to_owned() } else { device_of(device)? };
    let mut file = File::open(device)?;
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(offset_bytes))?;
    let (mut left, mut sum, mut buffer) = (here.sizes.data_bytes, Sha256::new(), vec![0; 1 << 20]);
    while left > 0 {
        let piece = usize::try_from(left.min(1 << 20))?;
        file.read_exact(&mut buffer[..piece])?;
        sum.update(&buffer[..piece]);
        left -= piece as u64;
    }
    println!("{:x}", sum.finalize());
    Ok(())
}
