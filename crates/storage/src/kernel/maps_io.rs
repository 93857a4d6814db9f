//! Bitmaps and maps, read from legs and written onto them; legs copied where they may differ.
//!
//! Invariants: what can't be read marks everything; what is written is read back; copying is flushed, its status checked, before it
//! counts. On failure: [`StepError`].

use super::block::Block;
use super::{AskDigests, Engine, StepError, md};
use crate::bitmap::Bitmap;
use crate::bug::Bug;
use crate::digest::{self, BATCH_BYTES, Digest, DigestKey, differing};
use crate::leg::{BLOCK_BYTES, Geometry, LegHeader, everything, padded};
use crate::maps::{self, LegMaps, MapTable};
use crate::name;
use crate::owner::{Prepare, Site, Way};
use crate::slab::Extent;
use control::state::Base;
use model::{Epoch, LegId, MapSequence};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::panic::resume_unwind;
use std::thread;

/// How much is copied at once, bytes.
const PIECE_BYTES: u64 = 1 << 20;

/// A leg that is read and written.
struct OpenLeg {
    way: Way,
    device: Block,
    maps: LegMaps,
    /// Where the next table goes, and under which count.
    place: usize,
    written: u32,
}

fn len(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn open(engine: &Engine, site: &Site, way: Way) -> Result<OpenLeg, StepError> {
    let geometry = &site.geometry;
    let device = Block::open(&engine.node_of(&way.device())?)?;
    let header = LegHeader::new(engine.settings.cluster, (site.volume, way.leg()), geometry.sizes());
    let failed = |source| StepError::Leg { device: way.device(), source };
    let found = LegHeader::decode(&device.read(0, len(BLOCK_BYTES))?).map_err(failed)?;
    if found != header {
        return Err(failed(crate::leg::LegError::Other { found }));
    }
    let read = |at, bytes| device.read(at, len(bytes)).ok();
    let bitmap = read(Geometry::BITMAP_OFFSET_BYTES, geometry.bitmap_bytes());
    let bitmap = bitmap.and_then(|bytes| Bitmap::from_bytes(geometry.chunks(), &bytes));
    let places = geometry
        .table_offsets_bytes()
        .map(|at| MapTable::decode(geometry, &read(at, geometry.table_bytes())?));
    let (table, place) = maps::newest(places);
    let written = table.as_ref().map_or(0, |table| table.written.wrapping_add(1));
    Ok(OpenLeg { way, device, maps: LegMaps { bitmap, table }, place, written })
}

impl OpenLeg {
    fn write_bitmap(&self, geometry: &Geometry, bitmap: &Bitmap) -> Result<(), StepError> {
        Ok(self.device.write_and_check(Geometry::BITMAP_OFFSET_BYTES, &padded(geometry, bitmap))?)
    }

    fn write_maps(
        &self,
        geometry: &Geometry,
        sequence: MapSequence,
        maps: &BTreeMap<LegId, Bitmap>,
    ) -> Result<(), StepError> {
        let table = MapTable { sequence, written: self.written, maps: maps.clone() };
        let bytes = table.encode(geometry).ok_or(StepError::TooManyMaps)?;
        Ok(self.device.write_and_check(geometry.table_offsets_bytes()[self.place], &bytes)?)
    }
}

/// Does the same with each at once, and returns when all have ended; the first error, if there is one.
fn at_once<I: Sync, T: Send>(
    all: &[I],
    work: impl Fn(&I) -> Result<T, StepError> + Sync,
) -> Result<Vec<T>, StepError> {
    let work = &work;
    thread::scope(|scope| {
        let begun: Vec<_> = all.iter().map(|one| scope.spawn(move || work(one))).collect();
        let ended = begun.into_iter().map(|one| one.join().unwrap_or_else(|panic| resume_unwind(panic)));
        ended.collect()
    })
}

/// Before an array starts.
pub(super) fn prepare(engine: &Engine, site: &Site, order: &Prepare) -> Result<(), StepError> {
    let geometry = &site.geometry;
    let ways: Vec<Way> = order.ways.iter().copied().collect();
    let legs = at_once(&ways, |way| open(engine, site, *way))?;
    let read = legs.iter().map(|leg| (leg.way.leg(), leg.maps.clone())).collect();
    let none = BTreeSet::new();
    let kept = if engine.bugs.has(Bug::ForgetMap) { &none } else { &order.stale };
    let prepared = maps::prepare(&everything(geometry), &read, order.known, kept);
    at_once(&legs, |leg| {
        leg.write_maps(geometry, order.sequence, &prepared.maps)?;
        leg.write_bitmap(geometry, &prepared.union)
    })?;
    if order.make_equal {
        make_equal(engine, geometry, &legs, &prepared.union)?;
    }
    Ok(())
}

/// Copies what differs from one leg, a local one if there is one, to the others.
fn make_equal(
    engine: &Engine,
    geometry: &Geometry,
    legs: &[OpenLeg],
    union: &Bitmap,
) -> Result<(), StepError> {
    let source = legs.iter().position(|leg| leg.way.local).unwrap_or(0);
    let (before, rest) = legs.split_at(source);
    let Some((source, after)) = rest.split_first() else { return Ok(()) };
    let others: Vec<&OpenLeg> = before.iter().chain(after).collect();
    let mut silent = BTreeSet::new();
    for chunk in union.runs().flatten() {
        let (from, bytes) = geometry.chunk(chunk);
        for at in (from..from + bytes).step_by(len(BATCH_BYTES)) {
            let stretch = Extent { offset_bytes: at, len_bytes: BATCH_BYTES.min(from + bytes - at) };
            equal_in(engine, source, &others, stretch, &mut silent)?;
        }
    }
    for leg in legs {
        leg.device.flush()?;
    }
    Ok(())
}

/// The same, of one stretch. All nodes digest at once, each its own leg; what has no digest is read. Who did not answer once is not asked again: it may
/// take its time each time.
fn equal_in(
    engine: &Engine,
    source: &OpenLeg,
    others: &[&OpenLeg],
    stretch: Extent,
    silent: &mut BTreeSet<LegId>,
) -> Result<(), StepError> {
    let key = engine.ask.as_ref().and_then(|ask| Some((ask, new_key()?)));
    let (own, answers) = thread::scope(|scope| {
        let ask = |leg: &&OpenLeg| {
            let (AskDigests(ask), key) = key.filter(|_| !silent.contains(&leg.way.leg()))?;
            let given = leg.way.given;
            Some(scope.spawn(move || ask(given, stretch, key)))
        };
        let asked: Vec<_> = others.iter().map(ask).collect();
        let key = key.filter(|_| asked.iter().any(Option::is_some));
        let own = key.map(|(_, key)| digests(&source.device, stretch, key)).transpose()?;
        // A thread that panicked has said nothing.
        let answers: Vec<_> = asked.into_iter().map(|asked| asked?.join().ok().flatten()).collect();
        Ok::<_, StepError>((own.unwrap_or_default(), answers))
    })?;
    for (leg, theirs) in others.iter().zip(answers) {
        if theirs.is_none() {
            silent.insert(leg.way.leg());
        }
        for range in differing(stretch.len_bytes, &own, &theirs.unwrap_or_default()) {
            copy(source, leg, stretch.offset_bytes + range.start..stretch.offset_bytes + range.end)?;
        }
    }
    Ok(())
}

/// Without one nothing is compared by digests.
fn new_key() -> Option<DigestKey> {
    let mut key = [0; 16];
    getrandom::fill(&mut key).ok()?;
    Some(DigestKey(key))
}

/// Reads both, and writes where they differ.
fn copy(source: &OpenLeg, leg: &OpenLeg, range: Range<u64>) -> Result<(), StepError> {
    for at in range.clone().step_by(len(PIECE_BYTES)) {
        let piece = len(PIECE_BYTES.min(range.end - at));
        let data = source.device.read(at, piece)?;
        if leg.device.read(at, piece)? != data {
            leg.device.write(at, &data)?;
        }
    }
    Ok(())
}

/// Of a stretch of a leg.
pub(super) fn digests(device: &Block, of: Extent, key: DigestKey) -> Result<Vec<Digest>, StepError> {
    let end = of.offset_bytes.saturating_add(of.len_bytes);
    let mut found = Vec::new();
    for at in (of.offset_bytes..end).step_by(len(PIECE_BYTES)) {
        found.extend(digest::digests(key, &device.read(at, len(PIECE_BYTES.min(end - at)))?));
    }
    Ok(found)
}

/// The legs of the array that are in sync, opened.
fn in_sync(engine: &Engine, site: &Site, epoch: Epoch) -> Result<Vec<OpenLeg>, StepError> {
    let seen = engine.seen_owner(site)?;
    let array = seen.array.filter(|array| array.epoch == epoch);
    let array = array.ok_or_else(|| StepError::Missing { what: name::array(site.volume, epoch) })?;
    let members = array.members.iter().filter(|(_, member)| member.words.contains("in_sync"));
    let ways = members.filter_map(|(leg, _)| seen.gates.get(leg)?.way());
    ways.map(|way| open(engine, site, way)).collect()
}

/// The sequence of the tables on the array's legs, for [`crate::owner::found`].
pub(super) fn sequence(engine: &Engine, site: &Site, epoch: Epoch) -> Result<MapSequence, StepError> {
    let legs = in_sync(engine, site, epoch)?;
    let sequences = legs.iter().filter_map(|leg| Some(leg.maps.table.as_ref()?.sequence));
    Ok(sequences.min().unwrap_or_default())
}

/// Before a leg gets its place: what it has missed, what the array has marked now, and what it has marked itself, onto the array's
/// legs and onto the leg; and the maps of all others onto the leg.
pub(super) fn mark(
    engine: &Engine,
    site: &Site,
    epoch: Epoch,
    way: Way,
    base: Base,
) -> Result<(), StepError> {
    let geometry = &site.geometry;
    let everything = everything(geometry);
    let leg = open(engine, site, way)?;
    let legs = in_sync(engine, site, epoch)?;
    let newest = legs.iter().filter_map(|leg| leg.maps.table.as_ref()).max_by_key(|table| table.sequence);
    let known = newest.map_or(MapSequence(0), |table| table.sequence);
    let mut marks = match base {
        Base::Changes => maps::missed(&everything, legs.iter().map(|leg| &leg.maps), known, way.leg()),
        Base::Scratch => everything.clone(),
    };
    for bitmap in legs.iter().chain([&leg]).map(|leg| &leg.maps.bitmap) {
        marks.add(bitmap.as_ref().unwrap_or(&everything));
    }
    md::mark(&name::array(site.volume, epoch), &marks)?;
    if let Some(table) = newest {
        leg.write_maps(geometry, table.sequence, &table.maps)?;
    }
    leg.write_bitmap(geometry, &marks)
}

/// After it has its place: md writes a page of its bitmap onto every leg that has one only when it marks something in it.
pub(super) fn mark_again(engine: &Engine, site: &Site, epoch: Epoch) -> Result<(), StepError> {
    let everything = everything(&site.geometry);
    let mut marks = Bitmap::none(everything.chunks());
    for leg in in_sync(engine, site, epoch)? {
        marks.add(leg.maps.bitmap.as_ref().unwrap_or(&everything));
    }
    Ok(md::mark(&name::array(site.volume, epoch), &marks.touching_every_page())?)
}
