//! A thin volume's devices: the hole, the route, the queue, and what users open (`owner::top`).
//!
//! Purpose: makes them, says what is there, and which extents were written that have no place.
//!
//! The hole is dm delay: reads go to dm zero, writes to dm error, two milliseconds later. Without that delay the first write that fails would take the queue's path
//! away while all others still wait behind it, and none of them would ever be seen, or pass. What was written dm counts itself, area by area
//! (Documentation/admin-guide/device-mapper/statistics): an area is an extent, and for what users see beyond [`AREAS_MAX`] of them several, which are then counted
//! one by one.
//!
//! Invariants: hole, route and queue are as long as the volume can get, so that only the route's table ever changes, and that of what users open. A flush does not get to it: it has no write cache (blk-core.c,
//! `submit_bio_noacct`).
//!
//! On failure: [`StepError`]; what was made stays, and the order may be given again.

use super::dm::{DeviceNumber, Dm, DmError, Said, Target};
use super::{Engine, StepError, gate, sysfs};
use crate::name;
use crate::owner::{Layout, Queue, Site, Thin};
use model::{ExtentTable, SLAB_BYTES, VolumeId};
use std::collections::BTreeSet;
use std::path::Path;

const SECTOR_BYTES: u64 = 512;
const EXTENT_SECTORS: u64 = SLAB_BYTES / SECTOR_BYTES;
/// How long a write waits in the hole until it fails, ms: so that all that wait with it get there.
const FAILS_AFTER_MS: u32 = 2;
/// How many areas are counted at most: each costs the kernel some hundred bytes a processor.
const AREAS_MAX: u64 = 1024;
/// How many of them are looked into at a time, where one is more than an extent.
const LOOKED_INTO: usize = 8;
/// By which our counters are known among others'.
const PROGRAM: &str = "twinrack";
/// Room for what the counters of so many areas say, bytes: a line each of no more than 300.
const COUNTERS_BYTES: usize = 320 << 10;

/// Counters of a stretch of the hole: `ID: START+LEN STEP PROGRAM …` (dm-stats.c, `dm_stats_list`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Region {
    id: u64,
    start: u64,
    len: u64,
    step: u64,
}

fn whole(bytes: u64, kind: &'static str, parameters: String) -> [Target; 1] {
    [Target { start_sectors: 0, len_sectors: bytes / SECTOR_BYTES, kind, parameters }]
}

pub(super) fn make_hole(engine: &Engine, site: &Site, size_bytes: u64) -> Result<(), StepError> {
    let (volume, room) = (site.volume, site.geometry.sizes().room_bytes);
    let (zero, deny, hole) = (name::zero(volume), name::deny(volume), name::hole(volume));
    engine.dm.create(&zero, &whole(room, "zero", String::new()))?;
    engine.dm.create(&deny, &whole(room, "error", String::new()))?;
    let (zero, deny) = (engine.number_of(&zero)?, engine.number_of(&deny)?);
    // Reads, writes, flushes.
    let delay = format!("{zero} 0 0 {deny} 0 {FAILS_AFTER_MS} {zero} 0 0");
    engine.dm.create(&hole, &whole(room, "delay", delay))?;
    count(engine, volume, size_bytes)
}

/// Sees that all that users see is counted.
fn count(engine: &Engine, volume: VolumeId, size_bytes: u64) -> Result<(), StepError> {
    let len = size_bytes / SECTOR_BYTES;
    let found = regions(&engine.dm, volume)?;
    if found.iter().any(|region| region.start == 0 && region.len == len) {
        return Ok(());
    }
    for region in found {
        engine.dm.message(&name::hole(volume), &format!("@stats_delete {}", region.id))?;
    }
    let step = len.div_ceil(AREAS_MAX).next_multiple_of(EXTENT_SECTORS);
    create(&engine.dm, volume, 0, len, step)
}

fn create(dm: &Dm, volume: VolumeId, start: u64, len: u64, step: u64) -> Result<(), StepError> {
    Ok(dm.message(&name::hole(volume), &format!("@stats_create {start}+{len} {step} {PROGRAM}"))?)
}

fn regions(dm: &Dm, volume: VolumeId) -> Result<Vec<Region>, StepError> {
    let text = dm.ask(&name::hole(volume), &format!("@stats_list {PROGRAM}"), COUNTERS_BYTES)?;
    Ok(text.lines().filter_map(region).collect())
}

fn region(line: &str) -> Option<Region> {
    let (id, rest) = line.split_once(": ")?;
    let mut words = rest.split_ascii_whitespace();
    let (start, len) = words.next()?.split_once('+')?;
    let number = |text: &str| text.parse::<u64>().ok();
    let (id, start, len) = (number(id)?, number(start)?, number(len)?);
    Some(Region { id, start, len, step: number(words.next()?)? })
}

/// The areas that were written, by where they begin, and nothing else: the fifth number is writes that have ended (Documentation/admin-guide/iostats).
fn written_in(text: &str) -> BTreeSet<u64> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let start = words.next()?.split_once('+')?.0.parse().ok()?;
        let writes: u64 = words.nth(4)?.parse().ok()?;
        (writes > 0).then_some(start)
    };
    text.lines().filter_map(line).collect()
}

/// Extents without a place that were written since this was asked last; of a large volume perhaps not all of them at the first time.
pub(super) fn written(engine: &Engine, volume: VolumeId) -> Result<BTreeSet<u64>, StepError> {
    let hole = name::hole(volume);
    let (mut extents, mut areas) = (BTreeSet::new(), BTreeSet::new());
    let all = regions(&engine.dm, volume)?;
    for region in &all {
        let text = engine.dm.ask(&hole, &format!("@stats_print_clear {}", region.id), COUNTERS_BYTES)?;
        let starts = written_in(&text).into_iter();
        if region.step == EXTENT_SECTORS {
            extents.extend(starts.map(|start| start / EXTENT_SECTORS));
        } else {
            areas.extend(starts.map(|start| (start, region.step.min(region.start + region.len - start))));
        }
    }
    for looked_into in all.iter().filter(|region| region.start > 0 || region.len < all_of(&all)) {
        if !areas.remove(&(looked_into.start, looked_into.len)) {
            engine.dm.message(&hole, &format!("@stats_delete {}", looked_into.id))?;
        }
    }
    for (start, len) in areas.into_iter().take(LOOKED_INTO) {
        create(&engine.dm, volume, start, len, EXTENT_SECTORS)?;
    }
    Ok(extents)
}

/// How long the longest is: the one of all that users see.
fn all_of(regions: &[Region]) -> u64 {
    regions.iter().map(|region| region.len).max().unwrap_or(0)
}

/// The array and the hole, piece by piece; behind what users see the hole.
fn route(room_bytes: u64, table: &ExtentTable, array: &str, hole: DeviceNumber) -> Vec<Target> {
    let sectors = |extents: u64| extents * EXTENT_SECTORS;
    let end = room_bytes / SECTOR_BYTES;
    let target = |segment: model::Segment| {
        let start_sectors = sectors(segment.extents.first);
        let len_sectors = sectors(segment.extents.count).min(end.saturating_sub(start_sectors));
        let parameters = match segment.place {
            Some(place) => format!("{array} {}", sectors(place)),
            // At the same place as users see it: so the counters say which extent it is.
            None => format!("{hole} {start_sectors}"),
        };
        Target { start_sectors, len_sectors, kind: "linear", parameters }
    };
    table.segments(room_bytes).into_iter().map(target).collect()
}

fn route_table(engine: &Engine, site: &Site, layout: &Layout, array: &str) -> Result<Vec<Target>, StepError> {
    let array = sysfs::read(Path::new(&format!("/sys/block/{array}/dev")))?;
    let table = layout.table.clone().unwrap_or_default();
    let hole = engine.number_of(&name::hole(site.volume))?;
    Ok(route(site.geometry.sizes().room_bytes, &table, array.trim(), hole))
}

pub(super) fn make_route(
    engine: &Engine,
    site: &Site,
    layout: &Layout,
    array: &str,
) -> Result<(), StepError> {
    Ok(engine.dm.create(&name::route(site.volume), &route_table(engine, site, layout, array)?)?)
}

pub(super) fn load_route(
    engine: &Engine,
    site: &Site,
    layout: &Layout,
    array: &str,
) -> Result<(), StepError> {
    count(engine, site.volume, layout.size_bytes)?;
    Ok(engine.dm.load(&name::route(site.volume), &route_table(engine, site, layout, array)?)?)
}

/// With the route as its one path.
pub(super) fn make_queue(engine: &Engine, site: &Site) -> Result<(), StepError> {
    let route = engine.number_of(&name::route(site.volume))?;
    let table = gate::table(route, site.geometry.sizes().room_bytes, true);
    Ok(engine.dm.create(&name::queue(site.volume), &table)?)
}

/// What users open. A flush is for what was acknowledged, so it need not wait behind what was not.
pub(super) fn top_table(engine: &Engine, site: &Site, layout: &Layout) -> Result<Vec<Target>, StepError> {
    let route = engine.number_of(&name::route(site.volume))?;
    let queue = engine.number_of(&name::queue(site.volume))?;
    // Reads, writes, flushes.
    Ok(whole(layout.size_bytes, "delay", format!("{route} 0 0 {queue} 0 0 {route} 0 0")).to_vec())
}

pub(super) fn remove_hole(engine: &Engine, volume: VolumeId) -> Result<(), DmError> {
    [name::hole(volume), name::deny(volume), name::zero(volume)]
        .iter()
        .try_for_each(|name| engine.dm.remove(name))
}

/// What there is; `names`: of all devices.
pub(super) fn seen(engine: &Engine, site: &Site, names: &[String]) -> Result<Thin, StepError> {
    let has = |name: &String| names.contains(name);
    let volume = site.volume;
    let (hole, route, queue) = (name::hole(volume), name::route(volume), name::queue(volume));
    let mut thin = Thin {
        hole: [&hole, &name::deny(volume), &name::zero(volume)].into_iter().any(has),
        ..Thin::default()
    };
    if has(&route) {
        let hole = engine.dm.info(&hole)?.map(|info| info.number);
        thin.route = Some(led_to(&engine.dm.targets(&route)?, hole));
    }
    if has(&queue) {
        let (status, table) = (engine.dm.status(&queue)?, engine.dm.table(&queue)?);
        thin.queue = Some(Queue { path: gate::has_path(&status), queues: gate::queues(&table) });
    }
    Ok(thin)
}

/// How much of the array a route leads to, bytes: whole extents, of which the last may be cut where the volume's room ends.
fn led_to(route: &[Said], hole: Option<DeviceNumber>) -> u64 {
    let hole = hole.map(|number| format!("{number} "));
    let to_hole = |said: &&Said| hole.as_ref().is_some_and(|hole| said.parameters.starts_with(hole));
    let placed = route.iter().filter(|said| said.kind == "linear" && !to_hole(said));
    placed.map(|said| said.len_sectors.div_ceil(EXTENT_SECTORS) * SLAB_BYTES).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLE: DeviceNumber = DeviceNumber { major: 254, minor: 7 };

    #[test]
    fn a_route_leads_to_places_and_the_hole_and_is_read_back() {
        let mut places = ExtentTable::default();
        for extent in [0, 4, 2] {
            places.push(extent);
        }
        let table = route(6 * SLAB_BYTES + 4096, &places, "9:1", HOLE);
        let said: Vec<Said> = table
            .iter()
            .map(|target| Said {
                len_sectors: target.len_sectors,
                kind: target.kind.to_owned(),
                parameters: target.parameters.clone(),
            })
            .collect();
        let text: Vec<&str> = said.iter().map(|said| said.parameters.as_str()).collect();
        let pieces = ["9:1 0", "254:7 131072", "9:1 262144", "254:7 393216", "9:1 131072", "254:7 655360"];
        assert_eq!(text, pieces);
        assert_eq!((table[5].start_sectors, table[5].len_sectors), (5 * EXTENT_SECTORS, EXTENT_SECTORS + 8));
        assert_eq!(led_to(&said, Some(HOLE)), 3 * SLAB_BYTES);
    }

    /// As a kernel of 6.1 said it.
    #[test]
    fn counters_say_which_areas_were_written_and_not_which_were_read() {
        let text = "0+131072 0 0 0 0 0 0 0 0 0 0 0 0 0\n655360+131072 1 0 8 0 1 0 8 16 0 0 0 0 0\n\
                    786432+131072 3 0 8 0 0 0 0 0 0 0 0 0 0\nnonsense\n";
        assert_eq!(written_in(text), BTreeSet::from([655_360]));
        let found = Region { id: 2, start: 0, len: 2_097_152, step: 131_072 };
        assert_eq!(region("2: 0+2097152 131072 twinrack - "), Some(found));
        assert_eq!([region(""), region("2: 7"), region("x: 0+1 2")], [None; 3]);
    }
}
